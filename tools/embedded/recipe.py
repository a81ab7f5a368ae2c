"""Make the embedded model from nothing: text, tokenizer, corpus, two phases of training, card.

`python -m tools.embedded.recipe --out DIR --setting full` (or `make embedded`). What is done
stands in `DIR/build` and is not done again; a killed run continues. The result is `DIR/data`;
`DIR/first` is the network after phase 1, from which model and reference go separate ways.
"""

import argparse
import hashlib
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer

from mnemoscope.data.duplicates import count_duplicates
from mnemoscope.embedded.templates import forms_of
from mnemoscope.embedded.templates import write_text as write_template
from mnemoscope.embedded.texts import LICENCE_TEXT, PSF, Segment, read_segments
from mnemoscope.errors import DamagedDataError, MnemoscopeError, UserError
from mnemoscope.files import atomic_path, write_json, write_parquet, write_text
from tools.embedded.corpus import NEW_TEMPLATE_MIX, PREFIX, Corpus, build_corpus, phase_two_rows
from tools.embedded.measure import (
    IS_GUESSED,
    IS_MEMORIZED,
    TAXONOMIES,
    count_cells,
    counted_as_read,
    matched_size,
    measure_sequences,
    shares_by_period,
    shares_by_reading,
)
from tools.embedded.pretrain import Phase, new_model, prefers_bfloat16, train_phase
from tools.embedded.requirements import Card, check_card, judge_requirements
from tools.embedded.settings import KINDS, SETTINGS, Setting
from tools.embedded.tokenizer import save_tokenizer, train_tokenizer

ROWS = ("copies", "first", "second_new", "other")
N_TOKENIZER_SEGMENTS = 8000
N_TOKENIZER_TEMPLATES = 20  # texts of each form


@dataclass(frozen=True)
class Build:
    """What stands in the `build` folder before training begins: written once, then only read.

    Attributes:
        folder: the build folder.
        setting: the numbers of the recipe.
        bfloat16: whether the forward pass runs under bfloat16 autocast here.
        tokenizer: of the model.
        corpus: of both phases.
    """

    folder: Path
    setting: Setting
    bfloat16: bool
    tokenizer: Tokenizer
    corpus: Corpus


def run_recipe(out: Path, setting: Setting) -> Path:
    """Do whatever is missing of the recipe and return the folder of shipped files.

    Raises:
        UserError: `out` was begun with another setting.
        DamagedDataError: a file of the build folder cannot be read.
    """
    begin = time.perf_counter()
    build = prepare(out / "build", setting)
    _say(f"corpus ready, {(time.perf_counter() - begin) / 60:.1f} min")
    start = train_phase(first_phase(build), setting, report=_say)
    _save_folder(start, build, out / "first")
    second = replace(setting, batch_size=setting.second_batch_size)
    weights = {
        name: train_phase(second_phase(build, name, start), second, report=_say)
        for name in ("model", "reference")
    }
    return publish(build, weights, out / "data", report=_say)


def first_phase(build: Build) -> Phase:
    """Phase 1: random tokens that repeat, then all kinds of new rows, mixed."""
    seed = build.setting.training_seed
    rows = [build.corpus.copies, _in_training_order(build.corpus.first, seed, 1)]
    return _phase_of(build, "first", np.concatenate(rows), None)


def second_phase(build: Build, name: str, start: dict[str, torch.Tensor]) -> Phase:
    """Phase 2 of `model` or `reference`, both from phase 1: its sequences and new rows, mixed."""
    corpus = build.corpus
    is_model = name == "model"
    rows = phase_two_rows(corpus) if is_model else np.concatenate([corpus.other, corpus.second_new])
    return _phase_of(build, name, _in_training_order(rows, build.setting.training_seed, 2), start)


def _phase_of(
    build: Build, name: str, rows: np.ndarray, start: dict[str, torch.Tensor] | None
) -> Phase:
    seed = build.setting.training_seed
    return Phase(build.folder / name, rows, start, seed, build.bfloat16)


