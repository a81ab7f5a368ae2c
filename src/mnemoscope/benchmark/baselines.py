"""What needs no CNN: blind maps and n-grams of the text, and regressions on maps and logits.

Blind maps go through the same CNNs as attention (two channels in place of layers); the
regression sees how often tokens and pairs of tokens occur, not where. Both get the tokens shown to
the model; the better of the two counts.
"""

import time
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mnemoscope.cnn.metrics import confusion_matrix, min_f1
from mnemoscope.cnn.training import CHANCE_LEVEL, chance_test
from mnemoscope.maps.shape import NEAR_DIAGONAL, SHAPES
from mnemoscope.maps.triangle import unpack_triangle
from mnemoscope.maps.views import MapSource, TensorMaps, rows_at_once

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BLIND_CHANNELS = ("same token earlier", "after the same token")
"""What the two channels of a blind map mark, in order."""

MAX_NGRAMS = 50_000
"""Most n-grams kept, the commonest first; enough for every one of a few thousand sequences."""

TEXT_DIMENSIONS = 64

STATISTICS = (
    *(
        f"{block}: {figure}"
        for block in ("prefix to prefix", "suffix to prefix", "suffix to suffix")
        for figure in ("mean", "standard deviation", "largest")
    ),
    "entropy of a prefix token's row",
    "entropy of a suffix token's row",
    "to itself",
    "to the token before",
    "to the first token",
)
"""What `map_statistics` gives of each layer, in order (query to key; causal entries only)."""
ALL_STATISTICS = (*STATISTICS, *SHAPES)
"""What `all_statistics` gives of each layer, in order."""

_ROWS_AT_ONCE = 1024
_SMALLEST = 1e-12


@dataclass(frozen=True)
class BaselineFit:
    """What a baseline says of the evaluation sequences, and how it did on its own training set."""

    predicted: np.ndarray  # class index of each evaluation sequence, shape (n_eval,), int64
    probabilities: np.ndarray  # shape (n_eval, classes), float64, rows sum to 1
    train_min_f1: float  # fraction, on the training set
    did_train: bool  # whether `chance_test` on the training set is below `CHANCE_LEVEL`
    seconds: float  # to fit and predict


def fit_baseline(
    estimator: Any, train_inputs: Any, train_labels: np.ndarray, eval_inputs: Any
) -> BaselineFit:
    """Fit a scikit-learn classifier and predict the evaluation sequences.

    Whatever is learned of the inputs (n, columns), such as scales or n-gram weights, must be inside
    the estimator, so that nothing of the evaluation leaks in. Every class occurs in `train_labels`.
    Raises ValueError: labels and inputs differ in number, or the labels are not 0 to classes - 1.
    """
    from sklearn.exceptions import ConvergenceWarning

    started = time.perf_counter()
    labels = np.asarray(train_labels, dtype=np.int64)
    present = np.unique(labels)
    if len(labels) != train_inputs.shape[0] or not np.array_equal(present, range(len(present))):
        raise ValueError(
            f"baseline: {train_inputs.shape[0]} inputs, {len(labels)} labels of classes "
            f"{present.tolist()}; wanted a label an input, of classes 0, 1, ... without a gap"
        )
    with threadpool_limits(1), warnings.catch_warnings():
        # Stopping early costs a baseline little and is no fault the reader could mend.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(train_inputs, labels)
        # In float32 what a product of matrices gives of a row depends on where the row stands.
        asked = (
            one.astype(np.float64) if getattr(one, "dtype", None) == np.float32 else one
            for one in (train_inputs, eval_inputs)
        )
        fitted, probabilities = map(estimator.predict_proba, asked)
    confusion = confusion_matrix(labels, fitted.argmax(axis=1), probabilities.shape[1])
    return BaselineFit(
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
        train_min_f1=min_f1(confusion),
        did_train=chance_test(confusion).p_value < CHANCE_LEVEL,
        seconds=time.perf_counter() - started,
    )


