"""Items that were asked: what their folder keeps, and what they are to gates and other programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.audits.exports import (
    Finding,
    beside_by_key,
    date_and_verdict,
    row_place,
    sarif_of,
    sarif_rule,
)
from mnemoscope.audits.records import Sarif
from mnemoscope.conditions import (
    Case,
    Counted,
    Gate,
    GateResult,
    Measures,
    judge_rows,
    junit_suite,
)
from mnemoscope.contamination.judge import (
    FEWEST_VARIANTS,
    RECALLED,
    originals,
    scores_of,
    shares_of,
)
from mnemoscope.errors import UserError
from mnemoscope.stats import Estimate
from mnemoscope.store import Store
from mnemoscope.words import adding_up

ARTEFACT, SCHEMA_VERSION = "items", 4
TABLE, PAGE, SARIF = "items.parquet", "items.html", "items.sarif"
ITEMS = Measures(("recalled",), "item", "items", "'recalled > 1%' or 'recalled > 3 items'")
_ITEM = ["prompt", "answer"]  # an item of an older table is the same where both are
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
class Items:
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

    def __repr__(self) -> str:
        return f"Items({self.record['sentence']})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<li>{k}: {one}</li>" for k, one in shares_said(self.shares).items())
        return f"<b>{escape(self.record['sentence'])}</b><ul>{rows}</ul>"


def shares_said(shares: dict[str, Estimate]) -> dict[str, Estimate]:
    """The shares as they are printed beside one another: to a tenth of a per cent, adding up."""
    shown = adding_up([one.value or 0.0 for one in shares.values()])
    return {
        name: one._replace(value=value)
        for (name, one), value in zip(shares.items(), shown, strict=True)
    }


def items_store(folder: Path) -> Store:
    """The store of a folder of items: one artefact of all its files."""
    return Store(folder, remedy=lambda _: "ask the items again with --redo")


def read_found(folder: Path) -> Items:
    """The finished items of a folder; no model is loaded.

    Errors as `Store.finished`.
    """
    store = items_store(folder)
    record = store.finished(ARTEFACT, SCHEMA_VERSION)
    return Items(store.frame(ARTEFACT, TABLE), record, folder)


def judge_items(gate: Gate, found: Items, baseline: Path | None) -> GateResult:
    """Put a condition to items; with `baseline` to the recalled ones that were not recalled there.

    Raises UserError: `baseline` holds no items, or nothing could be called recalled.
    DamagedDataError: it cannot be read.
    """
    own = _counted(found)
    if found.record["reference"] is None and (own.every["variants"] < FEWEST_VARIANTS).all():
        raise UserError(
            f"--fail-if '{gate.text}': without a twin an item needs {FEWEST_VARIANTS} variants to "
            "be called recalled, and none has them, so it never fails. Add --reference BASE."
        )
    older = None if baseline is None else (baseline, _counted(read_found(baseline)))
    return judge_rows(gate, own, _ITEM, share=found.shares[RECALLED], older=older)


def _counted(found: Items) -> Counted:
    return Counted(found.record, originals(found.table), found.recalled)


def items_junit(found: Items, judged: Sequence[GateResult]) -> str:
    """A JUnit report: each item is a test, a recalled one with its evidence in the output."""
    own = max((one.counted for one in judged), key=len, default=found.recalled)
    said = {
        row["item"]: f"recalled: {row['reason']}\n    {row['prompt']!r}\n    {row['answer']!r}"
        for row in own.iter_rows(named=True)
    }
    cases = [Case(one, output=said.get(one)) for one in originals(found.table)["item"]]
    return junit_suite(
        f"items of {found.record['model']['name']}", date_and_verdict(found.record), judged, cases
    )


def items_sarif(found: Items) -> Sarif:
    """A SARIF log of the recalled items, each at its line of the table where that is known."""
    where = found.record["table"]
    numbered = found.table.with_row_index("row")
    findings = [
        Finding(
            f"Item {row['item']}: {row['reason']}",
            {**row_place(where, row), "logicalLocations": [{"name": row["item"]}]},
            {"answer": row["answer"], "model writes": row["written"].strip()},
        )
        for row in originals(numbered).filter(verdict=RECALLED).iter_rows(named=True)
    ]
    return sarif_of([_RULE], date_and_verdict(found.record), findings)


def items_sarif_beside(found: Items, baseline: Path | None) -> Sarif:
    """The log with what is new, unchanged and gone since an older one, if any.

    Errors as `read_found`.
    """
    if baseline is None:
        return items_sarif(found)
    older = read_found(baseline)
    keys = [one.recalled.select(_ITEM).rows() for one in (found, older)]
    return beside_by_key(items_sarif(found), items_sarif(older), *keys)
