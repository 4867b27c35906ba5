"""An evaluation as one page: the scores with what is uncertain about them, and every item with what a model made of it.

    write(path, outcome)              one model
    write(path, before, after)        two, with their differences and the items that flipped

The page needs nothing beside it and asks nothing of any network. Its one script, named by its hash in the page's own policy,
shows the items from data within the page, some at a time, as text alone. Without a script the scores are all there.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from hornbook.evals.compare import Difference, compare, worse
from hornbook.evals.outcome import Figure, Outcome, Result
from hornbook.evals.report_items import embedded, known_by
from hornbook.evals.shown import chance, error, interval, name, number
from hornbook.train.report import duration, escaped, put

_CERTAIN = 0.05  # a difference with a p above is no difference to speak of
_FOLDED = 12  # groups beyond this are folded


def write(path: Path, *outcomes: Outcome, differences: Sequence[Difference] | None = None) -> Path:
    """Write the page, whole or not at all; -> its path. Raises StoreError; of two outcomes what ``compare`` raises.

    ``differences``: of ``compare``, where they are known already.
    """
    return put(path, html(*outcomes, differences=differences))


def html(*outcomes: Outcome, differences: Sequence[Difference] | None = None) -> str:
    """The page of one outcome, or of two: the baseline first."""
    if not 1 <= len(outcomes) <= 2:
        raise ValueError(f"a page is of one outcome or of two, not of {len(outcomes)}")
    if differences is None:
        differences = compare(*outcomes, common=True) if len(outcomes) == 2 else ()
    style, script = (
        files("hornbook.evals").joinpath("page", file).read_text("utf-8") for file in ("report.css", "report.js")
    )
    names = [one.model.name for one in outcomes]
    tasks = [(task, [_result(one, task) for one in outcomes]) for task in _tasks(outcomes)]
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    body = "\n".join(
        part
        for part in (
            *_head(outcomes),
            _differences(outcomes, differences) if len(outcomes) == 2 else _scores(outcomes[0]),
            *(_groups(task, results, names) for task, results in tasks),
            _items(),
            _explained(len(outcomes) == 2),
        )
        if part
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(" and ".join(names), isolated=False)} · an evaluation</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="data">{embedded(tasks, names)}</script>
<script>{script}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _tasks(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(result.task for one in reversed(outcomes) for result in one.results))


def _result(outcome: Outcome, task: str) -> Result | None:
    return next((one for one in outcome.results if one.task == task), None)


# --------------------------------------------------------------------------------------------------------------- head


def _head(outcomes: Sequence[Outcome]) -> Iterator[str]:
    names = [one.model.name for one in outcomes]
    last = outcomes[-1]
    tasks, items = len(last.results), sum(one.items for one in last.results)
    about = [f"{tasks} task{'s' * (tasks != 1)}", _count(items)]
    if last.limit is not None:
        about.append(f"at most {last.limit:,} of each task")
    about += [last.began.replace("T", " ").removesuffix("+00:00") + " UTC"] if last.began else []
    title = " <small>and</small> ".join(
        f'<span class="{which}">{escaped(one)}</span>' for which, one in zip(("first", "second"), names, strict=False)
    )
    yield f"<header><h1>{title}</h1><p>{' · '.join(map(escaped, about))}</p></header>"
    for one in outcomes:
        for note in one.notes:
            whose = f"{one.model.name}: " if len(outcomes) > 1 else ""
            yield f'<p class="note" role="note">{escaped(whose + note)}</p>'
    rows = "".join(_about(one) for one in outcomes)
    setting = [f"seed {last.setting.seed}"]
    if last.setting.system:
        setting.append(f"system text “{last.setting.system}”")
    yield f"<dl>{rows}<div><dt>setting</dt><dd>{escaped(', '.join(setting))}</dd></div></dl>"


def _about(outcome: Outcome) -> str:
    model = outcome.model
    known = [
        model.source if model.source != model.name else "",
        model.runs_on,
        duration(outcome.seconds) if outcome.seconds else "",
    ]
    if model.fingerprint:
        known.append(f"SHA-256 {model.fingerprint[:12]}…")
    told = " · ".join(one for one in known if one)
    return f"<div><dt>{escaped(model.name)}</dt><dd>{escaped(told)}</dd></div>" if told else ""


# ------------------------------------------------------------------------------------------------------------- scores


def _table(kind: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    """A table that is stacked where it is narrow; its roles are said because that takes them from the elements."""
    head = "".join(f'<th scope="col" role="columnheader">{one}</th>' for one in heads)
    return (
        f'<table class="{kind}" role="table"><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(rows)}</tbody></table>'
    )


def _row(*cells: tuple[str, str]) -> str:
    """Of (class, HTML); the first heads the row."""
    made = "".join(
        f'<th scope="row" role="rowheader" class="{kind}">{inside}</th>'
        if not place
        else f'<td role="cell" class="{kind}">{inside}</td>'
        for place, (kind, inside) in enumerate(cells)
    )
    return f'<tr role="row">{made}</tr>'


def _whose(models: Sequence[str]) -> list[str]:
    """Names as heads of columns, each in its colour."""
    return [
        f'<span class="whose {which}">{escaped(name)}</span>'
        for name, which in zip(models, ("head-first", "head-second"), strict=True)
    ]


def _scores(outcome: Outcome) -> str:
    rows = [
        _row(
            ("task", escaped(result.task) if not place else f'<span class="again">{escaped(result.task)}</span>'),
            ("metric", escaped(name(figure.name, figure.higher_is_better))),
            ("drawn", _bars([figure])),
            ("value", _value(figure)),
            ("interval", interval(figure.low, figure.high, figure.percent)),
            ("about", _asked(result) if not place else ""),
        )
        for result in outcome.results
        for place, figure in enumerate(result.figures)
    ]
    return "<section><h2>Scores</h2>" + _table(
        "scores", ("task", "metric", "", "value", "95 % interval", "asked"), rows
    ) + "</section>"  # fmt: skip


def _asked(result: Result) -> str:
    told = [_count(result.items)]
    if result.shots:
        told.append(f"{result.shots} shot{'s' * (result.shots != 1)}")
    if result.chat:
        told.append("chat")
    return ", ".join(told)


def _count(items: int) -> str:
    return f"{items:,} item{'s' * (items != 1)}"


def _value(figure: Figure) -> str:
    return (
        f"<b>{number(figure.value, figure.percent)}</b> <span class=error>{error(figure.stderr, figure.percent)}</span>"
    )


def _differences(outcomes: Sequence[Outcome], differences: Sequence[Difference]) -> str:
    before, after = outcomes
    widest = max(
        (abs(end) for one in differences if one.percent for end in (one.low, one.high) if end is not None), default=0
    )
    rows = []
    said = ""
    for one in differences:
        sure = one.p <= _CERTAIN
        good = (one.value > 0) == one.higher_is_better
        verdict = (
            "too few items" if one.stderr is None else ("better" if good else "worse") if sure else "within chance"
        )
        rows.append(
            _row(
                ("task", escaped(one.task) if one.task != said else f'<span class="again">{escaped(one.task)}</span>'),
                ("metric", escaped(name(one.metric, one.higher_is_better))),
                ("first value", number(one.before, one.percent)),
                ("second value", number(one.after, one.percent)),
                ("drawn", _apart(one, widest) if one.percent and widest else ""),
                ("value", f"<b>{number(one.value, one.percent, signed=True)}</b>"),
                ("interval", interval(one.low, one.high, one.percent, signed=True)),
                ("about", f'<span class="{verdict if sure else "even"}">{verdict}</span><br> p {chance(one.p)}'),
            )
        )  # fmt: skip
        said = one.task
    lost = worse(differences)
    judged = len({one.task for one in differences})
    verdict = f"{escaped(after.model.name)} is worse than {escaped(before.model.name)} " + (
        f"at {', '.join(escaped(one.task) for one, _ in lost)}, beyond chance" if lost else "nowhere beyond chance"
    )
    verdict += f" (one-sided, corrected for {judged} tasks)." if judged > 1 else " (one-sided)."
    heads = (
        "task", "metric", *_whose([before.model.name, after.model.name]), "", "difference", "95 % interval", ""
    )  # fmt: skip
    known = {result.task: known_by(result) for result in after.results}
    flipped = "".join(_flipped(one, one.metric == known.get(one.task)) for one in differences)
    return (
        f"<section><h2>Differences</h2><p>{verdict}</p>{_table('differences', heads, rows)}"
        + (f"<h3>Items that differ</h3><ul>{flipped}</ul>" if flipped else "")
        + "</section>"
    )


def _flipped(one: Difference, shown: bool) -> str:
    """How many items' grades differ. ``shown``: the list of items tells them by this metric."""
    if not (one.better or one.worse or one.left_out):
        return ""

    def items(count: int, show: str) -> str:
        text = _count(count)
        to = escaped(f"#task={quote(one.task, errors='replace')}&show={show}", isolated=False)
        return f'<a href="{to}">{text}</a>' if shown and count else text

    told = f"{items(len(one.better), 'up')} better, {items(len(one.worse), 'down')} worse, of {one.items:,}"
    alone = f"; {one.left_out:,} have a grade from one model only" if one.left_out else ""
    return f"<li>{escaped(one.task)}, {escaped(one.metric)}: {told}{alone}</li>"


