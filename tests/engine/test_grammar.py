"""Structured output: what finishes is valid, what cannot be honoured is refused by its name, and nothing takes long."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from random_schemas import complaint, random_schema
from small_tokenizer import small_tokenizer

from hornbook.checkpoint.gguf import GGUF
from hornbook.engine import grammar
from hornbook.engine.grammar import Compiled, Matcher, Vocabulary
from hornbook.errors import GenerationError, UsageError
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import SamplingParams


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary(small_tokenizer(tmp_path_factory.mktemp("tokenizer")), size=640)


def from_gguf(path: Path) -> Vocabulary:
    with GGUF.open(path) as file:
        return Vocabulary(Tokenizer.from_gguf(file.metadata))


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> Vocabulary:
    return from_gguf(shared / "tokenizers" / "ggml-vocab-gpt-2.gguf")


@pytest.fixture(scope="module")
def phi3(shared: Path) -> Vocabulary:
    """SentencePiece with a token for every byte, and a space before every text."""
    return from_gguf(shared / "tokenizers" / "ggml-vocab-phi-3.gguf")


class RandomModel:
    """Random weights: logits that know nothing, but that come to love quotes, brackets and the end as the text grows."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.rows = np.random.default_rng(3).standard_normal((31, vocabulary.size)).astype(np.float32) * 3
        piece = vocabulary.tokenizer.detokenizer.piece
        pieces = [piece(id) for id in range(vocabulary.tokenizer.vocab_size)]
        self.ends = np.zeros(vocabulary.size, np.float32)
        self.ends[: len(pieces)] = [3.0 if re.search(rb'["\]}]', written) else 0.0 for written in pieces]
        self.ends[list(vocabulary.end_ids)] = 4.0
        self.vocabulary = vocabulary

    def answer(self, compiled: Compiled, r: random.Random, most: int = 300) -> tuple[str, bool]:
        """A text, and whether it came to its end; one that did is UTF-8."""
        matcher, ids = compiled.start(), []
        for step in range(most):
            logits = self.rows[r.randrange(31)] + self.ends * min(3.0, step / 20)
            allowed = np.unpackbits(matcher.allowed().view(np.uint8), count=len(logits), bitorder="little")
            id = int(np.where(allowed.astype(bool), logits, -np.inf).argmax())
            assert allowed[id]
            could_end = matcher.can_end
            matcher.accept(id)
            if id in self.vocabulary.end_ids:
                assert could_end, "the end of text came before the end"
                return self.text(ids), True
            ids.append(id)
            if matcher.is_done:
                return self.text(ids), True
        return "", False

    def text(self, ids: list[int]) -> str:
        return b"".join(map(self.vocabulary.tokenizer.detokenizer.piece, ids)).decode()


def feed(matcher: Matcher, text: str) -> bool:
    """Whether a text may be written so far, in the tokens that the tokenizer would choose inside another text."""
    tokenizer = matcher._vocabulary.tokenizer
    piece = {tokenizer.detokenizer.piece(id): id for id in reversed(range(tokenizer.vocab_size))}
    ids = [piece[bytes([byte])] for byte in text.encode()]
    taken = matcher.legal(ids)
    for id in ids[:taken]:
        matcher.accept(id)
    return taken == len(ids)


def takes(compiled: Compiled, text: str) -> bool:
    matcher = compiled.start()
    return feed(matcher, text) and matcher.can_end


@pytest.mark.parametrize(("name", "first", "count"), [("small", 0, 600), ("gpt2", 1000, 200), ("phi3", 2000, 200)])
def test_whatever_finishes_is_valid(name: str, first: int, count: int, request: pytest.FixtureRequest) -> None:
    vocabulary = request.getfixturevalue(name)
    model, finished = RandomModel(vocabulary), 0
    for seed in range(first, first + count):
        schema = random_schema(seed)
        try:
            compiled = grammar.compile(vocabulary, schema=schema)
        except UsageError as error:
            assert "Unsatisfiable" in error.what, (seed, error.what)
            continue
        text, whole = model.answer(compiled, random.Random(seed))
        finished += whole
        if whole:
            assert complaint(text, schema) is None, (seed, text, schema, complaint(text, schema))
    assert finished > 0.93 * count


