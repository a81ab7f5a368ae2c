"""The verb `distill`: read teacher, texts and what is kept out of them; train; write the student.

A killed training goes on from its last checkpoint, which lies beside the student until it is whole.
"""

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl
from typing_extensions import TypedDict

from mnemoscope.data.duplicates import hash_ngrams, share_ngram
from mnemoscope.data.read import read_sequences
from mnemoscope.data.table import PUBLISHED_VERDICT, has_values, token_matrix
from mnemoscope.embedded import place_of
from mnemoscope.errors import UserError
from mnemoscope.files import (
    atomic_folder,
    digest,
    hold_file,
    made_folder,
    naming,
    refuse_existing,
)
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel, check_fits, check_tokens
from mnemoscope.lm.placement import fingerprint_model
from mnemoscope.lm.tokenizer import quiet_transformers
from mnemoscope.progress import say
from mnemoscope.store import Store
from mnemoscope.study.folder import SETTINGS_FILE, Study, versions
from mnemoscope.study.models import Models, check_same_tokens
from mnemoscope.study.settings import NO_MODEL, split_revision
from mnemoscope.training.distill import (
    DistillSettings,
    Teacher,
    new_student,
    student_config,
    train_student,
    view_of,
)

_CARD, CARD = "distilled", "distilled.json"
_TRAINING = "distilling"


@dataclass(frozen=True)
class DistillAsked:
    """What the user asked for."""

    teacher: str  # folder, hub name, NAME@REVISION, or `embedded`
    texts: tuple[str, ...]  # as `read_sequences` takes them
    settings: DistillSettings  # losses, steps, seed
    student: str | None = None  # a model that is trained further, in place of a new one
    layers: float = 0.5  # of a new one, as the width, see `student_config`
    width: float = 0.5
    # studies or tables whose memorized sequences (all, where that is not known) are kept out
    exclude: tuple[str, ...] = ()
    shared: int = 24  # tokens in a row that a window may not share with them
    length: int = 64  # tokens of a training window
    limit: int | None = None  # windows of each of the texts at most
    dtype: str = "float32"
    device: str = "auto"
    trust_remote_code: bool = False


class _Texts(TypedDict):
    sha256: str
    windows: int


class _Student(TypedDict):
    num_hidden_layers: int
    hidden_size: int
    parameters: int
    fingerprint_before: str


class Card(TypedDict):
    """`distilled.json`, as far as anything reads it."""

    losses: list[str]
    texts: _Texts
    student: _Student
    steps: int
    history: list[dict[str, float]]
    seconds: float
    training: dict[str, Any]


def distill(asked: DistillAsked, out: Path, *, teacher: Teacher | None = None) -> Card:
    """Train a student and write it into the folder `out`; returns its card (`distilled.json`).

    The folder must not exist; it appears when it is whole. `teacher` is what the teacher shows of a
    batch, where it is kept from another training of the same losses' layers; its own forward unless
    given. Raises UserError: the folder exists, or another process makes it; another tokenizer;
    texts that leave nothing to train on; or as `load_model`, `read_sequences`, `student_config`,
    `train_student`.
    """
    refuse_existing(out)
    started = time.monotonic()
    lm = _load(asked.teacher, asked)
    check_fits(lm, asked.length)
    rows, n_excluded = _training_rows(asked, lm)
    student = _student(asked, lm)
    needs_teacher = any(one.name != "data" for one in asked.settings.losses)
    facts = {
        "teacher": {"name": asked.teacher, "fingerprint": lm.fingerprint},
        "student": {
            "begun_from": asked.student,
            "num_hidden_layers": student.config.num_hidden_layers,
            "hidden_size": student.config.hidden_size,
            "parameters": student.num_parameters(),
            "fingerprint_before": fingerprint_model(student),
        },
        "losses": [str(one) for one in asked.settings.losses],
        "training": {key: one for key, one in asdict(asked.settings).items() if key != "losses"},
        "texts": {
            "sources": list(asked.texts),
            "sha256": hashlib.sha256(np.ascontiguousarray(rows, dtype="<i4").tobytes()).hexdigest(),
            "windows": len(rows),
            "length": asked.length,
            "excluded": n_excluded,
            "exclude": list(asked.exclude),
            "shared": asked.shared if asked.exclude else None,
        },
    }
    made_folder(out.parent)
    with hold_file(out):
        refuse_existing(out)  # another process may have made it meanwhile
        work = _work_folder(out, digest(facts))
        before = np.tile(np.array(lm.before, dtype=np.int32), (len(rows), 1))
        n_layers = student.config.num_hidden_layers
        with naming(work):
            trained = train_student(
                student,
                np.hstack([before, rows]),
                asked.settings,
                work,
                teacher=(teacher or view_of(lm, n_layers, asked.settings))
                if needs_teacher
                else None,
                widths=(student.config.hidden_size, lm.model.config.hidden_size),
                n_layers=lm.n_layers,
                device=lm.device,
            )
        made = facts | {
            "steps": trained.steps,
            "history": list(trained.history),
            "fingerprint": fingerprint_model(student),
            "seconds": round(time.monotonic() - started, 1),
            "versions": versions("accelerate"),
        }
        card = cast(Card, made)
        with atomic_folder(out) as temporary, quiet_transformers():
            student.save_pretrained(temporary)
            lm.tokenizer.save_pretrained(temporary)
            Store(temporary).put(_CARD, {}, **card)
        shutil.rmtree(work)
        return card


