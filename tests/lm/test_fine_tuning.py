"""Continued training: an undisturbed loop of plain torch is the oracle, bit for bit."""

import copy

import numpy as np
import pytest
import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.continue_ import best_tokens, right_tokens, run_lengths
from mnemoscope.lm.fine_tuning import FineTuning, StepSettings
from mnemoscope.lm.load import load_model
from refusals import refusal
from tests.tiny_models import save_model


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return load_model(save_model(tmp_path_factory.mktemp("model") / "tiny"))


def batches(n: int = 4) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 300, (n, 3, 24)).astype(np.int32)


def test_steps_are_those_of_a_plain_loop_and_the_given_model_stays(lm) -> None:
    before = copy.deepcopy(lm.model.state_dict())
    tuning = FineTuning(lm, StepSettings(1e-3))
    losses = [tuning.train(batch) for batch in batches()]

    plain = copy.deepcopy(lm.model).train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    torch.set_num_threads(1)
    expected = []
    for batch in torch.from_numpy(batches()).long():
        logits = plain(input_ids=batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert losses == expected
    for name, value in plain.state_dict().items():
        assert torch.equal(tuning.lm.model.state_dict()[name], value), name
    assert all(torch.equal(lm.model.state_dict()[name], value) for name, value in before.items())
    assert tuning.digest() != lm.fingerprint


def test_ascent_goes_up_what_descent_goes_down_and_a_blow_up_is_refused(lm) -> None:
    batch = batches(1)[0]
    down, up = FineTuning(lm, StepSettings(1e-3)), FineTuning(lm, StepSettings(1e-3, ascent=True))
    first = down.train(batch)
    assert up.train(batch) == first
    for _ in range(3):
        lower, higher = down.train(batch), up.train(batch)
    assert lower < first < higher
    tuning = FineTuning(lm, StepSettings(1e30))
    tuning.train(batch)
    assert "smaller learning_rate" in refusal(tuning.train, batch)


def test_dropout_is_that_of_the_step_and_outside_numbers_go_on(tmp_path) -> None:
    """Two runs with dropout agree whatever was drawn in between; the outside generator stays."""
    lm = load_model(save_model(tmp_path / "dropping", hidden_dropout=0.3, attention_dropout=0.3))
    digests = []
    for n_drawn in (0, 5):
        torch.manual_seed(0)
        tuning = FineTuning(lm, StepSettings(1e-3))
        for batch in batches(2):
            torch.rand(n_drawn)
            state = torch.get_rng_state()
            tuning.train(batch)
            assert torch.equal(torch.get_rng_state(), state)
        digests.append(tuning.digest())
    assert digests[0] == digests[1]
    other = FineTuning(lm, StepSettings(1e-3, seed=1))
    for batch in batches(2):
        other.train(batch)
    assert other.digest() != digests[0]


def test_only_counted_tokens_move_the_weights(lm) -> None:
    first = batches(1)[0]
    second = first.copy()
    second[:, -1] = (second[:, -1] + 1) % 300
    counted = np.ones(first.shape, dtype=bool)
    counted[:, -1] = False
    digests = set()
    for batch in (first, second):
        tuning = FineTuning(lm, StepSettings(1e-3))
        tuning.train(batch, counted)
        digests.add(tuning.digest())
    assert len(digests) == 1
    with pytest.raises(UserError, match="no token is counted"):
        FineTuning(lm, StepSettings(1e-3)).train(first, np.zeros(first.shape, dtype=bool))


def test_best_tokens_follow_greedy_decoding_up_to_the_first_other(lm) -> None:
    prompt = torch.from_numpy(batches(1)[0][:, :8]).long()
    written = lm.model.generate(prompt, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    tokens = written.numpy()
    if (tokens == 0).any():  # min_new_tokens forbids the end of text, which greedy may choose
        tokens = tokens[(tokens != 0).all(axis=1)]
    best = best_tokens(lm, tokens, batch_size=2, prefix=8)
    is_right = right_tokens(lm, tokens, batch_size=2, prefix=8)
    np.testing.assert_array_equal(is_right, best == tokens[:, 8:])
    runs = run_lengths(is_right)
    expected = []
    for row in tokens:
        logits = lm.model(torch.from_numpy(row[None, :-1])).logits[0, 7:]
        right = (logits.argmax(-1).numpy() == row[8:]).tolist()
        expected.append(right.index(False) if False in right else len(right))
    assert runs.tolist() == expected
    assert max(expected) == 12


def in_layers(lm) -> list[str]:
    """Names of the matrices that are neither embedding."""
    return [
        name
        for name, one in lm.model.named_parameters()
        if one.ndim > 1 and name.startswith("gpt_neox.layers")
    ]


def plain_gradients(lm, batch) -> dict[str, torch.Tensor]:
    """Of the mean loss of a batch, by an undisturbed backward of transformers' own loss."""
    model = copy.deepcopy(lm.model).train()
    rows = torch.from_numpy(batch).long()
    model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
    return {name: one.grad for name, one in model.named_parameters()}


def test_sparse_steps_change_the_weights_of_largest_gradient_alone(lm) -> None:
    batch, part = batches(1)[0], 0.01
    tuning = FineTuning(lm, StepSettings(1e-3, ascent=True, way="sparse", part=part))
    for _ in range(3):
        tuning.train(batch)
    gradients = plain_gradients(lm, batch)
    flat = torch.cat([gradients[name].abs().flatten() for name in in_layers(lm)])
    least = flat.sort(descending=True).values[int(np.ceil(part * len(flat))) - 1]
    after, before = tuning.lm.model.state_dict(), lm.model.state_dict()
    for name in dict(lm.model.named_parameters()):
        changed = after[name] != before[name]
        if name in in_layers(lm):
            assert torch.equal(changed, gradients[name].abs() >= least), name
        else:
            assert not changed.any(), name


def test_pruning_sets_to_zero_what_holds_the_loss_down(lm) -> None:
    """By the first order no other weights raise the loss by more, when they are gone."""
    batch, part = batches(1)[0], 0.002
    tuning = FineTuning(lm, StepSettings(1.0, ascent=True, way="pruning", part=part))
    first = tuning.train(batch)
    gradients, before = plain_gradients(lm, batch), dict(lm.model.named_parameters())
    rise = {name: -(gradients[name] * before[name]).detach() for name in in_layers(lm)}
    flat = torch.cat([one.flatten() for one in rise.values()])
    n = int(np.ceil(part * len(flat)))
    after = dict(tuning.lm.model.named_parameters())
    gone = {name: (after[name] == 0) & (before[name] != 0) for name in rise}
    assert sum(int(one.sum()) for one in gone.values()) == n
    least = min(rise[name][gone[name]].min() for name in rise if gone[name].any())
    assert least >= flat.sort(descending=True).values[n - 1] - 1e-12
    for name, one in after.items():
        kept = ~gone[name] if name in gone else torch.ones_like(one, dtype=torch.bool)
        assert torch.equal(one[kept], before[name][kept])
    assert tuning.train(batch) > first
