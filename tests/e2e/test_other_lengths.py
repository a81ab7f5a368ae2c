"""A study of sequences that are not 64 tokens long, from tokens to report by the command line."""

import numpy as np
import polars as pl
import torch
import yaml

from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.load import load_model
from mnemoscope.maps.format import unpack_triangle
from mnemoscope.maps.store import MapStore
from mnemoscope.study.folder import Study
from tiny_models import make_sequences, save_model


def test_a_study_of_another_length_runs_to_its_report(tiny, tmp_path, call):
    """Verdicts are of the second half given the first; maps, CNNs and Δ have the table's length."""
    length = 128
    model = save_model(tmp_path / "model", max_position_embeddings=length)
    table = make_sequences(model, 120, length=length)
    table.write_parquet(tmp_path / "sequences.parquet")
    values = tiny.values | {
        "model": {"name": str(model), "batch_size": 20},
        "sequences": {"source": str(tmp_path / "sequences.parquet"), "length": length},
        "label": tiny.values["label"] | {"n_train": 16, "n_eval": 8, "minimum": 8},
        "capture": {"shard_rows": 16},
        "train": tiny.values["train"] | {"seeds": [0]},
        "benchmark": {"n_resamples": 100, "controls": False},
    }
    values["label"]["taxonomies"] = ["Non-Memo, Recite[5], Recollect"]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    folder = tmp_path / "study"
    done = call("run", tmp_path / "study.yaml", "-o", folder, "-q")
    assert done.status == 0, done.err
    study = Study(folder)
    tokens = np.array(table["tokens"].to_list())
    found = next(continue_sequences(load_model(model), tokens, batch_size=120, prefix=length // 2))
    stored = study.sequences.sort("sequence_id")
    assert stored["memorization_score"].to_list() == found.score.tolist()
    assert stored["continuation"].list.len().to_list() == [length // 2] * 120
    store = MapStore(folder / "maps" / "model")
    own = store.index.filter(pl.col("suffix") == "true").head(1)
    (sequence_id,) = own["sequence_id"]
    packed = store.dataset([sequence_id], "true", "mean").read(torch.arange(1))
    maps = unpack_triangle(packed)[0].float()
    assert maps.shape == (2, length, length)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, length), atol=0.01, rtol=0)
    assert (folder / "report.html").stat().st_size > 10_000
