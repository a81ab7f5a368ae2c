"""Prompts that were put to a model of pictures: what their folder keeps, and what gates ask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.audits.exports import Finding, date_and_verdict, row_place, sarif_rule
from mnemoscope.audits.gated import Kind, Recorded
from mnemoscope.conditions import Case, Counted, Gate, GateResult, Measures, junit_suite
from mnemoscope.diffusion.measures import MEASURES, MEMORIZED, UNDECIDED
from mnemoscope.errors import UserError

TABLE, PAGE, SARIF, PICTURES = "images.parquet", "images.html", "images.sarif", "pictures"
_RULE = sarif_rule(
    "MemorizedPicture",
    "The model goes further beyond its control at this prompt than at unread ones.",
    "At this prompt the model's figure lies further beyond that of a control, which did not read "
    "the pictures, than at prompts that neither read. That is evidence that the model stores "
    "something of a picture with this prompt; images.html shows both models' pictures.",
    "Look for the picture in the training data and take it out. 'mnemoscope images --mitigate "
    "prompt' makes it again with noise on the prompt, which in small UNets of known truth "
    "(docs/images.md) took pictures about as far as the control's or farther; look at what it "
    "gives. Of prompts that were not read a share, the error, is called memorized by chance.",
)


@dataclass(frozen=True, repr=False)
class Images(Recorded):
    """Prompts that were put to a model of pictures, and what was found.

    Attributes:
        rows: one row a prompt: each figure of the model and of the control (`control_norm`), how
            far the model goes `beyond` it, `p`, `verdict` and `reason`.
        record: all that `images.json` holds.
        folder: where it was written.
    """

    rows: pl.DataFrame
    record: Mapping[str, Any]
    folder: Path

    @property
    def asked(self) -> pl.DataFrame:
        """The prompts that have a verdict: all that are not labelled unread."""
        return self.rows.filter(pl.col("verdict").is_not_null())

    @property
    def memorized(self) -> pl.DataFrame:
        """The prompts that are called memorized."""
        return self.rows.filter(verdict=MEMORIZED)


def check_gate(gate: Gate, *, undecided: str | None) -> None:
    """Refuse a condition that never holds, where it is `undecided` for the reason given."""
    if undecided:
        raise UserError(
            f"--fail-if '{gate.text}': nothing can be called memorized, so it never fails "
            f"({undecided})."
        )


def _counted(gate: Gate, found: Images) -> Counted:
    left = found.asked.filter(verdict=UNDECIDED)
    check_gate(gate, undecided=None if left.is_empty() else left["reason"][0])
    return Counted(found.record, found.asked, found.memorized)


def _junit(found: Images, judged: Sequence[GateResult]) -> str:
    """Each prompt is a test, with the reason of a memorized one in its output."""
    own = max((one.counted for one in judged), key=len, default=found.memorized)
    rows = {*own["row"]}
    cases = [
        Case(
            f"row {row['row']}: {row['prompt']}",
            output=f"memorized: {_said(found, row)}" if row["row"] in rows else None,
        )
        for row in found.asked.iter_rows(named=True)
    ]
    name = f"images of {found.record['model']['name']}"
    return junit_suite(name, date_and_verdict(found.record), judged, cases)


def _finding(found: Images, row: Mapping[str, Any]) -> Finding:
    """A prompt at its line of the table where that is known."""
    place = row_place(found.record["table"], row)
    return Finding(
        f"Prompt {row['row']} ({row['prompt']}): {_said(found, row)}",
        {**place, "logicalLocations": [{"name": f"row {row['row']}"}]},
        {} if row["image"] is None else {"picture": row["image"]},
    )


def _said(found: Images, row: Mapping[str, Any]) -> str:
    measure = found.record["settings"]["measure"]
    own, control = (f"{row[one]:.2f}" for one in (measure, f"control_{measure}"))
    return f"{row['reason']}; {MEASURES[measure]} {own}, the control's {control}"


IMAGES = Kind(
    verb="images",
    version=2,
    remedy="ask the models again with --redo",
    measures=Measures(
        ("memorized",), "prompt", "prompts", "'memorized > 2%' or 'memorized > 3 prompts'"
    ),
    same=["prompt", "image"],
    load=lambda store, record: Images(store.frame("images", TABLE), record, store.folder),
    counted=_counted,
    junit=_junit,
    rule=_RULE,
    findings=lambda found: found.memorized,
    finding=_finding,
)
