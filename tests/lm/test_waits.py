"""How often a batch waits for the device: for its results, all at once, and for nothing else."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest

from copy_counts import DEVICE, Counted
from mnemoscope.lm.attention import HeadPool, capture_pooled
from mnemoscope.lm.continue_ import (
    capture_and_scan,
    continue_guided,
    continue_sequences,
    draw_continuations,
    scan_memorized,
)
from mnemoscope.lm.probe import next_token_entropy, next_tokens, teacher_forced, token_chances

PREFIX = 8


def _continued(lm, tokens):
    return continue_sequences(lm, tokens, batch_size=4, prefix=PREFIX)


def _scanned(lm, tokens):
    return scan_memorized(lm, tokens, batch_size=4, prefix=PREFIX)


def _drawn(lm, tokens):
    uniforms = np.random.default_rng(0).random((len(tokens), 5))
    return draw_continuations(lm, tokens[:, :PREFIX], uniforms, batch_size=4)


def _guided(lm, tokens):
    return continue_guided(lm, lm, tokens, strength=1.0, plausible=0.1, batch_size=4, prefix=PREFIX)


def _captured(lm, tokens):
    return capture_pooled(lm, tokens, batch_size=4)


def _both(lm, tokens):
    return capture_and_scan(lm, tokens, batch_size=4, prefix=PREFIX)


def _teacher_forced(lm, tokens):
    return teacher_forced(lm, tokens, batch_size=4, prefix=PREFIX)


def _of_logits(of: Callable) -> Callable:
    def asked(lm, tokens):
        return of(lm, tokens, batch_size=4)

    return asked


def _none(*_):
    return None


# What is asked, and how many results of a batch are brought together.
ASKED = [
    (_continued, 3),
    (_scanned, 2),
    (_drawn, 3),
    (_guided, 2),
    (_captured, 3),
    (_both, 5),
    (_teacher_forced, 2),
    (_of_logits(next_tokens), 2),
    (_of_logits(token_chances), 3),
    (_of_logits(next_token_entropy), 1),
]


@pytest.mark.parametrize(("ask", "n_results"), ASKED)
def test_a_batch_brings_its_results_and_waits_for_nothing_else(
    build, tokens, monkeypatch, ask, n_results
):
    # transformers looks for packed sequences before a forward without a cache begins.
    monkeypatch.setattr(
        "transformers.masking_utils.find_packed_sequence_indices", _none, raising=False
    )
    monkeypatch.setattr(HeadPool, "_check", _none)  # what comes back is ones
    lm = build("gpt_neox")
    lm = replace(lm, model=lm.model.to(DEVICE), device=str(DEVICE))
    found = {}
    for n in (8, 24):
        with Counted() as counted:
            asked = ask(lm, tokens(n))
            if isinstance(asked, Iterable):
                list(asked)
        found[n] = counted.n
    # A scan asks after each of its three steps how many sequences go on.
    for kind, n_wanted in (("to", 1), ("from", n_results), ("wait", 3 if ask is _scanned else 0)):
        assert (found[24][kind] - found[8][kind]) / 4 == n_wanted, kind
