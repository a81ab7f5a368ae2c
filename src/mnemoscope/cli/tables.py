"""Verbs that also work on a table, and those that make a table or a model folder."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option

from mnemoscope.cli import options
from mnemoscope.cli.study import shown, stage_verb
from mnemoscope.embedded import place_of
from mnemoscope.errors import UserError, printable
from mnemoscope.files import hold_file, refuse_filled
from mnemoscope.progress import read_note
from mnemoscope.study.folder import Study, is_study
from mnemoscope.study.stages import STAGES, rests_on, stage_named

WATCHED = "memorization"
"""Where a callback leaves its history in a trainer's folder (`training.history.FOLDER`)."""
_STEPS = 8  # of a history, that are named
Target = Annotated[Path, Argument(help="A study folder, or with -o a table (see run --sequences).")]
Prefix = Annotated[
    int | None,
    Option("--prefix", min=1, help="Tokens of the prefix (default: half of the sequence)."),
]
TableOut = Annotated[Path | None, Option("-o", "--out", help="Table to write.")]


def features(
    target: Target,
    out: TableOut = None,
    column: options.Columns = None,
    patterns: options.Patterns = None,
    length: int | None = Option(None, help="Tokens in a sequence of a table (default: 64)."),
    prefix: Prefix = None,
    corpus: Path | None = Option(
        None, help="Folder or table of training texts (or tokens) to count duplicates in."
    ),
    tokenizer: str | None = Option(
        None, help="Model whose tokenizer cuts the corpus, if it is text."
    ),
    compare_patterns: bool = Option(
        False, "--compare-patterns", help="Print where published and strict rules differ."
    ),
    stage: options.StageFlags = options.STAGE,
) -> None:
    """Add ROUGE, patterns, duplicates and is_code.

    Example: mnemoscope features sequences.jsonl -o features.parquet
    """
    if out is None:
        _only_for_tables(target, "features", column)
        if compare_patterns or (length, prefix, tokenizer) != (None, None, None):
            raise UserError(
                "features: --length, --prefix, --tokenizer and --compare-patterns are for a table, "
                "with -o; a study has its own. Leave them out."
            )
        flags = {"features.patterns": patterns, "features.corpus": corpus and str(corpus)}
        stage_verb(target, "features", flags, stage)
        return
    from mnemoscope.data.corpus import open_corpus
    from mnemoscope.data.features import write_features
    from mnemoscope.words import plural

    _only_for_studies("features", stage.set_, redo=stage.redo)
    mode = options.merge_flags(None, {"features.patterns": patterns}, None).features.patterns
    with table_to_write(out), shown(stage.quiet):
        counted = None
        if corpus is not None:
            counted = open_corpus(corpus, tokenizer=load_tokenizer_named(tokenizer), dtype=None)
        n_rows = write_features(
            target,
            out,
            patterns=mode,
            length=length or 64,
            prefix=prefix,
            corpus=counted,
            columns=options.parse_columns(column),
        )
        lines = _compare_patterns(out) if compare_patterns else []
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"Wrote {out} ({plural(n_rows, 'row')}). Next: mnemoscope label {out} -t TAXONOMY -o OUT")


def _compare_patterns(table: Path) -> list[str]:
    """Where the two modes of the patterns differ; nothing for a table without text."""
    from mnemoscope.data.patterns import compare_modes, describe_agreement
    from mnemoscope.data.table import scan_table

    scanned = scan_table(table)
    if "text" not in scanned.collect_schema().names():
        return ["No text to compare the pattern rules on."]
    return describe_agreement(compare_modes(scanned.select("text").collect()["text"]))


def label(
    target: Target,
    out: TableOut = None,
    column: options.Columns = None,
    taxonomy: options.Taxonomies = None,
    drop_small_classes: options.DropSmallClasses = False,
    answer: options.JsonAnswer = options.ANSWER,
    stage: options.StageFlags = options.STAGE,
) -> None:
    """Give each sequence its class under a taxonomy.

    Example: mnemoscope label features.parquet -t "Non-Memo, Guess, Recall" -o labels.parquet
    """
    if out is None:
        from mnemoscope.taxonomy.catalogue import load_taxonomies

        _only_for_tables(target, "label", column)
        if taxonomy:
            load_taxonomies(taxonomy)  # a wrong name is said before what else may not fit
        flags = {"label.taxonomies": taxonomy, "label.drop_small_classes": drop_small_classes}
        stage_verb(target, "label", flags, stage)
        if answer.as_json:
            _say_labels(Study(target), answer)
        return
    _only_for_studies("label", stage.set_, redo=stage.redo or drop_small_classes)
    columns = options.parse_columns(column)
    _label_table(target, out, taxonomy or [], columns, answer)


