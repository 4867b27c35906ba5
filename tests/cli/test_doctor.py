"""The doctor finds what is there, says what is missing, and fails only for what will not work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hornbook.cli.doctor import doctor
from hornbook.errors import HornbookError


def report(capsys: pytest.CaptureFixture[str], **options: bool) -> dict[str, dict[str, str]]:
    doctor(as_json=True, **options)
    data = json.loads(capsys.readouterr().out)
    return {check["name"]: check for check in data["checks"]}


def test_an_empty_home_is_sound_and_says_what_to_pull(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = report(capsys, self_test=True)
    assert not [name for name, check in checks.items() if check["state"] == "bad"]
    assert checks["documents"]["state"] == "ok"
    assert checks["models"]["remedy"] == checks["model"]["remedy"] == "hornbook pull smollm2:135m"


def test_a_machine_that_cannot_contain_programs_is_told_what_would_help(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hornbook.evals.sandbox import probe
    from hornbook.evals.sandbox.sandbox import Sandbox

    assert report(capsys, self_test=True)["sandbox"]["state"] in ("ok", "note")
    monkeypatch.setattr(
        probe, "best", lambda: Sandbox("restricted", frozenset({"killing"}), {"bubblewrap": "not here"})
    )
    line = report(capsys, self_test=True)["sandbox"]
    assert line["state"] == "note" and "network" in line["found"] and "bubblewrap: not here" in line["found"]
    assert line["remedy"]


def test_a_home_that_cannot_be_written_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HORNBOOK_HOME", "/proc/hornbook")
    with pytest.raises(HornbookError, match="home"):
        doctor(as_json=False, self_test=False)
    assert "Set HORNBOOK_HOME" in capsys.readouterr().out


def test_it_names_the_device_and_the_threads(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = report(capsys, self_test=False)
    assert checks["device"]["found"].split(":")[0] in ("cpu", "cuda", "mps")
    assert "model" not in checks
