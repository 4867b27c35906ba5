"""How fast is ``ask``? Indexing in passages a second, and process start to first token on an indexed folder.

    python benchmarks/ask_speed.py FOLDER [--runs 5] [--model smollm2:135m] [--question "..."]

Every run is a process of its own, as a person's is. Indexing begins from an empty index each time and is set beside
sentence-transformers encoding the same passages (torch float32, its own batching), alternating. "First token" is the
process's whole time less what ``ask`` spent after the model's first token: the interpreter's end is counted against us.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUESTION = "What is the maximum number of visual tokens?"


def hornbook(home: Path, *arguments: object) -> tuple[float, dict[str, object]]:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "hornbook", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "HORNBOOK_HOME": str(home), "HORNBOOK_OFFLINE": "1"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - began, json.loads(done.stdout)


def passages(folder: Path) -> list[str]:
    """The texts that an ingest of the folder embeds."""
    import hornbook
    from hornbook.errors import ParseError
    from hornbook.retrieve.chunk import chunks
    from hornbook.retrieve.parse import parse
    from hornbook.retrieve.walk import Found, walk

    embedder = hornbook.load("minilm")
    texts = []
    for found in walk([folder]):
        if isinstance(found, Found):
            with contextlib.suppress(ParseError):
                texts += [chunk.text for chunk in chunks(parse(found.path), embedder.count_tokens)]
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--question", default=QUESTION)
    options = parser.parse_args()

    import torch
    from sentence_transformers import SentenceTransformer

    from hornbook.checkpoint.store import Store
    from hornbook.settings import Settings

    settings = Settings.load()
    minilm = Store(settings).ensure("minilm").path
    peer = SentenceTransformer(str(minilm), device="cpu")

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "models").symlink_to(settings.models)
        texts = passages(options.folder)
        ours, theirs = [], []
        for _ in range(options.runs):
            shutil.rmtree(home / "indexes", ignore_errors=True)
            _, report = hornbook(home, "ingest", options.folder)
            ours.append(report["chunks"] / report["seconds"])  # type: ignore[operator]
            began = time.perf_counter()
            peer.encode(texts, batch_size=32, show_progress_bar=False)
            theirs.append(len(texts) / (time.perf_counter() - began))
        firsts, totals = [], []
        for _ in range(options.runs):
            wall, answer = hornbook(home, "ask", options.folder, options.question, "--model", options.model)
            timings = answer["timings"]
            if "first_token" not in timings:  # type: ignore[operator]
                raise SystemExit(f"nothing was generated for {options.question!r}: ask what the folder answers")
            firsts.append(wall - timings["total"] + timings["first_token"])  # type: ignore[index]
            totals.append(wall)

    def middle(name: str, values: list[float], unit: str) -> None:
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:44} {statistics.median(values):8.2f} {unit}   ({spread}, {len(values)} runs)")

    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads"
    )
    print(f"python {platform.python_version()}, torch {torch.__version__}")
    print(f"{report['added']} files, {report['chunks']} passages")
    middle("indexing: parse, cut, embed, write", ours, "passages/s")
    middle("sentence-transformers, embedding alone", theirs, "passages/s")
    middle("ratio", [a / b for a, b in zip(ours, theirs, strict=True)], "")
    middle("process start to first token", firsts, "s")
    middle("process start to end", totals, "s")


if __name__ == "__main__":
    main()
