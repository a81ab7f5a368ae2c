"""Train readers that tell classes apart by attention, or by text alone, and hold one to the other.

A reader is what is trained: CNNs, or a regression on a few statistics of the maps. What it shows is
memory only as far as it is above readers that cannot have any: of the text, and of the attention of
a model that never saw these windows (`excess`).
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Unpack

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from typing_extensions import TypedDict

from mnemoscope.benchmark import baselines
from mnemoscope.benchmark.excess import Votes, measure_excess, why_no_interval
from mnemoscope.benchmark.gain import measure_gain
from mnemoscope.benchmark.sources import TABLE
from mnemoscope.benchmark.verdict import BenchmarkFigures, give_verdict
from mnemoscope.cnn.inputs import Scaling, fit_scaling
from mnemoscope.cnn.metrics import ScoreEstimates, confusion_matrix, estimate_scores
from mnemoscope.cnn.presets import GRIDS, PRESETS, CnnSetting, Precision, PresetName, check_kernel
from mnemoscope.cnn.training import (
    TrainedCnn,
    Wanted,
    load_cnn,
    pack_cnn,
    predict_logits,
    predict_together,
    train_cnns,
    trains_together,
)
from mnemoscope.data.rows import to_frame
from mnemoscope.data.table import look_up, token_matrix
from mnemoscope.errors import DamagedDataError, UserError, a_kind, first_line, nearest
from mnemoscope.files import as_path, made_folder
from mnemoscope.library.given import Shown, as_table, following, prefix_of, whole_number
from mnemoscope.library.maps import Maps, check_maps, read_windows, same_windows
from mnemoscope.library.sequences import CLASS
from mnemoscope.lm.fine_tuning import one_thread
from mnemoscope.lm.placement import find_device
from mnemoscope.localize.delta import Decisiveness, average, decisiveness, pooled
from mnemoscope.maps.views import ChosenMaps, MapSource
from mnemoscope.stats import NO_ESTIMATE, Estimate
from mnemoscope.store import Store
from mnemoscope.taxonomy.names import NON_MEMO, Taxonomy
from mnemoscope.taxonomy.sample import (
    MINIMUM,
    PAPER_N_TRAIN,
    Impossible,
    draw_sample,
    order_table,
)
from mnemoscope.words import nats, percent

Kind = Literal["cnn", "regression", "ngrams"]
_SOURCES = {
    ("attention", "cnn"): ("model", "reference"),
    ("attention", "regression"): ("statistics", "reference_statistics"),
    ("text", "cnn"): ("blind", "blind"),
    ("text", "regression"): ("blind_statistics", "blind_statistics"),
    ("text", "ngrams"): ("ngram", "ngram"),
}
"""What a reader is called in `benchmark.sources`: of the model, of the reference."""
_RESAMPLES = 1000
_MOST_CLASSES = 100
_ARTEFACT = "reader"
_VERSION = 1  # of what `Reader.save` writes
_NUMBERS = "reader.safetensors"
_OF_VOTES = (
    *("sequence_ids", "true", "predicted", "seeds", "probabilities", "scores", "score_seeds"),
    "groups",
)


class InNats(Estimate):
    """A figure in nats, with its interval."""

    def __str__(self) -> str:
        """Print it: `0.025 nats [−0.006, 0.055]`."""
        if self.value is None or self.value != self.value:
            return super().__str__()
        ends = ", ".join(nats(one) for one in (self.low, self.high) if one is not None)
        return f"{nats(self.value)} nats" + (f" [{ends}]" if ends else "")


class Fitted(NamedTuple):
    """One training, and what it says of the evaluation windows.

    `predicted` are class indices, int64 (epochs, n), every epoch where the preset counts them all;
    `probabilities` float32 (n, classes), of the final weights.
    """

    trained: TrainedCnn
    predicted: torch.Tensor
    probabilities: torch.Tensor


def fit_cnns(
    training: MapSource,
    wanted: Sequence[Wanted],
    evaluation: MapSource,
    *,
    n_classes: int,
    preset: str,
    prefix: int,
    scaling: Scaling | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
) -> list[Fitted]:
    """Train CNNs as one and ask them about the evaluation maps; otherwise as `train_cnns`."""
    by_epoch: list[list[torch.Tensor]] = []

    def after_epoch(_: int, trained: Sequence[TrainedCnn]) -> None:
        logits = predict_together(trained, evaluation)
        by_epoch.append([one.argmax(dim=1) for one in logits])

    trained = train_cnns(
        training,
        wanted,
        n_classes=n_classes,
        preset=PRESETS[preset],
        prefix=prefix,
        scaling=scaling,
        on_epoch=after_epoch if PRESETS[preset].scores_every_epoch else None,
        device=device,
        precision=precision,
    )
    final = predict_together(trained, evaluation)
    epochs = by_epoch or [[one.argmax(dim=1) for one in final]]
    return [
        Fitted(one, torch.stack(predicted), logits.softmax(dim=1))
        for one, logits, *predicted in zip(trained, final, *epochs, strict=True)
    ]


@dataclass(frozen=True, repr=False)
class Reader:
    """Trained CNNs, or a regression, and how well they tell the classes of unseen windows apart.

    Trainings that are not above chance on their own training windows do not count, as in a study;
    where none is, there is no figure.

    Attributes:
        classes: in the order of the class indices.
        sample: one row a window that was used: `sequence_id`, `class`, `split` (train or eval),
            `group`.
        did_train: whether each training is above chance on its own training windows.
        votes: the predictions of those that are, as the benchmark holds them; of all where none is.
        pool: what it sees of a layer's heads; empty of the text.
        reads: ``attention`` or ``text``.
        kind: ``cnn``, ``regression`` or ``ngrams``.
        cnns: the trained networks, one a seed; empty of other kinds.
    """

    classes: tuple[str, ...]
    sample: pl.DataFrame
    did_train: tuple[bool, ...]
    votes: Votes = field(repr=False)
    reads: Literal["attention", "text"]
    kind: Kind
    pool: str
    training_min_f1: float
    cnns: tuple[TrainedCnn, ...] = field(default=(), repr=False)
    seen: str = field(default="", repr=False)  # digest of the tokens of the evaluation windows
    scores: ScoreEstimates = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Score the evaluation windows once."""
        votes = self.votes
        found = estimate_scores(
            votes.predicted,
            votes.true,
            n_classes=len(self.classes),
            seed=0,
            n_resamples=_RESAMPLES,
            groups=votes.groups,
        )
        object.__setattr__(self, "scores", found)

    @property
    def min_f1(self) -> Estimate:
        """Smallest F1 of any class on the evaluation windows, with its 95 % interval by group."""
        return self.scores.min_f1 if any(self.did_train) else NO_ESTIMATE

    @property
    def f1(self) -> dict[str, Estimate]:
        """F1 of each class."""
        found = self.scores.f1 if any(self.did_train) else [NO_ESTIMATE] * len(self.classes)
        return dict(zip(self.classes, found, strict=True))

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts (classes, classes), rows true, summed over trainings and counted epochs."""
        votes = self.votes
        return confusion_matrix(votes.true, votes.predicted, len(self.classes))

    def predict(self, maps: Maps) -> pl.DataFrame:
        """Class and probabilities of other windows, the mean over what is trained.

        Returns:
            One row a window, in order: `sequence_id`, `class` (Enum) and a column float32 a class.

        Raises:
            UserError: maps of another shape, or a reader without CNNs.
        """
        self._check(maps)
        logits = [predict_logits(one, maps.source).softmax(dim=1) for one in self._trained()]
        shares = torch.stack(logits).mean(dim=0).numpy()
        names = pl.Series([self.classes[k] for k in shares.argmax(axis=1)], dtype=pl.String)
        columns = {"sequence_id": maps.sequence_id, CLASS: names.cast(pl.Enum(self.classes))}
        return pl.DataFrame(columns | dict(zip(self.classes, shares.T, strict=True)))

    def decisiveness(
        self,
        maps: Maps,
        *,
        attribution: Literal["gradient", "guided", "integrated", "occlusion"] = "gradient",
        correct_only: bool = True,
    ) -> npt.NDArray[np.float32]:
        """Where in the attention each class is decided: Δ, the mean over what is trained.

        Args:
            maps: of the windows that the reader was fitted on; the evaluation windows count.
            attribution: how the CNN's evidence is found; the last two need Captum.
            correct_only: only windows that the CNN labels correctly.

        Returns:
            Fractions in [0, 1], float32 (classes, layers, query, key).

        Raises:
            UserError: maps of other windows or another shape, or a reader without CNNs.

        Source: arXiv 2508.02573, section 5; see `localize.delta`.
        """
        self._check(maps)
        asked = self.sample.filter(pl.col("split") == "eval")
        places = {int(one): at for at, one in enumerate(maps.sequence_id)}
        rows = [places.get(one, -1) for one in asked["sequence_id"]]
        if -1 in rows:
            raise UserError(
                f"maps: evaluation window {asked['sequence_id'][rows.index(-1)]} is not among "
                "them. Give the maps that the reader was fitted on."
            )
        asked = asked.with_columns(place=pl.Series(rows))
        if _digest(maps.take(rows)) != self.seen:
            raise UserError(
                "maps: of other tokens than the reader was fitted on. Give the maps of its windows."
            )
        halves = in_halves(asked)  # as a study, which compares them
        with one_thread():
            found = [
                pooled(
                    [self._delta_of(one, maps, own, attribution, correct_only) for own in halves]
                )
                for one in self._trained()
            ]
        return average(found).delta.numpy()

    def save(self, folder: str | Path) -> Path:
        """Keep it in a new or empty folder, which is given back: safetensors and JSON, no pickle.

        Raises:
            UserError: the folder holds something, or cannot be written to.
            NoRoomError: the disk is full.
        """
        folder = as_path(folder, "folder")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: is not empty. Choose another folder for the reader.")
        made_folder(folder)
        numbers = {
            "sample.sequence_id": self.sample["sequence_id"].to_numpy(),
            "sample.class": _codes(self.sample, self.classes),
            "sample.is_training": (self.sample["split"] == "train").to_numpy(),
            "sample.group": self.sample["group"].to_numpy(),
            **{f"votes.{name}": getattr(self.votes, name) for name in _OF_VOTES},
        }
        files = {_NUMBERS: save({name: np.ascontiguousarray(one) for name, one in numbers.items()})}
        files |= {_cnn_file(number): pack_cnn(one) for number, one in enumerate(self.cnns)}
        facts = {name: getattr(self, name) for name in _ReaderFacts.__annotations__}
        facts |= {"did_train": list(map(bool, self.did_train))}
        Store(folder).put(_ARTEFACT, files, version=_VERSION, **facts)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Reader":
        """Read what `save` kept: it predicts what the saved one predicts, bit for bit.

        Raises:
            UserError: no reader there, or one of another version.
            DamagedDataError: a file cannot be read, or was changed.
        """
        store = Store(as_path(folder, "folder"), remedy=lambda _: "fit the reader again")
        record = store.record(_ARTEFACT)
        if record.get("version") != _VERSION:
            raise UserError(f"{folder}: a reader of another mnemoscope. Fit it again.")
        facts = store.record(_ARTEFACT, shape=_ReaderFacts)
        numbers = store.path(_ARTEFACT, _NUMBERS)
        n_cnns = len(facts["files"]) - 1
        trained = [load_cnn(store.path(_ARTEFACT, _cnn_file(one))) for one in range(n_cnns)]
        try:
            found, classes = load_file(numbers), tuple(facts["classes"])
            names = [classes[code] for code in found["sample.class"]]
            sides = ["train" if one else "eval" for one in found["sample.is_training"]]
            sample = {
                "sequence_id": found["sample.sequence_id"],
                CLASS: pl.Series(names, dtype=pl.Enum(classes)),
                "split": sides,
                "group": found["sample.group"],
            }
            votes = Votes(
                **{name: found[f"votes.{name}"] for name in _OF_VOTES}, n_classes=len(classes)
            )
            told = {name: facts[name] for name in _ReaderFacts.__annotations__}
            told |= {"classes": classes, "did_train": tuple(facts["did_train"])}
            return cls(sample=pl.DataFrame(sample), votes=votes, cnns=tuple(trained), **told)
        except (SafetensorError, LookupError, TypeError, ValueError) as error:
            raise DamagedDataError(
                f"{numbers}: not a whole reader ({first_line(error, 80)}). Fit it again."
            ) from error

    def _trained(self) -> Sequence[TrainedCnn]:
        """Those that are above chance in training; all where none is."""
        return [one for one in self.cnns if one.did_train] or self.cnns

    def _delta_of(
        self, trained: TrainedCnn, maps: Maps, rows: pl.DataFrame, attribution: str, correct: bool
    ) -> Decisiveness:
        own = maps.take(rows["place"].to_numpy())
        return decisiveness(
            trained,
            own.source,
            torch.from_numpy(_codes(rows, self.classes)),
            max_maps=own.pooled("max").source,
            attribution=attribution,
            correct_only=correct,
        )

    def _check(self, maps: Maps) -> None:
        if not len(check_maps(maps)):
            raise UserError("maps: of no window. Give at least one.")
        if not self.cnns:
            raise UserError("only CNNs predict and have a Δ: fit one (kind='cnn').")
        if self.reads == "text":
            raise UserError("a reader of the text alone: it has seen no maps. Fit one with ms.fit.")
        if maps.pool != self.pool:
            raise UserError(
                f"maps of pool {maps.pool!r}; the reader was fitted on {self.pool!r}. Give "
                f"maps.pooled({self.pool!r})."
            )
        network, (_, layers, length, _) = self.cnns[0].network, maps.shape
        if (layers, length) != (network.n_layers, network.length):
            raise UserError(
                f"maps: {layers} layers of {length} tokens; the reader was fitted on "
                f"{network.n_layers} of {network.length}. Give maps of the same model."
            )

    def __repr__(self) -> str:
        trained = "" if all(self.did_train) else ", not above chance in training"
        return f"Reader({', '.join(self.classes)}: min-F1 {self.min_f1}{trained})"

    def _repr_html_(self) -> str:
        counts = self.sample.group_by("split").len()
        sizes = dict(zip(counts["split"], counts["len"], strict=True))
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{percent(one.value)}</td><td>{_ends(one)}</td></tr>"
            for name, one in self.f1.items()
        )
        heads = "".join(f"<th>{escape(name)}</th>" for name in self.classes)
        counts_of = "".join(
            f"<tr><th>{escape(name)}</th>{''.join(f'<td>{n:,}</td>' for n in row)}</tr>"
            for name, row in zip(self.classes, self.confusion.tolist(), strict=True)
        )
        n_cnns = f"{len(self.cnns)} CNN{'' if len(self.cnns) == 1 else 's'}"
        said = n_cnns if self.cnns else f"a {self.kind} reader"
        return (
            f"<b>Min-F1 {escape(str(self.min_f1))}</b>: {said} of {self.reads}, trained on "
            f"{sizes.get('train', 0):,} windows, asked about {sizes.get('eval', 0):,}; guessing "
            f"gives {percent(1 / len(self.classes))}. Whether it is memory: <code>ms.excess</code>"
            f"<table><tr><th>class</th><th>F1</th><th>95 %</th></tr>{rows}</table>"
            "Confusion: a row a true class, a column a predicted one, summed over trainings"
            f"<table><tr><th></th>{heads}</tr>{counts_of}</table>"
        )


class _ReaderFacts(TypedDict):
    """Of a reader what is neither a tensor nor a table."""

    classes: list[str]
    did_train: list[bool]
    reads: Literal["attention", "text"]
    kind: Kind
    pool: str
    training_min_f1: float
    seen: str


def _cnn_file(number: int) -> str:
    return f"cnn-{number}.safetensors"


def _codes(rows: pl.DataFrame, classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """The index of the class of each row, (n,)."""
    codes = rows[CLASS].cast(pl.Enum(classes)).to_physical().cast(pl.Int64)
    return np.array(codes.to_list(), dtype=np.int64)


def in_halves(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Split every class in two halves; near duplicates (one group) stay together."""
    turn = pl.col("group").rank("dense").over("class") % 2
    return [rows.filter(turn == 1), rows.filter(turn == 0)]


