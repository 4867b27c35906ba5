"""Data sets from a hub on loopback: fetched once, whole or a part, of one commit, into the folder where tasks find them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hornbook.checkpoint import data_sets
from hornbook.errors import OfflineError, StoreError, UsageError
from hornbook.evals.data import Data
from hornbook.settings import Settings
from model_servers import HubHandler, Served, serving

# The library reads its settings when it is imported, so a program of its own does the fetching, as a person's does.
LOAD = """
import json, sys
from hornbook.errors import HornbookError
from hornbook.evals.data import Data
from hornbook.settings import Settings
for given in sys.argv[1:]:
    try:
        print(json.dumps({"folders": [str(one) for one in Data.load(Settings.load(), given).folders]}))
    except HornbookError as error:
        print(json.dumps({"error": type(error).__name__, "what": error.what, "remedy": error.remedy}))
"""
FIRST, SECOND = "1" * 40, "2" * 40
ROW = b'{"question": "Is it?", "passage": "It is.", "label": 1}\n'
FILES = {
    "boolq/validation.jsonl": ROW,
    "copa/validation.jsonl": ROW * 2,
    "README.md": b"---\nlicense: mit\n---\n",
    "super_glue.py": b"raise SystemExit",
    "images/a.png": b"no",
}


@pytest.fixture
def hub() -> Iterator[Served]:
    with serving(HubHandler) as server:
        server.repos["datasets/aps/super_glue"] = {"files": FILES, "sha": FIRST, "card": {"license": "mit"}}
        yield server


def load(hub: Served, home: Path, *given: str, **more: str) -> list[dict[str, Any]]:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_", "HORNBOOK_"))
    }
    kept |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home.parent / "hf"), "HORNBOOK_HOME": str(home)}
    run = subprocess.run(
        [sys.executable, "-c", LOAD, *given], env=kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | more,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def present(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_part_then_the_whole_come_once_and_of_one_commit(hub: Served, home: Path) -> None:
    folder = home / "data" / "aps" / "super_glue"
    (first,) = load(hub, home, "hf:datasets/aps/super_glue:boolq")
    assert first["folders"] == [str(folder), str(home / "data")]
    assert present(folder) == {"boolq/validation.jsonl", "README.md", "hornbook.json"}
    assert Data((home / "data",)).find("boolq", "boolq/validation.jsonl") == [folder / "boolq" / "validation.jsonl"]
    hub.repos["datasets/aps/super_glue"]["sha"] = SECOND  # somebody changes the data set
    asked = len(hub.requests)
    load(hub, home, "hf:datasets/aps/super_glue:boolq")
    assert len(hub.requests) == asked
    load(hub, home, "hf:datasets/aps/super_glue")
    assert hub.count(f"/revision/{FIRST}") == 1
    assert present(folder) == {"boolq/validation.jsonl", "copa/validation.jsonl", "README.md", "hornbook.json"}
    assert (folder / "copa" / "validation.jsonl").read_bytes() == ROW * 2
    about = json.loads((folder / "hornbook.json").read_text("utf-8"))
    assert (about["parts"], about["licence"]) == (["", "boolq"], "mit")
    assert not [path for path in (home / "data" / ".staging").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_data_set_that_is_here_needs_no_network_and_one_that_is_not_says_so(hub: Served, home: Path) -> None:
    load(hub, home, "hf:datasets/aps/super_glue:copa")
    assert data_sets.ensure("hf:datasets/aps/super_glue:copa", home / "data", offline=True).is_dir()
    with pytest.raises(OfflineError, match="hf:datasets/aps/super_glue:boolq is not in"):
        Data.load(Settings.load(offline=True), Path("hf:datasets/aps/super_glue:boolq"))
    (refused,) = load(hub, home, "hf:datasets/aps/super_glue:boolq", HF_HUB_OFFLINE="1")
    assert (refused["error"], "HF_HUB_OFFLINE" in refused["what"]) == ("OfflineError", True)


def test_a_file_that_was_cut_is_fetched_anew(hub: Served, home: Path) -> None:
    load(hub, home, "hf:datasets/aps/super_glue:copa")
    cut = home / "data" / "aps" / "super_glue" / "copa" / "validation.jsonl"
    cut.write_bytes(ROW)
    load(hub, home, "hf:datasets/aps/super_glue:copa")
    assert cut.read_bytes() == ROW * 2


def test_what_cannot_be_fetched_says_why(hub: Served, home: Path) -> None:
    hub.repos["datasets/org/evil"] = {"files": {"../../evil.jsonl": ROW}, "sha": FIRST}
    hub.repos["datasets/org/script"] = {"files": {"load.py": b"raise SystemExit"}, "sha": FIRST}
    names = ["aps/super_glue:rte", "org/none", "org/evil", "org/script"]
    errors = load(hub, home, *(f"hf:datasets/{name}" for name in names))
    assert [error["error"] for error in errors] == ["UsageError", "DownloadError", "DownloadError", "DownloadError"]
    says = ["It holds: boolq, copa.", "Check the name", "broken or hostile", "another source"]
    assert all(part in error["remedy"] for part, error in zip(says, errors, strict=True))
    assert not list(home.rglob("evil.jsonl"))


@pytest.mark.parametrize(
    "text", ["hf:aps/super_glue", "hf:datasets/super_glue", "hf:datasets/a/../b", "hf:datasets/a/b:../c"]
)
def test_what_is_no_name_of_a_data_set_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no data set of the hub"):
        data_sets.parse(text)


def test_a_record_that_is_damaged_is_named(home: Path) -> None:
    folder = home / "data" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "hornbook.json").write_text('{"parts": 3}')
    with pytest.raises(StoreError, match="not the record of a data set"):
        data_sets.ensure("hf:datasets/a/b", home / "data", offline=True)
