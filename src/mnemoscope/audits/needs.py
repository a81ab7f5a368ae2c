"""Which earlier tokens a passage needs, and how much of that it reads off the text.

Total effects name the tokens. Where the needed edges look tells guesses from memories: a guess
reads the next token off the text, a memory does not.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.audits.asking import Answer, Auditing
from mnemoscope.audits.rule import GUESS, MOST_COPIED, RECALL
from mnemoscope.audits.tokens import token_texts
from mnemoscope.columns import Column
from mnemoscope.errors import NoRoomError, UnsupportedModelError
from mnemoscope.progress import say, track

if TYPE_CHECKING:
    import torch

    from mnemoscope.lm.model import LanguageModel

COLUMNS = {
    "needed": Column(
        pl.List(pl.Struct({"token": pl.Int64, "text": pl.String, "effect": pl.Float64})),
        "the earlier tokens that the suffix owes most to: `token` (place in the window), `text`, "
        "`effect` (total effect on the suffix's logits of looking at it)",
    ),
    "needed_copied": Column(
        pl.Float64,
        "of what the suffix needs (positive total effects of looking back), the share that looks "
        "at the token that comes next, where it followed the last token before",
    ),
    "needs_say": Column(pl.String, "`recall` where that is less than a tenth, else `guess`"),
}

_N_TOKENS = 5  # that are named


class Needed(NamedTuple):
    """A token of a window, its text, and the total effect of looking at it."""

    token: int
    text: str
    effect: float


class Needs(NamedTuple):
    """What the suffix of a window needs: the tokens, and how much of it is read off the text."""

    needed: list[Needed]
    copied: float


def ask(audit: Auditing) -> Answer:
    """What each passage needs; of no passage where one cannot be asked, and why."""
    settings, windows = audit.settings, audit.windows
    found = list[Needs]()
    try:
        with track("Asking what passages need", total=len(windows), unit="passages") as progress:
            for one in find_needs(
                audit.lm, windows, prefix=settings.prefix, batch_size=settings.batch_size
            ):
                found.append(one)
                progress.advance()
    except (UnsupportedModelError, NoRoomError) as error:
        # Of some passages alone it would give these another verdict than the others.
        say(f"What passages need is left out: {error}")
        return Answer(facts={"reason": str(error)})
    copied = [one.copied for one in found]
    columns: dict[str, Sequence[Any]] = {
        "needed": [[one._asdict() for one in each.needed] for each in found],
        "needed_copied": copied,
        "needs_say": [RECALL if one < MOST_COPIED else GUESS for one in copied],
    }
    return Answer(columns, facts={"reason": None})


def find_needs(
    lm: "LanguageModel", windows: npt.NDArray[np.int32], *, prefix: int, batch_size: int
) -> Iterator[Needs]:
    """What the tokens from `prefix` on need, of each window (n, length), in order.

    Named are the tokens to which these owe most by being looked at from later ones. Raises
    UnsupportedModelError: a family whose edges cannot be changed. NoRoomError: not even one window
    fits into memory.
    """
    from mnemoscope.lm.edges import total_effects

    start = 0
    for effects in total_effects(lm, windows, batch_size=batch_size, prefix=prefix):
        some = windows[start : start + len(effects)]
        start += len(effects)
        shares = copied_shares(some, effects, prefix=prefix)
        by_token = effects.tril(diagonal=-1).sum(dim=(1, 2))  # of each key, from later tokens
        for window, owed, copied in zip(some, by_token, shares, strict=True):
            yield Needs(_named(lm.tokenizer, window, owed), float(copied))


def copied_shares(
    windows: npt.NDArray[np.int32], effects: "torch.Tensor", *, prefix: int
) -> npt.NDArray[np.float64]:
    """Share of what windows (n, T) need that they read off themselves: (n,), 0 to 1.

    `effects` are total effects (n, layers, T, T). Counted are positive ones of looking from the
    tokens that write the suffix back at earlier ones; read off the text is a token that comes next
    and followed this one before, which is where an induction head looks (Olsson et al. 2022, arXiv
    2209.11895). 0 where nothing is needed. It takes no pass beyond that of the effects.
    """
    import torch

    tokens = torch.from_numpy(windows).long()
    looks = effects.tril(diagonal=-1).clamp(min=0).sum(dim=1)[:, prefix - 1 : -1].double()
    here, then = tokens[:, prefix - 1 : -1, None], tokens[:, prefix:, None]
    copies = torch.zeros(looks.shape, dtype=torch.bool)
    copies[..., 1:] = (tokens[:, None, 1:] == then) & (tokens[:, None, :-1] == here)
    found: npt.NDArray[np.float64] = (
        (looks * copies).sum(dim=(1, 2)) / looks.sum(dim=(1, 2)).clamp(min=1e-30)
    ).numpy()
    return found


def _named(tokenizer: Any, window: npt.NDArray[np.int32], owed: "torch.Tensor") -> list[Needed]:
    """The tokens with the largest positive effects."""
    texts = token_texts(tokenizer, window)
    order = owed.argsort(descending=True, stable=True)[:_N_TOKENS].tolist()
    return [Needed(place, texts[place], float(owed[place])) for place in order if owed[place] > 0]
