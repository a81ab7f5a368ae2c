"""Read a split of `usvsnsp/semantic-filters`, the data set of the paper, in bounded memory.

Three passes over its Parquet files: what is a number or a flag of all rows, ROUGE from the tokens
slice by slice, then tokens and texts of the rows that were chosen, and only of those.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import polars as pl
import polars.selectors as cs

from mnemoscope.data.hub import check_whole
from mnemoscope.data.rouge import rouge_scores
from mnemoscope.data.table import (
    CODE_LABEL,
    COLUMNS,
    code_by_label,
    is_kind,
    token_matrix,
    whole_parquet,
)
from mnemoscope.errors import UserError, nearest
from mnemoscope.progress import say, track

# Find the Parquet files of a split of `usvsnsp/semantic-filters`, in a folder or on the hub.

HUB_NAME = "usvsnsp/semantic-filters"
_PARTS = ("pile", "memories")
"""First the part whose row is kept where both hold a sequence (arXiv 2406.17746)."""
_SCHEMES = ("duped", "deduped")
_SIZES = ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
SPLITS = tuple("_".join(words) for words in product(_PARTS, _SCHEMES, _SIZES))
"""The 32 splits of the data set, and no other, stand on the hub."""

_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.parquet")
_FOLDER = re.compile(rf"({'|'.join(_PARTS)})_({'|'.join(_SCHEMES)})_.+")
_CACHE_FOLDER = "datasets--" + HUB_NAME.replace("/", "--")


def find_split(source: str, split: str) -> dict[str, list[Path]]:
    """Files of a split, the pile before the memories; downloaded where `source` is the hub's name.

    `split` is a full name such as `memories_deduped_12b`, or `deduped_12b` for both parts. Raises
    UserError: no such folder or split, a shard that is missing, or the hub out of reach.
    """
    folder = Path(source)
    if source == HUB_NAME and not folder.exists():
        names = _resolve(split, SPLITS, where=HUB_NAME)
        folder = _download(names)
    elif not folder.is_dir():
        raise UserError(
            f"{source}: no such folder. A split is read from {HUB_NAME} or from a folder that "
            "holds its Parquet files."
        )
    held = list_splits(folder)
    if not held:
        raise UserError(
            f"{source}: holds no split of {HUB_NAME}. Files such as "
            "data/memories_deduped_12b-00000-of-00004.parquet are needed."
        )
    names = _resolve(split, held, where=source)
    for name in names:
        check_whole([one.name for one in held[name]], str(held[name][0].parent))
    return {name: held[name] for name in names}


def is_split_folder(source: str) -> bool:
    """True of a folder that holds splits of the data set."""
    try:
        folder = Path(source)
        return folder.is_dir() and any(_FOLDER.fullmatch(name) for name in list_splits(folder))
    except OSError:  # not ours to complain of: whoever reads the folder says what is wrong
        return False


def list_splits(folder: Path) -> dict[str, list[Path]]:
    """Splits that a folder holds, with their files in order; empty where it holds none."""
    found: dict[str, list[Path]] = {}
    for root in _roots(folder):
        here: defaultdict[str, list[Path]] = defaultdict(list)
        for path in sorted(root.glob("*.parquet")):
            if shard := _SHARD.fullmatch(path.name):
                here[shard["split"]].append(path)
        for inner in sorted(path for path in root.iterdir() if path.is_dir()):
            if _FOLDER.fullmatch(inner.name) and (files := sorted(inner.glob("*.parquet"))):
                here[inner.name] = files
        found.update(here)
    return found


def _roots(folder: Path) -> Iterator[Path]:
    """Folders in which files of a split may stand; a later snapshot goes before an earlier."""
    for base in (folder, folder / _CACHE_FOLDER):
        snapshots = [path for path in (base / "snapshots").glob("*") if path.is_dir()]
        for root in (*sorted(snapshots, key=lambda path: path.stat().st_mtime), base):
            yield from (path for path in (root, root / "data") if path.is_dir())


def _resolve(split: str, held: Iterable[str], *, where: str) -> list[str]:
    held = sorted(held)
    if split in held:
        return [split]
    both = [f"{part}_{split}" for part in _PARTS]
    if all(name in held for name in both):
        return both
    lacking = [name for name in both if name not in held]
    if len(lacking) == 1:
        raise UserError(
            f"{where}: split '{split}' needs '{lacking[0]}', which is not there. Add its files, or "
            f"take the other part alone: {next(name for name in both if name in held)}."
        )
    whole = [name.partition("_")[2] for name in held if name.startswith(_PARTS[0])]
    hint = nearest(split, [*whole, *held])
    raise UserError(f"{where}: no split '{split}'.{hint} It holds: {_shorten(held)}.")


def _shorten(names: list[str]) -> str:
    """Names on one line, or the rule where all of the hub's are there."""
    if set(names) >= set(SPLITS):
        return f"[{'|'.join(_PARTS)}]_[{'|'.join(_SCHEMES)}]_[{'|'.join(_SIZES)}]"
    return ", ".join(names)


