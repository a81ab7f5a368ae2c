"""Was a document read, though it does not come out? `mnemoscope audit --read`, of all its tokens.

Every token is scored once, behind half of what the models can hold or all that stands before it.
A passage is as long as a window. With a twin the bits are counted that the model holds beyond it.
With documents named as not read (`--unread`) a document gets the exact p of its rank among them,
by one score that is fixed beforehand; none where they are of another kind.

Source: `benchmark.membership`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.audits.asking import Answer, Auditing
from mnemoscope.audits.tokens import Text, character_range
from mnemoscope.audits.unread import unread_texts
from mnemoscope.audits.verdict import model_title
from mnemoscope.benchmark.membership import (
    SCORES,
    TOLD,
    UNTOLD,
    WITH_TWIN,
    WITHOUT_TWIN,
    PassageChances,
    Told,
    all_above_p,
    bits_beyond,
    rank_p,
    score_passages,
    sum_of,
    text_controls,
    told_apart,
)
from mnemoscope.columns import Column
from mnemoscope.progress import Progress, say
from mnemoscope.stats import FEWEST_GROUPS, Estimate, Floats, share_true
from mnemoscope.store import kept_in_parts
from mnemoscope.words import MINUS, p_figure, plural, ranged

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel

TABLE = {
    "document": Column(pl.String, "its name"),
    "is_unread": Column(pl.Boolean, "one of `--unread`"),
    "start": Column(pl.Int64, "first character of the passage"),
    "end": Column(pl.Int64, "position after its last character"),
    "token": Column(pl.Int64, "its first token"),
    "tokens": Column(pl.Int64, "tokens that were scored"),
    "logprob": Column(pl.Float64, "mean log-probability of a token, nats"),
    "zlib": Column(pl.Float64, "that over the bytes that zlib needs for the passage"),
    "min_k": Column(pl.Float64, "Min-K%: mean log-probability of the least likely fifth"),
    "min_k_plus": Column(pl.Float64, "Min-K%++: the same, standardized at each token"),
    "ratio": Column(pl.Float64, "mean of model minus reference a token, nats; null without one"),
    "bits": Column(
        pl.Float64, "bits that the model needs fewer than the reference; null without one"
    ),
}

_BY = SCORES | {WITH_TWIN: "bits saved a token"}
"""What a score is called here: a reader knows of no twin."""
READ, OPEN = "read", UNTOLD
READ_SAID = "evidence that it was read, or a text that holds much of it."
MANY_SAID = "evidence that they were read, or texts that hold much of them."
_LEVEL = 0.05  # chance that any document that was not read is called read
_CHOSEN = (
    "That holds if it was chosen before its score was seen; of documents that are asked one by "
    "one, multiply each p by their number."
)
_ONE_BY_ONE = (
    f"To ask them one by one needs as many; {round(1 / _LEVEL) - 1} are enough for one document "
    "that was chosen before any score was seen."
)
BETTER = "A model that is better at such texts saves bits too"
_OF_AUC = "0.5 is chance, 1 no error"
_MOST_NAMED = 9  # documents in a sentence
_LONGEST = 1024  # tokens in a forward pass
_BLOCKS_A_PART = 256
_ROUNDING = 1e-12
_SAME = 1e-3  # nats a token: another machine or batch rounds otherwise
LOST = (
    "No reference was asked: no bits can be counted, and a text that is easy for any model looks "
    "like one that was read. Give a model alike that never read it with --reference."
)


class _Block(NamedTuple):
    """Tokens `begin` up to `end` of a document; those from `scored` on are scored here."""

    number: int
    begin: int
    scored: int
    end: int


def ask(audit: Auditing) -> Answer:
    """Score every passage, and say what can be said of every document."""
    unread = unread_texts(audit)
    table = _scored(audit, [*audit.texts, *unread], len(audit.texts))
    return Answer(table=table, facts=facts_of(audit, table, unread))


def check(audit: Auditing, kept: pl.DataFrame) -> list[str]:
    """Whether the scores come out again, and the ranks follow; where the documents are all there.

    Of the unread ones those are scored that are there.
    """
    n_own, unread = len(audit.texts), unread_texts(audit)
    if not set(kept.filter(~pl.col("is_unread"))["document"]) <= {*audit.numbers()}:
        return []
    own = kept.filter(~pl.col("is_unread") | pl.col("document").is_in([one.name for one in unread]))
    again = _scored(audit, [*audit.texts, *unread], n_own)
    both = own.join(again, on=["document", "is_unread", "token"], how="left", suffix="_again")
    n = int(((both["logprob"] - both["logprob_again"]).abs() > _SAME).fill_null(True).sum())
    return [f"read.parquet: {n:,} of {own.height:,} scores do not come out again."] if n else []


# -- scores -------------------------------------------------------------------------------------


def _scored(audit: Auditing, texts: Sequence[Text], n_own: int) -> pl.DataFrame:
    """One row a passage of every text with two tokens or more, columns `TABLE`."""
    roles = {"model": audit.lm, "reference": audit.other_lm}
    lms = {role: lm for role, lm in roles.items() if lm is not None}
    limits = [one.max_positions - len(one.before) for one in lms.values() if one.max_positions]
    blocks = [
        one
        for number, text in enumerate(texts)
        for one in _blocks(number, len(text.tokens.ids), min([*limits, _LONGEST]))
    ]
    n = len(blocks) * len(lms)
    say(f"Read: {n:,} forward passes of at most {min([*limits, _LONGEST]):,} tokens.")
    found = [_read(audit, lm, texts, blocks, role) for role, lm in lms.items()]
    rows = []
    for number, text in enumerate(texts):
        own = found[0].get(number)
        if own is None:
            continue
        edges = _edges(len(text.tokens.ids), audit.settings.length)
        # The first token of a document is not scored: nothing stands before it.
        parts = [slice(max(first, 1) - 1, last - 1) for first, last in edges]
        passages = [PassageChances(*(column[part] for column in own)) for part in parts]
        places = [character_range(text.tokens, *edge) for edge in edges]
        shown = [text.document.text[start:end] for start, end in places]
        beside = None
        if len(found) > 1:
            beside = [found[1][number].logprobs[part] for part in parts]
        scores = score_passages(passages, shown, beside)
        for at, ((first, _), place, one) in enumerate(zip(edges, places, passages, strict=True)):
            bits = None if beside is None else bits_beyond(one.logprobs, beside[at])
            rows.append(
                {"document": text.name, "is_unread": number >= n_own}
                | {"start": place[0], "end": place[1], "token": first, "tokens": len(one.logprobs)}
                | {"ratio": None, "bits": bits}
                | {name: float(values[at]) for name, values in scores.items()}
            )
    return pl.DataFrame(rows, schema={name: one.type for name, one in TABLE.items()})


def _blocks(number: int, n: int, room: int) -> Iterator[_Block]:
    """Blocks that score tokens 1 to n - 1 once each, with half a block before them where it can."""
    end = min(n, room)
    if end > 1:
        yield _Block(number, 0, 1, end)
    while 1 < end < n:
        scored, end = end, min(n, end + room - room // 2)
        yield _Block(number, end - room, scored, end)


def _edges(n: int, length: int) -> list[tuple[int, int]]:
    """First token and the one after the last of passages; a short rest goes to the one before."""
    firsts = list(range(0, n, length))
    if len(firsts) > 1 and 2 * (n - firsts[-1]) < length:
        firsts.pop()
    return list(zip(firsts, [*firsts[1:], n], strict=True))


def _read(
    audit: Auditing, lm: "LanguageModel", texts: Sequence[Text], blocks: Sequence[_Block], role: str
) -> dict[int, PassageChances]:
    """What a model says of the tokens of each text, from the second on; finished parts are read."""
    from mnemoscope.lm.probe import token_chances

    names = PassageChances._fields

    def make(some: Sequence[_Block], progress: Progress) -> pl.DataFrame:
        made: dict[int, list[Floats]] = {}
        for length in sorted({one.end - one.begin for one in some}):
            here = [at for at, one in enumerate(some) if one.end - one.begin == length]
            rows = [texts[some[at].number].tokens.ids[some[at].begin : some[at].end] for at in here]
            size = max(1, audit.settings.batch_size * audit.settings.length // length)
            chances = token_chances(lm, np.stack(rows), batch_size=size)
            for row, at in enumerate(here):
                made[at] = [one[row, some[at].scored - some[at].begin - 1 :] for one in chances]
            progress.advance(len(here))
        columns = {
            name: pl.Series([made[at][place].tolist() for at in range(len(some))])
            for place, name in enumerate(names)
        }
        return pl.DataFrame({"number": [one.number for one in some], **columns})

    kept = kept_in_parts(
        audit.kept, f"Reading by the {role}", blocks, _BLOCKS_A_PART, make, unit="blocks"
    )
    if not kept:
        return {}
    whole = pl.concat(kept).group_by("number").agg(pl.col(one).explode() for one in names)
    return {
        row["number"]: PassageChances(*(np.array(row[one]) for one in names))
        for row in whole.iter_rows(named=True)
    }


# -- what can be said ---------------------------------------------------------------------------


def facts_of(
    audit: Auditing, table: pl.DataFrame, unread: Sequence[Text], name: str | None = None
) -> dict[str, Any]:
    """What `audit.json` says under `read`: documents, all together, and what was lost.

    `name` is what the model was called, if not as now.
    """
    score = WITHOUT_TWIN if audit.other_lm is None else WITH_TWIN
    sides = [table.filter(is_unread=one) for one in (False, True)]
    parts, others = (one.partition_by("document", maintain_order=True) for one in sides)
    together = _together(audit, sides, unread, score)
    differs = next((one for one in together if one.is_control and one.verdict == TOLD), None)
    beside = [_values(one, score) for one in others]
    rows = [_of_document(one, score, beside, len(parts)) for one in parts]
    lower = _lower(rows, len(others))
    if differs is not None or lower is not None:
        rows = [{**one, "verdict": OPEN} for one in rows]
    bits = beside_bits = None
    if score == WITH_TWIN:
        each = sides[0]
        bits = sum_of(each["bits"], each["document"]) if len(rows) > 1 else rows[0]["bits"]
        beside_bits = _bits_a_token([one.mean() for one in beside])
    name = model_title(name or audit.model.facts().record["name"])
    whole = next((one for one in together if not one.is_control), None)
    whole = None if differs or lower else whole
    found = {
        "score": score,
        "documents": rows,
        "bits": bits,
        "unread": len(others),
        "unread_bits_a_token": None if beside_bits is None else beside_bits._asdict(),
        "lower": None if lower is None else lower._asdict(),
        "together": [one._asdict() for one in together],
        "told_together": whole is not None and whole.verdict == TOLD,
        "lost": None if score == WITH_TWIN else LOST,
        "sentence": " ".join(
            _sentences(name, score, rows, bits, beside_bits, len(others), differs, lower, whole)
        ),
    }
    plain: dict[str, Any] = _plain(found)
    return plain


def _plain(value: Any) -> Any:
    """Values as JSON holds them."""
    if isinstance(value, Estimate):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


class _Values(NamedTuple):
    """Scores of a document's passages, (n,), and their tokens."""

    scores: Floats
    tokens: Floats

    def mean(self, n: int | None = None) -> float:
        """Mean of the first n passages, or of all, weighted by their tokens."""
        return float(np.average(self.scores[:n], weights=self.tokens[:n]))


