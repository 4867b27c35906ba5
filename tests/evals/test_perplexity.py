"""Perplexity of files and folders: what is counted, and how texts are summed up."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from hornbook.errors import DataError, UsageError
from hornbook.evals.data import Data
from hornbook.evals.task import Rolling, Setting, Task
from hornbook.evals.tasks.lambada import LastWord
from hornbook.evals.tasks.perplexity import perplexity
from hornbook.types import Score


def task_of(path: Path, name: str) -> Task:
    (task,) = perplexity(Data((path,)), name)
    return task


def test_a_file_is_one_text_whatever_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "story.py").write_bytes("def f():\n    pass\n\nÄ\n".encode())
    task = task_of(tmp_path, "story.py")
    (item,) = task.items()
    assert (task.name, item.id) == ("perplexity:story.py", "story.py")
    assert task.requests(item, Setting(shots=3)) == (Rolling("def f():\n    pass\n\nÄ\n"),)
    assert task.grade(item, [(Score(-12.0, False, 9),)]) == {"logprob": -12.0, "bytes": 22.0, "words": 5.0}


def test_a_folder_is_its_texts_and_rows_by_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("hidden")
    (tmp_path / "b" / "三.md").write_text("吾輩は猫である。", "utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "  "}\n{"page": "two"}\n'))
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    found = {item.id: item.data["text"] for item in perplexity(Data(()), str(tmp_path))[0].items()}
    assert found == {"a.jsonl.gz-0": "one", "a.jsonl.gz-2": "two", "b/三.md": "吾輩は猫である。"}


def test_all_bytes_weigh_alike_as_in_the_harness(tmp_path: Path) -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics", exc_type=ImportError)
    rows = [{"text": text} for text in ("a b c", "un  été", "\nlong " * 40)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_of(tmp_path, "t.jsonl")
    logprobs = (-3.0, -17.5, -88.0)
    graded = [task.grade(item, [(Score(one, False, 5),)]) for item, one in zip(task.items(), logprobs, strict=True)]
    columns = {name: np.array([grade[name] for grade in graded]) for name in graded[0]}
    pairs = {unit: [(grade["logprob"], grade[unit]) for grade in graded] for unit in ("bytes", "words")}
    expected = {
        "bits_per_byte": metrics.bits_per_byte(pairs["bytes"]),
        "byte_perplexity": metrics.weighted_perplexity(pairs["bytes"]),
        "word_perplexity": metrics.weighted_perplexity(pairs["words"]),
    }
    assert {metric.name: float(metric.value(columns)) for metric in task.metrics} == pytest.approx(expected)
    resampled = {name: np.stack([column, column[::-1]]) for name, column in columns.items()}
    assert all(metric.value(resampled).shape == (2,) for metric in task.metrics)
    perplexities = LastWord("l", list).metrics[1].value({"logprob": np.array([-1.0, -3.0])})
    assert float(perplexities) == pytest.approx(metrics.perplexity([-1.0, -3.0])) == pytest.approx(math.exp(2))


def test_what_is_no_text_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="perplexity of what"):
        perplexity(Data(()), "")
    with pytest.raises(DataError, match="no file or folder none.txt") as raised:
        perplexity(Data((tmp_path,)), "none.txt")
    assert str(tmp_path) in raised.value.remedy
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match="no text in"):
        task_of(tmp_path, "empty.txt").items()
    (tmp_path / "photo").write_bytes(b"text\n\xff\xfe")
    with pytest.raises(DataError, match="photo, line 2"):
        task_of(tmp_path, "photo").items()
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2 has no text"):
        task_of(tmp_path, "rows.jsonl").items()
