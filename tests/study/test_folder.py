"""A study takes only what belongs to it, says what is in the way, and is held by one at a time."""

import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
import yaml

from mnemoscope.benchmark.sources import TABLE
from mnemoscope.cli.options import StageFlags
from mnemoscope.cli.study import stage_verb
from mnemoscope.cluster.units import UnitStore
from mnemoscope.errors import DamagedDataError, MissingError, OutOfDateError, UserError
from mnemoscope.flow.run import run, run_stage
from mnemoscope.pipeline.sequences import create_study
from mnemoscope.pipeline.stored_maps import open_maps
from mnemoscope.pipeline.train import jobs_of, load_outcome
from mnemoscope.study.folder import STUDY_VERSION, Study, check_free
from mnemoscope.study.models import Models
from mnemoscope.study.settings import (
    StudySettings,
    load_settings,
    parse_settings,
)
from mnemoscope.study.stages import STAGES, stage_named
from study_files import ending, put_in_place, rewrite_record
from tiny_models import save_model

OWNERS = ("sequences", "verdicts", "features")
ENDS = ("outcome.safetensors", "safetensors")
NAMES = [stage.name for stage in STAGES if not stage.is_optional]


@pytest.fixture
def study(study_at) -> Study:
    """A finished study that a test may change."""
    return Study(study_at("report"))


@pytest.fixture
def begun(study_at) -> Study:
    """A study of which only the sequences are there."""
    return Study(study_at("sequences"))


def changed(study: Study | StudySettings, **values) -> StudySettings:
    """The study's settings with some changed: `label={"seed": 1}`."""
    plain = (study.settings if isinstance(study, Study) else study).as_dict()
    for section, entries in values.items():
        plain[section] = plain[section] | entries if isinstance(entries, dict) else entries
    return parse_settings(plain, where="test")


def done(study: Study) -> list[str]:
    return [name for name in NAMES if study.is_done(name)]


@contextmanager
def refused(match: str, error: type = DamagedDataError):
    """What is refused in one line."""
    with pytest.raises(error, match=match) as raised:
        yield
    assert "\n" not in str(raised.value)


def rewrite(where: Path, change) -> Study:
    """Change what `study.yaml` holds, and open the study."""
    values = yaml.safe_load((where / "study.yaml").read_text())
    change(values["record"])
    (where / "study.yaml").write_text(yaml.safe_dump(values))
    return Study(where)


def test_settings_that_made_a_study_come_back_when_it_is_opened(tmp_path) -> None:
    settings = parse_settings({"title": "Ü", "train": {"seeds": [3]}}, where="test")
    made = Study.create(tmp_path / "new" / "study", settings)
    assert made.settings == Study(made.folder).settings == settings
    assert not any(made.manifest(name) for name in NAMES)


VERSION = f"record: {{study_version: {STUDY_VERSION}, models: "
DAMAGED = [
    *("", "a: [1", "- 1\n", "title: x\n", "record: 3\n", "record: {a: 1}\n", "\0", "[]"),
    *(f"{VERSION}{one}}}\n" for one in ("[]", "{model: []}", "{model: {fingerprint: 3}}")),
]


def test_a_settings_file_that_is_damaged_or_of_a_later_version_is_refused(begun) -> None:
    whole = (begun.folder / "study.yaml").read_text()
    for text in DAMAGED:
        (begun.folder / "study.yaml").write_text(text)
        with refused(r"study\.yaml: damaged.*Restore it"):
            Study(begun.folder)
    (begun.folder / "study.yaml").write_text(whole)
    with refused(f"study version 1, this program knows {STUDY_VERSION}", UserError):
        rewrite(begun.folder, lambda record: record.update(study_version=1))


