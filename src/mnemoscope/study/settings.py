"""Settings of a study: one model per stage, with the same fields in the YAML file and as flags.

Flags override the file, which overrides defaults. Unknown keys raise an error with the nearest one.
Shipped study files and the names in settings are looked up here, before torch is loaded.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mnemoscope.cnn.presets import GRIDS, INPUTS, CnnInput, Grid, Precision, PresetName
from mnemoscope.errors import UserError, nearest
from mnemoscope.files import as_path
from mnemoscope.lm.hub import ROWS, check_device_name, check_model, check_other_model
from mnemoscope.parse import parse_yaml, read_bounded
from mnemoscope.taxonomy import PAPER, PRASHANTH

EMBEDDED = "embedded"
NO_MODEL = "none"
"""Model name of a study without a model, of a split's labels and features alone."""


def _device_name(name: str) -> str:
    check_device_name(name)
    return name


def _search_node(entry: str) -> str:
    from mnemoscope.taxonomy.nodes import is_node_file, read_range

    if not is_node_file(entry):
        read_range(entry)
    return entry


_Device = Annotated[str, AfterValidator(_device_name)]
_LARGEST = 2**32 - 1  # the largest seed that NumPy and scikit-learn take, and more than any count
_SHOWN = 100  # of these, where one is wrong
_LONGEST = 4096  # characters of a text, as of a path
_Seed = Annotated[int, Field(ge=0)]
_Resamples = Annotated[int, Field(ge=100, le=100_000)]
_Kernel = Annotated[int, Field(ge=1, le=1024)]
_Filters = Annotated[int, Field(ge=1, le=1024)]
_BatchSize = Annotated[int, Field(ge=1, le=65_536)]
_Draws = Annotated[int, Field(ge=1, le=10_000)]


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # which pydantic has under no public name


class _OneLine(ModelMetaclass):
    """Settings that are made in Python are refused in one line; what is read has a place too."""

    def __call__(self, *args: Any, **values: Any) -> Any:
        """Make settings; UserError says which value no run could use."""
        if args:
            raise UserError(f"settings: {args[0]!r:.40}; give them by name: model={{'name': ...}}.")
        with _said_in_one_line(cast("type[BaseModel]", self)):
            made = super().__call__(*args, **values)
        made.check_names()
        return made


class BoundedSettings(BaseModel, metaclass=_OneLine):
    """Settings within bounds: no unknown key, and no value that no run could use.

    Whatever its field allows, a number is finite and at most 2^32 - 1, true is no number, a text
    is one that a file system and UTF-8 can hold, and a list names nothing twice.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        validate_assignment=True,
        defer_build=True,  # a verb that reads no settings builds no schema
    )

    def __setattr__(self, name: str, value: Any) -> None:
        """Check a value where it is set; errors as on making."""
        before, given = dict(self.__dict__), set(self.model_fields_set)
        try:
            with _said_in_one_line(type(self)):
                self._change(name, value)
            self.check_names()
        except UserError:
            self.__dict__.update(before)  # a validator of the whole is asked after the change
            self.model_fields_set.clear()
            self.model_fields_set.update(given)
            raise

    def _change(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)

    def check_names(self) -> None:
        """Raise UserError for names that nothing here knows, where settings are made or changed.

        Not where they are read: a study opens without the plugin that knows a name.
        """
        for value in self.__dict__.values():
            if isinstance(value, BoundedSettings):
                value.check_names()

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "" and info.field_name not in _MAY_BE_EMPTY:
            raise ValueError("an empty text; leave the setting out for its default")
        _check_bounds(value)
        return value


@contextmanager
def _said_in_one_line(kind: type[BaseModel]) -> Iterator[None]:
    """Turn pydantic's error about settings into ours."""
    try:
        yield
    except ValidationError as error:
        own = kind.__name__.removesuffix("Settings").lower()
        where = _SECTIONS.get(kind.__name__, own and f"{own}.").__add__
        raise UserError(first_problem(error, where, partial(_known_keys, kind))) from None


_SECTIONS = {"SequenceSettings": "sequences.", "FeatureSettings": "features.", "StudySettings": ""}
_MAY_BE_EMPTY = ("title",)


def _check_bounds(value: Any) -> None:
    if isinstance(value, int | float) and abs(value) > _LARGEST:
        raise ValueError(f"larger than {_LARGEST:,}")
    if isinstance(value, str):
        if len(value) > _LONGEST:
            raise ValueError(f"longer than {_LONGEST:,} characters")
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("a character that is none in UTF-8, or a zero byte")
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            if one == "" or one in value[:number]:
                raise ValueError(f"{one!r} is {'empty' if one == '' else 'duplicated'}")
            _check_bounds(one)
    elif isinstance(value, dict):
        for one in (*value, *value.values()):
            _check_bounds(one)


