"""The label stage samples each partition once, leaks nothing by group, and says what it cannot."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import entropy

from mnemoscope.benchmark.published import compare_with_published
from mnemoscope.benchmark.table import Scores
from mnemoscope.pipeline.benchmark import _our_figures
from mnemoscope.pipeline.label import (
    aliases_of,
    in_shown_order,
    label_stage,
    nothing_to_train,
    samples_of,
    sharing_of,
)
from mnemoscope.progress import show_progress
from mnemoscope.stats import Estimate
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import parse_settings
from mnemoscope.taxonomy.sample import SampleKey

N = 360


@pytest.fixture
def prepared(tmp_path):
    """Run the label stage on a table that stands as the stages before it would leave it."""

    def prepare(table: pl.DataFrame, **label) -> Study:
        values = {"label": {"n_train": 40, "n_eval": 20, "minimum": 12} | label}
        study = Study.create(tmp_path / "study", parse_settings(values, where="test"))
        for stage in ("sequences", "continue", "features"):
            with study.finishing(stage):
                if stage == "sequences":
                    study.write("sequences.parquet", table)
        label_stage(study, None)
        return study

    return prepare


def table_with_copies(n: int = N) -> pl.DataFrame:
    """Every text twice, the second with one token changed: pairs of near-duplicates."""
    rng = np.random.default_rng(0)
    tokens = np.repeat(rng.integers(0, 300, (n // 2, 64)), 2, axis=0).astype(np.int32)
    tokens[1::2, 40] = 301
    kind = np.arange(n) // 2 % 3
    return pl.DataFrame(
        {
            "sequence_id": rng.permutation(n),
            "tokens": pl.Series(tokens.tolist(), dtype=pl.List(pl.Int32)),
            "is_memorized": kind > 0,
            "memorization_score": (kind > 0).astype(np.float32),
            "duplicates": np.array([1, 9, 2])[kind],
            "is_incrementing": [False] * n,
            "is_repeating": [False] * n,
            "rouge_l": [0.0] * n,
            "rouge_3": [0.0] * n,
            "is_code": [False] * n,
        }
    )


RECITE = "Non-Memo, Recite[5], Recollect"


def pairs_crossing(rows: pl.DataFrame, table: pl.DataFrame) -> int:
    """Pairs of near-copies with one on either side, from how the table was made."""
    pair = {number: at // 2 for at, number in enumerate(table["sequence_id"])}
    sides = rows.with_columns(
        pair=pl.col("sequence_id").replace_strict(pair, return_dtype=pl.Int64)
    ).group_by("pair")
    return sides.agg(pl.col("split").n_unique()).filter(pl.col("split") > 1).height


def test_planted_near_copies_cross_by_row_and_never_by_group(prepared) -> None:
    table = table_with_copies()
    study = prepared(table, taxonomies=[RECITE], both_splits=True)
    rows = study.read("samples.parquet")
    assert set(rows["taxonomy"]) == {RECITE}
    by_group, by_row = (rows.filter(variant=one) for one in ("main", "row_split"))
    assert by_group.height == by_row.height == 180
    assert pairs_crossing(by_group, table) == 0
    assert pairs_crossing(by_row, table) > 10  # of 60 evaluated, half of the copies were drawn
    entries = samples_of(study)
    assert entries[SampleKey(RECITE)].n_groups_crossing == 0
    crossing = entries[SampleKey(RECITE, "row_split")]
    assert crossing.n_groups_crossing == pairs_crossing(by_row, table)
    assert crossing.shown == f"{RECITE} (split by row)"
    assert "leak, not memory" in crossing.note
    assert entries[SampleKey(RECITE)].shown == RECITE
    facts = study.manifest("label")["counts"]["near_duplicates"]
    wanted = {"shingle": 5, "jaccard": 0.5, "groups": N // 2, "largest_group": 2}
    assert {name: facts[name] for name in wanted} == wanted


def test_repetition_by_the_other_split_trains_on_no_more_than_the_main_sample(prepared) -> None:
    """Two groups of 60 a class are too few for 80 + 40."""
    table = table_with_copies().with_columns(group=pl.Series([str(i // 2 % 6) for i in range(N)]))
    study = prepared(table, taxonomies=[RECITE], both_splits=True, n_train=80, n_eval=40)
    main, other = (samples_of(study)[SampleKey(RECITE, one)] for one in ("main", "row_split"))
    assert main.n_train + main.n_eval < 120
    assert (other.n_train, other.n_eval) == (main.n_train, main.n_eval)
    assert any("one group of near duplicates" in line for line in main.warnings)


def test_an_empty_class_makes_that_taxonomy_impossible_and_the_others_go_on(prepared) -> None:
    empty = ["Non-Memo, Recite[1k], Others", "Non-Memo, Guess, Recall"]
    study = prepared(table_with_copies(), taxonomies=[empty[0], RECITE, empty[1]])
    recite, whole, guess = samples_of(study).values()
    assert "Recite[1k] has 0" in recite.impossible
    assert "(and Non-Memo 120, Others 240)" in recite.impossible
    assert recite.counts == {"Non-Memo": 120, "Recite[1k]": 0, "Others": 240}
    assert "Guess has 0" in guess.impossible
    assert whole.n_train > 0
    assert study.read("samples.parquet")["taxonomy"].unique().to_list() == [RECITE]
    assert study.is_done("label")
    assert nothing_to_train(study) is None


def test_what_can_be_trained_is_shown_first_and_what_lacks_a_column_last(prepared) -> None:
    table = table_with_copies().with_columns(
        rouge_l=pl.when(pl.col("duplicates") == 9).then(0.1).otherwise(0.0),
        duplicates=pl.lit(None, dtype=pl.Int64),
    )
    few, enough = "Non-Memo, Guess, Recall", "Non-Memo, Guess[0.05-0.5], Recall"
    study = prepared(table, taxonomies=[RECITE, few, enough], both_suffixes=True)
    shown = list(in_shown_order(samples_of(study)))
    assert [key.taxonomy for key in shown if key.is_main] == [enough, few, RECITE]
    assert [key.is_main for key in shown if key.taxonomy == enough] == [True, False]


def test_every_name_of_the_catalogue_is_a_sample_an_alias_or_impossible(prepared) -> None:
    study = prepared(table_with_copies(), taxonomies=["catalogue", "Non-Memo, Recite[6], Others"])
    names = study.read("labels.parquet").columns[1:]
    assert len(names) == 55
    entries, aliases = {one.shown: one for one in samples_of(study).values()}, aliases_of(study)
    assert set(names) == set(entries) | set(aliases)
    assert not set(entries) & set(aliases)
    first = "Non-Memo, Recite[5], Others"
    assert aliases["Non-Memo, Recollect[5], Others"] == (first, "same rule", (0, 2, 1))
    assert aliases["Non-Memo, Recite[6], Others"] == (first, "same labels here", (0, 1, 2))
    assert all(not entries[alias.of].impossible for alias in aliases.values())


def test_need_of_all_samples_is_said_in_the_manifest_and_on_the_terminal(prepared, capsys) -> None:
    names = [RECITE, "Non-Memo, Recollect[5], Others"]
    with show_progress(verbose=True):
        study = prepared(table_with_copies(), taxonomies=names, both_suffixes=True)
    need = sharing_of(study)
    rows = study.read("samples.parquet")
    assert need.n_sequences == rows["sequence_id"].n_unique() == 180
    assert need.n_maps == rows.select("sequence_id", "suffix").n_unique() == 180 + 60
    assert need.n_unshared == 2 * rows.height  # the alias would have been sampled as well
    assert f"{need}." in capsys.readouterr().err


def test_nothing_memorized_is_said_once_with_a_remedy_that_fits(prepared) -> None:
    score = pl.lit(0.0, dtype=pl.Float32)
    table = table_with_copies().with_columns(is_memorized=pl.lit(False), memorization_score=score)
    line = nothing_to_train(prepared(table, taxonomies=["catalogue"]))
    assert line.count("none of the 360 sequences with a class is memorized") == 1
    assert "Take sequences that the model saw in training" in line
    assert "fewer" not in line


def test_a_published_name_with_the_labels_of_another_is_compared_with_its_figures(prepared) -> None:
    names = ["Non-Memo, Recite[5], Others", "Non-Memo, Recollect[50], Others"]
    table = table_with_copies().with_columns(duplicates=pl.col("duplicates").replace(9, 90))
    study = prepared(table, taxonomies=names)
    assert aliases_of(study)[names[1]].classes == (0, 2, 1)
    confusion = np.arange(9).reshape(3, 3)
    scores = Scores(Estimate(0.7), Estimate(0.8), [], [], [], confusion.tolist(), 60, 1)
    trained, alias = _our_figures(study, {names[0]: scores}, {names[0]: confusion[None]})
    assert (trained.state, alias.state) == ("measured", "alias")
    assert alias.confusion.tolist() == [[0, 2, 1], [6, 8, 7], [3, 5, 4]]
    assert alias.draws[0].tolist() == alias.confusion.tolist()
    frame = compare_with_published([trained, alias]).frame.filter(kind="catalogue")
    states = dict(frame.select("published_name", "state").rows())
    assert states[names[0]] == "measured"
    assert states[names[1]] == states["Non-Memo, Recite[50], Others"] == "alias"
    assert frame.filter(published_name=names[1])["min_f1"].item()["value"] == 0.7


def test_a_measure_of_the_tokens_is_made_where_a_taxonomy_names_it(prepared) -> None:
    table = table_with_copies()
    name = "Non-Memo, Entropy[>5.8], Others"
    study = prepared(table, taxonomies=[name])
    assert "token_entropy" not in table.columns
    counts = [np.unique(row, return_counts=True)[1] for row in table["tokens"].to_list()]
    wanted = np.array([entropy(one, base=2) for one in counts])
    np.testing.assert_allclose(study.sequences["token_entropy"], wanted, rtol=0, atol=1e-12)
    labels = study.read("labels.parquet")[name].to_numpy()
    memorized = labels != "Non-Memo"
    assert ((labels == "Entropy[>5.8]") == (wanted > 5.8))[memorized].all()
    assert {"Entropy[>5.8]", "Others"} <= set(labels)
