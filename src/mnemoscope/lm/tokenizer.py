"""Read a model's tokenizer, and say what could not be loaded, without importing torch."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from safetensors import SafetensorError

from mnemoscope.errors import (
    DamagedDataError,
    MnemoscopeError,
    UserError,
    check_installed,
    first_line,
    nearest,
)
from mnemoscope.lm.hub import NO_FILE, UNREACHABLE, Source, check_on_hub, find_source, hub_reason
from mnemoscope.parse import read_json

# Unless this is set, a hub model without safetensors makes transformers ask a service outside to
# convert it and to publish the result as a pull request.
_NO_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"


_DEFAULTS = {
    "TokenizersBackend": set[str](),
    "PreTrainedTokenizer": set[str](),  # `...Fast`
    "GPT2Tokenizer": {"<|endoftext|>"},
    "GPTNeoXTokenizer": {"<|endoftext|>", "<|padding|>"},
    "Qwen2Tokenizer": {"<|endoftext|>"},
}
"""Classes that decode bytes as tokenizer.json says, with tokens that they add to what it lacks."""


def load_tokenizer(
    name: str | Path,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    to_decode: bool = False,
) -> Any:
    """Load only the tokenizer of a model; named and refused as in `load.load_model`.

    `to_decode` asks for `decode` and `batch_decode` alone, which most tokenizers' files give
    without transformers.
    """
    source = find_source(name, revision, needs_weights=False)
    decoder = _read_decoder(source) if to_decode else None
    if decoder is not None:
        return decoder
    with loading(source):
        return read_tokenizer(source, trust_remote_code)


class Decoder:
    """What a byte-level tokenizer makes of tokens, special ones as they are written."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend  # of the library tokenizers

    def decode(self, tokens: Sequence[int], **_cleaning: bool) -> str:
        """The text of some tokens."""
        text: str = self._backend.decode(tokens, skip_special_tokens=False)
        return text

    def batch_decode(self, rows: Sequence[Sequence[int]], **_cleaning: bool) -> list[str]:
        """The text of each row of tokens."""
        return [self.decode(row) for row in rows]


def _read_decoder(source: Source) -> Decoder | None:
    """What decodes as the model's tokenizer does; None where its files do not say that alone."""
    from tokenizers import Tokenizer

    if source.gguf_file is not None or source.adapter is not None:
        return None
    files = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    whole, config, special = (_path_of(source, one) for one in files)
    if whole is None or config is None or _path_of(source, "added_tokens.json") is not None:
        return None
    try:
        backend, settings = Tokenizer.from_file(str(whole)), read_json(config)
        wanted = _DEFAULTS[settings["tokenizer_class"].removesuffix("Fast")]
        wanted = wanted.union(_special_tokens([settings, special and read_json(special)]))
    except Exception:  # another class; or damaged files, of which transformers is asked
        return None
    kinds = [type(one).__name__ for one in (backend.model, backend.decoder)]
    added = {one.content for one in backend.get_added_tokens_decoder().values()}
    is_whole = kinds == ["BPE", "ByteLevel"] and wanted <= added and "auto_map" not in settings
    return Decoder(backend) if is_whole else None


def _path_of(source: Source, name: str) -> Path | None:
    """A file of a model's folder, or of the hub's cache; None: it is not there."""
    if not source.is_local:
        kept = try_to_load_from_cache(source.location, name, revision=source.revision)
        return Path(kept) if isinstance(kept, str) else None
    path = Path(source.location) / name
    return path if path.is_file() else None


def _special_tokens(value: Any, key: str = "") -> Iterator[str]:
    """The tokens that a tokenizer's settings name."""
    if isinstance(value, str) and key.endswith(("_token", "_tokens", "content")):
        yield value
    for name, one in value.items() if isinstance(value, dict) else ():
        yield from _special_tokens(one, name)
    for one in value if isinstance(value, list) else ():
        yield from _special_tokens(one, key)


def read_tokenizer(source: Source, trust_remote_code: bool) -> Any:
    """Read the tokenizer of a model that was found; UserError: it cannot be read, or is empty."""
    from transformers import AutoConfig, AutoTokenizer

    name, place, arguments = source.name, source.location, source.arguments()
    arguments["trust_remote_code"] = trust_remote_code
    adapter = source.adapter
    if adapter is not None and adapter.has_tokenizer:
        # The base's configuration says of which family the files are; the folder has none.
        config = AutoConfig.from_pretrained(place, **arguments)
        name = place = str(adapter.folder)
        arguments = {"config": config, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **arguments)
    except Exception as error:
        known = isinstance(error, ValueError | KeyError | TypeError | AttributeError)
        if not known and type(error) is not Exception:  # what the tokenizers library raises
            raise
        raise UserError(
            f"{name}: its tokenizer cannot be read ({first_line(error)}). Copy the files "
            "of the model's tokenizer again."
        ) from error
    if not len(tokenizer):
        raise UserError(f"{name}: its tokenizer is empty. Copy the files again.")
    return tokenizer


@contextmanager
def loading(source: Source) -> Iterator[None]:
    """Quiet transformers, and say what went wrong in one line of ours."""
    if source.gguf_file is not None:
        check_installed(f"{source.name}: reading .gguf needs", "gguf", "accelerate", extra="gguf")
    try:
        if not source.is_local:
            check_on_hub(source.location, source.revision)
        with quiet_transformers(reads_gguf=source.gguf_file is not None):
            yield
    except MnemoscopeError:
        raise
    except Exception as error:
        is_torn_gguf = source.gguf_file is not None and not isinstance(error, ImportError)
        if is_torn_gguf or isinstance(error, SafetensorError):  # of GGUF the reader fails anyhow
            raise DamagedDataError(
                f"{source.name}: its weights cannot be read ({first_line(error)}). Copy them again."
            ) from error
        meant = "" if source.is_local else nearest(source.name, ["embedded"])
        raise UserError(f"{source.name}: {_reason(error, source)}{meant}") from error


def _reason(error: Exception, source: Source) -> str:
    """Say in our words why transformers could not load something."""
    if "trust_remote_code" in str(error):
        return "comes with Python code of its own. If you trust it, use --trust-remote-code."
    if source.is_local or not isinstance(error, OSError):
        known = isinstance(error, OSError | ValueError | ImportError)
        said = first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"
        return f"cannot be loaded ({said}). Is it a causal language model, and whole?"
    return hub_reason(error) or (NO_FILE if "safetensors" in str(error) else UNREACHABLE)


@contextmanager
def quiet_transformers(*, reads_gguf: bool = False) -> Iterator[None]:
    """Silence progress bars and warnings in this block; the caller must check for missing weights.

    `reads_gguf` silences stderr too: no setting switches off the GGUF reader's bar.
    """
    from transformers.utils import logging

    conversion = os.environ.get(_NO_CONVERSION)
    with warnings.catch_warnings(action="ignore"), ExitStack() as stack:
        if reads_gguf:
            stack.enter_context(redirect_stderr(StringIO()))
        if are_progress_bars_disabled():
            stack.callback(disable_progress_bars)
        if logging.is_progress_bar_enabled():
            stack.callback(logging.enable_progress_bar)
        stack.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        os.environ[_NO_CONVERSION] = "1"
        try:
            yield
        finally:
            os.environ.pop(_NO_CONVERSION)
            if conversion is not None:
                os.environ[_NO_CONVERSION] = conversion
