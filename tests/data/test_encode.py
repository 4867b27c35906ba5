"""Every way of encoding: what is learnt, and that what is cut, dropped or unlearnt is counted, on real and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hornbook.data import encode
from hornbook.data.encoded import SENTENCE, WORD, Account
from hornbook.data.example import Conversation, Labelled, Pair, Place, Text
from hornbook.errors import DataError, UsageError
from hornbook.retrieve.sentences import split
from hornbook.text.chat import ChatTemplate
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import Message
from jsonl import read_jsonl
from small_vocabulary import small_template, small_tokenizer

TEXTS = ["To be, or not to be", "吾輩は猫である。", "", "x" * 200, "Thou art a villain " * 40]
HERE = Place("data.jsonl", 7)


@pytest.fixture
def tokenizer(shared: Path) -> Tokenizer:
    return small_tokenizer(shared)


@pytest.fixture
def template(shared: Path) -> ChatTemplate:
    return small_template(shared)


def said(*turns: str, place: Place | None = None) -> Conversation:
    """Turns of user and assistant, in turn."""
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)), place=place)  # type: ignore[arg-type]


def test_split_documents_are_learnt_token_by_token_once(tokenizer: Tokenizer) -> None:
    """Each token but a document's first is learnt in exactly one row, with all that stands before it in the row."""
    encoder = encode.causal(tokenizer, 16)
    end = tokenizer.eos_id
    for text in TEXTS:
        whole = tokenizer.encode(text)
        assert whole[-1] == end
        rows = encoder(Text(text))
        learnt = [int(id) for row in rows for id, yes in zip(row.ids, row.learnt, strict=True) if yes]
        assert learnt == whole[1:] and all(2 <= len(row.ids) <= 16 and not row.learnt[0] for row in rows)
    account = encoder.account
    assert account.examples == 5 and account.unlabelled == 1, "an empty text has its end token alone"
    assert account.split == account.too_long == 3 and account.cut == 0
    assert account.learnt == sum(len(tokenizer.encode(text)) - 1 for text in TEXTS)
    assert [len(row.ids) for row in encode.causal(tokenizer, 16).many(map(Text, TEXTS))] == [
        len(row.ids) for text in TEXTS for row in encoder(Text(text))
    ]


def test_what_is_too_long_is_cut_dropped_or_refused_as_asked(tokenizer: Tokenizer) -> None:
    long, short = Text("x" * 200, HERE), Text("To be", HERE)
    whole = len(tokenizer.encode(long.text))
    truncating = encode.causal(tokenizer, 16, "truncate")
    (row,) = truncating(long)
    assert row.ids.tolist() == tokenizer.encode(long.text)[:16] and row.place == HERE
    assert (truncating.account.truncated, truncating.account.cut, truncating.account.longest) == (1, whole - 16, whole)
    dropping = encode.causal(tokenizer, 16, "drop")
    assert [len(row.ids) for row in dropping.many([long, short])] == [len(tokenizer.encode("To be"))]
    assert dropping.account.dropped == 1 and dropping.account.truncated == 0
    with pytest.raises(DataError, match=rf"data.jsonl, line 7: an example has {whole} tokens, the context is 16"):
        encode.causal(tokenizer, 16, "refuse")(long)
    with pytest.raises(UsageError, match="only plain text can be"):
        encode.completion(tokenizer, 16, "split")
    with pytest.raises(UsageError, match="a context of 1 tokens"):
        encode.causal(tokenizer, 1)


