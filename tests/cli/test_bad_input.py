"""Bad input is refused in one line with exit status 2, and a refusal leaves nothing behind."""

import errno
import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from mnemoscope.flow.run import run
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import parse_settings
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


def test_a_token_outside_the_vocabulary(tiny, source, out, refused) -> None:
    """What else a table may be is refused in tests/data."""
    path = source / "table.parquet"
    rows(tokens=[[1] * 64, [1] * 64, [1] * 63 + [VOCABULARY]]).write_parquet(path)
    line = refused("sequences", path, "--model", tiny.model, "-o", out, "-q")
    assert f"{path}, row 2, token 63: id {VOCABULARY} is outside the vocabulary" in line
    assert left_in(out) == []


def test_files_that_are_not_there_or_are_none(tiny, source, out, refused) -> None:
    (source / "dangling.txt").symlink_to(source / "nothing")
    for name, (data, what) in {
        "none.jsonl": (None, "no such file"),
        "none": (None, "no such file"),
        "dangling.txt": (None, "no such file"),
        "empty.jsonl": (b"", "no line holds a row"),
        "torn.parquet": (b"PAR1 and no more", "not a whole Parquet file"),
        "latin.txt": (b"caf\xe9", "not a text in UTF-8"),
    }.items():
        if data is not None:
            (source / name).write_bytes(data)
        line = refused("sequences", source / name, "--model", tiny.model, "-o", out, "-q")
        assert str(source / name) in line
        assert what in line
        assert left_in(out) == []


def bert(folder: Path) -> Path:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=VOCABULARY, intermediate_size=16, **sizes)
    BertForMaskedLM(config).save_pretrained(folder)
    shutil.copy(save_model(folder / "other") / "tokenizer.json", folder)
    return folder


def t5(folder: Path) -> Path:
    save_model(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    return folder


def without(name: str):
    def make(folder: Path) -> Path:
        save_model(folder)
        for path in folder.glob(name):
            path.unlink()
        return folder

    return make


def torn(folder: Path) -> Path:
    path = save_model(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:3000])
    return folder


MODELS = {
    "not there": (lambda folder: folder, "no such model folder"),
    "an encoder": (bert, "no causal language model"),
    "a sequence-to-sequence model": (t5, "no causal language model"),
    "no tokenizer": (without("tokenizer*"), "no tokenizer"),
    "no weights": (without("*.safetensors"), "no weights"),
    "no configuration": (without("config.json"), "no config.json"),
    "torn weights": (torn, "model"),
    "too few positions": (
        lambda folder: save_model(folder, max_position_embeddings=48),
        "has 48 positions, sequences of 64 tokens need 64",
    ),
}


@pytest.mark.parametrize(("make", "what"), MODELS.values(), ids=MODELS)
def test_a_model_that_cannot_be_used(make, what, tiny, tmp_path, out, refused) -> None:
    model = make(tmp_path / "model")
    for verb in (["run", "--sequences"], ["sequences"]):
        line = refused(*verb, tiny.table, "--model", model, "-o", out, "-q")
        assert str(model) in line
        assert what in line
        assert left_in(out) == []


