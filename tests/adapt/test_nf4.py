"""Four-bit weights: the published codes, the rounding of bitsandbytes, LoRA on them, and how little memory loading takes."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from torch import nn

from hornbook.adapt import LoRA, nf4, qlora
from hornbook.adapt.nf4 import NF4, NF4Linear
from hornbook.checkpoint.loading import load
from hornbook.errors import UsageError

IDS = torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(4))


def test_codes_are_the_published_ones() -> None:
    """Equation 4 with the offset of appendix E: quantiles of the normal distribution from both sides."""
    offset = (1 - 1 / (2 * 15) + 1 - 1 / (2 * 16)) / 2
    quantile = NormalDist().inv_cdf
    above = [quantile(offset + (0.5 - offset) * i / 8) for i in range(8)]
    below = [-quantile(offset + (0.5 - offset) * i / 7) for i in range(7)]
    codes = torch.tensor(sorted([*above, 0.0, *below]))
    assert torch.allclose(codes / codes.abs().max(), torch.tensor(nf4.CODES, dtype=codes.dtype), atol=1e-6)


@pytest.mark.parametrize("shape", [(48, 64), (30, 70), (1, 3), (600, 1024)])
def test_every_weight_goes_to_the_nearest_code(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape) * 0.02
    packed = NF4.of(weight)
    dense = packed.dense()
    assert dense.shape == weight.shape
    blocks = nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    scales = packed.block_scales()
    most = blocks.abs().amax(1)
    assert torch.allclose(scales, most, atol=0.01 * float((most - most.mean()).abs().max()) + 1e-9)
    codes = torch.tensor(nf4.CODES)
    nearest = codes[(blocks / most[:, None])[:, :, None].sub(codes).abs().argmin(-1)] * scales[:, None]
    assert torch.allclose(nearest.flatten()[: weight.numel()].view(shape), dense, atol=1e-7)


def test_a_large_matrix_takes_little_over_four_bits_a_weight() -> None:
    packed = NF4.of(torch.randn(1024, 1024))
    assert packed.nbytes * 8 / 2**20 == pytest.approx(4.127, abs=0.001)  # section 3: 4 + 8/64 + 32/(64 * 256)
    assert torch.equal(NF4.of(torch.zeros(4, 64)).dense(), torch.zeros(4, 64))


def test_numbers_are_those_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(300, 128, generator=torch.Generator().manual_seed(1)) * 0.02
    theirs, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    packed = NF4.of(weight)
    assert torch.equal(packed.codes, theirs.flatten())
    assert torch.allclose(torch.tensor(nf4.dynamic_codes()), state.state2.code, atol=1e-6)
    assert (packed.scales == state.absmax).float().mean() > 0.99  # a tie is rounded the other way
    assert torch.allclose(packed.dense(), functional.dequantize_4bit(theirs, state), atol=2e-5)


@pytest.mark.parametrize("width", [64, 96, 192], ids=["rows of a block", "blocks across rows", "in pieces"])
def test_a_linear_layer_computes_with_its_rounded_weight_both_ways(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nf4, "PIECE", 3000)
    monkeypatch.setattr(nf4, "CHUNK", 256)
    torch.manual_seed(2)
    linear = nn.Linear(width, 40)
    four = NF4Linear.from_linear(linear)
    x = torch.randn(3, 5, width, requires_grad=True)
    dense = four.dense()
    four(x).square().sum().backward()
    found, x.grad = x.grad, None
    nn.functional.linear(x, dense, linear.bias).square().sum().backward()
    assert found is not None and x.grad is not None and torch.allclose(found, x.grad, atol=1e-4)
    assert not any(name == "weight" for name, _ in four.named_parameters())


def test_qlora_is_lora_on_the_rounded_model(tiny_llm_path: Path, tmp_path: Path) -> None:
    small = qlora.load(tiny_llm_path, dtype="float32").model
    # The same model, its rounded matrices as floats.
    whole = load(tiny_llm_path).model
    with torch.no_grad():
        for path, module in whole.named_modules():
            if isinstance(module, nn.Linear) and path.startswith("blocks."):
                module.weight.copy_(NF4.of(module.weight).dense())
        for table in (whole.embed.tokens, whole.head.tokens if whole.head is not None else None):
            if table is not None:
                table.weight.copy_(table.weight.bfloat16().float())
    assert torch.allclose(small(IDS).logits, whole(IDS).logits, atol=1e-4)
    assert small.dtype == torch.float32
    both = [LoRA(rank=4, dropout=0.0).attach(m, generator=torch.Generator().manual_seed(1)) for m in (small, whole)]
    for attached in both:
        optimizer = torch.optim.AdamW(attached.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            scores = attached.model(IDS).logits
            nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
            optimizer.step()
    mine, reference = (attached.state_dict() for attached in both)
    assert all(torch.allclose(mine[name], value, atol=1e-4) for name, value in reference.items())
    with pytest.raises(UsageError, match="NF4"):
        both[0].merge()
    both[0].save(tmp_path)
    both[0].detach()
    from hornbook import adapt

    adapt.load(load(tiny_llm_path).model, tmp_path)  # its base is the model that was rounded


def test_dora_stands_on_four_bits_too(tiny_llm_path: Path) -> None:
    model = qlora.load(tiny_llm_path, dtype="float32").model
    plain = model(IDS).logits
    attached = LoRA(rank=4, dora=True).attach(model)
    assert torch.allclose(model(IDS).logits, plain, atol=1e-4)
    model(IDS).logits.square().mean().backward()
    assert all(p.grad is not None for p in attached.parameters())
