"""Studies whose sequences are not 32 + 32 tokens, from tokens to report by the command line."""

import json
import re

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from mnemoscope.benchmark.baselines import STATISTICS, map_statistics
from mnemoscope.data.rouge import rouge_scores
from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import continue_sequences, scan_memorized
from mnemoscope.lm.graft import grafted
from mnemoscope.lm.load import load_model
from mnemoscope.maps.store import MapStore
from mnemoscope.maps.triangle import pack_triangle, unpack_triangle
from mnemoscope.maps.views import MarkedMaps, TensorMaps
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import parse_settings
from tiny_models import make_sequences, save_model

pytestmark = pytest.mark.whole

PREFIX, SUFFIX = 48, 24


@pytest.fixture(scope="module")
def uneven(tiny, made_once):
    """A finished study of 48 + 24 tokens, with its knockout and its grafts."""
    from mnemoscope.flow.run import run

    def make(folder):
        table = make_sequences(tiny.model, 90, length=PREFIX + SUFFIX, prefix=PREFIX)
        table.write_ndjson(folder.with_suffix(".jsonl"))
        values = tiny.values | {
            "sequences": {"source": str(folder.with_suffix(".jsonl"))}
            | {"prefix": PREFIX, "suffix": SUFFIX},
            "label": tiny.values["label"] | {"n_train": 16, "n_eval": 8, "minimum": 8},
            "train": tiny.values["train"] | {"seeds": [0]},
            "knockout": {"strengths": [5.0], "n_sequences": 8, "draws": 1},
            "graft": {"parts": ["layers.0.mlp"], "n_sequences": 20, "draws": 1, "n_heldout": 10},
        }
        values["label"]["taxonomies"] = ["Non-Memo, Recite[5], Recollect"]
        settings = parse_settings(values, where="test")
        run(settings, folder, also=("knockout", "graft"))

    return Study(made_once("uneven", make))


def test_log_probabilities_are_of_the_suffix_and_of_the_prefix(tiny, uneven):
    found = uneven.read("logprobs.parquet").join(uneven.sequences, on="sequence_id")
    assert set(found["sequence_id"]) == set(uneven.read("samples.parquet")["sequence_id"])
    ids = torch.tensor(found["tokens"].to_list())
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(tiny.model)(ids).logits[:, :-1]
    every = logits.log_softmax(-1)
    suffix = every.gather(2, ids[:, 1:, None])[:, PREFIX - 1 :, 0]
    best = every.amax(-1)[:, :PREFIX]
    for name, wanted in (("logprobs", suffix), ("prefix_best", best)):
        # float32, by another attention code; log-probabilities down to about -40.
        np.testing.assert_allclose(np.array(found[name].to_list()), wanted, atol=1e-3)


def test_verdicts_and_features_are_of_this_prefix_and_suffix(uneven, tiny):
    stored = uneven.sequences.sort("sequence_id")
    tokens = np.array(stored["tokens"].to_list())
    lm = load_model(tiny.model)
    (found,) = continue_sequences(lm, tokens, batch_size=len(tokens), prefix=PREFIX)
    assert stored["continuation"].to_list() == found.tokens.tolist()
    assert stored["continuation"].list.len().unique().to_list() == [SUFFIX]
    assert stored["is_memorized"].to_list() == (found.score == 1).tolist()
    assert stored["is_memorized"].sum() >= 60
    scores = rouge_scores(tokens[:, :PREFIX], tokens[:, PREFIX:])
    assert stored["rouge_l"].to_list() == scores.rouge_l.tolist()


def test_maps_of_non_memo_show_the_prefix_and_what_the_model_wrote(uneven, tiny):
    store = MapStore(uneven.folder / "maps" / "model")
    first = store.index.filter(suffix="own").head(1)["sequence_id"].to_list()
    row = uneven.sequences.filter(pl.col("sequence_id").is_in(first)).to_dicts()[0]
    shown = np.array([row["tokens"][:PREFIX] + row["continuation"]])
    (wanted,) = capture_pooled(load_model(tiny.model), shown, batch_size=1)
    packed = store.dataset(first, "own", "mean").read(torch.arange(1))
    torch.testing.assert_close(
        unpack_triangle(packed).float(), wanted.mean.float(), atol=1e-3, rtol=0
    )


