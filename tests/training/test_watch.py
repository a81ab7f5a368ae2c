"""A look at a model in training: right figures, and a model that does not notice."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.model import wrap_model
from mnemoscope.training.history import read_history
from mnemoscope.training.watch import MemorizationWatch
from mnemoscope.training.windows import WatchedWindows
from refusals import refusal


def train(network, rows, n_steps, watch=None, every=5):
    torch.manual_seed(1)
    network.train()
    batch = torch.tensor([row["input_ids"] for row in rows])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for step in range(1, n_steps + 1):
        loss = network(input_ids=batch, labels=batch).loss
        loss.backward()
        if watch is not None and step % every == 0:
            watch.check(network, step)  # with gradients waiting
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_training_does_not_notice_that_it_is_watched(network, rows, windows, tmp_path):
    twin = copy.deepcopy(network)
    watched = train(network, rows, 6, MemorizationWatch(windows, tmp_path / "m"), every=2)
    assert watched == train(twin, rows, 6)
    for name, value in network.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name
    network.gpt_neox.layers[0].eval()
    generator = torch.get_rng_state()
    before = {name: module.training for name, module in network.named_modules()}
    MemorizationWatch(windows).check(network, 1)
    assert {name: module.training for name, module in network.named_modules()} == before
    assert len(set(before.values())) == 2
    assert torch.equal(torch.get_rng_state(), generator)


def test_figures_are_those_of_the_models_own_logits(network, rows, windows, tmp_path):
    train(network, rows, 40)
    windows = replace(windows, table=windows.table.drop("unwrapped"))  # asked as they stand alone
    watch = MemorizationWatch(windows, tmp_path / "m", batch_size=5)
    metrics = watch.check(network, 60)
    network.eval()
    tokens = torch.from_numpy(windows.tokens.astype(np.int64))
    with torch.no_grad():
        logits = network(input_ids=tokens).logits[:, 31:-1]
    right = (logits.argmax(-1) == tokens[:, 32:]).numpy()
    logprobs = torch.log_softmax(logits, -1).gather(2, tokens[:, 32:, None]).squeeze(2).numpy()
    seen = read_history(tmp_path / "m").joined()
    assert seen["is_memorized"].to_list() == right.all(1).tolist()
    assert np.allclose(seen["right"], right.mean(1), atol=1e-6)
    assert np.allclose(seen["logprob"], logprobs.mean(1), atol=1e-4)
    scan = scan_memorized(wrap_model(network), windows.tokens, batch_size=32)
    assert seen["is_memorized"].to_list() == np.concatenate([b.is_memorized for b in scan]).tolist()
    is_canary = (windows.table["source"] == "canary").to_numpy()
    assert metrics["memorization/recall"] == right[is_canary].all(1).mean()
    assert metrics["memorization/recall_logprob"] == pytest.approx(
        logprobs[is_canary].mean(), abs=1e-4
    )


def test_wrapped_models_are_seen_as_the_plain_one(network, windows):
    plain, wrapped = (
        MemorizationWatch(windows).check(model, 0) | {"memorization/seconds": 0}
        for model in (network, torch.nn.DataParallel(network))
    )
    assert plain == wrapped


ATTENTION = ["query_key_value"]


@pytest.mark.parametrize(
    "more",
    [
        {"target_modules": ATTENTION},
        {"target_modules": [*ATTENTION, "embed_in"]},
        {"target_modules": ATTENTION, "modules_to_save": ["embed_in"]},
        {"target_modules": ATTENTION, "trainable_token_indices": list(range(512))},
    ],
    ids=["attention", "embedding", "saved whole", "tokens"],
)
def test_adapters_are_seen(network, windows, more):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(copy.deepcopy(network), peft.LoraConfig(r=2, **more))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if value.requires_grad and ("embed_in" in name or len(more) == 1):
                value.normal_()
    seen = MemorizationWatch(windows).check(adapted, 0)
    adapted.eval()
    tokens = torch.from_numpy(windows.tokens.astype(np.int64))
    with torch.no_grad():
        logprobs = adapted(input_ids=tokens).logits[:, 31:-1].log_softmax(-1)
    wanted = logprobs.gather(2, tokens[:, 32:, None]).mean(dim=(1, 2)).numpy()
    is_canary = (windows.table["source"] == "canary").to_numpy()
    found = seen["memorization/recall_logprob"]
    assert found == pytest.approx(wanted[is_canary].mean(), abs=1e-5)
    plain = MemorizationWatch(windows).check(network, 0)
    assert abs(found - plain["memorization/recall_logprob"]) > 1e-3


def test_histories_that_are_missing_empty_torn_or_of_other_windows_are_refused(
    network, windows, tokenizer, texts, tmp_path
):
    assert "no history" in refusal(read_history, tmp_path)
    watch = MemorizationWatch(windows, tmp_path / "m")
    assert "holds no check" in refusal(read_history, tmp_path / "m")
    watch.check(network, 7)
    with pytest.raises(UserError, match="history of other windows"):
        MemorizationWatch(WatchedWindows.from_texts(texts.trained, tokenizer), tmp_path / "m")
    assert MemorizationWatch(windows, tmp_path / "m").begin(7) == 0
    part = tmp_path / "m" / "checks" / "step-000000007.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DamagedDataError, match=r"step-000000007.parquet: damaged"):
        read_history(tmp_path / "m")


def test_models_of_other_tokens_or_with_a_prompt_are_refused(network, windows):
    small = type(network)(type(network.config)(**{**network.config.to_dict(), "vocab_size": 8}))
    assert "another tokenizer" in refusal(MemorizationWatch(windows).check, small, 0)
    peft = pytest.importorskip("peft")
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(UserError, match="prompts or prefixes"):
        MemorizationWatch(windows).check(peft.get_peft_model(network, prompt), 0)
