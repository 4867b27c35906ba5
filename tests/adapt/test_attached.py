"""An adapter on a model, whatever its files: switched, stacked, merged, taken off; targets, bases and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hornbook import adapt
from hornbook.adapt import LoRA, inject
from hornbook.adapt.lora import LoRAPart
from hornbook.adapt.low_rank import beside
from hornbook.checkpoint import fingerprint
from hornbook.checkpoint.exporting import export
from hornbook.checkpoint.loading import Checkpoint, load
from hornbook.checkpoint.lora import adapter_folder
from hornbook.errors import ModelFileError, ModelNotFound, UnsupportedModel, UsageError
from hornbook.model.transformer import Transformer
from hornbook.settings import Settings

IDS = torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(4))


@pytest.fixture
def model(tiny_llm_path: Path) -> Transformer:
    return load(tiny_llm_path).model


def shaken(attached: adapt.Attached, seed: int = 1) -> adapt.Attached:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return attached


@torch.no_grad()
def logits(model: Transformer) -> Tensor:
    found = model(IDS).logits
    assert found is not None
    return found


def own(model: Transformer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"init": "pissa"}, {"train_also": ["norms", "embed_tokens"]}])
def test_merged_is_attached_and_nothing_is_left_behind(model: Transformer, settings: dict[str, object]) -> None:
    before, plain = own(model), logits(model)
    generator = torch.Generator().manual_seed(3)
    attached = shaken(LoRA(rank=4, **settings).attach(model, generator=generator))  # type: ignore[arg-type]
    changed = logits(model)
    assert not torch.allclose(changed, plain, atol=1e-2)
    with attached.disabled():
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model), changed)
    attached.merge()
    assert torch.allclose(logits(model), changed, atol=1e-3)  # of logits up to 15
    with pytest.raises(UsageError, match="merged"):
        attached.active = False
    attached.unmerge()
    assert torch.equal(logits(model), changed)
    attached.merge()
    attached.detach()
    assert own(model).keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in own(model).items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.attached


def test_a_model_merged_for_good_is_a_plain_one(model: Transformer) -> None:
    attached = shaken(LoRA(rank=4, train_also=["norms"]).attach(model))
    changed, names = logits(model), {name for name, _ in inject.parameters(model)}
    attached.merge(forever=True)
    assert torch.allclose(logits(model), changed, atol=1e-3)  # of logits up to 15
    assert names == dict(model.named_parameters()).keys()
    assert not any(isinstance(module, inject.Site) for module in model.modules())


def test_two_add_up_and_are_switched(model: Transformer) -> None:
    plain = logits(model)
    one = shaken(LoRA(rank=2, targets=["query", "down"]).attach(model, name="one"))
    first = logits(model)
    two = shaken(LoRA(rank=3, dora=True, targets=["down", "up"]).attach(model, name="two"), 2)
    both = logits(model)
    one.active = False
    second = logits(model)
    two.active = False
    assert torch.equal(logits(model), plain)
    one.active = True
    assert torch.equal(logits(model), first)
    assert len({float(x.sum()) for x in (plain, first, second, both)}) == 4
    # At one module the changes are those of each alone, added.
    part = inject.module(model, "blocks.0.feedforward.down")
    x = torch.randn(5, part.in_features)  # type: ignore[arg-type]
    site = model.get_submodule("blocks.0.feedforward.down")
    with torch.no_grad():
        base, a = part(x), site(x)
        two.active, one.active = True, False
        b = site(x)
        one.active = True
        assert torch.allclose(site(x), a + b - base, atol=1e-5)
    with pytest.raises(UsageError, match=r"alone.*two"):
        one.merge()
    one.detach()
    assert torch.equal(logits(model), second)
    two.detach()
    assert torch.equal(logits(model), plain)


def test_the_lean_form_has_the_gradients_of_the_plain_one() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(12, 7)
    linear.requires_grad_(False)
    down, up = nn.Parameter(torch.randn(3, 12)), nn.Parameter(torch.randn(7, 3))
    x = torch.randn(2, 5, 12, requires_grad=True)
    weight = torch.randn(2, 5, 7)
    plain = linear(x) + 0.5 * (x @ down.T) @ up.T
    lean = beside(linear, x, down, up, 0.5, 0.0)
    assert torch.allclose(plain, lean, atol=1e-5)
    expected = torch.autograd.grad((plain * weight).sum(), (x, down, up))
    found = torch.autograd.grad((lean * weight).sum(), (x, down, up))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(expected, found, strict=True))
    # A base that is trained too has its gradient as ever.
    linear.requires_grad_(True)
    beside(linear, x, down, up, 0.5, 0.0).sum().backward()
    assert linear.weight.grad is not None


def test_only_the_adapter_learns_and_dropout_only_while_training(model: Transformer) -> None:
    attached = LoRA(rank=4, dropout=0.5, targets=["query"]).attach(model)
    shaken(attached)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        f"blocks.{i}.attention.query.parts.default.{side}" for i in range(2) for side in ("down", "up")
    ]
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


@pytest.mark.parametrize("dora", [False, True])
def test_a_model_in_bfloat16_keeps_its_adapter_in_float32(tiny_llm_path: Path, dora: bool) -> None:
    model = load(tiny_llm_path, dtype="bfloat16").model
    attached = shaken(LoRA(rank=4, dora=dora).attach(model))
    out = model(IDS).logits
    assert out is not None and out.dtype == torch.bfloat16
    out.float().logsumexp(-1).sum().backward()
    assert {p.dtype for p in attached.parameters()} == {torch.float32}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in attached.parameters())


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ("all-linear", {"query", "key", "value", "output", "gate", "up", "down"}),
        (["q_proj", "mlp.up_proj"], {"query", "up"}),
        (["attention.value"], {"value"}),
        (r".*\.(self_attn\.k_proj|feedforward\.gate)", {"key", "gate"}),
    ],
)
def test_targets_are_named_as_here_or_as_in_the_files(model: Transformer, targets: str, found: set[str]) -> None:
    attached = LoRA(targets=targets).attach(model)
    assert {path.rpartition(".")[2] for path in attached.parts} == found
    assert len(attached.parts) == 2 * len(found)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"targets": ["q_porj"]}, "q_proj"),
        ({"targets": ["quarry"]}, "query"),
        ({"targets": []}, "all-linear"),
        ({"targets": "(("}, "regular expression"),
        ({"targets": ["head.tokens"]}, "train_also"),
        ({"train_also": ["nrm"]}, "norm"),
        ({"rank": 0}, "rank"),
        ({"dropout": 1.0}, "dropout"),
        ({"init": "xavier"}, "kaiming"),
        ({"init": "orthogonal", "rank": 3}, "even"),
    ],
)
def test_what_cannot_be_attached_is_named(
    model: Transformer, settings: dict[str, object], said: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(UsageError, match=said):
        LoRA(**settings).attach(model)  # type: ignore[arg-type]
    assert not model.attached
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_names_are_taken_once(model: Transformer) -> None:
    LoRA(train_also=["norms"]).attach(model, name="a")
    with pytest.raises(UsageError, match="'a' is on the model"):
        LoRA().attach(model, name="a")
    with pytest.raises(UsageError, match=r"norm.*trained by the adapter 'a'"):
        LoRA(train_also=["norms"]).attach(model, name="b")
    assert list(model.attached) == ["a"]
    assert not any("parts.b." in name for name, _ in model.named_parameters())


def test_the_same_seed_draws_the_same_weights(tiny_llm_path: Path) -> None:
    drawn = [
        LoRA(init="gaussian")
        .attach(load(tiny_llm_path).model, generator=torch.Generator().manual_seed(seed))
        .state_dict()
        for seed in (5, 5, 6)
    ]
    assert all(torch.equal(value, drawn[1][name]) for name, value in drawn[0].items())
    assert not all(torch.equal(value, drawn[2][name]) for name, value in drawn[0].items())


def test_pissa_begins_as_the_largest_directions() -> None:
    torch.manual_seed(1)
    linear = nn.Linear(20, 16, bias=False)
    part = LoRAPart(linear, 3, 2.0, init="pissa", generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(linear.weight.detach())
    assert torch.allclose(2.0 * part.up @ part.down, (u[:, :3] * s[:3]) @ v[:3], atol=1e-3)


# ---------------------------------------------------------------------------------------------------------------- bases


def test_an_adapter_knows_its_base_in_every_format(tiny_llm_path: Path, tmp_path: Path) -> None:
    checkpoint = load(tiny_llm_path)
    attached = shaken(LoRA(rank=2).attach(checkpoint.model))
    attached.save(tmp_path / "adapter")
    attached.detach()
    export(checkpoint, tmp_path / "small.gguf", to="gguf", quantise="Q4_0", min_top1=0.0, max_kl=1e9)
    gguf = load(tmp_path / "small.gguf", dtype="bfloat16").model
    adapt.load(gguf, tmp_path / "adapter")
    assert fingerprint.of_file(tiny_llm_path).sha256 == attached.base.sha256
    fingerprint.check(
        json.loads((tmp_path / "adapter" / "adapter_config.json").read_text()),
        fingerprint.of_file(tmp_path / "small.gguf"),
        "it",
    )


def _other(checkpoint: Checkpoint, change: str) -> Transformer:
    other = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        for parameter in other.parameters():
            if (change == "norms") == (parameter.ndim == 1):
                parameter.mul_(1.05) if change == "norms" else parameter.copy_(torch.randn_like(parameter))
    return other


@pytest.mark.parametrize("change", ["norms", "matrices"])
def test_another_base_is_refused_by_name(tiny_llm_path: Path, tmp_path: Path, change: str) -> None:
    checkpoint = load(tiny_llm_path)
    attached = LoRA(rank=2).attach(checkpoint.model)
    attached.save(tmp_path, base="the-tiny-one")
    attached.detach()
    other = _other(checkpoint, change)
    with pytest.raises(UsageError, match="another base, the-tiny-one"):
        adapt.load(other, tmp_path)
    # Without the key, as PEFT writes it, shapes are what is checked.
    raw = json.loads((tmp_path / "adapter_config.json").read_text())
    del raw[fingerprint.KEY]
    (tmp_path / "adapter_config.json").write_text(json.dumps(raw))
    adapt.load(other, tmp_path)


def test_a_damaged_or_foreign_file_is_named_and_nothing_stays(tiny_llm_path: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = load(tiny_llm_path).model
    LoRA(rank=2, targets=["q_proj"]).attach(model).save(tmp_path)
    raw = json.loads((tmp_path / "adapter_config.json").read_text())
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name = next(iter(weights))

    def refused(error: type[Exception], said: str, tensors: dict[str, Tensor] | None = None, **changed: object) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(raw | changed))
        save_file(weights if tensors is None else tensors, tmp_path / "adapter_model.safetensors")
        fresh = load(tiny_llm_path).model
        with pytest.raises(error, match=said):
            adapt.load(fresh, tmp_path)
        assert not fresh.attached

    refused(UnsupportedModel, "POLY", peft_type="POLY")
    refused(UnsupportedModel, "bias", bias="all")
    refused(ModelFileError, "lora_", {n: w for n, w in weights.items() if n != name})
    refused(ModelFileError, "finite", weights | {name: torch.full_like(weights[name], torch.nan)})
    refused(UsageError, "9", weights | {name: torch.zeros(2, 9)})
    refused(UsageError, "layers.7", {n.replace("layers.1", "layers.7"): w for n, w in weights.items()})
    refused(UnsupportedModel, "lora_C", weights | {name.replace("lora_A", "lora_C"): weights[name].clone()})
    refused(ModelFileError, fingerprint.KEY, **{fingerprint.KEY: {"sha256": 3}})
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="adapter_model"):
        adapt.load(load(tiny_llm_path).model, tmp_path)


def test_a_run_is_found_by_its_folder_and_by_its_name(home: Path, tmp_path: Path) -> None:
    settings = Settings.load(home=home)
    for place in (tmp_path / "run" / "adapter", home / "runs" / "pirate" / "adapter", home / "adapters" / "terse"):
        place.mkdir(parents=True)
        (place / "adapter_config.json").write_text("{}")
    assert adapter_folder(tmp_path / "run") == tmp_path / "run" / "adapter"
    assert adapter_folder("pirate", settings) == home / "runs" / "pirate" / "adapter"
    assert adapter_folder("terse", settings) == home / "adapters" / "terse"
    with pytest.raises(ModelNotFound, match="pirate"):
        adapter_folder("pirat", settings)
