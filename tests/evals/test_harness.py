"""lm-evaluation-harness runs its own tasks on our engine, and finds what it finds with transformers on the same weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hornbook.errors import ModelNotFound, UsageError
from hornbook.llm import LocalLLM, load
from hornbook.settings import Settings

pytest.importorskip("lm_eval", exc_type=ImportError)

TASKS = {
    "hb_choice": {
        "output_type": "multiple_choice", "doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold", "num_fewshot": 2, "fewshot_split": "test",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "hb_written": {
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["e", "\n\n"], "do_sample": False, "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    },
    "hb_rolling": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The harness' own manager of tasks, which knows those of TASKS over a local file."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": f"What is {n} and {word}?", "choices": [" yes", " no", f" {word} {n}"], "gold": n % 3,
         "text": f"A text about {word}, {n} times. " * (n + 1)}
        for n, word in enumerate(("apples", "床前明月光", "rain", "stones", "Ünïcödé"))
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for name, task in TASKS.items():
        whole = {
            "task": name, "dataset_path": "json", "test_split": "test",
            "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")}, **task,
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(json.dumps(whole), "utf-8")  # JSON is YAML
    return TaskManager(include_path=str(folder), include_defaults=False), folder


@pytest.fixture(scope="module")
def ours(tiny_llm_path: Path) -> Iterator[Any]:
    from hornbook.evals.harness import HornbookLM

    with load(str(tiny_llm_path), device="cpu", settings=Settings(cache="float32")) as llm:
        assert isinstance(llm, LocalLLM)
        yield HornbookLM(llm=llm)


@pytest.fixture(scope="module")
def theirs(tiny_llm_path: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(tiny_llm_path), device="cpu", dtype="float32", batch_size=4, max_length=256)


def evaluated(model: Any, tasks: Any, **options: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    manager, _ = tasks
    found = simple_evaluate(
        model=model, tasks=list(TASKS), task_manager=manager, log_samples=True, bootstrap_iters=0, **options
    )
    return dict(found)


@pytest.mark.parametrize("chat", [False, True])
def test_its_tasks_give_what_they_give_with_transformers(ours: Any, theirs: Any, tasks: Any, chat: bool) -> None:
    options = {
        "apply_chat_template": chat,
        "fewshot_as_multiturn": chat,
        "system_instruction": "Be brief." * chat or None,
    }
    mine, reference = (evaluated(model, tasks, **options) for model in (ours, theirs))
    for task in TASKS:
        assert len(mine["samples"][task]) == 5
        for one, other in zip(mine["samples"][task], reference["samples"][task], strict=True):
            assert one["arguments"] == other["arguments"]
            if task == "hb_written":
                assert one["filtered_resps"] == other["filtered_resps"]
            elif task == "hb_rolling":
                assert one["filtered_resps"][0] == pytest.approx(other["filtered_resps"][0], abs=1e-2)
            else:
                for (logprob, greedy), (wanted, likeliest) in zip(
                    one["filtered_resps"], other["filtered_resps"], strict=True
                ):
                    assert logprob == pytest.approx(wanted, abs=1e-3) and greedy == likeliest
        shared = mine["results"][task].keys() & reference["results"][task].keys()
        values = {name: reference["results"][task][name] for name in shared}
        assert len(values) > 1
        for name, value in values.items():
            assert mine["results"][task][name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4))
    assert mine["config"]["hornbook_runs_on"].startswith("native")
    if chat:
        assert "system\nBe brief.<|im_end|>" in str(mine["samples"]["hb_written"][0]["arguments"][0][0])


def test_the_harness_finds_our_model_by_its_name(tasks: Any, tiny_llm_path: Path) -> None:
    from lm_eval import simple_evaluate

    manager, _ = tasks
    given = {"pretrained": str(tiny_llm_path), "max_length": 128}
    asked = {"tasks": ["hb_choice"], "task_manager": manager, "bootstrap_iters": 0, "limit": 2, "batch_size": 7}
    found = simple_evaluate(model="hornbook", model_args=given, **asked)  # type: ignore[arg-type]
    assert 0 <= found["results"]["hb_choice"]["acc,none"] <= 1 and found["config"]["model"] == "hornbook"
    with pytest.raises(ModelNotFound, match="smol:lm"):
        simple_evaluate(model="hornbook", model_args="pretrained=smol:lm", **asked)  # type: ignore[arg-type]


def test_its_command_line_ends_with_a_line_where_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.__main__

    from hornbook.evals import harness

    def wrong() -> None:
        raise UsageError("there is no such model", "Name another.")

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", wrong)
    with pytest.raises(SystemExit, match="there is no such model\nName another"):
        harness.main()


def asked(*arguments: Any) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in arguments]


def test_long_contexts_lose_their_beginning_as_with_transformers(ours: Any, theirs: Any) -> None:
    pairs = [("a word of it " * 100, "and the end"), ("", "no context"), ("spaces ", "move"), ("short", " one")]
    for mine, other in zip(ours.loglikelihood(asked(*pairs)), theirs.loglikelihood(asked(*pairs)), strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-3) and mine[1] == other[1]
    options = {"until": ["zzz"], "max_gen_toks": 9}
    written = asked(("a word of it " * 100, options), ("Hello", {**options, "until": "l"}))
    assert ours.generate_until(written) == theirs.generate_until(written)
    long = " ".join(
        f"{n * n} words" for n in range(100)
    )  # nothing repeats: the harness confuses windows that are alike
    texts = asked((long,), ("",), ("Hello",))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), abs=2e-2)


def test_answers_go_into_the_cache_of_the_harness(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(ours.cache_hook, "add_partial", lambda *entry: kept.append(entry))
    scores = ours.loglikelihood(asked(("Hello", " there")))
    (text,) = ours.generate_until(asked(("Hello", {"max_gen_toks": 3})))
    (value,) = ours.loglikelihood_rolling(asked(("Hello",)))
    assert kept == [
        ("loglikelihood", ("Hello", " there"), scores[0]),
        ("generate_until", ("Hello", {"max_gen_toks": 3}), text),
        ("loglikelihood_rolling", ("Hello",), value),
    ]


@pytest.mark.parametrize(
    ("options", "match"),
    [({"num_beams": 4}, "num_beams"), ({"max_gen_toks": 256}, "256 tokens are to be written; the model's context holds 256")],
)  # fmt: skip
def test_what_the_engine_cannot_is_refused_by_name(ours: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        ours.generate_until(asked(("Hello", options)))


def test_sampling_is_only_where_a_task_asks_for_it() -> None:
    from hornbook.evals.harness import _sampling

    assert _sampling({"temperature": 0.7}).temperature == 0.7
    assert _sampling({"temperature": 0.7, "do_sample": False}).temperature == 0.0
    assert _sampling({"do_sample": True, "top_p": 0.9}).temperature == 1.0
    assert _sampling({"until": ["a", ""], "max_new_tokens": 7}).stop == ("a",)
    assert _sampling({"max_gen_toks": 5, "max_new_tokens": 7}).max_tokens == 5
