"""A model's architecture as a few lines of text, from its configuration alone; nothing that it does not have is named.

embedding      49,152 tokens x 576
30 x block     x + attention(norm(x)), x + feedforward(norm(x))
  attention    9 heads of 64, 3 key/value heads, causal
               rotary, base 100,000
  feedforward  gated SiLU, 576 > 1,536 > 576
  norms        RMSNorm before each part, epsilon 1e-05
norm           RMSNorm
head           49,152 scores, tied to the embedding
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from hornbook.model.config import ModelConfig, Rotary

_ACTIVATIONS = {"silu": "SiLU", "gelu": "GELU", "gelu_tanh": "GELU (tanh)", "relu": "ReLU"}
_NORMS = {"rms": "RMSNorm", "layer": "LayerNorm"}
_FLOW = {
    "pre": "x + attention(norm(x)), x + feedforward(norm(x))",
    "post": "norm(x + attention(x)), norm(x + feedforward(x))",
    "both": "x + norm(attention(norm(x))), x + norm(feedforward(norm(x)))",
}
_CROSS = {
    "pre": "x + cross(norm(x))",
    "post": "norm(x + cross(x))",
    "both": "x + norm(cross(norm(x)))",
}


class Row(NamedTuple):
    """One line: a label, how deep it stands, what is to be said."""

    label: str
    text: str
    depth: int = 0


def draw(config: ModelConfig) -> list[Row]:
    """The rows from the tokens to the scores. An encoder comes first, its rows one deeper."""
    rows: list[Row] = []
    if config.encoder is not None:
        rows.append(Row("encoder", "reads the source; every block of the decoder looks at it"))
        rows += [row._replace(depth=row.depth + 1) for row in _stack(config.encoder, config.shared_tokens)]
        rows.append(Row("decoder", "writes"))
        return rows + [row._replace(depth=row.depth + 1) for row in _stack(config, False)]
    return _stack(config, False)


def _stack(config: ModelConfig, borrows: bool) -> list[Row]:
    count = f"{config.layers} x block"
    flow = _flow(config)
    if config.layer_groups is not None:
        flow += f" · {config.layer_groups} set{'s' * (config.layer_groups > 1)} of weights"
    rows = [Row("embedding", _embedding(config, borrows)), Row(count, flow)]
    rows += [Row("attention", text, 1) for text in _attention(config)]
    rows += [Row("feedforward", text, 1) for text in _feed_forward(config)]
    rows.append(Row("norms", _norms(config), 1))
    if config.final_norm:
        rows.append(Row("norm", _NORMS[config.norm]))
    rows += [Row("head", text) for text in _heads(config)]
    return rows


def _flow(config: ModelConfig) -> str:
    if config.parallel:
        second = "the same" if config.shared_norm else "norm(x)"
        return f"x + attention(norm(x)) + feedforward({second})"
    flow = _FLOW[config.norm_placement]
    if config.encoder is None:
        return flow
    first, second = flow.split("), ")
    return f"{first}), {_CROSS[config.norm_placement]}, {second}"


def _embedding(config: ModelConfig, borrows: bool) -> str:
    width = config.width if config.embedding_width is None else config.embedding_width
    said = ["the decoder's tokens" if borrows else f"{config.vocab_size:,} tokens x {width:,}"]
    if config.positions == "learned":
        said.append(f"+ {config.context_length:,} learned positions")
    if config.positions == "sinusoidal":
        said.append("+ sinusoidal positions")
    if config.token_types:
        said.append(f"+ {config.token_types} token types")
    if config.embedding_norm:
        said.append("> norm")
    if config.embedding_width is not None:
        said.append(f"> {config.width:,}")
    if config.embedding_scale != 1.0:
        said.append(f"· times {config.embedding_scale:.4g}")
    return " ".join(said)


def _attention(config: ModelConfig) -> list[str]:
    shared = f", {config.kv_heads} key/value head{'s' * (config.kv_heads > 1)}" * (config.kv_heads != config.heads)
    said = [f"{config.heads} heads of {config.head_width}{shared}"]
    if config.causal:
        said[0] += ", causal"
    else:
        said[0] += ", both directions"
    said.append(" · ".join(_positions(config)))
    extras = []
    if config.qk_norm is not None:
        over = "each head" if config.qk_norm == "head" else "all heads"
        extras.append(f"queries and keys normalised over {over}")
    if config.qkv_bias or config.attention_output_bias:
        extras.append("with biases")
    if config.attention_softcap is not None:
        extras.append(f"scores capped at {config.attention_softcap:g}")
    windows = _windows(config)
    return [text for text in (*said, windows, " · ".join(extras)) if text]


def _positions(config: ModelConfig) -> list[str]:
    rotaries = list(dict.fromkeys(kind.rotary for kind in config.pattern if kind.rotary is not None))
    said = [_rotary(config, rotary) for rotary in rotaries]
    if any(kind.rotary is None for kind in config.pattern) and rotaries:
        said.append("some layers without")
    if config.alibi is not None:
        said.append("ALiBi")
    if config.relative is not None:
        said.append(f"relative positions, {config.relative.buckets} buckets")
    return said


def _rotary(config: ModelConfig, rotary: Rotary) -> str:
    said = f"rotary, base {rotary.base:,.0f}"
    turned = config.rotary_width(rotary)
    if turned != config.head_width:
        said += f", {turned} of {config.head_width} dimensions"
    if rotary.scaling is not None:
        said += f", {rotary.scaling.kind} scaling"
    return said


def _windows(config: ModelConfig) -> str:
    windows = Counter(config.kind(layer).window for layer in range(config.layers))
    if set(windows) == {None}:
        return ""
    if len(windows) == 1:
        return f"window of {next(iter(windows)):,} tokens"
    pattern = config.pattern
    sizes = ", ".join(f"{window:,}" for window in sorted(w for w in windows if w is not None))
    local = sum(kind.window is not None for kind in pattern)
    if len(pattern) == config.layers:
        return f"window of {sizes} tokens in {config.layers - windows[None]} of {config.layers} layers"
    return f"window of {sizes} tokens in {local} of every {len(pattern)} layers"


def _feed_forward(config: ModelConfig) -> list[str]:
    activation = _ACTIVATIONS[config.activation]
    said = []
    sparse = [config.kind(layer).sparse for layer in range(config.layers)]
    if not all(sparse):
        gated = "gated " if config.gated else ""
        where = f" in {len(sparse) - sum(sparse)} layers" if any(sparse) else ""
        bias = ", with biases" * config.feedforward_bias
        said.append(
            f"{gated}{activation}, {config.width:,} > {config.feedforward_width:,} > {config.width:,}{bias}{where}"
        )
    if any(sparse) and config.experts is not None:
        experts = config.experts
        text = f"{experts.top} of {experts.count} experts, each {config.width:,} > {experts.width:,} > {config.width:,}"
        said.append(text + (f" in {sum(sparse)} layers" if not all(sparse) else ""))
        if experts.shared_width:
            said.append(f"and one of {experts.shared_width:,} for every token")
    return said


def _norms(config: ModelConfig) -> str:
    where = {"pre": "before each part", "post": "after each sum", "both": "before and after each part"}
    text = f"{_NORMS[config.norm]} {where[config.norm_placement]}, epsilon {config.norm_epsilon:g}"
    return text + (", one for both parts" if config.shared_norm else "")


def _heads(config: ModelConfig) -> list[str]:
    said = []
    if config.language_head:
        tied = "tied to the embedding" if config.tied_head else "a matrix of its own"
        cap = "" if config.logit_softcap is None else f", capped at {config.logit_softcap:g}"
        said.append(f"{config.vocab_size:,} scores, {tied}{cap}")
    if config.next_sentence:
        said.append("next sentence: 2 scores of the pooled first token")
    elif config.pooler:
        said.append("pooled first token")
    if config.classifier is not None:
        said.append(f"{len(config.classifier.labels)} labels of each {_OVER[config.classifier.over]}")
    if config.pooling is not None:
        said.append(f"one vector of {config.width:,} a text, {_POOLING[config.pooling]}")
    return said


_OVER = {"sequence": "text", "tokens": "token", "span": "token (start and end of a span)"}
_POOLING = {"mean": "the mean of its tokens", "first": "its first token", "last": "its last token"}
