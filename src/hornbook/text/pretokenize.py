"""How byte-level BPE cuts a text into words before it merges: one row for each name that a GGUF file may carry.

A GGUF file stores only the *name* of the cut (``tokenizer.ggml.pre``); the names and which of them share a cut are
llama.cpp's. A cut is a list of patterns applied one after the other: each splits the pieces that the one before left
into its matches and the stretches between them. Where llama.cpp writes a pattern around the limits of its own regex
engine (no character classes such as ``\\p{Lu}``), the row holds what the model was trained with.

What a name also decides in llama.cpp, for files that do not say it themselves: ``whole_words`` (a word that is a
token is taken as it is, without merging) and ``adds_bos``.
"""

from __future__ import annotations

from typing import NamedTuple

from hornbook.errors import UnsupportedModel

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_DIGIT = r"\p{N}"


def _cl100k(digits: str) -> str:
    """OpenAI's cl100k cut, which Llama 3, Qwen 2 and others took over with another count of digits per word."""
    return (
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def _o200k(digits: str, suffix: str) -> str:
    """OpenAI's o200k cut: as cl100k, and a word also ends where lower case turns to upper."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    head = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{head}{upper}*{lower}+{suffix}|{head}{upper}+{lower}*{suffix}|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_PUNCTUATED = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK3_WORDS = _PUNCTUATED + r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Letters of scripts that have upper and lower case, as deepseek-llm lists them.
_CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼ"
    "ℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_IDEOGRAPHS = r"[一-龥\u0800-一가-\ud7ff]+"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_CASED}]+",
    r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
    r"\s+$",
    _IDEOGRAPHS,
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _IDEOGRAPHS, _DIGIT)
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_SEED = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"


class Cut(NamedTuple):
    """One way of cutting text into words. ``patterns`` are Oniguruma expressions, applied in order."""

    patterns: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False


_GPT2_CUT = Cut((_GPT2,))
_DIGITS_APART = Cut((_DIGIT, _GPT2))
_LLAMA3 = Cut((_cl100k(r"\p{N}{1,3}"),), whole_words=True, adds_bos=True)
_THREE_DIGITS = Cut((_cl100k(r"\p{N}{1,3}"),))
_ONE_DIGIT = Cut((_cl100k(_DIGIT),))
_DEEPSEEK3 = Cut((r"\p{N}{1,3}", r"[一-龥\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK3_WORDS))
_GPT4O = Cut((_o200k(r"\p{N}{1,3}", _CONTRACTIONS + "?"),))

CUTS: dict[str, Cut] = {
    "default": Cut(_DEFAULT),
    **dict.fromkeys(
        ["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], _LLAMA3
    ),
    "deepseek-llm": Cut(_DEEPSEEK_LLM),
    "deepseek-coder": Cut(_DEEPSEEK_CODER),
    **dict.fromkeys(["deepseek-v3", "hunyuan-dense"], _DEEPSEEK3),
    "falcon": Cut(_FALCON),
    **dict.fromkeys(
        ["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat", "a.x-4.0"],
        _GPT2_CUT,
    ),
    **dict.fromkeys(
        ["jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en", "jina-v2-code", "roberta-bpe", "mellum"],
        _GPT2_CUT,
    ),
    **dict.fromkeys(
        ["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
        _DIGITS_APART,
    ),
    **dict.fromkeys(["qwen2", "deepseek-r1-qwen", "kormo", "stablelm2", "megrez", "hunyuan", "grok-2"], _ONE_DIGIT),
    **dict.fromkeys(["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], _THREE_DIGITS),
    **dict.fromkeys(["bloom", "poro-chat", "gpt3-finnish"], Cut((_BLOOM,))),
    "viking": Cut((_BLOOM, _DIGIT)),
    "tekken": Cut((_o200k(_DIGIT, ""),), whole_words=True, adds_bos=True),
    **dict.fromkeys(["gpt-4o", "llama4", "minimax-m2"], _GPT4O),
    "superbpe": Cut((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    **dict.fromkeys(["bailingmoe", "bailingmoe2", "llada-moe"], Cut((_BAILING,))),
    "seed-coder": Cut((_SEED,)),
}


def cut_named(name: str | None) -> Cut:
    """The cut that ``tokenizer.ggml.pre`` names; None is "default". Raise UnsupportedModel on a name not known."""
    cut = CUTS.get("default" if name is None else name)
    if cut is None:
        raise UnsupportedModel(
            f"the pre-tokenizer {name!r} is not one that Hornbook knows, so the text would be cut wrongly",
            f"The known ones are: {', '.join(sorted(CUTS))}.",
        )
    return cut
