"""What a model's name stands for, and whether it is there, without importing torch or transformers.

A name is a folder, a GGUF file, a PEFT adapter (its base model with the adapter merged in) or a
model on the hub. Names of dtypes, devices and BOS modes are checked here too, and
which checkpoints of a run were named is found out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from filecmp import cmp
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mnemoscope.errors import UserError, check_installed, first_line, nearest
from mnemoscope.parse import read_json
from mnemoscope.progress import say

DTYPES = ("auto", "float32", "float16", "bfloat16")
BOS_MODES = ("auto", "always", "never")
UNREACHABLE = (
    "no such folder here, and the hub cannot be reached. Check the path (a study's or an audit's "
    "is relative to where its command was given) or the connection."
)
NO_FILE = (
    "the hub has it, but without config.json or safetensors weights. Choose another revision or "
    "model."
)

_DEVICES = ("auto", "cpu", "cuda", "cuda:0", "mps")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OF_TRAINER = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
"""Pickles that transformers' Trainer lays beside weights."""
_TOKENIZER_FILES = (
    "tokenizer.json",
    "*.model",
    "vocab.json",
    "vocab.txt",
    "*.tiktoken",
    "tekken.json",
)
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
ROWS = 64
"""Sequences a forward pass on a processor."""
_PATIENCE = 10.0  # seconds for the one question


def check_dtype_name(name: str) -> None:
    """Raise a `UserError` for a name that is none of `DTYPES`."""
    if name not in DTYPES:
        known = ", ".join(DTYPES)
        raise UserError(f"dtype '{name}' is not one of {known}.{nearest(name, DTYPES)}")


def check_device_name(name: str) -> None:
    """Raise a `UserError` for what is no device's name; whether it is there, torch must say."""
    name = str(name)  # torch.device too
    kind, colon, index = name.partition(":")
    if name in _DEVICES or (kind == "cuda" and colon and index.isdigit()):
        return
    known = ", ".join(_DEVICES)
    raise UserError(f"device '{name}' is not one of {known}.{nearest(name, _DEVICES)}")


def find_bos(tokenizer: Any, mode: str = "auto") -> int | None:
    """Find the token id to prepend to every sequence; None for no token.

    `auto` prepends exactly where the tokenizer (or None) does so by default. Models trained with
    the token remember worse without it: for one small model the share of right suffix tokens on
    famous texts fell from .79 to .36. Raises UserError: unknown mode, or `always` for a tokenizer
    without such a token.
    """
    if mode not in BOS_MODES:
        raise UserError(
            f"bos '{mode}' is not one of {', '.join(BOS_MODES)}.{nearest(mode, BOS_MODES)}"
        )
    if mode == "never" or (mode == "auto" and tokenizer is None):
        return None
    bos_id: int | None = getattr(tokenizer, "bos_token_id", None)
    if mode == "always" and bos_id is None:
        raise UserError(
            "bos 'always': this tokenizer has no beginning-of-sequence token. Use 'auto'."
        )
    if mode == "always" or bos_id is None:
        return bos_id
    # What the tokenizer does, not `add_bos_token`: not every one has it, or obeys it.
    default = tokenizer("a").input_ids
    bare = tokenizer("a", add_special_tokens=False).input_ids
    return bos_id if default[:1] == [bos_id] and bare[:1] != [bos_id] else None


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, and the folder or hub name of its base model.

    `has_tokenizer` tells whether the folder brings a tokenizer, which is then the model's.
    """

    folder: Path
    base: str
    revision: str | None
    has_tokenizer: bool


@dataclass(frozen=True)
class Source:
    """What to hand to transformers; `name` is what the user typed, for messages."""

    name: str
    location: str
    gguf_file: str | None = None
    revision: str | None = None
    is_local: bool = True
    adapter: Adapter | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that every `from_pretrained` of this source takes."""
        found = {"gguf_file": self.gguf_file, "revision": self.revision}
        return {key: value for key, value in found.items() if value is not None}


