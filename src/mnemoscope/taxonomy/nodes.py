"""One yes/no rule of a taxonomy: its name, one Polars expression, and what it means in words.

A node's answer is yes, no or null (a feature it needs is missing). Unions follow SQL's
three-valued logic: yes OR null is yes. Adding a node is adding an entry to `_FAMILIES`.
What a search may build taxonomies from, families with ranges of thresholds, is read here too.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

import polars as pl

from mnemoscope.errors import UserError, nearest
from mnemoscope.plugins import Plugin, call_plugin, find_plugins, load_plugin, lower

UNION = "-or-"
"""Joins two nodes of family 3.B, as the published tables spell it: ``Guess-or-Recollect[5]``."""

_SHAPE = re.compile(r"([^\[\]]+)(?:\[([^\[\]]*)\])?")


@dataclass(frozen=True)
class Measure:
    """A number of each sequence that a node compares with a threshold."""

    column: str
    words: str


MEASURES: dict[str, Measure] = {
    "Entropy": Measure("token_entropy", "the entropy of its tokens, in bits,"),
    "ShannonLength": Measure("shannon_length", "the Shannon code length of its text, in bits,"),
    "TokenFrequency": Measure(
        "token_frequency", "the median frequency of its tokens, in per cent,"
    ),
    "PrefixPerplexity": Measure("prefix_perplexity", "the model's perplexity of the prefix"),
    "SuffixPerplexity": Measure("suffix_perplexity", "the model's perplexity of the suffix"),
    "Prior": Measure("prior_gain", "what its own prefix adds to the suffix, in nats,"),
}
"""Nodes beyond the published ones, written ``Entropy[>4.2]`` or ``Entropy[<=4.2]``.

Columns of text or tokens are made by `data.features.measure_text` when a taxonomy asks for them;
those that the model must be asked for are made by `search`.
"""


@dataclass(frozen=True)
class Cut:
    """A column and values on both sides of each point where a node's answer may change."""

    column: str
    values: tuple[float | bool, ...]


@dataclass(frozen=True)
class Node:
    """One yes/no rule; its name, as the user wrote it without spaces, names the class.

    Attributes:
        name: of the class.
        expression: the rule, Boolean with nulls.
        meaning: when the answer is yes, in words.
        columns: feature columns that it needs.
        canonical: the published spelling of the same rule (``Recite[1000]`` is ``Recite[1k]``).
        cuts: where the answer may change.
        probe: the expression on columns named by `cuts`; other than `expression` only for a user's
            own rule, of which nothing is known but that it says yes or no.
    """

    name: str
    expression: pl.Expr = field(compare=False, repr=False)
    meaning: str
    columns: tuple[str, ...]
    canonical: str
    cuts: tuple[Cut, ...]
    probe: pl.Expr = field(compare=False, repr=False)


def parse_node(text: str, own: Mapping[str, Node] | None = None) -> Node:
    """Read a node, or a union of nodes joined by ``-or-``, from its name; spaces are dropped.

    ``Recite[5]``, ``Recite[1k]``, ``Recollect[50]``, ``Reconstruct``, ``Guess`` (that is
    ``Guess[0.5-0.5]``), ``Guess[off-0.5]``, ``Code``, a measure with a threshold
    (``Entropy[>4.2]``, see `MEASURES`), the name of one of `own`, or a node of a plugin. Raises
    UserError: unknown node, missing or wrong threshold; names the nearest known node.
    """
    own = own or {}
    name = re.sub(r"\s+", "", text)
    parts = [own[part] if part in own else _parse_single(part, own) for part in name.split(UNION)]
    if len(parts) == 1:
        return parts[0]
    if len({part.canonical for part in parts}) < len(parts):
        raise UserError(f"node '{name}': the same node stands twice in it. Name it once.")
    return _unite(name, parts)


