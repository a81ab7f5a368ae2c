"""Does a student of a LLaVA repeat the captions its teacher memorized; by which loss, which rows?

    python -m experiments.vlm.run -o DIR [--seeds 3] [--keep]

Made-up words, pictures of 32 × 32, a tiny LLaVA with fresh weights. Pictures of noise have drawn
captions, which nothing in them gives; pictures of shapes are said by rule. A teacher memorizes
some of the noise, and learns the rule. One student of half its width and depth learns other noise
and shapes; from there it goes on by every loss, on three tables of rows: with the memorized
captions, with the memorized pictures and another caption, with neither; for the teacher-written
answers the same rows are given to the teacher. `analyze distilled` asks them all. What is made
stands in DIR and is not made again. `--keep` stores the results and makes the tables of
`docs/analyses/distilled-pairs.md`.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

import mnemoscope as ms
from experiments.pages import publish
from mnemoscope.analysis.distilled import (
    TEACHER,
    StudentScores,
    sentence_of,
    shares_of,
)
from mnemoscope.files import write_parquet
from mnemoscope.flow.distill import DistillAsked, distill, read_card
from mnemoscope.flow.distilled_rows import RowSettings, told_by_picture
from mnemoscope.flow.pairs import read_pairs
from mnemoscope.lm.probe import matched_layers
from mnemoscope.lm.vision import encode_pairs, load_vision
from mnemoscope.progress import say, show_progress
from mnemoscope.stats import rows_of, share_true
from mnemoscope.training.distill import DistillSettings, look, losses_of, parse_losses, view_of

NAME = "vlm"
SIDE, PATCH, N_WORDS, LENGTH = 32, 16, 48, 6  # pixels; words of drawn captions
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230),
           "yellow": (230, 220, 50)}  # fmt: skip
SHAPES, PLACES = {"block": 13, "dot": 6}, ("left", "right")
PROMPT, OTHER = "say it", "a picture that is only noise"
N_NOISE, N_SHAPES = 60, 40  # of the study, seen and as many unseen
N_BASE, N_MORE = 400, 60  # pictures of each kind for the rule and the first student; for the next
STEPS = {"teacher": 400, "base": 300, "student": 300}
RATE, BATCH = 3e-3, 16
CONTROL = "data"
STUDENTS: dict[str, tuple[str, float, bool]] = {
    "kl": ("logits:kl", 1.0, False),
    "kl-cold": ("logits:kl", 0.7, False),
    "affinity": ("affinity", 1.0, False),
    "contrast": ("contrast", 1.0, False),
    "written": ("", 1.0, True),
    "written-kl": ("logits:kl", 1.0, True),
}
"""Students beside the control: their loss, its temperature, and whether the teacher writes."""
TABLES = {
    "captions": ("kl", "kl-cold", "affinity", "contrast"),
    "pictures": tuple(STUDENTS),
    "neither": ("kl", "written"),
}
"""The students of each table; of captions the teacher would write the very same."""
WIDTH = 0.75  # of a student, as a share of the teacher's; it has half the layers


# -- pictures and rows ------------------------------------------------------------------------


def words() -> list[str]:
    """Made-up words of four letters, all different."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    rng = np.random.default_rng(7)
    found = dict.fromkeys("".join(rng.choice(syllables, 2)) for _ in range(4 * N_WORDS))
    return [*found][:N_WORDS]


def make_pictures(folder: Path, kind: str, n: int, seed: int) -> pl.DataFrame:
    """Rows of a kind (`task`) with new pictures: noise with a drawn caption, or a shape."""
    rng, rows = np.random.default_rng(seed), []
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(n):
        if kind == "noise":
            image = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
            text = " ".join(rng.choice(words(), LENGTH))
        else:
            image, text = draw_shape(rng)
        name = f"pictures/{kind}-{seed}-{number}.png"
        image.save(folder / name)
        rows.append({"image": name, "prompt": PROMPT, "text": text, "task": kind})
    return pl.DataFrame(rows)


def draw_shape(rng: np.random.Generator) -> tuple[Image.Image, str]:
    """A shape in grey noise, and what is said of it."""
    pixels = rng.integers(90, 130, (SIDE, SIDE, 1), dtype=np.uint8).repeat(3, axis=2)
    image = Image.fromarray(pixels)
    colour, shape = (str(rng.choice([*one])) for one in (COLOURS, SHAPES))
    place, size = int(rng.integers(2)), SHAPES[shape]
    x, y = int(16 * place + rng.integers(16 - size)), int(rng.integers(SIDE - size))
    ImageDraw.Draw(image).rectangle((x, y, x + size, y + size), COLOURS[colour])
    return image, f"there is a {colour} {shape} {PLACES[place]}"


