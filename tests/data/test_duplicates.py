"""Duplicate counts equal a count by hand, whatever the hash and the chunks do."""

import json
import struct
from functools import partial
from itertools import islice

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.data import corpus as corpus_files
from mnemoscope.data import duplicates as suffix_index
from mnemoscope.data.corpus import Place, open_corpus
from mnemoscope.data.duplicates import (
    SuffixIndex,
    count_duplicates,
    count_in_corpus,
    hash_ngrams,
    share_ngram,
)
from mnemoscope.errors import DamagedDataError, UserError
from refusals import refusal
from tools.embedded.corpus import NgramSet


def by_hand(suffixes, corpus):
    k = len(suffixes[0])
    return [
        sum(
            list(tokens[first : first + k]) == list(suffix)
            for tokens in corpus
            for first in range(len(tokens) - k + 1)
        )
        for suffix in suffixes
    ]


def test_arrays_of_mixed_types_agree_and_no_suffixes_give_no_counts():
    arrays = [np.arange(40, dtype=dtype) for dtype in (np.uint8, np.int32, np.uint64)]
    assert count_duplicates([np.arange(3, 35)], arrays).tolist() == [3]
    assert count_duplicates(np.empty((0, 32), int), [[1, 2]]).shape == (0,)


@pytest.mark.parametrize(
    ("suffixes", "corpus"),
    [([1, 2], [[1, 2]]), ([[1.5]], [[1]]), ([[1]], [[[1]]]), ([[1]], [1]), ([[1]], [[0.5]])],
)
def test_arrays_of_another_form_are_refused(suffixes, corpus):
    with pytest.raises(ValueError, match="integer token ids"):
        count_duplicates(suffixes, corpus)


def write_megatron(path, documents, dtype=np.uint16, code=8, sentences=1):
    """A .bin and its .idx as Megatron-LM's documentation lays them out."""
    pieces, first = [], [0]
    for tokens in documents:
        pieces += np.array_split(np.array(tokens, dtype=dtype), sentences)
        first.append(len(pieces))
    lengths = np.array([len(piece) for piece in pieces], dtype="<i4")
    starts = (np.cumsum(lengths) - lengths).astype("<i8") * np.dtype(dtype).itemsize
    np.concatenate([*pieces, np.array([], dtype=dtype)]).tofile(path)
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(lengths), len(first))
    path.with_suffix(".idx").write_bytes(
        header + lengths.tobytes() + starts.tobytes() + np.array(first, dtype="<i8").tobytes()
    )


def write_jsonl(path, documents):
    path.write_text("\n\n".join(json.dumps({"tokens": one, "x": 1}) for one in documents) + "\n")


def write_parquet(path, documents):
    column = pl.Series("tokens", [*documents, None], dtype=pl.List(pl.Int64))
    pl.DataFrame({"tokens": column}).write_parquet(path, row_group_size=2)


def write_flat(path, documents):
    np.array([token for one in documents for token in one], dtype=np.uint16).tofile(path)


def write_npy(path, documents):
    np.save(path, np.array([token for one in documents for token in one], dtype=np.int64))


def cut_to_rows(documents):
    width = max(1, min((len(one) for one in documents if one), default=1))
    return [one[:width] for one in documents if one]


def write_rows(path, documents):
    rows = cut_to_rows(documents)
    np.save(path, np.array(rows, dtype=np.uint32).reshape(-1, len(rows[0]) if rows else 1))


def write_folder(path, documents):
    path.mkdir()
    write_jsonl(path / "b.jsonl", documents[::2] or [[]])
    write_parquet(path / "a.parquet", documents[1::2])


def as_one(documents):
    return [[token for one in documents for token in one]]


WRITE_SENTENCES = partial(write_megatron, dtype=np.int32, code=4, sentences=3)

# What writes the documents, to which file, and as which documents it must be read.
FORMATS = {
    "flat": (write_flat, "c.bin", as_one),
    "npy": (write_npy, "c.npy", as_one),
    "npy of rows": (write_rows, "c.npy", cut_to_rows),
    "megatron": (write_megatron, "c.bin", list),
    "megatron of sentences": (WRITE_SENTENCES, "c.bin", list),
    "jsonl": (write_jsonl, "c.jsonl", list),
    "parquet": (write_parquet, "c.parquet", list),
    "folder": (write_folder, "corpus", list),
}


