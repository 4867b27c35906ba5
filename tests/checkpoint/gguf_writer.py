"""A small GGUF writer for tests, which remembers where each number stands so that a test can spoil it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


@dataclass
class Written:
    """The bytes of a file, and of each number in its header where it starts and how wide it is."""

    data: bytearray = field(default_factory=bytearray)
    numbers: dict[str, tuple[int, int]] = field(default_factory=dict)

    def number(self, code: str, value: Any, what: str) -> None:
        self.numbers[what] = (len(self.data), struct.calcsize(f"<{code}"))
        self.data += struct.pack(f"<{code}", value)

    def string(self, text: str | bytes, what: str) -> None:
        encoded = text.encode() if isinstance(text, str) else text
        self.number("Q", len(encoded), f"length of {what}")
        self.data += encoded

    def value(self, kind: Any, value: Any, what: str) -> None:
        """``kind`` is one of the numbers above, or (ARRAY, kind of the elements). A bare ARRAY writes nothing."""
        if isinstance(kind, tuple):
            inner = kind[1]
            self.number("I", inner[0] if isinstance(inner, tuple) else inner, f"element type of {what}")
            self.number("Q", len(value), f"count of {what}")
            for i, element in enumerate(value):
                self.value(inner, element, f"{what}[{i}]")
        elif kind == STRING:
            self.string(value, what)
        elif kind != ARRAY:  # of which the caller writes the rest
            self.number(_CODES[kind], value, what)

    def spoilt(self, what: str, value: int) -> bytes:
        """The bytes with one number replaced."""
        start, width = self.numbers[what]
        return bytes(self.data[:start]) + value.to_bytes(width, "little") + bytes(self.data[start + width :])


def write_gguf(
    metadata: Sequence[tuple[str, Any, Any]] = (),
    tensors: Sequence[tuple[str, Sequence[int], int, bytes]] = (),
    *,
    version: int = 3,
    alignment: int = 32,
) -> Written:
    """``metadata``: (key, kind, value); ``tensors``: (name, sizes with the fastest first, type number, bytes)."""
    out = Written(bytearray(b"GGUF"))
    out.number("I", version, "version")
    out.number("Q", len(tensors), "tensor count")
    out.number("Q", len(metadata), "metadata count")
    for key, kind, value in metadata:
        out.string(key, f"key {key}")
        out.number("I", kind[0] if isinstance(kind, tuple) else kind, f"type of {key}")
        out.value(kind, value, key)
    offset = 0
    for name, sizes, kind, content in tensors:
        out.string(name, f"name {name}")
        out.number("I", len(sizes), f"rank of {name}")
        for i, size in enumerate(sizes):
            out.number("Q", size, f"size {i} of {name}")
        out.number("I", kind, f"type of {name}")
        out.number("Q", offset, f"offset of {name}")
        offset += -(-len(content) // alignment) * alignment
    for *_, content in tensors:
        out.data += b"\0" * (-len(out.data) % alignment)
        out.data += content
    return out
