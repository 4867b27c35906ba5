"""Say a tokenizer in the metadata of a GGUF file: the inverse of `hornbook.text.gguf_vocabulary`.

What came from a GGUF file goes back word for word. What came from a folder is said in the keys that llama.cpp reads:

    byte-level BPE      gpt2     the cut into words must be one that has a name (`hornbook.text.pretokenize`)
    SentencePiece BPE   llama    scores of the model file, else minus the rank of the merge that makes the token
    Unigram             t5       scores, the table of characters, the folding of spaces
    WordPiece           bert     "▁" before what starts a word, no "##" before what continues one

GGUF has no words for some things. What would change the ids of ordinary text is an error: lower case before
SentencePiece, a cut without a name, a vocabulary without bytes. Passed over, as everywhere in the ecosystem: NFC before
byte-level BPE; spaces that a special token takes with it; that the first space is not repeated after control tokens.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import models

from hornbook.errors import UnsupportedModel, UsageError
from hornbook.text.detokenize import SPACE
from hornbook.text.gguf_vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from hornbook.text.layouts import GGUF_ROLES
from hornbook.text.parts import END_MARKS, Parts
from hornbook.text.pretokenize import GPT2_PATTERN, name_of

_LAST = -10_000.0  # the score of what is no piece
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
Step = dict[str, Any]


def gguf_metadata(
    parts: Parts, templates: Mapping[str, str] | None = None, *, architecture: str = "", rows: int | None = None
) -> dict[str, Any]:
    """The ``tokenizer.*`` keys.

    templates: the chat templates by name. architecture: ``general.architecture``, which decides between names of the
    same cut. rows: how many rows the model's embedding has; what the vocabulary lacks is filled with unused tokens.

    Raises UnsupportedModel on a tokenizer that GGUF cannot say, UsageError where the rows are fewer than the tokens.
    """
    metadata = dict(parts.metadata) if parts.metadata is not None else _derived(parts, architecture)
    if templates:
        metadata = {key: value for key, value in metadata.items() if not key.startswith("tokenizer.chat_template")}
        others = [name for name in templates if name != "default"]
        metadata |= {f"tokenizer.chat_template.{name}": templates[name] for name in others}
        metadata |= {"tokenizer.chat_templates": others} if others else {}
        metadata |= {"tokenizer.chat_template": templates["default"]} if "default" in templates else {}
    return metadata if rows is None else _filled(metadata, rows)


def _filled(metadata: dict[str, Any], rows: int) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    missing = rows - len(tokens)
    if missing < 0:
        raise UsageError(
            f"the vocabulary has {len(tokens)} tokens, but the model only {rows} rows for them",
            "The tokenizer is another model's: take the one that the model was trained with.",
        )
    if not missing:
        return metadata
    filled = {**metadata, "tokenizer.ggml.tokens": [*tokens, *(f"[PAD{id}]" for id in range(len(tokens), rows))]}
    for key, default, value in (("token_type", NORMAL, UNUSED), ("scores", None, _LAST)):
        values = metadata.get(f"tokenizer.ggml.{key}", None if default is None else np.full(len(tokens), default))
        if values is not None:
            values = np.asarray(values)
            filled[f"tokenizer.ggml.{key}"] = np.concatenate([values, np.full(missing, value, values.dtype)])
    return filled


# --------------------------------------------------------------------------------------------------- from a folder


@dataclass(frozen=True)
class _Source:
    """A tokenizer as its JSON says it."""

    parts: Parts
    model: Step
    normalizer: list[Step]
    pre_tokenizer: list[Step]
    tokens: list[str]
    types: np.ndarray  # [V]

    @classmethod
    def of(cls, parts: Parts) -> _Source:
        if parts.files:
            raise _no_words("a translator's vocabulary of two sides")
        state = json.loads(parts.backend.to_str())
        by_id = {id: token for token, id in parts.backend.get_vocab(with_added_tokens=True).items()}
        count = max(by_id) + 1
        types = np.asarray([NORMAL if id in by_id else UNUSED for id in range(count)], np.int32)
        for id, token in parts.backend.get_added_tokens_decoder().items():
            types[id] = CONTROL if token.special else USER_DEFINED
        tokens = [by_id.get(id, f"[PAD{id}]") for id in range(count)]
        before, cut = _flat(state["normalizer"]), _flat(state["pre_tokenizer"])
        return cls(parts, state["model"], before, cut, tokens, types)

    def mark_pieces(self) -> None:
        """The unknown token and the bytes of SentencePiece have types of their own."""
        unknown = self.parts.marks.get("unk")
        if unknown is not None:
            self.types[unknown] = UNKNOWN
        if self.model.get("byte_fallback"):
            self.types[[id for id, token in enumerate(self.tokens) if _BYTE_TOKEN.fullmatch(token)]] = BYTE


def _flat(part: Step | None) -> list[Step]:
    """A part as the list of its steps, sequences in it dissolved."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    inner: list[Step] = part.get("normalizers") or part.get("pretokenizers") or []
    return [step for one in inner for step in _flat(one)]


