"""Build a tokenizer from raw vocabulary files, as the row of its class says (`hornbook.text.layouts`).

vocab.txt                              WordPiece, one token a line
vocab.json + merges.txt                BPE over bytes (GPT-2), or over letters with a mark at a word's end (GPT)
tokenizer.model, spiece.model          SentencePiece
source.spm + target.spm + vocab.json   Marian: pieces by SentencePiece, their ids by the vocabulary of both sides
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from hornbook.errors import ModelFileError
from hornbook.text.detokenize import SPACE, WORD_END, Style
from hornbook.text.files import FIX, Json, read_json
from hornbook.text.gguf_vocabulary import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, from_metadata
from hornbook.text.layouts import GGUF_ROLES, Layout, Role
from hornbook.text.parts import Parts, surround
from hornbook.text.pretokenize import CUTS
from hornbook.text.sentencepiece import read_sentencepiece

MAX_EXTRA_IDS = 10_000


class Folder(NamedTuple):
    """What the readers need to know of a folder. ``special``: the token of each role, the folder's word before the row's."""

    layout: Layout
    config: Json
    special: Mapping[Role, AddedToken]
    files: tuple[Path, ...]

    @property
    def lowers(self) -> bool:
        return bool(self.config.get("do_lower_case", self.layout.lowers))

    def around(self) -> tuple[Role | None, Role | None]:
        """The roles before and after a text: add_bos_token and add_eos_token go before the row."""
        first, last = self.layout.first, self.layout.last
        if (bos := self.config.get("add_bos_token")) is not None and first in (None, "bos"):
            first = "bos" if bos else None
        if (eos := self.config.get("add_eos_token")) is not None and last in (None, "eos"):
            last = "eos" if eos else None
        return first, last


def read_raw(folder: Folder, *, target: bool = False) -> Parts:
    """The tokenizer of raw files; ``target`` asks Marian's for the side that it translates into.

    Raises ModelFileError where a file is damaged or a token that the class needs is missing.
    """
    kind = folder.layout.kind
    if kind == "marian":
        return _marian(folder, target)
    if kind == "sentencepiece":
        return _sentencepiece(folder)
    if kind == "wordpiece":
        return _finish(folder, _wordpiece(folder), "wordpiece", tidies=True)
    if kind == "word-end":
        return _finish(folder, _word_end(folder), "word-end")
    return _finish(folder, _byte_level(folder), "byte-level")


# ------------------------------------------------------------------------------------------------------ WordPiece


def _wordpiece(folder: Folder) -> Backend:
    (file,) = folder.files
    lines = file.read_text("utf-8").split("\n")
    ids = _one_of_each(lines[:-1] if lines[-1] == "" else lines)
    _require(folder, ids, ("unk", "cls", "sep"))
    backend = Backend(models.WordPiece(ids, unk_token=folder.special["unk"].content, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=folder.lowers,
        strip_accents=folder.config.get("strip_accents"),
        handle_chinese_chars=folder.config.get("tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _one_of_each(lines: list[str]) -> dict[str, int]:
    """Line numbers as ids; of a token that stands twice the last line counts, and the other keeps its place unnamed."""
    last = {token: id for id, token in enumerate(lines) if token}
    return {token if last.get(token) == id else f"\0[UNNAMED_{id}]": id for id, token in enumerate(lines)}


# ------------------------------------------------------------------------------------------------------------ BPE


def _byte_level(folder: Folder) -> Backend:
    cut = CUTS[folder.layout.cut]
    ids, merges = _read_bpe(folder)
    backend = Backend(models.BPE(ids, merges, ignore_merges=cut.whole_words))
    if folder.layout.composes:
        backend.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in cut.patterns]
    bytes_ = pre_tokenizers.ByteLevel(bool(folder.config.get("add_prefix_space", False)), use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_])
    if folder.config.get("add_prefix_space"):  # the space is put before the cut, which only ByteLevel itself can
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(True)
    backend.decoder = decoders.ByteLevel()
    return backend


def _word_end(folder: Folder) -> Backend:
    """The first GPT's BPE (Radford et al. 2018): over letters, a token that ends a word says so."""
    ids, merges = _read_bpe(folder)
    _require(folder, ids, ("unk",))
    unknown = folder.special["unk"].content
    backend = Backend(models.BPE(ids, merges, unk_token=unknown, end_of_word_suffix=WORD_END, fuse_unk=False))
    backend.normalizer = normalizers.BertNormalizer(lowercase=folder.lowers)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(WORD_END)
    return backend


