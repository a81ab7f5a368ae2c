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

from mnemoscope.errors import DamagedDataError, MnemoscopeError, NoRoomError, UserError
from mnemoscope.lm.load import load_model, load_tokenizer
from mnemoscope.lm.model import check_fits, wrap_model


@pytest.fixture
def folder(model_folder, tmp_path):
    """A copy of the tiny model's folder, to spoil."""
    return shutil.copytree(model_folder, tmp_path / "model")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(error_type, call, *args, **kwargs):
    with pytest.raises(error_type) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_loaded_model_is_the_saved_one(model_folder):
    lm = load_model(model_folder, device="cpu")
    saved = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in lm.model.state_dict().items())
    assert not lm.model.training
    assert (lm.name, lm.revision, lm.dtype, lm.device) == (
        str(model_folder),
        None,
        "float32",
        "cpu",
    )
    assert (lm.n_layers, lm.n_heads, lm.vocab_size, lm.max_positions) == (3, 4, 96, 80)
    assert (lm.bos_id, lm.attention_route) == (None, "interface")
    assert len(lm.fingerprint) == 64
    assert lm.tokenizer("ab").input_ids == load_tokenizer(model_folder)("ab").input_ids


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "auto"])
def test_dtype_is_what_was_asked_for(model_folder, dtype):
    expected = "float32" if dtype == "auto" else dtype  # it was saved in float32
    assert load_model(model_folder, dtype=dtype, device="cpu").dtype == expected


