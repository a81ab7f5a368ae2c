"""Gather free texts for an audit of a small real model, and count what it found in each kind.

python -m experiments.audits.smollm2 gather -o plain
mnemoscope audit smollm2 plain/documents -o plain/audit --stride 32
python -m experiments.audits.smollm2 count plain --model smollm2

Templates are written anew (counters, dates, numbered lists, tables, repeated units); `known` are
the widely copied texts that ship with the package; licences, prose and code are those of this
Python installation. With a stride of 32 every token of a document is asked for once, so the
windows of different text count as independent ones for the upper bound.
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import polars as pl

from experiments.pages import figure, table_of
from experiments.planted.run import file_of, find_texts_of
from mnemoscope.audits.rule import GUESS, RECALL
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.spans import coarse_starts
from mnemoscope.audits.tokens import Tokens, character_range, tokenize
from mnemoscope.embedded.templates import forms_of, write_text
from mnemoscope.embedded.texts import known_texts
from mnemoscope.lm.tokenizer import load_tokenizer
from mnemoscope.stats import clopper_pearson

TEMPLATE_CHARACTERS = 200  # two or three windows: around what comes out every start is tried
KINDS = ("template", "known", "licence", "prose", "code")
NUMBERS = ("characters", "windows", "distinct", "guess_spans", "recall_spans")


def gather(given: argparse.Namespace) -> None:
    """Write the documents, a folder a kind."""
    for kind in KINDS:
        folder = given.out / "documents" / kind
        folder.mkdir(parents=True, exist_ok=True)
        texts = dict(texts_of(kind, given))
        for name, text in texts.items():
            (folder / name).write_bytes(text.encode("utf-8"))
        print(f"{kind}: {len(texts)} documents, {sum(map(len, texts.values())):,} characters")


def texts_of(kind: str, given: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Names and texts of one kind."""
    if kind == "template":
        forms = [*forms_of("counting"), *forms_of("periodic")]
        random.Random(0).shuffle(forms)
        for number, form in enumerate(islice(cycle(forms), given.templates)):
            yield f"{form}-{number}.txt", write_text(form, f"plain:{number}")[:TEMPLATE_CHARACTERS]
    elif kind == "known":
        for number, known in enumerate(known_texts()):
            yield f"known-{number:02d}.txt", known.text
    else:
        found = [one for one in find_texts_of(kind) if len(one[1]) > given.characters]
        for name, text in found[: given.documents]:
            yield file_of(name, kind), text[: given.characters]


def count(given: argparse.Namespace) -> None:
    """Windows, passages and the bound on the share of Recall, by kind."""
    record = json.loads((given.folder / "audit" / "audit.json").read_text(encoding="utf-8"))
    settings = AuditSettings(**record["settings"])
    spans = pl.read_parquet(given.folder / "audit" / "spans.parquet")
    tokenizer = load_tokenizer(given.model)
    rows, seen = defaultdict[str, Counter[str]](Counter), set[tuple[int, ...]]()
    for document in record["documents"]:
        kind = Path(document["document"]).parent.name
        text = Path(document["document"]).read_bytes().decode("utf-8")
        here = spans.filter(document=document["document"])
        asked = Counter(distinct_windows(tokenize(text, tokenizer), here, settings, seen))
        for name in ("characters", "windows"):
            asked[name] = document[name]
        for verdict in (GUESS, RECALL):  # the pieces of passages, each of one verdict
            asked[f"{verdict}_spans"] = here.filter(verdict=verdict).height
        for name in ("guessed", "recalled"):
            asked[name] = document[name]["characters"]
        for group in (kind, "all", *(["all but templates"] if kind != "template" else [])):
            rows[group].update(asked)
    table = []
    for kind in (*KINDS, "all but templates", "all"):
        one = rows[kind]
        share = clopper_pearson(one["is_recalled"], one["distinct"])  # of none of n up to 3.7 / n
        recalled = figure(*share, digits=2)
        cells = [f"{one[name]:,}" for name in NUMBERS]
        cells.append(f"{100 * one['guessed'] / one['characters']:.1f}")
        cells.append(f"{100 * one['recalled'] / one['characters']:.2f}")
        table.append([kind, *cells, f"{one['is_recalled']}: {recalled}"])
    heads = ["text", "characters", "windows", "distinct", "guess", "recall"]
    heads += ["guessed, % of characters", "recalled, %", "distinct windows recalled, %"]
    print(table_of(heads, table))
    for span in spans.filter(verdict="recall").iter_rows(named=True):
        name = Path(span["document"]).name
        print(f"recall in {name}, {span['score']:.2f} right: {span['text'][:300]!r}")


def distinct_windows(
    tokens: Tokens, spans: pl.DataFrame, settings: AuditSettings, seen: set[tuple[int, ...]]
) -> dict[str, int]:
    """Windows of the stride whose suffix no document before had, and those in a Recall span."""
    found = {"distinct": 0, "is_recalled": 0}
    recalled = spans.filter(verdict="recall").select("start", "end").rows()
    for first in coarse_starts(len(tokens.ids), settings):
        suffix = tuple(tokens.ids[first + settings.prefix : first + settings.length].tolist())
        if suffix in seen or first % settings.stride:
            continue
        seen.add(suffix)
        start, end = character_range(tokens, first + settings.prefix, first + settings.length)
        found["distinct"] += 1
        found["is_recalled"] += any(low <= start and end <= high for low, high in recalled)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("gather")
    one.add_argument("-o", "--out", type=Path, required=True)
    one.add_argument("--templates", type=int, default=12, help="written anew")
    one.add_argument("--documents", type=int, default=15, help="of each other kind")
    one.add_argument("--characters", type=int, default=1000, help="of each, at most")
    one.set_defaults(call=gather)
    two = verbs.add_parser("count")
    two.add_argument("folder", type=Path)
    two.add_argument("--model", required=True, help="whose tokenizer cut the documents")
    two.set_defaults(call=count)
    given = parser.parse_args()
    given.call(given)


if __name__ == "__main__":
    main()
