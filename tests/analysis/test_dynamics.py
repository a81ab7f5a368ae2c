"""M, T and mean runs in closed form; forgetting on a tiny model that is taught a batch."""

import numpy as np
import polars as pl
import pytest

from figure_columns import apart
from mnemoscope.analysis.dynamics import (
    ARMS,
    KINDS,
    Settings,
    _forgetting_frames,
    analyse,
    epochs_to,
    insertions_of,
    mean_run,
    right_by_kind,
)
from mnemoscope.errors import UserError


def test_mean_run_of_independent_tokens_is_the_closed_form() -> None:
    """Tokens right with probability p: a row of T has Tp of them in p + (T-1)p(1-p) runs."""
    rng = np.random.default_rng(0)
    for p in (0.3, 0.7, 0.9):
        right = rng.random((4000, 63)) < p
        found = mean_run(right)
        expected = 63 * p / (p + 62 * p * (1 - p))
        error = (found.high - found.low) / (2 * 1.96)
        assert abs(found.value - expected) < 4 * error  # chance: 6e-5
        assert error < 0.02 * expected
    assert mean_run(np.ones((3, 7), dtype=bool)).value == 7
    assert np.isnan(mean_run(np.zeros((3, 7), dtype=bool)).value)


def test_epochs_kinds_and_insertions_of_tables_made_by_hand() -> None:
    assert [epochs_to(m, 0.9) for m in ([0.1, 0.89, 0.9, 0.5], [0.95, 0.1], [0.2])] == [2, 0, None]
    # Four letters, of which two right and one more a letter; one digit, wrong kind.
    kinds = np.array([KINDS.index(one) for one in ("letters", "letters", "digits", "signs")])
    tokens = np.array([[0, 0, 1, 1, 2]]), np.array([[0, 1, 1, 3, 3]])
    rows = {row.kind: row._asdict() for row in right_by_kind(*tokens, kinds)}
    assert set(rows) == {"letters", "digits"}
    found = {
        name: [row[one].value for one in ("right_token", "right_kind")]
        for name, row in rows.items()
    }
    assert found == {"letters": [0.5, 0.75], "digits": [0.0, 0.0]}
    # Every arm reads for the last time at one step.
    settings = Settings(n_repeats=3, gap=4, steps_before=1)
    special = np.zeros((2, 8), dtype=np.int32)
    steps = {arm: sorted(insertions_of(arm, special, settings)) for arm in ARMS}
    assert steps == {"never": [], "once": [9], "repeated": [7, 8, 9], "spaced": [1, 5, 9]}


def test_the_floor_is_the_lowest_from_the_peak_after_the_last_reading_on() -> None:
    settings = Settings(n_repeats=2, gap=2, steps_before=0, every=1)  # all have read by step 3
    means = {arm: [0.9, 0.0, 0.1, 0.3, 0.6, 0.4] for arm in ARMS}
    means["never"] = [0.9, 0.0, 0.1, 0.1, 0.2, 0.1]
    rows = [
        {"arm": arm, "step": step, "m": [one - 0.05, one + 0.05], "weights_at_end": arm}
        for arm in ARMS
        for step, one in enumerate(means[arm])
    ]
    _, floors = _forgetting_frames(pl.DataFrame(rows), settings)
    never, once, *_ = apart(floors).to_dicts()
    assert (once["peak_at_step"], once["floor_at_step"]) == (4, 5)
    assert (once["peak"], once["floor"]) == pytest.approx((0.6, 0.4))
    assert (never["peak"], never["floor"]) == pytest.approx((0.2, 0.1))
    above = [once[f"above_never{end}"] for end in ("", "_low", "_high")]
    assert above == pytest.approx([0.3] * 3)  # paired: both sequences lie .3 apart
    assert once["above_once"] == 0


def test_what_is_read_is_learnt_and_before_it_an_arm_is_the_control(taught) -> None:
    readings = {"n_repeats": 6, "gap": 2, "steps_before": 1, "steps_after": 5}
    taught_by = {"n_special": 10, "batch_size": 10, "learning_rate": 1e-2, "epochs": 3}
    frames = analyse(taught, Settings(**readings, **taught_by)).frames
    # The planted two thirds: M of their suffix is 1, and scan and M agree on all.
    tokens = {row["group"]: row for row in apart(frames["tokens"]).iter_rows(named=True)}
    assert tokens["memorized"]["n"] == 60
    assert tokens["memorized"]["m_suffix"] == 1
    assert tokens["memorized"]["m"] > 32 / 63 - 1e-9
    assert tokens["not memorized, not trained on"]["m_suffix"] < 0.1
    assert frames["agreement"].row(0) == (90, 0)
    # More readings teach more.
    floors = {row["arm"]: row for row in apart(frames["floors"]).iter_rows(named=True)}
    assert floors["never"]["above_never"] == 0
    assert floors["repeated"]["peak"] > floors["once"]["peak"] >= floors["never"]["peak"]
    assert floors["repeated"]["above_never_low"] > 0
    learning = apart(frames["learning"])
    assert learning["m"].is_sorted()
    assert learning["loss"][-1] < learning["loss"][0]
    assert learning["steps"].to_list() == [0, 1, 2, 3]
    # Same rows, same bytes: the arms part only where they read the special batch.
    of = {
        arm: dict(frames["forgetting"].filter(arm=arm).select("step", "m").rows()) for arm in ARMS
    }
    assert sorted(of["never"]) == [0, 5, 10, 12, 15, 17]
    for arm, first in {"once": 11, "repeated": 6, "spaced": 1}.items():  # read after so many steps
        before = [step for step in of[arm] if step <= first]
        assert [of[arm][step] for step in before] == [of["never"][step] for step in before]
        assert of[arm][17] != of["never"][17]
    assert frames["floors"]["weights_at_end"].n_unique() == len(ARMS)


def test_too_few_unseen_sequences_are_refused_in_one_line(taught) -> None:
    with pytest.raises(UserError, match=r"30 sequences are not memorized.* and 200 are needed"):
        analyse(taught, Settings(n_special=100))
    with pytest.raises(UserError, match="batch_size 16 is above n_special 8"):
        analyse(taught, Settings(n_special=8))
