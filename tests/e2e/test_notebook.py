"""The notebooks of the documentation, run cell by cell."""

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOK = NOTEBOOKS / "first_study.ipynb"
SETTINGS = (
    "settings = ms.demo_settings(small=True)\n"
    'settings.label.taxonomies = ["Non-Memo, Guess, Recall"]\n'
)
OWN_SETTINGS = 'settings = ms.Study("demo").settings\n'
THREE_MINUTES_OF_TWO_CORES = 360.0  # CPU seconds: a clock would count other work too


@pytest.fixture(scope="module")
def kernel() -> Iterator:
    """One kernel for all notebooks, which empty it first: its imports take seconds."""
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(), kernel_name="python3")
    with client.setup_kernel():
        yield client.km


def run(folder: Path, old: str = "", new: str = "", *, notebook: Path = NOTEBOOK, km=None) -> list:
    """The code cells after they were run, some source exchanged; one that raises fails the test."""
    book = nbformat.read(notebook, as_version=4)
    for cell in book.cells:
        cell.source = cell.source.replace(old, new)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    emptied = nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {folder}")
    book.cells.insert(0, emptied)
    nbclient.NotebookClient(book, timeout=3600, kernel_name="python3", km=km).execute()
    return code


def check(cells: list) -> None:
    """Each cell shows something: tables as HTML, figures as SVG."""
    shown = [out["data"] for cell in cells for out in cell.outputs if "data" in out]
    assert all(cell.outputs for cell in cells)
    assert sum("image/svg+xml" in one for one in shown) == 3
    assert sum("text/html" in one for one in shown) >= 5


def test_notebook_runs_on_a_finished_study(small_demo, tmp_path, kernel):
    shutil.copytree(small_demo, tmp_path / "demo")  # so that its first cell finds all done
    assert SETTINGS in nbformat.read(NOTEBOOK, as_version=4).cells[2].source
    check(run(tmp_path, SETTINGS, OWN_SETTINGS, km=kernel))


@pytest.mark.parametrize("name", ["scan_and_classify", "reader_and_controls", "audit_a_text"])
def test_notebooks_of_the_library_run_and_end_in_what_they_promise(name, tmp_path, kernel) -> None:
    cells = run(tmp_path, notebook=NOTEBOOKS / f"{name}.ipynb", km=kernel)
    shown = [out["data"] for cell in cells for out in cell.outputs if "data" in out]
    assert sum("text/html" in one for one in shown) >= 3
    said = " ".join(str(one.get("text/html", "")) + one["text/plain"] for one in shown)
    assert {
        "scan_and_classify": "recalled windows are left",
        "reader_and_controls": "undecided",
        "audit_a_text": "recalled",
    }[name] in said
    assert not any("Error" in out.get("name", "") for cell in cells for out in cell.outputs)


@pytest.mark.slow
def test_notebook_runs_from_nothing_in_three_minutes_of_two_cores(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    check(run(tmp_path))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{used:.0f} CPU seconds")
    assert 1 < used < THREE_MINUTES_OF_TWO_CORES
    assert (tmp_path / "demo" / "report.html").is_file()


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda one: one.stem)
def test_notebooks_are_kept_without_outputs(path) -> None:
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)
