"""A study in a notebook: made by `run` of a model and texts, and asked by methods."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, overload

import polars as pl

from mnemoscope.benchmark.excess import FigureName, PairedDifference
from mnemoscope.benchmark.published import Conclusion
from mnemoscope.benchmark.sources import SOURCES, headline_of, of_reader
from mnemoscope.data.rows import name_of
from mnemoscope.errors import UserError, a_kind, nearest
from mnemoscope.files import as_path
from mnemoscope.flow.run import run as run_study
from mnemoscope.flow.run import run_stage
from mnemoscope.library.excess import Excess
from mnemoscope.library.given import N_PREFIX, as_source, as_table, opened_model, prefix_of
from mnemoscope.lm.hub import DTYPES
from mnemoscope.lm.model import LanguageModel
from mnemoscope.pipeline.benchmark import (
    Together,
    compare_taxonomies,
    load_comparison,
    put_together,
)
from mnemoscope.pipeline.deltas import StoredDelta
from mnemoscope.pipeline.label import samples_of, why_without_cnns
from mnemoscope.pipeline.trainings import check_wanted
from mnemoscope.progress import progress_shown
from mnemoscope.report.notebook import allocation_of, sample_named, stored_delta
from mnemoscope.report.page import REPORT_FILE
from mnemoscope.stats import rows_of
from mnemoscope.study import folder as folder_
from mnemoscope.study.folder import is_study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import StudySettings, find_study, parse_settings
from mnemoscope.study.stages import STAGES
from mnemoscope.words import UNKNOWN


@dataclass(frozen=True)
class Page:
    """An HTML page that a notebook shows; `path` is the file, which opens in a browser."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, without its script reaching the notebook."""
        page = escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" sandbox style="width:100%;height:42em;border:0"></iframe>'


