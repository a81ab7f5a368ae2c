"""What each question of an audit finds of passages that were trained, by character.

python -m experiments.audits.planted [--documents 10] [--only found|chat|within|ordinary]

Documents hold trained passages of the embedded model, held-out templates and held-out passages
between sentences of a grammar. Precision: share of the called characters that stand in trained
passages. Recall: share of what stands behind the first 32 tokens of a trained passage that is
called.
Intervals draw documents (`within`: texts, `ordinary`: answers).
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from experiments.audits.finds import (
    Planted,
    inside,
    planted_documents,
    share_drawn,
    trained_of,
    write_new,
    write_texts,
)
from experiments.audits.near_copies import CHANGES, GENRES, NUMBERS, change
from mnemoscope.audits.asking import Auditing
from mnemoscope.audits.chance import tries_needed
from mnemoscope.audits.chat import ChatModel
from mnemoscope.audits.client import AnswerStore, Client
from mnemoscope.audits.documents import read_documents
from mnemoscope.audits.edit_search import chance_within
from mnemoscope.audits.local import local_audit
from mnemoscope.audits.ordinary import SHIPPED, find_overlaps, read_prompts
from mnemoscope.audits.profile import TRIES
from mnemoscope.audits.questions import EditSettings, OrdinarySettings, audit_settings
from mnemoscope.audits.run import make_audit
from mnemoscope.audits.sampling import draw_answers, score_rows
from mnemoscope.audits.settings import EndpointSettings
from mnemoscope.audits.tokens import ModelTokens, Tokens, character_range, cut_texts, tokenize
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.lm.hub import find_bos
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel
from mnemoscope.stats import clopper_pearson

sys.path.append(str(Path(__file__).parents[2] / "tests" / "audits"))
PREFIX = audit_settings().prefix
_C = TypeVar("_C", int, tuple[int, int])  # a character: of its document, or of a numbered one


def report(name: str, called: list[set[_C]], planted: list[set[_C]], wanted: list[set[_C]]) -> None:
    """Print precision and recall; each argument holds the characters of every document."""
    precision, recall = (
        share_drawn(
            [len(one & other) for one, other in zip(called, truth, strict=True)],
            [len(one) for one in (called if truth is planted else wanted)],
            range(len(called)),
        )
        for truth in (planted, wanted)
    )
    n = sum(map(len, called))
    print(f"| {name} | {n:,} | {precision} | {recall} |", flush=True)


def can_come_out(tokens: Tokens, places: Iterable[tuple[str, int, int]]) -> set[int]:
    """Characters of trained passages behind the first tokens, which must be shown."""
    found = []
    for kind, start, end in places:
        within = np.flatnonzero((tokens.starts >= start) & (tokens.ends <= end))
        if kind == "trained" and len(within) > PREFIX:
            found.append((int(tokens.starts[within[PREFIX]]), end))
    return inside(found)


def called_in(frame: pl.DataFrame, names: list[str]) -> list[set[int]]:
    """Characters of a table's rows, a set for each document."""
    return [inside(frame.filter(document=one).select("start", "end").iter_rows()) for one in names]


def write_corpus(
    folder: Path, planted: list[Planted]
) -> tuple[list[str], dict[str, list[tuple[int, int]]]]:
    """A corpus in which trained passages stand once to three times; places of each, by its text."""
    generator, texts, places = random.Random(7), [""] * 5, dict[str, list[tuple[int, int]]]()
    for text, own in planted:
        for kind, start, end in own:
            for _ in range(generator.randint(1, 3) if kind == "trained" else 0):
                number = generator.randrange(len(texts))
                texts[number] += write_new(generator, 3) + "\n"
                place = (number, len(texts[number]))
                places.setdefault(text[start:end], []).append(place)
                texts[number] += text[start:end] + "\n"
    return write_texts(folder, texts), places


def report_origins(
    spans: pl.DataFrame,
    origins: pl.DataFrame,
    planted: list[Planted],
    names: list[str],
    files: list[str],
    copies: dict[str, list[tuple[int, int]]],
) -> None:
    """Characters of the corpus that are listed for recalled passages, against planted copies."""
    listed, true, wanted = ([set[tuple[int, int]]() for _ in names] for _ in range(3))
    recalled = spans.with_row_index("span", offset=1).filter(verdict="recall")
    for row in recalled.iter_rows(named=True):
        at = names.index(row["document"])
        text, places = planted[at]
        some = origins.filter(span=row["span"])
        whole = some.filter(found="passage")
        length = row["end"] - row["start"]
        if not whole.height:
            whole, length = some, row["window_end"] - row["suffix_start"]
        for source, offset in whole.select("in", "offset").iter_rows():
            listed[at].update((files.index(source), offset + one) for one in range(length))
        for kind, start, end in places:
            if kind != "trained":
                continue
            both = set(range(start, end)) & set(range(row["start"], row["end"]))
            for number, place in copies[text[start:end]]:
                true[at].update((number, place + one) for one in range(end - start))
                wanted[at].update((number, place + one - start) for one in both)
    report("`--corpus`: places of recalled passages", listed, true, wanted)


