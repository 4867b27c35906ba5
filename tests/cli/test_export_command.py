"""export as a person runs it: the file, the figures, the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hornbook
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


def test_a_copy_is_asked_beside_its_model_and_not_kept_where_it_lost(  # type: ignore[no-untyped-def]
    run, tiny_llm_path: Path, tmp_path: Path, home: Path
) -> None:
    words = sorted(set((Path(__file__).parents[2] / "LICENSE").read_text("utf-8").split()))[:1600]
    pairs = list(zip(words[::2], words[1::2], strict=False))
    with hornbook.load(tiny_llm_path, device="cpu") as model:
        scores = model.score([("Question: Which?\nAnswer:", f" {word}") for pair in pairs for word in pair])
    gaps = [(scores[2 * at].logprob - scores[2 * at + 1].logprob, pair) for at, pair in enumerate(pairs)]
    nearest = sorted(gaps, key=lambda one: abs(one[0]))[:60]  # all of which the model answers, and only just
    rows = [{"question": "Which?", "choices": list(pair), "answer": int(gap < 0)} for gap, pair in nearest]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tmp_path / "out").mkdir()
    asked = ["--evaluate", str(tmp_path / "mine.jsonl"), "--fail-if-worse"]
    common = ["export", str(tiny_llm_path), "--to", "gguf", "--max-kl", "9", "--min-top1", "0"]

    code, _, err = run(*common, "-q", "F32", "-o", str(tmp_path / "out" / "same.gguf"), *asked)
    assert code == 0 and "mine acc 100.00 -> 100.00 ± 0.00 (60 items)" in err
    code, _, err = run(*common, "-q", "Q4_0", "-o", str(tmp_path / "out" / "lossy.gguf"), *asked)
    assert code == 1 and "lossy.gguf is worse than" in err and "Nothing was written" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["same.gguf"]
    code, out, _ = run(*common, "-q", "Q4_0", "-o", str(tmp_path / "out" / "lossy.gguf"), *asked[:2], "--json")
    assert code == 0 and json.loads(out)["evaluation"][0]["after"] < 1
    assert run(*common, "-o", str(tmp_path / "x.gguf"), "--fail-if-worse")[0] == 2
