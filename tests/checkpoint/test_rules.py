"""Weight maps are data, and every one of them is read both ways without losing a bit."""

from __future__ import annotations

import pytest
import torch
from reference_models import CPU, Held, file_tensors, held, ours, tiny_bert, tiny_gemma, tiny_llama

from hornbook.checkpoint import families
from hornbook.checkpoint.fields import choose, read_key, read_nullable
from hornbook.checkpoint.loading import build
from hornbook.checkpoint.rules import (
    SAME,
    Chain,
    Grouped,
    Interleaved,
    Map,
    Reshaped,
    Shift,
    Split,
    Stacked,
    Transform,
    Transposed,
    expand,
    override,
    table,
)
from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.model.config import Experts, ModelConfig

MAKERS = {"llama": tiny_llama, "gemma3_text": tiny_gemma, "bert": tiny_bert}


def trained(*shape: int) -> torch.Tensor:
    """As weights come: bfloat16 numbers, of every size."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=generator) * torch.rand(shape, generator=generator)).bfloat16().float()


TRANSFORMS = {
    "same": SAME,
    "interleaved": Interleaved(3),
    "interleaved, one head": Interleaved(1),
    "interleaved, in part": Interleaved(3, 4),
    "shift": Shift(1.0),
    "transposed": Transposed(),
    "reshaped": Reshaped((-1,), (1, -1)),
    "chain": Chain((Interleaved(3), Shift(1.0), Interleaved(2))),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", [(24, 7), (24,)])
def test_a_transform_forwards_and_back_is_bit_equal(name: str, shape: tuple[int, ...]) -> None:
    transform: Transform = TRANSFORMS[name]
    if name == "reshaped" and len(shape) > 1:
        pytest.skip("for vectors")
    mine = (trained(*shape),)
    theirs = transform.theirs(mine)
    assert torch.equal(transform.ours(theirs)[0], mine[0])
    assert torch.equal(transform.theirs(transform.ours(theirs))[0], theirs[0])


@pytest.mark.parametrize("shape", [(24, 7), (24,)])
@pytest.mark.parametrize("transform", [Split((12, 4, 8)), Grouped(2, 4)], ids=["split", "grouped"])
def test_one_tensor_of_theirs_is_several_of_ours_and_back(transform: Transform, shape: tuple[int, ...]) -> None:
    theirs = (trained(*shape),)
    parts = transform.ours(theirs)
    assert len(parts) == 3
    assert torch.equal(transform.theirs(parts)[0], theirs[0])


def test_groups_are_taken_apart_head_by_head() -> None:
    """Two key heads of width 1, three queries each: q q q k v, q q q k v."""
    query, key, value = Grouped(2, 3).ours((torch.arange(10)[:, None],))
    assert query[:, 0].tolist() == [0, 1, 2, 5, 6, 7]
    assert key[:, 0].tolist() == [3, 8] and value[:, 0].tolist() == [4, 9]


def test_experts_are_stacked_and_unstacked() -> None:
    theirs = tuple(trained(3, 5) + i for i in range(4))
    (stacked,) = Stacked().ours(theirs)
    assert stacked.shape == (4, 3, 5)
    assert all(torch.equal(a, b) for a, b in zip(Stacked().theirs((stacked,)), theirs, strict=True))


def test_interleaved_rows_become_halves_within_each_head() -> None:
    rows = torch.arange(12)[:, None]  # two heads of six rows
    assert Interleaved(2).ours((rows,))[0][:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert Interleaved(2, 4).ours((rows,))[0][:, 0].tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11], (
        "four of six turn"
    )


# --------------------------------------------------------------------------------------------------------- tables

CONFIG = ModelConfig(
    vocab_size=8, layers=2, width=4, heads=2, kv_heads=1, head_width=2, feedforward_width=8, context_length=8,
    experts=Experts(3, 1, 4),
)  # fmt: skip


def names(maps: tuple[Map, ...], *wanted: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    return {rule.ours: rule.theirs for rule in expand(maps, CONFIG, wanted)}


def test_a_module_s_weight_and_bias_go_together_in_every_layer() -> None:
    maps = table({"blocks.{i}.up": "h.{i}.fc", "norm": "ln"})
    assert names(maps, "blocks.0.up.weight", "blocks.1.up.weight", "blocks.1.up.bias") == {
        ("blocks.0.up.weight",): ("h.0.fc.weight",),
        ("blocks.1.up.weight",): ("h.1.fc.weight",),
        ("blocks.1.up.bias",): ("h.1.fc.bias",),
    }


def test_layers_may_be_dense_or_mixtures_of_the_same_names() -> None:
    """A name that ends in .weight is one tensor's, so that the mixture's own parameter is not taken for a module."""
    mixture = Map(("blocks.{i}.gate",), ("h.{i}.experts.{e}.gate.weight",), Stacked())
    assert names((*table({"blocks.{i}.gate": "h.{i}.gate"}), mixture), "blocks.0.gate", "blocks.1.gate.weight") == {
        ("blocks.0.gate",): tuple(f"h.0.experts.{e}.gate.weight" for e in range(3)),
        ("blocks.1.gate.weight",): ("h.1.gate.weight",),
    }


def test_a_parameter_that_no_map_or_more_than_one_fills_is_the_family_s_fault() -> None:
    with pytest.raises(AssertionError, match="do not fit the model: {'embed.weight'}"):
        names(table({"norm": "ln"}), "norm.weight", "embed.weight")
    with pytest.raises(AssertionError, match="do not fit"):
        names(table({"norm": "ln"}) + table({"norm": "ln_f"}), "norm.weight")


def test_an_override_takes_the_place_of_every_map_of_its_modules() -> None:
    base = table({"q": "wq", "k": "wk", "norm": "ln"})
    maps = override(base, Map(("q", "k"), ("qk",), Split((2, 2))))
    assert [m.theirs for m in maps] == [("ln",), ("qk",)]


# ------------------------------------------------------------------------------------------------------- families


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("in_gguf", [False, True], ids=["folder", "gguf"])
def test_load_and_save_are_one_list(name: str, in_gguf: bool) -> None:
    reference, family = MAKERS[name](), families.HUGGING_FACE[name]
    if in_gguf and name == "bert":
        reference.pooler = None  # for which GGUF has no place
    model = ours(reference, family)
    other = families.GGUF[family.twin_of(model.config) or ""] if in_gguf else family
    written = file_tensors(model, other)
    again = build(model.config, other, Held(written), torch.float32, CPU)
    for key, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], weight), key
    if not in_gguf:
        written = {key.removeprefix("."): tensor for key, tensor in written.items()}
        original = {key.removeprefix(f"{family.prefix}."): tensor for key, tensor in held(reference).tensors.items()}
        assert written.keys() == original.keys()
        assert all(torch.equal(written[key], original[key]) for key in original)


def test_every_family_says_its_twin_and_is_listed_by_its_name() -> None:
    for name, family in families.GGUF.items():
        assert family.name == name
        if isinstance(family.twin, str):
            assert family.twin in families.HUGGING_FACE, name
    for family in families.HUGGING_FACE.values():
        if isinstance(family.twin, str):
            assert family.twin in families.GGUF, family.name


# --------------------------------------------------------------------------------------------------------- values


def test_what_is_not_known_is_answered_with_what_is_the_nearest_first() -> None:
    with pytest.raises(UnsupportedModel, match="'lama2' is not known\nKnown: llama, "):
        choose(families.GGUF, "lama2", "the architecture")


@pytest.mark.parametrize("value", ["4", 4.5, True, [4]])
def test_a_value_of_the_wrong_type_is_named(value: object) -> None:
    with pytest.raises(ModelFileError, match="block_count of the model's configuration is .*not of type int"):
        read_key({"block_count": value}, "block_count", int)
    with pytest.raises(ModelFileError, match="has no block_count"):
        read_key({}, "block_count", int)


def test_null_may_say_something_else_than_nothing() -> None:
    assert read_nullable({}, "window", int, 4096) == 4096
    assert read_nullable({"window": None}, "window", int, 4096) is None
    assert read_nullable({"window": 7}, "window", int, 4096) == 7