def _say_labels(study: Study, answer: options.JsonAnswer) -> None:
    """Counts a class of each taxonomy of a study, and what was drawn."""
    from mnemoscope.pipeline.label import LABELS_FILE, aliases_of, samples_of
    from mnemoscope.taxonomy.labels import count_classes

    labels = study.read(LABELS_FILE).drop("sequence_id")
    answer.facts.update(
        folder=study.folder,
        counts={name: count_classes(labels[name]) for name in labels.columns},
        samples=[asdict(one) for one in samples_of(study).values()],
        aliases={name: one.of for name, one in aliases_of(study).items()},
    )


def _label_table(
    target: Path, out: Path, names: list[str], columns: dict[str, str], answer: options.JsonAnswer
) -> None:
    """One taxonomy adds the column `class`; several make a table with a column each."""
    from mnemoscope.data.rows import scan_rows
    from mnemoscope.data.table import write_table
    from mnemoscope.taxonomy.catalogue import load_taxonomies
    from mnemoscope.taxonomy.labels import (
        check_features,
        count_classes,
        label_sequences,
        label_table,
    )

    if not names:
        raise UserError(
            "label: name a taxonomy with -t, for example -t 'Non-Memo, Guess, Recall' or "
            "-t catalogue."
        )
    taxonomies = load_taxonomies(names)
    with table_to_write(out):
        if len(taxonomies) == 1:
            frame = scan_rows(target, columns).collect()
            check_features(frame.lazy(), where=str(target))
            labels = label_sequences(frame, taxonomies[0])
            write_table(out, frame.with_columns(labels))
            print(f"Wrote {out}.")
            counts = count_classes(labels)
            _print_counts("class", counts)
            answer.facts.update(out=out, counts={taxonomies[0].name: counts}, missing_columns={})
            return
        labelled = label_table(target, out, names, columns)
    print(f"Wrote {out}.")
    for name, counts in labelled.counts.items():
        _print_counts(name, counts)
    if labelled.unlabelled:
        lacking = sorted({one for missing in labelled.unlabelled.values() for one in missing})
        print(
            f"{target} has no column {', '.join(lacking)}: null throughout are the "
            f"{len(labelled.unlabelled)} taxonomies that need one of them."
        )
    answer.facts.update(out=out, counts=labelled.counts, missing_columns=labelled.unlabelled)


def _print_counts(name: str, counts: dict[str, int]) -> None:
    """One line a taxonomy; those without a class last."""
    missing = counts.get("null", 0)
    given = ", ".join(f"{label} {n:,}" for label, n in counts.items() if label != "null")
    print(f"{name}: {given}" + (f" (no class: {missing:,})" if missing else ""))


def load_tokenizer_named(name: str | None, revision: str | None = None) -> Any:
    """The tokenizer of a model by folder or hub name; None, for a corpus of tokens, gives None."""
    if name is None:
        return None
    from mnemoscope.lm.tokenizer import load_tokenizer

    return load_tokenizer(place_of(name), revision)


def _only_for_tables(target: Path, verb: str, column: list[str] | None) -> None:
    """A table without -o would have nowhere to go, and a study has its columns."""
    if column:
        raise UserError(
            f"{verb}: --column is for a table, with -o; a study takes its columns when it is "
            "founded (mnemoscope sequences SOURCE --column ...)."
        )
    if target.is_file():
        raise UserError(f"{target}: a table needs -o: mnemoscope {verb} {target} -o OUT.parquet")


def _only_for_studies(verb: str, assignments: list[str] | None, *, redo: bool) -> None:
    """Refuse flags that would be passed over where a table is written."""
    if assignments or redo:
        raise UserError(
            f"{verb}: --set, --redo and --drop-small-classes are for a study. "
            "Leave them out where -o names a table."
        )


