"""What a reader of attention shows beyond readers that cannot have any memory.

Those are readers of the text, and of the attention of a model that never saw these windows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import polars as pl

from mnemoscope.benchmark.excess import measure_excess, why_no_interval
from mnemoscope.benchmark.gain import measure_gain
from mnemoscope.benchmark.sources import TABLE
from mnemoscope.benchmark.verdict import BenchmarkFigures, give_verdict
from mnemoscope.errors import UserError
from mnemoscope.library.given import whole_number
from mnemoscope.library.reader import Reader
from mnemoscope.stats import Estimate
from mnemoscope.words import nats

_SOURCES = {
    ("attention", "cnn"): ("model", "reference"),
    ("attention", "regression"): ("statistics", "reference_statistics"),
    ("text", "cnn"): ("blind", "blind"),
    ("text", "regression"): ("blind_statistics", "blind_statistics"),
    ("text", "ngrams"): ("ngram", "ngram"),
}
"""What a reader is called in `benchmark.sources`: of the model, of the reference."""
_RESAMPLES = 1000


class InNats(Estimate):
    """A figure in nats, with its interval."""

    def __str__(self) -> str:
        """Print it: `0.025 nats [−0.006, 0.055]`."""
        if self.value is None or self.value != self.value:
            return super().__str__()
        ends = ", ".join(nats(one) for one in (self.low, self.high) if one is not None)
        return f"{nats(self.value)} nats" + (f" [{ends}]" if ends else "")


@dataclass(frozen=True, repr=False)
class Excess:
    """What attention shows beyond readers that need no memory.

    Attributes:
        value: min-F1 of the model's reader minus the largest control's, with its 95 % interval over
            groups of windows and trainings, paired; fractions.
        over: the name of that control.
        gain: what the model's attention adds to text and reference, nats a window, with its 95 %
            interval; None without a reference. The verdict rests on it.
        kind: ``adds``, ``unclear``, ``nothing`` or ``cannot``.
        verdict: in a sentence.
        min_f1: of each reader, by its name.
    """

    value: Estimate
    over: str
    gain: InNats | None
    kind: str
    verdict: str
    min_f1: dict[str, Estimate]

    def __repr__(self) -> str:
        return f"Excess({self.value} over {self.over}: {self.verdict})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(str(one))}</td></tr>"
            for name, one in self.min_f1.items()
        )
        return (
            f"<b>{escape(self.verdict[:1].upper() + self.verdict[1:])}</b>"
            f"<table><tr><th>reader</th><th>min-F1</th></tr>{rows}</table>"
            f"Excess over {escape(self.over)}: {escape(str(self.value))}"
        )


def excess(
    readers: Mapping[str, Reader], *, seed: int = 0, n_resamples: int = _RESAMPLES
) -> Excess:
    """Hold a reader of the model's attention beside readers that cannot have any memory.

    Args:
        readers: ``"model"`` is what is asked. ``"reference"`` is a reader of the attention of a
            model that never saw these windows; all others read the text alone (`fit_blind`), under
            any name. All were fitted with the same windows, split and seeds.
        seed: of the bootstrap.
        n_resamples: of the bootstrap.

    Returns:
        An `Excess`. Without a reference there is no verdict: what looks like memory may be text
        that the blind readers do not see.

    Raises:
        UserError: no reader ``"model"``, no control, or readers of other windows or classes.
    """
    named = _sources(readers)
    model = readers["model"]
    whole_number(seed, "seed", least=0)
    whole_number(n_resamples, "n_resamples", least=100)
    wanted = model.sample.sort("sequence_id")
    for name, one in readers.items():
        if not one.sample.sort("sequence_id").equals(wanted):
            raise UserError(
                f"readers: '{name}' was fitted on other windows, classes, groups or sides than "
                "'model'. Fit both with the same labels, groups, sizes and draw_seed."
            )
        if one.seen != model.seen:
            raise UserError(
                f"readers: '{name}' read other tokens than 'model'. Give both the same windows: "
                "ms.capture(reference, maps), ms.fit_blind(maps, labels)."
            )
        if one.kind == model.kind == "cnn" and len(one.did_train) != len(model.did_train):
            raise UserError(f"readers: '{name}' has other seeds than 'model'. Give both the same.")
    controls = {source: readers[name] for name, source in named.items() if name != "model"}
    failed = tuple(source for source, one in controls.items() if not any(one.did_train))
    ran = {source: one.votes for source, one in controls.items() if source not in failed}
    own = named["model"]
    if not ran or not any(model.did_train):
        which = "'model'" if ran else "every control"
        raise UserError(
            f"readers: {which} is not above chance on its own training windows, so its figures "
            "mean nothing. Give more windows, or another preset."
        )
    found = measure_excess(model.votes, ran, n_resamples=n_resamples, seed=seed, reader=own)
    stand_ins = [one for name, one in ran.items() if TABLE[name].needs_reference]
    text = [one for name, one in ran.items() if not TABLE[name].needs_reference]
    whole = Estimate(found.value, found.low, found.high)
    note = why_no_interval(model.votes)
    n_train = model.sample.filter(pl.col("split") == "train").height
    gain = None
    if stand_ins and note is None:
        gain = measure_gain(model.votes, stand_ins[0], text, n_trained=n_train)
    figures = BenchmarkFigures(
        model.classes,
        True,
        f1=tuple(model.scores.f1),
        gain=gain,
        excess=whole,
        n_trainings=found.n_trainings,
        controls=tuple(controls),
        failed_controls=failed,
        training_min_f1=model.training_min_f1,
        interval_note=note,
        reader="CNN" if model.kind == "cnn" else "regression",
    )
    given = give_verdict(figures)
    by_source = {source: name for name, source in named.items()}
    return Excess(
        whole,
        by_source[found.strongest],
        None if gain is None else InNats(gain.value, gain.low, gain.high),
        given.kind,
        given.sentence,
        {name: one.min_f1 for name, one in readers.items()},
    )


def _sources(readers: Mapping[str, Reader]) -> dict[str, str]:
    """What each reader is called in the benchmark's table of sources."""
    if not isinstance(readers, Mapping) or not all(
        isinstance(one, Reader) for one in readers.values()
    ):
        raise UserError("readers: give them by their names: {'model': reader, 'blind': blind}.")
    if "model" not in readers or len(readers) < 2:
        raise UserError(
            "readers: give 'model' and at least one control, 'reference' or one of ms.fit_blind."
        )
    found: dict[str, str] = {}
    for name, one in readers.items():
        if (name in ("model", "reference")) != (one.reads == "attention"):
            wanted = (
                "attention (ms.fit)" if name in ("model", "reference") else "text (ms.fit_blind)"
            )
            raise UserError(f"readers, '{name}': reads {one.reads} where {wanted} is needed.")
        source = _SOURCES[one.reads, one.kind][name == "reference"]
        if source in found.values():
            raise UserError(f"readers, '{name}': a second {one.kind} reader of {one.reads}.")
        found[name] = source
    return found
