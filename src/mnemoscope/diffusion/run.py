"""Ask, judge, and write `images.parquet`, page, pictures and SARIF; last, `images.json`."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import ConfigDict, Field

from mnemoscope.audits.library import kept_clean
from mnemoscope.audits.settings import checked
from mnemoscope.conditions import Gate
from mnemoscope.data.rows import lines_of, read_rows
from mnemoscope.diffusion.found import IMAGES, PAGE, PICTURES, SARIF, TABLE, Images, check_gate
from mnemoscope.diffusion.measures import (
    MEMORIZED,
    UNDECIDED,
    UNREAD,
    by_label,
    judged,
    limits_of,
    local_similarity,
    noise_norm,
    sentence_of,
    why_undecided,
)
from mnemoscope.diffusion.page import page_of, png_of
from mnemoscope.errors import UserError
from mnemoscope.files import file_sha256, json_bytes, made_folder
from mnemoscope.lm.hub import check_device_name, check_dtype_name
from mnemoscope.progress import Progress, progress_shown, say
from mnemoscope.store import Facts, kept_in_parts
from mnemoscope.study.models import check_unlike
from mnemoscope.study.settings import BoundedSettings, split_revision

if TYPE_CHECKING:
    import torch

    from mnemoscope.diffusion.model import ImageModel, Told

COLUMNS = ("prompt", "image", "seed", "label")
"""Columns that are read: the first is needed."""
_PARTS, _INDEX = "parts", "model_index.json"
_FIGURES: Facts = {
    "norm": pl.Float64,
    "masked": pl.Float64,
    "flipd": pl.Float64,
    "flipd_error": pl.Float64,
    "similarity": pl.Float64,
    "similarity_masked": pl.Float64,
    "norm_steps": pl.List(pl.Float64),
    "mask": pl.List(pl.Float32),
    "where": pl.List(pl.Float32),
    "picture": pl.Binary,
}
"""What is asked of a model, by row: means over its pictures, dimension and picture of the first."""


class Settings(BoundedSettings):
    """What decides the answers beside models and table."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    steps: int = Field(default=50, ge=2, description="Steps of DDIM.")
    guidance: float = Field(default=7.5, ge=0, description="Strength of the guidance.")
    draws: int = Field(default=4, ge=1, description="Pictures a prompt.")
    flipd_draws: int = Field(default=8, ge=0, description="Of Hutchinson's trace; 0: no FLIPD.")
    flipd_at: float = Field(default=0.3, gt=0, lt=1, description="Noise of FLIPD in the schedule.")
    measure: Literal["norm", "masked", "flipd"] = Field(
        default="norm", description="The figure that the verdict is drawn from."
    )
    error: float = Field(
        default=0.01, gt=0, lt=1, description="Chance that an unread prompt is called memorized."
    )
    # The least of those tried that takes pictures as far as the control's: `experiments/images`.
    strength: float = Field(default=2.0, gt=0, description="Noise on the prompt, of --mitigate.")
    seed: int = Field(default=0, ge=0, description="Of all draws.")
    batch_size: int = Field(default=8, ge=1, description="Pictures at once.")


class Asked(NamedTuple):
    """A row of the table, its `line` if known: a prompt, its first seed, what is known of it."""

    key: int
    prompt: str
    seed: int
    line: int | None
    image: Path | None = None
    label: str | None = None


