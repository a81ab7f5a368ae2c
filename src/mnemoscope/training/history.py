"""What was seen, step by step, in Parquet, and how long memory lasts in it.

One file a check, so that a kill loses nothing.

A folder holds `watched.parquet` (the windows), `unread.parquet` (documents of which none was
asked), `watch.json` (of which windows, by which versions, from which share of a suffix on one
counts) and `checks/step-N.parquet`: `window`, `is_memorized`, `right` (share of suffix tokens that
are the argmax after the true ones), `logprob` (mean a suffix token, nats) and, where the windows
were decoded, `memorization_score`.
"""

import re
import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from time import time_ns
from typing import Any, NotRequired, cast

import numpy as np
import polars as pl
from typing_extensions import TypedDict

from mnemoscope.conditions import UNDRAWN, Measures
from mnemoscope.errors import UserError
from mnemoscope.files import as_path
from mnemoscope.stats import Estimate, Floats, draw_within, frame_of, interval_of
from mnemoscope.store import Facts, Store, refuse_folder
from mnemoscope.training.windows import CONTROL, LENGTH, WatchedWindows, placed
from mnemoscope.words import plural

WATCH = "watch"
WINDOWS = Measures(
    ("reproduced", "guessed", "recalled"),
    "window",
    "windows of that kind",
    "'recalled > 1%', 'reproduced > 3 windows' or 'recalled >= 1 window in doc'",
    has_each=True,
    elsewhere=dict.fromkeys(
        ("near", "undecided"), " A watch does not look for that; 'mnemoscope audit' does."
    ),
)
"""What a gate may be put to, of the windows of a check."""
_WINDOWS, _UNREAD = "watched.parquet", "unread.parquet"
_UNREAD_SCHEMA = {"document": pl.String, "reason": pl.String}
_PART = re.compile(r"step-(\d+)\.json")
_LIBRARIES = ("mnemoscope", "torch", "transformers")


class _Watch(TypedDict):
    windows: str
    documents: int
    left_out: int
    copied: int
    run: NotRequired[str | None]
    source: NotRequired[str | None]
    columns: NotRequired[dict[str, str] | None]
    excluded: NotRequired[dict[str, list[str]] | None]
    stride: NotRequired[int | None]
    given: NotRequired[list[str]]
    threshold: float


def _store_of(folder: Path) -> Store:
    return Store(folder, remedy=lambda name: _again(folder) if name == WATCH else _NEW)


_NEW = "begin a new history; other checks stay as they are"


def _again(folder: Path) -> str:
    """How to make a history anew: by the checkpoints that stand beside it, if there are any."""
    beside = folder.absolute().parent
    own = f"{shlex.quote(str(folder.parent))}/checkpoint-*"
    checkpoints = own if any(beside.glob("checkpoint-*")) else "CHECKPOINTS"
    out = shlex.quote(str(folder.with_name(f"{folder.absolute().name}-again")))
    return (
        "watch the checkpoints again, into another folder: "
        f"mnemoscope watch {checkpoints} --sequences TEXTS -o {out}"
    )


