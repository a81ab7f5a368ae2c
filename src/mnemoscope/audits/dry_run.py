"""What an audit of a model that runs here would ask, of which documents, and what it would take.

A model on disk is loaded, and a small audit of pieces of the documents is timed.
`mnemoscope audit --dry-run`.
"""

import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnemoscope.audits.asking import Auditing
from mnemoscope.audits.documents import Document, Reading
from mnemoscope.audits.questions import QUESTIONS, ReadSettings, asked_of
from mnemoscope.audits.read import foreseen
from mnemoscope.audits.reference import WINDOWS
from mnemoscope.audits.scan import scan_coarsely
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.spans import coarse_starts
from mnemoscope.audits.tokens import Text, Tokens, tokenize
from mnemoscope.data.formats import excluded_said
from mnemoscope.data.read import WindowCutter
from mnemoscope.study.cost import ASSUMED_FLOPS, device_kind
from mnemoscope.words import about, plural

_NAMED = 20
_NEARLY = 0.02
"""Difference of weights below which a reference may be a copy: at 8 bits it is 0.007."""
_TENSORS, _MOST_WEIGHTS = 32, 100_000  # that are compared, and of each
_PIECE = 16  # windows of a piece that is timed
_ENOUGH_SECONDS = 3.0
"""About so long is measured, one piece of each sort in any case."""
_NOT_TIMED = ("cnn", "ordinary", "origins")  # what they take follows from no window


class Timed(NamedTuple):
    """Windows that were asked, and the seconds that one takes with all that follows from them."""

    windows: int
    a_window: float
    loading: float = 0.0  # seconds until the models are there


def time_pieces(audit: Auditing, *, enough: float = _ENOUGH_SECONDS) -> Timed:
    """Ask pieces of the documents, those of `--unread` too, drawn by a seed, and time it.

    What comes out costs many times as much as what does not, so a few audits of pieces would tell
    little. First many pieces are asked alone, for the share of which some comes out; then pieces of
    both sorts are audited. The first audit warms up and does not count, unless it is the only one.
    Nothing is kept.
    """
    settings = audit.settings
    off = {QUESTIONS[one].fields[0]: None for one in ("origins", "ordinary", "unread")}
    asked = settings.model_copy(update=off)
    small = replace(audit, texts=[], settings=asked, unread=[], kept=None, cnn=None)
    every = [*_pieces([*audit.texts, *(audit.unread or ())], settings)]
    pieces = [every[at] for at in np.random.default_rng(0).permutation(len(every))]
    sorts: tuple[list[Text], list[Text]] = [], []  # of which none comes out, and some does
    started, at, n = time.monotonic(), 0, 1
    while at < len(pieces) and time.monotonic() - started < enough / 2:
        some = pieces[at : at + n]
        found = {*scan_coarsely(replace(small, texts=some)).drop_nulls("continuation")["document"]}
        for number, one in enumerate(some):
            sorts[number in found].append(one)
        at, n = at + n, 2 * n
    if len(pieces) > 1:
        _seconds_a_window(small, (sorts[0] or sorts[1])[:1], 0.0)  # warms up
    n_windows = [sum(_windows_of(one, settings) for one in sort) for sort in sorts]
    shares = (enough / 8, enough / 2)
    each = [_seconds_a_window(small, *one) for one in zip(sorts, shares, strict=True)]
    seconds = sum(n * a_window for n, a_window in zip(n_windows, each, strict=True))
    return Timed(sum(n_windows), seconds / sum(n_windows) if seconds else 0.0)


def _seconds_a_window(small: Auditing, pieces: Sequence[Text], enough: float) -> float:
    """Audit pieces one by one until `enough` seconds are over, at least one; 0 of none."""
    from mnemoscope.audits.run import ask_questions, find_passages

    n_windows, started = 0, time.monotonic()
    for piece in pieces:
        audit = replace(small, texts=[piece])
        find_passages(audit)
        ask_questions(audit)
        n_windows += _windows_of(piece, small.settings)
        if time.monotonic() - started >= enough:
            break
    return (time.monotonic() - started) / n_windows if n_windows else 0.0


def _windows_of(piece: Text, settings: AuditSettings) -> int:
    return len(coarse_starts(len(piece.tokens.ids), settings))


def _pieces(texts: Sequence[Text], settings: AuditSettings) -> Iterator[Text]:
    """The texts in pieces of so many windows, each a text of its own."""
    for number, (document, own) in enumerate(texts):
        starts = coarse_starts(len(own.ids), settings)
        for at in range(0, len(starts), _PIECE):
            first, last = starts[at], starts[at : at + _PIECE][-1] + settings.length
            part = Tokens(own.ids[first:last], own.starts[first:last], own.ends[first:last])
            yield Text(replace(document, name=f"{number} {first}"), part)


