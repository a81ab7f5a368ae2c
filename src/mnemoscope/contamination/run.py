"""Ask, judge, and write `items.parquet`, `items.html`, `items.sarif` and, last, `items.json`."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from mnemoscope.audits.library import LocalChoice, chosen, kept_clean
from mnemoscope.audits.page import environment
from mnemoscope.audits.settings import EndpointSettings
from mnemoscope.contamination.found import ITEMS, PAGE, SARIF, TABLE, Items, shares_said
from mnemoscope.contamination.judge import (
    COPIED,
    GUESSABLE,
    NOT_PRODUCED,
    RECALLED,
    UNDECIDED,
    VERDICTS,
    judged,
    left_together,
    originals,
    scores_of,
    shares_of,
)
from mnemoscope.contamination.order import orders_of
from mnemoscope.contamination.table import Item, digest_of, read_items
from mnemoscope.data.rows import lines_of
from mnemoscope.errors import UserError
from mnemoscope.files import json_bytes, made_folder
from mnemoscope.progress import progress_shown
from mnemoscope.report.style import fill
from mnemoscope.study.models import check_unlike
from mnemoscope.version import __version__
from mnemoscope.words import plural

if TYPE_CHECKING:
    from mnemoscope.contamination.ask import AskedModel

_PARTS = "parts"
_SHOWN = 200  # items of a kind that the page shows in full
MEANINGS = {
    RECALLED: "the answer comes out, and no control gives it",
    GUESSABLE: "it comes out, and a control without this memory gives it too",
    COPIED: "it comes out, and stands in the prompt",
    UNDECIDED: "it comes out, and a guess would too often, or no control could tell",
    NOT_PRODUCED: "the model writes something else",
}


def items(
    model: Any,
    table: Any,
    out: str | Path | None = None,
    *,
    reference: Any = None,
    tokenizer: Any = None,
    edits: int = 0,
    chance: float = 0.01,
    chat_template: bool = False,
    columns: Mapping[str, str] | None = None,
    batch_size: int = 64,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    redo: bool = False,
    progress: bool | None = None,
) -> Items:
    """Say of each item of a benchmark whether a model's hit is memory, or could be guessed.

    Args:
        model: a folder, a hub name, a `.gguf` file, ``"embedded"`` or a loaded model, as in `scan`;
            or `EndpointSettings` of an OpenAI-compatible API.
        table: items with `prompt` and `answer`, and where there are such `id`, `group` (items that
            are not independent), `choices` (a list) and `variant_of` (the id of the item that this
            one is another form of): a file, a frame or a data set of the hub.
        out: a folder for table, page, SARIF and `items.json`, where a stopped run goes on.
        reference: the twin, a model alike that never saw the items: named or loaded.
        tokenizer: of a loaded model, where its name does not tell.
        edits: words by which an answer may differ and still count; never all of them.
        chance: a hit that a guess would make with more than this cannot be told from memory.
        chat_template: put each prompt as a user's question, in the tokenizer's template.
        columns: of the table, by their paths.
        batch_size: prompts at once.
        revision: of a hub name.
        dtype: of the weights, where the model is named.
        device: where a named model runs.
        trust_remote_code: run Python code that comes with a named model.
        redo: write over other items in the folder.
        progress: whether to show how far it is; None: in a notebook.

    Returns:
        `Items`: the table, shares with intervals by group, and scores with and without the recalled
        items.

    Raises:
        UserError: no such model or table, a table without prompt and answer, or other items in the
            folder.
    """
    if edits < 0 or not 0 < chance < 1:
        raise UserError("edits must be 0 or more, and chance between 0 and 1.")
    read, lines = read_items(table, columns), lines_of(table)
    where = str(table) if isinstance(table, str | Path) else None
    folder = None if out is None else Path(out)
    with ExitStack() as stack:
        stack.enter_context(progress_shown(progress))
        stack.enter_context(kept_clean(folder))
        named = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
        is_served = isinstance(model, EndpointSettings)
        own, other = chosen(
            stack, "" if is_served else model, reference, tokenizer, revision, named
        )
        for one in (other,) if is_served else (other, own):
            if one is not None:
                one.check()
        if is_served:
            asked = _served(model, folder)
        else:
            asked = _local(own, batch_size, as_chat=chat_template)
        twin = _local(other, batch_size, as_chat=asked.is_chat) if other else None
        if other is not None and twin is not None:
            ours, theirs = asked.record, twin.record
            check_unlike(other.name, theirs["fingerprint"], ours["name"], ours["fingerprint"])
        place = where, lines if len(lines) == len(read) else [None] * len(read)
        settings = {"edits": edits, "chance": chance}
        return _made(read, place, asked, twin, settings, folder, redo=redo)


def _local(choice: LocalChoice, batch_size: int, *, as_chat: bool) -> "AskedModel":
    from mnemoscope.audits.sampling import is_chat_model
    from mnemoscope.contamination.ask import LocalModel

    lm = choice.load()
    if choice.role == "reference":  # a base model is asked as it stands
        as_chat = as_chat and is_chat_model(lm)
    record = {"name": choice.name, "revision": lm.revision, "dtype": lm.dtype}
    record |= {"fingerprint": lm.fingerprint}
    return LocalModel(lm, record=record, batch_size=batch_size, as_chat=as_chat)


def _served(service: EndpointSettings, folder: Path | None) -> "AskedModel":
    from mnemoscope.audits.client import AnswerStore, Client
    from mnemoscope.contamination.ask import ServedModel

    kept = None if folder is None else AnswerStore(folder / "answers.jsonl")
    return ServedModel(Client(service, kept))


def _made(
    read: Sequence[Item],
    place: tuple[str | None, Sequence[int | None]],
    model: "AskedModel",
    twin: "AskedModel | None",
    settings: Mapping[str, Any],
    folder: Path | None,
    *,
    redo: bool,
) -> Items:
    from mnemoscope.contamination.ask import Answers, answers_of

    where, lines = place
    identities = model.identity, twin and twin.identity
    key = ITEMS.key(digest_of(read), place, *identities, settings)
    store = None if folder is None else ITEMS.store(folder)
    if store is not None and (done := store.already_made("items", key, "items", redo=redo)):
        return ITEMS.load(store, done)
    kept = None if folder is None else made_folder(folder / _PARTS / key[:16])
    answers = Answers(
        answers_of(model, read, "Asking the model", kept, with_prior=True),
        None if twin is None else answers_of(twin, read, "Asking the twin", kept, with_prior=False),
    )
    table = judged(read, answers, **settings)
    table = table.with_columns(line=pl.Series(lines, dtype=pl.Int64))
    orders = orders_of(originals(table))
    record: Mapping[str, Any] = {
        **ITEMS.head("tokenizers"),
        "table": where,
        "model": model.record,
        "reference": None if twin is None else twin.record,
        "settings": settings,
        "items": originals(table).height,
        "variants": int(table["variant_of"].is_not_null().sum()),
        "shares": {name: one._asdict() for name, one in shares_of(table).items()},
        "scores": {name: one._asdict() for name, one in scores_of(table).items()},
        "sentence": sentence_of(table),
        "together": together_of(table) if twin is not None else None,
        "orders": None if orders is None else orders.record,
    }
    found = Items(table, record, folder)
    if store is not None:
        written = {PAGE: page_of(found).encode(), SARIF: json_bytes(ITEMS.sarif(found))}
        store.put("items", {TABLE: table, **written}, key=key, **record)
        shutil.rmtree(store.folder / _PARTS, ignore_errors=True)
    return found


def sentence_of(table: pl.DataFrame) -> str:
    """What was found, in a sentence."""
    own = originals(table)
    n_right, counts = int(own["is_produced"].sum()), own["verdict"].value_counts()
    found = dict(counts.iter_rows())
    parts = [f"{found[one]} {one}" for one in VERDICTS[:-1] if found.get(one)]
    said = f": {', '.join(parts)}" if parts else ""
    return f"{n_right} of {plural(own.height, 'item')} answered{said}."


def together_of(table: pl.DataFrame) -> str | None:
    """What hits that cannot be told one by one say together, beside what a guess would make."""
    hits, expected = left_together(table)
    if not hits:
        return None
    are = "hits that cannot" if hits > 1 else "hit that cannot"
    return f"{hits} {are} be told one by one; a guess would make about {expected:.1f} of these."


def page_of(found: Items) -> str:
    """The page of a finished run: shares, scores, and each recalled item with its evidence."""
    own, record, recalled = originals(found.table), found.record, found.recalled
    rest = own.filter(pl.col("verdict").is_in(VERDICTS[1:4]))
    return fill(
        environment("mnemoscope.contamination").get_template("items.html.j2"),
        record=record,
        version=__version__,
        meanings=MEANINGS,
        shares=shares_said(found.shares),
        scores=found.scores,
        counts=dict(own["verdict"].value_counts().iter_rows()),
        recalled=recalled.head(_SHOWN).rows(named=True),
        n_recalled=recalled.height,
        rest=rest.head(_SHOWN).rows(named=True),
        n_rest=rest.height,
    )
