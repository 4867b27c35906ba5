"""From raw files to a corpus: cleaned, without duplicates, without what models are examined with, and accounted for.

    sources --read--> clean each one --exact duplicates--> .work/part-000.jsonl.zst, ...   (a part for 8,192 examples read)
            --near duplicates over all signatures--> split by document --> train.jsonl.zst, validation.jsonl.zst
            --> corpus.yaml, report.html, account.json                                        (in this order: account.json says "done")

Broken off at any moment, the same command goes on behind the last whole part, to the same bytes. What is done to an
example is in `hornbook.data.cleaning`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import filelock
import numpy as np
import yaml
from pydantic import Field

from hornbook.data import read as reading_data
from hornbook.data.account import Ledger
from hornbook.data.cleaning import Cleaned, Cleaning
from hornbook.data.contamination import Contamination, texts_of_items
from hornbook.data.duplicates import Exact, MinHash, clusters, similarity
from hornbook.data.example import Place
from hornbook.data.private import KINDS, scrub
from hornbook.data.quality import Quality
from hornbook.data.texts import strings, texts
from hornbook.errors import DataError, StoreError, UsageError
from hornbook.recipes.cleaners import BATCH, Batch, batches, cleaned
from hornbook.recipes.config import Shape, Strict, said
from hornbook.recipes.parts import Packed, Part, Parts, as_json, write
from hornbook.recipes.reading import read_as

PART = 128  # batches
SEEN = 1000  # characters of an example that went, of which the account shows the first
FEW = 1000  # examples that are cleaned before other processes have started
Progress = Callable[[str, int, int], None]  # (what is done, how many, of how many)


class Source(Strict):
    """Files that hold examples."""

    path: str = said(text="a file, a folder or a pattern (*.jsonl); JSONL, CSV, Parquet or text, plain or .gz, .zst")
    shape: Shape = said("auto", text="how an example is written; auto: as its fields say")
    fields: dict[str, str] = said(dict, text="their name of a column: the name that the shape has for it")
    split: Literal["file", "blank-line", "line"] = said("file", text="how a text file is cut into documents")


class QualityRules(Strict):
    """Which documents look as if somebody wrote them to be read."""

    rules: list[str] = said(lambda: ["gopher", "c4", "fineweb"], text="families of rules, or single ones")
    bounds: dict[str, tuple[float | None, float | None]] = said(dict, text="a rule: [least, most] in place of its own")
    forbidden: list[str] = said(list, text="words of which none may stand in a document")
    prose_lines: bool = said(False, text="also take out lines that are no sentences, by C4's rules")


class Duplicates(Strict):
    """Which documents were there before."""

    exact: bool = said(True, text="drop documents with the same text, but for case and spaces")
    near: bool = said(True, text="drop documents with nearly the same words, by MinHash")
    threshold: float = said(0.8, gt=0, le=1, text="the Jaccard similarity from which two are the same")
    hashes: int = said(128, ge=16, le=4096, text="hash functions: more estimate better, and cost more")
    shingle: int = said(5, ge=1, le=50, unit="words", text="that stand for a document's runs of words")


class Corpus(Strict):
    """A corpus to train on, from raw files."""

    recipe: Literal["corpus"] = said("corpus", text="what this file is")
    sources: list[Source] = said(min_length=1, text="what is read, in this order: of duplicates the first stays")
    malformed: Literal["stop", "skip"] = said("stop", text="a line that cannot be read ends the work, or is counted")
    repair: bool = said(True, text="put encodings, control characters, line ends and composed letters right")
    languages: list[str] = said(list, text="codes of the languages that stay (en, zh); empty: all")
    unknown_language: Literal["keep", "drop"] = said(
        "keep", text="texts too short to tell their language, where languages are named"
    )
    quality: QualityRules | None = said(QualityRules, text="rules for documents; null: none")
    duplicates: Duplicates = said(Duplicates, text="which documents were there before")
    evaluation: list[str] = said(list, text="files or patterns of evaluation sets: what holds their text is dropped")
    private: Literal["all", "none"] | list[Literal[tuple(KINDS)]] = said(  # type: ignore[valid-type]
        "all", text="kinds of private text that become marks"
    )
    validation: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = said(
        0.01, text="what is held out: a share of the documents, or their number; 0 for none"
    )
    seed: int = said(0, ge=0, lt=2**63, text="of what is held out, and of the hash functions")
    tokenizer: str | None = said(None, text="a model's folder or .gguf file, whose tokens are counted")
    workers: int = said(0, ge=0, le=512, text="processes; 0: one for each core")


class Made(NamedTuple):
    """What came of it. ``fresh``: whether anything was done, or the folder held this corpus already."""

    folder: Path
    ledger: Ledger
    fresh: bool


def read_recipe(recipe: str, words: list[str]) -> Corpus:
    """The recipe in a file, changed by key=value. Raises UsageError."""
    if not Path(recipe).is_file():
        raise UsageError(f"there is no recipe {recipe}", "Give a YAML file; docs/corpus.md shows one.")
    return read_as(Corpus, recipe, words, _paths)


def _paths(given: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    for source in given.get("sources") or ():
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            yield source, "path"
    sets = given.get("evaluation")
    if isinstance(sets, list):
        yield from ((sets, i) for i, path in enumerate(sets) if isinstance(path, str))
    if isinstance(given.get("tokenizer"), str):
        yield given, "tokenizer"


# -------------------------------------------------------------------------------------------------------------- run


def run(corpus: Corpus, folder: Path, progress: Progress | None = None) -> Made:
    """Make the corpus in ``folder``, or go on with it, or say that it is there.

    Raises UsageError where the folder holds something else, DataError on what cannot be read and where nothing stays,
    StoreError where the folder cannot be written.
    """
    report = progress or (lambda what, done, total: None)
    sources = [reading_data.Source(s.path, s.shape, s.fields, split=s.split) for s in corpus.sources]
    asked = _asked(corpus, sources)
    try:
        with _alone(folder):
            return _run(corpus, folder, sources, asked, report)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written: {error.strerror or error}",
            "Make room or give another folder; the same command goes on where it was.",
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process makes a corpus in the folder. Raises UsageError where one does."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):  # an open file cannot be removed everywhere
                    (folder / ".lock").unlink()
    except filelock.Timeout as error:
        raise UsageError(
            f"another process makes a corpus in {folder}", "Wait for it, or name another folder."
        ) from error


def _run(
    corpus: Corpus, folder: Path, sources: list[reading_data.Source], asked: dict[str, Any], report: Progress
) -> Made:
    before = _made(folder, asked)
    if before is not None:
        return Made(folder, before, False)
    work = folder / ".work"
    work.mkdir(parents=True, exist_ok=True)
    write(work / "asked.json", as_json(asked))
    parts = _clean(corpus, sources, work, report)
    ledger = parts.ledger
    if not parts.kept:
        first = max(ledger.gone.items(), key=lambda item: item[1].examples, default=("nothing was read", None))[0]
        raise DataError(
            f"none of {ledger.read.examples:,} examples stayed; most went for {first}",
            "Loosen that rule, or look at .work in the folder for what the account says.",
        )
    _finish(corpus, folder, parts, report)
    write(
        folder / "corpus.yaml",
        yaml.safe_dump(corpus.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode(),
    )
    write(folder / "report.html", ledger.page(f"The corpus {folder.name}").encode("utf-8", "replace"))
    write(folder / "account.json", as_json({"asked": asked, **ledger.as_dict()}))
    shutil.rmtree(work)
    return Made(folder, ledger, True)


def _asked(corpus: Corpus, sources: list[reading_data.Source]) -> dict[str, Any]:
    """What decides the result: the recipe, and each file with its size and time. How many processes is not among it."""
    files = [file for source in sources for file in reading_data.files(source)] + list(_sets(corpus).values())
    seen = {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    return {"recipe": corpus.model_dump(mode="json", exclude={"workers"}), "files": seen, "part": PART * BATCH}


def _made(folder: Path, asked: Mapping[str, Any]) -> Ledger | None:
    """The account of this very corpus where the folder holds it. An unfinished one of another recipe or other files is
    begun anew; a finished one is never written over."""
    account, begun = folder / "account.json", folder / ".work" / "asked.json"
    if account.is_file():
        said = json.loads(account.read_bytes())
        if said.pop("asked") == asked:
            return Ledger.of(said)
        raise UsageError(
            f"{folder} holds a corpus of another recipe or of other files", "Name another folder, or remove it."
        )
    if begun.is_file():
        if json.loads(begun.read_bytes()) != asked:
            shutil.rmtree(folder / ".work")
    elif any(file.name != ".lock" for file in folder.iterdir()):
        raise UsageError(f"the folder {folder} is not empty, and holds no corpus", "Name another folder.")
    return None


def _sets(corpus: Corpus) -> dict[str, Path]:
    """Evaluation files by the name under which the account knows them."""
    found: dict[str, Path] = {}
    for pattern in corpus.evaluation:
        files = sorted(map(Path, glob(pattern, recursive=True))) or [Path(pattern)]
        for file in files:
            if not file.is_file():
                raise UsageError(f"there is no evaluation file {file}", "Give the path of a file that is there.")
            name = file.name.split(".")[0]
            found[name if name not in found else str(file)] = file
    return found


# ------------------------------------------------------------------------------------------- first pass: one by one


def _clean(corpus: Corpus, sources: list[reading_data.Source], work: Path, report: Progress) -> Parts:
    """Clean what no whole part holds yet."""
    total = 0
    for total, _ in enumerate(
        reading_data.read(sources, malformed=corpus.malformed), 1
    ):  # a line that cannot be read ends the work here, before any of it is done
        if total % 1000 == 0:
            report("reading", total, 0)
    workers = 1 if total <= FEW and not corpus.workers else corpus.workers
    contamination = Contamination.of({name: texts_of_items(file) for name, file in _sets(corpus).items()})
    parts = Parts(work, corpus.seed)
    ledger, exact = parts.ledger, Exact()
    ledger.sets = {name: held._asdict() for name, held in contamination.sets.items()}
    for keys in parts.arrays("keys"):
        for key in keys:
            exact.first(key.tobytes(), -1)
    skipped: list[tuple[Place, str]] = []

    def note(place: Place, why: str) -> None:
        skipped.append((place, why))

    every = batches(reading_data.read(sources, malformed=corpus.malformed, skipped=note), skipped)
    for _ in range(parts.count * PART):
        next(every, None)
    done = parts.count * PART * BATCH
    writer = parts.begin()
    cleaning = _cleaning(corpus, contamination)
    for i, (batch, results) in enumerate(cleaned(every, cleaning, workers), 1):
        _take(batch, results, cleaning, exact if corpus.duplicates.exact else None, writer, parts)
        done += len(batch.examples)
        report("cleaning", done, total)
        if i % PART == 0:
            writer.end(ledger)
            writer = parts.begin()
    writer.end(ledger)
    return parts


def _cleaning(corpus: Corpus, contamination: Contamination) -> Cleaning:
    quality, near = corpus.quality, corpus.duplicates
    rules = None
    if quality is not None:
        rules = Quality(quality.rules, bounds=quality.bounds, forbidden=quality.forbidden)
    return Cleaning(
        repair=corpus.repair,
        prose_lines=quality is not None and quality.prose_lines,
        languages=tuple(corpus.languages),
        unknown=corpus.unknown_language == "keep",
        quality=rules,
        contamination=contamination if contamination.sets else None,
        private=None if corpus.private == "none" else () if corpus.private == "all" else tuple(corpus.private) or None,
        near=MinHash(near.threshold, near.hashes, near.shingle, corpus.seed) if near.near else None,
    )


def _take(
    batch: Batch, results: list[Cleaned], cleaning: Cleaning, exact: Exact | None, writer: Part, parts: Parts
) -> None:
    """Write what stays of a batch, and account for all of it. The account is shown to others, so that what is private is
    marked there as well."""

    def shown(text: str) -> str:
        return text if cleaning.private is None else scrub(text, cleaning.private).text

    ledger = parts.ledger
    for place, why in batch.skipped:
        ledger.skipped(place, shown(why))
    for example, result in zip(batch.examples, results, strict=True):
        ledger.came(result.characters, result.language)
        reason, detail = result.reason, result.detail
        if not reason and exact is not None and exact.first(result.key, parts.kept) is not None:
            reason, detail = "duplicate.exact", "the same text came before"
        if reason:
            excerpt = shown("\n\n".join(texts(example))[:SEEN])
            ledger.went(reason, result.characters, place=example.place, detail=detail, excerpt=excerpt)
            continue
        assert result.example is not None
        ledger.change(result.changes)
        writer.add(result)


# ------------------------------------------------------------------------------------------ second pass: all together


def _finish(corpus: Corpus, folder: Path, parts: Parts, report: Progress) -> None:
    """Drop near duplicates, take the validation documents out, and write both files."""
    near, ledger = corpus.duplicates, parts.ledger
    first, signatures = np.arange(parts.kept), np.zeros((0, 0), np.uint32)
    if near.near:
        report("comparing", 0, parts.kept)
        signatures = parts.signatures(near.hashes)
        first = clusters(signatures, MinHash(near.threshold, near.hashes, near.shingle, corpus.seed))
    stays = first == np.arange(len(first))
    draws = np.concatenate(list(parts.arrays("draws")))
    limit = _limit(np.sort(draws[stays]), corpus.validation)
    count = _counter(corpus.tokenizer)
    heads = set(first[~stays].tolist())
    places: dict[int, str] = {}  # of examples that others are like
    files = {name: Packed(folder / f"{name}.jsonl.zst") for name in ("train", "validation")}
    for i, kept in enumerate(parts.rows()):
        if i in heads:
            places[i] = kept.place
        if not stays[i]:
            alike = float(similarity(signatures[i], signatures[first[i]]))
            detail = f"like {places[int(first[i])]}, similarity {alike:.2f}"
            ledger.went("duplicate.near", kept.size, place=kept.place, detail=detail, excerpt=_excerpt(kept.row))
            continue
        where = "validation" if draws[i] < limit else "train"
        files[where].write(kept.row)
        ledger.stayed(where, kept.size, None if count is None else count(kept.row))
        if i % 256 == 0:
            report("writing", i, parts.kept)
    for file in files.values():
        file.close()
    report("writing", parts.kept, parts.kept)


def _limit(draws: np.ndarray, validation: float | int) -> float:
    """Below which draw an example is held out; draws float64 [n], sorted. Those of one document draw the same."""
    if not validation:
        return 0.0
    wanted = validation if isinstance(validation, int) else max(round(validation * len(draws)), 1)
    if wanted >= len(draws) or draws[wanted - 1] == draws[-1]:
        raise DataError(
            f"{len(draws):,} documents stayed, and {wanted:,} are to be held out", "Hold out fewer, or give more."
        )
    return float(np.nextafter(draws[wanted - 1], 1.0))


def _counter(tokenizer: str | None) -> Callable[[Mapping[str, Any]], int] | None:
    """How many tokens an example's texts have, without those that a template puts around them."""
    if tokenizer is None:
        return None
    from hornbook.checkpoint.gguf import GGUF
    from hornbook.text.tokenizer import Tokenizer

    path = Path(tokenizer)
    if path.suffix == ".gguf":
        with GGUF.open(path) as file:
            found = Tokenizer.from_gguf(file.metadata)
    else:
        found = Tokenizer.from_folder(path)
    return lambda row: sum(map(len, found.encode_batch(list(strings(row)), add_special=False)))


def _excerpt(row: Mapping[str, Any]) -> str:
    return "\n\n".join(strings(row))
