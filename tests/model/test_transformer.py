"""What holds for any configuration: shapes of the fields, what is asked for is what comes, no family is known by name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hornbook.model
from hornbook.errors import ContextTooLong, ModelFileError
from hornbook.model.cache import ContiguousCache
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.heads import last, pool
from hornbook.model.transformer import Transformer

SMALL = ModelConfig(
    vocab_size=53, layers=2, width=16, heads=4, kv_heads=2, head_width=4, feedforward_width=24, context_length=12
)  # fmt: skip
ROTARY = LayerKind(rotary=Rotary())


def build(**fields: object) -> Transformer:
    torch.manual_seed(0)
    return Transformer(replace(SMALL, **fields)).eval().requires_grad_(False)


def ids(rows: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(53, (rows, length), generator=torch.Generator().manual_seed(1))


def test_no_family_is_known_by_name() -> None:
    names = r"\b(is_)?(llama|gemma|bert|albert|roberta|minilm|mistral|mixtral|qwen|phi|falcon|t5|gpt|marian)\w*"
    for path in Path(hornbook.model.__file__).parent.glob("*.py"):
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text("utf-8"), flags=re.DOTALL)
        found = {match.group(0) for match in re.finditer(names, code, re.IGNORECASE)}
        assert found <= {"llama3"}, f"{path.name} names {found}"  # llama3 is how a rotary scaling is called


@pytest.mark.parametrize("ask", ["all", "last", "none"])
def test_logits_as_asked_for(ask: str) -> None:
    model = build(pattern=(ROTARY,))
    mask = torch.tensor([[False] * 3 + [True] * 6, [True] * 5 + [False] * 4])
    whole = model(ids(), mask=mask)
    out = model(ids(), mask=mask, logits=ask)
    assert torch.equal(out.hidden, whole.hidden)
    if ask == "all":
        assert out.logits is not None and out.logits.shape == (2, 9, 53)
    elif ask == "last":
        torch.testing.assert_close(out.logits, torch.stack([whole.logits[0, 8], whole.logits[1, 4]]))
    else:
        assert out.logits is None


@pytest.mark.parametrize("pattern", [(ROTARY,), (LayerKind(window=3, rotary=Rotary()), ROTARY)])
@pytest.mark.parametrize("causal", [True, False])
def test_a_row_does_not_depend_on_its_padding_or_its_neighbours(pattern: tuple[LayerKind, ...], causal: bool) -> None:
    model, text = build(pattern=pattern, causal=causal), ids(1, 7)
    alone = model(text).logits
    for before, after in [(0, 4), (4, 0), (2, 3)]:
        padded = torch.cat([torch.full((1, before), 50), text, torch.full((1, after), 51)], dim=1)
        mask = torch.zeros_like(padded, dtype=torch.bool)
        mask[:, before : before + 7] = True
        both = torch.cat([padded, ids(1, 7 + before + after)])
        found = model(both, mask=torch.cat([mask, torch.ones_like(mask)])).logits
        torch.testing.assert_close(found[:1][mask], alone[0], rtol=1e-5, atol=1e-6)


def test_vectors_stand_for_their_tokens() -> None:
    model = build(pattern=(ROTARY,), embedding_scale=4.0)
    torch.testing.assert_close(model(embeds=model.vectors(ids())).logits, model(ids()).logits)
    with pytest.raises(ValueError, match="either ids or embeds"):
        model()
    with pytest.raises(ValueError, match="either ids or embeds"):
        model(ids(), embeds=model.vectors(ids()))


def test_explicit_positions_are_used() -> None:
    model = build(positions="learned")
    shifted = model(ids(1, 3), positions=torch.tensor([[4, 5, 6]])).logits
    assert not torch.allclose(shifted, model(ids(1, 3)).logits, atol=1e-3)
    torch.testing.assert_close(model(ids(1, 3), positions=torch.tensor([[0, 1, 2]])).logits, model(ids(1, 3)).logits)


def test_more_tokens_than_learned_positions_is_an_error_with_both_numbers() -> None:
    with pytest.raises(ContextTooLong, match="13 tokens, the model reads at most 12"):
        build(positions="learned")(ids(1, 13))
    padded = torch.ones(1, 13, dtype=torch.bool).tril(11)  # padding may stand behind the table's end
    cache = ContiguousCache(build(positions="learned").config, 1, 13)
    build(positions="learned")(ids(1, 13), mask=padded, cache=cache)
    build(pattern=(ROTARY,))(ids(1, 13))  # rotary positions have no table that could end


def test_a_model_without_a_head_says_so() -> None:
    with pytest.raises(ValueError, match="no language head"):
        build(language_head=False)(ids())


def test_soft_capped_logits_stay_within_the_cap() -> None:
    plain, capped = build(pattern=(ROTARY,)), build(pattern=(ROTARY,), logit_softcap=0.1)
    torch.testing.assert_close(capped(ids()).logits, 0.1 * torch.tanh(plain(ids()).logits / 0.1))


def test_a_cast_model_keeps_its_angles_exact() -> None:
    """The classic trap: frequencies in a buffer become bfloat16 with the weights, and far positions blur."""
    model = build(pattern=(ROTARY,))
    exact = {key: value.clone() for key, value in model._frequencies.items()}
    out = model.bfloat16()(ids())
    assert out.logits is not None and out.logits.dtype == torch.bfloat16
    assert all(torch.equal(model._frequencies[key], value) for key, value in exact.items())


def test_pooling_sees_real_tokens_only() -> None:
    hidden = torch.arange(24.0).reshape(2, 4, 3)
    mask = torch.tensor([[False, True, True, True], [True, True, False, False]])
    torch.testing.assert_close(pool(hidden, mask, "mean"), torch.stack([hidden[0, 1:].mean(0), hidden[1, :2].mean(0)]))
    torch.testing.assert_close(pool(hidden, mask, "first"), torch.stack([hidden[0, 1], hidden[1, 0]]))
    torch.testing.assert_close(pool(hidden, mask, "last"), torch.stack([hidden[0, 3], hidden[1, 1]]))
    torch.testing.assert_close(last(hidden, None), hidden[:, -1])
    for how in ("mean", "first", "last"):
        torch.testing.assert_close(pool(hidden, None, how), pool(hidden, torch.ones(2, 4, dtype=torch.bool), how))


def test_contradictions_in_a_configuration_are_refused_with_the_numbers() -> None:
    with pytest.raises(ModelFileError, match="7 attention heads cannot share 2"):
        replace(SMALL, heads=7)
    with pytest.raises(ModelFileError, match="width is 0"):
        replace(SMALL, width=0)
    with pytest.raises(ModelFileError, match="cannot turn 5 dimensions of a head of width 5"):
        replace(SMALL, head_width=5, pattern=(ROTARY,))
    with pytest.raises(ModelFileError, match="1,000,000 layers"):
        replace(SMALL, layers=10**6)


def test_equal_patterns_are_equal_however_they_were_said() -> None:
    near = LayerKind(window=4, rotary=Rotary())
    short = replace(SMALL, layers=8, pattern=(near, near, ROTARY))
    long = replace(SMALL, layers=8, pattern=(near, near, ROTARY, near, near, ROTARY, near, near))
    assert short == long and short.pattern == (near, near, ROTARY)
    assert replace(SMALL, layers=2, pattern=(near, near, ROTARY)).pattern == (near,)
    assert [short.kind(i) for i in range(8)] == [near, near, ROTARY, near, near, ROTARY, near, near]
