"""Ask, judge, and write `forget.parquet`, `forget.html`, `forget.sarif`; last, `forget.json`."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from mnemoscope.audits.exports import Finding, address_of, date_and_verdict, sarif_rule
from mnemoscope.audits.gated import Kind, Recorded
from mnemoscope.audits.library import LocalChoice, chosen, kept_clean
from mnemoscope.audits.page import environment
from mnemoscope.audits.records import Sarif
from mnemoscope.audits.settings import checked
from mnemoscope.cluster.run import run_units
from mnemoscope.cluster.units import Opened, Result, UnitStore
from mnemoscope.conditions import Case, Counted, Gate, GateResult, Measures, junit_suite
from mnemoscope.errors import UserError
from mnemoscope.files import json_bytes, made_folder
from mnemoscope.forgetting.judge import (
    AS_IT_IS,
    BITS,
    brought_back,
    column,
    depth_of,
    judged,
    sentences_of,
    verdicts_of,
)
from mnemoscope.forgetting.texts import (
    FORGET,
    NEIGHBOUR,
    RECALL,
    RETAIN,
    ROLE_FLAGS,
    UNREAD,
    UNTOUCHED,
    Settings,
    chosen_passages,
    read_passages,
)
from mnemoscope.progress import progress_shown, say
from mnemoscope.report.style import fill
from mnemoscope.stats import rows_of
from mnemoscope.store import Store
from mnemoscope.study.models import check_same_tokens, check_unlike
from mnemoscope.study.settings import split_revision
from mnemoscope.version import __version__

if TYPE_CHECKING:
    from mnemoscope.forgetting.stress import Bench, Question
    from mnemoscope.lm.model import LanguageModel

TABLE, STRESSES, DEPTH, PAGE, SARIF = (
    "forget.parquet", "stresses.parquet", "depth.parquet", "forget.html", "forget.sarif"
)  # fmt: skip
_RULE = sarif_rule(
    "HiddenPassage",
    "A passage that was to be forgotten comes back.",
    "The model after unlearning gives this passage, as it is or under a stress, and the control "
    "does not. That is evidence that the passage is hidden, not gone.",
    "Unlearn further, or train anew without the text; forget.html says what brings it back.",
)
_PARTS = "parts"  # answers, which another model after asked in this folder finds
_SHOWN = 50  # passages that the page shows in full


@dataclass(frozen=True, repr=False)
class Forgetting(Recorded):
    """A model after unlearning, beside what it was and what it should be.

    Attributes:
        rows: one row a passage that was asked: `role`, `class`, `group`, whether it is out by model
            and stress (`after_as_it_is`), its code length (`after_nats`), and `back`: by what it
            comes out where the control does not.
        stresses: one row a class and stress: `share` that comes out after, of the `control`, and
            the difference `beyond`, with intervals by group.
        depth: what each part of the model before brings back; empty where it was not asked.
        record: all that `forget.json` holds.
        folder: where it was written; None: nowhere.
    """

    rows: pl.DataFrame
    stresses: pl.DataFrame
    depth: pl.DataFrame
    record: Mapping[str, Any]
    folder: Path | None = None

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict of each class: forgotten, hidden, kept, or cannot be told."""
        return {one["name"]: one["verdict"] for one in self.record["verdicts"]}

    @property
    def recalled(self) -> pl.DataFrame:
        """The recalled passages that were to be forgotten."""
        return self.rows.filter(pl.col("class") == RECALL, role=FORGET)

    @property
    def back(self) -> pl.DataFrame:
        """Those of the recalled that come out where the control does not give them."""
        return self.recalled.filter(pl.col("back").list.len() > 0)