def test_a_table_is_read_once_for_as_long_as_its_record_stays_the_same(begun, monkeypatch) -> None:
    read, paths = pl.read_parquet, []

    def counting(path, **options):
        paths.append(path.name)
        return read(path, **options)

    monkeypatch.setattr(pl, "read_parquet", counting)
    first = begun.sequences
    first.drop_in_place("tokens")  # is the caller's own
    assert "tokens" in begun.sequences.columns
    assert paths == ["sequences.parquet"]
    put_in_place(begun.folder, sequences__parquet=begun.sequences.drop("text"))
    assert "text" not in begun.sequences.columns
    assert paths == ["sequences.parquet"] * 2


def test_a_table_of_a_stage_that_has_not_run_names_the_command_that_runs_it(begun) -> None:
    run = f"'mnemoscope run -o {begun.folder}' first"
    for name, stage, advice in (
        (
            "verdicts",
            "continue",
            f"'mnemoscope continue {begun.folder}' first, or 'mnemoscope run ",
        ),
        ("benchmark", "benchmark", f"{run}."),  # its own verb would refuse
        ("graft", "graft", f"{run}, then 'mnemoscope graft {begun.folder}'."),
    ):
        with refused(f"'{stage}' has not been run. Run {advice}", MissingError):
            begun.read(f"{name}.parquet")


def test_each_column_has_one_owner_and_a_study_shows_them_in_one_table(study) -> None:
    own = {name: set(study.read(f"{name}.parquet").columns) for name in OWNERS}
    assert set().union(*own.values()) == set(study.sequences.columns)
    ids = {"sequence_id"}
    assert all(not (own[a] & own[b]) - ids for a, b in combinations(own, 2))
    assert study.sequences.height == study.read("sequences.parquet").height
    study.forget("continue")
    assert "is_memorized" not in study.sequences.columns


def test_settings_that_change_no_figure_are_taken_over(study) -> None:
    other = {"model": {"batch_size": 7}, "capture": {"shard_rows": 3}, "train": {"workers": 2}}
    settings = changed(study, **other)
    run(settings, study.folder)
    assert Study(study.folder).settings == settings
    assert done(Study(study.folder)) == NAMES


def test_redo_makes_what_changed_and_what_follows_and_keeps_the_rest(study) -> None:
    def keys() -> dict[str, str]:
        return dict(study.read("runs.parquet").filter(seed=0).select("source", "key").rows())

    before = keys()
    stamp = {path: path.stat().st_mtime_ns for path in study.folder.rglob("cnn/*.safetensors")}
    settings = changed(study, train={"seeds": [0]}, benchmark={"seed": 4})
    with pytest.raises(UserError):
        run_stage(study, "train", settings)
    run_stage(study, "train", settings, redo=True)
    assert done(study) == NAMES[: NAMES.index("train") + 1]
    assert all(path.stat().st_mtime_ns == time for path, time in stamp.items())
    runs, after = study.read("runs.parquet"), keys()
    assert runs["key"].is_unique().all()
    assert runs.filter(source="model")["seed"].to_list() == [0]
    anew = {source for source in before if before[source] != after[source]}
    assert anew == {source for source in before if TABLE[source].is_permuted} > {"control"}


def test_another_model_under_the_same_name_is_refused(begun) -> None:
    model = {"fingerprint": "5" * 64}
    other = rewrite(begun.folder, lambda record: record["models"]["model"].update(model))
    with refused("made by another model.*weights 555555555555;", UserError):
        run_stage(other, "continue")
    assert not Study(begun.folder).is_done("continue")


def test_a_number_format_may_be_chosen_until_something_was_made_with_it(begun) -> None:
    scan = {"scan": True}  # quicker in half precision
    run_stage(begun, "continue", changed(begun, model={"dtype": "bfloat16"}, **{"continue": scan}))
    assert begun.record["models"]["model"]["dtype"] == "bfloat16"
    with pytest.raises(UserError, match=r"model\.dtype: the study has 'bfloat16'"):
        run_stage(begun, "continue", changed(begun, model={"dtype": "float32"}))


