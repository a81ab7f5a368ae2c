"""Tasks for lm-evaluation-harness: what is written, how it is scored, and what the harness says."""

import json
from collections import Counter

import polars as pl
import pytest
import yaml

from mnemoscope.embedded import model_path
from mnemoscope.flow.lm_eval import asked_of
from mnemoscope.flow.lm_eval_score import process_results
from mnemoscope.flow.run import run
from mnemoscope.lm.tokenizer import load_tokenizer
from mnemoscope.study.settings import parse_settings

pytestmark = pytest.mark.whole

TAXONOMY = "Non-Memo, Recite[5], Others"


def read(out):
    with (out / "sequences.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_task_holds_each_class_and_texts_that_give_the_tokens_again(table, tmp_path, succeed):
    out = tmp_path / "task"
    succeed("export", "lm-eval-task", table, "-t", TAXONOMY, "--tokenizer", "embedded", "-o", out)
    group = yaml.safe_load((out / "mnemoscope_some.yaml").read_text())
    assert {f"{name}.yaml" for name in group["task"]} < {path.name for path in out.iterdir()}
    tokenizer, frame = load_tokenizer(model_path()), pl.read_parquet(table)
    tokens = dict(frame.select("sequence_id", "tokens").iter_rows())
    rows = read(out)
    assert {row["class"] for row in rows} == {"Non-Memo", "Recite[5]", "Others"}
    for row in rows:
        wanted = tokens[row["sequence_id"]]
        assert tokenizer.encode(row["prefix"]) == wanted[:32]
        assert row["suffix"] == tokenizer.decode(wanted[32:])
        assert len(row["ends"]) == 32
        assert row["ends"] == sorted(row["ends"])


def test_study_gives_the_classes_it_was_labelled_with(tiny, tmp_path):
    # Without `duplicates` the first taxonomy of the settings is left out of the labels.
    source = tmp_path / "table.parquet"
    pl.read_parquet(tiny.table).drop("duplicates").write_parquet(source)
    label = {name: value for name, value in tiny.values["label"].items() if name != "taxonomies"}
    values = tiny.values | {"label": label, "sequences": {"source": str(source)}}
    study = run(parse_settings(values, where="own"), tmp_path / "study", until="label")
    asked = asked_of(study.folder)
    given = dict(zip(asked.frame["sequence_id"], asked.labels, strict=True))
    assert given == dict(study.labels.select("sequence_id", "Non-Memo, Guess, Recall").iter_rows())


def test_most_draws_as_many_of_each_class_by_the_seed(table, tmp_path, succeed):
    flags = ["-t", TAXONOMY, "--tokenizer", "embedded", "--most", 2]
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        succeed("export", "lm-eval-task", table, *flags, "--seed", seed, "-o", tmp_path / name)
        drawn.append(read(tmp_path / name))
        counts = Counter(row["class"] for row in drawn[-1])
        assert counts == {"Non-Memo": 2, "Recite[5]": 2, "Others": 2}
    assert drawn[0] == drawn[1] != drawn[2]


def test_sequences_that_texts_cannot_carry_are_left_out(table, tmp_path, call):
    frame = pl.read_parquet(table).head(3)
    rows = [list(row) for row in frame["tokens"]]
    special = load_tokenizer(model_path()).eos_token_id
    # The first holds the end of text in its suffix; the second a token that merging would undo.
    rows[0][40] = special
    letters = load_tokenizer(model_path()).convert_tokens_to_ids(["t", "h"])
    rows[1][:32] = letters * 16
    source, out = tmp_path / "t.parquet", tmp_path / "out"
    frame.with_columns(tokens=pl.Series(rows, dtype=pl.List(pl.Int32))).write_parquet(source)
    done = call("export", "lm-eval-task", source, "--tokenizer", "embedded", "-o", out)
    assert "Left out: 2 sequences whose text gives other tokens." in done.out
    assert [row["sequence_id"] for row in read(out)] == [frame["sequence_id"][2]]


def test_score_counts_whole_tokens_from_the_first():
    document = {"suffix": "one two three", "ends": [3, 7, 13]}
    for written, exact, longest in (
        ("one two three", 1, 3),
        ("one two three four", 1, 3),
        ("one two thr", 0, 2),
        ("One", 0, 0),
    ):
        found = process_results(document, [written])
        assert found == {"exact_match": exact, "longest_match": longest}, written


def test_harness_finds_what_continue_finds(table, tmp_path, call):
    harness = pytest.importorskip("lm_eval")
    tasks = pytest.importorskip("lm_eval.tasks")
    out = tmp_path / "task"
    call("export", "lm-eval-task", table, "-t", TAXONOMY, "--tokenizer", "embedded", "-o", out)
    results = harness.simple_evaluate(
        model="hf",
        model_args=f"pretrained={model_path()},dtype=float32",
        tasks=["mnemoscope_some"],
        task_manager=tasks.TaskManager(include_path=str(out), include_defaults=False),
        batch_size=12,
        device="cpu",
        bootstrap_iters=0,
    )
    runs = dict(pl.read_parquet(table).select("sequence_id", "run").iter_rows())
    by_class: dict[str, list[int]] = {}
    for row in read(out):
        by_class.setdefault(row["class"], []).append(runs[row["sequence_id"]])
    tasks = results["group_subtasks"]["mnemoscope_some"]
    for label, task in zip(sorted(by_class), tasks, strict=True):
        found, lengths = results["results"][task], by_class[label]
        assert found["alias"].strip(" -") == label
        exact = sum(n == 32 for n in lengths) / len(lengths)
        assert found["exact_match,none"] == pytest.approx(exact)
        assert found["longest_match,none"] == pytest.approx(sum(lengths) / len(lengths))
    every = [n == 32 for lengths in by_class.values() for n in lengths]
    found = results["results"]["mnemoscope_some"]["exact_match,none"]
    assert found == pytest.approx(sum(every) / len(every))
