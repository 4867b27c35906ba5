"""What a response is as a whole: its language, its case, its beginning and end, how often it answers."""

from __future__ import annotations

from hornbook.evals.instructions.language import detected
from hornbook.evals.instructions.parts import Relation, holds
from hornbook.evals.instructions.sentences import sentences
from hornbook.evals.instructions.tokens import tokens

_BETWEEN = "******"


def response_language(text: str, *, language: str) -> bool:
    """All of it is in one language. What holds no letters is taken as it is."""
    return detected(text) in (language, None)


def english_capital(text: str) -> bool:
    return text.isupper() and detected(text) in ("en", None)


def english_lowercase(text: str) -> bool:
    return text.islower() and detected(text) in ("en", None)


def capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: Relation) -> bool:
    """So many words in capital letters. "I" is one, "DON'T" are two, and "AD-HOC" is one."""
    count = sum(token.isupper() for sentence in sentences(text) for token in tokens(sentence))
    return holds(count, capital_relation, capital_frequency)


def no_comma(text: str) -> bool:
    return "," not in text


def two_responses(text: str) -> bool:
    """Two different answers with six asterisks between them."""
    parts = [part.strip() for part in text.split(_BETWEEN)]
    answers = [part for part in parts if part]
    return all(parts[1:-1]) and len(answers) == 2 and answers[0] != answers[1]


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """It begins with the request, in any case."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, *, end_phrase: str) -> bool:
    """It ends with a phrase, in any case, quotation marks left aside."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    """Double quotation marks stand around all of it."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'
