"""Analyses of a SYNTHETIC copy of `usvsnsp/semantic-filters`, its planted facts found again.

The copy's files are read a second time by Polars alone: what the analyses say is compared with
them, with the shares from which the copy was drawn, and with scipy.
"""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.stats

from benchmarks import synthetic_semantic_filters as synthetic
from figure_columns import apart
from mnemoscope.analysis.predictors import given_perplexities, three_perplexities
from mnemoscope.analysis.registry import entry_named
from mnemoscope.cli import main
from mnemoscope.flow.analyze import rows_for
from mnemoscope.study.folder import Study

SPLIT = ("--split", "deduped_12b", "--model", "none")
N_PILE, N_MEMORIES = 1200, 400
PERPLEXITIES = ("prompt_perplexity", "generation_perplexity", "sequence_perplexity")


def whole(source: Path) -> pl.DataFrame:
    """The copy by Polars alone, one row a sequence, the pile's first."""
    files = sorted((source / "data").glob("*.parquet"), reverse=True)  # pile before memories
    return pl.concat([pl.read_parquet(one) for one in files]).unique("sequence_id", keep="first")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    synthetic.write_copy(folder, N_PILE, N_MEMORIES, vocab_size=2000)
    return folder


def run_verb(*words: object) -> None:
    with pytest.raises(SystemExit) as left:
        main([*map(str, words), "-q"])
    assert left.value.code == 0