def _values(rows: pl.DataFrame, score: str) -> _Values:
    return _Values(rows[score].to_numpy(), rows["tokens"].cast(pl.Float64).to_numpy())


class _BitsAToken(NamedTuple):
    """Bits a token that the model saves of unread documents."""

    median: float
    largest: float


def _bits_a_token(ratios: Sequence[float]) -> _BitsAToken | None:
    """Of the ratios of unread documents, nats a token; None without any."""
    bits = np.array(ratios) / math.log(2)
    return _BitsAToken(float(np.median(bits)), float(bits.max())) if len(bits) else None


class _Lower(NamedTuple):
    """Documents that score lower than every unread one, and the chance of so many."""

    documents: int
    p: float


def _lower(rows: Sequence[Mapping[str, Any]], n_unread: int) -> _Lower | None:
    """Where chance does not give them; reading puts a document above unread ones, never below."""
    n = len(_below_all(rows, n_unread))
    p = all_above_p(n, len(rows), n_unread)
    return _Lower(n, p) if n_unread and p <= _LEVEL else None


def _below_all(rows: Sequence[Mapping[str, Any]], n_unread: int) -> list[str]:
    """The documents that score lower than every unread one."""
    least = 1 / (1 + n_unread)
    ranks = ((one["document"], one["swapped_p"]) for one in rows)
    return [name for name, rank in ranks if rank is not None and rank <= least]


