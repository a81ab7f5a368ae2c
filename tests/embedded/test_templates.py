"""The generator: named forms, seeded, each doing what its kind says."""

import re

import pytest

from mnemoscope.embedded.templates import FORMS, forms_of, write_text

KINDS = ("counting", "periodic", "missed", "record", "register")


def test_there_are_thirty_forms_and_more_each_of_one_kind():
    assert len(FORMS) >= 30
    assert sorted(FORMS) == sorted(name for kind in KINDS for name in forms_of(kind))


@pytest.mark.parametrize("name", sorted(FORMS))
def test_same_seed_gives_same_text_and_another_seed_another(name):
    assert write_text(name, "1") == write_text(name, "1")
    assert len({write_text(name, str(seed)) for seed in range(20)}) > 15
    assert len(write_text(name, "1")) > 100


@pytest.mark.parametrize("name", forms_of("periodic"))
def test_periodic_text_has_one_period_that_shows_early(name):
    text = write_text(name, "7")
    periods = [p for p in range(1, len(text) // 2) if text[p:] == text[:-p]]
    assert periods, text
    assert periods[0] <= 100


@pytest.mark.parametrize("name", ["counter_comma", "numbered_list", "log", "sql", "checkbox"])
def test_counting_forms_advance_by_one(name):
    numbers = [int(n) for n in re.findall(r"\d+", write_text(name, "3"))]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.parametrize("name", forms_of("record") + forms_of("register"))
def test_records_never_repeat_a_line(name):
    lines = write_text(name, "5").split("\n")
    assert len(set(lines)) > 0.9 * len(lines)
