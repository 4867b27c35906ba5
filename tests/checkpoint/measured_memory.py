"""benchmarks/memory.py, as tests call it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"


def child(*jobs: dict[str, Any]) -> list[dict[str, Any]]:
    """What ``jobs`` need, measured one after another in a process of their own."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "child", json.dumps(jobs)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def foreseen(job: dict[str, Any]) -> dict[str, Any]:
    """What ``hornbook plan`` says of a job "answer"."""
    spec = importlib.util.spec_from_file_location("benchmarks_memory", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    said: dict[str, Any] = script.foreseen(job)
    return said
