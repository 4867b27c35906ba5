"""What every family owes: the numbers of transformers at a tiny random configuration, from its own folder and back.

A Case names a model of transformers. It is made with random weights and saved by transformers; hornbook loads that
folder and answers alike, over padding on either side, odd lengths and cached steps; saves it, and transformers loads what
was saved without a warning and with equal logits; writes it as GGUF, and llama.cpp answers alike.
"""

from __future__ import annotations

import inspect
import json
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from reference_llama_cpp import llama_cpp
from reference_models import file_tensors, randomise, save_gguf
from safetensors.torch import save_file
from torch import Tensor, nn

from hornbook.checkpoint import families, ggml, load, save
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.loading import Checkpoint, build
from hornbook.checkpoint.saving import Shapes
from hornbook.model.cache import ContiguousCache
from hornbook.model.parameters import parameters
from hornbook.model.positions import order
from hornbook.model.transformer import Transformer

CLOSE = 1e-5  # of the largest number


class Case(NamedTuple):
    """A configuration of transformers: ``said`` goes to the model's config class."""

    name: str
    model: str  # "LlamaForCausalLM"
    said: dict[str, Any]
    vocab: int = 97
    first_position: int = 0  # what the reference calls the place of a first token
    cached: bool = True
    in_gguf: bool = True  # llama.cpp has this architecture

    def __str__(self) -> str:
        return self.name


SMALL = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "max_position_embeddings": 256, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@cache
def _made(model: str, said: str) -> nn.Module:
    import transformers

    cls = getattr(transformers, model)
    config = cls.config_class(**{"attn_implementation": "eager"} | eval(said))
    return randomise(cls(config))


def reference_of(case: Case) -> nn.Module:
    """The model of transformers, with random weights that leave no part without effect."""
    return _made(case.model, repr(case.said))


def loaded(case: Case, folder: Path) -> Checkpoint:
    """Saved by transformers, loaded by hornbook."""
    reference_of(case).save_pretrained(folder)
    checkpoint = load(folder, device="cpu")
    checkpoint.model.requires_grad_(False)
    shapes = {name: tuple(weight.shape) for name, weight in checkpoint.model.named_parameters()}
    assert list(parameters(checkpoint.config).items()) == list(shapes.items()), "what is known without the modules"
    return checkpoint


def edited(case: Case, folder: Path, *, tensors: dict[str, Tensor] | None = None, **said: object) -> Path:
    """The folder that transformers saves, some of its config.json and its tensors changed."""
    reference_of(case).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | said, sort_keys=True, ensure_ascii=False), "utf-8")
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tensors_of(case: Case) -> dict[str, Tensor]:
    """All that the reference's modules name, a tied head among it."""
    return {name: tensor.clone().contiguous() for name, tensor in reference_of(case).state_dict().items()}


