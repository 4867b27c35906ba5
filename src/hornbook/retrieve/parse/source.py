"""The file as parsers see it: its bytes, its text in whatever encoding it was written, and what it is inside.

Encodings are tried in the order of how sure they are: a byte order mark; strict UTF-8 (other text almost never is);
the two-byte patterns of UTF-16; what the file itself declares; then charset-normalizer, held to the encodings that
documents are met in.
"""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from hornbook.errors import ParseError

_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LIKELY = [
    *["cp932", "euc_jp", "gb18030", "big5", "euc_kr", "cp949"],
    *["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r", "mac_roman"],
]
_HALF_WIDTH = re.compile("[\uff61-\uff9f]")
_KANA = re.compile("[\u3041-\u3096]")
_SAMPLE = 32_768  # bytes that are enough to tell encodings apart
_TEXT_CONTROLS = b"\t\n\v\f\r\x1b"
_CONTROLS = bytes(set(range(32)) - set(_TEXT_CONTROLS)) + b"\x7f"


@dataclass(frozen=True)
class Source:
    """A file that was read whole. ``path`` only names it; parsers open nothing themselves."""

    path: PurePath
    data: bytes

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    @cached_property
    def text(self) -> str:
        return decode(self.data)

    def text_declared(self, pattern: re.Pattern[bytes]) -> str:
        """The text, where the first group of ``pattern`` in the file's first 2,048 bytes may name its encoding."""
        found = pattern.search(self.data[:2048])
        return decode(self.data, found.group(1).decode("ascii", "ignore") if found else None)


def decode(data: bytes, declared: str | None = None) -> str:
    """Bytes to text; ``declared`` is believed only where it fits. Raise ParseError for what is not text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    if b"\0" in data:
        return _without_mark(data)
    if b"\x1b$" in data or (declared and declared.lower() in ("hz-gb-2312", "utf-7", "iso-2022-kr")):
        # seven bits a byte, so that it would pass for ASCII
        with suppress(LookupError, UnicodeDecodeError):
            return data.decode("iso2022_jp_2" if b"\x1b$B" in data or b"\x1b$@" in data else str(declared))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and len(data) > 8:
            return data.decode("utf-8", "replace")  # only cut short, inside its last character
    if looks_binary(data):
        raise ParseError("binary file")
    if declared:
        with suppress(LookupError, UnicodeDecodeError):
            return data.decode(_as_browsers_do(declared))
    return data.decode(_detect(data), "replace")


def _without_mark(data: bytes) -> str:
    """Text of two or four bytes a character has its zeros in the same place; anything else with zeros is binary."""
    sample = data[: _SAMPLE - _SAMPLE % 4]
    quarters = [sample[i::4].count(0) / max(1, len(sample[i::4])) for i in range(4)]
    if min(quarters[2:]) > 0.9 and quarters[0] < 0.1:
        encoding = "utf-32-le"
    elif min(quarters[:2]) > 0.9 and quarters[3] < 0.1:
        encoding = "utf-32-be"
    else:
        even, odd = sample[::2].count(0) / max(1, len(sample[::2])), sample[1::2].count(0) / max(1, len(sample[1::2]))
        encoding = "utf-16-le" if odd > 4 * even else "utf-16-be" if even > 4 * odd else ""
        if max(even, odd) < 0.2:
            encoding = ""
    try:
        text = data.decode(encoding) if encoding else ""
    except UnicodeDecodeError:
        text = ""
    if not text or looks_binary(text.encode("utf-8", "replace")):
        raise ParseError("binary file")
    return text


def looks_binary(data: bytes) -> bool:
    """True for bytes that no text encoding of one byte a character would hold: zeros, or many control characters."""
    sample = data[:_SAMPLE]
    return b"\0" in sample or len(sample) - len(sample.translate(None, _CONTROLS)) > 0.02 * len(sample)


def _as_browsers_do(name: str) -> str:
    """The WHATWG reading of a declared name: Latin-1 means cp1252, GB2312 its superset, Shift-JIS Microsoft's."""
    name = codecs.lookup(name.strip()).name
    wider = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}
    return wider.get(name, name)


def _detect(data: bytes) -> str:
    """The name of the encoding that makes the most sense of the bytes; cp1252 where nothing does."""
    from charset_normalizer import from_bytes  # here, because most files are UTF-8 and never come so far

    cut = data.rfind(b"\n", 0, _SAMPLE) if len(data) > _SAMPLE else len(data)
    sample = data[: cut if cut > 0 else _SAMPLE]
    with suppress(UnicodeDecodeError):  # kana in Shift-JIS are also valid, rare Korean syllables in cp949
        if len(_KANA.findall(japanese := sample.decode("cp932"))) > 0.2 * len(japanese):
            return "cp932"
    found = list(from_bytes(sample, cp_isolation=_LIKELY, preemptive_behaviour=False))
    # near ties (cp1250 and cp1252 share most letters) go to the better language model, then to the commoner encoding
    best = min(found, key=lambda m: (round(m.chaos, 2), -m.coherence, _LIKELY.index(m.encoding)), default=None)
    if best is None:
        return "cp1252"
    if best.encoding == "cp932" and len(_HALF_WIDTH.findall(str(best))) > 0.3 * len(str(best)):
        with suppress(UnicodeDecodeError):  # bytes of two-byte Chinese read as one-byte katakana
            sample.decode("gb18030")
            return "gb18030"
    return best.encoding
