"""What the default models score here: the table in the README, made of what ``hornbook eval --json`` says.

    python benchmarks/scores.py                       # asks, and prints the table
    python benchmarks/scores.py --write               # and puts it into the README
    python benchmarks/scores.py --limit 50 --tasks arc_easy,boolq

The questions are the samples of the shared data folder; TASKS are put as each is known for (shots, template). The same command
goes on where it was stopped: nothing is asked twice, and more items ask only for the rest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hornbook.evals.shown import number

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
README = ROOT / "README.md"
BEGIN, END = "<!-- scores: begin, by benchmarks/scores.py -->", "<!-- scores: end -->"


class Row(NamedTuple):
    task: str
    metric: str
    about: str
    chance: str = ""  # what guessing gives


WRITERS = ("smollm2:135m", "gemma3:270m")
TASKS = (
    Row("mmlu", "acc", "MMLU, 5 shots", "25.00"),
    Row("arc_easy", "acc_norm", "ARC easy", "25.00"),
    Row("arc_challenge", "acc_norm", "ARC challenge", "25.00"),
    Row("boolq", "acc", "BoolQ", "50.00"),
    Row("piqa", "acc_norm", "PIQA", "50.00"),
    Row("winogrande", "acc", "WinoGrande", "50.00"),
    Row("openbookqa", "acc_norm", "OpenBookQA", "25.00"),
    Row("commonsense_qa", "acc", "CommonsenseQA", "20.00"),
    Row("copa", "acc", "COPA", "50.00"),
    Row("lambada_openai", "acc", "LAMBADA"),
    Row("truthfulqa_mc2", "acc", "TruthfulQA, mc2"),
    Row("gsm8k", "flexible-extract", "GSM8K, 5 shots"),
    Row("triviaqa", "exact_match", "TriviaQA"),
    Row("cmrc", "f1", "CMRC 2018 (Chinese), F1"),
    Row("ifeval", "inst_level_loose_acc", "IFEval, by instruction, loosely"),
)
EMBEDDER = "minilm"
RETRIEVAL = (
    Row("retrieval:cranfield", "ndcg@10", "Cranfield, words and meaning"),
    Row("retrieval_dense:cranfield", "ndcg@10", "Cranfield, meaning alone"),
    Row("retrieval:cmrc2018_trial_zh", "ndcg@10", "CMRC 2018 (Chinese), words and meaning"),
    Row("retrieval_dense:cmrc2018_trial_zh", "ndcg@10", "CMRC 2018 (Chinese), meaning alone"),
)
RAG = f"rag:{ROOT / 'tests' / 'evals' / 'questions' / 'documents.jsonl'}@{SHARED / 'docs'}"
ANSWERS = (
    Row(RAG, "contains", "right answer in the answer"),
    Row(RAG, "citation_precision", "citations that point to the right place"),
    Row(RAG, "decided", "rightly answered or declined"),
)


def results(model: str, tasks: Sequence[str], limit: int) -> dict[str, Mapping[str, Any]]:
    """By task, what ``hornbook eval --json`` says."""
    if not tasks:
        return {}
    command = [sys.executable, "-m", "hornbook", "eval", model, "--data", str(SHARED), "--json", "--limit", str(limit)]
    for task in tasks:
        command += ["--tasks", task]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    (outcome,) = json.loads(out)["outcomes"]
    return {result["task"]: result for result in outcome["results"]}


def value(found: Mapping[str, Mapping[str, Any]], row: Row) -> str:
    """``58.00 ± 7.05``."""
    if row.task not in found:
        return ""
    figure = next(one for one in found[row.task]["figures"] if one["metric"] == row.metric)
    return f"{number(figure['value'], True)} ± {number(figure['stderr'], True)}"


def table(
    rows: Sequence[Row], models: Mapping[str, Mapping[str, Mapping[str, Any]]], *, chance: bool = False
) -> list[str]:
    guessed = ["by guessing"] if chance else []
    lines = [f"| {' | '.join(['', 'items', *models, *guessed])} |", "|" + "---|" * (2 + len(models) + len(guessed))]
    for row in rows:
        asked = [found[row.task]["items"] for found in models.values() if row.task in found]
        if asked:
            cells = [row.about, f"{max(asked):,}", *(value(found, row) for found in models.values())]
            lines.append(f"| {' | '.join([*cells, *([row.chance] if chance else [])])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=300, help="items of each task")
    parser.add_argument("--tasks", default="", help="only these, with commas")
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    given = parser.parse_args()
    only = [name for name in given.tasks.split(",") if name]
    wanted = [row for row in (*TASKS, *RETRIEVAL, *ANSWERS) if not only or row.task.partition(":")[0] in only]
    if not wanted:
        parser.error(f"no rows are of {given.tasks}: {', '.join(row.task for row in TASKS)}")

    def names(rows: Sequence[Row]) -> list[str]:
        return list(dict.fromkeys(row.task for row in rows if row in wanted))

    written = {model: results(model, names(TASKS), given.limit) for model in WRITERS}
    # a base model follows no instructions and answers no questions about documents: the first one alone is asked
    answered = {WRITERS[0]: results(WRITERS[0], names(ANSWERS), given.limit)}
    found = {EMBEDDER: results(EMBEDDER, names(RETRIEVAL), given.limit)}
    lines: list[str] = []
    for rows, models, chance in ((TASKS, written, True), (RETRIEVAL, found, False), (ANSWERS, answered, False)):
        made = table(rows, models, chance=chance)
        lines += ["", *made] if len(made) > 2 else []
    print("\n".join(lines))
    if given.write:
        before, begin, rest = README.read_text("utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        assert begin and end, f"{README} has no place for the scores"
        README.write_text("\n".join([before + BEGIN, *lines, END]) + after, "utf-8")


if __name__ == "__main__":
    main()
