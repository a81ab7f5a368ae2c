"""Gather the evidence of all spans: the audited model, other prefixes, reference model, CNNs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mnemoscope.audit.cnn_ground import CnnGround, recall_probabilities
from mnemoscope.audit.continuing import continue_windows
from mnemoscope.audit.evidence import Evidence, alone_logprobs, gather_evidence, tries_needed
from mnemoscope.audit.prior import find_priors, other_prefixes
from mnemoscope.audit.records import SpanEvidence
from mnemoscope.audit.scan import cut
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.spans import Span
from mnemoscope.audit.tokens import Tokens, token_texts
from mnemoscope.errors import UserError
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.progress import track

__all__ = ["ask_about", "check_same_tokens"]

_SPANS_AT_ONCE = 256  # bounds the memory that other prefixes take


def ask_about(
    lm: LanguageModel,
    documents: Sequence[Tokens],
    spans: Sequence[tuple[int, Span]],
    *,
    settings: AuditSettings,
    reference: LanguageModel | None = None,
    cnn: CnnGround | None = None,
) -> list[SpanEvidence]:
    """Ask the models about the window of each span.

    Args:
        lm: the audited model.
        documents: tokens of every document.
        spans: number of the document and the span.
        settings: of the audit.
        reference: a model of the same tokenizer, or None.
        cnn: the CNNs of a study of the audited model, or None.

    Returns:
        One piece of evidence a span.
    """
    found: list[SpanEvidence] = []
    with track("Gathering evidence", total=len(spans), unit="spans") as progress:
        for start in range(0, len(spans), _SPANS_AT_ONCE):
            chunk = spans[start : start + _SPANS_AT_ONCE]
            found += _ask(lm, documents, chunk, settings, reference, cnn)
            progress.advance(len(chunk))
    return found


def check_same_tokens(lm: LanguageModel, reference: LanguageModel) -> None:
    """Refuse a reference whose token ids mean something else.

    Args:
        lm: the audited model.
        reference: the model to stand beside it.

    Raises:
        UserError: another vocabulary.
    """
    if lm.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise UserError(
            f"{reference.name}: another tokenizer than {lm.name}'s, so the same ids would be "
            "another text. Choose a reference model of the same family."
        )


def _ask(
    lm: LanguageModel,
    documents: Sequence[Tokens],
    spans: Sequence[tuple[int, Span]],
    settings: AuditSettings,
    reference: LanguageModel | None,
    cnn: CnnGround | None,
) -> list[SpanEvidence]:
    places = [(number, span.hit.first) for number, span in spans]
    windows = cut(documents, places, settings.length)
    asked = gather_evidence(lm, windows, settings)
    suffixes = windows[:, settings.prefix :]
    alone = alone_logprobs(lm, suffixes, batch_size=settings.batch_size)
    others = [other_prefixes(documents, place, settings) for place in places]
    priors = find_priors(lm, windows, asked.logprobs.sum(axis=1), others, settings)
    scores, logprobs = _ask_reference(reference, windows, settings)
    probabilities = recall_probabilities(cnn, lm, windows, batch_size=settings.batch_size)
    return [
        SpanEvidence(
            window=windows[row].tolist(),
            suffix_pieces=token_texts(lm.tokenizer, suffixes[row]),
            continuation_pieces=token_texts(lm.tokenizer, span.hit.continuation),
            logprobs=asked.logprobs[row].tolist(),
            sampling_logprob=float(asked.sampling_logprob[row]),
            tries=tries_needed(float(asked.sampling_logprob[row]), settings.probability),
            alternatives=_alternatives(lm.tokenizer, asked, row),
            alone_logprobs=alone[row].tolist(),
            prior=priors[row],
            reference_score=None if scores is None else float(scores[row]),
            reference_logprobs=None if logprobs is None else logprobs[row].tolist(),
            probability=probabilities[row],
        )
        for row, (_, span) in enumerate(spans)
    ]


def _ask_reference(
    reference: LanguageModel | None, windows: npt.NDArray[np.int32], settings: AuditSettings
) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]:
    """Share of matching tokens, decoded to the end, and log-probabilities."""
    if reference is None:
        return None, None
    batches = continue_windows(
        reference,
        windows,
        prefix=settings.prefix,
        n_allowed=settings.suffix,
        batch_size=settings.batch_size,
    )
    scores = np.concatenate([batch.score for batch in batches])
    return scores, gather_evidence(reference, windows, settings).logprobs


def _alternatives(tokenizer: Any, asked: Evidence, row: int) -> list[list[dict[str, Any]]]:
    """The likeliest tokens at each place of one suffix, as text."""
    ids, values = asked.alternatives[row], asked.alternative_logprobs[row]
    texts = iter(token_texts(tokenizer, ids))
    return [[{"text": next(texts), "logprob": float(one)} for one in place] for place in values]
