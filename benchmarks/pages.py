"""Put tables that a script has made into a page of the docs, between its two marks."""

from pathlib import Path

BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def write_tables(page: Path, tables: str) -> None:
    """Replace what stands between the marks; the words around stay.

    Raises:
        ValueError: the page has not both marks.
    """
    head, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: wants the lines {BEGIN.strip()} and {END.strip()}")
    page.write_text(head + begin + tables + end + tail, encoding="utf-8")
