"""Each ground of an audit against what the embedded model was trained on, on two halves.

python -m experiments.audits.grounds [--half 1] [--halves FOLDER] [--keep]
python -m experiments.audits.grounds --only-unread [--keep]

The halves share no near duplicate and no form of template. One half is asked; the CNNs come from a
study of the other. `--halves` keeps what each half said and reads it where it is there already;
`--half` makes one of them, without tables; `--keep` stores the results and writes their pages.
`--only-unread` asks prose and code that nobody trained on, without the halves.
"""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from experiments.audits.finds import share_drawn
from experiments.pages import publish, results_of
from mnemoscope.audits.documents import Document
from mnemoscope.audits.ground import read_ground, recall_probabilities, study_settings
from mnemoscope.audits.local import continue_windows, local_audit
from mnemoscope.audits.needs import copied_shares
from mnemoscope.audits.passages import passage_table
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.rule import MOST_COPIED, rule_windows
from mnemoscope.audits.run import ask_questions
from mnemoscope.audits.spans import Hit, Span
from mnemoscope.audits.tokens import Text, Tokens
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.flow.run import run
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel
from mnemoscope.stats import separation, share_true
from mnemoscope.study.settings import EMBEDDED
from mnemoscope.taxonomy.groups import find_groups

SETTINGS = audit_settings(edits=0, near_length=0)
Half = dict[str, np.ndarray]
MOST_PAIRS = 0.03
"""Share of the text's pairs: of 2, 3 and 5 % the largest without an error of recall on half 1."""


