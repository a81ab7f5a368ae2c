"""Padded rows in a run: labels as each row alone, by other means, and no training on them."""

import html
import json

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mnemoscope.data.table import without_padding
from mnemoscope.errors import UserError
from mnemoscope.flow.run import run, run_stage
from mnemoscope.pipeline.label import nothing_to_train
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import parse_settings
from mnemoscope.taxonomy.groups import find_groups
from tiny_models import make_sequences

PREFIX, LENGTH = 12, 64


@pytest.fixture(scope="module")
def settings(tiny):
    def settings(source, **changes):
        sequences = {"prefix": PREFIX, "suffix": LENGTH - PREFIX, "pad": True}
        return parse_settings(
            {
                "model": {"name": str(tiny.model)},
                "sequences": {"source": str(source)} | sequences,
                "label": {"taxonomies": ["Non-Memo, Guess, Recall"]},
                "capture": {"reference": str(tiny.reference)},
                **changes,
            },
            where="test",
        )

    return settings


@pytest.fixture(scope="module")
def rows(tiny) -> list[list[int]]:
    """24 to 64 tokens each, two thirds of them as the model continues them."""
    table, rng = make_sequences(tiny.model, 12, prefix=PREFIX), np.random.default_rng(0)
    return [row[: rng.integers(24, 65)] for row in table["tokens"].to_list()]


@pytest.fixture(scope="module")
def studies(rows, settings, tmp_path_factory) -> dict[bool, Study]:
    """The same rows, scanned or decoded."""
    folder = tmp_path_factory.mktemp("padded")
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps({"tokens": row}) + "\n" for row in rows))
    return {
        scan: run(
            settings(source, **{"continue": {"scan": scan}}), folder / str(scan), until="label"
        )
        for scan in (False, True)
    }


@pytest.fixture(scope="module")
def alone(rows, tiny) -> list[tuple[list[int], float]]:
    """What transformers itself writes after each prefix, one row at a time, and how sure it was."""
    model = AutoModelForCausalLM.from_pretrained(tiny.model, dtype=torch.float32).eval()
    found = []
    for row in rows:
        fed, gaps = row[:PREFIX], []
        with torch.inference_mode():
            while len(fed) < len(row):
                best = model(torch.tensor([fed])).logits[0, -1].topk(2)
                gaps.append(float(best.values[0] - best.values[1]))
                fed = [*fed, int(best.indices[0])]
        found.append((fed[PREFIX:], min(gaps)))
    return found


def test_verdicts_and_scores_are_those_of_the_row_alone(rows, studies, alone) -> None:
    decoded, scanned = (studies[one].sequences for one in (False, True))
    assert decoded["continuation"].to_list() == [written for written, _ in alone]
    scores = [
        np.mean(np.array(written) == row[PREFIX:])
        for row, (written, _) in zip(rows, alone, strict=True)
    ]
    assert decoded["memorization_score"].to_list() == pytest.approx(scores, abs=1e-6)
    is_memorized = [score == 1 for score in scores]
    assert 3 < sum(is_memorized) < 9
    assert decoded["is_memorized"].to_list() == scanned["is_memorized"].to_list() == is_memorized
    gaps = decoded["smallest_gap"].to_list()
    assert gaps == pytest.approx([gap for _, gap in alone], abs=1e-4)
    for study in studies.values():
        checked = study.manifest("continue")["counts"]["scan_check"]
        assert checked == {"checked": len(rows), "disagree": 0}


