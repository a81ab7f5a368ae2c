"""What of a teacher's memorized text does a distilled student reproduce, beside a control student?

Source: LLAVADI, Xu et al. 2024, arXiv 2407.19409, which compares losses of distillation by what
the student can do; here by what it remembers. The study's model is the teacher. The control is a
student of the same texts, seed and shape that never asked the teacher (`mnemoscope distill
--losses data`): what both reproduce any student would guess or learn from the texts. Reproduced or
not is coarse for a small student, so the log-probability of the suffix stands beside it: a
student's gain is by how much it finds a text likelier than the control does, and memory passed on
shows as a larger gain where the teacher was trained than on unseen text of the same kind.
Run it: mnemoscope analyze distilled STUDY --student STUDENT --control CONTROL
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.figures import Chart, series_of
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.rows import (
    categories_of,
    draw_rows,
    keep_blocks,
    seen_in_training,
)
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.progress import Progress
from mnemoscope.stats import (
    Estimate,
    Floats,
    draw_within,
    estimate_of,
    n_groups,
    resampled_difference,
    resampled_mean,
    separation,
    share_true,
)
from mnemoscope.taxonomy.names import NON_MEMO
from mnemoscope.words import ranged

if TYPE_CHECKING:
    from torch import Tensor

    from mnemoscope.lm.model import LanguageModel

TEACHER = "teacher"
UNSEEN, UNSEEN_RIGHT = "unseen", "unseen, reproduced"
_KINDS = "Non-Memo, Guess, Recall"
_PARTS = ("embedding", "qk", "values", "output", "mlp", "norms", "unembedding")
_MAPS_BLOCK = 64

Bools = npt.NDArray[np.bool_]


class Settings(AnalysisSettings):
    """Settings of `distilled`."""

    per_class: int = Field(default=500, ge=2, description="Sequences of a class at most.")
    minimum: int = Field(default=10, ge=2, description="Sequences that a class needs.")
    n_maps: int = Field(
        default=60, ge=0, description="Sequences of a kind whose attention is compared; 0: none."
    )
    n_grafted: int = Field(
        default=200, ge=0, description="Sequences that grafts are tried on; 0: no grafts."
    )
    n_resamples: int = Field(default=500, ge=20, description="Resamples behind an interval.")


class Judged(NamedTuple):
    """What a model makes of each sequence: reproduced, and nats of a suffix token, (n,) each."""

    right: Bools
    logprob: Floats


def divergence_of_maps(first: "Tensor", second: "Tensor") -> "Tensor":
    """Jensen-Shannon divergence of rows of attention, nats, mean over queries: (...,).

    Maps (..., query, key), each row scaled to sum 1; the first query has one key to look at and is
    left out.
    """
    own, theirs = (
        one[..., 1:, :].double() / one[..., 1:, :].double().sum(-1, keepdim=True).clamp_min(1e-12)
        for one in (first, second)
    )
    middle = (own + theirs) / 2
    parts = [
        (one * ((one / middle).clamp_min(1e-300).log())).nan_to_num(0) for one in (own, theirs)
    ]
    return sum(parts).sum(-1).mean(-1) / 2  # type: ignore[union-attr]


# -- the analysis ---------------------------------------------------------------------------


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Ask teacher, control (the first of `others`) and students for the same sequences.

    Raises:
        UserError: no student beside the control, or no class with enough sequences.
    """
    if len(inputs.others) < 2:
        raise UserError(
            "analyze distilled: a student and a control are needed. Give both: --student MODEL "
            "--control MODEL."
        )
    rows, classes, is_known = _chosen(inputs, settings)
    near = inputs.near_duplicates(rows["sequence_id"])
    (control_name, control), *students = inputs.other_models()
    named = {TEACHER: inputs.model(), control_name: control, **dict(students)}
    judged = {name: _judge(inputs, lm, rows, name) for name, lm in named.items()}
    shares = _shares(rows, classes, judged, control_name, near, settings)
    maps = _agreement(inputs, named, control_name, rows, settings)
    grafts, gaps = _grafts(inputs, named, control_name, rows, settings)
    frames = {"shares": shares, "sequences": _by_sequence(rows, classes, judged)}
    frames |= {
        name: one for name, one in (("maps", maps), ("grafts", grafts)) if not one.is_empty()
    }
    return AnalysisResult(
        sentence=_sentence(shares, control_name),
        frames=frames,
        figures=tuple(_figures(shares, maps)),
        further=tuple(_further(shares, grafts, control_name, gaps, is_known)),
    )


