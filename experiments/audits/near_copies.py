"""Near copies against planted truth: passages with words put in, left out or exchanged.

python -m experiments.audits.near_copies [--passages 8]

Trained passages of the embedded model, prose and code, are changed in what the model is to write
(the second half) and stand between sentences of a grammar. Found is a passage of whose second half
more than half of the characters are in a span. Unseen text: held-out prose, code and records, the
grammar. Only near copies count that match their own place by far more than any other.
"""

import argparse
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import polars as pl

from experiments.audits.finds import inside, share_drawn, write_new
from experiments.pages import table_of
from mnemoscope.audits.asking import Auditing
from mnemoscope.audits.documents import Document
from mnemoscope.audits.local import local_audit
from mnemoscope.audits.near import (
    begun_right,
    find_near_copies,
    matched_elsewhere,
    stands_out,
    write_on,
)
from mnemoscope.audits.questions import NearSettings
from mnemoscope.audits.scan import scan_windows
from mnemoscope.audits.tokens import Place, Tokens, character_range
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.load import load_model
from mnemoscope.stats import resampled_ratio

CHANGES = ("insert", "delete", "swap")
NUMBERS = (1, 2, 4)
NEW_WORDS = ["quite", "lamp", "seven", "x", "of", "moss", "return", "while"]
GENRES = ("code", "prose")
Planted = tuple[tuple[object, ...], str, list[tuple[int, int, str]]]
"""What a document is, its text, and of its passages the first character, the end and the origin."""


def change(text: str, kind: str, n: int, generator: random.Random) -> str | None:
    """A text with n words put in, left out or exchanged with the next in its second half."""
    spans = [one.span() for one in re.finditer(r"\S+", text)]
    behind = [
        place
        for place, (start, end) in enumerate(spans)
        if start > 0.56 * len(text) and end < 0.9 * len(text)
    ]
    if len(behind) < n + 1:
        return None
    ends = [start for start, _ in spans[1:]] + [spans[-1][1]]
    words = [
        [text[start:end], text[end:then]] for (start, end), then in zip(spans, ends, strict=True)
    ]
    if kind == "insert":
        for place in sorted(generator.sample(behind, n), reverse=True):
            words.insert(place, [generator.choice(NEW_WORDS), " "])
    elif kind == "delete":
        for place in sorted(generator.sample(behind, n), reverse=True):
            del words[place]
    else:
        for _ in range(n):
            place = generator.choice(behind[:-1])
            words[place][0], words[place + 1][0] = words[place + 1][0], words[place][0]
    return text[: spans[0][0]] + "".join(word + blank for word, blank in words)


def planted(sequences: pl.DataFrame, n_passages: int) -> Iterator[Planted]:
    """Documents of one genre, kind and number of changes, with places and names of passages."""
    trained = sequences.filter(pl.col("duplicates") > 5, pl.col("form") == "plain")
    for genre in GENRES:
        texts = trained.filter(pl.col("genre") == genre)["text"].sample(200, seed=1).to_list()[:60]
        for kind in CHANGES:
            for n in NUMBERS:
                generator = random.Random(f"{genre}{kind}{n}")
                text, places = "", []
                for passage in generator.sample(texts, n_passages):
                    changed = change(passage, kind, n, generator)
                    if changed is None:
                        continue
                    text += write_new(generator, generator.randint(2, 4)) + "\n"
                    origin = f"{genre} {texts.index(passage)}"
                    places.append((len(text), len(text) + len(changed), origin))
                    text += changed + "\n"
                yield (genre, kind, n), text + write_new(generator, 4), places


def unseen(sequences: pl.DataFrame) -> Iterator[Planted]:
    """Text that the model never saw: held-out sequences, records, and the grammar."""
    held_out = sequences.filter(pl.col("held_out") & (pl.col("form") == "plain"))
    for seed in range(4):
        yield ("unseen",), "\n".join(held_out.sample(40, seed=seed)["text"]), []
    records = held_out.filter(pl.col("genre") == "record").sample(80, seed=0)
    yield ("unseen",), "\n".join(records["text"]), []
    for seed in range(50, 52):
        yield ("unseen",), write_new(random.Random(seed), 80), []


