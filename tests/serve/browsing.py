"""A real Chromium that opens a server's page as a person would, and a page that keeps a list of what went wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SCREENS = Path(__file__).parents[2] / "build" / "screens"  # ignored by git: to be looked at
WAIT = 30_000  # ms for what a model must write first


@dataclass
class Visit:
    """A tab of a person's own: ``page`` is Playwright's, ``faults`` what the console complained of, ``asked`` the addresses."""

    url: str
    page: Any
    faults: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, address: str = "/") -> Any:
        """``address``: of a room of the page, behind the "#"."""
        self.page.goto(f"{self.url}/#{address}")
        self.page.wait_for_selector("main > *")
        return self.page

    def shot(self, name: str) -> None:
        SCREENS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(SCREENS / f"{name}.png"))

    @property
    def foreign(self) -> list[str]:
        """What was asked of another origin."""
        return [url for url in self.asked if not url.startswith((f"{self.url}/", "data:", "blob:"))]

    def serious(self) -> list[str]:
        """What axe-core finds serious or worse on the page as it stands."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        self.page.wait_for_timeout(200)  # a transition of colours is not what is looked at
        found = axe.run(self.page).response["violations"]
        return [
            f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes']]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]


Visitor = Callable[..., Visit]


def find_chromium() -> str | None:
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Playwright's browser. Debian's package ``chromium`` has it; CHROMIUM may name another.

    Not the session's: Playwright keeps an event loop running in this thread, in which no other test could run its own.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    path = find_chromium()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium is here: apt-get install chromium")
        pytest.skip("no Chromium is here: apt-get install chromium, or name one with CHROMIUM")
    with playwright.sync_playwright() as running:
        # A sandbox needs a user of its own, which a container's root is not.
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Visitor]:
    """``visit(server, width=360, theme="dark", language="zh-CN")``: a person with an empty browser. Ends with the test.

    ``tokens``: how long an answer in a conversation may be, for the sake of the suite's time.
    """
    contexts: list[Any] = []

    def begin(
        server: Any,
        *,
        width: int = 1280,
        height: int = 800,
        theme: str = "light",
        language: str = "en-GB",
        touch: bool = False,
        tokens: int = 48,
    ) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": height}, locale=language, color_scheme=theme, has_touch=touch,
            permissions=["clipboard-read", "clipboard-write"],
        )  # fmt: skip
        contexts.append(context)
        context.set_default_timeout(15_000)
        settings = json.dumps(json.dumps({"sampling": {"max_tokens": tokens, "seed": 1}}))
        context.add_init_script(f"if (location.host) localStorage['hornbook.settings'] ??= {settings}")
        seen = Visit(server.url, context.new_page())
        seen.page.on("console", lambda said: said.type == "error" and seen.faults.append(said.text))
        seen.page.on("pageerror", lambda error: seen.faults.append(str(error)))
        seen.page.on("request", lambda request: seen.asked.append(request.url))
        return seen

    yield begin
    for context in contexts:
        context.close()
