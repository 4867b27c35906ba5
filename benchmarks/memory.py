"""Predicted against measured memory: ``hornbook plan``'s figures beside the peak of a process that does the work.

    python benchmarks/memory.py DECODER DECODER ENCODER   # prints the tables of docs/results/memory-plan.md
    python benchmarks/memory.py child '[{"job": ...}]'  # measurements, as JSON: the tests' and the tables'

A measurement of the tables is a process of its own. It first does the same in small, because torch imports 60 to 80 MB of
Python when meta tensors, gradients or an optimiser are first used: that is the program's, not the model's. Then it gives
back what is free, notes its resident memory (``program``), does the work, and reports by how much its peak lies above.
Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
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
    """The most that was resident since ``settle``, in bytes.

    Not ru_maxrss: a process inherits that of the one that started it, which may have been larger.
    """
    return _status("VmHWM")


def settle() -> int:
    """Give back what is free and forget the peak so far; -> what is resident then, in bytes."""
    gc.collect()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # of glibc
        library.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def child(*jobs: dict[str, Any]) -> list[dict[str, Any]]:
    """Measurements one after another in a new process. Raises CalledProcessError, its stderr shown, where that fails."""
    done = subprocess.run(
        [sys.executable, __file__, "child", json.dumps(jobs)], stdout=subprocess.PIPE, text=True, check=True
    )
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


# -------------------------------------------------------------------------------------------------------- in the child


def measure(job: dict[str, Any]) -> dict[str, Any]:
    work = {"answer": answer, "generate": generate, "train": train, "load": load}[job.pop("job")]
    return work(**job)


def answer(model: str, context: int, batch: int, native: bool = True, dtype: str = "auto") -> dict[str, Any]:
    """Load a model as anybody does, and let ``batch`` texts, no two alike, reach ``context`` tokens each; an embedder reads
    them. Counted is all that comes on top of an interpreter that has imported nothing."""
    began = empty()
    from hornbook.llm import LocalLLM, load
    from hornbook.settings import Settings
    from hornbook.types import SamplingParams

    opened: Any = load(model, device="cpu", dtype=dtype, settings=Settings.load(native=native))
    with contextlib.closing(opened):
        if isinstance(opened, LocalLLM):
            prompts = [[1 + (37 * row + 7 * i) % 1000 for i in range(context - 8)] for row in range(batch)]
            opened.generate(prompts, SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True))
        else:
            opened.embed(["word " * (context - opened.special_tokens)] * batch)
        return {"measured": peak() - began, "executor": getattr(opened, "runs_on", None)}


def empty() -> int:
    """What is resident of an interpreter that does nothing, in bytes."""
    script = "print(next(line for line in open('/proc/self/status') if line.startswith('VmRSS:')).split()[1])"
    return 1024 * int(subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True).stdout)


def foreseen(job: dict[str, Any]) -> dict[str, Any]:
    """What ``hornbook plan`` says of a job "answer": not in the process that is measured, for it imports torch."""
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.memory import Request
    from hornbook.engine.forecast import foresee
    from hornbook.settings import Settings

    path, dtype = Path(job["model"]), job.get("dtype", "auto")
    anatomy = Anatomy.read(path)
    settings = Settings.load(native=job.get("native", True))
    running = foresee(path, anatomy.config, "cpu", dtype, settings)
    planned = running.plan(Request(anatomy, job["context"], job["batch"], "float32" if dtype == "auto" else dtype))
    worst = planned.worst
    return {
        "predicted": planned.peak + running.program,
        "executor": running.executor,
        "parts": (running.program + worst.tokenizer, worst.weights, worst.cache, worst.working + worst.allocator),
        "moment": worst.name,
    }


def generate(model: str, context: int, batch: int, dtype: str) -> dict[str, Any]:
    """Load a model and let the plain generator read and write until ``batch`` rows hold ``context`` tokens each."""
    from hornbook.checkpoint import loading
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.memory import Request, plan
    from hornbook.engine.generate import Generator
    from hornbook.model.rolling import RollingCache
    from hornbook.text.stream import StreamDecoder
    from hornbook.types import SamplingParams

    def work(context: int, batch: int) -> int:
        opened = loading.load(model, dtype=dtype, device="cpu")
        loaded, made, tokenizer = peak(), opened.model, opened.tokenizer
        generator = Generator(
            made,
            new_cache=lambda rows, capacity: RollingCache(opened.config, rows, capacity, made.dtype, made.device),
            new_decoder=lambda: StreamDecoder(tokenizer),
            context_length=opened.config.context_length,
            vocab_size=opened.config.vocab_size,
        )
        prompts = [[1 + (row + 7 * i) % 1000 for i in range(context - 8)] for row in range(batch)]
        list(generator.run(prompts, [SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)] * batch))
        return loaded

    predicted = plan(Request(Anatomy.read(Path(model)), context, batch, dtype)).peak
    work(16, 1)
    program = settle()
    loaded = work(context, batch)
    return {"predicted": predicted, "measured": peak() - program, "loaded": loaded - program, "program": program}


def train(
    config: dict[str, Any],
    context: int,
    batch: int,
    dtype: str = "float32",
    method: str = "full",
    optimizer: str = "adamw",
    rank: int = 16,
) -> dict[str, Any]:
    """Two steps of a model of random weights: forward, backward, update, by torch's own forms and with whole logits, as a
    plan without ``fused`` foresees. What a recipe takes is foretold and measured by itself (recipes/forecast.py)."""
    os.environ["HORNBOOK_NATIVE"] = "0"
    import torch
    import torch.nn.functional as F

    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.memory import Request, plan
    from hornbook.model.config import LayerKind, ModelConfig, Rotary
    from hornbook.model.transformer import Transformer

    makers = {"adamw": torch.optim.AdamW, "adafactor": torch.optim.Adafactor}
    rotary = None if config.get("positions") else Rotary()
    shape = ModelConfig(**config, pattern=(LayerKind(rotary=rotary),))
    predicted = plan(
        Request(Anatomy.of(shape), context, batch, dtype, method, optimizer, rank)  # type: ignore[arg-type]
    )

    def work(shape: ModelConfig, context: int, batch: int) -> int:
        model = Transformer(shape).to(getattr(torch, dtype))
        if method != "full":
            adapt(model, rank, packed=method == "qlora")
        trained = [p for p in model.parameters() if p.requires_grad]
        update = makers[optimizer](trained, lr=1e-4)
        ids = torch.randint(shape.vocab_size, (batch, context))
        for _ in range(2):
            update.zero_grad()
            loss = F.cross_entropy(model(ids).logits.float().flatten(0, 1), ids.flatten())
            loss.backward()
            update.step()
        return sum(p.numel() for p in trained)

    work(replace(shape, vocab_size=64, layers=1), 8, 1)
    program, began = settle(), time.perf_counter()
    assert work(shape, context, batch) == predicted.trained
    return {
        "predicted": predicted.peak,
        "measured": peak() - program,
        "moment": predicted.worst.name,
        "seconds": time.perf_counter() - began,
        "program": program,
    }


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


def give_back_at_once() -> None:
    """M_MMAP_THRESHOLD (-3) and M_TRIM_THRESHOLD (-1) of mallopt(3), where there is glibc."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-3, 1 << 16)
        mallopt(-1, 1 << 16)


