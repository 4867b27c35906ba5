"""What guesses for a model, by what ``load(draft=...)`` says.

auto     what the text said before (speculative.PromptLookup), where the model runs natively: there a token's result is
         the same bits however many are judged together, so that not a word changes; nothing on torch
lookup   the same wherever it runs
none     nothing
SOURCE   a small model with the same tokenizer, on an executor and pages of its own (draft_model.ModelDrafter)
"""

from __future__ import annotations

from pathlib import Path

from hornbook.engine import opening
from hornbook.engine.choose import NativeSample, sample
from hornbook.engine.draft_model import ModelDrafter
from hornbook.engine.lower import read_together
from hornbook.engine.native import NativeExecutor
from hornbook.engine.opening import Opened
from hornbook.engine.remote import is_remote
from hornbook.engine.speculative import Drafter, PromptLookup
from hornbook.errors import UsageError
from hornbook.kernels.library import library
from hornbook.settings import Settings
from hornbook.types import Progress

SILENT = ("auto", "none")  # what any model may be opened with


def drafter_for(
    model: Opened, draft: str | Path, device: str, settings: Settings, progress: Progress | None = None
) -> Drafter | None:
    """Raises what opening a SOURCE raises, and UsageError where it writes no text or has another tokenizer; the model is
    closed then."""
    if draft == "none" or (draft == "auto" and not isinstance(model.executor, NativeExecutor)):
        return None
    if draft in ("auto", "lookup"):
        return PromptLookup()
    try:
        return _model_drafter(model, str(draft), device, settings, progress)
    except BaseException:
        model.executor.close()
        raise


def check_undrafted(draft: str | Path, name: str) -> None:
    """For what is no decoder. Raises UsageError where it was given a draft all the same."""
    if draft not in SILENT:
        raise UsageError(f"{name} does not continue texts token by token: draft is of no use to it", "Leave it out.")


def _model_drafter(
    model: Opened, source: str, device: str, settings: Settings, progress: Progress | None
) -> ModelDrafter:
    small = _open(source, device, settings, progress)
    kernels = library(settings)
    try:
        return ModelDrafter(
            small.executor,
            small.tokenizer,
            model.tokenizer,
            vocab_size=min(model.config.vocab_size, model.tokenizer.vocab_size),
            draw=sample if kernels is None else NativeSample(kernels),
        )
    except BaseException:
        small.executor.close()
        raise


def _open(source: str, device: str, settings: Settings, progress: Progress | None) -> Opened:
    """A small decoder, on the executor that it would get by itself."""
    from hornbook.checkpoint.store import Store

    if is_remote(source):
        raise UsageError(
            "a model on a server cannot draft: its guesses would come too late", "Name one that runs here."
        )
    entry = Store(settings).ensure(source, progress=progress)
    with opening.for_native(entry.path, device, "auto", None, settings) as packed:
        if packed is not None:
            _check_writes(packed.config.language_head and packed.config.causal, entry.name)
            return opening.native_decoder(packed, settings)
    from hornbook.checkpoint import loading

    checkpoint = loading.load(entry.path, device=device, together=read_together)
    config = checkpoint.config
    _check_writes(config.language_head and config.causal and config.encoder is None, entry.name)
    return opening.torch_decoder(checkpoint, settings)


def _check_writes(writes: bool, name: str) -> None:
    if not writes:
        raise UsageError(f"{name} continues no text, and cannot draft", "Name a small language model.")
