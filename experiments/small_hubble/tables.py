"""The tables of `docs/appendix/small-hubble.md`."""

from typing import Any

from experiments.pages import figure, number, table_of

ROLES = ("perturbed", "standard")
LIKELIHOODS = ("both models' log-probabilities", "the same and attention")
_LIKELIHOOD_COLUMNS = (*ROLES, "ratio", *LIKELIHOODS, "gain")


def tables(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    """By count what comes out and its AUC, log-probabilities, the benchmark, its levels."""
    doses = [
        *("inserted", "windows, passages", "come out of `perturbed`", "of `standard`"),
        *("AUC against never inserted: `perturbed`", "`standard`", "difference"),
    ]
    dosed = []
    for row in found["dose"]:
        cells = [number(*row["out"][role]) for role in ROLES]
        cells += [number(*row["auc"][role]) for role in (*ROLES, "difference")]
        dosed.append([str(row["count"]), f"{row['windows']}, {row['passages']}", *cells])
    likelihoods = [
        *("inserted", "AUC of the suffix's log-probability: `perturbed`", "`standard`"),
        *("difference", f"of a regression on {LIKELIHOODS[0]}", LIKELIHOODS[1], "gain"),
    ]
    likely = [
        [str(row["count"]), *(number(*row["auc"][name]) for name in _LIKELIHOOD_COLUMNS)]
        for row in found["likelihood"]
    ]
    benchmark = [
        *("taxonomy", "classes that could be trained", "reader", "min-F1, %", "best blind"),
        *("`standard`", "excess, points"),
    ]
    levels = ["taxonomy", "inserted", "AUC against never inserted, %", "excess, points"]
    text = "\n".join(
        [
            table_of(doses, dosed),
            table_of(likelihoods, likely),
            table_of(benchmark, map(_benchmark_row, found["benchmark"])),
            table_of(levels, map(_level_row, found["levels"])),
        ]
    )
    return {("docs/appendix/small-hubble.md", "small_hubble"): text}


def _benchmark_row(row: dict[str, Any]) -> list[str]:
    """The reader that the study judges by is in bold."""
    shown = f"**{row['reader']}**" if row["is_headline"] else row["reader"]
    each = (row["min_f1"], [row["blind"]], [row["twin"]], row["excess"])
    return [row["taxonomy"], ", ".join(row["classes"]), shown, *(figure(*one) for one in each)]


def _level_row(row: dict[str, Any]) -> list[str]:
    return [row["taxonomy"], str(row["duplicates"]), figure(*row["auc"]), figure(*row["excess"])]
