"""Spoils small documents in many ways and parses each: a program, so that a crash or a hang is the child's alone.

    python mutated_documents.py SUFFIX SEED CASES FOLDER SOUND...

Every case follows from the suffix, the seed and its number. Each must give a Document or a ParseError with a short
reason, within a few seconds and some hundred megabytes. Formats that are zip files are spoiled outside and inside:
the second is what reaches the parser, since a checksum stops most of the first. Prints how often each outcome
happened, as JSON; ends with 1 and the case where one did neither.
"""

from __future__ import annotations

import io
import json
import random
import re
import resource
import signal
import sys
import traceback
import zipfile
from collections import Counter
from pathlib import Path

from hornbook.errors import ParseError
from hornbook.retrieve.parse import parse_bytes
from hornbook.types import Document

MEMORY = 512 << 20  # bytes of address space beyond what the program has once every parser is loaded
SECONDS = 8  # for one file
SIGNS = [b"<", b">", b"&", b'"', b"{", b"}", b"[", b"]", b"\\", b"\0", b"\xff", b"%", b"(", b"\n\n", b"obj", b"stream"]
NUMBERS = [b"0", b"-1", b"1", b"99", b"65536", b"2147483648", b"4294967295", b"18446744073709551616", b"9" * 400]


def mutate(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        if not changed:
            break
        at = rng.randrange(len(changed))
        length = rng.choice([1, 2, 8, 40, 300])
        turn = rng.randrange(11)
        if turn == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif turn == 1:
            del changed[at:]
        elif turn == 2:
            del changed[at : at + length]
        elif turn == 3:
            changed[at:at] = changed[at : at + length] * rng.choice([1, 2, 30])
        elif turn == 4:
            changed[at:at] = rng.randbytes(length)
        elif turn == 5:
            changed[at : at + length] = bytes([rng.choice([0, 0xFF, 0x20])]) * length
        elif turn == 6:
            changed[at:at] = rng.choice(SIGNS) * rng.choice([1, 1, 2, 200])
        elif turn == 7:
            other = rng.randrange(len(changed))
            changed[at : at + length] = changed[other : other + length]
        elif turn in (8, 9):  # a figure becomes another
            figures = [found.span() for found in re.finditer(rb"\d+", bytes(changed[at : at + 2000]))]
            if figures:
                first, last = rng.choice(figures)
                changed[at + first : at + last] = rng.choice(NUMBERS)
        else:
            names = re.findall(rb"[\w:]{3,}", bytes(changed[at : at + 400]))
            if len(names) > 1:
                one, two = rng.choice(names), rng.choice(names)
                changed[:] = bytes(changed).replace(one, two, rng.choice([1, 1, 5]))
    return bytes(changed)


def mutate_inside(data: bytes, rng: random.Random) -> bytes:
    """One or two members spoiled, lost, doubled or emptied, and the rest packed as it was."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    words = [name for name in members if name.endswith((".xml", ".rels", ".html", ".xhtml", ".opf", ".ncx"))]
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice(words)
        turn = rng.randrange(12)
        if turn == 0:
            members.pop(name, None)
        elif turn == 1:
            members[name] = b""
        elif turn == 2:
            members[name] = members.get(rng.choice(words), b"")
        else:
            members[name] = mutate(members.get(name, b"<a/>"), rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def check(document: Document) -> None:
    """What holds of every document, however the file was spoiled."""
    previous = 0
    for piece in document.pieces:
        assert previous <= piece.start < piece.end <= len(document.text), piece
        previous = piece.end
    document.text.encode("utf-8")


def main(suffix: str, seed: int, cases: int, folder: Path, sound: list[Path]) -> int:
    bases = [path.read_bytes() for path in sound]
    for data in bases:  # the sound files parse; the libraries are loaded before memory is limited
        check(parse_bytes(data, f"sound{suffix}"))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    outcomes: Counter[str] = Counter()
    reasons: set[str] = set()
    for case in range(cases):
        rng = random.Random(f"{suffix} {seed} {case}")
        base = rng.choice(bases)
        data = (mutate_inside if base.startswith(b"PK") and rng.random() < 0.75 else mutate)(base, rng)
        path = folder / f"case-{case}{suffix}"
        path.write_bytes(data)  # kept when this program is killed
        signal.alarm(SECONDS)  # ends the program
        try:
            check(parse_bytes(data, path))
            outcomes["parsed"] += 1
        except ParseError as error:
            if not (error.what.isprintable() and 0 < len(error.what) < 300) or "memory" in error.what:
                print(f"seed {seed}, case {case}: the reason is not for people: {error.what!r}", file=sys.stderr)
                return 1
            outcomes["refused"] += 1
            reasons.add(error.what[:24])
        except BaseException:
            traceback.print_exc()
            print(f"seed {seed}, case {case}: neither parsed nor refused by name; {path} is kept", file=sys.stderr)
            return 1
        path.unlink()
    outcomes["reasons"] = len(reasons)
    print(json.dumps(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), [Path(p) for p in sys.argv[5:]]))
