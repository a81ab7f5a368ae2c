"""`pipeline.graft`: every part beside its walks, resumable to the bit, refused in one line."""

import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from mnemoscope.cli.summary import print_grafts
from mnemoscope.errors import UserError
from mnemoscope.flow.run import run_stage
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.graft import Pair, graft_parts, grafted
from mnemoscope.lm.load import load_model
from mnemoscope.localize.grafts import Tried, kept_by_class
from mnemoscope.pipeline import graft
from mnemoscope.pipeline.label import samples_of
from mnemoscope.plan import plan, plan_grafts
from mnemoscope.progress import show_progress
from mnemoscope.report import advice
from mnemoscope.report.grafts import graft_of
from mnemoscope.report.tables import graft_tables
from mnemoscope.stats import Estimate, frame_of
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import StudySettings
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import NON_MEMO
from mnemoscope.words import percent
from study_files import content, put_in_place, settings_with

FEW = {"n_sequences": 12, "draws": 2, "n_heldout": 4}
BOTH = ["twin_in_model", "model_in_twin"]
ONE_PART = {"parts": ["layers.0.qk"], "draws": 1, "shares": [1.0]}
TAXONOMY = "Non-Memo, Recite[5], Recollect"
TABLES = ("graft", "graft_specificity", "graft_curves", "graft_sequences")


def settings_of(study: Study, **changes) -> StudySettings:
    return settings_with(study, graft=FEW | changes)


def copied(tiny_studies, folder) -> Study:
    shutil.copytree(tiny_studies["label"], folder)
    return Study(folder)


@pytest.fixture(scope="module")
def done(tiny_studies, tmp_path_factory) -> Study:
    study = copied(tiny_studies, tmp_path_factory.mktemp("graft") / "study")
    run_stage(study, "graft", settings_of(study, directions=BOTH))
    return Study(study.folder)


@pytest.fixture
def study(tiny_studies, tmp_path) -> Study:
    return copied(tiny_studies, tmp_path / "study")


def test_what_is_to_be_made_is_counted_before_a_model_is_loaded(done, study):
    study.settings = settings_of(study, directions=BOTH)
    before = graft.count_grafts(study, Models(study.settings))
    after = graft.count_grafts(done, Models(done.settings))
    counted = done.manifest("graft")["counts"]
    assert before[:3] == after[:3]
    assert before[1:3] == (counted["grafts"], counted["walks"])
    assert (before.n_there, after.n_there) == (0, sum(before[1:3]))
    assert before.n_scans == before.n_grafts + graft._SCANS_OF_A_WALK * before.n_walks
    assert after.n_scans == 0
    afresh = graft.count_grafts(done, Models(done.settings), is_afresh=True)
    assert (afresh.n_there, afresh.n_scans) == (0, before.n_scans)
    assert before.n_each == after.n_each > counted["sequences"]


def test_every_part_stands_beside_its_flip_and_its_walks(done, tiny):
    table = done.read("graft.parquet").filter(taxonomy=TAXONOMY)
    parts = [*graft_parts(load_model(str(tiny.model)).model), *graft.WHOLE]
    assert table["part"].unique(maintain_order=True).to_list() == ["", *parts]
    inside = table.filter(pl.col("part") != "")
    kinds = inside.group_by("direction", "control").agg(pl.col("share").unique().sort()).rows()
    assert sorted(kinds) == [
        ("model_in_twin", "twin", [0.25, 0.5, 0.75, 1.0]),
        ("twin_in_model", "flip", [1.0]),
        ("twin_in_model", "same size", [1.0]),
        ("twin_in_model", "twin", [0.25, 0.5, 0.75, 1.0]),
    ]
    assert set(table["class"]) == {"Recite[5]", "Recollect"}
    assert table["survive"].struct.field("value").is_between(0, 1).all()
    assert table["heldout_loss"].is_not_null().all()
    curves = done.read("graft_curves.parquet").filter(taxonomy=TAXONOMY)
    walks = curves.select("part", "control", "draw").unique(maintain_order=True)
    assert walks.rows() == [
        (part, control, draw)
        for part in parts
        for draw, control in enumerate(("random", "spectrum"))
    ]
    assert 1.0 in curves["scale"]
    specific = done.read("graft_specificity.parquet").filter(taxonomy=TAXONOMY)
    assert specific["part"].unique(maintain_order=True).to_list() == parts
    assert set(specific.select("broken", "spared").rows()) == {
        ("Recite[5]", "Recollect"),
        ("Recollect", "Recite[5]"),
    }


