"""Put right what storage and copying did to a text, and nothing that a person wrote.

    mojibake        UTF-8 that was read as another encoding ("schÃ¶n" -> "schön"), by ftfy's model of which is likelier; C1
                    controls become what Windows shows in their place
    surrogates      halves of a pair, joined; a lone one becomes U+FFFD
    line ends       CR LF, CR, LS and PS become LF
    control         control characters but tab and LF, byte order marks, terminal colours, and non-characters are taken out
    composition     NFC: é is one character, as in most text (Unicode Standard Annex 15)

Quotes, ligatures, full-width forms, entities and spaces are left as they are: they are what somebody chose.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any, NamedTuple

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff\U000e0001"
    + "".join(chr((plane << 16) | 0xFFFE) + chr((plane << 16) | 0xFFFF) for plane in range(1, 17))
    + "]"
)


class Repaired(NamedTuple):
    """A text and what was put right in it: names of the table above, in the order in which they were done."""

    text: str
    changes: tuple[str, ...]


def repair(text: str) -> Repaired:
    """Put a text right; the same text with no changes where it was sound. Never fails, whatever the text holds."""
    changes = []

    def become(now: str, name: str) -> None:
        nonlocal text
        if now != text:
            changes.append(name)
            text = now

    if not text.isascii():
        become(_joined(text), "surrogates")
        become("\n".join(map(_decoded, text.split("\n"))), "mojibake")
    if not text.replace("\n", "").replace("\t", "").isprintable():  # one quick look, since most texts have none
        become(_LINE_ENDS.sub("\n", text), "line ends")
        become(_CONTROL.sub("", _ESCAPES.sub("", text)), "control")
    if not text.isascii():
        become(unicodedata.normalize("NFC", text), "composition")
    return Repaired(text, tuple(changes))


def _joined(text: str) -> str:
    if not _SURROGATES.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _decoded(line: str) -> str:
    """One line, since a page may have been put together from sound and unsound parts."""
    if line.isascii():
        return line
    import ftfy
    from ftfy.badness import is_bad

    if not is_bad(line):
        return line
    fixed: str = ftfy.fix_text(line, _config())
    return fixed


@cache
def _config() -> Any:
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_encoding=True,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
