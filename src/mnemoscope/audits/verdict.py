"""What an audit says in one sentence, and how often its rule was wrong where the truth is known.

Page, report, terminal, `audit.json`, SARIF, JUnit and app all say this sentence.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any, NamedTuple

import polars as pl
from typing_extensions import TypedDict

from mnemoscope.audits.asking import ModelRecord
from mnemoscope.audits.documents import titles_of
from mnemoscope.audits.passages import GROUNDS, whole_passages
from mnemoscope.audits.repeats import repeats
from mnemoscope.audits.rule import GUESS, RECALL, UNDECIDED
from mnemoscope.audits.shares import DocumentCounts, Summary, share_words
from mnemoscope.benchmark.membership import TOLD, UNTOLD
from mnemoscope.errors import printable
from mnemoscope.stats import clopper_pearson
from mnemoscope.study.settings import EMBEDDED
from mnemoscope.version import page_address
from mnemoscope.words import plural

LEARNED = "evidence that the model learned these words, from this text or another that holds them"
"""What a recalled passage is."""
EVIDENCE_PAGE = "docs/audit-evidence.md"
NEARLY = 0.2
"""Nats a token below which two models are nearly the same (`reference.apart`).

By `python -m experiments.audits.copies` the embedded model is 2.9 from its reference and 1.1 from
itself after 20 steps of training; 0.07 from itself with 1 % noise, 0.05 at 8 bits. A copy at 4 bits
is 0.8 from it, and is not seen by this.
"""
NEAR = 1.0
"""Nats a token below which a reference that counts may hold the same memory: a copy may, at 4 bits.
"""
KNOWN_APART = {"its reference": 2.931, "itself at 4 bits": 0.831, "itself with 1 % noise": 0.066}
"""The embedded model's distance from others, as `docs/audit-evidence.md` has it."""
TESTED_ON = "the model of 4 million parameters that ships with mnemoscope"


class Tested(TypedDict):
    """Passages whose truth is known: half were trained on, half never, and all come out.

    `wrong` of those `called` recalled were never trained on. Of those `trained` on `missed` were
    called guessed, and of `undecided` it could not be told; neither of `never_undecided` of the
    `never` trained on, lists of so many `forms` of template. Of `plain` pieces of prose and
    code that were not trained on `plain_out` came out.
    """

    called: int
    wrong: int
    trained: int
    missed: int
    undecided: int
    never: int
    never_undecided: int
    forms: int
    plain: int
    plain_out: int


class Rule(NamedTuple):
    """What decides of the verdicts of an audit, in words, and how it was tested."""

    words: str
    tested: Tested


_OF_TWO = (
    "two tests: does the text that was shown give the passage away, and does the reference model "
    "write it too? Where the two disagree, it cannot be told"
)
_UNLESS = (
    f"{_OF_TWO}. One exception: what nothing gives away counts as recalled although the reference "
    "writes it, if "
)


_BY_RULE = Tested(
    called=85,
    wrong=0,
    trained=240,
    missed=155,
    undecided=0,
    never=240,
    never_undecided=0,
    forms=38,
    plain=1360,
    plain_out=0,
)
_BESIDE: Tested = {**_BY_RULE, "missed": 116, "undecided": 39, "never_undecided": 8}
RULES = {
    "rule": Rule("one test: nothing that was shown gives it away", _BY_RULE),
    "reference": Rule(_OF_TWO, _BESIDE),
    "grafts": Rule(
        f"{_UNLESS}it no longer comes out once parts of the reference take the place of its own",
        _BESIDE,
    ),
    "cnn": Rule(
        f"{_UNLESS}small networks (the CNNs of a study) take what the model looks at for recall",
        _BESIDE,
    ),
    "needs": Rule(f"{_UNLESS}the model copies little of it from the text before it", _BESIDE),
}
"""By what decided. Figures of `experiments/audits/results.json`, as a test sees."""


