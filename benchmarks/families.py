"""How near every family is to transformers and to llama.cpp: runs the parity tests and writes what they print as a table.

    python benchmarks/families.py > docs/results/families.md

Tiny random models, float32: the figures are the largest error over ragged batches, relative to the largest number.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"(parity|heads of|GGUF) (?P<family>[^,:\n]+)(?:, (?P<case>[^:\n]+))?: (?P<said>.*within.*)")
INTRODUCTION = """\
The largest relative error over all cases of a family: of the last states and of the logits against transformers {transformers}, and of the
logits against llama.cpp (xllamacpp {xllamacpp}, which keeps keys and values in half precision) where it has the architecture. Other heads are
held to 1e-5 by the same tests. Tiny random models in float32, Python {python}, torch {torch}, `python benchmarks/families.py`.
"""
FIGURE = re.compile(r"(\S+) within ([0-9.e+-]+)")


def main() -> None:
    tests = sorted(str(path) for path in (ROOT / "tests" / "checkpoint").glob("test_family_*.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *tests],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-1000:])
    cases: dict[str, set[str]] = defaultdict(set)
    worst: dict[str, dict[str, float]] = defaultdict(dict)
    for match in LINE.finditer(done.stdout):
        family = match["family"]
        cases[family].add(match["case"] or "")
        for what, figure in FIGURE.findall(match["said"]):
            worst[family][what] = max(worst[family].get(what, 0.0), float(figure))
    kinds = ["states", "logits", "vocabulary", "follows", "labels", "pooled", "llama.cpp"]
    print("# Every family against its references\n")
    print(INTRODUCTION.format(transformers=version("transformers"), xllamacpp=version("xllamacpp"), torch=version("torch"),
                              python=platform.python_version()))  # fmt: skip
    print(f"| family | cases | {' | '.join(kinds)} |")
    print(f"|---|---|{'---|' * len(kinds)}")
    for family in sorted(worst):
        figures = [f"{worst[family][kind]:.1e}" if kind in worst[family] else "" for kind in kinds]
        print(f"| {family} | {len(cases[family])} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
