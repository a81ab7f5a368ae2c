"""Verdicts: asked by scan and by decoding, handed by a capture to `continue`, on record."""

import functools
import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from transformers import AutoModelForCausalLM, GPTNeoXModel

from mnemoscope.cluster.units import UnitStore
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.flow.run import run
from mnemoscope.library import sequences
from mnemoscope.library.sequences import scan as ask
from mnemoscope.lm.load import load_model
from mnemoscope.pipeline.continue_ import draw_rows
from mnemoscope.pipeline.questions import disagreements
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import parse_settings
from study_files import ending

SCAN = ("--set", "continue.scan=true", "--set", "continue.part_rows=32")
HALVED = (16, 4)


@pytest.fixture
def captured(tiny, call, tmp_path):
    """`captured("name", *flags)`: a study of ids and tokens, captured before it has labels."""
    frame = pl.read_parquet(tiny.table).select("sequence_id", "tokens").head(48)
    frame.write_parquet(tmp_path / "tokens.parquet")
    model = ("--model", tiny.model, "--batch-size", 16, "--set", "capture.shard_rows=16")

    def captured(name, *flags):
        folder, table = tmp_path / name, tmp_path / "tokens.parquet"
        done = call("capture", "--sequences", table, "-o", folder, *model, *flags)
        assert done.status == 0, done.err
        return folder, done

    return captured


def maps_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "maps" / "model").iterdir()}


def no_scan(*_arguments, **_settings):
    raise AssertionError("this forward was to be saved")


def batch_sizes(folder, stage):
    counts = Study(folder).manifest(stage)["counts"]
    return counts["batch_size"], counts.get("batch_size_halved_to")


def test_continue_takes_the_verdicts_of_the_capture_over(captured, call, monkeypatch):
    plain, done = captured("plain")
    assert not (plain / "units" / "continue").exists()
    assert "Verdicts" not in done.err
    both, done = captured("both", *SCAN)
    maps = maps_of(plain)
    assert maps_of(both) == maps  # to the byte
    assert "Verdicts of 48 sequences found in the same forward" in done.err
    assert call("continue", plain, *SCAN).status == 0
    monkeypatch.setattr(sequences, "scan_memorized", no_scan)
    found = call("continue", both)
    assert found.status == 0, found.err
    columns = ["sequence_id", "is_memorized", "memorization_score", "continuation"]
    ours, scanned = Study(both).sequences, Study(plain).sequences
    assert_frame_equal(ours.select(columns), scanned.select(columns))
    assert ours["is_memorized"].sum() == 32
    # Logits up to about 20 in float32, by another attention code.
    np.testing.assert_allclose(ours["smallest_gap"], scanned["smallest_gap"], atol=1e-4)
    checked = Study(both).manifest("continue")["counts"]["scan_check"]
    assert checked == {"checked": 48, "disagree": 0}
    assert not (both / "units" / "continue").exists()
    assert maps_of(both) == maps_of(plain) == maps  # and they are still there


def test_a_torn_file_of_a_captures_verdicts_is_left_to_the_scan(captured, monkeypatch, call):
    whole, _ = captured("whole", *SCAN)
    assert call("continue", whole).status == 0
    write, noted = UnitStore.write, []

    def tear(store, file, data):
        if file.startswith("noted") and file.endswith(".parquet"):
            noted.append(store.folder / file)
            data = data[:100] if len(noted) == 1 else data
        write(store, file, data)

    monkeypatch.setattr(UnitStore, "write", tear)
    torn, done = captured("torn", *SCAN)
    assert f"{noted[0].with_suffix('')}: damaged" in done.err
    assert "Verdicts of 16 sequences found in the same forward" in done.err
    assert call("continue", torn).status == 0
    columns = ["sequence_id", "is_memorized"]
    found, wanted = (Study(one).sequences.select(columns) for one in (torn, whole))
    assert_frame_equal(found, wanted)


def test_a_halved_batch_is_on_record_also_of_a_killed_run(captured, call, tmp_path):
    """No more than six rows fit; the run after a kill has memory enough."""
    forward = GPTNeoXModel.forward

    @functools.wraps(forward)
    def small(self, *arguments, **named):
        ids = named.get("input_ids", arguments[0] if arguments else None)
        if len(ids) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GPTNeoXModel, "forward", small)
        folder, _ = captured("halved", *SCAN)
        assert batch_sizes(folder, "capture") == HALVED
        assert call("continue", folder).status == 0
        assert batch_sizes(folder, "continue") == HALVED
        patch.setattr(UnitStore, "write", ending(UnitStore.write, 3))
        with pytest.raises(AssertionError):
            captured("killed", *SCAN)
    killed = tmp_path / "killed"
    assert call("capture", killed).status == 0
    assert batch_sizes(killed, "capture") == HALVED
    assert [path.name for path in (killed / "maps").iterdir()] == ["model"]
    plain, _ = captured("plain")
    assert batch_sizes(plain, "capture") == (16, None)


