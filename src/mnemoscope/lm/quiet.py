"""Keep transformers to itself while something is loaded: no bars, no warnings, no uploads."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from io import StringIO

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging

__all__ = ["quiet_transformers"]

# Unless this is set, a hub model without safetensors makes transformers ask a service outside to
# convert it and to publish the result as a pull request.
_NO_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"


@contextmanager
def quiet_transformers(*, reads_gguf: bool = False) -> Iterator[None]:
    """Silence progress bars and warnings inside this block, then restore what was set.

    What matters among the warnings, missing weights above all, the caller must check itself.

    Args:
        reads_gguf: silence stderr too: the GGUF reader has a bar that no setting switches off.

    Yields:
        Nothing.
    """
    verbosity = logging.get_verbosity()
    had_bars, hub_bars_off = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    with ExitStack() as stack:
        stack.enter_context(_no_conversion())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if reads_gguf:
            stack.enter_context(redirect_stderr(StringIO()))
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if had_bars:
                logging.enable_progress_bar()
            if hub_bars_off:
                disable_progress_bars()


@contextmanager
def _no_conversion() -> Iterator[None]:
    before = os.environ.get(_NO_CONVERSION)
    os.environ[_NO_CONVERSION] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_CONVERSION]
        else:
            os.environ[_NO_CONVERSION] = before
