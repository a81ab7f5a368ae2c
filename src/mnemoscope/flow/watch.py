"""The verb `watch`: which of a fixed set of windows each checkpoint of a run reproduces.

Each checkpoint is loaded once and its results are written at once, so a killed run goes on.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.analysis.figures import Chart, Figure, HeatMap, Series, plain, series_of
from mnemoscope.analysis.inputs import AnalysisResult
from mnemoscope.analysis.levels import LEVELS, transitions
from mnemoscope.conditions import GateResult, refuse_same, to_do_of
from mnemoscope.data.formats import AS_TEXT, excluded_said, find_excluded
from mnemoscope.data.read import ReadResult, read_sequences
from mnemoscope.data.rows import has_tables, holds_rows
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError, printable
from mnemoscope.files import digest, hold_file, made_folder, write_parquet
from mnemoscope.library.sequences import scan
from mnemoscope.lm.hub import NAMED_STEP, Checkpoint, describe_lacking, find_checkpoints
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.placement import check_dtype, find_device
from mnemoscope.lm.tokenizer import load_tokenizer
from mnemoscope.pipeline.reference import repeats_more_of
from mnemoscope.progress import say
from mnemoscope.progress import track as show_track
from mnemoscope.report.page import write_sections
from mnemoscope.report.tables import AnalysisSection, table_of
from mnemoscope.stats import FIGURE, Estimate, frame_of, share_true
from mnemoscope.study.settings import EMBEDDED
from mnemoscope.taxonomy.groups import find_near_duplicates
from mnemoscope.training.history import (
    History,
    HistoryWriter,
    follow,
    holds_history,
    is_checked,
    kept_controls,
    read_history,
    remove_history,
    steps_after,
    survival,
    text_words,
    turnover,
)
from mnemoscope.training.watch import judge
from mnemoscope.training.windows import CONTROL, GUESS, PLACE, RECALL, WatchedWindows
from mnemoscope.words import plural

PAGE = "watch.html"
_ENDS = ("0 to 20 %", "20 to 40 %", "40 to 60 %", "60 to 80 %", "80 to 100 %")
"""What `LEVELS` are, of the tokens of a suffix that are right."""
KINDS = {RECALL: "cannot be guessed from their text", GUESS: "can be guessed from their text"}


@dataclass(frozen=True)
class WatchAsked:
    """What the user asked for."""

    checkpoints: tuple[str, ...]  # as for `find_checkpoints`
    sequences: str  # texts or a table to watch
    control: str | None = None  # texts or a table kept out of training, or None
    # of either where it is a table, by their paths (`take_columns`)
    columns: Mapping[str, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()  # files of `sequences` to leave out (`is_excluded`)
    most: int | None = 2000  # windows to draw of each; None keeps all
    whole: bool = False  # keep all windows of `sequences`, whatever `most` says of the control
    length: int = 64  # tokens of a window
    stride: int | None = None  # from window to window; None: they lie side by side
    seed: int = 0
    threshold: float | None = None  # share that counts; None: as the folder has it, or all
    # also continue each window to get its score, not only whether it is memorized
    decode: bool = True
    dtype: str = "float32"
    device: str = "auto"
    batch_size: int = 64
    trust_remote_code: bool = False
    redo: bool = False  # begin the folder anew


def refuse_copy(baseline: Path, history: Path) -> None:
    """Refuse a baseline that is a copy of a folder that is judged as it is (UserError)."""
    older = read_history(baseline)
    if holds_history(history) and older.sums == read_history(history).sums:
        refuse_same(baseline, older.last.get("date"))


class Prepared(NamedTuple):
    """What is watched, before a model is loaded."""

    checkpoints: list[Checkpoint]
    keys: dict[Checkpoint, str]  # of each check
    tokenizer: Any
    windows: WatchedWindows
    unread: list[tuple[str, str]]  # documents without a window, and why
    excluded: dict[str, list[str]]


def prepare_watch(asked: WatchAsked, out: Path, baseline: Path | None = None) -> Prepared:
    """Find checkpoints and cut windows; errors as `watch_checkpoints`."""
    watched = Path(asked.sequences).resolve()
    if asked.control is not None and Path(asked.control).resolve() == watched:
        raise UserError(
            f"--control {asked.control}: the texts that are watched. Name texts that were kept out "
            "of training."
        )
    if EMBEDDED in asked.checkpoints and not Path(EMBEDDED).exists():
        texts = text_words(asked.sequences, asked.columns, asked.exclude)
        audit = shlex.join(("mnemoscope", "audit", EMBEDDED, *texts, "-o", "audit"))
        raise UserError(
            f"watch {EMBEDDED}: the shipped model has no checkpoints. Name a folder of them; of "
            f"one model '{audit}' says what it repeats."
        )
    excluded = find_excluded([asked.sequences], asked.exclude)
    checkpoints = find_checkpoints(asked.checkpoints, least=1)
    keys = {one: digest([one.signature(), asked.dtype, asked.decode]) for one in checkpoints}
    if baseline is not None and all(is_checked(out, one.step, key) for one, key in keys.items()):
        refuse_copy(baseline, out)
    late = [] if asked.redo else steps_after(out, checkpoints[-1].step)
    if late:
        raise UserError(
            f"watch: {out} holds step {late[-1]:,}, and the last checkpoint named is step "
            f"{checkpoints[-1].step:,}: a training that was begun anew. Give another folder with "
            "-o, or --redo, which begins this one anew."
        )
    check_dtype(asked.dtype)
    find_device(asked.device)
    first, trust = checkpoints[0], asked.trust_remote_code
    tokenizer = load_tokenizer(first.name, revision=first.revision, trust_remote_code=trust)
    most = None if asked.whole else asked.most
    read, windows = _windows(asked, asked.sequences, "document", tokenizer, most)
    _say_cost(asked, windows)
    unread = [(one.name, one.reason) for one in read.not_checked(asked.length)]
    if asked.control is not None:
        windows += _windows(asked, asked.control, CONTROL, tokenizer, asked.most)[1]
    elif not asked.redo and (kept := kept_controls(out)) is not None:
        windows += WatchedWindows(kept, windows.bos_id)
    return Prepared(checkpoints, keys, tokenizer, windows, unread, excluded)


def load_checkpoint(asked: WatchAsked, one: Checkpoint) -> LanguageModel:
    """A checkpoint as it was asked for."""
    return load_model(
        one.name,
        revision=one.revision,
        dtype=asked.dtype,
        device=asked.device,
        trust_remote_code=asked.trust_remote_code,
    )


def check_of(asked: WatchAsked, model: LanguageModel, windows: WatchedWindows) -> pl.DataFrame:
    """One check of a model, with scores where windows are decoded."""
    check = judge(model, windows, batch_size=asked.batch_size)
    return check.with_columns(_scores(model, windows, asked.batch_size)) if asked.decode else check


def watch_checkpoints(asked: WatchAsked, out: Path, baseline: Path | None = None) -> None:
    """Check every checkpoint that has not been checked yet; `out` is the history's folder.

    A `baseline` that is a copy of it is refused before, where there is nothing to check.

    Raises UserError: as `find_checkpoints`, `read_sequences`, `load_model`; checkpoints with
    different tokenizers; controls that are what is watched; a folder with a history of other
    windows, or one that another process makes.
    """
    checkpoints, keys, tokenizer, windows, unread, excluded = prepare_watch(asked, out, baseline)
    for line in excluded_said(excluded):
        say(line)
    run = ", ".join(dict.fromkeys(one.run for one in checkpoints))
    made_folder(out.absolute().parent)
    with hold_file(out.absolute()):
        if asked.redo:
            remove_history(out)
        history = HistoryWriter(
            *(out, windows),
            unread=unread,
            run=run,
            source=asked.sequences,
            control=asked.control,
            columns=dict(_columns_of(asked, asked.sequences)),
            excluded=excluded,
            stride=asked.stride,
            given=[*asked.checkpoints],
            threshold=asked.threshold,
        )
        with show_track("Checkpoints", total=len(checkpoints), unit="checkpoints") as progress:
            for one in checkpoints:
                key = keys[one]
                if not history.has(one.step, key):
                    model = load_checkpoint(asked, one)
                    if model.tokenizer.get_vocab() != tokenizer.get_vocab():
                        raise UserError(
                            f"watch: step {one.step} ({one.name}) has another tokenizer than step "
                            f"{checkpoints[0].step}. Give checkpoints of one run."
                        )
                    check = check_of(asked, model, windows)
                    is_step = one.revision or NAMED_STEP.search(Path(one.name).name)
                    name = None if is_step else Path(one.name).name
                    words = [one.name, *(["--revision", one.revision] if one.revision else [])]
                    history.add(one.step, check, key, model.fingerprint, name, words)
                progress.advance(1)


def _say_cost(asked: WatchAsked, windows: WatchedWindows) -> None:
    """Say how much longer each checkpoint takes where more is asked than by default."""
    stride = asked.stride or asked.length
    if stride < asked.length:
        n = len(windows) + windows.n_left_out
        drawn = f"; {len(windows):,} are drawn (--most)" if windows.n_left_out else ""
        say(
            f"{asked.sequences}: --stride {stride} makes {n:,} windows, up to "
            f"{asked.length / stride:.3g} times as many as side by side, and each checkpoint takes "
            f"as many times longer{drawn}."
        )
    if asked.whole and asked.most is not None and (n := len(windows)) > asked.most:
        say(
            f"{asked.sequences}: a condition in doc asks all {n:,} windows, so each checkpoint "
            f"takes {n / asked.most:.1f} times as long as with {asked.most:,}. --most draws fewer."
        )


def _windows(
    asked: WatchAsked, path: str, source: str, tokenizer: Any, most: int | None
) -> tuple[ReadResult, WatchedWindows]:
    length, stride = asked.length, asked.stride or asked.length
    read = read_sequences(
        path,
        tokenizer,
        length=length,
        stride=stride,
        columns=_columns_of(asked, path),
        exclude=asked.exclude if source != CONTROL else (),
        rows_too=True,
    )
    read = read.as_given(path)
    frame = read.frame
    name = pl.format("{}:{}", pl.lit(source), "sequence_id").alias("sequence_id")
    frame = frame.drop("source", strict=False).with_columns(name)
    return read, WatchedWindows.from_table(
        frame, tokenizer, source=source, most=most, seed=asked.seed, tails=read.tails
    )


def _columns_of(asked: WatchAsked, path: str) -> Mapping[str, str]:
    """The columns that are taken of texts or control; none where they are of the other, a table."""
    sources = {asked.sequences: asked.exclude, asked.control: ()}
    if asked.columns in ({}, AS_TEXT):
        return asked.columns
    has_rows = {
        one: holds_rows(one, exclude) or has_tables(Path(one), exclude)
        for one, exclude in sources.items()
        if one
    }
    return {} if any(has_rows.values()) and not has_rows[path] else asked.columns


def _scores(model: Any, windows: WatchedWindows, batch_size: int) -> pl.Series:
    """The score of each window; of one that is asked with its lines joined too the better one."""
    (_, tokens), *again = windows.asked()
    scores = scan(model, tokens, decode=True, batch_size=batch_size)["memorization_score"]
    for rows, others in again:
        better = scan(model, others, decode=True, batch_size=batch_size)["memorization_score"]
        scores = scores.scatter(rows, np.maximum(scores[rows].to_numpy(), better.to_numpy()))
    return scores


Group = tuple[str, str]
"""A source and a class."""


def write_watch_page(
    history: Path,
    out: Path | None = None,
    judged: Sequence[GateResult] = (),
    threshold: float | None = None,
) -> AnalysisResult:
    """Write a history's tables and page, with what gates said, into its folder or another.

    `threshold` is that of `History.counting`.

    Raises UserError: there is no history, or the folder cannot be made. DamagedDataError: a torn
    file.
    """
    read = read_history(history).counting(threshold)
    results = watch_results(read)
    folder = out or history
    made_folder(folder)
    for name, frame in results.frames.items():
        write_parquet(folder / f"{name}.parquet", frame)
    for name in {"levels", "documents"} - results.frames.keys():  # of a history that was there
        (folder / f"{name}.parquet").unlink(missing_ok=True)
    section = AnalysisSection(
        name="watch",
        title="What comes out, what stays, what is forgotten",
        question="Which windows does the model reproduce at which step, and which does it forget?",
        sentence=results.sentence,
        first=(
            *(one.line for one in judged),
            *to_do_of(judged),
            *documents_said(results.frames.get("documents")),
        ),
        further=results.further,
        figures=results.figures,
        tables=tuple(
            table_of(name, _found_first(frame), f"{name}.parquet")
            for name, frame in results.frames.items()
        ),
    )
    write_sections(folder / PAGE, f"{read.run}: what comes out, step by step", [section])
    return results


def _found_first(frame: pl.DataFrame) -> pl.DataFrame:
    """Windows in the order of what came out at the last check, then ever; the control behind."""
    if "first_memorized" not in frame.columns:
        return frame
    is_control = pl.col("source") == CONTROL
    order = [pl.col("is_memorized") & ~is_control, "is_memorized", "n_memorized"]
    return frame.sort(order, descending=True, maintain_order=True)


def watch_results(history: History) -> AnalysisResult:
    """Summarize a history of at least one check; intervals draw groups of near duplicates.

    Frames are `shares`, `windows`, `turnover`, `survival`, of decoded windows `levels`, and
    where windows have documents `documents`.
    """
    groups_of_windows = near_groups(history.windows)
    checks = history.joined().join(groups_of_windows, on="window", maintain_order="left")
    steps = history.steps
    found = history.windows.select("source", "class").unique(maintain_order=True).rows()
    groups = sorted(found, key=lambda group: (group[0] == CONTROL, group[1] == GUESS))
    shares = shares_of(checks)
    followed = (
        follow(history.checks)
        .join(
            history.windows.select("window", "source", "class", "text", *PLACE),
            on="window",
            how="left",
        )
        .join(groups_of_windows, on="window", how="left", maintain_order="left")
    )
    lasting = pl.concat(
        survival(_of_group(followed, group), steps[-1]).select(
            pl.lit(group[0]).alias("source"), pl.lit(group[1]).alias("class"), "*"
        )
        for group in groups
    )
    frames = {
        "shares": shares,
        "windows": followed,
        "turnover": turnover(history.checks),
        "survival": lasting,
    }
    figures: list[Figure] = [_share_chart(shares, groups, history)]
    if not lasting.is_empty():
        figures.append(_survival_chart(lasting, groups))
    if "memorization_score" in checks.columns:
        frames["levels"], heat = _levels(checks, history)
        figures += heat
    if (documents := _documents(followed)).height:
        frames["documents"] = documents
    further = tuple(_further(steps, followed, history))
    return AnalysisResult(_sentence(checks, history), frames, tuple(figures), further)


_MOST = 10  # documents that are named, the most reproduced first


def documents_said(documents: pl.DataFrame | None) -> Iterator[str]:
    """Lines on the documents of which the last check reproduces most."""
    if documents is None:
        return
    found = documents.filter(pl.col("reproduced") > 0)
    for name, n, reproduced, start, end, line in found.head(_MOST).iter_rows():
        first = "" if start is None else f", the first at characters {start} to {end}"
        first += "" if line is None else f", line {line}"
        yield printable(f"{name}: {reproduced:,} of {plural(n, 'window')} reproduced{first}.")
    if (more := found.height - _MOST) > 0:
        yield f"... and {plural(more, 'more document')}."


def _documents(followed: pl.DataFrame) -> pl.DataFrame:
    """Documents by how many of their windows the last check reproduces, the most first."""
    named = followed.filter(pl.col("source") != CONTROL).drop_nulls("document")
    return (
        named.group_by("document", maintain_order=True)
        .agg(
            pl.len().alias("n"),
            pl.col("is_memorized").sum().cast(pl.Int64).alias("reproduced"),
            pl.col("start").filter("is_memorized").first().alias("first_start"),
            pl.col("end").filter("is_memorized").first().alias("first_end"),
            pl.col("line").filter("is_memorized").first().alias("first_line"),
        )
        .sort("reproduced", descending=True, maintain_order=True)
    )


def reproduced_at_last(history: History) -> pl.DataFrame:
    """The windows that the last check reproduces, with class, place and text."""
    found = history.checks.filter("is_memorized", step=history.steps[-1]).select("window")
    known = history.windows.select("window", "source", "class", *PLACE, "text")
    return found.join(known, on="window", how="left", maintain_order="left")


def swapped_said(history: History) -> str:
    """That texts and control may have been swapped; empty where nothing speaks for it.

    By windows whose text does not give them away, at the last check.
    """
    rows = history.joined().filter(step=history.steps[-1])
    is_control = pl.col("source") == CONTROL
    parts = [rows.filter(one, pl.col("class") == RECALL) for one in (~is_control, is_control)]
    own, others = (part["is_memorized"] for part in parts)
    if not repeats_more_of(own, others):
        return ""
    texts, control = (
        f"{int(one.sum()):,} of {plural(len(one), 'window')}" for one in (own, others)
    )
    return (
        f"of the control {control} that {KINDS[RECALL]} are reproduced, of the watched texts "
        f"{texts}: did you swap them?"
    )


def near_groups(windows: pl.DataFrame) -> pl.DataFrame:
    """Group of near duplicates of each window; a drawn page keeps these in place of the tokens."""
    if "near_duplicates" in windows.columns:
        return windows.select("window", "near_duplicates")
    alone = pl.int_range(windows.height, eager=True).to_numpy()
    has_tokens = "tokens" in windows.columns
    groups = find_near_duplicates(token_matrix(windows)) if has_tokens else alone
    return windows.select("window").with_columns(pl.Series("near_duplicates", groups))


def _of_group(frame: pl.DataFrame, group: Group) -> pl.DataFrame:
    return frame.filter(pl.col("source") == group[0], pl.col("class") == group[1])


def shares_of(checks: pl.DataFrame) -> pl.DataFrame:
    """Share of windows reproduced, by group and step, with intervals."""
    parts = checks.group_by("source", "class", "step", maintain_order=True)
    counted = parts.agg(
        pl.len().alias("n"),
        pl.col("near_duplicates").n_unique().alias("n_groups"),
        pl.col("is_memorized").sum().alias("memorized"),
        pl.col("logprob").mean(),
    )
    shares = ({"share": share_of(part)} for _, part in parts)
    return counted.hstack(frame_of(shares, {"share": FIGURE}))


def share_of(checks: pl.DataFrame) -> Estimate:
    """Share of checked windows that is reproduced; its interval draws `near_duplicates`."""
    return share_true(checks["is_memorized"], checks["near_duplicates"])


def _series_name(group: Group) -> str:
    """A group's name in a chart: its source and class, and what the class is in words."""
    return f"{', '.join(group)}: {KINDS[group[1]]}"


