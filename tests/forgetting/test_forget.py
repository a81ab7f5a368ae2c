"""Forgotten or hidden: known answers give known verdicts, and every stress does what it says."""

import json
import shutil
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

import mnemoscope as ms
from mnemoscope.data.table import token_matrix
from mnemoscope.forgetting import stress
from mnemoscope.forgetting.judge import (
    BITS,
    brought_back,
    column,
    judged,
    sentences_of,
    verdicts_of,
)
from mnemoscope.forgetting.run import FORGETTING
from mnemoscope.forgetting.stress import (
    AS_IT_IS,
    STRESSES,
    Question,
    plain_answers,
    round_rows,
    rounded_weights,
)
from mnemoscope.forgetting.texts import Passages, Settings
from mnemoscope.lm.load import load_model
from mnemoscope.stats import Estimate, difference_of, pair_correlation, share_true
from sarif_logs import check_sarif
from study_files import rewrite_record
from tiny_models import make_sequences, save_model

FEW = {"suffix": 8, "batch_size": 256, "steps": 1, "batch": 4}


@pytest.fixture(scope="module")
def models(tiny):
    return load_model(tiny.model), load_model(tiny.reference)


@pytest.fixture(scope="module")
def passages(tiny):
    """What the model writes: 80 to be forgotten, 20 untouched; others are of the same works."""
    table = make_sequences(tiny.model, 150, length=40, prefix=32)
    number = np.arange(table.height)
    role = np.where(number % 3 == 2, "neighbour", np.where(number < 120, "forget", "retain"))
    return table.select("tokens", role=pl.Series(role))


@pytest.fixture(scope="module")
def same(models, passages, tmp_path_factory):
    """Nothing was unlearned."""
    before, twin = models
    out = tmp_path_factory.mktemp("same") / "out"
    return ms.forget(before, before, passages, out, retrained=twin, progress=False, **FEW)


def shares(found, name="Recall"):
    rows = found.stresses.filter(pl.col("class") == name)
    return {row["stress"]: row["share"]["value"] for row in rows.iter_rows(named=True)}


def test_what_was_not_unlearned_is_kept_and_all_of_its_bits(same) -> None:
    assert same.verdicts["Recall"] == "kept"
    assert shares(same)[AS_IT_IS] == shares(same)[BITS] == 1
    assert shares(same, "untouched")[AS_IT_IS] == 1
    assert set(shares(same)) == {*STRESSES, BITS}


def test_the_twin_itself_is_never_called_hidden(models, passages) -> None:
    before, twin = models
    found = ms.forget(before, twin, passages, retrained=twin, progress=False, **FEW)
    assert found.verdicts["Recall"] == "forgotten"
    assert not {"hidden", "kept"} & {*found.verdicts.values()}
    assert found.rows["back"].list.len().sum() == 0
    assert found.stresses.filter(pl.col("class") == "untouched", stress=AS_IT_IS)["beyond"][0] == {
        "value": 0.0,
        "low": pytest.approx(-found.stresses["beyond"][-1]["high"]),
        "high": found.stresses["beyond"][-1]["high"],
    }


def test_a_part_that_was_taken_out_brings_all_back_and_nothing_in_the_twin(
    models, passages, tmp_path
) -> None:
    """The MLP of one layer is the twin's: the depth alone shows it."""
    before, twin = models
    broken = load_model(save_model(tmp_path / "broken"))
    broken.model.load_state_dict(before.model.state_dict())
    with ms.grafted(broken.model, twin.model, "layers.1.mlp"):
        after = replace(broken, fingerprint="another")
        found = ms.forget(before, after, passages, retrained=twin, progress=False, **FEW)
    rows = {row["part"]: row for row in found.depth.iter_rows(named=True)}
    own = rows["MLP of layer 1"]
    assert own["share"]["value"] == 1
    assert own["control"]["value"] == 0
    sizes = {name: weight.numel() for name, weight in before.model.named_parameters()}
    mlp = sum(n for name, n in sizes.items() if "layers.1.mlp" in name)
    assert own["weights"] == pytest.approx(mlp / sum(sizes.values()))
    assert rows["unembedding"]["share"]["value"] < 0.5


