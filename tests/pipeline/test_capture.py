"""`mnemoscope capture` without labels or text: any table of ids and tokens, in one length."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from mnemoscope.maps.store import MapStore
from mnemoscope.maps.triangle import unpack_triangle
from mnemoscope.study.folder import Study

PADDING = ("--set", "sequences.pad=true")


@pytest.fixture
def tokens_table(tmp_path):
    """Write a table with nothing but ids and tokens, as a user has it, and further columns."""

    def tokens_table(n: int = 12, length: int = 64, **columns):
        tokens = np.random.default_rng(0).integers(1, 300, (n, length))
        frame = pl.DataFrame({"sequence_id": np.arange(n) + 7, "tokens": tokens.tolist()})
        frame.with_columns(**columns).write_parquet(tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    return tokens_table


@pytest.fixture
def captured(tiny, tmp_path, call):
    """Capture a table, `captured(table, *flags)`; gives the study's folder and what was said."""

    def captured(table, *flags, name="study"):
        folder = tmp_path / name
        done = call("capture", "--model", tiny.model, "--sequences", table, "-o", folder, *flags)
        assert done.status == 0, done.err
        return folder, done.out

    return captured


@pytest.fixture
def uncaptured(tiny, tmp_path, refused):
    """The one line with which the capture of a table is refused, which leaves no study."""

    def uncaptured(table, *flags):
        folder = tmp_path / "study"
        line = refused("capture", "--model", tiny.model, "--sequences", table, "-o", folder, *flags)
        assert not folder.exists()
        return line

    return uncaptured


def tokens_of(table) -> np.ndarray:
    return np.array(pl.read_parquet(table)["tokens"].to_list())


def pooled_afterwards(model, tokens: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and max over the heads of what the model itself gives out, as they are stored."""
    eager = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")
    with torch.inference_mode():
        weights = eager(torch.from_numpy(tokens), output_attentions=True).attentions
    stacked = torch.stack(weights, dim=1)
    return stacked.mean(dim=2).half(), stacked.amax(dim=2).half()


def stored(folder, pooling: str) -> torch.Tensor:
    store = MapStore(folder / "maps" / "model")
    maps = store.dataset(store.index["sequence_id"].to_numpy(), "true", pooling)
    return unpack_triangle(maps.read(torch.arange(len(maps))))


@pytest.mark.parametrize("length", [64, 16, 78])
def test_a_table_of_tokens_is_enough(tiny, tokens_table, captured, length):
    table = tokens_table(length=length)
    chosen = [] if length == 64 else ["--set", f"sequences.length={length}"]
    folder, said = captured(table, *chosen)
    assert f"mnemoscope continue {folder}" in said
    mean, largest = pooled_afterwards(tiny.model, tokens_of(table))
    assert torch.equal(stored(folder, "mean"), mean)
    assert torch.equal(stored(folder, "max"), largest)
    model = Study(folder).record["models"]["model"]
    assert (model["dtype"], model["device"]) == ("float32", "cpu")
    assert Study(folder).manifest("capture")["counts"]["batch_size"] == 64


@pytest.mark.parametrize("place", [slice(20, 64), slice(0, 44)])
def test_padded_rows_are_stored_as_the_sequence_alone_with_zeros_around(
    tiny, tokens_table, captured, place
):
    """At one batch size bit for bit: the padded rows share one batch, here and alone."""
    mask = np.ones((12, 64), dtype=np.int64)
    mask[4:7] = 0
    mask[4:7, place] = 1
    table = tokens_table(attention_mask=pl.Series(mask.tolist()))
    folder, _ = captured(table)
    tokens = tokens_of(table)
    mean, largest = pooled_afterwards(tiny.model, tokens[4:7, place])
    for pooling, wanted in (("mean", mean), ("max", largest)):
        found = stored(folder, pooling)[4:7]
        assert torch.equal(found[:, :, place, place], wanted)
        found[:, :, place, place] = 0
        assert not found.any()
    whole, _ = pooled_afterwards(tiny.model, np.delete(tokens, slice(4, 7), axis=0))
    kept = [row for row in range(12) if row not in (4, 5, 6)]
    assert torch.equal(stored(folder, "mean")[kept], whole)


def test_shorter_rows_are_refused_or_padded_where_that_is_asked_for(
    tiny, tokens_table, captured, uncaptured
):
    shorter = pl.when(pl.int_range(pl.len()) == 3).then(pl.col("tokens").list.head(50))
    empty = pl.Series([None] * 12, dtype=pl.List(pl.Int64))  # hides no padding
    table = tokens_table(tokens=shorter.otherwise("tokens"), attention_mask=empty)
    assert "row 3: 50 tokens where 64 are needed" in uncaptured(table)
    folder, _ = captured(table, *PADDING)
    tokens = np.array([pl.read_parquet(table)["tokens"][3].to_list()])
    mean, _ = pooled_afterwards(tiny.model, tokens)
    found = stored(folder, "mean")[3]
    assert torch.equal(found[:, :50, :50], mean[0])
    assert not found[:, 50:].any()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ([[1] * 30 + [0] + [1] * 33] * 12, "row 0: padding between its tokens"),
        ([[0] * 64] * 12, "row 0: no token at all"),
        ([[2] * 64] * 12, "values other than 1"),
        ([[0] + [1] * 62] * 12, "shape"),
        ([[0.5] * 64] * 12, "List(Float64) where lists of 0 and 1 are needed"),
        ([["1"] * 64] * 12, "List(String) where lists of 0 and 1 are needed"),
        ([[[1]] * 64] * 12, "where lists of 0 and 1 are needed"),
        (["[1, 1]"] * 12, "String where lists of 0 and 1 are needed"),
        ([1] * 12, "Int64 where lists of 0 and 1 are needed"),
        (pl.Series([[2**63] * 64] * 12, dtype=pl.List(pl.UInt64)), "does not fit List(Int64)"),
        ([[-1] * 64] * 12, "column 'attention_mask': a number is below 0"),
        ([[1] * 64] * 11 + [None], "column 'attention_mask': lists of one length"),
    ],
)
def test_a_mask_that_cannot_be_read_is_refused(tokens_table, uncaptured, mask, words):
    table = tokens_table(attention_mask=pl.Series(mask))
    line = uncaptured(table, *PADDING)
    assert str(table) in line
    assert words in line


def test_a_jsonl_table_names_the_line_of_a_mask_that_is_none(tmp_path, uncaptured):
    rows = [{"tokens": [5] * 64, "attention_mask": mask} for mask in ([True] * 64, [1, 0.5])]
    table = tmp_path / "t.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    assert "line 2, column 'attention_mask': [1, 0.5]" in uncaptured(table)


@pytest.mark.parametrize("one", [[1] * 64, [True] * 64, None, pl.Array(pl.UInt8, 64)])
def test_a_mask_of_ones_or_none_at_all_is_no_padding(tokens_table, captured, one):
    is_array = isinstance(one, pl.Array)
    ones = pl.Series([[1] * 64] * 12, dtype=one) if is_array else pl.Series([one] * 12)
    plain, _ = captured(tokens_table(), name="plain")
    folder, _ = captured(tokens_table(attention_mask=ones))
    for pooling in ("mean", "max"):
        assert torch.equal(stored(folder, pooling), stored(plain, pooling))
