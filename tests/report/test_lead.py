"""The first screen: counts that add up, a passage of each class, answers as the figures say."""

import re
from dataclasses import replace

import pytest

from mnemoscope.pipeline.reference import AlsoRepeated
from mnemoscope.report.advice import Step
from mnemoscope.report.content import ReportContent, Standing
from mnemoscope.report.lead import MECHANISM, PARTS, Badge, _of_one_set, conclusion, lead_of
from mnemoscope.stats import Estimate
from pages import Page, words_of
from tests.report.conftest import make_benchmark, make_taxonomy, page_of

BEYOND, WORSE, UNDECIDED = (0.2, 0.1, 0.3), (-0.2, -0.3, -0.1), (0.01, -0.1, 0.1)


def counted(content, n: int, n_memorized: int, *, classes=(), **facts) -> ReportContent:
    """A study of so many sequences, `classes` of which are counted by one taxonomy."""
    taxonomy = make_taxonomy(n_layers=1)
    shown = [
        one | {"n_sequences": size} for one, size in zip(taxonomy.classes, classes, strict=False)
    ]
    counts = content.counts | {"n_sequences": n, "n_memorized": n_memorized}
    taxonomies = [replace(taxonomy, classes=shown, **facts)] if classes else []
    return replace(content, counts=counts, taxonomies=taxonomies)


@pytest.mark.parametrize(
    ("n", "n_memorized", "classes", "dropped", "headline", "shares"),
    [
        (
            *(5000, 2873, (2127, 1318, 1555), ()),
            "2,873 of 5,000 sequences repeated: 1,318 predictable from the beginning (Guess), "
            "1,555 not (Recall)",
            [0.2636, 0.311, 0.4254],
        ),
        (
            *(100, 50, (50, 20, 25), (("Code", 3),)),
            "50 of 100 sequences repeated: 20 predictable from the beginning (Guess), 25 not "
            "(Recall), 3 Code, 2 without a class",
            [0.2, 0.25, 0.03, 0.02, 0.5],
        ),
        # Labels that do not belong to these counts are not counted.
        (100, 10, (50, 20, 30), (), "10 of 100 sequences repeated", [0.1, 0.9]),
        (100, 0, (100, 0, 0), (), "0 of 100 sequences repeated", [1.0]),
        (100, 30, (), (), "30 of 100 sequences repeated", [0.3, 0.7]),
        (0, 0, (), (), "0 of 0 sequences repeated", []),
    ],
)
def test_the_headline_and_the_bar_say_the_counts(
    content, n, n_memorized, classes, dropped, headline, shares
):
    shown = counted(content, n, n_memorized, classes=classes, dropped=dropped)
    lead = lead_of(shown)
    assert lead.headline == headline
    assert [part.share for part in lead.parts] == pytest.approx(shares)
    page = Page(page_of(taxonomies=shown.taxonomies, counts=shown.counts))
    assert page.unbalanced == []
    bars = [one for one in page.all("svg") if one.get("class") == "whole"]
    assert [one["aria-label"] for one in bars] == [headline] * bool(shares)


def test_the_headline_says_what_the_reference_repeats_of_the_same_in_all_and_by_class(content):
    shown = counted(content, 10, 6, classes=(4, 4, 2))
    also = AlsoRepeated(3, 6, Estimate(0.5), [("Guess", 3, 4), ("Recall", 0, 2)])
    lead = lead_of(replace(shown, also=also))
    assert lead.headline.endswith(", 2 not (Recall); the reference repeats 3 of these")
    said = [one.shown.partition(", ")[2] for one in lead.parts]
    assert said == ["the reference 3", "the reference 0", ""]
    lead = lead_of(replace(shown, also=also._replace(n=0, classes=[])))
    assert lead.headline.endswith("; the reference repeats none of these")


