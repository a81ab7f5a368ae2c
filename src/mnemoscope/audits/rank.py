"""Which windows a model is likely to reproduce, from how sure it is over their prefixes alone.

Nothing is decoded: `mnemoscope audit rank MODEL DOCUMENTS -o DIR` reads each prefix once and ranks
the windows. docs/audit-evidence.md, "Before decoding", says how far that can be trusted.
"""

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.audits.asking import Auditing
from mnemoscope.audits.scan import coarse_places
from mnemoscope.audits.tokens import character_range, cut
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import next_token_entropy

RANKING = "ranking.parquet"


def rank_windows(audit: Auditing) -> pl.DataFrame:
    """Every window that an audit asks first, the surest prefix first.

    Returns:
        Columns `document`, `start`, `suffix_start`, `end` (characters), `entropy`,
        `reference_entropy` (null without a reference), `share` (of the windows that are as sure or
        surer) and `text`, the suffix that may come out.
    """
    settings, places = audit.settings, coarse_places(audit)
    # Of one token more than a prefix each prediction within it is asked.
    shown = cut(audit.texts, places, settings.prefix + 1)

    def entropies(lm: LanguageModel) -> npt.NDArray[np.float64]:
        found = next_token_entropy(lm, shown, batch_size=settings.batch_size)
        return np.asarray(found.mean(1, np.float64))

    rows = []
    for number, first in places:
        document, tokens = audit.texts[number]
        begin, last = first + settings.prefix, first + settings.length
        start, end = character_range(tokens, first, last)
        suffix_start = int(tokens.starts[begin])
        rows.append((document.name, start, suffix_start, end, document.text[suffix_start:end]))
    names = ["document", "start", "suffix_start", "end", "text"]
    beside = None if audit.other_lm is None else entropies(audit.other_lm)
    frame = pl.DataFrame(rows, schema=names, orient="row").with_columns(
        entropy=pl.Series(entropies(audit.lm), dtype=pl.Float64),
        reference_entropy=pl.lit(None, pl.Float64) if beside is None else pl.Series(beside),
    )
    frame = frame.sort("entropy", "document", "start")
    return frame.with_columns(share=pl.int_range(1, pl.len() + 1) / pl.len())


def share_beyond(entropy: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Share of windows (n,) that must be surer than the reference's own spread explains.

    The largest difference between the two shares of windows up to any entropy: where what was not
    learned is as sure under both, at least so many were.

    >>> share_beyond([0.1, 0.2, 3.0, 4.0], [2.0, 3.0, 3.5, 4.0])
    0.5
    """
    ours, theirs = (np.sort(np.asarray(one, dtype=np.float64)) for one in (entropy, reference))
    at_most = [np.searchsorted(one, ours, side="right") / len(one) for one in (ours, theirs)]
    return float(max((at_most[0] - at_most[1]).max(), 0.0))