def first_yes(rules: Sequence[pl.Expr], answers: Sequence[str] | None = None) -> pl.Expr:
    """Ask rules in order and give the answer of the first that says yes.

    Null as soon as a null is met before a yes: what comes after cannot be known. `answers` has
    one a rule, and one more where all say no; without them the answers are numbers from 0.
    """
    given = range(len(rules) + 1) if answers is None else answers
    dtype = pl.Int32() if answers is None else pl.String()
    answer: pl.Expr = pl.lit(given[len(rules)], dtype=dtype)
    for index in reversed(range(len(rules))):
        is_yes = rules[index]
        answer = (
            pl.when(is_yes.is_null())
            .then(pl.lit(None, dtype=dtype))
            .when(is_yes)
            .then(pl.lit(given[index], dtype=dtype))
            .otherwise(answer)
        )
    return answer


def _parse_single(name: str, own: Mapping[str, Node]) -> Node:
    shape = _SHAPE.fullmatch(name)
    family = _FAMILIES.get(shape[1]) or _plugin_family(shape[1]) if shape else None
    if shape is None or family is None:
        known = ", ".join([*FAMILIES, *own, *plugin_nodes()])
        raise UserError(
            f"unknown node '{name}'.{nearest(name, written_nodes(name, own))} Known: {known}."
        )
    return family(name, shape[2])


def written_nodes(name: str, own: Iterable[str]) -> list[str]:
    """Every node as it may be written, with the thresholds that `name` has, where it takes any."""
    argument = name.partition("[")[2].rstrip("]")
    known = [f"{family}[{argument or 5}]" for family in ("Recite", "Recollect")]
    known += [f"{measure}[{argument or '>1'}]" for measure in MEASURES]
    known += ["Reconstruct", "Guess", "Code", *own, *plugin_nodes()]
    return [*known, f"Guess[{argument}]"] if argument else known


def _unite(name: str, parts: Sequence[Node], canonical: str | None = None) -> Node:
    return Node(
        name=name,
        expression=reduce(or_, (part.expression for part in parts)),
        meaning=", or ".join(part.meaning for part in parts),
        columns=tuple(dict.fromkeys(column for part in parts for column in part.columns)),
        canonical=canonical or UNION.join(part.canonical for part in parts),
        cuts=tuple(cut for part in parts for cut in part.cuts),
        probe=reduce(or_, (part.probe for part in parts)),
    )


def _simple(name: str, is_yes: pl.Expr, meaning: str, cut: Cut, canonical: str = "") -> Node:
    return Node(name, is_yes, meaning, (cut.column,), canonical or name, (cut,), is_yes)


def _flag(column: str, meaning: str) -> Node:
    return _simple(column, pl.col(column), meaning, Cut(column, (False, True)))


def _duplication(name: str, argument: str | None) -> Node:
    """Recite[δ]: seen more than δ times; Recollect[δ]: at most δ times."""
    limit, family = _read_duplicates(name, argument), name.partition("[")[0]
    is_more = pl.col("duplicates") > limit
    is_yes, words = (is_more, "more than") if family == "Recite" else (~is_more, "at most")
    # As the published tables print it: 5, 50, 1k.
    printed = f"{limit // 1000}k" if limit and limit % 1000 == 0 else str(limit)
    cut = Cut("duplicates", (limit, limit + 1))
    return _simple(name, is_yes, f"{words} {limit:,} duplicates", cut, f"{family}[{printed}]")


def _reconstruct(name: str, argument: str | None) -> Node:
    """Reconstruct: the text follows a pattern."""
    _refuse_argument(name, argument)
    parts = [
        _flag("is_incrementing", "the text counts on"),
        _flag("is_repeating", "the text repeats itself"),
    ]
    return _unite(name, parts, "Reconstruct")


_IN_PREFIX = (
    "of the suffix stands in the prefix, in the same order (ROUGE-L)",
    "of the suffix's runs of three tokens stand in the prefix (ROUGE-3)",
)


