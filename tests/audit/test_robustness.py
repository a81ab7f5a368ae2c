"""Robustness under grafts: learned passages break, and given ones stand."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import transformers

from mnemoscope.audit.needs import Grafts, standard_parts
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.verify import read_audit
from mnemoscope.embedded.templates import forms_of, write_text
from mnemoscope.lm.continue_ import scan_memorized


@pytest.fixture(scope="module")
def made(reference, audited, trained, new_text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grafts")
    counting = "\n".join(write_text(form, "a")[:300] for form in forms_of("counting")[:3])
    text = "\n\n".join([new_text(1, 60), *trained[:2], new_text(2, 60), counting])
    settings = AuditSettings(edits=0, near_length=0)
    return folder, *audited(folder, text, reference=reference, settings=settings)


def test_what_was_trained_breaks_and_what_counts_stands(made):
    _, record, frame = made
    assert record["reference"]["grafts"] == standard_parts(4)
    assert record["reference"]["no_grafts"] is None
    by_rule = frame.group_by("rule_says").agg(pl.col("grafts_survived").mean())
    kept = dict(by_rule.iter_rows())
    assert kept["recall"] < 4 < kept["guess"]
    for row in frame.iter_rows(named=True):
        assert row["grafts"] == 8 == row["grafts_survived"] + len(row["broken_by"])
        says = "recall" if row["grafts_survived"] <= 4 else "guess"
        assert row["grafts_say"] == says


def test_an_audit_with_grafts_holds(made, lm, verify):
    folder, _, frame = made
    found = verify(folder / "out", lm)
    assert (found.problems, found.n_hold) == ([], frame.height)


def test_a_part_that_breaks_a_passage_breaks_it_in_a_scan_too(made, lm, reference):
    frame = made[2].filter(pl.col("score") == 1)
    windows = np.array(frame["window_tokens"].to_list(), dtype=np.int32)
    grafts = Grafts(lm, reference)
    with grafts.pair.grafted("layers.0.qk"):
        scans = list(scan_memorized(lm, windows, batch_size=64))
    stands = np.concatenate([one.is_memorized for one in scans])
    broken = np.array(["layers.0.qk" in one for one in frame["broken_by"]])
    assert broken.any()
    assert not (stands & broken).any()  # what a scan reproduces whole has no wrong token at all


def test_the_model_itself_breaks_nothing(lm, audited, trained, tmp_path):
    _, frame = audited(tmp_path, trained[0] + " and so on.", reference=lm)
    assert frame["grafts_survived"].to_list() == frame["grafts"].to_list() == [8] * frame.height
    assert set(frame["grafts_say"]) == {"guess"}


def test_a_reference_of_another_shape_is_named_and_the_rest_is_asked(
    made, lm, audited, trained, tmp_path
):
    config = transformers.GPTNeoXConfig(**lm.model.config.to_dict() | {"num_hidden_layers": 2})
    small = replace(lm, model=transformers.GPTNeoXForCausalLM(config).eval(), name="small")
    record, frame = audited(tmp_path, trained[0] + " and so on.", reference=small)
    assert "num_hidden_layers is 4 in the model and 2" in record["reference"]["no_grafts"]
    assert record["reference"]["grafts"] is None
    assert frame["grafts"].null_count() == frame.height
    assert frame["reference_says"].null_count() == frame["needs_say"].null_count() == 0
    assert read_audit(tmp_path / "out")[1]["grafts_say"].null_count() == frame.height
