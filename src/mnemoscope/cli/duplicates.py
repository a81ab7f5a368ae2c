"""The verb duplicates: how often each suffix stands in a corpus, however large."""

from pathlib import Path
from typing import Annotated

import typer

from mnemoscope.cli.options import Quiet
from mnemoscope.cli.study import shown
from mnemoscope.cli.tables import load_tokenizer_named, refuse_unwritable

__all__ = ["duplicates"]


def duplicates(
    sequences: Annotated[
        Path,
        typer.Option(
            "--sequences", help="A .parquet or .jsonl table with tokens.", show_default=False
        ),
    ],
    corpus: Annotated[
        Path,
        typer.Option(
            "--corpus",
            help="Texts, .jsonl or .parquet tables (tokens or text), a folder of them, or flat "
            "binaries of token ids (.bin, with Megatron's .idx or without; .npy).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Table to write.", show_default=False)],
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="Type of the ids of a .bin: uint16 (default), uint32 or int32.",
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="Model whose tokenizer cuts texts.", show_default=False),
    ] = None,
    separator: Annotated[
        int | None,
        typer.Option(
            "--separator",
            help="Token id between the documents of a flat binary; a suffix with it inside is "
            "not counted.",
            show_default=False,
        ),
    ] = None,
    length: Annotated[int, typer.Option("--length", help="Tokens a sequence.")] = 64,
    save_every: Annotated[
        float, typer.Option("--save-every", help="Seconds from one saving of progress to the next.")
    ] = 10.0,
    quiet: Quiet = False,
) -> None:
    """Count how often each sequence's suffix stands in a corpus.

    Example: mnemoscope duplicates --sequences S.parquet --corpus train.bin -o out.parquet
    """
    from mnemoscope.sequences.corpus import open_corpus
    from mnemoscope.sequences.count_corpus import add_counts, count_in_corpus, read_suffixes
    from mnemoscope.sequences.count_progress import progress_path, remove_progress
    from mnemoscope.sequences.schema import write_table

    refuse_unwritable(out)
    suffixes = read_suffixes(sequences, length=length)
    progress_file = progress_path(out)
    with shown(quiet):
        opened = open_corpus(corpus, tokenizer=load_tokenizer_named(tokenizer), dtype=dtype)
        found = count_in_corpus(
            suffixes,
            opened,
            progress_file=progress_file,
            save_seconds=save_every,
            separator=separator,
        )
        del suffixes
        write_table(out, add_counts(sequences, found.counts))
    remove_progress(progress_file)
    print(
        f"Wrote {out}: of {len(found.counts):,} sequences {(found.counts > 0).sum():,} occur in "
        f"the corpus. {found.n_tokens:,} tokens read, {found.tokens_per_second:,.0f} a second."
    )
