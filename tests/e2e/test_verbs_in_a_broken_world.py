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
from pathlib import Path

import pytest

from mnemoscope.cli.app import verbs
from study_files import mounted
from tools.quality.same_outputs import FILES_PASSED_OVER, figure_differences

WITHOUT_A_RUN = {"app", "demo", "items api", "audit api", "data convert", "distill"}
WITHOUT_A_RUN |= {"search"}
"""A server, a service, minutes, more sequences; what they share with the others is tried there."""
STUDY = [
    *("sequences", "continue", "features", "label", "capture", "train", "benchmark", "localize"),
    *("report", "knockout", "graft"),
]
COMMANDS = {
    "run": "run {yaml} -o out -q",
    **{one: f"{one} study --redo -q" for one in STUDY},
    "sequences": "sequences {table} --model {model} -o out -q",
    "items gate": "items gate items --sarif out.sarif --baseline items",
    "audit": "audit {model} d.txt -o out -q --stride 64",
    "audit gate": "audit gate audit --fail-if 'recalled > 2 passages'",
    "audit verify": "audit verify audit -q",
    "audit rank": "audit rank {model} d.txt -o out -q",
    "items": "items {model} items.jsonl -o out -q",
    "forget": "forget {model} {reference} {table} -o out -q --set most=8",
    "forget gate": "forget gate forget --fail-if 'kept > 2 passages'",
    "analyze": "analyze levels study --redo -q",
    "watch": "watch {model} {reference} --sequences {table} -o out -q",
    "init": "init out.yaml",
    "status": "status study --verify",
    "data duplicates": "data duplicates --sequences {table} --corpus {table} -o out.parquet -q",
    "data texts": "data texts -o out --most 20000",
    "export push": "export push study o/n --dry-run",
    "export lm-eval-task": "export lm-eval-task study -o out",
}
FAULTS = ("full", "read only", "no home", "latin-1", "4 GB", "one CPU")


def test_every_verb_is_tried():
    assert set(COMMANDS) == set(verbs()) - WITHOUT_A_RUN


def words(verb: str, tiny) -> list[str]:
    named = {"yaml": tiny.yaml, "model": tiny.model, "reference": tiny.reference}
    return shlex.split(COMMANDS[verb].format(**named, table=tiny.table))


def prepare(folder: Path, tiny, study: Path) -> None:
    shutil.copytree(study, folder / "study")
    (folder / "d.txt").write_text(
        " ".join(f"The {n}th of the words is {n * n}." for n in range(60))
    )
    rows = [{"prompt": f"What is {n} and {n}?", "answer": str(2 * n)} for n in range(8)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    from mnemoscope.audits.library import audit
    from mnemoscope.contamination.run import items
    from mnemoscope.forgetting.run import forget

    audit(str(tiny.model), folder / "d.txt", out=folder / "audit", stride=64)
    items(str(tiny.model), folder / "items.jsonl", out=folder / "items", progress=False)
    models = str(tiny.model), str(tiny.reference)
    forget(*models, tiny.table, folder / "forget", most=8, progress=False)


def act(command: list[str], folder: Path, fault: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
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
def test_a_verb_ends_well_or_in_one_line_and_goes_on(verb, fault, tiny, tiny_studies, tmp_path):
    disk = tmp_path / "disk"
    command = words(verb, tiny)
    with mounted(disk, "size=200m"):
        prepare(disk, tiny, tiny_studies["report"])
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


AT_ONCE = ("run", "report", "graft", "audit", "items", "analyze", "watch", "data duplicates")
N_OFFSETS = 20
SAID = re.compile(r"^mnemoscope: .*(in use|being made|goes on with)", re.M)


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


def start(forkserver, *arguments):
    process = forkserver.Process(target=act_in, args=arguments)
    process.start()
    return process


def files_of(folder: Path) -> set[str]:
    """What stands in a folder, but for what is known by the output's own path."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not FILES_PASSED_OVER.fullmatch(Path(name).name)}


@pytest.mark.slow
@pytest.mark.parametrize("verb", AT_ONCE)
def test_two_at_once_leave_what_one_leaves(verb, tiny, tiny_studies, forkserver, tmp_path):
    ready = tmp_path / "ready"
    ready.mkdir()
    prepare(ready, tiny, tiny_studies["report"])
    command = words(verb, tiny)
    alone = Path(shutil.copytree(ready, tmp_path / "alone"))
    began = time.monotonic()
    (only := start(forkserver, alone, command, "said")).join()
    seconds, wanted = time.monotonic() - began, files_of(alone)
    assert only.exitcode == 0, (tmp_path / "said").read_text()[-2000:]
    for n in range(N_OFFSETS):
        folder = Path(shutil.copytree(ready, tmp_path / f"pair-{n}"))
        first = start(forkserver, folder, command, "first")
        time.sleep(seconds * n / N_OFFSETS)
        second = start(forkserver, folder, command, "second")
        for one in (first, second):
            one.join()
        said = {one: (tmp_path / one).read_text() for one in ("first", "second")}
        ends = {"first": first.exitcode, "second": second.exitcode}
        assert 0 in ends.values(), (n, said)
        assert set(ends.values()) <= {0, 2}, (n, ends, said)
        for one, status in ends.items():
            assert "Traceback" not in said[one]
            assert status == 0 or SAID.search(said[one]), (n, said[one])
        assert files_of(folder) == wanted, n
        for one in wanted:
            if not one.endswith(".html"):  # a page says the minute
                assert [*figure_differences(alone / one, folder / one)] == [], (n, one)
        shutil.rmtree(folder)
