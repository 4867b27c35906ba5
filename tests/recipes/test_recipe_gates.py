"""What is made of a model passes a gate: a recipe's result, a quantised copy; or does not, and says what it lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hornbook
from hornbook.errors import DataError, GateFailed, UsageError
from hornbook.evals.gate import Candidate, Gate
from hornbook.evals.outcome import FILE, Outcome
from hornbook.evals.own import read as own_tasks
from hornbook.recipes.config import Recipe
from hornbook.recipes.life import live
from hornbook.recipes.outcome import Outcome as Run
from hornbook.recipes.reading import read
from hornbook.recipes.run import run
from hornbook.recipes.stages import Life
from hornbook.settings import Settings


@pytest.fixture(scope="module")
def questions(tiny_llm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Choices between two words of which the tiny model finds the right one a little likelier: it answers all, and whoever
    is made of it loses some."""
    words = sorted(set((Path(__file__).parents[2] / "LICENSE").read_text("utf-8").split()))[:1600]
    pairs = list(zip(words[::2], words[1::2], strict=False))
    with hornbook.load(tiny_llm_path, device="cpu", dtype="float32") as model:
        scores = model.score([("Question: Which?\nAnswer:", f" {word}") for pair in pairs for word in pair])
    gaps = [(scores[2 * at].logprob - scores[2 * at + 1].logprob, pair) for at, pair in enumerate(pairs)]
    path = tmp_path_factory.mktemp("questions") / "mine.jsonl"
    rows = [
        {"id": number, "question": "Which?", "choices": list(pair), "answer": int(gap < 0)}
        for number, (gap, pair) in enumerate(sorted(gaps, key=lambda one: abs(one[0]))[:100])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]}
    path.write_text("".join(json.dumps(row) + "\n" for _ in range(8)), "utf-8")
    return path


def asked(model: Path, chats: Path, *words: str) -> Recipe:
    given = [f"model={model}", f"data.train.0.path={chats}", "data.validation=0", "data.context=200", "adapter.rank=2"]
    recipe = read("sft", [*given, "training.steps=1", "training.tokens=400", "samples.prompts=0", *words])
    assert isinstance(recipe, Recipe)
    return recipe


def carry_out(recipe: Recipe, folder: Path, home: Path) -> tuple[Run, list[str]]:
    said: list[str] = []
    silent: Any = lambda *_: None  # noqa: E731
    outcome = run(recipe, folder, settings=Settings(home=home), show=silent, report=silent, say=said.append)
    assert outcome is not None
    return outcome, said


def test_a_result_is_asked_beside_its_base(tiny_llm_path: Path, questions: Path, chats: Path, tmp_path: Path) -> None:
    recipe = asked(
        tiny_llm_path, chats, f"evaluate.tasks=[{questions}]", "evaluate.limit=40", "evaluate.fail_if_worse=true"
    )
    outcome, said = carry_out(recipe, tmp_path / "run", tmp_path)
    (line,) = [line for line in said if "mine acc" in line]
    assert "100.00 -> " in line and "(40 items)" in line
    assert 0 < outcome.scores["mine acc"] <= 1
    assert "mine" in (tmp_path / "run" / "evaluation.html").read_text("utf-8")


def test_a_result_that_lost_what_it_had_fails_and_is_kept(
    tiny_llm_path: Path, questions: Path, chats: Path, tmp_path: Path
) -> None:
    recipe = asked(tiny_llm_path, chats, f"evaluate.tasks=[{questions}]", "evaluate.fail_if_worse=true")
    given = recipe.model_dump(mode="json") | {"adapter": None}
    given["training"] |= {"rate": 0.3, "steps": 6, "clip": None}
    recipe = type(recipe).model_validate(given)
    for _ in range(2):  # the finished run is asked again: nothing is trained, and it still fails
        with pytest.raises(GateFailed, match=r"run is worse than .*: mine acc 100\.00 -> .*\(p < 0.001\)") as caught:
            carry_out(recipe, tmp_path / "run", tmp_path)
        assert "The run is kept in" in caught.value.remedy and caught.value.exit_code == 1
    assert (tmp_path / "run" / "model" / "config.json").is_file() and (tmp_path / "run" / "evaluation.html").is_file()
    other = recipe.model_copy(update={"evaluate": None})
    assert carry_out(other, tmp_path / "run", tmp_path)[0].name  # without the gate it is the same run


def test_a_result_that_was_trained_on_the_questions_gets_a_warning(
    tiny_llm_path: Path, chats: Path, tmp_path: Path
) -> None:
    asked_for = "Which of the fourteen bridges of the old town was built by the brothers after the second flood?"
    with chats.open("a") as file:
        row = {"messages": [{"role": "user", "content": asked_for}, {"role": "assistant", "content": "The third."}]}
        file.write(json.dumps(row) + "\n")
    (tmp_path / "mine.jsonl").write_text(json.dumps({"question": asked_for, "answer": "the third"}) + "\n")
    recipe = asked(
        tiny_llm_path, chats, f"evaluate.tasks=[{tmp_path / 'mine.jsonl'}]", "evaluate.baseline=null"
    )  # fmt: skip
    said = carry_out(recipe, tmp_path / "run", tmp_path)[1]
    assert any(
        "note: mine: at least 1 of 1 items stand in the data that the model was trained on" in line for line in said
    )


