"""Put the parts of a stage together: `mnemoscope merge STUDY`.

What comes out is byte for byte what one process makes. Nothing of the parts is removed before the
stage's manifest stands, so a merge that is killed can be run again.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl

from mnemoscope.atomic_write import write_bytes
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.parquet import read_parquet
from mnemoscope.progress import track
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.stages.capture import LOGPROBS_FILE, maps_folder, wanted_maps
from mnemoscope.stages.continuation import chunk_name, chunks_of, keep_verdicts_of
from mnemoscope.stages.decoding import keep_decoded
from mnemoscope.stages.halving import HALVED
from mnemoscope.stages.models import Models, facts_of
from mnemoscope.stages.part_work import DECODED_FILE, MAPS_FOLDER, VERDICTS_FOLDER
from mnemoscope.stages.parts import PartRecord, find_parts, part_settings
from mnemoscope.stages.verdicts import hand_over, verdict_folder
from mnemoscope.study import Study

__all__ = ["merge_parts"]

_STAGES = ("continue", "capture")


def merge_parts(study: Study, *, check: bool = True) -> list[str]:
    """Put together the parts of every stage that has some.

    Args:
        study: with folders `parts/continue` or `parts/capture`.
        check: compare scan and decoding on a draw, as the stage does in one process; this loads
            the model. Without it the merge needs none.

    Returns:
        Names of the stages that are done now.

    Raises:
        UserError: no parts, or parts that do not fit together or are not all there.
        DamagedDataError: a file of a part is torn; which.
    """
    with study.lock():
        stages = [name for name in _STAGES if (study.folder / "parts" / name).is_dir()]
        if not stages:
            raise UserError(
                f"{study.folder}: holds no parts. Make them with 'mnemoscope continue "
                f"{study.folder} --part 1/2' and 2/2, or capture likewise."
            )
        for stage in stages:
            records = find_parts(study, stage)
            if records and not study.is_done(stage):
                study.adopt(part_settings(records[0]))
                for role, facts in records[0].values["models"].items():
                    study.remember_model(role, facts)
                if stage == "continue":
                    _merge_continue(study, records, check=check)
                else:
                    _merge_capture(study, records)
            shutil.rmtree(study.folder / "parts" / stage)
        if not any((study.folder / "parts").iterdir()):
            (study.folder / "parts").rmdir()
    return stages


def _merge_continue(study: Study, records: list[PartRecord], *, check: bool) -> None:
    """Read the chunks in the table's order and finish the stage with them."""
    tokens = token_matrix(study.sequences)
    chunks = chunks_of(tokens, study.settings.continue_.part_rows)
    with study.finishing("continue") as counts:
        frames = []
        for number, (start, rows) in enumerate(chunks):
            record = records[number % len(records)]
            frames.append(_read(record, chunk_name(start), len(rows), "continue", study))
        model = None
        if check and study.settings.continue_.check_rows:
            models = Models(study.settings)
            model = models.model()
            _check_same_device(study, facts_of(model, study.settings.model.name)["device"])
        keep_verdicts_of(study, model, tokens, pl.concat(frames), counts)
        _note_halved(counts, records)
    shutil.rmtree(study.folder / "continuation", ignore_errors=True)


def _check_same_device(study: Study, device: str) -> None:
    """Refuse to check the scan on another device than the parts ran on."""
    made = study.record["models"]["model"]["device"]
    if device != made:
        raise UserError(
            f"{study.folder}: the parts were made on {made}, here the model is on {device}. Merge "
            "where they were made, or with --no-check, which needs no model."
        )


def _merge_capture(study: Study, records: list[PartRecord]) -> None:
    """Take over shards, continuations and log-probabilities, and finish the stage."""
    wanted = wanted_maps(study)
    with study.finishing("capture") as counts:
        counts |= {"distinct": wanted.height, "batch_size": study.settings.model.batch_size}
        roles = list(records[0].values["models"])
        map_roles = sorted({name for one in records for name in _map_roles(one)})
        stores = {role: _open_stores(study, records, role) for role in map_roles}
        verdicts = _verdicts(records)
        decoded = [_frame(record, DECODED_FILE) for record in records]
        if any(frame is not None for frame in decoded):
            frames = [frame for frame in decoded if frame is not None]
            keep_decoded(study, pl.concat(frames).unique("sequence_id"))
        for role in map_roles:
            _merge_maps(study, stores[role], role, wanted)
        if verdicts and (folder := verdict_folder(study)) is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in verdicts.items():
                write_bytes(folder / name, data)
            hand_over(study, folder)
        if "reference" in roles:
            counts["reference"] = wanted.height
        if study.is_done("label") and study.settings.benchmark.controls:
            _merge_logprobs(study, records, wanted)
        _note_halved(counts, records)


