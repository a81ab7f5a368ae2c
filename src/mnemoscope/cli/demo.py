"""The verb demo: the whole method on the shipped model, no argument, no network."""

import time
from pathlib import Path
from typing import Annotated

import typer

from mnemoscope.cli.options import Quiet
from mnemoscope.cli.study import shown

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Study folder to make.")] = Path("demo"),
    small: Annotated[bool, typer.Option("--small", help="Fewer sequences: a quick check.")] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="All sequences, larger samples, three seeds: longer.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Show the whole method on the shipped model: under three minutes on two cores.

    Example: mnemoscope demo
    """
    from mnemoscope.cli.summary import print_summary
    from mnemoscope.stages.demo import demo_settings
    from mnemoscope.stages.run import run

    started = time.monotonic()
    with shown(quiet):
        study = run(demo_settings(small=small, thorough=thorough), out)
    print_summary(study)
    print(f"Took {time.monotonic() - started:.0f} s. Open {out / 'report.html'} in a browser.")
    print("Next, your own model: mnemoscope run --model MODEL --sequences TEXTS -o STUDY")