@dataclass(frozen=True)
class History:
    """All checks of one run."""

    windows: pl.DataFrame = field(repr=False)  # of `WatchedWindows`
    checks: pl.DataFrame = field(repr=False)  # `step` and a check's columns, sorted by step
    run: str  # name of the run, or of the folder where none was recorded
    # the words of 'mnemoscope watch' that name what is watched; empty where a callback did
    command: tuple[str, ...] = ()
    # by step the words of 'mnemoscope audit' that name the checkpoint and these texts
    audit: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    given: tuple[str, ...] = ()  # checkpoints, as the user named them
    named: Mapping[int, str] = field(default_factory=dict)  # by step, as `find_checkpoints` has it
    folder: Path = Path()
    # of the documents that were to be watched, those without a window: `document`, `reason`
    unread: pl.DataFrame = field(default_factory=partial(pl.DataFrame, schema=_UNREAD_SCHEMA))
    n_documents: int = 0  # with one
    n_left_out: int = 0  # windows, not of the control, that were not drawn
    n_copied: int = 0  # windows of a control that are watched too, and so were left out of it
    sums: tuple[str, ...] = ()  # of each check's record
    last: Mapping[str, Any] = field(default_factory=dict)  # what the last one says
    # of checks of a folder whose name has no step: that name, by the number that it was given
    names: Mapping[int, str] = field(default_factory=dict)
    threshold: float = 1.0  # share of a suffix that is right, from which a window counts
    kept_threshold: float = 1.0  # the one that the folder's page counts by

    def counting(self, threshold: float | None = None) -> "History":
        """The same where a window is reproduced from such a share of right tokens on.

        None: from the share that the folder keeps. Raises UserError: checks without scores.
        """
        threshold = self.kept_threshold if threshold is None else threshold
        if threshold == 1:
            return self
        checks = self.checks
        if "memorization_score" not in checks.columns or checks["memorization_score"].null_count():
            raise UserError(
                f"--threshold: not all checks of {self.folder} have scores, as those of --scan and "
                "of a callback. Watch the checkpoints into another folder, without --scan."
            )
        is_near = pl.col("memorization_score") >= threshold - _ROUNDING
        checks = checks.with_columns(pl.col("is_memorized") | is_near)
        return replace(self, checks=checks, threshold=threshold)

    @property
    def counts_from(self) -> str:
        """From how much on a window counts, in words; empty: the whole suffix."""
        return f" to {100 * self.threshold:.12g} %" * (self.threshold < 1)

    def say_step(self, step: int) -> str:
        """What a check was of: `step 1,000`, or the name of a folder that has none."""
        return self.names.get(step, f"step {step:,}")

    @property
    def n_watched(self) -> int:
        """Windows that are asked, without those of the control."""
        return self.windows.filter(pl.col("source") != CONTROL).height

    @property
    def n_unasked(self) -> int:
        """Documents that have windows, of which none was drawn."""
        return int(self.unread["reason"].str.starts_with(UNDRAWN).sum())

    @property
    def drawn(self) -> dict[str, int] | None:
        """How many of all windows were drawn, and of how many documents none; None: all were."""
        if not self.n_left_out:
            return None
        n, unasked = self.n_watched, self.n_unasked
        return {"windows": n, "of": n + self.n_left_out, "documents_not_asked": unasked}

    @property
    def drawn_said(self) -> str:
        """It in words: `2,000 of 34,116 windows drawn, 24 documents not asked`; empty: all were."""
        if not (drawn := self.drawn):
            return ""
        unasked = f", {plural(self.n_unasked, 'document')} not asked" if self.n_unasked else ""
        return f"{drawn['windows']:,} of {plural(drawn['of'], 'window')} drawn{unasked}"

    @property
    def steps(self) -> list[int]:
        """Steps at which was looked, rising."""
        return self.checks["step"].unique().sort().to_list()

    def joined(self) -> pl.DataFrame:
        """Checks with `source` and `class` of their window."""
        known = self.windows.select("window", "source", "class")
        return self.checks.join(known, on="window", how="left", maintain_order="left")