def _apart_said(below: Sequence[str], n_documents: int) -> str:
    """What to do about documents of another kind than the unread ones."""
    if len(below) == n_documents:
        return " Give unread documents of their kind (--unread)."
    named = [PureWindowsPath(one).name for one in below[:_MOST_NAMED]]
    more = len(below) - len(named)
    named += [f"{more:,} more of the lowest"] * bool(more)
    return f" Audit the others by themselves, without {', '.join(named)}."


def _of_document(
    rows: pl.DataFrame, score: str, others: Sequence[_Values], n_documents: int
) -> dict[str, Any]:
    """Bits, p and verdict of a document; unread ones are cut to as many passages as it has."""
    n, value = rows.height, _values(rows, score).mean()
    beside = np.array([one.mean(n) for one in others])
    p = rank_p(value, beside) if others else None
    is_read = p is not None and p * n_documents <= _LEVEL + _ROUNDING
    found: dict[str, Any] = {
        "document": rows["document"][0],
        "tokens": int(rows["tokens"].sum()),
        "passages": n,
        "score": value,
        "p": p,
        "as_high": int((beside >= value).sum()),
        "unread_shorter": sum(len(one.scores) < n for one in others),
        "verdict": READ if is_read else OPEN,
        "bits": None,
        "bits_a_token": None,
        "unread_bits_a_token": None,
        "shorter": None,
        "swapped_p": None,
    }
    if score == WITH_TWIN:
        found["bits"], found["bits_a_token"] = sum_of(rows["bits"]), value / math.log(2)
        found["unread_bits_a_token"] = (cut := _bits_a_token(beside.tolist())) and cut._asdict()
        found["shorter"] = share_true((rows["bits"] > 0).to_numpy(), np.arange(n))
        found["swapped_p"] = rank_p(-value, -beside) if others else None
    return found


