"""Samples are balanced to the last sequence, fixed by the seed alone, and never leak a group."""

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.stats import FEWEST_GROUPS
from mnemoscope.taxonomy import PAPER, PRASHANTH
from mnemoscope.taxonomy.draw import apportion, order_keys
from mnemoscope.taxonomy.names import parse_taxonomy
from mnemoscope.taxonomy.sample import (
    Impossible,
    Sample,
    SharedNeed,
    draw_sample,
    order_table,
    shared_need,
)
from refusals import refusal

TAXONOMY = parse_taxonomy(PAPER)
NAMES = list(TAXONOMY.classes)


def make(classes, groups=None, **columns):
    """A table and its labels; ids are spread so that order and id are not the same thing."""
    ids = [(7919 * i) % 100_003 for i in range(len(classes))]
    frame = pl.DataFrame(
        {"sequence_id": ids, "group": groups or [None] * len(ids), **columns},
        schema_overrides={"group": pl.String},
    )
    return frame, pl.Series("class", classes, dtype=pl.String)


def outcome_of(frame, labels, taxonomy=TAXONOMY, *, seed=0, split="group", match=None, **asked):
    ordered = order_table(frame, seed=seed, split=split, match=match)
    return draw_sample(ordered, labels, taxonomy, **asked)


def memo(n_guess, n_recall, n_other):
    return ["Guess"] * n_guess + ["Recall"] * n_recall + ["Non-Memo"] * n_other


def sampled(*asked, **named):
    sample = outcome_of(*asked, **named)
    assert isinstance(sample, Sample)
    return sample


def impossible(*asked, **named):
    outcome = outcome_of(*asked, **named)
    assert isinstance(outcome, Impossible)
    return outcome


def counts_by(sample, *columns):
    found = sample.frame.group_by(*columns).len()
    return {tuple(row[:-1]): row[-1] for row in found.rows()}


def assert_balanced(sample):
    wanted = {(name, "train"): sample.n_train for name in sample.classes}
    wanted |= {(name, "eval"): sample.n_eval for name in sample.classes}
    assert counts_by(sample, "class", "split") == wanted
    assert sample.frame["sequence_id"].n_unique() == sample.frame.height
    numbers = dict(sample.frame.select("class", "class_index").unique().rows())
    assert numbers == {name: index for index, name in enumerate(sample.classes)}


def assert_no_group_crosses(sample):
    sides = sample.frame.group_by("group").agg(pl.col("split").n_unique())
    assert sides["split"].max() == 1
    assert sample.n_groups_crossing == 0


def test_papers_sizes_are_drawn_from_a_large_table_and_less_in_proportion_from_a_small():
    sample = sampled(*make([NAMES[i % 3] for i in range(21_000)]))
    assert (sample.n_train, sample.n_eval, sample.warnings) == (4000, 2000, ())
    assert_balanced(sample)
    sample = sampled(*make(memo(450, 700, 900)))
    assert (sample.n_train, sample.n_eval) == (300, 150)
    assert_balanced(sample)
    assert sample.warnings == (
        "every class gives 300 + 150 sequences (training + evaluation) in place of 4,000 + 2,000; "
        "the smallest, Guess, has 450.",
    )


def test_by_row_each_class_gives_its_first_sequences_in_the_common_order():
    frame, labels = make([NAMES[(i * i) % 3 % 3] if i % 5 else NAMES[2] for i in range(3000)])
    sample = sampled(frame, labels, n_train=80, n_eval=40, seed=3, split="row")
    ordered = frame.with_columns(labels, key=order_keys(frame["sequence_id"].to_numpy(), 3))
    for name in NAMES:
        first = ordered.filter(pl.col("class") == name).sort("key").head(120)["sequence_id"]
        assert set(first) == set(sample.frame.filter(pl.col("class") == name)["sequence_id"])


