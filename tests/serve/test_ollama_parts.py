"""The parts of Ollama's API that need no server: durations, options, the ids of calls, work that is stopped with its client."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from hornbook.engine.parameters import sampling_fields
from hornbook.errors import ContextTooLong, UsageError
from hornbook.serve.jobs import Job, Jobs
from hornbook.serve.ollama.asking import messages_of
from hornbook.serve.ollama.bodies import Turn
from hornbook.serve.ollama.making import Following
from hornbook.serve.ollama.options import seconds, wanted
from hornbook.types import SamplingParams


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, None), (0, 0), ("0", 0), (-1, -1), ("-1", -1), (90, 90), (1.5, 1.5), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25),
        ("-5m", -1), ("1.5h", 5400), ("24h", 86400), ("30", 30), ("0s", 0),
    ],
)  # fmt: skip
def test_keep_alive_is_seconds_or_a_duration_as_go_writes_it(given: Any, told: float | None) -> None:
    assert seconds(given) == told


@pytest.mark.parametrize("given", ["", "soon", "5 m", "m", "-", "1e400", float("inf"), float("nan"), "1" * 400, "5x"])
def test_what_is_no_duration_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="keep_alive"):
        seconds(given)


def test_options_win_over_the_models_own_and_those_over_the_defaults() -> None:
    asked = wanted({"top_k": 5, "stop": ["z"], "seed": None}, {"top_k": 3, "temperature": 0.1, "stop": ("a",)}, 100)
    assert {name: asked.values[name] for name in ("top_k", "temperature", "stop", "top_p")} == {
        "top_k": 5, "temperature": 0.1, "stop": ("z",), "top_p": 0.9,
    }  # fmt: skip
    assert (asked.context, asked.predict) == (100, None)
    assert wanted({"num_ctx": 50, "num_predict": 7}, {}, 100).context == 50
    assert wanted({"num_ctx": 500}, {}, 100).context == 100


def test_options_are_the_samplers_own_fields() -> None:
    """Off at the sampler, -1 of top_k and seed mean the same as leaving them out."""
    asked = wanted({"repeat_penalty": 1.3, "repeat_last_n": 64, "top_p": 0, "top_k": -1, "seed": -1}, {}, 100).values
    told = sampling_fields(asked)
    assert told == {
        "temperature": 0.8, "top_k": 0, "top_p": 1e-9, "repetition_penalty": 1.3, "repetition_window": 64, "seed": None,
    }  # fmt: skip
    assert SamplingParams(**told).repetition_window == 64


def test_a_prompt_is_cut_in_its_middle_and_only_where_that_is_asked_for() -> None:
    asked = wanted({"num_ctx": 20, "num_keep": 3, "num_predict": 5}, {}, 100)
    ids = list(range(30))
    with pytest.raises(ContextTooLong, match="30 tokens and the answer needs 1; the context holds 20"):
        asked.cut(ids, asked.room(False), False)
    cut, lost = asked.cut(ids, asked.room(True), True)
    assert cut == [0, 1, 2, *range(18, 30)]
    assert lost == 15
    with pytest.raises(ContextTooLong, match="num_keep -1"):
        wanted({"num_ctx": 20, "num_keep": -1}, {}, 100).cut(ids, 5, True)


def test_results_of_tools_find_the_calls_that_they_answer() -> None:
    def calls(*names: str) -> Turn:
        return Turn.model_validate(
            {"role": "assistant", "tool_calls": [{"function": {"name": name}} for name in names]}
        )

    def result(name: str | None) -> Turn:
        return Turn(role="tool", content="x", tool_name=name)

    said = messages_of([calls("a", "b", "a"), result("b"), result("a"), result("a"), calls("c"), result(None)])
    ids = [call.id for message in said for call in message.tool_calls]
    assert len(set(ids)) == 4
    assert [message.tool_call_id for message in said if message.role == "tool"] == [ids[1], ids[0], ids[2], ids[3]]


def test_work_is_stopped_when_its_client_goes() -> None:
    """A pull, whose client leaves after the first bytes."""
    ended = threading.Event()

    def pulls(job: Job) -> None:
        try:
            for number in range(10_000):
                job.tell("pulling", number, 10_000)
                ended.wait(0.005)
        finally:
            ended.set()

    async def leaves() -> tuple[list[str], str]:
        following = Following(Jobs(), "pull", "m", pulls, first="pulling manifest")
        lines = following.lines()
        seen = [await anext(lines) for _ in range(3)]
        await lines.aclose()  # what the server does with a stream whose client has gone
        assert await asyncio.to_thread(ended.wait, 5)
        await asyncio.sleep(0.05)
        return seen, following.job.state

    seen, state = asyncio.run(leaves())
    assert '"completed"' in seen[2]
    assert state == "cancelled"
