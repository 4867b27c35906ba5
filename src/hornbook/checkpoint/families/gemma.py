"""Gemma 1 to 3, text: RMSNorms whose weights count from one, scaled embeddings, gated GELU by tanh, wide heads.

Gemma 2 normalises before and after each part, soft-caps scores and logits, and looks back over a window in every other
layer; Gemma 3 normalises queries and keys in place of the caps, and of every six layers five see a window and turn by a
short base. A Gemma 3 that reads images too is its text part here: the tensors of the vision tower are not used.

Sources: arXiv 2403.08295, 2408.00118, 2503.19786. In GGUF the norms' weights have the one added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key, read_nullable
from hornbook.checkpoint.rules import Shift, TensorSource, override, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import LayerKind, ModelConfig, Rotary

BASE, GLOBAL_BASE, WINDOW = 10_000.0, 1_000_000.0, 4096  # where a file does not say
PERIOD = {"gemma2": 2, "gemma3": 6}  # every how many layers one sees everything
CAPS = {"attn_logit_softcapping": "attention_softcap", "final_logit_softcapping": "logit_softcap"}
USUAL_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}  # of Gemma 2

NORMS: dict[int, dict[str, Any]] = {
    1: {"norm_offset": 1.0},
    2: {"norm_offset": 1.0, "norm_placement": "both"},
    3: {"norm_offset": 1.0, "norm_placement": "both", "qk_norm": "head"},
}


def _keys(kv_heads: int, context: int, **usual: int) -> tuple[Key, ...]:
    """``usual``: sizes that files of this Gemma leave out."""
    keys = (
        *hugging_face.decoder_keys(context, tied=True),
        *hugging_face.BIASES,
        Key("num_key_value_heads", "kv_heads", int, kv_heads),
        Key("head_dim", "head_width", int, 256),
    )
    return tuple(key._replace(default=usual.get(key.ours, key.default)) for key in keys)


def _refuse_encoder(raw: Mapping[str, Any]) -> None:
    if raw.get("use_bidirectional_attention"):
        raise UnsupportedModel("this Gemma reads in both directions", "Take a generating Gemma model.")


# -------------------------------------------------------------------------------------------------------- config.json


def read_1(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    _refuse_encoder(raw)
    # The first files say "gelu" and mean its form by tanh; later ones say so in a key of their own.
    said = raw.get("hidden_activation") or raw.get("hidden_act")
    activation = {} if said in (None, "gelu") else {"hidden_activation": said}
    return {
        "embedding_scale": fields["width"] ** 0.5,
        "activation": hugging_face.read_activation(activation, "hidden_activation", "gelu_pytorch_tanh"),
        "pattern": (LayerKind(rotary=hugging_face.read_rotary(raw, BASE)),),
    }


def write_1(config: ModelConfig) -> dict[str, Any]:
    activation = hugging_face.write_activation(config.activation)
    return {
        "hidden_act": activation,
        "hidden_activation": activation,
        **hugging_face.write_rotary(hugging_face.pattern_rotary(config)),
    }


def _read_layers(
    raw: Mapping[str, Any], fields: Fields, period: int, local: Rotary, whole: Rotary, window: int | None
) -> Fields:
    """What Gemma 2 and 3 say alike."""
    _refuse_encoder(raw)
    near, far = LayerKind(window, local), LayerKind(None, whole)
    windowed = hugging_face.read_windowed(raw, fields["layers"], lambda i: (i + 1) % period > 0)
    return {
        "embedding_scale": fields["width"] ** 0.5,
        "query_scale": read_key(raw, "query_pre_attn_scalar", float, 256.0) ** -0.5,
        "activation": hugging_face.read_activation(raw, "hidden_activation", "gelu_pytorch_tanh"),
        "pattern": tuple(near if is_local else far for is_local in windowed),
    }


def read_2(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    rotary, window = hugging_face.read_rotary(raw, BASE), read_nullable(raw, "sliding_window", int, WINDOW)
    caps = {ours: read_nullable(raw, theirs, float, USUAL_CAPS[theirs]) for theirs, ours in CAPS.items()}
    return _read_layers(raw, fields, PERIOD["gemma2"], rotary, rotary, window) | caps


def read_3(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    if raw.get("attn_logit_softcapping"):
        raise UnsupportedModel(
            f"this Gemma 3 says attn_logit_softcapping {raw['attn_logit_softcapping']}, which Gemma 3 does not do",
            "If it was trained without, set it to null in config.json.",
        )
    said = raw.get("rope_parameters")
    if isinstance(said, Mapping):
        bases = {hugging_face.WINDOWED: BASE, hugging_face.WHOLE: GLOBAL_BASE}
        context = raw.get("max_position_embeddings")
        local, whole = (
            hugging_face.read_rotary_parameters(said.get(name) or {}, base, context=context)
            for name, base in bases.items()
        )
    else:
        local = Rotary(read_key(raw, "rope_local_base_freq", float, BASE))
        whole = hugging_face.read_rotary(raw, GLOBAL_BASE)
    window = read_nullable(raw, "sliding_window", int, WINDOW)
    layers = _read_layers(
        raw, fields, read_key(raw, "sliding_window_pattern", int, PERIOD["gemma3"]), local, whole, window
    )
    return layers | {"logit_softcap": read_key(raw, "final_logit_softcapping", float, None)}


def _kinds(config: ModelConfig) -> tuple[LayerKind, LayerKind]:
    """The local kind and the whole one; raises ValueError where the layers are not of such kinds."""
    local = {kind for kind in config.pattern if kind.window is not None}
    whole = {kind for kind in config.pattern if kind.window is None}
    if len(local) > 1 or len(whole) > 1 or not all(kind.rotary for kind in config.pattern):
        raise ValueError("Gemma has layers of two kinds, local and whole, with rotary positions")
    first = next(iter(local or whole))
    return (*local, LayerKind(WINDOW, first.rotary))[0], (*whole, LayerKind(None, first.rotary))[0]


def _write_layers(config: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_activation": hugging_face.write_activation(config.activation),
        "query_pre_attn_scalar": round(config.scale**-2),
        **hugging_face.write_windowed(config),
        **{theirs: getattr(config, ours) for theirs, ours in CAPS.items()},
    }


def write_2(config: ModelConfig) -> dict[str, Any]:
    return _write_layers(config) | hugging_face.write_rotary(hugging_face.pattern_rotary(config))


def write_3(config: ModelConfig) -> dict[str, Any]:
    rotary = {
        name: kind.rotary
        for name, kind in zip((hugging_face.WINDOWED, hugging_face.WHOLE), _kinds(config), strict=True)
    }
    return _write_layers(config) | {
        "rope_parameters": {
            name: hugging_face.write_rotary_parameters(one) for name, one in rotary.items() if one is not None
        },
    }


SANDWICH_MAPS = override(
    hugging_face.DECODER,
    *table(
        {
            "blocks.{i}.attention_post_norm": ".layers.{i}.post_attention_layernorm",
            "blocks.{i}.feedforward_norm": ".layers.{i}.pre_feedforward_layernorm",
            "blocks.{i}.feedforward_post_norm": ".layers.{i}.post_feedforward_layernorm",
        }
    ),
)
HEADS_3 = hugging_face.decoder_heads("Gemma3Text")
HEADS_3 = {"Gemma3ForCausalLM": HEADS_3.pop("Gemma3TextForCausalLM"), **HEADS_3}
del HEADS_3["Gemma3TextForTokenClassification"]  # which transformers does not have

# A tied head may be in the file a second time.
GEMMA = Family(
    "gemma", _keys(16, 8192), hugging_face.DECODER, NORMS[1], read_1, write_1, hugging_face.decoder_heads("Gemma"),
    prefix="model", unused=(r".*rotary_emb\.inv_freq", r"lm_head\.weight"), twin="gemma",
)  # fmt: skip
GEMMA_2 = Family(
    "gemma2", _keys(4, 8192), SANDWICH_MAPS, NORMS[2], read_2, write_2, hugging_face.decoder_heads("Gemma2"),
    prefix="model", unused=(r"lm_head\.weight",), twin="gemma2",
)  # fmt: skip
GEMMA_3 = Family(
    "gemma3_text", _keys(4, 131_072, heads=8, vocab_size=262_208), SANDWICH_MAPS, NORMS[3], read_3, write_3, HEADS_3,
    prefix="model", unused=(r"lm_head\.weight", r"\.?(vision_tower|multi_modal_projector)\..*"), twin="gemma3",
    # the names in a model that reads images too: once "language_model.model.", today "model.language_model."
    aliases=((r"^(model\.)?language_model\.(model\.|(?!lm_head))", "model."), (r"^language_model\.lm_head", "lm_head")),
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- GGUF


def _gguf_fields(generation: int, arch: str) -> Callable[[Mapping[str, Any], TensorSource, Fields], Fields]:
    def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
        found = ggml.read_decoder(raw, source, fields, arch)
        found |= {"activation": "gelu_tanh", "embedding_scale": fields["width"] ** 0.5}
        return found if generation == 1 else found | _read_gguf_layers(raw, fields | found, arch)

    return read


def _read_gguf_layers(raw: Mapping[str, Any], fields: Fields, arch: str) -> Fields:
    # The 27B models alone scale by the width per head and not by the width of the heads (llama.cpp knows them so too).
    by_width = fields["layers"] == {"gemma2": 46, "gemma3": 62}[arch]
    rotary = fields["pattern"][0].rotary
    local = rotary
    if arch == "gemma3":
        if f"{arch}.rope.freq_base" not in raw:
            rotary = Rotary(GLOBAL_BASE, rotary.scaling, rotary.width)
        local = Rotary(read_key(raw, f"{arch}.rope.freq_base_swa", float, BASE))
    window = read_key(raw, f"{arch}.attention.sliding_window", int, WINDOW if arch == "gemma2" else None)
    near, far = LayerKind(window, local), LayerKind(None, rotary)
    # every how many layers, or for each whether
    said = raw.get(f"{arch}.attention.sliding_window_pattern", PERIOD[arch])
    windowed = [(i + 1) % said > 0 for i in range(fields["layers"])] if isinstance(said, int) else said
    usual = USUAL_CAPS if arch == "gemma2" else {}
    caps = {ours: read_key(raw, f"{arch}.{theirs}", float, usual.get(theirs)) for theirs, ours in CAPS.items()}
    scale = fields["width"] / fields["heads"] if by_width else fields["head_width"]
    return {"query_scale": scale**-0.5, "pattern": tuple(near if one else far for one in windowed), **caps}


def _gguf_words(arch: str) -> Callable[[ModelConfig], dict[str, Any]]:
    def write(config: ModelConfig) -> dict[str, Any]:
        local, whole = _kinds(config)
        assert local.rotary is not None and whole.rotary is not None
        caps = {f"{arch}.{theirs}": getattr(config, ours) for theirs, ours in CAPS.items()}
        return {
            **ggml.write_sizes(config, arch),
            **ggml.write_rotary(config, whole.rotary, arch),
            **({f"{arch}.rope.freq_base_swa": local.rotary.base} if arch == "gemma3" else {}),
            f"{arch}.attention.sliding_window": local.window,
            **{key: cap for key, cap in caps.items() if cap is not None},
        }

    return write


PLUS_ONE = tuple(m._replace(transform=Shift(1.0)) if "norm" in m.ours[0] else m for m in ggml.DECODER)
GGUF_1 = Family(
    "gemma", ggml.keys("gemma"), PLUS_ONE, NORMS[1], _gguf_fields(1, "gemma"),
    lambda config: ggml.write_decoder(config, "gemma"), twin="gemma",
)  # fmt: skip
GGUF_2, GGUF_3 = (
    Family(
        arch, ggml.keys(arch), PLUS_ONE, NORMS[generation], _gguf_fields(generation, arch), _gguf_words(arch), twin=twin
    )
    for generation, arch, twin in ((2, "gemma2", "gemma2"), (3, "gemma3", "gemma3_text"))
)
