"""The command line answers at once, its help can be typed, and wrong names are refused."""

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request

import huggingface_hub
import pytest
from transformers import AutoConfig

from mnemoscope import __version__
from mnemoscope.cli import main
from mnemoscope.cli.app import command, verbs
from mnemoscope.data.formats import name_below
from mnemoscope.errors import UserError, printable
from mnemoscope.lm.hub import check_on_hub
from mnemoscope.lm.load import load_model
from mnemoscope.study.folder import Study
from mnemoscope.study.stages import STAGES

HEAVY = ("torch", "transformers", "polars", "sklearn", "scipy", "numpy", "safetensors")
MODELS = ("torch", "transformers")
STATISTICS = ("sklearn", "scipy.stats", "pandas", "sympy")
COMMAND = command()


def test_help_loads_nothing_heavy(call_light):
    results = call_light([["--help"], ["run", "--help"], ["--version"], ["descrbe"]], HEAVY)
    assert [one.status for one in results] == [0, 0, 0, 2]


def test_a_verb_with_nothing_to_do_loads_no_library_that_it_does_not_use(study_at, call_light):
    study = study_at("report")
    stages = [one.name for one in STAGES if one.function and Study(study).is_done(one.name)]
    assert len(stages) > 7
    reading = [["status", study], ["run", "-o", study], *([one, study] for one in stages)]
    reading.append(["report", study, "--redo"])
    results = call_light(reading, (*MODELS, *STATISTICS))
    assert [one.status for one in results] == [0] * len(reading)
    script = f"import sys, mnemoscope as ms; ms.benchmark_figure({study.as_posix()!r}); "
    script += f"sys.exit([one for one in {(*MODELS, *STATISTICS)} if one in sys.modules] or 0)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_help_lists_every_verb(call, succeed):
    for arguments in (["--help"], ["-h"], []):
        result = succeed(*arguments)
        for verb in verbs():
            assert re.search(rf"\b{verb}\b", result.out)
    assert call("--version").out == f"mnemoscope {__version__}\n"


def test_no_verb_prints_the_control_characters_of_a_name(call, tmp_path):
    path = tmp_path / "a\n::error::b\x1b[31m.txt"
    path.write_text("a text")
    for verb in verbs():
        result = call(*verb.split(), path)
        assert result.status == 2
        assert "control characters" in result.err
        assert printable(result.err.rstrip("\n")) == result.err.rstrip("\n")
    for out in (["-o", "a\nb"], ["--out=a\nb"], ["-o", "\x1b"], ["-o", "x", "--set", "title=\x07"]):
        result = call("audit", "embedded", "a text", *out, "--dry-run")
        assert (result.status, "control characters" in result.err) == (2, True)
    assert name_below(path, tmp_path) == r"a\n::error::b\x1b[31m.txt"


def test_an_output_that_lacks_a_character_or_is_full_ends_in_no_internal_error(study_at):
    command = [sys.executable, "-m", "mnemoscope", "status", study_at("report")]
    told = os.environ | {"PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(command, capture_output=True, env=told, check=True)
    assert b"benchmark" in shown.stdout
    assert not shown.stderr
    with open("/dev/full", "wb") as full:
        failed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert failed.returncode == 2
    assert re.fullmatch(rb"mnemoscope: .*No space left on device.*\n", failed.stderr)


def test_a_pipe_is_refused_and_not_waited_for(refused, study_at, tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe.csv")
    os.mkfifo(parquet := tmp_path / "pipe.parquet")
    out, table = tmp_path / "out.parquet", study_at("features") / "sequences.parquet"
    for words in (
        ["audit", "embedded", pipe, "-o", out],
        ["audit", "rank", "embedded", pipe, "-o", out],
        ["run", "--model", "embedded", "--sequences", pipe, "-o", out],
        ["data", "duplicates", "--sequences", table, "--corpus", pipe, "-o", out],
        ["data", "duplicates", "--sequences", pipe, "--corpus", table, "-o", out],
        ["data", "duplicates", "--sequences", parquet, "--corpus", table, "-o", out],
        ["export", "push", parquet, "o/n", "--dry-run"],
    ):
        assert "a pipe or device" in refused(*words)


def test_the_help_of_a_verb_has_an_example_that_parses(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for verb in verbs():
        shown, n = call(*verb.split(), "--help"), 1 + len(verb.split())
        assert shown.status == 0
        example = COMMAND.commands[verb].help.partition("Example: ")[2].strip()
        assert example in shown.out
        words = shlex.split(example)
        assert words[:n] == ["mnemoscope", *verb.split()]
        context = COMMAND.make_context("mnemoscope", ["--version"], resilient_parsing=True)
        COMMAND.commands[verb].make_context(verb, words[n:], parent=context)  # may raise


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt, 130, "Run the same command again"),
        (MemoryError, 2, "--batch-size"),
        (ZeroDivisionError, 1, "internal error, ZeroDivisionError: no message (please report this"),
    ],
)
def test_what_ends_a_command_says_how_to_go_on(error, status, said, refused, monkeypatch, tmp_path):
    def end(_):
        raise error

    monkeypatch.setattr("mnemoscope.cli.tables.is_study", end)
    assert said in refused("status", tmp_path, status=status)
    if status == 1:  # has a traceback where one is asked for
        with pytest.raises(error):
            main(["status", str(tmp_path), "--debug"])