class Study(folder_.Study):
    """A study folder: its settings, its tables, its stages, and what it can be asked.

    Raises:
        UserError: the folder is missing or is not a study.
        DamagedDataError: `study.yaml` cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder)
        self._given: dict[str, tuple[Any, Any]] = {}  # loaded models by role, with their tokenizer

    def __repr__(self) -> str:
        done = [one.name for one in STAGES if self.is_done(one.name)]
        if "label" in done and "report" not in done and why_without_cnns(self, "benchmark"):
            done += ["report"] if (self.folder / "report.html").is_file() else []
        return f"Study({str(self.folder)!r}, done={done})"

    def require(self, stage: str) -> None:
        """Raise UserError if a stage is not done; where no CNN can be trained it says so."""
        if why_without_cnns(self, stage):
            sample = next(iter(samples_of(self).values()))
            counts = ", ".join(f"{name} {n:,}" for name, n in sample.counts.items())
            raise UserError(
                f"{self.folder}: no '{stage}', since no CNN can be trained on these sequences "
                f"({sample.shown}: {counts}). study.report() says why, and shows what there is."
            )
        super().require(stage)

    def read(self, name: str) -> pl.DataFrame:
        """Read a table, as every study does; where no CNN can be trained it says so."""
        for stage in STAGES:
            if name in stage.outputs and why_without_cnns(self, stage.name):
                self.require(stage.name)
        return super().read(name)

    def excess(self, taxonomy: str | None = None) -> Excess:
        """What the model's attention shows of a taxonomy beyond text and reference.

        The first taxonomy unless named, in any spelling; of CNNs and regression the better, chosen
        within the training sequences.

        Raises:
            UserError: the benchmark has not been run, there is no such taxonomy, or no control was
                run.
        """
        self.require("benchmark")
        sample = sample_named(self, taxonomy)
        table = self.benchmark.filter(**sample.key._asdict())
        rows = {row["source"]: row for row in rows_of(table)}
        if not rows:
            raise UserError(f"{self.folder}: '{sample.shown}' has no figure. The report says why.")
        row = rows[headline_of(rows)]
        value, gain = row["excess"], row["gain"]
        return Excess(
            value,
            row["excess_over"] or "",
            None if gain.value is None else gain,
            row["verdict_kind"],
            row["verdict"],
            {
                source: rows[source]["min_f1"]
                for source in of_reader(SOURCES, row["source"])
                if source in rows and rows[source]["min_f1"].value is not None
            },
        )

    def decisiveness(
        self, taxonomy: str | None = None, *, attribution: str = "gradient"
    ) -> StoredDelta:
        """Δ of a taxonomy (the first unless named), with its classes and counts.

        Raises:
            UserError: localize has not been run, or there is no such taxonomy or attribution.
        """
        return stored_delta(self, taxonomy, attribution=attribution)

    def compare(
        self, first: str, second: str, *, figure: FigureName = "min_f1"
    ) -> PairedDifference:
        """A figure of one taxonomy minus that of another, on the sequences they share.

        Raises:
            UserError: a taxonomy is unknown or not trained, or both are one partition.
        """
        return compare_taxonomies(self, first, second, figure=figure)

    def conclusions(self) -> tuple[Conclusion, ...]:
        """Put the paper's conclusions to this study: verdict, reason and figures of each."""
        return load_comparison(self).conclusions

    def together(self, *others: folder_.Study) -> Together:
        """Sum the confusion matrices of this and other models' studies, taxonomy by taxonomy.

        Raises:
            UserError: a study is named twice, not benchmarked, or made with other settings.
        """
        return put_together([self, *map(folder_.as_study, others)])

    def allocation(self) -> pl.DataFrame:
        """How memorized sequences flow from Prashanth et al.'s classes to the paper's.

        Columns `prashanth`, `paper`, `n`, `share` with its interval, `published` (fractions),
        `n_groups`.

        Raises:
            UserError: the table lacks a feature that one of the taxonomies needs.
        """
        return allocation_of(self)

    def report(self, *, redo: bool = False) -> Page:
        """The report: one page that opens offline; made where it is not there.

        Raises:
            UserError: a stage before it has not been run.
        """
        self._run("report", redo=redo)
        return Page(self.folder / REPORT_FILE)

    def graft(self, *, redo: bool = False, **settings: Any) -> pl.DataFrame:
        """Put parts of the reference into the model, and see what it forgets; `graft.parquet`.

        Args:
            redo: make it anew.
            settings: of the section `graft`: ``parts=["layers.0.mlp"]``, ``draws=9``.

        Raises:
            UserError: no reference, an unknown setting or part, or other settings without `redo`.
        """
        wanted = self.settings.as_dict()
        wanted["graft"] |= settings
        self._run("graft", parse_settings(wanted, where="graft"), redo=redo)
        return self.read("graft.parquet")

    def _repr_html_(self) -> str:
        """Stages, how many sequences are memorized, and the verdict of each taxonomy."""
        return f"{super()._repr_html_()}{self._counted()}{self._verdicts()}"

    def _counted(self) -> str:
        """Sequences, and those that are memorized, as far as they are known."""
        said = []
        for stage, name in (("sequences", "sequences"), ("continue", "memorized")):
            manifest = self.manifest(stage) if self.is_done(stage) else None
            if manifest is not None and name in manifest["counts"]:
                said.append(f"{manifest['counts'][name]:,} {name}")
        return ", ".join(said)

    def _verdicts(self) -> str:
        """A table: the classes of each taxonomy with their sizes, its min-F1 and its verdict."""
        if not self.is_done("label"):
            return ""
        table = self.benchmark.filter("is_headline") if self.is_done("benchmark") else None
        headlines = (
            {}
            if table is None
            else {(row["taxonomy"], row["variant"]): row for row in rows_of(table)}
        )
        lines = []
        for key, sample in samples_of(self).items():
            row = headlines.get((key.taxonomy, key.variant), {})
            classes = ", ".join(f"{name} {n:,}" for name, n in sample.counts.items())
            verdict = row.get("verdict") or sample.impossible or "not benchmarked yet"
            cells = (sample.shown, classes, row.get("min_f1", UNKNOWN), verdict)
            lines.append("".join(f"<td>{escape(str(cell))}</td>" for cell in cells))
        heads = "".join(f"<th>{one}</th>" for one in ("taxonomy", "classes", "min-F1", "verdict"))
        return f"<table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"

    def _run(self, stage: str, settings: StudySettings | None = None, *, redo: bool) -> None:
        """Run a stage with the models that the study was made with in this process, if any."""
        with ExitStack() as stack:
            loaded = {
                role: stack.enter_context(opened_model(*one, for_study=True))
                for role, one in self._given.items()
            }
            models = Models(settings or self.settings, **loaded)
            run_stage(self, stage, settings, redo=redo, models=models)

    def __dir__(self) -> list[str]:
        """What a reader of a study wants, for completion."""
        asked = ["allocation", "compare", "conclusions", "decisiveness", "excess", "graft"]
        return [*super().__dir__(), *asked, "report", "together"]


