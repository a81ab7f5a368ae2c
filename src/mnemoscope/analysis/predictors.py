"""The features that predict memorization: duplicates, token frequency, perplexity, similarity.

Source: Prashanth et al. 2024, arXiv 2406.17746; sections 1.6 to 1.13 of the related work. Where
the corpus is not at hand, frequencies are those of the study's own table; the sentence models'
counts of similar texts are replaced by n-gram ones, which bear other names.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer

from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.analysis.rows import hash_arrays, keep_blocks
from mnemoscope.data.corpus import Place
from mnemoscope.data.duplicates import SuffixIndex
from mnemoscope.data.features import shannon_length
from mnemoscope.data.table import token_matrix
from mnemoscope.lm.probe import suffix_logprobs
from mnemoscope.progress import Progress, track

_Floats = npt.NDArray[np.float64]
_Counts = npt.NDArray[np.int64]

FEATURES: Mapping[str, str] = {
    "duplicates": "times the suffix stands in the training text",
    "max_frequency": "frequency of the most frequent of the 64 tokens",
    "avg_frequency": "mean frequency of the tokens",
    "min_frequency": "frequency of the rarest token",
    "median_frequency": "median frequency of the tokens",
    "p25_frequency": "lower quartile of the tokens' frequency",
    "p75_frequency": "upper quartile of the tokens' frequency",
    "generation_perplexity": "perplexity of the second half",
    "prompt_perplexity": "perplexity of the first half",
    "sequence_perplexity": "perplexity of the whole",
    "n_similar": "other sequences with a cosine of character 3-grams of .8 or more",
    "n_near": "of these, those fewer than 20 edits away",
    "shannon_length": "Shannon's code length, bits a character",
    "is_templating": "1 where incrementing or repeating",
}
"""Every feature and its meaning, in the order of the published models."""

_SIMILAR, _NEAR = 0.8, 20
_BLOCK, _TEXT_BLOCK = 1024, 512
_GIVEN_COUNTS = "published_frequencies"


def add_predictors(inputs: AnalysisInputs, rows: pl.DataFrame) -> pl.DataFrame:
    """Give `sequence_id` and `FEATURES`, float64, of rows with `tokens`; null what is not known.

    One row a sequence, in order. The study's model is asked for perplexities, once through each
    sequence, in kept blocks; without one they are the table's.
    """
    tokens = token_matrix(rows)
    columns = frequency_columns(tokens, count_tokens(inputs))
    if inputs.has_model:
        columns |= three_perplexities(_logprobs(inputs, rows), inputs.prefix)
    else:
        columns |= given_perplexities(rows, tokens)
    if _has_texts(rows):
        texts = rows["text"].to_list()
        basis = {"ids": hash_arrays(rows["sequence_id"]), "of": "char 3-grams"}
        kept = inputs.shelf("similar", basis, lambda: pl.DataFrame(similar_texts(texts)))
        columns |= {name: kept[name].to_numpy() for name in ("n_similar", "n_near")}
        columns["shannon_length"] = np.array([shannon_length(text) for text in texts])
    given = [name for name in ("duplicates", "n_similar", "n_near") if name in rows.columns]
    made = rows.select("sequence_id").with_columns(
        pl.Series(name, columns[name] if name in columns else [None] * rows.height, pl.Float64)
        for name in FEATURES
    )
    if {"is_incrementing", "is_repeating"} <= set(rows.columns):
        either = rows["is_incrementing"] | rows["is_repeating"]
        made = made.with_columns(is_templating=either.cast(pl.Float64))
    return made.with_columns(rows[name].cast(pl.Float64) for name in given)  # these know better


def count_perplexed(inputs: AnalysisInputs, n_sequences: int | None) -> int:
    """Count the rows that `add_predictors` asks the model for, of at most `n_sequences`."""
    n = int(inputs.table["is_memorized"].count())
    return min(n, n_sequences or n) if inputs.has_model else 0


def count_tokens(inputs: AnalysisInputs) -> _Counts:
    """Count every token id in the corpus; without one `frequency_source` says in what."""
    corpus, table = inputs.corpus, inputs.table
    if corpus is None and _GIVEN_COUNTS in table.columns:
        each = table.select("tokens", _GIVEN_COUNTS).drop_nulls()
        ids = each["tokens"].explode().to_numpy()
        given = np.zeros(int(ids.max(initial=-1)) + 1, dtype=np.int64)
        given[ids] = each[_GIVEN_COUNTS].explode().to_numpy()
        return given
    if corpus is None:
        return np.bincount(token_matrix(table).ravel()).astype(np.int64)

    def make() -> pl.DataFrame:
        counts = np.zeros(0, dtype=np.int64)
        with track("Counting tokens", total=corpus.n_tokens, unit="tokens") as progress:
            for chunk, _ in corpus.chunks(Place(), 1):
                found = np.bincount(chunk.tokens[: chunk.n_new].astype(np.int64))
                counts = np.pad(counts, (0, max(0, len(found) - len(counts))))
                counts[: len(found)] += found
                progress.advance(chunk.n_new)
        return pl.DataFrame({"count": counts})

    return inputs.shelf("tokens", {"corpus": corpus.identity()}, make)["count"].to_numpy()


def frequency_source(inputs: AnalysisInputs) -> str:
    """Say of what text the frequencies of tokens are, as the end of a sentence.

    Those of `add_predictors` and, with `n` 1, of `count_ngrams`.
    """
    if inputs.corpus is not None:
        return "the corpus"
    if _GIVEN_COUNTS in inputs.table.columns:
        return "the data set's own, counted in the model's whole training text"
    return "the study's own sequences, which are few and chosen (give a corpus to count in that)"


def counts_of(tokens: npt.NDArray[np.int32], counts: _Counts) -> _Counts:
    """Give the count of every token, (n, T); an id beyond the end was never seen."""
    padded = np.pad(counts, (0, max(0, int(tokens.max(initial=0)) + 1 - len(counts))))
    return np.asarray(padded[tokens])


class NgramCounts(NamedTuple):
    """How often n-grams of some sequences stand in a text."""

    each: npt.NDArray[np.int64]  # that which ends at each token but the first n - 1, (rows, places)
    total: int  # n-grams in all that was counted


def count_ngrams(
    inputs: AnalysisInputs, tokens: npt.NDArray[np.int32], n: Literal[1, 2]
) -> NgramCounts:
    """Count the tokens (`n` 1) or 2-grams (`n` 2) of sequences, int32 (rows, T), in the corpus.

    Without a corpus in the study's own sequences, tokens where the data set brings its own counts
    in these (`frequency_source`). No 2-gram stands across two documents.

    Returns:
        `each`, int64 (rows, T - n + 1): how often that stands there which ends at each token;
        `total`: n-grams in all that was counted.
    """
    if n == 1:
        counts = count_tokens(inputs)
        return NgramCounts(counts_of(tokens, counts), int(counts.sum()))
    pairs = np.stack([tokens[:, :-1], tokens[:, 1:]], axis=-1).reshape(-1, 2)
    different, which = np.unique(pairs, axis=0, return_inverse=True)

    def make() -> pl.DataFrame:
        index, total = SuffixIndex(different), 0
        for piece, ends in _pieces(inputs):
            index.count(piece, ends)
            total += int(np.maximum(np.diff(ends, prepend=0) - 1, 0).sum())
        found = pl.DataFrame({"count": index.counts_of_rows()})
        return found.with_columns(total=pl.lit(total, dtype=pl.Int64))

    if inputs.corpus is None:
        kept = make()
    else:
        basis = {"corpus": inputs.corpus.identity(), "pairs": hash_arrays(different)}
        kept = inputs.shelf("pairs", basis, make)
    each = kept["count"].to_numpy()[which.ravel()].reshape(len(tokens), -1)
    return NgramCounts(each, int(kept["total"][0]))


def _pieces(inputs: AnalysisInputs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and the ends of their documents."""
    if inputs.corpus is None:
        table = token_matrix(inputs.table)
        yield table.ravel(), np.arange(1, len(table) + 1) * table.shape[1]
        return
    with track("Counting 2-grams", total=inputs.corpus.n_tokens, unit="tokens") as progress:
        for chunk, _ in inputs.corpus.chunks(Place(), 2):
            ends = np.array([len(chunk.tokens)]) if chunk.ends is None else chunk.ends
            yield chunk.tokens, ends
            progress.advance(chunk.n_new)


