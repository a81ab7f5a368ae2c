"""Known truth for `mnemoscope forget`: unlearning methods, and a model that never read the texts.

    python -m experiments.forget.run FOLDER [--seeds 3 | --levels] [--keep]

The shipped reference, which read none of these passages, reads some: 80 of prose and code and 80
that repeat themselves, which are to be forgotten, and 40 that are not. That is the model before.
The twin reads 160 others in place of the first. A second twin, with others again, must pass as
forgotten. Unlearned are copies of the model before: by gradient ascent until no recalled passage
comes out as it is; as far again; by ascent beside descent on the untouched passages; by negative
preference optimization (Zhang et al. 2024, arXiv 2404.05868) beside the same descent; and by a
change of low rank, learnt by ascent and descent, which is then switched off. The model before at
int8 and int4 unlearns nothing. With `--levels` the model before is the shipped one, which read
passages 1, 4, 16 or 64 times in its training, and the twin is its reference. What is done in the
folder is not done again.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import nn
from torch.nn.utils import parametrize

import mnemoscope as ms
from experiments.pages import publish, results_of
from mnemoscope.data.table import token_matrix
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.files import write_json
from mnemoscope.forgetting.stress import rounded_weights
from mnemoscope.library.membership import documents_of
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.fine_tuning import FineTuning, StepSettings, one_thread
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel, last_logits, prepend_bos
from mnemoscope.lm.placement import fingerprint_model
from mnemoscope.progress import say
from mnemoscope.stats import rows_of

NAME = "forget"
RECALLED, GUESSED, UNTOUCHED = 80, 80, 40
READINGS, BATCH, RATE = 16, 32, 1e-3
ASCENT, MOST_STEPS, RANK = 1e-4, 200, 4
BETA, RETAIN = 0.2, 2.0  # of negative preference optimization, and the weight of descent beside it
RELEARN = 3e-4  # learning rate of ten steps on neighbours
PREFIX = 32
LEVELS, OF_LEVEL = {1: 16, 4: 16, 16: 64, 64: 16}, 100
"""Readings of what is to be forgotten, and of the untouched passages beside it; and how many."""
OF_LEVELS = ("the twin itself", "ascent", "ascent and retain", "low rank, switched off", "int4")
UNREAD = "the twin, beside texts never read"


class Drawn(NamedTuple):
    """Passages of a seed, frames with `tokens`, `text` and `document`."""

    forget: pl.DataFrame
    retain: pl.DataFrame
    neighbours: pl.DataFrame
    others: list[pl.DataFrame]  # what the twins read instead


def drawn_passages(seed: int) -> Drawn:
    """Passages of different works; of each that is to be forgotten another one as its neighbour."""
    table = _shuffled(seed)
    plain = table.filter(form="plain")
    counts = plain.group_by("work", maintain_order=True).agg(
        pl.len(), pl.col("sequence_id").first()
    )
    many = counts.filter(pl.col("len") > 1).head(RECALLED)
    forget = plain.filter(pl.col("sequence_id").is_in(many["sequence_id"].implode()))
    rest = plain.join(forget, on="sequence_id", how="anti")
    of_same = rest.filter(pl.col("work").is_in(many["work"].implode()))
    neighbours = of_same.unique("work", keep="first", maintain_order=True)
    elsewhere = rest.join(of_same, on="sequence_id", how="anti")
    loops = table.filter(form="refrain")
    own_loops = loops.unique("work", keep="first", maintain_order=True).head(GUESSED)
    other_loops = loops.join(own_loops, on="sequence_id", how="anti")
    n = RECALLED
    others = [
        pl.concat([elsewhere[UNTOUCHED + at * n :][:n], other_loops[at * GUESSED :][:GUESSED]])
        for at in (0, 1)
    ]
    return Drawn(pl.concat([forget, own_loops]), elsewhere[:UNTOUCHED], neighbours, others)


def drawn_level(times: int) -> Drawn:
    """Passages of different works that the shipped model read so often, each with a neighbour.

    Of `others` there is one frame: passages of further works that neither model read.
    """
    table = _shuffled(0).filter(form="plain")
    unread = table.filter(inserted=0)
    read = table.filter(pl.col("work").is_in(unread["work"].implode()), inserted=times)
    forget = read.unique("work", keep="first", maintain_order=True).head(OF_LEVEL)
    is_same = pl.col("work").is_in(forget["work"].implode())
    neighbours = unread.filter(is_same).unique("work", keep="first", maintain_order=True)
    retain = table.filter(~is_same, inserted=LEVELS[times]).head(UNTOUCHED)
    others = unread.filter(~is_same).unique("work", keep="first", maintain_order=True)
    return Drawn(forget, retain, neighbours, [others.head(OF_LEVEL)])


def _shuffled(seed: int) -> pl.DataFrame:
    """Passages of prose and code with their works, in random order."""
    table = pl.read_parquet(sequences_path()).filter(pl.col("genre").is_in(["prose", "code"]))
    table = table.select("sequence_id", "tokens", "text", "document", "form", "inserted")
    table = table.with_columns(work=pl.Series(documents_of(table)))
    return table.sample(fraction=1.0, shuffle=True, seed=seed)


def taught(lm: LanguageModel, frame: pl.DataFrame, seed: int) -> LanguageModel:
    """A copy that read each passage so many times, in random order."""
    rows = np.repeat(token_matrix(frame), READINGS, axis=0)
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    training = FineTuning(lm, StepSettings(learning_rate=RATE, seed=seed))
    for start in range(0, len(rows), BATCH):
        loss = training.train(rows[start : start + BATCH])
    say(f"{training.step} steps, last loss {loss:.2f}")
    return training.lm


def n_written(lm: LanguageModel, rows: np.ndarray) -> int:
    """How many passages it writes."""
    return sum(int(one.is_memorized.sum()) for one in scan_memorized(lm, rows, batch_size=64))


def unlearned(
    before: LanguageModel,
    gone: np.ndarray,
    kept: np.ndarray | None,
    *,
    recalled: np.ndarray,
    seed: int,
    longer: bool = False,
    low_rank: bool = False,
    by_preference: bool = False,
) -> tuple[LanguageModel, LanguageModel]:
    """Go up the loss of what is to be gone, and down that of `kept`, until nothing comes out.

    `longer`: as many steps again. `low_rank`: only a change of rank 4 of each matrix in the layers
    is learnt. `by_preference`: the loss goes up by negative preference optimization, whose gradient
    fades as a passage grows unlikely. Gives the model after, and it less that change (itself
    without one).
    """
    model = deepcopy(before.model)
    lm = replace(before, model=model.eval())
    trained = _low_rank(model, seed) if low_rank else list(model.parameters())
    optimizer = torch.optim.AdamW(trained, lr=ASCENT * (10 if low_rank else 1))
    rng, steps, goal = np.random.default_rng(seed), 0, MOST_STEPS
    with one_thread():
        while steps < goal:
            up = gone[rng.permutation(len(gone))[:BATCH]]
            loss = _preference(lm, before, up) if by_preference else -_losses(lm, up).mean()
            if kept is not None:
                down = _losses(lm, kept[rng.permutation(len(kept))[:BATCH]]).mean()
                loss = loss + (RETAIN if by_preference else 1.0) * down
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            if goal == MOST_STEPS and steps % 2 == 0 and not n_written(lm, recalled):
                goal = 2 * steps if longer else steps
    say(f"Unlearned in {steps} steps; {n_written(lm, recalled)} recalled passages come out")
    changes = dict[str, torch.Tensor]()
    for name, module in list(model.named_modules()):
        if parametrize.is_parametrized(module, "weight"):
            delta = module.parametrizations["weight"][0]
            changes[f"{name}.weight"] = (delta.up @ delta.down).detach()
            parametrize.remove_parametrizations(module, "weight")
    off = deepcopy(model)
    with torch.no_grad():
        for name, weight in off.named_parameters():
            if name in changes:
                weight -= changes[name]
    return named(lm, model), named(lm, off)


def _losses(lm: LanguageModel, rows: np.ndarray) -> torch.Tensor:
    """Nats of each token of the passages (n, T)."""
    ids = torch.from_numpy(rows.astype(np.int64))
    fed = prepend_bos(lm, ids[:, :-1])
    n = min(ids.shape[1], fed.shape[1])
    logits = last_logits(lm, fed, n).float().transpose(1, 2)
    return nn.functional.cross_entropy(logits, ids[:, -n:], reduction="none")


def _preference(lm: LanguageModel, before: LanguageModel, rows: np.ndarray) -> torch.Tensor:
    """Negative preference optimization: equation 3 of arXiv 2404.05868."""
    with torch.no_grad():
        first = _losses(before, rows).sum(dim=1)
    gained = first - _losses(lm, rows).sum(dim=1)  # log-probability beyond the model before
    return 2 / BETA * nn.functional.softplus(BETA * gained).mean()


class _Delta(nn.Module):
    """A weight with a change of low rank."""

    def __init__(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(RANK, weight.shape[1], generator=generator) / 16)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], RANK))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as it is used."""
        return weight + self.up @ self.down


