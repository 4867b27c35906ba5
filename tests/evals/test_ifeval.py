"""IFEval: each kind of instruction tells what follows it from what does not, and all verdicts are the reference's."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hornbook.errors import DataError
from hornbook.evals.data import Data
from hornbook.evals.instructions.kinds import KINDS, Instruction, followed, loosely_followed
from hornbook.evals.instructions.language import detected
from hornbook.evals.instructions.sentences import sentences
from hornbook.evals.instructions.tokens import tokens
from hornbook.evals.registry import tasks
from hornbook.evals.task import Setting, Writing
from hornbook.types import Message

# kind, parameters, a response that follows, one that nearly does
CASES: tuple[tuple[str, Mapping[str, Any], str, str], ...] = (
    ("keywords:existence", {"keywords": ["Stone", "sea"]}, "A stone by the SEASIDE.", "A stone."),
    ("keywords:frequency", {"keyword": "war", "frequency": 3, "relation": "at least"}, "War, war. Warfare", "War and peace"),
    ("keywords:frequency", {"keyword": "war", "frequency": 1, "relation": "less than"}, "Peace", "Reward"),
    ("keywords:forbidden_words", {"forbidden_words": ["name"]}, "renamed, NAMES", "In the NAME of"),
    ("keywords:letter_frequency", {"letter": "Q", "let_frequency": 2, "let_relation": "at least"}, "Quite quaint", "quiet"),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": "at least"}, "Oh! No!", "Oh no!"),
    ("language:response_language", {"language": "de"}, "Die Häuser am Fluss sind schon sehr alt.", "The houses are old."),
    ("language:response_language", {"language": "hi"}, "सभी मनुष्य जन्म से स्वतंत्र हैं।", "All are born free."),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}, "One. Two! Three?", "One, two; e, f."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "Mr. Smith went home.", "No. Yes."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\nOne\n***\nTwo", "One\n***\n***\nTwo"),
    ("length_constraints:number_words", {"num_words": 4, "relation": "at least"}, "I don't know", "I do know"),
    ("length_constraints:number_words", {"num_words": 4, "relation": "less than"}, "北京 是 首都", "I don't know"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Bonding"}, "One.\n\n'bonding, it is.", "One.\nbonding",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], [street]", "[name], [street\n]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. More", "Bye. PS: more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye. P.P.S more", "Bye. P.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "* a\n - b\n\n* c", "* a\n- b\n** c **"),
    ("detectable_format:constrained_response", {}, "Hm. My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b c*", "*a* and * *"),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}, "SECTION 1 a SECTION2", "Section 1 SECTION 2"),
    ("detectable_format:json_format", {}, '```json\n{"a": [1, "ü"]}\n```', "```\n{'a': 1}\n```"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<<\n>> < <title> >"),
    ("combination:two_responses", {}, "One ****** two ******", "Same ****** Same"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a poem. "}, " WRITE A POEM. Roses", "Sure. Write a poem."),
    ("startend:end_checker", {"end_phrase": "That is all."}, 'Well. "that is ALL."', "That is all. Bye."),
    ("startend:quotation", {}, ' "All of it" \n', '"All" of it'),
    ("change_case:capital_word_frequency", {"capital_frequency": 3, "capital_relation": "at least"}, "I DON'T", "AD-HOC NOW"),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}, "NASA flies", "I AM"),
    ("change_case:english_capital", {}, "THIS IS THE ANSWER THAT YOU HAVE ASKED FOR, IN ENGLISH.", "This IS IT."),
    ("change_case:english_lowercase", {}, "this is the answer that you have asked for, in english.", "no Capitals here, please"),
    ("punctuation:no_comma", {}, "No comma，or perhaps one", "Yes, one"),
)  # fmt: skip

ODD = (
    "", " \n\t", ".", "?!", "...", "\u00a0", "***", "******", "\n\n\n\n", "a", "\x00", "\ud83d\ude00", "🙂🙂 🙂",
    "北京是中华人民共和国的首都。它有悠久的历史，是一座美丽的城市！你去过吗？", "これは日本語の文章です。「はい。」と言った。",
    "مرحبا بكم، هذا نص باللغة العربية.", "Ünï cödé ŠÍGNS — and DÀSHES – here…", "İSTANBUL ﬁne ß ǅ",
    '"Quoted", he said. "Really?" Yes!', "“Curly.” ‘Quotes’ «here» DON’T", "it's JOHN'S. I'LL go, CANNOT stay, GONNA 'TIS",
    "- a\n- b\n  * c\n* d\n*\n** bold **\n* ", "1. One\n2. Two\n3) Three\n\n\n\nEnd", "# Head\n\n*a* **b** ***c*** ****\n***\nx",
    '{"a": 1}', '```JSON\n{"a": 1}\n```', '```json\n[1, 2,]\n```', "```\nNaN\n```", "[" * 500, "<<" * 300, "[a][b][c [d]]\n[e", "<<>> << >> <<<t>>>",
    "Section 1\nfoo\nSECTION 2\nPARAGRAPH 3\nSection4", "Hello\nP.S. more\nP. P. S. most\np.p.s.", "My answer is yes.\nMy answer is no.",
    "Sure! Here it is:\n\n\"Everything, as asked.\"\n\nHope this helps!", "Hello!\n*Everything* is HERE\nBye", "a ****** b", "a ****** ****** b",
    "E.g. this. i.e. that. U.S. Army at 5 p.m. He left... Then came. And Dr. Who? See No. 5. Ph.D. students.",
    "WAIT--WHAT? A,B,C;D:E (F) [G] {H} <I> $5 50% #TAG @YOU A*B `CODE` ``X'' A.B. C.D.E F'S",
    "word " * 5000, "Sentence one is here. " * 500, "LOUD, " * 800, "x\n\n" * 300, "The same in every way.\n\n" * 40,
)  # fmt: skip


@pytest.mark.parametrize(("name", "given", "yes", "no"), CASES)
def test_a_kind_tells_what_follows_from_what_nearly_does(
    name: str, given: Mapping[str, Any], yes: str, no: str
) -> None:
    instruction = Instruction.read(name, given)
    assert followed(instruction, yes)
    assert not followed(instruction, no)


def test_there_are_25_kinds_and_each_has_a_case() -> None:
    assert len(KINDS) == 25
    assert {name for name, *_ in CASES} == set(KINDS)


# ------------------------------------------------------------------------------------------------------------ the reference


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    """The reference's own checks. Its model of sentences cannot be fetched: it is given our sentences, which are held to that
    model's verdicts below, and keeps its tokens of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "1")  # or it would fetch the model while it is imported
        import langdetect
        from lm_eval.tasks.ifeval import instructions, instructions_util, utils
        from nltk.tokenize import NLTKWordTokenizer

        words = NLTKWordTokenizer().tokenize
        patch.setattr(instructions_util, "count_sentences", lambda text: len(sentences(text)))
        patch.setattr(
            instructions_util.nltk,
            "word_tokenize",
            lambda text: [word for one in sentences(text) for word in words(one)],
        )
        patch.setattr(instructions.logger, "disabled", True)  # it would tell responses that no report can hold
        patch.setattr(langdetect.DetectorFactory, "seed", 0)
        patch.setattr(langdetect, "detect", cache(langdetect.detect))
        patch.setattr("hornbook.evals.instructions.whole.detected", cache(detected))
        yield utils


