"""Every verb on a full disk, a read-only one, without a home, in 4 GB, …, and two at once."""

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from experiments.images.run import parts_of, save_parts
from gguf_files import write_gguf
from mnemoscope.cli.app import verbs
from mnemoscope.lm.load import load_model
from served import KEY, serving
from study_files import mounted
from tools.quality.same_outputs import FILES_PASSED_OVER, figure_differences

WITHOUT_A_RUN = {"app", "search"}
"""A server, which has no end; more sequences than the tiny study's, of which it learns nothing."""
STUDY = [
    *("sequences", "continue", "features", "label", "capture", "train", "benchmark", "localize"),
    *("report", "knockout", "graft"),
]
COMMANDS = {
    "demo": "demo --small -o out -q",
    "run": "run {yaml} -o out -q",
    **{one: f"{one} study --redo -q" for one in STUDY},
    "sequences": "sequences {table} --model {model} -o out -q",
    "items gate": "items gate items --sarif out.sarif --fail-if 'recalled > 2 items'",
    "audit": "audit {model} d.txt -o out -q --stride 64",
    "audit api": "audit api {url} embedded d.txt --tokenizer {model} -o out -q --stride 64",
    "audit gate": "audit gate audit --fail-if 'recalled > 2 passages'",
    "audit verify": "audit verify audit -q",
    "audit redact": "audit redact audit -o out",
    "audit rank": "audit rank {model} d.txt -o out -q",
    "items": "items {model} items.jsonl -o out -q",
    "items api": "items api {url} embedded items.jsonl -o out -q",
    "forget": "forget {model} {reference} {table} -o out -q --set most=8",
    "forget gate": "forget gate forget --fail-if 'kept > 2 passages'",
    "images": "images pipeline prompts.jsonl -o out -q --set steps=2 --set draws=1",
    "images gate": "images gate images --sarif out.sarif --fail-if 'memorized > 2 prompts'",
    "analyze": "analyze levels study --redo -q",
    "watch": "watch {model} {reference} --sequences {table} -o out -q",
    "init": "init out.yaml",
    "status": "status study --verify",
    "data duplicates": "data duplicates --sequences {table} --corpus {table} -o out.parquet -q",
    "data convert": "data convert tiny.gguf -o out",
    "data texts": "data texts -o out --most 20000",
    "distill": "distill {model} --texts {table} --batch-size 4 --steps 3 --width 0.5 --layers 1 "
    "-o out -q",
    "export push": "export push study o/n --dry-run",
    "export lm-eval-task": "export lm-eval-task study -o out",
}
QWEN2 = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
QWEN2 |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96}
FAULTS = ("full", "read only", "no home", "latin-1", "4 GB", "one CPU")


def test_every_verb_is_tried():
    assert set(COMMANDS) == set(verbs()) - WITHOUT_A_RUN


def words(command: str, tiny, url: str = "") -> list[str]:
    named = {"yaml": tiny.yaml, "model": tiny.model, "reference": tiny.reference}
    return shlex.split(command.format(**named, table=tiny.table, url=url))


@pytest.fixture(scope="session")
def ready(tiny, tiny_studies, made_once) -> Path:
    """What the commands ask for; read only."""
    return made_once("broken-world", lambda folder: prepare(folder, tiny, tiny_studies["report"]))


@contextmanager
def address(command: str, tiny) -> Iterator[str]:
    """Where the model of a verb that asks for a service answers."""
    if "{url}" not in command:
        yield ""
        return
    with serving(load_model(str(tiny.model), device="cpu")) as (_, url):
        yield url


def prepare(folder: Path, tiny, study: Path) -> None:
    shutil.copytree(study, folder / "study")
    config = AutoConfig.for_model("qwen2", **QWEN2)
    write_gguf(AutoModelForCausalLM.from_config(config), folder / "tiny.gguf")
    (folder / "d.txt").write_text(
        " ".join(f"The {n}th of the words is {n * n}." for n in range(60))
    )
    rows = [{"prompt": f"What is {n} and {n}?", "answer": str(2 * n)} for n in range(8)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "prompts.jsonl").write_text(
        '{"prompt": "red"}\n{"prompt": "red red", "label": "unread"}'
    )
    for name in ("pipeline", "control"):
        save_parts(parts_of("unet", ["red"], width=16), "unet", folder / name)
    from mnemoscope.audits.library import audit
    from mnemoscope.contamination.run import items
    from mnemoscope.diffusion.run import images
    from mnemoscope.forgetting.run import forget

    audit(str(tiny.model), folder / "d.txt", out=folder / "audit", stride=64)
    items(
        str(tiny.model),
        folder / "items.jsonl",
        out=folder / "items",
        reference=str(tiny.reference),
        progress=False,
    )
    few = {"steps": 2, "draws": 1, "flipd_draws": 0, "error": 0.5}
    pictures, prompts = folder / "pipeline", folder / "prompts.jsonl"
    images(pictures, prompts, folder / "images", reference=folder / "control", **few)
    models = str(tiny.model), str(tiny.reference)
    forget(*models, tiny.table, folder / "forget", most=8, progress=False)


