"""What went, and why: the account of a corpus, for programs (JSON), for a terminal (a table) and to show (one HTML page).

ledger.came(characters, language)             what was read
ledger.went(reason, ...)                      an example that did not stay, with up to `SHOWN` of each reason
ledger.stayed("train", ...)                   one that did
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hornbook.data.example import Place

SHOWN = 3  # examples of each reason
_EXCERPT = 240  # characters of each


@dataclass(slots=True)
class Count:
    """Examples and what is in them; tokens is None where none were counted."""

    examples: int = 0
    characters: int = 0
    tokens: int | None = None

    def add(self, characters: int, tokens: int | None = None) -> None:
        self.examples += 1
        self.characters += characters
        if tokens is not None:
            self.tokens = (self.tokens or 0) + tokens

    def as_dict(self) -> dict[str, int]:
        found = {"examples": self.examples, "characters": self.characters}
        return found if self.tokens is None else {**found, "tokens": self.tokens}


@dataclass
class Ledger:
    """The account while it is kept. Everything in it is a count or one of a few excerpts: its size does not grow."""

    read: Count = field(default_factory=Count)
    gone: dict[str, Count] = field(default_factory=dict)
    kept: dict[str, Count] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)  # how often each repair or mark was made
    changed: Counter[str] = field(default_factory=Counter)  # in how many examples
    languages: Counter[str] = field(default_factory=Counter)  # of what was read
    malformed: list[str] = field(default_factory=list)
    malformed_lines: int = 0
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    sets: dict[str, dict[str, int]] = field(default_factory=dict)  # evaluation sets that were looked for

    def came(self, characters: int, language: str) -> None:
        self.read.add(characters)
        self.languages[language] += 1

    def change(self, changes: Mapping[str, int]) -> None:
        self.changes.update(changes)
        self.changed.update(dict.fromkeys(changes, 1))

    def skipped(self, place: Place, why: str) -> None:
        """A line that could not be read and was passed over."""
        self.malformed_lines += 1
        if len(self.malformed) < SHOWN:
            self.malformed.append(f"{place}: {why}")

    def went(self, reason: str, characters: int, *, place: Place | str | None, detail: str, excerpt: str) -> None:
        self.gone.setdefault(reason, Count()).add(characters)
        shown = self.samples.setdefault(reason, [])
        if len(shown) < SHOWN:
            text = excerpt if len(excerpt) <= _EXCERPT else excerpt[: _EXCERPT - 1] + "…"
            shown.append({"place": str(place or ""), "detail": detail[:_EXCERPT], "text": text})

    def stayed(self, where: str, characters: int, tokens: int | None = None) -> None:
        self.kept.setdefault(where, Count()).add(characters, tokens)

    # ---------------------------------------------------------------------------------------------------- to read it

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON writes it; reasons by how many examples they took, most first."""
        return {
            "read": self.read.as_dict(),
            "kept": {where: count.as_dict() for where, count in self.kept.items()},
            "gone": {reason: {**count.as_dict(), "samples": self.samples[reason]} for reason, count in self._ordered()},
            "changes": {
                name: {"examples": self.changed[name], "times": count} for name, count in self.changes.most_common()
            },
            "languages": dict(self.languages.most_common()),
            "malformed": {"lines": self.malformed_lines, "samples": self.malformed},
            "evaluation_sets": self.sets,
        }

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Ledger:
        """The account that ``as_dict`` wrote, to go on with."""
        return cls(
            read=Count(**said["read"]),
            gone={
                name: Count(**{key: value for key, value in count.items() if key != "samples"})
                for name, count in said["gone"].items()
            },
            kept={where: Count(**count) for where, count in said["kept"].items()},
            changes=Counter({name: count["times"] for name, count in said["changes"].items()}),
            changed=Counter({name: count["examples"] for name, count in said["changes"].items()}),
            languages=Counter(said["languages"]),
            malformed=list(said["malformed"]["samples"]),
            malformed_lines=said["malformed"]["lines"],
            samples={name: list(count["samples"]) for name, count in said["gone"].items()},
            sets={name: dict(held) for name, held in said["evaluation_sets"].items()},
        )

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(what, examples, share of those read, characters), for a table on a terminal."""
        total = max(self.read.examples, 1)

        def line(what: str, count: Count) -> tuple[str, str, str, str]:
            return what, f"{count.examples:,}", f"{count.examples / total:.1%}", f"{count.characters:,}"

        kept = [line(f"kept: {where}", count) for where, count in self.kept.items()]
        return [line("read", self.read), *(line(f"  {reason}", count) for reason, count in self._ordered()), *kept]

    def page(self, title: str) -> str:
        """One HTML page without scripts and without anything from elsewhere. Texts of the corpus are escaped."""
        total = max(self.read.examples, 1)
        parts = [self._bar(where, count, total, "kept") for where, count in self.kept.items()]
        parts += [self._bar(reason, count, total, "gone") for reason, count in self._ordered()]
        changes = [[name, f"{self.changed[name]:,}", f"{count:,}"] for name, count in self.changes.most_common()]
        languages = [[code, f"{count:,}"] for code, count in self.languages.most_common(20)]
        sets = [[name, *(f"{held[key]:,}" for key in ("items", "runs", "short"))] for name, held in self.sets.items()]
        samples = [
            f"<h3>{html.escape(reason)}</h3>"
            + "".join(
                f"<p><small>{html.escape(s['place'])} · {html.escape(s['detail'])}</small><br>{html.escape(s['text'])}</p>"
                for s in shown
            )
            for reason, shown in ((reason, self.samples[reason]) for reason, _ in self._ordered())
        ]
        malformed = "".join(f"<p><small>{html.escape(line)}</small></p>" for line in self.malformed)
        return _PAGE.format(
            title=html.escape(title),
            read=f"{self.read.examples:,} examples, {self.read.characters:,} characters",
            bars="".join(parts),
            changes=_table(["change", "examples", "times"], changes),
            languages=_table(["language", "examples"], languages),
            sets=_table(["evaluation set", "items", "runs looked for", "items too short"], sets),
            malformed=f"<h2>Malformed lines: {self.malformed_lines:,}</h2>{malformed}" if self.malformed_lines else "",
            samples="".join(samples),
        )

    def _ordered(self) -> list[tuple[str, Count]]:
        return sorted(self.gone.items(), key=lambda item: (-item[1].examples, item[0]))

    def _bar(self, what: str, count: Count, total: int, kind: str) -> str:
        share = count.examples / total
        tokens = "" if count.tokens is None else f", {count.tokens:,} tokens"
        return (
            f'<tr><td>{html.escape(what)}</td><td class="n">{count.examples:,}</td><td class="n">{share:.1%}</td>'
            f'<td><svg width="240" height="12" role="img" aria-label="{share:.1%}"><rect class="{kind}" width="{240 * share:.1f}" '
            f'height="12"/></svg></td><td class="n">{count.characters:,} characters{tokens}</td></tr>'
        )


def _table(headers: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in headers)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere }}
table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ padding: .15rem .6rem .15rem 0; text-align: left }}
.n {{ text-align: right; font-variant-numeric: tabular-nums }}
rect.kept {{ fill: #2a7d4f }} rect.gone {{ fill: #b4552d }} small {{ opacity: .75 }}
</style>
<h1>{title}</h1><p>Read: {read}.</p>
<table>{bars}</table>{changes}{languages}{sets}{malformed}<h2>Some of what went</h2>{samples}</html>
"""
