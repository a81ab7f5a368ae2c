"""Conditions under which an audit fails: a share or a number of passages, in all or in each."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from typing_extensions import TypedDict

from mnemoscope.audits.passages import numbered, stretch_of, whole_passages
from mnemoscope.audits.records import PLACE, AuditRecord, read_near, read_verdicts
from mnemoscope.audits.rule import RECALL, UNDECIDED, VERDICTS
from mnemoscope.audits.shares import (
    KINDS,
    Counts,
    count_document,
    estimate_of,
    number_of,
    overall,
    share_beside,
    share_of,
    share_words,
)
from mnemoscope.conditions import (
    SHORT,
    TO_DO,
    Gate,
    GateResult,
    Measures,
    each_said,
    lacking,
    later_said,
    most_said,
    refuse_same,
    unchecked,
)
from mnemoscope.errors import UserError
from mnemoscope.lm.hub import step_of
from mnemoscope.stats import Estimate
from mnemoscope.words import adding_up, first_names, plural

TO_DO_HERE = TO_DO.format(
    "a checkpoint that does not repeat them ('mnemoscope watch' finds candidates, an audit decides)"
)
_WORD = re.compile(r"\S+")
_RUN = 8  # words in a row that an older audit's passage has too: they are known
_CUT = 4  # words; of so many the first and last may be cut, with two whole ones between them
_DECIDE = ("prefix", "suffix", "stride", "threshold", "patterns", "chat_template", "instruction")
"""Settings that decide which passages an audit has."""
_DECIDE_NEAR = ("near_length", "near_gap")
"""Settings that decide which near copies it has."""
_EDGE_CHARACTERS = 96  # likewise, of texts with few spaces, where the document is unchanged
_EDGE = 16  # words; fewer between and beside known ones are an edge that moved, or an edit
PASSAGES = Measures(
    KINDS,
    "passage",
    "characters",
    "'recalled > 0.5%', 'recalled > 3 passages' or 'recalled >= 1 passage in doc'",
    said={"near": "recalled or nearly so", "undecided": "cannot be told"},
    has_each=True,
)


def amount_of(gate: Gate, counts: Counts) -> float:
    """What is compared of a document, or of all: a fraction of characters, a number of passages."""
    if not gate.of_number:
        return share_of(counts, gate.kind)["share"]
    return number_of(counts, gate.kind)


def judge(
    gate: Gate,
    record: AuditRecord,
    passages: pl.DataFrame,
    baseline: Path | None,
    near: pl.DataFrame | None = None,
) -> GateResult:
    """Put the condition to an audit; with `baseline` to what its passages did not have.

    `near` are the audit's near copies, which only a baseline needs. Raises UserError: the audit or
    `baseline` did not look for what is asked, or `baseline` is no audit, or the same one.
    DamagedDataError: it cannot be read.
    """
    rows: Sequence[Counts] = record["documents"]
    n_asked = sum(not row["is_too_short"] for row in record["documents"])
    unread = {one["document"]: one["reason"] for one in record["skipped"]}
    unread |= {row["document"]: f"{SHORT}." for row in record["documents"] if row["is_too_short"]}
    beside = lacks = unchecked([*unread], len(record["skipped"]) + len(rows))
    if gate.kind == "near" and "near" not in record["summary"]:
        raise UserError("--fail-if near: near copies were not looked for here. Choose recalled.")
    new, compared, copies = "", None, None
    if baseline is not None:
        older, before = read_verdicts(baseline)
        known = read_near(baseline)
        if gate.kind == "near" and known is None:
            raise UserError(
                f"--fail-if near: {baseline} did not look for near copies, so it cannot be told "
                "which are new. Choose recalled, or make the baseline again without --near-length "
                "0."
            )
        passages = passages.with_columns(passage=pl.Series(numbered(passages), dtype=pl.Int64))
        held = held_in(record, older, before)
        passages = new_parts(passages, before, grown=not gate.of_number, held=held)
        if near is not None and known is not None:
            copies = new_copies(near, before, known, grown=False)
            near = copies if gate.of_number else new_copies(near, before, known, grown=True)
        elif known is None and (n_near := record["summary"].get("near_recall_spans")):
            near = None
            beside += (
                f"; {baseline} did not look for near copies: which of {n_near:,} are new is open"
            )
        compared = _compared(record, older, baseline, _DECIDE_NEAR * (gate.kind == "near"))
        beside += _compared_said(compared, _later_said(record, older, baseline)[0])
        rows = [count_document(row["document"], row, passages, near) for row in record["documents"]]
        new = "new "
    summary = record["summary"]
    left_out, passed_over = _left_out(gate, rows, passages, new)
    nearly, near_said = _near_left_out(gate, rows, overall(rows) if new else summary, copies, new)
    swapped = _swapped_said(record)
    names = [row["document"] for row in record["documents"]]
    every = dict(zip(names, (amount_of(gate, row) for row in rows), strict=True))
    shown = dict(zip(names, (_said(gate, row, new) for row in rows), strict=True))
    most_in, found = most_said(gate, every, shown)
    asides: Mapping[str, Any] = {
        "undecided": left_out,
        "near": nearly,
        "copies": copies,
        "swapped": bool(swapped),
        "most_in": most_in,
    }
    if gate.in_each:
        said = each_said(gate, most_in, found, n_asked, shown[names[0]]) + beside
        said += ("" if found else passed_over + near_said) + swapped
        found_of = passages, max(every.values()), n_asked, unread, lacks, found
        result = GateResult(gate, bool(found), said, *found_of, baseline=compared, **asides)
        return _advised(result)
    whole = amount_of(gate, overall(rows))
    in_all = "" if baseline is None else f" ({_said(gate, summary, ranged=False)} in all)"
    shown_whole = _said(gate, summary) if baseline is None else gate.say(whole, new)
    is_failed = gate.holds(whole)
    is_said = is_failed and len(rows) > 1 and most_in
    where = f", most in {first_names([*most_in])}" if is_said else ""
    said = f"{shown_whole}{in_all}, {gate.allowed}{where}{beside}"
    said += ("" if is_failed else passed_over + near_said) + swapped
    figures = passages, whole, n_asked, unread, lacks
    result = GateResult(gate, is_failed, said, *figures, baseline=compared, **asides)
    return _advised(result)


def _said(gate: Gate, counts: Counts, new: str = "", *, ranged: bool = True) -> str:
    """What a gate was put to, in words: a share as it stands on the pages (`share_beside`).

    Where that would be on the other side of the limit the share is printed as it is.
    """
    amount = amount_of(gate, counts)
    if gate.of_number:
        return gate.say(amount, new)
    share = estimate_of(share_of(counts, gate.kind)) if ranged else Estimate(amount)
    if gate.kind in ("guessed", "undecided"):
        beside = share_beside(counts, gate.kind)["share"]
        if gate.holds(beside) == gate.holds(amount):
            share = share._replace(value=beside)
    return gate.say(amount, new, share)


def _left_out(
    gate: Gate, rows: Sequence[Counts], passages: pl.DataFrame, new: str
) -> tuple[dict[str, Any] | None, str]:
    """Passages of which it cannot be told, where only recalled ones count: figures, and in words.

    No words where there are none. A gate that passes says them, for it acquits nobody of these, and
    whether it would fail if they were recalled.
    """
    if gate.kind not in ("recalled", "near"):
        return None, ""
    counts, unknown = overall(rows), gate._replace(kind="undecided")
    n, share = number_of(counts, "undecided"), share_of(counts, "undecided")["share"]
    parts = rows if gate.in_each else [counts]
    would = any(gate.holds(amount_of(gate, one) + amount_of(unknown, one)) for one in parts)
    if not share:
        return None, ""
    figures = {"passages": n, "share": share, "would_fail": would}
    shown = share_words(share_beside(counts, "undecided")["share"])  # as it stands on the pages
    them = "it were" if n == 1 else "they were"
    end = f": it would fail if {them} recalled" if would else ""
    if not n:  # pieces of passages that hold recalled text too
        said = f"; {shown} cannot be told, in parts of {new}recalled passages, and is not counted"
        return figures, f"{said}{end}"
    whole, inside = _undecided_shares(counts, passages)
    if inside:
        return figures, (
            f"; {plural(n, f'{new}passage')} ({share_words(whole)}), and parts of recalled ones "
            f"({share_words(inside)}), cannot be told and are not counted{end}"
        )
    is_not = "is not counted" if n == 1 else "are not counted"
    return figures, f"; {plural(n, f'{new}passage')} ({shown}) cannot be told and {is_not}{end}"


def _near_left_out(
    gate: Gate, rows: Sequence[Counts], whole: Counts, copies: pl.DataFrame | None, new: str
) -> tuple[Mapping[str, Any] | None, str]:
    """Near copies that are called recall, where only passages word for word count: `_left_out`."""
    if gate.kind != "recalled" or not (n := whole.get("near_recall_spans")):
        return None, ""
    if copies is not None:  # whole, not in pieces
        n = copies.filter(verdict=RECALL).height
    near = gate._replace(kind="near")
    parts = rows if gate.in_each else [whole]
    would = any(gate.holds(amount_of(near, one)) for one in parts)
    figures = {"passages": n, "share": whole["near"]["share"], "would_fail": would}
    them = f"1 {new}near copy is" if n == 1 else f"{n:,} {new}near copies are"
    shown = f"{share_words(whole['near']['share'])} {'newly ' * bool(new)}recalled or nearly so"
    end = ": it would fail with them" if would else ""
    return figures, f"; {them} not counted ({shown} in all){end}"


_MUCH = 0.01
"""Share that cannot be told, above which a gate that passes advises a condition on it."""


def _advised(passed: GateResult) -> GateResult:
    """It with what to do if it fails, or conditions to put beside it, each of which fails here."""
    if passed.is_failed:
        return passed._replace(to_do=TO_DO_HERE * (passed.gate.kind != "guessed"))
    wanted = {}
    if passed.undecided is not None and passed.undecided["share"] > _MUCH:
        wanted["undecided"] = f"undecided > {100 * _MUCH:.12g}%"
    if passed.near is not None and passed.near["would_fail"]:
        wanted["near"] = passed.gate.text.replace(passed.gate.kind, "near", 1)
    said = {kind: f"Add --fail-if '{one}', which fails here." for kind, one in wanted.items()}
    return passed._replace(advice=said)


def _swapped_said(record: AuditRecord) -> str:
    """That model and reference may have been swapped, as the verdict asks at length."""
    reference = record["reference"]
    beside = None if reference is None else reference.get("beside")
    return (
        "; were model and reference given in each other's place?"
        if beside and beside["is_more"]
        else ""
    )


def _undecided_shares(counts: Counts, passages: pl.DataFrame) -> list[float]:
    """What cannot be told: the shares in passages of that verdict, and in recalled ones.

    Rounded so that they add up to the one that is printed.
    """
    n = {UNDECIDED: 0, RECALL: 0}
    for one in map(stretch_of, whole_passages(passages)):
        for piece in one.pieces:
            if piece.verdict == UNDECIDED and piece.written is None:
                n[one.verdict] += piece.end - piece.start
    if not n[RECALL]:
        return [share_beside(counts, "undecided")["share"], 0.0]
    shares = [one / counts["characters"] for one in n.values()]
    return adding_up(shares, share_beside(counts, "undecided")["share"])


Held = Mapping[str, Sequence[tuple[int, int, str]]]
"""Of documents start, end and verdict of each piece of an older audit's passages, in order."""


