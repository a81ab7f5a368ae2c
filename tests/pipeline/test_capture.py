"""`mnemoscope capture` without labels or text: any table of ids and tokens, in one length."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from mnemoscope.data.table import token_matrix
from mnemoscope.maps.format import unpack_triangle
from mnemoscope.maps.store import MapStore
from mnemoscope.pipeline.blocks import logprobs_of
from mnemoscope.pipeline.sequences import create_study
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import parse_settings
from tiny_models import save_model


def tokens_table(path, n: int = 12, length: int = 64, **columns):
    """A table with nothing but ids and tokens, as a user has it."""
    tokens = np.random.default_rng(0).integers(1, 300, (n, length))
    frame = pl.DataFrame({"sequence_id": np.arange(n) + 7, "tokens": tokens.tolist()})
    frame.with_columns(**columns).write_parquet(path)
    return path


def pooled_afterwards(model, tokens: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and max over the heads of what the model itself gives out, float32."""
    eager = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")
    with torch.inference_mode():
        weights = eager(torch.from_numpy(tokens), output_attentions=True).attentions
    stacked = torch.stack(weights, dim=1)
    return stacked.mean(dim=2), stacked.amax(dim=2)


def stored(folder, pooling: str) -> torch.Tensor:
    store = MapStore(folder / "maps" / "model")
    maps = store.dataset(store.index["sequence_id"].to_numpy(), "true", pooling)
    return unpack_triangle(maps.read(torch.arange(len(maps))))


@pytest.mark.parametrize("length", [64, 16, 78])
def test_a_table_of_tokens_is_enough(tiny, tmp_path, call, length):
    table, folder = tokens_table(tmp_path / "t.parquet", length=length), tmp_path / "study"
    chosen = [] if length == 64 else ["--set", f"sequences.length={length}"]
    done = call("capture", "--model", tiny.model, "--sequences", table, "-o", folder, *chosen)
    assert done.status == 0, done.err
    assert f"mnemoscope continue {folder}" in done.out
    tokens = np.array(pl.read_parquet(table)["tokens"].to_list())
    mean, largest = pooled_afterwards(tiny.model, tokens)
    assert torch.equal(stored(folder, "mean"), mean.half())
    assert torch.equal(stored(folder, "max"), largest.half())
    model = Study(folder).record["models"]["model"]
    assert (model["dtype"], model["device"]) == ("float32", "cpu")
    assert Study(folder).manifest("capture")["counts"]["batch_size"] == 64


def test_batch_sizes_give_the_same_maps_but_for_rounding(tiny, tmp_path, call):
    """Bit for bit at one batch size; at others matrix products sum in another order: float32
    rounding below 1e-6, which float16 may turn into one step of its own, 2^-11 of weights below 1.
    """
    table = tokens_table(tmp_path / "t.parquet")
    found = {}
    for name, size in {"a": 5, "b": 5, "one": 1, "all": 12}.items():
        folder = tmp_path / name
        flags = ("--model", tiny.model, "--sequences", table, "--batch-size", size)
        assert call("capture", *flags, "-o", folder).status == 0
        found[name] = stored(folder, "mean")
    assert torch.equal(found["a"], found["b"])
    for name in ("one", "all"):
        torch.testing.assert_close(found[name], found["a"], atol=2**-11, rtol=0)


def test_rows_of_unequal_length_are_refused(tiny, tmp_path, refused):
    table = tokens_table(tmp_path / "t.parquet")
    frame = pl.read_parquet(table)
    shorter = pl.when(pl.col("sequence_id") == 10).then(pl.col("tokens").list.head(50))
    frame.with_columns(shorter.otherwise("tokens").alias("tokens")).write_parquet(table)
    folder = tmp_path / "study"
    line = refused("capture", "--model", tiny.model, "--sequences", table, "-o", folder)
    assert "row 3: 50 tokens where 64 are needed" in line
    assert not folder.exists()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_are_stored_as_the_sequence_alone_with_zeros_around(tiny, tmp_path, call, side):
    """At one batch size bit for bit: the padded rows share one batch, here and alone."""
    place = slice(20, 64) if side == "left" else slice(0, 44)
    mask = np.ones((12, 64), dtype=np.int64)
    mask[4:7] = 0
    mask[4:7, place] = 1
    table = tokens_table(
        tmp_path / "t.parquet", attention_mask=pl.Series("attention_mask", mask.tolist())
    )
    folder = tmp_path / "study"
    done = call("capture", "--model", tiny.model, "--sequences", table, "-o", folder)
    assert done.status == 0, done.err
    assert "Next:" not in done.out  # continue would refuse padded rows
    tokens = np.array(pl.read_parquet(table)["tokens"].to_list())
    mean, largest = pooled_afterwards(tiny.model, tokens[4:7, place])
    for pooling, wanted in (("mean", mean), ("max", largest)):
        found = stored(folder, pooling)[4:7]
        assert torch.equal(found[:, :, place, place], wanted.half())
        found[:, :, place, place] = 0
        assert not found.any()
    whole, _ = pooled_afterwards(tiny.model, np.delete(tokens, slice(4, 7), axis=0))
    kept = [row for row in range(12) if row not in (4, 5, 6)]
    assert torch.equal(stored(folder, "mean")[kept], whole.half())