def test_blocks_and_marks_begin_where_the_suffix_does():
    maps = torch.ones(3, 2, 72, 72).tril() / torch.arange(1, 73)[:, None]
    packed = TensorMaps(pack_triangle(maps))
    values = dict(zip(STATISTICS, map_statistics(packed, PREFIX)[0, 0], strict=True))
    mean = maps[0, 0, PREFIX:, :PREFIX].mean().item()
    assert values[next(name for name in STATISTICS if "suffix" in name and "prefix" in name)] == (
        pytest.approx(mean, abs=1e-4)
    )
    marked = MarkedMaps(packed, torch.tensor([0, 1, 1]), 0.5, PREFIX).read(torch.arange(3))
    changed = (unpack_triangle(marked) != unpack_triangle(packed.read(torch.arange(3)))).any(1)
    assert not changed[0].any()
    assert changed[1].nonzero()[:, 0].unique().tolist() == list(range(PREFIX, 72))


def test_grafts_and_cuts_are_judged_by_the_suffix(uneven, tiny):
    tried = uneven.read("graft_sequences.parquet").filter(
        part="layers.0.mlp", direction="twin_in_model", control="twin"
    )
    rows = tried.join(uneven.sequences, on="sequence_id", how="left", maintain_order="left")
    model, twin = load_model(str(tiny.model)), load_model(str(tiny.reference))
    tokens = np.array(rows["tokens"].to_list())
    with grafted(model.model, twin.model, "layers.0.mlp"):
        scans = list(scan_memorized(model, tokens, batch_size=16, prefix=PREFIX))
    by_hand = np.concatenate([one.is_memorized for one in scans])
    assert rows["survives"].to_list() == by_hand.tolist()
    assert uneven.read("knockout.parquet").height > 0


def test_the_report_says_and_draws_the_border(uneven):
    page = (uneven.folder / "report.html").read_text()
    assert "was given the first 48 tokens" in page
    assert "The first 48 are the prefix" in page
    assert set(re.findall(r'data-prefix="(\d+)"', page)) == {"48"}
    assert "first 32" not in page
    said = json.loads((uneven.folder / "manifests" / "sequences.json").read_text())["settings"]
    assert (said["sequences.prefix"], said["sequences.suffix"]) == (PREFIX, SUFFIX)


@pytest.mark.parametrize(
    ("given", "prefix", "length"),
    [
        ({}, 32, 64),
        ({"length": 128}, 64, 128),
        ({"prefix": 64, "suffix": 48}, 64, 112),
        ({"prefix": 64, "suffix": 48, "length": 112}, 64, 112),
        ({"prefix": 50}, 50, 64),
        ({"suffix": 50, "length": 101}, 51, 101),
        ({"length": 65}, None, None),
        ({"prefix": 64}, 64, 128),
        ({"suffix": 64}, 64, 128),
        ({"prefix": 40, "suffix": 40, "length": 90}, None, None),
        ({"prefix": 2, "suffix": 2}, None, None),
    ],
)
def test_prefix_suffix_and_length_fit_together_or_are_refused(given, prefix, length):
    if prefix is None:
        with pytest.raises(UserError, match=r"sequences: .*length"):
            parse_settings({"sequences": given}, where="study.yaml")
        return
    wanted = parse_settings({"sequences": given}, where="study.yaml").sequences
    assert (wanted.n_prefix, wanted.length) == (prefix, length)


def test_an_answer_of_one_token_is_a_suffix_and_the_label_of_psmi(tmp_path, succeed):
    """The verdict is transformers' own best token after the prompt."""
    model = save_model(tmp_path / "model")
    prompts = np.random.default_rng(0).integers(1, 300, (60, 15))
    with torch.inference_mode():
        best = load_model(model).model(torch.from_numpy(prompts)).logits[:, -1].argmax(-1).numpy()
    is_right = np.arange(60) % 2 == 0
    answers = np.where(is_right, best, np.roll(best, 1))
    rows = np.column_stack([prompts, answers]).tolist()
    pl.DataFrame({"tokens": rows}).write_parquet(tmp_path / "prompts.parquet")
    folder = tmp_path / "study"
    sizes = ("--set", "sequences.prefix=15", "--set", "sequences.suffix=1")
    succeed(
        *("sequences", tmp_path / "prompts.parquet", "--model", model), *sizes, "-o", folder, "-q"
    )
    for verb in ("continue", "features"):
        succeed(verb, folder, "-q")
    table = Study(folder).sequences.sort("sequence_id")
    assert table["is_memorized"].to_list() == (answers == best).tolist()
    options = [f"--set={one}" for one in ("minimum=2", "n_directions=20", "n_resamples=50")]
    succeed("analyze", "psmi", folder, *options, "-q")
    labels = pl.read_parquet(folder / "analysis" / "psmi" / "sequences.parquet")["label"]
    counts = pl.Series(answers).value_counts(name="n").filter(pl.col("n") >= 2)
    assert set(labels) == set(counts[counts.columns[0]].cast(pl.String))
