"""Mail messages (RFC 5322, MIME): the fields a reader sees, one body, attachments by name, forwarded mail inside.

Of multipart/alternative the plain text is taken, or the HTML where that says much more. Fields are decoded one by one
with email.header, which is linear in what a stranger sent.
"""

from __future__ import annotations

import email
import email.policy
import re
from contextlib import suppress
from email.header import decode_header
from email.message import Message
from email.utils import parsedate_to_datetime

from hornbook.retrieve.parse import html
from hornbook.retrieve.parse.builder import Builder, one_line
from hornbook.retrieve.parse.source import Source, decode

_FIELDS = ("Subject", "From", "To", "Cc", "Date")
_MAX_DEPTH = 8  # messages forwarded in messages
_LEAST_SHARE = 0.2  # plain text shorter than this part of the HTML is only a note that there is HTML
_MAX_FIELD = 20_000  # characters


def parse(source: Source, builder: Builder) -> None:
    data = source.data
    if data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):  # saved as text by an editor
        data = source.text.encode("utf-8")
    message = email.message_from_bytes(data, policy=email.policy.compat32)
    builder.title = _field(message, "Subject")
    for name in ("From", "To", "Cc", "Date", "Subject"):
        builder.metadata[name.lower()] = _field(message, name)
    with suppress(ValueError, TypeError, IndexError, OverflowError):  # a date that no rule covers stays as written
        builder.metadata["date"] = parsedate_to_datetime(_field(message, "Date")).isoformat()
    _message(message, builder, 0)


def _message(message: Message, builder: Builder, depth: int) -> None:
    fields = [f"{name}: {value}" for name in _FIELDS if (value := _field(message, name))]
    builder.add("\n".join(fields))
    attachments: list[str] = []
    forwarded: list[Message] = []
    _part(message, builder, attachments, forwarded, 0)
    if attachments:
        builder.add(f"Attachments: {', '.join(attachments)}")
    for inner in forwarded:
        if depth < _MAX_DEPTH:
            builder.enter(f"Forwarded: {_field(inner, 'Subject')}", depth + 1)
            _message(inner, builder, depth + 1)
            builder.leave(depth + 1)


def _part(part: Message, builder: Builder, attachments: list[str], forwarded: list[Message], depth: int) -> None:
    """Write the bodies under a part; note what is attached."""
    kind = part.get_content_type()
    if depth > _MAX_DEPTH * 4:
        return
    if kind == "message/rfc822":
        forwarded.extend(inner for inner in _parts(part))
    elif part.is_multipart():
        parts = _parts(part)
        if kind == "multipart/alternative":
            parts = _best(parts)
        for inner in parts:
            _part(inner, builder, attachments, forwarded, depth + 1)
    elif name := _file_name(part):
        attachments.append(name)
    elif part.get_content_disposition() == "attachment" or part.get_content_maintype() != "text":
        if part.get_content_maintype() != "text":
            attachments.append(kind)
    elif kind == "text/html":
        html.write_fragment(_body(part), builder)
    else:
        for paragraph in re.split(r"\n[ \t]*\n", _body(part)):
            builder.add(paragraph)


def _best(parts: list[Message]) -> list[Message]:
    """Of the same words in several forms, the one to read."""
    plain = next((p for p in parts if p.get_content_type() == "text/plain"), None)
    rich = next((p for p in reversed(parts) if p.get_content_type() != "text/plain"), None)
    if plain is None or rich is None:
        return [part for part in (plain or rich,) if part is not None]
    written = len(one_line(_body(plain)))
    if rich.get_content_type() == "text/html":
        return [rich if written < _LEAST_SHARE * len(html.plain(_body(rich))) else plain]
    return [plain if written else rich]


def _parts(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [inner for inner in payload if isinstance(inner, Message)] if isinstance(payload, list) else []


def _body(part: Message) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    text = decode(payload, part.get_content_charset()) if b"\0" not in payload else payload.decode("utf-8", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _file_name(part: Message) -> str:
    try:
        return one_line(_words(part.get_filename() or ""))
    except (ValueError, LookupError, TypeError):
        return "unnamed"


def _field(message: Message, name: str) -> str:
    return one_line(_words(str(message.get(name) or "")[:_MAX_FIELD]))


def _words(raw: str) -> str:
    """A field with its encoded words (RFC 2047) as text; raw bytes over ASCII are taken as UTF-8."""
    try:
        parts = decode_header(raw)
    except (ValueError, email.errors.HeaderParseError):
        return raw
    text = ""
    for part, charset in parts:
        if isinstance(part, str):
            text += part
        elif charset in (None, "unknown-8bit"):
            text += part.decode("utf-8", "replace")
        else:
            try:
                text += part.decode(str(charset), "replace")
            except LookupError:
                text += part.decode("utf-8", "replace")
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
