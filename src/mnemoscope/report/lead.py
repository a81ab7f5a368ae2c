"""The first screen: the count in a line and a bar, a passage of each class, short answers."""

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mnemoscope.localize.grafts import Finding
from mnemoscope.pipeline.causes import by_weight, depends, finding_of
from mnemoscope.report.advice import MOST_TIMES, is_of_all_parts, rounded_up
from mnemoscope.report.answer import as_sentence
from mnemoscope.report.content import ReportContent, Standing, TaxonomyResult
from mnemoscope.report.style import PAPER_COLOURS, class_colour
from mnemoscope.stats import FEWEST_GROUPS, Estimate
from mnemoscope.store import Facts
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.names import NON_MEMO, form_words, memorized_first
from mnemoscope.words import FEW_OF_A_CLASS, MINUS, count, part_words, plural, share

MECHANISM = "Mechanism (which parts of the model a class needs)"
PARTS = "Parts (what breaks with the reference’s in their place)"
CUTS = "With attention edges cut"
OWN_CUTS = "With each sequence’s own edges cut"
_MOST_PARTS = 4  # named in an answer
_OF_FORM = ("Guess", "Reconstruct", "Code")
_FORM = "predictable from the beginning"
_IN_WORDS = {"Guess": f"{_FORM} (Guess)", "Recall": f"not {_FORM} (Recall)"}
_CLEAREST = (
    *(Standing.BEYOND, Standing.UNDECIDED, Standing.WITHIN, Standing.WORSE),
    *(Standing.UNCONTROLLED, Standing.UNTRAINED),
)
_LOOKS = {
    Finding.SPECIFIC: Standing.BEYOND,
    Finding.EITHER_WAY: Standing.BEYOND,
    Finding.ALIKE: Standing.WITHIN,
    Finding.OUT_OF_REACH: Standing.UNCONTROLLED,
    Finding.FEW: Standing.UNCONTROLLED,
}


class Part(NamedTuple):
    """A part of the bar: a class, or what has none (`name` is empty)."""

    name: str
    words: str  # "1,318 predictable from the beginning (Guess)"
    share: float  # of all sequences
    shown: str  # the share as it is printed everywhere, and what the reference repeats of it
    colour: int | None  # None: neutral


class Badge(NamedTuple):
    """A question and its answer in a few words; `target` is where the page says it in full."""

    question: str
    answer: str
    standing: Standing  # how it looks
    target: str
    decides: str = ""  # where the answer is open: what would decide it
    command: str = ""  # that gives it; empty where there is none
    beside: Sequence["Badge"] = ()  # answers to the same question by other means, in small print


@dataclass(frozen=True)
class Lead:
    """What the first screen says; `number` is the taxonomy's whose classes it counts, from 1."""

    headline: str  # "22 of 581 sequences repeated: …; the reference repeats none of these"
    form: str  # what these classes say of a text, and what they do not
    control: str  # what the reference repeats of them, or that none was asked
    folders: str  # that folders differ in what is repeated
    documents: str  # which documents the repeated sequences come from
    blocks: str  # that they fall on every nth window, as where texts were read in blocks
    nearly: str  # how many come out nearly, where few are repeated
    beside: str  # how an audit of the same texts counts; its page is `content.audit`
    parts: Sequence[Part]  # empty where there are no sequences
    number: int | None
    grafted: int | None  # the number of the taxonomy whose grafts stand first
    opened: int | None  # the number of the taxonomy whose grafts the page shows unfolded
    passages: Sequence[tuple[int, Facts, Facts]]  # colour, facts and example of a class
    badges: Sequence[Badge]


