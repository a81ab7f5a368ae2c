"""A taxonomy is read from its name; what may be a misspelt node is never taken for a class."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.errors import UserError
from mnemoscope.taxonomy.catalogue import PAPER, PRASHANTH, catalogue
from mnemoscope.taxonomy.names import parse_taxonomy


def test_paper_and_prashanth_are_read() -> None:
    assert parse_taxonomy(PRASHANTH).classes == (
        "Non-Memo",
        "Recite[5]",
        "Reconstruct",
        "Recollect",
    )
    assert parse_taxonomy(PAPER).classes == ("Non-Memo", "Guess", "Recall")
    assert [node.name for node in parse_taxonomy(PRASHANTH).nodes] == ["Recite[5]", "Reconstruct"]


def test_classes_are_named_as_written_without_spaces() -> None:
    taxonomy = parse_taxonomy("  Non-Memo ,Guess[ 0.5-0.5 ],  By heart ")
    assert taxonomy.classes == ("Non-Memo", "Guess[0.5-0.5]", "By heart")
    assert taxonomy.name == "Non-Memo, Guess[0.5-0.5], By heart"
    assert taxonomy.published_name == "Non-Memo, Guess, Others"


@pytest.mark.parametrize("last", ["Recall", "Recollect", "Others", "Recal", "Rest", "Rote", "Memo"])
def test_last_class_is_free(last: str) -> None:
    assert parse_taxonomy(f"Non-Memo, Code, {last}").classes[-1] == last


def test_two_classes_are_a_taxonomy() -> None:
    assert parse_taxonomy("Non-Memo, Memo").nodes == ()


@pytest.mark.parametrize(
    ("last", "meant"),
    [
        ("Recolect[5]", "Recollect[5]"),
        ("Recollect[5", "Recollect[5]"),
        ("Recolect", "Recollect[5]"),
        ("Recite", "Recite[5]"),
        ("Recite5", "Recite[5]"),
        ("recite[50]", "Recite[50]"),
        ("Guesss", "Guess"),
        ("Geuss", "Guess"),
        ("Gues[0.4-0.4]", "Guess[0.4-0.4]"),
        ("Reconstrct", "Reconstruct"),
        ("Reconstruction", "Reconstruct"),
        ("code", "Code"),
        ("Cdoe", "Code"),
        ("Gues-or-Recollect[5]", "Guess-or-Recollect[5]"),
    ],
)
def test_last_class_near_a_node_is_refused_with_the_node(last: str, meant: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"Did you mean '{meant}'?")):
        parse_taxonomy(f"Non-Memo, {last}")


@pytest.mark.parametrize(
    "last", ["Guess", "Guess[0.4-off]", "Recite[7]", "Code-or-Recite[5]", "X[3]"]
)
def test_last_class_that_is_written_as_a_node_is_refused(last: str) -> None:
    with pytest.raises(UserError, match="written like a node"):
        parse_taxonomy(f"Non-Memo, Reconstruct, {last}")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "begins with the class Non-Memo"),
        ("Guess, Recall", "begins with the class Non-Memo"),
        ("NonMemo, Guess, Recall", "Did you mean 'Non-Memo'?"),
        ("Guess, Non-Memo, Recall", "begins with the class Non-Memo"),
        ("Non-Memo", "only one class"),
        ("Non-Memo,", "a class has no name"),
        ("Non-Memo, , Recall", "a class has no name"),
        ("Non-Memo, Non-Memo", "is taken"),
        ("Non-Memo, Guess, Non-memo", "is taken"),
        ("Non-Memo, Guess, null", "is taken"),
        ("Non-Memo, Guess, Guess, Recall", "twice"),
        ("Non-Memo, Guess, Guess[0.5-0.5], Recall", "twice"),
        ("Non-Memo, Recite[1k], Recite[1000], Recall", "twice"),
        ("Non-Memo, Recitte[5], Recall", "Did you mean 'Recite[5]'?"),
        ("Non-Memo, Recall, Others", "unknown node 'Recall'"),
        ("Non-Memo, Recite[1,000], Recall", "unknown node 'Recite[1'"),
    ],
)
def test_wrong_taxonomy_is_refused_in_one_line_with_its_name(name: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_taxonomy(name)
    assert says in str(refused.value)
    assert f"'{name}'" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_slugs_are_safe_for_files_and_all_different() -> None:
    names = [taxonomy.name for taxonomy in catalogue()]
    names += [PRASHANTH, PAPER, "Non-Memo, Guess[0.5-0.5], Recall", "Non-Memo, Guess, recall"]
    names += ["Non-Memo, Code, a b", "Non-Memo, Code, a-b", "Non-Memo, Code, a/../b"]
    names += ["Non-Memo, Code, Überrest", "Non-Memo, Code, " + "x" * 300]
    slugs = [parse_taxonomy(name).slug for name in names]
    assert len({slug.lower() for slug in slugs}) == len(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,120}", slug) for slug in slugs)
    assert parse_taxonomy(PRASHANTH).slug == "recite-5_reconstruct_recollect"


@given(st.text(max_size=40))
def test_any_last_name_is_taken_as_it_is_or_refused(last: str) -> None:
    try:
        taxonomy = parse_taxonomy(f"Non-Memo, Guess, {last}")
    except UserError:
        return
    assert parse_taxonomy(taxonomy.name) == taxonomy
    assert len(taxonomy.classes) == len(taxonomy.nodes) + 2
    assert "/" not in taxonomy.slug
