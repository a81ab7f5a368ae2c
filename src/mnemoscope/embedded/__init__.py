"""The shipped language model, its reference model and its sequences, and the recipe behind them.

Importing this loads nothing: the functions only say where the files stand.
"""

from importlib.resources import files
from pathlib import Path


def model_path() -> Path:
    """Folder of the embedded model: Hugging Face files, float16, with its tokenizer."""
    return _data() / "model"


def reference_path() -> Path:
    """Folder of the reference model: as the model, trained on other sequences."""
    return _data() / "reference"


def place_of(name: str, role: str = "model") -> str:
    """Where a model is: its name, and of "embedded" the folder of the shipped one in this role."""
    own = reference_path if role == "reference" else model_path
    return str(own()) if name == "embedded" else name


def sequences_path() -> Path:
    """The table of sequences with their counted duplicates (`sequences.parquet`)."""
    return _data() / "sequences.parquet"


def _data() -> Path:
    return Path(str(files(__name__))) / "data"
