"""Build a tiny random model of any causal-LM family and compare its captured maps with its own.

The oracle is transformers' `output_attentions` from the family's eager code, pooled here.
"""

import warnings
from typing import NamedTuple

import torch
from tiny_families import build_with, own_attention, random_tokens, settings_to_try

from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.intervene import cut_attention
from mnemoscope.lm.model import LanguageModel, last_logits, wrap_model


class Finding(NamedTuple):
    """What capture does with one family, and knockout where capture is exact."""

    family: str
    route: str  # `interface`, `hooks`, or `-` where none was tried
    verdict: str  # `exact`, `differs`, `refused` or `not built`
    knockout: str = "-"
    note: str = ""  # the refusal, the difference, or why no tiny model of it can be built


def largest_difference(lm: LanguageModel, n: int = 3) -> float:
    """Between captured maps and the pooled oracle, over mean and max; nan where shapes differ.

    Captured twice: the first forward is whole, the second ends with the last layer's attention.
    """
    tokens = random_tokens(n)
    batches = [next(capture_pooled(lm, tokens, batch_size=n)) for _ in range(2)]
    weights = own_attention(lm, tokens).float()
    mean, largest = weights.mean(dim=2), weights.amax(dim=2)
    if any(batch.mean.shape != largest.shape for batch in batches):
        return float("nan")
    found = [(batch.mean - mean).abs().max() for batch in batches]
    found += [(batch.max - largest).abs().max() for batch in batches]
    return float(max(found))


def knockout_verdict(lm: LanguageModel) -> tuple[str, str]:
    """Cut nothing, then a third of the edges: `exact`, `differs` or `refused`, and the refusal."""
    length = 64
    ids = torch.from_numpy(random_tokens(3, length)).long()
    edges = torch.rand(lm.n_layers, length, length, generator=torch.Generator().manual_seed(0))
    some = (edges > 2 / 3).tril(diagonal=-1)
    if lm.model._can_set_attn_implementation():
        lm.model.set_attn_implementation("eager")
    logits = []
    with torch.no_grad():
        logits.append(last_logits(lm, ids, length))
        try:
            for cut in (torch.zeros_like(some), some):
                with cut_attention(lm, cut):
                    logits.append(last_logits(lm, ids, length))
        except UserError as error:
            return "refused", _first_words(error, lm.name)
    plain, with_nothing, without_some = logits
    is_exact = torch.equal(plain, with_nothing) and not torch.equal(plain, without_some)
    return "exact" if is_exact else "differs", ""


def examine(family: str) -> Finding:
    """Build, capture, compare; with other settings where these do not fit the family."""
    finding = Finding(family, "-", "not built")
    for settings in settings_to_try(family):
        tried = _examine(family, settings)
        if tried.verdict != "not built":
            return tried
        finding = finding if finding.note else tried
    return finding


def _examine(family: str, settings: dict) -> Finding:
    route, knockout, why = "-", "-", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lm = wrap_model(build_with(family, settings), name=family)
            route = lm.attention_route
            difference = largest_difference(lm)
            if difference == 0.0:
                knockout, why = knockout_verdict(lm)
    except UserError as error:
        return Finding(family, route, "refused", note=_first_words(error, family))
    except Exception as error:
        return Finding(family, "-", "not built", note=_first_words(error))
    if difference != 0.0:
        return Finding(family, route, "differs", note=str(difference))
    return Finding(family, route, "exact", knockout, why)


def _first_words(error: Exception, name: str = "") -> str:
    """The first sentence of an error, on one line of a Markdown table."""
    text = " ".join(str(error).split()).removeprefix(f"{name}: ").replace("|", "/")
    return (text.split(". ")[0] or type(error).__name__)[:140]
