"""Files out of a multipart/form-data body (RFC 7578), onto the disk as they come, counted and hashed on the way.

A body is never held in memory, and never written to where a name in it says: each file goes to a file of ours in the
collection's ``incoming`` folder. What passes a limit of one file ends that file and not the others; what passes a limit of
the whole ends the request.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from hornbook.errors import StoreError, UsageError
from hornbook.serve.errors import ClientGone, TooLarge

FILES = 2_000  # of one request
_FIELDS = 64  # that are no files; what they say is not kept
_HEADER = 8_192  # bytes of one header of a part
_FED_AT_ONCE = 1 << 20  # bytes, between two hops to a thread


@dataclass(slots=True)
class Received:
    """A file that came: what its sender called it, and where it is. ``too_large``: it was cut, and nothing is kept."""

    name: str
    path: Path
    size: int = 0
    sha256: str = ""
    too_large: bool = False


class Intake:
    """Takes the pieces of one body. ``received`` are the files that are whole; ``discard`` deletes all of them."""

    def __init__(self, content_type: str, incoming: Path, *, max_bytes: int, max_file_bytes: int) -> None:
        """Raises UsageError where the content type is not multipart/form-data with a boundary."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind.lower() != b"multipart/form-data" or not 0 < len(boundary) <= 256:
            raise UsageError(
                f"an upload is multipart/form-data with a boundary, not {content_type[:80]!r}",
                'Send each file as a part named "files".',
            )
        self.received: list[Received] = []
        self._incoming, self._max_bytes, self._max_file_bytes = incoming, max_bytes, max_file_bytes
        self._taken = 0
        self._fields = 0
        self._ended = False
        self._current: Received | None = None
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Raises TooLarge, UsageError where the body is not what its type says, StoreError where the disk is full."""
        self._taken += len(data)
        if self._taken > self._max_bytes:
            raise TooLarge(f"more than {self._max_bytes / 2**20:,.0f} MB in one request", "Send fewer files at once.")
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise UsageError(f"the multipart body cannot be read: {error}", "Send it again.") from error
        except OSError as error:
            raise StoreError(f"the upload cannot be kept: {error.strerror or error}", "Free some space.") from error

    def finish(self) -> list[Received]:
        """Raises UsageError where the body ends before its last boundary."""
        if not self._ended:
            raise UsageError("the multipart body ends too early", "Send it again.")
        return self.received

    def discard(self) -> None:
        self._close()
        for file in [*self.received, *([self._current] if self._current else [])]:
            file.path.unlink(missing_ok=True)

    # -------------------------------------------------------------------------------------------- the parser's callbacks

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header) + len(self._value) > _HEADER:
            raise UsageError(f"a part has a header of more than {_HEADER:,} bytes", "Give the file a shorter name.")

    def _on_header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        if b"filename" not in options:
            self._fields += 1
            if self._fields > _FIELDS:
                raise UsageError(
                    f"more than {_FIELDS} parts that are no files", "Send each file as a part with a name."
                )
            return
        if len(self.received) >= FILES:
            raise UsageError(f"more than {FILES:,} files in one request", "Send fewer files at once.")
        # A browser writes a quotation mark and the ends of lines so, and nothing else (WHATWG HTML, 4.10.21.8).
        name = (
            options[b"filename"].decode("utf-8", "replace").replace("%22", '"').replace("%0D", " ").replace("%0A", " ")
        )
        self._current = Received(name, self._incoming / secrets.token_hex(16))
        self._file = open(self._current.path, "xb")  # noqa: SIM115 - closed where the part ends, or by discard
        self._digest = hashlib.sha256()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current is None or self._current.too_large:
            return
        self._current.size += end - start
        if self._current.size > self._max_file_bytes:
            self._current.too_large = True
            self._close()
            self._current.path.unlink(missing_ok=True)
            return
        assert self._file is not None
        piece = memoryview(data)[start:end]
        self._digest.update(piece)
        self._file.write(piece)

    def _on_part_end(self) -> None:
        if self._current is not None:
            self._close()
            self._current.sha256 = self._digest.hexdigest()
            self.received.append(self._current)
            self._current = None

    def _on_end(self) -> None:
        self._ended = True

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


async def receive(intake: Intake, body: AsyncIterator[bytes]) -> list[Received]:
    """All files of the body. Whatever goes wrong leaves nothing on the disk. Raises what Intake.feed does, and ClientGone."""
    held = bytearray()

    def feed() -> None:
        intake.feed(bytes(held))
        held.clear()

    try:
        async for piece in body:
            held += piece
            if len(held) >= _FED_AT_ONCE:
                await anyio.to_thread.run_sync(feed)
        await anyio.to_thread.run_sync(feed)
        return intake.finish()
    except ClientDisconnect as error:
        intake.discard()
        raise ClientGone("the client closed its connection in the middle of an upload") from error
    except BaseException:
        intake.discard()
        raise
