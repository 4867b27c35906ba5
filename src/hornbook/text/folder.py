"""Load a tokenizer from a model's folder: its tokenizer.json, else its raw vocabulary files as its class reads them.

    tokenizer.json                  whatever the tokenizers library wrote
    vocab.txt, vocab.json + ...     see `hornbook.text.layouts` and `hornbook.text.raw_files`

The special tokens are those of tokenizer_config.json, special_tokens_map.json and added_tokens.json; the ids that end a
reply also those of generation_config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.text.detokenize import Style
from hornbook.text.files import FIX, Json, one_line, read_json
from hornbook.text.layouts import FILES, ROLES, Layout, Role, layout_for
from hornbook.text.parts import Parts, stop_ids, surround
from hornbook.text.raw_files import Folder, read_raw


def from_folder(path: Path, *, target: bool = False) -> Parts:
    """Read the tokenizer of a folder; ``target`` asks a translator for the one of the language it translates into.

    Raises ModelFileError where there is no tokenizer or it is damaged, UnsupportedModel on one that is not known.
    """
    config = {**read_json(path / "special_tokens_map.json"), **read_json(path / "tokenizer_config.json")}
    try:
        return _configured(_read(path, config, target), path, config)
    except (ModelFileError, UnsupportedModel):
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions, and a configuration may hold anything
        raise ModelFileError(f"{path} does not hold a sound tokenizer: {one_line(error)}", FIX) from error


def _read(path: Path, config: Json, target: bool) -> Parts:
    """Read the tokenizer.json, or the first raw files that are there."""
    if (path / "tokenizer.json").is_file():
        return _tokenizer_json(path / "tokenizer.json")
    for names, (kind, otherwise) in FILES.items():
        files = tuple(path / name for name in names)
        if files[0].is_file():
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise ModelFileError(f"{path} holds {names[0]}, but no {', '.join(missing)}", FIX)
            layout = layout_for(config, read_json(path / "config.json"), kind, otherwise)
            return read_raw(Folder(layout, config, _special(layout, config), files), target=target)
    looked = ["tokenizer.json", *(names[0] for names in FILES)]
    raise ModelFileError(
        f"{path} holds no tokenizer (looked for {', '.join(dict.fromkeys(looked))})",
        "Give the folder of a whole model.",
    )


def _tokenizer_json(file: Path) -> Parts:
    backend = Backend.from_file(str(file))
    backend.no_truncation()  # what is too long is the caller's to judge: nothing is cut in silence
    backend.no_padding()
    decoder = None if backend.decoder is None else json.loads(backend.decoder.__getstate__())
    style, strips, tidies = read_decoder(decoder)
    return Parts(backend, style, strips_first_space=strips, tidies=tidies)


def read_decoder(decoder: Json | None) -> tuple[Style, bool, bool]:
    """What a tokenizer.json's decoder does: (style, drops the first space, tidies the spaces of English)."""
    steps = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = [step["type"] for step in steps]
    if not kinds:
        return "plain", False, False
    if "ByteLevel" in kinds:
        return "byte-level", False, False
    if kinds == ["WordPiece"]:
        return "wordpiece", False, bool(steps[0].get("cleanup", True))
    if kinds == ["BPEDecoder"]:
        return "word-end", False, False
    if kinds == ["Metaspace"]:
        return "sentencepiece", steps[0].get("prepend_scheme", "always") != "never", False
    if set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return "sentencepiece", "Strip" in kinds or "Metaspace" in kinds, False
    raise UnsupportedModel(
        f"the tokenizer's decoder ({', '.join(kinds)}) is not one that Hornbook knows",
        "Known are ByteLevel, WordPiece, BPEDecoder, Metaspace and SentencePiece's sequence of Replace, ByteFallback, Fuse, Strip.",
    )


# ----------------------------------------------------------------------------------------- what the folder declares


def _special(layout: Layout, config: Json) -> dict[Role, AddedToken]:
    """The token of each role: the folder's, else the class's own; None in the folder says that there is none."""
    found: dict[Role, AddedToken] = {}
    for role in ROLES:
        key = f"{role}_token"
        value = config[key] if key in config else layout.special.get(role)
        if role == "mask" and layout.mask_eats_space and isinstance(value, str):
            value = {"content": value, "lstrip": True}
        token = _token(value)
        if token is not None:
            found[role] = token
    return found


def _token(value: Any) -> AddedToken | None:
    entry = {"content": value} if isinstance(value, str) else value
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or not entry["content"]:
        return None
    return _added({"normalized": False, **entry, "special": True})


def _added(entry: Mapping[str, Any]) -> AddedToken:
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(**{name: entry[name] for name in names if name in entry})


def _configured(parts: Parts, path: Path, config: Json) -> Parts:
    """Add the tokens that the folder declares, and take its word on which ones have a role."""
    backend = parts.backend
    _add_declared(backend, path, config)
    marks = dict(parts.marks)
    for role in ROLES:
        token = _token(config.get(f"{role}_token"))
        id = None if token is None else backend.token_to_id(token.content)
        if id is not None:
            marks[role] = int(id)
    parts = replace(parts, marks=marks)
    _add_around(parts, config)
    added = backend.get_added_tokens_decoder()
    ends = read_json(path / "generation_config.json").get("eos_token_id") or []
    ends = [id for id in (ends if isinstance(ends, list) else [ends]) if isinstance(id, int)]
    return replace(
        parts,
        stop_ids=parts.stop_ids
        | stop_ids([parts.eos_id, *ends], {token.content: id for id, token in added.items() if token.special}),
        literal=frozenset(added),
    )


def _add_declared(backend: Backend, path: Path, config: Json) -> None:
    """Tokens after the vocabulary: added_tokens_decoder (by id), and added_tokens.json of older folders (by text)."""
    known = backend.get_added_tokens_decoder()
    declared = {int(id): _added(entry) for id, entry in config.get("added_tokens_decoder", {}).items()}
    specials = {token.content for role in ROLES if (token := _token(config.get(f"{role}_token"))) is not None}
    specials |= {
        token.content for value in config.get("additional_special_tokens") or [] if (token := _token(value)) is not None
    }
    for text, id in read_json(path / "added_tokens.json").items():
        declared.setdefault(int(id), AddedToken(text, normalized=text not in specials, special=text in specials))
    new = {id: token for id, token in sorted(declared.items()) if id not in known}
    backend.add_tokens(list(new.values()))
    for id, token in new.items():
        found = backend.token_to_id(token.content)
        if found != id:
            raise ModelFileError(
                f"{path} declares the token {token.content!r} with the id {id}, but its place is {found}", FIX
            )


def _add_around(parts: Parts, config: Json) -> None:
    """add_bos_token and add_eos_token of a folder whose tokenizer does not do it by itself."""
    backend = parts.backend
    there = backend.encode("").ids
    first, last = (
        None if id is None or id in there or config.get(flag) is not True else str(backend.id_to_token(id))
        for flag, id in (("add_bos_token", parts.bos_id), ("add_eos_token", parts.eos_id))
    )
    step = surround(backend, first, last)
    if step is not None:
        has = backend.post_processor
        backend.post_processor = step if has is None else processors.Sequence([has, step])
