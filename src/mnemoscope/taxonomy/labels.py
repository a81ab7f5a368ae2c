"""Give every sequence of a table its class under a taxonomy, or under many in one pass.

Not memorized is Non-Memo whatever the features say; a class is null exactly where the decision
needs a feature that is missing.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mnemoscope.data.features import TEXT_MEASURES, measure_text
from mnemoscope.data.rows import scan_rows
from mnemoscope.data.table import check_columns, check_ids, scan_table, sink_table
from mnemoscope.errors import UserError, first_line, nearest
from mnemoscope.taxonomy.catalogue import CATALOGUE, RHO, RHO_AS_RUN, load_taxonomies
from mnemoscope.taxonomy.names import NULL, Taxonomy
from mnemoscope.taxonomy.nodes import MEASURES, first_yes

_FLAGS = ("is_memorized", "is_incrementing", "is_repeating", "is_code")
_NUMBERS = (
    *("memorization_score", "duplicates", "rouge_l", "rouge_3"),
    *(measure.column for measure in MEASURES.values()),
)
_MEMORIZED = ("is_memorized", "memorization_score")
_ROUGE = ("rouge_l", "rouge_3")
_ROUGE_DECIMALS: dict[pl.DataType, int] = {pl.Float32(): 7, pl.Float64(): 12}
"""ROUGE must pass a threshold that it equals, though 21/30 is 0.69999999 as float32."""


def label_sequences(frame: pl.DataFrame, taxonomy: Taxonomy) -> pl.Series:
    """Class of every row, a string; null where a feature that the decision needs is null.

    The table has ``is_memorized`` (where given) or ``memorization_score``, and the features that
    the taxonomy's nodes need; NaN counts as missing. Raises UserError: a needed column is missing
    or of the wrong type.
    """
    labels = label_lazily(frame.lazy(), [taxonomy])
    try:
        return labels.collect().to_series().alias("class")
    except pl.exceptions.PolarsError as error:
        raise _not_applied(taxonomy, error) from error


def label_lazily(
    table: pl.LazyFrame,
    taxonomies: Sequence[Taxonomy],
    *,
    keep: Sequence[str] = (),
    allow_missing: bool = False,
) -> pl.LazyFrame:
    """Class of every row under each taxonomy, in one pass: a column a taxonomy, after those kept.

    With `allow_missing` taxonomies that need a column which is not there give nulls. Raises
    UserError: as `label_sequences`; a rule of the user's own that does not fit a column's type.
    """
    schema = table.collect_schema()
    lacking = missing_columns(schema.names(), taxonomies)
    known = [taxonomy for taxonomy in taxonomies if taxonomy.name not in lacking]
    _check_memorized(schema)
    for taxonomy in known if allow_missing else taxonomies:
        _check_columns(schema, taxonomy)
    prepared = table.with_columns(_prepare(name, dtype) for name, dtype in schema.items())
    _check_rules(prepared, known)
    return prepared.select(
        *keep,
        *(
            pl.lit(None, dtype=pl.String).alias(taxonomy.name)
            if taxonomy.name in lacking
            else _label(taxonomy, schema.names()).alias(taxonomy.name)
            for taxonomy in taxonomies
        ),
    )


def missing_columns(
    columns: Iterable[str], taxonomies: Iterable[Taxonomy]
) -> dict[str, tuple[str, ...]]:
    """Columns that taxonomies need and a table lacks, by the name of the taxonomy."""
    there = set(columns)
    lacking = {
        taxonomy.name: tuple(column for column in taxonomy.columns if column not in there)
        for taxonomy in taxonomies
    }
    return {name: missing for name, missing in lacking.items() if missing}


def has_verdict(columns: Iterable[str]) -> bool:
    """Whether a table of these columns says what is memorized, which every class needs."""
    return not set(_MEMORIZED).isdisjoint(columns)


def count_classes(labels: pl.Series, classes: Iterable[str] = ()) -> dict[str, int]:
    """Sequences of every class, those of `classes` first; `null` holds those without one."""
    found = labels.value_counts()
    by_class = dict(zip(found[labels.name], found["count"], strict=True))
    n_null = by_class.pop(None, 0)
    counts = {name: by_class.pop(name, 0) for name in classes}
    counts |= dict(sorted(by_class.items()))
    return counts | ({NULL: n_null} if n_null else {})


def _prepare(name: str, dtype: pl.DataType) -> pl.Expr:
    """A column as the nodes want it: typed where all null, NaN as null, ROUGE rounded."""
    column = pl.col(name)
    if dtype == pl.Null:
        return column.cast(pl.Boolean if name in _FLAGS else pl.Float64)
    if dtype.is_float():
        column = column.fill_nan(None)
    if name in _ROUGE and dtype in _ROUGE_DECIMALS:
        column = column.cast(pl.Float64).round(_ROUGE_DECIMALS[dtype])
    return column


def _label(taxonomy: Taxonomy, columns: Sequence[str]) -> pl.Expr:
    known = {  # as scanned where it was, else by its score
        "is_memorized": pl.col("is_memorized"),
        "memorization_score": pl.col("memorization_score") == 1,
    }
    is_memorized = pl.coalesce([known[column] for column in known if column in columns])
    rules = [~is_memorized, *(node.expression for node in taxonomy.nodes)]
    return first_yes(rules, taxonomy.classes)


def _check_memorized(schema: pl.Schema) -> None:
    there = [name for name in _MEMORIZED if name in schema]
    if not there:
        raise UserError(
            "the table has neither is_memorized nor memorization_score, so no class can be "
            "given. Run 'mnemoscope continue' first."
        )
    for name in there:
        _check_type(name, schema[name])


def _check_columns(schema: pl.Schema, taxonomy: Taxonomy) -> None:
    by_model = {one.column for one in MEASURES.values()} - {*TEXT_MEASURES}
    for node in taxonomy.nodes:
        for column in node.columns:
            if column not in schema:
                verb = "search" if column in by_model else "features"
                raise UserError(
                    f"the table has no column '{column}', which {node.name} needs."
                    f"{nearest(column, schema.names())} Run 'mnemoscope {verb}' first, or add the "
                    "column."
                )
            _check_type(column, schema[column])


def _check_rules(prepared: pl.LazyFrame, taxonomies: Iterable[Taxonomy]) -> None:
    """Rules of the user's own can be asked of columns of these types."""
    columns = prepared.collect_schema().names()
    for taxonomy in taxonomies:
        try:
            prepared.select(_label(taxonomy, columns)).collect_schema()
        except pl.exceptions.PolarsError as error:
            raise _not_applied(taxonomy, error) from error


