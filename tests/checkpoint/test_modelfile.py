"""Modelfiles are read as Ollama reads them, written so that they are read as the same again, and refused with their line."""

from __future__ import annotations

import random
import time

import pytest

from hornbook.checkpoint.modelfile import Modelfile, parse
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
