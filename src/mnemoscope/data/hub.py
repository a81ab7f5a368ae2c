"""Find the files of a data set on the Hugging Face hub, or in its local cache.

`owner/name[:config][@revision][#split]`; a split is a name of the data set's card, or of its files.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mnemoscope.data.formats import TABLE_ENDINGS, is_there, table_ending
from mnemoscope.errors import UserError, nearest
from mnemoscope.parse import parse_yaml
from mnemoscope.progress import say
from mnemoscope.words import plural

_NAME = re.compile(
    r"(?P<name>[\w.-]{1,96}/[\w.-]{1,96})(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?(#(?P<split>[\w.-]+))?"
)
_ADDRESS = re.compile(r"(https:/+huggingface\.co/|hf:/+)datasets/")
_PATIENCE = 10.0  # seconds for the one question
_SHARD = re.compile(r"[-.](?P<number>\d{5})-of-(?P<total>\d{5})(-[0-9a-f]+)?$")
_CARD = "README.md"


class HubName(NamedTuple):
    """A data set as it was asked for."""

    name: str
    config: str | None
    revision: str | None
    split: str | None


class HubFiles(NamedTuple):
    """Files of one split, in order, and the commit that they are of."""

    files: list[Path]
    commit: str


def parse_hub_name(source: str) -> HubName | None:
    """What a source names on the hub; None of other texts, and where a path is meant.

    A path is meant where its folder is there, or where it ends as files do that are read. An
    address of the hub before the name is left out.
    """
    source = _ADDRESS.sub("", source, count=1)
    found = _NAME.fullmatch(source)
    folder = Path(source).parent
    if found is None or source.startswith((".", "~")) or (is_there(folder) and folder.is_dir()):
        return None
    if Path(source).suffix in (".txt", ".md", ".npy") or table_ending(Path(source)):
        return None
    return HubName(found["name"], found["config"], found["revision"], found["split"])


def find_hub_files(asked: HubName) -> HubFiles:
    """The files of rows of a data set, fetched where they are not in the cache.

    Raises UserError: no network and nothing in the cache, no such data set, or a config or split
    that is not there or not named where there are several.
    """
    folder, names = _list(asked)
    chosen = _choose(asked, names, _configs(asked, folder, names))
    if folder is None or not all((folder / name).is_file() for name in chosen):
        say(f"Fetching {plural(len(chosen), 'file')} of {asked.name}")
        folder = _snapshot(asked, chosen)
    return HubFiles([folder / name for name in chosen], folder.name)


def _list(asked: HubName) -> tuple[Path | None, list[str]]:
    """Names of a data set's files on the hub; else the cached snapshot, and those that it holds."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        # One question, without the retries of the client and its lines about them.
        found = HfApi().dataset_info(asked.name, revision=asked.revision, timeout=_PATIENCE)
        return None, sorted(one.rfilename for one in found.siblings or ())
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UserError(
            f"{_shown(asked)}: no such data set or revision on the hub, or it needs a log-in "
            "('hf auth login'); and no file or folder of that name is here."
        ) from None
    except Exception as error:  # whatever the network has to say: the cache may have it
        reason = type(error).__name__
    try:
        folder = Path(
            snapshot_download(
                asked.name, revision=asked.revision, repo_type="dataset", local_files_only=True
            )
        )
    except Exception:
        raise UserError(
            f"{_shown(asked)}: no file or folder here, and the hub cannot be reached ({reason}). "
            f"Where there is a network run 'hf download {asked.name} --repo-type dataset "
            "--local-dir FOLDER', then give the file of FOLDER that you want."
        ) from None
    say(
        f"{_shown(asked)}: the hub cannot be reached ({reason}); taken is the copy of commit "
        f"{folder.name[:7]} in the cache"
    )
    names = [one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()]
    return folder, sorted(names)


def _snapshot(asked: HubName, names: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            asked.name, revision=asked.revision, repo_type="dataset", allow_patterns=names
        )
    except Exception as error:
        raise UserError(
            f"{_shown(asked)}: cannot be fetched ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0][:120]}). Run the command again."
        ) from error
    return Path(found)


class _Config(NamedTuple):
    """A config as a card describes it: for each split patterns of its files."""

    name: str
    is_default: bool
    splits: list[tuple[str, list[re.Pattern[str]]]]


