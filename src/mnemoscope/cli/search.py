"""The verb search: the taxonomies that attention bears out best, chosen apart from their figure."""

from typing import Annotated, Any

import typer

from mnemoscope.cli.engine import EngineFlags, EngineOption, RayAddress, RayWorkers, Storage
from mnemoscope.cli.options import Quiet, Redo, Set, StudyFolder
from mnemoscope.cli.study import stage_verb
from mnemoscope.stages.search_extra import check_optuna
from mnemoscope.study import Study

__all__ = ["search"]

_Nodes = Annotated[
    list[str] | None,
    typer.Option(
        "--node",
        help="A node to build from, such as Recite, Guess, Prior, Entropy[3.5..5], or a YAML file "
        "with nodes of your own; repeatable. All of them unless given.",
        show_default=False,
    ),
]
_Objective = Annotated[
    str | None,
    typer.Option("--objective", help="excess (default), min_f1, auc or auc_excess."),
]
_Candidates = Annotated[
    int | None, typer.Option("--candidates", help="Different taxonomies to try (default 60).")
]
_CaptureAll = Annotated[
    bool, typer.Option("--capture-all", help="First capture every memorized sequence.")
]


def search(
    study: StudyFolder,
    node: _Nodes = None,
    objective: _Objective = None,
    candidates: _Candidates = None,
    capture_all: _CaptureAll = False,
    engine: EngineOption = "local",
    ray_address: RayAddress = None,
    ray_workers: RayWorkers = None,
    storage: Storage = None,
    set_: Set = None,
    redo: Redo = False,
    quiet: Quiet = False,
) -> None:
    """Find the taxonomies of 3 and 4 classes with the largest excess alignment.

    The choice is made on one part of the sequences, its figure comes from another.

    Example: mnemoscope search my-study --capture-all
    """
    flags: dict[str, Any] = {
        "search.nodes": node,
        "search.objective": objective,
        "search.candidates": candidates,
        "search.capture_all": capture_all,
    }
    if redo or not Study(study).is_done("search"):
        check_optuna()
    where = EngineFlags(engine, ray_address, ray_workers, storage)
    stage_verb(study, "search", flags, set_, redo=redo, quiet=quiet, where=where)
    _print(Study(study))


def _print(study: Study) -> None:
    """The finalists and what stands beside them, then the result in words."""
    import polars as pl
    from rich.table import Table

    from mnemoscope.cli.published import console
    from mnemoscope.stages.search import SEARCH_FILE, search_words

    page, objective = console(), study.settings.search.objective
    table = Table(title=f"Found by {objective}: chosen on selection, reported on final; %")
    for name in ("", "taxonomy", "selection", "final", "drop", "min-F1", "excess", "AUC"):
        table.add_column(name, overflow="fold")
    shown = pl.col("place").is_not_null() | (pl.col("kind") == "beside")
    rows = study.read(SEARCH_FILE).filter(shown)
    for row in rows.iter_rows(named=True):
        table.add_row(*_cells(row, objective))
    page.print(table)
    for line in search_words(study):
        page.print(line)
    page.print(f"To use the found ones: -t {study.folder / 'search.yaml'}", soft_wrap=True)


def _cells(row: dict[str, Any], objective: str) -> list[str]:
    """One line of the table, figures with their intervals below them."""
    from mnemoscope.report.content import Estimate
    from mnemoscope.report.numbers import interval, percent, points

    def shown(name: str) -> str:
        value = row[name]
        text = points(value) if "excess" in name else percent(value, unit=False)
        return (
            f"{text}\n{interval(Estimate(value, row[f'{name}_low'], row[f'{name}_high']))}".strip()
        )

    chosen, final = row["full"], row[objective]
    drop = None if chosen is None or final is None else chosen - final
    selection = points(chosen) if "excess" in objective else percent(chosen, unit=False)
    place = "beside" if row["place"] is None else str(row["place"])
    figures = [shown(name) for name in ("min_f1", "excess", "auc")]
    return [place, row["taxonomy"], selection, shown(objective), points(drop), *figures]
