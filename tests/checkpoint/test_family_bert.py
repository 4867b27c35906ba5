"""BERT and RoBERTa with every head: the numbers of transformers, and of llama.cpp for the encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from family_parity import (
    SMALL,
    Case,
    check_heads,
    check_rewritten,
    check_saved,
    edited,
    loaded,
    reference_of,
    relative,
    save_gguf,
    tensors_of,
)
from reference_llama_cpp import llama_cpp

from hornbook.checkpoint import families, ggml, load, save
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.loading import Checkpoint, build, empty
from hornbook.checkpoint.rules import expand
from hornbook.checkpoint.saving import Shapes
from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.model.heads import pool
from hornbook.model.transformer import Transformer

LABELS = {"id2label": dict(enumerate(["无", "人名", "地名", "机构"])), "problem_type": "single_label_classification"}
BERT = SMALL | {"max_position_embeddings": 64, "pad_token_id": 0}
ROBERTA = SMALL | {"max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1}
ROBERTA |= {"layer_norm_eps": 1e-5}
CASES = [
    Case("bert", "BertModel", BERT),
    Case("bert, one type, another activation", "BertForMaskedLM", BERT | {"type_vocab_size": 1, "hidden_act": "relu"}),
    Case("bert, pre-training", "BertForPreTraining", BERT),
    Case("bert, next sentence", "BertForNextSentencePrediction", BERT),
    Case("bert, a text's label", "BertForSequenceClassification", BERT | LABELS),
    Case("bert, tokens' labels", "BertForTokenClassification", BERT | LABELS),
    Case("bert, spans", "BertForQuestionAnswering", BERT),
    Case("roberta", "RobertaModel", ROBERTA),
    Case("roberta, masked", "RobertaForMaskedLM", ROBERTA),
    Case("roberta, a text's label", "RobertaForSequenceClassification", ROBERTA | LABELS),
    Case("roberta, tokens' labels", "RobertaForTokenClassification", ROBERTA | LABELS),
    Case("roberta, spans", "RobertaForQuestionAnswering", ROBERTA),
    Case("xlm-roberta, masked", "XLMRobertaForMaskedLM", ROBERTA),
    Case("xlm-roberta, a text's label", "XLMRobertaForSequenceClassification", ROBERTA | LABELS),
    Case("camembert, masked", "CamembertForMaskedLM", ROBERTA),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_states_and_every_head_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    check_heads(case, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_saved_is_read_by_transformers(case: Case, tmp_path: Path) -> None:
    check_saved(case, tmp_path)
    check_rewritten(case, tmp_path / "again")


# ------------------------------------------------------------------------------------------------- files as they are


def test_a_labeller_of_chinese_words_is_loaded_as_it_was_released(tmp_path: Path) -> None:
    """Like the CKIP lab's: fields of the first release, labels whose numbers a config.json sorts as words, a pooler that
    no head uses, norms of gamma and beta."""
    case = CASES[5]
    names = [f"{place}-{kind}" for kind in ("PERSON", "GPE", "ORG", "DATE", "WORK_OF_ART", "LAW") for place in "BE"]
    tensors = tensors_of(case)
    tensors |= {"bert.pooler.dense.weight": torch.ones(48, 48), "bert.pooler.dense.bias": torch.ones(48)}
    tensors |= {"bert.embeddings.position_ids": torch.arange(64)[None]}
    tensors |= {"classifier.weight": torch.randn(12, 48), "classifier.bias": torch.randn(12)}
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t for name, t in tensors.items()
    }
    assert sum(name.endswith(("gamma", "beta")) for name in old) == 2 + 3 * 4
    folder = edited(
        case, tmp_path / "theirs", tensors=old,
        id2label={str(i): name for i, name in enumerate(names)}, label2id={name: i for i, name in enumerate(names)},
        directionality="bidi", gradient_checkpointing=False, pooler_fc_size=768, pooler_num_attention_heads=12,
        pooler_num_fc_layers=3, pooler_size_per_head=128, pooler_type="first_token_transform",
        position_embedding_type="absolute", tokenizer_class="BertTokenizerFast", language="zh",
    )  # fmt: skip
    checkpoint = load(folder, device="cpu")
    assert checkpoint.config.classifier is not None and checkpoint.config.classifier.labels == tuple(names)
    assert torch.equal(checkpoint.model.embed.norm.weight, tensors["bert.embeddings.LayerNorm.weight"])
    save(checkpoint, tmp_path / "ours")
    said = json.loads((tmp_path / "ours" / "config.json").read_text("utf-8"))
    assert said["pooler_type"] == "first_token_transform" and said["id2label"]["11"] == "E-LAW"
    assert load(tmp_path / "ours", device="cpu").config == checkpoint.config


def test_the_heads_of_pre_training_are_left_in_the_file_where_the_class_has_none(tmp_path: Path) -> None:
    case = CASES[2]
    tensors = tensors_of(case)
    assert {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"} <= tensors.keys(), (
        "tied, and written again"
    )
    bare = load(edited(case, tmp_path, tensors=tensors, architectures=["BertModel"]), device="cpu")
    assert not bare.config.language_head and bare.config.pooler
    masked = load(edited(case, tmp_path, tensors=tensors, architectures=["BertForMaskedLM"]), device="cpu")
    assert masked.config.language_head and not masked.config.pooler and not masked.config.next_sentence


@pytest.mark.parametrize("case", [CASES[1], CASES[8]], ids=str)
def test_a_masked_model_saved_without_its_head_is_the_encoder(case: Case, tmp_path: Path) -> None:
    prefix = f"{reference_of(case).base_model_prefix}."
    tensors = {name.removeprefix(prefix): t for name, t in tensors_of(case).items() if name.startswith(prefix)}
    checkpoint = load(edited(case, tmp_path, tensors=tensors), device="cpu")
    assert not checkpoint.config.language_head and not checkpoint.config.pooler


@pytest.mark.parametrize(
    ("index", "said", "message"),
    [
        (0, {"is_decoder": True}, "is_decoder is True"),
        (0, {"add_cross_attention": True}, "add_cross_attention is True"),
        (0, {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        (0, {"pruned_heads": {"0": [1]}}, "attention heads were pruned"),
        (0, {"hidden_act": "mish"}, "'mish' is not known"),
        (0, {"hidden_dropout_prob": 7}, "dropout is 7.0"),
        (0, {"layer_norm_eps": -1e-12}, "norm_epsilon is -1e-12"),
        (2, {"tie_word_embeddings": False}, "a table of its own"),
        (8, {"hidden_act": "relu"}, "activation is relu and the language head's gelu"),
        (0, {"architectures": ["BertForMultipleChoice"]}, "the model is a BertForMultipleChoice"),
    ],
)
def test_a_variant_that_computes_something_else_is_refused_by_name(
    index: int, said: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises((UnsupportedModel, ModelFileError), match=message):
        load(edited(CASES[index], tmp_path, **said), device="cpu")


# ------------------------------------------------------------------------------------------------------------- GGUF


def in_gguf(checkpoint: Checkpoint, path: Path, pooling: str | None) -> Transformer:
    """Written by the family's maps, what GGUF cannot say left out, and read again."""
    family = families.GGUF[checkpoint.family.twin_of(checkpoint.config) or ""]
    config = ggml.sayable(replace(checkpoint.config, pooling=pooling))
    weights = checkpoint.model.state_dict()
    written = {
        name: tensor
        for rule in expand(family.table(checkpoint.config), checkpoint.config, dict(empty(config).named_parameters()))
        for name, tensor in zip(rule.theirs, rule.transform.theirs(tuple(map(weights.get, rule.ours))), strict=True)
    }
    said = family.write_config(config, Shapes(written)) | {"general.architecture": "bert"}
    save_gguf(path, said | {"tokenizer.ggml.model": "no_vocab"}, written)
    with GGUF.open(path) as file:
        again = family.read_config(file.metadata, file)
        assert again.norm_epsilon == pytest.approx(config.norm_epsilon)  # the file keeps it in 32 bits
        assert again == replace(config, dropout=0.0, attention_dropout=0.0, norm_epsilon=again.norm_epsilon)
        return build(again, family, file, torch.float32, torch.device("cpu")).requires_grad_(False)