def _no_words(what: str) -> UnsupportedModel:
    return UnsupportedModel(f"GGUF has no words for {what}", "Keep the model as a Hugging Face folder.")


def _derived(parts: Parts, architecture: str) -> dict[str, Any]:
    source = _Source.of(parts)
    kind = source.model["type"]
    if kind == "BPE" and any(step["type"] == "ByteLevel" for step in source.pre_tokenizer):
        said = _byte_level(source, architecture)
    elif kind == "BPE" and source.model.get("byte_fallback"):
        said = _sentencepiece_bpe(source)
    elif kind == "Unigram":
        said = _unigram(source)
    elif kind == "WordPiece":
        said = _wordpiece(source)
    else:
        raise _no_words(f"a {kind} tokenizer that is neither over bytes nor falls back to them")
    metadata = {
        "tokenizer.ggml.model": said.pop("model"),
        "tokenizer.ggml.pre": said.pop("pre", "default"),
        "tokenizer.ggml.tokens": said.pop("tokens", source.tokens),
        "tokenizer.ggml.token_type": source.types,
        **{f"tokenizer.ggml.{key}": value for key, value in said.items()},
    }
    return metadata | _ids(parts, words=kind == "WordPiece")


def _ids(parts: Parts, *, words: bool) -> dict[str, Any]:
    """The special ids, and whether BOS and EOS are put around a text."""
    ids = {GGUF_ROLES[role]: id for role, id in parts.marks.items()}
    ends = sorted(parts.stop_ids - {parts.eos_id})
    unmarked = [
        id for id in ends if parts.backend.id_to_token(id) not in END_MARKS
    ]  # the others are known by their text
    ids |= dict(zip(("eot", "eom"), unmarked, strict=False))
    bos, eos = parts.bos_id, parts.eos_id
    ids |= {key: id for key, id in (("bos", bos), ("eos", eos)) if id is not None}
    around = parts.backend.encode("").ids
    first, last = around[:1] == [bos], len(around) > 0 and around[-1:] == [eos] and around != [bos]
    if around != [id for id, stands in ((bos, first), (eos, last)) if stands]:
        raise _no_words(f"what this tokenizer puts around a text ({len(around)} tokens that are not BOS and EOS)")
    flags = {} if words else {"tokenizer.ggml.add_bos_token": first, "tokenizer.ggml.add_eos_token": last}
    return {f"tokenizer.ggml.{key}_token_id": id for key, id in ids.items()} | flags


def _byte_level(source: _Source, architecture: str) -> Step:
    odd = [step["type"] for step in source.normalizer if step["type"] != "NFC"]
    if odd:
        raise _no_words(f"what is done to a text before byte-level BPE ({', '.join(odd)})")
    patterns = _patterns(source.pre_tokenizer)
    merges = _merges(source.model)
    whole_words = bool(source.model.get("ignore_merges"))
    name = name_of(patterns, whole_words=whole_words, near=architecture)
    if name is None and _makes_all(source, merges):
        name = name_of(patterns, whole_words=not whole_words, near=architecture)
    if name is None:
        cut = " then ".join(repr(pattern) for pattern in patterns)
        raise UnsupportedModel(
            f"the cut of text into words has no name in GGUF, so llama.cpp would cut otherwise: {cut[:200]}",
            "Keep the model as a Hugging Face folder.",
        )
    joined = [" ".join(merge) for merge in merges]
    return {"model": "gpt2", "pre": name, "merges": joined, "add_space_prefix": False}


