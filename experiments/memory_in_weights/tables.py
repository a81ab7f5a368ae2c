"""The table of `docs/memory-or-text.md`."""

from itertools import starmap
from typing import Any

from experiments.pages import number, table_of

READERS = {
    "statistics": "a study's regression: 22 statistics of each layer, mean and maximum",
    "rows": "a regression on 24 statistics of the rows (queries) of each layer, mean and maximum",
}
_COLUMNS = ("model", "reference", "difference")


def tables(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    """AUC of either reader, then of what should be chance and of the other genre."""
    shown = {
        "memorized": "memorized or held out ({memorized:,} + {held_out:,} sequences)",
        "inserted": "trained on or held out, memorized or not ({inserted:,} + {held_out:,})",
    }
    rows = []
    for name, words in shown.items():
        for reader, what in READERS.items():
            cells = starmap(number, (found[name][reader][one] for one in _COLUMNS))
            rows.append([f"{words.format(**found['counts'])}: {what}", *cells])
    for reader, what in READERS.items():
        values = found["permuted"][reader]
        span = f"{number(min(values))} to {number(max(values))}"
        rows.append([f"labels permuted within prose and code: {what}", span, "–", "–"])
    for reader, what in READERS.items():
        of = found["other_genre"][reader]
        each = f"fitted on prose {number(of['prose'])}, on code {number(of['code'])}"
        rows.append([f"asked on the other genre: {what}", each, "–", "–"])
    text = table_of(["AUC, five folds by document", *_COLUMNS], rows)
    return {("docs/memory-or-text.md", "memory in the weights"): text}
