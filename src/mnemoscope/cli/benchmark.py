"""The verb benchmark: one study beside the published figures, two taxonomies, or several models."""

from pathlib import Path
from typing import Annotated

import typer

from mnemoscope.cli.engine import EngineFlags, EngineOption, RayAddress, RayWorkers, Storage
from mnemoscope.cli.options import Quiet, Redo, Set
from mnemoscope.cli.study import stage_verb
from mnemoscope.errors import UserError
from mnemoscope.study import Study

__all__ = ["benchmark"]

_Studies = Annotated[
    list[Path],
    typer.Argument(help="A study; several are put together as one.", show_default=False),
]
_Compare = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--compare",
        metavar="TAXONOMY TAXONOMY",
        help="Two taxonomies of the study on the evaluation sequences that they share.",
        show_default=False,
    ),
]
_OutFolder = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Folder for the tables of several studies together."),
]


def benchmark(
    studies: _Studies,
    compare: _Compare = None,
    out: _OutFolder = None,
    engine: EngineOption = "local",
    ray_address: RayAddress = None,
    ray_workers: RayWorkers = None,
    storage: Storage = None,
    set_: Set = None,
    redo: Redo = False,
    quiet: Quiet = False,
) -> None:
    """Score every taxonomy beside its controls and beside the published figures.

    Several studies are put together as the paper does: confusion matrices summed over models.

    Example: mnemoscope benchmark my-study
    """
    _check(studies, compare, out)
    where = EngineFlags(engine, ray_address, ray_workers, storage)
    if (len(studies) > 1 or compare is not None) and (set_ or redo or where != EngineFlags()):
        raise UserError(
            "benchmark: --set, --redo and --engine are for scoring a study; several studies and "
            "--compare only read. Give them in a run of their own."
        )
    if len(studies) > 1:
        _put_together(studies, out)
        return
    folder = studies[0]
    if compare is not None:
        _compare(Study(folder), *compare)
        return
    stage_verb(folder, "benchmark", {}, set_, redo=redo, quiet=quiet, where=where)
    from mnemoscope.cli.published import print_comparison
    from mnemoscope.cli.summary import print_summary
    from mnemoscope.stages.compare import load_comparison

    study = Study(folder)
    print_summary(study)
    print_comparison(load_comparison(study))


def _check(studies: list[Path], compare: tuple[str, str] | None, out: Path | None) -> None:
    """Refuse flags that would be passed over."""
    if compare is not None and len(studies) > 1:
        raise UserError("benchmark: --compare is for the taxonomies of one study. Name one study.")
    if out is not None and len(studies) == 1:
        raise UserError(
            "benchmark: -o is for several studies together; of one study everything is written "
            "into its own folder. Leave -o out."
        )


def _compare(study: Study, first: str, second: str) -> None:
    """Print both differences of two taxonomies."""
    from mnemoscope.cli.published import difference_text
    from mnemoscope.stages.compare import compare_taxonomies

    for figure, words in (("min_f1", "min-F1"), ("mean_f1", "mean F1")):
        found = compare_taxonomies(study, first, second, figure=figure)  # type: ignore[arg-type]
        shown = difference_text(found.value, *found.interval)
        print(f"{words} of '{first}' minus '{second}': {shown} points")
    print(
        f"95 % intervals, paired over sequences: {found.n_shared:,} of {found.n_first:,} and "
        f"{found.n_second:,} evaluation sequences are shared."
    )


def _put_together(folders: list[Path], out: Path | None) -> None:
    """Print several studies as one, and write what was asked for."""
    from mnemoscope.cli.published import print_comparison, print_together
    from mnemoscope.stages.several import put_together, write_together

    together = put_together([Study(folder) for folder in folders])
    print_together(together.frame, together.models)
    print_comparison(together.comparison, with_reasons=False)
    if out is not None:
        print(f"Wrote {', '.join(map(str, write_together(out, together)))}.")
