"""Causal dependency on the trigger: which hidden states does each memorized token hang on?

Source: Huang, Yang, Potts 2024, "Demystifying Verbatim Memorization in Large Language Models",
arXiv 2407.17817; section 3.3 of the related work: replace one hidden state (layer, position) of
the trigger by that of a random prompt; it is causal for a memorized token that changes.
Beyond it: blocks of neighbouring states replaced together, for tokens that are held by several.
Control: all states of a layer replaced at once.
Run it: mnemoscope analyze trigger STUDY
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope import UserError
from mnemoscope.plugin import (
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    HeatMap,
    LanguageModel,
    Progress,
    draw_rows,
    frame_of,
    groups_of,
    hash_arrays,
    hidden_states,
    keep_blocks,
    look_up,
    members,
    n_groups,
    other_rows,
    plain,
    ranged,
    resampled_mean,
    resampled_means,
    right_tokens,
    right_with_states,
    rows_of,
    series_of,
    token_matrix,
)

_Places = npt.NDArray[np.int64]

_BLOCK = 16
_MINIMUM = 2


class Settings(AnalysisSettings):
    """Settings of `trigger`."""

    n_sequences: int | None = Field(
        default=60, ge=2, description="Memorized sequences drawn by the seed; null: all."
    )
    widths: tuple[int, ...] = Field(
        strict=False,
        default=(2, 4, 8, 16),
        description="Neighbouring states of a layer that are replaced together, side by side.",
    )


class Changes(NamedTuple):
    """Where a token is no longer the best one, since states are another prefix's."""

    one: npt.NDArray[np.bool_]  # this one state, (n, layers, prefix, suffix)
    all_of_layer: npt.NDArray[np.bool_]  # all states of the prefix at once, (n, layers, suffix)
    # the token is the best one when nothing is replaced, (n, suffix); where it is not, nothing
    # counts as changed
    is_right: npt.NDArray[np.bool_]
    # fewest neighbouring states of some layer that change it together, (n, suffix): 1, a width, all
    # of the prefix, or 0 where nothing does
    fewest: npt.NDArray[np.int16]

    @property
    def n_right(self) -> npt.NDArray[np.int64]:
        """Right tokens of each sequence, (n,), at least 1 to divide by."""
        return np.asarray(np.maximum(self.is_right.sum(axis=1), 1))

    @property
    def by_state(self) -> npt.NDArray[np.float64]:
        """Share of each sequence's tokens that each state changes, (n, layers, prefix)."""
        return np.asarray(self.one.sum(axis=3) / self.n_right[:, None, None])

    def shares(self) -> dict[str, npt.NDArray[np.float64]]:
        """Share of each sequence's tokens that are so, shape (n,)."""
        alone = self.is_right & ~self.one.any(axis=(1, 2))
        untouched = self.is_right & ~self.all_of_layer[:, 0]
        return {
            "depend on no single state": alone.sum(axis=1) / self.n_right,
            "depend on no state at all": untouched.sum(axis=1) / self.n_right,
            "depend on several together": (alone & ~untouched).sum(axis=1) / self.n_right,
        }