def test_the_bounds_of_numbers_hold_where_they_lie_close_together(small: Vocabulary) -> None:
    literals = ["-1", "-0.5", "-0.0", "0", "0.0", "0.25", "0.5", "0.50", "1", "1.0", "1.2", "1.25", "2", "1e9", "-7"]
    wrong = []
    for low in (-0.5, 0, 1):
        for high in (0, 0.5, 1.25):
            for lower in ("minimum", "exclusiveMinimum"):
                for upper in ("maximum", "exclusiveMaximum"):
                    schema = {"type": "number", lower: low, upper: high}
                    if low > high or (low == high and (lower, upper) != ("minimum", "maximum")):
                        continue
                    compiled = grammar.compile(small, schema=schema)
                    wrong += [(schema, x) for x in literals if takes(compiled, x) and complaint(x, schema)]
                    inside = str((low + high) / 2) if low < high else str(low)
                    assert takes(compiled, inside), (schema, inside)
    assert not wrong


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"format": "date"}, '"2024-02-29"', '"2023-02-29"'),
        ({"format": "date-time"}, '"2024-12-31T23:59:59.5+08:00"', '"2024-02-30T00:00:00Z"'),
        ({"format": "date", "pattern": "^20"}, '"2001-01-01"', '"1999-01-01"'),
        ({"properties": {"a": {"type": "integer"}}}, '{"a":1}', '{"\\u0061":"x"}'),
        ({"type": "object", "minProperties": 1}, '{"a":1}', "{}"),
        ({"type": "array"}, "[\n  1,\n  2\n]", "[\n\n1]"),
        ({"enum": ["是", "否"]}, '"是"', '"也"'),
        ({"type": "string", "maxLength": 2}, '"天气"', '"天气好"'),
        ({"$ref": "#/$defs/t", "$defs": {"t": {"items": {"$ref": "#/$defs/t"}, "type": "array"}}}, "[[],[[]]]", "[1]"),
        (True, '{"a": [1, null]}', "[]"),
        ('{"type": "null"}', "null", "nul"),
    ],
)
def test_what_a_schema_lets_through(small: Vocabulary, schema: Any, good: str, bad: str) -> None:
    compiled = grammar.compile(small, schema=schema)
    assert takes(compiled, good)
    assert not takes(compiled, bad)


REFUSED = {
    "not": {"not": {"type": "string"}},
    "if": {"if": {"type": "string"}, "then": {"maxLength": 3}},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "contains": {"type": "array", "contains": {"type": "string"}},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "a"}},
    "dependentRequired": {"dependentRequired": {"a": ["b"]}},
    "unevaluatedProperties": {"unevaluatedProperties": False},
    "nullable": {"type": "string", "nullable": True},
    "requried": {"type": "object", "requried": ["a"]},
    "x-guidance": {"x-guidance": {"lenient": True}, "not": {}},
    "minProperties": {"type": "object", "minProperties": 2},
    "exclusiveMinimum": {"minimum": 1, "exclusiveMinimum": True},
    "oneOf": {"oneOf": [{"type": "number"}, {"type": "integer"}]},
    "idn-email": {"type": "string", "format": "idn-email"},
    "look-around": {"type": "string", "pattern": "(?=a)b"},
    "unclosed group": {"type": "string", "pattern": "a("},
    "http://x.y/z": {"$ref": "http://x.y/z"},
    "/$defs/none": {"$ref": "#/$defs/none"},
    "minLength": {"type": "string", "minLength": 5, "maxLength": 2},
    "control characters": {"const": "a\u0001"},
    "is not a schema": {"properties": {"a": 3}},
    "foo": {"type": "foo"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_its_name(small: Vocabulary, name: str) -> None:
    for schema in (REFUSED[name], {"type": "object", "properties": {"deep": {"items": REFUSED[name]}}}):
        if name in ("/$defs/none", "minLength", "x-guidance") and schema is not REFUSED[name]:
            continue  # an array that must be empty does satisfy an impossible item
        with pytest.raises(UsageError) as caught:
            grammar.compile(small, schema=schema)
        assert name in caught.value.what and "\n" not in caught.value.what and caught.value.remedy


def test_a_property_may_be_called_as_a_keyword_is(small: Vocabulary) -> None:
    schema = {"type": "object", "properties": {"not": {"type": "null"}, "if": {"type": "null"}}, "required": ["not"]}
    assert takes(grammar.compile(small, schema=schema), '{"not":null}')


@pytest.mark.parametrize(
    ("regex", "good", "bad"),
    [
        ("[一-龥]{2,4}，好", "天气，好", "天，好"),
        (r"\p{Han}+|\d{3}", "公园", "12"),
        ("(?i)yes|no", "yEs", "maybe"),
        ("^a+$", "aaa", "b"),
        (r"\w+@\w+\.(com|中国)", "ab@c.中国", "ab@c.net"),
        ("🙂{2}", "🙂🙂", "🙂"),
    ],
)
def test_a_regular_expression_holds_the_whole_answer(small: Vocabulary, regex: str, good: str, bad: str) -> None:
    compiled = grammar.compile(small, regex=regex)
    assert takes(compiled, good) and not takes(compiled, bad)
    for seed in range(5):
        text, whole = RandomModel(small).answer(compiled, random.Random(seed), 100)
        assert not whole or takes(compiled, text)


ARITHMETIC = """
start: sum
sum: product (("+" | "-") product)*
product: value (("*" | "/") value)*
value: /[0-9]{1,3}/ | "(" sum ")"
"""


def test_a_grammar_that_counts_brackets(small: Vocabulary) -> None:
    compiled = grammar.compile(small, grammar=ARITHMETIC)
    assert takes(compiled, "(1+2)*(3-(4/5))") and not takes(compiled, "(1+2") and not takes(compiled, "1++2")
    model = RandomModel(small)
    for seed in range(20):
        text, whole = model.answer(compiled, random.Random(seed), 60)
        if whole:
            eval(text.replace("/", "+1-").replace("0", "1"))  # only its form counts: no division, no leading zero


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"regex": "a("}, "unclosed group"),
        ({"regex": r"a\b"}, "word borders"),
        ({"regex": r"(a)\1"}, "backreferences"),
        ({"grammar": "start: missing"}, "missing"),
        ({"grammar": ""}, "Empty"),
        ({"grammar": "nothing"}, "Expected"),
        ({"schema": False}, "JSON schema"),
        ({"schema": "{"}, "JSON schema"),
        ({"schema": {"const": float("nan")}}, "JSON schema"),
        ({"schema": True, "regex": "a"}, "one of"),
        ({}, "one of"),
    ],
)
def test_errors_are_for_people(small: Vocabulary, given: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(name)) as caught:
        grammar.compile(small, **given)
    assert "\n" not in caught.value.what


