"""The report's sentences: what was asked of which model, and what was found.

A null result has words as plain as a positive one. What the first screen says is in `lead.py`.
"""

import math
from collections.abc import Mapping
from typing import Any

from mnemoscope.benchmark.gain import POWER
from mnemoscope.benchmark.sources import TABLE
from mnemoscope.benchmark.verdict import EFFECT
from mnemoscope.report.content import Benchmark, ReportContent, Standing, TaxonomyResult
from mnemoscope.words import count, interval, nats, percent, points, share

_MOST_NAMED = 3
_COUNTED = {
    Standing.BEYOND: "attention adds to what can be told without any memory",
    Standing.WITHIN: f"it adds less than {EFFECT:g} nats a sequence",
    Standing.WORSE: "it did worse than the text",
    Standing.UNDECIDED: "the answer is undecided",
}


def answer(content: ReportContent) -> list[str]:
    """Say what was counted of which model, and whether it is memory or only text.

    Short paragraphs: the facts, what breaks by cause where that was tried, what attention shows;
    the facts alone when no taxonomy was measured.
    """
    whole, part = content.counts["n_sequences"], content.counts["n_memorized"]
    facts = (
        f"The published labels call {count(part)} of {count(whole)} sequences "
        f"({share(part, whole)}) memorized; the model “{content.model['name']}” says the same of "
        f"{count(content.confirmed)} sequences."
        if content.model and content.confirmed is not None
        else f"The model “{content.model['name']}” was given the first {content.prefix} tokens of "
        f"{count(whole)} sequences and finished {count(part)} of them ({share(part, whole)}) word "
        f"for word{_reference_too(content)}. That is what “memorized” means on this page."
        if content.model
        else f"Of {count(whole)} sequences {count(part)} ({share(part, whole)}) are memorized by "
        "the data set’s own label."
    )
    grafts = [one.graft for one in content.taxonomies if one.graft]
    causes = [*(one["statement"] for one in grafts), *(one["truth"] for one in grafts[:1])]
    if content.missing or not content.taxonomies:
        return [facts, *filter(None, causes)]
    return [facts, *filter(None, causes), " ".join(_findings(content))]


def _reference_too(content: ReportContent) -> str:
    """How many of these the reference finishes, asked the same; empty where none was asked."""
    if content.also is None or content.reference is None:
        return ""
    return (
        f"; the reference “{content.reference['name']}” finished {count(content.also.n)} of these"
    )


def benchmark_sentence(benchmark: Benchmark) -> str:
    """Set the headline's figure beside the other reader's and the best one without memory."""
    row, best = benchmark.headline, benchmark.best
    if row is None:
        return ""
    if not row["did_train"] or row["min_f1"].value is None:
        return _untrained(benchmark)
    own = f"{percent(row['min_f1'].value)} {interval(row['min_f1'])}".strip()
    if row["source"] == "model":
        text = f"CNNs that read the model's attention reach min-F1 {own}.{_regression(benchmark)}"
    else:
        text = f"A regression on statistics of the model's attention reaches min-F1 {own}."
        cnns = benchmark.model
        if cnns is not None and cnns["min_f1"].value is not None:
            text += f" CNNs on the same attention reach {percent(cnns['min_f1'].value)}; "
        else:
            text += " CNNs on the same attention did not train; "
        text += "the regression was chosen within the training sequences."
    if best is not None:
        text += f" Without any memory, {TABLE[best.source].phrase} reaches {percent(best.value)}."
    return f"{text}{power_sentence(row)}"


def power_sentence(row: Mapping[str, Any]) -> str:
    """Say what the study could have seen, and what the pools reach; empty without a gain."""
    if row["gain_seen"] is None:
        return ""
    return (
        f" Pooled with the readers of the text, the model's attention reaches min-F1 "
        f"{percent(row['pool_min_f1'])}, in its place {TABLE[row['gain_over']].phrase} "
        f"{percent(row['pool_min_f1_without'])}. A study of this size sees a gain of "
        f"{nats(row['gain_seen'])} nats a sequence in {100 * POWER:g}\u202f% of cases."
    )


def _untrained(benchmark: Benchmark) -> str:
    """Say that the CNNs learned nothing, and what the regression did."""
    text = (
        "The CNNs did not learn even their own training sequences; their figures are left out "
        "and nothing follows from them."
    )
    plain = benchmark.rows.get("statistics")
    regression = None if plain is None else plain["min_f1"].value
    beside = "A logistic regression on a few statistics of the same attention reaches min-F1"
    return text if regression is None else f"{text} {beside} {percent(regression)}."


