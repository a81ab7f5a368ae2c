"""Look at the built documentation site in a browser: what a search finds, and how long pages are.

    python -m tools.site_in_browser build/site

Prints each search whose first result is another page than it should be, each page longer than
8,000 pixels in a window 1,400 wide, and each tab that is hidden there, and leaves with status 1;
`make check-docs` runs it. Needs Chromium and playwright.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

WIDTH, TALLEST = 1400, 8000
TABS = ("Guide", "Tutorials", "Reference", "Evidence")
FIRST = {
    "resume": "troubleshooting.html",
    "glossary": "glossary.html",
    "CI": "tutorials/gate-in-ci.html",
    "out of memory": "troubleshooting.html",
    "GPT-2": "troubleshooting.html",
}
"""The page that a search should find first."""
NO_PAGES = ("404.html", "example-audit.html")  # shown at any address; made by `audit`

RESULTS = """() => {
  const found = [];
  const look = (root) => root.querySelectorAll("*").forEach((one) => {
    if (one.shadowRoot) look(one.shadowRoot);
    const link = one.localName === "a" && one.checkVisibility() ? one.getAttribute("href") : null;
    if (link && link.includes("?h=")) found.push(link);
  });
  look(document);
  return found;
}"""
"""Links of the results, which stand in shadow trees."""
CHANGED = f"(old) => {{ const found = ({RESULTS})().join(); return found && found !== old; }}"


def problems(site: Path) -> Iterator[str]:
    """What is wrong with the site, a line each."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.goto((site / "index.html").resolve().as_uri())
        tabs = page.locator(".md-tabs__link")
        shown = [one.strip() for one in tabs.all_text_contents()]
        if shown != list(TABS) or not all(_is_within(tab) for tab in tabs.all()):
            yield f"tabs: {', '.join(shown)} instead of {', '.join(TABS)}, or some are hidden"
        yield from _found_wrong(page)
        for path in sorted(site.rglob("*.html")):
            if path.name not in NO_PAGES:
                page.goto(path.resolve().as_uri())
                height = page.evaluate("document.documentElement.scrollHeight")
                if height > TALLEST:
                    yield f"{path.relative_to(site)}: {height:,} pixels long, {TALLEST:,} at most"
        browser.close()


def _is_within(tab: Any) -> bool:
    box = tab.bounding_box()
    return box is not None and box["x"] >= 0 and box["x"] + box["width"] <= WIDTH


def _found_wrong(page: Any) -> Iterator[str]:
    """Searches that find another page first."""
    page.click(".md-search__button")
    before: list[str] = []
    for words, wanted in FIRST.items():
        page.locator("input:visible").first.fill(words)
        page.wait_for_function(CHANGED, arg=",".join(before))
        before = page.evaluate(RESULTS)
        if f"/{wanted}?" not in before[0]:
            yield f"search for '{words}': finds {before[0]} first, not {wanted}"


if __name__ == "__main__":
    lines = list(problems(Path(sys.argv[1])))
    print(*lines, sep="\n", end="\n" if lines else "")
    sys.exit(bool(lines))
