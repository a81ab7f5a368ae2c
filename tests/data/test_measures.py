"""Measures of a text or its tokens, against closed forms and SciPy."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from mnemoscope.data.features import (
    TEXT_MEASURES,
    huffman_length,
    measure_text,
    shannon_length,
    token_entropy,
    token_frequency,
)


@pytest.mark.parametrize(
    ("text", "bits"), [("", 0), ("aaaa", 0), ("ab", 1), ("abcd", 2), ("aab", 4 / 3)]
)
def test_shannon_length_of_known_texts(text: str, bits: float) -> None:
    assert shannon_length(text) == pytest.approx(bits)


@given(st.text(min_size=2))
def test_shannon_length_is_within_a_bit_of_the_entropy(text: str) -> None:
    counts = list(Counter(text).values())
    bound = entropy(counts, base=2)
    # 1e-9: the rounding of both sides.
    assert len(counts) == 1 or bound - 1e-9 <= shannon_length(text) < bound + 1


@pytest.mark.parametrize(
    ("text", "bits"), [("", 0), ("aaaa", 0), ("ab", 1), ("abcd", 2), ("aab", 1), ("aabc", 1.5)]
)
def test_huffman_length_of_known_texts(text: str, bits: float) -> None:
    assert huffman_length(text) == pytest.approx(bits)


@given(st.text(min_size=2))
def test_huffman_length_lies_between_the_entropy_and_shannons(text: str) -> None:
    counts = list(Counter(text).values())
    if len(counts) > 1:
        bound = entropy(counts, base=2)
        assert bound - 1e-9 <= huffman_length(text) <= shannon_length(text) + 1e-9


@given(st.lists(st.lists(st.integers(0, 5), min_size=8, max_size=8), min_size=1, max_size=5))
def test_token_entropy_is_scipy_s(rows: list[list[int]]) -> None:
    wanted = [entropy(list(Counter(row).values()), base=2) for row in rows]
    assert np.allclose(token_entropy(rows), wanted, atol=1e-12)


def test_token_frequency_is_the_median_share_in_the_table() -> None:
    # Of 8 tokens five are 7, two are 1, one is 2.
    found = token_frequency([[7, 7, 7, 1], [7, 7, 1, 2]])
    assert found.tolist() == pytest.approx([62.5, (62.5 + 25) / 2])


def test_a_measure_without_its_column_is_null() -> None:
    frame = pl.DataFrame({"sequence_id": [1, 2], "text": ["ab", None]})
    found = measure_text(frame)
    assert found.columns == list(TEXT_MEASURES)
    assert found["shannon_length"].to_list() == [1.0, None]
    assert found["token_entropy"].null_count() == found["token_frequency"].null_count() == 2
    tokens = pl.Series("tokens", [[1, 2], [3, 3]])
    assert measure_text(frame.with_columns(tokens))["token_entropy"].to_list() == [1.0, 0.0]
