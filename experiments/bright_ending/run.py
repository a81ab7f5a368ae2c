"""The bright ending on a small text-to-image diffusion transformer with planted local memories.

    python -m experiments.bright_ending.run [--seeds 0 1 2] [--steps 1500] [--keep FOLDER]

Captions of three words say how an image looks: waves of a direction and a length, how bright it is,
how strong they are; where the waves lie is drawn anew each time. Of some captions one half, left or
right by caption, is one fixed pattern whenever they are read: a local memory whose place is known.
A control network reads the same captions, and nothing is fixed. Asked is, of generated images:
does the attention to the last text token at the last step (the mask) lie on the memorized half?
Does the masked noise norm tell memorized captions from others better than the unmasked one?
Source: Chen et al. 2024, arXiv 2410.21665.
"""

import argparse
import math
import time
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from experiments.pages import figure, table_of
from mnemoscope.diffusion.measures import ending_mask, local_similarity, noise_norm
from mnemoscope.stats import Estimate, Floats, draw_within, estimate_of, resampled_auc

SIDE, PATCH = 8, 2
GRID = SIDE // PATCH
WORDS = (8, 6, 6)  # of each place in a caption
START, END = 0, 1
LENGTH = 5  # start, three words, end
N_MEMORIZED, N_OTHERS, N_IMAGES = 8, 24, 4
GUIDANCE, SAMPLING_STEPS = 3.0, 50
_WIDTH, _HEADS, _BLOCKS = 32, 4, 2
_BATCH = 48
_LEFT_OUT = 0.1  # captions read as the empty text
_RESAMPLES = 1000
TRUTH = np.arange(N_MEMORIZED + N_OTHERS) < N_MEMORIZED

Figures = dict[str, np.ndarray]
"""What was asked of one network, (captions,) each, memorized ones first."""
Measure = Callable[[Figures, np.ndarray], Floats]


class Attention(nn.Module):
    """Attention from one set of states to another (or itself), its weights kept."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(_WIDTH, _WIDTH)
        self.key_value = nn.Linear(_WIDTH, 2 * _WIDTH)
        self.out = nn.Linear(_WIDTH, _WIDTH)
        self.weights = torch.empty(0)

    def forward(
        self, states: torch.Tensor, others: torch.Tensor, causal: bool = False
    ) -> torch.Tensor:
        """States (n, q, width) look at others (n, k, width)."""
        n, size = len(states), _WIDTH // _HEADS
        query = self.query(states).view(n, -1, _HEADS, size).transpose(1, 2)
        key, value = self.key_value(others).view(n, -1, 2, _HEADS, size).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        if not self.training and not causal:
            self.weights = (query @ key.transpose(2, 3) / math.sqrt(size)).softmax(dim=-1)
        made: torch.Tensor = self.out(found.transpose(1, 2).reshape(n, -1, _WIDTH))
        return made


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(_WIDTH, 2 * _WIDTH), nn.GELU(), nn.Linear(2 * _WIDTH, _WIDTH))


class TextBlock(nn.Module):
    """A causal block, as in CLIP's text encoder: the end token alone has read the whole text."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(_WIDTH) for _ in range(2))
        self.attention, self.mlp = Attention(), mlp()

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States (n, tokens, width)."""
        inner = self.norms[0](states)
        states = states + self.attention(inner, inner, causal=True)
        made: torch.Tensor = states + self.mlp(self.norms[1](states))
        return made


class ImageBlock(nn.Module):
    """Self-attention among patches, cross-attention to the text, MLP; the noise level scales."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(_WIDTH) for _ in range(3))
        self.own, self.cross, self.mlp = Attention(), Attention(), mlp()
        self.scale = nn.Linear(_WIDTH, 2 * _WIDTH)

    def forward(
        self, states: torch.Tensor, text: torch.Tensor, level: torch.Tensor
    ) -> torch.Tensor:
        """Patches (n, patches, width), text (n, tokens, width), noise level (n, width)."""
        gain, shift = self.scale(level)[:, None].chunk(2, dim=2)
        inner = self.norms[0](states) * (1 + gain) + shift
        states = states + self.own(inner, inner)
        states = states + self.cross(self.norms[1](states), text)
        made: torch.Tensor = states + self.mlp(self.norms[2](states))
        return made