def _chosen(
    inputs: AnalysisInputs, settings: Settings
) -> tuple[pl.DataFrame, dict[str, Bools], bool]:
    """Rows with `kind` and `seen`, which of them each class holds, and whether `seen` is known.

    A class of the study's taxonomies holds what the teacher reproduces and was trained on. Where
    duplicates are not counted, or count none unseen, what it does not reproduce is taken for that.
    """
    table = inputs.table.filter(pl.col("is_memorized").is_not_null())
    is_right = table["is_memorized"]
    seen = seen_in_training(table).fill_null(True)
    if not (is_known := int((~seen & ~is_right).sum()) >= settings.minimum):
        seen = is_right
    kind = categories_of(table, _KINDS).cast(pl.String).str.split("[").list.first().alias("kind")
    table = table.with_columns(kind, seen.alias("seen"))
    assert inputs.labels is not None
    labels = table.select("sequence_id").join(
        inputs.labels, on="sequence_id", how="left", maintain_order="left"
    )
    members: dict[str, pl.Series] = {}
    for taxonomy in labels.columns[1:]:
        for name in labels[taxonomy].drop_nulls().unique().sort():
            if name != NON_MEMO and name not in members:
                members[name] = (labels[taxonomy] == name).fill_null(False) & is_right & seen
    members[UNSEEN_RIGHT] = is_right & ~seen
    members[UNSEEN] = ~is_right & ~seen
    drawn = {
        name: draw_rows(table.filter(here), settings.per_class, settings.seed)["sequence_id"]
        for name, here in members.items()
        if here.sum() >= settings.minimum
    }
    if UNSEEN not in drawn or not set(drawn) - {UNSEEN, UNSEEN_RIGHT}:
        raise UserError(
            f"analyze distilled: no class, or not '{UNSEEN}', has {settings.minimum} sequences. "
            "Add sequences, or lower it with --set minimum=N."
        )
    chosen = table.filter(pl.col("sequence_id").is_in(pl.concat(list(drawn.values())).implode()))
    # A row drawn for one class is in every class that it belongs to.
    within = {name: table.filter(members[name])["sequence_id"].implode() for name in drawn}
    classes = {name: chosen["sequence_id"].is_in(ids).to_numpy() for name, ids in within.items()}
    return chosen, classes, is_known


def _judge(inputs: AnalysisInputs, lm: "LanguageModel", rows: pl.DataFrame, label: str) -> Judged:
    """Whether a model reproduces each row, and how likely it finds its suffix; kept in blocks."""
    from mnemoscope.lm.probe import teacher_forced

    def make(block: pl.DataFrame, progress: Progress) -> pl.DataFrame:
        found = teacher_forced(
            lm, token_matrix(block), batch_size=inputs.batch_size, prefix=inputs.prefix
        )
        progress.advance(block.height)
        return block.select("sequence_id").with_columns(
            pl.Series("right", found.is_right.all(axis=1)),
            pl.Series("logprob", found.logprobs.mean(axis=1, dtype=np.float64)),
        )

    basis = {"prefix": inputs.prefix}
    found = keep_blocks(
        inputs, lm, rows, "judged", make, label=f"Asking {label}", basis=lambda _: basis
    )
    return Judged(found["right"].to_numpy(), found["logprob"].to_numpy())


def _by_sequence(
    rows: pl.DataFrame, classes: Mapping[str, Bools], judged: Mapping[str, Judged]
) -> pl.DataFrame:
    """One row a sequence and model."""
    held = np.array([*classes.values()]).T
    names = [[one for one, here in zip(classes, row, strict=True) if here] for row in held]
    base = rows.select("sequence_id", "kind", "seen").with_columns(pl.Series("classes", names))
    return pl.concat(
        base.with_columns(
            pl.lit(name).alias("model"),
            pl.Series("reproduced", one.right),
            pl.Series("logprob", one.logprob),
        )
        for name, one in judged.items()
    )


