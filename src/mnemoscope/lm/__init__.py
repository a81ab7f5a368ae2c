"""All that touches the language model: loading, greedy continuation, scan, pooled attention.

Names are resolved on first use, so that importing this room loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemoscope.lm.attention import PooledMaps, pooled_attention
    from mnemoscope.lm.capture import capture_pooled
    from mnemoscope.lm.continuation import Continuations, continue_sequences
    from mnemoscope.lm.gguf import convert_gguf
    from mnemoscope.lm.knockout import cut_attention
    from mnemoscope.lm.language_model import LanguageModel, check_fits, wrap_model
    from mnemoscope.lm.loading import load_model, load_tokenizer
    from mnemoscope.lm.logprobs import TeacherForced, suffix_logprobs, teacher_forced
    from mnemoscope.lm.one_forward import capture_and_scan
    from mnemoscope.lm.scan import Scan, scan_memorized

__all__ = [
    "Continuations",
    "LanguageModel",
    "PooledMaps",
    "Scan",
    "TeacherForced",
    "capture_and_scan",
    "capture_pooled",
    "check_fits",
    "continue_sequences",
    "convert_gguf",
    "cut_attention",
    "load_model",
    "load_tokenizer",
    "pooled_attention",
    "scan_memorized",
    "suffix_logprobs",
    "teacher_forced",
    "wrap_model",
]

_MODULES = {
    "Continuations": "continuation",
    "LanguageModel": "language_model",
    "PooledMaps": "attention",
    "Scan": "scan",
    "TeacherForced": "logprobs",
    "capture_and_scan": "one_forward",
    "capture_pooled": "capture",
    "check_fits": "language_model",
    "continue_sequences": "continuation",
    "convert_gguf": "gguf",
    "cut_attention": "knockout",
    "load_model": "loading",
    "load_tokenizer": "loading",
    "pooled_attention": "attention",
    "scan_memorized": "scan",
    "suffix_logprobs": "logprobs",
    "teacher_forced": "logprobs",
    "wrap_model": "language_model",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