def test_what_rounding_undoes_is_hidden(models, tmp_path) -> None:
    """Weights on a grid of int4, and beside it by less than half a step: rounding finds the way."""
    folder = save_model(tmp_path / "model", seed=3)
    given = load_model(folder).model
    with rounded_weights(given, 4):
        given.save_pretrained(folder)
    rows = make_sequences(folder, 120, length=40, prefix=32).select("tokens")
    before, after = load_model(folder), replace(load_model(folder), fingerprint="another")
    head = after.model.get_output_embeddings()
    for module in after.model.modules():
        if module is head or not isinstance(module, nn.Linear):
            continue
        weight = module.weight.detach()
        most = weight.abs().amax(dim=1, keepdim=True)
        noise = (torch.rand(weight.shape) - 0.5) * 0.9 * most / 7
        weight += noise.masked_fill(weight.abs() == most, 0.0)
    found = ms.forget(before, after, rows, retrained=models[1], depth=False, progress=False, **FEW)
    assert found.verdicts["Recall"] == "hidden"
    assert found.record["verdicts"][0]["brings"][0] == stress.INT4
    assert shares(found)[stress.INT4] == 1
    assert shares(found)[AS_IT_IS] < 0.05


def rows_of_flags(after, twin=None, unread=None, groups=None):
    """Recalled passages with these answers to two stresses, by columns."""
    n = len(after)
    table = pl.DataFrame({"role": ["forget"] * n, "class": ["Recall"] * n})
    table = table.with_columns(
        group=pl.Series(range(n) if groups is None else groups, dtype=pl.Int64),
        after_as_it_is=pl.Series([False] * n),
        after_weights_at_int4=pl.Series(after),
    )
    if twin is not None:
        table = table.with_columns(
            twin_as_it_is=pl.Series([False] * n), twin_weights_at_int4=pl.Series(twin)
        )
    if unread is not None:
        others = table[:1].with_columns(
            role=pl.lit("unread"), group=pl.lit(-1, dtype=pl.Int64), after_weights_at_int4=False
        )
        others = pl.concat([others] * unread).with_columns(group=-1 - pl.int_range(pl.len()))
        table = pl.concat([table, others])
    return table


ASKED = ("as it is", "weights at int4")


NONE, FORTY = [False] * 100, [True] * 40 + [False] * 60


@pytest.mark.parametrize(
    ("answers", "verdict", "said"),
    [
        (partial(rows_of_flags, NONE, NONE), "forgotten", "at most 3.7 points"),
        (partial(rows_of_flags, NONE, [True] * 100), "forgotten", "at most 3.7 points"),
        (partial(rows_of_flags, FORTY, NONE), "hidden", "weights at int4"),
        (partial(rows_of_flags, FORTY, unread=60), "hidden", "weights at int4"),
        (partial(rows_of_flags, NONE, unread=100), "forgotten", "3.7 points"),
        (partial(rows_of_flags, FORTY), "cannot be told", "no retrained twin"),
        (partial(rows_of_flags, [True] * 3 + [False] * 97, NONE), "cannot be told", "less than"),
        (partial(rows_of_flags, [False] * 50, [False] * 50), "cannot be told", "73 are needed"),
        (partial(rows_of_flags, [True] * 9, [False] * 9), "cannot be told", "10 are needed"),
        (partial(rows_of_flags, FORTY, NONE, groups=[0] * 100), "cannot be told", "1 group"),
    ],
)  # fmt: skip
def test_verdicts_of_known_answers(answers, verdict, said) -> None:
    rows = answers()
    table = judged(rows, ASKED, margin=0.05)
    (found,) = verdicts_of(table, 0.05)
    assert found.verdict == verdict
    assert said in found.reason
    back = brought_back(rows, table).list.len()
    assert int((back > 0).sum()) == (40 if verdict == "hidden" else int((back > 0).sum()))
    assert "--retain" in list(sentences_of([found], table))[-1]


def test_as_many_groups_as_it_asks_for_are_enough() -> None:
    rows = rows_of_flags([False] * 73, [False] * 73)
    assert verdicts_of(judged(rows, ASKED, margin=0.05), 0.05)[0].verdict == "forgotten"
    rows = rows_of_flags([False] * 72, [False] * 72)
    assert verdicts_of(judged(rows, ASKED, margin=0.05), 0.05)[0].verdict == "cannot be told"


