"""What `continue` and `capture` ask of a model: units of work for one loaded model.

A unit is what is asked between two writes: a chunk of the table (`continue.part_rows`), or a shard
of maps (`capture.shard_rows`). It holds its tokens, so it can be done without the study's folder.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch

from mnemoscope.cluster.run import current_executor, run_units
from mnemoscope.cluster.storage import SharedStore
from mnemoscope.cluster.units import ALL, Needs, Opened, Result, Share, UnitStore
from mnemoscope.data.table import token_table
from mnemoscope.errors import UserError
from mnemoscope.library.maps import store_meta
from mnemoscope.library.sequences import VERDICTS
from mnemoscope.library.sequences import scan as scan_windows
from mnemoscope.lm.attention import PooledMaps, capture_pooled
from mnemoscope.lm.continue_ import Decoding, Scan, capture_and_scan
from mnemoscope.lm.model import HALVED, LanguageModel, note_halved, recording_batch_size
from mnemoscope.lm.probe import next_tokens
from mnemoscope.maps.triangle import pack_layer, pack_shard
from mnemoscope.parse import flatten
from mnemoscope.progress import Progress, say
from mnemoscope.study.folder import Study, versions
from mnemoscope.study.models import Models, check_unlike, facts_of, other_tokens, vocabulary_of
from mnemoscope.study.records import Model

Q = TypeVar("Q", bound="Question")
DECODED = ("continuation", "memorization_score")
"""Columns that decoding fills in after a scan."""


@dataclass(frozen=True)
class Question:
    """Sequences to ask a model about, in plain values.

    Attributes:
        facts: of the model, as `facts_of`; one that differs is not asked.
        tokens: as shown to the model, int32, shape (rows, length).
        mask: of `tokens` if some are padded.
        rows: columns that go into the result, or decide it.
        prefix, batch_size: as in the settings.
        scan: whether verdicts are found by teacher forcing.
        decoding: how continuations are written, as `lm.continue_.greedy_tokens`.
    """

    facts: Mapping[str, Any]
    tokens: np.ndarray
    mask: np.ndarray | None
    rows: pl.DataFrame
    prefix: int
    batch_size: int
    scan: bool
    decoding: Decoding

    @property
    def size(self) -> int:
        """Number of sequences."""
        return len(self.tokens)

    @property
    def kind(self) -> str:
        """What is asked."""
        return type(self).__name__.lower()

    @cached_property
    def key(self) -> str:
        """Kind of question, and hash of all that decides the answer."""
        basis = [_of_weights(self.facts), self.prefix, self.batch_size, self.scan, self.decoding]
        basis.append(versions())
        digest = hashlib.sha256(json.dumps([self.kind, *basis]).encode())
        digest.update(repr(self.tokens.shape).encode() + self.tokens.tobytes())
        digest.update(self.rows.write_json().encode())
        if self.mask is not None:
            digest.update(self.mask.tobytes())
        return f"{self.kind}-{digest.hexdigest()[:24]}"

    def run(self, model: LanguageModel, progress: Progress) -> dict[str, object]:
        """Ask the model; `HALVED` is in the result if memory forced a smaller batch size."""
        check_same(facts_of(model, ""), self.facts)
        counts: dict[str, object] = {}
        with recording_batch_size(counts):
            made = self.ask(model, progress)
        return {**made, **counts}

    def ask(self, model: LanguageModel, progress: Progress) -> Mapping[str, object]:
        """The results by name."""
        raise NotImplementedError

    def verdicts(self, model: LanguageModel, progress: Progress, *, scan: bool) -> pl.DataFrame:
        """The columns of `VERDICTS` of these sequences; a scan leaves Non-Memo undecoded."""
        found = scan_windows(
            model,
            token_table(self.tokens, self.mask),
            decode=not scan,
            batch_size=self.batch_size,
            prefix=self.prefix,
            decoding=self.decoding,
            progress=progress,
        )
        return as_found(found) if scan else found.select(VERDICTS)


class Verdicts(Question):
    """Which sequences does the model reproduce."""

    def ask(self, model: LanguageModel, progress: Progress) -> dict[str, pl.DataFrame]:
        """A table as `verdicts`."""
        return {"parquet": self.verdicts(model, progress, scan=self.scan)}


class Check(Question):
    """How often does the other way say otherwise; `rows` has `is_memorized`, `smallest_gap`."""

    def ask(self, model: LanguageModel, progress: Progress) -> dict[str, int | float]:
        """As `disagreements`; what is written plainly, for a scan knows no other way."""
        plain = replace(self, decoding="plain")
        return disagreements(self.rows, plain.verdicts(model, progress, scan=not self.scan))


class Decoded(Question):
    """What does the model write in place of the suffix; `rows` has `sequence_id`."""

    def ask(self, model: LanguageModel, progress: Progress) -> dict[str, pl.DataFrame]:
        """The rows with the columns of `DECODED`."""
        found = self.verdicts(model, progress, scan=False)
        return {"parquet": self.rows.hstack(found.select(DECODED))}


class NextTokens(Question):
    """How likely is every token but the first."""

    def ask(self, model: LanguageModel, progress: Progress) -> dict[str, pl.DataFrame]:
        """The rows with lists a token, as `next_tokens`."""
        said = next_tokens(model, self.tokens, batch_size=self.batch_size)
        columns = (
            pl.Series(name, values.tolist(), dtype=pl.List(pl.Float32))
            for name, values in said._asdict().items()
        )
        progress.advance(self.size)
        return {"parquet": self.rows.with_columns(columns)}


@dataclass(frozen=True)
class Maps(Question):
    """The attention maps; `rows` has `sequence_id` and `suffix`.

    Attributes:
        store: name of their folder (`model`, `reference`, `model-heads`, ...).
        with_verdicts: whether their forward passes give verdicts too.
    """

    store: str = ""
    with_verdicts: bool = False

    @property
    def kind(self) -> str:
        """Of which model and tensors, and whether with verdicts."""
        return f"maps-{self.store}{'-verdicts' if self.with_verdicts else ''}"

    def ask(self, model: LanguageModel, progress: Progress) -> dict[str, bytes | pl.DataFrame]:
        """One shard, and the verdicts of its forward passes if wanted."""
        meta = store_meta(self.tokens.shape[1], self.store, self.facts)
        found: Iterable[tuple[PooledMaps, Scan | None]]
        size, prefix = self.batch_size, self.prefix
        if self.with_verdicts:
            found = capture_and_scan(
                model, self.tokens, batch_size=size, prefix=prefix, pack=pack_layer
            )
        else:
            captured = capture_pooled(
                model,
                self.tokens,
                attention_mask=self.mask,
                batch_size=size,
                keep_heads="heads" in meta.tensors,
                pack=pack_layer,
            )
            found = ((maps, None) for maps in captured)
        batches, scans = [], []
        for maps, scan in found:
            batches.append(maps)
            if scan is not None:
                scans.append(pl.DataFrame(scan._asdict()))
            progress.advance(len(maps.mean))
        tensors = {
            name: torch.cat([getattr(one, name) for one in batches]) for name in meta.tensors
        }
        ids = self.rows["sequence_id"]
        files: dict[str, bytes | pl.DataFrame] = {
            "shard": pack_shard(ids.to_numpy(), tensors, meta)
        }
        if scans:
            files["parquet"] = pl.concat(scans, rechunk=True).insert_column(0, ids)
        return files


@dataclass(frozen=True)
class Facts:
    """What a study records about a model; not kept."""

    name: str
    key = ""
    size = 0

    def run(self, model: LanguageModel, progress: Progress) -> dict[str, object]:  # noqa: ARG002
        """`facts` and the digest of the `vocabulary`."""
        return {"facts": facts_of(model, self.name), "vocabulary": vocabulary_of(model.tokenizer)}


def _of_weights(facts: Mapping[str, object]) -> dict[str, object]:
    """What of a model's facts decides its answers: not where it lies."""
    return {name: value for name, value in facts.items() if name not in ("name", "revision")}


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise UserError where the model that is there is not the one that is to be asked."""
    here, there = (dict(flatten(_of_weights(one))) for one in (found, wanted))
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise UserError(
                f"model: {name} {here.get(name)!r}, but the study's results so far were made with "
                f"{there.get(name)!r}. Go on where they were made, give all machines the same "
                "model and kind of device, or delete the folder 'units' of the study."
            )


def as_found(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Turn `is_memorized` and `smallest_gap` into the columns of `verdicts`; score 1 or null."""
    return verdicts.select(
        "is_memorized",
        pl.when("is_memorized").then(1.0).cast(pl.Float32).alias("memorization_score"),
        pl.lit(None, dtype=pl.List(pl.Int32)).alias("continuation"),
        "smallest_gap",
    )


