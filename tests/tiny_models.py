"""A tiny random model, its reference, and sequences of which it reproduces two thirds.

A random model memorizes nothing, but what it continues a prefix with is what it "memorized" once
it is put behind that prefix: so the truth is known and takes no training.
"""

from pathlib import Path

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 320
N_SEQUENCES = 240
_TEXT = "def add(a, b):\n    return a + b\nThe licence applies to works based on the library.\n"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 320 tokens that adds nothing by itself."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    backend.train_from_iterator([_TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def save_model(folder: Path, *, seed: int = 0, family: str = "gpt_neox", **changes) -> Path:
    """Save a random model of two layers with its tokenizer, as a user would have it."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 80,
        "initializer_range": 0.3,  # wide enough that attention is far from uniform
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    config = AutoConfig.for_model(family, **{**settings, **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_sequences(
    model: Path, n: int = N_SEQUENCES, *, length: int = 64, prefix: int | None = None
) -> pl.DataFrame:
    """Sequences by turns reproduced with 9 duplicates, reproduced with 2, and not reproduced."""
    from mnemoscope.lm.continue_ import continue_sequences
    from mnemoscope.lm.load import load_model

    tokens = np.random.default_rng(0).integers(1, 300, (n, length)).astype(np.int32)
    prefix = length // 2 if prefix is None else prefix
    found = continue_sequences(load_model(model), tokens, batch_size=n, prefix=prefix)
    continuation = np.concatenate([batch.tokens for batch in found])
    kind = np.arange(n) % 3
    tokens[kind < 2, prefix:] = continuation[kind < 2]
    return pl.DataFrame(
        {
            "sequence_id": np.arange(100, 100 + n),
            "tokens": pl.Series(tokens.tolist(), dtype=pl.List(pl.Int32)),
            "genre": np.where(np.arange(n) % 2, "prose", "code"),
            "duplicates": np.array([9, 2, 2])[kind],
        }
    )


def save_vision_model(folder: Path, *, seed: int = 0, family: str = "llava", **changes) -> Path:
    """Save a random model of pictures and prompts with its processor; pictures of 16 × 16."""
    from transformers import (
        AutoModelForImageTextToText,
        CLIPImageProcessor,
        Idefics3ImageProcessor,
        Idefics3Processor,
        LlavaProcessor,
    )

    tokenizer = make_tokenizer()
    special = ["<image>", "<pad>"]
    if family != "llava":
        tiles = (f"<row_{one}_col_{other}>" for one in (1, 2) for other in (1, 2))
        special += ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles]
    tokenizer.add_special_tokens({"additional_special_tokens": special, "pad_token": "<pad>"})
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
            "max_position_embeddings": 96, "initializer_range": 0.3, "bos_token_id": None,
            "eos_token_id": 0, "pad_token_id": tokenizer.pad_token_id, **changes}  # fmt: skip
    sees = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 16, "patch_size": 8}  # fmt: skip
    seen = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    if family == "llava":
        config = AutoConfig.for_model(
            family, text_config={"model_type": "llama", **text}, image_token_id=image_token,
            vision_config={"model_type": "clip_vision_model", **sees}, vision_feature_layer=-1,
        )  # fmt: skip
        pictures = CLIPImageProcessor(do_center_crop=False, crop_size=seen["size"], **seen)
        processor = LlavaProcessor(pictures, tokenizer, patch_size=8, num_additional_image_tokens=1,
                                   vision_feature_select_strategy="default")  # fmt: skip
    else:
        config = AutoConfig.for_model(
            family, text_config={"model_type": "llama", **text}, vision_config=sees,
            scale_factor=2, image_token_id=image_token,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=0,
        )  # fmt: skip
        seen["size"], most = {"longest_edge": 32}, {"longest_edge": 16}
        pictures = Idefics3ImageProcessor(max_image_size=most, do_image_splitting=True, **seen)
        template = ("{% for one in messages %}User:{% for part in one['content'] %}"
                    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
                    "{% endfor %} Assistant:")  # fmt: skip
        processor = Idefics3Processor(pictures, tokenizer, image_seq_len=1, chat_template=template)
    torch.manual_seed(seed)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_pictures(folder: Path, n: int, *, seed: int = 0) -> list[Path]:
    """Pictures of noise, PNG of 16 × 16."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    paths = [folder / f"{number}.png" for number in range(n)]
    for path, one in zip(paths, pixels, strict=True):
        Image.fromarray(one).save(path)
    return paths
