"""The analyses by name: what each answers and needs, how it is run, and where results are kept.

A new analysis is a module with `Settings`, `analyse` and `forwards`, which counts beforehand the
sequences that go through a model, and an entry here, which imports it when it is run. A plugin's is
a module with `ENTRY` too, named by an entry point in the group `mnemoscope.analyses`; there
`forwards` may be left out.

A study keeps results in `analysis/NAME/`, valid for the settings and inputs that made them (the
key); `result.json` is written last, so a folder that has one is whole.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mnemoscope.analysis.figures import Chart, HeatMap
from mnemoscope.analysis.inputs import (
    OWN,
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Cost,
    ResultCache,
)
from mnemoscope.errors import MissingError, UserError, nearest
from mnemoscope.files import digest
from mnemoscope.plugins import Plugin, call_plugin, find_plugins, load_plugin, lower
from mnemoscope.study.folder import Study, versions
from mnemoscope.study.settings import first_problem

Need = Literal["scores", "features", "classes", "perplexities", "model", "second model", "students"]
Use = Literal["features", "classes", "duplicates", "maps", "second model", "corpus"]


class Requirement(NamedTuple):
    """Something an analysis cannot do without."""

    meaning: str
    lacking: str  # what to say where it lacks; {study} stands for the study's folder
    stage: str = ""  # that makes it


NEEDS: dict[Need, Requirement] = {
    "scores": Requirement(
        "sequences, memorized or not (mnemoscope continue), or a split's own labels",
        "memorization scores. Run 'mnemoscope continue {study}' first.",
        "continue",
    ),
    "features": Requirement(
        "their features (mnemoscope features)",
        "features. Run 'mnemoscope features {study}' first.",
        "features",
    ),
    "classes": Requirement(
        "their classes (mnemoscope label)",
        "classes. Run 'mnemoscope label {study}' first.",
        "label",
    ),
    "perplexities": Requirement(
        "the model, or a split of usvsnsp/semantic-filters that brings them",
        "perplexities, and {study} has neither a model nor the columns of the data set "
        "(prompt_perplexity, generation_perplexity, sequence_perplexity). Make a study with a "
        "model: --model NAME.",
    ),
    "model": Requirement(
        "the model itself",
        "the model, and {study} has none (model.name none). Make a study with one: --model NAME.",
    ),
    "second model": Requirement(
        "a second model or checkpoints of one run (--second, --checkpoint); without either the "
        "study's reference model, where it has one",
        "a second model with the same tokenizer. Give one: --second MODEL, or --checkpoint "
        "MODEL@REVISION.",
    ),
    "students": Requirement(
        "students of the model and one that never asked it (--student, --control)",
        "a student of the study's model, and a control that was trained on the same texts without "
        "it. Make both with 'mnemoscope distill', and give them: --student MODEL --control MODEL.",
    ),
}
USES: dict[Use, str] = {
    "features": NEEDS["features"].meaning,
    "classes": NEEDS["classes"].meaning,
    "duplicates": "how often each stands in training (column duplicates)",
    "maps": "stored attention (mnemoscope capture)",
    "second model": NEEDS["second model"].meaning,
    "corpus": "the training texts (--corpus)",
}
"""What an analysis uses where it is there, and how to give it."""


class RowsOf(NamedTuple):
    """What an analysis asks of a fitted model and its rows, in place of a study."""

    kind: Literal["classifier", "encoder-decoder", "masked language model", "vision model"]
    module: str  # below `mnemoscope`, with `RowSettings` and `analyse`
    needs: tuple[str, ...] = ()  # columns that rows of texts must have


@dataclass(frozen=True)
class Entry:
    """One analysis, as `mnemoscope analyze --list` and the report name it.

    Attributes:
        name: as the user types it; the module's name too.
        title: heading in the report.
        answers: the question in one line.
        needs: what it cannot do without, of `scores`, `features`, `classes`, `perplexities`,
            `model`, `second model` and `students`.
        source: paper and arXiv number.
        uses: what it looks at where it is there, and does without elsewhere: of `features`,
            `classes`, `duplicates`, `maps`, `second model` and `corpus`.
        each_model: it is of one model, and with a second one or checkpoints made of each.
        padded: it reads rows of several lengths (`attention_mask`).
        cost: what it asks of the model, in words; each result says what it took.
        version: raised when the numbers change, so that stored results are made anew.
        plugin: that brings it; filled in where it is found.
        rows: how it is asked of a fitted model and its rows; None where it is not, or a plugin's.
        is_of_rows: that one is meant.
    """

    name: str
    title: str
    answers: str
    needs: tuple[Need, ...]
    source: str
    uses: tuple[Use, ...] = ()
    each_model: bool = False
    padded: bool = False
    cost: str = "about once through each sequence"
    version: int = 1
    plugin: Plugin | None = None
    rows: RowsOf | None = None
    is_of_rows: bool = False

    def wants(self, what: Need | Use) -> bool:
        """Whether it looks at this at all."""
        return what in {*self.needs, *self.uses} or (what == "second model" and self.each_model)

    def module(self) -> Any:
        """Its module, with `Settings` and `analyse`."""
        if self.plugin is not None:
            return load_plugin(self.plugin, _check_module)
        of_rows = self.is_of_rows and self.rows
        return import_module(f"mnemoscope.{of_rows.module if of_rows else f'analysis.{self.name}'}")

    def of_rows(self) -> "Entry":
        """The same asked of a fitted model and its rows; UserError: it is none."""
        if not self.rows or self.plugin is not None:
            *most, last = (one.name for one in ENTRIES if one.rows)
            raise UserError(
                f"analyze {self.name}: asks a study; a fitted model's rows are asked by "
                f"{', '.join(most)} and {last} alone."
            )
        return replace(self, is_of_rows=True)

    def settings(self, **values: Any) -> AnalysisSettings:
        """Fill in the defaults; UserError: an unknown key (with the nearest) or a bad value."""
        name = "RowSettings" if self.is_of_rows else "Settings"
        kind: type[AnalysisSettings] = getattr(self.module(), name)
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            known = list(kind.model_fields)
            named = f"analyze {self.name}, ".__add__
            raise UserError(first_problem(error, named, lambda _: known)) from None


_PERPLEXITIES = "about once through each sequence; nothing in a study without a model"

ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="predict",
        title="Can memorization be predicted?",
        answers="How well do simple models tell memorized sequences from others, and by what?",
        needs=("scores", "features", "perplexities"),
        uses=("duplicates", "corpus"),
        cost=_PERPLEXITIES,
        version=4,
        source="Prashanth et al.: Recite, Reconstruct, Recollect, arXiv 2406.17746",
    ),
    Entry(
        name="dependencies",
        title="What goes with being memorized",
        answers="Which features of a sequence go with its being memorized, and where?",
        needs=("scores", "features", "perplexities"),
        uses=("duplicates", "corpus"),
        cost=_PERPLEXITIES,
        version=3,
        source="Prashanth et al.: Recite, Reconstruct, Recollect, arXiv 2406.17746",
    ),
    Entry(
        name="levels",
        title="Levels of memorization, from one model to the next",
        answers="Does what one model has memorized stay memorized in the next?",
        needs=("scores", "model", "second model"),
        uses=("features",),
        version=4,
        source="Chen, Han, Miyao: A Multi-Perspective Analysis of Memorization, arXiv 2405.11577",
    ),
    Entry(
        name="boundary",
        title="Around the boundary of prefix and continuation",
        answers="Do token frequency and entropy jump where the model begins to speak?",
        needs=("scores", "model"),
        uses=("corpus",),
        version=2,
        each_model=True,
        source="Chen, Han, Miyao: A Multi-Perspective Analysis of Memorization, arXiv 2405.11577",
    ),
    Entry(
        name="embeddings",
        title="How the last hidden state moves while the model writes",
        answers="Do states of well and badly remembered continuations differ, and from when?",
        needs=("scores", "model"),
        each_model=True,
        version=3,
        source="Chen, Han, Miyao: A Multi-Perspective Analysis of Memorization, arXiv 2405.11577",
    ),
    Entry(
        name="tokens",
        title="Which generated tokens are right?",
        answers="Do hidden states and entropy tell whether a token is the text's own?",
        needs=("scores", "model"),
        each_model=True,
        source="Chen, Han, Miyao: A Multi-Perspective Analysis of Memorization, arXiv 2405.11577",
    ),
    Entry(
        name="length",
        title="Verbatim memorization length",
        answers="How many tokens of a sequence come out in a row, after its best prompt?",
        needs=("scores", "model"),
        uses=("features",),
        each_model=True,
        cost="several prompts of each sequence, decoded",
        source="Huang, Yang, Potts: Demystifying Verbatim Memorization, arXiv 2407.17817",
    ),
    Entry(
        name="trigger",
        title="What memorized tokens hang on",
        answers="Which hidden states of the prefix does each memorized token depend on?",
        needs=("scores", "model"),
        uses=("features",),
        version=2,
        each_model=True,
        cost="each place of a sequence changed in turn, alone and with its neighbours",
        source="Huang, Yang, Potts: Demystifying Verbatim Memorization, arXiv 2407.17817",
    ),
    Entry(
        name="perturb",
        title="Changed prompts, before and after unlearning",
        answers="What comes out after a changed prompt, and does unlearned text come back?",
        needs=("scores", "features", "model"),
        uses=("duplicates",),
        version=3,
        each_model=True,
        cost="changed prompts decoded, and a copy of the model trained",
        source="Huang, Yang, Potts: Demystifying Verbatim Memorization, arXiv 2407.17817",
    ),
    Entry(
        name="inject",
        title="A text put into training, beside a control run",
        answers="How much of a text does the model reproduce after training on it every N steps?",
        needs=("scores", "features", "model"),
        uses=("duplicates", "corpus"),
        version=2,
        each_model=True,
        cost="a copy of the model trained",
        source="Huang, Yang, Potts: Demystifying Verbatim Memorization, arXiv 2407.17817",
    ),
    Entry(
        name="psmi",
        title="What hidden states tell of the next token",
        answers="Does a low mutual information of hidden state and label go with memorization?",
        needs=("scores", "model"),
        uses=("classes", "second model"),
        padded=True,
        rows=RowsOf("classifier", "analysis.psmi", ("text", "label")),
        version=3,
        source="Predicting and analyzing memorization within fine-tuned LLMs, arXiv 2409.18858",
    ),
    Entry(
        name="membership",
        title="Was it read, though it does not come out?",
        answers="Do scores tell what was read from what was not, better than the text alone?",
        needs=("model",),
        uses=("duplicates", "second model"),
        source="Das et al.: Blind Baselines Beat Membership Inference Attacks, arXiv 2406.16201",
    ),
    Entry(
        name="dimension",
        title="Stored, or no choice left? The dimension of continuations",
        answers="Is text reproduced because it is stored, or because it leaves no choice?",
        needs=("scores", "features", "model", "second model"),
        uses=("duplicates",),
        version=2,
        cost="24 continuations of each prefix",
        source="Ross et al.: A Geometric Framework for Memorization, arXiv 2411.00113",
    ),
    Entry(
        name="distilled",
        title="What a distilled student inherits",
        answers="Does a student reproduce what its teacher memorized, and by which loss?",
        needs=("scores", "features", "classes", "model", "students"),
        uses=("duplicates",),
        rows=RowsOf("vision model", "flow.distilled_rows"),
        cost="every student, and grafts",
        source="Xu et al.: LLAVADI, What Matters For Distillation, arXiv 2407.19409",
        version=2,
    ),
    Entry(
        name="ending",
        title="A bright ending? What suffixes take from the end of the prompt",
        answers="Do memorized suffixes look at, or depend on, the end of their prompt more?",
        needs=("scores", "model"),
        uses=("features", "maps", "second model"),
        cost="once, and total effects of some",
        source="Chen et al.: Bright Ending Attention, arXiv 2410.21665",
    ),
    Entry(
        name="neurons",
        title="Neurons of each class",
        answers="Do neurons behave differently on memorized text?",
        needs=("scores", "classes", "model"),
        uses=("second model",),
        rows=RowsOf("classifier", "analysis.neurons", ("text",)),
        version=3,
        source="Bansal et al.: Measures of Information Reflect Memorization, arXiv 2210.09404",
    ),
    Entry(
        name="dynamics",
        title="Learning and forgetting, token by token",
        answers="How much of a text is right token by token, how fast is it learnt and forgotten?",
        needs=("scores", "features", "model"),
        uses=("duplicates", "second model", "corpus"),
        rows=RowsOf("masked language model", "flow.dynamics_rows", ("text",)),
        version=3,
        cost="a copy of the model trained",
        source="Tirumala et al.: Memorization Without Overfitting, arXiv 2205.10770",
    ),
    Entry(
        name="copying",
        title="Copies from the training texts",
        answers="What does a model, especially a tuned one, copy verbatim, nearly, or in idea?",
        needs=("scores", "model"),
        uses=("duplicates", "maps", "second model"),
        rows=RowsOf("encoder-decoder", "flow.copying_rows"),
        version=3,
        source="Zeng et al.: Exploring Memorization in Fine-tuned LMs, arXiv 2310.06714",
    ),
)
"""Our own, in the order of `analyze --list` and of the report."""

_NAME = re.compile(r"[a-z]\w*")
_NAMES = lower([*(entry.name for entry in ENTRIES), "all", "kept"])


def every_entry() -> list[Entry]:
    """Every analysis: ours, then those of plugins that can be used."""
    plugins = find_plugins("analyses", _NAMES, _NAME.fullmatch).values()
    modules = [(one, load_plugin(one, _check_module)) for one in plugins]
    return [
        *ENTRIES,
        *(replace(found.ENTRY, name=one.name, plugin=one) for one, found in modules if found),
    ]


def _check_module(found: Any) -> str:
    """What keeps a plugin's module from being an analysis; nothing where it is one."""
    if not isinstance(getattr(found, "ENTRY", None), Entry):
        return "no ENTRY, the mnemoscope.plugin.Entry that describes it"
    if unknown := {*found.ENTRY.needs} - {*NEEDS}:
        return f"ENTRY needs {', '.join(sorted(map(str, unknown)))}; known are {', '.join(NEEDS)}"
    settings = getattr(found, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, AnalysisSettings)):
        return "no Settings, a class of mnemoscope.plugin.AnalysisSettings"
    return "" if callable(getattr(found, "analyse", None)) else "no function analyse"


