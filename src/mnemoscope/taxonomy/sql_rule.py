"""Make a node from a rule in SQL that looks at one row and nothing else.

Accepted are columns, numbers, texts in single quotes, comparisons, arithmetic, AND, OR, NOT, IN,
LIKE, BETWEEN, IS NULL, CASE and the `FUNCTIONS`. All else is refused before Polars sees it: its
SQL would read files on the way (``IN (SELECT … FROM read_csv('…'))``) and compare rows.
"""

import re

import polars as pl

from mnemoscope.errors import UserError, nearest
from mnemoscope.taxonomy.nodes import Cut, Node

__all__ = ["FUNCTIONS", "make_node"]

FUNCTIONS = ("abs", "coalesce", "ends_with", "length", "lower", "round", "starts_with", "upper")
"""Functions that a rule may call: each looks at its own row only."""

_TOKEN = re.compile(
    r"""\s+ | '(?:[^'\\]|'')*' | "[^"\\]+" | [A-Za-z_][A-Za-z_0-9]* | \d+(?:\.\d+)?(?:e-?\d+)?
    | <= | >= | <> | != | [=<>+*/%(),-]""",
    re.VERBOSE | re.IGNORECASE,
)
_OPERATORS = frozenset(
    ["and", "or", "not", "in", "between", "like", "ilike", "when", "then", "else"]
)
"""Words that a bracket may follow without being a function."""
_REFUSED = frozenset(["select", "from", "table", "values", "with", "over", "as", "union", "exists"])


def make_node(name: str, yes_when: str, meaning: str) -> Node:
    """Make a node from a rule in SQL.

    Args:
        name: a word that names the class.
        yes_when: the rule, boolean; see the head of this module for what is accepted.
        meaning: when the rule says yes, in words.

    Returns:
        The node. Of its rule nothing is known but that it says yes or no, so two nodes are the
        same partition only where their rules are written alike.

    Raises:
        UserError: the rule is not accepted, or cannot be read.
    """
    _check_sql(yes_when)
    try:
        expression = pl.sql_expr(yes_when)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"rule '{yes_when}' cannot be read as SQL: {reason}.") from error
    rule = " ".join(yes_when.split())
    columns = tuple(dict.fromkeys(expression.meta.root_names()))
    if not columns:
        raise UserError(f"rule '{yes_when}' looks at no column, so it says the same of all.")
    cuts = (Cut(rule, (False, True)),)
    return Node(name, expression, meaning, columns, name, cuts, pl.col(rule))


def _check_sql(rule: str) -> None:
    """Accept comparisons and functions of one row; nothing that reads files or other rows."""
    words, end = [], 0
    while found := _TOKEN.match(rule, end):
        words.append(found[0])
        end = found.end()
    if end != len(rule):
        raise UserError(f"rule '{rule}': '{rule[end]}' is not accepted in a rule.")
    words = [word for word in words if not word.isspace()]
    if not words:
        raise UserError("a rule is needed, for instance duplicates > 100.")
    for word, after in zip(words, [*words[1:], ""], strict=True):
        _check_word(rule, word, after)


def _check_word(rule: str, word: str, after: str) -> None:
    """One word of a rule and what follows it."""
    is_name = word[0].isalpha() or word[0] == "_"
    is_prefix = is_name and len(word) == 1 and after.startswith("'")  # E'…' has escapes
    if word.lower() in _REFUSED or is_prefix:
        raise UserError(f"rule '{rule}': '{word}' is not accepted. A rule looks at one row only.")
    if word + after in ("--", "/*"):
        raise UserError(f"rule '{rule}': comments are not accepted in a rule.")
    is_call = is_name and after == "(" and word.lower() not in _OPERATORS
    if is_call and word.lower() not in FUNCTIONS:
        hint = nearest(word.lower(), FUNCTIONS)
        raise UserError(
            f"rule '{rule}': function '{word}' is not accepted.{hint} "
            f"Accepted: {', '.join(FUNCTIONS)}."
        )
