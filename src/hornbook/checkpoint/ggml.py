"""What the GGUF metadata of many architectures share: keys that start with the architecture's name, rotary, tensor names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from hornbook.checkpoint.fields import Also, Has, Key, Part, Rows, Twice, choose, head_width, read_key
from hornbook.checkpoint.rules import Interleaved, Map, Reshaped, Split, Stacked, Table, TensorSource, override, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import Experts, LayerKind, ModelConfig, Rotary, RotaryScaling
from hornbook.model.position_tables import frequencies

POOLING = {0: None, 1: "mean", 2: "first", 3: "last"}  # llama.cpp's enum llama_pooling_type
RMS, LAYER = "layer_norm_rms_epsilon", "layer_norm_epsilon"

DECODER = table(
    {
        "embed.tokens": "token_embd",
        "embed.positions": "position_embd",
        "norm": "output_norm",
        "head.tokens": "output",
        "head.bias": "output.bias",
        "blocks.{i}.attention_norm": "blk.{i}.attn_norm",
        "blocks.{i}.attention.query": "blk.{i}.attn_q",
        "blocks.{i}.attention.key": "blk.{i}.attn_k",
        "blocks.{i}.attention.value": "blk.{i}.attn_v",
        "blocks.{i}.attention.output": "blk.{i}.attn_output",
        "blocks.{i}.attention.query_norm": "blk.{i}.attn_q_norm",
        "blocks.{i}.attention.key_norm": "blk.{i}.attn_k_norm",
        "blocks.{i}.attention_post_norm": "blk.{i}.post_attention_norm",
        "blocks.{i}.feedforward_norm": "blk.{i}.ffn_norm",
        "blocks.{i}.feedforward.gate": "blk.{i}.ffn_gate",
        "blocks.{i}.feedforward.up": "blk.{i}.ffn_up",
        "blocks.{i}.feedforward.down": "blk.{i}.ffn_down",
        "blocks.{i}.feedforward_post_norm": "blk.{i}.post_ffw_norm",
        "blocks.{i}.feedforward.router": "blk.{i}.ffn_gate_inp",
        "blocks.{i}.feedforward.shared.gate": "blk.{i}.ffn_gate_shexp",
        "blocks.{i}.feedforward.shared.up": "blk.{i}.ffn_up_shexp",
        "blocks.{i}.feedforward.shared.down": "blk.{i}.ffn_down_shexp",
    }
) + (
    # A vector in some files, a matrix of one row in others.
    Map(("blocks.{i}.feedforward.shared_gate",), ("blk.{i}.ffn_gate_inp_shexp",), Reshaped((1, -1), (-1,))),
    *(Map((f"blocks.{{i}}.feedforward.{n}",), (f"blk.{{i}}.ffn_{n}_exps.weight",)) for n in ("gate", "up", "down")),
)
# Files of before April 2024 have a tensor for every expert.
APART = tuple(
    Map((f"blocks.{{i}}.feedforward.{n}",), (f"blk.{{i}}.ffn_{n}.{{e}}.weight",), Stacked())
    for n in ("gate", "up", "down")
)
FUSED = ("blocks.{i}.attention.query", "blocks.{i}.attention.key", "blocks.{i}.attention.value")


def thirds(config: ModelConfig) -> Split:
    """Queries, keys and values, one behind the other."""
    inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
    return Split((inner, shared, shared))


QKV = Map(FUSED, ("blk.{i}.attn_qkv",), thirds)


def interleaved(base: Table) -> Table:
    """``base`` for architectures whose queries and keys stand in rotary pairs of neighbours."""
    query, key = FUSED[:2]
    return override(
        base,
        Map((query,), ("blk.{i}.attn_q",), lambda c: Interleaved(c.heads)),
        Map((key,), ("blk.{i}.attn_k",), lambda c: Interleaved(c.kv_heads)),
    )


def keys(arch: str, epsilon: str = RMS) -> tuple[Key, ...]:
    """The sizes that every architecture says."""
    return (
        Key(f"{arch}.block_count", "layers", int),
        Key(f"{arch}.context_length", "context_length", int),
        Key(f"{arch}.embedding_length", "width", int),
        Key(f"{arch}.feed_forward_length", "feedforward_width", int),
        Key(f"{arch}.attention.head_count", "heads", int),
        Key(f"{arch}.attention.{epsilon}", "norm_epsilon", float),
    )


def sizes(arch: str, epsilon: str = RMS) -> tuple[Part, ...]:
    """The sizes; the number of tokens by the embedding itself, and whether the head is tied to it."""
    return (
        *keys(arch, epsilon),
        Key(f"{arch}.attention.head_count_kv", "kv_heads", int, lambda fields: fields["heads"]),
        Key(f"{arch}.attention.key_length", "head_width", int, head_width),
        Twice(f"{arch}.attention.value_length", "head_width"),
        Rows("token_embd.weight", "vocab_size"),
        Also(f"{arch}.vocab_size", "vocab_size"),
        Has("output.weight", "tied_head", there=False, absent=True),
    )


def decoder(arch: str, epsilon: str = RMS, *, windows: bool = False) -> tuple[Part, ...]:
    """The sizes, and layers that are all alike."""
    return (*sizes(arch, epsilon), Layers(arch, windows))


class Layers(NamedTuple):
    """``pattern``: layers that are all alike, how they turn and, where one is said, their window."""

    arch: str
    windows: (
        bool  # the architecture has words for them; llama.cpp passes over the key in all others, and sees everything
    )

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        window = read_key(raw, f"{self.arch}.attention.sliding_window", int, 0) or None
        return {"pattern": (LayerKind(window, read_rotary(raw, source, self.arch, fields["head_width"])),)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """Raises ValueError for what this architecture cannot say."""
        if not self.windows and any(kind.window for kind in config.pattern):
            raise ValueError("in GGUF this architecture sees everything, and this model only a window (sliding_window)")
        if len(config.pattern) > 1:
            raise ValueError("its layers differ, and in GGUF those of this architecture are alike")
        (kind,) = config.pattern
        return {
            **({} if kind.rotary is None else write_rotary(config, kind.rotary, self.arch)),
            **({} if kind.window is None else {f"{self.arch}.attention.sliding_window": kind.window}),
        }


class Mixture(NamedTuple):
    """Every feed-forward of a ``pattern`` that is read is a mixture, where a file says experts."""

    arch: str
    implied: Mapping[str, Any] = {}  # fields of Experts that no file says

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        implied = dict(self.implied)
        if implied.get("shared_gate"):
            name = f"{self.arch}.expert_shared_feed_forward_length"
            implied["shared_width"] = read_key(raw, name, int, fields["feedforward_width"])
        count = read_key(raw, f"{self.arch}.expert_count", int, 0)
        if not count:
            return {}
        usual = read_key(raw, f"{self.arch}.feed_forward_length", int)
        width = read_key(raw, f"{self.arch}.expert_feed_forward_length", int, usual)
        experts = Experts(count, read_key(raw, f"{self.arch}.expert_used_count", int), width, **implied)
        return {"experts": experts, "pattern": tuple(replace(kind, sparse=True) for kind in fields["pattern"])}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        if config.experts is None:
            return {}
        experts = config.experts
        shared = experts.shared_width
        return {
            f"{self.arch}.expert_count": experts.count,
            f"{self.arch}.expert_used_count": experts.top,
            f"{self.arch}.expert_feed_forward_length": experts.width,
            **({f"{self.arch}.expert_shared_feed_forward_length": shared} if shared else {}),
        }


# ---------------------------------------------------------------------------------------------------------- rotary


def read_rotary(raw: Mapping[str, Any], source: TensorSource, arch: str, head_width: int) -> Rotary:
    """The base and the scaling, which stands in the metadata or, by frequency, in tensors."""
    turned = read_key(raw, f"{arch}.rope.dimension_count", int, head_width)
    base = read_key(raw, f"{arch}.rope.freq_base", float, 10_000.0)
    width = None if turned == head_width else turned
    return Rotary(base, _read_scaling(raw, source, arch), width)


def _read_scaling(raw: Mapping[str, Any], source: TensorSource, arch: str) -> RotaryScaling | None:
    found = _said_scaling(raw, source, arch)
    magnitude = read_key(raw, f"{arch}.rope.scaling.attn_factor", float, 1.0)
    if magnitude != 1.0 and (found is None or found.kind not in ("yarn", "longrope")):
        raise UnsupportedModel(
            f"the model's rotary scaling is {'none' if found is None else found.kind}, and yet {arch}.rope.scaling."
            f"attn_factor is {magnitude}",
            "Of such scalings it must be 1: take another file of the model.",
        )
    return found


def _said_scaling(raw: Mapping[str, Any], source: TensorSource, arch: str) -> RotaryScaling | None:
    if "rope_freqs.weight" in source.tensors:
        base = read_key(raw, f"{arch}.rope.freq_base", float, 10_000.0)
        return by_factors(tuple(source.tensor("rope_freqs.weight").tolist()), base)
    context = read_key(raw, f"{arch}.context_length", int)
    original = read_key(raw, f"{arch}.rope.scaling.original_context_length", int, context)
    magnitude = read_key(raw, f"{arch}.rope.scaling.attn_factor", float, 1.0)
    if "rope_factors_long.weight" in source.tensors:
        short, long = (tuple(source.tensor(f"rope_factors_{name}.weight").tolist()) for name in ("short", "long"))
        return RotaryScaling(
            "longrope", context / original, original, factors=short, long_factors=long, magnitude=magnitude
        )
    # Files of before 2024 say "scale_linear".
    factor = read_key(raw, f"{arch}.rope.scale_linear", float, 1.0)
    factor = read_key(raw, f"{arch}.rope.scaling.factor", float, factor)
    kind = read_key(raw, f"{arch}.rope.scaling.type", str, "linear")
    kind = choose({"linear": "linear", "none": None, "yarn": "yarn"}, kind, "the rotary scaling (rope.scaling.type)")
    if kind is None or factor == 1.0:
        return None
    if kind == "linear":
        return RotaryScaling("linear", factor)
    return RotaryScaling(
        "yarn",
        factor,
        original,
        slow=read_key(raw, f"{arch}.rope.scaling.yarn_beta_slow", float, 1.0),
        fast=read_key(raw, f"{arch}.rope.scaling.yarn_beta_fast", float, 32.0),
        magnitude=magnitude * _temperature(factor),
    )


def _temperature(factor: float) -> float:
    """What YaRN multiplies cosine and sine by (arXiv 2309.00071, eq. 22); the file says only what differs from it."""
    return 1.0 + 0.1 * math.log(factor)


def by_factors(factors: tuple[float, ...], base: float) -> RotaryScaling:
    """Llama 3's scaling where the factors are those of its published models, so that a config.json can say it."""
    known = RotaryScaling("llama3", max(factors, default=1.0), 8192, slow=1.0, fast=4.0)
    plain, scaled = (frequencies(Rotary(base, scaling), 2 * len(factors)) for scaling in (None, known))
    if factors and np.allclose(plain / scaled, np.array(factors, np.float32), rtol=1e-4):
        return known
    return RotaryScaling("factors", factors=factors)


