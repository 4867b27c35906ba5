"""What the config.json files of many architectures share: activations, how rotary positions are said, names of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from hornbook.checkpoint.fields import Key, Part, Words, choose, head_width, read_key, read_nullable
from hornbook.checkpoint.rules import Map, Stacked, Table, TensorSource, table
from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.model.config import Classifier, Experts, LayerKind, ModelConfig, Rotary, RotaryScaling

# The first of several names for one function is the one that is written.
ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
ACTIVATION = Words(ACTIVATIONS)
OLD_ACTIVATION = Words({"gelu_new": "gelu_tanh"} | ACTIVATIONS)  # how files of GPT-2's time are written

# The names that Llama gave its tensors, and that most decoders since have kept.
DECODER = table(
    {
        "embed.tokens": ".embed_tokens",
        "norm": ".norm",
        "head.tokens": "lm_head",
        "classifier.linear": "score",
        "blocks.{i}.attention_norm": ".layers.{i}.input_layernorm",
        "blocks.{i}.attention.query": ".layers.{i}.self_attn.q_proj",
        "blocks.{i}.attention.key": ".layers.{i}.self_attn.k_proj",
        "blocks.{i}.attention.value": ".layers.{i}.self_attn.v_proj",
        "blocks.{i}.attention.output": ".layers.{i}.self_attn.o_proj",
        "blocks.{i}.attention.query_norm": ".layers.{i}.self_attn.q_norm",
        "blocks.{i}.attention.key_norm": ".layers.{i}.self_attn.k_norm",
        "blocks.{i}.feedforward_norm": ".layers.{i}.post_attention_layernorm",
        "blocks.{i}.feedforward.gate": ".layers.{i}.mlp.gate_proj",
        "blocks.{i}.feedforward.up": ".layers.{i}.mlp.up_proj",
        "blocks.{i}.feedforward.down": ".layers.{i}.mlp.down_proj",
    }
)


# Tensors that hold nothing of ours: rotary angles, which are computed; a tied head that is in the file a second time.
UNUSED = (r".*rotary_emb\.inv_freq", r"lm_head\.weight")


KV_HEADS = Key("num_key_value_heads", "kv_heads", int, lambda fields: fields["heads"])


def decoder_keys(
    context: int = 2048, epsilon: float = 1e-6, *, tied: bool = False, norm: str = "rms_norm_eps"
) -> tuple[Key, ...]:
    """What they say of its sizes under one name each; given are the values of a file that does not say."""
    return (
        Key("vocab_size", "vocab_size", int),
        Key("hidden_size", "width", int),
        Key("intermediate_size", "feedforward_width", int),
        Key("num_hidden_layers", "layers", int),
        Key("num_attention_heads", "heads", int),
        Key("max_position_embeddings", "context_length", int, context),
        Key(norm, "norm_epsilon", float, epsilon),
        Key("tie_word_embeddings", "tied_head", bool, tied),
        Key("attention_dropout", "attention_dropout", float, 0.0),
    )


WINDOWED, WHOLE = "sliding_attention", "full_attention"
BIASED = ("qkv_bias", "attention_output_bias")
BIASES = tuple(Key("attention_bias", ours, bool, False) for ours in BIASED)


def decoder_heads(stem: str, language: str = "ForCausalLM") -> dict[str, dict[str, Any]]:
    """The classes that transformers has for a decoder: it scores a text by its last token."""
    return {
        f"{stem}{language}": {"language_head": True, "classifier": None},
        f"{stem}Model": {"language_head": False, "classifier": None},
        f"{stem}ForSequenceClassification": {
            "language_head": False,
            "classifier": Classifier("sequence", (), bias=False, summary="last"),
        },
        f"{stem}ForTokenClassification": {
            "language_head": False,
            "classifier": Classifier("tokens", (), summary="last"),
        },
    }


# ---------------------------------------------------------------------------------------------- layers: the pattern


class Rope(NamedTuple):
    """``pattern``: layers that all turn alike. Given are the values of a file that does not say."""

    base: float = 10_000.0
    part: float | None = None  # how much of each head turns; None: all of it, whatever a file says
    older: tuple[str, str] = ("", "")  # what base and part were called before

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        base = read_key(raw, self.older[0], float, self.base)
        if self.part is None:
            return {"pattern": (LayerKind(rotary=read_rotary(raw, base)),)}
        part = read_key(raw, self.older[1], float, self.part)
        raw = {"partial_rotary_factor": part, **raw}
        return {"pattern": (LayerKind(rotary=read_rotary(raw, base, head_width=fields["head_width"])),)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return write_rotary(pattern_rotary(config), None if self.part is None else config.head_width)


class Window(NamedTuple):
    """The window of a ``pattern`` that is read: one for all layers, a null for none. ``usual``: where nothing is said."""

    usual: int | None

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        window = read_nullable(raw, "sliding_window", int, self.usual)
        if len(set(read_windowed(raw, fields["layers"], lambda i: window is not None))) > 1:
            raise UnsupportedModel(
                "the layers of this model differ (layer_types)", "In this family they are all alike: take one such."
            )
        return {"pattern": tuple(replace(kind, window=window) for kind in fields["pattern"])}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """Raises ValueError where windows differ."""
        (window,) = {kind.window for kind in config.pattern}
        return {"sliding_window": window}


class Windows(NamedTuple):
    """The window of a ``pattern`` that is read, in some layers: in those that layer_types says."""

    usual: int  # the window, where nothing is said; a null is none
    near: Callable[[int, Mapping[str, Any]], bool]  # whether layer i, from 0, has it, where layer_types does not say
    switch: str = ""  # a key that must be true for any to have it

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        on = not self.switch or read_key(raw, self.switch, bool, False)
        window = read_nullable(raw, "sliding_window", int, self.usual) if on else None
        windowed = read_windowed(raw, fields["layers"], lambda i: self.near(i, raw))
        kinds = fields["pattern"]
        return {
            "pattern": tuple(
                replace(kinds[i % len(kinds)], window=window if near else None) for i, near in enumerate(windowed)
            )
        }

    def write(self, config: ModelConfig) -> dict[str, Any]:
        said = write_windowed(config)
        return said | ({self.switch: said["sliding_window"] is not None} if self.switch else {})


class Mixture(NamedTuple):
    """Every feed-forward of a ``pattern`` that is read is a mixture."""

    experts: tuple[Part, ...]  # what is said of it: the ``ours`` of these are fields of Experts

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        said: dict[str, Any] = {}
        for part in self.experts:
            said |= part.read(raw, source, {**fields, **said})
        return {"experts": Experts(**said), "pattern": tuple(replace(kind, sparse=True) for kind in fields["pattern"])}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        experts: Any = config.experts  # of which parts read what they name, as of a ModelConfig
        return {} if experts is None else {k: v for part in self.experts for k, v in part.write(experts).items()}


def experts(prefix: str, **names: str) -> Table:
    """A mixture's gate, up and down, each expert's in a tensor of its own; ``prefix``, with "{e}", stands before the names."""
    return tuple(
        Map((f"blocks.{{i}}.feedforward.{ours}",), (f"{prefix}{theirs}.weight",), Stacked())
        for ours, theirs in names.items()
    )


def decoder(
    context: int = 2048,
    epsilon: float = 1e-6,
    *,
    tied: bool = False,
    norm: str = "rms_norm_eps",
    rope: Part | None = None,
) -> tuple[Part, ...]:
    """All that a Llama says but its biases: sizes, heads, activation, and how its layers turn, which is alike."""
    return (
        *decoder_keys(context, epsilon, tied=tied, norm=norm),
        KV_HEADS,
        Key("head_dim", "head_width", int, head_width),
        Key("hidden_act", "activation", ACTIVATION, "silu"),
        rope or Rope(),
    )


# ---------------------------------------------------------------------------------------------------------- rotary


def read_rotary(raw: Mapping[str, Any], base: float, *, head_width: int | None = None) -> Rotary:
    """From ``rope_parameters``, in whose place an older ``rope_scaling`` goes, and where they do not say a base, ``rope_theta``.

    head_width: for families that turn a part of a head (``partial_rotary_factor``).
    """
    said = rope_object(raw, "rope_scaling") or rope_object(raw, "rope_parameters")
    base = read_key(raw, "rope_theta", float, base)
    if any(isinstance(value, Mapping) for value in said.values()):
        raise UnsupportedModel(
            f"the layers of this model turn differently (rope_parameters of {', '.join(map(str, said))})",
            "In this family they are all alike: take one such.",
        )
    if raw.get("original_max_position_embeddings") is not None:  # what stands outside goes first, in transformers too
        said = {**said, "original_max_position_embeddings": raw["original_max_position_embeddings"]}
    part = said.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    width = None
    if head_width is not None and part is not None and float(part) != 1.0:
        width = int(head_width * float(part))
    return read_rotary_parameters(said, base, context=raw.get("max_position_embeddings"), width=width)


def rope_object(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """``raw[name]``, empty where nothing is said. Raises ModelFileError for what is no object."""
    said = {} if raw.get(name) is None else raw[name]
    if not isinstance(said, Mapping):
        raise ModelFileError(f"{name} is {said!r:.60}, not an object", "Fetch the model's config.json again.")
    return said


def read_rotary_parameters(
    said: Mapping[str, Any], base: float, *, context: Any = None, width: int | None = None
) -> Rotary:
    """``context``: the model's max_position_embeddings, which some scalings start from where they do not say."""
    base = read_key(said, "rope_theta", float, base)
    kind = said.get("rope_type", said.get("type", "default"))
    scaling: RotaryScaling | None = choose(_SCALINGS, str(kind), "the rotary scaling (rope_type)")(said, context)
    return Rotary(base, scaling, width)


