"""Changed prompts by hand, suffix runs against greedy decoding, unlearning on a tiny model."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from experiments.circuits.run import SETTINGS, built, changed_weights, remembered
from figure_columns import apart
from mnemoscope.analysis.perturb import (
    AS_IT_IS,
    WORD_KINDS,
    Settings,
    Vocabulary,
    analyse,
    make_prompts,
    recovery,
    suffix_runs,
)
from mnemoscope.errors import UserError
from mnemoscope.lm.continue_ import greedy_tokens
from mnemoscope.lm.fine_tuning import FineTuning
from tests.tiny_models import make_tokenizer


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """Words whose neighbours are known: each lies beside the one before it."""
    tokenizer = make_tokenizer()
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(len(tokenizer), 16)).astype(np.float32)
    words = Vocabulary(tokenizer, embeddings).words.tolist()
    for first, second in zip(words[::2], words[1::2], strict=False):
        embeddings[second] = embeddings[first] + 0.01
    return Vocabulary(tokenizer, embeddings)


def test_windows_are_shifted_both_ways(vocabulary) -> None:
    rng = np.random.default_rng(0)
    prompts = make_prompts(np.arange(12), vocabulary, prefix=6, shifts=(2,), n_words=1, rng=rng)
    made = {one.kind: (one.ids.tolist(), one.wanted.tolist(), one.n_before) for one in prompts}
    assert made.keys() == {AS_IT_IS, "2 later", "2 earlier"}  # these ids are no words
    assert made["2 later"] == ([2, 3, 4, 5, 6, 7], [8, 9, 10, 11], 0)
    assert made["2 earlier"] == ([0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11], 2)


def test_words_are_changed_in_place_and_as_their_kind_says(vocabulary) -> None:
    """The texts say it: same letters swapped, capitals, the known neighbour; the rest stays."""
    text = "based the library\n the licence works on the library.\n"
    tokenizer = vocabulary.tokenizer
    row = np.array(tokenizer.encode(text) * 4)[:24]
    places = vocabulary.places(row[:12])
    for seed in range(5):
        rng = np.random.default_rng(seed)
        made = make_prompts(row, vocabulary, prefix=12, shifts=(1,), n_words=1, rng=rng)
        changed = {one.kind: one.ids for one in made if one.kind in WORD_KINDS}
        near, other = changed["near-synonym"], changed["random word"]
        place = int(np.flatnonzero(near != row[:12])[0])
        assert place in places
        assert np.flatnonzero(other != row[:12]).tolist() == [place]
        word, rest = vocabulary.pieces[row[place]], 11 - place
        texts = {}
        for kind in changed.keys() & {"case", "typo"}:  # a word of one letter has no typo
            ids = changed[kind]
            assert ids[:place].tolist() == row[:place].tolist()
            assert ids[len(ids) - rest :].tolist() == row[place + 1 : 12].tolist()
            texts[kind] = tokenizer.decode(ids[place : len(ids) - rest])
        assert texts["case"] == word.upper()
        if "typo" in texts:
            typo, plain = texts["typo"].strip(), word.strip()
            assert texts["typo"] != plain
            assert (sorted(typo), typo[0]) == (sorted(plain), plain[0])


def test_the_near_synonym_is_the_planted_neighbour(vocabulary) -> None:
    words = vocabulary.words.tolist()
    pairs = list(zip(words[::2], words[1::2], strict=False))
    n_found = 0
    for first, second in pairs:
        one, other = (vocabulary.pieces[index].strip() for index in (first, second))
        is_alike = one.startswith(other) or other.startswith(one)
        if one[0].isupper() == other[0].isupper() and not is_alike:
            assert vocabulary.near(first) == [second]
            n_found += 1
    assert n_found


def test_recovery_of_a_table_made_by_hand() -> None:
    runs = pl.DataFrame(
        {
            "sequence_id": [1, 1, 1, 2, 2],
            "kind": [AS_IT_IS, "typo", "case", AS_IT_IS, "typo"],
            "tokens": [3, 9, 5, 7, 2],
        }
    )
    found = recovery(runs).select("as_it_is", "best", "best_kind", "n_prompts", "recovered")
    assert found.rows() == [(3, 9, "typo", 2, 6), (7, 2, "typo", 1, 0)]


def test_runs_are_those_of_greedy_decoding(taught, vocabulary) -> None:
    lm = taught.model()
    rng = np.random.default_rng(0)
    rows = np.array(taught.table["tokens"].to_list())[:3]
    prompts = [
        prompt
        for row in rows
        for prompt in make_prompts(row, vocabulary, prefix=32, shifts=(1, 5), n_words=1, rng=rng)
    ]
    found = suffix_runs(lm, prompts, batch_size=8).tolist()
    for prompt, n in zip(prompts, found, strict=True):
        shown = torch.from_numpy(prompt.ids)[None]
        written = greedy_tokens(lm, shown, len(prompt.wanted))[0][0].numpy() == prompt.wanted
        expected = len(written) if written.all() else int(np.argmin(written))
        assert n == max(0, expected - prompt.n_before)
    plain = [n for prompt, n in zip(prompts, found, strict=True) if prompt.kind == AS_IT_IS]
    assert plain[:2] == [32, 32]
    assert plain[2] < 32


def test_ascent_unlearns_what_it_is_told_and_the_model_stays(taught, monkeypatch) -> None:
    counted = []
    train = FineTuning.train

    def watched(self, rows, is_counted):
        counted.append(is_counted.all(axis=0))
        assert (is_counted == is_counted[0]).all()
        return train(self, rows, is_counted)

    monkeypatch.setattr(FineTuning, "train", watched)
    weights = taught.load_model().model.get_output_embeddings().weight
    before = weights.detach().clone()
    settings = Settings(
        n_sequences=20, n_unlearned=8, learning_rate=3e-3, shifts=(1, 4), batch_size=8,
        max_steps=40, sparse_learning_rate=1e-2, pruned_part=5e-3,
    )  # fmt: skip
    result = analyse(taught, settings)
    steps = apart(result.frames["unlearning"])
    assert np.array_equal(np.unique(counted, axis=0), [np.arange(64) >= 32])  # suffixes alone
    back = {row["group"]: row for row in apart(result.frames["recovery"]).iter_rows(named=True)}
    for way in ("gradient ascent", "sparse ascent", "pruning"):
        own = steps.filter(way=way)
        assert own["memorized"][0] == 1
        assert own["share"][-1] <= 0.1 < own["share"][0]
        gone = back[f"unlearned, {way}"]
        assert gone["as_it_is"] == pytest.approx(own["tokens"][-1])
        assert gone["best"] >= 0
        assert f"after {way}, where" in result.sentence
    assert {"unseen", "unseen, after pruning"} <= {*back}
    assert back["Recall"]["as_it_is"] == 32
    assert torch.equal(weights, before)


def test_passages_of_a_known_circuit_come_out_and_are_unlearned_where_they_stand() -> None:
    """A network that is set by hand knows each passage by its first token, in its own neurons."""
    settings = SETTINGS.model_copy(update={"ways": ("pruning",), "n_unlearned": 8})
    inputs = remembered(1, n=24)
    found = analyse(inputs, settings)
    prompts = apart(found.frames["prompts"])
    for group, wanted in (("Recall", built(inputs, settings)), ("unseen", {})):
        for row in prompts.filter(group=group).iter_rows(named=True):
            assert row["whole"] == pytest.approx(wanted.get(row["kind"], 0)), row["kind"]
    assert found.frames["unlearning"]["share"][-1] <= 0.1
    (others,) = apart(found.frames["beside"]).filter(group="Recall, not unlearned").rows(named=True)
    assert (others["right"], others["after_right"]) == (1, 1)
    where = changed_weights(inputs, "pruning", settings)
    assert where["own"].low > 0.5 > 100 * where["chance"]
    assert where["others"].value == where["nowhere"].value == 0


def test_shifts_beyond_the_prefix_are_refused_in_one_line(taught) -> None:
    with pytest.raises(UserError, match="each must be from 1 to 31"):
        analyse(taught, Settings(shifts=(1, 32)))
    nothing = taught.table.with_columns(is_memorized=pl.lit(value=False))
    with pytest.raises(UserError, match="0 sequences are memorized and not guessable"):
        analyse(replace(taught, table=nothing), Settings())
