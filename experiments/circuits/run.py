"""What `trigger` and `perturb` find in networks whose circuits are known, being set by hand.

    python -m experiments.circuits.run [--keep]

`trigger` is asked of a network that copies each token from known states of the prefix, or from the
suffix; `perturb` of one that knows each passage by its first token, in neurons of its own. Neither
was trained (`experiments/circuits/networks.py`); the tests build the same. Control of the first are
the states that hold nothing of a token, of the second passages that are not unlearned, texts that
were never learnt, and as many weights drawn at random.
"""

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from experiments.circuits.networks import copying_network, own_weights, remembering_network
from experiments.pages import publish
from mnemoscope.analysis import perturb
from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.analysis.trigger import find_changes
from mnemoscope.lm.fine_tuning import FineTuning
from mnemoscope.plugin import AS_IT_IS, WORD_KINDS, Vocabulary, right_tokens
from mnemoscope.progress import SILENT, show_progress
from mnemoscope.stats import Estimate, rows_of, share_of, share_true
from mnemoscope.taxonomy.groups import other_rows

NAME = "circuits"
Tokens = npt.NDArray[np.int64]

# -- which states a token hangs on ------------------------------------------------------------

N_COPIED, VOCABULARY, LENGTH, PREFIX = 100, 40, 24, 16
WIDTHS = (2, 4, 8)
HELD = {"1 state": (13,), "3 states": (8, 9, 10), "5 states": (0, 1, 2, 3, 4)}
"""The states of the prefix that hold the first tokens of the suffix, by position from 0."""
FEWEST = {"1 state": 1, "3 states": 2, "5 states": 4, "the suffix": 0}
"""How many of them must be replaced together: most of them, in blocks of a width that is asked."""


def copied(n: int, seed: int) -> tuple[dict[int, tuple[int, ...]], Tokens]:
    """What each token of the suffix is copied from, and rows that the network goes on with so."""
    sources = {PREFIX - 1 + at: of for at, of in enumerate(HELD.values())}
    sources |= {at: (at - 2,) for at in range(PREFIX - 1 + len(HELD), LENGTH - 1)}
    rng = np.random.default_rng(seed)
    tokens = np.stack([rng.permutation(VOCABULARY)[:LENGTH] for _ in range(n)])
    for at, of in sources.items():
        tokens[:, of] = tokens[:, of[:1]]
        tokens[:, at + 1] = tokens[:, of[0]]
    return sources, tokens


def states(seed: int) -> list[dict[str, Any]]:
    """By what holds a token: how often its own states change it, others do, and how many must."""
    sources, tokens = copied(N_COPIED, seed)
    lm = copying_network(sources, vocabulary=VOCABULARY, length=LENGTH)
    donors = tokens[other_rows(np.arange(len(tokens)), 1, seed=seed)[0], :PREFIX]
    found = find_changes(lm, tokens, donors, batch_size=64, progress=SILENT, widths=WIDTHS)
    assert found.is_right.all()
    rows = []
    for kind, fewest in FEWEST.items():
        own = list(HELD.get(kind, ()))
        steps = [[*HELD].index(kind)] if own else [*range(len(HELD), LENGTH - PREFIX)]
        others = np.ones(PREFIX, dtype=bool)
        others[own] = False
        if steps == [0]:
            others[-1] = False  # the position that asks for it holds it after the copying layer
        # A donor that holds the same token there changes nothing.
        new = (donors[:, own[:1]] != tokens[:, own[:1]]).all(axis=1)
        one, least = found.one[new][..., steps], found.fewest[new][:, steps]
        rows.append(
            {"held": kind, "n": int(new.sum()), "fewest": fewest}
            | {"own": share_true(one[:, :, own].any(axis=(1, 2, 3))) if own else None}
            | {"other": share_true(one[:, :, others].any(axis=(1, 2, 3)))}
            | {"as_built": share_true((least == fewest).all(axis=1))}
        )
    return rows


# -- passages that are unlearned --------------------------------------------------------------

N_PASSAGES, N_UNLEARNED, N_UNSEEN = 60, 20, 30
WORDS, ROW, ASKED = 120, 32, 16
SETTINGS = perturb.Settings(
    n_unlearned=N_UNLEARNED, learning_rate=5e-4, sparse_learning_rate=2e-3, sparse_part=5e-4,
    pruned_part=1e-6, batch_size=8, every=1,
)  # fmt: skip
"""Rates and shares are those of a first run at which not all passages went in one step."""


