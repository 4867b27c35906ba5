"""What a model is, said cheaply: kind, architecture, parameters, context, quantisation, chat template, licence.

Only headers are read, never the weights. A file that cannot be read gives no facts here; opening it to use it does
raise, with the reason.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hornbook.checkpoint.catalog import Kind
from hornbook.errors import HornbookError

_EMBEDDERS = {"bert", "roberta", "xlm-roberta", "mpnet", "nomic-bert", "jina-bert-v2", "modernbert", "distilbert"}

_KINDS = {"architecture": str, "title": str, "licence": str, "parameters": int, "context_length": int}
# general.file_type, the numbers of llama.cpp's llama_ftype
_FILE_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 32: "BF16"},
    **{10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S"},
    **{17: "Q5_K_M", 18: "Q6_K"},
}

# Dtypes and recipes whose memory is shown, with the bytes of a number in the cache that goes with them.
_SHOWN = {"float32": 4, "bfloat16": 2, "Q8_0": 2, "Q4_K_M": 2}


def describe(path: Path) -> dict[str, Any]:
    """The facts of the model at ``path`` (a GGUF file or a folder). Unknown facts are left out.

    Keys: format, architecture, parameters, context_length, quantisation, chat_template (bool), chat_templates (their
    names, where there are several), licence, title.
    """
    try:
        facts = _folder(path) if path.is_dir() else _gguf(path)
    except (HornbookError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = error.what if isinstance(error, HornbookError) else str(error)
        return {"problem": " ".join(what.split())[:300]}
    # a file says what it likes: a context that is a list, a name that is a number
    wrong = {key for key, kind in _KINDS.items() if not isinstance(facts.get(key, kind()), kind)}
    return {key: value for key, value in facts.items() if key not in wrong and value not in (None, "")}


def anatomy(path: Path) -> dict[str, Any]:
    """How the model at ``path`` is built and what it needs: figures and lines for a person, in plain types.

    Keys: family, context_length, drawing (rows of label, text, depth), parts and parameters (total, active),
    memory (by dtype or recipe: weights, cache_per_1000_tokens, in bytes; null where there is none); of a model that
    Hornbook cannot run only problem and remedy.
    """
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.drawing import draw

    try:
        built = Anatomy.read(path)
    except HornbookError as error:
        return {"problem": error.what, "remedy": error.remedy}
    config = built.config
    return {
        "family": None if built.family is None else built.family.name,
        "context_length": config.context_length,
        "drawing": [row._asdict() for row in draw(config)],
        "parts": {name: part._asdict() for name, part in built.parts.items()},
        "parameters": built.parameters._asdict(),
        "memory": {
            kind: {
                "weights": built.weight_bytes(kind),
                "cache_per_1000_tokens": built.cache_bytes(1000, item) if config.causal else None,
            }
            for kind, item in _SHOWN.items()
        },
    }


def kind_of(path: Path) -> Kind:
    """Whether a model writes ("llm") or embeds ("embedder"); "unknown" where its files do not say."""
    if path.is_dir() and (path / "modules.json").is_file():
        return "embedder"
    facts = describe(path)
    architecture = str(facts.get("architecture", ""))
    if architecture.casefold() in _EMBEDDERS:
        return "embedder"
    if path.is_dir():
        names = [str(name) for name in facts.get("classes", ())]
        if any(name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")) for name in names):
            return "llm"
        return "unknown"
    return "llm" if architecture else "unknown"


def _gguf(path: Path) -> dict[str, Any]:
    from hornbook.checkpoint.gguf import GGUF

    with GGUF.open(path) as file:
        metadata: Mapping[str, Any] = file.metadata
        architecture = str(metadata.get("general.architecture", ""))
        types = Counter[str]()
        for tensor in file.tensors.values():
            types[getattr(tensor.type, "name", str(tensor.type))] += math.prod(tensor.shape)
        return {
            "format": "gguf",
            "title": metadata.get("general.name"),
            "architecture": architecture,
            "parameters": sum(types.values()),
            "context_length": metadata.get(f"{architecture}.context_length"),
            "quantisation": _FILE_TYPES.get(metadata.get("general.file_type", -1)) or _commonest(types),
            "chat_template": bool(metadata.get("tokenizer.chat_template")),
            "chat_templates": _several(metadata.get("tokenizer.chat_templates")),
            "licence": metadata.get("general.license"),
        }


def _folder(path: Path) -> dict[str, Any]:
    config = json.loads((path / "config.json").read_text("utf-8"))
    text = config.get("text_config") or config  # a model that sees as well keeps its language part here
    tokenizer = _json(path / "tokenizer_config.json")
    parameters, types = _safetensors(path)
    limits = [text.get("max_position_embeddings"), _json(path / "sentence_bert_config.json").get("max_seq_length")]
    return {
        "format": "safetensors",
        "architecture": config.get("model_type"),
        "classes": config.get("architectures") or [],
        "parameters": parameters or None,
        "context_length": min((limit for limit in limits if isinstance(limit, int)), default=None),
        "quantisation": _commonest(types),
        "chat_template": bool(tokenizer.get("chat_template")) or (path / "chat_template.jinja").is_file(),
        "chat_templates": _several(_named(tokenizer.get("chat_template"), path)),
    }


def _named(template: Any, path: Path) -> list[str]:
    """The names of a folder's templates: of the list in its tokenizer's configuration, and of files of their own."""
    said = template if isinstance(template, list) else []
    names = [str(entry["name"]) for entry in said if isinstance(entry, dict) and "name" in entry]
    return names + sorted(file.stem for file in (path / "additional_chat_templates").glob("*.jinja"))


def _several(names: Any) -> list[str] | None:
    """The names with the default's, None where there is no other."""
    others = [name for name in names if isinstance(name, str) and name != "default"] if isinstance(names, list) else []
    return ["default", *others] if others else None


def _commonest(types: Counter[str]) -> str | None:
    return types.most_common(1)[0][0] if types else None


def _safetensors(path: Path) -> tuple[int, Counter[str]]:
    """(parameters, elements of each type) from the JSON headers of the folder's weights files."""
    types = Counter[str]()
    for weights in sorted(path.glob("*.safetensors")):
        with weights.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(100 << 20, weights.stat().st_size):  # the format's own limit on a header
                raise ValueError(f"{weights.name} claims a header of {length} bytes")
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                types[tensor["dtype"]] += math.prod(tensor["shape"])
    return sum(types.values()), types


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return data if isinstance(data, dict) else {}
