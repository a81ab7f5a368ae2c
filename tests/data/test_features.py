"""Features of any table: the right columns from the right input, null where it is absent."""

import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from mnemoscope.data import features as code
from mnemoscope.data.duplicates import count_duplicates
from mnemoscope.data.features import (
    TEXT_MEASURES,
    add_features,
    classify_code,
    is_available,
    measure_text,
    shannon_length,
    token_entropy,
    token_frequency,
    write_features,
)
from mnemoscope.data.rouge import rouge_3, rouge_l
from mnemoscope.errors import UserError
from refusals import refusal

ADDED = ["rouge_l", "rouge_3", "is_incrementing", "is_repeating", "duplicates", "is_code"]


@pytest.fixture(autouse=True)
def without_magika(monkeypatch):
    monkeypatch.setattr(code, "find_spec", lambda name: None)


def tokens_of(n=4, length=64):
    return np.random.default_rng(0).integers(0, 5, (n, length))


def test_tokens_give_rouge_and_texts_give_patterns():
    tokens, texts = tokens_of(), ["1 2 3 4 5", "abab", None, "plain"]
    frame = pl.DataFrame({"sequence_id": range(4), "tokens": tokens.tolist(), "text": texts})
    found = add_features(frame)
    assert found.columns == [*frame.columns, *ADDED]
    halves = tokens[:, :32], tokens[:, 32:]
    np.testing.assert_array_equal(found["rouge_l"], rouge_l(*halves))
    np.testing.assert_array_equal(found["rouge_3"], rouge_3(*halves))
    assert found["is_incrementing"].to_list() == [True, False, None, False]
    assert found["is_repeating"].to_list() == [False, True, None, False]
    assert found["duplicates"].null_count() == found["is_code"].null_count() == 4
    strict = add_features(frame.with_columns(text=pl.lit("1 5 2")), patterns="strict")
    assert not strict["is_incrementing"].any()
    some = frame.with_columns(pl.when(pl.col("sequence_id") != 1).then("tokens"))
    corpus = [tokens.ravel()]
    lacking, whole = (add_features(one, corpus=corpus) for one in (some, some.drop_nulls("tokens")))
    for name in ("rouge_l", "rouge_3", "duplicates"):
        assert lacking[name].is_null().to_list() == [False, True, False, False]
        assert lacking[name].drop_nulls().to_list() == whole[name].to_list()


def test_a_feature_without_its_column_is_null_of_its_type():
    """As is ROUGE of a padded row without a prefix or a suffix."""
    for columns, wanted in (
        ({"tokens": [[7] * 64], "attention_mask": [[0] * 32 + [1] * 32]}, (None,) * 6),
        ({"tokens": [[7] * 64], "attention_mask": [[1] * 32 + [0] * 32]}, (None,) * 6),
        (
            {"tokens": [[7] * 64], "attention_mask": [[0] * 31 + [1] * 33]},
            (2 / 33, 0.0, None, None, None, None),
        ),
        ({"text": ["1 5 2"]}, (None, None, True, False, None, None)),
        ({"tokens": [[7] * 64]}, (1.0, 1.0, None, None, None, None)),
        ({"text": [None]}, (None,) * 6),
    ):
        found = add_features(pl.DataFrame({"sequence_id": [1], **columns})).select(ADDED)
        assert found.rows() == [wanted]
        kinds = [pl.Float64, pl.Float64, pl.Boolean, pl.Boolean, pl.Int64, pl.Boolean]
        assert found.dtypes == kinds


@pytest.mark.parametrize("length", [2, 7])
def test_another_length_must_be_asked_for_and_an_odd_one_has_the_shorter_prefix(length):
    tokens = tokens_of(length=length)
    corpus, (prefixes, suffixes) = [tokens.ravel()], np.split(tokens, [length // 2], axis=1)
    frame = pl.DataFrame({"sequence_id": range(4), "tokens": tokens.tolist()})
    with pytest.raises(UserError, match=f"rows.jsonl, row 0: {length} tokens where 64 are needed"):
        add_features(frame, where="rows.jsonl")
    found = add_features(frame, length=length, corpus=corpus)
    np.testing.assert_array_equal(found["rouge_l"], rouge_l(prefixes, suffixes))
    np.testing.assert_array_equal(found["duplicates"], count_duplicates(suffixes, corpus))


def test_own_duplicates_and_code_are_kept_and_all_else_is_made_anew():
    tokens = tokens_of(2)
    frame = pl.DataFrame({"sequence_id": [1, 2], "tokens": tokens.tolist(), "mine": ["x", "y"]})
    corpus = [tokens[0], tokens[0], tokens[1]]
    own = frame.with_columns(duplicates=pl.Series([9, None]), is_code=pl.Series([True, None]))
    kept = add_features(own.with_columns(rouge_l=0.25), corpus=corpus)
    assert kept.select("duplicates", "is_code").rows() == [(9, True), (None, None)]
    assert kept["mine"].to_list() == ["x", "y"]
    assert add_features(kept, corpus=corpus).equals(kept)
    made = add_features(frame.with_columns(duplicates=None, is_code=None), corpus=corpus)
    assert made["duplicates"].to_list() == [2, 1]
    assert kept["rouge_l"].to_list() == made["rouge_l"].to_list()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"]}, "no column 'sequence_id'"),
        ({"sequence_id": [1], "text": [5]}, "column 'text'"),
        ({"sequence_id": [], "text": []}, "no rows"),
        ({"sequence_id": [1]}, "neither a column 'text' nor 'tokens'"),
        ({"sequence_id": [1], "token": [[1]]}, "Did you mean 'token'"),
        ({"sequence_id": [1, 1], "text": ["a", "b"]}, "row 1: sequence_id 1 is there already"),
        ({"sequence_id": [1], "tokens": [[1] * 63 + [None]]}, "row 0: a null among the tokens"),
        ({"code": "of"}, "no mode 'of'. Did you mean 'off'"),
        ({"patterns": "public"}, "no mode 'public'"),
        ({"length": 1}, "length 1"),
        ({"prefix": 0}, "prefix 0"),
        ({"prefix": 64}, "prefix 64"),
    ],
)
def test_tables_and_settings_that_cannot_be_used_are_refused(columns, words):
    asked = {} if columns.keys() & {"sequence_id", "text"} else columns
    columns = {"sequence_id": [1], "tokens": [[1] * 64]} if asked else columns
    assert words in refusal(add_features, pl.DataFrame(columns), **asked)


