"""BIG-Bench Hard (arXiv 2210.09261): 27 kinds of puzzles that models of their time failed at, answered without a chain of thought.

Prompts, stop texts and what is read out of an answer are those of lm-evaluation-harness' bbh_zeroshot. Solved examples are drawn
from the same puzzle's other questions and go before without an explanation: those that the authors explained step by step are
not part of the questions' files.

    flexible-extract   the answer is looked for in what was written: a letter or the option's words, a number in digits or in
                       words, yes or no, brackets, the words of the list
    strict-match       all that was written is the answer

Two departures: white space at the ends is nothing (the harness takes a text that begins with a space for a wrong answer), and
"six" to "nine" are numbers too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hornbook.errors import DataError, UsageError
from hornbook.evals.choices import Files
from hornbook.evals.data import Data, Row, field
from hornbook.evals.filters import NOTHING, Filter, number_in_words, regex, strip
from hornbook.evals.metrics.exact import exact_match
from hornbook.evals.prompting import Framing
from hornbook.evals.registry import Kind, Kinds
from hornbook.evals.task import Item
from hornbook.evals.written import Measure, Written

_SAME = exact_match(ignore=(r"\.$", ",", "\n", r"\\", '"'), case=False)
_OPTIONS = re.compile(r"\([A-Z]\)([^\n^(]*)")
_LETTER = regex(r"(\([A-Z]\))", otherwise="")
_DIGITS = regex("([-0-9]+)", otherwise="")


class Puzzles(Written):
    """All kinds of puzzles, or one. An item's group is its kind."""

    def __init__(self, name: str, items: Callable[[], Sequence[Item]]) -> None:
        super().__init__(
            name,
            items,
            lambda item: f"Q: {item.data['input']}\nA:",
            lambda item: (item.data["target"],),
            (Measure("flexible-extract", _SAME), Measure("strict-match", _SAME, strip)),
            examples=items,
            stop=("</s>", "Q:", "<|im_end|>"),
            version="3",
        )

    def around(self, item: Item) -> Framing:
        return Framing(description=_KINDS[item.group][0] + "\n\n")

    def worth(self, item: Item, measure: Measure, text: str) -> float:
        if measure.name == "flexible-extract":
            text = _KINDS[item.group][1](item.data["input"])(text)
        return super().worth(item, measure, text)


def lettered(question: str) -> Filter:
    """The letter of an option, "(B)": as it stands in the text, or of the first option whose words do, or after a colon."""
    options = [_bare(option.strip()) for option in _OPTIONS.findall(question)]
    letters = {option: f"({chr(ord('A') + i)})" for i, option in enumerate(options)}
    # The longest first: an option may begin with all of another.
    words = regex("|".join(sorted(map(re.escape, options), key=len, reverse=True)), otherwise="")
    after_colon = regex(rf":\s*({'|'.join(letter[1] for letter in letters.values())})", otherwise="")

    def read(text: str) -> str:
        if letter := _LETTER(text):
            return letter
        if option := words(_bare(text)):
            return letters.get(option, option)
        letter = after_colon(text)
        return f"({letter})" if letter else NOTHING

    return read


def _bare(text: str) -> str:
    return "".join(char for char in text.lower() if not unicodedata.category(char).startswith("P"))


def _number(question: str) -> Filter:
    return lambda text: _DIGITS(text) or number_in_words(text)


def _listed(question: str) -> Filter:
    """The words of the list in the order of the text; of a word that comes twice, its last place counts."""
    words = "|".join(rf"\b{re.escape(word)}\b" for word in question.partition("List:")[2].split())

    def read(text: str) -> str:
        last = dict.fromkeys(reversed(re.findall(words, text)))
        return " ".join(reversed(last))

    return read


def _found(pattern: str) -> Callable[[str], Filter]:
    read = regex(pattern)
    return lambda question: read


def _yes_no(yes: str, no: str) -> Callable[[str], Filter]:
    either = re.compile(rf"\b(?:(?P<no>no|{no})|(?P<yes>yes|{yes}))\b")

    def read(text: str) -> str:
        found = either.search(text.lower())
        return str(found.lastgroup) if found else NOTHING

    return lambda question: read


