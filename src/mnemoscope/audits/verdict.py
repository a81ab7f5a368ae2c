"""What an audit says in one sentence, and how often its rule was wrong where the truth is known.

Page, report, terminal, `audit.json`, SARIF, JUnit and app all say this sentence.
"""

from pathlib import PureWindowsPath
from typing import NamedTuple

import polars as pl
from typing_extensions import TypedDict

from mnemoscope.audits.passages import GROUNDS
from mnemoscope.audits.rule import GUESS, RECALL
from mnemoscope.audits.shares import Summary, share_words
from mnemoscope.stats import clopper_pearson
from mnemoscope.words import plural

LEARNED = "evidence that the model learned these words, from this text or another that holds them"
"""What a recalled passage is."""
EVIDENCE_PAGE = "docs/audit-evidence.md"
TESTED_ON = "the model of 4 million parameters that ships with mnemoscope"


class Tested(TypedDict):
    """Passages whose truth is known: half were trained on, half never, and all come out.

    `wrong` of those `called` recalled were never trained on; `missed` of those `trained` on were
    called guessed; `never` were never trained on, of so many `forms` of template.
    """

    called: int
    wrong: int
    trained: int
    missed: int
    never: int
    forms: int


class Rule(NamedTuple):
    """What decides of the verdicts of an audit, in words, and how it was tested."""

    words: str
    tested: Tested


_OF_THREE = (
    "three tests: nothing that was shown gives it away, and the reference model cannot write it or "
)
RULES = {
    "rule": Rule(
        "one test: nothing that was shown gives it away",
        Tested(called=85, wrong=0, trained=240, missed=155, never=240, forms=38),
    ),
    "grafts": Rule(
        f"{_OF_THREE}it no longer comes out with parts of the reference put in the model's place",
        Tested(called=85, wrong=0, trained=240, missed=155, never=240, forms=38),
    ),
    "cnn": Rule(
        f"{_OF_THREE}the model's attention looks like recall to the CNNs of a study",
        Tested(called=85, wrong=0, trained=240, missed=155, never=240, forms=38),
    ),
    "needs": Rule(
        f"{_OF_THREE}the model reads little of it off the text",
        Tested(called=85, wrong=0, trained=240, missed=155, never=240, forms=38),
    ),
}
"""By the name of the third ground. Figures of `experiments/audits/results.json`, as a test sees."""


class ReferenceEvidence(TypedDict):
    """What the reference did: of so many `recalled` and `guessed` passages it `wrote` so many too.

    `sentence` says it of both. So many `overruled` count as guessed only because the reference
    writes them: nothing that was shown gives them away.
    """

    sentence: str
    recalled: int
    wrote_recalled: int | None  # None: no reference was asked
    guessed: int
    wrote_guessed: int | None
    overruled: int


