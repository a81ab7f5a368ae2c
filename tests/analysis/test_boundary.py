"""Frequency and entropy around the boundary: planted frequencies, a model of known entropy."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from figure_columns import apart
from mnemoscope.analysis.boundary import Settings, analyse, group_of
from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.analysis.predictors import count_ngrams
from mnemoscope.data.corpus import group_documents
from mnemoscope.errors import UserError
from mnemoscope.lm.model import wrap_model
from mnemoscope.stats import rows_of
from tests.analysis.conftest import assert_copies_tell_nothing_new, inputs_of


@pytest.fixture(scope="module")
def lm():
    """A model whose head is zero: every prediction is uniform over 16 tokens, ln 16 nats."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=16, num_hidden_layers=1, **sizes))
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    return wrap_model(model, bos="never")


def test_groups_are_memorized_exactly_and_the_others_within_the_tolerance() -> None:
    scores = [1.0, 31 / 32, 0.5, 0.6, 0.61, 0.25, 0.36, 0.1, 0.0]
    found = group_of(scores, tolerance=0.1)
    near = ["half", "half", None, "quarter", None, "not memorized", "not memorized"]
    assert found == ["memorized", None, *near]


def _planted(n: int = 30) -> pl.DataFrame:
    """Token 1 is rare and token 2 frequent; memorized rows go up at the boundary, others down.

    Every row holds eight tokens: four of the prefix, four of the suffix; ids 3 fill up.
    """
    up, down = [3, 3, 3, 1, 2, 3, 3, 3], [3, 3, 3, 2, 1, 3, 3, 3]
    rows = {
        "sequence_id": list(range(2 * n)),
        "tokens": [up] * n + [[*down[:4], 3, 3, 3, 3]] * n,
        "is_memorized": [True] * n + [False] * n,
        "memorization_score": [1.0] * n + [0.0] * n,
        "continuation": [None] * n + [down[4:]] * n,
    }
    types = {"tokens": pl.List(pl.Int32), "continuation": pl.List(pl.Int32)}
    return pl.DataFrame(rows, schema_overrides=types)


class _Corpus:
    """A corpus of these documents."""

    def __init__(self, *documents) -> None:
        self.documents = [np.array(one) for one in documents]
        self.n_tokens = sum(map(len, documents))

    def identity(self) -> str:
        return "planted"

    def chunks(self, place, k):
        for chunk in group_documents((one, 0) for one in self.documents):
            yield chunk, place


def test_planted_frequencies_come_back_and_entropy_does_not_move(lm) -> None:
    # 1 stands ten times among a hundred tokens, 2 thirty times, 3 sixty times.
    corpus = _Corpus([1] * 10 + [2] * 30 + [3] * 10, [3] * 50)
    inputs = AnalysisInputs(
        where="", table=_planted(), load_model=lambda: lm, length=8, corpus=corpus
    )
    result = analyse(inputs, Settings())
    found = {
        (row["what"], row["group"]): row["difference"]
        for row in apart(result.frames["differences"]).to_dicts()
    }
    assert found["frequency", "memorized"] == pytest.approx(20)  # 30 % - 10 %
    assert found["frequency", "not memorized"] == pytest.approx(-20)
    assert found["entropy", "memorized"] == pytest.approx(0, abs=1e-5)
    # 98 2-grams in two documents of 50 tokens: 9 of (1, 1), one (1, 2), 29 of (2, 2), one (2, 3),
    # 58 of (3, 3). Memorized rows go from (3, 1), never seen, to (1, 2).
    assert found["2-gram frequency", "memorized"] == pytest.approx(1000 * 1 / 98)
    assert found["2-gram frequency", "not memorized"] == pytest.approx(0)  # (3, 2) to (2, 1)
    threes, once = 1000 * 58 / 98, 1000 / 98
    for what, wanted in {
        "2-gram frequency": [None, threes, threes, 0, once, once, threes, threes],
        "frequency": [60, 60, 60, 10, 30, 60, 60, 60],
        "entropy": [None, *[np.log(16)] * 7],  # nothing foretells the first
    }.items():
        curve = (
            apart(result.frames["curves"]).filter(what=what, group="memorized")["mean"].to_list()
        )
        assert curve == pytest.approx(wanted, abs=1e-5)
    assert inputs.forwards.n == 60
    assert "half, quarter" in result.further[1]
    with pytest.raises(UserError, match="4 sequences of the group 'memorized', 10 are needed"):
        analyse(replace(inputs, table=_planted(4)), Settings())


def test_intervals_draw_groups(lm) -> None:
    changed = pl.Series([[3, 3, 3, i % 3 + 1, 2, 3, 3, 3] for i in range(40)])
    table = _planted(20).with_columns(tokens=changed.cast(pl.List(pl.Int32)))
    corpus = _Corpus([1] * 10 + [2] * 30 + [3] * 60)
    inputs = inputs_of(lm, [[0]], length=8, corpus=corpus)

    def measure(rows, groups):
        near = pl.Series("near_duplicates", groups)
        chosen = table[rows].with_columns(near, sequence_id=pl.int_range(pl.len()))
        frames = analyse(replace(inputs, table=chosen), Settings()).frames
        differences = [row["difference"] for row in rows_of(frames["differences"])]
        curves = (row["mean"] for row in rows_of(frames["curves"]) if row["mean"].value is not None)
        return [differences[0], *curves]

    assert_copies_tell_nothing_new(measure, 40)


def test_pairs_are_counted_in_every_document_and_across_none() -> None:
    """A real corpus of three documents against a count by hand with a dictionary."""
    generator = np.random.default_rng(0)
    documents = [generator.integers(0, 5, n).tolist() for n in (40, 1, 17)]
    by_hand = Counter(pair for one in documents for pair in pairwise(one))
    tokens = generator.integers(0, 6, (7, 9)).astype(np.int32)  # 5 is never seen
    found = count_ngrams(inputs_of(None, tokens, corpus=_Corpus(*documents)), tokens, 2)
    assert found.total == 39 + 0 + 16
    rows = [list(pairwise(row)) for row in tokens.tolist()]
    assert found.each.tolist() == [[by_hand[pair] for pair in row] for row in rows]
    own = Counter(pair for row in rows for pair in row)
    alone = count_ngrams(inputs_of(None, tokens), tokens, 2)
    assert alone.total == 7 * 8
    assert alone.each.tolist() == [[own[pair] for pair in row] for row in rows]
