"""What the reference reproduces of the memorized sequences: the control beside their count.

A model that never saw a text and writes it all the same has guessed it. The reference is asked when
a capture or grafts have loaded it, or before the report of a study without CNNs; its answers are
kept under a name that says which weights gave them.
"""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from mnemoscope.data.table import token_matrix, whole_mask
from mnemoscope.files import digest
from mnemoscope.pipeline.label import LABELS_FILE
from mnemoscope.stats import Estimate, clopper_pearson, share_true
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models, identity_of
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.words import FEW_OF_A_CLASS, plain_figure, plural

if TYPE_CHECKING:
    from mnemoscope.pipeline.questions import StudyModel

_READING = "What the reference repeats too may be guessable."
_NOT_ASKED = "No reference was asked, so whether another model repeats these too is open"
_FEW = 0.1
"""Share of the sequences below which the reference is asked of others too: is it not the model?"""
_MOST_OTHERS = 500
SWAPPED = 5  # times as many as the model repeats, from which the two may have been swapped
_FEWEST = 6
FEWEST_ALONE = 3
"""Texts that a reference repeats alone from which it is asked whether the two were swapped."""
_LABEL = "Asking the reference"


class AlsoRepeated(NamedTuple):
    """Of `n_asked` memorized sequences the reference reproduces `n`, a `share`.

    `classes` has name, number reproduced and number of the sequences of each memorized class.
    """

    n: int
    n_asked: int
    share: Estimate
    classes: list[tuple[str, int, int]]

    @property
    def words(self) -> str:
        """It in a sentence: how many, the share with its interval, and each class."""
        share, high = "", self.share.high
        if not self.n and high is not None:
            share = f": at most {100 * high:.1f} % (95 % interval)"
        elif self.n and self.n_asked >= FEW_OF_A_CLASS:
            share = f": {plain_figure(self.share.value or 0.0, self.share.low, high)}"
        each = ", ".join(f"{name} {n:,} of {whole:,}" for name, n, whole in self.classes)
        said = f"{self.n:,} of these {self.n_asked:,}" + " too" * bool(self.n)
        return f"The reference repeats {said}{share}{f' ({each})' * bool(each and self.n)}."


def ask_reference(study: Study, models: Models) -> None:
    """Load the reference, if there is one, and ask it of all memorized sequences; once."""
    if study.settings.reference is None or not study.is_done("continue"):
        return
    if study.fingerprint("reference") is None or not study.store.has(_name(study)):
        from mnemoscope.pipeline.questions import StudyModel, clear_units, unit_store  # with torch

        keep_answers(study, StudyModel(study, models, "reference", unit_store(study, "reference")))
        clear_units(study, "reference")


def keep_answers(study: Study, asked: "StudyModel") -> None:
    """Ask a reference that is at hand, and keep what it says; nothing where there is no verdict."""
    if not study.is_done("continue"):
        return
    from mnemoscope.pipeline.questions import Verdicts  # with torch

    table, mask = study.sequences, whole_mask(study.sequences)

    def make() -> pl.DataFrame:
        rows = table.with_row_index("at").filter(_is_asked(table))
        tokens, at = token_matrix(table)[rows["at"].to_numpy()], rows["at"].to_numpy()
        n = study.settings.continue_.part_rows
        questions = [
            replace(
                asked.question(
                    Verdicts,
                    tokens[start : start + n],
                    pl.DataFrame(),
                    None if mask is None else mask[at[start : start + n]],
                ),
                scan=True,
            )
            for start in range(0, len(tokens), n)
        ]
        found = [one["is_memorized"] for one in asked.tables(questions, _LABEL)]
        flags = pl.concat(found) if found else pl.Series(dtype=pl.Boolean)
        return rows.select("sequence_id", flags.alias("is_repeated"))

    study.kept(_name(study), make)


