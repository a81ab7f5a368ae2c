"""Stress tests of what is memorized: how much of it bears a changed prompt, or comes back by one?

Source: Huang, Yang, Potts 2024, "Demystifying Verbatim Memorization in Large Language Models",
arXiv 2407.17817; section 3.4 of the related work: the prompt window shifted, words swapped for
near-synonyms, after unlearning by gradient ascent. Case, typos and random words are added, and
texts never learnt as a control: the best of many prompts finds a few more tokens of any text.
Run it: mnemoscope analyze perturb STUDY
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.dynamics import interval
from mnemoscope.analysis.figures import Chart, Figure, Series, plain, series_of
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.rows import hash_ids, model_basis, unseen_rows
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.progress import track
from mnemoscope.stats import resampled_mean, share_of
from mnemoscope.taxonomy.nodes import parse_node

if TYPE_CHECKING:
    from mnemoscope.lm.fine_tuning import FineTuning
    from mnemoscope.lm.model import LanguageModel


# Prompts that say nearly the same: shifted windows, near-synonyms, other words, case, typos.

AS_IT_IS = "as it is"
WORD_KINDS = ("near-synonym", "random word", "case", "typo")
_SHORTEST_WORD = 3


class Prompt(NamedTuple):
    """One prompt and what should follow it.

    Attributes:
        kind: what was done to it.
        ids: what the model is shown.
        wanted: the tokens of the sequence after it.
        n_before: how many of these stand before the suffix (of a window shifted to the left).
    """

    kind: str
    ids: npt.NDArray[np.int64]
    wanted: npt.NDArray[np.int64]
    n_before: int


@dataclass(frozen=True)
class Vocabulary:
    """The words among a model's tokens.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
        embeddings: the model's input embeddings, shape (vocabulary, width), float32.
    """

    tokenizer: Any
    embeddings: npt.NDArray[np.float32]

    @cached_property
    def _anchor(self) -> list[int]:
        """A letter before what is written out or read: no tokenizer strips what follows it."""
        return list(self.tokenizer.encode("a", add_special_tokens=False))

    @cached_property
    def pieces(self) -> list[str]:
        """What each token adds to a text, white space included."""
        known = min(len(self.tokenizer), len(self.embeddings))
        start = len(self.tokenizer.decode(self._anchor))
        rows = [[*self._anchor, index] for index in range(known)]
        return [text[start:] for text in self.tokenizer.batch_decode(rows)]

    @cached_property
    def words(self) -> npt.NDArray[np.int64]:
        """Ids of tokens that are a space and a word of three ASCII letters or more."""
        found = [index for index, piece in enumerate(self.pieces) if _is_word(piece)]
        return np.array(found, dtype=np.int64)

    def places(self, ids: npt.NDArray[np.int64]) -> list[int]:
        """Where in a prompt a whole word is one token; its last token may go on, so not there."""
        is_word = set(self.words.tolist())
        return [
            place
            for place, index in enumerate(ids[:-1].tolist())
            if index in is_word and not _goes_on(self.pieces[int(ids[place + 1])])
        ]

    def near(self, index: int) -> list[int] | None:
        """The nearest other word of the same case, by the cosine of input embeddings."""
        candidates = self._others(index)
        if not len(candidates):
            return None
        cosines = self._unit[candidates] @ self._unit[index]
        return [int(candidates[int(np.argmax(cosines))])]

    def at_random(self, index: int, rng: np.random.Generator) -> list[int] | None:
        """Any other word of the same case."""
        candidates = self._others(index)
        return [int(rng.choice(candidates))] if len(candidates) else None

    def other_case(self, index: int) -> list[int] | None:
        """The word in capitals; one that is so already in small letters."""
        piece = self.pieces[index]
        return self._read(piece.lower() if piece.isupper() else piece.upper())

    def typo(self, index: int, rng: np.random.Generator) -> list[int] | None:
        """The word with two unlike neighbouring letters swapped, the first letter staying."""
        letters = list(self.pieces[index])
        swaps = [k for k in range(2, len(letters) - 1) if letters[k] != letters[k + 1]]
        if not swaps:
            return None
        k = int(rng.choice(swaps))
        letters[k], letters[k + 1] = letters[k + 1], letters[k]
        return self._read("".join(letters))

    @cached_property
    def _unit(self) -> npt.NDArray[np.float32]:
        """Embeddings without what all words share, scaled to length 1."""
        centred = self.embeddings - self.embeddings[self.words].mean(axis=0)
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        return np.asarray(centred / np.maximum(length, 1e-12), dtype=np.float32)

    def _others(self, index: int) -> npt.NDArray[np.int64]:
        """Words of the same case that are neither this one nor begin as it does to their end."""
        word = self.pieces[index].strip()
        return np.array(
            [
                other
                for other in self.words.tolist()
                if _case(self.pieces[other].strip()) == _case(word)
                and not _one_begins_other(self.pieces[other].strip().lower(), word.lower())
            ],
            dtype=np.int64,
        )

    def _read(self, text: str) -> list[int] | None:
        """Tokens of a piece of text, None where they would not stand alone."""
        ids = list(self.tokenizer.encode("a" + text, add_special_tokens=False))
        n = len(self._anchor)
        return ids[n:] if ids[:n] == self._anchor and len(ids) > n else None


def make_prompts(
    row: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    *,
    prefix: int,
    shifts: tuple[int, ...],
    n_words: int,
    rng: np.random.Generator,
) -> list[Prompt]:
    """Give every prompt of one sequence.

    Args:
        row: its tokens, shape (length,).
        vocabulary: of the model.
        prefix: tokens of the prefix.
        shifts: by how many tokens the window is moved, both ways.
        n_words: words changed in a prompt, the same in every kind; a prefix with fewer has no such
            prompts.
        rng: chooses words, letters and which words are changed.

    Returns:
        The prefix itself first.
    """
    prompts = [Prompt(AS_IT_IS, row[:prefix], row[prefix:], 0)]
    for shift in shifts:
        later, earlier = prefix + shift, prefix - shift
        prompts.append(Prompt(f"{shift} later", row[shift:later], row[later:], 0))
        prompts.append(Prompt(f"{shift} earlier", row[:earlier], row[earlier:], shift))
    places = vocabulary.places(row[:prefix])
    if len(places) >= n_words:
        chosen = sorted(rng.choice(places, n_words, replace=False).tolist())
        for kind in WORD_KINDS:
            changed = _change(row[:prefix], chosen, kind, vocabulary, rng)
            if changed is not None:
                prompts.append(Prompt(kind, changed, row[prefix:], 0))
    return prompts


def _change(
    ids: npt.NDArray[np.int64],
    places: list[int],
    kind: str,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64] | None:
    """The prompt with other tokens at these places, None where a word cannot be so changed."""
    made: list[int] = []
    for place, index in enumerate(ids.tolist()):
        new: list[int] | None = [index]
        if place in places:
            new = {
                "near-synonym": lambda index=index: vocabulary.near(index),
                "random word": lambda index=index: vocabulary.at_random(index, rng),
                "case": lambda index=index: vocabulary.other_case(index),
                "typo": lambda index=index: vocabulary.typo(index, rng),
            }[kind]()
        if new is None:
            return None
        made += new
    return np.array(made, dtype=np.int64)


def _is_word(piece: str) -> bool:
    bare = piece[1:]
    return piece[:1] == " " and bare.isascii() and bare.isalpha() and len(bare) >= _SHORTEST_WORD


def _goes_on(piece: str) -> bool:
    """Whether a piece goes on with the word before it."""
    return piece[:1].isalnum() or piece[:1] in {"'", "_", "\ufffd"}


def _case(word: str) -> str:
    return "upper" if word.isupper() else "title" if word[:1].isupper() else "lower"


def _one_begins_other(first: str, second: str) -> bool:
    return first.startswith(second) or second.startswith(first)


# The result of `perturb` in a sentence and in pictures.


def sentence(frames: dict[str, pl.DataFrame], settings: Any) -> str:
    """What bears a changed word, and what comes back after unlearning.

    Args:
        frames: of `perturb`.
        settings: its settings.
    """
    back = {row["group"]: row for row in frames["recovery"].iter_rows(named=True)}
    gone, unseen = back["unlearned"], back["unseen"]
    prompts = frames["prompts"]
    typo = prompts.filter((pl.col("kind") == "typo") & (pl.col("group") == "Recall"))
    word = "a typo" if settings.n_words == 1 else f"{settings.n_words} typos"
    bears = (
        f"{interval(typo.row(0, named=True), 'whole', unit=' %')} of recalled sequences come out "
        f"whole after {word} in the prefix; "
        if typo.height
        else ""
    )
    return (
        f"{bears}after unlearning by gradient ascent the prefix itself brings "
        f"{interval(gone, 'as_it_is', scale=1)} of {gone['suffix']} tokens, and the best of "
        f"{gone['n_prompts']:.0f} changed prompts {interval(gone, 'best', scale=1)}: "
        f"{interval(gone, 'recovered', scale=1)} come back; of text never learnt the best prompt "
        f"finds {interval(unseen, 'recovered', scale=1)} more."
    )


def charts(frames: dict[str, pl.DataFrame]) -> tuple[Figure, ...]:
    """Tokens by change, whole suffixes by change, the steps of unlearning.

    Args:
        frames: of `perturb`.
    """
    prompts, steps = frames["prompts"], frames["unlearning"]
    return (
        _bars(
            prompts.filter(pl.col("group").is_in(["Recall", "Guess", "unlearned", "unseen"])),
            "tokens",
            "Tokens of the suffix reproduced in a row, by what was done to the prompt "
            "(95 % interval)",
        ),
        _bars(
            prompts.filter(pl.col("group").is_in(["Recall", "Guess"])),
            "whole",
            "Memorized sequences that come out whole, per cent (95 % interval)",
            percent=True,
        ),
        Chart(
            title="Unlearning: tokens of the suffix reproduced in a row (95 % interval)",
            x_label="steps of gradient ascent",
            series=(
                series_of(
                    "what is unlearned",
                    steps,
                    "tokens",
                    x="step",
                    ends=("tokens_low", "tokens_high"),
                ),
            ),
        ),
    )


def _bars(frame: pl.DataFrame, column: str, title: str, *, percent: bool = False) -> Chart:
    """A row of bars a group, a bar a kind of change."""
    kinds = frame["kind"].unique(maintain_order=True).to_list()
    series = []
    for group in frame["group"].unique(maintain_order=True):
        rows = {row["kind"]: row for row in frame.filter(pl.col("group") == group).to_dicts()}
        values = {
            end: plain(rows.get(kind, {}).get(f"{column}{end}", float("nan")) for kind in kinds)
            for end in ("", "_low", "_high")
        }
        series.append(
            Series(
                name=group,
                x=tuple(float(place) for place in range(len(kinds))),
                y=values[""],
                low=values["_low"],
                high=values["_high"],
            )
        )
    return Chart(
        title=title, form="bars", x_names=tuple(kinds), series=tuple(series), percent=percent
    )


# Stress tests of what is memorized: how much of it bears a changed prompt, or comes back by one?


class Settings(AnalysisSettings):
    """Settings of `perturb`."""

    n_sequences: int = Field(
        default=100, ge=10, description="Memorized sequences of each of Guess and Recall, at most."
    )
    n_unlearned: int = Field(
        default=90, ge=5, description="Recalled sequences that are unlearned, and unseen controls."
    )
    n_words: int = Field(default=1, ge=1, description="Words changed in a prompt.")
    shifts: tuple[int, ...] = Field(
        default=(1, 2, 4, 8), min_length=1, description="Tokens by which the prompt is shifted."
    )
    learning_rate: float = Field(default=5e-5, gt=0, description="Of gradient ascent (AdamW).")
    batch_size: int = Field(default=16, ge=1, description="Sequences a step of gradient ascent.")
    forgotten: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Ascent stops when so small a share of the suffixes is reproduced.",
    )
    max_steps: int = Field(default=80, ge=1, description="Steps of gradient ascent, at most.")
    every: int = Field(
        default=2, ge=1, description="Steps from one look at what is left to the next."
    )


def suffix_runs(
    lm: "LanguageModel", prompts: Sequence[Prompt], *, batch_size: int
) -> npt.NDArray[np.int64]:
    """Count the tokens of the suffix that follow each prompt verbatim.

    Args:
        lm: the model.
        prompts: of any lengths; those of one length are asked together.
        batch_size: prompts a forward pass.

    Returns:
        Shape (prompts,). A window shifted to the left must reproduce the end of the prefix first,
        which does not count.
    """
    from mnemoscope.lm.continue_ import right_tokens, run_lengths

    found = np.zeros(len(prompts), dtype=np.int64)
    groups: dict[tuple[int, int], list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault((len(prompt.ids), len(prompt.wanted)), []).append(number)
    for (n_shown, _), members in groups.items():
        rows = np.stack(
            [np.concatenate([prompts[one].ids, prompts[one].wanted]) for one in members]
        )
        right = right_tokens(lm, rows, batch_size=batch_size, prefix=n_shown)
        before = np.array([prompts[one].n_before for one in members])
        found[members] = np.maximum(0, run_lengths(right) - before)
    return found


def recovery(runs: pl.DataFrame) -> pl.DataFrame:
    """Say of each sequence how many tokens its best changed prompt gives beyond the prompt itself.

    Args:
        runs: columns `sequence_id`, `kind`, `tokens`.

    Returns:
        Columns `sequence_id`, `as_it_is`, `best` (of the changed prompts), `best_kind`,
        `n_prompts` and `recovered` (best minus as it is, 0 where none is better).
    """
    plain = runs.filter(pl.col("kind") == AS_IT_IS).select(
        "sequence_id", pl.col("tokens").alias("as_it_is")
    )
    changed = (
        runs.filter(pl.col("kind") != AS_IT_IS)
        .group_by("sequence_id", maintain_order=True)
        .agg(
            pl.col("tokens").max().alias("best"),
            pl.col("kind").get(pl.col("tokens").arg_max()).alias("best_kind"),
            pl.len().alias("n_prompts"),
        )
    )
    return plain.join(changed, on="sequence_id", how="left", maintain_order="left").with_columns(
        recovered=(pl.col("best") - pl.col("as_it_is")).clip(lower_bound=0)
    )


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Ask for memorized sequences by changed prompts, before and after unlearning some of them.

    Args:
        inputs: with features.
        settings: how many sequences, which changes, how they are unlearned.
    """
    if max(settings.shifts) >= inputs.prefix or min(settings.shifts) < 1:
        raise UserError(
            f"analyze perturb: shifts {list(settings.shifts)}: each must be from 1 to "
            f"{inputs.prefix - 1}, below the {inputs.prefix} tokens of the prefix."
        )
    groups = _groups(inputs, settings)
    lm = inputs.model()
    vocabulary = _vocabulary(lm)
    asked = {
        name: _prompts(inputs, rows, vocabulary, settings)
        for name, rows in groups.items()
        if name != "Recall, not unlearned"
    }
    basis = {
        **model_basis(lm),
        "settings": settings.model_dump(mode="json"),
        "ids": [hash_ids(rows) for rows in groups.values()],
    }
    first = {name: prompts for name, prompts in asked.items() if name != "unlearned"}
    before = inputs.shelf("prompted", basis, lambda: _ask(inputs, lm, first))
    unlearning = _Unlearning(inputs, settings, groups, asked)
    steps = inputs.shelf("unlearning", basis, lambda: unlearning.made["steps"])
    after = inputs.shelf("prompted-after", basis, lambda: unlearning.made["after"])
    beside = inputs.shelf("beside", basis, lambda: unlearning.made["beside"])
    frames = {**_frames(before, after, inputs), "unlearning": steps, "beside": beside}
    return AnalysisResult(
        sentence=sentence(frames, settings),
        frames=frames,
        figures=charts(frames),
        further=_further(frames, groups, settings),
    )


