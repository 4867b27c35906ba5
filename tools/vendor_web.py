"""Fetch the page's libraries from their npm packages into src/hornbook/serve/web/vendor, pinned and verified.

    python tools/vendor_web.py            fetch all, write vendor.json
    python tools/vendor_web.py --check    compare what lies there with vendor.json; fetches nothing

Each package is pinned by version and by the integrity of its tarball (SHA-512, as npm writes it). Only the files named
here are taken, as they are in the package, with its licence. A newer version is a changed row and a run of this script:
the folder's name holds the version, so that a browser may keep the files for ever.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).parents[1] / "src" / "hornbook" / "serve" / "web" / "vendor"
CEILING = 2 * 2**20  # bytes, all of them together


@dataclass(frozen=True)
class Package:
    """What is taken of an npm package: ``files`` by their path in it; ``*.ending`` after a folder takes all of these."""

    name: str
    version: str
    integrity: str
    licence: str
    why: str
    files: tuple[str, ...]

    @property
    def folder(self) -> str:
        return f"{self.name.replace('@', '').replace('/', '-')}-{self.version}"


PACKAGES: tuple[Package, ...] = (
    Package(
        "htm", "3.1.1",
        "sha512-983Vyg8NwUE7JkZ6NmOqpCZ+sh1bKv2iYTlUkzlWmA5JD2acKoxd4KVxbMmxX/85mtfdnDmTFoNKcg5DGAvxNQ==",
        "Apache-2.0", "components: Preact, its hooks and templates in one module",
        ("preact/standalone.module.js", "LICENSE"),
    ),
    Package(
        "preact", "10.5.13",
        "sha512-q/vlKIGNwzTLu+jCcvywgGrt+H/1P/oIRSD6mV4ln3hmlC+Aa34C7yfPI4+5bzW8pONyVXYS7SvXosy2dKKtWQ==",
        "MIT", "the licence of the Preact inside htm's module", ("LICENSE",),
    ),
    Package(
        "markdown-it", "15.0.3",
        "sha512-+Az7Ojz3iRGu8KYMvJ6xVhvrxP3eE+vEtJX75Ow88XBpcQNV/0lGX5ZynIIBftREo4DC2jsveAMDaeltmm8QvQ==",
        "MIT", "Markdown of answers and documents", ("dist/browser/markdown-it.esm.min.mjs", "LICENSE"),
    ),
    Package(
        "dompurify", "3.4.18",
        "sha512-ofe3wI/uNm68HInABYFJYqQxRw1EaKAjNdrFVKqjUY+UZurvNd2L/HuQe097s/4RivWiZyP6tT7aoT8atjfhwg==",
        "MPL-2.0 OR Apache-2.0", "what Markdown became is cleaned before it is shown",
        ("dist/purify.es.mjs", "LICENSE"),
    ),
    Package(
        "@highlightjs/cdn-assets", "11.12.0",
        "sha512-KvOKXODaiFmId9xaq3xc5xCL66wVLUuOngDbO9B/kewbFTqdGbn2nJxNhN3H5R1cgDTVj6R8vH0zgiNDEGjpDw==",
        "BSD-3-Clause", "code in the common languages",
        ("es/highlight.min.js", "LICENSE"),
    ),
    Package(
        "katex", "0.19.1",
        "sha512-jG8uKntjSEcm2EpQOh0XturpPuuC9r3Sq5HLHdsFdWZT27E672SF19QEi+of0/YeOy15lDgRhKvr5614uRrEfA==",
        "MIT", "mathematics",
        ("dist/katex.min.js", "dist/katex.min.css", "dist/fonts/*.woff2", "LICENSE"),
    ),
    Package(
        "uplot", "1.6.32",
        "sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        "MIT", "plots", ("dist/uPlot.esm.js", "dist/uPlot.min.css", "LICENSE"),
    ),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare what lies there with vendor.json")
    return check() if parser.parse_args().check else fetch_all()


def fetch_all() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "vendor"
        rows = [row(package, take(package, Path(scratch), staged / package.folder)) for package in PACKAGES]
        size = sum(file.stat().st_size for file in staged.rglob("*") if file.is_file())
        if size > CEILING:
            print(f"the libraries take {size:,} bytes; the ceiling is {CEILING:,}", file=sys.stderr)
            return 1
        (staged / "vendor.json").write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
        shutil.rmtree(VENDOR, ignore_errors=True)
        shutil.copytree(staged, VENDOR)
    print(f"{len(rows)} packages, {size:,} bytes, in {VENDOR}")
    return 0


def take(package: Package, scratch: Path, into: Path) -> list[Path]:
    """The package's named files, its tarball verified first. Ends the program where the tarball is another one."""
    packed = subprocess.run(
        ["npm", "pack", "--json", "--pack-destination", str(scratch), f"{package.name}@{package.version}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    tarball = scratch / json.loads(packed.stdout)[0]["filename"]
    found = "sha512-" + base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if found != package.integrity:
        sys.exit(f"{package.name} {package.version} is {found}, pinned is {package.integrity or 'nothing'}")
    taken = []
    with tarfile.open(tarball) as archive:
        members = {member.name.split("/", 1)[1]: member for member in archive.getmembers() if member.isfile()}
        for wanted in package.files:
            folder, star, ending = wanted.partition("*")
            names = [n for n in members if n.startswith(folder) and n.endswith(ending)] if star else [wanted]
            for name in sorted(names):
                source = archive.extractfile(members[name])
                assert source is not None
                file = into / re.sub(r"^(dist/|preact/|es/|browser/)+", "", name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(source.read())
                taken.append(file)
    return taken


def row(package: Package, files: list[Path]) -> dict[str, object]:
    folder = next(parent for parent in files[0].parents if parent.name == package.folder)
    return {
        "name": package.name,
        "version": package.version,
        "licence": package.licence,
        "why": package.why,
        "integrity": package.integrity,
        "folder": package.folder,
        "files": {file.relative_to(folder).as_posix(): sha256(file) for file in files},
    }


def check() -> int:
    """0 where every vendored file is the one that vendor.json names, and no other is there."""
    rows = json.loads((VENDOR / "vendor.json").read_text("utf-8"))
    named = {f"{row['folder']}/{name}": digest for row in rows for name, digest in row["files"].items()}
    there = {
        file.relative_to(VENDOR).as_posix(): sha256(file)
        for file in VENDOR.rglob("*")
        if file.is_file() and file.name != "vendor.json"
    }
    wrong = sorted(name for name in named.keys() | there.keys() if named.get(name) != there.get(name))
    for name in wrong:
        print(f"{name}: not as vendor.json says", file=sys.stderr)
    return 1 if wrong else 0


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
