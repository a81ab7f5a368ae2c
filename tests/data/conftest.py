"""A small byte-level tokenizer of GPT-2's kind, made on the spot."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "def add(a, b):\n    return a + b\n\n\nfor i in range(10):\n    print(add(i, 1))\n",
    "The licence applies to the library and to the works that are based on the library.\n",
    "1. one\n2. two\n3. three\n",
    "héllo wörld, naïve café: 日本語 🎉\n",
]


@pytest.fixture(scope="session")
def tokenizer():
    """320 tokens, a beginning-of-sequence token that it adds by itself, trimmed offsets."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|start|>"],
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS * 20, trainer)
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single="<|start|> $A",
                special_tokens=[("<|start|>", backend.token_to_id("<|start|>"))],
            ),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|start|>")
