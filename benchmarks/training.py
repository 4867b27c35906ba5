"""The bars of training: speed and memory beside TRL, PEFT and transformers, each program a process of its own, in turns.

    python benchmarks/training.py [--rounds 3] [--only lora,full,memory,characters] [--steps 6] [--work FOLDER] [--write]

lora        SFT of SmolLM2-135M on dolly_hhrlhf_small: rank 16 on every linear map, rows of at most 512 tokens, 2,048 tokens
            a step, float32, AdamW. Real tokens a second; the peer is TRL's SFTTrainer with its own packing.
full        all weights, four dense rows of 512 tokens a step (wikitext2_valid). The peer is transformers' Trainer.
memory      LoRA on the same dense rows; peak resident memory of the process. The peer is transformers' Trainer with PEFT.
characters  tinyshakespeare by characters: 4 layers, 4 heads, width 128, 64 characters, batches of 12, 2,000 steps. The peer
            is transformers' GPT-2 in a plain loop with the same batches, optimizer and schedule. Both are asked for the loss
            of the last tenth, which neither has seen.

A step's time is taken from the end of the first step to the end of the last. --write puts the table into
docs/results/training-speed.md. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HORNBOOK_DATA", ROOT.parent / "shared" / "data"))
PAGE = ROOT / "docs" / "results" / "training-speed.md"
BEGIN, END = "<!-- training: begin, by benchmarks/training.py -->", "<!-- training: end -->"
ROW, STEP_TOKENS, RANK, RATE = 512, 2048, 16, 2e-4
LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12


# ---------------------------------------------------------------------------------------------------------- what is learnt


def conversations() -> list[dict[str, str]]:
    with gzip.open(DATA / "instructions" / "dolly_hhrlhf_small.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def dense_rows(folder: Path, count: int) -> list[list[list[int]]]:
    """``count`` steps of four rows of 512 tokens."""
    from hornbook.text.tokenizer import Tokenizer

    with gzip.open(DATA / "lm_text" / "wikitext2_valid.txt.gz", "rt", encoding="utf-8") as file:
        ids = Tokenizer.from_folder(folder).encode(file.read(), add_special=False)
    rows = [ids[at : at + ROW] for at in range(0, 4 * count * ROW, ROW)]
    return [rows[at : at + 4] for at in range(0, len(rows), 4)]


def characters() -> tuple[list[int], list[int], int]:
    """The text as numbers: the first nine tenths, the last tenth, and how many different ones there are."""
    with gzip.open(DATA / "lm_text" / "tinyshakespeare.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read()
    number = {char: i for i, char in enumerate(sorted(set(text)))}
    ids = [number[char] for char in text]
    cut = len(ids) * 9 // 10
    return ids[:cut], ids[cut:], len(number)


class Clock:
    """Seconds and tokens from the end of the first step on."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tokens: list[int] = []

    def result(self, **more: Any) -> dict[str, Any]:
        seconds, tokens = self.ends[-1] - self.ends[0], sum(self.tokens[1 : len(self.ends)])
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"seconds": seconds, "tokens": tokens, "rate": tokens / seconds, "memory": memory, **more}


# -------------------------------------------------------------------------------------------------------------------- ours


def _ours(folder: Path, batches: Iterator[Any], steps: int, *, lora: bool) -> dict[str, Any]:
    import hornbook.adapt
    from hornbook.adapt.lora import LoRA
    from hornbook.checkpoint.loading import load
    from hornbook.train import losses, optim
    from hornbook.train.allocator import keep_freed_memory
    from hornbook.train.loop import train

    keep_freed_memory()
    model = load(folder, dtype="float32", device="cpu").model
    named = dict(model.named_parameters())
    if lora:
        named = dict(hornbook.adapt.attach(model, LoRA(rank=RANK, alpha=2 * RANK)).named_parameters())
    optimizer = optim.make("adamw", named, rate=RATE)
    clock, losses_seen = Clock(), []

    def note(step: Any) -> None:
        clock.ends.append(time.perf_counter())
        clock.tokens.append(step.tokens)
        losses_seen.append(step.loss)

    train(model, batches, losses.causal_lm(), optimizer, steps=steps, clip=1.0, on_step=[note])
    return clock.result(losses=losses_seen)


