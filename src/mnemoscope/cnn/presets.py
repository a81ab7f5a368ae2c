"""What can be chosen about CNNs: how they are trained, and which grid of settings and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, Literal, NamedTuple

from mnemoscope.errors import UserError
from mnemoscope.maps.shape import POOLED

if TYPE_CHECKING:
    from mnemoscope.maps.views import MapSource


class Input(NamedTuple):
    """Something that a CNN sees of a layer."""

    words: str
    reads: tuple[str, ...]  # tensors of a store of maps, in the order in which `view` takes them
    view: str = ""  # class of `maps.views` that makes one source of them; none for a tensor itself
    channels: int = 1  # of a layer, or of a head where it reads heads
    # whether the reference's tensors follow the model's
    is_of_two: bool = False
    # whether its channels are layers of the model, once or several times over, as Δ needs them
    is_by_layer: bool = True

    @property
    def serves_audits(self) -> bool:
        """Whether an audit, which has one model and pooled maps, can show it."""
        return not self.is_of_two and set(self.reads) <= set(POOLED)

    def view_of(self, parts: "Sequence[MapSource]") -> "MapSource":
        """What is seen, from maps of the same sequences, one for each that it reads."""
        from mnemoscope.maps import views

        made: MapSource = getattr(views, self.view)(*parts) if self.view else parts[0]
        return made


INPUTS = {
    "mean": Input("weights averaged over the heads", ("mean",)),
    "max": Input("their maximum over the heads", ("max",)),
    "both": Input("mean and maximum side by side", POOLED, "StackedMaps", 2),
    "heads": Input("every head’s weights", ("heads",), is_by_layer=False),
    "difference": Input(
        "the model’s means less the reference’s",
        ("mean",),
        "DifferenceMaps",
        2,
        is_of_two=True,
        is_by_layer=False,
    ),
}
"""All inputs by their names in settings; training, Δ, benchmark, report and audit read this.

None is computed with the next token in hand, such as contributions to its logit: that would show
the token's log-probability by another name, and need a control that shows it without attention.
"""

if TYPE_CHECKING:
    CnnInput = str
else:
    CnnInput = Literal[tuple(INPUTS)]
OF_TWO_MODELS = tuple(name for name, one in INPUTS.items() if one.is_of_two)


@dataclass(frozen=True)
class CnnSetting:
    """One point of the grid: side of both kernels, channels of both convolutions, pooling.

    `pooling` is what is seen of a layer's heads, one of `INPUTS`.
    """

    kernel: int
    filters: int
    pooling: str

    @property
    def slug(self) -> str:
        """Name for files and tables, such as ``k6-f10-mean``."""
        return f"k{self.kernel}-f{self.filters}-{self.pooling}"


@dataclass(frozen=True)
class TrainingPreset:
    """How a CNN is trained; AdamW and cross-entropy throughout.

    At least `epochs` passes, and more until `min_steps` are made. `schedule` is ``constant``, or
    ``cosine`` from the highest rate to 0 after a linear rise over the share `warmup` of all steps.
    `scaling` is ``raw``, ``sqrt_standardized`` or ``rows`` (see `training.Scaling`), within ±
    `clamp` unless raw. `scores_every_epoch`: the paper sums confusion matrices over all epochs;
    else only the final weights count.
    """

    name: str
    batch_size: int
    learning_rate: float
    weight_decay: float
    dropout: float
    epochs: int
    min_steps: int
    schedule: Literal["constant", "cosine"]
    warmup: float
    scaling: Literal["raw", "sqrt_standardized", "rows"]
    clamp: float
    scores_every_epoch: bool

    def n_epochs(self, n_maps: int) -> int:
        """Count the passes over `n_maps` training maps."""
        steps_an_epoch = ceil(n_maps / self.batch_size)
        return max(self.epochs, ceil(self.min_steps / steps_an_epoch))


def feature_side(length: int, kernel: int) -> int:
    """Side of the square that reaches the linear layers: valid convolutions, floor pooling.

    >>> feature_side(64, 6), feature_side(64, 8)
    (12, 10)
    """
    return ((length - kernel + 1) // 2 - kernel + 1) // 2


def cnn_flops(n_channels: int, length: int, *, kernel: int, filters: int) -> int:
    """Operations of one map's forward pass through the CNN's two convolutions.

    2 · side² · channels · kernel² · filters for each; the linear layers (below 1 %) are left out.
    """
    first = length - kernel + 1
    second = first // 2 - kernel + 1
    area = kernel * kernel * filters
    return 2 * first * first * n_channels * area + 2 * second * second * filters * area


def check_kernel(kernel: int, length: int) -> None:
    """Raise UserError if two convolutions with this kernel leave nothing of a map."""
    if feature_side(length, kernel) < 1:
        raise UserError(
            f"sequences of {length} tokens are too short for a CNN with kernel {kernel}: "
            f"take {3 * kernel + 1} tokens or more, or a smaller kernel."
        )


class Grid(NamedTuple):
    """The CNNs of a study: every kernel with every number of filters, input and seed."""

    kernels: tuple[int, ...] = (6,)
    filters: tuple[int, ...] = (10,)
    poolings: tuple[str, ...] = ("both",)
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def settings(self) -> tuple[CnnSetting, ...]:
        """Its settings, each trained once a seed."""
        every = product(self.kernels, self.filters, self.poolings)
        return tuple(CnnSetting(*one) for one in every)


Precision = Literal["float32", "bfloat16"]
"""Number format of what a training step computes; weights and their sums are float32."""
PresetName = Literal["small", "as_run", "as_written", "rows"]
GRIDS: dict[PresetName, Grid] = {
    "small": Grid(),
    "as_run": Grid((6, 8), (10, 16), ("mean",), (0, 1)),
    "as_written": Grid((6, 8), (10, 16), POOLED, (0,)),
    "rows": Grid(),
}
"""The grid of each preset that a study may have, unless its settings name another.

