"""Does drafting by default pay? The same answers with ``draft="auto"`` and with none, taking turns in one process.

    python benchmarks/drafts.py [--rounds 6] [--tokens 200]

A story has little to look up, so what guessing costs shows there; a text that is to be repeated is what it is for. Speeds
are of the tokens after the first, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import hornbook
from hornbook.llm import LocalLLM
from hornbook.types import SamplingParams

TEXT = Path(__file__).parents[1] / "README.md"
STORY = "Write a story about a lighthouse."


def speed(llm: LocalLLM, prompt: str, params: SamplingParams) -> float:
    """Tokens a second after the first."""
    ids = llm.render([{"role": "user", "content": prompt}])
    first, count = 0.0, 0
    for _ in llm.stream(ids, params):
        first, count = first or time.perf_counter(), count + 1
    return (count - 1) / (time.perf_counter() - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    models: dict[str, LocalLLM] = {}
    for draft in ("none", "auto"):
        llm = hornbook.load("smollm2:135m", draft=draft)
        assert isinstance(llm, LocalLLM)
        models[draft] = llm
    greedy = SamplingParams(max_tokens=options.tokens, ignore_eos=True, logprobs=False)
    drawn = SamplingParams(
        max_tokens=options.tokens, ignore_eos=True, logprobs=False, temperature=0.8, top_k=40, top_p=0.95, seed=1
    )
    repeat = f"Repeat this text word for word:\n\n{TEXT.read_text('utf-8')[400:2400]}"
    for name, prompt, params in (("story, drawn", STORY, drawn), ("story", STORY, greedy), ("repeat", repeat, greedy)):
        rates: dict[str, list[float]] = {draft: [] for draft in models}
        for number in range(options.rounds + 1):  # the first does not count
            for draft, llm in models.items():
                rate = speed(llm, prompt, params)
                if number:
                    rates[draft].append(rate)
        none, auto = (statistics.median(rates[draft]) for draft in ("none", "auto"))
        print(f"{name:14} none {none:4.0f} tokens/s, auto {auto:4.0f}: {auto / none:.2f}x")


if __name__ == "__main__":
    main()
