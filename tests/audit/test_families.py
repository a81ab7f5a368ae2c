"""Any causal model: what it writes itself, put into a document, is found to the character."""

import importlib.util
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from mnemoscope.audit.documents import read_documents
from mnemoscope.audit.run import audit_documents
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.model import wrap_model

_PLACE = Path(__file__).parents[1] / "lm" / "tiny_families.py"
_SPEC = importlib.util.spec_from_file_location("tiny_families_of_lm", _PLACE)
tiny = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tiny)

N_WRITTEN = 40
FIRST_LETTER = 3  # ids below are special tokens, no characters


def letters(ids):
    """The text of token ids: one printable character a token."""
    return "".join(chr(int(one) - FIRST_LETTER + 32) for one in ids)


def own_words(lm):
    """A prefix and what the model writes after it, of printable characters only."""
    rows = tiny.random_tokens(30, length=32 + N_WRITTEN, seed=1)
    written = next(continue_sequences(lm, rows, batch_size=30)).tokens
    row = int(np.flatnonzero((written >= FIRST_LETTER).all(axis=1))[0])
    return letters(rows[row, :32]), letters(written[row])


@pytest.mark.parametrize(
    ("family", "adds_bos"), [("llama", True), ("llama", False), ("gpt2", False), ("bloom", False)]
)
def test_its_own_words_are_found_where_they_stand(tmp_path, family, adds_bos):
    model = tiny.make_model(family)
    with torch.no_grad():  # special tokens are no characters of a document: it writes none
        model.get_output_embeddings().weight[:FIRST_LETTER] = 0
    lm = wrap_model(model, tiny.make_tokenizer(adds_bos), name=family)
    assert (lm.bos_id is not None) == adds_bos
    prefix, written = own_words(lm)
    before, after = (letters(one) for one in tiny.random_tokens(2, 50, seed=9))
    text = before + prefix + written + after
    (tmp_path / "a.txt").write_text(text)
    reading = read_documents([str(tmp_path / "a.txt")])
    # A random model goes on otherwise after a prefix shifted by one: every start must be tried.
    audit_documents(lm, reading, tmp_path / "out", settings=AuditSettings(stride=1))
    spans = pl.read_parquet(tmp_path / "out" / "spans.parquet")
    start = len(before) + 32
    covered = {one for a, b in spans.select("start", "end").rows() for one in range(a, b)}
    assert set(range(start, start + N_WRITTEN)) <= covered
    assert len(covered) <= N_WRITTEN + 16
    for row in spans.iter_rows(named=True):
        assert row["text"] == text[row["start"] : row["end"]]