class ReferenceEvidence(TypedDict):
    """What the reference did: of so many `recalled` and `undecided` passages it `wrote` so many.

    Of a recalled passage it wrote what it wrote any recalled piece of. The undecided ones are those
    that hold such a piece, `in_recalled` of them recalled passages. `sentence` says it, and why it
    cannot be told of these.
    """

    sentence: str
    recalled: int
    wrote_recalled: int | None  # None: no reference was asked
    undecided: int
    in_recalled: int
    wrote_undecided: int | None


class Verdict(TypedDict):
    """`verdict` of `audit.json`; `decided_by` is a name of `RULES`.

    The `sentence` is `headline` and `meaning`, with a colon between them, what stands in `beside`
    of the reference (null where no passage came out), and what `unread` of `audit.json` says.
    """

    headline: str
    meaning: str
    beside: ReferenceEvidence | None
    sentence: str
    decided_by: str
    words: str
    tested: Tested
    tested_on: str
    page: str


def verdict_of(
    name: str,
    reference: ModelRecord | None,
    summary: Summary,
    passages: pl.DataFrame,
    unread: Mapping[str, Any] | None = None,
    documents: Sequence[DocumentCounts] = (),
) -> Verdict:
    """The verdict on documents, from their sums and the passages with what each ground says.

    `name` is what the model is called; `reference` None: none was asked; `unread` is what
    `audit.json` says of the documents of `--unread`, and `documents` what of each audited one.
    """
    rule = decided_by(passages)
    beside = reference_beside(name, reference, passages, documents)
    headline, meaning = said_of(name, summary)
    if n := len(repeats(whole_passages(passages))):
        meaning += (
            f". {n:,} of the recalled passages repeat{'s' * (n == 1)} words of another one here"
        )
    if _swapped_said(reference):
        meaning = (
            f"model and reference may have been given in each other's place; if not, {meaning}"
        )
    said = [str(one["sentence"]) for one in (beside, unread) if one]
    return {
        "headline": headline,
        "meaning": meaning,
        "beside": beside,
        "sentence": " ".join([f"{headline}: {meaning}.", *said]),
        "decided_by": rule,
        "words": RULES[rule].words,
        "tested": RULES[rule].tested,
        "tested_on": TESTED_ON,
        "page": page_address(EVIDENCE_PAGE),
    }


def decided_by(passages: pl.DataFrame) -> str:
    """Which rule gave the verdicts, as `rule.decide` takes them: a name of `RULES`."""
    asked = [one for one in GROUNDS if passages[one].null_count() < passages.height]
    if asked[:1] != [GROUNDS[0]]:
        return "rule"
    return asked[1].partition("_")[0] if len(asked) > 1 else "reference"


def said_of(name: str, summary: Summary) -> tuple[str, str]:
    """What was found, and what it is evidence of."""
    these = "the document" if summary["documents"] == 1 else "the documents"
    model, recalled, near = f"“{model_title(name)}”", summary["recalled"], summary.get("near")
    if summary["recall_spans"]:
        found = f"{plural(summary['recall_spans'], 'passage')}, {share_words(recalled['share'])}"
        return f"{model} recalls {found} of {these}", LEARNED
    if near and near["characters"]:
        found = f"{share_words(near['share'])} of {these}, in near copies alone"
        return f"{model} recalls {found}", f"{LEARNED}; no reference is asked for near copies"
    guessed, undecided = summary["guess_spans"], summary["undecided_spans"]
    if undecided:
        more = f"; {guessed:,} more can be guessed" if guessed else ""
        it = "it" if undecided == 1 else "them"
        return (
            f"{model} repeats {plural(undecided, 'passage')} of {these}, and whether it recalls "
            f"{it} cannot be told",
            f"rule and reference disagree{more}",
        )
    if guessed:
        found = f"it repeats {plural(guessed, 'passage')}"
        which = "which" if guessed == 1 else "all of which"
        return (
            f"{model} recalls no passage of {these}",
            f"{found}, {which} can be guessed from what it was shown, so there is no evidence that "
            "it learned these words, and none that it did not",
        )
    return (
        f"{model} repeats nothing of {these} when it is asked in this way",
        f"no evidence that it learned {these}, and none that it did not",
    )


