"""Texts in, the best texts out: as transformers does it with the model's own generation_config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hornbook
from hornbook.checkpoint import load
from hornbook.checkpoint.exporting import write_gguf
from hornbook.engine.seq2seq import Seq2Seq
from hornbook.errors import ContextTooLong, ModelClosed, ModelFileError, UnsupportedModel, UsageError
from seq2seq_models import SEARCH, STRONG, VOCAB, marian, t5, write_folder, write_tokenizer

TEXTS = ["w3 w9 w27 w4 w11 w5", "w8", "w20 w21 w22 w23", "w7 w7 w12", "w5 w6 w17 w18 w19 w20 w21"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("t5"))


def model_of(folder: Path, **said: Any) -> Seq2Seq:
    return Seq2Seq(load(folder, device="cpu"), name="tiny", **said)


def expected(texts: list[str], reference: nn.Module | None = None, **said: Any) -> list[list[tuple[str, float]]]:
    """By transformers, the texts spelled out here."""
    reference = reference or t5(**STRONG)
    found = []
    for text in texts:
        ids = torch.tensor([[*(int(word[1:]) for word in text.split()), 1]])
        said = SEARCH | said
        out = reference.generate(input_ids=ids, return_dict_in_generate=True, output_scores=True, **said)
        spelled = [" ".join(f"w{id}" for id in row if id > 2) for row in out.sequences.tolist()]
        found.append(list(zip(spelled, out.sequences_scores.tolist(), strict=True)))
    return found


def assert_same(found: list[list[tuple[str, float]]], wanted: list[list[tuple[str, float]]]) -> None:
    assert [[text for text, _ in row] for row in found] == [[text for text, _ in row] for row in wanted]
    scores = [score for row in wanted for _, score in row]
    assert [score for row in found for _, score in row] == pytest.approx(scores, abs=1e-4)


def test_a_model_is_searched_as_its_folder_says(folder: Path) -> None:
    assert_same(model_of(folder).generate(TEXTS), expected(TEXTS))


def test_what_a_call_says_goes_first(folder: Path) -> None:
    found = model_of(folder).generate(TEXTS, beams=4, n_best=4, length_penalty=1.5, max_tokens=6)
    said = {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 1.5, "max_length": 7}
    assert_same(found, expected(TEXTS, **said))
    more = model_of(folder).generate(TEXTS[:1], n_best=5)[0]
    assert len(more) == 5, "as many beams as are asked for of the best"


def test_waves_do_not_mix_up_the_texts(folder: Path) -> None:
    assert_same(model_of(folder, max_batch=2).generate(TEXTS), model_of(folder).generate(TEXTS))
    assert model_of(folder).generate([]) == []


def test_an_old_folder_says_it_in_its_configuration(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | SEARCH))
    assert_same(model_of(tmp_path).generate(TEXTS), expected(TEXTS))


def test_a_saved_folder_is_searched_alike(folder: Path, tmp_path: Path) -> None:
    from hornbook.checkpoint import save

    save(load(folder, device="cpu"), tmp_path / "saved")
    assert_same(model_of(tmp_path / "saved").generate(TEXTS), model_of(folder).generate(TEXTS))


def test_a_language_with_a_table_of_its_own_writes_only_what_its_tokenizer_knows(tmp_path: Path) -> None:
    reference = marian(**STRONG, share_encoder_decoder_embeddings=False, decoder_vocab_size=VOCAB + 9)
    reference.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(SEARCH))
    unknown = {"bad_words_ids": [*SEARCH["bad_words_ids"], *([id] for id in range(VOCAB, VOCAB + 9))]}
    assert_same(model_of(tmp_path).generate(TEXTS), expected(TEXTS, reference, **unknown))


def test_a_gguf_file_writes_what_its_folder_does(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, relative_attention_max_distance=128, d_model=64, d_ff=64, d_kv=16)
    write_gguf(load(folder, device="cpu"), tmp_path / "t5.gguf", "F32")
    said = {"beams": 3, "length_penalty": 0.6, "max_tokens": 8}
    (folder / "generation_config.json").unlink()
    assert_same(model_of(tmp_path / "t5.gguf").generate(TEXTS, **said), model_of(folder).generate(TEXTS, **said))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"diversity_penalty": 0.5}, UnsupportedModel, "diversity_penalty = 0.5"),
        ({"suppress_tokens": [7]}, UnsupportedModel, "suppress_tokens"),
        ({"decoder_start_token_id": None}, ModelFileError, "what its decoder starts with"),
        ({"decoder_start_token_id": "x"}, ModelFileError, "generation_config.json says decoder_start_token_id = 'x'"),
        ({"num_beams": "x"}, ModelFileError, "generation_config.json says num_beams = 'x'"),
        ({"num_beams": -1}, ModelFileError, "generation_config.json says num_beams = -1"),
        ({"eos_token_id": "x"}, ModelFileError, "generation_config.json says eos_token_id = 'x'"),
        ({"eos_token_id": [1, None]}, ModelFileError, "generation_config.json says eos_token_id"),
        ({"length_penalty": "a"}, ModelFileError, "generation_config.json says length_penalty = 'a'"),
        ({"length_penalty": float("nan")}, ModelFileError, "generation_config.json says length_penalty = nan"),
        ({"max_length": [1]}, ModelFileError, "generation_config.json says max_length"),
        ({"bad_words_ids": [5]}, ModelFileError, "generation_config.json says bad_words_ids"),
        ({"bad_words_ids": [[]]}, ModelFileError, "generation_config.json says bad_words_ids"),
        ({"early_stopping": "soon"}, ModelFileError, "generation_config.json says early_stopping = 'soon'"),
        ({"repetition_penalty": 0}, ModelFileError, "generation_config.json says repetition_penalty = 0"),
    ],
)
def test_what_the_folder_says_and_we_cannot_is_named(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    write_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(SEARCH | changes))
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["decoder_start_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(error, match=message):
        model_of(tmp_path)


def test_what_asks_for_nothing_and_a_draw_are_passed_over(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path)
    said = {"suppress_tokens": [], "sequence_bias": {}, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    (tmp_path / "generation_config.json").write_text(json.dumps(SEARCH | said))
    assert model_of(tmp_path).generate(TEXTS) == model_of(folder).generate(TEXTS)


def test_an_old_folder_s_wrong_word_is_found_in_its_configuration(tmp_path: Path) -> None:
    write_folder(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"no_repeat_ngram_size": "x"}))
    with pytest.raises(ModelFileError, match="^config.json says no_repeat_ngram_size = 'x'"):
        model_of(tmp_path)


def test_an_answer_may_be_as_long_as_the_decoder_holds(tmp_path: Path) -> None:
    reference = marian(**STRONG, max_position_embeddings=12)
    reference.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    said = {"max_length": 13, "min_length": 13}  # the start token, and 12 of which none ends before the last
    (tmp_path / "generation_config.json").write_text(json.dumps(SEARCH | said))
    model = model_of(tmp_path)
    assert_same(model.generate(TEXTS), expected(TEXTS, reference, **said))
    longest = model.write(TEXTS, max_tokens=500)
    assert [len(best[0].text.split()) for best in longest] == [12] * len(TEXTS)
    assert all(best[0].cut for best in longest)


def test_an_answer_that_ends_is_not_cut_and_a_forced_end_is_no_end(folder: Path, tmp_path: Path) -> None:
    found = [best[0] for best in model_of(folder).write(TEXTS, max_tokens=2)]
    cut = [one.cut for one in found]
    assert cut == [len(one.text.split()) == 2 for one in found] and len(set(cut)) == 2
    write_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(SEARCH | {"forced_eos_token_id": 1}))
    assert all(best[0].cut for best in model_of(tmp_path).write(TEXTS, max_tokens=1))


def words(count: int) -> str:
    return " ".join(["w3"] * count)


def test_a_text_too_long_is_an_error_with_counts_before_any_work(folder: Path) -> None:
    model = model_of(folder)
    assert model.count_tokens(words(511)) == 511
    model.generate([words(511)], max_tokens=1)
    with pytest.raises(ContextTooLong, match="text 2 of 2 has 513 tokens; tiny reads at most 512"):
        model.generate(["w3", words(512)])
    with pytest.raises(UsageError, match="n_best"):
        model.generate(["w3"], beams=2, n_best=3)


def test_it_is_what_load_gives_and_it_closes(folder: Path, home: Path) -> None:
    with hornbook.load(str(folder), device="cpu") as model:
        assert isinstance(model, Seq2Seq)
        assert_same(model.generate(TEXTS[:1]), expected(TEXTS[:1]))
    with pytest.raises(ModelClosed):
        model.generate(["w3"])


def test_the_repetition_penalty_is_that_of_transformers(tmp_path: Path) -> None:
    write_folder(tmp_path)
    said = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 3, "min_length": 5, "forced_eos_token_id": 1}
    (tmp_path / "generation_config.json").write_text(json.dumps(SEARCH | said))
    found = model_of(tmp_path).generate(TEXTS)
    assert_same(found, expected(TEXTS, **said))
    assert found != expected(TEXTS)