def write_rotary(rotary: Rotary, head_width: int | None = None) -> dict[str, Any]:
    """The inverse of ``read_rotary``: the key rope_parameters."""
    said = write_rotary_parameters(rotary)
    if head_width is not None:
        said["partial_rotary_factor"] = 1.0 if rotary.width is None else rotary.width / head_width
    return {"rope_parameters": said}


def write_rotary_parameters(rotary: Rotary) -> dict[str, Any]:
    """Raises ValueError for what this format has no place for."""
    scaling = rotary.scaling
    if rotary.interleaved:
        raise ValueError("interleaved rotary positions are not said in a config.json")
    if scaling is None:
        return {"rope_type": "default", "rope_theta": rotary.base}
    if scaling.kind not in _SCALINGS:
        raise ValueError(f"the rotary scaling {scaling.kind} cannot be written to a config.json")
    said: dict[str, Any] = {"rope_type": scaling.kind, "rope_theta": rotary.base, "factor": scaling.factor}
    if scaling.kind not in ("linear", "dynamic"):
        said["original_max_position_embeddings"] = scaling.original_context
    if scaling.kind == "llama3":
        said |= {"low_freq_factor": scaling.slow, "high_freq_factor": scaling.fast}
    if scaling.kind == "yarn":
        said |= {"beta_slow": scaling.slow, "beta_fast": scaling.fast, "attention_factor": scaling.magnitude}
    if scaling.kind == "longrope":
        said |= {"short_factor": list(scaling.factors), "long_factor": list(scaling.long_factors)}
        said |= {"attention_factor": scaling.magnitude}
    return said