@contextmanager
def table_to_write(out: Path) -> Iterator[None]:
    """Hold a table while it is made, so that of two processes one is refused.

    Raises UserError before any work: no table's ending, no folder, a study's or a user's file, or
    one that another process makes. A Parquet table that mnemoscope wrote is written over.
    """
    _refuse_unwritable(out)
    with hold_file(out):
        yield


def _refuse_unwritable(out: Path) -> None:
    from mnemoscope.data.table import is_own_table

    if out.suffix not in {".parquet", ".jsonl"}:
        raise UserError(f"{out}: must end in .parquet or .jsonl.")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out.parent}: no such folder. Create it, or choose another with -o.")
    # A folder may hold a study.yaml that `init` wrote, and be no study yet.
    if is_study(out.absolute().parent) and (out.absolute().parent / "manifests").is_dir():
        raise UserError(
            f"{out}: {out.parent} is a study and holds its own files. Choose another with -o."
        )
    if out.exists() and not is_own_table(out):
        raise UserError(
            f"{out}: there already, and not known to be mnemoscope's. Choose another name with -o, "
            "or delete it."
        )


def duplicates(
    sequences: Annotated[
        Path, Option("--sequences", help="A table with tokens (see run --sequences).")
    ],
    corpus: Annotated[
        str,
        Option(
            "--corpus",
            help="Texts, tables (tokens or text), a folder of them, flat binaries of token ids "
            "(.bin, with Megatron's .idx or without; .npy), or infini-gram:DIR, "
            "infini-gram:URL#INDEX.",
        ),
    ],
    out: Annotated[Path, Option("-o", "--out", help="Table to write.")],
    column: options.Columns = None,
    dtype: str | None = Option(
        None,
        help="Type of the ids of a .bin (uint16, uint32, int32) or an infini-gram index "
        "(uint8, uint16, uint32); uint16 unless given.",
    ),
    tokenizer: str | None = Option(None, help="Model whose tokenizer cuts texts."),
    separator: int | None = Option(
        None,
        help="Token id between the documents of a flat binary; a suffix with it inside is "
        "not counted.",
    ),
    length: int = Option(64, help="Tokens in a sequence."),
    prefix: Prefix = None,
    save_every: float = Option(10.0, help="Save the progress every so many seconds."),
    answer: options.JsonAnswer = options.ANSWER,
    quiet: options.Quiet = False,
) -> None:
    """Count how often each sequence's suffix stands in a corpus.

    Example: mnemoscope data duplicates --sequences S.parquet --corpus train.bin -o out.parquet
    """
    from mnemoscope.data.corpus import open_corpus
    from mnemoscope.data.duplicates import (
        add_counts,
        count_in_corpus,
        progress_path,
        read_suffixes,
        remove_progress,
    )
    from mnemoscope.data.origins import SCHEME, count_in_index
    from mnemoscope.data.table import write_table
    from mnemoscope.words import plural

    columns, progress_file = options.parse_columns(column), progress_path(out)
    with table_to_write(out), shown(quiet):
        suffixes = read_suffixes(sequences, length=length, prefix=prefix, columns=columns)
        if corpus.startswith(SCHEME):
            if separator is not None or tokenizer is not None:
                raise UserError(
                    "duplicates: --separator and --tokenizer are not for an infini-gram index, "
                    "which says itself where documents end. Leave them out."
                )
            place = corpus.removeprefix(SCHEME)
            found = count_in_index(
                suffixes, place, dtype=dtype, progress_file=progress_file, save_seconds=save_every
            )
        else:
            opened = open_corpus(corpus, tokenizer=load_tokenizer_named(tokenizer), dtype=dtype)
            found = count_in_corpus(
                suffixes,
                opened,
                progress_file=progress_file,
                save_seconds=save_every,
                separator=separator,
            )
        del suffixes
        write_table(out, add_counts(sequences, found.counts, columns))
        remove_progress(progress_file)
    answer.facts.update(
        out=out,
        sequences=len(found.counts),
        occurring=int((found.counts > 0).sum()),
        corpus_tokens=found.n_tokens,
    )
    print(
        f"Wrote {out}: of {plural(len(found.counts), 'sequence')} {(found.counts > 0).sum():,} "
        f"occur in the corpus of {found.n_tokens:,} tokens."
    )


def _begun(folder: Path) -> str:
    from mnemoscope.audits.records import begun_said

    return begun_said(folder)


