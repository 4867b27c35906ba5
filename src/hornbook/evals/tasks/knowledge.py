"""What is known of the world: MMLU (arXiv 2009.03300), ARC (arXiv 1803.05457), OpenBookQA (arXiv 1809.02789), CommonsenseQA
(arXiv 1811.00937).

Prompts are those of lm-evaluation-harness. Files are read as they are published, by the hub or by the authors, and with rows
that hold a prompt: ``query``, ``choices``, ``gold``.
"""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

from hornbook.errors import DataError, UsageError
from hornbook.evals.choices import ACC, Files, MultipleChoice, chosen, cut
from hornbook.evals.data import Data, Row, field
from hornbook.evals.prompting import Framing
from hornbook.evals.registry import Kind, Kinds, plain
from hornbook.evals.task import Item

_MEND = "Mend the row, or take the file the task is made for."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def lettered(question: str, options: list[Any], before: str = "") -> str:
    """A question that lists its options, one a line, and is answered by a letter."""
    listed = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, options, strict=False))
    return f"{before}{question.strip()}\n{listed}Answer:"


# ----------------------------------------------------------------------------------------------------------- MMLU

# The harness' four parts. What an item's group is called, and what may stand after "mmlu:".
PARTS = {
    "stem": "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science college_mathematics "
    "college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics high_school_biology "
    "high_school_chemistry high_school_computer_science high_school_mathematics high_school_physics high_school_statistics "
    "machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history "
    "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law "
    "world_religions",
    "social_sciences": "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics "
    "high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations "
    "security_studies sociology us_foreign_policy",
    "other": "business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing "
    "medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology",
}
SUBJECTS = tuple(sorted(" ".join(PARTS.values()).split()))


def mmlu(data: Data, part: str = "") -> MultipleChoice:
    """Examinations in 57 subjects, after five solved questions of the same subject: the first of its dev file, in order. The
    score of all is that of all questions, whatever their subject. part: a subject, or one of the four parts. Raises UsageError."""
    if part and part not in (*SUBJECTS, *PARTS):
        near = difflib.get_close_matches(part, (*SUBJECTS, *PARTS), 4, 0.5)
        raise UsageError(
            f"MMLU has no subject {part!r}",
            f"Did you mean {', '.join(near)}?"
            if near
            else f"Its parts are {', '.join(PARTS)}; a subject is {SUBJECTS[0]}.",
        )
    wanted = PARTS.get(part, part).split() or SUBJECTS
    columns = ("question", "A", "B", "C", "D", "answer")

    def files(split: str, *samples: str) -> Files:
        published = (f"mmlu/all/{split}-*.parquet", f"mmlu/*/{split}-*.parquet", f"{split}/*_{split}.csv")
        kept = tuple(name + packed for name in samples for packed in ("", ".gz"))
        read = partial(_mmlu, wanted, "dev " * (split == "dev"))
        return Files(data, "mmlu", read, published + kept, hub="cais/mmlu:all", columns=columns)

    return MultipleChoice(
        f"mmlu:{part}" if part else "mmlu",
        files("test", "mmlu_test.jsonl", "mmlu_test_sample.jsonl").items,
        examples=files("dev", "mmlu_dev.jsonl", "mmlu_fewshot_dev.jsonl").items,
        in_order=True,
        framing=_subject,
        metrics=(ACC,),
        shots=5,
    )


def _subject(item: Item) -> Framing:
    about = item.group.replace("_", " ")
    return Framing(f"The following are multiple choice questions (with answers) about {about}.\n\n")


def _mmlu(wanted: tuple[str, ...] | list[str], before: str, row: Row, id: str) -> Item | None:
    if "subject" in row.value:
        subject = field(row, "subject", str)
    else:  # SUBJECT/test-0.parquet, or SUBJECT_test.csv
        name = row.path.name.split(".")[0]
        subject = row.path.parent.name if row.path.suffix == ".parquet" else name.rpartition("_")[0]
    if subject not in SUBJECTS:
        raise DataError(f"{row.place}: {subject!r} is no subject of MMLU", _MEND)
    if subject not in wanted:
        return None
    listed = "choices" in row.value
    options = field(row, "choices", list) if listed else [field(row, letter, str) for letter in "ABCD"]
    answer = field(row, "answer", (str, int))
    right = answer if isinstance(answer, int) else "ABCD".find(answer) if len(answer) == 1 else -1
    if len(options) != 4:
        raise DataError(f"{row.place} has {len(options)} options, not 4", _MEND)
    question = lettered(field(row, "question", str), options)
    return Item(f"{before}{subject}-{row.number}", {"question": question, **chosen(row, list("ABCD"), right)}, subject)


# ---------------------------------------------------------------------------------------------- ARC and the others


def arc(data: Data, part: str) -> MultipleChoice:
    """Science questions of schools. part: "Easy" or "Challenge"."""
    name = f"arc_{part.lower()}"
    files = Files(
        data, name, _arc, (f"ARC-{part}/test-*.parquet", f"ARC-{part}-Test.jsonl", f"{name}.jsonl", f"{name}.jsonl.gz"),
        (f"ARC-{part}/train-*.parquet", f"ARC-{part}-Train.jsonl"), hub=f"allenai/ai2_arc:ARC-{part}",
    )  # fmt: skip
    return MultipleChoice(name, files.items, examples=files.examples)