def test_an_earlier_evaluation_may_be_the_baseline(
    tiny_llm_path: Path, questions: Path, chats: Path, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    verdict = Gate(own_tasks(str(questions)), limit=30).weigh(Candidate(str(tiny_llm_path)), None, settings)
    assert verdict.lines() == ["mine acc 100.00 ± 0.00 (30 items)"] and not verdict.lost
    (tmp_path / FILE).write_text(json.dumps(verdict.after.to_json()), "utf-8")
    recipe = asked(
        tiny_llm_path, chats, f"evaluate.tasks=[{questions}]", f"evaluate.baseline={tmp_path}", "evaluate.limit=30"
    )
    assert any("100.00 -> " in line for line in carry_out(recipe, tmp_path / "run", tmp_path)[1])
    lacking = Outcome.from_json({**verdict.after.to_json(), "results": []})
    (tmp_path / FILE).write_text(json.dumps(lacking.to_json()), "utf-8")
    with pytest.raises(UsageError, match="has no results of mine"):
        carry_out(recipe, tmp_path / "run", tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate.tasks=[arc_eesy]"], "there is no task 'arc_eesy'"),
        (["evaluate.tasks=[none.jsonl]"], "none.jsonl is not there"),
        (["evaluate.tasks=[tone.yaml]"], "tone needs a judge"),
        (["evaluate.tasks=[]"], "evaluate.tasks: "),
        (["evaluate.tasks=[boolq]", "evaluate.baselin=x"], "there is no setting 'evaluate.baselin'"),
        (
            ["evaluate.tasks=[boolq]", "evaluate.baseline=null", "evaluate.fail_if_worse=true"],
            "nothing to compare with",
        ),
    ],
)
def test_a_gate_that_cannot_be_is_refused_before_any_work(
    tiny_llm_path: Path, chats: Path, tmp_path: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tone.yaml").write_text("kind: judged\nitems: [{question: Say hello.}]\n")
    with pytest.raises((UsageError, DataError), match=said):
        carry_out(asked(tiny_llm_path, chats, *words), tmp_path / "run", tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_new_model_has_no_base() -> None:
    words = ["data.train.0.path=x.txt", "evaluate.tasks=[boolq]", "evaluate.fail_if_worse=true"]
    with pytest.raises(UsageError, match="a new model was made of no other: name a baseline"):
        read("pretrain", words)


def test_files_of_ones_own_count_from_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "recipe: sft\ndata: {train: [{path: a.jsonl}]}\n"
        "evaluate: {tasks: [boolq, mine.yaml], data: [questions], baseline: ./before, judge: smollm2:135m}\n"
    )
    recipe: Any = read(str(path))
    told = recipe.evaluate
    assert told.tasks == ["boolq", str(tmp_path / "mine.yaml")] and told.data == [str(tmp_path / "questions")]
    assert (told.baseline, told.judge) == (str(tmp_path / "before"), "smollm2:135m")


@pytest.mark.parametrize("type", ["F32", "Q4_0"])
def test_a_quantised_copy_counts_only_where_it_lost_nothing(
    type: str, tiny_llm_path: Path, questions: Path, tmp_path: Path
) -> None:
    path = tmp_path / "life.yaml"
    path.write_text(
        f"recipe: life\nstages:\n  small:\n    recipe: quantise\n    model: {tiny_llm_path}\n    type: {type}\n    max_kl: 9\n"
        f"    min_top1: 0.0\n    evaluate: {{tasks: [{questions}], fail_if_worse: true}}\n"
    )
    chain = read(str(path))
    assert isinstance(chain, Life)
    silent: Any = lambda *_: None  # noqa: E731
    more: dict[str, Any] = {"show": silent, "report": silent, "say": silent, "tell": silent}
    folder, settings = tmp_path / "life", Settings(home=tmp_path)
    if type == "Q4_0":
        with pytest.raises(GateFailed, match=r"tiny-llm0 in Q4_0 is worse than .*: mine acc 100\.00 -> ") as caught:
            live(chain, folder, settings=settings, **more)
        assert "evaluation.html shows what was lost" in caught.value.remedy
        assert [one.name for one in (folder / "small").iterdir()] == ["evaluation.html"]
        return
    (done,) = live(chain, folder, settings=settings, **more)
    assert done.figures["mine acc"] == 1 and done.result.is_file() and done.anew
    assert [one.anew for one in live(chain, folder, settings=settings, **more)] == [False]