class ModelSettings(BoundedSettings):
    """The language model that is looked at."""

    name: str = Field(
        default=EMBEDDED,
        description="Folder, Hugging Face hub name, .gguf file, 'embedded' (the shipped model), or "
        "'none': a split of the paper's data set, for the analyses that need no model.",
    )
    revision: str | None = Field(
        default=None, description="Hub revision (branch, tag, commit); null is the default one."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="float32", description="Number format of the weights; float32 gives exact figures."
    )
    device: _Device = Field(
        default="auto", description="auto (cuda, then mps, then cpu), cpu, cuda, cuda:1, mps."
    )
    device_map: str | dict[str, int | str] | None = Field(
        default=None,
        description="Spread the model over GPUs, memory and disk in place of device: auto, "
        "balanced, sequential, or a device for each module.",
    )
    batch_size: _BatchSize | None = Field(
        default=None,
        description="Sequences a forward pass; null: 64 on a processor, on an accelerator 65,536 "
        "tokens or what fits.",
    )
    bos: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Prepend the beginning-of-sequence token: auto does what the tokenizer does.",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run model code from the hub; only for sources you trust."
    )


class SequenceSettings(BoundedSettings):
    """Where the sequences come from."""

    source: str = Field(
        default=EMBEDDED,
        description="Folder of text or code, a text file; .jsonl (also .gz, .zst), .csv or "
        ".parquet with text or tokens, or a folder of them; NAME_prefix.npy beside "
        "NAME_suffix.npy; a data set of the hub, OWNER/NAME[:CONFIG][@REVISION][#SPLIT]; "
        "'embedded' (the shipped sequences); or with sequences.split the paper's data set: "
        "'usvsnsp/semantic-filters' or a folder with its Parquet files.",
    )
    also: list[str] = Field(
        default=[],
        description="Further sources, read after the first; genre says which, where there is none.",
    )
    columns: dict[str, str] = Field(
        default={},
        description="Columns by their paths in the source, {duplicates: meta.duplicates}; a path "
        "goes into nested fields and JSON in texts, ==VALUE asks whether it is that value, "
        "@row is the row's number.",
    )
    split: str | None = Field(
        default=None,
        description="Split of the paper's data set: deduped_12b (pile and memories) or one part, "
        "such as memories_deduped_12b; null for any other source.",
    )
    margin: float = Field(
        default=2.0,
        ge=1,
        le=1000,
        description="Of each class of a split, keep this many times n_train + n_eval sequences.",
    )
    length: int = Field(
        default=64,
        ge=8,
        le=65_536,
        description="Tokens a sequence; half of them are prefix unless prefix or suffix is given.",
    )
    prefix: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="Tokens the model is shown; with suffix too, both make the length.",
    )
    suffix: int | None = Field(
        default=None, ge=1, le=65_536, description="Tokens it is to go on with."
    )
    stride: int | None = Field(
        default=None, ge=1, description="Tokens between two windows of a text; null is the length."
    )
    pad: bool | Literal["left"] = Field(
        default=False,
        description="Take shorter texts and tokens too, padded on the right (true), or on the left "
        "where only prompts differ in length; for labels and maps.",
    )
    limit: int | None = Field(
        default=None, ge=1, description="Keep at most this many sequences, drawn at random."
    )
    seed: _Seed = Field(default=0, description="Seed of that draw.")

    def _change(self, name: str, value: Any) -> None:
        """Prefix and suffix that are set one after another make the length, whatever it was."""
        halves = {"prefix": self.prefix, "suffix": self.suffix, name: value}
        if name in ("prefix", "suffix") and None not in halves.values():
            self.model_fields_set.discard("length")
        super()._change(name, value)

    @model_validator(mode="after")
    def _fit(self) -> Self:
        """Prefix and suffix make the length; one at its default, or not given, gives way to them.

        One of them that leaves no room in a length that is not given is half of it.
        """
        default = type(self).model_fields["length"].default
        if is_free := "length" not in self.model_fields_set:
            self.__dict__["length"] = default  # not checked again, here and below
        if self.prefix is not None and self.suffix is not None:
            whole = self.prefix + self.suffix
            if self.length not in (whole, default):
                raise ValueError(f"length {self.length} is not prefix + suffix, {whole}")
            self.__dict__["length"] = whole
        elif is_free and (half := self.prefix or self.suffix or 0) >= self.length:
            self.__dict__["length"] = 2 * half
        if self.length <= self.n_prefix or self.n_prefix < 1 or self.length < 8:
            raise ValueError(f"length {self.length} has no room for this prefix and suffix")
        if self.prefix is self.suffix is None and self.length % 2:
            raise ValueError(f"length {self.length} has no half: give prefix and suffix")
        return self

    @property
    def n_prefix(self) -> int:
        """Tokens of the prefix."""
        if self.prefix is not None:
            return self.prefix
        return self.length // 2 if self.suffix is None else self.length - self.suffix


