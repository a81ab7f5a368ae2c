"""`pipeline.graft`: every part beside its controls, resumable to the bit, refused in one line."""

import shutil

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from mnemoscope.errors import UserError
from mnemoscope.flow.run import run_stage
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.graft import graft_parts, grafted
from mnemoscope.lm.load import load_model
from mnemoscope.pipeline import graft
from mnemoscope.report.content import graft_of
from mnemoscope.report.tables import graft_tables
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import StudySettings
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.labels import label_sequences
from study_files import assert_same, content

FEW = {"n_sequences": 12, "draws": 2, "n_heldout": 4}
ONE_PART = {"parts": ["layers.0.qk"], "directions": ["twin_in_model"], "draws": 1}
TAXONOMY = "Non-Memo, Recite[5], Recollect"


def settings_of(study: Study, **changes) -> StudySettings:
    values = study.settings.as_dict()
    values["graft"] |= FEW | changes
    return StudySettings.model_validate(values)


def copied(tiny_studies, folder) -> Study:
    shutil.copytree(tiny_studies["label"], folder)
    return Study(folder)


@pytest.fixture(scope="module")
def done(tiny_studies, tmp_path_factory) -> Study:
    study = copied(tiny_studies, tmp_path_factory.mktemp("graft") / "study")
    run_stage(study, "graft", settings_of(study))
    return Study(study.folder)


@pytest.fixture
def study(tiny_studies, tmp_path) -> Study:
    return copied(tiny_studies, tmp_path / "study")


def test_every_part_stands_beside_its_controls_and_in_both_directions(done, tiny):
    table = done.read("graft.parquet").filter(taxonomy=TAXONOMY)
    parts = graft_parts(load_model(str(tiny.model)).model)
    assert table["part"].unique(maintain_order=True).to_list() == ["", *parts]
    kinds = table.group_by("direction", "control").agg(pl.col("draw").n_unique()).rows()
    assert set(kinds) == {
        ("twin_in_model", "twin", 1),
        ("twin_in_model", "random", 2),
        ("twin_in_model", "permuted", 2),
        ("model_in_twin", "twin", 1),
    }
    assert set(table["class"]) == {"Recite[5]", "Recollect"}
    assert table["survive"].is_between(0, 1).all()
    assert table["heldout_loss"].is_not_null().all()


def test_survival_is_that_of_a_graft_made_by_hand(done, tiny):
    model, twin = (load_model(str(one)) for one in (tiny.model, tiny.reference))
    found = done.read("graft_sequences.parquet").filter(
        part="layers.0.mlp", direction="twin_in_model", control="twin"
    )
    rows = found.join(done.sequences, on="sequence_id", how="left", maintain_order="left")
    tokens = np.array(rows["tokens"].to_list())
    with grafted(model.model, twin.model, "layers.0.mlp"):
        scans = list(scan_memorized(model, tokens, batch_size=16))
    by_hand = np.concatenate([one.is_memorized for one in scans])
    assert found["survives"].to_list() == by_hand.tolist()
    share = done.read("graft.parquet").filter(
        taxonomy=TAXONOMY, part="layers.0.mlp", direction="twin_in_model", control="twin"
    )
    weighted = (share["survive"] * share["n"]).sum() / share["n"].sum()
    labels = done.read("labels.parquet").select("sequence_id", TAXONOMY)
    inside = found.join(labels, on="sequence_id").filter(
        pl.col(TAXONOMY).is_in(["Recite[5]", "Recollect"])
    )
    assert weighted == pytest.approx(inside["survives"].mean())


def test_what_a_part_breaks_is_held_against_the_mean_of_all_its_controls(study, monkeypatch):
    """Planted: the twin's part breaks one class; one of the two random draws breaks everything."""
    labels = study.read("labels.parquet").select("sequence_id", TAXONOMY)

    def planted(loaded, made):
        rows = pl.concat([loaded.tried, loaded.held_out], how="diagonal").join(
            labels, on="sequence_id", how="left", maintain_order="left"
        )
        broken = pl.col(TAXONOMY) == "Recollect"
        if not made.part:
            broken = pl.lit(False)
        elif made.control != "twin":
            broken = pl.lit(made.control == "random" and made.draw == 1)
        is_tried = pl.col(TAXONOMY) != "Non-Memo"
        return rows.select(
            "sequence_id",
            survives=pl.when(is_tried).then(~broken),
            gap=pl.lit(1.0, dtype=pl.Float32),
            logprob=pl.lit(-0.1, dtype=pl.Float32),
        )

    monkeypatch.setattr(graft, "_grafted", planted)
    few = {"parts": ["layers.0.qk", "layers.1.mlp"]}  # in both directions
    run_stage(study, "graft", settings_of(study, **few))
    specific = Study(study.folder).read("graft_specificity.parquet").filter(taxonomy=TAXONOMY)
    found = {
        (row["part"], row["class"]): (row["lost"], row["specificity"])
        for row in specific.iter_rows(named=True)
    }
    for part in few["parts"]:  # of four controls three leave everything
        assert found[part, "Recollect"] == pytest.approx((0.75, 1.0))
        assert found[part, "Recite[5]"] == pytest.approx((-0.25, -1.0))


