"""Reading: every format gives the same examples, every fault is told by file and line, and nothing is lost in silence."""

from __future__ import annotations

import bz2
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from hornbook.data import records
from hornbook.data.example import Pair, Place, Text
from hornbook.data.read import Source, examples, read
from hornbook.errors import DataError, UsageError

ROWS = [
    {"text": "Schöne Grüße, 世界\u2028und mehr", "id": 1},
    {"text": 'two\nlines, a "quote" and\ta tab', "id": 2},
    {"text": "いろはにほへと", "id": 3},
]
TEXTS = [row["text"] for row in ROWS]


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write(path: Path, content: bytes) -> Source:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Source(str(path))


def parquet(path: Path, rows: list[dict[str, Any]], group: int = 2) -> Source:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)
    return Source(str(path))


def csv_of(rows: list[dict[str, Any]], separator: str = ",") -> bytes:
    quoted = [[str(value).replace('"', '""') for value in row.values()] for row in rows]
    body = "".join(separator.join(f'"{value}"' for value in row) + "\r\n" for row in quoted)
    return (separator.join(rows[0]) + "\r\n" + body).encode()


def test_the_same_rows_are_the_same_examples_in_every_format_packed_or_not(tmp_path: Path) -> None:
    forms = {
        "a.jsonl": lines(ROWS),
        "b.ndjson": b"\xef\xbb\xbf" + lines(ROWS).replace(b"\n", b"\r\n\r\n"),
        "c.json": json.dumps(ROWS).encode(),
        "d.json": json.dumps(ROWS, indent=1, ensure_ascii=False).encode("utf-8-sig"),
        "e.json": lines(ROWS),
        "f.csv": csv_of(ROWS),
        "g.csv": csv_of(ROWS, ";"),
    }
    parquet(tmp_path / "h.parquet", ROWS)
    forms["i.parquet"] = (tmp_path / "h.parquet").read_bytes()
    for name, content in forms.items():
        write(tmp_path / name, content)
        half = len(content) // 2  # members and frames may follow each other
        write(tmp_path / f"{name}.gz", gzip.compress(content[:half]) + gzip.compress(content[half:]))
        packed = [zstandard.compress(part) for part in (content[:half], content[half:])]
        write(tmp_path / f"{name}.zst", b"".join(packed))
    names = ["h.parquet", *(name + packing for name in forms for packing in ("", ".gz", ".zst"))]
    for name in names:
        found = list(read([Source(str(tmp_path / name))]))
        assert [example.text for example in found] == TEXTS, name  # type: ignore[union-attr]
        assert all(example.place and example.place.file.endswith(name) for example in found)
    assert len(list(read([Source(str(tmp_path))]))) == 3 * len(names)
    assert len(list(read([Source(str(tmp_path / "[ab].*"))]))) == 18


def test_places_are_the_lines_of_the_file_and_the_rows_of_a_parquet(tmp_path: Path) -> None:
    def of(source: Source) -> list[int]:
        return [example.place.line for example in read([source]) if example.place]

    assert of(write(tmp_path / "a.jsonl", b"\n" + lines(ROWS).replace(b"\n", b"\n\n"))) == [2, 4, 6]
    assert of(write(tmp_path / "a.json", json.dumps(ROWS, indent=1).encode())) == [2, 6, 10]
    assert of(write(tmp_path / "a.csv", csv_of(ROWS))) == [2, 3, 5], "the second row has two lines"
    assert of(parquet(tmp_path / "a.parquet", ROWS)) == [1, 2, 3]
    assert str(Place("a.parquet", 3)) == "a.parquet, row 3" and str(Place("a.csv", 3)) == "a.csv, line 3"


def test_text_is_cut_as_it_is_asked(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "\ufeffOne\r\n二\r\n\r\n \r\nThree".encode())
    path = str(tmp_path / "a.txt")
    place = Place(path, 1)
    assert list(read([Source(path)])) == [Text("One\n二\n\n \nThree", place)]
    assert list(read([Source(path, split="blank-line")])) == [Text("One\n二", place), Text("Three", Place(path, 5))]
    assert [(e.text, e.place.line) for e in read([Source(path, split="line")])] == [("One", 1), ("二", 2), ("Three", 5)]  # type: ignore[union-attr]
    write(tmp_path / "corpus.en", b"no suffix that says it")
    assert len(list(read([Source(str(tmp_path / "corpus.en"), shape="text")]))) == 1


