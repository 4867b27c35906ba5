"""Every way of adapting a model on one task: which of MMLU's four fields a question belongs to.

    python benchmarks/adapters.py [--only LoRA,IA3] [--train 1280] [--test 684] [--epochs 1] [--seed 0] [--write]

all-MiniLM-L6-v2 (6 layers of width 384) reads the question; the mean of its states goes through a linear layer of 4 x 384,
which every method trains beside what is its own ("head only" trains nothing else). Trained on questions of mmlu_val, tested
on mmlu_test_sample, each method in a process of its own, one after the other, with the learning rate that stands beside it
(chosen with --held-out, which never looks at the test).
--write puts the table into docs/results/adapters.md. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "reasoning"
PAGE = ROOT / "docs" / "results" / "adapters.md"
BEGIN, END = "<!-- table: begin, by benchmarks/adapters.py -->", "<!-- table: end -->"
MODEL = "minilm"
LONGEST = 48  # tokens of a question, its first ones
ROWS = 16  # questions of a step
HEAD_RATE = 1e-2

# The groups of arXiv 2009.03300 as its authors' own code has them; what is not named here is STEM.
LABELS = ("STEM", "humanities", "social sciences", "other")
GROUPS = {
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history "
    "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory "
    "professional_law world_religions",
    "social sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
    "other": "anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing "
    "medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology",
}
GROUP_OF = {subject: group for group, subjects in GROUPS.items() for subject in subjects.split()}


@dataclass(frozen=True)
class Method:
    name: str
    kind: str  # of hornbook.adapt.KINDS, or "full", "head"
    rate: float  # of all but the head
    settings: Mapping[str, Any]
    said: str = ""
    four_bits: bool = False


METHODS = (
    Method("head only", "head", 0.0, {}, "4 x 384 and 4 numbers, as in all that follow"),
    Method("full fine-tuning", "full", 1e-4, {}),
    Method("LoRA", "lora", 1e-3, {"rank": 8, "alpha": 16.0}, "rank 8, all linear layers"),
    Method("rsLoRA", "lora", 1e-3, {"rank": 8, "alpha": 8.0, "rslora": True}, "rank 8, alpha / sqrt(rank)"),
    Method("DoRA", "dora", 1e-3, {"rank": 8, "alpha": 16.0}, "rank 8, all linear layers"),
    Method("QLoRA", "lora", 1e-3, {"rank": 8, "alpha": 16.0}, "the same LoRA on NF4", four_bits=True),
    Method("prompt tuning", "prompt", 3e-2, {"tokens": 10}, "10 vectors"),
    Method("P-tuning", "ptuning", 3e-3, {"tokens": 10, "hidden": 128}, "10 vectors, MLP of width 128"),
    Method("prefix tuning", "prefix", 1e-1, {"tokens": 10}, "10 places a layer"),
    Method("bottleneck", "bottleneck", 1e-3, {"width": 16}, "width 16, after both parts"),
    Method("IA3", "ia3", 2e-2, {}, "keys, values, inner states"),
    Method("LoReFT", "loreft", 5e-3, {"rank": 4, "first": 4, "last": 4}, "rank 4, all layers, 4 + 4 tokens"),
)


def questions(name: str, count: int, seed: int) -> list[tuple[str, str]]:
    """(question, group), as many of each subject as can be, of a file of ``name``."""
    by_subject: dict[str, list[str]] = {}
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            by_subject.setdefault(row["subject"], []).append(row["question"])
    draw = random.Random(seed)
    for own in by_subject.values():
        draw.shuffle(own)
    turns = [(i, subject) for subject, own in by_subject.items() for i in range(len(own))]
    draw.shuffle(turns)
    turns.sort(key=lambda turn: turn[0])  # the first question of every subject, then the second
    return [(by_subject[subject][i], GROUP_OF.get(subject, "STEM")) for i, subject in turns[:count]]


def sets(arguments: argparse.Namespace) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What is trained on, and what is tested on."""
    rows = questions("mmlu_val", 10**6, arguments.seed)
    if arguments.held_out:
        return rows[300:][: arguments.train], rows[:300]
    return rows[: arguments.train], questions("mmlu_test_sample", arguments.test, arguments.seed)


# ------------------------------------------------------------------------------------------- one method, in its own process


