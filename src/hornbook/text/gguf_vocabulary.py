"""Rebuild a tokenizer from the metadata of a GGUF file.

    tokenizer.ggml.model   algorithm                       needs                       families
    gpt2                   byte-level BPE                  tokens, merges, pre         GPT-2, Llama 3, Qwen, SmolLM, ...
    llama                  SentencePiece BPE, by scores    tokens, scores              Llama 1 and 2, Mistral, Gemma, Phi-3
    t5                     SentencePiece Unigram           tokens, scores              T5
    bert                   WordPiece                       tokens                      BERT and its embedders

Token types (``tokenizer.ggml.token_type``): 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
Control tokens are matched only where the caller parses special tokens; user-defined ones are matched in any text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.text.detokenize import SPACE
from hornbook.text.merges import merges_from_scores
from hornbook.text.parts import Parts, stop_ids, surround
from hornbook.text.pretokenize import cut_named

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_FIX = "The file is damaged or was converted badly: pull the model again or convert it anew."


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model in the order of their ids, with what the file says of each."""

    tokens: list[str]
    types: np.ndarray  # [V] int
    scores: np.ndarray | None  # [V] float
    merges: Sequence[str]
    metadata: Mapping[str, Any]
    prefix_once: bool = False

    @classmethod
    def of(cls, metadata: Mapping[str, Any], prefix_once: bool = False) -> Vocabulary:
        tokens = metadata.get("tokenizer.ggml.tokens")
        if tokens is None or len(tokens) == 0:
            raise ModelFileError("the file has no vocabulary (tokenizer.ggml.tokens)", _FIX)
        tokens = _unique([token if isinstance(token, str) else str(token) for token in tokens])
        count = len(tokens)
        types = _array(metadata, "token_type", count, np.int64)
        scores = _array(metadata, "scores", count, np.float64)
        if scores is not None and not np.isfinite(scores).all():
            raise ModelFileError("the vocabulary's scores are not all finite numbers", _FIX)
        merges = metadata.get("tokenizer.ggml.merges")
        return cls(
            tokens,
            types if types is not None else np.full(count, NORMAL),
            scores,
            [] if merges is None else merges,
            metadata,
            prefix_once,
        )

    def of_type(self, *types: int) -> list[int]:
        return np.flatnonzero(np.isin(self.types, types)).tolist()

    def id(self, key: str, default: int | None = None) -> int | None:
        """The id under ``tokenizer.ggml.{key}_token_id``, None where there is none or it lies outside."""
        value = self.metadata.get(f"tokenizer.ggml.{key}_token_id", default)
        return int(value) if value is not None and 0 <= int(value) < len(self.tokens) else None

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.metadata.get(f"tokenizer.ggml.{key}", default))


def _array(metadata: Mapping[str, Any], key: str, count: int, dtype: Any) -> np.ndarray | None:
    values = metadata.get(f"tokenizer.ggml.{key}")
    if values is None:
        return None
    try:
        array = np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"tokenizer.ggml.{key} does not hold numbers", _FIX) from error
    if array.shape != (count,):
        raise ModelFileError(f"tokenizer.ggml.{key} has {array.size} entries for {count} tokens", _FIX)
    return array


def _unique(tokens: list[str]) -> list[str]:
    """Empty and repeated tokens get names that no text contains, so that every id keeps its place."""
    if len(set(tokens)) == len(tokens) and "" not in tokens:
        return tokens
    seen: set[str] = set()
    for id, token in enumerate(tokens):
        if not token or token in seen:
            tokens[id] = f"\0[{'REPEATED' if token else 'EMPTY'}_{id}]"
        seen.add(tokens[id])
    return tokens


def from_metadata(metadata: Mapping[str, Any], *, prefix_once: bool = False) -> Parts:
    """Build the tokenizer that a GGUF file's metadata describes.

    prefix_once: of a SentencePiece BPE, the space that begins a text is not repeated after each control token; GGUF
    cannot say that.

    Raises UnsupportedModel on an algorithm or a pre-tokenizer that is not known, ModelFileError on a vocabulary that
    is missing or contradicts itself.
    """
    kind = metadata.get("tokenizer.ggml.model")
    build = _BUILDERS.get(str(kind))
    if build is None:
        raise UnsupportedModel(
            f"the tokenizer model {kind!r} is not one that Hornbook knows",
            f"The known ones are: {', '.join(_BUILDERS)}.",
        )
    try:
        return build(Vocabulary.of(metadata, prefix_once))
    except UnsupportedModel:
        raise
    except ModelFileError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ModelFileError(f"the vocabulary ({kind}) cannot be used: {error}", _FIX) from error