def held_in(record: AuditRecord, older: AuditRecord, before: pl.DataFrame) -> Held:
    """Where the passages of an older audit are in documents whose text has not changed.

    By the names that the documents have in `record`; `before` are the older passages.
    """
    places: dict[str, list[tuple[int, int, str]]] = {}
    for document, *place in before.select("document", "start", "end", "verdict").iter_rows():
        places.setdefault(document, []).append((place[0], place[1], place[2]))
    named = {row["sha256"]: row["document"] for row in older["documents"]}
    ours = ((row["document"], named.get(row["sha256"], "")) for row in record["documents"])
    return {name: sorted(places.get(there, [])) for name, there in ours}


def new_parts(
    passages: pl.DataFrame, before: pl.DataFrame, *, grown: bool, held: Held | None = None
) -> pl.DataFrame:
    """What passages have that no passage of an older audit with the same verdict has: rows of them.

    By words, wherever they stand now: documents are edited and renamed, and a passage ends a few
    words further on after every training. Eight words in a row that an older passage has are known,
    and so is a whole passage that one holds, of which from four words on the first and last may be
    cut, for passages begin and end within words. What is left of a passage that is known in part is
    new from 16 words in a row on; without `grown`, which counts passages, not of one of which at
    least half the words are known: it is the older one, which now begins earlier or ends later. One
    without words (spaces, line ends) is known if such a one was there.

    `held` are places of documents whose text has not changed (`held_in`): there it is known where
    it was of the same verdict or of one that says more (recall, cannot be told, guess), however the
    passages were cut. What was less, such as a guess that is now recalled, is new.
    """
    older: dict[str, list[str]] = {
        str(verdict): part["text"].to_list() for (verdict,), part in before.group_by("verdict")
    }
    known = {verdict: _Known.of(texts) for verdict, texts in older.items()}
    rows = []
    for row in passages.iter_rows(named=True):
        verdict, text = row["verdict"], row["text"]
        at = _held_of(row, held[row["document"]]) if held else ()
        for start, end in _unknown(text, known.get(verdict, _Known()), grown=grown, held=at):
            place = {"start": row["start"] + start, "end": row["start"] + end}
            rows.append({**row, **place, "text": text[start:end]})
    return pl.DataFrame(rows, schema=passages.schema)