def load(model: str, dtype: str) -> dict[str, Any]:
    """Load a model, its tokenizer with it, and do nothing with it.

    glibc is told to give every large block back at once: what it would keep of the first load is up to 40 MB more or less.
    """
    from hornbook.checkpoint import loading

    give_back_at_once()
    loading.load(model, dtype=dtype, device="cpu")
    program = settle()
    began = time.perf_counter()
    opened = loading.load(model, dtype=dtype, device="cpu")
    seconds = time.perf_counter() - began
    held = sum(p.numel() * p.element_size() for p in opened.model.parameters())
    return {"predicted": held, "measured": peak() - program, "seconds": seconds, "program": program}


# ------------------------------------------------------------------------------------------------------------ the tables


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def compare(result: dict[str, Any]) -> tuple[str, str, str]:
    predicted, measured = result["predicted"], result["measured"]
    return f"{predicted / 1e6:,.0f}", f"{measured / 1e6:,.0f}", f"{predicted / measured - 1:+.1%}"


def main(*models: str) -> None:
    loading(*models)
    answering(*models)
    running(models[0])
    training()


def loading(*models: str) -> None:
    print("Loading, MB:\n")
    row("model", "dtype", "weights", "measured", "times", "the program", "seconds")
    row(*["---"] * 7)
    for model in models:
        for dtype in ("float32", "bfloat16"):
            (found,) = child({"job": "load", "model": model, "dtype": dtype})
            weights, measured, program = (f"{found[key] / 1e6:,.0f}" for key in ("predicted", "measured", "program"))
            times = f"{found['measured'] / found['predicted']:.2f}"
            row(Path(model).name, dtype, weights, measured, times, program, f"{found['seconds']:.1f}")


