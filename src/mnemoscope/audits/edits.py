"""The chance that an answer is nearly a passage: any text within k edits of it."""

import polars as pl

from mnemoscope.audits.asking import Answer, Auditing
from mnemoscope.audits.questions import EditSettings
from mnemoscope.columns import Column

COLUMNS = {
    "within_edits": Column(pl.Int64, "edits allowed (`--edits`)"),
    "within_logprob": Column(
        pl.Float64, "natural logarithm of a lower bound on the chance of one try within them"
    ),
}


def ask(audit: Auditing) -> Answer:
    """How likely something within a few edits of each suffix is."""
    settings, windows = audit.settings, audit.windows
    assert isinstance(settings, EditSettings)
    if not len(windows):
        return Answer()
    from mnemoscope.audits.edit_search import chance_within

    found = chance_within(audit.lm, windows, settings)
    return Answer(
        {
            "within_edits": [settings.edits] * len(windows),
            "within_logprob": found.logprob.tolist(),
        }
    )
