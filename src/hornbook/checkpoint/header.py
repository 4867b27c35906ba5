"""What a model on disk says of itself: its family and its configuration, without torch and before any weight is read.

model.gguf        general.architecture, and keys that begin with it
a folder          config.json, and beside it the names and shapes of the safetensors
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hornbook.checkpoint import families
from hornbook.checkpoint.family import AGAIN, Family
from hornbook.checkpoint.fields import choose, read_json
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.multimodal import text_part
from hornbook.checkpoint.rules import TensorSource
from hornbook.checkpoint.safetensors import SafetensorsFolder
from hornbook.checkpoint.sentence_folder import read_pooling
from hornbook.errors import ModelFileError, ModelNotFound, UnsupportedModel
from hornbook.model.config import ModelConfig


def read_header(path: Path) -> tuple[Family, ModelConfig]:
    """The family and configuration of the model at ``path``. Raises as ``loading.load`` does.

    No weight is read, but for the tables of tokens that an old file of two parts holds several times: they must be alike.
    """
    if path.is_dir():
        raw = read_raw(path)
        with SafetensorsFolder.open(path) as source:
            return folder_config(path, raw, source)
    with GGUF.open(path) as file:
        return gguf_config(file)


def gguf_config(file: GGUF) -> tuple[Family, ModelConfig]:
    """Of an open file."""
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelFileError(f"{file.path.name} does not say its general.architecture", AGAIN)
    family: Family = choose(families.GGUF, architecture, "the architecture")
    return family, family.read_config(file.metadata, file)


def folder_config(path: Path, raw: Mapping[str, Any], source: TensorSource) -> tuple[Family, ModelConfig]:
    """Of a folder; ``raw``: what its config.json says."""
    said = raw.get("quantization_config")
    if said is not None:
        method = said.get("quant_method") if isinstance(said, dict) else said
        raise UnsupportedModel(f"the weights are quantised ({method})", "Take the model unquantised, or as GGUF.")
    family: Family = choose(families.HUGGING_FACE, str(raw.get("model_type")), "the architecture (model_type)")
    return family, replace(family.read_config(raw, source), pooling=read_pooling(path))


def read_raw(path: Path) -> dict[str, Any]:
    """The config.json of a folder; of a model that reads images too, what it says of the text."""
    raw = read_json(path / "config.json", dict)
    if raw is None:
        raise ModelNotFound(f"{path} has no config.json", "Name a folder of a Hugging Face model, or a .gguf file.")
    return dict(text_part(raw))
