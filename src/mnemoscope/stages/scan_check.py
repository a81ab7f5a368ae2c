"""Do scan and decoding agree? Both verdicts, on a seeded draw of the sequences of a study."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from mnemoscope.lm.continuation import continue_sequences
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.lm.scan import scan_memorized
from mnemoscope.progress import track

__all__ = ["check_scan", "draw_rows"]

_SEED = 0


def check_scan(
    model: LanguageModel,
    tokens: np.ndarray,
    found: pl.DataFrame,
    *,
    n_rows: int,
    scanned: bool,
    batch_size: int,
) -> dict[str, int | float]:
    """Ask the way that the labels did not come from, and count where it says otherwise.

    A scan and greedy decoding give one verdict but for near ties of the two best logits, which
    rounding decides. Half of the draw is memorized where there are enough such sequences.

    Args:
        model: the study's model.
        tokens: int32, shape (sequences, length).
        found: `is_memorized` and `smallest_gap` of the same rows, in order.
        n_rows: sequences to draw; 0 checks none.
        scanned: whether `found` comes from the scan (then these are decoded) or from decoding.
        batch_size: sequences a forward pass.

    Returns:
        `checked`, `disagree`, and where some do, `largest_gap_of_these`; all in plain numbers.
    """
    rows = draw_rows(found["is_memorized"].to_numpy(), n_rows)
    if not len(rows):
        return {"checked": 0, "disagree": 0}
    with track("Checking scan against decoding", total=len(rows)) as progress:
        verdicts = []
        for verdict in _other_way(model, tokens[rows], scanned=scanned, batch_size=batch_size):
            verdicts.append(verdict)
            progress.advance(len(verdict))
    drawn = found[rows]
    differs = np.concatenate(verdicts) != drawn["is_memorized"].to_numpy()
    counts: dict[str, int | float] = {"checked": len(rows), "disagree": int(differs.sum())}
    if differs.any():
        counts["largest_gap_of_these"] = float(
            found["smallest_gap"].to_numpy()[rows][differs].max()
        )
    return counts


def draw_rows(is_memorized: np.ndarray, n_rows: int) -> np.ndarray:
    """Row numbers, in rising order: up to half memorized, the rest not, filled from either.

    Of the rows that were drawn, as many drawn again are all of them.
    """
    order = np.random.default_rng(_SEED).permutation(len(is_memorized))
    memorized, others = order[is_memorized[order]], order[~is_memorized[order]]
    n_memorized = min(len(memorized), max(n_rows // 2, n_rows - len(others)))
    n_others = min(len(others), n_rows - n_memorized)
    return np.sort(np.concatenate([memorized[:n_memorized], others[:n_others]]))


def _other_way(
    model: LanguageModel, tokens: np.ndarray, *, scanned: bool, batch_size: int
) -> Iterator[np.ndarray]:
    """Verdicts batch by batch, decoded after a scan and scanned after decoding."""
    prefix = tokens.shape[1] // 2
    if scanned:
        for batch in continue_sequences(model, tokens, batch_size=batch_size, prefix=prefix):
            yield batch.score == 1.0
    else:
        for scan in scan_memorized(model, tokens, batch_size=batch_size, prefix=prefix):
            yield scan.is_memorized
