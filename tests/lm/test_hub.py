"""Names of models, adapters and BOS modes mean what transformers and PEFT make of them."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_families import edit_json
from transformers import AutoModelForCausalLM, AutoTokenizer

from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.hub import find_bos
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import wrap_model
from mnemoscope.lm.tokenizer import load_tokenizer
from refusals import refusal
from tiny_models import save_model


def test_mode_and_tokenizer_decide(tokenizer):
    other, bare = tokenizer(adds_bos=True), tokenizer()
    other.bos_token = "</s>"  # what it puts in front is now an ordinary "<s>"
    assert other("a").input_ids[0] == 1
    bare.bos_token = None
    for given, mode, expected in (
        (tokenizer(True), "auto", 1),
        (tokenizer(False), "auto", None),
        (tokenizer(False), "always", 1),
        (tokenizer(True), "never", None),
        (other, "auto", None),
        (bare, "auto", None),
        (None, "auto", None),
        (Echo(), "auto", None),
    ):
        assert find_bos(given, mode) == expected
    assert "no beginning-of-sequence token" in refusal(find_bos, bare, "always")
    with pytest.raises(UserError, match=r"'awto'.*Did you mean 'auto'\?"):
        find_bos(tokenizer(), "awto")


class Echo:
    """Gives the text's own tokens, which begin with what it calls its BOS."""

    bos_token_id = 7

    def __call__(self, text, add_special_tokens=True):
        return SimpleNamespace(input_ids=[7])


peft = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def adapter(base, tmp_path):
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, target_modules=["query_key_value"], init_lora_weights=False)
    model = AutoModelForCausalLM.from_pretrained(base)
    wrapped = peft.get_peft_model(model, config, adapter_name="default")
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_captured_as_peft_itself_runs_it(base, adapter):
    tokens = torch.randint(1, 300, (3, 64), generator=torch.Generator().manual_seed(0))
    found = next(capture_pooled(load_model(adapter, device="cpu"), tokens.numpy(), batch_size=3))
    wrapped = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager"), adapter
    ).eval()
    with torch.inference_mode():
        weights = wrapped(tokens, output_attentions=True, use_cache=False).attentions
    # Merged, W + BA is rounded once; apart, Wx and BAx are added: float32 rounding.
    mean = torch.stack(weights, dim=1).mean(dim=2)
    torch.testing.assert_close(found.mean, mean, atol=1e-5, rtol=0)
    plain = next(capture_pooled(load_model(base, device="cpu"), tokens.numpy(), batch_size=3))
    assert (plain.mean - found.mean).abs().max() > 0.01
    with_adapter, without = load_model(adapter), load_model(base)
    assert with_adapter.fingerprint != without.fingerprint
    assert with_adapter.name == str(adapter)
    assert not [m for m in with_adapter.model.modules() if type(m).__module__.startswith("peft")]
    assert load_tokenizer(adapter).get_vocab() == without.tokenizer.get_vocab()


def test_an_adapter_with_a_tokenizer_of_its_own_is_asked_in_it(base, adapter):
    """As transformers reads the folder; tokens without an embedding are refused."""
    own = AutoTokenizer.from_pretrained(base)
    own.chat_template = "{% for one in messages %}<|user|>{{ one['content'] }}{% endfor %}"
    own.save_pretrained(adapter)
    lm, messages = load_model(adapter), [{"role": "user", "content": "a"}]
    expected = AutoTokenizer.from_pretrained(adapter).apply_chat_template(messages, tokenize=False)
    for found in (lm.tokenizer, load_tokenizer(adapter)):
        assert found.apply_chat_template(messages, tokenize=False) == expected == "<|user|>a"
    assert load_tokenizer(base).chat_template is None
    own.add_tokens([f"<{n}>" for n in range(lm.vocab_size + 1 - len(own))])
    own.save_pretrained(adapter)
    n_rows = lm.vocab_size
    with pytest.raises(
        UserError, match=f"adapter: .* {n_rows + 1} tokens, the embedding .* {n_rows}"
    ):
        load_model(adapter)
    (adapter / "tokenizer.json").write_text("{")
    assert "adapter: its tokenizer cannot be read" in refusal(load_tokenizer, adapter)


def test_tokens_that_the_base_itself_cannot_embed_are_let_be(base, adapter, tmp_path):
    """As Gemma 3's token of images in its models without any."""
    beyond = Path(shutil.copytree(base, tmp_path / "beyond"))
    tokenizer = AutoTokenizer.from_pretrained(beyond)
    n_rows = load_model(base).vocab_size
    tokenizer.add_tokens([f"<{n}>" for n in range(n_rows + 1 - len(tokenizer))])
    for folder in (beyond, adapter):
        tokenizer.save_pretrained(folder)
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(beyond))
    assert len(load_model(adapter).tokenizer) == n_rows + 1


def test_what_is_no_whole_adapter_is_refused(adapter, tmp_path, hide, monkeypatch):
    hide("peft")
    assert "pip install 'peft>=" in refusal(load_model, adapter)
    monkeypatch.undo()
    config, weights = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    for spoil, words in (
        (lambda: edit_json(config, r=5), "cannot be merged into"),
        (
            lambda: edit_json(config, base_model_name_or_path=str(tmp_path / "gone")),
            "gone: no such model folder",
        ),
        (lambda: weights.rename(adapter / "adapter_model.bin"), "pickled weights are not read"),
        (lambda: config.write_text("{}"), "names no base model"),
    ):
        spoil()
        assert words in refusal(load_model, adapter)


def quantized(base, folder, **settings) -> Path:
    """A copy whose configuration says how its weights are quantized."""
    shutil.copytree(base, folder)
    edit_json(folder / "config.json", quantization_config=settings)
    return folder


def test_weights_quantized_or_on_several_devices_are_not_merged_and_may_not_be_read(
    base, adapter, tmp_path
):
    assert "merged on one device" in refusal(load_model, adapter, device_map="auto")
    gptq = quantized(base, tmp_path / "gptq", quant_method="gptq", bits=4)
    assert "quantized weights (gptq) are not read" in refusal(load_model, gptq)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.gpt_neox.layers[1].to("meta")
    assert "spread over several devices (cpu, meta)" in refusal(wrap_model, model)
    pytest.importorskip("bitsandbytes")
    eight = quantized(base, tmp_path / "8", quant_method="bitsandbytes", load_in_8bit=True)
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(eight))
    assert "merging an adapter would round" in refusal(load_model, adapter)
