"""Encoder-decoders: answers are those of transformers' generate, shapes those of its attention."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from mnemoscope.errors import UserError
from mnemoscope.lm.seq2seq import answer, as_seq2seq, concentration, load_seq2seq
from tests.tiny_models import make_tokenizer, save_model

MOST = 8
COMMON = {"vocab_size": 320, "d_model": 16, "pad_token_id": 0, "eos_token_id": 1}
SMALL = {
    "t5": {"d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "initializer_factor": 8.0}
    | {"decoder_start_token_id": 0, "tie_word_embeddings": False},
    "bart": {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))
    }
    | {"max_position_embeddings": 32, "init_std": 0.6, "forced_eos_token_id": None}
    | {"decoder_start_token_id": 1, "bos_token_id": 2},
}


def tiny(family: str, **changes):
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **COMMON | SMALL[family] | changes)
    return AutoModelForSeq2SeqLM.from_config(config).eval()


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_answers_and_attention_are_those_of_transformers(kind):
    model = tiny(kind)
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(3, 320, (7, 9)), np.ones((7, 9), dtype=int)
    mask[2:5, 6:] = 0
    # Whatever a row says third ends its answer, so that ends are met.
    first = answer(as_seq2seq(model, None), tokens, mask, most=3, batch_size=4)
    ends = np.unique(first.tokens[:, 2]).tolist()
    model.generation_config.eos_token_id = ends
    before = model.config._attn_implementation
    found = answer(as_seq2seq(model, None), tokens, mask, most=MOST, batch_size=4)
    assert model.config._attn_implementation == before
    lengths = set()
    for row in range(len(tokens)):
        read = torch.from_numpy(tokens[row : row + 1, : mask[row].sum()])
        wanted = model.generate(
            input_ids=read, attention_mask=torch.ones_like(read), max_new_tokens=MOST, num_beams=1,
            do_sample=False, eos_token_id=ends,
        )  # fmt: skip
        said = found.tokens[row][found.mask[row] == 1].tolist()
        assert said == wanted[0, 1:].tolist()
        assert not found.tokens[row][found.mask[row] == 0].any()
        lengths.add(len(said))
        eager = tiny(kind, attn_implementation="eager")
        with torch.inference_mode():
            out = eager(input_ids=read, decoder_input_ids=wanted[:, :-1], output_attentions=True)
        for maps, shape in (
            (out.encoder_attentions, found.encoder[row]),
            (out.cross_attentions, found.cross[row]),
        ):
            for weights, (evenness, largest) in zip(maps, shape, strict=True):
                rows, n = weights[0].double().numpy(), weights.shape[-1]
                assert evenness == pytest.approx(np.mean(entropy(rows, axis=-1, base=n)), abs=1e-5)
                assert largest == pytest.approx(
                    (np.mean(rows.max(-1)) - 1 / n) / (1 - 1 / n), abs=1e-5
                )
    assert min(lengths) < MOST


def test_concentration_in_closed_form():
    rows = torch.tensor([[0.25] * 4, [0, 1, 0, 0], [0.5, 0.25, 0.25, 0]])
    wanted = [[1, 0], [0, 1], [1.5 * math.log(2) / math.log(4), (0.5 - 0.25) / 0.75]]
    np.testing.assert_allclose(concentration(rows), wanted, atol=1e-12)
    assert concentration(torch.ones(3, 1)).tolist() == [[0, 1]] * 3


def test_other_models_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"'gpt_neox' is no encoder-decoder.*BART"):
        load_seq2seq(save_model(tmp_path / "causal"))
    with pytest.raises(UserError, match="no encoder-decoder"):
        as_seq2seq(torch.nn.Linear(2, 2), None)
    model = tiny("t5")
    model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id = None
    with pytest.raises(UserError, match="names no decoder_start_token_id"):
        answer(as_seq2seq(model, None), [[5, 6]], None, most=2, batch_size=1)


def test_a_saved_one_is_loaded_whole_or_not_at_all(tmp_path):
    from safetensors.torch import load_file, save_file

    model = tiny("t5")
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    asked = ([[5, 6, 7]], None)
    found = answer(load_seq2seq(tmp_path), *asked, most=4, batch_size=1)
    assert (
        found.tokens == answer(as_seq2seq(model, None), *asked, most=4, batch_size=1).tokens
    ).all()
    weights = load_file(tmp_path / "model.safetensors")
    del weights["decoder.final_layer_norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing, decoder\.final"):
        load_seq2seq(tmp_path)
