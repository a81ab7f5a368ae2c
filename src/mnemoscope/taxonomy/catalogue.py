"""The published taxonomies (54 in four families, 27 of the ρ sweep), and those that users ask for.

Source: arXiv 2508.02573; in its tables ``Guess`` is Guess[0.5-0.5], ``1k`` is 1000 and
``Others`` the last class.
"""

from collections.abc import Iterator, Sequence
from csv import DictReader
from importlib import resources
from itertools import product
from pathlib import Path

from mnemoscope.errors import UserError, nearest
from mnemoscope.taxonomy.names import NON_MEMO, Taxonomy, parse_taxonomy
from mnemoscope.taxonomy.yaml_file import read_taxonomies

__all__ = [
    "CATALOGUE",
    "PAPER",
    "PRASHANTH",
    "RHO",
    "catalogue",
    "load_taxonomies",
    "rho_name",
    "rho_sweep",
]

PRASHANTH = "Non-Memo, Recite[5], Reconstruct, Recollect"
"""Recite, reconstruct, recollect: Prashanth et al. 2024, arXiv 2406.17746."""
PAPER = "Non-Memo, Guess, Recall"
"""Guess or recall: arXiv 2508.02573."""
CATALOGUE = "catalogue"
"""The word that stands for all 54 wherever taxonomies are named."""
RHO = "rho"
"""The word that stands for the 27 settings of the ρ sweep."""

_LIMITS = ("5", "50", "1k")
_COMPLETIONS = ("Reconstruct", "Guess", "Code")
_REST = "Others"


def catalogue() -> list[Taxonomy]:
    """Make the 54 published taxonomies.

    Families: 4.A a duplication node, then a completion node; 4.B a completion node, then Recite
    (27 of four classes); 3.A one node; 3.B a duplication node or a completion node (27 of three).

    Returns:
        The taxonomies, spelt as published, four classes first.
    """
    return [parse_taxonomy(", ".join([NON_MEMO, nodes, _REST])) for nodes in _list_nodes()]


def rho_sweep() -> list[Taxonomy]:
    """Make the taxonomies of the published sweep of the ROUGE threshold ρ.

    Returns:
        One ``Non-Memo, Guess[λ-γ], Recall`` a row of the published table, in its order.
    """
    table = resources.files("mnemoscope") / "benchmark" / "data" / "rho.csv"
    rows = DictReader(table.read_text(encoding="utf-8").splitlines())
    return [
        parse_taxonomy(
            rho_name(
                float(row["Threshold"]),
                rouge_l=row["Rouge-L"] == "Yes",
                rouge_3=row["Rouge-3"] == "Yes",
            )
        )
        for row in rows
    ]


def rho_name(threshold: float, *, rouge_l: bool, rouge_3: bool) -> str:
    """Name the taxonomy of one setting of the ρ sweep.

    Args:
        threshold: ρ, in [0, 1].
        rouge_l: ROUGE-L of at least ρ makes a guess.
        rouge_3: ROUGE-3 of at least ρ does.

    Raises:
        UserError: ρ outside [0, 1].

    >>> rho_name(0.6, rouge_l=True, rouge_3=False)
    'Non-Memo, Guess[0.6-off], Recall'
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"ρ is {threshold:g}. Choose a threshold in [0, 1].")
    limits = [f"{threshold:g}" if is_used else "off" for is_used in (rouge_l, rouge_3)]
    return f"{NON_MEMO}, Guess[{'-'.join(limits)}], Recall"


def load_taxonomies(spec: Sequence[str]) -> list[Taxonomy]:
    """Read taxonomies as a user asks for them.

    Args:
        spec: each the name of a taxonomy, the word ``catalogue`` (`catalogue`) or ``rho``
            (`rho_sweep`), or the path of a ``.yaml`` or ``.yml`` file with the user's own (see
            `yaml_file`).

    Returns:
        The taxonomies in the order asked for, each name once.

    Raises:
        UserError: an unknown name with the nearest known one, a file that cannot be read, or
            nothing asked for.
    """
    found = [taxonomy for entry in spec for taxonomy in _load_entry(entry.strip())]
    if not found:
        raise UserError(
            f"no taxonomy is named. Give one, for instance '{PAPER}', {CATALOGUE} or {RHO}."
        )
    return list({taxonomy.name: taxonomy for taxonomy in found}.values())


def _load_entry(entry: str) -> list[Taxonomy]:
    """What one word of the user stands for."""
    if entry == CATALOGUE:
        return catalogue()
    if entry == RHO:
        return rho_sweep()
    if entry.lower().endswith((".yaml", ".yml")):
        return read_taxonomies(Path(entry))
    if "," not in entry and (hint := nearest(entry, [CATALOGUE, RHO])):
        raise UserError(f"unknown taxonomy '{entry}'.{hint}")
    return [parse_taxonomy(entry)]


def _list_nodes() -> Iterator[str]:
    """The nodes of all families, joined by commas."""
    recites = [f"Recite[{limit}]" for limit in _LIMITS]
    recollects = [f"Recollect[{limit}]" for limit in _LIMITS]
    yield from map(", ".join, product([*recites, *recollects], _COMPLETIONS))
    yield from map(", ".join, product(_COMPLETIONS, recites))
    yield from [*recites, *recollects, *_COMPLETIONS]
    yield from map("-or-".join, product(recites, _COMPLETIONS))
    yield from map("-or-".join, product(_COMPLETIONS, recollects))
