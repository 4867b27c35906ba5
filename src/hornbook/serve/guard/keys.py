"""Bearer keys: made from 256 random bits, shown once, kept as hashes in HOME/server/keys.json.

    {"format": 1, "keys": [{"name": "phone", "hash": "sha256:…", "created": "2026-…Z", "last_used": null}]}

The hash is plain SHA-256. Salt and a slow hash (scrypt, Argon2) protect secrets that people choose, of which there
are few enough to try; a key has 2^256 equally likely values, so trying them against a stolen file is no attack, and
a fast hash keeps a flood of wrong keys cheap to refuse (NIST SP 800-63B section 5.1.2.2 asks for salt and stretching
below 112 bits only). The file is readable by its owner only, is replaced whole under a lock, and a running server
looks at it with every request, so a key that was revoked is refused at once. A file that cannot be read lets nobody in.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import filelock

from hornbook.checkpoint import disk
from hornbook.errors import StoreError, UsageError
from hornbook.settings import Settings

PREFIX = "hb-"
NAME_LENGTH = 64
_FORMAT = 1
_LOCK_SECONDS = 10.0
_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Key:
    """What is kept of a key: times are UTC, ISO 8601; ``last_used`` is right to a minute."""

    name: str
    hash: str
    created: str
    last_used: str | None = None


class Keys:
    """The keys of one HORNBOOK_HOME. Safe for threads, and beside other processes that add and revoke."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.home.expanduser().absolute() / "server" / "keys.json"
        self._guard = threading.Lock()
        self._stamp: _Stamp | None = None
        self._known: tuple[Key, ...] = ()
        self._used: dict[str, str] = {}  # hash -> when, not yet written

    # ---------------------------------------------------------------------------------------------------- the verbs

    def add(self, name: str) -> str:
        """Make a key and return it: the only time that it can be seen. Raises UsageError for a name that is taken or unfit."""
        name = _fit(name)
        secret = PREFIX + secrets.token_urlsafe(32)
        with self._changing() as keys:
            if any(key.name == name for key in keys):
                raise UsageError(
                    f"there is a key named {name!r}", f"Choose another name, or: hornbook key revoke {name}"
                )
            keys.append(Key(name, _hash(secret), _now()))
        return secret

    def all(self) -> tuple[Key, ...]:
        """All keys in the order they were made. Raises StoreError when the file is damaged or cannot be read."""
        return _read(self.path)

    def revoke(self, name: str) -> Key:
        """Remove a key: no server of this home accepts it from now on. Raises UsageError when there is none of that name."""
        with self._changing() as keys:
            for key in keys:
                if key.name == name:
                    keys.remove(key)
                    return key
            names = ", ".join(key.name for key in keys) or "none"
            raise UsageError(f"there is no key named {name!r}", f"There is: {names}.")

    # ---------------------------------------------------------------------------------------------------- the server

    def find(self, secret: str) -> Key | None:
        """The key that ``secret`` is, or None. The file is looked at each time (one stat), read when it has changed.

        Every stored hash is compared, each in constant time, so the time tells neither which key was near nor whether
        there are any. Raises StoreError when the file cannot be read: then nobody is let in.
        """
        given = _hash(secret)
        found: Key | None = None
        for key in self._current():
            if hmac.compare_digest(given, key.hash):
                found = key
        return found

    def used(self, key: Key) -> bool:
        """Note that a key was used; True when ``write_used`` is due: once a minute for a key, not once a request."""
        now = _now()
        with self._guard:
            last = max(self._used.get(key.hash) or "", key.last_used or "")
            if last[:16] == now[:16]:  # the same minute
                return False
            self._used[key.hash] = now
            return True

    def write_used(self) -> None:
        """Write the times of use that ``used`` has noted. Blocks on the disk: call it from a thread of its own."""
        with self._guard:
            noted = dict(self._used)
        with self._changing() as keys:
            keys[:] = [
                replace(key, last_used=max(noted.get(key.hash) or "", key.last_used or "") or None) for key in keys
            ]

    def _current(self) -> tuple[Key, ...]:
        with self._guard:
            stamp = _stamp_of(self.path)
            if stamp != self._stamp:
                self._known = _read(self.path)
                self._stamp = stamp
            return self._known

    # ---------------------------------------------------------------------------------------------------- the file

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """The list of keys to change in place; written whole when the block ends without an error."""
        folder = self.path.parent
        with disk.writing(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = filelock.FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_SECONDS, mode=0o600)
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise StoreError(
                    f"{self.path} is being changed by another process for {_LOCK_SECONDS:g} s",
                    "Try again; if none is running, remove keys.lock beside it.",
                ) from error
            try:
                before = _read(self.path)
                keys = list(before)
                yield keys
                if tuple(keys) != before:
                    _write(self.path, keys)
            finally:
                lock.release()


def _hash(secret: str) -> str:
    return "sha256:" + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _fit(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= NAME_LENGTH or not name.isprintable():
        raise UsageError(
            f"a key's name has 1 to {NAME_LENGTH} printable characters, this one has {len(name)}",
            "Name it after who or what uses it: hornbook key add phone",
        )
    return name


def _stamp_of(path: Path) -> _Stamp | None:
    """What changes when the file is replaced; None when there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk.refused(path.parent, error) from error
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def _read(path: Path) -> tuple[Key, ...]:
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["format"] != _FORMAT:
            raise StoreError(
                f"{path} has format {data['format']}, this Hornbook knows {_FORMAT}", "Use the Hornbook that wrote it."
            )
        return tuple(_key(entry) for entry in data["keys"])
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise disk.refused(path.parent, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is damaged: {' '.join(str(error).split())[:120]}",
            "Move it away and make new keys: hornbook key add NAME",
        ) from error


def _key(entry: dict[str, str]) -> Key:
    key = Key(**{name: entry[name] for name in ("name", "hash", "created")}, last_used=entry.get("last_used"))
    if not (key.hash.startswith("sha256:") and len(key.hash) == len("sha256:") + 64 and key.hash.isascii()):
        raise ValueError(f"the hash of the key {key.name!r} is no SHA-256")
    return key


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Replace the file whole; its bytes are on the disk before its name is, and nobody else may read it at any moment."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    text = json.dumps({"format": _FORMAT, "keys": [asdict(key) for key in keys]}, ensure_ascii=False, indent=1)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def bearer(authorization: str | None) -> str | None:
    """The key in an Authorization header; None without one. A scheme is case-insensitive (RFC 9110 section 11.1)."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