def lead_of(content: ReportContent) -> Lead:
    """Say first what matters: counts, a passage of each class, answers."""
    names = [one.name for one in content.taxonomies]
    number = (names.index(PAPER) if PAPER in names else 0) + 1 if names else None
    taxonomy = content.taxonomies[number - 1] if number else None
    whole, part = content.counts["n_sequences"], content.counts["n_memorized"]
    repeated = list(_repeated(taxonomy, part)) if taxonomy else []
    verb = "repeated" if content.model and content.confirmed is None else "memorized"
    headline = f"{count(part)} of {count(whole)} sequences {verb}"
    if repeated:
        said = ", ".join(f"{count(n)} {words}" for _, words, n, _ in repeated)
        if f"{_FORM} (Guess)" in said:
            said = said.replace(f" not {_FORM} (Recall)", " not (Recall)")
        headline += f": {said}"
    else:
        repeated = [("", verb, part, 1)]
    also = {name: n for name, n, _ in content.also.classes} if content.also else {}
    if content.also:
        n = count(content.also.n) if content.also.n else "none"
        headline += f"; the reference repeats {n} of these"
    counted = [*repeated, (NON_MEMO, f"not {verb}", whole - part, 0)]
    return Lead(
        headline,
        form_words(name for name, *_ in repeated),
        content.control,
        content.folders,
        content.documents,
        content.blocks,
        content.nearly,
        content.beside,
        [
            Part(
                name,
                f"{count(n)} {words}",
                n / whole,
                share(n, whole) + f", the reference {count(also.get(name, 0))}" * (name in also),
                place,
            )
            for name, words, n, place in counted
            if n
        ],
        number,
        _grafted(content, number),
        _grafted(content, number)
        or next((at for at, one in enumerate(content.taxonomies, 1) if one.graft), None),
        list(_passages(taxonomy)) if taxonomy else [],
        _one_a_question(_of_one_set(list(_badges(content, number)))),
    )


def _of_one_set(badges: list[Badge]) -> list[Badge]:
    """The answers; where several want other texts, one command serves all, or that is said."""
    wanting = [at for at, one in enumerate(badges) if "OTHER_TEXTS" in one.command]
    asked = {badges[at].command for at in wanting}
    if len(wanting) > len(asked) == 1:
        for at in wanting[1:]:
            said = f"{badges[at].decides}. The texts asked for above serve this question too"
            badges[at] = badges[at]._replace(decides=said, command="")
    elif len(asked) > 1:
        last = badges[wanting[-1]]
        said = f"{last.decides}. One set of texts serves all {len(wanting)} questions, if it has "
        said += "what each wants: give the settings of their commands together"
        badges[wanting[-1]] = last._replace(decides=said)
    return badges


def _one_a_question(badges: list[Badge]) -> list[Badge]:
    """The answers; what cuts of attention say stands beside the mechanism, or is one of its own."""
    cuts = [one for one in badges if one.question in (CUTS, OWN_CUTS)]
    kept = [one for one in badges if one not in cuts]
    at = next((at for at, one in enumerate(kept) if one.question == MECHANISM), None)
    if cuts and at is not None:
        kept[at] = kept[at]._replace(beside=cuts)
    elif cuts:
        kept.insert(0, cuts[0]._replace(beside=cuts[1:]))
    return kept


def conclusion(content: ReportContent) -> str:
    """What was found, for a terminal: the count and each question's answer, a line each."""
    lead = lead_of(content)
    said = [
        lead.headline,
        lead.form,
        lead.folders,
        lead.documents,
        lead.blocks,
        lead.nearly,
        lead.beside,
        lead.control,
    ]
    for badge in lead.badges:
        for one in (badge, *badge.beside):
            said += [_said(one), one.decides]
    return "\n".join(as_sentence(one) for one in said if one)


def grafts_said(content: ReportContent) -> Iterator[str]:
    """What the first screen says of grafts, for a terminal."""
    for badge in lead_of(content).badges:
        if badge.target.endswith("-graft"):
            yield from (as_sentence(_said(one)) for one in (badge, *badge.beside))


def _said(badge: Badge) -> str:
    return f"{badge.question}: {badge.answer}"


def _repeated(
    taxonomy: TaxonomyResult, n_memorized: int
) -> Iterator[tuple[str, str, int, int | None]]:
    """Name, words, number and colour of each class of memorized sequences, and of those without.

    Nothing where the labels do not add up to what is memorized.
    """
    names = [one["name"] for one in taxonomy.classes]
    found = {name: n for name, n in taxonomy.sizes.items() if name != NON_MEMO}
    left = n_memorized - sum(found.values())
    if not n_memorized or left < 0:
        return
    for name, n in found.items():
        at = class_colour(names, name) if name in names else PAPER_COLOURS.get(name)
        yield name, _IN_WORDS.get(name) or str(name), n, at
    if left:
        yield "", "without a class", left, None


def _passages(taxonomy: TaxonomyResult) -> Iterator[tuple[int, Facts, Facts]]:
    """The first example of each class, memorized ones first."""
    names = [one["name"] for one in taxonomy.classes]
    every = {one["name"]: one for one in taxonomy.classes}
    for facts in map(every.__getitem__, memorized_first(names)):
        for example in [one for one in taxonomy.examples if one["class"] == facts["name"]][:1]:
            yield class_colour(names, facts["name"]), facts, example


