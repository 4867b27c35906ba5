"""A run's folder is read as it is, also half written; its page shows the numbers, and nothing in it can do harm."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import filelock
import pytest

from fake_runs import make_run, step, validation
from hornbook.errors import StoreError, UsageError
from hornbook.train import history, plots, report
from hornbook.train.plots import Plot, condense, ticks

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\x1b[31m\x00\ud800 \"'&"


class Elements(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_run_is_read_with_gaps_a_line_under_way_and_a_damaged_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", 3, every=3, samples=[(0, "p", "r")])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(step(4, None, memory="much", parts={"tokens": 1.0, "router": 0.1})) + "\n")
        file.write('not JSON\n{"loss": 1}\n[1]\n{"step": 5, "lo')
    (folder / "samples.jsonl").open("a").write('{"step": 1}\n')
    found = history.read(folder)
    assert found.steps == [1, 2, 3, 4] and found.numbers["loss"][3] is None and found.numbers["memory"][3] is None
    assert found.parts["router"] == [None, None, None, 0.1]
    assert [at.step for at in found.validations] == [0, 3] and len(found.samples) == 1
    assert found.damaged == 4, "the line that is still being written is not damaged"
    assert found.recipe["training"] == {"rate": 0.001} and found.account["examples"] == 1234567


def test_a_summary_reads_the_end_and_agrees_with_the_whole(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", 5000, every=1000)
    short, whole = history.summarise(folder), history.read(folder)
    losses = whole.numbers["loss"][-history.RECENT :]
    assert short.loss == pytest.approx(sum(losses) / len(losses))  # type: ignore[arg-type]
    assert (short.step, short.steps, short.validation) == (5000, 5000, whole.validations[-1])
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(step(number, 2.0)) + "\n" for number in range(5001, 6001))
    assert history.summarise(folder).validation == whole.validations[-1], "it lies a thousand lines back"
    empty = make_run(tmp_path / "b", 0)
    (empty / "metrics.jsonl").unlink()
    assert (history.summarise(empty).loss, history.summarise(empty).validation) == (None, None)


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    over = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    folder = make_run(tmp_path / "a", 3, status="running", pid=int(over.stdout))
    assert history.summarise(folder).status == "interrupted"
    for pid, status in ((os.getpid(), "running"), (None, "interrupted"), (-1, "interrupted"), (1 << 80, "interrupted")):
        (folder / "state.json").write_text(json.dumps({"status": "running", "pid": pid}))
        assert history.summarise(folder).status == status
    with filelock.FileLock(folder / ".lock"):
        assert history.summarise(folder).status == "running", "the lock is held: the number may be another machine's"
    (folder / "state.json").write_text(json.dumps({"status": "running", "pid": os.getpid()}))
    (folder / ".lock").touch()
    assert history.summarise(folder).status == "interrupted", "the lock is free: the number is another process's now"


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    for content, said in ((None, "has no state.json"), ("{", "cannot be read"), ("[]", "not that of a run")):
        if content is not None:
            (tmp_path / "state.json").write_text(content)
        with pytest.raises(UsageError, match=said):
            history.read(tmp_path)


def test_a_tail_gives_whole_lines_once_and_begins_anew_where_a_run_went_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = history.Tail(tmp_path)
    assert tail.new() == (False, [])
    path.write_text('{"step": 1}\n{"ste')
    assert tail.new() == (False, [{"step": 1}]) and tail.new() == (False, [])
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert tail.new() == (False, [{"step": 2}])
    path.write_text('{"step": 1}\n')
    assert tail.new() == (True, [{"step": 1}])


# ----------------------------------------------------------------------------------------------------------- plots


def test_a_course_is_condensed_but_no_peak_is_lost() -> None:
    steps = list(range(1, 100_001))
    values: list[float | None] = [1.0] * 100_000
    values[77_777] = 9.0
    values[:1000] = [None] * 1000
    spans = list(condense(steps, values, 320))
    assert len(spans) == 320 and spans[0] is None and max(span.high for span in spans if span) == 9.0
    assert min(span.mean for span in spans if span) == 1.0
    svg = Plot("a", "Loss", steps, values).svg()
    assert len(svg) < 20_000 and "NaN" not in svg and "inf" not in svg
    assert list(condense([5], [2.0], 320)) == [(5.0, 2.0, 2.0, 2.0)] and list(condense([], [], 320)) == []


@pytest.mark.parametrize(
    "values", [[3.0], [0.0, 0.0], [1e-9, 1e9], [None, 2.0, None], [-1.0, 1.0], [1e99, 2.0], [5e-324, 1.0]]
)  # fmt: skip
@pytest.mark.parametrize("log", [False, True])
def test_any_numbers_lie_inside_the_picture(values: list[float | None], log: bool) -> None:
    svg = Plot("a", "T", range(1, len(values) + 1), values, log=log, zero=not log).svg()
    drawn = re.findall(r'class="(?:line|band)" d="M([^"]*)"', svg)
    assert drawn
    for x, y in (map(float, point.strip("Z").split()) for path in drawn for point in path.split("L")):
        assert 0 <= x <= plots.WIDTH and 0 <= y <= plots.HEIGHT
    assert Plot("a", "T", [1], [None]).svg() == ""


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(1, 100_000, 6) == [20_000, 40_000, 60_000, 80_000, 100_000]
    assert ticks(0.93, 1.07, 5) == pytest.approx([0.95, 1.0, 1.05])


# ------------------------------------------------------------------------------------------------------------ page


def test_the_page_tells_the_run_in_words_too(tmp_path: Path) -> None:
    samples = [(0, "Was ist das?", "das das"), (50, "Was ist das?", "Ein"), (100, "Was ist das?", "角帳です。")]
    page = report.write(make_run(tmp_path / "mine", samples=samples)).read_text("utf-8")
    text = Elements(page).text
    for said in (
        "mine", "sft · smollm2:135m · finished", "100 of 100", "4.5 → 1.52", "before the first step", "after step 100",
        "das das", "角帳です。", "1,234,567", "角.jsonl", "rate: 0.001", "2.13", "2.00 GB", "20,000",
        "4.5 at step 0, 1.52 at step 100", "held-out loss", "Learning rate", "Norm of the gradient", "Tokens a second",
    ):  # fmt: skip
        assert said in text, said
    assert "Ein" not in text, "first and last reply are enough"
    assert page.count("<svg") == 5 == page.count('role="img"') and "prefers-color-scheme:dark" in page
    assert text.count("Loss:") == 0, "a loss of one term needs no picture of it"


def test_an_unfinished_an_empty_and_a_failed_run_have_a_page(tmp_path: Path) -> None:
    failed = make_run(tmp_path / "a", 3, status="failed", error="the loss of step 4 is not a number")
    with (failed / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(step(4, 1.0, parts={"tokens": 0.9, "router": 0.1})) + "\nbroken\n")
    text = Elements(report.write(failed).read_text("utf-8")).text
    assert (
        "step 4 is not a number" in text and "1 lines of this run could not be read" in text and "Loss: router" in text
    )
    bare = tmp_path / "b"
    bare.mkdir()
    (bare / "state.json").write_text('{"status": "running"}')
    page = report.write(bare).read_text("utf-8")
    assert "interrupted" in page and "<svg" not in page
    with pytest.raises(UsageError, match="is no run"):
        report.write(tmp_path)
    (bare / "report.html").unlink()
    (bare / "report.html").mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        report.write(bare)
    assert not list(bare.glob(".*partial"))


def hostile_run(folder: Path) -> Path:
    recipe = {HOSTILE.replace("\ud800", "").replace("\x00", ""): [HOSTILE.replace("\ud800", "")] * 2}
    return make_run(
        folder, samples=[(0, HOSTILE, HOSTILE), (9, HOSTILE, "x" * 9000)], model=HOSTILE, recipe=recipe, error=HOSTILE
    )


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    folder = hostile_run(tmp_path / "<img src=x onerror=alert(1)>")
    page = report.write(folder).read_bytes().decode()
    found = Elements(page)
    assert {"script", "img", "iframe", "a", "link", "object"}.isdisjoint(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("href", "src")]
    assert "<script>alert(1)</script>" in found.text and "\x00" not in page and "\x1b" not in page
    assert found.text.count("5,000 more characters") == 1
    assert "default-src 'none'" in page


def test_a_real_browser_shows_it_narrow_and_dark(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium is here: apt-get install chromium")
    page = report.write(hostile_run(tmp_path / "run"))
    faults: list[str] = []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 360, "height": 800}, color_scheme="dark", bypass_csp=True)
        shown: Any = context.new_page()
        shown.on("console", lambda said: faults.append(said.text))
        shown.on("dialog", lambda said: (faults.append(said.message), said.dismiss()))
        shown.goto(page.as_uri())
        wide = shown.evaluate("document.documentElement.scrollWidth")
        paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        plotted = shown.get_by_role("img", name="Loss", exact=False).count()
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        found = [one["id"] for one in axe.run(shown).response["violations"] if one["impact"] in ("serious", "critical")]
        browser.close()
    assert (faults, found, paper, wide) == ([], [], "rgb(13, 17, 23)", 360) and plotted >= 1


def test_validation_rows_alone_are_a_picture(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", 0)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(validation(n, 2.0)) + "\n" for n in (0, 10)))
    assert report.write(folder).read_text("utf-8").count("<svg") == 1
