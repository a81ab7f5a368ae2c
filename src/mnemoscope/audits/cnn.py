"""The calibrated probability that a passage is Recall and not Guess, by a study's CNNs."""

from typing import TYPE_CHECKING

import polars as pl

from mnemoscope.audits.asking import Answer, Auditing
from mnemoscope.audits.rule import GUESS, RECALL
from mnemoscope.columns import Column

if TYPE_CHECKING:  # what makes studies takes a second to import, and most audits ask none
    from mnemoscope.audits.ground import CnnGround

COLUMNS = {
    "probability": Column(
        pl.Float64, "that it is Recall and not Guess, calibrated; null where no CNN gives one"
    ),
    "cnn_says": Column(pl.String, "`recall` from one half on, else `guess`"),
}


def _of(audit: Auditing) -> "CnnGround":
    assert audit.cnn is not None
    return audit.cnn


def depends(audit: Auditing) -> object:
    """What the CNNs are, wherever their study stands."""
    return {name: one for name, one in _of(audit).facts.items() if name != "study"}


def ask(audit: Auditing) -> Answer:
    """Let the CNNs look at the attention with which the model reads each window."""
    from mnemoscope.audits.ground import recall_probabilities

    batch_size = audit.settings.batch_size
    found = recall_probabilities(_of(audit), audit.lm, audit.windows, batch_size=batch_size)
    says = [None if one is None else RECALL if one >= 0.5 else GUESS for one in found]
    return Answer({"probability": found, "cnn_says": says}, facts=_of(audit).facts)
