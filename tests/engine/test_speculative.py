"""Speculation changes how fast an answer comes, and nothing else."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_tokenizer import small_tokenizer
from toy_executor import STOP_IDS, Letters, ToyExecutor, drain, engine_of, expected

from hornbook.engine import draft_model
from hornbook.engine import engine as engine_module
from hornbook.engine.choose import Chooser, filtered, sample
from hornbook.engine.draft_model import ModelDrafter, check_equal
from hornbook.engine.engine import Engine
from hornbook.engine.executor import Floats
from hornbook.engine.grammar import Vocabulary
from hornbook.engine.requests import Request
from hornbook.engine.speculative import Draft, Drafter, Payoff, PromptLookup, kept_or_replaced
from hornbook.errors import GenerationError, UsageError
from hornbook.types import SamplingParams


class Forgetful(ToyExecutor):
    """Looks at the last two tokens only, so that texts repeat themselves. noise: what a worse model adds."""

    def __init__(self, *args: Any, noise: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size = self.vocab_size
        self.two = np.random.default_rng(1).normal(size=(size, size, size)).astype(np.float32) * 2
        self.two += np.random.default_rng(2).normal(size=self.two.shape).astype(np.float32) * noise

    def logits(self, ids: Sequence[int] | np.ndarray[Any, Any]) -> Floats:
        return self.two[int(ids[-2]) % 1000 if len(ids) > 1 else 0, int(ids[-1]) % 1000].copy()


def tokenizer_of(size: int) -> Any:
    return SimpleNamespace(vocab_size=size, stop_ids=STOP_IDS, token=str)


def model_drafter(executor: ToyExecutor, **options: Any) -> ModelDrafter:
    tokenizer = tokenizer_of(executor.vocab_size)
    return ModelDrafter(executor, tokenizer, tokenizer, **options)


class Liar(PromptLookup):
    """Guesses at random, sometimes with probabilities, always as much as it may."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.random, self.size = np.random.default_rng(3), size

    def propose(self, keys: Sequence[int], counts: Sequence[int]) -> list[Draft]:
        return [Draft(self.random.integers(self.size, size=count).tolist()) for count in counts]


class Always(Payoff):
    """Drafts as much as it may, so that a test does not depend on the machine's speed."""

    def plan(self, keys: Sequence[int], most: int) -> list[int]:
        return [most] * len(keys)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hornbook.engine.speculating.Payoff", Always)


# --------------------------------------------------------------------------------------------- nothing is changed


DRAFTERS = ["lookup", "perfect", "worse", "short of pages", "liar"]


def drafter_of(kind: str, size: int, context_length: int) -> Drafter:
    if kind == "lookup":
        return PromptLookup()
    if kind == "liar":
        return Liar(size)
    noise = 0.0 if kind == "perfect" else 1.0
    pages = 6 if kind == "short of pages" else 200
    return model_drafter(Forgetful(pages, size, context_length, noise=noise), step_tokens=32)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", DRAFTERS)
