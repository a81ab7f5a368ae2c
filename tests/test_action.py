"""The GitHub Action: its steps, run by bash as the runner does, and what they are given."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pytest
import yaml

from mnemoscope.embedded import sequences_path
from study_files import rewrite_record

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {one.get("id", one.get("uses")): one for one in ACTION["runs"]["steps"]}
EVIL = 'a"; touch gone; $(touch gone) `touch gone`.txt'


def resolve(text: str, given: dict[str, str], outputs: dict[str, str]) -> str:
    values = {f"inputs.{name}": one.get("default", "") for name, one in ACTION["inputs"].items()}
    values |= {f"inputs.{name}": one for name, one in given.items()}
    values |= {f"steps.audit.outputs.{name}": one for name, one in outputs.items()}
    values["github.action_path"] = str(ROOT)
    return re.sub(r"\$\{\{ (\S+) \}\}", lambda found: values[found[1]], text)


class Runner:
    def __init__(self, folder: Path) -> None:
        self.folder, self.outputs = folder, {}
        commands = folder.parent / "bin"
        commands.mkdir()
        code = "import sys; from mnemoscope.cli import main; main(sys.argv[1:])"
        for name, words in (("mnemoscope", f"-c '{code}'"), ("python", "")):
            path = commands / name
            path.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.environment = os.environ | {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "GITHUB_OUTPUT": str(folder.parent / "output"),
            "GITHUB_STEP_SUMMARY": str(folder.parent / "summary"),
        }

    def run(self, step: str, **given: str) -> subprocess.CompletedProcess:
        given = {name.replace("_", "-"): value for name, value in given.items()}
        found = STEPS[step]
        own = {name: resolve(text, given, self.outputs) for name, text in found["env"].items()}
        done = subprocess.run(  # as the runner calls `shell: bash`
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", found["run"]],
            cwd=self.folder,
            env=self.environment | own,
            capture_output=True,
            text=True,
            timeout=300,
        )
        written = Path(self.environment["GITHUB_OUTPUT"])
        if written.exists():
            lines = written.read_text().splitlines()
            self.outputs |= dict(line.split("=", 1) for line in lines)
        return done


@pytest.fixture
def runner(tmp_path) -> Runner:
    """A checkout with a document of a hostile name, of which the embedded model knows passages."""
    rows = pl.read_parquet(sequences_path()).filter(
        (pl.col("duplicates") > 5) & (pl.col("genre") == "prose") & (pl.col("form") == "plain")
    )
    (tmp_path / "checkout" / "docs").mkdir(parents=True)
    text = "The lamp on the hill.\n" + "\nA ferry crossed.\n".join(rows["text"].head(2))
    (tmp_path / "checkout" / "docs" / EVIL).write_text(text)
    return Runner(tmp_path / "checkout")


def test_no_command_has_an_expression_written_into_it():
    commands = [one for one in STEPS.values() if "run" in one]
    assert len(commands) == 3
    for one in commands:
        assert one["shell"] == "bash"
        assert "${{" not in one["run"]
        assert "eval" not in one["run"]


def test_expressions_name_inputs_and_outputs_that_there_are():
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"\binputs\.([\w-]+)", text))
    assert named == set(ACTION["inputs"])
    outputs = set(re.findall(r"steps\.audit\.outputs\.(\w+)", text))
    assert outputs == set(re.findall(r'echo "(\w+)=', STEPS["audit"]["run"]))
    assert set(ACTION["outputs"]) == outputs


@pytest.mark.whole
def test_audit_step_writes_what_code_scanning_takes(runner):
    given = {"model": "embedded", "documents": f"docs/{EVIL}\n\n", "fail_if": "recalled > 0.5%"}
    options = "--stride\n32\n--edits\n0\n--near-length\n0\n--redo"
    given |= {"strict": "true", "junit": "junit.xml"}
    given |= {"options": options, "folder": "o u t", "reference": "none"}
    done = runner.run("audit", **given)
    assert done.returncode == 0, done.stderr  # it is judged after the upload
    first, *_, last = done.stdout.splitlines()  # between them nothing is a command
    assert first.removeprefix("::stop-commands::") == last.strip(":") != first
    assert sorted(one.name for one in runner.folder.iterdir()) == [
        *("docs", "junit.xml", "o u t", "o u t.sarif")
    ]  # fmt: skip
    sarif = json.loads((runner.folder / "o u t" / "audit.sarif").read_text())
    results = sarif["runs"][0]["results"]
    assert results
    for one in results:
        uri = one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert (runner.folder / unquote(uri)).is_file()
    record = json.loads((runner.folder / "o u t" / "audit.json").read_text())
    assert (record["settings"]["stride"], record["reference"]) == (32, None)
    assert float(runner.outputs["recalled"]) == record["summary"]["recalled"]["share"] > 0.005
    assert runner.outputs["failed"] == "true"
    summary = Path(runner.environment["GITHUB_STEP_SUMMARY"]).read_text()
    assert all(line.startswith("    ") for line in summary.splitlines())
    assert "Failed (recalled > 0.5%): " in summary
    judged = runner.run("judge", **given)
    assert judged.returncode == 3
    assert "recalled > 0.5%" in judged.stderr
    assert runner.outputs["sarif"] == "o u t.sarif"
    failing = json.loads((runner.folder / "o u t.sarif").read_text())["runs"][0]["results"]
    assert failing == [{**one, "level": "error"} for one in results]
    older = shutil.copytree(runner.folder / "o u t", runner.folder / "older")
    rewrite_record(older / "audit.json", date="2020-01-01T00:00:00+00:00")
    again = runner.run("audit", **given, baseline="older")
    assert (again.returncode, runner.outputs["failed"]) == (0, "false"), again.stderr
    assert runner.outputs["sarif"] == "o u t.sarif"
    beside = json.loads((runner.folder / "o u t.sarif").read_text())["runs"][0]["results"]
    assert beside == [{**one, "baselineState": "unchanged"} for one in results]


def test_audit_step_without_options_says_no_more_than_it_is_given_and_passes(runner):
    record = json.dumps({"summary": {"recalled": {"share": 0.25}}})
    fake = runner.folder.parent / "bin" / "mnemoscope"
    fake.write_text(
        f"""#!/bin/sh
        printf '%s\\n' "$@" > ../said
        mkdir "$3" && echo '{record}' > "$3/audit.json"
        """
    )
    done = runner.run("audit", model="embedded", documents="docs")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("::notice title=mnemoscope::no condition (fail-if): nothing ")
    said = (runner.folder.parent / "said").read_text().splitlines()
    assert said == ["audit", "--out", "mnemoscope-audit", "--", "embedded", "docs"]
    sarif = {"sarif": "mnemoscope-audit/audit.sarif"}
    assert runner.outputs == {
        **{"folder": "mnemoscope-audit", "recalled": "0.25", "failed": "false", "why": ""}, **sarif
    }  # fmt: skip


@pytest.mark.parametrize(("status", "documents"), [(0, "docs\n"), (3, "docs"), (3, "")])
def test_a_watch_has_every_condition_and_nothing_to_upload(runner, status, documents):
    """Without documents it is a callback's folder; said is which condition failed, not all."""
    fake = runner.folder.parent / "bin" / "mnemoscope"
    line = "Failed (recalled > 1%): 2 %." if status else "Passed (recalled > 1%): 0 %."
    fake.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > ../said\necho '{line}'\nexit {status}\n")
    given = {"watch": "out", "documents": documents}
    given["fail_if"] = "recalled > 1%\n\nguessed > 9%\n"
    done = runner.run("audit", **given, junit="j.xml", baseline="older", strict="True")
    assert done.returncode == 0, done.stderr
    said = (runner.folder.parent / "said").read_text().splitlines()
    assert said == [
        *("watch", "--out", "mnemoscope-audit", "--baseline", "older"),
        *("--fail-if", "recalled > 1%", "--fail-if", "guessed > 9%", "--strict"),
        *("--junit", "j.xml", *["--sequences", "docs"] * bool(documents), "--", "out"),
    ]
    found = {"sarif": "", "recalled": "", "failed": "true" if status else "false"}
    found["why"] = f"{line} " if status else ""
    if status:
        judged = runner.run("judge", **given)
        assert (judged.returncode, judged.stderr) == (3, f"{line} \n")
    assert runner.outputs == {"folder": "mnemoscope-audit", **found}
    assert "::notice" not in done.stdout


