"""The verb `analyze`: run analyses on a study and keep each result under a hash of its inputs.

Asking again with the same settings and inputs does nothing; anything else replaces the result. In
Python, `ms.analyze(study, "levels", second="gpt2")` gives frames and pictures. `psmi` is asked of a
fitted classifier and its training rows too, `copying` of an encoder-decoder's,
`ms.analyze("CLASSIFIER", "psmi", rows=table)`, of which nothing is kept.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from mnemoscope.analysis import registry
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings, OtherModel
from mnemoscope.data.corpus import open_corpus
from mnemoscope.data.rows import rows_with
from mnemoscope.data.table import PUBLISHED_VERDICT, refuse_padding, with_tokens
from mnemoscope.errors import UserError
from mnemoscope.files import digest
from mnemoscope.library.given import as_tokenizer
from mnemoscope.library.membership import documents_of
from mnemoscope.lm.hub import ROWS, check_model, describe_lacking, find_checkpoints
from mnemoscope.pipeline.label import LABELS_FILE
from mnemoscope.pipeline.published_split import VERDICT_NAME, is_plain
from mnemoscope.pipeline.stored_maps import maps_folder, open_maps
from mnemoscope.progress import say
from mnemoscope.report.pictures import Picture, draw_figure
from mnemoscope.stats import FEWEST_GROUPS
from mnemoscope.study.folder import Study, as_study
from mnemoscope.study.models import Models, check_same_tokens
from mnemoscope.study.settings import EMBEDDED, NO_MODEL, split_revision
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.words import duration, percent

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel

_LABELS = (
    "No model was asked (model.name none): memorized or not is the data set's own label, and "
    "perplexities are its own, each half by its own number of tokens."
)


@dataclass(frozen=True)
class AnalysisRequest:
    """What the user asked of an analysis."""

    # a second model with the same tokenizer: folder, hub name, NAME@REVISION
    second: str | None = None
    checkpoints: tuple[str, ...] = ()  # checkpoints of one run in order, or one folder of them
    corpus: str | None = None  # the training texts
    # settings by name, checked by the analysis
    values: dict[str, Any] = field(default_factory=dict)
    redo: bool = False  # compute the result again even if it exists
    students: tuple[str, ...] = ()  # models that were distilled from the study's
    control: str | None = None  # one that was trained on the same texts without it


@dataclass(frozen=True)
class Outcome:
    """The result of one analysis, or why there is none."""

    entry: registry.Entry
    result: registry.StoredResult | None
    was_done: bool = False
    refused: str = ""
    folder: Path = Path()


@dataclass(frozen=True)
class Prepared:
    """An analysis that nothing hinders, before it is run."""

    entry: registry.Entry
    settings: AnalysisSettings
    inputs: AnalysisInputs
    others: tuple[str, ...]
    facts: dict[str, Any]  # inputs that decide the result
    lines: tuple[str, ...]  # how rows were chosen
    gaps: tuple[str, ...]  # what is lacking among the others
    key: str
    # sequences that will go through a model, at most; None where the analysis does not say
    forwards: int | None


def prepare(
    study: Study, entry: registry.Entry, asked: AnalysisRequest, models: Models
) -> Prepared | Outcome:
    """Gather what an analysis is given, and count what it will cost; errors as `run_or_read`.

    A result that these settings and inputs have made already is given as it is.
    """
    settings = entry.settings(**asked.values)
    others, gaps = _others(study, entry, asked)
    _check_needs(study, entry, others)
    rows = rows_for(study, entry)
    corpus = (asked.corpus or study.settings.features.corpus) if entry.wants("corpus") else None
    facts = rows.facts | _facts(study, entry, settings, others, corpus)
    key = digest([entry.name, entry.version, settings.model_dump(mode="json"), facts])
    known = None if asked.redo else registry.load_result(study, entry)
    if known is not None and known.key == key:
        folder = registry.result_folder(study, entry)
        return Outcome(entry, known, was_done=True, folder=folder)
    has_maps = entry.wants("maps") and study.is_done("capture")
    is_reference = (
        bool(others)
        and not (asked.second or asked.checkpoints)
        and maps_folder(study, "reference").is_dir()
    )
    inputs = AnalysisInputs(
        where=str(study.folder),
        table=rows.table,
        labels=study.read(LABELS_FILE) if study.is_done("label") else None,
        length=study.settings.sequences.length,
        n_prefix=study.settings.sequences.n_prefix,
        batch_size=study.settings.rows_at_once,
        load_model=lambda: models.model(study),
        others=_loaders(study, asked, others, models),
        corpus=open_corpus(corpus, tokenizer=models.tokenizer(), dtype=None) if corpus else None,
        split=study.settings.sequences.split,
        has_model=_has_model(study),
        maps=open_maps(study, "model") if has_maps else None,
        reference_maps=open_maps(study, "reference") if has_maps and is_reference else None,
        shelf=registry.shelf_of(study),
    )
    return Prepared(
        entry,
        settings,
        inputs,
        others,
        facts,
        rows.lines,
        tuple(gaps),
        key,
        registry.forwards_of(entry, inputs, settings),
    )


def prepare_all(
    study: Study, entries: Sequence[registry.Entry], asked: AnalysisRequest, models: Models
) -> Iterator[Prepared | Outcome]:
    """Prepare several analyses; what is done or refused is an outcome already."""
    for entry in entries:
        try:
            yield prepare(study, entry, asked, models)
        except UserError as error:
            yield Outcome(entry, None, refused=str(error))


class Speed(NamedTuple):
    """By what the time of an analysis is judged, and its seconds a sequence."""

    by: str
    seconds: float


def cost_line(speed: Speed | None, name: str, n: int | None, in_words: str = "") -> str:
    """Say in one line how many sequences will go through a model, and about how long that takes.

    What an analysis computes of the answers (directions of `psmi`, fits of `predict`) is no part of
    it.
    """
    if n is None:
        return f"{name}: goes through the model {in_words}."
    if n == 0:
        return f"{name}: nothing goes through a model."
    said = f"{name}: at most {n:,} sequences through a model"
    if speed is not None:
        said += f", about {duration(n * speed.seconds)} at the speed of {speed.by}, "
        said += "what is computed of these not counted"
    return f"{said}."


def speed_of(study: Study) -> Speed | None:
    """The speed of stage continue, or of capture; None where the study has made neither."""
    took = study.seconds()
    if took.get("continue"):
        return Speed("stage continue", took["continue"] / max(study.sequences.height, 1))
    if took.get("capture") and study.is_done("capture"):
        n = max(open_maps(study, "model").index.height, 1)
        return Speed("stage capture", took["capture"] / n)
    return None


def _speed_of_rows(inputs: AnalysisInputs) -> Speed:
    """The speed of a fitted model on a batch of its rows, whose pictures are left out."""
    import torch

    lm, some = inputs.load_model(), inputs.table[: inputs.batch_size]
    given = {"input_ids": torch.tensor(some["tokens"].to_list(), device=lm.device)}
    if lm.model.config.is_encoder_decoder:
        given["decoder_input_ids"] = given["input_ids"]
    with torch.inference_mode():
        lm.model(**given)  # the first is slower
        started = time.perf_counter()
        lm.model(**given)
    return Speed("a batch of these rows", (time.perf_counter() - started) / some.height)


def run_or_read(
    study: Study, entry: registry.Entry, asked: AnalysisRequest, models: Models
) -> Outcome:
    """Run one analysis unless its result exists; the caller locks the study.

    Raises UserError: the study lacks something, or a setting or input cannot be used.
    """
    return _run(study, prepare(study, entry, asked, models))


def _run(study: Study, ready: Prepared | Outcome) -> Outcome:
    if isinstance(ready, Outcome):
        return ready
    entry, folder = ready.entry, registry.result_folder(study, ready.entry)
    for name in ready.others:  # before the study's own model has been asked for hours
        if name != EMBEDDED:
            check_model(*split_revision(name))
    say(f"{entry.name}: {entry.answers}")
    say(cost_line(speed_of(study), entry.name, ready.forwards, entry.cost))
    result = registry.run_analysis(entry, ready.inputs, ready.settings)
    result = replace(result, further=(*ready.lines, *result.further, *ready.gaps))
    plain = ready.settings.model_dump(mode="json")
    facts = {"key": ready.key, "settings": plain, "inputs": ready.facts}
    return Outcome(entry, registry.store_result(study, entry, result, **facts), folder=folder)


def analyze_all(study: Study, asked: AnalysisRequest, models: Models) -> Iterator[Outcome]:
    """Run every analysis whose needs are met; the others report what they lack.

    Only settings that every analysis has apply.
    """
    ready = [*prepare_all(study, registry.every_entry(), asked, models)]
    counts = [one.forwards or 0 for one in ready if isinstance(one, Prepared)]
    if counts or any(isinstance(one, Outcome) and one.was_done for one in ready):
        say(cost_line(speed_of(study), "all", sum(counts)))
    for one in ready:
        try:
            yield _run(study, one)
        except UserError as error:
            yield Outcome(one.entry, None, refused=str(error))


def refuse_unused(entry: registry.Entry, asked: AnalysisRequest) -> None:
    """Reject options that a single named analysis ignores (UserError)."""
    given: dict[str, tuple[object, registry.Need | registry.Use]] = {
        "--second": (asked.second is not None, "second model"),
        "--checkpoint": (asked.checkpoints, "second model"),
        "--corpus": (asked.corpus is not None, "corpus"),
        "--student": (asked.students, "students"),
        "--control": (asked.control is not None, "students"),
    }
    for option, (is_given, what) in given.items():
        if is_given and not entry.wants(what):
            raise UserError(
                f"analyze {entry.name}: {option}: this analysis does not use it. Leave it out "
                "('mnemoscope analyze --list' says what each uses)."
            )


@dataclass(frozen=True)
class GivenRows:
    """What an analysis is given: rows with `is_memorized` and `memorization_score`.

    `lines` say how they were chosen, for the report, `facts` the same for the result's key.
    """

    table: pl.DataFrame
    lines: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)


def rows_for(study: Study, entry: registry.Entry) -> GivenRows:
    """Choose the rows for an analysis, and whose verdict says what is memorized.

    Analyses that compare classes get all kept rows of a published split, others a uniform sample.
    """
    table, lines, facts = study.sequences, [], {}
    if not _has_model(study):
        table = table.with_columns(
            pl.col(PUBLISHED_VERDICT).alias("is_memorized"),
            pl.col("published_memorization_score").alias("memorization_score"),
        )
        lines.append(_LABELS)
        facts["labels"] = "published"
    if study.settings.sequences.split is not None and "classes" not in entry.needs:
        plain = table.filter(is_plain(table, study.settings))
        lines.append(_of_split(study, plain, table.height))
        table, facts["rows"] = plain, "uniform by label"
    facts["intervals"] = "by groups of near duplicates everywhere"
    groups = find_groups(table).cast(pl.Int64).alias("near_duplicates")
    if (n_groups := groups.n_unique()) < table.height:
        lines.append(
            f"The {table.height:,} sequences are {n_groups:,} groups of near duplicates; "
            f"intervals draw groups, {FEWEST_GROUPS} at least."
        )
    return GivenRows(table.with_columns(groups), tuple(lines), facts)


def _of_split(study: Study, plain: pl.DataFrame, n_kept: int) -> str:
    manifest = study.manifest("sequences")
    assert manifest is not None
    counts = manifest["counts"]["split"]["classes"][VERDICT_NAME]
    share = counts["memorized"] / max(counts["memorized"] + counts["Non-Memo"], 1)
    here = plain.select(pl.col("is_memorized").mean().fill_null(0.0)).item()
    return (
        f"Of the split, a uniform sample of each label: {plain.height:,} of the {n_kept:,} "
        f"sequences that the study keeps. Memorized are {percent(here, unit=False)} % of them and "
        f"{percent(share, unit=False)} % of the whole split; what depends on that share "
        "(precision, F1, PR AUC, calibration) holds for the former."
    )


def _has_model(study: Study) -> bool:
    return study.settings.model.name != NO_MODEL


def _check_needs(study: Study, entry: registry.Entry, others: tuple[str, ...]) -> None:
    if not entry.padded:
        refuse_padding(study.sequences, where=str(study.folder))
    missing = next((need for need in entry.needs if not _has(study, need, others)), None)
    if missing is None:
        return
    if not _has_model(study) and missing in ("classes", "scores"):
        missing = "model"
    lacking = registry.NEEDS[missing].lacking.format(study=study.folder)
    raise UserError(f"analyze {entry.name}: needs {lacking}")


def _has(study: Study, need: registry.Need, others: tuple[str, ...]) -> bool:
    if stage := registry.NEEDS[need].stage:
        return study.is_done(stage) or (need == "scores" and not _has_model(study))
    if need in ("second model", "students"):
        return bool(others)
    has_columns = "published_sequence_perplexity" in study.sequences.columns
    return _has_model(study) or (need == "perplexities" and has_columns)


def _others(
    study: Study, entry: registry.Entry, asked: AnalysisRequest
) -> tuple[tuple[str, ...], list[str]]:
    """Names of the checkpoints, second model, reference or students, control first; and notes."""
    if entry.wants("students"):
        if not asked.students or asked.control is None:
            return (), []
        from mnemoscope.flow.distill import unlike_control

        return (asked.control, *asked.students), unlike_control(asked.control, asked.students)
    is_asked = bool(asked.second or asked.checkpoints)
    if not entry.wants("second model") or (entry.each_model and not is_asked):
        return (), []
    if not asked.checkpoints:
        second = asked.second or study.settings.reference
        return ((second,) if second is not None else ()), []
    found = find_checkpoints(asked.checkpoints, least=1)
    names = (f"{one.name}@{one.revision}" if one.revision else one.name for one in found)
    return tuple(names), describe_lacking([one.step for one in found])


def _loaders(
    study: Study, asked: AnalysisRequest, others: tuple[str, ...], models: Models
) -> tuple[OtherModel, ...]:

    def named(name: str) -> "Callable[[], LanguageModel]":
        return lambda: models.other(name)

    def reference() -> "LanguageModel":
        loaded = models.reference(study)
        assert loaded is not None  # _check_needs found its name
        return loaded

    if asked.students:
        from mnemoscope.flow.distill import student_names

        names = ("control", *student_names(asked.students))
        return tuple(OtherModel(name, named(one)) for name, one in zip(names, others, strict=True))
    if asked.checkpoints or asked.second:
        return tuple(OtherModel(name, named(name)) for name in others)
    return tuple(OtherModel("the reference", reference) for _ in others)


def _facts(
    study: Study,
    entry: registry.Entry,
    settings: AnalysisSettings,
    others: tuple[str, ...],
    corpus: str | None,
) -> dict[str, Any]:
    """Inputs that decide the result, as plain values that the result records."""
    by, sentences = (getattr(settings, name, None) for name in ("by", "sentence_model"))
    has_others = others or (entry.wants("second model") and not entry.each_model)
    facts = {
        "plugin": entry.plugin and entry.plugin.facts,
        "others": [[name, _signature(name)] for name in others] if has_others else None,
        "corpus": [corpus, _signature(corpus)] if corpus else None,
        "maps": study.key("capture") if entry.wants("maps") else None,
        "by": digest(study.sequences[by].cast(pl.String).to_list())
        if by in study.sequences.columns
        else None,
        "sentence_model": [sentences, _signature(sentences)] if sentences else None,
    }
    return {
        "model": study.fingerprint("model"),
        "table": study.table_sums,
        "label": study.key("label"),
        **{name: one for name, one in facts.items() if one is not None},
    }


def _signature(name: str) -> str | None:
    """Names, sizes and times of the files of a local folder or file; None for a hub name."""
    path = Path(name)
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    return digest(
        [[str(one.relative_to(path)), one.stat().st_size, one.stat().st_mtime_ns] for one in files]
    )


BEFORE = "before fitting"
"""What the network is called that a model was made of, by fitting it to the rows."""


class _Fitted(NamedTuple):
    """How models of a kind are loaded, described, and given the rows of a table."""

    load: "Callable[..., LanguageModel]"
    describe: "Callable[[Any, Any], LanguageModel]"
    tabulate: "Callable[..., tuple[pl.DataFrame, tuple[str, ...]]]"
    # what loading needs to know of the fitted model where the one before may lack its head
    before: "Callable[[LanguageModel], dict[str, object]]" = lambda _: {}
    has_students: bool = False  # beside it, and no network before it was fitted


def _fitted(entry: registry.Entry) -> _Fitted:
    """The kind of model whose rows an analysis asks."""
    assert entry.rows is not None  # the entry is `of_rows`
    if entry.rows.kind == "classifier":
        from mnemoscope.lm import classifier as lm

        return _Fitted(
            lm.load_classifier,
            lm.as_classifier,
            partial(_texts_of, needs=entry.rows.needs),
            lambda model: {"is_fitted": False, "n_labels": len(lm.class_names(model))},
        )
    if entry.rows.kind == "masked language model":
        from mnemoscope.lm.masked import as_masked, load_masked

        texts = partial(_texts_of, needs=entry.rows.needs)
        return _Fitted(load_masked, as_masked, texts)
    tabulate = entry.module().pairs_of
    if entry.rows.kind == "vision model":
        from mnemoscope.lm.vision import as_vision, load_vision

        return _Fitted(load_vision, as_vision, tabulate, has_students=True)
    from mnemoscope.lm.seq2seq import as_seq2seq, load_seq2seq

    return _Fitted(load_seq2seq, as_seq2seq, tabulate)


@dataclass(frozen=True)
class PreparedRows:
    """An analysis of a fitted model's rows, before it is run."""

    entry: registry.Entry
    settings: AnalysisSettings
    inputs: AnalysisInputs
    notes: tuple[str, ...]  # on the models beside it

    @property
    def cost(self) -> str:
        """What will go through a model, and about how long it takes, in one line."""
        forwards = registry.forwards_of(self.entry, self.inputs, self.settings)
        return cost_line(_speed_of_rows(self.inputs), self.entry.name, forwards)

    def run(self) -> AnalysisResult:
        """Say the cost, and run it; UserError: what it refuses."""
        say(self.cost)
        result = registry.run_analysis(self.entry, self.inputs, self.settings)
        return replace(result, further=(*result.further, *self.notes))


