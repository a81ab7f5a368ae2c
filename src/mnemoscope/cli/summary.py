"""The table that a run ends with on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from mnemoscope.stages.labels import samples_of
from mnemoscope.study import Study

__all__ = ["print_summary"]

_SOURCES = {
    "model": "model",
    "blind": "blind",
    "reference": "reference",
    "control": "control task",
    "logits": "logits",
}


def print_summary(study: Study) -> None:
    """Print counts a class and, for each sample, min-F1 beside its controls and the excess."""
    console = Console()
    table = Table("taxonomy", *_SOURCES.values(), "excess", title="min-F1, % [95 % interval]")
    rows = _rows(study)
    for sample, entry in samples_of(study).items():
        if "impossible" in entry:
            table.add_row(sample, *[""] * len(_SOURCES), "impossible")
            continue
        found = rows.get(sample, {})
        cells = [_cell(found.get(source), "min_f1", "low", "high") for source in _SOURCES]
        model = found.get("model")
        table.add_row(sample, *cells, _cell(model, "excess", "excess_low", "excess_high"))
    console.print(table)
    for sample, entry in samples_of(study).items():
        counts = ", ".join(f"{name} {n:,}" for name, n in entry["counts"].items())
        if "impossible" in entry:
            console.print(f"{sample}: impossible. {entry['impossible']}", highlight=False)
        elif sample == entry["taxonomy"]:
            console.print(f"{sample}: {counts}", highlight=False, markup=False)
    report = study.folder / "report.html"
    if report.is_file():
        console.print(f"Report: {report}", highlight=False)


def _rows(study: Study) -> dict[str, dict[str, dict[str, Any]]]:
    """Benchmark rows by sample and source; none before the benchmark has been run."""
    if not (study.folder / "benchmark.parquet").is_file():
        return {}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in study.read("benchmark.parquet").iter_rows(named=True):
        found.setdefault(row["taxonomy"], {})[row["source"]] = row
    return found


def _cell(row: dict[str, Any] | None, value: str, low: str, high: str) -> str:
    """A figure in per cent with its interval."""
    if row is None or row[value] is None:
        return "-"
    text = f"{100 * row[value]:.1f}"
    return text if row[low] is None else f"{text} [{100 * row[low]:.1f}, {100 * row[high]:.1f}]"
