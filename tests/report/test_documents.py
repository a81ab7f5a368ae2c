"""What is repeated is counted by folder and document, and folders that differ are named."""

import numpy as np
import polars as pl
import pytest

from mnemoscope.report.documents import (
    block_of,
    block_sentence,
    by_document,
    document_sentence,
    document_tables,
    folder_sentence,
    nearly_sentence,
)


def table_of(counts: dict[str, tuple[int, int]]) -> pl.DataFrame:
    """So many sequences of each document, and so many of these repeated; all are distinct."""
    rows = [(name, at < part) for name, (n, part) in counts.items() for at in range(n)]
    table = pl.DataFrame(rows, schema=["document", "is_memorized"], orient="row")
    return table.with_row_index("sequence_id").with_columns(
        tokens=pl.concat_list([pl.col("sequence_id") * 8 + at for at in range(8)])
    )


SPLIT = {"read/a.txt": (30, 30), "read/b.txt": (20, 19), "new/a.txt": (40, 0)}


def test_folders_and_documents_are_counted_with_their_classes():
    table = table_of(SPLIT)
    labels = pl.Series(["Recall" if one else "Non-Memo" for one in table["is_memorized"]])
    folders, documents = by_document(table, labels, ["Guess", "Recall"])
    assert [one[:3] for one in folders] == [("new/", 40, 0), ("read/", 50, 49)]
    assert dict(folders[1].classes) == {"Guess": 0, "Recall": 49}
    assert [one.name for one in documents] == ["new/a.txt", "read/a.txt", "read/b.txt"]
    assert folder_sentence(folders) == "Repeated by folder: read/ 49 of 50, new/ 0 of 40."
    by_folder, _ = document_tables(folders, documents)
    words = "folder, sequences, repeated, Guess, Recall, share repeated"
    assert ", ".join(by_folder.columns) == words
    assert by_folder.rows[1][:5] == ("new/", 40, 0, 0, 0)  # what is repeated most comes first
    assert str(by_folder.rows[1][5]).startswith("0.0 % [0.0, ")


def test_a_document_has_its_mean_score_and_what_is_nearly_repeated():
    table = table_of({"a": (10, 2), "b": (5, 0)})
    scores = [1.0, 1.0, *(0.9, 0.95, 0.899), *[0.0] * 5, *[0.1] * 5]
    _, documents = by_document(table.with_columns(memorization_score=pl.Series(scores)))
    assert [one.nearly for one in documents] == [0.2, 0.0]
    assert [one.score for one in documents] == pytest.approx([sum(scores[:10]) / 10, 0.1])
    (made,) = document_tables([], documents)
    assert made.columns[-2:] == ("nearly repeated", "mean score")
    # A scan knows the score of what is memorized alone.
    half = pl.Series([one if one == 1 else None for one in scores])
    _, documents = by_document(table.with_columns(memorization_score=half))
    assert {one.score for one in documents} == {None}


FIVE = {name: (9, at) for at, name in enumerate("edcba", 1)}


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"f": (42, 6), "p": (60, 36)} | dict.fromkeys("abcd", (9, 0)), "p 36 of 60, f 6 of 42, "
         "the other 4 none"),
        ({"f": (42, 6), "p": (60, 0)}, "f 6 of 42, p 0 of 60"),
        ({"x/f": (42, 6), "new/a": (9, 0), "new/b": (9, 0)}, "x/f 6 of 42, the other 2 none; "
         "in new/ 0 of 18"),
        (FIVE, "a 5 of 9, b 4 of 9, c 3 of 9, 2 others together 3 of 18"),
        (FIVE | {f"{at}": (2, 0) for at in range(50)}, "a 5 of 9, b 4 of 9, c 3 of 9, "
         "2 others together 3 of 18, the other 50 none"),
        ({"f": (42, 0), "p": (60, 0)}, ""),
        ({"f": (42, 6)}, ""),
        ({f"{at}": (1, 1) for at in range(20)}, ""),  # each sequence is a document
    ],
)  # fmt: skip
def test_the_first_screen_names_the_documents_of_what_is_repeated(counts, said):
    assert document_sentence(table_of(counts)) == (f"Repeated by document: {said}." if said else "")
    assert not document_sentence(table_of(counts).drop("document"))
    assert not document_sentence(table_of(counts).with_columns(inserted=0))