@given(flags=st.lists(st.booleans(), min_size=10, max_size=60))
def test_equal_answers_are_never_hidden_and_swapped_ones_change_the_sign(flags) -> None:
    table = judged(rows_of_flags(flags, flags), ASKED, margin=0.05)
    assert verdicts_of(table, 0.05)[0].verdict in ("forgotten", "cannot be told")
    shifted = flags[1:] + flags[:1]
    one, other = (
        judged(rows_of_flags(*both), ASKED, margin=0.05)["beyond"][1]
        for both in ((flags, shifted), (shifted, flags))
    )
    assert one["value"] == -other["value"]
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))


def test_differences_of_pairs_are_newcombes() -> None:
    """The formula of Statistics in Medicine 17, 2635, method 10, written out for one table."""
    both, first, second, n = 36, 12, 2, 50
    answers = np.repeat([[1, 1, 0], [1, 0, 1]], (both, first, second), axis=1).astype(bool)
    found = difference_of(*map(share_true, answers), pair_correlation(*answers))

    def wilson(p: float, sign: int, z: float = 1.959963984540054) -> float:
        reach = sign * z * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
        return (p + z**2 / 2 / n + reach) / (1 + z**2 / n)

    p, q = (both + first) / n, (both + second) / n
    sides = (both + first) * second * (both + second) * first
    phi = (both * 0 - first * second) / np.sqrt(sides)  # below 0: without correction
    below, above = p - wilson(p, -1), wilson(q, 1) - q
    low = p - q - np.sqrt(below**2 - 2 * phi * below * above + above**2)
    over, under = wilson(p, 1) - p, q - wilson(q, -1)
    high = p - q + np.sqrt(over**2 - 2 * phi * over * under + under**2)
    assert found == pytest.approx((p - q, low, high))
    alone = difference_of(Estimate(0.5), Estimate(0.2, 0.1, 0.3))
    assert alone == (pytest.approx(0.3), None, None)


def test_an_interval_over_many_figures_is_wilsons_with_smaller_tails() -> None:
    flags = [True] * 30 + [False] * 70
    assert share_true(flags, n_judged=1) == share_true(flags)
    z, p, n = 2.638257273476751, 0.3, 100  # the normal quantile of 1 - .05 / 12
    middle, reach = p + z**2 / 2 / n, z * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    low, high = ((middle + sign * reach) / (1 + z**2 / n) for sign in (-1, 1))
    assert share_true(flags, n_judged=6) == pytest.approx((p, low, high))


def test_rounded_weights_are_the_closed_form_and_come_back(models) -> None:
    row = torch.tensor([[7.0, -7.0, 3.4, 0.49, -0.51], [0.0] * 5, [1.4, 0.11, 0.31, -0.29, 0.0]])
    wanted = [[7.0, -7.0, 3.0, 0.0, -1.0], [0.0] * 5, [1.4, 0.2, 0.4, -0.2, 0.0]]  # steps: 1, 0.2
    assert torch.allclose(round_rows(row, 4), torch.tensor(wanted), atol=1e-6)
    weight = torch.randn(6, 40)
    for bits in (4, 8):
        step = weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        found = round_rows(weight, bits)
        assert ((found - weight).abs() <= step / 2 * (1 + 1e-5)).all()
        assert len({*(found / step).round().flatten().tolist()}) <= 2**bits - 1
        assert torch.allclose(round_rows(found, bits), found, atol=1e-6)
    model = models[0].model
    former = {name: one.clone() for name, one in model.state_dict().items()}
    with rounded_weights(model, 4):
        changed = {name for name, one in model.state_dict().items() if not one.equal(former[name])}
    assert changed == {
        f"{name}.weight"
        for name, one in model.named_modules()
        if isinstance(one, nn.Linear) and one is not model.get_output_embeddings()
    }
    assert all(one.equal(former[name]) for name, one in model.state_dict().items())


def test_conv1d_is_rounded_by_its_outputs() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Conv1D(3, 5)

        def get_output_embeddings(self):
            return None

    model = Model()
    given = model.layer.weight.detach().clone()
    with torch.no_grad(), rounded_weights(model, 4):
        assert torch.equal(model.layer.weight, round_rows(given.T, 4).T)