def find_changes(
    lm: LanguageModel,
    tokens: npt.NDArray[np.integer[Any]],
    donors: npt.NDArray[np.integer[Any]],
    *,
    batch_size: int,
    progress: Progress,
    widths: Sequence[int] = (),
) -> Changes:
    """Replace every state of every prefix by the donor's at the same place: one, blocks, all.

    Sequences are (n, T), donors prefixes of others, (n, prefix). Every token is judged after the
    true ones before it: once one token has changed, those that free decoding would write after it
    have changed for that reason alone. States are 0 (the embedding) to `n_layers` - 1; the last is
    read by the head of its own position alone.
    """
    n, prefix = donors.shape
    layers = range(lm.n_layers)
    batches = hidden_states(lm, donors, batch_size=batch_size, layers=layers)
    states = np.concatenate(list(batches)).swapaxes(0, 1)
    is_right = right_tokens(lm, tokens, batch_size=batch_size, prefix=prefix)

    def changed(layer: int, width: int) -> npt.NDArray[np.bool_]:
        """Tokens that each block of a layer's states changes, (n, blocks, suffix)."""
        starts = np.arange(0, prefix, width)
        block = np.minimum(starts[:, None] + np.arange(width), prefix - 1)  # the last is shorter
        rows, places = np.arange(n).repeat(len(starts)), np.tile(block, (n, 1))
        new = states[layer][rows[:, None], places]
        parts = []
        for right in right_with_states(
            lm, tokens[rows], layer, places, new, batch_size=batch_size, prefix=prefix
        ):
            parts.append(~right)
            progress.advance(len(right))
        return np.concatenate(parts).reshape(n, len(starts), -1)

    by_width = {
        width: np.stack([changed(layer, width) for layer in layers], axis=1)
        & is_right[:, None, None]
        for width in (1, *_narrower(widths, prefix), prefix)
    }
    fewest = np.zeros(is_right.shape, dtype=np.int16)
    for width, found in reversed(by_width.items()):
        fewest[found.any(axis=(1, 2))] = width
    return Changes(by_width[1], by_width[prefix][:, :, 0], is_right, fewest)


def _narrower(widths: Sequence[int], prefix: int) -> list[int]:
    """Widths of blocks in order, those between one state and all."""
    return sorted({width for width in widths if 1 < width < prefix})


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Each state of each prefix, and of each layer all at once; donors; the sequences."""
    n = int(inputs.table["is_memorized"].sum())
    n_changes = inputs.load_model().n_layers * _n_blocks(inputs.prefix, settings)
    return min(n, settings.n_sequences or n) * (n_changes + 2)


def _n_blocks(prefix: int, settings: Settings) -> int:
    """How often states of one layer are replaced in a sequence."""
    return sum(-(-prefix // width) for width in (1, *_narrower(settings.widths, prefix), prefix))


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Replace each prefix state of memorized sequences; UserError: fewer than two are memorized."""
    known = inputs.table.filter(pl.col("is_memorized"))
    if known.height < _MINIMUM:
        raise UserError(
            f"analyze trigger: {known.height} sequences are memorized, {_MINIMUM} are needed. "
            "Take a study with more."
        )
    rows = draw_rows(known, settings.n_sequences, settings.seed)
    changes = _changes(inputs, rows, settings)
    near = inputs.near_duplicates(rows["sequence_id"])
    groups = {
        name: places for name, places in members(groups_of(rows)).items() if len(places) >= _MINIMUM
    }
    shares = frame_of(
        [
            {"group": name, "n": len(places), "n_groups": n_groups(owners), "tokens": what}
            | {"share": resampled_mean(values[places], owners)}
            for name, places in {"all": [*range(rows.height)], **groups}.items()
            for owners in [near[places]]
            for what, values in changes.shares().items()
        ]
    )
    fewest = _fewest_frame(changes, {"all": [*range(rows.height)], **groups}, near)
    tokens, by_state = _token_frame(changes), changes.by_state
    states = resampled_means(by_state.reshape(len(by_state), -1), near)
    return AnalysisResult(
        sentence=_sentence(shares, fewest),
        frames={
            "shares": shares,
            "fewest": fewest,
            "tokens": tokens,
            "states": frame_of(
                [
                    {"state": layer, "position": position + 1} | {"share": found}
                    for (layer, position), found in zip(
                        np.ndindex(by_state.shape[1:]), states, strict=True
                    )
                ]
            ),
            "by_token": _by_token_frame(changes),
            "changes": _change_frame(changes, rows),
        },
        figures=tuple(_figures(changes, tokens, groups, near)),
        further=tuple(_further(inputs, changes)),
    )


