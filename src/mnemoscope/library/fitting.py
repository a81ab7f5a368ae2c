"""What a reader is to be trained on and how: all of it checked, and the windows divided."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from typing_extensions import TypedDict

from mnemoscope.cnn.presets import GRIDS, PresetName, check_kernel
from mnemoscope.data.rows import to_frame
from mnemoscope.data.table import look_up
from mnemoscope.errors import UserError, a_kind, nearest
from mnemoscope.library.given import Shown, whole_number
from mnemoscope.library.maps import Maps, same_windows
from mnemoscope.library.sequences import CLASS
from mnemoscope.lm.placement import find_device
from mnemoscope.taxonomy.names import NON_MEMO, Taxonomy
from mnemoscope.taxonomy.sample import MINIMUM, PAPER_N_TRAIN, Impossible, draw_sample, order_table

Kind = Literal["cnn", "regression", "ngrams"]
_MOST_CLASSES = 100


class Fitting(TypedDict, total=False):
    """What `fit` and `fit_blind` can be told beside what they read; `fit` says what each is."""

    groups: pl.Series | Sequence[Any] | None
    split: pl.Series | Sequence[str | None] | None
    preset: PresetName
    kernel: int
    filters: int
    seed: int | Sequence[int]
    n_train: int | None
    n_eval: int | None
    minimum: int
    draw_seed: int
    device: str
    progress: Shown


_DEFAULTS: Fitting = {
    "groups": None,
    "split": None,
    "preset": "small",
    "kernel": 6,
    "filters": 10,
    "seed": 0,
    "n_train": None,
    "n_eval": None,
    "minimum": MINIMUM,
    "draw_seed": 0,
    "device": "cpu",
    "progress": None,
}
_Fit = TypeVar("_Fit", bound=Callable[..., object])
Labels = pl.Series | Sequence[str | None] | pl.DataFrame


def with_defaults(function: _Fit) -> _Fit:
    """Show the parameters of `Fitting` one by one where a signature is asked for, as in `help`."""
    own = inspect.signature(function)
    kept = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
    further = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in _DEFAULTS.items()
    ]
    function.__signature__ = own.replace(parameters=[*kept, *further])  # type: ignore[attr-defined]
    return function


@dataclass(frozen=True)
class Sides:
    """Positions of the windows on either side, and their classes."""

    classes: tuple[str, ...]
    sample: pl.DataFrame  # sequence_id, class, split, group; training first
    train: npt.NDArray[np.int64]
    evaluation: npt.NDArray[np.int64]  # by sequence id, as votes are kept
    codes: npt.NDArray[np.int64]  # of every window; -1 without a class
    groups: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """What is to be trained, all of it checked: which windows, and how."""

    kind: Kind
    sides: Sides
    seeds: list[int]
    preset: str
    kernel: int
    filters: int
    device: str
    progress: Shown


def prepare(
    maps: Maps, labels: Labels, kind: Kind, kinds: tuple[Kind, ...], given: Fitting
) -> Task:
    """Check what was given, in place of what was not, and divide the windows."""
    for name in given:
        if name not in _DEFAULTS:
            raise UserError(f"fit: no argument '{name}'.{nearest(name, _DEFAULTS)}")
    asked: Fitting = {**_DEFAULTS, **given}
    sizes = _checked_sizes(asked["n_train"], asked["n_eval"], asked["minimum"], asked["draw_seed"])
    if kind not in kinds:
        words = [repr(one) for one in kinds]
        raise UserError(f"kind {kind!r}: give {', '.join(words[:-1])} or {words[-1]}.")
    how = (asked["preset"], asked["kernel"], asked["filters"])
    _check_training(kind, *how, maps.tokens.shape[1], asked["device"])
    seeds = _checked_seeds(asked["seed"], kind)
    sides = _divide(maps, _by_id(labels, maps), asked["groups"], asked["split"], *sizes)
    return Task(kind, sides, seeds, *how, asked["device"], asked["progress"])


def _by_id(labels: Labels, maps: Maps) -> pl.Series | Sequence[str | None]:
    """Labels of a table in the order of the maps, null for a map without a row; others as given."""
    if isinstance(labels, pl.Series) or not hasattr(labels, "columns"):
        return labels
    table = to_frame(labels)
    names = [name for name in table.columns if name != "sequence_id"]
    column = CLASS if CLASS in names else names[0] if len(names) == 1 else None
    if column is None or len(names) == len(table.columns):
        raise UserError(
            f"labels: a table of {', '.join(table.columns)}; give one with sequence_id and class, "
            "or a class for each map, such as windows['class']."
        )
    if table["sequence_id"].is_duplicated().any():
        raise UserError("labels: a table that names a sequence_id twice. Give each one row.")
    ids = pl.DataFrame({"sequence_id": maps.sequence_id})
    found = look_up(ids, table.cast({"sequence_id": pl.Int64}), column)[column]
    if found.null_count() == len(found):
        raise UserError("labels: a table of other windows than the maps. Give these a class.")
    return found


def _divide(
    maps: Maps,
    labels: pl.Series | Sequence[str | None],
    groups: pl.Series | Sequence[Any] | None,
    split: pl.Series | Sequence[str | None] | None,
    n_train: int,
    n_eval: int,
    minimum: int,
    draw_seed: int,
) -> Sides:
    """Divide windows as they are told to be, or as a study draws them."""
    given = _series(labels, "labels", maps).cast(pl.String)
    classes = _classes(labels, given)
    taxonomy = Taxonomy(", ".join(classes), classes, ())
    columns = [pl.Series("sequence_id", maps.sequence_id)]
    if groups is not None:
        columns.append(_groups(_series(groups, "groups", maps)))
    else:
        columns.append(pl.Series("tokens", maps.tokens.tolist()))
    ordered = order_table(pl.DataFrame(columns), seed=draw_seed)
    codes, owners = taxonomy.codes(given), np.empty(len(maps), dtype=np.int64)
    named = ordered.rows["group"].cast(pl.Int64, strict=False)
    is_id = named.cast(pl.String) == ordered.rows["group"]
    if not is_id.fill_null(False).all():  # names of the user's own, not ids as a study has them
        named = ordered.rows.select(pl.col("sequence_id").min().over("group")).to_series()
    owners[ordered.position] = named.to_numpy()
    if split is None:
        drawn = draw_sample(
            ordered, given, taxonomy, n_train=n_train, n_eval=n_eval, minimum=minimum
        )
        if isinstance(drawn, Impossible):
            counted = ", ".join(f"{name} {n:,}" for name, n in drawn.counts.items())
            raise UserError(
                f"labels: {drawn.reason} (given: {counted}). Give more windows, or set minimum."
            )
        place = {int(one): at for at, one in enumerate(maps.sequence_id)}
        rows = np.array([place[one] for one in drawn.frame["sequence_id"]], dtype=np.int64)
        sides = drawn.frame["split"]
    else:
        told = _series(split, "split", maps).cast(pl.String)
        if unknown := set(told.drop_nulls()) - {"train", "eval"}:
            raise UserError(f"split {sorted(unknown)[0]!r}: give 'train', 'eval' or null.")
        rows = np.flatnonzero(told.is_not_null().to_numpy() & (codes >= 0))
        sides = told.gather(rows)
    is_training = (sides == "train").to_numpy()
    train, asked = rows[is_training], rows[~is_training]
    for name, part in (("train", train), ("eval", asked)):
        absent = set(range(len(classes))) - set(codes[part].tolist())
        if absent:
            raise UserError(f"split: no {name} window of class {classes[min(absent)]}. Add some.")
    sample = pl.DataFrame(
        {
            "sequence_id": maps.sequence_id[rows],
            CLASS: given.gather(rows).cast(pl.Enum(classes)),
            "split": sides,
            "group": owners[rows],
        }
    )
    asked = asked[np.argsort(maps.sequence_id[asked])]
    return Sides(classes, sample, train, asked, codes, owners)


def _series(values: Any, what: str, maps: Maps) -> pl.Series:
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise UserError(f"{what}: {a_kind(values)}; give one for each map, in order.")
    if isinstance(values, pl.DataFrame) or getattr(values, "ndim", 1) != 1:
        raise UserError(f"{what}: a table; give one column, such as windows['class'].")
    same_windows(maps, len(values), what)
    try:
        given = values if isinstance(values, pl.Series) else [_or_null(one) for one in values]
        found = given if isinstance(given, pl.Series) else pl.Series(what, given)
        if found.dtype.is_nested() or found.dtype == pl.Object:
            raise TypeError
        return found.fill_nan(None) if found.dtype.is_float() else found
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{what}: values of several kinds. Give names of classes.") from error


def _or_null(value: Any) -> Any:
    """A value, or None for what stands for none in pandas."""
    is_nan = isinstance(value, float) and value != value
    return None if is_nan or type(value).__name__ == "NAType" else value


def _groups(given: pl.Series) -> pl.Series:
    """Names of groups; a window without one is alone, whatever the others are called."""
    named = given.cast(pl.String).alias("group")
    alone = pl.Series([f"alone {row}" for row in range(len(given))])
    return named.fill_null(alone) if named.null_count() < len(named) else named


def _classes(labels: Any, given: pl.Series) -> tuple[str, ...]:
    """Names in their order."""
    dtype = getattr(labels, "dtype", None)
    found = set(given.drop_nulls())
    if isinstance(dtype, pl.Enum):
        names = [one for one in dtype.categories if one in found]
    else:
        names = sorted(found, key=lambda one: (one != NON_MEMO, one))
    if len(names) > _MOST_CLASSES:
        raise UserError(f"labels: {len(names):,} classes in {len(given):,} windows; give names.")
    if len(names) < 2:
        only = f" ({names[0]})" if names else ""
        raise UserError(f"labels: {len(names)} class{'' if len(names) == 1 else 'es'}{only}; a "
                        "reader tells two or more apart.")  # fmt: skip
    return tuple(names)


def _check_training(
    kind: Kind, preset: str, kernel: int, filters: int, length: int, device: str
) -> None:
    """Raise UserError for what no reader could be trained with, before anything is computed."""
    if not isinstance(preset, str) or preset not in GRIDS:
        hint = nearest(str(preset), GRIDS)
        raise UserError(f"preset {preset!r}: give {', '.join(GRIDS)}.{hint}")
    whole_number(filters, "filters")
    whole_number(kernel, "kernel")
    if kind == "cnn":
        check_kernel(kernel, length)
    find_device(str(device))


def _checked_sizes(n_train: Any, n_eval: Any, minimum: Any, draw_seed: Any) -> tuple[int, ...]:
    if n_train is None:
        n_train = PAPER_N_TRAIN if n_eval is None else 2 * whole_number(n_eval, "n_eval")
    n_train = whole_number(n_train, "n_train")
    return (
        n_train,
        max(1, n_train // 2) if n_eval is None else whole_number(n_eval, "n_eval"),
        whole_number(minimum, "minimum"),
        whole_number(draw_seed, "draw_seed", least=0),
    )


def _checked_seeds(seed: Any, kind: Kind) -> list[int]:
    given = seed if isinstance(seed, Sequence | np.ndarray) else [seed]
    seeds = [whole_number(one, "seed", least=0) for one in given]
    if not seeds or len({*seeds}) < len(seeds):
        raise UserError(f"seed {seed!r}: give one, or several that differ.")
    if kind != "cnn" and len(seeds) > 1:
        raise UserError(f"seed {seed!r}: kind {kind!r} is fitted once. Give one seed.")
    return seeds
