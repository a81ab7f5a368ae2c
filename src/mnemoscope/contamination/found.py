"""Items that were asked: what their folder keeps, and what they are to gates and other programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.audits.exports import Finding, date_and_verdict, row_place, sarif_rule
from mnemoscope.audits.gated import Kind, Recorded
from mnemoscope.conditions import Case, Counted, Gate, GateResult, Measures, junit_suite
from mnemoscope.contamination.judge import (
    FEWEST_VARIANTS,
    RECALLED,
    originals,
    scores_of,
    shares_of,
)
from mnemoscope.errors import UserError
from mnemoscope.stats import Estimate
from mnemoscope.words import adding_up

TABLE, PAGE, SARIF = "items.parquet", "items.html", "items.sarif"
_RULE = sarif_rule(
    "RecalledItem",
    "The model recalls the answer of this item.",
    "The answer comes out, and neither the prompt, the other items, other prompts, a twin nor the "
    "skill that variants need gives it. That is evidence that the model learned this answer to "
    "this prompt, from the benchmark or another text that holds both.",
    "Leave the item out of the score (items.html gives it without), and find where the training "
    "data got it.",
)


@dataclass(frozen=True, repr=False)
class Items(Recorded):
    """Items that were put to a model, and what was found.

    Attributes:
        table: one row an item: what was written, every control, `verdict` and `reason`.
        shares: the share of items with each verdict.
        scores: the share that is answered: `all` items, and `without` the recalled ones.
        record: all that `items.json` holds.
        folder: where it was written; None: nowhere.
    """

    table: pl.DataFrame
    record: Mapping[str, Any]
    folder: Path | None = None

    @property
    def shares(self) -> dict[str, Estimate]:
        """The share of items with each verdict, variants left out."""
        return shares_of(self.table)

    @property
    def scores(self) -> dict[str, Estimate]:
        """The share of items that is answered, of `all` and `without` the recalled ones."""
        return scores_of(self.table)

    @property
    def recalled(self) -> pl.DataFrame:
        """The items that are recalled, variants left out."""
        return originals(self.table).filter(verdict=RECALLED)

    def _repr_html_(self) -> str:
        rows = "".join(f"<li>{k}: {one}</li>" for k, one in shares_said(self.shares).items())
        return f"{super()._repr_html_()}<ul>{rows}</ul>"


def shares_said(shares: dict[str, Estimate]) -> dict[str, Estimate]:
    """The shares as they are printed beside one another: to a tenth of a per cent, adding up."""
    shown = adding_up([one.value or 0.0 for one in shares.values()])
    return {
        name: one._replace(value=value)
        for (name, one), value in zip(shares.items(), shown, strict=True)
    }


def _refuse(gate: Gate, found: Items) -> None:
    variants = originals(found.table)["variants"]
    if found.record["reference"] is None and (variants < FEWEST_VARIANTS).all():
        raise UserError(
            f"--fail-if '{gate.text}': without a twin an item needs {FEWEST_VARIANTS} variants to "
            "be called recalled, and none has them, so it never fails. Add --reference BASE."
        )


def _junit(found: Items, judged: Sequence[GateResult]) -> str:
    """Each item is a test, a recalled one with its evidence in the output."""
    own = max((one.counted for one in judged), key=len, default=found.recalled)
    said = {
        row["item"]: f"recalled: {row['reason']}\n    {row['prompt']!r}\n    {row['answer']!r}"
        for row in own.iter_rows(named=True)
    }
    cases = [Case(one, output=said.get(one)) for one in originals(found.table)["item"]]
    return junit_suite(
        f"items of {found.record['model']['name']}", date_and_verdict(found.record), judged, cases
    )


def _finding(found: Items, row: Mapping[str, Any]) -> Finding:
    """An item at its line of the table where that is known."""
    place = row_place(found.record["table"], row)
    return Finding(
        f"Item {row['item']}: {row['reason']}",
        {**place, "logicalLocations": [{"name": row["item"]}]},
        {"answer": row["answer"], "model writes": row["written"].strip()},
    )


ITEMS = Kind(
    verb="items",
    version=4,
    remedy="ask the items again with --redo",
    measures=Measures(("recalled",), "item", "items", "'recalled > 1%' or 'recalled > 3 items'"),
    same=["prompt", "answer"],
    load=lambda store, record: Items(store.frame("items", TABLE), record, store.folder),
    counted=lambda _, found: Counted(
        found.record, originals(found.table), found.recalled, found.shares[RECALLED]
    ),
    junit=_junit,
    rule=_RULE,
    findings=lambda found: originals(found.table.with_row_index("row")).filter(verdict=RECALLED),
    finding=_finding,
    refuse=_refuse,
)
