"""Modelfiles are read as Ollama reads them, written so that they are read as the same again, and refused with their line."""

from __future__ import annotations

import random
import time

import pytest

from hornbook.checkpoint.modelfile import NEUTRAL, UNFELT, Modelfile, parameter, parse
from hornbook.engine.parameters import sampling_fields
from hornbook.errors import UsageError

REAL = '''\ufeff# made for a test
from ./weights/model.gguf
PARAMETER temperature 1
parameter stop "<|im_end|>"
PARAMETER stop <|im_start|>
PARAMETER num_predict -1

TEMPLATE """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}"""
System """
  You are "Mario".
# this is no comment
"""
MESSAGE user Is "Toronto" in Canada?
MESSAGE assistant yes
MESSAGE user "two
lines"
LICENSE """
MIT
"""
license Apache
'''


def test_everything_a_modelfile_says_is_read() -> None:
    read = parse(REAL.replace("\n", "\r\n"))
    assert read == parse(REAL)
    assert read.base == "./weights/model.gguf"
    assert read.parameters == {"temperature": 1.0, "stop": ("<|im_end|>", "<|im_start|>"), "num_predict": -1}
    assert read.template == "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    assert read.system == '\n  You are "Mario".\n# this is no comment\n'
    assert read.messages == (("user", 'Is "Toronto" in Canada?'), ("assistant", "yes"), ("user", "two\nlines"))
    assert read.licences == ("\nMIT\n", "Apache")
    assert parse(str(read)) == read


def test_what_is_written_is_read_as_the_same() -> None:
    draw = random.Random(5)
    letters = ['"', '""', " ", "\n", "#", "a", "語", "\t", "FROM x", "'", "\\n", "{{ .System }}", "\\", "=", "'''"]
    kept = 0
    for _ in range(2000):
        text = "".join(draw.choices(letters, k=draw.randint(0, 7)))
        said = Modelfile(
            "a b",
            {"stop": (text or "x", "y"), "top_p": 0.95, "seed": 2**53 + 1},
            text,
            text,
            None,
            (("user", text),),
            (text,),
        )
        try:
            plain = said.writable()
        except UsageError:
            assert '"' in text
            continue
        kept += 1
        assert parse(str(plain)) == plain
    assert kept > 1800


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("FROM a\nFORM b", 2, "'FORM'"),
        ("\n# x\nFROM", 3, "FROM has no value"),
        ('FROM a\nSYSTEM """x\ny', 2, "has no end"),
        ("FROM a\nFROM b", 2, "second FROM"),
        ("FROM a\nPARAMETER mirostat 1", 2, "mirostat"),
        ("FROM a\nPARAMETER tfs_z 0.5", 2, "tfs_z is not supported"),
        ("FROM a\nPARAMETER typical_p x", 2, "typical_p is not supported"),
        ("FROM a\nPARAMETER penalize_newline false", 2, "penalize_newline is not supported"),
        ("FROM a\nPARAMETER vocab_only true", 2, "vocab_only is not supported"),
        ("FROM a\nPARAMETER use_mmap perhaps", 2, "'perhaps'"),
        ("FROM a\nPARAMETER num_gpu 1.5", 2, "whole"),
        ("FROM a\nPARAMETER num_thread many", 2, "'many'"),
        ("FROM a\nPARAMETER colour red", 2, "colour"),
        ("FROM a\nPARAMETER temperature warm", 2, "'warm'"),
        ("FROM a\nPARAMETER top_p 1.5", 2, "from 0 to 1"),
        ("FROM a\nPARAMETER top_k 1.5", 2, "whole"),
        ("FROM a\nPARAMETER seed 1\nPARAMETER seed 2", 3, "second seed"),
        ("FROM a\nMESSAGE judge hi", 2, "'judge'"),
        ("FROM a\nRENDERER qwen3", 2, "RENDERER"),
        ("FROM a\nPARAMETER temperature", 2, "no value"),
    ],
)
def test_a_fault_is_told_with_its_line(text: str, line: int, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert f"line {line}:" in caught.value.what
    assert word in caught.value.what


def test_what_says_how_fast_a_model_runs_is_checked_and_kept() -> None:
    """Also the neutral values of filters that are not to be had, and all of it in the round trip."""
    lines = [f"PARAMETER {name} {2 if bounds else 'TRUE'}" for name, bounds in UNFELT.items()]
    lines += [f"PARAMETER {name} {value}" for name, value in NEUTRAL.items()]
    said = parse("\n".join(["FROM a", *lines, "PARAMETER top_k 3"]))
    assert said.parameters.keys() == {*UNFELT, *NEUTRAL, "top_k"}
    assert said.parameters["use_mmap"] is True
    assert said.parameters["vocab_only"] is False
    assert "PARAMETER use_mmap true\n" in str(said)
    assert parse(str(said)) == said
    assert sampling_fields(said.parameters) == {"top_k": 3}
    assert parameter("use_mlock", False) is False
    assert parameter("num_gpu", 99) == 99
    with pytest.raises(UsageError, match="true or false"):
        parameter("use_mlock", [True])


def test_a_long_modelfile_is_read_in_time() -> None:
    begun = time.monotonic()
    assert len(parse('FROM a\nLICENSE """' + "terms\n" * 300_000 + '"""').licences[0]) == 1_800_000
    with pytest.raises(UsageError, match="line 2"):
        parse('FROM a\nSYSTEM "' + "x\n" * 300_000)
    assert time.monotonic() - begun < 10


def test_without_from_there_is_no_model() -> None:
    with pytest.raises(UsageError, match="no FROM"):
        parse("SYSTEM hello")


def test_what_a_modelfile_leaves_open_is_the_bases() -> None:
    base = parse("FROM w\nPARAMETER top_k 3\nPARAMETER stop a\nSYSTEM s\nTEMPLATE t\nMESSAGE user u\nLICENSE l")
    over = parse("FROM base\nPARAMETER stop b\nSYSTEM mine\nLICENSE m").over(base)
    assert over == Modelfile("w", {"top_k": 3, "stop": ("b",)}, "t", "mine", None, (("user", "u"),), ("l", "m"))
