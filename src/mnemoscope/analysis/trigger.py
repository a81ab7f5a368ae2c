"""Causal dependency on the trigger: which hidden states does each memorized token hang on?

Source: Huang, Yang, Potts 2024, "Demystifying Verbatim Memorization in Large Language Models",
arXiv 2407.17817; section 3.3 of the related work: replace one hidden state (layer, position) of
the trigger by that of a random prompt; it is causal for a memorized token that changes.
Run it: mnemoscope analyze trigger STUDY
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import Field

from mnemoscope.analysis.figures import Chart, HeatMap, Series, plain
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.rows import draw_rows, groups_of, hash_ids, members, model_basis
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.lm.continue_ import right_tokens
from mnemoscope.lm.intervene import patched_states
from mnemoscope.lm.model import check_tokens, last_logits, prepend_bos, run_batches
from mnemoscope.lm.probe import hidden_states
from mnemoscope.progress import Progress, track
from mnemoscope.stats import normal_mean

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel


# Causal dependency on the trigger: which hidden states does each memorized token hang on?

_BLOCK = 16
_MINIMUM = 2


class Settings(AnalysisSettings):
    """Settings of `trigger`."""

    n_sequences: int | None = Field(
        default=60, ge=2, description="Memorized sequences drawn by the seed; null: all."
    )


def draw_donors(ids: npt.ArrayLike, pool: npt.ArrayLike, seed: int) -> npt.NDArray[np.int64]:
    """Draw for each sequence another one of the study, whose prefix is the random prompt.

    Args:
        ids: sequence ids, shape (n,).
        pool: sequence ids to draw from, at least two, without repeats.
        seed: of the draw.

    Returns:
        Places in the pool, shape (n,); never that of the sequence itself.
    """
    wanted, others = np.asarray(ids), np.asarray(pool)
    rng = np.random.default_rng(seed)
    places = rng.integers(0, len(others), len(wanted))
    # The next place is another sequence for certain: ids do not repeat.
    return np.where(others[places] == wanted, (places + 1) % len(others), places)


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Replace every state of the prefix of memorized sequences and see which tokens change.

    Args:
        inputs: a study and its model.
        settings: how many sequences.

    Raises:
        UserError: fewer than two sequences are memorized.
    """
    known = inputs.table.filter(pl.col("is_memorized"))
    if known.height < _MINIMUM:
        raise UserError(
            f"analyze trigger: {known.height} sequences are memorized, {_MINIMUM} are needed. "
            "Take a study with more."
        )
    rows = draw_rows(known, settings.n_sequences, settings.seed)
    changes = _changes(inputs, rows, settings.seed)
    groups = groups_of(rows)
    states, tokens = _state_frame(changes), _token_frame(changes)
    shares = _share_frame(changes, groups)
    return AnalysisResult(
        sentence=_sentence(shares),
        frames={
            "shares": shares,
            "tokens": tokens,
            "states": states,
            "by_token": _by_token_frame(changes),
            "changes": _change_frame(changes, rows),
        },
        figures=(
            _state_map(changes),
            _position_map(changes),
            _token_chart(tokens),
            _layer_chart(changes, groups),
        ),
        further=tuple(_further(inputs, changes, rows)),
    )


def _changes(inputs: AnalysisInputs, rows: pl.DataFrame, seed: int) -> "Changes":
    """What each replaced state changes, kept in blocks of sequences."""
    lm, half = inputs.model(), inputs.prefix
    pool = inputs.table["sequence_id"].to_numpy()
    chosen = draw_donors(rows["sequence_id"].to_numpy(), pool, seed)
    donors = inputs.table[chosen]
    blocks = range(0, rows.height, _BLOCK)
    with track("Replacing states", total=rows.height * lm.n_layers * (half + 1)) as progress:
        parts = [
            inputs.shelf(
                "patched",
                {
                    **model_basis(lm),
                    "prefix": half,
                    "ids": hash_ids(rows[start : start + _BLOCK]),
                    "donors": hash_ids(donors[start : start + _BLOCK]),
                },
                lambda start=start: _patch(inputs, rows, donors, start, progress),  # type: ignore[misc]
            )
            for start in blocks
        ]
    kept = pl.concat(parts)
    n, suffix = rows.height, inputs.length - half
    shapes = ((n, lm.n_layers, half, suffix), (n, lm.n_layers, suffix), (n, suffix))
    return Changes(
        *(
            np.array(kept[name].to_list(), dtype=bool).reshape(shape)
            for name, shape in zip(Changes._fields, shapes, strict=True)
        )
    )


