"""Predicted against measured memory: ``hornbook plan``'s figures beside the peak of a process that does the work.

    python benchmarks/memory.py MODEL.gguf            # prints the tables of docs/results/memory-plan.md
    python benchmarks/memory.py child '{"job": ...}'  # one measurement, as JSON: what the tables and the tests are made of

A measurement is a process of its own: it imports everything, notes its resident memory, does the work, and reports by how
much its peak lies above. Linux and macOS.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WIDE: dict[str, Any] = {
    "vocab_size": 8000, "layers": 6, "width": 384, "heads": 6, "kv_heads": 2, "head_width": 64, "feedforward_width": 1024,
    "context_length": 4096, "tied_head": True,
}  # fmt: skip
OLD: dict[str, Any] = {
    "vocab_size": 8000, "layers": 6, "width": 384, "heads": 6, "kv_heads": 6, "head_width": 64, "feedforward_width": 1536,
    "context_length": 4096, "norm": "layer", "gated": False, "activation": "gelu_tanh", "positions": "learned",
}  # fmt: skip
DEEP: dict[str, Any] = WIDE | {"vocab_size": 32_000, "layers": 12, "width": 512, "heads": 8, "feedforward_width": 1408}


def peak() -> int:
    """The most that was resident so far, in bytes.

    Not Linux's ru_maxrss: a process inherits that of the one that started it, which may have been larger.
    """
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def child(job: dict[str, Any]) -> dict[str, Any]:
    """One measurement in a process of its own. Raises CalledProcessError, with its stderr shown, where that fails."""
    done = subprocess.run(
        [sys.executable, __file__, "child", json.dumps(job)], stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# -------------------------------------------------------------------------------------------------------- in the child


def measure(job: dict[str, Any]) -> dict[str, Any]:
    work = {"generate": generate, "train": train, "load": load}[job.pop("job")]
    return work(**job)


def generate(model: str, context: int, batch: int, dtype: str) -> dict[str, Any]:
    """Load a model and let it read and write until ``batch`` rows hold ``context`` tokens each."""
    import hornbook.llm
    from hornbook.checkpoint import loading  # noqa: F401 - so that no import is measured
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.memory import Request, plan
    from hornbook.types import SamplingParams

    predicted = plan(Request(Anatomy.read(Path(model)), context, batch, dtype)).peak
    before = peak()
    llm = hornbook.llm.load(model, dtype=dtype, device="cpu")
    loaded = peak() - before
    prompts = [[1 + (row + 7 * i) % 1000 for i in range(context - 8)] for row in range(batch)]
    llm.generate(prompts, SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True))
    return {"predicted": predicted, "measured": peak() - before, "loaded": loaded}


def train(
    config: dict[str, Any],
    context: int,
    batch: int,
    dtype: str = "float32",
    method: str = "full",
    optimizer: str = "adamw",
    rank: int = 16,
) -> dict[str, Any]:
    """Two steps of a model of random weights: forward, backward, update."""
    import torch
    import torch.nn.functional as F

    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.memory import Request, plan
    from hornbook.model.config import LayerKind, ModelConfig, Rotary
    from hornbook.model.transformer import Transformer

    rotary = None if config.get("positions") else Rotary()
    shape = ModelConfig(**config, pattern=(LayerKind(rotary=rotary),))
    predicted = plan(
        Request(Anatomy.of(shape), context, batch, dtype, method, optimizer, rank)  # type: ignore[arg-type]
    )
    warm = torch.nn.Linear(8, 8)
    warm(torch.randn(4, 8)).sum().backward()
    torch.optim.AdamW(warm.parameters()).step()

    before = peak()
    model = Transformer(shape).to(getattr(torch, dtype))
    if method != "full":
        adapt(model, rank, packed=method == "qlora")
    trained = [p for p in model.parameters() if p.requires_grad]
    makers = {"adamw": torch.optim.AdamW, "adafactor": torch.optim.Adafactor}
    update = makers[optimizer](trained, lr=1e-4)
    ids = torch.randint(shape.vocab_size, (batch, context))
    for _ in range(2):
        update.zero_grad()
        loss = F.cross_entropy(model(ids).logits.float().flatten(0, 1), ids.flatten())
        loss.backward()
        update.step()
    assert sum(p.numel() for p in trained) == predicted.trained
    return {"predicted": predicted.peak, "measured": peak() - before, "moment": predicted.worst.name}


def adapt(model: Any, rank: int, *, packed: bool) -> None:
    """Put a hand-made adapter beside every linear map of the blocks, in place; ``packed``: the map itself in 4 bits."""
    import torch
    from torch import Tensor, nn

    class Unpacked(torch.autograd.Function):
        """x W' with W unpacked for the moment, forwards and backwards: 16 levels, a scale for each 64."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
            ctx.save_for_backward(codes, scales)
            ctx.shape = shape
            return x @ unpack(codes, scales, shape, x.dtype).t()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
            return gradient @ unpack(*ctx.saved_tensors, ctx.shape, gradient.dtype), None, None, None

    def unpack(codes: Tensor, scales: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        out = torch.empty(codes.numel(), 2, dtype=dtype)
        out[:, 0] = codes & 15
        out[:, 1] = codes >> 4
        blocks = out.view(-1, 64)
        return blocks.sub_(7.5).mul_(scales.to(dtype)[:, None]).view(shape)

    class Adapted(nn.Module):
        def __init__(self, plain: nn.Linear) -> None:
            super().__init__()
            dtype, (out, into) = plain.weight.dtype, plain.weight.shape
            self.a, self.b = (
                nn.Parameter(torch.randn(rank, into, dtype=dtype) / into),
                nn.Parameter(torch.zeros(out, rank, dtype=dtype)),
            )
            self.plain: nn.Linear | None = plain
            if packed:
                self.codes = torch.randint(0, 256, (out * into // 2,), dtype=torch.uint8)
                self.scales = torch.full((out * into // 64,), 0.01, dtype=torch.float16)
                self.shape, self.plain = (out, into), None

        def forward(self, x: Tensor) -> Tensor:
            low = x @ self.a.t() @ self.b.t()
            if self.plain is not None:
                return self.plain(x) + low
            mapped: Tensor = Unpacked.apply(x, self.codes, self.scales, self.shape)
            return mapped + low

    model.requires_grad_(False)
    for module in [module for block in model.blocks for module in block.modules()]:
        for name, part in list(module.named_children()):
            if isinstance(part, nn.Linear):
                setattr(module, name, Adapted(part))


def load(model: str, dtype: str) -> dict[str, Any]:
    """Load a model and do nothing with it."""
    from hornbook.checkpoint import loading

    before = peak()
    began = time.perf_counter()
    opened = loading.load(model, dtype=dtype, device="cpu")
    seconds = time.perf_counter() - began
    held = sum(p.numel() * p.element_size() for p in opened.model.parameters())
    return {"predicted": held, "measured": peak() - before, "seconds": seconds}


# ------------------------------------------------------------------------------------------------------------ the tables


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def compare(result: dict[str, Any]) -> tuple[str, str, str]:
    predicted, measured = result["predicted"], result["measured"]
    return f"{predicted / 1e6:,.0f}", f"{measured / 1e6:,.0f}", f"{predicted / measured - 1:+.1%}"


def main(model: str) -> None:
    running(model)
    training()


def running(model: str) -> None:
    print("Running, MB:\n")
    row("batch x context", "dtype", "predicted", "measured", "error")
    row(*["---"] * 5)
    for batch, context, dtype in (
        (1, 256, "float32"), (1, 2048, "float32"), (1, 8192, "float32"), (8, 1024, "float32"), (1, 2048, "bfloat16"),
    ):  # fmt: skip
        job = {"job": "generate", "model": model, "context": context, "batch": batch, "dtype": dtype}
        row(f"{batch} x {context:,}", dtype, *compare(child(job)))


def training() -> None:
    print("\nTraining, MB:\n")
    row("model", "way", "batch x context", "dtype", "predicted", "measured", "error", "the peak is when")
    row(*["---"] * 8)
    for name, config, way, batch, context, dtype in (
        ("wide", WIDE, "full", 1, 128, "float32"), ("wide", WIDE, "full", 4, 256, "float32"),
        ("wide", WIDE, "full", 2, 1024, "float32"), ("wide", WIDE, "full", 8, 512, "float32"),
        ("wide", WIDE, "full", 4, 512, "bfloat16"), ("deep", DEEP, "full", 1, 64, "float32"),
        ("deep", DEEP, "full", 2, 512, "float32"), ("old", OLD, "full", 4, 512, "float32"),
        ("deep", DEEP, "adafactor", 1, 128, "float32"), ("deep", DEEP, "lora", 2, 512, "float32"),
        ("deep", DEEP, "lora", 2, 512, "bfloat16"), ("deep", DEEP, "qlora", 2, 512, "float32"),
    ):  # fmt: skip
        job = {"job": "train", "config": config, "batch": batch, "context": context, "dtype": dtype}
        job |= {"optimizer": way} if way == "adafactor" else {"method": way}
        result = child(job)
        row(name, way, f"{batch} x {context:,}", dtype, *compare(result), result["moment"])


if __name__ == "__main__":
    if sys.argv[1] == "child":
        print(json.dumps(measure(json.loads(sys.argv[2]))))
    else:
        main(sys.argv[1])
