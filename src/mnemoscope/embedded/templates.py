"""Write template text: named forms whose continuation follows from what came before.

Kinds of form: `counting` (something advances by a rule: counters, lists, dates, tables),
`periodic` (a unit of a few to some dozen characters comes again and again), `missed` (it follows by
a rule, but repeats too little for ROUGE), `record` (layouts of the counting forms with values drawn
at random: only having seen the very text tells how it goes on) and `register` (the same filled with
words out of thousands, remembered as easily as prose; of records 1 % were at five duplicates).
"""

import datetime
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import cycle, islice

LINE_COUNT = 40  # items of one text; 64 tokens are cut from its middle
_WORDS = (
    "apple table river stone cloud paper train light green house water field north south metal "
    "glass bread chair horse night sound plant shape story point voice music board floor ocean "
    "tower wheel salt sugar lemon tiger eagle amber coral delta index value count total name "
    "state level group class color order price width depth score label title owner status error "
    "input output queue block frame cache token route port node edge root leaf branch merge "
    "split build start stop open close read write send copy move find list page line word text "
    "file path user host time date year month week hour note rate size mode type kind item step "
)
WORDS = tuple(_WORDS.split())
_SYLLABLES = (
    "ba be bo ca co da de di do fa fo ga go ha hi jo ka ki la le lo ma me mi mo na ne no pa pe "
    "po ra re ri ro sa se so ta te ti to va ve vi wa zo "
)
SYLLABLES = tuple(_SYLLABLES.split())
_Draw = Callable[[random.Random], str]


@dataclass(frozen=True)
class Form:
    """One way of writing template text, of a few hundred characters."""

    name: str  # shown in the tables as the document `template:NAME`
    kind: str
    write: _Draw


def write_text(name: str, seed: str) -> str:
    """Return the text of form `name` for `seed`: same name and seed, same text."""
    return FORMS[name].write(random.Random(f"{name}:{seed}"))


def forms_of(kind: str) -> list[str]:
    """Return the names of all forms of one kind, in a fixed order."""
    return [form.name for form in FORMS.values() if form.kind == kind]


def _word(rng: random.Random) -> str:
    return rng.choice(WORDS)


def _made_up(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3)))


def _start(rng: random.Random) -> int:
    """A first number; mostly short, because each digit is a token."""
    return rng.randint(1, 10 ** rng.choice((2, 3, 3, 3, 4, 4)) - LINE_COUNT - 1)


def _count(rng: random.Random, step: int = 1) -> Iterator[int]:
    first = _start(rng)
    return iter(range(first, first + LINE_COUNT * step, step))


def _lines(layout: str, separator: str = "\n") -> _Draw:
    """A form that repeats `layout` with {n} counting and words {a}, {b}, {c} that stay."""

    def write(rng: random.Random) -> str:
        words = {"a": _word(rng), "b": _word(rng), "c": _made_up(rng), "d": rng.randint(0, 9)}
        return separator.join(layout.format(n=n, m=n + 1, **words) for n in _count(rng))

    return write


def _stepped(rng: random.Random) -> str:
    step, separator = rng.choice((2, 3, 5, 10, 20, 100)), rng.choice((", ", " ", "\n"))
    return separator.join(str(n) for n in _count(rng, step))


def _countdown(rng: random.Random) -> str:
    separator = rng.choice((", ", " ", "\n", " ... "))
    return separator.join(str(n) for n in reversed(list(_count(rng))))


def _padded_files(rng: random.Random) -> str:
    stem, ending = _word(rng), rng.choice(("txt", "png", "log", "csv"))
    return "\n".join(f"{stem}_{n:04d}.{ending}" for n in _count(rng))


def _dates(rng: random.Random) -> str:
    day = datetime.date(rng.randint(1900, 2090), rng.randint(1, 12), rng.randint(1, 28))
    return "\n".join((day + datetime.timedelta(days=n)).isoformat() for n in range(LINE_COUNT))


def _month_dates(rng: random.Random) -> str:
    month = rng.choice(("January", "March", "May", "July", "August", "October", "December"))
    year, separator = rng.randint(1700, 2090), rng.choice((", ", "\n", "; "))
    return separator.join(f"{day} {month} {year}" for day in range(1, 31))


def _minutes(rng: random.Random) -> str:
    hour, word = rng.randint(0, 23), _word(rng)
    return "\n".join(f"{hour:02d}:{minute:02d} {word}" for minute in range(60))


def _multiples(rng: random.Random) -> str:
    factor, symbol = rng.randint(2, 9), rng.choice(("->", ":", "="))
    return "\n".join(f"{n} {symbol} {n * factor}" for n in islice(_count(rng), LINE_COUNT))


def _two_counters(rng: random.Random) -> str:
    word, gap = _word(rng), rng.randint(1, 50)
    return "\n".join(f"{word} {n} {n + gap}" for n in _count(rng))


def _repeat(unit: str) -> str:
    return "".join(islice(cycle(unit), 420))


def _periodic(parts: tuple[int, int], separators: tuple[str, ...]) -> Callable[..., str]:
    """A form that repeats a unit of random words."""

    def write(rng: random.Random) -> str:
        separator = rng.choice(separators)
        words = [rng.choice((_word, _made_up))(rng) for _ in range(rng.randint(*parts))]
        return _repeat("".join(word + separator for word in words))

    return write


def _numbers_cycle(rng: random.Random) -> str:
    separator = rng.choice((", ", " ", "\n"))
    return _repeat("".join(f"{rng.randint(0, 99)}{separator}" for _ in range(rng.randint(2, 4))))


def _ruler(rng: random.Random) -> str:
    return _repeat("".join(rng.choice("-=+*~.#|:_/<>") for _ in range(rng.randint(3, 9))) + " ")


