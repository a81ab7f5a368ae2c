"""What the corpus promises: sequences apart from all else, duplicates as counted."""

from collections import Counter

import numpy as np

from mnemoscope.data.duplicates import NGRAM
from tools.embedded.corpus import PREFIX, phase_two_rows, rouge_l
from tools.embedded.recipe import shipped_sequences
from tools.embedded.settings import FULL, TINY


def _stretches(rows: np.ndarray, n: int) -> set[bytes]:
    data = np.ascontiguousarray(rows, np.uint16)
    return {row[at : at + n].tobytes() for row in data for at in range(data.shape[1] - n + 1)}


def _tokens(frame) -> np.ndarray:
    return np.array(frame["tokens"].to_list(), np.uint16)


def test_no_sequence_shares_24_tokens_with_another_nor_with_what_is_trained_before(tiny_build):
    corpus = tiny_build.corpus
    stretches = [_stretches(row[None], NGRAM) for row in _tokens(corpus.study)]
    study = set().union(*stretches)
    assert sum(map(len, stretches)) == len(study)
    for rows in (*corpus.first, *corpus.second_new):
        assert not study & _stretches(rows, NGRAM)


def test_every_share_has_its_size_and_its_repeats(tiny_build):
    counts = Counter(tiny_build.corpus.study["source"])
    for source in {share.source for share in TINY.study}:
        assert counts[source] == sum(s.n for s in TINY.study if s.source == source)
    rows = phase_two_rows(tiny_build.corpus, 0)
    assert len(rows) == tiny_build.corpus.study["inserted"].sum() + TINY.second_templates


def test_counted_duplicates_equal_brute_force(tiny_build):
    shipped = shipped_sequences(tiny_build.corpus)
    rows = np.ascontiguousarray(phase_two_rows(tiny_build.corpus, 1), np.uint16)
    found = Counter(
        row[at : at + PREFIX].tobytes() for row in rows for at in range(rows.shape[1] - PREFIX + 1)
    )
    expected = [found[row[PREFIX:].tobytes()] for row in _tokens(shipped)]
    assert shipped["duplicates"].to_list() == expected
    assert shipped.filter("held_out")["duplicates"].sum() == 0
    text = shipped.filter(shipped["genre"] != "template")
    assert text["duplicates"].to_list() == text["inserted"].to_list()


def test_rows_encode_to_their_tokens_and_rouge_sets_records_apart(tiny_build):
    """ROUGE catches templates that repeat, and those alone."""
    for row in tiny_build.corpus.study.iter_rows(named=True):
        assert tiny_build.tokenizer.encode(row["text"]).ids == row["tokens"]
        if row["genre"] == "template":
            is_caught = rouge_l(row["tokens"]) >= 0.5
            assert is_caught == (row["source"] in ("counting", "periodic"))


def test_the_full_setting_is_the_one_of_the_card():
    rows = FULL.first_text_rows + FULL.first_templates
    assert FULL.first_epochs * rows // FULL.batch_size == 2406
    assert sum(share.n for share in FULL.study) < 8500


def test_digits_are_tokens_of_their_own_and_nothing_is_prepended(tiny_build):
    encoding = tiny_build.tokenizer.encode("2024, x1")
    assert encoding.tokens[:4] == ["2", "0", "2", "4"]
    assert encoding.tokens[-1] == "1"
    assert tiny_build.tokenizer.token_to_id("<|endoftext|>") == 0