def _download(names: list[str]) -> Path:
    """Folder of the hub's snapshot with the files of these splits and no others."""
    from huggingface_hub import snapshot_download

    patterns = [f"data/{name}-*.parquet" for name in names]
    say(f"Fetching {', '.join(names)} of {HUB_NAME} (a pile split is about 3 GB)")
    try:
        return Path(snapshot_download(HUB_NAME, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:  # whatever the network, the hub or the disk has to say
        includes = " ".join(f"--include '{pattern}'" for pattern in patterns)
        raise UserError(
            f"{HUB_NAME}: cannot be fetched ({type(error).__name__}). Where there is a network run "
            f"'hf download {HUB_NAME} --repo-type dataset {includes} --local-dir FOLDER', then "
            "give FOLDER as the source."
        ) from error


LENGTH = 64
"""Tokens of every sequence of the data set."""
CODE_AT_MOST, PROSE_AT_LEAST = 0.4, 0.525
"""`nl_scores` that the data set's authors call code, and natural language (arXiv 2406.17746)."""

_REMEDY = "Copy it again."  # nobody but the data set's authors makes these files
_LARGEST_ID = 2**31 - 1
_SLICE_ROWS = 100_000
_SCALARS = {  # the data set's name to ours
    "sequence_id": "sequence_id",
    "sequence_duplicates": "duplicates",
    "memorization_score": "memorization_score",
    "is_incrementing": "is_incrementing",
    "is_repeating": "is_repeating",
}
_NL_SCORES = "nl_scores"
_KINDS = {
    **{name: COLUMNS[ours].kind for name, ours in _SCALARS.items()},
    _NL_SCORES: COLUMNS["memorization_score"].kind,
    "tokens": COLUMNS["tokens"].kind,
    "text": COLUMNS["text"].kind,
}
FURTHER = {
    "prompt_perplexity": COLUMNS["memorization_score"].kind,
    "generation_perplexity": COLUMNS["memorization_score"].kind,
    "sequence_perplexity": COLUMNS["memorization_score"].kind,
    "frequencies": COLUMNS["tokens"].kind,
    "0_8_templates": COLUMNS["duplicates"].kind,
    "0_8_snowclones": COLUMNS["duplicates"].kind,
}
"""What the neighbouring analyses read of a split, and its kind; a copy may lack any of it."""


@dataclass(frozen=True)
class Split:
    """The features of all sequences of a split."""

    # Parquet files of every part, in the order in which rows are counted.
    files: dict[str, list[Path]]
    # One row a sequence, ids unique: `row` (place in the files), `sequence_id`, `duplicates`,
    # `memorization_score`, `is_incrementing`, `is_repeating` (all three as published), `is_code`,
    # `rouge_l`, `rouge_3`.
    rows: pl.DataFrame
    n_rows: dict[str, int]  # rows of every part, as they stand in the files
    n_duplicates: int  # rows dropped because their id stood earlier in the same part
    n_overlaps: int  # rows dropped because their id stands in an earlier part


def read_split(
    source: str,
    split: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    also: Sequence[str] = (),
) -> Split:
    """Read the features of a split (`find_split`); no tokens or texts stay in memory.

    A sequence that stands twice (the data set pads to a multiple of 8, and the pile's sample and
    the memories overlap) is kept once, where it stands first. `limit` sequences are drawn at random
    by `seed`; `also` names further columns to keep. Raises UserError: as `find_split`; a column
    missing or of another type, no rows, an id that is null, tokens that are not 64.
    DamagedDataError: a file that is torn.
    """
    files = find_split(source, split)
    for path in _all(files):
        _check_schema(path)
    parts = {name: pl.concat([_scalars(path, also) for path in files[name]]) for name in files}
    rows = pl.concat(frame.with_columns(part=pl.lit(name)) for name, frame in parts.items())
    if rows.is_empty():
        raise UserError(f"{source}: split '{split}' has no rows. Copy its files again.")
    rows = rows.with_row_index("row")
    once = pl.struct("part", "sequence_id").is_first_distinct()
    n_once = int(rows.select(once.sum()).item())
    kept = rows.filter(pl.col("sequence_id").is_first_distinct()).drop("part")
    if limit is not None and limit < kept.height:
        kept = kept.sample(limit, seed=seed, shuffle=False).sort("row")
    return Split(
        files=files,
        rows=kept.with_columns(_rouge(files, kept["row"], rows.height)),
        n_rows={name: frame.height for name, frame in parts.items()},
        n_duplicates=rows.height - n_once,
        n_overlaps=n_once - rows["sequence_id"].n_unique(),
    )


def take_rows(split: Split, rows: pl.DataFrame) -> pl.DataFrame:
    """Give rows their `tokens` and `text`, and what of `FURTHER` every file has, in file order."""
    rows = rows.sort("row")
    n_all = sum(split.n_rows.values())
    schemas = [pl.scan_parquet(path, glob=False).collect_schema() for path in _all(split.files)]
    also = [name for name in FURTHER if all(name in schema for schema in schemas)]
    names = ["tokens", "text", *also]
    found = [
        frame.with_columns(pl.col("tokens").cast(pl.List(pl.Int32)))
        for frame in _slices(split.files, names, rows["row"], "texts", n_all)
    ]
    return rows.with_columns(pl.concat(found).select("text", "tokens", *also).get_columns())


def _rouge(files: dict[str, list[Path]], wanted: pl.Series, n_all: int) -> list[pl.Series]:
    half = LENGTH // 2
    scores: dict[str, list[pl.Series]] = {"rouge_l": [], "rouge_3": []}
    for frame in _slices(files, ["tokens"], wanted, "ROUGE", n_all):
        tokens = token_matrix(frame)
        for name, values in rouge_scores(tokens[:, :half], tokens[:, half:])._asdict().items():
            scores[name].append(pl.Series(name, values))
    return [pl.concat(found) for found in scores.values()]


def _slices(
    files: dict[str, list[Path]], columns: list[str], wanted: pl.Series, label: str, n_all: int
) -> Iterator[pl.DataFrame]:
    """The wanted rows (places over all files, sorted) of some columns, a slice at a time."""
    before = 0
    with track(label, total=n_all, unit="rows") as progress:
        for path in _all(files):
            n_here = int(_collect(pl.scan_parquet(path, glob=False).select(pl.len()), path).item())
            for start in range(0, n_here, _SLICE_ROWS):
                n_slice = min(_SLICE_ROWS, n_here - start)
                low, high = before + start, before + start + n_slice
                first, last = (wanted.search_sorted(end, side="left") for end in (low, high))
                if last > first:
                    lazy = pl.scan_parquet(path, glob=False).slice(start, n_slice)
                    frame = _collect(lazy.select(columns), path)[wanted[first:last] - low]
                    frame = frame.with_columns(cs.array().arr.to_list())
                    _check_tokens(frame["tokens"], path, wanted[first:last] - before)
                    if "frequencies" in frame.columns:
                        _check_frequencies(frame["frequencies"], path, wanted[first:last] - before)
                    yield frame
                progress.advance(n_slice)
            before += n_here


def _scalars(path: Path, also: Sequence[str]) -> pl.DataFrame:
    """The numbers and flags of one file, under our names and at our types."""
    schema = pl.scan_parquet(path, glob=False).collect_schema()
    taken = [pl.col(name).cast(COLUMNS[ours].dtype).alias(ours) for name, ours in _SCALARS.items()]
    extra = [pl.col(name) for name in also if name in schema and name not in _KINDS]
    score = pl.col(_NL_SCORES).fill_nan(None)
    by_score = pl.when(score <= CODE_AT_MOST).then(True).when(score >= PROSE_AT_LEAST).then(False)
    code = (code_by_label() if CODE_LABEL in schema else by_score).alias("is_code")
    frame = _collect(pl.scan_parquet(path, glob=False).select(*taken, code, *extra), path)
    ids = frame["sequence_id"]
    if ids.null_count():
        row = ids.is_null().arg_max()
        raise UserError(f"{path}, column 'sequence_id', row {row}: null. Copy the file again.")
    return frame.with_columns(pl.col("memorization_score").fill_nan(None))


def _check_schema(path: Path) -> None:
    with whole_parquet(path, _REMEDY):
        schema = pl.scan_parquet(path, glob=False).collect_schema()
    for name in _KINDS:
        if name not in schema:
            raise UserError(
                f"{path}: no column '{name}'. The files of the data set hold it; copy them again."
            )
    for name, kind in {**_KINDS, **FURTHER, CODE_LABEL: COLUMNS[CODE_LABEL].kind}.items():
        if name in schema and not is_kind(schema[name], kind):
            raise UserError(f"{path}, column '{name}': {schema[name]} where {kind} are needed.")


def _check_tokens(lists: pl.Series, path: Path, places: pl.Series) -> None:
    is_wrong = lists.list.len().ne_missing(LENGTH)
    if is_wrong.any():
        row = int(is_wrong.arg_max() or 0)
        n_tokens = 0 if lists[row] is None else len(lists[row])
        raise UserError(
            f"{path}, column 'tokens', row {places[row]}: {n_tokens} tokens where {LENGTH} are "
            "needed. Copy the file again."
        )
    ids = lists.explode()
    is_wrong = ids.is_null() | ~ids.is_between(0, _LARGEST_ID)
    if is_wrong.fill_null(True).any():
        place = int(is_wrong.fill_null(True).arg_max() or 0)
        raise UserError(
            f"{path}, column 'tokens', row {places[place // LENGTH]}: {ids[place]} is no token "
            "id. Copy the file again."
        )


def _check_frequencies(lists: pl.Series, path: Path, places: pl.Series) -> None:
    """Refuse lists that do not have a count a token; a row may have none at all (null)."""
    is_wrong = lists.list.len().ne(LENGTH) | lists.list.eval(pl.element().is_null()).list.any()
    if is_wrong.any():
        row = int(is_wrong.fill_null(False).arg_max() or 0)
        raise UserError(
            f"{path}, column 'frequencies', row {places[row]}: {LENGTH} counts are needed, one a "
            "token. Copy the file again, or drop the column."
        )


def _collect(lazy: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """Read, and name the file where it is damaged inside."""
    with whole_parquet(path, _REMEDY):
        return lazy.collect()


def _all(files: dict[str, list[Path]]) -> list[Path]:
    return [path for part in files.values() for path in part]
