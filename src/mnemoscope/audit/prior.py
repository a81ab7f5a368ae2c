"""Does a text come out whatever stands before it? Its probability under other prefixes.

Prior-aware memorization (arXiv 2602.18733): a suffix that is as likely after prefixes of other
documents says little about having been learned with its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from mnemoscope.audit.evidence import gather_evidence
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.tokens import Tokens
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["Prior", "compare_prefixes", "find_priors", "other_prefixes"]

_FROM_OTHERS, _FROM_SAME = "other documents", "other places of the document"


class Prior(NamedTuple):
    """The prior of one window.

    Attributes:
        gain: log-probability of the suffix after its own prefix minus that of the average of the
            others, in nats; near 0: it comes out whatever stands before it.
        n_reproduced: other prefixes after which the model writes the whole suffix.
        n_prefixes: how many others there were.
        source: where they come from, in words.
    """

    gain: float
    n_reproduced: int
    n_prefixes: int
    source: str


def find_priors(
    lm: LanguageModel,
    windows: npt.NDArray[np.int32],
    own_logprobs: npt.NDArray[np.float64],
    others: Sequence[tuple[npt.NDArray[np.int32], str]],
    settings: AuditSettings,
) -> list[Prior | None]:
    """Compare each suffix after its own prefix with the same after others.

    Args:
        lm: the model.
        windows: token ids, shape (n, length).
        own_logprobs: log-probability of the suffix after its own prefix, shape (n,).
        others: other prefixes (k, prefix) of each window, k may be 0, and where they come from.
        settings: prefix and batch size.

    Returns:
        One prior a window, None where there was no other prefix.
    """
    pieces = [
        np.hstack([prefixes, np.tile(window[settings.prefix :], (len(prefixes), 1))])
        for window, (prefixes, _) in zip(windows, others, strict=True)
    ]
    rows = np.concatenate(pieces) if pieces else np.empty((0, settings.length), np.int32)
    if not len(rows):
        return [None] * len(windows)
    found = gather_evidence(lm, rows, settings)
    sums = found.logprobs.sum(axis=1)
    is_whole = np.asarray(found.is_right.all(axis=1))
    ends = np.cumsum([len(piece) for piece in pieces])
    return [
        compare_prefixes(
            own, sums[end - len(prefixes) : end], is_whole[end - len(prefixes) : end], source
        )
        for own, end, (prefixes, source) in zip(own_logprobs, ends, others, strict=True)
    ]


def other_prefixes(
    documents: Sequence[Tokens], place: tuple[int, int], settings: AuditSettings
) -> tuple[npt.NDArray[np.int32], str]:
    """Draw prefixes of other documents; where there is none, of distant places of this one.

    Args:
        documents: tokens of every document.
        place: number of the document and first token of the window.
        settings: prefix, `n_prefixes` and seed: the same place gets the same prefixes.

    Returns:
        Token ids, shape (k, prefix), k at most `n_prefixes`, and where they come from.
    """
    number, first = place
    generator = np.random.default_rng([settings.seed, number, first])
    starts = np.array(
        [max(len(tokens.ids) - settings.prefix + 1, 0) for tokens in documents], dtype=np.int64
    )
    starts[number] = 0
    if starts.sum():
        source, ends = _FROM_OTHERS, np.cumsum(starts)
        drawn = generator.integers(0, ends[-1], settings.n_prefixes)
        owners = np.searchsorted(ends, drawn, side="right")
        places = [
            (int(o), int(d - ends[o] + starts[o])) for o, d in zip(owners, drawn, strict=True)
        ]
    else:
        source = _FROM_SAME
        n = len(documents[number].ids) - settings.prefix + 1
        before, after = max(first - settings.prefix + 1, 0), first + settings.length
        far = np.concatenate([np.arange(before), np.arange(after, max(n, after))])
        drawn = generator.choice(far, settings.n_prefixes) if len(far) else far
        places = [(number, int(one)) for one in drawn]
    rows = [documents[owner].ids[start : start + settings.prefix] for owner, start in places]
    return np.array(rows, dtype=np.int32).reshape(-1, settings.prefix), source


def compare_prefixes(
    own: float, others: npt.NDArray[np.float64], is_whole: npt.NDArray[np.bool_], source: str
) -> Prior | None:
    """The prior of one window.

    Args:
        own: log-probability of the suffix after its own prefix.
        others: the same after k others, shape (k,).
        is_whole: after which of them the model writes the whole suffix, shape (k,).
        source: where they come from, in words.

    Returns:
        None where there was no other prefix.
    """
    if not len(others):
        return None
    average = float(logsumexp(others)) - float(np.log(len(others)))
    return Prior(float(own) - average, int(is_whole.sum()), len(others), source)
