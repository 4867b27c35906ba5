"""Write a model as a Hugging Face folder, such as transformers and every tool beside it reads.

    model, config --family's maps, backwards--> model.safetensors (or shards), config.json
    tokenizer, chat template, generation       --> tokenizer.json, tokenizer_config.json, chat_template.jinja, ...

The same maps that load a model save it. What another format said is said in this one's words, or is a named error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hornbook.adapt import folding
from hornbook.checkpoint import families, sentence_folder
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import choose, write_json
from hornbook.checkpoint.loading import DTYPES, Checkpoint
from hornbook.checkpoint.rules import Rule, expand
from hornbook.checkpoint.safetensors_writer import Out, write_folder
from hornbook.errors import HornbookError, StoreError, UnsupportedModel
from hornbook.model.config import ModelConfig
from hornbook.model.transformer import Transformer
from hornbook.text.chat import ChatTemplate
from hornbook.text.tokenizer import Tokenizer

SHARD = 5_000_000_000  # bytes
IDS = ("bos", "eos", "pad")


class Shapes(NamedTuple):
    """Names and shapes of tensors that are going to be written, to be asked as an open file is."""

    tensors: Mapping[str, torch.Tensor]

    def tensor(self, name: str) -> np.ndarray[Any, Any]:
        """The values; of what has none yet numbers that equal nothing, so that no tensor is taken for another's copy."""
        found = self.tensors[name]
        return np.broadcast_to(np.float32(np.nan), found.shape) if found.is_meta else found.float().numpy()


def save(checkpoint: Checkpoint, folder: str | Path, *, dtype: str | None = None, shard_bytes: int = SHARD) -> None:
    """Write ``checkpoint`` into ``folder``, which is made; dtype: float32, bfloat16, float16, or as the model is.

    Raises UnsupportedModel where no config.json can say what the model is, StoreError where it cannot be written.
    """
    family, raw = checkpoint.family, dict(checkpoint.metadata)
    if families.HUGGING_FACE.get(family.name) is not family:
        family, raw = _twin(checkpoint), {}
    save_model(
        checkpoint.model,
        folder,
        family=family,
        tokenizer=None if isinstance(checkpoint.text, HornbookError) else checkpoint.tokenizer,
        chat_template=checkpoint.chat_template,
        generation=checkpoint.generation,
        said=raw,
        dtype=dtype,
        shard_bytes=shard_bytes,
    )
    sentence_folder.write(Path(folder), checkpoint.config, checkpoint.path)


def save_model(
    model: Transformer,
    folder: str | Path,
    *,
    family: Family,
    tokenizer: Tokenizer | None = None,
    chat_template: ChatTemplate | None = None,
    generation: Mapping[str, Any] | None = None,
    said: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD,
) -> None:
    """As ``save``, for a model that was made here. ``said``: what the config.json it came from said, kept word for word
    where it still holds. An adapter that is attached is in what is written."""
    folder, config = Path(folder), model.config
    kept = model.dtype if dtype is None else choose(DTYPES, dtype, "the dtype")
    rules = expand(family.table(config), config, folding.shapes(model))
    tensors = _tensors(model, rules, family, kept)
    described = _describe(
        config, family, dict(said or {}), Shapes({out.name: torch.empty(out.shape, device="meta") for out in tensors})
    )
    described["dtype"] = str(kept).removeprefix("torch.")
    if tokenizer is not None:
        for name in IDS:
            described.setdefault(f"{name}_token_id", getattr(tokenizer, f"{name}_id"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}", "Name another folder.") from error
    if tokenizer is not None:
        tokenizer.save(folder, chat_template, context_length=config.context_length)
    ends = sorted(tokenizer.stop_ids) if tokenizer is not None and config.causal and config.language_head else []
    if generation or ends:
        write_json(folder / "generation_config.json", dict(generation) if generation else {"eos_token_id": ends})
    write_json(folder / "config.json", described)
    write_folder(folder, tensors, shard_bytes)


def _twin(checkpoint: Checkpoint) -> Family:
    name = checkpoint.family.twin_of(checkpoint.config)
    if name is None:
        raise UnsupportedModel(
            f"a model of {checkpoint.family.name} has no form as a Hugging Face folder", "Export it as GGUF."
        )
    return families.HUGGING_FACE[name]


def _tensors(model: Transformer, rules: list[Rule], family: Family, dtype: torch.dtype) -> list[Out]:
    """What the file is going to hold, in the order of its names; nothing is computed yet."""
    shapes = {name: torch.empty(shape, device="meta") for name, shape in folding.shapes(model).items()}
    prefix = family.prefix if has_head(model.config) else ""
    found = []
    for rule in rules:
        for i, (name, shape) in enumerate(
            zip(rule.theirs, rule.transform.theirs(tuple(shapes[n] for n in rule.ours)), strict=True)
        ):

            def make(rule: Rule = rule, i: int = i) -> torch.Tensor:
                with torch.no_grad():
                    ours = tuple(folding.value(model, name) for name in rule.ours)
                    made: torch.Tensor = rule.transform.theirs(ours)[i]
                return made

            spelled = f"{prefix}{name}".removeprefix(".") if name.startswith(".") else name
            found.append(Out(spelled, tuple(shape.shape), dtype, make))
    return sorted(found, key=lambda out: out.name)


def has_head(config: ModelConfig) -> bool:
    """Whether anything stands behind the last layer but a pooler."""
    return config.language_head or config.next_sentence or config.classifier is not None


def _describe(config: ModelConfig, family: Family, said: dict[str, Any], source: Shapes) -> dict[str, Any]:
    """config.json: the one that was read where it says the same model still, otherwise a new one with its token ids."""
    if said.get("model_type") == family.name and family.read_config(said, source) == replace(config, pooling=None):
        return {key: value for key, value in said.items() if key not in ("torch_dtype", "transformers_version")}
    ids = {key: value for key, value in said.items() if key.endswith(("_token_id", "_start_token_id"))}
    return {"model_type": family.name, **family.write_config(config, source), **ids}
