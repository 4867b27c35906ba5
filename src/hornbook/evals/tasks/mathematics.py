"""Arithmetic told as a story: GSM8K (arXiv 2110.14168) and SVAMP (arXiv 2103.07191).

Prompts, stop texts and what is read out of an answer are those of lm-evaluation-harness' gsm8k and gsm8k_cot. SVAMP is put as
gsm8k_cot is, with the same eight solved examples, as where chains of thought were introduced (arXiv 2201.11903).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hornbook.errors import DataError
from hornbook.evals.choices import Files
from hornbook.evals.data import Data, Row, field
from hornbook.evals.filters import Filter, last_number, regex
from hornbook.evals.metrics.exact import exact_match, same_number
from hornbook.evals.registry import Kinds, plain
from hornbook.evals.task import Item
from hornbook.evals.written import Measure, Written

_SAME = exact_match(ignore=(",", r"\$", r"(?s).*#### ", r"\.$"), case=False)
_FOUR_HASHES: Filter = regex(r"#### (\-?[0-9\.\,]+)")
_THE_ANSWER_IS: Filter = regex(r"The answer is (\-?[0-9\.\,]+).")
# The eight examples of Wei et al., table 20, which are the prompt that these scores are known for.
_SOLVED = (
    ("There are 15 trees in the grove. Grove workers will plant trees in the grove today. After they are done, there will be 21 "
     "trees. How many trees did the grove workers plant today?",
     "There are 15 trees originally. Then there were 21 trees after some more were planted. So there must have been 21 - 15 = 6. "
     "The answer is 6."),
    ("If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the parking lot?",
     "There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5. The answer is 5."),
    ("Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have left in total?",
     "Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74. After eating 35, they had 74 - 35 "
     "= 39. The answer is 39."),
    ("Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How many lollipops did Jason give to "
     "Denny?",
     "Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave Denny 20 - 12 = 8. The answer is 8."),
    ("Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many toys does he have now?",
     "Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 more toys. 5 + 4 = 9. The answer is "
     "9."),
    ("There were nine computers in the server room. Five more computers were installed each day, from monday to thursday. How "
     "many computers are now in the server room?",
     "There were originally 9 computers. For each of 4 days, 5 more computers were added. So 5 * 4 = 20 computers were added. 9 + "
     "20 is 29. The answer is 29."),
    ("Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 more. How many golf balls did he have "
     "at the end of wednesday?",
     "Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. After losing 2 more, he had 35 - 2 = "
     "33 golf balls. The answer is 33."),
    ("Olivia has $23. She bought five bagels for $3 each. How much money does she have left?",
     "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has 23 - 15 dollars left. 23 - 15 is "
     "8. The answer is 8."),
)  # fmt: skip
_EXAMPLES = tuple(Item(f"example-{i}", {"question": q, "solution": a}) for i, (q, a) in enumerate(_SOLVED))


def gsm8k(data: Data) -> Written:
    """Five solved examples, drawn from the questions for training; the answer follows "####", or is the last number."""
    return Written(
        "gsm8k",
        _gsm8k_files(data).items,
        lambda item: f"Question: {item.data['question']}\nAnswer:",
        lambda item: (item.data["answer"],),
        (Measure("strict-match", _SAME, _FOUR_HASHES), Measure("flexible-extract", _SAME, last_number)),
        examples=_gsm8k_files(data).examples,
        stop=("Question:", "</s>", "<|im_end|>"),
        shots=5,
        version="3",
    )


def gsm8k_cot(data: Data) -> Written:
    """Eight solved examples, always the same; the answer follows "The answer is", or is the last number."""

    def items() -> list[Item]:
        return [
            replace(item, data={**item.data, "answer": item.data["answer"].split("####")[-1].strip()})
            for item in _gsm8k_files(data).items()
        ]

    measures = Measure("strict-match", _SAME, _THE_ANSWER_IS), Measure("flexible-extract", _SAME, last_number)
    return _by_eight("gsm8k_cot", items, measures, "3")


def svamp(data: Data) -> Written:
    """The same way; answers are compared as numbers."""
    files = ("SVAMP/data/test-*.parquet", "SVAMP.json", "svamp.jsonl", "svamp.jsonl.gz")
    measures = (
        Measure("flexible-extract", same_number, last_number),
        Measure("strict-match", same_number, _THE_ANSWER_IS),
    )
    return _by_eight("svamp", Files(data, "svamp", _svamp_item, files, hub="ChilleD/SVAMP").items, measures, "1")


def _by_eight(name: str, items: Callable[[], list[Item]], measures: tuple[Measure, ...], version: str) -> Written:
    return Written(
        name,
        items,
        lambda item: f"Q: {item.data['question']}\nA:",
        lambda item: (item.data["answer"],),
        measures,
        solution=lambda item: str(item.data["solution"]),
        fixed=_EXAMPLES,
        stop=("Q:", "</s>", "<|im_end|>"),
        shots=len(_EXAMPLES),
        version=version,
    )


def _gsm8k_files(data: Data) -> Files:
    return Files(
        data,
        "gsm8k",
        _gsm8k_item,
        ("gsm8k/main/test-*.parquet", "grade_school_math/data/test.jsonl", "gsm8k_test.jsonl", "gsm8k_test.jsonl.gz"),
        (
            "gsm8k/main/train-*.parquet",
            "grade_school_math/data/train.jsonl",
            "gsm8k_train.jsonl",
            "gsm8k_train.jsonl.gz",
        ),
        hub="openai/gsm8k",
    )


def _gsm8k_item(row: Row, id: str) -> Item:
    return Item(id, {"question": field(row, "question", str), "answer": field(row, "answer", str)})


def _svamp_item(row: Row, id: str) -> Item:
    """Of the official form (Body, Question, Answer), and of the form that mixtures of tasks give it (context, answer)."""
    if "Body" in row.value:
        question = f"{field(row, 'Body', str).strip()} {field(row, 'Question', str).strip()}"
        id, answer = str(row.value.get("ID") or id), str(field(row, "Answer", (str, int, float))).strip()
    else:
        question, answer = field(row, "context", str), field(row, "answer", str)
    if not same_number(answer, [answer]):
        raise DataError(f"{row.place}: the answer {answer!r:.40} is no number", "Mend the row.")
    return Item(id, {"question": question, "answer": answer})


TASKS: Kinds = {
    "gsm8k": plain("grade-school mathematics told as stories, with five solved examples", gsm8k),
    "gsm8k_cot": plain("the same questions, with the eight examples of chains of thought", gsm8k_cot),
    "svamp": plain("stories with one sum, and numbers that mislead", svamp),
}
