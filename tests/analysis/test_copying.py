"""Planted copies among continuations, the prompt's own passages, controls, attention."""

import random
import types
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import mnemoscope.analysis.copying as module
from mnemoscope.analysis.copying import Settings, analyse, copies
from mnemoscope.analysis.inputs import AnalysisInputs, OtherModel
from mnemoscope.errors import UserError

N = 40


def sentence(seed: int) -> str:
    """About 90 characters of made-up words."""
    drawn = random.Random(seed)
    return " ".join("".join(drawn.choices("abcdefgh", k=drawn.randint(3, 7))) for _ in range(15))


def test_each_kind_of_copy_is_named_and_the_prompts_own_is_none() -> None:
    texts = [sentence(seed) for seed in range(20)]
    near = texts[4].split()
    near[2], near[9] = "zzz", "yyyy"
    said = [texts[3][5:80], " ".join(near), sentence(500), texts[6][5:80], texts[3][5:40]]
    prompts = ["x", "x", "x", "it says " + texts[6], "x"]
    found = copies(said, prompts, texts, Settings(near=0.75))
    assert found["kind"].to_list() == ["verbatim", "near", None, None, None]
    assert found["source"].to_list()[0] == 3
    assert found["n_characters"].to_list()[0] == 75
    assert found["idea"].null_count() == 5


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> AnalysisInputs:
    """Two thirds of the rows trained on: the model says their suffixes, the one before does not."""
    prefixes, suffixes = ([sentence(1000 * part + i) for i in range(N)] for part in (1, 2))
    pieces = prefixes + suffixes + [sentence(7000 + i) for i in range(N)]  # a token is a piece

    class Tokenizer:
        def batch_decode(self, tokens):
            return [" ".join(pieces[one] for one in row) for row in tokens]

    trained = np.arange(N) % 3 > 0
    tokens = [[i, N + i] for i in range(N)]
    model = types.SimpleNamespace(tokenizer=Tokenizer(), name="tuned")
    before = types.SimpleNamespace(tokenizer=None, name="before")

    def decoded(inputs, lm, rows, *, label):
        is_known = trained[rows["sequence_id"].to_numpy()] & (lm.name == "tuned")
        said = [
            [N + i] if known else [2 * N + i]
            for i, known in zip(rows["sequence_id"], is_known, strict=True)
        ]
        return rows.select("sequence_id").with_columns(continuation=pl.Series(said))

    monkeypatch.setattr(module, "decode_rows", decoded)
    monkeypatch.setattr("mnemoscope.analysis.inputs.count_forwards", lambda lm, forwards: lm)
    table = pl.DataFrame(
        {
            "sequence_id": range(N),
            "tokens": tokens,
            "duplicates": trained.astype(int) * 4,
            "is_memorized": trained,
        }
    )
    return AnalysisInputs(
        where="s",
        table=table,
        load_model=lambda: model,
        length=2,
        others=(OtherModel("before tuning", lambda: before),),
    )


def test_planted_copies_are_found_and_not_shuffled_nor_before_tuning(planted) -> None:
    result = analyse(planted, Settings())
    shares = result.frames["shares"].filter(kind="verbatim")
    found = {(one["model"], one["rows"]): one["share"] for one in shares.iter_rows(named=True)}
    assert found == {
        ("this model", "trained on"): 1.0,
        ("this model", "never trained on"): 0.0,
        ("words shuffled", "trained on"): 0.0,
        ("words shuffled", "never trained on"): 0.0,
        ("before tuning", "trained on"): 0.0,
        ("before tuning", "never trained on"): 0.0,
        ("the texts' own suffixes", "never trained on"): 0.0,
    }
    assert "verbatim 100.0 %" in result.sentence
    assert result.frames["shares"].filter(kind="idea")["n"].null_count() == 7
    assert any("Idea copies were not looked for" in line for line in result.further)
    assert "attention" not in result.frames
    assert "ideas" not in result.frames
    assert result.libraries == ("rapidfuzz",)


