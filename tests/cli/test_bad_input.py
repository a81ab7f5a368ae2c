"""Bad input is refused in one line with exit status 2, and a refusal leaves nothing behind."""

import errno
import shutil
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock
from safetensors.torch import load_file, save_file

from mnemoscope.pipeline.label import samples_of
from mnemoscope.study.folder import Study
from mnemoscope.study.stages import STAGES
from mnemoscope.taxonomy.sample import SampleKey
from tiny_models import VOCABULARY, save_model

LONG = "The licence applies to works based on the library. " * 20


@pytest.fixture
def out(tmp_path) -> Path:
    """Where the output would go: a place of its own, to see that nothing is left in it."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "study"


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def study(study_at) -> Path:
    """A finished study that a test may change."""
    return study_at("report")


def left_in(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file with its content; the lock is no output."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def rows(**changes) -> pl.DataFrame:
    """Three good sequences with some columns changed; None leaves a column out."""
    columns = {"sequence_id": [1, 2, 3], "tokens": [list(range(64))] * 3} | changes
    return pl.DataFrame({name: values for name, values in columns.items() if values is not None})


FILES = {
    "none.jsonl": (None, "no such file"),
    "none": (None, "no such file"),
    "dangling.txt": (None, "no such file"),
    "empty.jsonl": (b"", "no line holds a row"),
    "latin.txt": (b"caf\xe9", "not a text in UTF-8"),
    "t.parquet": (
        rows(tokens=[[1] * 64, [1] * 64, [1] * 63 + [VOCABULARY]]),
        f"row 2, token 63: id {VOCABULARY} is outside the vocabulary",
    ),
}


def test_sequences_that_cannot_be_used(tiny, source, out, refused) -> None:
    """What else a table may be is refused in tests/data."""
    (source / "dangling.txt").symlink_to(source / "nothing")
    for name, (data, what) in FILES.items():
        if isinstance(data, bytes):
            (source / name).write_bytes(data)
        elif data is not None:
            data.write_parquet(source / name)
        line = refused("sequences", source / name, "--model", tiny.model, "-o", out, "-q")
        assert str(source / name) in line
        assert what in line
        assert left_in(out) == []


def test_a_model_that_cannot_be_used(tiny, tmp_path, out, refused) -> None:
    """What else is no model is refused in tests/lm."""
    short = save_model(tmp_path / "short", max_position_embeddings=48)
    torn = save_model(tmp_path / "torn")
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    spoilt = save_model(tmp_path / "spoilt")
    tensors = load_file(spoilt / "model.safetensors")
    tensors["gpt_neox.layers.0.attention.query_key_value.weight"][5, 5] = float("inf")
    save_file(tensors, spoilt / "model.safetensors", metadata={"format": "pt"})
    for model, what in {
        tmp_path / "none": "no such model folder",
        torn: "model",
        short: "has 48 positions, sequences of 64 tokens need 64",
        spoilt: "non-finite attention in layer 0",
    }.items():
        for verb in (["run", "--sequences"], ["sequences"]):
            line = refused(*verb, tiny.table, "--model", model, "-o", out, "-q")
            assert str(model) in line
            assert what in line
            assert left_in(out) == []


def test_attention_that_is_not_finite_on_the_way_keeps_no_map_of_it(
    tiny, study, refused, monkeypatch
) -> None:
    from mnemoscope.lm.attention import HeadPool

    def spoil(self, weights, add=HeadPool.add):
        add(self, weights * float("nan") if self._n_pooled == 1 else weights)

    Study(study).forget("capture")
    shutil.rmtree(study / "maps")
    monkeypatch.setattr(HeadPool, "add", spoil)
    assert "non-finite attention in layer 1" in refused("capture", study, "-q")
    assert not (study / "maps").exists()
    assert not Study(study).is_done("capture")


@pytest.mark.parametrize(
    ("arguments", "what", "hint"),
    [
        (["describ"], "describ: no such verb.", "Did you mean 'describe'?"),
        (["zzz"], "zzz: no such verb.", "See 'mnemoscope --help'."),
        (["run", "--modle", "x"], "--modle", "--model"),
        (["run", "--batch-size", "many"], "--batch-size", ". See 'mnemoscope run --help'."),
        (["train"], "Missing argument", "mnemoscope train --help"),
        (["run", "--set", "train.sedes=[1]"], "train.sedes: unknown key", "'seeds'"),
        (["run", "--set", "title.x=1"], "'title' is a single setting", "title=VALUE"),
        (["run", "--set", "train.seeds"], "needs KEY=VALUE", "--set train.preset=paper"),
        (["run", "--set", "train.seeds=[1"], "not valid YAML", "quotes"),
        (["run", "--dtype", "float12"], "model.dtype: Input should be", "(got 'float12')"),
        (["run", "-t", "Non-Memo, Gess, Recall"], "unknown node 'Gess'", "'Guess'"),
        (["run", "-t", "catalog"], "unknown taxonomy 'catalog'", "'catalogue'"),
        (["run", "-t", "none.yaml"], "none.yaml", "no such file"),
        (["run", "none.yaml"], "none.yaml: no such file", "mnemoscope init none.yaml"),
        (["capture"], "capture: name a study", "--sequences and -o"),
        (["run", "--device", "cuda:99"], "cuda:99", ""),
    ],
)
def test_an_unknown_word_is_refused_with_the_nearest_known(
    arguments, what, hint, tiny, tmp_path, refused, monkeypatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if arguments[0] == "run":
        arguments = [*arguments, "--set", f"model.name={tiny.model}", "-o", "out"]
        arguments += ["--set", f"sequences.source={tiny.table}"]
    line = refused(*arguments)
    assert what in line
    assert hint in line
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("train.kernels=[65]", "64 tokens are too short for a CNN with kernel 65"),
        ("train.kernels=[22]", "take 67 tokens or more, or a smaller kernel"),
        ("label.match=nonexistent", "no column 'nonexistent' to match by (label.match)"),
        ("train.poolings=[heads]", "capture.per_head"),
        ("features.corpus=/none/there", "features.corpus: /none/there: no such file or folder"),
        ("title=!!binary aGFsbG8=", "a binary value"),
        ("model={batch_size: 1, batch_size: 2}", "the key 'batch_size' is given twice"),
    ],
)
def test_the_dry_run_refuses_what_the_run_would(setting, what, tiny, out, refused) -> None:
    for dry in (["--dry-run"], []):
        line = refused("run", tiny.yaml, "--set", setting, "-o", out, "-q", *dry)
        assert what in line
        assert left_in(out) == []


STUDY_VERBS = ["continue", "features", "label", "capture", "train", "benchmark", "localize"]


def test_a_folder_that_is_no_study_or_holds_something_else(tiny, source, tmp_path, refused) -> None:
    (source / "note.txt").write_text("mine")
    for verb in (*STUDY_VERBS, "report", "describe"):
        line = refused(verb, source)
        assert str(source) in line
        assert "not a study" in line or "neither a study" in line
        assert f"{tmp_path / 'none'}: no such" in refused(verb, tmp_path / "none")
    founding = (
        ["run", tiny.yaml],
        ["sequences", tiny.table],
        ["capture", "--sequences", tiny.table],
    )
    for arguments in (*founding, ["demo"]):
        line = refused(*arguments, "-o", source, "-q")
        assert f"{source}: exists and is not a study. Choose a new or empty folder" in line
    assert snapshot(source) == {"note.txt": b"mine"}
    assert not (tmp_path / "none").exists()


def test_a_study_made_with_other_settings_by_another_model_or_of_other_sequences(
    study, tiny, refused, call
) -> None:
    before, reference = snapshot(study), str(tiny.reference)
    settings = {
        ("train", study, "--set", "train.seeds=[5]"): "train.seeds: the study has [0, 1], you",
        ("run", tiny.yaml, "-o", study, "-t", "Non-Memo, Guess, Recall"): "label.taxonomies: the",
        ("continue", study, "--scan"): "continue.scan: the study has False, you asked True",
        ("label", study, "-t", "Non-Memo, Gess, Recall"): "Did you mean 'Guess'?",
    }
    founded = {
        ("continue", study, "--model", reference): f"you asked '{reference}'",
        ("capture", study, "--sequences", tiny.yaml): "sequences.source: the study has",
        ("run", "-o", study, "--set", "sequences.limit=8"): "sequences.limit: the study has None",
    }
    for arguments, difference in settings.items():
        line = refused(*arguments, "-q")
        assert difference in line
        assert ("--redo" in line) != ("Gess" in str(arguments))  # first what is wrong in itself
    for arguments, difference in founded.items():
        for redo in ([], ["--redo"]):
            line = refused(*arguments, *redo, "-q")
            assert difference in line
            assert "Use another folder." in line
    assert snapshot(study) == before
    assert "impossible" in call("run", "-o", study).out  # nothing to do: the summary alone
    redo = ["--set", "benchmark.n_resamples=101", "--redo", "-q"]
    assert call("benchmark", study, *redo).status == 0
    assert Study(study).settings.benchmark.n_resamples == 101


def test_a_stage_before_its_turn_names_the_command_to_run(tiny_studies, refused) -> None:
    folder = tiny_studies["sequences"]
    for verb, missing in {"label": "continue", "train": "label", "report": "continue"}.items():
        line = refused(verb, folder, "-q")
        assert f"stage '{missing}' has not been run. Run 'mnemoscope {missing} {folder}'" in line


def test_an_impossible_taxonomy_is_said_and_the_others_go_on(study_at, tiny_studies, call) -> None:
    folder = study_at("features")
    result = call("label", folder)
    said = "Non-Memo, Guess, Recall: impossible. 12 sequences of every class are needed, but Guess"
    assert result.status == 0
    assert said in result.err
    entry = samples_of(Study(folder))[SampleKey("Non-Memo, Guess, Recall")]
    assert entry.counts == {"Non-Memo": 80, "Guess": 0, "Recall": 160}
    assert "--drop-small-classes" in entry.impossible
    whole = Study(tiny_studies["report"])
    found = whole.read("benchmark.parquet")
    assert found["taxonomy"].unique().to_list() == ["Non-Memo, Recite[5], Recollect"]
    assert "impossible" in (whole.folder / "report.html").read_text().lower()
    assert call("label", folder, "--drop-small-classes", "--redo", "-q").status == 0
    entry = samples_of(Study(folder))[SampleKey("Non-Memo, Guess, Recall")]
    assert (entry.trained_classes, entry.dropped) == (["Non-Memo", "Recall"], ["Guess"])


DEEP = "[" * 5000 + "]" * 5000
RECORDS = ["[]", '"done"', DEEP, "", "{}", '{"key": 1}', "{"]


def test_a_damaged_manifest_is_named_by_every_verb_and_may_be_deleted(study, refused, call) -> None:
    path = study / "manifests" / "benchmark.json"
    for text in RECORDS:
        path.write_text(text)
        for verb in ("describe", "report", "benchmark") if text == "{" else ("describe",):
            line = refused(verb, study)
            assert f"{path}: damaged" in line
            assert f"delete it and run 'mnemoscope benchmark {study}'" in line
    path.unlink()
    assert call("benchmark", study, "-q").status == 0
    assert Study(study).is_done("benchmark")


def test_files_of_a_stage_that_is_to_be_run_again_are_told_with_its_verb(study, call) -> None:
    assert call("label", study, "--redo", "-q").status == 0  # what follows is to be made again
    found = call("describe", study, "--verify")
    assert found.status == 1
    missed = [one for one in (found.out + found.err).splitlines() if ": missing." in one]
    told = {line.rpartition("run 'mnemoscope ")[2].split()[0]: line for line in missed}
    assert {"train", "benchmark"} <= told.keys() <= {stage.name for stage in STAGES}
    for verb, line in told.items():
        assert f"{study}/manifests/{verb}.json: missing." in line


KEPT = [f"manifests/{stage.name}" for stage in STAGES if stage.name != "sequences"]
KEPT += ["decoded", "label_check", "cnn", "cnn/statistics", "graft", "knockout", "units/capture"]
KEPT += ["search/measures", "analysis/length/result", "analysis/kept/logprobs"]


def test_a_message_about_what_is_kept_names_a_command_that_there_is(study, call) -> None:
    store = Study(study).store
    for name in KEPT:
        said = str(store.missing(store.record_path(name), name))
        command = said.partition("run 'mnemoscope ")[2].partition("'")[0].split()
        if name == "analysis/kept/logprobs":  # of any analysis
            assert not command
            continue
        shown = call(command[0], "--help")
        assert shown.status == 0, said
        assert all(one in shown.out for one in command if one.startswith("-")), said
        assert str(study) in command


def test_a_table_that_is_damaged_or_gone_stops_what_reads_it_until_it_is_made_again(
    study, refused, call
) -> None:
    path = study / "predictions.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    Study(study).forget("benchmark")
    before = snapshot(study)
    assert f"{path}: damaged" in refused("benchmark", study, "-q")
    assert call("describe", study, "--verify").status == 1
    assert snapshot(study) == before
    path.unlink()
    assert "stage 'train' lacks files" in refused("benchmark", study, "-q")
    for verb in ("train", "benchmark"):
        assert call(verb, study, "-q").status == 0
    assert path.read_bytes() == whole


def test_odd_records_of_a_study_are_named_and_foreign_lines_passed_over(
    study, refused, call
) -> None:
    told = Study(study).seconds()
    foreign = ["3", "[]", '{"stage": []}', '{"stage": "label", "seconds": "x"}', DEEP, "\x00"]
    with (study / "log.jsonl").open("a") as log:
        log.write("\n".join(foreign))
    assert Study(study).seconds() == told
    manifests = study / "manifests"
    manifests.rename(study / "elsewhere too")
    manifests.touch()
    assert f"{manifests}" in refused("describe", study)


def test_what_another_job_made_is_not_taken_for_ones_own(study, refused, call) -> None:
    outcomes = sorted((study / "cnn").glob("*.outcome.safetensors"))
    Study(study).forget("train")
    own = outcomes[0].read_bytes()
    outcomes[0].write_bytes(outcomes[1].read_bytes())
    done = call("train", study)
    assert f"{outcomes[0].name.split('.')[0]}: damaged (outcome.safetensors has" in done.err
    assert outcomes[0].read_bytes() == own
    Study(study).forget("train")
    reference = study / "maps" / "reference"
    shutil.rmtree(reference)
    shutil.copytree(study / "maps" / "model", reference)
    for words in (["train", study, "-q"], ["describe", study]):
        assert f"{reference}: out of date (maps of other weights" in refused(*words)


def test_names_that_no_file_can_have_are_one_line(tiny, tmp_path, out, refused, call) -> None:
    long = "x" * 300
    for arguments, what in (
        (["sequences", "", "--model", tiny.model, "-o", out], "an empty argument"),
        (["run", tiny.yaml, "-o", ""], "an empty argument"),
        (["run", tiny.yaml, "--set", "sequences.source=''", "-o", out], "an empty text"),
        (["sequences", long, "--model", tiny.model, "-o", out], "xxx: no such file or folder"),
        (["sequences", tiny.table, "--model", tiny.model, "-o", out.parent / long], "too long"),
        (["describe", long], "too long"),
        (["describe", "a\udcff"], "not UTF-8"),
    ):
        assert what in refused(*arguments, *(["-q"] if arguments[0] != "describe" else []))
        assert left_in(out) == []
    broken = tmp_path / "link"
    broken.symlink_to(tmp_path / "nothing")
    line = refused("sequences", tiny.table, "--model", tiny.model, "-o", broken, "-q")
    assert f"{broken}: a link to what is not there" in line


def test_a_text_whose_name_is_not_utf8_is_read_under_an_escaped_name(
    tiny, source, out, call
) -> None:
    try:
        (source / "caf\udce9.txt").write_text(LONG)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    assert call("sequences", source, "--model", tiny.model, "-o", out, "-q").status == 0
    assert Study(out).sequences["document"].unique().to_list() == ["caf\\udce9.txt"]


def test_what_a_killed_run_left_is_cleared_and_what_lives_is_not(tiny, out, call) -> None:
    dead, alive = (out.with_name(f".{out.name}.{pid}.tmp") for pid in (1, 2))
    for left in (dead, alive):
        (left / "manifests").mkdir(parents=True)
    asked = ("sequences", tiny.table, "--model", tiny.model, "-o", out, "-q")
    with FileLock(alive.with_suffix(".lock")):
        assert call(*asked).status == 0
        assert left_in(out) == [alive.with_suffix(".lock").name, alive.name, out.name]
    shutil.rmtree(out)
    assert call(*asked).status == 0
    assert left_in(out) == [out.name]


def test_a_full_disk_leaves_no_study_and_is_said_of_a_log_too(
    tiny, out, study_at, refused, monkeypatch
) -> None:
    asked = ("sequences", tiny.table, "--model", tiny.model, "-o", out, "-q")
    for number, words in ((errno.ENOSPC, "the disk is full"), (errno.EFBIG, "no file this large")):

        def full(path, *_arguments, number=number):
            raise OSError(number, "No space left on device", str(path))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            assert words in refused(*asked)
        assert left_in(out) == []
    folder = study_at("continue")

    def fill(path, *arguments, **options):
        if str(path).endswith("log.jsonl"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return open(path, *arguments, **options)

    monkeypatch.setattr("mnemoscope.study.folder.open", fill, raising=False)
    assert f"{folder}: the disk is full" in refused("features", folder, "-q")


def test_tables_that_features_and_label_cannot_use(tmp_path, source, refused) -> None:
    table = source / "table.parquet"
    target = tmp_path / "out.parquet"
    pl.DataFrame({"sequence_id": [1], "tokens": [[1] * 40]}).write_parquet(table)
    cases = [
        (["features", table], "a table needs -o"),
        (["label", table], "a table needs -o"),
        (["features", table, "-o", tmp_path / "out.csv"], "must end in .parquet or .jsonl"),
        (["features", table, "-o", tmp_path / "no" / "out.jsonl"], "no such folder"),
        (["features", table, "-o", target, "--patterns", "strickt"], "features.patterns"),
        (["label", table, "-o", target], "name a taxonomy with -t"),
        (["features", table, "-o", target, "--set", "features.corpus=x"], "are for a study"),
        (["label", table, "-o", target, "--drop-small-classes"], "are for a study"),
        (["label", table, "-o", target, "-t", "Non-Memo, Gess, Recall"], "Did you mean 'Guess'?"),
        (["label", table, "-o", target, "-t", "Non-Memo, Guess, Recall"], "is_memorized"),
    ]
    for arguments, what in cases:
        assert what in refused(*arguments)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_table_of_the_users_is_not_written_over(tmp_path, source, call, refused) -> None:
    table, label = source / "table.parquet", ("-t", "Non-Memo, Guess, Recall", "-o")
    frame = rows(is_memorized=[False] * 3)
    frame.write_parquet(table)
    for write, own in {
        frame.write_parquet: tmp_path / "own.parquet",
        frame.write_ndjson: tmp_path / "own.jsonl",
    }.items():
        write(own)
        before = own.read_bytes()
        assert "there already" in refused("features", table, "-o", own)
        assert own.read_bytes() == before
        own.unlink()
        assert call("features", table, "-o", own).status == 0
    assert call("label", tmp_path / "own.parquet", *label, tmp_path / "own.parquet").status == 0
    assert "there already" in refused("label", own, *label, own)  # ours, which a .jsonl cannot say
