"""Find the line and column that make a JSONL table unusable.

Polars reads JSONL fast, but says little about what is wrong and mends some of it silently. This
pass, line by line, lets a message name the place.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from mnemoscope.sequences.columns import COLUMNS, is_value_of_kind

__all__ = ["find_fault"]


def find_fault(path: Path) -> str | None:
    """Describe the first fault of a JSONL file.

    Args:
        path: a readable file.

    Returns:
        ``line N, ...: what is wrong. What to do.``, lines counted from 1; None when there are
        lines and every one is fine by itself.
    """
    is_blank = True
    for number, line in enumerate(_lines(path), start=1):
        fault = _fault_of_line(line)
        if fault is not None:
            return f"line {number}{fault}"
        is_blank = is_blank and not line.strip()
    return "no line holds a row. At least one sequence is needed." if is_blank else None


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as handle:
        yield from handle


def _fault_of_line(line: bytes) -> str | None:
    """What is wrong with one line; an empty line is nothing wrong."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f": byte {error.start} is not UTF-8. Save the file as UTF-8."
    if not text.strip():
        return None
    try:
        row = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return f": not JSON ({error}). One object a line is needed."
    if not isinstance(row, dict):
        return f": a {type(row).__name__} where an object with named columns is needed. Correct it."
    return next(filter(None, (_fault_of_value(name, value) for name, value in row.items())), None)


def _fault_of_value(name: str, value: object) -> str | None:
    """What is wrong with one value of a line."""
    column = COLUMNS.get(name)
    if column is not None and not is_value_of_kind(value, column.kind):
        shown = json.dumps(value, ensure_ascii=True)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        return (
            f", column '{name}': {shown} where {column.kind} are needed. "
            "Correct the line or drop it."
        )
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        return f", column '{name}': half of a surrogate pair, which is no character. Remove it."
    return None


def _refuse_constant(name: str) -> None:
    """NaN and Infinity are not JSON."""
    raise ValueError(f"{name} is not a JSON number")