# -- who is asked, and how ------------------------------------------------------------------


def _groups(inputs: AnalysisInputs, settings: Settings) -> dict[str, pl.DataFrame]:
    """Memorized sequences, guessed and recalled, some of these unlearned; unseen as a control.

    What is unlearned is among the recalled ones; `Recall, not unlearned` is as many others.
    """
    table = inputs.table.filter(pl.col("is_memorized"))
    is_guess = parse_node("Guess").expression.fill_null(True)
    parts = {"Recall": table.filter(~is_guess), "Guess": table.filter(is_guess)}
    rng = np.random.default_rng(settings.seed)
    drawn = {name: part[rng.permutation(part.height)] for name, part in parts.items()}
    groups = {name: part[: settings.n_sequences] for name, part in drawn.items()}
    n = min(settings.n_unlearned, groups["Recall"].height)
    if n < 5:
        raise UserError(
            f"analyze perturb: {n} sequences are memorized and not guessable, and 5 at least are "
            "needed. Give a table with more."
        )
    groups["unlearned"] = groups["Recall"][:n]
    groups["Recall, not unlearned"] = drawn["Recall"][n : 2 * n]
    groups["unseen"] = unseen_rows(inputs, n, settings.seed, where="analyze perturb")
    return {name: rows for name, rows in groups.items() if rows.height}


