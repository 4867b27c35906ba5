"""The bars of the engine: every row measured, beside llama.cpp, transformers and sentence-transformers, and written down.

    python benchmarks/engine.py [--rounds 5] [--threads 2] [--only decode,prefill] [--work FOLDER] [--write]

The weights: SmolLM2-135M-Instruct as its file is given (Q4_1) and as llama.cpp requantises it (Q4_0, Q8_0), Gemma 3 270M
(Q4_K_M), and a random Llama of 1B's shape (random_llama.py). Each program is a process of its own; they take turns, round by
round. What was measured is kept beside the weights, so that groups can be measured one at a time. --write puts the table into
docs/results/engine.md and, between its marks, into README.md. A row that cannot be measured says so in the table. Leave the
machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hornbook.checkpoint.store import Store
from hornbook.cli.bench import processor
from hornbook.cli.benching.rows import MEMORY, SHARED, Measure, Row, decode, prefill, run
from hornbook.cli.benching.workers import Worker, command_of
from hornbook.settings import Settings

ROOT = Path(__file__).parents[1]
OURS = [sys.executable, "-m", "hornbook.cli.benching.ours", "--draft", "none"]  # a guess that pays is no faster engine
PAGE, README = ROOT / "docs" / "results" / "engine.md", ROOT / "README.md"
BEGIN, END = "<!-- engine: begin, by benchmarks/engine.py -->", "<!-- engine: end -->"


@dataclass(frozen=True)
class Bar:
    """One line of the table: what was measured, what it had to be, and whether it was. ``met`` None: not measured."""

    what: str
    ours: str
    theirs: str
    result: str
    bar: str
    met: bool | None
    short: bool = False  # also in the README
    group: str = ""


@dataclass
class Run:
    rounds: int
    threads: int
    work: Path
    versions: dict[str, str] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    group: str = ""  # of rows, which is being measured

    @property
    def kept(self) -> Path:
        return self.work / "measured.json"

    def recall(self) -> None:
        """What earlier runs have measured; a group that is measured again takes the place of what it said."""
        if self.kept.is_file():
            said = json.loads(self.kept.read_text("utf-8"))
            self.versions, self.bars = said["versions"], [Bar(**bar) for bar in said["bars"]]

    def measure(self, group: str, rows: Callable[[Run], None]) -> None:
        self.group = group
        self.bars = [bar for bar in self.bars if bar.group != group]
        try:
            rows(self)
        except Exception as error:
            self.add(f"{group} rows", "", "", f"not measured: {error}", "", None)
        self.bars.sort(key=lambda bar: list(ROWS).index(bar.group))
        self.kept.write_text(
            json.dumps({"versions": self.versions, "bars": [asdict(bar) for bar in self.bars]}), "utf-8"
        )

    def programs(self, stack: ExitStack, model: Path, peers: Sequence[str]) -> list[Worker]:
        found = []
        for command in [OURS, *(command_of(str(ROOT / "benchmarks" / "peers" / f"{peer}.py")) for peer in peers)]:
            worker = Worker(command, model, self.threads)
            stack.callback(worker.close)
            self.versions[worker.name] = " · ".join(filter(None, (worker.about["version"], worker.about["features"])))
            found.append(worker)
        return found

    def ratio(self, what: str, row: Row, peer: str, bar: float, short: bool = False) -> None:
        """A line that a ratio to a peer decides."""
        mine, theirs, ratio = row.median("hornbook"), row.median(peer), row.ratio("hornbook", peer)
        unit = row.measure.unit
        shown = ["not measured" if value is None else f"{value:,.0f} {unit}" for value in (mine, theirs)]
        why = "; ".join(row.failed.values())
        result = f"{ratio:.2f}x" if ratio else f"not measured{': ' + why if why else ''}"
        self.add(
            what, shown[0], f"{peer} {shown[1]}", result, f">= {bar}x", None if ratio is None else ratio >= bar, short
        )

    def add(
        self, what: str, ours: str, theirs: str, result: str, bar: str, met: bool | None, short: bool = False
    ) -> None:
        self.bars.append(Bar(what, ours, theirs, result, bar, met, short, self.group))
        verdict = {True: "met", False: "MISSED", None: "not measured"}[met]
        print(f"{what}: {ours} | {theirs} | {result} | {bar} | {verdict}", flush=True)


# ------------------------------------------------------------------------------------------------------------- models


def smollm2(_: Run) -> Path:
    return Store(Settings.load()).ensure("smollm2:135m").path


def gemma(_: Run) -> Path:
    return Store(Settings.load()).ensure("gemma3:270m").path


def requantised(work: Run, name: str, number: int) -> Path:
    """The file in another type, as llama.cpp itself makes it."""
    path = work.work / f"smollm2-{name}.gguf"
    if not path.exists():
        script = (
            "import sys; from llama_cpp import llama_cpp as C; C.llama_backend_init(); "
            "p = C.llama_model_quantize_default_params(); p.ftype = int(sys.argv[3]); p.allow_requantize = True; "
            "sys.exit(C.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), p))"
        )
        command = [sys.executable, "-c", script, str(smollm2(work)), str(path), str(number)]
        subprocess.run(command, check=True, capture_output=True)
    return path


def random_1b(work: Run) -> Path:
    path = work.work / "random-1b-Q4_0.gguf"
    if not path.exists():
        script = Path(__file__).parent / "random_llama.py"
        subprocess.run([sys.executable, str(script), str(path)], check=True, capture_output=True)
    return path


# --------------------------------------------------------------------------------------------------------------- rows


def speed(
    work: Run, model: Path, name: str, bars: Sequence[tuple[Measure, float, bool]], peers: Sequence[str]
) -> float | None:
    """Some measures of one file; ``bars``: (measure, how many times llama.cpp, also in the README). -> ours of the first."""
    first: float | None = None
    with ExitStack() as stack:
        programs = work.programs(stack, model, peers)
        for measure, bar, short in bars:
            row = run(measure, programs, work.rounds, 0)
            first = row.median("hornbook") if first is None else first
            work.ratio(f"{measure.title}, {name}", row, "llama.cpp", bar, short)
            if "transformers" in peers:
                work.ratio(f"{measure.title}, {name}, against float32", row, "transformers float32", 1.0)
    return first


def decode_rows(work: Run) -> None:
    rate = speed(work, smollm2(work), "SmolLM2 Q4_1", [(decode(1), 2.2, True), (decode(16), 4.0, True)], ["llamacpp"])
    share_row(work, "one answer, SmolLM2 Q4_1: the same, of the memory's bandwidth", rate, smollm2(work), None)
    q4_0, q8_0 = requantised(work, "Q4_0", 2), requantised(work, "Q8_0", 7)
    speed(work, q4_0, "SmolLM2 Q4_0", [(decode(1), 1.8, True), (decode(16), 2.0, True)], ["llamacpp"])
    speed(work, q8_0, "SmolLM2 Q8_0", [(decode(1), 1.6, True)], ["llamacpp"])


def prefill_rows(work: Run) -> None:
    both = ["llamacpp", "transformers"]
    speed(work, smollm2(work), "SmolLM2 Q4_1", [(prefill(512), 4.0, True), (prefill(2048), 4.0, False)], both)
    q4_0 = requantised(work, "Q4_0", 2)
    speed(work, q4_0, "SmolLM2 Q4_0", [(prefill(512), 1.6, True), (prefill(2048), 1.6, False)], ["llamacpp"])


def gemma_rows(work: Run) -> None:
    bars = [(decode(1), 1.5, True), (prefill(512), 1.5, True), (prefill(2048), 1.5, False)]
    speed(work, gemma(work), "Gemma 3 270M Q4_K_M", bars, ["llamacpp"])


def large_rows(work: Run) -> None:
    model, once = random_1b(work), decode(1)
    with ExitStack() as stack:
        row = run(once, work.programs(stack, model, ["llamacpp"]), work.rounds, 0)
    work.ratio("decode, one answer, random Llama 1B Q4_0", row, "llama.cpp", 1.2)
    share_row(work, "the same, of the memory's bandwidth", row.median("hornbook"), model, 0.7)


def share_row(work: Run, what: str, rate: float | None, model: Path, bar: float | None) -> None:
    """Tokens a second of one answer, as bytes of weights that are read for them, over what the memory gives."""
    reads = bandwidth(work.threads)
    share = None if rate is None else rate * model.stat().st_size / reads
    shown = "not measured" if share is None else f"{100 * share:.0f}%"
    met = None if share is None or bar is None else share >= bar
    work.add(what, "", f"memory {reads / 1e9:.1f} GB/s", shown, "" if bar is None else f">= {100 * bar:.0f}%", met)


def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read from memory at best: the sum of 600 MB, fifteen times."""
    numbers = np.ones(600_000_000 // 8)
    parts = np.array_split(numbers, threads)
    best = math.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(15):
            began = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - began)
    return numbers.nbytes / best


