"""Verbatim length on planted truth: exactly k tokens come out, and copies do not count."""

import numpy as np
import polars as pl
import pytest

from experiments.circuits.networks import copying_network
from mnemoscope.analysis.length import Settings, analyse
from mnemoscope.analysis.rows import words_in_common
from mnemoscope.errors import UserError
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.load import load_model
from tests.analysis.conftest import inputs_of
from tests.tiny_models import make_tokenizer, save_model


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return load_model(save_model(tmp_path_factory.mktemp("model")), device="cpu")


def _planted(lm, planted: list[int]) -> np.ndarray:
    """Sequences of which exactly so many tokens come out after their 32-token prefix."""
    tokens = np.random.default_rng(0).integers(1, 300, (len(planted), 64)).astype(np.int32)
    written = next(continue_sequences(lm, tokens, batch_size=len(planted))).tokens
    for row, k in enumerate(planted):
        tokens[row, 32 : 32 + k] = written[row, :k]
        if k < 32:
            tokens[row, 32 + k] = (written[row, k] + 1) % 300 or 1  # the mistake
    return tokens


def test_exactly_the_planted_tokens_come_out(lm) -> None:
    planted = [0, 1, 5, 15, 16, 17, 25, 31, 32]
    inputs = inputs_of(lm, _planted(lm, planted), [k == 32 for k in planted])
    result = analyse(inputs, Settings(prompt_lengths=(32,), n_sequences=None))
    found = result.frames["answers"].filter(pl.col("start") == 0)
    assert found["n_tokens"].to_list() == planted
    shares = result.frames["shares"].row(0, named=True)
    assert shares["share_with_copies"] == pytest.approx(5 / 9)
    # from a later start nothing more comes out than what is left of it
    best = result.frames["lengths"]["with_copies"].to_numpy()
    assert (best >= planted).all()
    assert (best[np.array(planted) < 16] < 16).all()
    for row in result.frames["lengths"].drop_nulls("prompt").iter_rows(named=True):
        own = result.frames["answers"].filter(sequence_id=row["sequence_id"])
        chosen = own.filter(prompt=row["prompt"], start=row["start"])
        assert chosen["n_tokens"].item() == row["length"] == own["n_tokens"].max()


def test_every_prompt_is_what_greedy_decoding_says(lm) -> None:
    """All lengths and starts of some sequences, against a decoding of each alone."""
    tokens = _planted(lm, [20, 32])
    answers = analyse(inputs_of(lm, tokens), Settings(least=20, n_sequences=None)).frames["answers"]
    assert answers.height == 2 * (37 + 29 + 13)  # starts 0 to 64 - P - 20 of P = 8, 16, 32
    for row in answers.sample(15, seed=1).iter_rows(named=True):
        shown = tokens[row["sequence_id"], None, row["start"] :]
        written = next(continue_sequences(lm, shown, batch_size=1, prefix=row["prompt"])).tokens[0]
        right = written == shown[0, row["prompt"] :]
        assert row["n_tokens"] == (len(right) if right.all() else int(right.argmin()))


def test_what_is_copied_from_the_prompt_does_not_count() -> None:
    """A network that only repeats what stood 16 tokens before brings out everything, and 0."""
    tokenizer = make_tokenizer()
    lm = copying_network(
        {q: q - 15 for q in range(15, 64)}, vocabulary=320, length=64, tokenizer=tokenizer
    )
    letters = [tokenizer.convert_tokens_to_ids(one) for one in "abcdefghijklmnopqrstuvwxyz"]
    periods = [np.random.default_rng(seed).permutation(letters)[:16] for seed in range(10)]
    result = analyse(
        inputs_of(lm, np.array([np.tile(one, 4) for one in periods]), True),
        Settings(prompt_lengths=(32,), least=30),
    )
    lengths = result.frames["lengths"]
    assert lengths["with_copies"].to_list() == [32] * 10
    assert lengths["length"].to_list() == [0] * 10
    assert lengths["prompt"].null_count() == 10
    assert "0.0 % [0.0, " in result.sentence


def test_words_forgive_punctuation(lm) -> None:
    """'alpha, beta; gamma' and 'alpha beta gamma' are the same words."""
    tokenizer = make_tokenizer()
    ids = tokenizer.encode
    label, written = ids("alpha, beta; gamma"), ids("alpha beta gamma delta")
    assert words_in_common(tokenizer, written, label) == len(label)
    assert words_in_common(tokenizer, ids("alpha betty"), label) == len(ids("alpha, bet"))
    assert words_in_common(tokenizer, ids("zeta"), label) == 0
    some = {"prompt_lengths": (32,), "n_sequences": None, "least": 30, "n_decoded": 34}
    exact, words = (
        analyse(inputs_of(lm, _planted(lm, [0, 32, 20])), Settings(**some, compare=compare))
        for compare in ("tokens", "words")
    )
    # words forgive, never the other way
    assert (words.frames["answers"]["n_tokens"] >= exact.frames["answers"]["n_tokens"]).all()


def test_no_room_for_any_prompt_is_refused_in_one_line(lm) -> None:
    for settings, said in (
        ({"least": 64}, "leave no 64 tokens after a prompt of 8"),
        ({"prompt_lengths": (0, 8)}, "a prompt of 0 tokens"),
    ):
        with pytest.raises(UserError, match=said):
            analyse(inputs_of(lm, _planted(lm, [0])), Settings(**settings))
