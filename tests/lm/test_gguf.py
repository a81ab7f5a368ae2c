"""A GGUF file is read as the model it holds, and converted once into an ordinary folder."""

import pytest
import torch
from tokenizers import pre_tokenizers

from mnemoscope.errors import NoRoomError, UserError
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.load import convert_gguf, load_model

gguf = pytest.importorskip("gguf")

# transformers' names of a Qwen2 layer and GGUF's; Qwen2's tensors are stored as they are.
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_WHOLE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_LAYER[part]}.{kind}"


@pytest.fixture(scope="module")
def original(build):
    return build("qwen2", vocab_size=260, rope_theta=10000.0, rms_norm_eps=1e-6).model


@pytest.fixture(scope="module")
def file(original, tmp_path_factory):
    """The tiny Qwen2 written by the reference writer of the format, in float32."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    config = original.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(
        [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "<s>", "</s>", "<pad>"]
    )
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_pad_token_id(259)
    for name, tensor in original.state_dict().items():
        writer.add_tensor(gguf_name(name), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def converted(file, tmp_path_factory):
    return convert_gguf(file, tmp_path_factory.mktemp("out") / "deep" / "folder")


def test_gguf_holds_the_original_weights(original, file):
    lm = load_model(file, device="cpu")
    expected = original.state_dict()
    assert lm.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(expected[k], v) for k, v in lm.model.state_dict().items())
    assert lm.tokenizer("ab").input_ids == [256]
    assert load_model(file.parent, device="cpu").fingerprint == lm.fingerprint


def test_converted_folder_is_the_same_model(file, converted, tokens, tmp_path):
    first, second = load_model(file, device="cpu"), load_model(converted, device="cpu")
    assert second.fingerprint == first.fingerprint
    assert second.bos_id == first.bos_id
    text = "Hello, 12 worlds:\n\tend"
    assert second.tokenizer(text).input_ids == first.tokenizer(text).input_ids
    one, two = (next(continue_sequences(lm, tokens(4), batch_size=4)) for lm in (first, second))
    assert one.tokens.tolist() == two.tokens.tolist()
    assert not list(converted.parent.glob(".*"))
    (tmp_path / "new").touch()  # files have the mode of any new one
    assert {one.stat().st_mode for one in converted.iterdir()} == {
        (tmp_path / "new").stat().st_mode
    }


def test_convert_is_a_verb(file, tmp_path, call, refused):
    made = tmp_path / "made"
    result = call("convert", file, "-o", made)
    assert (result.status, result.err) == (0, "")
    assert f"Wrote {made}." in result.out
    assert (made / "model.safetensors").is_file()
    assert "already there" in refused("convert", file, "-o", made)


@pytest.mark.parametrize("size", [0, 6, 2000, -1000])
def test_torn_file_is_refused_and_leaves_nothing_behind(file, tmp_path, refused, size):
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(file.read_bytes()[:size])
    said = refused("convert", torn, "-o", tmp_path / "out" / "folder")
    assert "torn.gguf: its weights cannot be read" in said
    assert [path.name for path in tmp_path.iterdir()] == ["torn.gguf"]


def test_full_disk_leaves_nothing_behind(file, tmp_path, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", fail)
    with pytest.raises(NoRoomError, match="disk is full"):
        convert_gguf(file, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_without_the_packages_the_command_is_given(file, hide):
    hide("gguf")
    with pytest.raises(UserError, match=r"\.gguf needs gguf: pip install 'mnemoscope\[gguf\]'"):
        load_model(file)