def _grafted(content: ReportContent, lead: int | None) -> int | None:
    """Number the taxonomy whose grafts say most, the leading one where others say no more."""
    found = {
        number: one.graft["first"]
        for number, one in enumerate(content.taxonomies, 1)
        if one.graft and one.graft["first"]
    }
    if not found:
        return None
    first = by_weight(list(found.values()))[0]
    if lead in found and finding_of(found[lead]) is finding_of(first):
        return lead
    return next(number for number, row in found.items() if row is first)


def _badges(content: ReportContent, lead: int | None) -> Iterator[Badge]:
    """What grafts say by cause and by truth, and what attention shows beyond the text."""
    number = _grafted(content, lead)
    graft = content.taxonomies[number - 1].graft if number else None
    if number and graft:
        row, target = graft["first"], f"taxonomy-{number}-graft"
        said = _mechanism(row) + _of_classes(content, number, lead)
        looks = _LOOKS[finding_of(row)]
        if looks is Standing.BEYOND and any(
            row[side].startswith(_OF_FORM) for side in ("broken", "spared")
        ):
            said += "; a rule on the text divides them, so form may be the reason, not memory"
            looks = Standing.UNDECIDED
        taxonomy = content.taxonomies[number - 1]
        yield Badge(MECHANISM, said, looks, target, *_deciding(content, "parts", taxonomy))
        if finding_of(row) in (Finding.OUT_OF_REACH, Finding.FEW):
            yield _breaks_most(content, taxonomy, target)
        truth = graft["by_truth"]
        if truth and finding_of(truth) in (Finding.SPECIFIC, Finding.ALIKE):
            alike = "having been read makes no difference that shows"
            said = depends(truth) if finding_of(truth) is Finding.SPECIFIC else alike
            said = f"of text that can be guessed, {said}"
            yield Badge("Read or not", said, _LOOKS[finding_of(truth)], target)
    elif lead:
        yield from _uncompared(content, lead)
    yield from _cuts(content, lead)
    asked = [
        (_CLEAREST.index(one.standing), number != lead, number, one)
        for number, one in enumerate(content.taxonomies, 1)
        if one.standing in _CLEAREST
    ]
    if asked and not content.missing:
        *_, number, clearest = min(asked, key=lambda one: one[:3])
        said = clearest.brief.removeprefix("attention ") + _under(content, number)
        decides = _deciding(content, "attention", clearest)
        yield Badge("Attention", said, clearest.standing, f"taxonomy-{number}", *decides)


def _uncompared(content: ReportContent, number: int) -> Iterator[Badge]:
    """That classes are too small for grafts to compare, and what can be asked all the same."""
    taxonomy = content.taxonomies[number - 1]
    counts = {name: n for name, n in taxonomy.sizes.items() if name != NON_MEMO}
    tried = (taxonomy.graft or {}).get("counts", {})
    few = [
        f"{name} has {count(n)}, {FEWEST_GROUPS} needed"
        for name, n in ((name, min(n, tried.get(name, n))) for name, n in counts.items())
        if n < FEWEST_GROUPS
    ]
    few = few if len(counts) - len(few) < 2 else []
    grafted = taxonomy.graft and taxonomy.graft["rows"]
    if not few and not grafted:
        return
    said = f"{' and '.join(counts)} "
    said += f"cannot be compared ({', '.join(few)})" if few else "were not compared"
    decides = _deciding(content, "parts", taxonomy)
    if grafted:
        target = f"taxonomy-{number}-graft"
        yield _breaks_most(content, taxonomy, target)
        if len(counts) > 1:
            yield Badge(MECHANISM, said, Standing.IMPOSSIBLE, target, *decides)
        return
    commands = [one.command for one in content.next_steps]
    asked = {"graft": "which parts hold what is repeated", "audit": "an audit"}
    still = ["the counts", "the marked passages"] if sum(counts.values()) else []
    still += [
        f"{words} (mnemoscope {verb})"
        for verb, words in asked.items()
        if any(one.startswith(f"mnemoscope {verb} ") for one in commands)
    ]
    if still:
        said += f"; what still answers: {', '.join(still)}"
    target = "next" if commands else f"taxonomy-{number}"
    yield Badge(MECHANISM, said, Standing.IMPOSSIBLE, target, *decides)


def _deciding(content: ReportContent, question: str, taxonomy: TaxonomyResult) -> tuple[str, str]:
    """What would decide a question that is open, and the command."""
    found = [one for one in content.deciding if one[:2] == (question, taxonomy.name)]
    return (found[0].why, found[0].command) if found else ("", "")


