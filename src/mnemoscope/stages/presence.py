"""Is what the settings name there: model, reference, sequences; asked before torch is loaded."""

from pathlib import Path

from mnemoscope.config import EMBEDDED, NO_MODEL, StudySettings
from mnemoscope.errors import UserError
from mnemoscope.lm.hub import check_model
from mnemoscope.sequences.split_files import HUB_NAME

__all__ = ["check_names"]

_SHIPPED = (EMBEDDED, NO_MODEL)


def check_names(settings: StudySettings) -> None:
    """Refuse names that stand for nothing; what they hold is checked when it is read.

    Raises:
        UserError: no such model, reference or source of sequences.
    """
    model, source = settings.model, settings.sequences.source
    if source not in (EMBEDDED, HUB_NAME) and not Path(source).exists():
        raise UserError(f"{source}: no such file or folder.")
    if model.name not in _SHIPPED:
        check_model(model.name, model.revision)
    reference = settings.capture.reference
    if reference is not None and reference not in _SHIPPED and settings.benchmark.controls:
        _check_reference(reference)


def _check_reference(name: str) -> None:
    """A reference may be NAME@REVISION; a path that is there is no such."""
    stem, at, revision = name.rpartition("@")
    if at and not Path(name).exists():
        check_model(stem, revision)
    else:
        check_model(name)