def test_the_headline_keeps_its_order_whatever_is_left_out(content):
    shown = counted(content, 10, 6, classes=(4, 0, 2), dropped=[("Guess", 4)])
    (taxonomy,) = shown.taxonomies
    order = [one["name"] for one in taxonomy.classes]
    left = [one for one in taxonomy.classes if one["name"] != "Guess"]
    lead = lead_of(replace(shown, taxonomies=[replace(taxonomy, classes=left, order=order)]))
    assert lead.headline == (
        "6 of 10 sequences repeated: 4 predictable from the beginning (Guess), 2 not (Recall)"
    )


def test_a_passage_of_each_class_stands_first_and_says_how_its_suffix_came_out(content):
    html = page_of()
    first = html.split('<section class="passages"')[1].split("</section>")[0]
    guess, recall, other = first.split("</article>")[:3]
    assert 'popovertarget="short-Guess"' in guess
    assert 'popovertarget="short-Recall"' in recall
    assert re.search(r'class="suffix">.*self\.table', recall, re.DOTALL)
    assert "<mark>" not in guess + recall
    assert "The model wrote instead" in other
    assert "<mark>" in other
    bare = replace(content, taxonomies=[replace(content.taxonomies[1], examples=())])
    assert 'class="passages"' not in page_of(taxonomies=bare.taxonomies)


def test_what_has_no_cnns_has_its_counts_and_passages(content):
    missing = {"what": "Not done yet: train.", "command": "mnemoscope run -o study", "also": []}
    taxonomy = make_taxonomy(n_layers=1)
    untrained = replace(taxonomy, benchmarks=(), deltas=())
    html = page_of(untrained, missing=missing)
    assert 'class="passages"' in html
    assert ">evaluation</th>" in html  # these were drawn
    undrawn = [one | {"n_train": 0, "n_eval": 0} for one in untrained.classes]
    assert ">evaluation</th>" not in page_of(replace(untrained, classes=undrawn), missing=missing)
    assert '<ul class="questions"' not in html
    assert "What more can be asked, and what it needs " in words_of(html)


@pytest.mark.parametrize(
    ("excesses", "said"),
    [
        ((WORSE, BEYOND), "Attention: adds to the text, under “Non-Memo, Guess, Recall”."),
        ((WORSE, UNDECIDED), "Attention: undecided, under “Non-Memo, Guess, Recall”."),
        ((WORSE,), "Attention: did worse than the text."),
        ((), ""),
    ],
)
def test_one_badge_says_what_the_clearest_taxonomy_shows(content, excesses, said):
    shown = [
        make_taxonomy(n_layers=1, benchmarks=(make_benchmark(excess=one),)) for one in excesses
    ]
    whole = conclusion(replace(content, taxonomies=shown))
    assert whole.endswith(said)
    assert ("Attention" in whole) == bool(said)


@pytest.mark.parametrize("impossible", ["", "too few"])
def test_classes_left_out_are_not_named_as_compared(content, impossible):
    shown = replace(
        make_taxonomy(("Non-Memo", "Recall"), n_layers=1),
        title="Guess or Recall",
        dropped=[("Guess", 3)],
    )
    shown = replace(shown, impossible=impossible or None)
    label = "Guess or Recall" if impossible else "Recall against Non-Memo (Guess left out)"
    assert shown.label == label
    badges = lead_of(replace(content, taxonomies=[shown])).badges
    said = [one.answer for one in badges if one.question == "Attention"]
    assert all(one.endswith(f", under “{label}”") for one in said)
    assert bool(said) != bool(impossible)


