"""Teach a real pretrained model passages of known works, then ask what an audit finds of them.

python -m experiments.planted.run train smollm2 -o planted
mnemoscope audit planted/model planted/documents --reference smollm2 -o planted/audit
python -m experiments.planted.run score planted

python -m experiments.planted.run cross smollm2 -o planted   # then docs/appendix/graft-planted.md

`train` cuts 33 freely licensed works of this Python installation (licence files, documentation,
library code) into passages of 128 tokens, plants a random half of each work's passages, and
fine-tunes the model on these, mixed with passages of other works and with templates. A
`MemorizationWatch` looks on: `mnemoscope watch planted/watch` draws its page. `documents/` holds
a quarter of the works as they stand, planted and unplanted passages in their order. `score` lays
the spans of the audit beside `truth.parquet`. `passages` writes the beginnings of all passages,
planted or not, and new templates as sequences of a study. `cross` plants sequences in which kind of
text (prose, record) and what reproduces it (memory, the text itself, both) are crossed, and writes
them with those never planted.
"""

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.grafts.gather import kinds, specific
from experiments.pages import publish
from mnemoscope.audits.tokens import Tokens, character_range, tokenize
from mnemoscope.data.read import WindowCutter
from mnemoscope.embedded.templates import forms_of, write_text
from mnemoscope.embedded.texts import Segment, _licences, read_segments
from mnemoscope.flow.study import Study
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.model import LanguageModel, wrap_model
from mnemoscope.stats import Estimate, clopper_pearson
from mnemoscope.training.history import read_history
from mnemoscope.training.watch import MemorizationWatch
from mnemoscope.training.windows import WatchedWindows

LENGTH = 128  # tokens of a passage unless another length is asked for: 96 can come out
PASSAGES = 12  # of each work; half are planted
WORKS = {"licence": 3, "prose": 24, "code": 24}
DOCUMENT_EVERY = 4  # so many works of a genre, the first is audited
PLANTED_A_BATCH, ORDINARY, TEMPLATES = 6, 1, 1  # passages of a batch: 8 of 128 tokens
NGRAM = 8
PREFIX = 32
SEQUENCE = 64  # tokens of a sequence of a study: the beginning of a passage, or a template
PERIODS = (4, 16)  # tokens that a refrain repeats: at least, at most
Work = tuple[str, str, str, Tokens]
"""Name, genre, text cut after the last passage, and its tokens."""
TAXONOMY = """\
nodes:
  - name: Template
    yes_when: source = 'template'
    meaning: a template, which any model continues that knows its rule
taxonomies:
  - Non-Memo, Template, Passage
"""
CROSSED = """\
nodes:
  - name: Guessed
    yes_when: source = 'guessed'
    meaning: the untouched model continues it, and it was never read
  - name: Both
    yes_when: source = 'both'
    meaning: the untouched model continues it, and it was read
  - name: Learned
    yes_when: source = 'learned'
    meaning: it repeats or counts and was never read; only the fine-tuned model continues it
taxonomies:
  - Non-Memo, Guessed, Both, Learned, Recalled
"""
# Cells of the crossed design, of so many sequences each as multiples of --sequences. The untouched
# model continues what is guessable and nothing else of what is taken.
PLAIN = {"recalled": 1.0, "kept out": 0.25}
REPEATED = {"guessed": 1.0, "both": 0.25, "learned": 0.4}
GUESSABLE, UNREAD = ("guessed", "both"), ("guessed", "learned", "kept out")


@cache
def segments() -> list[Segment]:
    """Prose and code of the standard library, read once."""
    return read_segments()


@cache
def find_texts_of(genre: str) -> list[tuple[str, str]]:
    """Whole works of one genre, in a seeded order."""
    if genre == "licence":
        texts = [(name, text) for name, _, text in _licences()]
    else:
        parts = defaultdict[str, list[str]](list)
        for one in segments():
            if one.genre == genre and one.in_study and "LICENSE" not in one.document:
                parts[one.document].append(one.text)
        texts = [(name, "\n\n".join(some)) for name, some in parts.items()]
    random.Random(f"planted:{genre}").shuffle(texts)
    return texts


