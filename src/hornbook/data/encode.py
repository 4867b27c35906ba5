"""Examples become token ids, and which of them are learnt; nothing is cut, dropped or left unlearnt without being counted.

    causal      Text          the tokens of a document and its end; longer ones are split, cut, dropped or refused
    chat        Conversation  as the template renders it; learnt is what the assistant wrote
    completion  Pair          a prompt, and its completion, which is learnt
    classify    Labelled      a text or two, and the number of its class
    translate   Pair          a source for the encoder, a target for the decoder
    documents   Text          with the starts of sentences and words: what `hornbook.data.masked` and `spans` read

An Encoder is called with an example, or with many (``many``), which the tokenizer then encodes at once. Its ``account``
says what came of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, Literal, TypeAlias

import numpy as np
from tokenizers import Encoding

from hornbook.data.encoded import SENTENCE, WORD, Account, Encoded
from hornbook.data.example import Conversation, Example, Labelled, Pair, Place, Text
from hornbook.errors import DataError, TemplateError, UsageError
from hornbook.text.chat import ChatTemplate
from hornbook.text.tokenizer import Tokenizer

TooLong: TypeAlias = Literal["split", "truncate", "drop", "refuse"]
Learn: TypeAlias = Literal["assistant", "last", "all"]
Splitter: TypeAlias = Callable[[str], list[tuple[int, int]]]  # a text -> the spans of its sentences

AT_ONCE = 256  # examples that are encoded together


class Encoder:
    """``make`` encodes examples of one kind whole; here they are fitted into the context and counted.

    identity: what it does in words, of which a table's fingerprint is made. context: tokens that a row may have.
    """

    def __init__(
        self,
        identity: str,
        takes: type[Example],
        make: Callable[[Sequence[Any]], Iterable[Encoded]],
        context: int,
        too_long: TooLong,
    ) -> None:
        self.identity = f"{identity}, context {context}, too long: {too_long}"
        self.account = Account()
        self.context, self.too_long = context, too_long
        self._takes, self._make = takes, make

    def __call__(self, example: Example) -> list[Encoded]:
        """The rows of one example: one, several where it was split, none where it was dropped or has nothing to learn.

        Raises DataError for an example of another kind, one that cannot be encoded, and one that is too long where
        such are refused.
        """
        return list(self.many([example]))

    def many(self, examples: Iterable[Example]) -> Iterator[Encoded]:
        """The rows of all examples in their order; see ``__call__``."""
        source = iter(examples)
        while taken := list(islice(source, AT_ONCE)):
            for example in taken:
                if not isinstance(example, self._takes):
                    raise DataError(
                        f"{_at(example.place)}an example is {_a(type(example))}, this recipe learns from "
                        f"{_a(self._takes)}",
                        "Say the shape of the data, or take the recipe that is for it.",
                    )
            for example, row in zip(taken, self._make(taken), strict=True):
                row.place = example.place
                yield from self._fit(row)

    def _fit(self, row: Encoded) -> Iterator[Encoded]:
        account = self.account
        account.examples += 1
        length = max(len(row.ids), 0 if row.target is None else len(row.target))
        rows = [row]
        if row.lost:
            account.too_long += 1
            account.longest = max(account.longest, length + row.lost)
            account.truncated += 1
            account.cut += row.lost
        elif length > self.context:
            account.too_long += 1
            account.longest = max(account.longest, length)
            if self.too_long == "refuse":
                raise DataError(
                    f"{_at(row.place)}an example has {length} tokens, the context is {self.context}",
                    "Set a longer context, or too_long to truncate, split or drop.",
                )
            if self.too_long == "drop":
                account.dropped += 1
                return
            if self.too_long == "truncate":
                account.truncated += 1
                account.cut += length - self.context
                rows = [row.cut(0, self.context)]
            else:
                account.split += 1
                # One token stands in both rows, read only in the second, so that each but the first is learnt once.
                rows = [row.cut(at, at + self.context) for at in range(0, length - 1, self.context - 1)]
        if not any(part.targets for part in rows):
            account.unlabelled += 1
            account.first_unlabelled = account.first_unlabelled or row.place
            return
        for part in rows:
            if part.targets:
                account.rows += 1
                account.tokens += part.length
                account.learnt += part.targets
                yield part


# ---------------------------------------------------------------------------------------------------------- the ways


def causal(tokenizer: Tokenizer, context: int, too_long: TooLong = "split") -> Encoder:
    """Each document with its end-of-text token behind it, if the model has one. Split documents' rows share a token."""
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]

    def make(examples: Sequence[Text]) -> Iterator[Encoded]:
        for ids in tokenizer.encode_batch([example.text for example in examples]):
            yield _learnt_after_first(ids if ids[-1:] == end else ids + end)

    return Encoder(f"causal {_named(tokenizer)}", Text, make, _at_least_two(context), too_long)