def _ends(one: Estimate) -> str:
    if one.low is None or one.high is None:
        return "–"
    return f"{percent(one.low, unit=False)} to {percent(one.high, unit=False)}"


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
_Fit = TypeVar("_Fit", bound=Callable[..., Reader])
Labels = pl.Series | Sequence[str | None] | pl.DataFrame


def _with_defaults(function: _Fit) -> _Fit:
    """Show the parameters of `Fitting` one by one where a signature is asked for, as in `help`."""
    own = inspect.signature(function)
    kept = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
    further = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in _DEFAULTS.items()
    ]
    function.__signature__ = own.replace(parameters=[*kept, *further])  # type: ignore[attr-defined]
    return function


@_with_defaults
def fit(
    maps: Maps,
    labels: Labels,
    *,
    kind: Literal["cnn", "regression"] = "cnn",
    **given: Unpack[Fitting],
) -> Reader:
    """Train CNNs that tell the classes of windows apart by the model's attention.

    Args:
        maps: as `capture` gives them.
        labels: the class of each, such as ``windows["class"]``, in order; or a table with
            `sequence_id` and `class` (or one other column), in any order. Null is left out, and so
            is a map without a row. The order of the classes is that of an Enum's categories, else
            that of their names, Non-Memo first.
        kind: ``cnn``, or ``regression`` on statistics of the maps (mean and maximum over heads).
        groups: what must stay on one side of the split, such as ``windows["group"]``; near
            duplicates are found unless given.
        split: ``train``, ``eval`` or null for each; drawn unless given, the same number of every
            class for each side.
        preset: ``small``, for hundreds of windows a class; ``as_run`` (or ``as_written``, which
            differs in a study's grid alone), as arXiv 2508.02573 trains; ``rows``, of six
            statistics of each query.
        kernel: side of both convolutions.
        filters: channels of both.
        seed: one CNN a seed; of three or more a verdict takes sides.
        n_train: windows of every class to train on, at most; 4,000, or twice `n_eval`, unless
            given. Where a class has fewer, both sides shrink in proportion.
        n_eval: windows of every class to ask about, at most; half of `n_train` unless given.
        minimum: fewest windows of a class, both sides together.
        draw_seed: of the split.
        device: where CNNs train.
        progress: as in `scan`.

    Returns:
        A `Reader`: what it says of windows that it was not trained on.

    Raises:
        UserError: labels or groups of another number than the maps, fewer than two classes, or too
            few windows of one.
    """
    check_maps(maps)
    task = _prepared(maps, labels, kind, ("cnn", "regression"), given)
    if kind == "regression":
        return _fit_statistics(maps.pooled("both").source, maps, task, "attention")
    return _fit_cnns(maps.source, maps, task, maps.pool, "attention")