Given = StudySettings | Mapping[str, Any] | str | Path


@overload
def run(
    model: Given,
    texts: str | Path,
    folder: None = None,
    *,
    redo: bool = ...,
    until: str | None = ...,
    also: Collection[str] = ...,
    progress: bool | None = ...,
) -> Study: ...


@overload
def run(
    model: Any,
    texts: Any,
    folder: str | Path,
    *,
    reference: Any = ...,
    tokenizer: Any = ...,
    taxonomies: str | Sequence[str] | None = ...,
    settings: Given | None = ...,
    redo: bool = ...,
    until: str | None = ...,
    also: Collection[str] = ...,
    progress: bool | None = ...,
) -> Study: ...


def run(
    model: Any,
    texts: Any = None,
    folder: str | Path | None = None,
    *,
    reference: Any = None,
    tokenizer: Any = None,
    taxonomies: str | Sequence[str] | None = None,
    settings: Given | None = None,
    redo: bool = False,
    until: str | None = None,
    also: Collection[str] = (),
    progress: bool | None = None,
) -> Study:
    """Study how a model memorized texts: every stage that is missing, in order, in one folder.

    Two ways to call it: ``run(model, texts, folder)``, or ``run(settings, folder)`` with settings,
    a mapping of them, or the path of a study's YAML file.

    Args:
        model: a folder, a hub name, ``"embedded"``, or a loaded model, as in `scan`. A loaded one
            must be given again to go on with the study.
        texts: as in `windows`; windows are taken as they are.
        folder: the study: a new or empty folder, or one to go on with.
        reference: a model that never saw the texts, named or loaded; without one the study gives
            no verdict about memory.
        tokenizer: of a loaded model, where its name does not tell.
        taxonomies: a name, or several, such as ``["Non-Memo, Guess, Recall"]``.
        settings: all others: ``{"label": {"n_train": 200}}``, or by their keys,
            ``{"label.n_train": 200}``; or a study's YAML file.
        redo: run stages anew whose settings have changed.
        until: the last stage: ``"sequences"``, ``"continue"``, ``"features"``, ``"label"``,
            ``"capture"``, ``"train"``, ``"benchmark"``, ``"localize"`` or ``"report"``.
        also: stages that are not run unless asked for: ``"graft"``, ``"knockout"``, ``"search"``.
        progress: whether to show how far it is; None: in a notebook.

    Returns:
        The `Study`.

    Raises:
        UserError: what was given cannot be used; nothing is left behind.
        MnemoscopeError: damaged data, or a full disk; what was finished is kept.

    Where no taxonomy can be trained, the study ends with its counts, passages and report.
    """
    known = [one.name for one in STAGES]
    also = [also] if isinstance(also, str) else also
    for name in (*also, *([until] if until else [])):
        if name not in known:
            raise UserError(
                f"run: no stage '{name}'.{nearest(str(name), known)} Known: {', '.join(known)}."
            )
    finish = partial(run_study, redo=redo, until=until, also=also)
    if folder is None:
        if texts is None or not isinstance(texts, str | Path) or _is_model(model):
            raise UserError(
                "run: give a model, texts and a folder for the study, ms.run(model, texts, "
                "'my-study'), or settings and a folder."
            )
        with progress_shown(progress):
            return _opened(finish(_settings(model), texts))
    folder = as_path(folder, "folder")
    present = folder_.Study(folder).settings if is_study(folder) else None
    wanted, frame = _asked(_settings(settings, present or StudySettings()), texts)
    if taxonomies is not None:
        is_list = isinstance(taxonomies, Sequence) and not isinstance(taxonomies, str)
        wanted["label"]["taxonomies"] = list(taxonomies) if is_list else [taxonomies]
    if (asked := parse_settings(wanted, where="run")) != present:
        check_wanted(asked, until)
    with ExitStack() as stack:
        stack.enter_context(progress_shown(progress))
        loaded: dict[str, LanguageModel] = {}
        given: dict[str, tuple[Any, Any]] = {}
        for role, section, key in _ROLES:
            one = {"model": model, "reference": reference}[role]
            if one is not None and not isinstance(one, str | Path):
                given[role] = one, tokenizer
                loaded[role] = stack.enter_context(opened_model(one, tokenizer, for_study=True))
                one = loaded[role].name
                if role == "model" and loaded[role].dtype in DTYPES:
                    wanted["model"]["dtype"] = loaded[role].dtype
            if one is not None:
                wanted[section][key] = str(one)
        chosen = parse_settings(wanted, where="run")
        models = Models(chosen, **loaded)
        study = _opened(finish(chosen, folder, models=models, sequences=frame))
    study._given = given
    return study