def test_parameters_say_it_once_and_stay_immutable() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    params = SamplingParams(schema=schema)
    schema.clear()
    assert json.loads(params.schema) == {"type": "object", "properties": {"b": {}, "a": {}}}
    assert params.schema.index('"b"') < params.schema.index('"a"'), "answers follow the order of the keys"
    assert hash(params) == hash(SamplingParams(schema=params.schema)) and params == SamplingParams(schema=params.schema)
    for wrong in ({"schema": True, "regex": "a"}, {"schema": "[]"}, {"regex": "a", "ignore_eos": True}):
        with pytest.raises(ValueError):
            SamplingParams(**wrong)


def test_going_back_and_forking(small: Vocabulary) -> None:
    matcher = grammar.compile(small, schema={"const": {"a": 1}}).start()
    assert feed(matcher, '{"a"')
    here = matcher.allowed()
    fork = matcher.fork()
    assert feed(matcher, ": 1}") and matcher.is_done
    end = small.end_ids[0]
    matcher.accept(end)
    matcher.rollback(5)
    assert not matcher.is_done and not matcher.can_end
    assert (matcher.allowed() == here).all() and (fork.allowed() == here).all()
    assert feed(fork, ":1") and not fork.is_done and feed(matcher, ": 1}") and matcher.can_end


def test_the_end_of_text_is_all_that_may_follow_the_end(small: Vocabulary) -> None:
    matcher = grammar.compile(small, regex="a{2,3}").start()
    ends = np.zeros(small.words * 32, bool)
    ends[list(small.end_ids)] = True

    def allowed() -> Any:
        return np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little").astype(bool)

    assert feed(matcher, "a") and not (allowed() & ends).any() and not matcher.can_end
    assert feed(matcher, "a") and (allowed() & ends).any() and (allowed() & ~ends).any() and not matcher.is_done
    assert feed(matcher, "a") and matcher.is_done and (allowed() == ends).all()


def test_a_token_that_is_not_allowed_is_an_error(small: Vocabulary) -> None:
    matcher = grammar.compile(small, regex="a+").start()
    with pytest.raises(GenerationError, match="cannot go on"):
        matcher.accept(small.tokenizer.encode("b")[0])