def spoilt(folder: Path, layer: int) -> Path:
    """A model with an infinite weight in one layer's attention."""
    from safetensors.torch import load_file, save_file

    path = save_model(folder, num_hidden_layers=3) / "model.safetensors"
    weights = load_file(path)
    name = f"gpt_neox.layers.{layer}.attention.query_key_value.weight"
    weights[name][5, 5] = float("inf")
    save_file(weights, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(("verb", "layer"), [("capture", 0), ("run", 2)])
def test_attention_that_is_not_finite_names_the_layer(
    layer, verb, tiny, tmp_path, out, refused
) -> None:
    model = spoilt(tmp_path / "model", layer)
    line = refused(verb, "--sequences", tiny.table, "--model", model, "-o", out, "-q")
    assert f"{model}: non-finite attention in layer {layer}" in line
    assert "check that the weights are whole" in line
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
        (["run", "--set", "trian.seeds=[1]"], "trian: unknown key", "'train'"),
        (["run", "--set", "title.x=1"], "'title' is a single setting", "title=VALUE"),
        (["run", "--set", "train.seeds"], "needs KEY=VALUE", "--set train.preset=paper"),
        (["run", "--set", "train.seeds=[1"], "not valid YAML", "quotes"),
        (["run", "--dtype", "float12"], "model.dtype: Input should be", "(got 'float12')"),
        (["run", "--patterns", "strickt"], "features.patterns: Input should be", "'strict'"),
        (["run", "--batch-size", "0"], "model.batch_size", "greater than or equal to 1"),
        (["run", "-t", "Non-Memo, Gess, Recall"], "unknown node 'Gess'", "'Guess'"),
        (["run", "-t", "NonMemo, Guess, Recall"], "begins with the class Non-Memo", "'Non-Memo'"),
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
        ("label.match=gener", "to match by"),
        ("train.poolings=[heads]", "capture.per_head"),
        ("features.corpus=/none/there", "features.corpus: /none/there: no such file or folder"),
        ("search.nodes=[Gess]", "unknown node 'Gess'. Did you mean 'Guess'?"),
        ("title=!!binary aGFsbG8=", "a binary value"),
        ("model={batch_size: 1, batch_size: 2}", "the key 'batch_size' is given twice"),
    ],
)
def test_the_dry_run_refuses_what_the_run_would(setting, what, tiny, out, refused) -> None:
    for dry in (["--dry-run"], []):
        line = refused("run", tiny.yaml, "--set", setting, "-o", out, "-q", *dry)
        assert what in line
        assert left_in(out) == []


def test_settings_files_that_cannot_be_used(tmp_path, out, refused) -> None:
    path = tmp_path / "study.yaml"
    for text, what in {
        "train:\n  sedes: [1]\n": "train.sedes: unknown key. Did you mean 'seeds'?",
        "label: {minimum: 2}\n": "label.minimum: Input should be greater than or equal to 6",
        "a: [1": "line 1: not valid YAML",
        "- a\n": "wants 'key: value' lines",
    }.items():
        path.write_text(text)
        line = refused("run", path, "-o", out)
        assert str(path) in line
        assert what in line
        assert left_in(out) == []
    none = tmp_path / "none.yaml"
    assert f"{none}: no such file. Write one with" in refused("run", none, "-o", out)
    path.write_bytes(b"\xff\xfe")
    assert "cannot be read" in refused("run", path, "-o", out)
    assert "exists. Choose another name, or --force" in refused("init", path)
    assert "no such folder" in refused("init", tmp_path / "none" / "study.yaml")


STUDY_VERBS = ["continue", "features", "label", "capture", "train", "benchmark", "localize"]


def test_a_folder_that_is_no_study(source, tmp_path, refused) -> None:
    (source / "note.txt").write_text("mine")
    for verb in (*STUDY_VERBS, "report", "describe"):
        line = refused(verb, source)
        assert str(source) in line
        assert "not a study" in line or "neither a study" in line
        assert f"{tmp_path / 'none'}: no such" in refused(verb, tmp_path / "none")
    assert snapshot(source) == {"note.txt": b"mine"}
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("verb", ["run", "sequences", "capture", "demo"])
def test_an_output_folder_that_holds_something_else(verb, tiny, source, refused) -> None:
    (source / "note.txt").write_text("mine")
    rest = {"run": [tiny.yaml], "sequences": [tiny.table], "demo": []}
    arguments = rest.get(verb, ["--sequences", tiny.table])
    line = refused(verb, *arguments, "-o", source, "-q")
    assert f"{source}: exists and is not a study. Choose a new or empty folder with -o." in line
    assert snapshot(source) == {"note.txt": b"mine"}


def test_a_study_made_with_other_settings(study, tiny, refused, call) -> None:
    before = snapshot(study)
    for arguments, difference in {
        ("train", study, "--set", "train.seeds=[5]"): "train.seeds: the study has [0, 1], you",
        ("run", tiny.yaml, "-o", study, "-t", "Non-Memo, Guess, Recall"): "label.taxonomies: the",
        ("continue", study, "--scan"): "continue.scan: the study has False, you asked True",
        ("continue", study, "--dtype", "bfloat16"): "model.dtype: the study has 'float32', you",
    }.items():
        line = refused(*arguments, "-q")
        assert difference in line
        assert "--redo" in line
        assert snapshot(study) == before
    redo = ["--set", "benchmark.n_resamples=101", "--redo", "-q"]
    assert call("benchmark", study, *redo).status == 0
    assert Study(study).settings.benchmark.n_resamples == 101


