"""The task for inspect_ai: what the local provider finds is what `continue` finds."""

import json
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest

from mnemoscope.embedded import model_path
from mnemoscope.errors import UserError
from mnemoscope.lm.load import load_tokenizer

inspect_ai = pytest.importorskip("inspect_ai")
ROOT = Path(__file__).parents[2]
POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
TAXONOMY = "Non-Memo, Recite[5], Others"
TEMPLATE = "{{ messages[0].content }}"


@pytest.fixture(autouse=True)
def nothing_shown(monkeypatch, tmp_path):
    """No display, no log in the checkout."""
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))


def asked(table, **more):
    task = import_module("mnemoscope.flow.inspect_task")
    return task.verbatim(table=str(table), tokenizer="embedded", **more)


def figures(log, name):
    """Of one score: the value of each metric by its name."""
    (found,) = [one for one in log.results.scores if one.name == name]
    values = {metric: one.value for metric, one in found.metrics.items()}
    return {metric.removeprefix("grouped_"): value for metric, value in values.items()}


def test_entry_point_leads_to_the_task() -> None:
    assert callable(import_module(POINTS["inspect_ai"]["mnemoscope"]).verbatim)


def test_local_provider_finds_what_continue_finds(table) -> None:
    model = inspect_ai.model.get_model(
        "hf/embedded",
        model_path=str(model_path()),
        device="cpu",
        do_sample=False,
        chat_template=TEMPLATE,
    )
    (log,) = inspect_ai.eval(asked(table, taxonomy=TAXONOMY), model=model)
    check(log, table)


@pytest.mark.slow
def test_the_command_of_the_docs_finds_the_same(table, tmp_path) -> None:
    facts = tmp_path / "mnemoscope-0.dist-info"  # what pip install -e would write
    facts.mkdir()
    (facts / "METADATA").write_text("Name: mnemoscope\nVersion: 0\n")
    point = f"[inspect_ai]\nmnemoscope = {POINTS['inspect_ai']['mnemoscope']}\n"
    (facts / "entry_points.txt").write_text(point)
    origin = {"url": ROOT.as_uri(), "dir_info": {"editable": True}}
    (facts / "direct_url.json").write_text(json.dumps(origin))
    task = {"table": table, "tokenizer": "embedded", "taxonomy": TAXONOMY}
    model = {"model_path": model_path(), "device": "cpu", "do_sample": "false"}
    model |= {"chat_template": f"'{TEMPLATE}'"}  # quoted, since inspect reads YAML
    words = [f"-T{name}={value}" for name, value in task.items()]
    words += [f"-M{name}={value}" for name, value in model.items()]
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    inspect = Path(sys.executable).with_name("inspect")
    done = subprocess.run(
        [inspect, "eval", "mnemoscope/verbatim", "--model", "hf/local", *words],
        env=os.environ | {"INSPECT_DISPLAY": "plain"} | paths,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (kept,) = (tmp_path / "logs").iterdir()
    check(inspect_ai.log.read_eval_log(str(kept)), table)


def check(log, table) -> None:
    """What a log says of each class is what `continue` says of its sequences."""
    assert log.status == "success", log.error
    by_id = dict(pl.read_parquet(table).select("sequence_id", "run").iter_rows())
    lengths: dict[str, list[int]] = {}
    for sample in log.samples:
        lengths.setdefault(sample.metadata["class"], []).append(by_id[sample.id])
    assert set(lengths) == {"Non-Memo", "Recite[5]", "Others"}
    lengths["all sequences"] = [one for every in lengths.values() for one in every]
    exact, longest = figures(log, "exact_match"), figures(log, "longest_match")
    for name, found in lengths.items():
        assert exact[name] == pytest.approx(sum(n == 32 for n in found) / len(found)), name
        assert longest[name] == pytest.approx(sum(found) / len(found)), name
    assert exact["Non-Memo"] == 0
    assert exact["Recite[5]"] == 1


def test_mock_provider_that_knows_half_of_each_suffix(table) -> None:
    tokenizer, frame = load_tokenizer(model_path()), pl.read_parquet(table)
    by_prefix = {
        tokenizer.decode(row[:32]): tokenizer.decode(row[32:48]) + "#"
        for row in frame["tokens"].to_list()
    }

    def answer(messages, *_):
        found = inspect_ai.model.ModelOutput.from_content("mock", by_prefix[messages[0].text])
        found.usage = inspect_ai.model.ModelUsage()  # else it fetches a tokenizer to count with
        return found

    model = inspect_ai.model.get_model("mockllm/model", custom_outputs=answer)
    (log,) = inspect_ai.eval(asked(table, most=3), model=model)
    assert log.status == "success", log.error
    assert figures(log, "exact_match")["all sequences"] == 0
    assert figures(log, "longest_match")["all sequences"] == 16
    assert len(log.samples) == 3  # without classes all are one


def test_refusals_say_what_to_give(table) -> None:
    task = import_module("mnemoscope.flow.inspect_task")
    for given in ({}, {"study": "a", "table": "b"}):
        with pytest.raises(UserError, match="give -T study"):
            task.verbatim(**given)
    with pytest.raises(UserError, match="mnemoscope/verbatim: a table needs"):
        task.verbatim(table=str(table))
