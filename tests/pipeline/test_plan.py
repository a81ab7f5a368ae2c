"""The dry run: published shapes and counts, bounds that hold, and the store's own formula."""

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t
from torch.utils.flop_counter import FlopCounterMode

from map_folders import add_shard
from mnemoscope.benchmark.gain import OF_TRAINING, SPREAD, SPREADS, expected_seen
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.errors import UserError
from mnemoscope.maps.format import StoreMeta
from mnemoscope.maps.shape import map_bytes
from mnemoscope.maps.store import MapWriter
from mnemoscope.pipeline import need
from mnemoscope.pipeline.need import bound_need, count_need
from mnemoscope.pipeline.passes import memory_bytes
from mnemoscope.plan import Plan, plan
from mnemoscope.study.cost import Counts, Need
from mnemoscope.study.settings import StudySettings, parse_settings
from mnemoscope.study.shapes import find_shape, shape_facts
from mnemoscope.study.stages import stage_named
from mnemoscope.taxonomy.catalogue import catalogue, load_taxonomies
from mnemoscope.taxonomy.names import distinct_partitions, parse_taxonomy
from mnemoscope.taxonomy.sample import SampleKey

PYTHIA_12B = "EleutherAI/pythia-12b-deduped"
PUBLISHED = {"source": "usvsnsp/semantic-filters", "split": "deduped_12b"}
PAPER = {
    "model": {"name": PYTHIA_12B, "dtype": "float16", "device": "cuda"},
    "sequences": PUBLISHED,
    "continue": {"scan": True},
    "label": {"taxonomies": ["catalogue"], "split": "row"},
    "train": {"preset": "as_written"},
}


def chosen(**changes: dict) -> StudySettings:
    """The paper's settings with some exchanged."""
    merged = {key: {**PAPER.get(key, {}), **changes.get(key, {})} for key in {*PAPER, *changes}}
    return parse_settings(merged, where="test")


def text(made: Plan) -> str:
    return "\n".join([*made.lines, *map(" | ".join, made.rows), *made.notes])


def rows_of(settings: StudySettings, folder) -> dict[str, str]:
    return {row[0]: row[1] for row in plan(settings, folder).rows}


def from_file(path) -> dict:
    return {"source": str(path), "split": None}


@pytest.mark.parametrize("size", shape_facts("pythia")["models"])
def test_shapes_give_the_published_numbers_of_parameters_and_memory(size) -> None:
    """GPT-NeoX: 12 h² + 13 h a layer, 2 h for the last norm, embeddings at both ends."""
    shape = find_shape(f"EleutherAI/pythia-{size}-deduped")
    h = shape.hidden
    wanted = shape.n_layers * (12 * h * h + 13 * h) + 2 * h + 2 * shape.vocabulary * h
    assert shape.n_parameters == wanted
    assert find_shape(f"pythia-{size}") == shape
    half, float32, more = (
        memory_bytes(shape, dtype=dtype, batch_size=size, length=64, suffix=32)
        for dtype, size in (("float16", 64), ("float32", 64), ("float16", 128))
    )
    assert half[0] * 2 == float32[0] == 4 * shape.n_parameters
    assert more[1] == 2 * half[1]


def test_a_store_takes_what_the_formula_says(tmp_path) -> None:
    """But for a header a shard and the index: below 2 % at 256 sequences of 4 layers."""
    for n_layers, length in ((4, 64), (9, 40)):
        folder = tmp_path / str(length)
        maps = torch.rand(256, n_layers, length, length).tril()
        writer = MapWriter(folder, StoreMeta(n_layers, length))
        add_shard(writer, range(256), "true", mean=maps, max=maps)
        taken = sum(path.stat().st_size for path in folder.iterdir())
        assert 1 <= taken / (256 * map_bytes(n_layers, length)) < 1.02
    # Weights lie in [0, 1], where float16's largest step is 2^-11, so rounding errs by 2^-12.
    assert (maps - maps.half().float()).abs().max() <= 2**-12