def _changes(inputs: AnalysisInputs, rows: pl.DataFrame, settings: Settings) -> Changes:
    """What each replaced state changes, kept in blocks of sequences."""
    lm, half = inputs.model(), inputs.prefix
    ids = inputs.table["sequence_id"]
    donors = inputs.table[other_rows(inputs.near_duplicates(ids), 1, seed=settings.seed)[0]]
    drawn = donors.select(ids, donor_id="sequence_id", donor="tokens")
    both = look_up(rows.select("sequence_id", "tokens"), drawn)

    def make(block: pl.DataFrame, progress: Progress) -> pl.DataFrame:
        found = find_changes(
            lm,
            token_matrix(block),
            token_matrix(block, "donor")[:, :half],
            batch_size=inputs.batch_size,
            progress=progress,
            widths=settings.widths,
        )
        return block.select(
            "sequence_id",
            "donor_id",
            *(
                pl.Series(
                    name,
                    part.reshape(len(part), -1).tolist(),
                    pl.List(pl.Boolean if part.dtype == bool else pl.Int16),
                )
                for name, part in zip(found._fields, found, strict=True)
            ),
        )

    kept = keep_blocks(
        inputs,
        lm,
        both,
        "patched",
        make,
        label="Replacing states",
        size=_BLOCK,
        units=lm.n_layers * _n_blocks(half, settings),
        of_block=lambda block: {"donors": hash_arrays(block["donor_id"])},
        prefix=half,
        widths=_narrower(settings.widths, half),
    )
    n, suffix = rows.height, inputs.length - half
    shapes = (n, lm.n_layers, half, suffix), (n, lm.n_layers, suffix), (n, suffix), (n, suffix)
    return Changes(
        *(
            np.array(kept[name].to_list()).reshape(shape)
            for name, shape in zip(Changes._fields, shapes, strict=True)
        )
    )


def _fewest_frame(
    changes: Changes, groups: Mapping[str, Sequence[int]], near: npt.NDArray[np.int64]
) -> pl.DataFrame:
    """Share of tokens by how many neighbouring states change them at least, by group; 0: none."""
    widths = sorted({*np.unique(changes.fewest).tolist(), 0, 1})
    return frame_of(
        [
            {"group": name, "n": len(places), "n_groups": n_groups(near[places]), "states": width}
            | {"share": resampled_mean(shares[places], near[places])}
            for name, places in groups.items()
            for width in widths
            for is_so in [(changes.fewest == width) & changes.is_right]
            for shares in [is_so.sum(axis=1) / changes.n_right]
        ]
    )


def _token_frame(changes: Changes) -> pl.DataFrame:
    """By token of the suffix, from 1: how many sequences' token depends on nothing."""
    right = changes.is_right
    counts = {
        "no_single_state": (right & ~changes.one.any(axis=(1, 2))).sum(axis=0),
        "no_state_at_all": (right & ~changes.all_of_layer[:, 0]).sum(axis=0),
        "mean_states": changes.one.sum(axis=(0, 1, 2)),
    }
    about = {"token": np.arange(right.shape[1]) + 1, "n": right.sum(axis=0)}
    return pl.DataFrame(about | counts).with_columns(
        pl.when(pl.col("n") > 0).then(pl.col(name) / pl.col("n")).alias(name) for name in counts
    )


def _by_token_frame(changes: Changes) -> pl.DataFrame:
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


def _change_frame(changes: Changes, rows: pl.DataFrame) -> pl.DataFrame:
    """The tokens (from 1) of each sequence that each state changes, where it changes any."""
    row, state, position, token = np.nonzero(changes.one)
    ids = rows["sequence_id"].to_numpy()[row]
    found = {"state": state, "position": position + 1, "tokens": token + 1}
    frame = pl.DataFrame({"sequence_id": ids.astype(np.int64)} | found)
    frame = frame.cast(dict.fromkeys(found, pl.Int32))
    return frame.group_by("sequence_id", "state", "position", maintain_order=True).agg("tokens")