def forget(
    before: Any,
    after: Any,
    table: Any,
    out: str | Path | None = None,
    *,
    retrained: Any = None,
    retain: Any = None,
    neighbours: Any = None,
    unread: Any = None,
    tokenizer: Any = None,
    prefix: int = 32,
    suffix: int = 32,
    columns: Mapping[str, str] | None = None,
    margin: float = 0.05,
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    redo: bool = False,
    progress: bool | None = None,
    **settings: Any,
) -> Forgetting:
    """Say whether what a model was to forget is gone, or only hidden.

    Args:
        before: the model before unlearning: a folder, a hub name (``NAME@REVISION``), a `.gguf`
            file, ``"embedded"`` or a loaded model, as in `scan`.
        after: the model after it, likewise, with the same tokenizer.
        table: texts that are to be forgotten, as `windows` takes them, or a table with the column
            `role`: ``forget``, ``retain``, ``neighbour`` or ``unread``.
        out: a folder for tables, page and `forget.json`, where a stopped run goes on.
        retrained: the twin: a model alike, trained without these texts. The shipped model has its
            own; ``"none"`` leaves it out.
        retain: texts that both models read and nobody asked to be forgotten.
        neighbours: other passages of the same works, on which a copy is trained a few steps.
        unread: texts of the same kind that no model read; the control where there is no twin.
        tokenizer: of loaded models, where their names do not tell.
        prefix: tokens that are shown.
        suffix: tokens that must follow.
        columns: of tables, by their paths.
        margin: passages that may come out beyond the control and still count as none, as a share.
        dtype: of the weights, where a model is named.
        device: where a named model runs.
        trust_remote_code: run Python code that comes with a named model.
        redo: write over another result in the folder; answers that both need are not asked again.
        progress: whether to show how far it is; None: in a notebook.
        settings: of the stresses: `draws`, `steps`, `learning_rate`, `batch`, `strength`,
            `plausible`, `most` (passages of a class), `depth`, `seed`, `batch_size`.

    Returns:
        `Forgetting`: verdicts by class, and what comes out under each stress beside the control.

    Raises:
        UserError: no such model or texts, other tokenizers, a twin and unread texts at once, or
            nothing that the model before writes.
    """
    asked = _settings(settings, margin)
    sources = {FORGET: table, RETAIN: retain, NEIGHBOUR: neighbours, UNREAD: unread}
    folder = None if out is None else Path(out)
    with ExitStack() as stack:
        stack.enter_context(progress_shown(progress))
        stack.enter_context(kept_clean(folder))
        named = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
        lms = _loaded(
            stack, {"before": before, "after": after, "twin": retrained}, tokenizer, named
        )
        passages = read_passages(
            {role: one for role, one in sources.items() if one is not None},
            lms["before"].tokenizer,
            prefix=prefix,
            suffix=suffix,
            columns=columns,
        )
        if "twin" in lms and (passages["role"] == UNREAD).any():
            raise UserError(
                "a retrained twin and texts never read: one of them is the control. Leave out "
                f"{ROLE_FLAGS[UNREAD]}, or the twin (--retrained none)."
            )
        return _made(lms, passages, prefix, asked, margin, folder, redo=redo)


def _settings(given: Mapping[str, Any], margin: float) -> Settings:
    if not 0 < margin < 1:
        raise UserError(f"margin {margin}: give a share between 0 and 1, such as 0.05.")
    return checked(Settings, **given)


def _loaded(
    stack: ExitStack, given: Mapping[str, Any], tokenizer: Any, named: Mapping[str, Any]
) -> "dict[str, LanguageModel]":
    """The models by subject, each name checked before the first is loaded."""
    given = dict(given)
    if isinstance(given["twin"], str) and given["twin"] == "none":
        given["twin"] = None
    elif given["twin"] is None and str(given["before"]) == "embedded":
        given["twin"] = "embedded"
    choices: dict[str, LocalChoice] = {}
    for subject, one in given.items():
        if one is None:
            continue
        name, revision = split_revision(str(one)) if isinstance(one, str | Path) else (one, None)
        choice, _ = chosen(stack, name, "none", tokenizer, revision, named)
        if subject == "twin":  # "embedded" is the shipped twin here
            choice = LocalChoice(**{**vars(choice), "role": "reference"})
        choice.check()
        choices[subject] = choice
    lms = {subject: one.load() for subject, one in choices.items()}
    if lms["before"].tokenizer is None:
        raise UserError(f"{lms['before'].name}: has no tokenizer. Save it with the model.")
    for subject in lms.keys() - {"before"}:
        check_same_tokens(lms["before"], choices[subject].name, lms[subject].tokenizer)
    if "twin" in lms:
        twin, own = lms["twin"], lms["before"]
        check_unlike(choices["twin"].name, twin.fingerprint, own.name, own.fingerprint)
    return lms


