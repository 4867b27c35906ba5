"""A run asks each question once and no more, whatever ends it, and says by name what cannot be asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_tasks import JudgedWords, Remembering, Sums, Texts, Tries, Words

from hornbook.engine.scripted import ScriptedLLM
from hornbook.errors import ContextTooLong, DataError, UsageError
from hornbook.evals.asking import without_thought
from hornbook.evals.ledger import FILE, Ledger
from hornbook.evals.outcome import Identity
from hornbook.evals.run import describe, run, take
from hornbook.evals.task import Item, Means, Setting
from hornbook.types import Message, SamplingParams, Score


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text("utf-8").splitlines()]


def test_all_kinds_of_questions_become_scores_in_the_order_of_the_items(tmp_path: Path) -> None:
    model = Remembering()
    outcome = run(model, [Sums(), Words(), Texts(), Tries()], folder=tmp_path, batch=4)
    assert [result.task for result in outcome.results] == ["sums", "words", "texts", "tries"]
    sums, words, texts, tries = outcome.results
    assert sums.ids == tuple(f"s{n}" for n in range(12))
    assert list(sums.columns["acc"]) == [float((2 * n + 1) % 4 == 1) for n in range(12)]
    assert sums.figure().value == 0.5 and sums.figure().stderr == pytest.approx(0.15076, abs=1e-5)
    assert words.figure("exact").value == 1.0 and tries.figure().value == 1.0
    assert list(texts.columns["nats"]) == [pytest.approx(17 * n / 3) for n in (1, 2, 3)]
    assert texts.figure().higher_is_better is False and texts.figure().percent is False
    assert (outcome.asked, outcome.kept) == (12 + 10 + 3 + 3, 0)
    sample = sums.samples[1]
    assert (sample.id, sample.target, sample.grade) == ("s1", "3", {"acc": 0.0})
    assert sample.asked[0].prompt == "1 + 2 =" and sample.asked[0].continuations == (" 3", " 4", " 2")
    assert sample.asked[0].answers[0] == {"logprob": -1.1, "is_greedy": False, "tokens": 1}
    assert words.samples[0].asked[0].answers == ("word0",)
    assert (tries.samples[2].asked[0].kind, tries.samples[2].asked[0].answers) == ("trial", ({"said": "r2"},))


def test_the_same_run_again_asks_nothing_and_gives_the_same(tmp_path: Path) -> None:
    tasks = [Sums(), Words(), Texts(), Tries()]
    first = run(Remembering(), tasks, folder=tmp_path)
    model = Remembering()
    again = run(model, [Sums(), Words(), Texts(), Tries()], folder=tmp_path)
    assert model.waves == [] and not model.asked
    assert (again.asked, again.kept) == (0, 28)
    told = [[one.to_json() for one in outcome.results] for outcome in (first, again)]
    assert told[0] == told[1]
    assert [result.samples for result in first.results] == [result.samples for result in again.results]


def test_more_items_and_tasks_cost_only_themselves_and_another_setting_is_another_question(tmp_path: Path) -> None:
    run(Remembering(), [Sums()], folder=tmp_path, limit=4)
    more = run(Remembering(), [Sums(), Words()], folder=tmp_path, limit=6)
    assert (more.asked, more.kept) == (2 + 6, 4)
    other = run(Remembering(), [Sums()], folder=tmp_path, limit=6, setting=Setting(shots=2))
    assert (other.asked, other.kept) == (6, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_answered_before_the_end_is_kept(tmp_path: Path, error: type[BaseException]) -> None:
    class Failing(Remembering):
        def score(self, pairs: Any) -> list[Score]:
            if len(self.waves) == 2:
                raise error
            return super().score(pairs)

    with pytest.raises(error):
        run(Failing(), [Sums()], folder=tmp_path, batch=3)
    model = Remembering()
    outcome = run(model, [Sums()], folder=tmp_path, batch=3)
    assert (outcome.asked, outcome.kept) == (6, 6)
    assert len(model.scored) == 6 * 3
    keys = [line["key"] for line in lines(tmp_path)[1:]]
    assert len(keys) == len(set(keys)) == 12


def test_of_a_wave_that_is_cut_off_what_was_answered_is_kept(tmp_path: Path) -> None:
    """By a model that tells each answer by itself: the third item lacks one of its three."""

    class Telling(Remembering):
        def score_each(self, pairs: Any) -> Iterator[tuple[int, Score]]:
            scores = list(enumerate(super().score(pairs)))
            yield from reversed(scores[:8])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run(Telling(), [Sums()], folder=tmp_path, batch=12)
    model = Remembering()
    outcome = run(model, [Sums()], folder=tmp_path, batch=12)
    assert (outcome.asked, outcome.kept, len(model.scored)) == (10, 2, 10 * 3)
    assert outcome.results[0].columns["acc"].tolist() == run(Remembering(), [Sums()]).results[0].columns["acc"].tolist()


KILLED = """
import os, signal, sys
from pathlib import Path
from hornbook.evals.run import run
from hornbook.llm import load
from tiny_tasks import Sums, Words
from hornbook.types import SamplingParams

