"""The notebooks of the documentation, run cell by cell."""

import resource
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole

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


def code_of(notebook: Path, old: str = "", new: str = "") -> list:
    """The code cells of a notebook, some source exchanged."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    for cell in code:
        cell.source = cell.source.replace(old, new)
    return code


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the code of a notebook in this process, which has the imports that a kernel would make.

    Gives the cells with what each displays; one that raises fails the test.
    """
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    monkeypatch.chdir(tmp_path)

    def run(notebook: Path, old: str = "", new: str = "") -> list:
        InteractiveShell.clear_instance()
        shell = InteractiveShell.instance()
        shell.history_manager.enabled = False
        code = code_of(notebook, old, new)
        for cell in code:
            with capture_output() as captured:
                done = shell.run_cell(cell.source)
            done.raise_error()
            shown = [one.data for one in captured.outputs]
            if done.result is not None:
                shown.append(shell.display_formatter.format(done.result)[0])
            cell.outputs = [nbformat.from_dict({"data": one}) for one in shown]
        return code

    yield run
    InteractiveShell.clear_instance()


def check(cells: list) -> None:
    """Each cell shows something: tables as HTML, figures as SVG."""
    shown = [out["data"] for cell in cells for out in cell.outputs if "data" in out]
    assert all(cell.outputs for cell in cells)
    assert sum("image/svg+xml" in one for one in shown) == 3
    assert sum("text/html" in one for one in shown) >= 5


def test_notebook_runs_on_a_finished_study(small_demo, tmp_path, run):
    shutil.copytree(small_demo, tmp_path / "demo")  # so that its first cell finds all done
    assert SETTINGS in nbformat.read(NOTEBOOK, as_version=4).cells[2].source
    check(run(NOTEBOOK, SETTINGS, OWN_SETTINGS))


@pytest.mark.parametrize("name", ["scan_and_classify", "reader_and_controls", "audit_a_text"])
def test_notebooks_of_the_library_run_and_end_in_what_they_promise(name, run) -> None:
    cells = run(NOTEBOOKS / f"{name}.ipynb")
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
    book = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=3600, kernel_name="python3", resources=where).execute()
    check([cell for cell in book.cells if cell.cell_type == "code"])
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
