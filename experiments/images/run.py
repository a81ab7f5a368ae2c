"""Verdicts on pictures of known truth: tiny text-to-image networks, each beside its control.

    python -m experiments.images.run [FOLDER] [--seeds 0 1 2] [--kinds unet transformer] [--keep]

Captions of three words say how a picture looks: waves of a direction and a length, how bright it
is, how strong they are. Some captions have one picture whenever they are read (`whole`), some one
half that is always the same, left or right by caption (`half`), some share one picture
(`duplicated`); those of `fresh` show other waves each time. Those of `unread` are never read, nor
those of `pattern`, which are asked with new pictures like the stored ones. A control network reads
the same captions with waves alone. `mnemoscope images` asks both, and makes memorized pictures
again by each remedy. Run it again with the same folder and it goes on from what is done.
"""

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from PIL import Image

from experiments.bright_ending.run import SIDE, WORDS, World, areas
from experiments.pages import publish
from mnemoscope.diffusion.measures import MEASURES, MEMORIZED, UNREAD, judged
from mnemoscope.diffusion.run import images
from mnemoscope.stats import (
    NO_ESTIMATE,
    Estimate,
    Floats,
    draw_within,
    estimate_of,
    not_of_none,
    resampled_auc,
    resampled_mean,
    share_of,
)

SIZES = {"whole": 6, "half": 8, "duplicated": 6, "fresh": 24, "unread": 120, "pattern": 24}
KINDS = tuple(SIZES)
STORED, READ = KINDS[:3], KINDS[:4]
REMEDIES = ("guidance", *(f"prompt {one:g}" for one in (0.5, 1, 2, 4)))
"""Of `--mitigate`; noise on the prompt by its `strength`."""
SETTINGS = {"steps": 20, "draws": 4, "guidance": 3.0, "batch_size": 64, "measure": "flipd"}
_WIDTH, _BATCH, _STEPS, _SHARE, _LEFT_OUT = 32, 32, 1000, 0.4, 0.1
_RESAMPLES = 1000
_PLACES = ("direction", "bright", "strength")


class Album(World):
    """Captions by kind, and what they show."""

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        every = np.array([(a, b, c) for a in range(WORDS[0]) for b in range(WORDS[1])
                          for c in range(WORDS[2])])  # fmt: skip
        chosen = every[generator.permutation(len(every))[: sum(SIZES.values())]]
        self.meanings, self.memorizing = torch.from_numpy(chosen), False
        self.kind = np.repeat(KINDS, list(SIZES.values()))
        self.prompts = [
            " ".join(f"{place}{word}" for place, word in zip(_PLACES, row, strict=True))
            for row in chosen.tolist()
        ]
        n_stored = sum(SIZES[one] for one in STORED)
        patterns = generator.normal(0, 0.6, (n_stored, SIDE, SIDE)).clip(-1, 1)
        patterns[self.kind[:n_stored] == "duplicated"] = patterns[-1]
        self.patterns = torch.from_numpy(patterns).float()
        strange = np.random.default_rng([seed, 1]).normal(0, 0.6, (SIZES["pattern"], SIDE, SIDE))
        self.strange = strange.clip(-1, 1).astype(np.float32)
        column = torch.arange(SIDE) >= SIDE // 2
        sides = torch.arange(len(chosen)) % 2
        self.sides = (column == sides[:, None].bool())[:, None].expand(-1, SIDE, -1)

    def show(
        self, which: torch.Tensor, generator: torch.Generator, *, stores: bool
    ) -> torch.Tensor:
        """Pictures of captions by number (n,), float32 (n, 1, side, side)."""
        made = (0.6 * self.draw(which, generator)).clamp(-1, 1)
        known = which < len(self.patterns)
        if stores and bool(known.any()):
            own = which[known]
            is_half = torch.from_numpy(self.kind == "half")[own][:, None, None]
            fixed = self.sides[own] | ~is_half
            made[known] = torch.where(fixed, self.patterns[own], made[known])
        return made[:, None]