def measure_found(
    lm: LanguageModel, reference: LanguageModel, planted: list[Planted], folder: Path
) -> None:
    """One audit that asks everything of a model of this machine."""
    names = write_texts(folder / "documents", [text for text, _ in planted])
    files, copies = write_corpus(folder / "corpus", planted)
    settings = audit_settings(profile=True, corpus=str(folder / "corpus"), edits=0)
    reading = read_documents(names)
    audit = local_audit(lm, reading.documents, settings, reference=reference)
    make_audit(audit, reading, folder / "out")
    tables = ("spans", "near", "profile", "origins")
    spans, near, profile, origins = (
        pl.read_parquet(folder / "out" / f"{one}.parquet") for one in tables
    )
    truth = [trained_of(places) for _, places in planted]
    wanted = [
        can_come_out(text.tokens, places)
        for text, (_, places) in zip(audit.texts, planted, strict=True)
    ]
    is_recall = pl.col("verdict") == "recall"
    report("reproduced", called_in(spans, names), truth, wanted)
    report("recall, word for word", called_in(spans.filter(is_recall), names), truth, wanted)
    both = pl.concat(
        [one.filter(is_recall).select("document", "start", "end") for one in (spans, near)]
    )
    report("recall, word for word or nearly", called_in(both, names), truth, wanted)
    for column in ("rule_says", "reference_says", "grafts_say", "needs_say"):
        said = spans.filter(pl.col(column) == "recall")
        report(f"{column.replace('_', ' ')} recall", called_in(said, names), truth, wanted)
    needed = profile["extraction_logprob"].map_elements(
        lambda one: tries_needed(one, settings.probability) or 2**62, return_dtype=pl.Int64
    )
    starts = profile.with_columns(start="suffix_start")
    for tries in TRIES:
        report(
            f"`--profile`: {tries:,} answers",
            called_in(starts.filter(needed <= tries), names),
            truth,
            wanted,
        )
    report_origins(spans, origins, planted, names, files, copies)


def measure_chat(lm: LanguageModel, planted: list[Planted], folder: Path) -> None:
    """The same documents through a service that only chats."""
    from served import KEY, serving  # type: ignore[import-not-found]  # of tests/audits

    os.environ["OPENAI_API_KEY"] = KEY
    names = write_texts(folder / "chat", [text for text, _ in planted])
    reading, settings = read_documents(names), audit_settings(stride=16, top_k=0)
    with serving(lm, "chat") as (service, url):
        service.preamble = "Sure! Here is how it goes on:\n\n"
        asked = EndpointSettings(url=url, model="embedded", prompt_as="text", chat=True)
        client = Client(asked, AnswerStore(folder / "answers.jsonl"))
        splitter = ModelTokens(lm.tokenizer, find_bos(lm.tokenizer))
        texts = cut_texts(splitter, reading.documents)
        audit = Auditing(ChatModel(client, splitter, settings), texts, settings)
        make_audit(audit, reading, folder / "chat-out")
        print(f"chat: {service.n_requests:,} requests")
    spans = pl.read_parquet(folder / "chat-out" / "spans.parquet").filter(verdict="recall")
    report(
        "`--chat`: recall, every 16th token",
        called_in(spans, names),
        [trained_of(places) for _, places in planted],
        [can_come_out(t.tokens, p) for t, (_, p) in zip(audit.texts, planted, strict=True)],
    )


def changed_windows(lm: LanguageModel, pool: pl.DataFrame, n: int) -> list[tuple[Any, ...]]:
    """Windows of texts with words changed in what is to come out, each with what is known of it."""
    rows = []
    for number, text in enumerate(pool["text"].to_list()):
        for kind in CHANGES:
            for n_words in NUMBERS[:n]:
                changed = change(text, kind, n_words, random.Random(f"{number}{kind}{n_words}"))
                if changed is None:
                    continue
                tokens = tokenize(changed, lm.tokenizer)
                if len(tokens.ids) >= 2 * PREFIX:
                    n_characters = int(tokens.ends[2 * PREFIX - 1] - tokens.starts[PREFIX])
                    rows.append((kind, n_words, n_characters, number, tokens.ids[: 2 * PREFIX]))
    return rows