def blind_maps(tokens: np.ndarray) -> TensorMaps:
    """Draw the repetitions of each sequence, tokens (n, T), as a map of 2 channels.

    Channel 0 is 1 where the key is earlier than the query and holds the same token. Channel 1
    is 1 where the token just before the key equals the query's and the key is not later than
    the query: the diagonal an induction head attends along. All else is 0.
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
    train_tokens: np.ndarray, train_labels: np.ndarray, eval_tokens: np.ndarray, seed: int
) -> BaselineFit:
    """Tell the classes apart by which tokens and pairs of tokens occur.

    Counts of the 1- and 2-grams that occur in at least two training sequences, as
    ln(1 + count), then multinomial logistic regression (L2, C = 0.3). Chosen on planted texts
    (a marker token; three topics): inverse document frequency hides a marker that a third of
    the sequences bear, and between C = 0.03 and 3 hardly anything changes.

    Tokens (n_train, T) and (n_eval, T), integer.
    """
    from sklearn.linear_model import LogisticRegression

    train_counts, eval_counts = count_ngrams(train_tokens, eval_tokens)
    estimator = LogisticRegression(C=0.3, max_iter=500, random_state=seed)
    return fit_baseline(estimator, train_counts.log1p(), train_labels, eval_counts.log1p())


def count_ngrams(
    train_tokens: np.ndarray, eval_tokens: np.ndarray, *, limit: int = MAX_NGRAMS
) -> tuple["csr_matrix", "csr_matrix"]:
    """Count the 1- and 2-grams of token ids that two training sequences share.

    Gives training and evaluation counts, (n, columns). An n-gram of one training sequence says
    nothing of others; beyond `limit`, those in most training sequences stay. With none shared there
    is one column of zeros.
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


def ngram_dimensions(
    train_tokens: np.ndarray, eval_tokens: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of n-grams, ln(1 + count), in their 64 largest dimensions; (n, at most 64) each.

    Found on the training sequences by singular value decomposition (latent semantic analysis).
    No column where fewer than two n-grams or sequences are there.
    """
    from sklearn.decomposition import TruncatedSVD

    counts = [one.log1p() for one in count_ngrams(train_tokens, eval_tokens)]
    dimensions = min(TEXT_DIMENSIONS, counts[0].shape[1] - 1, counts[0].shape[0] - 1)
    if dimensions < 1:
        return np.empty((len(train_tokens), 0)), np.empty((len(eval_tokens), 0))
    with threadpool_limits(1):  # more change the last bits, and what they do is too small for them
        reducer = TruncatedSVD(dimensions, random_state=seed).fit(counts[0])
        train, asked = map(reducer.transform, counts)
    return train, asked


def _codes(tokens: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """Number every 1- and 2-gram: a · base + b + 1, where b + 1 is 0 for the 1-gram a."""
    first = tokens.astype(np.int64) * base
    codes = np.concatenate([first, first[:, :-1] + tokens[:, 1:] + 1], axis=1)
    rows = np.repeat(np.arange(len(tokens)), codes.shape[1])
    return rows, codes.ravel()


def _matrix(
    rows: np.ndarray, codes: np.ndarray, vocabulary: np.ndarray, n_rows: int
) -> "csr_matrix":
    """Count the codes of the vocabulary, one matrix row a sequence."""
    from scipy.sparse import csr_matrix

    shape = (n_rows, max(1, len(vocabulary)))
    if len(vocabulary) == 0:
        return csr_matrix(shape, dtype=np.float64)
    column = np.minimum(np.searchsorted(vocabulary, codes), len(vocabulary) - 1)
    known = vocabulary[column] == codes
    ones = np.ones(int(known.sum()))
    return csr_matrix((ones, (rows[known], column[known])), shape=shape)


def classify_logprobs(
    train_logprobs: np.ndarray, train_labels: np.ndarray, eval_logprobs: np.ndarray, seed: int
) -> BaselineFit:
    """Tell the classes apart by what the model's output alone gives away.

    Natural log-probabilities, (n, places), finite. Of each true suffix token given all before it
    they are a positive control, and circular: memorized *means* that every suffix token is the best
    one. Of the best token at each place of the prefix they are not.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    if not (np.isfinite(train_logprobs).all() and np.isfinite(eval_logprobs).all()):
        raise ValueError("logits: a log-probability is not finite")
    estimator = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.1, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )
    return fit_baseline(
        estimator, logprob_features(train_logprobs), train_labels, logprob_features(eval_logprobs)
    )


