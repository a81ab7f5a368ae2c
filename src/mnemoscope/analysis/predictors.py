"""The features that predict memorization: duplicates, token frequency, perplexity, similarity.

Source: Prashanth et al. 2024, arXiv 2406.17746; sections 1.6 to 1.13 of the related work. Where
the corpus is not at hand, frequencies are those of the study's own table; the sentence models'
counts of similar texts are replaced by n-gram ones, which bear other names.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.analysis.rows import hash_ids, model_basis
from mnemoscope.data.features import shannon_length
from mnemoscope.data.table import token_matrix
from mnemoscope.progress import track

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

_MOST_ROWS_AT_ONCE = 512
_SIMILAR, _NEAR = 0.8, 20
_BLOCK = 1024
_GIVEN_COUNTS = "published_frequencies"


def add_predictors(
    inputs: AnalysisInputs, rows: pl.DataFrame, *, published: bool = False
) -> pl.DataFrame:
    """Give every feature of every row; one that the table lacks the means for is null.

    Args:
        inputs: whose model, corpus and shelf serve.
        rows: rows of the table, with `tokens`.
        published: perplexities as published (`three_perplexities`).

    Returns:
        `sequence_id` and the columns `FEATURES`, float64.
    """
    tokens = token_matrix(rows)
    columns: dict[str, npt.ArrayLike | None] = dict.fromkeys(FEATURES)
    columns |= frequency_columns(tokens, count_tokens(inputs))
    if inputs.has_model:
        columns |= three_perplexities(_logprobs(inputs, rows), tokens, published=published)
    else:
        columns |= given_perplexities(rows, tokens, published=published)
    if _has_texts(rows):
        texts = rows["text"].to_list()
        columns |= _kept_similarities(inputs, rows, texts)
        columns["shannon_length"] = [shannon_length(text) for text in texts]
    made: dict[str, pl.Series] = {
        name: _column(name, values, rows.height) for name, values in columns.items()
    }
    for name in ("duplicates", "n_similar", "n_near"):
        if name in rows.columns:  # a user's own column knows better
            made[name] = rows[name].cast(pl.Float64)
    if {"is_incrementing", "is_repeating"} <= set(rows.columns):
        either = rows["is_incrementing"] | rows["is_repeating"]
        made["is_templating"] = either.cast(pl.Float64).alias("is_templating")
    return rows.select("sequence_id").with_columns(made.values())


def _column(name: str, values: npt.ArrayLike | None, n_rows: int) -> pl.Series:
    """A feature as a column; null throughout where it is not known."""
    if values is None:
        return pl.Series(name, [None] * n_rows, dtype=pl.Float64)
    return pl.Series(name, np.asarray(values, dtype=np.float64))


def count_tokens(inputs: AnalysisInputs) -> npt.NDArray[np.int64]:
    """Count every token id in the corpus; without one `frequency_source` says in what."""
    if inputs.corpus is None and _GIVEN_COUNTS in inputs.table.columns:
        return _given_counts(inputs.table)
    if inputs.corpus is None:
        return np.bincount(token_matrix(inputs.table).ravel()).astype(np.int64)
    corpus = inputs.corpus

    def make() -> pl.DataFrame:
        from mnemoscope.data.corpus import Place

        counts = np.zeros(0, dtype=np.int64)
        with track("Counting tokens", total=corpus.n_tokens, unit="tokens") as progress:
            for chunk, _ in corpus.chunks(Place(), 1):
                found = np.bincount(chunk.tokens[: chunk.n_new].astype(np.int64))
                longer = max(len(found), len(counts))
                counts = np.pad(counts, (0, longer - len(counts)))
                counts[: len(found)] += found
                progress.advance(chunk.n_new)
        return pl.DataFrame({"count": counts})

    return inputs.shelf("tokens", {"corpus": corpus.identity()}, make)["count"].to_numpy()


def frequency_source(inputs: AnalysisInputs) -> str:
    """Say of what text the counts of `count_tokens` are, as the end of a sentence."""
    if inputs.corpus is not None:
        return "the corpus"
    if _GIVEN_COUNTS in inputs.table.columns:
        return "the data set's own, counted in the model's whole training text"
    return "the study's own sequences, which are few and chosen (--corpus counts in the corpus)"


def _given_counts(table: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Counts of the token ids that stand in a table which brings each token's own."""
    rows = table.select("tokens", _GIVEN_COUNTS).drop_nulls()
    ids = rows["tokens"].explode().to_numpy()
    counts = np.zeros(int(ids.max(initial=-1)) + 1, dtype=np.int64)
    counts[ids] = rows[_GIVEN_COUNTS].explode().to_numpy()
    return counts


def frequency_columns(
    tokens: npt.NDArray[np.int32], counts: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]]:
    """Statistics of how frequent a sequence's tokens are, each token counted as often as it stands.

    Args:
        tokens: shape (n, T).
        counts: of every token id in a corpus; an id beyond the end was never seen.

    Returns:
        Six columns of shape (n,): counts, not shares.
    """
    padded = np.pad(counts, (0, max(0, int(tokens.max(initial=0)) + 1 - len(counts))))
    each = padded[tokens].astype(np.float64)
    return {
        "max_frequency": each.max(axis=1),
        "avg_frequency": each.mean(axis=1),
        "min_frequency": each.min(axis=1),
        "median_frequency": np.median(each, axis=1),
        "p25_frequency": np.quantile(each, 0.25, axis=1, method="lower"),
        "p75_frequency": np.quantile(each, 0.75, axis=1, method="lower"),
    }


