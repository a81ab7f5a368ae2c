"""Patterns: the published cases, and a word-for-word transcription of the rules as oracle."""

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mnemoscope.data.patterns import (
    compare_modes,
    find_pattern,
    find_smallest_period,
    has_lone_words,
)
from mnemoscope.errors import UserError

INCREMENTING, REPEATING, NEITHER = (True, False), (False, True), (False, False)

# Consequences of the rules of the published data set, in both modes alike.
ALIKE = [
    ("1 2 3 4 5 6", INCREMENTING),
    ("6 5 4 3 2 1", INCREMENTING),
    ("3 2 1", INCREMENTING),
    ("1 1 1", NEITHER),
    ("3 1 2 3 2", INCREMENTING),  # the first and last element are left out
    ("007 008 009 010 011", INCREMENTING),
    ("1,000, 2,000, 3,000, 4,000, 5,000", INCREMENTING),
    ("| 1 | a |\n| 2 | a |\n| 3 | a |\n| 4 | a |\n", INCREMENTING),
    ("A.1, A.2, A.3, A.4, A.5", INCREMENTING),
    ("A.1, A.2, A.3, B.1, B.2, B.3", NEITHER),
    ("-2, -1, 0, 1, 2, 3", NEITHER),
    ("0.7 0.8 0.9 1.0 1.1 1.2", NEITHER),
    ("0xf8, 0xf9, 0xfa, 0xfb, 0xfc", NEITHER),
    ("0xf8 0xf9 0xfa 0xfb 0xfc", INCREMENTING),  # lone words are numbers
    ("0o7 0o10 0o11 0o12", INCREMENTING),
    ("1_000 2_000 3_000 4_000", INCREMENTING),
    ("\\x01 \\x02 \\x03 \\x04 \\x05", INCREMENTING),
    ("\x01 \x02 \x03 \x04 \x05", INCREMENTING),  # what cannot be printed is escaped
    ("\\x01\\x02\\x03\\x04\\x05", NEITHER),  # the marks go first, digits flow together
    ("'1' \"2\" '3' \"4\"", INCREMENTING),
    ("", NEITHER),
    ("aaaa", REPEATING),
    ("ababa", NEITHER),
    ("xababx", REPEATING),
    ("abcabcab", REPEATING),
    ("1 2 1 2 1 2 1 2", REPEATING),
    ("\n" * 64, REPEATING),
]


@pytest.mark.parametrize(
    ("text", "published", "strict"),
    [
        *((text, wanted, wanted) for text, wanted in ALIKE),
        # Quirks that only the published mode has.
        ("1 5 2", INCREMENTING, NEITHER),  # a triple that bends down
        ("1 1 2 1 3 1 2", INCREMENTING, NEITHER),  # the difference is seen in two elements only
        ("a 1 2 1 1 1 2 1 2", INCREMENTING, NEITHER),
        ("9 3 2 5 4 3 2 5 4 3 9", INCREMENTING, REPEATING),  # of period 3, kept at period 4
    ],
)
def test_known_cases_in_both_modes(text, published, strict):
    assert find_pattern(text, "published") == published
    assert find_pattern(text, "strict") == strict


def test_numbers_longer_than_python_reads_are_words_and_an_unknown_mode_is_refused():
    assert find_pattern("9" * 5000 + " 1 2 3 4 " + "9" * 5000) == INCREMENTING
    assert find_pattern("1 2 3 " + "9" * 5000 + " 4 5") == NEITHER
    with pytest.raises(UserError, match=r"'strickt'.*Did you mean 'strict'"):
        find_pattern("a", "strickt")


# The oracle: the rules of related work, step by step, without any shortcut.


def transcribed_elements(text):
    words = []
    for word in re.sub(r"\s+", " ", text).split(" "):
        try:
            words.append(str(int(word, 0)))
        except ValueError:
            words.append(word)
    elements = []
    for word in repr(" ".join(words)).split(" "):
        for mark in ("\\n", "\\x", "\\", "'", '"'):
            word = word.replace(mark, "")
        elements += [piece for piece in re.split(r"(\d+)", word) if piece]
    return [int(piece) if piece.isdecimal() else piece for piece in elements]