def entry_named(name: str) -> Entry:
    """Give the entry of this name; UserError names the nearest where there is none."""
    known = {entry.name: entry for entry in ENTRIES}
    if name not in known:
        known = {entry.name: entry for entry in every_entry()}
    if name not in known:
        hint = nearest(name, known) or f" Known: {', '.join(known)}."
        raise UserError(f"analyze {name}: no such analysis.{hint}")
    return known[name]


def run_analysis(
    entry: Entry, inputs: AnalysisInputs, settings: AnalysisSettings
) -> AnalysisResult:
    """Run one analysis and say what it cost; UserError says what the analysis refuses."""
    before, started = inputs.forwards.n, time.monotonic()
    with closing(inputs.forwards):
        result = _analysed(entry, inputs, settings)
        if entry.each_model and inputs.others:
            result = _beside_others(entry, inputs, settings, result)
    seconds = time.monotonic() - started
    if entry.plugin is not None:
        result = replace(result, libraries=(*result.libraries, entry.plugin.package))
    return replace(result, cost=Cost(round(seconds, 3), inputs.forwards.n - before))


def forwards_of(entry: Entry, inputs: AnalysisInputs, settings: AnalysisSettings) -> int | None:
    """Count at most the sequences that `run_analysis` puts through a model, without asking one.

    None where the module has no function `forwards`, as a plugin's may. Fewer go through where
    results of an earlier run are kept, or where training stops early. Raises UserError: what the
    analysis refuses too.
    """
    count = getattr(entry.module(), "forwards", None)
    if count is None:
        return None
    if not (entry.each_model and inputs.others):
        return int(count(inputs, settings))
    # What others reproduce is known when they have scanned the table: till then, as the model does.
    score = pl.when("is_memorized").then(pl.lit(1.0, dtype=pl.Float32))
    nothing = pl.lit(None, dtype=pl.List(pl.Int32))
    table = inputs.table.with_columns(memorization_score=score, continuation=nothing)
    theirs = replace(inputs, table=table, others=(), labels=None, maps=None)
    each = inputs.table.height + int(count(theirs, settings))
    return int(count(replace(inputs, others=()), settings)) + len(inputs.others) * each


