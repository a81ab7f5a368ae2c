"""An encoder-decoder's answers: what is memory, what is copied, and controls that show neither."""

import re
from difflib import SequenceMatcher
from functools import partial

import numpy as np
import polars as pl
import pytest

import mnemoscope as ms
from experiments.seq2seq.run import Fit, make_network, make_planted
from mnemoscope.flow.copying_rows import (
    FROM_INPUT,
    MEMORIZED,
    OTHER_TEXT,
    OWN_TARGET,
    ROWS,
    SWAPPED,
    _disparity,
    find_copies,
    unlike,
)
from mnemoscope.stats import difference_of, rows_of, share_true
from tests.tiny_models import save_model

COST = (
    r"copying: at most 112 sequences through a model, about .+ at the speed of a batch of these "
    r"rows, what is computed of these not counted\."
)
FAST = {"n_tokens": 12}


def common(one: str, other: str) -> str:
    """The longest common passage, by difflib."""
    found = SequenceMatcher(None, one, other, autojunk=False).find_longest_match()
    return one[found.a : found.a + found.size]


def kind_of(text: str, row: dict, texts: list[str], n: int) -> str | None:
    """What an answer has copied, by difflib and replacing alone."""
    left = [text]
    while True:  # take the longest that the input has out, until there is none of n / 2
        spans = [(common(piece, row["input"]), piece) for piece in left]
        span, piece = max(spans, key=lambda one: len(one[0]), default=("", ""))
        if len(span) < n // 2:
            break
        left.remove(piece)
        left += piece.split(span, 1)
    own, other = (
        any(len(common(piece, one)) >= n for piece in left for one in some)
        for some in ([row["target"]], texts)
    )
    if own and (row["trained"] or not other):
        return OWN_TARGET
    if other:
        return OTHER_TEXT
    return FROM_INPUT if len(common(text, row["input"])) >= n else None


def test_copies_are_those_that_a_search_by_difflib_finds():
    rng = np.random.default_rng(0)

    def words(n: int) -> str:
        return "".join(rng.choice([*"abcdefghijklmnopqrstuvwxyz"], n))

    n, rows, answers = 8, [], []
    for number in range(200):
        row = {"input": words(30), "target": words(20), "trained": bool(rng.random() < 0.7)}
        other = rows[number - 1]["target"] if number else ""
        sources = [row["input"], row["target"], other, words(30)]
        cuts = rng.integers(0, 14, (3, 2))
        order = rng.integers(0, 4, 3)
        answers.append(
            "".join(
                sources[one][at : at + long] for one, (at, long) in zip(order, cuts, strict=True)
            )
        )
        rows.append(row)
    table = pl.DataFrame(rows)
    texts = [*table.filter("trained")["target"], *table.filter("trained")["input"]]
    found = find_copies(answers, table, texts, n)
    wanted = [kind_of(one, row, texts, n) for one, row in zip(answers, rows, strict=True)]
    assert found["kind"].to_list() == wanted
    assert {*wanted} == {OWN_TARGET, OTHER_TEXT, FROM_INPUT, None}
    for text, passage, source in zip(answers, found["passage"], found["source"], strict=True):
        assert passage is None or (passage in text and len(passage) >= n)
        assert source is None or passage in texts[source]


def test_what_the_input_has_is_no_memory_even_where_a_target_goes_on_from_it():
    rows = pl.DataFrame(
        {
            "input": ["read: the old mill by the river", "tick tock tick tock"],
            "target": ["the old mill by the river!", "ock tick tock tick tock tick tock"],
            "trained": [True, True],
        }
    )
    answers = ["the old mill by the river!", "ock tick tock tick tock tick tock"]
    found = find_copies(answers, rows, rows["target"].to_list(), 10)
    assert found["kind"].to_list() == [FROM_INPUT, FROM_INPUT]
    assert unlike("abcXYZdef", "abc def", 3) == ["XYZ"]
    assert unlike("abc", "abc", 3) == []


def one_of(flags: np.ndarray, task: str, first: int = 0) -> pl.DataFrame:
    kinds = pl.Series("kind", [OWN_TARGET if one else None for one in flags], dtype=pl.String)
    ids = pl.int_range(first, first + len(flags), eager=True).alias("sequence_id")
    given = {"model": pl.lit("m"), "task": pl.lit(task), "trained": pl.lit(True)}
    return pl.DataFrame([ids, kinds]).with_columns(**given)


