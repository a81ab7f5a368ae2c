"""What of a teacher's memorized captions does a student repeat, beside a control; pictures swapped.

Source: LLAVADI, Xu et al. 2024, arXiv 2407.19409, which asks what a distilled LLaVA can do; here
what it remembers. A caption is repeated where every token is the most likely after the true ones.
The control learnt from the same rows and never asked the teacher. Where a model repeats a caption
with another row's picture too, it goes by the text, not by the picture.
Run it: mnemoscope analyze distilled TEACHER --rows TABLE --student STUDENT --control CONTROL
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.analysis.distilled import (
    TEACHER,
    UNSEEN,
    UNSEEN_RIGHT,
    Bools,
    Judging,
    StudentScores,
    by_sequence,
    further_lines,
    kind_charts,
    sentence_of,
    shares_of,
    told_by_kind,
)
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult
from mnemoscope.analysis.rows import draw_rows, seen_in_training
from mnemoscope.data.table import token_matrix, whole_mask, with_tokens
from mnemoscope.errors import UserError
from mnemoscope.flow.pairs import Pairs, read_pairs
from mnemoscope.library.membership import documents_of
from mnemoscope.lm.vision import Pair, VisionModel, judge_pairs
from mnemoscope.progress import track
from mnemoscope.stats import frame_of, n_groups, rows_of, share_true
from mnemoscope.taxonomy.groups import other_rows
from mnemoscope.words import ranged

_ALL = "all rows"


class RowSettings(Judging):
    """Settings of `distilled` on pictures with prompts and captions."""


def pairs_of(
    model: VisionModel, rows: Any, columns: Mapping[str, str]
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Rows with the tokens of their captions, `kind`, `seen`, and the group; the columns given.

    A kind is the column `task`, `seen` whether the teacher was trained on the row (`duplicates`);
    rows of which that is not known are left out.
    Rows of one picture, one `document` or `group`, or near captions are one group.
    """
    found: Pairs = read_pairs(model, rows, columns)
    lengths = [len(one.answer) for one in found.pairs]
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    tokens = np.zeros(mask.shape, dtype=np.int64)
    tokens[mask] = np.concatenate([one.answer for one in found.pairs])
    table = with_tokens(found.frame, tokens, mask.astype(np.int64))
    given = tuple(found.frame.columns)
    seen = seen_in_training(table)
    if not seen.count():
        raise UserError(
            f"{found.where}: does not say which rows the teacher was trained on. Add a column "
            "duplicates, 0 for never (--column duplicates=PATH)."
        )
    if "document" not in given:
        table = table.with_columns(pl.Series("document", found.pictures))
    groups = documents_of(table.drop("start", "end", strict=False))
    images: list[Any] = [one.image for one in found.pairs]
    if any(isinstance(one, bytes) for one in images):  # a column is of one kind
        images = [one if isinstance(one, bytes) else one.read_bytes() for one in images]
    kind = pl.lit(_ALL) if "task" not in given else pl.col("task").cast(pl.String).fill_null(_ALL)
    table = table.with_columns(
        pl.Series("image", [one if isinstance(one, bytes) else str(one) for one in images]),
        seen.alias("seen"),
        pl.Series("near_duplicates", groups),
        kind.alias("kind"),
    )
    return table.drop_nulls("seen"), given


def forwards(inputs: AnalysisInputs, settings: RowSettings) -> int:
    """Every drawn row of every model, with its own picture and with another's."""
    return 2 * (1 + len(inputs.others)) * _drawn(inputs.table, settings).height


def analyse(inputs: AnalysisInputs, settings: RowSettings) -> AnalysisResult:
    """Ask teacher, control (the first of `others`) and students for the captions.

    Raises UserError: no kind of which the teacher repeats enough rows that it was trained on.
    """
    rows = _drawn(inputs.table, settings)
    near = inputs.near_duplicates(rows["sequence_id"])
    (control, first), *students = inputs.other_models()
    models = {TEACHER: inputs.model(), control: first, **dict(students)}
    pairs = _pairs(rows)
    (others,) = other_rows(near, 1, seed=settings.seed)
    swapped = [one._replace(image=pairs[other].image)
               for one, other in zip(pairs, others, strict=True)]  # fmt: skip
    judged: dict[str, StudentScores] = {}
    moved: dict[str, StudentScores] = {}
    for name, lm in models.items():
        with track(f"Asking {name}", total=2 * len(pairs), unit="rows") as progress:
            for found, asked in ((judged, pairs), (moved, swapped)):
                scores = judge_pairs(cast(VisionModel, lm), asked, batch_size=inputs.batch_size)
                found[name] = StudentScores(*scores)
                progress.advance(len(pairs))
    classes = _classes(rows, judged[TEACHER].right, settings)
    shares = shares_of(classes, judged, control, near)
    kinds = told_by_picture(rows, judged, moved, control, near, settings)
    pictures = _by_picture(classes, judged, moved, near)
    of_swapped = {
        "swapped": pl.concat(pl.Series(one.right) for one in moved.values()),
        "swapped_logprob": pl.concat(pl.Series(one.logprob) for one in moved.values()),
    }
    return AnalysisResult(
        sentence=sentence_of(shares, kinds, control),
        frames={"shares": shares, "kinds": kinds, "pictures": pictures,
                "rows": by_sequence(rows, classes, judged).with_columns(**of_swapped)},
        figures=tuple(kind_charts(shares, kinds)),
        further=(*further_lines(shares, kinds, control), *_of_pictures(pictures, kinds)),
    )  # fmt: skip


