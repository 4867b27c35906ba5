"""Train a tokenizer on texts: byte-pair encoding, WordPiece or Unigram, with the marks that a family of models expects.

    bpe         pairs of tokens are joined, most frequent first (arXiv 1508.07909), over bytes (GPT-2): no text is unknown
    wordpiece   words in pieces, "##" inside a word (arXiv 1810.04805); a word with a letter never seen is [UNK]
    unigram     the likeliest cut under a model of pieces, pieces that matter least taken away (arXiv 1804.10959); what
                was never seen is written in bytes

Byte pairs and WordPiece are trained by the tokenizers library, Unigram by `hornbook.text.unigram`, so that all three give
the same tokenizer for the same texts in every run. The different words and their counts are kept in memory; WordPiece
keeps the texts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from hornbook.errors import DataError, UsageError
from hornbook.text.detokenize import SPACE, Style
from hornbook.text.layouts import Role
from hornbook.text.parts import Parts, stop_ids, surround
from hornbook.text.pretokenize import CUTS
from hornbook.text.tokenizer import Tokenizer
from hornbook.text.unigram import train_unigram

Kind = Literal["bpe", "wordpiece", "unigram"]
CHAT = ("<|im_start|>", "<|im_end|>")  # of the layout that most open models speak (ChatML)
COVERAGE = 0.9995  # of all letters; a unigram model writes the rest in bytes
_PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]


@dataclass(frozen=True)
class Roles:
    """The marks of a vocabulary and what is put around a text.

    marks: role -> token, in the order of their ids from 0; more: further control tokens behind them; last_marks: roles of
    ``marks`` whose tokens come after all others. second_type: the token type of a second text. cut: how byte-level BPE cuts words (`hornbook.text.pretokenize.CUTS`).
    """

    marks: Mapping[Role, str]
    first: Role | None = None
    last: Role | None = None
    more: tuple[str, ...] = ()
    last_marks: tuple[Role, ...] = ()
    between: tuple[Role, ...] = ()  # two texts, where that is not what ends one and begins another
    second_type: int = 0
    cut: str = "gpt-2"


FAMILIES: dict[str, Roles] = {
    "llama": Roles({"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "pad": "<|pad|>"}, "bos", more=CHAT, cut="llama-bpe"),
    "gpt2": Roles({"bos": "<|endoftext|>", "eos": "<|endoftext|>"}, more=CHAT),
    "bert": Roles(
        {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}, "cls", "sep", between=("sep",), second_type=1
    ),
    "t5": Roles(
        {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}, last="eos", more=tuple(f"<extra_id_{i}>" for i in range(100))
    ),
    "marian": Roles({"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}, last="eos", last_marks=("pad",)),
}  # fmt: skip


def train(
    texts: Iterable[str],
    *,
    kind: Kind = "bpe",
    size: int = 32_000,
    roles: str | Roles = "llama",
    least: int = 2,
    lowercase: bool = False,
) -> Tokenizer:
    """A tokenizer of at most ``size`` tokens, marks among them; fewer where the texts hold no more.

    roles: a name of `FAMILIES`, or marks of your own. least: how often bpe and wordpiece must have seen what they join.
    lowercase: of wordpiece, also without accents, as BERT's "uncased" vocabularies.

    Raises UsageError where ``size`` does not hold the alphabet and the marks, DataError where the texts are empty.
    """
    if isinstance(roles, str):
        if roles not in FAMILIES:
            raise UsageError(f"there are no marks for {roles!r}", f"There are marks for {', '.join(FAMILIES)}.")
        roles = FAMILIES[roles]
    if kind not in _KINDS:
        raise UsageError(f"there is no kind of tokenizer {kind!r}", f"There are {', '.join(_KINDS)}.")
    marks = _marks(roles, kind)
    late = [marks[role] for role in roles.last_marks]
    early = [token for token in dict.fromkeys([*marks.values(), *roles.more]) if token not in late]
    alphabet, called = _ALPHABET[kind]
    smallest = len(early) + len(late) + alphabet
    if size < smallest:
        raise UsageError(
            f"a vocabulary of {size} tokens does not hold {called} and {len(early) + len(late)} marks",
            f"Ask for {smallest} or more.",
        )
    backend, style = _KINDS[kind](_filled(texts), size - len(late), early, marks, roles, least, lowercase)
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in [*early, *late]])
    first, last = (marks[role] if role else None for role in (roles.first, roles.last))
    between = [marks[role] for role in roles.between]
    around = surround(backend, first, last, between, second_type=roles.second_type)
    if around is not None:
        backend.post_processor = around
    control = {token: int(backend.token_to_id(token) or 0) for token in [*early, *late]}
    ids = {str(role): control[token] for role, token in marks.items()}
    return Tokenizer(
        Parts(
            backend,
            style,
            ids,
            stop_ids([ids.get("eos", ids.get("sep"))], control),
            strips_first_space=style == "sentencepiece",
            tidies=style == "wordpiece",
            literal=frozenset(control.values()),
        )
    )


def _filled(texts: Iterable[str]) -> Iterable[str]:
    """The texts, of which at least one holds something."""
    stream = iter(texts)
    for text in stream:
        if text.strip():
            return chain([text], stream)
    raise DataError("there is no text to train a tokenizer on", "Give at least one text that is not empty.")


def _marks(roles: Roles, kind: Kind) -> dict[Role, str]:
    """The roles' tokens; a kind that cannot write every text has one for what it cannot."""
    marks = dict(roles.marks)
    if kind != "bpe":
        marks.setdefault("unk", "[UNK]" if "cls" in marks else "<unk>")
    return marks


