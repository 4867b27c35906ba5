"""Folders of runs as `hornbook train` leaves them, without a training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def step(number: int, loss: float | None, **more: Any) -> dict[str, Any]:
    row = {"step": number, "loss": loss, "parts": {"tokens": loss}, "labels": 90, "tokens": 200, "rate": 1e-3 / number}
    return {**row, "gradient_norm": 1.0 + number % 3, "seconds": 0.5, "memory": 2_000_000_000, **more}


def validation(number: int, loss: float) -> dict[str, Any]:
    return {"step": number, "validation": {"loss": loss, "labels": 40, "seconds": 0.1}}


def make_run(
    folder: Path,
    written: int = 100,
    *,
    every: int = 25,
    model: str = "smollm2:135m",
    samples: list[tuple[int, str, str]] | None = None,
    recipe: dict[str, Any] | None = None,
    **state: Any,
) -> Path:
    """A run whose loss falls from 4 to 1 as exp(-5 step/written), held-out loss 0.5 above it each ``every`` steps."""
    folder.mkdir(parents=True)
    rows = [validation(0, 4.5)]
    for number in range(1, written + 1):
        loss = 1 + 3 * math.exp(-5 * number / written)
        rows.append(step(number, loss))
        if number % every == 0:
            rows.append(validation(number, loss + 0.5))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    if samples is not None:
        said = ({"step": number, "prompt": prompt, "reply": reply} for number, prompt, reply in samples)
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said), "utf-8")
    (folder / "recipe.yaml").write_text(json.dumps(recipe or {"recipe": "sft", "training": {"rate": 0.001}}), "utf-8")
    (folder / "environment.json").write_text(json.dumps({"versions": {"torch": "2.13"}, "devices": []}), "utf-8")
    (folder / "data.json").write_text(json.dumps({"examples": 1234567, "sources": [{"path": "角.jsonl"}]}), "utf-8")
    told = {
        "status": "finished",
        "recipe": "sft",
        "model": model,
        "step": written,
        "steps": written,
        "pid": 0,
        "error": None,
    }
    (folder / "state.json").write_text(json.dumps({**told, **state}), "utf-8")
    return folder