def act(command: list[str], folder: Path, fault: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OPENAI_API_KEY": KEY}
    if fault == "no home":
        del environment["HOME"]
        environment |= {"XDG_CACHE_HOME": "/nowhere", "HF_HOME": "/nowhere/hf"}
    elif fault == "latin-1":
        environment |= {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C", "PYTHONUTF8": "0"}

    def limit() -> None:
        if fault == "4 GB":
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.RLIM_INFINITY))
        elif fault == "one CPU":
            os.sched_setaffinity(0, {0})

    return subprocess.run(
        [sys.executable, "-m", "mnemoscope", *command],
        cwd=folder,
        env=environment,
        preexec_fn=limit,
        capture_output=True,
        encoding="latin-1",
        timeout=600,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_ends_well_or_in_one_line_and_goes_on(verb, fault, tiny, ready, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=200m"), address(COMMANDS[verb], tiny) as url:
        command = words(COMMANDS[verb], tiny, url)
        shutil.copytree(ready, disk, dirs_exist_ok=True)
        used = shutil.disk_usage(disk).used
        if fault in ("full", "read only"):
            size = f"size={used // 1024 + 8}k"
            change = size if fault == "full" else "ro"
            subprocess.run(["mount", "-o", f"remount,{change}", str(disk)], check=True)
        done = act(command, disk, fault)
        said = done.stdout + done.stderr
        assert done.returncode in (0, 2), said[-2000:]
        assert "Traceback" not in said
        assert "internal error" not in said
        complaints = re.findall(r"^mnemoscope: .*", done.stderr, re.M)
        assert len(complaints) == (done.returncode == 2), said[-2000:]
        if fault in ("no home", "latin-1", "one CPU"):
            assert done.returncode == 0, said[-2000:]
        if done.returncode == 2:
            pattern = {
                "full": "full|No space",
                "read only": "only be read|Read-only|nothing can be written",
                "4 GB": "memory",
            }
            assert re.search(pattern[fault], complaints[0], re.I), complaints[0]
            subprocess.run(["mount", "-o", "remount,rw,size=200m", str(disk)], check=True)
            again = act(command, disk, "")
            assert again.returncode == 0, again.stderr[-2000:]


AT_ONCE = {
    **{
        one: (COMMANDS[one], COMMANDS[one])
        for one in ("run", "report", "graft", "audit", "items", "analyze", "watch")
    },
    "data duplicates": (COMMANDS["data duplicates"],) * 2,
    "label and report": (COMMANDS["label"], COMMANDS["report"]),
    "graft and run": ("graft labelled -q", "run -o labelled -q"),
}
SAID = re.compile(r"^mnemoscope: .*(in use|holds a study already)", re.M)


def act_in(folder: Path, command: list[str], name: str) -> None:
    """Run a command in a process that has done its imports; its status is the exit code."""
    os.chdir(folder)
    said = os.open(folder.parent / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    from mnemoscope.cli import main

    try:
        main(command)
    except SystemExit as left:
        os._exit(left.code if isinstance(left.code, int) else 0 if left.code is None else 98)
    os._exit(0)


def begin(forkserver, *arguments):
    process = forkserver.Process(target=act_in, args=arguments)
    process.start()
    return process


def files_of(folder: Path) -> set[str]:
    """What stands in a folder, but for what is known by the output's own path."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not FILES_PASSED_OVER.fullmatch(Path(name).name)}


@pytest.mark.parametrize(
    ("verbs_", "n"),
    [
        *(pytest.param(one, 20, marks=pytest.mark.slow) for one in AT_ONCE),
        *(pytest.param(one, 3, marks=pytest.mark.whole) for one in ("audit", "label and report")),
    ],
)
def test_two_at_once_leave_what_one_leaves_after_the_other(
    verbs_, n, tiny, ready, tiny_studies, forkserver, tmp_path
):
    """At `n` moments of the first; which of them is refused is given again."""
    commands = [words(one, tiny) for one in AT_ONCE[verbs_]]
    start = Path(shutil.copytree(ready, tmp_path / "ready"))
    shutil.copytree(tiny_studies["label"], start / "labelled")
    alone = Path(shutil.copytree(start, tmp_path / "alone"))
    began = time.monotonic()
    begin(forkserver, alone, commands[0], "said").join()
    seconds = time.monotonic() - began
    begin(forkserver, alone, commands[1], "said").join()  # the same again may need no forward pass
    wanted, outcomes = files_of(alone), Counter[str]()
    for moment in range(n):
        folder = Path(shutil.copytree(start, tmp_path / "pair"))
        both = [begin(forkserver, folder, commands[0], "said-0")]
        time.sleep(seconds * moment / n)
        both.append(begin(forkserver, folder, commands[1], "said-1"))
        for one in both:
            one.join()
        said = [(tmp_path / f"said-{number}").read_text() for number in (0, 1)]
        statuses = [one.exitcode for one in both]
        assert 0 in statuses, (moment, said)
        assert "Traceback" not in "".join(said)
        if 2 in statuses:
            refused = statuses.index(2)
            assert SAID.search(said[refused]), (moment, said[refused])
            again = begin(forkserver, folder, commands[refused], "said")
            again.join()
            statuses[refused] = again.exitcode
        outcomes["refused" if 2 in [one.exitcode for one in both] else "both went on"] += 1
        assert statuses == [0, 0], (moment, said, (tmp_path / "said").read_text())
        assert files_of(folder) == wanted, moment
        for one in wanted:
            if not one.endswith(".html"):  # a page says the minute
                assert [*figure_differences(alone / one, folder / one)] == [], (moment, one)
        shutil.rmtree(folder)
    print(verbs_, f"{seconds:.1f} s", dict(outcomes))
