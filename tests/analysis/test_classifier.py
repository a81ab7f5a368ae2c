"""A classifier's rows: which states its head reads, wrong labels found, controls that find none."""

from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import entropy, kendalltau
from transformers import AutoConfig, AutoModelForSequenceClassification

import mnemoscope as ms
from experiments.mislabelled.run import make_network, make_rows
from mnemoscope.analysis.neurons import _ORDERS, _row_figures
from mnemoscope.lm.classifier import (
    as_classifier,
    classified,
    encode,
    fit_classifier,
    head_place,
    load_classifier,
)
from mnemoscope.stats import rows_of
from tests.tiny_models import save_model

FAST = {"n_directions": 100, "n_resamples": 50}
SMALL = {
    "vocab_size": 402,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "cls_token_id": None,
    "sep_token_id": None,
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A decoder after two epochs on rows with 30 % wrong labels: folder, rows, its start."""
    folder = tmp_path_factory.mktemp("classifier")
    rows, start = make_rows(240, 1), make_network(folder / "start", "llama", 0)
    lm = load_classifier(start)
    encoded = encode(lm, rows["text"].to_list())
    training = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 32, "seed": 0}
    *_, last = fit_classifier(lm, encoded, rows["label"], **training)
    last.model.save_pretrained(folder / "fitted")
    last.tokenizer.save_pretrained(folder / "fitted")
    rows.write_parquet(folder / "rows.parquet")
    return folder, rows


@pytest.fixture(scope="module")
def found(fitted):
    """Of that decoder, of its start as if it were a checkpoint, and of its start as what it is."""
    folder, rows = fitted
    start = str(folder / "start")
    others = {"second": start, "checkpoints": [start]}
    return ms.analyze(folder / "fitted", "psmi", rows=rows, truth="mislabelled", **others, **FAST)


@pytest.mark.parametrize(
    ("family", "changes", "place"),
    [
        ("bert", {}, "first"),
        ("roberta", {}, "first"),
        ("llama", {}, "last"),
        ("gpt_neox", {"pad_token_id": None}, "last"),
        ("modernbert", {"classifier_pooling": "mean"}, "mean"),
    ],
)
def test_each_text_has_the_logits_and_the_state_that_it_has_alone(fitted, family, changes, place):
    config = AutoConfig.for_model(family, **SMALL | changes)
    tokenizer = load_classifier(fitted[0] / "start").tokenizer
    model = AutoModelForSequenceClassification.from_config(config).eval()
    lm = as_classifier(model, tokenizer)
    assert head_place(lm) == place
    encoded = encode(lm, ["w1 w2 w3", "w4", "w5 w6 w7 w8", "w9 w1 w3"])
    found = classified(lm, encoded.tokens, encoded.mask, layers=[1, 2], batch_size=2)
    for row, mask in enumerate(encoded.mask.astype(bool)):
        with torch.inference_mode():
            ids = torch.from_numpy(encoded.tokens[row][mask])[None]
            alone = model(input_ids=ids, output_hidden_states=True)
        np.testing.assert_allclose(found.logits[row], alone.logits[0], atol=1e-5)
        for layer, state in zip((1, 2), found.states[row], strict=True):
            each = alone.hidden_states[layer][0]
            wanted = {"first": each[0], "last": each[-1], "mean": each.mean(0)}[place]
            np.testing.assert_allclose(state, wanted, atol=1e-5)
    assert lm.model.config.pad_token_id == changes.get("pad_token_id", 0)


def test_wrong_labels_are_found_beyond_the_network_before_and_not_where_truth_is_shuffled(
    fitted, found
):
    folder, rows = fitted
    assert "low PSMI goes with mislabelled" in found.sentence
    assert "beside before fitting" in found.sentence
    assert found.folder is None
    scores = {(one["model"], one["score"]): one["auc"] for one in rows_of(found.frames["scores"])}
    assert scores["this model", "PSMI, last layer"].low > 0.8
    assert scores["this model", "loss"].low > 0.5
    null = scores["this model", "PSMI, truth shuffled"]
    assert null.low < 0.5 < null.high
    layers = [*rows_of(found.frames["layers"])]
    (last,) = (one for one in layers if one["model"] == "this model" and one["layer"] == 2)
    assert last["beyond"].low > 0
    assert last["auc"] == scores["this model", "PSMI, last layer"]
    start = str(folder / "start")
    assert scores[start, "loss"] == scores["before fitting", "loss"]
    assert {one["beyond"].value for one in layers if one["model"] == start} == {0}
    assert found.frames["rows"]["is_memorized"].to_list() == rows["mislabelled"].to_list()
    assert found.figures
    assert not any("fresh weights" in one for one in found.further)


def test_copies_of_a_row_stay_in_one_group_and_unknown_rows_are_left_out(fitted):
    folder, rows = fitted
    copied = pl.concat([rows[:60], rows[:60]]).with_columns(
        truth=pl.when(pl.int_range(pl.len()) < 110).then("mislabelled")
    )
    found = ms.analyze(folder / "fitted", "psmi", rows=copied, truth="truth", **FAST)
    layers = found.frames["layers"]
    assert layers["n"].unique().to_list() == [110]
    assert layers["n_groups"].unique().to_list() == [60]
    assert "fresh weights" in found.further[-1]
    assert "second MODEL" in found.further[-1]


def test_the_verb_prints_the_same_and_writes_every_row(fitted, found, tmp_path, succeed, refused):
    folder, _ = fitted
    verb = ("analyze", "psmi", folder / "fitted", "--rows", folder / "rows.parquet", "-q")
    asked = [f"--set={name}={value}" for name, value in (FAST | {"truth": "mislabelled"}).items()]
    others = ("--second", folder / "start", "--checkpoint", folder / "start")
    said = succeed(*verb, *asked, *others, "-o", tmp_path / "out.parquet")
    lines = [f"psmi: {found.sentence}", *(f"  {one}" for one in found.further)]
    assert said.out.splitlines() == [*lines, f"  Wrote {tmp_path / 'out.parquet'}."]
    assert pl.read_parquet(tmp_path / "out.parquet").equals(found.frames["rows"])
    assert "Name them: --rows" in refused(*verb[:3], "-o", "x.parquet")
    assert "are of a study" in refused(*verb, "--redo")


def test_shadows_say_what_is_memorized(fitted):
    folder, rows = fitted
    training = {"shadows": 4, "epochs": 4, "learning_rate": 5e-3, "batch": 32, "share": 0.25}
    found = ms.analyze(
        folder / "fitted", "psmi", rows=rows[:60], second=str(folder / "start"), **training, **FAST
    )
    table = found.frames["rows"]
    gain = table["margin_in"] - table["margin_out"]
    assert gain.median() > 0.5  # what was read is held more firmly
    assert table["is_memorized"].sum() == pytest.approx(0.25 * table.height, abs=1)
    assert gain.filter(table["is_memorized"]).min() >= gain.filter(~table["is_memorized"]).max()
    assert "over 4 shadows of half of the rows each" in found.further[-1]


def test_classifiers_are_ordered_without_a_label_and_labels_only_judge(fitted):
    """Figures of SciPy and scikit-learn on states that transformers gives."""
    folder, rows = fitted
    others = [str(make_network(folder / f"fresh-{one}", "llama", one)) for one in (1, 2, 3)]
    asked = {"checkpoints": others, "second": str(folder / "start"), "n_neurons": 12}
    found = ms.analyze(folder / "fitted", "neurons", rows=rows, **asked)
    models = [*rows_of(found.frames["models"])]
    names = [str(folder / "fitted"), *others, str(folder / "start")]
    for name, row in zip(names, models, strict=True):
        lm = load_classifier(name)
        encoded = encode(lm, rows["text"].to_list())
        with torch.inference_mode():  # all texts have one length
            out = lm.model(torch.from_numpy(encoded.tokens), output_hidden_states=True)
        each = []
        for states in out.hidden_states[1:]:
            values = states[:, -1].double().numpy()
            codes = [np.digitize(one, np.histogram_bin_edges(one, 8)[1:-1]) for one in values.T]
            each.append(np.mean([entropy(np.bincount(one)) for one in codes]))
        assert row["entropy"].value == pytest.approx(np.mean(each), abs=1e-3)
        chance = out.logits.double().softmax(-1).max(-1).values
        assert row["confidence"].value == pytest.approx(float(chance.mean()), abs=1e-5)
        right = (out.logits.argmax(-1).numpy() == rows["label"].to_numpy()).mean()
        assert row["right"].value == pytest.approx(right)
    charts = [*_row_figures(found.frames["models"])]
    assert len(charts) == len(found.figures) == 4
    for chart, what in zip(charts, (*_ORDERS, "right"), strict=True):
        classifiers, before = chart.series
        ordered = sorted(models[:4], key=lambda row: row["right"].value)
        for series, some in ((classifiers, ordered), (before, models[4:])):
            ends = zip(series.y, series.low, series.high, strict=True)
            assert [*ends] == [tuple(row[what]) for row in some]
            assert series.name.endswith(f" (n {rows.height})")
        shown = [row["model"].rpartition("/")[2] for row in (*ordered, models[4])]
        assert (before.x, [*chart.x_names]) == ((4.0,), shown)
    order = {one["measure"]: one["kendall"].value for one in rows_of(found.frames["ranking"])}
    for what, tau in order.items():
        values, shares = ([row[one].value for row in models[:4]] for one in (what, "right"))
        assert tau == pytest.approx(kendalltau(values, shares).statistic)
    blind = ms.analyze(folder / "fitted", "neurons", rows=rows.select("text"), **asked)
    assert "ranking" not in blind.frames
    assert len(blind.figures) == 3
    assert "4 classifiers (without labels)" in blind.sentence
    same = [*rows_of(blind.frames["models"])]
    assert [one["entropy"] for one in same] == [one["entropy"] for one in models]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"truth": None}, "Name the column that says it"),
        ({"truth": "wrong"}, "'wrong' \\(truth\\): not there.*mislabelled"),
        ({"shadows": 2}, "Give one of them"),
        ({"rows": lambda: make_rows(20, 0).filter("mislabelled")}, "the same in all 6 rows"),
        ({"truth": "text"}, "where true or false is needed"),
        ({"rows": lambda: pl.DataFrame({"text": ["w1"], "kind": [0]})}, "column label=COLUMN"),
        (
            {"rows": lambda: pl.DataFrame({"text": ["w1"], "label": ["?"]})},
            "label '\\?' is none of",
        ),
        ({"corpus": "texts"}, "corpus is of a study"),
        ({"n_sequence": 30}, "n_sequences"),
    ],
)
def test_what_cannot_be_asked_is_refused(fitted, changes, said):
    folder, rows = fitted
    made = {name: one() if callable(one) else one for name, one in changes.items()}
    asked = {"rows": rows, "truth": "mislabelled"} | made
    with pytest.raises(ms.UserError, match=said):
        ms.analyze(folder / "fitted", "psmi", **asked)


def test_other_models_and_other_analyses_are_refused(fitted, tmp_path):
    folder, rows = fitted
    asked = partial(ms.analyze, rows=rows, truth="mislabelled")
    with pytest.raises(ms.UserError, match=r"score\.weight first"):
        asked(save_model(tmp_path / "causal"), "psmi")
    with pytest.raises(ms.UserError, match="uses a different tokenizer"):
        asked(folder / "fitted", "psmi", second=str(save_model(tmp_path / "base")))
    said = "asked by psmi, distilled, neurons, dynamics and copying alone"
    with pytest.raises(ms.UserError, match=said):
        ms.analyze(folder / "fitted", "length", rows=rows)
    number = AutoConfig.for_model("llama", **SMALL | {"num_labels": 1})
    model = AutoModelForSequenceClassification.from_config(number)
    with pytest.raises(ms.UserError, match="gives a number"):
        asked(model, "psmi", tokenizer=folder / "start")
    network = AutoConfig.for_model("bart", d_model=16, encoder_layers=1, decoder_layers=1)
    network.encoder_ffn_dim = network.decoder_ffn_dim = network.vocab_size = 16
    network.encoder_attention_heads = network.decoder_attention_heads = 2
    model = AutoModelForSequenceClassification.from_config(network)
    with pytest.raises(ms.UserError, match="no encoder or decoder with a head"):
        asked(model, "psmi", tokenizer=folder / "start")
