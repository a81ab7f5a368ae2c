"""What a training reproduces to other programs: the SARIF log of a watch, as an audit has one."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.audits.exports import Finding, address_of, beside_by_key, sarif_of, sarif_rule
from mnemoscope.audits.records import Sarif
from mnemoscope.flow.watch import KINDS, reproduced_at_last
from mnemoscope.training.history import History, read_history
from mnemoscope.training.windows import CONTROL, RECALL, lines_of

_RULE = sarif_rule(
    "ReproducedWindow",
    "The checkpoint reproduces this window, and its text does not give it away.",
    "Shown the first half of these tokens, the checkpoint writes the second half. That does not "
    "follow from the text shown, so it is evidence that the model learned these words.",
    "Look for copies of the text in the training data, and audit the checkpoint: "
    "mnemoscope audit CHECKPOINT TEXTS -o audit.",
)


def watch_sarif(history: History, baseline: Path | None) -> Sarif:
    """A log of the windows that the last check reproduces and that cannot be guessed.

    With `baseline`, an older history, what is new, unchanged and gone, by the texts. Errors as
    `read_history`.
    """
    rows = _recalled(history)
    who = history.say_step(history.steps[-1])
    said = {"run": history.run, "checkpoint": who}
    if date := history.last.get("date"):
        said["date"] = str(date)
    log = sarif_of([_RULE], said, _findings(rows, who, history.counts_from))
    if baseline is None:
        return log
    older = read_history(baseline).counting(history.threshold)
    keys = (one["text"].to_list() for one in (rows, _recalled(older)))
    return beside_by_key(log, watch_sarif(older, None), *keys)


def _recalled(history: History) -> pl.DataFrame:
    found = reproduced_at_last(history)
    return found.filter(pl.col("source") != CONTROL, pl.col("class") == RECALL)


def _findings(rows: pl.DataFrame, who: str, counts_from: str) -> Iterator[Finding]:
    for row in rows.iter_rows(named=True):
        text = f"Reproduced{counts_from} by {who}: {KINDS[RECALL].replace('their', 'its')}"
        yield Finding(text, _location(row), {})


def _location(row: Mapping[str, Any]) -> Sarif:
    """Its document with characters and lines; of a row of a table the row alone; else its name."""
    if row["document"] is None:
        return {"logicalLocations": [{"name": row["window"]}]}
    place: Sarif = {"artifactLocation": {"uri": address_of(row["document"])}}
    if (lines := lines_of(row)) is not None:
        region = {"charOffset": row["start"], "charLength": row["end"] - row["start"]}
        place |= {"region": {**region, "startLine": lines[0], "endLine": lines[1]}}
    return {"physicalLocation": place}