def _drawn(table: pl.DataFrame, settings: RowSettings) -> pl.DataFrame:
    """At most so many rows of each kind, trained on and not, whatever the teacher repeats."""
    parts = table.partition_by("kind", "seen", maintain_order=True)
    drawn = pl.concat(draw_rows(one, settings.per_class, settings.seed) for one in parts)
    return drawn.with_columns(paired=pl.lit(True))


def _pairs(rows: pl.DataFrame) -> list[Pair]:
    tokens, mask = token_matrix(rows), whole_mask(rows)
    shown = np.ones_like(tokens, bool) if mask is None else mask.astype(bool)
    answers = (tuple(row[here].tolist()) for row, here in zip(tokens, shown, strict=True))
    return [
        Pair(image if isinstance(image, bytes) else Path(image), prompt, answer)
        for image, prompt, answer in zip(rows["image"], rows["prompt"], answers, strict=True)
    ]


def _classes(rows: pl.DataFrame, is_right: Bools, settings: RowSettings) -> dict[str, Bools]:
    """Of each kind what the teacher was trained on and repeats; and what it was not trained on."""
    seen = rows["seen"].to_numpy()
    found = {
        str(kind): (rows["kind"] == kind).to_numpy() & seen & is_right
        for kind in rows["kind"].unique(maintain_order=True)
    }
    found = {kind: here for kind, here in found.items() if here.sum() >= settings.minimum}
    if not found or (~seen & ~is_right).sum() < settings.minimum:
        raise UserError(
            f"analyze distilled: fewer than {settings.minimum} rows that the teacher was trained "
            "on and repeats, or that it was never trained on and does not repeat (duplicates 0). "
            "Add rows, or lower it with --set minimum=N."
        )
    every = {**found, UNSEEN_RIGHT: ~seen & is_right, UNSEEN: ~seen & ~is_right}
    return {kind: here for kind, here in every.items() if here.sum() >= settings.minimum}


def told_by_picture(
    rows: pl.DataFrame,
    own: Mapping[str, StudentScores],
    moved: Mapping[str, StudentScores],
    control: str,
    near: npt.NDArray[np.int64],
    settings: Judging,
) -> pl.DataFrame:
    """As `told_by_kind`, with gain and AUC under another row's picture beside them."""
    kinds, swapped = (told_by_kind(rows, one, control, near, settings) for one in (own, moved))
    if kinds.is_empty():
        return kinds
    names = {"gain": "gain_swapped", "auc": "auc_swapped"}
    return pl.concat([kinds, swapped.select([*names]).rename(names)], how="horizontal")


def _by_picture(
    classes: Mapping[str, Bools],
    own: Mapping[str, StudentScores],
    moved: Mapping[str, StudentScores],
    near: npt.NDArray[np.int64],
) -> pl.DataFrame:
    """Each model and class: share repeated with its own picture, and with another row's."""
    return frame_of(
        [
            {
                "model": name,
                "class": label,
                "n": int(here.sum()),
                "n_groups": n_groups(near[here]),
                "own": share_true(own[name].right[here], near[here]),
                "swapped": share_true(moved[name].right[here], near[here]),
            }
            for name in own
            for label, here in classes.items()
            if label != UNSEEN
        ]
    )


def _of_pictures(pictures: pl.DataFrame, kinds: pl.DataFrame) -> Iterator[str]:
    """Whether captions come from the picture, model by model."""
    told = {(row["model"], row["kind"]): row["auc_swapped"] for row in rows_of(kinds)}
    for name in pictures["model"].unique(maintain_order=True):
        parts: Sequence[str] = [
            f"{row['class']} {ranged(row['swapped'], scale=100, unit=' %')} in place of "
            f"{ranged(row['own'], scale=100, unit=' %')}"
            + (f" (AUC {ranged(auc, digits=3)})" if (auc := told.get((name, row["class"]))) else "")
            for row in rows_of(pictures.filter(model=name))
        ]
        yield f"With another row's picture {name} repeats: {'; '.join(parts)}."
