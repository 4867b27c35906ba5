"""ModelConfig -> Plan: which operations a model is, in order, and which of its weights each of them reads.

    layer, pre     normed = Norm x     | qkv = Linear normed | HeadNorm, Turn qkv | mixed = Attend qkv | y = Linear mixed | x = x + y
                   normed = Norm x     | gate_up = Linear normed | inner = Gate gate_up | y = Linear inner                | x = x + y
           post    the same without the first norm, and x = Norm (x + y) at the end
           both    the same as pre, and normed = Norm y before the sum
           parallel    x + (attention + feedforward), from one norm of x or from two

Layers use the same few registers again and again, so a step's scratch does not grow with the number of layers.
No operation but Add, Act, HeadNorm, Turn and Cap writes to what it reads. Torch is not needed here, nor any weight.
"""

from __future__ import annotations

from hornbook.engine.plan import Act, Add, Attend, Cap, Embed, Gate, HeadNorm, Linear, Mix, Norm, Op, Plan, Select, Turn
from hornbook.errors import UnsupportedModel
from hornbook.model.config import ModelConfig


def lower(config: ModelConfig) -> Plan:
    """The plan of a decoder, which ends with logits [R, V], or of a model without a language head or an encoder, which has
    no Select and ends with the final hidden states [T, C].

    What a Transformer adds to hidden states beside its language head (pooler, labels) is not part of the plan.
    Raises UnsupportedModel, naming the reason, where the operations do not reach.
    """
    if reason := obstacle(config):
        raise UnsupportedModel(f"the engine cannot run a model that {reason}", "The plain generator can.")
    building = _Building(config)
    building.embedding()
    for layer in range(config.layers):
        building.layer(layer)
    building.end()
    return Plan(config, tuple(building.ops), building.widths)


def obstacle(config: ModelConfig) -> str | None:
    """Why a model cannot be lowered ("attends to an encoder"), or None."""
    if config.encoder is not None:
        return "attends to an encoder"
    if config.relative is not None:
        return "adds learned biases of relative positions to its scores"
    if config.alibi is not None and not config.causal:
        return "takes distances from its scores (ALiBi) in both directions"
    return None


def read_together(config: ModelConfig) -> list[tuple[str, ...]]:
    """The weights that a decoder's executor with torch joins: read so, they need not be copied (loading.load)."""
    if not (config.language_head and config.causal) or obstacle(config) is not None:
        return []
    return [op.weights for op in lower(config).ops if isinstance(op, Linear)]