@pytest.mark.parametrize(
    ("counts", "n_folders", "n_documents"),
    [
        ({"x/read/a": (20, 10), "x/read/b": (20, 12)}, 0, 2),  # one folder holds them all
        ({"a": (20, 10), "new/a": (20, 12)}, 2, 2),  # folders that do not differ
        ({"read/a": (5, 5), "new/a": (5, 0)}, 2, 2),  # too few for an interval
        ({"a": (20, 10)}, 0, 0),
        ({f"a/{at}": (1, 1) for at in range(20)}, 0, 0),  # each sequence is a document
        ({f"{at % 2}/{at}": (2, 2 * (at % 2)) for at in range(60)}, 2, 0),
    ],
)
def test_what_says_nothing_has_no_table_and_no_sentence(counts, n_folders, n_documents):
    folders, documents = by_document(table_of(counts))
    assert (len(folders), len(documents)) == (n_folders, n_documents)
    assert bool(folder_sentence(folders)) == (len(counts) == 60)
    assert not [*by_document(table_of(counts).drop("document"))[0]]


def test_copies_of_one_text_are_one_group():
    table = table_of(SPLIT).with_columns(tokens=pl.lit([1, 2, 3, 4, 5, 6, 7, 8]))
    folders, _ = by_document(table)
    assert [one.share.low for one in folders] == [None, None]
    assert not folder_sentence(folders)


@pytest.mark.parametrize(
    ("n_whole", "scores", "said"),
    [
        (1, [0.9, 0.8], "Another 1 comes out nearly: at most a tenth"),
        (1, [0.9, 0.95], "Another 2 come out nearly"),
        (5, [0.9, 0.95], ""),  # enough come out word for word
        (1, [0.8, None], ""),
    ],
)
def test_where_few_come_out_word_for_word_it_says_how_many_come_out_nearly(n_whole, scores, said):
    every = [1.0] * n_whole + scores + [0.1] * (20 - n_whole)
    rows = {"is_memorized": [one == 1 for one in every], "memorization_score": every}
    table = pl.DataFrame(rows)
    assert nearly_sentence(table).startswith(said)
    assert bool(nearly_sentence(table)) == bool(said)
    assert nearly_sentence(table.drop("memorization_score")) == ""


@pytest.mark.parametrize("n", [2, 3, 4])
def test_windows_that_are_repeated_one_in_n_show_the_blocks_that_a_model_read(n: int) -> None:
    """Documents begin at other places; one repeated window in ten may stand elsewhere."""
    rows = [
        (f"{document}.txt", 100 * document + 7 * at, at % n == 0 or (document, at) == (1, 1))
        for document in range(4)
        for at in range(8 * n)
    ]
    table = pl.DataFrame(rows, schema=["document", "start", "is_memorized"], orient="row")
    table = table.sample(fraction=1.0, shuffle=True, seed=0)  # in whatever order
    assert block_of(table) == (n, 32)
    which = {2: "second", 3: "third", 4: "4th"}[n]
    said = block_sentence(table, 64)
    assert said.startswith(f"32 of these 33 are every {which} window of their document: ")
    assert f"blocks of {64 * n} tokens" in said


def test_no_blocks_are_seen_where_any_window_may_come_out_or_few_do() -> None:
    rng = np.random.default_rng(0)
    rows = [(str(n), at, bool(rng.random() < 0.4)) for n in range(20) for at in range(20)]
    table = pl.DataFrame(rows, schema=["document", "start", "is_memorized"], orient="row")
    assert table["is_memorized"].sum() > 100
    few = table.with_columns(is_memorized=(pl.col("document") == "1") & (pl.col("start") % 2 == 0))
    every = table.with_columns(is_memorized=pl.lit(True))
    for one in (table, few, every, table.drop("start"), table.drop("document")):
        assert block_of(one) is None
        assert block_sentence(one, 64) == ""
