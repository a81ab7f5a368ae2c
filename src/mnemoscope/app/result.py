"""An audit as a page shows it: shares, the documents with their passages, the card of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from mnemoscope.audit import page
from mnemoscope.audit.texts import read_documents
from mnemoscope.audit.verify import read_audit
from mnemoscope.errors import MnemoscopeError, UserError

__all__ = ["Result", "open_audit", "render", "render_card", "render_result"]

_WHOLE_UP_TO = 200_000  # characters of all documents together that are shown in full


@dataclass(frozen=True)
class Result:
    """An audit that has been made or opened.

    Attributes:
        record: what `audit.json` holds.
        rows: the table of spans as dictionaries, each with its `number` from 1.
        texts: every document's text by its name; None where it is not there any more.
        model: name by which the audited model can be loaded again.
    """

    record: Mapping[str, Any]
    rows: list[dict[str, Any]] = field(repr=False)
    texts: Mapping[str, str | None] = field(repr=False)
    model: str

    @classmethod
    def of(
        cls, record: Mapping[str, Any], frame: pl.DataFrame, texts: Mapping[str, str | None]
    ) -> "Result":
        """Number the rows of a table of spans."""
        rows = [{"number": n, **row} for n, row in enumerate(frame.iter_rows(named=True), 1)]
        return cls(record, rows, texts, str(record["model"]["name"]))

    def row(self, number: Any) -> dict[str, Any]:
        """The span of a number that came from a page.

        Raises:
            UserError: there is no such span.
        """
        if type(number) is not int or not 1 <= number <= len(self.rows):
            raise UserError("no such passage.")
        return self.rows[number - 1]


def open_audit(folder: Path) -> Result:
    """Open the folder of an audit; a document that was changed since is not shown.

    Args:
        folder: as `mnemoscope audit` left it.

    Raises:
        UserError: no audit there.
        DamagedDataError: a file that cannot be read.
    """
    record, frame = read_audit(folder)
    return Result.of(
        record, frame, {row["document"]: _text(folder, record, row) for row in record["documents"]}
    )


def _text(folder: Path, record: Mapping[str, Any], row: Mapping[str, Any]) -> str | None:
    """A document's text, None where it is not the one that was audited."""
    name = row["document"]
    kept = row.get("text_file")
    if kept is not None:
        path = (folder / kept).resolve()
        source, inside = str(path), path.is_relative_to(folder.resolve())
        if not inside:
            return None
    else:
        source = name if Path(name).exists() else name.rpartition("#")[0]
    encoding = "utf-8" if kept is not None else record.get("encoding", "utf-8")
    try:
        reading = read_documents([source], encoding=encoding)
    except MnemoscopeError:
        return None
    return next((one.text for one in reading.documents if one.sha256 == row["sha256"]), None)


def render_result(result: Result) -> str:
    """Render the shares and the documents; a passage carries its number in `data-pick`."""
    texts = [text for text in result.texts.values() if text is not None]
    is_whole = sum(map(len, texts)) <= _WHOLE_UP_TO
    documents = []
    for summary in result.record["documents"]:
        own = [row for row in result.rows if row["document"] == summary["document"]]
        text = result.texts.get(summary["document"])
        pieces = None if text is None else list(page.stretches(text, own, is_whole=is_whole))
        documents.append({**summary, "pieces": pieces, "rows": own})
    return render("result.html.j2", record=result.record, documents=documents)


def render_card(result: Result, number: Any) -> str:
    """Render the evidence of one passage.

    Raises:
        UserError: there is no such passage.
    """
    return render("evidence.html.j2", record=result.record, row=result.row(number))


def render(template: str, **values: Any) -> str:
    """Fill one of our templates; every text is escaped."""
    html = _environment().get_template(template).render(**values)
    return html.encode("utf-8", "replace").decode("utf-8")


@cache
def _environment() -> jinja2.Environment:
    """Our templates, then those of an audit."""
    ours, theirs = jinja2.PackageLoader("mnemoscope.app"), jinja2.PackageLoader("mnemoscope.audit")
    return page.environment().overlay(loader=jinja2.ChoiceLoader([ours, theirs]))
