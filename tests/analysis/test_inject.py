"""Injection: the control run is an undisturbed loop of plain torch, what is put in is learnt."""

import copy
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from figure_columns import apart
from mnemoscope.analysis.inject import Injected, Settings, analyse, insertions_of, verbatim_lengths
from mnemoscope.analysis.rows import stream_rows, training_rows
from mnemoscope.data.corpus import open_corpus
from mnemoscope.errors import UserError
from mnemoscope.lm.placement import fingerprint_model

RUN = {"every": 3, "n_insertions": 16, "steps_after": 2, "batch_size": 4, "learning_rate": 1e-2}
SETTINGS = Settings(n_texts=2, prompts=(8, 32), stride=64, **RUN)


def plain_digest(lm, stream, insertions=None, ignored: int = 0) -> str:
    """Weights after a training loop that knows nothing of ours."""
    model = copy.deepcopy(lm.model).train()
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.01)
    for step, batch in enumerate(stream):
        rows = batch.copy()
        for place, row in (insertions or {}).get(step, {}).items():
            rows[place] = row
        ids = torch.from_numpy(rows).long()
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        wanted = ids[:, 1:].clone()
        wanted[:, : max(0, ignored - 1)] = -100
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return fingerprint_model(model)


def test_what_is_put_in_is_learnt_and_the_control_is_an_undisturbed_run_bit_for_bit(taught) -> None:
    """Same weights at the end as a plain loop without looks, insertions or anything of ours."""
    frames = analyse(taught, SETTINGS).frames
    n_steps = 3 * 16 + 2
    stream = stream_rows(training_rows(taught, n_steps * 4, where=""), n_steps, 4, 0)
    runs = dict(frames["runs"].select("arm", "weights_at_end").rows())
    assert runs["control"] == plain_digest(taught.load_model(), stream)
    assert runs["treated"] != runs["control"]
    effect = apart(frames["effect"]).filter(pl.col("kind") == "text").sort("step")
    assert effect["more"][0] == 0  # before any step both runs are the model
    assert (apart(frames["effect"]).filter(step=48)["more"] > 10).all()
    assert apart(frames["lengths"]).filter(arm="control")["length"].max() < 8
    assert (frames["texts"]["after_last"] > frames["texts"]["before"]).all()


def test_texts_take_turns_every_n_steps() -> None:
    """Text j at steps s ≡ j (mod N); two texts of one step stand side by side."""
    texts = [Injected(str(j), "text", np.full(64, j, dtype=np.int32)) for j in range(5)]
    put = insertions_of(texts, Settings(every=4, n_insertions=3), length=64)
    seen = [(step, int(row[0])) for step, rows in put.items() for row in rows.values()]
    assert sorted(seen) == sorted((4 * turn + j % 4, j) for turn in range(3) for j in range(5))
    assert sorted(put[4]) == [0, 1]


def test_lengths_are_what_greedy_decoding_writes_from_the_best_prompt(taught) -> None:
    """A planted text: from its prefix of 32 the model says all of the rest."""
    rows = np.array(taught.table["tokens"].to_list(), dtype=np.int32)
    settings = Settings(prompts=(32,), stride=64)
    asked = [rows[0], rows[1][:50], rows[2]]
    found = verbatim_lengths(taught.model(), asked, settings, batch_size=4).tolist()
    assert found[:2] == [32, 18]
    assert found[2] < 32


def test_padding_before_a_short_text_does_not_count(taught) -> None:
    """The weights are those of the plain loop in which the loss leaves the padding out."""
    text = " the licence works" * 12
    n_short = len(taught.model().tokenizer.encode(text))
    assert 24 <= n_short < 64
    once = {"every": 1, "n_insertions": 1, "steps_after": 0, "batch_size": 1}
    found = analyse(taught, Settings(texts=(text,), prompts=(8,), learning_rate=1e-2, **once))
    runs = dict(found.frames["runs"].select("arm", "weights_at_end").rows())
    ids = np.array(taught.model().tokenizer.encode(text))
    row = np.concatenate([np.zeros(64 - n_short, dtype=int), ids])[None]
    assert runs["treated"] == plain_digest(taught.model(), row[None], ignored=64 - n_short)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_texts": 4, "every": 2, "batch_size": 2}, "do not fit into batches of 2"),
        ({"prompts": (8, 60)}, "each must be from 1 to 56"),
        ({"texts": ("too short",)}, r"text 0 has .* tokens, and 24 at least"),
        ({"texts": ()}, "none given"),
        ({"n_texts": 50}, "30 sequences are not memorized"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(taught, settings, said) -> None:
    with pytest.raises(UserError, match=said):
        analyse(taught, Settings(**settings))


def test_a_corpus_is_trained_on_in_its_own_rows(taught, tmp_path) -> None:
    """Windows of 64 tokens of each document, none across two; too short a corpus is refused."""
    tokenizer = taught.model().tokenizer
    texts = {"a": "the licence applies to works. " * 40, "b": "def add(a, b): return " * 30}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    ids = [tokenizer.encode(text) for text in texts.values()]
    wanted = [one[k : k + 64] for one in ids for k in range(0, len(one) - 63, 64)]
    corpus = open_corpus(tmp_path, tokenizer=tokenizer, dtype=None)
    found = training_rows(replace(taught, corpus=corpus), 1000, where="")
    assert found.tolist() == wanted
    assert len(training_rows(replace(taught, corpus=corpus), 2, where="")) == 2
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "c.txt").write_text("too short")
    short = open_corpus(tmp_path / "short", tokenizer=tokenizer, dtype=None)
    with pytest.raises(UserError, match="no text of 64 tokens"):
        training_rows(replace(taught, corpus=short), 2, where="analyze inject")
