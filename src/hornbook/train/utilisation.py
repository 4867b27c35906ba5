"""How much of a device's arithmetic a training uses: model FLOP utilisation, PaLM's measure (arXiv 2204.02311, appendix B).

    utilisation = tokens a second * (6 N + 12 L H Q T) / the device's peak

6 N      two operations a weight on the way forward and four on the way back; N counts each weight that a token is multiplied
         with: blocks and head, not tables that are only looked up in, and of a mixture the experts that a token passes
12 LHQT  the scores and sums of L layers, H heads of width Q over T tokens. As in the paper it is T for each token though a
         causal one sees T / 2 on average: the measure is for comparing, and others count so. Of a layer with a window
         it is no more than the window

What is computed twice (activation checkpointing) is not counted: it is work, but none of the model's.
"""

from __future__ import annotations

from hornbook.model.config import ModelConfig
from hornbook.model.transformer import Transformer

# 10^12 operations a second, bfloat16 products summed up in float32, dense, by the makers' data sheets. The first name that is
# a part of the device's own counts.
PEAKS = {
    "B300": 2250.0,
    "B200": 2250.0,
    "GH200": 989.4,
    "H200": 989.4,
    "H100 PCIe": 756.5,
    "H100 NVL": 835.5,
    "H100": 989.4,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.1,
    "L40": 181.1,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.2,
    "MI300X": 1307.4,
}


def peak(device: str) -> float | None:
    """Operations a second of the device of that name (torch.cuda.get_device_name); None for one that is not in the table."""
    return next((value * 1e12 for name, value in PEAKS.items() if name in device), None)


def operations(model: Transformer, context: int) -> float:
    """Of one token of a training in texts of ``context`` tokens. For a model without an encoder, which reads two texts."""
    config = model.config
    if config.encoder is not None:
        raise ValueError("a model with an encoder reads two texts: their tokens do not cost the same")
    return 6 * _multiplied(model) + 12 * _seen(config, context) * config.heads * config.head_width


def utilisation(model: Transformer, context: int, tokens_a_second: float, peak: float) -> float:
    """The share of ``peak`` operations a second that training so many tokens a second needs, 0 to 1."""
    return tokens_a_second * operations(model, context) / peak


def _multiplied(model: Transformer) -> int:
    config = model.config
    number = sum(weight.numel() for weight in model.parameters())
    tables = [model.embed.positions, model.embed.types]
    if not (config.language_head and config.tied_head):
        tables.append(model.embed.tokens)
    number -= sum(table.weight.numel() for table in tables if table is not None)
    if config.layer_groups is not None:
        number += sum(w.numel() for w in model.blocks.parameters()) * (config.layers // config.layer_groups - 1)
    if config.experts is not None:
        idle = (config.experts.count - config.experts.top) * 3 * config.experts.width * config.width
        number -= idle * sum(config.kind(layer).sparse for layer in range(config.layers))
    return number


def _seen(config: ModelConfig, context: int) -> int:
    """Keys that are counted of one token, over the layers."""
    windows = (config.kind(layer).window for layer in range(config.layers))
    return sum(context if window is None else min(window, context) for window in windows)