def images(
    model: str | Path,
    table: Any,
    out: str | Path,
    *,
    reference: str | Path | None = None,
    mitigate: Literal["guidance", "prompt"] | None = None,
    columns: Mapping[str, str] | None = None,
    dtype: str = "float32",
    device: str = "auto",
    redo: bool = False,
    progress: bool | None = None,
    **settings: Any,
) -> Images:
    """Say of each prompt whether a diffusion model gives back what it was trained on.

    Args:
        model: a pipeline of `diffusers`: a folder or a hub name (``NAME@REVISION``).
        table: one row a prompt: `prompt`, and where there are such `image` (the path of the
            picture that it may have stored), `seed` and `label` (``unread``: neither model read
            it).
        out: a folder for tables, page and pictures, where a stopped run goes on.
        reference: the control, a pipeline alike that did not read the pictures.
        mitigate: make memorized pictures again, without guidance where its norm is high, or with
            noise on the prompt.
        columns: of the table, by their paths.
        dtype: of the weights: float32, bfloat16 or float16.
        device: where the models run.
        redo: write over another result in the folder.
        progress: whether to show how far it is; None: in a notebook.
        settings: of `Settings`: `steps`, `guidance`, `draws`, `measure`, `error` and so on.

    Returns:
        `Images`: verdicts by prompt, with every figure beside the control's.

    Raises:
        UserError: no such pipeline or table, one that cannot be asked, a control of another shape
            or with the same weights, or another result in the folder.
    """
    asked, names, rows = _prepared(model, reference, table, columns, settings, dtype, device)
    where = str(table) if isinstance(table, str | Path) else None
    if mitigate is not None and not any(one.label == UNREAD for one in rows):
        raise UserError(
            "mitigate: nothing says which norm is high. Add prompts that the model did not read, "
            f"with '{UNREAD}' in the column label."
        )
    folder = Path(out)
    with ExitStack() as stack:
        stack.enter_context(progress_shown(progress))
        stack.enter_context(kept_clean(folder))
        from mnemoscope.diffusion.model import load_pipeline

        loaded = []
        for name in names:
            say(f"Loading {name}")
            loaded.append(load_pipeline(*split_revision(name), dtype=dtype, device=device))
        own, control = [*loaded, None][:2]
        assert own is not None
        if settings.get("measure") == "masked" and own.kind == "class":
            raise UserError(f"{own.name}: reads classes and no text, so no mask. Use measure norm.")
        if control is not None:
            check_unlike(control.name, control.fingerprint, own.name, own.fingerprint)
            if control.shape != own.shape:
                raise UserError(
                    f"{control.name}: latents of {control.shape}, those of {own.name} are "
                    f"{own.shape}. Give a control of the same kind."
                )
        return _made(rows, where, own, control, mitigate, asked, folder, redo=redo)


def _prepared(
    model: str | Path,
    reference: str | Path | None,
    table: Any,
    columns: Mapping[str, str] | None,
    settings: Mapping[str, Any],
    dtype: str,
    device: str,
) -> tuple[Settings, list[str], list[Asked]]:
    """Settings, names of the models and rows, all checked before torch is loaded."""
    asked = checked(Settings, **settings)
    if asked.measure == "flipd" and not asked.flipd_draws:
        raise UserError("measure 'flipd': needs draws of its trace. Set flipd_draws, such as 8.")
    check_dtype_name(dtype)
    if dtype == "auto":
        raise UserError("dtype 'auto': name float32, bfloat16 or float16.")
    check_device_name(device)
    names = [str(one) for one in (model, reference) if one is not None and str(one) != "none"]
    for name in names:
        check_pipeline(split_revision(name)[0])
    return asked, names, read_prompts(table, columns, seed=asked.seed)