def tokenizer_of(words: Sequence[str], length: int) -> Any:
    """Words as tokens between a start and an end; the end pads too, as CLIP's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<start>", "<end>", "<unknown>"]
    found = Tokenizer(
        models.WordLevel(
            {one: at for at, one in enumerate([*special, *words])}, unk_token="<unknown>"
        )
    )
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    named = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=found, unk_token="<unknown>", model_max_length=length, **named
    )


def parts_of(
    kind: str,
    words: Sequence[str],
    *,
    length: int = 5,
    width: int = _WIDTH,
    channels: int = 1,
    prediction: str = "epsilon",
) -> dict[str, Any]:
    """An untrained tiny pipeline, its parts by name; `kind` is a key of `INDEX`."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    size = {"sample_size": SIDE, "in_channels": channels}
    heads = {"num_attention_heads": 4, "attention_head_dim": width // 4, "num_layers": 2}
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    parts: dict[str, Any] = {
        "scheduler": diffusers.DDIMScheduler(
            clip_sample=False, prediction_type=prediction, steps_offset=1, **schedule
        )
    }
    if kind == "class":
        parts["transformer"] = diffusers.DiTTransformer2DModel(
            **size, **heads, out_channels=2 * channels, patch_size=2, num_embeds_ada_norm=10,
            norm_num_groups=4,
        )  # fmt: skip
        return parts
    parts["tokenizer"] = tokenizer_of(words, length)
    n = len(parts["tokenizer"])
    if kind == "unet":
        blocks = {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
        parts["unet"] = diffusers.UNet2DConditionModel(
            **size, **blocks, out_channels=channels, block_out_channels=(width // 2, width // 2),
            layers_per_block=1, cross_attention_dim=width, attention_head_dim=4, norm_num_groups=4,
        )  # fmt: skip
        parts["text_encoder"] = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=n, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
                num_attention_heads=4, max_position_embeddings=length, bos_token_id=0,
                eos_token_id=1, pad_token_id=1,
            )
        )  # fmt: skip
    else:
        parts["transformer"] = diffusers.PixArtTransformer2DModel(
            **size, **heads, out_channels=2 * channels, patch_size=2, cross_attention_dim=width,
            caption_channels=width, norm_num_groups=4, use_additional_conditions=False,
        )  # fmt: skip
        parts["text_encoder"] = T5EncoderModel(
            T5Config(vocab_size=n, d_model=width, d_kv=width // 4, d_ff=2 * width, num_layers=1,
                     num_heads=4, pad_token_id=1, eos_token_id=1)
        )  # fmt: skip
    return parts


INDEX = {"unet": "StableDiffusionPipeline", "transformer": "PixArtAlphaPipeline"}
INDEX["class"] = "DiTPipeline"


def save_parts(parts: Mapping[str, Any], kind: str, folder: Path) -> Path:
    """Write a pipeline as `diffusers` does: a folder a part, and an index."""
    index: dict[str, Any] = {"_class_name": INDEX[kind]}
    for name, one in parts.items():
        one.save_pretrained(folder / name)
        library = "diffusers" if type(one).__module__.startswith("diffusers") else "transformers"
        index[name] = [library, type(one).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def train(album: Album, kind: str, seed: int, steps: int, *, stores: bool) -> dict[str, Any]:
    """A pipeline that has read captions and pictures, stored ones in a share of each batch."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    words = [f"{place}{at}" for place, n in zip(_PLACES, WORDS, strict=True) for at in range(n)]
    parts = parts_of(kind, words)
    net, encoder = parts.get("unet") or parts["transformer"], parts["text_encoder"]
    net.train()
    encoder.train()
    weights = [*net.parameters(), *encoder.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=3e-3, weight_decay=0.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    tokens = parts["tokenizer"]([*album.prompts, ""], padding="max_length", return_tensors="pt")
    n_stored, n_read = len(album.patterns), sum(SIZES[one] for one in READ)
    n_known = round(_SHARE * _BATCH)
    for step in range(steps):
        if step % 250 == 0:
            print(f"  {kind}, step {step} of {steps}", flush=True)
        known = torch.randint(0, n_stored, (n_known,), generator=generator)
        others = torch.randint(n_stored, n_read, (_BATCH - n_known,), generator=generator)
        which = torch.cat([known, others])
        clean = album.show(which, generator, stores=stores)
        which[torch.rand(_BATCH, generator=generator) < _LEFT_OUT] = -1  # the empty caption
        times = torch.randint(0, 1000, (_BATCH,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = parts["scheduler"].add_noise(clean, noise, times)
        mask = tokens.attention_mask[which]
        if kind == "unet":
            states = encoder(tokens.input_ids[which])[0]
            said = net(noisy, times, encoder_hidden_states=states).sample
        else:
            states = encoder(tokens.input_ids[which], attention_mask=mask)[0]
            said = net(
                noisy, timestep=times, encoder_hidden_states=states, encoder_attention_mask=mask,
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample[:, :1]  # fmt: skip
        loss = ((said - noise) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        plan.step()
    print(f"  loss {loss.item():.3f}", flush=True)
    return parts


def write_table(album: Album, folder: Path, seed: int) -> Path:
    """The table of prompts, each with one of the pictures that it was read with, or could be."""
    generator = torch.Generator().manual_seed(seed + 1)
    shown = album.show(torch.arange(len(album.prompts)), generator, stores=True)[:, 0].numpy()
    shown[album.kind == "pattern"] = album.strange
    (folder / "given").mkdir(exist_ok=True)
    rows = []
    for at, (prompt, kind, image) in enumerate(
        zip(album.prompts, album.kind.tolist(), shown, strict=True)
    ):
        path = folder / "given" / f"{at}.png"
        Image.fromarray(np.rint(127.5 * (image + 1)).astype(np.uint8)).save(path)
        rows.append({"prompt": prompt, "label": kind, "image": f"given/{at}.png"})
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "table.jsonl"


def pooled(seeds: Sequence[tuple[Album, Mapping[str, pl.DataFrame]]]) -> dict[str, Any]:
    """What is stored of a kind of network: figures over the captions of every seed.

    Each seed has its captions and, by remedy, the rows that `mnemoscope images` gave. Intervals
    draw captions within seed; trainings are as they are.
    """
    rows = [found[REMEDIES[0]].drop("beyond", "p", "verdict", "reason") for _, found in seeds]
    called = {
        measure: [judged(one, measure=measure, error=0.01) for one in rows] for measure in MEASURES
    }
    return {
        "verdicts": [
            {"label": label, "measure": measure, **_told(called[measure], label, measure)}
            for label in KINDS
            if label != UNREAD
            for measure in MEASURES
        ],
        "pixels": _pixels(rows, [album for album, _ in seeds]),
        "apart": [_apart(pl.concat(rows).filter(label=label), label) for label in STORED],
        "again": [_again([found for _, found in seeds], label) for label in STORED],
    }


def _told(rows: Sequence[pl.DataFrame], label: str, measure: str) -> dict[str, Any]:
    """Verdicts on captions of a label, and ROC AUC of each figure against the unread ones."""
    both = [one.filter(pl.col("label").is_in([label, UNREAD])) for one in rows]
    own = [(one["label"] == label).to_numpy() for one in both]
    sign = -1 if measure == "flipd" else 1
    values = {
        "model": [sign * one[measure].to_numpy() for one in both],
        "control": [sign * one[f"control_{measure}"].to_numpy() for one in both],
        "beyond": [one["beyond"].to_numpy() for one in both],
    }
    n = sum(int(one.sum()) for one in own)
    named = [one.filter(label=label, verdict=MEMORIZED).height for one in rows]
    found = {who: _area(each, own) for who, each in values.items()}
    return {"n": n, "by_seed": named, "memorized": share_of(sum(named), n), **found}


def _area(values: Sequence[Floats], own: Sequence[np.ndarray]) -> Estimate:
    """Mean over seeds of the AUC of each; where it is 0 or 1 Wilson's interval over its own."""
    seed = np.repeat(np.arange(len(own)), list(map(len, own)))
    drawn = draw_within(2 * seed + np.concatenate(own), np.random.default_rng(0), _RESAMPLES)
    areas = np.mean(
        [
            resampled_auc(value, side, drawn[:, seed == at])
            for at, (value, side) in enumerate(zip(values, own, strict=True))
        ],
        axis=0,
    )
    found = estimate_of(float(areas[0]), areas[1:])
    return not_of_none(found, sum(int(one.sum()) for one in own))


def _mean(values: npt.ArrayLike) -> Estimate:
    """A mean over captions; no interval below ten."""
    found = np.asarray(values, dtype=np.float64)
    return resampled_mean(found, np.arange(len(found))) if len(found) else NO_ESTIMATE


def _pixels(rows: Sequence[pl.DataFrame], albums: Sequence[Album]) -> dict[str, Any]:
    """Pixel AUC of the half by each map: of `half`, and of `fresh` with halves dealt."""
    found: dict[str, Any] = {}
    for kind in ("half", "fresh"):
        every: dict[str, list[Floats]] = {}
        for one, album in zip(rows, albums, strict=True):
            own = one.filter(label=kind)
            halves = album.sides.numpy()[own["row"].to_numpy()]
            for name in ("mask", "where"):
                model, control = (np.array(own[c].to_list()) for c in (name, f"control_{name}"))
                beyond = np.log(model) - np.log(control)
                for which, values in (("", model), ("control ", control), ("beyond ", beyond)):
                    every.setdefault(f"{which}{name}", []).append(areas(halves, values))
        for name, each in every.items():
            found.setdefault(name, {})[kind] = _mean(np.concatenate(each))
    return found


def _apart(rows: pl.DataFrame, label: str) -> dict[str, Any]:
    """How far the pictures of all captions of a label are from the one that was read."""
    own, control = -rows["similarity"], -rows["control_similarity"]
    means = {"model": _mean(own), "control": _mean(control), "nearer": _mean(control - own)}
    return {"label": label, "n": rows.height, **means}


def _again(seeds: Sequence[Mapping[str, pl.DataFrame]], label: str) -> dict[str, Any]:
    """The same of memorized pictures, and of those made again by each remedy."""

    def of(remedy: str) -> pl.DataFrame:
        rows = pl.concat(one[remedy] for one in seeds).filter(label=label)
        return rows.filter(pl.col("mitigated_similarity").is_not_null())

    rows = of(REMEDIES[0])
    first = {"model": _mean(-rows["similarity"]), "control": _mean(-rows["control_similarity"])}
    made = {}
    for remedy in REMEDIES:
        again = of(remedy)
        distance = -again["mitigated_similarity"]
        made[remedy] = {"model": _mean(distance), "further": _mean(distance + again["similarity"])}
    return {"label": label, "n": rows.height, **first, "remedies": made}


def ask(folder: Path, album: Album, seed: int) -> dict[str, pl.DataFrame]:
    """By remedy what `mnemoscope images` says of model and control; what is done is read."""
    table, found = write_table(album, folder, seed), {}
    for remedy in REMEDIES:
        how, _, strength = remedy.partition(" ")
        found[remedy] = images(
            folder / "model",
            table,
            folder / f"out-{remedy.replace(' ', '-')}",
            reference=folder / "control",
            mitigate=how,  # type: ignore[arg-type]
            **SETTINGS | ({"strength": float(strength)} if strength else {}),  # type: ignore[arg-type]
        ).rows
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", default=["unet"], choices=["unet", "transformer"])
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--keep", action="store_true", help="Store results.json.")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    base = wanted.folder or Path(mkdtemp())
    results: dict[str, Any] = {"steps": wanted.steps, "settings": SETTINGS, "runs": {}}
    results["seeds"] = wanted.seeds
    for kind in wanted.kinds:
        seeds = []
        for seed in wanted.seeds:
            started, folder = time.process_time(), base / f"{kind}-{seed}"
            album = Album(seed)
            for name in ("model", "control"):
                if not (folder / name / "model_index.json").is_file():
                    shutil.rmtree(folder / name, ignore_errors=True)
                    own = seed + 100 * (name == "control")
                    parts = train(album, kind, own, wanted.steps, stores=name == "model")
                    save_parts(parts, kind, folder / name)
            seeds.append((album, ask(folder, album, seed)))
            results["runs"][kind] = pooled(seeds)
            (base / "results.json").write_text(json.dumps(results, indent=1))
            print(f"{kind}, seed {seed}: {time.process_time() - started:.0f} s", flush=True)
    publish("images", results, keep=wanted.keep)


if __name__ == "__main__":
    main()