def test_loading_is_silent_and_leaves_settings_alone(model_folder, capfd, caplog):
    transformers_logging.set_verbosity_info()
    before = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
        dict(os.environ),
    )
    with caplog.at_level(logging.WARNING):
        load_model(model_folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert before == (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
        dict(os.environ),
    )
    transformers_logging.set_verbosity_warning()


def test_family_that_fixes_its_attention_when_built_is_loaded_eager(build, tmp_path):
    falcon = build("falcon")
    falcon.model.save_pretrained(tmp_path / "falcon")
    falcon.tokenizer.save_pretrained(tmp_path / "falcon")
    lm = load_model(tmp_path / "falcon", device="cpu")
    assert lm.model.config._attn_implementation == "eager"
    assert lm.attention_route == "hooks"
    assert lm.fingerprint == falcon.fingerprint


class TestFingerprint:
    def test_does_not_depend_on_the_path_or_the_shards(self, model_folder, folder, tmp_path):
        first = load_model(model_folder, device="cpu")
        first.model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
        first.tokenizer.save_pretrained(tmp_path / "shards")
        assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
        for other in (folder, tmp_path / "shards"):
            assert load_model(other, device="cpu").fingerprint == first.fingerprint

    def test_of_a_model_in_memory_is_that_of_its_folder(self, model_folder, build):
        assert build("llama").fingerprint == load_model(model_folder, device="cpu").fingerprint

    def test_changes_with_one_weight(self, build):
        lm = build("llama")
        with torch.no_grad():
            lm.model.model.layers[2].mlp.down_proj.weight[0, 0] += 1e-3
        assert wrap_model(lm.model).fingerprint != lm.fingerprint

    def test_changes_with_what_the_configuration_computes(self, model_folder, folder):
        edit_config(folder, rms_norm_eps=1e-3)
        first, second = load_model(model_folder, device="cpu"), load_model(folder, device="cpu")
        assert first.fingerprint != second.fingerprint

    def test_changes_with_the_dtype(self, model_folder):
        half = load_model(model_folder, dtype="bfloat16", device="cpu")
        assert half.fingerprint != load_model(model_folder, device="cpu").fingerprint


class TestRefusals:
    def test_path_that_is_not_there(self, tmp_path):
        message = refusal(UserError, load_model, tmp_path / "nowhere")
        assert "nowhere: no such model folder or file" in message

    def test_file_that_is_no_gguf(self, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(b"x")
        message = refusal(UserError, load_model, tmp_path / "model.safetensors")
        assert "Give the folder" in message

    def test_folder_without_config(self, tmp_path):
        assert "no config.json and no .gguf" in refusal(UserError, load_model, tmp_path)

    def test_folder_with_several_gguf_files(self, tmp_path):
        for name in ("a.gguf", "b.gguf"):
            (tmp_path / name).touch()
        message = refusal(UserError, load_model, tmp_path)
        assert "holds 2 .gguf files. Give one: a.gguf, b.gguf" in message

    @pytest.mark.parametrize("text", ["{", "[]", "\udc80"])
    def test_config_that_is_no_json_object(self, folder, text):
        (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        assert "config.json cannot be read" in refusal(UserError, load_model, folder)

    def test_config_of_an_unknown_type(self, folder):
        edit_config(folder, model_type="gramophone")
        assert "gramophone" in refusal(UserError, load_model, folder)

    def test_encoder_decoder(self, folder):
        AutoConfig.for_model("t5").save_pretrained(folder)
        message = refusal(UserError, load_model, folder)
        assert "model type 't5' is no causal language model" in message

    def test_model_that_looks_ahead(self, folder):
        config = AutoConfig.for_model(
            "bert", vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=48, initializer_range=0.3,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        assert "depends on later tokens" in refusal(UserError, load_model, folder, device="cpu")

    def test_model_without_attention(self, folder):
        config = AutoConfig.for_model(
            "mamba", vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        assert "has no attention" in refusal(UserError, load_model, folder, device="cpu")

    def test_pickled_weights(self, folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        assert "only pickled weights" in refusal(UserError, load_model, folder)

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        assert "holds no weights" in refusal(UserError, load_model, folder)

    @pytest.mark.parametrize("size", [0, 5, 1000, -1])
    def test_torn_weights(self, folder, size):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])
        message = refusal(DamagedDataError, load_model, folder, device="cpu")
        assert "its weights cannot be read" in message

    def test_missing_weights_are_not_made_up(self, folder):
        model = AutoModel.from_pretrained(folder)  # no language-modelling head
        model.save_pretrained(folder)
        message = refusal(UserError, load_model, folder, device="cpu")
        assert "1 weights are missing, lm_head.weight first" in message

    def test_no_tokenizer(self, folder):
        (folder / "tokenizer.json").unlink()
        assert "holds no tokenizer" in refusal(UserError, load_model, folder)

    def test_broken_tokenizer(self, folder):
        (folder / "tokenizer.json").write_text("{}")
        assert "tokenizer" in refusal(UserError, load_model, folder)

    def test_tokenizer_whose_merges_fit_no_vocabulary(self, folder):
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        tokenizer["model"] = {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}
        path.write_text(json.dumps(tokenizer))
        said = refusal(UserError, load_model, folder)
        assert "its tokenizer cannot be read" in said

    def test_own_code_is_not_run_unasked(self, folder):
        edit_config(
            folder,
            model_type="strange",
            auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"},
        )
        (folder / "c.py").write_text("raise SystemExit('was run')")
        assert "--trust-remote-code" in refusal(UserError, load_model, folder)

    def test_revision_of_a_folder(self, folder):
        message = refusal(UserError, load_model, folder, revision="main")
        assert "no revision 'main'" in message

    def test_hub_that_cannot_be_reached(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        message = refusal(UserError, load_model, "somebody/some-model")
        assert "somebody/some-model: " in message
        assert "hub cannot be reached" in message

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
    def test_what_the_hub_answers(self, monkeypatch, kind, message):
        kind = getattr(huggingface_hub.errors, kind)
        cause = kind.__new__(kind, "answer")  # without the HTTP answer that it asks for

        def fail(*_args, **_kwargs):
            raise OSError("several\nlines") from cause

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_args, **_kwargs: None)
        monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
        assert message in refusal(UserError, load_model, "somebody/some-model")

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"dtype": "float23"}, r"dtype 'float23' is not one of .*Did you mean 'float32'\?"),
            ({"device": "cdua"}, r"device 'cdua' is not one of .*Did you mean 'cuda'\?"),
            ({"device": "cuda:99"}, "device 'cuda:99': torch .* sees"),
            ({"device": "cpu:1"}, "device 'cpu:1' is not one of"),
            ({"bos": "perhaps"}, "bos 'perhaps' is not one of"),
        ],
    )
    def test_unknown_settings(self, model_folder, setting, message):
        with pytest.raises(UserError, match=message):
            load_model(model_folder, **setting)

    def test_model_too_large_for_the_device(self, model_folder, monkeypatch):
        def fail(*_args, **_kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(torch.nn.Module, "to", fail)
        message = refusal(NoRoomError, load_model, model_folder, device="cpu")
        assert "does not fit into the device's memory" in message


class TestCheckFits:
    def test_positions_and_the_bos_token_count(self, build):
        check_fits(build("llama"), 80)
        check_fits(build("llama", adds_bos=True), 79)
        with pytest.raises(UserError, match="has 80 positions, sequences of 81 tokens need 81"):
            check_fits(build("llama"), 81)
        with pytest.raises(UserError, match="need 80 and one for the prepended token"):
            check_fits(build("llama", adds_bos=True), 80)

    def test_no_limit_without_positions(self, build):
        lm = build("bloom")
        lm.model.config.__dict__.pop("max_position_embeddings", None)
        lm = wrap_model(lm.model)
        assert lm.max_positions is None
        check_fits(lm, 10**6)


def test_refusals_are_ours():
    assert issubclass(UserError, MnemoscopeError)