def _not_applied(taxonomy: Taxonomy, error: Exception) -> UserError:
    return UserError(f"taxonomy '{taxonomy.name}' cannot be applied: {first_line(error)}.")


def _check_type(column: str, dtype: pl.DataType) -> None:
    wanted = "Boolean" if column in _FLAGS else "a number" if column in _NUMBERS else None
    fits = dtype == pl.Boolean if column in _FLAGS else dtype.is_numeric()
    if wanted and not fits and dtype != pl.Null:
        raise UserError(f"column '{column}' is {dtype} where {wanted} is needed.")


_SHARE = (0.0, 1.0)
_RANGES = {
    "memorization_score": _SHARE,
    "rouge_l": _SHARE,
    "rouge_3": _SHARE,
    "duplicates": (0.0, float("inf")),
}


@dataclass(frozen=True)
class TableLabels:
    """What was written: sequences by class (`count_classes`) of every taxonomy that was labelled.

    `unlabelled` are the columns that the table lacks, by the taxonomy that needs them.
    """

    counts: dict[str, dict[str, int]]
    unlabelled: dict[str, tuple[str, ...]]


def label_table(
    source: Path, out: Path, names: Sequence[str], columns: Mapping[str, str] | None = None
) -> TableLabels:
    """Write a table of ``sequence_id`` and one column of classes a taxonomy, by its name.

    A taxonomy named by itself whose feature columns are missing is rejected; one that the words
    ``catalogue`` or ``rho`` stand for is null throughout, unless all are that were asked for.
    `columns` are taken from their paths first (`take_columns`). Raises UserError: as
    `load_taxonomies` and `label_lazily`. DamagedDataError: the source is torn. NoRoomError: the
    disk is full.
    """
    taxonomies = load_taxonomies(names)
    table = scan_rows(source, columns)
    check_features(table, where=str(source))
    lacking = missing_columns(table.collect_schema().names(), taxonomies)
    asked = {column for needed in lacking.values() for column in needed}
    given = [
        name for name in ("text", "tokens", "attention_mask") if name in table.collect_schema()
    ]
    measures = [name for name in TEXT_MEASURES if name in asked]
    if given and measures:
        made = measure_text(table.select(given).collect(), measures)
        table = table.with_columns(made.get_columns())
        lacking = missing_columns(table.collect_schema().names(), taxonomies)
    named = [name for name in names if name.strip() not in (CATALOGUE, RHO, RHO_AS_RUN)]
    needed = load_taxonomies(named) if named else []
    label_lazily(table, taxonomies if len(lacking) == len(taxonomies) else needed)
    labels = label_lazily(table, taxonomies, keep=["sequence_id"], allow_missing=True)
    sink_table(out, labels, where=str(source))
    return TableLabels(_count(out, taxonomies, lacking), lacking)


def check_features(table: pl.LazyFrame, *, where: str) -> None:
    """Reject a table whose ids or measures cannot be what their columns are named for.

    Raises UserError: no sequence_id, one twice or none; a share outside [0, 1], a count below 0.
    """
    names = table.collect_schema().names()
    check_columns(table.head(1).collect(), "sequence_id", where=where)
    check_ids(table.select("sequence_id").collect().to_series(), where)
    ranges = {name: limits for name, limits in _RANGES.items() if name in names}
    if not ranges:
        return
    columns = pl.col(*ranges).cast(pl.Float64).fill_nan(None)
    ends = pl.collect_all([table.select(columns.min()), table.select(columns.max())])
    for name, (low, high) in ranges.items():
        for value in pl.concat(ends)[name].drop_nulls():
            if not low <= value <= high:
                wanted = f"between {low:g} and {high:g}" if high < float("inf") else "at least 0"
                raise UserError(
                    f"{where}, column '{name}': {value:g} where a value {wanted} is needed."
                )


def _count(
    out: Path, taxonomies: Sequence[Taxonomy], lacking: Container[str]
) -> dict[str, dict[str, int]]:
    table = scan_table(out)
    return {
        one.name: count_classes(table.select(one.name).collect().to_series(), one.classes)
        for one in taxonomies
        if one.name not in lacking
    }