class ContinueSettings(BoundedSettings):
    """Which sequences the model reproduces."""

    scan: bool = Field(
        default=False,
        description="Find memorized sequences by teacher forcing, decode only what is sampled; "
        "for large tables.",
    )
    decoding: Literal["plain", "published"] = Field(
        default="plain",
        description="How the model writes on: plain, or published: the end-of-text token is never "
        "written and hidden in the prefix, as the paper's code does. A scan reads plainly.",
    )
    labels: Literal["own", "published"] = Field(
        default="own",
        description="Which sequences count as memorized: own (this model's verdict), or published "
        "(what the source says, as in the paper; the model's verdict stands beside it).",
    )
    part_rows: int = Field(
        default=1024, ge=1, description="Most sequences a part; a killed run goes on with the next."
    )
    check_rows: int = Field(
        default=128,
        ge=0,
        description="Sequences that are both scanned and decoded, to see how often the two differ.",
    )


class FeatureSettings(BoundedSettings):
    """What the taxonomies ask of a sequence."""

    patterns: Literal["published", "strict"] = Field(
        default="published",
        description="Rules for incrementing and repeating: as the published data set was made, "
        "or with its quirks mended.",
    )
    corpus: str | None = Field(
        default=None,
        description="Folder or table of texts in which duplicates are counted; null keeps the "
        "table's own column.",
    )


class LabelSettings(BoundedSettings):
    """Taxonomies, and how their classes are sampled and split."""

    taxonomies: list[str] = Field(
        default=[PRASHANTH, PAPER],
        min_length=1,
        description="Names, 'catalogue' (the 54 published ones), or paths of YAML files.",
    )
    n_train: int = Field(
        default=4000, ge=4, description="Training sequences a class; fewer where a class is small."
    )
    n_eval: int = Field(
        default=2000, ge=2, description="Evaluation sequences a class; fewer likewise."
    )
    minimum: int = Field(
        default=60,
        ge=6,
        description="Sequences a class needs (training and evaluation together) to be trained on.",
    )
    split: Literal["group", "row", "folds"] = Field(
        default="group",
        description="group keeps near-duplicates on one side; row is the paper's, and leaks; folds "
        "asks all sequences that are drawn, up to n_train a class, each by CNNs trained on the "
        "four fifths that hold none of its near-duplicates.",
    )
    match: str | None = Field(
        default=None,
        description="Repeat every taxonomy on a sample with equal shares of this column's values "
        "in each class, for example genre.",
    )
    drop_small_classes: bool = Field(
        default=False, description="Leave out classes that are too small instead of giving up."
    )
    non_memo_suffix: Literal["own", "true"] = Field(
        default="own",
        description="What Non-Memo sequences show after the prefix: the model's own continuation "
        "(the paper's rule) or the text's suffix.",
    )
    both_suffixes: bool = Field(
        default=False, description="Repeat every taxonomy with the other choice of that suffix."
    )
    both_splits: bool = Field(
        default=False,
        description="Repeat every taxonomy with the other split, to see what near-duplicates on "
        "both sides are worth.",
    )
    seed: _Seed = Field(default=0, description="Seed of the shared permutation.")

    @field_validator("non_memo_suffix", mode="before")
    @classmethod
    def _unquoted(cls, value: object) -> object:
        """YAML reads `true` without quotes as a truth value."""
        return "true" if value is True else value

    def check_names(self) -> None:
        """Raise UserError for a taxonomy that is unknown, with the nearest that is known."""
        if self.taxonomies != type(self).model_fields["taxonomies"].default:
            from mnemoscope.taxonomy.catalogue import load_taxonomies

            load_taxonomies(self.taxonomies)

    @property
    def per_class(self) -> int:
        """Most sequences that a sample takes of a class."""
        return self.n_train + (0 if self.split == "folds" else self.n_eval)


class CaptureSettings(BoundedSettings):
    """The attention that is stored."""

    reference: str | None = Field(
        default=None,
        description="A model that never saw the sequences, with the same tokenizer (a hub's early "
        "checkpoint: NAME@REVISION); for the embedded model its own reference is taken.",
    )
    shard_rows: int = Field(default=256, ge=1, description="Sequences a shard file.")
    per_head: bool = Field(
        default=False,
        description="Store every head's maps too (for train.poolings: heads); refused above 8 GB "
        "a model.",
    )


