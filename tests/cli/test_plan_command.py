"""plan, and what show draws, as a person runs them: the figures, the verdict and its remedies, the exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hornbook.checkpoint import machine
from hornbook.cli import main
from hornbook.kernels.library import library

Run = Callable[..., tuple[int, str, str]]
MB = 1_000_000


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("HORNBOOK_DEVICE", "cpu")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """``memory(n)``: this machine has n bytes to give, or does not say."""
    return lambda free: monkeypatch.setattr(machine, "available", lambda: free)


def figures(run: Run, *arguments: str) -> dict[str, Any]:
    code, out, err = run("plan", *arguments, "--json")
    assert (code, err) == (0, "")
    data: dict[str, Any] = json.loads(out)
    return data


@pytest.mark.parametrize("native", [True, False])
def test_the_figures_add_up(
    run: Run, memory: Any, tiny_llm_path: Path, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native and library() is None:
        pytest.skip("there are no native kernels here")
    monkeypatch.setenv("HORNBOOK_NATIVE", str(native))
    memory(1000 * MB)
    said = figures(run, str(tiny_llm_path), "--batch", "2")
    moment = max(said["moments"], key=lambda moment: moment["total"])
    weights = sum(file.stat().st_size for file in tiny_llm_path.glob("*.safetensors"))
    assert moment["weights"] == 4 * said["parameters"] == pytest.approx(weights, rel=0.05)
    # keys and values, layers, rows, key heads, tokens, width, bytes; natively in large pages of 2 MB, of which it fills one
    assert moment["cache"] == (2**21 if native else 2 * 2 * 2 * 2 * 256 * 8 * 4)
    assert moment["total"] == sum(size for part, size in moment.items() if part not in ("name", "total"))
    assert said["peak"] == moment["total"] + said["program"]
    expected = {"context": 256, "batch": 2, "dtype": "float32", "train": None, "optimizer": None, "rank": None}
    assert said.items() >= (expected | {"trained": 0, "free": 1000 * MB, "fits": True, "remedies": []}).items()
    assert said["executor"].startswith("native ") if native else said["executor"] == "torch cpu float32"
    assert (said["executor_reason"], said["at_once"]) == (None, 2)
    code, out, _ = run("plan", str(tiny_llm_path), "--batch", "70")
    assert code == 0 and f"run · {said['executor']} · 70 x 256 tokens" in out
    assert "64 of 70 run side by side, and the others wait for their turn" in out
    assert all(len(line) <= 80 for line in out.replace(str(tiny_llm_path), "").splitlines())


@pytest.mark.parametrize("way", ["full", "lora", "qlora"])
def test_training_names_the_moment_of_its_peak(run: Run, memory: Any, tiny_llm_path: Path, way: str) -> None:
    memory(1000 * MB)
    said = figures(run, str(tiny_llm_path), "--train", way, "--rank", "4", "--optimizer", "adamw8bit")
    assert said["peak"] == max(moment["total"] for moment in said["moments"]) + said["program"]
    trained = said["parameters"] if way == "full" else 2 * 4 * (3 * (32 + 48) + 2 * (32 + 32) + 2 * (32 + 16))
    assert (said["trained"], said["rank"]) == (trained, None if way == "full" else 4)
    code, out, _ = run("plan", str(tiny_llm_path), "--train", way)
    worst = max(said["moments"], key=lambda moment: moment["total"])["name"]
    assert code == 0 and f"train {way} · adamw" in out and f"when {worst}" in out and "fits: 1.0 GB are free" in out
    assert all(len(line) <= 80 for line in out.replace(str(tiny_llm_path), "").splitlines())


def test_what_does_not_fit_says_what_would(run: Run, memory: Any, tiny_llm_path: Path) -> None:
    arguments = (str(tiny_llm_path), "--train", "full", "--batch", "64")
    needs = figures(run, *arguments)
    memory(needs["peak"] - 1)
    said = figures(run, *arguments)
    assert said["fits"] is False
    changes = {key: value for remedy in said["remedies"] for key, value in remedy.items() if key != "text"}
    assert set(changes) - {"train"} == {
        "context",
        "batch",
        "dtype",
    }  # where torch computes, adapters keep more than they save
    for name, value in changes.items():  # each of them alone is enough, and of the numbers one more is not
        other = (str(tiny_llm_path), "--train", "full", f"--{name}", str(value))
        more = () if name == "batch" else ("--batch", "64")
        assert figures(run, *other, *more)["fits"] is True, name
    assert figures(run, *arguments, "--context", str(changes["context"] + 1))["fits"] is False
    code, out, _ = run("plan", *arguments)
    assert code == 0 and "does not fit: " in out
    for remedy in said["remedies"]:
        assert f"    {remedy['text']}" in out.splitlines()


def test_where_nothing_fits_a_smaller_model_is_named_and_where_nothing_is_known_nothing_is_said(
    run: Run, memory: Any, tiny_llm_path: Path
) -> None:
    memory(1 * MB)
    code, out, _ = run("plan", str(tiny_llm_path))
    assert code == 0 and "take a smaller model" in out and all(len(line) <= 80 for line in out.splitlines()[1:])
    memory(None)
    assert figures(run, str(tiny_llm_path))["fits"] is None
    assert "fit" not in "".join(run("plan", str(tiny_llm_path))[1].splitlines()[1:])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--train", "half"], "'half' is no way to train"),
        (["--optimizer", "sgd"], "'sgd' is no optimizer"),
        (["--dtype", "int8"], "int8 is not a dtype"),
        (["--context", "257"], "the context is 257 tokens, the model's is 256"),
        (["--batch", "0"], "the batch is 0"),
        (["--rank", "many"], "Invalid value for '--rank'"),
    ],
)
def test_wrong_options_end_in_two(run: Run, tiny_llm_path: Path, options: list[str], says: str) -> None:
    code, out, err = run("plan", str(tiny_llm_path), *options)
    assert (code, out) == (2, "") and says in err


@pytest.mark.parametrize("verb", ["plan", "show"])
def test_a_model_that_is_not_there_ends_in_two(run: Run, verb: str) -> None:
    code, out, err = run(verb, "absent")
    assert (code, out) == (2, "") and "no model is named 'absent'" in err and len(err.splitlines()) == 2


# ------------------------------------------------------------------------------------------------------------- show


def test_show_draws_the_model_and_counts_it(run: Run, tiny_llm_path: Path) -> None:
    code, out, _ = run("show", str(tiny_llm_path))
    assert code == 0 and all(len(line) <= 80 for line in out.replace(str(tiny_llm_path), "").splitlines())
    for said in ("2 x block", "4 heads of 8, 2 key/value heads, causal", "gated SiLU, 32 > 48 > 32", "RMSNorm"):
        assert said in out
    built = json.loads(run("show", str(tiny_llm_path), "--json")[1])["anatomy"]
    assert (built["family"], built["context_length"]) == ("llama", 256)
    total = built["parameters"]["total"]
    assert total == sum(part["total"] for part in built["parts"].values())
    assert built["memory"]["float32"] == {"weights": 4 * total, "cache_per_1000_tokens": 2 * 2 * 1000 * 2 * 8 * 4}


def test_an_unknown_architecture_is_shown_with_its_facts_and_the_nearest_known(run: Run, tmp_path: Path) -> None:
    said = {"model_type": "llamba", "architectures": ["LlambaForCausalLM"], "max_position_embeddings": 512}
    (tmp_path / "config.json").write_text(json.dumps(said))
    save_file({"x": torch.ones(3, 4)}, tmp_path / "model.safetensors")
    code, out, _ = run("show", str(tmp_path))
    assert code == 0
    for fact in ("architecture   llamba", "parameters     12", "context        512 tokens", "Known: llama, "):
        assert fact in out
    code, out, err = run("plan", str(tmp_path))
    assert (code, out) == (1, "") and "'llamba' is not known\n  Known: llama, " in err
