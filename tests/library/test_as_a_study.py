"""Both ways: what the functions say is what a study says, to the bit."""

import numpy as np
import polars as pl
import pytest

import mnemoscope as ms

TAXONOMY = "Non-Memo, Recite[5], Recollect"


@pytest.fixture(scope="module")
def study(tiny_studies) -> ms.Study:
    return ms.Study(tiny_studies["report"])


@pytest.fixture(scope="module")
def sample(study) -> pl.DataFrame:
    """The sequences of the study's sample in the order in which they were drawn."""
    rows = study.samples.filter(pl.col("suffix").is_in(["own", "true"]))
    rows = rows.filter(pl.col(rows.columns[0]) == rows[rows.columns[0]][0])
    table = study.sequences.select("sequence_id", "tokens", "is_memorized", "continuation")
    return rows.join(table, on="sequence_id", how="left", maintain_order="left")


def test_verdicts_and_classes(study, tiny) -> None:
    table = study.sequences
    found = ms.scan(tiny.model, table.select("sequence_id", "tokens"), decode=True, batch_size=32)
    for column in ("is_memorized", "continuation", "memorization_score", "smallest_gap"):
        assert found[column].equals(table[column]), column
    texts = table.select("sequence_id", "tokens", "text", "is_memorized", "duplicates")
    named = ms.classify(texts, [TAXONOMY, "Non-Memo, Guess, Recall"])
    for name in (TAXONOMY, "Non-Memo, Guess, Recall"):
        assert named[name].cast(pl.String).equals(study.labels[name])
    assert ms.classify(texts, TAXONOMY)["class"].equals(named[TAXONOMY].alias("class"))
    for feature in ("rouge_l", "rouge_3", "is_repeating"):
        assert named[feature].equals(table[feature]), feature


def test_maps_readers_and_the_excess(study, sample, tiny, tmp_path) -> None:
    maps = ms.capture(tiny.model, sample, suffix="own", batch_size=16)
    stored = ms.capture(tiny.model, sample, suffix="own", batch_size=16, out=tmp_path / "maps")
    np.testing.assert_array_equal(stored[:], maps[:])
    from mnemoscope.pipeline.capture import open_maps

    kept = open_maps(study, "model").dataset(
        sample["sequence_id"].to_numpy(), sample["suffix"].to_list(), "mean"
    )
    import torch

    rows = torch.arange(len(maps))
    assert torch.equal(kept.read(rows), maps.source.read(rows))

    given = {
        "groups": sample["group"],
        "split": sample["split"],
        "preset": "paper",
        "kernel": 3,
        "filters": 6,
        "seed": (0, 1),
    }
    labels = sample["class"].cast(pl.Enum(["Non-Memo", "Recite[5]", "Recollect"]))
    reader = ms.fit(maps, labels, **given)
    other = ms.fit(ms.capture(tiny.reference, maps, batch_size=16), labels, **given)
    blind = ms.fit_blind(maps, labels, **given)
    rows_of_study = {row["source"]: row for row in study.benchmark.iter_rows(named=True)}
    for name, one in (("model", reader), ("reference", other), ("blind", blind)):
        of_study = rows_of_study[name]
        runs = study.predictions.filter(pl.col("source") == name)
        predicted = runs.sort("seed", "epoch", "sequence_id")["predicted"].to_numpy()
        np.testing.assert_array_equal(one.votes.predicted.ravel(), predicted)
        if all(one.did_train):
            assert one.confusion.tolist() == of_study["confusion"]
            assert one.min_f1.value == of_study["min_f1"]["value"]

    shares = reader.predict(maps.take(sample["split"] == "eval"))
    assert shares.select(reader.classes).sum_horizontal().is_close(1.0).all()
    delta = reader.decisiveness(maps)
    assert delta.shape == (3, 2, 64, 64)
    wanted = study.decisiveness(attribution="gradient")
    if wanted.source == "model" and all(reader.did_train):
        np.testing.assert_array_equal(delta, wanted.delta)


def test_a_study_of_a_loaded_model_and_texts_is_the_one_of_their_names(
    study, tiny, tmp_path
) -> None:
    from transformers import AutoModelForCausalLM

    loaded = [AutoModelForCausalLM.from_pretrained(one) for one in (tiny.model, tiny.reference)]
    values = {key: one for key, one in tiny.values.items() if key not in ("model", "sequences")}
    values |= {"model": {"batch_size": 32}, "capture": {"shard_rows": 16}}
    made = ms.run(
        loaded[0], pl.read_parquet(tiny.table), tmp_path / "study", reference=loaded[1],
        settings=values, until="capture",
    )  # fmt: skip
    assert made.sequences.equals(study.sequences)
    assert made.samples.equals(study.samples)
    again = ms.run(made.settings, tmp_path / "study", until="capture")
    assert again.sequences.equals(made.sequences)


def test_a_study_answers(study) -> None:
    found = study.excess()
    row = study.benchmark.filter(pl.col("is_headline")).row(0, named=True)
    assert (found.kind, found.verdict) == (row["verdict_kind"], row["verdict"])
    assert found.value.value == row["excess"]["value"]
    assert "<iframe" in study.report()._repr_html_()
    with pytest.raises(ms.UserError, match="partz"):
        study.graft(partz=["qk"])
    assert {"excess", "report", "graft", "decisiveness"} <= set(dir(study))
