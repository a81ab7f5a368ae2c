"""A model is loaded as it was saved, quietly, or refused in one line."""

import json
import logging
import os
import shutil

import huggingface_hub
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from mnemoscope.errors import DamagedDataError, NoRoomError, UserError
from mnemoscope.lm.load import load_model, load_tokenizer
from mnemoscope.lm.model import check_fits, wrap_model
from refusals import refusal


@pytest.fixture
def folder(model_folder, tmp_path):
    """A copy of the tiny model's folder, to spoil."""
    return shutil.copytree(model_folder, tmp_path / "model")


def test_loaded_model_is_the_saved_one(model_folder):
    lm = load_model(model_folder, device="cpu")
    saved = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in lm.model.state_dict().items())
    assert not lm.model.training
    made = (lm.name, lm.revision, lm.dtype, lm.device)
    assert made == (str(model_folder), None, "float32", "cpu")
    assert (lm.n_layers, lm.n_heads, lm.vocab_size, lm.max_positions) == (3, 4, 96, 80)
    assert (lm.bos_id, lm.attention_route) == (None, "interface")
    assert len(lm.fingerprint) == 64
    assert lm.tokenizer("ab").input_ids == load_tokenizer(model_folder)("ab").input_ids
    for dtype, expected in (("float16",) * 2, ("bfloat16",) * 2, ("auto", "float32")):  # as saved
        assert load_model(model_folder, dtype=dtype, device="cpu").dtype == expected


