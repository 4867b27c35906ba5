from __future__ import annotations

import threading
from pathlib import Path

import pytest
from toy_embedder import ToyEmbedder

from hornbook.errors import IndexMismatch, UsageError
from hornbook.retrieve import ingest, segments
from hornbook.retrieve.index import Index
from hornbook.types import Hit


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    (folder / "birds.md").write_text(
        "# Birds\n\n## Owls\n\nThe owl hunts mice at night.\n\n## Swifts\n\nThe swift sleeps in flight.\n"
    )
    (folder / "deep" / "batteries.txt").write_text("The anode of the battery is lithium.\n\nThe cathode is graphite.")
    (folder / "deep" / "zh.txt").write_text("分布式训练需要同步梯度。电池的阳极是锂。")
    return folder


@pytest.fixture
def index(tmp_path: Path, files: Path) -> Index:
    index = Index.open(tmp_path / "index", embedder=ToyEmbedder())
    index.ingest(files)
    return index


def names(hits: list[Hit]) -> list[str]:
    return [Path(hit.document.path).name for hit in hits]


@pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
def test_every_mode_finds_the_passage_and_its_exact_place(index: Index, mode: str) -> None:
    hit = index.search("owl hunts mice", 3, mode=mode)[0]  # type: ignore[arg-type]
    assert Path(hit.document.path).name == "birds.md"
    assert "The owl hunts mice at night." in hit.chunk.text
    assert hit.chunk.text == hit.document.text[hit.chunk.start : hit.chunk.end]
    assert hit.chunk.section.endswith("Owls")
    assert hit.document.pieces and hit.chunk.document_id == hit.document.id
    assert set(hit.parts) == {"hybrid": {"dense", "sparse"}, "dense": {"dense"}, "sparse": {"sparse"}}[mode]


def test_hits_come_best_first_each_once_and_at_most_k(index: Index) -> None:
    for mode in ("hybrid", "dense", "sparse"):
        hits = index.search("the battery and the owl", 4, mode=mode)  # type: ignore[arg-type]
        assert len(hits) <= 4 and len({hit.chunk.id for hit in hits}) == len(hits)
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
    assert len(index.search("owl", 1)) == 1
    assert len(index.search("owl", 1000, mode="dense")) == index.stats["chunks"]


def test_sparse_search_never_returns_a_passage_without_a_shared_word(index: Index) -> None:
    assert names(index.search("阳极", 10, mode="sparse")) == ["zh.txt"]
    assert index.search("quetzalcoatl", 10, mode="sparse") == []
    assert index.search("the of what", 10, mode="sparse") == []
    assert index.search("?!", 10, mode="sparse") == []
    assert len(index.search("quetzalcoatl", 10)) > 0


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"suffix": ".md"}, {"birds.md"}),
        ({"suffix": ["txt"]}, {"batteries.txt", "zh.txt"}),
        ({"path": "*/deep/b*"}, {"batteries.txt"}),
        ({"section": "*Owls"}, {"birds.md"}),
        ({"media_type": "text/markdown"}, {"birds.md"}),
        ({"suffix": ".txt", "path": "*zh*"}, {"zh.txt"}),
        ({"path": []}, set()),
        ({"path": "%"}, set()),
        ({"path": "x' OR 1 --"}, set()),
        ({"page": 3}, set()),
    ],
)
@pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
def test_filters_leave_what_they_say(index: Index, where: dict, expected: set[str], mode: str) -> None:
    assert set(names(index.search("the owl battery 电池", 50, mode=mode, where=where))) == expected  # type: ignore[arg-type]


def test_a_path_filter_takes_a_folder_or_a_file_but_not_a_namesake(index: Index, files: Path) -> None:
    (files / "deeper").mkdir()
    (files / "deeper" / "owl.txt").write_text("An owl.")
    index.ingest(files)
    assert set(names(index.search("owl 电池 battery", 50, where={"path": files / "deep"}))) == {
        "batteries.txt",
        "zh.txt",
    }
    assert set(names(index.search("owl", 50, where={"path": str(files / "birds.md")}))) == {"birds.md"}