def _analysed(entry: Entry, inputs: AnalysisInputs, settings: AnalysisSettings) -> AnalysisResult:
    """What the module finds; a plugin that fails is a `UserError` that names its package."""
    module = entry.module()
    if entry.plugin is None:
        ours: AnalysisResult = module.analyse(inputs, settings)
        return ours
    where = f"analyze {entry.name}"
    return call_plugin(
        entry.plugin, where, lambda: module.analyse(inputs, settings), AnalysisResult
    )


def _beside_others(
    entry: Entry, inputs: AnalysisInputs, settings: AnalysisSettings, own: AnalysisResult
) -> AnalysisResult:
    """The same of every other model on the same sequences; tables name the model in a column."""
    from mnemoscope.analysis.rows import scanned_by

    results = {OWN: own}
    for other in inputs.others:
        theirs = replace(
            inputs,
            table=scanned_by(inputs, other),
            load_model=other.load,
            others=(),
            labels=None,
            maps=None,
        )
        results[other.name] = _analysed(entry, theirs, settings)
    frames = {
        table: pl.concat(
            [
                one.frames[table].select(pl.lit(name).alias("model"), pl.all())
                for name, one in results.items()
                if table in one.frames
            ],
            how="diagonal_relaxed",
        )
        for table in own.frames
    }
    libraries = dict.fromkeys(name for one in results.values() for name in one.libraries)
    titled = [
        figure.model_copy(update={"title": f"{name}: {figure.title}"})
        for name, one in results.items()
        if name != OWN
        for figure in one.figures[:1]
    ]
    return replace(
        own,
        frames=frames,
        figures=(*own.figures, *titled),
        further=(
            *(f"{name}: {one.sentence}" for name, one in results.items() if name != OWN),
            *own.further,
            "What is memorized is each model's own: each was asked for every sequence.",
        ),
        libraries=tuple(libraries),
    )


