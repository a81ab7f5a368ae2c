"""A study, a labelled table or an audit as a data set of the Hugging Face hub.

Texts stay here unless they are asked for: what a model was trained on is seldom its user's to
publish. Without them a sequence is its features, its verdict, its classes and a hash of its tokens,
by which whoever has the same texts finds it again.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from typing_extensions import TypedDict

from mnemoscope.benchmark.sources import ATTENTION, TABLE
from mnemoscope.data.hub import parse_hub_name
from mnemoscope.data.table import read_table
from mnemoscope.errors import MnemoscopeError, UserError, first_line
from mnemoscope.files import atomic_folder, made_folder, refuse_filled, write_parquet, write_text
from mnemoscope.pipeline.label import samples_of
from mnemoscope.report.content import ReportContent, model_facts, report_content
from mnemoscope.report.page import write_report
from mnemoscope.report.tables import BY_TRUTH
from mnemoscope.stats import rows_of
from mnemoscope.store import Store
from mnemoscope.study.folder import Study, is_study
from mnemoscope.taxonomy.labels import count_classes
from mnemoscope.taxonomy.names import NON_MEMO
from mnemoscope.taxonomy.sample import SampleKey
from mnemoscope.version import __version__
from mnemoscope.words import figure, percent

HASH = "tokens_sha256"
"""Column: SHA-256 of a sequence's token ids as little-endian int32, in hexadecimal."""
_OPEN = (
    *("sequence_id", "duplicates", "held_out", "is_code", "is_memorized", "memorization_score"),
    *("smallest_gap", "rouge_l", "rouge_3", "is_incrementing", "is_repeating"),
    *("published_is_memorized", "published_memorization_score"),
)
"""Columns that tell nothing of a text but what was measured."""
_AUDIT = ("audit.html", "audit.json", "audit.sarif", "report.html")  # beside its tables
_OURS = ("data/*", "texts/*", "settings.yaml", "*.parquet", *_AUDIT)
_TAG = "mnemoscope"
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_CITATION = """\
@article{dentan2025guess,
  title   = {Guess or Recall? Training CNNs to Classify and Localize Memorization in LLMs},
  author  = {Dentan, J\\'er\\'emie and Buscaldi, Davide and Vanier, Sonia},
  journal = {arXiv preprint arXiv:2508.02573},
  year    = {2025}
}"""


class _Share(TypedDict):
    share: float


class _Summary(TypedDict):
    reproduced: _Share
    guessed: _Share
    recalled: _Share


class _Model(TypedDict):
    name: str


class _Audit(TypedDict):
    model: _Model
    summary: _Summary
    files: dict[str, str]


def write_dataset(
    target: Path, out: Path, *, texts: bool = False, documents: bool = False, licence: str = ""
) -> Path:
    """Write a folder as the hub wants it: `README.md` with its front matter, and Parquet.

    `target` is a labelled study, a table of sequences, or an audit, which holds `documents`. With
    `texts` the folder also holds tokens, all other columns, and the examples of a study's report.
    `out` is a new or empty folder; it is there whole or not at all. `licence` is the hub's word for
    it, such as `cc-by-4.0`. Raises UserError: an audit without `documents` or with links in it,
    something else than these three, a study without labels, or a folder with other content.
    NoRoomError: the disk is full.
    """
    refuse_filled(out)
    if (target / "audit.json").is_file():
        if not documents:
            raise UserError(
                f"{target}: an audit holds the documents and what of them a model repeats. Add "
                "--with-documents if they may be published."
            )
        write = partial(_write_audit, target, licence=licence)
    elif documents:
        raise UserError(f"{target}: not an audit. --with-documents is for audits alone.")
    elif is_study(target):
        study = Study(target)
        study.require("label")
        write = partial(_write_study, study, texts=texts, licence=licence)
    else:
        frame = read_table(target)
        write = partial(_write_table, frame, target.stem, texts=texts, licence=licence)
    with suppress(OSError):
        out.rmdir()  # an empty one
    with atomic_folder(out) as folder:
        write(folder)
    return out


def without_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """What may be told of sequences without telling them: measured columns, classes and a hash."""
    kept = [name for name in frame.columns if name in _OPEN or _is_class(name)]
    if "tokens" not in frame.columns:
        return frame.select(kept)
    hashes = [
        None if row is None else hashlib.sha256(np.array(row, dtype="<i4").tobytes()).hexdigest()
        for row in frame["tokens"].to_list()
    ]
    return frame.select(kept).with_columns(pl.Series(HASH, hashes, dtype=pl.String))


def _is_class(name: str) -> bool:
    """Whether a labelled table's column holds classes; in a study's it is the user's own."""
    return name == "class" or name.startswith(f"{NON_MEMO},")


