"""A headless Chromium for the pages: a visit that notes what it asks, and what axe-core finds."""

import shutil
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NEEDS_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

UNFOLD = "document.querySelectorAll('details').forEach((part) => { part.open = true; })"


class Visit:
    """A visitor's page, and all that it asked of the network and complained of."""

    def __init__(self, browser: Any, url: str, *, patience: int = 60_000, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(patience)
        self.asked, self.trouble = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.goto(url)


def hard_to_use(page: Any) -> list[str]:
    """What axe-core calls serious or critical on a page, each with the element it stands at."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.add_style_tag(content="* { background-image: none !important; }")  # contrast is computed
    found = axe.run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:200]} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
