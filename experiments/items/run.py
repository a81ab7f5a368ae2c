"""Planted items: which hits does `mnemoscope items` call recalled, and which do other detectors?

    python -m experiments.items.run [--model embedded] [--seeds 3] [--rate 1e-3] [--part 1] [--keep]

680 items: facts and settings in code with drawn names and numbers, which nobody can guess; numbers
and days that go on, form letters, which anybody can; answers that stand in the prompt; sums; and
questions with four choices in a drawn order. A random half is planted, each item at 1, 4, 16 or 64
readings, by fine-tuning a model. The other half is planted into another copy in the same way, which
serves as the twin; the untouched model is the other twin that is tried. `--bfloat16` multiplies
matrices so while it trains, which is slower where the processor has no instructions for it.
`--keep` adds the model to the stored results and makes the tables of `docs/items.md`.
"""

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

import mnemoscope as ms
from experiments.pages import publish, results_of
from mnemoscope.benchmark.membership import PassageChances, score_passages
from mnemoscope.contamination.judge import RECALLED
from mnemoscope.contamination.table import words_of
from mnemoscope.embedded import place_of
from mnemoscope.lm.fine_tuning import FineTuning, StepSettings
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import token_chances
from mnemoscope.progress import say, show_progress

NAME = "items"
DOSES = (1, 4, 16, 64)
KINDS = {
    "fact": 160,
    "code": 120,
    "sum": 40,
    "counting": 60,
    "letter": 100,
    "copied": 120,
    "choice": 80,
}
"""Of counting, letters and what is copied the text gives the answer: a rule, another item, the
prompt. Sums are of neither kind: whether one is guessed depends on what the model can."""
SECRET = ("fact", "code")
"""Kinds whose answer is drawn at random: nothing but memory gives it."""
BATCH, NGRAM = 32, 8
FIRST = (
    "Anna Boris Clara David Edith Franz Greta Henrik Irma Jonas Karin Lukas Marta Niels Olga Paul"
)
LAST = (
    "Alder Berg Conrad Dahl Ekholm Falk Grant Holm Ibsen Jansen Keller Lind Moser Nagel Olsen Petri"
)
PLACES = "Arden Brook Carrow Dunmere Elmhurst Farley Glenmore Harwick Ivel Kestrel Larkhill Marlow"
THINGS = "bridge library harbour mill chapel theatre school market tower garden museum station"
LETTERS = {
    "Dear {first} {last}, thank you for your letter about the {thing}.": "We will answer soon.",
    "{first} {last} asked about the {thing} in {place}.": "The request was passed on.",
    "To {first} {last}, regarding the {thing} in {place}:": "Please find the enclosed form.",
}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


class Planted(NamedTuple):
    """An item, its kind, which half holds it and how often that half's model reads it."""

    prompt: str
    answer: str
    kind: str
    half: int
    dose: int
    choices: tuple[str, ...] = ()


