"""Write the card: `card.json` for programs, `CARD.md` for people."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mnemoscope.atomic_write import write_json, write_text
from mnemoscope.embedded.requirements import Card

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
        _held_out(card),
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


def _held_out(card: Card) -> str:
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