def measure(method: Method, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    from hornbook.adapt import KINDS, qlora
    from hornbook.checkpoint.loading import load
    from hornbook.checkpoint.store import Store
    from hornbook.model.heads import pool
    from hornbook.model.transformer import Transformer
    from hornbook.settings import Settings
    from hornbook.train.batch import Batch, pad
    from hornbook.train.loop import train
    from hornbook.train.losses import Counts, Metrics
    from hornbook.train.schedule import linear

    path = Store(Settings.load()).ensure(MODEL).path
    opened = (qlora.load if method.four_bits else load)(path, device="cpu", dtype="float32")
    model, tokenizer = opened.model, opened.tokenizer

    def batches(rows: Sequence[tuple[str, str]]) -> list[Batch]:
        """Rows of like length together."""
        found = [(tokenizer.encode(text)[:LONGEST], LABELS.index(group)) for text, group in rows]
        found.sort(key=lambda row: len(row[0]))
        return [
            Batch(
                pad([ids for ids, _ in rows], 0),
                torch.tensor([label for _, label in rows]),
                pad([[1] * len(ids) for ids, _ in rows], 0).bool(),
            )
            for rows in (found[i : i + ROWS] for i in range(0, len(found), ROWS))
        ]

    seed = arguments.seed
    torch.manual_seed(seed)
    head = nn.Linear(model.config.width, len(LABELS))

    def scores(model: Transformer, batch: Batch) -> Tensor:
        """[B,4]"""
        logits: Tensor = head(pool(model(batch.ids, mask=batch.mask, logits="none").hidden, batch.mask, "mean"))
        return logits

    class Field:
        """The cross-entropy of the four fields; a Loss."""

        def count(self, batch: Batch) -> Counts:
            return {"field": len(batch.labels)}

        def __call__(self, model: Transformer, batch: Batch, *, over: Counts | None = None) -> tuple[Tensor, Metrics]:
            total = F.cross_entropy(scores(model, batch), batch.labels, reduction="sum")
            mean = total / (over or self.count(batch))["field"]
            return mean, {"field": mean.detach()}

    to_train, to_test = sets(arguments)
    data, order = batches(to_train), random.Random(seed)
    steps = [batch for _ in range(arguments.epochs) for batch in order.sample(data, len(data))]
    own: list[nn.Parameter]
    if method.kind in KINDS:
        attached = KINDS[method.kind](**method.settings).attach(model, generator=torch.Generator().manual_seed(seed))
        own = list(attached.parameters())
    else:
        model.requires_grad_(method.kind == "full")
        own = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": head.parameters(), "lr": HEAD_RATE}, *([{"params": own, "lr": method.rate}] if own else [])]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = linear(len(steps) + 1, warmup=max(1, len(steps) // 10))
    before = reset_peak()
    started = time.perf_counter()
    run = train(model, steps, Field(), optimizer, steps=len(steps), clip=1.0, schedule=schedule)
    seconds, memory = time.perf_counter() - started, peak()
    right = total = 0
    model.eval()
    with torch.inference_mode():
        for batch in batches(to_test):
            right += int((scores(model, batch).argmax(-1) == batch.labels).sum())
            total += len(batch.labels)
    return {
        "name": method.name,
        "accuracy": right / total,
        "test": total,
        "trained": sum(p.numel() for p in own),
        "seconds": seconds,
        "memory": memory,
        "before": before,
        "losses": [step.loss for step in run.steps],
        "steps": len(steps),
        "tokens": sum(int(batch.mask.sum()) for batch in steps if batch.mask is not None),
    }


def reset_peak() -> int:
    """Let the process's peak of memory count from now; -> what it holds now, in bytes. Linux only."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    return peak()


def peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text("ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


# ---------------------------------------------------------------------------------------------------------------- the page


def table_of(found: Sequence[Mapping[str, Any]]) -> str:
    methods = {method.name: method for method in METHODS}
    lines = ["| method | settings | rate | accuracy | loss, last tenth | trained | seconds | peak memory |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in found:
        method = methods[row["name"]]
        error = math.sqrt(row["accuracy"] * (1 - row["accuracy"]) / row["test"])
        last = row["losses"][-max(1, len(row["losses"]) // 10) :]
        cells = [
            method.name,
            method.said,
            f"{method.rate:g}" if method.rate else "",
            f"{row['accuracy']:.1%} ± {error:.1%}",
        ]
        cells += [f"{sum(last) / len(last):.2f}", f"{row['trained']:,}", f"{row['seconds']:.1f}"]
        cells.append(f"{row['memory'] / 1e6:,.0f} MB")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(found: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> None:
    import torch

    from hornbook.cli.bench import processor

    test = questions("mmlu_test_sample", arguments.test, arguments.seed)
    most = Counter(group for _, group in test).most_common(1)[0]
    said = (
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}: "
        f"{arguments.train:,} questions, epochs {arguments.epochs} ({found[-1]['tokens']:,} tokens, {found[-1]['steps']} "
        f"steps), tested on {found[-1]['test']}, seed {arguments.seed}, "
        f"`{' '.join(['python', 'benchmarks/adapters.py', *sys.argv[1:]])}`. "
        f"The commonest field ({most[0]}) is {most[1] / found[-1]['test']:.1%} of the test; ± is one standard error of "
        f"the test's size."
    )
    text = PAGE.read_text("utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n\n{said}\n\n{table_of(found)}\n\n{END}{tail}", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of methods, with commas")
    parser.add_argument("--train", type=int, default=1280, help="questions to train on")
    parser.add_argument("--test", type=int, default=684, help="questions to test on")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, help="another rate than that of the method")
    parser.add_argument(
        "--held-out", action="store_true", help="test on 300 questions of mmlu_val, which are not trained on"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/adapters.md")
    parser.add_argument("--method", help=argparse.SUPPRESS)  # this process measures one
    arguments = parser.parse_args()
    if arguments.method:
        method = next(method for method in METHODS if method.name == arguments.method)
        method = method if arguments.rate is None else replace(method, rate=arguments.rate)
        print(json.dumps(measure(method, arguments)))
        return
    only = [name for name in arguments.only.split(",") if name]
    if unknown := set(only) - {method.name for method in METHODS}:
        parser.error(f"no methods are called {sorted(unknown)}: {', '.join(method.name for method in METHODS)}")
    found = []
    for method in METHODS:
        if only and method.name not in only:
            continue
        own = ["--method", method.name, "--train", arguments.train, "--test", arguments.test]
        own += ["--epochs", arguments.epochs, "--seed", arguments.seed, *(["--held-out"] if arguments.held_out else [])]
        own += [] if arguments.rate is None else ["--rate", arguments.rate]
        command = [sys.executable, __file__, *map(str, own)]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        found.append(row)
        trend = [f"{loss:.2f}" for loss in row["losses"][:: max(1, len(row["losses"]) // 6)]]
        print(f"{row['name']}: {row['accuracy']:.1%}, {row['seconds']:.1f} s, {trend}", file=sys.stderr)
    print(table_of(found))
    if arguments.write:
        write(found, arguments)


if __name__ == "__main__":
    main()
