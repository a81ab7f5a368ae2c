"""A headless Chromium for the pages: whether there is one, and a visit that notes what it asks."""

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
