"""A model is loaded as it was saved, quietly, from a folder or a GGUF file, or refused."""

import logging
import os
import shutil
from functools import partial

import huggingface_hub
import numpy as np
import pytest
import torch
from tiny_families import edit_json
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from gguf_files import write_gguf
from mnemoscope.errors import DamagedDataError, NoRoomError, UserError
from mnemoscope.lm.fine_tuning import FineTuning, StepSettings
from mnemoscope.lm.load import convert_gguf, load_model
from mnemoscope.lm.model import check_fits, wrap_model
from mnemoscope.lm.tokenizer import load_tokenizer
from refusals import refusal


@pytest.fixture
def folder(model_folder, tmp_path):
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
    model_folder, folder, build, tmp_path
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
    edit_json(folder / "config.json", rms_norm_eps=1e-3)
    prints = {
        first.fingerprint,
        load_model(folder, device="cpu").fingerprint,
        load_model(model_folder, dtype="bfloat16", device="cpu").fingerprint,
        wrap_model(changed.model).fingerprint,
    }
    assert len(prints) == 4


def save_other(family, **changes):
    def save(folder):
        config = AutoConfig.for_model(
            family, vocab_size=96, hidden_size=32, num_hidden_layers=2, **changes
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)

    return save


def own_code(folder):
    named = {"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"}
    edit_json(folder / "config.json", model_type="strange", auto_map=named)
    (folder / "c.py").write_text("raise SystemExit('was run')")


def config_is(data: bytes):
    return lambda folder: (folder / "config.json").write_bytes(data)


def config_with(folder, key, value):
    edit_json(folder / "config.json", **{key: value})