def test_another_reference_is_captured_anew(study, tmp_path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (study.folder / "maps/model").iterdir()}
    other = save_model(tmp_path / "other", seed=9)
    settings = changed(study, capture={"reference": str(other)})
    with pytest.raises(UserError, match=r"capture\.reference"):
        run_stage(study, "capture", settings)
    first = study.record["models"]["reference"]["fingerprint"]
    run_stage(study, "capture", settings, redo=True)
    assert study.record["models"]["reference"]["fingerprint"] != first
    assert study.is_done("capture")
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_stage_stopped_half_way_goes_on_with_its_own_settings_only(
    begun, tiny_studies, monkeypatch, by_hand
) -> None:
    with monkeypatch.context() as stopped:
        stopped.setattr(UnitStore, "write", ending(UnitStore.write, 6))
        with pytest.raises(KeyboardInterrupt):
            run_stage(begun, "continue")
    assert len(list(begun.folder.glob("units/continue/verdicts-*.parquet"))) == 3
    scan = changed(begun, **{"continue": {"scan": True, "part_rows": 48}})
    if by_hand:  # in study.yaml itself, which the study then takes for its own
        path = begun.folder / "study.yaml"
        path.write_text(yaml.safe_dump(scan.as_dict() | {"record": begun.record}))
        begun = Study(begun.folder)
    run_stage(begun, "continue", scan)
    is_memorized = Study(tiny_studies["continue"]).sequences["is_memorized"]
    assert begun.sequences["is_memorized"].equals(is_memorized)
    assert begun.sequences["memorization_score"].null_count() == (~is_memorized).sum()


def test_a_change_of_labels_outdates_what_follows_and_keeps_the_maps(study) -> None:
    maps = {path: path.read_bytes() for path in (study.folder / "maps").rglob("*.safetensors")}
    study.adopt(changed(study, label={"seed": 1}), redo=True)
    assert done(study) == ["sequences", "continue", "features"]
    run_stage(study, "label")
    run_stage(study, "capture")
    assert {path: path.read_bytes() for path in maps} == maps != {}


def test_a_key_depends_on_the_stages_own_settings_and_on_those_before(study) -> None:
    before = {name: study.key(name) for name in NAMES}
    for change, expected in (
        ({"benchmark": {"n_resamples": 101}}, {"benchmark", "report"}),
        ({"features": {"patterns": "strict"}}, set(NAMES) - {"sequences", "continue"}),
    ):
        study.settings = changed(study, **change)
        assert {name for name in NAMES if study.key(name) != before[name]} == expected


def test_forgetting_a_stage_forgets_all_that_needs_it(study) -> None:
    def needs(stage: str) -> set[str]:
        direct = stage_named(stage).needs
        return set(direct).union(*map(needs, direct)) if direct else set()

    manifests = {path: path.read_bytes() for path in (study.folder / "manifests").iterdir()}
    for name in NAMES:
        for path, data in manifests.items():
            path.write_bytes(data)
        study.forget(name)
        assert done(study) == [one for one in NAMES if name != one and name not in needs(one)]


def test_a_manifest_stands_for_a_whole_stage_and_holds_no_times(study) -> None:
    keys = {"stage", "key", "settings", "needs", "counts", "versions", "files", "sizes", "sha256"}
    keys |= {"name", "owner"}
    for path in (study.folder / "manifests").iterdir():
        of_model = set() if path.stem in ("sequences", "features") else {"model"}
        assert set(json.loads(path.read_text())) == keys | of_model
    study.forget("features")
    with pytest.raises(RuntimeError), study.finishing("features"):
        raise RuntimeError("stopped here")
    assert study.manifest("features") is None


