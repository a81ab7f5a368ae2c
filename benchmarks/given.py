"""What a script is given on its command line; `--help` prints its docstring."""

import argparse
from typing import Any


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as it is written."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def given(doc: str | None, *names: str, **numbers: int) -> list[Any]:
    """Words that must be given, by name, then whole numbers, each with what holds without it."""
    parser = parser_of(doc)
    for name in names:
        parser.add_argument(name)
    for name, default in numbers.items():
        parser.add_argument(name, type=int, nargs="?", default=default)
    return list(vars(parser.parse_args()).values())