def status(
    target: Annotated[Path, Argument(help="A study, a maps folder, or a table.")],
    verify: Annotated[bool, Option("--verify", help="Read every file of a study.")] = False,
    verbose: options.Verbose = False,
    answer: options.JsonAnswer = options.ANSWER,
) -> None:
    """Show what a study, a watched training or a table holds, and what may come next.

    Example: mnemoscope status my-study
    """
    if is_study(target):
        _describe_study(Study(target), answer, verbose=verbose)
        if verify:
            answer.facts["problems"] = _verified(Study(target))
    elif (target / "meta.json").is_file():
        _describe_maps(target, answer)
    elif target.is_file():
        _describe_table(target, answer)
    elif any((target / one / "watch.json").is_file() for one in (".", WATCHED)):
        _describe_watch(target, answer)
    elif (target / "audit.json").is_file():
        raise UserError(
            f"{target}: an audit. Open {target / 'audit.html'} in a browser; "
            f"'mnemoscope audit verify {target}' checks it."
        )
    elif said := _begun(target):
        raise UserError(said)
    elif target.exists():
        raise UserError(
            f"{target}: neither a study, nor a maps folder, nor a table. mnemoscope run makes a "
            "study."
        )
    else:
        from mnemoscope.data.formats import check_there

        check_there(target)
    if answer.facts.get("problems"):
        raise Exit(3)


def _describe_study(study: Study, answer: options.JsonAnswer, *, verbose: bool) -> None:
    from rich.console import Console

    from mnemoscope.cli.summary import print_state
    from mnemoscope.pipeline.label import nothing_to_train
    from mnemoscope.pipeline.reference import also_repeated
    from mnemoscope.report.advice import steps_from_here

    console = Console(soft_wrap=not verbose, highlight=verbose)
    why_not = nothing_to_train(study) if study.is_done("label") else None
    stages, also = list(_stages_of(study, is_trained=why_not is None)), also_repeated(study)
    entries = (path for path in sorted(study.folder.iterdir()) if not path.name.startswith("."))
    sizes_of = {path.name: _bytes(path) for path in entries}
    if (study.folder / "maps").is_dir():
        from mnemoscope.maps.format import read_meta
        from mnemoscope.pipeline.stored_maps import check_maps, maps_folder, stores

        for store in stores(study):  # figures rest on predictions, so no other verb may look
            check_maps(study, store, read_meta(maps_folder(study, store)))
    if verbose:
        _print_tables(study, console, stages, sizes_of)
    else:
        _print_brief(study, console, stages, sum(sizes_of.values()))
    print_state(study, verbose=verbose)
    if not verbose:
        print("Each stage, models, sizes on disk, settings: add --verbose.")
    answer.facts.update(
        kind="study",
        folder=study.folder,
        stages=stages,
        models=study.record["models"],
        bytes=sizes_of,
        settings=study.settings.as_dict(),
        untrained=why_not,
        also_repeated=None if also is None else also._asdict(),
        next=[one.command for one in steps_from_here(study)],
    )


def _stages_of(study: Study, *, is_trained: bool) -> Iterator[Mapping[str, Any]]:
    """Name, state, counts and seconds of each stage, and how far one is that was begun."""
    from mnemoscope.report.advice import is_made_now, is_report_old

    seconds = study.seconds()
    for stage in STAGES:
        manifest = study.manifest(stage.name)
        done = study.is_done(stage.name)
        state = "missing" if manifest is None else "done" if done else "outdated"
        if (
            manifest is None
            and stage.name == "report"
            and all((study.folder / one).is_file() for one in stage.outputs)
        ):
            state = "outdated" if is_report_old(study) else "no CNNs"  # it shows what there is
        elif (
            manifest is None
            and not is_trained
            and stage.name != "report"
            and rests_on(stage.name, "capture")
        ):
            state = "impossible"
        further = {}
        if note := read_note(study.note_path(stage.name)):
            begun = "running" if is_made_now(study, stage.name) else "stopped"
            state = state if state == "done" else begun  # what is made anew stays till then
            further = {"progress": note}
        counts = {} if manifest is None else manifest["counts"]
        facts = {"name": stage.name, "state": state, "counts": counts, **further}
        yield facts | {"seconds": seconds.get(stage.name)}


