"""Whether a passage still comes out with a part of the reference in place of the model's own.

Where model and reference have one shape and differ by a training, that training's memories break
once a part that holds them comes from the reference, and what anyone could guess stands
(`lm.graft`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.audits.asking import Answer, Auditing
from mnemoscope.audits.rule import GUESS, RECALL
from mnemoscope.audits.scan import ask_in_parts, passage_prompts
from mnemoscope.audits.spans import counts_as_hit
from mnemoscope.columns import Column
from mnemoscope.errors import UserError
from mnemoscope.progress import say

if TYPE_CHECKING:
    from mnemoscope.lm.graft import Pair
    from mnemoscope.lm.model import LanguageModel

COLUMNS = {
    "grafts": Column(pl.Int64, "with how many parts of the reference it was asked for"),
    "grafts_survived": Column(pl.Int64, "after how many it still comes out"),
    "broken_by": Column(pl.List(pl.String), "the parts after which it does not"),
    "grafts_say": Column(pl.String, "`recall` where at most half survive, else `guess`"),
}

_TAKEN = ("qk", "mlp")  # where a layer looks, and most of its weights
MOST_BLOCKS = 6
"""A deeper model has its neighbouring layers taken together, so that it costs no more."""


def ask(audit: Auditing) -> Answer:
    """With how many parts of the reference each passage still comes out."""
    if not audit.passages.height:
        return Answer(facts={"parts": None, "reason": None})
    assert audit.other_lm is not None
    try:
        pair, parts = open_pair(audit.lm, audit.other_lm)
    except UserError as error:
        reason = str(error).removeprefix("graft: ")
        say(f"No part of the reference is put into the model: {reason}")
        return Answer(facts={"parts": None, "reason": reason})
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for row in survivals(audit, pair, parts):
        n = int(row.sum())
        columns["grafts"].append(len(parts))
        columns["grafts_survived"].append(n)
        columns["broken_by"].append([one for one, ok in zip(parts, row, strict=True) if not ok])
        columns["grafts_say"].append(RECALL if 2 * n <= len(parts) else GUESS)
    return Answer(columns, facts={"parts": parts, "reason": None})


def open_pair(lm: "LanguageModel", reference: "LanguageModel") -> tuple["Pair", list[str]]:
    """Lay a model and its reference out, and name the parts that are tried.

    These are queries and keys, and the MLP, of each layer or block of layers. Raises UserError:
    models of different shapes, quantized weights, a family whose parts are unknown.
    """
    from mnemoscope.lm.graft import Pair
    from mnemoscope.lm.probe import decoder_layers

    pair, parts = Pair(lm.model, reference.model), standard_parts(len(decoder_layers(lm)))
    for part in parts:
        pair.anatomy.find(part)
    return pair, parts


def survivals(audit: Auditing, pair: "Pair", parts: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Whether each passage comes out with each part in place, shape (passages, parts), bool.

    Raises UserError: logits that are not finite with a part in place.
    """
    prompts, found = passage_prompts(audit), []
    for part in parts:
        with pair.grafted(part):
            written = ask_in_parts(audit, prompts, "miss", f"With {part} of the reference")
        found.append([counts_as_hit(one.score, audit.settings) for one in written])
    return np.array(found, dtype=np.bool_).T


def standard_parts(n_layers: int) -> list[str]:
    """Names of the parts that are tried in a model of so many layers.

    >>> standard_parts(2)
    ['layers.0.qk', 'layers.0.mlp', 'layers.1.qk', 'layers.1.mlp']
    >>> standard_parts(30)[-1]
    'layers.25-29.mlp'
    """
    blocks = np.array_split(np.arange(n_layers), min(n_layers, MOST_BLOCKS))
    names = [f"layers.{one[0]}" + (f"-{one[-1]}" if len(one) > 1 else "") for one in blocks]
    return [f"{name}.{kind}" for name in names for kind in _TAKEN]
