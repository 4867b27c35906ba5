"""The engine over real executors: in any mix a prompt's greedy answer is that of the plain generator, token for token.

torch, float32: the answers of the Transformer with its contiguous cache. Native: those of each request alone, exactly; its
weights of four and eight bits are multiplied with eight-bit activations, so that the Transformer's may differ.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_executor import Answer, Letters, drain

from hornbook.checkpoint.packed import held
from hornbook.engine.engine import Engine
from hornbook.engine.executor import Executor
from hornbook.engine.generate import Generator
from hornbook.engine.lower import lower
from hornbook.engine.native import NativeExecutor
from hornbook.engine.requests import Request
from hornbook.engine.torch_executor import TorchExecutor
from hornbook.kernels.library import library
from hornbook.model.cache import ContiguousCache
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.transformer import Transformer
from hornbook.text.stream import StreamDecoder
from hornbook.types import SamplingParams

sys.path.append(str(Path(__file__).parents[1] / "checkpoint"))
from stories import model_of, tokenizer_of

CONTEXT, VOCAB, PAGES = 160, 131, 10  # too few pages for all, so that some give way
MIXES = {"torch": 40, "native, Q4_1": 160}
CONFIG = ModelConfig(
    vocab_size=VOCAB, layers=2, width=64, heads=4, kv_heads=2, head_width=16, feedforward_width=96, context_length=CONTEXT,
    pattern=(LayerKind(window=24, rotary=Rotary()), LayerKind(rotary=Rotary(base=500.0))),
)  # fmt: skip


@cache
def transformer() -> Transformer:
    torch.manual_seed(2)
    model = Transformer(CONFIG).eval().requires_grad_(False)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=1.0 if weight.ndim == 1 else 0.0, std=0.25)
    return model


def native(**how: Any) -> NativeExecutor:
    if library() is None:
        pytest.skip("the native kernels are not built here")
    weights = {name: held(name, weight.numpy(), **how) for name, weight in transformer().named_parameters()}
    return NativeExecutor(lower(CONFIG), weights, PAGES)


EXECUTORS: dict[str, Callable[[], Executor]] = {
    "torch": lambda: TorchExecutor(lower(CONFIG), dict(transformer().named_parameters()), PAGES),
    "native, Q4_1": lambda: native(quantize="Q4_1"),
}


@cache
def pool() -> list[Request]:
    """Prompts of many lengths, some of which begin alike; one asks for three answers, three are sampled with a seed."""
    rng = random.Random(4)
    begin = [rng.randrange(VOCAB) for _ in range(64)]
    requests = []
    for place in range(20):
        own = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 50))]
        params = SamplingParams(
            max_tokens=rng.randint(4, 20),
            temperature=0.7 if place % 7 == 3 else 0.0,
            seed=place,
            n=3 if place == 10 else 1,
        )
        requests.append(Request([*begin[: rng.choice([0, 16, 40, 64])], *own], params))
    return requests


def engine(executor: Executor, **options: Any) -> Engine:
    return Engine(executor, new_decoder=Letters, vocab_size=VOCAB, kernels=library(), **options)


def ids_of(found: Any) -> list[list[int]]:
    return [answer.ids for answer in found]


@pytest.mark.parametrize("name", EXECUTORS)
def test_in_a_mix_every_answer_is_that_of_the_request_alone(name: str) -> None:
    executor = EXECUTORS[name]()
    alone = engine(executor, share=False)
    expected = [ids_of(drain(alone, [alone.submit(request)])[0]) for request in pool()]
    preempted = shared = 0
    for seed in range(MIXES[name]):
        rng = random.Random(seed)
        chosen = [rng.randrange(len(pool())) for _ in range(rng.randint(2, 7))]
        mixed = engine(
            executor,
            share=rng.random() < 0.8,
            max_running=rng.choice([2, 5, 64]),
            step_tokens=rng.choice([16, 40, 512]),
        )
        handles, late = [], list(chosen)

        def submit_some() -> None:
            while late and (not mixed.has_work or rng.random() < 0.6):  # noqa: B023
                handles.append(mixed.submit(pool()[late.pop(0)]))  # noqa: B023

        found = [ids_of(answers) for answers in drain(mixed, handles, each_step=submit_some)]
        assert found == [expected[place] for place in chosen], f"mix {seed}"
        preempted += mixed.stats().preemptions
        shared += mixed.stats().hit_tokens
    assert preempted > 2 and shared > 1000
    executor.close()


@pytest.mark.parametrize("name", EXECUTORS)
def test_steps_that_are_stopped_change_no_answer(name: str) -> None:
    executor = EXECUTORS[name]()
    plain = engine(executor, share=False, step_tokens=16)
    expected = drain(plain, [plain.submit(request) for request in pool()[:4]])
    steps, stopped = plain.stats().steps, engine(executor, share=False, step_tokens=16)
    rng = random.Random(1)
    found = drain(
        stopped,
        [stopped.submit(request) for request in pool()[:4]],
        each_step=lambda: executor.stop() if rng.random() < 0.3 else None,
    )
    assert [ids_of(answers) for answers in found] == [ids_of(answers) for answers in expected]
    assert stopped.stats().steps > steps
    executor.close()


def test_the_answers_are_those_of_the_plain_generator() -> None:
    """Paged = contiguous, and the seeds of the two mean the same."""
    generator = Generator(
        transformer(),
        new_cache=lambda rows, capacity: ContiguousCache(CONFIG, rows, capacity),
        new_decoder=Letters,
        context_length=CONTEXT,
        vocab_size=VOCAB,
    )
    requests = [request for request in pool() if request.params.n == 1]
    expected: list[list[int]] = [[] for _ in requests]
    for step in generator.run([one.ids for one in requests], [one.params for one in requests]):
        assert step.token is not None and step.token.id is not None
        expected[step.row].append(step.token.id)
    paged = engine(EXECUTORS["torch"]())
    found = drain(paged, [paged.submit(request) for request in requests])
    assert [ids_of(answers)[0] for answers in found] == expected


def test_stories_are_told_alike_by_generator_torch_and_native(shared: Path) -> None:
    """A trained model and its tokenizer: stop strings, streamed text and the likelihood of what was said."""
    folder = shared / "models" / "stories260K"
    model, tokenizer = model_of(folder), tokenizer_of(folder)
    prompts = ["Once upon a time", "Lily and Tom went to the", "The big red dog", "One day"]
    params = SamplingParams(max_tokens=60, stop=("The",))
    ids = [tokenizer.encode(prompt) for prompt in prompts]

    def decoder() -> StreamDecoder:
        return StreamDecoder(tokenizer)

    plain = Generator(
        model,
        new_cache=lambda rows, capacity: ContiguousCache(model.config, rows, capacity),
        new_decoder=decoder,
        context_length=model.config.context_length,
        vocab_size=model.config.vocab_size,
        stop_ids=tokenizer.stop_ids,
    )
    expected = [Answer() for _ in ids]
    for step in plain.run(ids, [params] * len(ids)):
        assert step.token is not None
        expected[step.row].hear(step.token)
    parameters = dict(model.named_parameters())
    executors: list[Executor] = [TorchExecutor(lower(model.config), parameters, 64)]
    if library() is not None:
        weights = {name: held(name, weight.numpy()) for name, weight in parameters.items()}
        executors.append(NativeExecutor(lower(model.config), weights, 64))
    for executor in executors:
        told = Engine(
            executor,
            new_decoder=decoder,
            vocab_size=model.config.vocab_size,
            stop_ids=tokenizer.stop_ids,
            kernels=library(),
        )
        found = drain(told, [told.submit(Request(one, params)) for one in ids])
        for (answer,), story, prompt in zip(found, expected, ids, strict=True):
            assert (answer.text, answer.ids, answer.reason) == (story.text, story.ids, story.reason)
            assert np.allclose(answer.logprobs, story.logprobs, atol=1e-3)
            (score,) = drain(told, [told.submit(Request([*prompt, *answer.ids], score_from=len(prompt)))])
            assert score.is_greedy and score.logprob == pytest.approx(sum(answer.logprobs), abs=1e-2)
        executor.close()
