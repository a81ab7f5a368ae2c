"""Audit documents: which passages a model repeats, guessed or recalled, with the evidence."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemoscope.audit.run import audit_documents
    from mnemoscope.audit.settings import AuditSettings
    from mnemoscope.audit.texts import read_documents
    from mnemoscope.audit.verify import verify_audit

__all__ = ["AuditSettings", "audit_documents", "read_documents", "verify_audit"]

_HOMES = {
    "AuditSettings": "settings",
    "audit_documents": "run",
    "read_documents": "texts",
    "verify_audit": "verify",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