def test_shorter_rows_are_padded_where_that_is_asked_for(tiny, tmp_path, call):
    table, folder = tokens_table(tmp_path / "t.parquet"), tmp_path / "study"
    frame = pl.read_parquet(table)
    shorter = pl.when(pl.col("sequence_id") == 10).then(pl.col("tokens").list.head(50))
    frame.with_columns(shorter.otherwise("tokens").alias("tokens")).write_parquet(table)
    flags = ("--model", tiny.model, "--sequences", table, "--set", "sequences.pad=true")
    done = call("capture", *flags, "-o", folder)
    assert done.status == 0, done.err
    tokens = np.array([pl.read_parquet(table)["tokens"][3].to_list()])
    assert tokens.shape == (1, 50)
    assert torch.equal(stored(folder, "mean")[3, :, :50, :50], _mean(tiny, tokens))
    assert not stored(folder, "mean")[3, :, 50:].any()


def test_parts_of_padded_rows_make_the_bytes_of_one_process(tiny, tmp_path, call):
    mask = np.ones((12, 64), dtype=np.int64)
    mask[::5, :9] = 0
    table = tokens_table(
        tmp_path / "t.parquet", attention_mask=pl.Series("attention_mask", mask.tolist())
    )
    flags = ("--model", tiny.model, "--sequences", table, "--set", "capture.shard_rows=4", "-q")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert call("capture", *flags, "-o", whole).status == 0
    settings = Study(whole).settings
    create_study(parts, settings, Models(settings))
    for part in ("1/2", "2/2"):
        done = call("capture", parts, "--part", part, "-q")
        assert done.status == 0, done.err
    merged = call("merge", parts)
    assert merged.status == 0, merged.err
    assert "Merged capture" in merged.out
    assert "Next:" not in merged.out
    for file in (whole / "maps" / "model").iterdir():
        assert (parts / "maps" / "model" / file.name).read_bytes() == file.read_bytes()


def _mean(tiny, tokens):
    return pooled_afterwards(tiny.model, tokens)[0][0].half()


@pytest.mark.parametrize("verb", ["continue", "features"])
def test_verbs_that_need_whole_sequences_refuse_padded_ones(tiny, tmp_path, call, refused, verb):
    mask = [[1] * 64] * 11 + [[0] * 5 + [1] * 59]
    table = tokens_table(tmp_path / "t.parquet", attention_mask=pl.Series("attention_mask", mask))
    folder = tmp_path / "study"
    flags = ("--model", tiny.model, "--sequences", table, "-o", folder)
    assert call("capture", *flags).status == 0
    assert "1 of 12 sequences are padded" in refused(verb, folder)
    if verb == "continue":
        assert "1 of 12 sequences are padded" in refused(verb, folder, "--part", "1/2")


@pytest.mark.parametrize("only", [(), ("--check-labels",)], ids=["run", "check-labels"])
def test_run_refuses_padded_rows_before_anything_is_written(tiny, tmp_path, call, refused, only):
    mask = [[1] * 64] * 11 + [[0] * 5 + [1] * 59]
    table = tokens_table(tmp_path / "t.parquet", attention_mask=pl.Series("attention_mask", mask))
    flags = ("--model", tiny.model, "--sequences", table)
    line = refused("run", *flags, "-o", tmp_path / "study", *only)
    assert f"{table}: 1 of 12 sequences are padded" in line
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
    assert call("sequences", table, "--model", tiny.model, "-o", tmp_path / "there").status == 0
    settings = (tmp_path / "there" / "study.yaml").read_bytes()
    flags = ("-o", tmp_path / "there", "--set", "model.batch_size=3", "--redo", *only)
    assert "1 of 12 sequences are padded" in refused("run", *flags)
    assert (tmp_path / "there" / "study.yaml").read_bytes() == settings


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([1] * 30 + [0] + [1] * 33, "row 0: padding between its tokens"),
        ([0] * 64, "row 0: no token at all"),
        ([2] * 64, "values other than 1"),
        ([0] + [1] * 62, "shape"),
    ],
)
def test_a_mask_that_cannot_be_read_is_refused(tiny, tmp_path, refused, row, words):
    mask = [row] * 12
    table = tokens_table(tmp_path / "t.parquet", attention_mask=pl.Series("attention_mask", mask))
    folder = tmp_path / "study"
    line = refused("capture", "--model", tiny.model, "--sequences", table, "-o", folder)
    assert str(table) in line
    assert words in line
    assert not folder.exists()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (pl.Series([[0.5] * 64] * 12), "List(Float64) where lists of 0 and 1 are needed"),
        (pl.Series([["1"] * 64] * 12), "List(String) where lists of 0 and 1 are needed"),
        (pl.Series([[[1]] * 64] * 12), "where lists of 0 and 1 are needed"),
        (pl.Series(["[1, 1]"] * 12), "String where lists of 0 and 1 are needed"),
        (pl.Series([1] * 12), "Int64 where lists of 0 and 1 are needed"),
        (pl.Series([[2**63] * 64] * 12, dtype=pl.List(pl.UInt64)), "does not fit List(Int64)"),
        (pl.Series([[-1] * 64] * 12), "column 'attention_mask': a number is below 0"),
        (pl.Series([[1] * 64] * 11 + [None]), "column 'attention_mask': lists of one length"),
    ],
)
@pytest.mark.parametrize("pad", ["true", "false"])
def test_a_mask_of_another_type_is_refused_and_not_passed_over(
    tiny, tmp_path, refused, mask, words, pad
):
    table = tokens_table(tmp_path / "t.parquet", attention_mask=mask)
    flags = ("--model", tiny.model, "--sequences", table, "--set", f"sequences.pad={pad}")
    line = refused("capture", *flags, "-o", tmp_path / "study")
    assert str(table) in line
    assert words in line


