"""``hornbook doctor``: what is installed, what this machine offers, what works, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from hornbook import __version__
from hornbook.cli import console
from hornbook.errors import HornbookError
from hornbook.settings import Settings

LIBRARIES = (
    *("torch", "numpy", "tokenizers", "huggingface_hub"),
    *("pypdfium2", "python-docx", "python-pptx", "lxml", "PyStemmer"),
)


class Check(NamedTuple):
    """One line of the report. ``state``: ok, note (works, could be better) or bad (something will not work)."""

    name: str
    state: Literal["ok", "note", "bad"]
    found: str
    remedy: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
    self_test: Annotated[
        bool, typer.Option(help="Parse, index, search and, where the model is here, generate.")
    ] = True,
) -> None:
    """Check this installation: versions, device, kernels, model store, disk, and a self-test of the whole path."""
    settings = Settings.load()
    checks = [*_installed(), *_device(settings), *_store(settings), *_disk(settings)]
    if self_test:
        checks += [
            _timed("documents", _documents),
            _timed("sandbox", _sandbox),
            _timed("model", lambda: _model(settings)),
        ]
    bad = [check for check in checks if check.state == "bad"]
    if as_json:
        console.print_json({"ok": not bad, "checks": [check._asdict() for check in checks]})
    else:
        rows = [(check.state, check.name, check.found) for check in checks]
        for check, line in zip(checks, console.table(rows).splitlines(), strict=True):
            print(line)
            if check.remedy:
                print(f"      {check.remedy}")
    if bad:
        raise HornbookError(f"{len(bad)} of {len(checks)} checks failed: {', '.join(check.name for check in bad)}")


def _installed() -> list[Check]:
    checks = [Check("hornbook", "ok", f"{__version__} on Python {platform.python_version()}, {platform.platform()}")]
    missing = []
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    checks.append(Check("libraries", "ok", ", ".join(versions)))
    if missing:
        checks.append(Check("missing", "bad", ", ".join(missing), "pip install --force-reinstall hornbook"))
    return checks


def _device(settings: Settings) -> list[Check]:
    import torch

    threads = f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        found = f"cuda: {name}, {console.bytes_text(torch.cuda.get_device_properties(0).total_memory)}"
    elif torch.backends.mps.is_available():
        found = "mps: Apple GPU"
    else:
        found = f"cpu: {torch.backends.cpu.get_cpu_capability()}, {threads}"
    checks = [Check("device", "ok", f"{found} (HORNBOOK_DEVICE={settings.device})")]
    return [*checks, _kernels(settings)]


def _kernels(settings: Settings) -> Check:
    from hornbook.kernels.library import library, what_to_do, why_not

    try:
        kernels = library(settings)
    except HornbookError as error:
        return Check("kernels", "bad", error.what, error.remedy)
    if kernels is None:
        found = f"no native kernels, torch computes everything: {why_not(settings)}"
        return Check("kernels", "note", found, what_to_do(settings))
    threads = f"{kernels.threads} thread" + "s" * (kernels.threads != 1)
    asked = f"HORNBOOK_THREADS={settings.threads}" if settings.threads else "HORNBOOK_THREADS sets them"
    return Check("kernels", "ok", f"native, {kernels.isa}, {threads} ({asked})")


def _store(settings: Settings) -> list[Check]:
    from hornbook.checkpoint.store import Store

    home = settings.home
    checks = []
    try:
        tempfile.TemporaryFile(dir=_nearest(home)).close()  # tried, not asked for: permission bits are not all
        checks.append(Check("home", "ok", str(home)))
    except OSError as error:
        found = f"{home} cannot be written: {error.strerror}"
        checks.append(Check("home", "bad", found, "Set HORNBOOK_HOME to a folder of your own."))
    try:
        entries = Store(settings).list()
    except HornbookError as error:
        return [*checks, Check("models", "bad", error.what, error.remedy)]
    if entries:
        size = sum(entry.size for entry in entries)
        found = ", ".join(entry.name for entry in entries) + f" ({console.bytes_text(size)})"
        checks.append(Check("models", "ok", found))
    else:
        checks.append(Check("models", "note", f"none in {settings.models}", f"hornbook pull {settings.model}"))
    if settings.offline:
        checks.append(Check("network", "note", "offline: nothing will be pulled (HORNBOOK_OFFLINE)"))
    return checks


def _disk(settings: Settings) -> list[Check]:
    free = shutil.disk_usage(_nearest(settings.home)).free
    low = free < 2e9
    remedy = "The default models need about 0.5 GB while they are pulled." if low else ""
    return [Check("disk", "note" if low else "ok", f"{console.bytes_text(free)} free", remedy)]


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _timed(name: str, test: Callable[[], str]) -> Check:
    began = time.perf_counter()
    try:
        found = test()
    except _NotHere as missing:
        return Check(name, "note", str(missing), missing.remedy)
    except HornbookError as error:
        return Check(name, "bad", error.what, error.remedy)
    except Exception as error:
        return Check(name, "bad", f"{type(error).__name__}: {error}", "hornbook doctor --debug shows where.")
    return Check(name, "ok", f"{found}, {time.perf_counter() - began:.1f} s")


class _NotHere(Exception):
    """The test needs what this machine does not have, a model or a sandbox: no failure."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


def _documents() -> str:
    """Parse and search a file of our own in a folder that is thrown away; no model is needed for BM25."""
    from hornbook.retrieve.chunk import chunks
    from hornbook.retrieve.parse import parse

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "self-test.md")
        path.write_text("# Self-test\n\nThe hornbook is made of oak.\n\n角书是一种识字板。\n", "utf-8")
        document = parse(path)
        passages = list(chunks(document, len))
        if not passages or any(document.text[p.start : p.end] != p.text for p in passages):
            raise HornbookError("a parsed file does not keep its spans", "Reinstall Hornbook.")
    return f"parsed and cut into {len(passages)} passages"


def _sandbox() -> str:
    """Let a program try to leave, as happens before an evaluation runs what a model wrote."""
    from hornbook.errors import SandboxError
    from hornbook.evals.sandbox.sandbox import Sandbox

    try:
        box = Sandbox.find()
    except SandboxError as error:
        raise _NotHere(error.what, error.remedy) from None
    return f"{box.wall}: programs of a model reach no network, no file and no process of others, and leave none behind"


def _model(settings: Settings) -> str:
    from hornbook.checkpoint.store import Store
    from hornbook.errors import ModelNotFound
    from hornbook.llm import load
    from hornbook.types import LLM, SamplingParams

    try:
        Store(settings).get(settings.model)
    except ModelNotFound:
        raise _NotHere(f"{settings.model} is not in the store", f"hornbook pull {settings.model}") from None
    model = load(settings.model, settings=settings)
    if not isinstance(model, LLM):
        raise HornbookError(f"{settings.model} does not generate text", "Set HORNBOOK_MODEL to a language model.")
    began = time.perf_counter()
    done = model.generate(["The capital of France is"], SamplingParams(max_tokens=16, ignore_eos=True))[0]
    speed = done.usage.completion_tokens / (time.perf_counter() - began)
    print(f"  {settings.model}: The capital of France is{done.text!r}", file=sys.stderr)
    return f"{settings.model} generates {speed:.0f} tokens/s"