def ours_lora(work: Path, steps: int) -> dict[str, Any]:
    from hornbook.data import encode, feed
    from hornbook.data.read import Source, read
    from hornbook.data.table import Table

    folder = work / "smollm2"
    encoder = encode.chat(_template(folder), ROW)
    source = Source(str(DATA / "instructions" / "dolly_hhrlhf_small.jsonl.gz"))
    rows = encoder.many(read([source]))
    table = Table.write(work / "table", rows, fingerprint="dolly", account=encoder.account, vocab_size=1 << 16)
    return _ours(folder, feed.packed(table, tokens=STEP_TOKENS, seed=0), steps, lora=True)


def _template(folder: Path) -> Any:
    from hornbook.text.chat import ChatTemplate
    from hornbook.text.tokenizer import Tokenizer

    return ChatTemplate.from_folder(folder, Tokenizer.from_folder(folder))


def _ours_dense(work: Path, steps: int, *, lora: bool) -> dict[str, Any]:
    import torch

    from hornbook.train.batch import Batch

    rows = [torch.tensor(step) for step in dense_rows(work / "smollm2", steps)]
    return _ours(work / "smollm2", (Batch(ids, ids.clone()) for ids in rows), steps, lora=lora)


def ours_full(work: Path, steps: int) -> dict[str, Any]:
    return _ours_dense(work, steps, lora=False)


def ours_memory(work: Path, steps: int) -> dict[str, Any]:
    return _ours_dense(work, min(steps, 3), lora=True)


def ours_characters(work: Path, steps: int) -> dict[str, Any]:
    import torch

    from hornbook.model.config import ModelConfig
    from hornbook.model.transformer import Transformer
    from hornbook.train import allocator, losses, optim, schedule
    from hornbook.train.batch import Batch
    from hornbook.train.initialise import initialise
    from hornbook.train.loop import train

    allocator.keep_freed_memory()  # as `hornbook train` does
    learnt, asked, vocabulary = characters()
    shape: dict[str, Any] = dict.fromkeys(["qkv_bias", "attention_output_bias", "feedforward_bias", "tied_head"], True)
    shape |= {"positions": "learned", "norm": "layer", "activation": "gelu_tanh", "gated": False}
    shape |= {"heads": HEADS, "kv_heads": HEADS, "head_width": WIDTH // HEADS, "feedforward_width": 4 * WIDTH}
    config = ModelConfig(vocab_size=vocabulary, layers=LAYERS, width=WIDTH, context_length=CONTEXT, **shape)
    model = initialise(Transformer(config), generator=torch.Generator().manual_seed(0))
    optimizer = optim.make("adamw", model.named_parameters(), rate=1e-3, weight_decay=0.1, betas=(0.9, 0.99))
    objective = losses.causal_lm()
    batches = (Batch(ids, ids) for ids in drawn(torch.tensor(learnt)))
    began = time.perf_counter()
    run = train(
        model,
        batches,
        objective,
        optimizer,
        steps=steps,
        clip=1.0,
        schedule=schedule.cosine(steps, warmup=100, end=0.1),
    )
    seconds = time.perf_counter() - began
    windows = torch.tensor(asked[: len(asked) // CONTEXT * CONTEXT]).view(-1, CONTEXT)
    with torch.no_grad():
        model.eval()
        some = [Batch(ids, ids) for ids in windows.split(256)]
        total = sum(objective(model, batch)[0].item() * sum(objective.count(batch).values()) for batch in some)
    return {
        "seconds": seconds,
        "loss": total / sum(sum(objective.count(batch).values()) for batch in some),
        "train": run.steps[-1].loss,
    }


def drawn(ids: Any) -> Iterator[Any]:
    """Endless batches [12, 64] of random windows, the same for both."""
    import torch

    random = torch.Generator().manual_seed(1)
    places = torch.arange(CONTEXT)
    while True:
        yield ids[torch.randint(len(ids) - CONTEXT, (BATCH, 1), generator=random) + places]


# ------------------------------------------------------------------------------------------------------------------ theirs


def _timed(clock: Clock) -> Any:
    from transformers import TrainerCallback

    class Timed(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.ends.append(time.perf_counter())

    return Timed()


def _counted(trainer: Any, clock: Clock) -> None:
    collate = trainer.data_collator

    def count(rows: Any) -> Any:
        batch = collate(rows)
        mask = batch.get("attention_mask")
        clock.tokens.append(int(batch["input_ids"].numel() if mask is None else mask.sum()))
        return batch

    trainer.data_collator = count


def _peft() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def _arguments(work: Path, steps: int) -> dict[str, Any]:
    return {
        "output_dir": str(work / "peer"),
        "max_steps": steps,
        "per_device_train_batch_size": STEP_TOKENS // ROW,
        "learning_rate": RATE,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "disable_tqdm": True,
        "optim": "adamw_torch_fused",
        "seed": 0,
    }


def theirs_lora(work: Path, steps: int) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    folder = work / "smollm2"
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["response"]}],
            }
            for row in conversations()
        ]
    )
    clock = Clock()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(packing=True, max_length=ROW, **_arguments(work, steps)),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=_peft(),
        callbacks=[_timed(clock)],
    )
    _counted(trainer, clock)
    trainer.train()
    return clock.result(losses=[row["loss"] for row in trainer.state.log_history if "loss" in row])


