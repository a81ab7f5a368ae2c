"""The generator: named forms, seeded, each doing what its kind says."""

import re

from mnemoscope.embedded.templates import FORMS, forms_of, write_text

KINDS = ("counting", "periodic", "missed", "record", "register")


def test_thirty_forms_of_one_kind_each_are_seeded():
    assert len(FORMS) >= 30
    assert sorted(FORMS) == sorted(name for kind in KINDS for name in forms_of(kind))
    for name in FORMS:
        texts = [write_text(name, str(seed)) for seed in range(20)]
        assert write_text(name, "1") == texts[1]
        assert len(set(texts)) > 15, name
        assert len(texts[1]) > 100, name


def test_forms_do_what_their_kind_says():
    for name in forms_of("periodic"):
        text = write_text(name, "7")
        periods = [p for p in range(1, len(text) // 2) if text[p:] == text[:-p]]
        assert periods, text
        assert periods[0] <= 100
    for name in ("counter_comma", "numbered_list", "log", "sql", "checkbox"):
        numbers = [int(n) for n in re.findall(r"\d+", write_text(name, "3"))]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for name in forms_of("record") + forms_of("register"):
        lines = write_text(name, "5").split("\n")
        assert len(set(lines)) > 0.9 * len(lines), name