def chat(template: ChatTemplate, context: int, too_long: TooLong = "truncate", learn: Learn = "assistant") -> Encoder:
    """Conversations as the model's template renders them.

    ``learn``: what the assistant wrote in every turn, by the template's own mask; in its last turn; or all tokens.
    Raises UsageError where conversations are to be split: a second half would answer nothing.
    """

    def make(examples: Sequence[Conversation]) -> Iterator[Encoded]:
        for example in examples:
            try:
                rendered = template.render(example.messages, tools=example.tools)
                if learn == "all":
                    yield _learnt_after_first(rendered.ids)
                    continue
                mask = np.array(rendered.loss_mask, dtype=np.uint8)
            except TemplateError as error:
                raise DataError(f"{_at(example.place)}{error.what}", error.remedy) from error
            mask[:1] = 0  # nothing stands before it
            if learn == "last":
                places = np.flatnonzero(np.diff(mask, prepend=0) == 1)
                mask[: places[-1] if len(places) else 0] = 0
            yield Encoded(np.array(rendered.ids, dtype=np.int32), mask)

    said = hashlib.sha256(repr((template.source, sorted(template.named.items()))).encode()).hexdigest()[:16]
    identity = f"chat {said} {_named(template.tokenizer)}, learn {learn}"
    return Encoder(identity, Conversation, make, _at_least_two(context), _whole(too_long))


def completion(
    tokenizer: Tokenizer,
    context: int,
    too_long: TooLong = "truncate",
    learn: Literal["completion", "all"] = "completion",
) -> Encoder:
    """A prompt with its completion directly behind it and the end-of-text token, without any template.

    Both are encoded as one text where the prompt's own tokens begin it; else the completion's follow the prompt's, for a
    model that is asked sees the prompt's own.
    """
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]

    def make(examples: Sequence[Pair]) -> Iterator[Encoded]:
        prompts = tokenizer.encode_batch([example.source for example in examples])
        wholes = tokenizer.encode_batch([example.source + example.target for example in examples])
        for example, prompt, whole in zip(examples, prompts, wholes, strict=True):
            if end and prompt[-1:] == end:
                prompt.pop()
            if whole[: len(prompt)] != prompt:
                whole = prompt + tokenizer.encode(example.target, add_special=False)
            row = _learnt_after_first(whole if whole[-1:] == end else whole + end)
            if learn == "completion":
                row.learnt[: len(prompt)] = 0
            yield row

    identity = f"completion {_named(tokenizer)}, learn {learn}"
    return Encoder(identity, Pair, make, _at_least_two(context), _whole(too_long))


def classify(tokenizer: Tokenizer, labels: Sequence[str], context: int, too_long: TooLong = "truncate") -> Encoder:
    """A text, or two, with the model's own marks around them, and the number of its label in ``labels``.

    What is too long is cut inside the marks, of two texts the longer one.
    """
    number = {label: at for at, label in enumerate(labels)}

    def make(examples: Sequence[Labelled]) -> Iterator[Encoded]:
        for example in examples:
            if example.label not in number:
                near = get_close_matches(example.label, labels, 1)
                raise DataError(
                    f"{_at(example.place)}there is no label {example.label!r}"
                    + (f"; near is {near[0]!r}" if near else ""),
                    f"The labels are {', '.join(map(repr, labels))}.",
                )
            first = tokenizer.encoding(example.text, add_special=False)
            second = None if example.second is None else tokenizer.encoding(example.second, add_special=False)
            lost = 0
            if too_long == "truncate":
                room = context - tokenizer.backend.num_special_tokens_to_add(second is not None)
                lost = _cut_longer(first, second, room)
            whole = tokenizer.backend.post_process(first, second)
            ids, types = np.array(whole.ids, dtype=np.int32), np.array(whole.type_ids, dtype=np.uint8)
            yield Encoded(ids, np.zeros(len(ids), np.uint8), types, label=number[example.label], lost=lost)

    return Encoder(f"classify {list(labels)} {_named(tokenizer)}", Labelled, make, context, _whole(too_long))


