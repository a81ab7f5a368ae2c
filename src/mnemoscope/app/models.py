"""The models that a visitor may choose: the embedded one, the study's, or a folder on this machine.

No name is looked up anywhere else: the app asks nothing of the network.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

from mnemoscope.config import EMBEDDED
from mnemoscope.embedded import model_path, reference_path
from mnemoscope.errors import UserError
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.lm.loading import load_model

__all__ = ["FOLDER", "OF_STUDY", "Models", "choices"]

OF_STUDY = "study"
FOLDER = "folder"
_MOST_LOADED = 3


def choices(study_model: str | None) -> list[tuple[str, str]]:
    """What the page offers, as (shown, value).

    Args:
        study_model: what the study calls its model, None without a study.
    """
    offered = [("Embedded model", EMBEDDED), ("A folder on this machine", FOLDER)]
    if study_model is None:
        return offered
    if study_model == EMBEDDED:
        return [("Embedded model, the study's", EMBEDDED), offered[-1]]
    return [(f"The study's: {study_model}", OF_STUDY), *offered]


class Models:
    """Loaded models, the last few kept; used by one job at a time.

    Args:
        study_model: the study's record of its model (`name`, `dtype`), None without a study.
        device: where to load them.
    """

    def __init__(self, study_model: dict[str, Any] | None = None, device: str = "auto") -> None:
        self._study_model = study_model
        self._device = device
        self._loaded: OrderedDict[tuple[str, str], LanguageModel] = OrderedDict()

    def named(self, choice: str, folder: str | None = None) -> str:
        """Name of a chosen model: `embedded` or a folder that is there.

        Raises:
            UserError: no such choice, or no such folder.
        """
        if choice == OF_STUDY and self._study_model is not None:
            return self.checked(str(self._study_model["name"]))
        if choice == FOLDER:
            if not (folder or "").strip():
                raise UserError("Type the folder of the model.")
            return self.checked(str(folder).strip())
        if choice == EMBEDDED:
            return EMBEDDED
        raise UserError("Choose a model.")

    def checked(self, name: str) -> str:
        """The name again, where it is the embedded model or a folder (or file) on this machine.

        Raises:
            UserError: it is not.
        """
        if name != EMBEDDED and "\0" not in name and not Path(name).expanduser().exists():
            raise UserError(f"{name}: no such folder on this machine; nothing is fetched here.")
        return name if name == EMBEDDED else str(Path(name).expanduser())

    def load(self, name: str, dtype: str = "float32") -> LanguageModel:
        """The model of a name from `named`."""
        return self._load(str(model_path()) if name == EMBEDDED else name, dtype)

    def reference(self, name: str) -> LanguageModel | None:
        """What cannot have seen the documents: of the embedded model its own, else None."""
        return self._load(str(reference_path()), "float32") if name == EMBEDDED else None

    def _load(self, path: str, dtype: str) -> LanguageModel:
        key = (path, dtype)
        if key not in self._loaded:
            self._loaded[key] = load_model(path, dtype=dtype, device=self._device)
        self._loaded.move_to_end(key)
        while len(self._loaded) > _MOST_LOADED:
            self._loaded.popitem(last=False)
        return self._loaded[key]