FOUND = "Non-Memo, Recollect[3], Others"


def finish_search(study: Study) -> None:
    """What a search leaves when it is done, as far as grafts read it."""
    counted = ("memorized", "memorized_train", "memorized_select", "memorized_final")
    counted += ("proposed", "tried", "same", "too_small")
    with study.finishing("search") as counts:
        counts |= dict.fromkeys(counted, 0) | {"impossible_beside": {}}
        text = f"taxonomies: ['{FOUND}', '{TAXONOMY}']\n"
        (study.folder / "search.yaml").write_text(text)
        study.write("search.parquet", pl.DataFrame({"taxonomy": [FOUND], "min_f1": [0.625]}))


def test_found_taxonomies_are_scored_beside_the_others_whichever_was_first(study, tmp_path):
    before = Study(shutil.copytree(study.folder, tmp_path / "before"))
    finish_search(before)
    for one in (before, study):
        run_stage(one, "graft", settings_of(one, **ONE_PART))
    alone = Study(study.folder)
    scores = alone.read("graft_scores.parquet")
    assert FOUND not in scores["taxonomy"]
    assert not scores["is_found"].any()
    finish_search(alone)
    graft.score_grafts_again(alone)
    again = Study(study.folder)
    for name in ("graft", "graft_specificity", "graft_scores", "graft_sequences"):
        assert_frame_equal(again.read(f"{name}.parquet"), before.read(f"{name}.parquet"))
    scores = again.read("graft_scores.parquet")
    assert scores.filter("is_found")["taxonomy"].to_list() == [FOUND]
    (table,) = graft_tables(again)
    assert {row[0]: row[-1] for row in table.rows}[f"{FOUND} (found)"] == 0.625
    (taxonomy,) = load_taxonomies([FOUND])
    rows = again.read("graft_sequences.parquet").filter(part="layers.0.qk", control="twin")
    classes = label_sequences(
        rows.join(again.sequences, on="sequence_id", how="left", maintain_order="left"), taxonomy
    )
    for name, share in (
        again.read("graft.parquet")
        .filter(taxonomy=FOUND, part="layers.0.qk", control="twin")
        .select("class", "survive")
        .iter_rows()
    ):
        assert share == pytest.approx(rows.filter(classes == name)["survives"].mean())


def test_patched_activations_stand_beside_those_of_other_sequences(study):
    """What enters layer 0 is what the embedding gives: one patch is one graft."""
    few = {"parts": ["embedding"], "draws": 1, "patch": True, "patch_blocks": 2}
    run_stage(study, "graft", settings_of(study, **few))
    found = Study(study.folder)
    table = found.read("graft_patches.parquet").filter(taxonomy=TAXONOMY)
    keys = table.select("part", "positions", "direction", "control", "draw", "class")
    assert keys.is_unique().all()
    parts = {f"layers.{at}.{one}" for at in (0, 1) for one in ("residual", "attention", "mlp")}
    assert set(table["part"]) == parts
    assert set(table["positions"]) == {"all", "0-31", "32-62"}
    assert table.height == len(parts) * 3 * 2 * 2 * 2
    assert table["heldout_loss"].is_not_null().all()
    columns = ["class", "direction", "n", "n_groups", "survive", "low", "high", "matched_survive"]
    grafts = found.read("graft.parquet").filter(taxonomy=TAXONOMY, part="embedding", control="twin")
    patches = table.filter(part="layers.0.residual", positions="all", control="twin")
    assert_frame_equal(
        patches.select(*columns, "heldout_loss"),
        grafts.select(*columns, "heldout_loss"),
        check_row_order=False,
    )
    view = graft_of(found, TAXONOMY)["patches"]
    assert [one["positions"] for one in view["columns"]] == ["all", "0-31", "32-62"] * 2
    others = table.filter(
        part="layers.1.mlp", positions="0-31", direction="twin_in_model", control="other"
    )
    (shown,) = [row for row in view["rows"] if row["part"] == "layers.1.mlp"]
    at = [(one["class"], one["positions"]) for one in view["columns"]].index(("Recollect", "0-31"))
    mean = others.filter(pl.col("class") == "Recollect")["survive"].mean()
    assert shown["cells"][at]["control"] == pytest.approx(mean)