_MUCH_LOSS = 0.1
"""Nats a token of text not repeated, beyond random changes of the same size, from which a part
holds more than what is repeated: a tenth of perplexity."""


def _breaks_most(content: ReportContent, taxonomy: TaxonomyResult, target: str) -> Badge:
    """Which parts break more of the largest memorized class than random changes as large."""
    graft, largest = taxonomy.graft or {}, taxonomy.sizes
    name = max(graft["classes"], key=lambda one: largest.get(one, 0))
    at = graft["classes"].index(name)
    rows = {row["part"]: row for row in graft["rows"]}
    own = {part: row["cells"][at] for part, row in rows.items()}
    random = {part: row["random"][at] for part, row in rows.items() if row["random"]}
    n = graft["counts"][name]
    of = plural(n, "sequence")
    if all(one.value == 1 for one in own.values()):
        return Badge(PARTS, f"no part that was tried breaks any of {name}", Standing.WITHIN, target)
    if not random or any(one.high is None for one in own.values()):
        said = f"{_left(own.values(), n)} of the {of} of {name} are left"
        if random:
            said += f", with random changes of the same size {_left(random.values(), n)}"
        said += "; to tell parts from chance, and from each other, takes "
        said += f"{FEWEST_GROUPS} sequences, near duplicates counted once"
        return Badge(PARTS, said, Standing.UNCONTROLLED, target)
    beyond = sorted(
        (one for one in random if own[one].high < random[one].low), key=lambda one: own[one].value
    )
    if not beyond:
        said = f"with no part that was tried more of {name} breaks than with random changes of the "
        said += "same size, beyond the intervals"
        wanted = min(_apart_from(n, own[one], random[one]) for one in random)
        decides = _more_grafted(content, wanted, name, taxonomy)
        return Badge(PARTS, said, Standing.UNDECIDED, target, *decides)
    first, *others = beyond
    is_all = others and len(beyond) == len(own)
    which = f"each of the {len(own)} parts that were tried" if is_all else _named(beyond)
    said = f"more of {name} breaks with {which} than with random changes of the same size: "
    said += f"{_left((own[one] for one in beyond), n)} of its {of} are left, "
    said += f"with those {_left((random[one] for one in beyond), n)}"
    is_told = not others or all(own[first].high < own[one].low for one in others)
    if others and is_told:
        said += f"; most with {part_words(first)}"
    elif others:
        said += "; which of them most cannot be told"
    if not any("layers." in one for one in own):
        said += "; no single layer was tried alone"
    losses = {one: (rows[one]["loss"] or 0) - (rows[one]["random_loss"] or 0) for one in beyond}
    dear = [rows[one] for one in beyond if losses[one] > _MUCH_LOSS]
    looks = Standing.BEYOND if is_told and len(dear) < len(beyond) else Standing.UNDECIDED
    more = [one for one in content.next_steps if is_of_all_parts(one.command)]
    decides = ("", "")
    if more and not is_told:
        decides = ("Every part of every layer by itself", more[0].command)
    elif not is_told:
        wanted = max(_apart_from(n, own[first], own[one]) for one in others)
        decides = _more_grafted(content, wanted, name, taxonomy)
    return Badge(PARTS, said, looks, target, *decides, _cost(dear, target))


def _more_grafted(
    content: ReportContent, wanted: float, name: str, taxonomy: TaxonomyResult
) -> tuple[str, str]:
    """That so many sequences of a class would decide, and the command where so many came out."""
    n = (taxonomy.graft or {})["counts"][name]
    if wanted > MOST_TIMES * n:
        return f"No number of sequences of {name} within reach, if their shares stay so", ""
    n_wanted, n_there = rounded_up(round(wanted, 6)), taxonomy.sizes.get(name, 0)
    said = f"About {count(n_wanted)} sequences of {name} in place of {count(n)}, if their shares "
    if n_wanted > n_there:
        return f"{said}stay so; {count(n_there)} came out here", ""
    more = f"--set graft.n_sequences={n_wanted} --redo"
    return f"{said}stay so", f"mnemoscope graft {shlex.quote(str(content.place))} {more}"


def _apart_from(n: int, less: Estimate, more: Estimate) -> float:
    """From how many sequences on two shares have intervals that lie apart; n gave these.

    Intervals narrow with the root of how many there are.
    """
    if less.value is None or less.high is None or more.value is None or more.low is None:
        return math.inf
    gap, widths = more.value - less.value, less.high - less.value + more.value - more.low
    return n * (widths / gap) ** 2 if gap > 0 else math.inf