def find_source(
    name: str | Path, revision: str | None = None, *, needs_weights: bool = True
) -> Source:
    """Resolve a name and reject what cannot be a model; the hub is not asked yet.

    Raises UserError: nothing there, not a model folder, only pickled weights, no tokenizer, several
    GGUF files, a revision of something local; or as `find_adapter`.
    """
    adapter = find_adapter(name)
    if adapter is None:
        return _find(name, revision, needs_weights)
    source = _find(adapter.base, revision or adapter.revision, needs_weights)
    return replace(source, adapter=adapter)


def _find(name: str | Path, revision: str | None, needs_weights: bool) -> Source:
    path = Path(name).expanduser()
    if revision is not None and path.exists():
        raise UserError(
            f"{name}: a local model has no revision '{revision}'. Leave --revision out."
        )
    if path.is_dir():
        return _folder(str(name), path, needs_weights)
    is_gguf = path.suffix.lower() == ".gguf"
    if path.is_file():
        if not is_gguf:
            raise UserError(f"{name}: a file, but not .gguf. Give the folder that the model is in.")
        return Source(str(name), str(path.parent), path.name)
    if is_gguf or not _HUB_NAME.fullmatch(str(name)):
        near = model_near(str(name))
        raise UserError(f"{name}: no such model folder or file. Check the path.{near}")
    return Source(str(name), str(name), revision=revision, is_local=False)


def _folder(name: str, folder: Path, needs_weights: bool) -> Source:
    if not (folder / "config.json").is_file():
        return Source(name, str(folder), _only_gguf(name, folder))
    try:
        is_object = isinstance(read_json(folder / "config.json"), dict)
    except (OSError, ValueError):
        is_object = False
    if not is_object:
        raise UserError(f"{name}: config.json cannot be read as JSON. Copy the model again.")
    if needs_weights and not _holds(folder, "*.safetensors"):
        beside = {path for pattern in _OF_TRAINER for path in folder.glob(pattern)}
        if any(path not in beside for pattern in _PICKLES for path in folder.glob(pattern)):
            raise UserError(
                f"{name}: holds only pickled weights, which can run code when read. Save it as "
                "safetensors (transformers' save_pretrained does)."
            )
        raise UserError(f"{name}: holds no weights (*.safetensors). Copy the model again.")
    if not _holds(folder, *_TOKENIZER_FILES):
        raise UserError(
            f"{name}: holds no tokenizer (tokenizer.json). Copy the files of the model's tokenizer "
            "into the folder."
        )
    return Source(name, str(folder))


def _holds(folder: Path, *patterns: str) -> bool:
    return any(any(folder.glob(pattern)) for pattern in patterns)


def _only_gguf(name: str, folder: Path) -> str:
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if not found:
        inside = [one for one in folder.glob("*/") if _NUMBER.search(one.name)]
        inside = sorted(filter(_holds_model, inside), key=lambda one: _numbers(one.name))
        if inside:
            named = ", ".join(one.name for one in inside[-_SHOWN:])
            more = f" ({len(inside) - _SHOWN} more before them)" if len(inside) > _SHOWN else ""
            raise UserError(
                f"{name}: no model, but checkpoints: {named}{more}. Name one, such as "
                f"{inside[-1]}; 'mnemoscope watch {name} --sequences TEXTS -o watch' asks them all."
            )
        raise UserError(
            f"{name}: no config.json and no .gguf file, so no model. Give a folder as saved by "
            "transformers' save_pretrained."
        )
    if len(found) > 1:
        raise UserError(f"{name}: holds {len(found)} .gguf files. Give one: {', '.join(found)}.")
    return found[0]


