"""One wheel through the person's own pip: their index, mirror, proxy, certificates and credentials all hold.

    python -m pip download --no-deps --only-binary :all: NAME==VERSION

``--only-binary`` matters: to ask a source archive for its metadata, pip would run code from it. Nothing is installed.
pip resumes a broken connection by itself; across processes the unit of resuming is a wheel.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hornbook.checkpoint.disk import FULL
from hornbook.errors import DownloadError, StoreError

# pip must not outlive us (kill -9, a closed terminal): it ends when the pipe that we hold as its stdin ends
_TETHERED = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
_SIZE = re.compile(r"Downloading \S+ \((?P<number>[\d.]+) (?P<unit>bytes|[kMG]B)\)")
_UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
_NETWORK = (
    "NewConnectionError",
    "Connection",
    "timed out",
    "Temporary failure",
    "ProxyError",
    "SSLError",
    "Retrying (",
)


def download(requirement: str, into: Path, on_bytes: Callable[[int, int], None]) -> Path:
    """Let pip fetch one wheel into ``into`` (made here, must not exist) and return its path.

    ``on_bytes(done, total)`` is called a few times a second; total is 0 until pip has said it.
    Raises DownloadError (not found, network, broken off, wrong hash) and StoreError (disk full, not writable).
    """
    scratch = into / "tmp"
    scratch.mkdir(parents=True)
    log = into / "pip.log"
    command = [*_pip(), "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(into / "wheel"), requirement]
    environment = {**os.environ, **_bundled_pip(), "PIP_REQUIRE_VIRTUALENV": "0", "PYTHONIOENCODING": "utf-8"}
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))  # so that a kill leaves nothing elsewhere
    with log.open("wb") as output:
        pip = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment)
        try:
            while pip.poll() is None:
                on_bytes(_largest(into), _announced(log))
                time.sleep(0.1)
        finally:
            pip.kill()
            pip.wait()
            if pip.stdin:
                pip.stdin.close()
    said = log.read_text("utf-8", "replace")
    wheels = sorted((into / "wheel").glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        raise _explained(requirement, said, pip.returncode)
    on_bytes(wheels[0].stat().st_size, wheels[0].stat().st_size)
    return wheels[0]


def _pip() -> list[str]:
    return [sys.executable, "-P", "-c", _TETHERED]  # -P: a pip.py in the current folder is not pip


def _bundled_pip() -> dict[str, str]:
    """Environments made by uv have no pip; Python's own ensurepip then lends the one that it carries."""
    if importlib.util.find_spec("pip"):
        return {}
    spec = importlib.util.find_spec("ensurepip")
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    wheels = sorted(wheel for place in places for wheel in (place / "_bundled").glob("pip-*.whl"))
    if not wheels:
        raise DownloadError(
            f"pip is missing from {sys.prefix}, and Hornbook fetches wheels through it",
            "Install it (uv pip install pip, or python -m ensurepip) and pull again.",
        )
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(wheels[-1]), os.environ.get("PYTHONPATH", "")]))}


def _largest(folder: Path) -> int:
    """Bytes of the biggest wheel in the folder: pip writes it in its scratch folder and copies it when it is whole."""
    largest = 0
    for place, _, names in os.walk(folder):  # which passes over a folder that pip removes meanwhile
        for name in names:
            if name.endswith(".whl"):
                with contextlib.suppress(OSError):
                    largest = max(largest, os.stat(os.path.join(place, name)).st_size)
    return largest


def _announced(log: Path) -> int:
    found = _SIZE.search(log.read_text("utf-8", "replace"))
    return int(float(found["number"]) * _UNITS[found["unit"]]) if found else 0


def _explained(requirement: str, said: str, code: int) -> DownloadError | StoreError:
    """pip's output turned into one line of what and one of what to do."""
    lines = [re.sub(r"//[^/\s@]+@", "//***@", line.strip()) for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")] or lines[-1:]
    last = errors[-1][:300] if errors else f"pip ended with {code} and said nothing"
    if any(f"[Errno {number}]" in said for number in FULL):
        return StoreError(
            f"no room left on the disk while {requirement} was fetched", "Free some space and pull again."
        )
    if "DO NOT MATCH THE HASHES" in said:
        return DownloadError(
            f"{requirement}: what came does not have the SHA-256 that the index names",
            "Pull again; if it stays so, the index or mirror that pip uses serves a bad file.",
        )
    if any(sign in said for sign in _NETWORK):
        return DownloadError(
            f"{requirement} could not be fetched: {last}",
            "Check the network and pip's settings (pip config list), and pull again: finished wheels are kept.",
        )
    return DownloadError(
        f"pip found no wheel for {requirement}: {last}",
        "Check the name and the version, and the index that pip uses (pip config list).",
    )
