"""What is repeated is counted by folder and document, and folders that differ are named."""

import polars as pl
import pytest

from mnemoscope.report.documents import (
    by_document,
    document_tables,
    folder_sentence,
    repeated_by_document,
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
    assert by_folder.rows[0][:5] == ("new/", 40, 0, 0, 0)
    assert str(by_folder.rows[0][5]).startswith("0.0 % [0.0, ")


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
    ("counts", "said"),
    [
        (SPLIT, "read/a.txt 30 of 30, read/b.txt 19 of 20, the other 1 none"),
        ({f"{at}": (10, at) for at in range(8)},
         "7 7 of 10, 6 6 of 10, 5 5 of 10, 4 4 of 10, 3 3 of 10, 2 more 3 of 20, "
         "the other 1 none"),
        ({"a": (2, 1), "b": (2, 2)}, "b 2 of 2, a 1 of 2"),
        ({"a": (2, 0), "b": (2, 0)}, ""),
        ({"a": (20, 10)}, ""),
        ({f"a/{at}": (1, 1) for at in range(20)}, ""),
    ],
)  # fmt: skip
def test_documents_are_named_in_a_line_those_with_most_first(counts, said):
    assert repeated_by_document(table_of(counts)) == said
