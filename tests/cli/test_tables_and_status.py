"""Verbs beside the long path: tables of other people, features and label, describe, --json."""

import gzip
import json

import numpy as np
import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal
from rouge_score.rouge_scorer import RougeScorer

import mnemoscope as ms
from mnemoscope.errors import UserError
from mnemoscope.progress import noted, track
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import load_settings
from tiny_models import make_tokenizer


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


def test_features_of_a_table(tmp_path, succeed):
    given, made = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    frame = table(40).with_columns(n_copies=pl.lit(3, pl.Int64))
    frame.write_ndjson(given)
    result = succeed("features", given, "-o", made, "--length", 40)
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


def test_one_taxonomy_adds_its_class_and_several_a_column_each(tmp_path, succeed):
    features = tmp_path / "features.parquet"
    table().write_parquet(tmp_path / "in.parquet")
    succeed("features", tmp_path / "in.parquet", "-o", features)
    one = tmp_path / "one.jsonl"
    result = succeed("label", features, "-t", "Non-Memo, Guess, Recall", "-o", one)
    assert "Guess 1, Non-Memo 1 (no class: 1)" in result.out
    found = pl.read_ndjson(one)
    # The second row has no text, so that it may be a pattern is not known.
    assert found["class"].to_list() == ["Guess", None, "Non-Memo"]
    assert found["mine"].to_list() == ["a", "b", "c"]
    several = tmp_path / "several.parquet"
    arguments = [word for name in TAXONOMIES for word in ("-t", name)]
    succeed("label", features, *arguments, "-o", several)
    assert pl.read_parquet(several).columns == ["sequence_id", *TAXONOMIES]


TAXONOMIES = ["Non-Memo, Guess, Recall", "Non-Memo, Guess[off-0.9], Others"]