def reference_beside(
    name: str,
    reference: ModelRecord | None,
    passages: pl.DataFrame,
    documents: Sequence[DocumentCounts] = (),
) -> ReferenceEvidence | None:
    """What the reference wrote of the passages, and alone; None where there is nothing to say."""
    said_of_copy = None if reference is None else copy_said(reference.get("apart"))
    swapped = _swapped_said(reference)
    alone = _alone_said(reference, documents)
    if not passages.height and all(one is None for one in (said_of_copy, swapped, alone)):
        return None
    did = _written_by_reference(passages)
    in_recalled = len(did[UNDECIDED]) - sum(
        one["verdict"] == UNDECIDED for one in whole_passages(passages)
    )
    said = [said_of_copy] if said_of_copy else [*_of_reference(name, reference, did, in_recalled)]
    return {
        "sentence": " ".join(filter(None, [swapped, *said, alone])),
        "recalled": len(did[RECALL]),
        "wrote_recalled": None if reference is None else sum(did[RECALL]),
        "undecided": len(did[UNDECIDED]),
        "in_recalled": in_recalled,
        "wrote_undecided": None if reference is None else sum(did[UNDECIDED]),
    }


def _swapped_said(reference: ModelRecord | None) -> str | None:
    """That model and reference may have been swapped; None where nothing speaks for it."""
    found = None if reference is None else reference.get("beside")
    if found is None or not found["is_more"]:
        return None
    return (
        f"Of {plural(found['windows'], 'place')} where both were asked the reference writes on as "
        f"the document does at {found['reference']:,}, the model at {found['model']:,}. Check that "
        "the model to be audited was not given as --reference, and the reference as the model."
    )


def _alone_said(reference: ModelRecord | None, documents: Sequence[DocumentCounts]) -> str | None:
    """What the reference repeats and the model does not; None where nothing, or it is no control.

    What to check is said too, unless `_swapped_said` says it.
    """
    found = [row for row in documents if row.get("alone_spans")]
    if reference is None or not found or not is_control(reference):
        return None
    most = max(found, key=lambda row: row["alone"]["share"])
    title = printable(titles_of([row["document"] for row in documents])[most["document"]])
    share, n = share_words(most["alone"]["share"]), sum(row["alone_spans"] for row in found)
    where, these = f"{share} of {title}", "that document, and is no control for it then."
    if len(found) > 1:
        where = f"in {len(found):,} documents, most in {title}: {share} of it"
        these = "those documents, and is no control for them then."
    why = f"may have read {these}"
    if reference["name"] == EMBEDDED:
        why = "was trained on other passages of the same files as the shipped model."
    elif _swapped_said(reference) is None:
        why += (
            " Check that it never saw the documents, and that model and reference were not swapped."
        )
    return (
        f"The reference itself repeats {plural(n, 'passage')} that the model does not ({where}): "
        f"it {why}"
    )


def _written_by_reference(passages: pl.DataFrame) -> dict[str, list[bool]]:
    """Of each passage that holds a verdict whether the reference writes any such piece of it.

    Guessed ones are those that hold nothing else.
    """
    did: dict[str, list[bool]] = {RECALL: [], UNDECIDED: [], GUESS: []}
    for whole in whole_passages(passages):
        for verdict, found in did.items():
            if verdict == GUESS != whole["verdict"]:
                continue
            wrote = [
                bool(row["reference_reproduces"])
                for row in whole["pieces"]
                if row["verdict"] == verdict
            ]
            found += [any(wrote)] * bool(wrote)
    return did