@pytest.mark.parametrize("case", [CASES[0], CASES[7]], ids=str)
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_encoder_goes_through_gguf_and_llama_cpp_pools_alike(case: Case, pooling: str, tmp_path: Path) -> None:
    checkpoint = loaded(case, tmp_path / "theirs")
    model = in_gguf(checkpoint, tmp_path / "tiny.gguf", pooling)
    ids = torch.randint(3, 97, (1, 37), generator=torch.Generator().manual_seed(2))
    states = model(ids, logits="none").hidden
    assert relative(states, checkpoint.model(ids, logits="none").hidden) < 1e-6
    (theirs,) = llama_cpp(tmp_path / "tiny.gguf", [ids[0].tolist()], pooled_width=48)
    error = relative(pool(states, None, pooling)[0], theirs)
    print(f"\nllama.cpp's {pooling} pooling of {case.name} within {error:.1e}")
    assert error < 2e-2  # it multiplies in half precision
    assert relative(pool(states, None, "last")[0], theirs) > 0.1, "the pooling has no effect here: a blind test"


@pytest.mark.parametrize("case", [CASES[4], CASES[9]], ids=str)
def test_a_head_over_the_text_goes_through_gguf_and_llama_cpp_ranks_alike(case: Case, tmp_path: Path) -> None:
    checkpoint = loaded(case, tmp_path / "theirs")
    model = in_gguf(checkpoint, tmp_path / "tiny.gguf", None)
    assert model.config.classifier == checkpoint.config.classifier
    ids = torch.randint(3, 97, (1, 37), generator=torch.Generator().manual_seed(2))
    ours = model.classify(model(ids, logits="none").hidden)[0]
    assert relative(ours, checkpoint.model.classify(checkpoint.model(ids, logits="none").hidden)[0]) < 1e-6
    (theirs,) = llama_cpp(tmp_path / "tiny.gguf", [ids[0].tolist()], pooled_width=4)
    error = relative(ours, theirs)
    print(f"\nllama.cpp's ranks of {case.name} within {error:.1e}")
    assert error < 2e-2


def test_other_heads_have_no_place_in_gguf(tmp_path: Path) -> None:
    for case in (CASES[1], CASES[3], CASES[5], CASES[6], CASES[8]):
        checkpoint = loaded(case, tmp_path / case.name)
        assert checkpoint.family.twin_of(checkpoint.config) is None
