"""A real Chromium, for the pages that people open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCREENS = Path(__file__).parents[1] / "build" / "screens"  # ignored by git: to be looked at


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


def serious(page: Any) -> list[str]:
    """What axe-core finds serious or worse on a page as it stands."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.wait_for_timeout(200)  # a transition of colours is not what is looked at
    found = axe.run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes']]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