def test_all_verdicts_are_the_references(reference: Any, shared: Path) -> None:
    """Over all parameters of the data, strictly and loosely; each kind is followed and not followed at least once. The
    parameters of the cases meet all responses, and each of the data's every twelfth."""
    with gzip.open(shared / "instructions" / "ifeval.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    told = {
        json.dumps((name, given)): (name, given)
        for row in rows
        for name, given in zip(row["instruction_id_list"], row["kwargs"], strict=True)
    }
    responses = [
        *ODD,
        *(response for _, _, *both in CASES for response in both),
        *(row["prompt"] for row in rows[::40]),
    ]
    seen: dict[str, set[tuple[bool, bool]]] = {name: set() for name in KINDS}
    asked = [(name, given, responses) for name, given, _, _ in CASES]
    asked += [(*one, responses[number % 12 :: 12]) for number, one in enumerate(told.values())]
    for name, given, some in asked:
        if not given.get("letter", "a").isalpha():
            continue  # the reference draws another letter, at random
        question = reference.InputExample(key=0, instruction_id_list=[name], prompt="", kwargs=[given])
        ours = Instruction.read(name, given)
        for response in some:
            strict = reference.test_instruction_following_strict(question, response).follow_all_instructions
            loose = reference.test_instruction_following_loose(question, response).follow_all_instructions
            verdict = (followed(ours, response), loosely_followed(ours, response))
            assert verdict == (strict, loose), f"{ours}: {response[:300]!r}"
            seen[name].add(verdict)
    assert all({(True, True), (False, False)} <= verdicts for verdicts in seen.values()), seen
    assert any((False, True) in verdicts for verdicts in seen.values())


