"""Write a tokenizer as the files of a Hugging Face folder.

    tokenizer.json                          the whole tokenizer, as the tokenizers library reads it
    tokenizer_config.json                   the special tokens by role, and what a loader asks for
    chat_template.jinja                     the chat template, additional_chat_templates/{name}.jinja the named others
    source.spm, target.spm, vocab.json      instead of tokenizer.json where only these say it (Marian)

What `Tokenizer.encode` does with control tokens in plain text is this library's own doing and is not in the files: who
reads them elsewhere finds control tokens in any text, as ``parse_special=True`` does here.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, normalizers

from hornbook.errors import ModelFileError
from hornbook.text.layouts import ROLES
from hornbook.text.parts import Parts

DEFAULT = "default"  # the name of the template that has none
# Files that would be read beside ours, or before them, and say what another tokenizer was.
_STALE = (
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json", "chat_template.jinja"),
    "additional_chat_templates/*.jinja",
)


def save(
    parts: Parts, folder: Path, templates: Mapping[str, str] | None = None, *, context_length: int | None = None
) -> list[Path]:
    """Write the files and return their paths. Each is written aside first and then takes its name.

    templates: the chat templates by name. context_length: the longest text in tokens that the model takes. Files of
    an earlier tokenizer that would contradict these are removed.

    Raises ModelFileError where the folder cannot be written.
    """
    templates = templates or {}
    config = {**_config(parts), **({"model_max_length": context_length} if context_length else {})}
    if parts.files:
        before = json.loads(parts.files.get("tokenizer_config.json", b"{}"))
        contents = {**parts.files, "tokenizer_config.json": _json({**before, **config})}
    else:
        contents = {"tokenizer.json": parts.backend.to_str().encode(), "tokenizer_config.json": _json(config)}
    for name, source in templates.items():
        file = "chat_template.jinja" if name == DEFAULT else f"additional_chat_templates/{_plain(name)}.jinja"
        contents[file] = source.encode()
    try:
        written = [_write(folder / name, content) for name, content in contents.items()]
        for stale in {file for pattern in _STALE for file in folder.glob(pattern)}.difference(written):
            stale.unlink(missing_ok=True)
    except OSError as error:
        raise ModelFileError(
            f"the tokenizer cannot be written to {folder}: {error}", "Choose another folder."
        ) from error
    return written


def _config(parts: Parts) -> dict[str, Any]:
    backend = parts.backend
    pairs = parts.marks.get("cls") is not None
    config: dict[str, Any] = {
        # a class without opinions of its own: what counts is in tokenizer.json
        "tokenizer_class": "MarianTokenizer" if parts.files else "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"],
    }
    if isinstance(backend.normalizer, normalizers.BertNormalizer):  # for who asks for BERT's own class
        config |= {
            "do_lower_case": backend.normalizer.lowercase,
            "strip_accents": backend.normalizer.strip_accents,
            "tokenize_chinese_chars": backend.normalizer.handle_chinese_chars,
        }
    added = backend.get_added_tokens_decoder()
    for role in ROLES:
        id = parts.marks.get(role)
        if id is not None:
            token = added.get(id)
            config[f"{role}_token"] = backend.id_to_token(id) if token is None else _declared(token)
    around = backend.encode("").ids
    if not pairs and not parts.files:
        for flag, id, place in (
            ("add_bos_token", parts.bos_id, around[:1]),
            ("add_eos_token", parts.eos_id, around[-1:]),
        ):
            if id is not None:
                config[flag] = place == [id]
    return config


def _declared(token: AddedToken) -> str | dict[str, Any]:
    """A token as a configuration writes it: its text, with its habits where it has any."""
    habits = {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word", "normalized")}
    if not any(habits.values()):
        return token.content
    return {"__type": "AddedToken", "content": token.content, **habits, "special": token.special}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def _plain(name: str) -> str:
    """A template's name as a file's. Names come from model files, so one that leads elsewhere is refused."""
    if not name or name.startswith(".") or any(sign in name for sign in "/\\\0:"):
        raise ModelFileError(f"the template's name {name!r} cannot be a file's", "Rename it in the model's metadata.")
    return name


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path
