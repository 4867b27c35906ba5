"""The chunked cross-entropy gives what whole logits give: value and every gradient, in little memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hornbook.model.config import ModelConfig
from hornbook.model.heads import LanguageHead
from hornbook.train import cross_entropy as ours
from hornbook.train.cross_entropy import cross_entropy, head_cross_entropy

PLAIN = ModelConfig(
    vocab_size=203, layers=1, width=24, heads=2, kv_heads=2, head_width=12, feedforward_width=8, context_length=64
)
HEADS = {
    "own": PLAIN,
    "tied": replace(PLAIN, tied_head=True),
    "bias": replace(PLAIN, tied_head=True, head_bias=True),
    "transform": replace(PLAIN, tied_head=True, head_bias=True, head_transform=True, norm="layer"),
    "scaled and capped": replace(PLAIN, logit_scale=0.25, logit_softcap=3.0),
    "capped bias": replace(PLAIN, head_bias=True, logit_softcap=2.0),
}
HOW = [{}, {"smoothing": 0.1}, {"z_loss": 1e-2}, {"smoothing": 0.2, "z_loss": 1e-3}]


def made(config: ModelConfig) -> tuple[LanguageHead, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = LanguageHead(config)
    if head.bias is not None:
        torch.nn.init.normal_(head.bias)
    table = torch.randn(config.vocab_size, config.width, requires_grad=True)
    hidden = torch.randn(37, config.width, requires_grad=True)
    return head, hidden, table, torch.randint(0, config.vocab_size, (37,))


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("config", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("plain", [False, True], ids=["native", "torch"])
def test_value_and_gradients(
    config: ModelConfig, how: dict[str, float], plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, hidden, table, labels = made(config)
    monkeypatch.setitem(ours.CHUNK, "cpu", 4 * config.vocab_size * 10)  # ten rows at a time: the last chunk is short
    if plain:
        monkeypatch.setattr(ours, "_rows", ours.plain_rows)
    wanted = [t for t in (hidden, table, *head.parameters()) if t.requires_grad]
    expected = cross_entropy(head(hidden, table), labels, **how)
    theirs = torch.autograd.grad(expected / 7, wanted, allow_unused=True)
    found = head_cross_entropy(head, hidden, table, labels, **how)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)
    for a, b in zip(torch.autograd.grad(found / 7, wanted, allow_unused=True), theirs, strict=True):
        if b is None:
            assert a is None
        else:
            torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


def test_a_frozen_head_gets_no_gradient_and_without_gradients_the_value_is_the_same() -> None:
    head, hidden, table, labels = made(HEADS["tied"])
    table.requires_grad_(False)
    value = head_cross_entropy(head, hidden, table, labels)
    value.backward()
    assert hidden.grad is not None and table.grad is None
    with torch.no_grad():
        assert head_cross_entropy(head, hidden, table, labels).item() == pytest.approx(value.item(), rel=1e-6)


def test_no_label_at_all_is_nothing() -> None:
    head, hidden, table, labels = made(HEADS["tied"])
    value = head_cross_entropy(head, hidden[:0], table, labels[:0])
    value.backward()
    assert value.item() == 0 and table.grad is not None and not table.grad.any()


def test_the_gradient_is_not_given_twice() -> None:
    head, hidden, table, labels = made(HEADS["tied"])
    value = head_cross_entropy(head, hidden, table, labels)
    value.backward(torch.tensor(2.0), retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward(torch.tensor(2.0))


@pytest.mark.parametrize("label", [-1, 203])
def test_a_label_that_is_no_token_is_refused(label: int) -> None:
    head, hidden, table, labels = made(HEADS["tied"])
    labels[3] = label
    with pytest.raises(ValueError, match="203 tokens"):
        head_cross_entropy(head, hidden, table, labels)


def test_bfloat16_is_computed_in_float32_row_by_row() -> None:
    head, hidden, table, labels = made(HEADS["tied"])
    exact = head_cross_entropy(head, hidden, table, labels)
    short = head_cross_entropy(head, hidden.bfloat16(), table.bfloat16(), labels)
    assert short.dtype == torch.float32 and short.item() == pytest.approx(exact.item(), rel=5e-3)


def test_logits_of_every_place_are_never_held() -> None:
    """Of 4,096 places and 8,192 tokens they would be 134 MB; the largest tensor made is a chunk."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.most = max(self.most, out.numel() * out.element_size())
            return out

    config = replace(PLAIN, vocab_size=8192, tied_head=True)
    head, table = LanguageHead(config), torch.randn(8192, 24, requires_grad=True)
    hidden, labels = torch.randn(4096, 24, requires_grad=True), torch.randint(0, 8192, (4096,))
    with Largest() as seen:
        head_cross_entropy(head, hidden, table, labels).backward()
    assert seen.most <= ours.CHUNK["cpu"]
