"""Which beginning-of-sequence token a model needs in front of its sequences, if any.

Models trained with one remember worse without it: for one small model the share of right suffix
tokens on famous texts fell from .79 to .36. `auto` follows the tokenizer's default.
"""

from typing import Any

from mnemoscope.errors import UserError, nearest

BOS_MODES = ("auto", "always", "never")


def find_bos(tokenizer: Any, mode: str = "auto") -> int | None:
    """Find the token id to prepend to every sequence; None for no token.

    `auto` prepends exactly where the tokenizer does so by default. The tokenizer may be None.

    Raises:
        UserError: unknown mode, or `always` for a tokenizer without such a token.
    """
    if mode not in BOS_MODES:
        raise UserError(
            f"bos '{mode}' is not one of {', '.join(BOS_MODES)}.{nearest(mode, BOS_MODES)}"
        )
    if mode == "never" or (mode == "auto" and tokenizer is None):
        return None
    bos_id = getattr(tokenizer, "bos_token_id", None)
    if mode == "always":
        if bos_id is None:
            raise UserError(
                "bos 'always': this tokenizer has no beginning-of-sequence token. Use 'auto'."
            )
        return int(bos_id)
    return int(bos_id) if bos_id is not None and _is_added(tokenizer, bos_id) else None


def _is_added(tokenizer: Any, bos_id: int) -> bool:
    """True if the tokenizer adds the token by default; `add_bos_token` is not always obeyed."""
    default = tokenizer("a").input_ids
    bare = tokenizer("a", add_special_tokens=False).input_ids
    return bool(default[:1] == [bos_id] and bare[:1] != [bos_id])
