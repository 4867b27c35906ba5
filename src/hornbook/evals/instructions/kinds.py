"""The 25 kinds of instruction: their names in the data, what each is told, and the check of each.

    followed(Instruction.read("keywords:existence", {"keywords": ["stone"]}), "A stone.")  ->  True

The paper's data has several instructions to a prompt, as names and as many sets of parameters beside them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hornbook.errors import DataError
from hornbook.evals.instructions import keywords, layout, length, whole
from hornbook.evals.instructions.language import LANGUAGES
from hornbook.evals.instructions.parts import RELATIONS

Check: TypeAlias = Callable[..., bool]  # (response, **parameters)
Reader: TypeAlias = Callable[[Any], Any]  # a value of the data -> the parameter; ValueError says what it must be


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str) and one for one in value):
        raise ValueError("a list of texts")
    return tuple(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise ValueError("a whole number, not below 0")  # Parquet files hold some as 3.0
    return int(value)


def _place(value: Any) -> int:
    if not (place := _count(value)):
        raise ValueError("a whole number from 1")
    return place


def _relation(value: Any) -> str:
    if value not in RELATIONS:
        raise ValueError(" or ".join(map(repr, RELATIONS)))
    return str(value)


def _letter(value: Any) -> str:
    if not isinstance(value, str) or len(value.strip()) != 1:
        raise ValueError("one letter")
    return value.strip()


def _language(value: Any) -> str:
    if value not in LANGUAGES:
        raise ValueError(f"one of {', '.join(sorted(LANGUAGES))}")
    return str(value)


@dataclass(frozen=True, slots=True)
class Kind:
    check: Check
    parameters: Mapping[str, Reader]


def _kind(check: Check, **parameters: Reader) -> Kind:
    return Kind(check, parameters)


KINDS: Mapping[str, Kind] = {
    "keywords:existence": _kind(keywords.existence, keywords=_texts),
    "keywords:frequency": _kind(keywords.frequency, keyword=_text, frequency=_count, relation=_relation),
    "keywords:forbidden_words": _kind(keywords.forbidden_words, forbidden_words=_texts),
    "keywords:letter_frequency": _kind(
        keywords.letter_frequency, letter=_letter, let_frequency=_count, let_relation=_relation
    ),
    "language:response_language": _kind(whole.response_language, language=_language),
    "length_constraints:number_sentences": _kind(length.number_sentences, num_sentences=_count, relation=_relation),
    "length_constraints:number_paragraphs": _kind(length.number_paragraphs, num_paragraphs=_count),
    "length_constraints:number_words": _kind(length.number_words, num_words=_count, relation=_relation),
    "length_constraints:nth_paragraph_first_word": _kind(
        length.nth_paragraph_first_word, num_paragraphs=_count, nth_paragraph=_place, first_word=_text
    ),
    "detectable_content:number_placeholders": _kind(layout.number_placeholders, num_placeholders=_count),
    "detectable_content:postscript": _kind(layout.postscript, postscript_marker=_text),
    "detectable_format:number_bullet_lists": _kind(layout.number_bullet_lists, num_bullets=_count),
    "detectable_format:constrained_response": _kind(layout.constrained_response),
    "detectable_format:number_highlighted_sections": _kind(layout.number_highlighted_sections, num_highlights=_count),
    "detectable_format:multiple_sections": _kind(layout.multiple_sections, section_spliter=_text, num_sections=_count),
    "detectable_format:json_format": _kind(layout.json_format),
    "detectable_format:title": _kind(layout.title),
    "combination:two_responses": _kind(whole.two_responses),
    "combination:repeat_prompt": _kind(whole.repeat_prompt, prompt_to_repeat=_text),
    "startend:end_checker": _kind(whole.end_checker, end_phrase=_text),
    "startend:quotation": _kind(whole.quotation),
    "change_case:capital_word_frequency": _kind(
        whole.capital_word_frequency, capital_frequency=_count, capital_relation=_relation
    ),
    "change_case:english_capital": _kind(whole.english_capital),
    "change_case:english_lowercase": _kind(whole.english_lowercase),
    "punctuation:no_comma": _kind(whole.no_comma),
}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a prompt: a name of KINDS, and its parameters as its check takes them."""

    name: str
    parameters: Mapping[str, Any]

    @classmethod
    def read(cls, name: str, given: Mapping[str, Any], place: str = "an instruction") -> Instruction:
        """From the data's own form, in which parameters of other kinds may stand as None. Raises DataError that begins with
        ``place`` where the name is none, or a parameter is absent, unknown or something else."""
        if name not in KINDS:
            near = difflib.get_close_matches(name, KINDS, 1)
            raise DataError(
                f"{place}: there is no instruction {name!r}",
                f"Did you mean {near[0]}?" if near else f"There are {', '.join(KINDS)}.",
            )
        readers = KINDS[name].parameters
        told = {key: value for key, value in given.items() if value is not None}
        if set(told) != set(readers):
            raise DataError(
                f"{place}: {name} is told {', '.join(sorted(told)) or 'nothing'}, and takes {', '.join(readers) or 'nothing'}",
                "Mend the row.",
            )
        try:
            return cls(name, {key: reader(told[key]) for key, reader in readers.items()})
        except ValueError as error:
            wrong = next(key for key, reader in readers.items() if not _reads(reader, told[key]))
            raise DataError(
                f"{place}: {wrong} of {name} is {told[wrong]!r:.60}", f"It must be {error}. Mend the row."
            ) from None

    def __str__(self) -> str:
        told = ", ".join(f"{key} {value}" for key, value in self.parameters.items())
        return f"{self.name} ({told})" if told else self.name


def _reads(reader: Reader, value: Any) -> bool:
    try:
        reader(value)
    except ValueError:
        return False
    return True


def followed(instruction: Instruction, response: str) -> bool:
    """Whether a response does what it was told to, to the letter. One without content follows nothing."""
    return bool(response.strip()) and KINDS[instruction.name].check(response, **instruction.parameters)


def loosely_followed(instruction: Instruction, response: str) -> bool:
    """Whether it does after a first line ("Sure, here it is:"), a last line or the asterisks of Markdown are left out, in any
    combination (section 2.2 of the paper): fewer are taken for disobedient that are not, and more for obedient that are not.
    """
    return any(followed(instruction, variant) for variant in _variants(response))


def _variants(response: str) -> dict[str, None]:
    lines = response.split("\n")
    parts = (lines[1:], lines[:-1], lines[1:-1])
    bare = [response, *("\n".join(part).strip() for part in parts)]
    return dict.fromkeys(variant for text in bare for variant in (text, text.replace("*", "")))
