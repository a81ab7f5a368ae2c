"""A study from a split (a SYNTHETIC one), and labels of the source checked against the model."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from benchmarks.synthetic_semantic_filters import make_rows, write_split
from mnemoscope.errors import UserError
from mnemoscope.flow.run import run, run_stage
from mnemoscope.pipeline import sequences
from mnemoscope.pipeline.sequences import CHECK_FILE, GAPS, check_labels
from mnemoscope.report.answer import answer
from mnemoscope.report.content import report_content
from mnemoscope.report.lead import lead_of
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import load_settings, parse_settings
from mnemoscope.taxonomy.draw import order_keys
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy
from tiny_models import make_sequences

N = 600
NAMES = ["Non-Memo, Recite[5], Recollect", "Non-Memo, Guess, Recall"]
PILE, MEMORIES = "pile_deduped_12b", "memories_deduped_12b"
WRONG_MEMORIES, WRONG_PILE = 7, 5
"""Planted: labelled memorized and not reproduced; labelled Non-Memo and reproduced."""


@pytest.fixture(scope="module")
def source(tiny, tmp_path_factory) -> Path:
    """A synthetic split in which the tiny model's own continuations are what is memorized."""
    folder = tmp_path_factory.mktemp("synthetic")
    truth = make_sequences(tiny.model, N)
    is_memorized = np.arange(N) % 3 < 2
    label = is_memorized.copy()
    label[np.flatnonzero(~is_memorized)[:WRONG_MEMORIES]] = True
    label[np.flatnonzero(is_memorized)[:WRONG_PILE]] = False
    frame = make_rows(truth["sequence_id"].to_numpy(), label, seed=0, vocab_size=300)
    frame = frame.with_columns(
        pl.col("memorization_score"),
        truth["tokens"].cast(pl.List(pl.Int64)),
        truth["duplicates"].alias("sequence_duplicates"),
    )
    pile = frame.filter(pl.int_range(pl.len()) % 2 == 0)
    memories = frame.filter(pl.col("memorization_score") == 1)  # overlaps with the pile
    memories = pl.concat([memories, memories.head(3)])
    for name, rows in ((PILE, pile), (MEMORIES, memories)):
        write_split(folder, name, iter([rows]), n_shards=2, n_rows=rows.height)
    return folder


def settings_for(tiny, source, **changes):
    values = {
        **tiny.values,
        "sequences": {"source": str(source), "split": "deduped_12b"} | changes.pop("sequences", {}),
        "label": {"taxonomies": NAMES, "n_train": 20, "n_eval": 10, "minimum": 6}
        | changes.pop("label", {}),
        **changes,
    }
    return parse_settings(values, where="test")


@pytest.fixture(scope="module")
def labelled(tiny, source, tmp_path_factory) -> Study:
    """A study of the split up to its labels; read only."""
    folder = tmp_path_factory.mktemp("of-split") / "study"
    return run(settings_for(tiny, source), folder, until="label")


def whole(source: Path) -> pl.DataFrame:
    """The split by Polars alone, under our names: one row a sequence, the pile's first."""
    read = [pl.read_parquet(one) for one in sorted((source / "data").glob("*"), reverse=True)]
    frame = pl.concat(sorted(read, key=lambda one: one["memorization_score"].mean()))
    frame = frame.unique("sequence_id", keep="first")
    return frame.rename({"sequence_duplicates": "duplicates"})


def test_kept_are_the_first_of_every_class_in_the_shared_order(tiny, source, tmp_path) -> None:
    """Counted on the whole split, and the same rows as sorting it whole and taking the first."""
    name = NAMES[0]
    settings = settings_for(
        tiny, source, label={"taxonomies": [name], "seed": 4}, sequences={"margin": 1.5}
    )
    study = run(settings, tmp_path / "study", until="sequences")
    frame = whole(source)
    labels = label_sequences(frame, parse_taxonomy(name))
    order = np.argsort(order_keys(frame["sequence_id"].to_numpy(), 4))
    wanted = set()
    verdict = pl.Series(np.where(frame["memorization_score"] == 1, "memorized", "no"))
    for column in (labels, verdict):
        for one in column.unique():
            rows = [row for row in order if column[int(row)] == one][:45]
            wanted |= {frame["sequence_id"][int(row)] for row in rows}
    assert set(study.sequences["sequence_id"]) == wanted
    counts = study.manifest("sequences")["counts"]
    found = dict(labels.value_counts().iter_rows())
    assert counts["split"]["classes"][name] == found
    assert counts["split"]["kept_per_class"] == 45
    n_rows = sum(counts["split"]["parts"].values())
    assert counts["split_rows"] == n_rows
    assert counts["split_duplicate_ids"] == 3
    assert counts["split_sequences"] == frame.height
    assert n_rows - 3 - counts["split_overlapping_ids"] == frame.height
    assert counts["sequences"] == len(wanted) < frame.height


