"""How fast a GPU pre-trains a model of GPT-2's small shape: tokens a second, model FLOP utilisation and memory.

    python benchmarks/gpu_pretraining.py                 124 million weights, 1,024 tokens a row, bfloat16; about 3 minutes
    python benchmarks/gpu_pretraining.py --tiny          the same steps of a tiny shape, on whatever there is: a smoke test

The loop is the one that recipes use (`hornbook.train.loop`): bfloat16 passes with float32 copies of the weights, torch's
fused AdamW, its flash attention, blocks compiled or not. Tokens are random: they cost what real ones do. The first steps,
in which things are compiled, are left out of the figures, and are told. Utilisation is PaLM's measure (hornbook/train/utilisation.py).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from hornbook.model.config import ModelConfig
from hornbook.model.transformer import Transformer
from hornbook.train import blocks, optim, precision
from hornbook.train.batch import Batch
from hornbook.train.initialise import initialise
from hornbook.train.loop import Step, train
from hornbook.train.losses import causal_lm
from hornbook.train.utilisation import peak, utilisation

GPT2 = ModelConfig(
    vocab_size=50304, layers=12, width=768, heads=12, kv_heads=12, head_width=64, feedforward_width=3072,
    context_length=1024, positions="learned", norm="layer", gated=False, activation="gelu_tanh", qkv_bias=True,
    attention_output_bias=True, feedforward_bias=True, tied_head=True,
)  # fmt: skip
TINY = replace(
    GPT2,
    vocab_size=256,
    layers=2,
    width=64,
    heads=4,
    kv_heads=4,
    head_width=16,
    feedforward_width=256,
    context_length=64,
)


def batches(config: ModelConfig, rows: int, device: torch.device) -> Iterator[Batch]:
    draw = torch.Generator(device).manual_seed(0)
    while True:
        ids = torch.randint(config.vocab_size, (rows, config.context_length), generator=draw, device=device)
        yield Batch(ids, ids)


def measure(
    config: ModelConfig, device: torch.device, *, rows: int, accumulate: int, steps: int, warm: int, compiled: bool
) -> tuple[float, float, int, float]:
    """-> tokens a second, seconds of the first ``warm`` steps, peak memory in bytes, the last loss."""
    torch.manual_seed(0)
    with device:
        model = initialise(Transformer(config))
    numbers = precision.make("bfloat16" if device.type == "cuda" else "float32")
    trained = numbers.take(model.named_parameters())
    optimizer = optim.make("adamw", trained, rate=6e-4, weight_decay=0.1)
    if compiled and not blocks.compiled(model, device):
        raise SystemExit("torch.compile does not work here")
    began, ends = time.perf_counter(), []
    memory = 0

    def on_step(step: Step) -> None:
        nonlocal memory
        ends.append(time.perf_counter())
        memory = step.memory

    run = train(
        model, batches(config, rows, device), causal_lm(), optimizer, steps=warm + steps, accumulate=accumulate, clip=1.0,
        precision=numbers, on_step=[on_step],
    )  # fmt: skip
    took = statistics.median(after - before for before, after in zip(ends[warm - 1 :], ends[warm:], strict=False))
    return rows * accumulate * config.context_length / took, ends[warm - 1] - began, memory, run.steps[-1].loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, on whatever device there is")
    parser.add_argument("--rows", type=int, default=32, help="of a micro-batch")
    parser.add_argument("--accumulate", type=int, default=8, help="micro-batches of a step")
    asked = parser.parse_args()
    if not torch.cuda.is_available() and not asked.tiny:
        sys.exit("this measures a GPU and torch finds none here; --tiny goes through the same steps on the processor")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = TINY if asked.tiny else GPT2
    rows, accumulate = (4, 2) if asked.tiny else (asked.rows, asked.accumulate)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    most = peak(name)
    weights = sum(weight.numel() for weight in Transformer(config).parameters())
    print(
        f"{name}, torch {torch.__version__}: {weights / 1e6:,.1f}M weights, {rows} x {config.context_length} tokens x {accumulate}"
    )
    print("| blocks | tokens/s | utilisation | peak memory | first steps | loss |")
    print("|---|---|---|---|---|---|")
    for compiled in (False, True) if device.type == "cuda" else (False,):
        steps, warm = (3, 2) if asked.tiny else (20, 5)
        speed, first, memory, loss = measure(
            config, device, rows=rows, accumulate=accumulate, steps=steps, warm=warm, compiled=compiled
        )
        share = (
            "unknown peak"
            if most is None
            else f"{utilisation(Transformer(config), config.context_length, speed, most):.1%}"
        )
        print(
            f"| {'compiled' if compiled else 'as they are'} | {speed:,.0f} | {share} | {memory / 1e9:.2f} GB | {first:.0f} s | {loss:.3f} |"
        )
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
