"""Models and texts as people have them: what is found is what transformers itself gives."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import mnemoscope as ms
from tiny_models import VOCABULARY, make_tokenizer

FAMILIES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 80},
    "llama": {"num_key_value_heads": 2},
    "gpt_neox": {},
    "gemma3_text": {"head_dim": 8, "num_key_value_heads": 2, "sliding_window": 16},
}
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 80,
    "initializer_range": 0.3,
    "eos_token_id": None,  # which `generate` would hold back
}
TEXTS = ["def add(a, b):\n    return a + b\n" * 8, "The licence applies to works. " * 12]


def random_model(family: str, **sizes: int):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**_SIZES, **FAMILIES[family], **sizes})
    return AutoModelForCausalLM.from_config(config)


def adapted(model):
    """The model in a LoRA adapter of random weights, as PEFT wraps it."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    return peft.get_peft_model(model, config)


@pytest.fixture(scope="module", params=[*FAMILIES, "lora"])
def asked(request) -> SimpleNamespace:
    """A model in training mode, its tokenizer, and windows of which half are reproduced."""
    name, tokenizer = request.param, make_tokenizer()
    model = adapted(random_model("llama")) if name == "lora" else random_model(name)
    model.train()
    windows = ms.windows(TEXTS, tokenizer, prefix=16, suffix=8, stride=6)
    return SimpleNamespace(model=model, tokenizer=tokenizer, windows=windows)


def test_continuations_are_those_of_generate_and_scanning_agrees(asked) -> None:
    decoded = ms.scan(asked.model, asked.windows, decode=True)
    prompts = torch.tensor(asked.windows["tokens"].to_list())[:, :16]
    with torch.no_grad():
        asked.model.eval()
        wanted = asked.model.generate(
            input_ids=prompts, do_sample=False, min_new_tokens=8, max_new_tokens=8, pad_token_id=0
        )[:, 16:]
        asked.model.train()
    assert decoded["continuation"].to_list() == wanted.tolist()
    planted = decoded.with_columns(
        pl.concat_list(pl.col("tokens").list.head(16), "continuation").alias("tokens")
    )
    mixed = pl.concat([asked.windows[:3], planted.select(asked.windows.columns)[3:]])
    scanned = ms.scan(asked.model, mixed)
    assert scanned["is_memorized"].to_list() == [False] * 3 + [True] * (mixed.height - 3)
    assert all(one.training for one in asked.model.modules())  # left as it was


def test_maps_are_the_means_and_maxima_of_eager_attention(asked) -> None:
    maps = ms.capture(asked.model, asked.windows)
    plain = asked.model.get_base_model() if hasattr(asked.model, "peft_config") else asked.model
    before = plain.config._attn_implementation
    plain.set_attn_implementation("eager")
    with torch.no_grad():
        plain.eval()
        tokens = torch.tensor(asked.windows["tokens"].to_list())
        weights = torch.stack(plain(tokens, output_attentions=True).attentions, dim=1)
        plain.train()
    plain.set_attn_implementation(before)
    assert maps.shape == (len(tokens), 2, 24, 24)
    np.testing.assert_allclose(maps, weights.mean(dim=2).numpy(), atol=1e-3)
    np.testing.assert_allclose(maps.pooled("max")[:], weights.amax(dim=2).numpy(), atol=1e-3)
    np.testing.assert_array_equal(maps.take([3, 1])[:], maps[[3, 1]])


def test_a_reference_is_grafted_in_and_taken_out(asked) -> None:
    if hasattr(asked.model, "peft_config"):
        twin = None  # its own base
    else:
        twin = random_model(asked.model.config.model_type)
        with torch.no_grad():
            for weight in twin.parameters():
                weight.mul_(0.5)
    before = ms.scan(asked.model, asked.windows, decode=True)
    with ms.grafted(asked.model, twin, "all"):
        inside = ms.scan(asked.model, asked.windows, decode=True)
    assert not inside["smallest_gap"].equals(before["smallest_gap"])
    assert ms.scan(asked.model, asked.windows, decode=True).equals(before)


def test_texts_in_every_form_are_the_same_windows(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    tokenizer, columns = make_tokenizer(), {"text": TEXTS}
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text)
    wanted = ms.windows(TEXTS, tokenizer, prefix=16, suffix=16)
    forms = [
        dict(zip("ab", TEXTS, strict=True)),
        pl.DataFrame(columns),
        pandas.DataFrame(columns),
        datasets.Dataset.from_dict(columns),
        tmp_path,
        str(tmp_path),
        np.array(wanted["tokens"].to_list()),
    ]
    for form in forms:
        found = ms.windows(form, tokenizer, prefix=16, suffix=16)
        assert found["tokens"].to_list() == wanted["tokens"].to_list(), type(form)
        assert found["n_prefix"].unique().to_list() == [16]
    alone = ms.windows(TEXTS[0], tokenizer, prefix=16, suffix=16)
    assert alone["tokens"].to_list() == wanted["tokens"].to_list()[: alone.height]


def test_a_name_a_path_and_a_loaded_model_say_the_same(tiny) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    table = pl.read_parquet(tiny.table)
    wanted = ms.scan(tiny.model, table)
    for given in (str(tiny.model), model):
        assert ms.scan(given, table).equals(wanted)
        assert ms.scan(given, tiny.table).select(wanted.columns[-2:]).equals(wanted[:, -2:])


