"""Ask documents a question: the plain pipeline, whose every step is timed and whose every citation is checked.

    paths --ingest--> index --search--> hits --gather--> evidence --(enough?)--> prompt --model--> sentences
                                                             |                                        |
                                                             no: abstain          support < threshold: withhold or mark
                                                                                  no sentence left:    quote the evidence

Documents decide what is said: the model's sentences pass only where a retrieved span supports them, and nothing in a
document reaches anything but the prompt's data and the quotations. There is no tool that a text could call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from hornbook.errors import HornbookError, UsageError
from hornbook.rag import cite, prompt
from hornbook.rag.evidence import Evidence, Window, gather, widen
from hornbook.rag.language import TermWeights, content_terms, language_of, question_terms
from hornbook.rag.support import THRESHOLD
from hornbook.retrieve import sentences
from hornbook.retrieve.index import Index, Mode
from hornbook.retrieve.location import index_folder
from hornbook.settings import Settings
from hornbook.types import LLM, Answer, Hit, IngestReport, Progress, SamplingParams, Usage

Stream = Callable[[str], None]  # what it raises ends the work, the model's too
PathLike = str | os.PathLike[str]


class Searchable(Protocol):
    """What is asked of an index: an Index, or something that stands before one."""

    def search(self, query: str, k: int = 10, *, mode: Mode = "hybrid") -> list[Hit]: ...

    def frequencies(self, terms: Sequence[str]) -> tuple[int, dict[str, int]]: ...


@dataclass(frozen=True, slots=True)
class Found:
    """What the documents have on a question; ``evidence.answers`` says whether that is enough."""

    question: str
    hits: tuple[Hit, ...]
    evidence: Evidence


_LONG_QUESTION = 2_000  # characters; beyond, the model's context is checked before anything else is done
_ON_THE_POINT = 0.6  # of the best window's score: what the model wrote about must bear on the question about as well
_SETTLED = 48  # characters after a sentence's end that can still change where the splitter sees that end


def ask(
    paths: PathLike | Iterable[PathLike],
    question: str,
    *,
    model: str | LLM = "smollm2:135m",
    index: Index | PathLike | None = None,
    k: int = 5,
    strict: bool = True,
    stream: Stream | None = None,
    on_ingest: Callable[[IngestReport], None] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Answer:
    """Answer a question from files and folders, with citations that hold, or say that they do not answer it.

    paths: files and folders; what changed since the last time is read again. May be empty where ``index`` is given,
        which is then searched as it is.
    model: what ``hornbook.load`` takes, or an LLM. It is loaded only when there is something to answer from.
    index: an Index, or the folder of one; default: a folder of the home that belongs to these paths.
    k: how many passages are retrieved.
    strict: withhold the model's sentences that no passage supports (Answer.withheld); False: show them, marked.
    stream: called with pieces of text that are final; joined, they are ``Answer.text``.
    on_ingest: called with what reading the paths did, before anything is answered.

    ``Answer.timings`` are seconds: ingest, retrieve, load, generate, attribute, total; first_token counts from the call.
    Raises UsageError (an empty question, a missing path, k < 1, a model that cannot write), ContextTooLong,
    HornbookError where nothing in the paths could be read, and what loading a model raises.
    """
    clock = _Clock()
    if not question.strip():
        raise UsageError(
            "the question is empty", 'Ask something: hornbook.ask("papers", "What limits the batch size?").'
        )
    if k < 1:
        raise UsageError(f"k must be at least 1, not {k}", "Retrieve one passage or more.")
    named = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not named and index is None:
        raise UsageError("no path was given", "Name a document or a folder of documents.")
    for path in named:
        if not os.path.lexists(Path(path).expanduser()):
            raise UsageError(f"{path} does not exist", "Check the path; a folder or a file is expected.")
    settings = settings or Settings.load()
    writer = _Writer(model, settings, progress, clock)
    if len(question) > _LONG_QUESTION:
        prompt.build(question, (), writer.llm)

    with ExitStack() as stack:
        if not isinstance(index, Index):
            folder = index_folder(named, settings) if index is None else Path(index)
            index = stack.enter_context(Index.open(folder, settings=settings))
        if named:
            with clock("ingest"):
                report = index.ingest(named, progress=progress)
            if on_ingest is not None:
                on_ingest(report)
            if not report.chunks:
                raise _nothing_readable(named, report.failed)
        elif not index.stats["chunks"]:
            raise HornbookError(f"the index {index.folder} is empty", "Ingest documents into it, or name their folder.")
        with clock("retrieve"):
            found = find(index, question, k)
        return _conclude(found, writer, index, strict, stream, clock)


def find(index: Searchable, question: str, k: int = 5) -> Found:
    """The first stage: what bears on the question, before any model writes. Raises UsageError on an empty question."""
    if not question.strip():
        raise UsageError("the question is empty", "Ask something.")
    hits = retrieve(index, question, k)
    return Found(question, tuple(hits), gather(question, hits, _weights(index, question)))


def conclude(
    found: Found,
    llm: LLM,
    index: Searchable,
    *,
    strict: bool = True,
    stream: Stream | None = None,
    draft: Stream | None = None,
    sampling: SamplingParams | None = None,
) -> Answer:
    """The second stage: ``llm`` writes from what was found, and every sentence is checked.

    stream: as in ``ask``.  draft: is given what the model writes as it comes, which may yet be withheld.
    sampling: how the model chooses its words; at most ``prompt.REPLY_TOKENS`` of them.
    """
    clock = _Clock()
    return _conclude(found, _Writer(llm, None, None, clock, draft, sampling), index, strict, stream, clock)


def abstain(found: Found, model: str = "") -> Answer:
    """What is answered where the documents do not: no model is needed to say so."""
    text = cite.ABSTAINING[language_of(found.question)]
    return Answer(found.question, text, abstained=True, hits=found.hits, model=model, left_out=found.hits)


def retrieve(index: Searchable, question: str, k: int) -> list[Hit]:
    """The ``k`` best passages by words and meaning together, the best two by words alone always among them.

    In a folder of several languages an encoder that cannot read the question's finds every passage of that language
    equally near, and the mixture can bury a passage that has all of the question's words.
    """
    hits = index.search(question, k)
    there = {hit.chunk.id for hit in hits}
    by_words = index.search(question, k // 2, mode="sparse")[:2] if k > 1 else []
    missing = [hit for hit in by_words if hit.chunk.id not in there]
    return [*hits[: k - len(missing)], *missing]


# ------------------------------------------------------------------------------------------------------------ writing


def _conclude(
    found: Found, writer: _Writer, index: Searchable, strict: bool, stream: Stream | None, clock: _Clock
) -> Answer:
    say = stream or (lambda piece: None)
    if not found.evidence.answers:
        answer = abstain(found, writer.name)
        say(answer.text)
        return replace(answer, timings=clock.done())
    composer = cite.Composer(found.question, strict)
    built, usage = _write(found.question, found.evidence, writer, composer, index, say, clock)
    return Answer(
        question=found.question,
        text=composer.text,
        sentences=tuple(composer.sentences),
        citations=tuple(composer.citations),
        withheld=tuple(composer.withheld),
        hits=found.hits,
        model=writer.name,
        usage=usage,
        timings=clock.done(),
        prompt=built.text if usage else "",
        left_out=built.left_out if usage else found.hits,
    )


def _write(
    question: str,
    evidence: Evidence,
    writer: _Writer,
    composer: cite.Composer,
    index: Searchable,
    say: Stream,
    clock: _Clock,
) -> tuple[prompt.Built, Usage | None]:
    """Let the model write, keep what is supported, and quote where too little is left."""
    built = prompt.build(question, evidence.windows, writer.llm)
    usage = None
    cited: list[Window] = []
    if built.excerpts:
        seen: set[str] = set()
        steps = writer.sentences(built)
        with closing(steps):
            for sentence, whole in steps:
                plain = cite.without_marks(sentence)
                if plain.casefold() in seen:
                    break  # a small model that repeats itself has nothing more to say
                seen.add(plain.casefold())
                if not plain:
                    continue
                with clock("attribute"):
                    score, window = 0.0, None
                    if whole:
                        weights = _weights(index, question, plain)
                        score, window = cite.attribute(plain, evidence.windows, question, weights)
                    piece = composer.written(plain, score, window)
                if window is not None and score >= THRESHOLD:
                    cited.append(window)
                if piece:
                    say(piece)
        usage = writer.usage
    best = _to_quote(evidence)
    if max((window.score for window in cited), default=0.0) < _ON_THE_POINT * best.score or not cited:
        say(composer.quoted(widen(best), evidence.probability))
    return built, usage


def _to_quote(evidence: Evidence) -> Window:
    """The best window; one that speaks to an assistant only where there is no other."""
    return next((w for w in evidence.windows if not prompt.speaks_to_an_assistant(w.text)), evidence.windows[0])


class _Writer:
    """The model, loaded when it is first needed, and its sentences as they come."""

    def __init__(
        self,
        model: str | LLM,
        settings: Settings | None,
        progress: Progress | None,
        clock: _Clock,
        draft: Stream | None = None,
        sampling: SamplingParams | None = None,
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._progress = progress
        self._draft: Stream = draft or (lambda piece: None)
        chosen = sampling or SamplingParams()
        self._sampling = replace(
            chosen,
            max_tokens=min(prompt.REPLY_TOKENS, chosen.max_tokens if sampling else prompt.REPLY_TOKENS),
            stop=(*prompt.STOPS, *chosen.stop),
            logprobs=False,
        )
        self._llm: LLM | None = None
        self.usage = Usage(0, 0)
        if isinstance(model, str):
            from hornbook.checkpoint.store import Store

            with clock("load"):  # found or fetched now, so that a name that does not exist fails before any work
                self.name = Store(settings or Settings.load()).ensure(model, progress=progress).name
            self._source = model
        else:
            self._llm, self.name = model, model.name

    @property
    def llm(self) -> LLM:
        if self._llm is None:
            from hornbook.llm import load

            with self._clock("load"):
                loaded = load(self._source, settings=self._settings, progress=self._progress)
            if not isinstance(loaded, LLM):
                raise UsageError(
                    f"{self._source} is an embedding model and cannot write", "Choose a model that can: smollm2:135m."
                )
            self._llm = cast(LLM, loaded)
        return self._llm

    def sentences(self, built: prompt.Built) -> Generator[tuple[str, bool], None, None]:
        """(sentence, whether it is whole) as the model writes; closing the iterator stops the model."""
        length = len(built.prompt) if not isinstance(built.prompt, str) else self.llm.count_tokens(built.prompt)
        held, finish, written = "", None, 0
        tokens = self.llm.stream(built.prompt, self._sampling)
        while True:
            with self._clock("generate"):
                token = next(tokens, None)
            if token is None:
                break
            self._clock.first_token()
            written += token.id is not None
            self.usage = Usage(length, written)
            held += token.text
            if token.text:
                self._draft(token.text)
            finish = token.finish_reason or finish
            spans = sentences.split(held)
            while len(spans) > 1 and len(held) - spans[0][1] >= _SETTLED:
                yield held[slice(*spans[0])], True
                held = held[spans[0][1] :]
                spans = sentences.split(held)
        spans = sentences.split(held)
        for span in spans:
            yield held[slice(*span)], finish != "length" or span is not spans[-1]


# ------------------------------------------------------------------------------------------------------------- pieces


def _weights(index: Searchable, question: str, sentence: str = "") -> TermWeights:
    terms = [*question_terms(question), *content_terms(sentence)]
    return TermWeights(*index.frequencies(terms))


def _nothing_readable(paths: Sequence[PathLike], failed: Sequence[tuple[str, str]]) -> HornbookError:
    where = ", ".join(str(path) for path in paths)
    if not failed:
        return HornbookError(f"there is no document in {where}", "Put some in, or name another folder.")
    path, reason = failed[0]
    files = "1 file" if len(failed) == 1 else f"{len(failed)} files"
    return HornbookError(
        f"nothing in {where} could be read: {files} failed, the first {Path(path).name} ({reason})",
        "docs/documents.md lists the formats that Hornbook reads.",
    )


class _Clock:
    """Seconds by step; a step that comes again adds to what it took before."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent[step] = self._spent.get(step, 0.0) + time.perf_counter() - began

    def first_token(self) -> None:
        """A token has come: ``first_token`` is since the beginning, ``read`` that part of ``generate`` that the prompt took."""
        self._spent.setdefault("first_token", time.perf_counter() - self._began)
        self._spent.setdefault("read", self._spent.get("generate", 0.0))

    def done(self) -> dict[str, float]:
        return {**self._spent, "total": time.perf_counter() - self._began}