def _of_preset(part: str, given: dict[str, Any]) -> list[Any]:
    """The preset's part of the grid."""
    return list(getattr(GRIDS[given.get("preset", "small")], part))


class TrainSettings(BoundedSettings):
    """The CNNs."""

    preset: PresetName = Field(
        default="small",
        description="small: scaled input, trained by steps, for hundreds of sequences a class; "
        "as_run and as_written: raw maps, 3 epochs, with the grid that the paper's code ran or the "
        "one that the paper describes; rows: trained as small, but over six statistics of each "
        "query's row of weights, in one dimension. It gives the grid too: kernels, filters, "
        "poolings and seeds that are not set.",
    )
    kernels: list[_Kernel] = Field(
        default_factory=partial(_of_preset, "kernels"),
        min_length=1,
        description="Kernel sizes; as_run and as_written: 6 and 8.",
    )
    filters: list[_Filters] = Field(
        default_factory=partial(_of_preset, "filters"),
        min_length=1,
        description="Filters; as_run and as_written: 10 and 16.",
    )
    poolings: list[CnnInput] = Field(
        default_factory=partial(_of_preset, "poolings"),
        min_length=1,
        description="What a CNN sees: "
        + "; ".join(f"{name} ({one.words})" for name, one in INPUTS.items())
        + ". as_run: mean; as_written: mean and max. What reads heads needs capture.per_head.",
    )
    seeds: list[_Seed] = Field(
        default_factory=partial(_of_preset, "seeds"),
        min_length=1,
        description="One CNN a setting and seed; as_run: 0 and 1; as_written: 0.",
    )
    device: _Device = Field(
        default="auto",
        description="Where CNNs train: auto (cuda where there is one, else cpu), cpu (the same "
        "bits every time), cuda, cuda:1, mps; an accelerator rounds otherwise. runs.parquet says "
        "which it was.",
    )
    precision: Precision = Field(
        default="float32",
        description="Number format of what a training step computes; weights and predictions are "
        "float32. bfloat16 (autocast) took .74 to .93 of the CPU time, and by rounding alone moved "
        "min-F1 of a seed by up to 5 points (benchmarks/bench_float16.py).",
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Processes that train at once; 0 is one a processor core, at most 4 on an "
        "accelerator.",
    )

    @property
    def in_words(self) -> str:
        """Preset and grid, such as ``as_run: 4 settings × 2 seeds, the preset's grid``."""
        grid = Grid(*(tuple(getattr(self, part)) for part in Grid._fields))
        whose = "the preset's grid" if grid == GRIDS[self.preset] else "another grid"
        n_settings, n_seeds = len(grid.settings), len(grid.seeds)
        counts = [
            f"{n} {word}{'s' * (n > 1)}" for n, word in ((n_settings, "setting"), (n_seeds, "seed"))
        ]
        return f"{self.preset}: {' × '.join(counts)}, {whose}"


class BenchmarkSettings(BoundedSettings):
    """How figures are judged."""

    controls: bool = Field(
        default=True, description="Control task, blind baseline, reference model, logits."
    )
    control_seeds: int = Field(
        default=1, ge=1, description="Seeds (the first ones) that the control task is given."
    )
    control_taxonomies: list[str] | None = Field(
        default=None, description="Taxonomies that get controls; null: all of them."
    )
    control_settings: int = Field(
        default=1,
        ge=0,
        description="CNN settings (the first ones of the grid) that control task, blind baseline "
        "and reference are trained with; 0: all. The excess counts the model's trainings with "
        "these settings alone.",
    )
    untrained: Literal["withhold", "count"] = Field(
        default="withhold",
        description="Trainings that are at chance on their own training sequences: withhold leaves "
        "them out of every figure but Δ under localize.rows: as_run, count sums them with the "
        "others, as the paper does.",
    )
    n_resamples: _Resamples = Field(default=1000, description="Bootstrap resamples.")
    seed: _Seed = Field(default=0, description="Seed of bootstrap, matching and control task.")


_Ranking = Literal[
    "weights",
    "value_norm",
    "contribution",
    "total_effect",
    "weights_contrast",
    "value_norm_contrast",
    "contribution_contrast",
    "total_effect_contrast",
]