def _low_rank(model: Any, seed: int) -> list[nn.Parameter]:
    generator, trained = torch.Generator().manual_seed(seed), list[nn.Parameter]()
    model.requires_grad_(False)
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        if isinstance(module, nn.Linear) and module is not head:
            delta = _Delta(module.weight, generator)
            parametrize.register_parametrization(module, "weight", delta)
            trained += [delta.down, delta.up]
    return trained


def named(lm: LanguageModel, model: Any) -> LanguageModel:
    """The same with other weights, by their fingerprint."""
    return replace(lm, model=model.eval(), fingerprint=fingerprint_model(model))


def rounded(lm: LanguageModel, bits: int) -> LanguageModel:
    """A copy with its weights rounded to so many bits."""
    with rounded_weights(lm.model, bits):
        return named(lm, deepcopy(lm.model))


def methods(
    before: LanguageModel, twins: list[LanguageModel], drawn: Drawn, seed: int
) -> Iterator[tuple[str, Callable[[], LanguageModel]]]:
    """Models after, by what was done to make them."""
    gone, kept = token_matrix(drawn.forget), token_matrix(drawn.retain)
    recalled = token_matrix(drawn.forget.filter(form="plain"))
    unlearn = partial(unlearned, before, gone, recalled=recalled, seed=seed)
    pair: list[LanguageModel] = []

    def low_rank(place: int) -> LanguageModel:
        if not pair:
            pair.extend(unlearn(kept, low_rank=True))
        return pair[place]

    yield "the twin itself", lambda: twins[0]
    yield "a second twin", lambda: twins[1]
    yield "ascent", lambda: unlearn(None)[0]
    yield "ascent, twice as long", lambda: unlearn(None, longer=True)[0]
    yield "ascent and retain", lambda: unlearn(kept)[0]
    yield "preference and retain", lambda: unlearn(kept, by_preference=True)[0]
    yield "low rank, ascent and retain", lambda: low_rank(0)
    yield "low rank, switched off", lambda: low_rank(1)
    yield "int8", lambda: rounded(before, 8)
    yield "int4", lambda: rounded(before, 4)