# ------------------------------------------------------------------------------------------------- the four kinds


def _byte_level(vocabulary: Vocabulary) -> Parts:
    cut = cut_named(vocabulary.metadata.get("tokenizer.ggml.pre"))
    if not len(vocabulary.merges):
        raise ModelFileError("a byte-level BPE vocabulary has no merges (tokenizer.ggml.merges)", _FIX)
    merges = []
    for merge in vocabulary.merges:
        at = merge.find(" ", 1)  # a part may itself begin with a space
        if at < 0:
            raise ModelFileError(f"the merge {merge!r} does not name two tokens", _FIX)
        merges.append((merge[:at], merge[at + 1 :]))
    vocab = {token: id for id, token in enumerate(vocabulary.tokens)}
    backend = Backend(models.BPE(vocab, merges, ignore_merges=cut.whole_words))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in cut.patterns]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    usual = 11 if 11 in vocabulary.of_type(CONTROL) else None  # llama.cpp's, from Falcon; to others it is a comma
    bos, eos = vocabulary.id("bos", usual), vocabulary.id("eos", usual)
    return _finish(vocabulary, backend, "byte-level", bos, eos, None, add_bos=cut.adds_bos)


def _sentencepiece_bpe(vocabulary: Vocabulary) -> Parts:
    if vocabulary.scores is None:
        raise ModelFileError("a SentencePiece vocabulary has no scores (tokenizer.ggml.scores)", _FIX)
    unknown = vocabulary.id("unknown", 0)
    # Only what text can contain is merged: no control, byte or unknown tokens; user-defined ones are cut out before.
    mergeable = vocabulary.of_type(NORMAL, UNUSED)
    merges = merges_from_scores([vocabulary.tokens[id] for id in mergeable], vocabulary.scores[mergeable])
    model = models.BPE(
        dict(zip(vocabulary.tokens, range(len(vocabulary.tokens)), strict=True)),
        merges,
        unk_token=None if unknown is None else vocabulary.tokens[unknown],
        byte_fallback=bool(vocabulary.of_type(BYTE)),
        fuse_unk=True,
    )
    backend = Backend(model)
    prefix = vocabulary.flag("add_space_prefix", True)
    steps = _normalizers(vocabulary)
    if prefix and vocabulary.prefix_once:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "first", split=False)
    else:
        steps += [*([normalizers.Prepend(SPACE)] if prefix else []), normalizers.Replace(" ", SPACE)]
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    writes = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*writes, decoders.Strip(" ", 1, 0)] if prefix else writes)
    bos, eos = vocabulary.id("bos", 1), vocabulary.id("eos", 2)
    return _finish(vocabulary, backend, "sentencepiece", bos, eos, unknown, add_bos=True, strips=prefix)


def _unigram(vocabulary: Vocabulary) -> Parts:
    if vocabulary.scores is None:
        raise ModelFileError("a Unigram vocabulary has no scores (tokenizer.ggml.scores)", _FIX)
    unknown = vocabulary.id("unknown", 2)
    pairs = list(zip(vocabulary.tokens, vocabulary.scores.tolist(), strict=True))
    backend = Backend(models.Unigram(pairs, unknown, bool(vocabulary.of_type(BYTE))))
    backend.normalizer = normalizers.Sequence(_normalizers(vocabulary))
    prefix = vocabulary.flag("add_space_prefix", True)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always" if prefix else "never", split=False)
    backend.decoder = decoders.Metaspace(SPACE, "always" if prefix else "never")
    bos, eos = vocabulary.id("bos"), vocabulary.id("eos", 1)
    return _finish(vocabulary, backend, "sentencepiece", bos, eos, unknown, add_eos=True, strips=prefix)


