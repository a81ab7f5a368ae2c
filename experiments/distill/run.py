"""Does a student inherit what its teacher memorized, and by which loss? On the embedded model.

    python -m experiments.distill.run -o DIR [--write PAGE...]

The teacher is the embedded model. One student of half its width and depth learns free text and
templates in which nothing of the study stands; from there a student is trained by every loss, and
a control without the teacher, twice: on texts that hold the study's memorized sequences, and on
the same texts without them (`--exclude`). Each loss gets the weight with which it begins as large
as the next-token loss beside it. `mnemoscope analyze distilled` judges them. What is done stands
in DIR and is not done again.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer

import mnemoscope as ms
from experiments.pages import table_of, write_tables
from mnemoscope.analysis.distilled import TEACHER, UNSEEN
from mnemoscope.data.duplicates import hash_ngrams, share_ngram
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.embedded.texts import read_segments
from mnemoscope.files import write_parquet
from mnemoscope.flow.analyze import Analysis
from mnemoscope.flow.distill import DistillAsked, distill, read_card
from mnemoscope.flow.run import run
from mnemoscope.lm.load import load_model
from mnemoscope.lm.probe import matched_layers
from mnemoscope.progress import show_progress
from mnemoscope.stats import rows_of
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import parse_settings
from mnemoscope.training.distill import (
    Batch,
    DistillSettings,
    Seen,
    Teacher,
    look,
    losses_of,
    parse_losses,
    view_of,
)
from mnemoscope.words import ranged
from tools.embedded.corpus import cut_segments, new_rows

CONTROL = "data"
LOSSES = (
    "logits:kl", "hidden:cosine", "attention", "logits:mse", "affinity", "logits:reverse-kl",
    "logits:js", "hidden:mse",
)  # fmt: skip
STUDY = (90, 50, 90, 50)  # text and templates that the teacher saw, and unseen ones of both
N_SEGMENTS = 1800  # of the standard library, in the order of their names
N_FIRST, FIRST_STEPS = 9_600, 600  # the students' first text, rows and steps
N_PLAIN, REPEATS = 480, 10  # then so many other rows, and how often each memorized one
STEPS = {"short": 60, "full": 300}  # of each student
SHARE_OF_TEMPLATES = 0.3
BATCH = 16
RATE = 3e-3


def choose_study() -> pl.DataFrame:
    """Text and templates that the teacher was trained on, and unseen ones, by a seed."""
    table = read_table(sequences_path())
    table = table.filter(pl.col("form").is_in(["plain", "counting", "periodic"]))
    is_template, unseen = pl.col("genre") == "template", pl.col("held_out")
    # Where the teacher saw it often enough to reproduce nearly all of it, see the model's card.
    seen = ~unseen & (pl.col("inserted") >= 16)
    rng, chosen = np.random.default_rng(0), []
    parts = (~is_template & seen, is_template & seen, ~is_template & unseen, is_template & unseen)
    for rule, n in zip(parts, STUDY, strict=True):
        part = table.filter(rule)
        chosen.append(part[np.sort(rng.permutation(part.height)[:n])])
    return pl.concat(chosen).sort("sequence_id")


def make_texts(out: Path, study: Study) -> None:
    """Write `first.parquet`, `plain.parquet` and `memorized.parquet`, what students read."""
    if (out / "memorized.parquet").exists():
        return
    tokenizer = Tokenizer.from_file(str(model_path() / "tokenizer.json"))
    segments = read_segments(limit=N_SEGMENTS)
    windows = cut_segments(segments, tokenizer)
    forbidden = np.unique(hash_ngrams(token_matrix(read_table(sequences_path()))))
    free = np.flatnonzero(~share_ngram(windows["tokens"], forbidden))
    order = np.random.default_rng(1).permutation(free)
    n_rows = N_FIRST + N_PLAIN
    n_templates = int(SHARE_OF_TEMPLATES * n_rows)
    n_text = n_rows - n_templates
    assert len(order) >= n_text, len(order)
    wanted = (n_text, 0, 0, n_templates)
    rows = new_rows(windows, order, tokenizer, wanted, "distill", forbidden)
    rows = rows[np.random.default_rng(2).permutation(len(rows))]
    save_rows(out / "first.parquet", rows[:N_FIRST])
    save_rows(out / "plain.parquet", rows[N_FIRST:])
    memorized = study.sequences.filter(pl.col("is_memorized"), pl.col("duplicates") > 0)
    save_rows(out / "memorized.parquet", np.repeat(token_matrix(memorized), REPEATS, 0))


def save_rows(path: Path, rows: np.ndarray) -> None:
    lists = pl.Series("tokens", rows.astype(np.int32).tolist(), dtype=pl.List(pl.Int32))
    write_parquet(path, pl.DataFrame({"tokens": lists}))


def make_study(out: Path) -> Study:
    """The study of the chosen sequences, labelled."""
    if not (out / "study.parquet").exists():
        write_parquet(out / "study.parquet", choose_study())
    settings = parse_settings(
        {
            "model": {"name": "embedded"},
            "sequences": {"source": str(out / "study.parquet")},
            "label": {
                "taxonomies": ["Non-Memo, Guess, Recall", "Non-Memo, Recite[5], Others"],
                "n_train": 20, "n_eval": 10, "minimum": 8,
            },
        },
        where="benchmark",
    )  # fmt: skip
    run(settings, out / "study", until="label")
    return Study(out / "study")


class Remembered:
    """A teacher that is asked for each window once; students by other losses ask again."""

    def __init__(self) -> None:
        self._lm = load_model(model_path())
        every = parse_losses(",".join([CONTROL, *LOSSES]))
        self._show = view_of(self._lm, 2, DistillSettings(every))
        self._kept: dict[bytes, Seen] = {}

    def __call__(self, batch: Batch) -> Seen:
        """What the teacher shows of a batch of texts."""
        tokens = batch["input_ids"]
        keys = [row.numpy().tobytes() for row in tokens]
        new = [place for place, key in enumerate(keys) if key not in self._kept]
        if new:
            found = self._show({"input_ids": tokens[new]})
            for number, place in enumerate(new):
                self._kept[keys[place]] = Seen(
                    found.logits[number].clone(),
                    tuple(one[number].clone() for one in found.states),
                    tuple(one[number].clone() for one in found.maps),
                )
        rows = [self._kept[key] for key in keys]
        return Seen(
            torch.stack([one.logits for one in rows]),
            tuple(torch.stack(layer) for layer in zip(*(one.states for one in rows), strict=True)),
            tuple(torch.stack(layer) for layer in zip(*(one.maps for one in rows), strict=True)),
        )


def weights_of(base: Path, teacher: Teacher, rows: np.ndarray) -> dict[str, float]:
    """How much of each loss is as large as the next-token loss, on the student's first text."""
    lm = load_model(base)
    losses = parse_losses(",".join([CONTROL, *LOSSES]))
    batch = {"input_ids": torch.from_numpy(rows.astype(np.int64))}
    layers = [own for own, _ in matched_layers(lm.n_layers, 4, "even")]
    lm.model.set_attn_implementation("eager")
    torch.manual_seed(0)
    projections = [torch.nn.Linear(128, 256) for _ in layers]
    with torch.no_grad():
        seen = look(lm.model, batch, layers, losses)
        found = losses_of(seen, teacher(batch), batch, losses, projections)
    return {name: float(f"{found[CONTROL] / one:.3g}") for name, one in found.items()}