def memory_rows(work: Run) -> None:
    model = smollm2(work)
    with ExitStack() as stack:
        programs = work.programs(stack, model, ["llamacpp"])
        row = run(MEMORY, programs, 1, model.stat().st_size)
        mine, theirs = row.median("hornbook"), row.median("llama.cpp")
        shown = ["not measured" if value is None else f"{value:,.0f} MB" for value in (mine, theirs)]
        met = None if mine is None else mine <= 250
        what = "peak memory beyond the file, a prompt of 2,048 tokens, SmolLM2 Q4_1"
        why = "".join(f": {said}" for said in row.failed.values())
        work.add(what, shown[0], f"llama.cpp {shown[1]}", shown[0] + why, "<= 250 MB", met, True)
        second = run(SHARED, programs[:1], work.rounds, 0).median("hornbook")
    shown_share = "not measured" if second is None else f"{second:.1f}%"
    met = None if second is None else second <= 10
    work.add(
        "a second prompt with the same 1,500 tokens: its time to the first token",
        shown_share,
        "",
        shown_share,
        "<= 10%",
        met,
        True,
    )


def start_rows(work: Run) -> None:
    """Process start to end of a ``run`` that writes one token: the interpreter's end is counted against us. The first of them,
    which does not count, leaves the bytecode of Hornbook's files, which an installation has from pip."""
    command = [sys.executable, "-m", "hornbook", "run", str(smollm2(work)), "--max-tokens", "1", "--offline"]
    command.append("Say one word about the sea, please, and no more.")
    usual = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for name, env, bar in (("native", {}, 1.2), ("torch", {"HORNBOOK_NATIVE": "0"}, 3.5)):
        taken = []
        for _ in range(work.rounds + 1):
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, env=usual | env, check=False)
            taken.append(time.perf_counter() - began)
            if done.returncode:
                raise RuntimeError(done.stderr.strip()[:300])
        middle = statistics.median(taken[1:])
        what = f"process start to the first token of run, {name}"
        work.add(what, f"{middle:.2f} s", "", f"{middle:.2f} s", f"<= {bar} s", middle <= bar, name == "native")


