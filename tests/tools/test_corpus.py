"""What the corpus promises: factors crossed, sequences apart, duplicates as counted."""

import dataclasses
from collections import Counter

import numpy as np
import polars as pl
import pytest

from mnemoscope.data.duplicates import NGRAM
from tools.embedded.corpus import (
    MIN_DISTINCT_TOKENS,
    PERIODS,
    PREFIX,
    NgramSet,
    Window,
    build_corpus,
    calls_guess,
    choose_study,
    copy_rows,
    phase_two_rows,
    rows_as_read,
)
from tools.embedded.measure import period_of, suffixes_in_itself
from tools.embedded.recipe import LICENCES, shipped_sequences
from tools.embedded.settings import FULL, KINDS, READS, TINY, Share, of_the_reference

pytestmark = pytest.mark.whole


def _stretches(rows: np.ndarray, n: int) -> np.ndarray:
    """Hashes (rows, stretches) of every n tokens in a row: where these differ, so do the tokens."""
    factors = np.random.default_rng(0).integers(1, 2**63, n, dtype=np.uint64)
    width = rows.shape[1] - n + 1
    return sum(rows[:, at : at + width].astype(np.uint64) * f for at, f in enumerate(factors))


def _tokens(frame) -> np.ndarray:
    return np.array(frame["tokens"].to_list(), np.uint16)


def test_no_sequence_shares_24_tokens_with_another_nor_with_anything_else_trained_on(tiny_build):
    corpus = tiny_build.corpus
    own = [np.unique(row) for row in _stretches(_tokens(corpus.study), NGRAM)]
    study = np.concatenate(own)
    assert len(np.unique(study)) == len(study) > 0
    for rows in (corpus.copies, corpus.first, corpus.second_new, corpus.other):
        assert not np.isin(_stretches(rows, NGRAM), study).any()


@pytest.mark.parametrize("setting", [FULL, TINY])
def test_every_kind_has_the_same_numbers_of_each_form_at_each_reading(setting):
    of = {(share.kind, share.form): share.numbers for share in setting.study}
    for form in ("plain", "rule", "refrain"):
        (numbers,) = {of[kind, form] for kind in KINDS}
        assert len(numbers) == len(READS)
        assert min(numbers) > 0
    assert [kind for kind, _ in of if kind not in KINDS] == ["template"] * 2


def test_every_cell_has_its_number_at_every_reading_and_phase_two_its_rows(tiny_build):
    study = tiny_build.corpus.study
    counts = Counter(study.select("genre", "form", "inserted").iter_rows())
    for share in TINY.study:
        for number, read in zip(share.numbers, READS, strict=True):
            assert counts[share.kind, share.form, read] == number
    assert len(study) == sum(counts.values()) == sum(share.n for share in TINY.study)
    rows = phase_two_rows(tiny_build.corpus)
    assert len(rows) == study["inserted"].sum() + sum(TINY.second_rows)
    read = Counter(row.tobytes() for row in rows)
    for row, inserted in zip(_tokens(study), study["inserted"], strict=True):
        assert read[row.tobytes()] == inserted


def test_the_reference_reads_as_much_as_the_model_as_often_of_the_same_kinds(tiny_build):
    corpus = tiny_build.corpus
    read = [
        Counter(Counter(map(bytes, rows)).values())
        for rows in (rows_as_read(corpus.study), corpus.other)
    ]
    assert read[0] == read[1]
    assert len(read[0]) > 2
    for own, other in zip(FULL.study, of_the_reference(FULL.study), strict=True):
        assert (other.kind, other.numbers[0], other.numbers[1:]) == (own.kind, 0, own.numbers[1:])
        stands_in = (own.kind, own.form) == ("prose", "rule")
        assert other.form == ("plain" if stands_in else own.form)
    windows = [Window(list(row), "", 0, 0) for row in np.unique(corpus.other, axis=0)]
    shares = of_the_reference(TINY.study)
    n_guess = sum(sum(one.numbers) for one in shares if one.form != "plain")
    assert sum(calls_guess(tiny_build.tokenizer, windows)) == n_guess