def covered(tokens: Tokens, ranges: Iterable[tuple[int, int]]) -> set[int]:
    """Characters of ranges of tokens."""
    return inside(character_range(tokens, first, last) for first, last in ranges)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=8)
    wanted = parser.parse_args()
    sequences = pl.read_parquet(sequences_path())
    lm = load_model(str(model_path()), device="cpu")
    documents = [*planted(sequences, wanted.passages), *unseen(sequences)]
    texts = [Document(str(n), one[1], "") for n, one in enumerate(documents)]
    audit = local_audit(lm, texts, NearSettings())
    windows = scan_windows(audit)
    places = begun_right(windows)
    report(documents, audit, windows, places, write_on(audit, places))


class Found(NamedTuple):
    """Characters of a passage's second half: all, found strictly, found strictly or nearly."""

    kind: tuple[object, ...]
    half: int
    strict: int
    either: int
    origin: str


def report(
    documents: Sequence[Planted],
    audit: Auditing,
    windows: pl.DataFrame,
    places: Sequence[Place],
    written: Sequence[list[int]],
) -> None:
    """Print how much is found word for word and nearly so, and how much by mistake."""
    settings = NearSettings()
    every = find_near_copies(audit.texts, places, written, settings)
    copies = [
        one
        for one in every
        if stands_out(one, matched_elsewhere(audit.texts, one, settings), settings)
    ]
    hits = windows.filter(pl.col("continuation").is_not_null())
    rows, called, outside, alarms, characters = list[Found](), [], 0, 0, 0
    for number, (kind, text, passages) in enumerate(documents):
        firsts = hits.filter(pl.col("document") == number)["first"].to_list()
        tokens = audit.texts[number].tokens
        strict = covered(tokens, [(one + settings.prefix, one + settings.length) for one in firsts])
        own = [one for one in copies if one.place[0] == number]
        near = covered(tokens, [(one.first, one.last) for one in own])
        whole = {place for start, end, _ in passages for place in range(start, end)}
        called.append((len(near & whole), len(near)))
        if kind == ("unseen",):
            alarms, characters = alarms + len(near), characters + len(text)
        else:
            outside += len(near - whole)
        for start, end, origin in passages:
            half = set(range(start + (end - start) // 2, end))
            either = (strict | near) & half
            rows.append(Found(kind, len(half), len(strict & half), len(either), origin))
    print(f"{windows.height:,} windows, {len(places):,} let go on, {len(every)} near copies")
    print(f"{len(every) - len(copies)} of them match another place nearly as much: not counted")
    table = []
    each = product(GENRES, CHANGES, NUMBERS)
    for kind in [(), *((one,) for one in (*GENRES, *CHANGES)), *each, *((n,) for n in NUMBERS)]:
        some = [one for one in rows if set(kind) <= set(one.kind)]
        halves, origins = [one.half for one in some], [one.origin for one in some]
        ways = [one.strict for one in some], [one.either for one in some]
        found = [sum(2 * n > half for n, half in zip(way, halves, strict=True)) for way in ways]
        shares = [resampled_ratio(way, halves, origins) for way in ways]
        name = " ".join(map(str, kind)) or "all"
        table.append([name, *map(str, (len(some), *found, *shares))])
    heads = ["planted", "passages", "strict", "strict or near", "by character, strict"]
    print(table_of([*heads, "strict or near"], table))
    true, all_ = zip(*(one for one in called if one[1]), strict=True)
    print(f"of near copies in planted passages: {share_drawn(true, all_, range(len(all_)))}")
    print(
        f"outside the planted passages: {outside} characters; in {characters:,} characters of "
        f"unseen text: {alarms}"
    )


if __name__ == "__main__":
    main()