def by_hand(study, rows, tiny, **change):
    """Which of these rows survive a graft that is made here."""
    model, twin = (load_model(str(one)) for one in (tiny.model, tiny.reference))
    rows = rows.join(study.sequences, on="sequence_id", how="left", maintain_order="left")
    with grafted(model.model, twin.model, "layers.0.mlp", **change):
        scans = list(scan_memorized(model, np.array(rows["tokens"].to_list()), batch_size=16))
    return np.concatenate([one.is_memorized for one in scans]).tolist()


def test_survival_is_that_of_a_graft_made_by_hand(done, tiny):
    every = done.read("graft_sequences.parquet").filter(
        part="layers.0.mlp", direction="twin_in_model"
    )
    tried = every.group_by("control", "draw", "scale", "share", maintain_order=True)
    for (control, draw, scale, share), found in tried:
        made = {"share": share} if scale is None else {"seed": draw, "share": scale}
        made |= {} if control == "twin" else {"control": control}
        made = {"control": "flip"} if control == "flip" else made
        assert found["survives"].to_list() == by_hand(done, found, tiny, **made), made
    found = every.filter(control="twin", share=0.25)
    share = done.read("graft.parquet").filter(
        taxonomy=TAXONOMY, part="layers.0.mlp", direction="twin_in_model", share=0.25
    )
    weighted = (share["survive"].struct.field("value") * share["n"]).sum() / share["n"].sum()
    inside = found.join(done.read("labels.parquet"), on="sequence_id")
    inside = inside.filter(pl.col(TAXONOMY).is_in(["Recite[5]", "Recollect"]))
    assert weighted == pytest.approx(inside["survives"].mean())


@pytest.fixture
def planted(monkeypatch, study):
    """A world in which a sequence breaks when its harm exceeds its firmness.

    Firmness of each class as given, in order of `sequence_id`; harm of the twin by class and share,
    of its flip half of that, of a walk its scale.
    """
    labels = study.read("labels.parquet").select("sequence_id", TAXONOMY)

    def plant(firmness, harm, alone=()):
        scale = [1.0]

        @contextmanager
        def at(wanted):
            scale[:] = [wanted]
            yield

        def judged(loaded, _model, made, _states):
            tried = loaded.tried.join(labels, on="sequence_id", maintain_order="left")
            survives, place = [], dict.fromkeys(firmness, 0)
            for number, name in tried.select("sequence_id", TAXONOMY).iter_rows():
                firm = firmness[name][place[name] % len(firmness[name])]
                place[name] += 1
                if isinstance(made, graft.Walk):
                    by = scale[0]
                elif not made.part:
                    by = 0.0 if made.direction == "twin_in_model" or number in alone else 99.0
                else:
                    by = harm[name] * (made.share if made.control == "twin" else 0.5)
                survives.append(by <= firm)
            return graft._Survival(np.array(survives), 3.0 + scale[0])

        monkeypatch.setattr(graft, "_judged", judged)
        monkeypatch.setattr(Pair, "walk", lambda *_, **__: at)

    return plant


def scales_of(study):
    curves = study.read("graft_curves.parquet").filter(taxonomy=TAXONOMY)
    found = curves.group_by("part", "draw").agg(pl.col("scale").unique().sort())
    (scales,) = {tuple(one) for one in found["scale"].to_list()}
    return scales


FIRM = {"Recite[5]": np.linspace(0.3, 3.0, 12), "Recollect": np.linspace(0.3, 3.0, 12)}


