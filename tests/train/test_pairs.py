"""Pairs of texts: every form of file, every bad line by its number, no source on both sides; a vocabulary of their own."""

from __future__ import annotations

import gzip
from pathlib import Path
from random import Random

import pytest

from hornbook.errors import DataError, UsageError
from hornbook.text.tokenizer import Tokenizer
from hornbook.train.pairs import Pair, hold_out, read_pairs
from hornbook.train.vocabulary import SMALLEST, byte_pairs

CHINESE = [Pair("你好，世界。", "Hello, world.", 1), Pair("谢谢\u2028你", "Thank you", 3)]


def test_columns_and_json_lines_plain_or_compressed_are_the_same_pairs(tmp_path: Path) -> None:
    columns = "\ufeff你好，世界。\tHello, world.\r\n\n谢谢\u2028你\tThank you".encode()
    lines = '{"source": "你好，世界。", "target": "Hello, world.", "id": 7}\n \n{"source": "谢谢\\u2028你", "target": "Thank you"}\n'
    files = {"a.tsv": columns, "a.tsv.gz": gzip.compress(columns), "a.jsonl": lines.encode()}
    files["a.jsonl.gz"] = gzip.compress(files["a.jsonl"])
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert read_pairs(tmp_path / name) == CHINESE, name


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.tsv", b"a\tb\n\nc d\n", "line 3 has no tab: 'c d'"),
        ("a.tsv", b"a\tb\tc\n", "line 1 has 3 columns"),
        ("a.tsv", b"a\t \n", "line 1 has an empty target"),
        ("a.tsv", b"\n\n", "holds no pairs"),
        ("a.tsv", "a\tb\nä\tö".encode("latin-1"), "line 2: byte 1 is not UTF-8"),
        ("a.jsonl", b'{"source": "a", "target": "b"}\n{"source": "a"', "line 2 is not JSON"),
        ("a.jsonl", b'{"source": "a", "target": 5}', "line 1 has no texts named source and target"),
        (
            "a.jsonl",
            rb'{"source": "\ud83d\ude00", "target": "b"}' + b"\n" + rb'{"source": "a", "target": "b\ud800"}',
            "line 2 has half of a surrogate pair",
        ),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.tsv.gz", b"a\tb\n", "cannot be read"),
        ("a.tsv.gz", gzip.compress(b"a\tb\n" * 999)[:-9], "cannot be read"),
    ],
)
def test_what_is_no_pair_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_pairs(tmp_path / name)
    assert said in raised.value.what and name in raised.value.what and raised.value.remedy


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_pairs(tmp_path / "none.tsv")


def test_no_source_is_on_both_sides() -> None:
    pairs = [Pair(f"s{i % 40}", f"t{i}", i) for i in range(100)]
    learnt, asked = hold_out(pairs, 10, Random(0))
    assert {p.source for p in learnt}.isdisjoint(p.source for p in asked)
    assert sorted(p.line for p in learnt + asked) == list(range(100)) and 10 <= len(asked) <= 12
    assert hold_out(pairs, 10, Random(0)) == (learnt, asked) != hold_out(pairs, 10, Random(1))
    with pytest.raises(DataError, match="100 pairs with 100 held out leave none"):
        hold_out(pairs, 100, Random(0))


TEXTS = ["the cat sat on the mat", "猫はマットの上に座った", "猫坐在垫子上。 ", " naïve\t👩‍👩‍👧 </s> \u0000é"]


def test_a_vocabulary_over_bytes_says_any_text_and_ends_it(tmp_path: Path) -> None:
    tokenizer = byte_pairs(TEXTS[:1] * 3, 300)
    assert tokenizer.pad_id == tokenizer.vocab_size - 1 <= 299
    assert tokenizer.count("the the cat") < len("the the cat"), "pairs of bytes were merged"
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids[-1] == tokenizer.eos_id not in ids[:-1], "the end that a text spells out is text"
        assert tokenizer.decode(ids) == text
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert (again.eos_id, again.pad_id, again.stop_ids) == (tokenizer.eos_id, tokenizer.pad_id, tokenizer.stop_ids)
    with pytest.raises(UsageError, match=f"of {SMALLEST - 1} tokens"):
        byte_pairs(TEXTS, SMALLEST - 1)