def _said_of(stage: Mapping[str, Any]) -> str:
    """How far a stage is, or what it counted."""
    if note := stage.get("progress"):
        left = f", {note['left']}" if note["left"] and stage["state"] == "running" else ""
        return printable(f"{note['words']}{left}")
    return "needs a CNN" if stage["state"] == "impossible" else _counts(stage["counts"])


_IN_WORDS = {
    "missing": "Not made yet: {}.",
    "optional": "Not made, since no run makes it by itself: {}.",
    "no CNNs": "Made without figures of CNNs: {}.",
    "outdated": "Out of date: {}.",
    "impossible": "Cannot be made, as no CNN can be trained (see below): {}.",
}
"""States of stages, as sentences about them."""


def _print_brief(
    study: Study, console: Any, stages: Sequence[Mapping[str, Any]], n_bytes: int
) -> None:
    """The study, its models and its stages in a few lines."""
    from mnemoscope.words import duration

    models = study.record["models"]
    named = [f"{one['name']} ({role})" for role, one in models.items()]
    took = sum(one["seconds"] or 0.0 for one in stages)
    facts = [*named, _size(n_bytes), f"{duration(took)} of work"]
    console.print(f"{study.folder}: {', '.join(facts)}.", markup=False)
    by_state: dict[str, list[str]] = {}
    for one in stages:
        anew = "begun anew: " if one["state"] == "done" else ""
        said = f" ({anew}{_said_of(one)})" if "progress" in one else ""
        is_optional = one["state"] == "missing" and stage_named(one["name"]).is_optional
        state = "optional" if is_optional else one["state"]
        by_state.setdefault(state, []).append(f"{one['name']}{said}")
    for state, names in by_state.items():
        words = _IN_WORDS.get(state, state[0].upper() + state[1:] + ": {}.")
        console.print(words.format(", ".join(names)), markup=False)


def _print_tables(
    study: Study, console: Any, stages: Sequence[Mapping[str, Any]], sizes_of: Mapping[str, int]
) -> None:
    """Every stage with its counts, the models, and every file with its size."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("stage", "state", "counts", "seconds", title=str(study.folder))
    for one in stages:
        taken = "" if one["seconds"] is None else f"{one['seconds']:.1f}"
        state = "-" if one["state"] == "missing" else one["state"]
        table.add_row(one["name"], state, escape(_said_of(one)), taken)
    console.print(table)
    _describe_split(study, console)
    console.print(f"CNNs, preset {study.settings.train.in_words}.", highlight=False)
    models = Table("role", "name", "layers × heads", "dtype", "weights", title="models")
    for role, model in study.record["models"].items():
        shape = f"{model['n_layers']} × {model['n_heads']}"
        models.add_row(role, model["name"], shape, model["dtype"], model["fingerprint"][:12])
    console.print(models)
    sizes = Table("on disk", "size", title="sizes")
    for name, n_bytes in sizes_of.items():
        sizes.add_row(name, _size(n_bytes))
    console.print(sizes)
    console.print("Settings: " + str(study.folder / "study.yaml"), highlight=False)


def _describe_watch(target: Path, answer: options.JsonAnswer) -> None:
    """What is watched of a training, and what the last check found."""
    import polars as pl

    from mnemoscope.training.history import history_folder, read_history
    from mnemoscope.words import plural

    read, folder = read_history(target).counting(), history_folder(target)
    last = read.joined().filter(step=read.steps[-1])
    print(f"{folder}: {plural(len(read.steps), 'check')} of {read.run}.")
    print(f"Steps {', '.join(f'{one:,}' for one in read.steps[-_STEPS:])}.")
    groups = last.group_by("source", "class", maintain_order=True)
    counts = groups.agg(n=pl.len(), reproduced=pl.col("is_memorized").sum())
    for source, name, n, reproduced in counts.rows():
        print(
            f"{source}, {name}: {reproduced:,} of {plural(n, 'window')} "
            f"reproduced{read.counts_from} at the last."
        )
    shown = shlex.quote(str(folder))
    print(f"Next: mnemoscope watch {shown} (draws watch.html); --fail-if makes it a gate.")
    answer.facts.update(kind="watch", folder=folder, run=read.run, steps=read.steps, last=counts)


def _verified(study: Study) -> list[str]:
    """Say what is wrong with the files of a study."""
    from mnemoscope.pipeline.stored_maps import damaged_maps

    found = [str(one) for one in [*study.verify(), *damaged_maps(study)]]
    print(*(found or ["Every file is as it was written."]), sep="\n")
    return found


def _describe_split(study: Study, console: Any) -> None:
    """Show the whole split of the paper's data set, of which the study keeps a part."""
    from rich.table import Table

    facts = (study.manifest("sequences") or {"counts": {}})["counts"]
    if "split" not in facts:
        return
    split = facts["split"]
    parts = ", ".join(f"{name} {n:,}" for name, n in split["parts"].items())
    console.print(
        f"Split {split['name']}: rows {parts}; {facts['split_duplicate_ids']:,} duplicate ids and "
        f"{facts['split_overlapping_ids']:,} in both parts dropped; the first "
        f"{split['kept_per_class']:,} sequences of each class are kept."
    )
    table = Table("taxonomy", "sequences a class, by the published labels", title="whole split")
    for name, counts in split["classes"].items():
        table.add_row(name, ", ".join(f"{one} {n:,}" for one, n in counts.items()))
    console.print(table)