@pytest.mark.parametrize(
    ("ending", "lacking"),
    [("parquet", []), ("jsonl", []), ("parquet", "text"), ("jsonl", "tokens")],
)
def test_a_file_in_batches_gets_what_a_table_gets(ending, lacking, tmp_path, monkeypatch):
    frame = pl.DataFrame(
        {
            "sequence_id": range(20),
            "tokens": [None if row == 4 else one for row, one in enumerate(tokens_of(20).tolist())],
            "text": ["1 2 3 4", None, "abab", "plain"] * 5,
            "mine": [{"a": 1}] * 20,
        },
        schema_overrides={"tokens": pl.List(pl.Int32)},
    ).drop(lacking)
    corpus = [tokens_of(20).ravel()]
    wanted = add_features(frame, corpus=corpus)
    for module in ("features", "table"):
        monkeypatch.setattr(f"mnemoscope.data.{module}.BATCH_ROWS", 3)
    source, out = tmp_path / f"in.{ending}", tmp_path / "out.parquet"
    (frame.write_parquet if ending == "parquet" else frame.write_ndjson)(source)
    assert write_features(source, out, corpus=corpus) == 20
    assert pl.read_parquet(out).equals(wanted)
    assert pl.read_parquet(out).schema == wanted.schema
    assert pl.read_parquet_metadata(out)["mnemoscope.schema_version"] == "1"


def test_a_file_that_cannot_be_used_is_refused_by_its_row_and_leaves_nothing(tmp_path):
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    for tokens, words in [([1] * 63, "row 1: 63 tokens"), ([-1] * 64, "a number is below 0")]:
        pl.DataFrame({"sequence_id": [1, 2], "tokens": [[1] * 64, tokens]}).write_parquet(source)
        assert words in refusal(write_features, source, out)
        assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@given(st.text(min_size=2).filter(lambda text: len(set(text)) > 1))
def test_code_lengths_lie_within_a_bit_of_the_entropy(text):
    bound = entropy(list(Counter(text).values()), base=2)
    assert bound - 1e-9 <= shannon_length(text) < bound + 1  # 1e-9: the rounding of both sides
    for known, shannon in {"": 0, "aaaa": 0, "ab": 1, "abcd": 2, "aab": 4 / 3}.items():
        assert shannon_length(known) == pytest.approx(shannon)


@given(st.lists(st.lists(st.integers(0, 5), min_size=8, max_size=8), min_size=1, max_size=5))
def test_token_entropy_is_scipy_s(rows):
    wanted = [entropy(list(Counter(row).values()), base=2) for row in rows]
    assert np.allclose(token_entropy(rows), wanted, atol=1e-12)


def test_token_frequency_is_the_median_share_in_the_table():
    # Of 8 tokens five are 7, two are 1, one is 2.
    found = token_frequency([[7, 7, 7, 1], [7, 7, 1, 2]])
    assert found.tolist() == pytest.approx([62.5, (62.5 + 25) / 2])


def test_a_measure_without_its_column_is_null():
    frame = pl.DataFrame({"sequence_id": [1, 2], "text": ["ab", None]})
    found = measure_text(frame)
    assert found.columns == list(TEXT_MEASURES)
    assert found["shannon_length"].to_list() == [1.0, None]
    assert found["token_entropy"].null_count() == found["token_frequency"].null_count() == 2
    tokens = pl.Series("tokens", [[1, 2], [3, 3]])
    assert measure_text(frame.with_columns(tokens))["token_entropy"].to_list() == [1.0, 0.0]


class Magika:
    """Answers with the first word of a text, in magika's form."""

    def identify_bytes(self, data):
        return SimpleNamespace(output=SimpleNamespace(group=data.decode().split()[0]))


def test_features_ask_magika_unless_told_not_to_and_groups_become_yes_no_or_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "magika", SimpleNamespace(Magika=Magika))
    monkeypatch.setattr(code, "find_spec", lambda name: name)
    texts = ["code x", "text y", "unknown z", "image", None, ""]
    assert is_available()
    assert classify_code(texts) == [True, False, None, None, None, None]
    frame = pl.DataFrame({"sequence_id": [1, 2], "text": ["code x", "text y"]})
    assert add_features(frame)["is_code"].to_list() == [True, False]
    assert add_features(frame, code="magika")["is_code"].to_list() == [True, False]
    assert add_features(frame, code="off")["is_code"].to_list() == [None, None]


def test_without_magika_it_is_null_and_a_demand_is_refused():
    frame = pl.DataFrame({"sequence_id": [1], "text": ["x = 1"]})
    assert not is_available()
    assert add_features(frame)["is_code"].to_list() == [None]
    assert "pip install 'magika>=0.6'" in refusal(add_features, frame, code="magika")
