"""What the reference itself repeats of the documents and the model does not: is it a control?

The reference is asked as the model is, but only at windows of which it has most tokens right when
it is given the text up to each (`mostly_right`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.audits.asking import Answer, Auditing, BesideModel
from mnemoscope.audits.passages import PASSAGE
from mnemoscope.audits.rule import RECALL
from mnemoscope.audits.scan import BATCHES_A_PART, ask_in_parts, prompts_at
from mnemoscope.audits.spans import coarse_starts, counts_as_hit
from mnemoscope.audits.tokens import Place
from mnemoscope.files import made_folder
from mnemoscope.pipeline.reference import FEWEST_ALONE, SWAPPED, repeats_more
from mnemoscope.progress import Progress
from mnemoscope.store import kept_in_parts

TABLE = {
    name: PASSAGE[name]
    for name in (
        *("document", "start", "end", "verdict", "reason", "tokens", "score", "text", "otherwise"),
        *("window_token", "window_start", "window_tokens", "continuation_tokens", "prefix_text"),
    )
}


def ask(audit: Auditing) -> Answer:
    """Scan the documents with the reference: what it recalls by the rule, none of it the model's.

    The facts are `beside` of the reference in `audit.json`.
    """
    from mnemoscope.audits.run import find_passages

    other = _of_reference(audit)
    find_passages(other, mostly_right(other))
    known = audit.passages.select("document", "start", "end").rows()
    recalled = other.passages.filter(verdict=RECALL)
    is_alone = [
        not any(row[0] == of and row[1] < end and start < row[2] for of, start, end in known)
        for row in recalled.select("document", "start", "end").iter_rows()
    ]
    table = recalled.filter(pl.Series(is_alone, dtype=pl.Boolean)).select(*TABLE)
    return Answer(table=table, facts={**_beside(audit, other, table)})


def check(audit: Auditing, table: pl.DataFrame) -> list[str]:
    """What of the table the reference does not write again, of documents that are there."""
    other, numbers = _of_reference(audit), audit.numbers()
    rows = table.filter(pl.col("document").is_in(list(numbers))).rows(named=True)
    places = [(numbers[row["document"]], row["window_token"]) for row in rows]
    written = ask_in_parts(other, prompts_at(other, places), "miss", "Asking the reference again")
    return [
        f"{row['document']}, {row['start']}-{row['end']}: the reference does not write again what "
        "is recorded."
        for row, place, one in zip(rows, places, written, strict=True)
        if one.ids != row["continuation_tokens"]
        or audit.texts[place[0]].document.text[row["start"] : row["end"]] != row["text"]
    ]


def _of_reference(audit: Auditing) -> Auditing:
    """The audit with the reference in the place of the model."""
    assert audit.reference is not None
    kept = None if audit.kept is None else made_folder(audit.kept / "alone")
    return replace(audit, model=audit.reference, reference=None, kept=kept, steps=())


def mostly_right(audit: Auditing) -> Callable[[Place], bool]:
    """Whether a model has three quarters of the tokens that a hit needs, given the text up to each.

    One forward pass for as many tokens as a suffix has tells it of all windows: 21 of 32 must be
    right. A hit has nearly all of them right so too, and the windows next to one are asked as well.
    """
    from mnemoscope.lm.continue_ import right_tokens

    settings = audit.settings
    prefix, suffix, length = settings.prefix, settings.suffix, settings.length
    tokens = {number: text.tokens.ids for number, text in enumerate(audit.texts)}
    tokens = {number: ids for number, ids in tokens.items() if len(ids) >= length}
    if not tokens or settings.stride >= suffix:  # where windows are fewer, each is asked
        return lambda _: True
    rows, begins = list[npt.NDArray[np.int32]](), dict[int, int]()
    for number, ids in tokens.items():
        begins[number] = len(rows) * suffix
        padded = np.pad(ids, (0, -(len(ids) - prefix) % suffix))
        rows += [*np.lib.stride_tricks.sliding_window_view(padded, length)[::suffix]]

    def part(some: Sequence[npt.NDArray[np.int32]], progress: Progress) -> pl.DataFrame:
        size = settings.batch_size
        right = right_tokens(audit.lm, np.stack(some), batch_size=size, prefix=prefix)
        progress.advance(len(some))
        return pl.DataFrame({"is_right": right.ravel()})

    size = settings.batch_size * BATCHES_A_PART
    found = kept_in_parts(audit.kept, "Reading along", rows, size, part, unit="windows")
    n_right = np.cumsum([0, *pl.concat(found)["is_right"]])
    enough = 3 * (suffix - settings.n_allowed) // 4

    def is_enough(place: Place) -> bool:
        begin = begins[place[0]] + place[1]  # the first tokens, a prefix, are in no suffix
        return bool(n_right[begin + suffix] - n_right[begin] >= enough)

    return is_enough


def _beside(audit: Auditing, other: Auditing, alone: pl.DataFrame) -> BesideModel:
    """What both reproduce of windows that do not overlap, and whether they may be swapped."""
    settings = audit.settings
    step = -(-settings.length // settings.stride)
    places = [
        (number, first)
        for number, text in enumerate(audit.texts)
        for first in coarse_starts(len(text.tokens.ids), settings)[::step]
    ]

    def hits(one: Auditing) -> pl.Series:
        rows = one.scanned.select("document", "first", "score").iter_rows()
        found = {(number, first) for number, first, score in rows if counts_as_hit(score, settings)}
        return pl.Series([place in found for place in places], dtype=pl.Boolean)

    own, others = hits(audit), hits(other)
    recalled = audit.passages.filter(rule_says=RECALL)
    n_own, n_alone = (int((one["end"] - one["start"]).sum()) for one in (recalled, alone))
    is_more = alone.height >= FEWEST_ALONE and n_alone >= SWAPPED * n_own
    return {
        "windows": len(places),
        "model": int(own.sum()),
        "reference": int(others.sum()),
        "is_more": is_more or repeats_more(own, others),
    }