def plan_audit(
    reading: Reading,
    tokenizer: Any,
    settings: AuditSettings,
    *,
    weights: Path,
    device: str,
    reference: Path | None,
    beside: Container[str],
    unread: Sequence[Document] = (),
    timed: Timed | None = None,
    added: Sequence[str] | None = None,
    tell_short: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """Say it line by line, with the time if pieces were `timed`.

    `added` is all that is asked where the audit is finished and questions are added to it.
    `tell_short` hears of each document shorter than one window. Errors as `tokens.tokenize`.
    """
    cutter = WindowCutter(tokenizer)
    sizes = [len(tokenize(one.text, cutter).ids) for one in reading.documents]
    counts = [
        (one.name, len(one.text), len(coarse_starts(n, settings)))
        for one, n in zip(reading.documents, sizes, strict=True)
    ]
    n_windows = sum(n for *_, n in counts)
    for name in (name for name, _, n in counts if not n):
        tell_short(name)
    for name, characters, n in counts[:_NAMED]:
        said = plural(n, "window") if n else "shorter than one window, not asked"
        yield f"{name}: {characters:,} characters, {said}"
    if len(counts) > _NAMED:
        yield f"... and {plural(len(counts) - _NAMED, 'more document')}."
    yield (
        f"In all {plural(len(counts), 'document')}, {sum(n for _, n, _ in counts):,} characters: "
        f"{n_windows:,} windows of {settings.length} tokens, at one token in {settings.stride}."
    )
    is_new = added is None
    if added is not None:
        names = " and ".join(f"--{one}" for one in added) or "nothing"
        yield (
            f"The audit of these is finished and stays as it is: {names} "
            f"{'are' if len(added) > 1 else 'is'} added."
        )
    if is_new and reference is not None:
        yield (
            "The reference reads them all too, and is asked where it has most of a window right "
            "(does it repeat what the model does not, or were the two swapped?); both models are "
            f"asked up to {min(WINDOWS, sum(sizes) // settings.length)} windows of shuffled tokens "
            "(to see how far apart they are)."
        )
    n_unread = sum(
        len(coarse_starts(len(tokenize(one.text, cutter).ids), settings)) for one in unread
    )
    if unread and (is_new or "unread" in (added or ())):
        yield (
            f"{plural(len(unread), 'document')} of --unread "
            f"{'is' if len(unread) == 1 else 'are'} asked in the same way: "
            f"{n_unread:,} windows more."
        )
    if isinstance(settings, ReadSettings) and settings.read and (is_new or added):
        yield from foreseen(len(counts), len(unread), has_twin=reference is not None)
    asked = asked_of("here", settings, beside)
    if is_new:
        yield f"Then it is asked: {'; '.join(QUESTIONS[one].title for one in asked)}."
    apart = None if reference is None or not is_new else weights_apart(weights, reference)
    if apart is not None and apart < _NEARLY:
        yield (
            f"The reference's weights differ from the model's by {100 * apart:.2g} %: if it is a "
            "copy of the model, rounded or with noise, it cannot serve as a control. The audit "
            "measures that, and says so."
        )
    if is_new or "unread" in (added or ()):
        n_asked = n_unread + n_windows * is_new
        yield _time_said(n_asked, asked, settings, timed, weights, device_kind(device))
    elif added:
        yield "Time: a small part of what the audit took. Each model reads every token once."
    yield from (f"{one.name}: not read: {one.reason}" for one in reading.skipped)
    yield from excluded_said(reading.excluded)
    yield "Nothing was written."


def _time_said(
    n_windows: int,
    asked: Container[str],
    settings: AuditSettings,
    timed: Timed | None,
    weights: Path,
    kind: str,
) -> str:
    """How long it takes: measured on pieces of the documents, else the least that is assumed."""
    more = [
        said
        for name, said in (("near", "near copies"), ("unread", "--unread"), ("read", "--read"))
        if name in asked
    ]
    follows = (
        ", ".join(
            [f"up to {2 * (settings.stride - 1)} windows around each that begins right", *more]
        )
        + " and the tests of each passage"
    )
    left_out = [QUESTIONS[one].title for one in _NOT_TIMED if one in asked]
    but = f" Not counted: {'; '.join(left_out)}." * bool(left_out)
    if timed is not None and timed.windows:
        seconds = timed.loading + timed.a_window * n_windows
        return (
            f"Time: {about(seconds)}, with {follows}; measured here on {timed.windows:,} of the "
            f"{n_windows:,} windows in a few seconds, so it may take half or twice as long.{but}"
        )
    n_parameters = _count_parameters(weights)
    seconds = 2 * n_parameters * n_windows * settings.length / ASSUMED_FLOPS[kind]
    least = about(seconds).removeprefix("about ")
    took = f"at least {least} (assumed for {kind}, not measured)" if n_parameters else "not known"
    return f"Time: {took} for the windows alone. On top come {follows}: several times as long.{but}"


def weights_apart(model: Path, reference: Path) -> float | None:
    """How far the weights of two folders are apart: norm of the difference, by the model's norm.

    By the beginnings of some tensors of one name and shape; None where there are none.
    """
    from safetensors import safe_open

    def files(folder: Path) -> dict[str, Path]:
        found = dict[str, Path]()
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        return found

    def beginning(path: Path, name: str) -> Any:
        with safe_open(path, framework="pt") as file:
            part = file.get_slice(name)
            shape = part.get_shape()
            n = max(_MOST_WEIGHTS // max(prod(shape[1:]), 1), 1)
            return shape, part[:n].double()

    own, others = files(model), files(reference)
    names = sorted(own.keys() & others.keys())
    difference = whole = 0.0
    for name in names[:: max(len(names) // _TENSORS, 1)]:
        (shape, mine), (other_shape, theirs) = (beginning(one[name], name) for one in (own, others))
        if shape == other_shape:
            difference += float(((mine - theirs) ** 2).sum())
            whole += float((mine**2).sum())
    return (difference / whole) ** 0.5 if whole else None


def _count_parameters(weights: Path) -> int:
    """By the heads of its safetensors; 0 where there are none here."""
    from safetensors import safe_open

    total = 0
    for path in sorted(weights.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total
