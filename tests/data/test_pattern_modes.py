"""The agreement of the two modes is what asking both of every text counts."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mnemoscope.data.patterns import compare_modes, describe_agreement, find_pattern

words = st.lists(st.sampled_from(["a", "1", "2", "3", "4", "5"]), max_size=12).map(" ".join)


@given(st.lists(words | st.none(), max_size=30))
@settings(max_examples=300)
@example(["1 5 2", "9 3 2 5 4 3 2 5 4 3 9", "1 2 3", "abab", None, "x"])
def test_counts_are_those_of_asking_both_of_every_text(texts):
    found = compare_modes(texts)
    asked = [
        (find_pattern(one, "published"), find_pattern(one, "strict"))
        for one in texts
        if one is not None
    ]
    for place, name in enumerate(["is_incrementing", "is_repeating"]):
        pairs = [(published[place], strict[place]) for published, strict in asked]
        wanted = [pairs.count(pair) for pair in ((True, True), (True, False), (False, True))]
        assert list(found[name]) == wanted


def test_a_line_says_each_count():
    line = describe_agreement(compare_modes(["1 5 2", "1 2 3", "abab"]))[0]
    assert line.endswith("both 1, only published 1, only strict 0.")
