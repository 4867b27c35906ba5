"""A zip file whose size is known before it is opened, and the XML inside it, read without the network.

DOCX, PPTX, XLSX, EPUB and ODT are zip files of XML. A small one can hold petabytes ("zip bomb"), so the declared sizes
are added up first. They bind: Python's zipfile stops reading a member at its declared size and checks its CRC-32.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import IO, TYPE_CHECKING

from hornbook.errors import ParseError

if TYPE_CHECKING:
    from lxml.etree import _Element

MAX_TOTAL = 512 * 2**20  # bytes that all members together may hold, unpacked
MAX_RATIO = 200  # unpacked : packed, for members over SMALL; deflate reaches 1000, office files stay below 50
SMALL = 16 * 2**20
MAX_MEMBERS = 20_000
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


class Archive:
    """An opened zip file. Raise ParseError for one that is damaged, encrypted or a bomb."""

    def __init__(self, data: bytes, what: str) -> None:
        if data.startswith(_OLE):
            # Office wraps an encrypted document in an OLE container, whose directory is in UTF-16
            if "EncryptedPackage".encode("utf-16-le") in data:
                raise ParseError("password protected", "Save a copy without a password.")
            raise ParseError(f"not {what} inside, but an old Office file", "Open it and save it in the new format.")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, IndexError) as error:
            raise ParseError(f"damaged: not {what} ({error})") from error
        members = self._zip.infolist()
        if len(members) > MAX_MEMBERS:
            raise ParseError(f"zip bomb: {len(members):,} members, the limit is {MAX_MEMBERS:,}")
        total = sum(member.file_size for member in members)
        if total > MAX_TOTAL:
            raise ParseError(f"zip bomb: unpacks to {total / 2**20:,.0f} MB, the limit is {MAX_TOTAL // 2**20} MB")
        for member in members:
            if member.file_size > SMALL and member.file_size > MAX_RATIO * max(1, member.compress_size):
                raise ParseError(
                    f"zip bomb: {member.file_size / 2**20:,.0f} MB packed {member.file_size // max(1, member.compress_size)} to 1"
                )
            if member.flag_bits & 1:
                raise ParseError("password protected", "Save a copy without a password.")

    @property
    def names(self) -> list[str]:
        return self._zip.namelist()

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except KeyError:
            raise ParseError(f"damaged: {name} is missing") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, NotImplementedError) as error:
            raise ParseError(f"damaged: {name} cannot be unpacked ({error})") from error

    def xml(self, name: str) -> _Element:
        return xml(self.read(name), name)

    def stream(self) -> IO[bytes]:
        """The XML of the archive packed anew as it was read here, for a library that would read the original its own way.

        Pictures and other members without words are left empty: a damaged one must not cost the text.
        """
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as copy:
            for name in dict.fromkeys(self.names):
                copy.writestr(
                    zipfile.ZipInfo(name), self.read(name) if name.lower().endswith((".xml", ".rels")) else b""
                )
        out.seek(0)
        return out


def xml(data: bytes, what: str = "XML") -> _Element:
    """The root element. No DTD is loaded, no entity expanded, no address opened, whatever the file asks for."""
    from lxml import etree

    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        return etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise ParseError(f"damaged: {what} is not well-formed XML ({str(error)[:120]})") from error