def tell(what, done, total):
    if what.startswith("asking") and done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

words = Words(24, sampling=SamplingParams(max_tokens=60))
with load(sys.argv[1], device="cpu") as model:
    outcome = run(model, [Sums(24), words], folder=Path(sys.argv[2]), report=tell)
print(outcome.asked, outcome.kept)
"""


@pytest.mark.models
def test_killed_in_the_middle_of_a_wave_no_answered_question_is_asked_again(
    tiny_llm_path: Path, tmp_path: Path
) -> None:
    """A model in the process: 24 likelihoods are one wave, and 24 texts another."""
    out = tmp_path / "out"

    def ask(until: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(tiny_llm_path), str(out), str(until)]
        return subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
        )

    known = 0
    for more in (5, 24, 9):  # within the first wave, the second, and again
        assert ask(more).returncode == -signal.SIGKILL
        known += more
        assert len(lines(out)) - 1 == known
    finished = ask(-1)
    assert finished.stdout.split() == [str(48 - known), str(known)], finished.stderr
    keys = [line["key"] for line in lines(out)[1:]]
    assert len(keys) == len(set(keys)) == 48


@pytest.mark.parametrize(
    "torn", [b'{"key": "12', b'{"key": "12", "task": "sums", "item": "s0", "answers": []}', b"\0\0"]
)
def test_a_line_that_was_not_written_to_its_end_was_not_written(tmp_path: Path, torn: bytes) -> None:
    run(Remembering(), [Sums()], folder=tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    *before, last = whole.splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(b"".join(before) + torn)
    outcome = run(Remembering(), [Sums()], folder=tmp_path)
    assert (outcome.asked, outcome.kept) == (1, 11) and not outcome.notes
    assert sorted((tmp_path / FILE).read_bytes().splitlines(keepends=True)) == sorted([*before, last])


def test_a_damaged_line_in_the_middle_is_asked_anew_and_that_is_said(tmp_path: Path) -> None:
    run(Remembering(), [Sums()], folder=tmp_path)
    written = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    written[3] = b"\xff\0\xfe nothing\n"
    (tmp_path / FILE).write_bytes(b"".join(written))
    outcome = run(Remembering(), [Sums()], folder=tmp_path)
    assert (outcome.asked, outcome.kept) == (1, 11)
    assert "1 damaged line" in outcome.notes[0]


def test_a_file_that_ends_in_its_first_line_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"form": 1, "hornb')
    assert run(Remembering(), [Sums()], folder=tmp_path).asked == 12
    assert run(Remembering(), [Sums()], folder=tmp_path).asked == 0


def test_answers_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    run(Remembering(), [Sums()], folder=tmp_path)
    with pytest.raises(UsageError, match="not given by this model.*name scripted, not other"):
        run(Remembering(name="other"), [Sums()], folder=tmp_path)
    weights = Identity("m", "m.gguf", "aa" * 32)
    folder = tmp_path / "second"
    run(Remembering(), [Sums()], folder=folder, identity=weights)
    renamed = Identity("same weights", "copy.gguf", "aa" * 32)
    assert run(Remembering(), [Sums()], folder=folder, identity=renamed).asked == 0
    with pytest.raises(UsageError, match="fingerprint"):
        run(Remembering(), [Sums()], folder=folder, identity=Identity("m", "m.gguf", "bb" * 32))


def test_a_file_of_something_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("my notes\nof today\n")
    with pytest.raises(UsageError, match="no answers of an evaluation"):
        run(Remembering(), [Sums()], folder=tmp_path)
    assert (tmp_path / FILE).read_text() == "my notes\nof today\n"


def test_one_process_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    model = Remembering()
    with Ledger(tmp_path, describe(model)), pytest.raises(UsageError, match="another process"):
        run(model, [Sums()], folder=tmp_path)
    assert run(model, [Sums()], folder=tmp_path).asked == 12


def test_what_two_tasks_ask_alike_is_asked_once(tmp_path: Path) -> None:
    model = Remembering()
    outcome = run(model, [Sums(), Sums(name="sums_too")])
    assert len(model.scored) == 12 * 3 and outcome.asked == 12
    assert list(outcome.result("sums").columns["acc"]) == list(outcome.result("sums_too").columns["acc"])


def test_each_item_has_luck_of_its_own_where_answers_are_drawn() -> None:
    class Same(Words):
        def requests(self, item: Item, setting: Setting) -> Any:
            return super().requests(self.items()[0], setting)

    greedy, drawn = Remembering(), Remembering()
    run(greedy, [Same()])
    run(drawn, [Same(sampling=SamplingParams(temperature=1.0, max_tokens=4))])
    assert len(greedy.written) == 1 and len(drawn.written) == 10


def test_several_draws_of_one_prompt_are_one_answer(tmp_path: Path) -> None:
    sampling = SamplingParams(temperature=0.8, n=3, max_tokens=4)
    outcome = run(Remembering(), [Words(4, sampling=sampling)], folder=tmp_path)
    assert outcome.results[0].samples[2].asked[0].answers == ("word2",) * 3
    assert lines(tmp_path)[1]["answers"] == [lines(tmp_path)[1]["answers"][0]] * 3


def test_waves_hold_no_more_than_the_batch_and_spread_over_tasks() -> None:
    model = Remembering()
    run(model, [Sums(5), Sums(6, name="more"), Sums(4, name="rest", chat=False)], batch=4)
    assert model.waves == [4 * 3, 2 * 3]  # the 6 that differ: what the others ask is among them


# ------------------------------------------------------------------------------------------------------ limits, groups


def test_a_limit_takes_the_first_and_of_groups_as_many_of_each() -> None:
    plain = [Item(str(n), {}) for n in range(10)]
    assert [item.id for item in take(plain, 3)] == ["0", "1", "2"]
    grouped = [Item(str(n), {}, "a" if n < 6 else "b" if n < 8 else "c") for n in range(10)]
    assert [item.id for item in take(grouped, 7)] == ["0", "1", "2", "6", "7", "8", "9"]
    assert take(plain, None) is plain and take(plain, 99) is plain


def test_groups_have_scores_of_their_own() -> None:
    outcome = run(Remembering(), [Sums(12, groups=("even", "odd"))])
    groups = {group.name: group for group in outcome.results[0].groups}
    assert groups["even"].figures[0].value == 1.0 and groups["odd"].figures[0].value == 0.0
    assert groups["even"].items == groups["odd"].items == 6
    assert outcome.results[0].figure().stderr == 0.0  # within the groups nothing varies


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_prompt_beyond_the_context_is_refused_with_numbers_before_anything_is_asked() -> None:
    model = Remembering(context_length=24)
    with pytest.raises(
        ContextTooLong, match=r"sums, item s0: context and continuation have 2\d tokens; .* holds 24"
    ) as told:
        run(model, [Sums()], setting=Setting(shots=4))
    assert "--fit-shots" in told.value.remedy and not model.waves


def test_solved_examples_are_dropped_where_that_is_asked_for_and_how_many_is_said() -> None:
    model = Remembering(context_length=24)
    outcome = run(model, [Sums()], setting=Setting(shots=5), fit_shots=True)
    result = outcome.results[0]
    assert set(result.fewer.values()) == {3} and set(result.fewer) == set(result.ids)
    assert "12 of 12 items were asked with fewer than 5 solved examples, down to 3" in outcome.notes[0]
    assert all(context.count("=") == 4 for context, _ in model.scored)


class Shown(Words):
    """With solved examples of three words each."""

    def examples(self) -> list[Item]:
        return [Item(f"e{n}", {"word": f"other{n}"}) for n in range(9)]


def test_an_answer_needs_room_too() -> None:
    wide, little = SamplingParams(max_tokens=10), SamplingParams(max_tokens=1)
    setting = Setting(shots=4)  # of three words each; the question has two
    outcome = run(Remembering(context_length=16), [Shown(3, sampling=wide)], setting=setting)
    assert outcome.notes == ("words: the model's context leaves 3 of 3 answers less room than the task gives them",)
    assert not run(Remembering(context_length=16), [Shown(3, sampling=little)], setting=setting).notes
    fitted = run(Remembering(context_length=16), [Shown(3, sampling=wide)], setting=setting, fit_shots=True)
    assert set(fitted.results[0].fewer.values()) == {1} and "room" not in fitted.notes[0]
    never = run(Remembering(context_length=8), [Shown(3, sampling=wide)], setting=setting, fit_shots=True)
    assert set(never.results[0].fewer.values()) == {0} and "less room" in never.notes[1]


def test_where_not_even_the_question_fits_dropping_does_not_help() -> None:
    with pytest.raises(ContextTooLong, match="item w0: the prompt has 2 tokens; .* holds 2, one of which") as told:
        run(Remembering(context_length=2), [Words()], fit_shots=True)
    assert "longer context" in told.value.remedy


def test_a_model_that_tells_no_likelihoods_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    class Writer:
        name, context_length = "writer", 4096

        def generate(self, prompts: Any, sampling: Any = None) -> Any:
            raise AssertionError("it must not be asked")

    with pytest.raises(UsageError, match="writer does not tell how likely a text is, which sums asks for"):
        run(Writer(), [Words(), Sums()], folder=tmp_path)
    with pytest.raises(UsageError, match="scripted-only writes no text, which words asks for"):
        run(type("Judge", (), {"name": "scripted-only", "context_length": 99})(), [Words()])


def test_wrong_use_is_named() -> None:
    with pytest.raises(UsageError, match="sums is named 2 times"):
        run(Remembering(), [Sums(), Sums()])
    with pytest.raises(UsageError, match="limit 0"):
        run(Remembering(), [Sums()], limit=0)
    with pytest.raises(DataError, match="sums has no questions"):
        run(Remembering(), [Sums(0)])
    twice = Sums(2)
    twice._items = [Item("x", {"a": 1, "b": 1}), Item("x", {"a": 2, "b": 1})]
    with pytest.raises(DataError, match="two items with the id x"):
        run(Remembering(), [twice])


def test_answers_of_nothing_are_graded_and_counted() -> None:
    outcome = run(Remembering(lambda prompt: "" if "word3" in prompt else "word1"), [Words()])
    assert outcome.notes == ("words: the model wrote nothing for 1 of 10 items",)
    assert outcome.results[0].figure().value == 0.1


# ------------------------------------------------------------------------------------------------------- grading, chats


def test_grades_that_another_gives_are_asked_for_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a judge"):
        run(Remembering(), [JudgedWords()], folder=tmp_path)
    first, second, third = JudgedWords(), JudgedWords(), JudgedWords()
    run(Remembering(), [first], folder=tmp_path, means=Means(judge="strict"))
    outcome = run(Remembering(), [second], folder=tmp_path, means=Means(judge="strict"))
    assert len(first.graded) == 10 and not second.graded and outcome.results[0].figure().value == 1.0
    run(Remembering(), [third], folder=tmp_path, means=Means(judge="mild"))
    assert len(third.graded) == 10


def test_a_grade_that_is_no_number_comes_back_as_none(tmp_path: Path) -> None:
    class Unreadable(JudgedWords):
        def grade(self, item: Item, answers: Any) -> dict[str, float]:
            return {"exact": float("nan") if item.id == "w3" else 1.0}

    for _ in range(2):
        column = run(Remembering(), [Unreadable()], folder=tmp_path, means=Means(judge="x")).results[0].columns["exact"]
        assert list(np.flatnonzero(np.isnan(column))) == [3]
    assert "NaN" not in (tmp_path / FILE).read_text("utf-8")


def test_a_chat_is_asked_as_the_model_renders_it() -> None:
    class Templated(Remembering):
        def render(self, messages: Any) -> list[int]:
            return self._encode(" ".join(f"<{turn.role}> {turn.content}" for turn in messages) + " <assistant>")

    model = Templated(lambda prompt: prompt.split()[-2].rstrip(":"))
    outcome = run(model, [Words(3, chat=True), Sums(2, chat=True)], setting=Setting(system="Be brief."))
    assert all(isinstance(prompt, list) for prompt in model.written)
    assert model.asked[0].prompt == "<system> Be brief. <user> Say word0: <assistant>"
    assert all(isinstance(context, list) for context, _ in model.scored)
    assert outcome.results[0].chat and outcome.results[0].figure().value == 1.0
    turns = outcome.results[0].samples[1].asked[0].prompt
    assert turns == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say word1:"})


def test_what_a_model_thought_is_kept_and_not_judged(tmp_path: Path) -> None:
    def think(prompt: str) -> str:
        word = prompt.split()[-2].rstrip(":")
        return f"I am asked for a word.</think>\n\n{word}" if word == "word1" else f"<think>Hm.</think>{word}"

    outcome = run(ScriptedLLM(think), [Words(3, chat=True, sampling=SamplingParams(max_tokens=64))], folder=tmp_path)
    assert outcome.results[0].figure().value == 1.0
    assert outcome.results[0].samples[0].asked[0].answers == ("<think>Hm.</think>word0",)
    plain = run(ScriptedLLM("<think>Hm.</think>word0"), [Words(1)])
    assert plain.results[0].figure().value == 0.0, "only an assistant thinks"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no marks", "no marks"),
        ("<think>\nso\n</think>\n\nyes", "yes"),
        ("so</think>yes", "yes"),
        ("use <think> and </think> so", "use <think> and </think> so"),
        ("<think>never ended", "<think>never ended"),
        ("[THINK]a[/THINK]b</think>", "b</think>"),
    ],
)
def test_a_thought_stands_at_the_beginning_and_nowhere_else(text: str, said: str) -> None:
    assert without_thought(text) == said


def test_written_answers_get_the_room_that_is_asked_for(tmp_path: Path) -> None:
    model = Remembering(lambda prompt: "one two three four five")
    run(model, [Words(1), Sums(1)], setting=Setting(max_tokens=3), folder=tmp_path)
    assert model.asked[0].sampling.max_tokens == 3
    assert lines(tmp_path)[1]["answers"] == ["one two three"]
    assert run(model, [Words(1), Sums(1)], folder=tmp_path).asked == 1


def test_a_wave_of_many_draws_is_as_large_as_one_of_single_answers() -> None:
    model = Remembering()
    run(model, [Words(6, sampling=SamplingParams(temperature=1.0, n=4, max_tokens=2))], batch=8)
    assert model.waves == [2, 2, 2]


def test_a_model_without_a_template_holds_its_chats_itself() -> None:
    model = ScriptedLLM(lambda prompt: prompt.split()[-2].rstrip(":"))
    outcome = run(model, [Words(20, chat=True)])
    assert outcome.results[0].figure().value == 1.0
    assert {asked.messages for asked in model.asked} == {(Message("user", f"Say word{n}:"),) for n in range(20)}


def test_progress_tells_what_is_left_and_results_come_as_they_are_there(tmp_path: Path) -> None:
    run(Remembering(), [Sums(4)], folder=tmp_path)
    told: list[tuple[str, int, int]] = []
    done: list[str] = []
    run(
        Remembering(), [Sums(), Words()], folder=tmp_path, batch=5,
        report=lambda *what: told.append(what), done=lambda result: done.append(result.task),
    )  # fmt: skip
    asking = [(count, total) for what, count, total in told if what == "asking scripted"]
    assert asking[0] == (0, 18) and asking[-1] == (18, 18) and asking == sorted(asking)
    assert done == ["sums", "words"]
