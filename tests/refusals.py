"""What is refused, and in which words."""

from collections.abc import Callable

import pytest

from mnemoscope.errors import MnemoscopeError, UserError


def refusal(
    function: Callable, *args: object, error: type[MnemoscopeError] = UserError, **named: object
) -> str:
    """Call what must be refused with this error; gives the one line that it says."""
    with pytest.raises(error) as refused:
        function(*args, **named)
    assert "\n" not in str(refused.value)
    return str(refused.value)