@pytest.mark.parametrize("learn", ["assistant", "last", "all"])
def test_a_chat_learns_what_the_assistant_said(
    learn: encode.Learn, tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    (row,) = encode.chat(template, 200, learn=learn)(said("Who art thou?", "A villain.", "噫!", "まことに </s>"))
    learnt = tokenizer.decode(row.ids[row.learnt.astype(bool)].tolist(), skip_special=False)
    last = "まことに </s></s>"
    if learn == "all":
        assert row.learnt.tolist() == [0] + [1] * (len(row.ids) - 1)
    else:
        assert learnt == (last if learn == "last" else f"A villain.</s>{last}")
    assert row.ids.tolist().count(tokenizer.eos_id or 0) == 2, "what a person wrote ends no turn"


def test_without_an_assistant_or_behind_the_context_nothing_is_learnt_and_it_is_said(
    template: ChatTemplate, shared: Path
) -> None:
    encoder = encode.chat(template, 24)
    question = "wherefore art thou " * 20
    rows = list(encoder.many([said("Hi", "Aye"), said("Speak", place=HERE), said(question, "No", place=Place("b", 2))]))
    account = encoder.account
    assert len(rows) == account.rows == 1 and account.examples == 3
    assert account.unlabelled == 2 and account.first_unlabelled == HERE and account.truncated == 1
    account.check()
    encoder = encode.chat(template, 24)
    assert not list(encoder.many([said("Speak", place=HERE)] * 2))
    with pytest.raises(
        DataError, match=r"no token would be trained: of 2 examples 2 have no token .* data.jsonl, line 7"
    ):
        encoder.account.check()
    with pytest.raises(DataError, match="nothing to train on"):
        Account().check()
    assert Account.from_json(encoder.account.to_json()) == encoder.account
    with pytest.raises(DataError, match=r"line 7: an example is plain text, this recipe learns from a conversation"):
        encoder(Text("x", HERE))


def test_a_completion_follows_the_prompts_own_tokens(tokenizer: Tokenizer) -> None:
    """Also where both together would be encoded otherwise: the model that is asked sees the prompt alone."""
    encoder = encode.completion(tokenizer, 100)
    end = tokenizer.eos_id
    merged = 0
    for source, target in (("Who", " art thou"), ("th", "e king"), ("", "None"), ("日", "本"), ("What", "")):
        prompt = tokenizer.encode(source, add_special=False)
        rows = encoder(Pair(source, target))
        if not target:
            assert [row.learnt.tolist() for row in rows] == [[0] * len(prompt) + [1]], "its end is learnt"
            continue
        (row,) = rows
        ids = row.ids.tolist()
        assert ids[: len(prompt)] == prompt and ids[-1] == end
        assert tokenizer.decode(ids) == source + target
        assert row.learnt.tolist() == [0] * max(1, len(prompt)) + [1] * (len(ids) - max(1, len(prompt)))
        merged += tokenizer.encode(source + target)[: len(prompt)] != prompt
    assert merged, "one of these prompts' last token would be merged with the completion"


def test_a_class_is_a_number_and_long_texts_keep_their_marks(minilm_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(minilm_path)
    encoder = encode.classify(tokenizer, ["no", "yes"], 12)
    cls, sep = tokenizer.id("[CLS]"), tokenizer.id("[SEP]")
    (one,) = encoder(Labelled("A short text", "yes"))
    assert one.label == 1 and one.ids[0] == cls and one.ids[-1] == sep and one.targets == 1 and encoder.account.cut == 0
    (two,) = encoder(Labelled("a b c d e f g h i j", "no", "k l m n"))
    assert len(two.ids) == 12 and two.ids.tolist().count(sep) == 2
    assert tokenizer.decode(two.ids.tolist()) == "a b c d e k l m n"[:9] + " k l m n"
    assert two.types is not None and two.types.tolist() == [0] * 7 + [1] * 5
    assert (encoder.account.truncated, encoder.account.cut) == (1, 5)
    with pytest.raises(DataError, match=r"data.jsonl, line 7: there is no label 'yess'; near is 'yes'"):
        encoder(Labelled("x", "yess", None, HERE))
    with pytest.raises(UsageError, match="leaves room for 0 tokens"):
        encode.classify(tokenizer, ["a"], 2)(Labelled("x", "a"))
    dropping = encode.classify(tokenizer, ["no", "yes"], 12, "drop")
    assert not dropping(Labelled("a " * 30, "no")) and dropping.account.dropped == 1


def test_a_pair_has_an_end_on_both_sides(tokenizer: Tokenizer) -> None:
    end = tokenizer.eos_id
    (row,) = encode.translate(tokenizer, tokenizer, 8)(Pair("To be, or not to be, that is", "être"))
    assert row.target is not None and row.targets == len(row.target) and row.ids[-1] == row.target[-1] == end
    assert row.ids.tolist() == [*tokenizer.encode("To be, or not to be, that is", add_special=False)[:7], end]
    assert row.lost == len(tokenizer.encode("To be, or not to be, that is")) - 8


def test_documents_know_where_sentences_and_words_begin(minilm_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(minilm_path)
    text = "Unbelievably, it rained. 猫が鳴いた。And then?"
    encoder = encode.documents(tokenizer, split)
    (row,) = encoder(Text(text))
    assert row.starts is not None
    sentences = np.flatnonzero(row.starts & SENTENCE).tolist()
    words = np.flatnonzero(row.starts & WORD).tolist()
    pieces = [tokenizer.token(int(id)) for id in row.ids]
    assert [pieces[at] for at in sentences] == ["un", "[UNK]", "and"]
    assert [at for at, piece in enumerate(pieces) if not piece.startswith("##")] == words


def test_real_conversations_with_tools_and_of_other_languages(template: ChatTemplate, shared: Path) -> None:
    """All of them are learnt from, each row within the context, and what was cut is the difference."""
    pairs = list(read_jsonl(shared / "instructions" / "dolly_hhrlhf_small.jsonl.gz"))[:60]
    whole, cut = encode.chat(template, 1 << 20), encode.chat(template, 256)
    examples = [said(pair["prompt"], pair["response"]) for pair in pairs]
    longest = max(len(row.ids) for row in whole.many(examples))
    rows = list(cut.many(examples))
    assert longest > 256 >= max(len(row.ids) for row in rows)
    assert cut.account.tokens == sum(len(row.ids) for row in rows) and cut.account.truncated
    assert cut.account.learnt == sum(int(row.learnt.sum()) for row in rows) < whole.account.learnt