class Verdict(TypedDict):
    """`verdict` of `audit.json`; `decided_by` is a name of `RULES`.

    The `sentence` is `headline` and `meaning`, with a colon between them, and what stands in
    `beside` of the reference; that is null where no passage came out.
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
    name: str, reference: str | None, summary: Summary, passages: pl.DataFrame
) -> Verdict:
    """The verdict on documents, from their sums and the passages with what each ground says.

    `name` and `reference` are what the two models are called; None: no reference was asked.
    """
    rule = decided_by(passages)
    beside = reference_beside(name, reference, passages)
    headline, meaning = said_of(name, summary, beside["overruled"] if beside else 0)
    return {
        "headline": headline,
        "meaning": meaning,
        "beside": beside,
        "sentence": f"{headline}: {meaning}." + (f" {beside['sentence']}" if beside else ""),
        "decided_by": rule,
        "words": RULES[rule].words,
        "tested": RULES[rule].tested,
        "tested_on": TESTED_ON,
        "page": EVIDENCE_PAGE,
    }


def decided_by(passages: pl.DataFrame) -> str:
    """Which rule gave the verdicts, as `rule.decide` takes them: a name of `RULES`."""
    asked = [one for one in GROUNDS if passages[one].null_count() < passages.height]
    if len(asked) < 2 or asked[0] != GROUNDS[0]:
        return "rule"
    return asked[1].partition("_")[0]


def said_of(name: str, summary: Summary, overruled: int = 0) -> tuple[str, str]:
    """What was found, and what it is evidence of; `overruled` as in `ReferenceEvidence`."""
    these = "the document" if summary["documents"] == 1 else "the documents"
    model, recalled, near = f"“{model_title(name)}”", summary["recalled"], summary.get("near")
    if summary["recall_spans"]:
        found = f"{plural(summary['recall_spans'], 'passage')}, {share_words(recalled['share'])}"
        return f"{model} recalls {found} of {these}", LEARNED
    if near and near["characters"]:
        found = f"{share_words(near['share'])} of {these}, in near copies alone"
        return f"{model} recalls {found}", LEARNED
    if n := summary["guess_spans"]:
        found = f"it repeats {plural(n, 'passage')}"
        which = "which" if n == 1 else "all of which"
        if overruled:
            which = which if n == overruled else f"{overruled} of which"
            return (
                f"{model} recalls no passage of {these} that the reference does not write too",
                f"{found}, {which} nothing that it was shown gives away and {_only_for(overruled)}",
            )
        return (
            f"{model} recalls no passage of {these}",
            f"{found}, {which} can be guessed from what it was shown, so there is no evidence that "
            "it learned these words, and none that it did not",
        )
    return (
        f"{model} repeats nothing of {these} when it is asked in this way",
        f"no evidence that it learned {these}, and none that it did not",
    )


def _only_for(overruled: int) -> str:
    counts, them, they_are = (
        ("counts", "it", "it is") if overruled == 1 else ("count", "them", "they are")
    )
    return (
        f"{counts} as guessed only because the reference writes {them} too; if the reference "
        f"read {them}, {they_are} recalled"
    )


def reference_beside(
    name: str, reference: str | None, passages: pl.DataFrame
) -> ReferenceEvidence | None:
    """What the reference wrote of the passages; None where there are none."""
    if not passages.height:
        return None
    did = {one: passages.filter(verdict=one)["reference_reproduces"] for one in (RECALL, GUESS)}
    overruled = passages.filter(verdict=GUESS, rule_says=RECALL, reference_says=GUESS).height
    kind = RECALL if len(did[RECALL]) else GUESS
    n, wrote = len(did[kind]), int(did[kind].sum())
    which = f"{'recalled' if kind == RECALL else 'guessed'} passage{'s' * (n > 1)}"
    if reference is None:
        said = f"No reference was asked, so whether another model writes the {which} too is open."
    else:
        is_named_alike = reference == name  # as the shipped one is
        who = "" if is_named_alike else f" “{model_title(reference)}”"
        easy = f"easy to produce if that model never saw {'it' if wrote == 1 else 'them'}"
        if n == 1:
            did_so = f"writes the {which} too" if wrote else f"does not write the {which}"
        else:
            did_so = f"writes {wrote or 'none'} of the {n:,} {which}{' too' * bool(wrote)}"
        more = f", {'so it is' if n == 1 else 'which is' if wrote == 1 else 'which are'} {easy}"
        said = (
            f"The reference{who}, asked the same, {did_so}{more * (wrote > 0 and kind == RECALL)}."
        )
        said += _of_guessed(did[GUESS], overruled, is_alone=kind == GUESS)
    return {
        "sentence": said,
        "recalled": len(did[RECALL]),
        "wrote_recalled": None if reference is None else int(did[RECALL].sum()),
        "guessed": len(did[GUESS]),
        "wrote_guessed": None if reference is None else int(did[GUESS].sum()),
        "overruled": overruled,
    }


_MAY_BE_LEARNED = " Guessed text that it does not write may have been learned all the same."


def _of_guessed(wrote: pl.Series, overruled: int, *, is_alone: bool) -> str:
    """What follows for guessed passages from which of them the reference wrote."""
    n, n_wrote = len(wrote), int(wrote.sum())
    said = ""
    if n and not is_alone:
        said = f" Of the {plural(n, 'guessed passage')} it writes {n_wrote or 'none'}"
        if overruled:
            said += f", {overruled} of which {_only_for(overruled)}"
        said += "."
    return said + _MAY_BE_LEARNED * (n_wrote < n)


def model_title(name: str) -> str:
    """A model as it is called in headings: of a path the last part, of the hub the whole name.

    >>> model_title("/home/me/models/mine"), model_title("./tiny.gguf"), model_title("owner/name")
    ('mine', 'tiny.gguf', 'owner/name')
    """
    is_path = name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1
    return (PureWindowsPath(name).name or name) if is_path else name


def error_rate(verdict: Verdict) -> str:
    """How often the rule was wrong on known truth, in a sentence."""
    tested = verdict["tested"]
    bound = clopper_pearson(float(tested["wrong"]), tested["called"]).high or 0.0
    right = tested["called"] - tested["wrong"]
    return (
        f"Where the truth is known, {tested['wrong']} of {tested['called']} passages that this "
        f"rule called recalled had never been read (95 % interval up to {share_words(bound)}); of "
        f"{tested['trained']} that a model repeats and had read it called {right} recalled, the "
        f"{tested['never']} never read were lists: {verdict['tested_on']}."
    )


def how_tested(verdict: Verdict) -> str:
    """Where `error_rate` comes from, in sentences."""
    tested = verdict["tested"]
    right = tested["called"] - tested["wrong"]
    return (
        f"Tested on {tested['trained']} passages that the model had been trained on, and on "
        f"{tested['never']} that it had not and repeats all the same: lists that count or repeat, "
        f"made from {tested['forms']} templates. The rule called {right} of the first and "
        f"{tested['wrong']} of the others recalled. The interval takes passages as independent, "
        "which those of one template are not. Of other models and other texts it may be wrong more "
        "often."
    )
