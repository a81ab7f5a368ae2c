"""Where work runs: in processes of this machine, or on the workers of a Ray cluster."""

from mnemoscope.engine.current import current_engine, run_tasks, use_engine
from mnemoscope.engine.protocol import Engine, Workers

__all__ = ["Engine", "Workers", "current_engine", "run_tasks", "use_engine"]
