"""The tiny tokenizer, as GPT-2's kind may also be: with a token that it adds by itself."""

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tiny_models import make_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    """320 tokens and a beginning-of-sequence token that it adds, trimmed offsets."""
    backend = make_tokenizer().backend_tokenizer
    backend.add_special_tokens(["<|start|>"])
    start = ("<|start|>", backend.token_to_id("<|start|>"))
    adds = processors.TemplateProcessing(single="<|start|> $A", special_tokens=[start])
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), adds])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|start|>")