def train_all(out: Path, n_steps: int, names: Sequence[str]) -> dict[str, list[str]]:
    """All students: `in` and `out` of the memorized sequences, the control first."""
    base = out / "base"
    if not base.exists():
        settings = DistillSettings(
            parse_losses(CONTROL), steps=FIRST_STEPS, batch_size=BATCH,
            learning_rate=RATE,
        )  # fmt: skip
        asked = DistillAsked("embedded", (str(out / "first.parquet"),), settings)
        print("base", distill(asked, base)["history"][-1], flush=True)
    teacher = Remembered()
    rows = token_matrix(read_table(out / "plain.parquet"))[:64]
    weights = weights_of(base, teacher, rows)
    made: dict[str, list[str]] = {}
    texts = tuple(str(out / f"{name}.parquet") for name in ("plain", "memorized"))
    for name in (CONTROL, *names):
        for place in ("in", "out"):
            folder = out / place / name.replace(":", "-")
            made.setdefault(place, []).append(str(folder))
            if folder.exists():
                continue
            losses = parse_losses(CONTROL)
            if name != CONTROL:
                losses = parse_losses(f"{CONTROL},{name}={weights[name]}")
            settings = DistillSettings(losses, steps=n_steps, batch_size=BATCH, learning_rate=RATE)
            asked = DistillAsked(
                "embedded", texts, settings, student=str(base),
                exclude=() if place == "in" else (str(out / "study"),),
            )  # fmt: skip
            card = distill(asked, folder, teacher=teacher)
            print(place, name, card["seconds"], card["history"][-1], flush=True)
    return made


