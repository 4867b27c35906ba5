"""A tokenizer trained here cuts every language without loss, is the same in every run, and transformers opens it."""

from __future__ import annotations

import gzip
import math
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from hornbook.errors import DataError, UsageError
from hornbook.text.tokenizer import Tokenizer
from hornbook.text.train_tokenizer import CHAT, FAMILIES, Roles, train
from hornbook.text.unigram import train_unigram

TEXTS = [
    "The cat sat on the mat, and the cats sat on the mats. It's 2025; we'll see 1234567 of them.",
    "吾輩は猫である。名前はまだ無い。猫は猫である。", "猫坐在垫子上。这只猫坐在那张垫子上，名字还没有。", "नमस्ते दुनिया, नमस्ते", "Привет, мир. Привет, кот.",
    "def cat(mat):\n    return mat  # the  cat\n\n\t🦙🦙", "café naïve Übergröße",
]  # fmt: skip
UNSEEN = "Ελληνικά עברית 한국어 ภาษาไทย \u200d👩\u200d🚀 <0x41> <unk>\r\n\x00 end  "
SIZES = {"bpe": 420, "wordpiece": 600, "unigram": 900}


def test_every_kind_serves_every_family_and_byte_kinds_lose_nothing() -> None:
    for kind, size in SIZES.items():
        for family in FAMILIES:
            tokenizer = train(TEXTS, kind=kind, size=size, roles=family)  # type: ignore[arg-type]
            assert tokenizer.vocab_size <= size
            for role, mark in FAMILIES[family].marks.items():
                assert tokenizer.token(tokenizer.parts.marks[role]) == mark
            if kind != "wordpiece":
                for text in [*TEXTS, UNSEEN]:
                    assert tokenizer.decode(tokenizer.encode(text)) == text, (kind, family)