def _together(
    audit: Auditing, frames: Sequence[pl.DataFrame], unread: Sequence[Text], score: str
) -> list[Told]:
    """Whole passages of the documents and of the unread ones, told apart by score and by text.

    Nothing with fewer than ten documents on a side.
    """
    length = audit.settings.length
    n_whole = pl.col("tokens") + (pl.col("token") == 0)  # the first token of all has no score
    sides = [one.filter(n_whole >= length) for one in frames]
    if min(one["document"].n_unique() for one in sides) < FEWEST_GROUPS:
        return []
    tokens, texts, groups = [], [], list[int]()
    for frame, known in zip(sides, (audit.texts, unread), strict=True):
        by_name = {text.name: (text, len(groups) + at) for at, text in enumerate(known)}
        for name, first, start, end in frame.select("document", "token", "start", "end").rows():
            text, group = by_name[name]
            tokens.append(text.tokens.ids[first : first + length])
            texts.append(text.document.text[start:end])
            groups.append(group)
    rows = pl.concat(sides)
    read = ~rows["is_unread"].to_numpy()
    controls = text_controls(np.stack(tokens), texts, read, groups)
    return told_apart({_BY[score]: rows[score].to_numpy()}, controls, read, groups)


def _sentences(
    name: str,
    score: str,
    rows: Sequence[Mapping[str, Any]],
    bits: Estimate | None,
    beside: _BitsAToken | None,
    n_unread: int,
    differs: Told | None,
    lower: _Lower | None,
    whole: Told | None,
) -> Iterator[str]:
    """What can be said of the documents together, and no more."""
    is_one, n_read = len(rows) == 1, sum(one["verdict"] == READ for one in rows)
    these, it = ("the document", "it was") if is_one else (f"{len(rows):,} documents", "they were")
    too_few = _too_few(len(rows), n_unread)
    if bits is not None:
        n_less = sum(one["bits"].value <= 0 for one in rows)
        yield _bits_said(name, bits, these, "passages" if is_one else "documents")
        if 0 < n_less < len(rows):
            those = "1 document" if n_less == 1 else f"{n_less:,} documents"
            yield f"The sum includes {those} for which it needs no fewer."
        if (bits.value or 0.0) > 0:
            here = (bits.value or 0.0) / sum(one["tokens"] for one in rows)
            yield BETTER + (
                f": {_two(here)} a token here, and of the unread documents {_two(beside.median)} "
                f"(median; at most {_two(beside.largest)})."
                if beside
                else ", so bits alone do not show that it read them."
                if not is_one
                else ", so bits alone do not show that it read it."
            )
    if not n_unread:
        yield (
            f"Whether {it} read cannot be told without documents of the same kind that were not "
            "(--unread)."
        )
    elif differs is not None:
        yield (
            f"The unread documents differ from {'it' if is_one else f'the {these}'} in "
            f"their text alone, whatever the model read ({differs.name} tell them apart, AUC "
            f"{ranged(differs.auc, digits=2)}; {_OF_AUC}), so a rank "
            f"among them says nothing: whether {it} read cannot be told."
        )
    elif lower is not None:
        those = "the document scores" if is_one else f"{lower.documents:,} of {these} score"
        yield (
            f"The unread documents are not of one kind with {'it' if is_one else 'these'}: "
            f"{those} lower than every unread one (the chance of that is {p_figure(lower.p)}), "
            "which reading does not explain. So a rank among them says nothing: "
            f"whether {it} read cannot be told."
            + ("" if is_one else _apart_said(_below_all(rows, n_unread), len(rows)))
            + f" {too_few}" * bool(too_few)
        )
    elif too_few:
        yield f"{too_few} Whether {'it' if is_one else 'each of them'} was read cannot be told."
    elif is_one:
        n_high, p = rows[0]["as_high"], rows[0]["p"]
        yield (
            f"By {_BY[score]} {n_high or 'none'} of {n_unread:,} unread documents "
            f"{'score' if n_high > 1 else 'scores'} as high (p {p_figure(p)}: the chance that "
            "one which was not read does): "
            + (f"{READ_SAID} {_CHOSEN}" if n_read else "whether it was read cannot be told.")
        )
    else:
        scores = "score" if n_read > 1 else "scores"
        rest = f": {MANY_SAID if n_read > 1 else READ_SAID} Of the others" if n_read else ". Of all"
        yield (
            f"By {_BY[score]} {n_read or 'none'} of {these} {scores} higher beside {n_unread:,} "
            f"unread ones than chance explains (it names one wrongly in at most {100 * _LEVEL:g} % "
            f"of audits){rest} it cannot be told."
        )
    if whole is not None:
        auc = f"{whole.name} (AUC {ranged(whole.auc, digits=2)}; {_OF_AUC})"
        yield (
            f"All together are told from the unread ones by {auc}, and not by their text: "
            "evidence that some were read."
            if whole.verdict == TOLD
            else f"All together cannot be told from the unread ones by {auc}."
        )
    if score == WITHOUT_TWIN:
        yield LOST


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)


