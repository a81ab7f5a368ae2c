"""The stage `knockout`: every cut beside its controls, resumable, and refused in one line."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mnemoscope import files
from mnemoscope.data.table import token_matrix
from mnemoscope.flow.run import run_stage
from mnemoscope.lm.edges import total_effects
from mnemoscope.localize.cut import CutOutcome, count_edges
from mnemoscope.maps.format import unpack_triangle
from mnemoscope.maps.store import MapStore
from mnemoscope.pipeline import knockout
from mnemoscope.pipeline.knockout import own_statements, statements
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import StudySettings
from study_files import settings_with

FEW = {"by": "delta", "strengths": [2.0, 20.0], "n_sequences": 10, "draws": 2}


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


def test_every_kind_of_cut_is_tried_on_every_memorized_class(done) -> None:
    table = done.read("knockout.parquet")
    for name, of_class in (("random", 1), ("decisive", 3), ("highest mass", 2), ("equal mass", 2),
                           ("same layers", 2)):  # fmt: skip
        rows = table.filter(choice=name)
        assert rows.height == 2 * of_class * 2, name  # strengths, whose edges, tried classes
        wanted = {strength: count_edges(strength, 2, 64) for strength in FEW["strengths"]}
        assert all(row["n_edges"] == wanted[row["strength"]] for row in rows.to_dicts()), name
    assert set(table["class"]) == {"Recite[5]", "Recollect"}
    assert table["mass"].is_between(0, 1 + 1e-6).all()
    assert table["survival"].is_between(table["low"], table["high"]).all()
    assert set(table.filter(pl.col("choice").str.contains("random|equal|same"))["draws"]) == {2}


def test_copy_edges_stand_beside_as_many_others_of_every_sequence(done) -> None:
    table = done.read("knockout.parquet").filter(pl.col("choice").str.starts_with("copy"))
    kinds = {row["choice"]: row for row in table.filter(pl.col("class") == "Recollect").to_dicts()}
    copies, equal = kinds["copy"], kinds["copy, equal mass"]
    assert copies["n_edges"] > 0
    assert equal["n_edges"] == copies["n_edges"]
    # The mass of each sequence's own attention is what is matched, to a few per cent of it.
    assert equal["mass"] == pytest.approx(copies["mass"], rel=0.1)
    assert kinds["copy, random"]["n_edges"] <= copies["n_edges"]


def test_own_edges_stand_beside_those_of_another_and_as_heavy_ones(done) -> None:
    table = done.read("knockout.parquet").filter(pl.col("choice").str.starts_with("own"))
    assert set(table["n_edges"]) == {done.settings.knockout.own_edges}
    assert set(table["class"]) == {"Recite[5]", "Recollect"}
    kinds = {row["choice"]: row for row in table.filter(pl.col("class") == "Recollect").to_dicts()}
    assert kinds["own"]["edges_of"] == ""
    # The mass of each sequence's own attention is what is matched, to a few per cent of it.
    assert kinds["own, equal mass"]["mass"] == pytest.approx(kinds["own"]["mass"], rel=0.15)
    assert kinds["own"]["survival"] < kinds["own, another's"]["survival"]
    (_, line) = own_statements(done.read("knockout.parquet"))
    own, equal, another = (
        f"{1 - kinds[one]['survival']:.0%}" for one in ("own", "own, equal mass", "own, another's")
    )
    assert line == (
        "Non-Memo, Recite[5], Recollect: each sequence's own 8 edges of largest total effect break "
        f"{own} of Recollect; as heavy ones of its own {equal}, another sequence's {another}."
    )


def test_delta_of_non_memo_is_tried_on_the_memorized_and_has_no_index(done) -> None:
    rows = done.read("knockout.parquet").filter(edges_of="Non-Memo")
    assert set(rows["choice"]) == {"decisive"}
    assert rows.height == len(FEW["strengths"]) * 2
    assert "Non-Memo" not in done.read("specificity.parquet")["class"].to_list()


def test_what_is_not_cut_survives(done) -> None:
    nothing = done.read("knockout.parquet").filter(choice="nothing")
    assert nothing["survival"].to_list() == [1.0, 1.0]
    assert nothing["n_edges"].to_list() == [0.0, 0.0]


def test_specificity_follows_from_the_shares(done) -> None:
    table = done.read("specificity.parquet")
    cuts = done.read("knockout.parquet")
    for row in table.to_dicts():
        chosen = cuts.filter(choice="decisive", edges_of=row["class"], strength=row["strength"])
        survival = dict(chosen.select("class", "survival").rows())
        assert row["broken_own"] == pytest.approx(1 - survival[row["class"]])
        equal = cuts.filter(choice="equal mass", edges_of=row["class"], strength=row["strength"])
        equal = dict(equal.select("class", "survival").rows())
        assert row["broken_own_equal_mass"] == pytest.approx(1 - equal[row["class"]])
        (other,) = set(survival) - {row["class"]}
        assert json.loads(row["broken_others"]) == {other: pytest.approx(1 - survival[other])}
        of_other = cuts.filter(choice="decisive", edges_of=other, strength=row["strength"])
        of_other = dict(of_other.select("class", "survival").rows())
        by_other = {other: pytest.approx(1 - of_other[row["class"]])}
        assert json.loads(row["broken_own_by_others"]) == by_other
        gains = {name: equal[name] - survival[name] for name in survival}
        assert row["specificity"] == pytest.approx(gains[row["class"]] - gains[other])
        assert row["low"] <= row["specificity"] <= row["high"]


class Watched:
    """Stands in for the model under a cut and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[np.ndarray, torch.Tensor, dict]] = []

    def __call__(self, model, tokens, edges, **options) -> CutOutcome:
        self.asked.append((tokens, edges, options))
        n = len(tokens)
        return CutOutcome(np.ones(n, bool), np.ones(n, np.float32), np.zeros(n, np.float32))


