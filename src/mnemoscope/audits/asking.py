"""What an audit asks of a model, and what stands at hand when a question is asked.

A model that can be asked (`AskedModel`) writes on, says how likely it finds given tokens, and says
what it is. One runs here (`local`), another behind an API (`service`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NotRequired, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from typing_extensions import TypedDict

from mnemoscope.audits.questions import Question, Where, asked_of
from mnemoscope.audits.settings import AuditSettings, Value
from mnemoscope.audits.tokens import Splitter, Text, Tokens
from mnemoscope.progress import SILENT, Progress

if TYPE_CHECKING:  # a refusal needs no torch
    from mnemoscope.audits.ground import CnnGround
    from mnemoscope.lm.model import LanguageModel

Logprob = Annotated[float, Field(lt=1e-3, allow_inf_nan=False)]
"""Natural logarithm of a probability; above 0 by rounding alone."""

Until = Literal["miss", "wrong", "end"]
"""When a model may stop: once a window cannot be a hit, at the first wrong token, or at the end."""


class Choice(TypedDict):
    """A likely token."""

    text: str
    logprob: Logprob


Choices = list[list[Choice]]
"""For each token of a suffix the likeliest tokens."""


class Prompt(NamedTuple):
    """Tokens `first` up to `begin` of a text are shown; those up to `end` are asked for.

    The text may have fewer.
    """

    text: Text
    first: int
    begin: int
    end: int

    @property
    def tokens(self) -> Tokens:
        """Tokens of the whole text."""
        return self.text.tokens

    @property
    def wanted(self) -> list[int]:
        """Ids that the text has there."""
        found: list[int] = self.tokens.ids[self.begin : self.end].tolist()
        return found

    @property
    def shown(self) -> str:
        """The text that is shown."""
        starts = self.tokens.starts
        return self.text.document.text[int(starts[self.first]) : int(starts[self.begin])]


class Written(NamedTuple):
    """What a model wrote after a prompt.

    Attributes:
        ids: one a token asked for; `tokens.NOTHING` where none was written or it has no id.
        common: right tokens before the first wrong one.
        score: share of right tokens; None where the model stopped before the end.
        pieces: text of each token; None: that of the ids.
        logprobs, choices: what a service says of a suffix that came out whole.
    """

    ids: list[int]
    common: int = 0
    score: float | None = None
    pieces: list[str] | None = None
    logprobs: list[float] | None = None
    choices: Choices | None = None


class TokenScores(NamedTuple):
    """What a model says of n given rows of tokens, of the last S of each.

    Attributes:
        logprobs: natural logarithm of each token's probability, (n, S), float64; NaN of a first
            token before which the model reads nothing.
        sampling: that of drawing all S in one try, (n,), float64; -inf: it cannot be drawn.
        is_whole: each token is the likeliest, (n,), bool.
        choices: gives the likeliest tokens at each place of a row.
    """

    logprobs: npt.NDArray[np.float64]
    sampling: npt.NDArray[np.float64]
    is_whole: npt.NDArray[np.bool_]
    choices: Callable[[int], Choices]


class BesideModel(TypedDict):
    """Of `windows` that do not overlap how many the model reproduces, and the reference.

    `is_more`: the reference repeats so much more that the two may be swapped.
    """

    windows: int
    model: int
    reference: int
    is_more: bool


class ModelRecord(TypedDict):
    """What `audit.json` holds of a model, as far as anything reads it."""

    name: str
    revision: str | None
    dtype: str | None
    fingerprint: str | None
    files: NotRequired[dict[str, str]]
    apart: NotRequired[float | None]
    beside: NotRequired[BesideModel | None]


class ApiRecord(TypedDict):
    """What `audit.json` holds of a service, as far as anything reads it."""

    endpoint: str
    settings: dict[str, Value]
    pieces: Literal["tokens", "words"]
    tokenizer: str | None
    tokenizer_revision: str | None


class ModelFacts(NamedTuple):
    """What a model is.

    Attributes:
        identity: what of it decides what an audit says.
        record: `model` or `reference` of `audit.json`.
        api: `api` of `audit.json`; None of a model that runs here.
    """

    identity: dict[str, list[Any]]
    record: ModelRecord
    api: ApiRecord | None = None


class AskedModel(Protocol):
    """A model that can be asked.

    Attributes:
        kind: where it runs, which decides what it can be asked.
        is_chat: a prompt that is a text is put as a user's question.
    """

    kind: Where
    is_chat: bool

    @property
    def splitter(self) -> Splitter:
        """It cuts texts as the model does."""

    def continue_(
        self,
        prompts: Sequence[Prompt] | Sequence[str],
        *,
        until: Until = "end",
        progress: Progress = SILENT,
    ) -> list[Written]:
        """Write on after prompts, greedily; texts are answered, as chat services draw answers.

        Raises UserError: logits that are not finite, or a service that gives no answer.
        NoRoomError: not even one prompt fits into memory.
        """

    def logprobs(self, rows: npt.NDArray[np.int32]) -> TokenScores | None:
        """How likely it finds the suffix of rows (n, length) of tokens; None: it does not say.

        Raises UserError: logits that are not finite, or a service that gives no answer.
        """

    def facts(self) -> ModelFacts:
        """What it is."""


class Answer(NamedTuple):
    """What came of a question: columns of the passages, a table, a key of `audit.json`."""

    columns: Mapping[str, Sequence[Any]] = {}
    table: pl.DataFrame | None = None
    facts: Mapping[str, Any] | None = None


@dataclass
class Auditing:
    """An audit under way.

    Attributes:
        model: the audited one.
        texts: the documents with their tokens.
        reference: a model that never saw them.
        cnn: CNNs of a study of the audited model.
        case, operator: what it is for and who makes it, as they asked for it to be written down.
        kept: a folder for finished parts; None keeps nothing.
        unread: the documents of `--unread` (`unread.unread_texts`); None: not read so far.
        steps: names of the steps that are said and counted, the first one `passages`.
        apart: how far the reference is from the model (`reference.apart`); None: not asked.
        scanned: the windows that were continued (`spans.WINDOW_COLUMNS`).
        passages: one row a passage, with what was answered so far (`passages.span_schema`).
    """

    model: AskedModel
    texts: Sequence[Text]
    settings: AuditSettings
    reference: AskedModel | None = None
    cnn: "CnnGround | None" = None
    case: str | None = None
    operator: str | None = None
    kept: Path | None = None
    unread: Sequence[Text] | None = None
    steps: Sequence[str] = ()
    apart: float | None = None
    scanned: pl.DataFrame = field(default_factory=pl.DataFrame)
    passages: pl.DataFrame = field(default_factory=pl.DataFrame)

    @property
    def lm(self) -> "LanguageModel":
        """The language model; only of one that runs here."""
        found: LanguageModel = self.model.lm  # type: ignore[attr-defined]
        return found

    @property
    def other_lm(self) -> "LanguageModel | None":
        """That of the reference."""
        found: LanguageModel | None = getattr(self.reference, "lm", None)
        return found

    @property
    def tokenizer(self) -> Any:
        """It gives the text of token ids."""
        return self.model.splitter.tokenizer

    @property
    def windows(self) -> npt.NDArray[np.int32]:
        """Token ids of the window that speaks for each passage, (n, length), int32."""
        rows = self.passages["window_tokens"].to_list()
        return np.array(rows, dtype=np.int32).reshape(len(rows), self.settings.length)

    def numbers(self) -> dict[str, int]:
        """The number of each document by its name."""
        return {text.name: number for number, text in enumerate(self.texts)}

    def asked(self) -> dict[str, Question]:
        """The questions that are asked, by their names."""
        beside = {one for one in ("reference", "cnn") if getattr(self, one) is not None}
        return asked_of(self.model.kind, self.settings, beside)
