"""The stage `localize`: Δ beside the reference's and the tokens', its regions and its checks."""

import dataclasses
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from mnemoscope.errors import DamagedDataError
from mnemoscope.flow.run import run_stage
from mnemoscope.library.reader import in_halves
from mnemoscope.maps.store import MapStore
from mnemoscope.maps.triangle import unpack_triangle
from mnemoscope.pipeline import localize, train
from mnemoscope.pipeline.deltas import load_deltas, pack_deltas
from mnemoscope.pipeline.localize import rows_read
from mnemoscope.pipeline.train import load_outcome, sample_rows
from mnemoscope.report import export
from mnemoscope.report.content import taxonomy_results
from mnemoscope.report.tables import localize_tables
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy.sample import SampleKey
from study_files import put_in_place, settings_with

SAMPLE = "Non-Memo, Recite[5], Recollect"
OF_CNNS = {"rankings": [], "rows": "evaluation"}
EVERY_ROW = OF_CNNS | {"sanity": False}


def as_if_trained(monkeypatch) -> None:
    """The tiny study's CNNs have not left chance; here they count all the same."""

    def outcome(job):
        found = load_outcome(job)
        return dataclasses.replace(found, facts=dataclasses.replace(found.facts, did_train=True))

    monkeypatch.setattr(localize, "load_outcome", outcome)


