"""Prompt tuning, P-tuning, prefix tuning and IA3 against peft: forward, gradients, five steps of training, files both ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hornbook import adapt
from hornbook.adapt.attached import Attached
from hornbook.adapt.bottleneck import Bottleneck
from hornbook.adapt.ia3 import IA3
from hornbook.adapt.prefix import Prefix
from hornbook.adapt.prompt import Prompt
from hornbook.adapt.ptuning import PTuning
from hornbook.adapt.reft import LoReFT
from hornbook.checkpoint.loading import load
from hornbook.model.cache import ContiguousCache
from hornbook.model.transformer import Transformer
from hornbook.train.batch import Batch, pad
from hornbook.train.loop import train
from hornbook.train.losses import causal_lm

IGNORED = -100
ROWS = [[5, 9, 77, 30, 12, 8, 101], [7, 60, 3], [200, 4, 4, 17, 90]]
RATE = 3e-4  # a small step: the tiny random model is so rough that differences in the last bit grow a hundredfold

# ours, peft's, and which parameter of peft's is which of ours ("" in ours: every target's, in the model's order)
KINDS: dict[str, tuple[Any, tuple[str, dict[str, Any]]]] = {
    "prompt": (Prompt(5), ("PromptTuningConfig", {"num_virtual_tokens": 5})),
    "ptuning": (PTuning(5, hidden=16), ("PromptEncoderConfig", {"num_virtual_tokens": 5, "encoder_hidden_size": 16})),
    "ptuning-lstm": (
        PTuning(5, "lstm", hidden=16),
        ("PromptEncoderConfig",
         {"num_virtual_tokens": 5, "encoder_hidden_size": 16, "encoder_reparameterization_type": "LSTM"}),
    ),
    "prefix": (Prefix(5), ("PrefixTuningConfig", {"num_virtual_tokens": 5})),
    "prefix-projected": (
        Prefix(5, projected=True, hidden=24),
        ("PrefixTuningConfig", {"num_virtual_tokens": 5, "prefix_projection": True, "encoder_hidden_size": 24}),
    ),
    "ia3": (IA3(), ("IA3Config", {})),
}  # fmt: skip


@pytest.fixture(scope="module")
def theirs_of(tiny_llm_path: Path) -> Callable[[str], Any]:
    """A fresh peft model of a kind, in eval mode, with weights that are not those of the beginning."""
    import peft
    from transformers import AutoModelForCausalLM

    def make(kind: str) -> Any:
        base = AutoModelForCausalLM.from_pretrained(tiny_llm_path)
        name, settings = KINDS[kind][1]
        torch.manual_seed(3)
        model = peft.get_peft_model(base, getattr(peft, name)(task_type="CAUSAL_LM", **settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def ours(tiny_llm_path: Path) -> Transformer:
    return load(tiny_llm_path).model


def batch() -> Batch:
    ids, mask = pad(ROWS, 0), pad([[1] * len(row) for row in ROWS], 0).bool()
    labels = ids.masked_fill(~mask, IGNORED)
    labels[:, :2] = IGNORED
    return Batch(ids, labels, mask)


def pairs(attached: Attached, theirs: Any) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """Their trained parameters beside ours, which have the same order."""
    own = [p for _, p in theirs.named_parameters() if p.requires_grad]
    mine = list(attached.parameters())
    if attached.adapter.kind == "ia3":  # by layer here, by module there: the same, but for what is in a block
        mine = [attached.parts[f"blocks.{i}.{name}"].scale for i in range(2) for name in
                ("attention.key", "attention.value", "feedforward.down")]  # fmt: skip
    assert len(own) == len(mine)
    return list(zip(mine, own, strict=True))


def attach_alike(model: Transformer, kind: str, theirs: Any) -> Attached:
    attached = KINDS[kind][0].attach(model)
    with torch.no_grad():
        for mine, own in pairs(attached, theirs):
            mine.copy_(own.reshape(mine.shape))
    return attached


def their_loss(theirs: Any, data: Batch) -> Tensor:
    loss: Tensor = theirs(input_ids=data.ids, attention_mask=data.mask.long(), labels=data.labels).loss
    return loss


def their_logits(theirs: Any, data: Batch) -> Tensor:
    """Of the rows' own tokens."""
    logits: Tensor = theirs(input_ids=data.ids, attention_mask=data.mask.long()).logits
    return logits[:, -data.ids.shape[1] :]


