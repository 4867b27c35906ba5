"""Each published rule refuses what it was made for, at its bound, and lets real prose of several languages pass."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from hornbook.data.language import identify
from hornbook.data.lines import keep_prose
from hornbook.data.profile import Profile
from hornbook.data.quality import RULES, Quality
from hornbook.errors import UsageError

WORDS = [
    f"{a}{b}" for a in ("ban", "cor", "del", "fim", "gat", "hol", "jun", "kes") for b in ("ter", "ing", "o", "ades")
]


def prose(words: int = 120, seed: int = 0) -> str:
    """Sentences of ten words that hold stop words and repeat nothing."""
    chance = random.Random(seed)
    made = [chance.choice(WORDS) + (str(i) if i % 3 == 0 else "") for i in range(words)]
    made = [word if i % 5 else ("the", "of", "and")[i % 3] for i, word in enumerate(made)]
    sentences = [" ".join(made[i : i + 10]).capitalize() + "." for i in range(0, words, 10)]
    return "\n".join(" ".join(sentences[i : i + 2]) for i in range(0, len(sentences), 2))


def broken(text: str, rule: str, language: str = "en") -> bool:
    found = Quality([rule]).refuse(text, language)
    return found is not None and found.rule == rule


# What a rule refuses, and what is just within its bound.
CASES = {
    "gopher.words": (prose(40), prose(50)),
    "gopher.word-length": ("ab " * 60, "abc " * 60),
    "gopher.symbols": ("word " * 80 + "# " * 10, "word " * 95 + "#" * 5),
    "gopher.bullets": ("- item\n" * 10, "- item\n" * 9 + "A line."),
    "gopher.ellipses": ("more...\n" * 4 + "line.\n" * 6, "more...\n" * 3 + "line.\n" * 7),
    "gopher.alphabetic": ("word 12 34 56 " * 20, "word " * 80 + "12 " * 20),
    "gopher.stop-words": ("nothing here is in any list", "the end of it"),
    "gopher.lines": ("one\none\none\ntwo\n", "one\ntwo\none\nthree\nfour"),
    "gopher.paragraphs": ("a b\n\na b\n\na b", "a b\n\nc d\n\ne f"),
    "gopher.line-characters": ("a long line of many words\n" * 2, prose()),
    "gopher.paragraph-characters": ("a long paragraph\n\na long paragraph", prose()),
    "gopher.top-2": ("very much " * 20 + prose(50), prose()),
    "gopher.top-3": ("so very much " * 20 + prose(50), prose()),
    "gopher.top-4": ("not so very much " * 15 + prose(50), prose()),
    **{f"gopher.repeated-{n}": (prose(30) + "\n" + prose(30), prose()) for n in range(5, 11)},
    "c4.sentences": ("One. Two.", "One. Two! Three?"),
    "c4.lorem-ipsum": ("Lorem ipsum dolor.", "Lorem dolor."),
    "c4.braces": ("function () { }", "function ()"),
    "fineweb.ended-lines": ("no end\n" * 9 + "an end.", "no end\n" * 7 + "an end."),
    "fineweb.repeated-lines": ("a line\n" * 2 + "b", prose()),
    "fineweb.short-lines": ("short\n" * 7 + "a line that is longer than thirty columns\n" * 3,
                            "short\n" * 6 + "a line that is longer than thirty columns\n" * 4),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_refuses_beyond_its_bound_and_not_at_it(rule: str) -> None:
    bad, good = CASES[rule]
    assert broken(bad, rule)
    assert not broken(good, rule)


def test_prose_passes_all_rules_and_the_refusal_says_rule_value_and_bound() -> None:
    assert Quality().refuse(prose(), "en") is None
    found = Quality().refuse(prose(20), "en")
    assert found is not None and str(found) == "gopher.words: 20 is below 50"


def test_bounds_change_by_name_and_unknown_rules_are_refused() -> None:
    assert Quality(["gopher"], bounds={"gopher.words": (10, None)}).refuse(prose(20), "en") is None
    assert Quality(["c4"], forbidden=["Banter"]).refuse("A banter. Or two. Three.", "en") is not None
    assert Quality(["c4"], forbidden=["ban"]).refuse("A banter. Or two. Three.", "en") is None
    with pytest.raises(UsageError, match="gopher.wards"):
        Quality(["gopher.wards"])
    with pytest.raises(UsageError, match="'gopher'"):
        Quality(bounds={"gopher": (1, 2)})


def test_repeated_runs_count_each_letter_once_by_definition() -> None:
    words = ["a", "b", "c", "d", "e", "f", "g", "a", "b", "c", "d", "e", "f", "g", "x", "y", "z"]
    profile = Profile(" ".join(words))
    for n in range(2, 8):
        seen: set[tuple[str, ...]] = set()
        inside: set[int] = set()
        for i in range(len(words) - n + 1):
            run = tuple(words[i : i + n])
            inside |= set(range(i, i + n)) if run in seen else set()
            seen.add(run)
        assert profile.repeated_run(n) == pytest.approx(len(inside) / len(words))
        top, times = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)).most_common(1)[0]
        assert profile.commonest_run(n) == pytest.approx(len(top) * times / len(words) if times > 1 else 0)


def documents(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file] if ".jsonl" in path.name else file.read().split("\n")


def test_real_prose_of_three_languages_stays(shared: Path) -> None:
    """At least three documents in four: C4's own, Wikipedia in Chinese, a Japanese novel."""
    novel = documents(shared / "lm_text" / "wagahai_ja.txt.gz")
    sets = {
        "en": documents(shared / "lm_text" / "c4_demo_en.jsonl.gz"),
        "zh": [text for text in documents(shared / "lm_text" / "cmrc_trial_contexts_zh.txt.gz") if text.strip()],
        "ja": ["\n".join(novel[i : i + 20]) for i in range(0, len(novel), 20)],
    }
    for code, texts in sets.items():
        told = [Quality().refuse(text, identify(text).code) for text in texts]
        kept = sum(found is None for found in told) / len(told)
        assert kept >= 0.75, (code, kept, Counter(found.rule for found in told if found))


