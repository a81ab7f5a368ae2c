"""What a page holds, read as a browser reads it."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input", "br", "line", "rect", "circle", "path", "polyline"}


class Page(HTMLParser):
    """Elements in order with their attributes, texts with the tag around them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[tuple[str, str]] = []
        self.unbalanced: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.unbalanced += self._open

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        if tag not in VOID and (not self._open or self._open.pop() != tag):
            self.unbalanced.append(tag)

    def handle_data(self, data) -> None:
        self.text.append((self._open[-1] if self._open else "", data))

    def words(self) -> str:
        """All text that a reader sees, as it stands."""
        return "".join(text for tag, text in self.text if tag not in ("style", "script"))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def picks(self) -> list[int]:
        """Numbers of what can be chosen."""
        return [int(one["data-pick"]) for _, one in self.elements if "data-pick" in one]

    def assert_harmless(self, *allowed: str) -> None:
        """Nothing in it runs, and no picture is asked of anybody."""
        tags = {"script", "iframe", "object", "embed", "form", "link", "style"} - {*allowed}
        assert not tags & {tag for tag, _ in self.elements}
        assert not [name for _, one in self.elements for name in one if name.startswith("on")]
        assert all(one["src"].startswith("data:image/png;base64,") for one in self.all("img"))


def words_of(html: str) -> str:
    """Text of a page or a piece of it, each white space a single blank."""
    return " ".join(" ".join(text for tag, text in Page(html).text if tag != "style").split())
