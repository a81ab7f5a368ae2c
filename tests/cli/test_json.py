"""`--json`: one document on standard output, with the figures of the files, and nothing else."""

import json

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from mnemoscope.study.folder import Study
from tiny_models import make_tokenizer


@pytest.fixture
def answer(call):
    """Run a verb with --json, and parse all that is on standard output."""

    def answer(*arguments: object, status: int = 0) -> dict:
        done = call(*arguments, "--json")
        assert done.status == status, done.err
        return json.loads(done.out)

    return answer


def test_benchmark_gives_the_rows_of_its_tables(answer, study_at) -> None:
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


def test_describe_gives_stages_models_and_sizes(answer, call, tiny_studies, tiny) -> None:
    folder = tiny_studies["label"]
    found = answer("describe", folder)
    states = {one["name"]: one["state"] for one in found["stages"]}
    assert states["label"] == "done"
    assert states["capture"] == "missing"
    assert found["models"] == Study(folder).record["models"]
    assert found["bytes"]["labels.parquet"] == (folder / "labels.parquet").stat().st_size
    columns = {one["name"]: one["type"] for one in answer("describe", tiny.table)["columns"]}
    assert columns["duplicates"] == "Int64"
    maps = answer("describe", tiny_studies["capture"] / "maps" / "model")
    assert sum(maps["by_suffix"].values()) == maps["maps"] > 0
    refused = call("describe", folder / "none", "--json")
    assert (refused.status, refused.out) == (2, "")


def test_duplicates_gives_the_counts_of_texts_cut_by_a_tokenizer(answer, tiny, tmp_path) -> None:
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
    found = answer("duplicates", *given, *flags)
    assert (found["sequences"], found["occurring"]) == (2, 1)
    assert "tokens_per_second" not in found  # an index is asked, not read
    wanted = 2 * sum(ids[i : i + 32] == ids[32:64] for i in range(len(ids) - 31))
    assert pl.read_ndjson(out)["duplicates"].to_list() == [wanted, 0]
    assert wanted > 2


def test_label_gives_counts_a_class(answer, study_at, tmp_path) -> None:
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
