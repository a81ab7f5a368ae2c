"""Ask a text-to-image pipeline of `diffusers` for noise, attention and the fall of its density.

One adapter for the networks that read a prompt by cross-attention (a UNet of Stable Diffusion's
kind, the transformer of PixArt) and for the transformer of DiT, whose prompt is the number of a
class. Pictures are made by deterministic DDIM, whatever sampler the pipeline was saved with.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mnemoscope.diffusion.measures import ending_mask
from mnemoscope.errors import UserError, check_installed, first_line
from mnemoscope.lm.hub import hub_reason
from mnemoscope.lm.placement import check_dtype, find_device, tensor_digest
from mnemoscope.lm.tokenizer import quiet_transformers
from mnemoscope.lm.vision import read_picture
from mnemoscope.stats import Floats
from mnemoscope.store import Facts

_MOST_TOKENS = 120  # of a tokenizer without a limit: PixArt's
_LARGE = 128  # latents from which PixArt's transformer is told size and shape of the picture
Noise = Callable[[torch.Tensor], torch.Tensor]
"""The noise that a network predicts in points (n, …)."""


class Told(NamedTuple):
    """Prompts as the network reads them.

    Attributes:
        states: of the text's tokens (n, tokens, width), or the numbers of classes (n,).
        mask: which tokens are read, (n, tokens); None where all are.
        last: the place of each text's end token, (n,); None of classes.
    """

    states: torch.Tensor
    mask: torch.Tensor | None
    last: np.ndarray | None

    def rows(self, which: Sequence[int] | slice) -> "Told":
        """Some of them."""
        mask = None if self.mask is None else self.mask[which]
        return Told(self.states[which], mask, None if self.last is None else self.last[which])


class Made(NamedTuple):
    """Pictures that were generated, n of them, and what the network said on the way.

    Attributes:
        latents: at the end, (n, channels, height, width).
        guidance: noise with the prompt less noise without, (steps, n, channels, height, width).
        mask: the bright ending at the last step, (n, height, width); None without cross-attention.
        dropped: at which steps guidance was left out, (steps, n).
    """

    latents: torch.Tensor
    guidance: Floats
    mask: Floats | None
    dropped: np.ndarray


class ImageModel:
    """A text-to-image pipeline, asked step by step.

    Attributes:
        name, revision, dtype, fingerprint: as records name it; SHA-256 of all its weights.
        shape: of a latent, (channels, height, width).
        n_weights: of the network that predicts noise.
    """

    def __init__(self, parts: Mapping[str, Any], name: str, revision: str | None = None) -> None:
        from diffusers import DDIMScheduler

        self.name, self.revision, self.kind = name, revision, parts["kind"]
        self.net: Any = parts.get("unet") or parts["transformer"]
        self.vae, self.encoder = parts.get("vae"), parts.get("text_encoder")
        self.tokenizer, given = parts.get("tokenizer"), parts["scheduler"]
        modules = {"net": self.net, "text": self.encoder, "vae": self.vae}
        for one in modules.values():
            if one is not None:
                one.eval().requires_grad_(False)
        if "beta_schedule" not in given:
            raise UserError(
                f"{name}: its scheduler {given.get('_class_name')} has no noise levels "
                "(a flow?). Give a pipeline that predicts noise, such as Stable Diffusion."
            )
        clip = {"clip_sample": given.get("clip_sample", False)}  # DDIM's own default clips latents
        self.scheduler = DDIMScheduler.from_config(given, **clip)
        size = self.net.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.shape = (self.net.config.in_channels, height, width)
        self.device, self.dtype = self.net.device, str(self.net.dtype).removeprefix("torch.")
        self.n_weights = sum(one.numel() for one in self.net.parameters())
        self.fingerprint = _fingerprint(modules)

    # -- prompts and pictures -----------------------------------------------------------------

    @torch.no_grad()
    def tell(self, prompts: Sequence[str]) -> Told:
        """Encode prompts; what is longer than the text encoder reads is cut, as pipelines do.

        Raises UserError: no number of a class, of a model that reads classes.
        """
        if self.kind == "class":
            most = self.net.config.num_embeds_ada_norm  # one more stands for no class
            for one in prompts:
                if one and not (one.isdigit() and int(one) < most):
                    raise UserError(f"{self.name}: prompt {one!r}: give a class, 0 to {most - 1}.")
            numbers = [int(one or most) for one in prompts]
            return Told(torch.tensor(numbers, device=self.device), None, None)
        tokenizer, encoder = self.tokenizer, self.encoder
        assert tokenizer is not None
        assert encoder is not None
        tokens = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=min(tokenizer.model_max_length, _MOST_TOKENS),
            truncation=True,
            return_tensors="pt",
        )
        read = tokens.attention_mask.to(self.device)
        wants = self.kind == "transformer" or getattr(encoder.config, "use_attention_mask", False)
        mask = read if wants else None
        states = encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]
        last = tokens.attention_mask.sum(dim=1).numpy() - 1  # of padding too CLIP makes end tokens
        return Told(states.to(self.net.dtype), mask if self.kind == "transformer" else None, last)

    @torch.no_grad()
    def show(self, latents: torch.Tensor) -> np.ndarray:
        """Decode latents to pictures, uint8 (n, height, width, 3); without a VAE they are these."""
        if self.vae is not None:
            config = self.vae.config
            shift = getattr(config, "shift_factor", None) or 0.0
            latents = self.vae.decode(latents / config.scaling_factor + shift).sample
        found = latents.float().cpu().permute(0, 2, 3, 1).numpy()
        if found.shape[3] != 3:
            found = found.mean(axis=3, keepdims=True).repeat(3, axis=3)
        return np.asarray(np.rint(255 * (found / 2 + 0.5).clip(0, 1)), dtype=np.uint8)

    @torch.no_grad()
    def read(self, path: Path) -> torch.Tensor:
        """The latent of a picture's file, (channels, height, width); it is brought to size.

        Raises UserError: no picture.
        """
        channels, height, width = self.shape
        if self.vae is not None:
            channels = self.vae.config.in_channels
            times = 2 ** (len(self.vae.config.block_out_channels) - 1)
            height, width = times * height, times * width
        image = read_picture(path, str(path), "L" if channels == 1 else "RGB")
        own = image.resize((width, height))
        pixels = np.asarray(own, dtype=np.float32).reshape(height, width, -1)
        given = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]
        given = given.to(self.device, self.net.dtype)
        if self.vae is not None:
            shift = getattr(self.vae.config, "shift_factor", None) or 0.0
            given = (self.vae.encode(given).latent_dist.mode() - shift) * (
                self.vae.config.scaling_factor
            )
        elif channels not in (1, 3):
            raise UserError(f"{self.name}: {channels} channels and no VAE, so it reads no picture.")
        return given[0]

    # -- the network ----------------------------------------------------------------------------

    def predict(self, latents: torch.Tensor, time: torch.Tensor, told: Told) -> torch.Tensor:
        """What the network predicts of noisy latents (n, …) at a time of its schedule: as these."""
        if self.kind == "unet":
            found: torch.Tensor = self.net(latents, time, encoder_hidden_states=told.states).sample
            return found
        n, times = len(latents), time.to(self.device).expand(len(latents))
        if self.kind == "class":
            found = self.net(latents, timestep=times, class_labels=told.states).sample
        else:
            size: Facts = {"resolution": None, "aspect_ratio": None}
            if self.net.config.sample_size == _LARGE:
                sides = torch.tensor(self.shape[1:], device=self.device, dtype=self.net.dtype)
                size = {"resolution": (8 * sides).repeat(n, 1)}
                size["aspect_ratio"] = (sides[:1] / sides[1:]).repeat(n, 1)
            found = self.net(
                latents,
                timestep=times,
                encoder_hidden_states=told.states,
                encoder_attention_mask=told.mask,
                added_cond_kwargs=size,
            ).sample
        return found[:, : self.shape[0]]  # the rest are variances

    def levels(self, time: torch.Tensor) -> tuple[float, float]:
        """Shares of picture and of noise at a time of the schedule."""
        kept = float(self.scheduler.alphas_cumprod[int(time)])
        return kept**0.5, (1 - kept) ** 0.5

    def noise(self, said: torch.Tensor, latents: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """The noise in what the network said of latents; some say velocity, or the picture."""
        clean, noisy = self.levels(time)
        kind = self.scheduler.config.prediction_type
        if kind == "v_prediction":
            return clean * said + noisy * latents
        return (latents - clean * said) / noisy if kind == "sample" else said

    def start(self, seeds: Sequence[int]) -> torch.Tensor:
        """Noise to begin from, one seed a picture; the same on every device."""
        every = [
            torch.randn(self.shape, generator=torch.Generator().manual_seed(one)) for one in seeds
        ]
        return torch.stack(every).to(self.device, self.net.dtype)

    @torch.no_grad()
    def generate(
        self,
        told: Told,
        latents: torch.Tensor,
        *,
        steps: int,
        guidance: float,
        limits: np.ndarray | None = None,
    ) -> Made:
        """Make pictures from noise (n, …) with guidance.

        Where the norm of the guidance at a step is above its `limits` (steps,), the step is made
        without the prompt. Raises UserError: what comes out is not finite.
        """
        empty = self.tell([""]).rows([0] * len(latents))
        self.scheduler.set_timesteps(steps)
        times, mask = self.scheduler.timesteps, None
        apart, dropped = [], np.zeros((len(times), len(latents)), dtype=bool)
        for number, time in enumerate(times):
            with self._watching(number == len(times) - 1) as seen:
                said = self.predict(latents, time, told)
            without = self.predict(latents, time, empty)
            found = self.noise(said, latents, time) - self.noise(without, latents, time)
            apart.append(found.float().cpu().numpy())
            if seen:
                mask = self._mask(seen, told)
            strength = torch.full((len(latents),), guidance, device=self.device)
            if limits is not None:
                dropped[number] = np.sqrt((apart[-1] ** 2).sum(axis=(1, 2, 3))) > limits[number]
                strength[torch.from_numpy(dropped[number]).to(self.device)] = 0.0
            scale = strength[:, None, None, None].to(said.dtype)
            guided = without + scale * (said - without)
            latents = self.scheduler.step(guided, time, latents).prev_sample
        if not bool(latents.isfinite().all()):
            raise UserError(
                f"{self.name}: what it makes in {self.dtype} is not finite. Use --dtype "
                "float32, or check that the weights are whole."
            )
        return Made(latents, np.stack(apart), mask, dropped)

    @contextmanager
    def _watching(self, is_wanted: bool) -> Iterator[dict[str, torch.Tensor]]:
        """Note the weights of cross-attention, (n, heads, queries, tokens) by layer."""
        seen: dict[str, torch.Tensor] = {}
        if not is_wanted or self.kind == "class":
            yield seen
            return
        before = self.net.attn_processors
        names = [one for one in before if ".attn2." in one]
        if any(one.startswith("down_blocks") for one in names):
            names = [one for one in names if one.startswith("down_blocks")]
        noted = {one: _Noting(before[one], seen, one) for one in names}
        self.net.set_attn_processor({**before, **noted})
        try:
            yield seen
        finally:
            self.net.set_attn_processor(before)

    def _mask(self, seen: dict[str, torch.Tensor], told: Told) -> Floats:
        """The bright ending of the layers that see most places, at the size of a latent."""
        most = max(one.shape[2] for one in seen.values())
        layers = [one for one in seen.values() if one.shape[2] == most]
        assert told.last is not None
        mask = ending_mask(torch.stack(layers, dim=1).float().cpu(), told.last)
        height, width = self.shape[1:]
        times = round((height * width / most) ** 0.5)
        grid = mask.reshape(-1, height // times, width // times)
        return grid.repeat(times, axis=1).repeat(times, axis=2)

    def dimension(
        self, told: Told, latents: torch.Tensor, *, at: float, draws: int, seed: int
    ) -> tuple[Floats, Floats]:
        """FLIPD of the prompted model at latents (n, …), and its standard error: as `hutchinson`.

        `at` is the share of the schedule at which the noise stands.
        """
        time = torch.tensor(int(at * (self.scheduler.config.num_train_timesteps - 1)))
        clean, noisy = self.levels(time)

        def noise(points: torch.Tensor) -> torch.Tensor:
            return self.noise(self.predict(points, time, told), points, time)

        return hutchinson(noise, latents, noisy, scale=clean, draws=draws, seed=seed)


class _Noting:
    """An attention processor that does as the one it stands for, and notes the weights."""

    def __init__(self, own: Any, seen: dict[str, torch.Tensor], name: str) -> None:
        self.own, self.seen, self.name = own, seen, name

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Weights are softmax(q·k) as the module has it, over the tokens that may be read."""
        n, texts = len(hidden_states), encoder_hidden_states
        if attn.norm_cross:
            texts = attn.norm_encoder_hidden_states(texts)
        query, key = (
            made.view(n, -1, attn.heads, made.shape[-1] // attn.heads).transpose(1, 2)
            for made in (attn.to_q(hidden_states), attn.to_k(texts))
        )
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        scores = attn.scale * (query.float() @ key.float().transpose(2, 3))
        if attention_mask is not None:
            masked = attn.prepare_attention_mask(attention_mask, texts.shape[1], n)
            scores = scores + masked.view(n, attn.heads, -1, masked.shape[-1])
        self.seen[self.name] = scores.softmax(dim=-1)
        return self.own(attn, hidden_states, encoder_hidden_states, attention_mask, **kwargs)


def hutchinson(
    noise: Noise,
    points: torch.Tensor,
    sigma: float,
    *,
    scale: float = 1.0,
    draws: int = 8,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Estimate FLIPD at points (n, …) from predicted noise: (n,), and its standard error (n,).

    As `measures.flipd` with the score −ε/σ, its trace by Hutchinson's estimator: the mean of v·Jv
    over `draws` of random signs, one backward pass each. NaN for the error of a single draw. Exact
    where J is diagonal.

    Source: Kamkari et al. 2024, arXiv 2406.03537; of prompted models Ross et al., 2411.00113.
    """
    generator = torch.Generator().manual_seed(seed)
    at = (scale * points.detach()).requires_grad_()
    with torch.enable_grad():
        found = noise(at)
    traces = []
    for number in range(draws):
        signs = torch.randint(0, 2, at.shape, generator=generator) * 2 - 1
        sign = signs.to(at.device, at.dtype)
        (moved,) = torch.autograd.grad(found, at, sign, retain_graph=number < draws - 1)
        traces.append((moved * sign).flatten(1).double().sum(dim=1))
    trace = torch.stack(traces)
    own = (found.detach().flatten(1).double() ** 2).sum(dim=1)
    value = at[0].numel() - sigma * trace.mean(dim=0) + own
    error = sigma * trace.std(dim=0) / draws**0.5
    return value.cpu().numpy(), error.cpu().numpy()


def kind_of(index: Any, name: str) -> str:
    """What a pipeline is by its index: ``unet``, ``transformer`` or ``class``; else UserError."""
    made = {key: one[1] for key, one in index.items() if isinstance(one, list | tuple) and one[1]}
    if made.get("transformer") in ("DiTTransformer2DModel", "Transformer2DModel"):
        if "text_encoder" not in made:
            return "class"
    elif "text_encoder" in made and "tokenizer" in made and "text_encoder_2" not in made:
        if made.get("unet") == "UNet2DConditionModel":
            return "unet"
        if made.get("transformer") == "PixArtTransformer2DModel":
            return "transformer"
    raise UserError(
        f"{name}: {index.get('_class_name', 'this pipeline')} is none that can be asked. Give one "
        "of Stable Diffusion's kind (a UNet and one text encoder), PixArt's or DiT's."
    )


def load_pipeline(
    name: str, revision: str | None = None, *, dtype: str = "float32", device: str = "auto"
) -> ImageModel:
    """Load the parts of a pipeline from a folder or the hub: safetensors, no code of its own.

    Raises UserError: diffusers is missing; no such pipeline; one that cannot be asked; damaged.
    """
    check_installed("a text-to-image model needs", "diffusers", extra="diffusion")
    kind, place = check_dtype(dtype), find_device(device)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # complains when it is imported
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()  # a sampler that is not ours
    where = {} if revision is None else {"revision": revision}
    parts: Facts = {}
    try:
        with quiet_transformers():
            index = diffusers.DiffusionPipeline.load_config(name, **where)
            parts["kind"] = kind_of(index, name)
            for part in ("unet", "transformer", "text_encoder", "tokenizer", "vae"):
                library, made = index.get(part) or (None, None)
                if made is None:
                    continue
                family = getattr(transformers if library == "transformers" else diffusers, made)
                given = {} if part == "tokenizer" else {"dtype": kind, "use_safetensors": True}
                parts[part] = family.from_pretrained(name, subfolder=part, **where, **given)
                if part != "tokenizer":
                    parts[part].to(place)
            parts["scheduler"] = diffusers.DDIMScheduler.load_config(
                name, subfolder="scheduler", **where
            )
    except UserError:
        raise
    except Exception as error:  # diffusers raises what its parts raise
        said = hub_reason(error) or f"cannot be loaded as a pipeline ({first_line(error)})."
        raise UserError(f"{name}: {said}") from error
    return ImageModel(parts, name, revision)


def _fingerprint(modules: Mapping[str, Any]) -> str:
    """SHA-256 of the weights of all parts, sorted by name."""
    whole = hashlib.sha256()
    for part, module in modules.items():
        for name, tensor in sorted(() if module is None else module.state_dict().items()):
            shape = f"{tensor.dtype} {tuple(tensor.shape)}"
            whole.update(f"\n{part}.{name} {shape} {tensor_digest(tensor)}".encode())
    return whole.hexdigest()
