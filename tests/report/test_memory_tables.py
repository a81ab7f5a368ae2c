"""The page sets AUC, inputs and choices of sequences side by side, and says what has no figure."""

import re
from dataclasses import replace
from html import unescape

import pytest

from mnemoscope.benchmark.table import BENCHMARK_SCHEMA
from mnemoscope.report import content as c
from mnemoscope.report import gather as report_benchmarks
from mnemoscope.report.gather import _model
from mnemoscope.report.page import render_report

NAMES = ("Non-Memo", "Guess", "Recall")
PAIRS = ("Non-Memo | Guess", "Non-Memo | Recall", "Guess | Recall")
NONE = c.Estimate(None)


def words(html: str) -> str:
    """Text of the page's body, tags taken out, spaces made single."""
    body = html.split("<main>")[1]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).replace("\u202f", " ").split())


def aucs(*values: float) -> tuple[c.Estimate, ...]:
    return tuple(c.Estimate(value, value - 0.02, value + 0.02) for value in values)


@pytest.fixture
def benchmark(build_taxonomy) -> c.Benchmark:
    """The main benchmark of a taxonomy with AUC and three inputs, one of them without controls."""
    main = build_taxonomy(NAMES, n_layers=1).main
    rows = tuple(replace(row, auc=aucs(0.91, 0.82, 0.63)) for row in main.rows)
    model = rows[0]
    excess = replace(
        main.excess, auc=aucs(0.11, -0.07, 0.04), note="The excess counts k6-f10-mean alone."
    )
    missing = c.Excess(NONE, "cannot be said", "cannot")
    inputs = (
        c.InputRow("mean", model, c.Estimate(0.4321, 0.4, 0.5), excess),
        c.InputRow("heads", model, NONE, missing),
        c.InputRow("difference", replace(model, did_train=False), NONE, None),
    )
    return replace(main, rows=rows, pairs=PAIRS, excess=excess, inputs=inputs)


def page_of(content, build_taxonomy, *benchmarks: c.Benchmark) -> str:
    taxonomy = replace(build_taxonomy(NAMES, n_layers=1), benchmarks=benchmarks)
    return words(render_report(replace(content, taxonomies=(taxonomy,))))


def test_every_pair_has_its_auc_and_the_excess_of_it(content, build_taxonomy, benchmark) -> None:
    text = page_of(content, build_taxonomy, benchmark)
    table = text.split("guessing gives 50")[1].split("Which input")[0]
    assert all(pair in table for pair in PAIRS)
    assert "CNNs on the model's maps" in table
    assert re.search(r"91\.0 \[89\.0, ?\s?93\.0\]", table)
    assert "+11.0" in table
    assert "−7.0" in table
    assert "The excess counts k6-f10-mean alone." in text


def test_inputs_stand_in_one_table_and_what_lacks_controls_says_so(
    content, build_taxonomy, benchmark
) -> None:
    text = page_of(content, build_taxonomy, benchmark)
    table = text.split("Which input carries memory")[1]
    assert "heads every head’s weights" in table
    assert "difference the model’s means less the reference’s did not train" in table
    assert "43.2" in table
    assert "the controls were not trained with that input" in table
    single = replace(benchmark, inputs=benchmark.inputs[:1])
    assert "Which input carries memory" not in page_of(content, build_taxonomy, single)


def test_own_and_true_suffix_stand_side_by_side(content, build_taxonomy, benchmark) -> None:
    other = replace(
        benchmark,
        title="Non-Memo with its true suffix",
        rows=tuple(replace(row, min_f1=c.Estimate(0.123, 0.1, 0.15)) for row in benchmark.rows),
    )
    text = page_of(content, build_taxonomy, benchmark, other)
    table = text.split("The choices of sequences side by side:")[1].split("How well the classes")[0]
    assert "all sequences Non-Memo with its continuation Non-Memo with its true suffix" in table
    row = re.search(r"Blind n-grams regression on tokens ([\d.]+) \[.*?\] ([\d.]+)", table)
    assert row is not None
    assert row.groups() == ("43.1", "12.3")
    assert "F1 of Non-Memo" in table
    alone = page_of(content, build_taxonomy, benchmark)
    assert "The choices of sequences side by side:" not in alone


def test_the_blind_baseline_on_matched_sequences_is_said_to_be_weak_by_construction(
    content, build_taxonomy, benchmark
) -> None:
    text = page_of(content, build_taxonomy, benchmark)
    assert "weak by construction" in text
    assert "guessing gives 33.3 %" in text


def matched_row(**values) -> dict:
    row = dict.fromkeys(BENCHMARK_SCHEMA.names())
    return row | {"matched_by": "ngram", "difference_before": 1.234} | values


def test_a_matched_figure_that_is_missing_says_why_and_how_far_apart_the_scores_are(
    content, build_taxonomy, benchmark
) -> None:
    reason = "too few sequences look alike to the blind baseline: 7 a class, 20 are needed"
    row = matched_row(matched_n_per_class=7, difference_after=0.02, matched_note=reason)
    found = report_benchmarks._matched(row, 3)
    assert found is not None
    text = page_of(content, build_taxonomy, replace(benchmark, matched=found))
    said = text.split("Matched by the blind baseline’s scores")[1].split("Confusion")[0]
    assert "no figure. Too few sequences look alike to the blind baseline: 7 a class" in said
    assert "1.23 before matching, 0.02 after" in said
    assert "–" not in said.split("are needed")[0]  # no row of dashes


def test_balance_is_shown_before_and_after() -> None:
    shares = {name: [0.5] * 3 for name in ("matched_f1", "matched_f1_low", "matched_f1_high")}
    row = matched_row(matched_n_per_class=40, difference_after=0.04, matched_min_f1=0.5, **shares)
    found = report_benchmarks._matched(row, 3)
    assert found is not None
    assert found.n_eval == 120
    assert "1.23 before matching, 0.04 after; 40 sequences a class are left." in found.note
    wholly_apart = report_benchmarks._matched(
        row | {"difference_before": float("inf"), "matched_note": "none", "matched_min_f1": None}, 3
    )
    assert wholly_apart is not None
    assert "without bound before matching" in wholly_apart.note


def test_model_and_reference_of_one_name_are_told_apart() -> None:
    facts = {"n_layers": 4, "n_heads": 8, "dtype": "float32", "fingerprint": "x", "revision": None}
    models = {role: facts | {"name": "embedded"} for role in ("model", "reference")}
    assert _model(models, "model").name == "embedded"
    assert _model(models, "reference").name == "embedded (reference)"
    other = models | {"reference": facts | {"name": "pythia"}}
    assert _model(other, "reference").name == "pythia"


def test_the_excess_says_which_trainings_it_counts_where_these_are_not_all() -> None:
    row = matched_row(
        min_f1=0.7,
        excess_min_f1=0.6543,
        excess_settings=["k6-f10-mean"],
        verdict="adds",
        verdict_kind="adds",
        excess=0.1,
    )
    note = report_benchmarks._excess(row).note
    assert "k6-f10-mean alone (min-F1 65.4" in note
    assert report_benchmarks._excess(row | {"excess_min_f1": 0.7}).note == ""
