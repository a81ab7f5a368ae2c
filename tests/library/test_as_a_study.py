"""Both ways: what the functions say is what a study says, to the bit."""

from html import escape

import numpy as np
import polars as pl
import pytest

import mnemoscope as ms
from mnemoscope.library.maps import read_windows
from mnemoscope.pipeline.capture import shown_tokens
from mnemoscope.pipeline.stored_maps import open_maps

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


@pytest.mark.whole
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


def test_maps(study, sample, tiny, tmp_path) -> None:
    maps = ms.capture(tiny.model, sample, suffix="own", batch_size=16)
    kept = stored(study, sample, "model")
    for pool in ("mean", "max", "both"):
        np.testing.assert_array_equal(maps.pooled(pool), kept.pooled(pool))
    other = ms.capture(tiny.reference, maps, batch_size=16)
    np.testing.assert_array_equal(other, stored(study, sample, "reference"))
    folder = tmp_path / "maps"
    for _ in range(2):  # the second time nothing is captured
        in_folder = ms.capture(tiny.model, sample, suffix="own", batch_size=16, out=folder)
        np.testing.assert_array_equal(in_folder, maps)
        times = {one: one.stat().st_mtime_ns for one in folder.iterdir()}
    assert times == {one: one.stat().st_mtime_ns for one in folder.iterdir()}


def stored(study: ms.Study, rows: pl.DataFrame, role: str, pool: str = "mean") -> ms.Maps:
    """The maps that a study holds of these rows."""
    store = open_maps(study, role)
    ids, suffixes = rows["sequence_id"].to_numpy(), rows["suffix"].to_list()
    sources = {name: store.dataset(ids, suffixes, name) for name in ("mean", "max")}
    tokens = shown_tokens(study.sequences, rows.select("sequence_id", "suffix"))
    read = read_windows(rows, tokens, study.settings.sequences.n_prefix)
    return ms.Maps(read, pool, sources)


@pytest.mark.whole
def test_readers_their_figures_and_the_excess(small_demo, tmp_path) -> None:
    study = ms.Study(small_demo)
    table = study.benchmark
    name = {"taxonomy": "Non-Memo, Guess, Recall", "variant": "main"}
    rows = study.samples.filter(**name)
    classes = list(dict.fromkeys(rows.sort("class_index")["class"]))
    labels = rows["class"].cast(pl.Enum(classes))
    given = {
        **{"groups": rows["group"], "split": rows["split"], "preset": "as_run"},
        **{"kernel": 4, "filters": 16, "seed": 0},
    }
    maps = stored(study, rows, "model", "max")
    readers = {
        "model": ms.fit(maps, labels, **given),
        "reference": ms.fit(stored(study, rows, "reference", "max"), labels, **given),
        "blind": ms.fit_blind(maps, labels, **given),
        "ngram": ms.fit_blind(maps, labels, kind="ngrams", **given),
        "statistics": ms.fit(maps, labels, kind="regression", **given),
        "blind_statistics": ms.fit_blind(maps, labels, kind="regression", **given),
    }
    of_study = {row["source"]: row for row in table.filter(**name).iter_rows(named=True)}
    for source, reader in readers.items():
        said = study.predictions.filter(source=source, **name).sort("epoch", "sequence_id")
        np.testing.assert_array_equal(reader.votes.predicted.ravel(), said["predicted"].to_numpy())
        shares = np.stack(said.filter(pl.col("epoch") == said["epoch"].max())["probabilities"])
        np.testing.assert_array_equal(reader.votes.scores[0], shares)
        assert reader.did_train == (of_study[source]["did_train"],)
        if reader.did_train == (True,):
            assert reader.confusion.tolist() == of_study[source]["confusion"]
            assert reader.min_f1._asdict() == of_study[source]["min_f1"]
    assert readers["model"].did_train == readers["blind"].did_train == (True,)
    controls = {one: readers[one] for one in ("reference", "blind", "ngram")}
    found = ms.excess({"model": readers["model"], **controls})
    assert found.value._asdict() == of_study["model"]["excess"]
    assert found.over == of_study["model"]["excess_over"]
    assert found.gain._asdict() == of_study["model"]["gain"]
    assert " nats [" in str(found.gain)

    shares = readers["model"].predict(maps.take(rows["split"] == "eval"))
    total = shares.select(classes).sum_horizontal()
    np.testing.assert_allclose(total, 1.0, atol=1e-5)
    assert shares["class"].to_list() == [
        classes[one] for one in shares.select(classes).to_numpy().argmax(axis=1)
    ]
    wanted = study.decisiveness(name["taxonomy"], attribution="gradient")
    np.testing.assert_array_equal(readers["model"].decisiveness(maps), wanted.delta)

    kept = {one: ms.Reader.load(reader.save(tmp_path / one)) for one, reader in readers.items()}
    for one, reader in readers.items():
        assert kept[one].sample.equals(reader.sample)
        assert kept[one].f1 == reader.f1
        np.testing.assert_array_equal(kept[one].votes.scores, reader.votes.scores)
    assert kept["model"].predict(maps).equals(readers["model"].predict(maps))
    np.testing.assert_array_equal(kept["model"].decisiveness(maps), wanted.delta)
    assert ms.excess({one: kept[one] for one in ("model", *controls)}) == found
    with pytest.raises(ms.UserError, match="is not empty"):
        readers["model"].save(tmp_path / "model")
    file = tmp_path / "model" / "reader.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ms.DamagedDataError, match=r"reader\.safetensors: damaged"):
        ms.Reader.load(tmp_path / "model")

    shown = readers["model"]._repr_html_()
    for n in readers["model"].confusion.ravel():
        assert f"<td>{n:,}</td>" in shown


