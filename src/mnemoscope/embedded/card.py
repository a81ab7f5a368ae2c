"""Gather the card's figures: what the embedded model learnt from, how, and what came of it."""

import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from mnemoscope.embedded.measure import TAXONOMIES, matched_size
from mnemoscope.embedded.requirements import Card, judge_requirements

if TYPE_CHECKING:
    from mnemoscope.embedded.recipe import Build

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
