"""10,000 spoilt model files: each opens and reads whole, or raises an error by name. No crash, no hang, little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SEED = 20_240
CASES = 5_000

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited the Linux way")


@pytest.mark.parametrize("format", ["gguf", "safetensors"])
def test_each_of_5000_mutated_files_is_read_or_refused_by_name(format: str, tmp_path: Path) -> None:
    program = Path(__file__).with_name("mutated_files.py")
    command = [sys.executable, str(program), format, str(SEED), "0", str(CASES), str(tmp_path)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120)
    shown = f"{' '.join(command)}\nended with {child.returncode}\n{child.stderr[-3000:]}"
    assert child.returncode == 0, shown  # negative: killed by a signal, 14 (SIGALRM) for a file that took too long
    outcomes = json.loads(child.stdout)
    assert outcomes["opened"] + outcomes["ModelFileError"] + outcomes["UnsupportedModel"] == CASES
    # The mutations bite, in many places, and do not only destroy.
    assert outcomes["opened"] > CASES // 20 and outcomes["ModelFileError"] > CASES // 2, outcomes
    assert outcomes["UnsupportedModel"] > 10 and outcomes["messages"] > 50, outcomes