def test_tables_without_a_header_have_the_columns_of_their_shape(tmp_path: Path) -> None:
    table = '你好。\tHello "there".\n"quoted\tgood\n'.encode()
    place = Place(str(tmp_path / "a.tsv"), 1)
    (
        write(tmp_path / "a.tsv", table),
        write(tmp_path / "a.txt", table),
        write(tmp_path / "b.tsv", b"target\tsource\nx\ty\n"),
    )
    pairs = list(read([Source(place.file, shape="pair")]))
    assert pairs == [Pair("你好。", 'Hello "there".', place), Pair('"quoted', "good", Place(place.file, 2))]
    assert len(list(read([Source(str(tmp_path / "a.txt"), shape="pair")]))) == 2
    assert [(e.source, e.target) for e in read([Source(str(tmp_path / "b.tsv"))])] == [("y", "x")]  # type: ignore[union-attr]
    assert [e.label for e in read([Source(place.file, shape="labelled")])][1] == "good"  # type: ignore[union-attr]


def test_columns_of_any_name_are_mapped_also_inside_others(tmp_path: Path) -> None:
    rows = [{"text": "Q", "reply": {"best": "A"}, "label": "x"}]
    for source in (write(tmp_path / "a.jsonl", lines(rows)), parquet(tmp_path / "a.parquet", rows)):
        mapped = Source(source.path, fields={"text": "prompt", "reply.best": "completion"})
        assert [[turn.content for turn in e.messages] for e in read([mapped])] == [["Q", "A"]]  # type: ignore[union-attr]
        with pytest.raises(DataError, match=r"(line|row) 1: it has no column 'reply.worst': its fields are"):
            list(read([Source(source.path, fields={"text": "prompt", "reply.worst": "completion"})]))


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.tsv", b"a\tb\n\nc d\n", "line 3: it has 1 column, not 2: 'c d'"),
        ("a.tsv", b"a\tb\tc\n", "line 1: it has 3 columns, not 2"),
        ("a.tsv", b"a\t \n", "line 1: it has an empty target"),
        ("a.tsv", "a\tb\nä\tö".encode("latin-1"), "line 2: byte 1 is not UTF-8"),
        ("a.jsonl", b'{"source": "a", "target": 5}', "line 1: its target is a int, not a text"),
        ("a.jsonl", b'{"source": "a"}', "line 1: it has no target"),
        ("a.tsv.gz", b"a\tb\n", "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(DataError) as raised:
        list(read([Source(write(tmp_path / name, content).path, shape="pair")]))
    assert said in raised.value.what and name in raised.value.what and raised.value.remedy


GOOD = b'{"text": "good"}\n'


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.jsonl", GOOD + b'\n{"text": "a"', "line 3: it is not JSON"),
        ("a.jsonl", GOOD + b"[1]\n", "line 2: it is not a JSON object: '[1]'"),
        ("a.jsonl", GOOD + b"[" * 100_000, "line 2: it is nested too deeply"),
        ("a.jsonl", GOOD + '{"text": "ä"}'.encode("latin-1"), "line 2: byte 11 is not UTF-8"),
        ("a.jsonl", GOOD.decode().encode("utf-16"), "line 1: the text is UTF-16"),
        ("a.jsonl", rb'{"text": "\ud83d\ude00"}' + b"\n" + rb'{"text": "x\ud800"}', "line 2: it has half of a surrogate"),
        ("a.jsonl", GOOD + b'{"text": 5}', "line 2: its text is a int, not a text"),
        ("a.jsonl", GOOD + b'{"text": " "}', "line 2: it has an empty text"),
        ("a.jsonl", GOOD + b'{"question": "?", "n": 1}', "line 2: its fields are n, question, which no shape has"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n \n", "is empty"),
        ("a.txt", b" \n", "is empty"),
        ("a.txt", b"a\n\xff", "line 2: byte 3 of the file is not UTF-8"),
        ("a.json", b"[" + GOOD + b"," + GOOD, "line 3: the array has no end"),
        ("a.json", b"[" + GOOD + GOOD + b"]", "line 2: a comma was expected"),
        ("a.json", b"[" + GOOD + b',{"text": nonsense and more than sixteen}]', "line 2: it is not JSON: Expecting value"),
        ("a.json", b"[" + GOOD + b"]x", "line 2: something follows"),
        ("a.json", b'[{"text":\n"\xff"}]', "line 2: it is not UTF-8"),
        ("a.csv", b'text\n"open', "line 2: it is no row"),
        ("a.csv", b"text,id\nx,1\ny\n", "line 3: it has 1 column, not 2: 'y'"),
        ("a.csv", b"wrong,names\nx,y\n", "line 1 names no columns that a shape has: wrong, names"),
        ("a.csv", b"text,n,text\nx,1,y\n", "has two columns named 'text'"),
        ("a.csv", b"text\n\xff\n", "line 2: byte 1 is not UTF-8"),
        ("a.parquet", b"PAR1 but no more", "cannot be read"),
        ("a.jsonl.gz", GOOD, "cannot be read: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(GOOD * 999, mtime=0)[:-9], "cannot be read"),
        ("a.jsonl.gz", gzip.compress(GOOD, mtime=0)[:-8] + bytes(8), "cannot be read: CRC check failed"),
        ("a.jsonl.zst", zstandard.compress(GOOD * 999)[:-3], "ends in the middle of a zstandard frame"),
        ("a.jsonl.zst", GOOD, "cannot be read"),
        ("a.jsonl.bz2", bz2.compress(GOOD), "format of"),
    ],
)  # fmt: skip
def test_what_is_no_example_stops_with_file_and_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(DataError) as raised:
        list(read([write(tmp_path / name, content)]))
    assert said in raised.value.what and name in raised.value.what and raised.value.remedy


def test_malformed_lines_are_skipped_only_when_asked_and_each_is_told(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", GOOD + b"{\n" + GOOD + b'{"text": ""}\n\xff\n{"x": 1}\n' + GOOD)
    told: list[tuple[Place, str]] = []
    found = list(read([source], malformed="skip", skipped=lambda place, why: told.append((place, why))))
    assert [example.place.line for example in found if example.place] == [1, 3, 7]
    assert [place.line for place, _ in told] == [2, 4, 5, 6] and all(why for _, why in told)
    truncated = write(tmp_path / "b.jsonl.gz", gzip.compress(lines(ROWS) * 999)[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        list(read([truncated], malformed="skip"))
    with pytest.raises(
        DataError, match="no example was found in .*the first that was skipped: .*line 1: its fields are x"
    ):
        list(read([write(tmp_path / "c.jsonl", b'{"x": 1}\n')], malformed="skip"))


def test_a_parquet_of_other_columns_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column that a shape knows: question, choices"):
        list(read([parquet(tmp_path / "a.parquet", [{"question": "?", "choices": ["a"]}])]))


def test_a_row_of_a_parquet_that_is_not_utf8_is_one_row(tmp_path: Path) -> None:
    texts = pyarrow.array([b"good", b"\xff\xfe", "世界".encode()]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    source, told = Source(str(tmp_path / "a.parquet")), list[str]()
    found = list(read([source], malformed="skip", skipped=lambda place, why: told.append(f"{place}: {why}")))
    assert [example.text for example in found] == ["good", "世界"]  # type: ignore[union-attr]
    assert len(told) == 1 and "a.parquet, row 2: a text is not UTF-8" in told[0]


def test_objects_in_a_parquet_lose_what_others_have_and_they_have_not(tmp_path: Path) -> None:
    def said(**arguments: str) -> list[dict[str, Any]]:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        return [{"role": "user", "content": "?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]

    source = parquet(tmp_path / "a.parquet", [{"messages": said(city="京都")}, {"messages": said(day="1")}])
    found = [example.messages[1].tool_calls[0].arguments for example in read([source])]  # type: ignore[union-attr]
    assert found == [{"city": "京都"}, {"day": "1"}]


def test_a_line_of_a_hundred_megabytes_is_read_and_one_without_an_end_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = write(tmp_path / "a.jsonl", b'{"text": "' + b"x" * 100_000_000 + b'"}\n')
    assert len(next(read([long])).text) == 100_000_000  # type: ignore[union-attr]
    monkeypatch.setattr(records, "LONGEST", 1 << 20)
    packer = zlib.compressobj(wbits=31)
    endless = packer.compress(b'{"text": "' + b"x" * 50_000_000) + packer.flush()
    for name in ("b.jsonl.gz", "b.json.gz", "b.txt.gz"):
        with pytest.raises(DataError, match=r"b.*, line 1: .* is longer than"):
            list(read([write(tmp_path / name, endless)]))
    lines_without_a_blank = Source(write(tmp_path / "c.txt", b"line\n" * 300_000).path, split="blank-line")
    with pytest.raises(DataError, match="line 1: the text that begins here is longer than"):
        list(read([lines_without_a_blank]))


def test_an_array_is_read_before_all_of_it_is_there(tmp_path: Path) -> None:
    rows = [{"text": f"{i} " + "x" * 3000} for i in range(400)]
    source = write(tmp_path / "a.json", json.dumps(rows).encode()[:-500_000])
    reading = read([source])
    assert [next(reading).text[:4].split()[0] for _ in range(200)] == [str(i) for i in range(200)]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="it is not JSON: Unterminated string"):
        list(reading)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.txt"])
def test_reading_goes_on_behind_any_example(tmp_path: Path, name: str) -> None:
    rows = [{"text": f"row {i}"} for i in range(7)]
    if name == "a.parquet":
        source = parquet(tmp_path / name, rows)
    else:
        forms = {
            "a.json": json.dumps(rows).encode(),
            "a.csv": csv_of(rows),
            "a.txt": b"\n".join(f"row {i}\n".encode() for i in range(7)),
        }
        source = Source(write(tmp_path / name, forms.get(name, lines(rows))).path, split="blank-line")
    whole = list(examples(tmp_path / name, source))
    assert len(whole) == 7
    for at, reached in enumerate(whole):
        assert list(examples(tmp_path / name, source, start=(reached.record, reached.within + 1))) == whole[at + 1 :]


def test_what_is_asked_wrongly_is_refused_before_a_file_is_opened(tmp_path: Path) -> None:
    for wrong, said in (
        ({"shape": "shapeless"}, "no shape 'shapeless'"), ({"split": "page"}, "not split by 'page'"),
        ({"weight": 0.0}, "weight of"), ({"fields": {"q": "question"}}, "no shape has a field 'question'"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            Source("a.jsonl", **wrong)  # type: ignore[arg-type]
    for path, said in (
        (tmp_path / "none.jsonl", "does not exist"),
        (tmp_path / "*.jsonl", "no file matches"),
        (tmp_path, "holds no data files"),
    ):
        with pytest.raises(DataError, match=said):
            list(read([Source(str(path))]))
    with pytest.raises(DataError, match="holds text, not the shape alpaca"):
        list(read([Source(write(tmp_path / "a.txt", b"text").path, shape="alpaca")]))


ACROSS = {
    "instructions/dolly_hhrlhf_small.jsonl.gz": ({}, 500), "instructions/glaive_toolcall_en_demo.jsonl.gz": ({}, 150),
    "instructions/glaive_toolcall_zh_demo.jsonl.gz": ({}, 150), "instructions/self_instruct_seed_tasks.jsonl.gz": ({}, 175),
    "instructions/user_oriented_instructions.jsonl.gz": ({}, 126), "preferences/dpo_en_demo.jsonl.gz": ({}, 150),
    "preferences/dpo_zh_demo.jsonl.gz": ({}, 150), "preferences/kto_en_demo.jsonl.gz": ({}, 150),
    "preferences/hh_rlhf_harmless_test.jsonl.gz": ({}, 797),
    "lm_text/c4_demo_en.jsonl.gz": ({}, 150), "lm_text/cmrc_trial_contexts_zh.txt.gz": ({"split": "blank-line"}, 256),
    "lm_text/wagahai_ja.txt.gz": ({}, 1), "lm_text/botchan_en.txt.gz": ({"split": "line"}, 4288),
    "lm_text/udhr_first_article_all.txt.gz": ({"split": "blank-line"}, 500),
    "lm_text/wiki_demo_en.txt.gz": ({"split": "line"}, 15), "lm_text/wikitext2_valid.txt.gz": ({"split": "line"}, 2461), "lm_text/tinyshakespeare.txt.gz": ({"split": "blank-line"}, 6283),
    "reasoning/gsm8k_*.jsonl.gz": ({"fields": {"question": "prompt", "answer": "completion"}}, 7473 + 659),
    "reasoning/mbpp.jsonl.gz": ({"fields": {"text": "prompt", "code": "completion"}}, 460),
    "reasoning/humaneval.jsonl.gz": ({"fields": {"canonical_solution": "completion"}, "shape": "prompt-completion"}, 82),
    "reasoning/bbh.jsonl.gz": ({"fields": {"input": "source"}, "shape": "pair"}, 1620),
    "reasoning/lambada_openai.jsonl.gz": ({"fields": {"context": "source", "continuation": "target"}}, 500),
    "reasoning/fever_paper_dev.jsonl.gz": ({"fields": {"claim": "text"}, "shape": "labelled"}, 700),
}  # fmt: skip


@pytest.mark.parametrize("name", ACROSS)
def test_real_data_sets_are_read(shared: Path, name: str) -> None:
    settings, count = ACROSS[name]
    skipped: list[str] = []
    source = Source(str(shared / name), **settings)  # type: ignore[arg-type]
    found = list(read([source], malformed="skip", skipped=lambda _, why: skipped.append(why)))
    assert len(found) == count
    assert len(skipped) == (3 if "hh_rlhf" in name else 0), "three of its transcripts have empty or doubled turns"


def test_data_sets_that_no_shape_fits_say_their_fields(shared: Path) -> None:
    known = {name.split("/")[1] for name, (settings, _) in ACROSS.items() if not settings} | {"mbpp.jsonl.gz"}
    for folder in ("instructions", "preferences", "reasoning"):
        for path in sorted((shared / folder).glob("*.jsonl*")):
            if path.name not in known:
                with pytest.raises(DataError, match="line 1: its fields are .*, which no shape has") as raised:
                    next(read([Source(str(path))]))
                assert "fields: {" in raised.value.remedy