@pytest.mark.parametrize(
    ("harm", "changes", "first", "last"),
    [
        ({"Recite[5]": 0.0, "Recollect": 0.0}, {}, 0, 0),  # nothing breaks: nothing to compare
        ({"Recite[5]": 1.0, "Recollect": 1.0}, {}, 0, 1),  # as much at once, and a step more
        ({"Recite[5]": 1.0, "Recollect": 2.2}, {}, 0, 4),  # 1.4 ** 3 > 2.2 in one class
        ({"Recite[5]": 0.5, "Recollect": 2.2}, {}, -2, 4),  # 1.4 ** -2 < .55, the next break
        ({"Recite[5]": 1.0, "Recollect": 9.0}, {}, 0, 4),  # all broken: 1.4 ** 4 > 3
        ({"Recite[5]": 1.0, "Recollect": 9.0}, {"largest_scale": 2.0}, 0, 2),
        ({"Recite[5]": 0.0, "Recollect": 9.0}, {}, -4, 4),  # down to where nothing breaks
    ],
)
def test_a_walk_goes_as_far_as_the_twin_breaks_and_no_further(
    study, planted, harm, changes, first, last
):
    planted(FIRM, harm)
    run_stage(study, "graft", settings_of(study, **ONE_PART | {"largest_scale": 8.0} | changes))
    found = scales_of(Study(study.folder))
    wanted = [graft.WALK_STEP**step for step in range(first, last + 1)]
    assert found == pytest.approx(wanted)


def test_curves_hold_the_shares_that_walks_leave(study, planted):
    planted(FIRM, {"Recite[5]": 1.0, "Recollect": 2.2})
    run_stage(study, "graft", settings_of(study, **ONE_PART))
    found = Study(study.folder)
    tried = found.read("graft.parquet").filter(taxonomy=TAXONOMY, part="layers.0.qk")
    sizes = dict(tried.select("class", "n").iter_rows())
    curves = found.read("graft_curves.parquet").filter(taxonomy=TAXONOMY)
    assert curves.height == 2 * 5
    for row in curves.iter_rows(named=True):
        firm = np.resize(FIRM[row["class"]], sizes[row["class"]])
        assert row["survive"] == pytest.approx((row["scale"] <= firm).mean())
        assert row["heldout_loss"] == pytest.approx(3.0 + row["scale"])
    (dose,) = graft_of(found, TAXONOMY)["doses"]
    assert dose["walks"][0][0] == (1.0, 1.0)
    assert len(dose["walks"][0]) == 6
    assert all(x == pytest.approx(y, abs=0.05) for x, y in dose["mean"])  # classes are alike


@pytest.mark.parametrize("is_alike", [True, False])
def test_by_truth_only_what_the_twin_reproduces_too_is_compared_and_form_is_held_equal(
    study, planted, is_alike
):
    number = pl.col("sequence_id")
    form = pl.lit("refrain") if is_alike else (number % 2).cast(pl.String)
    rows = study.sequences.with_columns(inserted=number % 2 * 3, kind=pl.lit("prose"), form=form)
    put_in_place(study.folder, sequences__parquet=rows)
    labels = study.read("labels.parquet")
    memorized = labels.filter(pl.col(TAXONOMY) != "Non-Memo")["sequence_id"].to_list()
    alone = [one for one in memorized if one % 6 in (1, 2)]
    planted(FIRM, {"Recite[5]": 1.0, "Recollect": 1.0}, alone=alone)
    run_stage(Study(study.folder), "graft", settings_of(study, **ONE_PART | {"n_sequences": 400}))
    found = Study(study.folder).read("graft.parquet").filter(taxonomy="by truth", part="")
    assert dict(found.select("class", "n").iter_rows()) == {
        "never read": sum(one % 6 == 2 for one in memorized),
        "read": sum(one % 6 == 1 for one in memorized),
    }
    assert set(found["survive"].struct.field("value")) == {1.0}  # of the twin alone
    specific = Study(study.folder).read("graft_specificity.parquet").filter(taxonomy="by truth")
    assert specific.height == 2
    assert specific["kept_spared"].null_count() == (0 if is_alike else 2)


FOUND = "Non-Memo, Recollect[3], Others"


def finish_search(study: Study) -> None:
    """What a search leaves when it is done, as far as grafts read it."""
    counted = ("memorized", "memorized_train", "memorized_select", "memorized_final")
    counted += ("proposed", "tried", "same", "too_small")
    with study.finishing("search") as counts:
        counts |= dict.fromkeys(counted, 0) | {"impossible_beside": {}}
        text = f"taxonomies: ['{FOUND}', '{TAXONOMY}']\n"
        study.write("search.yaml", text.encode())
        study.write("search.parquet", frame_of([{"taxonomy": FOUND, "min_f1": Estimate(0.625)}]))


