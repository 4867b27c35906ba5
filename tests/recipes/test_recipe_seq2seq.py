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
from hornbook.errors import HornbookError, StoreError, TrainingError
from hornbook.recipes.outcome import Outcome
from hornbook.recipes.reading import read
from hornbook.recipes.run import run
from hornbook.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "train.md").read_text("utf-8")
TINY = [
    *("vocabulary=300", "layers=1", "width=16", "heads=2", "feedforward=24", "data.context=64", "data.validation=2"),
    *("training.tokens=200", "training.warmup=1", "data.train.0.shape=pair"),
]
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


def train(pairs: Path, folder: Path, *words: str) -> Outcome | None:
    """Run the recipe on a file with the tiny settings, and those in ``words`` above them."""
    said = dict(word.split("=", 1) for word in [*TINY, *words])
    recipe = read("seq2seq", [f"data.train.0.path={pairs}", *(f"{key}={value}" for key, value in said.items())])
    return run(
        recipe, folder, settings=Settings(), show=lambda preview: None, report=lambda *_: None, say=lambda text: None
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the page's command makes, and what it says."""
    (command,) = re.findall(r"```sh\nhornbook (train seq2seq .*?)\n```", PAGE, re.DOTALL)
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "pairs.tsv").write_text("\n".join(digits(12_000)), "utf-8")
    words = shlex.split(command.replace("\\\n", " "))
    done = subprocess.run(
        [sys.executable, "-m", "hornbook", *words], cwd=folder, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"step 1,200 of 1,200, loss 0\.\d+", done.stderr), "it says how far it is"
    return folder / "digits", done.stderr


def held_out(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "held_out.jsonl").read_text("utf-8").splitlines()]


def test_held_out_strings_are_reversed_and_sorted_exactly(trained: tuple[Path, str]) -> None:
    folder, said = trained
    rows = held_out(folder)
    assert {row["source"][0] for row in rows} == {"r", "s"} and {len(row["target"]) for row in rows} == {4, 5, 6, 7}
    right = [
        row["answer"] == (row["source"][:0:-1] if row["source"][0] == "r" else "".join(sorted(row["source"][1:])))
        for row in rows
    ]
    exact = sum(right) / len(right)
    print(f"\n{exact:.1%} of {len(right)} held-out texts exact")
    assert len(right) == 200 and exact >= 0.99
    assert f"exact answers {exact:.4f}" in said
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [step["step"] for step in steps] == list(range(1, 1201)) and steps[-1]["loss"] < 1 < steps[0]["loss"]


def test_what_was_trained_is_a_model_for_hornbook_and_for_transformers(trained: tuple[Path, str]) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder, _ = trained
    rows = held_out(folder)[:24]
    sources = [row["source"] for row in rows]
    with hornbook.load(str(folder)) as model:
        ours = [best[0][0] for best in model.generate(sources)]
    assert ours == [row["answer"] for row in rows]
    tokenizer, reference = (
        AutoTokenizer.from_pretrained(folder / "model"),
        AutoModelForSeq2SeqLM.from_pretrained(folder / "model"),
    )
    assert type(reference).__name__ == "MarianMTModel"
    with torch.inference_mode():
        ids = reference.generate(**tokenizer(sources, padding=True, return_tensors="pt"))
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == ours


def test_the_page_s_python_answers(
    trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(import hornbook\n.*?54321.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(trained[0].parent)
    exec(compile(block, "docs/train.md", "exec"), {})
    assert capsys.readouterr().out == "54321\n"


def test_equal_seeds_make_equal_models_and_the_seed_matters(tmp_path: Path) -> None:
    pairs = tmp_path / "zh.tsv"
    pairs.write_text("\n".join(CHINESE), "utf-8")
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(3)  # what was drawn before makes no difference
        train(pairs, tmp_path / name, "training.steps=4", f"training.seed={seed}")
        weights.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
    with hornbook.load(str(tmp_path / "a")) as model:
        assert model.tokenizer.decode(model.tokenizer.encode("他们学习。")) == "他们学习。"


@pytest.mark.parametrize(
    "lines, settings, said",
    [
        ([*CHINESE, "没有制表符"], [], "line 8: it has 1 column, not 2: '没有制表符'"),
        (CHINESE, ["data.validation=7"], "7 examples with 7 held out leave none"),
        ([*CHINESE, "长" * 40 + "\tlong"], ["vocabulary=259"], "line 8: an example has 121 tokens, the context is 64"),
        (CHINESE, ["training.tokens=2"], "a micro-batch takes 2"),
        (CHINESE, ["layer=2"], "there is no setting 'layer'"),
        (CHINESE, ["training.steps=many"], "training.steps: "),
        (CHINESE, ["dropout=1"], "dropout: "),
        (CHINESE, ["heads=3"], "width of 16 cannot be divided among 3 heads"),
        (CHINESE, ["vocabulary=10000001"], "vocabulary: "),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_line(
    tmp_path: Path, lines: list[str], settings: list[str], said: str
) -> None:
    (tmp_path / "a.tsv").write_text("\n".join(lines), "utf-8")
    with pytest.raises(HornbookError, match=re.escape(said)):
        train(tmp_path / "a.tsv", tmp_path / "out", "training.steps=2", *settings)
    assert not (tmp_path / "out" / "model").exists()


def test_a_training_that_diverges_keeps_the_last_good_weights(tmp_path: Path) -> None:
    pairs, folder = tmp_path / "zh.tsv", tmp_path / "out"
    pairs.write_text("\n".join(CHINESE), "utf-8")
    with pytest.raises(TrainingError, match="has a loss of "):
        train(pairs, folder, "training.rate=1e30", "training.steps=50", "training.save_every=1")
    assert list((folder / "checkpoints").glob("step-*")) and not (folder / "model").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
def test_a_log_on_a_full_disk_is_said(tmp_path: Path) -> None:
    pairs, folder = tmp_path / "zh.tsv", tmp_path / "out"
    pairs.write_text("\n".join(CHINESE), "utf-8")
    folder.mkdir()
    (folder / "held_out.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"held_out\.jsonl cannot be written: No space left"):
        train(pairs, folder, "training.steps=3")
    assert (folder / "model" / "model.safetensors").exists(), "what was learnt is kept"


def test_a_target_as_long_as_the_context_can_be_answered(tmp_path: Path) -> None:
    pairs, folder = tmp_path / "a.tsv", tmp_path / "out"
    pairs.write_text("a\txyzw\nb\txyzw\nc\txyzw", "utf-8")  # 4 bytes and the end: 5 tokens
    settings = "vocabulary=259 data.context=5 training.tokens=60 data.validation=1 beams=2 dropout=0"
    learning = "training.steps=150 training.warmup=20 training.rate=0.01"
    outcome = train(pairs, folder, *settings.split(), *learning.split())
    assert outcome is not None and outcome.scores["exact answers"] == 1.0