class StoredResult(BaseModel):
    """What `result.json` holds of a result; the tables lie beside it as Parquet files."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    key: str
    settings: dict[str, Any]
    inputs: dict[str, Any]
    sentence: str
    further: tuple[str, ...]
    figures: tuple[Annotated[Chart | HeatMap, Field(discriminator="kind")], ...]
    frames: dict[str, int] = Field(description="Rows of each table, by name.")
    seconds: float
    forward_passes: int
    versions: dict[str, str]


def result_folder(study: Study, entry: Entry) -> Path:
    """Where the result of an analysis lies."""
    return study.folder / "analysis" / entry.name


def load_result(study: Study, entry: Entry) -> StoredResult | None:
    """Read a result, None where there is none; errors as `Store.record`."""
    try:
        values = study.store.record(_artefact(entry))
    except MissingError:
        return None
    return StoredResult(**{name: values[name] for name in StoredResult.model_fields})


def _artefact(entry: Entry) -> str:
    return f"analysis/{entry.name}/result"


def read_frames(study: Study, entry: Entry, result: StoredResult) -> dict[str, pl.DataFrame]:
    """Read the tables of a result; errors as `Store.path`."""
    return {
        name: study.store.frame(_artefact(entry), f"analysis/{entry.name}/{name}.parquet")
        for name in result.frames
    }


def store_result(study: Study, entry: Entry, result: AnalysisResult, **facts: Any) -> StoredResult:
    """Write a result in place of what was there.

    Facts are `key` (the hash of all that decided it), `settings` and `inputs`.
    """
    stored = StoredResult(
        **facts,
        sentence=result.sentence,
        further=result.further,
        figures=result.figures,
        frames={table: frame.height for table, frame in result.frames.items()},
        seconds=result.cost.seconds,
        forward_passes=result.cost.forward_passes,
        versions=versions(*result.libraries),
    )
    study.store.forget(_artefact(entry))
    shutil.rmtree(result_folder(study, entry), ignore_errors=True)
    files = {f"analysis/{entry.name}/{name}.parquet": one for name, one in result.frames.items()}
    said = stored.model_dump(mode="json")
    study.store.put(_artefact(entry), files, **said)
    return stored


def shelf_of(study: Study) -> ResultCache:
    """The study's shelf: frames under `analysis/kept/`, named by the hash of their basis."""

    def keep(name: str, basis: Mapping[str, Any], make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        return study.kept(f"analysis/kept/{name}-{digest([name, dict(basis)])[:20]}", make)

    return keep


def stored_results(study: Study) -> Iterator[tuple[Entry, StoredResult, Path]]:
    """Every result that the study holds, in the order of `every_entry`."""
    for entry in every_entry():
        result = load_result(study, entry)
        if result is not None:
            yield entry, result, result_folder(study, entry)
