"""What a visitor asks for, done: an audit of a document, and the maps of a passage."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mnemoscope.app.browse import BrowsedStudy
from mnemoscope.app.models import Models
from mnemoscope.app.pictures import ClassDelta, SequenceMaps
from mnemoscope.app.result import Result
from mnemoscope.audit.cnn_ground import CnnGround
from mnemoscope.audit.run import audit_documents
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.texts import Reading
from mnemoscope.config import EMBEDDED
from mnemoscope.errors import UserError
from mnemoscope.lm.capture import capture_pooled
from mnemoscope.lm.chat import in_chat
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.parquet import read_parquet
from mnemoscope.report.examples import decode_pieces
from mnemoscope.stages.audit_study import check_study, read_ground
from mnemoscope.stages.models import facts_of
from mnemoscope.taxonomy.catalogue import PAPER

__all__ = ["audit_work", "delta_for", "passage_maps"]


def audit_work(
    models: Models, browsed: BrowsedStudy | None, reading: Reading, name: str
) -> Callable[[], Result]:
    """The audit of a visitor's document, to be run by a desk; nothing of it stays on disk.

    Args:
        models: loads the model.
        browsed: the study that the app shows; its CNNs are asked where it is of this model.
        reading: from `limits.read_visit`.
        name: of the model, from `Models.named`.
    """

    def work() -> Result:
        settings = AuditSettings()
        lm = models.load(name)
        cnn = None if browsed is None else _ground(browsed, lm, settings)
        with tempfile.TemporaryDirectory(prefix="mnemoscope-app-") as folder:
            out = Path(folder)
            record = audit_documents(
                lm,
                reading,
                out,
                settings=settings,
                reference=models.reference(name),
                cnn=cnn,
                names={"model": name, "reference": EMBEDDED if name == EMBEDDED else ""},
            )
            frame = read_parquet(out / "spans.parquet")
        return Result.of(record, frame, {one.name: one.text for one in reading.documents})

    return work


def _ground(browsed: BrowsedStudy, lm: LanguageModel, settings: AuditSettings) -> CnnGround:
    """The study's CNNs, or why they give no probability."""
    try:
        return read_ground(check_study(browsed.study.folder, facts_of(lm, lm.name), settings))
    except UserError as error:
        facts: dict[str, Any] = {
            "study": str(browsed.study.folder),
            "taxonomy": None,
            "sequences": {},
        }
        return CnnGround(facts | {"reason": str(error).split(" Give ")[0].rstrip(".")})


def passage_maps(models: Models, result: Result, number: Any) -> SequenceMaps:
    """Capture the attention with which the audited model reads a passage's window.

    Args:
        models: loads the model.
        result: the audit.
        number: of the passage.

    Raises:
        UserError: no such passage, or the audited model is not on this machine any more.
    """
    row, record = result.row(number), result.record
    if record.get("api"):
        raise UserError("the model was asked behind an API, which does not show its attention.")
    lm = models.load(models.checked(result.model), str(record["model"]["dtype"]))
    if lm.fingerprint != record["model"]["fingerprint"]:
        raise UserError(f"{result.model}: other weights than those that were audited.")
    settings = AuditSettings(**record["settings"])
    if settings.chat_template:
        lm = in_chat(lm, settings.instruction)
    tokens = list(row["window_tokens"])
    maps = next(capture_pooled(lm, np.array([tokens], dtype=np.int64), batch_size=1))
    pieces = decode_pieces(
        lambda ids: str(lm.tokenizer.decode(ids, clean_up_tokenization_spaces=False)), tokens
    )
    return SequenceMaps(maps.mean[0].numpy(), maps.max[0].numpy(), pieces)


def delta_for(
    browsed: BrowsedStudy | None, result: Result, number: Any
) -> tuple[ClassDelta | None, str]:
    """Δ of the study for a passage's verdict, or why there is none.

    Args:
        browsed: the study that the app shows, None without one.
        result: the audit.
        number: of the passage.
    """
    if browsed is None:
        return None, "Start the app with a study of this model to see Δ over them."
    if browsed.model["fingerprint"] != result.record["model"]["fingerprint"]:
        return None, "The study is of another model, so its Δ is not shown."
    if PAPER not in browsed.taxonomies:
        return None, f"The study has no taxonomy '{PAPER}', so there is no Δ to show."
    wanted = str(result.row(number)["verdict"])
    for one in browsed.deltas(PAPER):
        if one.name.lower() == wanted:
            return one, ""
    return None, f"The study has no Δ of {wanted}."
