"""What a program calls: `ms.audit(model, documents, out)`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from mnemoscope.lm.model import LanguageModel


@dataclass(frozen=True)
class Audit:
    """A finished audit: its folder, what `audit.json` holds, and one row a passage."""

    folder: Path
    record: dict[str, Any]
    spans: "pl.DataFrame"


def audit(
    model: str | Path,
    documents: str | Path | Sequence[str | Path] | Mapping[str, str],
    out: str | Path,
    *,
    reference: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    redo: bool = False,
    **settings: Any,
) -> Audit:
    """Find the passages of documents that a model repeats; `mnemoscope audit` does the same.

    `model` is a folder, a hub name, a `.gguf` file or ``"embedded"``. `documents` are files,
    folders, tables or data sets of the hub, or texts by their names. `out` gets `audit.html`,
    `report.html`, `spans.parquet` and `audit.json`; a stopped audit goes on there, `redo` writes
    over another one. `reference` is a model that never saw the documents; ``"embedded"`` has
    its own. Further names are settings of the audit, as the flags are called (``stride=4``).

    Raises UserError: no such model or file, a setting that is unknown or out of range, another
    audit in the folder, or no document as long as a window.
    """
    from mnemoscope.audits.documents import Reading, make_document, read_documents
    from mnemoscope.audits.local import audit_documents
    from mnemoscope.audits.settings import audit_settings
    from mnemoscope.embedded import place_of
    from mnemoscope.files import read_parquet
    from mnemoscope.lm.load import load_model

    asked, folder = audit_settings(**settings), Path(out)
    own = "embedded" if str(model) == "embedded" else None
    beside = own if reference is None else str(reference)
    if isinstance(documents, Mapping):
        texts = [make_document(*one, is_extracted=True) for one in documents.items()]
        reading = Reading(texts, [])
    else:
        sources = [documents] if isinstance(documents, str | Path) else documents
        reading = read_documents([str(one) for one in sources], leave_out=folder)

    def load(name: str, role: str, revision: str | None = None) -> "LanguageModel":
        return load_model(place_of(name, role), revision=revision, dtype=dtype, device=device)

    record = audit_documents(
        load(str(model), "model", revision),
        reading,
        folder,
        settings=asked,
        reference=None if beside is None else load(beside, "reference"),
        names={"model": str(model), "reference": beside or ""},
        redo=redo,
    )
    return Audit(folder, record, read_parquet(folder / "spans.parquet"))