def read_card(folder: Path | str) -> Card | None:
    """The card of a student that `distill` made; None for any other model."""
    if not (Path(folder) / CARD).is_file():
        return None
    store = Store(folder, remedy=lambda _: "train the student again")
    return cast(Card, store.record(_CARD, shape=Card))


def student_names(students: Sequence[str]) -> list[str]:
    """What students are called: by their losses, and where these are alike by their folders."""
    cards = [read_card(one) for one in students]
    names = [
        Path(one).name
        if card is None
        else "+".join(loss.partition("=")[0] for loss in card["losses"])
        for one, card in zip(students, cards, strict=True)
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({one})"
        for name, one in zip(names, students, strict=True)
    ]


def unlike_control(control: str, students: Sequence[str]) -> list[str]:
    """Lines on what but the teacher differs between the control and students, by their cards."""
    base, lines = read_card(control), []
    for name, one in zip(student_names(students), students, strict=True):
        card = read_card(one)
        if base is None or card is None:
            lines.append(
                f"{name}: whether the control had the same texts and beginning is not known (no "
                f"{CARD}), so the difference may not be the teacher's."
            )
            continue
        differs = [
            words
            for words, of in (
                ("other texts", lambda it: it["texts"]["sha256"]),
                ("another beginning", lambda it: it["student"]["fingerprint_before"]),
                ("other steps", lambda it: (it["steps"], it["training"])),
            )
            if of(card) != of(base)
        ]
        if differs:
            lines.append(
                f"{name}: the control had {' and '.join(differs)}, so the difference is not that "
                "of the teacher alone."
            )
    return lines


def _load(name: str, asked: DistillAsked) -> LanguageModel:
    folder, revision = split_revision(place_of(name))
    return load_model(
        folder,
        revision=revision,
        dtype=asked.dtype,
        device=asked.device,
        trust_remote_code=asked.trust_remote_code,
    )


def _student(asked: DistillAsked, teacher: LanguageModel) -> Any:
    """The student before training."""
    if asked.student is None:
        config = student_config(teacher.model.config, layers=asked.layers, width=asked.width)
        return new_student(config, asked.settings.seed).to(teacher.device)
    lm = _load(asked.student, asked)
    check_same_tokens(teacher, asked.student, lm.tokenizer)
    check_fits(lm, asked.length)
    return lm.model.float()


def _training_rows(asked: DistillAsked, lm: LanguageModel) -> tuple[npt.NDArray[np.int32], int]:
    """Windows to train on, (n, length), and how many were left out."""
    found = [
        token_matrix(
            read_sequences(
                source, lm.tokenizer, length=asked.length, stride=asked.length, limit=asked.limit
            ).frame
        )
        for source in asked.texts
    ]
    rows = np.concatenate(found)
    check_tokens(lm, rows)
    kept = rows
    if asked.exclude:
        kept = exclude_windows(
            rows, [_memorized(source, asked, lm) for source in asked.exclude], asked.shared
        )
        if not len(kept):
            raise UserError(
                f"distill: all {len(rows):,} windows of the texts share {asked.shared} tokens with "
                "what is excluded. Give other texts, or raise --shared."
            )
        say(f"Left out {len(rows) - len(kept):,} of {len(rows):,} windows (--exclude).")
    return kept, len(rows) - len(kept)


def exclude_windows(
    rows: npt.NDArray[np.int32], sequences: Sequence[npt.NDArray[np.int32]], shared: int
) -> npt.NDArray[np.int32]:
    """Leave out windows (n, T) that share so many tokens in a row with any of these sequences.

    Raises UserError: `shared` below 1, or longer than windows or sequences.
    """
    shortest = min([rows.shape[1], *(one.shape[1] for one in sequences)])
    if not 1 <= shared <= shortest:
        raise UserError(
            f"--shared {shared}: must be 1 to {shortest}, the tokens of a window or sequence."
        )
    hashes = np.concatenate([hash_ngrams(one, n=shared).ravel() for one in sequences])
    return np.asarray(rows[~share_ngram(rows, hashes, n=shared)])


def _memorized(source: str, asked: DistillAsked, lm: LanguageModel) -> npt.NDArray[np.int32]:
    """Sequences of a study or table: those known to be memorized, or all."""
    if (Path(source) / SETTINGS_FILE).is_file():
        study = Study(source)
        if study.settings.model.name != NO_MODEL:
            check_same_tokens(lm, source, Models(study.settings).tokenizer())
        frame = study.sequences
    else:
        frame = read_sequences(source, lm.tokenizer, length=asked.length).frame
    verdict = next((one for one in ("is_memorized", PUBLISHED_VERDICT) if has_values(frame, one)),
                   None)  # fmt: skip
    if verdict is not None:
        frame = frame.filter(pl.col(verdict))
    if frame.is_empty():
        raise UserError(f"{source}: no memorized sequence to exclude. Leave --exclude out.")
    return token_matrix(frame)


def _work_folder(out: Path, key: str) -> Path:
    """Where checkpoints lie until the student is whole; emptied of those of another training."""
    work = out.with_name(f".{out.name}.training")
    if Store(work).kept(_TRAINING, "the training", key=key) is None:
        shutil.rmtree(work, ignore_errors=True)
        Store(work).put(_TRAINING, {}, key=key)
    elif any(work.glob("checkpoint-*")):
        say(f"Going on from a checkpoint in {work}.")
    return work