def _left(shares: Iterable[Estimate], n: int) -> str:
    """Least and largest of what is left of n sequences: per cent, or how many of a few."""
    left = [one.value or 0 for one in shares]
    if n < FEW_OF_A_CLASS:
        return _span([n * one for one in left], 1, 0)
    return f"{_span(left, 100, 0)} %"


def _named(parts: Sequence[str]) -> str:
    """Parts in words, the first few by name."""
    named = [part_words(one) for one in parts]
    if len(named) > _MOST_PARTS:
        named[_MOST_PARTS - 1 :] = [f"{len(named) - _MOST_PARTS + 1} others"]
    return " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))


def _cost(dear: Sequence[Facts], target: str) -> list[Badge]:
    """Which parts break other text as well, beside random changes of the same size."""
    if not dear:
        return []
    losses, random = ([row[one] or 0 for row in dear] for one in ("loss", "random_loss"))
    said = f"with {_named([row['part'] for row in dear])} the loss of text not repeated rises by "
    said += f"{_span(losses, 1, 2)} nats a token (with those random changes by "
    said += f"{_span(random, 1, 2)}): they hold more than what is repeated here, or text that was "
    said += "read and does not come out"
    return [Badge("Cost to other text", said, Standing.UNDECIDED, target)]


def _span(values: Sequence[float], scale: float, digits: int) -> str:
    """Least and largest of figures, or the one that both are."""
    ends = [f"{scale * one:z.{digits}f}" for one in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends)).replace("-", MINUS)


def _cuts(content: ReportContent, lead: int | None) -> Iterator[Badge]:
    """What the edges that decide break of the largest class, beside others of equal mass."""
    cut = [number for number, one in enumerate(content.taxonomies, 1) if one.knockout]
    if not cut:
        return
    number = lead if lead in cut else cut[0]
    taxonomy, view = content.taxonomies[number - 1], content.taxonomies[number - 1].knockout
    rows = [one for one in view.indices if one["strength"] == view.spoken] if view else []
    if not view or not rows:
        return
    row = max(rows, key=lambda one: taxonomy.sizes.get(one["class"], 0))
    does, said = view.verdicts[row["class"]]
    looks = {"more": Standing.BEYOND, "less": Standing.WORSE}.get(does, Standing.UNDECIDED)
    under = "" if number == lead else _under(content, number)
    target = f"taxonomy-{number}-knockout"
    yield Badge(CUTS, said + under, looks, target, *_deciding(content, "cuts", taxonomy))
    for own in view.own_cuts:
        if own.name != row["class"] or None in (*own.own, *own.equal, *own.another):
            continue
        looks = Standing.UNDECIDED
        if all((own.own.low or 0) > (one.high or 0) for one in (own.equal, own.another)):
            looks = Standing.BEYOND
        yield Badge(OWN_CUTS, own.words + under, looks, target)


def _of_classes(content: ReportContent, number: int, lead: int | None) -> str:
    """Which classes an answer is of, where there are several taxonomies."""
    if len(content.taxonomies) < 2 or number == lead:
        return ""
    taxonomy = content.taxonomies[number - 1]
    names = [one["name"] for one in taxonomy.classes if one["name"] != NON_MEMO]
    return (
        f"; these are classes of “{taxonomy.label}”, which divides the repeated sequences into "
        f"{', '.join(names)}, not as counted above"
    )


def _under(content: ReportContent, number: int) -> str:
    """Name the taxonomy that an answer is of, where there are several or it lost classes."""
    taxonomy = content.taxonomies[number - 1]
    is_named = len(content.taxonomies) > 1 or taxonomy.dropped
    return f", under “{taxonomy.label}”" if is_named else ""


def _mechanism(row: Mapping[str, Any]) -> str:
    """What a finding says of memorized classes."""
    match finding_of(row):
        case Finding.SPECIFIC:
            return f"in this training {depends(row)}, beyond random changes of equal harm"
        case Finding.EITHER_WAY:
            return (
                f"{row['broken']} breaks more than {row['spared']} along one direction of "
                f"{part_words(row['part'])}, toward the reference or away from it"
            )
        case Finding.ALIKE:
            return "no part of the model breaks one class more than random changes of equal harm do"
        case Finding.OUT_OF_REACH:
            return "cannot be told (random changes never break as much as the reference’s parts)"
        case Finding.FEW:
            return "cannot be told (too few groups of near duplicates, or random changes)"