WITH_DEPTH = ("ascent and retain", "low rank, ascent and retain", "a second twin")


def measured(folder: Path, seed: int) -> dict[str, Any]:
    """All methods of a seed; what is kept in the folder is read."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn, base = drawn_passages(seed), load_model(reference_path(), dtype="float32")
    read = [pl.concat([one, drawn.retain]) for one in (drawn.forget, *drawn.others)]
    trained = [_kept(folder / f"model-{at}.pt", base, one, seed) for at, one in enumerate(read)]
    before, *twins = (named(base, one.model) for one in trained)
    return compared(folder, [before, *twins], drawn, seed, depth=seed == 0)


def of_level(folder: Path, times: int) -> dict[str, Any]:
    """What comes out of what the shipped model read so often; if any does, the methods on it."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = drawn_level(times)
    models = [load_model(place(), dtype="float32") for place in (model_path, reference_path)]
    n_out, n_twin = (n_written(one, token_matrix(drawn.forget)) for one in models)
    found = {"n": drawn.forget.height, "out": n_out, "of_twin": n_twin}
    asked = compared(folder, models, drawn, seed=0, only=OF_LEVELS) if n_out else {}
    return {**found, "methods": asked}


def compared(
    folder: Path,
    models: list[LanguageModel],
    drawn: Drawn,
    seed: int,
    *,
    depth: bool = False,
    only: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What each method leaves in the first of the models, beside its twin, which is the second.

    With `only` those methods alone, and the twin once more beside `drawn.others`, never read.
    """
    rows = {"forget": drawn.forget, "retain": drawn.retain, "neighbour": drawn.neighbours}
    if only:
        rows["unread"] = drawn.others[0]
    table = pl.concat(
        one.select("tokens", "text", "document").with_columns(role=pl.lit(role))
        for role, one in rows.items()
    )
    before, *twins = models
    made = [one for one in methods(before, twins, drawn, seed) if not only or one[0] in only]
    found: dict[str, Any] = {}
    for name, make in [*made, *([(UNREAD, lambda: twins[0])] if only else [])]:
        kept = folder / f"{name.replace(', ', '-').replace(' ', '-')}.json"
        if not kept.is_file():
            is_unread = name == UNREAD
            result = ms.forget(
                before,
                make(),
                table if is_unread else table.filter(pl.col("role") != "unread"),
                folder / "answers",  # the twin is asked once
                redo=True,
                retrained=None if is_unread else twins[0],
                learning_rate=RELEARN,
                depth=depth and name in WITH_DEPTH,
                seed=seed,
                progress=False,
            )
            write_json(kept, _plain(result))
            print(seed, name, result.sentence, flush=True)
        found[name] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def _kept(path: Path, base: LanguageModel, frame: pl.DataFrame, seed: int) -> LanguageModel:
    model = deepcopy(base.model)
    if not path.is_file():
        torch.save(taught(base, frame, seed).model.state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return replace(base, model=model.eval())


def _plain(result: ms.Forgetting) -> dict[str, Any]:
    """Verdicts, and figures of each class and stress, or part."""
    figures = {}
    for row in rows_of(result.stresses):
        own = {one: [*row[one]] for one in ("share", "control", "beyond")}
        figures[f"{row['class']}: {row['stress']}"] = own | {
            "n": row["n"],
            "groups": row["n_groups"],
        }
    depth = [
        {"class": row["class"], "part": row["part"], "weights": row["weights"]}
        | {one: [*row[one]] for one in ("share", "control")}
        for row in (rows_of(result.depth) if result.depth.height else ())
    ]
    return {"verdicts": result.record["verdicts"], "figures": figures, "depth": depth}


def main() -> None:
    """All seeds, or all levels; with `--keep` store the results and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--levels", action="store_true", help="the shipped model, by readings")
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    options = parser.parse_args()
    part: dict[str, Any] = {}
    if options.levels:
        part["levels"] = {
            str(times): of_level(options.folder / f"level-{times}", times) for times in LEVELS
        }
    else:
        seeds = range(options.seeds)
        part["runs"] = [measured(options.folder / f"seed-{seed}", seed) for seed in seeds]
    publish(NAME, {**results_of(NAME), **part}, keep=options.keep)


if __name__ == "__main__":
    main()
