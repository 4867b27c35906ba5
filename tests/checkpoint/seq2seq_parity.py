"""What a family of encoder-decoders owes, as family_parity has it for the others: the numbers of transformers, from its
folder and back, with padding on either side of source and target, and in cached steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from family_parity import CLOSE, read_by_transformers, relative
from torch import Tensor, nn

from hornbook.checkpoint import load, save
from hornbook.checkpoint.loading import Checkpoint
from hornbook.model.cache import ContiguousCache
from hornbook.model.transformer import Transformer
from seq2seq_models import loaded, ragged


def answer_of(reference: nn.Module, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The reference's states [T,C] and logits [T,V] of one pair without padding."""
    with torch.no_grad():
        out = reference(
            input_ids=source[None], decoder_input_ids=target[None], output_hidden_states=True, use_cache=False
        )
    return out.decoder_hidden_states[-1][0], out.logits[0]


def check_parity(reference: nn.Module, folder: Path) -> None:
    """States and logits, each row compared with the reference's answer to that row alone: its Marian counts padding."""
    model = loaded(reference, folder).model
    worst = {"states": 0.0, "logits": 0.0}
    for side, other in (("right", "right"), ("left", "right"), ("right", "left"), ("left", "left")):
        (sources, read), (targets, written) = ragged(side, (19, 7, 4, 1)), ragged(other, (5, 23, 1, 11), seed=6)
        out = model(targets, mask=written, memory=model.encode(sources, read))
        for row in range(len(sources)):
            states, logits = answer_of(reference, sources[row][read[row]], targets[row][written[row]])
            real = written[row]
            worst["states"] = max(worst["states"], relative(out.hidden[row][real], states))
            worst["logits"] = max(worst["logits"], relative(out.logits[row][real], logits))
    said = ", ".join(f"{name} within {error:.1e}" for name, error in worst.items())
    print(f"\nparity {reference.config.model_type}, {folder.name}: {said}")
    assert max(worst.values()) < CLOSE


def check_cached(reference: nn.Module, folder: Path) -> None:
    """Forty steps through the cache, over ragged sources, equal one pass of the reference."""
    model = loaded(reference, folder).model
    sources, read = ragged("right", (19, 7, 4, 1))
    targets, _ = ragged("right", (47,) * 4, seed=6)
    memory, cached = model.encode(sources, read), ContiguousCache(model.config, 4, 47)
    parts = targets.split([7] + [1] * 40, dim=1)
    with torch.inference_mode():
        logits = torch.cat([model(part, memory=memory, cache=cached).logits for part in parts], dim=1)
    for row in range(4):
        expected = answer_of(reference, sources[row][read[row]], targets[row])[1]
        assert relative(logits[row], expected) < CLOSE


def check_saved(reference: nn.Module, folder: Path, *, warning: str = "") -> None:
    """What hornbook saves, with the config.json that it read and with one of its own words: the same weights, bit for
    bit, which transformers loads with no ``warning`` but the named one, and answers the same with."""
    checkpoint = loaded(reference, folder / "theirs")
    for name, metadata in (("kept", checkpoint.metadata), ("ours", {})):
        save(replace(checkpoint, metadata=metadata), folder / name)
        assert_equal(load(folder / name, device="cpu"), checkpoint)
        back = read_by_transformers(reference, folder / name, warning=warning)
        source, target = ragged("right", (9,))[0][0], ragged("right", (12,), seed=6)[0][0]
        for found, expected in zip(answer_of(back, source, target), answer_of(reference, source, target), strict=True):
            assert torch.equal(found, expected)


def assert_equal(again: Checkpoint, checkpoint: Checkpoint) -> None:
    assert again.config == checkpoint.config
    assert_weights(again.model, checkpoint.model)


def assert_weights(again: Transformer, model: Transformer) -> None:
    weights = model.state_dict()
    assert again.state_dict().keys() == weights.keys()
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, weights[name]), name
