"""What stands in an evaluation set is found in training documents, with the set and the item."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from hornbook.data.contamination import Contamination, texts_of_items
from hornbook.errors import DataError, UsageError

QUESTION = (
    "A train leaves the station at noon and travels west at sixty miles an hour for three hours; how far does it go?"
)
SHORT = "Which planet of ours has the most moons"  # 8 words
CHINESE = "小明有三十六颗糖，他给了小红一半，又给了小刚剩下的三分之一，请问小明最后还剩下多少颗糖？"
TABLE = Contamination.of({"trains": [[QUESTION, "180 miles"], [SHORT, "Saturn"]], "candy": [[CHINESE]]})


def test_a_run_of_thirteen_words_is_found_whatever_its_dress() -> None:
    document = "Some text before. " + QUESTION.upper().replace(";", " --") + " And some after."
    found = TABLE.find(document)
    assert found is not None and (found.name, found.item) == ("trains", 1)
    assert found.text == "a train leaves the station at noon and travels west at sixty miles"
    words = QUESTION.split()
    assert TABLE.find("We say: " + " ".join(words[2:15]) + " today") is not None
    assert TABLE.find("We say: " + " ".join(words[2:14]) + " today") is None, "12 words are not 13"


def test_a_short_item_is_found_in_full_and_a_tiny_one_only_alone() -> None:
    found = TABLE.find(f"He asked: {SHORT}? Nobody knew.")
    assert found is not None and found.item == 2
    assert TABLE.find("Which planet of ours has the most rings") is None
    assert TABLE.find("A long sentence in which Saturn is named") is None
    alone = TABLE.find("Saturn!")
    assert alone is not None and alone.item == 2


def test_chinese_is_matched_by_characters() -> None:
    found = TABLE.find("这是一道题目：" + CHINESE.replace("，", " ") + "答案是十二。")
    assert found is not None and (found.name, found.item) == ("candy", 1)
    assert "小明有三十六颗糖" in found.text
    assert TABLE.find("小明有三十六颗糖，他都吃了，觉得很好吃，还想再吃一些别的东西，妈妈说不行。") is None
    assert TABLE.find("") is None and TABLE.find("……") is None


def test_what_is_looked_for_is_told() -> None:
    assert TABLE.sets["trains"].items == 2
    assert TABLE.sets["trains"].runs == len(QUESTION.split()) - 12 + 1
    assert Contamination.of({"yes": [["Yes"], ["No", "4"]]}).sets["yes"].short == 2
    assert Contamination.of({}).find(QUESTION) is None


def test_files_of_every_format_give_their_strings(tmp_path: Path) -> None:
    row = {"question": QUESTION, "choices": ["one", {"deep": "two"}], "answer": 1}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps(row) + "\n")
    (tmp_path / "c.csv").write_text(f'question,answer\n"{QUESTION}",one\n', "utf-8")
    (tmp_path / "d.txt").write_text(f"{QUESTION}\nanother\n", "utf-8")
    assert list(texts_of_items(tmp_path / "a.jsonl")) == [[QUESTION, "one", "two"]]
    assert list(texts_of_items(tmp_path / "b.jsonl.gz")) == [[QUESTION, "one", "two"]]
    assert list(texts_of_items(tmp_path / "c.csv")) == [["question", "answer"], [QUESTION, "one"]]
    assert list(texts_of_items(tmp_path / "d.txt")) == [[QUESTION], ["another"]]
    with pytest.raises(UsageError, match="no evaluation file"):
        list(texts_of_items(tmp_path / "none.jsonl"))
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{broken\n', "utf-8")
    with pytest.raises(DataError, match="line 2"):
        list(texts_of_items(tmp_path / "bad.jsonl"))


def test_a_real_set_is_found_in_itself_and_not_in_other_prose(shared: Path) -> None:
    table = Contamination.of({"gsm8k": texts_of_items(shared / "reasoning" / "gsm8k_test.jsonl.gz")})
    items = list(texts_of_items(shared / "reasoning" / "gsm8k_test.jsonl.gz"))
    assert all(table.find("Q: " + texts[0]) for texts in items[:100])
    with gzip.open(shared / "lm_text" / "c4_demo_en.jsonl.gz", "rt", encoding="utf-8") as file:
        assert not any(table.find(json.loads(line)["text"]) for line in file)
