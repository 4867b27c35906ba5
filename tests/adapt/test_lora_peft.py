"""LoRA against PEFT on transformers' models: forward, gradients, weights after five steps, and files in both directions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hornbook import adapt
from hornbook.adapt.attached import Attached
from hornbook.checkpoint.loading import load
from hornbook.errors import UnsupportedModel

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

IDS = torch.randint(3, 90, (3, 11), generator=torch.Generator().manual_seed(2))
SIZES = {"vocab_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# What PEFT is told, and what Hornbook is told of the same.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lora": ({"r": 4, "lora_alpha": 8}, {"rank": 4, "alpha": 8}),
    "rslora": ({"r": 6, "lora_alpha": 9, "use_rslora": True}, {"rank": 6, "alpha": 9, "rslora": True}),
    "dora": ({"r": 4, "lora_alpha": 12, "use_dora": True}, {"rank": 4, "alpha": 12, "dora": True}),
    "patterns": (
        {"r": 3, "lora_alpha": 6, "rank_pattern": {"layers.1.self_attn.q_proj": 5, "down_proj": 2},
         "alpha_pattern": {"up_proj": 20}},
        {"rank": 3, "alpha": 6, "rank_pattern": {"layers.1.self_attn.q_proj": 5, "down_proj": 2},
         "alpha_pattern": {"up_proj": 20}},
    ),
}  # fmt: skip

PATTERNS = [{"rank_pattern": {"layer.1.intermediate.dense": 5}, "alpha_pattern": {"query": 20}}] * 2


def llama(**more: Any) -> Any:
    wide = {"hidden_size": 32, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **wide, initializer_range=0.3, **more))


def bert() -> Any:
    wide = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 64}
    config = transformers.BertConfig(**SIZES, **wide, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return transformers.BertForMaskedLM(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=96, n_layer=2, n_head=4, n_embd=32, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def phi3() -> Any:
    wide = {"hidden_size": 32, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**SIZES, **wide, pad_token_id=0))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def base(name: str) -> Path:
        if name not in made:
            torch.manual_seed(len(name))
            makers = {"llama": llama, "bert": bert, "gpt2": gpt2, "phi3": phi3}
            tied = {"tied": lambda: llama(tie_word_embeddings=True)}
            made[name] = tmp_path_factory.mktemp(name)
            (makers | tied)[name]().save_pretrained(made[name])
        return made[name]

    return base


def theirs(folder: Path, adapter: Path | None = None) -> Any:
    kind = transformers.AutoModelForMaskedLM if "bert" in folder.name else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model if adapter is None else peft.PeftModel.from_pretrained(model, adapter).eval()


def shaken(parameters: Any) -> None:
    """Weights as if they had been trained."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def far(ours: Any, other: Any) -> float:
    with torch.no_grad():
        return float((ours(IDS).logits - other(IDS).logits).abs().max())


