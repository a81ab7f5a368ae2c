"""Running out of memory makes batches smaller and changes nothing else."""

import logging
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.errors import NoRoomError, UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.model import run_batches


class Model:
    """What `run_batches` reads of a language model."""

    name, device = "tiny", "cpu"


def step_with_room_for(n_rows, error):
    def step(batch):
        if len(batch) > n_rows:
            raise error
        return batch[:, 0].tolist()

    return step


@settings(max_examples=60)
@given(
    n_rows=st.integers(0, 40),
    batch_size=st.integers(1, 50),
    room=st.integers(1, 50),
)
def test_every_row_once_and_in_order_whatever_fits(n_rows, batch_size, room):
    rows = torch.arange(n_rows)[:, None]
    step = step_with_room_for(room, torch.OutOfMemoryError("CUDA out of memory"))
    batches = list(run_batches(Model, rows, batch_size, step))
    assert list(chain.from_iterable(batches)) == list(range(n_rows))
    assert all(len(batch) <= min(batch_size, room) for batch in batches)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ],
)
def test_halving_is_said_once_and_lasts(error, caplog):
    rows = torch.arange(20)[:, None]
    with caplog.at_level(logging.WARNING):
        batches = list(run_batches(Model, rows, 8, step_with_room_for(4, error)))
    assert [len(batch) for batch in batches] == [4] * 5
    assert [r.getMessage() for r in caplog.records] == [
        "out of memory on cpu: going on with batch size 4"
    ]


def test_no_room_for_one_row_is_refused():
    rows = torch.arange(3)[:, None]
    with pytest.raises(NoRoomError, match="tiny: one sequence alone does not fit"):
        list(run_batches(Model, rows, 2, step_with_room_for(0, MemoryError())))


def test_other_errors_pass():
    step = step_with_room_for(0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(run_batches(Model, torch.zeros(2, 1), 2, step))


def test_batch_size_below_one_is_refused():
    with pytest.raises(UserError, match="batch size 0: must be at least 1"):
        list(run_batches(Model, torch.zeros(2, 1), 0, len))


def test_model_is_usable_after_memory_ran_out_within_a_forward(build, tokens):
    lm, table = build("gpt_neox"), tokens(8)

    def fail_above_two(_module, args, kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    expected = torch.cat([b.mean for b in capture_pooled(lm, table, batch_size=2)])
    handle = lm.model.base_model.register_forward_pre_hook(fail_above_two, with_kwargs=True)
    found = [batch.mean for batch in capture_pooled(lm, table, batch_size=8)]
    handle.remove()
    assert [len(batch) for batch in found] == [2, 2, 2, 2]
    np.testing.assert_array_equal(torch.cat(found).numpy(), expected.numpy())
