"""The page as a newcomer meets it: a first question, stopping, asking anew, finding it again; and when things go wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from browsing import WAIT, Visit, Visitor
from serving import Server, make_home

LONG = "Tell me a very long story about a lighthouse keeper, with many chapters."


def ask(page: Any, question: str) -> None:
    page.fill("#composer", question)
    page.press("#composer", "Enter")


def reply(page: Any, nth: int = -1) -> Any:
    """The last reply that is done."""
    page.wait_for_selector(".reply:not(.live)", timeout=WAIT)
    page.wait_for_selector(".live", state="detached", timeout=WAIT)
    return page.locator(".reply").nth(nth)


def message(id: str, parent: str | None, role: str, content: str, state: str = "done", **facts: Any) -> dict[str, Any]:
    return {
        "id": id, "conversation": "c1", "parent": parent, "role": role, "content": content, "state": state,
        "created": 1.0, "facts": facts,
    }  # fmt: skip


def showing(seen: Visit, messages: list[dict[str, Any]], title: str = "Shown", **settings: Any) -> Any:
    """The page on a conversation that nobody had: what it draws of it is what is looked at."""
    body = {
        "id": "c1", "title": title, "created": 1, "updated": 1, "leaf": messages[-1]["id"], "settings": settings,
        "messages": messages, "writing": False,
    }  # fmt: skip
    seen.page.route("**/api/hornbook/conversations/c1", lambda route: route.fulfill(json=body))
    page = seen.open("/c/c1")
    page.wait_for_selector(".question")
    return page


# ----------------------------------------------------------------------------------------------------- a newcomer's path


def test_a_newcomer_asks_stops_edits_changes_language_and_theme_and_finds_it_again(
    server: Server, visit: Visitor
) -> None:
    seen = visit(server, tokens=300)
    page = seen.open()
    page.wait_for_selector(".ready")
    assert "smollm2:135m is ready" in page.inner_text(".welcome")
    assert page.evaluate("document.activeElement.id") == "composer", "the cursor is in the composer"
    assert seen.serious() == []
    seen.shot("welcome-light-en-1280")

    page.keyboard.type("Say hello to Marzipan.")  # without a click
    page.keyboard.press("Enter")
    first = reply(page)
    assert first.locator(".prose").inner_text().strip()
    assert re.search(r"smollm2:135m · .*tokens/s", first.inner_text())
    assert re.match(r".*/#/c/\w+$", page.url)

    ask(page, LONG)
    page.wait_for_selector(".live .prose", timeout=WAIT)
    page.press("#composer", "Escape")
    page.wait_for_selector("[data-state=stopped]", timeout=WAIT)
    kept = page.locator("[data-state=stopped] .prose").inner_text()
    assert kept.strip(), "what was written until then stays"

    page.press("#composer", "ArrowUp")
    page.fill(".editing textarea", "What is the capital of France?")
    page.press(".editing textarea", "Enter")
    reply(page)
    versions = page.locator(".question").nth(1).locator(".versions")
    assert "2/2" in versions.inner_text()
    page.locator(".question").nth(1).hover()
    versions.get_by_role("button", name="Previous version").click()
    assert page.locator(".question").nth(1).locator(".asked-text").inner_text() == LONG
    assert kept.strip() in page.locator(".reply").nth(1).inner_text()
    assert seen.serious() == []

    page.get_by_role("button", name="Language").click()
    page.get_by_role("menuitemradio", name="中文").click()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.get_by_role("link", name="新对话").is_visible()
    page.get_by_role("button", name="使用深色").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert seen.serious() == []
    page.fill("#composer", "没有写完的")
    page.reload()
    page.wait_for_selector(".question")
    assert page.evaluate("[document.documentElement.lang, document.documentElement.dataset.theme]") == ["zh-CN", "dark"]
    assert page.input_value("#composer") == "没有写完的", "the draft survives"
    assert page.locator(".question").nth(1).locator(".asked-text").inner_text() == LONG, "so does the branch"

    page.goto(f"{seen.url}/#/")
    page.wait_for_selector(".welcome")
    page.fill("#search", "marzipan")
    page.wait_for_selector(".rail-snippet mark")
    assert page.inner_text(".rail-snippet mark").lower() == "marzipan"
    page.locator(".rail-link", has_text="Marzipan").click()
    page.wait_for_selector(".question")
    assert seen.faults == []
    assert seen.foreign == []


def test_a_reply_goes_on_without_the_tab_and_is_there_on_return(server: Server, visit: Visitor) -> None:
    seen = visit(server, tokens=300)
    page = seen.open()
    ask(page, LONG)
    page.wait_for_selector(".live .prose", timeout=WAIT)
    address, begun = page.url, page.inner_text(".live .prose")
    page.goto("about:blank")  # the tab is closed
    page.goto(address)
    page.wait_for_selector(".reply .prose")
    assert page.inner_text(".reply .prose").startswith(begun[:40].split("\n")[0])
    if page.locator(".live").count():  # still at it
        page.get_by_role("button", name="Stop").click()
    text = reply(page).locator(".prose").inner_text()
    assert len(text) >= len(begun)
    assert seen.faults == []


def test_another_reply_is_a_version_and_a_conversation_can_be_renamed_saved_and_deleted(
    server: Server, visit: Visitor
) -> None:
    seen = visit(server)
    page = seen.open()
    ask(page, "Name a fruit, quickly: Zwetschge?")
    reply(page)
    page.get_by_role("button", name="Write another reply").click()
    page.wait_for_selector(".reply .versions")
    reply(page)
    assert "2/2" in page.locator(".reply .versions").inner_text()
    page.get_by_role("button", name="Copy the reply").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip()

    def more(item: str) -> None:
        page.locator(".rail-item[data-here=true] .rail-more").click()
        page.get_by_role("menuitem", name=item).click()

    more("Rename")
    page.fill("dialog input", "Obst und <b>Gemüse</b>")
    page.keyboard.press("Enter")
    page.wait_for_selector(".rail-link >> text=Obst und <b>Gemüse</b>")
    with page.expect_download() as saved:
        more("Export as Markdown")
    assert saved.value.suggested_filename == "Obst und b Gemüse b.md"
    assert "Zwetschge" in saved.value.path().read_text("utf-8")
    with page.expect_download() as saved:
        more("Export as JSON")
    assert len(json.loads(saved.value.path().read_text("utf-8"))["messages"]) == 3
    more("Delete")
    page.wait_for_selector("dialog .button:focus >> text=Cancel")  # what cannot be undone is not a slip away
    page.locator("dialog .button.danger").click()
    page.wait_for_selector(".welcome")
    assert page.locator(".rail-link", has_text="Obst").count() == 0
    assert seen.faults == []


def test_the_settings_reach_the_model(server: Server, visit: Visitor) -> None:
    """A seed makes two replies the same; a limit cuts them, and the page says so."""
    seen = visit(server)
    page = seen.open()
    page.keyboard.press("Control+,")
    page.get_by_role("textbox", name="System prompt").fill("You speak like a pirate.")
    page.get_by_role("spinbutton", name="Longest answer").fill("12")
    page.get_by_role("spinbutton", name="Seed").fill("7")
    page.get_by_role("spinbutton", name="Temperature").fill("9")
    assert "Between 0 and 2" in page.inner_text("dialog")
    assert seen.serious() == []
    seen.shot("drawer-light-en-1280")
    page.keyboard.press("Escape")
    ask(page, "Tell me about your ship.")
    first = reply(page).locator(".prose").inner_text()
    assert "ended at the longest" in page.inner_text(".reply")
    page.get_by_role("button", name="Write another reply").click()
    page.wait_for_selector(".reply .versions")
    assert reply(page).locator(".prose").inner_text() == first
    assert seen.faults == []


# ------------------------------------------------------------------------------------------------------- going wrong


def test_a_server_that_dies_takes_nothing_of_what_was_written(fresh_server: Any, visit: Visitor) -> None:
    """Killed in the middle of a reply: the question and the text so far are there, the draft stays, the page comes back."""
    first = fresh_server()
    seen = visit(first, tokens=1000)
    page = seen.open()
    ask(page, LONG)
    page.wait_for_selector(".live .prose p:has-text(' ')", timeout=WAIT)
    page.wait_for_timeout(1500)  # a second after which it is kept
    begun = page.inner_text(".live .prose")
    first.process.kill()
    first.process.wait()
    page.wait_for_selector(".phase:has-text('Reconnecting')")
    seen.shot("reconnecting-light-en-1280")
    page.fill("#composer", "My next question")
    fresh_server("--port", str(first.port), home=first.home)
    page.wait_for_selector("[data-state=interrupted]", timeout=WAIT)
    assert page.locator("[data-state=interrupted] .prose").inner_text()[:20] == begun[:20]
    assert page.input_value("#composer") == "My next question"
    seen.shot("interrupted-light-en-1280")


def test_what_cannot_be_sent_stays_in_the_composer(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    page = seen.open()
    page.wait_for_selector(".ready")
    page.route("**/api/**", lambda route: route.abort())
    ask(page, "Is anybody there?")
    page.wait_for_selector(".composer [role=alert]")
    assert "cannot be reached" in page.inner_text(".composer [role=alert]")
    assert page.input_value("#composer") == "Is anybody there?"
    assert page.locator(".lost").is_visible()
    seen.shot("offline-light-en-1280")
    page.unroute("**/api/**")
    page.wait_for_selector(".lost", state="detached")
    page.press("#composer", "Enter")
    reply(page)
    assert page.input_value("#composer") == ""


def test_a_reply_that_fails_says_why_and_can_be_had_again(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    page = showing(
        seen,
        [
            message("q1", None, "user", "Hello?"),
            message(
                "r1",
                "q1",
                "assistant",
                "Half a",
                "failed",
                error={"what": "3.2 GB are needed", "remedy": "Close others."},
            ),
        ],
    )
    assert "3.2 GB are needed" in page.inner_text(".reply")
    assert "Half a" in page.inner_text(".reply .prose")
    assert page.get_by_role("button", name="Try again").is_visible()
    assert seen.serious() == []


def test_a_conversation_that_is_gone_and_an_address_of_nothing_say_so(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    page = seen.open("/c/nothing")
    page.wait_for_selector("text=This conversation is not here.")
    page.goto(f"{seen.url}/#/no/such/room")
    page.wait_for_selector("text=There is nothing at this address.")


# --------------------------------------------------------------------------------------------------- what others wrote

ATTACKS = """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">