def _guess(name: str, argument: str | None) -> Node:
    """Guess[λ-γ]: the suffix follows from a pattern or stands in the prefix already.

    Guess[off-γ-published] compares as the code of arXiv 2508.02573: it writes which ROUGE is used
    into the threshold, 1 + λ or 2 + γ, and takes that off again in floats. At γ of .1, .2, .6 and
    .7 what is left is larger, so that a ROUGE-3 of exactly γ is below it.
    """
    written = "0.5-0.5" if argument is None else argument
    plain = written.removesuffix("-published")
    thresholds = plain.split("-")
    if len(thresholds) != 2:
        raise UserError(
            f"node '{name}': Guess takes two thresholds, ROUGE-L and ROUGE-3, each a number in "
            "[0, 1] or off. Write Guess[0.5-0.5] or Guess[off-0.5]."
        )
    limits = [_read_threshold(name, threshold) for threshold in thresholds]
    compared = limits
    if plain != written:
        if limits.count(None) != 1:
            raise UserError(
                f"node '{name}': the paper's code compares in its own way only where one ROUGE "
                f"alone is used. Write Guess[{plain}], or off for one of the two."
            )
        both = zip(limits, (1, 2), strict=True)
        compared = [None if limit is None else limit + place - place for limit, place in both]
    rouge = zip(("rouge_l", "rouge_3"), _IN_PREFIX, compared, strict=True)
    parts = [_reconstruct("Reconstruct", None)]
    parts += [_at_least(column, what, limit) for column, what, limit in rouge if limit is not None]
    printed = "-".join("off" if limit is None else f"{limit:g}" for limit in limits)
    return _unite(name, parts, "Guess" if printed == "0.5-0.5" else f"Guess[{printed}]")


def _at_least(column: str, what: str, limit: float) -> Node:
    below = () if limit == 0 else (math.nextafter(limit, -1),)
    much = "half" if limit == 0.5 else f"{limit}".removesuffix(".0")
    meaning = f"at least {much} {what}"
    return _simple(column, pl.col(column) >= limit, meaning, Cut(column, (*below, limit)))


def _code(name: str, argument: str | None) -> Node:
    _refuse_argument(name, argument)
    return _unite(name, [_flag("is_code", "the text is source code")], "Code")


def _measure(name: str, argument: str | None) -> Node:
    family = name.partition("[")[0]
    measure = MEASURES[family]
    found = re.fullmatch(r"(>|<=)(-?\d+(?:\.\d*)?)", argument or "")
    if found is None:
        raise UserError(
            f"node '{name}': a side and a threshold in brackets are needed. Write "
            f"{family}[>1.5] or {family}[<=1.5]."
        )
    limit, column = float(found[2]), pl.col(measure.column)
    is_above = found[1] == ">"
    return _simple(
        name,
        column > limit if is_above else column <= limit,
        f"{measure.words} is {'above' if is_above else 'at most'} {limit:g}",
        Cut(measure.column, (limit, math.nextafter(limit, math.inf))),
        f"{family}[{found[1]}{limit:g}]",
    )


def _read_duplicates(name: str, argument: str | None) -> int:
    found = re.fullmatch(r"(\d{1,15})(k?)", argument or "")
    if found is None:
        example = re.sub(r"\[.*", "", name)
        raise UserError(
            f"node '{name}': a number of duplicates in brackets is needed, a whole number such "
            f"as 5, 50 or 1k. Write {example}[5]."
        )
    return int(found[1]) * (1000 if found[2] else 1)


def _read_threshold(name: str, text: str) -> float | None:
    """A share in [0, 1], or None for ``off``."""
    if text == "off":
        return None
    is_number = re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) is not None
    if not is_number or not 0 <= float(text) <= 1:
        raise UserError(
            f"node '{name}': threshold '{text}' is not a number in [0, 1]. Write for instance "
            "Guess[0.5-0.5], or off for a threshold that is not to be used."
        )
    return float(text)


def _refuse_argument(name: str, argument: str | None) -> None:
    if argument is not None:
        plain = name.partition("[")[0]
        raise UserError(f"node '{name}': {plain} takes no threshold. Write {plain}.")