def _vocabulary(lm: "LanguageModel") -> Vocabulary:
    weights = lm.model.get_input_embeddings().weight.detach().float().cpu().numpy()
    return Vocabulary(lm.tokenizer, weights)


def _prompts(
    inputs: AnalysisInputs, rows: pl.DataFrame, vocabulary: Vocabulary, settings: Settings
) -> list[tuple[int, Prompt]]:
    """Every prompt of every sequence, with its id; a sequence's own seed decides its words."""
    found = []
    for sequence, row in zip(rows["sequence_id"].to_list(), token_matrix(rows), strict=True):
        rng = np.random.default_rng([settings.seed, abs(int(sequence))])
        made = make_prompts(
            row.astype(np.int64),
            vocabulary,
            prefix=inputs.prefix,
            shifts=settings.shifts,
            n_words=settings.n_words,
            rng=rng,
        )
        found += [(sequence, prompt) for prompt in made]
    return found


def _ask(
    inputs: AnalysisInputs, lm: "LanguageModel", asked: dict[str, list[tuple[int, Prompt]]]
) -> pl.DataFrame:
    """Tokens of the suffix after every prompt of every group."""
    parts = []
    for name, prompts in asked.items():
        runs = suffix_runs(lm, [one for _, one in prompts], batch_size=inputs.batch_size)
        parts.append(
            pl.DataFrame(
                {
                    "group": [name] * len(prompts),
                    "sequence_id": [sequence for sequence, _ in prompts],
                    "kind": [prompt.kind for _, prompt in prompts],
                    "tokens": runs,
                    "of": [len(one.wanted) - one.n_before for _, one in prompts],
                }
            )
        )
    return pl.concat(parts)


