"""The stages hand each source what it is named for: maps, tokens, labels, maxima."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from mnemoscope.benchmark.sources import TABLE
from mnemoscope.maps.store import MapStore
from mnemoscope.pipeline import localize
from mnemoscope.pipeline.capture import shown_tokens
from mnemoscope.pipeline.train import job_maps, jobs_of, sample_rows
from mnemoscope.study.folder import Study


@pytest.fixture
def study(tiny_studies) -> Study:
    return Study(tiny_studies["report"])


def job_of(study: Study, source: str):
    return next(job for job in jobs_of(study) if job.source == source)


def test_own_shows_what_the_model_wrote_and_true_what_the_text_holds(study) -> None:
    table = study.sequences
    ids = table.filter(~pl.col("is_memorized"))["sequence_id"].to_list()[::-1]
    wanted = pl.DataFrame({"sequence_id": ids + ids, "suffix": ["own", "true"] * len(ids)})
    rows = {row["sequence_id"]: row for row in table.to_dicts()}
    for (number, suffix), tokens in zip(wanted.rows(), shown_tokens(table, wanted), strict=True):
        row = rows[number]
        second = row["continuation"] if suffix == "own" else row["tokens"][32:]
        assert tokens.tolist() == row["tokens"][:32] + second
        assert row["continuation"] != row["tokens"][32:]


def test_samples_show_non_memo_with_its_continuation(study) -> None:
    rows = study.read("samples.parquet")
    assert set(rows.filter(pl.col("class") == "Non-Memo")["suffix"]) == {"own"}
    assert set(rows.filter(pl.col("class") != "Non-Memo")["suffix"]) == {"true"}


def test_each_source_sees_its_own_maps(study) -> None:
    seen = {}
    for source in ("model", "reference", "control", "blind"):
        job = job_of(study, source)
        rows = sample_rows(study, job.sample).evaluation
        seen[source] = job_maps(study, job, rows).read(torch.arange(rows.height))
    for role in ("model", "reference"):
        store = MapStore(study.folder / "maps" / role)
        ids, suffixes = rows["sequence_id"].to_numpy(), rows["suffix"].to_list()
        stored = store.dataset(ids, suffixes, "mean").read(torch.arange(rows.height))
        assert torch.equal(seen[role], stored)
    assert torch.equal(seen["control"], seen["model"])
    assert not torch.equal(seen["reference"], seen["model"])
    assert set(seen["blind"].unique().tolist()) == {0.0, 1.0}


def test_only_permuted_controls_are_held_against_permuted_classes(study) -> None:
    """In the control task Non-Memo keeps its own class; of planted marks all are exchanged."""
    samples = study.read("samples.parquet").filter(split="eval")
    truth = dict(samples.select("sequence_id", "class_index").rows())
    found = study.read("predictions.parquet").filter(seed=0)
    for source in found["source"].unique():
        rows = found.filter(source=source).select("sequence_id", "true").unique()
        own = np.array([truth[number] for number in rows["sequence_id"]])
        true = rows["true"].to_numpy()
        assert (np.sort(true) == np.sort(own)).all()
        assert ((true == 0) == (own == 0)).all() == (TABLE[source].mark == 0)
        assert (true != own).any() == TABLE[source].is_permuted


def test_delta_weighs_by_the_maxima_over_heads_whatever_the_pooling(study, monkeypatch) -> None:
    job, handed = job_of(study, "model"), {}

    def note(*arguments, **named):
        handed.update(maps=arguments[1], maxima=named["max_maps"])
        raise InterruptedError  # what it was given is all that is asked

    trained = SimpleNamespace(facts={"did_train": True})
    monkeypatch.setattr(localize, "load_outcome", lambda _: trained)
    monkeypatch.setattr(localize, "decisiveness", note)
    with pytest.raises(InterruptedError):
        localize._of_cnn(study, job)
    assert job.setting.pooling == handed["maps"].pooling == "mean"
    assert handed["maxima"].pooling == "max"