def translate(source: Tokenizer, target: Tokenizer, context: int, too_long: TooLong = "truncate") -> Encoder:
    """Source and target with what each side's tokenizer puts around a text, and an end token behind both.

    ``context``: of each side; what is cut is cut before the end token.
    """

    def side(tokenizer: Tokenizer, texts: list[str]) -> Iterator[tuple[list[int], int]]:
        end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        for ids in tokenizer.encode_batch(texts):
            if ids[-1:] == end:
                ids.pop()
            over = len(ids) + len(end) - context
            if over > 0 and too_long == "truncate":
                yield ids[: context - len(end)] + end, over
            else:
                yield ids + end, 0

    def make(examples: Sequence[Pair]) -> Iterator[Encoded]:
        sources = side(source, [example.source for example in examples])
        targets = side(target, [example.target for example in examples])
        for (ids, lost), (wanted, missing) in zip(sources, targets, strict=True):
            read, learnt = np.array(ids, dtype=np.int32), np.zeros(len(ids), np.uint8)
            yield Encoded(read, learnt, target=np.array(wanted, dtype=np.int32), lost=lost + missing)

    identity = f"translate {_named(source)} {_named(target)}"
    return Encoder(identity, Pair, make, _at_least_two(context), _whole(too_long))


def documents(tokenizer: Tokenizer, sentences: Splitter) -> Encoder:
    """Whole documents without any marks, and where their sentences and words begin; they are cut when they are masked."""

    def make(examples: Sequence[Text]) -> Iterator[Encoded]:
        for example in examples:
            found = tokenizer.encoding(example.text, add_special=False)
            starts = np.zeros(len(found), np.uint8)
            words = np.array([-1 if word is None else word for word in found.word_ids], dtype=np.int64)
            starts[np.diff(words, prepend=-2) != 0] |= WORD
            ends = np.array([end for _, end in found.offsets], dtype=np.int64)
            first = np.searchsorted(ends, [start for start, _ in sentences(example.text)], side="right")
            starts[np.unique(first[first < len(starts)])] |= SENTENCE
            starts[:1] |= SENTENCE
            yield Encoded(np.array(found.ids, dtype=np.int32), np.zeros(len(starts), np.uint8), starts=starts)

    return Encoder(f"documents {_named(tokenizer)}", Text, make, 1 << 31, "refuse")


# ------------------------------------------------------------------------------------------------------------- parts


def _learnt_after_first(ids: Sequence[int]) -> Encoded:
    learnt = np.ones(len(ids), np.uint8)
    learnt[:1] = 0
    return Encoded(np.array(ids, dtype=np.int32), learnt)


def _cut_longer(first: Encoding, second: Encoding | None, room: int) -> int:
    """Cut two texts to ``room`` tokens together, of the longer one first; -> how many went."""
    lengths = [len(first), 0 if second is None else len(second)]
    over = max(0, sum(lengths) - room)
    apart = min(over, abs(lengths[0] - lengths[1]))
    longer = 0 if lengths[0] >= lengths[1] else 1
    kept = list(lengths)
    kept[longer] -= apart + (over - apart + 1) // 2
    kept[1 - longer] -= (over - apart) // 2
    if min(kept[: 1 if second is None else 2]) < 1 <= over:
        raise UsageError(f"a context leaves room for {max(room, 0)} tokens of text", "Set a longer one.")
    first.truncate(kept[0])
    if second is not None:
        second.truncate(kept[1])
    return over


def _at_least_two(context: int) -> int:
    if context < 2:
        raise UsageError(f"a context of {context} tokens holds nothing that could be learnt", "Set 2 or more.")
    return context


def _whole(too_long: TooLong) -> TooLong:
    if too_long == "split":
        raise UsageError(
            "too_long is split, but only plain text can be: the second half of an example would answer nothing",
            "Set too_long to truncate, drop or refuse.",
        )
    return too_long


def _named(tokenizer: Tokenizer) -> str:
    """A tokenizer by what it does, not by where it lies."""
    return hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest()[:16]


def _at(place: Place | None) -> str:
    return "" if place is None else f"{place}: "


def _a(kind: type) -> str:
    name = {Text: "plain text", Conversation: "a conversation", Pair: "a pair", Labelled: "a labelled text"}
    return name.get(kind, "a preference")
