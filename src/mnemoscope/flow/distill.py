"""The verb `distill`: read teacher, texts or pairs, and what is kept out; train; write the student.

A killed training goes on from its last checkpoint, which lies beside the student until it is whole.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from typing_extensions import TypedDict

from mnemoscope.data.duplicates import hash_ngrams, share_ngram
from mnemoscope.data.read import read_sequences
from mnemoscope.data.table import PUBLISHED_VERDICT, has_values, token_matrix
from mnemoscope.embedded import place_of
from mnemoscope.errors import UserError
from mnemoscope.files import atomic_folder, digest, hold_file, made_folder, naming, refuse_existing
from mnemoscope.flow.pairs import Pairs, check_pairs, read_pairs
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel, check_fits, check_tokens
from mnemoscope.lm.placement import fingerprint_model
from mnemoscope.lm.tokenizer import quiet_transformers
from mnemoscope.lm.vision import (
    Pair,
    VisionModel,
    answer_text,
    check_same_reading,
    encode_pairs,
    load_vision,
    write_answers,
)
from mnemoscope.progress import Progress, say
from mnemoscope.store import Facts, Store, kept_in_parts
from mnemoscope.study.folder import SETTINGS_FILE, Study, versions
from mnemoscope.study.models import Models, check_same_tokens
from mnemoscope.study.settings import NO_MODEL, split_revision
from mnemoscope.training.distill import (
    OF_PICTURES,
    DistillSettings,
    Teacher,
    new_student,
    steps_of,
    student_config,
    token_rows,
    train_student,
    view_of,
)

_CARD, CARD = "distilled", "distilled.json"
ANSWERS = "answers.parquet"
"""In a student's folder, the rows' answers that its teacher wrote."""
_ANSWERED = 64  # rows whose answers are kept together
_TRAINING = "distilling"


@dataclass(frozen=True)
class DistillAsked:
    """What the user asked for."""

    teacher: str  # folder, hub name, NAME@REVISION, or `embedded`
    texts: tuple[str, ...]  # as `read_sequences` takes them; empty with `rows`
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
    rows: str | None = None  # a table of pictures, prompts and texts, of a teacher that sees
    columns: tuple[tuple[str, str], ...] = ()  # of the table, by name and path
    data: Literal["own", "teacher"] = "own"  # whose answers: the table's, or the teacher's
    most: int = 100  # tokens of an answer that the teacher writes


class _Texts(TypedDict):
    sha256: str
    windows: int
    data: str


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
    texts that leave nothing to train on; pictures that cannot be read; or as `load_model`,
    `load_vision`, `read_sequences`, `student_config`, `train_student`.
    """
    refuse_existing(out)
    _check(asked)
    started = time.monotonic()
    lm = _load(asked.teacher, asked)
    given = _texts(asked, lm) if asked.rows is None else _pairs(asked, lm)
    student = _student(asked, lm, given)
    of_student, of_teacher = (one.config.get_text_config() for one in (student, lm.model))
    needs_teacher = any(one.name != "data" for one in asked.settings.losses)
    facts = {
        "teacher": {"name": asked.teacher, "fingerprint": lm.fingerprint},
        "student": {
            "begun_from": asked.student,
            "num_hidden_layers": of_student.num_hidden_layers,
            "hidden_size": of_student.hidden_size,
            "parameters": student.num_parameters(),
            "fingerprint_before": fingerprint_model(student),
        },
        "losses": [str(one) for one in asked.settings.losses],
        "training": {key: one for key, one in asdict(asked.settings).items() if key != "losses"},
        "texts": given.facts,
    }
    say(_cost(asked, given, student, lm if needs_teacher else None))
    made_folder(out.parent)
    with hold_file(out):
        refuse_existing(out)  # another process may have made it meanwhile
        work = _work_folder(out, digest(facts))
        n_layers = of_student.num_hidden_layers
        with naming(work):
            if asked.data == "teacher":
                given = _with_answers(cast(VisionModel, lm), given, asked, work)
            trained = train_student(
                student,
                given.rows,
                asked.settings,
                work,
                teacher=(teacher or view_of(lm, n_layers, asked.settings))
                if needs_teacher
                else None,
                widths=(of_student.hidden_size, of_teacher.hidden_size),
                n_layers=lm.n_layers,
                device=lm.device,
                collate=given.collate,
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
            getattr(lm, "processor", lm.tokenizer).save_pretrained(temporary)
            files = {} if given.answers is None else {ANSWERS: given.answers}
            Store(temporary).put(_CARD, files, **card)
        shutil.rmtree(work)
        return card


@dataclass(frozen=True)
class _Given:
    """What a student is trained on, how it becomes a batch, and what the card says of it."""

    rows: Sequence[Any]
    facts: Facts
    collate: Callable[[Sequence[Any]], dict[str, torch.Tensor]] | None = None
    answers: pl.DataFrame | None = None  # that the teacher wrote


def _check(asked: DistillAsked) -> None:
    """Refuse what is of texts beside pictures, and the other way round."""
    of_texts = [one for one, given in (("--texts", asked.texts), ("--exclude", asked.exclude),
                                       ("--limit", asked.limit)) if given]  # fmt: skip
    if asked.rows is not None and of_texts:
        raise UserError(
            f"distill: {of_texts[0]} is of texts, and --rows names pictures. Give one of them."
        )
    if asked.rows is None and not asked.texts:
        raise UserError(
            "distill: nothing to train on. Name texts with --texts, or a table of pictures, "
            "prompts and texts with --rows."
        )
    of_pictures = [f"--losses {one}" for one in asked.settings.losses if one.name == OF_PICTURES]
    of_pictures += ["--data teacher"] * (asked.data == "teacher")
    if asked.rows is None and of_pictures:
        raise UserError(f"distill: {of_pictures[0]} needs pictures. Name their table with --rows.")


def _texts(asked: DistillAsked, lm: LanguageModel) -> _Given:
    """Windows of texts, with what stands before them."""
    check_fits(lm, asked.length)
    rows, n_excluded = _training_rows(asked, lm)
    before = np.tile(np.array(lm.before, dtype=np.int32), (len(rows), 1))
    facts = {
        "sources": list(asked.texts),
        "sha256": hashlib.sha256(np.ascontiguousarray(rows, dtype="<i4").tobytes()).hexdigest(),
        "windows": len(rows),
        "length": asked.length,
        "excluded": n_excluded,
        "exclude": list(asked.exclude),
        "shared": asked.shared if asked.exclude else None,
        "data": "own",
    }
    return _Given(token_rows(np.hstack([before, rows])), facts)


def _pairs(asked: DistillAsked, lm: LanguageModel) -> _Given:
    """Pictures with prompts and answers, each of which can be read."""
    assert isinstance(lm, VisionModel)
    found: Pairs = read_pairs(lm, asked.rows, dict(asked.columns))
    facts = {
        "sources": [asked.rows],
        "sha256": found.sha256,
        "windows": len(found.pairs),
        "length": check_pairs(lm, found),
        "data": asked.data,
        "most": asked.most if asked.data == "teacher" else None,
    }
    return _Given(found.pairs, facts, partial(encode_pairs, lm))


def _with_answers(lm: VisionModel, given: _Given, asked: DistillAsked, work: Path) -> _Given:
    """The same rows with the teacher's own answers; those that an earlier run wrote are read."""

    def make(some: Sequence[Pair], progress: Progress) -> pl.DataFrame:
        size = asked.settings.batch_size
        said = write_answers(lm, some, most=asked.most, batch_size=size)
        progress.advance(len(some))
        columns = {"text": [answer_text(lm, one) for one in said], "tokens": [*map(list, said)]}
        return pl.DataFrame(columns, schema={"text": pl.String, "tokens": pl.List(pl.Int32)})

    parts = kept_in_parts(
        work / "answers", "The teacher answers", given.rows, _ANSWERED, make, unit="rows"
    )
    answers = pl.concat(parts).with_row_index("row")
    rows = [
        pair._replace(answer=tuple(said))
        for pair, said in zip(given.rows, answers["tokens"].to_list(), strict=True)
    ]
    return replace(given, rows=rows, answers=answers)


def _cost(asked: DistillAsked, given: _Given, student: Any, teacher: LanguageModel | None) -> str:
    """What the training takes, in one line."""
    n_steps = steps_of(asked.settings, len(given.rows))
    beside = "" if teacher is None else f", and as often the teacher of {_size(teacher.model)}"
    wrote = ""
    if asked.data == "teacher":
        wrote = f"The teacher writes {len(given.rows):,} answers of up to {asked.most} tokens. "
    return (
        f"{wrote}{n_steps:,} steps of {asked.settings.batch_size} rows go through a student of "
        f"{_size(student)}{beside}. A stopped run goes on."
    )


def _size(model: Any) -> str:
    return f"{model.num_parameters():,} parameters"


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
        Path(one).name if card is None else _name_of(card)
        for one, card in zip(students, cards, strict=True)
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({one})"
        for name, one in zip(names, students, strict=True)
    ]


