"""What the text alone gives away: blind maps and an n-gram regression, no model involved.

The blind maps go through the same CNNs as the attention (a map of two channels in place of a
map of layers); the regression sees how often each token and pair of tokens occurs, not where.
Both get the tokens as the model was shown them. The better of the two counts.
"""

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from mnemoscope.benchmark.baseline import BaselineFit, fit_baseline
from mnemoscope.maps.dataset import TensorMaps

__all__ = ["BLIND_CHANNELS", "MAX_NGRAMS", "blind_maps", "count_ngrams", "ngram_logits"]

BLIND_CHANNELS = ("same token earlier", "after the same token")
"""What the two channels of a blind map mark, in order."""

MAX_NGRAMS = 50_000
"""Most n-grams kept, the commonest first; enough for every one of a few thousand sequences."""

_ROWS_AT_ONCE = 1024


def blind_maps(tokens: np.ndarray) -> TensorMaps:
    """Draw each sequence's own repetitions as a map, from its tokens alone.

    Channel 0 is 1 where the key is earlier than the query and holds the same token. Channel 1
    is 1 where the token just before the key equals the query's and the key is not later than
    the query: the diagonal an induction head attends along. All else is 0.

    Args:
        tokens: token ids as shown to the model, shape (n, T), integer.

    Returns:
        n maps of 2 channels (in place of layers), lower triangle row by row, float16.

    Raises:
        ValueError: not two-dimensional.
    """
    if tokens.ndim != 2:
        raise ValueError(f"tokens: shape {tokens.shape}, wanted (sequences, T)")
    query, key = np.tril_indices(tokens.shape[1])
    packed = np.empty((len(tokens), 2, len(query)), dtype=np.float16)
    for start in range(0, len(tokens), _ROWS_AT_ONCE):
        rows = tokens[start : start + _ROWS_AT_ONCE]
        asked = rows[:, query]
        packed[start : start + len(rows), 0] = (rows[:, key] == asked) & (key < query)
        packed[start : start + len(rows), 1] = (rows[:, key - 1] == asked) & (key > 0)
    return TensorMaps(torch.from_numpy(packed))


def ngram_logits(
    train_tokens: np.ndarray,
    train_labels: np.ndarray,
    eval_tokens: np.ndarray,
    seed: int,
) -> BaselineFit:
    """Tell the classes apart by which tokens and pairs of tokens occur.

    Counts of the 1- and 2-grams that occur in at least two training sequences, as
    ln(1 + count), then multinomial logistic regression (L2, C = 0.3). Chosen on planted texts
    (a marker token; three topics): inverse document frequency hides a marker that a third of
    the sequences bear, and between C = 0.03 and 3 hardly anything changes.

    Args:
        train_tokens: shape (n_train, T), integer.
        train_labels: class index of each, shape (n_train,).
        eval_tokens: shape (n_eval, T), integer.
        seed: of the solver.

    Returns:
        Predictions and class probabilities of the evaluation sequences.
    """
    train_counts, eval_counts = count_ngrams(train_tokens, eval_tokens)
    estimator = LogisticRegression(C=0.3, max_iter=500, random_state=seed)
    return fit_baseline(estimator, train_counts.log1p(), train_labels, eval_counts.log1p())


def count_ngrams(
    train_tokens: np.ndarray, eval_tokens: np.ndarray, *, limit: int = MAX_NGRAMS
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Count the 1- and 2-grams of token ids that two training sequences share.

    An n-gram of one training sequence says nothing of any other, so it has no column; where
    more than `limit` are shared, those of the most training sequences stay. With no shared
    n-gram at all the matrices have one column of zeros.

    Args:
        train_tokens: shape (n_train, T), integer.
        eval_tokens: shape (n_eval, T), integer.
        limit: most columns.

    Returns:
        Counts of training and evaluation sequences, (n_train, columns) and (n_eval, columns).
    """
    base = int(max(train_tokens.max(initial=0), eval_tokens.max(initial=0))) + 2
    train_rows, train_codes = _codes(train_tokens, base)
    eval_rows, eval_codes = _codes(eval_tokens, base)
    seen = np.unique(train_codes * len(train_tokens) + train_rows) // max(1, len(train_tokens))
    vocabulary, n_sequences = np.unique(seen, return_counts=True)
    order = np.argsort(-n_sequences, kind="stable")[:limit]
    vocabulary = np.sort(vocabulary[order[n_sequences[order] >= 2]])
    return (
        _matrix(train_rows, train_codes, vocabulary, len(train_tokens)),
        _matrix(eval_rows, eval_codes, vocabulary, len(eval_tokens)),
    )


def _codes(tokens: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """Number every 1- and 2-gram: a · base + b + 1, where b + 1 is 0 for the 1-gram a."""
    first = tokens.astype(np.int64) * base
    codes = np.concatenate([first, first[:, :-1] + tokens[:, 1:] + 1], axis=1)
    rows = np.repeat(np.arange(len(tokens)), codes.shape[1])
    return rows, codes.ravel()


def _matrix(
    rows: np.ndarray, codes: np.ndarray, vocabulary: np.ndarray, n_rows: int
) -> sparse.csr_matrix:
    """Count the codes of the vocabulary, one matrix row a sequence."""
    shape = (n_rows, max(1, len(vocabulary)))
    if len(vocabulary) == 0:
        return sparse.csr_matrix(shape, dtype=np.float64)
    column = np.minimum(np.searchsorted(vocabulary, codes), len(vocabulary) - 1)
    known = vocabulary[column] == codes
    ones = np.ones(int(known.sum()))
    return sparse.csr_matrix((ones, (rows[known], column[known])), shape=shape)
