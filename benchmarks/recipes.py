"""What trainings make of their data: losses before and after, replies before and after, minutes.

    python benchmarks/recipes.py [telegram] [whole-life] [conversations] [--write]

Each is the command that a person gives, in a folder of its own, with the seeds of the recipe. ``conversations`` is the chat
model with a LoRA on 500 real ones (dolly_hhrlhf_small, of HORNBOOK_DATA). ``--write`` puts the figures into
docs/results/training.md and, of telegram, into README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "results" / "training.md", ROOT / "README.md"
DATA = Path(os.environ.get("HORNBOOK_DATA", ROOT.parent / "shared" / "data"))
CONVERSATIONS = "instructions/dolly_hhrlhf_small.jsonl.gz"
SETTINGS = ["data.validation=50", "training.epochs=1", "training.rate=2e-4", "samples.prompts=3"]
RECIPES = {
    "telegram": ["recipes/telegram.yaml"],
    "whole-life": ["recipes/whole-life.yaml"],
    "conversations": ["sft", f"data.train.0.path={DATA / CONVERSATIONS}", *SETTINGS],
}


def carry_out(name: str, folder: Path) -> tuple[float, Any, list[dict[str, Any]]]:
    """-> (seconds of the whole command, what it printed, the lines of the runs' metrics)."""
    command = ["train", *RECIPES[name], "-o", str(folder / name), "--json"]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "hornbook", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    seconds = time.perf_counter() - began
    metrics = [json.loads(line) for path in sorted((folder / name).rglob("metrics.jsonl")) for line in path.open()]
    return seconds, json.loads(done.stdout), metrics


def taught(seconds: float, found: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    preview, held = found["preview"], found["held_out"]
    steps = [row for row in metrics if "loss" in row]
    lines = ["| | |", "|---|---|"]
    rows = {
        "held-out loss": f"{held['before']:.3f} -> {held['after']:.3f}",
        "trained": f"{preview['trained']:,} of {preview['parameters']:,} parameters, {found['steps']} steps",
        "the whole command": f"{seconds:.0f} s",
        "of it training": f"{found['seconds']:.0f} s, {sum(row['tokens'] for row in steps) / found['seconds']:.0f} tokens/s "
        f"({preview['seconds']:.0f} s were foretold)",
        "peak memory": f"{max(row['memory'] for row in steps) / 1e9:.2f} GB ({preview['memory']['peak'] / 1e9:.2f} were foretold)",
    }
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([*lines, "", replies(found["samples"])])


def replies(samples: list[dict[str, Any]]) -> str:
    rows = ["| asked | before | after |", "|---|---|---|"]
    for sample in samples:
        cells = (cell(sample[key]) for key in ("prompt", "before", "after"))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def life(seconds: float, found: list[dict[str, Any]]) -> str:
    rows = [f"The whole command: {seconds:.0f} s.", "", "| stage | recipe | seconds | figures |", "|---|---|---|---|"]
    for stage in found:
        figures = ", ".join(f"{name} {value:,.4g}" for name, value in stage["figures"].items())
        rows.append(f"| {stage['stage']} | {stage['recipe']} | {stage['seconds']:.0f} | {figures} |")
    said = [f"| {cell(row['prompt'])} | {cell(row['reply'])} |" for row in found[-1]["replies"]]
    return "\n".join([*rows, "", "| asked at last | it said |", "|---|---|", *said])


def cell(text: str | None) -> str:
    line = " ".join((text or "").split()).replace("|", "\\|")
    return line if len(line) <= 160 else f"{line[:159]}…"


def between(page: str, name: str, inside: str) -> str:
    """``page`` with what stands between the marks of ``name`` replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in page:
        page += f"\n## {name}\n\n{begin}\n{end}\n"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{inside}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; none: all")
    parser.add_argument("--write", action="store_true", help="into the pages")
    asked = parser.parse_args()
    page = PAGE.read_text("utf-8")
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.names or RECIPES:
            if name not in RECIPES:
                parser.error(f"there is no recipe {name}: {', '.join(RECIPES)}")
            seconds, found, metrics = carry_out(name, Path(folder))
            told = life(seconds, found) if name == "whole-life" else taught(seconds, found, metrics)
            print(f"\n{name}\n\n{told}")
            command = " ".join(word.replace(f"{DATA}/", "") for word in RECIPES[name])
            page = between(page, name, f"`hornbook train {command}` · seed 0 · {machine}\n\n{told}")
            if asked.write and name == "telegram":
                README.write_text(between(README.read_text("utf-8"), name, told), "utf-8")
    if asked.write:
        PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
