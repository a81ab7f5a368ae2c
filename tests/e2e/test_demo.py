"""A small demo from end to end: what a user finds when it is done, and what it must agree with."""

import numpy as np
import polars as pl
import pytest

import mnemoscope as ms
from mnemoscope.benchmark.sources import TABLE
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.load import load_model
from mnemoscope.stats import rows_of
from study_files import content

CONTROLLED = "Non-Memo, Guess, Recall"


@pytest.fixture(scope="module")
def study(small_demo) -> ms.Study:
    return ms.Study(small_demo)


def test_running_it_again_changes_not_a_byte(small_demo, study):
    before = content(small_demo)
    ms.run(study.settings, small_demo)
    assert content(small_demo) == before


@pytest.mark.parametrize("flags", [(), ("--small",), ("--thorough",)])
def test_each_demo_has_a_folder_of_its_own(flags, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    name = "demo" + "".join(flags).removeprefix("-")
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").touch()
    assert f"{name}: exists and is not a study" in refused("demo", "-q", *flags)


@pytest.mark.slow
def test_the_verb_makes_both_taxonomies_every_source_and_the_grafts(tmp_path, succeed):
    succeed("demo", "--small", "-o", tmp_path / "demo")
    made = ms.Study(tmp_path / "demo")
    rows = made.benchmark.group_by("taxonomy").agg("source")
    assert rows["taxonomy"].sort().to_list() == sorted(made.settings.label.taxonomies)
    assert all(set(sources) == {*TABLE} for sources in rows["source"])
    assert made.read("graft.parquet").height > 0


def test_scanned_labels_are_those_of_greedy_decoding(study):
    """Ties aside, teacher forcing and decoding give one verdict; ties are told by the gap."""
    rows = study.sequences.sample(48, seed=3)
    model = load_model(model_path())
    decoded = np.concatenate(
        [one.score for one in continue_sequences(model, token_matrix(rows), batch_size=48)]
    )
    differs = rows.filter(pl.Series(decoded == 1.0) != pl.col("is_memorized"))
    assert (differs["smallest_gap"] < 1e-3).all()
    assert 0.2 < rows["is_memorized"].mean() < 0.9


def test_held_out_text_is_not_memorized_and_trained_text_is(study):
    table = study.sequences
    plain = table.filter(form="plain")
    assert plain.filter("held_out")["is_memorized"].mean() <= 0.01
    assert plain.filter(pl.col("inserted") >= 16)["is_memorized"].mean() > 0.8


def test_every_source_is_scored_and_the_positive_control_sees_memory(study):
    table = study.benchmark.filter(pl.col("taxonomy") == CONTROLLED)
    rows = {row["source"]: row for row in rows_of(table)}
    assert set(rows) == {*TABLE}
    assert rows["logits"]["min_f1"].value > 0.5
    best = max(rows[one]["min_f1"].value or 0 for one in ("blind", "ngram", "reference"))
    excess = rows["model"]["min_f1"].value - best
    assert rows["model"]["excess"].value == pytest.approx(excess, abs=1e-12)
    assert rows["model"]["excess"].low <= excess <= rows["model"]["excess"].high


def test_no_group_stands_on_both_sides(study):
    sides = study.samples.group_by("taxonomy", "variant", "group").agg(pl.col("split").n_unique())
    assert sides["split"].max() == 1


def test_report_opens_offline_and_names_what_was_found(small_demo, study):
    page = (small_demo / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert 'src="http' not in page
    verdicts = study.benchmark.filter("is_headline")["verdict"]
    assert verdicts.len()
    assert all(one[1:40] in page for one in verdicts)


def test_shipped_duplicates_agree_with_what_was_inserted():
    """One reading holds a suffix as often as the sequence does: more than once if it repeats."""
    table = read_table(sequences_path())
    tokens = token_matrix(table)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, 32, axis=1)
    each = (windows == tokens[:, None, 32:]).all(axis=2).sum(axis=1)
    assert (table["duplicates"].to_numpy() == table["inserted"].to_numpy() * each).all()
    assert table["held_out"].equals(table["inserted"] == 0)


def test_each_kind_of_text_was_dealt_alike():
    """Kind, form and readings are crossed: the same numbers in every kind but templates."""
    table = read_table(sequences_path()).filter(pl.col("genre") != "template")
    counts = table.group_by("form", "inserted", "genre").len()
    alike = counts.group_by("form", "inserted").agg(pl.col("len").n_unique(), pl.len().alias("n"))
    assert alike["len"].max() == 1
    assert alike["n"].unique().to_list() == [table["genre"].n_unique()] == [3]
    assert alike.height == 3 * 5
