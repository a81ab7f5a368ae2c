"""What is trained on further is told of by group: no interval of few, one over many."""

from dataclasses import replace

import polars as pl
import pytest

from mnemoscope.analysis import dynamics, inject, perturb

INJECT = inject.Settings(
    n_texts=12, every=3, n_insertions=1, steps_after=0, batch_size=16, prompts=(32,), stride=64
)
DYNAMICS = dynamics.Settings(
    n_special=12, batch_size=12, epochs=1, n_repeats=2, gap=2, steps_before=0, steps_after=5
)
PERTURB = perturb.Settings(
    n_sequences=12, n_unlearned=12, shifts=(1,), batch_size=12, max_steps=2, learning_rate=1e-3
)
INTERVALS = {
    "inject": {"lengths": "length", "effect": "more"},
    "dynamics": {"learning": "m", "forgetting": "m", "floors": "above_never"},
    "perturb": {"unlearning": "tokens", "beside": "right"},
}


@pytest.mark.parametrize(
    ("module", "settings"), [(inject, INJECT), (dynamics, DYNAMICS), (perturb, PERTURB)]
)
def test_intervals_of_what_is_trained_draw_groups(taught, module, settings) -> None:
    def of_groups(n: int):
        table = taught.table.with_columns(near_duplicates=pl.int_range(pl.len()) // 3 % n)
        return module.analyse(replace(taught, table=table), settings).frames

    many, few = of_groups(1000), of_groups(9)
    for frame, column in INTERVALS[module.__name__.rsplit(".", 1)[-1]].items():
        assert many[frame][column].to_list() == few[frame][column].to_list()
        ends = [pl.col(f"{column}_{end}") for end in ("low", "high")]
        assert many[frame].select(pl.all_horizontal(one.is_not_null() for one in ends).all()).item()
        assert few[frame].select(pl.all_horizontal(one.is_null() for one in ends).all()).item()
    counted = {name: frame for name, frame in few.items() if "n_groups" in frame.columns}
    assert counted
    for frame in counted.values():
        assert frame["n_groups"].to_numpy().max() <= 9
