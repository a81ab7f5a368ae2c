"""Verbs that also work on any table: features, label."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mnemoscope.cli.options import DropSmallClasses, Patterns, Quiet, Redo, Set, Taxonomies
from mnemoscope.cli.study import shown, stage_verb
from mnemoscope.errors import UserError

if TYPE_CHECKING:
    from mnemoscope.taxonomy.names import Taxonomy

__all__ = ["features", "label", "load_tokenizer_named", "refuse_unwritable"]

Target = Annotated[
    Path, typer.Argument(help="A study folder, or a .jsonl or .parquet table with -o.")
]
TableOut = Annotated[
    Path | None, typer.Option("-o", "--out", help="Table to write.", show_default=False)
]


def features(
    target: Target,
    out: TableOut = None,
    patterns: Patterns = None,
    length: Annotated[int, typer.Option("--length", help="Tokens a sequence (table).")] = 64,
    corpus: Annotated[
        Path | None,
        typer.Option(
            "--corpus",
            help="Folder or table of training texts (or tokens) to count duplicates in.",
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="Model whose tokenizer cuts the corpus, if it is text."),
    ] = None,
    compare_patterns: Annotated[
        bool,
        typer.Option("--compare-patterns", help="Print where published and strict rules differ."),
    ] = False,
    set_: Set = None,
    redo: Redo = False,
    quiet: Quiet = False,
) -> None:
    """Add ROUGE, patterns, duplicates and is_code.

    Example: mnemoscope features sequences.jsonl -o features.parquet
    """
    if out is None:
        _no_folder_needed(target, "features")
        flags = {"features.patterns": patterns, "features.corpus": corpus and str(corpus)}
        stage_verb(target, "features", flags, set_, redo=redo, quiet=quiet)
        return
    from mnemoscope.sequences.features import write_features
    from mnemoscope.sequences.readers import read_corpus

    _only_for_studies("features", set_, redo=redo)
    mode = _pattern_mode(patterns)
    refuse_unwritable(out)
    counted = None if corpus is None else read_corpus(corpus, load_tokenizer_named(tokenizer))
    with shown(quiet):
        n_rows = write_features(target, out, patterns=mode, length=length, corpus=counted)
        lines = _compare_patterns(out) if compare_patterns else []
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"Wrote {out} ({n_rows:,} rows). Next: mnemoscope label {out} -t TAXONOMY -o OUT")


def _compare_patterns(table: Path) -> list[str]:
    """Where the two modes of the patterns differ; nothing for a table without text."""
    from mnemoscope.sequences.lazy_table import scan_table
    from mnemoscope.sequences.pattern_modes import compare_modes, describe_agreement

    scanned = scan_table(table)
    if "text" not in scanned.collect_schema().names():
        return ["No text to compare the pattern rules on."]
    return describe_agreement(compare_modes(scanned.select("text").collect()["text"]))


def label(
    target: Target,
    out: TableOut = None,
    taxonomy: Taxonomies = None,
    drop_small_classes: DropSmallClasses = False,
    set_: Set = None,
    redo: Redo = False,
    quiet: Quiet = False,
) -> None:
    """Give each sequence its class under a taxonomy.

    Example: mnemoscope label features.parquet -t "Non-Memo, Guess, Recall" -o labels.parquet
    """
    if out is None:
        _no_folder_needed(target, "label")
        flags = {
            "label.taxonomies": taxonomy,
            "label.drop_small_classes": drop_small_classes,
        }
        stage_verb(target, "label", flags, set_, redo=redo, quiet=quiet)
        return
    _only_for_studies("label", set_, redo=redo or drop_small_classes)
    _label_table(target, out, taxonomy or [])


def _label_table(target: Path, out: Path, names: list[str]) -> None:
    """One taxonomy adds the column `class`; several make a table with a column each."""
    from mnemoscope.taxonomy.catalogue import load_taxonomies
    from mnemoscope.taxonomy.table_labels import label_table

    if not names:
        raise UserError(
            "label: name a taxonomy with -t, for example -t 'Non-Memo, Guess, Recall' or "
            "-t catalogue."
        )
    taxonomies = load_taxonomies(names)
    refuse_unwritable(out)
    if len(taxonomies) == 1:
        _add_class(target, out, taxonomies[0])
        return
    labelled = label_table(target, out, names)
    print(f"Wrote {out}.")
    for name, counts in labelled.counts.items():
        _print_counts(name, counts)
    if labelled.unlabelled:
        columns = sorted({one for missing in labelled.unlabelled.values() for one in missing})
        print(
            f"{target} has no column {', '.join(columns)}: null throughout are the "
            f"{len(labelled.unlabelled)} taxonomies that need one of them."
        )


def _add_class(target: Path, out: Path, taxonomy: "Taxonomy") -> None:
    """The table as it is, with the column `class`."""
    from mnemoscope.sequences.schema import read_table, write_table
    from mnemoscope.taxonomy.labels import count_classes, label_sequences
    from mnemoscope.taxonomy.table_labels import check_features

    frame = read_table(target)
    check_features(frame.lazy(), where=str(target))
    labels = label_sequences(frame, taxonomy)
    write_table(out, frame.with_columns(labels))
    print(f"Wrote {out}.")
    _print_counts("class", count_classes(labels))


def _print_counts(name: str, counts: dict[str, int]) -> None:
    """One line a taxonomy; those without a class last."""
    missing = counts.pop("null", 0)
    given = ", ".join(f"{label} {n:,}" for label, n in counts.items())
    print(f"{name}: {given}" + (f" (no class: {missing:,})" if missing else ""))


def load_tokenizer_named(name: str | None) -> Any:
    """The tokenizer for a corpus of text; none is needed for one of tokens.

    Args:
        name: folder or hub name of a model; None gives None.
    """
    if name is None:
        return None
    from mnemoscope.lm.loading import load_tokenizer

    return load_tokenizer(name)


def _pattern_mode(patterns: str | None) -> Literal["published", "strict"]:
    """Check the mode as the settings would."""
    from mnemoscope.cli.options import merge_flags

    return merge_flags(None, {"features.patterns": patterns}, None).features.patterns


def _no_folder_needed(target: Path, verb: str) -> None:
    """A table without -o would have nowhere to go."""
    if target.is_file():
        raise UserError(f"{target}: a table needs -o: mnemoscope {verb} {target} -o OUT.parquet")


def _only_for_studies(verb: str, assignments: list[str] | None, *, redo: bool) -> None:
    """Refuse flags that would be passed over where a table is written."""
    if assignments or redo:
        raise UserError(
            f"{verb}: --set, --redo and --drop-small-classes are for a study. "
            "Leave them out where -o names a table."
        )


def refuse_unwritable(out: Path) -> None:
    """Refuse before any work an output that could not be written.

    Args:
        out: table to write.

    Raises:
        UserError: another ending than a table's, or no such folder.
    """
    if out.suffix not in {".parquet", ".jsonl"}:
        raise UserError(f"{out}: must end in .parquet or .jsonl.")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out.parent}: no such folder. Create it, or choose another with -o.")
