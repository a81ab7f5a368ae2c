"""What a stage would take, and the counts that decide it: types that all stages' costs share."""

import platform
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mnemoscope.study.settings import StudySettings
from mnemoscope.words import size

ASSUMED_FLOPS = {"cuda": 1e14, "mps": 5e12, "cpu": 1e11}
"""Operations per second of a forward pass: cuda is a third of what an A100's data sheet gives for
half precision (312e12); mps is a laptop's GPU; cpu is a few cores."""
LANGUAGE_MODEL, CNN = "language model", "CNNs"


class ModelShape(NamedTuple):
    """What a model's cost depends on; `source` says where it was found."""

    n_layers: int
    n_heads: int
    hidden: int
    vocabulary: int
    n_parameters: int
    source: str

    def __str__(self) -> str:
        shown = f"{self.n_layers} layers, {self.n_heads} heads, {self.n_parameters:,} parameters"
        return f"{shown} ({self.source})"


class Need(NamedTuple):
    """What the samples of all taxonomies need together."""

    n_least: int  # distinct maps at least, if every class is large enough to be drawn in full
    n_maps: int  # distinct maps at most; equal to `n_least` if they are counted
    n_texts: int  # distinct sequences among them, at most
    n_own: int  # those of Non-Memo sequences with their own continuation, at most
    how: str  # this was found, in words
    samples: list[tuple[str, int]]  # that are trained: taxonomy and number of classes
    impossible: dict[str, str]  # samples that cannot be trained, with the reason
    drawn: Sequence[tuple[int, int, str]] = ()  # where counted: train, test of a class, in words


@dataclass(frozen=True)
class Counts:
    """What decides the cost of a study beside its settings; counts are 0 if unknown.

    `n_controlled` samples get controls. `n_jobs` and `n_unshared` are the taxonomies, and the
    sequences that they need if each captures its own, as the published pipeline does. Shapes are
    None if unknown; `speed` is seconds per token, None if not measured.
    """

    need: Need
    n_sequences: int = 0
    n_memorized: int = 0
    n_controlled: int = 0
    n_jobs: int = 0
    n_unshared: int = 0
    shape: ModelShape | None = None
    reference: ModelShape | None = None
    speed: float | None = None


class Row(NamedTuple):
    """A cost, its amount for this study, and for the published pipeline."""

    name: str
    amount: str
    published: str = "none"


@dataclass
class Cost:
    """What one stage would take, by a study's settings and counts.

    Attributes:
        rows: its table, without times.
        seconds: by `LANGUAGE_MODEL` and `CNN`, of controls apart (`control_of`).
        published: the same of the published pipeline.
        notes: how its figures were computed, in sentences.
        published_notes: the same of the published pipeline's.
        n_tokens: tokens that go through the language model.
        n_cnns: CNNs for the figures.
        stored: bytes on disk, at least and at most.
        memory: bytes on the device.
    """

    settings: StudySettings
    counts: Counts
    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    published: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    notes: list[str] = field(default_factory=list)
    published_notes: list[str] = field(default_factory=list)
    n_tokens: int = 0
    n_cnns: int = 0
    stored: tuple[int, int] = (0, 0)
    memory: int = 0

    def add_passes(
        self,
        name: str,
        n_sequences: int,
        n_tokens: int,
        *,
        steps: int = 1,
        is_control: bool = False,
        shape: ModelShape | None = None,
        published: str = "none",
    ) -> None:
        """Add the forward passes of some sequences, `n_tokens` each over all `steps`; none of 0.

        They go through the model unless another `shape` is given.
        """
        if not (n_sequences and n_tokens):
            return
        need, control = self.counts.need, " (control)" if is_control else ""
        at_most = "" if steps > 1 or need.n_least == need.n_maps else "at most "
        amount = f"{at_most}{n_sequences:,}{f' × {steps}' if steps > 1 else ''}"
        self.rows.append(Row(f"forward passes: {name}{control}", amount, published))
        self.n_tokens += n_sequences * n_tokens
        if (shape := shape or self.counts.shape) is not None:
            kind = control_of(LANGUAGE_MODEL) if is_control else LANGUAGE_MODEL
            # Decoding step by step takes twice the time of one pass over as many tokens.
            tokens = n_sequences * n_tokens * (2 if steps > 1 else 1)
            self.seconds[kind] += tokens * self.seconds_a_token(shape)

    def seconds_a_token(self, shape: ModelShape) -> float:
        """Measured, else 2 × parameters / assumed operations per second."""
        if self.counts.speed is not None:
            return self.counts.speed
        return 2 * shape.n_parameters / ASSUMED_FLOPS[device_kind(self.settings.model.device)]


def control_of(kind: str) -> str:
    """The name of what controls take of a kind of time."""
    return f"controls, {kind}"


def device_kind(device: str) -> str:
    """Kind of device: cpu, cuda or mps; `auto` looks for a GPU's tools, without torch."""
    asked = device.split(":")[0]
    if asked != "auto":
        return asked if asked in ASSUMED_FLOPS else "cpu"
    if shutil.which("nvidia-smi"):
        return "cuda"
    is_mac = platform.system() == "Darwin" and platform.machine() == "arm64"
    return "mps" if is_mac else "cpu"


def megabytes(n_bytes: float) -> str:
    """Bytes in MB, GB or TB."""
    return size(n_bytes, least="MB", whole_below=0)


def bounds(low: str, high: str) -> str:
    """Two bounds, or one amount if they are equal."""
    return high if low == high else f"{low} to {high}"