def _counts(counts: Mapping[str, Any]) -> str:
    """The plain numbers of a manifest, on one line."""
    numbers = {
        k: v
        for k, v in counts.items()
        if isinstance(v, int) and (v or k in ("sequences", "memorized"))
    }
    samples = counts.get("samples")
    if samples is not None:
        numbers["taxonomy samples"] = len(samples)
        numbers["impossible"] = sum(bool(entry["impossible"]) for entry in samples)
    return ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in numbers.items())


def _describe_maps(folder: Path, answer: options.JsonAnswer) -> None:
    from mnemoscope.maps.store import MapStore
    from mnemoscope.words import plural

    store = MapStore(folder, verify=False)
    store.check()
    by_suffix, meta = dict(store.index.group_by("suffix").len().iter_rows()), store.meta
    n_shards, n_bytes = store.index["shard"].n_unique(), _bytes(folder)
    maps, layers = plural(store.index.height, "map"), plural(meta.n_layers, "layer")
    print(f"{folder}: {maps}, {layers}, length {meta.length}")
    print("suffix: " + ", ".join(f"{key} {value:,}" for key, value in sorted(by_suffix.items())))
    print(f"shards: {n_shards}, {_size(n_bytes)} on disk, checksums right")
    answer.facts.update(
        kind="maps",
        folder=folder,
        maps=store.index.height,
        layers=meta.n_layers,
        length=meta.length,
        by_suffix=by_suffix,
        shards=n_shards,
        bytes=n_bytes,
    )


def _describe_table(path: Path, answer: options.JsonAnswer) -> None:
    from mnemoscope.data.table import read_table
    from mnemoscope.words import plural

    frame, n_bytes, columns = read_table(path), _bytes(path), []
    print(f"{path}: {plural(frame.height, 'row')}, {_size(n_bytes)}")
    for name, dtype in frame.schema.items():
        missing = frame[name].null_count()
        note = f", {missing:,} missing" if missing else ""
        print(f"  {name}: {dtype}{note}")
        columns.append({"name": name, "type": str(dtype), "missing": missing})
    answer.facts.update(kind="table", file=path, rows=frame.height, bytes=n_bytes, columns=columns)


def _bytes(path: Path) -> int:
    """Bytes on disk of a file, or of all in a folder."""
    return sum(one.stat().st_size for one in (path, *path.rglob("*")) if one.is_file())


def _size(n_bytes: int) -> str:
    from mnemoscope.words import size  # with numpy, which --help does not need

    return size(n_bytes)


def convert(
    file: Annotated[str, Argument(help="A .gguf file, or a folder that holds one.")],
    out: options.Out,
) -> None:
    """Turn a GGUF file into an ordinary model folder, which loads many times faster.

    Example: mnemoscope data convert model.gguf -o model
    """
    from mnemoscope.lm.load import convert_gguf

    folder = convert_gguf(file, out)
    print(f"Wrote {folder}. Next: mnemoscope run --model {folder} --sequences TEXTS -o STUDY")


