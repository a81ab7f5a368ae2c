"""The Trainer logs memorization, stops on it, and resumes with it."""

from copy import deepcopy

import polars as pl
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from mnemoscope.training.callback import MemorizationCallback
from mnemoscope.training.history import read_history
from mnemoscope.training.windows import WatchedWindows
from refusals import refusal


class Logger(TrainerCallback):
    """Stands where TensorBoard's callback does, and gets what it gets."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict]] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append((state.global_step, dict(logs)))


def make_trainer(network, rows, folder, **settings) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        **{
            "per_device_train_batch_size": len(rows),
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "max_steps": 40,
            "logging_steps": 1000,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "seed": 0,
        }
        | settings,
    )
    return Trainer(network, arguments, train_dataset=rows)


def means_of_canaries(folder, column) -> dict[int, float]:
    seen = read_history(folder / "memorization").joined().filter(source="canary")
    means = seen.group_by("step", maintain_order=True).agg(pl.col(column).mean())
    return dict(means.iter_rows())


def test_metrics_reach_loggers_and_history_until_training_stops_above_the_share(
    network, rows, windows, tmp_path, caplog
):
    trainer = make_trainer(network, rows, tmp_path, max_steps=200)
    logger = Logger()
    trainer.add_callback(logger)
    trainer.add_callback(MemorizationCallback(trainer, windows, every=5, stop_recall=0.4))
    trainer.train()
    last = trainer.state.global_step
    assert last < 100
    logged = {step: logs for step, logs in logger.logs if "memorization/recall" in logs}
    assert list(logged) == list(range(0, last + 1, 5))
    shares = means_of_canaries(tmp_path, "is_memorized")
    assert {step: logs["memorization/recall"] for step, logs in logged.items()} == shares
    *before, final = shares.values()
    assert before[0] == 0
    assert max(before) <= 0.4 < final
    assert logged[last]["memorization/control_recall"] == 0
    assert [entry["step"] for entry in trainer.state.log_history if "memorization/guess" in entry]
    assert "training stops" in caplog.text


@pytest.mark.parametrize(("every", "logging_steps"), [(1, 1), (2, 6), (3, 2)])
def test_the_trainers_own_log_is_what_it_is_without_us(
    network, rows, windows, tmp_path, every, logging_steps
):
    """Loss, gradient norm and learning rate at every ratio of checks to logging, to the bit."""

    def own_log(callbacks: bool) -> list[tuple]:
        copy = deepcopy(network)
        trainer = make_trainer(copy, rows, tmp_path, max_steps=6, logging_steps=logging_steps)
        if callbacks:
            trainer.add_callback(MemorizationCallback(trainer, windows, every=every))
        trainer.train()
        return [
            tuple(entry[name] for name in ("step", "loss", "grad_norm", "learning_rate"))
            for entry in trainer.state.log_history
            if "loss" in entry
        ]

    without = own_log(False)
    assert [entry[0] for entry in without] == list(range(logging_steps, 7, logging_steps))
    assert own_log(True) == without


def test_steps_are_optimizer_steps_and_the_last_is_looked_at(network, rows, windows, tmp_path):
    accumulated = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3}
    trainer = make_trainer(network, rows, tmp_path, max_steps=5, **accumulated)
    trainer.add_callback(MemorizationCallback(trainer, windows, every=2))
    trainer.train()
    assert read_history(tmp_path / "memorization").steps == [0, 2, 4, 5]


def test_resumed_run_sees_what_an_undisturbed_one_sees(rows, windows, tokenizer, tmp_path):
    # Not GPT-NeoX: transformers' Trainer does not find its head again in a checkpoint.
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    network = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=2, attention_dropout=0.1, **sizes)
    )
    settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8}
    twin = deepcopy(network)

    def train(model, folder, max_steps=8, **resumed):
        trainer = make_trainer(model, rows, folder, **settings | {"max_steps": max_steps})
        trainer.add_callback(MemorizationCallback(trainer, windows, every=2))
        trainer.train(**resumed)

    train(network, tmp_path / "whole")
    # The same run, given up at step 6 and taken up from its checkpoint of step 4.
    again = tmp_path / "again"
    train(deepcopy(twin), again, max_steps=6)
    train(twin, again, resume_from_checkpoint=str(again / "checkpoint-4"))
    for path in sorted((tmp_path / "whole" / "memorization" / "checks").glob("*.parquet")):
        other = tmp_path / "again" / "memorization" / "checks" / path.name
        assert path.read_bytes() == other.read_bytes(), path.name


def test_bad_settings_and_spread_models_are_refused(
    network, rows, windows, texts, tokenizer, tmp_path
):
    trainer = make_trainer(network, rows, tmp_path)
    guesses = WatchedWindows.from_texts(texts.guessable, tokenizer)
    for watched, settings, words in (
        (windows, {"every": 0}, "every 0"),
        (windows, {"stop_recall": 1.5}, "share from 0 to 1"),
        (windows, {"stop_recall": -0.1}, "share from 0 to 1"),
        (guesses, {"stop_recall": 0.1}, "none of the watched windows"),
    ):
        assert words in refusal(MemorizationCallback, trainer, watched, **settings)
    trainer.is_fsdp_enabled = True
    assert "FSDP" in refusal(MemorizationCallback, trainer, guesses)
