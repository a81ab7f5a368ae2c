"""Put tables that a script has made into a page of the docs, between its two marks."""

from pathlib import Path

END = "<!-- end of tables -->\n"


def write_tables(page: Path, tables: str, name: str = "") -> None:
    """Replace what stands between the marks; the words around stay.

    Args:
        page: holds the line `<!-- tables -->`, with a name `<!-- tables: NAME -->`, and after it
            `<!-- end of tables -->`.
        tables: what is to stand there.
        name: of several tables on one page.

    Raises:
        ValueError: the page has not both marks.
    """
    first = f"<!-- tables: {name} -->\n" if name else "<!-- tables -->\n"
    head, begin, rest = page.read_text(encoding="utf-8").partition(first)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: wants the lines {first.strip()} and {END.strip()}")
    page.write_text(head + begin + tables + end + tail, encoding="utf-8")