def check_pipeline(name: str) -> None:
    """Refuse a path that holds no pipeline; a name of the hub is asked for when it is loaded."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / _INDEX).is_file():
            raise UserError(f"{name}: no pipeline of diffusers (no {_INDEX}). Check the path.")
    elif path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"{name}: no such pipeline folder. Check the path.")


def read_prompts(
    source: Any, columns: Mapping[str, str] | None = None, *, seed: int = 0
) -> list[Asked]:
    """Read a table of prompts; paths of images are taken from the table's folder.

    Raises UserError: no column `prompt`; a row without one; an image that is not there; a seed that
    is no whole number.
    """
    paths = dict(columns or {})
    if str(source).lower().endswith(".csv"):  # a CSV is read where a column is its text
        paths |= {"text": paths.get("prompt", "prompt")}
    rows = read_rows(source, paths, prefix=None)
    if rows is None or "prompt" not in rows.frame.columns or not rows.frame.height:
        raise UserError(
            f"{source}: no table with a column 'prompt'. Give one, or name the column with "
            "--column prompt=PATH."
        )
    is_path = isinstance(source, str | Path)
    base = Path(source).parent if is_path else Path()
    found = []
    lines = lines_of(source)
    given = rows.frame.select(one for one in COLUMNS if one in rows.frame.columns)
    for number, row in enumerate(given.iter_rows(named=True)):
        where, prompt = f"{rows.where}, row {number}", row["prompt"]
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"{where}: no prompt. Give a text, or drop the row.")
        first = row.get("seed")
        if first is None:
            first = seed + 1000 * number
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise UserError(f"{where}: seed {first!r} is no whole number. Give 0 or more.")
        image = None if row.get("image") is None else base / str(row["image"])
        if image is not None and not image.is_file():
            raise UserError(f"{where}: {image}: no such picture. Check the path.")
        label = None if row.get("label") is None else str(row["label"])
        line = lines[number] if len(lines) == rows.frame.height else None
        found.append(Asked(number, prompt, first, line, image, label))
    return found


def cost_of(
    rows: Sequence[Asked], n_models: int, settings: Settings, mitigate: str | None
) -> dict[str, int]:
    """What a run takes at most: passes through a network by what they are for, and pictures."""
    pictures = len(rows) * settings.draws
    asked = sum(one.label != UNREAD for one in rows)
    again = 0 if mitigate is None else 2 * settings.steps * asked
    return {
        "prompts": len(rows),
        "pictures": n_models * pictures,
        "forward passes": n_models * (2 * settings.steps * pictures) + again,
        "backward passes": n_models * len(rows) * settings.flipd_draws,
    }


def check_gates(
    gates: Sequence[Gate],
    model: str | Path,
    table: Any,
    *,
    reference: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    **settings: Any,
) -> None:
    """Refuse conditions that can never hold of what `images` would answer; no model is loaded."""
    asked, names, rows = _prepared(model, reference, table, columns, settings, "float32", "cpu")
    n_unread = sum(one.label == UNREAD for one in rows)
    for gate in gates:
        has_control = len(names) > 1
        check_gate(gate, undecided=why_undecided(n_unread, asked.error, has_control=has_control))


def plan(
    model: str | Path,
    table: Any,
    *,
    reference: str | Path | None = None,
    mitigate: str | None = None,
    columns: Mapping[str, str] | None = None,
    **settings: Any,
) -> dict[str, int]:
    """What `images` would take; no model is loaded. Errors as `images` before it loads one."""
    asked, names, rows = _prepared(model, reference, table, columns, settings, "float32", "cpu")
    return cost_of(rows, len(names), asked, mitigate)


def _made(
    rows: Sequence[Asked],
    where: str | None,
    own: "ImageModel",
    control: "ImageModel | None",
    mitigate: str | None,
    settings: Settings,
    folder: Path,
    *,
    redo: bool,
) -> Images:
    key = IMAGES.key(
        [where, *((*one[:4], one.image and file_sha256(one.image), one.label) for one in rows)],
        [own.fingerprint, own.dtype, control and control.fingerprint],
        mitigate,
        settings.model_dump(mode="json"),
    )
    store = IMAGES.store(folder)
    if done := store.already_made("images", key, "pictures", redo=redo):
        return IMAGES.load(store, done)
    cost = cost_of(rows, 1 + (control is not None), settings, mitigate)
    say("; ".join(f"{n:,} {name}" for name, n in cost.items()) + ". A stopped run goes on.")
    kept = made_folder(folder / _PARTS / key[:16])
    found = _figures(own, rows, settings, "the model", kept)
    other = None if control is None else _figures(control, rows, settings, "the control", kept)
    table = _joined(rows, found, other)
    table = judged(table, measure=settings.measure, error=settings.error)
    if mitigate is not None:
        table = _mitigated(own, rows, table, mitigate, settings, kept)
    record: Mapping[str, Any] = {
        **IMAGES.head("diffusers", "transformers"),
        "model": _said(own),
        "reference": None if control is None else _said(control),
        "settings": settings.model_dump(mode="json") | {"mitigate": mitigate},
        "latent": list(own.shape),
        "cost": cost,
        "table": where,
        "verdicts": dict(table["verdict"].drop_nulls().value_counts().iter_rows()),
        "unread": int((table["label"] == UNREAD).sum()),
        "by_label": by_label(table),
        "sentence": sentence_of(table, settings.error),
    }
    page = page_of(table, record)
    binary = [name for name, kind in table.schema.items() if kind == pl.Binary]
    result = Images(table.drop(binary), record, folder)
    with store.making("images") as made:
        made.put(TABLE, result.rows)
        shutil.rmtree(folder / PICTURES, ignore_errors=True)  # of another table
        made.put(PAGE, page.encode())
        made.put(SARIF, json_bytes(IMAGES.sarif(result)))
        for row in table.filter(pl.col("verdict").is_not_null()).iter_rows(named=True):
            for name in binary:
                if row[name] is not None:
                    ending = name.removesuffix("picture").strip("_")
                    file = f"{row['row']:05d}{'-' if ending else ''}{ending}.png"
                    made.put(f"{PICTURES}/{file}", row[name])
        made.facts |= {"key": key, **record}
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    return result


def _said(model: "ImageModel") -> Mapping[str, Any]:
    names = ("name", "revision", "dtype", "fingerprint", "kind", "n_weights")
    return {one: getattr(model, one) for one in names}


def _figures(
    model: "ImageModel", rows: Sequence[Asked], settings: Settings, who: str, kept: Path
) -> pl.DataFrame:
    """Every figure of a model, one row a prompt; what an earlier run finished is read."""

    def make(some: Sequence[Asked], progress: Progress) -> pl.DataFrame:
        made = _part(model, some, settings)
        progress.advance(len(some))
        return made

    size = max(1, settings.batch_size // settings.draws)
    return pl.concat(kept_in_parts(kept, f"Asking {who}", rows, size, make, unit="prompts"))


def _part(model: "ImageModel", rows: Sequence[Asked], settings: Settings) -> pl.DataFrame:
    draws, n = settings.draws, len(rows)
    told = model.tell([one.prompt for one in rows for _ in range(draws)])
    seeds = [one.seed + draw for one in rows for draw in range(draws)]
    made = model.generate(
        told, model.start(seeds), steps=settings.steps, guidance=settings.guidance
    )

    def mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
        """Over the pictures of each prompt, which are beside one another on this axis."""
        shape = (*values.shape[:axis], n, draws, *values.shape[axis + 1 :])
        averaged: np.ndarray = values.reshape(shape).mean(axis=axis + 1)
        return averaged

    steps = np.stack([noise_norm(one, 0.0) for one in made.guidance])
    where = mean((made.guidance**2).sum(axis=2).mean(axis=0))
    found: Facts = {"norm": mean(steps.mean(axis=0)), "norm_steps": mean(steps, 1).T}
    found["where"] = np.sqrt(where).reshape(n, -1)
    if made.mask is not None:
        masked = np.stack([noise_norm(one, 0.0, made.mask) for one in made.guidance])
        found["masked"] = mean(masked.mean(axis=0))
        found["mask"] = mean(made.mask).reshape(n, -1)
    firsts = slice(0, None, draws)
    found["picture"] = [png_of(one) for one in model.show(made.latents[firsts])]
    own = made.latents[firsts].clone()
    for at, one in enumerate(rows):
        if one.image is not None:
            own[at] = model.read(one.image)
    if settings.flipd_draws:
        asked = {"at": settings.flipd_at, "draws": settings.flipd_draws, "seed": settings.seed}
        dimension = model.dimension(told.rows(firsts), own, **asked)  # type: ignore[arg-type]
        found["flipd"], found["flipd_error"] = dimension
    for name, mask in (("similarity", None), ("similarity_masked", made.mask)):
        if name == "similarity" or mask is not None:
            stored = own.repeat_interleave(draws, dim=0).float().cpu()
            alike = mean(local_similarity(made.latents.float().cpu(), stored, mask))
            found[name] = [
                None if one.image is None else float(value)
                for one, value in zip(rows, alike, strict=True)
            ]
    columns = {
        name: [None] * n if (values := found.get(name)) is None else list(values)
        for name in _FIGURES
    }
    return pl.DataFrame(columns, schema=pl.Schema(_FIGURES)).with_columns(
        pl.col(pl.Float64).fill_nan(None)
    )


def _joined(rows: Sequence[Asked], own: pl.DataFrame, control: pl.DataFrame | None) -> pl.DataFrame:
    if control is None:
        control = pl.DataFrame({name: [None] * len(rows) for name in _FIGURES}, schema=_FIGURES)
    table = pl.DataFrame(
        {
            "row": [one.key for one in rows],
            "line": [one.line for one in rows],
            "prompt": [one.prompt for one in rows],
            "label": [one.label for one in rows],
            "seed": [one.seed for one in rows],
            "image": [None if one.image is None else str(one.image) for one in rows],
        },
        schema_overrides={"line": pl.Int64, "label": pl.String, "image": pl.String},
    )
    named = control.rename({one: f"control_{one}" for one in control.columns})
    return pl.concat([table, own, named], how="horizontal")


def _mitigated(
    model: "ImageModel",
    rows: Sequence[Asked],
    table: pl.DataFrame,
    how: str,
    settings: Settings,
    kept: Path,
) -> pl.DataFrame:
    """The table with the pictures that were made again, and how far they are from the first.

    Those are memorized; where nothing can be told, those whose norm is above that of all but a
    share `error` of the unread prompts.
    """
    unread = table.filter(label=UNREAD)
    limits = limits_of(unread["norm_steps"].to_list(), settings.error)
    high = float(np.quantile(unread["norm"].to_numpy(), 1 - settings.error))
    is_high = (pl.col("verdict") == UNDECIDED) & (pl.col("norm") > high)
    chosen = table.filter((pl.col("verdict") == MEMORIZED) | is_high)["row"].to_list()

    schema: Facts = {
        "row": pl.Int64,
        "mitigated_norm": pl.Float64,
        "mitigated_similarity": pl.Float64,
        "steps_without_prompt": pl.Int64,
        "mitigated_picture": pl.Binary,
    }

    def make(some: Sequence[int], progress: Progress) -> pl.DataFrame:
        own = [rows[one] for one in some]
        seeds = [one.seed for one in own]
        told, start = model.tell([one.prompt for one in own]), model.start(seeds)
        asked = {"steps": settings.steps, "guidance": settings.guidance}
        if how == "prompt":
            told = _perturbed(told, settings, seeds)
            made = model.generate(told, start, **asked)  # type: ignore[arg-type]
        else:
            made = model.generate(told, start, limits=limits, **asked)  # type: ignore[arg-type]
        norms = np.stack([noise_norm(one, 0.0) for one in made.guidance]).mean(axis=0)
        progress.advance(len(some))
        return pl.DataFrame(
            {
                "row": some,
                "mitigated_norm": norms,
                "mitigated_similarity": [
                    None if row.image is None else _likeness(model, latent, row.image)
                    for row, latent in zip(own, made.latents, strict=True)
                ],
                "steps_without_prompt": made.dropped.sum(axis=0),
                "mitigated_picture": [png_of(one) for one in model.show(made.latents)],
            },
            schema=schema,
        )

    parts = kept_in_parts(kept, "Making again", chosen, settings.batch_size, make, unit="pictures")
    return table.join(
        pl.concat([pl.DataFrame(schema=schema), *parts]),
        on="row",
        how="left",
        maintain_order="left",
    )


def _likeness(model: "ImageModel", latent: "torch.Tensor", image: Path) -> float:
    both = (one[None].float().cpu() for one in (latent, model.read(image)))
    return float(local_similarity(*both)[0])


def _perturbed(told: "Told", settings: Settings, seeds: Sequence[int]) -> "Told":
    """Prompts with Gaussian noise on the states of their tokens, as a share of their spread.

    Source: Somepalli et al. 2023, arXiv 2305.20086 ("Gaussian noise at inference").
    """
    import torch

    if told.mask is None and told.last is None:
        raise UserError("mitigate 'prompt': a class has no text to perturb. Use 'guidance'.")
    size = told.states[0].shape
    noise = torch.stack(
        [torch.randn(size, generator=torch.Generator().manual_seed(one)) for one in seeds]
    ).to(told.states.device, told.states.dtype)
    return told._replace(states=told.states + settings.strength * told.states.std() * noise)