def test_a_study_made_by_another_model_or_of_other_sequences(study, tiny, refused) -> None:
    before = snapshot(study)
    for arguments, difference in {
        ("continue", study, "--model", tiny.reference): f"you asked '{tiny.reference}'",
        ("run", "-o", study, "--model", tiny.reference): "model.name: the study has",
        ("capture", study, "--sequences", tiny.yaml): "sequences.source: the study has",
        ("run", "-o", study, "--set", "sequences.limit=8"): "sequences.limit: the study has None",
    }.items():
        for redo in ([], ["--redo"]):
            line = refused(*arguments, *redo, "-q")
            assert difference in line
            assert "Use another folder." in line
            assert snapshot(study) == before


def test_a_stage_before_its_turn_names_the_command_to_run(study_at, refused) -> None:
    folder = study_at("sequences")
    for verb, missing in {"label": "continue", "train": "label", "report": "continue"}.items():
        line = refused(verb, folder, "-q")
        assert f"stage '{missing}' has not been run. Run 'mnemoscope {missing} {folder}'" in line


def test_run_reports_an_impossible_taxonomy_and_goes_on_with_the_others(
    tiny, tmp_path, call
) -> None:
    brief = ("--no-controls", "--set", "train.seeds=[0]")
    result = call("run", tiny.yaml, "-o", tmp_path / "study", *brief)
    assert result.status == 0
    said = "Non-Memo, Guess, Recall: impossible. 12 sequences of every class are needed, but Guess"
    assert said in result.err
    assert "Guess" in result.out
    assert "impossible" in result.out
    study = Study(tmp_path / "study")
    found = study.read("benchmark.parquet")
    assert found["taxonomy"].unique().to_list() == ["Non-Memo, Recite[5], Recollect"]
    assert set(found["source"]) <= {"model", "statistics"}  # no controls
    entry = study.manifest("label")["counts"]["samples"]["Non-Memo, Guess, Recall"]
    assert entry["counts"] == {"Non-Memo": 80, "Guess": 0, "Recall": 160}
    assert "--drop-small-classes" in entry["impossible"]
    assert "impossible" in (study.folder / "report.html").read_text().lower()
    assert call("label", study.folder, "--drop-small-classes", "--redo", "-q").status == 0
    entry = study.manifest("label")["counts"]["samples"]["Non-Memo, Guess, Recall"]
    assert (entry["trained_classes"], entry["dropped"]) == (["Non-Memo", "Recall"], ["Guess"])


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_nothing_is_trained_on_a_corrupted_shard(study, refused) -> None:
    """How it is captured again: `tests/e2e/test_store_faults.py`."""
    shard = sorted((study / "maps" / "model").glob("shard-*"))[1]
    spoil(shard, "one bit")
    Study(study).forget("train")
    shutil.rmtree(study / "cnn")
    line = refused("train", study, "-q")
    assert str(shard) in line
    assert "mnemoscope capture STUDY" in line
    assert not (study / "cnn").exists() or not any((study / "cnn").iterdir())


@pytest.mark.parametrize(
    ("name", "verb", "how"),
    [
        ("sequences.parquet", "label", "cut"),
        ("samples.parquet", "train", "one bit"),
        ("predictions.parquet", "benchmark", "cut"),
        ("benchmark.parquet", "report", "one bit"),
        ("maps/model/index.parquet", "train", "one bit"),
    ],
)
def test_a_corrupted_parquet_file_is_named(name, verb, how, study, refused) -> None:
    spoil(study / name, how)
    Study(study).forget(verb)
    before = snapshot(study)
    line = refused(verb, study, "-q")
    assert str(study / name) in line
    assert not Study(study).is_done(verb)
    assert snapshot(study) == before


DEEP = "[" * 5000 + "]" * 5000
RECORDS = ["[]", '"done"', DEEP, "{", "", "{}", '{"key": 1}', '{"key": 3, "counts": {}}']
RECORDS += ['{"key": "x", "counts": []}']


