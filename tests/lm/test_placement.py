"""Spread models (accelerate) and quantized ones (bitsandbytes) give their own attention.

Several devices are memory and disk here: accelerate brings a layer's weights for the moment, with
the same hooks that carry activations from one GPU to the next.
"""

import numpy as np
import pytest
import torch
from tiny_families import make_model, make_tokenizer, named, own_attention, random_tokens
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import continue_sequences, scan_memorized
from mnemoscope.lm.intervene import cut_attention
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import wrap_model
from mnemoscope.lm.placement import find_cnn_device, fingerprint_model, rows_at_once
from mnemoscope.progress import show_progress
from mnemoscope.study.settings import parse_settings

BITS_4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
FAMILIES = ("llama", "gpt_neox", "gpt2", "bloom")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for family in FAMILIES:
        folder = made[family] = tmp_path_factory.mktemp("spread") / family
        make_model(family).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    return made


def half_on_disk(folder) -> dict[str, str]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    base = model.base_model_prefix
    where = {name: "cpu" for name, _ in model.named_children() if name != base}
    for name, module in model.base_model.named_children():
        if isinstance(module, torch.nn.ModuleList):
            where |= {f"{base}.{name}.{i}": "disk" if i else "cpu" for i in range(len(module))}
        else:
            where[f"{base}.{name}"] = "cpu"
    return where


def first_maps(lm):
    tokens = random_tokens(4)
    return [next(capture_pooled(lm, tokens, batch_size=4)) for _ in range(2)]


@pytest.mark.parametrize("name", named(FAMILIES, ("gpt_neox", "bloom")))  # one a route
def test_a_spread_model_gives_what_it_gives_on_one_device_and_is_left_as_it_was(folders, name):
    """No number differs: the same code on the same weights, wherever these wait."""
    alone = load_model(folders[name])
    spread = load_model(folders[name], device_map=half_on_disk(folders[name]))
    assert spread.device_map.endswith("disk: 2 modules")
    assert (spread.device, spread.fingerprint) == ("cpu", alone.fingerprint)
    before = [(key, value.device) for key, value in spread.model.state_dict().items()]
    for found, wanted in zip(first_maps(spread), first_maps(alone), strict=True):
        assert torch.equal(found.mean, wanted.mean)
        assert torch.equal(found.max, wanted.max)
    tokens = random_tokens(4)
    for ask in (continue_sequences, scan_memorized):
        found, wanted = (next(ask(lm, tokens, batch_size=4)) for lm in (spread, alone))
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    edges = torch.zeros(3, 64, 64, dtype=torch.bool)
    edges[1, 40, 3] = True
    with cut_attention(spread, edges):
        next(continue_sequences(spread, tokens, batch_size=4))
    assert [(key, value.device) for key, value in spread.model.state_dict().items()] == before
    assert torch.equal(first_maps(spread)[0].mean, first_maps(alone)[0].mean)


def test_auto_on_one_device_is_that_device_and_needs_accelerate(folders, hide):
    lm = load_model(folders["llama"], device_map="auto")
    assert lm.device_map is None
    assert lm.fingerprint == load_model(folders["llama"]).fingerprint
    hide("accelerate")
    with pytest.raises(UserError, match="needs accelerate: pip install 'accelerate"):
        load_model(folders["llama"], device_map="auto")


def save_quantized(plain, folder, **settings):
    """Save a model as bitsandbytes stores it with these settings; gives what was saved."""
    quantization = BitsAndBytesConfig(**settings)
    model = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=quantization, device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    pytest.importorskip("bitsandbytes")
    parent = tmp_path_factory.mktemp("quantized")
    plain = make_model("llama", hidden_size=64, intermediate_size=128, head_dim=16)
    plain.save_pretrained(parent / "plain")
    save_quantized(parent / "plain", parent / "4bit nf4", **BITS_4)
    save_quantized(parent / "plain", parent / "8bit", load_in_8bit=True)
    return parent


@pytest.mark.parametrize("kind", ["4bit nf4", "8bit"])
def test_a_quantized_model_gives_its_own_attention(quantized, kind, monkeypatch):
    lm = load_model(quantized / kind, device="cpu")
    computed = ", computed in float32" if kind.startswith("4bit") else ""
    assert (lm.quantization, lm.device) == (f"bitsandbytes {kind}{computed}", "cpu")
    found = first_maps(lm)
    own = own_attention(lm, random_tokens(4)).float()
    for batch in found:
        assert torch.equal(batch.mean, own.mean(dim=2))
        assert torch.equal(batch.max, own.amax(dim=2))
    plain = AutoModelForCausalLM.from_pretrained(quantized / "plain")
    assert lm.fingerprint != wrap_model(plain).fingerprint
    # Before its first forward pass, which may pack the weights anew.
    again = AutoModelForCausalLM.from_pretrained(quantized / kind, device_map={"": "cpu"})
    assert fingerprint_model(again) == lm.fingerprint
    kept = again.config.quantization_config  # where weights are kept is no other model
    monkeypatch.setattr(kept, "llm_int8_enable_fp32_cpu_offload", True)
    assert fingerprint_model(again) == lm.fingerprint
    monkeypatch.setattr(kept, "llm_int8_threshold", 2.0)
    assert fingerprint_model(again) != lm.fingerprint


