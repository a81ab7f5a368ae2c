"""Names of devices and dtypes, refused without loading torch."""

from mnemoscope.errors import UserError, nearest

__all__ = ["DTYPES", "check_device_name", "check_dtype_name"]

DTYPES = ("auto", "float32", "float16", "bfloat16")
_DEVICES = ("auto", "cpu", "cuda", "cuda:0", "mps")


def check_dtype_name(name: str) -> None:
    """Refuse a dtype that is none of ``auto``, ``float32``, ``float16``, ``bfloat16``.

    Raises:
        UserError: another name.
    """
    if name not in DTYPES:
        known = ", ".join(DTYPES)
        raise UserError(f"dtype '{name}' is not one of {known}.{nearest(name, DTYPES)}")


def check_device_name(name: str) -> None:
    """Refuse what is no device's name; whether the device is there, torch must say.

    Raises:
        UserError: neither ``auto``, ``cpu``, ``mps`` nor ``cuda`` with or without a number.
    """
    kind, colon, index = name.partition(":")
    if name in _DEVICES or (kind == "cuda" and colon and index.isdigit()):
        return
    known = ", ".join(_DEVICES)
    raise UserError(f"device '{name}' is not one of {known}.{nearest(name, _DEVICES)}")
