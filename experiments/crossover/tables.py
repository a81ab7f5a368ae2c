"""The tables of `docs/appendix/crossover.md`."""

from statistics import median
from typing import Any

from experiments.pages import figure, number, table_of


def tables(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    """What each model reproduces, AUC of the readers, what breaks under cuts."""
    said = (
        f"{found['n']:,} windows of {found['documents']} documents; A reproduces "
        f"{found['kept']['A']['A']:.1%} of half A and {found['kept']['A']['B']:.1%} of half B, B "
        f"{found['kept']['B']['A']:.1%} and {found['kept']['B']['B']:.1%}, the reference "
        f"{found['kept']['reference']['A']:.1%} and {found['kept']['reference']['B']:.1%}. "
        f"Read: the {found['crossed']:,} windows that their own model alone reproduces.\n"
    )
    readers = [
        *("AUC of half A against half B", "regression on statistics"),
        "CNN of the paper, median of the eight settings that its text names (range)",
        "CNN over rows",
    ]
    read = []
    for role, one in found["read"]["statistics"].items():
        cnn = found["read"].get("cnn", {}).get(role)
        grid = f"{number(median(cnn))} ({min(cnn):.3f} to {max(cnn):.3f})" if cnn else "–"
        read.append([role, number(*one), grid, number(*found["rows"][role])])
    read.append(["A minus B, labels permuted", number(found["read"]["permuted"]), "–", "–"])
    broken = [
        [
            row["ranking"],
            f"{row['strength']:g}",
            *(figure(*row[name], digits=0) for name in ("ranked", "equal_mass", "elsewhere")),
            figure(*row["beyond"], digits=0),
        ]
        for row in found["cuts"]
    ]
    cut = [
        *("edges by", "share of edges, %", "own half breaks, %", "equal mass, %"),
        *("the other model's edges, %", "beyond equal mass"),
    ]
    text = "\n".join([said, table_of(readers, read), table_of(cut, broken)])
    return {("docs/appendix/crossover.md", "crossover"): text}
