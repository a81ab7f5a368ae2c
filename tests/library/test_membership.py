"""What `ms.membership` says of rows whose truth is known, and what it refuses."""

import numpy as np
import polars as pl
import pytest

import mnemoscope as ms
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.library.membership import LOST, documents_of
from mnemoscope.lm.load import load_model
from mnemoscope.stats import rows_of

FAST = {"n_resamples": 100, "progress": False}


@pytest.fixture(scope="module")
def rows():
    """Passages of prose and code: 60 that the model read 16 times, 90 that it did not."""
    table = pl.read_parquet(sequences_path()).filter(form="plain").drop("group")
    parts = [("prose", 16, 30), ("code", 16, 30), ("prose", 0, 45), ("code", 0, 45)]
    return pl.concat(
        table.filter(genre=genre, inserted=dose).sample(n, seed=1, shuffle=True)
        for genre, dose, n in parts
    )


@pytest.fixture(scope="module")
def lms():
    return load_model(str(model_path())), load_model(str(reference_path()))


@pytest.mark.whole
def test_read_rows_are_told_apart_and_hold_bits(lms, rows):
    found = ms.membership(lms[0], rows, reference=lms[1], **FAST)
    assert found.sentence.startswith("Rows named as read are told from the others by ratio")
    told = {one["name"]: one for one in rows_of(found.told)}
    assert told[found.score]["auc"].low > 0.95
    controls = [one for one in told.values() if one["is_control"]]
    assert len(controls) == 4
    assert max(one["auc"].value for one in controls) < 0.65
    (level,) = rows_of(found.levels)
    assert (level["duplicates"], level["auc"].value) == (16, told[found.score]["auc"].value)
    read, unread = rows_of(found.bits)
    assert read["mean"].low > 200 > 50 > unread["mean"].high
    assert found.rows["bits"].sum() == pytest.approx(read["sum"].value + unread["sum"].value)
    assert found.notes == ()
    assert "told from" in found._repr_html_()


def test_kinds_of_text_that_nobody_read_cannot_be_told(lms, rows):
    """Code is likelier than prose, and a score alone would call it read: the text tells it too."""
    unread = rows.filter(inserted=0).with_columns(is_code_row=pl.col("genre") == "code")
    found = ms.membership(lms[0], unread, read="is_code_row", **FAST)
    told = {one["name"]: one for one in rows_of(found.told)}
    assert told["mean log-probability"]["auc"].low > 0.6
    assert {one["verdict"] for one in told.values() if not one["is_control"]} == {"cannot be told"}
    assert "cannot be told" in found.sentence
    assert found.notes == (LOST,)
    assert found.bits.is_empty()
    assert found.rows["bits"].null_count() == unread.height


def test_rows_of_one_document_or_near_duplicates_are_one_group():
    rows = pl.DataFrame(
        {
            "sequence_id": [0, 1, 2, 3],
            "document": ["a", "a", "b", None],
            "tokens": [[*range(12)], [*range(20, 32)], [*range(40, 52)], [*range(40, 52)]],
        }
    )
    groups = documents_of(rows)
    assert (groups[0] == groups[1], groups[2] == groups[3]) == (True, True)
    assert len(np.unique(groups)) == 2


@pytest.mark.parametrize(
    ("change", "read", "said"),
    [
        (pl.lit(1).alias("duplicates"), None, "no row is unread, and both are needed"),
        (pl.lit("x").alias("kind"), "kind", "where true or false"),
        (pl.lit(0).alias("other"), "missing", "no column missing"),
        (pl.lit("one").alias("document"), None, "1 document on a side"),
    ],
)
def test_rows_that_cannot_be_asked_are_refused(lms, rows, change, read, said):
    with pytest.raises(ms.UserError, match=said):
        ms.membership(lms[0], rows.with_columns(change), read=read, **FAST)
