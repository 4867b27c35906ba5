"""Collections are read as they are published, refused with file and line, searched through the index, and judged."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hornbook.engine.scripted import ScriptedLLM
from hornbook.errors import DataError, UsageError
from hornbook.evals.data import Data
from hornbook.evals.registry import tasks
from hornbook.evals.run import run
from hornbook.evals.task import Setting, Trial
from hornbook.evals.tasks.retrieval import Collection
from word_embedder import WordEmbedder

PASSAGES = {
    "kiwi": ("Birds", "The kiwi is a flightless bird of New Zealand. It lays one large egg."),
    "emu": ("Birds", "The emu cannot fly either, and runs through Australia."),
    "熊猫": ("动物", "大熊猫主要以竹子为食，生活在中国四川省的山区。"),
    "a/b: c": ("", "Bamboo grows quickly. Pandas eat it all day."),
    "none": ("", ""),
}
QUERIES = {
    "q1": "which flightless bird lays a large egg",
    "q2": "大熊猫吃什么",
    "q3": "runs through Australia",
    "q4": "   ",
    "q5": "nobody judged this",
}
QRELS = "query-id\tcorpus-id\tscore\nq1\tkiwi\t2\nq1\temu\t1\nq2\t熊猫\t1\nq2\ta/b: c\t0\nq3\tkiwi\t0\nq4\tkiwi\t1\n"


def written(folder: Path, qrels: str = QRELS, *, split: str = "", packed: bool = False) -> Path:
    folder.mkdir(parents=True)
    corpus = [{"_id": name, "title": title, "text": text} for name, (title, text) in PASSAGES.items()]
    for name, rows in (("corpus", corpus), ("queries", [{"_id": id, "text": text} for id, text in QUERIES.items()])):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        if packed:
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines))
        else:
            (folder / f"{name}.jsonl").write_bytes(lines)
    path = folder / split if split else folder / "qrels.tsv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(qrels, "utf-8")
    return folder


def task(name: str, *folders: Path) -> Trial:
    (one,) = tasks([name], Data(folders))
    assert isinstance(one, Trial)
    return one


def graded(one: Trial) -> dict[str, Mapping[str, float]]:
    answers = {item.id: one.answer(item, WordEmbedder(), Setting()) for item in one.items()}
    kept = json.loads(json.dumps(answers))  # as a ledger keeps them
    return {item.id: one.judge(item, kept[item.id]) for item in one.items()}


@pytest.mark.parametrize("mode", ["", "_dense", "_sparse"])
def test_a_collection_is_searched_and_judged(tmp_path: Path, home: Path, mode: str) -> None:
    folder = written(tmp_path / "animals", packed=mode == "_dense", split="qrels/test.tsv" if mode else "")
    one = task(f"retrieval{mode}:{folder}")
    assert [item.id for item in one.items()] == ["q1", "q2", "q4"]  # q3 and q5 have no relevant passage
    grades = graded(one)
    assert grades["q1"]["ndcg@10"] == grades["q1"]["mrr@10"] == grades["q2"]["ndcg@10"] == 1
    assert set(grades["q4"].values()) == {0.0}  # an empty question finds nothing
    assert [metric.name for metric in one.metrics] == list(grades["q1"])


def test_collections_are_found_by_name_in_the_data(tmp_path: Path, home: Path) -> None:
    written(tmp_path / "deep" / "animals")
    written(tmp_path / "more")
    assert task("retrieval:animals", tmp_path / "nothing", tmp_path).name == "retrieval:animals"
    assert [one.name for one in tasks(["retrieval"], Data((tmp_path,)))] == ["retrieval:animals", "retrieval:more"]
    with pytest.raises(DataError, match="retrieval:cranfield are not here.*cranfield/corpus.jsonl"):
        task("retrieval:cranfield", tmp_path)


def test_other_passages_are_another_version(tmp_path: Path) -> None:
    one, other = written(tmp_path / "one"), written(tmp_path / "other")
    assert task(f"retrieval:{one}").version == task(f"retrieval:{other}").version
    (other / "qrels.tsv").write_text(QRELS + "q3\temu\t1\n", "utf-8")
    assert task(f"retrieval:{one}").version != task(f"retrieval:{other}").version


@pytest.mark.parametrize(
    ("qrels", "said"),
    [
        (QRELS + "q9\tkiwi\t1\n", r"qrels.tsv, line 8: there is no query 'q9'"),
        (QRELS + "q1\tdodo\t1\n", r"line 8: there is no passage 'dodo'"),
        (QRELS + "q1\tkiwi\tmuch\n", r"line 8: the relevance 'much' is no number"),
        (QRELS + "q1 kiwi 1\n", r"line 8 does not have three columns"),
        ("q1\tkiwi\t0\n", r"judges no passage relevant"),
    ],
)
def test_malformed_judgements_name_file_and_line(tmp_path: Path, qrels: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        task(f"retrieval:{written(tmp_path / 'c', qrels)}").items()


def test_malformed_passages_name_file_and_line(tmp_path: Path) -> None:
    folder = written(tmp_path / "c")
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "x", "title": "no text"}\n')
    with pytest.raises(DataError, match=r"corpus.jsonl, line 6: the field text is absent"):
        task(f"retrieval:{folder}").items()
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(DataError, match=r"has no corpus.jsonl"):
        task(f"retrieval:{folder}")


def test_what_is_left_out_is_said_and_the_index_is_made_before_the_first_question(tmp_path: Path, home: Path) -> None:
    told: list[str] = []
    outcome = run(
        WordEmbedder(),
        [task(f"retrieval:{written(tmp_path / 'c')}")],
        report=lambda what, done, total: told.append(what),
    )
    assert any("2 queries have no relevant passage and are not asked" in note for note in outcome.notes)
    steps = [what.rpartition(": ")[2] for what in told]
    assert steps.index("embedding") < steps.index("trying")


def test_a_model_that_writes_is_refused_by_name(tmp_path: Path) -> None:
    one = task(f"retrieval:{written(tmp_path / 'c')}")
    with pytest.raises(UsageError, match="measures an embedding model, and scripted is none"):
        one.answer(one.items()[0], ScriptedLLM("no"), Setting())


def test_the_index_is_made_once_for_all_modes(tmp_path: Path, home: Path) -> None:
    class Counting(WordEmbedder):
        passages = 0

        def embed(self, texts: Sequence[str], *, kind: Any = "passage") -> Any:
            self.passages += len(texts) if kind == "passage" else 0
            return super().embed(texts, kind=kind)

    folder, embedder = written(tmp_path / "c"), Counting()
    for mode in ("", "_dense", "_sparse"):
        one = task(f"retrieval{mode}:{folder}")
        one.answer(one.items()[0], embedder, Setting())
    assert embedder.passages == 4  # the fifth is empty


def test_the_chinese_collection(shared: Path, home: Path) -> None:
    """With words alone, as docs/results/retrieval.md has it: nDCG@10 0.986 over all questions."""
    one = task("retrieval_sparse:cmrc2018_trial_zh", shared)
    items = one.items()
    assert len(items) == 1002
    some = items[::10]
    values = [one.judge(item, one.answer(item, WordEmbedder(), Setting()))["ndcg@10"] for item in some]
    assert 0.96 < sum(values) / len(values) <= 1


def test_a_title_that_begins_its_text_is_not_said_twice(tmp_path: Path) -> None:
    folder = written(tmp_path / "c")
    rows = [("A wing .", "A wing . It lifts."), ("Wing", "Wings lift."), ("", "None.")]
    lines = (json.dumps({"_id": str(at), "title": title, "text": text}) for at, (title, text) in enumerate(rows))
    (folder / "corpus.jsonl").write_text("\n".join(lines), "utf-8")
    assert [one.text for one in Collection(folder).passages()] == ["A wing . It lifts.", "Wing\n\nWings lift.", "None."]


def test_a_ranking_goes_on_until_a_hundred_passages(tmp_path: Path, home: Path) -> None:
    """Long passages have many chunks each, so that the first search finds few of them."""
    folder = tmp_path / "long"
    folder.mkdir()
    words = " ".join(f"word{n} egg." for n in range(400))
    corpus = ({"_id": f"p{at}", "text": f"{words} tail{at}"} for at in range(12))
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)), "utf-8")
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "egg tail7"}), "utf-8")
    (folder / "qrels.tsv").write_text("q\tp7\t1\n", "utf-8")
    one = task(f"retrieval_sparse:{folder}")
    found = one.answer(one.items()[0], WordEmbedder(), Setting())["ranking"]
    assert found[0] == "p7" and sorted(found) == sorted(f"p{at}" for at in range(12))


def test_cranfield_counts_its_codes_1_to_4_alike(shared: Path) -> None:
    items = task("retrieval:cranfield", shared).items()
    assert len(items) == 225
    assert {gain for item in items for gain in item.data["relevant"].values()} == {1.0}
    assert sum(len(item.data["relevant"]) for item in items) == 1612  # 1837 judgements, of which 225 are of code -1