def test_published_labels_stay_beside_the_models_own_and_none_disputed_is_sampled(
    call, labelled, source
) -> None:
    """Else Non-Memo would be full of sequences that the source calls memorized."""
    table, everything = labelled.sequences, whole(source)
    given = dict(everything.select("sequence_id", "memorization_score").rows())
    scores = [given[number] for number in table["sequence_id"]]
    assert table["published_memorization_score"].to_list() == scores
    assert table["published_is_memorized"].to_list() == [score == 1 for score in scores]
    differs = table.filter(pl.col("published_is_memorized") != pl.col("is_memorized"))
    assert 0 < differs.height <= WRONG_MEMORIES + WRONG_PILE
    for name in ("is_incrementing", "is_repeating"):
        assert table[name].to_list() == table[f"published_{name}"].to_list()
    rows = labelled.read("samples.parquet").join(table, on="sequence_id")
    assert rows.height > 0
    is_memorized = rows["class"] != "Non-Memo"
    assert (rows["is_memorized"] == is_memorized).all()
    assert (rows["published_is_memorized"] == is_memorized).all()
    told = " ".join(call("status", labelled.folder, "--verbose").out.split())
    labels = label_sequences(everything, parse_taxonomy(NAMES[0]))
    for name, n in labels.value_counts().iter_rows():
        assert f"{name} {n:,}" in told
    assert "3 duplicate ids" in told


def test_published_labels_are_taken_where_asked_and_the_models_verdict_stands_beside(
    tiny, source, labelled, tmp_path
) -> None:
    """As the paper does; then sequences that the two dispute about are sampled too."""
    asked = {"continue": tiny.values.get("continue", {}) | {"labels": "published"}}
    study = run(settings_for(tiny, source, **asked), tmp_path / "study", until="label")
    table, own = study.sequences, labelled.sequences["is_memorized"]
    assert table["is_memorized"].to_list() == table["published_is_memorized"].to_list()
    assert table["own_verdict"].to_list() == own.to_list()
    disputed = table.filter(pl.col("own_verdict") != pl.col("is_memorized"))
    counts = study.manifest("continue")["counts"]
    assert counts["confirmed"] == table.height - disputed.height < table.height
    assert counts["memorized"] == table["is_memorized"].sum()
    rows = study.read("samples.parquet").join(disputed, on="sequence_id", how="semi")
    assert rows.height > 0
    content = report_content(study, None)
    said = " ".join([lead_of(content).headline, *answer(content)])
    assert "sequences memorized" in said
    assert "The published labels call" in said
    assert "says the same of" in said
    assert content.fragile is None


def test_published_labels_are_refused_where_the_source_has_none(tiny, tmp_path) -> None:
    settings = parse_settings(
        tiny.values | {"continue": tiny.values.get("continue", {}) | {"labels": "published"}},
        where="test",
    )
    with pytest.raises(UserError, match=r"continue\.labels is published, but the source has no"):
        run(settings, tmp_path / "study", until="label")


def test_strict_patterns_are_ours_and_not_the_published(tiny, source, tmp_path) -> None:
    few = {"sequences": {"limit": 200}, "continue": {"scan": True}}
    settings = settings_for(tiny, source, features={"patterns": "strict"}, **few)
    study = run(settings, tmp_path / "study", until="features")
    assert study.sequences["published_is_repeating"].any()
    assert not study.sequences["is_repeating"].any()  # the synthetic texts follow no pattern
    assert study.manifest("sequences")["counts"]["split_sequences"] == 200  # before the choice
    assert study.sequences.height <= 200