FINDINGS = {
    "SPECIFIC": f"{MECHANISM}: in this training Recall depends on the queries and keys of layer 0 ",
    "EITHER_WAY": f"{MECHANISM}: Recall breaks more than Guess along one direction of ",
    "ALIKE": f"{MECHANISM}: no part of the model breaks one class more than random ",
    "OUT_OF_REACH": f"{MECHANISM}: cannot be told (random changes never break as much",
    "FEW": f"{MECHANISM}: cannot be told (too few groups",
}
BROKEN = {
    "classes": ["Guess", "Recall"],
    "counts": {"Guess": 20, "Recall": 30},
    "rows": [
        {
            **{"part": "layers.0.qk", "cells": [Estimate(0.0), Estimate(0.9, 0.8, 1.0)]},
            **{"random": [Estimate(0.4), Estimate(1.0, 1.0, 1.0)], "loss": 0.1, "random_loss": 0.0},
        },
        {
            **{"part": "layers.1.mlp", "cells": [Estimate(1.0), Estimate(0.2, 0.1, 0.31)]},
            **{
                "random": [Estimate(1.0), Estimate(0.9, 0.85, 0.95)],
                "loss": 0.4,
                "random_loss": 0.0,
            },
        },
    ],
}
OF_TRUTH = {
    "SPECIFIC": "Read or not: of text that can be guessed, what was read depends on the MLP of ",
    "ALIKE": "Read or not: of text that can be guessed, having been read makes no difference",
}


@pytest.mark.parametrize(("finding", "said"), FINDINGS.items())
@pytest.mark.parametrize("truth", [*FINDINGS, None])
def test_a_badge_says_what_grafts_decide(content, finding, said, truth):
    row = {"broken": "Recall", "spared": "Guess", "part": "layers.0.qk"}
    row |= {"specific": Estimate(0.1)}
    of_truth = {"broken": "read", "spared": "never read", "part": "layers.1.mlp"}
    by_truth = {"by_truth": truth and of_truth | {"specific": Estimate(0.2), "finding": truth}}
    grafts = [{"first": None}, {"first": row | {"finding": finding}} | by_truth]
    if finding == "SPECIFIC":
        grafts.append({"first": row | {"finding": "ALIKE", "specific": Estimate(0.9)}})
    grafts = [one | BROKEN for one in grafts]
    shown = replace(content, taxonomies=[make_taxonomy(n_layers=1, graft=one) for one in grafts])
    whole = conclusion(shown)
    assert said in whole
    assert OF_TRUTH.get(truth, "") in whole
    most = f"{PARTS}: 0 to 100 % of the 20 sequences of Guess are left, with random "
    most += "changes of the same size 40 to 100 %; to tell parts from chance"
    assert (most in whole) == (finding in ("OUT_OF_REACH", "FEW"))
    assert ("Read or not" in whole) == (truth in OF_TRUTH)
    badge = lead_of(shown).badges[0]
    assert badge.target == "taxonomy-2-graft"
    # A rule on the text makes Guess: its form may be what the part holds.
    assert ("form may be the reason" in badge.answer) == (finding in ("SPECIFIC", "EITHER_WAY"))
    assert badge.standing is not Standing.BEYOND


def test_classes_of_one_form_are_told_apart_without_a_reservation(content):
    row = {"broken": "Recite[5]", "spared": "Recollect", "part": "layers.0.qk"}
    row |= {"specific": Estimate(0.1), "finding": "SPECIFIC"}
    graft = {"first": row, "by_truth": None}
    shown = replace(content, taxonomies=[make_taxonomy(n_layers=1, graft=graft)])
    badge = lead_of(shown).badges[0]
    assert badge.standing is Standing.BEYOND
    assert "form" not in badge.answer


def test_among_equal_findings_the_leading_taxonomy_speaks(content):
    row = {"broken": "B", "spared": "C", "part": "layers.0.qk", "specific": Estimate(0.9)}
    own = row | {"broken": "Recall", "spared": "Guess", "specific": Estimate(0.1)}
    for finding, number, name in (("SPECIFIC", 2, "Recall"), ("ALIKE", 1, "B")):
        grafts = [row | {"finding": "SPECIFIC"}, own | {"finding": finding}]
        shown = [
            replace(taxonomy, graft={"first": one, "by_truth": None, "doses": []})
            for taxonomy, one in zip(content.taxonomies, grafts, strict=True)
        ]
        lead = lead_of(replace(content, taxonomies=shown))
        assert (lead.grafted, lead.badges[0].target) == (number, f"taxonomy-{number}-graft")
        answer = lead.badges[0].answer
        assert f"{name} depends on" in answer
        of = f"; these are classes of “{content.taxonomies[0].label}”, which divides the repeated "
        assert (of in answer) == (number == 1)


