"""The Transformer of 2017 from scratch: it learns to reverse and to sort, by the command in docs/train.md."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

import hornbook
import hornbook.checkpoint
from hornbook.errors import StoreError, TrainingError
from hornbook.recipes.command import main, read_settings
from hornbook.recipes.seq2seq import Settings, _command, run

PAGE = (Path(__file__).parents[2] / "docs" / "train.md").read_text("utf-8")
TINY = ["vocabulary=300", "layers=1", "width=16", "heads=2", "feedforward=24", "context=64", "tokens=200", "held_out=2"]
CHINESE = ["我们今天学习。\tWe learn today.", "他们昨天学习。\tThey learnt yesterday.", "你好。\tHello."] * 2 + [
    "再见。\tBye."
]


def digits(count: int) -> list[str]:
    """Strings of 4 to 7 digits, each once, to be reversed (r) or sorted (s)."""
    random = Random(0)
    lines: dict[str, str] = {}
    while len(lines) < count:
        text = "".join(random.choices("0123456789", k=random.randint(4, 7)))
        task = random.choice("rs")
        lines[task + text] = text[::-1] if task == "r" else "".join(sorted(text))
    return [f"{source}\t{target}" for source, target in lines.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the page's command makes, and what it prints."""
    (command,) = re.findall(r"```sh\npython (.*?)\n```", PAGE)
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "pairs.tsv").write_text("\n".join(digits(12_000)), "utf-8")
    done = subprocess.run(
        [sys.executable, *shlex.split(command)], cwd=folder, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"step 1,200 of 1,200, loss 0\.\d+", done.stderr), "it says how far it is"
    return folder / "digits", done.stdout


def held_out(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "held_out.jsonl").read_text("utf-8").splitlines()]


def test_held_out_strings_are_reversed_and_sorted_exactly(trained: tuple[Path, str]) -> None:
    folder, said = trained
    print(f"\n{said.strip()}")
    rows = held_out(folder)
    assert {row["source"][0] for row in rows} == {"r", "s"} and {len(row["target"]) for row in rows} == {4, 5, 6, 7}
    right = [
        row["answer"] == (row["source"][:0:-1] if row["source"][0] == "r" else "".join(sorted(row["source"][1:])))
        for row in rows
    ]
    exact = sum(right) / len(right)
    assert len(right) == 200 and exact >= 0.99
    assert said.startswith(f"digits: {exact:.1%} of 200 held-out texts exact, 1,200 steps in ")
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [step["step"] for step in steps] == list(range(1, 1201)) and steps[-1]["loss"] < 1 < steps[0]["loss"]


def test_what_was_trained_is_a_model_for_hornbook_and_for_transformers(trained: tuple[Path, str]) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder, _ = trained
    rows = held_out(folder)[:24]
    sources = [row["source"] for row in rows]
    with hornbook.load(str(folder)) as model:
        ours = [best[0][0] for best in model.generate(sources)]
    assert ours == [row["answer"] for row in rows]
    tokenizer, reference = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert type(reference).__name__ == "MarianMTModel"
    with torch.inference_mode():
        ids = reference.generate(**tokenizer(sources, padding=True, return_tensors="pt"))
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == ours


def test_the_page_s_python_answers(
    trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(trained[0].parent)
    exec(compile(block, "docs/train.md", "exec"), {})
    assert capsys.readouterr().out == "54321\n"


def test_an_interrupted_training_keeps_what_it_has_learnt(tmp_path: Path) -> None:
    pairs, folder = tmp_path / "zh.tsv", tmp_path / "out"
    pairs.write_text("\n".join(CHINESE), "utf-8")

    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pairs, folder, read_settings(Settings, [*TINY, "steps=9"]), stop)
    assert len((folder / "metrics.jsonl").read_text("utf-8").splitlines()) == 3
    with hornbook.load(str(folder)) as model:
        assert model.tokenizer.decode(model.tokenizer.encode("他们学习。")) == "他们学习。"
        assert len(model.generate(["他们学习。"], max_tokens=3)[0]) == 1


