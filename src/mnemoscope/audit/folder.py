"""The folder of an audit: may it be written, and does the wanted audit stand in it already?

Answers without torch and without a model, so that a refusal or a repeat takes about a second.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from mnemoscope.audit.chain import SCHEMA_VERSION, file_sha256, model_files
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.texts import Reading
from mnemoscope.errors import UserError

__all__ = [
    "AskedModel",
    "check_is_audit",
    "finished_audit",
    "other_audit",
    "prepare_folder",
    "standing_audit",
]


class AskedModel(NamedTuple):
    """A model as it was asked for, before it is loaded.

    Attributes:
        place: its folder or file, or a hub name as a path that is not there.
        revision: of the hub, or None.
        dtype: as asked, ``auto`` included.
    """

    place: Path
    revision: str | None
    dtype: str


def prepare_folder(out: Path) -> None:
    """Make the audit's folder, or say why it cannot be.

    Args:
        out: the folder.

    Raises:
        UserError: a file is in the way, or there is no permission.
    """
    if (out / "study.yaml").exists():
        raise UserError(f"{out}: a study stands here. Choose another folder with -o.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out}: a file is in the way. Choose another folder with -o.") from None
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}). Choose another.") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"{out}: no permission to write here. Choose another place with -o.")
    for name in ("texts", "parts", "study"):
        if (out / name).is_symlink():
            raise UserError(f"{out / name}: a link that leaves the output folder. Remove it.")


def check_is_audit(out: Path) -> None:
    """Refuse a folder without an audit.

    Args:
        out: the folder.

    Raises:
        UserError: no `audit.json` in it.
    """
    if not (out / "audit.json").is_file():
        raise UserError(f"{out}: no audit in it (audit.json). Make one with 'mnemoscope audit'.")


def standing_audit(
    out: Path,
    reading: Reading,
    settings: AuditSettings,
    model: AskedModel,
    reference: AskedModel | None,
    *,
    redo: bool,
) -> dict[str, Any] | None:
    """The audit that stands in a folder, where its files alone show that it is the wanted one.

    The files of a model decide its weights, so their SHA-256 stand for the fingerprint, which
    only the loaded model has. Where they do not decide (a hub name, an adapter, dtype `auto`, a
    tokenizer in other files, a chat template), loading must.

    Args:
        out: the audit's folder.
        reading: the documents.
        settings: of the audit.
        model: the audited model.
        reference: the reference model, or None.
        redo: another audit may be written over.

    Returns:
        What `audit.json` holds; None where nothing stands there or the model must be loaded.

    Raises:
        UserError: an audit of other documents or settings, or with another kind of reference.
    """
    try:
        record = json.loads((out / "audit.json").read_text(encoding="utf-8"))
        is_whole = record["spans_sha256"] == file_sha256(out / "spans.parquet")
        was = [
            record["schema_version"],
            record["settings"],
            [[one["document"], one["sha256"]] for one in record["documents"]],
            [record["reference"] is None, record["cnn"] is None, "api" in record],
        ]
        loaded = [record["model"], *([record["reference"]] if record["reference"] else [])]
        facts = [(one["dtype"], one["files"]) for one in loaded]
    except (OSError, UserError, ValueError, KeyError, TypeError):
        return None
    wanted = [
        SCHEMA_VERSION,
        json.loads(json.dumps(settings.model_dump())),
        [[one.name, one.sha256] for one in reading.documents],
        [reference is None, True, False],
    ]
    if was != wanted:
        if redo:
            return None
        raise other_audit(out)
    if settings.chat_template or not is_whole or not (out / "audit.html").is_file():
        return None
    asked = [model, *([reference] if reference else [])]
    is_same = all(_is_same(one, *fact) for one, fact in zip(asked, facts, strict=True))
    return dict(record) if is_same else None


def _is_same(asked: AskedModel, dtype: str, files: dict[str, str]) -> bool:
    """Whether the files show that this is the model of which dtype and files were recorded."""
    has_all = "tokenizer.json" in files or any(name.endswith(".gguf") for name in files)
    if asked.revision is not None or asked.dtype != dtype or not has_all:
        return False
    return "adapter_config.json" not in files and model_files(asked.place) == files


def finished_audit(out: Path, key: str, *, redo: bool) -> dict[str, Any] | None:
    """The audit that is already there, if it is this one; another one is not written over.

    Args:
        out: the audit's folder.
        key: hash of everything that decides what this audit says.
        redo: take away another one.

    Raises:
        UserError: another one is there.
    """
    path = out / "audit.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        is_this = record["key"] == key and record["spans_sha256"] == file_sha256(
            out / "spans.parquet"
        )
    except (OSError, ValueError, KeyError, TypeError):
        record, is_this = {}, False
    if is_this and (out / "audit.html").is_file():
        return dict(record)
    if not redo:
        raise other_audit(out)
    path.unlink()
    return None


def other_audit(out: Path) -> UserError:
    """What to say of a folder with another audit in it.

    Args:
        out: the audit's folder.
    """
    return UserError(
        f"{out}: holds an audit of other documents, settings or another model. Choose another "
        "folder with -o, or --redo to write over it."
    )
