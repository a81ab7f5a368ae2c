"""JSON and YAML of others: what is plain is read as the standard parsers do, the rest refused."""

import json
import os
import time
from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.parse import (
    MOST_LEVELS,
    MOST_TEXT_BYTES,
    parse_json,
    parse_yaml,
    read_json,
    read_lines,
)

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inside: (
        st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=50)
@given(VALUES)
def test_plain_values_are_what_the_standard_parsers_say(value):
    assert parse_json(json.dumps(value)) == value
    text = yaml.safe_dump(value)
    assert parse_yaml(text) == yaml.safe_load(text)


def test_json_is_as_deep_as_it_may_be_and_no_deeper():
    assert parse_json("[" * MOST_LEVELS + "]" * MOST_LEVELS) is not None
    assert parse_json(json.dumps(["[{" * 500])) == ["[{" * 500]  # brackets in a text are none
    for n in (MOST_LEVELS + 1, 400, 600, 3000, 100_000):
        for text in ("[" * n + "]" * n, '{"a":' * n + "1" + "}" * n):
            with pytest.raises(ValueError, match="nested more than 100 levels"):
                parse_json(text)


ALIASES = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
ALIASES += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
MERGES = ["a0: &a0 {x: 1}"]
MERGES += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
CHAIN = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 3000))]
REFUSED = {
    "flow 3,000 deep": ("[" * 3000 + "]" * 3000, "line 1: nested more than 100"),
    "blocks 150 deep": ("\n".join(" " * n + "a:" for n in range(150)), "nested more than 100"),
    "a bomb of aliases": ("\n".join(ALIASES), "more than 100,000 values"),
    "a chain of aliases": ("\n".join(CHAIN), "nested more than 100"),
    "a list that holds itself": ("a: &a [*a]", "more than 100,000 values"),
    "a key twice": ("train:\n  seeds: [1]\n  seeds: [2]\n", "line 3: the key 'seeds' is given"),
    "a binary value": ("title: !!binary aGFsbG8=", "line 1: a binary value"),
    "a Python object": ("title: !!python/object:os.system {}", "line 1: not valid YAML"),
    "a date that is none": ("title: 2020-13-45", "not valid YAML"),
    "too large": ("a: " + "x" * 300_000, "larger than 128 kB"),
    "not UTF-8": (b"a: \xff", "utf-8"),
    "not closed": ("a: [1", "line 1: not valid YAML"),
}


@pytest.mark.parametrize(("text", "what"), REFUSED.values(), ids=REFUSED)
def test_yaml_that_is_more_than_plain_values_is_refused_soon(text, what):
    started = time.process_time()
    with pytest.raises(ValueError, match=what) as raised:
        parse_yaml(text)
    assert "\n" not in str(raised.value)
    assert time.process_time() - started < 10


def test_a_bomb_of_merge_keys_comes_to_nothing():
    """PyYAML copied them all up to 6.0.2, and takes equal ones once since."""
    started = time.process_time()
    with suppress(ValueError):
        assert parse_yaml("\n".join(MERGES))["a11"] == {"x": 1}
    assert time.process_time() - started < 10
    text = "base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}\nagain: *base\n"
    assert parse_yaml(text) == yaml.safe_load(text)


def test_lines_and_files_have_an_end(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_bytes(b"{}\n" + b"x" * (MOST_TEXT_BYTES + 1))
    with path.open("rb") as handle, pytest.raises(ValueError, match="line 2: longer than 8 MB"):
        list(read_lines(handle))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        read_json(tmp_path / "pipe")
