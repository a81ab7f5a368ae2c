"""The web app: `mnemoscope app [STUDY|AUDIT]`, for one machine, without any outside request.

Here stands whom it listens to and what it may show: said before anything heavy is imported.
"""

from pathlib import Path

from mnemoscope.errors import UserError
from mnemoscope.study.folder import is_study

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")
FIRST_PORT = 7860


def check_host(host: str) -> None:
    """Refuse (UserError) to listen to other machines."""
    if host not in NAMES:
        raise UserError(
            f"--host {host}: the app listens to this machine alone ({HOST}); it has no accounts, "
            "and reads any model folder that is typed. From elsewhere use an SSH tunnel: "
            f"ssh -L {FIRST_PORT}:{HOST}:{FIRST_PORT} MACHINE."
        )


def check_target(target: Path | None) -> None:
    """Refuse (UserError) what is neither a study nor an audit."""
    if target is None or is_study(target) or (target / "audit.json").is_file():
        return
    if not target.exists():
        raise UserError(f"{target}: no such folder. Check the path.")
    raise UserError(f"{target}: neither a study (study.yaml) nor an audit (audit.json).")