def disagreements(found: pl.DataFrame, again: pl.DataFrame) -> dict[str, int | float]:
    """Count where scan and decoding differ: `checked`, `disagree`, `largest_gap_of_these` if any.

    Both agree except for near ties of the two best logits, which rounding decides. `found` holds
    `is_memorized` and `smallest_gap` of the rows, `again` what the other method says.
    """
    differs = found.filter(again["is_memorized"] != found["is_memorized"])
    counts: dict[str, int | float] = {"checked": found.height, "disagree": differs.height}
    if differs.height:
        counts["largest_gap_of_these"] = float(differs["smallest_gap"].to_numpy().max())
    return counts


# -- who asks ---------------------------------------------------------------------------------


def unit_store(study: Study, stage: str) -> UnitStore:
    """Where the answers of a stage are kept until it is done: in the study, or shared storage."""
    if (url := current_executor().storage) is None:
        return UnitStore(study.folder / "units" / stage, study.owner)
    # A name that no two studies in one bucket share.
    own = hashlib.sha256(f"{study.folder.resolve()} {study.key(stage)}".encode())
    return SharedStore(f"{url.rstrip('/')}/{stage}-{own.hexdigest()[:16]}", study.owner)


def clear_units(study: Study, stage: str) -> None:
    """Remove the answers of a stage that is done."""
    for store in (unit_store(study, stage), UnitStore(study.folder / "units" / stage)):
        store.remove_all()
    with suppress(OSError):  # others hold theirs
        (study.folder / "units").rmdir()


