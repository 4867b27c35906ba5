"""What a Transformer is made of: orthogonal fields, so that a model family is a row of values and no code.

    ModelConfig --layer i--> LayerKind (window, rotary, sparse) --> Rotary (base, scaling)
        |-- experts --> Experts        |-- relative --> Relative        |-- encoder --> ModelConfig

A field says *what* is done, never *who* does it: nothing here or in the rest of ``model/`` knows a family's name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hornbook.errors import ModelFileError

# A file that says more is damaged, and is refused before anything of that size is made.
MAX_LAYERS, MAX_HEAD_WIDTH, MAX_SIZE, MAX_EXPERTS = 4096, 1 << 16, 1 << 31, 4096


@dataclass(frozen=True, slots=True)
class RotaryScaling:
    """How rotary frequencies are stretched to reach a context longer than the one they were trained on.

    linear    every frequency is divided by ``factor`` (position interpolation, arXiv 2306.15595)
    dynamic   the base grows by as much as the length at hand needs (2309.00071, appendix B.3, in the form that is in use)
    yarn      frequencies between ``fast`` and ``slow`` turns are blended from kept to divided (2309.00071, section 3.2)
    llama3    long wavelengths are divided by ``factor``, short ones kept, the band between blended (Llama 3.1)
    factors   each frequency is divided by its own entry of ``factors`` (what GGUF stores as ``rope_freqs``)
    longrope  ``factors`` up to the original context, ``long_factors`` beyond it (arXiv 2402.13753)

    ``magnitude`` multiplies cosine and sine (the attention's temperature of 2309.00071, eq. 22).
    """

    kind: Literal["linear", "dynamic", "yarn", "llama3", "factors", "longrope"]
    factor: float = 1.0
    original_context: int = 8192
    slow: float = 1.0  # turns within the original context: below it a frequency is divided,
    fast: float = 4.0  # above it is kept
    factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    magnitude: float = 1.0


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding (arXiv 2104.09864). Half-split: dimension i turns together with i + width/2;
    interleaved: 2i with 2i + 1. ``width``: how many dimensions of a head turn, the first ones; None: all."""

    base: float = 10_000.0
    scaling: RotaryScaling | None = None
    width: int | None = None
    interleaved: bool = False


@dataclass(frozen=True, slots=True)
class Relative:
    """A learned bias for each head and bucket of distances; near ones have their own, far ones share (T5, 1910.10683)."""

    buckets: int = 32
    distance: int = 128  # from here on all share the last bucket


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts (arXiv 2401.04088): each token passes the ``top`` of ``count`` gated MLPs that a router picks."""

    count: int
    top: int
    width: int  # of each expert, inside
    renormalise: bool = True  # the chosen ones' weights are made to sum to 1
    shared_width: int = 0  # one more MLP, which every token passes; 0: none
    shared_gate: bool = False  # what comes out of it is weighted by a sigmoid of its own


@dataclass(frozen=True, slots=True)
class Classifier:
    """A linear layer over a text's vector ("sequence"), each token's ("tokens"), or for start and end of a span ("span")."""

    over: Literal["sequence", "tokens", "span"]
    labels: tuple[str, ...]
    bias: bool = True
    summary: Literal["pooler", "first", "last", "mean"] = "pooler"  # which vector is the text's


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What may differ from layer to layer: how far back a token sees (itself included), how positions enter, experts."""

    window: int | None = None  # None: everything
    rotary: Rotary | None = None  # None: positions do not enter by rotation
    sparse: bool = False  # the feed-forward is ModelConfig.experts


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
    layer_groups: int | None = (
        None  # so many blocks of weights serve all layers, in equal runs (ALBERT); None: one each
    )
    encoder: ModelConfig | None = None  # what reads the source; this model then attends to it in every layer
    shared_tokens: bool = False  # the encoder reads with this model's table of tokens

    # what enters
    positions: Literal["none", "learned", "sinusoidal"] = "none"  # added to the tokens
    position_offset: int = 0  # rows of the learned table that stand before position 0
    relative: Relative | None = None
    alibi: float | None = (
        None  # distances times the heads' slopes (arXiv 2108.12409), times this, are taken from scores
    )
    token_types: int = 0  # rows of a segment table, 0: none
    embedding_width: int | None = None  # tables of another width, projected to the model's (ALBERT); None: the same
    embedding_scale: float = 1.0
    embedding_norm: bool = False

    # normalisation
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: float = 1e-5
    norm_offset: float = 0.0  # added to an RMSNorm's weight
    norm_bias: bool = True  # of a LayerNorm
    norm_placement: Literal["pre", "post", "both"] = "pre"  # x + f(n(x)) | n(x + f(x)) | x + n(f(n(x)))
    parallel: bool = False  # attention and feed-forward read the same stream: x + a(n(x)) + f(n(x))
    shared_norm: bool = False  # and through one norm

    # attention
    query_scale: float | None = None  # scores are q.k times this; None: 1 / sqrt(head_width)
    qk_norm: Literal["head", "all"] | None = None  # RMSNorm of queries and keys before the rotation, over which width
    qkv_bias: bool = False
    attention_output_bias: bool = False
    attention_softcap: float | None = None  # scores become c * tanh(scores / c)

    # feed-forward
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    gated: bool = True  # down(act(gate(x)) * up(x)), arXiv 2002.05202; otherwise down(act(up(x)))
    feedforward_bias: bool = False
    experts: Experts | None = None

    # what leaves
    language_head: bool = True
    tied_head: bool = False  # the head's weight is the token embedding's
    head_bias: bool = False
    head_transform: bool = False  # a linear layer, the activation and a LayerNorm come before the head (BERT)
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    pooler: bool = False  # a tanh layer over the first token's state
    next_sentence: bool = False  # two scores of the pooled state: does the second sentence follow the first
    classifier: Classifier | None = None
    pooling: Literal["mean", "first", "last"] | None = None  # how token states become one vector of the text

    # training only
    dropout: float = 0.0  # of the embeddings and of what each part adds to the stream
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "layers", "width", "heads", "kv_heads", "head_width", "feedforward_width")
        for name in (*sizes, "context_length"):
            most = MAX_HEAD_WIDTH if name == "head_width" else MAX_SIZE
            _need(1 <= getattr(self, name) <= most, f"{name} is {getattr(self, name)}", f"It must be 1 to {most:,}.")
        for name in ("token_types", "position_offset"):
            value = getattr(self, name)
            _need(0 <= value <= MAX_SIZE, f"{name} is {value}", f"It must be 0 to {MAX_SIZE:,}.")
        _need(
            self.embedding_width is None or 1 <= self.embedding_width <= MAX_SIZE,
            f"embedding_width is {self.embedding_width}",
            f"It must be 1 to {MAX_SIZE:,}.",
        )
        for name in ("dropout", "attention_dropout", "norm_epsilon"):
            value = getattr(self, name)
            _need(0.0 <= value <= 1.0, f"{name} is {value}", "It must be 0 to 1: the model's file is damaged.")
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
        groups = self.layers if self.layer_groups is None else self.layer_groups
        if groups < 1 or self.layers % groups:
            raise ModelFileError(
                f"{groups} groups of weights cannot serve {self.layers} layers in equal runs",
                "The second number must be a multiple of the first.",
            )
        for kind in self.pattern:
            self._check_kind(kind)
        for name in ("attention_softcap", "logit_softcap"):
            cap = getattr(self, name)
            _need(cap is None or 0 < cap < math.inf, f"{name} is {cap}", "It must be positive, or not there.")
        for name in ("query_scale", "logit_scale", "embedding_scale", "alibi"):
            value = getattr(self, name)
            _need(value is None or math.isfinite(value), f"{name} is {value}", "It must be a finite number.")
        if self.experts is not None:
            e = self.experts
            _need(
                1 <= e.top <= e.count <= MAX_EXPERTS and 1 <= e.width <= MAX_SIZE and 0 <= e.shared_width <= MAX_SIZE,
                f"mixture is {e.top} of {e.count} experts of width {e.width} and {e.shared_width} shared",
                "At least one of them must be chosen, and no more than there are.",
            )
        if self.relative is not None:
            r = self.relative
            _need(
                4 <= r.buckets <= 1 << 20 and r.distance > r.buckets // 2,
                f"relative positions have {r.buckets} buckets for {r.distance} places",
                "It takes at least four buckets, and a distance beyond their half.",
            )
        _need(self.encoder is None or not self.encoder.causal, "encoder is causal", "An encoder sees the whole text.")
        _need(self.pooler or not self.next_sentence, "next_sentence has no pooler", "It scores a pooled state.")
        # One pattern has one form, its shortest, so that equal models have equal configurations.
        kinds = [self.kind(i) for i in range(self.layers)]
        period = next(p for p in range(1, self.layers + 1) if all(kinds[i] == kinds[i % p] for i in range(self.layers)))
        object.__setattr__(self, "pattern", tuple(kinds[:period]))

    def _check_kind(self, kind: LayerKind) -> None:
        rotary = kind.rotary
        if (kind.window is not None and kind.window < 1) or (rotary is not None and not rotary.base > 0):
            raise ModelFileError(f"a layer cannot be of the kind {kind}", "Windows and bases must be positive.")
        turned = self.rotary_width(rotary)
        if turned % 2 or not 0 <= turned <= self.head_width:
            raise ModelFileError(
                f"rotary positions cannot turn {turned} dimensions of a head of width {self.head_width}",
                "The first number must be even and no more than the second: the model's file is damaged.",
            )
        if rotary is not None and rotary.scaling is not None:
            _check_scaling(rotary.base, rotary.scaling, turned)
        _need(not kind.sparse or self.experts is not None, "experts are not described", "The file is incomplete.")

    def kind(self, layer: int) -> LayerKind:
        """What layer ``layer`` (from 0) is like."""
        return self.pattern[layer % len(self.pattern)]

    def block(self, layer: int) -> int:
        """Which block of weights serves layer ``layer``."""
        return layer if self.layer_groups is None else layer * self.layer_groups // self.layers

    def rotary_width(self, rotary: Rotary | None) -> int:
        """How many dimensions of a head turn."""
        if rotary is None:
            return 0
        return self.head_width if rotary.width is None else rotary.width

    @property
    def scale(self) -> float:
        """What q.k is multiplied by."""
        return self.head_width**-0.5 if self.query_scale is None else self.query_scale

    @property
    def final_norm(self) -> bool:
        """A residual stream that is never normalised itself is normalised once at its end."""
        return self.norm_placement != "post"