FLAGS = [
    flag
    for one in ("n_sequences=12", "draws=1", "n_heldout=2", "parts=[layers.0.qk]", "patch=true",
                "directions=[twin_in_model]", "patch_blocks=1")
    for flag in ("--set", f"graft.{one}")
]  # fmt: skip


def test_merged_parts_are_what_one_process_makes(tiny_studies, tmp_path, call, refused):
    folders = {
        name: shutil.copytree(tiny_studies["label"], tmp_path / name) for name in ("whole", "parts")
    }
    flags = (*FLAGS, "-q")
    assert call("graft", folders["whole"], *flags).status == 0
    parted, before = folders["parts"], content(folders["parts"])
    assert call("graft", parted, *flags, "--part", "2/2").status == 0
    assert f"mnemoscope graft {parted} --part 1/2" in refused("merge", parted, "-q")
    assert call("graft", parted, *flags, "--part", "1/2").status == 0
    outside = {one: data for one, data in content(parted).items() if not one.startswith("parts")}
    assert outside == before  # a part only reads the study
    torn = sorted((parted / "parts" / "graft" / "2-of-2").glob("*.parquet"))[0]
    torn.write_bytes(torn.read_bytes()[:50])
    assert f"{torn}: torn. Delete it and run part 2/2 again" in refused("merge", parted, "-q")
    torn.unlink()
    assert f"graft {parted} --part 2/2' again" in refused("merge", parted, "-q")
    assert call("graft", parted, *flags, "--part", "2/2").status == 0
    assert call("merge", parted, "--no-check", "-q").status == 0
    assert_same(parted, folders["whole"])


def test_a_killed_run_goes_on_to_the_same_bits(study, tmp_path, stopped_at):
    wanted = settings_of(study, parts=["layers.0.qk", "layers.1.mlp"])
    whole = Study(shutil.copytree(study.folder, tmp_path / "whole"))
    run_stage(whole, "graft", wanted)
    with stopped_at(graft, "make_graft", 8), pytest.raises(KeyboardInterrupt):
        run_stage(study, "graft", wanted)
    kept = {path: path.stat().st_mtime_ns for path in (study.folder / "graft").iterdir()}
    assert len(kept) == 7
    torn = next(iter(kept))
    torn.write_bytes(torn.read_bytes()[:100])
    run_stage(Study(study.folder), "graft", wanted)
    for name in ("graft", "graft_specificity", "graft_scores", "graft_sequences"):
        found, by_one = (Study(one.folder).read(f"{name}.parquet") for one in (study, whole))
        assert_frame_equal(found, by_one)
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items() if path != torn)


def test_other_settings_make_other_grafts_and_keep_those_that_are_the_same(study):
    """A dose stands between the model and the twin; nothing held out leaves no loss."""

    def made(**changes):
        wanted = settings_of(study, **ONE_PART | changes)
        run_stage(Study(study.folder), "graft", wanted, redo=True)
        names = {path.name for path in (study.folder / "graft").iterdir()}
        return names, Study(study.folder).read("graft.parquet")

    before, table = made()
    assert len(before) == 4  # nothing, the twin's part, random, shuffled
    assert set(table["part"]) == {"layers.0.qk"}
    both = ["layers.0.qk", "all"]
    after, again = made(parts=both, shares=[0.01])
    assert before < after
    assert len(after) == 9  # two doses, and the whole of the twin with its controls
    assert set(again["part"]) == set(both)
    assert again.is_unique().all()
    twin = again.filter(control="twin", taxonomy=TAXONOMY, part="all")
    kept = dict(twin.group_by("share").agg(pl.col("survive").mean()).iter_rows())
    assert kept.keys() == {0.01, 1.0}
    assert kept[0.01] > kept[1.0]
    _, without = made(n_heldout=0)
    assert without["heldout_loss"].is_null().all()
    (row,) = graft_of(Study(study.folder), TAXONOMY)["rows"]
    assert (row["loss"], row["control_loss"]) == (None, None)


def test_what_cannot_be_grafted_is_refused(study):
    for section, change, words in (
        ("graft", {"parts": ["layers.7.qk"]}, "has no such part"),
        (
            "graft",
            {"parts": ["layers.0.mlp", "layers.9.neurons.1/8"]},
            "has no such part",
        ),
        ("capture", {"reference": None}, "grafting needs a twin"),
    ):
        values = study.settings.as_dict()
        values[section] |= change
        with pytest.raises(UserError, match=words):
            run_stage(study, "graft", StudySettings.model_validate(values), redo=True)
        assert not (study.folder / "graft.parquet").exists()