def answering(*models: str) -> None:
    print("\nAnswering, MB:\n")
    row("model", "executor", "batch x context", "program", "weights", "cache", "working", "plan", "measured", "error")
    row(*["---"] * 10)
    sizes = ((1, 512), (1, 2048), (16, 512), (16, 2048))
    jobs: list[tuple[str, bool, str, int, int]] = [
        (model, True, "auto", *size) for model in models[:2] for size in sizes
    ]
    jobs += [(models[0], False, "auto", *size) for size in sizes]
    # What no figure of the plan was fitted to:
    jobs += [
        (models[0], False, "bfloat16", 1, 512),
        (models[1], False, "auto", 1, 512),
        (models[2], True, "auto", 8, 256),
    ]
    for model, native, dtype, batch, context in jobs:
        job = {"job": "answer", "model": model, "context": context, "batch": batch, "native": native, "dtype": dtype}
        said = foreseen(job)
        (found,) = child(job)
        assert found["executor"] in (None, said["executor"])
        parts = (f"{part / 1e6:,.0f}" for part in said["parts"])
        row(Path(model).name, said["executor"], f"{batch} x {context:,}", *parts, *compare(said | found))


def running(model: str) -> None:
    print("\nThe plain generator, MB:\n")
    row("batch x context", "dtype", "predicted", "measured", "error", "the program")
    row(*["---"] * 6)
    for batch, context, dtype in (
        (1, 512, "float32"), (1, 4096, "float32"), (8, 512, "float32"), (1, 256, "bfloat16"),
    ):  # fmt: skip
        job = {"job": "generate", "model": model, "context": context, "batch": batch, "dtype": dtype}
        (result,) = child(job)
        row(f"{batch} x {context:,}", dtype, *compare(result), f"{result['program'] / 1e6:,.0f}")


def training() -> None:
    print("\nTraining, MB:\n")
    row("model", "way", "batch x context", "dtype", "predicted", "measured", "error", "the peak is when")
    row(*["---"] * 8)
    for name, config, way, batch, context, dtype in (
        ("wide", WIDE, "full", 1, 128, "float32"), ("wide", WIDE, "full", 2, 512, "float32"),
        ("wide", WIDE, "full", 8, 512, "float32"), ("wide", WIDE, "full", 1, 128, "bfloat16"),
        ("wide", WIDE, "full", 2, 256, "bfloat16"), ("old", OLD, "full", 4, 512, "float32"),
        ("deep", DEEP, "full", 1, 64, "float32"), ("deep", DEEP, "full", 2, 512, "float32"),
        ("deep", DEEP, "adafactor", 1, 128, "float32"), ("wide", WIDE, "lora", 2, 512, "float32"),
        ("deep", DEEP, "lora", 2, 512, "float32"), ("wide", WIDE, "qlora", 4, 128, "float32"),
    ):  # fmt: skip
        job = {"job": "train", "config": config, "batch": batch, "context": context, "dtype": dtype}
        job |= {"optimizer": way} if way == "adafactor" else {"method": way}
        (result,) = child(job)
        row(name, way, f"{batch} x {context:,}", dtype, *compare(result), result["moment"])


if __name__ == "__main__":
    if sys.argv[1] == "child":
        print(json.dumps([measure(job) for job in json.loads(sys.argv[2])]))
    else:
        main(*sys.argv[1:])