def frequency_columns(tokens: npt.NDArray[np.int32], counts: _Counts) -> dict[str, _Floats]:
    """Six statistics, (n,), of how frequent a sequence's tokens, (n, T), are: counts, not shares.

    `counts` is of every token id in a corpus; each token counts as often as it stands.
    """
    each = counts_of(tokens, counts).astype(np.float64)
    return {
        "max_frequency": each.max(axis=1),
        "avg_frequency": each.mean(axis=1),
        "min_frequency": each.min(axis=1),
        "median_frequency": np.median(each, axis=1),
        "p25_frequency": np.quantile(each, 0.25, axis=1, method="lower"),
        "p75_frequency": np.quantile(each, 0.75, axis=1, method="lower"),
    }


def three_perplexities(logprobs: _Floats, prefix: int | None = None) -> dict[str, _Floats]:
    """Perplexity of the prefix, of the suffix and of the whole, each by its own tokens, (n,).

    Log-probabilities, nats, are of every token but the first, shape (n, T - 1). The prefix is half
    of the tokens unless given.
    """
    n = logprobs.shape[1]
    border = n // 2 if prefix is None else prefix - 1
    total = np.cumsum(np.pad(logprobs, ((0, 0), (1, 0))), axis=1)
    first, whole = total[:, border], total[:, n]
    return {
        "prompt_perplexity": np.exp(-first / max(border, 1)),
        "generation_perplexity": np.exp(-(whole - first) / (n - border)),
        "sequence_perplexity": np.exp(-whole / n),
    }