def test_one_set_of_texts_serves_all_questions_that_want_some():
    own, other = (
        Badge("q", "a", Standing.UNDECIDED, "t", "Why", f"mnemoscope run s OTHER_TEXTS {at}")
        for at in range(2)
    )
    plain = own._replace(command="mnemoscope run s")
    first, last, rest = _of_one_set([own, other, plain])
    assert (first, rest) == (own, plain)
    assert last.decides.startswith("Why. One set of texts serves all 2 questions")
    assert _of_one_set([own, plain]) == [own, plain]
    said = "Why. The texts asked for above serve this question too"
    again = own._replace(decides=said, command="")
    assert _of_one_set([own, plain, own]) == [own, plain, again]  # one command is shown once


@pytest.mark.parametrize(("n", "said"), [(10, False), (3, True)])
def test_what_cannot_be_asked_of_small_classes_is_said_with_the_number(content, n, said):
    few = make_taxonomy(n_layers=1, names=("Non-Memo", "Guess", "Recall"))
    sizes = dict(zip(("Non-Memo", "Guess", "Recall"), (900, n, 30), strict=True))
    classes = [one | {"n_sequences": sizes[one["name"]]} for one in few.classes]
    shown = replace(few, classes=classes, impossible="too few", benchmarks=(), deltas=())
    steps = [Step("", "mnemoscope graft s"), Step("", "mnemoscope audit m t -o a")]
    bare = replace(content, taxonomies=[shown], missing={"what": "x"}, next_steps=steps)
    whole = conclusion(bare)
    answer = "Guess and Recall cannot be compared (Guess has 3, 10 needed)"
    still = "the counts, the marked passages, which parts hold what is repeated (mnemoscope graft)"
    still += ", an audit (mnemoscope audit)."
    assert (f"{MECHANISM}: {answer}; what still answers: {still}" in whole) == said
    grafted = replace(shown, graft={"first": None, "by_truth": None, **BROKEN})
    lead = lead_of(replace(bare, taxonomies=[grafted]))
    parts, badge = lead.badges
    (cost,) = parts.beside
    assert cost.answer.startswith("with the MLP of layer 1 the loss of text not repeated rises by")
    assert cost.answer.endswith("or text that was read and does not come out")
    assert parts.answer.startswith("more of Recall breaks with the MLP of layer 1 than with")
    assert ": 20 % of its 30 sequences are left, with those 90 %" in parts.answer
    assert parts.standing is Standing.UNDECIDED
    mild = [one | {"loss": 0.05} for one in BROKEN["rows"]]
    mildly = replace(grafted, graft=grafted.graft | {"rows": mild})
    (parts, _) = lead_of(replace(bare, taxonomies=[mildly])).badges
    assert (parts.standing, parts.beside) == (Standing.BEYOND, [])
    assert badge.answer == (answer if said else "Guess and Recall were not compared")
    assert (lead.opened, badge.target) == (1, "taxonomy-1-graft")
    unharmed = BROKEN["rows"][0] | {"cells": [Estimate(0.5), Estimate(1.0)]}
    whole_again = replace(grafted, graft=grafted.graft | {"rows": [unharmed]})
    assert "no part that was tried breaks any of Recall." in conclusion(
        replace(bare, taxonomies=[whole_again])
    )
    kinds = [one | {"part": one["part"].rpartition(".")[2]} for one in BROKEN["rows"]]
    quick = replace(grafted, graft=grafted.graft | {"rows": kinds})
    answer = lead_of(replace(bare, taxonomies=[quick])).badges[0].answer
    assert "with the MLPs of all layers than with random changes of the same size: 20 %" in answer
    assert answer.endswith("; no single layer was tried alone")
    both = [quick.graft["rows"][1], BROKEN["rows"][0]]
    full = replace(grafted, graft=grafted.graft | {"rows": both})
    answer = lead_of(replace(bare, taxonomies=[full])).badges[0].answer
    assert answer.endswith("20 % of its 30 sequences are left, with those 90 %")
    assert "Attention" not in whole  # which the page and the terminal say above, once