def _plain(said: Mapping[str, Any], context: Any) -> None:
    return None


def _linear(said: Mapping[str, Any], context: Any) -> RotaryScaling:
    return RotaryScaling("linear", read_key(said, "factor", float))


def _dynamic(said: Mapping[str, Any], context: Any) -> RotaryScaling:
    original = read_key({"max_position_embeddings": context}, "max_position_embeddings", int)
    return RotaryScaling("dynamic", read_key(said, "factor", float), original)


def _yarn(said: Mapping[str, Any], context: Any) -> RotaryScaling:
    if not read_key(said, "truncate", bool, True):
        raise UnsupportedModel("YaRN's band is not cut to whole frequencies (truncate)", "Take a model that says true.")
    factor, original = said.get("factor"), _original(said, context)
    factor = float(context) / original if factor is None else read_key(said, "factor", float)

    def temperature(scale: float) -> float:  # arXiv 2309.00071, eq. 22
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    scales = [read_key(said, name, float, 0.0) for name in ("mscale", "mscale_all_dim")]
    usual = temperature(scales[0]) / temperature(scales[1]) if all(scales) else temperature(1.0)
    return RotaryScaling(
        "yarn",
        factor,
        original,
        slow=read_key(said, "beta_slow", float, 1.0),
        fast=read_key(said, "beta_fast", float, 32.0),
        magnitude=read_key(said, "attention_factor", float, usual),
    )


