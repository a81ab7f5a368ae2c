"""The task for inspect_ai: what the local provider finds is what `continue` finds."""

import tomllib
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest

from mnemoscope.embedded import model_path
from mnemoscope.errors import UserError
from mnemoscope.lm.tokenizer import load_tokenizer

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[2]
POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
TAXONOMY = "Non-Memo, Recite[5], Others"
TEMPLATE = "{{ messages[0].content }}"


@pytest.fixture(autouse=True)
def inspect_ai(monkeypatch, tmp_path):
    """The package, which shows nothing and writes no log into the checkout."""
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    return pytest.importorskip("inspect_ai")


def asked(table, **more):
    task = import_module(POINTS["inspect_ai"]["mnemoscope"])
    return task.verbatim(table=str(table), tokenizer="embedded", **more)


def figures(log, name):
    (found,) = [one for one in log.results.scores if one.name == name]
    values = {metric: one.value for metric, one in found.metrics.items()}
    return {metric.removeprefix("grouped_"): value for metric, value in values.items()}


def test_local_provider_finds_what_continue_finds(inspect_ai, table):
    model = inspect_ai.model.get_model(
        "hf/embedded",
        model_path=str(model_path()),
        device="cpu",
        do_sample=False,
        chat_template=TEMPLATE,
    )
    (log,) = inspect_ai.eval(asked(table, taxonomy=TAXONOMY, most=3), model=model)
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


def test_mock_provider_that_knows_half_of_each_suffix(inspect_ai, table):
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


def test_refusals_say_what_to_give(table):
    task = import_module("mnemoscope.flow.inspect_task")
    for given in ({}, {"study": "a", "table": "b"}):
        with pytest.raises(UserError, match="give -T study"):
            task.verbatim(**given)
    with pytest.raises(UserError, match="mnemoscope/verbatim: a table needs"):
        task.verbatim(table=str(table))