def _patch(
    inputs: AnalysisInputs, rows: pl.DataFrame, donors: pl.DataFrame, start: int, progress: object
) -> pl.DataFrame:

    block = rows[start : start + _BLOCK]
    found = find_changes(
        inputs.model(),
        token_matrix(block),
        token_matrix(donors[start : start + _BLOCK])[:, : inputs.prefix],
        batch_size=inputs.batch_size,
        progress=progress,  # type: ignore[arg-type]
    )
    return block.select(
        "sequence_id",
        pl.Series("donor_id", donors["sequence_id"][start : start + _BLOCK]),
        *(
            pl.Series(name, part.reshape(len(part), -1).tolist(), dtype=pl.List(pl.Boolean))
            for name, part in zip(found._fields, found, strict=True)
        ),
    )


def _shares(changes: "Changes") -> dict[str, npt.NDArray[np.float64]]:
    """Of each sequence the share of its tokens that are so, shape (n,)."""
    right = changes.is_right
    count = np.maximum(right.sum(axis=1), 1)
    alone = right & ~changes.one.any(axis=(1, 2))
    untouched = right & ~changes.all_of_layer[:, 0]
    return {
        "depend on no single state": alone.sum(axis=1) / count,
        "depend on no state at all": untouched.sum(axis=1) / count,
        "depend on several together": (alone & ~untouched).sum(axis=1) / count,
    }


def _share_frame(changes: "Changes", groups: pl.Series) -> pl.DataFrame:
    """Shares of the tokens, by group."""
    parts = {"all": list(range(len(groups))), **members(groups)}
    rows = []
    for name, places in parts.items():
        if len(places) < _MINIMUM:
            continue
        for what, values in _shares(changes).items():
            middle, low, high = normal_mean(values[places], within=(0, 1))
            rows.append(
                {"group": name, "n": len(places), "tokens": what}
                | {"share": middle, "low": low, "high": high}
            )
    return pl.DataFrame(rows)


def _token_frame(changes: "Changes") -> pl.DataFrame:
    """By token of the suffix, from 1: how many sequences' token depends on nothing."""
    right = changes.is_right
    alone = np.asarray(~changes.one.any(axis=(1, 2)))
    untouched = ~changes.all_of_layer[:, 0]
    rows = []
    for token in range(right.shape[1]):
        kept = right[:, token]
        n = int(kept.sum())
        rows.append(
            {"token": token + 1, "n": n}
            | {"no_single_state": float(alone[kept, token].mean()) if n else None}
            | {"no_state_at_all": float(untouched[kept, token].mean()) if n else None}
            | {"mean_states": float(changes.one[kept, ..., token].sum()) / n if n else None}
        )
    return pl.DataFrame(rows)


def _state_frame(changes: "Changes") -> pl.DataFrame:
    """By state: the share of tokens that change, averaged over sequences."""
    values = _by_state(changes)
    return pl.DataFrame(
        [
            {"state": layer, "position": position + 1}
            | dict(zip(("share", "low", "high"), normal_mean(column, within=(0, 1)), strict=True))
            for layer in range(values.shape[1])
            for position, column in enumerate(values[:, layer].T)
        ]
    )


def _by_state(changes: "Changes") -> npt.NDArray[np.float64]:
    """Share of each sequence's tokens that each state changes, (n, layers, prefix)."""
    count = np.maximum(changes.is_right.sum(axis=1), 1)[:, None, None]
    found: npt.NDArray[np.float64] = changes.one.sum(axis=3) / count
    return found


def _by_token_frame(changes: "Changes") -> pl.DataFrame:
    """The map of states for each token: in how many sequences it changes."""
    counts = changes.one.sum(axis=0)
    layer, position, token = np.indices(counts.shape)
    return pl.DataFrame(
        {
            "state": layer.ravel(),
            "position": position.ravel() + 1,
            "token": token.ravel() + 1,
            "n_changed": counts.ravel(),
            "n": np.broadcast_to(changes.is_right.sum(axis=0), counts.shape).ravel(),
        }
    )