class StudyModel:
    """One model of a study, asked where units run; loaded when the first question is new.

    Where answers are kept already, the facts on record say which model gave them.
    """

    def __init__(
        self, study: Study, models: Models, role: str, store: UnitStore, share: Share = ALL
    ) -> None:
        self.store = store
        self._study, self._models, self._role, self._share = study, models, role, share
        self._opened = Opened(partial(models.alone, role))
        self._is_loaded = False
        known = study.record["models"].get(role)
        is_known = known is not None and share == ALL and bool(store.all_keys())
        self.facts: Model = known if known is not None and is_known else self._load()

    def answers(self, questions: Sequence[Question], label: str) -> Iterator[Result]:
        """The answers in order; errors as `run_units`."""
        lacking = [one.key for one in questions if not self.store.has(one.key)]
        if lacking and not self._is_loaded:
            self.facts = self._load(self.facts)
        if lacking and self._share == ALL:
            self._say_of_others(questions)
        for result in run_units(
            questions, self.store, self._opened, label=label, needs=self._needs()
        ):
            if HALVED in result.values:
                note_halved(result.values[HALVED])
            yield result

    def tables(self, questions: Sequence[Question], label: str) -> list[pl.DataFrame]:
        """The tables that answer questions."""
        return [result.table for result in self.answers(questions, label)]

    def question(
        self,
        kind: Callable[..., Q],
        tokens: np.ndarray,
        rows: pl.DataFrame,
        mask: np.ndarray | None = None,
        **more: object,
    ) -> Q:
        """A question to this model; `more` is of its `kind` alone."""
        settings = self._study.settings
        return kind(
            facts=self.facts,
            tokens=tokens,
            mask=mask,
            rows=rows,
            prefix=settings.sequences.n_prefix,
            batch_size=settings.rows_at_once,
            scan=settings.continue_.scan,
            decoding=settings.continue_.decoding,
            **more,
        )

    def _say_of_others(self, questions: Sequence[Question]) -> None:
        """Say that the store holds answers that these questions do not use."""
        keys, kinds = {one.key for one in questions}, {one.kind for one in questions}
        others = [one for one in self.store.all_keys() if one.rsplit("-", 1)[0] in kinds]
        if n_others := len(set(others) - keys):
            say(
                f"{self.store.url}: {n_others} results there are of other settings, another model "
                "or other versions, and are not used."
            )

    def _needs(self) -> Needs:
        settings = self._study.settings.model
        return Needs(gpus=current_executor().gpus(settings.device, settings.device_map))

    def _load(self, asked_so_far: Model | None = None) -> Model:
        """Load the model where units run, record it, and compare a reference with the model."""
        settings, study = self._study.settings, self._study
        name = settings.model.name if self._role == "model" else settings.reference
        current_executor().check_sees(self.store)
        (found,) = run_units([Facts(str(name))], None, self._opened, needs=self._needs())
        facts: Model = found.values["facts"]
        if asked_so_far is not None:
            check_same(facts, asked_so_far)
        if self._role == "reference":
            model = study.record["models"]["model"]
            check_unlike(facts["name"], facts["fingerprint"], model["name"], model["fingerprint"])
            if found.values["vocabulary"] != vocabulary_of(self._models.tokenizer()):
                raise other_tokens(facts["name"], model["name"])
        study.remember_model(self._role, facts)
        self._is_loaded = True
        return facts
