"""What QLoRA saves: peak memory of training a LoRA on a 1B-shaped Llama in four bits, beside the same in float32.

    python benchmarks/qlora_memory.py [--layers 16] [--rows 1] [--tokens 64] [--steps 2] [--work FOLDER] [--write]

The shape is that of benchmarks/random_llama.py (and of Llama 3.2 1B, but for its vocabulary): 16 layers, width 2,048, 32
heads of 64 over 8, feed-forward 8,192, a tied table of 49,152: 1.07 billion weights, random, written once to FOLDER as
bfloat16. Each measurement is a process of its own that loads the folder, attaches a LoRA of rank 16 to every linear layer,
takes the steps on the same rows, and tells its peak resident memory; also what of it was there before the first step.
Each has the C library do with freed blocks what the recipes have it do: keep them, and for QLoRA give them back
(hornbook/train/allocator.py). --write puts the table into docs/results/qlora-memory.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "qlora-memory.md"
VOCABULARY, WIDTH, HEADS, KV_HEADS, INNER, RANK = 49152, 2048, 32, 8, 8192, 16
BAR, STRETCH = 0.35, 0.25


def write_model(folder: Path, layers: int) -> None:
    """A folder of random weights, one tensor in memory at a time."""
    import torch

    from hornbook.checkpoint.fields import write_json
    from hornbook.checkpoint.safetensors_writer import Out, write_folder

    def out(name: str, *shape: int) -> Out:
        def make() -> torch.Tensor:
            if len(shape) == 1:
                return torch.ones(shape)
            generator = torch.Generator().manual_seed(sum(name.encode()))
            return torch.randn(*shape, generator=generator) * 0.02

        return Out(name, shape, torch.bfloat16, make)

    shared = WIDTH * KV_HEADS // HEADS
    shapes = {
        "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (shared, WIDTH), "self_attn.v_proj": (shared, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
    }  # fmt: skip
    tensors = [out("model.embed_tokens.weight", VOCABULARY, WIDTH), out("model.norm.weight", WIDTH)]
    for layer in range(layers):
        tensors += [out(f"model.layers.{layer}.{name}.weight", *shape) for name, shape in shapes.items()]
    folder.mkdir(parents=True)
    write_folder(folder, tensors, shard_bytes=5_000_000_000)
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": WIDTH,
            "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0, "tie_word_embeddings": True, "dtype": "bfloat16",
        },
    )  # fmt: skip


def measure(kind: str, folder: Path, rows: int, tokens: int, steps: int) -> None:
    """In a process of its own; prints one line of JSON."""
    import torch

    from hornbook.adapt import LoRA, qlora
    from hornbook.checkpoint import loading
    from hornbook.train import allocator
    from hornbook.train.batch import Batch
    from hornbook.train.loop import train
    from hornbook.train.losses import causal_lm

    # as recipes/run.py does it
    (allocator.give_back_freed_memory if kind == "qlora" else allocator.keep_freed_memory)()
    began, imported = time.perf_counter(), peak()
    load = qlora.load if kind == "qlora" else loading.load
    model = load(folder, dtype="float32", device="cpu").model
    weights = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    loaded, at_load = time.perf_counter() - began, peak()
    attached = LoRA(rank=RANK).attach(model, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(attached.parameters(), lr=1e-4)
    done = train(model, [Batch(ids, labels=ids)] * steps, causal_lm(), optimizer, steps=steps)
    print(
        json.dumps(
            {
                "peak": peak(), "imported": imported, "at_load": at_load, "weights": weights, "load_seconds": loaded,
                "step_seconds": done.steps[-1].seconds, "losses": [step.loss for step in done.steps],
                "trained": sum(p.numel() for p in attached.parameters()),
            }
        )
    )  # fmt: skip


def peak() -> int:
    """The most resident memory of this process; that of its parent, which getrusage counts too on Linux, is not in it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("/tmp/hornbook-qlora"))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", choices=["float32", "qlora"])
    options = parser.parse_args()
    folder = options.work / f"random-llama-{options.layers}"
    if options.measure:
        measure(options.measure, folder, options.rows, options.tokens, options.steps)
        return
    if not folder.is_dir():
        write_model(folder, options.layers)
    found = {}
    for kind in ("float32", "qlora"):
        command = [sys.executable, __file__, *sys.argv[1:], "--measure", kind]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[kind] = json.loads(said.splitlines()[-1])
        print(f"{kind}: {said.splitlines()[-1]}", flush=True)
    share = found["qlora"]["peak"] / found["float32"]["peak"]
    print(f"QLoRA takes {share:.1%} of float32's peak; the bar is {BAR:.0%}, the stretch {STRETCH:.0%}")
    if options.write:
        PAGE.write_text(page(found, share, options), "utf-8")


def page(found: dict, share: float, options: argparse.Namespace) -> str:
    rows = [
        f"| {name} | {one['peak'] / 1e9:.2f} GB | {one['at_load'] / 1e9:.2f} GB | {one['weights'] / 1e9:.2f} GB | "
        f"{one['load_seconds']:.0f} s | {one['step_seconds']:.1f} s | {', '.join(f'{x:.3f}' for x in one['losses'])} |"
        for name, one in (("LoRA, float32", found["float32"]), ("QLoRA, NF4", found["qlora"]))
    ]
    return "\n".join(
        [
            "# What QLoRA saves",
            "",
            f"A Llama of {options.layers} layers, width 2,048, feed-forward 8,192 and a tied table of 49,152, random weights; "
            f"LoRA of rank {RANK} on every linear layer ({found['qlora']['trained']:,} weights); {options.rows} rows of "
            f"{options.tokens} tokens, AdamW, {options.steps} steps; computed in float32 on {platform.machine()}, "
            f"{os.cpu_count()} cores. Made by `python benchmarks/qlora_memory.py --write`.",
            "",
            "| | peak memory | peak once loaded | weights | loading | a step | losses |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"QLoRA takes **{share:.1%}** of float32's peak (bar {BAR:.0%}, stretch {STRETCH:.0%}). Matrices of the blocks are "
            "NF4 with double quantisation, 4.13 bits a weight, quantised one by one as they are read; the table of tokens, which "
            "is the head too, stays in bfloat16. A matrix is made whole for each product and forgotten, which is where a step's "
            "longer time goes: with few tokens a step it is most of it.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
