"""A mixture is the sum that its definition says, token by token; and what an encoder read is looked at alike however it is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from hornbook.model.cache import ContiguousCache
from hornbook.model.config import Experts, LayerKind, ModelConfig
from hornbook.model.feedforward import Mixture, load_balance
from hornbook.model.transformer import Transformer

BASE = ModelConfig(
    vocab_size=53, layers=4, width=16, heads=4, kv_heads=2, head_width=4, feedforward_width=24, context_length=64
)  # fmt: skip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("shared", [0, 12])
def test_a_mixture_is_its_definition(renormalise: bool, shared: int) -> None:
    """arXiv 2401.04088, section 2.1, one token at a time."""
    torch.manual_seed(0)
    experts = Experts(5, 2, 8, renormalise, shared, shared_gate=bool(shared))
    mixture = Mixture(replace(BASE, experts=experts), experts).requires_grad_(False)
    x, routing = random(2, 7, 16), []
    found = mixture(x, routing)
    assert routing[0].shape == (2, 7, 5)
    for b in range(2):
        for t in range(7):
            token = x[b, t]
            share = (mixture.router.weight @ token).softmax(-1)
            chosen = share.argsort(descending=True)[:2]
            weight = share[chosen] / share[chosen].sum() if renormalise else share[chosen]
            expected = sum(
                w * (mixture.down[e] @ (F.silu(mixture.gate[e] @ token) * (mixture.up[e] @ token)))
                for w, e in zip(weight, chosen, strict=True)
            )
            if mixture.shared is not None and mixture.shared_gate is not None:
                expected = expected + torch.sigmoid(mixture.shared_gate(token)) * mixture.shared(token)
            torch.testing.assert_close(found[b, t], expected, rtol=1e-5, atol=1e-6)


def test_balance_is_least_where_all_experts_are_used_alike() -> None:
    experts = Experts(4, 1, 8)
    even = [torch.eye(4)[None] * 50]  # each of four tokens is sure of an expert of its own
    assert load_balance(even, experts).item() == pytest.approx(1.0)
    uneven = [torch.tensor([[[50.0, 0, 0, 0]] * 4])]
    assert load_balance(uneven, experts).item() == pytest.approx(4.0)
    mask = torch.tensor([[True, True, True, False]])
    assert load_balance(even, experts, mask).item() == pytest.approx(4 * 3 * (1 / 3) ** 2), "padding does not count"


def test_only_the_layers_that_are_sparse_route() -> None:
    config = replace(BASE, experts=Experts(4, 2, 8), pattern=(LayerKind(), LayerKind(sparse=True)))
    routing: list[torch.Tensor] = []
    Transformer(config).eval()(torch.tensor([[1, 2, 3]]), routing=routing)
    assert [scores.shape for scores in routing] == [(1, 3, 4)] * 2


def test_layers_share_the_blocks_of_their_group() -> None:
    torch.manual_seed(0)
    grouped = Transformer(replace(BASE, layer_groups=2)).eval().requires_grad_(False)
    assert len(grouped.blocks) == 2
    spread = Transformer(BASE).eval().requires_grad_(False)
    weights = {k: v for k, v in grouped.state_dict().items() if not k.startswith("blocks.")}
    for layer in range(4):
        block = grouped.blocks[layer // 2].state_dict()
        weights |= {f"blocks.{layer}.{name}": weight for name, weight in block.items()}
    spread.load_state_dict(weights)
    ids = torch.randint(53, (2, 11))
    assert torch.equal(grouped(ids).logits, spread(ids).logits)
    cache = ContiguousCache(grouped.config, 2, 11)
    steps = torch.cat([grouped(part, cache=cache).logits for part in ids.split(1, dim=1)], dim=1)
    torch.testing.assert_close(steps, spread(ids).logits, rtol=1e-5, atol=1e-5)


def two_parts() -> Transformer:
    torch.manual_seed(0)
    reader = replace(BASE, causal=False, language_head=False, width=20, layers=2, positions="learned")
    return Transformer(replace(BASE, encoder=reader, positions="sinusoidal")).eval().requires_grad_(False)


def test_a_source_is_read_alike_wherever_its_padding_stands_and_whoever_is_beside_it() -> None:
    model, target = two_parts(), torch.randint(53, (3, 6))
    source = torch.randint(53, (3, 9))
    mask = torch.tensor([[True] * 9, [False] * 4 + [True] * 5, [True] * 3 + [False] * 6])
    found = model(target, memory=model.encode(source, mask)).logits
    for row in range(3):
        alone = model(target[row : row + 1], memory=model.encode(source[row : row + 1, mask[row]])).logits
        torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def test_a_memory_keeps_its_keys_and_its_rows() -> None:
    model = two_parts()
    source, target = torch.randint(53, (2, 9)), torch.randint(53, (2, 6))
    whole = model(target, memory=model.encode(source)).logits
    cache, memory = ContiguousCache(model.config, 2, 6), model.encode(source)
    with torch.no_grad():
        first = model(target[:, :4], memory=memory, cache=cache).logits
        assert len(memory._kept) == 4
        cache.keep([1, 1, 0])
        rest = model(target[[1, 1, 0], 4:], memory=memory.keep([1, 1, 0]), cache=cache).logits
    torch.testing.assert_close(first, whole[:, :4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rest, whole[[1, 1, 0], 4:], rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_encoder() -> None:
    model = two_parts().requires_grad_(True).train()
    model(torch.tensor([[1, 2]]), memory=model.encode(torch.tensor([[3, 4]]))).logits.sum().backward()
    assert model.encoder is not None
    assert all(weight.grad is not None for weight in model.encoder.parameters() if weight.ndim > 1)


def test_a_memory_belongs_to_a_model_with_an_encoder() -> None:
    model, plain = two_parts(), Transformer(BASE)
    with pytest.raises(ValueError, match="takes the memory"):
        model(torch.tensor([[1]]))
    with pytest.raises(ValueError, match="takes the memory"):
        plain(torch.tensor([[1]]), memory=model.encode(torch.tensor([[1]])))
    with pytest.raises(ValueError, match="no encoder"):
        plain.encode(torch.tensor([[1]]))