def test_samples_of_a_split_are_those_of_the_whole_table(tiny, source, tmp_path) -> None:
    """Split by row: what is kept of the split gives the sample that the whole split gives."""
    kept, every = (
        run(
            settings_for(
                tiny,
                source,
                label={"split": "row"},
                sequences={"margin": margin},
                **{"continue": {"scan": True}},
            ),
            tmp_path / str(margin),
            until="label",
        )
        for margin in (1.5, 1000.0)
    )
    assert kept.sequences.height < every.sequences.height
    samples = [one.read("samples.parquet").drop("group") for one in (kept, every)]
    assert samples[0].equals(samples[1])


def test_what_decided_the_table_cannot_change_under_it(labelled, tiny, source) -> None:
    """Other taxonomies need other sequences, which were not kept: another study."""
    assert labelled.is_done("sequences")
    for changes in ({"seed": 1}, {"taxonomies": NAMES[:1]}, {"n_train": 21}):
        settings = settings_for(tiny, source, label=changes)
        with pytest.raises(UserError, match="'sequences' was made with other settings: label"):
            run(settings, labelled.folder, redo=True)
    run(settings_for(tiny, source, label={"minimum": 7}), labelled.folder, redo=True, until="label")


OF_SPLIT = ["--sequences", "{source}", "--split"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*OF_SPLIT, "dedupd_12b"], "Did you mean 'deduped_12b'"),
        (OF_SPLIT[:2], "which split?"),
        (["--sequences", "usvsnsp/semantic-filters"], "which split?"),
        (["--sequences", "embedded", "--split", PILE], "no such folder"),
        ([*OF_SPLIT, PILE, "--set", "sequences.length=32"], "64 tokens"),
        ([*OF_SPLIT, PILE, "--set", "sequences.margin=0.5"], "margin"),
    ],
)
def test_a_split_that_cannot_be_read_founds_nothing(
    refused, tiny, source, tmp_path, words, said
) -> None:
    words = [word.format(source=source) for word in words]
    assert said in refused("run", "--model", tiny.model, "-o", tmp_path / "study", "-q", *words)
    assert not (tmp_path / "study").exists()


# -- labels checked ---------------------------------------------------------------------------


def test_planted_wrong_labels_are_the_ones_not_reproduced(call, tiny, source, tmp_path) -> None:
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump(settings_for(tiny, source, sequences={"margin": 1000}).as_dict())
    )
    folder = tmp_path / "study"
    told = call("run", tmp_path / "study.yaml", "-o", folder, "--check-labels", "-q")
    assert told.status == 0
    frame = pl.read_parquet(folder / CHECK_FILE)
    truth = whole(source)
    assert frame.height == truth.height
    table = Study(folder).sequences
    place = table["sequence_id"] - 100  # `make_sequences` numbers from 100
    is_memorized = dict(zip(table["sequence_id"], place % 3 < 2, strict=True))
    wanted = [is_memorized[number] for number in frame["sequence_id"]]
    assert frame["is_memorized"].to_list() == wanted
    given = frame["published_is_memorized"]
    wrong = frame.filter(given & ~frame["is_memorized"])
    missed = frame.filter(~given & frame["is_memorized"])
    assert wrong.height == WRONG_MEMORIES
    assert missed.height > 0
    n_given = int(given.sum())
    assert f"Labelled memorized: {n_given - WRONG_MEMORIES:,} of {n_given:,}" in told.out
    assert f"not reproduced: {WRONG_MEMORIES}; smallest gap" in told.out
    assert f"called memorized by the scan: {missed.height}; smallest gap" in told.out
    for limit in GAPS:
        assert f"{(wrong['smallest_gap'] < limit).sum()} under {limit:g}" in told.out
    assert f"batch size {tiny.values['model']['batch_size']}" in told.out
    assert f"mnemoscope run -o {folder}" in told.out
    assert not Study(folder).is_done("continue")