@pytest.mark.parametrize("shared", [False, True])
def test_a_killed_owner_holds_nothing(begun, shared) -> None:
    code = (
        "import sys; from mnemoscope.files import hold_folder; from pathlib import Path\n"
        f"with hold_folder(Path(sys.argv[1]), shared={shared}): print(1, flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(begun.folder)], **pipes) as owner:
        owner.stdout.readline()
        with pytest.raises(UserError, match="parts of it" if shared else f"{owner.pid}"):
            begun.refuse_locked()
        owner.kill()
    left = {path.name for path in begun.folder.glob(".lock?*")}
    assert len(left) == 1  # its process id, or its share
    with begun.lock():
        assert {path.name for path in begun.folder.glob(".lock?*")} == {".lock.pid"}
    assert not list(begun.folder.glob(".lock?*"))


def test_shares_go_together_and_each_keeps_a_whole_lock_out(begun) -> None:
    (begun.folder / ".lock.pid").write_text("1\n")  # a killed owner's
    with ExitStack() as shares:
        for _ in range(3):
            shares.enter_context(begun.lock(shared=True))
            assert not (begun.folder / ".lock.pid").exists()
        with pytest.raises(UserError, match="parts of it"):
            begun.refuse_locked()
    with begun.lock(), pytest.raises(UserError, match=f"process {os.getpid()}"):
        shares.enter_context(begun.lock(shared=True))
    with pytest.raises(UserError, match="refused"), begun.lock():
        raise UserError("refused")
    assert (begun.folder / ".lock").read_bytes() == b""
    assert not list(begun.folder.glob(".lock?*"))


@pytest.mark.parametrize("verb", ["features", "run", "part"])
def test_a_verb_keeps_what_another_process_changed_while_it_started(
    begun, monkeypatch, verb
) -> None:
    hold = Study.lock

    def hold_late(self, **shared):
        monkeypatch.setattr(Study, "lock", hold)
        scan = changed(begun, **{"continue": {"scan": True}})
        run_stage(Study(begun.folder), "continue", scan)
        return hold(self, **shared)

    monkeypatch.setattr(Study, "lock", hold_late)
    if verb == "features":
        stage_verb(begun.folder, "features", {}, StageFlags(["title=Ü"], quiet=True))
    elif verb == "run":
        run(lambda present: changed(present, title="Ü"), begun.folder, until="features")
    else:  # what the part would do is done: it sees that, and writes nothing
        stage_verb(begun.folder, "continue", {}, StageFlags(quiet=True), part="1/2")
        assert not (begun.folder / "units" / "continue").exists()
    left = Study(begun.folder)
    assert left.settings.continue_.scan
    assert left.record["models"]["model"]["fingerprint"]
    assert left.is_done("continue")
    assert verb == "part" or (left.is_done("features") and left.settings.title == "Ü")


def test_what_a_killed_process_left_is_swept_up(study) -> None:
    left = [study.folder / ".a.1.tmp", study.folder / "cnn" / ".b.1.tmp"]
    for path in left:
        path.write_text("half")
    done, begun = (study.folder / "units" / name for name in ("continue", "graft"))
    for path in (done, begun):
        path.mkdir(parents=True)
    with study.lock():
        assert not any(path.exists() for path in left)
        assert not done.exists()
        assert begun.exists()


@pytest.mark.parametrize("is_given", [False, True])
def test_duplicates_are_counted_anew_in_another_corpus_and_never_over_the_users(
    tiny, tmp_path, is_given
) -> None:
    frame = pl.read_parquet(tiny.table).head(12)
    once, thrice = (str(tmp_path / f"corpus-{times}.parquet") for times in (1, 3))
    frame.select("tokens").write_parquet(once)
    pl.concat([frame.select("tokens")] * 3).write_parquet(thrice)
    given = frame if is_given else frame.drop("duplicates")
    given.write_parquet(tmp_path / "table.parquet")
    values = {
        "model": {"name": str(tiny.model)},
        "sequences": {"source": str(tmp_path / "table.parquet")},
        "features": {"corpus": once},
    }
    study = run(parse_settings(values, where="test"), tmp_path / "study", until="features")
    first = study.sequences["duplicates"]
    run_stage(study, "features", changed(study, features={"corpus": thrice}), redo=True)
    again = study.sequences["duplicates"]
    assert again.to_list() == (first if is_given else 3 * first).to_list()
    assert first.to_list() == frame["duplicates"].to_list() if is_given else (first >= 1).all()
    counts = study.manifest("features")["counts"]
    assert counts["duplicates_from"] == ("column" if is_given else "corpus")


def test_controls_may_be_asked_for_afterwards(study) -> None:
    with_controls = study.settings
    without = changed(study, benchmark={"controls": False})
    run(without, study.folder, redo=True, until="train")
    assert set(study.read("runs.parquet")["source"]) == {"model", "statistics"}
    shutil.rmtree(study.folder / "maps" / "reference")
    run(with_controls, study.folder, redo=True, until="train")
    found = set(study.read("runs.parquet")["source"])
    assert {"reference", "control", "blind", "ngram", "logits"} <= found
    assert len(open_maps(study, "reference"))


def test_a_training_that_was_damaged_or_deleted_is_named_and_made_again(study) -> None:
    first, second = (job for job in jobs_of(study) if job.source == "model")
    torn, gone = (study.folder / "cnn" / f"{first.key}.{end}" for end in ENDS)
    of_other = study.folder / "cnn" / f"{second.key}.safetensors"
    whole = {path: path.read_bytes() for path in (torn, gone, of_other)}
    torn.write_bytes(whole[torn][:20])
    with refused(rf"{torn.name}: damaged .*mnemoscope train .* --redo'"):
        load_outcome(first)
    gone.unlink()
    of_other.unlink()
    run_stage(study, "train", redo=True)
    assert {path: path.read_bytes() for path in whole} == whole


def test_trainings_that_are_all_gone_are_missed(study) -> None:
    shutil.rmtree(study.folder / "cnn")
    assert any("missing" in str(error) for error in study.damaged("train"))


def test_what_another_model_made_is_out_of_date(study) -> None:
    path = study.folder / "manifests" / "capture.json"
    assert study.is_done("capture")
    rewrite_record(path, model="5" * 64)
    with refused("capture.json: .*made by another model", OutOfDateError):
        Study(study.folder).manifest("capture")


def test_a_table_that_no_verb_writes_is_not_made_again_by_one(study) -> None:
    shutil.copy(study.folder / "verdicts.parquet", study.folder / "junk.parquet")
    said = " ".join(map(str, study.verify()))
    assert "junk.json: missing" in said
    assert "take it out of the study's folder" in said


def test_a_study_founded_meanwhile_by_another_process_is_left_alone(tiny, tmp_path) -> None:
    folder = tmp_path / "study"

    class Meanwhile(Models):
        def model(self, study: Study | None = None):
            if study is not None:
                folder.mkdir()
                (folder / "note.txt").write_text("theirs")
            return super().model(study)

    settings = load_settings(tiny.yaml)
    with pytest.raises(UserError, match="exists and is not a study"):
        create_study(folder, settings, Meanwhile(settings))
    assert [one.name for one in (*tmp_path.iterdir(), *folder.iterdir())] == ["study", "note.txt"]


def test_a_folder_that_cannot_be_made_is_refused_before_a_model_is_loaded(
    tiny, call, tmp_path, monkeypatch
):
    def unmade(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("mnemoscope.study.folder.TemporaryDirectory", unmade)
    asked = ("run", "--model", tiny.model, "--sequences", tiny.values["sequences"]["source"])
    for more in ((), ("--dry-run",)):
        done = call(*asked, "-o", tmp_path / "none" / "study", *more)
        assert done.status == 2
        assert "none/study: this folder cannot be made (" in done.err
        assert "can only be read). Choose another with -o." in done.err
        assert "Loading" not in done.err


def test_where_another_process_has_founded_the_study_it_is_in_use_or_gone_on_with(begun) -> None:
    with refused("holds a study already.*'mnemoscope run -o ", UserError):
        check_free(begun.folder)
    with begun.lock(), refused(f"in use by process {os.getpid()}", UserError):
        check_free(begun.folder)