def test_loading_is_silent_and_leaves_settings_alone(model_folder, capfd, caplog):
    def settings():
        bar = transformers_logging.is_progress_bar_enabled()
        return transformers_logging.get_verbosity(), bar, dict(os.environ)

    transformers_logging.set_verbosity_info()
    before = settings()
    with caplog.at_level(logging.WARNING):
        load_model(model_folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert settings() == before
    transformers_logging.set_verbosity_warning()


def test_family_that_fixes_its_attention_when_built_is_loaded_eager(build, tmp_path):
    falcon = build("falcon")
    falcon.model.save_pretrained(tmp_path / "falcon")
    falcon.tokenizer.save_pretrained(tmp_path / "falcon")
    lm = load_model(tmp_path / "falcon", device="cpu")
    assert lm.model.config._attn_implementation == "eager"
    assert lm.attention_route == "hooks"
    assert lm.fingerprint == falcon.fingerprint


def test_the_fingerprint_is_of_weights_configuration_and_dtype_alone(
    model_folder, folder, build, edit, tmp_path
):
    """Not of path, shards or memory."""
    first = load_model(model_folder, device="cpu")
    first.model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    first.tokenizer.save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for other in (folder, tmp_path / "shards"):
        assert load_model(other, device="cpu").fingerprint == first.fingerprint
    changed = build("llama")
    assert changed.fingerprint == first.fingerprint
    with torch.no_grad():
        changed.model.model.layers[2].mlp.down_proj.weight[0, 0] += 1e-3
    edit(folder / "config.json", rms_norm_eps=1e-3)
    prints = {
        first.fingerprint,
        load_model(folder, device="cpu").fingerprint,
        load_model(model_folder, dtype="bfloat16", device="cpu").fingerprint,
        wrap_model(changed.model).fingerprint,
    }
    assert len(prints) == 4


def save_other(family, **changes):
    """Put another model's configuration and weights in a folder."""

    def save(folder):
        config = AutoConfig.for_model(
            family, vocab_size=96, hidden_size=32, num_hidden_layers=2, **changes
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)

    return save


def own_code(folder):
    """A configuration that names Python code beside it."""
    named = {"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"}
    merge(folder / "config.json", model_type="strange", auto_map=named)
    (folder / "c.py").write_text("raise SystemExit('was run')")


def merge(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def config_is(data: bytes):
    return lambda folder: (folder / "config.json").write_bytes(data)


UNMERGEABLE = {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (config_is(b"{"), "config.json cannot be read"),
        (config_is(b"[]"), "config.json cannot be read"),
        (config_is(b"\x80"), "config.json cannot be read"),
        (config_is(b'{"model_type": "gramophone"}'), "gramophone"),
        (
            lambda folder: AutoConfig.for_model("t5").save_pretrained(folder),
            "model type 't5' is no causal language model",
        ),
        (
            save_other("bert", num_attention_heads=4, intermediate_size=48, initializer_range=0.3),
            "depends on later tokens",
        ),
        (save_other("mamba", state_size=4), "has no attention"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "only pickled weights",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (
            # without its language-modelling head
            lambda folder: AutoModel.from_pretrained(folder).save_pretrained(folder),
            "1 weights are missing, lm_head.weight first",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer"),
        (
            lambda folder: merge(folder / "tokenizer.json", model=UNMERGEABLE),
            "its tokenizer cannot be read",
        ),
        (own_code, "--trust-remote-code"),
    ],
)
def test_what_is_no_whole_causal_model_is_refused(folder, spoil, words):
    spoil(folder)
    assert words in refusal(load_model, folder, device="cpu")


def test_what_is_no_model_folder_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    assert "nowhere: no such model folder or file" in refusal(load_model, tmp_path / "nowhere")
    assert "Give the folder" in refusal(load_model, file)
    assert "no config.json and no .gguf" in refusal(load_model, tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    assert "holds 2 .gguf files. Give one: a.gguf, b.gguf" in refusal(load_model, tmp_path)


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_torn_weights_are_damaged_data(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "its weights cannot be read" in refusal(
        load_model, folder, device="cpu", error=DamagedDataError
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "needs a permission"),
        ("RepositoryNotFoundError", "no model on the hub has this name"),
        ("RevisionNotFoundError", "no such revision"),
        ("RemoteEntryNotFoundError", "without config.json or safetensors weights"),
        ("LocalEntryNotFoundError", "the hub cannot be reached"),
    ],
)
def test_what_the_hub_answers_is_said_in_our_words(monkeypatch, kind, message):
    kind = getattr(huggingface_hub.errors, kind)
    cause = kind.__new__(kind, "answer")  # without the HTTP answer that it asks for

    def fail(*_args, **_kwargs):
        raise OSError("several\nlines") from cause

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    assert message in refusal(load_model, "somebody/some-model")
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "hub cannot be reached" in refusal(load_model, f"somebody/{kind.__name__}")  # not asked


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dtype": "float23"}, r"dtype 'float23' is not one of .*Did you mean 'float32'\?"),
        ({"device": "cdua"}, r"device 'cdua' is not one of .*Did you mean 'cuda'\?"),
        ({"device": "cuda:99"}, "device 'cuda:99': torch .* sees"),
        ({"device": "cpu:1"}, "device 'cpu:1' is not one of"),
        ({"bos": "perhaps"}, "bos 'perhaps' is not one of"),
        ({"revision": "main"}, "no revision 'main'"),
    ],
)
def test_unknown_settings_are_refused(model_folder, setting, message):
    with pytest.raises(UserError, match=message):
        load_model(model_folder, **setting)


def test_a_model_too_large_for_the_device_is_refused(model_folder, monkeypatch):
    def fail(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Module, "to", fail)
    message = refusal(load_model, model_folder, device="cpu", error=NoRoomError)
    assert "does not fit into the device's memory" in message


def test_positions_and_the_bos_token_count(build):
    check_fits(build("llama"), 80)
    check_fits(build("llama", adds_bos=True), 79)
    with pytest.raises(UserError, match="has 80 positions, sequences of 81 tokens need 81"):
        check_fits(build("llama"), 81)
    with pytest.raises(UserError, match="need 80 and one for the prepended token"):
        check_fits(build("llama", adds_bos=True), 80)
    lm = build("bloom")
    lm.model.config.__dict__.pop("max_position_embeddings", None)
    lm = wrap_model(lm.model)
    assert lm.max_positions is None
    check_fits(lm, 10**6)