def embedding_rows(work: Run) -> None:
    command = [sys.executable, str(Path(__file__).parent / "embed.py"), "--threads", str(work.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ratio = re.search(r"ratio ([\d.]+)", done.stdout)
    cosine = re.search(r"cosine at least ([\d.]+)", done.stdout)
    if done.returncode or not ratio or not cosine:
        raise RuntimeError((done.stderr.strip() or done.stdout).splitlines()[-1][:300])
    rates = re.findall(r"([\d.]+) passages/s", done.stdout)
    shown = f"{ratio[1]}x at cosine {cosine[1]}"
    met = float(ratio[1]) >= 2 and float(cosine[1]) >= 0.999
    theirs = f"sentence-transformers {rates[1]} passages/s"
    work.add("embedding 200 passages, MiniLM", f"{rates[0]} passages/s", theirs, shown, ">= 2.0x at 0.999", met, True)


def quality_rows(work: Run) -> None:
    """Perplexity of the first 12 stretches of 3,000 characters of wikitext2_valid, each after the begin token."""
    found = ROOT.parent / "shared" / "data" / "lm_text" / "wikitext2_valid.txt.gz"
    text = gzip.decompress(found.read_bytes()).decode("utf-8")
    texts = [text[begin : begin + 3000] for begin in range(0, 36_000, 3000)]
    files = {"SmolLM2 Q4_1": smollm2(work), "SmolLM2 Q4_0": requantised(work, "Q4_0", 2)}
    files |= {"SmolLM2 Q8_0": requantised(work, "Q8_0", 7), "Gemma 3 270M Q4_K_M": gemma(work)}
    for name, model in files.items():
        with ExitStack() as stack:
            programs = work.programs(stack, model, ["llamacpp"])
            perplexities, counts = [], []
            for program in programs:
                said = [program(measure="likelihood", text=part) for part in texts]
                counts.append(sum(one["tokens"] for one in said))
                perplexities.append(math.exp(-sum(one["logprob"] for one in said) / counts[-1]))
        if counts[0] != counts[1]:
            raise RuntimeError(f"{name}: the programs count {counts[0]:,} and {counts[1]:,} tokens")
        mine, theirs = perplexities
        apart = 100 * abs(mine / theirs - 1)
        what = f"perplexity, wikitext2_valid, {name}, {counts[0]:,} tokens"
        work.add(what, f"{mine:.4f}", f"llama.cpp {theirs:.4f}", f"{apart:.3f}%", "within 0.5%", apart <= 0.5)


ROWS: dict[str, Callable[[Run], None]] = {
    "decode": decode_rows, "prefill": prefill_rows, "gemma": gemma_rows, "large": large_rows, "memory": memory_rows,
    "start": start_rows, "embedding": embedding_rows, "quality": quality_rows,
}  # fmt: skip

# -------------------------------------------------------------------------------------------------------------- pages


def table(bars: Sequence[Bar]) -> str:
    verdict = {True: "met", False: "**missed**", None: ""}
    lines = ["| what | Hornbook | beside it | result | bar | |", "|---|---|---|---|---|---|"]
    lines += [f"| {b.what} | {b.ours} | {b.theirs} | {b.result} | {b.bar} | {verdict[b.met]} |" for b in bars]
    return "\n".join(lines)


def page(work: Run, command: str) -> str:
    versions = "\n".join(f"- {name}: {version}" for name, version in sorted(work.versions.items()))
    return f"""# The engine: what was measured

    {command}

Machine: {processor()}, {os.cpu_count()} processors, {platform.platform()}; {work.threads} threads for every program; Python
{platform.python_version()}; {datetime.now(UTC):%Y-%m-%d}. Medians of {work.rounds} rounds, one more before them that does not count; programs take turns
within a round. Decode and prefill go through `load` and `generate`, with draws at temperature 0.8, top-k 40, top-p 0.95, as
llama.cpp's own samplers do beside it; transformers takes the likeliest token.

{table(work.bars)}

{versions}
"""


def write(work: Run, command: str) -> None:
    PAGE.write_text(page(work, command), "utf-8")
    readme = README.read_text("utf-8")
    if BEGIN not in readme or END not in readme:
        raise SystemExit(f"README.md has no place for the table: put these lines where it belongs:\n{BEGIN}\n{END}")
    lines = ["| | Hornbook | beside it | |", "|---|---|---|---|"]
    lines += [f"| {b.what} | {b.ours} | {b.theirs} | {b.result} |" for b in work.bars if b.short and b.met is not None]
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    README.write_text(before + "\n".join([BEGIN, *lines, END]) + after, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default=",".join(ROWS), help="some groups of rows")
    parser.add_argument("--work", type=Path, default=Path("build") / "engine", help="where made model files are kept")
    parser.add_argument("--write", action="store_true", help="into docs/results/engine.md and README.md")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    work = Run(options.rounds, options.threads, options.work)
    work.recall()
    for name in options.only.split(","):
        work.measure(name, ROWS[name])
    if options.write:
        write(work, "python " + " ".join(sys.argv))


if __name__ == "__main__":
    main()