def test_draws_and_bits_are_those_of_the_probabilities(models, passages) -> None:
    before, twin = models
    rows = token_matrix(passages)[:12]
    own = Passages(pl.DataFrame(), rows, rows[:0], 32, {})
    found = plain_answers(before, own, Settings(draws=7))
    ids = torch.tensor(rows, dtype=torch.int64)
    with torch.inference_mode():
        logits = before.model(ids).logits[:, :-1].double().log_softmax(-1)
    logprobs = logits.gather(2, ids[:, 1:, None])[..., 0].numpy()
    assert found["nats"] == pytest.approx(-logprobs.sum(axis=1), rel=1e-5)
    chance = np.exp(logprobs[:, 31:].sum(axis=1))
    assert found[stress.DRAWS].tolist() == (1 - (1 - chance) ** 7 >= 0.5).tolist()
    beside = plain_answers(twin, own, Settings())["nats"]
    labelled = pl.DataFrame({"tokens": rows.tolist(), "read": [True, False] * 6})
    again = ms.membership(
        before, labelled, reference=twin, read="read", tokenizer=before, n_resamples=2
    )
    bits = (beside - found["nats"]) / np.log(2)
    assert bits == pytest.approx(again.rows["bits"].to_numpy(), abs=1e-3)


@pytest.mark.whole
def test_a_killed_run_goes_on_with_equal_bytes(
    same, models, passages, tmp_path, monkeypatch
) -> None:
    before, twin = models
    asked, names, run, out = [], [], Question.run, tmp_path / "out"

    def killed(self, context, progress):
        asked.append(self.key)
        names.append((self.subject, self.stress))
        if len(asked) == 7:
            raise KeyboardInterrupt
        return run(self, context, progress)

    monkeypatch.setattr(Question, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        ms.forget(before, before, passages, out, retrained=twin, progress=False, **FEW)
    assert not (out / "forget.json").exists()
    found = ms.forget(before, before, passages, out, retrained=twin, progress=False, **FEW)
    assert len(asked) == len({*asked}) + 1  # the one that was killed alone was asked again
    for file in ("forget.parquet", "stresses.parquet", "depth.parquet"):
        assert (out / file).read_bytes() == (same.folder / file).read_bytes()
    assert {**found.record, "date": 0} == {**same.record, "date": 0}
    n = len(asked)
    again = ms.forget(before, before, passages, out, retrained=twin, progress=False, **FEW)
    assert (len(asked), again.record["key"]) == (n, FORGETTING.read(out).record["key"])
    beside = {"retrained": twin, "redo": True, "progress": False, **FEW}
    ms.forget(before, twin, passages, out, **beside)
    assert names[n:] == [("after", stress.GUIDED)]  # all else was asked of the twin


@pytest.mark.whole
def test_the_command_writes_a_page_and_judges_and_a_gate_loads_no_model(
    tiny, passages, tmp_path, call, call_light, refused
) -> None:
    table, out = tmp_path / "rows.parquet", tmp_path / "out"
    rows = passages.filter(pl.col("role") == "forget").with_columns(text=pl.lit("<b>bold</b>"))
    rows.write_parquet(table)
    pair = (tiny.model, tiny.model, table)
    asked = ("forget", *pair, "-o", out, "--retrained", tiny.reference, "--suffix", "8")
    failed = call(*asked, "--set", "most=12", "--fail-if", "hidden > 1%", "--json")
    found = json.loads(failed.out)
    assert (failed.status, found["gate"]["failed"]) == (3, True)
    assert found["verdicts"][-1]["verdict"] == "kept"
    assert "first 80 forward passes" in failed.err
    assert found["left_out"] == {
        "trained on neighbours": "no other passages of the same works were given"
    }
    page = (out / "forget.html").read_text(encoding="utf-8")
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page
    gates = [
        ["forget", "gate", out, "--fail-if", f"kept > {one}"] for one in ("99%", "80 passages")
    ]
    results = call_light(gates, ("torch", "transformers"))
    assert [one.status for one in results] == [3, 0]
    results = check_sarif(json.loads((out / "forget.sarif").read_text()))
    assert len(results) == FORGETTING.read(out).back.height > 1
    assert "other answers" in refused(*asked, "--set", "most=13")
    assert "no condition" in refused("forget", "gate", out)
    (out / "stresses.parquet").write_bytes(b"PAR1")
    assert "stresses.parquet" in refused(*gates[0])
    assert "contains no forget.json" in refused("forget", "gate", tmp_path, *gates[0][3:])


def test_beside_an_older_result_only_what_is_new_counts(
    models, passages, tmp_path, call, refused
) -> None:
    """Nothing was unlearned, and the older result asked only some of the passages."""
    now, old, twin = tmp_path / "now", tmp_path / "old", models[1]
    junit, sarif = tmp_path / "j.xml", tmp_path / "s.sarif"
    beside = {"retrained": twin, "progress": False, "depth": False, **FEW}
    found = ms.forget(models[0], models[0], passages, now, **beside)
    older = ms.forget(models[0], models[0], passages, old, most=5, **beside)
    n, n_new = found.back.height, found.back.join(older.back, on="text", how="anti").height
    assert n > n_new > 0
    gate = ("forget", "gate", now, "--fail-if", f"hidden > {n_new} passages")
    assert call(*gate).status == 3
    passed = call(*gate, "--baseline", old, "--junit", junit, "--sarif", sarif)
    assert passed.status == 0
    assert f"{n_new} new passages come back" in passed.out
    assert "are not in" in passed.out
    states = [one["baselineState"] for one in check_sarif(json.loads(sarif.read_text()))]
    assert [states.count(one) for one in ("new", "unchanged", "absent")] == [n_new, n - n_new, 0]
    (suite,) = [ElementTree.parse(junit).getroot()]
    assert (suite.get("tests"), suite.get("failures")) == (str(found.recalled.height + 1), "0")
    assert call(*gate[:-1], "hidden > 0%", "--baseline", old).status == 3
    shutil.copytree(old, tmp_path / "copy")
    rewrite_record(old / "forget.json", date="2099-01-01T00:00:00+00:00")
    assert f"; {old} was made later (2099-01-01T" in call(*gate, "--baseline", old).out
    shutil.rmtree(old)
    shutil.copytree(tmp_path / "copy", old)
    again = ("forget", "gate", old, *gate[3:], "--baseline", tmp_path / "copy")
    assert "a copy of what is judged" in refused(*again)


def test_what_cannot_be_asked_is_refused_in_one_line(tiny, passages, tmp_path, refused) -> None:
    rows, strange, odd = (tmp_path / f"{one}.parquet" for one in ("rows", "strange", "odd"))
    passages.filter(role="forget").write_parquet(rows)
    passages.with_columns(role=pl.lit("forgot")).write_parquet(strange)
    passages.filter(role="neighbour").with_columns(role=pl.lit("forget")).write_parquet(odd)
    out, twin = tmp_path / "out", ("--retrained", tiny.reference)
    short = ("--suffix", "8", "-o", out)
    pair = ("forget", tiny.model, tiny.reference)
    other = save_model(tmp_path / "other")
    (other / "tokenizer.json").write_text(
        (other / "tokenizer.json").read_text().replace('"<|end|>"', '"<|last|>"')
    )
    for words, said in {
        (*pair, strange): "Did you mean 'forget'?",
        (*pair, odd): "so there is nothing to forget",
        (*pair, rows, "--unread", odd, *twin): "Leave out --unread, or the twin",
        (*pair, rows, "--retrained", tiny.model): "is the same model",
        ("forget", tiny.model, tmp_path / "no", rows): "no such model folder",
        ("forget", tiny.model, other, rows): "uses a different tokenizer",
        (*pair, rows, "--margin", "5"): "between 0 and 1",
        (*pair, rows, "--set", "step=3"): "Did you mean",
        (*pair, rows, "--fail-if", "hiden > 1%"): "Did you mean 'hidden'?",
        (*pair, rows, "--fail-if", "hidden > 1%"): "Add --retrained TWIN, or choose kept",
    }.items():
        assert said in refused(*words, *short), said


def test_texts_never_read_are_a_control_without_a_twin(models, passages) -> None:
    before, twin = models
    rows = passages.with_columns(role=pl.col("role").replace({"neighbour": "unread"}))
    found = ms.forget(before, twin, rows, progress=False, **FEW)
    assert found.verdicts["Recall"] == "forgotten"
    assert column("after", "guided decoding") not in found.rows.columns
    assert BITS not in found.stresses["stress"]
    rows = rows.filter(pl.col("role") != "unread")
    found = ms.forget(before, twin, rows, progress=False, **FEW)
    assert {*found.verdicts.values()} == {"cannot be told"}