@pytest.fixture(scope="module")
def study(source, tmp_path_factory) -> Path:
    """A study of the copy, analysed without a model; read only."""
    folder = tmp_path_factory.mktemp("of-copy") / "study"
    run_verb("sequences", source, *SPLIT, "-o", folder)
    run_verb("features", folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load.load_model", "tokenizer.load_tokenizer"):
            patch.setattr(f"mnemoscope.lm.{name}", lambda *_, **__: pytest.fail("asked"))
        run_verb("analyze", "dependencies", folder, "--set", "n_resamples=50")
        options = ["partition=false", "tests=false", "n_resamples=50", "logarithms=true"]
        sets = [one for option in options for one in ("--set", option)]
        run_verb("analyze", "predict", folder, *sets)
    return folder


def said(study: Path, name: str) -> str:
    """The sentences of a result for which nothing was put through a model."""
    result = json.loads((study / "analysis" / name / "result.json").read_text())
    assert result["forward_passes"] == 0
    return " ".join([result["sentence"], *result["further"]])


def test_dependencies_find_what_was_planted_without_a_model(study, source) -> None:
    words = said(study, "dependencies")
    assert "No model was asked" in words
    assert "the data set's own, counted in the model's whole training text" in words
    folder = study / "analysis" / "dependencies"
    truth = whole(source)
    memorized = truth["memorization_score"] == 1
    found = apart(pl.read_parquet(folder / "coefficients.parquet")).filter(
        kind="all", category="all"
    )
    value = {(row["feature"], row["coefficient"]): row["value"] for row in found.to_dicts()}
    # 1. duplicates: drawn by another law where memorized
    duplicates = truth["sequence_duplicates"]
    theirs = scipy.stats.spearmanr(duplicates, memorized).statistic
    assert value["duplicates", "spearman"] == pytest.approx(theirs, abs=1e-9)
    assert theirs > 0.6
    # 2. perplexities: drawn without regard to the label; 4 standard errors of a correlation
    for name in PERPLEXITIES:
        assert abs(value[name, "spearman"]) < 4 / np.sqrt(truth.height)
    assert "duplicates by Spearman" in words
    # 3. features are those that the files give
    features = pl.read_parquet(folder / "features.parquet").join(truth, on="sequence_id")
    assert features.height == truth.height
    for name in ("max", "avg", "min", "p25", "p75"):
        ours, given = features[f"{name}_frequency"], features[f"{name}_frequency_right"]
        assert ours.to_numpy() == pytest.approx(given.to_numpy(), rel=1e-12)
    given = features["generation_perplexity_right"].to_numpy().astype(np.float64)
    mended = features["generation_perplexity"].to_numpy()
    assert mended == pytest.approx(given ** (63 / 32), rel=1e-6)
    # class proportions are the planted ones, beside the published
    shares = apart(pl.read_parquet(folder / "proportions.parquet"))
    own = {row["category"]: row for row in shares.to_dicts()}
    truth = truth.filter(memorized)
    recite = truth["sequence_duplicates"] > 5
    pattern = truth["is_incrementing"] | truth["is_repeating"]
    counts = {
        "Recite[5]": recite.sum(),
        "Reconstruct": (~recite & pattern).sum(),
        "Recollect": (~recite & ~pattern).sum(),
    }
    assert {name: row["n"] for name, row in own.items()} == counts
    law = zip(synthetic._DUPLICATES, synthetic._DUPLICATES_MEMORIZED, strict=True)
    planted = sum(p for n, p in law if n > 5)
    assert planted == pytest.approx(0.84)
    assert own["Recite[5]"]["share_low"] < planted < own["Recite[5]"]["share_high"]
    published = [own[name]["published"] for name in counts]
    assert published == pytest.approx([0.837, 0.0295, 0.1335], abs=5e-4)  # 12b, section 1.15
    over = pl.read_parquet(folder / "published_shares.parquet").filter(over="size")
    assert over["size"].to_list() == ["70m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b"]


def test_predict_reaches_what_the_planted_duplicates_allow(study) -> None:
    """Only duplicates tell: ROC AUC is P(more) + P(as many) / 2 of the two laws they are of."""
    words = said(study, "predict")
    assert "No model was asked" in words
    assert "Left out, being unknown or the same for every sequence: n_similar, n_near." in words
    memorized = np.array(synthetic._DUPLICATES_MEMORIZED) / sum(synthetic._DUPLICATES_MEMORIZED)
    other = np.array(synthetic._DUPLICATES_OTHER) / sum(synthetic._DUPLICATES_OTHER)
    below = np.concatenate([[0.0], np.cumsum(other)[:-1]])
    planted = float(memorized @ (below + other / 2))
    scores = apart(pl.read_parquet(study / "analysis" / "predict" / "scores.parquet"))
    row = scores.filter(model="baseline", figure="roc_auc", category="all").row(0, named=True)
    # The interval of the test rows, and what twelve features without a sign cost the fit.
    assert row["value_low"] - 0.03 < planted < row["value_high"] + 0.03
    assert planted == pytest.approx(0.93, abs=0.01)
    weights = pl.read_parquet(study / "analysis" / "predict" / "weights.parquet")
    weights = weights.filter(model="baseline").sort(pl.col("weight").struct.field("value").abs())
    assert weights["feature"][-1] == "duplicates"


def _published(logprobs: np.ndarray, tokens: np.ndarray) -> pl.DataFrame:
    """The published rule: both halves by the tokens of the whole, less one a token id 0."""
    found = []
    for row, n in zip(logprobs, logprobs.shape[1] - (tokens == 0).sum(axis=1), strict=True):
        halves = [row[: n // 2].sum(), row[n // 2 : n].sum()]
        found.append([float(np.exp(-nats / n)) for nats in (*halves, sum(halves))])
    return pl.DataFrame(found, [f"published_{name}" for name in PERPLEXITIES], orient="row")


def test_perplexities_of_the_data_set_are_mended_to_our_own() -> None:
    """The published rule and back again, token ids 0 among the sequences; -1 is no perplexity."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 9, (12, 64)).astype(np.int32)
    logprobs = -generator.exponential(size=(12, 63))
    frame, own = _published(logprobs, tokens), three_perplexities(logprobs)
    for name, values in own.items():
        assert given_perplexities(frame, tokens)[name] == pytest.approx(values)
    assert own["prompt_perplexity"] == pytest.approx(np.exp(-logprobs[:, :31].mean(axis=1)))
    assert own["generation_perplexity"] == pytest.approx(np.exp(-logprobs[:, 31:].mean(axis=1)))
    early = three_perplexities(logprobs, 48)  # tokens of the prefix
    assert early["prompt_perplexity"] == pytest.approx(np.exp(-logprobs[:, :47].mean(axis=1)))
    assert early["generation_perplexity"] == pytest.approx(np.exp(-logprobs[:, 47:].mean(axis=1)))
    tokens[0, 5:9] = 0  # four trailing tokens are not counted: 59 are, 29 of the first half
    frame = _published(logprobs, tokens)
    found = given_perplexities(frame, tokens)
    assert found["prompt_perplexity"][0] == pytest.approx(np.exp(-logprobs[0, :29].mean()))
    assert found["generation_perplexity"][0] == pytest.approx(np.exp(-logprobs[0, 29:59].mean()))
    broken = frame.with_columns(published_prompt_perplexity=pl.lit(-1.0))
    assert np.isnan(given_perplexities(broken, tokens)["prompt_perplexity"]).all()


def test_rare_classes_do_not_weigh_more_than_their_due(source, tmp_path) -> None:
    """Few of a class are kept: all of the rare ones, so shares come from a sample by label."""
    folder = tmp_path / "study"
    few = [f"label.{name}" for name in ("n_train=40", "n_eval=10", "minimum=6")]
    sets = [one for option in few for one in ("--set", option)]
    run_verb("sequences", source, *SPLIT, *sets, "-o", folder)
    run_verb("features", folder)
    opened = Study(folder)
    kept, plain = opened.sequences, rows_for(opened, entry_named("predict"))
    assert plain.table["is_memorized"].sum() == 100  # 2 x (40 + 10)
    assert plain.table.height == 200 < kept.height
    assert "50.0 % of them" in plain.lines[1]
    n_memorized = (whole(source)["memorization_score"] == 1).sum()
    share = 100 * n_memorized / whole(source).height
    assert f"{share:.1f} % of the whole split" in plain.lines[1]
    assert rows_for(opened, entry_named("neurons")).table.height == kept.height
    run_verb("analyze", "dependencies", folder, "--set", "n_resamples=50")
    shares = apart(pl.read_parquet(folder / "analysis" / "dependencies" / "proportions.parquet"))
    assert shares["n"].sum() == 100
    row = shares.filter(category="Recite[5]").row(0, named=True)
    assert row["share_low"] < 0.84 < row["share_high"]
    of_kept = kept.filter("published_is_memorized")["duplicates"] > 5
    assert of_kept.mean() < row["share"] - 0.05  # what all kept rows would have said


def test_without_a_model_what_needs_one_says_so(study, source, tmp_path, refused) -> None:
    (tmp_path / "a.txt").write_text("text " * 100)
    out = tmp_path / "out"
    for words, said in (
        (("analyze", "boundary", study), "has none (model.name none). Make a study with one: --m"),
        (("continue", study), "the study has none"),
        (("analyze", "predict", study, "--corpus", source), "the study has none"),
        (
            ("sequences", tmp_path / "a.txt", "--model", "none", "-o", out),
            "only a split of usvsnsp/semantic-filters is read without a model",
        ),
        (("run", "--sequences", source, *SPLIT, "-o", out), "'mnemoscope sequences SOURCE"),
    ):
        assert said in refused(*words, "-q")
    for name in ("boundary", "levels", "trigger", "neurons"):
        assert "has none (model.name none)" in refused("analyze", name, study, "-q")
        assert not (study / "analysis" / name).exists()
    assert not out.exists()


ONE = pl.col("frequencies").list
LETTERS = pl.lit("a").alias("sequence_perplexity"), pl.lit(0).alias("loss")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ([ONE.head(63)], "column 'frequencies', row 0: 64 counts"),
        (LETTERS, "column 'sequence_perplexity': String where numbers are needed"),
        (None, "needs perplexities"),
    ],
)
def test_a_copy_without_perplexities_or_with_torn_counts_is_refused(
    source, tmp_path, refused, change, said
) -> None:
    copy, folder = tmp_path / "copy", tmp_path / "study"
    (copy / "data").mkdir(parents=True)
    for path in (source / "data").glob("*.parquet"):
        frame = pl.read_parquet(path)
        frame = frame.drop(PERPLEXITIES) if change is None else frame.with_columns(*change)
        frame.write_parquet(copy / "data" / path.name)
    words = "sequences", copy, *SPLIT, "-o", folder
    if change is None:
        run_verb(*words)
        run_verb("features", folder)
        words = "analyze", "predict", folder
    assert said in refused(*words)


def test_frequencies_of_a_split_are_the_planted_ones(own_study, call) -> None:
    """Two thirds of 240 are the model's own continuations."""
    # Mean of count(first of the suffix) - count(last of the prefix), from the files' lists.
    result = call("analyze", "boundary", own_study, "--set", "tolerance=0.12", "-q")
    assert result.status == 0, result.err
    table = Study(own_study).sequences
    memorized = table.filter("is_memorized")["published_frequencies"].to_list()
    counts = np.array(memorized, dtype=np.float64)
    columns = pl.col("tokens").explode(), pl.col("published_frequencies").explode()
    total = table.select(*columns).unique()["published_frequencies"].sum()
    found = apart(pl.read_parquet(own_study / "analysis" / "boundary" / "differences.parquet"))
    row = found.filter(what="frequency", group="memorized").row(0, named=True)
    assert row["n"] == 160
    planted = 100 * (counts[:, 32] - counts[:, 31]).mean() / total
    assert row["difference"] == pytest.approx(planted, rel=1e-6)
    assert "the data set's own" in result.out