def words(seed: int) -> PreTrainedTokenizerFast:
    """A tokenizer of made-up words, one token each."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, int] = {"a": 0, "?": 1}
    while len(drawn) < WORDS:
        drawn.setdefault("".join(rng.choice([*"bdfgklmnprst", *"aeiou"], 6)), len(drawn))
    made = Tokenizer(models.WordLevel(drawn, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


def remembered(seed: int, n: int = N_PASSAGES) -> AnalysisInputs:
    """A study of passages that the network knows, and of texts that it does not."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, WORDS, (n + N_UNSEEN, ROW))
    tokens[:, 0] = 2 + rng.permutation(WORDS - 2)[: len(tokens)]
    lm = remembering_network(tokens[:n], prefix=ASKED, vocabulary=WORDS, tokenizer=words(seed))
    known = np.arange(len(tokens)) < n
    table = pl.DataFrame({"sequence_id": np.arange(len(tokens))}).with_columns(
        pl.Series("tokens", tokens.tolist(), dtype=pl.List(pl.Int32)),
        pl.Series("is_memorized", known),
        pl.Series("duplicates", known.astype(np.int64)),
        is_incrementing=False, is_repeating=False, rouge_l=0.0, rouge_3=0.0,
    )  # fmt: skip
    return AnalysisInputs(where=NAME, table=table, load_model=lambda: lm, length=ROW)


def changed_weights(
    inputs: AnalysisInputs, way: perturb.Way, settings: perturb.Settings = SETTINGS
) -> dict[str, Any]:
    """Of the weights that unlearning changes most, as many as hold the passages: where they are.

    Of the layers' matrices: in the neurons of the passages that are unlearned, of others, in what
    all passages use, elsewhere.
    """
    lm, groups = inputs.load_model(), perturb._groups(inputs, settings)
    tokens = np.array(groups["unlearned"]["tokens"].to_list())
    tuning = FineTuning(lm, settings.steps(way))

    def look(loss: float | None) -> perturb.Look:
        right = right_tokens(tuning.lm, tokens, batch_size=64, prefix=ASKED)
        share, whole = float(right.mean()), float(right.all(axis=1).mean())
        return perturb.Look(tuning.step, loss, share, whole, Estimate(None))

    perturb._climb(tuning, tokens.astype(np.int32), ASKED, settings, way, look)
    unlearned = groups["unlearned"]["sequence_id"].to_numpy()
    others = np.setdiff1d(np.flatnonzero(inputs.table["is_memorized"]), unlearned)
    holds = [own_weights(lm, rows, ROW - ASKED) for rows in (unlearned, others)]
    before, after = (dict(one.model.named_parameters()) for one in (lm, tuning.lm))
    moved, place = [], []
    for name in (name for name, one in before.items() if one.ndim > 1 and ".h." in name):
        where = torch.full(before[name].shape, 3)
        if ".attn." in name:
            where[before[name] != 0] = 2
        for number, masks in enumerate(holds):
            if name in masks:
                where[masks[name]] = number
        moved.append((after[name] - before[name]).detach().abs().flatten())
        place.append(where.flatten())
    size, where = torch.cat(moved), torch.cat(place)
    n = min(int((where == 0).sum()), int((size > 0).sum()))
    most = where[size.topk(n).indices]
    found = {
        name: share_of(int((most == number).sum()), n)
        for number, name in enumerate(("own", "others", "shared", "nowhere"))
    }
    chance = float((where == 0).double().mean())
    return {"way": perturb.WAYS[way], "n": n, **found, "chance": chance}


def stress(seed: int) -> dict[str, Any]:
    """Prompts and unlearning of the network that remembers, beside what is built in."""
    inputs = remembered(seed)
    found = perturb.analyse(inputs, SETTINGS)
    prompts = [
        {name: row[name] for name in ("group", "kind", "n", "whole")}
        for row in rows_of(found.frames["prompts"])
        if row["group"] in ("Recall", "unseen")
    ]
    kept = ("way", "group", "n", "right", "after_right")
    return {
        "prompts": prompts,
        "built": built(inputs),
        "beside": [{name: row[name] for name in kept} for row in rows_of(found.frames["beside"])],
        "unlearned": [
            {"way": way, "step": part["step"][-1], "right": share_of(round(n * share), n)}
            for (way,), part in found.frames["unlearning"].group_by("way", maintain_order=True)
            for n, share in [(N_UNLEARNED, part["memorized"][-1])]
        ],
        "weights": [changed_weights(inputs, way) for way in SETTINGS.ways],
    }  # fmt: skip


def built(inputs: AnalysisInputs, settings: perturb.Settings = SETTINGS) -> dict[str, float]:
    """By kind of prompt the share of passages that must come out: the first token is in place.

    A window that is moved has it elsewhere, or lacks the end of a prefix, which is not known.
    """
    lm = inputs.load_model()
    weights = lm.model.get_input_embeddings().weight.detach().numpy()
    rows = perturb._groups(inputs, settings)["Recall"]
    words = Vocabulary(lm.tokenizer, weights)
    first = dict(zip(inputs.table["sequence_id"], inputs.table["tokens"].list.first(), strict=True))
    right: dict[str, list[bool]] = {}
    for number, prompt in perturb._prompts(inputs, rows, words, settings):
        stays = prompt.kind in (AS_IT_IS, *WORD_KINDS)
        right.setdefault(prompt.kind, []).append(stays and int(prompt.ids[0]) == first[number])
    return {kind: float(np.mean(each)) for kind, each in right.items()}


def main() -> None:
    """Build, ask, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="store the results, write the pages")
    given = parser.parse_args()
    with show_progress():
        found = {"states": states(given.seed), "perturb": stress(given.seed)}
    publish(NAME, found, keep=given.keep)


if __name__ == "__main__":
    main()
