"""The stage `search` on planted maps: it finds what attention follows, and says when that is text.

No language model: a study folder is written as the stages before would have left it.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from map_folders import add_shard
from mnemoscope.benchmark.baselines import blind_maps
from mnemoscope.cnn.presets import PRESETS
from mnemoscope.data.features import add_features
from mnemoscope.data.table import fill_columns
from mnemoscope.errors import UserError
from mnemoscope.flow.run import run_stage
from mnemoscope.maps.format import StoreMeta
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.maps.triangle import unpack_triangle
from mnemoscope.report.tables import search_tables
from mnemoscope.search import climb
from mnemoscope.search.climb import Candidate, candidate_of, mean_prior, perplexities, searched_rows
from mnemoscope.search.found import final_verdict, search_words
from mnemoscope.stats import NO_ESTIMATE, Estimate, rows_of
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import StudySettings
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy
from mnemoscope.words import points

pytestmark = pytest.mark.whole

N, LENGTH = 600, 16
QUICK = replace(PRESETS["small"], epochs=1, min_steps=80, learning_rate=5e-3)
NODES = """\
nodes:
  - name: Hidden
    yes_when: hidden > {threshold}
    meaning: the hidden feature is above {threshold}
    thresholds: [0.2, 0.5, 0.8]
"""


@cache
def make_table() -> pl.DataFrame:
    """A third not memorized; a hidden feature that no text shows, and texts of two kinds."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 60, (N, LENGTH)).astype(np.int32)
    memorized = np.arange(N) % 3 > 0
    for period, turn in ((4, 0), (8, 1)):  # memorized texts repeat, half of them sooner
        rows = memorized & (np.arange(N) % 2 == turn)
        tokens[rows] = np.tile(tokens[rows, :period], LENGTH // period)
    frame = pl.DataFrame(
        {
            "sequence_id": np.arange(100, 100 + N),
            "tokens": pl.Series(tokens.tolist(), dtype=pl.List(pl.Int32)),
            "text": [" ".join(map(str, row)) for row in tokens.tolist()],
            "duplicates": generator.integers(1, 30, N),
            "is_code": generator.random(N) < 0.5,
            "hidden": generator.random(N),
            "is_memorized": memorized,
            "memorization_score": memorized.astype(np.float64),
            "continuation": pl.Series(
                generator.integers(1, 60, (N, LENGTH // 2)).tolist(), dtype=pl.List(pl.Int32)
            ),
        }
    )
    return add_features(frame, length=LENGTH)


def random_weights(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(N, 2, LENGTH, LENGTH, generator=generator)
    return scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf).softmax(-1)


def normal(weights: torch.Tensor) -> torch.Tensor:
    return weights / weights.sum(-1, keepdim=True)


def marked_by_hidden(table: pl.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
    """The model attends to one place where the hidden feature is high, to another otherwise."""
    weights = random_weights(0)
    memorized = torch.from_numpy(table["is_memorized"].to_numpy().copy())
    high = memorized & torch.from_numpy((table["hidden"] > 0.5).to_numpy().copy())
    weights[high, 0, 10:14, 0:3] += 1
    weights[memorized & ~high, 1, 10:14, 5:8] += 1
    return normal(weights), random_weights(1)


def shown_text(table: pl.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
    """Both models' attention is a function of the text and of nothing else."""
    tokens = np.array(table["tokens"].to_list())
    own = ~table["is_memorized"].to_numpy()
    tokens[own, LENGTH // 2 :] = np.array(table["continuation"].to_list())[own]
    maps = unpack_triangle(blind_maps(tokens).read(torch.arange(N))).float()
    even = torch.ones(LENGTH, LENGTH).tril()
    return normal(maps + 0.1 * even), normal(maps + 0.3 * even)


NEAR = ("shingle", "jaccard", "groups", "sequences_with_relatives", "largest_group")
COUNTS = {
    "sequences": {"given": []},
    "label": {
        **dict.fromkeys(("distinct_sequences", "distinct_maps", "maps_without_sharing"), 0),
        "aliases": {},
        "samples": [],
        "near_duplicates": dict.fromkeys(NEAR, 0),
    },
}
"""What the stages before a search write into their manifests."""


def plant(folder: Path, maps: tuple[torch.Tensor, torch.Tensor], table: pl.DataFrame) -> Study:
    """A study whose capture is done."""
    nodes = folder.with_name(f"{folder.name}-nodes.yaml")
    nodes.write_text(NODES)
    values = {
        "model": {"name": "planted"},
        "sequences": {"length": LENGTH},
        "capture": {"reference": "planted-reference"},
        "train": {"kernels": [3], "filters": [6], "workers": 1},
        "benchmark": {"n_resamples": 200},
        "search": {
            "nodes": ["Recite[14..16]", "Code", str(nodes)],
            "classes": [3],
            "candidates": 9,
            "finalists": 2,
            "seeds": [0],
            "baselines": ["Non-Memo, Recite[15], Recollect"],
        },
    }
    study = Study.create(folder, StudySettings.model_validate(values))
    unset = ("revision", "device_map", "quantization", "bos_id", "max_positions")
    facts = dict.fromkeys(unset)
    facts |= {"dtype": "float32", "device": "cpu", "n_layers": 2, "n_heads": 1, "vocab_size": 256}
    for role, weights in zip(("model", "reference"), maps, strict=True):
        study.remember_model(role, facts | {"name": role, "fingerprint": role})
        writer = MapWriter(folder / "maps" / role, StoreMeta(2, LENGTH, {"weights": role}))
        suffixes = ["true" if one else "own" for one in table["is_memorized"]]
        add_shard(writer, table["sequence_id"].to_numpy(), suffixes, mean=weights, max=weights)
    for stage in ("sequences", "continue", "features", "label", "capture"):
        with study.finishing(stage) as counts:
            counts |= COUNTS.get(stage, {})
            if stage == "sequences":
                study.write("sequences.parquet", table)
    return Study(folder)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Maps of 16 tokens need fewer steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small", QUICK)
        patch.setitem(PRESETS, "brief", replace(QUICK, min_steps=30))
        yield


@pytest.fixture(scope="module")
def found(quick, tmp_path_factory) -> Study:
    """A finished search where attention follows the hidden feature."""
    folder = tmp_path_factory.mktemp("search") / "study"
    study = plant(folder, marked_by_hidden(make_table()), make_table())
    run_stage(study, "search")
    return Study(folder)


def best_of(table: pl.DataFrame) -> dict:
    (best,) = rows_of(table.filter(place=1))
    return best


def test_the_search_finds_what_attention_follows(found) -> None:
    table = found.read("search.parquet")
    best = best_of(table)
    (taxonomy, *_) = load_taxonomies([str(found.folder / "search.yaml")])
    assert taxonomy.name == best["taxonomy"]
    memorized = found.sequences.filter(pl.col("is_memorized"))
    is_first = label_sequences(memorized, taxonomy) == taxonomy.classes[1]
    agreement = (is_first == (memorized["hidden"] > 0.5)).mean()
    assert max(agreement, 1 - agreement) > 0.95
    # The text says nothing of the mark, so the excess is near what is left above chance.
    value, low, high = best["excess"]
    assert 0.2 < low <= value <= high
    (baseline,) = rows_of(table.filter(kind="baseline"))
    assert baseline["taxonomy"] == "Non-Memo, Recite[15], Recollect"
    # Attention shows that it is memorized, but not which of the two it is.
    assert baseline["excess"].high < low
    lead = baseline["lead"]
    assert lead.value == pytest.approx(value - baseline["excess"].value)
    assert 0 < lead.low < lead.value < lead.high
    assert best["lead"].value is None
    assert any("The found one is above it (" in line for line in search_words(found))
    asked = table.filter(kind="found")  # only finalists were asked about final
    assert asked.drop_nulls("place")["place"].to_list() == [1, 2]
    assert asked.filter(pl.col("place").is_null())["excess"].count() == 0
    counts = found.manifest("search")["counts"]
    assert asked.height + counts["untrained"] == counts["tried"] <= 9


def test_verb_and_report_show_the_search_once_it_is_finished(found, tmp_path, call) -> None:
    result = call("search", found.folder, "-q")
    assert result.status == 0
    assert result.out.startswith("Nothing to do")
    shown = " ".join(result.out.split())
    tried = found.manifest("search")["counts"]["tried"]
    said = ("had no say in the choice", f"{tried:,} different taxonomies tried", "final", "drop")
    for words in (*said, str(found.folder / "search.yaml")):
        assert words in shown
    (table,) = search_tables(found)
    best = best_of(found.read("search.parquet"))
    assert [row[1] for row in table.rows] == ["found, 1", "found, 2", "baseline"]
    assert table.rows[0][0] == best["taxonomy"]
    assert f"{100 * best['excess'].value:.1f}" in table.rows[0][3]
    assert table.rows[0][4] == points(best["full"] - best["excess"].value)
    assert all(row[2] in result.out for row in table.rows)
    shutil.copytree(found.folder, tmp_path / "copy")
    (tmp_path / "copy" / "manifests" / "search.json").unlink()
    assert not list(search_tables(Study(tmp_path / "copy")))


def test_no_group_stands_in_two_parts_and_every_class_is_as_large(found) -> None:
    rows = searched_rows(found)
    assert rows.group_by("group").agg(pl.col("part").n_unique())["part"].max() == 1
    assert set(rows["part"]) == {"train", "select", "final"}
    shares = rows.group_by("is_memorized", "part").len().sort("is_memorized", "part")
    assert min(shares["len"]) > 0.15 * N / 3
    one = candidate_of(rows, parse_taxonomy("Non-Memo, Code, Others"), found.settings.search)
    assert isinstance(one, Candidate)
    both = pl.concat([one.rows.train, one.rows.evaluation])
    for part in ("train", "select", "final"):
        sizes = both.filter(pl.col("part") == part)["class_index"].value_counts()["count"]
        assert len(sizes) == 3
        assert set(sizes) == {one.counts[part]}
        assert set(rows["part"].to_numpy()[one.positions(part)]) == {part}
    assert both["sequence_id"].n_unique() == both.height


def test_a_stopped_search_goes_on_and_gives_the_same_bytes(found, tmp_path, stopped_at) -> None:
    folder = shutil.copytree(found.folder, tmp_path / "copy")
    before = (folder / "search.parquet").read_bytes()
    lost = sorted(folder.glob("cnn/*.outcome.safetensors"))[:1]
    for name in ("search.parquet", "search.yaml", "manifests/search.json", *lost):
        (folder / name).unlink()
    with (
        stopped_at(climb.Job, "run") as trained,
        stopped_at(climb, "classify_statistics") as scored,
        stopped_at(climb, "score_grafts_again") as grafted,
    ):
        run_stage(Study(folder), "search")
    assert (len(trained), scored) == (len(lost), [])
    assert len(grafted) == 1  # what was grafted is scored once more when the search is done
    assert (folder / "search.parquet").read_bytes() == before


@pytest.mark.parametrize("objective", [pytest.param("excess", marks=pytest.mark.slow), "min_f1"])
def test_where_attention_follows_the_text_alone_nothing_is_claimed(tmp_path, objective) -> None:
    study = plant(tmp_path / "study", shown_text(make_table()), make_table())
    values = study.settings.as_dict()
    values["search"] |= {"nodes": ["Entropy"], "candidates": 4, "finalists": 1, "baselines": []}
    values["search"] |= {"objective": objective}
    run_stage(study, "search", StudySettings.model_validate(values))
    best = best_of(study.read("search.parquet"))
    if objective == "min_f1":
        assert best["min_f1"].value > 0.9  # the text, shown by attention, tells the classes apart
    assert best["excess"].low <= 0
    assert "attention shows more of it than the text" not in " ".join(search_words(study))


@pytest.mark.parametrize(
    ("ends", "n_trainings", "said"),
    [
        ((0.1, 0.3), 3, "attention shows more of it than the text gives away"),
        ((-0.3, -0.1), 3, "the text gives away more of it than attention shows"),
        ((-0.1, 0.1), 3, "an interval that spans zero"),
        ((0.1, 0.3), 1, "undecided, with one training a source"),
        ((None, None), 3, "too few near duplicates' groups"),
    ],
)
def test_the_winners_excess_takes_a_side_on_three_trainings(ends, n_trainings, said) -> None:
    best = {"excess": Estimate(0.2, *ends)}
    assert said in final_verdict(best, n_trainings)
    none = {"excess": NO_ESTIMATE}
    assert final_verdict(none, n_trainings).startswith("No control trained")


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A study whose capture is done and nothing more; a test that changes it copies it."""
    folder = tmp_path_factory.mktemp("bare") / "study"
    plant(folder, (random_weights(0), random_weights(1)), make_table())
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--node", "Entropi"], "Did you mean 'Entropy'?"),
        (["--node", "nowhere.yaml"], "no such file"),
        (["--objective", "excesss"], "'excess', 'min_f1', 'auc' or 'auc_excess'"),
        (["--candidates", "0"], "greater than or equal to 1"),
        (["--set", "search.classes=[5]"], "3 or 4"),
        (["--set", "search.minimum=500", "--candidates", "1"], "too few sequences"),
        (["--set", "search.baselines=[Non-Memo, Gues, Recall]"], "Non-Memo"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(refused, bare, arguments, said) -> None:
    before = (bare / "study.yaml").read_text()
    assert said in refused("search", bare, "-q", *arguments)
    assert not (bare / "search.parquet").exists()
    (bare / "study.yaml").write_text(before)


def test_without_optuna_the_extra_is_named(refused, bare, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    # Said before the stages, and so torch, are loaded.
    monkeypatch.setattr("mnemoscope.cli.study.stage_verb", lambda *_, **__: pytest.fail("loaded"))
    assert "optuna>=4.0" in refused("search", bare, "-q")


def test_perplexity_and_prior_are_those_of_the_logits(tiny) -> None:
    from mnemoscope.lm.load import load_model

    model = load_model(str(tiny.model))
    tokens = np.array(pl.read_parquet(tiny.table)["tokens"].to_list()[:4], dtype=np.int32)
    with torch.inference_mode():
        logits = model.model(torch.from_numpy(tokens).long()).logits.double().log_softmax(-1)
    own = logits[:, :-1].gather(2, torch.from_numpy(tokens[:, 1:]).long()[..., None])[..., 0]
    before, after = perplexities(model, tokens, batch_size=2, prefix=32)
    # Four decimals: the model computes in float32.
    assert np.allclose(before, np.exp(-own[:, :31].mean(1)), rtol=1e-4)
    assert np.allclose(after, np.exp(-own[:, 31:].mean(1)), rtol=1e-4)
    itself = mean_prior(model, tokens, np.arange(4)[None], batch_size=2, prefix=32)
    assert np.allclose(itself, own[:, 31:].sum(1), rtol=1e-4)
    two = mean_prior(model, tokens, np.array([[0, 1, 2, 3], [1, 0, 3, 2]]), batch_size=4, prefix=32)
    other = mean_prior(model, tokens, np.array([[1, 0, 3, 2]]), batch_size=4, prefix=32)
    assert np.allclose(two, np.log((np.exp(itself) + np.exp(other)) / 2), rtol=1e-4)


def test_measures_of_the_model_are_kept_and_everything_can_be_captured(
    tiny, study_at, monkeypatch
) -> None:
    from mnemoscope.flow.run import run
    from mnemoscope.study.settings import load_settings

    values = load_settings(tiny.yaml).as_dict()
    values["label"] |= {"n_train": 8, "n_eval": 4}
    values["search"] |= {"nodes": ["Prior", "PrefixPerplexity"], "capture_all": True}
    values["search"] |= {"other_prefixes": 2, "minimum": 60, "candidates": 1}
    study = run(StudySettings.model_validate(values), study_at("features"), until="capture")
    n_before = len(MapStore(study.folder / "maps" / "model"))
    with pytest.raises(UserError, match="too few sequences"):  # 160 memorized, 60 a class and part
        run_stage(study, "search")
    (kept,) = study.folder.glob("search/measures-*.parquet")
    measured = pl.read_parquet(kept).drop("suffix_perplexity", strict=False)
    table = fill_columns(Study(study.folder).sequences, measured)
    n_memorized = int(table["is_memorized"].sum())
    for role in ("model", "reference"):
        stored = MapStore(study.folder / "maps" / role).index.filter(pl.col("suffix") == "true")
        assert stored.height == n_memorized > n_before
    assert (table["prior_gain"].is_not_null() == table["is_memorized"]).all()
    taxonomy = parse_taxonomy("Non-Memo, Prior[>0], PrefixPerplexity[<=300], Others")
    assert label_sequences(table, taxonomy).null_count() == 0
    # What the model continued itself is likelier after its own prefix than after others.
    assert (table["prior_gain"] > 0).sum() > 0.9 * n_memorized
    monkeypatch.setattr(climb, "perplexities", None)  # would fail if it were asked again
    with pytest.raises(UserError, match="too few sequences"):
        run_stage(study, "search")


@pytest.mark.parametrize(
    ("preset", "brief"), [("small", "brief"), ("as_run", "brief"), ("rows", "rows")]
)
def test_the_brief_rung_sees_rows_where_the_study_does(preset, brief, monkeypatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(climb, "_train", lambda _, __, rung: seen.append(rung.preset))
    study = SimpleNamespace(folder="study", settings=StudySettings(train={"preset": preset}))
    with pytest.raises(UserError, match="brief rung"):
        climb._climb(study, [], [])
    assert seen == [brief]