# -- unlearning -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Unlearning:
    """A copy of the model that goes up the loss of some suffixes; run once, when first asked."""

    inputs: AnalysisInputs
    settings: Settings
    groups: dict[str, pl.DataFrame]
    asked: dict[str, list[tuple[int, Prompt]]]

    @cached_property
    def made(self) -> dict[str, pl.DataFrame]:
        """The steps, what became of other sequences, and what prompts give afterwards."""
        from mnemoscope.lm.fine_tuning import FineTuning, StepSettings

        settings = self.settings
        steps = StepSettings(settings.learning_rate, ascent=True, seed=settings.seed)
        tuning = FineTuning(self.inputs.model(), steps)
        first = self._beside(tuning.lm)
        looks = self._climb(tuning)
        last = self._beside(tuning.lm).drop("n")
        asked = {name: self.asked[name] for name in ("unlearned", "unseen")}
        return {
            "steps": pl.DataFrame(looks, infer_schema_length=None),
            "beside": first.join(
                last.rename(lambda name: name if name == "group" else f"after_{name}"),
                on="group",
                maintain_order="left",
            ),
            "after": _ask(self.inputs, tuning.lm, asked),
        }

    def _climb(self, tuning: "FineTuning") -> list[dict[str, Any]]:
        """Go up until so little is left; look at what is left on the way."""
        settings, rows = self.settings, token_matrix(self.groups["unlearned"])
        counted = np.zeros(rows.shape, dtype=bool)
        counted[:, self.inputs.prefix :] = True
        rng, order = np.random.default_rng(settings.seed), list[int]()
        looks = [self._left(tuning, rows, None)]
        with track("Unlearning", total=settings.max_steps, unit="steps") as progress:
            while tuning.step < settings.max_steps and looks[-1]["share"] > settings.forgotten:
                order = order or rng.permutation(len(rows)).tolist()
                batch, order = order[: settings.batch_size], order[settings.batch_size :]
                loss = tuning.train(rows[batch], counted[batch])
                if tuning.step % settings.every == 0 or tuning.step == settings.max_steps:
                    looks.append(self._left(tuning, rows, loss))
                progress.advance()
        return looks

    def _left(
        self, tuning: "FineTuning", rows: npt.NDArray[np.int32], loss: float | None
    ) -> dict[str, Any]:
        """What is still reproduced of what is unlearned."""
        right = self._right(tuning.lm, rows)
        tokens = resampled_mean(_runs(right))
        found: dict[str, Any] = {"step": tuning.step, "loss": loss}
        found |= {"share": tokens.value / right.shape[1]}
        return found | {"memorized": float(right.all(axis=1).mean())} | tokens.columns("tokens")

    def _beside(self, lm: "LanguageModel") -> pl.DataFrame:
        """Tokens reproduced, and right tokens, of what is not unlearned."""
        n = self.settings.n_unlearned
        found: list[dict[str, Any]] = []
        for name in ("Recall, not unlearned", "Guess", "unseen"):
            rows = self.groups.get(name)
            if rows is not None:
                right = self._right(lm, token_matrix(rows[:n]))
                row: dict[str, Any] = {"group": name, "n": len(right)}
                row |= resampled_mean(_runs(right)).columns("tokens")
                found.append(row | resampled_mean(right.mean(axis=1)).columns("right"))
        return pl.DataFrame(found)

    def _right(self, lm: "LanguageModel", rows: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        from mnemoscope.lm.continue_ import right_tokens

        return right_tokens(lm, rows, batch_size=self.inputs.batch_size, prefix=self.inputs.prefix)


def _runs(is_right: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    from mnemoscope.lm.continue_ import run_lengths

    return run_lengths(is_right)


# -- tables ---------------------------------------------------------------------------------


def _frames(
    before: pl.DataFrame, after: pl.DataFrame, inputs: AnalysisInputs
) -> dict[str, pl.DataFrame]:
    """Prompts by kind, recovery by sequence and in sum."""
    later = after.with_columns(
        pl.col("group").replace({"unseen": "unseen, model after unlearning"})
    )
    parts = {
        str(name[0]): part
        for name, part in pl.concat([before, later]).group_by("group", maintain_order=True)
    }
    recovered = {name: recovery(part) for name, part in parts.items()}
    return {
        "prompts": pl.concat(_by_kind(name, part) for name, part in parts.items()),
        "recovery": pl.DataFrame(
            [
                {"group": name, "n": part.height, "suffix": inputs.length - inputs.prefix}
                | {"n_prompts": part["n_prompts"].cast(pl.Float64).to_numpy().mean()}
                | resampled_mean(part["as_it_is"]).columns("as_it_is")
                | resampled_mean(part["best"]).columns("best")
                | resampled_mean(part["recovered"]).columns("recovered")
                for name, part in recovered.items()
            ]
        ),
        "sequences": pl.concat(
            part.with_columns(pl.lit(name).alias("group")) for name, part in recovered.items()
        ),
    }


def _by_kind(group: str, runs: pl.DataFrame) -> pl.DataFrame:
    """Tokens and whole suffixes by what was done to the prompt."""
    rows = []
    for kind in runs["kind"].unique(maintain_order=True):
        part = runs.filter(pl.col("kind") == kind)
        whole = share_of(int((part["tokens"] == part["of"]).sum()), part.height)
        rows.append(
            {"group": group, "kind": kind, "n": part.height}
            | resampled_mean(part["tokens"]).columns("tokens")
            | {"whole": whole.value, "whole_low": whole.low, "whole_high": whole.high}
        )
    return pl.DataFrame(rows)


def _further(
    frames: dict[str, pl.DataFrame], groups: dict[str, pl.DataFrame], settings: Settings
) -> tuple[str, ...]:
    last = frames["unlearning"].row(-1, named=True)
    beside = {row["group"]: row for row in frames["beside"].iter_rows(named=True)}
    stopped = (
        "until so little was left"
        if last["share"] <= settings.forgotten
        else f"and stopped there, with {last['share']:.0%} of the suffixes left"
    )
    unseen, kept = beside["unseen"], beside.get("Recall, not unlearned")
    others = (
        ""
        if kept is None
        else f", other recalled sequences from {interval(kept, 'tokens', scale=1)} to "
        f"{interval(kept, 'after_tokens', scale=1)} tokens in a row"
    )
    words = frames["prompts"].filter((pl.col("kind") == "case") & (pl.col("group") == "Recall"))
    n_words = int(words["n"][0]) if words.height else 0
    return (
        f"Gradient ascent went {last['step']} steps up the loss of the suffixes, {stopped}. What "
        f"it does to the rest: right tokens of unseen text go from "
        f"{interval(unseen, 'right', unit=' %')} to {interval(unseen, 'after_right', unit=' %')}"
        f"{others}.",
        f"Near-synonyms are the nearest words in the model's input embeddings. {n_words} of "
        f"{groups['Recall'].height} recalled prefixes have {settings.n_words} word(s) that are "
        "one token, and were changed.",
        "A shifted window moves prompt and question: of one shifted to the right fewer tokens "
        "are left to reproduce, one shifted to the left must say the end of the prefix first.",
    )
