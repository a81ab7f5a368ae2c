"""The table of sequences: its schema, readers, duplicate counts and features."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemoscope.sequences.code import classify_code
    from mnemoscope.sequences.columns import COLUMNS
    from mnemoscope.sequences.duplicates import count_duplicates
    from mnemoscope.sequences.features import add_features
    from mnemoscope.sequences.patterns import Pattern, find_pattern
    from mnemoscope.sequences.readers import ReadResult, read_corpus, read_sequences
    from mnemoscope.sequences.rouge import rouge_3, rouge_l
    from mnemoscope.sequences.schema import (
        SCHEMA_VERSION,
        check_sequences,
        read_table,
        token_matrix,
        write_table,
    )
    from mnemoscope.sequences.windows import Window, cut_windows

__all__ = [
    "COLUMNS",
    "SCHEMA_VERSION",
    "Pattern",
    "ReadResult",
    "Window",
    "add_features",
    "check_sequences",
    "classify_code",
    "count_duplicates",
    "cut_windows",
    "find_pattern",
    "read_corpus",
    "read_sequences",
    "read_table",
    "rouge_3",
    "rouge_l",
    "token_matrix",
    "write_table",
]

_HOMES = {
    "COLUMNS": "columns",
    "SCHEMA_VERSION": "schema",
    "Pattern": "patterns",
    "ReadResult": "readers",
    "Window": "windows",
    "add_features": "features",
    "check_sequences": "schema",
    "classify_code": "code",
    "count_duplicates": "duplicates",
    "cut_windows": "windows",
    "find_pattern": "patterns",
    "read_corpus": "readers",
    "read_sequences": "readers",
    "read_table": "schema",
    "rouge_3": "rouge",
    "rouge_l": "rouge",
    "token_matrix": "schema",
    "write_table": "schema",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