def _held_of(
    row: Mapping[str, Any], places: Sequence[tuple[int, int, str]]
) -> list[tuple[int, int]]:
    """Ranges of a passage's characters that were of its verdict, or of one that says more."""
    strongest = VERDICTS[: VERDICTS.index(row["verdict"]) + 1]
    found = []
    for start, end, verdict in places[: bisect_left(places, (row["end"],))][::-1]:
        if end <= row["start"]:
            break
        if verdict in strongest:
            place = max(start, row["start"]) - row["start"], min(end, row["end"]) - row["start"]
            found.append(place)
    return found[::-1]


def new_copies(
    near: pl.DataFrame, before: pl.DataFrame, known: pl.DataFrame, *, grown: bool
) -> pl.DataFrame:
    """Near copies of which an older audit has the words in no passage and no near copy.

    `known` are its near copies. As `new_parts`; without `grown` whole. `copy` is which it is.
    """
    own = near.with_row_index("copy")
    parts = new_parts(own, pl.concat([before.select(PLACE), known.select(PLACE)]), grown=grown)
    return parts if grown else own.join(parts, on="copy", how="semi")


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[at : at + _RUN]) for at in range(len(words) - _RUN + 1))


class _Known(NamedTuple):
    """Passages of an older audit: their texts, their words in lines, their runs of words."""

    texts: frozenset[str] = frozenset()
    lines: str = ""
    runs: frozenset[tuple[str, ...]] = frozenset()

    @classmethod
    def of(cls, texts: Sequence[str]) -> "_Known":
        words = [one.split() for one in texts]
        lines = "\n".join(f" {' '.join(one)} " for one in words)
        return cls(frozenset(texts), lines, frozenset(run for one in words for run in _runs(one)))

    def hold(self, words: Sequence[str]) -> bool:
        """Whether one holds these words in a row."""
        end = " " if len(words) < _CUT else ""
        return f"{end}{' '.join(words)}{end}" in self.lines


