"""The extra that a search needs: optuna, asked for before anything heavy is loaded."""

import importlib.util
from typing import Any

from mnemoscope.errors import UserError


def check_optuna() -> None:
    """Refuse where optuna is not installed, without importing it.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            "search: needs optuna, which is not installed. pip install 'mnemoscope[search]'."
        )


def load_optuna() -> Any:
    """Import optuna, which proposes.

    Raises:
        UserError: it is not installed.
    """
    check_optuna()
    import optuna

    return optuna