arXiv 2508.02573 writes eight settings: two kernels, two numbers of filters, mean and maximum over
heads. Its code builds every network without the name of the pooling, so that all take the mean, and
sets no seed of torch: what ran are four settings, each trained twice.
"""

PRESETS: dict[str, TrainingPreset] = {
    "as_run": TrainingPreset(
        name="as_run",
        batch_size=16,
        learning_rate=1e-3,
        weight_decay=0.1,
        dropout=0.5,
        epochs=3,
        min_steps=0,
        schedule="constant",
        warmup=0.0,
        scaling="raw",
        clamp=0.0,
        scores_every_epoch=True,
    ),
    "small": TrainingPreset(
        name="small",
        batch_size=8,
        learning_rate=2e-3,
        weight_decay=0.1,
        dropout=0.2,
        epochs=6,
        min_steps=800,
        schedule="cosine",
        warmup=0.1,
        scaling="sqrt_standardized",
        clamp=8.0,
        scores_every_epoch=False,
    ),
}
PRESETS["as_written"] = replace(PRESETS["as_run"], name="as_written")
PRESETS["rows"] = replace(PRESETS["small"], name="rows", scaling="rows")
PRESETS["brief"] = replace(PRESETS["small"], name="brief", epochs=1, min_steps=200)
"""`as_run`, `as_written`: the paper's training, for either of its grids. `small`: for studies with
hundreds of sequences a class. `brief`: a quarter of its steps, with which a search tells hopeless
taxonomies apart; no study trains with it.

`small` was chosen on a third of the demo's training sequences held back (3 classes, 674 maps,
3 seeds; `experiments/choose_preset/run.py`): loss .58 on the others and .77 there. Raw: .79 and
.81; a constant rate: .73 and .95, accuracy varying by .13 between seeds; dropout .5: .78 and .84.
More training fits the training maps only: batches of 16, 12 epochs: .34 and .88; 24: .17 and 1.05.
"""
