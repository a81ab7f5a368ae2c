"""The published measure against its own formulas; shares against closed forms; planted endings."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from figure_columns import apart
from mnemoscope.analysis.ending import (
    CELLS,
    Settings,
    _rows,
    analyse,
    suffix_shares,
)
from mnemoscope.analysis.inputs import OtherModel
from mnemoscope.diffusion.measures import ending_mask, local_similarity, noise_norm
from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.edges import total_effects
from mnemoscope.maps.format import StoreMeta
from mnemoscope.maps.shape import copy_edges
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.stats import rows_of
from tests.map_folders import add_shard


def test_the_mask_is_the_mean_of_heads_and_layers_at_each_texts_last_token() -> None:
    attention = torch.randn(3, 2, 4, 16, 5).softmax(dim=-1)
    last = np.array([4, 2, 3])
    mask = ending_mask(attention, last)
    for one, place in enumerate(last):
        wanted = attention[one, :, :, :, place].flatten(0, 1).mean(dim=0)
        np.testing.assert_allclose(mask[one], wanted, rtol=1e-6)
    # Over all places of a text it is 1 for every patch.
    whole = sum(ending_mask(attention, place) for place in range(5))
    np.testing.assert_allclose(whole, 1, rtol=1e-6)


def test_the_masked_norm_is_the_published_one() -> None:
    """Of each image, as the public code has it: norm of the product over the mean of the mask."""
    text, empty = torch.randn(2, 6, 4, 8, 8).double()
    mask = torch.rand(6, 8, 8).double()
    found, plain = noise_norm(text, empty, mask), noise_norm(text, empty)
    for one in range(6):
        apart = text[one] - empty[one]
        wanted = (apart * mask[one]).norm(p=2) / mask[one].mean()
        assert found[one] == pytest.approx(float(wanted))
        assert plain[one] == pytest.approx(float(apart.norm(p=2)))
    # An even mask changes nothing, however bright it is.
    np.testing.assert_allclose(noise_norm(text, empty, torch.full((6, 8, 8), 0.2)), plain)


def test_what_lies_in_the_dark_counts_for_nothing() -> None:
    """A half is copied, the other drawn anew: the mask sees a copy, the whole image does not."""
    generator = np.random.default_rng(0)
    trained = generator.normal(size=(20, 1, 8, 8))
    generated = trained.copy()
    generated[..., 4:] = generator.normal(size=(20, 1, 8, 4))
    mask = np.zeros((20, 8, 8))
    mask[..., :4] = 1
    assert (local_similarity(generated, trained, mask) == 0).all()
    assert (local_similarity(generated, trained) < -3).all()
    assert (local_similarity(generated, trained, 1 - mask) < -6).all()  # half the mean


def test_shares_of_even_attention_are_the_closed_form() -> None:
    """Query q gives 1 / (q + 1) to each key up to its own."""
    length, prefix = 12, 5
    even = torch.ones(length, length).tril() / torch.arange(1, length + 1)[:, None]
    tokens = torch.tensor([[1, 2, 3, 4, 5, 1, 9, 9, 2, 8, 7, 6]])
    copies = copy_edges(tokens, 1)[:, 0]
    shares = suffix_shares(even.expand(1, 3, -1, -1), copies, prefix)
    assert shares.shape == (1, 3, prefix + 2)
    queries = np.arange(prefix, length - 1)
    each = (1 / (queries + 1)).mean()
    np.testing.assert_allclose(shares[0, :, :prefix], each, rtol=1e-6)
    # Copies: query 5 (token 1) at key 1, the second 9 (7) at itself, 8 (token 2) at key 2.
    copied = (1 / 6 + 1 / 8 + 1 / 9) / len(queries)
    np.testing.assert_allclose(shares[0, :, prefix], copied, rtol=1e-6)
    np.testing.assert_allclose(shares[0, :, prefix + 1], 1 / (length - 1), rtol=1e-6)
    # Size, not sign, and nothing of nothing.
    np.testing.assert_allclose(suffix_shares(-even[None, None], copies, prefix), shares[:, :1])
    assert (suffix_shares(0 * even[None, None], copies, prefix) == 0).all()


SMALL = Settings(per_class=8, n_resamples=20)


def test_shares_are_those_asked_directly_and_a_model_beside_itself_has_no_bright_ending(guessable):
    lm = guessable.model()
    itself = replace(guessable, others=(OtherModel("itself", guessable.load_model),))
    result = analyse(itself, Settings(per_class=100, n_resamples=20))
    told = result.frames["aucs"]
    assert {row["difference"] for row in rows_of(told)} == {(0, 0, 0)}
    assert result.sentence.startswith("No bright ending")
    assert set(told["of"]) == {"memorized", "Guess", "Recall"}
    assert set(told["on"]) == {*CELLS, "shown suffix"}
    ending = told.filter(measure="attention", of="memorized")
    assert ending["n"].unique().to_list() == [90]
    # Each prefix token is told, and the last is the ending.
    places = result.frames["places"].filter(model="this model", measure="attention")
    (whole,) = rows_of(ending.filter(pl.col("layer").is_null(), on="last prefix token"))
    assert places["place"].to_list() == list(range(1, 33))
    assert places["auc"][-1] == pytest.approx(whole["model"].value)
    # Of what is memorized, whose own suffix is what is shown, each share is the plain mean.
    tokens = np.array(guessable.table.filter("is_memorized")["tokens"].to_list(), dtype=np.int32)
    copies = copy_edges(torch.from_numpy(tokens.astype(np.int64)), 1)[:, 0]
    for measure, batches in {
        "attention": [one.mean for one in capture_pooled(lm, tokens, batch_size=64)],
        "total effect": list(total_effects(lm, tokens, batch_size=64)),
    }.items():
        wanted = suffix_shares(torch.cat(batches), copies, 32).mean(axis=0)
        found = apart(result.frames["classes"]).filter(
            **{"class": "memorized", "measure": measure, "model": "this model"}
        )
        for cell, place in zip(CELLS, (31, 0, 32, 33), strict=True):
            part = found.filter(on=cell)
            assert part.drop_nulls("layer")["mean"].to_list() == pytest.approx(wanted[:, place])
            assert part["mean"][0] == pytest.approx(wanted[:, place].mean())


def test_without_a_reference_nothing_is_said_of_memory(guessable) -> None:
    result = analyse(guessable, SMALL)
    assert result.sentence.startswith("Whether the ending is bright cannot be said")
    told = apart(result.frames["aucs"])
    assert told["reference"].null_count() == told.height
    assert len(result.figures) == 3
    assert told.filter(measure="total effect", of="memorized")["n"].unique().to_list() == [24]


def _store(folder, table, *, lit):
    """Even maps of every sequence in a store; where lit, suffixes look at the last prompt token."""
    meta = StoreMeta(2, 64, {"weights": "abc", "capture": {"dtype": "float32", "bos_id": None}})
    writer = MapWriter(folder, meta)
    even = torch.ones(64, 64).tril() / torch.arange(1, 65)[:, None]
    bright = even.clone()
    bright[32:, 31] += 0.5
    generator = torch.Generator().manual_seed(0)
    for suffix, memorized in (("true", True), ("own", False)):
        part = table.filter(is_memorized=memorized)
        one = bright if memorized and lit else even
        maps = one * (1 + 0.2 * torch.rand(part.height, 2, 64, 64, generator=generator))
        add_shard(writer, part["sequence_id"].to_numpy(), suffix, mean=maps, max=maps)
    return MapStore(folder)


@pytest.mark.parametrize(("own", "theirs"), [(True, False), (False, True)])
def test_a_planted_ending_is_found_in_stored_maps(guessable, tmp_path, own, theirs) -> None:
    inputs = replace(
        guessable,
        maps=_store(tmp_path / "model", guessable.table, lit=own),
        reference_maps=_store(tmp_path / "reference", guessable.table, lit=theirs),
        others=(OtherModel("itself", guessable.load_model),),
    )
    result = analyse(inputs, SMALL)
    told = apart(result.frames["aucs"]).filter(measure="attention", of="memorized")
    ending = told.filter(pl.col("on").str.starts_with("last prefix token"))
    assert (ending["model" if own else "reference"] == 1).all()
    assert ending["reference" if own else "model"].is_between(0.3, 0.7).all()
    assert result.sentence.startswith("A bright ending" if own else "A dark ending")
    places = result.frames["places"].filter(measure="attention", model="this model")
    brightest = places.sort("auc")["place"][-1]
    assert (brightest == 32) == own


def test_rows_of_stored_maps_keep_the_order_of_the_table(guessable, tmp_path) -> None:
    """Rows are drawn by their place."""
    table = guessable.table.reverse()
    inputs = replace(guessable, table=table, maps=_store(tmp_path, guessable.table, lit=False))
    assert _rows(inputs, SMALL)["sequence_id"].equals(table["sequence_id"])


def test_bad_input_is_refused_in_one_line(guessable) -> None:
    two = (OtherModel("one", guessable.load_model), OtherModel("two", guessable.load_model))
    for inputs, settings, said in (
        (replace(guessable, others=two), SMALL, "2 models to compare with; one that never saw"),
        (replace(guessable, n_prefix=63), SMALL, "suffixes of 1 token; 2 are needed"),
        (guessable, Settings(minimum=31), "60 memorized sequences and 30 others; 31 of each"),
    ):
        with pytest.raises(UserError, match=said):
            analyse(inputs, settings)