def test_an_empty_mask_does_not_hide_padding(tiny, tmp_path, call):
    table, folder = tmp_path / "t.parquet", tmp_path / "study"
    tokens = pl.Series("tokens", [[5] * 64, [5] * 40])
    pl.DataFrame([tokens, pl.Series("attention_mask", [None, None])]).write_parquet(table)
    flags = ("--model", tiny.model, "--sequences", table, "--set", "sequences.pad=true")
    assert call("capture", *flags, "-o", folder).status == 0
    assert (stored(folder, "max")[1, :, 40:] == 0).all()


def test_a_jsonl_table_names_the_line_of_a_mask_that_is_none(tiny, tmp_path, refused):
    rows = [{"tokens": [5] * 64, "attention_mask": mask} for mask in ([True] * 64, [1, 0.5])]
    table = tmp_path / "t.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    flags = ("--model", tiny.model, "--sequences", table, "-o", tmp_path / "study")
    assert "line 2, column 'attention_mask': [1, 0.5]" in refused("capture", *flags)


@pytest.mark.parametrize(
    "ones",
    [
        pl.Series([[1] * 64] * 12),
        pl.Series([[True] * 64] * 12),
        pl.Series([[1] * 64] * 12, dtype=pl.Array(pl.UInt8, 64)),
        pl.Series([None] * 12),
        pl.Series([None] * 12, dtype=pl.List(pl.Int64)),
    ],
)
def test_a_mask_of_ones_or_none_at_all_is_no_padding(tiny, tmp_path, call, ones):
    table = tokens_table(tmp_path / "t.parquet", attention_mask=ones)
    flags = ("--model", tiny.model, "--sequences", table, "-o", tmp_path / "study")
    assert call("capture", *flags).status == 0


def test_more_tokens_than_the_model_has_positions_are_refused(tmp_path, refused):
    model = save_model(tmp_path / "model", max_position_embeddings=32)
    table = tokens_table(tmp_path / "t.parquet")
    line = refused("capture", "--model", model, "--sequences", table, "-o", tmp_path / "study")
    assert "has 32 positions" in line


def test_a_spread_model_gives_the_same_store_and_is_recorded(tiny, tmp_path, call):
    """The second layer waits on disk; nothing of the maps may change."""
    table = tokens_table(tmp_path / "t.parquet")
    where = dict.fromkeys(
        ("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "gpt_neox.rotary_emb", "lm_head",
         "gpt_neox.emb_dropout", "gpt_neox.layers.0"), "cpu",
    )  # fmt: skip
    chosen = f"model.device_map={json.dumps(where | {'gpt_neox.layers.1': 'disk'})}"
    flags = ("--model", tiny.model, "--sequences", table)
    done = call("capture", *flags, "-o", tmp_path / "spread", "--set", chosen)
    assert done.status == 0, done.err
    assert call("capture", *flags, "-o", tmp_path / "alone").status == 0
    for file in (tmp_path / "alone" / "maps" / "model").iterdir():
        assert (tmp_path / "spread" / "maps" / "model" / file.name).read_bytes() == (
            file.read_bytes()
        )
    spread = Study(tmp_path / "spread").record["models"]["model"]
    assert (spread["device_map"], spread["quantization"]) == ("cpu: 6, disk: 1 modules", None)


@pytest.mark.parametrize("length", [16, 64, 78])
def test_logprobs_are_of_the_second_half_whatever_the_length(tiny, tmp_path, length):
    table = pl.read_parquet(tokens_table(tmp_path / "t.parquet", n=5, length=length))
    settings = parse_settings(
        {"model": {"name": str(tiny.model)}, "sequences": {"length": length}}, where="test"
    )
    found = logprobs_of(settings, Models(settings).alone("model"), token_matrix(table), table)
    ids = torch.tensor(table["tokens"].to_list())
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(tiny.model)(ids).logits
    every = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0]
    wanted = every[:, length // 2 - 1 :].numpy()
    # float32, by another attention code; log-probabilities down to about -40.
    np.testing.assert_allclose(np.array(found["logprobs"].to_list()), wanted, atol=1e-3)
