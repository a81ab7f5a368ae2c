"""The catalogue is the published one, and taxonomies come as users ask for them."""

from pathlib import Path

import pytest

from mnemoscope.errors import UserError
from mnemoscope.taxonomy.catalogue import (
    PAPER,
    PRASHANTH,
    catalogue,
    load_taxonomies,
    rho_name,
    rho_sweep,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "published_taxonomies.txt"


def test_catalogue_holds_exactly_the_54_published_names() -> None:
    names = [taxonomy.name for taxonomy in catalogue()]
    assert sorted(names) == GOLDEN.read_text(encoding="utf-8").splitlines()
    assert len(names) == len(set(names)) == 54


def test_half_of_the_catalogue_has_four_classes() -> None:
    sizes = [len(taxonomy.classes) for taxonomy in catalogue()]
    assert sizes == [4] * 27 + [3] * 27


def test_published_name_leads_back_to_the_published_table() -> None:
    assert all(taxonomy.published_name == taxonomy.name for taxonomy in catalogue())
    prashanth, paper = load_taxonomies([PRASHANTH, PAPER])
    assert prashanth.published_name == "Non-Memo, Recite[5], Reconstruct, Others"
    assert paper.published_name == "Non-Memo, Guess, Others"


def test_names_words_and_files_are_loaded_in_order_and_once(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("taxonomies:\n  - Non-Memo, Recite[7], Rest\n  - " + PAPER + "\n")
    loaded = load_taxonomies([PAPER, str(file), "Non-Memo,Guess,Recall", "catalogue"])
    assert [taxonomy.name for taxonomy in loaded[:2]] == [PAPER, "Non-Memo, Recite[7], Rest"]
    assert len(loaded) == 2 + 54


def test_rho_sweep_follows_the_rows_of_the_published_table() -> None:
    names = [taxonomy.name for taxonomy in rho_sweep()]
    assert len(names) == len(set(names)) == 27
    assert names[:2] == ["Non-Memo, Guess[0.6-0.6], Recall", "Non-Memo, Guess[0.6-off], Recall"]
    assert names[7] == "Non-Memo, Guess[off-0.5], Recall"
    assert [taxonomy.name for taxonomy in load_taxonomies(["rho"])] == names


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_rho_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(UserError, match=r"Choose a threshold in \[0, 1\]"):
        rho_name(threshold, rouge_l=True, rouge_3=True)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (["catalog"], "Did you mean 'catalogue'?"),
        (["roh"], "Did you mean 'rho'?"),
        (["Non-Memo, Guess[1.1-off], Recall"], "threshold '1.1' is not a number in [0, 1]"),
        (["Non-Memo, Guess[-0.5-off], Recall"], "each a number in [0, 1] or off"),
        (["Recite[5]"], "begins with the class Non-Memo"),
        (["no/such.yaml"], "no such file"),
        ([], "no taxonomy is named"),
    ],
)
def test_unknown_taxonomies_are_refused(spec: list[str], says: str) -> None:
    with pytest.raises(UserError) as refused:
        load_taxonomies(spec)
    assert says in str(refused.value)