def test_a_scan_is_cheaper_than_decoding_and_controls_stand_apart() -> None:
    need = Need(30, 30, n_texts=25, n_own=10, how="", samples=[], impossible={})
    counts = Counts(need, n_sequences=100, n_memorized=40)
    twin = {"capture": {"reference": f"{PYTHIA_12B}@step1000"}}

    def amounts(**changes) -> dict[str, str]:
        """Forward passes of continue and capture by name."""
        costs = [stage_named(one).load_cost() for one in ("continue", "capture")]
        rows = [row for one in costs for row in one(chosen(**changes), counts).rows]
        head = "forward passes: "
        return {
            row.name.removeprefix(head): row.amount for row in rows if row.name.startswith(head)
        }

    scan, decoded = (amounts(**twin, **{"continue": {"scan": flag}}) for flag in (True, False))
    assert scan == {
        "scan, first step": "100",
        "scan, the rest": "40",
        "a draw, to compare scan and decoding": "100 × 32",
        "continuation of Non-Memo": "10 × 32",
        "capture": "30",
        "log-probabilities (control)": "25",
        "capture of the reference (control)": "30",
    }
    assert decoded["continuation"] == "100 × 32"
    assert decoded["log-probabilities (control)"] == "25"
    assert amounts()["log-probabilities (control)"] == "25"
    assert not [one for one in amounts(benchmark={"controls": False}) if "control" in one]
    cost = stage_named("continue").load_cost()(chosen(), counts)
    assert cost.n_tokens == 100 * 35 + 40 * 28 + 100 * 63  # one token is not read


FEATURES = ("duplicates", "is_incrementing", "is_repeating", "rouge_l", "rouge_3", "is_code")


def random_table(seed: int, n: int) -> pl.DataFrame:
    """Sequences with random features and verdicts."""
    rng = np.random.default_rng(seed)
    flags = {name: rng.random(n) < 0.3 for name in FEATURES[1:3]}
    return pl.DataFrame(
        {
            "sequence_id": rng.permutation(n),
            "is_memorized": rng.random(n) < 0.7,
            "duplicates": rng.choice([1, 5, 6, 40, 51, 900, 2000], n),
            **flags,
            "rouge_l": rng.integers(0, 33, n) / 32,
            "rouge_3": rng.integers(0, 31, n) / 30,
            "is_code": rng.random(n) < 0.3,
        }
    )


@settings(max_examples=2)
@given(seed=st.integers(0, 1000), n=st.integers(400, 600))
def test_what_is_drawn_lies_below_the_bound(seed, n) -> None:
    values = {"taxonomies": ["catalogue"], "split": "row", "n_train": 8, "n_eval": 4, "minimum": 6}
    whole = chosen(label=values, sequences={"source": "table.parquet", "split": None})
    bound = bound_need(catalogue(), whole, n)
    drawn = count_need(random_table(seed, n), catalogue(), whole)
    assert bound.n_least == 12 * 4  # the largest taxonomies have four classes
    assert drawn.n_least == drawn.n_maps
    assert drawn.n_maps <= bound.n_maps < 12 * sum(len(one.classes) for one in catalogue())
    names = ["Non-Memo, Recite[5], Others", "Non-Memo, Recollect[5], Others"]  # drawn once
    bound = bound_need([parse_taxonomy(name) for name in names], whole, None)
    assert bound.n_least == bound.n_maps == 36