def _is_asked(table: pl.DataFrame) -> pl.Series:
    """Which sequences the reference is asked: the memorized; where these are few, others too."""
    is_asked = table["is_memorized"]
    others = (~is_asked).arg_true()
    if not len(others) or is_asked.sum() >= _FEW * table.height:
        return is_asked
    return is_asked.scatter(others.gather_every(-(-len(others) // _MOST_OTHERS)), True)


def may_be_swapped(study: Study) -> bool:
    """Whether the reference repeats more that the model does not than the model in all.

    Of a few sequences too, where `is_swapped` asks for more than chance gives.
    """
    return _repeated_beside(study).is_more


class _Beside(NamedTuple):
    """Of `n_asked` sequences that the model does not repeat the reference repeats `n`."""

    n: int = 0
    n_asked: int = 0
    is_more: bool = False  # than the model repeats in all, and more than one or two


def _repeated_beside(study: Study) -> _Beside:
    """What the reference repeats of those asked that the model does not; nothing if not asked."""
    found = _answers(study)
    if found is None:
        return _Beside()
    others = study.sequences.filter(~pl.col("is_memorized")).join(found, on="sequence_id")
    n = int(others["is_repeated"].sum())
    return _Beside(
        n, others.height, n >= FEWEST_ALONE and n > study.sequences["is_memorized"].sum()
    )


def is_swapped(study: Study) -> bool:
    """Whether the reference repeats so much more than the model that the two may be swapped."""
    return _more_repeated(study) is not None


def _more_repeated(study: Study) -> tuple[int, int] | None:
    """How many the reference repeats of those asked, where it is far more than the model."""
    found = _answers(study)
    if found is None:
        return None
    rows = study.sequences.select("sequence_id", "is_memorized").join(found, on="sequence_id")
    n = int(rows["is_repeated"].sum())
    return (n, rows.height) if repeats_more(rows["is_memorized"], rows["is_repeated"]) else None


def repeats_more(own: pl.Series, others: pl.Series) -> bool:
    """Whether a reference repeats so much more than the model that the two may be swapped.

    `own` and `others` say of the same texts whether model and reference repeat them. The reference
    repeats five times as many, and of those that only one of the two repeats more than half: the
    lower end of the 95 % interval (Clopper and Pearson) is above it, so 6 of 6 are enough.

    >>> none, six = [False] * 500, [True] * 6 + [False] * 494
    >>> repeats_more(pl.Series(none), pl.Series(six)), repeats_more(pl.Series(six), pl.Series(none))
    (True, False)
    >>> repeats_more(pl.Series(none), pl.Series([True, *none[1:]]))
    False
    """
    n_only, n_apart = int((others & ~own).sum()), int((others != own).sum())
    if not n_apart or others.sum() < SWAPPED * own.sum():
        return False
    low = clopper_pearson(n_only, n_apart).low
    return low is not None and low > 1 / 2


def repeats_more_of(own: pl.Series, others: pl.Series) -> bool:
    """As `repeats_more`, of two different sets of texts: those that were read, and a control.

    Of the control a share five times as large is repeated, the 95 % intervals of the two shares
    (Clopper and Pearson) are apart, and at least 6 are, as there: fewer may be of one document.

    >>> none, few, some = (pl.Series([True] * n + [False] * (50 - n)) for n in (0, 4, 10))
    >>> repeats_more_of(none, few), repeats_more_of(none, some), repeats_more_of(some, none)
    (False, True, False)
    """
    n = [int(one.sum()) for one in (own, others)]
    if not len(own) or n[1] < _FEWEST or n[1] * len(own) < SWAPPED * n[0] * len(others):
        return False
    high, low = clopper_pearson(n[0], len(own)).high, clopper_pearson(n[1], len(others)).low
    return high is not None and low is not None and low > high


def _answers(study: Study) -> pl.DataFrame | None:
    """What the reference said; None where it was not asked."""
    if study.fingerprint("reference") is None or not study.is_done("continue"):
        return None
    name = _name(study)
    return study.store.frame(name, f"{name}.parquet") if study.store.has(name) else None


def also_repeated(study: Study) -> AlsoRepeated | None:
    """What the reference reproduces too; None where it was not asked, or nothing is memorized."""
    found = _answers(study)
    if found is None:
        return None
    rows = study.sequences.filter("is_memorized")
    rows = rows.join(found, on="sequence_id", maintain_order="left")
    if rows.is_empty():
        return None
    classes = []
    if study.is_done("label"):
        labels = study.read(LABELS_FILE)
        taxonomy = PAPER if PAPER in labels.columns else labels.columns[1]
        each = rows.join(labels.select("sequence_id", taxonomy), on="sequence_id").drop_nulls(
            taxonomy
        )
        counted = each.group_by(taxonomy, maintain_order=True).agg(pl.sum("is_repeated"), pl.len())
        order = taxonomy.split(", ")
        classes = sorted(
            counted.rows(), key=lambda row: order.index(row[0]) if row[0] in order else 0
        )
    is_repeated = rows["is_repeated"]
    return AlsoRepeated(
        int(is_repeated.sum()), rows.height, share_true(is_repeated, find_groups(rows)), classes
    )


def control_words(study: Study, place: Path | None = None) -> str:
    """What the reference repeats too in words, or that there is none; empty where neither helps.

    `place` is what the study is called: its folder, unless given.
    """
    if more := _more_repeated(study):
        n, n_asked = more
        said = f"The reference repeats {n:,} of {plural(n_asked, 'sequence')} that it was asked"
        own = int(study.sequences["is_memorized"].sum())
        return f"{said}, the model {own:,} of all {study.sequences.height:,}: did you swap them?"
    said = ""
    if also := also_repeated(study):
        said = f"{also.words} {_READING} " if also.n else f"{also.words} "
    beside = _repeated_beside(study)
    if beside.n:
        how = "which it may have read, or guess."
        if beside.is_more:
            how = "more than the model repeats in all: did you swap model and reference?"
        others = f"Of {plural(beside.n_asked, 'sequence')} that the model does not repeat"
        said += f"{others} the reference repeats {beside.n:,}, {how}"
    if said:
        return said.rstrip()
    is_open = study.is_done("continue") and study.settings.reference is None
    if not is_open or not study.sequences["is_memorized"].any():
        return ""
    return f"{_NOT_ASKED}. To ask one, such as the base: '{with_reference(study, place)}'."


def with_reference(study: Study, place: Path | None = None, name: str = "REFERENCE") -> str:
    """The run that asks a reference too; what was captured without one is then made anew."""
    redo = " --redo" * (study.manifest("capture") is not None)
    folder = shlex.quote(str(place or study.folder))
    return f"mnemoscope run -o {folder} --reference {shlex.quote(name)}{redo}"


def how_to_give(study: Study, name: str = "REFERENCE") -> str:
    """The commands that give a study a reference that it lacks, which grafts then take.

    Where attention is captured, the controls are made anew with it; all of the model is kept.
    """
    folder, named = shlex.quote(str(study.folder)), shlex.quote(name)
    if study.manifest("capture") is None:
        return f"'mnemoscope graft {folder} --reference {named}'"
    run = with_reference(study, name=name)
    return f"'{run}' (the model's maps and CNNs are kept), then 'mnemoscope graft {folder}'"


def _name(study: Study) -> str:
    """Under which the answers are kept: weights, verdicts and prefix decide them."""
    facts = study.record["models"]["reference"]
    verdicts = study.store.record("manifests/continue")["files"]["verdicts.parquet"]
    basis = [identity_of(facts), verdicts, study.settings.sequences.n_prefix]
    return f"analysis/kept/reference-{digest(basis)[:20]}"
