"""What an analysis will put through a model is known before it runs; its charts say their n."""

from dataclasses import replace

import polars as pl
import pytest

from figure_columns import uncounted
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisSettings, Forwards, OtherModel
from mnemoscope.analysis.registry import ENTRIES, Entry, entry_named, forwards_of, run_analysis
from mnemoscope.lm.load import load_model
from tests.tiny_models import save_model

BRIEF = {
    "predict": {"minimum": 5, "partition": False, "tests": False, "n_resamples": 50},
    "dependencies": {"minimum": 5, "n_resamples": 50, "n_sequences": 80},
    "levels": {"n_sequences": 30},
    "boundary": {"n_sequences": 80},
    "embeddings": {"n_steps": 4, "n_resamples": 20},
    "tokens": {},
    "length": {"n_sequences": 10, "prompt_lengths": [40, 44]},
    "trigger": {"n_sequences": 2},
    "perturb": {"n_sequences": 10, "n_unlearned": 6, "max_steps": 5},
    "inject": {"n_texts": 2, "every": 3, "n_insertions": 2, "steps_after": 2, "batch_size": 4},
    "psmi": {"minimum": 2, "n_directions": 10, "n_resamples": 50},
    "dimension": {"n_draws": 6, "n_tokens": 4, "per_class": 12, "n_resamples": 20},
    "distilled": {"n_maps": 6, "n_grafted": 40, "n_resamples": 50, "minimum": 8},
    "ending": {"per_class": 8, "n_resamples": 20},
    "neurons": {"minimum": 20, "n_halves": 10, "n_neurons": 8},
    "dynamics": {"n_special": 8, "batch_size": 4, "epochs": 2, "n_repeats": 2, "steps_after": 5}
    | {"steps_before": 2, "gap": 2},
    "membership": {"n_resamples": 50},
    "copying": {"n_sequences": 40, "n_resamples": 50},
}


@pytest.fixture(scope="module")
def inputs(guessable, tmp_path_factory) -> AnalysisInputs:
    """Thirty sequences that can be guessed, thirty recalled, thirty unknown, and two models."""
    kind = (
        pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit("Guess")).otherwise(pl.lit("Recall"))
    )
    named = pl.when("is_memorized").then(kind).otherwise(pl.lit("Non-Memo"))
    labels = guessable.table.select("sequence_id", named.alias("Non-Memo, Guess, Recall"))
    score = pl.when("is_memorized").then(pl.lit(1.0, dtype=pl.Float32))
    rouge_l = pl.when("is_memorized").then("rouge_l").otherwise(0.0)
    table = guessable.table.with_columns(memorization_score=score, rouge_l=rouge_l)
    other = save_model(tmp_path_factory.mktemp("other") / "m", seed=5)
    loaded = {"twin": load_model(guessable.load_model().name), "other": load_model(other)}
    others = tuple(OtherModel(name, lambda lm=lm: lm) for name, lm in loaded.items())
    return replace(guessable, table=table, labels=labels, others=others)


def both(
    entry: Entry, inputs: AnalysisInputs, settings: AnalysisSettings
) -> tuple[int | None, int]:
    """What is foretold, without any forward, and what is measured; every legend carries n."""
    inputs = replace(inputs, forwards=Forwards())
    foretold = forwards_of(entry, inputs, settings)
    assert inputs.forwards.n == 0
    result = run_analysis(entry, inputs, settings)
    assert not uncounted(result.figures)
    return foretold, result.cost.forward_passes


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_what_goes_through_models_is_foretold_and_legends_carry_n(
    entry, inputs, monkeypatch
) -> None:
    monkeypatch.setattr("mnemoscope.analysis.dimension.is_flat", lambda _: False)  # untrained
    n_others = {"distilled": 2}.get(entry.name, 0 if entry.each_model else 1)
    some = replace(inputs, others=inputs.others[:n_others])
    if entry.name == "psmi":  # few labels that many share
        label = pl.concat_list(pl.col("sequence_id") % 4).cast(pl.List(pl.Int32))
        head, tail = pl.col("tokens").list.head(32), pl.col("tokens").list.tail(31)
        table = some.table.with_columns(tokens=head.list.concat(label).list.concat(tail))
        some = replace(some, table=table)
    foretold, measured = both(entry, some, entry.settings(**BRIEF[entry.name]))
    assert foretold is not None
    assert measured <= foretold <= 1.5 * measured


def test_each_model_is_counted_with_its_scan(inputs) -> None:
    entry = entry_named("boundary")
    foretold, measured = both(
        entry, replace(inputs, others=inputs.others[:1]), entry.settings(minimum=2)
    )
    assert foretold is not None
    assert measured <= foretold <= 1.5 * measured