def prepare_rows(
    model: Any,
    entry: registry.Entry,
    rows: Any,
    asked: AnalysisRequest,
    *,
    tokenizer: Any = None,
    columns: Mapping[str, str] | None = None,
    batch_size: int = ROWS,
) -> PreparedRows:
    """Load a fitted model, and the rows that it was fitted to, for an analysis of both.

    `second` is the network before it was fitted; without it the same network with fresh weights.
    Checkpoints are of the fit; or a teacher has a control and students. The entry is `of_rows`.
    Raises UserError: rows or a model that cannot be used.
    """
    settings, kind = entry.settings(**asked.values), _fitted(entry)
    _refuse_beside_rows(entry, asked)
    if isinstance(model, str | Path):
        lm = kind.load(str(model))
    else:
        if not kind.has_students:  # else it is a processor of pictures
            tokenizer = as_tokenizer(tokenizer or getattr(model, "name_or_path", ""))
        lm = kind.describe(model, tokenizer)
    table, given_columns = kind.tabulate(lm, rows, columns or {})

    def other(name: str, **how: Any) -> "LanguageModel":
        loaded = kind.load(name, **how)
        check_same_tokens(lm, name, loaded.tokenizer)
        return loaded

    def before() -> "LanguageModel":
        if asked.second is None:
            from mnemoscope.lm.load import fresh_weights

            return fresh_weights(lm, seed=settings.seed)
        return other(asked.second, **kind.before(lm))

    notes: list[str] = []
    if entry.wants("students"):
        from mnemoscope.flow.distill import student_names, unlike_control

        assert asked.control is not None
        notes += unlike_control(asked.control, asked.students)
        names = ("control", *student_names(asked.students))
        given = zip(names, (asked.control, *asked.students), strict=True)
        others = [OtherModel(name, cache(partial(other, one))) for name, one in given]
    else:
        found = find_checkpoints(asked.checkpoints, least=1) if asked.checkpoints else []
        others = [
            OtherModel(str(one), cache(partial(other, one.name, revision=one.revision)))
            for one in found
        ]
        others.append(OtherModel(BEFORE, cache(before)))
        if asked.second is None:
            notes.append(
                f"{BEFORE.capitalize()}: fresh weights. If the model was fine-tuned, name its "
                "base: --second MODEL."
            )
    inputs = AnalysisInputs(
        where=lm.name,
        table=table,
        load_model=lambda: lm,
        length=len(table["tokens"][0]),
        batch_size=batch_size,
        others=tuple(others),
        given_columns=given_columns,
    )
    return PreparedRows(entry, settings, inputs, tuple(notes))