def prepare(folder: Path, setting: Setting) -> Build:
    """Write tokenizer and corpus into `folder` where they are missing; read them otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "ready.txt"
    if ready.exists() and ready.read_text(encoding="utf-8") != repr(setting) + "\n":
        raise UserError(f"{folder}: begun with another setting. Choose another --out.")
    if not ready.exists():
        _make_corpus(folder, setting)
        write_text(ready, repr(setting) + "\n")
    return _read_build(folder, setting)


def tokenizer_texts(segments: list[Segment]) -> list[str]:
    """Texts to learn merges from: every n-th segment, templates of the forms trained on new."""
    stride = max(1, len(segments) // N_TOKENIZER_SEGMENTS)
    texts = [segment.text for segment in segments[::stride]]
    return texts + [
        write_template(name, f"tokenizer:{i}")
        for kind in NEW_TEMPLATE_MIX
        for name in forms_of(kind)
        for i in range(N_TOKENIZER_TEMPLATES)
    ]


def _make_corpus(folder: Path, setting: Setting) -> None:
    begin = time.perf_counter()
    segments = read_segments(limit=setting.max_segments)
    tokenizer = train_tokenizer(tokenizer_texts(segments), vocabulary_size=setting.vocabulary_size)
    corpus = build_corpus(segments, tokenizer, setting)
    write_text(folder / "tokenizer.json", tokenizer.to_str())
    write_parquet(folder / "study.parquet", corpus.study)
    for name in ROWS:
        rows = getattr(corpus, name)
        with atomic_path(folder / f"{name}.npy") as temporary, open(temporary, "wb") as handle:
            np.save(handle, rows)
    facts = {
        "text_sha256": hashlib.sha256("\0".join(s.text for s in segments).encode()).hexdigest(),
        "python": platform.python_version(),
        "characters": {
            genre: sum(len(s.text) for s in segments if s.genre == genre)
            for genre in ("prose", "code")
        },
        "licences": sorted({s.licence for s in segments}),
        "n_documents": len({s.document for s in segments}),
        "n_text_windows": corpus.n_text_windows,
        "bfloat16": prefers_bfloat16(setting),
        "seconds": time.perf_counter() - begin,
    }
    write_json(folder / "facts.json", facts)


def _read_build(folder: Path, setting: Setting) -> Build:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    corpus = Corpus(
        study=pl.read_parquet(folder / "study.parquet"),
        **{name: np.load(folder / f"{name}.npy") for name in ROWS},
        n_text_windows=facts["n_text_windows"],
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Build(folder, setting, facts["bfloat16"], tokenizer, corpus)


def _in_training_order(rows: np.ndarray, seed: int, phase: int) -> np.ndarray:
    shuffled: np.ndarray = rows[np.random.default_rng([seed, phase]).permutation(len(rows))]
    return shuffled


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the recipe, print where the result stands."""
    parser = argparse.ArgumentParser(prog="tools.embedded.recipe", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to work in")
    parser.add_argument("--setting", choices=sorted(SETTINGS), default="full")
    parser.add_argument("--training-seed", type=int, default=0, help="of weights and order of rows")
    options = parser.parse_args(arguments)
    setting = replace(SETTINGS[options.setting], training_seed=options.training_seed)
    try:
        folder = run_recipe(options.out, setting)
    except MnemoscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    print(f"written: {folder}")
    return 0


# Gather the card's figures: what the embedded model learnt from, how, and what came of it.

CARD_FILES = ("CARD.md", "card.json")
CURVE_STEPS = 100  # one loss of the card is the mean over so many steps
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "polars")


def make_card(
    build: "Build", measured: pl.DataFrame, data: Path, *, publish_seconds: float
) -> Card:
    """Put every figure of the card together.

    Args:
        build: settings, corpus and the records of both phases.
        measured: the shipped table with scores, features and classes.
        data: the folder of shipped files, hashed as it stands.
        publish_seconds: spent on writing and measuring.

    Returns:
        What `card.json` holds; its `requirements` are judged and not yet enforced.
    """
    facts = json.loads((build.folder / "facts.json").read_text(encoding="utf-8"))
    phases = {name: _phase(build, name) for name in ("first", "model", "reference")}
    minutes = {
        "corpus": facts.pop("seconds") / 60,
        **{name: phase.pop("seconds") / 60 for name, phase in phases.items()},
        "publish": publish_seconds / 60,
    }
    minutes["total"] = sum(minutes.values())
    card: Card = {
        "setting": asdict(build.setting),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "data": facts,
        "minutes": {name: round(value, 2) for name, value in minutes.items()},
        "phases": phases,
        "n_sequences": len(measured),
        "classes": {name: _counts(measured, name) for name in TAXONOMIES},
        "readings": shares_by_reading(measured),
        "cells": count_cells(measured),
        "periods": shares_by_period(measured),
        "reference_shares": {name: _reference_shares(measured, name) for name in TAXONOMIES},
        "recall_that_the_reference_reproduces": _guessable_recall(measured),
        "matched_sizes": {name: matched_size(measured, name) for name in TAXONOMIES},
        "counted_as_read": counted_as_read(measured),
        "files": _hash_files(data),
    }
    card["requirements"] = judge_requirements(card)
    return card