def grouped_table(n, seed=0):
    """Half of the rows in groups of 2 to 6, whatever their class; two labellings of four."""
    rng = np.random.default_rng(seed)
    groups = [f"g{g}" if g < n // 8 else None for g in rng.integers(0, n // 4, n)]
    frame, _ = make(["Guess"] * n, groups)
    base = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    moved = np.where((base > 0) & (rng.random(n) < 0.3), rng.integers(1, 4, n), base)
    return frame, [[str(one) for one in labels] for labels in (base, moved)]


def test_near_duplicates_cost_hardly_any_sharing_and_two_taxonomies_evaluate_on_the_same():
    frame, labellings = grouped_table(20_000)
    names = ["Non-Memo", "Recite[5]", "Reconstruct", "Recollect"]
    taxonomy = parse_taxonomy(PRASHANTH)
    need, evaluated, trained = {}, [], []
    for split in ("row", "group"):
        union: set[int] = set()
        for labels in labellings:
            series = pl.Series("class", [names[int(one)] for one in labels])
            sample = sampled(frame, series, taxonomy, n_train=400, n_eval=200, split=split)
            assert (sample.n_train, sample.n_eval) == (400, 200)
            sides = sample.frame.partition_by("split", as_dict=True)
            evaluated.append(set(sides[("eval",)]["sequence_id"]))
            trained.append(set(sides[("train",)]["sequence_id"]))
            union |= evaluated[-1] | trained[-1]
        need[split] = len(union)
    # By row it is the least that a uniform sample of each class can need; one sequence of each
    # group before a second skips some rows that stand early.
    assert need["group"] <= 1.05 * need["row"]
    for first, second in ((0, 1), (2, 3)):
        on_both = (evaluated[first] | trained[first]) & (evaluated[second] | trained[second])
        same = (evaluated[first] & evaluated[second]) | (trained[first] & trained[second])
        assert len(same) > 0.95 * len(on_both)  # dealt out anew it would be 5/9


def test_common_order_is_random_and_of_two_sequences_does_not_depend_on_the_others():
    few, many = order_keys(np.arange(100), 5), order_keys(np.arange(1000), 5)
    assert (few == many[:100]).all()
    assert len(np.unique(many)) == 1000
    assert (order_keys(np.arange(100), 6).argsort() != few.argsort()).any()
    assert (order_keys(np.array([-1, -(2**63), 2**63 - 1]), 0) > 0).all()
    ranks = order_keys(np.arange(10_000), 1).argsort().argsort()
    # Spearman correlation of random orders has standard deviation 1/sqrt(n - 1) = .01
    assert abs(np.corrcoef(ranks, np.arange(10_000))[0, 1]) < 0.04
    low = (ranks[:5000] < 5000).sum()
    assert abs(low - 2500) < 4 * np.sqrt(10_000 / 16)


FLAGS = {
    "--drop-small-classes": lambda _: {"drop_small_classes": True},
    "--set label.minimum": lambda flags: {"minimum": int(flags.split("=")[1])},
    "--set label.match": lambda _: {"match": None},
}
CASE = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["group", "row"]),
    st.sampled_from([None, "genre"]),
    st.booleans(),
)


