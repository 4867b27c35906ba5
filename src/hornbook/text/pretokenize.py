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

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
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
# Letters of scripts that have upper and lower case, as deepseek-llm lists them; escaped, since editors normalise them.
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_IDEOGRAPHS = "[一-龥\u0800-一가-\ud7ff]+"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_CASED}]+",
    "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
    r"\s+$",
    _IDEOGRAPHS,
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _IDEOGRAPHS, _DIGIT)
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", GPT2_PATTERN, r"[0-9][0-9][0-9]")
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", r"[0-9][0-9][0-9]")
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_SEED = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"


class Cut(NamedTuple):
    """One way of cutting text into words. ``patterns`` are Oniguruma expressions, applied in order."""

    patterns: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False


_GPT2_CUT = Cut((GPT2_PATTERN,))
_DIGITS_APART = Cut((_DIGIT, GPT2_PATTERN))
_LLAMA3 = Cut((_cl100k(r"\p{N}{1,3}"),), whole_words=True, adds_bos=True)
_THREE_DIGITS = Cut((_cl100k(r"\p{N}{1,3}"),))
_ONE_DIGIT = Cut((_cl100k(_DIGIT),))
_DEEPSEEK3 = Cut((r"\p{N}{1,3}", "[一-龥\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK3_WORDS))
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


# The name under which a cut is written, where several have it; else the first of the table.
_USUAL = ("llama-bpe", "gpt-2", "smollm", "qwen2")


def name_of(patterns: tuple[str, ...], *, whole_words: bool, near: str = "") -> str | None:
    """The name of a cut by its patterns, None where it has none. Of several names the one most like ``near`` is taken."""
    names = [name for name, cut in CUTS.items() if (cut.patterns, cut.whole_words) == (patterns, whole_words)]
    alike = [name for name in names if name.replace("-", "") == near.replace("-", "")]
    return next(iter([*alike, *(name for name in _USUAL if name in names), *names]), None)


def cut_named(name: str | None) -> Cut:
    """The cut that ``tokenizer.ggml.pre`` names. Raise UnsupportedModel on a name not known, and on none at all."""
    cut = CUTS.get(name or "")
    if cut is None:
        said = f"the pre-tokenizer {name!r} is not one that Hornbook knows" if name else "no pre-tokenizer is named"
        raise UnsupportedModel(
            f"{said}, so the text would be cut wrongly",
            f"Convert the model with a newer llama.cpp, or look for another. Known are: {', '.join(sorted(CUTS))}.",
        )
    return cut