class Network(nn.Module):
    """Predict the noise in images (n, side, side), given captions (n, tokens) and times (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(2 + sum(WORDS), _WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, _WIDTH))
        self.text = nn.ModuleList([TextBlock()])
        self.text_norm = nn.LayerNorm(_WIDTH)
        self.patches = nn.Linear(PATCH**2, _WIDTH)
        self.grid = nn.Parameter(0.02 * torch.randn(GRID**2, _WIDTH))
        self.time = nn.Sequential(nn.Linear(16, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH))
        blocks = [ImageBlock() for _ in range(_BLOCKS)]
        self.blocks, self.cross = nn.ModuleList(blocks), [one.cross for one in blocks]
        self.out = nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, PATCH**2))

    def forward(
        self, images: torch.Tensor, captions: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Predicted noise (n, side, side)."""
        text = self.words(captions) + self.places
        for block in self.text:
            text = block(text)
        text = self.text_norm(text)
        waves = times[:, None] * torch.arange(1, 9) * math.pi
        level = self.time(torch.cat([waves.sin(), waves.cos()], dim=1))
        n = len(images)
        own = images.view(n, GRID, PATCH, GRID, PATCH).transpose(2, 3).reshape(n, GRID**2, PATCH**2)
        states = self.patches(own) + self.grid + level[:, None]
        for block in self.blocks:
            states = block(states, text, level)
        cut: torch.Tensor = self.out(states).view(n, GRID, GRID, PATCH, PATCH)
        return cut.transpose(2, 3).reshape(n, SIDE, SIDE)

    def cross_attention(self) -> torch.Tensor:
        """Weights of the latest forward, (n, layers, heads, patches, tokens)."""
        return torch.stack([one.weights for one in self.cross], dim=1)


