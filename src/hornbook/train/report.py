"""A run as one page: report.html, which needs nothing beside it, no network and no script.

    write(folder) -> folder/report.html          also of a run that failed, was killed or is going on

Whatever the page shows was written by others (data, a model, a person's paths): all of it is escaped, and stands isolated
from the direction of the text around it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from hornbook.errors import StoreError
from hornbook.train.history import RECENT, History, Sample, read
from hornbook.train.plots import Plot

NAME = "report.html"
_LONGEST = 4000  # characters of a text that is shown
_MOST = 40  # entries of a list, prompts of the samples


def write(folder: Path) -> Path:
    """Write a run's page, whole or not at all; -> its path. Raises UsageError for a folder of no run, StoreError."""
    return put(folder / NAME, html(read(folder)))


def put(path: Path, page: str) -> Path:
    """Write a page, whole or not at all; -> its path. Raises StoreError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(page, "utf-8", errors="replace")
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error}",
            "Check the folder's permissions and the disk's space.",
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def html(history: History) -> str:
    """The page of a run."""
    body = "\n".join(part for part in _parts(history) if part)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(history.folder.name, isolated=False)} · a training run</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _parts(history: History) -> Iterator[str]:
    state = history.state
    about = [str(state.get("recipe") or ""), str(state.get("model") or ""), history.status]
    yield f"<header><h1>{escaped(history.folder.name)}</h1><p>{' · '.join(escaped(word) for word in about if word)}</p></header>"
    if state.get("error"):
        yield f'<p class="error" role="note">{escaped(state["error"])}</p>'
    if history.damaged:
        yield f'<p class="error" role="note">{history.damaged:,} lines of this run could not be read and are left out.</p>'
    yield (
        "<dl>"
        + "".join(f"<div><dt>{name}</dt><dd>{escaped(value)}</dd></div>" for name, value in figures(history))
        + "</dl>"
    )
    for plot in plots(history):
        yield _plot(plot)
    yield _samples(history.samples)
    yield _section("Data", _value(history.account) if history.account else "")
    recipe = yaml.safe_dump(history.recipe, sort_keys=False, allow_unicode=True) if history.recipe else ""
    yield _section("Recipe", f'<pre tabindex="0">{escaped(recipe)}</pre>' if recipe else "")
    yield _section("Environment", _value(history.environment) if history.environment else "")


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{title}</h2>{inside}</section>" if inside else ""


# -------------------------------------------------------------------------------------------------------- numbers


def figures(history: History) -> list[tuple[str, str]]:
    """What a person wants to know first: (name, value)."""
    losses = [value for value in history.numbers["loss"] if value is not None]
    seconds = sum(value or 0.0 for value in history.numbers["seconds"])
    tokens = sum(value or 0.0 for value in history.numbers["tokens"])
    memory = max((value for value in history.numbers["memory"] if value is not None), default=0.0)
    step, steps = (history.steps or [0])[-1], history.state.get("steps")
    found = [("steps", f"{step:,} of {steps:,}" if isinstance(steps, int) else f"{step:,}")]
    if losses:
        last = losses[-RECENT:]
        found.append(("training loss", f"{losses[0]:.4g} → {sum(last) / len(last):.4g}"))
    if history.validations:
        first, last_one = history.validations[0], history.validations[-1]
        best = min(history.validations, key=lambda one: one.loss)
        found.append(("held-out loss", f"{first.loss:.4g} → {last_one.loss:.4g}"))
        if best.step != last_one.step:
            found.append(("its best", f"{best.loss:.4g} at step {best.step:,}"))
    if seconds:
        found.append(("time in steps", duration(seconds)))
    if tokens:
        found.append(("tokens", f"{tokens:,.0f}"))
        if seconds:
            found.append(("tokens a second", f"{tokens / seconds:,.0f}"))
    if memory:
        found.append(("most memory", gigabytes(memory)))
    return found


def plots(history: History) -> list[Plot]:
    """The courses of a run, those without a number left out."""
    steps, numbers = history.steps, history.numbers
    speed = [
        tokens / seconds if tokens and seconds else None
        for tokens, seconds in zip(numbers["tokens"], numbers["seconds"], strict=True)
    ]
    norms = [value for value in numbers["gradient_norm"] if value]
    wide = bool(norms) and max(norms) > 30 * min(norms)
    made = [
        Plot("loss", "Loss", steps, numbers["loss"], history.validations, "held-out loss"),
        *(
            Plot(f"part-{place}", f"Loss: {name}", steps, values)
            for place, (name, values) in enumerate(list(history.parts.items())[:_MOST])
            if len(history.parts) > 1
        ),
        Plot(
            "rate", "Learning rate", steps, numbers["rate"], zero=True, smooth=False, write=lambda value: f"{value:.3g}"
        ),
        Plot("norm", "Norm of the gradient, before clipping", steps, numbers["gradient_norm"], log=wide),
        Plot("speed", "Tokens a second", steps, speed, zero=True, write=lambda value: f"{value:,.0f}"),
        Plot("memory", "Most memory so far", steps, numbers["memory"], zero=True, smooth=False, write=gigabytes),
    ]
    return [plot for plot in made if plot.dots or any(value is not None for value in plot.values)]


def _plot(plot: Plot) -> str:
    key = f'<span class="key line-key"></span>each step{", smoothed" * plot.smooth}'
    if plot.dots:
        key += f' <span class="key dot-key"></span>{escape(plot.dots_called)}'
    rows = "".join(f"<tr><td>{step:,}</td><td>{plot.write(value)}</td></tr>" for step, value in plot.dots[-200:])
    table = (
        f"<details><summary>{escape(plot.dots_called.capitalize())} in numbers</summary>"
        f'<table><thead><tr><th scope="col">step</th><th scope="col">loss</th></tr></thead><tbody>{rows}</tbody></table></details>'
        if plot.dots
        else ""
    )
    return (
        f"<section><h2>{escaped(plot.title)}</h2><p class=keys>{key}</p><figure>{plot.svg()}</figure>{table}</section>"
    )


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


# ---------------------------------------------------------------------------------------------------------- texts


def escaped(value: object, *, isolated: bool = True) -> str:
    """Any text as HTML that shows it: escaped, its control characters visible, its direction its own.

    ``isolated``: in an element that says so, which a title cannot hold.
    """
    shown = str(value)
    if len(shown) > _LONGEST:
        shown = f"{shown[:_LONGEST]}… ({len(shown) - _LONGEST:,} more characters)"
    text = escape("".join(map(_visible, shown)))
    return f"<bdi>{text}</bdi>" if isolated else text


def _visible(char: str) -> str:
    if char in "\n\t" or (char >= " " and char not in "\x7f\ufffe\uffff" and not "\ud800" <= char <= "\udfff"):
        return char
    return chr(0x2400 + ord(char)) if char < " " else "\N{REPLACEMENT CHARACTER}"


def _samples(samples: Sequence[Sample]) -> str:
    """What the model said to each prompt first and last."""
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, []).append(sample)
    rows = []
    for prompt, said in list(by_prompt.items())[:_MOST]:
        ends = [said[0], said[-1]] if len(said) > 1 else [said[0]]
        replies = "".join(
            f"<div><h4>{'before the first step' if one.step == 0 else f'after step {one.step:,}'}</h4><blockquote>{escaped(one.reply)}</blockquote></div>"
            for one in ends
        )
        rows.append(f"<article><h3>{escaped(prompt)}</h3><div class=replies>{replies}</div></article>")
    left = len(by_prompt) - len(rows)
    return _section("What it says", "".join(rows) + (f"<p>… and {left:,} more prompts</p>" if left > 0 else ""))


def _value(value: Any, depth: int = 0) -> str:
    """A tree of JSON as tables; the large ones inside others are folded."""
    if isinstance(value, Mapping) and value and depth < 4:
        rows = "".join(
            f'<tr><th scope="row">{escaped(str(name).replace("_", " "))}</th><td>{_value(inner, depth + 1)}</td></tr>'
            for name, inner in list(value.items())[: 5 * _MOST]
        )
        table = f"<table>{rows}</table>"
        return (
            f"<details><summary>{len(value)} entries</summary>{table}</details>" if depth and len(value) > 14 else table
        )
    if isinstance(value, list) and value:
        shown = [_value(inner, depth + 1) for inner in value[:_MOST]]
        more = f"… and {len(value) - _MOST:,} more" if len(value) > _MOST else ""
        if any(isinstance(inner, Mapping | list) for inner in value):
            return f"<ul>{''.join(f'<li>{inner}</li>' for inner in [*shown, *([more] if more else [])])}</ul>"
        return ", ".join([*shown, *([more] if more else [])])
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping | list):
        return escaped(value) if value else "none"
    return f"{value:.6g}" if isinstance(value, float) else escaped(value)


_STYLE = """
:root{--paper:#fff;--ink:#1f2328;--muted:#59636e;--grid:#d1d9e0;--first:#0969da;--second:#bc4c00;--soft:#f3f5f7;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--muted:#9198a1;--grid:#30363d;--first:#58a6ff;--second:#f0883e;--soft:#161b22;--bad:#ff7b72}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:52rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{margin:0;font-size:1.6rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .2rem}h3{font-size:1rem;margin:1.2rem 0 .4rem;white-space:pre-wrap;overflow-wrap:anywhere}
h4{margin:0;font-size:.8rem;font-weight:400;color:var(--muted)}
header p,.keys{margin:0;color:var(--muted)}.keys{font-size:.85rem}
.error{border-left:4px solid var(--bad);padding:.4rem .8rem;background:var(--soft);overflow-wrap:anywhere;white-space:pre-wrap}
dl{display:flex;flex-wrap:wrap;gap:.6rem 2rem;margin:1.2rem 0 0}dt{font-size:.8rem;color:var(--muted)}dd{margin:0;font-size:1.15rem;font-variant-numeric:tabular-nums}
figure{margin:.3rem 0 0}svg{display:block;width:100%;height:auto}
.grid{stroke:var(--grid);fill:none}.label{fill:var(--muted);font:11px system-ui,sans-serif;font-variant-numeric:tabular-nums}
.band{fill:var(--first);opacity:.25}.line{stroke:var(--first);stroke-width:2;fill:none;stroke-linejoin:round;stroke-linecap:round}.dot{fill:var(--second);stroke:var(--paper)}
.key{display:inline-block;margin:0 .35rem 0 0;vertical-align:middle}.line-key{width:1.2rem;height:2px;background:var(--first)}.dot-key{width:8px;height:8px;border-radius:50%;background:var(--second);margin-left:1rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}td,th{padding:.15rem .9rem .15rem 0;text-align:left;vertical-align:top;font-weight:400}td{overflow-wrap:anywhere}th{color:var(--muted)}
ul{margin:0;padding-left:1.1rem}details{font-size:.9rem;color:var(--muted)}
pre{background:var(--soft);padding:.8rem;overflow:auto;font-size:.85rem}
blockquote{margin:.2rem 0 0;padding:.5rem .8rem;background:var(--soft);white-space:pre-wrap;overflow-wrap:anywhere}
.replies{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:.8rem}
@media print{:root{--paper:#fff;--ink:#000;--muted:#444}}
"""
