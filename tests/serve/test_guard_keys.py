"""Keys: shown once, hashed at rest, revoked at once, whole after anything; and the verb that makes them."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hornbook.errors import StoreError, UsageError
from hornbook.serve.guard.keys import Keys, bearer
from hornbook.settings import Settings


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(Settings(home=tmp_path / "home"))


def test_a_key_has_256_random_bits_and_is_found_again(keys: Keys) -> None:
    secret = keys.add("phone")
    assert re.fullmatch(r"hb-[A-Za-z0-9_-]{43}", secret)  # 43 x 6 bits hold 256
    found = keys.find(secret)
    assert found is not None and found.name == "phone"
    assert keys.find(secret[:-1]) is None and keys.find("") is None and keys.find("hb-\ud800") is None
    assert keys.add("laptop") != secret


def test_what_is_on_the_disk_cannot_be_turned_back_and_is_the_owners_alone(keys: Keys) -> None:
    secret = keys.add("phone")
    text = keys.path.read_text()
    assert secret not in text and secret.removeprefix("hb-") not in text
    for path in keys.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(keys.path.parent.stat().st_mode) == 0o700


def test_a_hash_is_no_key(keys: Keys) -> None:
    keys.add("phone")
    assert keys.find(keys.all()[0].hash) is None
    assert keys.find(keys.all()[0].hash.removeprefix("sha256:")) is None


def test_a_running_server_sees_keys_made_and_revoked_by_another_process_at_once(keys: Keys) -> None:
    server = Keys(Settings(home=keys.path.parents[1]))
    assert server.find("hb-nothing") is None  # it has read that there is no file
    secrets = [keys.add(f"key {i}") for i in range(20)]
    assert all(server.find(secret) for secret in secrets)
    for i, secret in enumerate(secrets):
        keys.revoke(f"key {i}")
        assert server.find(secret) is None


def test_a_name_is_used_once_and_can_be_read(keys: Keys) -> None:
    keys.add(" 手机 ")
    with pytest.raises(UsageError, match="there is a key named '手机'"):
        keys.add("手机")
    for unfit in ("", "  ", "a\nb", "x" * 65, "\x1b[31m"):
        with pytest.raises(UsageError, match="printable"):
            keys.add(unfit)
    with pytest.raises(UsageError, match="no key named 'phone'") as caught:
        keys.revoke("phone")
    assert "手机" in caught.value.remedy


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"format": 2, "keys": []}', '{"format": 1, "keys": [{"name": "x"}]}',
     '{"format": 1, "keys": [{"name": "x", "hash": "sha256:", "created": ""}]}',
     '{"format": 1, "keys": [{"name": "x", "hash": "sha256:é' + "0" * 63 + '", "created": ""}]}'],
)  # fmt: skip
def test_a_damaged_file_lets_nobody_in_and_is_not_overwritten(keys: Keys, damage: str) -> None:
    secret = keys.add("phone")
    keys.path.write_text(damage, encoding="utf-8")
    with pytest.raises(StoreError) as caught:
        keys.find(secret)
    assert str(keys.path) in caught.value.what and caught.value.remedy
    with pytest.raises(StoreError):
        keys.add("laptop")
    assert keys.path.read_text(encoding="utf-8") == damage


def test_a_file_that_is_gone_lets_nobody_in(keys: Keys) -> None:
    secret = keys.add("phone")
    assert keys.find(secret)
    keys.path.unlink()
    assert keys.find(secret) is None


def test_the_last_use_is_written_once_a_minute_and_never_brings_a_revoked_key_back(keys: Keys) -> None:
    secret = keys.add("phone")
    other = keys.add("laptop")
    server = Keys(Settings(home=keys.path.parents[1]))
    phone, laptop = server.find(secret), server.find(other)
    assert phone and laptop
    assert server.used(phone) and server.used(laptop)
    keys.revoke("laptop")
    server.write_used()
    (kept,) = keys.all()
    assert kept.name == "phone" and kept.last_used and kept.last_used.endswith("Z")
    again = server.find(secret)
    assert again and not server.used(again)  # the same minute, or the next one at worst


def test_many_at_once_lose_no_key(keys: Keys) -> None:
    homes = [Keys(Settings(home=keys.path.parents[1])) for _ in range(8)]
    threads = [threading.Thread(target=home.add, args=(f"key {i}",)) for i, home in enumerate(homes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in keys.all()) == [f"key {i}" for i in range(8)]
    assert {path.name for path in keys.path.parent.iterdir()} <= {"keys.json", "keys.lock"}


def test_a_write_that_fails_leaves_the_old_file(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = keys.add("phone")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="no room left"):
        keys.add("laptop")
    assert [key.name for key in keys.all()] == ["phone"] and keys.find(secret)
    assert {path.name for path in keys.path.parent.iterdir()} <= {"keys.json", "keys.lock"}


def test_every_stored_hash_is_compared_in_constant_time(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    first = keys.add("first")
    keys.add("second"), keys.add("third")
    import hmac

    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(b) or a == b)
    assert keys.find(first)
    assert len(compared) == 3  # not only up to the one that fits


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("Bearer hb-x", "hb-x"),
        ("bearer  hb-x ", "hb-x"),
        ("Basic aGI6eA==", None),
        ("hb-x", None),
        ("Bearer", None),
        ("", None),
        (None, None),
    ],
)
def test_bearer_is_read_as_http_says(header: str | None, key: str | None) -> None:
    assert bearer(header) == key


def _hornbook(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HORNBOOK_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "hornbook", *words], env=environment, capture_output=True, text=True, timeout=60
    )


def test_the_verb_shows_a_key_once_and_only_the_key_on_stdout(tmp_path: Path) -> None:
    made = _hornbook("key", "add", "phone", home=tmp_path)
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert Keys(Settings(home=tmp_path)).find(secret)
    assert secret not in made.stderr and "shown only now" in made.stderr

    listed = _hornbook("key", "list", "--json", home=tmp_path)
    assert [key["name"] for key in json.loads(listed.stdout)["keys"]] == ["phone"]
    assert secret not in listed.stdout and "sha256" not in listed.stdout

    again = _hornbook("key", "add", "phone", home=tmp_path)
    assert again.returncode == 2 and "there is a key named 'phone'" in again.stderr

    assert _hornbook("key", "revoke", "phone", home=tmp_path).returncode == 0
    assert Keys(Settings(home=tmp_path)).find(secret) is None
    nobody = _hornbook("key", "revoke", home=tmp_path)
    assert nobody.returncode == 2 and "needs a name" in nobody.stderr