def _sentence(shares: pl.DataFrame, fewest: pl.DataFrame) -> str:
    said = shares.filter(group="all")
    single, none, several = (  # in the order of `Changes.shares`
        ranged(row["share"], scale=100, unit=" %") for row in rows_of(said)
    )
    return (
        f"Of the tokens of {said['n'][0]:,} memorized sequences, {single} depend on no single "
        f"hidden state of the prefix: {none} come out after another prefix altogether, once the "
        f"tokens before them are there, and {several} need the prefix but no one state of it"
        f"{_block_words(fewest)}."
    )


def _block_words(fewest: pl.DataFrame) -> str:
    """How many neighbouring states change tokens that no one state does."""
    own = fewest.filter(pl.col("group") == "all", pl.col("states") > 1).sort("states")
    said = [
        f"{ranged(row['share'], scale=100, unit=' %')} by {row['states']}" for row in rows_of(own)
    ]
    return f" (changed by neighbouring states together: {', '.join(said)})" if said else ""


def _figures(
    changes: Changes,
    tokens: pl.DataFrame,
    groups: dict[str, list[int]],
    near: npt.NDArray[np.int64],
) -> Iterator[Chart | HeatMap]:
    by_state = changes.by_state.mean(axis=0)
    depths = ("embedding", *(f"after layer {layer}" for layer in range(1, len(by_state))))
    yield _map(
        "Tokens that change when this one state is another prefix's, per cent",
        by_state,
        "state",
        depths,
    )
    in_any = changes.one.any(axis=1).sum(axis=0).T
    yield _map(
        "Sequences whose token depends on this position, in some layer, per cent",
        in_any / np.maximum(changes.is_right.sum(axis=0), 1)[:, None],
        "token of the suffix",
        tuple(str(token + 1) for token in range(len(in_any))),
    )
    yield Chart(
        title="Tokens that do without the prefix, by their place in the suffix, per cent",
        x_label="token of the suffix",
        percent=True,
        series=tuple(
            series_of(name, tokens, column, x="token")
            for column, name in (
                ("no_single_state", "depend on no single state"),
                ("no_state_at_all", "come out after another prefix"),
            )
        ),
    )
    values = changes.one.any(axis=2).sum(axis=2) / changes.n_right[:, None]
    yield Chart(
        title="Tokens that depend on some one state of this depth, per cent (95 % interval)",
        form="bars",
        x_names=depths,
        percent=True,
        series=tuple(
            series_of(
                name,
                frame_of(
                    {"n": len(places), "share": one}
                    for one in resampled_means(values[places], near[places])
                ),
                "share",
            )
            for name, places in groups.items()
        ),
    )


def _map(
    title: str, values: npt.NDArray[np.float64], row_label: str, row_names: tuple[str, ...]
) -> HeatMap:
    """Shares by position in the prefix."""
    return HeatMap(
        title=title,
        values=tuple(plain(row) for row in values),
        row_names=row_names,
        column_names=tuple(str(position + 1) for position in range(values.shape[1])),
        row_label=row_label,
        column_label="position in the prefix",
        percent=True,
    )


def _further(inputs: AnalysisInputs, changes: Changes) -> Iterator[str]:
    yield (
        "Each token is judged after the true tokens before it, so a change is its own and not that "
        "of an earlier token. The other prefix is that of another sequence of the study, drawn "
        "once for each: a state that happens to be alike in both is not found."
    )
    yield (
        f"The last layer's output is left out: at position {inputs.prefix} it decides the first "
        "token alone, elsewhere nothing."
    )
    wrong = ~changes.is_right
    if wrong.any():
        yield (
            f"{int(wrong.sum())} tokens in {int(wrong.any(axis=1).sum())} of {len(wrong)} "
            "sequences are not the best ones in this forward (rounding), and left out."
        )
