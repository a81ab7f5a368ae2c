"""What the files of a tokenizer alone decode is what transformers makes of the same files."""

import json

import numpy as np
import pytest
from tiny_families import edit_json
from tokenizers import decoders

from mnemoscope.lm.tokenizer import Decoder, load_tokenizer
from tiny_models import make_tokenizer


@pytest.fixture
def save(tmp_path):
    """Save a byte-level tokenizer as of one class, of a model of one type; gives its folder."""

    def save(kind="TokenizersBackend", family="gpt_neox", *, decoder=None, **settings):
        tokenizer = make_tokenizer()
        tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<|endoftext|>", "<|padding|>"]}
        )
        if decoder is not None:
            tokenizer.backend_tokenizer.decoder = decoder
        tokenizer.save_pretrained(tmp_path)
        edit_json(tmp_path / "tokenizer_config.json", tokenizer_class=kind, **settings)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
        return tmp_path

    return save


def is_decoded_alike(folder) -> bool:
    """Whether random tokens are the same text both ways, and the files alone were enough."""
    whole, found = load_tokenizer(folder), load_tokenizer(folder, to_decode=True)
    rows = np.random.default_rng(0).integers(0, len(whole), (200, 24)).tolist()
    expected = whole.batch_decode(rows, clean_up_tokenization_spaces=False)
    assert found.batch_decode(rows, clean_up_tokenization_spaces=False) == expected
    assert [found.decode(row, clean_up_tokenization_spaces=False) for row in rows] == expected
    assert any("\N{REPLACEMENT CHARACTER}" in text for text in expected)
    assert any("<|padding|>" in text for text in expected)
    return isinstance(found, Decoder)


@pytest.mark.parametrize(
    ("kind", "of"),
    [
        ("TokenizersBackend", "gpt_neox"),
        ("PreTrainedTokenizerFast", "llama"),
        ("GPT2TokenizerFast", "gpt2"),
        ("GPTNeoXTokenizer", "gpt_neox"),
        ("GPTNeoXTokenizerFast", "olmo"),
        ("Qwen2Tokenizer", "qwen2"),
    ],
)
def test_the_files_alone_decode_as_the_tokenizer_does(save, kind, of):
    assert is_decoded_alike(save(kind, of))


def test_where_the_files_do_not_say_it_all_the_tokenizer_is_asked(save):
    assert not is_decoded_alike(save("CodeGenTokenizer"))
    assert not is_decoded_alike(save(pad_token="<|new|>"))
    assert not is_decoded_alike(save(extra_special_tokens=["<|new|>"]))
    fused = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("e", "é")])
    assert not is_decoded_alike(save(decoder=fused))
    folder = save()
    (folder / "special_tokens_map.json").write_text('{"unk_token": {"content": "<|new|>"}}')
    assert not is_decoded_alike(folder)