def test_columns_are_taken_by_their_paths(tmp_path, succeed):
    """Features and classes are those of a table whose columns have our names."""
    rows = [
        {
            "body": row["text"],
            "meta": json.dumps({"key": row["sequence_id"], "said": row["is_memorized"]}),
            "ids": row["tokens"],
        }
        for row in table().to_dicts()
    ]
    packed = gzip.compress("\n".join(map(json.dumps, rows)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    table().write_parquet(tmp_path / "plain.parquet")
    paths = ("sequence_id=meta.key", "text=body", "tokens=ids")
    made = []
    for source, of_features, of_label in (
        ("a.jsonl.gz", paths, ["--column", "is_memorized=meta.said"]),
        ("plain.parquet", (), []),
    ):
        features, labels = tmp_path / "features.parquet", tmp_path / "labels.parquet"
        flags = [word for one in of_features for word in ("--column", one)]
        succeed("features", tmp_path / source, "-o", features, *flags)
        succeed("label", features, "-o", labels, "-t", TAXONOMIES[0], *of_label)
        made.append([pl.read_parquet(one).drop("mine", strict=False) for one in (features, labels)])
    (features, labels), (wanted_features, wanted_labels) = made
    given = wanted_features.drop("is_memorized")
    assert features.select(given.columns).equals(given)
    assert labels["class"].equals(wanted_labels["class"])


def test_describe_a_study_and_a_folder_of_maps(tiny_studies, study_at, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = call("status", tiny_studies["report"], "--verbose").out
    fingerprint = Study(tiny_studies["report"]).record["models"]["reference"]["fingerprint"]
    for word in ("sequences", "report", "done", "memorized 160", "2 × 4", "maps", "study.yaml"):
        assert word in text
    assert fingerprint[:12] in text
    assert "outdated" not in text
    assert "CNNs, preset as_run: 1 setting × 2 seeds, another grid." in text
    brief = call("status", tiny_studies["report"]).out
    assert len(brief.splitlines()) <= 25
    assert "\nDone: sequences, continue, features, label, capture, train, benchmark, loc" in brief
    assert "\nNot made, since no run makes it by itself: knockout, graft, search.\n" in brief
    assert "memorized 160" in call("status", tiny_studies["continue"], "--verbose").out
    text = call("status", tiny_studies["capture"] / "maps" / "model").out
    for word in ("180 maps, 2 layers, length 64", "own 60, true 120", "checksums right"):
        assert word in text
    path = study_at("report") / "study.yaml"
    values = yaml.safe_load(path.read_text())
    values["localize"]["attributions"] = ["gradient"]
    path.write_text(yaml.safe_dump(values))
    assert "\nOut of date: localize, report.\n" in call("status", path.parent).out


def test_status_says_how_far_a_stage_is_and_where_it_was_stopped(study_at, call, answer):
    folder, said = study_at("label"), []
    study = Study(folder)

    def stopped() -> None:
        with study.lock(), noted(study.note_path("capture"), stage="capture"):
            with track("Capturing", total=10, unit="shards") as progress:
                progress.advance(4)
            said.append(call("status", folder).out)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert "Running: capture (Capturing: 4 of 10 shards" in said[0]
    (capture,) = (one for one in answer("status", folder)["stages"] if one["name"] == "capture")
    assert (capture["state"], capture["progress"]["done"]) == ("stopped", 4)
    with study.lock(), noted(study.note_path("report"), stage="report"):
        with track("Drawing", total=2, unit="pages") as progress:
            progress.advance()
        brief = call("status", folder).out  # another stage runs, and leaves what that one counted
        assert "Stopped: capture (Capturing: 4 of 10 shards" in brief
        assert "Running: report (Drawing: 1 of 2 pages" in brief
    assert not study.note_path("report").exists()
    study.forget("capture")
    assert "Capturing" not in call("status", folder).out


def test_init_writes_a_file_that_run_takes(tmp_path, call, succeed):
    path = tmp_path / "study.yaml"
    result = call("init", path)
    assert f"mnemoscope run {path} -o STUDY" in result.out
    assert path.read_text().count("#") > 30
    succeed("init", path, "--force")
    for text, words in {
        b"- a\n": "wants 'key: value' lines",
        b"\xff\xfe": "cannot be read",
    }.items():
        path.write_bytes(text)
        assert words in call("run", path, "-o", tmp_path / "out").err


def test_features_of_a_table_counts_duplicates_in_a_corpus(succeed, tmp_path):
    """Counted by hand: the suffix stands twice in the first document and once in the second."""
    suffix = list(range(100, 132))
    given = pl.DataFrame({"sequence_id": [1], "tokens": [[*range(32), *suffix]]})
    corpus = pl.DataFrame({"tokens": [[*suffix, 7, *suffix], [9, *suffix], suffix[:-1]]})
    for name, frame in (("in", given), ("corpus", corpus)):
        frame.write_parquet(tmp_path / f"{name}.parquet")
    arguments = ("-o", tmp_path / "out.parquet", "--corpus", tmp_path / "corpus.parquet")
    succeed("features", tmp_path / "in.parquet", *arguments)
    assert pl.read_parquet(tmp_path / "out.parquet")["duplicates"].to_list() == [3]


def test_what_of_the_catalogue_is_missing_is_said(succeed, tmp_path):
    shares = dict.fromkeys(("memorization_score", "rouge_l", "rouge_3"), 1.0)
    known = shares | {"duplicates": 6, "is_incrementing": False, "is_repeating": False}
    pl.DataFrame([{"sequence_id": 1, **known}]).write_parquet(tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    done = succeed("label", tmp_path / "in.parquet", "-t", "catalogue", "-t", "rho", "-o", out)
    assert "in.parquet has no column is_code: null throughout are the 16 taxonomies" in done.out
    assert len(pl.read_parquet(out).columns) == 1 + 54 + 27


def test_features_say_where_the_two_pattern_modes_differ(call, tmp_path):
    texts = ["1 5 2", "1, 2, 3, 4, 5", "abab", "neither of the two"]
    pl.DataFrame({"sequence_id": range(4), "text": texts}).write_parquet(tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    said = call("features", tmp_path / "in.parquet", "-o", out, "--compare-patterns").out
    assert "is_incrementing, published and strict rules: both 1, only published 1" in said
    assert "is_repeating, published and strict rules: both 1, only published 0" in said


LONG = "The licence applies to works based on the library. " * 20


def test_a_count_that_nobody_asked_for_is_said_and_kept(tiny, tmp_path, call, succeed, refused):
    """A condition may stand in a `--column`; those of settings: `test_shipped_studies.py`."""
    meta = [json.dumps({"duplicates": count, "id": f"pg-{count}"}) for count in (0, 16)]
    pl.DataFrame({"text": [LONG] * 2, "meta": meta}).write_ndjson(tmp_path / "passages.jsonl")
    asked = ("sequences", tmp_path / "passages.jsonl", "--model", tiny.model, "-o", tmp_path / "s")
    assert "--column n: needs NAME=PATH" in refused(*asked, "-q", "--column", "n")
    assert "--column duplicates=meta.duplicates" in call(*asked).err
    assert Study(tmp_path / "s").manifest("sequences")["counts"]["passed_over"] == [
        "meta.duplicates"
    ]
    columns = ("duplicates=meta.duplicates", "held_out=meta.duplicates==0")
    flags = [word for one in columns for word in ("--column", one)]
    succeed(*asked[:-1], tmp_path / "t", "-q", *flags)
    study = Study(tmp_path / "t")
    assert "passed_over" not in study.manifest("sequences")["counts"]
    rows = study.sequences.select("duplicates", "held_out").unique().rows()
    assert set(rows) == {(0, True), (16, False)}


def test_a_frame_founds_the_study_that_its_file_would(tiny, tmp_path):
    settings, frame = load_settings(tiny.yaml), pl.read_parquet(tiny.table)
    model = settings.model.name
    given = {"settings": settings, "until": "sequences"}
    study = ms.run(model, frame, tmp_path / "frame", **given)
    other = ms.run(settings, tmp_path / "file", until="sequences")
    assert study.sequences.equals(other.sequences)
    assert study.settings.sequences.source.startswith("frame:")
    ms.run(model, frame, tmp_path / "frame", **given)  # goes on
    rows = pytest.importorskip("datasets").Dataset.from_dict(frame.to_dict(as_series=False))
    third = ms.run(model, rows, tmp_path / "rows", **given)
    assert third.sequences.equals(other.sequences)
    with pytest.raises(UserError, match=r"sequences\.source: the study has 'frame:"):
        ms.run(model, frame.head(50), tmp_path / "frame", **given)


def test_a_bad_table_is_refused_before_weights_are_loaded(tiny, tmp_path, refused, monkeypatch):
    monkeypatch.setattr("mnemoscope.lm.load.load_model", None)  # a call would be an error
    (tmp_path / "a.csv").write_text("title,body\n1,2\n")
    line = refused(
        "run", "--model", tiny.model, "--sequences", tmp_path / "a.csv", "-o", tmp_path / "s", "-q"
    )
    assert "--column text=NAME" in line
    assert not (tmp_path / "s").exists()


@pytest.fixture
def answer(call):
    def answer(*arguments: object, status: int = 0) -> dict:
        done = call(*arguments, "--json")
        assert done.status == status, done.err
        return json.loads(done.out)

    return answer


def test_benchmark_gives_the_rows_of_its_tables(answer, study_at):
    study = study_at("benchmark")
    found = answer("benchmark", study)
    table = pl.read_parquet(study / "benchmark.parquet")
    again = pl.DataFrame(found["benchmark"], schema=table.schema)
    assert_frame_equal(again, table)
    assert found["samples"] == Study(study).manifest("label")["counts"]["samples"]
    measured = pl.read_parquet(study / "comparison.parquet").filter(state="measured")
    assert [one["published_name"] for one in found["comparison"]] == list(
        measured["published_name"]
    )
    assert len(found["conclusions"]) == len(found["published_conclusions"])


def test_describe_gives_stages_models_and_sizes(answer, call, tiny_studies, tiny):
    folder = tiny_studies["label"]
    found = answer("status", folder)
    states = {one["name"]: one["state"] for one in found["stages"]}
    assert states["label"] == "done"
    assert states["capture"] == "missing"
    assert found["models"] == Study(folder).record["models"]
    assert found["bytes"]["labels.parquet"] == (folder / "labels.parquet").stat().st_size
    columns = {one["name"]: one["type"] for one in answer("status", tiny.table)["columns"]}
    assert columns["duplicates"] == "Int64"
    maps = answer("status", tiny_studies["capture"] / "maps" / "model")
    assert sum(maps["by_suffix"].values()) == maps["maps"] > 0
    refused = call("status", folder / "none", "--json")
    assert (refused.status, refused.out) == (2, "")


def test_duplicates_gives_the_counts_of_texts_cut_by_a_tokenizer(answer, tiny, tmp_path):
    text = "The licence applies to works based on the library.\n" * 20
    ids = make_tokenizer().encode(text, add_special_tokens=False)
    given = pl.DataFrame({"ids": [ids[:64], [0] * 64], "duplicates": [7, 7]})  # replaced
    given.write_ndjson(tmp_path / "s.jsonl")
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.md"):
        (tmp_path / "texts" / name).write_text(text)
    out = tmp_path / "out.jsonl"
    given = ("--sequences", tmp_path / "s.jsonl", "--corpus", tmp_path / "texts", "-o", out)
    flags = ("--tokenizer", tiny.model, "--column", "tokens=ids")
    found = answer("data", "duplicates", *given, *flags)
    assert (found["sequences"], found["occurring"]) == (2, 1)
    assert "tokens_per_second" not in found  # an index is asked, not read
    wanted = 2 * sum(ids[i : i + 32] == ids[32:64] for i in range(len(ids) - 31))
    assert pl.read_ndjson(out)["duplicates"].to_list() == [wanted, 0]
    assert wanted > 2


def test_label_gives_counts_a_class(answer, study_at, tmp_path):
    table, out = tmp_path / "t.jsonl", tmp_path / "labels.parquet"
    scores = {"sequence_id": [1, 2, 3], "memorization_score": [1.0, 1.0, 0.5]}
    pl.DataFrame({**scores, "duplicates": [9, None, 1]}).write_ndjson(table)
    name = "Non-Memo, Recite[5], Others"
    counts = {"Non-Memo": 1, "Recite[5]": 1, "null": 1}
    assert answer("label", table, "-t", name, "-o", out)["counts"] == {name: counts}
    study = study_at("label")
    found = answer("label", study)
    labels = pl.read_parquet(study / "labels.parquet")
    for taxonomy, by_class in found["counts"].items():
        assert by_class == dict(labels[taxonomy].value_counts().iter_rows())