def test_a_quantized_model_is_asked_as_it_is(tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    random_model("llama", hidden_size=128, intermediate_size=128).save_pretrained(tmp_path)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path, quantization_config=settings, device_map={"": "cpu"}
        )
    except (ImportError, RuntimeError, ValueError) as error:
        pytest.skip(f"no 4-bit weights on this machine: {error}")
    windows = ms.windows(TEXTS, make_tokenizer(), prefix=16, suffix=8)
    decoded = ms.scan(model, windows, decode=True)
    prompts = torch.tensor(windows["tokens"].to_list())[:, :16]
    with torch.no_grad():
        logits = model(prompts).logits[:, -1]
    assert [one[0] for one in decoded["continuation"]] == logits.argmax(dim=-1).tolist()
    assert ms.capture(model, windows).shape == (windows.height, 2, 24, 24)


def test_what_a_folder_holds_is_of_these_weights_adapters_and_tokens_alone(tmp_path) -> None:
    model = adapted(random_model("llama"))
    windows = ms.windows(TEXTS, make_tokenizer(), prefix=16, suffix=8)
    with_adapter = ms.capture(model, windows, out=tmp_path / "true")
    with model.disable_adapter(), pytest.raises(ms.UserError, match="made otherwise"):
        ms.capture(model, windows, out=tmp_path / "true")
    again = ms.capture(model, windows, out=tmp_path / "true")
    np.testing.assert_array_equal(again, with_adapter)
    ms.capture(model, windows, suffix="own", out=tmp_path / "own")
    with pytest.raises(ms.UserError, match="made otherwise"):
        ms.capture(model, windows, suffix="own", prefix=8, out=tmp_path / "own")


def test_one_scan_does_not_speak_of_another() -> None:
    first, second = random_model("llama"), random_model("gpt_neox")
    windows = ms.windows(TEXTS, make_tokenizer(), prefix=16, suffix=8)
    again = ms.scan(second, ms.scan(first, windows, decode=True), prefix=12)
    assert not {"continuation", "memorization_score"} & {*again.columns}
    assert again["n_prefix"].unique().to_list() == [12]
    assert ms.capture(second, again).n_prefix == 12
    maps = ms.capture(second, again, suffix="own")
    fresh = ms.scan(second, windows.drop("n_prefix"), decode=True, prefix=12)
    is_own = ~fresh["is_memorized"].to_numpy()
    wanted = np.array(fresh["continuation"].to_list())
    np.testing.assert_array_equal(maps.tokens[is_own, 12:], wanted[is_own])
    classified = ms.classify(again, "Non-Memo, Guess, Recall")
    with pytest.raises(ms.UserError, match="scanned with 12"):
        ms.classify(classified, "Non-Memo, Guess, Recall", prefix=4)
    other = ms.scan(second, classified, prefix=4)
    assert "class" not in other.columns
    other = ms.classify(other, "Non-Memo, Guess, Recall")
    afresh = ms.scan(second, windows.drop("n_prefix"), prefix=4)
    assert other["rouge_l"].equals(ms.classify(afresh, "Non-Memo, Guess, Recall")["rouge_l"])
    assert not other["rouge_l"].equals(classified["rouge_l"])


def test_maps_are_gone_through_window_by_window() -> None:
    windows = ms.windows(TEXTS, make_tokenizer(), prefix=8, suffix=8, limit=5)
    maps = ms.capture(random_model("gpt2"), windows)
    np.testing.assert_array_equal(np.stack(list(maps)), np.asarray(maps))


def test_what_pandas_and_numpy_write_for_no_class_is_no_class() -> None:
    windows = ms.windows(TEXTS, make_tokenizer(), prefix=8, suffix=8)
    names = [("a", "b", None)[row % 3] for row in range(windows.height)]
    numbers = np.array([(0.0, 1.0, np.nan)[row % 3] for row in range(windows.height)])
    series = pl.Series(names).to_pandas()
    given = {"kind": "ngrams", "minimum": 2, "groups": windows["sequence_id"]}
    wanted = ms.fit_blind(windows, names, **given)
    for labels in (series, series.astype("string"), series.astype("category"), numbers):
        found = ms.fit_blind(windows, labels, **given)
        assert found.sample["sequence_id"].equals(wanted.sample["sequence_id"])
        assert len(found.classes) == 2


def test_an_audit_takes_a_frame_and_names_its_texts() -> None:
    model, text = random_model("gpt2"), "".join(TEXTS)
    given = {"tokenizer": make_tokenizer(), "prefix": 8, "suffix": 8}
    named = pl.DataFrame({"text": [text, text[::-1]], "document": ["one", "two"]})
    for frame in (named, named.to_pandas()):
        record = ms.audit(model, frame, **given).record
        assert [one["document"] for one in record["documents"]] == ["one", "two"]
    bare = ms.audit(model, named.select("text"), **given).record
    assert [one["document"] for one in bare["documents"]] == ["text 0", "text 1"]


def test_a_refusal_leaves_the_model_in_training() -> None:
    model = random_model("gpt2")
    model.train()
    model.config.bos_token_id = 0  # whether it is read is not known without a tokenizer
    with pytest.raises(ms.UserError, match="Give tokenizer="):
        ms.scan(model, np.zeros((2, 8), dtype=np.int64))
    assert all(one.training for one in model.modules())


def test_texts_without_blanks_are_texts_and_nothing_is_no_text() -> None:
    tokenizer = make_tokenizer()
    assert ms.windows("\u8fd9\u662f" * 300, tokenizer).height > 1
    with pytest.raises(ms.UserError, match="no file"):
        ms.windows("", tokenizer)
