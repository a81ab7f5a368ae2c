"""Make a SYNTHETIC copy of the data set `usvsnsp/semantic-filters`: its shape, not its content.

The 27 columns, their types and the layout of files are the data set's; so are the quirks (ids
padded to a multiple of 8 and so there twice, sequences that stand in the pile and in the memories,
scores of natural language that are null or NaN). Tokens and texts are drawn at random and mean
nothing: no figure of a study made from them says anything about any language model.

Run: .venv/bin/python benchmarks/synthetic_semantic_filters.py FOLDER [PILE_ROWS MEMORY_ROWS]
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.given import given

LENGTH = 64
BLOCK_ROWS = 100_000
SCHEMA: dict[str, pl.DataType] = {
    "sequence_id": pl.Int64(),
    "loss": pl.Float32(),
    "prompt_perplexity": pl.Float32(),
    "generation_perplexity": pl.Float32(),
    "sequence_perplexity": pl.Float32(),
    "text": pl.String(),
    "is_incrementing": pl.Boolean(),
    "is_repeating": pl.Boolean(),
    "sequence_duplicates": pl.Int64(),
    "max_frequency": pl.Int64(),
    "avg_frequency": pl.Float64(),
    "min_frequency": pl.Int64(),
    "median_frequency": pl.Float64(),
    "p25_frequency": pl.Int64(),
    "p75_frequency": pl.Int64(),
    "frequencies": pl.List(pl.Int64()),
    "tokens": pl.List(pl.Int64()),
    "repeating_offset": pl.Int32(),
    "num_repeating": pl.Int32(),
    "smallest_repeating_chunk": pl.List(pl.Int64()),
    "nl_scores": pl.Float32(),
    "0_8_snowclones": pl.Int64(),
    "0_9_snowclones": pl.Int64(),
    "0_8_templates": pl.Int64(),
    "0_9_templates": pl.Int64(),
    "huffman_coding_length": pl.Float64(),
    "memorization_score": pl.Float64(),
}
"""Columns of the data set in their order."""
_ID_STEP = 29  # the pile's sample is about one row in thirty of 146 million
_MEMORIZED_SHARE = 0.0108
_DUPLICATES = np.array([1, 2, 3, 4, 5, 6, 20, 60, 2000, 50_000])
_DUPLICATES_MEMORIZED = [0.02, 0.06, 0.03, 0.03, 0.02, 0.14, 0.3, 0.2, 0.15, 0.05]
_DUPLICATES_OTHER = [0.27, 0.62, 0.03, 0.03, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005]
_RECONSTRUCT_SHARE = 0.03
_GUESS_SHARE = 0.2


def make_rows(
    ids: np.ndarray, is_memorized: np.ndarray, *, seed: int, vocab_size: int = 50_277
) -> pl.DataFrame:
    """Rows with all 27 columns.

    Args:
        ids: int64, shape (n,); the same id always gives the same tokens.
        is_memorized: bool, shape (n,): score 1, else below.
        seed: of all that is drawn.
        vocab_size: token ids are drawn from [1, vocab_size).
    """
    n, rng = len(ids), np.random.default_rng([seed, int(ids[0]) if len(ids) else 0])
    tokens = _draw_tokens(ids, vocab_size)
    guess = _hash(ids, 3) < _GUESS_SHARE
    tokens[guess, LENGTH // 2 :] = tokens[guess, : LENGTH // 2]
    lists = pl.Series("tokens", tokens, dtype=pl.Array(pl.Int64, LENGTH)).arr.to_list()
    frequencies = 10_000_000_000 // (1 + tokens)
    pattern = np.where(
        is_memorized & (rng.random(n) < _RECONSTRUCT_SHARE), rng.integers(1, 3, n), 0
    )
    prompt, generation = 1 + rng.exponential(5, n), 1 + rng.exponential(5, n)
    nl_scores = rng.normal(0.49, 0.045, n).astype(np.float32)
    nl_scores[rng.random(n) < 0.001] = np.nan
    columns = {
        "sequence_id": ids,
        "loss": rng.exponential(2, n),
        "prompt_perplexity": prompt,
        "generation_perplexity": generation,
        "sequence_perplexity": prompt * generation,
        "text": lists.cast(pl.List(pl.String)).list.join(" "),
        "is_incrementing": pattern == 1,
        "is_repeating": pattern == 2,
        "sequence_duplicates": _draw_duplicates(is_memorized, rng),
        "max_frequency": frequencies.max(axis=1),
        "avg_frequency": frequencies.mean(axis=1),
        "min_frequency": frequencies.min(axis=1),
        "median_frequency": np.median(frequencies, axis=1),
        "p25_frequency": np.quantile(frequencies, 0.25, axis=1, method="lower"),
        "p75_frequency": np.quantile(frequencies, 0.75, axis=1, method="lower"),
        "frequencies": pl.Series(frequencies, dtype=pl.Array(pl.Int64, LENGTH)).arr.to_list(),
        "tokens": lists,
        "repeating_offset": np.zeros(n),
        "num_repeating": np.full(n, -1),
        "smallest_repeating_chunk": pl.Series([[]] * n, dtype=pl.List(pl.Int64)),
        "nl_scores": _some_null(nl_scores, rng),
        "0_8_snowclones": np.zeros(n),
        "0_9_snowclones": np.zeros(n),
        "0_8_templates": np.ones(n),
        "0_9_templates": np.ones(n),
        "huffman_coding_length": rng.uniform(2.95, 5.04, n),
        "memorization_score": np.where(is_memorized, 32, rng.integers(0, 32, n)) / 32,
    }
    return pl.DataFrame(columns).select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def pile_blocks(n: int, *, seed: int = 0, **options: int) -> Iterator[pl.DataFrame]:
    """Blocks of a pile split: ids apart, about one sequence in a hundred memorized."""
    for start in range(0, n, BLOCK_ROWS):
        ids = _ID_STEP * np.arange(start, min(n, start + BLOCK_ROWS), dtype=np.int64)
        yield make_rows(ids, _is_memorized(ids), seed=seed, **options)


def memories_blocks(
    n: int, *, n_pile: int, seed: int = 1, **options: int
) -> Iterator[pl.DataFrame]:
    """Blocks of a memories split of `n` sequences: all memorized, padded to a multiple of 8.

    What is memorized in a pile of `n_pile` rows stands here too, up to half of `n`; the rows of
    the padding repeat the first ids.
    """
    pile = _ID_STEP * np.arange(n_pile, dtype=np.int64)
    shared = pile[_is_memorized(pile)][: n // 2]
    others = np.arange(2 * n + 64, dtype=np.int64)
    others = others[others % _ID_STEP != 0][: n - len(shared)]
    ids = np.sort(np.concatenate([shared, others]))
    ids = np.concatenate([ids, ids[: -n % 8]])
    for start in range(0, len(ids), BLOCK_ROWS):
        block = ids[start : start + BLOCK_ROWS]
        yield make_rows(block, np.ones(len(block), dtype=bool), seed=seed, **options)


def write_split(
    folder: Path, split: str, blocks: Iterator[pl.DataFrame], *, n_shards: int, n_rows: int
) -> list[Path]:
    """Write blocks as the hub has them, `data/<split>-00000-of-00007.parquet`.

    Args:
        folder: `data` is made in it.
        split: its name.
        blocks: from `pile_blocks` or `memories_blocks`; one shard at a time is held.
        n_shards: files; fewer rows than shards leave the last ones empty.
        n_rows: rows of all blocks together.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    per_shard = -(-n_rows // n_shards)
    waiting, paths = pl.DataFrame(schema=SCHEMA), []
    for number in range(n_shards):
        while waiting.height < per_shard and (block := next(blocks, None)) is not None:
            waiting = pl.concat([waiting, block])
        path = folder / "data" / f"{split}-{number:05d}-of-{n_shards:05d}.parquet"
        waiting.head(per_shard).write_parquet(path, compression="zstd", row_group_size=10_000)
        waiting = waiting.slice(per_shard)
        paths.append(path)
    return paths


def write_copy(
    folder: Path, n_pile: int, n_memories: int, *, n_shards: int = 2, **options: int
) -> None:
    """Write `pile_deduped_12b` and `memories_deduped_12b`, synthetic."""
    padded = n_memories + -n_memories % 8
    for split, blocks, n_rows in (
        ("pile_deduped_12b", pile_blocks(n_pile, **options), n_pile),
        ("memories_deduped_12b", memories_blocks(n_memories, n_pile=n_pile, **options), padded),
    ):
        write_split(folder, split, blocks, n_shards=n_shards, n_rows=n_rows)


def _hash(ids: np.ndarray, salt: int) -> np.ndarray:
    """Numbers in [0, 1) that an id determines."""
    mixed = (ids.astype(np.uint64) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return (mixed >> np.uint64(11)) / 2.0**53


def _is_memorized(ids: np.ndarray) -> np.ndarray:
    return _hash(ids, 1) < _MEMORIZED_SHARE


def _draw_tokens(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """Token ids by Zipf's law, int64 (n, 64), the same for the same id."""
    share = _hash(ids[:, None] * LENGTH + np.arange(LENGTH), 2)
    drawn = np.exp(share * np.log(vocab_size)).astype(np.int64)
    return np.asarray(np.minimum(drawn, vocab_size - 1))


def _draw_duplicates(is_memorized: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(is_memorized)
    memorized = rng.choice(_DUPLICATES, n, p=_DUPLICATES_MEMORIZED)
    return np.where(is_memorized, memorized, rng.choice(_DUPLICATES, n, p=_DUPLICATES_OTHER))


def _some_null(scores: np.ndarray, rng: np.random.Generator) -> pl.Series:
    """One score in a thousand null."""
    is_null = pl.Series(rng.random(len(scores)) < 0.001)
    return pl.Series(scores).zip_with(~is_null, pl.Series([None], dtype=pl.Float32))


def main() -> None:
    folder, n_pile, n_memories = given(__doc__, "folder", pile_rows=5000, memory_rows=1000)
    write_copy(Path(folder), n_pile, n_memories)
    print(f"{folder}: SYNTHETIC copy, {n_pile:,} + {n_memories:,} sequences of random tokens.")


if __name__ == "__main__":
    main()