def test_disparity_is_newcombe_of_unlike_rows_and_draws_shared_groups_once():
    rng = np.random.default_rng(1)
    first, second = rng.random(80) < 0.6, rng.random(60) < 0.2
    found = pl.concat([one_of(first, "a"), one_of(second, "b", 80)])
    (apart,) = rows_of(_disparity(found, np.arange(140)))
    wanted = difference_of(share_true(first, np.arange(80)), share_true(second, np.arange(60)))
    assert apart["difference"] == pytest.approx(wanted)
    # The same answers to the same documents: whichever are drawn, there is no difference.
    found = pl.concat([one_of(first, "a"), one_of(first, "b", 80)])
    (paired,) = rows_of(_disparity(found, np.tile(np.arange(80), 2)))
    assert paired["difference"] == (0, 0, 0)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A T5 that knows 14 planted answers by heart, its start, and rows half of which it read."""
    folder = tmp_path_factory.mktemp("seq2seq")
    rows = make_planted(14, 0).filter(pl.col("duplicates").is_in([0, 16]))
    start = make_network(folder / "start", "t5", 0)
    read = rows.filter(task="recite", duplicates=16)
    fit, known = Fit(start, 10_000, 5e-3), 0
    while known < 5:
        known = known + 1 if fit.step([*read.select("input", "target").iter_rows()]) == 1 else 0
    fit.save(folder / "fitted")
    rows.write_parquet(folder / "rows.parquet")
    return folder, rows


@pytest.fixture(scope="module")
def found(fitted, legends_carry_n):
    folder, rows = fitted
    return ms.analyze(folder / "fitted", "copying", rows=rows, second=str(folder / "start"), **FAST)


def test_planted_answers_are_memory_and_no_control_has_them(found):
    shares = {
        (one["model"], one["task"], one["rows"], one["kind"]): one["share"].value
        for one in rows_of(found.frames["shares"])
    }
    read, unread = ROWS[True], ROWS[False]
    assert shares["this model", "recite", read, OWN_TARGET] == 1
    assert shares["this model", "recite", unread, OWN_TARGET] == 0
    for model in ("before fitting", SWAPPED):
        assert shares[model, "recite", read, MEMORIZED] == 0
    assert (SWAPPED, "recite", read, OTHER_TEXT) not in shares
    (one,) = rows_of(found.frames["disparity"].filter(model=SWAPPED, rows=read))
    assert one["difference"].low < 0 < one["difference"].high
    rows = found.frames["rows"]
    own = rows.filter(model="this model", kind=OWN_TARGET)
    assert own["source"].to_list() == own["sequence_id"].to_list()
    source = rows.filter(kind=OTHER_TEXT)["source"]
    assert source.null_count() == 0 < source.len()
    assert "recite 100.0 %" in found.sentence
    assert "it is a cause is not shown" in " ".join(found.further)
    assert not any("fresh weights" in one for one in found.further)
    assert len(found.figures) == 2


def test_attention_of_each_task_has_an_entry_a_layer(found):
    attention = found.frames["attention"]
    whole = attention.filter(model="this model", task="recite", answers="all", measure="entropy")
    assert whole.select("part", "layer").rows() == [
        (part, layer) for part in ("encoder", "cross-attention") for layer in (1, 2)
    ]
    assert all(0 < one["mean"].low <= one["mean"].high <= 1 for one in rows_of(whole))
    between = found.frames["attention_differences"].filter(
        model="this model", first="extract", second="recite", measure="entropy"
    )
    means = {
        (one["task"], one["part"], one["layer"]): one["mean"].value
        for one in rows_of(attention.filter(model="this model", measure="entropy", answers="all"))
    }
    for one in rows_of(between):
        here, there = (means[task, one["part"], one["layer"]] for task in ("extract", "recite"))
        assert one["difference"].value == pytest.approx(here - there)


@pytest.mark.whole
def test_the_verb_prints_the_same_and_foretells_its_cost(fitted, found, tmp_path, succeed):
    folder, _ = fitted
    verb = ("analyze", "copying", folder / "fitted", "--rows", folder / "rows.parquet")
    verb += ("--second", folder / "start", "--set", "n_tokens=12", "-q")
    said = succeed(*verb, "-o", tmp_path / "out.parquet")
    lines = [f"copying: {found.sentence}", *(f"  {one}" for one in found.further)]
    assert said.out.splitlines() == [*lines, f"  Wrote {tmp_path / 'out.parquet'}."]
    assert pl.read_parquet(tmp_path / "out.parquet").equals(found.frames["rows"])
    assert re.fullmatch(COST, succeed(*verb, "--dry-run").out.rstrip())


def test_what_goes_through_models_is_counted(fitted):
    from mnemoscope.analysis.registry import entry_named
    from mnemoscope.flow.analyze import AnalysisRequest, prepare_rows

    folder, rows = fitted
    for family in ("t5", "bart"):
        start = str(make_network(folder / family, family, 0))
        asked = AnalysisRequest(second=start, values={"n_tokens": 2})
        ready = prepare_rows(start, entry_named("copying").of_rows(), rows, asked)
        assert ready.run().cost.forward_passes == 112
        assert re.fullmatch(COST, ready.cost)


def test_one_task_no_counts_and_a_task_of_one_group(fitted):
    folder, rows = fitted
    ask = partial(ms.analyze, folder / "fitted", "copying", second=str(folder / "start"), **FAST)
    plain = ask(rows=rows.select("input", "target"))
    assert plain.sentence.count("%") == 1
    assert "does not say which rows were trained on" in plain.further[-1]
    assert not plain.frames["disparity"].height
    grouped = ask(rows=rows.with_columns(group=pl.lit("one")))
    shares = grouped.frames["shares"]
    assert shares["share"].struct.field("low").null_count() == shares.height


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (lambda one: one.drop("target"), "column target=COLUMN"),
        (lambda one: one.with_columns(input=pl.lit(None, pl.String)), "a text in input \\(nulls"),
        (lambda one: one.with_columns(duplicates=0), "no row was trained on"),
    ],
)
def test_rows_that_cannot_be_asked_are_refused(fitted, rows, said):
    folder, table = fitted
    with pytest.raises(ms.UserError, match=said):
        ms.analyze(folder / "fitted", "copying", rows=rows(table), **FAST)


def test_other_models_are_refused(fitted, tmp_path):
    folder, rows = fitted
    causal = save_model(tmp_path / "causal")
    with pytest.raises(ms.UserError, match="no encoder-decoder"):
        ms.analyze(causal, "copying", rows=rows)
    with pytest.raises(ms.UserError, match="no encoder-decoder"):
        ms.analyze(folder / "fitted", "copying", rows=rows, second=str(causal))