def _configs(asked: HubName, folder: Path | None, names: list[str]) -> list[_Config]:
    """What the head of the data set's card describes; nothing where it has none."""
    if _CARD not in names:
        return []
    path = (_snapshot(asked, [_CARD]) if folder is None else folder) / _CARD
    head = re.match(r"---\s*\n(.*?)\n---\s*\n", path.read_text("utf-8", "replace"), re.DOTALL)
    try:
        values = parse_yaml(head[1]) if head else None
    except ValueError:
        values = None
    found = values.get("configs") if isinstance(values, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        return []
    return [_config_of(one) for one in found]


def _config_of(said: Any) -> _Config:
    files, folder, splits = said.get("data_files", []), Path(str(said.get("data_dir", "."))), []
    has_splits = isinstance(files, list) and any(isinstance(one, dict) for one in files)
    for one in files if has_splits else [files]:
        entry = one if isinstance(one, dict) else {"path": one}
        paths = entry.get("path")
        patterns = [
            _pattern((folder / str(path)).as_posix())
            for path in (paths if isinstance(paths, list) else [paths])
        ]
        splits.append((str(entry.get("split", "train")), patterns))
    return _Config(str(said.get("config_name", "default")), bool(said.get("default")), splits)


def _choose(asked: HubName, names: list[str], configs: list[_Config]) -> list[str]:
    """Files of the config and split that were asked for, or of the only ones."""
    splits = _of_card(asked, names, configs) if configs else _of_names(asked, names)
    if not splits:
        raise UserError(
            f"{_shown(asked)}: holds no file of rows ({', '.join(TABLE_ENDINGS)}). "
            f"It holds: {', '.join(names[:10]) or 'nothing'}."
        )
    split = _pick(asked, "split", asked.split, sorted(splits))
    check_whole(splits[split], _shown(asked))
    if not configs:
        _check_one_folder(asked, split, splits[split])
    return splits[split]


def _pick(asked: HubName, kind: str, wanted: str | None, known: list[str]) -> str:
    if wanted is None and len(known) == 1:
        return known[0]
    sign = {"split": "#", "config": ":"}[kind]
    if wanted is None:
        raise UserError(
            f"{_shown(asked)}: which {kind}? Name it with '{sign}': {', '.join(known[:20])}."
        )
    if wanted not in known:
        raise UserError(
            f"{_shown(asked)}: no {kind} '{wanted}'.{nearest(wanted, known)} "
            f"It holds: {', '.join(known[:20])}."
        )
    return wanted


def _of_card(asked: HubName, names: list[str], configs: list[_Config]) -> dict[str, list[str]]:
    """Splits of a config as the card describes them."""
    by_name = {one.name: one for one in configs}
    main = next((name for name, one in by_name.items() if one.is_default), None)
    main = main or ("default" if "default" in by_name else None)
    config = by_name[_pick(asked, "config", asked.config or main, list(by_name))]
    splits: defaultdict[str, list[str]] = defaultdict(list)
    rows = [name for name in names if _is_rows(name)]
    for split, wanted in config.splits:
        splits[split] += [name for name in rows if any(one.fullmatch(name) for one in wanted)]
    return {split: found for split, found in splits.items() if found}


def _pattern(glob: str) -> re.Pattern[str]:
    """A hub pattern as an expression: `*` stays in a folder, `**` does not."""
    parts = re.split(r"(\*\*/?|\*|\?)", glob)
    signs = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(signs.get(part) or re.escape(part) for part in parts))


def _of_names(asked: HubName, names: list[str]) -> dict[str, list[str]]:
    """Splits by the names of files: `train-00000-of-00004.parquet`, `passages_nodup.jsonl.gz`."""
    rows = [name for name in names if _is_rows(name)]
    if asked.config is not None:
        folders = sorted({part for name in rows for part in Path(name).parts[:-1]})
        config = _pick(asked, "config", asked.config, folders)
        rows = [name for name in rows if config in Path(name).parts[:-1]]
    splits: defaultdict[str, list[str]] = defaultdict(list)
    for name in rows:
        splits[_SHARD.sub("", _stem(name))].append(name)
    return dict(splits)


def _check_one_folder(asked: HubName, split: str, names: list[str]) -> None:
    """Refuse a split in several folders, but for one set of shards: each is a configuration."""
    folders = sorted({Path(name).parent.as_posix() for name in names})
    shard = _SHARD.search(_stem(names[0]))
    if len(folders) > 1 and (shard is None or int(shard["total"]) != len(names)):
        parts = [set(Path(name).parts[:-1]) for name in names]
        known = ", ".join(sorted(set[str]().union(*parts) - parts[0].intersection(*parts))[:20])
        raise UserError(
            f"{_shown(asked)}: '{split}' is in {len(folders)} folders ({', '.join(folders[:20])}). "
            f"Choose a configuration with ':': {known}."
        )


def _is_rows(name: str) -> bool:
    return table_ending(Path(name)) is not None


def _stem(name: str) -> str:
    return Path(name).name.removesuffix(table_ending(Path(name)) or "")


def check_whole(names: Iterable[str], where: str) -> None:
    """Raise UserError where shards that names speak of (`train-00000-of-00004`) are missing.

    A set of shards may be there several times, in several folders.
    """
    found: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for name in names:
        if shard := _SHARD.search(_stem(name)):
            found[_SHARD.sub("", _stem(name)), int(shard["total"])][shard["number"]] += 1
    for (split, total), shards in found.items():
        n, wanted = shards.total(), total * max(shards.values())
        if n != wanted:
            raise UserError(f"{where}: {n:,} of {wanted:,} files of '{split}'. Fetch the others.")


def _shown(asked: HubName) -> str:
    parts = zip(("", ":", "@", "#"), asked, strict=True)
    return "".join(sign + value for sign, value in parts if value)
