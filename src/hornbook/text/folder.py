"""Load a tokenizer from a model's folder.

Read is, in this order: tokenizer.json. The special ids are those of tokenizer_config.json and special_tokens_map.json;
the ids that end a reply also those of generation_config.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.text.detokenize import Style
from hornbook.text.parts import Parts, stop_ids

_FIX = "Pull the model again, or restore the file."


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, {} where there is none. Raise ModelFileError on anything else."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}", _FIX) from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} is not a JSON object", _FIX)
    return value


def from_folder(path: Path) -> Parts:
    """Raise ModelFileError where there is no tokenizer or it is damaged, UnsupportedModel on an unknown decoder."""
    config = {**read_json(path / "special_tokens_map.json"), **read_json(path / "tokenizer_config.json")}
    generation = read_json(path / "generation_config.json")
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ModelFileError(f"{path} holds no tokenizer.json", "Give the folder of a whole model.")
    try:
        backend = Backend.from_file(str(file))
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ModelFileError(f"{file} is not a sound tokenizer: {error}", _FIX) from error
    return _with_config(backend, json.loads(backend.to_str())["decoder"], config, generation)


def _with_config(backend: Backend, decoder: Any, config: dict[str, Any], generation: dict[str, Any]) -> Parts:
    backend.no_truncation()  # what is too long is the caller's to judge: nothing is cut in silence
    backend.no_padding()
    known = backend.get_added_tokens_decoder()
    declared = {int(id): entry for id, entry in config.get("added_tokens_decoder", {}).items()}
    missing = [id for id in sorted(declared) if id not in known]
    backend.add_tokens([AddedToken(**_added(declared[id])) for id in missing])

    def special(name: str) -> int | None:
        value = config.get(f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        return backend.token_to_id(text) if isinstance(text, str) else None

    bos, eos = special("bos"), special("eos")
    added = backend.get_added_tokens_decoder()
    ends = generation.get("eos_token_id", [])
    ends = ends if isinstance(ends, list) else [ends]
    style, strips, tidies = read_decoder(decoder)
    return Parts(
        backend,
        style,
        bos_id=bos if bos is not None else special("cls"),
        eos_id=eos if eos is not None else special("sep"),
        pad_id=special("pad"),
        unk_id=special("unk"),
        stop_ids=stop_ids([eos, *ends], {token.content: id for id, token in added.items() if token.special}),
        strips_first_space=strips,
        tidies=tidies,
        literal=frozenset(added),
    )


def _added(entry: dict[str, Any]) -> dict[str, Any]:
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return {name: entry[name] for name in names if name in entry}


def read_decoder(decoder: dict[str, Any] | None) -> tuple[Style, bool, bool]:
    """What a tokenizer.json's decoder does: (style, drops the first space, tidies the spaces of English)."""
    steps = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = [step["type"] for step in steps]
    if not kinds:
        return "plain", False, False
    if "ByteLevel" in kinds:
        return "byte-level", False, False
    if kinds == ["WordPiece"]:
        return "wordpiece", False, bool(steps[0].get("cleanup", True))
    if kinds == ["Metaspace"]:
        return "sentencepiece", steps[0].get("prepend_scheme", "always") != "never", False
    if set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return "sentencepiece", "Strip" in kinds or "Metaspace" in kinds, False
    raise UnsupportedModel(
        f"the tokenizer's decoder ({', '.join(kinds)}) is not one that Hornbook knows",
        "Known are ByteLevel, WordPiece, Metaspace and SentencePiece's sequence of Replace, ByteFallback, Fuse, Strip.",
    )