def test_wrong_requests_are_refused_with_the_remedy(index: Index, tmp_path: Path) -> None:
    for call in (
        lambda: index.search("  "),
        lambda: index.search("x", 0),
        lambda: index.search("x", mode="fuzzy"),  # type: ignore[arg-type]
        lambda: index.search("x", where={"colour": "red"}),
        lambda: index.ingest(tmp_path / "nowhere"),
        lambda: index.ingest([]),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.remedy
    assert index.stats["documents"] == 3, "a path that is missing must not empty the index"


def test_an_empty_index_answers_nothing_and_loads_no_model(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with Index.open(tmp_path / "index", embedder="no-such-model") as index:
        assert index.search("anything") == []
        assert index.ingest(tmp_path / "nothing").chunks == 0


def test_an_index_of_another_model_is_refused(index: Index, tmp_path: Path) -> None:
    with pytest.raises(IndexMismatch) as caught:
        Index.open(tmp_path / "index", embedder=ToyEmbedder(name="another"))
    assert "toy" in caught.value.what and "another" in caught.value.what and caught.value.remedy


def test_what_is_deleted_is_never_found_again(index: Index) -> None:
    document = index.search("owl")[0].document
    assert index.delete([document.id, "unknown"]) == 1
    for mode in ("hybrid", "dense", "sparse"):
        assert "birds.md" not in names(index.search("owl", 50, mode=mode))  # type: ignore[arg-type]
    assert index.delete(document.id) == 0


def scores(index: Index, query: str) -> list[tuple[str, str, float, float]]:
    found = index.search(query, 100)
    return sorted(
        (hit.document.path, hit.chunk.text, round(hit.parts["dense"], 3), round(hit.parts.get("sparse", 0), 3))
        for hit in found
    )


def test_an_index_that_was_edited_and_merged_is_the_one_made_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH_CHUNKS", 3)
    monkeypatch.setattr(segments, "MERGE_FACTOR", 2)
    files = tmp_path / "files"
    files.mkdir()
    edited = Index.open(tmp_path / "edited", embedder=ToyEmbedder())
    for round_ in range(6):
        for number in range(12):
            if (number + round_) % 3 == 0:
                (files / f"f{number}.txt").write_text(f"owl number {number} in round {round_}. " * (number + 1))
        if round_ > 2:
            (files / f"f{round_}.txt").unlink(missing_ok=True)
        report = edited.ingest(files)
        assert report.chunks == edited.stats["chunks"]
    assert edited.stats["segments"] < 12, "small segments must merge as they come"
    fresh = Index.open(tmp_path / "fresh", embedder=ToyEmbedder())
    fresh.ingest(files)
    for query in ("owl", "round 3 number 7", "number 11"):
        assert scores(edited, query) == scores(fresh, query)
    edited.compact()
    assert edited.stats["deleted"] == 0 and edited.stats["segments"] == 1
    assert scores(edited, "round 3 number 7") == scores(fresh, "round 3 number 7")


def test_searching_goes_on_in_many_threads_while_an_ingest_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH_CHUNKS", 4)
    files = tmp_path / "files"
    files.mkdir()
    (files / "first.txt").write_text("the first owl")
    with Index.open(tmp_path / "index", embedder=ToyEmbedder()) as index:
        index.ingest(files)
        for number in range(80):
            (files / f"f{number}.txt").write_text(f"owl {number} sees mouse {number * 7}")
        stop, errors, seen = threading.Event(), [], []

        def look() -> None:
            try:
                while not stop.is_set():
                    hits = index.search("owl", 200)
                    seen.append(len(hits))
                    assert all(hit.chunk.text == hit.document.text[hit.chunk.start : hit.chunk.end] for hit in hits)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        index.ingest(files)
        stop.set()
        for thread in threads:
            thread.join()
        assert not errors
        assert seen and min(seen) >= 1
        assert len(index.search("owl", 200)) == 81