def _unknown(
    text: str, older: _Known, *, grown: bool, held: Sequence[tuple[int, int]] = ()
) -> Iterator[tuple[int, int]]:
    """Ranges of characters of a passage that are new; `held` are ranges that are known."""
    found = list(_WORD.finditer(text))
    words = [one[0] for one in found]
    known = older.hold(words) if words else text in older.texts
    if not grown and 2 * _shared((0, len(text)), held) >= len(text):
        return
    if not known and (len(words) >= _RUN or held):
        covered = [2 * _shared(one.span(), held) >= len(one[0]) for one in found]
        for at, run in enumerate(_runs(words)):
            if run in older.runs:
                covered[at : at + _RUN] = [True] * _RUN
        known = any(covered)
        if not grown and 2 * sum(covered) >= len(words):
            return
        for is_covered, part in groupby(range(len(words)), key=covered.__getitem__):
            places = list(part)
            start, end = found[places[0]].start(), found[places[-1]].end()
            is_long = len(places) >= _EDGE or (held and end - start >= _EDGE_CHARACTERS)
            if known and not is_covered and is_long:
                yield start, end
    if not known:
        yield 0, len(text)


def _shared(place: tuple[int, int], held: Sequence[tuple[int, int]]) -> int:
    """Characters of a place that lie in one of the ranges."""
    return sum(max(min(place[1], end) - max(place[0], start), 0) for start, end in held)