def test_brackets_too_deep_to_read_are_no_json() -> None:
    assert not followed(Instruction.read("detectable_format:json_format", {}), "[" * 100_000)


# What Punkt's English model makes of each (nltk 3.10, punkt_tab), counted once where it was at hand.
PUNKT = {
    "": 0,
    "No sign at its end": 1,
    "One. two. Three.": 3,
    "Dr. Smith and Mrs. Jones met Mr. Brown Jr. at 5 p.m. yesterday.": 1,
    "He lives in the U.S. They live in Calif. and Tenn. now.": 2,
    "For example, e.g. this, i.e. that, etc. and so on.": 4,
    "1. One\n2. Two\n3. three": 3,
    "It cost $3.50. Version 2.0.1 is out.": 2,
    "Wait... what? Well... This is it... We go.": 3,
    'She said "Stop!" and left. "Why?" he asked.': 4,
    "(In brackets.) And out. [Again.] “Curly.” Done": 5,
    "What?! No!!! Really???": 4,
    "A line\nand another\n\nand a third": 1,
    "- an item\n- another item.\n- a third": 2,
    "J. R. R. Tolkien wrote it. So did C.S. Lewis.": 3,
    "See fig. 3 and no. 5. Then vs. now.": 4,
    "北京是首都。它很大。": 1,
    "Go to example.com. It works.": 2,
    "It was Smith & Co. They sold it to Acme Inc. in Jan. 1990.": 2,
    "* He ran.\n* She ran!\n* They ran": 3,
    "Ph.D. students. M.B.A. too.": 2,
    "The end . Of it .": 2,
    "So am I. And so is he.": 2,
    "OK. According to A. Turing, b. Then go.": 3,
    "Johnson & Sons Inc. According to them.": 2,
}


@pytest.mark.parametrize("text", PUNKT)
def test_sentences_are_counted_as_punkt_counts_them(text: str) -> None:
    assert len(sentences(text)) == PUNKT[text]


def test_sentences_lose_nothing_but_white_space() -> None:
    for text in (*ODD, *PUNKT):
        assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_tokens_split_clitics_and_signs_as_the_treebank_does() -> None:
    assert tokens("DON'T shout, A.B. JONES-SMITH!") == ["DO", "N'T", "shout", ",", "A.B.", "JONES-SMITH", "!"]
    assert tokens("I CANNOT pay $1,200.") == ["I", "CAN", "NOT", "pay", "$", "1,200", "."]


def test_a_language_is_told_alike_every_time_and_leaves_others_use_of_langdetect_alone() -> None:
    import langdetect

    before = langdetect.DetectorFactory.seed
    assert len({detected("or not or note") for _ in range(20)}) == 1
    assert detected("1 + 1 = 2") is None
    assert langdetect.DetectorFactory.seed == before


# ----------------------------------------------------------------------------------------------------------------- the task


