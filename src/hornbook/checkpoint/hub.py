"""Models and data sets from the Hugging Face hub, or from the mirror that HF_ENDPOINT names, with the person's own token.

huggingface_hub speaks the protocol (names, tokens, redirects, retries). What is added here: the choice of files, the
SHA-256 of each against the hub's own record, one commit for all of them, and resuming inside a file after a kill:
its own partial files carry a random name for safety and are never taken up again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from hornbook.checkpoint.disk import FULL, remove_tree, require_room, settle
from hornbook.checkpoint.selection import choose, choose_rows
from hornbook.checkpoint.source import Fetched, Source
from hornbook.errors import DownloadError, HornbookError, OfflineError
from hornbook.types import Progress


def fetch(source: Source, staging: Path, *, label: str, progress: Progress | None = None, commit: str = "") -> Fetched:
    """Fetch ``source`` into ``staging``; files and parts of files that an earlier try brought are not fetched again.

    A source named ``datasets/ORG/NAME`` is a data set. commit: that one, and not the newest.
    Raises DownloadError, StoreError, OfflineError (HF_HUB_OFFLINE) or UsageError (several models and none chosen);
    OSError when the disk refuses.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise OfflineError(
            f"{source} is not in the store, and HF_HUB_OFFLINE keeps the hub's library off the network",
            "Unset HF_HUB_OFFLINE and pull again.",
        )
    try:
        api, (name, type) = HfApi(), _repository(source)
        ask = api.dataset_info if type else api.model_info
        info: Any = ask(name, files_metadata=True, revision=commit or None)
    except Exception as error:
        raise _explained(source, error) from error
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    selection = (choose_rows if type else choose)(list(siblings), source.file, source=str(source))
    commit = info.sha or "main"
    folder = staging / f"hub-{commit}"
    for old in staging.glob("hub-*"):
        if old != folder:
            remove_tree(old)
    total = sum(siblings[name].size or 0 for name in selection.files)
    present = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    require_room(staging, max(total - present, 0))
    done = 0
    files: dict[str, tuple[int, str]] = {}
    for name, target in selection.files.items():
        counted = _Counted(f"pulling {label}", done, total, progress)
        files[target] = _file(source, commit, siblings[name], folder / target, staging / "partial", counted)
        done += files[target][0]
    card = getattr(info, "card_data", None)
    licence = str(getattr(card, "license", None) or "")
    terms = f"{constants.ENDPOINT.rstrip('/')}/{source.name}"
    return Fetched(folder, selection.path, selection.weights, files, (f"{source.name}@{commit}",), licence, terms)


def _repository(source: Source) -> tuple[str, str | None]:
    """Name and type, as the hub's library wants them."""
    name = source.name.removeprefix("datasets/")
    return name, None if name == source.name else "dataset"


class _Counted:
    """Progress of one file among several."""

    def __init__(self, what: str, before: int, total: int, progress: Progress | None) -> None:
        self.what, self.before, self.total, self.progress = what, before, total, progress

    def __call__(self, done: int) -> None:
        if self.progress:
            self.progress(self.what, self.before + done, self.total)


class _Writer:
    """The file that huggingface_hub writes into: it tells how far it is."""

    def __init__(self, file: BinaryIO, counted: _Counted) -> None:
        self._file, self._counted = file, counted

    def write(self, block: bytes) -> int:
        written = self._file.write(block)
        self._counted(self._file.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _file(
    source: Source, commit: str, sibling: Any, target: Path, partials: Path, counted: _Counted
) -> tuple[int, str]:
    """Fetch one file to ``target``, or find it there; (bytes, SHA-256)."""
    import huggingface_hub
    import huggingface_hub.file_download
    import huggingface_hub.utils

    hub: Any = huggingface_hub
    if target.is_file():  # an earlier try brought it, whole and checked: it is renamed only then
        counted(target.stat().st_size)
        return _digest(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partials.mkdir(exist_ok=True)
    expected = _expected(sibling)
    partial = partials / hashlib.sha256(f"{expected or commit}/{sibling.rfilename}".encode()).hexdigest()
    shown = not hub.utils.are_progress_bars_disabled()
    hub.utils.disable_progress_bars()
    try:
        name, type = _repository(source)
        url = hub.hf_hub_url(name, sibling.rfilename, repo_type=type, revision=commit)
        metadata = hub.get_hf_file_metadata(url)
        headers = {**hub.utils.build_hf_headers(), "Accept-Encoding": "identity"}  # sizes and ranges of the file itself
        if urlsplit(metadata.location)[:2] != urlsplit(url)[:2]:
            headers.pop("authorization", None)  # a storage server with a signed address: the token is not for it
        size = sibling.size if sibling.size is not None else metadata.size
        with partial.open("ab") as file:
            start = file.tell()
            if size is not None and start > size:
                file.truncate(0)
                start = 0
            counted(start)
            if start != size:
                writer: Any = _Writer(file, counted)
                hub.file_download.http_get(
                    metadata.location, writer, resume_size=start, headers=headers, expected_size=size
                )
    except HornbookError:
        raise
    except Exception as error:
        raise _explained(source, error) from error
    finally:
        if shown:
            hub.utils.enable_progress_bars()
    found, sha256 = _digest(partial)
    actual = sha256 if expected and len(expected) == 64 else _git_blob(partial)
    if expected and actual != expected:
        partial.unlink()
        raise DownloadError(
            f"{sibling.rfilename} of {source} has the hash {actual}, the hub names {expected}",
            "Pull again; if it stays so, the mirror serves a bad file.",
        )
    settle(partial)
    os.replace(partial, target)
    return found, sha256


def _expected(sibling: Any) -> str:
    """The hub's record: the SHA-256 of a large file, the git blob id (SHA-1) of a small one."""
    lfs = sibling.lfs
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return str(sha256 or sibling.blob_id or "")


def _digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _git_blob(path: Path) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _explained(source: Source, error: Exception) -> Exception:
    """What the hub's library raised, turned into what and remedy. The disk's own errors pass through."""
    from huggingface_hub import errors

    if isinstance(error, OSError) and (error.errno in FULL or error.filename):
        return error
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OfflineError(f"{source}: the hub's library is offline", "Unset HF_HUB_OFFLINE and pull again.")
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(
            f"{source} is gated: its owner asks you to accept terms first",
            "Accept them on its page, then set HF_TOKEN (or run: hf auth login) and pull again.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return DownloadError(
            f"the hub has no repository {source.name}, or it is private",
            "Check the name; for a private one set HF_TOKEN (or run: hf auth login).",
        )
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return DownloadError(
        f"{source} could not be fetched: {first[:300]}",
        "Check the network, HF_ENDPOINT and HF_TOKEN, and pull again: what has come is kept.",
    )