class _Compared(TypedDict):
    """How an older audit differs, as `--json` has it; documents are the same by name or content."""

    folder: str
    same_model: bool
    swapped: bool  # `later_said`
    settings: dict[str, Any]  # of those that decide which passages there are: what it had instead
    reference: str  # `same`, `other`, or asked `only here` or `only there`
    documents_in_both: int
    documents_only_here: int
    documents_only_there: int


def _compared(
    record: AuditRecord, older: AuditRecord, baseline: Path, more: Sequence[str] = ()
) -> _Compared:
    """Compare two audits; UserError: they are one."""
    # Two of one second differ in their commands; so does a copy to which questions were added.
    has_more = older.get("added") != record.get("added")
    spans = [one["files"].get("spans.parquet") for one in (older, record)]
    if older == record or (
        has_more and older["date"] == record["date"] and spans[0] == spans[1] is not None
    ):
        refuse_same(baseline, older["date"])
    now, then = record["settings"], older["settings"]
    prints = [one["model"]["fingerprint"] for one in (record, older)]
    own, its = (one["reference"] for one in (record, older))
    if own is None or its is None:
        reference = "same" if own is its else "only there" if own is None else "only here"
    else:
        reference = "same" if own["fingerprint"] == its["fingerprint"] else "other"
    decide = (*_DECIDE, *more)
    n_both, n_known = _n_known(record, older), _n_known(older, record)
    return {
        "folder": str(baseline),
        "same_model": prints[0] == prints[1] is not None,
        "swapped": _later_said(record, older, baseline)[1],
        "settings": {name: then.get(name) for name in decide if then.get(name) != now.get(name)},
        "reference": reference,
        "documents_in_both": n_both,
        "documents_only_here": len(record["documents"]) - n_both,
        "documents_only_there": len(older["documents"]) - n_known,
    }


def _later_said(record: AuditRecord, older: AuditRecord, baseline: Path) -> tuple[str, bool]:
    """`later_said` of two audits."""
    then, now = older["model"], record["model"]
    shares = [one["summary"]["recalled"]["share"] for one in (older, record)]
    return later_said(
        baseline,
        (older["date"], record["date"]),
        (step_of(then["name"], then["revision"]), step_of(now["name"], now["revision"])),
        repeats_more=shares[0] > shares[1],
    )


def _n_known(record: AuditRecord, other: AuditRecord) -> int:
    """How many documents of an audit another has too."""
    known = {one[key] for one in other["documents"] for key in ("document", "sha256")}
    return sum(one["document"] in known or one["sha256"] in known for one in record["documents"])


_REFERENCES = {
    "only here": "{} asked no reference and this audit did, so recalled is not decided alike",
    "only there": "{} asked a reference and this audit none, so recalled is not decided alike",
    "other": "{} asked another reference, so recalled is not decided alike",
}


def _compared_said(compared: _Compared, later: str) -> str:
    """What to add where a baseline comes later, was asked otherwise, or lacks documents."""
    baseline = compared["folder"]
    said = [later] if later else []
    said += [f"{baseline} audited the same model"] if compared["same_model"] else []
    if compared["settings"]:
        others = ", ".join(f"{name} {value}" for name, value in compared["settings"].items())
        said.append(f"{baseline} was made with {others}")
    if compared["reference"] in _REFERENCES:
        said.append(_REFERENCES[compared["reference"]].format(baseline))
    n, gone = compared["documents_in_both"], compared["documents_only_there"]
    if missing := lacking(n, n + compared["documents_only_here"], "document", baseline):
        said.append(missing)
    if n and gone:
        more = f"{plural(gone, 'document')} of {baseline} {'is' if gone == 1 else 'are'}"
        said.append(f"{more} not in this audit")
    return "".join(f"; {one}" for one in said)
