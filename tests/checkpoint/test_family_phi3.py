"""Phi-3 and Phi-4: fused matrices, rotary frequencies that depend on the length, parts of heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family_parity import SMALL, Case, loaded

from hornbook.checkpoint import families
from hornbook.checkpoint.saving import Shapes

SAID = SMALL | {"num_key_value_heads": 2}


def longrope(original: int, pairs: int = 4, **more: object) -> dict[str, object]:
    """``original``: the first context; texts of the checks have 37 and 47 tokens."""
    scaling = {"rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0, 1.5, 2.0, 2.5][:pairs]}
    scaling |= {"long_factor": [1.5, 3.0, 6.0, 12.0][:pairs]}
    return {"original_max_position_embeddings": original, "rope_parameters": scaling | more}


def phi3(name: str, in_gguf: bool = True, **changes: object) -> Case:
    return Case(f"phi 3, {name}", "Phi3ForCausalLM", SAID | changes, in_gguf=in_gguf)


CASES = [
    phi3("grouped"),
    phi3("multi-head, a window", False, num_key_value_heads=6, sliding_window=5),
    phi3("within the first context", False, **longrope(128)),
    phi3("beyond the first context", **longrope(16)),
    phi3("parts of heads, tied", tie_word_embeddings=True, **longrope(16, 3, partial_rotary_factor=0.75)),
    phi3("a temperature of its own", False, **longrope(16, attention_factor=1.3)),
]


@pytest.mark.parametrize("name", ["su", "yarn", "longrope"])
def test_the_scaling_of_the_first_files_has_other_names(name: str, tmp_path: Path) -> None:
    checkpoint = loaded(CASES[3], tmp_path)
    raw = {key: value for key, value in checkpoint.metadata.items() if key not in ("rope_parameters", "rope_theta")}
    scaling = {"type": name, "short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [1.5, 3.0, 6.0, 12.0]}
    assert checkpoint.family.read_config(raw | {"rope_scaling": scaling}, Shapes({})) == checkpoint.config


def test_the_window_stands_in_gguf_as_converters_write_it(tmp_path: Path) -> None:
    config, family = loaded(CASES[1], tmp_path).config, families.GGUF["phi3"]
    source = Shapes({"token_embd.weight": torch.empty(97, 48), "output.weight": torch.empty(97, 48)})
    said = family.write_config(config, source)
    assert said["phi3.attention.sliding_window"] == 5
    assert family.read_config(said, source).pattern[0].window == 5
    none = family.read_config(said | {"phi3.attention.sliding_window": 0}, source)
    assert none.pattern[0].window is None, "0 stands for none"
