"""What may be asked of passages and documents: one entry a question.

Flags, refusals, the key of an audit, its tables, `audit.json`, the page and docs/audit-files.md
read this table. It is light: the work is named, and imported when it is asked for.

`work` is a module with `ask(audit) -> asking.Answer`, and where there is one

- `COLUMNS`: the columns that it adds to `spans.parquet` (`asking.Column` by name);
- `TABLE`: the columns of a table of its own, NAME.parquet;
- `depends(audit)`: what outside the settings decides the answer, for the key of the audit;
- `check(audit, table)`: what of the table does not come out again, for `audit verify`;
- `show(table, texts)`: what its template is given of the table, in place of the first rows.

`template` is a file with macros: of a passage's card `main` (one of its four figures) and `notes`,
and folded `figures` and `more`; `reading` that explains them; `section` of the page, `brief` of the
report and `aside` behind its verdict. Without one, figures are shown as they are.
"""

from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

from pydantic import Field, create_model

from mnemoscope.audits.settings import AuditSettings, checked, flag_of
from mnemoscope.errors import UserError

Where = Literal["here", "api", "chat"]
"""A model that runs here, a service that completes text, a service that offers chat alone."""


class EditSettings(AuditSettings):
    """How near to the passage a text may be."""

    edits: int = Field(
        default=3,
        ge=0,
        description="Also give the chance of the passage within so many edits; 0 disables it.",
    )
    beams: int = Field(
        default=16, ge=1, le=4096, description="Most texts that are summed for --edits."
    )


class NearSettings(AuditSettings):
    """What counts as a near copy."""

    near_length: int = Field(
        default=24, ge=0, description="Fewest matching tokens of a near copy; 0 looks for none."
    )
    near_gap: int = Field(
        default=6, ge=0, description="Most tokens in a row that may differ in a near copy."
    )


class ProfileSettings(AuditSettings):
    """Whether and how the chance is asked by position."""

    profile: bool = Field(default=False, description="The chance at every position, as a map.")
    profile_prefix: Literal["window", "all"] = Field(
        default="window", description="What it reads for --profile: window (--prefix) or all."
    )


class CorpusSettings(AuditSettings):
    """Where passages are looked for."""

    corpus: str | None = Field(
        default=None,
        description="Texts or infini-gram:PLACE to search.",
    )
    corpus_dtype: str | None = Field(
        default=None,
        description="Type of token ids in a .bin or an index, else uint16.",
    )


class OrdinarySettings(AuditSettings):
    """What is asked in ordinary use, and what counts as repeated."""

    ordinary: str | None = Field(
        default=None,
        description="Prompts or 'shipped': do answers repeat?",
    )
    answer_tokens: int = Field(
        default=128, ge=1, le=65_536, description="Most tokens of an answer of --ordinary."
    )
    overlap: int = Field(
        default=16,
        ge=2,
        description="Fewest tokens in a row that count as repeated by --ordinary.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the answers of --ordinary.")


class UnreadSettings(AuditSettings):
    """Documents named as not read."""

    unread: str | None = Field(
        default=None,
        description="Texts like them, not read; asked too.",
    )


class ReadSettings(AuditSettings):
    """Whether all tokens are scored."""

    read: bool = Field(default=False, description="Was it read, though it does not come out?")


@dataclass(frozen=True)
class Question:
    """One question of an audit.

    Attributes:
        title: what it asks, for pages and help.
        work: the module that asks it.
        settings: its settings, the first of which switches it on; none: it is always asked.
        where: the kinds of model that can be asked.
        needs: what must stand beside the model: a ``reference``, or the ``cnn`` of a study.
        template: file of the page's templates; None shows the figures as they are.
    """

    title: str
    work: str
    settings: type[AuditSettings] = AuditSettings
    where: tuple[Where, ...] = ("here",)
    needs: Literal["", "reference", "cnn"] = ""
    template: str | None = None

    @property
    def fields(self) -> list[str]:
        """Names of its own settings, the one that switches it on first."""
        return [one for one in self.settings.model_fields if one not in AuditSettings.model_fields]

    def is_on(self, settings: AuditSettings) -> bool:
        """Whether the settings switch it on."""
        return not self.fields or bool(getattr(settings, self.fields[0]))

    def part(self, name: str, default: Any = None) -> Any:
        """What its module holds under a name."""
        return getattr(import_module(self.work), name, default)


