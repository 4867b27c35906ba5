"""Which executor runs a model here: native kernels on the processor where they can, torch everywhere else.

    path -> config -> accelerator? -> torch             a GPU, or asked for by device or dtype
                   -> can be lowered, native kernels there and able? -> native, and torch is never imported
                   -> otherwise torch, and the log says why, once

    an adapter -> LoRA: beside the weights, in the engine      -> merged into them: DoRA, IA3, what trained norms as well
               -> attached, and the plain generator (plain.py): what is no change of the weights

How many pages a model gets is decided here too, by the memory of the machine.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hornbook.checkpoint.machine import available
from hornbook.checkpoint.packed import Packed, held, open_packed, rounded
from hornbook.engine import native
from hornbook.engine.executor import PAGE, Executor
from hornbook.engine.lower import lower, obstacle
from hornbook.errors import UnsupportedModel, UsageError
from hornbook.model.config import ModelConfig
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.checkpoint.family import Family
    from hornbook.checkpoint.loading import Checkpoint
    from hornbook.engine.driver import Driver
    from hornbook.engine.encode import Encoder
    from hornbook.engine.grammar import Vocabulary
    from hornbook.engine.plain import OpenedPlain
    from hornbook.engine.speculative import Drafter
    from hornbook.text.chat import ChatTemplate
    from hornbook.text.tokenizer import Tokenizer

log = logging.getLogger("hornbook")

USUAL_CACHE = 2**30  # bytes for keys and values where nothing else is said; one text of full length may take more
SHARE = 4  # and at most one part in so many of the memory that is free
_told: set[str] = set()


@dataclass(frozen=True, slots=True)
class Opened:
    """A decoder that runs, and what belongs to it."""

    executor: Executor
    config: ModelConfig
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    path: Path
    family: Family

    @property
    def name(self) -> str:
        """On what it runs."""
        return self.executor.name

    @property
    def context_length(self) -> int:
        return self.config.context_length

    def driver(
        self, vocabulary: Vocabulary, vocab_size: int, settings: Settings | None, *,
        max_running: int, drafter: Drafter | None,
    ) -> Driver:  # fmt: skip
        """What lets any number of threads ask it."""
        from hornbook.engine.driver import Driver
        from hornbook.engine.engine import Engine
        from hornbook.kernels.library import library
        from hornbook.text.stream import StreamDecoder

        # Pages are set aside by now; what is free besides is for the steps.
        memory, pages = available(), self.executor.pages * self.executor.page_bytes
        return Driver(
            Engine(
                self.executor,
                new_decoder=lambda: StreamDecoder(self.tokenizer),
                vocab_size=vocab_size,
                stop_ids=self.tokenizer.stop_ids,
                max_running=max_running,
                vocabulary=vocabulary,
                memory=None if memory is None else pages + memory,
                kernels=library(settings),
                drafter=drafter,
            )
        )


@contextmanager
def for_native(path: Path, device: str, dtype: str, stretch: str | None, settings: Settings) -> Iterator[Packed | None]:
    """The open file where the native kernels run it; None where torch must, of which the log says the reason once."""
    if dtype != "auto" or not settings.native or on_accelerator(device):  # known before the file is read
        yield None
        return
    try:
        packed = open_packed(path, stretch=stretch)
    except UnsupportedModel as error:  # what torch cannot take either it will say itself
        _tell(path, error.what, settings)
        yield None
        return
    with packed:
        reason = why_torch(packed, settings)
        if reason is not None and packed.config.encoder is None:
            _tell(path, reason, settings)
        yield packed if reason is None else None


def why_torch(packed: Packed, settings: Settings) -> str | None:
    """Why an open model does not run natively on this processor; None where it does."""
    return obstacle(packed.config) or native.supports(lower(packed.config), packed.weights, settings)


def native_decoder(packed: Packed, settings: Settings) -> Opened:
    plan = lower(packed.config)
    pages = pages_for(packed.config, native.page_bytes(plan, settings.cache, settings), settings)
    executor = native.NativeExecutor(plan, packed.weights, pages, cache=settings.cache, settings=settings)
    return Opened(executor, packed.config, packed.tokenizer, packed.chat_template, packed.path, packed.family)


def native_encoder(packed: Packed, settings: Settings) -> Encoder:
    """Matrices of floats are rounded to eight bits a weight, 32 of them sharing a scale: vectors turn by next to nothing (their
    cosine to the full ones is above 0.999), and come sooner."""
    from hornbook.engine.encode import NativeEncoder

    plan = lower(replace(packed.config, language_head=False))
    weights = {name: rounded(tensor, "Q8_0") for name, tensor in packed.weights.items()}
    executor = native.NativeExecutor(plan, weights, 0, settings=settings)
    return NativeEncoder(executor, packed.config.pooling or "mean")


def torch_decoder(checkpoint: Checkpoint, settings: Settings) -> Opened:
    """Raises UnsupportedModel where the engine's operations do not reach."""
    from hornbook.engine.torch_executor import TorchExecutor

    config, model = checkpoint.config, checkpoint.model
    plan = lower(config)
    page = 2 * config.layers * config.kv_heads * config.head_width * PAGE * model.dtype.itemsize
    executor = TorchExecutor(
        plan, dict(model.named_parameters()), pages_for(config, page, settings, str(model.device)), model.device, model.dtype
    )  # fmt: skip
    return Opened(executor, config, checkpoint.tokenizer, checkpoint.chat_template, checkpoint.path, checkpoint.family)