def find_adapter(name: str | Path) -> Adapter | None:
    """Find the adapter in a folder; None for anything else.

    Raises UserError: it names no base model, holds pickled weights only, or `peft` is not
    installed.
    """
    folder = Path(name).expanduser()
    if not (folder / _CONFIG).is_file():
        return None
    try:
        config = read_json(folder / _CONFIG)
        base = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    if not base or not isinstance(base, str):
        raise UserError(f"{name}: {_CONFIG} names no base model. Copy the adapter again.")
    if not (folder / _WEIGHTS).is_file():
        raise UserError(
            f"{name}: holds no {_WEIGHTS}; pickled weights are not read. Save the adapter with "
            "PEFT's save_pretrained."
        )
    check_installed(f"{name}: a PEFT adapter needs", "peft", extra="peft")
    has_tokenizer = _holds(folder, *_TOKENIZER_FILES)
    return Adapter(folder, base, config.get("revision"), has_tokenizer)


def merge_adapter(model: Any, adapter: Adapter) -> Any:
    """Add an adapter's weights to its base model, in place; no PEFT module stays.

    Raises UserError: an adapter that cannot be merged (prompts, prefixes), or one of another model.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(adapter.folder)).merge_and_unload()
    except (AttributeError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{adapter.folder}: cannot be merged into {adapter.base} ({first_line(error)}). "
            "Adapters of weights (LoRA and its kin) can, prompts and prefixes cannot."
        ) from error


def check_model(name: str, revision: str | None = None) -> None:
    """Refuse a model that is not there, as `find_source` and `check_on_hub` do."""
    source = find_source(name, revision)
    if not source.is_local:
        check_on_hub(source.location, source.revision)


def check_other_model(
    name: str, revision: str | None, model: str, model_revision: str | None
) -> None:
    """Refuse a reference that is the model itself, before either is loaded.

    The same name and revision, the same folder, or a copy of it: every file of weights has the same
    bytes. What is on the hub alone, or written otherwise, is compared once it is loaded.
    """
    if (name, revision) == (model, model_revision):
        raise same_model(name, model)
    one, other = Path(name).expanduser(), Path(model).expanduser()
    if not (one.exists() and other.exists()):
        return
    if one.resolve() == other.resolve():
        raise same_model(name, model)
    own, its = ({} if (at / _CONFIG).exists() else _weights_in(at) for at in (one, other))
    if own and [*own] == [*its] and all(cmp(own[at], its[at], shallow=False) for at in own):
        raise same_model(name, model)


def is_of_same_run(name: str, model: str) -> bool:
    """Whether two models are checkpoints of one training, by their folders (`checkpoint-N`)."""
    one, other = (Path(at).expanduser().absolute() for at in (name, model))
    named = (re.fullmatch(r"checkpoint-\d+", at.name) for at in (one, other))
    return one.parent == other.parent and all(named)


def _weights_in(folder: Path) -> dict[str, Path]:
    """Files of weights by their names; of a file the file itself."""
    if folder.is_file():
        return {"": folder}
    return {one.name: one for one in sorted(folder.glob("*.safetensors"))}


def same_model(name: str, model: str) -> UserError:
    """The error for a reference that has the weights of the model."""
    return UserError(
        f"{name}: is the same model as {model} and cannot serve as a reference. "
        "Name the model that it was tuned from; of a base model, one of the same tokenizer that "
        "was trained on other texts."
    )


@cache
def check_on_hub(name: str, revision: str | None) -> None:
    """Ask the hub once for a model that is not in its cache; UserError where it cannot be had."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return
        say(f"No folder {name} here: asking the Hugging Face hub for it")
        HfApi().model_info(name, revision=revision, timeout=_PATIENCE)
    except HFValidationError:
        near = model_near(name)
        raise UserError(f"{name}: no such model folder or file. Check the path.{near}") from None
    except (HfHubHTTPError, OfflineModeIsEnabled) as error:
        reason = hub_reason(error)
        if reason is not None:  # another answer is for the client itself to make something of
            raise UserError(f"{name}: {reason}{model_near(name)}") from error
    except Exception as error:  # whatever the client's network library raises
        raise UserError(f"{name}: {UNREACHABLE}{model_near(name)}") from error


