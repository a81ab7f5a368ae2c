"""Hashed stretches against plain tuples."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.data.duplicates import hash_ngrams, share_ngram
from tools.embedded.corpus import NgramSet


def _tuples(window: np.ndarray, n: int) -> list[tuple[int, ...]]:
    return [tuple(window[at : at + n].tolist()) for at in range(len(window) - n + 1)]


@given(st.lists(st.integers(0, 2), min_size=12, max_size=12), st.integers(2, 6))
def test_hashes_are_equal_exactly_where_the_stretches_are(tokens, n):
    window = np.array(tokens)
    hashes = hash_ngrams(window[None], n=n)[0].tolist()
    stretches = _tuples(window, n)
    for i, one in enumerate(stretches):
        for j, other in enumerate(stretches):
            assert (hashes[i] == hashes[j]) == (one == other)


def test_a_shared_stretch_is_found_at_any_two_offsets():
    rng = np.random.default_rng(0)
    windows = rng.integers(0, 2048, (3, 64))
    windows[1, 40:64] = windows[0, 3:27]
    assert share_ngram(windows, hash_ngrams(windows[:1]).ravel()).tolist() == [True, True, False]
    windows[1, 50] += 1
    assert share_ngram(windows, hash_ngrams(windows[:1]).ravel()).tolist() == [True, False, False]


def test_a_refused_window_leaves_the_set_as_it_was():
    used = NgramSet()
    assert used.take([1, 2])
    assert not used.take([2, 3])
    assert used.take([3])
    assert used.as_array().tolist() == [1, 2, 3]