def write_rotary(config: ModelConfig, rotary: Rotary, arch: str) -> dict[str, Any]:
    """The keys of ``rotary``. What is said by tensors (see ``rotary_tensors``) is not among them."""
    said: dict[str, Any] = {
        f"{arch}.rope.freq_base": rotary.base,
        f"{arch}.rope.dimension_count": config.rotary_width(rotary),
    }
    scaling = rotary.scaling
    if scaling is None or scaling.kind in ("factors", "llama3"):
        return said
    if scaling.kind == "linear":
        return said | {f"{arch}.rope.scaling.type": "linear", f"{arch}.rope.scaling.factor": scaling.factor}
    if scaling.kind not in ("yarn", "longrope"):
        raise ValueError(f"GGUF has no words for the rotary scaling {scaling.kind}")
    said |= {f"{arch}.rope.scaling.original_context_length": scaling.original_context}
    usual = _temperature(scaling.factor) if scaling.kind == "yarn" else 1.0
    said |= {f"{arch}.rope.scaling.attn_factor": scaling.magnitude / usual}
    if scaling.kind == "yarn":
        said |= {f"{arch}.rope.scaling.type": "yarn", f"{arch}.rope.scaling.factor": scaling.factor}
        said |= {
            f"{arch}.rope.scaling.yarn_beta_slow": scaling.slow,
            f"{arch}.rope.scaling.yarn_beta_fast": scaling.fast,
        }
    return said