def model_near(name: str) -> str:
    """Say which model was probably meant: a folder beside it, or the shipped one; else nothing."""
    beside = Path(name).expanduser().parent.glob("*/config.json")
    return nearest(name, ["embedded", *(str(one.parent) for one in beside)])


def hub_reason(error: BaseException) -> str | None:
    """Say in our words what the hub's client raised; None for what we have no words for."""
    from huggingface_hub import errors

    # The special before the general, and what the user can do.
    known = {
        errors.GatedRepoError: "needs a permission on the hub that you lack. Ask on its page.",
        errors.RepositoryNotFoundError: (
            "no folder here and no model on the hub has this name. Check it."
        ),
        errors.RevisionNotFoundError: "has no such revision on the hub. Check --revision.",
        errors.LocalEntryNotFoundError: UNREACHABLE,
        errors.OfflineModeIsEnabled: UNREACHABLE,
        errors.EntryNotFoundError: NO_FILE,
    }
    cause: BaseException | None = error
    while cause is not None:  # the error, then what led to it
        for kind, reason in known.items():
            if isinstance(cause, kind):
                return reason
        cause = cause.__cause__ or cause.__context__
    return None


_NUMBER = re.compile(r"\d+")
NAMED_STEP = re.compile(r"(^|checkpoint|ckpt|step|iter(ation)?|epoch)[-_]?\d+$", re.IGNORECASE)
"""How a folder's name ends that says its step; `release-1` does not."""


def step_of(name: str, revision: str | None = None) -> tuple[str, int] | None:
    """The training that a checkpoint is of, its folder or hub name, and its step; None: none said.

    >>> step_of("run/checkpoint-20"), step_of("owner/model", "step1000"), step_of("run/final")
    (('run', 20), ('owner/model', 1000), None)
    """
    said = revision or Path(name).name
    if not NAMED_STEP.search(said):
        return None
    return name if revision else Path(name).parent.as_posix(), int(_NUMBER.findall(said)[-1])


_SHOWN = 4  # checkpoints of a folder, the last ones
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
        """What tells, unloaded, whether this is the checkpoint seen before: names, sizes, times."""
        folder = Path(self.name)
        if not folder.is_dir():
            return [self.name, self.revision]
        patterns = ("*.json", "*.safetensors", "*.gguf")
        files = sorted(path for pattern in patterns for path in folder.glob(pattern))
        return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def find_checkpoints(given: Sequence[str], *, least: int = 2) -> list[Checkpoint]:
    """Find out which checkpoints were named; rising by step.

    Given is one folder that holds checkpoints (`checkpoint-100`, … as transformers' Trainer writes
    them, or folders whose names differ in their last number alone), or the checkpoints themselves:
    folders, or MODEL@REVISION; among several a folder of checkpoints stands for all of its own. The
    step is the last number in the name of a folder or revision
    (`NAMED_STEP`, or all names are alike but for it), 0 for a folder without one that is named
    before others with one (their base), or the place in what was given where none has one:
    `sft-2026` and `dpo-2026` name no step, nor does a number in a hub name. Raises
    UserError: fewer than `least`, one step twice, a folder without a model or with one beside its
    checkpoints, some with a step and some without, or a folder of several without.
    """
    only = given[0] if len(given) == 1 else ""
    is_inside = bool(only) and Path(only).is_dir() and not _holds_model(Path(only))
    if only and not is_inside and any(Path(only).glob("checkpoint-*/config.json")):
        raise UserError(
            f"{only}: a model, and checkpoints beside it. Name the checkpoints "
            f"({Path(only) / 'checkpoint-*'}), or a copy of the model alone."
        )
    found = _named(_inside(Path(only))) if is_inside else _named(_expanded(given), is_listed=True)
    if is_inside and len(found) > 1 and not _say_steps([Path(one.name).name for one in found]):
        raise UserError(
            f"{only}: no checkpoint there has a step in its name, so none is the last. Name them "
            f"in their order: {' '.join(one.name for one in found[:2])} …"
        )
    if len(found) < least:
        from mnemoscope.words import plural  # loads numpy, which settings do without

        said = f"{plural(len(found), 'checkpoint')} named"
        if is_inside:
            said = f"{only}: {plural(len(found), 'checkpoint')} there"
        elif only and not Path(only).exists() and "@" not in only:
            said = f"{only}: no such folder, and no model at several steps: {said}"
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
        deeper = next(iter(sorted(folder.glob("*/*/config.json"))), None)
        where = f"Did you mean {deeper.parent.parent}?" if deeper else "Name the folder that holds"
        more = "" if deeper else " them, or each as saved by save_pretrained, with its tokenizer."
        raise UserError(f"{folder}: holds no checkpoint (a folder with config.json). {where}{more}")
    return models