@settings(max_examples=100)
@given(CASE)
def test_sample_keeps_all_its_promises_on_any_table(case):
    seed, split, match, drop = case
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 400))
    classes = rng.choice([*NAMES, None], n, p=rng.dirichlet([1, 1, 1, 0.3])).tolist()
    groups = [str(g) for g in rng.integers(0, rng.integers(1, 150), n)]
    groups = [g if rng.random() < 0.8 else None for g in groups]
    genre = rng.choice(["code", "prose", None], n, p=[0.5, 0.45, 0.05]).tolist()
    frame, labels = make(classes, groups, genre=pl.Series(genre, dtype=pl.String))
    n_train, n_eval, minimum = (int(k) for k in rng.integers(1, 60, 3))

    asked = {"n_train": n_train, "n_eval": n_eval, "minimum": minimum, "drop_small_classes": drop}
    asked |= {"seed": 1, "split": split, "match": match}
    sample = outcome_of(frame, labels, **asked)
    order = rng.permutation(n)
    again = outcome_of(frame[order], labels.gather(order), **asked)
    if isinstance(sample, Impossible):
        assert "\n" not in str(sample)
        assert str(again) == str(sample)
        assert sample.needed == max(2, min(minimum, n_train + n_eval))
        for flags in re.findall(r"with (--.+?) --redo", sample.remedy):
            advised = sampled(frame, labels, **asked | FLAGS[flags.split("=")[0]](flags))
            groups = advised.frame.filter(split="eval").group_by("class").agg(pl.col("group"))
            assert min(len(set(one)) for one in groups["group"]) >= FEWEST_GROUPS
        return
    assert isinstance(again, Sample)
    assert again.frame.equals(sample.frame)
    assert_balanced(sample)
    assert 1 <= sample.n_train <= n_train
    assert 1 <= sample.n_eval <= n_eval
    assert sample.n_train + sample.n_eval >= min(minimum, n_train + n_eval)
    assert drop or not sample.dropped
    truth = dict(zip(frame["sequence_id"], labels, strict=True))
    assert all(truth[i] == name for i, name in sample.frame.select("sequence_id", "class").rows())
    if split == "group":
        assert_no_group_crosses(sample)
    if match:
        joined = sample.frame.join(frame.select("sequence_id", "genre"), on="sequence_id")
        held = joined.group_by("genre", "split", "class").len()
        assert held.group_by("genre", "split").agg(pl.col("len").n_unique())["len"].max() == 1
        assert (held.group_by("genre", "split").len()["len"] == len(sample.classes)).all()


TAKE = "Take sequences that the model"


