"""Sources of different weights are mixed, and what happens when one ends is as the recipe says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hornbook.recipes.config import Data
from hornbook.recipes.sets import Reader


def counts(folder: Path, weights: tuple[float, float], **settings: Any) -> Counter[str]:
    train = [
        {"path": str(folder / f"{name}.txt"), "split": "line", "weight": w}
        for name, w in zip("ab", weights, strict=True)
    ]
    data = Data(train=train, validation=0, **settings)  # type: ignore[arg-type]
    reader = Reader(SimpleNamespace(data=data, training=SimpleNamespace(seed=1)))  # type: ignore[arg-type]
    return Counter(example.text[0] for example in reader.learnt())  # type: ignore[union-attr]


def test_what_a_mix_does_when_a_source_ends_is_the_recipes_to_say(tmp_path: Path) -> None:
    for name, lines in (("a", 40), ("b", 400)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(lines)), "utf-8")
    assert counts(tmp_path, (1, 1)) == {"a": 40, "b": 400}, "of one weight: one behind the other"
    stop, repeat, drop = (counts(tmp_path, (1, 2), ended=ended) for ended in ("stop", "repeat", "drop"))
    assert stop["a"] == 40 and 50 < stop["b"] < 120 and counts(tmp_path, (1, 2)) == stop
    assert repeat["b"] >= 400 and 150 < repeat["a"] < 250
    assert drop == {"a": 40, "b": 400}
    with pytest.raises(ValueError, match="stop"):
        counts(tmp_path, (1, 2), ended="never")
