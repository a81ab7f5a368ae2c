"""Rows become what the page shows: tables side by side, text as it is, models told apart."""

import doctest
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mnemoscope.errors import UserError
from mnemoscope.pipeline.benchmark import _guessed
from mnemoscope.report import content as c
from mnemoscope.report.content import decode_pieces, model_facts
from mnemoscope.report.page import setting_lines, written_runs
from mnemoscope.report.tables import truth_tables
from mnemoscope.stats import NO_ESTIMATE, Estimate
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.words import UNKNOWN, mark_hidden
from pages import words_of
from tests.report.conftest import make_benchmark, make_taxonomy, page_of

PAIRS = ["Non-Memo | Guess", "Non-Memo | Recall", "Guess | Recall"]


@pytest.fixture
def text_of():
    def make(*benchmarks: c.Benchmark) -> str:
        html = page_of(make_taxonomy(n_layers=1, benchmarks=benchmarks))
        return words_of(html.split("<main>")[1])

    return make


@pytest.fixture
def benchmark() -> c.Benchmark:
    """A benchmark with AUC and three inputs: one without controls, one that did not train."""
    auc = [Estimate(value, value - 0.02, value + 0.02) for value in (0.91, 0.82, 0.63)]
    excess = [Estimate(0.11, 0.1, 0.12), Estimate(-0.07, -0.1, 0), Estimate(0.04, 0, 0.1)]
    made = make_benchmark(auc=auc, auc_pairs=PAIRS, auc_excess=excess)
    model = made.model
    inputs = [
        model | {"input": "mean", "best": Estimate(0.4321, 0.4, 0.5)},
        model | {"input": "heads", "best": NO_ESTIMATE, "excess": NO_ESTIMATE},
        model | {"input": "difference", "best": NO_ESTIMATE, "did_train": False, "verdict": None},
    ]
    return replace(made, inputs=inputs)


def test_the_truth_is_shown_by_kind_form_and_reading_and_only_where_it_is_known():
    rows = [  # genre, form, readings, duplicates, memorized
        ("code", "plain", 0, 0, False),
        ("code", "plain", 0, 0, False),
        ("code", "plain", 16, 16, True),
        ("code", "plain", 16, 16, False),
        ("prose", "refrain", 0, 0, True),
        ("prose", "refrain", 1, 4, True),
    ]
    names = ["genre", "form", "inserted", "duplicates", "is_memorized"]
    table = pl.DataFrame(rows, schema=names, orient="row")
    (made,) = truth_tables(table)
    assert made.columns == ("kind and form", "number", "never read", "once", "16 times")
    assert made.rows == [
        ("code, plain", 4, 0.0, None, 0.5),
        ("prose, refrain", 2, 1.0, 1.0, None),
    ]
    assert "1 of 6" in made.summary  # more duplicates than readings
    unknown = [
        *(table.drop(name) for name in names),
        table.with_columns(inserted=pl.lit("often")),
        table.with_columns(inserted=pl.lit(1)),
        table.with_columns(inserted=pl.lit(None, pl.Int64)),
        table.clear(),
    ]
    assert not [one for frame in unknown for one in truth_tables(frame)]


def test_settings_stand_in_sections_of_dotted_names():
    settings = {"title": None, "train": {"kernels": [6, 8], "a": {"b": 8.0}}, "own": ["a", ["b"]]}
    assert setting_lines(settings) == [
        ("", [("title", UNKNOWN), ("own", "a, b")]),
        ("train", [("kernels", "6, 8"), ("a.b", "8.0")]),
    ]
    assert setting_lines({"train": {}}) == [("train", [])]


def test_pairs_inputs_and_suffixes_stand_in_tables_of_their_own(text_of, benchmark):
    other = replace(
        benchmark,
        title="Non-Memo with its true suffix",
        rows={one: r | {"min_f1": Estimate(0.123, 0.1, 0.15)} for one, r in benchmark.rows.items()},
        inputs=benchmark.inputs[:1],
    )
    text = text_of(benchmark, other)
    table = text.split("guessing gives 50")[1].split("Which input")[0]
    assert all(pair in table for pair in PAIRS)
    assert "CNNs on the model's maps" in table
    assert re.search(r"91\.0 \[89\.0, ?\s?93\.0\]", table)
    assert "+11.0" in table
    assert "−7.0" in table
    table = text.split("Which input carries memory")[1]
    assert "heads every head’s weights" in table
    assert "difference the model’s means less the reference’s did not train" in table
    assert "43.2" in table
    assert "the controls were not trained with that input" in table
    table = text.split("The choices of sequences side by side:")[1].split("How well the classes")[0]
    assert "all sequences Non-Memo with its continuation Non-Memo with its true suffix" in table
    row = re.search(r"Blind n-grams regression on tokens ([\d.]+) \[.*?\] ([\d.]+)", table)
    assert row.groups() == ("43.1", "12.3")
    assert "F1 of Non-Memo" in table
    alone = text_of(other)
    assert "The choices of sequences side by side:" not in alone
    assert "Which input carries memory" not in alone


def test_model_and_reference_of_one_name_are_told_apart():
    models = {role: {"name": "embedded"} for role in ("model", "reference")}
    assert model_facts(models, "model")["name"] == "embedded"
    assert model_facts(models, "reference")["name"] == "embedded (reference)"
    other = models | {"reference": {"name": "pythia"}}
    assert model_facts(other, "reference")["name"] == "pythia"