class HistoryWriter:
    """Adds checks to a folder, made where it is missing; opening it again goes on where it stood.

    The `facts` of the run are recorded in `watch.json`; beside them the documents that were to be
    watched and have no window (`unread`: pairs of a name and the reason) or none that was drawn,
    and how many have one. Raises UserError: the folder holds a history of other windows, or cannot
    be written to.
    """

    def __init__(
        self,
        folder: Path | str,
        windows: WatchedWindows,
        *,
        unread: Sequence[tuple[str, str]] = (),
        threshold: float | None = None,
        **facts: Any,
    ) -> None:
        self.folder: Path = Path(folder)
        self._store = _store_of(self.folder)
        unasked = [(name, f"{UNDRAWN} (raise 'most').") for name in windows.unasked]
        passed = pl.DataFrame([*unread, *unasked], schema=_UNREAD_SCHEMA, orient="row")
        asked = placed(windows.table).filter(pl.col("source") != CONTROL)["document"]
        counts = {
            "documents": asked.drop_nulls().n_unique() + asked.null_count(),
            "left_out": windows.n_left_out,
            "copied": windows.n_copied,
            "threshold": threshold or 1.0,
        }
        if self._store.record_path(WATCH).exists():
            kept = _read_record(self.folder)
            refuse_other(self.folder, windows, is_of_verb="given" in facts)
            counts["copied"] = kept["copied"]  # the control may now be the one that is kept
            counts["threshold"] = threshold or kept["threshold"]
            if threshold not in (None, kept["threshold"]) and _steps(self.folder):
                read_history(self.folder).counting(threshold)  # refuses checks without scores
            if "given" in facts:
                facts["given"] = [*dict.fromkeys([*kept.get("given", ()), *facts["given"]])]
            counted = counts | {name: facts[name] for name in ("given",) if name in facts}
            same = all(kept.get(name) == n for name, n in counted.items())
            if same and self._store.frame(WATCH, _UNREAD).equals(passed):
                return
        versions = {name: metadata.version(name) for name in _LIBRARIES}
        facts |= {"windows": windows.digest, "versions": versions, **counts}
        self._store.put(WATCH, {_WINDOWS: windows.table, _UNREAD: passed}, **facts)

    def has(self, step: int, key: str = "") -> bool:
        """Whether a step has been looked at, by what has this key."""
        return is_checked(self.folder, step, key)

    def add(
        self,
        step: int,
        check: pl.DataFrame,
        key: str = "",
        fingerprint: str | None = None,
        name: str | None = None,
        model: Sequence[str] = (),
    ) -> None:
        """Write one check, whole or not at all; a check of the same step is replaced.

        `fingerprint` is that of the weights, where they have one; `name` that of a folder without a
        step; `model` are the words of a command that name the model.
        """
        date = datetime.now(UTC).isoformat(timespec="seconds")
        said: dict[str, object] = {"date": date, "fingerprint": fingerprint, "folder": name}
        said |= {"model": [*model], "nanoseconds": time_ns()}  # which a copy alone shares
        self._store.put(_name(step), {f"{_name(step)}.parquet": check}, key=key, **said)

    def drop_after(self, step: int) -> int:
        """Forget checks after a step from which a run begins anew; gives how many they were."""
        late = steps_after(self.folder, step)
        _drop(self.folder, late)
        return len(late)


def remove_history(folder: Path) -> None:
    """Remove a history and all its checks from a folder; nothing where it holds none."""
    if holds_history(folder):
        _drop(folder, _steps(folder))
        store = _store_of(folder)
        store.forget(WATCH)
        for name in (_WINDOWS, _UNREAD):
            store.remove(name)


def _drop(folder: Path, steps: Iterable[int]) -> None:
    for one in steps:
        _store_of(folder).forget(_name(one))
        _store_of(folder).remove(f"{_name(one)}.parquet")


def refuse_other(folder: Path, windows: WatchedWindows, *, is_of_verb: bool = True) -> None:
    """Refuse a folder that holds a history of other windows (UserError).

    The verb begins one anew, where a callback does not.
    """
    if holds_history(folder) and _read_record(folder)["windows"] != windows.digest:
        raise UserError(
            f"{folder}: holds a history of other windows. Give another folder"
            + ", or --redo, which begins this one anew" * is_of_verb
            + ", or watch the same texts, read the same way (--column, --exclude, --stride), as "
            "many windows of them, with the same tokenizer."
        )


def steps_after(folder: Path, step: int) -> list[int]:
    """Steps behind this one that a folder holds a check of; none without a history."""
    return sorted(found for found in _steps(folder) if found > step)


def is_checked(folder: Path, step: int, key: str = "") -> bool:
    """Whether a folder holds a check of a step, by what has this key."""
    return _store_of(folder).kept(_name(step), "this check", key=key) is not None


FOLDER = "memorization"
"""Of a history, in a trainer's output folder."""


def history_folder(given: Path | str) -> Path:
    """The folder of a history: the given one, or `FOLDER` in it, as a trainer's output has it."""
    given = as_path(given, "folder")
    is_trainers = not holds_history(given) and holds_history(given / FOLDER)
    return given / FOLDER if is_trainers else given


def holds_history(folder: Path) -> bool:
    """Whether something was watched into this folder."""
    return _store_of(folder).record_path(WATCH).is_file()