def test_a_damaged_manifest_is_named_by_every_verb_and_may_be_deleted(study, refused, call) -> None:
    path = study / "manifests" / "benchmark.json"
    for text in RECORDS:
        path.write_text(text)
        for verb in ("describe", "report", "benchmark"):
            line = refused(verb, study)
            assert f"{path}: damaged" in line
            assert "Delete it: the stage is made again" in line
    path.unlink()
    assert call("benchmark", study, "-q").status == 0
    assert Study(study).is_done("benchmark")


def test_a_manifest_that_was_edited_is_named(study, refused, call) -> None:
    path = study / "manifests" / "label.json"
    values = json.loads(path.read_text())
    values["counts"]["distinct_maps"] += 1
    path.write_text(json.dumps(values))
    assert f"{path}: damaged (its content has changed" in refused("describe", study)
    del values["sha256"]
    path.write_text(json.dumps(values))
    assert f"{path}: damaged (its content has changed" in refused("describe", study)
    values["versions"]["mnemoscope"] = "0.1.0"  # which wrote no checksums
    path.write_text(json.dumps(values))
    assert call("describe", study).status == 0
    for odd in (None, "x", -1, 1e308, [], {}):
        path.write_text(json.dumps(values | {"counts": values["counts"] | {"samples": odd}}))
        if odd != {}:
            assert f"{path}: damaged (counts.samples: " in refused("benchmark", study)
    next(iter(values["counts"]["samples"].values()))["meanings"].pop()
    path.write_text(json.dumps(values))
    assert "not a meaning for each class" in refused("benchmark", study)


def test_a_folder_or_file_in_place_of_records_is_named(study, refused) -> None:
    tables, manifests = study / "tables.json", study / "manifests"
    tables.rename(study / "elsewhere")
    tables.mkdir()
    assert f"{tables}: damaged (" in refused("describe", study)
    tables.rmdir()
    manifests.rename(study / "elsewhere too")
    manifests.touch()
    assert f"{manifests}" in refused("describe", study)


def test_seconds_that_are_no_number_are_named(study, refused, call) -> None:
    path = next((study / "cnn").glob("*.outcome.seconds"))
    for odd in (b"abc", b"nan", b"-1", b"\xff", b"1" * 100):
        path.write_bytes(odd)
        assert "seconds are damaged" in refused("report", study, "--redo", "-q")
    path.unlink()
    assert call("report", study, "--redo", "-q").status == 0


def test_foreign_lines_in_the_log_are_passed_over(study, call) -> None:
    seconds = Study(study).seconds()
    foreign = ["3", "[]", '{"stage": []}', '{"stage": "label", "seconds": "x"}', DEEP, "\x00"]
    with (study / "log.jsonl").open("a") as log:
        log.write("\n".join(foreign))
    assert Study(study).seconds() == seconds
    assert call("describe", study).status == 0


def test_a_file_of_another_job_is_not_taken_for_ones_own(study, refused) -> None:
    outcomes = sorted((study / "cnn").glob("*.outcome.safetensors"))
    Study(study).forget("train")
    outcomes[0].write_bytes(outcomes[1].read_bytes())
    line = refused("train", study, "-q")
    assert f"{outcomes[0]}: damaged (made as" in line
    assert "for another place" in line


def test_maps_of_another_model_are_not_taken_for_the_references(study, refused) -> None:
    Study(study).forget("train")
    shutil.rmtree(study / "maps" / "reference")
    shutil.copytree(study / "maps" / "model", study / "maps" / "reference")
    line = refused("train", study, "-q")
    assert f"{study / 'maps' / 'reference'}: maps of another model" in line


def test_maps_of_other_tokens_are_not_taken_for_ones_own(tiny, study, tmp_path, refused) -> None:
    """The reference's whole folder, of a study of the same models and ids, but other tokens."""
    table = pl.read_parquet(tiny.values["sequences"]["source"])
    table.reverse().with_columns(table["sequence_id"]).write_parquet(tmp_path / "other.parquet")
    values = tiny.values | {"sequences": {"source": str(tmp_path / "other.parquet")}}
    other = run(parse_settings(values, where="test"), tmp_path / "other", until="capture")
    Study(study).forget("train")
    shutil.rmtree(study / "maps" / "reference")
    shutil.copytree(other.folder / "maps" / "reference", study / "maps" / "reference")
    for words in (["train", study, "-q"], ["describe", study]):
        line = refused(*words)
        assert f"{study / 'maps' / 'reference'}: of a study of other sequences" in line


