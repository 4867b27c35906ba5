"""Names that strangers choose: of a collection, which is a folder's name, and of a document, which never is one.

A collection's name is checked letter by letter. A document's name and the folders of a dropped folder are words to show:
on disk a file is called by what it holds (catalogue.py), so that no name from a request ever becomes a path.
"""

from __future__ import annotations

import re
import unicodedata

from hornbook.errors import UsageError

LONGEST_NAME = 64  # characters of a collection's name; at 3 bytes each it is still a name for every file system
LONGEST_SHOWN = 255  # characters of a document's name; of its folders four times as many
# Windows keeps these for devices, whatever folder they are in.
_DEVICES = frozenset(["con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(10))])
# What a reader cannot see or what turns the line round: controls, bidirectional marks, unpaired surrogates, tags.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_UNSEEN_IN_TEXT = re.compile(_UNSEEN.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))  # tab and newline stay


def collection_name(name: str) -> str:
    """The name in its one spelling. Raises UsageError where it is not made of letters, digits, "-" and "_"."""
    name = unicodedata.normalize("NFC", name)
    good = (
        0 < len(name) <= LONGEST_NAME
        and name[0].isalnum()
        and all(sign.isalnum() or sign in "-_" or unicodedata.category(sign) in ("Mn", "Mc") for sign in name)
        and unicodedata.normalize("NFKC", name) == name  # no wide or round look-alikes of other letters
        and name.casefold() not in _DEVICES
        and len(name.encode("utf-8")) <= 200
    )
    if not good:
        raise UsageError(
            f"{shown(name)[:80]!r} cannot be the name of a collection",
            f"Use 1 to {LONGEST_NAME} letters, digits, '-' and '_', the first a letter or a digit; a title may be anything.",
        )
    return name


def name_of_title(title: str) -> str:
    """The name that a title makes: "My papers (2024)" -> "my-papers-2024". Raises UsageError where nothing is left."""
    kept = "".join(
        sign if sign.isalnum() or unicodedata.category(sign) in ("Mn", "Mc") else "-"
        for sign in unicodedata.normalize("NFKC", title).casefold()
    )
    return collection_name(re.sub("-+", "-", kept).strip("-")[:LONGEST_NAME].strip("-"))


def shown(text: str) -> str:
    """One line that is safe to show: NFC, nothing unseen, runs of white space as one space."""
    return " ".join(_UNSEEN.sub(" ", unicodedata.normalize("NFC", text)).split())


def plain(text: str) -> str:
    """Text of a document without what a reader cannot see, of the same length, so that every offset still holds."""
    return _UNSEEN_IN_TEXT.sub("\ufffd", text)


def document_name(given: str) -> tuple[str, str]:
    """(name, folder) to show, of what a client calls a file: "a/../b\\c.pdf" -> ("c.pdf", "a/b")."""
    parts = [part for raw in re.split(r"[/\\]", given) if (part := shown(raw)) not in ("", ".", "..")]
    if parts and re.fullmatch("[A-Za-z]:", parts[0]):  # C:\Users\...: a drive is no folder
        parts = parts[1:]
    name = parts[-1] if parts else "document"
    if len(name) > LONGEST_SHOWN:  # the end, which says what kind of file it is, stays
        name = name[: LONGEST_SHOWN - 21] + "…" + name[-20:]
    return name, "/".join(parts[:-1])[: 4 * LONGEST_SHOWN]


def suffix_of(name: str) -> str:
    """The suffix that a stored file keeps, which tells its format: ".pdf"; "" where it is none of plain letters."""
    found = re.search(r"(?<=[^.])\.[A-Za-z0-9]{1,10}\Z", name)
    return found.group().lower() if found else ""