def logprob_features(logprobs: np.ndarray) -> np.ndarray:
    """Log-probabilities by position, in ascending order, and their sum: (n, 2 · places + 1).

    Sorted, "the third least likely token" is one column; a tree would seek it at each place.
    """
    return np.concatenate(
        [logprobs, np.sort(logprobs, axis=1), logprobs.sum(axis=1, keepdims=True)], axis=1
    ).astype(np.float64)


def map_statistics(maps: MapSource, prefix: int | None = None) -> np.ndarray:
    """Sum up each layer of each map: float64 (n, layers, 14), in the order of `STATISTICS`.

    Mean, standard deviation and maximum of three blocks (query prefix, key prefix; query
    suffix, key prefix; query suffix, key suffix), the mean entropy (nats) of the rows of
    either half, each row scaled to sum 1, and the mean weight on the diagonal, just below it,
    and on the first key (queries 1 and later). The prefix is half of the map unless given.
    """
    parts = [
        _Sums(maps.read(rows), maps.length, prefix).statistics()
        for rows in torch.split(torch.arange(len(maps)), rows_at_once(maps))
    ]
    return torch.cat(parts).numpy()


def all_statistics(maps: MapSource, tokens: np.ndarray, prefix: int | None = None) -> np.ndarray:
    """Add each map's shape to `map_statistics`: float64 (n, layers, 22), as `ALL_STATISTICS`.

    The shape is that of `maps.shape`; tokens (n, T) tell which edges are copies.
    """
    marks, parts = blind_maps(tokens), []
    for rows in torch.split(torch.arange(len(maps)), rows_at_once(maps)):
        sums = _Sums(maps.read(rows), maps.length, prefix)
        parts += [torch.cat([sums.statistics(), sums.shape(marks.read(rows)[:, 1] > 0)], dim=-1)]
    return torch.cat(parts).numpy()


class _Sums:
    """Weights and their sums over parts of the triangle, of packed maps (n, layers, triangle)."""

    def __init__(self, packed: torch.Tensor, length: int, prefix: int | None) -> None:
        self.packed, self.length = packed, length
        self.half = length // 2 if prefix is None else prefix
        self.weights = packed.double()
        self.cells = _cells(length, self.half)
        of_cells = self.weights @ self.cells
        self.blocks, self.lines = of_cells[..., :3], of_cells[..., 3:_N_CELLS]
        self.rows = of_cells[..., _N_CELLS:]
        self.scale = self.rows.clamp_min(_SMALLEST)
        # Of a row scaled to sum 1, from its weights as they are.
        of_rows = torch.special.entr(self.weights) @ self.cells[:, _N_CELLS:]
        self.entropy = of_rows / self.scale + self.rows / self.scale * self.scale.log()

    def statistics(self) -> torch.Tensor:
        """As `map_statistics`."""
        cells = self.cells[:, :3]
        mean = self.blocks / cells.sum(0)
        squares = self.weights.square() @ cells / cells.sum(0)
        inside = [cells[:, each].bool() for each in range(3)]
        largest = torch.stack([self.weights[..., each].amax(-1) for each in inside], dim=-1)
        deviation = (squares - mean.square()).clamp_min(0).sqrt()
        blocks = torch.stack([mean, deviation, largest], dim=-1).flatten(-2)
        halves = [self.entropy[..., : self.half], self.entropy[..., self.half :]]
        entropy = torch.stack([each.mean(-1) for each in halves], dim=-1)
        length = self.length
        lines = self.lines[..., :3] / torch.tensor([length, length - 1, length - 1])
        return torch.cat([blocks, entropy, lines], dim=-1)

    def shape(self, copies: torch.Tensor) -> torch.Tensor:
        """As `maps.shape.attention_shape`, with copy edges packed, bool (n, triangle)."""
        on_copies = torch.einsum("nlt,nt->nl", self.weights, copies.double())
        masses = [self.lines[..., 3], self.lines[..., 4], on_copies, *self.blocks.unbind(-1)]
        shares = torch.stack(masses, dim=-1) / self.rows.sum(-1, keepdim=True).clamp_min(_SMALLEST)
        entropy = self.entropy[..., 1:].mean(-1)
        return torch.cat([torch.stack([entropy, self._gini()], dim=-1), shares], dim=-1)

    def _gini(self) -> torch.Tensor:
        """Mean Gini coefficient of the rows of queries 1 and later."""
        square = unpack_triangle(self.packed).numpy()
        # Float16 that is not negative is in the order of its bits, which sort faster.
        bits = square.view(np.uint16) if square.dtype == np.float16 else square
        ordered = torch.from_numpy(np.sort(bits).view(square.dtype)).double()
        n_keys = torch.arange(1, self.length + 1, dtype=torch.float64)
        # Zeros above the diagonal sort first, so a row of q + 1 keys ends the sorted row.
        rank = (n_keys - (self.length - n_keys[:, None])).clamp(min=0)
        weighted = torch.einsum("nlqk,qk->nlq", ordered, rank) / self.scale
        total = n_keys * (self.rows / self.scale).clamp_min(_SMALLEST)
        return (2 * weighted / total - (n_keys + 1) / n_keys)[..., 1:].mean(-1)