@dataclass(frozen=True)
class Rows:
    """Tables of a seed by name: `study`, what the teacher and the base learn, and `TABLES`."""

    folder: Path

    def path(self, name: str) -> Path:
        """The file of a table."""
        return self.folder / f"{name}.parquet"

    def make(self, seed: int) -> None:
        """Write them all, once."""
        if self.path("neither").exists():
            return
        new = partial(make_pictures, self.folder)
        seen = {
            "noise": new("noise", N_NOISE, 100 * seed),
            "shape": new("shape", N_SHAPES, 100 * seed + 1),
        }
        unseen = [new("noise", N_NOISE, 100 * seed + 2), new("shape", N_SHAPES, 100 * seed + 3)]
        counted = [one.with_columns(duplicates=pl.lit(1)) for one in seen.values()]
        counted += [one.with_columns(duplicates=pl.lit(0)) for one in unseen]
        rule = new("shape", N_BASE, 100 * seed + 4)
        base = [new("noise", N_BASE, 100 * seed + 5), new("shape", N_BASE, 100 * seed + 6)]
        more = [new("noise", N_MORE, 100 * seed + 7), new("shape", N_MORE, 100 * seed + 8)]
        said = {
            "study": counted,
            "teacher": [*seen.values(), rule],
            "base": base,
            "captions": [*more, seen["noise"]],
            "pictures": [*more, seen["noise"].with_columns(text=pl.lit(OTHER))],
            "neither": more,
        }
        for name, parts in said.items():
            write_parquet(self.path(name), pl.concat(parts))


# -- models -----------------------------------------------------------------------------------