def _made(
    lms: "dict[str, LanguageModel]",
    passages: pl.DataFrame,
    prefix: int,
    settings: Settings,
    margin: float,
    folder: Path | None,
    *,
    redo: bool,
) -> Forgetting:
    from mnemoscope.forgetting.stress import Bench, identity

    identities = {name: identity(lm) for name, lm in lms.items()}
    texts = passages.drop("text").write_ndjson()
    key = FORGETTING.key(identities, prefix, margin, settings.model_dump(mode="json"), texts)
    store = None if folder is None else FORGETTING.store(folder)
    if store is not None and (done := store.already_made("forget", key, "answers", redo=redo)):
        return _read(store, done)
    n = int((passages["role"] != NEIGHBOUR).sum())
    say(f"Forget: first {n:,} forward passes of the model before, to find what it writes.")
    sizes = {"most": settings.most, "seed": settings.seed, "batch_size": settings.batch_size}
    chosen_ = chosen_passages(lms["before"], passages, prefix=prefix, **sizes)
    bench = Bench(lms, chosen_, settings)
    bench.leave_out()
    questions = bench.questions()
    say(
        f"Then {sum(one.size for one in questions):,} forward passes of {prefix} + "
        f"{chosen_.tokens.shape[1] - prefix} tokens for {chosen_.table.height:,} passages, of "
        f"{', '.join(lm.name for lm in lms.values())}. A stopped run goes on."
    )
    kept = None if folder is None else UnitStore(made_folder(folder / _PARTS))
    results = list(
        run_units(
            questions,
            kept,
            Opened(lambda: bench, bench),
            label="Asking",
            noun="passes",
        )
    )
    found = _judged(_rows(chosen_.table, questions, results), bench, margin)
    rows, stresses, depth, _ = found
    result = Forgetting(rows, stresses, depth, _record(lms, found, bench, margin), folder)
    if store is not None:
        tables = {TABLE: rows, STRESSES: stresses, DEPTH: depth}
        written = {PAGE: page_of(result).encode(), SARIF: json_bytes(FORGETTING.sarif(result))}
        store.put("forget", {**tables, **written}, key=key, **result.record)
    return result


def _rows(
    table: pl.DataFrame, questions: "Sequence[Question]", results: Sequence[Result]
) -> pl.DataFrame:
    """The passages with every answer in a column of its own."""
    for question, result in zip(questions, results, strict=True):
        answers: pl.DataFrame = {**result.files, **result.values}["parquet"]  # kept, or not
        named = {one: column(question.subject, one) for one in answers.columns}
        table = table.with_columns(answers.rename(named).get_columns())
    return table


def _judged(rows: pl.DataFrame, bench: "Bench", margin: float) -> tuple[Any, ...]:
    from mnemoscope.forgetting import stress

    asked = [one for one in stress.STRESSES if one not in bench.left_out]
    stresses = judged(rows, asked, margin=margin)
    depth = pl.DataFrame()
    if stress.DEPTH not in bench.left_out:
        weights = [bench.share_of_weights(one) for one in bench.parts.values()]
        depth = depth_of(rows, list(bench.parts), weights)
    rows = rows.with_columns(brought_back(rows, stresses))
    return rows, stresses, depth, verdicts_of(stresses, margin)