@_with_defaults
def fit_blind(
    windows: Any, labels: Labels | None = None, *, kind: Kind = "cnn", **given: Unpack[Fitting]
) -> Reader:
    """Train a reader of the text alone: what it tells apart needs no memory.

    Args:
        windows: a frame with `tokens` (and `class`, `group`), or maps, whose tokens are read.
        labels: as in `fit`; the column `class` unless given.
        kind: ``cnn`` on where tokens repeat, ``regression`` on statistics of that, or ``ngrams``.
        given: as in `fit`, by the same names; with the same, the same windows are drawn. `groups`
            is the column `group` unless given.

    Returns:
        A `Reader`.

    Raises:
        UserError: as `fit`; windows without classes.
    """
    if isinstance(windows, Maps):
        shown = windows
    else:
        table = as_table(windows)
        labels = table[CLASS] if labels is None and CLASS in table.columns else labels
        if given.get("groups") is None and "group" in table.columns:
            given["groups"] = table["group"]
        shown = Maps(read_windows(table, token_matrix(table), prefix_of(table, None)), "mean", {})
    if labels is None:
        raise UserError("labels: none given, and the windows have no column 'class'.")
    task = _prepared(shown, labels, kind, ("cnn", "regression", "ngrams"), given)
    if kind == "ngrams":
        return _fit_baseline(baselines.ngram_logits, shown.tokens, shown, task, "text")
    seen = baselines.blind_maps(shown.tokens)
    if kind == "regression":
        return _fit_statistics(seen, shown, task, "text")
    return _fit_cnns(seen, shown, task, "mean", "text")