def test_the_edges_that_are_cut_are_those_that_the_row_names(study, monkeypatch) -> None:
    """Against NumPy's order of Δ and of the mean attention in the store."""
    watched = Watched()
    monkeypatch.setattr(knockout, "cut_and_continue", watched)
    run_stage(study, "knockout", settings_of(study, strengths=[2.0], draws=1))
    names = [(row["choice"], row["edges_of"]) for row in study.read("knockout.parquet").filter(
        pl.col("class") == "Recollect").to_dicts()]  # fmt: skip
    cut = {name: edges.numpy() for name, (_, edges, _) in zip(names, watched.asked, strict=True)}
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
    sample = "Non-Memo, Recite[5], Recollect"
    rows = study.read("samples.parquet").filter(sample=sample, split="eval")
    store, found = MapStore(study.folder / "maps" / "model"), {}
    for name in ("Recite[5]", "Recollect"):
        own = rows.filter(pl.col("class") == name)
        maps = store.dataset(own["sequence_id"].to_numpy(), own["suffix"].to_list(), "mean")
        whole = unpack_triangle(maps.read(torch.arange(own.height))).double()
        found[name] = whole.mean(dim=0).float().numpy()
    return found


def test_another_ranking_is_measured_on_the_evaluation_sequences(study, monkeypatch) -> None:
    watched = Watched()
    monkeypatch.setattr(knockout, "cut_and_continue", watched)
    wanted = settings_of(study, by="total_effect_contrast", strengths=[2.0], draws=1)
    run_stage(study, "knockout", wanted)
    table = study.read("knockout.parquet")
    assert set(table["by"]) == {"total_effect_contrast"}
    names = [(row["choice"], row["edges_of"]) for row in table.filter(
        pl.col("class") == "Recollect").to_dicts()]  # fmt: skip
    cut = {name: edges for name, (_, edges, _) in zip(names, watched.asked, strict=True)}
    model, means = Models(study.settings).model(study), {}
    rows = study.read("samples.parquet").filter(sample="Non-Memo, Recite[5], Recollect")
    rows = rows.filter(split="eval").join(study.sequences, on="sequence_id", maintain_order="left")
    for name in ("Recite[5]", "Recollect"):
        tokens = token_matrix(rows.filter(pl.col("class") == name))
        means[name] = torch.cat(list(total_effects(model, tokens, batch_size=7))).mean(dim=0)
    apart = means["Recite[5]"] - means["Recollect"]
    n = count_edges(2.0, 2, 64)
    for name, values in (("Recite[5]", apart), ("Recollect", -apart)):
        others = values.masked_fill(cut["decisive", name], -torch.inf)
        assert values[cut["decisive", name]].min() >= others[:, :-1].max() - 1e-6, name
        assert cut["decisive", name].sum() == n
    (first, _) = statements(study.read("specificity.parquet").to_dicts())
    assert "most decisive for Recite[5] (by the total effect on the suffix's logits, less" in first


@pytest.mark.parametrize("renormalize", [False, True])
def test_the_settings_reach_the_model_that_is_cut(study, monkeypatch, renormalize) -> None:
    watched = Watched()
    monkeypatch.setattr(knockout, "cut_and_continue", watched)
    wanted = settings_of(study, strengths=[2.0], draws=1, n_sequences=3, renormalize=renormalize)
    run_stage(study, "knockout", wanted)
    assert {options["renormalize"] for _, _, options in watched.asked} == {renormalize}
    assert {options["prefix"] for _, _, options in watched.asked} == {32}
    # A cut done otherwise is another cut, so nothing is read back.
    before = len(watched.asked)
    run_stage(study, "knockout", settings_of(
        study, strengths=[2.0], draws=1, n_sequences=3, renormalize=not renormalize
    ), redo=True)  # fmt: skip
    assert len(watched.asked) == 2 * before


