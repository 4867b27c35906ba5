"""The forms in which data sets are published, and rows that are not as they should be."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hornbook.errors import DataError, UsageError
from hornbook.evals.data import Data, rows
from hornbook.evals.registry import kinds
from hornbook.evals.task import Item, Likelihood, Setting, Task

STEM = {"stem": "Ice is", "choices": [{"text": "cold", "label": "A"}, {"text": "hot", "label": "B"}]}
LETTERED = {"id": "x1", "question": STEM, "answerKey": "A"}
LINES: Callable[..., str] = lambda *table: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table)  # noqa: E731
# name -> files, and then the context, the continuations, the id and the right answer of the first question
PUBLISHED: dict[str, tuple[dict[str, str], str, tuple[str, ...], str, str]] = {
    "arc_easy": (
        {"ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-Test.jsonl": LINES(LETTERED)},
        "Question: Ice is\nAnswer:", (" cold", " hot"), "x1", "cold",
    ),
    "openbookqa": (
        {"OpenBookQA-V1-Sep2018/Data/Main/test.jsonl": LINES(LETTERED)}, "Ice is", (" cold", " hot"), "x1", "cold",
    ),
    "commonsense_qa": (
        {"dev_rand_split.jsonl": LINES(LETTERED)}, "Question: Ice is\nA. cold\nB. hot\nAnswer:", (" A", " B"), "x1", "A",
    ),
    "boolq": (
        {"boolq/dev.jsonl": LINES({"question": "is it", "title": "It", "answer": True, "passage": "It is."})},
        "It is.\nQuestion: is it?\nAnswer:", (" no", " yes"), "dev-0", "yes",
    ),
    "copa": (
        {"COPA/val.jsonl": LINES(
            {"premise": "It rained.", "choice1": "I slept.", "choice2": "It was wet.", "question": "effect", "label": 1, "idx": 4}
        )},
        "It rained therefore", ("  i slept.", "  it was wet."), "4", "it was wet.",
    ),
    "piqa": (
        {"piqa/valid.jsonl": LINES({"goal": "Cut bread", "sol1": "Use a spoon", "sol2": "Use a knife"}),
         "piqa/valid-labels.lst": "1\n"},
        "Question: Cut bread\nAnswer:", (" Use a spoon", " Use a knife"), "valid-0", "Use a knife",
    ),
    "winogrande": (
        {"winogrande_1.1/dev.jsonl": LINES(
            {"qID": "q-1", "sentence": "Ann beat Eve as _ was fast.", "option1": "Ann", "option2": "Eve", "answer": "1"}
        )},
        "Ann beat Eve as Ann", (" was fast.",), "q-1", "Ann beat Eve as Ann",
    ),
    "truthfulqa_mc1": (
        {"data/mc_task.json": json.dumps([{"question": "Is it?", "mc1_targets": {"Yes.": 0, "No.": 1}}], indent=2)},
        "Q: Where were the 1992 Olympics held?\nA: The 1992 Olympics were held in Barcelona, Spain.\n\nQ: Is it?\nA:",
        (" Yes.", " No."), "mc_task-0", "No.",
    ),
    "lambada_openai_mt_de": (
        {"data/lambada_test_de.jsonl": LINES({"text": "Sie sah das große  Haus"})}, "Sie sah das große ", (" Haus",),
        "lambada_test_de-0", "Haus",
    ),
}  # fmt: skip


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def only(name: str, folder: Path, rest: str = "") -> Task:
    (task,) = kinds()[name].make(Data((folder,)), rest)
    return task


def first(task: Task, shots: int = 0) -> Likelihood:
    request = task.requests(task.items()[0], Setting(shots=shots))[0]
    assert isinstance(request, Likelihood)
    return request


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_are_read_as_their_authors_published_them(name: str, tmp_path: Path) -> None:
    files, context, continuations, id, right = PUBLISHED[name]
    write(tmp_path, files)
    task = only(name, tmp_path)
    (item,) = task.items()
    asked = first(task)
    assert isinstance(asked.context, str) and asked.context.endswith(context)
    assert (asked.continuations, item.id, task.target(item)) == (continuations, id, right)


def test_mmlu_reads_the_authors_tables_without_a_header(tmp_path: Path) -> None:
    dev = 'Odd?,1,2,"3, or 4",4,A\n'
    test = '"A ""field""\nis",a ring,b,c,d,C\nTwo?,1,2,3,4,B\n'
    write(
        tmp_path,
        {"data/test/anatomy_test.csv": test, "data/test/virology_test.csv": test, "data/dev/anatomy_dev.csv": dev},
    )
    task = only("mmlu", tmp_path)
    assert [item.id for item in task.items()] == ["anatomy-0", "anatomy-1", "virology-0", "virology-1"]
    assert [item.id for item in only("mmlu", tmp_path, "virology").items()] == ["virology-0", "virology-1"]
    assert [item.group for item in only("mmlu", tmp_path, "stem").items()] == ["anatomy", "anatomy"]
    assert first(task, 1).context == (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        'Odd?\nA. 1\nB. 2\nC. 3, or 4\nD. 4\nAnswer: A\n\nA "field"\nis\nA. a ring\nB. b\nC. c\nD. d\nAnswer:'
    )
    assert task.target(task.items()[0]) == "C"
    with pytest.raises(UsageError, match="virology"):  # it has no dev rows
        task.requests(task.items()[2], Setting())


def test_mmlu_reads_the_hub_s_folder_of_each_subject_and_of_all(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    def table(where: str, **more: Sequence[Any]) -> None:
        path = tmp_path / where
        path.parent.mkdir(parents=True)
        columns: dict[str, Sequence[Any]] = {"question": ["Odd?"], "choices": [["1", "2", "4", "6"]], "answer": [0]}
        pyarrow.parquet.write_table(pyarrow.table(columns | more), path)

    table("cais/mmlu/anatomy/test-00000-of-00001.parquet", subject=["anatomy"])
    table("cais/mmlu/virology/test-00000-of-00001.parquet")
    assert [item.id for item in only("mmlu", tmp_path).items()] == ["anatomy-0", "virology-0"]
    table("cais/mmlu/all/test-00000-of-00001.parquet", subject=["astronomy"])
    assert [item.id for item in only("mmlu", tmp_path).items()] == ["astronomy-0"]


def test_names_of_subjects_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no subject 'anatomi'") as raised:
        only("mmlu", tmp_path, "anatomi")
    assert "anatomy" in raised.value.remedy
    with pytest.raises(UsageError, match="nothing can stand after the colon: 'hard'"):
        only("arc_easy", tmp_path, "hard")


def test_what_is_missing_says_where_was_looked_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        only("arc_challenge", tmp_path).items()
    assert "ARC-Challenge-Test.jsonl" in raised.value.what and str(tmp_path) in raised.value.what
    assert "--data hf:datasets/allenai/ai2_arc:ARC-Challenge" in raised.value.remedy


BAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("arc_easy", "ARC-Easy-Test.jsonl", LETTERED | {"answerKey": "E"}, "the answer 'E' is none of A, B"),
    ("arc_easy", "ARC-Easy-Test.jsonl", LETTERED | {"question": {"stem": "x", "choices": 3}}, "choices are not texts"),
    ("arc_easy", "ARC-Easy-Test.jsonl", LETTERED | {"question": {"choices": []}}, "the field stem is absent"),
    ("arc_easy", "arc_easy.jsonl", {"query": "Q: x", "choices": ["a", "b"], "gold": 0}, "query is not 'Question: '"),
    ("boolq", "boolq.jsonl", {"query": "Passage: x?", "choices": [], "gold": 0}, "no line Question: after"),
    ("boolq", "BoolQ/val.jsonl", {"passage": "x", "question": "y"}, "the field label is absent"),
    ("copa", "COPA/val.jsonl",
     {"premise": "x.", "choice1": "a", "choice2": "b", "question": "why", "label": 0}, "neither for a cause"),
    ("copa", "COPA/val.jsonl",
     {"premise": "x.", "choice1": "a", "choice2": "", "question": "cause", "label": 0}, "at least two options"),
    ("winogrande", "winogrande_1.1/dev.jsonl",
     {"sentence": "No gap.", "option1": "a", "option2": "b", "answer": "1"}, "no gap"),
    ("winogrande", "winogrande_1.1/dev.jsonl",
     {"sentence": "A _ gap.", "option1": "a", "option2": "b", "answer": ""}, "the right answer is -1"),
    ("commonsense_qa", "commonsense_qa.jsonl",
     {"query": "Question: x\nChoices:\nA. 1\nC. 2\nAnswer:", "choices": ["A", "B"], "gold": 0}, "lists no options"),
    ("lambada_openai", "lambada_test.jsonl", {"text": "word"}, "no text of several words"),
    ("truthfulqa_mc2", "mc_task.json", {"question": "x", "mc2_targets": {"a": 1, "b": "no"}}, "and the labels"),
    ("mmlu", "mmlu_test.jsonl", {"subject": "cooking", "question": "x"}, "'cooking' is no subject"),
    ("mmlu", "mmlu_test.jsonl",
     {"subject": "anatomy", "question": "x", "choices": ["a", "b", "c", "d"], "answer": "AB"}, "the right answer is -1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "row", "says"), BAD)
def test_a_bad_row_is_named_with_file_and_line(
    name: str, file: str, row: dict[str, Any], says: str, tmp_path: Path
) -> None:
    write(tmp_path, {file: LINES(row)})
    with pytest.raises(DataError, match=f"{Path(file).name}, line 1.*{says}"):
        only(name, tmp_path).items()


@pytest.mark.parametrize(
    ("labels", "says"), [("", "ends after 0 lines"), ("7\n", "says '7'"), (None, "cannot be read")]
)
def test_piqa_s_second_file_is_checked(labels: str | None, says: str, tmp_path: Path) -> None:
    write(tmp_path, {"piqa/valid.jsonl": LINES({"goal": "x", "sol1": "a", "sol2": "b"})})
    if labels is not None:
        write(tmp_path, {"piqa/valid-labels.lst": labels})
    with pytest.raises(DataError, match=rf"valid\.jsonl, line 1.*valid-labels\.lst.*{says}"):
        only("piqa", tmp_path).items()


def test_tables_have_names_by_their_first_line_or_by_ours(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question,answer\n"Where, and when?",Paris\n', "utf-8")
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress("Où ?\tÀ Paris\n".encode()))
    (named,) = rows([tmp_path / "a.csv"])
    assert (named.value, named.number) == ({"question": "Where, and when?", "answer": "Paris"}, 0)
    (given,) = rows([tmp_path / "b.tsv.gz"], ("question", "answer"))
    assert (given.value["answer"], given.number, given.path.name) == ("À Paris", 0, "b.tsv.gz")
    (tmp_path / "c.csv").write_text("question,answer\nWhy\n", "utf-8")
    with pytest.raises(DataError, match=r"c\.csv, line 2 has 1 columns, not 2"):
        list(rows([tmp_path / "c.csv"]))


def test_a_folder_may_be_the_data_set_itself_and_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"boolq/dev.jsonl": LINES({"question": "a", "passage": "b", "answer": False}), ".staging/boolq/dev.jsonl": ""},
    )
    for folder in (tmp_path / "boolq", tmp_path):
        assert Data((tmp_path / "none", folder)).find("boolq", "x.json", "boolq/dev.jsonl") == [
            tmp_path / "boolq" / "dev.jsonl"
        ]


def test_solved_examples_come_from_the_training_file_and_never_hide_a_question_of_the_same_number(
    tmp_path: Path,
) -> None:
    row = {"question": "q", "passage": "p", "label": 1}
    write(tmp_path, {
        "BoolQ/val.jsonl": LINES(*({**row, "idx": one} for one in range(3))),
        "BoolQ/train.jsonl": LINES(*({**row, "idx": one, "passage": f"t{one}"} for one in range(2))),
    })  # fmt: skip
    task = only("boolq", tmp_path)
    assert [example.id for example in task.examples()] == ["training 0", "training 1"]
    context = first(task, 2).context
    assert isinstance(context, str) and "t0" in context and "t1" in context


def test_every_task_of_choices_reads_the_shared_samples(shared: Path) -> None:
    sizes = {"arc_easy": 300, "arc_challenge": 300, "boolq": 300, "piqa": 300, "openbookqa": 250, "copa": 50,
             "commonsense_qa": 300, "winogrande": 300, "lambada_openai": 500, "truthfulqa_mc1": 409, "truthfulqa_mc2": 409,
             "mmlu": 684}  # fmt: skip
    for name, size in sizes.items():
        items: Sequence[Item] = only(name, shared).items()
        assert len({item.id for item in items}) == len(items) == size, name
    assert [task.name for task in kinds()["arc"].make(Data((shared,)), "")] == ["arc_easy", "arc_challenge"]


def test_in_a_chat_no_answer_begins_with_a_space(shared: Path) -> None:
    for name in ("mmlu", "arc_easy", "boolq", "copa", "winogrande", "lambada_openai", "truthfulqa_mc2"):
        task = only(name, shared)
        shots = 1 if task.examples() else 0
        request = task.requests(task.items()[0], Setting(shots=shots, chat=True))[0]
        assert isinstance(request, Likelihood) and isinstance(request.context, tuple)
        said = [*request.continuations, *(turn.content for turn in request.context if turn.role == "assistant")]
        assert [text for text in said if text[0].isspace()] == [], name
        assert [turn.role for turn in request.context][-1 - 2 * shots :] == ["user", "assistant"] * shots + ["user"], (
            name
        )