WRONG = {
    ("analyze", "levls", "nosuch"): "Did you mean 'levels'",
    ("analyze", "levels", "nosuch"): "nosuch: no such folder",
    ("app", "nosuch"): "nosuch: no such folder",
    ("app", "--host", "0.0.0.0"): "this machine alone",
    ("audit", "nosuch/", "text.txt", "-o", "a"): "nosuch/: no such model folder or file",
    ("run", "--device", "gpu", "-o", "a"): "device 'gpu' is not one of",
    ("run", "--set", "train.device=cuda:x", "-o", "a"): "device 'cuda:x' is not one of",
    ("audit", "embedded", "nosuch.txt", "-o", "a"): "nosuch.txt: no such file or folder",
    ("audit", "embedded", "text.txt", "-o", "a", "--study", "nosuch"): "nosuch: no such folder",
    ("audit", "embedded", "text.txt", "-o", "a", "--reference", "./no"): "./no: no such model",
    ("audit", "some/model", "text.txt", "-o", "a"): "the hub cannot be reached",
    ("report", "nosuch"): "nosuch: no such folder",
    ("watch", "nosuch", "--fail-if", "recalled > 1"): "1 of what? Write 'recalled > 1%'",
    ("run",): "run: nothing to run.",
    ("run", "-o", "nostudy"): "run: no study nostudy, and nothing to make one of.",
    **{
        ("run", "--model", model, "--sequences", texts, "-o", "s"): said
        for model, texts, said in (
            ("./nosuch", "text.txt", "./nosuch: no such model folder or file"),
            ("some/model", "text.txt", "the hub cannot be reached"),
            ("embeded", "text.txt", "Did you mean 'embedded'?"),
            ("embedded", "nosuch", "nosuch: no such file or folder"),
        )
    },
    **{
        ("run", *half, *dry, "-o", "s"): said
        for dry in ((), ("--dry-run",))
        for half, said in (
            (("--sequences", "text.txt"), "--sequences without a model"),
            (("--model", "some/model"), "--model without texts"),
        )
    },
    (
        "run",
        "--model",
        "embedded",
        "--reference",
        "./nosuch@1",
        "-o",
        "s",
    ): "./nosuch: no such model folder or file",
    ("sequences", "nosuch", "-o", "s"): "nosuch: no such file or folder",
    ("audit", "embedded", "text.txt", "-o", "mine"): "already holds a study",
    ("audit", "embedded", "empty.txt", "-o", "a"): "empty",
    ("audit", "embedded", "text.txt", "-o", "a", "--dtype", "float64"): "dtype 'float64'",
    ("audit", "embedded", "text.txt", "-o", "a", "--device", "gpu"): "device 'gpu'",
    ("audit", "verify", "mine"): "contains no audit",
}


def test_what_is_wrong_is_refused_before_torch_is_loaded(tmp_path, study_at, call_light):
    held, here = study_at("report"), tmp_path / "here"
    (here / "mine").mkdir(parents=True)
    files = {"text.txt": "words", "empty.txt": "", "mine/study.yaml": "title: mine\n"}
    for name, text in files.items():
        (here / name).write_text(text, encoding="utf-8")
    wrong = WRONG | {
        (verb, *more, held): "in use by process"
        for verb, *more in (("analyze", "length"), ("report",), ("run", "-o"), ("capture",))
    }
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PATH": ""}
    with Study(held).lock():
        results = call_light(list(wrong), ("torch",), cwd=here, env=env)
    for result, words in zip(results, wrong.values(), strict=True):
        assert result.status == 2
        assert words in (result.err or result.out).splitlines()[-1], words
    left = {path.relative_to(here).as_posix() for path in here.rglob("*")}
    assert left == {"mine", *files}
    assert {name: (here / name).read_text(encoding="utf-8") for name in files} == files


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path):
    """Its client may not try again, and nothing is loaded."""
    asked = []

    def nobody(_api, name, **_options):
        asked.append(name)
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", nobody)
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_a, **_k: pytest.fail("it loads"))
    check_on_hub.cache_clear()
    with pytest.raises(UserError, match="the hub cannot be reached"):
        load_model("somebody/some-model")
    assert asked == ["somebody/some-model"]


def test_without_gradio_it_says_what_to_install(refused, hide):
    hide("gradio")
    assert "'gradio>=6.31'" in refused("app")


@pytest.mark.whole
def test_it_says_its_address_answers_there_and_ends_when_interrupted(tmp_path):
    errors = tmp_path / "stderr"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "mnemoscope", "app", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
        with urllib.request.urlopen(address, timeout=120) as answer:
            assert answer.status == 200
            assert b"mnemoscope" in answer.read()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    finally:
        process.kill()
    said = errors.read_text()
    assert "Traceback" not in said
    imported = set(re.findall(r"\| +(\w+)$", said, re.MULTILINE))
    assert "gradio" in imported
    assert "torch" not in imported  # the page is there before what asks a model