def test_a_prompt_counts_when_all_is_followed_and_an_instruction_for_itself(tmp_path: Path) -> None:
    row = {"key": 7, "prompt": "Answer in capitals, without commas.", "instruction_id_list": ["punctuation:no_comma", "startend:quotation"]}  # fmt: skip
    empty = {"num_words": None, "keywords": None}  # as in the hub's files, where all rows have all names
    (tmp_path / "ifeval_input_data.jsonl").write_text(json.dumps(row | {"kwargs": [empty, empty]}))
    (task,) = tasks(["ifeval"], Data((tmp_path,)))
    (item,) = task.items()
    assert item.id == "7"
    assert task.requests(item, Setting(chat=False)) == (
        Writing(row["prompt"], task.requests(item, Setting())[0].sampling),
    )  # type: ignore[union-attr]
    assert task.requests(item, Setting())[0].prompt == (Message("user", row["prompt"]),)  # type: ignore[union-attr]
    both = {"followed_strict": 2, "followed_loose": 2, "instructions": 2}
    assert task.grade(item, [('"Yes"',)]) == {"prompt_level_strict_acc": 1, "prompt_level_loose_acc": 1} | both
    polite = {"prompt_level_strict_acc": 0, "followed_strict": 0, "prompt_level_loose_acc": 1, "followed_loose": 2}
    assert task.grade(item, [('Sure, it is:\n"Yes"',)]) == polite | {"instructions": 2}
    assert task.grade(item, [("",)]) == dict.fromkeys([*both, *polite], 0) | {"instructions": 2}
    assert task.reward(item, '"Yes"') == 1
    assert "startend:quotation" in task.target(item)


def test_the_level_of_instructions_weighs_each_alike(shared: Path) -> None:
    import numpy as np

    (task,) = tasks(["ifeval"], Data((shared,)))
    items = task.items()
    assert len(items) == 271
    grades = [task.grade(item, [("One line, and no more",)]) for item in items]
    columns = {name: np.array([grade[name] for grade in grades]) for name in grades[0]}
    values = {metric.name: float(metric.value(columns)) for metric in task.metrics}
    assert values["inst_level_strict_acc"] == columns["followed_strict"].sum() / columns["instructions"].sum()
    assert 0 < values["prompt_level_strict_acc"] < values["inst_level_strict_acc"] < 1


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        (["keywords:existance"], [{"keywords": ["a"]}], "no instruction 'keywords:existance'"),
        (["keywords:existence"], [{}], "told nothing"),
        (["keywords:existence"], [{"keywords": []}], "keywords of keywords:existence is []"),
        (["punctuation:no_comma"], [{"num_words": 3}], "told num_words"),
        (["length_constraints:number_words"], [{"num_words": "3", "relation": "at least"}], "num_words of"),
        (["length_constraints:number_words"], [{"num_words": 3, "relation": "around"}], "relation of"),
        (["language:response_language"], [{"language": "xx"}], "'xx'"),
        (["punctuation:no_comma"], [], "1 names of instructions, and 0 sets"),
        (["punctuation:no_comma"], [3], "sets of parameters"),
        ([], [], "0 names"),
    ],
)
def test_a_row_that_does_not_fit_is_named_with_its_line(tmp_path: Path, names: Any, given: Any, said: str) -> None:
    good = {"key": 1, "prompt": "p", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}
    bad = {"key": 2, "prompt": "p", "instruction_id_list": names, "kwargs": given}
    (tmp_path / "ifeval.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    (task,) = tasks(["ifeval"], Data((tmp_path,)))
    with pytest.raises(DataError) as error:
        task.items()
    assert "ifeval.jsonl, line 2" in error.value.what
    assert said in error.value.what


def test_keywords_that_are_no_expression_stand_for_themselves() -> None:
    assert followed(Instruction.read("keywords:existence", {"keywords": ["C++"]}), "I write c++.")
    sections = Instruction.read("detectable_format:multiple_sections", {"section_spliter": "(*", "num_sections": 1})
    assert followed(sections, "(* 1")