def upload(folder: Path, name: str, *, public: bool = False) -> str:
    """Upload what `write_dataset` wrote, in one commit, and give the page's address.

    The data set is made where there is none, private unless `public`. Of one that an earlier push
    made, files of `_OURS` that this one does not bring are deleted; others stay. Raises UserError:
    the hub refuses or cannot be reached, a data set that others made, or one that everybody may
    read without `public`.
    """
    check_name(name)
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        page = api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True)
        _check_there(api.dataset_info(name), public=public)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="dataset",
            commit_message=f"mnemoscope {__version__}",
            delete_patterns=list(_OURS),
        )
    except MnemoscopeError:
        raise
    except Exception as error:  # whatever the hub's client and its network library raise
        raise UserError(
            f"{name}: the hub refused the upload ({type(error).__name__}: {first_line(error)}). "
            "Log in with 'hf auth login', and see that the name is yours."
        ) from error
    return str(page)


def _check_there(found: Any, *, public: bool) -> None:
    """Raise UserError where an upload would delete what others made, or show what was private."""
    names = {one.rfilename for one in found.siblings or ()}
    if _TAG not in (found.tags or ()) and names - {".gitattributes"}:
        raise UserError(
            f"{found.id}: there already, not made by 'mnemoscope export push'. Choose another name."
        )
    if found.private is False and not public:
        raise UserError(f"{found.id}: there already, and everybody may read it. Add --public.")