@pytest.mark.parametrize("kind", KINDS)
def test_forward_gradients_and_five_steps_are_those_of_peft(
    kind: str, ours: Transformer, theirs_of: Callable[[str], Any]
) -> None:
    theirs, data = theirs_of(kind), batch()
    attached = attach_alike(ours, kind, theirs)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(data.ids, mask=data.mask).logits[data.mask],
            their_logits(theirs, data)[data.mask],
            atol=1e-5,
            rtol=1e-5,
        )
    causal_lm()(ours, data)[0].backward()
    their_loss(theirs, data).backward()
    for mine, own in pairs(attached, theirs):
        assert mine.grad is not None and own.grad is not None
        largest = float(own.grad.abs().max())
        torch.testing.assert_close(mine.grad, own.grad.reshape(mine.shape), atol=1e-5 * max(1.0, largest), rtol=1e-4)
    assert all(p.grad is None for p in ours.parameters() if not any(p is q for q in attached.parameters()))

    before = [mine.detach().clone() for mine in attached.parameters()]
    theirs.train()
    own = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], lr=RATE)
    for _ in range(5):
        own.zero_grad()
        their_loss(theirs, data).backward()
        own.step()
    train(ours, [data] * 5, causal_lm(), torch.optim.SGD(attached.parameters(), lr=RATE), steps=5)
    moved = max(float((now - was).abs().max()) for now, was in zip(attached.parameters(), before, strict=True))
    assert moved > 1e-4, f"five steps changed nothing by more than {moved}"
    for mine, own in pairs(attached, theirs):
        torch.testing.assert_close(mine, own.reshape(mine.shape), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["prompt", "prefix", "ia3"])
def test_what_is_written_token_by_token_is_what_peft_writes(
    kind: str, ours: Transformer, theirs_of: Callable[[str], Any]
) -> None:
    theirs = theirs_of(kind)
    attach_alike(ours, kind, theirs)
    for row in ROWS:
        ids = torch.tensor([row])
        said = theirs.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, eos_token_id=None
        )
        cache, step, mine = ContiguousCache(ours.config, 1, 40), ids, []
        with torch.no_grad():
            for _ in range(6):
                step = ours(step, cache=cache, logits="last").logits.argmax(-1, keepdim=True)
                mine.append(int(step))
        assert said[0, -6:].tolist() == mine


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_read_both_ways(
    kind: str, ours: Transformer, theirs_of: Callable[[str], Any], tiny_llm_path: Path, tmp_path: Path
) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    theirs, data = theirs_of(kind), batch()
    theirs.save_pretrained(tmp_path / "theirs")
    attached = adapt.load(ours, tmp_path / "theirs")
    with torch.no_grad():
        expected = their_logits(theirs, data)[data.mask]
        torch.testing.assert_close(ours(data.ids, mask=data.mask).logits[data.mask], expected, atol=1e-5, rtol=1e-5)
        attached.save(tmp_path / "ours", base=str(tiny_llm_path))
        again = peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tiny_llm_path), str(tmp_path / "ours")
        ).eval()
        torch.testing.assert_close(their_logits(again, data)[data.mask], expected, atol=1e-5, rtol=1e-5)


def test_ia3_of_a_fused_and_transposed_projection_is_read_both_ways(tmp_path: Path) -> None:
    """GPT-2's c_attn holds queries, keys and values, [in, out]: one vector of theirs is three of ours."""
    import peft
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(4)
    config = GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    theirs = peft.get_peft_model(
        GPT2LMHeadModel.from_pretrained(tmp_path / "base"), peft.IA3Config(task_type="CAUSAL_LM", fan_in_fan_out=True)
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, ids = load(tmp_path / "base").model, torch.tensor([[5, 9, 31, 2]])
    attached = adapt.load(ours, tmp_path / "theirs")
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        torch.testing.assert_close(ours(ids).logits, expected, atol=1e-5, rtol=1e-5)
        attached.save(tmp_path / "ours")
        attached.merge()
        torch.testing.assert_close(ours(ids).logits, expected, atol=1e-5, rtol=1e-5)
        base = GPT2LMHeadModel.from_pretrained(tmp_path / "base")
        again = peft.PeftModel.from_pretrained(base, str(tmp_path / "ours")).eval()
        torch.testing.assert_close(again(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("adapter", [Bottleneck(4), LoReFT(2)])
def test_peft_says_that_it_does_not_know_kinds_of_our_own(adapter: Any, ours: Transformer, tmp_path: Path) -> None:
    import peft

    adapter.attach(ours).save(tmp_path)
    with pytest.raises(KeyError, match=adapter.peft_type):
        peft.PeftConfig.from_pretrained(str(tmp_path))