def _record(
    lms: "dict[str, LanguageModel]", found: tuple[Any, ...], bench: "Bench", margin: float
) -> Mapping[str, Any]:
    _, stresses, _, verdicts = found
    models = {
        name: {"name": lm.name, "revision": lm.revision, "dtype": lm.dtype}
        | {"fingerprint": lm.fingerprint}
        for name, lm in lms.items()
    }
    return {
        **FORGETTING.head("tokenizers"),
        "models": models,
        "settings": bench.settings.model_dump(mode="json")
        | {"prefix": bench.passages.prefix, "margin": margin},
        "passages": bench.passages.counts,
        "left_out": bench.left_out,
        "verdicts": [one._asdict() for one in verdicts],
        "sentence": " ".join(sentences_of(verdicts, stresses)),
    }


def _read(store: Store, record: Mapping[str, Any]) -> Forgetting:
    rows, stresses, depth = (store.frame("forget", one) for one in (TABLE, STRESSES, DEPTH))
    return Forgetting(rows, stresses, depth, record, store.folder)


def check_gate(gate: Gate, *, has_twin: bool) -> None:
    """Refuse a condition that needs a twin where there is none."""
    if gate.kind == "hidden" and not has_twin:
        raise UserError(
            f"--fail-if '{gate.text}': which passages the stress alone brings out is not known "
            "without a twin. Add --retrained TWIN, or choose kept."
        )


def _counted(gate: Gate, found: Forgetting) -> Counted:
    """The recalled passages that were to be forgotten.

    `hidden` are those that come back by a stress, or come out as they are, where the twin does not
    give them; `kept` those that come out as they are. Refuses `hidden` without a twin.
    """
    check_gate(gate, has_twin="twin" in found.record["models"])
    own, is_kept = found.recalled, pl.col(column("after", AS_IT_IS))
    counted = own.filter(is_kept if gate.kind == "kept" else pl.col("back").list.len() > 0)
    return Counted(found.record, own, counted)


def _refuse(gate: Gate, found: Forgetting) -> None:
    if found.recalled.is_empty():
        raise UserError(f"--fail-if '{gate.text}': no recalled passage was asked.")


def _junit(found: Forgetting, results: Sequence[GateResult]) -> str:
    """Each recalled passage is a test, with what brings it back in its output."""
    cases = [
        Case(
            f"{row['sequence_id']} {row['document'] or ''}".strip(),
            output=f"{', '.join(row['back'])}\n    {row['text']!r}" if row["back"] else None,
        )
        for row in found.recalled.iter_rows(named=True)
    ]
    name = f"forget {found.record['models']['after']['name']}"
    return junit_suite(name, date_and_verdict(found.record), results, cases)


def _finding(_: Forgetting, row: Mapping[str, Any]) -> Finding:
    """A passage in its document, where it has one."""
    place: Sarif = {"logicalLocations": [{"name": f"passage {row['sequence_id']}"}]}
    if row["document"]:
        uri = address_of(row["document"])
        place["physicalLocation"] = {"artifactLocation": {"uri": uri}}
    said = f"Passage {row['sequence_id']} comes back: {', '.join(row['back'])}"
    return Finding(said, place, {"text": row["text"]})


FORGETTING = Kind(
    verb="forget",
    version=2,
    remedy="ask the models again with --redo",
    measures=Measures(
        ("hidden", "kept"),
        "passage",
        "recalled passages",
        "'hidden > 1%' or 'kept > 3 passages'",
        said={"hidden": "come back, and not of the twin", "kept": "come out as they are"},
    ),
    same=["text"],
    load=_read,
    counted=_counted,
    junit=_junit,
    rule=_RULE,
    findings=lambda found: found.back,
    finding=_finding,
    refuse=_refuse,
)


def page_of(found: Forgetting) -> str:
    """The page of a finished run: verdicts, stresses, depth, and passages that come back."""
    back = found.back
    depth = list(rows_of(found.depth)) if found.depth.height else []
    return fill(
        environment("mnemoscope.forgetting").get_template("forget.html.j2"),
        record=found.record,
        version=__version__,
        stresses=list(rows_of(found.stresses)),
        depth=depth,
        back=back.head(_SHOWN).rows(named=True),
        n_back=back.height,
        bits=BITS,
        untouched=UNTOUCHED,
    )