def _share_chart(shares: pl.DataFrame, groups: Sequence[Group], history: History) -> Chart:
    """Draw the shares by step, or by folder where none of them says its step."""
    steps, names = history.steps, history.names
    is_named = all(step in names for step in steps)
    if is_named:
        places = {step: place for place, step in enumerate(steps)}
        shares = shares.with_columns(pl.col("step").replace_strict(places))
    return Chart(
        title="Windows that the model reproduces, per cent (95 % interval)",
        series=tuple(
            series_of(_series_name(group), _of_group(shares, group), "share", x="step")
            for group in groups
        ),
        form="line" if len(steps) > 1 else "points",
        x_label="" if is_named else "step",
        x_names=tuple(names[step] for step in steps) if is_named else (),
        percent=True,
    )


def _survival_chart(lasting: pl.DataFrame, groups: Sequence[Group]) -> Chart:
    """Draw survival as step curves: every value appears twice, so that the drops are vertical."""
    series = []
    for group in groups:
        part = _of_group(lasting, group)
        if part.is_empty():  # keeps its colour in both charts
            series.append(Series(name=f"{_series_name(group)} (never)", x=(None,), y=(None,)))
            continue
        curve = part.unnest("survives").select("age", *Estimate._fields)
        twice = curve.select(pl.all().repeat_by(2).explode())
        x = plain(twice["age"][1:])
        y, low, high = (plain(twice[name][:-1]) for name in Estimate._fields)
        series.append(Series(name=_series_name(group), x=x, y=y, low=low, high=high))
    return Chart(
        title="Still reproduced so many steps after it was first seen, per cent (Kaplan-Meier)",
        series=tuple(series),
        x_label="steps since first seen memorized",
        percent=True,
    )