def test_names_that_no_file_can_have_are_one_line(tiny, tmp_path, out, refused, call) -> None:
    long = "x" * 300
    for arguments, what in (
        (["sequences", "", "--model", tiny.model, "-o", out], "an empty argument"),
        (["run", tiny.yaml, "-o", ""], "an empty argument"),
        (["run", tiny.yaml, "--set", "sequences.source=''", "-o", out], "an empty text"),
        (["sequences", long, "--model", tiny.model, "-o", out], "File name too long"),
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
    code = (
        "import filelock as f, sys; one = f.FileLock(sys.argv[1]); one.acquire(); print(); input()"
    )
    command = [sys.executable, "-c", code, str(alive.with_suffix(".lock"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.readline()
        assert call("sequences", tiny.table, "--model", tiny.model, "-o", out, "-q").status == 0
        assert left_in(out) == [alive.with_suffix(".lock").name, alive.name, out.name]
        process.communicate(b"\n")
    shutil.rmtree(out)
    assert call("sequences", tiny.table, "--model", tiny.model, "-o", out, "-q").status == 0
    assert left_in(out) == [out.name]


def full(path, *_arguments):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_disk_that_is_full_at_once_leaves_no_study(tiny, out, refused, monkeypatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", full)
    line = refused("sequences", tiny.table, "--model", tiny.model, "-o", out, "-q")
    assert "the disk is full" in line
    assert left_in(out) == []


def test_a_log_or_folder_that_does_not_fit_is_a_full_disk_too(
    study_at, refused, monkeypatch
) -> None:
    folder = study_at("continue")

    def fill(path, *arguments, **options):
        if str(path).endswith("log.jsonl"):
            full(path)
        return open(path, *arguments, **options)

    monkeypatch.setattr("mnemoscope.study.folder.open", fill, raising=False)
    assert f"{folder}: the disk is full" in refused("features", folder, "-q")


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on the size of files here")
def test_a_file_larger_than_the_system_allows(tiny, tmp_path) -> None:
    """For real, in a process of its own: no file may be larger than 2 kB."""
    table = tmp_path / "table.parquet"
    rows(text=[LONG] * 3).write_parquet(table)
    (tmp_path / "place").mkdir()
    target = tmp_path / "place" / "features.jsonl"
    code = "from mnemoscope.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "features", str(table), "-o", str(target), "-q"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"{target}: the system allows no file this large here" in done.stderr
    assert list(target.parent.iterdir()) == []


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


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_table_of_the_users_is_not_written_over(tmp_path, source, call, refused, ending) -> None:
    table, own = source / "table.parquet", tmp_path / f"own.{ending}"
    frame = pl.DataFrame({"sequence_id": [1], "tokens": [[1] * 64], "is_memorized": [False]})
    frame.write_parquet(table)
    (frame.write_parquet if ending == "parquet" else frame.write_ndjson)(own)
    before = own.read_bytes()
    assert "there already" in refused("features", table, "-o", own)
    assert own.read_bytes() == before
    own.unlink()
    assert call("features", table, "-o", own).status == 0
    made = (["label", own, "-t", "Non-Memo, Guess, Recall", "-o", own], own.read_bytes())
    if ending == "parquet":  # ours, and known to be
        assert call(*made[0]).status == 0
    else:
        assert "there already" in refused(*made[0])
    assert (own.read_bytes() == made[1]) == (ending == "jsonl")


def test_a_wrong_taxonomy_is_named_before_settings_that_differ(study, refused) -> None:
    line = refused("label", study, "-t", "Non-Memo, Gess, Recall", "-q")
    assert "Did you mean 'Guess'?" in line


def test_a_table_without_texts_names_the_flag(tmp_path, out, refused) -> None:
    (tmp_path / "t.jsonl").write_text('{"content": "some words", "id": 1}\n')
    line = refused("audit", "embedded", tmp_path / "t.jsonl", "-o", out, "-q")
    assert "--column text=NAME; it has content, id" in line
