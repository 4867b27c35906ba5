"""What stretching a context costs and gains: perplexity at four times the trained length, by each of the ways.

    python benchmarks/long_context.py ../shared/data/models/stories260K

The model is a trained Llama of 260,000 parameters with a context of 512; the text is its own stories, one after the other,
drawn at a temperature of 0.8, so that its perplexity within the context is known to be low. All figures are of the same
256 tokens, which stand from place 1,536 on, or from 256 on with no more than that before them. Nothing is trained.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "checkpoint"))

from stories import model_of, tokenizer_of  # noqa: E402

from hornbook.checkpoint.stretch import KINDS, stretched  # noqa: E402
from hornbook.model.cache import ContiguousCache  # noqa: E402
from hornbook.model.transformer import Transformer  # noqa: E402

START, TOKENS = 1536, 256


def story(model: Transformer, generator: torch.Generator, bos: int) -> list[int]:
    ids, cache = [bos], ContiguousCache(model.config, 1, 400)
    while len(ids) < 400:
        logits = model(torch.tensor([ids[-1:]]), cache=cache, logits="last").logits
        assert logits is not None
        chosen = int(torch.multinomial((logits[0] / 0.8).softmax(-1), 1, generator=generator))
        if chosen == bos:
            break
        ids.append(chosen)
    return ids


def perplexity(model: Transformer, ids: list[int]) -> float:
    """Of the last TOKENS of ``ids``."""
    logits = model(torch.tensor([ids])).logits
    assert logits is not None
    surprise = -logits[0, -TOKENS - 1 : -1].log_softmax(-1).gather(1, torch.tensor(ids[-TOKENS:])[:, None])
    return float(surprise.mean().exp())


@torch.inference_mode()
def main() -> None:
    folder = Path(sys.argv[1])
    model, bos = model_of(folder), tokenizer_of(folder).bos_id
    assert bos is not None
    rows: dict[str, list[float]] = {}
    for seed in range(8):
        generator, ids = torch.Generator().manual_seed(seed), []
        while len(ids) < START + TOKENS:
            ids += story(model, generator, bos)
        ids = ids[: START + TOKENS]
        found = {
            "the model, 256 tokens before": perplexity(model, ids[START - 256 :]),
            "the model": perplexity(model, ids),
        }
        for kind in KINDS:
            longer = Transformer(stretched(model.config, f"{kind}:4")).eval()
            longer.load_state_dict(model.state_dict())
            found[f"{kind}:4"] = perplexity(longer, ids)
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    print("| 1,536 tokens before, but for the first row | perplexity, mean of 8 texts | least | most |")
    print("|---|---|---|---|")
    for name, values in rows.items():
        print(f"| {name} | {sum(values) / len(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()