def batch(vocab: int, length: int = 37) -> tuple[Tensor, Tensor]:
    """Four rows: whole, padded right, padded left, one token. Ids from 3 on: those below may mean padding."""
    ids = torch.randint(3, vocab, (4, length), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(4, length, dtype=torch.bool)
    mask[1, 21:], mask[2, :14], mask[3, 1:] = False, False, False
    return ids, mask


def answer_of(reference: nn.Module, ids: Tensor, mask: Tensor | None = None, first: int = 0, **more: Any) -> Any:
    """The reference's output. It is told each token's position, which it would count padding into."""
    if mask is not None:
        more["attention_mask"] = mask.long()
        if "position_ids" in inspect.signature(reference.forward).parameters:
            more["position_ids"] = order(mask) + first
    with torch.no_grad():
        return reference(input_ids=ids, output_hidden_states=True, **more)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def check_parity(case: Case, folder: Path) -> float:
    """Hidden states and logits (or labels' scores) over padding on either side; -> the largest relative error."""
    reference, checkpoint = reference_of(case), loaded(case, folder)
    model = checkpoint.model
    ids, mask = batch(case.vocab)
    expected = answer_of(reference, ids, mask, case.first_position)
    out = model(ids, mask=mask, logits="all" if checkpoint.config.language_head else "none")
    states = expected.hidden_states[-1]
    errors = {"states": relative(out.hidden[mask], states[mask])}
    if checkpoint.config.language_head:
        errors["logits"] = relative(out.logits[mask], expected.logits[mask])
    print(f"\nparity {case.name}: " + ", ".join(f"{name} within {error:.1e}" for name, error in errors.items()))
    assert max(errors.values()) < CLOSE
    return max(errors.values())


def check_heads(case: Case, folder: Path) -> dict[str, float]:
    """States, and what every head makes of them, in one ragged batch: the reference's of each text alone."""
    reference, checkpoint = reference_of(case), loaded(case, folder)
    ids, mask = batch(case.vocab)
    types = torch.randint(max(checkpoint.config.token_types, 1), ids.shape, generator=torch.Generator().manual_seed(3))
    found = heads_of(checkpoint.model, ids, mask, types)
    errors = dict.fromkeys(found, 0.0)
    for row, real in enumerate(mask):
        answer = answer_of(reference, ids[row : row + 1, real], token_type_ids=types[row : row + 1, real])
        for name, value in found.items():
            of_each_token = value.shape[:2] == mask.shape
            expected = reference_head(answer, name)[0]
            errors[name] = max(errors[name], relative(value[row][real] if of_each_token else value[row], expected))
    print(f"\nheads of {case.name}: " + ", ".join(f"{name} within {error:.1e}" for name, error in errors.items()))
    assert max(errors.values()) < CLOSE
    return errors


def check_labels(case: Case, folder: Path) -> None:
    """A decoder's labels in a ragged batch; the reference tells padding, on the right, by pad_token_id, which is 0."""
    model = loaded(case, folder / "theirs").model
    ids, mask = batch(case.vocab)
    mask[2] = True
    expected = reference_of(case)(input_ids=ids.masked_fill(~mask, 0), attention_mask=mask.long()).logits
    found = model.classify(model(ids, mask=mask, logits="none").hidden, mask)
    real = mask if found.ndim == 3 else slice(None)
    assert relative(found[real], expected[real]) < CLOSE
    check_saved(case, folder)


def heads_of(model: Transformer, ids: Tensor, mask: Tensor, types: Tensor) -> dict[str, Tensor]:
    """What each head that the model has says: "vocabulary" [B,T,V], "follows" [B,2], "labels" [B,n] or [B,T,n], ..."""
    out = model(ids, mask=mask, token_types=types, logits="all" if model.head is not None else "none")
    found = {"states": out.hidden}
    if out.logits is not None:
        found["vocabulary"] = out.logits
    if model.next_sentence is not None:
        found["follows"] = model.follows(out.hidden, mask)
    if model.classifier is not None:
        found["labels"] = model.classify(out.hidden, mask)
    elif model.pooler is not None and model.next_sentence is None:
        found["pooled"] = model.pooler(out.hidden, mask)
    return found


def reference_head(answer: Any, name: str) -> Tensor:
    """What transformers' output calls it, which depends on what else is there."""
    if name == "states":
        return answer.hidden_states[-1]
    if name == "labels" and "start_logits" in answer:
        return torch.stack((answer.start_logits, answer.end_logits), dim=-1)
    names = {"vocabulary": "prediction_logits", "follows": "seq_relationship_logits", "pooled": "pooler_output"}
    return next(answer[key] for key in (names.get(name), "sop_logits", "logits") if key in answer)


def check_cached(case: Case, folder: Path) -> None:
    """Forty steps through the cache equal the reference in one pass."""
    model = loaded(case, folder).model
    ids, _ = batch(case.vocab, 47)
    cached = ContiguousCache(model.config, 4, 47)
    steps = [model(part, cache=cached).logits for part in ids.split([7] + [1] * 40, dim=1)]
    assert relative(torch.cat(steps, dim=1), answer_of(reference_of(case), ids).logits) < CLOSE


def check_saved(case: Case, folder: Path) -> None:
    """What hornbook saves: the same weights, bit for bit; transformers loads it with no warning, and answers the same."""
    checkpoint = loaded(case, folder / "theirs")
    save(checkpoint, folder / "ours")
    again = load(folder / "ours", device="cpu")
    assert again.config == checkpoint.config
    for name, weight in again.model.state_dict().items():
        assert torch.equal(weight, checkpoint.model.state_dict()[name]), name
    reference = reference_of(case)
    back = read_by_transformers(reference, folder / "ours")
    ids, _ = batch(case.vocab)
    expected, found = answer_of(reference, ids), answer_of(back, ids)
    assert torch.equal(found.hidden_states[-1], expected.hidden_states[-1])
    for name, value in expected.items():
        assert not isinstance(value, Tensor) or torch.equal(found[name], value), name


def read_by_transformers(reference: Any, folder: Path, *, warning: str = "") -> nn.Module:
    """A folder that hornbook wrote, by the class of ``reference``; a tensor missing or left over is a failure, and so is
    any warning but the one that is named, which must come."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        attention = reference.config._attn_implementation
        model, info = type(reference).from_pretrained(
            folder, output_loading_info=True, attn_implementation=attention, dtype=torch.float32
        )
    finally:
        logger.removeHandler(handler)
    assert len(heard) == bool(warning) and all(warning in message for message in heard), heard
    assert not any(info.values()), info
    return model.eval().requires_grad_(False)


def check_rewritten(case: Case, folder: Path) -> None:
    """config.json in our own words, as a model has it that came from elsewhere, says the same model to transformers."""
    checkpoint = loaded(case, folder / "theirs")
    # What marks beginning, end and padding is the tokenizer's to say, which these folders do not have.
    ids = {key: value for key, value in checkpoint.metadata.items() if key.endswith("_token_id")}
    save(replace(checkpoint, metadata=ids), folder / "ours")
    back = read_by_transformers(reference_of(case), folder / "ours")
    ids, mask = batch(case.vocab)
    expected = answer_of(reference_of(case), ids, mask, case.first_position)
    found = answer_of(back, ids, mask, case.first_position)
    assert torch.equal(found.hidden_states[-1][mask], expected.hidden_states[-1][mask])


def as_gguf(case: Case, folder: Path) -> tuple[Path, Checkpoint, Family]:
    """The file, what it was written of, and as which family."""
    checkpoint = loaded(case, folder / "theirs")
    model, name = checkpoint.model, checkpoint.family.twin_of(checkpoint.config)
    assert name is not None, f"{checkpoint.family.name} has no twin in GGUF"
    family = families.GGUF[name]
    tensors = file_tensors(model, family)
    sayable = ggml.sayable(checkpoint.config)
    tensors |= {name: torch.tensor(values) for name, values in ggml.rotary_factors(sayable).items()}
    said = family.write_config(sayable, Shapes(tensors))
    said |= {"general.architecture": name, "tokenizer.ggml.model": "no_vocab"}
    path = save_gguf(folder / "tiny.gguf", said, tensors)
    return path, checkpoint, family


def check_gguf(case: Case, folder: Path, *, and_back: bool = True) -> float:
    """Written as GGUF by the maps read backwards: our reader gives the same weights, llama.cpp the same logits.

    ``and_back``: a config.json can say again what the file said.
    """
    path, checkpoint, family = as_gguf(case, folder)
    model = checkpoint.model
    with GGUF.open(path) as file:
        config = family.read_config(file.metadata, file)
        again = build(config, family, file, torch.float32, torch.device("cpu")).requires_grad_(False)
    for key, weight in again.state_dict().items():
        assert torch.equal(weight, model.state_dict()[key]), key
    if and_back:
        back = families.HUGGING_FACE[family.twin_of(config) or ""]
        back.write_config(config, Shapes(file_tensors(again, back)))
    ids, _ = batch(case.vocab)
    (theirs,) = llama_cpp(path, [ids[0].tolist()], config.vocab_size)
    ours = again(ids[:1]).logits[0]
    error = relative(ours, theirs)
    print(f"\nGGUF {case.name}: llama.cpp within {error:.1e}")
    # llama.cpp keeps keys and values, and multiplies, in half precision
    assert error < 2e-2
    assert (ours.argmax(-1) == theirs.argmax(-1)).float().mean() > 0.9
    return error
