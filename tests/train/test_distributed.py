"""Many processes train what one would: shared out by rows, by heads, with an adapter, killed, and with others going on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from team_training import CONFIG, MICRO, STEPS, WAYS, a_recipe, a_run, fresh, steps_of

from hornbook.errors import TrainingError, UsageError
from hornbook.train import distributed
from hornbook.train.distributed import Ranks, share_out
from hornbook.train.sharded import InParts
from hornbook.train.shards import _check_heads
from hornbook.train.team import ALONE

PROGRAM = Path(__file__).with_name("team_training.py")


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def start(count: int, folder: Path, what: str) -> list[tuple[int, str]]:
    """Do what torchrun does, without the seconds that it takes; -> how each process ended, and what it said."""
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "NEXT_PORT": free_port(),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), what], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """What one process ends with: weights and lines."""
    folder = tmp_path_factory.mktemp("alone")
    model = a_run(folder, ALONE)
    return {name: weight.detach() for name, weight in model.named_parameters()}, lines(folder)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """What two processes leave behind, and how they ended."""
    folder = tmp_path_factory.mktemp("together")
    return folder, start(2, folder, "together")


@pytest.fixture(scope="module")
def together(ended: tuple[Path, list[tuple[int, str]]]) -> Path:
    folder, processes = ended
    assert all((folder / name).is_dir() for name in ("end", *WAYS)), processes[1][1]
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(folder: Path, weights: dict[str, torch.Tensor], tolerance: float = 1e-5, file: str = "weights") -> None:
    found = {name: weight.float() for name, weight in load_file(folder / f"{file}.safetensors").items()}
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


def test_two_processes_train_what_one_does(together: Path, alone: Any) -> None:
    weights, expected = alone
    same(together / "end", weights)
    found = lines(together / "run")
    assert len(found) == len(expected) == STEPS + 3  # and three validations
    for line, wanted in zip(found, expected, strict=True):
        if "validation" in wanted:
            line, wanted = line["validation"], wanted["validation"]
        assert line["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
        assert line["labels"] == wanted["labels"] and line.get("tokens") == wanted.get("tokens")
        if "gradient_norm" in line:
            assert line["gradient_norm"] == pytest.approx(wanted["gradient_norm"], rel=1e-4)


def test_a_recipe_under_torchrun_is_the_same_recipe(together: Path) -> None:
    a_recipe(together, "recipe-alone")
    found, expected = lines(together / "recipe"), lines(together / "recipe-alone")
    assert [line.keys() for line in found] == [line.keys() for line in expected] and len(found) > 3
    for line, wanted in zip(found, expected, strict=True):
        if "loss" in wanted:
            assert (line["labels"], line["tokens"]) == (wanted["labels"], wanted["tokens"])
            assert line["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
    same(
        together / "recipe" / "model",
        load_file(together / "recipe-alone" / "model" / "model.safetensors"),
        file="model",
    )
    asked = [(folder / "samples.jsonl").read_text() for folder in (together / "recipe", together / "recipe-alone")]
    assert asked[0] == asked[1] and asked[0].count("\n") == 2


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_share_a_model_out_trains_the_same(way: str, together: Path) -> None:
    options = {name: value for name, value in WAYS[way].items() if name not in ("precision", "base")}
    model, steps = steps_of(team=ALONE, **options)
    close = 0.02 if "bfloat16" in way else 1e-5
    same(together / way, {name: weight.detach() for name, weight in model.named_parameters()}, close)
    for said, step in zip(json.loads((together / way / "steps.json").read_text()), steps, strict=True):
        assert (said["labels"], said["tokens"]) == (step.labels, step.tokens)
        assert said["loss"] == pytest.approx(step.loss, abs=close)


def test_one_process_goes_on_where_two_stopped(together: Path, alone: Any, tmp_path: Path) -> None:
    shutil.copytree(together / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000006")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000008")
    model = a_run(tmp_path / "run", ALONE)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), alone[0][name], rtol=0, atol=1e-5)
    assert [line["step"] for line in lines(tmp_path / "run")] == [line["step"] for line in alone[1]]


def test_three_go_on_where_one_stopped_and_again_after_one_of_them_was_killed(alone: Any, tmp_path: Path) -> None:
    a_run(tmp_path / "run", ALONE, stop=2)
    said = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "--max-restarts", "1",
         "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", str(PROGRAM), str(tmp_path), "resume"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert "exitcode: -9" in said.stderr and "has lost another one" in said.stderr
    same(tmp_path / "end", alone[0])
    found, expected = (
        {line["step"]: line["loss"] for line in run if "loss" in line} for run in (lines(tmp_path / "run"), alone[1])
    )
    assert found == pytest.approx(expected, abs=1e-5) and len(found) == STEPS
    assert json.loads((tmp_path / "run" / "state.json").read_text())["status"] == "finished"


def test_what_goes_wrong_in_one_process_ends_all_and_is_told_once(ended: tuple[Path, list[tuple[int, str]]]) -> None:
    (first, quiet), (second, loud) = ended[1]
    assert first and second
    assert loud.count("process 1 of 2: line 7 has no text") == 1
    assert "Traceback" not in quiet and "line 7" not in quiet


# ------------------------------------------------------------------------------------------------ without a process


class Third(Ranks):
    """Process 2 of 3, as far as data goes."""

    def __init__(self) -> None:
        self.rank, self.parts, self.size, self.first = 2, 3, 3, False


def test_a_step_that_cannot_be_shared_out_evenly_is_refused() -> None:
    assert share_out(MICRO, Third()) == 2 and share_out(1, ALONE) == 1
    with pytest.raises(UsageError, match="1 micro-batch cannot be shared out to 3 processes"):
        share_out(1, Third())


def test_what_cannot_be_cut_is_refused_by_name() -> None:
    from dataclasses import replace

    for changed, said in (
        ({"heads": 6, "kv_heads": 3}, "key heads, 3, cannot be cut into 2"),
        ({"qk_norm": "head"}, "norms of queries and keys"),
        ({"alibi": 1.0}, "biases on distances"),
    ):
        with pytest.raises(UsageError, match=said):
            _check_heads(replace(CONFIG, **changed), 2)
    parameters = dict(fresh(CONFIG).named_parameters())
    with pytest.raises(UsageError, match="states of Adagrad cannot be shared out to 3"):
        InParts(Path(), parameters, torch.optim.Adagrad(parameters.values()), Third())


def test_outside_of_torchrun_there_is_a_team_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.joined(device="cpu") as (team, device):
        assert team is ALONE and device.type == "cpu"
    with (
        pytest.raises(UsageError, match="1 process cannot be cut into groups of 2"),
        distributed.joined(device="cpu", tensor=2),
    ):
        pass


def test_a_checkpoint_of_another_training_is_refused(together: Path) -> None:
    parameters = {name: weight for name, weight in fresh(CONFIG).named_parameters() if "norm" not in name}
    with pytest.raises(TrainingError, match="norm.weight is .* there and absent here"):
        InParts(together / "run" / "checkpoints", parameters, torch.optim.AdamW(parameters.values()), ALONE).load(print)
    whole = dict(fresh(CONFIG).named_parameters())
    with pytest.raises(TrainingError, match="its optimizer is AdamW, not SGD"):
        InParts(together / "run" / "checkpoints", whole, torch.optim.SGD(whole.values()), ALONE).load(print)