@pytest.mark.parametrize("base", ["llama", "bert"])
@pytest.mark.parametrize("kind", KINDS)
def test_five_steps_are_those_of_peft(base: str, kind: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    said, ours_said = KINDS[kind]
    if base == "bert" and kind == "patterns":  # whose names are those of a Llama
        said, ours_said = ({**x, **PATTERNS[i]} for i, x in enumerate(KINDS[kind]))
    targets = LINEARS if base == "llama" else ["query", "key", "value", "attention.output.dense", "intermediate.dense"]
    torch.manual_seed(3)
    other = peft.get_peft_model(theirs(bases(base)), peft.LoraConfig(target_modules=targets, lora_dropout=0.0, **said))
    shaken(p for p in other.parameters() if p.requires_grad)
    other.save_pretrained(tmp_path)
    model = load(bases(base)).model
    attached = adapt.load(model, tmp_path)
    fresh = adapt.LoRA(targets=targets, **ours_said).attach(load(bases(base)).model)
    assert {n: tuple(p.shape) for n, p in fresh.named_parameters()} == {
        n: tuple(p.shape) for n, p in attached.named_parameters()
    }
    other.train()
    model.train()
    optimizers = [
        torch.optim.AdamW([p for p in one.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
        for one in (other, attached)
    ]
    labels = IDS.roll(1, 1).flatten()
    for step in range(5):
        losses = []
        for one, optimizer in zip((other, model), optimizers, strict=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(one(IDS).logits.flatten(0, 1), labels)
            loss.backward()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5), step
        if step == 0:
            gradients = [
                torch.stack([p.grad.double().square().sum() for p in o.param_groups[0]["params"]]).sum()
                for o in optimizers
            ]
            assert gradients[0].item() == pytest.approx(gradients[1].item(), rel=1e-4)
        for optimizer in optimizers:
            optimizer.step()
    mine, peer = attached.state_dict(), peft.get_peft_model_state_dict(other)
    assert mine.keys() == peer.keys()
    for name, tensor in peer.items():
        assert torch.allclose(mine[name], tensor, atol=2e-5), name


@pytest.mark.parametrize("kind", [*KINDS, "pissa", "trained norms"])
def test_what_we_save_peft_loads(kind: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    more = {"pissa": {"init": "pissa", "rank": 4}, "trained norms": {"rank": 4, "train_also": ["norms", "embeddings"]}}
    model = load(bases("tied")).model
    plain = model(IDS).logits.detach()
    attached = adapt.attach(model, adapt.LoRA(**(more | {k: v[1] for k, v in KINDS.items()})[kind]))
    assert torch.allclose(model(IDS).logits, plain, atol=1e-5), "an adapter begins as no change"
    shaken(attached.parameters())
    attached.save(tmp_path / "ours")
    other = theirs(bases("tied"), tmp_path / "ours")
    assert far(model, other) < 1e-5 * max(1.0, float(plain.abs().max()))
    other.save_pretrained(tmp_path / "theirs")
    again = load(bases("tied")).model
    adapt.load(again, tmp_path / "theirs")
    assert torch.allclose(again(IDS).logits, model(IDS).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("base", "targets"), [("gpt2", ["c_attn", "c_fc", "mlp.c_proj"]), ("phi3", ["qkv_proj", "gate_up_proj", "o_proj"])]
)
@pytest.mark.parametrize("dora", [False, True])
def test_a_matrix_that_holds_several_of_ours_is_adapted_both_ways(
    base: str, targets: list[str], dora: bool, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    other = peft.get_peft_model(
        theirs(bases(base)),
        peft.LoraConfig(r=4, target_modules=targets, use_dora=dora, fan_in_fan_out=base == "gpt2"),
    ).eval()
    shaken(p for p in other.parameters() if p.requires_grad)
    other.save_pretrained(tmp_path / "theirs")
    model = load(bases(base)).model
    attached = adapt.load(model, tmp_path / "theirs")
    assert far(model, other) < 1e-5
    attached.save(tmp_path / "same")
    mine = attached.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in peft.get_peft_model_state_dict(other).items())
    # Trained apart, they are one of theirs of the summed rank.
    apart = load(bases(base)).model
    own = adapt.attach(apart, adapt.LoRA(rank=2, alpha=3, targets=targets, dora=dora))
    shaken(own.parameters())
    own.save(tmp_path / "ours")
    assert far(apart, theirs(bases(base), tmp_path / "ours")) < 1e-5


def test_some_of_a_fused_matrix_can_be_adapted_alone(bases: Callable[[str], Path], tmp_path: Path) -> None:
    model = load(bases("gpt2")).model
    attached: Attached = adapt.attach(model, adapt.LoRA(rank=2, targets=["query", "value"]))
    shaken(attached.parameters())
    attached.save(tmp_path)
    assert far(model, theirs(bases("gpt2"), tmp_path)) < 1e-5
    model = load(bases("gpt2")).model
    with pytest.raises(UnsupportedModel, match=r"c_attn.*query"):
        adapt.attach(model, adapt.LoRA(rank=2, targets=["query"], dora=True)).save(tmp_path)
