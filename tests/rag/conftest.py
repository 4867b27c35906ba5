"""A folder of small documents, an index of it without a model, and the planted set."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hornbook.retrieve.index import Index
from word_embedder import WordEmbedder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


BATCH = (
    "The second experiment was limited by activation memory, not by the weights. "
    "Halving the sequence length to 512 tokens allowed the batch to be doubled. "
    "The learning rate was 0.001 in all runs."
)
KIWI = "The kiwi is a flightless bird of New Zealand. It lays one large egg. The kiwi is not a fruit in this text.[3]"
PANDA = "大熊猫主要以竹子为食，每天进食约十二小时。大熊猫生活在中国四川省的山区。成年大熊猫体重约100公斤。"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "training.md").write_text(f"# Memory\n\n## Results\n\n{BATCH}\n", "utf-8")
    (papers / "birds.txt").write_text(KIWI, "utf-8")
    (papers / "panda.txt").write_text(PANDA, "utf-8")
    return papers


@pytest.fixture
def index_of(tmp_path: Path) -> Iterator[Callable[[], Index]]:
    """Open the index of this test; closed at its end."""
    opened: list[Index] = []

    def open_index() -> Index:
        opened.append(Index.open(tmp_path / "index", embedder=WordEmbedder()))
        return opened[-1]

    yield open_index
    for index in opened:
        index.close()


@pytest.fixture(scope="session")
def benchmarks() -> Any:
    """The module benchmarks/ask.py: the tests judge as the published figures do."""
    return _benchmark("ask")


@pytest.fixture(scope="session")
def support_benchmark() -> Any:
    """The module benchmarks/support.py."""
    return _benchmark("support")


def _benchmark(name: str) -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))
