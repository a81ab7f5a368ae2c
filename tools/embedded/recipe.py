"""Make the embedded model from nothing: text, tokenizer, corpus, two phases of training, card.

`python -m tools.embedded.recipe --out DIR --setting full` (or `make embedded`). What is done
stands in `DIR/build` and is not done again; a killed run continues. The result is `DIR/data`.
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
from mnemoscope.embedded.texts import Segment, read_segments
from mnemoscope.errors import DamagedDataError, MnemoscopeError, UserError
from mnemoscope.files import atomic_path, read_parquet, write_json, write_parquet, write_text
from tools.embedded.corpus import NEW_TEMPLATE_MIX, PREFIX, Corpus, build_corpus, phase_two_rows
from tools.embedded.measure import TAXONOMIES, matched_size, measure_sequences
from tools.embedded.pretrain import Phase, new_model, prefers_bfloat16, train_phase
from tools.embedded.requirements import Card, check_card, judge_requirements
from tools.embedded.settings import SETTINGS, Setting
from tools.embedded.tokenizer import save_tokenizer, train_tokenizer

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
    seed = setting.training_seed
    reference = train_phase(
        Phase(
            folder=build.folder / "reference",
            rows=np.concatenate(
                [build.corpus.copies, _in_training_order(build.corpus.first, seed, 1)]
            ),
            start=None,
            seed=seed,
            bfloat16=build.bfloat16,
        ),
        setting,
        report=_say,
    )
    model = train_phase(
        Phase(
            folder=build.folder / "model",
            rows=_in_training_order(phase_two_rows(build.corpus), seed, 2),
            start=reference,
            seed=seed,
            bfloat16=build.bfloat16,
        ),
        setting,
        report=_say,
    )

    return publish(build, {"model": model, "reference": reference}, out / "data", report=_say)


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
    for name in ("copies", "first", "second_new"):
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
        study=read_parquet(folder / "study.parquet"),
        **{name: np.load(folder / f"{name}.npy") for name in ("copies", "first", "second_new")},
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
PREDICTABLE = ("counting", "periodic", "missed")
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
    phases = {name: _phase(build, name) for name in ("reference", "model")}
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
        "memorized": _shares_by_duplicates(measured),
        "held_out": _held_out(measured),
        "held_out_shares": _held_out_shares(measured),
        "reference_shares": {name: _reference_shares(measured, name) for name in TAXONOMIES},
        "recall_that_the_reference_reproduces": _guessable_recall(measured),
        "matched_sizes": {name: matched_size(measured, name) for name in TAXONOMIES},
        "counted_as_inserted": _counted_as_inserted(measured),
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
        "seed": build.setting.seed,
        "bfloat16": build.bfloat16,
        "losses": [round(sum(chunk) / len(chunk), 4) for chunk in chunks],
        "seconds": record["seconds"],
    }


def _is_memorized(column: str = "memorization_score") -> pl.Expr:
    return pl.col(column) == 1.0


def _counts(frame: pl.DataFrame, taxonomy: str) -> dict[str, int]:
    counts = frame.group_by(taxonomy).len().sort("len", descending=True)
    return dict(counts.iter_rows())


def _shares_by_duplicates(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Memorized share of each kind of text at each counted number of duplicates."""
    table = frame.group_by("kind", "duplicates").agg(
        pl.len().alias("n"), _is_memorized().mean().alias("memorized")
    )
    return table.sort("kind", "duplicates").to_dicts()


def _held_out(frame: pl.DataFrame) -> list[dict[str, Any]]:
    table = (
        frame.filter("held_out")
        .group_by("genre", "kind")
        .agg(
            pl.len().alias("n"),
            _is_memorized().mean().alias("model"),
            _is_memorized("reference_score").mean().alias("reference"),
        )
    )
    return table.sort("genre", "kind").to_dicts()


def _held_out_shares(frame: pl.DataFrame) -> dict[str, float]:
    held_out = frame.filter("held_out")
    return {
        "predictable templates": _share(held_out.filter(pl.col("kind").is_in(PREDICTABLE))),
        "text": _share(held_out.filter(pl.col("genre") != "template")),
    }


def _share(frame: pl.DataFrame) -> float:
    return float(frame.select(_is_memorized().mean()).item())


def _reference_shares(frame: pl.DataFrame, taxonomy: str) -> dict[str, float]:
    """Of the sequences of each memorized class, the share the reference model reproduces too."""
    memorized = frame.filter(_is_memorized())
    shares = memorized.group_by(taxonomy).agg(
        _is_memorized("reference_score").mean().alias("share")
    )
    return dict(shares.sort(taxonomy).iter_rows())


def _guessable_recall(frame: pl.DataFrame) -> list[int]:
    both = frame.filter((pl.col("paper") == "Recall") & _is_memorized("reference_score"))
    return sorted(both["sequence_id"].to_list())


def _counted_as_inserted(frame: pl.DataFrame) -> dict[str, float]:
    """Share of sequences, by kind, whose counted duplicates are what the recipe inserted."""
    same = frame.group_by("kind").agg((pl.col("duplicates") == pl.col("inserted")).mean())
    return dict(same.sort("kind").iter_rows())


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

