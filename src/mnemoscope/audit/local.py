"""Audit documents with a model that runs here; `service` is the same for one behind an API.

Windows are continued greedily, and left as soon as they cannot become a hit. What was continued
is kept part by part, so that a killed audit goes on.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from transformers import DynamicCache

from mnemoscope.audit.answers import chance_within, draw_answers, is_chat_model, prompts_shown
from mnemoscope.audit.documents import Document, Reading, Tokens, token_texts, tokenize
from mnemoscope.audit.evidence import (
    AuditedModel,
    ReferenceEvidence,
    TokenScores,
    Written,
    gather_evidence,
)
from mnemoscope.audit.needs import Grafts, find_needs
from mnemoscope.audit.ordinary import read_prompts
from mnemoscope.audit.profile import profile_documents, score_rows
from mnemoscope.audit.rule import rule_windows
from mnemoscope.audit.run import (
    PARTS,
    audit,
    check_long_enough,
    model_files,
    other_audit,
    prepare_folder,
    read_audit_record,
)
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.spans import WINDOW_COLUMNS, Extension, Place, Span, cut, window_table
from mnemoscope.data.read import WindowCutter
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import made_folder
from mnemoscope.lm.continue_ import is_copied, right_tokens, run_lengths
from mnemoscope.lm.model import (
    LanguageModel,
    best_two,
    check_finite,
    check_fits,
    check_tokens,
    in_chat,
    last_logits,
    new_cache,
    prepend_bos,
    run_batches,
    with_rows,
    within_logits,
)
from mnemoscope.progress import SILENT, Progress, say, track
from mnemoscope.store import keep_table, kept_table
from mnemoscope.study.models import check_same_tokens, facts_of

if TYPE_CHECKING:  # what makes studies takes a second to import, and most audits ask none
    from mnemoscope.audit.ground import CnnGround

NOT_DECODED = -1
"""Stands in place of tokens that were not decoded."""

_ASKED_WHOLE = 4  # windows right up to here, few of most texts, are asked whether they are whole
_BATCHES_A_PART = 4
_SPANS_AT_ONCE = 256  # bounds the memory that other prefixes take


def audit_documents(
    lm: LanguageModel,
    reading: Reading,
    out: Path,
    *,
    settings: AuditSettings | None = None,
    reference: LanguageModel | None = None,
    cnn: "CnnGround | None" = None,
    command: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    redo: bool = False,
) -> dict[str, Any]:
    """Audit documents and write the audit; a run that was stopped in its folder goes on.

    `reference` should never have seen the documents, which only the caller knows; `cnn` are CNNs of
    a study of the audited model.
    `command` is recorded, as are `names`: what the models were called where that is not their path.
    `redo` writes over an audit of other documents or settings. Gives what `audit.json` holds.
    Raises UserError: another audit is in the folder, a reference of another family, a model without
    tokenizer or with too few positions, no document as long as a window.
    """
    prepare_folder(out)
    model = LocalModel(
        lm,
        reading.documents,
        settings or AuditSettings(),
        reference=reference,
        cnn=cnn,
        names=names,
    )
    return audit(model, reading, out, command=command, redo=redo)


def check_audit(
    lm: LanguageModel,
    reading: Reading,
    out: Path,
    settings: AuditSettings,
    reference: LanguageModel | None,
    *,
    redo: bool,
) -> None:
    """Refuse what `audit_documents` would refuse, before a study is made for it at length.

    Raises UserError: as there; an audit that asked no study is another one than is wanted.
    """
    plain = settings.model_copy(update={"chat_template": False})  # a study refuses a chat itself
    check_long_enough(LocalModel(lm, reading.documents, plain, reference=reference))
    if redo or not (out / "audit.json").is_file():
        return
    try:
        asked = read_audit_record(out)["cnn"]
    except (OSError, DamagedDataError, KeyError):
        asked = None
    if asked is None:
        raise other_audit(out)


class LocalModel(AuditedModel):
    """A model that runs here; arguments as `audit_documents`.

    Raises UserError: no tokenizer, too few positions, no chat template where one is wanted, or a
    reference whose token ids mean something else; with `ordinary` as `prompts_shown`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        documents: Sequence[Document],
        settings: AuditSettings,
        *,
        reference: LanguageModel | None = None,
        cnn: "CnnGround | None" = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        if settings.chat_template:
            lm = in_chat(lm, settings.instruction)
        if lm.tokenizer is None:
            raise UserError(f"{lm.name}: has no tokenizer. Save it with the model.")
        check_fits(lm, settings.length)
        if reference is not None:
            check_same_tokens(lm, reference.name, reference.tokenizer)
            check_fits(reference, settings.length)
        if settings.ordinary is not None:  # what would fail after the scan fails now
            for asked in (lm, *([] if reference is None else [reference])):
                prompts_shown(asked, read_prompts(settings.ordinary))
        self.lm, self.reference, self.cnn = lm, reference, cnn
        self.name = lm.name
        self.fingerprint: str | None = lm.fingerprint
        self.settings, self.documents, self.tokenizer = settings, documents, lm.tokenizer
        self._names = dict(names or {})
        self._kept: Path | None = None
        tokens, self._cutter = [], WindowCutter(lm.tokenizer)
        with track("Tokenizing", total=len(documents), unit="documents") as progress:
            for document in documents:
                tokens.append(self.split(document.text))
                progress.advance()
        self.tokens: Sequence[Tokens] = tokens

    def identity(self) -> dict[str, Any]:
        """What of the models decides what an audit says."""
        lm, reference = self.lm, self.reference
        facts: dict[str, Any] = {
            "model": [lm.fingerprint, lm.dtype, lm.bos_id],
            "reference": reference and [reference.fingerprint, reference.dtype, reference.bos_id],
        }
        if self.cnn is not None:
            facts["cnn"] = {name: one for name, one in self.cnn.facts.items() if name != "study"}
        return facts

    def facts(self, spans: pl.DataFrame, /) -> dict[str, Any]:
        """What is recorded of the models."""
        lm, reference = self.lm, self.reference
        beside = None
        if reference is not None:
            beside = _facts(reference, self._names.get("reference", reference.name))
            beside["grafts"], beside["no_grafts"] = None, None
            if spans.height:
                kind = "no_grafts" if isinstance(self._grafts, str) else "grafts"
                beside[kind] = getattr(self._grafts, "parts", self._grafts)
        return {
            "model": _facts(lm, self._names.get("model", lm.name)),
            "reference": beside,
            "cnn": self.cnn and self.cnn.facts,
        }

    @cached_property
    def _grafts(self) -> Grafts | str | None:
        """Parts of the reference, why none fits, or None without a reference."""
        if self.reference is None:
            return None
        try:
            return Grafts(self.lm, self.reference)
        except UserError as error:
            reason = str(error).removeprefix("graft: ")
            say(f"No part of the reference is put into the model: {reason}")
            return reason

    def resume(self, out: Path, key: str) -> None:
        """Keep what is continued in the folder of an audit, under its key."""
        self._kept = made_folder(out / PARTS / key[:16])

    def continue_at(self, places: Sequence[Place], *, around: bool) -> pl.DataFrame:
        """Continue windows part by part; a part that an earlier run finished is read."""
        size = self.settings.batch_size * _BATCHES_A_PART
        made = [pl.DataFrame(schema=WINDOW_COLUMNS)]
        label = "Asking around finds" if around else "Asking"
        with track(label, total=len(places), unit="windows") as progress:
            for start in range(0, len(places), size):
                chunk = places[start : start + size]
                name = f"{'around' if around else 'windows'}-{start // size:06d}.parquet"
                made.append(self._part(chunk, self._kept and self._kept / name, progress))
        return pl.concat(made)

    def _part(self, places: Sequence[Place], path: Path | None, progress: Progress) -> pl.DataFrame:
        if path is not None and (kept := kept_table(path, "part")) is not None:
            progress.advance(len(places))
            return kept
        windows = cut(self.tokens, places, self.settings.length)
        found = self._continued(self.lm, windows, self.settings.n_allowed, progress)
        scores = [None if np.isnan(one) else float(one) for one in found.score]
        frame = window_table(places, found.common, scores, found.tokens.tolist(), self.settings)
        if path is not None:
            keep_table(path, frame)
        return frame

    def _continued(
        self,
        lm: LanguageModel,
        windows: npt.NDArray[np.int32],
        n_allowed: int,
        progress: Progress = SILENT,
    ) -> "Continued":
        batches = []
        for batch in continue_windows(
            lm,
            windows,
            prefix=self.settings.prefix,
            n_allowed=n_allowed,
            batch_size=self.settings.batch_size,
        ):
            batches.append(batch)
            progress.advance(len(batch.score))
        return Continued(*map(np.concatenate, zip(*batches, strict=True)))

    def extend(self, places: Sequence[Place]) -> list[Extension]:
        """How far the model goes on, as far as document, `max_growth` and its positions reach."""
        settings, lm = self.settings, self.lm
        lengths = [self._reach(place) for place in places]
        found = [Extension(0, False)] * len(places)
        order = sorted(range(len(places)), key=lambda one: lengths[one])
        for length, group in groupby(order, key=lambda one: lengths[one]):
            members = list(group)
            rows = cut(self.tokens, [places[one] for one in members], length)
            right = right_tokens(lm, rows, batch_size=settings.batch_size, prefix=settings.prefix)
            for one, row, n in zip(members, rows, run_lengths(right), strict=True):
                prompt, written = row[: settings.prefix], row[settings.prefix :][:n]
                found[one] = Extension(int(n), is_copied(lm.tokenizer, prompt, written))
        return found

    def write_on(self, places: Sequence[Place], /) -> list[list[int]]:
        """What the model writes from the prefix of windows, twice as far as a window reaches."""
        settings, written = self.settings, list[list[int]]()
        n = 2 * settings.suffix
        if self.lm.max_positions is not None:
            n = min(n, self.lm.max_positions - len(self.lm.before) - settings.prefix)
        size = settings.batch_size * _BATCHES_A_PART
        with track("Looking for near copies", total=len(places), unit="windows") as progress:
            for start in range(0, len(places), size):
                prefixes = cut(self.tokens, places[start : start + size], settings.prefix)
                rows = np.hstack([prefixes, np.zeros((len(prefixes), n), dtype=np.int32)])
                written += self._continued(self.lm, rows, n).tokens.tolist()
                progress.advance(len(prefixes))
        return written

    def profile(self) -> pl.DataFrame | None:
        """The chance of every stride-th window (`profile.PROFILE_COLUMNS`); None: not wanted."""
        if not self.settings.profile:
            return None
        return profile_documents(
            self.lm, self.documents, self.tokens, self.settings, kept=self._kept
        )

    @property
    def is_chat(self) -> bool:
        """Whether a prompt is put as a user's question, in the chat template of the model."""
        return is_chat_model(self.lm)

    def answer(self, prompts: Sequence[str]) -> dict[str, list[str]]:
        """Answers of the model and of its reference."""
        found = {"model": draw_answers(self.lm, prompts, self.settings)}
        if self.reference is not None:
            found["reference"] = draw_answers(self.reference, prompts, self.settings)
        return found

    def split(self, text: str) -> Tokens:
        """Tokens of a text."""
        return tokenize(text, self._cutter)

    def _reach(self, place: Place) -> int:
        """Tokens of prefix and what may follow."""
        number, first = place
        length = self.settings.length
        reach = min(len(self.tokens[number].ids) - first, length + self.settings.max_growth)
        if self.lm.max_positions is not None:
            reach = min(reach, self.lm.max_positions - len(self.lm.before))
        return max(reach, length)

    def gather(self, spans: Sequence[tuple[int, Span]]) -> list[dict[str, Any]]:
        """The evidence of spans, some at a time."""
        found: list[dict[str, Any]] = []
        with track("Gathering evidence", total=len(spans), unit="spans") as progress:
            for start in range(0, len(spans), _SPANS_AT_ONCE):
                chunk = spans[start : start + _SPANS_AT_ONCE]
                evidence = gather_evidence(self, chunk)
                windows = np.array([one["window_tokens"] for one in evidence], dtype=np.int32)
                more = self._edits(windows), self._needs(windows), self._graft_counts(windows)
                found += [one | e | n | g for one, e, n, g in zip(evidence, *more, strict=True)]
                progress.advance(len(chunk))
        return found

    def _edits(self, windows: npt.NDArray[np.int32]) -> list[dict[str, Any]]:
        """How likely something within a few edits of each suffix is."""
        edits = self.settings.edits
        if not edits:
            return [{}] * len(windows)
        found = chance_within(self.lm, windows, self.settings)
        return [
            {"within_edits": edits, "within_logprob": float(value), "within_texts": n}
            for value, n in zip(found.logprob, found.n_texts.tolist(), strict=True)
        ]

    def _needs(self, windows: npt.NDArray[np.int32]) -> list[dict[str, Any]]:
        asked = self.settings.model_dump(include={"prefix", "batch_size", "seed"})
        return find_needs(self.lm, windows, **asked)

    def _graft_counts(self, windows: npt.NDArray[np.int32]) -> list[dict[str, Any]]:
        """With how many parts of the reference each passage comes out."""
        grafts = self._grafts
        if grafts is None or isinstance(grafts, str):
            return [{}] * len(windows)

        def reproduces() -> npt.NDArray[np.bool_]:
            n_allowed = self.settings.n_allowed
            scores = self._continued(self.lm, windows, n_allowed).score
            return scores >= 1 - n_allowed / self.settings.suffix - 1e-9  # NaN: left

        return [
            {
                "grafts": len(row),
                "grafts_survived": int(row.sum()),
                "broken_by": [part for part, ok in zip(grafts.parts, row, strict=True) if not ok],
            }
            for row in grafts.survivals(reproduces)
        ]

    def written(self, spans: Sequence[tuple[int, Span]]) -> list[Written]:
        """What the scan found that the model writes."""
        return [Written(token_texts(self.tokenizer, span.hit.continuation)) for _, span in spans]

    def score_tokens(self, rows: npt.NDArray[np.int32]) -> TokenScores:
        """Ask how likely given tokens are, of each row the suffix."""
        return score_rows(self.lm, rows, self.settings)

    def beside(self, windows: npt.NDArray[np.int32]) -> ReferenceEvidence:
        """What reference model and CNNs say."""
        batch_size = self.settings.batch_size
        says: list[float | None] = [None] * len(windows)
        if self.cnn is not None:
            from mnemoscope.audit.ground import recall_probabilities

            says = recall_probabilities(self.cnn, self.lm, windows, batch_size=batch_size)
        if self.reference is None:
            return ReferenceEvidence(None, None, says)
        scores = self._continued(self.reference, windows, self.settings.suffix).score
        return ReferenceEvidence(
            scores, score_rows(self.reference, windows, self.settings).logprobs, says
        )

    def repeats(self, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Whether the model writes the same again, and the rule says the same of it."""
        if not rows:
            return []
        settings = self.settings
        windows = np.array([row["window_tokens"] for row in rows], dtype=np.int32)
        written = self._continued(self.lm, windows, settings.suffix).tokens.tolist()
        rulings = rule_windows(
            self.tokenizer, windows, prefix=settings.prefix, patterns=settings.patterns
        )
        return [
            tokens == row["continuation_tokens"] and ruling.verdict == row["rule_says"]
            for row, tokens, ruling in zip(rows, written, rulings, strict=True)
        ]


def _facts(lm: LanguageModel, name: str) -> dict[str, Any]:
    """`fingerprint` is over weights and configuration as loaded."""
    return facts_of(lm, name) | {"files": model_files(Path(lm.name))}


class Continued(NamedTuple):
    """Continued windows: what the model wrote, (n, suffix) int32, else `NOT_DECODED`.

    `common`, (n,) int32, counts tokens of the longest common prefix of suffix and continuation;
    `score`, (n,) float64, is the share of matching tokens, NaN for a window that was left.
    """

    tokens: npt.NDArray[np.int32]
    common: npt.NDArray[np.int32]
    score: npt.NDArray[np.float64]


def continue_windows(
    lm: LanguageModel, windows: npt.ArrayLike, *, prefix: int, n_allowed: int, batch_size: int
) -> Iterator[Continued]:
    """Continue each window's prefix until it is done or cannot become a hit, batch by batch.

    `windows` are token ids, shape (n, length). A hit may have `n_allowed` wrong tokens; the
    suffix's length decodes all to the end. Batches are halved, and said so, when memory runs out.
    Raises UserError: tokens that do not fit the model (at once), non-finite logits (on the way).
    NoRoomError: not even one window fits into memory.
    """
    table = check_tokens(lm, windows, prefix=prefix)
    return run_batches(
        lm, table, batch_size, lambda batch: _continue_batch(lm, batch, prefix, n_allowed)
    )


def _continue_batch(
    lm: LanguageModel, batch: torch.Tensor, prefix: int, n_allowed: int
) -> Continued:
    wanted = batch[:, prefix:]
    chosen = torch.full_like(wanted, NOT_DECODED)
    alive = torch.arange(len(batch), device=batch.device)
    cache, fed = new_cache(lm, batch.shape[1] - 1), prepend_bos(lm, batch[:, :prefix])
    with torch.inference_mode():
        for step in range(wanted.shape[1]):
            best, gap = best_two(last_logits(lm, fed, 1, cache))
            check_finite(lm, gap)
            chosen[alive, step] = best[:, 0]
            n_wrong = (chosen[alive, : step + 1] != wanted[alive, : step + 1]).sum(dim=1)
            is_kept = n_wrong <= n_allowed
            if step + 1 == _ASKED_WHOLE < wanted.shape[1]:
                is_kept &= ~_finish_whole(lm, batch, chosen, alive, n_wrong == 0, cache)
            # Families without a cache read everything again.
            fed = best if cache is not None else torch.cat([fed, best], dim=1)
            kept = is_kept.nonzero().squeeze(1)
            if len(kept) == 0:
                break
            if len(kept) < len(alive):
                alive, fed = alive[kept], fed[kept]
                if cache is not None:
                    cache = with_rows(lm, cache, kept)
    written = chosen.cpu().numpy()
    is_right = written == wanted.cpu().numpy()
    score = np.where(written[:, -1] == NOT_DECODED, np.nan, is_right.mean(axis=1))
    common = run_lengths(is_right).astype(np.int32)
    return Continued(written.astype(np.int32), common, score)


def _finish_whole(
    lm: LanguageModel,
    batch: torch.Tensor,
    chosen: torch.Tensor,
    alive: torch.Tensor,
    is_right: torch.Tensor,
    cache: DynamicCache | None,
) -> torch.Tensor:
    """Finish, in `chosen`, the windows that the model reproduces whole; (alive,) bool: which.

    One teacher-forced forward, on top of the cache of those alive, in place of a step a token.
    """
    is_whole, n_left = torch.zeros_like(is_right), chosen.shape[1] - _ASKED_WHOLE
    for some in torch.split(is_right.nonzero().squeeze(1), within_logits(lm, n_left)):
        if len(some):
            rows, own = batch[alive[some]], None
            fed = prepend_bos(lm, rows[:, :-1])
            if cache is not None:
                fed, own = rows[:, -n_left - 1 : -1], with_rows(lm, cache, some)
            best, gap = best_two(last_logits(lm, fed, n_left, own))
            check_finite(lm, gap)
            is_whole[some] = (best == rows[:, -n_left:]).all(dim=1)
    chosen[alive[is_whole]] = batch[alive[is_whole], -chosen.shape[1] :]
    return is_whole
