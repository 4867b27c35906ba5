"""Retrieval on a judged collection: passages, questions, and which passage answers which question.

    retrieval:FOLDER            corpus.jsonl      {"_id", "title", "text"} a line
    retrieval:cranfield         queries.jsonl     {"_id", "text"} a line
    retrieval                   qrels.tsv         query, passage, relevance; or qrels/test.tsv, as BEIR has it

The form is BEIR's (Thakur and others, arXiv 2104.08663), packed or not. A name is a folder of the data's; with no name, all
collections there are. The model is an embedder, and what is measured is Hornbook's own index with it: ``retrieval`` ranks by
words and meaning together, as a search does, ``retrieval_dense`` by the vectors alone, ``retrieval_sparse`` by words alone.
A passage stands where its best chunk does.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args

from hornbook.data.compression import PACKED, inner_suffix
from hornbook.data.records import Fault, records
from hornbook.errors import DataError, StoreError, UsageError
from hornbook.evals.data import Data, field, rows
from hornbook.evals.metric import Columns, Metric
from hornbook.evals.metrics import ranking
from hornbook.evals.registry import Kind, Kinds
from hornbook.evals.task import Grade, Item, Means, Setting, Trial
from hornbook.retrieve.index import Index, Mode
from hornbook.settings import Settings
from hornbook.types import Embedder, Progress

DEPTH = 100  # passages of a ranking that are looked at
_FEW = 50  # chunks that the first search asks for: for so many, all searches rank alike
_FORM = b"1"  # of passages as they are written for the index: counts up where it changes
_JSONL = (".jsonl", ".ndjson")
_QRELS = ("qrels.tsv", "qrels/test.tsv", "qrels/dev.tsv", "qrels/train.tsv")
_ENDS = (".", "!", "?", "。", "！", "？")
_CODES = "cranfield_code"  # of the Cranfield collection: 1 to 4, of which 1 is the best answer, and -1 for none


class Passage(NamedTuple):
    name: str
    text: str


class Collection:
    """A folder of corpus, queries and judgements. Raises DataError, with file and line, for what is not there or not so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = _part(folder, "corpus")
        self.queries_file = _part(folder, "queries")
        self.qrels = next((folder / name for name in _QRELS if (folder / name).is_file()), None)
        if self.qrels is None:
            raise DataError(
                f"the collection {folder} has no judgements: none of {', '.join(_QRELS)}",
                "Put a table there: query, passage and relevance, apart by tabs.",
            )

    @cached_property
    def digest(self) -> str:
        """Of all three files: other passages are another collection."""
        said = hashlib.sha256(_FORM)
        for path in (self.corpus, self.queries_file, self.qrels):
            with open(str(path), "rb") as file:
                said.update(hashlib.file_digest(file, "sha256").digest())
        return said.hexdigest()[:12]

    def passages(self) -> Iterator[Passage]:
        for row in rows([self.corpus]):
            title = row.value.get("title") or ""
            text = field(row, "text", str)
            said = (
                bool(title) and text.startswith(title) and title.endswith(_ENDS)
            )  # cranfield's begin with their title
            whole = text if said or not title else f"{title}\n\n{text}"
            yield Passage(_name(row.value, row.place), whole.strip())

    @cached_property
    def names(self) -> list[str]:
        """Of the passages, in their order."""
        names = [passage.name for passage in self.passages()]
        if len(set(names)) < len(names):
            twice = next(name for at, name in enumerate(names) if name in names[:at])
            raise DataError(f"{self.corpus}: two passages are called {twice!r}", "Give each an _id of its own.")
        return names

    def queries(self) -> dict[str, str]:
        return {_name(row.value, row.place): field(row, "text", str) for row in rows([self.queries_file])}

    def judged(self) -> dict[str, dict[str, float]]:
        """query -> passage -> how relevant it is, above 0; queries without a relevant passage are left out."""
        assert self.qrels is not None
        known, queries = set(self.names), self.queries()
        found: dict[str, dict[str, float]] = {}
        codes = False
        for record in records(self.qrels, inner_suffix(self.qrels), split="line"):
            place, columns = f"{self.qrels}, line {record.line}", record.value
            if isinstance(columns, Fault):
                raise DataError(f"{place}: {columns.what}", columns.remedy or "Mend the line.")
            if not isinstance(columns, list) or len(columns) != 3:
                raise DataError(
                    f"{place} does not have three columns", "Write query, passage and relevance, with tabs."
                )
            query, passage, said = (column.strip() for column in columns)
            try:
                relevance = float(said)
            except ValueError as error:
                if record.number == 0:  # the header
                    codes = said == _CODES
                    continue
                raise DataError(f"{place}: the relevance {said!r} is no number", "Write 0, 1, 2, ...") from error
            if query not in queries or passage not in known:
                missing = f"no query {query!r}" if query not in queries else f"no passage {passage!r}"
                raise DataError(f"{place}: there is {missing}", f"Take the files of {self.folder} from one release.")
            if relevance > 0:
                found.setdefault(query, {})[passage] = 1.0 if codes else relevance
        if not found:
            raise DataError(f"{self.qrels} judges no passage relevant", "Check its third column: above 0 is relevant.")
        return found