# ------------------------------------------------------------------------------------------------------------ kinds


def _byte_pairs(
    texts: Iterable[str],
    size: int,
    early: list[str],
    marks: Mapping[Role, str],
    roles: Roles,
    least: int,
    lowercase: bool,
) -> tuple[Backend, Style]:
    cut = CUTS[roles.cut]
    backend = Backend(models.BPE(unk_token=marks.get("unk"), ignore_merges=cut.whole_words))
    if roles.cut == "gpt-2":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in cut.patterns]
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, bytes_only])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=least,
        show_progress=False,
        special_tokens=early,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(texts, trainer)
    return backend, "byte-level"


def _wordpiece(
    texts: Iterable[str],
    size: int,
    early: list[str],
    marks: Mapping[Role, str],
    roles: Roles,
    least: int,
    lowercase: bool,
) -> tuple[Backend, Style]:
    backend = Backend(models.WordPiece(unk_token=marks["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=lowercase, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    every = list(texts)
    heads: Counter[str] = Counter(_PRINTABLE)
    tails: Counter[str] = Counter()
    for text in every:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)):
            heads.update(word)
            tails.update(word[1:])
    letters = sorted(_most(heads, (size - len(early)) // 4))
    inner = [f"##{letter}" for letter in sorted(_most(tails, (size - len(early)) // 4)) if letter in letters]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=least,
        show_progress=False,
        # letters inside words are told as well: left to the library, they get ids in an order that is another in each run
        special_tokens=[*early, *inner],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
    )
    backend.train_from_iterator(every, trainer)
    vocabulary = json.loads(backend.to_str())["model"]["vocab"]
    made = Backend(models.WordPiece(vocabulary, unk_token=marks["unk"], max_input_chars_per_word=100))
    made.normalizer, made.pre_tokenizer, made.decoder = backend.normalizer, backend.pre_tokenizer, backend.decoder
    return made, "wordpiece"


def _unigram(
    texts: Iterable[str],
    size: int,
    early: list[str],
    marks: Mapping[Role, str],
    roles: Roles,
    least: int,
    lowercase: bool,
) -> tuple[Backend, Style]:
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first")
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    letters = Counter(_PRINTABLE)  # so that a text which reads "<0x41>" is not taken for a byte
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    room = size - 256 - len(early)
    kept = _most(letters, room // 2, share=COVERAGE)
    rare = str.maketrans(dict.fromkeys(letters.keys() - kept, "\0"))
    known: Counter[str] = Counter(_PRINTABLE)
    for word, count in words.items():
        for part in word.translate(rare).split("\0"):
            if part:
                known[part] += count
    pieces = [(piece, score) for piece, score in train_unigram(known, room) if piece not in early]
    least_score = min(score for _, score in pieces)
    vocabulary = [
        *((token, 0.0) for token in early),
        *pieces,
        *((f"<0x{byte:02X}>", least_score - 100.0) for byte in range(256)),  # what is not a piece is written so
    ]
    backend.model = models.Unigram(vocabulary, early.index(marks["unk"]), byte_fallback=True)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend, "sentencepiece"


def _most(letters: Counter[str], count: int, *, share: float = 1.0) -> set[str]:
    """The most frequent letters, at most ``count``, until they make up ``share`` of all; printable ASCII first of all."""
    kept = set(_PRINTABLE)
    wanted = share * letters.total()
    have = sum(letters[letter] for letter in kept)
    for letter, times in sorted(letters.items(), key=lambda item: (-item[1], item[0])):
        if have >= wanted or len(kept) >= count:
            break
        if letter not in kept:
            kept.add(letter)
            have += times
    return kept


_KINDS: dict[str, Callable[..., tuple[Backend, Style]]] = {
    "bpe": _byte_pairs,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
}
_ALPHABET = {
    "bpe": (256, "256 bytes"),
    "wordpiece": (4 * 94, "printable ASCII"),
    "unigram": (256 + 3 * 94, "256 bytes, printable ASCII"),
}
