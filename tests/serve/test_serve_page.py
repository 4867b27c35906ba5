"""docs/serve.md is true: its recipes run, with the clients that they name, against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from serving import Server

from hornbook.serve.options import PORT

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text("utf-8")
ADDRESS = f"http://127.0.0.1:{PORT}"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "leaves.txt").write_text("The lace plant makes holes in its leaves while they grow.\n", "utf-8")
    return tmp_path


def test_the_page_names_the_address_that_is_the_default() -> None:
    assert ADDRESS in PAGE and set(re.findall(r"127\.0\.0\.1:(\d+)", PAGE)) == {str(PORT)}
    assert len(blocks("python")) >= 5 and len(blocks("bash")) >= 2


def test_the_recipes_in_python_run(server: Server, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks("python"):
        first = block.split()[1].split(".")[0]
        if first in ("langchain_openai", "llama_index"):
            try:
                __import__(first)
            except ImportError:  # they are large, and optional
                continue
        elif first in ("openai", "ollama"):
            pytest.importorskip(first)
        exec(compile(block.replace(ADDRESS, server.url), "docs/serve.md", "exec"), names)
    said = capsys.readouterr().out
    assert "['city', 'population']" in said and "2 vectors of 384" in said and "smollm2:135m" in said


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_the_recipes_for_a_shell_run(server: Server, place: Path) -> None:
    said = []
    for block in blocks("bash"):
        for command in re.split(r"\n(?=curl)", block.strip()):
            told = command.replace(ADDRESS, server.url).replace("curl -sf", "curl -sfN --noproxy '*' --max-time 60")
            done = subprocess.run(["bash", "-c", told], capture_output=True, text=True, timeout=90)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            said.append(done.stdout)
    assert '"chat.completion"' in said[0] and "lace plant" in said[-1]
    with server.client() as client:
        assert client.delete("/kb/plants").status_code == 204