_N_CELLS = 8


@lru_cache(maxsize=8)
def _cells(length: int, half: int) -> torch.Tensor:
    """Parts of the triangle as columns of 0 and 1, float64 (triangle, 8 + length).

    The three blocks; the diagonal, the one below it, the first key of queries 1 and later, the
    first key, near the diagonal; then each query's row.
    """
    query, key = torch.tril_indices(length, length)
    parts = [
        (query < half) & (key < half),
        (query >= half) & (key < half),
        (query >= half) & (key >= half),
        query == key,
        query - key == 1,
        (key == 0) & (query > 0),
        key == 0,
        query - key <= NEAR_DIAGONAL,
    ]
    assert len(parts) == _N_CELLS
    return torch.stack([*parts, *(query == row for row in range(length))], dim=1).double()


def classify_statistics(
    train_statistics: np.ndarray, train_labels: np.ndarray, eval_statistics: np.ndarray, seed: int
) -> BaselineFit:
    """Tell the classes apart by the statistics of their maps.

    Every statistic is standardized over the training sequences, then multinomial logistic
    regression (L2, C = 1). Statistics are (n, layers, figures), or (n, columns).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    estimator = make_pipeline(
        StandardScaler(), LogisticRegression(C=1.0, max_iter=1000, random_state=seed)
    )
    return fit_baseline(
        estimator,
        train_statistics.reshape(len(train_statistics), -1),
        train_labels,
        eval_statistics.reshape(len(eval_statistics), -1),
    )


def permute_labels(
    sequence_ids: np.ndarray,
    labels: np.ndarray,
    splits: np.ndarray,
    *,
    seed: int,
    non_memo: int | None = 0,
) -> np.ndarray:
    """The control task, a taxonomy without meaning: each memorized sequence gets another's class.

    Classes keep their sizes within each split, so the control is as balanced as the task. A label
    depends on the sequence's identity and the seed alone, not on row order, CNN setting or training
    seed. With a single memorized class Non-Memo (index `non_memo`, None if dropped) takes part.
    Raises ValueError: ids, labels and splits differ in length, or an id comes twice.
    """
    if not len(sequence_ids) == len(labels) == len(splits) == len(np.unique(sequence_ids)):
        raise ValueError(
            f"control task: {len(sequence_ids)} ids ({len(np.unique(sequence_ids))} of them "
            f"different), {len(labels)} labels, {len(splits)} splits; wanted one of each a sequence"
        )
    labels = np.asarray(labels, dtype=np.int64)
    is_memorized = labels != (-1 if non_memo is None else non_memo)
    has_several_memorized = len(np.unique(labels[is_memorized])) > 1
    takes_part = is_memorized if has_several_memorized else np.ones(len(labels), dtype=bool)
    generator = np.random.default_rng(seed)
    by_id = np.argsort(sequence_ids)
    permuted = labels.copy()
    for split in np.unique(splits):
        members = by_id[(takes_part & (splits == split))[by_id]]
        permuted[members] = generator.permutation(labels[members])
    return permuted