def test_labels_of_others_are_checked_without_padding(
    rows, studies, settings, tmp_path, call
) -> None:
    verdicts = studies[False].sequences["is_memorized"].to_list()
    said = [not one if at < 2 else one for at, one in enumerate(verdicts)]
    lines = [
        json.dumps({"tokens": row, "is_memorized": one})
        for row, one in zip(rows, said, strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    out = tmp_path / "study"
    run(settings(tmp_path / "rows.jsonl"), out, until="sequences")
    done = call("run", "-o", out, "--check-labels", "-q")
    assert done.status == 0, done.err
    checked = pl.read_parquet(out / "label_check.parquet")
    assert checked["published_is_memorized"].to_list() == said
    assert checked["is_memorized"].to_list() == verdicts


def test_features_read_no_padding(rows, studies, tiny) -> None:
    from rouge_score.rouge_scorer import RougeScorer  # heavy

    found, scorer = studies[False].sequences, RougeScorer(["rougeL", "rouge3"])
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    for at, row in enumerate(rows):
        halves = (" ".join(f"t{one}" for one in part) for part in (row[:PREFIX], row[PREFIX:]))
        wanted = scorer.score(*halves)
        assert found["rouge_l"][at] == pytest.approx(wanted["rougeL"].fmeasure, abs=1e-12)
        assert found["rouge_3"][at] == pytest.approx(wanted["rouge3"].fmeasure, abs=1e-12)
        assert found["text"][at] == tokenizer.decode(row)
    assert without_padding(found) == rows


def test_near_duplicates_are_told_without_padding() -> None:
    rng = np.random.default_rng(0)
    short = [rng.integers(1, 50, rng.integers(3, 40)).tolist() for _ in range(60)]
    rows = [*short, *([*row, 50, 51] for row in short), *(row[: len(row) // 2] for row in short)]
    masks = [[0] * 3 + [1] * len(row) + [0] * (50 - len(row)) for row in rows]
    tokens = [[0] * 3 + row + [0] * (50 - len(row)) for row in rows]
    table = pl.DataFrame(
        {"sequence_id": range(len(rows)), "tokens": tokens, "attention_mask": masks}
    )
    group = list(range(len(rows)))
    sets = [{tuple(row[at : at + 5]) for at in range(len(row) - 4)} for row in rows]
    for one in range(len(rows)):
        for other in range(one):
            both, either = len(sets[one] & sets[other]), len(sets[one] | sets[other])
            if rows[one] == rows[other] or (both and both / either >= 0.5):
                old, new = group[one], group[other]
                group = [new if name == old else name for name in group]
    pairs = pl.DataFrame({"ours": find_groups(table), "wanted": group})
    assert pairs.n_unique() == pairs["ours"].n_unique() == pairs["wanted"].n_unique() < len(rows)


def test_a_run_ends_with_labels_and_a_report(studies) -> None:
    study = studies[False]
    run(study.settings, study.folder)
    assert "of 12 sequences are padded, so nothing is trained" in str(nothing_to_train(study))
    page = (study.folder / "report.html").read_text(encoding="utf-8")
    assert "<|end|>" not in html.unescape(page)
    for stage in ("capture", "graft"):
        with pytest.raises(UserError, match="are padded"):
            run_stage(study, stage)


def test_short_texts_are_padded_and_the_shortest_counted(settings, tiny, tmp_path) -> None:
    words = "return a + b, the library of works. "
    texts = ["A.", words, words * 2, words * 20]
    source = tmp_path / "answers.jsonl"
    source.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    study = run(settings(source), tmp_path / "study", until="label")
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    ids = [tokenizer(one).input_ids for one in texts]
    windows = [ids[3][at : at + LENGTH] for at in range(0, len(ids[3]) - LENGTH + 1, LENGTH)]
    wanted = [*ids[1:3], *windows]
    assert len(ids[0]) <= PREFIX < len(ids[1]) < len(ids[2]) < LENGTH
    assert without_padding(study.sequences) == wanted
    assert study.manifest("sequences")["counts"]["too_short"] == 1
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in zip("abcd", texts, strict=True):
        (folder / f"{name}.txt").write_text(text)
    again = run(settings(folder), tmp_path / "again", until="sequences")
    assert without_padding(again.sequences) == wanted
    source.write_text(json.dumps({"tokens": list(range(1, PREFIX + 1))}) + "\n")
    with pytest.raises(UserError, match="row 0: no token before or none from column 12"):
        run(settings(source), tmp_path / "none")
    assert not (tmp_path / "none").exists()
