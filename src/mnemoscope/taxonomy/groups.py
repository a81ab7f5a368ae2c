"""Find groups of sequences that must stay on one side of a split, near duplicates among them.

Near duplicates are found exactly (MinHash would miss pairs): all whose sets of token 5-grams have
enough Jaccard similarity, by prefix filtering (Chaudhuri et al. 2006; Xiao et al. 2008, PPJoin).
With 5-grams sorted from rare to frequent, two sets that are similar enough share one among their
first few. Only those are indexed, so that frequent 5-grams cost nothing.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.data.table import token_matrix, whole_mask
from mnemoscope.errors import UserError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SHINGLE = 5
"""Tokens in one shingle."""
SIMILARITY = 0.5
"""Jaccard similarity from which two sequences are near duplicates.

Two windows of 64 tokens of one text reach it where one is shifted by up to 20 tokens.
"""

_PRODUCTS_PER_BLOCK = 5_000_000
"""Bound on the shared 5-grams looked at in one go, which bounds the memory."""
_PAIRS_PER_CHECK = 50_000
_ROUNDING = 1e-9
_PADDED = -1


def find_groups(frame: pl.DataFrame) -> pl.Series:
    """Give every sequence of a table its group: the smallest ``sequence_id`` of its component.

    Connected are near duplicates (``tokens``, all of one length, padded or not), overlapping
    windows of one ``document`` (by ``start`` and ``end``), and what shares a ``group``, where these
    are there and not null. The order of the rows plays no part; a sequence without relatives stands
    alone. Raises UserError: no tokens, or not all of one length.

    >>> frame = pl.DataFrame({"sequence_id": [3, 1, 2], "tokens": [[7] * 6, [8] * 6, [7] * 6]})
    >>> find_groups(frame).to_list()
    ['2', '1', '2']
    """
    if "tokens" not in frame.columns:
        raise UserError(
            "the table has no column 'tokens', which is needed to find near duplicates. Add it, "
            "or split by row."
        )
    near = find_near_duplicates(token_matrix(frame), mask=whole_mask(frame))
    edges = [chain(near, np.arange(frame.height)), _chain_windows(frame)]
    if "group" in frame.columns:
        given = frame.select("group").with_row_index("row").drop_nulls()
        edges.append(chain(given["group"].rank("dense").to_numpy(), given["row"].to_numpy()))
    components = pl.Series("component", connect(frame.height, np.concatenate(edges)))
    first = pl.col("sequence_id").min().over("component")
    named = frame.select("sequence_id").with_columns(components)
    return named.select(first.cast(pl.String).alias("group")).to_series()


def other_rows(groups: npt.ArrayLike, n_others: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Draw rows of other groups for every row, by a seed: row numbers, int64 (n_others, rows).

    Other rows where all are of one group.
    """
    named = np.unique(np.asarray(groups), return_inverse=True)[1]
    generator, n_rows = np.random.default_rng(seed), len(named)
    rows = np.arange(n_rows)
    found = np.empty((n_others, n_rows), dtype=np.int64)
    for draw in range(n_others):
        chosen = generator.integers(0, n_rows, n_rows)
        for _ in range(n_rows if named.max(initial=0) else 1):
            same = np.flatnonzero(named[chosen] == named)
            if not len(same):
                break
            chosen[same] = (chosen[same] + 1) % n_rows
        found[draw] = np.where(chosen == rows, (chosen + 1) % n_rows, chosen)
    return found