@pytest.mark.parametrize("name", ["small", "gpt2", "phi3"])
def test_what_must_come_is_written_as_the_tokenizer_writes_it(name: str, request: pytest.FixtureRequest) -> None:
    vocabulary = request.getfixturevalue(name)
    words = "the value of the name"
    matcher = grammar.compile(vocabulary, regex=f"({words})[.!]").start()
    forced = matcher.forced()
    piece = vocabulary.tokenizer.detokenizer.piece
    written = b"".join(map(piece, forced)).decode()
    assert words.startswith(written) and len(written) > len(words) - 6 and len(forced) < len(words)
    for id in forced:
        assert matcher.allowed()[id >> 5] >> (id & 31) & 1
        matcher.accept(id)


@pytest.mark.parametrize(("most", "reason"), [(200, "stop"), (3, "length")])
def test_the_plain_generator_keeps_to_it_and_says_where_it_was_cut(small: Vocabulary, most: int, reason: str) -> None:
    import torch

    from hornbook.engine.generate import Generator
    from hornbook.text.stream import StreamDecoder

    def model(ids: Any, **_: Any) -> Any:
        seeds = ids[:, -1] * 31 + ids.shape[1]
        rows = [torch.randn(small.size, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        return SimpleNamespace(logits=torch.stack(rows))

    generator = Generator(
        model,
        new_cache=lambda rows, capacity: SimpleNamespace(keep=lambda rows: None),
        new_decoder=lambda: StreamDecoder(small.tokenizer),
        context_length=1000,
        vocab_size=small.tokenizer.vocab_size,
        stop_ids=small.tokenizer.stop_ids,
        vocabulary=small,
    )
    schema = {"type": "array", "items": {"enum": ["是", "否"]}, "minItems": 2, "maxItems": 3}
    asked = [SamplingParams(schema=schema, temperature=t, max_tokens=most, seed=1, top_k=3) for t in (0.0, 1.0)]
    texts, reasons = ["", ""], [None, None]
    for step in generator.run([[5], [6, 7]], asked):
        assert step.token
        texts[step.row] += step.token.text
        reasons[step.row] = step.token.finish_reason
    assert reasons == [reason, reason]
    assert [complaint(text, schema) is None for text in texts] == [reason == "stop"] * 2
    generator.vocabulary = None
    with pytest.raises(UsageError, match="structured output"):
        generator.run([[5]], asked[:1])


def test_compiled_once_and_kept(small: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary(small.tokenizer)
    made: list[str] = []
    original: Callable[..., None] = Compiled.__init__

    def counted(self: Compiled, vocabulary: Vocabulary, kind: str, text: str) -> None:
        made.append(text)
        original(self, vocabulary, kind, text)

    monkeypatch.setattr(Compiled, "__init__", counted)
    monkeypatch.setattr(grammar, "KEPT", 3)
    for regex in ("a", "b", "a", "c", "a", "d", "a", "b"):  # b is the one that goes
        grammar.compile(vocabulary, regex=regex)
    assert made == ["a", "b", "c", "d", "b"]


def test_many_threads_share_a_vocabulary(small: Vocabulary) -> None:
    vocabulary, model, failures = Vocabulary(small.tokenizer), RandomModel(small), []

    def work(number: int) -> None:
        try:
            for seed in range(5000, 5030):
                schema = random_schema(seed)
                text, whole = model.answer(grammar.compile(vocabulary, schema=schema), random.Random(number), 120)
                if whole and complaint(text, schema):
                    failures.append((seed, text))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_tokenizers_without_exact_bytes_or_an_end_are_refused(shared: Path) -> None:
    with pytest.raises(UsageError, match="wordpiece"):
        grammar.compile(from_gguf(shared / "tokenizers" / "ggml-vocab-bert-bge.gguf"), regex="a")


def test_a_mask_costs_little(gpt2: Vocabulary) -> None:
    """Measured: 10 to 60 microseconds in the middle of things, for 50,257 tokens; the bar leaves room for a busy machine."""
    fields = {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}}
    compiled = grammar.compile(gpt2, schema={"type": "object", "properties": fields, "required": ["name", "age"]})
    ids = [id for part in ('{"name": "', "a name that goes on for a while", '", "age": 42}')
           for id in gpt2.tokenizer.encode(part, add_special=False)]  # fmt: skip
    times = []
    for _ in range(5):
        matcher = compiled.start()
        for id in ids:
            begun = time.perf_counter()
            matcher.allowed()
            matcher.accept(id)
            times.append(time.perf_counter() - begun)
    assert matcher.is_done
    assert np.median(times) < 1e-3
