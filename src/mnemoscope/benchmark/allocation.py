"""Where Prashanth et al.'s classes go: Recite, Reconstruct and Recollect into Guess and Recall.

Both taxonomies divide the same memorized sequences, so each sequence has a place in both.
"""

from io import BytesIO
from itertools import product

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.benchmark.published import read_data
from mnemoscope.stats import Estimate, n_groups, share_true
from mnemoscope.taxonomy.catalogue import PAPER, PRASHANTH
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy

_SHARES = dict.fromkeys(("share", "low", "high", "published"), pl.Float64)


def published_allocation() -> dict[tuple[str, str], float]:
    """The published flow: share of all memorized sequences by both class names, fractions."""
    frame = pl.read_csv(BytesIO(read_data("allocation.csv")))
    return {(prashanth, paper): share / 100 for prashanth, paper, share in frame.iter_rows()}


def allocate(frame: pl.DataFrame, groups: npt.ArrayLike | None = None) -> pl.DataFrame:
    """Count the memorized sequences by their class in both taxonomies.

    Args:
        frame: a table with `is_memorized` and the features that both taxonomies need.
        groups: group of near duplicates of each row, (n,), which intervals draw.

    Returns:
        A row a pair of classes: `prashanth`, `paper`, `n`, `share` of the memorized sequences whose
        classes are known, `low`, `high`, `published` (0 where the published figure has no flow)
        and `n_groups`. Empty where no memorized sequence has both classes.

    Raises:
        UserError: a column is missing.
    """
    theirs, ours = (parse_taxonomy(name) for name in (PRASHANTH, PAPER))
    both = pl.DataFrame(
        {
            "prashanth": label_sequences(frame, theirs).cast(pl.String),
            "paper": label_sequences(frame, ours).cast(pl.String),
        }
    )
    is_known = both["prashanth"].is_in(theirs.classes[1:]) & both["paper"].is_in(ours.classes[1:])
    known = both.filter(is_known.fill_null(False))
    owners = None
    if groups is not None:
        owners = np.asarray(groups)[is_known.fill_null(False).to_numpy()]
    published, rows = published_allocation(), []
    for first, second in product(theirs.classes[1:], ours.classes[1:]) if known.height else ():
        is_here = (known["prashanth"] == first) & (known["paper"] == second)
        rows.append(
            {"prashanth": first, "paper": second, "n": int(is_here.sum())}
            | share_true(is_here, owners).columns("share", ends="")
            | {"published": published.get((first.partition("[")[0], second), 0.0)}
            | {"n_groups": n_groups(owners)}
        )
    names = dict.fromkeys(("prashanth", "paper"), pl.String)
    return pl.DataFrame(rows, schema={**names, "n": pl.Int64, **_SHARES, "n_groups": pl.Int64})


def guessed_share(frame: pl.DataFrame, groups: npt.ArrayLike | None = None) -> Estimate:
    """Share of the memorized sequences that are Guess, as `allocate`; no value where none has one.

    Raises:
        UserError: a column is missing.
    """
    paper = parse_taxonomy(PAPER)
    labels = label_sequences(frame, paper).cast(pl.String)
    is_known = labels.is_in(paper.classes[1:]).fill_null(False)
    if not is_known.any():
        return Estimate(None)
    owners = None if groups is None else np.asarray(groups)[is_known.to_numpy()]
    return share_true(labels.filter(is_known) == paper.classes[1], owners)