def with_adapter(checkpoint: Checkpoint, folder: Path) -> None:
    """Put an adapter on a model that torch has loaded: merged into its weights where it is a change of them, else attached.

    Raises what ``hornbook.adapt.load`` raises.
    """
    from hornbook import adapt

    attached = adapt.load(checkpoint.model, folder)
    if attached.mergeable:
        attached.merge(forever=True)
    for parameter in checkpoint.model.parameters():
        parameter.requires_grad_(False)


def adapted_decoder(checkpoint: Checkpoint, device: str, dtype: str, settings: Settings) -> Opened | OpenedPlain:
    """A model of ``with_adapter``: a merged one natively where that can be, else with torch; an attached one plainly."""
    from hornbook.engine.plain import OpenedPlain

    if checkpoint.model.attached:
        return OpenedPlain(checkpoint)
    if dtype != "auto" or not settings.native or on_accelerator(device) or obstacle(checkpoint.config):
        return torch_decoder(checkpoint, settings)
    weights = {name: held(name, weight.detach().numpy()) for name, weight in checkpoint.model.named_parameters()}
    plan = lower(checkpoint.config)
    if native.supports(plan, weights, settings):
        return torch_decoder(checkpoint, settings)
    pages = pages_for(checkpoint.config, native.page_bytes(plan, settings.cache, settings), settings)
    executor = native.NativeExecutor(plan, weights, pages, cache=settings.cache, settings=settings)
    return Opened(
        executor, checkpoint.config, checkpoint.tokenizer, checkpoint.chat_template, checkpoint.path, checkpoint.family
    )


def four_bit_decoder(path: Path, device: str, stretch: str | None, settings: Settings) -> Opened:
    """With torch, weights kept in four bits (four_bit.py). Raises UnsupportedModel as ``torch_decoder`` and ``open_packed`` do."""
    from hornbook.checkpoint.loading import pick_device, pick_dtype
    from hornbook.engine.four_bit import four_bit_weights
    from hornbook.engine.torch_executor import TorchExecutor

    where = pick_device(device)
    dtype = pick_dtype("auto", where)
    with open_packed(path, stretch=stretch) as packed:
        config, plan = packed.config, lower(packed.config)
        if not (config.causal and config.language_head):
            raise UsageError(f"{path.name} writes no text: dtype int4 is for models that do", "Leave dtype out.")
        page = 2 * config.layers * config.kv_heads * config.head_width * PAGE * dtype.itemsize
        weights = four_bit_weights(plan, packed.weights, where, dtype)
        executor = TorchExecutor(plan, weights, pages_for(config, page, settings, str(where)), where, dtype)
        return Opened(executor, config, packed.tokenizer, packed.chat_template, path, packed.family)


def on_accelerator(device: str) -> bool:
    """Whether torch would compute elsewhere than on the processor. torch is imported only where that is possible."""
    if device == "cpu":
        return False
    if device != "auto":
        return True
    if not (Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists() or sys.platform in ("darwin", "win32")):
        return False
    from hornbook.checkpoint.loading import pick_device

    return pick_device("auto").type != "cpu"


def pages_for(config: ModelConfig, page_bytes: int, settings: Settings, device: str = "cpu") -> int:
    """How many pages: for ``cache_mb`` where it is set; else for one text of full length and no less than USUAL_CACHE, within
    a share of what is free. Raises UsageError where not even one page fits."""
    whole = -(-config.context_length // PAGE)
    if settings.cache_mb:
        pages = int(settings.cache_mb * 2**20) // page_bytes
    else:
        from hornbook.checkpoint.machine import room

        found = room(device) if device != "cpu" else None
        free = found.free if found is not None else available()
        pages = max(whole, USUAL_CACHE // page_bytes)
        if free is not None:
            pages = min(pages, free // SHARE // page_bytes)
    if pages < 2:
        raise UsageError(
            f"keys and values get {pages} pages of {page_bytes / 1e6:.1f} MB, and an answer needs two",
            "Set HORNBOOK_CACHE_MB higher, or free some memory.",
        )
    return pages


def _tell(path: Path, reason: str, settings: Settings) -> None:
    line = f"{path.name} runs with torch: {reason}"
    if settings.native and line not in _told:
        _told.add(line)
        log.warning(line)