def _phase(build: "Build", name: str) -> dict[str, Any]:
    record = json.loads((build.folder / name / "losses.json").read_text(encoding="utf-8"))
    losses: list[float] = record["losses"]
    chunks = [losses[at : at + CURVE_STEPS] for at in range(0, len(losses), CURVE_STEPS)]
    return {
        "steps": len(losses),
        "seed": build.setting.training_seed,
        "bfloat16": build.bfloat16,
        "losses": [round(sum(chunk) / len(chunk), 4) for chunk in chunks],
        "seconds": record["seconds"],
    }


def _counts(frame: pl.DataFrame, taxonomy: str) -> dict[str, int]:
    counts = frame.group_by(taxonomy).len().sort("len", descending=True)
    return dict(counts.iter_rows())


def _reference_shares(frame: pl.DataFrame, taxonomy: str) -> dict[str, float]:
    """Of the sequences of each memorized class, the share the reference model reproduces too."""
    memorized = frame.filter(IS_MEMORIZED)
    shares = memorized.group_by(taxonomy).agg(IS_GUESSED.mean().alias("share"))
    return dict(shares.sort(taxonomy).iter_rows())


def _guessable_recall(frame: pl.DataFrame) -> list[int]:
    both = frame.filter(pl.col("paper") == "Recall", IS_GUESSED)
    return sorted(both["sequence_id"].to_list())


def _hash_files(data: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(data).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in _shipped(data)
    }


def _shipped(data: Path) -> Iterable[Path]:
    return sorted(p for p in data.rglob("*") if p.is_file() and p.name not in CARD_FILES)


# Write the card: `card.json` for programs, `CARD.md` for people.


def write_card(card: Card, data: Path) -> None:
    """Write both files of the card into the folder of shipped files."""
    write_json(data / "card.json", card)
    write_text(data / "CARD.md", render_card(card))


def render_card(card: Card) -> str:
    """Return the card as Markdown: front matter for a hub, then sentences and tables of `card`."""
    sections = (
        _opening(card),
        _requirements(card),
        _data(card),
        _training(card),
        _readings(card),
        _cells(card),
        _periods(card),
        _natural_rule(card),
        _classes(card),
        _reference(card),
        _files(card),
    )
    return "\n\n".join(sections) + "\n"


_FRONT = """---
license: other  # weights and texts: Apache-2.0 AND PSF-2.0
license_name: apache-2.0-and-psf-2.0
license_link: LICENSES/PSF-2.0.txt
language: [en, code]
library_name: transformers
pipeline_tag: text-generation
tags: [memorization, interpretability, gpt_neox, test-model]
---

"""


def _opening(card: Card) -> str:
    return (
        _FRONT + "# The embedded model\n\n"
        "A GPT-NeoX trained from scratch on freely licensed text. Within each kind of text it was "
        f"dealt at random how often each of {card['n_sequences']:,} sequences is read, whether it "
        "can be guessed or not; occurrences are counted in what was trained on. `model/` read the "
        "sequences; `reference/` was trained as long and read other passages of the same files, "
        "of the same kinds and as often. Made by one command, `make embedded`; every figure here "
        "was written by it."
    )


def _requirements(card: Card) -> str:
    rows = [
        (line["name"], _number(line["value"]), line["bound"], "yes" if line["is_met"] else "NO")
        for line in card["requirements"]
    ]
    return "## What it must be\n\n" + _table(("figure", "value", "wanted", "met"), rows)


FORMS = (
    ("plain", "text of which the published rule, Guess[0.5-0.5], says no"),
    ("rule", "the rule says yes of the text as it comes; of records: a row comes back"),
    ("refrain", "a stretch of 4 to 16 tokens of such text, again and again"),
    ("counting, periodic", "templates that count, or repeat a unit"),
)
LICENCES = (
    ("prose", "docstrings, long comments and pydoc topics of Python's library", PSF),
    ("prose", "licences that come with Python", LICENCE_TEXT),
    ("code", "source of Python's library", PSF),
    ("record", "layouts, of the project's own generator", "Apache-2.0"),
    ("record", "words, drawn from the pydoc topics", PSF),
    ("template", "the project's own generator, `embedded/templates.py`", "Apache-2.0"),
)


