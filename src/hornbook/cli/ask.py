"""``hornbook ask``: the answer and its sources to stdout, what was done on the way to stderr.

    $ hornbook ask papers "What limits batch size in the second experiment?"
      indexed 42 files (3 new, 1 changed) · 1,204 passages · 0.9 s

      The batch was limited by activation memory, not by weights [1].

      [1] training.pdf · p. 7 · "peak memory is dominated by activations, which grow linearly with the batch"
      smollm2:135m · 2.1 s · 31 tokens/s

The docstring of ``types.Answer.to_json`` and docs/ask.md describe what ``--json`` prints.
"""

from __future__ import annotations

import re
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from hornbook.cli import console
from hornbook.cli.index import opened, paths_and_question, place, say_report, shorten
from hornbook.cli.models import fetch
from hornbook.settings import Settings
from hornbook.types import Answer, IngestReport

MARGIN = "  "
WIDEST = 100
_WIDE = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_UNBROKEN = re.compile(rf"\n|[^\S\n]+|[{_WIDE}]|[^\s{_WIDE}]+")  # a line may be broken between any two of these
_NEVER_FIRST = "，。！？；：、”’）】》,.;:!?"  # never begin a line
QUOTE = 240  # characters of a quotation that are shown; --json has it whole


def ask(
    words: Annotated[
        list[str],
        typer.Argument(metavar='PATH... "QUESTION"', help="Files and folders, then the question.", show_default=False),
    ],
    model: Annotated[str | None, typer.Option(help="The language model. Default: the setting HORNBOOK_MODEL.")] = None,
    k: Annotated[int, typer.Option(min=1, help="How many passages are retrieved.")] = 5,
    strict: Annotated[bool, typer.Option(help="Withhold what no passage supports; or show it, marked.")] = True,
    stream: Annotated[bool, typer.Option(help="Print each sentence as soon as it is checked.")] = True,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show what the model was given, and what was not.")
    ] = False,
    index: Annotated[Path | None, typer.Option(help="Where the index lives. Default: under HORNBOOK_HOME.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never open a socket.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Answer a question from files and folders. Every [n] is a file, page and exact span that supports its sentence."""
    from hornbook.rag.ask import ask as answer_from

    paths, question = paths_and_question(words, have_index=index is not None)
    settings = Settings.load(model=model, device=device, offline=offline or None)
    fetch(settings, settings.model, settings.embedder)
    show = Printer() if not as_json else None
    with opened(paths, index, settings) as place_of_index, ExitStack() as bar:
        progress = bar.enter_context(console.progress())

        def ingested(report: IngestReport) -> None:
            bar.close()  # before the answer begins, so that nothing is drawn over it
            if show is not None:
                say_report(report)
                console.say()

        answer = answer_from(
            paths,
            question,
            model=settings.model,
            index=place_of_index,
            k=k,
            strict=strict,
            stream=show.write if show and stream else None,
            on_ingest=ingested,
            settings=settings,
            progress=progress,
        )
    if show is None:
        console.print_json(answer.to_json())
        return
    if not stream:
        show.write(answer.text)
    show.end()
    _sources(answer)
    _figures(answer)
    if verbose:
        _verbose(answer)


def _sources(answer: Answer) -> None:
    if not answer.citations:
        return
    print()
    for citation in answer.citations:
        where = place(citation.path, citation.page, citation.section)
        line = Printer(following=MARGIN + " " * len(f"[{citation.n}] "))
        line.write(f'[{citation.n}] {where} · "{shorten(citation.quote, QUOTE)}"')
        line.end()


def _figures(answer: Answer) -> None:
    """``smollm2:135m · 2.1 s · 31 tokens/s``; the speed is of the tokens after the first."""
    timings = answer.timings
    parts = [answer.model, f"{timings.get('total', 0.0):.1f} s"]
    writing = timings.get("generate", 0.0) - timings.get("read", 0.0)
    if answer.usage and answer.usage.completion_tokens > 1 and writing > 0:
        parts.append(f"{(answer.usage.completion_tokens - 1) / writing:.0f} tokens/s")
    if answer.withheld:
        count = len(answer.withheld)
        parts.append(f"{count} unsupported {'sentence' if count == 1 else 'sentences'} withheld")
    sys.stdout.flush()
    console.say(MARGIN + " · ".join(parts))


def _verbose(answer: Answer) -> None:
    console.say()
    for sentence in answer.withheld:
        console.say(f"{MARGIN}withheld (support {sentence.support:.2f}): {shorten(sentence.text, 200)}")
    for hit in answer.hits:
        state = "left out of the prompt" if hit in answer.left_out else "in the prompt"
        where = place(hit.document.path, hit.chunk.page, hit.chunk.section)
        console.say(f"{MARGIN}{hit.score:.3f}  {where}  [{hit.chunk.start}:{hit.chunk.end}]  {state}")
    for step, seconds in answer.timings.items():
        console.say(f"{MARGIN}{step:12} {seconds:6.2f} s")
    if answer.prompt:
        console.say(f"{MARGIN}the prompt, word for word:")
        console.say(answer.prompt)


class Printer:
    """Writes an answer that comes in pieces, wrapped to the terminal, wide characters counted as two columns.

    Where stdout is not a terminal nothing is wrapped: a sentence stays on its line for whoever reads the file.
    """

    def __init__(self, following: str = MARGIN) -> None:
        self.margin, self.following = MARGIN, following  # of the first line, and of those that it is wrapped to
        terminal = sys.stdout.isatty()
        self.columns = min(shutil.get_terminal_size().columns, WIDEST) if terminal else sys.maxsize
        self.at = 0  # columns used on this line; 0: nothing written yet
        self.space = ""  # seen, and written only once a word follows it on the line

    def write(self, text: str) -> None:
        for word in _UNBROKEN.findall(text):
            self._word(word)
        sys.stdout.flush()

    def _word(self, word: str) -> None:
        if word.isspace() and word != "\n":
            self.space = " " if self.at else ""
            return
        wide = console.width(self.space + word)
        if word == "\n" or (self.at and self.at + wide > self.columns and word not in _NEVER_FIRST):
            sys.stdout.write("\n")
            self.at, self.space, self.margin = 0, "", self.following
        if word == "\n":
            return
        lead = self.space if self.at else self.margin
        sys.stdout.write(lead + re.sub(r"\[\d+\]", lambda mark: console.accent(mark[0]), word))
        self.at += len(lead) + console.width(word)
        self.space = ""

    def end(self) -> None:
        if self.at:
            sys.stdout.write("\n")
            self.at, self.space = 0, ""
        sys.stdout.flush()