def test_both_ways_agree_and_a_wrong_verdict_is_counted_with_its_gap(tiny) -> None:
    model, tokens = load_model(str(tiny.model)), token_matrix(read_table(tiny.table).head(48))
    decoded = ask(model, tokens, decode=True, batch_size=48)
    assert decoded["is_memorized"].sum() == 32
    wrong = np.isin(np.arange(48), [5, 40])
    planted = decoded.with_columns(
        pl.Series("is_memorized", decoded["is_memorized"].to_numpy() ^ wrong)
    )
    gap = decoded["smallest_gap"].to_numpy()[wrong].max()
    for scan in (True, False):
        again = ask(model, tokens, decode=not scan, batch_size=30)
        assert disagreements(decoded, again) == {"checked": 48, "disagree": 0}
        counts = disagreements(planted, again)
        assert (counts["checked"], counts["disagree"]) == (48, 2)
        assert counts["largest_gap_of_these"] == pytest.approx(gap)


@pytest.fixture(scope="module")
def likely_end(tiny, tmp_path_factory):
    """`tiny` with the token that it writes most as end of text, which begins some prompts too.

    With the table's tokens, and what `generate` writes as the paper's code calls it.
    """
    folder = tmp_path_factory.mktemp("likely-end")
    frame = pl.read_parquet(tiny.table).head(60)
    tokens = token_matrix(frame)
    model = AutoModelForCausalLM.from_pretrained(tiny.model).eval()
    end = int(
        np.bincount(tokens[:, 32:][frame["sequence_id"].to_numpy() % 3 != 0].ravel()).argmax()
    )
    tokens[:12, 0], tokens[:, 31] = end, np.where(tokens[:, 31] == end, end + 1, tokens[:, 31])
    shutil.copytree(tiny.model, folder / "model")
    named = json.loads((folder / "model" / "config.json").read_text()) | {"eos_token_id": end}
    (folder / "model" / "config.json").write_text(json.dumps(named))
    frame = frame.with_columns(tokens=pl.Series(tokens.tolist(), dtype=pl.List(pl.Int32)))
    frame.write_parquet(folder / "tokens.parquet")
    prompt = torch.from_numpy(tokens[:, :32]).long()
    lengths = {"max_length": 64, "min_length": 64, "eos_token_id": end, "pad_token_id": end}
    mask = (prompt != end).long()
    with torch.no_grad():
        written = model.generate(prompt, attention_mask=mask, do_sample=False, **lengths)
    return folder, end, tokens, written[:, 32:].numpy()


@pytest.mark.parametrize("scan", [False, True])
def test_the_stage_decodes_as_it_is_told(tiny, likely_end, tmp_path, scan) -> None:
    """Plain or as published; after a scan, which reads plainly, those that are shown."""
    folder, end, tokens, written = likely_end
    found = {}
    for decoding in ("plain", "published"):
        asked = {"decoding": decoding, "scan": scan, "check_rows": 0}
        values = tiny.values | {
            "model": tiny.values["model"] | {"name": str(folder / "model")},
            "sequences": {"source": str(folder / "tokens.parquet")},
            "continue": tiny.values["continue"] | asked,
            "capture": {"shard_rows": 16},
        }
        settings = parse_settings(values, where="test")
        study = run(settings, tmp_path / decoding, until="capture" if scan else "continue")
        found[decoding] = study.sequences
    plain, published = found["plain"], found["published"]
    shown = published["continuation"].is_not_null().to_numpy()
    assert shown.all() if not scan else 0 < shown.sum() < len(shown)
    told = np.array(published["continuation"].to_list(), dtype=object)
    assert [list(one) for one in told[shown]] == written[shown].tolist()
    usual = np.array(plain["continuation"].to_list(), dtype=object)
    assert any(end in one for one in usual[shown])
    if scan:
        assert_frame_equal(plain.select("is_memorized"), published.select("is_memorized"))
    else:
        right = (written == tokens[:, 32:]).all(axis=1)
        assert published["is_memorized"].to_list() == right.tolist()
        assert plain["is_memorized"].sum() > right.sum() > 0


@pytest.mark.parametrize(
    ("n_memorized", "asked", "expected"), [(40, 20, (10, 10)), (3, 20, (3, 17)), (95, 20, (19, 1))]
)
def test_half_is_memorized_where_there_are_enough(n_memorized, asked, expected) -> None:
    truth = np.arange(96) < n_memorized
    rows = draw_rows(truth, asked)
    assert (int(truth[rows].sum()), int((~truth[rows]).sum())) == expected
    assert (np.diff(rows) > 0).all()