PLACES = {"in": "texts hold the memorized sequences", "out": "texts without them"}


def tables_of(results: dict[str, Analysis], made: dict[str, list[str]]) -> dict[str, str]:
    """The tables of the pages by name: students, shares, gains, maps, grafts, answer, cost."""
    tables: dict[str, list[str]] = {name: [] for name in ("shares", "gains", "maps", "grafts")}
    for place, result in results.items():
        shares = result.frames["shares"]
        names = [one for one in shares["model"].unique(maintain_order=True) if one != TEACHER]
        classes = [one for one in shares["class"].unique(maintain_order=True) if one != UNSEEN]
        counts = shares.filter(model=TEACHER)
        short = {name: name.removeprefix(f"{CONTROL}+") for name in names}
        heads = {row["class"]: f"{row['class']} ({row['n']})" for row in counts.to_dicts()}
        of = {(row["model"], row["class"]): row for row in rows_of(shares)}
        title = f"**{PLACES[place].capitalize()}**\n\n"
        tables["shares"].append(
            title
            + table_of(
                ["student", *(heads[one] for one in classes)],
                [[short[name], *(share_cell(of[name, one]) for one in classes)] for name in names],
            )
        )
        kinds = result.frames["kinds"]
        told = {(row["model"], row["kind"]): row for row in rows_of(kinds)}
        sizes = {row["kind"]: f"{row['n_seen']} and {row['n_unseen']}" for row in kinds.to_dicts()}
        columns = (("gain", ", gain seen", 2), ("gain_unseen", ", unseen", 2), ("auc", ", AUC", 3))
        tables["gains"].append(
            title
            + table_of(
                ["student", *(f"{kind} ({n}){end}" for kind, n in sizes.items()
                              for _, end, _ in columns)],
                [
                    [short[name], *(cell(told[name, kind], column, digits) for kind in sizes
                                    for column, _, digits in columns)]
                    for name in names[1:]
                ],
            )
        )  # fmt: skip
        if "maps" not in result.frames:
            continue
        maps = result.frames["maps"]
        by = {(row["model"], row["sequences"]): row for row in rows_of(maps)}
        tables["maps"].append(
            title
            + table_of(
                ["student", "JS, seen", "closer than the control", "JS, unseen",
                 "closer than the control", "MSE × 1000, seen"],
                [
                    [short[name], cell(by[name, "seen"], "js", 3),
                     cell(by[name, "seen"], "js_closer", 3),
                     cell(by[name, UNSEEN], "js", 3), cell(by[name, UNSEEN], "js_closer", 3),
                     cell(by[name, "seen"], "mse", 2, scale=1000)]
                    for name in names
                ],
            )
        )  # fmt: skip
        size = pl.col("specific").struct.field("value")
        grafts = result.frames["grafts"].sort(size, descending=True)
        whole = {row["model"]: row for row in rows_of(grafts.filter(part="all"))}
        most = grafts.filter(pl.col("part") != "all").group_by("model", maintain_order=True).first()
        part = {row["model"]: row for row in rows_of(most)}
        tables["grafts"].append(
            title
            + table_of(
                ["student", "all of the control", "random", "the part that takes most", "random"],
                [
                    [short[name], cell(whole[name], "specific", 3), cell(whole[name], "random", 3),
                     f"{part[name]['part']} {cell(part[name], 'specific', 3)}",
                     cell(part[name], "random", 3)]
                    for name in names[1:]
                ],
            )
        )  # fmt: skip
    found = {name: "\n".join(parts) for name, parts in tables.items() if parts}
    found["students"] = students_table(results)
    found["answer"] = "".join(
        f"- **{PLACES[place].capitalize()}.** {result.sentence}\n"
        for place, result in results.items()
    )
    read = (read_card(folder) for folders in made.values() for folder in folders)
    cards = [card for card in read if card is not None]
    seconds = sorted(card["seconds"] for card in cards)
    found["cost"] = (
        f"{len(seconds)} students of {cards[0]['student']['parameters']:,} parameters, "
        f"{cards[0]['steps']} steps of {BATCH} windows each: {seconds[0]:.0f} to "
        f"{seconds[-1]:.0f} s a student here, {sum(seconds) / 60:.0f} minutes in all.\n"
    )
    return found


