"""Texts to unit vectors with an encoder, as sentence-transformers does it (Reimers and Gurevych 2019, arXiv 1908.10084).

    texts -> tokens, cut at max_tokens -> batches of like length -> Encoder (engine/encode.py) -> unit length -> [n, d]

What the model's folder says decides: the pooling (how token states become one vector), max_seq_length in
``sentence_bert_config.json``, and what stands before a query or a passage in ``config_sentence_transformers.json``. A text beyond ``max_tokens`` is cut as the reference cuts it, counted in ``truncated``, and logged:
callers that must not lose text count tokens first.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hornbook.checkpoint.sentence_folder import read_limit
from hornbook.engine.encode import Encoder
from hornbook.errors import ModelClosed, ModelFileError, UnsupportedModel, UsageError
from hornbook.forking import lock

if TYPE_CHECKING:
    from hornbook.model.config import ModelConfig
    from hornbook.text.tokenizer import Tokenizer

log = logging.getLogger("hornbook")


class Layout(NamedTuple):
    """What the files beside the weights say about a text before it is read."""

    max_tokens: int | None  # None: whatever the model can read
    query_prompt: str
    passage_prompt: str


class LocalEmbedder:
    """An encoder that runs in this process. Safe to use from several threads.

    ``truncated`` counts the texts so far that were longer than ``max_tokens`` and lost their end.
    """

    def __init__(
        self, encoder: Encoder, config: ModelConfig, tokenizer: Tokenizer, path: Path, *, name: str = ""
    ) -> None:
        layout = read_layout(path)
        self.name = name or path.stem
        self.dimensions = config.width
        self.max_tokens = min(layout.max_tokens or config.context_length, config.context_length)
        self.tokenizer = tokenizer
        self.truncated = 0
        self.fingerprint = fingerprint(path, (*layout, self.max_tokens, config.pooling or "mean"))
        self._encoder: Encoder | None = encoder
        self._layout = layout
        self._lock = lock()
        # How many special tokens end a text ([SEP]): a text that is cut keeps them.
        empty, some = tokenizer.encode(""), tokenizer.encode("a")
        begin = next((i for i, (a, b) in enumerate(zip(empty, some, strict=False)) if a != b), len(empty))
        self._ending = len(empty) - begin

    def embed(
        self, texts: Sequence[str], *, kind: Literal["passage", "query"] = "passage"
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """[n, dimensions] float32, each row of unit length, in the order of ``texts``.

        Raises UsageError where ``texts`` is one str, and ModelClosed after close().
        """
        if isinstance(texts, str):
            raise UsageError("embed() takes a list of texts, not one text", "Write embed([text]).")
        if kind not in ("passage", "query"):
            raise UsageError(
                f"a text to embed is a passage or a query, not {kind!r}", "Give kind='passage' or 'query'."
            )
        self._open()
        return self.embed_rows(self._cut(self._tokens(texts, kind)))

    def rows(
        self, texts: Sequence[str] | Sequence[Sequence[int]], *, kind: Literal["passage", "query"] = "passage"
    ) -> list[list[int]]:
        """The ids that the model would read of each text, special tokens included, none cut: for ``embed_rows``.

        A text may be given as its ids, without special tokens. Raises UsageError for an id that is none.
        """
        own = [text for text in texts if isinstance(text, str)]
        made = iter(self._tokens(own, kind) if own else ())
        around = self.tokenizer.encode("")
        begin, end = around[: len(around) - self._ending], around[len(around) - self._ending :]
        before = self.tokenizer.encode(self._prompt(kind), add_special=False)
        rows = []
        for text in texts:
            if isinstance(text, str):
                rows.append(next(made))
                continue
            wrong = [id for id in text if not 0 <= id < self.tokenizer.vocab_size]
            if wrong:
                raise UsageError(
                    f"token id {wrong[0]} is out of range: the vocabulary has {self.tokenizer.vocab_size:,} tokens",
                    "Were the ids made by another model's tokenizer? Send the text.",
                )
            rows.append([*begin, *before, *text, *end])
        return rows

    def embed_rows(self, ids: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """[n, dimensions] float32, each row of unit length, of what ``rows`` has made. Raises UsageError for a row longer
        than ``max_tokens``, ModelClosed after close()."""
        longest = max(map(len, ids), default=0)
        if longest > self.max_tokens:
            what = f"a text has {longest:,} tokens; {self.name} reads {self.max_tokens:,}"
            raise UsageError(what, "Split it into passages.")
        out = np.zeros((len(ids), self.dimensions), dtype=np.float32)
        some = [i for i, row in enumerate(ids) if row]  # of no token at all there is nothing to say: zeros
        for batch in batches([len(ids[i]) for i in some], self._open().batch_tokens):
            places = [some[i] for i in batch]
            with self._lock:  # batch by batch: another thread's query need not wait for all of these
                vectors = self._open().vectors([ids[i] for i in places])
            out[places] = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
        return out

    def count_tokens(self, text: str) -> int:
        """How many tokens the text has, without the special ones at its ends (``special_tokens`` of them)."""
        return len(self.tokenizer.encode(text, add_special=False))

    @property
    def special_tokens(self) -> int:
        """How many of ``max_tokens`` go to special tokens."""
        return len(self.tokenizer.encode(""))

    def close(self) -> None:
        """Free the model's memory; any later use raises ModelClosed."""
        with self._lock:
            if self._encoder is not None:
                self._encoder.close()
            self._encoder = None

    def __enter__(self) -> LocalEmbedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prompt(self, kind: str) -> str:
        return self._layout.query_prompt if kind == "query" else self._layout.passage_prompt

    def _tokens(self, texts: Sequence[str], kind: str) -> list[list[int]]:
        prompt = self._prompt(kind)
        rows: list[list[int]] = self.tokenizer.encode_batch([prompt + text for text in texts])
        return rows

    def _cut(self, rows: list[list[int]]) -> list[list[int]]:
        """At most ``max_tokens`` ids of each text; counts and logs the texts that were cut."""
        long = [i for i, row in enumerate(rows) if len(row) > self.max_tokens]
        for i in long:
            keep = self.max_tokens - self._ending
            rows[i] = rows[i][:keep] + rows[i][len(rows[i]) - self._ending :]
        if long:
            with self._lock:
                self.truncated += len(long)
            log.warning(
                "%s reads %d tokens of a text: %d of %d texts are longer and were embedded without their end",
                self.name, self.max_tokens, len(long), len(rows),
            )  # fmt: skip
        return rows

    def _open(self) -> Encoder:
        if self._encoder is None:
            raise ModelClosed(f"{self.name} was closed", "Load it again.")
        return self._encoder


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places of texts of like length, longest first, so that each batch is at most ``budget`` tokens with its padding.

    Longest first: memory peaks at once, and a machine that is too small fails early and not at the end.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    begin = 0
    while begin < len(order):
        rows = max(1, budget // max(1, lengths[order[begin]]))
        yield order[begin : begin + rows]
        begin += rows


# ---------------------------------------------------------------------------------------------------- the model's files


def read_layout(path: Path) -> Layout:
    """Read sentence-transformers' files beside the weights; without them (a GGUF file), nothing is set.

    Raises UnsupportedModel for a module that is not implemented, ModelFileError for a damaged file.
    """
    if not (path / "modules.json").is_file():
        return Layout(None, "", "")
    for module in _json(path / "modules.json", list):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1] if isinstance(module, dict) else ""
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UnsupportedModel(
                f"{path.name} passes its vectors through a module {kind!r}, which is not supported",
                "Supported are Transformer, Pooling and Normalize.",
            )
    prompts = _json(path / "config_sentence_transformers.json", dict).get("prompts") or {}
    return Layout(
        read_limit(path),
        str(prompts.get("query", "")),
        str(prompts.get("passage", prompts.get("document", ""))),
    )


def _json(path: Path, kind: type) -> Any:
    """The list or object in a file; an empty one where there is no such file."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}", "Pull the model again.") from error
    if not isinstance(value, kind):
        raise ModelFileError(f"{path} holds a {type(value).__name__}, not a {kind.__name__}", "Pull the model again.")
    return value


def fingerprint(path: Path, reading: tuple[object, ...]) -> str:
    """What tells two embedding models apart: SHA-256 of how they read a text, of their weights' sizes and of samples.

    Each weights file gives its first MiB (names, shapes) and 64 pages of 4 KiB spread evenly, so a file of any size
    costs milliseconds. The model's name and place do not count: a model that moved is the same model.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    digest = hashlib.sha256(repr(reading).encode())
    for file in files:
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "big"))
        with file.open("rb") as weights:
            digest.update(weights.read(2**20))
            for sample in range(64):
                weights.seek(size * sample // 64)
                digest.update(weights.read(4096))
    return digest.hexdigest()[:32]
