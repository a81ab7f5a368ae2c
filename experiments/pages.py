"""Results of experiments, their tables in Markdown, and the pages of the docs that hold them.

    python -m experiments.pages [NAME ...]     # put the tables of stored results into their pages

An experiment with a `results.json` has beside it a `tables.py`, whose `tables(results)` gives the
text of each (page, name of the tables in it).
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from mnemoscope.parse import read_json
from mnemoscope.study.folder import versions
from mnemoscope.words import MINUS, UNKNOWN, plain_figure

HERE = Path(__file__).parent
VERSIONS = "versions.json"
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


number = partial(figure, scale=1, digits=3)


def spread(mean: float, deviation: float) -> str:
    """A mean and its standard deviation."""
    return f"{mean:.3f} ± {deviation:.3f}".replace("-", MINUS)


def results_of(name: str) -> Any:
    """What an experiment has stored."""
    return json.loads((HERE / name / "results.json").read_text(encoding="utf-8"))


def stored() -> list[str]:
    """The experiments that have stored results."""
    return sorted(path.parent.name for path in HERE.glob("*/results.json"))


def publish(name: str, results: Mapping[str, Any], *, keep: bool) -> None:
    """Print an experiment's tables; with `keep` store its results and write its pages.

    What versions the results were made with goes into `versions.json`, under the experiment's name.
    """
    if not keep:
        print("\n".join(import_module(f"experiments.{name}.tables").tables(results).values()))
        return
    lines = (
        f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in results.items()
    )
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (HERE / name / "results.json").write_text(text, encoding="utf-8")
    noted = read_json(HERE / VERSIONS) if (HERE / VERSIONS).exists() else {}
    made = dict(sorted((noted | {name: versions()}).items()))
    (HERE / VERSIONS).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    write_pages(name)


def rendered(name: str) -> Iterator[tuple[Path, str, str]]:
    """Page, name and text of each table of an experiment's stored results."""
    tables = import_module(f"experiments.{name}.tables").tables(results_of(name))
    yield from ((HERE.parent / page, which, text) for (page, which), text in tables.items())


def write_pages(name: str) -> None:
    """Put the tables of an experiment's stored results into their pages."""
    for page, which, text in rendered(name):
        write_tables(page, text, which)


def show_tables(tables: str, page: Path | None, name: str = "") -> None:
    """Print tables; where a page is given, put them into it as `write_tables` does."""
    print(tables)
    if page is not None:
        write_tables(page, tables, name)


def split_page(page: str, name: str) -> tuple[str, str, str]:
    """A page's text before, between and after the marks of a table, marks with what is outside.

    Args:
        page: holds the line `<!-- tables -->`, with a name `<!-- tables: NAME -->`, and after it
            `<!-- end of tables -->`.
        name: of several tables on one page.

    Raises:
        ValueError: the page has not both marks.
    """
    first = f"<!-- tables: {name} -->\n" if name else "<!-- tables -->\n"
    head, begin, rest = page.partition(first)
    inside, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page wants the lines {first.strip()} and {END.strip()}")
    return head + begin, inside, end + tail


def write_tables(page: Path, tables: str, name: str = "") -> None:
    """Replace what stands between the marks of `split_page`; the words around stay."""
    head, _, tail = split_page(page.read_text(encoding="utf-8"), name)
    page.write_text(head + tables + tail, encoding="utf-8")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or stored():
        write_pages(chosen)
