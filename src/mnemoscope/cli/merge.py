"""The verb merge: put the parts of a stage together."""

from typing import Annotated

import typer

from mnemoscope.cli.options import Quiet, StudyFolder
from mnemoscope.cli.study import after_unlabelled_capture, shown
from mnemoscope.study import STAGES, Study

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
    names = [entry.name for entry in STAGES if not entry.optional]
    following = names[names.index(stages[-1]) + 1 :]
    if stages[-1] == "capture" and not opened.is_done("label"):
        following = after_unlabelled_capture(opened)
    hint = f" Next: mnemoscope {following[0]} {study}" if following else ""
    print(f"Merged {' and '.join(stages)} of {study}.{hint}")
