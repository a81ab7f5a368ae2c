"""A model that runs here, as an audit asks it; `service` is the same for one behind an API.

Windows are continued greedily, and left as soon as they cannot become a hit.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from mnemoscope.audits.asking import (
    Auditing,
    ModelFacts,
    ModelRecord,
    Prompt,
    TokenScores,
    Until,
    Written,
)
from mnemoscope.audits.documents import Document
from mnemoscope.audits.questions import OrdinarySettings, Where
from mnemoscope.audits.sampling import draw_answers, is_chat_model, score_rows
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.tokens import NOTHING, ModelTokens, cut_texts
from mnemoscope.errors import UserError
from mnemoscope.files import file_sha256
from mnemoscope.lm.continue_ import right_tokens, run_lengths
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
from mnemoscope.progress import SILENT, Progress
from mnemoscope.study.models import facts_of

if TYPE_CHECKING:  # what makes studies takes a second to import, and most audits ask none
    from mnemoscope.audits.ground import CnnGround

_ASKED_WHOLE = 8  # windows right up to here, few of most texts, are asked whether they are whole
_MODEL_FILES = ("*.safetensors", "*.json", "*.gguf", "*.model")
_T = TypeVar("_T")


class LocalModel:
    """A model that runs here; `name` is what it was called where that is not its path.

    Raises UserError: no tokenizer, too few positions, or no chat template where one is wanted.
    """

    lm: LanguageModel
    settings: AuditSettings

    kind: Where = "here"

    def __init__(self, lm: LanguageModel, settings: AuditSettings, *, name: str = "") -> None:
        if settings.chat_template:
            lm = in_chat(lm, settings.instruction)
        if lm.tokenizer is None:
            raise UserError(f"{lm.name}: has no tokenizer. Save it with the model.")
        check_fits(lm, settings.length)
        self.lm, self.settings, self._name = lm, settings, name or lm.name
        self.splitter: ModelTokens = ModelTokens(lm.tokenizer, lm.bos_id)
        self.is_chat: bool = is_chat_model(lm)

    def facts(self) -> ModelFacts:
        """What it is; the fingerprint is over weights and configuration as loaded."""
        lm = self.lm
        record = facts_of(lm, self._name) | {"files": model_files(Path(lm.name))}
        identity = {"model": [lm.fingerprint, lm.dtype, lm.bos_id]}
        return ModelFacts(identity, cast(ModelRecord, record))

    def continue_(
        self,
        prompts: Sequence[Prompt] | Sequence[str],
        *,
        until: Until = "end",
        progress: Progress = SILENT,
    ) -> list[Written]:
        """Write on after prompts, as far as the model's positions reach; as `AskedModel`.

        Up to the first wrong token the text is given, and what would be written is compared.
        """
        texts = [one for one in prompts if isinstance(one, str)]
        if texts:
            assert isinstance(self.settings, OrdinarySettings)
            drawn = draw_answers(self.lm, texts, self.settings, progress)
            return [Written([], pieces=[one]) for one in drawn]
        places = [one for one in prompts if isinstance(one, Prompt)]
        ask = self._follow if until == "wrong" else self._decode
        n_allowed = self.settings.n_allowed if until == "miss" else None
        return _by_group(
            places, self._reach, lambda some, reach: ask(some, reach, n_allowed, progress)
        )

    def logprobs(self, rows: npt.NDArray[np.int32]) -> TokenScores:
        """How likely it finds the suffix of each row, from one teacher-forced forward."""
        return score_rows(self.lm, rows, self.settings)

    def _reach(self, prompt: Prompt) -> int:
        """Tokens of prefix and continuation that the model has positions for."""
        n, lm = prompt.end - prompt.first, self.lm
        if lm.max_positions is None:
            return n
        return min(n, max(lm.max_positions - len(lm.before), self.settings.length))

    def _decode(
        self, prompts: Sequence[Prompt], reach: int, n_allowed: int | None, progress: Progress
    ) -> list[Written]:
        """Decode greedily; with `n_allowed` each is left once it has more wrong tokens."""
        prefix, found = self.settings.prefix, list[Written]()
        for batch in continue_windows(
            self.lm,
            _rows(prompts, reach),
            prefix=prefix,
            n_allowed=reach - prefix if n_allowed is None else n_allowed,
            batch_size=self.settings.batch_size,
        ):
            scores = [None if np.isnan(one) else float(one) for one in batch.score]
            columns = batch.tokens.tolist(), batch.common.tolist(), scores
            found += (Written(*one) for one in zip(*columns, strict=True))
            progress.advance(len(scores))
        return found

    def _follow(
        self, prompts: Sequence[Prompt], reach: int, _: int | None, progress: Progress
    ) -> list[Written]:
        """How far each text is what the model would write: one forward, and no step a token."""
        prefix, rows = self.settings.prefix, _rows(prompts, reach)
        right = right_tokens(self.lm, rows, batch_size=self.settings.batch_size, prefix=prefix)
        progress.advance(len(prompts))
        n = reach - prefix
        return [
            Written(row[prefix:][:common].tolist() + [NOTHING] * (n - common), int(common))
            for row, common in zip(rows, run_lengths(right).tolist(), strict=True)
        ]


def local_audit(
    lm: LanguageModel,
    documents: Sequence[Document],
    settings: AuditSettings,
    *,
    reference: LanguageModel | None = None,
    cnn: "CnnGround | None" = None,
    names: Sequence[str] = ("", ""),
) -> Auditing:
    """An audit of a model that runs here; `names` are what model and reference were called.

    `reference` should never have seen the documents, which only the caller knows; `cnn` are CNNs of
    a study of the audited model. Raises UserError: as `LocalModel` and `tokens.tokenize`.
    """
    model = LocalModel(lm, settings, name=names[0])
    plain = settings.model_copy(update={"chat_template": False})  # it is asked as it stands
    other = None if reference is None else LocalModel(reference, plain, name=names[1])
    return Auditing(model, cut_texts(model.splitter, documents), settings, other, cnn)


def _rows(prompts: Sequence[Prompt], reach: int) -> npt.NDArray[np.int32]:
    """Token ids (n, reach) of prefixes and what the texts have behind them, 0 beyond their ends."""
    rows = np.zeros((len(prompts), reach), dtype=np.int32)
    for row, one in zip(rows, prompts, strict=True):
        own = one.tokens.ids[one.first : one.first + reach]
        row[: len(own)] = own
    return rows


def _by_group(
    prompts: Sequence[Prompt],
    reach: Callable[[Prompt], int],
    ask: Callable[[list[Prompt], int], list[_T]],
) -> list[_T]:
    """Ask prompts of equal reach together, the shortest first; answers in the prompts' order."""
    order = sorted(range(len(prompts)), key=lambda one: reach(prompts[one]))
    found: dict[int, _T] = {}
    for n, group in groupby(order, key=lambda one: reach(prompts[one])):
        members = list(group)
        found |= zip(members, ask([prompts[one] for one in members], n), strict=True)
    return [found[one] for one in range(len(prompts))]


def model_files(place: Path) -> dict[str, str]:
    """SHA-256 of each file of a local model (a folder or one file), by name; else empty."""
    if place.is_file():
        return {place.name: file_sha256(place)}
    found = sorted({path for pattern in _MODEL_FILES for path in place.glob(pattern)})
    return {path.name: file_sha256(path) for path in found if path.is_file()}


class Continued(NamedTuple):
    """Continued windows: what the model wrote, (n, suffix) int32, else `NOTHING`.

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
    chosen = torch.full_like(wanted, NOTHING)
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
    score = np.where(written[:, -1] == NOTHING, np.nan, is_right.mean(axis=1))
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
