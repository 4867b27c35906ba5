"""The sector chains of an OLE container (MS-CFB 2.3), in which old Office files lie.

A damaged table can lead a chain back into itself; a reader that follows it fills the memory without end.
"""

from __future__ import annotations

import struct

from hornbook.errors import ParseError

_LAST = 0xFFFFFFFA  # sector numbers above it are marks (free, end of chain, table)


def check_chains(data: bytes) -> None:
    """Raise ParseError where a chain of sectors never ends."""
    if len(data) < 512:
        raise ParseError("damaged workbook: cut short")
    shift = struct.unpack_from("<H", data, 30)[0]
    mini_start = struct.unpack_from("<I", data, 60)[0]
    more = struct.unpack_from("<I", data, 68)[0]
    if shift not in (9, 12):
        raise ParseError("damaged workbook: unknown sector size")
    size = 1 << shift

    def sector(number: int) -> list[int]:
        content = data[(number + 1) * size : (number + 2) * size]
        return list(struct.unpack(f"<{len(content) // 4}I", content[: len(content) // 4 * 4]))

    places = list(struct.unpack_from("<109I", data, 76))
    seen: set[int] = set()
    while more < _LAST:
        if more in seen:
            raise ParseError("damaged workbook: a chain of sectors never ends")
        seen.add(more)
        *inner, more = sector(more) or [_LAST]
        places += inner
    places = [place for place in places if place < _LAST]
    if len(set(places)) != len(places):
        raise ParseError("damaged workbook: a chain of sectors never ends")
    table = [entry for place in places for entry in sector(place)]
    _acyclic(table)
    small: list[int] = []
    while mini_start < len(table):
        small += sector(mini_start)
        mini_start = table[mini_start]
    _acyclic(small)


def _acyclic(table: list[int]) -> None:
    done = bytearray(len(table))  # 1: on the present walk, 2: known to end
    for start in range(len(table)):
        walk: list[int] = []
        at = start
        while at < len(table) and not done[at]:
            done[at] = 1
            walk.append(at)
            at = table[at]
        if at < len(table) and done[at] == 1:
            raise ParseError("damaged workbook: a chain of sectors never ends")
        for place in walk:
            done[place] = 2