@pytest.mark.parametrize("seed", range(12))
def test_answers_are_the_same_with_and_without(kind: str, seed: int) -> None:
    """Greedy and seeded, with penalties, biases, stop strings, forks, preemptions and cuts, beside each other."""
    rng = random.Random(seed)
    size = 30
    executor = Forgetful(rng.choice([10, 16, 200]), size, rng.choice([70, 256]))
    engine = engine_of(
        executor,
        max_running=rng.choice([1, 3, 64]),
        step_tokens=rng.choice([16, 512]),
        drafter=drafter_of(kind, size, executor.context_length),
        drafts=rng.choice([1, 4, 8]),
    )
    requests = [
        Request(
            [rng.randrange(4, size) for _ in range(rng.choice([1, 2, 5, 40]))],
            SamplingParams(
                max_tokens=rng.choice([1, 2, 20, 60]),
                temperature=rng.choice([0.0, 0.0, 0.8]),
                top_k=rng.choice([0, 4]),
                top_p=rng.choice([1.0, 0.8]),
                min_p=rng.choice([0.0, 0.1]),
                repetition_penalty=rng.choice([1.0, 1.3]),
                frequency_penalty=rng.choice([0.0, 0.4]),
                seed=rng.randrange(2**30),
                stop=rng.choice([(), ("AB",), ("EE", "JKL")]),
                n=rng.choice([1, 1, 3]),
                logit_bias=rng.choice([{}, {9: 2.0}]),
                ignore_eos=rng.random() < 0.5,
            ),
        )
        for _ in range(rng.randint(1, 6))
    ]
    found = drain(engine, [engine.submit(request) for request in requests])
    assert found == [expected(executor, request) for request in requests]
    stats = engine.stats()
    if kind == "perfect" and stats.drafted_tokens > 100:
        assert stats.kept_tokens > 0
    drafter = engine._speculation._drafter
    if isinstance(drafter, ModelDrafter):
        drafter._pages.check([])
        assert drafter._pages.used == 0 and not drafter._sequences
    elif isinstance(drafter, PromptLookup):
        assert not drafter._sequences and not drafter._followed


