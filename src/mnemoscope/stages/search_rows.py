"""Which sequences a search works on: three parts that share no group, and a candidate's rows.

Training teaches the CNNs, selection chooses among taxonomies, final says what the choice is
worth. The parts are the same for all candidates.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import polars as pl

from mnemoscope.config import SearchSettings
from mnemoscope.errors import UserError
from mnemoscope.maps.store import MapStore
from mnemoscope.stages.capture import maps_folder
from mnemoscope.stages.jobs import SampleRows
from mnemoscope.study import Study
from mnemoscope.taxonomy.draw import draw_lots, order_keys
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import Taxonomy
from mnemoscope.taxonomy.splitting import find_groups, split_by_group

__all__ = ["PARTS", "Candidate", "candidate_of", "has_reference", "label_digest", "searched_rows"]

PARTS = ("train", "select", "final")
_SHARES = {"train": 0.5, "select": 0.2}  # the rest is final


@dataclass(frozen=True)
class Candidate:
    """A taxonomy on the searched sequences.

    Attributes:
        taxonomy: what it is.
        digest: same for two that divide these sequences alike.
        rows: training rows, and selection and final rows together as its evaluation, with
            their `part` and `position` in the searched rows.
        counts: sequences of every class in each part that were drawn, by part.
    """

    taxonomy: Taxonomy
    digest: str
    rows: SampleRows
    counts: dict[str, int]

    def positions(self, part: str) -> np.ndarray:
        """Positions of a part's rows in the searched rows, in order, int64."""
        both = pl.concat([self.rows.train, self.rows.evaluation])
        return both.filter(pl.col("part") == part)["position"].to_numpy()


def has_reference(study: Study) -> bool:
    """Say whether the maps of a reference model were captured."""
    return (maps_folder(study, "reference") / "meta.json").is_file()


def searched_rows(study: Study) -> pl.DataFrame:
    """All sequences whose maps are stored, each with its part.

    Returns:
        The study's columns, `group`, `suffix` (whose maps are stored) and `part`, in the order in
        which sequences are drawn: every group gives one before any gives a second.

    Raises:
        UserError: no memorized sequence among them, or none that is not.
    """
    table = study.sequences
    table = table.with_columns(find_groups(table).alias("group"))
    own = pl.lit(study.settings.label.non_memo_suffix)
    suffix = pl.when(pl.col("is_memorized")).then(pl.lit("true")).otherwise(own)
    rows = table.filter(pl.col("is_memorized").is_not_null()).with_columns(suffix=suffix)
    for role in ("model", "reference") if has_reference(study) else ("model",):
        stored = MapStore(maps_folder(study, role), verify=False).index
        rows = rows.join(stored, on=["sequence_id", "suffix"], how="semi")
    if rows["is_memorized"].n_unique() < 2:
        raise UserError(
            f"{study.folder}: {int(rows['is_memorized'].sum()):,} memorized of {rows.height:,} "
            "sequences with maps; a search needs both kinds. Capture more of them."
        )
    seed = study.settings.search.seed
    keys = order_keys(rows["sequence_id"].to_numpy(), seed)
    rows = rows.with_columns(pl.Series("key", keys)).sort("key")
    rows = rows.with_columns(pl.Series("part", _parts(rows)))
    turn = pl.int_range(pl.len()).over("group")
    return rows.sort(turn, "key").drop("key")


def _parts(rows: pl.DataFrame) -> list[str]:
    """Part of every row, by group, Non-Memo and memorized each in the shares asked for."""
    cells = rows["is_memorized"].cast(pl.Int64).to_numpy()
    groups = rows["group"].rank("dense").cast(pl.Int64).to_numpy() - 1
    lots = draw_lots(rows["key"].to_numpy(), groups)
    is_train = _split(cells, groups, lots, _SHARES["train"])
    part = np.where(is_train, "train", "final").astype(object)
    rest = np.flatnonzero(~is_train)
    of_rest = _SHARES["select"] / (1 - _SHARES["train"])
    # Lots fell one way for the rest already; turned round within it they are lots again.
    again = draw_lots(np.arange(len(rest), dtype=np.uint64), groups[rest])
    chosen = _split(cells[rest], groups[rest], again, of_rest)
    part[rest[chosen]] = "select"
    return [str(one) for one in part]


def _split(cells: np.ndarray, groups: np.ndarray, lots: np.ndarray, share: float) -> np.ndarray:
    """True for the first side, which gets about this share of each cell."""
    counts = np.bincount(cells, minlength=2)
    first = np.round(share * counts).astype(np.int64)
    return split_by_group(cells, groups, lots, n_train=first, n_eval=counts - first)


def candidate_of(
    rows: pl.DataFrame, taxonomy: Taxonomy, wanted: SearchSettings
) -> Candidate | dict[str, int]:
    """Draw a taxonomy's sequences, as many of every class, in each of the parts.

    Args:
        rows: from `searched_rows`.
        taxonomy: the taxonomy.
        wanted: sizes.

    Returns:
        The candidate; where a class has fewer than `minimum` in a part, how many sequences the
        smallest class has, by part.

    Raises:
        UserError: a column that the taxonomy needs is not there.
    """
    labels = label_sequences(rows, taxonomy)
    numbers = {name: index for index, name in enumerate(taxonomy.classes)}
    codes = labels.replace_strict(numbers, default=None, return_dtype=pl.Int64)
    frame = rows.select("sequence_id", "suffix", "part").with_row_index("position")
    frame = frame.with_columns(codes.alias("class_index")).drop_nulls("class_index")
    frame = frame.with_columns(pl.col("position").cast(pl.Int64))
    sizes = {"train": wanted.n_train, "select": wanted.n_select, "final": wanted.n_final}
    drawn, smallest = {}, {}
    for part in PARTS:
        inside = frame.filter(pl.col("part") == part)
        counts = np.bincount(inside["class_index"].to_numpy(), minlength=len(numbers))
        smallest[part] = int(counts.min())
        take = min(smallest[part], sizes[part])
        turn = pl.int_range(pl.len()).over("class_index")
        drawn[part] = inside.filter(turn < take)
    if min(smallest.values()) < wanted.minimum:
        return smallest
    sample = SampleRows(
        train=drawn["train"].with_columns(split=pl.lit("train")),
        evaluation=pl.concat([drawn["select"], drawn["final"]]).with_columns(split=pl.lit("eval")),
        classes=taxonomy.classes,
    )
    counts_drawn = {part: drawn[part].height // len(numbers) for part in PARTS}
    return Candidate(taxonomy, label_digest(codes), sample, counts_drawn)


def label_digest(codes: pl.Series) -> str:
    """Same for two labellings of the memorized sequences whose classes correspond one to one.

    Args:
        codes: class index of every row, 0 for Non-Memo, null for none.
    """
    values = codes.fill_null(-1).to_numpy()
    names: dict[int, int] = {-1: -1, 0: 0}
    for code in values[np.sort(np.unique(values, return_index=True)[1])].tolist():
        names.setdefault(code, len(names) - 1)
    renamed = np.array([names[code] for code in values.tolist()], dtype=np.int8)
    return hashlib.sha256(renamed.tobytes()).hexdigest()[:16]