def test_equal_seeds_make_equal_models_and_the_seed_matters(tmp_path: Path) -> None:
    pairs = tmp_path / "zh.tsv"
    pairs.write_text("\n".join(CHINESE), "utf-8")
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(3)  # what was drawn before makes no difference
        run(pairs, tmp_path / name, read_settings(Settings, [*TINY, "steps=4", f"seed={seed}"]), lambda *_: None)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    "lines, settings, code, said",
    [
        ([*CHINESE, "没有制表符"], [], 1, "line 8 has no tab: '没有制表符'"),
        (CHINESE, ["held_out=7"], 1, "7 pairs with 7 held out leave none"),
        ([*CHINESE, "长" * 40 + "\tlong"], [], 1, "line 8 has 121 tokens, the model reads 64 (1 such lines)"),
        (CHINESE, ["tokens=1"], 1, "a batch takes 1"),
        (CHINESE, ["layer=2"], 2, "there is no setting 'layer'"),
        (CHINESE, ["steps=many"], 2, "steps=many: "),
        (CHINESE, ["dropout=1"], 2, "dropout=1: "),
        (CHINESE, ["steps"], 2, "'steps' is not a setting"),
        (CHINESE, ["heads=3"], 2, "width of 16 cannot be divided among 3 heads"),
        (CHINESE, ["seed=-1"], 2, "seed=-1: "),
        (CHINESE, [f"seed={2**63}"], 2, f"seed={2**63}: "),
        (CHINESE, ["vocabulary=10000001"], 2, "vocabulary=10000001: "),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str], settings: list[str], code: int, said: str
) -> None:
    (tmp_path / "a.tsv").write_text("\n".join(lines), "utf-8")
    keys = {word.partition("=")[0] for word in settings}
    given = [word for word in [*TINY, "steps=2"] if word.partition("=")[0] not in keys]
    words = [str(tmp_path / "a.tsv"), "-o", str(tmp_path / "out"), *given, *settings]
    assert main("seq2seq", Settings, _command, words) == code
    heard = capsys.readouterr()
    assert said in heard.err and heard.out == ""
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_training_that_diverges_keeps_the_last_good_weights(tmp_path: Path) -> None:
    pairs, folder = tmp_path / "zh.tsv", tmp_path / "out"
    pairs.write_text("\n".join(CHINESE), "utf-8")
    with pytest.raises(TrainingError, match="has a loss of "):
        run(pairs, folder, read_settings(Settings, [*TINY, "rate=1e30", "warmup=1", "steps=50"]), lambda *_: None)
    assert (folder / "metrics.jsonl").read_text("utf-8").count("\n") >= 1
    weights = hornbook.checkpoint.load(folder, device="cpu").model.parameters()
    assert all(bool(weight.isfinite().all()) for weight in weights)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
def test_a_log_on_a_full_disk_is_said_and_what_was_learnt_kept(tmp_path: Path) -> None:
    pairs, folder = tmp_path / "zh.tsv", tmp_path / "out"
    pairs.write_text("\n".join(CHINESE), "utf-8")
    folder.mkdir()
    (folder / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"metrics\.jsonl cannot be written: No space left"):
        run(pairs, folder, read_settings(Settings, [*TINY, "steps=3"]), lambda *_: None)
    assert (folder / "config.json").exists() and (folder / "model.safetensors").exists()


@pytest.mark.parametrize("name, kept", [("metrics.jsonl", False), ("held_out.jsonl", True)])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, name: str, kept: bool) -> None:
    pairs, folder = tmp_path / "zh.tsv", tmp_path / "out"
    pairs.write_text("\n".join(CHINESE), "utf-8")
    (folder / name).mkdir(parents=True)
    with pytest.raises(StoreError, match=f"{name} cannot be written: Is a directory"):
        run(pairs, folder, read_settings(Settings, [*TINY, "steps=1"]), lambda *_: None)
    assert (folder / "config.json").exists() == kept, "without a step there is nothing to keep"


def test_a_target_as_long_as_the_context_can_be_answered(tmp_path: Path) -> None:
    pairs, folder = tmp_path / "a.tsv", tmp_path / "out"
    pairs.write_text("a\txyzw\nb\txyzw\nc\txyzw", "utf-8")  # 4 bytes and the end: 5 tokens
    settings = "vocabulary=259 context=5 width=16 layers=1 heads=2 feedforward=24 tokens=60 held_out=1 beams=2"
    made = read_settings(Settings, [*settings.split(), "steps=150", "warmup=20", "rate=0.01", "dropout=0"])
    assert run(pairs, folder, made, lambda *_: None).exact == 1.0


def test_a_folder_with_a_model_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main("seq2seq", Settings, _command, ["none.tsv", "-o", str(tmp_path)]) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
