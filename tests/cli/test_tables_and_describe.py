"""Verbs beside the long path: features and label on any table, capture alone, dry run, describe."""

import gzip
import json

import numpy as np
import polars as pl
import pytest
import yaml
from rouge_score.rouge_scorer import RougeScorer

from mnemoscope.study.folder import Study


def table(length: int = 64) -> pl.DataFrame:
    """Three rows: text and tokens, tokens only, text only."""
    rng = np.random.default_rng(3)
    half = rng.integers(0, 9, length // 2).tolist()
    other = rng.integers(0, 9, length).tolist()
    return pl.DataFrame(
        {
            "sequence_id": [7, 8, 9],
            "text": ["1, 2, 3, 4, 5, 6, 7, 8", None, "no pattern is to be found here at all"],
            "tokens": pl.Series([half + half, other, None], dtype=pl.List(pl.Int32)),
            "is_memorized": [True, True, False],
            "mine": ["a", "b", "c"],
        }
    )


def test_features_of_a_table(tmp_path, call) -> None:
    given, made = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    frame = table(40).with_columns(n_copies=pl.lit(3, pl.Int64))
    frame.write_ndjson(given)
    result = call("features", given, "-o", made, "--length", 40)
    assert result.status == 0
    assert f"Wrote {made} (3 rows)" in result.out
    assert "--column duplicates=n_copies" in result.err  # passed over
    found = pl.read_ndjson(made)
    assert found.select(frame.columns).equals(frame)
    assert found["is_incrementing"].to_list() == [True, None, False]
    assert found["is_repeating"].null_count() == 1
    assert found["duplicates"].null_count() == 3
    assert found["rouge_l"][2] is None
    scorer = RougeScorer(["rougeL", "rouge3"])
    for row, tokens in enumerate(frame["tokens"].to_list()[:2]):
        halves = (" ".join(f"t{one}" for one in part) for part in np.split(np.array(tokens), 2))
        wanted = scorer.score(*halves)
        assert found["rouge_l"][row] == pytest.approx(wanted["rougeL"].fmeasure, abs=1e-12)
        assert found["rouge_3"][row] == pytest.approx(wanted["rouge3"].fmeasure, abs=1e-12)


def test_one_taxonomy_adds_its_class_and_several_a_column_each(tmp_path, call) -> None:
    features = tmp_path / "features.parquet"
    table().write_parquet(tmp_path / "in.parquet")
    assert call("features", tmp_path / "in.parquet", "-o", features).status == 0
    one = tmp_path / "one.jsonl"
    result = call("label", features, "-t", "Non-Memo, Guess, Recall", "-o", one)
    assert result.status == 0
    assert "Guess 1, Non-Memo 1 (no class: 1)" in result.out
    found = pl.read_ndjson(one)
    # The second row has no text, so that it may be a pattern is not known.
    assert found["class"].to_list() == ["Guess", None, "Non-Memo"]
    assert found["mine"].to_list() == ["a", "b", "c"]
    several = tmp_path / "several.parquet"
    arguments = [word for name in TAXONOMIES for word in ("-t", name)]
    assert call("label", features, *arguments, "-o", several).status == 0
    assert pl.read_parquet(several).columns == ["sequence_id", *TAXONOMIES]


TAXONOMIES = ["Non-Memo, Guess, Recall", "Non-Memo, Guess[off-0.9], Others"]


def others_rows() -> list[dict]:
    """The rows of `table` as other people name and nest them."""
    return [
        {
            "body": row["text"],
            "meta": json.dumps({"key": row["sequence_id"], "said": row["is_memorized"]}),
            "ids": row["tokens"],
        }
        for row in table().to_dicts()
    ]


def test_columns_are_taken_by_their_paths(tmp_path, call) -> None:
    """Features and classes are those of a table whose columns have our names."""
    packed = gzip.compress("\n".join(map(json.dumps, others_rows())).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    table().write_parquet(tmp_path / "plain.parquet")
    paths = ["sequence_id=meta.key", "text=body", "tokens=ids"]
    named = [word for one in TAXONOMIES for word in ("-t", one)]
    made = []
    for source, of_features, of_label in (
        ("a.jsonl.gz", paths, ["--column", "is_memorized=meta.said"]),
        ("plain.parquet", [], []),
    ):
        features, labels = tmp_path / "features.parquet", tmp_path / "labels.parquet"
        flags = [word for one in of_features for word in ("--column", one)]
        assert call("features", tmp_path / source, "-o", features, *flags).status == 0
        assert call("label", features, "-o", labels, *named, *of_label).status == 0
        made.append([pl.read_parquet(one).drop("mine", strict=False) for one in (features, labels)])
        assert call("label", features, "-o", labels, *named[:2], *of_label).status == 0
        assert pl.read_parquet(labels)["class"].equals(made[-1][1][TAXONOMIES[0]])
    (features, labels), (wanted_features, wanted_labels) = made
    given = wanted_features.drop("is_memorized")
    assert features.select(given.columns).equals(given)
    assert labels.select(wanted_labels.columns).equals(wanted_labels)


def test_no_table_takes_the_place_of_a_studys_own(study_at, call) -> None:
    """Naming a study's own table with -o would lose what the study holds."""
    study = study_at("label")
    before = (study / "labels.parquet").read_bytes()
    own = (study / "sequences.parquet", "-t", "Non-Memo, Code, Others")
    done = call("label", *own, "-o", study / "labels.parquet")
    assert (done.status, "is a study and holds its own files" in done.err) == (2, True)
    assert (study / "labels.parquet").read_bytes() == before
    for verb in ("features", "label"):
        done = call(verb, study, "--column", "text=body")
        assert (done.status, f"{verb}: --column is for a table" in done.err) == (2, True)


def test_describe_a_study_and_a_folder_of_maps(tiny_studies, study_at, call, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = call("describe", tiny_studies["report"]).out
    fingerprint = Study(tiny_studies["report"]).record["models"]["reference"]["fingerprint"]
    for word in ("sequences", "report", "done", "memorized 160", "2 × 4", "maps", "study.yaml"):
        assert word in text
    assert fingerprint[:12] in text
    assert "outdated" not in text
    assert "memorized 160" in call("describe", tiny_studies["continue"]).out
    text = call("describe", tiny_studies["capture"] / "maps" / "model").out
    for word in ("180 maps, 2 layers, length 64", "own 60, true 120", "checksums right"):
        assert word in text
    path = study_at("report") / "study.yaml"
    values = yaml.safe_load(path.read_text())
    values["localize"]["attributions"] = ["gradient"]
    path.write_text(yaml.safe_dump(values))
    states = [line for line in call("describe", path.parent).out.splitlines() if "outdated" in line]
    assert len(states) == 2  # localize, and the report that shows it


def test_init_writes_a_file_that_run_takes(tmp_path, call) -> None:
    path = tmp_path / "study.yaml"
    result = call("init", path)
    assert f"mnemoscope run {path} -o STUDY" in result.out
    assert path.read_text().count("#") > 30
    assert "exists. Choose another name, or --force" in call("init", path).err
    assert call("init", path, "--force").status == 0
    assert "no such folder" in call("init", tmp_path / "none" / "study.yaml").err
    for text, words in {
        b"- a\n": "wants 'key: value' lines",
        b"\xff\xfe": "cannot be read",
    }.items():
        path.write_bytes(text)
        assert words in call("run", path, "-o", tmp_path / "out").err


def test_features_of_a_table_counts_duplicates_in_a_corpus(call, tmp_path) -> None:
    """Counted by hand: the suffix stands twice in the first document and once in the second."""
    suffix = list(range(100, 132))
    given = pl.DataFrame({"sequence_id": [1], "tokens": [[*range(32), *suffix]]})
    corpus = pl.DataFrame({"tokens": [[*suffix, 7, *suffix], [9, *suffix], suffix[:-1]]})
    for name, frame in (("in", given), ("corpus", corpus)):
        frame.write_parquet(tmp_path / f"{name}.parquet")
    arguments = ("-o", tmp_path / "out.parquet", "--corpus", tmp_path / "corpus.parquet")
    assert call("features", tmp_path / "in.parquet", *arguments).status == 0
    assert pl.read_parquet(tmp_path / "out.parquet")["duplicates"].to_list() == [3]


def test_what_of_the_catalogue_is_missing_is_said(call, tmp_path) -> None:
    shares = dict.fromkeys(("memorization_score", "rouge_l", "rouge_3"), 1.0)
    known = shares | {"duplicates": 6, "is_incrementing": False, "is_repeating": False}
    pl.DataFrame([{"sequence_id": 1, **known}]).write_parquet(tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    done = call("label", tmp_path / "in.parquet", "-t", "catalogue", "-t", "rho", "-o", out)
    assert done.status == 0, done.err
    assert "in.parquet has no column is_code: null throughout are the 16 taxonomies" in done.out
    assert len(pl.read_parquet(out).columns) == 1 + 54 + 27


def test_features_say_where_the_two_pattern_modes_differ(call, tmp_path) -> None:
    texts = ["1 5 2", "1, 2, 3, 4, 5", "abab", "neither of the two"]
    given = pl.DataFrame({"sequence_id": range(4), "text": texts})
    given.write_parquet(tmp_path / "in.parquet")
    arguments = ("-o", tmp_path / "out.parquet", "--compare-patterns")
    said = call("features", tmp_path / "in.parquet", *arguments).out
    assert "is_incrementing, published and strict rules: both 1, only published 1" in said
    assert "is_repeating, published and strict rules: both 1, only published 0" in said


@pytest.mark.parametrize(
    "flags",
    [("--length", 32), ("--prefix", 8), ("--tokenizer", "embedded"), ("--compare-patterns",)],
)
def test_flags_of_a_table_are_refused_for_a_study(flags, tiny_studies, refused) -> None:
    assert flags[0] in refused("features", tiny_studies["continue"], *flags, "-q")
