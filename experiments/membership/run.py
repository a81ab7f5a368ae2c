"""Was a text read? Scores, bits and guided decoding where it is known what was read, and how often.

    python -m experiments.membership.run FOLDER [--keep]

The embedded model read passages of prose and code 0, 1, 4, 16 or 64 times, dealt at random within
each kind; its reference read others. Scores of both, beside what the text alone tells: passages of
each level against those never read; random halves of the latter; and code against prose, of which
neither was read, so that nothing can be memory. Documents of six passages are ranked among unread
ones. Text is decoded where the model goes beyond the reference. `capacity` has the bits that small
models hold of random tokens. What is done in the folder is not done again.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from experiments.membership.capacity import PUBLISHED, capacity
from experiments.pages import HERE, publish
from mnemoscope.analysis.figures import Chart, Series
from mnemoscope.audits.documents import make_document
from mnemoscope.audits.local import local_audit
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.read import ask
from mnemoscope.benchmark.membership import (
    SCORES,
    TEXT_CONTROLS,
    WITH_TWIN,
    WITHOUT_TWIN,
    PassageChances,
    bits_beyond,
    rank_p,
    score_passages,
    sum_of,
    text_controls,
    told_apart,
)
from mnemoscope.data.table import token_matrix
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.files import write_json
from mnemoscope.library.membership import documents_of
from mnemoscope.lm.continue_ import continue_guided
from mnemoscope.lm.load import load_model
from mnemoscope.lm.probe import token_chances
from mnemoscope.report.pictures import Picture, draw_figure
from mnemoscope.stats import draw_within, resampled_auc, share_of, share_true

NAME = "membership"
PICTURE = HERE.parent / "docs" / "pictures" / "bits-held.svg"
DOSES = (0, 1, 4, 16, 64)
GENRES = ("prose", "code")
PREFIX, BATCH = 32, 64
SEED = 0
OF_DOCUMENT = 6  # passages of a made document
LEVEL = 0.05
HALVES = 24
OTHERS = 60  # unread documents of the example
GUIDED = 100  # passages of a level that are decoded
STRENGTHS, PLAUSIBLE = (0.0, 0.1, 0.5, 1.0, 2.0), (0.0, 0.5)


class Truth(NamedTuple):
    """Passages with what is known of them, (n,) each, and scores in either role."""

    table: pl.DataFrame
    tokens: np.ndarray
    doses: np.ndarray
    documents: np.ndarray
    scores: dict[str, np.ndarray]
    swapped: dict[str, np.ndarray]
    bits: np.ndarray


def passages() -> pl.DataFrame:
    """Passages of prose and code whose readings were dealt at random."""
    table = pl.read_parquet(sequences_path())
    return table.filter(pl.col("genre").is_in(GENRES), form="plain").drop("group")


def truth_of(folder: Path) -> Truth:
    """All passages with the scores of model and reference; what each says is kept in the folder."""
    table = passages()
    tokens, texts = token_matrix(table), table["text"].to_list()
    said = {}
    for role, place in (("model", model_path()), ("reference", reference_path())):
        kept = folder / f"{role}.npy"
        if not kept.is_file():
            chances = token_chances(load_model(place), tokens, batch_size=BATCH)
            np.save(kept, np.stack(chances))
        said[role] = [PassageChances(*one) for one in np.load(kept).swapaxes(0, 1)]
    own, beside = said["model"], said["reference"]
    logs = {role: [one.logprobs for one in rows] for role, rows in said.items()}
    return Truth(
        table,
        tokens,
        table["inserted"].to_numpy(),
        documents_of(table),
        score_passages(own, texts, logs["reference"]),
        score_passages(beside, texts, logs["model"]),
        np.array([bits_beyond(*one) for one in zip(*logs.values(), strict=True)]),
    )


def told(truth: Truth, at: np.ndarray, read: np.ndarray) -> list[dict[str, Any]]:
    """Scores, with the roles swapped too, and controls: how well they tell the rows `at` apart."""
    texts = [truth.table["text"][int(one)] for one in at]
    groups = truth.documents[at]
    controls = text_controls(truth.tokens[at], texts, read, groups, seed=SEED)
    scores = {SCORES[name]: one[at] for name, one in truth.scores.items()}
    scores |= {f"{SCORES[name]}, roles swapped": one[at] for name, one in truth.swapped.items()}
    return [
        {**one._asdict(), **{key: [*getattr(one, key)] for key in ("auc", "tpr", "beyond")}}
        for one in told_apart(scores, controls, read, groups, seed=SEED)
    ]


def by_dose(truth: Truth) -> dict[str, Any]:
    """Every level against what was never read; of level 0 one half of the documents against."""
    half = np.random.default_rng(SEED).permutation(truth.documents.max() + 1) % 2 == 0
    found = {}
    for dose in DOSES:
        at = np.flatnonzero((truth.doses == 0) | (truth.doses == dose))
        read = half[truth.documents[at]] if dose == 0 else truth.doses[at] == dose
        here = truth.doses == dose
        whole, n = sum_of(truth.bits[here], truth.documents[here]), int(here.sum())
        found[str(dose)] = {
            "n": n,
            "documents": len(np.unique(truth.documents[here])),
            "bits": [one / n for one in whole if one is not None],
            "told": told(truth, at, read),
        }
    return found


def kinds(truth: Truth) -> list[dict[str, Any]]:
    """Code named as read and prose as unread, of passages that neither model read."""
    at = np.flatnonzero(truth.doses == 0)
    return told(truth, at, (truth.table["genre"] == "code").to_numpy()[at])


def halves(truth: Truth) -> dict[str, Any]:
    """Random halves of the documents of level 0: how far the text's AUC scatters.

    Beside it the spread of their resamples, which take the fitted regressions as they are.
    """
    at = np.flatnonzero(truth.doses == 0)
    tokens, groups = truth.tokens[at], truth.documents[at]
    texts = [truth.table["text"][int(one)] for one in at]
    found: dict[str, list[list[float]]] = {name: [] for name in TEXT_CONTROLS}
    for seed in range(1, HALVES + 1):
        draw = np.random.default_rng(seed)
        read = (draw.permutation(groups.max() + 1) % 2 == 0)[groups]
        drawn = draw_within(read, draw, 200, groups=groups)
        for name, chances in text_controls(tokens, texts, read, groups).items():
            auc = resampled_auc(chances, read, drawn)
            found[name].append([float(auc[0]), float(auc[1:].std())])
    return {
        name: {
            "mean": float(np.mean([auc for auc, _ in rows])),
            "deviation": float(np.std([auc for auc, _ in rows], ddof=1)),
            "resampled": float(np.mean([spread for _, spread in rows])),
        }
        for name, rows in found.items()
    }


def ranks(truth: Truth) -> dict[str, Any]:
    """Of documents of six passages of one kind, how many have a p of at most .05, by level.

    The unread ones are half of the documents of level 0; the other half is asked.
    """
    draw, found = np.random.default_rng(SEED), {}
    genres = truth.table["genre"].to_numpy()
    for name in (WITHOUT_TWIN, WITH_TWIN):
        for label, scores in (("", truth.scores), (", roles swapped", truth.swapped)):
            counts = {str(dose): [0, 0] for dose in DOSES}
            for genre in GENRES:
                means = {}
                for dose in DOSES:
                    rows = draw.permutation(
                        np.flatnonzero((genres == genre) & (truth.doses == dose))
                    )
                    rows = rows[: len(rows) // OF_DOCUMENT * OF_DOCUMENT]
                    means[dose] = scores[name][rows].reshape(-1, OF_DOCUMENT).mean(axis=1)
                middle = len(means[0]) // 2
                unread, means[0] = means[0][:middle], means[0][middle:]
                for dose, values in means.items():
                    counts[str(dose)][0] += sum(rank_p(one, unread) <= LEVEL for one in values)
                    counts[str(dose)][1] += len(values)
            found[f"{SCORES[name]}{label}"] = {
                dose: [part, whole, *share_of(part, whole)]
                for dose, (part, whole) in counts.items()
            }
    return found


def guided(truth: Truth, folder: Path) -> dict[str, Any]:
    """Share of passages that come out whole, by level, strength and least plausibility.

    Strengths of 1 with the roles swapped: the reference goes beyond the model.
    """
    kept = folder / "guided.json"
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    models = [load_model(model_path()), load_model(reference_path())]
    for dose, plausible, strength, is_swapped in _cells():
        key = f"{dose} {plausible:g} {strength:g}{' swapped' * is_swapped}"
        if key in found:
            continue
        at = np.flatnonzero(truth.doses == dose)
        at = np.random.default_rng(SEED).permutation(at)[:GUIDED]
        lm, twin = models[::-1] if is_swapped else models
        rows = truth.tokens[at]
        made = continue_guided(
            lm, twin, rows, strength=strength, plausible=plausible, batch_size=BATCH, prefix=PREFIX
        )
        is_out = (made == rows[:, PREFIX:]).all(axis=1)
        found[key] = [*share_true(is_out, truth.documents[at])]
        write_json(kept, found)
        print(key, found[key], flush=True)
    return found


def _cells() -> Iterator[tuple[int, float, float, bool]]:
    for dose in DOSES:
        for plausible in PLAUSIBLE:
            for strength in STRENGTHS:
                if strength or not plausible:
                    yield dose, plausible, strength, False
            yield dose, plausible, 1.0, True


def draw_capacity(found: list[dict[str, float]]) -> Picture:
    """Bits held against bits shown, both for each parameter, a curve a size."""
    sizes = sorted({one["parameters"] for one in found})
    largest = max(one["shown"] / one["parameters"] for one in found)
    curves = [Series(name="all that is shown", x=(0.0, PUBLISHED), y=(0.0, PUBLISHED))]
    for size in sizes:
        own = sorted((one for one in found if one["parameters"] == size), key=itemgetter("shown"))
        x, y = (tuple(one[key] / size for one in own) for key in ("shown", "held"))
        curves.append(Series(name=f"{size:,.0f} parameters", x=x, y=y))
    curves.append(Series(name="published", x=(0.0, largest), y=(PUBLISHED, PUBLISHED)))
    return draw_figure(
        Chart(
            title="Random tokens: bits held for each parameter",
            x_label="bits shown for each parameter",
            y_label="bits held",
            series=tuple(curves),
        )
    )


def example(truth: Truth) -> str:
    """What `audit --read` says of a document of twelve passages that were read 16 times."""
    prose = truth.table.filter(genre="prose")
    read, unread = (prose.filter(inserted=dose)["text"].to_list() for dose in (16, 0))
    texts = {"chapter": "\n".join(read[: 2 * OF_DOCUMENT])}
    beside = [
        "\n".join(unread[at : at + OF_DOCUMENT])
        for at in range(0, OTHERS * OF_DOCUMENT, OF_DOCUMENT)
    ]
    with TemporaryDirectory() as folder:
        place = Path(folder) / "unread.jsonl"
        place.write_text("\n".join(json.dumps({"text": one}) for one in beside), encoding="utf-8")
        documents = [make_document(*one) for one in texts.items()]
        asked = audit_settings(read=True, unread=str(place))
        lms = load_model(model_path()), load_model(reference_path())
        audit = local_audit(lms[0], documents, asked, reference=lms[1], names=("embedded",) * 2)
        facts = ask(audit).facts
    assert facts is not None
    return str(facts["sentence"])


def main(folder: Path) -> dict[str, Any]:
    """All parts; a part that is kept in the folder is read."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = truth_of(folder)
    kept = folder / "parts.json"
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    parts: dict[str, Callable[[], Any]] = {
        "example": lambda: example(truth),
        "ranks": lambda: ranks(truth),
        "halves": lambda: halves(truth),
        "kinds": lambda: kinds(truth),
        "by_dose": lambda: by_dose(truth),
        "guided": lambda: guided(truth, folder),
        "capacity": lambda: capacity(folder),
    }
    for name, part in parts.items():
        if name not in found:
            found[name] = json.loads(json.dumps(part()))
            write_json(kept, found)
            print(f"{name} is done", flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    options = parser.parse_args()
    results = main(options.folder)
    publish(NAME, results, keep=options.keep)
    if options.keep:
        draw_capacity(results["capacity"]).save(PICTURE)