def _normalizers(vocabulary: Vocabulary) -> list[Any]:
    """What SentencePiece does to a text first: its table of characters, then spaces stripped and folded."""
    steps: list[Any] = []
    charsmap = vocabulary.metadata.get("tokenizer.ggml.precompiled_charsmap")
    if charsmap is not None and len(charsmap):
        steps.append(normalizers.Precompiled(np.asarray(charsmap).astype(np.uint8).tobytes()))
    if vocabulary.flag("remove_extra_whitespaces", False):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    return steps


def _wordpiece(vocabulary: Vocabulary) -> Parts:
    """llama.cpp's converter writes "▁word" for a token that starts a word and drops the "##" of one that continues it."""
    types = vocabulary.types
    plain = [
        token
        if types[id] != NORMAL or _bracketed(token)
        else (token[1:] if token.startswith(SPACE) and len(token) > 1 else f"##{token}")
        for id, token in enumerate(vocabulary.tokens)
    ]
    vocabulary = Vocabulary(_unique(plain), types, None, [], vocabulary.metadata)
    unknown = vocabulary.id("unknown", 100)
    if unknown is None:
        raise ModelFileError("a WordPiece vocabulary has no unknown token", _FIX)
    model = models.WordPiece(
        {token: id for id, token in enumerate(plain)}, unk_token=plain[unknown], max_input_chars_per_word=100
    )
    backend = Backend(model)
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=vocabulary.flag("normalizer.lowercase", True),
        strip_accents=vocabulary.flag("normalizer.strip_accents", vocabulary.flag("normalizer.lowercase", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece("##", True)
    first = vocabulary.id("bos", vocabulary.id("cls", 101))
    last = vocabulary.id("seperator", vocabulary.id("eos", 102))  # the misspelling is the format's
    return _finish(
        vocabulary, backend, "wordpiece", first, last, unknown, add_bos=True, add_eos=True, pad=0, tidies=True
    )


def _bracketed(token: str) -> bool:
    return token.startswith("[") and token.endswith("]") and len(token) > 2


def _finish(
    vocabulary: Vocabulary,
    backend: Backend,
    style: Any,
    bos: int | None,
    eos: int | None,
    unknown: int | None,
    *,
    add_bos: bool = False,
    add_eos: bool = False,
    pad: int | None = None,
    strips: bool = False,
    tidies: bool = False,
) -> Parts:
    """Add the control and user-defined tokens and the post-processor, and gather the special ids."""
    tokens = vocabulary.tokens
    control = set(vocabulary.of_type(CONTROL, UNKNOWN)) | {id for id in (bos, eos, unknown) if id is not None}
    if style == "wordpiece":
        control |= {id for id in map(vocabulary.id, ("padding", "mask", "cls", "seperator")) if id is not None}
    added = sorted(control | set(vocabulary.of_type(USER_DEFINED)))
    backend.add_tokens([AddedToken(tokens[id], normalized=False, special=id in control) for id in added])
    starts = bos if vocabulary.flag("add_bos_token", add_bos) else None
    ends = eos if vocabulary.flag("add_eos_token", add_eos) else None
    words = style == "wordpiece"
    around = surround(
        backend,
        None if starts is None else tokens[starts],
        None if ends is None else tokens[ends],
        [tokens[ends]] if words and ends is not None else [],
        second_type=int(words),
    )
    if around is not None:
        backend.post_processor = around
    first, last = ("cls", "sep") if words else ("bos", "eos")
    others = {name: vocabulary.id(key) for name, key in (("mask", "mask"), ("cls", "cls"), ("sep", "seperator"))}
    named = vocabulary.id("unknown") if unknown is None else unknown  # byte-level BPE names one and never needs it
    marks = {**others, first: bos, last: eos, "unk": named, "pad": vocabulary.id("padding", pad)}
    ends_declared = [eos, vocabulary.id("eot"), vocabulary.id("eom")]
    return Parts(
        backend,
        style,
        marks={role: id for role, id in marks.items() if id is not None},
        stop_ids=stop_ids(ends_declared, {tokens[id]: id for id in control}),
        strips_first_space=strips,
        tidies=tidies,
        literal=frozenset(added),
        metadata={key: value for key, value in vocabulary.metadata.items() if key.startswith("tokenizer.")},
    )


_BUILDERS = {"gpt2": _byte_level, "llama": _sentencepiece_bpe, "t5": _unigram, "bert": _wordpiece}
