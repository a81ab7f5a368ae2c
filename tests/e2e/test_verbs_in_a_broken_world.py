"""Every verb on a full disk, a read-only one, without a home, in Latin-1, in 4 GB, on one CPU."""

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnemoscope.cli.app import verbs
from study_files import mounted

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
