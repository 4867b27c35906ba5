"""Gemma 1 to 3, text: RMSNorms whose weights count from one, scaled embeddings, gated GELU by tanh, wide heads.

Gemma 2 normalises before and after each part, soft-caps scores and logits, and looks back over a window in every other
layer; Gemma 3 normalises queries and keys in place of the caps, and of every six layers five see a window and turn by a
short base. A Gemma 3 that reads images too is its text part here: the tensors of the vision tower are not used.
Sources: arXiv 2403.08295, 2408.00118, 2503.19786. In GGUF the norms' weights have the one added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hornbook.checkpoint import ggml, hugging_face
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import Implied, Key, Only, Part, Words, read_key, read_nullable
from hornbook.checkpoint.rules import Shift, TensorSource, layer, override, table
from hornbook.errors import ModelFileError
from hornbook.model.config import LayerKind, ModelConfig, Rotary

BASE, GLOBAL_BASE, WINDOW = 10_000.0, 1_000_000.0, 4096  # where a file does not say
SHAPE = {"norm_offset": 1.0}
SHAPE_2 = SHAPE | {"norm_placement": "both"}  # one before each part and one after it
SHAPE_3 = SHAPE_2 | {"qk_norm": "head"}
SCALED = Implied("embedding_scale", lambda fields: fields["width"] ** 0.5)


def pattern(window: int | None, local: Rotary, whole: Rotary, windowed: Sequence[bool]) -> dict[str, Any]:
    """Layers of two kinds; ``windowed``: which are local."""
    return {"pattern": tuple(LayerKind(window, local) if near else LayerKind(None, whole) for near in windowed)}


def periodic(period: int, layers: int, name: str) -> list[bool]:
    """Which layers are local where one in every ``period``, the last of them, is not. ``name``: of the key that says it."""
    if period < 1:
        raise ModelFileError(f"{name} is {period}", "It must be at least 1: fetch the model again.")
    return [i % period > 0 for i in range(1, layers + 1)]


def kinds(config: ModelConfig) -> tuple[int, Rotary, Rotary]:
    """The window, how the local layers turn and how the whole ones do; raises ValueError where there are other kinds."""
    local = {kind for kind in config.pattern if kind.window is not None}
    whole = {kind for kind in config.pattern if kind.window is None}
    near, far = next(iter(local or whole)), next(iter(whole or local))
    if len(local) > 1 or len(whole) > 1 or near.rotary is None or far.rotary is None:
        raise ValueError("Gemma has layers of two kinds, local and whole, with rotary positions")
    return near.window or WINDOW, near.rotary, far.rotary


# -------------------------------------------------------------------------------------------------------- config.json


class Divisor(NamedTuple):
    """Scores are divided by the square root of query_pre_attn_scalar."""

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"query_scale": read_key(raw, "query_pre_attn_scalar", float, 256.0) ** -0.5}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"query_pre_attn_scalar": round(config.scale**-2)}


class Cap(NamedTuple):
    """A soft cap; 0, as well as a null, is none."""

    theirs: str
    ours: str
    usual: float | None  # where nothing is said
    nulls: bool = True  # whether the format has them

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {self.ours: read_nullable(raw, self.theirs, float, self.usual) or None}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        cap = getattr(config, self.ours)
        return {} if cap is None and not self.nulls else {self.theirs: cap}


class Layers3(NamedTuple):
    """``pattern``: local layers and whole ones, each with rotary positions of its own; older files say them in keys outside of
    ``rope_parameters``, which count where it does not say."""

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        said, context = hugging_face.rope_object(raw, "rope_parameters"), raw.get("max_position_embeddings")
        scaled = {hugging_face.WHOLE: hugging_face.rope_object(raw, "rope_scaling")}  # of the whole layers alone
        local, whole = (
            hugging_face.read_rotary_parameters(
                {**hugging_face.rope_object(said, name), **scaled.get(name, {})},
                read_key(raw, outside, float, base), context=context,
            )
            for name, outside, base in (
                (hugging_face.WINDOWED, "rope_local_base_freq", BASE), (hugging_face.WHOLE, "rope_theta", GLOBAL_BASE)
            )
        )  # fmt: skip
        usual = periodic(read_key(raw, "sliding_window_pattern", int, 6), fields["layers"], "sliding_window_pattern")
        return pattern(
            read_nullable(raw, "sliding_window", int, WINDOW), local, whole,
            hugging_face.read_windowed(raw, fields["layers"], usual.__getitem__),
        )  # fmt: skip

    def write(self, config: ModelConfig) -> dict[str, Any]:
        rotary = zip((hugging_face.WINDOWED, hugging_face.WHOLE), kinds(config)[1:], strict=True)
        said = {name: hugging_face.write_rotary_parameters(one) for name, one in rotary}
        return hugging_face.write_windowed(config) | {"rope_parameters": said}


def sizes(kv_heads: int, context: int, **usual: int) -> tuple[Part, ...]:
    """``usual``: sizes that files of this Gemma leave out."""
    heads = (Key("num_key_value_heads", "kv_heads", int, kv_heads), Key("head_dim", "head_width", int, 256))
    keys = (*hugging_face.decoder_keys(context, tied=True), *hugging_face.BIASES, *heads)
    keys = tuple(key._replace(default=usual.get(key.ours, key.default)) for key in keys)
    return (Only("use_bidirectional_attention", False, "reads in both directions"), *keys, SCALED)


TANH = "gelu_pytorch_tanh"
# The first files say "gelu" and mean its form by tanh; later ones say so in a key of their own, which goes first.
GELU = Words({TANH: "gelu_tanh"} | hugging_face.ACTIVATIONS | {"gelu": "gelu_tanh"})
KEYS_1: tuple[Part, ...] = (
    *sizes(16, 8192), hugging_face.Rope(BASE),
    Key("hidden_act", "activation", GELU, TANH),
    Key("hidden_activation", "activation", GELU, TANH, older="hidden_act"),
)  # fmt: skip
LATER = (Key("hidden_activation", "activation", hugging_face.ACTIVATION, TANH), Divisor())
KEYS_2: tuple[Part, ...] = (
    *sizes(4, 8192), *LATER, hugging_face.Rope(BASE), hugging_face.Windows(WINDOW, lambda i, raw: i % 2 == 0),
    Cap("attn_logit_softcapping", "attention_softcap", 50.0),
    Cap("final_logit_softcapping", "logit_softcap", 30.0),
)  # fmt: skip
KEYS_3: tuple[Part, ...] = (
    *sizes(4, 131_072, heads=8, vocab_size=262_208), *LATER, Layers3(),
    Only("attn_logit_softcapping", 0.0, "soft-caps its scores, which Gemma 3 does not do"),
    Cap("final_logit_softcapping", "logit_softcap", None),
)  # fmt: skip
MAPS_2 = override(hugging_face.DECODER, *table(layer(".layers.{i}.", {
    "attention_post_norm": "post_attention_layernorm",
    "feedforward_norm": "pre_feedforward_layernorm", "feedforward_post_norm": "post_feedforward_layernorm",
})))  # fmt: skip
HEADS_3 = hugging_face.decoder_heads("Gemma3Text")
HEADS_3 = {"Gemma3ForCausalLM": HEADS_3.pop("Gemma3TextForCausalLM"), **HEADS_3}
del HEADS_3["Gemma3TextForTokenClassification"]  # which transformers does not have

GEMMA = Family(
    "gemma", KEYS_1, hugging_face.DECODER, SHAPE, heads=hugging_face.decoder_heads("Gemma"), prefix="model",
    unused=hugging_face.UNUSED, twin="gemma",
)  # fmt: skip
GEMMA_2 = Family(
    "gemma2", KEYS_2, MAPS_2, SHAPE_2, heads=hugging_face.decoder_heads("Gemma2"), prefix="model",
    unused=hugging_face.UNUSED, twin="gemma2",
)  # fmt: skip
GEMMA_3 = Family(
    "gemma3_text", KEYS_3, MAPS_2, SHAPE_3, heads=HEADS_3, prefix="model",
    unused=(*hugging_face.UNUSED, r"\.?(vision_tower|multi_modal_projector)\..*"), twin="gemma3",
    # the names in a model that reads images too: once "language_model.model.", today "model.language_model."
    aliases=((r"^(model\.)?language_model\.(model\.|(?!lm_head))", "model."), (r"^language_model\.lm_head", "lm_head")),
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- GGUF


class LayersGGUF(NamedTuple):
    """``pattern``: local layers and whole ones. Given are the values of a file that does not say."""

    arch: str
    period: int  # every how many layers one sees everything; a file says it, or for each layer whether it is local
    window: int | None
    base: float
    local: float | None = None  # the base of local layers, None: they turn as the others do

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        raw = {f"{self.arch}.rope.freq_base": self.base, **raw}
        whole = ggml.read_rotary(raw, source, self.arch, fields["head_width"])
        return pattern(
            read_key(raw, f"{self.arch}.attention.sliding_window", int, self.window),
            Rotary(read_key(raw, f"{self.arch}.rope.freq_base_swa", float, self.local)) if self.local else whole, whole,
            self.windowed(raw.get(f"{self.arch}.attention.sliding_window_pattern", self.period), fields["layers"]),
        )  # fmt: skip

    def windowed(self, said: Any, layers: int) -> list[bool]:
        """Which layers are local. Raises ModelFileError for what is neither a period nor an answer for each layer."""
        name = f"{self.arch}.attention.sliding_window_pattern"
        if type(said) is int:
            return periodic(said, layers, name)
        near = list(said) if isinstance(said, (list, np.ndarray)) else []
        bools = sum(isinstance(one, (bool, np.bool_)) for one in near)
        if len(near) != layers or bools != layers:
            raise ModelFileError(
                f"{name} has {len(near)} entries, {bools} of them true or false, for {layers} layers",
                "It must be a number, or say true or false for each layer.",
            )
        return [bool(one) for one in near]

    def write(self, config: ModelConfig) -> dict[str, Any]:
        window, local, whole = kinds(config)
        said = ggml.write_rotary(config, whole, self.arch) | {f"{self.arch}.attention.sliding_window": window}
        return said | ({f"{self.arch}.rope.freq_base_swa": local.base} if self.local else {})


def keys_gguf(layers: LayersGGUF, largest: int, score_cap: float | None, logit_cap: float | None) -> tuple[Part, ...]:
    """``largest``: how many layers the 27B model has. It alone scales scores by the width per head and not by that of the
    heads, which no file says: llama.cpp, too, knows it by its layers."""

    def scale(fields: Mapping[str, Any]) -> Any:
        return (fields["width"] / fields["heads"] if fields["layers"] == largest else fields["head_width"]) ** -0.5

    return (
        *ggml.sizes(layers.arch), SCALED, layers, Implied("query_scale", scale),
        Cap(f"{layers.arch}.attn_logit_softcapping", "attention_softcap", score_cap, nulls=False),
        Cap(f"{layers.arch}.final_logit_softcapping", "logit_softcap", logit_cap, nulls=False),
    )  # fmt: skip


PLUS_ONE = tuple(m._replace(transform=Shift(1.0)) if "norm" in m.ours[0] else m for m in ggml.DECODER)
TANH_GGUF = {"activation": "gelu_tanh"}
KEYS_GGUF_2 = keys_gguf(LayersGGUF("gemma2", 2, WINDOW, BASE), 46, 50.0, 30.0)
KEYS_GGUF_3 = keys_gguf(LayersGGUF("gemma3", 6, None, GLOBAL_BASE, BASE), 62, None, None)
GGUF_1 = Family("gemma", (*ggml.decoder("gemma"), SCALED), PLUS_ONE, SHAPE | TANH_GGUF, twin="gemma")
GGUF_2 = Family("gemma2", KEYS_GGUF_2, PLUS_ONE, SHAPE_2 | TANH_GGUF, twin="gemma2")
GGUF_3 = Family("gemma3", KEYS_GGUF_3, PLUS_ONE, SHAPE_3 | TANH_GGUF, twin="gemma3_text")