def _asked(settings: StudySettings, texts: Any) -> tuple[dict[str, Any], pl.DataFrame | None]:
    """Settings of a study of these texts, and the frame that they are, if they are no path."""
    wanted = settings.as_dict()
    source = as_source(texts)
    if not isinstance(source, pl.DataFrame):
        wanted["sequences"]["source"] = str(source)
        return wanted, None
    if {N_PREFIX, "tokens"} <= {*source.columns}:
        source = as_table(source)
        prefix, length = prefix_of(source, None), len(source["tokens"][0])
        asked = wanted["sequences"]["prefix"]
        if asked not in (None, prefix):
            raise UserError(
                f"sequences.prefix {asked}: the windows have {prefix}. Cut them anew, or leave "
                "the setting out."
            )
        wanted["sequences"] |= {"prefix": prefix, "suffix": length - prefix, "length": length}
    wanted["sequences"]["source"] = name_of(source)
    return wanted, source


def _is_model(given: Any) -> bool:
    """Whether it is a model, loaded or named, and no settings."""
    if isinstance(given, str | Path):
        is_hub_name = "/" in str(given) and Path(given).suffix not in (".yaml", ".yml")
        return Path(given).is_dir() or str(given) == "embedded" or is_hub_name
    return hasattr(given, "forward")


_ROLES = (("model", "model", "name"), ("reference", "capture", "reference"))
"""Where the settings name each model."""


def _settings(given: Given | None, base: StudySettings | None = None) -> StudySettings:
    """Settings of whatever they are given as; a mapping changes those of `base`."""
    if given is None:
        return base or StudySettings()
    if isinstance(given, str | Path):
        return find_study(Path(given))
    if isinstance(given, Mapping):
        values: dict[str, Any] = {} if base is None else base.as_dict()
        for key, value in given.items():
            section, _, name = str(key).partition(".")
            if name:
                part = values.setdefault(section, {})
                if not isinstance(part, dict):
                    raise UserError(
                        f"settings: '{section}' stands beside '{key}'. Give one of them."
                    )
                part[name] = value
            elif isinstance(value, Mapping) and isinstance(values.get(section), dict):
                values[section] |= value
            else:
                values[section] = value
        return parse_settings(values, where="settings")
    if isinstance(given, StudySettings):
        return given
    raise UserError(f"settings: {a_kind(given)}; give ms.StudySettings, a mapping, or a YAML file.")


def _opened(made: folder_.Study) -> Study:
    return Study(made.folder)