class World:
    """Captions, which of them are memorized where, and images drawn of them."""

    def __init__(self, seed: int, *, memorizing: bool) -> None:
        generator = np.random.default_rng(seed)
        every = np.array(list(product(*map(range, WORDS))))
        chosen = every[generator.permutation(len(every))[: N_MEMORIZED + N_OTHERS]]
        firsts = 2 + np.cumsum([0, *WORDS[:-1]])
        self.meanings = torch.from_numpy(chosen)
        ends = [np.full((len(chosen), 1), one) for one in (START, END)]
        self.captions = torch.from_numpy(np.concatenate([ends[0], chosen + firsts, ends[1]], 1))
        self.patterns = torch.from_numpy(generator.normal(0, 0.8, (N_MEMORIZED, SIDE, SIDE)))
        sides = torch.arange(N_MEMORIZED) % 2
        column = torch.arange(SIDE) >= SIDE // 2
        self.halves = (column == sides[:, None].bool())[:, None].expand(-1, SIDE, -1)
        self.memorizing = memorizing

    def draw(self, which: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """New images of captions by number (n,): float32 (n, side, side)."""
        direction, bright, strength = self.meanings[which].T
        angle, size = (
            (direction % 4) * math.pi / 4,
            1.0 + 1.2 * torch.div(direction, 4, rounding_mode="floor"),
        )
        n, axis = len(which), torch.arange(SIDE) * 2 * math.pi / SIDE
        along = angle.cos()[:, None, None] * axis + angle.sin()[:, None, None] * axis[:, None]
        phase = 2 * math.pi * torch.rand(n, 1, 1, generator=generator)
        level = (bright / (WORDS[1] - 1) - 0.5)[:, None, None]
        waves = (0.3 + 0.7 * strength / (WORDS[2] - 1))[:, None, None] * torch.sin(
            size[:, None, None] * along + phase
        )
        images: torch.Tensor = waves + level + 0.3 * torch.randn(n, SIDE, SIDE, generator=generator)
        if self.memorizing:
            known = which < N_MEMORIZED
            own = which[known]
            images[known] = torch.where(
                self.halves[own], self.patterns[own].float(), images[known].float()
            )
        return images.float()


def schedule(times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of image and of noise at times in [0, 1], (n, 1, 1)."""
    angle = (0.02 + 0.96 * times)[:, None, None] * math.pi / 2
    return angle.cos(), angle.sin()


def train(world: World, steps: int, seed: int, share: float) -> tuple[Network, float]:
    """A network that has read captions and images, `share` of them of the memorized captions."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    n_known = round(share * _BATCH)
    empty = torch.tensor([START] + [END] * (LENGTH - 1))
    for _ in range(steps):
        which = torch.cat(
            [
                torch.randint(0, N_MEMORIZED, (n_known,), generator=generator),
                torch.randint(
                    N_MEMORIZED, len(world.captions), (_BATCH - n_known,), generator=generator
                ),
            ]
        )
        images, captions = world.draw(which, generator), world.captions[which].clone()
        captions[torch.rand(_BATCH, generator=generator) < _LEFT_OUT] = empty
        times = torch.rand(_BATCH, generator=generator)
        noise = torch.randn(_BATCH, SIDE, SIDE, generator=generator)
        clean, noisy = schedule(times)
        loss = ((network(clean * images + noisy * noise, captions, times) - noise) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        plan.step()
    return network.eval(), loss.item()


@torch.no_grad()
def generate(
    network: Network, world: World, seed: int
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]], list[torch.Tensor]]:
    """Images of every caption by guided DDIM; per step the noises and the cross-attention."""
    generator = torch.Generator().manual_seed(seed + 1000)
    captions = world.captions.repeat_interleave(N_IMAGES, dim=0)
    empty = torch.tensor([START] + [END] * (LENGTH - 1)).expand(len(captions), -1)
    images = torch.randn(len(captions), SIDE, SIDE, generator=generator)
    times = torch.linspace(1, 0, SAMPLING_STEPS + 1)
    noises, attention = [], []
    for now, then in pairwise(times):
        here = now.expand(len(captions))
        without = network(images, empty, here)
        told = network(images, captions, here)
        attention.append(network.cross_attention())
        noises.append((told, without))
        guided = without + GUIDANCE * (told - without)
        clean, noisy = schedule(here)
        found = ((images - noisy * guided) / clean).clamp(-3, 3)
        clean, noisy = schedule(then.expand(len(captions)))
        images = clean * found + noisy * guided
    return images, noises, attention


def as_pixels(patches: np.ndarray) -> np.ndarray:
    """Values of patches (n, grid²) at their pixels, (n, side, side)."""
    whole = patches.reshape(-1, GRID, GRID)
    return whole.repeat(PATCH, axis=1).repeat(PATCH, axis=2)


def by_caption(values: np.ndarray) -> np.ndarray:
    """Mean over a caption's images: (captions,) of (captions · images,)."""
    mean: np.ndarray = values.reshape(-1, N_IMAGES).mean(axis=1)
    return mean


def ask(network: Network, world: World, seed: int) -> Figures:
    """Figures of one network."""
    images, noises, attention = generate(network, world, seed)
    mask = as_pixels(ending_mask(attention[-1], LENGTH - 1))
    noises = [(told[:, None], without[:, None]) for told, without in noises]
    found = {
        "plain": np.mean([noise_norm(*both) for both in noises], axis=0),
        "masked": np.mean([noise_norm(*both, mask) for both in noises], axis=0),
        "plain, first step": noise_norm(*noises[0]),
        "masked, first step": noise_norm(*noises[0], mask),
        "brightness": mask.mean(axis=(1, 2)),
    }
    found = {name: by_caption(values) for name, values in found.items()}
    # Halves of the others are dealt as those of the memorized are: what a lean to one side gives.
    halves = world.halves[torch.arange(len(world.captions)) % N_MEMORIZED].numpy()
    halves = halves.repeat(N_IMAGES, axis=0)
    known = N_MEMORIZED * N_IMAGES
    patterns = world.patterns.numpy().repeat(N_IMAGES, axis=0)
    true = halves[:known].astype(float)
    found["error in the half"] = by_caption(
        -local_similarity(images[:known, None], patterns[:, None], true)
    )
    found["error outside"] = by_caption(
        -local_similarity(images[:known, None], patterns[:, None], 1 - true)
    )
    for step, place in product((0, SAMPLING_STEPS // 2, SAMPLING_STEPS - 1), range(LENGTH)):
        lit = ending_mask(attention[step], place)
        found[f"area {step} {place}"] = by_caption(areas(halves[:, ::PATCH, ::PATCH], lit))
    return found


def areas(halves: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """ROC AUC of each image's half, (n,), by patches: lit (n, grid²), halves (n, grid, grid)."""
    inside = halves.reshape(len(lit), -1)
    own = lit[inside].reshape(len(lit), -1, 1)
    apart = np.sign(own - lit[~inside].reshape(len(lit), 1, -1))
    found: np.ndarray = 0.5 + apart.mean(axis=(1, 2)) / 2
    return found


def resampled(found: list[Figures], measure: Measure) -> Estimate:
    """A figure, mean of networks, with an interval that draws networks, then their captions.

    What is measured is of one network and of how often each caption counts in each resample.
    """
    generator = np.random.default_rng(0)
    drawn = [draw_within(TRUTH, generator, _RESAMPLES) for _ in found]
    every = np.stack([measure(*both) for both in zip(found, drawn, strict=True)])
    networks, columns = generator.integers(
        0, (len(found), _RESAMPLES), (_RESAMPLES, len(found), 2)
    ).T
    draws = every[:, 1:][networks, columns].mean(axis=0)
    return estimate_of(float(every[:, 0].mean()), draws, 0.025)


def area_of(name: str) -> Measure:
    return lambda one, drawn: resampled_auc(one[name], TRUTH, drawn)


def mean_of(name: str, known: bool) -> Measure:
    """Mean over the memorized captions, or over the others."""

    def measure(one: Figures, drawn: np.ndarray) -> Floats:
        some = TRUTH if known else ~TRUTH
        values = one[name][some]
        counts = np.concatenate([np.ones((1, some.sum())), drawn[:, some]])
        found: Floats = counts @ values / some.sum()
        return found

    return measure


def shown(found: list[Figures], measure: Measure) -> str:
    """A figure and its interval."""
    return figure(*resampled(found, measure), scale=1, digits=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--keep", type=Path, help="Folder: networks asked once are not trained again."
    )
    parser.add_argument("--share", type=float, default=0.33, help="Of a batch: memorized captions.")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    found: dict[str, list[Figures]] = {"memorizing": [], "control": []}
    for seed, name in product(wanted.seeds, found):
        kept = wanted.keep and wanted.keep / f"{name}-{seed}-{wanted.steps}-{wanted.share}.npz"
        if kept is None or not kept.is_file():
            world = World(seed, memorizing=name == "memorizing")
            network, loss = train(world, wanted.steps, seed, wanted.share)
            answer = ask(network, world, seed)
            seconds = time.process_time() - started
            print(f"seed {seed}, {name}: loss {loss:.3f}, {seconds:.0f} s", flush=True)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                np.savez(kept, **answer)  # type: ignore[arg-type]  # taken for allow_pickle
        else:
            answer = dict(np.load(kept))
        found[name].append(answer)
    last = SAMPLING_STEPS - 1
    for name, ones in found.items():
        print(f"\n{name}: {len(ones)} networks, {N_MEMORIZED} captions with a half, "
              f"{N_OTHERS} others, {N_IMAGES} images each")  # fmt: skip
        ends = [np.mean([one[at] for one in ones]) for at in ("error in the half", "error outside")]
        print(f"distance from the pattern in the half {ends[0]:.2f}, outside {ends[1]:.2f}")
        rows = [
            [f"{kind} norm", *(shown(ones, area_of(f"{kind}{at}")) for at in ("", ", first step"))]
            for kind in ("plain", "masked")
        ]
        gains = []
        for at in ("", ", first step"):
            masked, plain = area_of(f"masked{at}"), area_of(f"plain{at}")

            def gain(
                one: Figures, drawn: np.ndarray, masked: Measure = masked, plain: Measure = plain
            ) -> Floats:
                return masked(one, drawn) - plain(one, drawn)

            gains.append(shown(ones, gain))
        rows.append(["the mask adds", *gains])
        rows.append(["brightness of the ending", shown(ones, area_of("brightness")), ""])
        print(table_of(["AUC of captions with a half", "all steps", "first step"], rows))
        rows = []
        for place, token in enumerate(("start", "word 1", "word 2", "word 3", "end (the mask)")):
            steps = (0, SAMPLING_STEPS // 2, last)
            parts = [shown(ones, mean_of(f"area {at} {place}", True)) for at in steps]
            parts.append(shown(ones, mean_of(f"area {last} {place}", False)))
            rows.append([token, *parts])
        heads = ["pixel AUC of the half, attention to", "first step", "middle", "last"]
        print(table_of([*heads, "last, others"], rows))
        lit = np.array([one[f"area {last} {LENGTH - 1}"][:N_MEMORIZED] for one in ones])
        for side, some in (("all", lit), ("left", lit[:, ::2]), ("right", lit[:, 1::2])):
            each = ", ".join(f"{one:.3f}" for one in some.mean(axis=1))
            print(f"the mask by network, {side} halves: {each}")


if __name__ == "__main__":
    main()
