"""A chat template is a stranger's program: it gets no way out, and only so much time and memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hornbook.errors import TemplateError
from hornbook.text import meter
from hornbook.text.sandbox import Program

GIVEN = {"messages": [{"role": "user", "content": "hello"}], "_generation_marks": ("", "")}

ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ messages[0].pop('role') }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{{ lipsum() }}",
    "{{ __import__('os') }}",
]

GROW = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"
BOMBS = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
    "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "{% for i in range(99999) %}{{ (range(99999)|list)|sort|length }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ '%s' * 10**9 }}",
    "{{ 10**9 * [1] }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.zfill(width=10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ ('a' * 1000000)|list|map('upper')|map('indent', 99999, true)|join }}",
    "{{ (10**1000)**1000 }}",
    "{{ (5).to_bytes(10**9, 'big') }}",
    "{{ 5|round(-1000000000) }}",
    "{{ strftime_now('%1000000000Y') }}",
    "{{ ('a'*99999).join('b'*99999) }}",
    "{{ ('b'*99999)|list|join('a'*99999) }}",
    "{{ range(99999)|join('a'*99999) }}",
    "{{ ('a'*99999).replace('a', 'b'*99999) }}",
    "{{ ('a'*99999)|replace('', 'b'*99999) }}",
    "{{ ('a'*99999).translate({97: 'b'*99999}) }}",
    "{{ ('\\t'*99999).expandtabs(99999) }}",
    "{{ ('a\\n'*99999)|indent(99999) }}",
    "{{ [1, [2]]|tojson(indent=10**9) }}",
    "{{ [[1]]|tojson(indent=99999) }}",
    *[
        GROW.replace("START", start).replace("STEP", step)
        for start, step in [
            *[("'a'", "ns.x ~ ns.x"), ("'a'", "ns.x + ns.x"), ("[1]", "ns.x + ns.x"), ("1", "[ns.x, ns.x]")],
            *[("1", "(ns.x, ns.x)"), ("1", "{'a': ns.x, 'b': ns.x}"), ("1", "dict(a=ns.x, b=ns.x)")],
            ("1", "namespace(a=ns.x, b=ns.x)"),
        ]
    ],
    "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
    "{% set s = 'a'*1000000 %}{{ [s]*400000 }}",
    "{% set s = 'a'*1000000 %}{{ ([s]*100000)|tojson }}",
    "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + [('a'*1000000)[i:]] %}{% endfor %}",
    "{% set x %}{% for i in range(99999) %}{{ 'a'*100000 }}{% endfor %}{% endset %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "x" * (1 << 21),
]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is enough to see that the clock stops a run."""
    monkeypatch.setattr(meter, "MAX_SECONDS", 1.0)


@pytest.mark.parametrize("source", ESCAPES)
def test_there_is_no_way_out(source: str) -> None:
    with pytest.raises(TemplateError):
        Program(source).run(GIVEN)


@pytest.mark.parametrize("source", BOMBS, ids=range(len(BOMBS)))
def test_a_bomb_is_refused_in_time(hasty: None, source: str) -> None:
    start = time.process_time()
    with pytest.raises(TemplateError):
        Program(source).run(GIVEN)
    assert time.process_time() - start < 8


@pytest.mark.skipif(sys.platform == "win32", reason="there is no resource module")
def test_bombs_take_little_memory() -> None:
    """All of them one after the other, in a process of their own: its peak stays small."""
    code = f"""
        import resource
        from hornbook.errors import TemplateError
        from hornbook.text import meter
        from hornbook.text.sandbox import Program
        meter.MAX_SECONDS = 0.5
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for source in {BOMBS!r}:
            try:
                Program(source).run({GIVEN!r})
            except TemplateError:
                continue
            raise SystemExit("passed: " + source[:80])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print((peak - before) // (1 << 20 if __import__("sys").platform == "darwin" else 1 << 10))
    """
    out = subprocess.run([sys.executable, "-"], input=textwrap.dedent(code), capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) < 300  # MiB; 18 measured


def test_errors_are_one_line() -> None:
    for source in ["{{ x.y.z }}", "{{ 1 // 0 }}", "{% if %}", "{{ raise_exception('a\nb' * 500) }}", "{{ 'a'|nope }}"]:
        with pytest.raises(TemplateError) as error:
            Program(source).run(GIVEN)
        assert "\n" not in error.value.what and len(error.value.what) < 300
        assert error.value.remedy


def test_a_long_conversation_is_no_bomb() -> None:
    source = "{% for m in messages %}{{ '<' + m.role + '>' + m.content | trim ~ '\n' }}{% endfor %}"
    given: dict[str, Any] = {"messages": [{"role": "user", "content": "word " * 400}] * 3000}
    assert len(Program(source).run(given)) > 3000 * 1990


def test_threads_may_share_a_program() -> None:
    program = Program("{% for i in range(count) %}{{ word }}{% endfor %}")
    with ThreadPoolExecutor(8) as pool:
        out = list(pool.map(lambda n: program.run({"word": str(n), "count": n}), range(100)))
    assert out == [str(n) * n for n in range(100)]


def test_loops_keep_their_variables() -> None:
    source = "{% for x in xs %}{{ loop.index }}/{{ loop.length }}{{ loop.previtem }}{{ '.' if loop.last }}{% else %}none{% endfor %}"
    assert Program(source).run({"xs": "ab"}) == "1/22/2a."
    assert Program(source).run({}) == "none"
