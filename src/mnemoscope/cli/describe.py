"""The verb describe: what is in a study, a table or a maps folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mnemoscope.errors import UserError
from mnemoscope.study import STAGES, Study, is_study

__all__ = ["describe"]


def describe(
    target: Annotated[Path, typer.Argument(help="A study, a maps folder, or a table.")],
) -> None:
    """Say what is there: stages done, counts, settings, sizes on disk.

    Example: mnemoscope describe my-study
    """
    if is_study(target):
        _describe_study(Study(target))
    elif (target / "meta.json").is_file():
        _describe_maps(target)
    elif target.is_file():
        _describe_table(target)
    elif target.exists():
        raise UserError(f"{target}: neither a study, nor a maps folder, nor a table.")
    else:
        raise UserError(f"{target}: no such file or folder. Check the path.")


def _describe_study(study: Study) -> None:
    """Stages with counts and seconds, models, sizes, settings."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    seconds = study.seconds()
    table = Table("stage", "state", "counts", "seconds", title=str(study.folder))
    for stage in STAGES:
        manifest = study.manifest(stage.name)
        state = "-" if manifest is None else "done" if study.is_done(stage.name) else "outdated"
        taken = f"{seconds[stage.name]:.1f}" if stage.name in seconds else ""
        table.add_row(stage.name, state, _counts(manifest), taken)
    console.print(table)
    _describe_split(study, console)
    models = Table("role", "name", "layers × heads", "dtype", "weights", title="models")
    for role, facts in study.record["models"].items():
        shape = f"{facts['n_layers']} × {facts['n_heads']}"
        models.add_row(role, facts["name"], shape, facts["dtype"], facts["fingerprint"][:12])
    console.print(models)
    sizes = Table("on disk", "size", title="sizes")
    for path in sorted(study.folder.iterdir()):
        if not path.name.startswith("."):
            sizes.add_row(path.name, _size(path))
    console.print(sizes)
    console.print("Settings: " + str(study.folder / "study.yaml"), highlight=False)


def _describe_split(study: Study, console: Any) -> None:
    """Of the paper's data set: the whole split, of which the study keeps a part."""
    from rich.table import Table

    facts = (study.manifest("sequences") or {"counts": {}})["counts"]
    if "split" not in facts:
        return
    split = facts["split"]
    parts = ", ".join(f"{name} {n:,}" for name, n in split["parts"].items())
    console.print(
        f"Split {split['name']}: rows {parts}; {facts['split_duplicate_ids']:,} duplicate ids and "
        f"{facts['split_overlapping_ids']:,} in both parts dropped; the first "
        f"{split['kept_per_class']:,} sequences of each class are kept."
    )
    table = Table("taxonomy", "sequences a class, by the published labels", title="whole split")
    for name, counts in split["classes"].items():
        table.add_row(name, ", ".join(f"{one} {n:,}" for one, n in counts.items()))
    console.print(table)


def _counts(manifest: dict[str, Any] | None) -> str:
    """The plain numbers of a manifest, on one line."""
    if manifest is None:
        return ""
    counts = manifest["counts"].items()
    numbers = {
        k: v for k, v in counts if isinstance(v, int) and not (v == 0 and k.endswith("_null"))
    }
    samples = manifest["counts"].get("samples")
    if samples is not None:
        numbers["taxonomy samples"] = len(samples)
        numbers["impossible"] = sum("impossible" in entry for entry in samples.values())
    return ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in numbers.items())


def _describe_maps(folder: Path) -> None:
    """What a store of maps holds."""
    from mnemoscope.maps.store import MapStore

    store = MapStore(folder, verify=False)
    store.check()
    by_suffix = dict(store.index.group_by("suffix").len().iter_rows())
    print(f"{folder}: {store.index.height:,} maps, {store.n_layers} layers, length {store.length}")
    print("suffix: " + ", ".join(f"{key} {value:,}" for key, value in sorted(by_suffix.items())))
    print(f"shards: {store.index['shard'].n_unique()}, {_size(folder)} on disk, checksums right")


def _describe_table(path: Path) -> None:
    """Columns, types and missing values of a table."""
    from mnemoscope.sequences.schema import read_table

    frame = read_table(path)
    print(f"{path}: {frame.height:,} rows, {_size(path)}")
    for name, dtype in frame.schema.items():
        missing = frame[name].null_count()
        note = f", {missing:,} missing" if missing else ""
        print(f"  {name}: {dtype}{note}")


def _size(path: Path) -> str:
    """Bytes on disk, in a unit a person reads."""
    paths = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    n_bytes = float(sum(one.stat().st_size for one in paths))
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
