"""Documents and scores of a task of lm-evaluation-harness that mnemoscope wrote.

This file stands beside the task and needs nothing of mnemoscope.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

FILE = "sequences.jsonl"


def load(label: str | None = None, **_: Any) -> dict[str, Any]:
    """The sequences of one class, of all without one, as the split `test`."""
    with (Path(__file__).parent / FILE).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = [row for row in rows if label is None or row["class"] == label]
    return {"test": import_module("datasets").Dataset.from_list(chosen)}


def process_results(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Compare a greedy continuation with the suffix that the sequence has.

    `exact_match` is 1 if the continuation begins with the whole suffix; `longest_match` counts
    the suffix tokens, in a row from the first, that the continuation reproduces.
    """
    written, suffix = results[0], document["suffix"]
    pairs = zip(written, suffix, strict=False)
    n_same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(written), len(suffix)))
    return {
        "exact_match": float(n_same == len(suffix)),
        "longest_match": float(sum(end <= n_same for end in document["ends"])),
    }