# -- who is trained and asked -------------------------------------------------------------------


@dataclass(frozen=True)
class _Sides:
    """Positions of the windows on either side, and their classes."""

    classes: tuple[str, ...]
    sample: pl.DataFrame  # sequence_id, class, split, group; training first
    train: npt.NDArray[np.int64]
    evaluation: npt.NDArray[np.int64]  # by sequence id, as votes are kept
    codes: npt.NDArray[np.int64]  # of every window; -1 without a class
    groups: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Task:
    """What is to be trained, all of it checked: which windows, and how."""

    kind: Kind
    sides: _Sides
    seeds: list[int]
    preset: str
    kernel: int
    filters: int
    device: str
    progress: Shown


def _prepared(
    maps: Maps, labels: Labels, kind: Kind, kinds: tuple[Kind, ...], given: Fitting
) -> _Task:
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
    return _Task(kind, sides, seeds, *how, asked["device"], asked["progress"])


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
) -> _Sides:
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
    return _Sides(classes, sample, train, asked, codes, owners)


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


# -- training -----------------------------------------------------------------------------------


def _fit_cnns(
    source: MapSource, maps: Maps, task: _Task, pool: str, reads: Literal["attention", "text"]
) -> Reader:
    sides, setting = task.sides, CnnSetting(task.kernel, task.filters, pool)
    training, evaluation = (ChosenMaps(source, rows) for rows in (sides.train, sides.evaluation))
    labels = torch.from_numpy(sides.codes[sides.train])
    fits: list[Fitted] = []
    seeds, device = task.seeds, find_device(task.device)
    size = len(seeds) if trains_together(device) else 1
    with one_thread(), following(task.progress, "Training", len(seeds)) as counted:
        scaling = fit_scaling(training, PRESETS[task.preset], maps.n_prefix)
        for start in range(0, len(seeds), size):
            part = seeds[start : start + size]
            fits += fit_cnns(
                training,
                [Wanted(labels, setting, one) for one in part],
                evaluation,
                n_classes=len(sides.classes),
                preset=task.preset,
                prefix=maps.n_prefix,
                scaling=scaling,
                device=device,
            )
            counted.advance(len(part))
    history = [one.trained.history for one in fits]
    counted_seeds = [(one, k) for one, k in zip(fits, seeds, strict=True) if one.trained.did_train]
    counts, those = zip(*(counted_seeds or zip(fits, seeds, strict=True)), strict=True)
    votes = _votes(
        sides,
        np.concatenate([one.predicted.numpy() for one in counts]),
        np.stack([one.probabilities.numpy() for one in counts]),
        np.repeat(those, [len(one.predicted) for one in counts]),
        np.asarray(those),
    )
    return Reader(
        sides.classes,
        sides.sample,
        tuple(one.did_train for one in history),
        votes,
        reads,
        "cnn",
        maps.pool if reads == "attention" else "",
        float(np.mean([one.trained.history.train_min_f1 for one in counts])),
        tuple(one.trained for one in fits),
        _digest(maps.take(sides.evaluation)),
    )