def measure_within(lm: LanguageModel, sequences: pl.DataFrame) -> None:
    """What 1,000 answers bring out of changed passages: exactly, or within edits."""
    settings = EditSettings()
    kinds = {
        "trained": sequences.filter(pl.col("duplicates") > 5, pl.col("form") == "plain"),
        "held out": sequences.filter(pl.col("held_out"), pl.col("form") == "plain"),
    }
    print("| text | words changed | windows | exactly | within 3 edits |\n|---|---|---|---|---|")
    for kind, pool in kinds.items():
        rows = changed_windows(lm, pool.filter(pl.col("genre").is_in(GENRES)).sample(40, seed=2), 2)
        windows = np.array([one[-1] for one in rows], dtype=np.int32)
        exact = score_rows(lm, windows, settings).sampling
        bound = chance_within(lm, windows, settings).logprob
        assert (bound >= exact - 1e-6).all(), "the bound is below the chance of the passage"
        for n_words in NUMBERS[:2]:
            some = [at for at, one in enumerate(rows) if one[1] == n_words]
            shares = []
            for chances in (exact, bound):
                n = [tries_needed(float(chances[at]), settings.probability) for at in some]
                sizes = [rows[at][2] for at in some]
                found = [
                    size * (one is not None and one <= 1000)
                    for size, one in zip(sizes, n, strict=True)
                ]
                shares.append(share_drawn(found, sizes, [rows[at][3] for at in some]))
            print(f"| {kind} | {n_words} | {len(some)} | {shares[0]} | {shares[1]} |", flush=True)


def measure_ordinary(lm: LanguageModel, sequences: pl.DataFrame, folder: Path) -> None:
    """Answers that repeat trained or held-out texts: everyday prompts, and beginnings of both."""
    of_text = sequences.filter(pl.col("form") == "plain")
    pools = {
        "trained": of_text.filter(pl.col("duplicates") > 5),
        "held out": of_text.filter(pl.col("held_out")),
    }
    n = min(one.height for one in pools.values())
    texts = {kind: one.sample(n, seed=3) for kind, one in pools.items()}
    names = write_texts(folder / "texts", ["\n\n\n".join(one["text"]) for one in texts.values()])
    reading = read_documents(names)
    prompts = {"everyday": read_prompts(SHIPPED)}
    for kind, one in texts.items():
        ids = np.array(one["tokens"].head(100).to_list())[:, :PREFIX]
        prompts[f"beginnings of {kind} texts"] = lm.tokenizer.batch_decode(ids.tolist())
    print("| prompts | answers | repeat trained text | repeat held-out text | trained characters |")
    print("|---|---|---|---|---|")
    settings = OrdinarySettings(ordinary=SHIPPED)
    documents = [tokenize(one.text, lm.tokenizer) for one in reading.documents]
    for kind, some in prompts.items():
        answers = [tokenize(one, lm.tokenizer).ids for one in draw_answers(lm, some, settings)]
        found = find_overlaps(answers, [one.ids for one in documents], n=settings.overlap)
        of = [[one for one in found if one and one.number == number] for number in (0, 1)]
        shares = [clopper_pearson(len(one), len(found)) for one in of]
        out = [character_range(documents[0], one.first, one.first + one.length) for one in of[0]]
        print(
            f"| {kind} | {len(found)} | {shares[0]} | {shares[1]} | "
            f"{len(inside(out)):,} of {len(reading.documents[0].text):,} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10)
    parser.add_argument("--only", choices=["found", "chat", "within", "ordinary"])
    wanted = parser.parse_args()
    sequences = pl.read_parquet(sequences_path())
    lm = load_model(str(model_path()), device="cpu")
    planted = planted_documents(sequences, wanted.documents, seed=11)
    n = sum(len(text) for text, _ in planted)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if wanted.only in (None, "found", "chat"):
            print(f"{len(planted)} documents, {n:,} characters")
            print("| called | characters | precision | recall |\n|---|---|---|---|")
        if wanted.only in (None, "found"):
            reference = load_model(str(reference_path()), device="cpu")
            measure_found(lm, reference, planted, folder)
        if wanted.only in (None, "chat"):
            measure_chat(lm, planted, folder)
        if wanted.only in (None, "within"):
            measure_within(lm, sequences)
        if wanted.only in (None, "ordinary"):
            measure_ordinary(lm, sequences, folder)


if __name__ == "__main__":
    main()