class LocalizeSettings(BoundedSettings):
    """Where in the attention a class is decided."""

    attributions: list[Literal["gradient", "guided", "integrated", "occlusion"]] = Field(
        default=["gradient", "guided"],
        min_length=1,
        description="gradient (what the published code computes), guided (what the paper says); "
        "integrated gradients and occlusion of blocks need the extra attribution (Captum).",
    )
    rankings: list[_Ranking] = Field(
        default=["value_norm_contrast"],
        description="Beside Δ, what the model itself gives each edge, as in knockout.by; nothing "
        "is stored but the means of each class.",
    )
    attribution_sequences: int | None = Field(
        default=32,
        ge=2,
        description="Evaluation sequences of each class that integrated gradients and occlusion "
        "read, which take tens of passes each: a seeded draw; null reads all. gradient and "
        "guided always read all.",
    )
    seed: _Seed = Field(default=0, description="Seed of that draw.")
    rows: Literal["correct", "evaluation", "as_run"] = Field(
        default="correct",
        description="Sequences that Δ is the mean of: correct (evaluation sequences that the CNN "
        "classifies correctly), evaluation (all of them), as_run (the first 200 of each class by "
        "position, training sequences first, right or wrong, and CNNs that did not train too, as "
        "the paper's code does).",
    )
    sanity: bool = Field(
        default=True,
        description="See whether each attribution depends on what a CNN learned: weights "
        "randomized layer by layer, labels permuted (64 sequences a class).",
    )


class KnockoutSettings(BoundedSettings):
    """What the model can no longer do when edges of its attention are cut (verb `knockout`)."""

    strengths: list[Annotated[float, Field(gt=0, le=100)]] = Field(
        default=[0.1, 0.3, 1.0, 3.0, 10.0],
        min_length=1,
        description="Per cent of all attention edges that are cut, each tried.",
    )
    by: Literal["delta", _Ranking] = Field(
        default="value_norm_contrast",
        description="What ranks the edges of a class: delta (of the CNNs), or its mean of the "
        "attention weight, of the norm of the value moved, of the direct contribution to the next "
        "token's logit, of the total effect on the suffix's logits; contrast takes the other "
        "classes' mean off.",
    )
    attribution: Literal["gradient", "guided", "integrated", "occlusion"] = Field(
        default="gradient", description="Whose decisiveness ranks the edges by delta."
    )
    own_edges: int = Field(
        default=8,
        ge=1,
        description="Edges of largest total effect in each sequence itself that are cut.",
    )
    renormalize: bool = Field(
        default=False,
        description="Scale what is left of a row to its former sum, as a mask would; "
        "false leaves a gap.",
    )
    n_sequences: int = Field(
        default=100, ge=2, description="Memorized sequences of each class that are continued again."
    )
    draws: _Draws = Field(default=5, description="Draws of each kind of random edges.")
    seed: _Seed = Field(default=0, description="Seed of sequences, random edges, bootstrap.")


DRAWS_BESIDE = 3
"""Draws, at most, of a patch's control, and of random changes where no classes are compared."""


class GraftSettings(BoundedSettings):
    """What breaks when parts of the reference model are put into the model (verb `graft`)."""

    parts: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None,
        description="Parts of the weights, such as layers.0.qk, layers.0-1.mlp, qk, "
        "layers.1.heads.3, all but embedding; null tries every single part, and qk, values, "
        "output and mlp in all layers together.",
    )
    directions: list[Literal["twin_in_model", "model_in_twin"]] = Field(
        default=["twin_in_model"],
        min_length=1,
        description="The twin's part in the model (what breaks), the model's in the twin (what "
        "appears).",
    )
    shares: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=[0.25, 0.5, 0.75, 1.0],
        min_length=1,
        description="How far to go from the model's part to the twin's, each tried: a dose curve. "
        "1 is all of it, is always tried, and has the verdict.",
    )
    controls: list[Literal["random", "spectrum", "permuted"]] = Field(
        default=["random", "spectrum", "permuted"],
        min_length=1,
        description="Changes that know nothing of the twin: Gaussian; with the singular values of "
        "the twin's and random singular vectors; the twin's with rows and columns permuted.",
    )
    draws: _Draws = Field(
        default=16,
        description="Random changes of each part in all, the kinds of controls in turn; each is "
        "tried at growing scales until it breaks as much as the twin's part. Where no two classes "
        f"can be compared, {DRAWS_BESIDE} at the size of the twin's.",
    )
    largest_scale: Annotated[float, Field(ge=1, le=1000)] = Field(
        default=8.0,
        description="Largest size of a random change, 1 being that of the twin's; what breaks less "
        "at that size ends there.",
    )
    patch: bool = Field(
        default=False,
        description="Put in activations of the twin's own run too: what enters each layer, what "
        "its attention gives and its MLP, beside those of its run on other sequences.",
    )
    patch_blocks: int = Field(
        default=4,
        ge=1,
        le=1024,
        description="Blocks of positions that are patched alone, beside all together; 1 is none.",
    )
    n_sequences: int = Field(
        default=250,
        ge=2,
        description="Memorized sequences of each class that are scanned; of what was read twice as "
        "many, for the comparison by truth.",
    )
    n_heldout: int = Field(
        default=200,
        ge=0,
        description="Others, in whose loss the damage of a graft shows; ten for each memorized one "
        "at most.",
    )
    seed: _Seed = Field(default=0, description="Seed of sequences, controls and bootstrap.")