@pytest.mark.whole
def test_the_words_for_a_watch_are_those_that_the_command_takes(runner):
    (runner.folder / "out").mkdir()
    given = {"watch": "out", "documents": "docs", "fail_if": "recalled > 1%\nguessed > 9% in doc"}
    done = runner.run("audit", **given)
    assert done.returncode == 2
    assert "mnemoscope: out: " in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"documents": "docs", "model": ""}, "model: is missing"),
        ({"documents": ""}, "documents: is missing"),
        ({"documents": "docs", "watch": "out"}, "watch: leave out model"),
        ({"documents": "docs", "strict": "TRUE"}, "add fail-if"),
        ({"documents": "docs", "strict": "yes"}, "strict: true or false, not yes\n"),
        ({"documents": "docs", "upload": "no\n::x::"}, r"upload: true or false, not $'no\n::x::'"),
        ({"documents": "docs/none.txt"}, "no such file"),
        ({"documents": "docs", "folder": "a\nfailed=false"}, "more than one line"),
    ],
)
def test_audit_step_fails_where_the_audit_does(runner, given, said):
    done = runner.run("audit", **{"model": "embedded"} | given)
    assert done.returncode == 2
    assert said in done.stderr
    assert not runner.outputs


def test_install_step_gives_pip_the_words_and_this_checkout(runner, tmp_path):
    fake = tmp_path / "bin" / "python"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/said\n')
    done = runner.run("install", torch="torch --index-url https://example.org/cpu; touch gone")
    assert done.returncode == 0, done.stderr
    first, second = (tmp_path / "said").read_text().splitlines()
    assert first.startswith("-m pip install --quiet torch --index-url https://example.org/cpu; ")
    assert second == f"-m pip install --quiet {ROOT}[audit]"
    assert not (runner.folder / "gone").exists()