_ROOM = "mnemoscope.audits"
QUESTIONS: dict[str, Question] = {
    "chance": Question(
        "how easily it comes out",
        f"{_ROOM}.chance",
        where=("here", "api", "chat"),
        template="chance.html.j2",
    ),
    "edits": Question(
        "how easily it nearly comes out", f"{_ROOM}.edits", EditSettings, template="edits.html.j2"
    ),
    "reference": Question(
        "what the reference says",
        f"{_ROOM}.reference",
        needs="reference",
        template="reference.html.j2",
    ),
    "grafts": Question(
        "whether parts of the reference break it",
        f"{_ROOM}.grafts",
        needs="reference",
        template="grafts.html.j2",
    ),
    "cnn": Question(
        "what the CNNs of a study say", f"{_ROOM}.cnn", needs="cnn", template="cnn.html.j2"
    ),
    "needs": Question("which earlier tokens it needs", f"{_ROOM}.needs", template="needs.html.j2"),
    "alone": Question(
        "what the reference itself repeats",
        f"{_ROOM}.alone",
        needs="reference",
        template="alone.html.j2",
    ),
    "profile": Question(
        "the chance by position",
        f"{_ROOM}.profile",
        ProfileSettings,
        template="profile.html.j2",
    ),
    "ordinary": Question(
        "how often ordinary use brings it out",
        f"{_ROOM}.ordinary",
        OrdinarySettings,
        where=("here", "api", "chat"),
        template="ordinary.html.j2",
    ),
    "near": Question(
        "near copies", f"{_ROOM}.near", NearSettings, ("here", "chat"), template="near.html.j2"
    ),
    "unread": Question(
        "what the rule says of documents that were not read",
        f"{_ROOM}.unread",
        UnreadSettings,
        where=("here", "api", "chat"),
        template="unread.html.j2",
    ),
    "read": Question(
        "whether it was read, though it does not come out",
        f"{_ROOM}.read",
        ReadSettings,
        template="read.html.j2",
    ),
    "origins": Question(
        "where it comes from",
        f"{_ROOM}.origins",
        CorpusSettings,
        where=("here", "api", "chat"),
        template="origins.html.j2",
    ),
}
"""The questions, in the order in which they are asked; later ones may read earlier columns."""


def audit_settings(where: Where = "here", **values: Any) -> AuditSettings:
    """Check settings of an audit and of all questions, None for the default.

    What is given is an instance of every question's settings. Raises UserError: an unknown name, a
    value out of range, or a setting that such a model, or a question that is off, would pass over.
    """
    settings = checked(settings_class(), **values)
    needs: dict[str, str] = {}
    if where != "chat" and not settings.chat_template:
        needs["instruction"] = "--chat-template" if where == "here" else "--chat"
    for question in QUESTIONS.values():
        if where not in question.where:
            needs |= dict.fromkeys(question.fields, "--chat")
        elif not question.is_on(settings):
            needs |= dict.fromkeys(question.fields[1:], flag_of(question.fields[0]))
    for name, flag in needs.items():
        if values.get(name) is not None and values[name] is not False:
            raise UserError(f"{flag_of(name)}: only with {flag}. Add that, or leave it out.")
    return settings


def asked_of(where: Where, settings: AuditSettings, beside: Container[str]) -> dict[str, Question]:
    """The questions, by name, that settings ask of a kind of model with this `beside` it."""
    return {
        name: one
        for name, one in QUESTIONS.items()
        if where in one.where and one.is_on(settings) and (not one.needs or one.needs in beside)
    }


def settings_class() -> type[AuditSettings]:
    """Settings of an audit and of all questions, as `audit.json` holds them."""
    return _joined(tuple(one.settings for one in QUESTIONS.values()))


@cache
def _joined(sections: tuple[type[AuditSettings], ...]) -> type[AuditSettings]:
    bases = tuple(dict.fromkeys(one for one in sections if one is not AuditSettings))
    return create_model("AuditSettings", __base__=(*bases, AuditSettings))