class SearchSettings(BoundedSettings):
    """Taxonomies found, not only tried (verb `search`)."""

    nodes: list[Annotated[str, AfterValidator(_search_node)]] = Field(
        default=[
            *("Recite", "Reconstruct", "Guess", "Code", "Entropy", "ShannonLength"),
            *("TokenFrequency", "PrefixPerplexity", "SuffixPerplexity", "Prior"),
        ],
        min_length=1,
        description="Nodes to build from, each with a range of thresholds if wanted "
        "(Entropy[3.5..5]), or YAML files with nodes of your own.",
    )
    classes: list[Literal[3, 4]] = Field(
        default=[3, 4], min_length=1, description="Classes of a taxonomy, Non-Memo included."
    )
    objective: Literal["excess", "min_f1", "auc", "auc_excess"] = Field(
        default="excess",
        description="What is maximized: excess alignment, min-F1, mean pairwise AUC, or the excess "
        "of that.",
    )
    candidates: int = Field(
        default=60, ge=1, description="Different taxonomies that are scored at the cheapest rung."
    )
    reduction: int = Field(
        default=3, ge=2, description="Of the taxonomies of a rung, one in so many goes on."
    )
    finalists: int = Field(
        default=3, ge=1, description="Taxonomies that are scored on the final part in the end."
    )
    baselines: list[str] = Field(
        default=[PAPER, PRASHANTH],
        description="Taxonomies that the finalists are compared with.",
    )
    n_train: int = Field(default=300, ge=4, description="Training sequences a class, at most.")
    n_select: int = Field(
        default=150, ge=2, description="Sequences a class that the choice is made on, at most."
    )
    n_final: int = Field(
        default=300, ge=2, description="Sequences a class of the final evaluation, at most."
    )
    minimum: int = Field(
        default=30, ge=4, description="Sequences a class needs in each of the three parts."
    )
    seeds: list[_Seed] = Field(
        default=[0, 1], min_length=1, description="Seeds of the CNNs of the last rung."
    )
    other_prefixes: int = Field(
        default=4, ge=1, description="Other prefixes that each suffix is put behind (node Prior)."
    )
    capture_all: bool = Field(
        default=False,
        description="First capture every memorized sequence, and half as many that are not.",
    )
    seed: _Seed = Field(default=0, description="Seed of parts, proposals and bootstrap.")