def _of_reference(
    name: str, reference: ModelRecord | None, did: Mapping[str, Sequence[bool]], in_recalled: int
) -> Iterator[str]:
    """Sentences on what the reference wrote of recalled passages, else of guessed ones."""
    kind = RECALL if len(did[RECALL]) else GUESS
    n, wrote = len(did[kind]), sum(did[kind])
    which = f"{'recalled' if kind == RECALL else 'guessed'} passage{'s' * (n > 1)}"
    if reference is None:
        yield f"No reference was asked, so whether another model writes the {which} too is open."
        return
    if n:
        is_named_alike = reference["name"] == name  # as the shipped one is
        who = "" if is_named_alike else f" “{model_title(reference['name'])}”"
        if n == 1:
            did_so = f"writes the {which} too" if wrote else f"does not write the {which}"
        else:
            did_so = f"writes {wrote or 'none'} of the {n:,} {which}{' too' * bool(wrote)}"
        more = f", and one more test says recall of {'it' if wrote == 1 else 'them'}"
        yield f"The reference{who}, asked the same, {did_so}{more * (wrote and kind == RECALL)}."
    if n := len(did[UNDECIDED]):
        whole = n - in_recalled
        kept = [plural(whole, "more passage" if len(did[RECALL]) else "passage")] * bool(whole)
        if in_recalled:
            kept.append(f"parts of {plural(in_recalled, 'recalled one')}")
        why = _why_undecided(n, sum(did[UNDECIDED]))
        yield f"Of {' and of '.join(kept)} it cannot be told: {why}."
    if (apart := reference.get("apart")) is not None and is_near(apart):
        yield (
            f"The reference differs from the model by only {_factor_said(apart)}: it may hold the "
            "same memory, so what it writes too is no acquittal."
        )


def _factor_said(apart: float) -> str:
    return f"{apart:.2f} nats a token, a factor of {math.exp(apart):,.3g} in its chance"


def is_nearly_same(apart: float | None) -> bool:
    """Whether a reference so far from the model is nearly the same model, and so no control."""
    return apart is not None and apart < NEARLY


def is_near(apart: float | None) -> bool:
    """Whether a reference so far from the model may hold the same memory, as the sentence says."""
    return apart is not None and apart < NEAR


def is_control(reference: ModelRecord | None) -> bool:
    """Whether a reference was asked that counts."""
    return reference is not None and not is_nearly_same(reference.get("apart"))


def distance_said(reference: ModelRecord | None) -> str | None:
    """How far a reference is from the model, beside what is known; None where nobody measured it.

    What is known is `python -m experiments.audits.copies`.
    """
    apart = None if reference is None else reference.get("apart")
    if apart is None:
        return None
    known = KNOWN_APART
    return (
        f"differs from the model by {_factor_said(apart)} (known of the shipped model: its "
        f"reference, which read other texts, by {known['its reference']:.1f}; copies of it at 4 "
        f"bits by {known['itself at 4 bits']:.1f} and with 1 % noise by "
        f"{known['itself with 1 % noise']:.2f}; below {NEARLY} it does not count)"
    )


def copy_said(apart: float | None) -> str | None:
    """That a reference is no control, in a sentence; None where it may be one."""
    if apart is None or not is_nearly_same(apart):
        return None
    return (
        f"The reference differs from the model by {_factor_said(apart)}: it is nearly the same "
        "model and cannot serve as a control, so the rule alone decides. Name one that never saw "
        "the documents."
    )


def _why_undecided(n: int, n_wrote: int) -> str:
    """Why it cannot be told of n passages, of which the reference wrote so many."""
    said = []
    for part, (one, several) in zip((n - n_wrote, n_wrote), _WHY, strict=True):
        if part:
            who = "it" if n == 1 else "they" if part == n else f"{part:,}"
            said.append(f"{who} {one if part == 1 else several}")
    return "; ".join(said)


_WHY = (
    (
        "has a form that can be guessed, but the reference does not write it",
        "have a form that can be guessed, but the reference does not write them",
    ),
    (
        "cannot be guessed from its form, but the reference writes it too, and if the reference "
        "read it, it is recalled",
        "cannot be guessed from their form, but the reference writes them too, and if the "
        "reference read them, they are recalled",
    ),
)