def read_history(folder: Path | str) -> History:
    """Read what was watched, in this folder or as `history_folder` finds it.

    Raises UserError without a check, DamagedDataError if torn.
    """
    folder = history_folder(folder)
    facts = _read_record(folder)
    store = _store_of(folder)
    checks = [
        store.frame(_name(step), f"{_name(step)}.parquet").select(
            pl.lit(step, dtype=pl.Int64).alias("step"), pl.all()
        )
        for step in _steps(folder)
    ]
    records = [store.record(_name(step)) for step in _steps(folder)]
    if not checks:
        raise UserError(f"{folder}: holds no check yet. Train on, or track checkpoints into it.")
    run = str(facts.get("run") or folder.resolve().name)
    windows = placed(store.frame(WATCH, _WINDOWS))
    command: tuple[str, ...] = ()
    audit: dict[int, tuple[str, ...]] = {}
    models = {
        step: words
        for step, one in zip(_steps(folder), records, strict=True)
        if (words := one.get("model"))
    }
    if source := facts.get("source"):
        command = ("--sequences", source)
        for name, path in (facts.get("columns") or {}).items():
            command += ("--column", f"{name}={path}")
        for glob in facts.get("excluded") or {}:
            command += ("--exclude", glob)
        if windows["start"].null_count() == 0:  # of texts, which an audit reads too
            texts = text_words(source, facts.get("columns") or {}, facts.get("excluded") or ())
            audit = {step: (*words, *texts) for step, words in models.items()}
        if (length := len(windows["tokens"][0])) != LENGTH:
            command += ("--length", str(length))
        if (stride := facts.get("stride")) is not None:
            command += ("--stride", str(stride))
    return History(
        windows,
        pl.concat(checks, how="diagonal"),
        run,
        command,
        audit,
        tuple(facts.get("given") or ()),
        {step: "@".join(words[::2]) for step, words in models.items()},
        folder,
        unread=store.frame(WATCH, _UNREAD),
        n_documents=facts["documents"],
        n_left_out=facts["left_out"],
        n_copied=facts["copied"],
        sums=tuple(one["sha256"] for one in records),
        last=records[-1],
        names={
            step: str(one["folder"])
            for step, one in zip(_steps(folder), records, strict=True)
            if one.get("folder")
        },
        kept_threshold=facts["threshold"],
    )


def text_words(source: str, columns: Mapping[str, str], exclude: Iterable[str]) -> tuple[str, ...]:
    """The words of 'mnemoscope audit' that name texts; it takes no column but theirs."""
    column = ("--column", f"text={columns['text']}") if "text" in columns else ()
    return source, *column, *(word for one in exclude for word in ("--exclude", one))


def check_holds_history(folder: Path) -> None:
    """Refuse a folder in which nothing was watched."""
    if not holds_history(history_folder(folder)):
        how = "Make one: 'mnemoscope watch CHECKPOINTS --sequences TEXTS -o DIR'."
        refuse_folder(folder, "holds no history (watch.json)", how)


def kept_controls(folder: Path) -> pl.DataFrame | None:
    """Windows that a history holds beside what is watched, kept out of training; None without."""
    if not holds_history(folder):
        return None
    kept = _store_of(folder).frame(WATCH, _WINDOWS).filter(source=CONTROL)
    return None if kept.is_empty() else kept


def kept_threshold(folder: Path) -> float | None:
    """From which share of right tokens on a folder counts a window; None: it has no history."""
    return _read_record(folder)["threshold"] if holds_history(folder) else None


def keep_threshold(folder: Path, threshold: float) -> None:
    """Record from which share of right tokens on a folder counts a window."""
    kept = cast(Facts, _read_record(folder))
    with _store_of(folder).making(WATCH) as made:
        made.files, made.sizes = kept["files"], kept["sizes"]
        made.facts |= {name: one for name, one in kept.items() if name != "sha256"}
        made.facts["threshold"] = threshold


def _read_record(folder: Path) -> _Watch:
    if not holds_history(folder):
        raise UserError(
            f"{folder}: holds no history of memorization (no watch.json). To look at checkpoints, "
            f"name what is watched: mnemoscope watch {shlex.quote(str(folder))} --sequences PATH"
        )
    return cast(_Watch, _store_of(folder).record(WATCH, shape=_Watch))


def _steps(folder: Path) -> list[int]:
    """The steps of a folder's checks, rising."""
    named = [_PART.fullmatch(path.name) for path in (folder / "checks").glob("step-*")]
    return sorted(int(match[1]) for match in named if match)


def _name(step: int) -> str:
    return f"checks/step-{step:09d}"


_ROUNDING = 1e-6
_RESAMPLES = 1000
_TURNOVER = ("from_step", "to_step", "stays", "learned", "forgotten", "never")


