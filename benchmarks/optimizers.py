"""What optimizers and precisions cost and what they learn, each a process of its own.

    python benchmarks/optimizers.py [--steps 400] [--threads 2] [--write]

learn     tinyshakespeare by characters: a Llama of 4 layers, 128 wide, 64 characters, batches of 12, 10% of the steps warm-up,
          then half a cosine; the rate is each optimizer's own. The held-out loss is that of the last tenth's first 25,600
          characters. Every optimizer in float32, then AdamW in every precision for an eighth of the steps.
update    one update of 134.5 million weights in the shapes of SmolLM2-135M, gradients given: seconds, and its states' bytes.
blocks    one step of 2 x 512 tokens through 8 layers of the width of SmolLM2, blocks as they are and recomputed: the peak of
          resident memory above what the model and its gradients take, and seconds.

--write puts the tables into docs/results/optimizers.md. Four minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HORNBOOK_DATA", ROOT.parent / "shared" / "data"))
PAGE = ROOT / "docs" / "results" / "optimizers.md"
BEGIN, END = "<!-- optimizers: begin, by benchmarks/optimizers.py -->", "<!-- optimizers: end -->"
RATES = {"adamw": 3e-3, "adamw8bit": 3e-3, "adafactor": 3e-2, "muon": 6e-3}
CONTEXT, BATCH = 64, 12


def learn(optimizer: str, precision: str, steps: int) -> dict[str, Any]:
    import torch

    from hornbook.model.config import LayerKind, ModelConfig, Rotary
    from hornbook.model.transformer import Transformer
    from hornbook.train import losses, optim, schedule
    from hornbook.train.batch import Batch
    from hornbook.train.evaluate import evaluate
    from hornbook.train.initialise import initialise
    from hornbook.train.loop import train
    from hornbook.train.precision import make

    with gzip.open(DATA / "lm_text" / "tinyshakespeare.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read()
    number = {char: i for i, char in enumerate(sorted(set(text)))}
    ids = torch.tensor([number[char] for char in text])
    cut = len(ids) * 9 // 10
    config = ModelConfig(
        vocab_size=len(number), layers=4, width=128, heads=4, kv_heads=4, head_width=32, feedforward_width=344,
        context_length=CONTEXT, pattern=(LayerKind(rotary=Rotary()),), tied_head=True,
    )  # fmt: skip
    model = initialise(Transformer(config), generator=torch.Generator().manual_seed(0))

    def batches() -> Iterator[Batch]:
        draw = torch.Generator().manual_seed(1)
        while True:
            starts = torch.randint(cut - CONTEXT, (BATCH,), generator=draw)
            rows = ids[starts[:, None] + torch.arange(CONTEXT)]
            yield Batch(rows, rows)

    numbers = make(precision)
    chosen = optim.make(optimizer, numbers.take(model.named_parameters()), rate=RATES[optimizer], weight_decay=0.1)
    done = train(
        model, batches(), losses.causal_lm(), chosen, steps=steps, clip=1.0, precision=numbers,
        schedule=schedule.cosine(steps, warmup=steps // 10),
    )  # fmt: skip
    held = ids[cut : cut + 400 * CONTEXT].view(-1, 100, CONTEXT)
    found = evaluate(model, [Batch(rows, rows) for rows in held], losses.causal_lm(), precision=numbers)
    return {"loss": found.loss, "seconds": done.seconds}


def update(optimizer: str) -> dict[str, Any]:
    import torch

    from hornbook.train import optim

    shapes = {
        "query": (576, 576), "key": (192, 576), "value": (192, 576), "output": (576, 576), "gate": (1536, 576),
        "up": (1536, 576), "down": (576, 1536), "norm": (576,), "norm2": (576,),
    }  # fmt: skip
    named = {f"blocks.{i}.{name}": torch.empty(shape) for i in range(30) for name, shape in shapes.items()}
    named |= {"embed.tokens": torch.empty(49152, 576), "norm": torch.empty(576)}
    parameters = {name: torch.nn.Parameter(tensor.normal_(std=0.02)) for name, tensor in named.items()}
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    chosen = optim.make(optimizer, parameters, rate=1e-4, weight_decay=0.1)
    chosen.step()  # makes the states
    began = time.perf_counter()
    chosen.step()
    seconds = time.perf_counter() - began
    kept = (v for state in chosen.state.values() for v in state.values() if isinstance(v, torch.Tensor))
    return {"seconds": seconds, "states": sum(v.numel() * v.element_size() for v in kept)}


def blocks(how: str) -> dict[str, Any]:
    import torch

    from hornbook.model.config import LayerKind, ModelConfig, Rotary
    from hornbook.model.transformer import Transformer
    from hornbook.train import losses, memory
    from hornbook.train.batch import Batch
    from hornbook.train.blocks import recomputed
    from hornbook.train.initialise import initialise

    config = ModelConfig(
        vocab_size=4096, layers=8, width=576, heads=9, kv_heads=3, head_width=64, feedforward_width=1536,
        context_length=512, pattern=(LayerKind(rotary=Rotary()),), tied_head=True,
    )  # fmt: skip
    model = initialise(Transformer(config), generator=torch.Generator().manual_seed(0)).train()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rows = torch.randint(4096, (2, 512), generator=torch.Generator().manual_seed(1))
    batch, loss = Batch(rows, rows), losses.causal_lm()
    short = replace(batch, ids=rows[:1, :16], labels=rows[:1, :16])
    with recomputed(model) if how == "recomputed" else nullcontext():
        loss(model, short)[0].backward()  # what is made once is there
        before = memory.peak(torch.device("cpu"))
        began = time.perf_counter()
        loss(model, batch)[0].backward()
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "memory": memory.peak(torch.device("cpu")) - before}


def measure(threads: int, *asked: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", *asked]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(asked)} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(*asked, found, file=sys.stderr, flush=True)
    return found


def tables(steps: int, threads: int) -> list[str]:
    lines: list[str] = []
    few = max(1, steps // 8)  # processors without units for short floats are many times slower
    for said, count, cases in (
        ("optimizer", steps, [(name, "float32") for name in RATES]),
        ("precision", few, [("adamw", name) for name in ("float32", "bfloat16", "bfloat16-autocast", "float16")]),
    ):
        lines += [f"| {said} | rate | held-out loss after {count} steps | seconds |", "|---|---|---|---|"]
        for optimizer, precision in cases:
            found = measure(threads, "learn", optimizer, precision, str(count))
            name = optimizer if said == "optimizer" else precision
            lines.append(f"| {name} | {RATES[optimizer]:g} | {found['loss']:.4f} | {found['seconds']:.1f} |")
        lines.append("")
    lines += ["| optimizer | states, MB | states, bytes a weight | an update, seconds |", "|---|---|---|---|"]
    for optimizer in RATES:
        found = measure(threads, "update", optimizer)
        each = found["states"] / 134.5e6
        lines.append(f"| {optimizer} | {found['states'] / 1e6:,.0f} | {each:.2f} | {found['seconds']:.2f} |")
    lines += ["", "| blocks | activations at their peak, MB | a step, seconds |", "|---|---|---|"]
    for how in ("as they are", "recomputed"):
        found = measure(threads, "blocks", how)
        lines.append(f"| {how} | {found['memory'] / 1e6:,.0f} | {found['seconds']:.2f} |")
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        what, *more = sys.argv[2:]
        if what == "learn":
            print(json.dumps(learn(more[0], more[1], int(more[2]))))
        else:
            print(json.dumps({"update": update, "blocks": blocks}[what](more[0])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    lines = tables(given.steps, given.threads)
    print("\n".join(lines))
    if given.write:
        from hornbook.cli.bench import processor

        said = (
            f"{processor()}, {given.threads} threads, {platform.system()}, Python {platform.python_version()}, torch "
            f"{version('torch')}; {datetime.now(UTC):%Y-%m-%d}; `python benchmarks/optimizers.py --steps {given.steps}`"
        )
        page = PAGE.read_text("utf-8")
        head, rest = page.split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n{said}\n\n" + "\n".join(lines) + f"\n{END}{rest.split(END)[1]}", "utf-8")


if __name__ == "__main__":
    main()