def _expanded(given: Sequence[str]) -> list[str]:
    """What was given, with the checkpoints of each folder that holds no model in its place."""
    is_of_many = [Path(one).is_dir() and not _holds_model(Path(one)) for one in given]
    return [
        name
        for one, expands in zip(given, is_of_many, strict=True)
        for name in (_inside(Path(one)) if expands else [one])
    ]


def _named(given: Sequence[str], *, is_listed: bool = False) -> list[Checkpoint]:
    """Checkpoints by what they are called; `is_listed`: one by one, so the first may be a base."""
    parts = []
    for each in given:
        name, _, revision = each.rpartition("@")
        is_revision = bool(name) and not Path(each).exists()
        parts.append((name, revision) if is_revision else (each, None))
    is_here = [Path(name).expanduser().exists() for name, _ in parts]
    names = [
        revision or (Path(name).name if here else "")
        for (name, revision), here in zip(parts, is_here, strict=True)
    ]
    numbers = [_NUMBER.findall(name) for name in names]
    by_name = [bool(NAMED_STEP.search(name)) for name in names]
    if is_listed and is_here[0] and by_name.count(False) == 1 < len(names) and not by_name[0]:
        names[0], numbers[0] = "step0", ["0"]  # the base that the others were trained from
    at = next((at for at, found in enumerate(numbers) if not found), None)
    has_step = any(map(NAMED_STEP.search, names)) or not all(is_here)
    if any(numbers) and at is not None and has_step:
        is_base = is_listed and by_name.count(False) == 1
        remedy = (
            "Name it first, if it is their base, or rename it."
            if is_here[at] and is_base
            else "Rename it."
            if is_here[at]
            else "Name a folder that exists, or a model of the hub with its step (MODEL@step1000)."
        )
        raise UserError(f"{given[at]}: no step in its name, but in others'. {remedy}")
    steps = [int(found[-1]) for found in numbers] if _say_steps(names) else range(len(parts))
    return [
        Checkpoint(name, revision, step)
        for (name, revision), step in zip(parts, steps, strict=True)
    ]


def _say_steps(names: Sequence[str]) -> bool:
    """Whether all names say a step: each by its end, or they are alike but for the last number.

    >>> _say_steps(["run-100", "run-200"]), _say_steps(["sft-2026", "dpo-2026"])
    (True, False)
    """
    alike = {re.sub(r"\d+(?=\D*$)", "#", name) for name in names}
    by_end = all(map(NAMED_STEP.search, names))
    return by_end or (len(alike) == 1 and all(map(_NUMBER.search, names)))


def _numbers(name: str) -> list[int]:
    return [int(one) for one in _NUMBER.findall(name)]


def _holds_model(folder: Path) -> bool:
    names = ("config.json", "adapter_config.json")
    return any((folder / name).is_file() for name in names)