_YES = _found(r"\b(Yes|No|yes|no)\b")
_DEDUCTION = "A logical deduction task which requires deducing the order of a sequence of objects."
_TRACKING = (
    "A task requiring determining the final positions of a set of objects given their initial positions and a description of a "
    "sequence of swaps."
)
# By name: what goes before the questions, and what is read out of an answer, made from its question.
_KINDS: dict[str, tuple[str, Callable[[str], Filter]]] = {
    "boolean_expressions": ("Evaluate the result of a random Boolean expression.", _found(r"\b(True|False)\b")),
    "causal_judgement": ("Answer questions about causal attribution.", _YES),
    "date_understanding": ("Infer the date from context.", lettered),
    "disambiguation_qa": ("Clarify the meaning of sentences with ambiguous pronouns.", lettered),
    "dyck_languages": (
        "Correctly close a Dyck-n word.",
        _found(r'(?<= )([" \[\(<{}>\)\]]+)|([" \[\(<{}>\)\]]+)'),
    ),
    "formal_fallacies": (
        "Distinguish deductively valid arguments from formal fallacies.",
        _found(r"\b(valid|invalid)\b"),
    ),
    "geometric_shapes": ("Name geometric shapes from their SVG paths.", lettered),
    "hyperbaton": ("Order adjectives correctly in English sentences.", lettered),
    "logical_deduction_five_objects": (_DEDUCTION, lettered),
    "logical_deduction_seven_objects": (_DEDUCTION, lettered),
    "logical_deduction_three_objects": (_DEDUCTION, lettered),
    "movie_recommendation": ("Recommend movies similar to the given list of movies.", lettered),
    "multistep_arithmetic_two": ("Solve multi-step arithmetic problems.", _number),
    "navigate": (
        "Given a series of navigation instructions, determine whether one would end up back at the starting point.",
        _YES,
    ),
    "object_counting": ("Questions that involve enumerating objects and asking the model to count them.", _number),
    "penguins_in_a_table": ("Answer questions about a table of penguins and their attributes.", lettered),
    "reasoning_about_colored_objects": (
        "Answer extremely simple questions about the colors of objects on a surface.",
        lettered,
    ),
    "ruin_names": ("Select the humorous edit that 'ruins' the input movie or musical artist name.", lettered),
    "salient_translation_error_detection": (
        "Detect the type of error in an English translation of a German source sentence.",
        lettered,
    ),
    "snarks": (
        'Determine which of two sentences is sarcastic.\n\nAccording to Cambridge University Dictionary, sarcasm is "the use of '
        "remarks that clearly mean the opposite of what they say, made in order to hurt someone's feelings or to criticize "
        'something in a humorous way." Sarcastic sentences often contain satirical or ironic utterances, hyperboles, ambivalent '
        "or witty remarks.",
        lettered,
    ),
    "sports_understanding": (
        "Determine whether an artificially constructed sentence relating to sports is plausible or not.",
        _yes_no("plausible", "not plausible"),
    ),
    "temporal_sequences": (
        "Task description: Answer questions about which times certain events could have occurred.",
        lettered,
    ),
    "tracking_shuffled_objects_five_objects": (_TRACKING, lettered),
    "tracking_shuffled_objects_seven_objects": (_TRACKING, lettered),
    "tracking_shuffled_objects_three_objects": (_TRACKING, lettered),
    "web_of_lies": (
        "Evaluate a random boolean function expressed as a word problem.",
        _yes_no("tells the truth|is telling the truth", "does not tell the truth|is not telling the truth"),
    ),
    "word_sorting": ("Sort a list of words.", _listed),
}


def bbh(data: Data, kind: str) -> list[Puzzles]:
    if kind and kind not in _KINDS:
        raise UsageError(f"there are no puzzles {kind!r}", f"Take bbh for all, or one of {', '.join(_KINDS)}.")
    names = "bbh/*/test-*.parquet", "bbh/*.json", "bbh.jsonl", "bbh.jsonl.gz"
    files = Files(data, "bbh", _items, names, hub="SaylorTwift/bbh")

    def items() -> list[Item]:
        return [item for item in files.items() if not kind or item.group == kind]

    return [Puzzles(f"bbh:{kind}" if kind else "bbh", items)]


def _items(row: Row, id: str) -> Iterator[Item]:
    """Of the authors' files, each an object with all ``examples`` of the kind that it is named for; of the hub's, a folder for
    each kind; or of a table with a column ``task``."""
    if "examples" in row.value:
        for i, example in enumerate(field(row, "examples", list)):
            one = example if isinstance(example, dict) else {}
            yield _item(Row(row.place, i, one, row.path), f"{row.path.stem}-{i}", row.path.stem)
    elif "task" in row.value:
        yield _item(row, id, field(row, "task", str))
    else:
        kind = row.path.parent.name
        yield _item(row, f"{kind}-{row.number}", kind)


def _item(row: Row, id: str, kind: str) -> Item:
    if kind not in _KINDS:
        raise DataError(f"{row.place}: there are no puzzles {kind!r}", f"The kinds are {', '.join(_KINDS)}.")
    asked: dict[str, Any] = {name: field(row, name, str) for name in ("input", "target")}
    return Item(id, asked, kind)


TASKS: Kinds = {
    "bbh": Kind("27 kinds of puzzles (BIG-Bench Hard), or one: bbh:navigate", bbh),
}
