"""What a watch would ask, of which checkpoints and documents, and how long it takes.

One checkpoint on disk is loaded, and some windows are timed. `mnemoscope watch --dry-run`.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl

from mnemoscope.data.formats import excluded_said
from mnemoscope.flow.watch import Prepared, WatchAsked, check_of, load_checkpoint
from mnemoscope.lm.hub import Checkpoint
from mnemoscope.study.shapes import is_on_disk
from mnemoscope.training.history import is_checked, refuse_other
from mnemoscope.training.windows import CONTROL
from mnemoscope.words import about, first_names, plural

_NAMED = 20  # documents
_TIMED = 64  # windows


def plan_watch(asked: WatchAsked, found: Prepared, out: Path) -> Iterator[str]:
    """Say it line by line; nothing is written. UserError: `out` holds another history."""
    if not asked.redo:
        refuse_other(out, found.windows)
    table = found.windows.table
    own = table.filter(pl.col("source") != CONTROL)
    counts = own.group_by(pl.col("document").fill_null("rows without a document"))
    sizes = counts.len().sort("document").rows()
    yield from (f"{name}: {plural(n, 'window')}" for name, n in sizes[:_NAMED])
    if len(sizes) > _NAMED:
        yield f"... and {plural(len(sizes) - _NAMED, 'more document')}."
    control = f", and {table.height - own.height:,} of the control" * (table.height > own.height)
    drawn = f" drawn of {own.height + found.windows.n_left_out:,}" * bool(found.windows.n_left_out)
    yield f"In all {plural(own.height, 'window')} of {asked.length} tokens{drawn}{control}."
    left = [
        one
        for one in found.checkpoints
        if asked.redo or not is_checked(out, one.step, found.keys[one])
    ]
    checked = f"; {len(found.checkpoints) - len(left):,} of them checked already"
    names = first_names([str(one) for one in found.checkpoints])
    said = f"{plural(len(found.checkpoints), 'checkpoint')} ({names})"
    yield said + checked * (len(left) < len(found.checkpoints)) + "."
    if left and is_on_disk(left[-1].name, left[-1].revision):
        took = _seconds(asked, found, left[-1])
        each = f", {about(took)} a checkpoint" * (len(left) > 1)
        yield f"Time: {about(took * len(left))}{each}; measured here."
    elif left:
        yield "Time: not known; the last checkpoint is not on this machine."
    yield from (f"{name}: not checked: {reason}" for name, reason in found.unread)
    yield from (f"{name}: none of its windows is drawn (--most)." for name in found.windows.unasked)
    yield from excluded_said(found.excluded)
    yield "Nothing was written."


def _seconds(asked: WatchAsked, found: Prepared, one: Checkpoint) -> float:
    """How long a checkpoint takes: to load it, and so much a window; the first batch warms up."""
    started = time.monotonic()
    model = load_checkpoint(asked, one)
    loaded = time.monotonic() - started
    some = replace(found.windows, table=found.windows.table.head(_TIMED))
    for _ in range(2):
        started = time.monotonic()
        check_of(asked, model, some)
    return loaded + (time.monotonic() - started) * len(found.windows) / len(some)
