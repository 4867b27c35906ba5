"""A program that torchrun, or a test in its place, starts several times: the processes train tiny models together.

team_training.py FOLDER together    every way to share out a model, one after another, each into a folder of its own;
                                    first a recipe; in the end process 1 finds something wrong with its data
team_training.py FOLDER resume      go on in FOLDER/run; process 1 is killed once, before step 6
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_training import Draws, held_out
from torch.distributed.device_mesh import init_device_mesh

from hornbook.adapt import LoRA
from hornbook.data.feed import Feed
from hornbook.errors import DataError
from hornbook.model.config import LayerKind, ModelConfig, Relative, Rotary
from hornbook.model.transformer import Transformer
from hornbook.recipes.kinds import Pretrain, settled
from hornbook.recipes.run import run
from hornbook.settings import Settings
from hornbook.train import blocks, distributed, schedule
from hornbook.train.average import MovingAverage
from hornbook.train.batch import Batch, translation
from hornbook.train.distributed import Ranks
from hornbook.train.fit import fit
from hornbook.train.folder import RunFolder
from hornbook.train.initialise import initialise
from hornbook.train.loop import Step, train
from hornbook.train.losses import causal_lm, seq2seq
from hornbook.train.team import Team

STEPS, MICRO = 8, 6  # six micro-batches a step: 1, 2, 3 or 6 processes can share them
CONFIG = ModelConfig(
    vocab_size=31, layers=2, width=18, heads=4, kv_heads=2, head_width=4, feedforward_width=26, context_length=32,
    tied_head=True, pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip
ENCODER = replace(
    CONFIG, causal=False, language_head=False, relative=Relative(8, 16), tied_head=False, pattern=(LayerKind(),)
)
BOTH = replace(CONFIG, encoder=ENCODER, shared_tokens=True, relative=Relative(8, 16), pattern=(LayerKind(),))


class Share(Draws):
    """Every so-manieth batch; the position is that of all."""

    def __init__(self, rank: int, parts: int) -> None:
        super().__init__()
        self.rank, self.parts = rank, parts

    def __iter__(self) -> Any:
        while True:
            batch = next(iter(Draws(self.at + self.rank)))
            self.at += self.parts
            yield batch


def validation(rows: list[int], epoch: int) -> Batch:
    return [*held_out(), next(iter(Draws(77)))][rows[0]]


def fresh(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    return initialise(Transformer(config), std=0.2, generator=torch.Generator().manual_seed(1))


def a_run(folder: Path, team: Team, *, dies: bool = False, stop: int = STEPS) -> Transformer:
    """Train CONFIG's model in a run's folder, or go on there."""
    model = fresh(CONFIG)
    named = dict(model.named_parameters())
    shards = distributed.shared_out(model, team)
    trained = named if shards is None else shards.trained(named)
    optimizer = torch.optim.AdamW(trained.values(), lr=0.003, eps=1e-4)
    rank, parts = distributed.place(team)

    def perish(step: Step) -> None:
        if dies and step.step == 5 and rank == 1 and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
            os.kill(os.getpid(), signal.SIGKILL)

    run = RunFolder(folder)
    with run if team.first else nullcontext():
        if team.first:
            run.begin({"recipe": "tiny"}, steps=STEPS)
        fit(
            model, Share(rank, parts), causal_lm(), optimizer,
            folder=run, checkpoints=distributed.checkpoints(run.checkpoints, trained, optimizer, team), team=team, steps=stop,
            accumulate=distributed.share_out(MICRO, team), clip=0.5, schedule=schedule.cosine(STEPS, warmup=2),
            average=MovingAverage(trained, decay=0.5), save_every=2, keep=9, on_step=[perish],
            validate=Feed(lambda epoch: [[0], [1], [2]], validation, rank=rank, world=parts).once, validate_every=4,
        )  # fmt: skip
        if shards is not None:
            shards.gather()
        if team.first:
            run.finish()
    return model


def steps_of(
    config: ModelConfig,
    team: Team,
    *,
    lora: bool = False,
    recompute: bool = False,
    base: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[Transformer, list[Step]]:
    """Three steps of a model, shared out as ``options`` say."""
    model = fresh(config).to(base)
    named = dict(model.named_parameters())
    if lora:
        attached = LoRA(rank=4).attach(model, generator=torch.Generator().manual_seed(2))
        named = dict(attached.named_parameters())
    shards = distributed.shared_out(model, team, **options)
    trained = named if shards is None else shards.trained(named)
    rank, parts = distributed.place(team)
    pairs = [([*range(2, 3 + i % 5)], [*range(5, 8 + i % 7)]) for i in range(12 * MICRO)]
    batches: list[Batch] = [translation(pairs[i : i + 3], start=0, padding=1) for i in range(0, 9 * MICRO, 3)]
    if config.encoder is None:
        source = iter(Draws())
        batches = [next(source) for _ in range(3 * MICRO)]
    with blocks.recomputed(model) if recompute else nullcontext():
        done = train(
            model, batches[rank::parts], causal_lm() if config.encoder is None else seq2seq(),
            torch.optim.AdamW(trained.values(), lr=0.003, eps=1e-4), steps=3, accumulate=distributed.share_out(MICRO, team), clip=0.5, team=team,
        )  # fmt: skip
    if shards is not None:
        shards.gather()
    return model, done.steps


WAYS: dict[str, dict[str, Any]] = {
    "tensor": {"config": CONFIG},
    "lora": {"config": CONFIG, "lora": True},
    "encoder": {"config": BOTH},
    "recomputed": {"config": CONFIG, "recompute": True},
    "bfloat16": {"config": CONFIG, "precision": "bfloat16"},
    "bfloat16 base": {"config": CONFIG, "precision": "bfloat16", "lora": True, "base": torch.bfloat16},
}


def keep(folder: Path, model: Transformer, steps: list[Step]) -> None:
    folder.mkdir()
    weights = {name: weight.detach().contiguous() for name, weight in model.named_parameters()}
    save_file(weights, folder / "weights.safetensors")
    said = [
        {"loss": step.loss, "norm": step.gradient_norm, "labels": step.labels, "tokens": step.tokens} for step in steps
    ]
    (folder / "steps.json").write_text(json.dumps(said))


def a_recipe(folder: Path, name: str) -> None:
    """Pre-train by a recipe, on whatever processes there are."""
    text = folder / "text.txt"
    if not text.exists() and os.environ.get("RANK", "0") == "0":
        text.write_text("\n\n".join(f"{i} and {i * 7 % 11} make {i + i * 7 % 11}." for i in range(60)))
    training = {"steps": 3, "tokens": 64, "accumulate": 2, "rate": 0.001, "device": "cpu"}
    recipe = Pretrain.model_validate(
        {
            "recipe": "pretrain",
            "data": {"train": [{"path": str(text), "split": "blank-line"}], "context": 16, "validation": 5},
            "training": training, "samples": {"ask": ["1 and"], "prompts": 0, "tokens": 3}, "tokenizer": {"size": 300},
        }
    )  # fmt: skip
    run(
        settled(recipe), folder / name, settings=Settings.load(), show=lambda preview: None, report=lambda *said: None,
        say=lambda said: None,
    )  # fmt: skip


def main(folder: Path, what: str) -> None:
    torch.set_num_threads(1)
    if what == "together":
        a_recipe(folder, "recipe")
        os.environ["MASTER_PORT"] = os.environ["NEXT_PORT"]  # of the first meeting something may still be there
    with distributed.joined(device="cpu") as (team, device):
        assert isinstance(team, Ranks)
        if what == "resume":
            model = a_run(folder / "run", team, dies=True)
            if team.first:
                keep(folder / "end", model, [])
        else:
            model = a_run(folder / "run", team)
            if team.first:
                keep(folder / "end", model, [])
            across = Ranks(init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor")), device)
            for name, options in WAYS.items():
                model, steps = steps_of(team=across if name == "tensor" else team, **options)
                if team.first:
                    keep(folder / name, model, steps)
            if not team.first:
                raise DataError("line 7 has no text", "Mend it.")
            team.sum({"labels": 1.0})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