def follow(checks: pl.DataFrame) -> pl.DataFrame:
    """Follow every window through the checks, columns `step`, `window`, `is_memorized`.

    Gives one row a window, in their order: `window`; `first_memorized`, the first step at which it
    was reproduced, null where it never was; `forgotten`, the first later step at which it was not,
    null where there is none; `n_memorized`, checks at which it was; `n_switches`, how often two
    neighbouring checks differ; `is_memorized`, at the last check.
    """
    memorized, step = pl.col("is_memorized"), pl.col("step")
    first = step.filter(memorized).min()
    return (
        checks.sort("step", maintain_order=True)
        .group_by("window", maintain_order=True)
        .agg(
            first.alias("first_memorized"),
            step.filter(~memorized & (step > first)).min().alias("forgotten"),
            memorized.sum().cast(pl.Int64).alias("n_memorized"),
            (memorized != memorized.shift()).sum().cast(pl.Int64).alias("n_switches"),
            memorized.last(),
        )
    )


def turnover(checks: pl.DataFrame) -> pl.DataFrame:
    """Count what changes between neighbouring checks, of every window at every step.

    Gives one row a pair of neighbours: `from_step`, `to_step`, `stays`, `learned`, `forgotten`,
    `never` (not memorized at either), counts of windows.
    """
    wide = checks.pivot(on="step", index="window", values="is_memorized").drop("window")
    steps = sorted(int(name) for name in wide.columns)
    rows = []
    for before, after in pairwise(steps):
        was, now = (wide[str(step)].to_numpy().astype(bool) for step in (before, after))
        counts = (int(so.sum()) for so in (was & now, ~was & now, was & ~now, ~was & ~now))
        rows.append((before, after, *counts))
    return pl.DataFrame(rows, schema=dict.fromkeys(_TURNOVER, pl.Int64), orient="row")


def survival(followed: pl.DataFrame, last_step: int) -> pl.DataFrame:
    """How long what was memorized, as `follow` gives it, stays so: Kaplan and Meier's estimate.

    A window's age counts from the step at which it was first seen memorized to the first later
    one at which it was not; one that is never seen forgotten is censored at the last step. Ages
    are known to the distance of two checks.

    Returns:
        `age` (steps), `survives` (share still memorized after that age, 95 % log-log interval
        where it can be given), `at_risk` (windows seen to that age); from age 0, where all do.
        Empty where nothing was memorized before the last step. Where `followed` has
        `near_duplicates`, the interval draws these groups, and there is none below
        `FEWEST_GROUPS`.
    """
    known = followed.filter(pl.col("first_memorized") < last_step)
    start = {"age": 0, "survives": Estimate(1.0, 1.0, 1.0), "at_risk": known.height}
    if known.is_empty():
        return frame_of([start]).clear()
    from scipy.stats import CensoredData, ecdf

    is_censored = known["forgotten"].is_null().to_numpy()
    ages = known["forgotten"].fill_null(last_step) - known["first_memorized"]
    age = ages.to_numpy().astype(np.float64)
    curve = ecdf(CensoredData(age[~is_censored], right=age[is_censored])).sf
    places = np.unique(age)
    survives = curve.evaluate(places)
    if "near_duplicates" in known.columns:
        groups = known["near_duplicates"].to_numpy()
        low, high = _ends_over_groups(age, is_censored, places, survives, groups)
    else:
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # undefined ends are NaN, as is said
            reach = curve.confidence_interval(method="log-log")
        low, high = (end.evaluate(places) for end in (reach.low, reach.high))
    found = (
        {"age": int(place), "survives": Estimate(*one), "at_risk": int((age >= place).sum())}
        for place, *one in zip(places, survives, low, high, strict=True)
    )
    return frame_of([start, *found])


def _ends_over_groups(
    age: Floats, is_censored: np.ndarray, places: Floats, survives: Floats, groups: np.ndarray
) -> tuple[Floats, Floats]:
    """Percentile ends of the curve (places,) where groups are drawn; NaN where it is 0 or 1."""
    drawn = draw_within(np.zeros(len(age)), np.random.default_rng(0), _RESAMPLES, groups=groups)
    lost = drawn @ ((age[:, None] == places) & ~is_censored[:, None])
    at_risk = drawn @ (age[:, None] >= places)
    curves = np.cumprod(1 - lost / np.maximum(at_risk, 1), axis=1)
    ends = np.array([interval_of(curve) for curve in curves.T])
    ends[(survives == 0) | (survives == 1)] = np.nan
    return ends[:, 0], ends[:, 1]