def test_the_reference_reads_none_of_what_the_model_reads(tiny_build, tiny_segments):
    """Of a text of which the model's sequences take three quarters too little is left."""
    few = tiny_segments[:300]

    def corpus(n):
        study = (Share("code", "plain", (0, n, 0, 0, 0)),)
        return build_corpus(few, tiny_build.tokenizer, dataclasses.replace(TINY, study=study))

    with pytest.raises(ValueError, match="code, plain") as found:
        corpus(10_000)
    n = int(str(found.value).split()[2])
    assert n > 20
    with pytest.raises(ValueError, match=f"windows of {3 * n // 4}"):
        corpus(3 * n // 4)


def test_the_deal_of_readings_changes_no_sequence_and_no_other_cell(tiny_build, tiny_windows):
    """Which sequences a cell holds does not hang on how often they will be read."""
    tokenizer = tiny_build.tokenizer
    cells = {"plain": (6, 0, 0, 0, 0), "refrain": (4, 0, 0, 0, 4)}
    other = cells | {"plain": (2, 1, 1, 1, 1)}

    def drawn(numbers: dict[str, tuple[int, ...]]) -> dict[str, pl.DataFrame]:
        shares = tuple(Share("code", form, many) for form, many in numbers.items())
        setting = dataclasses.replace(TINY, study=shares)
        frame = choose_study(tiny_windows, tokenizer, setting, NgramSet())
        return {form: frame.filter(form=form).sort("text") for form in numbers}

    one, two = drawn(cells), drawn(other)
    for form in cells:
        assert one[form]["text"].to_list() == two[form]["text"].to_list()
    assert one["refrain"]["inserted"].equals(two["refrain"]["inserted"])
    assert sorted(two["plain"]["inserted"]) == [0, 0, 1, 4, 16, 64]


def test_refrains_repeat_every_4_to_16_tokens_and_the_published_rule_is_of_all_but_plain_text(
    tiny_build,
):
    low, high = PERIODS
    study = tiny_build.corpus.study
    windows = [Window(tokens, "") for tokens in study["tokens"].to_list()]
    assert calls_guess(tiny_build.tokenizer, windows) == (study["form"] != "plain").to_list()
    for row in study.iter_rows(named=True):
        tokens = np.array(row["tokens"])
        assert tiny_build.tokenizer.encode(row["text"]).ids == row["tokens"]
        found = [p for p in range(low, high + 1) if (tokens[p:] == tokens[:-p]).all()]
        if row["form"] == "refrain":
            assert found, row["text"]
            assert period_of(row["tokens"]) <= found[0]
        elif row["genre"] != "template":
            assert period_of(row["tokens"]) is None
            if row["genre"] != "record":
                assert len(set(row["tokens"])) >= MIN_DISTINCT_TOKENS


def test_random_rows_repeat_and_have_every_period():
    rows = copy_rows(600, 512, 1)
    assert rows.min() >= 1  # 0 ends a text
    assert rows.max() < 512
    assert {period_of(row.tolist()) for row in rows} >= set(range(2, PERIODS[1] + 1))
    assert np.array_equal(rows, copy_rows(600, 512, 1))
    assert not np.array_equal(rows, copy_rows(600, 512, 2))


def test_counted_duplicates_equal_brute_force_and_a_closed_form(tiny_build):
    """A refrain of period p holds its suffix at every p-th place: 32 // p + 1 times a reading."""
    shipped = shipped_sequences(tiny_build.corpus)
    rows = np.ascontiguousarray(phase_two_rows(tiny_build.corpus), np.uint16)
    found = Counter(
        row[at : at + PREFIX].tobytes() for row in rows for at in range(rows.shape[1] - PREFIX + 1)
    )
    expected = [found[row[PREFIX:].tobytes()] for row in _tokens(shipped)]
    assert shipped["duplicates"].to_list() == expected
    assert shipped.filter("held_out")["duplicates"].sum() == 0
    for row in shipped.iter_rows(named=True):
        period = period_of(row["tokens"]) or 2 * PREFIX
        assert suffixes_in_itself(row["tokens"]) == PREFIX // period + 1
        assert row["duplicates"] == row["inserted"] * (PREFIX // period + 1)


def test_windows_of_text_lie_in_one_segment_each_whose_licence_is_on_the_card(
    tiny_windows, tiny_segments
):
    of_one = dict[int, int]()
    spans = (tiny_windows[name].tolist() for name in ("segment", "start", "end"))
    for segment, start, end in zip(*spans, strict=True):
        assert of_one.get(segment, -1) <= start < end
        of_one[segment] = end
    assert {one.licence for one in tiny_segments} <= {licence for _, _, licence in LICENCES}


def test_digits_are_tokens_of_their_own_and_nothing_is_prepended(tiny_build):
    encoding = tiny_build.tokenizer.encode("2024, x1")
    assert encoding.tokens[:4] == ["2", "0", "2", "4"]
    assert encoding.tokens[-1] == "1"
    assert tiny_build.tokenizer.token_to_id("<|endoftext|>") == 0
