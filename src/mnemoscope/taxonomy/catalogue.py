"""The published taxonomies (54 in four families, 27 of the ρ sweep), and those that users ask for.

Source: arXiv 2508.02573; in its tables ``Guess`` is Guess[0.5-0.5], ``1k`` is 1000 and
``Others`` the last class.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from csv import DictReader
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.errors import UserError, first_line, nearest
from mnemoscope.parse import parse_yaml, read_bounded
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.names import NON_MEMO, NULL, Taxonomy, parse_taxonomy
from mnemoscope.taxonomy.nodes import FAMILIES, UNION, Cut, Node, plugin_nodes

FUNCTIONS = (
    *("abs", "coalesce", "ends_with", "length", "lower", "round", "starts_with", "strpos", "upper"),
)
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
    """Make a node from a rule in SQL on the columns of one row; `FUNCTIONS` may be called.

    All that is known of its rule is that it says yes or no, so two nodes are the same partition
    only where their rules are written alike. Raises UserError: the rule is not accepted, or cannot
    be read.
    """
    _check_sql(yes_when)
    try:
        expression = pl.sql_expr(yes_when)
    except pl.exceptions.PolarsError as error:
        said = first_line(error)
        raise UserError(f"rule '{yes_when}' cannot be read as SQL: {said}.") from error
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


_NODE_KEYS = ("name", "yes_when", "meaning")


def read_taxonomies(path: Path | str) -> list[Taxonomy]:
    """Read the taxonomies of a YAML file in order: lists ``nodes`` and ``taxonomies``.

    A node has ``name``, ``yes_when`` (SQL on the columns of the table) and ``meaning``.
    Raises UserError: missing or unreadable file, unknown key, a node whose name is taken or whose
    rule is not accepted, a taxonomy that cannot be read; names file and place.
    """
    path = Path(path)
    content = _load(path)
    found = _read_nodes(path, content, lambda _, entry: [entry])
    own = {node.name: node for nodes in found.values() for node in nodes}
    names = _as_list(path, content, "taxonomies")
    if not names:
        raise UserError(f"{path}: no taxonomy in it. List names under 'taxonomies:'.")
    return [_read_taxonomy(path, name, own) for name in names]


def read_nodes(path: Path | str) -> dict[str, tuple[Node, ...]]:
    """Read the nodes of a YAML file by the name of their entry, one for each threshold, rising.

    An entry may have ``thresholds:``, a list of numbers; each takes the place of ``{threshold}``
    in its rule and meaning and makes a node of its own, ``Boilerplate-0_5`` for 0.5.
    """
    path = Path(path)
    found = _read_nodes(path, _load(path), _expand)
    if not found:
        raise UserError(f"{path}: no node in it. List nodes under 'nodes:'.")
    return found


def _read_nodes(
    path: Path, content: Mapping[str, object], expand: Callable[[str, object], list[object]]
) -> dict[str, tuple[Node, ...]]:
    """Nodes by the name of their entry, which `expand` makes one or several of."""
    own: dict[str, Node] = {}
    found: dict[str, tuple[Node, ...]] = {}
    for number, entry in enumerate(_as_list(path, content, "nodes"), start=1):
        where, before = f"{path}, node {number}", len(own)
        for one in expand(where, entry):
            node = _read_node(where, one, own)
            own[node.name] = node
        found[str(entry["name"]).strip()] = tuple(own.values())[before:]
    return found


def _expand(where: str, entry: object) -> list[object]:
    """One entry a threshold, in rising order; an entry without thresholds as it is."""
    if not isinstance(entry, dict) or "thresholds" not in entry:
        return [entry]
    values = entry["thresholds"]
    if not (
        isinstance(values, list) and values and all(type(one) in (int, float) for one in values)
    ):
        raise UserError(f"{where}, thresholds: a list of numbers is needed, such as [0.1, 0.2].")
    plain = {key: value for key, value in entry.items() if key != "thresholds"}
    if "{threshold}" not in str(plain.get("yes_when")):
        raise UserError(f"{where}, thresholds: write {{threshold}} in yes_when, where each goes.")
    filled = []
    for value in sorted(set(values)):
        one = {
            key: text.replace("{threshold}", f"{value}") if isinstance(text, str) else text
            for key, text in plain.items()
        }
        ending = f"{value}".replace(".", "_").replace("-", "minus")
        if plain.get("name") is not None:  # else `_read_node` says that it is missing
            one["name"] = f"{plain['name']}-{ending}"
        filled.append(one)
    return list(filled)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(read_bounded(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    except ValueError as error:
        raise UserError(f"{path}, {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: 'nodes:' and 'taxonomies:' are needed at the top.")
    _check_keys(f"{path}", content, ("nodes", "taxonomies"))
    return content


def _check_keys(where: str, entry: Mapping[str, object], known: Sequence[str]) -> None:
    for key in entry:
        if key not in known:
            hint = nearest(str(key), known)
            raise UserError(f"{where}: unknown key '{key}'.{hint} Known: {', '.join(known)}.")


def _as_list(path: Path, content: Mapping[str, object], key: str) -> list[Any]:
    """The list under a key; empty where the key is missing."""
    value = content.get(key) or []
    if not isinstance(value, list):
        raise UserError(f"{path}, {key}: a list is needed. Begin each entry with '- '.")
    return value


def _read_node(where: str, entry: object, own: dict[str, Node]) -> Node:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: name, yes_when and meaning are needed.")
    _check_keys(where, entry, _NODE_KEYS)
    for key in _NODE_KEYS:
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise UserError(f"{where}: '{key}' is missing or no text.")
    name = entry["name"].strip()
    _check_name(where, name, own)
    try:
        return make_node(name, entry["yes_when"], entry["meaning"].strip())
    except UserError as error:
        raise UserError(f"{where} ('{name}'): {error}") from error


def _check_name(where: str, name: str, own: dict[str, Node]) -> None:
    """A word, not taken, that cannot be read as anything else."""
    if not re.fullmatch(r"\w+(-\w+)*", name) or UNION in name:
        raise UserError(
            f"{where}: '{name}' cannot name a node. Use letters, digits, _ and -, but not "
            f"'{UNION}'."
        )
    taken = {family.partition("[")[0].lower() for family in FAMILIES}
    taken |= {NON_MEMO.lower(), NULL, *(node.lower() for node in (*own, *plugin_nodes()))}
    if name.lower() in taken:
        raise UserError(f"{where}: the name '{name}' is taken. Choose another.")


def _read_taxonomy(path: Path, name: object, own: dict[str, Node]) -> Taxonomy:
    if not isinstance(name, str):
        raise UserError(f"{path}, taxonomies: '{name}' is no text. Write '- {NON_MEMO}, …'.")
    try:
        return parse_taxonomy(name, own=own)
    except UserError as error:
        raise UserError(f"{path}, {error}") from error


CATALOGUE = "catalogue"
"""The word that stands for all 54 wherever taxonomies are named."""
RHO = "rho"
"""The word that stands for the 27 settings of the ρ sweep."""
RHO_AS_RUN = "rho_as_run"
"""The same settings, one ROUGE alone compared as the paper's code does (see the Guess node)."""