def _arc(row: Row, id: str) -> Item:
    if "query" in row.value:
        question, options, right = cut(row, "query", "Question: "), *_given(row)
    else:
        question, options, right = labelled(row, "question")
        id = field(row, "id", str)
    return Item(id, {"question": f"Question: {question}\nAnswer:", **chosen(row, options, right)})


def openbookqa(data: Data) -> MultipleChoice:
    """Elementary science, with a step to be thought of."""
    files = Files(
        data, "openbookqa", _openbookqa,
        ("openbookqa/main/test-*.parquet", "Main/test.jsonl", "openbook_qa.jsonl", "openbook_qa.jsonl.gz"),
        ("openbookqa/main/train-*.parquet", "Main/train.jsonl"), hub="allenai/openbookqa:main",
    )  # fmt: skip
    return MultipleChoice("openbookqa", files.items, examples=files.examples)


def _openbookqa(row: Row, id: str) -> Item:
    if "query" in row.value:
        question, options, right = field(row, "query", str), *_given(row)
    else:
        question, options, right = labelled(row, "question_stem")
        id = field(row, "id", str)
    return Item(id, {"question": question, **chosen(row, options, right)})


def commonsense_qa(data: Data) -> MultipleChoice:
    """What everybody knows, by letter."""
    files = Files(
        data, "commonsense_qa", _commonsense_qa,
        ("commonsense_qa/data/validation-*.parquet", "dev_rand_split.jsonl", "commonsense_qa.jsonl", "commonsense_qa.jsonl.gz"),
        ("commonsense_qa/data/train-*.parquet", "train_rand_split.jsonl"), hub="tau/commonsense_qa",
    )  # fmt: skip
    return MultipleChoice("commonsense_qa", files.items, examples=files.examples, metrics=(ACC,))


def _commonsense_qa(row: Row, id: str) -> Item:
    if "query" in row.value:
        question, _, listed = cut(row, "query", "Question: ", "\nAnswer:").partition("\nChoices:\n")
        letters, right = _given(row)
        lines = listed.split("\n")
        if [line[:3] for line in lines] != [f"{letter}. " for letter in LETTERS[: len(letters)]]:
            raise DataError(f"{row.place}: the query lists no options A. B. ... after Choices:", _MEND)
        options: list[Any] = [line[3:] for line in lines]
    else:
        question, options, right = labelled(row, "question")
        id = field(row, "id", str)
    chosen(row, options, right)
    return Item(
        id, {"question": lettered(question, options, "Question: "), **chosen(row, LETTERS[: len(options)], right)}
    )


def _given(row: Row) -> tuple[list[Any], int]:
    """Options and where the right one stands, of a row with a prompt."""
    return field(row, "choices", list), field(row, "gold", int)


def labelled(row: Row, name: str) -> tuple[str, list[Any], int]:
    """Question, options and where the right one stands, of a row that letters its options: as the hub has them, a question
    ``name`` and ``choices: {text: [...], label: [...]}``, or as their authors gave them, ``question: {stem, choices: [{text,
    label}]}``; the right one is told by ``answerKey``."""
    place, inner = row.place, row.value.get("question")
    if isinstance(inner, dict):
        question, choices = field(Row(place, row.number, inner), "stem", str), inner.get("choices")
    else:
        question, choices = field(row, name, str), row.value.get("choices")
    if isinstance(choices, list) and all(isinstance(one, dict) for one in choices):
        labels, options = [one.get("label") for one in choices], [one.get("text") for one in choices]
    elif isinstance(choices, dict) and all(isinstance(choices.get(key), list) for key in ("text", "label")):
        labels, options = choices["label"], choices["text"]
    else:
        raise DataError(f"{place}: choices are not texts with labels but {choices!r:.60}", _MEND)
    key = field(row, "answerKey", str).strip()
    if key not in labels:
        raise DataError(f"{place}: the answer {key!r} is none of {', '.join(map(str, labels))}", _MEND)
    return question, options, labels.index(key)


_EASY, _CHALLENGE = partial(arc, part="Easy"), partial(arc, part="Challenge")

TASKS: Kinds = {
    "ai2_arc": plain("arc_easy and arc_challenge", _EASY, _CHALLENGE),
    "arc": plain("arc_easy and arc_challenge", _EASY, _CHALLENGE),
    "arc_challenge": plain("science questions of schools, the hard ones", _CHALLENGE),
    "arc_easy": plain("science questions of schools", _EASY),
    "commonsense_qa": plain("what everybody knows", commonsense_qa),
    "mmlu": Kind(
        "examinations in 57 subjects; one of them as mmlu:SUBJECT, or mmlu:stem", lambda data, rest: [mmlu(data, rest)]
    ),
    "openbookqa": plain("elementary science, with a step to be thought of", openbookqa),
}