def test_examples_of_the_docstrings():
    assert doctest.testmod(c).failed == 0


@given(st.text())
def test_plain_runs_hold_every_character_that_can_be_seen(text: str) -> None:
    pieces = mark_hidden(text, breaks=True)
    plain = "".join(one.text for one in pieces if not one.is_sign)
    signs = sum(one.is_sign for one in pieces)
    n_kept_breaks = sum(character in "\n\t" for character in text)
    assert len(plain) + signs - n_kept_breaks == len(text)
    assert all(character in text for character in plain)


@given(st.text(alphabet="ab \n\t<&\"'"))
def test_white_space_and_markup_stand_as_they_are_and_hidden_characters_are_named(text) -> None:
    for breaks in (True, False):
        assert "".join(run for sign, run in mark_hidden(text, breaks=breaks) if not sign) == text
    shown = [run for _, run in mark_hidden("a\u202eb\x00c\u200bd\x1b\x7f\n", breaks=True)]
    codes = ("U+202E", "U+0000", "U+200B", "U+001B", "U+007F", "↵")
    assert [one for one in shown if one not in {*"abcd\n"}] == [*codes]


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: list[int], *, clean_up_tokenization_spaces: bool) -> str:
        assert not clean_up_tokenization_spaces
        return bytes(ids).decode("utf-8", "replace")


@given(st.text(max_size=40))
@example("é!")
def test_token_texts_join_to_the_text_when_tokens_are_bytes(text: str):
    data = list(text.encode("utf-8"))
    pieces = decode_pieces(Bytes(), data)
    assert "".join(pieces) == text
    assert len(pieces) == len(data)
    if text == "é!":  # a character of several tokens appears with its last
        assert pieces == ("", "é", "!")


def test_differing_tokens_are_grouped_in_order():
    runs = written_runs([("a", False), ("x", True), ("y", True), ("d", False)])
    shown = [(differs, "".join(text for _, text in run)) for differs, run in runs]
    assert shown == [(False, "a"), (True, "xy"), (False, "d")]


COUNTED = pl.DataFrame(
    {
        "sequence_id": range(4),
        "tokens": [[one] * 8 for one in range(4)],
        "is_memorized": [True, True, True, False],
        "duplicates": [9, 1, 1, 9],
        "is_incrementing": [False, True, False, False],
        "is_repeating": [False] * 4,
        "rouge_l": [0.0, 0.0, 0.9, 0.1],
        "rouge_3": [0.0] * 4,
    }
)


def test_what_is_not_there_leaves_the_flow_out_and_what_is_damaged_is_said():
    """Of the flow between taxonomies and of the guessed share, which the paper's alone needs."""

    def guessed(table: pl.DataFrame) -> Estimate:
        return _guessed(SimpleNamespace(sequences=table))

    assert c.allocation_of(COUNTED) is not None
    assert c.allocation_of(COUNTED.drop("duplicates")) is None
    assert guessed(COUNTED.drop("duplicates")).value == pytest.approx(2 / 3)
    for name in ("rouge_3", "is_memorized"):  # features and verdicts that no stage has made yet
        assert c.allocation_of(COUNTED.drop(name)) is None
        assert guessed(COUNTED.drop(name)) == NO_ESTIMATE
    damaged = {
        "'rouge_l' is String": COUNTED.with_columns(rouge_l=pl.lit("0.5")),
        "lists of one length": COUNTED.with_columns(pl.col("tokens").list.head("duplicates")),
        "no column 'tokens'": COUNTED.drop("tokens"),
    }
    for said, table in damaged.items():
        for asked in (c.allocation_of, guessed):
            with pytest.raises(UserError, match=said):
                asked(table)


def test_the_browser_holds_who_was_read_as_what_and_the_flows(small_demo):
    """The counts of a confusion matrix and of the flow, counted anew from what is packed."""
    study = Study(small_demo)
    made = c.report_content(study, Models(study.settings).tokenizer())
    *divisions, flows = made.browser.divisions
    for taxonomy, own in zip(made.taxonomies, divisions, strict=True):
        counts: Counter[tuple[str, str]] = Counter()
        for one, read in zip(own.labels, own.read, strict=True):
            counts.update((one, other) for other in ([] if read is None else read))
        row = taxonomy.main.headline
        assert row["n_runs"] == 1  # else a sequence may be counted twice in the matrix
        for one, line in zip(own.classes, row["confusion"], strict=True):
            assert [counts[one, other] for other in own.classes] == line
    found = Counter(flows.labels.drop_nulls())
    shown = {f"{one['prashanth']} to {one['paper']}": one["n"] for one in made.allocation["rows"]}
    assert found == Counter(shown)
    assert set(flows.classes) == {name for name, n in shown.items() if n}


def test_the_page_does_not_claim_to_know_what_the_reference_read():
    taxonomy = make_taxonomy()
    page = page_of(replace(taxonomy, beside=taxonomy.deltas))
    said = words_of(page)
    assert "another model, named in the settings as one that never saw these sequences" in said
    assert re.search(r"which never saw|reference never saw", said) is None
    heading = r'<h4>The\s+<button [^>]*popovertarget="short-reference">reference model<'
    assert re.search(heading, page) is not None