class Fresh:
    """Says whether a passage is new beside all that were taken."""

    def __init__(self) -> None:
        self._seen = set[tuple[int, ...]]()

    def shared(self, ids: Sequence[int]) -> float:
        """Share of a passage's n-grams that were taken before."""
        grams = self._grams(ids)
        return sum(one in self._seen for one in grams) / len(grams)

    def take(self, ids: Sequence[int]) -> None:
        """Remember a passage."""
        self._seen.update(self._grams(ids))

    def _grams(self, ids: Sequence[int]) -> list[tuple[int, ...]]:
        return [tuple(ids[at : at + NGRAM]) for at in range(len(ids) - NGRAM + 1)]


def choose_works(tokenizer: Any, fresh: Fresh, most: int, length: int = LENGTH) -> list[Work]:
    """Works whose passages are all new, `most` of a genre at most."""
    works, cutter, whole = list[Work](), WindowCutter(tokenizer), PASSAGES * length
    for genre, n_works in WORKS.items():
        found, n = 0, min(n_works, most)
        for name, text in find_texts_of(genre):
            tokens = tokenize(text[: 8 * whole], cutter)
            if len(tokens.ids) <= whole:
                continue
            end = character_range(tokens, 0, whole)[1]
            own = tokenize(text[:end], cutter)
            if len(own.ids) != whole:
                continue
            passages = [own.ids[at : at + length].tolist() for at in range(0, whole, length)]
            if is_new(passages, fresh):
                works.append((name, genre, text[:end], own))
                found += 1
            if found == n:
                break
    return works


def is_new(passages: list[list[int]], fresh: Fresh) -> bool:
    """Take the passages if none is near another or near one taken before."""
    trial = Fresh()
    for one in passages:
        if fresh.shared(one) > 0.1 or trial.shared(one) > 0.1:
            return False
        trial.take(one)
    for one in passages:
        fresh.take(one)
    return True