def _digest(maps: Maps) -> str:
    """SHA-256 of the tokens of windows, in the order of their ids."""
    return hashlib.sha256(maps.tokens[np.argsort(maps.sequence_id)].tobytes()).hexdigest()


def _fit_statistics(
    source: MapSource, maps: Maps, task: _Task, reads: Literal["attention", "text"]
) -> Reader:
    values = baselines.all_statistics(source, maps.tokens, maps.n_prefix).astype(np.float32)
    return _fit_baseline(baselines.classify_statistics, values, maps, task, reads)


def _fit_baseline(
    fit_one: Callable[..., baselines.BaselineFit],
    inputs: np.ndarray,
    maps: Maps,
    task: _Task,
    reads: Literal["attention", "text"],
) -> Reader:
    sides, seed, kind = task.sides, task.seeds[0], task.kind
    found = fit_one(inputs[sides.train], sides.codes[sides.train], inputs[sides.evaluation], seed)
    kept, seeds = found.probabilities.astype(np.float32)[None], np.array([seed])
    votes = _votes(sides, found.predicted[None], kept, seeds, seeds)
    did_train, seen = (found.did_train,), "both" if reads == "attention" else ""
    read = _digest(maps.take(sides.evaluation))
    return Reader(
        sides.classes,
        sides.sample,
        did_train,
        votes,
        reads,
        kind,
        seen,
        found.train_min_f1,
        seen=read,
    )


