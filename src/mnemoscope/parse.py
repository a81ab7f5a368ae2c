"""Parse JSON and YAML that somebody else wrote, within bounds of size and depth.

Everything here raises ValueError with a few words that fit behind the place where it was found
("nested more than 100 levels deep"); the caller names the file and says what to do.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import yaml

MOST_LEVELS = 100
"""Polars dies of JSON nested some 400 deep, and Python's parsers raise at about 1,000."""
MOST_BYTES = 256 << 20
"""Most bytes of a JSON file; our own records hold some megabytes."""
MOST_TEXT_BYTES = 8 << 20
"""Most bytes of one text, a file or a line of JSONL: five novels. Tokenizing takes up to 300 times
the memory and a second a megabyte."""
TOO_LONG = f"longer than {MOST_TEXT_BYTES >> 20} MB. Divide its text into several"
"""What is said of a longer one, before "lines" or "files"."""
MOST_YAML_BYTES = 128 << 10
"""Written by hand, and parsed at about 40 kB a second."""
_MOST_YAML_VALUES = 100_000
_TOO_DEEP = f"nested more than {MOST_LEVELS} levels deep"
_TOO_MANY = f"more than {_MOST_YAML_VALUES:,} values, aliases counted"


def read_bounded(path: Path) -> bytes:
    """The bytes of a regular file of at most `MOST_BYTES`.

    Raises ValueError: a larger file, or none of the kind that ends (a pipe, a device). OSError:
    missing or unreadable.
    """
    with open(path, "rb", opener=open_regular) as handle:
        data = handle.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES >> 10:,} kB")
    return data


def read_json(path: Path) -> Any:
    """Parse a JSON file; ValueError as `parse_json` and `read_bounded`, OSError likewise."""
    return parse_json(read_bounded(path))


def read_lines(handle: BinaryIO) -> Iterator[bytes]:
    """Lines of a file; ValueError ("line 3: ...") where one is longer than `MOST_TEXT_BYTES`."""
    number = 1
    while line := handle.readline(MOST_TEXT_BYTES + 1):
        if len(line) > MOST_TEXT_BYTES:
            raise ValueError(f"line {number}: longer than {MOST_TEXT_BYTES >> 20} MB")
        yield line
        number += 1


def parse_json(text: str | bytes, *, constants: bool = True) -> Any:
    """Parse JSON; without `constants`, NaN and Infinity are refused, which are no JSON.

    Raises ValueError: not JSON, not UTF-8, or nested deeper than `MOST_LEVELS`.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = json.loads(text, parse_constant=None if constants else _refuse_constant)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if isinstance(value, dict | list) and text.count("[") + text.count("{") > MOST_LEVELS:
        _check_depth(value)
    return value


def parse_yaml(text: str | bytes) -> Any:
    """Parse YAML of plain values: no binary tags, no key twice, no bomb of aliases.

    Raises ValueError: anything else, with its line where that is known ("line 3: ...").
    """
    return deepcopy(_parsed(text))  # a study is opened by each stage, and its text is the same


@lru_cache(maxsize=8)
def _parsed(text: str | bytes) -> Any:
    if len(text) > MOST_YAML_BYTES:
        raise ValueError(f"larger than {MOST_YAML_BYTES >> 10} kB")
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = error.problem if isinstance(error, _RefusedYamlError) else "not valid YAML"
        raise ValueError(reason if mark is None else f"line {mark.line + 1}: {reason}") from None
    except (ValueError, AttributeError, OverflowError, RecursionError):
        # PyYAML's own constructors of numbers and dates
        raise ValueError("not valid YAML (a number or date of no value)") from None
    _measure(value, {})
    return value


def open_regular(path: str, flags: int) -> int:
    """An opener for `open` that refuses a folder (OSError) and what has no end (ValueError)."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe has no end
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise ValueError("no regular file")
    return descriptor


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_LEVELS):
        inside = chain.from_iterable(
            one.values() if isinstance(one, dict) else one for one in level
        )
        level = [one for one in inside if isinstance(one, dict | list)]
    if level:
        raise ValueError(_TOO_DEEP)


class _RefusedYamlError(yaml.MarkedYAMLError):
    """Valid YAML that is more than plain values."""


class _Loader(yaml.SafeLoader):
    """Safe, and within bounds."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count the levels."""
        self._depth += 1
        if self._depth > MOST_LEVELS:
            raise _refused(_TOO_DEEP, self.peek_event())  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Refuse a key that is given twice."""
        node = super().compose_mapping_node(anchor)
        known: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if (name := (key.tag, str(key.value))) in known:
                raise _refused(f"the key '{str(key.value)[:40]}' is given twice", key)
            known.add(name)
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Bound what merge keys (<<) copy."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST_YAML_VALUES:
            raise _refused(_TOO_MANY, node)


def _refuse_binary(_: Any, node: Any) -> None:
    raise _refused("a binary value, where text is written as it is", node)


_Loader.add_constructor("tag:yaml.org,2002:binary", _refuse_binary)


def _refused(problem: str, place: Any) -> _RefusedYamlError:
    return _RefusedYamlError(problem=problem, problem_mark=place.start_mark)


def _measure(value: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values and levels a value holds, each alias counted as what it stands for."""
    if not isinstance(value, dict | list | set):
        return 1, 0
    if id(value) not in known:
        known[id(value)] = _MOST_YAML_VALUES, 0  # met again inside itself, it has no end
        inside = [
            _measure(one, known) for one in (value.values() if isinstance(value, dict) else value)
        ]
        known[id(value)] = 1 + sum(n for n, _ in inside), 1 + max((d for _, d in inside), default=0)
    n_values, n_levels = known[id(value)]
    if n_values >= _MOST_YAML_VALUES:
        raise ValueError(_TOO_MANY)
    if n_levels > MOST_LEVELS:
        raise ValueError(_TOO_DEEP)
    return n_values, n_levels


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys joined by dots, with their values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