def test_found_taxonomies_are_scored_beside_the_others_whichever_was_first(study, tmp_path):
    before = Study(shutil.copytree(study.folder, tmp_path / "before"))
    finish_search(before)
    for one in (before, study):
        run_stage(one, "graft", settings_of(one, **ONE_PART))
    alone = Study(study.folder)
    specific = alone.read("graft_specificity.parquet")
    assert FOUND not in specific["taxonomy"]
    assert not specific["is_found"].any()
    finish_search(alone)
    graft.score_grafts_again(alone)
    again = Study(study.folder)
    for name in TABLES:
        assert_frame_equal(again.read(f"{name}.parquet"), before.read(f"{name}.parquet"))
    specific = again.read("graft_specificity.parquet")
    assert set(specific.filter("is_found")["taxonomy"]) == {FOUND}
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
        assert share["value"] == pytest.approx(rows.filter(classes == name)["survives"].mean())


def test_patched_activations_stand_beside_those_of_other_sequences(study):
    """What enters layer 0 is what the embedding gives: one patch is one graft."""
    few = {"parts": ["embedding"], "draws": 1, "patch": True, "patch_blocks": 2}
    few |= {"directions": BOTH, "shares": [1.0]}
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
    columns = ["class", "direction", "n", "n_groups", "survive", "heldout_loss"]
    grafts = found.read("graft.parquet").filter(taxonomy=TAXONOMY, part="embedding", control="twin")
    patches = table.filter(part="layers.0.residual", positions="all", control="twin")
    assert_frame_equal(patches.select(columns), grafts.select(columns), check_row_order=False)
    view = graft_of(found, TAXONOMY)["patches"]
    assert [one["positions"] for one in view["columns"]] == ["all", "0-31", "32-62"] * 2
    others = table.filter(
        part="layers.1.mlp", positions="0-31", direction="twin_in_model", control="other"
    )
    (shown,) = [row for row in view["rows"] if row["part"] == "layers.1.mlp"]
    at = [(one["class"], one["positions"]) for one in view["columns"]].index(("Recollect", "0-31"))
    mean = others.filter(pl.col("class") == "Recollect")["survive"].struct.field("value").mean()
    assert shown["cells"][at]["control"] == pytest.approx(mean)


def test_other_settings_make_other_grafts_and_keep_those_that_are_the_same(study):
    """A dose stands between the model and the twin; nothing held out leaves no loss."""

    def made(**changes):
        wanted = settings_of(study, **ONE_PART | changes)
        run_stage(Study(study.folder), "graft", wanted, redo=True)
        names = {path.name for path in study.folder.glob("graft/*.parquet")}
        return names, Study(study.folder).read("graft.parquet")

    before, table = made()
    assert len(before) == 5  # nothing twice, the twin's part, its flip, a walk
    assert set(table["part"]) == {"", "layers.0.qk"}
    after, again = made(parts=["layers.0.qk", "all"], shares=[0.01])
    assert before < after
    assert len(after) == 10  # two doses, and the whole of the twin with its flip and its walk
    assert set(again["part"]) == {"", "layers.0.qk", "all"}
    assert again.is_unique().all()
    twin = again.filter(control="twin", taxonomy=TAXONOMY, part="all").sort("share")
    kept = twin.group_by("share", maintain_order=True).agg(
        pl.col("survive").struct.field("value").mean()
    )
    assert kept["share"].to_list() == [0.01, 1.0]
    assert kept["value"][0] > kept["value"][1]
    _, without = made(n_heldout=0)
    assert without["heldout_loss"].is_null().all()
    (row,) = graft_of(Study(study.folder), TAXONOMY)["rows"]
    assert row["loss"] is None


def test_redo_without_a_change_makes_every_graft_anew(study):
    """And a plan says so; with another choice of parts it counts what is there as done."""
    wanted = settings_of(study, **ONE_PART)
    run_stage(study, "graft", wanted)
    written = {path: path.stat().st_mtime_ns for path in study.folder.glob("graft/*.parquet")}
    before = content(study.folder)
    (said, *_) = plan_grafts(wanted, Study(study.folder)).lines
    assert "Nothing is left to ask" in said
    (said, *_) = plan_grafts(wanted, Study(study.folder), redo=True).lines
    assert "done" not in said
    more = settings_of(study, **ONE_PART | {"parts": ["layers.0.qk", "all"]})
    (said, *_) = plan_grafts(more, Study(study.folder), redo=True).lines
    assert f"; {len(written)} of these are done" in said
    assert run_stage(Study(study.folder), "graft", wanted, redo=True)
    assert all(path.stat().st_mtime_ns > then for path, then in written.items())
    assert content(study.folder) == before


