"""The stages of a study: what each needs, what decides its output, and which function makes it.

One entry makes a stage: `run`, its verb, `--part`, the dry run, keys and manifests, `describe` and
`docs/architecture.md` read this list. Functions are named, not imported, for the list is read where
torch must not be loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemoscope.study.cost import Cost, Counts
    from mnemoscope.study.settings import StudySettings

TABLE_FILE = "sequences.parquet"


@dataclass(frozen=True)
class Stage:
    """One step of the flow.

    Attributes:
        name: also of its verb and its manifest.
        purpose: said when it runs and in the help.
        needs: stages before it.
        settings: sections, or single settings, that decide its output.
        function: `module:function`, called with the study and its models; empty where the study is
            created by it.
        cost: `module:function`, what it would take, called with settings and counts; without torch.
        outputs: files and folders that it writes; its manifest names those that are there.
        columns: that of its files which adds columns to the table of sequences.
        is_optional: made by its own verb, not by `run`.
        units: folders with the results of its units, each a store of its own.
        part: `module:function` that does a share of its units (`--part`), if it has any.
        has_engine: whether a cluster can do its work.
    """

    name: str
    purpose: str
    needs: tuple[str, ...]
    settings: tuple[str, ...]
    function: str = ""
    cost: str = ""
    outputs: tuple[str, ...] = ()
    columns: str = ""
    is_optional: bool = False
    units: tuple[str, ...] = ()
    part: str = ""
    has_engine: bool = False

    @property
    def is_leaf(self) -> bool:
        """True if nothing but the report rests on it: the old result stays till the new is there.

        Columns that a stage adds would be read while it is made anew.
        """
        return self.is_optional and not self.columns

    def load(self) -> Callable[..., None]:
        """The function that makes the stage."""
        return _load(self.function)

    def load_part(self) -> Callable[..., Any]:
        """The function that does a share of its units."""
        return _load(self.part)

    def load_cost(self) -> "Callable[[StudySettings, Counts], Cost]":
        """The function that says what it would take."""
        return _load(self.cost)


def _load(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


_MODEL = tuple(
    f"model.{key}" for key in ("name", "revision", "dtype", "device", "device_map", "bos")
)
_INPUT = ("preset", "kernels", "filters", "poolings", "device", "precision")
_CONTROLS = ("controls", "control_seeds", "control_taxonomies", "control_settings", "seed")

STAGES: list[Stage] = [
    Stage(
        "sequences",
        "texts cut into sequences of tokens",
        needs=(),
        settings=("sequences", "model.name", "model.revision"),
        outputs=(TABLE_FILE,),
    ),
    Stage(
        "continue",
        "which sequences does the model reproduce from their prefix",
        needs=("sequences",),
        settings=(*_MODEL, "continue.scan", "continue.decoding", "continue.labels"),
        function="mnemoscope.pipeline.continue_:continue_stage",
        part="mnemoscope.pipeline.continue_:ask_verdicts",
        cost="mnemoscope.pipeline.passes:continue_cost",
        outputs=("verdicts.parquet",),
        columns="verdicts.parquet",
        has_engine=True,
    ),
    Stage(
        "features",
        "what the taxonomies ask of a text: repetition, patterns, duplicates",
        needs=("sequences",),
        settings=("features",),
        function="mnemoscope.pipeline.features:features_stage",
        outputs=("features.parquet",),
        columns="features.parquet",
    ),
    Stage(
        "label",
        "a class for each sequence under each taxonomy; samples and split",
        needs=("continue", "features"),
        settings=("label",),
        function="mnemoscope.pipeline.label:label_stage",
        outputs=("labels.parquet", "samples.parquet", "measures.parquet"),
        columns="measures.parquet",
    ),
    Stage(
        "capture",
        "attention pooled over heads, once for all taxonomies",
        needs=("label",),
        settings=(*_MODEL, "capture.reference", "capture.per_head", "benchmark.controls"),
        function="mnemoscope.pipeline.capture:capture_stage",
        part="mnemoscope.pipeline.capture:ask_maps",
        cost="mnemoscope.pipeline.passes:capture_cost",
        outputs=("maps", "logprobs.parquet"),
        has_engine=True,
    ),
    Stage(
        "train",
        "CNNs on the maps, and the controls beside them",
        needs=("label", "capture"),
        settings=(
            *(f"train.{key}" for key in (*_INPUT, "seeds")),
            *(f"benchmark.{key}" for key in _CONTROLS),
        ),
        function="mnemoscope.pipeline.train:train_stage",
        part="mnemoscope.pipeline.train:train_share",
        cost="mnemoscope.pipeline.trainings:train_cost",
        outputs=("cnn", "predictions.parquet", "runs.parquet", "choice.parquet"),
        units=("cnn", "cnn/statistics"),
        has_engine=True,
    ),
    Stage(
        "benchmark",
        "min-F1 with intervals, and the excess over controls that need no memory",
        needs=("train",),
        settings=("benchmark",),
        function="mnemoscope.pipeline.benchmark:benchmark_stage",
        outputs=(
            "benchmark.parquet",
            "inputs.parquet",
            "comparison.parquet",
            "conclusions.json",
            "levels.parquet",
        ),
        has_engine=True,
    ),
    Stage(
        "localize",
        "where in the attention each class is decided",
        needs=("train",),
        settings=("localize",),
        function="mnemoscope.pipeline.localize:localize_stage",
        outputs=(
            "decisiveness.safetensors",
            "regions.parquet",
            "agreement.parquet",
            "attention.parquet",
        ),
        part="mnemoscope.pipeline.localize:localize_share",
        has_engine=True,
    ),
    Stage(
        "knockout",
        "what the model forgets when the edges that decide a class are cut",
        needs=("localize",),
        settings=("knockout",),
        function="mnemoscope.pipeline.knockout:knockout_stage",
        outputs=("knockout.parquet", "specificity.parquet"),
        units=("knockout",),
        is_optional=True,
    ),
    Stage(
        "graft",
        "which classes the model forgets when parts of the reference take the place of its own",
        needs=("label",),
        settings=(*_MODEL, "capture.reference", "graft"),
        function="mnemoscope.pipeline.graft:graft_stage",
        outputs=(
            "graft.parquet",
            "graft_specificity.parquet",
            "graft_curves.parquet",
            "graft_sequences.parquet",
            "graft_patches.parquet",
        ),
        units=("graft",),
        is_optional=True,
        part="mnemoscope.pipeline.graft:make_grafts",
        has_engine=True,
    ),
    Stage(
        "search",
        "taxonomies found by a search",
        needs=("capture",),
        settings=("search", *(f"train.{key}" for key in _INPUT), "label.non_memo_suffix"),
        function="mnemoscope.search.climb:search_stage",
        outputs=("search.parquet", "search.yaml", "search_measures.parquet"),
        columns="search_measures.parquet",
        is_optional=True,
        has_engine=True,
    ),
    Stage(
        "report",
        "one page that opens offline, report.html",
        needs=("benchmark", "localize"),
        settings=("title",),
        function="mnemoscope.report.page:report_stage",
        outputs=("report.html",),
    ),
]
"""In the order in which they run."""


def stage_named(name: str) -> Stage:
    """The stage of this name; KeyError if there is none."""
    return {stage.name: stage for stage in STAGES}[name]


def rests_on(name: str, before: str) -> bool:
    """Whether a stage is `before`, or needs it, or needs what does."""
    return name == before or any(rests_on(need, before) for need in stage_named(name).needs)
