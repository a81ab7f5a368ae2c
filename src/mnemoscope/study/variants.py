"""The choices of sequences on which every taxonomy is measured: the main one and repetitions."""

from dataclasses import dataclass
from typing import Literal

from mnemoscope.errors import UserError
from mnemoscope.study.settings import LabelSettings

_SHOWN = {"own": "Non-Memo with its continuation", "true": "Non-Memo with its true suffix"}
_SHOWN_NOTE = (
    "The same sequences; what Non-Memo shows after the prefix is exchanged, since greedy text "
    "loops and can give the class away."
)
_SPLIT_NOTES = {
    "row": "As many sequences of each class, but split by row, as the paper does: a copy, a near "
    "copy or an overlapping window of a training sequence may stand in evaluation, and a CNN that "
    "has learnt the one knows the other. What this figure is above the one split by group is that "
    "leak, not memory.",
    "group": "As many sequences of each class where there are so many groups, but split by group: "
    "copies, near copies and overlapping windows of one document stay on one side. What the figure "
    "split by row is above this one is a leak, not memory.",
}


@dataclass(frozen=True)
class Variant:
    """One choice of sequences on which every taxonomy is measured."""

    suffix: str  # of the taxonomy's name in every table of the study
    title: str  # which sequences, in a few words
    note: str  # what is special about them, empty for the main one
    match: str | None  # column whose values are equally frequent in every class
    non_memo_suffix: str  # what Non-Memo sequences show after the prefix: `own` or `true`
    split: Literal["group", "row", "folds"]  # how training and evaluation are kept apart


def variants(settings: LabelSettings) -> list[Variant]:
    """The main choice of sequences, then the repetitions in the settings.

    Raises:
        UserError: `both_splits` of folds, which have no two sides.
    """
    own, split = settings.non_memo_suffix, settings.split
    if split == "folds" and settings.both_splits:
        raise UserError(
            "label.both_splits: with label.split: folds no sequence is held out, so there is no "
            "other split to compare. Leave one of the two out."
        )
    found = [Variant("", "all sequences", "", None, own, split)]
    if settings.both_suffixes:
        other = "true" if own == "own" else "own"
        found.append(Variant(f" ({other} suffix)", _SHOWN[other], _SHOWN_NOTE, None, other, split))
    if settings.both_splits:
        way: Literal["group", "row"] = "row" if split == "group" else "group"
        title, note = f"split by {way}", _SPLIT_NOTES[way]
        found.append(Variant(f" ({way} split)", title, note, None, own, way))
    if settings.match:
        column = settings.match
        note = f"Every class has the same number of sequences of each {column}."
        found.append(Variant(f" (same {column})", f"same {column}", note, column, own, split))
    return found