class StudySettings(BoundedSettings):
    """Everything that decides the numbers of a study."""

    title: str = Field(default="", description="Heading of the report.")
    model: ModelSettings = Field(default_factory=ModelSettings)
    sequences: SequenceSettings = Field(default_factory=SequenceSettings)
    continue_: ContinueSettings = Field(default_factory=ContinueSettings, alias="continue")
    features: FeatureSettings = Field(default_factory=FeatureSettings)
    label: LabelSettings = Field(default_factory=LabelSettings)
    capture: CaptureSettings = Field(default_factory=CaptureSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    benchmark: BenchmarkSettings = Field(default_factory=BenchmarkSettings)
    localize: LocalizeSettings = Field(default_factory=LocalizeSettings)
    knockout: KnockoutSettings = Field(default_factory=KnockoutSettings)
    graft: GraftSettings = Field(default_factory=GraftSettings)
    search: SearchSettings = Field(default_factory=SearchSettings)

    @property
    def reference(self) -> str | None:
        """Name of the reference model; of the embedded model its own; None if there is none."""
        own = EMBEDDED if self.model.name == EMBEDDED else None
        return self.capture.reference or own

    @property
    def planned_rows(self) -> int:
        """Sequences a forward pass, as costs and chunks count them: alike on every machine."""
        return self.model.batch_size or ROWS

    @property
    def rows_at_once(self) -> int:
        """Sequences a forward pass on this machine."""
        from mnemoscope.lm.placement import find_device, rows_at_once

        if self.model.batch_size is not None:
            return self.model.batch_size
        return rows_at_once(None, find_device(self.model.device).type, self.sequences.length)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of the YAML file."""
        return self.model_dump(mode="json", by_alias=True)


def load_settings(path: Path | str) -> StudySettings:
    """Read a study's YAML file, as written by `mnemoscope init`.

    Raises:
        UserError: missing or unreadable file, invalid YAML, unknown key (with the nearest known
            one), or a value out of range.
    """
    path = as_path(path, "settings")
    try:
        values = parse_yaml(read_bounded(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Write one with 'mnemoscope init {path}'.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Give a YAML file.") from None
    except ValueError as error:
        raise UserError(f"{path}, {error}. Correct it.") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: wants 'key: value' lines. See 'mnemoscope init'.")
    values.pop("record", None)  # study.yaml is a settings file with a record
    return parse_settings(values, where=str(path))


def parse_settings(values: Mapping[str, object], *, where: str) -> StudySettings:
    """Validate a nested mapping, one entry per stage, and fill in the defaults.

    `where` is what an error names: a file, or "flags". Raises UserError: unknown key, wrong type or
    range.
    """
    try:
        return StudySettings.model_validate(values)
    except ValidationError as error:
        raise UserError(
            first_problem(error, f"{where}, ".__add__, partial(_known_keys, StudySettings))
        ) from None


def first_problem(
    error: ValidationError,
    named: Callable[[str], str],
    known_keys: Callable[[list[str]], list[str]],
) -> str:
    """One line about the first error.

    `named` says a key as the user knows it, `known_keys` which keys may stand at a place.
    """
    problem = error.errors()[0]
    location = [str(part)[:100] for part in problem["loc"]]
    key = named(".".join(location) or "settings")
    if problem["type"] in ("extra_forbidden", "no_such_attribute"):
        known = known_keys(location[:-1])
        hint = nearest(location[-1], known) or f" Known: {', '.join(known)}."
        return f"{key}: unknown key.{hint}"
    if problem["type"] == "missing":
        return f"{key}: is missing. Give it."
    got = repr(problem.get("input"))
    if problem["type"] == "model_type":
        inner = known_keys(location)
        return f"{key}: a section of settings (got {got}). Write {key}: {{{inner[0]}: ...}}."
    got = got if len(got) <= _SHOWN else got[: _SHOWN - 1] + "…"
    said = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {said} (got {got}). Correct the value."


def _known_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    """Names of the settings at a place below these."""
    for part in location:
        for name, field in model.model_fields.items():
            if (field.alias or name) == part and isinstance(field.annotation, type):
                model = field.annotation
    return [field.alias or name for name, field in model.model_fields.items()]


def settings_template() -> str:
    """A YAML file with every setting, its default and one line that explains it.

    What another setting gives a default stands there as a comment.
    """
    values = StudySettings().as_dict()
    lines = ["# A mnemoscope study. Run it with: mnemoscope run THIS_FILE -o STUDY", ""]
    for name, field in StudySettings.model_fields.items():
        key = field.alias or name
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            lines += [f"# {field.description}", f"{key}: {_scalar(values[key])}", ""]
            continue
        lines += [f"# {(field.annotation.__doc__ or '').strip()}", f"{key}:"]
        for inner, inner_field in field.annotation.model_fields.items():
            of_other = "# " if inner_field.default_factory else ""  # set, it would stay as it is
            lines.append(f"  # {inner_field.description}")
            lines.append(f"  {of_other}{inner}: {_scalar(values[key][inner])}")
        lines.append("")
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    """A value on one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


_PYTHIA_SIZES = ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")


def shipped_names() -> list[str]:
    """Names of the shipped studies, without suffix, sorted; one file may serve all Pythias."""
    stems = [path.stem for path in _folder().glob("*.yaml")]
    sizes = {one: _PYTHIA_SIZES if "SIZE" in one else ("",) for one in stems}
    return sorted(one.replace("SIZE", size) for one in stems for size in sizes[one])


def shipped_text(name: str) -> str:
    """The shipped study of this name, with or without `.yaml`, as YAML.

    Raises UserError: no such study; lists all and the nearest.

    >>> "name: EleutherAI/pythia-12b-deduped" in shipped_text("pythia-12b.yaml")
    True
    """
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    known = shipped_names()
    if stem not in known:
        raise UserError(
            f"{name}: no such file, and no shipped study has this name.{nearest(stem, known)} "
            f"Shipped: {', '.join(known)}. 'mnemoscope init {stem}.yaml' writes a new one."
        )
    family, _, size = stem.partition("-")
    of_sizes = _folder() / f"{family}-SIZE.yaml"
    path = of_sizes if of_sizes.exists() else _folder() / f"{stem}.yaml"
    return path.read_text(encoding="utf-8").replace("SIZE", size)


def find_study(given: Path) -> StudySettings:
    """Settings of the user's file if it exists or has a folder, else of the shipped study.

    Raises UserError: as `load_settings` and `shipped_text`.
    """
    if (given / "study.yaml").is_file():
        raise UserError(f"{given}: a study. Go on with it: mnemoscope run -o {given}")
    if given.exists() or given.name != str(given):
        return load_settings(given)
    return parse_settings(parse_yaml(shipped_text(given.name)), where=given.name)


def _folder() -> Path:
    return Path(str(files("mnemoscope"))) / "studies"


_SHIPPED = (EMBEDDED, NO_MODEL)


def check_corpus(settings: StudySettings) -> None:
    """Raise UserError where the corpus to count duplicates in is not there."""
    corpus = settings.features.corpus
    if corpus is not None and not Path(corpus).exists():
        raise UserError(f"features.corpus: {corpus}: no such file or folder.")


def check_names(settings: StudySettings) -> None:
    """Raise UserError if the model, reference or source of sequences does not exist."""
    from mnemoscope.data.formats import check_there
    from mnemoscope.data.hub import parse_hub_name

    model, sequences = settings.model, settings.sequences
    for source in (sequences.source, *sequences.also):
        if source != EMBEDDED and parse_hub_name(source) is None:
            check_there(source)
    if model.name not in _SHIPPED:
        check_model(model.name, model.revision)
    reference = settings.capture.reference
    if reference is not None and reference not in _SHIPPED and settings.benchmark.controls:
        check_model(*split_revision(reference))
    check_reference(settings)


def check_reference(settings: StudySettings) -> None:
    """Raise UserError if the reference is the model itself, without weights; as `check_names`."""
    reference, model = settings.reference, settings.model
    if reference is not None and not {reference, model.name} & {*_SHIPPED}:
        check_other_model(*split_revision(reference), model.name, model.revision)


def check_new_reference(settings: StudySettings, before: StudySettings) -> None:
    """Refuse what a study cannot take as its reference, before its settings are changed.

    Raises UserError: a reference other than `before` does not exist, or is the model itself.
    """
    if settings.reference not in (None, before.reference, *_SHIPPED):
        check_model(*split_revision(str(settings.reference)))
        if settings.model == before.model:
            check_reference(settings)


def split_revision(name: str) -> tuple[str, str | None]:
    """Split `NAME@REVISION` into name and revision; an existing path has no revision."""
    if Path(name).exists() or "@" not in name:
        return name, None
    source, _, revision = name.rpartition("@")
    return source, revision


_SUFFIX_NOTE = (
    "The same sequences; what Non-Memo shows after the prefix is exchanged, since greedy text "
    "loops and can give the class away."
)
_SPLIT_NOTES = {
    "row": "As many sequences of each class, but split by row, as the paper does: a copy, a near "
    "copy or an overlapping window of a training sequence may stand in evaluation, and a CNN that "
    "has learnt the one knows the other. What this figure is above the one split by group is that "
    "leak, not memory.",
    "group": "As many sequences of each class where there are so many groups, but split by group: "
    "copies, near copies and overlapping windows of one document stay on one side. What the figure "
    "split by row is above this one is a leak, not memory.",
}


VariantName = Literal[
    "main", "own_suffix", "true_suffix", "row_split", "group_split", "equal_shares"
]
"""Column `variant` of every table of samples."""


@dataclass(frozen=True)
class Variant:
    """One choice of sequences on which every taxonomy is measured."""

    name: VariantName
    title: str  # which sequences, in a few words
    note: str  # what is special about them, empty for the main one
    match: str | None  # column whose values are equally frequent in every class
    non_memo_suffix: str  # what Non-Memo sequences show after the prefix: `own` or `true`
    split: Literal["group", "row", "folds"]  # how training and evaluation are kept apart


def variants(settings: LabelSettings) -> list[Variant]:
    """The main choice of sequences, then the repetitions; UserError: `both_splits` of folds."""
    own, split = settings.non_memo_suffix, settings.split
    if split == "folds" and settings.both_splits:
        raise UserError(
            "label.both_splits: with label.split: folds no sequence is held out, so there is no "
            "other split to compare. Leave one of the two out."
        )
    found = [Variant("main", "all sequences", "", None, own, split)]
    if settings.both_suffixes:
        true = Variant(
            "true_suffix", "Non-Memo with its true suffix", _SUFFIX_NOTE, None, "true", split
        )
        other = Variant(
            "own_suffix", "Non-Memo with its continuation", _SUFFIX_NOTE, None, "own", split
        )
        found.append(true if own == "own" else other)
    if settings.both_splits:
        row = Variant("row_split", "split by row", _SPLIT_NOTES["row"], None, own, "row")
        group = Variant("group_split", "split by group", _SPLIT_NOTES["group"], None, own, "group")
        found.append(row if split == "group" else group)
    if settings.match:
        column = settings.match
        note = f"Every class has the same number of sequences of each {column}."
        found.append(Variant("equal_shares", f"same {column}", note, column, own, split))
    return found