def check_name(name: str) -> None:
    """Raise UserError for what is no name of a data set."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name}: needs OWNER/NAME, the name of a data set on the hub.")


def _write_table(frame: pl.DataFrame, title: str, out: Path, *, texts: bool, licence: str) -> None:
    made_folder(out / "data")
    write_parquet(out / "data" / "sequences.parquet", frame if texts else without_texts(frame))
    names = list(filter(_is_class, frame.columns))
    body = [_texts_said(texts), *_counts_of({one: frame[one] for one in names})]
    _write_card(out, title, {"sequences": frame.height}, body, licence)


def _write_study(study: Study, out: Path, *, texts: bool, licence: str) -> None:
    table, labels = study.sequences, study.labels
    own = [name for name in table.columns if _is_class(name)]
    tables = {"sequences": table if texts else without_texts(table.drop(own)), "labels": labels}
    if study.is_done("benchmark"):
        tables["benchmark"] = study.benchmark
    made_folder(out / "data")
    for name, frame in tables.items():
        write_parquet(out / "data" / f"{name}.parquet", frame)
    settings = _without_paths(study.settings.as_dict()) | {"title": study.settings.title}
    models = _without_paths(study.record["models"])
    versions = study.record.get("versions", {})
    facts = {"models": models, "versions": versions}
    write_text(
        out / "settings.yaml",
        yaml.safe_dump(settings | {"record": facts}, sort_keys=False, allow_unicode=True),
    )
    report = study.folder / "report.html"
    if texts and report.is_file():
        shutil.copyfile(report, out / "report.html")
    else:
        write_report(out / "report.html", _report(study, models))
    model = models.get("model", {})
    body = [
        _texts_said(texts),
        "## What was asked",
        _list(
            {
                "Model": f"`{_cell(settings['model']['name'])}`, {settings['model']['dtype']}, "
                f"weights `{str(model.get('fingerprint', ''))[:12]}`",
                "Sequences": f"{table.height:,} of {settings['sequences']['length']} tokens, "
                f"{int(table['is_memorized'].sum()):,} memorized",
                "Settings": "all in `settings.yaml`; local paths are shortened to their last part",
            }
        ),
        *_counts_of({name: labels[name] for name in labels.columns if name != "sequence_id"}),
        *(_benchmark_of(study) if "benchmark" in tables else ()),
    ]
    title = study.settings.title or study.folder.absolute().name
    _write_card(out, title, {name: one.height for name, one in tables.items()}, body, licence)


def _report(study: Study, models: Mapping[str, Any]) -> ReportContent:
    """The report without what may hold a text or a path: examples, analyses, kinds, commands."""
    content = report_content(study, None)
    settings = study.settings
    return replace(
        content,
        title=settings.title or _last(settings.model.name),
        model=model_facts(models, "model") if "model" in models else None,
        reference=model_facts(models, "reference") if "reference" in models else None,
        counts={**content.counts, "by_genre": []},
        checks=[one for one in content.checks if one.title != BY_TRUTH],
        settings=_without_paths(content.settings),
        commands=(),
        next_steps=(),
        analyses=(),
    )


def _write_audit(target: Path, out: Path, *, licence: str) -> None:
    there = [*(target / name for name in (*_AUDIT, "texts")), *target.glob("*.parquet")]
    for path in (*there, *(target / "texts").rglob("*")):
        if path.is_symlink():  # what it points to may be no document
            raise UserError(f"{path}: a link, which push does not follow. Put the file there.")
    store = Store(target, remedy=lambda _: "make the audit again with --redo")
    record, spans = store.record("audit", shape=_Audit), store.frame("audit", "spans.parquet")
    for name in record["files"]:
        store.path("audit", name, again=True)
    shares = {kind: percent(record["summary"][kind]["share"]) for kind in _Summary.__annotations__}
    for name in (*_AUDIT, *(Path(one).name for one in record["files"]), "texts"):
        if (target / name).is_dir():
            shutil.copytree(target / name, out / name)
        elif (target / name).is_file():
            shutil.copyfile(target / name, out / name)
    body = [
        "An audit: which passages of documents a language model repeats word for word. **It holds "
        "text of the documents**: each passage (`spans.parquet`), a page (`audit.html`), and what "
        "was read of HTML, PDF, DOCX and standard input (`texts/`). The command, and model and "
        "documents by the paths that it names, stand in `audit.json`, the tables and the pages: "
        "`mnemoscope audit verify` needs them.",
        _list(
            {"Model": f"`{_cell(_last(record['model']['name']))}`"}
            | {kind.capitalize(): f"{share} of the characters" for kind, share in shares.items()}
        ),
    ]
    _write_card(out, f"Audit {target.absolute().name}", {"spans": spans.height}, body, licence, "")


def _write_card(
    out: Path,
    title: str,
    rows: Mapping[str, int],
    body: list[str],
    licence: str,
    place: str = "data/",
) -> None:
    """`README.md`: front matter that the hub reads, what there is, licence and citation."""
    largest = max(rows.values())
    front = {
        "pretty_name": " ".join(title.split()),
        "license": licence or "unknown",
        "tags": [_TAG, "memorization", "language-models"],
        "size_categories": [_size_category(largest)],
        "configs": [
            {"config_name": name, "data_files": f"{place}{name}.parquet"}
            | ({"default": True} if number == 0 else {})
            for number, name in enumerate(rows)
        ],
    }
    tables = [f"| `{place}{name}.parquet` | {n:,} |" for name, n in rows.items()]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {' '.join(title.split())}",
        *body,
        "\n".join(["## Tables", "", "| table | rows |", "|---|---|", *tables]),
        f"## Licence\n\n{f'`{licence}`.' if licence else 'Not said. Ask whoever published it.'}",
        f"## Citation\n\nMade with mnemoscope {__version__}, which implements this paper:\n\n"
        f"```bibtex\n{_CITATION}\n```",
    ]
    write_text(out / "README.md", "\n\n".join(parts) + "\n")


def _texts_said(texts: bool) -> str:
    said = (
        "What a language model memorized of these sequences, and what kind of memorization it is. "
        "The model was shown the first half of each; where it wrote the other half, it has "
        "memorized the sequence."
    )
    if texts:
        return f"{said}\n\nTexts and tokens are in it."
    return (
        f"{said}\n\nThe texts are not in it. `{HASH}` is the SHA-256 of a sequence's token ids as "
        "little-endian int32: with the same texts and tokenizer you find it again."
    )


def _counts_of(labels: Mapping[str, pl.Series]) -> Iterator[str]:
    if not labels:
        return
    rows = [
        f"| {_cell(name)} | {_cell(label)} | {n:,} |"
        for name, series in labels.items()
        for label, n in count_classes(series).items()
    ]
    yield "\n".join(["## Classes", "", "| taxonomy | class | sequences |", "|---|---|---|", *rows])


def _benchmark_of(study: Study) -> Iterator[str]:
    frame = study.benchmark.filter(pl.col("source").is_in(list(ATTENTION)))
    samples = samples_of(study)
    rows = [
        f"| {_cell(samples[SampleKey(row['taxonomy'], row['variant'])].shown)} | "
        f"{TABLE[row['source']].name} | {figure(row['min_f1'], gap=' ')} | "
        f"{figure(row['excess'], signed=True, gap=' ')} |"
        for row in rows_of(frame)
    ]
    head = "| taxonomy | reader | min-F1, % | excess over its best control, points |"
    yield "\n".join(["## Does attention show it?", "", head, "|---|---|---|---|", *rows])


def _list(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}:** {value}" for name, value in facts.items())


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _size_category(n: int) -> str:
    """The hub's word for a number of rows."""
    sizes = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")]
    sizes += [(1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M")]
    return next((word for most, word in sizes if n < most), "10M<n<100M")


def _without_paths(value: Any) -> Any:
    """Settings in which a path of this machine is its last part."""
    if isinstance(value, Mapping):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(one) for one in value]
    return _last(value) if isinstance(value, str) else value


def _last(text: str) -> str:
    """The last part of a path; any other text as it is."""
    is_path = text.startswith(("/", ".", "~")) or "\\" in text
    is_path |= "/" in text and parse_hub_name(text) is None  # a relative one, or an address
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] if is_path else text