def _votes(
    sides: _Sides,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    seeds: np.ndarray,
    score_seeds: np.ndarray,
) -> Votes:
    """Predictions (runs, n) and probabilities (trainings, n, classes) as votes."""
    ids = sides.sample.filter(pl.col("split") == "eval")["sequence_id"].sort().to_numpy()
    return Votes(
        ids,
        sides.codes[sides.evaluation],
        predicted.astype(np.int64),
        seeds,
        len(sides.classes),
        probabilities=probabilities.mean(axis=0, dtype=np.float64),
        scores=probabilities,
        score_seeds=score_seeds,
        groups=sides.groups[sides.evaluation],
    )


# -- beside what needs no memory ----------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Excess:
    """What attention shows beyond readers that need no memory.

    Attributes:
        value: min-F1 of the model's reader minus the largest control's, with its 95 % interval over
            groups of windows and trainings, paired; fractions.
        over: the name of that control.
        gain: what the model's attention adds to text and reference, nats a window, with its 95 %
            interval; None without a reference. The verdict rests on it.
        kind: ``adds``, ``unclear``, ``nothing`` or ``cannot``.
        verdict: in a sentence.
        min_f1: of each reader, by its name.
    """

    value: Estimate
    over: str
    gain: InNats | None
    kind: str
    verdict: str
    min_f1: dict[str, Estimate]

    def __repr__(self) -> str:
        return f"Excess({self.value} over {self.over}: {self.verdict})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(str(one))}</td></tr>"
            for name, one in self.min_f1.items()
        )
        return (
            f"<b>{escape(self.verdict[:1].upper() + self.verdict[1:])}</b>"
            f"<table><tr><th>reader</th><th>min-F1</th></tr>{rows}</table>"
            f"Excess over {escape(self.over)}: {escape(str(self.value))}"
        )


