"""Reproduced because it is stored, or because the text leaves no choice? Asked of dimensions.

Source: Ross et al. 2024, arXiv 2411.00113, the manifold memorization hypothesis; section 8 of the
related work. A point is memorized where the local intrinsic dimension of the *model's* manifold is
small: by overfitting (OD-Mem) where that of the *data's* manifold is larger, by the data (DD-Mem)
where both are small. A language model has no manifold to differentiate: here the dimension is that
of the cloud of continuations drawn from one prefix, the model's own and, for the data, those of a
reference that never saw the sequences, both in the reference's embedding space. Of a few draws it
is a spread rather than a dimension (docs/analyses/dimension.md has its bias). Beside it stand
the entropies of the same draws and what needs the text: the log-probabilities, what the reference
itself gets right, and the rule that calls a sequence Guess.
Run it: mnemoscope analyze dimension STUDY
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    LanguageModel,
    Progress,
    Series,
    bars_by,
    counted,
    draw_continuations,
    draw_rows,
    draw_within,
    estimate_of,
    frame_of,
    groups_of,
    hidden_states,
    keep_blocks,
    n_groups,
    plain,
    ranged,
    resampled_auc,
    rows_of,
    seen_in_training,
    share_true,
    teacher_forced,
    token_matrix,
)

RECALL, GUESS, RIGHT_UNSEEN = "Recall", "Guess", "unseen, reproduced"
RIGHT_SEEN = "seen, reproduced"
SEEN, UNSEEN = "seen, not reproduced", "not reproduced"
CLASSES = (RECALL, GUESS, RIGHT_UNSEEN, SEEN, UNSEEN)
"""Classes of sequences; the last, not known to be in training, is the control."""

KINDS = ("OD-Mem", "DD-Mem", "neither")

_DISCARDED = 0.1  # Facco et al. leave out the largest tenth of the ratios
_SMALL = 0.1  # share of the control below which a dimension is called small
_HALF = 0.5  # of the control's median: a small dimension is below that too
_FLAT = 0.2  # a reference is flat where all but a twentieth is within this share of the median
_BLOCK = 20  # sequences kept at once, each with all its draws
_MEASURES = ("dimension", "two_nn", "entropy")

VALUES = {
    "dimension_gap": "participation ratio",
    "two_nn_gap": "TwoNN",
    "entropy_gap": "entropy",
    "log_ratio": "log-probability ratio",
    "log_model": "log-probability, model",
    "log_reference": "log-probability, reference",
    "reference_right": "right tokens, reference",
    "guessable": "rule (ROUGE, patterns)",
}
"""What may tell Recall from other classes: columns of `sequences`; gaps are differences."""
_FALLING = ("log_reference", "reference_right", "guessable")  # low where text is stored
_GEOMETRY = ("dimension_gap", "two_nn_gap")
# What the rule for Guess reads as one number: the larger ROUGE, 1 where a pattern goes on.
_GUESSABLE = (
    pl.when((pl.col("is_incrementing") | pl.col("is_repeating")).fill_null(False))
    .then(1.0)
    .otherwise(pl.max_horizontal("rouge_l", "rouge_3").cast(pl.Float64).fill_null(0.0))
)


class Settings(AnalysisSettings):
    """Settings of `dimension`."""

    per_class: int = Field(default=40, ge=2, description="Sequences of a class at most.")
    minimum: int = Field(default=10, ge=2, description="Sequences that a class needs.")
    n_draws: int = Field(default=24, ge=4, description="Continuations drawn of each prefix.")
    n_tokens: int = Field(default=16, ge=1, description="Tokens of each.")
    temperature: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Of the draws. At 1 few draws are a text that is decoded greedily.",
    )
    n_resamples: int = Field(default=500, ge=20, description="Resamples behind an interval.")


# -- estimators -----------------------------------------------------------------------------


def participation_ratio(points: npt.ArrayLike) -> float:
    """Give (Σ λ)² / Σ λ² of the covariance's eigenvalues λ, points (n, D); 0 where all are one.

    At most n - 1 and D: of few points it is below that of endless ones.

    >>> participation_ratio([[1, 0], [-1, 0], [0, 1], [0, -1]])
    2.0
    """
    cloud = np.asarray(points, dtype=np.float64)
    centred = cloud - cloud.mean(axis=0)
    gram = centred @ centred.T  # has the same eigenvalues, and is small
    total = float(np.trace(gram))
    # What rounding leaves of equal points is no spread.
    if total <= 1e-12 * float((cloud**2).sum()):
        return 0.0
    return float(total**2 / (gram**2).sum())


def two_nn(points: npt.ArrayLike) -> float:
    """Give the dimension of a cloud (n, D) from its two nearest neighbours; NaN below three points.

    Slope of -log(1 - F) on log μ, μ the ratio of the distances of the second and the first
    neighbour, without its largest tenth. 0, the limit, where more than a tenth have a twin.

    Source: TwoNN, Facco et al. 2017, Scientific Reports 7, 12140.
    """
    cloud = np.asarray(points, dtype=np.float64)
    n = len(cloud)
    if n < 3:
        return float("nan")
    _, first, second = np.sort(cdist(cloud, cloud), axis=1).T[:3]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(first > 0, np.log(second / first), np.inf)
    kept = int(n * (1 - _DISCARDED))
    ratio = np.sort(ratios)[:kept]
    if np.isinf(ratio).any():
        return 0.0
    share = -np.log(1 - np.arange(1, kept + 1) / n)
    return float((ratio @ share) / (ratio @ ratio))


# -- verdicts -------------------------------------------------------------------------------


def kinds_of_memory(own: npt.ArrayLike, data: npt.ArrayLike, control: npt.ArrayLike) -> pl.Series:
    """Say of each sequence, by its dimension under model and reference (n,), its one of `KINDS`.

    A dimension is small below that of all but a tenth of the `control` sequences (flags, (n,))
    under the same model, and below half of their median: OD-Mem is small under the model alone,
    DD-Mem under both.
    """
    aside = np.asarray(control, dtype=bool)
    is_small = [
        values < min(np.quantile(values[aside], _SMALL), _HALF * np.median(values[aside]))
        for values in (np.asarray(one, dtype=np.float64) for one in (own, data))
    ]
    found = np.where(is_small[0], np.where(is_small[1], KINDS[1], KINDS[0]), KINDS[2])
    return pl.Series("kind", found)


def is_flat(data: npt.ArrayLike) -> bool:
    """Whether a reference spreads alike after every prefix, so that it says nothing of the text."""
    values = np.asarray(data, dtype=np.float64)
    low, middle = np.quantile(values, [0.05, 0.5])
    return bool(low > (1 - _FLAT) * middle)


# -- the analysis ---------------------------------------------------------------------------


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Draws and their states, and each text once, under both models."""
    return _chosen(inputs, settings).height * 2 * (2 * settings.n_draws + 1)


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Measure the cloud of continuations of each prefix under the model and under a reference.

    Raises UserError: more than one reference, or one that spreads alike after every prefix; more
    tokens than the suffix has; a class too small.
    """
    if len(inputs.others) != 1:
        raise UserError(
            f"analyze dimension: {len(inputs.others)} models to compare with; one that never saw "
            "the sequences is needed. Give one: --second MODEL."
        )
    if settings.n_tokens > inputs.length - inputs.prefix:
        raise UserError(
            f"analyze dimension: {settings.n_tokens} tokens, but suffixes of "
            f"{inputs.length - inputs.prefix}. Lower --set n_tokens=N."
        )
    rows = _chosen(inputs, settings)
    ((name, reference),) = inputs.other_models()
    own, data = (
        _clouds(inputs, lm, reference, rows, settings, label)
        for lm, label in ((inputs.model(), "Drawing"), (reference, f"Drawing, {name}"))
    )
    if is_flat(data["dimension"]):
        raise UserError(
            f"analyze dimension: the continuations of {name} spread alike after every prefix, "
            "reproduced text or not, so that they say nothing of the text. Is it trained? Give "
            "another: --second MODEL."
        )
    found = rows.select("sequence_id", "class").with_columns(
        own["draws_right"],
        *(own[one].alias(f"{one}_model") for one in _MEASURES),
        *(data[one].alias(f"{one}_reference") for one in _MEASURES),
        *_by_text(inputs, reference, rows, settings),
        guessable=rows.select(_GUESSABLE).to_series(),
    )
    found = found.with_columns(
        *((pl.col(f"{m}_reference") - pl.col(f"{m}_model")).alias(f"{m}_gap") for m in _MEASURES),
        kinds_of_memory(
            found["dimension_model"], found["dimension_reference"], found["class"] == UNSEEN
        ),
    )
    classes, kinds = _by_class(inputs, found, settings), _kind_shares(inputs, found)
    aucs = _aucs(inputs, found, settings)
    return AnalysisResult(
        sentence=_sentence(found, classes, kinds, aucs, settings),
        frames={"classes": classes, "kinds": kinds, "aucs": aucs, "sequences": found},
        figures=tuple(_figures(found, kinds, aucs)),
        further=tuple(_further(inputs, classes, aucs, settings)),
    )


def _chosen(inputs: AnalysisInputs, settings: Settings) -> pl.DataFrame:
    """Rows of each class with a column `class`; classes that are too small are left out."""
    table = inputs.table.filter(pl.col("is_memorized").is_not_null())
    seen, right = seen_in_training(table), table["is_memorized"]
    named = (
        pl.when(right & seen.eq(False).fill_null(False))
        .then(pl.lit(RIGHT_UNSEEN))
        .when(right)
        .then(groups_of(table))
        .when(seen.fill_null(False))
        .then(pl.lit(SEEN))
        .otherwise(pl.lit(UNSEEN))
    )
    table = table.with_columns(named.alias("class"))
    parts = {one: table.filter(pl.col("class") == one) for one in CLASSES}
    for needed in (RECALL, GUESS, UNSEEN):
        if (n := parts[needed].height) < settings.minimum:
            raise UserError(
                f"analyze dimension: {n} sequences of class '{needed}'; {settings.minimum} are "
                "needed. Add sequences, or lower it with --set minimum=N."
            )
    drawn = [draw_rows(part, settings.per_class, settings.seed) for part in parts.values()]
    return pl.concat([one for one in drawn if one.height >= settings.minimum])


def _clouds(
    inputs: AnalysisInputs,
    lm: LanguageModel,
    reference: LanguageModel,
    rows: pl.DataFrame,
    settings: Settings,
    label: str,
) -> pl.DataFrame:
    """`_MEASURES` of the continuations that a model draws of each row's prefix, in kept blocks."""
    n_draws, n_tokens = settings.n_draws, settings.n_tokens

    def make(block: pl.DataFrame, progress: Progress) -> pl.DataFrame:
        prefixes = np.repeat(token_matrix(block)[:, : inputs.prefix], n_draws, axis=0)
        uniforms = np.concatenate(
            [
                np.random.default_rng([settings.seed, abs(one)]).random((n_draws, n_tokens))
                for one in block["sequence_id"]
            ]
        )
        batches = draw_continuations(
            lm,
            prefixes,
            uniforms,
            batch_size=inputs.batch_size,
            temperature=settings.temperature,
        )
        tokens, entropy = (np.concatenate(one) for one in zip(*batches, strict=True))
        # Each text is read once: twins are then at no distance, whatever a batch rounds.
        read, owner = np.unique(
            np.concatenate([prefixes, tokens], axis=1), axis=0, return_inverse=True
        )
        states = hidden_states(
            reference, read, batch_size=inputs.batch_size, positions=slice(inputs.prefix, None)
        )
        suffixes = token_matrix(block)[:, inputs.prefix :][:, :n_tokens]
        is_right = (tokens.reshape(-1, n_draws, n_tokens) == suffixes[:, None]).all(axis=2)
        means = np.concatenate([one[:, 0].mean(axis=1, dtype=np.float64) for one in states])[owner]
        clouds = means.reshape(block.height, n_draws, -1)
        progress.advance(block.height)
        return block.select("sequence_id").with_columns(
            pl.Series("dimension", [participation_ratio(one) for one in clouds]),
            pl.Series("two_nn", [two_nn(one) for one in clouds]),
            pl.Series("draws_right", is_right.mean(axis=1)),
            pl.Series(
                "entropy", entropy.sum(axis=1, dtype=np.float64).reshape(-1, n_draws).mean(axis=1)
            ),
        )

    basis = settings.model_dump(include={"seed", "n_draws", "n_tokens", "temperature"})
    basis |= {"prefix": inputs.prefix, "space": reference.basis}
    return keep_blocks(inputs, lm, rows, "clouds", make, label=label, size=_BLOCK, **basis)