def given_perplexities(rows: pl.DataFrame, tokens: npt.NDArray[np.int32]) -> dict[str, _Floats]:
    """Read the perplexities of a split, and mend them to what `three_perplexities` gives.

    Both published halves are exp(-sum / N) with N tokens of the whole: all but the first, less as
    many as there are token ids 0, which are dropped at the end. Its own number of tokens in place
    of N is a power of it. NaN where the data set has none (null, NaN, or its sentinel -1).
    """
    kept = np.maximum(tokens.shape[1] - 1 - (tokens == 0).sum(axis=1), 0)
    parts = {"prompt": kept // 2, "generation": kept - kept // 2, "sequence": kept}
    found = {}
    for name, own in parts.items():
        given = rows[f"published_{name}_perplexity"].cast(pl.Float64).fill_null(float("nan"))
        values = np.where(given.to_numpy() > 0, given.to_numpy(), np.nan)
        mended = values ** (kept / np.maximum(own, 1))
        found[f"{name}_perplexity"] = np.where(own > 0, mended, np.nan)
    return found


def _logprobs(inputs: AnalysisInputs, rows: pl.DataFrame) -> _Floats:
    """Log-probability of every token but the first, from one forward a row; in kept blocks."""
    lm = inputs.model()

    def make(block: pl.DataFrame, progress: Progress) -> pl.DataFrame:
        tokens = token_matrix(block)
        values = suffix_logprobs(lm, tokens, batch_size=inputs.batch_size, prefix=1)
        progress.advance(block.height)
        logprobs = pl.Series("logprobs", values.tolist(), pl.List(pl.Float32))
        return block.select("sequence_id", logprobs)

    kept = keep_blocks(inputs, lm, rows, "logprobs", make, label="Perplexities", size=_BLOCK)
    return np.array(kept["logprobs"].to_list(), dtype=np.float64)


def _has_texts(rows: pl.DataFrame) -> bool:
    return "text" in rows.columns and rows["text"].null_count() == 0


def libraries_of(rows: pl.DataFrame) -> tuple[str, ...]:
    """Distributions that `add_predictors` uses on these rows, for `AnalysisResult.libraries`."""
    return ("rapidfuzz",) if _has_texts(rows) else ()


def similar_texts(texts: list[str]) -> dict[str, _Counts]:
    """Count for each text how many others are like it, shape (n,) each.

    `n_similar` are others with a TF-IDF cosine of character 3-grams of .8 or more; `n_near`, of
    these those fewer than 20 edits (Levenshtein) away and not equal.
    """
    from rapidfuzz.distance import Levenshtein

    similar, near = (np.zeros(len(texts), dtype=np.int64) for _ in range(2))
    counts = {"n_similar": similar, "n_near": near}
    found = TfidfVectorizer(analyzer="char", ngram_range=(3, 3), dtype=np.float32)
    try:
        vectors = found.fit_transform(texts)
    except ValueError:  # no text of three characters
        return counts
    for start in range(0, len(texts), _TEXT_BLOCK):
        block = (vectors[start : start + _TEXT_BLOCK] @ vectors.T).tocoo()
        strong = block.data >= _SIMILAR
        for row, column in zip(block.row[strong] + start, block.col[strong], strict=True):
            if row != column:
                similar[row] += 1
                edits = Levenshtein.distance(texts[row], texts[column], score_cutoff=_NEAR)
                near[row] += 0 < edits < _NEAR
    return counts