[a](javascript:window.hacked=1) [b](data:text/html,<script>window.hacked=1</script>) ![c](https://evil.example/pixel.png)

<svg onload=window.hacked=1><iframe srcdoc="<script>parent.hacked=1</script>"></iframe><form action=https://evil.example>

| <img src=x onerror=window.hacked=1> | b |
|---:|---|
| `<script>` | <style>body{display:none}</style> |

```html"onmouseover="window.hacked=1
<script>window.hacked = 1</script>
```

$\\href{javascript:window.hacked=1}{x}$ $\\htmlStyle{position:fixed}{y}$ [x]: https://evil.example
"""


def test_nothing_that_a_model_or_a_title_says_runs_or_reaches_out(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    title = "<img src=x onerror=window.hacked=1>"
    page = showing(
        seen,
        [
            message("q1", None, "user", ATTACKS),
            message("r1", "q1", "assistant", ATTACKS, thought=ATTACKS, model=title, error={"what": title}),
        ],
        title=title,
    )
    page.wait_for_timeout(500)
    page.locator(".thought summary").click()
    assert page.evaluate("window.hacked") is None
    assert (
        page.locator("main script, main iframe, main img, main form:not(.composer), main style, main [onerror]").count()
        == 0
    )
    for link in page.locator(".prose a").all():
        assert re.match(r"https?://|mailto:|$", link.get_attribute("href") or "")
        assert link.get_attribute("rel") == "noopener noreferrer"
    assert seen.foreign == []
    assert seen.faults == []


RICH = """# Title

Some *emphasis*, `code`; it costs $5 and $6. Maths: $e^{i\\pi}+1=0$ and

$$
\\int_0^1 x^2\\,dx
$$

```python
def hello(name: str) -> str:
    return f"hello {name}"  # a comment
```

| Name | Value |
|---|---:|
| one | 1 |
"""


def test_markdown_becomes_headings_tables_code_and_maths(server: Server, visit: Visitor) -> None:
    seen = visit(server, theme="dark")
    page = showing(seen, [message("q1", None, "user", "Show me."), message("r1", "q1", "assistant", RICH)])
    page.wait_for_selector(".katex")
    assert page.locator(".prose .katex").count() == 2
    assert page.locator(".maths.display .katex-display").count() == 1
    assert "it costs $5 and $6." in page.inner_text(".prose")
    assert page.locator(".hljs-keyword").first.inner_text() == "def"
    assert page.locator(".prose td").nth(1).evaluate("(cell) => getComputedStyle(cell).textAlign") == "right"
    page.locator(".code-head button").click()
    page.wait_for_selector(".code-head >> text=Copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith("def hello")
    assert seen.serious() == []
    assert seen.faults == []


MATHS = r"""$\sqrt[3]{\frac{x}{y}}$ $\overbrace{a}^{n}$ $\begin{pmatrix}1&2\\3&4\end{pmatrix}$ $\widehat{ab}$ $\vec{v}$ $\cancel{x}$

\[ f(x)=\begin{cases}1 & x>0\\0 & \text{否则}\end{cases} \]

$\nothing{x}$ and $unclosed, \$5, 5 $, 价格$5元。公式$a+b$结束, `$c$`
"""


def test_maths_of_every_kind_is_drawn_under_the_policy_and_the_rest_left_alone(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    page = showing(seen, [message("q1", None, "user", "?"), message("r1", "q1", "assistant", MATHS)])
    page.wait_for_selector(".katex")
    page.wait_for_timeout(200)
    assert page.locator(".katex").count() == 8
    arrow = page.locator(".maths", has_text="v").locator("svg").last.bounding_box()
    assert arrow is not None and 3 < arrow["width"] < 20
    assert page.locator(".maths.unread").inner_text() == r"\nothing{x}"
    assert "$unclosed, $5, 5 $, 价格$5元。公式" in page.inner_text(".prose")
    assert page.locator("code").inner_text() == "$c$"
    assert seen.faults == []


def test_a_text_that_grows_is_drawn_as_the_whole_text_would_be(server: Server, visit: Visitor) -> None:
    """Block by block as it comes, and at once: the same elements."""
    seen = visit(server)
    seen.open()
    grown, whole = seen.page.evaluate(
        """async (text) => {
            const { html, render } = await import("./js/html.js");
            const { Markdown } = await import("./js/parts/markdown.js");
            const box = document.createElement("div"), other = document.createElement("div");
            for (let n = 0; n <= text.length; n += 7) render(html`<${Markdown} text=${text.slice(0, n)} growing />`, box);
            render(html`<${Markdown} text=${text} />`, box);
            render(html`<${Markdown} text=${text} />`, other);
            await new Promise((done) => setTimeout(done, 500));
            return [box.innerHTML, other.innerHTML];
        }""",
        RICH,
    )
    assert grown == whole


# ------------------------------------------------------------------------------------------------- hands, ears, small screens


def test_every_word_is_there_in_both_languages(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    seen.open()
    gaps = seen.page.evaluate(
        """async () => {
            await Promise.all(["frame", "chat", "knowledge"].map((name) => import(`./js/words/${name}.js`)));
            return (await import("./js/i18n.js")).gaps();
        }"""
    )
    assert gaps == []


def test_everything_can_be_done_from_the_keyboard(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    page = seen.open()
    page.wait_for_selector(".ready")
    page.locator(".welcome h1").click()
    page.keyboard.press("?")
    page.wait_for_selector("dialog .shortcut-list")
    assert "Edit the last question" in page.inner_text("dialog")
    assert seen.serious() == []
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    assert page.evaluate("document.activeElement.id") == "search"
    page.focus("#composer")
    unnamed = []
    for _ in range(24):
        page.keyboard.press("Tab")
        unnamed += page.evaluate(
            """() => {
                const here = document.activeElement;
                const ring = getComputedStyle(here).outlineStyle;
                const seen = ring !== "none" || here.closest(".composer-box") || here === document.body;
                return seen ? [] : [here.outerHTML.slice(0, 120)];
            }"""
        )
    assert unnamed == [], "what has the focus can be seen"
    page.get_by_role("button", name="Model: smollm2:135m").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=menu]")
    assert page.evaluate("document.activeElement.getAttribute('aria-checked')") == "true"
    assert seen.serious() == []
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('aria-haspopup')") == "menu"
    assert seen.faults == []


def test_a_screen_reader_hears_sentences_not_tokens(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    page = seen.open()
    page.evaluate(
        """() => {
            window.said = [];
            const voice = document.getElementById("voice");
            new MutationObserver(() => voice.textContent && window.said.push(voice.textContent)).observe(voice, {childList: true, characterData: true, subtree: true});
        }"""
    )
    ask(page, "Tell me two sentences about bread.")
    text = reply(page).locator(".prose").inner_text()
    page.wait_for_timeout(300)
    said = page.evaluate("window.said")
    assert said[0] == "The reply begins."
    assert said[-1] == "The reply is complete."
    assert len(said) < len(text.split()) / 2 + 4, "it is told in sentences"


@pytest.mark.parametrize(("theme", "language"), [("light", "zh-CN"), ("dark", "en-GB")])
def test_a_small_screen_has_one_column_and_sheets(server: Server, visit: Visitor, theme: str, language: str) -> None:
    seen = visit(server, width=360, height=740, theme=theme, language=language, touch=True)
    page = showing(
        seen,
        [
            message("q1", None, "user", "长" * 200),
            message("r1", "q1", "assistant", RICH + "x" * 300, model="smollm2:135m"),
        ],
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert not page.locator(".rail").is_visible()
    seen.shot(f"small-{theme}-{language[:2]}")
    page.locator(".topbar button").first.click()
    assert page.locator(".rail").is_visible()
    assert seen.serious() == []
    seen.shot(f"small-rail-{theme}-{language[:2]}")
    page.keyboard.press("Escape")
    assert not page.locator(".rail").is_visible()
    assert seen.serious() == []
    assert seen.faults == []


def test_the_meter_shows_late_and_names_what_is_left_out(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    usage = {"prompt_tokens": 5000, "completion_tokens": 500}
    counted = {"tokens": 6100, "context": 8192, "dropped": 2, "room": 1024}
    seen.page.route("**/conversations/c1/context", lambda route: route.fulfill(json=counted))
    page = showing(
        seen,
        [
            message("q1", None, "user", "The very first thing I asked"),
            message("r1", "q1", "assistant", "The very first reply"),
            message("q2", "r1", "user", "Second"),
            message("r2", "q2", "assistant", "Reply", usage=usage, context=8192, seconds={"first": 0.1, "total": 1}),
        ],
    )
    page.fill("#composer", "more")
    page.wait_for_selector(".meter")
    told = page.inner_text(".meter")
    assert "74%" in told and "The very first thing I asked" in told and "The very first reply" in told
    assert "Second" not in told
    assert seen.serious() == []
    counted.update(tokens=1000, dropped=0)
    page.fill("#composer", "less")
    page.wait_for_selector(".meter", state="detached")


def test_files_become_documents_that_are_asked(server: Server, visit: Visitor) -> None:
    """A newcomer's cited answer, with no setting touched."""
    seen = visit(server)
    page = seen.open()
    page.wait_for_selector(".ready")
    notes = (
        "# Harbour\n\nThe lighthouse of Kestrel Bay was built in 1874 by Ada Thorne.\n\n"
        "Its lamp burns whale oil and can be seen from 18 miles away.\n"
    )
    page.set_input_files(
        "[data-role=welcome]",
        [
            {"name": "harbour.md", "mimeType": "text/markdown", "buffer": notes.encode()},
            {"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.4 nothing"},
        ],
    )
    page.fill("#composer", "When was the lighthouse of Kestrel Bay built?")
    page.press("#composer", "Enter")  # before they are read: it waits for them
    page.wait_for_selector(".file-row[data-state=failed], .reply", timeout=WAIT)
    answer = reply(page)
    assert "1874" in answer.inner_text()
    assert "broken.pdf" in page.inner_text(".file-row[data-state=failed]"), "what could not be read is still named"
    chip = answer.locator("button.chip").first
    chip.click()
    page.wait_for_selector(".pane mark")
    assert "1874" in page.inner_text(".pane mark")
    assert seen.serious() == []
    seen.shot("cited-light-en-1280")
    begun = time.monotonic()
    page.keyboard.press("Escape")
    page.wait_for_selector(".pane", state="detached")
    assert time.monotonic() - begun < 5
    assert seen.faults == []


def test_files_can_be_dropped_anywhere_and_pasted(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    page = seen.open()
    page.wait_for_selector(".ready")
    page.route("**/kb", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    carried = page.evaluate_handle(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["text"], "笔记 <b>.txt", { type: "text/plain" }));
            return data;
        }"""
    )
    page.dispatch_event(".chat", "dragenter", {"dataTransfer": carried})
    page.wait_for_selector(".drop-veil")
    seen.shot("drop-light-en-1280")
    page.dispatch_event(".chat", "drop", {"dataTransfer": carried})
    page.wait_for_selector(".drop-veil", state="detached")
    row = page.locator(".file-row[data-state=failed]")  # the server is not reached: the file is named, and why
    row.wait_for()
    assert "笔记 <b>.txt" in row.inner_text() and "cannot be reached" in row.inner_text()
    row.get_by_role("button").click()
    page.wait_for_selector(".file-row", state="detached")
    page.evaluate(
        """(clipboardData) => document.getElementById("composer")
            .dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }))""",
        carried,
    )
    page.wait_for_selector(".file-row")


def test_a_model_and_an_adapter_are_chosen_below_the_composer(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    status = server.get("/api/hornbook/status").json()
    status["models"].append({**status["models"][0], "name": "other:1b", "quantisation": "Q8_0"})
    status["adapters"] = ["pirate"]
    seen.page.route("**/api/hornbook/status", lambda route: route.fulfill(json=status))
    page = seen.open()
    page.wait_for_selector(".ready")

    def choose(name: str) -> str:
        page.locator(".picker").first.click()
        page.get_by_role("menuitemradio", name=name).click()
        return str(page.locator(".picker").first.inner_text())

    assert choose("Adapter: pirate") == "smollm2:135m:pirate"
    assert choose("other:1b") == "other:1b"
    page.reload()
    page.wait_for_selector(".ready")
    assert page.locator(".picker").first.inner_text() == "other:1b", "the next conversation begins with it"
    assert choose("Adapter: pirate") == "other:1b:pirate"
    assert choose("No adapter") == "other:1b"


def test_a_newcomer_without_a_model_gets_one_and_sees_how_far_it_is(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    status = {**server.get("/api/hornbook/status").json(), "models": [], "offline": False}
    job = {
        "id": "j1",
        "kind": "pull",
        "name": "smollm2:135m",
        "state": "running",
        "said": "",
        "done": 0,
        "total": 0,
        "error": None,
    }
    done = {**job, "state": "failed", "error": {"what": "the disk is full", "remedy": "Make room."}}
    seen.page.route("**/api/hornbook/status", lambda route: route.fulfill(json=status))
    seen.page.route("**/api/hornbook/jobs/pull", lambda route: route.fulfill(json={**job, "done": 40e6, "total": 93e6}))
    waiting: list[Any] = []
    seen.page.route("**/api/hornbook/jobs/j1/events", lambda route: waiting.append(route))
    page = seen.open()
    page.get_by_role("button", name=re.compile("Get smollm2:135m")).click()
    page.wait_for_selector(".pull progress")
    assert "40 MB of 93 MB" in page.inner_text(".pull")
    assert seen.serious() == []
    waiting[0].fulfill(content_type="text/event-stream", body=f"data: {json.dumps(done)}\n\n")
    page.wait_for_selector(".pull [role=alert]")
    assert "the disk is full" in page.inner_text(".pull")
    assert page.get_by_role("button", name=re.compile("Get smollm2:135m")).is_visible()


def test_a_server_that_wants_a_key_is_given_one(
    fresh_server: Any, visit: Visitor, tmp_path: Path, smollm2_path: Path
) -> None:
    home = make_home(tmp_path / "locked", smollm2_path)
    made = subprocess.run(
        [sys.executable, "-m", "hornbook", "key", "add", "browser"],
        env={**os.environ, "HORNBOOK_HOME": str(home)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    server = fresh_server("--require-key", home=home)
    seen = visit(server)
    page = seen.open()
    page.wait_for_selector("dialog input[type=password]")
    assert seen.serious() == []
    page.wait_for_selector("dialog input:focus")  # the cursor is where the key goes
    page.keyboard.insert_text(made.stdout.strip())
    page.keyboard.press("Enter")
    page.wait_for_selector(".ready")


def test_a_second_window_catches_up_when_it_is_looked_at(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    page = seen.open()
    ask(page, "Say one word.")
    reply(page)
    other = page.context.new_page()
    other.goto(page.url)
    reply(other)
    ask(page, "Say another word.")
    reply(page)
    other.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    other.wait_for_selector(".question >> text=Say another word.")
    assert other.locator(".question").count() == page.locator(".question").count() == 2


def test_thoughts_are_folded_away_when_the_answer_comes(server: Server, visit: Visitor) -> None:
    seen = visit(server)
    begun = message("r1", "q1", "assistant", "", "writing")
    body = {
        "id": "c1", "title": "Thinking", "created": 1, "updated": 1, "leaf": "r1", "settings": {}, "writing": True,
        "messages": [message("q1", None, "user", "hi"), begun],
    }  # fmt: skip
    told = [
        ("state", {"message": begun, "phase": {"name": "writing"}}),
        ("thought", {"text": "They greet me, **kindly**."}),
    ]
    ended = {**begun, "content": "Hello!", "state": "done", "facts": {"thought": "They greet me, **kindly**."}}
    streams = [told, [("text", {"text": "Hello!"}), ("done", {"message": ended, "title": "Thinking"})]]
    asked: list[Any] = []

    def answer(route: Any) -> None:
        asked.append(route.request.headers.get("last-event-id"))
        some, first = streams[len(asked) - 1], 2 * (len(asked) - 1)
        lines = [
            f"id: r1.{first + i}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for i, (name, data) in enumerate(some)
        ]
        route.fulfill(content_type="text/event-stream", body="".join(lines))

    seen.page.route("**/api/hornbook/conversations/c1", lambda route: route.fulfill(json=body))
    seen.page.route("**/c1/events", answer)
    page = seen.open("/c/c1")
    page.wait_for_selector(".thought[open] >> text=They greet me")
    page.wait_for_selector(".reply:not(.live) .prose >> text=Hello!")
    assert page.locator(".thought[open]").count() == 0 and page.locator(".thought").count() == 1
    assert asked == [None, "r1.1"], "after the break it goes on behind the last event"
    assert seen.faults == []
