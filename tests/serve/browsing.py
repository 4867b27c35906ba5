"""A real Chromium that opens a server's page as a person would, and a page that keeps a list of what went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from real_browser import SCREENS, serious

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
        return serious(self.page)


Visitor = Callable[..., Visit]


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