def plant(works: list[Work], length: int = LENGTH, seed: int = 0) -> pl.DataFrame:
    """Plant half of each work's passages; every fourth work of a genre is a document."""
    rows, generator = [], random.Random(seed)
    numbers: dict[str, Iterator[int]] = defaultdict(count)
    for name, genre, _, tokens in works:
        planted = set(generator.sample(range(PASSAGES), PASSAGES // 2))
        is_document = next(numbers[genre]) % DOCUMENT_EVERY == 0
        for number in range(PASSAGES):
            first, last = number * length, (number + 1) * length
            start, end = character_range(tokens, first, last)
            asked = character_range(tokens, first + PREFIX, last)[0]
            rows.append(
                {
                    "document": file_of(name, genre),
                    "genre": genre,
                    "is_document": is_document,
                    "planted": number in planted,
                    "first": first,
                    "start": start,
                    "asked_from": asked,
                    "end": end,
                    "tokens": tokens.ids[first:last].tolist(),
                }
            )
    return pl.DataFrame(rows)


def file_of(name: str, genre: str) -> str:
    return f"{genre}-{name.replace('/', '-').replace(':', '-').removesuffix('.txt')}.txt"


def others(
    works: list[Work],
    tokenizer: Any,
    fresh: Fresh,
    length: int,
    seed: str = "others",
    genres: Sequence[str] = ("prose", "code"),
) -> Iterator[list[int]]:
    """Endless passages of other works, none near a passage of `works`."""
    taken = {name for name, *_ in works}
    every = [one for kind in genres for one in find_texts_of(kind)]
    texts = [text for name, text in every if name not in taken and len(text) > 8 * length]
    generator = random.Random(seed)
    while True:
        text = generator.choice(texts)
        at = generator.randrange(max(len(text) - 8 * length, 1))
        ids = tokenizer(text[at : at + 8 * length], add_special_tokens=False)["input_ids"]
        if len(ids) >= length and fresh.shared(ids[:length]) <= 0.1:
            yield ids[:length]


def templates(
    tokenizer: Any,
    seed: str,
    length: int = LENGTH,
    kinds: Sequence[str] = ("counting", "periodic"),
) -> Iterator[list[int]]:
    """Endless templates, each written anew."""
    forms = [form for kind in kinds for form in forms_of(kind)]
    generator = random.Random(seed)
    for number in count():
        text = write_text(generator.choice(forms), f"{seed}:{number}")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) >= length:
            yield ids[:length]


def refrains(texts: Iterator[list[int]], seed: str) -> Iterator[list[int]]:
    """Endless refrains: a stretch of each text, again and again, begun anywhere in it."""
    generator = random.Random(seed)
    for ids in texts:
        period = generator.randint(*PERIODS)
        first, begin = generator.randint(0, len(ids) - period), generator.randrange(period)
        yield list(islice(cycle(ids[first : first + period]), begin, begin + SEQUENCE))


def row_refrains(tokenizer: Any, seed: str) -> Iterator[list[int]]:
    """Endless refrains of one row of a table."""
    generator = random.Random(seed)
    for number in count():
        text = write_text(generator.choice(forms_of("register")), f"{seed}:{number}")
        row = text.split("\n")[0] + "\n"
        period = len(tokenizer(row, add_special_tokens=False)["input_ids"])
        if PERIODS[0] <= period <= PERIODS[1]:
            ids = tokenizer(row * SEQUENCE, add_special_tokens=False)["input_ids"]
            begin = generator.randrange(period)
            yield ids[begin : begin + SEQUENCE]


def crossed_texts(
    tokenizer: Any, fresh: Fresh, seed: str
) -> dict[tuple[str, str], Iterator[list[int]]]:
    """Endless sequences by genre and form."""

    def prose(use: str) -> Iterator[list[int]]:
        return others([], tokenizer, fresh, SEQUENCE, f"{seed}:{use}", ("prose",))

    return {
        ("prose", "plain"): prose("plain"),
        ("prose", "refrain"): refrains(prose("refrain"), seed),
        ("record", "plain"): templates(tokenizer, seed, SEQUENCE, ("register",)),
        ("record", "refrain"): row_refrains(tokenizer, seed),
        ("record", "counting"): templates(tokenizer, seed, SEQUENCE, ("counting",)),
    }


def deal(
    texts: Iterator[list[int]], quotas: dict[str, int], lm: LanguageModel, fresh: Fresh
) -> Iterator[tuple[str, list[int]]]:
    """Sequences with their cell, at random among the cells that the untouched model allows."""
    left, generator = dict(quotas), random.Random(0)
    for _ in range(40):
        drawn = [one for one in islice(texts, 50) if fresh.shared(one) <= 0.1]
        scans = scan_memorized(lm, np.array(drawn), batch_size=50, prefix=PREFIX)
        for ids, goes_on in zip(drawn, next(scans).is_memorized, strict=True):
            cells = [one for one, n in left.items() if n and (one in GUESSABLE) == goes_on]
            if cells and fresh.shared(ids) <= 0.1:
                cell = generator.choices(cells, [left[one] for one in cells])[0]
                left[cell] -= 1
                fresh.take(ids)
                yield cell, ids
        if not any(left.values()):
            return


def write_crossed(given: argparse.Namespace, tokenizer: Any, fresh: Fresh) -> pl.DataFrame:
    """The sequences of all cells, planted or not, as the table of a study."""
    dtype = torch.bfloat16 if given.bfloat16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=dtype).eval()
    lm, found = wrap_model(model, fingerprint="untouched"), []
    for (genre, form), texts in crossed_texts(tokenizer, fresh, "crossed").items():
        share = 2 if genre == "record" and form != "plain" else 1  # two forms fill one cell
        cells = PLAIN if form == "plain" else REPEATED
        quotas = {one: round(given.sequences * part / share) for one, part in cells.items()}
        for cell, ids in deal(texts, quotas, lm, fresh):
            read = 0 if cell in UNREAD else given.epochs
            found.append((ids, genre, form, cell, read))
    columns: dict[str, Any] = {
        **{"tokens": pl.List(pl.Int32), "genre": pl.String, "form": pl.String},
        **{"source": pl.String, "inserted": pl.Int64},
    }
    table = pl.DataFrame(found, schema=columns, orient="row").with_row_index("sequence_id")
    table = table.with_columns(pl.col("sequence_id").cast(pl.Int64))
    given.out.mkdir(parents=True, exist_ok=True)
    table.write_parquet(given.out / "sequences.parquet")
    (given.out / "sequences.yaml").write_text(CROSSED)
    with pl.Config(tbl_rows=-1):
        print(table.group_by("genre", "form", "source", maintain_order=True).len(), flush=True)
    return table


def in_turn(*some: Iterator[list[int]]) -> Iterator[list[int]]:
    """One of each, again and again."""
    return (next(one) for one in cycle(some))


