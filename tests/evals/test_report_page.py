"""The page of an evaluation: a stranger reads scores, and finds why an item failed; nothing in it can do harm."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_outcomes import HOSTILE, choices, outcome

from hornbook.errors import DataError, StoreError
from hornbook.evals.outcome import Asked
from hornbook.evals.report import html, write
from real_browser import SCREENS, serious


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


# ------------------------------------------------------------------------------------------------------ without script


def test_scores_stand_in_the_page_with_their_uncertainty_and_a_drawing() -> None:
    made = outcome("smollm2:135m", 0, notes=("3 items stand in its training data",), limit=60)
    page = html(made)
    figure = made.result("quiz").figure()
    assert figure.value is not None and figure.stderr is not None and figure.low is not None
    assert f"<b>{100 * figure.value:.2f}</b> <span class=error>± {100 * figure.stderr:.2f}</span>" in page
    assert f'd="M{100 * figure.low:.2f} 7.0H' in page, "the interval is drawn where it is"
    seen = Elements(page)
    for said in (
        "smollm2:135m",
        "4 tasks",
        "78 items",
        "at most 60",
        "3 items stand in its",
        "60 items, 5 shots",
        "历史",
    ):
        assert said in seen.text
    assert "bits_per_byte ↓" in seen.text and seen.tags.count("svg") == 5 + 2, "what is no share has no bar"


def test_differences_are_told_with_their_verdict() -> None:
    a, b = outcome("a", 1), outcome("b", 0)
    seen = Elements(html(a, b)).text
    assert "b is worse than a at quiz, beyond chance (one-sided, corrected for 4 tasks)." in seen
    assert re.search(r"quizacc58\.3326\.67−31\.67−\d+\.\d+ … −\d+\.\d+worse p < 0\.001", seen)
    assert "quiz, acc: 0 items better, 19 items worse, of 60" in seen
    assert "b is worse than a nowhere beyond chance" in Elements(html(b, a)).text.replace("a is", "b is").replace(
        "than b", "than a"
    )
    other = outcome("b", 0, replace(choices(0), version="2"))
    with pytest.raises(DataError, match="version"):
        html(a, other)
    with pytest.raises(ValueError, match="one outcome or of two"):
        html()


def test_hostile_names_are_text() -> None:
    results = tuple(replace(one, task=HOSTILE) for one in (choices(0, hostile=True),))
    made = outcome(HOSTILE, 0, *results, notes=(HOSTILE,))
    page = html(made, outcome("other", 1, replace(choices(1, hostile=True), task=HOSTILE)))
    seen = Elements(page)
    assert seen.tags.count("script") == 2 and "img" not in seen.tags
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name == "style"]
    assert all(value and value.startswith("#task=") for name, value in seen.attributes if name in ("href", "src"))
    assert "\x1b" not in page and "\x00" not in page and page.encode("utf-8", errors="replace")


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write(tmp_path / "report.html", outcome("a", 0))
    assert path.read_text("utf-8") == html(outcome("a", 0)) and list(tmp_path.iterdir()) == [path]
    with pytest.raises(StoreError, match="cannot be written"):
        write(tmp_path / "absent" / "report.html", outcome("a", 0))


# ---------------------------------------------------------------------------------------------------------- in a browser

Opened = Callable[..., Any]


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Opened]:
    """``opened(outcome, ..., width=360, theme="dark")``: the page in a tab; nothing may go wrong or out in it."""
    contexts: list[Any] = []
    faults: list[str] = []
    asked: list[str] = []

    def begin(*outcomes: Any, width: int = 1100, theme: str = "light", address: str = "") -> Any:
        path = write(tmp_path / f"report-{len(contexts)}.html", *outcomes)
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: faults.append(said.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{path}{address}")
        page.wait_for_selector("#count:not(:empty)")
        return page

    yield begin
    for context in contexts:
        context.close()
    assert faults == []
    assert [url for url in asked if not url.startswith("file://")] == []


def ids(page: Any) -> list[str]:
    return [one.strip() for one in page.locator(".item .id").all_inner_texts()]


def counts(page: Any, text: str) -> None:
    """Wait until so many items are said to be there."""
    page.locator(f"#count:text-is('{text}')").wait_for()


def unfold(page: Any) -> None:
    """Open the first item."""
    page.locator(".item > summary").first.click()
    page.wait_for_selector(".item[open] .inside")


def test_a_person_finds_why_an_item_failed(opened: Opened) -> None:
    made = outcome("m", 0)
    page = opened(made)
    acc = dict(zip(made.result("quiz").ids, made.result("quiz").columns["acc"], strict=True))
    listed = ids(page)
    assert [acc[id] for id in listed] == sorted(acc.values()) and len(listed) == 60, "failures first"
    page.select_option("#show", "failed0")
    wrong = [id for id, value in acc.items() if not value]
    assert ids(page) == wrong and page.inner_text("#count") == f"{len(wrong)} of 60 items"
    page.select_option("#group", "历史")
    assert set(ids(page)) == {id for id in wrong if int(id.split("-")[1]) % 3 == 0}
    unfold(page)
    inside = page.locator(".item .inside").first
    said = inside.inner_text()
    assert "which of these is number" in said and "about gravity" not in said
    assert inside.locator("tr:has(.right) .text").inner_text().split() == ["south", "✓"]
    assert inside.locator("tr:has(.likeliest) .text").inner_text().strip() == "north"
    inside.locator("summary").click()
    inside.get_by_text("solved example 4").wait_for()
    assert "acc\t0" in inside.locator(".grades").inner_text()


def test_search_looks_at_what_is_an_item_s_own(opened: Opened) -> None:
    page = opened(outcome("m", 0))
    page.keyboard.press("/")
    page.keyboard.type("number 17?")
    counts(page, "1 of 60 items")
    assert ids(page) == ["quiz-17"] and page.locator("mark").all_inner_texts() == ["number", "17?"]
    page.fill("#search", "gravity")
    counts(page, "0 of 60 items")
    page.fill("#search", "东方 ＮＵＭＢＥＲ")
    counts(page, "60 items")


def test_answers_of_every_kind_are_shown(opened: Opened) -> None:
    page = opened(outcome("m", 0), address="#task=reading&search=reading-4")
    assert ids(page) == ["reading-4"], "an address leads to what was looked at"
    unfold(page)
    said = page.locator(".inside").inner_text()
    assert "system\nBe brief.\nuser\n请问第 4 个问题" in re.sub(r"\n+", "\n", said) and "(nothing)" in said
    page.fill("#search", "")
    page.select_option("#task", label="perplexity:tales")
    counts(page, "5 items")
    assert page.locator("#show option").count() == 1, "no item of it is right or wrong"
    unfold(page)
    assert "of 200 tokens" in page.locator(".inside").first.inner_text()
    page.select_option("#task", label="rag")
    unfold(page)
    assert '"path": "b.pdf"' in page.locator(".inside").inner_text() and "Where does it stand?" in page.inner_text(
        ".inside"
    )
    assert "task=rag" in page.url


def test_prompts_that_are_chosen_between_stand_in_one_table(opened: Opened) -> None:
    """As WinoGrande puts it: the same end after two beginnings."""
    result = choices(0, items=3)
    asked = tuple(
        Asked("likelihood", f"It fell because the {what}", (" was weak.",), ({"logprob": logprob, "is_greedy": False, "tokens": 3},))
        for what, logprob in (("shelf", -4.5), ("book", -3.25))
    )  # fmt: skip
    samples = [replace(one, asked=asked, target="It fell because the shelf") for one in result.samples]
    page = opened(outcome("m", 0, replace(result, samples=tuple(samples), shots=0)))
    unfold(page)
    rows = page.locator(".inside .options tbody tr").all_inner_texts()
    assert [row.split("\t") for row in rows] == [
        ["It fell because the shelf was weak. ✓", "-4.5", "3"], ["It fell because the book was weak.", "-3.25", "3"]
    ]  # fmt: skip
    assert page.locator(".inside tr:has(.likeliest)").inner_text().startswith("It fell because the book")


def test_two_models_stand_side_by_side_with_what_flipped(opened: Opened) -> None:
    a, b = outcome("old", 1), outcome("new", 0)
    page = opened(a, b)
    before, after = (one.result("quiz").columns["acc"] for one in (a, b))
    lost = [id for id, one, two in zip(a.result("quiz").ids, before, after, strict=True) if one > two]
    assert ids(page)[: len(lost)] == lost, "what was lost comes first"
    page.get_by_role("link", name=f"{len(lost)} items").first.click()
    counts(page, f"{len(lost)} of 60 items")
    assert ids(page) == lost
    assert page.locator(".item .marks").first.inner_text().replace("\n", "") == "✓old: right.✗new: wrong."
    unfold(page)
    assert page.locator(".options thead").inner_text().split("\t")[1:3] == ["old", "new"]
    page.select_option("#task", label="reading")
    page.select_option("#show", "all")
    unfold(page)
    assert page.locator(".inside .sides h4").all_inner_texts() == ["old", "new"]


def test_the_keyboard_reaches_everything(opened: Opened) -> None:
    page = opened(outcome("m", 0))
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector(".item[open] .inside")
    assert page.locator(".item[open] .id").inner_text() == ids(page)[1]
    page.keyboard.press("f")
    assert page.input_value("#show") == "failed0"
    page.keyboard.press("/")
    page.keyboard.type("jkf")
    assert page.input_value("#search") == "jkf", "what is typed is text there"


def test_thousands_of_items_are_there_at_once(opened: Opened) -> None:
    page = opened(outcome("m", 0, choices(0, items=8000)))
    assert page.inner_text("#count") == "8,000 items" and page.locator(".item").count() < 300
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.locator(".item").nth(100).wait_for()
    took = page.evaluate(
        """() => new Promise(done => {
            const began = performance.now(), count = document.querySelector('#count');
            new MutationObserver(() => done(performance.now() - began)).observe(count, {childList: true});
            const box = document.querySelector('#search');
            box.value = 'number 7999'; box.dispatchEvent(new Event('input'));
        })"""
    )
    assert ids(page) == ["quiz-7999"] and took < 3000


def test_hostile_texts_are_shown_and_do_nothing(opened: Opened) -> None:
    hostile = replace(choices(0, hostile=True), task=HOSTILE)
    page = opened(outcome(HOSTILE, 0, hostile))
    page.fill("#search", "quiz-3 onerror")
    counts(page, "1 of 60 items")
    unfold(page)
    assert "</script><script>document.title='taken'" in page.locator(".inside").inner_text()
    assert "taken'" in page.title() and page.title() != "taken" and page.locator("img").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_it_is_readable_in_both_themes_and_on_a_phone(opened: Opened, theme: str, width: int) -> None:
    long = outcome("a-model-with-a-very-long-name-" * 3, 0)
    for name, outcomes in (("one", [outcome("smollm2:135m", 0)]), ("two", [long, outcome("gemma3:270m", 1)])):
        page = opened(*outcomes, theme=theme, width=width)
        unfold(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if (name, theme, width) in (("one", "dark", 360), ("two", "light", 360), ("two", "dark", 1100)):
            assert serious(page) == []
        SCREENS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(SCREENS / f"evaluation-{name}-{theme}-{width}.png"))


def test_no_width_between_lets_anything_stand_out(opened: Opened) -> None:
    page = opened(outcome("SmolLM2-135M-Instruct.Q4_1.gguf", 0), outcome("gemma-3-270m-q4_k_m.gguf", 1))
    for width in (320, 480, 700, 710, 800, 1050, 1060, 1300):
        page.set_viewport_size({"width": width, "height": 600})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_prints_its_scores_and_what_is_open(opened: Opened) -> None:
    page = opened(outcome("m", 0))
    page.emulate_media(media="print")
    assert not page.is_visible(".controls") and page.is_visible(".scores") and page.is_visible(".item summary >> nth=0")
    assert len(page.pdf()) > 10_000
