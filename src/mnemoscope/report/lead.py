"""The first screen: the count in a line and a bar, a passage of each class, short answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mnemoscope.localize.grafts import Finding
from mnemoscope.pipeline.causes import by_weight, depends, finding_of
from mnemoscope.report.answer import as_sentence
from mnemoscope.report.content import ReportContent, Standing, TaxonomyResult
from mnemoscope.report.style import PAPER_COLOURS, class_colour
from mnemoscope.stats import FEWEST_GROUPS, NO_ESTIMATE, Estimate
from mnemoscope.store import Facts
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.names import NON_MEMO, form_words, memorized_first
from mnemoscope.words import MINUS, count, is_whole_kind, part_words, plural, ranged, share

MECHANISM = "Mechanism (which parts of the model a class needs)"
PARTS = "Parts (what breaks with the reference’s in their place)"
CUTS = "With attention edges cut"
OWN_CUTS = "With each sequence’s own edges cut"
_MOST_PARTS = 4  # named in an answer
_OF_FORM = ("Guess", "Reconstruct", "Code")
_IN_WORDS = {"Guess": "of guessable form (Guess)", "Recall": "of other form (Recall)"}
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
    words: str  # "1,318 of guessable form (Guess)"
    share: float  # of all sequences
    shown: str  # the share as it is printed, as everywhere on the page
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

    headline: str  # "2,873 of 5,000 sequences repeated: 1,318 of guessable form (Guess), …"
    form: str  # what these classes say of a text, and what they do not
    control: str  # what the reference repeats of them, or that none was asked
    folders: str  # that folders differ in what is repeated
    documents: str  # which documents the repeated sequences come from
    nearly: str  # how many come out nearly, where few are repeated
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
        headline += f": {', '.join(f'{count(n)} {words}' for _, words, n, _ in repeated)}"
    else:
        repeated = [("", verb, part, 1)]
    counted = [*repeated, (NON_MEMO, f"not {verb}", whole - part, 0)]
    return Lead(
        headline,
        form_words(name for name, *_ in repeated),
        content.control,
        content.folders,
        content.documents,
        content.nearly,
        [
            Part(name, f"{count(n)} {words}", n / whole, share(n, whole), place)
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
    """The answers; the last of several that want other texts says that one set serves all."""
    wanting = [at for at, one in enumerate(badges) if "OTHER_TEXTS" in one.command]
    if len({badges[at].command for at in wanting}) > 1:
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
    said = [lead.headline, lead.form, lead.folders, lead.documents, lead.nearly, lead.control]
    for badge in lead.badges:
        for one in (badge, *badge.beside):
            said += [f"{one.question}: {one.answer}", one.decides]
    return "\n".join(as_sentence(one) for one in said if one)


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
        if looks is Standing.BEYOND and _differ_in_form(row):
            said += "; a rule on the text divides them, so form may be the reason, not memory"
            looks = Standing.UNDECIDED
        taxonomy = content.taxonomies[number - 1]
        yield Badge(MECHANISM, said, looks, target, *_deciding(content, "parts", taxonomy))
        if finding_of(row) in (Finding.OUT_OF_REACH, Finding.FEW):
            yield _breaks_most(taxonomy, target)
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
    few = [
        f"{name} has {count(n)}, {FEWEST_GROUPS} needed"
        for name, n in counts.items()
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
        yield _breaks_most(taxonomy, target)
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
"""Nats a token of text not repeated from which more than memory breaks: a tenth of perplexity."""
_MUCH_BROKEN = 0.5  # of a class is left


def _breaks_most(taxonomy: TaxonomyResult, target: str) -> Badge:
    """The parts that leave least of the largest memorized class, beside changes as large."""
    graft, largest = taxonomy.graft or {}, taxonomy.sizes
    name = max(graft["classes"], key=lambda one: largest.get(one, 0))
    at = graft["classes"].index(name)
    rows = sorted(graft["rows"], key=lambda one: one["cells"][at].value)
    row, together, whole = rows[0], "", ""
    if not any("layers." in one["part"] for one in rows):
        whole = "; parts were tried in all layers at once, no single layer alone"
    else:
        is_whole = is_whole_kind(row["part"])
        others = [one for one in rows if not is_whole_kind(one["part"])]
        if is_whole:
            together, best = " together", others[0]["cells"][at]
            n = sum(one["cells"][at].value == best.value for one in others[1:])
            whole = f"; of single parts with {part_words(others[0]['part'])}: {_left(best)}"
            whole += f", and {plural(n, 'other')} as much" * bool(n)
        rows = [one for one in rows if is_whole_kind(one["part"]) == is_whole]
    own, random = row["cells"][at], [*row["random"], NO_ESTIMATE, NO_ESTIMATE][at]
    if own.value == 1:
        said = f"no part that was tried breaks any of {name}{whole}"
        return Badge(PARTS, said, Standing.WITHIN, target)
    least = [one for one in rows if one["cells"][at].value == own.value]
    beside = [*_untold(graft, name, rows, least, target), *_cost(least, rows, at, target)]
    if len(least) > 1:
        named = [part_words(one["part"]) for one in least]
        if len(named) > _MOST_PARTS:
            named[_MOST_PARTS - 1 :] = [f"{len(named) - _MOST_PARTS + 1} others"]
        of = plural(graft["counts"][name], "sequence")
        said = f"each of {len(least)} parts leaves {_left(own)} of the {of} of {name}: "
        said += f"{', '.join(named[:-1])} and {named[-1]}"
    else:
        said = f"{name} breaks most with {part_words(row['part'])}{together}: {_left(own)} of it "
        said += "is left"
    looks = Standing.UNCONTROLLED
    if random.value is not None:
        controls = [one["random"][at].value for one in least if one["random"]]
        said += (
            f", with random changes of the same size {_left(random)}"
            if len(least) == 1
            else f"; random changes of the same size leave {_span(controls, 100, 0)} %"
        )
        is_known = own.high is not None and random.low is not None
        looks = Standing.UNDECIDED
        breaks_more = any((one["loss"] or 0) > _MUCH_LOSS for one in least)
        if is_known and own.high < random.low and not breaks_more:
            looks = Standing.BEYOND
    return Badge(PARTS, f"{said}{whole}", looks, target, beside=beside)


def _untold(
    graft: Facts, name: str, rows: Sequence[Facts], least: Sequence[Facts], target: str
) -> Iterator[Badge]:
    """That parts cannot be ranked: their intervals overlap, or there are too few for intervals."""
    at = graft["classes"].index(name)
    high = least[0]["cells"][at].high
    others = [one["cells"][at] for one in rows if one not in least]
    if high is not None:
        others = [one for one in others if one.low is None or one.low <= high]
    if len(least) == 1 and not others:
        return
    said = f"{plural(graft['counts'][name], 'sequence')} of {name} cannot rank the parts"
    if high is None:
        said += f" (that takes {FEWEST_GROUPS} at least, near duplicates counted once)"
    if others:
        left, those = _span([one.value for one in others], 100, 0), "these" * (len(least) > 1)
        said += f"; {plural(len(others), 'other')}, leaving {left} %, cannot be told from "
        said += those or "it"
    yield Badge("Which part most", said, Standing.UNDECIDED, target)


def _cost(least: Sequence[Facts], rows: Sequence[Facts], at: int, target: str) -> Iterator[Badge]:
    """What the parts that break most cost other text, and a cheaper one that breaks much too."""
    known = sorted((one for one in least if one["loss"] is not None), key=lambda one: -one["loss"])
    if not known or known[0]["loss"] <= (0 if len(known) > 1 else _MUCH_LOSS):
        return
    most, *others = (one["loss"] for one in known)
    said = f"with {part_words(known[0]['part'])}: the loss of text not repeated changes by "
    said += f"{_span([most], 1, 2, sign='+')} nats a token"
    if others:
        said = f"most {said}, with the other{'s' * (len(others) > 1)} by "
        said += _span(others, 1, 2, sign="+")
    cheap = [
        one
        for one in rows
        if one not in least and one["loss"] is not None and one["loss"] < most / 2
        if one["cells"][at].value < _MUCH_BROKEN
    ]
    if cheap and not others:
        best = min(cheap, key=lambda one: one["cells"][at].value)
        said += f", with {part_words(best['part'])}, which leaves {_left(best['cells'][at])}, by "
        said += _span([best["loss"]], 1, 2, sign="+")
    if most > _MUCH_LOSS:
        said += "; what raises it much breaks more than memory"
    yield Badge("Cost to other text", said, Standing.UNDECIDED, target)


def _span(values: Sequence[float], scale: float, digits: int, sign: str = "-") -> str:
    """Least and largest of figures, or the one that both are."""
    ends = [f"{scale * one:{sign}z.{digits}f}" for one in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends)).replace("-", MINUS)


def _left(share: Estimate) -> str:
    return ranged(share, scale=100, unit=" %", digits=0)


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


def _differ_in_form(row: Mapping[str, Any]) -> bool:
    """Whether one of two classes is copying or code by definition."""
    return any(row[side].startswith(_OF_FORM) for side in ("broken", "spared"))


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