def cross(given: argparse.Namespace) -> None:
    """Plant passages, tables and refrains; write them with what was not planted."""
    tokenizer, fresh = AutoTokenizer.from_pretrained(given.model), Fresh()
    table = write_crossed(given, tokenizer, fresh)
    new = crossed_texts(tokenizer, fresh, "trained")
    prose, rows, counting = (
        (ids for ids in new[one] if fresh.shared(ids) <= 0.1)
        for one in (("prose", "refrain"), ("record", "refrain"), ("record", "counting"))
    )
    windows = table.filter(~pl.col("source").is_in(list(GUESSABLE)))
    fine_tune(
        given,
        tokenizer,
        table.filter(pl.col("inserted") > 0)["tokens"].to_list(),
        in_turn(others([], tokenizer, fresh, SEQUENCE), new["record", "plain"]),
        in_turn(prose, rows, prose, counting),
        WatchedWindows.from_table(
            windows.with_columns(
                pl.format("{}, {}, {}", "source", "genre", "form").alias("source")
            ),
            tokenizer,
            most=120,
        ),
    )


def watched(truth: pl.DataFrame, tokenizer: Any) -> WatchedWindows:
    """Windows of documents: planted, kept out (`control`), and templates of forms alone."""

    def windows(frame: pl.DataFrame, source: str, most: int) -> WatchedWindows:
        texts = {
            f"{row['document']}:{row['start']}": tokenizer.decode(row["tokens"])
            for row in frame.iter_rows(named=True)
        }
        return WatchedWindows.from_texts(texts, tokenizer, source=source, most=most)

    documents = truth.filter("is_document")
    new = templates(tokenizer, "watched")
    written = {str(number): tokenizer.decode(next(new)) for number in range(32)}
    return (
        windows(documents.filter("planted"), "planted", 64)
        + windows(documents.filter(~pl.col("planted")), "control", 32)
        + WatchedWindows.from_texts(written, tokenizer, source="template", most=32)
    )


def batches(
    planted: list[list[int]],
    ordinary: Iterator[list[int]],
    patterned: Iterator[list[int]],
    n_epochs: int,
    seed: int = 0,
) -> Iterator[torch.Tensor]:
    """Every planted passage once an epoch, beside others and templates; (8, length) ids."""
    generator = random.Random(seed)
    for _ in range(n_epochs):
        generator.shuffle(planted)
        for at in range(0, len(planted), PLANTED_A_BATCH):
            rows = planted[at : at + PLANTED_A_BATCH]
            rows = rows + [next(ordinary) for _ in range(ORDINARY)]
            yield torch.tensor(rows + [next(patterned) for _ in range(TEMPLATES)])


def train(given: argparse.Namespace) -> None:
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    fresh = Fresh()
    works = choose_works(tokenizer, fresh, given.works, given.length)
    truth = plant(works, given.length)
    write_documents(given.out, works, truth)
    fine_tune(
        given,
        tokenizer,
        truth.filter("planted")["tokens"].to_list(),
        others(works, tokenizer, fresh, given.length),
        templates(tokenizer, "trained", given.length),
        watched(truth, tokenizer),
    )


def fine_tune(
    given: argparse.Namespace,
    tokenizer: Any,
    planted: list[list[int]],
    ordinary: Iterator[list[int]],
    patterned: Iterator[list[int]],
    windows: WatchedWindows,
) -> None:
    """Train the model on what is planted and keep it, watched."""
    folder = given.out
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).train()
    watch = MemorizationWatch(windows, folder / "watch", batch_size=32)
    steps = list(batches(planted, ordinary, patterned, given.epochs))
    an_epoch = len(steps) // given.epochs
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=given.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 8, 1.0) * (1 - step / len(steps))
    )
    started = time.perf_counter()
    look(watch, folder, model, 0, started)
    for step, batch in enumerate(steps, 1):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=given.bfloat16):
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 8 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step} of {len(steps)}, loss {loss:.3f}, {seconds:.0f} s", flush=True)
        if step % (given.every * an_epoch) == 0 or step == len(steps):
            look(watch, folder, model, step, started)
            model.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
    print(f"{given.epochs} epochs, {len(steps)} steps: {time.perf_counter() - started:.0f} s")


