"""What sentence-transformers keeps beside a model's own files: how the states of a text become one vector.

    modules.json                         Transformer -> Pooling -> Normalize
    1_Pooling/config.json                mean, first or last
    sentence_bert_config.json            how many tokens are read, the rest is cut
    config_sentence_transformers.json    what stands before a query or a passage

Written in the words of its first releases, which the later ones read as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hornbook.checkpoint.fields import read_json, write_json
from hornbook.errors import StoreError, UnsupportedModel
from hornbook.model.config import ModelConfig

Pooling = Literal["mean", "first", "last"]
POOLING: dict[str, Pooling] = {"mean": "mean", "cls": "first", "lasttoken": "last"}
POOLING_FILE = Path("1_Pooling", "config.json")
LIMIT_FILE, PROMPT_FILE = "sentence_bert_config.json", "config_sentence_transformers.json"


def read_pooling(folder: Path) -> Pooling | None:
    """How the model's folder says that a text's states become one vector; None where it does not say.

    Raises UnsupportedModel for a pooling that is not known, or several at once.
    """
    said = read_json(folder / POOLING_FILE, dict)
    if said is None:
        return None
    if not said.get("include_prompt", True):
        raise UnsupportedModel(
            "the pooling leaves a prompt's tokens out (include_prompt is false)", "Take a model that pools all tokens."
        )
    # Up to version 5 a flag for each, pooling_mode_cls_token, pooling_mode_mean_tokens, ...; since then one name or a list.
    flags = [key for key, on in said.items() if key.startswith("pooling_mode_") and on is True]
    named = said.get("pooling_mode", [key.removeprefix("pooling_mode_") for key in flags])
    modes = named if isinstance(named, list) else [named]
    names = [str(mode).removesuffix("_tokens").removesuffix("_token") for mode in modes]
    if len(names) != 1 or names[0] not in POOLING:
        raise UnsupportedModel(
            f"the pooling is {' and '.join(names) or 'none'}", f"Known: {', '.join(POOLING)}, one alone."
        )
    return POOLING[names[0]]


def read_limit(folder: Path) -> int | None:
    """How many tokens of a text are read, the special ones among them; None where the folder does not say."""
    said = [(read_json(folder / LIMIT_FILE, dict) or {}).get("max_seq_length")]
    said.append((read_json(folder / "tokenizer_config.json", dict) or {}).get("model_max_length"))
    return next((limit for limit in said if type(limit) is int and limit > 0), None)


def write(folder: Path, config: ModelConfig, source: Path) -> None:
    """Write these files for a model whose texts become one vector, and none for another.

    source  where the model came from: its limit and its prompts are kept. Its vectors are made of unit length unless it
            says itself that they are not.
    Raises StoreError where they cannot be written.
    """
    if config.pooling is None:
        return
    modules, kept = read_json(source / "modules.json", list), read_json(source / LIMIT_FILE, dict) or {}
    limit, prompts = read_limit(source), read_json(source / PROMPT_FILE, dict)
    normalised = modules is None or any("Normalize" in str(module) for module in modules)
    paths = {"Transformer": "", "Pooling": "1_Pooling"} | ({"Normalize": "2_Normalize"} if normalised else {})
    try:
        (folder / POOLING_FILE).parent.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}", "Name another folder.") from error
    flags = {"mean_tokens": "mean", "cls_token": "first", "max_tokens": "max", "mean_sqrt_len_tokens": "sqrt"}
    flags |= {"lasttoken": "last"} if config.pooling == "last" else {}  # which the first releases do not know
    modes = {f"pooling_mode_{flag}": how == config.pooling for flag, how in flags.items()}
    write_json(folder / POOLING_FILE, {"word_embedding_dimension": config.width, **modes})
    context = min(limit or config.context_length, config.context_length)
    write_json(folder / LIMIT_FILE, {"do_lower_case": False, **kept, "max_seq_length": context})
    if prompts is not None:
        write_json(folder / PROMPT_FILE, prompts)
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (name, path) in enumerate(paths.items())
        ],
    )