def texts(
    out: options.Out,
    model: Annotated[str, Option("--model", help="Model whose tokenizer cuts the texts.")],
    n: int = Option(600, "-n", min=1, help="Sequences of each kind of text."),
) -> None:
    """Gather free text of this machine: templates, licences, Python's documentation and code.

    Example: mnemoscope data texts --model smollm2 -o texts.parquet
    """
    from mnemoscope.data.table import write_table
    from mnemoscope.embedded.texts import KINDS, find_texts

    with table_to_write(out):
        frame = find_texts(load_tokenizer_named(model), n=n)
        write_table(out, frame)
    counts = ", ".join(f"{kind} {frame.filter(genre=kind).height:,}" for kind in KINDS)
    print(f"Wrote {out}: {counts}.")
    print(f"Next: mnemoscope run --model {model} --sequences {out} -o STUDY")


def lm_eval_task(
    target: Annotated[
        Path, Argument(help="A labelled study, or a .jsonl or .parquet table with tokens.")
    ],
    out: options.Out,
    taxonomy: str | None = Option(
        None,
        "-t",
        "--taxonomy",
        help="Taxonomy whose classes become tasks (default: the study's first; of a table its "
        "column 'class').",
    ),
    tokenizer: str | None = Option(None, help="Model whose tokenizer made the tokens of a table."),
    prefix: Prefix = None,
    most: int | None = Option(None, min=1, help="Most sequences of each class, drawn at random."),
    seed: int = Option(0, min=0, help="Seed of the draw."),
    name: str | None = Option(
        None, help="Name of the task (default: mnemoscope_ and the study's name)."
    ),
) -> None:
    """Write a task for lm-evaluation-harness: how much of each class does a model reproduce?

    Example: mnemoscope export lm-eval-task my-study -o task
    """
    from mnemoscope.flow.lm_eval import asked_of, shown_rows, write_task
    from mnemoscope.taxonomy.labels import count_classes
    from mnemoscope.words import plural

    asked = asked_of(target, taxonomy=taxonomy, tokenizer=tokenizer, prefix=prefix)
    refuse_filled(out)
    loaded = load_tokenizer_named(asked.tokenizer, asked.revision)
    made = shown_rows(asked, loaded, most=most, seed=seed)
    written = write_task(made, out, name=name or f"mnemoscope_{target.absolute().stem}")
    left_out = {
        "without a class": made.n_unlabelled,
        "whose text gives other tokens": made.n_altered,
    }
    for why, n in left_out.items():
        if n:
            print(f"Left out: {plural(n, 'sequence')} {why}.")
    if asked.labels is not None:
        _print_counts(written, count_classes(made.rows["class"]))
    print(
        f"Wrote {out}, which holds their texts. Next: lm_eval run --model hf --model_args "
        f"pretrained={place_of(asked.tokenizer)},dtype=float32 --include_path {out} "
        f"--tasks {written}"
    )


def push(
    target: Annotated[
        Path, Argument(help="A labelled study, a table of sequences, or the folder of an audit.")
    ],
    name: Annotated[str, Argument(metavar="OWNER/NAME", help="The data set on the hub.")],
    out: Path | None = Option(None, "-o", "--out", help="Keep the uploaded folder here."),
    with_texts: bool = Option(
        False, "--with-texts", help="Include texts, tokens, all columns, and the report's examples."
    ),
    with_documents: bool = Option(
        False, "--with-documents", help="Allow an audit, which holds its documents."
    ),
    licence: str = Option(
        "", "--license", help="The hub's name for the licence of the data: cc-by-4.0, mit."
    ),
    public: bool = Option(False, "--public", help="Make a new data set public (default: private)."),
    dry_run: bool = Option(False, "--dry-run", help="Write the folder and upload nothing."),
) -> None:
    """Publish a study's labels and figures as a data set of the Hugging Face hub, without texts.

    Example: mnemoscope export push my-study OWNER/NAME --dry-run -o dataset
    """
    from tempfile import TemporaryDirectory

    from mnemoscope.flow.push import check_name, upload, write_dataset
    from mnemoscope.words import plural

    check_name(name)
    with TemporaryDirectory() as temporary:
        folder = write_dataset(
            target,
            out or Path(temporary) / "dataset",
            texts=with_texts,
            documents=with_documents,
            licence=licence,
        )
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            print(f"  {path.relative_to(folder).as_posix()}  {_size(path.stat().st_size)}")
        page = None if dry_run else upload(folder, name, public=public)
    kept = f" The folder: {out}." if out is not None else ""
    if page is None:
        print(f"Nothing was uploaded (--dry-run).{kept}")
    else:
        print(f"Uploaded {plural(len(files), 'file')}: {page}.{kept}")