def _by_text(
    inputs: AnalysisInputs, reference: LanguageModel, rows: pl.DataFrame, settings: Settings
) -> Iterator[pl.Series]:
    """What the text itself tells: log-probabilities of its next tokens (nats), and who is right.

    Right tokens of the reference are a share of the whole suffix.
    """
    tokens = token_matrix(rows)
    own, data = (
        teacher_forced(lm, tokens, batch_size=inputs.batch_size, prefix=inputs.prefix)
        for lm in (inputs.model(), reference)
    )
    under = [
        one.logprobs[:, : settings.n_tokens].sum(axis=1, dtype=np.float64) for one in (own, data)
    ]
    yield pl.Series("log_ratio", under[0] - under[1])
    yield pl.Series("log_model", under[0])
    yield pl.Series("log_reference", under[1])
    yield pl.Series("reference_right", data.is_right.mean(axis=1))


def _by_class(inputs: AnalysisInputs, found: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """Median of each measure in each class, its interval over groups of near duplicates."""
    lines = []
    for (name,), part in found.group_by("class", maintain_order=True):
        owners = inputs.near_duplicates(part["sequence_id"])
        drawn = draw_within(
            np.zeros(part.height),
            np.random.default_rng(settings.seed),
            settings.n_resamples,
            groups=owners,
        )
        for measure in _MEASURES:
            for under in ("model", "reference"):
                values = part[f"{measure}_{under}"].to_numpy()
                draws = [np.median(np.repeat(values, one)) for one in drawn]
                lines.append(
                    {"class": name, "measure": measure, "under": under, "n": part.height}
                    | {"n_groups": n_groups(owners)}
                    | {"median": estimate_of(float(np.median(values)), draws, 0.025)}
                )
    return frame_of(lines)


def _kind_shares(inputs: AnalysisInputs, found: pl.DataFrame) -> pl.DataFrame:
    lines = []
    for (name,), part in found.group_by("class", maintain_order=True):
        owners = inputs.near_duplicates(part["sequence_id"])
        for kind in KINDS:
            lines.append(
                {"class": name, "kind": kind, "n": part.height, "n_groups": n_groups(owners)}
                | {"share": share_true(part["kind"] == kind, owners)}
            )
    return frame_of(lines)


def _aucs(inputs: AnalysisInputs, found: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """How well each value ranks one class above another, and what geometry adds to it.

    Recall against the others, and all that is reproduced by whether training had it: that truth
    is counted, and owes nothing to the rule. Added is the AUC of the mean of two ranks less that
    of the other value alone, of the same resamples.
    """
    pairs: list[tuple[str, tuple[str, ...], str]] = [
        (RECALL, (RECALL,), one) for one in (GUESS, RIGHT_UNSEEN, UNSEEN)
    ]
    pairs.append((RIGHT_SEEN, (RECALL, GUESS), RIGHT_UNSEEN))
    lines = []
    for name, own, against in (one for one in pairs if one[2] in set(found["class"])):
        part = found.filter(pl.col("class").is_in([*own, against]))
        owners = inputs.near_duplicates(part["sequence_id"])
        is_own = (part["class"] != against).to_numpy()
        drawn = draw_within(
            is_own, np.random.default_rng(settings.seed), settings.n_resamples, groups=owners
        )
        geometry = rankdata(part["dimension_gap"])
        for value in VALUES:
            numbers = part[value].to_numpy() * (-1.0 if value in _FALLING else 1.0)
            auc = resampled_auc(numbers, is_own, drawn)
            told = estimate_of(float(auc[0]), auc[1:], 0.025)
            added = Estimate(None)
            if value not in _GEOMETRY:
                more = resampled_auc(geometry + rankdata(numbers), is_own, drawn) - auc
                added = estimate_of(float(more[0]), more[1:], 0.025)
            line: dict[str, object] = {"of": name, "against": against, "value": value}
            line |= {"n": part.height, "n_groups": n_groups(owners)}
            lines.append(line | {"auc": told} | {"added": added})
    return frame_of(lines)


def _sentence(
    found: pl.DataFrame,
    classes: pl.DataFrame,
    kinds: pl.DataFrame,
    aucs: pl.DataFrame,
    settings: Settings,
) -> str:
    def one_class(name: str, kind: str) -> str:
        own, data = (
            ranged(row["median"])
            for row in rows_of(classes.filter(pl.col("class") == name, measure="dimension"))
        )
        share = next(rows_of(kinds.filter(pl.col("class") == name, kind=kind)))
        shown = ranged(share["share"], scale=100, unit=" %", digits=0)
        return f"by {own} under the model and {data} under the reference ({kind}: {shown})"

    by = {row["value"]: row for row in rows_of(aucs.filter(against=GUESS))}
    gap, entropy, ratio = (
        ranged(by[name]["auc"], digits=3) for name in ("dimension_gap", "entropy_gap", "log_ratio")
    )
    right = 100 * np.mean(found.filter(pl.col("class") == RECALL)["draws_right"].to_numpy())
    return (
        f"Drawn at temperature {settings.temperature:g}, where {right:.1f} % of Recall's draws are "
        f"its text, continuations of Recall spread {one_class(RECALL, KINDS[0])}, of Guess "
        f"{one_class(GUESS, KINDS[1])}; the difference tells Recall from Guess with ROC AUC "
        f"{gap}, that of the entropies with {entropy}, the log-probability ratio, which needs the "
        f"text, with {ratio}; {_adds(by['entropy_gap']['added'])}."
    )


def _adds(added: Estimate) -> str:
    _, low, high = added
    figure = ranged(added, digits=3)
    if low is None or high is None:
        return f"what geometry adds to the entropies, {figure}, has no interval"
    if low > 0:
        return f"geometry adds {figure} to the entropies"
    if high < 0:
        return f"the mean of its rank and theirs does worse than the entropies alone ({figure})"
    return f"geometry adds nothing that can be told from 0 to the entropies ({figure})"


def _further(
    inputs: AnalysisInputs, classes: pl.DataFrame, aucs: pl.DataFrame, settings: Settings
) -> Iterator[str]:
    sizes = classes.unique("class", maintain_order=True).select("class", "n").iter_rows()
    yield (
        f"{settings.n_draws} continuations of {settings.n_tokens} tokens of each prefix, the same "
        "random numbers for both models. Spread is the participation ratio of the means of the "
        f"reference's last states, at most {settings.n_draws - 1}. Sequences: "
        f"{', '.join(f'{n} {name}' for name, n in sizes)}."
    )
    yield (
        f"Small is what is below all but {100 * _SMALL:.0f} % of the control, '{UNSEEN}', under "
        "the same model, and below half of its median: OD-Mem is small under the model alone, "
        "DD-Mem under both. A text that is recalled greedily and is seldom drawn is not small: a "
        "lower --set temperature=T asks nearer to what is decoded."
    )
    if seen_in_training(inputs.table).count() == 0:
        yield (f"No duplicates are counted, so '{UNSEEN}' may hold sequences that training had.")
    for (name, against), part in aucs.group_by("of", "against", maintain_order=True):
        by = {row["value"]: row for row in rows_of(part)}
        said = ", ".join(
            f"{words} {ranged(by[value]['auc'], digits=3)}"
            for value, words in VALUES.items()
            if (against, value) != (GUESS, "guessable")  # the rule is what tells these two apart
        )
        yield (
            f"'{name}' against '{against}', ROC AUC: {said}. To the log-probability ratio geometry "
            f"adds {ranged(by['log_ratio']['added'], digits=3)}, to the reference's right tokens "
            f"{ranged(by['reference_right']['added'], digits=3)}, to the rule "
            f"{ranged(by['guessable']['added'], digits=3)}."
        )
    yield (
        "Differences of dimension and of entropy ask for prompts alone; the others need the text. "
        "The rule draws the line between Recall and Guess, so it is no competitor there."
    )


def _figures(found: pl.DataFrame, kinds: pl.DataFrame, aucs: pl.DataFrame) -> Iterator[Chart]:
    yield Chart(
        title="Spread of the continuations of a prefix (participation ratio), one point a sequence",
        form="points",
        x_label="under the model",
        y_label="under the reference",
        series=tuple(
            Series(
                name=counted(str(name), part.with_columns(n=pl.len())),
                x=plain(part["dimension_model"]),
                y=plain(part["dimension_reference"]),
            )
            for (name,), part in found.group_by("class", maintain_order=True)
        ),
    )
    title = "Overfitting or data? Share of each kind by class (95 % interval)"
    some = kinds.filter(pl.col("kind").is_in(KINDS[:2]))
    yield bars_by(title, some, "kind", "share", at="class", percent=True)
    yield bars_by(
        "ROC AUC, by the difference of reference and model (geometry, entropy) and by what "
        "needs the text (95 % interval; .5: chance)",
        aucs.filter(pl.col("against") != UNSEEN).with_columns(pl.col("value").replace(VALUES)),
        ("of", "against"),
        "auc",
        at="value",
        name="{} against {}",
    )