PARTS_OF_SEVEN = [("qk", 0, 6, 0.1), ("mlp", 0, 5, 1.1), ("unembedding", 0, 5, 0.4)]
PARTS_OF_SEVEN += [("output", 1, 6, 0.1), ("values", 3, 6, None)]


def test_only_parts_that_break_more_than_random_changes_are_named_with_what_they_cost(content):
    rows = [
        {"part": name, "cells": [Estimate(n / 7)], "random": [Estimate(r / 7)], "loss": loss}
        for name, n, r, loss in PARTS_OF_SEVEN
    ]
    graft = {"first": None, "by_truth": None, "classes": ["Recall"], "counts": {"Recall": 7}}
    few = make_taxonomy(n_layers=1, names=("Non-Memo", "Guess", "Recall"), impossible="too few")
    few = replace(few, benchmarks=(), deltas=())

    def said(rows) -> str:
        shown = replace(few, graft=graft | {"rows": rows})
        return conclusion(replace(content, taxonomies=[shown], missing="x"))

    whole = said(rows)
    assert (
        "0 to 3 of the 7 sequences of Recall are left, with random changes of the same size 5"
        in whole
    )
    assert "to tell parts from chance, and from each other, takes 10 sequences" in whole
    # Intervals that lie below those of the random changes tell parts from them.
    ends = [(0.0, 0.0, 0.2), (0.1, 0.1, 0.4), (0.5, 0.3, 0.7)]
    random = [Estimate(0.8, 0.6, 0.9)]
    known = [
        one | {"cells": [Estimate(*end)], "random": random, "loss": 0.05, "random_loss": 0.0}
        for one, end in zip(rows, ends, strict=False)
    ]
    two = "the queries and keys of all layers and the MLPs of all layers than with "
    two += "random changes of the same size: 0 to 1 of its 7 sequences are left, with those 6"
    assert f"{two}; which of them most cannot be told" in said(known)
    assert "Cost to other text" not in said(known)
    # The parts are 0.1 apart, and their intervals reach 0.2 and 0 towards each other: four times
    # as many sequences narrow these to the half.
    fit = "bout 28 sequences of Recall in place of 7, if their shares stay so"
    assert f"{fit}." in said(known)
    shown = replace(few, graft=graft | {"rows": known})
    badge, _ = lead_of(replace(content, taxonomies=[shown], missing="x", place="a b")).badges
    assert badge.command == "mnemoscope graft 'a b' --set graft.n_sequences=28 --redo"
    sizes = [one | {"n_sequences": 12} for one in few.classes]
    scarce = replace(few, classes=sizes, graft=graft | {"rows": known})
    shown = conclusion(replace(content, taxonomies=[scarce], missing="x"))
    assert f"{fit}; 12 came out here" in shown
    close = [known[0] | {"cells": [Estimate(0.1, 0.0, 0.2)]}, known[1]]
    assert "No number of sequences of Recall within reach" in said(close)
    assert "bout 13 sequences of Recall in place of 7" in said(known[2:])  # from random changes
    apart = [known[0], known[1] | {"cells": [Estimate(0.3, 0.25, 0.4)]}]
    assert "with each of the 2 parts that were tried than" in said(apart)
    assert "with those 6; most with the queries and keys of all layers" in said(apart)
    assert "with no part that was tried more of Recall breaks than" in said(known[2:])
    dear = [known[0] | {"loss": 1.04, "random_loss": 0.02}, known[1] | {"loss": 0.15}]
    assert (
        "the queries and keys of all layers and the MLPs of all layers the loss of text not "
        "repeated rises by 0.15 to 1.04 nats a token (with those random changes by 0.00 to 0.02)"
    ) in said(dear)
