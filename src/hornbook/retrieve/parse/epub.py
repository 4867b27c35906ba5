"""EPUB books: the package says which chapters there are and in what order; each is a page of XHTML."""

from __future__ import annotations

from posixpath import dirname, join, normpath
from urllib.parse import unquote

from hornbook.errors import ParseError
from hornbook.retrieve.parse import html
from hornbook.retrieve.parse.archive import Archive
from hornbook.retrieve.parse.builder import Builder
from hornbook.retrieve.parse.source import Source

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_FIELDS = {"title": "title", "creator": "author", "date": "date", "language": "language"}


def parse(source: Source, builder: Builder) -> None:
    archive = Archive(source.data, "an EPUB book")
    package = next((e.get("full-path") for e in archive.xml(_CONTAINER).iter("{*}rootfile")), None)
    if not package:
        raise ParseError(f"damaged: {_CONTAINER} names no package")
    root = archive.xml(package)
    found: dict[str, str] = {}
    for name, key in _FIELDS.items():
        for element in root.iter("{http://purl.org/dc/elements/1.1/}" + name):
            found.setdefault(key, element.text or "")
    builder.title = found.pop("title", "")
    builder.metadata.update(found)
    manifest = {item.get("id"): item for item in root.iter("{*}item")}
    names = set(archive.names)
    protected = archive.read(_ENCRYPTION).decode("utf-8", "replace") if _ENCRYPTION in names else ""
    missing = []
    for reference in root.iter("{*}itemref"):
        item = manifest.get(reference.get("idref"))
        if (
            item is None
            or "nav" in (item.get("properties") or "").split()
            or "html" not in (item.get("media-type") or "html")
        ):
            continue
        href = unquote(item.get("href") or "").partition("#")[0]
        name = normpath(join(dirname(package), href))
        if name not in names:
            missing.append(href)
            continue
        if href and href in protected:
            raise ParseError("protected by DRM")
        html.write_page(archive.read(name), builder)
    if missing:
        builder.metadata["missing chapters"] = ", ".join(missing[:20])
