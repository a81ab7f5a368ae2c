"""The stage `knockout`: every cut beside its controls, resumable, and refused in one line."""

import re
import shlex
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from mnemoscope.data.table import token_matrix
from mnemoscope.flow.run import run_stage
from mnemoscope.lm.edges import total_effects
from mnemoscope.localize.cut import CutOutcome, count_edges
from mnemoscope.maps.store import MapStore
from mnemoscope.maps.triangle import unpack_triangle
from mnemoscope.pipeline import knockout
from mnemoscope.pipeline.causes import of_json, own_statements, statements
from mnemoscope.pipeline.deltas import StoredDelta, pack_deltas
from mnemoscope.stats import Estimate, rows_of
from mnemoscope.study import models
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import StudySettings
from mnemoscope.taxonomy.sample import SampleKey
from study_files import put_in_place, settings_with

SAMPLE = "Non-Memo, Recite[5], Recollect"
FEW = {"by": "delta", "strengths": [2.0, 20.0], "n_sequences": 10, "draws": 2}
WITH_GRADIENT = "localize.attributions=[guided,gradient]"
ONE = {"strengths": [2.0], "draws": 1}


def settings_of(study: Study, **changes) -> StudySettings:
    return settings_with(study, knockout=FEW | changes)


@pytest.fixture(scope="module")
def done(tiny_studies, tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("knockout") / "study"
    study = planted(tiny_studies, folder)
    run_stage(study, "knockout", settings_of(study))
    return Study(folder)


@pytest.fixture
def study(tiny_studies, tmp_path) -> Study:
    return planted(tiny_studies, tmp_path / "study")


def figures(table: pl.DataFrame, name: str) -> list[Estimate]:
    return [row[name] for row in rows_of(table)]


def test_every_kind_of_cut_is_tried_on_every_memorized_class(done) -> None:
    table = done.read("knockout.parquet")
    wanted = {strength: count_edges(strength, 2, 64) for strength in FEW["strengths"]}
    kinds = {"random": 1, "decisive": 3, "highest mass": 2, "equal mass": 2, "same layers": 2}
    for name, of_class in kinds.items():
        rows = table.filter(choice=name)
        assert rows.height == 2 * of_class * 2, name  # strengths, whose edges, tried classes
        assert all(row["n_edges"] == wanted[row["strength"]] for row in rows.to_dicts()), name
    assert set(table["class"]) == {"Recite[5]", "Recollect"}
    assert table["mass"].is_between(0, 1 + 1e-6).all()
    assert all(low <= value <= high for value, low, high in figures(table, "survival"))
    assert set(table.filter(pl.col("choice").str.contains("random|equal|same"))["draws"]) == {2}
    # Δ of Non-Memo is tried on the memorized and has no index.
    assert set(table.filter(edges_of="Non-Memo")["choice"]) == {"decisive"}
    assert "Non-Memo" not in done.read("specificity.parquet")["class"].to_list()
    nothing = table.filter(choice="nothing")
    assert [one.value for one in figures(nothing, "survival")] == [1.0, 1.0]
    assert done.manifest("report") is None  # to be made again
    assert done.is_done("localize")


def test_edges_of_every_sequence_stand_beside_as_many_and_as_heavy_ones(done) -> None:
    table = done.read("knockout.parquet")
    kinds = {row["choice"]: row for row in rows_of(table.filter(pl.col("class") == "Recollect"))}
    copies, equal = kinds["copy"], kinds["copy, equal mass"]
    assert equal["n_edges"] == copies["n_edges"] > 0
    # The mass of each sequence's own attention is what is matched, to a few per cent of it.
    assert equal["mass"] == pytest.approx(copies["mass"], rel=0.1)
    assert kinds["own, equal mass"]["mass"] == pytest.approx(kinds["own"]["mass"], rel=0.15)
    assert kinds["copy, random"]["n_edges"] <= copies["n_edges"]
    own = table.filter(pl.col("choice").str.starts_with("own"))
    assert set(own["n_edges"]) == {done.settings.knockout.own_edges}
    assert set(own.select("class", "edges_of").rows()) == {("Recite[5]", ""), ("Recollect", "")}
    broken = [
        1 - kinds[f"own{one}"]["survival"].value for one in ("", ", equal mass", ", another's")
    ]
    assert broken[0] > broken[2]
    (_, line) = own_statements(table)
    assert all(f"{100 * one:.0f} %" in line for one in broken)


def test_specificity_follows_from_the_shares(done) -> None:
    cuts = done.read("knockout.parquet").with_columns(pl.col("survival").struct.field("value"))
    for row in rows_of(done.read("specificity.parquet")):

        def survival(choice, edges_of, strength=row["strength"]) -> dict[str, float]:
            asked = cuts.filter(choice=choice, edges_of=edges_of, strength=strength)
            return dict(asked.select("class", "value").rows())

        own = row["class"]
        decisive, equal = survival("decisive", own), survival("equal mass", own)
        (other,) = set(decisive) - {own}
        found = [
            row["broken_own"],
            row["broken_own_equal_mass"],
            row["beyond_equal_mass"],
            dict(of_json(row, "broken_others"))[other],
            dict(of_json(row, "broken_own_by_others"))[other],
        ]
        assert [one.value for one in found] == [
            pytest.approx(1 - decisive[own]),
            pytest.approx(1 - equal[own]),
            pytest.approx(equal[own] - decisive[own]),
            pytest.approx(1 - decisive[other]),
            pytest.approx(1 - survival("decisive", other)[own]),
        ]
        assert all(one.low <= one.value <= one.high for one in found)
        gains = {name: equal[name] - decisive[name] for name in decisive}
        value, low, high = row["specificity"]
        assert value == pytest.approx(gains[own] - gains[other])
        assert low <= value <= high


@pytest.fixture
def asked(monkeypatch) -> list[tuple[np.ndarray, torch.Tensor, dict]]:
    """What the model under a cut is asked, which stands still: tokens, edges, options."""
    asked = []

    def watched(_model, tokens, edges, **options) -> CutOutcome:
        asked.append((tokens, edges, options))
        n = len(tokens)
        return CutOutcome(np.ones(n, bool), np.ones(n, np.float32), np.zeros(n, np.float32))

    monkeypatch.setattr(knockout, "cut_and_continue", watched)
    return asked


def cut_by_name(study: Study, asked) -> dict[tuple[str, str], torch.Tensor]:
    """The edges cut, by choice and whose they are."""
    rows = study.read("knockout.parquet").filter(pl.col("class") == "Recollect")
    names = rows.select("choice", "edges_of").rows()
    return {name: edges for name, (_, edges, _) in zip(names, asked, strict=True)}


def test_the_edges_that_are_cut_are_those_that_the_row_names(study, asked) -> None:
    """Against NumPy's order of Δ and of the mean attention in the store."""
    run_stage(study, "knockout", settings_of(study, **ONE))
    cut = {name: edges.numpy() for name, edges in cut_by_name(study, asked).items()}
    possible = np.broadcast_to(np.tri(64, dtype=bool) & (np.arange(64) < 63)[:, None], (2, 64, 64))
    n = count_edges(2.0, 2, 64)

    def largest(values):
        return possible & (values >= np.sort(values[possible])[-n])

    delta = load_file(study.folder / "decisiveness.safetensors")["0000"].numpy()
    mass = class_means_of(study)
    assert not cut["nothing", ""].any()
    for index, name in enumerate(("Non-Memo", "Recite[5]", "Recollect")):
        assert np.array_equal(cut["decisive", name], largest(delta[index])), name
    for name in ("Recite[5]", "Recollect"):
        assert np.array_equal(cut["highest mass", name], largest(mass[name])), name
        decisive, equal = cut["decisive", name], cut["equal mass", name]
        assert not (decisive & equal).any()
        assert mass[name][equal].sum() == pytest.approx(mass[name][decisive].sum(), rel=0.05)
        by_layer = cut["same layers", name].sum(axis=(1, 2))
        assert np.array_equal(by_layer, decisive.sum(axis=(1, 2)))
    assert cut["random", ""].sum() == n
    assert np.array_equal(cut["own", ""].sum(axis=(1, 2, 3)), [8] * len(cut["own", ""]))
    half = len(cut["own", ""]) // 2
    assert np.array_equal(cut["own, another's", ""][:half], np.roll(cut["own", ""][:half], -1, 0))
    assert all((edges & ~possible).sum() == 0 for edges in cut.values())


def class_means_of(study: Study) -> dict[str, np.ndarray]:
    """Mean over heads and evaluation sequences of each memorized class, read from the store."""
    rows = study.read("samples.parquet").filter(taxonomy=SAMPLE, split="eval")
    store, found = MapStore(study.folder / "maps" / "model"), {}
    for name in ("Recite[5]", "Recollect"):
        own = rows.filter(pl.col("class") == name)
        maps = store.dataset(own["sequence_id"].to_numpy(), own["suffix"].to_list(), "mean")
        whole = unpack_triangle(maps.read(torch.arange(own.height))).double()
        found[name] = whole.mean(dim=0).float().numpy()
    return found


def test_another_ranking_is_measured_on_the_evaluation_sequences(study, asked) -> None:
    run_stage(study, "knockout", settings_of(study, by="total_effect_contrast", **ONE))
    assert set(study.read("knockout.parquet")["by"]) == {"total_effect_contrast"}
    cut = cut_by_name(study, asked)
    model, means = Models(study.settings).model(study), {}
    rows = (
        study.read("samples.parquet")
        .filter(taxonomy=SAMPLE, split="eval")
        .join(study.sequences, on="sequence_id", maintain_order="left")
    )
    for name in ("Recite[5]", "Recollect"):
        tokens = token_matrix(rows.filter(pl.col("class") == name))
        means[name] = torch.cat(list(total_effects(model, tokens, batch_size=7))).mean(dim=0)
    apart = means["Recite[5]"] - means["Recollect"]
    n = count_edges(2.0, 2, 64)
    for name, values in (("Recite[5]", apart), ("Recollect", -apart)):
        others = values.masked_fill(cut["decisive", name], -torch.inf)
        assert values[cut["decisive", name]].min() >= others[:, :-1].max() - 1e-6, name
        assert cut["decisive", name].sum() == n
    (first, _) = statements(rows_of(study.read("specificity.parquet")))
    assert "most decisive for Recite[5] (by the total effect on the suffix's logits, less" in first


def test_the_settings_reach_the_model_that_is_cut(study, asked, monkeypatch) -> None:
    """A cut done otherwise, or by a model that is told otherwise, is another: none is read back."""
    found = []
    for renormalize in (False, True):
        wanted = settings_of(study, n_sequences=3, renormalize=renormalize, **ONE)
        run_stage(study, "knockout", wanted, redo=renormalize)
        assert {options["renormalize"] for _, _, options in asked} == {renormalize}
        assert {options["prefix"] for _, _, options in asked} == {32}
        found.append(len(asked))
        tokens = asked[0][0]
        asked.clear()
    facts = study.record["models"]["model"] | {"bos_id": 7}
    monkeypatch.setattr(models, "facts_of", lambda *_: facts)
    run_stage(study, "knockout", wanted, redo=True)
    assert len(asked) == found[0] == found[1]
    # Sequences on which Δ was measured come last.
    ids = {tuple(row): one for one, row in study.sequences.select("sequence_id", "tokens").rows()}
    tried = [ids[tuple(row)] for row in tokens.tolist()]
    measured = study.read("samples.parquet").filter(taxonomy=SAMPLE, split="eval")["sequence_id"]
    labels = dict(study.read("labels.parquet").select("sequence_id", SAMPLE).rows())
    assert [labels[one] for one in tried] == ["Recite[5]"] * 3 + ["Recollect"] * 3
    assert not set(tried) & set(measured)


def test_a_dry_run_counts_the_cuts_that_are_made(done, succeed, monkeypatch) -> None:
    """One unit a cut, each on 10 sequences of two classes; no edge is cut."""
    n = sum(1 for one in (done.folder / "knockout").rglob("*.json"))
    for by in ("delta", "value_norm_contrast"):
        found = Study(done.folder)
        found.settings = settings_of(found, by=by)
        assert knockout.count_cuts(found) == (1, n, 20 * n)
    monkeypatch.setattr(knockout, "cut_and_continue", None)
    said = succeed("knockout", done.folder, "--dry-run").out
    assert f"{n} cuts of edges, over 1 of the taxonomies: {20 * n:,} times a sequence" in said
    assert "Nothing was written" in said


def commands_in(said: str) -> list[list[str]]:
    return [shlex.split(one) for one in re.findall(r"mnemoscope (.+?)(?:\. |\.$)", said)]


def test_a_delta_that_names_no_edges_is_refused(refused, succeed, study) -> None:
    for change, said in (
        ({"n_used": [5, 0, 5]}, "no correctly classified sequence of class 'Recite[5]'"),
        ({"repeats": 2}, "Δ of 4 layers"),
        ({"attribution": "guided"}, "no Δ by 'gradient'"),
    ):
        plant(study, **change)
        line = refused("knockout", study.folder, "-q", "--by", "delta")
        assert said in line
        for command in commands_in(line):
            if command[0] == "knockout":
                succeed(*command, "--dry-run")
            else:
                assert command[:2] == ["localize", str(study.folder)]
                assert command[2:] in (["--redo"], ["--set", WITH_GRADIENT, "--redo"])
        assert commands_in(line)


def test_a_class_that_the_study_does_not_hold_is_refused(refused, succeed, study) -> None:
    """The labels of a class are gone: there is nothing to break."""
    kept = pl.when(pl.col(SAMPLE) != "Recollect").then(pl.col(SAMPLE)).alias(SAMPLE)
    put_in_place(study.folder, labels__parquet=study.read("labels.parquet").with_columns(kept))
    said = refused("knockout", study.folder, "-q")
    assert "0 memorized sequences of class 'Recollect'; cutting needs 2" in said
    assert not (study.folder / "knockout.parquet").exists()
    (command,) = commands_in(said)
    succeed(*command, "--dry-run")


def planted(tiny_studies, folder) -> Study:
    """A finished tiny study with a random Δ: its CNNs have not left chance and have none."""
    study = Study(shutil.copytree(tiny_studies["report"], folder))
    plant(study)
    return study


def plant(study: Study, repeats: int = 1, **changes) -> None:
    """Put a random Δ in the study's file, with some of its facts changed."""
    delta = torch.rand((3, 2, 64, 64), generator=torch.Generator().manual_seed(0)).tril()
    facts = {"n_used": (5, 5, 5), "n_skipped": (0, 0, 0), "n_wrong": (1, 1, 1), "n_says": (1, 1, 1)}
    facts |= {"attribution": "gradient", "n_cnns": 1, "source": "model"}
    facts |= {"classes": ("Non-Memo", "Recite[5]", "Recollect")}
    facts |= {"sample": SampleKey(SAMPLE), "shown": SAMPLE}
    one = StoredDelta(delta=delta.repeat(1, repeats, 1, 1).numpy(), **facts | changes)
    put_in_place(study.folder, decisiveness__safetensors=pack_deltas([one]))
