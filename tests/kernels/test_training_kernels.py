"""The fused forward and backward passes of training give what torch gives, at any width and stride."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hornbook.kernels import products, training
from hornbook.model.feedforward import ACTIVATIONS
from hornbook.model.positions import Turn, rotate

pytestmark = pytest.mark.skipif(training.native() is None, reason="the native kernels are not built here")
ROWS = [1, 63, 64, 65, 200]


def close(ours: torch.Tensor, theirs: torch.Tensor, about: float = 2e-6) -> None:
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=about * max(1.0, theirs.abs().max().item()))


def gradients(out: torch.Tensor, weights: torch.Tensor, *of: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad((out * weights).sum(), of)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width", [1, 7, 8, 33, 576])
def test_norm(rows: int, width: int) -> None:
    torch.manual_seed(rows * width)
    x, weight = torch.randn(rows, width, requires_grad=True), torch.randn(width, requires_grad=True)
    grad = torch.randn(rows, width)
    ours, theirs = training.norm(x, weight, 1e-5), F.rms_norm(x, (width,), weight, 1e-5)
    close(ours, theirs)
    for a, b in zip(gradients(ours, grad, x, weight), gradients(theirs, grad, x, weight), strict=True):
        close(a, b)


@pytest.mark.parametrize("activation", training.ACTIVATIONS)
@pytest.mark.parametrize("width", [1, 9, 1536])
def test_gated(activation: str, width: int) -> None:
    torch.manual_seed(width)
    gate = (4 * torch.randn(65, width)).requires_grad_()
    up, grad = torch.randn(65, width, requires_grad=True), torch.randn(65, width)
    ours, theirs = training.gated(gate, up, activation), ACTIVATIONS[activation](gate) * up
    close(ours, theirs)
    for a, b in zip(gradients(ours, grad, gate, up), gradients(theirs, grad, gate, up), strict=True):
        close(a, b)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("width", "turned"), [(64, 64), (10, 10), (12, 6)])
@pytest.mark.parametrize("shared", [True, False])
def test_turn(interleaved: bool, width: int, turned: int, shared: bool) -> None:
    torch.manual_seed(width)
    x = torch.randn(3, 17, 5, width).transpose(1, 2).requires_grad_()  # as a projection leaves it
    angles = torch.randn(1 if shared else 3, 1, 17, turned // 2)
    by, grad = Turn(angles.cos(), angles.sin(), interleaved), torch.randn(3, 5, 17, width)
    ours = rotate(x, by)
    assert type(ours.grad_fn).__name__ == "_TurnBackward"
    with torch.no_grad():
        theirs = rotate(x, by)
    close(ours, theirs)
    (back,) = gradients(ours, grad, x)
    with torch.no_grad():  # the inverse of a rotation is its transpose
        close(back, rotate(grad, Turn(by.cos, -by.sin, interleaved)))


def test_they_stand_back_where_they_do_not_serve() -> None:
    x = torch.randn(2, 8)
    assert not training.serves(x), "no gradient is asked for"
    assert training.serves(x.requires_grad_())
    assert not training.serves(x.bfloat16())
    with torch.no_grad():
        assert not training.serves(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not training.serves(x)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    kernels = training.native()
    assert kernels is not None
    x, weight = torch.randn(300, 96, requires_grad=True), torch.randn(96, requires_grad=True)
    grad, threads, found = torch.randn(300, 96), kernels.threads, []
    try:
        for count in (1, 2, 5):
            kernels.hb_set_threads(count)
            found.append(gradients(training.norm(x, weight, 1e-6), grad, x, weight))
    finally:
        kernels.hb_set_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_what_an_adapter_reads_is_made_again_and_not_kept() -> None:
    """The same gradients as where it is kept, and of the tensors kept for them none is the norm's or the gate's."""
    from hornbook.adapt.low_rank import beside

    torch.manual_seed(0)
    x, weight = torch.randn(40, 24, requires_grad=True), torch.randn(24, requires_grad=True)
    layers = [torch.nn.Linear(24, 24).requires_grad_(False) for _ in range(2)]
    downs = [torch.randn(3, 24, requires_grad=True) for _ in range(3)]
    ups = [torch.randn(24, 3, requires_grad=True) for _ in range(3)]
    last = torch.nn.Linear(24, 24).requires_grad_(False)

    def run(again: bool) -> tuple[tuple[torch.Tensor, ...], set[int]]:
        kept: set[int] = set()

        def note(tensor: torch.Tensor) -> torch.Tensor:
            kept.add(tensor.data_ptr())
            return tensor

        def plainly(tensor: torch.Tensor) -> torch.Tensor:
            return tensor if again else tensor.view(tensor.shape)  # a view has no recipe

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            normed = plainly(training.norm(x, weight, 1e-5))
            gate, up = (beside(layers[i], normed, downs[i], ups[i], 0.5, 0.0) for i in range(2))
            inner = plainly(training.gated(gate, up, "silu"))
            out = beside(last, inner, downs[2], ups[2], 0.5, 0.0)
        made = {normed.data_ptr(), inner.data_ptr()}
        return torch.autograd.grad(out.square().sum(), [x, weight, *downs, *ups]), kept & made

    (ours, kept), (theirs, both) = run(True), run(False)
    assert not kept and len(both) == 2
    for a, b in zip(ours, theirs, strict=True):
        close(a, b)


@pytest.mark.parametrize("tokens", [1, 2, 7, 60, 61, 130, 257])
@pytest.mark.parametrize(("heads", "keys", "width"), [(4, 2, 32), (9, 3, 64), (2, 2, 96)])
def test_attend(tokens: int, heads: int, keys: int, width: int) -> None:
    torch.manual_seed(tokens)
    q = torch.randn(2, tokens, heads, width).transpose(1, 2).requires_grad_()  # as projections leave them
    k, v = (torch.randn(2, tokens, keys, width).transpose(1, 2).requires_grad_() for _ in range(2))
    grad = torch.randn(2, heads, tokens, width)
    ours = training.attend(q, k, v, 0.3)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
    close(ours, theirs)
    for a, b in zip(gradients(ours, grad, q, k, v), gradients(theirs, grad, q, k, v), strict=True):
        close(a, b, 1e-5)  # differences of sums over the width: of one token they are 0 but for rounding


def test_attention_of_far_apart_scores_stays_finite() -> None:
    q = torch.full((1, 1, 9, 32), 40.0, requires_grad=True)
    k = (torch.arange(9.0)[None, None, :, None] * 40).expand(1, 1, 9, 32).clone().requires_grad_()
    v = torch.randn(1, 1, 9, 32, requires_grad=True)
    out = training.attend(q, k, v, 1.0)
    close(out, v)  # each token sees itself alone
    assert all(g.isfinite().all() for g in gradients(out, torch.ones_like(out), q, k, v))


# ------------------------------------------------------------------------------------------------------ small matrices


@pytest.mark.parametrize("rows", [1, 5, 48, 200, 777])
@pytest.mark.parametrize(("width", "outs"), [(32, (64, 32, 96)), (128, (128,)), (512, (32, 32))])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_that_read_the_same(rows: int, width: int, outs: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(rows)
    layers = [torch.nn.Linear(width, out, bias=bias) for out in outs]
    x = torch.randn(rows, width, requires_grad=True)
    grads = [torch.randn(rows, out) for out in outs]
    assert products.served(x, *layers)
    ours, theirs = products.linear(x, *layers), [layer(x) for layer in layers]
    of = [x, *(p for layer in layers for p in layer.parameters())]
    for a, b in zip(ours, theirs, strict=True):
        close(a, b)
    for a, b in zip(torch.autograd.grad(ours, of, grads), torch.autograd.grad(theirs, of, grads), strict=True):
        close(a, b)


@pytest.mark.parametrize("rows", [1, 95, 96, 97, 300])
@pytest.mark.parametrize("activation", training.ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_mlp(rows: int, activation: str, bias: bool) -> None:
    torch.manual_seed(rows)
    up, down = torch.nn.Linear(64, 160, bias=bias), torch.nn.Linear(160, 64, bias=bias)
    x, grad = torch.randn(rows, 64, requires_grad=True), torch.randn(rows, 64)
    assert products.served(x, up, down)
    ours, theirs = products.mlp(x, up, down, activation), down(ACTIVATIONS[activation](up(x)))
    of = [x, *up.parameters(), *down.parameters()]
    close(ours, theirs)
    for a, b in zip(gradients(ours, grad, *of), gradients(theirs, grad, *of), strict=True):
        close(a, b)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width", [7, 8, 33, 576])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(rows: int, width: int, bias: bool) -> None:
    torch.manual_seed(rows * width)
    x, weight = (3 + torch.randn(rows, width)).requires_grad_(), torch.randn(width, requires_grad=True)
    shift = torch.randn(width, requires_grad=True) if bias else None
    grad, of = torch.randn(rows, width), [x, weight] + [shift] * bias
    ours, theirs = products.centred(x, weight, shift, 1e-5), F.layer_norm(x, (width,), weight, shift, 1e-5)
    close(ours, theirs, 1e-5)
    for a, b in zip(gradients(ours, grad, *of), gradients(theirs, grad, *of), strict=True):
        close(a, b, 2e-5)


def test_what_is_frozen_has_no_gradient() -> None:
    up, down = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
    up.weight.requires_grad_(False)
    down.bias.requires_grad_(False)
    x = torch.randn(7, 32)
    for out in (products.mlp(x, up, down, "silu"), down(F.silu(up(x)))):
        for layer in (up, down):
            layer.zero_grad()
        out.square().sum().backward()
        assert up.weight.grad is None and down.bias.grad is None
        found = (up.bias.grad, down.weight.grad)
        assert all(grad is not None for grad in found)
    ours = torch.autograd.grad(products.mlp(x, up, down, "silu").square().sum(), [up.bias, down.weight])
    for a, b in zip(ours, found, strict=True):
        assert b is not None
        close(a, b)


def test_layers_that_are_not_plain_are_called_themselves() -> None:
    x, layer = torch.randn(4, 32, requires_grad=True), torch.nn.Linear(32, 32)
    assert products.served(x, layer)
    with torch.no_grad():
        assert not products.served(x, layer)
    assert not products.served(x, torch.nn.Linear(32, 33)), "an odd width"
    assert not products.served(x, torch.nn.Linear(32, 1 << 14)), "too large to gain by it"
    handle = layer.register_forward_hook(lambda module, given, out: None)
    assert not products.served(x, layer)
    handle.remove()
    assert products.served(x, layer)

    class Another(torch.nn.Linear):
        pass

    assert not products.served(x, Another(32, 32))


def test_small_matrices_give_the_same_bits_with_any_number_of_threads() -> None:
    kernels = training.native()
    assert kernels is not None
    torch.manual_seed(0)
    up, down, last = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64), torch.nn.Linear(64, 448)
    x, threads, found = torch.randn(500, 64, requires_grad=True), kernels.threads, []
    try:
        for count in (1, 2, 5):
            kernels.hb_set_threads(count)
            (out,) = products.linear(products.mlp(x, up, down, "gelu"), last)
            of = [x, *up.parameters(), *down.parameters(), *last.parameters()]
            found.append(torch.autograd.grad(out.square().sum(), of))
    finally:
        kernels.hb_set_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
