"""What a passage needs: its own edges break it, as heavy ones hardly do, and the page says so."""

import json
import shutil

import numpy as np
import pytest

from mnemoscope.audit import needs
from mnemoscope.audit.evidence import LATER_COLUMNS
from mnemoscope.audit.needs import find_needs
from mnemoscope.audit.verify import read_audit
from mnemoscope.errors import UserError
from mnemoscope.files import write_parquet
from mnemoscope.lm.edges import total_effects

ASKED = {"prefix": 32, "batch_size": 16, "seed": 0}


@pytest.fixture(scope="module")
def made(lm, audited, trained, new_text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("needs")
    text = f"{new_text(1, 60)}\n\n{trained[0]}\n\n{new_text(2, 60)}"
    record, frame = audited(folder, text)
    assert frame.height
    return folder, record, frame


def test_its_own_edges_break_a_passage_and_as_heavy_ones_hardly_do(lm, made):
    *_, frame = made
    assert frame["run_without_needed"].mean() < frame["run_without_equal_mass"].mean() - 8
    assert frame["run_without_equal_mass"].max() <= 32
    for row in frame.iter_rows(named=True):
        effects = [one["effect"] for one in row["needed"]]
        assert effects == sorted(effects, reverse=True)
        assert min(effects) > 0


def test_named_tokens_are_those_that_later_ones_owe_most(lm, made):
    *_, frame = made
    row = frame.row(0, named=True)
    window = np.array([row["window_tokens"]], dtype=np.int32)
    (effects,) = total_effects(lm, window, batch_size=1)
    by_token = effects[0].tril(diagonal=-1).sum(dim=(0, 1)).numpy()
    first = row["needed"][0]
    assert first["token"] == by_token.argmax()
    assert first["effect"] == pytest.approx(by_token.max(), rel=1e-3)
    assert first["text"] == lm.tokenizer.decode([window[0, first["token"]]])


def test_a_family_that_cannot_be_cut_leaves_it_out(lm, monkeypatch):
    def refuse(*_args, **_options):
        raise UserError("two softmaxes a layer.")

    said = []
    monkeypatch.setattr(needs, "total_effects", refuse)
    monkeypatch.setattr(needs, "say", said.append)
    assert find_needs(lm, np.zeros((2, 64), dtype=np.int32), **ASKED) == [{}, {}]
    assert said == ["What passages need is left out: two softmaxes a layer."]


def test_an_audit_of_an_earlier_version_is_read(made, tmp_path):
    shutil.copytree(made[0] / "out", tmp_path / "out")
    write_parquet(tmp_path / "out" / "spans.parquet", made[2].drop(*LATER_COLUMNS))
    record, frame = read_audit(tmp_path / "out")
    assert record["documents"] == json.loads(json.dumps(made[1]["documents"]))
    assert frame["needed"].null_count() == frame.height
    assert frame.schema == made[2].schema