@pytest.mark.usefixtures("always")
def test_right_guesses_save_steps_and_are_batched() -> None:
    executor, small = Forgetful(), Forgetful()
    engine = engine_of(executor, drafter=model_drafter(small), drafts=7)
    params = SamplingParams(max_tokens=41, ignore_eos=True)
    requests = [Request([5, 6, 7 + salt], params) for salt in range(5)]
    found = drain(engine, [engine.submit(request) for request in requests])
    assert found == [expected(executor, request) for request in requests]
    assert len(executor.tokens) == 1 + 5  # the prompts, then 8 tokens a step
    assert executor.tokens[1:] == [5 * 8] * 5
    assert len(small.tokens) == 5 * 7 and set(small.sequences) == {5}


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("error", [GenerationError("its memory is gone"), MemoryError("its memory is gone")])
def test_a_drafter_that_fails_stops_no_answer(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    executor, small = Forgetful(), Forgetful()
    engine = engine_of(executor, drafter=model_drafter(small))
    request = Request([5, 6], SamplingParams(max_tokens=30, ignore_eos=True))
    handle = engine.submit(request)
    small.broken = error
    assert drain(engine, [handle]) == [expected(executor, request)]
    assert "its memory is gone" in caplog.text and small.closed
    engine.close()


@pytest.mark.usefixtures("always")
def test_a_draft_model_draws_with_the_random_numbers_of_the_answer() -> None:
    """A model that drafts for itself is always right, also where tokens are drawn and several answers fork."""
    executor = Forgetful()
    engine = engine_of(executor, drafter=model_drafter(Forgetful()), drafts=4)
    request = Request([5, 6], SamplingParams(max_tokens=30, ignore_eos=True, temperature=1.0, seed=5, n=2))
    assert drain(engine, [engine.submit(request)]) == [expected(executor, request)]
    assert engine.stats().kept_tokens == engine.stats().drafted_tokens > 0


def test_a_closed_engine_closes_its_draft_model() -> None:
    small = Forgetful()
    engine_of(Forgetful(), drafter=model_drafter(small)).close()
    assert small.closed


# --------------------------------------------------------------------------------------------------- distribution


def test_the_rule_keeps_the_distribution_exactly() -> None:
    rng = np.random.default_rng(0)
    grid = (np.arange(500) + 0.5) / 500
    for _ in range(10):
        p, q = rng.dirichlet(np.full(7, 0.5)), rng.dirichlet(np.full(7, 0.5))
        p[rng.integers(7)] = q[rng.integers(7)] = 0.0
        p, q = p / p.sum(), q / q.sum()
        out, kept = np.zeros(7), 0.0
        for id in np.flatnonzero(q):
            judged = [kept_or_replaced(int(id), p, q, u) for u in grid]
            np.add.at(out, [token for token, _ in judged], q[id] / len(grid))
            kept += q[id] * sum(keep for _, keep in judged) / len(grid)
        assert np.abs(out - p).max() < 8e-3
        assert abs(kept - np.minimum(p, q).sum()) < 8e-3, "no rule keeps more, and this one no less"


def test_a_guess_that_cannot_be_is_replaced_and_a_sure_one_is_kept() -> None:
    p, q = np.array([0.0, 0.25, 0.75]), np.array([0.5, 0.25, 0.25])
    for u in (0.0, 0.3, 1 - 2**-53):
        assert kept_or_replaced(0, p, q, u) == (2, False)
        assert kept_or_replaced(1, p, p, u) == (1, True)


SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.6, "top_k": 3},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.2, "presence_penalty": 0.7},
]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", ["lookup", "model"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sampled_answers_have_the_model_s_own_distribution(
    kind: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tokens after the same prompt, without a seed, against the exact probabilities of all texts of three tokens."""
    seeds = np.random.default_rng(11)
    for module in (engine_module, draft_model):
        monkeypatch.setattr(module, "fresh_seed", lambda: int(seeds.integers(2**62)))
    size = 6
    prompt = [id for seen in range(size) for id in (5, seen, (2 * seen + 1) % size)] + [5]
    executor = Forgetful(2000, size)
    drafter = PromptLookup() if kind == "lookup" else model_drafter(Forgetful(2000, size, noise=1.0))
    engine = engine_of(executor, drafter=drafter, max_running=200, drafts=2)
    params = SamplingParams(max_tokens=3, ignore_eos=True, n=100, logprobs=False, **settings)
    found = drain(engine, [engine.submit(Request(prompt, params)) for _ in range(12)])
    counts = Counter(tuple(answer.ids) for answers in found for answer in answers)
    stats = engine.stats()
    assert 0 < stats.kept_tokens < stats.drafted_tokens

    chances: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        chances = {
            (*text, int(id)): chance * weight
            for text, chance in chances.items()
            for id, weight in after(executor, prompt, text, params)
        }
    assert counts.keys() <= chances.keys()
    total = counts.total()
    cells = [(counts[text], chance * total) for text, chance in chances.items()]
    large = [cell for cell in cells if cell[1] >= 5]
    rest = [cell for cell in cells if cell[1] < 5]
    observed = [cell[0] for cell in large] + ([sum(cell[0] for cell in rest)] if rest else [])
    wanted = [cell[1] for cell in large] + ([sum(cell[1] for cell in rest)] if rest else [])
    assert len(large) > 5
    distance = sum((seen - due) ** 2 / due for seen, due in zip(observed, wanted, strict=True))
    freedom = len(wanted) - 1
    assert distance < freedom + 4 * np.sqrt(2 * freedom), "chi-square, four of its standard deviations above its mean"


def after(executor: ToyExecutor, prompt: list[int], text: Sequence[int], params: SamplingParams) -> Any:
    """(id, probability) of what may follow, filters and penalties applied."""
    chooser = Chooser(params, prompt, sample, seed=0)
    for id in text:
        chooser.accept(id)
    logits = executor.logits([*prompt, *text])
    if params.presence_penalty:
        logits = chooser._changed([*prompt, *text], logits)
    ids, weights = filtered(logits, params)
    return zip(ids, weights / weights.sum(), strict=True)


# -------------------------------------------------------------------------------------------------- prompt lookup


def test_lookup_finds_the_longest_run_and_its_latest_place() -> None:
    rng = random.Random(4)
    for _ in range(200):
        ids = [rng.randrange(3) for _ in range(rng.randint(1, 40))]
        lookup = PromptLookup()
        split = rng.randrange(len(ids) + 1)
        lookup.start(1, ids[:split], SamplingParams())
        for id in ids[split:]:
            lookup.accept(1, [id])
        (draft,) = lookup.propose([1], [6])
        assert draft.tokens == slowly(ids, 6) and draft.probabilities is None


def slowly(ids: list[int], count: int) -> list[int]:
    for size in (4, 3, 2):
        for place in range(len(ids) - 1, size - 1, -1):
            if len(ids) >= size and ids[place - size : place] == ids[-size:]:
                period = len(ids) - place
                return [ids[place + i % period] for i in range(count)]
    return []


# -------------------------------------------------------------------------------------------------- draft model


def test_another_tokenizer_is_refused_by_what_differs() -> None:
    def of(tokens: list[str], stop: int = 3) -> Any:
        return SimpleNamespace(vocab_size=len(tokens), stop_ids={stop}, token=tokens.__getitem__)

    ours = of(["a", "b", "c", "d"])
    check_equal(of(["a", "b", "c", "d"]), ours)
    for theirs, what in [
        (of(["a", "b", "c"]), "3 tokens, the model's 4"),
        (of(["a", "x", "y", "d"]), "2 ids mean other tokens, the first is 1: 'x' and 'b'"),
        (of(["a", "b", "c", "d"], 2), "end with"),
    ]:
        with pytest.raises(UsageError, match=what):
            check_equal(theirs, ours)
    with pytest.raises(UsageError, match="knows 8 tokens, the model 61"):
        ModelDrafter(Forgetful(4, 8), tokenizer_of(61), tokenizer_of(61))


def test_a_draft_model_takes_back_what_was_guessed_wrong() -> None:
    """Whatever is accepted, its next guesses are those of a drafter that reads the sequence for the first time."""
    rng = random.Random(8)
    executor = ToyExecutor(pages=40)
    drafter = model_drafter(executor, step_tokens=24)
    ids = {key: [rng.randrange(61) for _ in range(rng.randint(1, 60))] for key in range(4)}
    greedy = SamplingParams()
    for key in ids:
        drafter.start(key, ids[key], greedy)
    for _ in range(40):
        keys = rng.sample(sorted(ids), rng.randint(1, 4))
        counts = [rng.randint(0, 5) for _ in keys]
        drafts = drafter.propose(keys, counts)
        for key, count, draft in zip(keys, counts, drafts, strict=True):
            assert draft.tokens == continued(executor, ids[key], count)
            came = [*draft.tokens[: rng.randint(0, count)], rng.randrange(61)][: rng.randint(0, 6)]
            drafter.accept(key, came)
            ids[key] += came
        drafter._pages.check(one.pages for one in drafter._sequences.values())
    for key in ids:
        drafter.forget(key)
    assert drafter._pages.used == 0


def continued(executor: ToyExecutor, ids: list[int], count: int) -> list[int]:
    text = list(ids)
    for _ in range(count):
        text.append(int(executor.logits(text).argmax()))
    return text[len(ids) :]


def test_where_its_context_or_its_pages_end_a_draft_model_is_silent() -> None:
    drafter = model_drafter(ToyExecutor(pages=3, context_length=40))
    for key, length in enumerate([38, 30, 4]):
        drafter.start(key, list(range(length)), SamplingParams())
    drafts = drafter.propose([0, 1, 2], [8, 4, 4])  # too long for the context; 3 pages; none left
    assert [len(draft.tokens) for draft in drafts] == [0, 4, 0]
    drafter.forget(1)
    assert [len(draft.tokens) for draft in drafter.propose([0, 2], [2, 2])] == [2, 0]


# -------------------------------------------------------------------------------------------------------- grammar


@pytest.mark.usefixtures("always")
def test_what_a_grammar_forces_costs_no_step_and_guesses_stay_inside_it(tmp_path: Any) -> None:
    vocabulary = Vocabulary(small_tokenizer(tmp_path))
    schema = {
        "type": "object",
        "properties": {"the first long name": {"enum": ["always the same", "never"]}, "age": {"type": "integer", "minimum": 1, "maximum": 40}},
        "required": ["the first long name", "age"],
        "additionalProperties": False,
    }  # fmt: skip
    found, steps = [], []
    for drafter in (None, PromptLookup(), Liar(vocabulary.size)):
        executor = ToyExecutor(vocab_size=vocabulary.size, pages=200)
        engine = Engine(
            executor, new_decoder=Letters, vocab_size=vocabulary.size, stop_ids=vocabulary.tokenizer.stop_ids,
            vocabulary=vocabulary, drafter=drafter,
        )  # fmt: skip
        texts = []
        for temperature, seed in [(0.0, 1), (1.0, 2), (1.0, 3)]:
            params = SamplingParams(max_tokens=200, temperature=temperature, seed=seed, schema=schema, top_k=4)
            texts.append(drain(engine, [engine.submit(Request([7, 8, 9], params))])[0][0])
        assert all(answer.reason == "stop" for answer in texts)
        found.append(texts)
        steps.append(len(executor.tokens))
    assert found[0] == found[1] == found[2]
    tokens = sum(len(answer.ids) for answer in found[0])
    assert steps[0] < 0.75 * tokens


# --------------------------------------------------------------------------------------------------------- payoff


def simulated(
    payoff: Payoff, sequences: int, share: float, base: float, each: float, steps: int
) -> tuple[float, list[int]]:
    """Run a made-up engine; -> (tokens a second against not drafting, tokens drafted at each step)."""
    rng = random.Random(1)
    keys = list(range(sequences))
    seconds, tokens, drafted = 0.0, 0, []
    for _ in range(steps):
        counts = payoff.plan(keys, 8)
        spent = (base + each * (sequences + sum(counts))) * rng.uniform(0.9, 1.1)
        payoff.took(sequences + sum(counts), spent)
        for key, count in zip(keys, counts, strict=True):
            kept = 0
            while kept < count and rng.random() < share:
                kept += 1
            if count:
                payoff.judged(key, count, kept)
            tokens += 1 + kept
        payoff.drafted(sum(counts), 0.0)
        seconds += spent
        drafted.append(sum(counts))
    return tokens / seconds * (base + each * sequences) / sequences, drafted


def test_it_drafts_far_where_guesses_are_right_and_tokens_are_cheap() -> None:
    ratio, drafted = simulated(Payoff(), 1, 0.9, base=3.0, each=0.1, steps=400)
    assert ratio > 3 and np.mean(drafted[100:]) > 6


@pytest.mark.parametrize(
    ("sequences", "share", "base", "each"),
    [(1, 0.05, 3.0, 0.3), (1, 0.6, 0.1, 3.0), (32, 0.5, 3.0, 0.4)],
    ids=["always wrong", "no token is free", "the batch is full"],
)
def test_it_stops_where_it_does_not_pay_and_tries_again(sequences: int, share: float, base: float, each: float) -> None:
    payoff = Payoff()
    ratio, drafted = simulated(payoff, sequences, share, base, each, 600)
    assert ratio > 0.93
    assert sum(drafted[300:]) < 0.05 * 300 * sequences
    if share == 0.05:
        assert 0 < sum(drafted[100:]) < 60, "now and then, ever more rarely"
        better, drafted = simulated(payoff, sequences, 0.9, base, each, 900)
        assert np.mean(drafted[-100:]) > 3, "and it notices when the text has changed"


def test_it_learns_what_a_step_and_a_token_cost() -> None:
    payoff, rng = Payoff(), random.Random(2)
    for _ in range(300):
        tokens = rng.randint(1, 9)
        payoff.took(tokens, (2.0 + 0.25 * tokens) * rng.uniform(0.9, 1.1) + (50.0 if rng.random() < 0.01 else 0.0))
    base, each = payoff.costs()
    assert abs(base - 2.0) < 0.4 and abs(each - 0.25) < 0.08


def test_a_batch_of_executors_is_what_it_says() -> None:
    """The draft model's batches pass the toy's own checks with prompts longer than a step."""
    executor = ToyExecutor()
    drafter = model_drafter(executor, step_tokens=16)
    drafter.start(1, list(range(50)), SamplingParams())
    drafter.start(2, list(range(3)), SamplingParams())
    first, second = drafter.propose([1, 2], [3, 1])
    assert first.tokens == continued(executor, list(range(50)), 3)
    assert second.tokens == continued(executor, list(range(3)), 1)
    assert max(executor.tokens) <= 16
