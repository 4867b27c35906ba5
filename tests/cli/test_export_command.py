"""export as a person runs it: the file, the figures, the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hornbook.checkpoint import load


@pytest.fixture
def run(run_here):  # type: ignore[no-untyped-def]
    return run_here


def test_a_folder_becomes_a_file_and_a_folder_again(run, tiny_llm_path: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run("export", str(tiny_llm_path), "--to", "gguf", "-o", str(tmp_path / "m.gguf"))
    assert (code, out) == (0, "")
    for said in (str(tmp_path / "m.gguf"), "F16", "same first choice, KL 0.000", "compared with"):
        assert said in err
    code, out, _ = run("export", str(tmp_path / "m.gguf"), "--to", "hf", "-o", str(tmp_path / "m"), "--json")
    said = json.loads(out)
    assert code == 0 and said["quantisation"] == "float32" and said["drift"]["top1"] == 1.0
    assert load(tmp_path / "m", device="cpu").chat_template is not None


def test_a_copy_that_drifts_ends_in_one_and_leaves_nothing(run, tiny_llm_path: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    output = str(tmp_path / "m.gguf")
    code, out, err = run("export", str(tiny_llm_path), "--to", "gguf", "-q", "q4_0", "--max-kl", "0.001", "-o", output)
    assert (code, out) == (1, "")
    assert "the copy drifts: " in err and "Q4_0 may have" in err and "Nothing was written" in err
    assert not list(tmp_path.iterdir())


def test_wrong_use_ends_in_two(run, tiny_llm_path: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source, output = str(tiny_llm_path), str(tmp_path / "m")
    assert run("export", source, "--to", "gguf", "-q", "Q9", "-o", output)[0] == 2
    assert run("export", source, "--to", "onnx", "-o", output)[0] == 2
    assert run("export", str(tmp_path / "absent"), "--to", "hf", "-o", output)[0] == 2
    (tmp_path / "m").mkdir()
    code, _, err = run("export", source, "--to", "hf", "-o", output)
    assert code == 2 and "is there already" in err