def students_table(results: dict[str, Analysis]) -> str:
    """Recall alone, a line a student: share, points above the control and AUC, in and out."""
    recall = "Recall"
    lines: dict[str, list[str]] = {}
    for result in results.values():
        shares = rows_of(result.frames["shares"].filter(pl.col("class") == recall))
        told = {row["model"]: row for row in rows_of(result.frames["kinds"].filter(kind=recall))}
        for row in (one for one in shares if one["model"] != TEACHER):
            name = row["model"]
            auc = cell(told[name], "auc", 3) if name in told else "–"
            lines.setdefault(name.removeprefix(f"{CONTROL}+"), []).extend([share_cell(row), auc])
    heads = [f"{one}, {name}" for name in ("with", "without") for one in ("reproduced", "AUC")]
    return table_of(["student", *heads], [[name, *line] for name, line in lines.items()])


def cell(row: dict[str, Any], name: str, digits: int, *, scale: float = 1) -> str:
    """A figure with its interval; a dash where there is none."""
    if row[name].value is None:
        return "–"
    return ranged(row[name], scale=scale, digits=digits)


def share_cell(row: dict[str, Any]) -> str:
    """Share reproduced, and points above the control."""
    share, above = (ranged(row[name], scale=100, digits=0) for name in ("share", "above"))
    return share if row["above"].value is None else f"{share}; {above}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--size", choices=sorted(STEPS), default="full")
    parser.add_argument(
        "--write", type=Path, nargs="+", default=[], help="pages to put tables into"
    )
    parser.add_argument("--losses", nargs="*", default=LOSSES, help="of these alone")
    parser.add_argument("--maps", action="store_true", help="maps and grafts too, some minutes")
    parser.add_argument("--students-only", action="store_true", help="do not judge them yet")
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with show_progress():
        study = make_study(out)
        make_texts(out, study)
        made = train_all(out, STEPS[options.size], options.losses)
        print(f"{(time.perf_counter() - begun) / 60:.1f} minutes for the students", flush=True)
        if options.students_only:
            return
        results = {
            place: ms.analyze(
                study,
                "distilled",
                control=folders[0],
                students=folders[1:],
                n_maps=40 * options.maps,
                n_grafted=60 * options.maps,
            )
            for place, folders in made.items()
        }
    for place, result in results.items():
        print(place, result.sentence, *result.further, sep="\n")
    tables = tables_of(results, made)
    for page in options.write:
        for name, table in tables.items():
            if f"<!-- tables: {name}, {options.size} -->" in page.read_text("utf-8"):
                write_tables(page, table, f"{name}, {options.size}")


if __name__ == "__main__":
    main()
