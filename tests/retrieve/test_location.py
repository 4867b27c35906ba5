"""One index for one set of paths, however they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from hornbook.retrieve.location import index_folder
from hornbook.settings import Settings


def test_the_same_paths_in_any_spelling_and_order_share_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = Settings.load(home=tmp_path / "home")
    one = index_folder(["a", "b"], settings)
    assert one == index_folder([tmp_path / "b/", "./a/../a", "a"], settings)
    assert one.parent == settings.indexes
    assert one != index_folder(["a"], settings)
    assert not one.exists()


def test_the_name_is_safe_and_readable(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path)
    assert index_folder([tmp_path / "../x/我的 文件: 1"], settings).name.startswith("我的-文件-1-")
    assert index_folder(["/"], settings).name.startswith("index-")
