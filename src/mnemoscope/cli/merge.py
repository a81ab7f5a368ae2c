"""The verb merge: put the parts of a stage together."""

from typing import Annotated

import typer

from mnemoscope.cli.options import Quiet, StudyFolder
from mnemoscope.cli.study import next_verb, shown
from mnemoscope.study import Study

__all__ = ["merge"]


def merge(
    study: StudyFolder,
    no_check: Annotated[
        bool,
        typer.Option(
            "--no-check",
            help="Do not compare scan and decoding on a draw; the merge then needs no model.",
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Put together what 'continue --part' or 'capture --part' made, as one process makes it.

    Example: mnemoscope merge my-study
    """
    opened = Study(study)
    from mnemoscope.stages.merge import merge_parts

    with shown(quiet):
        stages = merge_parts(opened, check=not no_check)
    print(f"Merged {' and '.join(stages)} of {study}.{next_verb(opened, stages[-1])}")
