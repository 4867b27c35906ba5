"""What a Transformer is made of: orthogonal fields, so that a model family is a row of values and no code.

    ModelConfig --layer i--> LayerKind (window, rotary) --> Rotary (base, scaling)

A field says *what* is done, never *who* does it: nothing here or in the rest of ``model/`` knows a family's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hornbook.errors import ModelFileError

# A file that says more is damaged, and is refused before anything of that size is made.
MAX_LAYERS, MAX_HEAD_WIDTH, MAX_SIZE = 4096, 1 << 16, 1 << 31


@dataclass(frozen=True, slots=True)
class RotaryScaling:
    """How rotary frequencies are stretched to reach a context longer than the one they were trained on.

    linear   every frequency is divided by ``factor`` (position interpolation, arXiv 2306.15595)
    llama3   long wavelengths are divided by ``factor``, short ones kept, the band between blended (Llama 3.1)
    factors  each frequency is divided by its own entry of ``factors`` (what GGUF stores as ``rope_freqs``)
    """

    kind: Literal["linear", "llama3", "factors"]
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding (arXiv 2104.09864), half-split: dimension i turns together with i + D/2."""

    base: float = 10_000.0
    scaling: RotaryScaling | None = None


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What may differ from layer to layer: how far back a token sees (itself included), how positions enter."""

    window: int | None = None  # None: everything
    rotary: Rotary | None = None  # None: positions do not enter the attention


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The whole description of a model. Widths are in dimensions, ``context_length`` in tokens."""

    vocab_size: int
    layers: int
    width: int
    heads: int
    kv_heads: int  # heads: multi-head; 1: multi-query; between: grouped (arXiv 2305.13245)
    head_width: int
    feedforward_width: int
    context_length: int

    # which tokens see which, and from where
    causal: bool = True
    pattern: tuple[LayerKind, ...] = (LayerKind(),)  # repeated over the layers: layer i is pattern[i % len]

    # what enters
    learned_positions: bool = False  # a table of context_length rows, added to the tokens
    token_types: int = 0  # rows of a segment table, 0: none
    embedding_scale: float = 1.0
    embedding_norm: bool = False

    # normalisation
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: float = 1e-5
    norm_offset: float = 0.0  # added to an RMSNorm's weight
    norm_placement: Literal["pre", "post", "both"] = "pre"  # x + f(n(x)) | n(x + f(x)) | x + n(f(n(x)))

    # attention
    query_scale: float | None = None  # scores are q.k times this; None: 1 / sqrt(head_width)
    qk_norm: bool = False  # RMSNorm over each head's width, before the rotation
    qkv_bias: bool = False
    attention_output_bias: bool = False
    attention_softcap: float | None = None  # scores become c * tanh(scores / c)

    # feed-forward
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    gated: bool = True  # down(act(gate(x)) * up(x)), arXiv 2002.05202; otherwise down(act(up(x)))
    feedforward_bias: bool = False

    # what leaves
    language_head: bool = True
    tied_head: bool = False  # the head's weight is the token embedding's
    logit_softcap: float | None = None
    pooler: bool = False  # a tanh layer over the first token's state
    pooling: Literal["mean", "first", "last"] | None = None  # how token states become one vector of the text

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "layers", "width", "heads", "kv_heads", "head_width", "feedforward_width")
        for name in (*sizes, "context_length"):
            most = MAX_HEAD_WIDTH if name == "head_width" else MAX_SIZE
            if not 1 <= getattr(self, name) <= most:
                raise ModelFileError(f"the model's {name} is {getattr(self, name)}", f"It must be 1 to {most:,}.")
        if not 0 <= self.token_types <= MAX_SIZE:
            raise ModelFileError(f"the model's token_types is {self.token_types}", f"It must be 0 to {MAX_SIZE:,}.")
        for kind in self.pattern:
            if (kind.window is not None and kind.window < 1) or (kind.rotary is not None and not kind.rotary.base > 0):
                raise ModelFileError(f"a layer cannot be of the kind {kind}", "Windows and bases must be positive.")
        if self.heads % self.kv_heads:
            raise ModelFileError(
                f"{self.heads} attention heads cannot share {self.kv_heads} key/value heads",
                "The first number must be a multiple of the second.",
            )
        if not self.pattern or self.layers > MAX_LAYERS:
            raise ModelFileError(
                f"the model has {self.layers:,} layers of {len(self.pattern)} kinds",
                f"Hornbook takes models of at least one kind and at most {MAX_LAYERS:,} layers.",
            )
        if self.head_width % 2 and any(kind.rotary for kind in self.pattern):
            raise ModelFileError(
                f"rotary positions need an even head width, not {self.head_width}", "The model's file is damaged."
            )
        # One pattern has one form, its shortest, so that equal models have equal configurations.
        kinds = [self.kind(i) for i in range(self.layers)]
        period = next(p for p in range(1, self.layers + 1) if all(kinds[i] == kinds[i % p] for i in range(self.layers)))
        object.__setattr__(self, "pattern", tuple(kinds[:period]))

    def kind(self, layer: int) -> LayerKind:
        """What layer ``layer`` (from 0) is like."""
        return self.pattern[layer % len(self.pattern)]

    @property
    def scale(self) -> float:
        """What q.k is multiplied by."""
        return self.head_width**-0.5 if self.query_scale is None else self.query_scale

    @property
    def final_norm(self) -> bool:
        """A residual stream that is never normalised itself is normalised once at its end."""
        return self.norm_placement != "post"