@pytest.fixture(scope="module")
def done(tiny_studies, tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("localize") / "study"
    shutil.copytree(tiny_studies["report"], folder)
    study = Study(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        as_if_trained(monkeypatch)
        run_stage(study, "localize", settings_with(study, localize=OF_CNNS), redo=True)
    return Study(folder)


def test_a_bit_that_flipped_in_a_map_stops_a_localization_by_name_and_no_benchmark(
    tiny_studies, tmp_path, monkeypatch
) -> None:
    """A benchmark is of predictions alone."""
    study = Study(shutil.copytree(tiny_studies["train"], tmp_path / "study"))
    for shard in (study.folder / "maps" / "model").glob("*.safetensors"):
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
    run_stage(study, "benchmark")
    for name in ("benchmark.parquet", "inputs.parquet", "comparison.parquet"):
        whole = tiny_studies["benchmark"] / name
        assert (study.folder / name).read_bytes() == whole.read_bytes()
    as_if_trained(monkeypatch)
    with pytest.raises(DamagedDataError, match=r"model/shard-\d+.*content has changed"):
        run_stage(study, "localize", settings_with(study, localize=EVERY_ROW))
    assert study.manifest("localize") is None
    assert not (study.folder / "decisiveness.safetensors").exists()


def test_every_source_has_its_delta_of_all_sequences_and_the_models_is_the_default(done) -> None:
    n_eval = evaluated(done).height
    for source in ("model", "reference", "blind"):
        found = list(load_deltas(done, source))
        assert {one.source for one in found} == {source}
        assert [one.attribution for one in found] == ["gradient", "guided"]
        assert {one.delta.shape for one in found} == {(3, 2, 64, 64)}
        assert {one.n_cnns for one in found} == {2}
        for one in found:  # right or wrong
            assert sum(one.n_used) + sum(one.n_skipped) == 2 * n_eval
            assert sum(one.n_wrong) > 0
    assert [one.source for one in load_deltas(done)] == ["model", "model"]
    every = [one for source in localize.SOURCES for one in load_deltas(done, source)]
    made = {pack_deltas(every) for _ in range(20)}
    assert made == {(done.folder / "decisiveness.safetensors").read_bytes()}


def test_cnns_that_a_gpu_asks_as_one_say_what_they_say_alone(done, tmp_path, monkeypatch) -> None:
    """To float32 rounding; each keeps a result of its own, and those kept are not made again."""
    study = Study(shutil.copytree(done.folder, tmp_path / "study"))
    monkeypatch.setattr(train, "trains_together", lambda _: True)
    as_if_trained(monkeypatch)
    units = localize._localizations(study, list(localize.jobs_of(study)))
    groups = localize._together(units)
    assert [len(one.units) for one in groups] == [2, 2, 2]  # the seeds of each source
    run_stage(study, "localize", settings_with(study, localize=OF_CNNS), redo=True)
    for source in localize.SOURCES:
        for one, other in zip(load_deltas(study, source), load_deltas(done, source), strict=True):
            np.testing.assert_allclose(one.delta, other.delta, rtol=0, atol=1e-6)
            assert (one.n_used, one.n_wrong) == (other.n_used, other.n_wrong)


def evaluated(study: Study) -> pl.DataFrame:
    return study.read("samples.parquet").filter(taxonomy=SAMPLE, split="eval")


def test_rows_as_run_are_the_first_of_each_class_and_every_cnn_counts(
    tiny_studies, tmp_path, monkeypatch
) -> None:
    """As the paper's notebook takes them: by position, training sequences first, right or wrong."""
    monkeypatch.setattr(localize, "AS_RUN", 45)
    study = Study(shutil.copytree(tiny_studies["report"], tmp_path / "study"))
    wanted = settings_with(study, localize=EVERY_ROW | {"rows": "as_run"})
    run_stage(study, "localize", wanted, redo=True)
    expected: dict[str, list[int]] = {}
    samples = study.read("samples.parquet").filter(taxonomy=SAMPLE)
    for side in ("train", "eval"):
        for name, one in samples.filter(split=side).select("class", "sequence_id").iter_rows():
            if len(expected.setdefault(name, [])) < 45:
                expected[name].append(one)
    (job, *_) = (job for job in localize.jobs_of(study) if job.source == "model")
    found = localize.localized_rows(study, job)
    assert {name: set(ids) for name, ids in expected.items()} == {
        name: set(found.filter(pl.col("class") == name)["sequence_id"]) for name in expected
    }
    n_train = samples.filter(split="train").height // len(expected)
    assert min(n_train, 45) * len(expected) == found.filter(split="train").height
    assert 0 < n_train < 45 < samples.height // len(expected)
    for one in load_deltas(study):  # none of its CNNs left chance
        assert one.n_cnns == 2
        assert sum(one.n_used) + sum(one.n_skipped) == 2 * found.height


def test_a_ranking_of_the_model_stands_beside_delta_and_needs_no_cnn(
    tiny_studies, tmp_path
) -> None:
    """Against the means of the stored maps, float16, of the sequences as the model saw them."""
    study = Study(shutil.copytree(tiny_studies["report"], tmp_path / "study"))
    rankings = ["weights", "weights_contrast"]
    wanted = settings_with(study, localize=EVERY_ROW | {"rankings": rankings})
    run_stage(study, "localize", wanted, redo=True)
    weights, contrast = load_deltas(study)  # its CNNs did not train: no Δ
    assert [weights.attribution, contrast.attribution] == rankings
    rows = evaluated(study)
    means, store = [], MapStore(study.folder / "maps" / "model")
    for name in weights.classes:
        own = rows.filter(pl.col("class") == name)
        maps = store.dataset(own["sequence_id"].to_numpy(), own["suffix"].to_list(), "mean")
        means.append(unpack_triangle(maps.read(torch.arange(own.height))).mean(dim=0).numpy())
        assert weights.n_used[weights.classes.index(name)] == own.height
    # The last query's next token is not among the 64; its row stands here as everywhere.
    np.testing.assert_allclose(weights.delta, np.stack(means), atol=1e-3)
    wanted = np.maximum(0, [means[0] - (means[1] + means[2]) / 2, means[1] - means[2],
                            means[2] - means[1]])  # fmt: skip
    np.testing.assert_allclose(contrast.delta, wanted, atol=1e-3)
    assert set(study.read("regions.parquet")["attribution"]) == set(rankings)


def test_shares_of_a_partition_add_up_and_channels_are_said_apart(done) -> None:
    table = done.read("regions.parquet").drop_nulls("share")
    for pattern in ("→", "^layer ", "third of the layers|same token"):
        parts = table.filter(pl.col("region").str.contains(pattern))
        shares = parts.group_by("source", "attribution", "class").agg(pl.col("share").sum())
        assert shares["share"].to_list() == pytest.approx([1] * shares.height)
    blind = set(table.filter(source="blind")["region"])
    assert {"same token earlier", "after the same token"} < blind
    assert not [name for name in blind if "layer" in name]


def test_every_check_is_made_for_every_class_and_attribution(done) -> None:
    table = done.read("agreement.parquet")
    counts = dict(table.group_by("check").len().rows())
    of_both = ("halves", "seeds", "attributions", "reference", "attention")
    randomized, permuted = 2 * 3 * 2 * 4, 2 * 3 * 2  # attributions, classes, D and Δ, layers
    assert counts == dict.fromkeys(of_both, 6) | {"randomized": randomized, "permuted": permuted}
    lowest = table.filter(check="randomized")["against"].unique(maintain_order=True).to_list()
    assert lowest == ["classifier.4", "classifier.1", "features.4", "features.0"]
    assert table["pearson"].drop_nulls().is_between(-1, 1).all()
    shape = done.read("attention.parquet")  # of every class and layer
    assert shape["layer"].to_list() == [0, 1] * 3
    blocks = shape.select(pl.sum_horizontal(pl.col("^mass .* → .*$")))
    assert blocks.to_series().to_list() == pytest.approx([1.0] * 6)
    assert shape["Gini coefficient of a row"].is_between(0, 1).all()


def test_the_report_sets_it_all_below_the_maps(done) -> None:
    tables = list(localize_tables(done, SampleKey(SAMPLE)))
    assert len(tables) == 5
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}, table.title
        assert table.gist
    assert all(name in tables[0].gist for name in ("Non-Memo", "Recite[5]", "Recollect"))
    (result,) = [one for one in taxonomy_results(done) if one.name == SAMPLE]
    assert [maps.attribution for maps in result.beside] == ["gradient", "guided"]


def test_costly_attributions_read_a_seeded_few_of_each_class(done) -> None:
    def drawn(attribution, **changes):
        study = Study(done.folder)
        changes = {"attribution_sequences": 2} | changes
        study.settings = settings_with(study, localize=changes)
        return rows_read(study, sample_rows(study, SampleKey(SAMPLE)).evaluation, attribution)

    whole, few = drawn("gradient"), drawn("occlusion")
    assert whole.equals(evaluated(done))
    assert few["class"].value_counts(sort=True)["count"].to_list() == [2, 2, 2]
    assert set(few["sequence_id"]) < set(whole["sequence_id"])
    assert few.equals(drawn("integrated"))
    assert not all(few.equals(drawn("occlusion", seed=seed)) for seed in range(1, 5))
    assert drawn("occlusion", attribution_sequences=None).equals(whole)


def test_halves_share_no_sequence_and_keep_near_duplicates_together() -> None:
    rows = pl.DataFrame(
        {
            "sequence_id": range(12),
            "class": ["Guess"] * 6 + ["Recall"] * 6,
            "group": [7, 7, 3, 3, 9, 1, 2, 4, 6, 8, 10, 12],
        }
    )
    first, second = in_halves(rows)
    assert sorted([*first["sequence_id"], *second["sequence_id"]]) == list(range(12))
    assert not set(first["group"]) & set(second["group"])
    assert first["class"].value_counts(sort=True)["count"].to_list() == [3, 3]


def test_attributions_are_compared_on_the_sequences_that_all_of_them_read(
    done, tmp_path, monkeypatch
) -> None:
    """Else a costly one would differ from the others by its sequences alone."""
    study = Study(shutil.copytree(done.folder, tmp_path / "study"))
    as_if_trained(monkeypatch)
    # The same attribution under two names, one costly: on the same sequences they are one.
    monkeypatch.setattr(localize, "COSTLY", ("guided",))
    asked = localize.decisiveness_of_each
    monkeypatch.setattr(
        localize,
        "decisiveness_of_each",
        lambda *a, **k: asked(*a, **k | {"attribution": "gradient"}),
    )
    wanted = settings_with(study, localize=EVERY_ROW | {"attribution_sequences": 3})
    run_stage(study, "localize", wanted, redo=True)
    counted = {one.attribution: sum(one.n_used) + sum(one.n_skipped) for one in load_deltas(study)}
    assert counted == {
        "gradient": 2 * evaluated(done).height,
        "guided": 2 * 3 * 3,
    }
    alike = study.read("agreement.parquet").filter(check="attributions")
    assert alike["pearson"].to_list() == pytest.approx([1.0] * 6)
    assert alike["overlap"].to_list() == [1.0] * 6


@pytest.mark.parametrize(
    ("top", "verdict", "said", "overlap"),
    [
        (0.9, "fails", "most of what it has beyond a random CNN does not come from", 0.31),
        (0.55, "passes in part", "25% of what it has beyond a random CNN does not come", 0.62),
        (0.43, "passes", "is lost with the top layer", 0.31),
        (-0.2, "passes", "keeps a correlation of −0.20, with all layers random 0.40", 0.62),
    ],
)
def test_the_page_says_of_checks_what_the_figures_carry(
    done, monkeypatch, top, verdict, said, overlap
) -> None:
    def row(attribution, check, against, of, pearson, overlap, name="Recollect") -> dict:
        names = {
            **SampleKey(SAMPLE)._asdict(),
            "attribution": attribution,
            "class": name,
            "check": check,
        }
        figures = {"pearson": pearson, "spearman": pearson - 0.1, "overlap": overlap}
        return names | {"against": against, "of": of} | figures

    rows = [
        row("gradient", "randomized", layer, of, value, 0.5)
        for layer, value in (("classifier.4", top), ("features.0", 0.4))
        for of in ("D", "Δ")
    ]
    rows += [
        row(one, "attributions", other, "Δ", 0.05, overlap, name)
        for one, other in (("gradient", "guided"), ("guided", "gradient"))
        for name in ("Non-Memo", "Recollect")
    ]
    read, shown = done.read, {"agreement.parquet": pl.DataFrame(rows)}
    monkeypatch.setattr(done, "read", lambda name: read(name) if name not in shown else shown[name])
    tables = {table.title: table for table in localize_tables(done, SampleKey(SAMPLE))}
    sane = tables["Does Δ depend on what the CNN learned?"]
    assert sane.gist == f"gradient {verdict}"
    assert said in sane.summary
    stable = tables["Is Δ stable, and do the attributions agree?"]
    for where, words in ((stable.gist, ""), (stable.summary, f" ({overlap:.0%})")):
        assert (f"gradient and guided{words}" in where) == (overlap < 0.5)


def test_the_export_holds_every_figure_and_the_numbers(call, done, tmp_path, monkeypatch) -> None:
    drawn = {"svg": b"<svg/>", "pdf": b"%PDF", "png": b"png"}
    monkeypatch.setattr(export.Picture, "printed", lambda picture: drawn)  # in tests/report
    folder = tmp_path / "new" / "figures"
    result = call("localize", done.folder, "-q", "--export", folder)
    assert result.status == 0, result.err
    names = {path.name for path in folder.iterdir()}
    stem = "non-memo-recite-5-recollect"
    assert {f"{stem}-{a}-model-maps.pdf" for a in ("gradient", "guided")} < names
    assert {f"{stem}-guided-reference-maps.svg", f"{stem}-gradient-profile.png"} < names
    assert f"Wrote {len(names)} figures and tables" in result.out
    table = pl.read_parquet(folder / "delta.parquet")
    own = next(load_deltas(done))
    one = table.filter(source="model", attribution="gradient", layer=1, query=50, key=7)
    assert dict(one.select("class", "delta").rows()) == {
        name: own.delta[index, 1, 49, 6] for index, name in enumerate(own.classes)
    }
    regions = [one / "regions.parquet" for one in (folder, done.folder)]
    assert regions[0].read_bytes() == regions[1].read_bytes()


def test_what_cannot_be_asked_for_is_refused(refused, tiny_studies, done, tmp_path, hide) -> None:
    (tmp_path / "file").touch()
    said = refused("localize", done.folder, "-q", "--export", tmp_path / "file" / "figures")
    assert "cannot be made" in said
    empty = shutil.copytree(tiny_studies["report"], tmp_path / "empty")
    put_in_place(empty, decisiveness__safetensors=pack_deltas([]))  # its CNNs did not train
    assert "no Δ to export" in refused("localize", empty, "-q", "--export", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    hide("captum")
    said = refused("localize", empty, "-q", "--redo", "--set", "localize.attributions=[occlusion]")
    assert "pip install 'captum>=0.7'" in said