def _levels(checks: pl.DataFrame, history: History) -> tuple[pl.DataFrame, list[HeatMap]]:
    """Transitions of score levels between checks; the heat map spans the first to the last."""
    steps = history.steps
    wide = checks.pivot(on="step", index="window", values="memorization_score")
    rows = []
    for before, after in pairwise(steps):
        counts = transitions(wide[str(before)], wide[str(after)])
        rows += [
            {"from_step": before, "to_step": after, "from": LEVELS[i], "to": LEVELS[j], "n": int(n)}
            for i, line in enumerate(counts)
            for j, n in enumerate(line)
        ]
    kinds = {"from_step": pl.Int64, "to_step": pl.Int64, "from": pl.String, "to": pl.String}
    frame = pl.DataFrame(rows, schema=kinds | {"n": pl.Int64})
    if len(steps) < 2:
        return frame, []
    whole = transitions(wide[str(steps[0])], wide[str(steps[-1])])
    first, last = history.say_step(steps[0]), history.say_step(steps[-1])
    heat = HeatMap(
        title=f"Share of the suffix that is right, from {first} to {last} (windows)",
        values=tuple(plain(line) for line in whole),
        row_names=_ENDS,
        column_names=_ENDS,
        row_label=first,
        column_label=last,
    )
    return frame, [heat]