def transcribed_test(elements, *, is_strict):
    n = len(elements)
    if n < 3:
        return False, None
    if n == 3:
        if any(isinstance(element, str) for element in elements):
            return False, None
        bend = elements[2] - 2 * elements[1] + elements[0]
        return (abs(bend) if is_strict else bend) < 1e-5, elements[2] - elements[1]
    core = elements[1:-1] if n > 4 else elements
    difference = None
    for period in range(1, len(core) // 2 + 1):
        is_passed, is_verified = True, False
        if is_strict:
            difference = None
        for column in (core[start::period] for start in range(period)):
            if any(type(element) is not type(column[0]) for element in column):
                is_passed = False
            elif isinstance(column[0], str):
                is_passed = len(set(column)) == 1
            else:
                steps = [later - earlier for earlier, later in itertools.pairwise(column)]
                is_passed = all(abs(step - steps[0]) < 1e-10 for step in steps)
                if is_passed and steps[0] != 0:
                    difference = steps[0]
                if len(column) >= 3 and not (is_strict and steps[0] == 0):
                    is_verified = True
            if not is_passed:
                break
        if is_passed and difference is None:
            return True, None
        if is_passed and is_verified:
            return True, difference
    return False, None


def transcribed_pattern(text, mode):
    is_strict = mode == "strict"
    is_passed, difference = transcribed_test(transcribed_elements(text), is_strict=is_strict)
    if is_passed and difference:
        return INCREMENTING
    return False, transcribed_test(list(text), is_strict=is_strict)[0]


few_elements = st.lists(st.sampled_from(["a", "|", "1", "2", "3", "4"]), max_size=14)
near_periods = st.builds(
    lambda unit, copies, position, noise: (
        (unit * copies)[:position] + noise + (unit * copies)[position + len(noise) :]
    ),
    st.lists(st.sampled_from(["a", "1", "2", "5"]), min_size=1, max_size=5),
    st.integers(1, 6),
    st.integers(0, 20),
    st.lists(st.sampled_from(["b", "7"]), max_size=1),
)
counters = st.builds(
    lambda start, step, n, words: [
        element for i in range(n) for element in (str(start + step * i), *words)
    ],
    st.integers(0, 20),
    st.integers(0, 3),
    st.integers(1, 8),
    st.lists(st.sampled_from(["a", "b", "7"]), max_size=3),
)
worded = st.builds(
    lambda unit, copies, start, noise, cut: (
        noise[:1]
        + [str(start + i) if word == "#" else word for i in range(copies) for word in unit]
        + noise[1:]
    )[cut:],
    st.lists(st.sampled_from(["#", "#", "row", "item", "of", "'", '"x"', "é²"]), max_size=5),
    st.integers(0, 5),
    st.integers(0, 12),
    st.lists(st.sampled_from(["alpha", "beta", "row", "''", "7", "\\n", "\u200b"]), max_size=4),
    st.integers(0, 3),
)
texts = st.one_of(
    st.text(alphabet="aab1290 -x_'\\n\x01٣+.,\"", max_size=30),
    st.text(max_size=12),
    st.one_of(few_elements, near_periods, counters, worded).map(" ".join),
)


@given(texts)
@settings(max_examples=200)
@example("9 3 2 5 4 3 2 5 4 3 9")
@example("0x 1_ 2 3")
@example("alpha 1 beta 2 gamma")
@example("'' alpha 1 beta")
def test_equals_the_transcribed_rules_and_lone_words_are_never_in_a_text_that_counts(text):
    for mode in ("published", "strict"):
        wanted = transcribed_pattern(text, mode)
        assert find_pattern(text, mode) == wanted
        assert not (has_lone_words(text) and wanted == INCREMENTING)


@given(st.text(alphabet="ab", max_size=60), st.integers(1, 8), st.integers(0, 8))
@settings(max_examples=100)
def test_smallest_period_is_the_smallest_that_fits(text, copies, cut):
    text = (text[:9] * copies)[cut:] + text[9:12]
    fitting = (p for p in range(1, len(text) // 2 + 1) if text[p:] == text[:-p])
    assert find_smallest_period(text) == next(fitting, None)


@given(st.lists(few_elements.map(" ".join) | st.none(), max_size=30))
@settings(max_examples=30)
@example(["1 5 2", "9 3 2 5 4 3 2 5 4 3 9", "1 2 3", "abab", None, "x"])
def test_counts_are_those_of_asking_both_of_every_text(texts):
    found = compare_modes(texts)
    there = [one for one in texts if one is not None]
    asked = [(find_pattern(one, "published"), find_pattern(one, "strict")) for one in there]
    for place, name in enumerate(["is_incrementing", "is_repeating"]):
        pairs = [(published[place], strict[place]) for published, strict in asked]
        wanted = [pairs.count(pair) for pair in ((True, True), (True, False), (False, True))]
        assert list(found[name]) == wanted
