"""Mistral: windows shorter than the text, the numbers of transformers; in GGUF it is a Llama that sees everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from family_parity import SMALL, Case, loaded

from hornbook.checkpoint import families
from hornbook.checkpoint.saving import Shapes
from hornbook.errors import UnsupportedModel

SAID = SMALL | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": None}


def mistral(name: str, in_gguf: bool = False, **changes: object) -> Case:
    return Case(f"mistral, {name}", "MistralForCausalLM", SAID | changes, in_gguf=in_gguf)


CASES = [
    mistral("no window", True),
    mistral("a window of 5", sliding_window=5),
    mistral("a window of 1, wide heads, tied", sliding_window=1, head_dim=12, tie_word_embeddings=True),
    mistral("a window beyond the text, multi-query", sliding_window=4096, num_key_value_heads=1),
]


def test_a_window_is_not_written_where_it_would_be_passed_over(tmp_path: Path) -> None:
    config = loaded(CASES[1], tmp_path).config
    with pytest.raises(UnsupportedModel, match=r"cannot be written as llama: .*sliding_window"):
        families.GGUF["llama"].write_config(config, Shapes({}))


def test_a_window_that_a_file_leaves_out_is_4096_and_null_is_none(tmp_path: Path) -> None:
    checkpoint = loaded(CASES[0], tmp_path)
    raw = dict(checkpoint.metadata)
    assert raw.pop("sliding_window", None) is None
    assert checkpoint.family.read_config(raw, Shapes({})).pattern[0].window == 4096
    plain = checkpoint.family.read_config(raw | {"sliding_window": None}, Shapes({}))
    assert plain == replace(checkpoint.config, pooling=None)


@pytest.mark.parametrize(("said", "heads"), [({}, 8), ({"num_key_value_heads": None}, 16)])
def test_key_heads_that_a_file_leaves_out_are_8_and_null_is_one_for_each(said: dict[str, None], heads: int) -> None:
    sizes = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2}
    raw = sizes | {"num_attention_heads": 16} | said
    for name in ("mistral", "mixtral"):
        assert families.HUGGING_FACE[name].read_config(raw, Shapes({})).kv_heads == heads


def test_layers_that_differ_are_refused_by_name(tmp_path: Path) -> None:
    checkpoint = loaded(CASES[1], tmp_path)
    raw = dict(checkpoint.metadata) | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}
    with pytest.raises(UnsupportedModel, match=r"layers of this model differ \(layer_types\)"):
        checkpoint.family.read_config(raw, Shapes({}))