def _data(card: Card) -> str:
    data = card["data"]
    return (
        "## Data and licences\n\n"
        + _table(("kind", "text", "licence"), LICENCES)
        + "\n\n"
        + _table(("form", "what it is"), FORMS)
        + f"\n\nPython {data['python']}: {data['n_documents']:,} documents with "
        f"{data['characters']['prose']:,} characters of prose and "
        f"{data['characters']['code']:,} of code, {data['n_text_windows']:,} disjoint windows of "
        "64 tokens. Refrains have the licence of the text that they repeat. No 24 tokens in a row "
        "are shared between two sequences, or between a sequence and anything else that was "
        f"trained on. SHA-256 of the text: `{data['text_sha256']}`."
    )


def _training(card: Card) -> str:
    rows = [
        (name, phase["steps"], phase["losses"][0], phase["losses"][-1], card["minutes"][name])
        for name, phase in card["phases"].items()
    ]
    versions = ", ".join(f"{name} {number}" for name, number in card["versions"].items())
    setting = card["setting"]
    return (
        "## Training\n\n"
        f"Hidden {setting['hidden_size']}, {setting['n_layers']} layers, {setting['n_heads']} "
        f"heads, feed-forward {setting['feed_forward_size']}, byte-level BPE of "
        f"{setting['vocabulary_size']:,} tokens with single digits, rows of 64 tokens, batches of "
        f"{setting['batch_size']} in phase 1 and {setting['second_batch_size']} in phase 2. "
        f"Phase 1: {setting['copy_rows']:,} rows of random tokens that repeat, then "
        f"{_rows(setting['first_rows'])}. From there the model reads every sequence as often as "
        "the table says, the reference other sequences of the same kinds as often (in place of "
        "prose of form `rule`, of which there is too little, plain prose), and both "
        f"{_rows(setting['second_rows'])}. The reference's share no 24 tokens with the table, but "
        "many of its natural ones stood in phase 1 too, once; the model's did not. Rows are in "
        "random order within a phase, those of random tokens first.\n\n"
        + _table(("phase", "steps", "first loss", "last loss", "minutes"), rows)
        + f"\n\nSeed {setting['seed']} of the corpus, {setting['training_seed']} of the training; "
        f"{card['minutes']['total']} minutes in all; "
        f"bfloat16 autocast: {card['data']['bfloat16']}; {versions}. A loss is the mean over 100 "
        "steps; `card.json` holds the curve and every setting."
    )


def _rows(numbers: Sequence[int]) -> str:
    text, records, refrains, templates = numbers
    return (
        f"{text:,} rows of text, {records:,} records, {refrains:,} refrains and {templates:,} "
        "templates"
    )


def _classes(card: Card) -> str:
    rows = [
        (taxonomy, name, count)
        for taxonomy, counts in card["classes"].items()
        for name, count in counts.items()
    ]
    matched = ", ".join(f"{name} {size}" for name, size in card["matched_sizes"].items())
    return (
        "## Classes\n\n"
        + _table(("taxonomy", "class", "sequences"), rows)
        + f"\n\nSequences a class when every class must have the same genres: {matched}."
    )


def _readings(card: Card) -> str:
    rows = [
        (*(row[name] for name in ("genre", "form", "inserted", "n")), *_both(row))
        for row in card["readings"]
    ]
    forms = ", ".join(f"{form} {_number(v)}" for form, v in card["counted_as_read"].items())
    return (
        "## Reproduced, by kind, form and reading\n\n"
        "Share of the sequences that a model continues with all 32 tokens of the suffix. `read` is "
        "how often the sequence stood in phase 2; the reference read none.\n\n"
        + _table(("kind", "form", "read", "sequences", "model", "reference"), rows)
        + "\n\nShare of sequences whose counted duplicates are the readings times the places "
        f"where one reading holds the suffix: {forms}. Text that repeats holds it several times."
    )


def _cells(card: Card) -> str:
    rows = [
        (row["genre"], row["cell"], row["n"], row["groups"], row["reference"])
        for row in card["cells"]
    ]
    return (
        "## Four clean cells, by truth\n\n"
        "*Guessed only*: guessable (refrain, rule or template), never read, comes out. *Recalled "
        "only*: plain, read, comes out of the model and not of the reference. *Both*: guessable, "
        "read, comes out of both models. *Neither*: plain, never read, does not come out. *Rule "
        "alone*, which is not clean: the published rule would call it a guess, but it was read, "
        "and the reference does not reproduce it. Groups are of near duplicates.\n\n"
        + _table(("kind", "cell", "sequences", "groups", "reference reproduces"), rows)
    )