Family = Callable[[str, str | None], Node]
"""Makes a node of its name as it was written and of what stands in its brackets, if any."""

_FAMILIES: dict[str, Family] = {
    "Recite": _duplication,
    "Recollect": _duplication,
    "Reconstruct": _reconstruct,
    "Guess": _guess,
    "Code": _code,
    **dict.fromkeys(MEASURES, _measure),
}
FAMILIES = (
    *("Recite[δ]", "Recollect[δ]", "Reconstruct", "Guess", "Guess[λ-γ]", "Code"),
    *(f"{name}[>x]" for name in MEASURES),
)
"""How the built-in nodes are written, for messages and help."""


# Nodes of plugins: entry points in the group mnemoscope.nodes, each a `Family`.

_WORD = re.compile(r"[A-Za-z]\w*")
_RESERVED = lower([*_FAMILIES, "Non-Memo", "null", "Recall", "Others"])


def plugin_nodes() -> dict[str, Plugin]:
    """Nodes that other packages bring, by name."""
    return find_plugins("nodes", _RESERVED, _WORD.fullmatch)


def plugins_named(texts: Sequence[str]) -> list[Plugin]:
    """The plugins whose nodes these names of taxonomies, or files with nodes, speak of."""
    known = plugin_nodes()
    words = {word for text in texts for word in re.findall(r"\w+", text)} if known else set()
    return [known[name] for name in sorted(known.keys() & words)]


def _plugin_family(name: str) -> Family | None:
    """The family of a plugin's node; None where there is none or it cannot be used."""
    plugin = plugin_nodes().get(name)
    family = load_plugin(plugin, _check_family) if plugin else None
    if plugin is None or family is None:
        return None

    def made(written: str, argument: str | None) -> Node:
        where = f"node '{written}'"
        node = call_plugin(plugin, where, lambda: family(written, argument), Node)
        if node.name != written:
            raise UserError(f"{where}: {plugin.package} makes '{node.name}' instead.")
        return node

    return made


def _check_family(found: object) -> str:
    return "" if callable(found) else "not a function that makes a node"


SEARCHED = ("Recite", "Reconstruct", "Guess", "Code", *MEASURES)
"""Families that a search may use; Recite includes Recollect, its other side."""

_ENTRY = re.compile(r"([^\[\]]+)(?:\[(.*)\.\.(.*)\])?")


def is_node_file(entry: str) -> bool:
    """True for a path of the user's own nodes, False for a family."""
    return entry.lower().endswith((".yaml", ".yml"))


def read_range(entry: str) -> tuple[str, float, float]:
    """A family and its range, infinite where none is given.

    Raises UserError: an unknown family, or a range that is none or empty.

    >>> read_range("Entropy[3.5..5]")
    ('Entropy', 3.5, 5.0)
    """
    found = _ENTRY.fullmatch("".join(entry.split()))
    family = found[1] if found else entry.partition("[")[0]
    if family not in SEARCHED:
        hint = nearest(family, SEARCHED)
        raise UserError(
            f"search.nodes: unknown node '{entry}'.{hint} Known: {', '.join(SEARCHED)}, or the "
            "path of a YAML file with nodes of your own."
        )
    if found and found[2] is None:
        return family, -math.inf, math.inf
    try:
        assert found is not None
        low, high = (
            float(text.removesuffix("k")) * (1000 if text.endswith("k") else 1)
            for text in (found[2], found[3])
        )
    except (AssertionError, ValueError):
        raise UserError(
            f"search.nodes: '{entry}' is no range of thresholds. Write {family}[1..2], or "
            f"{family} alone."
        ) from None
    is_flag = family in ("Reconstruct", "Code")
    if low <= high and not is_flag:
        return family, low, high
    reason = "takes no threshold" if is_flag else "ends before it begins"
    raise UserError(f"search.nodes: '{entry}' {reason}. Correct it, or write {family} alone.")