def _llama3(said: Mapping[str, Any], context: Any) -> RotaryScaling:
    return RotaryScaling(
        "llama3",
        read_key(said, "factor", float),
        _original(said, context),
        slow=read_key(said, "low_freq_factor", float),
        fast=read_key(said, "high_freq_factor", float),
    )


def _longrope(said: Mapping[str, Any], context: Any) -> RotaryScaling:
    original = _original(said, context)
    factor = read_key(said, "factor", float, float(context or original) / original)
    usual = (
        1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    )  # arXiv 2402.13753, section 3.3
    return RotaryScaling(
        "longrope",
        factor,
        original,
        factors=tuple(map(float, said["short_factor"])),
        long_factors=tuple(map(float, said["long_factor"])),
        magnitude=read_key(said, "attention_factor", float, usual),
    )


def _original(said: Mapping[str, Any], context: Any) -> int:
    return int(read_key(said, "original_max_position_embeddings", int, context))


_SCALINGS = {
    "default": _plain,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
    "su": _longrope,  # what Phi-3 first called it
}


def read_windowed(raw: Mapping[str, Any], layers: int, usual: Callable[[int], bool]) -> list[bool]:
    """Which layers see a window only, by ``layer_types``; ``usual`` tells of a layer, from 0, where nothing is said."""
    types = raw.get("layer_types")
    if types is None:
        return [usual(i) for i in range(layers)]
    if len(types) != layers or not set(types) <= {WINDOWED, WHOLE}:
        raise ModelFileError(
            f"layer_types has {len(types)} entries of {sorted(set(map(str, types)))} for {layers} layers",
            f"It must say {WINDOWED} or {WHOLE} for each layer.",
        )
    return [name == WINDOWED for name in types]


def write_windowed(config: ModelConfig) -> dict[str, Any]:
    """The keys sliding_window and layer_types; raises ValueError for more windows than one."""
    windows = {kind.window for kind in config.pattern} - {None}
    if len(windows) > 1:
        raise ValueError("its layers have windows of several sizes")
    kinds = [config.kind(i) for i in range(config.layers)]
    return {
        "sliding_window": next(iter(windows), None),
        "layer_types": [WHOLE if kind.window is None else WINDOWED for kind in kinds],
    }


def pattern_rotary(config: ModelConfig) -> Rotary:
    """The one rotary of a model whose layers all have it; raises ValueError for others."""
    rotaries = {kind.rotary for kind in config.pattern}
    rotary = next(iter(rotaries))
    if len(rotaries) > 1 or rotary is None:
        raise ValueError("its layers do not all turn alike")
    return rotary