def halves_by_group(sequences: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Two halves of the sequences, no group of near duplicates (a template's form) in both."""
    groups = find_groups(sequences)
    names = groups.unique().sort()
    is_first = groups.is_in(names.sample(len(names) // 2, seed=0).implode())
    return sequences.filter(is_first), sequences.filter(~is_first)


def ask_cnns(
    lm: LanguageModel, sequences: pl.DataFrame, windows: np.ndarray
) -> tuple[np.ndarray, str]:
    """Probabilities of windows by the CNNs of a study of sequences, and its calibration."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "others.parquet")
        sequences.write_parquet(source)
        settings = study_settings(str(source), model=EMBEDDED, device="cpu")
        ground = read_ground(run(settings, Path(folder, "study"), until="train"))
        found = np.array(recall_probabilities(ground, lm, windows, batch_size=64))
    fit, measured = ground.facts["calibration"], ground.facts["measured"]
    auc, brier, raw = (measured[one]["value"] for one in ("auc", "brier", "brier_uncalibrated"))
    said = (
        f"study of {sequences.height:,} other sequences ({ground.facts['sequences']}), "
        f"{len(ground.cnns)} CNNs; calibration {fit['method']} {fit['temperature']}, chosen on "
        f"{fit['n_guess']} Guess + {fit['n_recall']} Recall by {fit['brier_by_method']}; "
        f"cross-fitted ECE {measured['ece']:.3f} (as it was "
        f"{measured['ece_uncalibrated']:.3f}), Brier {brier:.3f} ({raw:.3f}), "
        f"AUC against the rule {auc:.3f}"
    )
    return found, said


def ask_half(
    lm: LanguageModel,
    reference: LanguageModel,
    asked: pl.DataFrame,
    others: pl.DataFrame,
    n_sequences: int,
) -> Half:
    """What every ground says of sequences that the model reproduces; CNNs trained on others."""
    half = n_sequences // 2
    is_new_template = pl.col("held_out") & (pl.col("genre") == "template")
    kinds = [asked.filter(pl.col("duplicates") > 5), asked.filter(is_new_template)]
    pool = pl.concat([one.sample(min(3 * half, one.height), seed=0) for one in kinds])
    windows = np.array(pool["tokens"].to_list(), dtype=np.int32)
    is_memo = np.concatenate(
        [one.is_memorized for one in scan_memorized(lm, windows, batch_size=64)]
    )
    is_trained = (~pool["held_out"]).to_numpy()
    rows = np.concatenate(
        [np.flatnonzero(is_memo & kind)[:half] for kind in (is_trained, ~is_trained)]
    )
    windows = windows[rows]
    places = np.arange(64)
    rulings = rule_windows(lm.tokenizer, windows, prefix=32, patterns="published")
    texts, spans = [], []
    for number, ruling in enumerate(rulings):
        hit = Hit(0, 32, 1.0, windows[number, 32:].tolist(), None, (32, 64), ruling)
        spans.append((number, Span(32, 64, ruling.verdict, hit, 1, 32, False)))
        own = Tokens(windows[number], places, places + 1)
        texts.append(Text(Document(str(number), "x" * 64, ""), own))
    audit = local_audit(lm, [], SETTINGS, reference=reference)
    audit.texts = texts
    audit.passages = passage_table(texts, spans, SETTINGS, audit.tokenizer)
    ask_questions(audit)
    found = audit.passages
    evenly = torch.ones(len(windows), 1, 64, 64)
    probability, calibration = ask_cnns(lm, others, windows)
    return {
        "is_trained": is_trained[rows],
        "rule": np.array([one.verdict == "recall" for one in rulings]),
        "rouge": -np.array([max(one.rouge_l, one.rouge_3) for one in rulings]),
        "score": found["reference_score"].to_numpy(),
        "ratio": 32 * found["log_likelihood_ratio"].to_numpy(),
        "grafts": (found["grafts_survived"] / found["grafts"]).to_numpy(),
        "copied": found["needed_copied"].to_numpy(),
        "pairs": copied_shares(windows, evenly, prefix=32),
        "group": np.array(find_groups(pool[rows]).to_list()),
        "characters": np.array(
            [len(one) for one in lm.tokenizer.batch_decode(windows[:, 32:].tolist())]
        ),
        "probability": probability,
        "calibration": np.array(calibration),
    }


def grounds_of(half: Half) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """What each ground says, (n,) bool, and its graded figure, (n,) or None, by its name."""
    rule, grafts = half["rule"], half["grafts"] <= 0.5
    cnn, reference = half["probability"] >= 0.5, half["score"] < SETTINGS.threshold
    needs = half["copied"] < MOST_COPIED

    def two(third: np.ndarray) -> np.ndarray:
        return np.asarray(rule.astype(int) + third + reference >= 2)

    def unless(third: np.ndarray) -> np.ndarray:
        return np.asarray(rule & (reference | third))

    return {
        "rule": (rule, half["rouge"]),
        "CNN": (cnn, half["probability"]),
        "reference": (reference, half["ratio"]),
        "grafts: at most half of the parts survived": (grafts, -half["grafts"]),
        "needs: less than a tenth is read off the text": (needs, -half["copied"]),
        "control of needs: few pairs of the text, no model": (
            half["pairs"] < MOST_PAIRS,
            -half["pairs"],
        ),
        "rule and CNN": (rule & cnn, None),
        "rule or CNN": (rule | cnn, None),
        "rule and reference": (rule & reference, None),
        "rule or reference": (rule | reference, None),
        "CNN and reference": (cnn & reference, None),
        "rule and grafts": (rule & grafts, None),
        "rule or grafts": (rule | grafts, None),
        "reference and grafts": (reference & grafts, None),
        "rule and needs": (rule & needs, None),
        "rule or needs": (rule | needs, None),
        "reference and needs": (reference & needs, None),
        "two of rule, CNN, reference": (two(cnn), None),
        "two of rule, reference, grafts": (two(grafts), None),
        "two of rule, reference, needs": (two(needs), None),
        "**rule, unless reference and CNN say guess**": (unless(cnn), None),
        "**rule, unless reference and grafts say guess**": (unless(grafts), None),
        "**rule, unless reference and needs say guess**": (unless(needs), None),
    }


def by_passage(
    halves: list[Half], truth: list[np.ndarray], names: list[str]
) -> dict[str, dict[str, Any]]:
    """Each ground against a truth, one for each half.

    Of each half its `auc` (null without a graded figure) and, with their intervals, `right` of
    those called recall and `found` of the true ones; over both how many it judges right where the
    rule is wrong (`better`), and the other way (`worse`).
    """
    rows = {}
    for name in names:
        row: dict[str, Any] = {"auc": [], "right": [], "found": [], "better": 0, "worse": 0}
        for half, true in zip(halves, truth, strict=True):
            (says, graded), group = grounds_of(half)[name], half["group"]
            right, rule = says == true, half["rule"] == true
            row["better"] += int((right & ~rule).sum())
            row["worse"] += int((~right & rule).sum())
            n = int((says & true).sum())
            row["auc"].append(None if graded is None else auc(true, graded, group))
            row["right"].append([n, int(says.sum()), *ends(true[says], group[says])])
            row["found"].append([n, int(true.sum()), *ends(says[true], group[true])])
        rows[name] = row
    return rows


def by_character(halves: list[Half], names: list[str]) -> dict[str, dict[str, Any]]:
    """Shares by character, where the truth is what was trained on: `right` and `found`."""
    rows = {}
    for name in names:
        row: dict[str, Any] = {"right": [], "found": []}
        for half in halves:
            says, true, size = grounds_of(half)[name][0], half["is_trained"], half["characters"]
            both = size * (says & true)
            for key, own in (("right", says), ("found", true)):
                share = share_drawn(both[own], size[own], half["group"][own])
                row[key].append(rounded(share))
        rows[name] = row
    return rows


def unread(lm: LanguageModel, sequences: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Of each kind of text that is no list and was not trained on: sequences, what came out."""
    held, rows = sequences.filter(pl.col("held_out"), form="plain"), {}
    for kind in ("prose", "code", "record"):
        own = held.filter(genre=kind)
        windows = np.array(own["tokens"].to_list(), dtype=np.int32)
        made = continue_windows(
            lm, windows, prefix=SETTINGS.prefix, n_allowed=SETTINGS.n_allowed, batch_size=64
        )
        n = sum(int((one.score >= SETTINGS.threshold).sum()) for one in made)
        counts = {"sequences": own.height, "documents": own["document"].n_unique()}
        rows[kind] = counts | {"came_out": n}
    return rows


def ends(flags: np.ndarray, group: np.ndarray) -> list[float]:
    """The ends of the interval of the share of true flags."""
    return rounded(share_true(flags, group))[1:]


def auc(truth: np.ndarray, graded: np.ndarray, group: np.ndarray) -> list[float]:
    """AUC with an interval over groups of near duplicates."""
    return rounded(separation(-graded, truth, seed=0, n_resamples=1000, groups=group).auc)


def rounded(figures: Iterable[float | None]) -> list[float]:
    return [round(float(one), 4) for one in figures if one is not None]


def facts_of(half: Half) -> dict[str, Any]:
    """What a half holds, and how its CNNs were calibrated."""
    trained, group = half["is_trained"], half["group"]
    return {
        "sequences": len(trained),
        "trained": int(trained.sum()),
        "groups_trained": len(np.unique(group[trained])),
        "groups_never": len(np.unique(group[~trained])),
        "reference": int((half["score"] >= SETTINGS.threshold).sum()),
        "calibration": str(half["calibration"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=240)
    parser.add_argument("--half", type=int, choices=[1, 2], help="make one half, without tables")
    parser.add_argument("--halves", type=Path, help="a folder for what each half said")
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    parser.add_argument("--only-unread", action="store_true", help="ask unread texts alone")
    wanted = parser.parse_args()
    lm = load_model(str(model_path()), device="cpu")
    sequences = pl.read_parquet(sequences_path())
    if wanted.only_unread:
        kept = results_of("audits") | {"unread": unread(lm, sequences)}
        publish("audits", kept, keep=wanted.keep)
        return
    reference = load_model(str(reference_path()), device="cpu")
    halves = []
    for number in [wanted.half] if wanted.half else [1, 2]:
        kept = wanted.halves and wanted.halves / f"half-{number}-{wanted.sequences}.npz"
        if kept is None or not kept.is_file():
            asked, others = halves_by_group(sequences)[:: 1 if number == 1 else -1]
            half = ask_half(lm, reference, asked, others, wanted.sequences)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                np.savez(kept, **half)  # type: ignore[arg-type]  # taken for allow_pickle
        else:
            half = dict(np.load(kept))
        print(f"half {number}: {facts_of(half)}", flush=True)
        halves.append(half)
    if wanted.half:
        return
    names = list(grounds_of(halves[0]))
    apart = [one for one in names[:8] if one != "reference"]
    not_by_reference = [half["score"] < SETTINGS.threshold for half in halves]
    found = {
        "model": lm.fingerprint,
        "halves": [facts_of(one) for one in halves],
        "trained": by_passage(halves, [half["is_trained"] for half in halves], names),
        "reference": by_passage(halves, not_by_reference, apart),
        "characters": by_character(halves, [*names[:6], *names[-3:]]),
        "unread": unread(lm, sequences),
    }
    publish("audits", results_of("audits") | found, keep=wanted.keep)


if __name__ == "__main__":
    main()