def _verdicts(records: list[PartRecord]) -> dict[str, bytes]:
    """Verdicts that the parts found in the forward of their maps: each file's name and content."""
    found = {}
    for record in records:
        for path in sorted((record.folder / VERDICTS_FOLDER).glob("from-*.parquet")):
            _frame(record, f"{VERDICTS_FOLDER}/{path.name}")
            found[path.name] = path.read_bytes()
    return found


def _note_halved(counts: dict[str, Any], records: list[PartRecord]) -> None:
    """Say of a stage that memory forced smaller batches in a part, as one process does."""
    sizes = [record.values[HALVED] for record in records if HALVED in record.values]
    if sizes:
        counts[HALVED] = min(sizes)


def _map_roles(record: PartRecord) -> list[str]:
    """Roles of which a part holds maps."""
    folder = record.folder / MAPS_FOLDER
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _open_stores(study: Study, records: list[PartRecord], role: str) -> list[MapStore | None]:
    """Every part's maps of a role, each shard compared with its sha256 before any is taken."""
    stores: list[MapStore | None] = []
    for record in records:
        with _naming_the_part(study, record):
            has_maps = role in _map_roles(record)
            stores.append(MapStore(record.folder / MAPS_FOLDER / role) if has_maps else None)
    return stores


def _merge_maps(
    study: Study, stores: list[MapStore | None], role: str, wanted: pl.DataFrame
) -> None:
    """Take over the shards of one role in the order in which one process writes them."""
    first = next(store for store in stores if store is not None)
    writer = MapWriter(
        maps_folder(study, role),
        n_layers=first.meta.n_layers,
        length=first.meta.length,
        fingerprint=first.meta.model,
        shard_rows=study.settings.capture.shard_rows,
        tensors=first.meta.tensors,
    )
    shards = list(_in_turn([_shards(store) for store in stores]))
    with track(f"Merging maps ({role})", total=len(shards), unit="shards") as progress:
        for number, name in shards:
            store = stores[number]
            assert store is not None
            writer.take_shard(store, name)
            progress.advance()
    lacking = writer.missing(wanted["sequence_id"].to_numpy(), wanted["suffix"].to_list())
    if len(lacking):
        raise UserError(
            f"{study.folder}: the parts lack {len(lacking)} maps ({role}), the first is sequence "
            f"{wanted['sequence_id'][int(lacking[0])]}. Delete parts/capture and run them again."
        )


@contextmanager
def _naming_the_part(study: Study, record: PartRecord) -> Iterator[None]:
    """Say of a damaged shard which part makes it again."""
    try:
        yield
    except DamagedDataError as error:
        what = str(error).split(" Run 'mnemoscope")[0].split(" Delete ")[0]
        raise DamagedDataError(
            f"{what} Run 'mnemoscope capture {study.folder} --part {record.part}' again: only what "
            "is damaged is captured anew."
        ) from None


def _shards(store: MapStore | None) -> list[str]:
    """Names of a part's shards in the order in which they were written."""
    return [] if store is None else sorted(store.index["shard"].unique())


def _in_turn(names: list[list[str]]) -> Iterator[tuple[int, str]]:
    """Deal back what was dealt out: the first shard of each part, then the second, and so on."""
    for position in range(max(map(len, names))):
        for number, each in enumerate(names):
            if position < len(each):
                yield number, each[position]


def _merge_logprobs(study: Study, records: list[PartRecord], wanted: pl.DataFrame) -> None:
    """Put the log-probabilities in the table's order."""
    rows = study.sequences.join(wanted, on="sequence_id", how="semi").select("sequence_id")
    frames = [_frame(record, LOGPROBS_FILE) for record in records]
    found = pl.concat([frame for frame in frames if frame is not None])
    merged = rows.join(found, on="sequence_id", how="left", maintain_order="left")
    if merged["logprobs"].null_count():
        raise UserError(
            f"{study.folder}: the parts lack {merged['logprobs'].null_count()} log-probabilities. "
            "Delete parts/capture and run them again."
        )
    study.write(LOGPROBS_FILE, merged)


def _frame(record: PartRecord, name: str) -> pl.DataFrame | None:
    """A table of a part, None where it has none."""
    path = record.folder / name
    if not path.is_file():
        return None
    try:
        return read_parquet(path)
    except (OSError, DamagedDataError):
        raise DamagedDataError(
            f"{path}: torn. Delete it and run part {record.part} again: the rest of it is kept."
        ) from None


def _read(record: PartRecord, name: str, n_rows: int, stage: str, study: Study) -> pl.DataFrame:
    """A chunk that must be there with its rows."""
    frame = _frame(record, name)
    if frame is None or frame.height != n_rows:
        raise DamagedDataError(
            f"{record.folder / name}: missing or of another table. Run 'mnemoscope {stage} "
            f"{study.folder} --part {record.part}' again: the rest of it is kept."
        )
    return frame
