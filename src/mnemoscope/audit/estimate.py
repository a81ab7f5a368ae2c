"""What an audit behind an API will ask and cost, before it starts."""

from typing import NamedTuple

from mnemoscope.audit.asking import Asker
from mnemoscope.audit.settings import AuditSettings

__all__ = ["Estimate", "estimate_cost"]

_CHARACTERS_A_TOKEN = 4  # of text whose tokens we do not know
_GROWN = 2  # windows of a passage from which it is followed on


class Estimate(NamedTuple):
    """Of the windows that are asked in any case.

    Attributes:
        requests: still to be asked.
        answered: answered by an earlier run.
        prompt_tokens: of those still to be asked.
        completion_tokens: at most.
        is_exact: the prompt's tokens are counted, not estimated from characters.
        a_passage: requests more, at most, for a passage that is found by itself.
        price: at most, None without both prices.
    """

    requests: int
    answered: int
    prompt_tokens: int
    completion_tokens: int
    is_exact: bool
    a_passage: int
    price: float | None

    def __str__(self) -> str:
        """One line for the person who pays."""
        about = "" if self.is_exact else "about "
        known = f" ({self.answered:,} more are answered already)" if self.answered else ""
        price = ""
        if self.price is not None:
            shown = "less than 0.01" if self.price < 0.01 else f"at most {self.price:,.2f}"
            price = f", {shown} at these prices"
        return (
            f"{self.requests:,} requests{known}, {about}{self.prompt_tokens:,} prompt tokens and "
            f"at most {self.completion_tokens:,} completion tokens{price}. A passage that is found "
            f"takes up to about {self.a_passage} requests more."
        )


def estimate_cost(
    asker: Asker,
    settings: AuditSettings,
    *,
    price_in: float | None = None,
    price_out: float | None = None,
) -> Estimate:
    """Count the requests of the windows at every stride-th place.

    Args:
        asker: documents and service; nothing is asked.
        settings: of the audit.
        price_in: of a million prompt tokens.
        price_out: of a million completion tokens.
    """
    bodies = [asker.request(place, settings.suffix) for place in asker.coarse_places()]
    missing = [body for body in bodies if not asker.client.is_answered(body)]
    prompts = [body["prompt"] for body in missing]
    is_exact = all(isinstance(prompt, list) for prompt in prompts)
    n_in = sum(
        len(one) if isinstance(one, list) else -(-len(one) // _CHARACTERS_A_TOKEN)
        for one in prompts
    )
    n_out = sum(body["max_tokens"] for body in missing)
    price = None
    if price_in is not None and price_out is not None:
        price = (n_in * price_in + n_out * price_out) / 1e6
    judged = 2 + settings.n_prefixes if asker.can_judge else 0
    a_passage = 2 * (settings.stride - 1) + _GROWN + judged
    return Estimate(
        len(missing), len(bodies) - len(missing), n_in, n_out, is_exact, a_passage, price
    )
