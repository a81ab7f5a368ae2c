"""The notebook of the documentation, run cell by cell."""

import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "first_study.ipynb"


def run(folder: Path) -> list:
    """The code cells after they were run; a cell that raises fails the test."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [cell for cell in book.cells if cell.cell_type == "code"]


def check(cells: list) -> None:
    """Each cell shows something: tables as HTML, figures as SVG."""
    shown = [out["data"] for cell in cells for out in cell.outputs if "data" in out]
    assert all(cell.outputs for cell in cells)
    assert sum("image/svg+xml" in one for one in shown) == 3
    assert sum("text/html" in one for one in shown) >= 5


def test_notebook_runs_on_a_finished_study(small_demo, tmp_path) -> None:
    shutil.copytree(small_demo, tmp_path / "demo")  # so that its first cell finds all done
    check(run(tmp_path))


@pytest.mark.slow
def test_notebook_runs_from_nothing(tmp_path) -> None:
    check(run(tmp_path))
    assert (tmp_path / "demo" / "report.html").is_file()


def test_notebook_is_kept_without_outputs() -> None:
    book = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)
