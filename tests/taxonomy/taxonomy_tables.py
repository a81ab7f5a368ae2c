"""Tables that the tests of this room share."""

from typing import Any

import polars as pl

COLUMNS: dict[str, Any] = {
    "sequence_id": pl.Int64,
    "memorization_score": pl.Float32,
    "duplicates": pl.Int64,
    "is_incrementing": pl.Boolean,
    "is_repeating": pl.Boolean,
    "rouge_l": pl.Float64,
    "rouge_3": pl.Float64,
    "is_code": pl.Boolean,
}


def make_table(rows):
    """Rows of (score, duplicates, incrementing, repeating, ROUGE-L, ROUGE-3, code)."""
    numbered = [(i, *row) for i, row in enumerate(rows)]
    return pl.DataFrame(numbered, schema=COLUMNS, orient="row")


def ask(name, row):
    """A node's answer worked out by hand: yes, no, or None where it cannot be known."""
    if "-or-" in name:
        answers = [ask(part, row) for part in name.split("-or-")]
        return True if True in answers else None if None in answers else False
    family, _, argument = name.rstrip("]").partition("[")
    if family in ("Recite", "Recollect"):
        limit = int(argument.replace("k", "000"))
        if row["duplicates"] is None:
            return None
        return (row["duplicates"] > limit) == (family == "Recite")
    if family == "Code":
        return row["is_code"]
    answers = [row["is_incrementing"], row["is_repeating"]]
    if family == "Guess":
        for column, text in zip(
            ("rouge_l", "rouge_3"), (argument or "0.5-0.5").split("-"), strict=True
        ):
            if text != "off":
                value = row[column]
                answers.append(None if value is None else value >= float(text))
    return True if True in answers else None if None in answers else False


def label_by_hand(classes, row):
    """The class of one row, by a plain loop over the nodes."""
    if row["memorization_score"] is None:
        return None
    if row["memorization_score"] < 1:
        return classes[0]
    for name in classes[1:-1]:
        answer = ask(name, row)
        if answer is None:
            return None
        if answer:
            return name
    return classes[-1]


OWN_NODES = """\
nodes:
  - name: Boilerplate
    yes_when: duplicates > 100 AND rouge_l < 0.3
    meaning: seen more than a hundred times and unlike its own prefix
  - name: Licence
    yes_when: lower(text) LIKE '%licen%' OR genre IN ('licence', 'notice')
    meaning: a licence, by its genre or its words
taxonomies:
  - Non-Memo, Boilerplate, Guess, Recall
  - Non-Memo, Licence-or-Recite[50], Others
"""