def written(kind, folder, documents):
    """Write the documents to a corpus; its path, and as which documents it must be read."""
    write, name, read_as = FORMATS[kind]
    write(folder / name, documents)
    return folder / name, read_as(documents)


def opened(path, tokenizer=None, dtype=None):
    return open_corpus(path, tokenizer=tokenizer, dtype=dtype)


def counted(suffixes, path, tokenizer=None, dtype=None, **options):
    corpus, progress = opened(path, tokenizer, dtype), path.with_name("progress")
    return count_in_corpus(np.array(suffixes, np.int32), corpus, progress_file=progress, **options)


@st.composite
def suffixes_and_documents(draw):
    tokens = st.integers(0, draw(st.sampled_from([0, 1, 2, 50_000])))
    k = draw(st.integers(1, 6))
    documents = draw(st.lists(st.lists(tokens, max_size=25), max_size=6))
    suffixes = draw(st.lists(st.lists(tokens, min_size=k, max_size=k), min_size=1, max_size=5))
    cuts = [row[i : i + k] for row in documents for i in range(len(row) - k + 1)]
    if cuts:
        suffixes += draw(st.lists(st.sampled_from(cuts), max_size=5))
    return suffixes, documents


def small_pieces(patch, n, *, weak=False):
    """Read so many tokens at a time; `weak`: with a hash that tells nothing apart."""
    if weak:
        patch.setattr(suffix_index, "_mix", lambda tokens: np.zeros(len(tokens), np.uint32))
    patch.setattr(corpus_files, "_FLAT_CHUNK_TOKENS", n)
    patch.setattr(corpus_files, "_CHUNK_TOKENS", n)
    patch.setattr(corpus_files, "_BATCH_ROWS", max(1, n // 4))
    patch.setattr(suffix_index, "_BLOCK_TOKENS", n)


@given(case=suffixes_and_documents(), n=st.integers(1, 12), weak=st.booleans())
def test_neither_hash_nor_chunks_change_a_count(case, n, weak):
    suffixes, documents = case
    wanted = by_hand(suffixes, documents)
    assert count_duplicates(suffixes, documents).tolist() == wanted
    with pytest.MonkeyPatch.context() as patch:
        small_pieces(patch, n, weak=weak)
        assert count_duplicates(suffixes, documents).tolist() == wanted


@pytest.mark.parametrize("kind", FORMATS)
@given(suffixes_and_documents(), st.integers(1, 12), st.booleans(), st.integers(0, 8))
@settings(max_examples=25)
def test_counts_equal_a_count_by_hand_also_from_a_place_on(
    kind, tmp_path_factory, case, n, weak, stop
):
    """Chunks up to a place and chunks from it on, by a newly opened corpus, are all of them."""
    suffixes, documents = case
    path, read = written(kind, tmp_path_factory.mktemp("c"), documents)
    n_tokens, place = 0, Place()
    with pytest.MonkeyPatch.context() as patch:
        small_pieces(patch, n, weak=weak)
        if not any(read):
            assert "no tokens in it" in refusal(counted, suffixes, path)
            return
        found = counted(suffixes, path)
        index = SuffixIndex(np.array(suffixes, np.int32))
        for chunk, after in islice(opened(path).chunks(place, index.k), stop):
            index.count(chunk.tokens, chunk.ends)
            n_tokens, place = n_tokens + chunk.n_new, after
        for chunk, _ in opened(path).chunks(place, index.k):
            index.count(chunk.tokens, chunk.ends)
            n_tokens += chunk.n_new
    assert found.counts.tolist() == index.counts_of_rows().tolist() == by_hand(suffixes, read)
    assert found.n_tokens == n_tokens == sum(map(len, read))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32"])
def test_ids_of_every_type_and_a_seam_between_real_chunks(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_files, "_FLAT_CHUNK_TOKENS", 1 << 17)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 60_000, (1 << 18) + 500).astype(dtype)
    if dtype == "uint32":
        tokens[5] = 2**32 - 1  # outside any int32: matches nothing, stops nothing
    if dtype == "int32":
        tokens[5] = -1
    suffix = tokens[(1 << 17) - 16 : (1 << 17) + 16].astype(np.int32)
    tokens[:32] = tokens[-32:] = suffix
    tokens.tofile(tmp_path / "train.bin")
    found = counted([suffix, suffix + 1, suffix], tmp_path / "train.bin", dtype=dtype)
    assert found.counts.tolist() == [3, 0, 3]


@given(case=suffixes_and_documents(), separator=st.integers(0, 2))
@settings(max_examples=60)
def test_a_separator_stands_inside_no_occurrence(case, separator, tmp_path_factory):
    """By hand: a separator belongs to the documents on both its sides."""
    suffixes, documents = case
    path, read = written("flat", tmp_path_factory.mktemp("c"), [*documents, [0, 1, 2]])
    counts = zip(suffixes, by_hand(suffixes, read), strict=True)
    wanted = [0 if separator in suffix[1:-1] else count for suffix, count in counts]
    assert counted(suffixes, path, separator=separator).counts.tolist() == wanted


def test_texts_are_cut_by_the_tokenizer_and_stay_apart(tokenizer, tmp_path):
    texts = ["the licence applies to the library", "to the library", "the library"]
    source = tmp_path / "texts"
    source.mkdir()
    (source / "a.txt").write_text(texts[0])
    (source / "b.md").write_text(texts[1])
    (source / "binary.dat").write_bytes(b"\0\1")
    (source / "c.jsonl").write_text(json.dumps({"text": texts[2]}) + "\n" + '{"text": null}\n')
    pl.DataFrame({"text": [None, texts[1]]}).write_parquet(source / "d.parquet")
    read = [tokenizer.encode(text, add_special_tokens=False) for text in [*texts, texts[1]]]
    suffixes = [one[-2:] for one in read] + [read[0][-1:] + read[1][:1]]
    found = counted(suffixes, source, tokenizer)
    assert found.counts.tolist() == by_hand(suffixes, read)
    assert found.n_tokens == sum(map(len, read))


BROKEN_INDICES = {
    "not a Megatron index": lambda _, idx: idx.write_bytes(
        b"something else, and long enough to be"
    ),
    "cut short": lambda _, idx: idx.write_bytes(idx.read_bytes()[:-1]),
    "bytes where its .idx says": lambda path, _: path.write_bytes(path.read_bytes() + b"\0\0"),
    "one after the other": lambda _, idx: idx.write_bytes(
        idx.read_bytes()[:34] + struct.pack("<ii", 2, 3) + idx.read_bytes()[42:]
    ),
}


@pytest.mark.parametrize("what", BROKEN_INDICES)
def test_an_index_that_does_not_fit_is_refused(what, tmp_path):
    path = tmp_path / "c.bin"
    write_megatron(path, [[1, 2, 3], [4, 5]])
    BROKEN_INDICES[what](path, path.with_suffix(".idx"))
    assert what in refusal(opened, path, error=DamagedDataError)


def test_what_the_index_says_already_is_not_asked_otherwise(tmp_path):
    write_megatron(tmp_path / "c.bin", [[1, 2, 3]])
    with pytest.raises(UserError, match="holds uint16 where dtype says int32"):
        opened(tmp_path / "c.bin", dtype="int32")
    assert "Leave separator out" in refusal(counted, [[1]], tmp_path / "c.bin", separator=0)


@given(st.lists(st.integers(0, 2), min_size=12, max_size=12), st.integers(2, 6))
def test_hashes_are_equal_exactly_where_the_stretches_are(tokens, n):
    hashes = hash_ngrams(np.array(tokens)[None], n=n)[0].tolist()
    stretches = [tokens[at : at + n] for at in range(len(tokens) - n + 1)]
    for i, one in enumerate(stretches):
        assert [hashes[i] == other for other in hashes] == [one == other for other in stretches]


def test_a_shared_stretch_is_found_at_any_two_offsets():
    windows = np.random.default_rng(0).integers(0, 2048, (3, 64))
    windows[1, 40:64] = windows[0, 3:27]
    assert share_ngram(windows, hash_ngrams(windows[:1]).ravel()).tolist() == [True, True, False]
    windows[1, 50] += 1
    assert share_ngram(windows, hash_ngrams(windows[:1]).ravel()).tolist() == [True, False, False]


def test_a_refused_window_leaves_the_set_as_it_was():
    used = NgramSet()
    assert [used.take(one) for one in ([1, 2], [2, 3], [3])] == [True, False, True]
    assert used.as_array().tolist() == [1, 2, 3]