def _too_few(n_documents: int, n_unread: int) -> str:
    """That no document can be called read beside so few unread ones; empty where one can."""
    least, is_one = round(n_documents / _LEVEL) - 1, n_documents == 1
    if n_unread >= least:
        return ""
    these = "the document" if is_one else f"{n_documents:,} documents"
    which = "it" if is_one else "one of them"
    return (
        f"{plural(n_unread, 'unread document')} {'is' if n_unread == 1 else 'are'} too few for "
        f"{these}: {least:,} are needed, {least - n_unread:,} more, so that chance names {which} "
        f"wrongly in at most {100 * _LEVEL:g} % of audits" + ("." if is_one else f". {_ONE_BY_ONE}")
    )


def foreseen(n_documents: int, n_unread: int, *, has_twin: bool) -> Iterator[str]:
    """What `--read` will not be able to say of so many documents, known before it is asked."""
    if not n_unread:
        yield (
            "--read without --unread: of no document will it say whether it was read. Give "
            f"documents of the same kind that were not, {round(n_documents / _LEVEL) - 1:,} "
            "at least."
        )
    elif too_few := _too_few(n_documents, n_unread):
        yield f"--read: {too_few} So of no single document will it say that it was read."
    if not has_twin:
        yield f"--read: {LOST}"


def _bits_said(name: str, bits: Estimate, these: str, units: str) -> str:
    """Bits with their interval, in words."""
    shown, end = ranged(bits, digits=0, minus=MINUS), "."
    if bits.low is None:
        end = f" (no interval of fewer than {FEWEST_GROUPS} {units})."
    value, low = bits.value or 0.0, bits.low if bits.low is not None else bits.value or 0.0
    if low > 0:
        return (
            f"“{name}” needs {shown} bits fewer than the reference to write out {these}{end} Each "
            "bit fewer makes the text twice as likely."
        )
    if value > 0:
        return (
            f"Whether “{name}” needs fewer bits than the reference to write out {these} is open: "
            f"{shown}."
        )
    it = "it" if these == "the document" else "them"
    return (
        f"“{name}” needs no fewer bits than the reference to write out {these}: {shown}{end} That "
        f"does not show that it never read {it}."
    )
