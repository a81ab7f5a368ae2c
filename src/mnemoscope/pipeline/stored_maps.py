"""The maps of a study: which are wanted, where they lie, and whether they are whole."""

from contextlib import suppress
from pathlib import Path

import polars as pl

from mnemoscope.errors import DamagedDataError, MnemoscopeError, UserError
from mnemoscope.maps.format import StoreMeta, find_rows, read_meta
from mnemoscope.maps.store import MapStore, find_damage
from mnemoscope.pipeline.label import SAMPLES_FILE, nothing_to_train
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import StudySettings


def maps_folder(study: Study, role: str) -> Path:
    """Folder of the maps of a role: `model`, `reference`, or with all heads `model-heads`."""
    return study.folder / "maps" / role


def open_maps(study: Study, store: str, *, verify: bool = False) -> MapStore:
    """Open the maps of a role, as `MapStore`; errors also as `check_maps`."""
    found = MapStore(maps_folder(study, store), verify=verify)
    check_maps(study, store, found.meta)
    return found


def check_maps(study: Study, store: str, meta: StoreMeta) -> None:
    """Raise OutOfDateError if the maps of a role are another study's or another model's."""
    weights = study.fingerprint(store.removesuffix("-heads"))
    wanted = {"tokens": study.tokens, "weights": weights}
    for name, value in wanted.items():
        if value and meta.model.get(name) != value:
            why = f"maps of other {name} than the study's"
            raise study.store.out_of_date(maps_folder(study, store), "capture", why)


def heads_role(role: str) -> str:
    """Name of the folder with all heads of a role."""
    return f"{role}-heads"


def store_roles(settings: StudySettings, role: str) -> list[str]:
    """Folders for a model's maps: pooled, and all heads if the settings ask for them."""
    return [role, heads_role(role)] if settings.capture.per_head else [role]


def wants_controls(study: Study) -> bool:
    """True if the benchmark adds controls to the model's maps of the samples."""
    return study.is_done("label") and study.settings.benchmark.controls


def captured_roles(study: Study) -> tuple[str, ...]:
    """The models whose attention is to be captured."""
    has_reference = wants_controls(study) and study.settings.reference is not None
    return ("model", "reference") if has_reference else ("model",)


def wanted_maps(study: Study) -> pl.DataFrame:
    """What to capture: `sequence_id`, `suffix`; true suffixes first, then by id."""
    if study.is_done("label"):
        if (reason := nothing_to_train(study)) is not None:
            raise UserError(reason)
        rows = study.read(SAMPLES_FILE).select("sequence_id", "suffix").unique()
    else:
        rows = study.sequences.select("sequence_id", pl.lit("true").alias("suffix"))
    return rows.sort("suffix", "sequence_id", descending=[True, False])


def damaged_maps(study: Study, *, is_quick: bool = False) -> list[MnemoscopeError]:
    """Errors in the stores of a finished study.

    Reads every shard (about 1 GB/s); a quick look sees what is missing or has another length.
    """
    found: list[MnemoscopeError] = []
    wanted_roles: list[str] = []
    with suppress(MnemoscopeError):  # of a manifest, which a check of the study names
        for role in captured_roles(study):
            wanted_roles += store_roles(study.settings, role)
    for store in sorted({*stores(study), *wanted_roles}):
        folder = maps_folder(study, store)
        try:
            meta = read_meta(folder)
            check_maps(study, store, meta)
            index, damaged = find_damage(folder, meta, is_quick=is_quick)
            found += damaged.values()
            wanted = wanted_maps(study)
            if n := find_rows(index, wanted).null_count():
                why = f"{n} of {wanted.height} maps are missing or damaged"
                found.append(study.store.out_of_date(folder, "manifests/capture", why))
        except (DamagedDataError, UserError) as error:
            found.append(error)
    return found


def stores(study: Study) -> list[str]:
    """The roles whose maps are there, in part or whole."""
    return sorted(path.name for path in study.folder.glob("maps/*") if path.is_dir())