# -------------------------------------------------------------------------------------------------------------- bars


def _bars(figures: Sequence[Figure]) -> str:
    """Shares as bars of which the whole width is 1, each with its interval; nothing for other numbers."""
    if not all(one.percent and one.value is not None for one in figures):
        return ""
    high = 12 // len(figures)
    told = "; ".join(
        f"{number(one.value, True)}, between {number(one.low, True)} and {number(one.high, True)}" for one in figures
    )
    drawn = f'<rect class="track" x="0" y="1" width="100" height="{high * len(figures)}"/>'
    for place, one in enumerate(figures):
        top = 1 + place * high
        which = ("fill-first", "fill-second")[place]
        drawn += f'<rect class="{which}" x="0" y="{top}" width="{_at(one.value)}" height="{high}"/>'
        if one.low is not None and one.high is not None:
            middle = top + high / 2
            drawn += f'<path class="ends" d="M{_at(one.low)} {middle}H{_at(one.high)}"/>'
    return f'<svg viewBox="0 0 100 14" preserveAspectRatio="none" role="img" aria-label="{told}">{drawn}</svg>'


def _apart(one: Difference, widest: float) -> str:
    """A difference and its interval around 0, which stands in the middle."""

    def at(value: float) -> str:
        return f"{50 + 48 * value / widest:.2f}"

    drawn = '<path class="zero" d="M50 0V14"/>'
    if one.low is not None and one.high is not None:
        drawn += f'<path class="ends" d="M{at(one.low)} 7H{at(one.high)}"/>'
    sure = one.p <= _CERTAIN
    kind = "even" if not sure else "good" if (one.value > 0) == one.higher_is_better else "bad"
    drawn += f'<path class="point {kind}" d="M{at(one.value)} 3V11"/>'
    told = f"{number(one.value, True, signed=True)}, between {interval(one.low, one.high, True, signed=True)}"
    return f'<svg viewBox="0 0 100 14" preserveAspectRatio="none" role="img" aria-label="{told}">{drawn}</svg>'