def test_ids_of_marks_are_those_of_their_families_and_surround_a_text() -> None:
    bert = train(TEXTS, kind="wordpiece", size=600, roles="bert")
    assert [bert.token(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert [bert.encode("cat")[0], bert.encode("cat")[-1]] == [2, 3]
    assert bert.parts.backend.encode("a", "b").type_ids == [0, 0, 0, 1, 1]
    t5 = train(TEXTS, kind="unigram", size=900, roles="t5")
    assert (t5.pad_id, t5.eos_id, t5.unk_id) == (0, 1, 2) and t5.encode("cat")[-1] == 1
    assert [t5.id(f"<extra_id_{i}>") for i in (0, 99)] == [3, 102]
    llama = train(TEXTS, size=420)
    assert llama.encode("cat")[0] == llama.bos_id == 0 and llama.add_bos
    assert {llama.id(mark) for mark in CHAT} <= llama.control_ids
    assert llama.stop_ids == {llama.eos_id, llama.id("<|im_end|>")}
    assert llama.encode("<|im_end|>", add_special=False) != [llama.id("<|im_end|>")], "text is data"
    assert llama.encode("<|im_end|>", add_special=False, parse_special=True) == [llama.id("<|im_end|>")]


def test_the_cut_of_words_is_that_of_the_family() -> None:
    llama, gpt2 = train(["12345678"] * 9, size=300), train(["12345678"] * 9, size=300, roles="gpt2")
    assert [llama.token(i) for i in llama.encode("12345678", add_special=False)] == ["123", "456", "78"]
    assert [gpt2.token(i) for i in gpt2.encode("12345678")] == ["12345678"]


def test_uncased_pieces_fold_case_and_accents() -> None:
    tokenizer = train(TEXTS * 2, kind="wordpiece", size=600, roles="bert", lowercase=True)
    assert tokenizer.encode("CAFÉ Naïve") == tokenizer.encode("cafe naive")
    assert tokenizer.unk_id not in tokenizer.encode("cafe 猫 名前")
    assert tokenizer.unk_id in tokenizer.encode("한")


SCRIPT = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
from test_train_tokenizer import SIZES, TEXTS
from hornbook.text.train_tokenizer import train
for kind, size in SIZES.items():
    print(hashlib.sha256(train(TEXTS * 3, kind=kind, size=size, roles="t5").backend.to_str().encode()).hexdigest())
"""


def test_two_runs_give_the_same_bytes() -> None:
    """In processes of their own, for what differs from run to run is how hashes are seeded."""
    runs = [
        subprocess.run([sys.executable, "-c", SCRIPT, str(Path(__file__).parent)], capture_output=True, text=True)
        for _ in range(2)
    ]
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout and len(set(runs[0].stdout.split())) == 3


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(UsageError, match=r"259|261"):
        train(TEXTS, size=100)
    with pytest.raises(DataError, match="no text"):
        train(["", "  \n"])
    with pytest.raises(UsageError, match="bpee"):
        train(TEXTS, kind="bpee")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="llamas"):
        train(TEXTS, roles="llamas")
    assert train(TEXTS, size=300, roles=Roles({"eos": "<end>"})).eos_id == 0


def test_unigram_pieces_are_a_distribution_that_holds_every_letter() -> None:
    words = {"".join(made): 1 for made in product(["banana", "cherry", "xylo", "quiz"], repeat=3)}
    letters = {letter for word in words for letter in word}
    pieces = dict(train_unigram(words, len(letters) + 6))
    assert letters <= pieces.keys() and len(pieces) == len(letters) + 6
    assert sum(math.exp(score) for score in pieces.values()) == pytest.approx(1, abs=0.02)


def test_unigram_needs_no_more_tokens_than_the_librarys_own_trainer(shared: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    with gzip.open(shared / "lm_text" / "botchan_en.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read(60_000)
    learnt, held_out = text[:45_000].split("\n"), text[45_000:].split("\n")
    ours = train(learnt, kind="unigram", size=700 + 256, roles="marian")
    theirs = Backend(models.Unigram())
    theirs.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    marks = ["</s>", "<unk>", "<pad>"]
    trainer = trainers.UnigramTrainer(vocab_size=700, show_progress=False, special_tokens=marks, unk_token="<unk>")
    theirs.train_from_iterator(learnt, trainer)
    needed = [sum(len(encode(line)) for line in held_out) for encode in (
        lambda line: ours.encode(line, add_special=False), lambda line: theirs.encode(line).ids)]  # fmt: skip
    assert needed[0] <= needed[1] * 1.01


@pytest.fixture(scope="module")
def languages(shared: Path) -> list[str]:
    found = []
    for name in ("botchan_en", "wagahai_ja", "cmrc_trial_contexts_zh", "udhr_first_article_all"):
        with gzip.open(shared / "lm_text" / f"{name}.txt.gz", "rt", encoding="utf-8") as file:
            found += file.read(8_000).split("\n")
    return found


@pytest.mark.parametrize(
    ("kind", "roles"), [("bpe", "llama"), ("bpe", "gpt2"), ("wordpiece", "bert"), ("unigram", "t5")]
)
def test_transformers_opens_what_was_saved_and_gives_equal_ids(
    kind: str, roles: str, languages: list[str], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = train(languages, kind=kind, size=2000, roles=roles)  # type: ignore[arg-type]
    tokenizer.save(tmp_path)
    theirs, again = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_folder(tmp_path)
    for text in [*languages[::25], *TEXTS, UNSEEN]:
        ids = tokenizer.encode(text, parse_special=True)
        assert theirs(text)["input_ids"] == ids == again.encode(text, parse_special=True), text
        assert again.decode(ids) == tokenizer.decode(ids)
        if kind != "wordpiece":
            assert tokenizer.decode(tokenizer.encode(text)) == text
    for role, id in tokenizer.parts.marks.items():
        assert getattr(theirs, f"{role}_token_id") == id
    assert again.stop_ids == tokenizer.stop_ids


@pytest.mark.parametrize("roles", ["llama", "gpt2"])
def test_gguf_says_the_same(roles: str, languages: list[str]) -> None:
    tokenizer = train(languages, size=1000, roles=roles)
    again = Tokenizer.from_gguf(tokenizer.gguf_metadata(architecture="llama"))
    for text in [*languages[::40], *TEXTS, UNSEEN]:
        assert again.encode(text) == tokenizer.encode(text)
    assert again.control_ids == tokenizer.control_ids