def test_a_dry_run_without_model_and_data_says_where_its_figures_are_from(tmp_path) -> None:
    """The sums of the published pipeline from its scripts: 20 names at three δ, 27 of ρ."""
    settings = chosen()
    made = text(plan(settings, tmp_path / "study"))
    heads = [find_shape(f"pythia-{size}-deduped-v0") for size in ("12b", "6.9b", "2.8b")]
    a_sequence = sum(one.n_layers * one.n_heads * 64 * 64 * 2 for one in heads)
    of_names = 3 * (9 * 4 + 11 * 3) * 6000  # nine names of four classes, eleven of three
    terabytes = [n * a_sequence / 1e12 for n in (of_names, 27 * 3 * 6000)]
    for word in (
        "180 jobs of taxonomies are {:.1f} TB and 81 of ρ {:.1f} TB".format(*terabytes),
        "36 layers, 40 heads, 11,846,072,320 parameters (not on disk",
        "pile 5,000,000 + memories 1,871,216 rows, as published (not on disk",
        "Taxonomies: 54, 51 of them distinct",
        "sequences captured | 24,000 to 402,000 | 1,134,000",
        "67 different classes",
        "attention, a sequence | 0.30 MB, pooled | 11.8 MB, all heads",
        "attention, stored | 7.2 GB to 120.4 GB | 13.4 TB",
        "CNNs for the figures | 408 | 432",
        "assumed for cuda, not measured",
    ):
        assert word in made, made
    assert "graft" not in made
    with_twin = chosen(capture={"reference": f"{PYTHIA_12B}@step1000"})
    made = text(plan(with_twin, tmp_path / "study"))
    assert f"Reference {PYTHIA_12B}@step1000: 36 layers, 40 heads" in made
    made = text(plan(chosen(model={"name": "embeddet"}), tmp_path / "study"))
    assert "no such folder here, so taken for a name on the hub" in made
    assert "Did you mean 'embedded'?" in made
    assert "attention, stored" not in made
    assert "sequences captured" in made
    assert list(tmp_path.iterdir()) == []


def test_operations_of_the_cnns_are_those_that_torch_counts(tmp_path) -> None:
    """Below 1 % of them, in the linear layers, are left out; 54 taxonomies, eight CNNs each."""
    made = rows_of(chosen(benchmark={"controls": False}), tmp_path / "study")
    samples = distinct_partitions(load_taxonomies(["catalogue"]))
    assert made["CNNs for the figures"] == f"{8 * len(samples):,}"
    forward = 0
    for kernel, filters in product((6, 8), (10, 16)):
        network = AttentionCnn(36, 3, kernel=kernel, filters=filters).to("meta")
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 36, 64, 64, device="meta"))
        forward += 2 * counter.get_total_flops()  # mean and maximum
    n_classes = sum(len(one.classes) for one in samples)
    n_passes = 3 * 4000 * 3 + 4000 + 3 * 2000  # forward and backward, and both evaluations
    amount, unit = made["operations of all these CNNs"].split()
    assert unit == "PFLOP"
    assert float(amount) * 1e15 == pytest.approx(forward * n_classes * n_passes, rel=0.05)


def test_on_a_gpu_it_is_said_how_many_train_as_one_and_that_none_was_measured(tmp_path) -> None:
    """Two kernels by two poolings; filters together, and the control task with the first."""
    notes = plan(chosen(train={"device": "cuda"}), tmp_path / "study").notes
    (said,) = (one for one in notes if "train as one" in one)
    # 51 taxonomies; the marked maps of the planted control and the tokens are groups of their own
    assert f"{51 * (4 + 1 + 1):,} groups of up to 3 CNNs" in said
    assert "no GPU has been measured" in said
    notes = plan(chosen(train={"device": "cpu"}), tmp_path / "study").notes
    assert not any("train as one" in one for one in notes)


