"""New tokens: texts without them keep their ids, texts with them get shorter, and the model begins where it was."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from hornbook.checkpoint.families import HUGGING_FACE
from hornbook.checkpoint.loading import load
from hornbook.checkpoint.saving import save_model
from hornbook.errors import UnsupportedModel, UsageError
from hornbook.model.config import LayerKind, ModelConfig, Relative, Rotary
from hornbook.model.transformer import Transformer
from hornbook.text.extend import add_tokens, grow, resize
from hornbook.text.tokenizer import Tokenizer
from hornbook.text.train_tokenizer import train
from hornbook.train.initialise import initialise


@pytest.fixture(scope="module")
def novel(shared: Path) -> str:
    with gzip.open(shared / "lm_text" / "botchan_en.txt.gz", "rt", encoding="utf-8") as file:
        return file.read(60_000).replace("\r\n", "\n")


@pytest.fixture(scope="module")
def tokenizer(novel: str) -> Tokenizer:
    return train(novel[:20_000].split("\n"), size=340)


def tiny(vocabulary: int, *, tied: bool) -> Transformer:
    rotary = (LayerKind(rotary=Rotary()),)
    config = ModelConfig(vocabulary, 2, 48, 4, 2, 12, 96, 128, pattern=rotary, tied_head=tied)
    return initialise(Transformer(config), generator=torch.Generator().manual_seed(0))


def windows(ids: list[int], rows: int, width: int) -> Iterator[torch.Tensor]:
    chance = torch.Generator().manual_seed(1)
    data = torch.tensor(ids)
    while True:
        starts = torch.randint(len(ids) - width, (rows,), generator=chance)
        yield torch.stack([data[start : start + width] for start in starts.tolist()])


def loss(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    logits = model(ids).logits
    assert logits is not None
    return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def nats_a_letter(model: Transformer, tokenizer: Tokenizer, text: str) -> float:
    """Over a text in rows of 64 tokens; letters are what vocabularies of different sizes share."""
    ids = tokenizer.encode(text, add_special=False)
    rows = torch.tensor(ids[: len(ids) // 64 * 64]).view(-1, 64)
    letters = sum(len(tokenizer.decode(row[1:].tolist())) for row in rows)
    return float(loss(model, rows)) * rows[:, 1:].numel() / letters


def test_a_list_of_tokens_is_found_wherever_it_stands(tokenizer: Tokenizer) -> None:
    new = add_tokens(tokenizer, ["腹腔镜", "schoolmaster"])
    ids = new.tokenizer.encode("The schoolmasters 腹腔镜.", add_special=False)
    assert [new.tokenizer.id("腹腔镜"), new.tokenizer.id("schoolmaster")] == [340, 341] and {340, 341} <= set(ids)
    assert new.tokenizer.decode(ids) == "The schoolmasters 腹腔镜."
    assert new.pieces[341] == tuple(tokenizer.encode("schoolmaster", add_special=False))
    assert new.tokenizer.encode("A text without.") == tokenizer.encode("A text without.")
    assert tokenizer.vocab_size == 340, "the old tokenizer stays as it is"
    steering = add_tokens(tokenizer, ["<|tool|>"], control=True).tokenizer
    assert len(steering.encode("<|tool|>", add_special=False)) > 1
    assert steering.encode("<|tool|>", add_special=False, parse_special=True) == [340]


def test_byte_pairs_go_on_merging(tokenizer: Tokenizer, novel: str) -> None:
    new = grow(tokenizer, novel[20_000:50_000].split("\n"), 60)
    held_out = novel[50_000:]
    before, after = tokenizer.encode(held_out), new.tokenizer.encode(held_out)
    assert len(after) < 0.92 * len(before)
    assert new.tokenizer.decode(after) == tokenizer.decode(before)
    assert [old for id in after for old in new.pieces.get(id, (id,))] == before, "new tokens stand for their pieces"
    assert sorted(new.pieces) == list(range(340, 400))
    assert new.tokenizer.control_ids == tokenizer.control_ids and new.tokenizer.stop_ids == tokenizer.stop_ids
    assert new.tokenizer.encode(held_out[:99], parse_special=True)[0] == tokenizer.bos_id


def test_growing_is_the_same_as_having_trained_longer(novel: str) -> None:
    """On the same texts: as many merges as one training of the larger size, and as few tokens, but for ties."""
    lines = novel[:20_000].split("\n")
    grown, trained = grow(train(lines, size=320), lines, 40).tokenizer, train(lines, size=360)
    assert grown.vocab_size == trained.vocab_size == 360
    counts = [sum(len(t.encode(line)) for line in lines) for t in (grown, trained)]
    assert counts[0] == pytest.approx(counts[1], rel=0.002)


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_means_of_pieces_and_old_rows_stay(tokenizer: Tokenizer, tied: bool) -> None:
    new = add_tokens(tokenizer, ["schoolmaster", "腹腔镜"])
    model = tiny(tokenizer.vocab_size, tied=tied)
    ids = torch.tensor([tokenizer.encode("A schoolmaster.")])
    before, table = model(ids).logits, model.embed.tokens.weight.clone()  # type: ignore[union-attr]
    heads = None if model.head.tokens is None else model.head.tokens.weight.clone()  # type: ignore[union-attr]
    resize(model, new)
    assert model.config.vocab_size == 342
    torch.testing.assert_close(model(ids).logits[..., :340], before)  # type: ignore[index]
    for id, pieces in new.pieces.items():
        torch.testing.assert_close(model.embed.tokens.weight[id], table[list(pieces)].mean(0))  # type: ignore[union-attr]
        if heads is not None:
            torch.testing.assert_close(model.head.tokens.weight[id], heads[list(pieces)].mean(0))  # type: ignore[union-attr]
    assert (model.head.tokens is None) == tied  # type: ignore[union-attr]


def test_rows_to_spare_are_used_first_and_both_sides_of_a_model_grow(tokenizer: Tokenizer) -> None:
    model = resize(tiny(400, tied=True), add_tokens(tokenizer, ["腹腔镜"]))
    assert model.config.vocab_size == 400
    relative = {"relative": Relative(), "gated": False, "activation": "relu"}
    encoder = ModelConfig(340, 1, 32, 2, 2, 16, 64, 64, causal=False, language_head=False, **relative)  # type: ignore[arg-type]
    both = ModelConfig(340, 1, 32, 2, 2, 16, 64, 64, encoder=encoder, shared_tokens=True, tied_head=True, **relative)  # type: ignore[arg-type]
    t5 = resize(Transformer(both), add_tokens(tokenizer, ["腹腔镜"]))
    assert t5.config.vocab_size == t5.config.encoder.vocab_size == 341  # type: ignore[union-attr]
    memory = t5.encode(torch.tensor([[340, 1]]))
    assert t5(torch.tensor([[340]]), memory=memory).logits.shape == (1, 1, 341)  # type: ignore[union-attr]


def learn(model: Transformer, rows: Iterator[torch.Tensor], steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, next(rows)).backward()
        optimizer.step()


def test_a_model_learns_new_tokens_faster_from_their_pieces_than_from_chance(tokenizer: Tokenizer, novel: str) -> None:
    """A small model learns a novel; then 60 merges more, and 8 steps. The loss a letter of held-out text."""
    model, learnt, held_out = tiny(tokenizer.vocab_size, tied=True), novel[:50_000], novel[50_000:]
    learn(model, windows(tokenizer.encode(learnt, add_special=False), 16, 64), 120, 5e-3)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    new, found = grow(tokenizer, learnt.split("\n"), 60), {}
    ids = new.tokenizer.encode(learnt, add_special=False)
    for start in ("pieces", "mean", "random"):
        copy = tiny(tokenizer.vocab_size, tied=True)
        copy.load_state_dict(weights)
        resize(copy, new, start=start, generator=torch.Generator().manual_seed(3))  # type: ignore[arg-type]
        learn(copy, windows(ids, 16, 64), 8, 2e-3)
        found[start] = nats_a_letter(copy, new.tokenizer, held_out)
    assert found["pieces"] < min(found["mean"], found["random"]) - 0.01, found


def test_the_extended_model_opens_in_transformers_with_equal_ids_and_logits(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    new = add_tokens(tokenizer, ["腹腔镜", "<|tool|>"])
    model = resize(tiny(tokenizer.vocab_size, tied=True), new).eval()
    save_model(model, tmp_path, family=HUGGING_FACE["llama"], tokenizer=new.tokenizer)
    text = "The 腹腔镜 and <|tool|>."
    ids = new.tokenizer.encode(text)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == ids
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert theirs.config.tie_word_embeddings
    with torch.no_grad():
        ours = model(torch.tensor([ids])).logits
        torch.testing.assert_close(theirs(torch.tensor([ids])).logits, ours, atol=1e-5, rtol=1e-5)
        again = load(tmp_path)
        torch.testing.assert_close(again.model(torch.tensor([ids])).logits, ours)
    assert again.tokenizer.encode(text) == ids


def test_what_cannot_be_added_is_refused(tokenizer: Tokenizer) -> None:
    for wrong in (["e"], [""], ["new", "new"], ["<|pad|>"]):
        with pytest.raises(UsageError, match="new token"):
            add_tokens(tokenizer, wrong)
    with pytest.raises(UsageError, match="no pair"):
        grow(tokenizer, ["a"], 5)
    with pytest.raises(UnsupportedModel, match="Unigram"):
        grow(train(["some text here"] * 3, kind="unigram", size=700), ["more text"], 5)