def _read_bpe(folder: Folder) -> tuple[dict[str, int], list[tuple[str, str]]]:
    vocabulary, file = folder.files
    lines = file.read_text("utf-8").split("\n")
    rows = lines[1:] if lines[0].startswith("#version") else lines
    merges = [(left, right) for left, _, right in (row.partition(" ") for row in rows if row)]
    if not merges or not all(left and right for left, right in merges):
        raise ModelFileError(f"{file} does not hold two tokens a line", FIX)
    return _read_ids(vocabulary), merges


def _read_ids(file: Path) -> dict[str, int]:
    ids = read_json(file)
    if not all(isinstance(id, int) and 0 <= id < 1 << 31 for id in ids.values()):
        raise ModelFileError(f"{file} does not map tokens to ids", FIX)
    return ids


def _finish(folder: Folder, backend: Backend, style: Style, *, tidies: bool = False) -> Parts:
    """Make the tokens of the roles special, and put those around a text that belong there."""
    special = {role: token for role, token in folder.special.items() if backend.token_to_id(token.content) is not None}
    backend.add_special_tokens(list(special.values()))
    first, last = folder.around()
    _require(folder, {token.content for token in special.values()}, [role for role in (first, last) if role])
    backend.post_processor = surround(
        backend,
        None if first is None else special[first].content,
        None if last is None else special[last].content,
        [special[role].content for role in folder.layout.between],
        second_type=int(style == "wordpiece"),
    )
    vocabulary = backend.get_vocab(with_added_tokens=True)
    marks: dict[str, int] = {role: vocabulary[token.content] for role, token in special.items()}
    return Parts(backend, style, marks=marks, tidies=tidies)


def _require(folder: Folder, tokens: Any, roles: Any) -> None:
    needed = [folder.special[role].content if role in folder.special else f"a token for {role}" for role in roles]
    missing = [token for token in needed if token not in tokens]
    if missing:
        raise ModelFileError(f"{folder.files[0]} lacks one of {', '.join(needed)}: {', '.join(missing)}", FIX)


# -------------------------------------------------------------------------------------------------- SentencePiece


