"""How far the two modes of the patterns agree: `mnemoscope features … --compare-patterns`."""

from collections.abc import Iterable
from typing import NamedTuple

from mnemoscope.progress import track
from mnemoscope.sequences.patterns import Pattern, find_pattern

__all__ = ["ModeAgreement", "compare_modes", "describe_agreement"]


class ModeAgreement(NamedTuple):
    """Texts for which the modes say yes, of one feature."""

    both: int
    only_published: int
    only_strict: int


def compare_modes(texts: Iterable[str | None]) -> dict[str, ModeAgreement]:
    """Ask both modes of every text.

    What counts on under the strict rules does so under the published ones, so only texts that
    the latter call incrementing are asked twice.

    Args:
        texts: any number; nulls are passed over.

    Returns:
        `ModeAgreement` of ``is_incrementing`` and ``is_repeating``.
    """
    counts = {name: [0, 0, 0] for name in Pattern._fields}
    with track("both pattern modes", unit="texts") as progress:
        for text in texts:
            progress.advance()
            if text is None:
                continue
            published = find_pattern(text, "published")
            strict = find_pattern(text, "strict") if published.is_incrementing else published
            for name, first, second in zip(Pattern._fields, published, strict, strict=True):
                if first or second:
                    counts[name][0 if first and second else 1 if first else 2] += 1
    return {name: ModeAgreement(*found) for name, found in counts.items()}


def describe_agreement(agreement: dict[str, ModeAgreement]) -> list[str]:
    """One line a feature."""
    return [
        f"{name}, published and strict rules: both {one.both:,}, only published "
        f"{one.only_published:,}, only strict {one.only_strict:,}."
        for name, one in agreement.items()
    ]