def _hex_cycle(rng: random.Random) -> str:
    return _repeat("".join(f"0x{rng.randint(0, 255):02x}, " for _ in range(rng.randint(2, 3))))


def _line_cycle(layout: str) -> _Draw:
    """A form that repeats one line whose words and digits are drawn once."""

    def write(rng: random.Random) -> str:
        words = {"a": _word(rng), "b": _word(rng), "c": _made_up(rng), "d": rng.randint(0, 9)}
        return _repeat(layout.format(**words) + "\n")

    return write


def _named_cycle(names: str) -> _Draw:
    """A form that counts beside a cycle of names: it follows a rule and repeats little."""

    def write(rng: random.Random) -> str:
        cycle_names, separator = names.split(), rng.choice(("\n", ", ", "; "))
        first, number = rng.randrange(len(cycle_names)), _start(rng)
        return separator.join(
            f"{number + n} {cycle_names[(first + n) % len(cycle_names)]}" for n in range(LINE_COUNT)
        )

    return write


def _filled(layout: str, word: _Draw, name: _Draw) -> _Draw:
    """A form that fills every field of every line at random: words {w}, names {s}, digits {d}."""

    def line(rng: random.Random) -> str:
        text = layout
        for mark, draw in {"{w}": word, "{s}": name, "{d}": _digits}.items():
            while mark in text:
                text = text.replace(mark, draw(rng), 1)
        return text

    return lambda rng: "\n".join(line(rng) for _ in range(LINE_COUNT))


def _help_word(rng: random.Random) -> str:
    return rng.choice(_help_words())


@cache
def _help_words() -> tuple[str, ...]:
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    found = {word for text in topics.values() for word in re.findall("[A-Za-z]{4,12}", text)}
    return tuple(sorted(found))


def _digits(rng: random.Random) -> str:
    return str(rng.randint(0, 10 ** rng.randint(1, 2) - 1))


_COUNTING: dict[str, _Draw] = {
    "counter_comma": _lines("{n}", ", "),
    "counter_space": _lines("{n}", " "),
    "counter_line": _lines("{n}"),
    "counter_step": _stepped,
    "countdown": _countdown,
    "numbered_list": _lines("{n}. {a}"),
    "numbered_steps": _lines("{n}) {a} {b}"),
    "numbered_names": _lines("{a}{n}", ", "),
    "assignment": _lines("{a}_{n} = {n}"),
    "subscript": _lines("{a}[{n}] = {d}"),
    "chapter": _lines("Chapter {n}: {a} {b}"),
    "page_reference": _lines("p. {n}", ", "),
    "section_version": _lines("{d}.{d}.{n} {a}"),
    "date": _dates,
    "month_date": _month_dates,
    "minute": _minutes,
    "labelled": _lines("{a} {n}", ", "),
    "table": _lines("| {n} | {a} | {b} |"),
    "csv": _lines("{n},{a},{c},{d}"),
    "log": _lines("[{n}] {a}: {b}"),
    "file_name": _padded_files,
    "markup_list": _lines("<li>{a} {n}</li>"),
    "json_rows": _lines('{{"id": {n}, "{a}": "{b}"}},'),
    "sql": _lines("INSERT INTO {a} VALUES ({n});"),
    "checkbox": _lines("- [ ] {a} {n}"),
    "address": _lines("10.{d}.0.{n}"),
    "test_names": _lines("def test_{a}_{n}(self): pass"),
    "successor": _lines("{a}({n}) == {m}"),
    "multiples": _multiples,
    "two_counters": _two_counters,
}
_MISSED: dict[str, _Draw] = {
    "weekday": _named_cycle("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "month": _named_cycle(
        "January February March April May June July August September October November December"
    ),
}
_PERIODIC: dict[str, _Draw] = {
    "words_short": _periodic((1, 3), (" ", ", ", "\n", "-")),
    "words_long": _periodic((4, 6), (" ", ", ", "\n")),
    "words_joined": _periodic((1, 3), ("", "_", ".", "/")),
    "numbers_cycle": _numbers_cycle,
    "ruler": _ruler,
    "hex_cycle": _hex_cycle,
    "code_line": _line_cycle("self.{a} = {b}({c})"),
    "call_line": _line_cycle("    print('{a} {c}')"),
    "setting_line": _line_cycle("{a}.{b} = {d}"),
    "sentence_line": _line_cycle("The {a} of the {c} is a {b}."),
    "cells": _line_cycle("| {a} | {c} | {d} |"),
    "markup_line": _line_cycle("<{a}>{c}</{a}>"),
}
_RECORD_LAYOUTS = {
    "table": "| {d} | {w} | {s} |",
    "csv": "{s},{w},{s},{d}",
    "log": "[{d}] {w}: {s} {w}",
    "assignment": "{w}_{s} = {s}",
    "list": "{d}. {s} {w} {s}",
    "setting": "{s}.{w} = {w}",
    "call": "{w}({s}) == {s}",
    "json": '{"{w}": "{s} {s}"},',
    "names": "{s} {w} {s} {s}",
}
_RECORD = {
    f"record_{name}": _filled(layout, _word, _made_up) for name, layout in _RECORD_LAYOUTS.items()
}
_REGISTER = {
    f"register_{name}": _filled(layout, _help_word, _help_word)
    for name, layout in _RECORD_LAYOUTS.items()
}
_GROUPS = (
    ("counting", _COUNTING),
    ("periodic", _PERIODIC),
    ("missed", _MISSED),
    ("record", _RECORD),
    ("register", _REGISTER),
)
FORMS = {name: Form(name, kind, write) for kind, group in _GROUPS for name, write in group.items()}