def _part(folder: Path, name: str) -> Path:
    for suffix in _JSONL:
        for packed in ("", *PACKED):
            if (path := folder / f"{name}{suffix}{packed}").is_file():
                return path
    raise DataError(
        f"the collection {folder} has no {name}.jsonl",
        "It holds corpus.jsonl, queries.jsonl and qrels.tsv, packed or not.",
    )


def _name(row: Mapping[str, Any], place: str) -> str:
    value = row.get("_id", row.get("id"))
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{place}: the _id is {value!r:.40}", "Give every row an _id, a text.")
    return str(value)


class Retrieval(Trial):
    """See the module."""

    metrics = (
        Metric("ndcg@10"), Metric("recall@10"), Metric("recall@100"), Metric("mrr@10"), Metric("map"),
    )  # fmt: skip

    def __init__(self, name: str, folder: Path, mode: Mode) -> None:
        self.name = name
        self._collection = Collection(folder)
        self._mode: Mode = mode
        self._index: tuple[str, Index] | None = None
        self._lock = threading.Lock()
        self._settings: Settings | None = None

    @property
    def version(self) -> str:  # type: ignore[override]
        return f"1-{self._collection.digest}"

    def equip(self, means: Means) -> None:
        self._settings = means.settings

    def items(self) -> Sequence[Item]:
        queries, judged = self._collection.queries(), self._collection.judged()
        return [Item(id, {"query": text, "relevant": judged[id]}) for id, text in queries.items() if id in judged]

    def answer(self, item: Item, model: Any, setting: Setting) -> Mapping[str, Any]:
        if not isinstance(model, Embedder):
            called = getattr(model, "name", model)
            raise UsageError(
                f"{self.name} measures an embedding model, and {called} is none", "Take one, such as minilm."
            )
        query = item.data["query"]
        return {"ranking": self._search(self._opened(model), query) if query.strip() else []}

    def prepare(self, model: Any, tell: Progress) -> None:
        if isinstance(model, Embedder):
            self._opened(model, tell)

    def remarks(self, ids: Sequence[str], columns: Columns) -> Sequence[str]:
        without = len(self._collection.queries()) - len(self.items())
        return [f"{without} queries have no relevant passage and are not asked"] if without else ()

    def judge(self, item: Item, answer: Mapping[str, Any]) -> Grade:
        found, relevant = answer["ranking"], item.data["relevant"]
        return {
            "ndcg@10": ranking.ndcg(found, relevant, 10),
            "recall@10": ranking.recall(found, relevant, 10),
            "recall@100": ranking.recall(found, relevant, 100),
            "mrr@10": ranking.reciprocal_rank(found, relevant, 10),
            "map": ranking.average_precision(found, relevant, DEPTH),
        }

    def target(self, item: Item) -> str:
        return ", ".join(ranking.ranked(item.data["relevant"]))

    def _search(self, index: Index, query: str) -> list[str]:
        """The ``DEPTH`` best passages by name: as many chunks as it takes.

        A search for more looks at more candidates, which moves what is fused: the first are those of a search for few, as
        a person makes it, and the rest follow.
        """
        names = self._collection.names
        found: dict[int, None] = {}
        wanted = _FEW
        while True:
            hits = index.search(query, wanted, mode=self._mode)
            found |= dict.fromkeys(int(Path(hit.document.path).stem) for hit in hits)
            if len(found) >= DEPTH or len(hits) < wanted:
                return [names[number] for number in list(found)[:DEPTH]]
            wanted *= 4

    def _opened(self, embedder: Embedder, tell: Progress | None = None) -> Index:
        """The collection's index with this embedder, made where it is not there yet: it is kept, among the indexes of Hornbook's home."""
        with self._lock:
            if self._index is None or self._index[0] != embedder.fingerprint:
                settings = self._settings or Settings.load()
                place = settings.indexes / f"eval-{self._collection.folder.name}-{self._collection.digest}"
                files = _written(self._collection, place / "passages")
                mark = hashlib.sha256(embedder.fingerprint.encode()).hexdigest()[:12]
                index = Index.open(place / f"index-{mark}", embedder=embedder, settings=settings)
                failed = index.ingest(files, progress=tell).failed
                if unread := [reason for path, reason in failed if Path(path).stat().st_size]:
                    raise DataError(
                        f"{len(unread)} passages of {self._collection.corpus} cannot be read: {unread[0]}",
                        "Mend them: passages are plain text.",
                    )
                self._index = embedder.fingerprint, index
            return self._index[1]