def model_title(name: str) -> str:
    """A model as it is called in headings: of a path the last part, of the hub the whole name.

    >>> model_title("/home/me/models/mine"), model_title("./tiny.gguf"), model_title("owner/name")
    ('mine', 'tiny.gguf', 'owner/name')
    """
    is_path = name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1
    return (PureWindowsPath(name).name or name) if is_path else name


def unread_said(record: Mapping[str, Any]) -> str:
    """What `unread` of `audit.json` says, and that it holds for documents of that kind alone.

    That is said where the reading found the unread documents to be of another kind.
    """
    said, read = str(record["unread"]["sentence"]), record.get("read") or {}
    differs = any(one["is_control"] and one["verdict"] == TOLD for one in read.get("together", ()))
    if not (differs or read.get("lower")):
        return said
    return (
        f"{said} They and the audited documents are not all of one kind, as their scores or words "
        "show, so this holds for documents of the unread ones' kind alone."
    )


def came_out(record: Mapping[str, Any]) -> list[str]:
    """Documents of which passages are recalled, and reading cannot be told by their scores."""
    found = {one["document"] for one in record["documents"] if one["recall_spans"]}
    asked = (one for one in record["read"]["documents"] if one["verdict"] == UNTOLD)
    return [one["document"] for one in asked if one["document"] in found]


def read_said(record: Mapping[str, Any]) -> str:
    """What `read` of `audit.json` says, and what it takes from documents that came out: nothing."""
    said, n = str(record["read"]["sentence"]), len(came_out(record))
    if not n:
        return said
    these = "the document" if len(record["read"]["documents"]) == 1 else f"{n:,} of the documents"
    return (
        f"{said} This second question asks for scores alone and takes nothing from what came out: "
        f"passages of {these} are recalled, which is evidence already."
    )


def error_rate(verdict: Verdict, unread: Mapping[str, Any] | None = None) -> str:
    """How often the rule was wrong on known truth, in short; `how_tested` says it at length.

    Behind what `unread` of `audit.json` says, which was measured on the audited model.
    """
    tested = verdict["tested"]
    called, wrong = tested["called"], tested["wrong"]
    which = f"{called - wrong} of {called}" if wrong else f"all {called}"
    bound = share_words(clopper_pearson(float(wrong), called).high or 0.0)
    has_own = unread and unread["documents"]
    lead = "A test of the rule elsewhere:" if has_own else "How far to trust this:"
    return (
        f"{lead} on {verdict['tested_on']}, where it is known what was read, "
        f"{which} passages called recalled had been read (95 % interval: at most {bound} of such "
        f"calls are wrong), and {wrong or 'none'} of {tested['never']} unread lists that count or "
        "repeat was called recalled. Unread prose that comes out was not tested, and the rule "
        "misses many passages that were read."
    )


def how_tested(verdict: Verdict) -> str:
    """Where the figures of `error_rate`, which stands before it, come from, in sentences."""
    tested = verdict["tested"]
    lists, unclear = tested["never_undecided"], tested["undecided"]
    more = f" Of {lists} of them the rule could not tell." if lists else ""
    return (
        f"Whichever model is audited, the test is of {verdict['tested_on']}. Its "
        f"{tested['never']} lists are made from {tested['forms']} templates. None of them had been "
        f"read, and all came out.{more} Where more such lists come out, more calls may be wrong. "
        f"Of {tested['plain']:,} pieces of prose and code that had not been read "
        f"{tested['plain_out'] or 'none'} came out, so the test does not say how often unread "
        f"prose that comes out would be called recalled. Of {tested['trained']} passages that had "
        f"been read and came out the rule called {tested['missed']} guessed"
        + f", and of {unclear} it could not tell"
        * bool(unclear)
        + ". The interval takes passages as independent, which those of one template are not. Of "
        "other models and other texts it may be wrong more often."
    )
