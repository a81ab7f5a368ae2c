"""Passages by their role: to be forgotten, untouched, of the same works, never read."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import polars as pl
from pydantic import ConfigDict, Field

from mnemoscope.data.table import has_values, token_matrix
from mnemoscope.errors import UserError, nearest
from mnemoscope.progress import say
from mnemoscope.study.settings import BoundedSettings
from mnemoscope.words import plural

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel

FORGET, RETAIN, NEIGHBOUR, UNREAD = ROLES = ("forget", "retain", "neighbour", "unread")
RECALL, GUESS, UNTOUCHED = "Recall", "Guess", "untouched"
ROLE_FLAGS = {RETAIN: "--retain", NEIGHBOUR: "--neighbours", UNREAD: "--unread"}


class Settings(BoundedSettings):
    """What decides the answers beside models and texts."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    draws: int = Field(default=100, ge=1, description="Draws at temperature 1.")
    steps: int = Field(default=10, ge=1, description="Steps of training on neighbours (AdamW).")
    learning_rate: float = Field(default=1e-4, gt=0, description="Of these steps.")
    batch: int = Field(default=16, ge=1, description="Passages a step.")
    strength: float = Field(default=0.5, gt=0, description="Of guided decoding.")
    plausible: float = Field(default=0.1, gt=0, le=1, description="Least share of the largest p.")
    most: int = Field(default=200, ge=1, description="Passages of a class, at most.")
    seed: int = Field(default=0, ge=0, description="Of all draws.")
    batch_size: int = Field(default=64, ge=1, description="Passages in a forward pass.")


class Passages(NamedTuple):
    """What is asked of the models, and what they are trained on in between.

    Attributes:
        table: one row a passage that is asked: `sequence_id`, `text`, `document`, `role`, `class`
            (`Recall`, `Guess`; of untouched text `untouched`) and `group`.
        tokens: of the same rows, int32 (n, T).
        neighbours: token ids of passages of the same works, int32 (m, T).
        prefix: tokens that are shown.
        counts: passages read and chosen, by role.
    """

    table: pl.DataFrame
    tokens: np.ndarray
    neighbours: np.ndarray
    prefix: int
    counts: dict[str, int]


def read_passages(
    sources: Mapping[str, Any],
    tokenizer: Any,
    *,
    prefix: int,
    suffix: int,
    columns: Mapping[str, str] | None,
) -> pl.DataFrame:
    """All passages with their `role`; texts are cut, rows with tokens are taken as they are.

    `sources` are by role; the one to be forgotten may hold the others in its column `role`. Other
    passages that are near duplicates of what is to be forgotten are left out. Raises UserError: as
    `read_sequences`; a role that there is not; nothing to be forgotten.
    """
    from mnemoscope.data.read import read_sequences
    from mnemoscope.library.given import as_source
    from mnemoscope.taxonomy.groups import find_near_duplicates

    length, frames = prefix + suffix, []
    for role, source in sources.items():
        found = read_sequences(
            as_source(source),
            tokenizer,
            length=length,
            prefix=prefix,
            stride=length,
            columns=columns,
        ).frame
        if role != FORGET or not has_values(found, "role"):
            found = found.with_columns(role=pl.lit(role))
        if not has_values(found, "text"):
            texts = tokenizer.batch_decode(found["tokens"].to_list())
            found = found.with_columns(text=pl.Series([str(one) for one in texts]))
        kept = [one for one in ("document", "start", "end", "group") if one in found.columns]
        found = found.select("tokens", "text", "role", *kept)
        frames.append(
            found.with_columns(pl.col(one).cast(pl.String) for one in {"group"} & {*kept})
        )
    table = pl.concat(frames, how="diagonal_relaxed")
    for role in table["role"].unique().to_list():
        if role not in ROLES:
            raise UserError(
                f"column 'role': {role!r} is none of {', '.join(ROLES)}.{nearest(str(role), ROLES)}"
            )
    near = pl.Series("near", find_near_duplicates(token_matrix(table)))
    asked = near.filter(table["role"] == FORGET).unique()
    is_copy = near.is_in(asked.implode()) & (table["role"] != FORGET)
    if n := int(is_copy.sum()):
        say(f"{plural(n, 'passage')} of other roles left out: near copies of what is forgotten.")
    table = table.filter(~is_copy)
    if not (table["role"] == FORGET).any():
        raise UserError("the table: no passage with the role 'forget'. Name what is to be gone.")
    numbers = pl.int_range(pl.len(), dtype=pl.Int64).alias("sequence_id")
    return table.select(numbers, pl.all())


def chosen_passages(
    lm: "LanguageModel",
    table: pl.DataFrame,
    *,
    prefix: int,
    most: int,
    seed: int,
    batch_size: int,
) -> Passages:
    """Those passages that the model BEFORE writes, at most so many of a class, drawn by the seed.

    Of what was never read also what it does not write, unless it can be guessed: of such texts
    nothing is to come out. Raises UserError: it writes nothing of what is to be forgotten.
    """
    from mnemoscope.library.membership import documents_of
    from mnemoscope.library.sequences import classify
    from mnemoscope.lm.continue_ import scan_memorized

    tokens = token_matrix(table)
    is_asked = (table["role"] != NEIGHBOUR).to_numpy()
    is_out = np.zeros(table.height, dtype=bool)
    scans = scan_memorized(lm, tokens[is_asked], batch_size=batch_size, prefix=prefix)
    is_out[is_asked] = np.concatenate([one.is_memorized for one in scans])
    # The class of each if it is written: what can be guessed needs no model to say so.
    rows = table.drop("group", strict=False).with_columns(is_memorized=pl.lit(True))
    rows = rows.with_columns(n_prefix=pl.lit(prefix, dtype=pl.Int32))
    kind = classify(rows, "Non-Memo, Guess, Recall")["class"].cast(pl.String).fill_null(GUESS)
    table = table.with_columns(
        kind.alias("class"), pl.Series("written", is_out), group=pl.Series(documents_of(table))
    )
    is_forget = table["role"] == FORGET
    if not (is_forget & table["written"]).any():
        raise UserError(
            f"{lm.name}: writes none of the {plural(int(is_forget.sum()), 'passage')} that are to "
            "be forgotten, so there is nothing to forget. Give the model before unlearning, or "
            "texts that it knows by heart."
        )
    written, role = pl.col("written"), pl.col("role")
    is_unread = (role == UNREAD) & (written | (pl.col("class") == RECALL))
    table = table.with_columns(
        pl.when(role == RETAIN).then(pl.lit(UNTOUCHED)).otherwise(pl.col("class")).alias("class"),
        pl.when(role == UNREAD).then(is_unread).otherwise(written).alias("is_fit"),
    )
    rng, kept = np.random.default_rng(seed), []
    for role_name in (FORGET, RETAIN, UNREAD):
        for name in (RECALL, GUESS, UNTOUCHED):
            fit = table.with_row_index("row").filter(pl.col("is_fit"), role=role_name)
            places = fit.filter(pl.col("class") == name)["row"].to_numpy()
            kept += np.sort(rng.permutation(places)[:most]).tolist()
    neighbours = tokens[~is_asked]
    counts = dict(table["role"].value_counts().iter_rows())
    own = table.filter(role=FORGET)
    counts |= {f"{FORGET}, written": int(own["written"].sum())}
    named = ["sequence_id", "text", "document", "role", "class", "group"]
    if "document" not in table.columns:
        table = table.with_columns(document=pl.lit(None, dtype=pl.String))
    return Passages(table[kept].select(named), tokens[kept], neighbours, prefix, counts)
