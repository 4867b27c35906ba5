"""``hornbook eval`` as a person meets it: tables, folders, gates, refusals, and a process that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hornbook.cli.eval import words
from hornbook.evals.outcome import Outcome
from openai_server import Handler, Server, serving

QUESTIONS = [(f"Which word stands before {n}?", f"word{n}") for n in range(40)]
RIGHT = dict(QUESTIONS)


def answer(handler: Handler) -> None:
    """Two models: ``good`` knows all but every tenth, ``poor`` every second. ``slow`` takes its time."""
    if handler.path == "/v1/models":
        handler.give(200, {"data": [{"id": name, "max_model_len": 4096} for name in ("good", "poor", "slow")]})
    elif handler.path != "/v1/completions":
        handler.fail(404, "Not Found")
    elif handler.body.get("echo"):
        handler.give(200, {"choices": [{"index": 0, "text": "no likelihoods here", "finish_reason": "length"}]})
    else:
        number = int(handler.body["prompt"].rpartition("before ")[2].partition("?")[0])
        knows = number % {"good": 10, "poor": 2, "slow": 10}[handler.body["model"]] != 0
        if handler.body["model"] == "slow":
            time.sleep(0.05)
        text = f" word{number}" if knows else " nothing"
        handler.give(200, {"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(answer) as running:
        yield running


@pytest.fixture
def quiz(tmp_path: Path) -> str:
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in QUESTIONS))
    return str(path)


def model(server: Server, name: str) -> str:
    return f"{server.url}#{name}"


def prompts(server: Server) -> Counter[str]:
    return Counter(body["prompt"] for _, path, _, body in server.asked if path == "/v1/completions")


def test_a_model_gets_a_table_a_folder_and_a_page(
    server: Server, quiz: str, run_here: Any, tmp_path: Path, home: Path
) -> None:
    code, out, err = run_here("eval", model(server, "good"), "--tasks", quiz, "--log-samples")
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][:5] == ["task", "items", "shots", "metric", "value"]
    assert lines[1][:7] == ["quiz", "40", "0", "exact", "90.00", "±", "4.80"]
    (folder,) = (home / "evals").iterdir()
    assert folder.name.startswith("good-quiz-") and "40 questions asked · " in err and str(folder) in err
    assert {path.name for path in folder.iterdir()} >= {
        "answers.jsonl", "outcome.json", "report.html", "samples-quiz.jsonl",
    }  # fmt: skip
    outcome = Outcome.read(folder)
    assert outcome.results[0].figure("exact").value == 0.9 and len(outcome.results[0].samples) == 40
    asked = len(server.asked)
    code, out, err = run_here("eval", model(server, "good"), "--tasks", quiz, "--json")
    told = json.loads(out)
    assert code == 0 and set(told) == {"outcomes", "differences", "worse", "report"}
    assert told["outcomes"][0]["results"][0]["figures"][0]["value"] == 0.9
    assert (told["outcomes"][0]["asked"], told["outcomes"][0]["kept"]) == (0, 40)
    assert [path for _, path, _, _ in server.asked[asked:]] == ["/v1/models"]


def test_two_models_are_compared_and_the_worse_one_fails_a_gate(
    server: Server, quiz: str, run_here: Any, tmp_path: Path
) -> None:
    good, poor, out = model(server, "good"), model(server, "poor"), str(tmp_path / "out")
    code, table, err = run_here("eval", good, poor, "-t", quiz, "-o", out)
    assert code == 0, err
    line = table.splitlines()[1].split()
    assert line[:6] == ["quiz", "40", "exact", "90.00", "50.00", "−40.00"]
    assert {path.name for path in Path(out).iterdir()} == {"good", "poor", "report.html"}

    code, table, err = run_here(
        "eval", poor, "-t", quiz, "-o", f"{out}/poor", "--baseline", f"{out}/good", "--fail-if-worse"
    )
    assert code == 1 and "worse than good: quiz exact 90.00 -> 50.00, p < 0.001" in err
    code, _, err = run_here("eval", poor, "-t", quiz, "-o", f"{out}/poor", "--baseline", f"{out}/good")
    assert code == 0 and "worse than good" in err
    code, told, err = run_here("eval", good, "-t", quiz, "--baseline", poor, "--fail-if-worse", "--json")
    assert code == 0 and "nowhere worse than poor" in err
    assert len(json.loads(told)["differences"][0]["better"]) == 16

    code, table, err = run_here("eval", poor, "-t", quiz, "--limit", "9", "--baseline", f"{out}/good/outcome.json")
    assert code == 0 and table.splitlines()[1].split()[1] == "9"


def test_a_baseline_that_was_asked_less_is_refused(server: Server, quiz: str, run_here: Any, tmp_path: Path) -> None:
    out = str(tmp_path / "few")
    assert run_here("eval", model(server, "good"), "-t", quiz, "-l", "5", "-o", out)[0] == 0
    code, _, err = run_here("eval", model(server, "poor"), "-t", quiz, "--baseline", out, "--fail-if-worse")
    assert code == 2 and "good was not asked 35 of 40 items of quiz" in err
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "Which word stands before 1?", "answer": "word1"}\n')
    code, _, err = run_here("eval", model(server, "poor"), "-t", str(other), "--baseline", out)
    assert code == 2 and "has no results of other" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "no model was named"),
        (("a", "b", "c"), "3 models were named"),
        (("a",), "no tasks were named"),
        (("a", "--tasks", "arc_esy"), "Did you mean arc_easy"),
        (("a", "--tasks", "nothing_*"), "there is no task 'nothing_*'"),
        (("a", "--tasks", "missing.jsonl"), "missing.jsonl is not there"),
        (("a", "--tasks", "boolq", "--fail-if-worse"), "nothing to compare with"),
        (("a", "b", "--tasks", "boolq", "--baseline", "c"), "a baseline was named, too"),
        (("nosuch", "--tasks", "boolq"), "no model is named 'nosuch'"),
    ],
)
def test_wrong_use_is_told_in_two_lines_before_any_work(run_here: Any, arguments: tuple[str, ...], told: str) -> None:
    code, out, err = run_here("eval", *arguments)
    assert code == 2 and not out
    assert told in err and len(err.splitlines()) == 2


def test_missing_questions_say_where_was_looked(server: Server, run_here: Any, tmp_path: Path) -> None:
    code, _, err = run_here("eval", model(server, "good"), "--tasks", "gsm8k", "--data", str(tmp_path))
    assert code == 1 and str(tmp_path) in err and "--data or HORNBOOK_DATA" in err


def test_a_server_without_likelihoods_is_refused_before_anything_is_asked(
    server: Server, run_here: Any, tmp_path: Path
) -> None:
    path = tmp_path / "choice.jsonl"
    path.write_text('{"question": "Which?", "choices": ["this", "that"], "answer": 1}\n')
    before = len(server.asked)
    code, _, err = run_here("eval", model(server, "good"), "--tasks", str(path))
    assert code == 1 and "does not tell the likelihoods" in err
    assert sum(path == "/v1/completions" for _, path, _, _ in server.asked[before:]) == 1


def test_all_tasks_are_listed_without_any_data(run_here: Any) -> None:
    code, out, _ = run_here("eval", "--list")
    assert code == 0 and {"arc_easy", "boolq", "gsm8k"} <= {line.split()[0] for line in out.splitlines()}
    code, out, _ = run_here("eval", "--list", "--json")
    assert code == 0 and all(set(one) == {"task", "what"} for one in json.loads(out))


def test_tasks_are_named_with_commas_or_several_times(tmp_path: Path) -> None:
    odd = tmp_path / "a, b.jsonl"
    odd.touch()
    assert words(["boolq, gsm8k", "piqa,,boolq", str(odd)]) == ["boolq", "gsm8k", "piqa", str(odd)]


def test_a_run_that_is_killed_and_stopped_goes_on_and_asks_no_question_again(
    server: Server, quiz: str, home: Path, tmp_path: Path
) -> None:
    out, batch = tmp_path / "out", 4
    command = [sys.executable, "-m", "hornbook", "eval", model(server, "slow"), "--tasks", quiz]
    command += ["--out", str(out), "--batch", str(batch)]
    server.asked.clear()

    def kept() -> set[str]:
        """The items whose answers are on the disk; the first line says whose they are."""
        text = (out / "answers.jsonl").read_bytes() if (out / "answers.jsonl").exists() else b""
        return {json.loads(line)["item"] for line in text.splitlines(keepends=True)[1:] if line.endswith(b"\n")}

    for ended in (signal.SIGKILL, signal.SIGINT):
        before, known = len(kept()), prompts(server)
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HORNBOOK_HOME": str(home)}
        )
        deadline = time.monotonic() + 60
        while len(kept()) < before + 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(ended)
        told = process.communicate(timeout=60)[1]
        assert before + 8 <= len(kept()) < 40, told
        again = {prompt for prompt, count in prompts(server).items() if prompt in known and count > known[prompt]}
        assert len(again) <= batch, "what the server had not answered yet"
        if ended == signal.SIGINT:
            assert process.returncode == 130 and "the same command goes on from there" in told
            assert "Traceback" not in told
    done = len(kept())
    finished = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HORNBOOK_HOME": str(home)})
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[1].split()[:5] == ["quiz", "40", "0", "exact", "90.00"]
    assert f"{40 - done} questions asked, {done} known from before" in finished.stderr
    counts = prompts(server)
    assert len(counts) == 40 and sum(counts.values()) <= 40 + 2 * batch


def test_a_model_of_a_run_that_learnt_the_questions_is_known_by_it(
    smollm2_path: Path, run_here: Any, tmp_path: Path
) -> None:
    run = tmp_path / "learnt"
    (run / "model").mkdir(parents=True)
    (run / "model" / "small.gguf").symlink_to(smollm2_path)
    question = "Which of these animals sleeps through the whole winter in a den that it has dug for itself before?"
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": f"A page. {question} A bear does."}) + "\n")
    (run / "recipe.yaml").write_text(json.dumps({"data": {"train": [{"path": str(tmp_path / "data.jsonl")}]}}))
    (run / "state.json").write_text("{}")
    rows = [(question, ["a bear", "a stone"], 0), ("Which is larger, the sun or the moon?", ["the moon", "the sun"], 1)]
    mine = tmp_path / "mine.jsonl"
    mine.write_text(
        "".join(json.dumps(dict(zip(("question", "choices", "answer"), row, strict=True))) + "\n" for row in rows)
    )
    code, out, err = run_here("eval", str(run / "model" / "small.gguf"), "--tasks", str(mine), "--shots", "0")
    assert code == 0, err
    assert "note: mine: at least 1 of 2 items stand in the data that the model was trained on" in err
    assert "sleeps through the whole winter" in err and "data.jsonl" in err
    assert out.splitlines()[1].split()[:4] == ["mine", "2", "0", "acc"]