def _sentencepiece(folder: Folder) -> Parts:
    layout, config = folder.layout, folder.config
    metadata = read_sentencepiece(folder.files[0])
    if metadata["tokenizer.ggml.model"] == "t5":
        metadata = _within_unigram(metadata)
    tokens, scores, types = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    count = int(config.get("extra_ids", layout.extra_ids)) if layout.extra_ids else 0
    if not 0 <= count <= MAX_EXTRA_IDS:
        raise ModelFileError(f"the folder asks for {count:,} extra_ids, {MAX_EXTRA_IDS:,} at most", FIX)
    metadata["tokenizer.ggml.tokens"] = [*tokens, *(f"<extra_id_{id}>" for id in reversed(range(count)))]
    metadata["tokenizer.ggml.token_type"] = np.concatenate([types, np.full(count, CONTROL)])
    if layout.commas_apart:
        late = [len(token) > 1 and token[-1] == "," and token[-2].isdigit() for token in tokens]
        scores = scores - 100.0 * np.asarray(late)
    metadata["tokenizer.ggml.scores"] = np.concatenate([scores, np.zeros(count)])
    places = {token: id for id, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    for role, token in folder.special.items():
        if token.content in places:
            metadata[f"tokenizer.ggml.{GGUF_ROLES[role]}_token_id"] = places[token.content]
            metadata["tokenizer.ggml.token_type"][places[token.content]] = UNKNOWN if role == "unk" else CONTROL
    first, last = folder.around()
    for end, key in ((first, "bos"), (last, "eos")):
        stands = end is not None and f"tokenizer.ggml.{GGUF_ROLES[end]}_token_id" in metadata
        if layout.special or f"add_{key}_token" in config:
            metadata[f"tokenizer.ggml.add_{key}_token"] = stands
    parts = from_metadata(metadata, prefix_once=config.get("legacy") is False)
    parts = replace(parts, metadata=None, scores=np.asarray(metadata["tokenizer.ggml.scores"]))
    before = _before(folder)
    if before:
        kept = [parts.backend.normalizer] if parts.backend.normalizer is not None else []
        parts.backend.normalizer = normalizers.Sequence([*before, *kept])
    if layout.between:
        by_role = {role: token.content for role, token in folder.special.items()}
        parts.backend.post_processor = surround(
            parts.backend,
            None if first is None else by_role[first],
            None if last is None else by_role[last],
            [by_role[role] for role in layout.between],
            second_type=int(first == "cls"),
        )
    return parts


def _within_unigram(metadata: dict[str, Any]) -> dict[str, Any]:
    """User-defined pieces as Unigram has them: pieces better than any other cut (a score is a log-probability, and
    theirs is 0), not tokens that part a text in two. In use these are single signs, such as ALBERT's brackets."""
    tokens, scores, types = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    defined = types == USER_DEFINED
    tokens = [token.replace(" ", SPACE) if own else token for token, own in zip(tokens, defined, strict=True)]
    return {
        **metadata,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.where(defined, 0.0, scores),
        "tokenizer.ggml.token_type": np.where(defined, NORMAL, types),
    }


def _before(folder: Folder) -> list[Any]:
    """What a class does to a text before SentencePiece's own normalisation."""
    steps: list[Any] = []
    if folder.layout.quotes:
        steps += [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if folder.layout.bares and not folder.config.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if folder.lowers:
        steps.append(normalizers.Lowercase())
    return steps


def _marian(folder: Folder, target: bool) -> Parts:
    """One side of a translator. A piece of the other side keeps its id and its name, but no text is cut into it, except
    that a character which only the other side knows is written with the id that it has there.

    A piece that the shared vocabulary lacks has no id and is left out, so that it is spelled by smaller pieces.
    """
    source_file, target_file, vocabulary = folder.files
    file = target_file if target else source_file
    if target and folder.config.get("separate_vocabs"):
        vocabulary = vocabulary.with_name("target_vocab.json")
    ids = _read_ids(vocabulary)
    if sorted(ids.values()) != list(range(len(ids))):
        raise ModelFileError(f"{vocabulary} does not give {len(ids)} tokens the ids from 0 to {len(ids) - 1}", FIX)
    _require(folder, ids, ("unk", "eos", "pad"))
    metadata = read_sentencepiece(file)
    if metadata["tokenizer.ggml.model"] == "t5":
        metadata = _within_unigram(metadata)
    read = zip(*(metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type")), strict=True)
    pieces = {token: (score, type) for token, score, type in read}
    control = {token.content: CONTROL for token in folder.special.values()} | {folder.special["unk"].content: UNKNOWN}
    rare = min(score for score, _ in pieces.values()) - 10  # what SentencePiece makes an unknown character cost
    tokens, scores, types, names = [], [], [], {}
    for token, id in sorted(ids.items(), key=lambda entry: entry[1]):
        score, type = pieces.get(token, (rare, NORMAL if len(token) == 1 else UNUSED))
        type = control.get(token, USER_DEFINED if token.startswith(">>") and token.endswith("<<") else type)
        if type == UNUSED:
            names[id] = token
        tokens.append(f"\0{token}" if type == UNUSED else token)
        scores.append(score)
        types.append(type)
    metadata = {key: value for key, value in metadata.items() if not key.endswith("_token_id")}
    metadata |= {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.asarray(scores),
        "tokenizer.ggml.token_type": np.asarray(types),
        **{
            f"tokenizer.ggml.{GGUF_ROLES[role]}_token_id": ids[folder.special[role].content]
            for role in ("unk", "eos", "pad")
        },
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": True,
    }
    sides = [*folder.files, *([vocabulary] if vocabulary not in folder.files else [])]
    config = vocabulary.with_name("tokenizer_config.json")
    files = {side.name: side.read_bytes() for side in [*sides, *([config] if config.is_file() else [])]}
    return replace(from_metadata(metadata), names=names, files=files, metadata=None)