def test_a_finished_study_can_be_checked_and_stays_finished(call, labelled) -> None:
    before = labelled.sequences
    told = call("run", "-o", labelled.folder, "--check-labels", "-q")
    assert told.status == 0, told.err
    frame = pl.read_parquet(labelled.folder / CHECK_FILE)
    table = Study(labelled.folder).sequences
    assert table.equals(before)
    assert Study(labelled.folder).is_done("label")
    joined = frame.join(table, on="sequence_id")
    assert (joined["is_memorized"] == joined["is_memorized_right"]).all()  # scan and decoding
    plain = frame.filter("is_plain").group_by("published_is_memorized").len()
    assert set(plain["len"]) == {60}  # margin × (n_train + n_eval)
    assert not frame["is_plain"].all()
    assert "uniform sample" in told.out
    run_stage(labelled, "capture")
    assert labelled.manifest("capture")["counts"]["distinct"] > 0
    assert load_settings(labelled.folder / "study.yaml").sequences.split == "deduped_12b"


@pytest.mark.parametrize("column", ["is_memorized", "memorization_score"])
def test_labels_of_any_table_of_tokens_are_checked(tiny, tmp_path, column) -> None:
    is_memorized = np.arange(60) % 3 < 2
    is_memorized[4] = not is_memorized[4]
    score = [None if at == 9 else 1.0 if one else 0.5 for at, one in enumerate(is_memorized)]
    given = pl.Series(
        column, score if column != "is_memorized" else [one and one == 1 for one in score]
    )
    table = make_sequences(tiny.model, 60).with_columns(given)
    table.write_parquet(tmp_path / "table.parquet")
    values = {**tiny.values, "sequences": {"source": str(tmp_path / "table.parquet")}}
    study = run(parse_settings(values, where="test"), tmp_path / "study", until="sequences")
    lines = check_labels(study, Models(study.settings))
    frame = study.read(CHECK_FILE)
    assert frame.height == 59  # the tenth says nothing
    wrong = frame.filter(pl.col("published_is_memorized") != pl.col("is_memorized"))
    assert wrong["sequence_id"].to_list() == [table["sequence_id"][4]]
    assert frame["is_plain"].all()
    assert not any("uniform sample" in line for line in lines)
    assert "0 of 38 are missed by a gap of 1 or more" in " ".join(lines)
    assert f"too few labels to tell whether they are of {study.settings.model.name}." in " ".join(
        lines
    )


@pytest.mark.parametrize(
    ("n_far", "n_given", "said"),
    [
        (0, 1000, "the labels fit EleutherAI/pythia-1b-deduped-v0."),
        (1, 1000, "the labels fit"),  # one damaged row is not another model
        (36, 1000, "the labels fit"),
        (37, 1000, "too few labels to tell"),  # Wilson's interval reaches 5 %
        (63, 1000, "too few labels to tell"),
        (
            64,
            1000,
            "64 of 1,000 are missed by a gap of 1 or more (6.4 % [5.0, 8.1]), more than 5 %",
        ),
        (64, 1000, "Check them with EleutherAI/pythia-1b-deduped, the other suite of Pythia"),
        (0, 40, "too few labels to tell"),
    ],
)
def test_labels_are_another_models_where_more_than_a_few_are_missed_by_far(
    n_far, n_given, said
) -> None:
    gaps = [0.2, 0.99] + [1.0, 3.0] * n_far
    missed = pl.DataFrame({"smallest_gap": pl.Series(gaps[: 2 + n_far], dtype=pl.Float32)})
    assert said in sequences._whose(missed, n_given, "EleutherAI/pythia-1b-deduped-v0")
    own = sequences._whose(missed, n_given, "my/model")
    assert ("another revision" in own) == ("labels fit" not in said)
    assert ("of another model" in own) == (n_far == 64)


def test_a_table_without_labels_is_refused_and_windows_of_a_text_have_none(
    refused, tiny, tmp_path
) -> None:
    """A label was given to the row; a window of its text is another sequence."""
    said = refused("run", tiny.yaml, "-o", tmp_path / "study", "--check-labels", "-q")
    assert "no label to check" in said
    assert not (tmp_path / "study" / CHECK_FILE).exists()
    table = pl.DataFrame({"text": ["return a + b " * 60] * 3, "is_memorized": [True, False, True]})
    table.write_parquet(tmp_path / "texts.parquet")
    values = {**tiny.values, "sequences": {"source": str(tmp_path / "texts.parquet")}}
    study = run(parse_settings(values, where="test"), tmp_path / "windows", until="sequences")
    assert "published_is_memorized" not in study.sequences.columns