def test_a_finished_graft_that_redo_drops_is_said_before(done, tmp_path, capfd):
    study = Study(shutil.copytree(done.folder, tmp_path / "again"))
    changed = settings_with(study, label={"seed": 7})
    (line,) = [one for one in plan(changed, study.folder, redo=True).lines if "dropped" in one]
    with show_progress():
        run_stage(study, "label", changed, redo=True)
    assert line in capfd.readouterr().err.splitlines()
    assert line.startswith("graft: will be dropped too, for label is made anew")
    assert f"'mnemoscope graft {study.folder}'" in line
    assert not Study(study.folder).is_done("graft")
    assert (study.folder / "graft").is_dir()


def test_grafts_made_anew_leave_the_old_until_they_are_there(done, tmp_path, monkeypatch, succeed):
    study = Study(shutil.copytree(done.folder, tmp_path / "again"))
    before, run_units = content(study.folder), graft.run_units

    def stopped(tasks, *arguments, **named):
        made = [*run_units(tasks, *arguments, **named)]
        if len(tasks) > 1:
            raise KeyboardInterrupt
        return iter(made)

    monkeypatch.setattr(graft, "run_units", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_stage(study, "graft", settings_of(study, **ONE_PART), redo=True)
    again = Study(study.folder)
    assert study.is_done("graft")
    assert again.is_done("graft")
    assert again.settings == study.settings == done.settings
    assert {k: v for k, v in content(study.folder).items() if k in before} == before
    assert "graft (begun anew: " in succeed("status", study.folder).out
    monkeypatch.setattr(graft, "run_units", run_units)
    assert run_stage(study, "graft", settings_of(study, **ONE_PART), redo=True)
    again = Study(study.folder)
    assert again.is_done("graft")
    assert again.settings.graft.parts == ["layers.0.qk"]
    assert "begun anew" not in succeed("status", study.folder).out


@pytest.mark.whole
def test_grafts_that_were_stopped_are_gone_on_with(done, tmp_path, succeed):
    folder = shutil.copytree(done.folder, tmp_path / "again")
    study = Study(folder)
    study.forget("graft")  # as a stop before the first result leaves it
    (step,) = [one for one in advice.next_steps(study) if "scope graft" in one.command]
    assert step == (
        "Go on with graft, which was begun: what is made is kept",
        f"mnemoscope graft {folder}",
    )
    facts = {"stage": "graft", "words": "7 of 9 sequences scanned", "left": ""}
    study.note_path("graft").write_text(json.dumps(facts | {"done": 7, "total": 9, "unit": "x"}))
    for _ in range(2):
        said = succeed("status", folder).out
        assert "Go on with graft, which was begun (7 of 9 sequences scanned)" in said
        succeed("report", folder, "--redo", "-q")
    said = succeed(*step.command.split()[1:], "-q").out
    assert said.startswith("Wrote")
    table = [one for one in said.splitlines() if one[:1] in "┃│"]
    assert [one.split("┃")[-2].strip() for one in table[:2]] == ["loss,", "random"]
    assert max(map(len, table)) <= 100
    loss = study.read("graft.parquet").filter(part="layers.0.qk", control="twin", share=1.0)
    loss = loss["heldout_loss"][0] - study.manifest("graft")["counts"]["heldout_loss"]
    of_part = [one for one in table if "layers.0.qk" in one]  # of each taxonomy
    shown = [float(one.split("│")[-2].replace("−", "-")) for one in of_part]
    assert shown == pytest.approx([loss] * len(shown), abs=0.0051)
    assert "Go on with" not in succeed("status", folder).out


def test_a_damaged_graft_is_made_again_by_the_command_that_is_told(done, tmp_path):
    study = Study(shutil.copytree(done.folder, tmp_path / "again"))
    before = content(study.folder)
    torn, gone = sorted((study.folder / "graft").glob("*.parquet"))[:2]
    torn.write_bytes(torn.read_bytes()[:-9])
    gone.unlink()
    assert {str(one).rpartition("'mnemoscope ")[2] for one in study.verify()} == {
        f"graft {study.folder}'."
    }
    assert run_stage(study, "graft")
    assert content(study.folder) == before
    assert not run_stage(Study(study.folder), "graft")


def test_classes_too_small_for_a_verdict_stand_beside_random_changes_of_the_same_size(
    study, capfd, tiny
):
    study.settings = settings_of(study, **ONE_PART | {"n_sequences": 3, "draws": 5})
    planned = graft.count_grafts(study, Models(study.settings))
    assert "Nor can a part be told from chance: that takes 10 of one class" in planned.no_verdict
    assert planned.n_walks == 3  # no more than for a patch
    assert planned.n_scans == planned.n_grafts + planned.n_walks
    with show_progress(verbose=True):
        run_stage(study, "graft", study.settings)
    said = capfd.readouterr().err
    assert "No verdict between classes: it needs 10 sequences" in said
    counted = f"{planned.n_scans * planned.n_tried:,}"  # as the dry run says
    assert f"Grafting: {counted} of {counted} sequences scanned" in said
    found = Study(study.folder)
    tried = found.read("graft_sequences.parquet").filter(part="layers.0.qk", scale=1.0)
    model, twin = (load_model(str(one)) for one in (tiny.model, tiny.reference))
    for (control, draw), one in tried.group_by("control", "draw"):
        rows = one.join(found.sequences, on="sequence_id", how="left", maintain_order="left")
        change = {"control": control, "seed": draw, "share": 1.0}
        with grafted(model.model, twin.model, "layers.0.qk", **change):
            scans = list(scan_memorized(model, np.array(rows["tokens"].to_list()), batch_size=16))
        survives = np.concatenate([scan.is_memorized for scan in scans])
        assert one["survives"].to_list() == survives.tolist(), (control, draw)
    left = found.read("graft.parquet").filter(control="same size", taxonomy=TAXONOMY)
    means = tried.join(found.read("labels.parquet"), on="sequence_id").group_by(TAXONOMY)
    means = dict(means.agg(pl.col("survives").mean()).iter_rows())
    for row in left.iter_rows(named=True):
        assert row["survive"]["value"] == pytest.approx(means[row["class"]])
    capfd.readouterr()
    print_grafts(found)
    said = " ".join(capfd.readouterr().out.split())
    assert said.count("to tell parts from chance, and from each other, takes 10 sequences") == 1
    assert "Guess and Recall cannot be compared (Guess has 0, 10 needed, Recall has 6, 10" in said
    assert set(found.read("graft_curves.parquet")["scale"]) == {1.0}
    assert said.count("Random: what is left under random changes as large as the reference's") == 1
    view = graft_of(found, TAXONOMY)
    assert (view["first"], view["doses"], view["has_interval"]) == (None, [], False)
    assert "no verdict" in view["statement"]


def test_the_terminal_shows_what_each_part_leaves_beside_its_control(done, capsys):
    print_grafts(done)
    said = capsys.readouterr().out
    row = graft_of(done, TAXONOMY)["rows"][0]
    assert row["part"] in said
    assert {"at random", "difference", "finding"} <= {
        one.strip() for one in re.split("[┃\n]", said)
    }
    assert f"{row['found']['broken']} {percent(row['found']['random_broken'], unit=False)}" in said


def test_a_training_that_would_drop_grafts_says_so(done, study, monkeypatch):
    entry = SimpleNamespace(flags="--drop-small-classes", counts={"Guess": 3, "Recall": 198})
    monkeypatch.setattr(advice, "nothing_to_train", lambda _: "too few")
    monkeypatch.setattr(advice, "samples_of", lambda _: {"": entry})
    why, command = advice._go_on(done, done.folder)
    assert command == f"mnemoscope run -o {done.folder} --drop-small-classes --redo"
    assert f"drops graft: afterwards run mnemoscope graft {done.folder}, which takes" in why
    lost = done.lost_with(["label"])
    assert lost.startswith("graft: will be dropped too")  # as the command itself says
    assert (
        "grafts that were made before it would be dropped" in advice._go_on(study, study.folder)[0]
    )


def test_a_small_class_takes_no_interval_from_a_large_one():
    survives = np.arange(40)[:, None] % 2 == np.array([0, 1])
    classes = (np.arange(40) >= 3).astype(int)
    tried = Tried(np.where(classes == 1, 1, 0), np.arange(40), np.zeros(40, int), 2)
    kept = kept_by_class(survives, tried, seed=0)
    assert np.isnan(kept.low[0]).all()
    assert (kept.low[1] < kept.survive[1]).all()
    assert (kept.survive[1] < kept.high[1]).all()


@pytest.mark.parametrize(
    ("counts", "why", "offer"),
    [
        (
            {"Guess": 3, "Recall": 198},
            None,
            "Which parts of the model hold what it repeats, all classes together",
        ),
        ({"Guess": 30, "Recall": 198}, None, "Which parts of the model hold each class"),
        ({"Recall": 1}, "1 memorized sequence, 2 needed", None),
    ],
)
def test_grafts_are_offered_where_they_can_be_made_and_else_it_is_said_why(
    study, monkeypatch, counts, why, offer
):
    entry = next(iter(samples_of(study).values()))
    found = {entry.key: replace(entry, counts={NON_MEMO: 5} | counts)}
    monkeypatch.setattr(advice, "samples_of", lambda _: found)
    assert advice.why_no_grafts(study) == why
    steps = {one.command: one.why for one in advice.next_steps(study)}
    said = steps.get(f"mnemoscope graft {study.folder}", "")
    assert re.split(r" \(|, as ", said)[0] == (offer or "")
    assert said.count("(") == bool(offer)
    assert (f"No grafts: {why}." in advice.first_steps(study)) == (why is not None)


@pytest.mark.parametrize("spoil", ["shape", "memorized", "same"])
def test_what_cannot_be_grafted_is_refused_before_a_model_is_loaded(
    study, spoil, tiny, tmp_path, capfd
):
    if spoil == "same":
        copy = shutil.copytree(tiny.model, tmp_path / "copy")
        settings = settings_with(study, capture={"reference": str(copy)})
        words = "copy: is the same model as .* cannot serve as a reference"
        with pytest.raises(UserError, match=words):
            plan_grafts(settings, Study(study.folder))
    elif spoil == "shape":
        other = shutil.copytree(tiny.reference, tmp_path / "other")
        config = json.loads((other / "config.json").read_text())
        config["num_hidden_layers"] += 1
        (other / "config.json").write_text(json.dumps(config))
        settings = settings_with(study, capture={"reference": str(other)})
        words = "num_hidden_layers is .* in the model and .* in the twin"
    else:
        nothing = pl.all().exclude("sequence_id").replace_strict({NON_MEMO: NON_MEMO}, default=None)
        put_in_place(study.folder, labels__parquet=study.labels.with_columns(nothing))
        settings, words = study.settings, "0 memorized sequences; grafting needs 2"
    with pytest.raises(UserError, match=words), show_progress():
        run_stage(Study(study.folder), "graft", settings)
    assert "Loading" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("graft", {"parts": ["layers.7.qk"]}, "has no such part"),
        ("graft", {"parts": ["layers.0.mlp", "layers.9.neurons.1/8"]}, "has no such part"),
        ("capture", {"reference": None}, "grafting needs a reference"),
    ],
)
def test_what_cannot_be_grafted_is_refused(study, section, change, words):
    with pytest.raises(UserError, match=words):
        run_stage(study, "graft", settings_with(study, **{section: change}), redo=True)
    assert not (study.folder / "graft.parquet").exists()


def test_a_quick_look_at_a_model_whose_unembedding_is_its_embedding(tiny, study):
    pair = []
    for name in (tiny.model, tiny.reference):
        lm = load_model(str(name))
        lm.model.get_output_embeddings().weight = lm.model.get_input_embeddings().weight
        pair.append(lm.model)
    loaded = SimpleNamespace(pairs={"twin_in_model": Pair(*pair)}, study=study, models={})
    study.settings = settings_of(study, parts=["mlp", "embedding", "unembedding"])
    assert graft.wanted_parts(loaded) == ["mlp", "embedding"]
    study.settings = settings_of(study, parts=["unembedding"])
    with pytest.raises(UserError, match="part 'unembedding': the model has no such part"):
        graft.wanted_parts(loaded)