def three_perplexities(
    logprobs: npt.NDArray[np.float64], tokens: npt.NDArray[np.int32], *, published: bool = False
) -> dict[str, npt.NDArray[np.float64]]:
    """Perplexity of the first half, of the second and of the whole.

    Published: both halves divide by the number of all tokens, so that sequence = prompt times
    generation, and as many trailing positions are dropped as there are token ids 0 anywhere.
    Here each half divides by its own number of tokens, and nothing is dropped.

    Args:
        logprobs: of every token but the first, shape (n, T - 1), nats.
        tokens: shape (n, T).
        published: as published.

    Returns:
        `prompt_perplexity`, `generation_perplexity`, `sequence_perplexity`, shape (n,); -1 where
        the published rule leaves nothing.
    """
    n_all = logprobs.shape[1]
    kept = n_all - (tokens == 0).sum(axis=1) if published else np.full(len(tokens), n_all)
    kept = np.maximum(kept, 0)
    middle = kept // 2
    total = np.concatenate([np.zeros((len(tokens), 1)), np.cumsum(logprobs, axis=1)], axis=1)
    row = np.arange(len(tokens))
    first, whole = total[row, middle], total[row, kept]
    ends = (kept, kept, kept) if published else (middle, kept - middle, kept)
    names = ("prompt_perplexity", "generation_perplexity", "sequence_perplexity")
    found = {}
    for name, nats, n in zip(names, (first, whole - first, whole), ends, strict=True):
        found[name] = np.where(n > 0, np.exp(-nats / np.maximum(n, 1)), -1.0)
    return found


def given_perplexities(
    rows: pl.DataFrame, tokens: npt.NDArray[np.int32], *, published: bool = False
) -> dict[str, npt.NDArray[np.float64]]:
    """Read the perplexities of a split, and mend them as `three_perplexities` computes them.

    A published half is exp(-sum / N) with N tokens of the whole that count; its own number of
    tokens in place of N is a power of it.

    Args:
        rows: with the three columns `published_…_perplexity`.
        tokens: shape (n, T).
        published: leave them as they are.

    Returns:
        As `three_perplexities`; NaN where the data set has none (null, NaN, or its sentinel -1).
    """
    kept = np.maximum(tokens.shape[1] - 1 - (tokens == 0).sum(axis=1), 0)
    parts = {"prompt": kept // 2, "generation": kept - kept // 2, "sequence": kept}
    found = {}
    for name, own in parts.items():
        given = rows[f"published_{name}_perplexity"].cast(pl.Float64).fill_null(float("nan"))
        values = np.where(given.to_numpy() > 0, given.to_numpy(), np.nan)
        power = 1.0 if published else kept / np.maximum(own, 1)
        found[f"{name}_perplexity"] = np.where(own > 0, values**power, np.nan)
    return found


def _logprobs(inputs: AnalysisInputs, rows: pl.DataFrame) -> npt.NDArray[np.float64]:
    """Log-probability of every token but the first, from one forward a row; kept in blocks."""
    from mnemoscope.lm.probe import suffix_logprobs

    lm, parts = inputs.model(), []
    with track("Perplexities", total=rows.height) as progress:
        for start in range(0, rows.height, _BLOCK):
            block = rows[start : start + _BLOCK]

            def make(block: pl.DataFrame = block) -> pl.DataFrame:
                values = suffix_logprobs(
                    lm, token_matrix(block), batch_size=inputs.batch_size, prefix=1
                )
                return block.select(
                    "sequence_id", pl.Series("logprobs", values.tolist(), pl.List(pl.Float32))
                )

            basis = {**model_basis(lm), "ids": hash_ids(block)}
            kept = inputs.shelf("logprobs", basis, make)
            parts.append(np.array(kept["logprobs"].to_list(), dtype=np.float64))
            progress.advance(block.height)
    return np.concatenate(parts)


def _has_texts(rows: pl.DataFrame) -> bool:
    return "text" in rows.columns and rows["text"].null_count() == 0


def libraries_of(rows: pl.DataFrame) -> tuple[str, ...]:
    """Distributions that `add_predictors` uses on these rows beside those of every study."""
    return ("rapidfuzz",) if _has_texts(rows) else ()


def _kept_similarities(
    inputs: AnalysisInputs, rows: pl.DataFrame, texts: list[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """`similar_texts`, kept."""

    def make() -> pl.DataFrame:
        similar, near = similar_texts(texts)
        return pl.DataFrame({"n_similar": similar, "n_near": near})

    kept = inputs.shelf("similar", {"ids": hash_ids(rows), "of": "char 3-grams"}, make)
    return {name: kept[name].to_numpy().astype(np.float64) for name in ("n_similar", "n_near")}


def similar_texts(texts: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count for each text how many others are like it.

    Args:
        texts: all texts, each compared with every other.

    Returns:
        Others with a TF-IDF cosine of character 3-grams of .8 or more; and of these, those fewer
        than 20 edits (Levenshtein) away and not equal. Shape (n,) each.
    """
    from rapidfuzz.distance import Levenshtein
    from sklearn.feature_extraction.text import TfidfVectorizer

    found = TfidfVectorizer(analyzer="char", ngram_range=(3, 3), dtype=np.float32)
    try:
        vectors = found.fit_transform(texts)
    except ValueError:  # no text of three characters
        return np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.int64)
    similar, near = (np.zeros(len(texts), dtype=np.int64) for _ in range(2))
    for start in range(0, len(texts), _MOST_ROWS_AT_ONCE):
        block = (vectors[start : start + _MOST_ROWS_AT_ONCE] @ vectors.T).tocoo()
        strong = block.data >= _SIMILAR
        for row, column in zip(block.row[strong] + start, block.col[strong], strict=True):
            if row != column:
                similar[row] += 1
                edits = Levenshtein.distance(texts[row], texts[column], score_cutoff=_NEAR)
                near[row] += 0 < edits < _NEAR
    return similar, near