def test_rules_about_spaces_do_not_judge_chinese() -> None:
    text = (
        "这个项目的目标是让每个人都能在自己的电脑上训练语言模型。" * 1
        + "它不需要网络，也不会把数据送到别处。"
        + "今天我们讨论怎样清理文本，去掉重复的段落。" * 1
    )
    profile = Profile(text, "zh")
    for rule in ("gopher.word-length", "gopher.alphabetic", "gopher.stop-words"):
        assert RULES[rule].measure(profile) is None
    assert 25 < profile.words < 40, "two characters are a word"
    assert profile.sentences == 3
    assert Profile("短行。\n" * 5).short(30) == 1.0
    assert Profile("十六个汉字的一行其实已经足够长了呀。").short(30) == 0.0


def test_repetition_is_found_in_chinese() -> None:
    text = "".join(chr(0x4E00 + i * 7) for i in range(60))
    assert Quality(["gopher"], bounds={"gopher.words": (1, None)}).refuse(text, "zh") is None
    found = Quality(["gopher"], bounds={"gopher.words": (1, None)}).refuse(text + text, "zh")
    assert found is not None and found.rule.startswith("gopher.repeated")


def test_lines_that_are_no_prose_go_and_their_reasons_are_counted() -> None:
    text = (
        "Home | About\nThe cat sat on the mat today.[12]\nPlease enable Javascript to see this page.\nToo short.\n"
        "We say in our privacy policy what we do.\nIt was dark and then...\n\n猫はいつも日当たりのよい場所で眠っている。\n"
    )
    kept, gone = keep_prose(text)
    assert kept == "The cat sat on the mat today.\n\n猫はいつも日当たりのよい場所で眠っている。"
    assert gone == {"c4.unended": 2, "c4.javascript": 1, "c4.few-words": 1, "c4.policy": 1}