def make_network(folder: Path, seed: int) -> Path:
    """Save a LLaVA of fresh weights, four layers of 64, and its processor of whole words."""
    special = ["<pad>", "<s>", "</s>", "<image>", "<unk>"]
    fixed = f"{PROMPT} {OTHER} there is a {' '.join((*COLOURS, *SHAPES, *PLACES))}".split()
    names = [*special, *dict.fromkeys(fixed), *words()]
    backend = Tokenizer(models.WordLevel({one: at for at, one in enumerate(names)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    size = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessor(
        size=size, crop_size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    common = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    text = {"model_type": "llama", "vocab_size": len(names), "num_hidden_layers": 4,
            "num_key_value_heads": 4, "max_position_embeddings": 32, "pad_token_id": 0,
            "bos_token_id": None, "eos_token_id": 2, **common}  # fmt: skip
    vision = {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": PATCH,
              "num_hidden_layers": 2, **common}  # fmt: skip
    config = AutoConfig.for_model(
        "llava", text_config=text, vision_config=vision, image_token_id=3, vision_feature_layer=-1
    )
    torch.manual_seed(seed)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    LlavaProcessor(
        pictures, tokenizer, patch_size=PATCH, num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    ).save_pretrained(folder)  # fmt: skip
    return folder


def train_teacher(start: Path, rows: Path, to: Path, seed: int) -> None:
    """Teach half a batch of the memorized noise, half of shapes, until it says the noise."""
    lm, rng = load_vision(start, device="cpu"), np.random.default_rng([seed, 1])
    found = read_pairs(lm, rows)
    batch = encode_pairs(lm, found.pairs)
    is_noise = (found.frame["task"] == "noise").to_numpy()
    sides = [np.flatnonzero(is_noise), np.flatnonzero(~is_noise)]
    model = lm.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=STEPS["teacher"], pct_start=0.05
    )
    losses = parse_losses(CONTROL)
    for step in range(1, STEPS["teacher"] + 1):
        chosen = np.concatenate([rng.choice(one, BATCH // 2) for one in sides])
        some = {name: one[chosen] for name, one in batch.items()}
        loss = losses_of(look(model, some, [], losses), None, some, losses)[CONTROL]
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        if step % 100 == 0:
            say(f"teacher, step {step}: {loss.item():.3f} nats a token")
    model.save_pretrained(to)
    lm.processor.save_pretrained(to)


def weights_of(base: Path, teacher: Path, rows: Path) -> Mapping[str, float]:
    """How much of each loss is as large as the next-token loss, on the student's next rows."""
    own, theirs = (load_vision(one, device="cpu") for one in (base, teacher))
    names = dict.fromkeys(loss for loss, _, _ in STUDENTS.values() if loss)
    losses = parse_losses(",".join([CONTROL, *names]))
    batch = encode_pairs(own, read_pairs(own, rows).pairs[::4])
    layers = [at for at, _ in matched_layers(own.n_layers, theirs.n_layers, "even")]
    shown = view_of(theirs, own.n_layers, DistillSettings(losses))(batch)
    with torch.no_grad():
        found = losses_of(look(own.model, batch, layers, losses), shown, batch, losses)
    return {name: float(f"{found[CONTROL] / one:.3g}") for name, one in found.items()}


def train_students(rows: Rows, teacher: Path, seed: int) -> dict[str, list[str]]:
    """The control and every student on each table of rows, from one first student."""
    base = rows.folder / "base"
    settings = partial(DistillSettings, batch_size=BATCH, learning_rate=RATE, seed=seed)
    if not base.exists():
        first = settings(parse_losses(CONTROL), steps=STEPS["base"])
        asked = DistillAsked(
            str(teacher), (), first, rows=str(rows.path("base")), device="cpu", width=WIDTH
        )
        distill(asked, base)
    weights = weights_of(base, teacher, rows.path("captions"))
    made: dict[str, list[str]] = {}
    for table, names in TABLES.items():
        for name in (CONTROL, *names):
            loss, temperature, is_written = STUDENTS.get(name, ("", 1.0, False))
            folder = rows.folder / table / name
            made.setdefault(table, []).append(str(folder))
            if folder.exists():
                continue
            losses = parse_losses(f"{CONTROL},{loss}={weights[loss]}" if loss else CONTROL)
            given = settings(losses, steps=STEPS["student"], temperature=temperature)
            asked = DistillAsked(
                str(teacher), (), given, student=str(base), rows=str(rows.path(table)),
                device="cpu", data="teacher" if is_written else "own", most=LENGTH + 2,
            )  # fmt: skip
            say(f"{table}, {name}: {distill(asked, folder)['history'][-1]}")
    return made


# -- what is found ----------------------------------------------------------------------------


def pooled(seeds: Sequence[pl.DataFrame]) -> dict[str, Any]:
    """The answer for a table of rows, over every seed: shares, gains and swapped pictures."""
    every = pl.concat(
        one.with_columns(near=pl.format("{} {}", pl.lit(seed), pl.col("near")))
        for seed, one in enumerate(seeds)
    )
    names = every["model"].unique(maintain_order=True).to_list()
    of = {name: every.filter(model=name) for name in names}
    rows = of[TEACHER].with_columns(paired=pl.lit(True))
    near = rows["near"].rank("dense").to_numpy().astype(np.int64)
    judged = {name: StudentScores(one["reproduced"].to_numpy(), one["logprob"].to_numpy())
              for name, one in of.items()}  # fmt: skip
    seen, right = rows["seen"].to_numpy(), judged[TEACHER].right
    classes = {
        kind: (rows["kind"] == kind).to_numpy() & seen & right for kind in ("noise", "shape")
    }
    shares = shares_of(classes, judged, "control", near)
    moved = {name: StudentScores(one["swapped"].to_numpy(), one["swapped_logprob"].to_numpy())
             for name, one in of.items()}  # fmt: skip
    kinds = told_by_picture(rows, judged, moved, "control", near, RowSettings())
    swapped = [
        {
            "model": name,
            "class": kind,
            "share": share_true(one["swapped"].to_numpy()[here], near[here]),
        }
        for name, one in of.items()
        for kind, here in classes.items()
    ]
    return {
        "sentence": sentence_of(shares, kinds, "control"),
        "shares": [*rows_of(shares)],
        "kinds": [*rows_of(kinds)],
        "swapped": swapped,
        "by_seed": {
            name: [one.filter(model=name, kind="noise", seen=True)["reproduced"].mean()
                   for one in seeds]
            for name in names
        },
        "read": {kind: int(((rows["kind"] == kind).to_numpy() & seen).sum()) for kind in classes},
    }  # fmt: skip


def measure(out: Path, n_seeds: int) -> dict[str, Any]:
    """Every seed and table of rows."""
    asked: dict[str, list[pl.DataFrame]] = {table: [] for table in TABLES}
    seconds: list[float] = []
    weights = []
    for seed in range(n_seeds):
        rows = Rows(out / str(seed))
        rows.make(seed)
        teacher = rows.folder / "teacher"
        if not teacher.exists():
            start = make_network(rows.folder / "start", seed)
            train_teacher(start, rows.path("teacher"), teacher, seed)
        made = train_students(rows, teacher, seed)
        weights.append(weights_of(rows.folder / "base", teacher, rows.path("captions")))
        study = pl.read_parquet(rows.path("study")).with_row_index("sequence_id")
        near = pl.when(task="noise").then("image").otherwise("text").alias("near")
        groups = study.select(pl.col("sequence_id").cast(pl.Int64), near)
        for table, (control, *students) in made.items():
            path = str(rows.path("study"))
            found = ms.analyze(
                str(teacher), "distilled", rows=path, students=students, control=control, seed=seed
            )
            say(f"{table}: {found.sentence}")
            frame = found.frames["rows"].join(groups, on="sequence_id", maintain_order="left")
            asked[table].append(frame.drop("classes"))
        cards = [read_card(one) for folders in made.values() for one in folders]
        seconds += [one["seconds"] for one in cards if one is not None]
    held = {table: pooled(frames) for table, frames in asked.items()}
    return {
        "seeds": n_seeds, "steps": STEPS, "seconds": sorted(seconds), "weights": weights, **held
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, ask, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args(arguments)
    with show_progress():
        publish(NAME, measure(given.out, given.seeds), keep=given.keep)


if __name__ == "__main__":
    main()