def test_labels_may_be_a_table_in_any_order(small_demo) -> None:
    study = ms.Study(small_demo)
    rows = study.samples.filter(taxonomy="Non-Memo, Guess, Recall", variant="main")
    maps, labels = stored(study, rows, "model", "max"), rows.select("sequence_id", "class")
    given = {"groups": rows["group"], "split": rows["split"], "kind": "regression"}
    by_place = ms.fit(maps, labels["class"], **given)
    for table in (labels, labels.rename({"class": "Non-Memo, Guess, Recall"})):
        by_id = ms.fit(maps, table.sample(fraction=1.0, shuffle=True, seed=1), **given)
        assert by_id.sample.equals(by_place.sample)
        np.testing.assert_array_equal(by_id.votes.scores, by_place.votes.scores)
    without = ms.fit(maps, labels[10:], **given)
    assert without.sample.height == by_place.sample.height - 10


@pytest.mark.whole
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
    with pytest.raises(ms.UserError, match=r"no table 'benchmak\.parquet'\. Did you mean 'ben"):
        study.read("benchmak.parquet")
    page = study._repr_html_()
    memorized = int(study.sequences["is_memorized"].sum())
    assert f"{study.sequences.height:,} sequences, {memorized:,} memorized" in page
    assert escape(row["verdict"]) in page
    assert all(f"{name} " in page for name in study.samples["class"].unique())
    assert {"excess", "report", "graft", "decisiveness"} <= set(dir(study))


@pytest.mark.whole
def test_a_study_of_loaded_models_goes_on_with_them(tiny, tmp_path) -> None:
    """They are no longer what their folder holds, as a fine-tuned model is not."""
    import torch
    from transformers import AutoModelForCausalLM

    model, twin = (
        AutoModelForCausalLM.from_pretrained(one) for one in (tiny.model, tiny.reference)
    )
    with torch.no_grad():
        for weight in (*model.parameters(), *twin.parameters()):
            weight.mul_(1.001)
    values = {key: one for key, one in tiny.values.items() if key not in ("model", "sequences")}
    values |= {"capture": {"shard_rows": 16}, "graft": {"n_sequences": 12, "draws": 1}}
    table = pl.read_parquet(tiny.table)
    asked = {"reference": twin, "until": "label"}
    study = ms.run(model, table, tmp_path / "s", settings=values, taxonomies=TAXONOMY, **asked)
    assert study.settings.label.taxonomies == [TAXONOMY]
    assert study.graft(parts=["layers.1.qk"]).height
    again = ms.run(model, table, tmp_path / "s", **asked)  # with the settings it has
    assert again.settings == study.settings
