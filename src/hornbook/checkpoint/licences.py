"""Under which licence a model is, and where its terms can be read: asked of the model first, of its wrapping last."""

from __future__ import annotations

import re
from email.message import Message
from pathlib import Path
from typing import NamedTuple

_CARD_LIMIT = 1 << 20
_KEY = re.compile(r"^(license|license_name|license_link):[ \t]*[\"']?([^\"'\n#]+)", re.M)


class Licence(NamedTuple):
    """``terms``: a URL or a file's name; both are empty where nothing is said."""

    name: str = ""
    terms: str = ""


def of_card(text: str) -> Licence:
    """From a model card: the YAML block at the head of README.md (license, license_name, license_link)."""
    match = re.match(r"\ufeff?---\s*\n(.*?)\n---", text[:_CARD_LIMIT], re.S)
    keys = {key: value.strip() for key, value in _KEY.findall(match[1])} if match else {}
    name = keys.get("license", "")
    if name.lower() in ("", "other"):
        name = keys.get("license_name", name)
    return Licence(name, keys.get("license_link", "") if "://" in keys.get("license_link", "") else "")


def of_wheel(metadata: Message) -> Licence:
    """From a wheel's METADATA. It is the licence of the wrapping: a model card inside knows better."""
    name = str(metadata["License-Expression"] or metadata["License"] or "").strip()
    name = name.splitlines()[0].strip() if name else ""
    if not name:
        classifiers = [str(line) for line in metadata.get_all("Classifier") or []]
        name = next((line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License :: ")), "")
    urls = {}
    for line in metadata.get_all("Project-URL") or []:
        label, _, url = str(line).partition(",")
        urls[label.strip().lower()] = url.strip()
    return Licence(name, str(metadata["Home-page"] or urls.get("homepage") or urls.get("source") or ""))


def of_folder(folder: Path) -> Licence:
    """From the model's own folder: its card, else a licence file that lies there (``terms`` is then a name in it)."""
    card = Licence()
    for name in ("README.md", "README.upstream.md"):
        for path in (folder / name, *sorted(folder.glob(f"licenses/**/{name}"))):
            if path.is_file() and not card.name:
                card = of_card(path.read_text("utf-8", "replace"))
    found = [path for path in sorted(folder.glob("*")) if re.match(r"(licen[cs]e|copying)", path.name, re.I)]
    return Licence(card.name, card.terms or (found[0].name if found else ""))