def test_cost_of_the_controls_is_stated_apart_and_falls_away_with_them(tmp_path) -> None:
    with_, without = (
        rows_of(chosen(benchmark=values), tmp_path / "s")
        for values in ({"control_settings": 0}, {"controls": False})
    )
    trainings, time = "trainings for the controls", "time: controls, CNNs"
    assert "Control task 459" in with_[trainings]
    assert "Blind CNNs 204" in with_[trainings]
    assert without[trainings] == "none"
    assert (time in with_, time in without) == (True, False)
    assert with_["time: CNNs"] == without["time: CNNs"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sequences": {"split": "deduped_12"}}, ["deduped_12b"]),
        ({"sequences": {"split": None}}, ["which split", "'split deduped_12b'"]),
        ({"sequences": {"source": "nowhere.parquet", "split": None}}, ["nowhere.parquet"]),
        ({"label": {"taxonomies": ["catalog"]}}, ["catalogue"]),
        ({"benchmark": {"control_taxonomies": ["Non-Memo, Recite[7], Others"]}}, ["Recite[7]"]),
    ],
)
def test_what_run_would_refuse_is_refused(changes, words, tmp_path) -> None:
    with pytest.raises(UserError) as refused:
        plan(chosen(**changes), tmp_path / "study")
    assert all(word in str(refused.value) for word in words)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="not a study"):
        plan(chosen(), tmp_path)


def test_a_table_on_disk_gives_exact_counts_or_what_it_lacks(tmp_path) -> None:
    path = tmp_path / "table.parquet"
    tokens = pl.Series("tokens", [[i % 7] * 64 for i in range(900)], dtype=pl.List(pl.Int32))
    frame = random_table(5, 900).with_columns(tokens)
    frame[:50].select("sequence_id", "tokens").write_parquet(path)
    made = text(plan(chosen(sequences=from_file(path)), tmp_path / "study"))
    assert "need 'duplicates', which the table lacks" in made
    assert "50, each scanned" in made
    assert "Power: none. 50 sequences cannot give" in made
    assert "nothing is trained" in made.splitlines()[0]
    assert "CNNs for the figures | 0 | " in made
    assert "then 4 of 8 (continue, features, label, report); the others need a CNN" in made
    assert "For a verdict give more texts." in made
    assert [one.name for one in tmp_path.iterdir()] == ["table.parquet"]
    twice = from_file(path) | {"also": [str(path)]}
    made = text(plan(chosen(sequences=twice), tmp_path / "study"))
    assert "50, each scanned" in made  # one file is read once
    assert "copies" not in made
    copy, half = (tmp_path / one for one in ("copy.parquet", "half.parquet"))
    frame[:50].select("sequence_id", "tokens").write_parquet(copy)
    new = pl.col("tokens").list.eval(pl.element() + 50 * (pl.element() > 3))
    frame[:50].select("sequence_id", new).write_parquet(half)
    other = from_file(path) | {"also": [str(copy), str(half)]}
    made = text(plan(chosen(sequences=other), tmp_path / "study"))
    assert "150, each scanned" in made
    assert f"{copy}: of 50 sequences 50 are exact copies of sequences of the sources" in made
    assert f"Leave it out: --set 'sequences.also=[{half}]'" in made
    assert f"{half}: of 50 sequences 29 are exact" in made  # it is not advised to lose the others
    assert made.count("Leave it out") == 1
    copy.unlink()
    half.unlink()
    few = [one | {"limit": 30} for one in (from_file(path), twice)]
    for made in (plan(chosen(sequences=one), tmp_path / "study") for one in few):
        assert "30, each scanned" in text(made)
        assert "For a verdict give a larger sequences.limit." in text(made)

    tokens = np.random.default_rng(0).integers(0, 99, (900, 64)).tolist()
    frame = frame.with_columns(pl.Series("tokens", tokens, dtype=pl.List(pl.Int32)))
    frame.select("sequence_id", "is_memorized", "duplicates", "tokens").write_parquet(path)
    values = {"taxonomies": ["Non-Memo, Recite[5], Others"], "n_train": 8, "n_eval": 4}
    made = text(plan(chosen(sequences=from_file(path), label=values), tmp_path / "study"))
    assert "sequences captured | 36 | \n" in made
    assert "Published: " not in made  # only beside the paper's data
    assert "Captured: " not in made
    assert "Impossible" not in made
    larger = values | {"n_train": 800, "minimum": 600}
    made = text(plan(chosen(sequences=from_file(path), label=larger), tmp_path / "study"))
    assert "Impossible if the model finds what the table says: Non-Memo, Recite[5]" in made