def _merges(model: Step) -> list[tuple[str, str]]:
    """The merges of a BPE: older files write a pair as one text."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def _makes_all(source: _Source, merges: list[tuple[str, str]]) -> bool:
    """Whether the merges make every token of its own text: then a word that is a token needs no rule of its own."""
    words: dict[str, int] = source.model["vocab"]
    model = models.BPE(words, merges)
    added = source.parts.backend.get_added_tokens_decoder()
    return all(len(model.tokenize(word)) == 1 for word, id in words.items() if id not in added)


def _patterns(steps: list[Step]) -> tuple[str, ...]:
    """The expressions by which a pre-tokenizer cuts; a step that is no such expression is named in the error."""
    found: list[str] = []
    for step in steps:
        kind = step["type"]
        if kind == "ByteLevel" and not step.get("add_prefix_space"):
            found += [GPT2_PATTERN] if step.get("use_regex", True) else []
        elif kind == "Split" and step["behavior"] == "Isolated" and not step["invert"] and "Regex" in step["pattern"]:
            found.append(step["pattern"]["Regex"])
        elif kind == "Digits" and step["individual_digits"]:
            found.append(r"\p{N}")
        elif kind == "Digits" and GPT2_PATTERN in found:
            # Falcon's: it parts a number from the space before it, and bytes that look like numbers from others. The
            # merges, learned after this cut, never join what it parts, so it need not be made again.
            continue
        elif kind == "Punctuation" and step["behavior"] == "Contiguous":
            found.append(r"[\p{P}\$\+<=>\^~\|`]+")
        else:
            prefix = " with a space before the text" if step.get("add_prefix_space") else ""
            raise _no_words(f"the pre-tokenizer {kind}{prefix}")
    return tuple(found)


def _sentencepiece_bpe(source: _Source) -> Step:
    prefix, keys = _spaces(source)
    source.mark_pieces()
    if np.count_nonzero(source.types == BYTE) < 256:
        raise _no_words("a SentencePiece BPE without a token for every byte")
    scores = source.parts.scores
    if scores is None:
        ranks: dict[str, int] = {}
        for rank, (left, right) in enumerate(_merges(source.model)):
            ranks.setdefault(left + right, rank)
        scores = np.asarray([-float(ranks.get(token, len(ranks))) for token in source.tokens])
    return {"model": "llama", "scores": _scores(source, scores), "add_space_prefix": prefix, **keys}


def _unigram(source: _Source) -> Step:
    prefix, keys = _spaces(source)
    source.mark_pieces()
    scores = np.asarray([score for _, score in source.model["vocab"]])
    return {"model": "t5", "scores": _scores(source, scores), "add_space_prefix": prefix, **keys}


def _scores(source: _Source, scores: np.ndarray) -> np.ndarray:
    """[V] float32, tokens that were added after the vocabulary last."""
    return np.concatenate([scores, np.full(len(source.tokens) - len(scores), _LAST)]).astype(np.float32)


def _spaces(source: _Source) -> tuple[bool, Step]:
    """Whether a space is put before a text, and the keys of what else SentencePiece does to it."""
    prefix = False
    keys: Step = {"remove_extra_whitespaces": False}
    for step in [*source.normalizer, *source.pre_tokenizer]:
        kind, pattern = step["type"], step.get("pattern", {})
        if kind == "Precompiled":
            keys["precompiled_charsmap"] = np.frombuffer(base64.b64decode(step["precompiled_charsmap"]), np.uint8)
        elif kind == "Metaspace":
            prefix |= step.get("prepend_scheme", "always") != "never"
        elif kind == "Prepend" and step["prepend"] == SPACE:
            prefix = True
        elif kind in ("Strip", "WhitespaceSplit") or (kind == "Replace" and pattern.get("Regex") == " {2,}"):
            keys["remove_extra_whitespaces"] = True
        elif pattern.get("String") != " ":  # a space becomes "▁", or a cut after what was one
            raise _no_words(f"what is done to a text before SentencePiece ({kind})")
    return prefix, keys


def _wordpiece(source: _Source) -> Step:
    steps = [*source.normalizer, *source.pre_tokenizer]
    if [step["type"] for step in steps] != ["BertNormalizer", "BertPreTokenizer"]:
        raise _no_words(f"a WordPiece tokenizer with {', '.join(step['type'] for step in steps)}")
    normalizer, prefix = steps[0], source.model["continuing_subword_prefix"]
    if not normalizer["handle_chinese_chars"] or not normalizer["clean_text"]:
        raise _no_words("a WordPiece tokenizer that leaves Chinese characters together or control characters in")
    lower = normalizer["lowercase"]
    bare = lower if normalizer["strip_accents"] is None else normalizer["strip_accents"]
    tokens = [
        token if type != NORMAL else (token.removeprefix(prefix) if token.startswith(prefix) else f"{SPACE}{token}")
        for token, type in zip(source.tokens, source.types, strict=True)
    ]
    cased = {} if lower and bare else {"normalizer.lowercase": lower, "normalizer.strip_accents": bare}
    return {"model": "bert", "tokens": tokens, **cased}