OTHERWISE = {
    "compute dtype": BITS_4 | {"bnb_4bit_compute_dtype": "bfloat16"},
    "kind": BITS_4 | {"bnb_4bit_quant_type": "fp4"},
    "scales quantized too": BITS_4 | {"bnb_4bit_use_double_quant": True},
    "8 bits": {"load_in_8bit": True},
    "threshold": {"load_in_8bit": True, "llm_int8_threshold": 2.0},
}


def test_models_that_compute_otherwise_have_other_fingerprints(quantized, tmp_path):
    """Same weights, other settings of bitsandbytes: other attention, so never one fingerprint."""
    prints, words, maps = {}, {}, {}
    for name, settings in {"base": BITS_4, "again": BITS_4, **OTHERWISE}.items():
        save_quantized(quantized / "plain", tmp_path / name, **settings)
        lm = load_model(tmp_path / name, device="cpu")
        prints[name], words[name] = lm.fingerprint, lm.quantization
        maps[name] = first_maps(lm)[0].mean
    assert prints.pop("again") == prints["base"]
    assert len(set(prints.values())) == len(prints)
    assert words["compute dtype"] == "bitsandbytes 4bit nf4, computed in bfloat16"
    assert words["scales quantized too"] == "bitsandbytes 4bit nf4 twice, computed in float32"
    # What makes it worth telling apart: these attend otherwise. (A compute dtype does so where
    # the processor has no kernel for 4 bits that computes in bfloat16 whatever is asked for.)
    for name in ("kind", "scales quantized too"):
        assert not torch.equal(maps[name], maps["base"])


def test_4_bit_widths_that_this_processor_does_not_compute_are_refused(tmp_path):
    """Where bitsandbytes can (no fast path on this processor), the model is read."""
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    plain = make_model("llama", hidden_size=48, intermediate_size=80, head_dim=12)
    plain.save_pretrained(tmp_path / "plain")
    model = save_quantized(tmp_path / "plain", tmp_path / "4bit", load_in_4bit=True)
    linear = [one for one in model.modules() if isinstance(one, modules.Linear4bit)]
    if any(getattr(one, "support_avx512bf16_for_cpu", False) for one in linear):  # 0.48 has none
        with pytest.raises(UserError, match=r"4bit: bitsandbytes 4bit .*cannot compute .* on cpu"):
            load_model(tmp_path / "4bit", device="cpu")
    else:
        assert load_model(tmp_path / "4bit", device="cpu").quantization


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_without_bitsandbytes_the_remedy_is_said(quantized, hide, package):
    hide(package)
    with pytest.raises(UserError, match=rf"need {package}: pip install .*'bitsandbytes>="):
        load_model(quantized / "8bit")


@pytest.mark.parametrize(
    ("dtype", "factor", "said"),
    [("bfloat16", 70.0, "about 70 times"), ("bfloat16", 1.2, ""), ("float32", 70.0, "")],
)
def test_an_emulated_dtype_is_said(folders, monkeypatch, capsys, dtype, factor, said):
    def repeat(product, **_):  # seconds of three products; the fastest counts
        is_asked = product().dtype == getattr(torch, dtype)
        return [9 * factor, 4 * factor] if is_asked else [4.0, 8.0]

    monkeypatch.setattr("mnemoscope.lm.placement.timeit.repeat", repeat)
    with show_progress():
        load_model(folders["llama"], dtype=dtype, device="cpu")
    printed = capsys.readouterr().err
    assert said in printed
    assert bool(said) == ("only emulates" in printed)


@pytest.mark.parametrize(
    ("present", "name", "found"),
    [
        ((), "auto", "cpu"),
        (("cuda",), "auto", "cuda"),
        (("mps",), "auto", "cpu"),
        (("mps",), "mps", "mps"),
        (("cuda", "mps"), "auto", "cuda"),
        (("cuda",), "cpu", "cpu"),
    ],
)
def test_cnns_train_on_cuda_where_there_is_one(monkeypatch, present, name, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in present)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in present)
    assert find_cnn_device(name) == torch.device(found)


def test_a_batch_is_as_large_as_the_device_takes_unless_it_is_asked_for(monkeypatch):
    sizes = [rows_at_once(None, device, 64) for device in ("cpu", "cuda:1", "mps")]
    assert sizes == [64, 1024, 1024]
    assert [rows_at_once(None, "cuda", length) for length in (2048, 100_000)] == [32, 1]
    assert rows_at_once(7, "cuda", 64) == 7
    values = {"sequences": {"length": 128}, "model": {"device": "cpu"}}
    assert parse_settings(values, where="test").rows_at_once == 64
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert parse_settings(values | {"model": {}}, where="test").rows_at_once == 512
    assert parse_settings(values | {"model": {"batch_size": 3}}, where="test").rows_at_once == 3