def _name_of(card: Card) -> str:
    """What a student learnt by: its losses, their temperature, and answers the teacher wrote."""
    name = "+".join(loss.partition("=")[0] for loss in card["losses"])
    if (temperature := card["training"]["temperature"]) != 1:
        name += f" T={temperature:g}"
    return name + " on the teacher's answers" * (card["texts"]["data"] == "teacher")


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
                ("other steps", lambda it: (it["steps"], it["training"] | {"temperature": 1})),
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
    if asked.rows is not None:
        return load_vision(folder, revision=revision, dtype=asked.dtype, device=asked.device)
    return load_model(
        folder,
        revision=revision,
        dtype=asked.dtype,
        device=asked.device,
        trust_remote_code=asked.trust_remote_code,
    )


def _student(asked: DistillAsked, teacher: LanguageModel, given: _Given) -> Any:
    """The student before training."""
    if asked.student is None:
        config = student_config(teacher.model.config, layers=asked.layers, width=asked.width)
        student = new_student(config, asked.settings.seed).to(teacher.device)
        if asked.rows is not None:  # what sees is the teacher's, as it is between LLaVAs
            _tower(student).load_state_dict(_tower(teacher.model).state_dict())
            student.generation_config = teacher.model.generation_config  # says what ends an answer
        return student
    lm = _load(asked.student, asked)
    check_same_tokens(teacher, asked.student, lm.tokenizer)
    if isinstance(teacher, VisionModel) and isinstance(lm, VisionModel):
        check_same_reading(teacher, lm, given.rows[0])
    else:
        check_fits(lm, asked.length)
    return lm.model.float()


def _tower(model: Any) -> Any:
    """The part that sees the pictures."""
    kind = type(model.config.vision_config)
    return next(one for one in model.modules() if isinstance(getattr(one, "config", None), kind))


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