def _shares(
    rows: pl.DataFrame,
    classes: Mapping[str, Bools],
    judged: Mapping[str, Judged],
    control: str,
    near: npt.NDArray[np.int64] | None,
    settings: Settings,
) -> pl.DataFrame:
    """Each model and class: share reproduced, beside the control, gain, and what the gain tells."""
    kinds, seen = rows["kind"].fill_null("").to_numpy(), rows["seen"].to_numpy()
    base, lines = judged[control], []
    for name, one in judged.items():
        gain = one.logprob - base.logprob
        for label, here in classes.items():
            owners = None if near is None else near[here]
            line: dict[str, object] = {"model": name, "class": label, "n": int(here.sum())}
            line["n_groups"] = n_groups(owners)
            line |= share_true(one.right[here], owners).columns("share", ends="")
            above = told = Estimate(None)
            added = Estimate(None)
            if name != control:
                above = resampled_difference(one.right[here], base.right[here], owners)
                added = resampled_mean(gain[here], owners)
                if label not in (UNSEEN, UNSEEN_RIGHT):
                    told = _tells(
                        gain, here, ~seen & (kinds == _usual(kinds[here])), near, settings
                    )
            line |= above.columns("above") | added.columns("gain") | told.columns("auc")
            lines.append(line)
    floats = [one for one in lines[0] if one not in ("model", "class", "n", "n_groups")]
    return pl.DataFrame(lines, schema_overrides=dict.fromkeys(floats, pl.Float64)).with_columns(
        pl.col(floats).fill_nan(None)
    )


def _usual(values: npt.NDArray[np.object_]) -> str:
    """The commonest value."""
    names, counts = np.unique(values.astype(str), return_counts=True)
    return str(names[counts.argmax()])


def _tells(
    gain: Floats,
    here: Bools,
    unseen: Bools,
    near: npt.NDArray[np.int64] | None,
    settings: Settings,
) -> Estimate:
    """AUC of a class against unseen sequences of its kind, by the gain over the control."""
    if unseen.sum() < settings.minimum:
        return Estimate(None)
    both = here | unseen
    found = separation(
        -gain[both],
        here[both],
        seed=settings.seed,
        n_resamples=settings.n_resamples,
        groups=None if near is None else near[both],
    )
    return Estimate(found.auc, found.auc_low, found.auc_high)


def _agreement(
    inputs: AnalysisInputs,
    models: "Mapping[str, LanguageModel]",
    control: str,
    rows: pl.DataFrame,
    settings: Settings,
) -> pl.DataFrame:
    """How far each student's attention is from the teacher's, of sequences seen and unseen."""
    from mnemoscope.lm.attention import capture_pooled
    from mnemoscope.lm.probe import matched_layers

    if not settings.n_maps:
        return pl.DataFrame()
    sides = [
        (name, draw_rows(rows.filter(rule), settings.n_maps, settings.seed))
        for name, rule in (("seen", pl.col("seen")), (UNSEEN, ~pl.col("seen")))
    ]
    teacher, lines = models[TEACHER], []
    for side, part in sides:
        tokens = token_matrix(part)
        owners = inputs.near_duplicates(part["sequence_id"])
        found: dict[str, Floats] = {name: np.empty((part.height, 2)) for name in models}
        for start in range(0, part.height, _MAPS_BLOCK):
            block = tokens[start : start + _MAPS_BLOCK]

            def mean_maps(lm: "LanguageModel", block: npt.NDArray[np.int32] = block) -> "Tensor":
                import torch

                batches = capture_pooled(lm, block, batch_size=inputs.batch_size)
                return torch.cat([one.mean for one in batches])

            theirs = mean_maps(teacher)
            for name, lm in models.items():
                if name == TEACHER:
                    continue
                pairs = matched_layers(lm.n_layers, teacher.n_layers, "even")
                own = mean_maps(lm)[:, [one for one, _ in pairs]]
                other = theirs[:, [one for _, one in pairs]]
                squared = (own - other).double().square().mean((1, 2, 3))
                apart = divergence_of_maps(own, other).mean(1)
                found[name][start : start + len(block)] = np.stack([squared, apart], axis=1)
        for name in (one for one in models if one != TEACHER):
            line: dict[str, object] = {"model": name, "sequences": side, "n": part.height}
            line["n_groups"] = n_groups(owners)
            for number, measure in enumerate(("mse", "js")):
                own_values, base = found[name][:, number], found[control][:, number]
                line |= resampled_mean(own_values, owners).columns(measure)
                closer = (
                    Estimate(None)
                    if name == control
                    else resampled_difference(base, own_values, owners)
                )
                line |= closer.columns(f"{measure}_closer")
            lines.append(line)
    floats = [one for one in lines[0] if one.startswith(("mse", "js"))]
    frame = pl.DataFrame(lines, schema_overrides=dict.fromkeys(floats, pl.Float64))
    return frame.with_columns(pl.col(floats).fill_nan(None))