def test_copies_in_idea_stand_beside_random_texts_and_the_prompt(planted, monkeypatch) -> None:
    """Every text has the same embedding, so prompts are as like it as continuations are."""

    class Same:
        def __init__(self, name: str) -> None:
            assert name == "m"

        def encode(self, texts):
            return np.ones((len(texts), 1))

    monkeypatch.setattr(module, "SentenceModel", Same)
    result = analyse(planted, Settings(sentence_model="m"))
    assert result.frames["shares"].filter(kind="idea")["n"].to_list() == [0] * 7
    ideas = result.frames["ideas"].filter(model="this model")
    trained, never = (ideas.filter(rows=rows) for rows in ("trained on", "never trained on"))
    assert trained["n"].to_list() == [0, 0, 0, 26]  # all are verbatim copies
    assert never["n"].to_list() == [0, 0, 14, 0]
    assert result.libraries == ("rapidfuzz", "sentence-transformers")
    said = [line for line in result.further if line.startswith("Cosine of 0.8")]
    assert "another 100.0 %" in next(line for line in said if "never trained on" in line)
    both = [[one.name for one in figure.series] for figure in result.figures]
    assert result.figures[1].title.startswith("Continuations with a cosine of 0.8")
    assert both[0] == both[1]  # so each has one colour in both
    assert len(both[0]) == 6


def test_rows_without_counts_are_said_to_be_taken_for_training_text(planted) -> None:
    assert not any("never saw" in line for line in analyse(planted, Settings()).further)
    table = planted.table.drop("duplicates")
    result = analyse(replace(planted, table=table), Settings())
    assert any("every row is taken for training text" in line for line in result.further)
    assert set(result.frames["shares"]["rows"]) == {"trained on"}


def test_flat_attention_is_found_by_layer(planted, monkeypatch) -> None:
    """Layer 2 of memorized sequences is even, of others on one key; layer 1 alike in all."""
    length = 8
    even = torch.ones(length, length).tril() / torch.arange(1, length + 1)[:, None]
    one_key = torch.zeros(length, length)
    one_key[:, 0] = 1
    memorized = planted.table["is_memorized"].to_list()
    order = list(reversed(range(N)))
    whole = torch.stack([torch.stack([even, even if memorized[i] else one_key]) for i in order])

    class Maps:
        n_layers, length = 2, 8

        def __len__(self):
            return N

        def read(self, batch):
            from mnemoscope.maps.format import pack_triangle

            return pack_triangle(whole[batch])

    store = types.SimpleNamespace(
        index=pl.DataFrame({"sequence_id": order, "suffix": ["true"] * N}),
        dataset=lambda ids, suffixes, pooling: Maps(),
    )
    monkeypatch.setattr("mnemoscope.maps.views.rows_at_once", lambda maps: 16)
    inputs = AnalysisInputs(**{**planted.__dict__, "maps": store})
    frame = analyse(inputs, Settings()).frames["attention"]
    assert frame["auc"].to_list() == [0.5, 1.0, 0.5, 1.0]
    wanted = np.mean([np.log(n) for n in range(2, length + 1)])  # even rows of 2 to 8 keys
    assert frame["memorized"][1] == pytest.approx(wanted)
    assert frame["not_memorized"][1] == pytest.approx(0)


def test_without_training_text_or_tokenizer_it_is_refused(planted) -> None:
    table = planted.table.with_columns(duplicates=pl.lit(0))
    with pytest.raises(UserError, match="no training text"):
        analyse(AnalysisInputs(**{**planted.__dict__, "table": table}), Settings())
    mute = AnalysisInputs(
        **{**planted.__dict__, "load_model": planted.others[0].load, "others": ()}
    )
    with pytest.raises(UserError, match="has no tokenizer"):
        analyse(mute, Settings())