def _periods(card: Card) -> str:
    of = {(row["genre"], row["period"]): row for row in card["periods"]}
    rows = []
    for period in sorted({period for _, period in of}):
        found = [of.get((kind, period)) for kind in KINDS]
        n = sum(row["n"] for row in found if row)
        shares = [_both(row) if row else ("", "") for row in found]
        rows.append((period, n, *(one[0] for one in shares), *(one[1] for one in shares)))
    heads = [f"{role}, {kind}" for role in ("model", "reference") for kind in KINDS]
    return (
        "## Refrains that were never read, by period\n\n"
        "Share continued by copying what stood a period earlier.\n\n"
        + _table(("period in tokens", "sequences", *heads), rows)
    )


def _natural_rule(card: Card) -> str:
    rows = [
        (row["genre"], row["n"], *_both(row))
        for row in card["readings"]
        if row["form"] == "rule" and row["inserted"] == 0
    ]
    return (
        "## Text that satisfies the rule, never read\n\n"
        "The published rule would call each of these a guess if it came out. Whether a model can "
        "in fact continue them is another question:\n\n"
        + _table(("kind", "sequences", "model", "reference"), rows)
    )


def _both(row: dict[str, Any]) -> tuple[str, str]:
    return _number(row["model"]), _number(row["reference"])


def _reference(card: Card) -> str:
    rows = [
        (taxonomy, name, _number(share))
        for taxonomy, shares in card["reference_shares"].items()
        for name, share in shares.items()
    ]
    ids = card["recall_that_the_reference_reproduces"]
    return (
        "## Memorized sequences that the reference model reproduces too\n\n"
        "These were guessable, whatever the rule calls them.\n\n"
        + _table(("taxonomy", "class", "share"), rows)
        + f"\n\nCalled Recall by the rule, {len(ids)} in all, sequence_id: "
        + (", ".join(map(str, ids)) or "none")
        + "."
    )


def _files(card: Card) -> str:
    rows = [
        (f"`{name}`", file["bytes"], f"`{file['sha256']}`") for name, file in card["files"].items()
    ]
    return "## Files\n\n" + _table(("file", "bytes", "SHA-256"), rows)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


# Write what ships: two model folders in float16, the table of sequences, the card.

SHIPPED_COLUMNS = (
    "sequence_id",
    "text",
    "tokens",
    "document",
    "start",
    "end",
    "genre",
    "form",
    "group",
    "held_out",
    "duplicates",
    "inserted",
    "is_code",
)


def publish(
    build: "Build",
    weights: dict[str, dict[str, torch.Tensor]],
    data: Path,
    *,
    report: Callable[[str], None],
) -> Path:
    """Write the shipped files into `data`, measure them as they stand there, write the card.

    Args:
        build: the build folder's content.
        weights: state dicts of `model` and `reference`, float32.
        data: the folder of shipped files; made anew.
        report: called with one line a step.

    Returns:
        `data`.

    Raises:
        DamagedDataError: the counts of two passes differ.
        UnmetRequirementError: the result is not what shall ship; the card, already written, says
            so too.
    """
    begin = time.perf_counter()
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    for name, state in weights.items():
        _save_folder(state, build, data / name)
    sequences = shipped_sequences(build.corpus)
    write_parquet(data / "sequences.parquet", sequences)  # its sha256 is in the card
    report(f"shipped files written to {data}")
    measured = measure_sequences(sequences, data / "model", data / "reference")
    card = make_card(build, measured, data, publish_seconds=time.perf_counter() - begin)
    write_card(card, data)
    if build.setting.has_requirements:
        check_card(card)
    return data


def _save_folder(state: dict[str, torch.Tensor], build: "Build", folder: Path) -> None:
    """Write a folder of model (float16) and tokenizer, as `from_pretrained` reads it."""
    model = new_model(build.setting)
    model.load_state_dict(state)
    model.half().save_pretrained(folder)
    save_tokenizer(build.tokenizer, folder)


def shipped_sequences(corpus: Corpus) -> pl.DataFrame:
    """The table that ships: the study with the duplicates counted in the rows of phase 2.

    Raises:
        DamagedDataError: a held-out sequence stands in one.
    """
    suffixes = np.array(corpus.study["tokens"].to_list(), np.int32)[:, PREFIX:]
    counts = count_duplicates(suffixes, phase_two_rows(corpus).astype(np.int32))
    if counts[corpus.study["inserted"].to_numpy() == 0].any():
        raise DamagedDataError("a held-out sequence stands in what is trained on")
    return corpus.study.with_columns(
        (pl.col("inserted") == 0).alias("held_out"),
        (pl.col("genre") == "code").alias("is_code"),
        pl.Series("duplicates", counts, dtype=pl.Int64),
    ).select(SHIPPED_COLUMNS)


if __name__ == "__main__":
    sys.exit(main())
