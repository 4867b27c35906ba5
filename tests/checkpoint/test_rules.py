"""Weight maps are data, and every one of them is read both ways without losing a bit."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from reference_models import Held, file_tensors, held, ours, tiny_bert, tiny_gemma, tiny_llama

from hornbook.checkpoint import families
from hornbook.checkpoint.loading import build
from hornbook.checkpoint.rules import SAME, Family, Interleaved, Shift, Transform, choose, read_key
from hornbook.errors import ModelFileError, UnsupportedModel

CPU = torch.device("cpu")
MAKERS = {families.llama: tiny_llama, families.gemma: tiny_gemma, families.bert: tiny_bert}


def trained(*shape: int) -> torch.Tensor:
    """As weights come: bfloat16 numbers, of every size."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=generator) * torch.rand(shape, generator=generator)).bfloat16().float()


@pytest.mark.parametrize("transform", [SAME, Interleaved(3), Interleaved(1), Shift(1.0)])
@pytest.mark.parametrize("shape", [(24, 7), (24,)])
def test_a_transform_forwards_and_back_is_bit_equal(transform: Transform, shape: tuple[int, ...]) -> None:
    mine = (trained(*shape),)
    theirs = transform.theirs(mine)
    assert torch.equal(transform.ours(theirs)[0], mine[0])
    assert torch.equal(transform.theirs(transform.ours(theirs))[0], theirs[0])


def test_interleaved_rows_become_halves_within_each_head() -> None:
    rows = torch.arange(12)[:, None]  # two heads of six rows
    assert Interleaved(2).ours((rows,))[0][:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


@pytest.mark.parametrize("family", MAKERS, ids=lambda module: module.__name__.rsplit(".")[-1])
@pytest.mark.parametrize("format", ["HUGGING_FACE", "GGUF"])
def test_load_and_save_are_one_list(family: ModuleType, format: str) -> None:
    reference = MAKERS[family]()
    rules: Family = getattr(family, format)
    if format == "GGUF" and family is families.bert:
        reference.pooler = None  # for which GGUF has no place
    model = ours(reference, family.HUGGING_FACE)
    written = file_tensors(model, rules)
    again = build(model.config, rules, Held(written), torch.float32, CPU)
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    if format == "HUGGING_FACE":
        original = held(reference).tensors
        assert written.keys() == original.keys()
        assert all(torch.equal(written[name], original[name]) for name in original)


@pytest.mark.parametrize("family", MAKERS, ids=lambda module: module.__name__.rsplit(".")[-1])
def test_a_configuration_reads_back_as_it_was_written(family: ModuleType) -> None:
    reference = MAKERS[family]()
    config = ours(reference, family.HUGGING_FACE).config
    said = family.HUGGING_FACE.write_config(config)
    assert family.HUGGING_FACE.read_config(said, held(reference)) == config
    rebuilt = type(reference.config)(**said)
    ignored = {"architectures", "_name_or_path", "transformers_version", "dtype", "_attn_implementation"}
    before, after = reference.config.to_dict(), rebuilt.to_dict()
    assert {key for key in before if before[key] != after[key]} <= ignored


def test_what_is_not_known_is_answered_with_what_is_the_nearest_first() -> None:
    with pytest.raises(UnsupportedModel, match="'lama2' is not known\nKnown: llama, bert, gemma3"):
        choose(families.GGUF, "lama2", "the architecture")


@pytest.mark.parametrize("value", ["4", 4.5, True, [4]])
def test_a_value_of_the_wrong_type_is_named(value: object) -> None:
    with pytest.raises(ModelFileError, match="block_count of the model's configuration is .*not of type int"):
        read_key({"block_count": value}, "block_count", int)
    with pytest.raises(ModelFileError, match="has no block_count"):
        read_key({}, "block_count", int)