def test_how_gains_spread_is_read_off_what_a_benchmark_says_it_sees(monkeypatch):
    row = {"taxonomy": "A, B", "variant": "main", "is_headline": True, "n_eval": 90}
    row |= {"f1": [0.5, 0.5], "n_groups": 80, "gain_seen": 2 * expected_seen(40, 70, 2)}
    study = SimpleNamespace(is_done=lambda stage: True, benchmark=pl.DataFrame([row]))
    entry = SimpleNamespace(split_by="group", n_train=70)
    monkeypatch.setattr(need, "samples_of", lambda _: {SampleKey("A, B"): entry})
    assert need.measured_spread(study) == pytest.approx(2 * SPREAD)
    study.benchmark = study.benchmark.with_columns(gain_seen=pl.lit(None, pl.Float64))
    assert need.measured_spread(study) is None
    study.is_done = lambda stage: False
    assert need.measured_spread(study) is None


def test_assumed_spreads_are_those_of_the_studies_of_known_truth():
    """Both divide all sequences by folds; of texts that were inserted, two classes."""
    found = json.loads(Path("experiments/known_truth/results.json").read_text())["studies"]
    spreads = []
    for one in found:
        n_classes = {"inserted": 2, "unread kinds": 3}[one["study"]]
        n = one["n_groups"] // n_classes
        spreads.append(SPREAD * one["gain_seen"] / expected_seen(n, 0.8 * n, n_classes))
    assert [round(one, 2) for one in (min(spreads), max(spreads))] == list(SPREADS)


@pytest.mark.parametrize("split", ["group", "folds"])
def test_the_plan_says_what_gain_a_study_would_see_if_any(
    split: str, tmp_path, monkeypatch
) -> None:
    """Three classes; in folds all are asked, each of four fifths. Of fewer than ten none."""
    label = {"taxonomies": ["Non-Memo, Recite[5], Others"], "split": split}

    def made(**sizes) -> str:
        return text(plan(chosen(label=label | sizes), tmp_path / "study"))

    asked, trained = (400, 320) if split == "folds" else (200, 400)
    error = 0.3 * np.sqrt((1 + OF_TRAINING * asked / trained) / (3 * asked))
    sees = (t.ppf(0.975, asked - 1) + t.ppf(0.8, asked - 1)) * error
    least, most = (f"{sees * one / 0.3:.3f}" for one in SPREADS)
    words = f"With {asked} evaluation sequences of each class a study sees about {least} to {most}"
    assert words in made(n_train=400, n_eval=200)
    study = SimpleNamespace(folder=Path("earlier"))
    monkeypatch.setattr(need, "measured_spread", lambda _: 0.6)
    settings = chosen(label=label | {"n_train": 400, "n_eval": 200})
    wider = text(plan(settings, tmp_path / "study", earlier=study))
    assert f"a study sees about {2 * sees:.3f} in 80 %" in wider
    assert "Gains differ by 0.6 nats" in wider
    assert "as measured in earlier." in wider
    assert "Assumed, not measured: gains differ by 0.24 to 0.66" in made(n_train=400, n_eval=200)
    if split == "group":
        fewest = "with 7, the fewest it takes, nothing, for a verdict needs 10"
        assert fewest in made(n_train=400, n_eval=200, minimum=21)
        none = "Power: none. A verdict needs 10 evaluation sequences of each class"
        assert none in made(n_train=14, n_eval=7, minimum=6)


def test_the_published_dry_run_loads_no_torch(tmp_path, call_light) -> None:
    words = ["run", "pythia-12b.yaml", "--dry-run", "--set", "label.taxonomies=[catalogue]"]
    assert [one.status for one in call_light([words], cwd=tmp_path)] == [0]
    assert list(tmp_path.iterdir()) == []