def _at(share: float | None) -> str:
    return f"{100 * min(max(share or 0.0, 0.0), 1.0):.2f}"


# ------------------------------------------------------------------------------------------------------------- groups


def _groups(task: str, results: Sequence[Result | None], models: Sequence[str]) -> str:
    """The parts of a task, by the metric it is known by."""
    there = [{group.name: group for group in result.groups} if result else {} for result in results]
    names = list(dict.fromkeys(name for groups in reversed(there) for name in groups))
    if not names:
        return ""
    rows = []
    for group in names:
        found = [groups[group].figures[0] if group in groups else None for groups in there]
        known = [one for one in found if one is not None]
        items = max(groups[group].items for groups in there if group in groups)
        values = [
            ("value", _value(one) if one and len(models) == 1 else number(one.value, one.percent) if one else number(None, True))
            for one in found
        ]  # fmt: skip
        rows.append(
            _row(
                ("task", escaped(group)),
                ("drawn", _bars(known) if len(known) == len(models) else ""),
                *values,
                ("about", _count(items)),
            )
        )
    heads = ("group", "", *(_whose(models) if len(models) > 1 else ("value",)), "")
    inside = _table("groups", heads, rows)
    figure = next(result.groups[0].figures[0] for result in results if result and result.groups)
    if len(names) > _FOLDED:
        inside = f"<details><summary>{len(names)} groups</summary>{inside}</details>"
    return f"<section><h2>{escaped(task)}: {escaped(name(figure.name, figure.higher_is_better))} by group</h2>{inside}</section>"


# -------------------------------------------------------------------------------------------------------------- items


def _items() -> str:
    return """<section id="items"><h2>Items</h2>
<noscript><p class="note">Reading items needs this page's script; the run's folder holds them too, with --log-samples.</p></noscript>
<form class="controls" hidden>
<label>Task <select id="task"></select></label>
<label>Show <select id="show"></select></label>
<label id="groups">Group <select id="group"></select></label>
<label class="search">Search <input id="search" type="search" autocomplete="off" spellcheck="false"></label>
</form>
<p class="keys"><output id="count" aria-live="polite"></output> <span class="hint" hidden><kbd>/</kbd> search <kbd>j</kbd> <kbd>k</kbd> next, previous <kbd>Enter</kbd> opens <kbd>f</kbd> next filter</span></p>
<div id="list"></div>
</section>"""


def _explained(two: bool) -> str:
    apart = (
        "<p>A difference is that of the same items with both models, and its interval is of those pairs, which is why it can be "
        "narrower than the two scores let one think. p is how often a difference as large would come by chance between two "
        "models that are equally good: the exact McNemar test where an item is right or wrong and stands alone, else a test "
        "that swaps the two models' answers at random, by whole clusters where items hang together.</p>"
    )
    return (
        "<section><details><summary>How to read these numbers</summary><p>Shares are shown times a hundred. What follows ± is one "
        "standard error. The 95 % interval holds the score that the model would get on endlessly many items of the same kind, "
        "in 95 of 100 evaluations: Wilson’s for shares, Student’s for other means, by resampling the items "
        "for everything else. Items that hang together, such as questions about one passage, count as clusters, as the notes "
        f"above say of a task that has them. ↓: less is better.</p>{apart if two else ''}</details></section>"
    )