def _change_frame(changes: "Changes", rows: pl.DataFrame) -> pl.DataFrame:
    """Of each sequence the tokens (from 1) that each state changes, where it changes any."""
    ids = rows["sequence_id"].to_list()
    found = [
        (ids[row], int(layer), int(position) + 1, (np.flatnonzero(bits) + 1).tolist())
        for (row, layer, position), bits in (
            (place, changes.one[place]) for place in np.ndindex(changes.one.shape[:3])
        )
        if bits.any()
    ]
    schema = {"sequence_id": pl.Int64, "state": pl.Int32, "position": pl.Int32}
    return pl.DataFrame(found, schema={**schema, "tokens": pl.List(pl.Int32)}, orient="row")


def _sentence(shares: pl.DataFrame) -> str:
    said = {row["tokens"]: row for row in shares.filter(group="all").iter_rows(named=True)}
    single, none, several = (
        _percent(said[f"depend on {what}"])
        for what in ("no single state", "no state at all", "several together")
    )
    n = said["depend on no single state"]["n"]
    return (
        f"Of the tokens of {n:,} memorized sequences, {single} depend on no single hidden state of "
        f"the prefix: {none} come out after another prefix altogether, once the tokens before them "
        f"are there, and {several} need the prefix but no one state of it."
    )


def _percent(row: dict[str, float]) -> str:
    return f"{100 * row['share']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _names(n_layers: int) -> tuple[str, ...]:
    return ("embedding", *(f"after layer {layer}" for layer in range(1, n_layers)))


def _state_map(changes: "Changes") -> HeatMap:
    values = _by_state(changes).mean(axis=0)
    return HeatMap(
        title="Tokens that change when this one state is another prefix's, per cent",
        values=tuple(plain(row) for row in values),
        row_names=_names(len(values)),
        column_names=tuple(str(position + 1) for position in range(values.shape[1])),
        row_label="state",
        column_label="position in the prefix",
        percent=True,
    )


def _position_map(changes: "Changes") -> HeatMap:
    """Which position each token hangs on, in any layer."""
    count = np.maximum(changes.is_right.sum(axis=0), 1)[:, None]
    values = changes.one.any(axis=1).sum(axis=0).T / count
    return HeatMap(
        title="Sequences whose token depends on this position, in some layer, per cent",
        values=tuple(plain(row) for row in values),
        row_names=tuple(str(token + 1) for token in range(values.shape[0])),
        column_names=tuple(str(position + 1) for position in range(values.shape[1])),
        row_label="token of the suffix",
        column_label="position in the prefix",
        percent=True,
    )


def _token_chart(tokens: pl.DataFrame) -> Chart:
    names = {
        "no_single_state": "depend on no single state",
        "no_state_at_all": "come out after another prefix",
    }
    return Chart(
        title="Tokens that do without the prefix, by their place in the suffix, per cent",
        x_label="token of the suffix",
        percent=True,
        series=tuple(
            Series(name=name, x=plain(tokens["token"]), y=plain(tokens[column].cast(pl.Float64)))
            for column, name in names.items()
        ),
    )


def _layer_chart(changes: "Changes", groups: pl.Series) -> Chart:
    """Share of tokens that hang on some state of a layer, by group."""
    count = np.maximum(changes.is_right.sum(axis=1), 1)[:, None]
    values = changes.one.any(axis=2).sum(axis=2) / count
    series = []
    for name, places in members(groups).items():
        if len(places) < _MINIMUM:
            continue
        means = [normal_mean(column, within=(0, 1)) for column in values[places].T]
        middle, low, high = np.array(means).T
        series.append(
            Series(
                name=f"{name} ({len(places):,})",
                x=plain(range(len(means))),
                y=plain(middle),
                low=plain(low),
                high=plain(high),
            )
        )
    return Chart(
        title="Tokens that depend on some one state of this depth, per cent (95 % interval)",
        form="bars",
        x_names=_names(values.shape[1]),
        percent=True,
        series=tuple(series),
    )


