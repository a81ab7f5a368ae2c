"""`--json`: one document on standard output, with the figures of the files, and nothing else."""

import json

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from mnemoscope.audit.run import read_audit_record
from mnemoscope.embedded import sequences_path
from mnemoscope.pipeline.label import samples_of
from mnemoscope.study.folder import Study


@pytest.fixture
def answer(call):
    """Run a verb with --json, and parse all that is on standard output."""

    def answer(*arguments: object, status: int = 0) -> dict:
        done = call(*arguments, "--json")
        assert done.status == status, done.err
        return json.loads(done.out)

    return answer


def test_audit_gives_its_record_the_spans_and_the_gate(answer, tmp_path) -> None:
    rows = pl.read_parquet(sequences_path()).filter(pl.col("duplicates") > 5)
    (tmp_path / "a.txt").write_text("The lamp on the hill.\n".join(rows["text"].head(3)))
    out = tmp_path / "out"
    asked = ("audit", "embedded", tmp_path / "a.txt", "-o", out, "--fail-if", "recalled > 0.5%")
    found = answer(*asked, status=3)
    record = read_audit_record(out)
    assert {key: found[key] for key in record} == record
    assert found["gate"] == {"text": "recalled > 0.5%", "failed": True}
    spans = pl.read_parquet(out / "spans.parquet")
    assert found["spans"] == spans.select(found["spans"][0].keys()).to_dicts()
    verified = answer("audit", "--verify", out, "-q")
    assert verified["n_hold"] == verified["n_spans"] == spans.height


def test_benchmark_gives_the_rows_of_its_tables(answer, study_at) -> None:
    study = study_at("benchmark")
    found = answer("benchmark", study)
    table = pl.read_parquet(study / "benchmark.parquet")
    again = pl.DataFrame(found["benchmark"], schema=table.schema)
    assert_frame_equal(again, table)
    assert found["samples"] == samples_of(Study(study))
    measured = pl.read_parquet(study / "comparison.parquet").filter(state="measured")
    assert [one["published_name"] for one in found["comparison"]] == list(
        measured["published_name"]
    )
    assert len(found["conclusions"]) == len(found["published_conclusions"])


def test_describe_gives_stages_models_and_sizes(answer, tiny_studies, tiny) -> None:
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


def test_duplicates_gives_the_counts_of_its_table(answer, tiny, tmp_path) -> None:
    out = tmp_path / "out.parquet"
    found = answer("duplicates", "--sequences", tiny.table, "--corpus", tiny.table, "-o", out)
    counts = pl.read_parquet(out)["duplicates"]
    assert (found["sequences"], found["occurring"]) == (counts.len(), (counts > 0).sum())


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


def test_refusal_leaves_standard_output_empty(call, tmp_path) -> None:
    done = call("describe", tmp_path / "none", "--json")
    assert (done.status, done.out) == (2, "")
    assert "no such file" in done.err
