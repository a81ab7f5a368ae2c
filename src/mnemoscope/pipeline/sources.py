"""Read the sources of a study, or say what is known of those that are not on disk."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.data.hub import parse_hub_name
from mnemoscope.data.published_split import (
    HUB_NAME,
    SPLITS,
    find_split,
    is_split_folder,
    list_splits,
)
from mnemoscope.data.read import ReadResult, join_results, read_sequences
from mnemoscope.data.table import has_values, read_table
from mnemoscope.embedded import sequences_path
from mnemoscope.errors import UserError
from mnemoscope.pipeline.published_split import per_class, read_published
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import EMBEDDED, StudySettings
from mnemoscope.study.shapes import shape_facts
from mnemoscope.taxonomy.names import Taxonomy, count_class_sets
from mnemoscope.words import first_names, plural

_MOST_NAMED = 5  # of files and texts that give no sequence, for one reason
_VERDICTS = ("is_memorized", "published_is_memorized", "memorization_score")


class PlannedData(NamedTuple):
    """What is known of the sequences; counts are upper bounds, None if unknown."""

    frame: pl.DataFrame | None
    n_sequences: int | None
    n_memorized: int | None
    lines: list[str]


def read_sources(
    settings: StudySettings, tokenizer: Callable[[], Any], source: Any = None
) -> ReadResult:
    """Read the shipped sequences, a split of the paper's data set, or the user's sources.

    `source` is a frame that is read in place of `sequences.source`; without a tokenizer (None)
    texts cannot be read. Raises UserError: as `read_sequences` and `read_published`.
    """
    wanted = settings.sequences
    is_ours = wanted.split is not None or wanted.source == EMBEDDED
    if is_ours and (wanted.also or wanted.columns):
        raise UserError(
            "sequences.also, sequences.columns: for sources of yours, not for the shipped "
            "sequences or a split of the paper's data set."
        )
    if wanted.split is not None:
        return read_published(settings)
    if wanted.source == HUB_NAME or is_split_folder(wanted.source):
        raise UserError(
            f"{wanted.source}: the paper's data set; which split? Name it, for example "
            "'--split deduped_12b' or 'sequences.split: deduped_12b' in the settings."
        )
    if wanted.source == EMBEDDED:
        frame = read_table(sequences_path())
        return ReadResult(frame=frame, n_documents=frame["document"].n_unique())
    loaded = tokenizer()
    sources = _once([wanted.source, *wanted.also])
    results = [
        read_sequences(
            one,
            loaded,
            length=wanted.length,
            prefix=wanted.n_prefix,
            stride=wanted.stride or wanted.length,
            pad=wanted.pad,
            columns=wanted.columns,
        )
        for one in (wanted.source if source is None else source, *sources[1:])
    ]
    joined = join_results(results, sources)
    ends = list(accumulate(one.frame.height for one in results))
    copies = {
        name: [n, end - begin]
        for name, begin, end in zip(sources[1:], ends, ends[1:], strict=False)
        if (n := _n_copies(joined.frame, begin, end))
    }
    return replace(joined, facts=joined.facts | {"copies": copies}) if copies else joined


def _once(sources: Sequence[str]) -> list[str]:
    """The sources but for those that name the same file or folder again."""
    real: dict[str, str] = {}
    for one in sources:
        real.setdefault(str(Path(one).resolve()) if Path(one).exists() else one, one)
    return list(real.values())


def _n_copies(frame: pl.DataFrame, begin: int, end: int) -> int:
    """How many of the rows from `begin` to `end` hold the same tokens as one before them all."""
    tokens = frame.select("tokens")
    return tokens[begin:end].join(tokens[:begin].unique(), on="tokens", how="semi").height


def copies_said(result: ReadResult, settings: StudySettings) -> list[str]:
    """Say which further sources hold sequences that are there already, and which to leave out."""
    said = []
    for name, (n, whole) in result.facts.get("copies", {}).items():
        line = f"{name}: of {plural(whole, 'sequence')} {n:,} are exact copies of sequences of the "
        line += "sources before it and count twice."
        if n == whole:
            left = ", ".join(one for one in settings.sequences.also if one != name)
            line += f" Leave it out: --set {shlex.quote(f'sequences.also=[{left}]')}"
        said.append(line)
    return said


def passed_over(result: ReadResult, settings: StudySettings) -> Iterator[str]:
    """Say which files and texts give no sequence, and why: a line, the first of them by name."""
    why = f"shorter than one sequence, {settings.sequences.length} tokens"
    names: dict[str, list[str]] = {}
    for name, reason in [
        *((one.name, one.reason.rstrip(".")) for one in result.unread),
        *((name, why) for name in result.too_short),
    ]:
        names.setdefault(reason, []).append(name)
    said = [f"{first_names(of, _MOST_NAMED)} ({reason})" for reason, of in names.items()]
    if said:
        yield f"Left out: {'; '.join(said)}."
    if result.pages:
        pages = first_names(result.pages, _MOST_NAMED)
        yield f"Read with its markup, as it stands: {pages}. An audit reads a page's text alone."


def find_data(
    settings: StudySettings,
    taxonomies: Sequence[Taxonomy],
    study: Study | None,
    checked: Callable[[], ReadResult] | None,
) -> PlannedData:
    """Find what is known of the sequences without downloading anything; errors as `run`.

    `checked` reads the sources as the run does, where the model is loaded; else None.
    """
    wanted = settings.sequences
    if study is not None:
        return _of_frame(study.sequences, settings, is_done=True)
    if wanted.source == HUB_NAME and not Path(HUB_NAME).exists() and wanted.split is not None:
        folder = _cached_split(wanted.split)
        if folder is None:
            return _published(settings, wanted.split, taxonomies)
        here = wanted.model_copy(update={"source": str(folder)})
        settings = settings.model_copy(update={"sequences": here})
    elif wanted.split is None and not all(map(_is_here, (wanted.source, *wanted.also))):
        return _of_suite(settings)
    if checked is not None and wanted.split is None:
        result = checked()
        return _of_result(result, settings)
    try:
        result = read_sources(settings, lambda: None)
    except UserError as error:
        if "tokenizer" not in str(error):
            raise
        why = "texts; how many sequences they give is known with the tokenizer"
        return PlannedData(None, None, None, [f"Sequences: {wanted.source}: {why}."])
    if wanted.split is None:
        result = result.limited(wanted.limit, wanted.seed)
    return _of_result(result, settings)


def verdict_column(frame: pl.DataFrame) -> str | None:
    """The column that says which sequences are memorized."""
    return next((name for name in _VERDICTS if has_values(frame, name)), None)


def _of_result(result: ReadResult, settings: StudySettings) -> PlannedData:
    found = _of_frame(result.frame, settings)
    said = [*found.lines, *passed_over(result, settings), *copies_said(result, settings)]
    return found._replace(lines=said)


def _of_frame(
    frame: pl.DataFrame, settings: StudySettings, *, is_done: bool = False
) -> PlannedData:
    n_suffix = settings.sequences.length - settings.sequences.n_prefix
    how = "scanned" if settings.continue_.scan else f"continued by {n_suffix} tokens"
    lines = [f"Sequences: {frame.height:,}, each {how}."]
    verdict, n_memorized = verdict_column(frame), None
    if verdict is not None:
        n_memorized = int((frame[verdict].cast(pl.Float64) == 1).sum())
        is_found = verdict == "is_memorized" and is_done
        source = "found by the model" if is_found else "as the table says; the run asks the model"
        lines.append(f"Memorized: {n_memorized:,}, {source}.")
    return PlannedData(frame, frame.height, n_memorized, lines)


def _is_here(source: str) -> bool:
    """Whether a source can be read without a network."""
    from huggingface_hub.constants import HF_HUB_CACHE

    hub = parse_hub_name(source)
    if hub is None:
        return source == EMBEDDED or Path(source).exists()
    if source == HUB_NAME:  # without a split it is refused
        return True
    return (Path(HF_HUB_CACHE) / f"datasets--{hub.name.replace('/', '--')}").is_dir()


def _of_suite(settings: StudySettings) -> PlannedData:
    """Sources that are not on disk: their published rows, and how many sequences they can give."""
    known, limit = shape_facts("suites")["data"], settings.sequences.limit
    lines, facts = [], []
    for one in (settings.sequences.source, *settings.sequences.also):
        fact = known.get(re.sub(r"[@#].*", "", one))
        if fact is None and parse_hub_name(one) is None:
            raise UserError(f"{one}: no such file or folder.")
        rows = f"{fact['rows']:,} rows ({fact['of']})" if fact else "rows not known"
        lines.append(f"Sequences: {one}: {rows}, not on disk.")
        facts.append(fact)
    n_sequences = limit
    if all(fact and fact.get("is_cut") for fact in facts):
        n_rows = sum(fact["rows"] for fact in facts)
        n_sequences = n_rows if limit is None else min(n_rows, limit)
        lines.append(f"A row is a sequence: {n_sequences:,}.")
    elif limit is not None:
        lines.append(f"Kept of their windows: at most {limit:,} (sequences.limit).")
    rate, n_memorized = shape_facts("suites")["rates"].get(settings.model.name), None
    if rate is not None and n_sequences is not None:
        n_memorized = round(rate["share"] * n_sequences)
    return PlannedData(None, n_sequences, n_memorized, lines)


def _cached_split(split: str) -> Path | None:
    """The hub's cache if it holds the data set's split."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    return folder if folder.is_dir() and {*_parts(split)} <= {*list_splits(folder)} else None