class _Building:
    """The operations so far; each method appends some and returns the register that they leave their result in."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.ops: list[Op] = []
        self.widths: dict[str, int] = {}
        self.sites = 0

    def embedding(self) -> None:
        """-> x [T, C]."""
        config = self.config
        projected = config.embedding_width is not None
        width = config.width if config.embedding_width is None else config.embedding_width
        made = "embedded" if projected else "x"  # what the projection, where there is one, reads
        out = "raw" if config.embedding_norm else made
        positions = {"none": None, "sinusoidal": "sinusoidal", "learned": "embed.positions.weight"}[config.positions]
        offset = config.position_offset if config.positions == "learned" else 0
        types = "embed.types.weight" if config.token_types else None
        self._new(out, width)
        self.ops.append(Embed(out, "embed.tokens.weight", config.embedding_scale, positions, offset, types))
        if config.embedding_norm:
            self._norm(made, out, "embed.norm", width)
        if projected:
            self._linear("x", made, [("embed.projection", config.width, True)])

    def layer(self, layer: int) -> None:
        """x [T, C] -> x [T, C]."""
        config, block = self.config, f"blocks.{self.config.block(layer)}"
        if config.parallel:
            before = config.norm_placement != "post"
            first = self._norm("normed", "x", f"{block}.attention_norm") if before else "x"
            attended = self._attention("y", first, layer, block)
            second = first
            if before and not config.shared_norm:
                second = self._norm("normed", "x", f"{block}.feedforward_norm")
            fed = self._feedforward("z", second, layer, block)
            self.ops += [Add("y", attended, fed), Add("x", "x", "y")]
            return
        for part in ("attention", "feedforward"):
            read = "x"
            if config.norm_placement != "post" and not (part == "feedforward" and config.shared_norm):
                read = self._norm("normed", "x", f"{block}.{part}_norm")
            out = (self._attention if part == "attention" else self._feedforward)("y", read, layer, block)
            if config.norm_placement == "post":
                self.ops.append(Add("y", "x", out))
                self._norm("x", "y", f"{block}.{part}_post_norm")
                continue
            if config.norm_placement == "both":
                out = self._norm("normed", out, f"{block}.{part}_post_norm")
            self.ops.append(Add("x", "x", out))

    def end(self) -> None:
        """x [T, C] -> logits [R, V], or the final hidden states [T, C]."""
        config = self.config
        if not (config.causal and config.language_head):
            if config.final_norm:
                self._norm("hidden", "x", "norm")
            return
        self._new("rows", config.width)
        self.ops.append(Select("rows", "x"))
        out = self._norm("hidden", "rows", "norm") if config.final_norm else "rows"
        if config.head_transform:
            width = config.width if config.embedding_width is None else config.embedding_width
            out = self._linear("head", out, [("head.dense", width, True)])
            self.ops.append(Act(out, out, config.activation))
            out = self._norm("head_normed", out, "head.norm", width)
        if config.logit_scale != 1.0:  # before the head, whose bias is not scaled
            self.ops.append(Cap(out, out, config.logit_scale, None))
        weight = "embed.tokens.weight" if config.tied_head else "head.tokens.weight"
        self._new("logits", config.vocab_size)
        self._add_linear("logits", out, (weight,), ("head.bias" if config.head_bias else None,))
        if config.logit_softcap is not None:
            self.ops.append(Cap("logits", "logits", 1.0, config.logit_softcap))

    # -------------------------------------------------------------------------------------------------------- parts

    def _attention(self, out: str, read: str, layer: int, block: str) -> str:
        config, kind, prefix = self.config, self.config.kind(layer), f"{block}.attention"
        inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
        parts = [(f"{prefix}.{name}", width) for name, width in (("query", inner), ("key", shared), ("value", shared))]
        self._linear("qkv", read, [(*part, config.qkv_bias) for part in parts])
        runs = (("query", 0, config.heads), ("key", inner, config.kv_heads))  # which heads stand where in qkv
        if config.qk_norm is not None:
            for name, start, heads in runs:
                groups, width = (
                    (heads, config.head_width) if config.qk_norm == "head" else (1, heads * config.head_width)
                )
                weight = f"{prefix}.{name}_norm.weight"
                self.ops.append(HeadNorm("qkv", start, groups, width, weight, config.norm_epsilon, config.norm_offset))
        if kind.rotary is not None and config.rotary_width(kind.rotary):
            # Queries and keys stand side by side: they turn as one run of heads.
            self.ops.append(Turn("qkv", 0, config.heads + config.kv_heads, config.head_width, kind.rotary))
        self._new("mixed", inner)
        self.ops.append(
            Attend(
                "mixed", "qkv", layer, config.heads, config.kv_heads, config.head_width, config.scale, kind.window,
                config.causal, config.attention_softcap, config.alibi,
            )
        )  # fmt: skip
        return self._linear(out, "mixed", [(f"{prefix}.output", config.width, config.attention_output_bias)])

    def _feedforward(self, out: str, read: str, layer: int, block: str) -> str:
        config, prefix = self.config, f"{block}.feedforward"
        first = config.block(layer) * config.layers // (config.layer_groups or config.layers)
        if config.kind(first).sparse:  # a block that serves several layers is as the first of them has it
            assert config.experts is not None, "ModelConfig checks that sparse layers have experts"
            self._new(out, config.width)
            self.ops.append(Mix(out, read, prefix, config.experts, config.activation))
            return out
        width, bias = config.feedforward_width, config.feedforward_bias
        if config.gated:
            self._linear("gate_up", read, [(f"{prefix}.{name}", width, bias) for name in ("gate", "up")])
            self._new("inner", width)
            self.ops.append(Gate("inner", "gate_up", config.activation))
        else:
            self._linear("inner", read, [(f"{prefix}.up", width, bias)])
            self.ops.append(Act("inner", "inner", config.activation))
        return self._linear(out, "inner", [(f"{prefix}.down", config.width, bias)])

    def _norm(self, out: str, read: str, name: str, width: int | None = None) -> str:
        config = self.config
        self._new(out, config.width if width is None else width)
        layer = config.norm == "layer"
        bias = f"{name}.bias" if layer and config.norm_bias else None
        shift = 0.0 if layer else config.norm_offset
        self.ops.append(Norm(out, read, config.norm, f"{name}.weight", bias, config.norm_epsilon, shift))
        return out

    def _linear(self, out: str, read: str, parts: list[tuple[str, int, bool]]) -> str:
        """``parts``: of each weight the module's name, how wide its output is, and whether it has a bias."""
        self._new(out, sum(width for _, width, _ in parts))
        weights = tuple(f"{name}.weight" for name, _, _ in parts)
        return self._add_linear(out, read, weights, tuple(f"{name}.bias" if bias else None for name, _, bias in parts))

    def _add_linear(self, out: str, read: str, weights: tuple[str, ...], biases: tuple[str | None, ...]) -> str:
        self.ops.append(Linear(out, read, weights, biases, self.sites))
        self.sites += 1
        return out

    def _new(self, register: str, width: int) -> None:
        assert self.widths.setdefault(register, width) == width, f"{register} has two widths"
