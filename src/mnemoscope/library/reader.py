"""Train readers that tell classes apart by attention, or by text alone.

A reader is what is trained: CNNs, or a regression on a few statistics of the maps. What it shows is
memory only as far as it is above readers that cannot have any, see `library.excess`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from typing_extensions import TypedDict

from mnemoscope.benchmark import baselines
from mnemoscope.benchmark.excess import Votes
from mnemoscope.cnn.inputs import Scaling, fit_scaling
from mnemoscope.cnn.metrics import ScoreEstimates, confusion_matrix, estimate_scores
from mnemoscope.cnn.presets import PRESETS, CnnSetting, Precision
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
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import DamagedDataError, UserError, first_line
from mnemoscope.files import as_path, made_folder
from mnemoscope.library.fitting import Fitting, Kind, Labels, Sides, Task, prepare, with_defaults
from mnemoscope.library.given import as_table, following, prefix_of
from mnemoscope.library.maps import Maps, check_maps, read_windows
from mnemoscope.library.sequences import CLASS
from mnemoscope.lm.fine_tuning import one_thread
from mnemoscope.lm.placement import find_device
from mnemoscope.localize.delta import Decisiveness, average, decisiveness, pooled
from mnemoscope.maps.views import ChosenMaps, MapSource
from mnemoscope.stats import NO_ESTIMATE, Estimate
from mnemoscope.store import Store
from mnemoscope.words import percent

_RESAMPLES = 1000
_ARTEFACT = "reader"
_VERSION = 1  # of what `Reader.save` writes
_NUMBERS = "reader.safetensors"
_OF_VOTES = (
    *("sequence_ids", "true", "predicted", "seeds", "probabilities", "scores", "score_seeds"),
    "groups",
)


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


@with_defaults
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
    task = prepare(maps, labels, kind, ("cnn", "regression"), given)
    if kind == "regression":
        return _fit_statistics(maps.pooled("both").source, maps, task, "attention")
    return _fit_cnns(maps.source, maps, task, maps.pool, "attention")


@with_defaults
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
    task = prepare(shown, labels, kind, ("cnn", "regression", "ngrams"), given)
    if kind == "ngrams":
        return _fit_baseline(baselines.ngram_logits, shown.tokens, shown, task, "text")
    seen = baselines.blind_maps(shown.tokens)
    if kind == "regression":
        return _fit_statistics(seen, shown, task, "text")
    return _fit_cnns(seen, shown, task, "mean", "text")


# -- training -----------------------------------------------------------------------------------


def _fit_cnns(
    source: MapSource, maps: Maps, task: Task, pool: str, reads: Literal["attention", "text"]
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
    source: MapSource, maps: Maps, task: Task, reads: Literal["attention", "text"]
) -> Reader:
    values = baselines.all_statistics(source, maps.tokens, maps.n_prefix).astype(np.float32)
    return _fit_baseline(baselines.classify_statistics, values, maps, task, reads)


def _fit_baseline(
    fit_one: Callable[..., baselines.BaselineFit],
    inputs: np.ndarray,
    maps: Maps,
    task: Task,
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
    sides: Sides,
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
