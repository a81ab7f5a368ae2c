"""Is the order in which items print their choices remembered?

Choices could stand in any order. Where a model finds the printed one likelier than others, and a
twin that is as able does not, it has read the item as it is printed, whatever it answers.

Source: Ni et al., arXiv 2409.01790.
"""

import math
import re
from collections.abc import Container, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl

from mnemoscope.contamination.table import Item
from mnemoscope.files import digest
from mnemoscope.stats import Estimate, difference_of, pair_correlation, share_true
from mnemoscope.words import plural

MOST_ORDERS = 24
"""Orders that are put to a model, the printed one among them: all of four choices."""
MOST_ITEMS = 500
"""Items whose orders are asked: a share of as many has an interval of at most 9 points."""
_BLOCK = 32  # items whose orders are put together


class ScoresTexts(Protocol):
    """What is asked of a model, see `ask.AskedModel`."""

    def logprobs(
        self, pairs: Sequence[tuple[str, str]], *, as_given: bool = False
    ) -> list[float] | None:
        """Log-probabilities (ln) of texts after others."""


def order_pairs(item: Item) -> list[tuple[str, str]] | None:
    """Each order of an item's choices: what stands before the first choice, and all from there.

    The printed order comes first; of more than `MOST_ORDERS` some are drawn by the item's key. None
    where the prompt does not show two choices or more, all different, one behind the other.
    """
    spans = _places(item)
    if spans is None:
        return None
    texts = [item.prompt[first:last] for first, last in spans]
    between = [item.prompt[a:b] for (_, a), (b, _) in pairwise(spans)]
    after = [*between, item.prompt[spans[-1][1] :]]
    before = item.prompt[: spans[0][0]]
    head, pairs = before.rstrip(" "), []
    blanks = before[len(head) :]
    for order in _orders(len(texts), item.key):
        shown = zip((texts[at] for at in order), after, strict=True)
        pairs.append((head, blanks + "".join(part for both in shown for part in both)))
    return pairs


def n_orders(item: Item) -> int | None:
    """How many orders of an item's choices are put to a model, the printed one among them."""
    return None if _places(item) is None else _n_tried(len(item.choices))


def _n_tried(n_choices: int) -> int:
    return min(math.factorial(n_choices), MOST_ORDERS)


def _places(item: Item) -> list[tuple[int, int]] | None:
    """Where each choice stands in the prompt, read from the end; None where one is not found."""
    if len(item.choices) < 2 or len(set(item.choices)) < len(item.choices):
        return None
    found: list[tuple[int, int]] = []
    end = len(item.prompt)
    for choice in reversed(item.choices):
        pattern = rf"(?<!\w){re.escape(choice.strip())}(?!\w)"
        spans = [one.span() for one in re.finditer(pattern, item.prompt[:end])]
        if not choice.strip() or not spans:
            return None
        found.insert(0, spans[-1])
        end = spans[-1][0]
    return found


def _orders(n: int, key: str) -> list[tuple[int, ...]]:
    """Orders of n places, as they stand first, then others, no two alike."""
    generator = np.random.default_rng(list(key.encode("utf-8", "backslashreplace")))
    drawn = {tuple(range(n)): None}
    while len(drawn) < _n_tried(n):
        drawn[tuple(generator.permutation(n).tolist())] = None
    return list(drawn)


def items_with_orders(items: Sequence[Item]) -> set[str]:
    """Keys of the items whose orders are asked: variants left out, of many some by their keys."""
    keys = [one.key for one in items if one.choices and one.variant_of is None]
    return {*sorted(keys, key=lambda key: digest([key]))[:MOST_ITEMS]}


def order_ranks(
    model: ScoresTexts, items: Sequence[Item], keys: Container[str]
) -> list[int | None]:
    """The place of the printed order among all that are tried, 1 for the likeliest.

    Of equally likely ones it is the last. None where no order can be asked, and of an item that is
    not among `keys`.
    """
    ranks: list[int | None] = [None] * len(items)
    asked = [
        (at, pairs)
        for at, one in enumerate(items)
        if one.key in keys and (pairs := order_pairs(one))
    ]
    for start in range(0, len(asked), _BLOCK):
        block = asked[start : start + _BLOCK]
        scores = model.logprobs([pair for _, pairs in block for pair in pairs], as_given=True)
        if scores is None:
            return ranks
        ends = np.cumsum([len(pairs) for _, pairs in block])[:-1]
        for (at, _), own in zip(block, np.split(np.array(scores), ends), strict=True):
            if np.isfinite(own).all():
                ranks[at] = int((own >= own[0]).sum())
    return ranks


class Orders(NamedTuple):
    """How often the printed order is the likeliest, of items whose orders were asked.

    `chance` is the share that a draw would make; `twin` and `excess` (the model's share minus the
    twin's) are None without a twin.
    """

    n_items: int
    chance: float
    model: Estimate
    twin: Estimate | None
    excess: Estimate | None

    @property
    def record(self) -> Mapping[str, object]:
        """All of it in plain values, with its sentence."""
        values = {
            name: one._asdict() if isinstance(one, Estimate) else one
            for name, one in self._asdict().items()
        }
        return {**values, "sentence": self.sentence}

    @property
    def sentence(self) -> str:
        """What that says."""
        said = (
            f"Order of the choices, of {plural(self.n_items, 'item')}: as printed it is the "
            f"likeliest to the model in {self.model}"
        )
        drawn = f"a draw makes {100 * self.chance:.1f} %"
        if self.excess is None or self.twin is None:
            return f"{said}; {drawn}. Without a twin that may be the order's own likelihood."
        said = f"{said}, to the twin in {self.twin}; {drawn}."
        if self.excess.low is None:
            return f"{said} Fewer groups than an interval needs: nothing can be told."
        if self.excess.low > 0:
            unless = "Unless the twin knows less of which order is natural"
            return f"{said} {unless}, the model has read some of these items as they are printed."
        return f"{said} That shows nothing of memory."


def orders_of(table: pl.DataFrame) -> Orders | None:
    """Sum up the ranks of a table of judged items; None where no order was asked."""
    own = table.filter(pl.col("order_rank").is_not_null())
    if own.is_empty():
        return None
    groups = own["group"].to_numpy()
    chance = float((1 / own["orders"]).mean())  # type: ignore[arg-type]
    model = (own["order_rank"] == 1).to_numpy()
    twin = excess = None
    if own["twin_order_rank"].null_count() == 0:
        theirs = (own["twin_order_rank"] == 1).to_numpy()
        twin = share_true(theirs, groups)
        excess = difference_of(share_true(model, groups), twin, pair_correlation(model, theirs))
    return Orders(own.height, chance, share_true(model, groups), twin, excess)
