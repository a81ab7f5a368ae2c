"""The checkpoints of one run, in the order of their steps, before any is loaded."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mnemoscope.errors import UserError
from mnemoscope.words import plural

_NUMBER = re.compile(r"\d+")
_TRAINERS = re.compile(r"checkpoint-\d+")
_MOST_LACKING = 1000


class Checkpoint(NamedTuple):
    """One model on the way: folder or hub name, revision of the hub or None, step of training."""

    name: str
    revision: str | None
    step: int

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def run(self) -> str:
        """Its run: the folder that holds the checkpoint, or the model's name on the hub."""
        path = Path(self.name)
        return str(path.parent) if path.is_dir() and _NUMBER.search(path.name) else self.name

    def signature(self) -> list[Any]:
        """What tells without loading it whether this is the checkpoint looked at before.

        Names, sizes and times of a folder's weights and configuration; of the hub, its name.
        """
        folder = Path(self.name)
        if not folder.is_dir():
            return [self.name, self.revision]
        patterns = ("*.json", "*.safetensors", "*.gguf")
        files = sorted(path for pattern in patterns for path in folder.glob(pattern))
        return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def find_checkpoints(given: Sequence[str], *, least: int = 2) -> list[Checkpoint]:
    """Find out which checkpoints were named; rising by step.

    The step is the last number in the name of a folder or revision, or the place in what was given
    where no name has one.

    Args:
        given: one folder that holds checkpoints (`checkpoint-100`, `checkpoint-200`, … as
            transformers' Trainer writes them, or any folders with a number in their names), or
            the checkpoints themselves: folders, or MODEL@REVISION of the hub.
        least: how many there must be.

    Raises:
        UserError: too few, one step twice, a folder that is none, a checkpoint's folder
            without a model, or some names with a number and some without.
    """
    only = given[0] if len(given) == 1 else ""
    is_inside = bool(only) and Path(only).is_dir() and not _holds_model(Path(only))
    found = _named(_inside(Path(only)) if is_inside else given)
    if len(found) < least:
        said = f"{plural(len(found), 'checkpoint')} named"
        if is_inside:
            said = f"{only}: {plural(len(found), 'checkpoint')} there"
        elif only.endswith("/") or only.startswith((".", "/")):
            said = f"{only}{'' if Path(only).exists() else ': no such folder'}: {said}"
        raise UserError(f"{said}, {least} or more are needed.")
    twice = [step for step, n in Counter(one.step for one in found).items() if n > 1]
    if twice:
        names = " and ".join(str(one) for one in found if one.step == twice[0])
        raise UserError(f"{names} are both step {twice[0]}. Name one of them.")
    return sorted(found, key=lambda one: one.step)


def lacking_steps(steps: Sequence[int]) -> list[int]:
    """Steps between the first and the last at which a checkpoint seems to be missing.

    Only where most neighbours are equally far apart and every gap is a multiple of that.

    >>> lacking_steps([100, 200, 300, 600])
    [400, 500]
    >>> lacking_steps([1, 2, 4, 8, 16])
    []
    """
    gaps = [after - before for before, after in pairwise(steps)]
    usual, n_usual = Counter(gaps).most_common(1)[0] if gaps else (0, 0)
    if 2 * n_usual <= len(gaps) or any(gap % usual for gap in gaps):
        return []
    between = [
        step for before, after in pairwise(steps) for step in range(before + usual, after, usual)
    ]
    return between[:_MOST_LACKING]


def describe_lacking(steps: Sequence[int]) -> list[str]:
    """Say in one sentence which steps seem to be missing; nothing where none does.

    >>> describe_lacking([100, 200, 300, 500])
    ['No check of step 400: what changed there is counted at the next one.']
    """
    lacking = lacking_steps(steps)
    if not lacking:
        return []
    shown = ", ".join(f"{step:,}" for step in lacking[:5])
    more = " and more" if len(lacking) > 5 else ""
    return [f"No check of step {shown}{more}: what changed there is counted at the next one."]


def _inside(folder: Path) -> list[str]:
    """Checkpoints in a folder; one of the Trainer's without a model is an error, not a gap."""
    children = sorted(path for path in folder.iterdir() if path.is_dir())
    empty = [path for path in children if _TRAINERS.fullmatch(path.name) and not _holds_model(path)]
    if empty:
        raise UserError(
            f"{empty[0]}: holds no model (config.json). Copy the checkpoint again, or remove it."
        )
    models = [str(path) for path in children if _holds_model(path)]
    if not models:
        raise UserError(f"{folder}: holds no checkpoint (a folder with config.json).")
    return models


def _named(given: Sequence[str]) -> list[Checkpoint]:
    """Checkpoints by what they are called."""
    parts = []
    for each in given:
        name, _, revision = each.rpartition("@")
        is_revision = bool(name) and not Path(each).exists()
        parts.append((name, revision) if is_revision else (each, None))
    numbers = [_NUMBER.findall(revision or Path(name).name) for name, revision in parts]
    if any(numbers) and not all(numbers):
        lacking = given[[bool(found) for found in numbers].index(False)]
        raise UserError(f"{lacking}: no step in its name, but in others'. Rename it.")
    steps = [int(found[-1]) for found in numbers] if all(numbers) else range(len(parts))
    return [
        Checkpoint(name, revision, step)
        for (name, revision), step in zip(parts, steps, strict=True)
    ]


def _holds_model(folder: Path) -> bool:
    names = ("config.json", "adapter_config.json")
    return any((folder / name).is_file() for name in names)
