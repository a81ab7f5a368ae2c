"""Near duplicates are found exactly: the same components as comparing every pair."""

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.taxonomy.groups import connect, find_near_duplicates


def compare_every_pair(tokens: np.ndarray, similarity: float) -> list[int]:
    """Components by brute force: smallest row of each."""
    sets = [{tuple(row[i : i + 5]) for i in range(len(row) - 4)} for row in tokens.tolist()]
    smallest = list(range(len(sets)))
    for a in range(len(sets)):
        for b in range(a):
            alike = tokens[a].tolist() == tokens[b].tolist()
            union = len(sets[a] | sets[b])
            if alike or (union and len(sets[a] & sets[b]) / union >= similarity):
                low, high = sorted((smallest[a], smallest[b]))
                smallest = [low if one == high else one for one in smallest]
    return smallest


def name_by_first(components: np.ndarray) -> list[int]:
    """The same components, named by their smallest row."""
    first: dict[int, int] = {}
    return [first.setdefault(component, row) for row, component in enumerate(components.tolist())]


@settings(max_examples=100)
@given(st.data())
def test_components_equal_those_of_every_pair(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    similarity = data.draw(st.sampled_from([0.3, 0.5, 0.5, 0.8, 1.0]))
    rng = np.random.default_rng(seed)
    n, length = int(rng.integers(1, 30)), int(rng.choice([3, 5, 6, 12, 64]))
    vocabulary = int(rng.choice([2, 3, 50]))
    tokens = rng.integers(0, vocabulary, (n, length))
    source = rng.integers(0, vocabulary, length * 3)
    for row in range(n):  # copies, copies with changes, shifted windows, repeated text
        kind, start = rng.integers(5), int(rng.integers(0, 2 * length))
        if kind == 0:
            tokens[row] = tokens[rng.integers(n)]
        elif kind == 1:
            tokens[row] = tokens[rng.integers(n)]
            tokens[row, rng.integers(length)] = rng.integers(vocabulary)
        elif kind == 2:
            tokens[row] = source[start : start + length]
        elif kind == 3:
            period = int(rng.integers(1, 6))
            tokens[row] = np.resize(source[start : start + period], length)
    found = find_near_duplicates(tokens, similarity=similarity)
    assert name_by_first(found) == compare_every_pair(tokens, similarity)


def test_no_pair_is_missed_when_the_work_is_cut_into_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = "mnemoscope.taxonomy.groups"
    monkeypatch.setattr(f"{module}._PRODUCTS_PER_BLOCK", 500)
    monkeypatch.setattr(f"{module}._PAIRS_PER_CHECK", 7)
    rng = np.random.default_rng(3)
    text = rng.integers(0, 40, 3000)
    starts = rng.integers(0, 2900, 150)
    tokens = np.stack([text[start : start + 64] for start in starts])
    expected = compare_every_pair(tokens, 0.5)
    assert 1 < len(set(expected)) < 150
    assert name_by_first(find_near_duplicates(tokens)) == expected


@pytest.mark.parametrize(("shift", "alike"), [(0, True), (20, True), (21, False)])
def test_windows_of_one_text_are_near_up_to_a_shift_of_20(shift: int, alike: bool) -> None:
    text = np.arange(200)
    tokens = np.stack([text[:64], text[shift : shift + 64]])
    first, second = find_near_duplicates(tokens)
    assert (first == second) == alike


def find_by_minhash(tokens: np.ndarray, similarity: float) -> list[tuple[int, int]]:
    """Pairs that MinHash-LSH proposes and whose Jaccard similarity is then counted."""
    sets = [{tuple(row[i : i + 5]) for i in range(len(row) - 4)} for row in tokens.tolist()]
    hashes = []
    for shingles in sets:
        one = MinHash(num_perm=64, seed=1)
        one.update_batch([repr(shingle).encode() for shingle in shingles])
        hashes.append(one)
    lsh = MinHashLSH(threshold=similarity, num_perm=64)
    for row, one in enumerate(hashes):
        lsh.insert(row, one)
    proposed = {
        tuple(sorted((row, other))) for row in range(len(sets)) for other in lsh.query(hashes[row])
    }
    return sorted(
        (a, b)
        for a, b in proposed
        if a < b and len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= similarity
    )


def test_all_that_minhash_finds_is_found() -> None:
    """An outside witness: datasketch, a kept library, which may miss pairs where we may not."""
    rng = np.random.default_rng(5)
    text = rng.integers(0, 200, 4000)
    starts = np.concatenate([rng.integers(0, 3900, 100), rng.integers(0, 400, 60)])
    tokens = np.stack([text[start : start + 64] for start in starts])
    tokens[::7, 30] = 999
    components = find_near_duplicates(tokens)
    witnessed = find_by_minhash(tokens, 0.5)
    assert len(witnessed) > 50
    assert all(components[a] == components[b] for a, b in witnessed)
    exact = compare_every_pair(tokens, 0.5)
    assert name_by_first(components) == exact
    joined = connect(len(tokens), np.array(witnessed))
    # what MinHash joins is a refinement of ours: two that it joins are never apart
    assert len(np.unique(joined)) >= len(np.unique(components))
    assert len(set(zip(joined.tolist(), components.tolist(), strict=True))) == len(
        np.unique(joined)
    )