def _refuse_beside_rows(entry: registry.Entry, asked: AnalysisRequest) -> None:
    """Refuse models that an analysis of rows has no use for, or those that it lacks."""
    of_students = entry.wants("students")
    given = (
        ("--corpus", asked.corpus, False),
        ("--student", asked.students, of_students),
        ("--control", asked.control, of_students),
        ("--second", asked.second, not of_students),
        ("--checkpoint", asked.checkpoints, not of_students),
    )
    for option, value, is_used in given:
        if value and not is_used:
            what = "a fit" if of_students else "a study"
            raise UserError(f"analyze {entry.name}: {option} is of {what}. Leave it out.")
    if of_students and not (asked.students and asked.control):
        raise UserError(f"analyze {entry.name}: needs {registry.NEEDS['students'].lacking}")


def _texts_of(
    model: "LanguageModel", rows: Any, columns: Mapping[str, str], *, needs: tuple[str, ...]
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Rows with tokens, the number of their label and their group; and the columns they came with.

    A label is one of the classifier's classes by name or number; there are none where `needs` does
    not hold `label` and the table has no such column.
    """
    from mnemoscope.lm.classifier import encode

    found = rows_with(rows, columns, {name: f"a {name}" for name in needs})
    table = found.frame
    if "label" in table.columns:
        table = table.with_columns(label_number=_class_numbers(model, table["label"], found.where))
    encoded = encode(model, table["text"].to_list())
    if encoded.n_cut:
        say(f"{encoded.n_cut:,} texts are longer than the model's positions and are cut.")
    given = tuple(found.frame.columns)
    table = with_tokens(table, encoded.tokens, encoded.mask)
    return table.with_columns(near_duplicates=pl.Series(documents_of(table))), given


def _class_numbers(model: "LanguageModel", labels: pl.Series, where: str) -> pl.Series:
    """The number of each row's class; UserError: a label that is none of the classifier's."""
    from mnemoscope.lm.classifier import class_names

    names = class_names(model)
    numbers = {name: place for place, name in enumerate(names)}
    numbers |= {str(place): place for place in range(len(names)) if str(place) not in numbers}
    said = labels.cast(pl.String)
    number = said.replace_strict(numbers, default=None, return_dtype=pl.Int64)
    if number.null_count():
        unknown = said.filter(number.is_null())[0]
        raise UserError(
            f"{where}: label '{unknown}' is none of {model.name}'s classes ({', '.join(names)})."
        )
    return number


@dataclass(frozen=True)
class Analysis:
    """The result of one analysis, which shows its first picture in a notebook."""

    sentence: str  # the result with its 95 % interval
    further: tuple[str, ...]  # what was left out, what cannot be said
    # tables by name; the page of the analysis says what they hold
    frames: Mapping[str, pl.DataFrame] = field(repr=False)
    figures: tuple[Picture, ...] = field(repr=False)  # the most important first
    folder: Path | None  # where all of it is kept; None of a fitted model's rows

    @property
    def figure(self) -> Picture | None:
        """The most important picture; None where nothing is drawn."""
        return self.figures[0] if self.figures else None

    def _repr_html_(self) -> str:
        return self.figure._repr_html_() if self.figure is not None else ""


def analyze(
    study: Any,
    name: str,
    *,
    second: str | None = None,
    checkpoints: Sequence[str] = (),
    corpus: str | None = None,
    redo: bool = False,
    students: Sequence[str] = (),
    control: str | None = None,
    rows: Any = None,
    tokenizer: Any = None,
    **settings: Any,
) -> Analysis:
    """Run an analysis on a study or its folder, or read its result if these settings made it.

    Inputs are those of `AnalysisRequest`; `name` is as `mnemoscope analyze --list` has it,
    `settings` are of the analysis, as `--set` takes them. With `rows`, a table or frame, the first
    argument is a model that was fitted to them (folder, hub name, or loaded with its `tokenizer`,
    of a model of pictures its processor),
    and nothing is kept: `psmi` takes a classifier and columns `text` and `label`, `neurons` a
    classifier and `text` (`label` judges the order of several), `copying` an encoder-decoder and
    columns `input` and `target`, `dynamics` a masked language model and `text`, `distilled` a
    teacher of pictures, and `image`, `prompt`, `text` and `duplicates`.

    Raises:
        UserError: no such analysis or setting, an input that it has no use for, or something that
            the study lacks.
    """
    entry = registry.entry_named(str(name))
    asked = AnalysisRequest(
        second, tuple(checkpoints), corpus, settings, redo, tuple(students), control
    )
    if rows is not None:
        found = prepare_rows(study, entry.of_rows(), rows, asked, tokenizer=tokenizer).run()
        figures = tuple(map(draw_figure, found.figures))
        return Analysis(found.sentence, found.further, found.frames, figures, None)
    study = as_study(study)
    refuse_unused(entry, asked)
    with study.lock():
        outcome = run_or_read(study, entry, asked, Models(study.settings))
    assert outcome.result is not None  # else it has raised
    return Analysis(
        sentence=outcome.result.sentence,
        further=outcome.result.further,
        frames=registry.read_frames(study, entry, outcome.result),
        figures=tuple(map(draw_figure, outcome.result.figures)),
        folder=outcome.folder,
    )