def _grafts(
    inputs: AnalysisInputs,
    models: "Mapping[str, LanguageModel]",
    control: str,
    rows: pl.DataFrame,
    settings: Settings,
) -> tuple[pl.DataFrame, list[str]]:
    """Put parts of the control into each student of its shape: is the gain on seen text lost?

    Of sequences that cannot be guessed, seen and unseen; beside each part a random change of equal
    norm.
    """
    from mnemoscope.lm.graft import Pair, graft_parts
    from mnemoscope.lm.probe import suffix_logprobs

    if not settings.n_grafted:
        return pl.DataFrame(), []
    some = rows.filter(pl.col("kind") == "Recall")
    some = pl.concat(
        draw_rows(some.filter(pl.col("seen") == side), settings.n_grafted // 2, settings.seed)
        for side in (True, False)
    )
    seen = some["seen"].to_numpy()
    if min(seen.sum(), (~seen).sum()) < settings.minimum:
        return pl.DataFrame(), ["Too few sequences that cannot be guessed for grafts."]
    tokens, near = token_matrix(some), inputs.near_duplicates(some["sequence_id"])
    drawn = draw_within(
        ~seen, np.random.default_rng(settings.seed), settings.n_resamples, groups=near
    )

    def logprobs(lm: "LanguageModel") -> Floats:
        found = suffix_logprobs(lm, tokens, batch_size=inputs.batch_size, prefix=inputs.prefix)
        mean: Floats = found.mean(axis=1, dtype=np.float64)
        return mean

    def specific(lost: Floats) -> Estimate:
        """Mean loss of seen sequences less that of unseen ones."""
        weights = np.concatenate([np.ones((1, len(lost)), dtype=np.int32), drawn])
        sides = [weights[:, one] for one in (seen, ~seen)]
        of_seen, of_unseen = (
            side @ lost[one] / side.sum(axis=1)
            for side, one in zip(sides, (seen, ~seen), strict=True)
        )
        figures = of_seen - of_unseen
        return estimate_of(float(figures[0]), figures[1:], 0.025)

    lines, gaps = [], []
    for name, lm in models.items():
        if name in (TEACHER, control):
            continue
        try:
            pair = Pair(lm.model, models[control].model)
        except UserError:
            gaps.append(f"{name}: of another shape than the control, so no grafts.")
            continue
        own = logprobs(lm)
        known = {one.rpartition(".")[2] for one in graft_parts(lm.model)}
        for part in ("all", *(one for one in _PARTS if one in known)):
            with pair.grafted(part):
                lost = own - logprobs(lm)
            with pair.grafted(part, control="random", seed=settings.seed):
                random = own - logprobs(lm)
            line: dict[str, object] = {"model": name, "part": part, "n": len(own)}
            line |= {"lost_seen": lost[seen].mean(), "lost_unseen": lost[~seen].mean()}
            line |= dict(specific(lost).columns("specific"))
            lines.append(line | dict(specific(random).columns("random")))
    return pl.DataFrame(lines), gaps


# -- in words -------------------------------------------------------------------------------


def _students(shares: pl.DataFrame, control: str) -> list[str]:
    names = shares["model"].unique(maintain_order=True).to_list()
    return [one for one in names if one not in (TEACHER, control)]


def _headline(shares: pl.DataFrame) -> str:
    """The class that nobody should be able to guess."""
    names = shares["class"].unique(maintain_order=True).to_list()
    return next((one for one in names if one.startswith("Recall")), str(names[0]))


def _sentence(shares: pl.DataFrame, control: str) -> str:
    """The student that reproduces most of what cannot be guessed, else the one with most trace."""
    label = _headline(shares)
    of = {row["model"]: row for row in shares.filter(pl.col("class") == label).to_dicts()}
    students = _students(shares, control)
    told = {one: (of[one]["auc"] or 0) if of[one]["gain"] > 0 else 0 for one in students}
    best = max(students, key=lambda one: (of[one]["above"], told[one], of[one]["gain"]))
    row, many = of[best], f"of {len(students)}" if len(students) > 1 else ""
    base = ranged(of[control], "share", ends="", scale=100, unit=" %")
    if row["above"] > 0:
        own = ranged(row, "share", ends="", scale=100, unit=" %")
        most = f", which reproduces most {many}," if many else ""
        said = (
            f"Of the teacher's {label} sequences the student by {best}{most} reproduces {own}, the "
            f"control {base}: {ranged(row, 'above', scale=100, unit=' points')}"
        )
    else:
        said = (
            f"Of the teacher's {label} sequences no student{f' {many}' if many else ''} reproduces "
            f"more than the control, {base}"
        )
        if row["auc"] is not None:
            said += (
                f"; at best, what the student by {best} finds likelier than the control tells "
                "those that the teacher was trained on from unseen ones with ROC AUC "
                f"{ranged(row, 'auc', digits=3)}"
            )
    return f"{said}: {_verdict(row)}."


def _verdict(row: Mapping[str, object]) -> str:
    """Whether memory came along, by both intervals."""
    low, gain, auc = (row[f"{one}_low"] for one in ("above", "gain", "auc"))
    if not isinstance(low, float) or not isinstance(gain, float):
        return "too few groups of near duplicates to say"
    if low > 0:
        return "memorized text comes along"
    if gain > 0 and isinstance(auc, float) and auc > 0.5:
        return "a trace of the memorized text comes along, no text that the control lacks"
    return "nothing that can be told from the control"


def _further(
    shares: pl.DataFrame, grafts: pl.DataFrame, control: str, gaps: list[str], is_known: bool
) -> Iterator[str]:
    label = _headline(shares)
    for name in _students(shares, control):
        parts = []
        for row in shares.filter(model=name).iter_rows(named=True):
            if row["class"] == UNSEEN:
                continue
            shown = ranged(row, "share", ends="", scale=100, unit=" %")
            parts.append(
                f"{row['class']} {shown} ({ranged(row, 'above', scale=100, unit=' points')} "
                "above the control)"
            )
        here = shares.filter(pl.col("class") == label, model=name).row(0, named=True)
        told = "" if here["auc"] is None else f"; AUC {ranged(here, 'auc', digits=3)}"
        yield f"{name}: {', '.join(parts)}{told}."
    yield (
        "AUC: of the class against unseen sequences of its kind (guessable or not), by the "
        "log-probability of the suffix less the control's; .5 is chance. Sequences: "
        + ", ".join(
            f"{row['n']} {row['class']}"
            for row in shares.filter(model=TEACHER).iter_rows(named=True)
        )
        + "."
    )
    if not is_known:
        yield (
            "No sequence is counted to be unseen (duplicates 0): what the teacher does not "
            "reproduce is taken for it."
        )
    if not grafts.is_empty():
        parts_only = grafts.filter(pl.col("part") != "all")
        row = parts_only.row(int(parts_only["specific"].arg_max() or 0), named=True)
        yield (
            f"Grafts: the control's {row['part']} in the student by {row['model']} takes "
            f"{ranged(row, 'specific', digits=3)} nats a token more from seen text than from "
            f"unseen, a random change of equal norm {ranged(row, 'random', digits=3)}."
        )
    yield from gaps


def _figures(shares: pl.DataFrame, maps: pl.DataFrame) -> Iterator[Chart]:
    models = tuple(shares["model"].unique(maintain_order=True))
    classes = [one for one in shares["class"].unique(maintain_order=True) if one != UNSEEN]
    yield Chart(
        title="Share of the teacher's sequences that a student reproduces (95 % interval)",
        form="bars",
        x_names=models,
        percent=True,
        series=tuple(
            series_of(one, shares.filter(pl.col("class") == one), "share") for one in classes
        ),
    )
    told = shares.filter(pl.col("auc").is_not_null(), pl.col("model") != TEACHER)
    if not told.is_empty():
        names = told["model"].unique(maintain_order=True).to_list()
        yield Chart(
            title="ROC AUC of trained-on against unseen, by the gain over the control (95 % "
            "interval; .5: chance)",
            form="bars",
            x_names=tuple(names),
            series=tuple(
                series_of(one, told.filter(pl.col("class") == one), "auc")
                for one in told["class"].unique(maintain_order=True)
            ),
        )
    if not maps.is_empty():
        seen = maps.filter(sequences="seen")
        yield Chart(
            title="Jensen-Shannon divergence of attention from the teacher's, nats (95 % interval)",
            form="bars",
            x_names=tuple(seen["model"]),
            series=tuple(
                series_of(f"{side} sequences", maps.filter(sequences=side), "js")
                for side in maps["sequences"].unique(maintain_order=True)
            ),
        )
