"""Which files are read, in which order, and what is said of the others."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hornbook.errors import UsageError
from hornbook.retrieve.parse import parse
from hornbook.retrieve.walk import Found, Skipped, walk


def write(path: Path, content: bytes = b"words\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(*paths: Path) -> list[Path]:
    return [item.path for item in walk(paths) if isinstance(item, Found)]


def skipped(*paths: Path) -> dict[str, Skipped]:
    return {item.path.name: item for item in walk(paths) if isinstance(item, Skipped)}


def test_files_come_by_name_and_the_paths_as_given(tmp_path: Path) -> None:
    names = ["b.txt", "a/z.txt", "a/b/c.txt", "c/a.txt", "10.txt", "文.txt"]
    for name in reversed(names):
        write(tmp_path / name)
    expected = ["10.txt", "b.txt", "文.txt", "a/z.txt", "a/b/c.txt", "c/a.txt"]
    assert found(tmp_path) == found(tmp_path) == [tmp_path / name for name in expected]
    assert found(tmp_path / "c", tmp_path / "a") == [tmp_path / n for n in ["c/a.txt", "a/z.txt", "a/b/c.txt"]]


@pytest.mark.parametrize("folder", [".git", "node_modules", "__pycache__", "venv", ".venv", "site-packages"])
def test_folders_that_nobody_wrote_are_skipped_and_said(folder: str, tmp_path: Path) -> None:
    write(tmp_path / folder / "a.txt")
    kept = write(tmp_path / "b.txt")
    assert found(tmp_path) == [kept]
    assert skipped(tmp_path)[folder].ordinary


def test_a_virtual_environment_is_known_under_any_name(tmp_path: Path) -> None:
    write(tmp_path / "mine" / "pyvenv.cfg")
    assert found(tmp_path) == [] and "packages" in skipped(tmp_path)["mine"].reason


def test_a_hidden_file_is_read_only_when_it_is_named(tmp_path: Path) -> None:
    hidden = write(tmp_path / ".notes.txt")
    assert found(tmp_path) == [] and skipped(tmp_path)[".notes.txt"].reason == "hidden"
    assert found(hidden) == [hidden]
    assert found(write(tmp_path / ".folder" / "a.txt").parent) == [tmp_path / ".folder" / "a.txt"]


def test_each_real_file_comes_once_whatever_links_to_it(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    real = write(root / "a.txt")
    write(outside / "secret.txt")
    (root / "b.txt").symlink_to(real)
    (root / "c").mkdir()
    (root / "c" / "up").symlink_to(root, target_is_directory=True)
    (root / "c" / "self").symlink_to(root / "c" / "self")
    (root / "gone.txt").symlink_to(root / "nowhere")
    (root / "out").symlink_to(outside, target_is_directory=True)
    os.link(real, root / "hard.txt")
    assert found(root) == [real] == found(root, root, real)
    reasons = skipped(root)
    assert reasons["out"].reason == "link to a folder outside"
    assert reasons["gone.txt"].reason == reasons["self"].reason == "broken link"


def test_pipes_and_sockets_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    before = os.getcwd()
    os.chdir(tmp_path)  # the name of a socket has at most about 100 characters
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.txt")
            assert found(tmp_path) == []
    finally:
        os.chdir(before)
    assert all(name in skipped(tmp_path) for name in ("pipe.txt", "socket.txt"))
    assert "device" in skipped(Path("/dev/null"))["null"].reason


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "cannot be read" in skipped(tmp_path)["a.txt"].reason


def test_names_that_say_nothing_are_judged_by_their_bytes(tmp_path: Path) -> None:
    words = [write(tmp_path / name) for name in ("README", "notes.2024")]
    write(tmp_path / "film.mp4", b"\0\1\2" * 100)
    write(tmp_path / "program", b"\x7fELF\0\0")
    write(tmp_path / "old.doc", b"words")
    assert found(tmp_path) == words and all(parse(path).text == "words" for path in words)
    reasons = {name: item.reason for name, item in skipped(tmp_path).items()}
    assert reasons["film.mp4"] == "format not supported (.mp4)"
    assert reasons["program"] == "binary file"
    assert reasons["old.doc"] == "old Word format is not supported: save it as .docx"


def test_a_file_over_the_limit_is_said_with_both_figures(tmp_path: Path) -> None:
    with open(tmp_path / "big.txt", "wb") as file:
        file.truncate(73 << 20)
    assert skipped(tmp_path)["big.txt"].reason == "73.0 MB, the limit is 64 MB: raise --max-file-mb"


def test_a_missing_path_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="does not exist"):
        walk([tmp_path, tmp_path / "missing"])
    with pytest.raises(UsageError, match="no path"):
        walk([])


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    try:
        path = write(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert found(tmp_path) == [path] and parse(path).text == "words"


def test_very_deep_folders_are_walked(tmp_path: Path) -> None:
    deep = str(tmp_path)
    for _ in range(600):  # step by step, and no deeper: the standard library makes and removes folders by recursion
        deep += "/d"
        os.mkdir(deep)
    path = write(Path(deep, "a.txt"))
    assert found(tmp_path) == [path]