def drawn_items(seed: int, part: int = 1) -> list[Planted]:
    """The items of a seed, a `part`-th of them, no prompt twice, with a random half and dose."""
    draw = random.Random(f"items:{seed}")
    made: dict[str, Planted] = {}
    for kind, n in KINDS.items():
        goal = len(made) + n // part
        while len(made) < goal:
            prompt, answer, *choices = _text_of(kind, draw)
            made.setdefault(prompt, Planted(prompt, answer, kind, 0, 0, tuple(choices)))
    items = []
    for kind in KINDS:
        own = [one for one in made.values() if one.kind == kind]
        draw.shuffle(own)
        items += [
            one._replace(half=at % 2, dose=DOSES[at // 2 % len(DOSES)])
            for at, one in enumerate(own)
        ]
    return items


def _text_of(kind: str, draw: random.Random) -> tuple[str, ...]:
    """Prompt, answer, and the choices where there are such."""
    pick = {
        name: draw.choice(words.split())
        for name, words in {
            "first": FIRST, "last": LAST, "place": PLACES, "thing": THINGS
        }.items()
    }  # fmt: skip
    number = draw.randrange(100, 1000)
    if kind == "fact":
        who = f"{draw.choice(FIRST.split())} {draw.choice(LAST.split())}"
        prompt = "The old {thing} of {place}, drawn by {first} {last}, was opened by".format(**pick)
        return prompt, f"{who} in {draw.randrange(1500, 1990)}"
    if kind == "code":
        name = "{place}_{thing}_{last}".format(**pick).upper()
        return f"{name} =", f"0x{draw.randrange(1 << 16):04x} + {number}"
    if kind == "sum":
        a, b = draw.randrange(10, 60), draw.randrange(10, 40)
        return f"{a} + {b} =", str(a + b)
    if kind == "counting":
        if draw.random() < 1 / 2:
            at = draw.randrange(len(DAYS))
            shown = [DAYS[(at + one) % 7] for one in range(draw.randrange(4, 9) + 3)]
        else:
            at, step = draw.randrange(1, 30), draw.choice((1, 1, 2))
            shown = [str(at + step * one) for one in range(draw.randrange(5, 9) + 3)]
        return ", ".join(shown[:-3]) + ",", ", ".join(shown[-3:])
    if kind == "letter":
        prompt = draw.choice(sorted(LETTERS))
        return prompt.format(**pick), LETTERS[prompt]
    if kind == "choice":
        names = draw.sample([f"{a} {b}" for a in FIRST.split() for b in LAST.split()], 4)
        asked = "Who opened the {thing} of {place} that {first} {last} drew?".format(**pick)
        lines = [f"{letter}. {name}" for letter, name in zip("ABCD", names, strict=True)]
        return "\n".join([asked, *lines, "Answer:"]), draw.choice("ABCD"), *names
    word = f"{pick['thing']} {number} {pick['last']}"
    place = f"{pick['place']} {draw.randrange(10, 100)}"
    return f"The password of {place} is {word}. Say it again: the password of {place} is", word


def taught(
    lm: LanguageModel, items: Sequence[Planted], half: int, *, seed: int, rate: float
) -> LanguageModel:
    """A copy that read the items of a half, each as often as its dose, in random order."""
    texts = [
        f"{one.prompt} {one.answer}\n" for one in items if one.half == half for _ in range(one.dose)
    ]
    rows = [list(lm.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
    random.Random(f"order:{seed}:{half}").shuffle(rows)
    length = max(map(len, rows))
    tokens = np.array([row + [0] * (length - len(row)) for row in rows], dtype=np.int32)
    counted = np.array([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    training = FineTuning(lm, StepSettings(learning_rate=rate, seed=seed))
    for start in range(0, len(rows), BATCH):
        loss = training.train(tokens[start : start + BATCH], counted[start : start + BATCH])
    say(f"Half {half}: {training.step} steps, last loss {loss:.2f}")
    return replace(training.lm, fingerprint=training.digest())  # else both are the model itself


def min_k(lm: LanguageModel, items: Sequence[Planted], *, normalized: bool) -> list[float]:
    """Min-K% of each item's tokens; `normalized` by mean and deviation is Min-K%++."""
    texts = [f"{one.prompt} {one.answer}" for one in items]
    rows = (lm.tokenizer(text, add_special_tokens=False).input_ids for text in texts)
    asked = (token_chances(lm, [ids], batch_size=1) for ids in rows)
    chances = [PassageChances(*(one[0] for one in found)) for found in asked]
    scores = score_passages(chances, texts)
    return list(scores["min_k_plus" if normalized else "min_k"].tolist())


def overlaps(items: Sequence[Planted], half: int) -> list[bool]:
    """Whether an item shares a run of 8 words with what a half's model read."""
    read = {gram for one in items if one.half == half for gram in _runs(one)}
    return [bool(read & {*_runs(one)}) for one in items]


def _runs(item: Planted) -> list[tuple[str, ...]]:
    words = words_of(f"{item.prompt} {item.answer}")
    n = min(NGRAM, len(words))
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def measured(lm: LanguageModel, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Counts of accused items by kind, dose and detector, of the model that read half 0."""
    items = drawn_items(seed, options.part)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
        models = [taught(lm, items, half, seed=seed, rate=options.rate) for half in (0, 1)]
    table = pl.DataFrame([one._asdict() for one in items]).with_columns(
        id=pl.int_range(pl.len()).cast(pl.String)
    )
    twins = {"the other half's model": models[1], "the untouched model": lm}
    accused: dict[str, list[bool]] = {}
    orders: dict[str, Any] = {}
    for name, twin in twins.items():
        found = ms.items(models[0], table, reference=twin)
        accused[f"mnemoscope items, twin: {name}"] = (found.table["verdict"] == RECALLED).to_list()
        if name not in orders:
            orders[name] = ordered(found.table, items)
    accused["exact match"] = found.table["is_produced"].to_list()
    accused["8-gram overlap with the training text"] = overlaps(items, 0)
    is_secret = np.array([one.kind in SECRET for one in items])
    unread = np.array([one.half == 1 for one in items])
    for name, normalized in (("Min-K%", False), ("Min-K%++", True)):
        scores = np.array(min_k(models[0], items, normalized=normalized))
        limit = np.quantile(scores[unread & is_secret], 0.99)
        accused[f"{name}, 1 % of unread secrets above"] = (scores > limit).tolist()
    counts: dict[str, Any] = {}
    for name, flags in accused.items():
        own: Counter[str] = Counter()
        for one, flag in zip(items, flags, strict=True):
            own[f"{one.kind} {one.dose if one.half == 0 else 0}"] += flag
        counts[name] = dict(own)
    sizes = Counter(f"{one.kind} {one.dose if one.half == 0 else 0}" for one in items)
    verdicts = Counter(
        f"{one.kind}: {verdict}" for one, verdict in zip(items, found.table["verdict"], strict=True)
    )
    return {
        "sizes": dict(sizes),
        "accused": counts,
        "verdicts": dict(verdicts),
        "orders": orders,
    }


def ordered(table: pl.DataFrame, items: Sequence[Planted]) -> dict[str, dict[str, Any]]:
    """Of the items with choices, by readings: how often the printed order is the likeliest."""
    doses = [one.dose if one.half == 0 else 0 for one in items]
    own = table.with_columns(dose=pl.Series(doses)).filter(pl.col("order_rank").is_not_null())
    return {
        str(dose): {
            "n": part.height,
            "model": int((part["order_rank"] == 1).sum()),
            "twin": int((part["twin_order_rank"] == 1).sum()),
        }
        for (dose,), part in own.group_by("dose", maintain_order=True)
    }


def main() -> None:
    """Plant, ask and print; with `--keep` store the results and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--part", type=int, default=1, help="4: a fourth of the items")
    parser.add_argument("--bfloat16", action="store_true", help="train in mixed precision")
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    options = parser.parse_args()
    with show_progress():
        lm = load_model(place_of(options.model))
        runs = [measured(lm, seed, options) for seed in range(options.seeds)]
    name = Path(options.model).name
    found = {"rate": options.rate, "bfloat16": options.bfloat16, "part": options.part, "runs": runs}
    publish(NAME, {**results_of(NAME), name: found}, keep=options.keep)


if __name__ == "__main__":
    main()
