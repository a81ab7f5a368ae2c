"""Taxonomies and nodes of the user's own, read from YAML.

`EXAMPLE` shows the whole format; `sql_rule` says what a node's rule may hold.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mnemoscope.errors import UserError, nearest
from mnemoscope.taxonomy.names import NON_MEMO, NULL, Taxonomy, parse_taxonomy
from mnemoscope.taxonomy.nodes import FAMILIES, UNION, Node
from mnemoscope.taxonomy.sql_rule import make_node

__all__ = ["EXAMPLE", "read_nodes", "read_taxonomies"]

EXAMPLE = """\
# Nodes of your own: a name, when it says yes (SQL on the columns of the table), what it means.
nodes:
  - name: Boilerplate
    yes_when: duplicates > 100 AND rouge_l < 0.3
    meaning: seen more than a hundred times and unlike its own prefix
  - name: Licence
    yes_when: lower(text) LIKE '%licen%' OR genre IN ('licence', 'notice')
    meaning: a licence, by its genre or its words
# Taxonomies: Non-Memo, nodes in the order in which they are asked, a name for the rest.
taxonomies:
  - Non-Memo, Boilerplate, Guess, Recall
  - Non-Memo, Licence-or-Recite[50], Others
"""

_NODE_KEYS = ("name", "yes_when", "meaning")


def read_taxonomies(path: Path | str) -> list[Taxonomy]:
    """Read the taxonomies of a YAML file; `EXAMPLE` shows the format.

    Args:
        path: the file.

    Returns:
        Its taxonomies in order.

    Raises:
        UserError: missing or unreadable file, unknown key, a node whose name is taken or whose
            rule is not accepted, a taxonomy that cannot be read; names file and place.
    """
    path = Path(path)
    content = _load(path)
    _check_keys(f"{path}", content, ("nodes", "taxonomies"))
    own: dict[str, Node] = {}
    for number, entry in enumerate(_as_list(path, content, "nodes"), start=1):
        node = _read_node(f"{path}, node {number}", entry, own)
        own[node.name] = node
    names = _as_list(path, content, "taxonomies")
    if not names:
        raise UserError(f"{path}: no taxonomy in it. List names under 'taxonomies:'.")
    return [_read_taxonomy(path, name, own) for name in names]


def read_nodes(path: Path | str) -> dict[str, tuple[Node, ...]]:
    """Read the nodes of a YAML file, each with the thresholds that a search may try.

    An entry may have ``thresholds:``, a list of numbers; each takes the place of ``{threshold}``
    in its rule and meaning and makes a node of its own, ``Boilerplate-0_5`` for 0.5.

    Args:
        path: a file as `EXAMPLE` shows it; its taxonomies are passed over.

    Returns:
        The nodes in the order of their thresholds, by the name of their entry.

    Raises:
        UserError: as `read_taxonomies`; thresholds that are no numbers, or no node at all.
    """
    path = Path(path)
    content = _load(path)
    _check_keys(f"{path}", content, ("nodes", "taxonomies"))
    own: dict[str, Node] = {}
    found: dict[str, tuple[Node, ...]] = {}
    for number, entry in enumerate(_as_list(path, content, "nodes"), start=1):
        where = f"{path}, node {number}"
        nodes = []
        for one in _expand(where, entry):
            node = _read_node(where, one, own)
            own[node.name] = node
            nodes.append(node)
        found[str(entry["name"]).strip()] = tuple(nodes)
    if not found:
        raise UserError(f"{path}: no node in it. List nodes under 'nodes:'.")
    return found


def _expand(where: str, entry: object) -> list[object]:
    """One entry a threshold, in rising order; an entry without thresholds as it is."""
    if not isinstance(entry, dict) or "thresholds" not in entry:
        return [entry]
    values = entry["thresholds"]
    if not isinstance(values, list) or not values or not all(map(_is_number, values)):
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
        filled.append(one | {"name": f"{plain.get('name')}-{ending}"})
    return list(filled)


def _is_number(value: object) -> bool:
    """A number; YAML's true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _load(path: Path) -> dict[str, Any]:
    """The file as a mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: 'nodes:' and 'taxonomies:' are needed at the top.")
    return content


def _check_keys(where: str, entry: dict[str, Any], known: Sequence[str]) -> None:
    """Refuse what is not known, with the nearest known key."""
    for key in entry:
        if key not in known:
            hint = nearest(str(key), known)
            raise UserError(f"{where}: unknown key '{key}'.{hint} Known: {', '.join(known)}.")


def _as_list(path: Path, content: dict[str, Any], key: str) -> list[Any]:
    """The list under a key; empty where the key is missing."""
    value = content.get(key) or []
    if not isinstance(value, list):
        raise UserError(f"{path}, {key}: a list is needed. Begin each entry with '- '.")
    return value


def _read_node(where: str, entry: object, own: dict[str, Node]) -> Node:
    """One entry of the list of nodes."""
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
    taken |= {NON_MEMO.lower(), NULL, *(node.lower() for node in own)}
    if name.lower() in taken:
        raise UserError(f"{where}: the name '{name}' is taken. Choose another.")


def _read_taxonomy(path: Path, name: object, own: dict[str, Node]) -> Taxonomy:
    """One entry of the list of taxonomies."""
    if not isinstance(name, str):
        raise UserError(f"{path}, taxonomies: '{name}' is no text. Write '- {NON_MEMO}, …'.")
    try:
        return parse_taxonomy(name, own=own)
    except UserError as error:
        raise UserError(f"{path}, {error}") from error