def chain(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Connect each row with the first of its label, shape (n, 2)."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.column_stack([rows, rows[first[inverse]]])


def _chain_windows(frame: pl.DataFrame) -> np.ndarray:
    """Connect windows that overlap in one document; `end` is the first character after."""
    needed = ["document", "start", "end"]
    if not set(needed) <= set(frame.columns):
        return np.empty((0, 2), dtype=np.int64)
    windows = frame.select(needed).with_row_index("row").drop_nulls().sort("document", "start")
    reached = pl.col("end").cum_max().shift(1).over("document")
    overlaps = windows.select((pl.col("start") < reached).fill_null(False)).to_series()
    run = (~overlaps).cum_sum().to_numpy()
    return chain(run, windows["row"].to_numpy())


def find_near_duplicates(
    tokens: np.ndarray, *, similarity: float = SIMILARITY, mask: np.ndarray | None = None
) -> np.ndarray:
    """Component of every sequence in the graph of near duplicates, shape (sequences,), int.

    `tokens` are integers from 0, shape (sequences, length); equal sequences always share a
    component. Where `mask` is 0 a sequence is padded: no 5-gram goes there.
    """
    if mask is not None:
        tokens = np.where(mask.astype(bool), tokens, _PADDED)
    distinct, inverse = np.unique(tokens, axis=0, return_inverse=True)
    if distinct.shape[1] < SHINGLE:
        return inverse.reshape(-1)
    sets = _sort_by_rarity(_hash_shingles(distinct))
    components = np.arange(len(distinct))
    for pairs in _find_candidates(sets, similarity):
        components = _join_similar(sets, pairs, components, similarity)
    found: np.ndarray = components[inverse.reshape(-1)]
    return found


def connect(n: int, pairs: np.ndarray) -> np.ndarray:
    """Component of every one of `n` things, given pairs of connected ones, shape (pairs, 2)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    components: np.ndarray = connected_components(graph, directed=False)[1]
    return components


def _hash_shingles(tokens: np.ndarray) -> np.ndarray:
    """64-bit hash of every 5-gram, shape (sequences, length - 4)."""
    n = tokens.shape[1] - SHINGLE + 1
    # Among three million 5-grams any two collide with a chance below one in a million.
    hashes = np.zeros((len(tokens), n), dtype=np.uint64)
    for offset in range(SHINGLE):
        hashes ^= tokens[:, offset : offset + n].astype(np.uint64) + np.uint64(1)
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    if not (tokens == _PADDED).any():
        return hashes
    windows = np.lib.stride_tricks.sliding_window_view(tokens == _PADDED, SHINGLE, axis=1)
    is_cut: npt.NDArray[np.bool_] = windows.max(axis=2)
    # In place of what is cut the row's first whole 5-gram, or its number where it has none.
    first = np.take_along_axis(hashes, is_cut.argmin(axis=1)[:, None], axis=1)
    alone = np.arange(len(tokens), dtype=np.uint64)[:, None]
    return np.where(is_cut, np.where(is_cut.min(axis=1, keepdims=True), alone, first), hashes)


def _sort_by_rarity(hashes: np.ndarray) -> "csr_array":
    """Sets as rows; columns are 5-grams from rare to frequent."""
    from scipy.sparse import csr_array

    ordered = np.sort(hashes, axis=1)
    is_new = np.ones(ordered.shape, dtype=bool)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rows = np.repeat(np.arange(len(ordered)), is_new.sum(axis=1))
    shingles, ids, counts = np.unique(ordered[is_new], return_inverse=True, return_counts=True)
    rank = np.empty(len(shingles), dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(shingles))
    values = np.ones(len(rows), dtype=np.int32)
    sets = csr_array((values, (rows, rank[ids])), shape=(len(hashes), len(shingles)))
    sets.sort_indices()
    return sets


def _find_candidates(sets: "csr_array", similarity: float) -> Iterator[np.ndarray]:
    """Pairs that may be similar, shape (pairs, 2), block by block."""
    sizes = np.diff(sets.indptr)
    unindexed = np.maximum(np.ceil(similarity * sizes - _ROUNDING).astype(np.int64), 1) - 1
    index = _keep_first(sets, sizes - unindexed)
    postings = np.bincount(index.indices, minlength=index.shape[1])
    cost = np.add.reduceat(postings[index.indices], index.indptr[:-1])
    for start, stop in _cut_blocks(cost):
        shared = (index[start:stop] @ index[start:].T).tocoo()
        first, second = shared.row + start, shared.col + start
        needed = _least_shared(sizes[first], sizes[second], similarity)
        reach = shared.data + np.maximum(unindexed[first], unindexed[second])
        keep = (second > first) & (reach >= needed)
        best_first = np.argsort(-shared.data[keep], kind="stable")
        yield np.column_stack([first[keep], second[keep]])[best_first]


def _keep_first(sets: "csr_array", lengths: np.ndarray) -> "csr_array":
    """The first `lengths` columns of every row, rarest first."""
    from scipy.sparse import csr_array

    position = np.arange(sets.nnz) - np.repeat(sets.indptr[:-1], np.diff(sets.indptr))
    keep = position < np.repeat(lengths, np.diff(sets.indptr))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return csr_array((sets.data[keep], sets.indices[keep], indptr), shape=sets.shape)


def _cut_blocks(cost: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose cost stays within bounds, one row at least."""
    start = 0
    total = np.cumsum(cost)
    while start < len(cost):
        before = total[start - 1] if start else 0
        stop = int(np.searchsorted(total, before + _PRODUCTS_PER_BLOCK, side="right"))
        stop = max(stop, start + 1)
        yield start, stop
        start = stop


def _least_shared(first: np.ndarray, second: np.ndarray, similarity: float) -> np.ndarray:
    """How many 5-grams two sets of these sizes share at least where they are similar."""
    least: np.ndarray = np.ceil(similarity / (1 + similarity) * (first + second) - _ROUNDING)
    return least


def _join_similar(
    sets: "csr_array", pairs: np.ndarray, components: np.ndarray, similarity: float
) -> np.ndarray:
    """Connect the candidates that are similar; what is connected already is not looked at."""
    sizes = np.diff(sets.indptr)
    while len(pairs := pairs[components[pairs[:, 0]] != components[pairs[:, 1]]]):
        now, pairs = pairs[:_PAIRS_PER_CHECK], pairs[_PAIRS_PER_CHECK:]
        shared = sets[now[:, 0]].multiply(sets[now[:, 1]]).sum(axis=1)
        needed = _least_shared(sizes[now[:, 0]], sizes[now[:, 1]], similarity)
        joined = components[now[shared >= needed]]
        components = connect(len(components), joined)[components]
    return components