_LIMITS = ("5", "50", "1k")
_COMPLETIONS = ("Reconstruct", "Guess", "Code")
_REST = "Others"


def catalogue() -> list[Taxonomy]:
    """Make the 54 published taxonomies, spelt as published, four classes first.

    Families: 4.A a duplication node, then a completion node; 4.B a completion node, then Recite
    (27 of four classes); 3.A one node; 3.B a duplication node or a completion node (27 of three).
    """
    return [parse_taxonomy(", ".join([NON_MEMO, nodes, _REST])) for nodes in _list_nodes()]


def rho_sweep(*, as_run: bool = False) -> list[Taxonomy]:
    """One ``Non-Memo, Guess[λ-γ], Recall`` a row of the published sweep of ρ, in its order."""
    table = resources.files("mnemoscope") / "benchmark" / "data" / "rho.csv"
    rows = DictReader(table.read_text(encoding="utf-8").splitlines())
    return [
        parse_taxonomy(
            rho_name(
                float(row["Threshold"]),
                rouge_l=row["Rouge-L"] == "Yes",
                rouge_3=row["Rouge-3"] == "Yes",
                as_run=as_run,
            )
        )
        for row in rows
    ]


def rho_name(threshold: float, *, rouge_l: bool, rouge_3: bool, as_run: bool = False) -> str:
    """Name the taxonomy of one setting of the ρ sweep: which ROUGE of at least ρ makes a guess.

    >>> rho_name(0.6, rouge_l=True, rouge_3=False)
    'Non-Memo, Guess[0.6-off], Recall'
    >>> rho_name(0.6, rouge_l=False, rouge_3=True, as_run=True)
    'Non-Memo, Guess[off-0.6-published], Recall'
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"ρ is {threshold:g}. Choose a threshold in [0, 1].")
    limits = [f"{threshold:g}" if is_used else "off" for is_used in (rouge_l, rouge_3)]
    mode = ["published"] if as_run and not (rouge_l and rouge_3) else []
    return f"{NON_MEMO}, Guess[{'-'.join([*limits, *mode])}], Recall"


def load_taxonomies(spec: Sequence[str]) -> list[Taxonomy]:
    """Read taxonomies as a user asks for them, each name once.

    An entry is the name of a taxonomy, a word (``catalogue``, ``rho``, ``rho_as_run``), or the path
    of a YAML file with the user's own (`read_taxonomies`). Raises UserError: an unknown name with
    the nearest known one, a file that cannot be read, or nothing asked for.
    """
    found = [taxonomy for entry in spec for taxonomy in _load_entry(entry.strip())]
    if not found:
        raise UserError(
            f"no taxonomy is named. Give one, for instance '{PAPER}', {CATALOGUE} or {RHO}."
        )
    return list({taxonomy.name: taxonomy for taxonomy in found}.values())


def _load_entry(entry: str) -> list[Taxonomy]:
    if entry == CATALOGUE:
        return catalogue()
    if entry in (RHO, RHO_AS_RUN):
        return rho_sweep(as_run=entry == RHO_AS_RUN)
    if entry.lower().endswith((".yaml", ".yml")):
        return read_taxonomies(Path(entry))
    if "," not in entry and (hint := nearest(entry, [CATALOGUE, RHO, RHO_AS_RUN])):
        raise UserError(f"unknown taxonomy '{entry}'.{hint}")
    return [parse_taxonomy(entry)]


def _list_nodes() -> Iterator[str]:
    recites = [f"Recite[{limit}]" for limit in _LIMITS]
    recollects = [f"Recollect[{limit}]" for limit in _LIMITS]
    yield from map(", ".join, product([*recites, *recollects], _COMPLETIONS))
    yield from map(", ".join, product(_COMPLETIONS, recites))
    yield from [*recites, *recollects, *_COMPLETIONS]
    yield from map("-or-".join, product(recites, _COMPLETIONS))
    yield from map("-or-".join, product(_COMPLETIONS, recollects))