def _check_scaling(base: float, scaling: RotaryScaling, turned: int) -> None:
    """What would divide by nothing, or turn by what is no number."""
    named, numbers = scaling.kind, (scaling.factor, scaling.magnitude, *scaling.factors, *scaling.long_factors)
    _need(
        all(math.isfinite(number) and number > 0 for number in numbers) and scaling.original_context >= 1,
        f"rotary scaling {named} has a factor of {scaling.factor} from {scaling.original_context} tokens",
        "Its numbers must be finite and positive.",
    )
    if named in ("yarn", "llama3"):
        _need(
            0 < scaling.slow < scaling.fast and base > 1,
            f"rotary scaling {named} blends from {scaling.slow} to {scaling.fast} turns on the base {base}",
            "The first must be positive and below the second, and the base above 1.",
        )
    if named in ("factors", "longrope"):
        for factors in (scaling.factors, scaling.long_factors)[: 1 + (named == "longrope")]:
            _need(
                len(factors) == turned // 2,
                f"rotary scaling has {len(factors)} factors for {turned // 2} frequencies",
                "The file contradicts itself: get it again or use another.",
            )
    _need(
        named != "dynamic" or turned > 2,
        f"rotary scaling {named} turns {turned} dimensions",
        "It takes more.",
    )


def _need(holds: bool, what: str, remedy: str) -> None:
    if not holds:
        raise ModelFileError(f"the model's {what}", remedy)