@pytest.mark.parametrize(
    ("classes", "groups"),
    [(memo(2, 33, 894), 0), (memo(25, 40, 600), 0), (memo(70, 90, 70), 1)],
)
def test_as_much_more_text_as_foreseen_is_enough(classes, groups):
    """Grown by tables like itself, with texts of its own, a table gives the sample; not by half."""
    known = [one if groups else str(row) for row, one in enumerate(classes)]
    frame, labels = make(classes, known, text=["x" * 250] * len(classes))
    outcome = impossible(frame, labels)
    said = re.search(r"about ([\d,]+) more sequences \(([\d,]+) char", outcome.remedy)
    n_more, characters = (int(one.replace(",", "")) for one in said.groups())
    assert characters == pytest.approx(250 * n_more, rel=0.05)

    def grown(n):
        times = -(-n // len(classes)) + 1
        more = [f"{time}-{one}" for time in range(times) for one in known]
        return outcome_of(*make(list(classes) * times, more))

    assert isinstance(grown(n_more), Sample)
    if n_more > 3 * len(classes):
        assert isinstance(grown(n_more // 3), Impossible)


@pytest.mark.parametrize("n_unread", [77, 399])
def test_texts_of_which_nothing_is_repeated_do_not_thin_the_rate(n_unread):
    classes = memo(3, 198, n_unread)
    read = [one != "Non-Memo" for one in classes]
    documents = ["read/a" if one else "new/a" for one in read]
    remedy = impossible(*make(classes, document=documents, is_memorized=read)).remedy
    said = "about 3,800 more sequences of texts like those it repeats here"  # 19 times the 201
    assert said in remedy


@pytest.mark.parametrize("classes", [memo(0, 500, 500), memo(0, 0, 500)])
def test_nothing_is_foreseen_of_a_class_that_was_not_found(classes):
    assert "cannot be foreseen: no" in impossible(*make(classes)).remedy


IMPOSSIBLE = [  # classes, whether small ones may be dropped, the reason, the remedy
    (memo(59, 700, 900), False, "60 sequences of every class are needed, but Guess has 59",
     "--set label.minimum=59 --redo"),
    (memo(0, 0, 900), False, "but none of the 900 sequences", TAKE),
    (memo(0, 0, 900), True, "but none of the 900 sequences", TAKE),
    (memo(400, 500, 0), False, "but all 900 sequences with a class", "Add sequences"),
    ([None] * 3, False, "but no sequence has a class", "Add the features that are missing."),
    (memo(0, 500, 400), False, "Guess has 0", "Add sequences (60 of Guess)"),
]  # fmt: skip


@pytest.mark.parametrize(("classes", "may_drop", "reason", "remedy"), IMPOSSIBLE)
def test_the_remedy_fits_the_reason(classes, may_drop, reason, remedy):
    outcome = impossible(*make([*classes, None]), drop_small_classes=may_drop)
    assert reason in outcome.reason
    assert remedy in outcome.remedy
    assert "fewer" not in outcome.remedy
    assert (outcome.flags == "--drop-small-classes") == ("Guess has" in reason)
    assert outcome.needed == 60
    assert outcome.counts["null"] == classes.count(None) + 1


def test_small_classes_are_dropped_on_request_and_said():
    frame, labels = make(memo(300, 0, 900))
    outcome = sampled(frame, labels, drop_small_classes=True)
    assert outcome.classes == ("Non-Memo", "Guess")
    assert outcome.dropped == ("Recall",)
    assert outcome.counts["Recall"] == 0
    assert any("class Recall is left out: 0 sequences" in line for line in outcome.warnings)
    assert_balanced(outcome)


def test_missing_feature_is_named():
    frame, labels = make(["Non-Memo"] * 80 + ["Code"] * 80 + ["Rest"] * 80 + [None] * 3)
    frame = frame.with_columns(is_code=pl.Series([True] * 240 + [None] * 3))
    taxonomy = parse_taxonomy("Non-Memo, Code, Rest")
    sample = sampled(frame, labels, taxonomy, n_train=40, n_eval=20)
    assert sample.warnings == ("3 sequences have no class, for want of is_code.",)


def test_many_groups_give_one_sequence_each_before_one_gives_many():
    groups = ["form"] * 500 + [f"s{i}" for i in range(400)]
    frame, labels = make(memo(900, 400, 400), groups + [None] * 800)
    sample = sampled(frame, labels, n_train=200, n_eval=100)
    assert (sample.n_train, sample.n_eval) == (200, 100)
    assert counts_by(sample, "group").get(("form",), 0) <= 1
    (warning,) = sample.warnings
    first = frame["sequence_id"][:500].min()
    assert f"class Guess: one group of near duplicates (such as sequence {first})" in warning
    assert "56%" in warning
    assert "speaks of the others" in warning


def test_large_groups_are_divided_so_that_both_sides_fill_and_are_warned_of():
    groups = ["a"] * 150 + ["b"] * 150
    frame, labels = make(memo(300, 400, 400), groups + [None] * 800)
    sample = sampled(frame, labels, n_train=200, n_eval=100)
    assert (sample.n_train, sample.n_eval) == (150, 75)
    assert_balanced(sample)
    assert_no_group_crosses(sample)
    # What groups a and b hold of the sampled Guess: one has both thirds of training.
    drawn = [counts_by(sample, "class", "group")["Guess", name] for name in "ab"]
    assert sorted(drawn) == [75, 150]
    warnings = [line for line in sample.warnings if "one group of near duplicates" in line]
    for start, n in zip((0, 150), drawn, strict=True):
        first = frame["sequence_id"][start : start + 150].min()
        (warning,) = (line for line in warnings if f"(such as sequence {first})" in line)
        assert f"50% of its sequences and {n / 225:.0%} of its sample" in warning


def test_a_group_may_hold_a_tenth_of_a_class_and_no_more_without_a_warning():
    for size, warned in ((30, False), (31, True)):
        groups = ["g"] * size + [None] * (900 - size)
        frame, labels = make([NAMES[i // 300] for i in range(900)], groups)
        sample = sampled(frame, labels, n_train=40, n_eval=20)
        assert [line.split(":")[0] for line in sample.warnings] == ["class Non-Memo"] * warned


def test_classes_of_few_groups_are_impossible_by_group_and_by_folds_and_possible_by_row():
    frame, labels = make(memo(60, 60, 60), groups=[str(at // 15) for at in range(180)])
    assert "form 4 groups" in str(impossible(frame, labels, split="folds"))
    groups = ["a"] * 300 + [None] * 800
    frame, labels = make(memo(300, 400, 400), groups)
    outcome = impossible(frame, labels)
    assert "the sequences of Guess form 1 group" in outcome.reason
    assert "label.split" not in outcome.remedy  # by row too, one group says nothing of a class
    by_row = sampled(frame, labels, split="row")
    assert by_row.n_groups_crossing == 1


def test_matched_classes_have_equal_shares_of_every_genre_or_are_impossible():
    genres = (
        ["code"] * 300 + ["prose"] * 100 + ["code"] * 90 + ["prose"] * 400 + ["code", "prose"] * 200
    )
    frame, labels = make(memo(400, 490, 400), genre=pl.Series(genres))
    sample = sampled(frame, labels, match="genre")
    assert sample.n_train + sample.n_eval == 190  # 90 of code, 100 of prose
    apart = pl.Series(["code"] * 100 + ["prose"] * 200)
    outcome = impossible(*make(memo(100, 100, 100), genre=apart), match="genre")
    assert "matched by genre" in outcome.reason
    assert "do not match by genre" in outcome.remedy


def test_groups_are_found_where_the_table_has_none():
    rng = np.random.default_rng(0)
    tokens = np.repeat(rng.integers(0, 1000, (90, 64)), 2, axis=0)  # every sequence twice
    frame, labels = make([NAMES[i // 2 % 3] for i in range(180)], tokens=tokens.tolist())
    sample = sampled(frame.drop("group"), labels, TAXONOMY, n_train=30, n_eval=10)
    assert_no_group_crosses(sample)
    by_row = sampled(frame.drop("group"), labels, TAXONOMY, n_train=30, n_eval=10, split="row")
    assert by_row.n_groups_crossing is None


def test_wrong_requests_are_refused():
    frame, labels = make(["Guess"] * 3, genre=pl.Series(["a"] * 3))
    for wrong, says in (
        ({"split": "grup"}, "Did you mean 'group'?"),
        ({"n_train": 0}, "at least one sequence"),
        ({"match": "gnre"}, "no such column. Did you mean 'genre'?"),
    ):
        assert says in refusal(outcome_of, frame, labels, **wrong)
    twice = pl.DataFrame({"sequence_id": [1, 1], "group": [None, None]})
    assert "an id twice" in refusal(order_table, twice, seed=0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 500))
def test_apportioning_keeps_the_sum_and_stays_within_one_of_the_exact_share(weights, total):
    whole = sum(weights)
    shares = apportion(np.array(weights), total)
    assert shares.sum() == min(total, whole)
    assert (shares <= weights).all()
    if total < whole:
        assert (abs(shares - np.array(weights) * total / whole) < 1).all()


def test_sequences_maps_and_rows_without_sharing_are_counted():
    samples = pl.DataFrame(
        {
            "taxonomy": ["a", "a", "b", "b", "b"],
            "sequence_id": [1, 2, 2, 3, 1],
            "suffix": ["true", "own", "true", "true", "true"],
        }
    )
    # 1 true, 2 own, 2 true, 3 true are maps; a serves two names
    assert shared_need(samples, {"a": 2}) == SharedNeed(3, 4, 7)
    assert shared_need(samples.drop("suffix")) == SharedNeed(3, 3, 5)
    assert shared_need(samples.clear()) == SharedNeed(0, 0, 0)
    assert "1.8 times" in str(shared_need(samples, {"a": 2}))


@given(st.integers(5, 9), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_folds_take_all_of_the_smallest_class_and_as_many_of_the_others(n_groups, size, seed):
    """Whole or in part, no side is held out; the order is the seed's."""
    classes = [name for name in NAMES for _ in range(n_groups * size * (1 + (name == "Recall")))]
    frame, labels = make(classes, groups=[str(at // size) for at in range(len(classes))])
    sample = sampled(
        frame, labels, seed=seed, split="folds", n_train=1000, n_eval=500, minimum=n_groups * size
    )
    assert sample.n_train == sample.n_eval == n_groups * size
    assert counts_by(sample, "class", "split") == {(one, "eval"): n_groups * size for one in NAMES}
    assert sample.n_groups_crossing == 0
    fewer = sampled(frame, labels, seed=seed, split="folds", n_train=n_groups, minimum=2)
    assert fewer.frame.height == len(NAMES) * n_groups
    assert set(fewer.frame["sequence_id"]) <= set(frame["sequence_id"])