def _sentence(checks: pl.DataFrame, history: History) -> str:
    last = history.steps[-1]
    now = checks.filter(step=last)
    parts = []
    for kind, words in KINDS.items():
        of_kind = now.filter(pl.col("class") == kind)
        if of_kind.is_empty():
            continue
        is_control = pl.col("source") == CONTROL
        watched, kept_out = (of_kind.filter(rule) for rule in (~is_control, is_control))
        if watched.is_empty():
            unread = f"{plural(kept_out.height, 'window')} kept out of training that {words}"
            parts.append(f"{share_of(kept_out)} of {unread}")
            continue
        said = f"{share_of(watched)} of the {plural(watched.height, 'window')} that {words}"
        beside = f", and {share_of(kept_out)} of such windows kept out of training"
        parts.append(said + (beside if kept_out.height else ""))
    who = history.names.get(last, f"At step {last:,} the model")
    return f"{who} reproduces {'; '.join(parts)}."


def _further(steps: Sequence[int], followed: pl.DataFrame, history: History) -> Iterator[str]:
    seen = followed.drop_nulls("first_memorized")
    lost = seen.drop_nulls("forgotten")
    n_groups, draws = followed["near_duplicates"].n_unique(), ""
    if n_groups < followed.height:
        draws = f" Near duplicates are one: intervals draw {plural(n_groups, 'group')}."
    yield (
        f"{plural(len(steps), 'check')} of {plural(followed.height, 'window')}: {seen.height:,} "
        f"{'was' if seen.height == 1 else 'were'} memorized at some check, {lost.height:,} of them "
        f"forgotten at a later one. What happened between two checks is not seen.{draws}"
    )
    if history.counts_from:
        yield f"A window counts where its suffix comes out{history.counts_from} (--threshold)."
    yield from describe_lacking(steps)
    if history.drawn:
        yield f"{history.drawn_said} (--most; unread.parquet)."
    if n := history.unread.height - history.n_unasked:
        whole = plural(history.n_documents + history.unread.height, "document")
        yield f"Not checked: {n:,} of {whole}, unread or too short (unread.parquet)."
    short = history.windows.filter(pl.col("unwrapped").list.len() == 0)
    if n := short.select("source", "document").n_unique():
        yield (
            f"The lines of {plural(n, 'document')} are broken to a width, and joined "
            f"{'it is' if n == 1 else 'they are'} shorter than one window: asked only as "
            f"{'it stands, it is' if n == 1 else 'they stand, they are'} not found if the model "
            "read other line breaks. An audit finds near copies."
        )
    if n := history.n_copied:
        yield (
            f"Of the control {plural(n, 'window')} {'is' if n == 1 else 'are'} watched too, token "
            "by token, and so left out of it."
        )
    if swapped := swapped_said(history):
        yield f"{swapped[0].upper()}{swapped[1:]}"
    if not (followed["source"] == CONTROL).any():
        yield (
            "No window was kept out of training, so nothing here tells memory from text that the "
            f"model could have written anyway. {_how_to_control(history)}"
        )


def _checkpoints_of(history: History) -> Sequence[str]:
    """What to name so that all checkpoints of a history are asked again; else the last one."""
    named = [history.named[step] for step in history.steps if step in history.named]
    for names in ([*history.given], named)[len(history.given) != 1 :]:  # one folder, or by name
        with suppress(UserError):
            if {*history.steps} <= {one.step for one in find_checkpoints(names, least=1)}:
                return names
    return named[-1:] or ["CHECKPOINTS"]


def _how_to_control(history: History) -> str:
    """How to watch held-out texts beside those that are watched."""
    if not history.command:
        return (
            "Add windows of held-out texts to those that the callback watches: "
            "WatchedWindows.from_texts(HELD_OUT, tokenizer, source='control')."
        )
    checkpoints = _checkpoints_of(history)
    other = history.folder.with_name(f"{history.folder.resolve().name}-with-control")
    words = ("mnemoscope", "watch", *checkpoints, *history.command, "--control", "HELD_OUT")
    if history.threshold < 1:
        words += ("--threshold", f"{history.threshold:.12g}")
    return f"Watch held-out texts beside them: {shlex.join((*words, '-o', str(other)))}"
