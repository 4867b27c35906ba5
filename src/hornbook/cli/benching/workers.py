"""The programs under measurement, each a process that waits while another works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError, UsageError

PEERS = Path(__file__).parents[4] / "benchmarks" / "peers"  # of a source checkout; an installed package has none


class WorkerFailed(HornbookError):
    """A program under measurement ended, or could not do what it was asked to."""


def command_of(peer: str) -> list[str]:
    """The command of "llamacpp" and the like, which lie in benchmarks/peers, or of a program given by its path."""
    script = Path(peer) if peer.endswith(".py") else PEERS / f"{peer}.py"
    if not script.is_file():
        known = ", ".join(sorted(path.stem for path in PEERS.glob("*.py")))
        raise UsageError(
            f"there is no program {peer} to measure against",
            f"Known are {known}, or the path of another."
            if known
            else "The programs are in benchmarks/peers of Hornbook's source: give the path of one.",
        )
    return [sys.executable, "-P", str(script)]  # its own folder is not searched: it may bear the name of its library


class Worker:
    """One program with the model loaded: ``worker(measure="prefill", tokens=512)`` -> its answer.

    Raises WorkerFailed in the program's words.
    """

    def __init__(self, command: list[str], model: Path, threads: int) -> None:
        self.command = command
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        # threads that wait for each other sleep, as in the command itself: a machine is seldom quiet
        env = {"GOMP_SPINCOUNT": "2000", **os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, env=env
        )
        try:
            self.about = self(load=str(model.absolute()), threads=threads)
        except BaseException:
            self.close()
            raise
        self.name: str = self.about["name"]

    def __call__(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            answer = json.loads(line)
        except (OSError, ValueError) as error:
            raise WorkerFailed(f"{self.command[-1]} ended: {self._last_words()}", "Run it by itself.") from error
        if "error" in answer:
            raise WorkerFailed(f"{self.command[-1]}: {answer['error']}")
        assert isinstance(answer, dict)
        return answer

    def _last_words(self) -> str:
        self._complaints.seek(0)
        lines = self._complaints.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def close(self) -> None:
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
                self._process.wait(5)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._complaints.close()