def test_sequences_on_which_delta_was_measured_come_last(study, monkeypatch) -> None:
    watched = Watched()
    monkeypatch.setattr(knockout, "cut_and_continue", watched)
    run_stage(study, "knockout", settings_of(study, strengths=[2.0], draws=1, n_sequences=3))
    (tokens, *_), *_ = watched.asked
    text = {tuple(row): one for one, row in study.sequences.select("sequence_id", "tokens").rows()}
    tried = [text[tuple(row)] for row in tokens.tolist()]
    sample = "Non-Memo, Recite[5], Recollect"
    measured = study.read("samples.parquet").filter(sample=sample, split="eval")["sequence_id"]
    labels = dict(study.read("labels.parquet").select("sequence_id", sample).rows())
    assert [labels[one] for one in tried] == ["Recite[5]"] * 3 + ["Recollect"] * 3
    assert not set(tried) & set(measured)


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(done, monkeypatch) -> None:
    path = done.folder / "knockout.parquet"
    before = path.read_bytes()
    path.unlink()
    (done.folder / "manifests" / "knockout.json").unlink()
    lost = sorted((done.folder / "knockout").iterdir())[:3]
    for one in lost[1:]:
        one.unlink()
    lost[0].write_bytes(lost[0].read_bytes()[:100])  # torn by a disk; said, and cut again
    asked, said = [], []
    for module in (knockout, files):
        monkeypatch.setattr(module, "say", said.append)
    original = knockout.cut_and_continue
    monkeypatch.setattr(
        knockout, "cut_and_continue", lambda *a, **k: asked.append(1) or original(*a, **k)
    )
    run_stage(done, "knockout", done.settings)
    assert len(asked) == len(lost)
    assert path.read_bytes() == before
    assert said[0] == f"{lost[0]}: damaged, or of another place; this cut is made again."


def test_the_report_is_made_again_after_a_knockout(done) -> None:
    assert done.manifest("report") is None
    assert done.is_done("localize")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda _, facts: facts.update(n_used=[5, 0, 5]),
            "no correctly classified sequence of class 'Recite[5]'",
        ),
        (lambda delta, _: delta.repeat(1, 2, 1, 1), "Δ of 4 layers"),
        (lambda _, facts: facts.update(attribution="guided"), "no Δ by 'gradient'"),
    ],
)
def test_a_delta_that_names_no_edges_is_refused(refused, study, change, said) -> None:
    plant(study, change)
    assert said in refused("knockout", study.folder, "-q", "--by", "delta")


def test_a_class_that_the_study_does_not_hold_is_refused(refused, study) -> None:
    """The labels of a class are gone: there is nothing to break."""
    labels = study.read("labels.parquet")
    name = "Non-Memo, Recite[5], Recollect"
    without = labels.with_columns(
        pl.when(pl.col(name) != "Recollect").then(pl.col(name)).alias(name)
    )
    study.write("labels.parquet", without)
    said = refused("knockout", study.folder, "-q")
    assert "0 memorized sequences of class 'Recollect'; cutting needs 2" in said
    assert not (study.folder / "knockout.parquet").exists()


def planted(tiny_studies, folder) -> Study:
    """A finished tiny study with a random Δ: its CNNs have not left chance and have none."""
    shutil.copytree(tiny_studies["report"], folder)
    facts = {
        "sample": "Non-Memo, Recite[5], Recollect",
        "attribution": "gradient",
        "classes": ["Non-Memo", "Recite[5]", "Recollect"],
        "n_used": [5, 5, 5],
        "n_skipped": [0, 0, 0],
        "n_wrong": [1, 1, 1],
        "n_cnns": 1,
        "source": "model",
        "n_says": [1, 1, 1],
    }
    delta = torch.rand((3, 2, 64, 64), generator=torch.Generator().manual_seed(0)).tril()
    write(Study(folder), delta, facts)
    return Study(folder)


def write(study: Study, delta: torch.Tensor, facts: dict) -> None:
    save_file(
        {"0000": delta.contiguous()},
        study.folder / "decisiveness.safetensors",
        metadata={"facts": json.dumps([facts])},
    )


def plant(study: Study, change) -> None:
    """Change the Δ or its facts in the study's file."""
    path = study.folder / "decisiveness.safetensors"
    delta = load_file(path)["0000"]
    with safe_open(path, framework="pt") as file:
        (facts,) = json.loads(file.metadata()["facts"])
    changed = change(delta, facts)
    write(study, changed if isinstance(changed, torch.Tensor) else delta, facts)
