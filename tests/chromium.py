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

MARK_ALIKE = """() => {
  const seen = {};
  for (const one of document.querySelectorAll('body *')) {
    if (one.children.length || one.closest('a, button, label, th, summary')) continue;
    let kind = '';
    for (let at = one; at !== document.body; at = at.parentElement)
      kind += [at.tagName, at.getAttribute('class'), at.getAttribute('style'), ''];
    seen[kind] = (seen[kind] || 0) + 1;
    one.toggleAttribute('data-alike', seen[kind] > 3);
  }
}"""
"""Marks texts that look like three before them: same tags, classes and styles up to the body.

Those that name something else stay."""


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
    """What axe-core calls serious or critical on a page, each with the element it stands at.

    Of texts that look alike it sees three: to compute the contrast of each takes seconds.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.evaluate(MARK_ALIKE)
    style = page.add_style_tag(
        content="* { background-image: none !important; }"  # contrast is computed
        "[data-alike] { visibility: hidden !important; }"
    )
    found = axe.run(page).response["violations"]
    style.evaluate("one => one.remove()")
    return [
        f"{one['id']}: {node['html'][:200]} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
