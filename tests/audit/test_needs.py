"""What a passage needs: its own edges break it, as heavy ones hardly do, and the page says so."""

import json
import shutil

import numpy as np
import pytest
import torch

from mnemoscope.audit import needs
from mnemoscope.audit.evidence import LATER_COLUMNS
from mnemoscope.audit.needs import copied_shares, find_needs
from mnemoscope.audit.settings import MOST_COPIED
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


def test_what_is_read_off_the_text_counted_by_hand():
    windows = np.array([[5, 6, 7, 5, 6, 7], [1, 2, 3, 4, 5, 6]], dtype=np.int32)
    effects = torch.ones(2, 1, 6, 6)
    # Tokens 2, 3 and 4 write the last three and look at 2, 3 and 4 earlier ones. Of these 3 finds
    # its next token 6 after the 5 of before, and 4 its next token 7 after the 6.
    assert copied_shares(windows, effects, prefix=3).tolist() == [2 / 9, 0]
    assert copied_shares(windows, -effects, prefix=3).tolist() == [0, 0]
    effects[0, 0, 3, 1], effects[0, 0, 4, 4] = 10, 100  # no token looks back at itself
    assert copied_shares(windows, effects, prefix=3)[0] == 11 / 18


def test_a_guess_reads_off_the_text_and_a_memory_does_not(lm, trained):
    counting = " ".join(f"item {n}: {n}," for n in range(40))
    ids = [lm.tokenizer(one)["input_ids"][:64] for one in (trained[0], trained[1], counting)]
    found = find_needs(lm, np.array(ids, dtype=np.int32), **ASKED)
    assert max(one["needed_copied"] for one in found[:2]) < MOST_COPIED
    assert found[2]["needed_copied"] > 2 * MOST_COPIED


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
