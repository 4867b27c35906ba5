"""Where a run's answers and results lie, and whose they are.

HORNBOOK_HOME/evals/smollm2-135m-arc_easy+boolq-3f1c9a0b2d/
    answers.jsonl         every answer, as it came (hornbook.evals.ledger)
    outcome.json          the scores, and each item's grade
    samples-TASK.jsonl    each item with all that was asked and answered, where that is wanted
    report.html           for a person (hornbook.evals.report)

The digest is of the model's weights, what runs them, the setting, and the tasks with their versions: whatever would make the
answers others. How many items are asked is none of that: the next run goes on from what is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hornbook.errors import StoreError
from hornbook.evals.outcome import FILE, Identity, Outcome, Result, samples_file
from hornbook.evals.task import Setting, Task
from hornbook.settings import Settings

REPORT = "report.html"
_NAME = 60  # characters of a folder's name that models and tasks may each take


def identify(model: Any, source: str, settings: Settings, adapter: str | None = None) -> Identity:
    """Which model that is, opened from ``source``. A model of the store is told by its SHA-256, one that is used in place and
    an adapter by their files' names, sizes and times. Raises what the store does."""
    from hornbook.checkpoint.lora import adapter_folder
    from hornbook.checkpoint.store import Store
    from hornbook.engine.remote import is_remote

    if is_remote(source):
        address = source.partition("#")[0]
        return Identity(model.name, source, "", address, model.context_length)
    entry = Store(settings).get(source)
    fingerprint = entry.sha256 or _of_files(entry.path)
    name = Path(source).name if entry.source == "path" else entry.name
    if adapter is not None:
        fingerprint = hashlib.sha256((fingerprint + _of_files(adapter_folder(adapter, settings))).encode()).hexdigest()
        name = f"{name} with {Path(adapter).name}"
    return Identity(name, source, fingerprint, _runs_on(model, settings), int(getattr(model, "context_length", 0)))


def folder_for(settings: Settings, model: Identity, tasks: Sequence[Task], setting: Setting) -> Path:
    """Where the answers of a model lie when nobody says. Nothing is created."""
    from hornbook import __version__

    whose = {**model.to_json(), "source": "", "name": "" if model.fingerprint else model.name}
    asked = [[task.name, task.version] for task in tasks]
    text = json.dumps([whose, asked, asdict(setting), __version__], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    named = "+".join(task.name for task in tasks)
    return settings.home / "evals" / f"{plain(model.name)}-{plain(named)}-{digest}"


def write(outcome: Outcome, folder: Path, *, samples: bool = False) -> None:
    """The results, whole or not at all, and where wanted the samples. Raises StoreError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if samples:
            for result in outcome.results:
                put(folder / samples_file(result.task), _sample_lines(result))
        put(folder / FILE, [json.dumps(outcome.to_json(), ensure_ascii=False, indent=1), "\n"])
    except OSError as error:
        raise StoreError(
            f"results cannot be written into {folder}: {error.strerror or error}",
            "Free some space or give another folder with --out; the same command then asks nothing anew.",
        ) from error


def put(path: Path, parts: Iterable[str]) -> None:
    """A file that is there whole, or as it was before."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8", errors="surrogatepass") as file:
            file.writelines(parts)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def plain(name: str) -> str:
    """A name as a part of a folder's."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")[:_NAME].strip("-.") or "x"


def _runs_on(model: Any, settings: Settings) -> str:
    """What computes the answers, as far as it may change them: not with how many threads."""
    told = re.sub(r", \d+ threads?", "", str(getattr(model, "runs_on", "") or ""))
    return f"{told}, {settings.cache} cache" if told.startswith("native") else told


def _sample_lines(result: Result) -> Iterable[str]:
    return (json.dumps(sample.to_json(), ensure_ascii=False, default=str) + "\n" for sample in result.samples)


def _of_files(path: Path) -> str:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    told = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