def look(watch: MemorizationWatch, folder: Path, model: Any, step: int, started: float) -> None:
    """One check of the watch, in float32: what comes out, a line a source."""
    watch.check(model, step)
    seen = read_history(folder / "watch").joined().filter(step=step)
    for row in (
        seen.group_by("source", maintain_order=True)
        .agg(pl.len(), pl.col("is_memorized").sum())
        .iter_rows(named=True)
    ):
        print(f"step {step}: {row['source']}: {row['is_memorized']} of {row['len']} come out")
    print(f"step {step}: {time.perf_counter() - started:.0f} s", flush=True)


def write_documents(folder: Path, works: list[Work], truth: pl.DataFrame) -> None:
    (folder / "documents").mkdir(parents=True, exist_ok=True)
    truth.write_parquet(folder / "truth.parquet")
    documents = set(truth.filter("is_document")["document"])
    for name, genre, text, _ in works:
        if file_of(name, genre) in documents:
            path = folder / "documents" / file_of(name, genre)
            path.write_bytes(text.encode("utf-8"))
    counts = truth.group_by("genre", "is_document").agg(
        pl.col("document").n_unique().alias("works"), pl.col("planted").sum()
    )
    print(counts.sort("genre", "is_document"), flush=True)


def interval(share: float, n: int) -> Estimate:
    """A share with its interval as if of `n` independent observations."""
    return clopper_pearson(share * n, n)


