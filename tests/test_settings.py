"""Settings of the environment: what is empty says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from hornbook.settings import Settings, default_home


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """HORNBOOK_HOME= once put the store into whatever folder the command was typed in."""
    monkeypatch.setenv("HORNBOOK_HOME", "")
    monkeypatch.setenv("HORNBOOK_THREADS", "")
    settings = Settings.load()
    assert settings.home == default_home() != Path() and settings.threads == 0
