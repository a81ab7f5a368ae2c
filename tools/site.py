"""Check the links and anchors of the built documentation site, and those of the README into it.

    python -m tools.site build/site README.md

Prints each link that leads nowhere, and each script or picture that is not part of the site, and
leaves with status 1; `make docs` runs it.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote


class _Page(HTMLParser):
    """Anchors and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors, self.links = {"", "__top"}, list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag names and where it leads."""
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")
            elif name in ("href", "src") and value:
                # What is loaded from elsewhere would be missing without a network.
                is_away = name == "src" and re.match("https?:|//", value)
                self.links.append(f"away/{value}" if is_away else value)


def broken(site: Path, readme: Path) -> list[str]:
    """What links lead nowhere, each as `PAGE: LINK`; links out of the site are not followed."""
    site = site.resolve()
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in page.links:
            # 404.html is shown at any address, so its links begin at the root.
            base = site / "index.html" if link.startswith("/") else path
            if not _leads(link.lstrip("/"), base, pages):
                found.append(f"{path.relative_to(site)}: {link}")
    for link in re.findall(r"\]\(docs/([^)]+)\)", readme.read_text(encoding="utf-8")):
        if not _leads(link.replace(".md", ".html"), site / "index.html", pages):
            found.append(f"{readme}: docs/{link}")
    return found


def _leads(link: str, page: Path, pages: dict[Path, _Page]) -> bool:
    if re.match(r"[a-z]+:|//", link):
        return True
    file, _, anchor = link.partition("#")
    target = (page.parent / unquote(file.split("?")[0])).resolve() if file else page
    if target.is_dir():
        target /= "index.html"
    if target not in pages:
        return target.is_file()
    return unquote(anchor) in pages[target].anchors


if __name__ == "__main__":
    problems = broken(Path(sys.argv[1]), Path(sys.argv[2]))
    print(*(f"leads nowhere: {one}" for one in problems), sep="\n", end="\n" if problems else "")
    sys.exit(bool(problems))
