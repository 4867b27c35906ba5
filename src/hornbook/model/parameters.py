"""The name and shape of every parameter that a Transformer of some configuration has, without torch and without the Transformer.

Whoever reads a file without building the model asks here; a test holds it to the modules themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

from hornbook.model.config import ModelConfig

Named = tuple[str, tuple[int, ...]]


def parameters(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape, in the order in which the modules stand."""
    return dict(_transformer(config, ""))


def _transformer(config: ModelConfig, at: str, *, tokens: bool = True) -> Iterator[Named]:
    """``tokens``: whether it has a table of tokens of its own."""
    if config.encoder is not None:
        yield from _transformer(config.encoder, f"{at}encoder.", tokens=not config.shared_tokens)
    width = config.width if config.embedding_width is None else config.embedding_width
    if tokens:
        yield f"{at}embed.tokens.weight", (config.vocab_size, width)
    if config.positions == "learned":
        yield f"{at}embed.positions.weight", (config.context_length + config.position_offset, width)
    if config.token_types:
        yield f"{at}embed.types.weight", (config.token_types, width)
    if config.embedding_norm:
        yield from _norm(config, f"{at}embed.norm", width)
    if config.embedding_width is not None:
        yield from _linear(f"{at}embed.projection", width, config.width, True)
    firsts = [i for i in range(config.layers) if i == 0 or config.block(i) != config.block(i - 1)]
    for block, layer in enumerate(firsts):
        yield from _block(config, layer, f"{at}blocks.{block}.")
    if config.final_norm:
        yield from _norm(config, f"{at}norm")
    if config.relative is not None:
        yield f"{at}relative.weight", (config.relative.buckets, config.heads)
    if config.language_head:
        yield from _language_head(config, f"{at}head.", width)
    if config.pooler:
        yield from _linear(f"{at}pooler.dense", config.width, config.width, True)
    if config.next_sentence:
        yield from _linear(f"{at}next_sentence", config.width, 2, True)
    if config.classifier is not None:
        yield from _linear(
            f"{at}classifier.linear", config.width, len(config.classifier.labels), config.classifier.bias
        )


def _block(config: ModelConfig, layer: int, at: str) -> Iterator[Named]:
    before, after = config.norm_placement != "post", config.norm_placement != "pre"

    def norms(name: str, *, first: bool = before) -> Iterator[Named]:
        if first:
            yield from _norm(config, f"{at}{name}_norm")
        if after:
            yield from _norm(config, f"{at}{name}_post_norm")

    yield from norms("attention")
    yield from _attention(config, f"{at}attention.", config.width)
    if config.encoder is not None:
        yield from norms("cross")
        yield from _attention(config, f"{at}cross.", config.encoder.width)
    yield from norms("feedforward", first=before and not config.shared_norm)
    if config.kind(layer).sparse:
        yield from _mixture(config, f"{at}feedforward.")
    else:
        yield from _feedforward(config, f"{at}feedforward.", config.feedforward_width)


def _attention(config: ModelConfig, at: str, source: int) -> Iterator[Named]:
    inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
    yield from _linear(f"{at}query", config.width, inner, config.qkv_bias)
    yield from _linear(f"{at}key", source, shared, config.qkv_bias)
    yield from _linear(f"{at}value", source, shared, config.qkv_bias)
    yield from _linear(f"{at}output", inner, config.width, config.attention_output_bias)
    if config.qk_norm is not None:
        head = config.qk_norm == "head"
        yield f"{at}query_norm.weight", (config.head_width if head else inner,)
        yield f"{at}key_norm.weight", (config.head_width if head else shared,)


def _feedforward(config: ModelConfig, at: str, inner: int) -> Iterator[Named]:
    if config.gated:
        yield from _linear(f"{at}gate", config.width, inner, config.feedforward_bias)
    yield from _linear(f"{at}up", config.width, inner, config.feedforward_bias)
    yield from _linear(f"{at}down", inner, config.width, config.feedforward_bias)


def _mixture(config: ModelConfig, at: str) -> Iterator[Named]:
    experts = config.experts
    assert experts is not None, "a sparse layer has experts: ModelConfig has checked it"
    yield f"{at}gate", (experts.count, experts.width, config.width)
    yield f"{at}up", (experts.count, experts.width, config.width)
    yield f"{at}down", (experts.count, config.width, experts.width)
    yield f"{at}router.weight", (experts.count, config.width)
    if experts.shared_width:
        yield from _feedforward(config, f"{at}shared.", experts.shared_width)
        if experts.shared_gate:
            yield f"{at}shared_gate.weight", (1, config.width)


def _language_head(config: ModelConfig, at: str, width: int) -> Iterator[Named]:
    if config.head_bias:
        yield f"{at}bias", (config.vocab_size,)
    if config.head_transform:
        yield from _linear(f"{at}dense", config.width, width, True)
        yield from _norm(config, f"{at}norm", width)
    if not config.tied_head:
        yield f"{at}tokens.weight", (config.vocab_size, width if config.head_transform else config.width)


def _norm(config: ModelConfig, at: str, width: int | None = None) -> Iterator[Named]:
    yield f"{at}.weight", (width or config.width,)
    if config.norm == "layer" and config.norm_bias:
        yield f"{at}.bias", (width or config.width,)


def _linear(at: str, source: int, target: int, bias: bool) -> Iterator[Named]:
    yield f"{at}.weight", (target, source)
    if bias:
        yield f"{at}.bias", (target,)