def _further(inputs: AnalysisInputs, changes: "Changes", rows: pl.DataFrame) -> list[str]:
    said = [
        "Each token is judged after the true tokens before it, so a change is its own and not that "
        "of an earlier token. The other prefix is that of another sequence of the study, drawn "
        "once for each: a state that happens to be alike in both is not found.",
        f"The last layer's output is left out: at position {inputs.prefix} it decides the first "
        "token alone, elsewhere nothing.",
    ]
    wrong = int((~changes.is_right).sum())
    if wrong:
        said.append(
            f"{wrong} tokens in {int((~changes.is_right).any(axis=1).sum())} of {rows.height} "
            "sequences are not the best ones in this forward (rounding), and left out."
        )
    return said


# Which memorized tokens change when hidden states of the prefix are those of another prefix.


class Changes(NamedTuple):
    """What a replaced state changes.

    Attributes:
        one: (n, layers, prefix, suffix), bool: the token is no longer the best one when this one
            state is another prefix's.
        all_of_layer: (n, layers, suffix), bool: the same for all states of the prefix at once.
        is_right: (n, suffix), bool: the token is the best one when nothing is replaced; where it
            is not, nothing counts as changed.
    """

    one: npt.NDArray[np.bool_]
    all_of_layer: npt.NDArray[np.bool_]
    is_right: npt.NDArray[np.bool_]


def find_changes(
    lm: "LanguageModel",
    tokens: npt.NDArray[np.integer[Any]],
    donors: npt.NDArray[np.integer[Any]],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Changes:
    """Replace every state of every prefix, one by one, by the donor's at the same place.

    Every token is judged after the true ones before it: once one token has changed, those that
    free decoding would write after it have changed for that reason alone.

    Args:
        lm: the model.
        tokens: sequences, shape (n, T).
        donors: prefixes of others, shape (n, prefix): one for each sequence.
        batch_size: sequences a forward.
        progress: advanced by every patched forward's sequences.

    Returns:
        States 0 (the embedding) to `n_layers` - 1; the last state is read by the head of its own
        position alone.
    """
    n, prefix = donors.shape
    layers = range(lm.n_layers)
    states = _states(lm, donors, batch_size)
    table = check_tokens(lm, tokens, prefix=prefix)
    found = Changes(
        np.empty((n, len(layers), prefix, table.shape[1] - prefix), dtype=bool),
        np.empty((n, len(layers), table.shape[1] - prefix), dtype=bool),
        right_tokens(lm, tokens, batch_size=batch_size, prefix=prefix),
    )
    every = torch.arange(prefix).expand(n * prefix, prefix)
    for layer in layers:
        rows = torch.arange(n).repeat_interleave(prefix)
        single = every[0].repeat(n)[:, None]
        changed = _changed(lm, table, rows, single, states[layer], layer, batch_size, progress)
        found.one[:, layer] = changed.reshape(n, prefix, -1) & found.is_right[:, None]
        whole = _changed(
            lm, table, torch.arange(n), every[:n], states[layer], layer, batch_size, progress
        )
        found.all_of_layer[:, layer] = whole & found.is_right
    return found


def _states(
    lm: "LanguageModel", donors: npt.NDArray[np.integer[Any]], batch_size: int
) -> torch.Tensor:
    """States of the donors' prefixes, (layers, n, prefix, width)."""
    batches = hidden_states(lm, donors, batch_size=batch_size, layers=range(lm.n_layers))
    return torch.from_numpy(np.concatenate(list(batches))).transpose(0, 1)


def _changed(
    lm: "LanguageModel",
    table: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    states: torch.Tensor,
    layer: int,
    batch_size: int,
    progress: Progress | None,
) -> npt.NDArray[np.bool_]:
    """Tokens that are no longer the best ones: (len(rows), suffix), one row of `table` each."""
    prefix = states.shape[1]

    def step(numbers: torch.Tensor) -> npt.NDArray[np.bool_]:
        one = numbers[:, 0].cpu()
        row, places = rows[one], positions[one]
        batch = table[row].to(numbers.device)
        wanted = batch[:, prefix:]
        new = states[row[:, None], places]
        with torch.inference_mode(), patched_states(lm, layer, places, new):
            logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), wanted.shape[1])
        if progress is not None:
            progress.advance(len(one))
        found: npt.NDArray[np.bool_] = (logits.argmax(dim=-1) != wanted).cpu().numpy()
        return found

    numbers = torch.arange(len(rows))[:, None]
    return np.concatenate(list(run_batches(lm, numbers, batch_size, step)))
