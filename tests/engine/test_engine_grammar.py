"""Grammars in the engine: forks, preemption and forced drafts change nothing, and what is finished satisfies its schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from toy_executor import Answer, ToyExecutor, drain

from hornbook.engine.choose import Chooser, sample
from hornbook.engine.engine import Engine
from hornbook.engine.grammar import Vocabulary, of_params
from hornbook.engine.reply import Reply
from hornbook.engine.requests import Request
from hornbook.errors import UsageError
from hornbook.text.stream import StreamDecoder
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import SamplingParams

SCHEMA = {
    "type": "object",
    "properties": {"a long name that is forced": {"enum": ["red", "green"]}, "n": {"type": "integer"}},
    "required": ["a long name that is forced", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer(tiny_llm_path: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_llm_path)


def engine_of(tokenizer: Tokenizer, executor: ToyExecutor, **options: Any) -> Engine:
    return Engine(
        executor,
        new_decoder=lambda: StreamDecoder(tokenizer),
        vocab_size=executor.vocab_size,
        stop_ids=tokenizer.stop_ids,
        vocabulary=Vocabulary(tokenizer, executor.vocab_size),
        **options,
    )


def alone(tokenizer: Tokenizer, executor: ToyExecutor, request: Request) -> list[Answer]:
    """Each answer token by token from the whole sequence, with a grammar and without drafts."""
    answers, params = [], request.params
    compiled = of_params(Vocabulary(tokenizer, executor.vocab_size), params)
    assert compiled is not None
    for index in range(params.n):
        ids, answer = list(request.ids), Answer()
        chooser = Chooser(params, ids, sample, seed=params.seed or 0, index=index, matcher=compiled.start())
        reply = Reply(params, params.max_tokens, StreamDecoder(tokenizer), tokenizer.stop_ids)
        while answer.reason is None:
            choice = chooser.choose(ids, executor.logits(ids))
            chooser.accept(choice.id)
            answer.hear(reply.accept(choice.id, choice.logprob, whole=chooser.is_done))
            ids.append(choice.id)
        answers.append(answer)
    return answers


def test_structured_answers_are_those_made_alone_and_satisfy_their_schema(tokenizer: Tokenizer) -> None:
    executor = ToyExecutor(pages=12, vocab_size=tokenizer.vocab_size)
    engine = engine_of(tokenizer, executor)
    requests = [
        Request([20 + place] * 20, SamplingParams(max_tokens=90, temperature=1.0, seed=place, n=1 + place % 3, **shape))
        for place, shape in enumerate([{"schema": SCHEMA}, {"regex": "(ab|cd){3,5}!"}, {"schema": SCHEMA}] * 2)
    ]
    found = drain(engine, [engine.submit(request) for request in requests])
    for answers, request in zip(found, requests, strict=True):
        assert answers == alone(tokenizer, executor, request)
        for answer in answers:
            if answer.reason == "stop" and request.params.schema is not None:
                assert json.loads(answer.text)["a long name that is forced"] in ("red", "green")
            elif answer.reason == "stop":
                assert re.fullmatch("(ab|cd){3,5}!", answer.text)
    assert any(answer.reason == "stop" for answers in found for answer in answers)
    assert engine.stats().preemptions > 0


def test_what_a_grammar_forces_costs_no_step_of_its_own(tokenizer: Tokenizer) -> None:
    executor = ToyExecutor(vocab_size=tokenizer.vocab_size)
    engine = engine_of(tokenizer, executor)
    text = "a sentence that is said word for word"
    ((answer,),) = drain(engine, [engine.submit(Request([9] * 5, SamplingParams(max_tokens=90, regex=text)))])
    stats = engine.stats()
    assert answer.text == text and answer.reason == "stop"
    assert stats.kept_tokens == stats.drafted_tokens > 5 and stats.steps <= 3


def test_a_schema_that_cannot_be_honoured_is_refused_before_any_work(tokenizer: Tokenizer) -> None:
    engine = engine_of(tokenizer, ToyExecutor(vocab_size=tokenizer.vocab_size))
    with pytest.raises(UsageError, match="look-around"):
        engine.submit(Request([9], SamplingParams(regex="(?=a)b")))
    assert not engine.has_work
