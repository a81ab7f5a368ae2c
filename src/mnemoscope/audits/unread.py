"""Documents named as not read (`--unread`): what the rule of this audit says of them.

They are asked as the audited documents are, by the same grounds. What is recalled of them is a
wrong accusation, or they were read after all.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import polars as pl

from mnemoscope.audits.asking import Answer, Auditing
from mnemoscope.audits.documents import Document, Reading, read_documents, titles_of
from mnemoscope.audits.passages import accused, numbered, whole_passages
from mnemoscope.audits.questions import UnreadSettings
from mnemoscope.audits.repeats import REPEAT, repeats
from mnemoscope.audits.rule import GUESS, RECALL, UNDECIDED
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.shares import OTHERWISE, count_document, overall, share_words
from mnemoscope.audits.tokens import Text, cut_texts
from mnemoscope.columns import Column
from mnemoscope.errors import UserError
from mnemoscope.files import made_folder
from mnemoscope.progress import say
from mnemoscope.stats import Estimate, clopper_pearson
from mnemoscope.words import plural

_NAMED = 3  # recalled passages of unread documents that a sentence names
TABLE = {
    "document": Column(pl.String, "its name, one of `--unread`"),
    "start": Column(pl.Int64, "first character of the passage"),
    "end": Column(pl.Int64, "position after its last character"),
    "verdict": Column(pl.String, f"`{GUESS}`, `{RECALL}` or `{UNDECIDED}`"),
    "reason": Column(pl.String, "why, in words"),
    "text": Column(pl.String, "the passage"),
    "otherwise": Column(OTHERWISE, "characters of it that no window has right; counted nowhere"),
    "nearly": Column(pl.Boolean, f"whether it is a near copy (`near.parquet`), called {RECALL}"),
    "repeats": Column(
        REPEAT, "the audited passage that has these words too, or nearly; null: none has"
    ),
}


def unread_texts(audit: Auditing) -> Sequence[Text]:
    """The documents of `--unread` with their tokens; errors as `unread_documents`."""
    if audit.unread is None:
        own = Reading([text.document for text in audit.texts], [])
        audit.unread = cut_texts(audit.model.splitter, unread_documents(audit.settings, own))
    return audit.unread


def unread_documents(
    settings: AuditSettings, audited: Reading, *, tell: Callable[[str], None] = say
) -> list[Document]:
    """The documents of `--unread`, each text once; those that are audited too are left out.

    They are read as the audited ones are: encoding of files, columns of tables.
    Raises UserError: nothing is left, or they cannot be read.
    """
    assert isinstance(settings, UnreadSettings)
    if settings.unread is None:
        return []
    own = {one.sha256 for one in audited.documents}
    given = read_documents(
        [settings.unread], encoding=audited.encoding, columns=audited.columns
    ).documents
    kept = [*{one.sha256: one for one in given if one.sha256 not in own}.values()]
    if len(kept) < len(given):
        n = len(given) - len(kept)
        tell(f"--unread: {n:,} of {len(given):,} left out, as they are audited or stand twice.")
    if not kept:
        raise UserError(
            f"--unread {settings.unread}: nothing but the audited documents. Give others."
        )
    return kept


def depends(audit: Auditing) -> object:
    """The texts of `--unread`, by their checksums."""
    return [one.document.sha256 for one in unread_texts(audit)]


def ask(audit: Auditing) -> Answer:
    """Audit the unread documents by the same rule, and count what it says of them."""
    texts = unread_texts(audit)
    found = _found(audit, texts)
    return Answer(table=found, facts=facts_of(audit, found))


def _found(audit: Auditing, texts: Sequence[Text]) -> pl.DataFrame:
    """What comes out of the unread documents, with its verdicts; columns `TABLE`.

    Behind it their near copies that are called recall, where the audit looks for such.
    """
    from mnemoscope.audits.near import ask as ask_near
    from mnemoscope.audits.run import decide_passages, find_passages

    length = audit.settings.length
    asked = [one for one in texts if len(one.tokens.ids) >= length]
    say(f"{plural(len(asked), 'document')} of --unread, asked as the others are.")
    kept = None if audit.kept is None else made_folder(audit.kept / "unread")
    other = replace(audit, texts=asked, kept=kept, steps=(), passages=pl.DataFrame())
    find_passages(other)
    decide_passages(other, {})
    whole = whole_passages(other.passages)
    known = repeats(whole, whole_passages(audit.passages))
    stands = [known.get(row["number"]) for row in whole for _ in row["pieces"]]
    also = pl.Series("repeats", [one and one._asdict() for one in stands], dtype=REPEAT)
    found = other.passages.with_columns(also, nearly=pl.lit(False)).select(*TABLE)
    if "near" in audit.asked() and (near := ask_near(other).table) is not None:
        near = near.filter(verdict=RECALL).with_columns(
            nearly=pl.lit(True), repeats=pl.lit(None, REPEAT)
        )
        found = pl.concat([found, near.select(*TABLE)])
    return found


def again(audit: Auditing, table: pl.DataFrame) -> list[str]:
    """What the rule says now of the unread documents, where that is not what the table says."""
    found = _found(audit, unread_texts(audit)).rows()
    n = len({*map(str, found)} ^ {*map(str, table.rows())})
    return [f"unread.parquet: {plural(n, 'passage')} of --unread came out otherwise."] if n else []


def facts_of(audit: Auditing, passages: pl.DataFrame) -> Mapping[str, Any]:
    """What `audit.json` says under `unread`: the texts, what was found in them, and a sentence."""
    texts, length = unread_texts(audit), audit.settings.length
    return {
        "texts": [{"document": one.name, "sha256": one.document.sha256} for one in texts],
        **(
            counts := counts_of(
                [len(one.document.text) for one in texts if len(one.tokens.ids) >= length],
                passages,
                has_near="near" in audit.asked(),
            )
        ),
        "sentence": sentence_of(
            counts,
            titles_of([one.name for one in audit.texts]),
            accused(passages),
            {one.name: len(one.document.text) for one in texts},
        )
        + _of_other_types([one.name for one in audit.texts], [one.name for one in texts]),
    }


def _of_other_types(documents: Sequence[str], unread: Sequence[str]) -> str:
    """How many documents are of file types of which none is unread; empty where all are of these.

    >>> _of_other_types(["a.txt", "b.py", "c.csv#7"], ["d.txt"])
    ' 2 of 3 documents are of other file types (.csv, .py), for which this may not hold.'
    """
    types, own = (
        [PurePath(re.sub(r"#\d+$", "", one)).suffix.lower() for one in names]
        for names in (documents, unread)
    )
    others = [one for one in types if one and one not in own]
    if not others or not own:
        return ""
    verb = "is" if len(others) == 1 else "are"
    return (
        f" {len(others):,} of {plural(len(types), 'document')} {verb} "
        f"of other file types ({', '.join(sorted({*others}))}), for which this may not hold."
    )


def counts_of(
    characters: Sequence[int], found: pl.DataFrame, *, has_near: bool
) -> Mapping[str, Any]:
    """Documents that were asked, of so many `characters` each, and passages of each verdict.

    `near_recall_spans` are near copies that are called recall; None where none were looked for.
    """
    passages = found.filter(~pl.col("nearly"))
    rows = passages.with_columns(passage=pl.Series(numbered(passages), dtype=pl.Int64))
    sizes = {"tokens": 0, "windows": 1}
    counts = [
        count_document(name, {**sizes, "characters": 0}, rows)  # type: ignore[typeddict-item]
        for name in rows["document"].unique(maintain_order=True)
    ]
    whole, n = overall(counts), sum(characters)
    recalled = whole["recalled"]["characters"] if counts else 0
    n_recalled = sum(one["recall_spans"] > 0 for one in counts)
    known = rows.filter(pl.col("repeats").is_not_null()).unique("passage", maintain_order=True)
    return {
        "documents": len(characters),
        "characters": n,
        "recall_spans": whole["recall_spans"],
        "undecided_spans": whole["undecided_spans"],
        "guess_spans": whole["guess_spans"],
        "near_recall_spans": found.height - passages.height if has_near else None,
        "recalled": {"characters": recalled, "share": recalled / n if n else 0.0},
        "documents_recalled": n_recalled,
        "rate": clopper_pearson(n_recalled, len(characters))._asdict(),
        "known_from": [one["document"] for one in known["repeats"]],
    }


def _where(rows: Sequence[Mapping[str, Any]], lengths: Mapping[str, int]) -> str:
    """Where the longest of them stand, how long they are, and which share of their document."""
    titles = titles_of([*lengths])
    said = [
        f"{titles[row['document']]}, characters {row['start']:,} to {row['end']:,} "
        f"({plural(n := row['end'] - row['start'], 'character')}, "
        f"{share_words(n / lengths[row['document']])} of it)"
        for row in rows[:_NAMED]
    ]
    more = len(rows) - len(said)
    return "; ".join(said) + f"; and {more:,} more, in audit.html" * (more > 0)


def sentence_of(
    counts: Mapping[str, Any],
    titles: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    lengths: Mapping[str, int],
) -> str:
    """What the rule says of documents named as not read; `titles` of the audited ones.

    `rows` are those that are `accused`, in documents of such `lengths`.
    """
    n, k, rate = counts["documents"], counts["documents_recalled"], Estimate(**counts["rate"])
    if not n:
        return "None of the documents named as not read is as long as one window."
    passages = counts["recall_spans"]
    beside = [
        f"{plural(counts[f'{one}_spans'], 'passage')} {said}"
        for one, said in (("guess", "guessed"), ("undecided", "of which it cannot be told"))
        if counts[f"{one}_spans"]
    ]
    verb = "are" if passages > 1 else "is"
    found = plural(passages, "passage") if passages else "no passage"
    if passages:
        share, of = share_words(counts["recalled"]["share"]), "it" if n == 1 else "their text"
        found += f" in {k:,} of them ({rate}, 95 % interval; {share} of {of})"
    said = (
        f"How far to trust this here: of {plural(n, 'document')} named as not read, {found} {verb} "
    )
    said += "recalled by this rule"
    said += f" ({' and '.join(beside)})" if beside else ""
    if near := counts["near_recall_spans"]:
        said += f"{', but' if not passages else ', and'} {near:,} near cop"
        said += "y is" if near == 1 else "ies are"
        if not passages:
            n_near = len({row["document"] for row in rows})
            said += f", in {n_near:,} of them ({clopper_pearson(n_near, n)}, 95 % interval)"
    elif near is not None:
        said += ", nor is a near copy" if not passages else ", and no near copy"
    if not passages and not near:
        bound = share_words(rate.high or 0.0)
        return (
            f"{said}: 0 of {n:,} accused wrongly (95 % interval: at most {bound} of such "
            "documents; more of them make this bound lower)."
        )
    explained = ""
    if known := counts["known_from"]:
        those = "the words" if len(known) == passages else f"those of {len(known):,} of them"
        where = " and ".join(sorted({titles[one] for one in known}))
        explained = f", or it knows {those} from {where}, where they stand too, or nearly"
    they = "it was" if len({row["document"] for row in rows}) == 1 else "they were"
    return (
        f"{said}: {_where(rows, lengths)}. So it accuses wrongly here, or {they} read after "
        f"all{explained}."
    )
