"""Where work runs: in processes of this machine."""

from mnemoscope.engine.local import run_tasks

__all__ = ["run_tasks"]