def _parts(split: str) -> list[str]:
    return [split] if split in SPLITS else [f"pile_{split}", f"memories_{split}"]


def _published(settings: StudySettings, split: str, taxonomies: Sequence[Taxonomy]) -> PlannedData:
    """The paper's data set, not on disk, from the published counts."""
    if not all(name in SPLITS for name in _parts(split)):
        find_split(HUB_NAME, split)  # raises, with the nearest name
    facts = shape_facts("pythia")["splits"][split.partition("_")[2] if split in SPLITS else split]
    parts = {name.partition("_")[0]: facts[name.partition("_")[0]] for name in _parts(split)}
    kept = per_class(settings)
    # One more than the taxonomies' classes: all memorized sequences, to check the labels.
    n_at_most = min(sum(parts.values()), kept * (count_class_sets(taxonomies) + 1))
    if settings.sequences.limit is not None:
        n_at_most = min(n_at_most, settings.sequences.limit)
    counted = " + ".join(f"{name} {n:,}" for name, n in parts.items())
    where = "as published (not on disk; run fetches them)"
    lines = [
        f"Sequences: {HUB_NAME}, {split}: {counted} rows, {where}.",
        f"Kept of them: at most {n_at_most:,} ({kept:,} of each different class).",
    ]
    return PlannedData(None, n_at_most, n_at_most - (kept if "pile" in parts else 0), lines)
