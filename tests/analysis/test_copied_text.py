"""Passages against difflib, a planted copy and its shuffled words."""

import difflib
import random

from mnemoscope.analysis.copying import PassageIndex, near_scores, nearest_texts

PLANTED = "the quick brown fox jumps over the lazy dog and runs away into the dark wood"


def words(seed: int, n: int = 30) -> str:
    drawn = random.Random(seed)
    return " ".join("".join(drawn.choices("abcdefgh", k=drawn.randint(2, 7))) for _ in range(n))


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
    texts = [words(seed) for seed in range(30)]
    texts[17] = words(99, 5) + " " + PLANTED + " " + words(98, 5)
    index = PassageIndex(texts, 50)
    copy = "so " + PLANTED + "!"
    shuffled = " ".join(random.Random(1).sample(PLANTED.split(), len(PLANTED.split())))
    found = index.longest(copy)
    assert (found.source, found.text.strip()) == (17, PLANTED)
    assert index.longest(shuffled).source == -1
    assert index.longest(copy, besides="as I said: " + texts[17]).source == -1  # the prompt's own
    near = PLANTED.replace("brown", "red").replace("lazy", "sleepy").replace("dark", "old")
    asked = [near, shuffled, words(500)]
    assert index.longest(near).source == -1
    nearest = nearest_texts(asked, texts, 5)
    assert nearest.shape == (3, 5)
    assert nearest[0, 0] == 17
    scores = near_scores(asked, texts, nearest)
    assert scores[0] > 0.8 > max(scores[1:])


def test_texts_too_short_for_anything_give_nothing() -> None:
    assert PassageIndex(["ab"], 50).longest("ab").source == -1
    assert nearest_texts(["a"], ["b", ""], 10).shape == (1, 2)