def _written(collection: Collection, folder: Path) -> Path:
    """The passages as files, by their numbers: whole, or not at all."""
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        for number, passage in enumerate(collection.passages()):
            path = partial / f"{number // 1000:04d}" / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(passage.text, "utf-8", newline="\n")
        try:
            os.rename(partial, folder)
        except OSError:
            if not folder.is_dir():  # another process was first
                raise
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}", "Make room on the disk.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _make(mode: Mode, name: str, data: Data, rest: str) -> list[Retrieval]:
    given = Path(rest).expanduser()
    if rest and (given.is_dir() or given.is_absolute()):
        return [Retrieval(f"{name}:{rest}", given, mode)]
    inside = glob.escape(rest) or "*"
    patterns = [f"{inside}/corpus{suffix}{packed}" for suffix in _JSONL for packed in ("", *PACKED)]
    folders = sorted({path.parent for pattern in patterns for path in _all(data, pattern)})
    if not folders:
        data.find(f"{name}:{rest}" if rest else name, *patterns)  # says where was looked
    if rest:
        return [Retrieval(f"{name}:{rest}", folders[0], mode)]
    alike = Counter(folder.name for folder in folders)
    return [Retrieval(f"{name}:{f.name if alike[f.name] == 1 else f}", f, mode) for f in folders]


def _all(data: Data, pattern: str) -> Iterator[Path]:
    for folder in data.folders:
        if folder.is_dir():
            yield from folder.rglob(pattern)


def _kind(mode: Mode) -> tuple[str, Kind]:
    name = "retrieval" if mode == "hybrid" else f"retrieval_{mode}"
    how = {"hybrid": "words and meaning together", "dense": "meaning alone", "sparse": "words alone"}[mode]
    what = f"an embedder's index of a corpus/queries/qrels folder, by {how}: {name}:FOLDER"
    return name, Kind(what, lambda data, rest: _make(mode, name, data, rest))


TASKS: Kinds = dict(_kind(mode) for mode in get_args(Mode))
