"""What of a teacher's memorized text does a distilled student reproduce, beside a control student?

Source: LLAVADI, Xu et al. 2024, arXiv 2407.19409, which compares losses of distillation by what
the student can do; here by what it remembers. The study's model is the teacher. The control is a
student of the same texts, seed and shape that never asked the teacher (`mnemoscope distill
--losses data`): what both reproduce any student would guess or learn from the texts. Reproduced or
not is coarse for a small student, so the log-probability of the suffix stands beside it: a
student's gain is by how much it finds a text likelier than the control does, and memory passed on
shows as a larger gain where the teacher was trained than on unseen text of the same kind. Neither
side is chosen by what the teacher reproduces: what is easy for it would stand on one side alone.
Intervals of what is compared with the control hold for all students together (Bonferroni).
Run it: mnemoscope analyze distilled STUDY --student STUDENT --control CONTROL
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from mnemoscope import Estimate, UserError, graft_parts, grafted
from mnemoscope.plugin import (
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    LanguageModel,
    Progress,
    bars_by,
    capture_pooled,
    categories_of,
    draw_rows,
    draw_within,
    estimate_of,
    frame_of,
    keep_blocks,
    look_up,
    matched_layers,
    n_groups,
    ranged,
    resampled_auc,
    resampled_mean,
    rows_of,
    seen_in_training,
    share_true,
    teacher_forced,
    token_matrix,
)

_Floats = npt.NDArray[np.float64]

TEACHER = "teacher"
UNSEEN, UNSEEN_RIGHT = "unseen", "unseen, reproduced"
_KINDS = "Non-Memo, Guess, Recall"
_PARTS = ("embedding", "qk", "values", "output", "mlp", "norms", "unembedding")
_SAID = {"Recall": "that could not be guessed", "Guess": "that could be guessed"}
_CHANCE = 0.5  # ROC AUC of what tells nothing
_MAPS_BLOCK = 64

Bools = npt.NDArray[np.bool_]


class Judging(AnalysisSettings):
    """Settings of whatever judges students."""

    per_class: int = Field(default=500, ge=2, description="Sequences of a class at most.")
    minimum: int = Field(default=10, ge=2, description="Sequences that a class needs.")
    n_resamples: int = Field(default=500, ge=20, description="Resamples behind an interval.")


class Settings(Judging):
    """Settings of `distilled`."""

    n_maps: int = Field(
        default=60, ge=0, description="Sequences of a kind whose attention is compared; 0: none."
    )
    n_grafted: int = Field(
        default=200, ge=0, description="Sequences that grafts are tried on; 0: no grafts."
    )


class StudentScores(NamedTuple):
    """What a model makes of each sequence: reproduced, and nats of a suffix token, (n,) each."""

    right: Bools
    logprob: _Floats


def divergence_of_maps(first: Tensor, second: Tensor) -> Tensor:
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


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Every model once, maps of seen and unseen, and grafts into every student."""
    rows, _, _ = choose(inputs, settings)
    paired = rows.filter("paired")
    n_models = 1 + len(inputs.others)
    seen = int(paired["seen"].sum())
    maps = sum(min(settings.n_maps, one) for one in (seen, paired.height - seen))
    kept = paired.filter(kind="Recall")
    seen = int(kept["seen"].sum())
    sides = [min(settings.n_grafted // 2, one) for one in (seen, kept.height - seen)]
    grafted = sum(sides) if min(sides) >= settings.minimum else 0
    n_grafts = 1 + 2 * (1 + len(_PARTS))  # each finds the parts with a forward of both models
    grafts = n_grafts * (grafted + 2) + 1 if grafted else 0
    return n_models * (rows.height + maps) + (n_models - 2) * grafts


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Ask teacher, control (the first of `others`) and students for the same sequences.

    Raises UserError: no student beside the control, or no class with enough sequences.
    """
    if len(inputs.others) < 2:
        raise UserError(
            "analyze distilled: a student and a control are needed. Give both: --student MODEL "
            "--control MODEL."
        )
    rows, classes, is_known = choose(inputs, settings)
    near = inputs.near_duplicates(rows["sequence_id"])
    (control_name, control), *students = inputs.other_models()
    named = {TEACHER: inputs.model(), control_name: control, **dict(students)}
    judged = {name: _judge(inputs, lm, rows, name) for name, lm in named.items()}
    shares = shares_of(classes, judged, control_name, near)
    kinds = told_by_kind(rows, judged, control_name, near, settings) if is_known else pl.DataFrame()
    maps = _agreement(inputs, named, control_name, rows, settings)
    grafts, gaps = _grafts(inputs, named, control_name, rows, settings)
    frames = {"shares": shares, "sequences": by_sequence(rows, classes, judged)}
    frames |= {
        name: one
        for name, one in (("kinds", kinds), ("maps", maps), ("grafts", grafts))
        if not one.is_empty()
    }
    return AnalysisResult(
        sentence=sentence_of(shares, kinds, control_name),
        frames=frames,
        figures=tuple(_figures(shares, kinds, maps)),
        further=tuple(_further(shares, kinds, grafts, control_name, gaps, is_known)),
    )


def choose(
    inputs: AnalysisInputs, settings: Settings
) -> tuple[pl.DataFrame, dict[str, Bools], bool]:
    """Rows with `kind`, `seen`, `paired`; which each class holds; and whether `seen` is known.

    `paired` rows are drawn of each kind, seen and unseen, whatever the teacher reproduces. A class
    of the study's taxonomies holds what the teacher reproduces and was trained on. Where duplicates
    are not counted, or count none unseen, what it does not reproduce is taken for that.
    """
    table = inputs.table.filter(pl.col("is_memorized").is_not_null())
    is_right = table["is_memorized"]
    seen = seen_in_training(table).fill_null(True)
    if not (is_known := int((~seen & ~is_right).sum()) >= settings.minimum):
        seen = is_right
    kind = categories_of(table, _KINDS).cast(pl.String).str.split("[").list.first().alias("kind")
    table = table.with_columns(kind, seen.alias("seen"))
    assert inputs.labels is not None
    labels = look_up(table.select("sequence_id"), inputs.labels)
    members: dict[str, pl.Series] = {}
    for taxonomy in labels.columns[1:]:
        for name in labels[taxonomy].drop_nulls().unique().sort():
            if name != "Non-Memo" and name not in members:
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
    paired = pl.concat(
        draw_rows(part, settings.per_class, settings.seed)["sequence_id"]
        for part in table.drop_nulls("kind").partition_by("kind", "seen")
    )
    ids = pl.concat([*drawn.values(), paired])
    chosen = table.filter(pl.col("sequence_id").is_in(ids.implode())).with_columns(
        paired=pl.col("sequence_id").is_in(paired.implode())
    )
    # A row drawn for one class is in every class that it belongs to.
    within = {name: table.filter(members[name])["sequence_id"].implode() for name in drawn}
    classes = {name: chosen["sequence_id"].is_in(ids).to_numpy() for name, ids in within.items()}
    return chosen, classes, is_known


def _judge(
    inputs: AnalysisInputs, lm: LanguageModel, rows: pl.DataFrame, label: str
) -> StudentScores:
    """Whether a model reproduces each row, and how likely it finds its suffix; kept in blocks."""

    def make(block: pl.DataFrame, progress: Progress) -> pl.DataFrame:
        found = teacher_forced(
            lm, token_matrix(block), batch_size=inputs.batch_size, prefix=inputs.prefix
        )
        progress.advance(block.height)
        return block.select("sequence_id").with_columns(
            pl.Series("right", found.is_right.all(axis=1)),
            pl.Series("logprob", found.logprobs.mean(axis=1, dtype=np.float64)),
        )

    label = f"Asking {label}"
    found = keep_blocks(inputs, lm, rows, "judged", make, label=label, prefix=inputs.prefix)
    return StudentScores(found["right"].to_numpy(), found["logprob"].to_numpy())


def by_sequence(
    rows: pl.DataFrame, classes: Mapping[str, Bools], judged: Mapping[str, StudentScores]
) -> pl.DataFrame:
    """What every model makes of each row, which has `sequence_id`, `kind` and `seen`."""
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


def shares_of(
    classes: Mapping[str, Bools],
    judged: Mapping[str, StudentScores],
    control: str,
    near: npt.NDArray[np.int64],
) -> pl.DataFrame:
    """Each model and class: share reproduced, share above the control, and gain over it."""
    base, lines = judged[control], []
    n_judged = _n_students(judged)
    for name, one in judged.items():
        for label, here in classes.items():
            owners = near[here]
            line: dict[str, object] = {"model": name, "class": label, "n": int(here.sum())}
            line["n_groups"] = n_groups(owners)
            line |= {"share": share_true(one.right[here], owners)}
            above = added = Estimate(None)
            if name != control:
                more = one.right.astype(np.float64) - base.right
                above = resampled_mean(more[here], owners, n_judged=n_judged)
                added = resampled_mean(
                    (one.logprob - base.logprob)[here], owners, n_judged=n_judged
                )
            lines.append(line | {"above": above} | {"gain": added})
    return frame_of(lines)


def told_by_kind(
    rows: pl.DataFrame,
    judged: Mapping[str, StudentScores],
    control: str,
    near: npt.NDArray[np.int64],
    settings: Judging,
) -> pl.DataFrame:
    """Each student and kind: gain on seen and unseen text, and how well it tells them apart (AUC).

    Only rows that are `paired` count; kinds with too few of either side are left out.
    """
    lines: list[dict[str, object]] = []
    n_judged = _n_students(judged)
    for kind in rows["kind"].drop_nulls().unique().sort():
        here = (rows["paired"] & (rows["kind"] == kind).fill_null(False)).to_numpy()
        seen = rows["seen"].to_numpy()[here]
        if min(seen.sum(), (~seen).sum()) < settings.minimum:
            continue
        owners = near[here]
        generator, many = np.random.default_rng(settings.seed), settings.n_resamples * n_judged
        drawn = draw_within(~seen, generator, many, groups=owners)
        for name, one in judged.items():
            if name in (TEACHER, control):
                continue
            gain = (one.logprob - judged[control].logprob)[here]
            line: dict[str, object] = {"model": name, "kind": kind, "n_seen": int(seen.sum())}
            line |= {"n_unseen": int((~seen).sum()), "n_groups": n_groups(owners)}
            for column, side in (("gain", seen), ("gain_unseen", ~seen)):
                mean = resampled_mean(gain[side], owners[side], n_judged=n_judged)
                line |= {column: mean}
            auc = resampled_auc(gain, seen, drawn)
            told = estimate_of(float(auc[0]), auc[1:], 0.025 / n_judged)
            lines.append(line | {"auc": told})
    return frame_of(lines)


def _n_students(judged: Mapping[str, StudentScores]) -> int:
    return len(judged) - 2  # the teacher and the control are none


def _agreement(
    inputs: AnalysisInputs,
    models: Mapping[str, LanguageModel],
    control: str,
    rows: pl.DataFrame,
    settings: Settings,
) -> pl.DataFrame:
    """How far each student's attention is from the teacher's, of sequences seen and unseen."""
    if not settings.n_maps:
        return pl.DataFrame()
    sides = [
        (name, draw_rows(rows.filter(rule, pl.col("paired")), settings.n_maps, settings.seed))
        for name, rule in (("seen", pl.col("seen")), (UNSEEN, ~pl.col("seen")))
    ]
    teacher, lines = models[TEACHER], []
    for side, part in sides:
        tokens = token_matrix(part)
        owners = inputs.near_duplicates(part["sequence_id"])
        found: dict[str, _Floats] = {name: np.empty((part.height, 2)) for name in models}
        for start in range(0, part.height, _MAPS_BLOCK):
            block = tokens[start : start + _MAPS_BLOCK]

            def mean_maps(lm: LanguageModel, block: npt.NDArray[np.int32] = block) -> Tensor:
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
                line |= {measure: resampled_mean(own_values, owners)}
                closer = (
                    Estimate(None) if name == control else resampled_mean(base - own_values, owners)
                )
                line[f"{measure}_closer"] = closer
            lines.append(line)
    return frame_of(lines)


def _grafts(
    inputs: AnalysisInputs,
    models: Mapping[str, LanguageModel],
    control: str,
    rows: pl.DataFrame,
    settings: Settings,
) -> tuple[pl.DataFrame, list[str]]:
    """Put parts of the control into each student of its shape: is the gain on seen text lost?

    Sequences that cannot be guessed are asked, seen and unseen; beside each part stands a random
    change of equal norm. Intervals hold for all grafts together.
    """
    if not settings.n_grafted:
        return pl.DataFrame(), []
    some = rows.filter(pl.col("paired"), pl.col("kind") == "Recall")
    some = pl.concat(
        draw_rows(some.filter(pl.col("seen") == side), settings.n_grafted // 2, settings.seed)
        for side in (True, False)
    )
    seen = some["seen"].to_numpy()
    if min(seen.sum(), (~seen).sum()) < settings.minimum:
        return pl.DataFrame(), ["Too few sequences that cannot be guessed for grafts."]
    tokens, near = token_matrix(some), inputs.near_duplicates(some["sequence_id"])
    n_judged = (len(models) - 2) * (1 + len(_PARTS))
    generator, many = np.random.default_rng(settings.seed), settings.n_resamples * n_judged
    drawn = draw_within(~seen, generator, many, groups=near)

    def logprobs(lm: LanguageModel) -> _Floats:
        found = teacher_forced(lm, tokens, batch_size=inputs.batch_size, prefix=inputs.prefix)
        return np.asarray(found.logprobs.mean(axis=1, dtype=np.float64))

    def specific(lost: _Floats) -> Estimate:
        """Mean loss of seen sequences less that of unseen ones."""
        weights = np.concatenate([np.ones((1, len(lost)), dtype=np.int32), drawn])
        sides = [weights[:, one] for one in (seen, ~seen)]
        of_seen, of_unseen = (
            side @ lost[one] / side.sum(axis=1)
            for side, one in zip(sides, (seen, ~seen), strict=True)
        )
        figures = of_seen - of_unseen
        return estimate_of(float(figures[0]), figures[1:], 0.025 / n_judged)

    lines, gaps = [], []
    for name, lm in models.items():
        if name in (TEACHER, control):
            continue
        pair = (lm.model, models[control].model)
        try:
            with grafted(*pair, "all"):
                pass
        except UserError:
            gaps.append(f"{name}: of another shape than the control, so no grafts.")
            continue
        own = logprobs(lm)
        known = {one.rpartition(".")[2] for one in graft_parts(lm.model)}
        for part in ("all", *(one for one in _PARTS if one in known)):
            with grafted(*pair, part):
                lost = own - logprobs(lm)
            with grafted(*pair, part, control="random", seed=settings.seed):
                random = own - logprobs(lm)
            line: dict[str, object] = {"model": name, "part": part, "n": len(own)}
            line |= {"lost_seen": lost[seen].mean(), "lost_unseen": lost[~seen].mean()}
            line |= {"specific": specific(lost)}
            lines.append(line | {"random": specific(random)})
    return frame_of(lines), gaps


# -- in words -------------------------------------------------------------------------------


def _students(shares: pl.DataFrame, control: str) -> list[str]:
    names = shares["model"].unique(maintain_order=True).to_list()
    return [one for one in names if one not in (TEACHER, control)]


def _headline(names: pl.Series) -> str:
    """The class or kind that nobody should be able to guess."""
    every = names.unique(maintain_order=True).to_list()
    return next((one for one in every if one.startswith("Recall")), str(every[0]))


def sentence_of(shares: pl.DataFrame, kinds: pl.DataFrame, control: str) -> str:
    """What students reproduce beside the control, what they find likelier, and who inherits."""
    label = _headline(shares["class"])
    of = {row["model"]: row for row in rows_of(shares.filter(pl.col("class") == label))}
    students = _students(shares, control)
    many = f", most of {len(students)}," if len(students) > 1 else ""
    together = f", intervals that hold for all {len(students)} students" if many else ""
    best = max(students, key=lambda one: of[one]["above"].value)
    base = ranged(of[control]["share"], scale=100, unit=" %")
    if of[best]["above"].value > 0:
        own = ranged(of[best]["share"], scale=100, unit=" %")
        said = (
            f"Of the teacher's {label} sequences the student by {best}{many} reproduces {own}, the "
            f"control {base}: {ranged(of[best]['above'], scale=100, unit=' points')}"
        )
    else:
        of_many = f" of {len(students)}" if many else ""
        said = (
            f"Of the teacher's {label} sequences no student{of_many} reproduces more than the "
            f"control, {base}"
        )
    kind = "" if kinds.is_empty() else _headline(kinds["kind"])
    shown = kinds if kinds.is_empty() else kinds.filter(kind=kind)
    told = {row["model"]: row for row in rows_of(shown)}
    if told:
        # A student that finds seen text no likelier than the control does has inherited nothing.
        first = max(told, key=lambda one: (told[one]["gain"].value > 0, told[one]["auc"].value))
        said += (
            f"; at best, what the student by {first} finds likelier than the control tells {kind} "
            "text that the teacher was trained on from unseen text with ROC AUC "
            f"{ranged(told[first]['auc'], digits=3)}"
        )
    return f"{said}{together}: {_verdict(of, told, students)}."


def _over(row: Mapping[str, Any], name: str, bound: float) -> bool:
    low = row[name].low
    return low is not None and low > bound


def _under(row: Mapping[str, Any], name: str, bound: float) -> bool:
    high = row[name].high
    return high is not None and high < bound


def _verdict(
    of: Mapping[str, Mapping[str, Any]],
    told: Mapping[str, Mapping[str, Any]],
    students: list[str],
) -> str:
    """By which students memory came along, each judged by its own intervals."""
    if any(of[one]["above"].low is None for one in students):
        return "too few groups of near duplicates to say"
    if came := [one for one in students if _over(of[one], "above", 0)]:
        return f"memorized text comes along by {', '.join(came)}"
    above_chance = [one for one in told if _over(told[one], "auc", _CHANCE)]
    traced = [one for one in above_chance if _over(told[one], "gain", 0)]
    if traced:
        return (
            f"a trace of the memorized text comes along by {', '.join(traced)}, no text that the "
            "control lacks"
        )
    apart, undecided = [], [one for one in above_chance if not _under(told[one], "gain", 0)]
    if less := [one for one in students if _under(of[one], "above", 0)]:
        apart.append(f"fewer of these come out by {', '.join(less)} than in the control")
    if below := [one for one in above_chance if one not in undecided]:
        apart.append(
            f"{', '.join(below)} finds text that the teacher was trained on less likely than the "
            "control does, but unseen text even less likely, so the two differ in more than memory"
        )
    if undecided:
        apart.append(
            f"{', '.join(undecided)} tells such text from unseen text, but it cannot be told "
            "whether it finds it likelier than the control does"
        )
    if reversed_ := [one for one in told if _under(told[one], "auc", _CHANCE)]:
        apart.append(
            f"{', '.join(reversed_)} gains less on text that the teacher was trained on than on "
            "unseen text, so the two differ in more than memory"
        )
    if apart:
        comes = "it is not shown that memory comes along" if undecided else "no memory comes along"
        return f"{comes}; {'; '.join(apart)}"
    return "nothing that can be told from the control"


def further_lines(shares: pl.DataFrame, kinds: pl.DataFrame, control: str) -> Iterator[str]:
    """Of each student its shares and AUC; how many rows there are; what intervals hold for."""
    for name in _students(shares, control):
        parts = []
        for row in rows_of(shares.filter(model=name)):
            if row["class"] == UNSEEN:
                continue
            shown = ranged(row["share"], scale=100, unit=" %")
            parts.append(
                f"{row['class']} {shown} ({ranged(row['above'], scale=100, unit=' points')} "
                "above the control)"
            )
        told = "".join(
            f"; {row['kind']} AUC {ranged(row['auc'], digits=3)}"
            for row in rows_of(kinds.filter(model=name) if not kinds.is_empty() else kinds)
        )
        yield f"{name}: {', '.join(parts)}{told}."
    counts = rows_of(shares.filter(model=TEACHER))
    sizes = ", ".join(f"{row['n']} {row['class']}" for row in counts)
    yield f"Sequences: {sizes}."
    if (n := len(_students(shares, control))) > 1:
        yield (
            f"Intervals of points, gains and AUC hold for all {n} students together (Bonferroni), "
            "those of grafts for all grafts."
        )
    if not kinds.is_empty():
        said = ", ".join(
            f"{row['n_seen']} and {row['n_unseen']} {_SAID.get(row['kind'], row['kind'])}"
            for row in rows_of(kinds.unique("kind", maintain_order=True))
        )
        yield (
            "AUC: of text that the teacher was trained on against unseen text of its kind, "
            "reproduced or not, by the log-probability of the suffix less the control's; .5 is "
            f"chance. Seen and unseen: {said}."
        )


def _further(
    shares: pl.DataFrame,
    kinds: pl.DataFrame,
    grafts: pl.DataFrame,
    control: str,
    gaps: list[str],
    is_known: bool,
) -> Iterator[str]:
    yield from further_lines(shares, kinds, control)
    if not is_known:
        yield (
            "No sequence is counted to be unseen (duplicates 0): what the teacher does not "
            "reproduce is taken for it, and no AUC is given."
        )
    if not grafts.is_empty():
        parts_only = grafts.filter(pl.col("part") != "all")
        row = max(rows_of(parts_only), key=lambda one: one["specific"].value or -math.inf)
        yield (
            f"Grafts: the control's {row['part']} in the student by {row['model']} takes "
            f"{ranged(row['specific'], digits=3)} nats a token more from seen text than from "
            f"unseen, a random change of equal norm {ranged(row['random'], digits=3)}."
        )
    yield from gaps


def kind_charts(shares: pl.DataFrame, kinds: pl.DataFrame) -> Iterator[Chart]:
    """Shares by class and AUC by kind, a bar a model."""
    title = "Share of the teacher's sequences that a student reproduces (95 % interval)"
    of_classes = shares.filter(pl.col("class") != UNSEEN)
    yield bars_by(title, of_classes, "class", "share", at="model", percent=True)
    if not kinds.is_empty():
        title = (
            "ROC AUC of trained-on against unseen, by the gain over the control (interval for all "
            "students; .5: chance)"
        )
        both = kinds.with_columns(n=pl.col("n_seen") + pl.col("n_unseen"))
        yield bars_by(title, both, "kind", "auc", at="model")


def _figures(shares: pl.DataFrame, kinds: pl.DataFrame, maps: pl.DataFrame) -> Iterator[Chart]:
    yield from kind_charts(shares, kinds)
    if not maps.is_empty():
        title = "Jensen-Shannon divergence of attention from the teacher's, nats (95 % interval)"
        yield bars_by(title, maps, "sequences", "js", at="model", name="{} sequences")