def _regression(benchmark: Benchmark) -> str:
    """Say where the regression does as well as the CNNs, or better."""
    plain = benchmark.rows.get("statistics")
    regression = None if plain is None else plain["min_f1"].value
    gap = benchmark.model["over_statistics"] if benchmark.model else None
    # As well: the paired interval of the difference does not lie above zero.
    if regression is None or gap is None or gap.low is None or gap.low > 0:
        return ""
    does = "better" if gap.high < 0 else "as well within the interval"
    return (
        " A logistic regression on a few statistics of the same attention does "
        f"{does} ({percent(regression)}; CNNs minus regression {points(gap.value)} points "
        f"{interval(gap)}): this figure needs no CNN."
    )


def like_with_like(model: Mapping[str, Any]) -> str:
    """Say which trainings the excess counts where the controls had fewer settings."""
    if (
        not model["excess_settings"]
        or model["excess_min_f1"] is None
        or model["excess_min_f1"] == model["min_f1"].value
    ):
        return ""
    return (
        f"The excess counts the model’s trainings with {', '.join(model['excess_settings'])} alone "
        f"(min-F1 {percent(model['excess_min_f1'])}), the CNN settings that the controls had too."
    )


def balance_sentence(model: Mapping[str, Any]) -> str:
    """How alike the blind scores of the matched sequences are, or why there is no figure."""
    before, after = model["difference_before"], model["difference_after"]
    # Infinite where a score separates two classes wholly.
    shown = f"{before:.2f}" if math.isfinite(before) else "without bound"
    balance = f"largest standardized difference of the blind scores between classes: {shown} before"
    if model["matched_note"]:
        found = "" if after is None else f", {after:.2f} after"
        return as_sentence(f"{model['matched_note']} ({balance} matching{found})")
    left = f"{model['matched_n_per_class']:,} sequences a class are left"
    return as_sentence(f"{balance} matching, {after:.2f} after; {left}")


def as_sentence(text: str) -> str:
    """Begin with a capital and end with a full stop.

    >>> as_sentence("attention adds nothing")
    'Attention adds nothing.'
    """
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) or not text else ".")


def _findings(content: ReportContent) -> list[str]:
    """Say over all taxonomies whether attention shows memory or only text."""
    by_standing: dict[Standing, list[TaxonomyResult]] = {}
    for each in content.taxonomies:
        by_standing.setdefault(each.standing, []).append(each)
    decided = {state: by_standing[state] for state in _COUNTED if state in by_standing}
    sentences = [_decided(decided)] if decided else []
    if decided and Standing.BEYOND not in decided:
        sentences.append(_positive_control([each for group in decided.values() for each in group]))
    sentences += _undecidable(by_standing, len(content.taxonomies))
    return [sentence for sentence in sentences if sentence]


def _decided(groups: dict[Standing, list[TaxonomyResult]]) -> str:
    """Say the verdict of each taxonomy as the terminal does; count them when they are many."""
    every = [each for group in groups.values() for each in group]
    if len(every) == 1:
        return as_sentence(_verdict(every[0]))
    if len(every) <= _MOST_NAMED:
        return as_sentence("; ".join(f"under “{one.label}” {_verdict(one)}" for one in every))
    parts = [f"{_COUNTED[state]} under {len(group)}" for state, group in groups.items()]
    return f"Of {len(every)} taxonomies, {', '.join(parts)}."


def _verdict(taxonomy: TaxonomyResult) -> str:
    return (taxonomy.main.verdict if taxonomy.main else None) or ""


def _names(group: list[TaxonomyResult], n: int) -> str:
    """Name the taxonomies of a group, or count them when they are many."""
    if len(group) > _MOST_NAMED:
        return f"{len(group)} of {n} taxonomies"
    return " and ".join(f"“{each.label}”" for each in group)


def _positive_control(group: list[TaxonomyResult]) -> str:
    """Say what the output gives away when attention gives nothing away."""
    values = []
    for each in group:
        row = each.main.rows.get("logits") if each.main else None
        best = each.main.best if each.main else None
        value = row["min_f1"].value if row else None
        if value is None or best is None or value <= best.value:
            return ""
        values.append(percent(value))
    shown = " and ".join(values) if len(values) <= _MOST_NAMED else "above the text in each case"
    return (
        "The difference itself is there to be found: the log-probabilities of the model's output "
        f"tell the classes apart with min-F1 {shown} (circular: memorized means that every "
        "suffix token is the best one)."
    )


def _undecidable(groups: dict[Standing, list[TaxonomyResult]], n: int) -> list[str]:
    """Say which taxonomies have no verdict, and why."""
    why = {
        Standing.UNTRAINED: "nothing can be said: the CNNs did not learn even their own training "
        "sequences",
        Standing.UNCONTROLLED: "memory cannot be told from text: no control was run, "
        "or none trained",
        Standing.IMPOSSIBLE: "nothing was trained: a class has too few sequences",
    }
    alike: dict[str, list[TaxonomyResult]] = {}
    for state, words in why.items():
        for each in groups.get(state, []):
            said = _verdict(each) if state is Standing.UNCONTROLLED else ""
            alike.setdefault(said or words, []).append(each)
    return [f"Under {_names(group, n)} {words}." for words, group in alike.items()]
