"""The verb localize: where in the attention of one model, or of several of one depth."""

from pathlib import Path
from typing import Annotated

import typer

from mnemoscope.atomic_write import made_folder
from mnemoscope.cli.options import Quiet, Redo, Set
from mnemoscope.cli.study import stage_verb
from mnemoscope.errors import UserError
from mnemoscope.study import Study

__all__ = ["localize"]

_Studies = Annotated[
    list[Path],
    typer.Argument(
        help="A study; several of one depth are averaged, each CNN alike.", show_default=False
    ),
]
_Export = Annotated[
    Path | None,
    typer.Option(
        "--export",
        help="Folder for figures at print quality (SVG, PDF, PNG) and the numbers (Parquet).",
        show_default=False,
    ),
]
_OutFolder = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", help="Folder for Δ of several studies together.", show_default=False
    ),
]


def localize(
    studies: _Studies,
    out: _OutFolder = None,
    export: _Export = None,
    set_: Set = None,
    redo: Redo = False,
    quiet: Quiet = False,
) -> None:
    """Find where in the attention each class is decided.

    Several localized studies are put together: Δ averaged over the CNNs of all their models.

    Example: mnemoscope localize my-study --export figures
    """
    _check(studies, out, changes=bool(set_) or redo)
    if export is not None:
        from mnemoscope.report.print_figures import check_matplotlib

        check_matplotlib()
    if out is not None:
        _put_together(studies, out, export)
        return
    (study,) = studies
    stage_verb(study, "localize", {}, set_, redo=redo, quiet=quiet)
    if export is not None:
        from mnemoscope.stages.export import export_localization

        written = export_localization(Study(study), export)
        print(f"Wrote {len(written)} figures and tables into {export}.")


def _check(studies: list[Path], out: Path | None, *, changes: bool) -> None:
    """Refuse flags that would be passed over."""
    if len(studies) == 1 and out is not None:
        raise UserError(
            "localize: -o is for several studies together; of one study everything is written "
            "into its own folder. Leave -o out."
        )
    if len(studies) > 1 and out is None:
        raise UserError(
            "localize: several studies need a folder for what they give. Add -o FOLDER."
        )
    if len(studies) > 1 and changes:
        raise UserError(
            "localize: --set and --redo change a study; several studies are only read. "
            "Give them in a run of their own."
        )


def _put_together(folders: list[Path], out: Path, export: Path | None) -> None:
    """Average, say what came of it, and write what was asked for."""
    from mnemoscope.stages.export import draw_deltas
    from mnemoscope.stages.localize_several import (
        localize_together,
        together_lines,
        write_localized_together,
    )

    together = localize_together([Study(folder) for folder in folders])
    if export is not None:
        made_folder(export)  # refused before anything is written
    written = write_localized_together(out, together)
    print("\n".join(together_lines(together)))
    print(f"Wrote {', '.join(map(str, written))}.")
    if export is not None:
        n_drawn = len(list(draw_deltas(together.deltas, export)))
        print(f"Wrote {n_drawn} figures into {export}.")