def _theirs_dense(work: Path, steps: int, *, lora: bool) -> dict[str, Any]:
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    rows = [row for step in dense_rows(work / "smollm2", steps) for row in step]
    data = [{"input_ids": row, "labels": row, "attention_mask": [1] * ROW} for row in rows]
    clock = Clock()
    model = AutoModelForCausalLM.from_pretrained(work / "smollm2", dtype=torch.float32)
    if lora:
        model = get_peft_model(model, _peft())
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**_arguments(work, steps)),
        train_dataset=data,
        callbacks=[_timed(clock)],
    )
    _counted(trainer, clock)
    trainer.train()
    return clock.result(losses=[row["loss"] for row in trainer.state.log_history if "loss" in row])


def theirs_full(work: Path, steps: int) -> dict[str, Any]:
    return _theirs_dense(work, steps, lora=False)


def theirs_memory(work: Path, steps: int) -> dict[str, Any]:
    return _theirs_dense(work, min(steps, 3), lora=True)


def theirs_characters(work: Path, steps: int) -> dict[str, Any]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    learnt, asked, vocabulary = characters()
    torch.manual_seed(0)
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=vocabulary, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, **none)
    )
    decayed = [p for p in model.parameters() if p.dim() > 1 and p is not model.transformer.wte.weight]
    groups = [{"params": decayed, "weight_decay": 0.1}]
    taken = {id(p) for p in decayed}
    groups.append({"params": [p for p in model.parameters() if id(p) not in taken], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    batches, loss = drawn(torch.tensor(learnt)), torch.tensor(0.0)
    model.train()
    began = time.perf_counter()
    for step in range(1, steps + 1):
        share = step / 100 if step < 100 else 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 100) / max(1, steps - 100)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * share
        ids = next(batches)
        loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - began
    windows = torch.tensor(asked[: len(asked) // CONTEXT * CONTEXT]).view(-1, CONTEXT)
    with torch.no_grad():
        model.eval()
        total = sum(model(ids, labels=ids).loss.item() * len(ids) for ids in windows.split(256))
    return {"seconds": seconds, "loss": total / len(windows), "train": loss.item()}


# ------------------------------------------------------------------------------------------------------------------- rounds

GROUPS: dict[str, tuple[Callable[[Path, int], Any], Callable[[Path, int], Any]]] = {
    "lora": (ours_lora, theirs_lora),
    "full": (ours_full, theirs_full),
    "memory": (ours_memory, theirs_memory),
    "characters": (ours_characters, theirs_characters),
}


def measure(group: str, who: int, work: Path, steps: int, threads: int) -> dict[str, Any]:
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not who:
        environment |= {
            "GOMP_SPINCOUNT": "2000"
        }  # as `hornbook train` does: torch's threads wait asleep for each other
    command = [sys.executable, __file__, "--worker", f"{group},{who},{steps}", "--work", str(work)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{group} {('ours', 'theirs')[who]} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def prepare(work: Path) -> None:
    """SmolLM2 as a folder that both open, in float32."""
    if (work / "smollm2" / "config.json").exists():
        return
    from hornbook.checkpoint.loading import load
    from hornbook.checkpoint.saving import save
    from hornbook.checkpoint.store import Store
    from hornbook.settings import Settings

    save(load(Store(Settings.load()).ensure("smollm2:135m").path, dtype="float32"), work / "smollm2")


def table(found: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]) -> list[str]:
    lines = ["| what | here | peer | ratio (of each round) | bar | stretch |", "|---|---|---|---|---|---|"]

    def median(group: str, who: int, key: str) -> float:
        return statistics.median(pair[who][key] for pair in found[group])

    def add(what: str, group: str, key: str, unit: str, scale: float, bar: str, stretch: str, over: bool) -> None:
        if group not in found:
            return
        ours, theirs = median(group, 0, key), median(group, 1, key)
        each = ", ".join(f"{pair[0][key] / pair[1][key]:.2f}" for pair in found[group])
        ratio = f"{ours / theirs:.2f} ({each})" if over else f"{ours / theirs:.0%} ({each})"
        lines.append(
            f"| {what} | {ours / scale:,.4g} {unit} | {theirs / scale:,.4g} {unit} | {ratio} | {bar} | {stretch} |"
        )

    add("LoRA SFT on chat data, real tokens", "lora", "rate", "tokens/s", 1, "1.3", "1.8", True)
    add("all weights, dense rows", "full", "rate", "tokens/s", 1, "1.05", "1.3", True)
    add("peak memory of LoRA", "memory", "memory", "GB", 1e9, "60%", "40%", False)
    add("characters, training", "characters", "seconds", "s", 1, "80%", "50%", False)
    if "characters" in found:
        ours, theirs = median("characters", 0, "loss"), median("characters", 1, "loss")
        lines.append(f"| characters, held-out loss | {ours:.4f} | {theirs:.4f} | {ours - theirs:+.4f} | +-0.02 | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="of a round, but for characters")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=",".join(GROUPS))
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "training")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--worker")
    given = parser.parse_args()
    if given.worker:
        group, who, steps = given.worker.split(",")
        print(json.dumps(GROUPS[group][int(who)](given.work, int(steps))))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    prepare(given.work)
    found: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for number in range(given.rounds):
        for group in given.only.split(","):
            if group == "memory" and number:
                continue  # memory does not vary from round to round
            steps = 2000 if group == "characters" else given.steps + 1
            order = (0, 1) if number % 2 == 0 else (1, 0)
            pair = {who: measure(group, who, given.work, steps, given.threads) for who in order}
            found.setdefault(group, []).append((pair[0], pair[1]))
            print(number + 1, group, json.dumps(pair), file=sys.stderr, flush=True)
    lines = table(found)
    print("\n".join(lines))
    if given.write:
        from hornbook.cli.bench import processor

        names = ("torch", "transformers", "peft", "trl")
        said = (
            f"{processor()}, {given.threads} threads, {platform.system()}, Python {platform.python_version()}, "
            + ", ".join(f"{name} {version(name)}" for name in names)
            + f"; {datetime.now(UTC):%Y-%m-%d}; `python benchmarks/training.py --rounds {given.rounds} --steps {given.steps}`"
        )
        page = PAGE.read_text("utf-8")
        head, rest = page.split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n{said}\n\n" + "\n".join(lines) + f"\n{END}{rest.split(END)[1]}", "utf-8")


if __name__ == "__main__":
    main()
