"""The adapters that a recipe can ask for, a class a kind; ``kind`` tells them apart. What is built of them: hornbook.adapt."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from hornbook.recipes.config import Strict, said

Targets = Literal["all-linear"] | list[str]
TARGETS = "which linear maps: all-linear, or names as in q_proj, v_proj, down_proj"


class LowRank(Strict):
    """Two thin matrices beside each linear map (arXiv 2106.09685), in its variants."""

    kind: Literal["lora", "dora", "qlora"] = said(
        "lora", text="lora; dora: direction and length apart (2402.09353); qlora: on a base in 4 bits (2305.14314)"
    )
    rank: int = said(16, ge=1, text="the width between the two matrices")
    alpha: float = said(32.0, gt=0, text="what they add is scaled by alpha / rank")
    dropout: float = said(0.0, ge=0, lt=1, text="of what they read")
    targets: Targets = said("all-linear", text=TARGETS)
    rank_pattern: dict[str, int] = said(dict, text="another rank for names that match, as in layers.0.*: 8")
    rslora: bool = said(False, text="scale by alpha / sqrt(rank) (arXiv 2312.03732)")


class Prompt(Strict):
    """Vectors before the text that are learnt (arXiv 2104.08691)."""

    kind: Literal["prompt"] = said(text="prompt")
    tokens: int = said(20, ge=1, unit="tokens", text="how many vectors")
    init: Literal["random", "vocabulary"] = said(
        "vocabulary", text="how they begin: as tokens drawn from the vocabulary"
    )


class PTuning(Strict):
    """Such vectors made by a small network (arXiv 2103.10385)."""

    kind: Literal["ptuning"] = said(text="ptuning")
    tokens: int = said(20, ge=1, unit="tokens", text="how many vectors")
    encoder: Literal["mlp", "lstm"] = said("mlp", text="the network")
    hidden: int | None = said(None, ge=1, text="its width; left out: the model's")


class Prefix(Strict):
    """Keys and values before those of every layer (arXiv 2101.00190)."""

    kind: Literal["prefix"] = said(text="prefix")
    tokens: int = said(20, ge=1, unit="tokens", text="how many of each")
    projected: bool = said(False, text="made by a small network while they are learnt, which is steadier")


class Bottleneck(Strict):
    """A narrow network after the parts of each block (arXiv 1902.00751)."""

    kind: Literal["bottleneck"] = said(text="bottleneck")
    width: int = said(64, ge=1, text="inside")
    placement: Literal["houlsby", "pfeiffer"] = said(
        "houlsby", text="behind both parts of a block, or behind the second"
    )
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = said("gelu", text="between its two matrices")


class IA3(Strict):
    """Learnt factors for keys, values and inner states (arXiv 2205.05638)."""

    kind: Literal["ia3"] = said(text="ia3")


class LoReFT(Strict):
    """An edit of the states in a low-rank subspace (arXiv 2404.03592)."""

    kind: Literal["loreft"] = said(text="loreft")
    rank: int = said(4, ge=1, text="of the subspace")
    first: int = said(4, ge=0, unit="tokens", text="at the beginning of each prompt that are edited")
    last: int = said(4, ge=0, unit="tokens", text="at the end of each prompt that are edited")


def _kind(given: Any) -> str:
    """Which class it is: where no kind is said, a LoRA."""
    kind = given.get("kind", "lora") if isinstance(given, dict) else getattr(given, "kind", None)
    return "lora" if kind in ("lora", "dora", "qlora") else str(kind)


Adapter = Annotated[
    Annotated[LowRank, Tag("lora")]
    | Annotated[Prompt, Tag("prompt")]
    | Annotated[PTuning, Tag("ptuning")]
    | Annotated[Prefix, Tag("prefix")]
    | Annotated[Bottleneck, Tag("bottleneck")]
    | Annotated[IA3, Tag("ia3")]
    | Annotated[LoReFT, Tag("loreft")],
    Discriminator(_kind),
]