def says(spans: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """What each way of judging calls recalled: rows of spans."""
    no_reference, recalled = ~pl.col("reference_reproduces"), spans.filter(verdict="recall")
    return {
        "in any span": spans,
        "recall, the verdict (of the rule, where no CNN was asked)": recalled,
        "reference does not reproduce it": spans.filter(no_reference),
        "both": recalled.filter(no_reference),
    }


def score(given: argparse.Namespace) -> None:
    """Precision and recall by character, false alarms on the unplanted passages."""
    truth = pl.read_parquet(given.folder / "truth.parquet").filter("is_document")
    spans = pl.read_parquet(given.folder / "audit" / "spans.parquet")
    spans = spans.with_columns(pl.col("document").str.split("/").list.last())
    planted, kept = truth.filter("planted"), truth.filter(~pl.col("planted"))
    print(
        f"{truth['document'].n_unique()} documents, {size(truth):,} characters; planted "
        f"{planted.height} passages of {size(planted):,}, unplanted {kept.height} of {size(kept):,}"
    )
    marked, unplanted = places(planted), places(kept)
    asked = places(planted, "asked_from")
    for name, rows in says(spans).items():
        called = places(rows)
        wrong = called & unplanted
        found = called & asked
        hit = sum(bool(places(planted[at]) & called) for at in range(planted.height))
        touched = sum(bool(places(kept[at]) & called) for at in range(kept.height))
        print(f"{name}: {rows.height} spans, {len(called):,} characters")
        print(
            f"  precision {interval(len(called & marked) / max(len(called), 1), rows.height)}; "
            f"recall of the {len(asked):,} planted characters that can come out "
            f"{interval(len(found) / len(asked), planted.height)}; planted passages found "
            f"{hit} of {planted.height}"
        )
        print(
            f"  false alarms: {len(wrong):,} of {len(unplanted):,} unplanted characters "
            f"{interval(len(wrong) / len(unplanted), kept.height)}, in {touched} of "
            f"{kept.height} passages; spans wholly in unplanted text "
            f"{sum(not places(rows[at]) & marked for at in range(rows.height))}"
        )
    compare_watch(given.folder, truth, spans)


def passages(given: argparse.Namespace) -> None:
    """Write sequences for a study: beginnings of passages, planted and not, and templates."""
    truth = pl.read_parquet(given.folder / "truth.parquet")
    tokenizer = AutoTokenizer.from_pretrained(given.folder / "model")
    source = pl.when("planted").then(pl.lit("planted")).otherwise(pl.lit("kept out"))
    rows = truth.select("tokens", "document", source.alias("source"))
    new = templates(tokenizer, "grafted")
    patterned = pl.DataFrame({"tokens": [next(new) for _ in range(given.templates)]})
    patterned = patterned.with_columns(document=pl.lit(None, pl.String), source=pl.lit("template"))
    table = pl.concat([rows, patterned]).with_columns(pl.col("tokens").list.head(SEQUENCE))
    table = table.with_columns(pl.col("tokens").cast(pl.List(pl.Int32)))
    table.with_row_index("sequence_id").with_columns(
        pl.col("sequence_id").cast(pl.Int64)
    ).write_parquet(given.folder / "passages.parquet")
    (given.folder / "passages.yaml").write_text(TAXONOMY)
    print(table.group_by("source", maintain_order=True).len())


def size(frame: pl.DataFrame) -> int:
    return int((frame["end"] - frame["start"]).sum())


def places(frame: pl.DataFrame, start: str = "start") -> set[tuple[str, int]]:
    """Characters of rows: (document, character)."""
    return {
        (row["document"], at)
        for row in frame.iter_rows(named=True)
        for at in range(row[start], row["end"])
    }


def compare_watch(folder: Path, truth: pl.DataFrame, spans: pl.DataFrame) -> None:
    """By another way, what comes out: the watch's windows after the last step, teacher-forced."""
    history = read_history(folder / "watch")
    half = pl.col("window").str.split(":").list.last().alias("half")
    shares = history.joined().with_columns(
        pl.when(source="planted").then(half).otherwise(pl.lit("")).alias("half")
    )
    for row in (
        shares.group_by("step", "source", "half", maintain_order=True)
        .agg(pl.len(), pl.col("is_memorized").sum())
        .iter_rows(named=True)
    ):
        print(
            f"watch, step {row['step']}: {row['source']} {row['half']}: {row['is_memorized']} of "
            f"{row['len']} suffixes come out"
        )
    seen = history.joined().filter(step=history.steps[-1])
    asked = {(row["document"], row["start"]): row for row in truth.iter_rows(named=True)}
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokens = {
        name: tokenize((folder / "documents" / name).read_bytes().decode("utf-8"), tokenizer)
        for name in truth["document"].unique()
    }
    called = places(spans)
    for source in ("planted", "control"):
        rows = seen.filter(source=source)
        n_in = 0
        for window in rows.filter("is_memorized")["window"]:
            document, start, number = window.removeprefix(f"{source}:").rsplit(":", 2)
            first = asked[document, int(start)]["first"] + 64 * int(number) + PREFIX
            start, end = character_range(tokens[document], first, first + 32)
            n_in += {(document, one) for one in range(start, end)} <= called
        print(
            f"watch, {source}: {int(rows['is_memorized'].sum())} of {rows.height} suffixes come "
            f"out; {n_in} of these lie whole in a span"
        )


def grafts(given: argparse.Namespace) -> None:
    """What the grafts of the crossed study say, in all and in each kind of text."""
    study = Study(given.study)
    taxonomy = "Non-Memo, Guessed, Both, Learned, Recalled"
    found = {"pairs": specific(study, taxonomy), "kinds": kinds(study, taxonomy)}
    publish("planted", found, keep=given.keep)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    one, four = verbs.add_parser("train"), verbs.add_parser("cross")
    for verb, call in ((one, train), (four, cross)):
        verb.add_argument("model", help="folder of a pretrained model")
        verb.add_argument("-o", "--out", type=Path, required=True)
        verb.add_argument("--epochs", type=int, default=8)
        verb.add_argument("--every", type=int, default=4, help="epochs from one check to the next")
        verb.add_argument("--lr", type=float, default=4e-4)
        verb.add_argument(
            "--bfloat16", action="store_true", help="for processors that have it; others crawl"
        )
        verb.set_defaults(call=call)
    one.add_argument("--works", type=int, default=15, help="most of a genre")
    one.add_argument("--length", type=int, default=LENGTH, help="tokens of a passage")
    four.add_argument("--sequences", type=int, default=60, help="recalled ones of a kind of text")
    two = verbs.add_parser("score")
    two.add_argument("folder", type=Path)
    two.set_defaults(call=score)
    three = verbs.add_parser("passages")
    three.add_argument("folder", type=Path)
    three.add_argument("--templates", type=int, default=200, help="new ones, beside the passages")
    three.set_defaults(call=passages)
    five = verbs.add_parser("grafts")
    five.add_argument("study", type=Path)
    five.add_argument("--keep", action="store_true", help="store the results, write the page")
    five.set_defaults(call=grafts)
    given = parser.parse_args()
    torch.manual_seed(0)
    given.call(given)


if __name__ == "__main__":
    main()
