"""Recipes carried out on tiny models: the whole life in small, what is shown and refused, what a killed run comes to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hornbook import adapt
from hornbook.checkpoint.loading import load
from hornbook.checkpoint.machine import Room
from hornbook.errors import DataError, HornbookError, UsageError
from hornbook.recipes import forecast
from hornbook.recipes.classify import label, macro_f1
from hornbook.recipes.config import Recipe
from hornbook.recipes.life import Done, live
from hornbook.recipes.outcome import Outcome, folder_for
from hornbook.recipes.preview import Preview, lines, marked
from hornbook.recipes.progress import Line
from hornbook.recipes.reading import read
from hornbook.recipes.run import run
from hornbook.recipes.stages import Life
from hornbook.settings import Settings

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = [
    *("stages.words.architecture.layers=1", "stages.words.architecture.width=32", "stages.words.architecture.heads=2"),
    *("stages.words.tokenizer.size=500", "stages.words.training.steps=12", "stages.words.training.tokens=512"),
    *("stages.talk.training.steps=4", "stages.style.training.steps=4", "stages.chat.tokens=4"),
    *("stages.words.samples.tokens=3", "stages.talk.samples.tokens=3", "stages.style.samples.tokens=3"),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def carry_out(recipe: Recipe | Life, folder: Path, home: Path, **more: Any) -> tuple[Outcome | None, list[Preview]]:
    assert isinstance(recipe, Recipe)
    shown: list[Preview] = []
    settings = Settings(home=home)
    done = run(recipe, folder, settings=settings, show=shown.append, report=lambda *_: None, say=lambda _: None, **more)
    return done, shown


def live_in(folder: Path, home: Path, words: Sequence[str] = SMALL) -> list[Done]:
    life = read(str(RECIPES / "whole-life.yaml"), words)
    assert isinstance(life, Life)
    silent: Callable[..., None] = lambda *_: None  # noqa: E731
    settings = Settings(home=home)
    return live(life, folder, settings=settings, show=silent, report=silent, say=silent, tell=silent)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Done]]:
    folder = tmp_path_factory.mktemp("life")
    return folder / "runs" / "life", live_in(folder / "runs" / "life", folder)


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    rows = (RECIPES / "data" / "telegram.jsonl").read_text("utf-8").splitlines()[:24]
    path.write_text("\n".join(rows), "utf-8")
    return path


def sft(life: tuple[Path, list[Done]], chats: Path, *words: str) -> Recipe:
    given = ["model=" + str(life[0] / "talk"), f"data.train.0.path={chats}", "data.validation=4", "data.context=200"]
    given += ["adapter.rank=2", "training.tokens=400", "samples.prompts=1", "samples.tokens=3"]
    recipe = read(
        "sft", [word for word in given if word.split("=")[0] not in {w.split("=")[0] for w in words}] + [*words]
    )
    assert isinstance(recipe, Recipe)
    return recipe


# ---------------------------------------------------------------------------------------------------- the whole life


def test_a_model_is_made_taught_adapted_merged_quantised_measured_and_asked(life: tuple[Path, list[Done]]) -> None:
    folder, done = life
    words, talk, style, merged, small, loss, chat = done
    for stage in (words, talk, style):
        assert stage.figures["loss after"] < stage.figures["loss before"], stage.name
    base = load(folder / "talk" / "model", dtype="float32", device="cpu")
    adapt.load(base.model, folder / "style")
    whole = load(merged.result, dtype="float32", device="cpu").model
    ids = torch.tensor([base.tokenizer.encode("HOW TO KEEP BREAD FRESH STOP")])
    with torch.inference_mode():
        torch.testing.assert_close(base.model(ids).logits, whole(ids).logits, atol=1e-5, rtol=0)
    assert small.result.name == "model.gguf" and small.figures["top-1"] > 0.94
    assert loss.figures["loss"] == pytest.approx(style.figures["loss after"], abs=1.0)
    assert len(chat.said) == 2 and (folder / "words" / "report.html").exists()


def test_what_is_done_is_not_done_again_and_what_is_missing_is(life: tuple[Path, list[Done]], tmp_path: Path) -> None:
    folder, done = life
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    (folder / "chat" / "outcome.json").unlink()
    again = live_in(folder, folder.parents[1])
    assert [stage.anew for stage in again] == [False] * 6 + [True]
    assert [stage.figures for stage in again] == [stage.figures for stage in done]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    with pytest.raises(UsageError, match=r"training\.rate was 0\.001 and is 0\.5"):
        live_in(folder, folder.parents[1], [*SMALL, "stages.talk.training.rate=0.5"])


# ------------------------------------------------------------------------------------------------- shown and refused


def test_what_is_shown_is_what_is_learnt(life: tuple[Path, list[Done]], chats: Path, tmp_path: Path) -> None:
    done, (preview,) = carry_out(sft(life, chats), tmp_path / "run", tmp_path, dry=True)
    assert done is None and not (tmp_path / "run").exists()
    tokenizer = load(life[0] / "talk" / "model", device="cpu").tokenizer
    answers = [json.loads(line)["messages"][1]["content"] for line in chats.read_text("utf-8").splitlines()]
    assert preview.examples == 20 and preview.held_out == 4
    most = sum(len(tokenizer.encode(answer, add_special=False)) + 2 for answer in answers)
    assert 0.5 * most < preview.learnt < most < preview.tokens
    learnt = [text for text, flag in preview.example if flag]
    assert len(learnt) == 1 and learnt[0].removesuffix("<|im_end|>").strip() in answers
    text = "\n".join(lines(preview, coloured=False))
    assert f"[{learnt[0]}]" in text and f"{preview.trained:,} of {preview.parameters:,} parameters" in text
    assert preview.trained < preview.parameters and "\x1b[36m" in "\n".join(lines(preview, coloured=True))


def test_calls_of_tools_that_the_template_leaves_out_are_told(life: tuple[Path, list[Done]], tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_time", "arguments": {"city": "Rome"}}}
    turns = [
        {"role": "user", "content": "What time is it in Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "12:00"},
        {"role": "assistant", "content": "NOON STOP"},
    ]
    path = tmp_path / "tools.jsonl"
    path.write_text("\n".join(json.dumps({"messages": turns}) for _ in range(2)), "utf-8")
    _, (preview,) = carry_out(sft(life, path, "data.validation=0"), tmp_path / "run", tmp_path, dry=True)
    assert any("calls of tools" in note for note in preview.notes)


def test_control_characters_of_an_example_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in marked((("a\x1b[31mred", False), ("b\x07", True)), coloured=False)


def test_a_training_of_no_token_is_refused(life: tuple[Path, list[Done]], chats: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no token would be trained"):
        carry_out(sft(life, chats, "data.context=8"), tmp_path / "run", tmp_path)


def test_a_training_that_does_not_fit_is_refused_with_what_would(
    life: tuple[Path, list[Done]], chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = sft(life, chats, "training.tokens=65536", "data.context=256")
    _, (preview,) = carry_out(recipe, tmp_path / "run", tmp_path, dry=True)
    few = forecast.memory(
        *(load_anatomy(life), recipe.training.model_copy(update={"tokens": 1024}), 256, recipe.adapter)  # type: ignore[attr-defined]
    )
    assert few.peak < preview.memory.peak
    monkeypatch.setattr("hornbook.checkpoint.machine.room", lambda device: Room("a small machine", few.peak))
    with pytest.raises(UsageError, match="are free on a small machine") as error:
        carry_out(recipe, tmp_path / "run", tmp_path, dry=True)
    found = re.search(r"training\.tokens=(\d+) training\.accumulate=(\d+)", error.value.remedy)
    assert found is not None and int(found[1]) <= 1024 < 65536 == int(found[1]) * int(found[2])
    _, (forced,) = carry_out(recipe, tmp_path / "run", tmp_path, dry=True, force=True)
    assert not forced.memory.fits


def load_anatomy(life: tuple[Path, list[Done]]) -> Any:
    from hornbook.checkpoint.anatomy import Anatomy

    return Anatomy.read(life[0] / "talk" / "model")


@pytest.mark.parametrize(
    "words, what",
    [
        (["adapter.targets=[q_prj]"], "q_pr"),
        (["model=smollm3:135m"], "no model is named 'smollm3:135m'"),
        (["data.train.0.path=missing.jsonl"], "missing.jsonl does not exist"),
        (["template=none.jinja"], "the template none.jinja cannot be read"),
        (["training.warmup=900", "training.steps=20"], "a warm-up of 900 steps"),
    ],
)
def test_what_cannot_work_is_named_before_any_training(
    life: tuple[Path, list[Done]], chats: Path, tmp_path: Path, words: list[str], what: str
) -> None:
    with pytest.raises(HornbookError, match=re.escape(what)):
        carry_out(sft(life, chats, *words), tmp_path / "run", tmp_path)
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_finished_run_tells_again_and_another_recipe_gets_a_folder_beside_it(
    life: tuple[Path, list[Done]], chats: Path, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    recipe = sft(
        life, chats, "training.steps=2", "training.accumulate=2", "training.ema=0.5", "training.optimizer=muon"
    )
    folder = folder_for(recipe, "mine", settings)
    assert folder == tmp_path / "runs" / "mine"
    first, _ = carry_out(recipe, folder, tmp_path)
    again, shown = carry_out(recipe, folder, tmp_path)
    assert first == again and not shown and first is not None and first.steps == 2
    assert f"--adapter {first.name}" in first.commands[0] and first.name == "mine"
    other = sft(life, chats, "training.steps=3")
    assert folder_for(other, "mine", settings) == tmp_path / "runs" / "mine-2"
    with pytest.raises(UsageError, match=r"training\.steps was 2 and is 3"):
        carry_out(other, folder, tmp_path)


def test_data_that_has_changed_under_a_run_is_not_gone_on_with(
    life: tuple[Path, list[Done]], chats: Path, tmp_path: Path
) -> None:
    recipe, folder = sft(life, chats, "training.steps=2"), tmp_path / "run"
    carry_out(recipe, folder, tmp_path)
    state = json.loads((folder / "state.json").read_text("utf-8")) | {"status": "stopped"}
    (folder / "state.json").write_text(json.dumps(state), "utf-8")  # as after Control-C
    said = yaml.safe_load((folder / "recipe.yaml").read_text("utf-8"))
    del said["training"]["z_loss"], said["samples"]  # as an earlier Hornbook wrote it, which did not know them
    (folder / "recipe.yaml").write_text(yaml.safe_dump(said), "utf-8")
    assert carry_out(recipe, folder, tmp_path)[0] is not None
    (folder / "state.json").write_text(json.dumps(state), "utf-8")
    chats.write_text("\n".join(chats.read_text("utf-8").splitlines()[:-1]), "utf-8")
    with pytest.raises(UsageError, match="the data or its tokenizer has changed"):
        carry_out(recipe, folder, tmp_path)


# ------------------------------------------------------------------------------------------------------ other recipes


@pytest.mark.parametrize("kind", ["prompt", "ia3", "loreft"])
def test_every_way_of_attaching_goes_through_the_recipe(
    life: tuple[Path, list[Done]], chats: Path, tmp_path: Path, kind: str
) -> None:
    words = [f"data.train.0.path={chats}", "data.validation=4", "data.context=200", f"model={life[0] / 'talk'}"]
    recipe = read(
        "sft", [*words, f"adapter.kind={kind}", "training.tokens=400", "training.steps=2", "samples.tokens=2"]
    )
    done, (preview,) = carry_out(recipe, tmp_path / "run", tmp_path)
    assert done is not None and done.before is not None and done.after is not None and done.after != done.before
    attached = adapt.load(load(life[0] / "talk" / "model", dtype="float32", device="cpu").model, tmp_path / "run")
    assert attached.adapter.kind == kind and sum(p.numel() for p in attached.parameters()) == preview.trained


@pytest.mark.parametrize("recipe, more", [("mlm", ["data.context=48"]), ("span", ["data.context=64"])])
def test_encoders_begin_from_nothing(tmp_path: Path, recipe: str, more: list[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join((RECIPES / "data" / "botchan.txt").read_text("utf-8").split("\n\n")[:60]), "utf-8")
    shape = ["architecture.layers=1", "architecture.width=32", "tokenizer.size=900", "training.tokens=512"]
    given = [f"data.train.0.path={text}", "data.train.0.split=blank-line", "data.validation=6", "training.steps=10"]
    done, (preview,) = carry_out(read(recipe, [*given, *shape, *more]), tmp_path / "run", tmp_path)
    assert done is not None and done.before is not None and done.after is not None and done.after < done.before
    model = load(done.result, device="cpu")
    assert model.tokenizer.vocab_size <= 900 and any(flag for _, flag in preview.example)


def test_labels_are_learnt_and_told_again(life: tuple[Path, list[Done]], tmp_path: Path) -> None:
    rows = [{"text": f"{'good' if i % 2 else 'bad'} {i}", "label": ["no", "yes"][i % 2]} for i in range(60)]
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    given = [f"model={life[0] / 'words'}", f"data.train.0.path={path}", "data.validation=10", "training.steps=30"]
    words = [*given, "training.rate=5e-3", "training.tokens=256", "adapter.kind=lora"]
    done, (preview,) = carry_out(read("classify", words), tmp_path / "run", tmp_path)
    assert done is not None and done.scores == {"accuracy": 1.0, "macro-F1": 1.0}
    assert [name for name, _ in label(tmp_path / "run", ["good 99", "bad 98"])] == ["yes", "no"]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists() and preview.learnt == 50
    path.write_text(json.dumps({"text": "a", "label": "only"}), "utf-8")
    with pytest.raises(DataError, match="the data has 1 labels: only"):
        carry_out(read("classify", [*given[:2], "data.validation=0"]), tmp_path / "other", tmp_path)


def test_macro_f1_is_the_mean_over_the_labels_that_occur() -> None:
    pairs = [(0, 0), (0, 1), (1, 1), (1, 1)]  # F1 of 0: 2/3; of 1: 4/5; label 2 does not occur
    assert macro_f1(pairs, 3) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_how_long_it_takes_is_told_of_each_work_by_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("hornbook.recipes.progress.time.monotonic", lambda: now[0])
    line = Line(every=0.0)
    for done, at in ((1, 0.0), (50, 5000.0), (1, 6000.0), (3, 6020.0)):
        now[0] = at
        line(done, 50, "loss 1")
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith("step 3 of 50, loss 1, 8 min left") and "left" not in said[1]


# ------------------------------------------------------------------------------------------------------ the command


def command(recipe: Path, folder: Path, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hornbook", "train", str(recipe), "-o", str(folder), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "HORNBOOK_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )


def at_step(folder: Path, step: int, running: subprocess.Popen[str]) -> None:
    """Wait until the run has a checkpoint of ``step``."""
    for _ in range(6000):
        if (folder / "checkpoints" / f"step-{step:06}").exists():
            return
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    raise AssertionError("it never came so far")


def test_a_run_that_is_killed_and_one_that_is_stopped_end_as_one_that_was_left_alone(
    life: tuple[Path, list[Done]], chats: Path, tmp_path: Path
) -> None:
    steps = ["training.steps=24", "training.save_every=1", "training.validate_every=12", "training.tokens=512"]
    recipe = sft(life, chats, *steps)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), "utf-8")
    carry_out(read(str(path)), tmp_path / "alone", tmp_path)

    running = command(path, tmp_path / "broken", tmp_path)
    at_step(tmp_path / "broken", 3, running)
    running.kill()
    running.wait()
    running = command(path, tmp_path / "broken", tmp_path)
    at_step(tmp_path / "broken", 8, running)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate()
    state = json.loads((tmp_path / "broken" / "state.json").read_text("utf-8"))
    assert running.returncode == 130 and "the same command goes on from there" in said, said
    assert state["status"] == "stopped" and state["step"] < 24
    running = command(path, tmp_path / "broken", tmp_path)
    out, said = running.communicate()
    assert running.returncode == 0, said

    names = ["adapter/adapter_model.safetensors", "samples.jsonl"]
    for name in names:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name
    found = json.loads(out)
    assert found["steps"] == 24 and found["held_out"]["after"] < found["held_out"]["before"]
    assert found["preview"]["learnt"] > 0 and found["result"].endswith("adapter")