def excess(
    readers: Mapping[str, Reader], *, seed: int = 0, n_resamples: int = _RESAMPLES
) -> Excess:
    """Hold a reader of the model's attention beside readers that cannot have any memory.

    Args:
        readers: ``"model"`` is what is asked. ``"reference"`` is a reader of the attention of a
            model that never saw these windows; all others read the text alone (`fit_blind`), under
            any name. All were fitted with the same windows, split and seeds.
        seed: of the bootstrap.
        n_resamples: of the bootstrap.

    Returns:
        An `Excess`. Without a reference there is no verdict: what looks like memory may be text
        that the blind readers do not see.

    Raises:
        UserError: no reader ``"model"``, no control, or readers of other windows or classes.
    """
    named = _sources(readers)
    model = readers["model"]
    whole_number(seed, "seed", least=0)
    whole_number(n_resamples, "n_resamples", least=100)
    wanted = model.sample.sort("sequence_id")
    for name, one in readers.items():
        if not one.sample.sort("sequence_id").equals(wanted):
            raise UserError(
                f"readers: '{name}' was fitted on other windows, classes, groups or sides than "
                "'model'. Fit both with the same labels, groups, sizes and draw_seed."
            )
        if one.seen != model.seen:
            raise UserError(
                f"readers: '{name}' read other tokens than 'model'. Give both the same windows: "
                "ms.capture(reference, maps), ms.fit_blind(maps, labels)."
            )
        if one.kind == model.kind == "cnn" and len(one.did_train) != len(model.did_train):
            raise UserError(f"readers: '{name}' has other seeds than 'model'. Give both the same.")
    controls = {source: readers[name] for name, source in named.items() if name != "model"}
    failed = tuple(source for source, one in controls.items() if not any(one.did_train))
    ran = {source: one.votes for source, one in controls.items() if source not in failed}
    own = named["model"]
    if not ran or not any(model.did_train):
        which = "'model'" if ran else "every control"
        raise UserError(
            f"readers: {which} is not above chance on its own training windows, so its figures "
            "mean nothing. Give more windows, or another preset."
        )
    found = measure_excess(model.votes, ran, n_resamples=n_resamples, seed=seed, reader=own)
    stand_ins = [one for name, one in ran.items() if TABLE[name].needs_reference]
    text = [one for name, one in ran.items() if not TABLE[name].needs_reference]
    whole = Estimate(found.value, found.low, found.high)
    note = why_no_interval(model.votes)
    n_train = model.sample.filter(pl.col("split") == "train").height
    gain = None
    if stand_ins and note is None:
        gain = measure_gain(model.votes, stand_ins[0], text, n_trained=n_train)
    figures = BenchmarkFigures(
        model.classes,
        True,
        f1=tuple(model.scores.f1),
        gain=gain,
        excess=whole,
        n_trainings=found.n_trainings,
        controls=tuple(controls),
        failed_controls=failed,
        training_min_f1=model.training_min_f1,
        interval_note=note,
        reader="CNN" if model.kind == "cnn" else "regression",
    )
    given = give_verdict(figures)
    by_source = {source: name for name, source in named.items()}
    return Excess(
        whole,
        by_source[found.strongest],
        None if gain is None else InNats(gain.value, gain.low, gain.high),
        given.kind,
        given.sentence,
        {name: one.min_f1 for name, one in readers.items()},
    )


def _sources(readers: Mapping[str, Reader]) -> dict[str, str]:
    """What each reader is called in the benchmark's table of sources."""
    if not isinstance(readers, Mapping) or not all(
        isinstance(one, Reader) for one in readers.values()
    ):
        raise UserError("readers: give them by their names: {'model': reader, 'blind': blind}.")
    if "model" not in readers or len(readers) < 2:
        raise UserError(
            "readers: give 'model' and at least one control, 'reference' or one of ms.fit_blind."
        )
    found: dict[str, str] = {}
    for name, one in readers.items():
        if (name in ("model", "reference")) != (one.reads == "attention"):
            wanted = (
                "attention (ms.fit)" if name in ("model", "reference") else "text (ms.fit_blind)"
            )
            raise UserError(f"readers, '{name}': reads {one.reads} where {wanted} is needed.")
        source = _SOURCES[one.reads, one.kind][name == "reference"]
        if source in found.values():
            raise UserError(f"readers, '{name}': a second {one.kind} reader of {one.reads}.")
        found[name] = source
    return found
