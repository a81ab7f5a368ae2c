"""Tables of figures in Markdown, and the pages of the docs that they are put into."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mnemoscope.words import MINUS, UNKNOWN, plain_figure

END = "<!-- end of tables -->\n"


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a table, the last one ended too."""
    head, *body = (f"| {' | '.join(cells)} |\n" for cells in (columns, *rows))
    return "".join([head, "|---" * len(columns), "|\n", *body])


def figure(
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    scale: float = 100,
    digits: int = 1,
) -> str:
    """A figure with its interval for a cell, in per cent unless `scale` is 1; a dash for none."""
    if value is None:
        return UNKNOWN
    return plain_figure(value, low, high, scale=scale, unit="", digits=digits, minus=MINUS)


def show_tables(tables: str, page: Path | None, name: str = "") -> None:
    """Print tables; where a page is given, put them into it as `write_tables` does."""
    print(tables)
    if page is not None:
        write_tables(page, tables, name)


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