def index_is(folder, data):
    (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_bytes(data)


CHANGED = [
    ("hidden_size", "many"),
    ("hidden_size", -1),
    ("num_hidden_layers", [2]),
    ("num_attention_heads", 0),
    ("num_attention_heads", None),
    ("vocab_size", {}),
    ("rms_norm_eps", "small"),
    ("max_position_embeddings", "long"),
    ("rope_parameters", 3),
    ("hidden_act", 7),
    ("model_type", 3),
    ("quantization_config", 1),
    ("tie_word_embeddings", "perhaps"),
]
MAPPED_TO_NUMBERS = b'{"weight_map": {"lm_head.weight": 1}}'
UNMERGEABLE = {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}


SMALL_BERT = {"num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.3}
WEIGHTS = "model.safetensors"
SPOILT = [
    (config_is(b"{"), "config.json cannot be read"),
    (config_is(b"[]"), "config.json cannot be read"),
    (config_is(b"\x80"), "config.json cannot be read"),
    (config_is(b'{"model_type": "gramophone"}'), "gramophone"),
    (lambda at: AutoConfig.for_model("t5").save_pretrained(at), "'t5' is no causal language model"),
    (save_other("bert", **SMALL_BERT), "depends on later tokens"),
    (save_other("mamba", state_size=4), "has no attention"),
    (lambda at: (at / WEIGHTS).rename(at / "pytorch_model.bin"), "only pickled weights"),
    (lambda at: (at / WEIGHTS).unlink(), "holds no weights"),
    (lambda at: (at / WEIGHTS).rename(at / "optimizer.pt"), "holds no weights"),
    (
        lambda at: AutoModel.from_pretrained(at).save_pretrained(at),
        "1 weights are missing, lm_head",
    ),
    (lambda at: (at / "tokenizer.json").unlink(), "holds no tokenizer"),
    (lambda at: (at / "tokenizer.json").write_text("{}"), "tokenizer"),
    (lambda at: edit_json(at / "tokenizer.json", model=UNMERGEABLE), "tokenizer cannot be read"),
    (own_code, "trust_remote_code"),
    *(
        (partial(config_with, key=key, value=value), "Is it a causal language model, and whole?")
        for key, value in CHANGED
    ),
    *((partial(index_is, data=data), "cannot") for data in (b"{", b"[]", b"{}", MAPPED_TO_NUMBERS)),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILT)
def test_what_is_no_whole_causal_model_is_refused(folder, spoil, words):
    spoil(folder)
    assert words in refusal(load_model, folder, device="cpu")


def test_what_is_no_model_folder_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    assert "nowhere: no such model folder or file" in refusal(load_model, tmp_path / "nowhere")
    assert "Give the folder" in refusal(load_model, file)
    assert "no config.json and no .gguf" in refusal(load_model, tmp_path)
    for step in (5, 10, 200, 15, 1000):
        (tmp_path / f"run/step-{step}").mkdir(parents=True)
        (tmp_path / f"run/step-{step}/config.json").write_text("{}")
    said = refusal(load_model, tmp_path / "run")
    assert "but checkpoints: step-10, step-15, step-200, step-1000 (1 more before them). " in said
    assert f"Name one, such as {tmp_path / 'run' / 'step-1000'}; " in said
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
        ({"device_map": "autos"}, "Did you mean 'auto'"),
        ({"device_map": "auto", "device": "cpu"}, "give one of the two"),
        ({"device_map": {"": "gpu"}}, "device 'gpu'"),
        ({"device_map": {"": 99}}, "device 'cuda:99'"),
        ({"device_map": {"lm_head": "cpu", "nowhere": "disk"}}, "cannot be loaded"),
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


@pytest.fixture(scope="module")
def original(build):
    return build("qwen2", vocab_size=260, rope_theta=10000.0, rms_norm_eps=1e-6).model


@pytest.fixture(scope="module")
def file(original, tmp_path_factory):
    return write_gguf(original, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_and_the_folder_made_of_it_hold_the_original_model(original, file, tmp_path):
    converted = convert_gguf(file, tmp_path / "deep" / "folder")
    first, second = load_model(file, device="cpu"), load_model(converted, device="cpu")
    expected = original.state_dict()
    for lm in (first, second):
        assert lm.model.state_dict().keys() == expected.keys()
        assert all(torch.equal(expected[k], v) for k, v in lm.model.state_dict().items())
        assert lm.tokenizer("ab").input_ids == [256]
    assert load_model(file.parent, device="cpu").fingerprint == first.fingerprint
    assert second.fingerprint == first.fingerprint
    assert second.bos_id == first.bos_id
    text = "Hello, 12 worlds:\n\tend"
    assert second.tokenizer(text).input_ids == first.tokenizer(text).input_ids
    assert not list(converted.parent.glob(".*"))
    (tmp_path / "new").touch()  # files have the mode of any new one
    mode = (tmp_path / "new").stat().st_mode
    assert {one.stat().st_mode for one in converted.iterdir()} == {mode}
    rows = np.arange(12, dtype=np.int32).reshape(2, 6)
    losses = [FineTuning(lm, StepSettings(1e-3)).train(rows) for lm in (first, second)]
    assert losses[0] == losses[1]  # what was read from GGUF can be trained too


def test_convert_makes_a_folder_of_a_gguf(file, tmp_path, call, refused):
    made = tmp_path / "made"
    result = call("data", "convert", file, "-o", made)
    assert (result.status, result.err) == (0, "")
    assert f"Wrote {made}." in result.out
    assert (made / "model.safetensors").is_file()
    assert "already there" in refused("data", "convert", file, "-o", made)


@pytest.mark.parametrize("size", [0, 6, 2000, -1000])
def test_a_torn_gguf_is_refused_and_leaves_nothing_behind(file, tmp_path, refused, size):
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(file.read_bytes()[:size])
    said = refused("data", "convert", torn, "-o", tmp_path / "out" / "folder")
    assert "torn.gguf: its weights cannot be read" in said
    assert [path.name for path in tmp_path.iterdir()] == ["torn.gguf"]


def test_a_gguf_on_a_full_disk_leaves_nothing_behind(file, tmp_path, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", fail)
    assert "disk is full" in refusal(convert_gguf, file, tmp_path / "folder", error=NoRoomError)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_gguf_the_command_is_given(file, hide):
    hide("gguf")
    said = refusal(load_model, file)
    assert "needs gguf: pip install '" in said
    assert "'gguf>=0.10'" in said
