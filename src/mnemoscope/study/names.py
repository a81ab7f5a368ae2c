"""Look up names before torch is loaded: shipped studies, models, sources of texts."""

from importlib.resources import files
from pathlib import Path

from mnemoscope.errors import UserError, nearest
from mnemoscope.lm.hub import check_model
from mnemoscope.study.settings import EMBEDDED, NO_MODEL, StudySettings


def shipped_names() -> list[str]:
    """Names of the shipped study files, without suffix, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def shipped_path(name: str) -> Path:
    """The shipped study file of this name, with or without `.yaml`.

    Raises:
        UserError: no such study; lists all and the nearest.

    >>> shipped_path("pythia-12b.yaml").name
    'pythia-12b.yaml'
    """
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    known = shipped_names()
    if stem not in known:
        raise UserError(
            f"{name}: no such file, and no shipped study has this name.{nearest(stem, known)} "
            f"Shipped: {', '.join(known)}. 'mnemoscope init {stem}.yaml' writes a new one."
        )
    return _folder() / f"{stem}.yaml"


def find_study_file(given: Path) -> Path:
    """The user's file if it exists or has a folder, else the shipped study of this name.

    Raises:
        UserError: a bare name that is neither a file here nor a shipped study.
    """
    is_name = given.name == str(given)
    return shipped_path(given.name) if is_name and not given.exists() else given


def _folder() -> Path:
    return Path(str(files("mnemoscope"))) / "studies"


_SHIPPED = (EMBEDDED, NO_MODEL)


def check_names(settings: StudySettings) -> None:
    """Raise UserError if the model, reference or source of sequences does not exist.

    Their content is checked when it is read.
    """
    from mnemoscope.data.hub import parse_hub_name

    model, sequences = settings.model, settings.sequences
    for source in (sequences.source, *sequences.also):
        is_there = Path(source).exists() or parse_hub_name(source) is not None
        if source != EMBEDDED and not is_there:
            raise UserError(f"{source}: no such file or folder.")
    if model.name not in _SHIPPED:
        check_model(model.name, model.revision)
    reference = settings.capture.reference
    if reference is not None and reference not in _SHIPPED and settings.benchmark.controls:
        check_model(*split_revision(reference))


def split_revision(name: str) -> tuple[str, str | None]:
    """Split `NAME@REVISION` into name and revision; an existing path has no revision."""
    if Path(name).exists() or "@" not in name:
        return name, None
    source, _, revision = name.rpartition("@")
    return source, revision