def rotary_factors(config: ModelConfig) -> dict[str, tuple[float, ...]]:
    """The tensors that say a model's rotary scaling by frequency, where it has such.

    Raises ValueError for layers whose scalings need different ones: a file has them once.
    """
    found = [tensors for kind in config.pattern if kind.rotary and (tensors := _factors(config, kind.rotary))]
    if any(tensors != found[0] for tensors in found):
        raise ValueError("its layers have different rotary factors, and a GGUF file has a single set of them")
    return found[0] if found else {}


def _factors(config: ModelConfig, rotary: Rotary) -> dict[str, tuple[float, ...]]:
    scaling = rotary.scaling
    if scaling is None:
        return {}
    if scaling.kind == "longrope":
        return {"rope_factors_short.weight": scaling.factors, "rope_factors_long.weight": scaling.long_factors}
    if scaling.kind == "factors":
        return {"rope_freqs.weight": scaling.factors}
    if scaling.kind == "llama3":
        width = config.rotary_width(rotary)
        plain = frequencies(Rotary(rotary.base, width=rotary.width), width)
        return {"rope_freqs.weight": tuple((plain / frequencies(rotary, width)).tolist())}
    return {}


def sayable(config: ModelConfig) -> ModelConfig:
    """``config`` in this format's words.

    A Llama 3 scaling that is not the published models' is said as well by factors of each frequency; a table of positions
    begins with the first; a pooler from whose state nothing is scored is left out.
    """

    def said(kind: LayerKind) -> LayerKind:
        rotary = kind.rotary
        if rotary is None or rotary.scaling is None or rotary.scaling.kind != "llama3":
            return kind
        factors = np.array(_factors(config, rotary)["rope_freqs.weight"], np.float32)  # in the type that the file has
        scaling = by_factors(tuple(factors.tolist()), rotary.base)
        return replace(kind, rotary=replace(rotary, scaling=scaling))

    scored = config.next_sentence or (config.classifier is not None and config.classifier.summary == "pooler")
    return replace(config, pattern=tuple(map(said, config.pattern)), position_offset=0, pooler=config.pooler and scored)
