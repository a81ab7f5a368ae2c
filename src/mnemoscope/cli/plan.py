"""Print what `run --dry-run` found: a table on a terminal, plain lines elsewhere."""

import sys

from mnemoscope.stages.plan import Plan

__all__ = ["print_plan"]


def print_plan(plan: Plan) -> None:
    """Print a plan; the table folds its cells on a narrow terminal."""
    print("\n".join(plan.lines))
    print()
    if sys.stdout.isatty():
        _print_table(plan)
    else:
        print("cost | this study | published pipeline")
        for row in plan.rows:
            print(f"{row.what} | {row.ours} | {row.published}")
    print()
    print("\n".join(plan.notes))
    print("Nothing was written, downloaded or changed.")


def _print_table(plan: Plan) -> None:
    """The comparison as a table as wide as the terminal allows."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for head in ("", "this study", "published pipeline"):
        table.add_column(head, overflow="fold")
    for row in plan.rows:
        table.add_row(row.what, row.ours, row.published)
    Console(highlight=False).print(table)
