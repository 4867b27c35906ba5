"""Reading four times further than a model was trained for: by other rotary frequencies, and by some training after.

    python benchmarks/long_context_training.py [--write]          about 5 minutes on two cores

A Llama of 0.9 million weights is trained on the first nine tenths of tinyshakespeare (BPE of 1,024 tokens learnt there) in
rows of 128 tokens. Its perplexity is then taken of the last 128 tokens of windows of 512 over the held-out tenth, one window
every 256 tokens: as it is, with each of the ways to stretch a context by four, and with each after a short tuning on rows of
512 tokens as LongLoRA does it (arXiv 2309.12307): LoRA on all linear layers, embeddings and norms trained along, shifted sparse
attention in groups of 128 while training and full attention afterwards. The first row has the same tokens in halves of 64
with 64 before each: what the model knows within its context. Everything is drawn by one seed. ``--write`` puts the table into
docs/results/long-context.md.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from hornbook.adapt import LoRA
from hornbook.checkpoint.stretch import stretched
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.transformer import Transformer
from hornbook.text.train_tokenizer import train as train_tokenizer
from hornbook.train import schedule
from hornbook.train.batch import Batch
from hornbook.train.initialise import initialise
from hornbook.train.loop import train
from hornbook.train.losses import causal_lm

PAGE = Path(__file__).parents[1] / "docs" / "results" / "long-context.md"
BEGIN, END = "<!-- tuned: begin, by benchmarks/long_context_training.py -->", "<!-- tuned: end -->"
SHORT, FACTOR = 128, 4
LONG = SHORT * FACTOR
CONFIG = ModelConfig(
    vocab_size=1024, layers=4, width=128, heads=4, kv_heads=4, head_width=32, feedforward_width=344, context_length=SHORT,
    tied_head=True, pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip
WAYS: dict[str, tuple[str | None, dict[str, object]]] = {
    "untouched": (None, {}),
    "linear:4 (position interpolation)": ("linear:4", {}),
    "ntk:4": ("ntk:4", {}),
    "yarn:4": ("yarn:4", {}),
    "linear:4, full attention in training": ("linear:4", {"shifted": None}),
    "linear:4, LoRA alone": ("linear:4", {"train_also": ()}),
}


def rows(ids: torch.Tensor, length: int, count: int, seed: int) -> Iterator[Batch]:
    """Endless batches of ``count`` stretches of the text, from anywhere."""
    draw = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(ids) - length, (count,), generator=draw).tolist()
        batch = torch.stack([ids[start : start + length] for start in starts])
        yield Batch(batch, batch)


@torch.inference_mode()
def perplexity(model: Transformer, ids: torch.Tensor, before: int = LONG - SHORT, piece: int = SHORT) -> float:
    """Of every other stretch of SHORT tokens from place LONG - SHORT on, in pieces that have ``before`` tokens before them."""
    model.eval()
    surprise, count = 0.0, 0
    stretches = range(LONG - SHORT, len(ids) - SHORT, 2 * SHORT)
    starts = [start + offset for start in stretches for offset in range(0, SHORT, piece)]
    for first in range(0, len(starts), 16):
        batch = torch.stack([ids[start - before : start + piece] for start in starts[first : first + 16]])
        hidden = model(batch, logits="none").hidden[:, before - 1 : -1]
        wanted = batch[:, before:]
        surprise -= model.scores(hidden).log_softmax(-1).gather(2, wanted[:, :, None]).sum().item()
        count += wanted.numel()
    return float(torch.tensor(surprise / count).exp())


def stretch(model: Transformer, said: str | None) -> Transformer:
    """A copy with other frequencies."""
    config = model.config if said is None else stretched(model.config, said)
    copy = Transformer(config)
    copy.load_state_dict(model.state_dict())
    return copy


def tune(
    model: Transformer,
    ids: torch.Tensor,
    steps: int,
    *,
    shifted: int | None = SHORT,
    train_also: tuple[str, ...] = ("embeddings", "norms"),
) -> float:
    """LongLoRA; -> seconds a step."""
    attached = LoRA(rank=8, alpha=16, train_also=train_also).attach(model, generator=torch.Generator().manual_seed(0))
    model.shifted = shifted
    optimizer = torch.optim.AdamW(attached.parameters(), lr=1e-3, weight_decay=0.0)
    run = train(
        model, rows(ids, LONG, 8, seed=1), causal_lm(), optimizer, steps=steps, clip=1.0,
        schedule=schedule.cosine(steps, warmup=max(1, steps // 20)),
    )  # fmt: skip
    return run.seconds / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--steps", type=int, default=300, help="of the training, 32 rows of 128 tokens each")
    parser.add_argument("--tuning", type=int, default=40, help="steps of each tuning, 8 rows of 512 tokens each")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    asked = parser.parse_args()
    with gzip.open(asked.shared / "lm_text" / "tinyshakespeare.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read()
    cut = text.rindex("\n\n", 0, len(text) * 9 // 10)
    tokenizer = train_tokenizer([text[:cut]], size=CONFIG.vocab_size)
    learnt, held_out = (torch.tensor(tokenizer.encode(part, add_special=False)) for part in (text[:cut], text[cut:]))
    began = time.perf_counter()
    base = initialise(Transformer(CONFIG), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    train(
        base, rows(learnt, SHORT, 32, seed=0), causal_lm(), torch.optim.AdamW(base.parameters(), lr=3e-3, weight_decay=0.1),
        steps=asked.steps, clip=1.0, schedule=schedule.cosine(asked.steps, warmup=max(1, asked.steps // 20)),
    )  # fmt: skip
    print(
        f"{sum(p.numel() for p in base.parameters()):,} weights, {len(learnt):,} tokens to learn, {len(held_out):,} held out; "
        f"trained {asked.steps} steps in {time.perf_counter() - began:.0f} s; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads\n"
    )
    table: list[str] = []

    def row(text: str) -> None:
        table.append(text)
        print(text, flush=True)

    row("| the same tokens, 384 before them but for the first row | perplexity | after the tuning | seconds a step |")
    row("|---|---|---|---|")
    row(
        f"| the model within its context: 64 before each half | {perplexity(base, held_out, SHORT // 2, SHORT // 2):.2f} | | |"
    )
    for name, (said, options) in WAYS.items():
        model = stretch(base, said)
        before = perplexity(model, held_out)
        seconds = tune(model, learnt, asked.tuning, **options)  # type: ignore[arg-type]
        row(f"| {name} | {before:.2f} | {perplexity(model, held_out):.2f} | {seconds:.2f} |")
    print(f"\n{time.perf_counter() - began:.0f} s in all")
    if asked.write:
        before, rest = PAGE.read_text("utf-8").split(BEGIN)
        PAGE.write_text("\n".join([before + BEGIN, "", *table, "", END + rest.split(END)[1]]), "utf-8")


if __name__ == "__main__":
    main()