DUPLICATE_RANGES = ((0, 0), (1, 3), (4, 4), (5, 5), (6, 12), (13, 40), (41, 10**9))


def write_card(card: Card, data: Path) -> None:
    """Write both files of the card into the folder of shipped files."""
    write_json(data / "card.json", card)
    write_text(data / "CARD.md", render_card(card))


def render_card(card: Card) -> str:
    """Return the card as Markdown: sentences and tables, every figure from `card`."""
    sections = (
        _opening(card),
        _requirements(card),
        _data(card),
        _training(card),
        _classes(card),
        _memorized(card),
        _card_text_held_out(card),
        _reference(card),
        _files(card),
    )
    return "\n\n".join(sections) + "\n"


def _opening(card: Card) -> str:
    return (
        "# The embedded model\n\n"
        "A GPT-NeoX trained from scratch on freely licensed text in which the number of "
        f"occurrences of each of {card['n_sequences']:,} sequences is counted. `model/` saw them, "
        "`reference/` is the same network before it did. Made by one command, `make embedded`; "
        "every figure here was written by it."
    )


def _requirements(card: Card) -> str:
    rows = [
        (line["name"], _number(line["value"]), line["bound"], "yes" if line["is_met"] else "NO")
        for line in card["requirements"]
    ]
    return "## What it must be\n\n" + _table(("figure", "value", "wanted", "met"), rows)


def _data(card: Card) -> str:
    data = card["data"]
    return (
        "## Data and licences\n\n"
        f"The text is the Python standard library's own (Python {data['python']}): "
        f"{data['n_documents']:,} documents; {data['characters']['prose']:,} characters of prose "
        "(docstrings, long comments, pydoc topics, licence texts) and "
        f"{data['characters']['code']:,} of code; {data['n_text_windows']:,} disjoint windows of "
        f"64 tokens. Licences: {', '.join(data['licences'])}. Templates come from the project's "
        "own generator (`embedded/templates.py`). No 24 tokens in a row are shared between two "
        "sequences, or between a sequence and anything else that was trained on. "
        f"SHA-256 of the text: `{data['text_sha256']}`."
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
        f"{setting['batch_size']}. Reference: {setting['first_epochs']} epochs of "
        f"{setting['first_text_rows']:,} rows of text (new while it lasts) and "
        f"{setting['first_templates']:,} new templates. Model: the reference, then "
        f"{setting['second_epochs']} passes over the sequences with their duplicates and "
        f"{setting['second_templates']:,} new templates a pass.\n\n"
        + _table(("phase", "steps", "first loss", "last loss", "minutes"), rows)
        + f"\n\nSeed {setting['seed']}; {card['minutes']['total']} minutes in all; "
        f"bfloat16 autocast: {card['data']['bfloat16']}; {versions}. A loss is the mean over 100 "
        "steps; `card.json` holds the curve and every setting."
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


def _memorized(card: Card) -> str:
    kinds = sorted({row["kind"] for row in card["memorized"]})
    rows = [
        (kind, *(_range_share(card, kind, *span) for span in DUPLICATE_RANGES)) for kind in kinds
    ]
    heads = [_range_name(*span) for span in DUPLICATE_RANGES]
    same = ", ".join(f"{kind} {_number(v)}" for kind, v in card["counted_as_inserted"].items())
    return (
        "## Memorized share, by kind and counted duplicates\n\n"
        + _table(("kind", *heads), rows)
        + f"\n\nCounted duplicates equal to what was inserted: {same}. A periodic text holds its "
        "own suffix several times, and each occurrence counts."
    )


def _range_share(card: Card, kind: str, low: int, high: int) -> str:
    rows = [
        row for row in card["memorized"] if row["kind"] == kind and low <= row["duplicates"] <= high
    ]
    n = sum(row["n"] for row in rows)
    return f"{sum(row['n'] * row['memorized'] for row in rows) / n:.2f} of {n}" if n else ""


def _range_name(low: int, high: int) -> str:
    if high >= 10**9:
        return f"{low}+"
    return str(low) if low == high else f"{low}-{high}"


def _card_text_held_out(card: Card) -> str:
    rows = [
        (row["genre"], row["kind"], row["n"], _number(row["model"]), _number(row["reference"]))
        for row in card["held_out"]
    ]
    return "## Held out: never trained on, continued all the same\n\n" + _table(
        ("genre", "kind", "sequences", "model", "reference"), rows
    )


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
        save_model(state, build.setting, data / name)
        save_tokenizer(build.tokenizer, data / name)
    sequences = shipped_sequences(build.corpus)
    write_parquet(data / "sequences.parquet", sequences, seal=False)  # its sha256 is in the card
    report(f"shipped files written to {data}")
    measured = measure_sequences(sequences, data / "model", data / "reference")
    card = make_card(build, measured, data, publish_seconds=time.perf_counter() - begin)
    write_card(card, data)
    if build.setting.has_requirements:
        check_card(card)
    return data


def save_model(state: dict[str, torch.Tensor], setting: Setting, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` (float16) into `folder`."""
    model = new_model(setting)
    model.load_state_dict(state)
    model.half().save_pretrained(folder)


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
