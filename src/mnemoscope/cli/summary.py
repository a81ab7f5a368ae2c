"""The table that a run ends with on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from mnemoscope.stages.labels import samples_of
from mnemoscope.study import Study

__all__ = ["print_summary"]

_CONTROLS = {
    "blind": "blind",
    "reference": "reference",
    "control": "control",
    "logits": "logits",
}


def print_summary(study: Study) -> None:
    """Print, for each sample, min-F1 beside its controls and the excess; then counts a class."""
    console = Console(highlight=False, markup=False)
    rows = _rows(study)
    samples = samples_of(study)
    trained = [name for name, entry in samples.items() if "impossible" not in entry]
    if trained and rows:
        table = Table("", "model", *_CONTROLS.values(), "excess", title="min-F1, %")
        for sample in trained:
            found = rows.get(sample, {})
            table.add_row(
                str(list(samples).index(sample) + 1),
                _cell(found.get("model"), "min_f1", "low", "high"),
                *[_cell(_best(found, source), "min_f1") for source in _CONTROLS],
                _cell(found.get("model"), "excess", "excess_low", "excess_high"),
            )
        console.print(table)
    for number, (sample, entry) in enumerate(samples.items(), 1):
        counts = ", ".join(f"{name} {n:,}" for name, n in entry["counts"].items())
        reason = f"impossible. {entry['impossible']}" if "impossible" in entry else counts
        console.print(f"{number}  {sample}: {reason}")
        verdict = rows.get(sample, {}).get("model", {}).get("verdict")
        if verdict:
            console.print(f"   {verdict}")
    report = study.folder / "report.html"
    if report.is_file():
        console.print(f"Report: {report}", soft_wrap=True)


def _rows(study: Study) -> dict[str, dict[str, dict[str, Any]]]:
    """Benchmark rows by sample and source; none before the benchmark has been run."""
    if not (study.folder / "benchmark.parquet").is_file():
        return {}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in study.read("benchmark.parquet").iter_rows(named=True):
        found.setdefault(row["taxonomy"], {})[row["source"]] = row
    return found


def _best(found: dict[str, dict[str, Any]], source: str) -> dict[str, Any] | None:
    """A source's row; of the two blind baselines the better, which is the one that counts."""
    sources = ("blind", "ngram") if source == "blind" else (source,)
    rows = [found[one] for one in sources if one in found and found[one]["min_f1"] is not None]
    return max(rows, key=lambda row: float(row["min_f1"]), default=None)


def _cell(row: dict[str, Any] | None, value: str, low: str = "", high: str = "") -> str:
    """A figure in per cent, with its interval where one is named."""
    if row is None or row[value] is None:
        return "-"
    text = f"{100 * row[value]:.1f}"
    if not low or row[low] is None:
        return text
    return f"{text}\n[{100 * row[low]:.1f}, {100 * row[high]:.1f}]"
