"""New tokens for a tokenizer that there is, and rows for them in its model, which begin from what stood there before.

    add_tokens(tokenizer, ["<|tool|>", "腹腔镜"])     a list: found wherever they stand in a text
    grow(tokenizer, texts, 1000)                      byte pairs go on merging on other texts (a domain, a language)
        -> Extension(tokenizer, pieces)               pieces: new id -> the ids that wrote the same text before
    resize(model, extension)                          embedding, head and bias get rows; tied heads stay tied

A new token's vector is the mean of the vectors of its pieces, in the embedding and in the head alike: what the model knew
of them is where training begins. (The mean of all vectors, proposed for tokens that have nothing to do with their pieces,
and random ones are there to choose: docs/results/corpus.md compares them.) The old merges come first and the new
ones after them, so that a text without new tokens keeps its ids.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import Any, Literal, NamedTuple

import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from torch import Tensor, nn

from hornbook.errors import UnsupportedModel, UsageError
from hornbook.model.transformer import Transformer
from hornbook.text.parts import stop_ids
from hornbook.text.tokenizer import Tokenizer

Start = Literal["pieces", "mean", "random"]


class Extension(NamedTuple):
    """A tokenizer with more tokens. ``pieces``: new id -> ids of the tokenizer before; none are empty."""

    tokenizer: Tokenizer
    pieces: Mapping[int, tuple[int, ...]]


def add_tokens(tokenizer: Tokenizer, tokens: Sequence[str], *, control: bool = False) -> Extension:
    """Give each text of ``tokens`` an id of its own. It is then found wherever it stands, also inside a word.

    control: tokens that steer the model, which `Tokenizer.encode` takes for text unless it is told otherwise.
    Raises UsageError for a token that is empty or there already, UnsupportedModel where the format cannot take any.
    """
    _takes(tokenizer)
    for token in tokens:
        if not token or tokenizer.id(token) is not None or tokens.count(token) > 1:
            why = (
                "is empty" if not token else "is there already" if tokenizer.id(token) is not None else "is given twice"
            )
            raise UsageError(f"the new token {token!r} {why}", "Give each new token once.")
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_tokens([AddedToken(token, normalized=False, special=control) for token in tokens])
    ids = backend.get_vocab(with_added_tokens=True)
    pieces = {ids[token]: tuple(tokenizer.encode(token, add_special=False)) for token in tokens}
    return Extension(_with(tokenizer, backend, literal=frozenset(pieces)), pieces)


def grow(tokenizer: Tokenizer, texts: Iterable[str], count: int, *, least: int = 2) -> Extension:
    """Merge the ``count`` most frequent pairs of tokens in ``texts``, one after the other: byte-pair encoding (arXiv
    1508.07909) that goes on where the tokenizer's training ended. Fewer, where no pair comes ``least`` times.

    Raises UnsupportedModel for a tokenizer that is not byte-level BPE, UsageError where nothing can be merged.
    """
    _takes(tokenizer)
    said = json.loads(tokenizer.backend.to_str())
    model = said["model"]
    if model["type"] != "BPE" or tokenizer.parts.style != "byte-level":
        raise UnsupportedModel(
            f"a tokenizer of {model['type']} in the style {tokenizer.parts.style} cannot go on merging",
            "Byte-level BPE can; to any other, give new tokens as a list.",
        )
    merges = Merges(tokenizer, texts)
    names = {id: name for name, id in model["vocab"].items()}
    known = set(model["vocab"]) | {entry["content"] for entry in said["added_tokens"]}
    model["vocab"].update({entry["content"]: entry["id"] for entry in said["added_tokens"]})  # ids must have no gap
    written = model["merges"] and isinstance(model["merges"][0], str)
    pieces: dict[int, tuple[int, ...]] = {}
    while len(pieces) < count and (pair := merges.best(least)) is not None:
        name = names[pair[0]] + names[pair[1]]
        if name in known:
            merges.forbid(pair)
            continue
        id = max(len(model["vocab"]), tokenizer.vocab_size + len(pieces))
        merges.join(pair, id)
        known.add(name)
        names[id], model["vocab"][name] = name, id
        parts = [names[part] for part in pair]
        model["merges"].append(" ".join(parts) if written else parts)
        pieces[id] = tuple(old for part in pair for old in pieces.get(part, (part,)))
    if not pieces:
        raise UsageError(f"no pair of tokens comes {least} times in the texts", "Give more text.")
    return Extension(_with(tokenizer, Backend.from_str(json.dumps(said))), pieces)


@torch.no_grad()
def resize(
    model: Transformer, extension: Extension, *, start: Start = "pieces", generator: torch.Generator | None = None
) -> Transformer:
    """Give the model rows for the new tokens, in place, and return it.

    start: what they begin as: "pieces" (the mean of each token's pieces), "mean" (of all old rows), or "random" (normal,
    as wide as the old rows). Rows that the model had to spare are used first. Raises UnsupportedModel where the two sides
    of the model have different vocabularies.
    """
    config = model.config
    if config.encoder is not None and config.encoder.vocab_size != config.vocab_size:
        raise UnsupportedModel(
            f"the model reads {config.encoder.vocab_size:,} tokens and writes {config.vocab_size:,}",
            "Only a model with one vocabulary can be extended.",
        )
    rows = max(config.vocab_size, extension.tokenizer.vocab_size)
    fill = _Rows(extension, rows, start, generator)
    for part in (model, model.encoder):
        if part is None:
            continue
        part.config = replace(part.config, vocab_size=rows)
        if part.embed.tokens is not None:
            table = nn.Embedding(0, part.embed.tokens.embedding_dim)
            table.num_embeddings, table.weight = rows, fill(part.embed.tokens.weight)
            part.embed.tokens = table
    if model.encoder is not None:
        model.config = replace(model.config, encoder=model.encoder.config)
    head = model.head
    if head is not None and head.tokens is not None:
        head.tokens.weight, head.tokens.out_features = fill(head.tokens.weight), rows
    if head is not None and head.bias is not None:
        head.bias = fill(head.bias)
    return model


class _Rows:
    """Old rows with new ones behind them: [V] or [V,C] -> [V',...]."""

    def __init__(self, extension: Extension, rows: int, start: Start, generator: torch.Generator | None) -> None:
        self.pieces, self.rows, self.start, self.generator = extension.pieces, rows, start, generator

    def __call__(self, old: Tensor) -> nn.Parameter:
        made = old.new_zeros(self.rows, *old.shape[1:])
        made[: len(old)] = old
        known = old[: min(self.pieces)].float()
        for id, pieces in self.pieces.items():
            made[id] = self._row(known, pieces).to(made.dtype)
        return nn.Parameter(made, requires_grad=old.requires_grad)

    def _row(self, known: Tensor, pieces: tuple[int, ...]) -> Tensor:
        if self.start == "pieces":
            return known[list(pieces)].mean(0)
        if self.start == "mean":
            return known.mean(0)
        drawn = torch.randn(known.shape[1:], generator=self.generator)
        return drawn.to(known.device) * known.std()


class Merges:
    """Words as ids with their counts, and the pairs of neighbours in them, the most frequent one at hand.

    A heap holds counts that may have changed since; one that has is put back when it comes up.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
        backend = tokenizer.backend
        found: Counter[str] = Counter()
        for text in texts:
            plain = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
            found.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(plain))
        self.words = [[token.id for token in backend.model.tokenize(word)] for word in found]
        self.counts = list(found.values())
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.places: dict[tuple[int, int], set[int]] = defaultdict(set)  # of each pair, the words that hold it
        for at, word in enumerate(self.words):
            self._count(at, word, self.counts[at])
        self.heap = [(-count, pair) for pair, count in self.pairs.items()]
        heapify(self.heap)

    def _count(self, at: int, word: list[int], times: int) -> set[tuple[int, int]]:
        pairs = set(zip(word, word[1:], strict=False))
        for pair in zip(word, word[1:], strict=False):
            self.pairs[pair] += times
        for pair in pairs if times > 0 else ():
            self.places[pair].add(at)
        return pairs

    def best(self, least: int) -> tuple[int, int] | None:
        """The pair that comes most often, of equal ones that of the oldest tokens; None where none comes ``least`` times."""
        while self.heap:
            count, pair = self.heap[0]
            now = self.pairs[pair]
            if -count == now:
                return pair if now >= least else None
            heappop(self.heap)
            if now > 0:
                heappush(self.heap, (-now, pair))
        return None

    def forbid(self, pair: tuple[int, int]) -> None:
        """Never propose a pair again; it stays as it is in the words."""
        self.pairs[pair] = -(1 << 60)

    def join(self, pair: tuple[int, int], id: int) -> None:
        """Write ``id`` for the pair in every word."""
        for at in sorted(self.places.pop(pair)):
            word, times = self.words[at], self.counts[at]
            touched = self._count(at, word, -times)
            made: list[int] = []
            for token in word:
                if made and made[-1] == pair[0] and token == pair[1]:
                    made[-1] = id
                else:
                    made.append(token)
            self.words[at] = made
            for changed in touched | self._count(at, made, times):
                if self.pairs[changed] > 0:
                    heappush(self.heap, (-self.pairs[changed], changed))
        self.pairs[pair] = 0


# --------------------------------------------------------------------------------------------------------- tokenizers


def _takes(tokenizer: Tokenizer) -> None:
    if tokenizer.parts.files or tokenizer.parts.names:
        raise UnsupportedModel(
            "a tokenizer with files of its own (Marian) takes no new tokens", "Train a model with a new vocabulary."
        )


def _with(tokenizer: Tokenizer, backend: Backend, literal: frozenset[int] = frozenset()) -> Tokenizer:
    """The tokenizer on another backend; what its file said of the old vocabulary is left behind."""
    parts = tokenizer.parts
    added: dict[int, Any] = backend.get_added_tokens_decoder()
    ends = stop_ids([], {token.content: id for id, token in added.items() if token.special})
    return Tokenizer(
        replace(
            parts,
            backend=backend,
            stop_ids=parts.stop_ids | ends,
            literal=parts.literal | literal,
            metadata=None,
            scores=None,
        )
    )
