"""The verb track: memorization over the checkpoints of one run, or what a callback kept."""

from pathlib import Path
from typing import Annotated

import typer

from mnemoscope.cli.options import Quiet
from mnemoscope.cli.study import shown
from mnemoscope.errors import UserError

__all__ = ["track"]


def track(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            help="Checkpoints: folders, MODEL@REVISION, or one folder that holds them all. Or the "
            "folder that a MemorizationCallback wrote, whose page is then drawn.",
            show_default=False,
        ),
    ],
    sequences: Annotated[
        str | None,
        typer.Option(
            "--sequences", help="What is watched: texts, .jsonl or .parquet.", show_default=False
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option("--control", help="Texts that were kept out of training.", show_default=False),
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Where history, tables and page go.")
    ] = Path("track"),
    most: Annotated[
        int | None, typer.Option("--most", min=1, help="Windows kept of each, drawn by the seed.")
    ] = 2000,
    length: Annotated[int, typer.Option("--length", min=2, help="Tokens of a window.")] = 64,
    scan: Annotated[
        bool,
        typer.Option("--scan", help="Only memorized or not, without scores and levels: faster."),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sample.")] = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16.")] = "float32",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")] = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Windows a forward pass.")
    ] = 64,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """See which windows become memorized and which are forgotten, over checkpoints of one run.

    Example: mnemoscope track out/ --sequences texts/ --control held-out/ -o track
    """
    from mnemoscope.stages.track_page import PAGE, write_track_page

    if sequences is None:
        folder = _history(checkpoints, control)
    else:
        from mnemoscope.stages.track import TrackAsked, track_checkpoints

        folder = out
        asked = TrackAsked(
            checkpoints=tuple(checkpoints),
            sequences=sequences,
            control=control,
            most=most,
            length=length,
            seed=seed,
            decode=not scan,
            dtype=dtype,
            device=device,
            batch_size=batch_size,
            trust_remote_code=trust_remote_code,
        )
        with shown(quiet):
            track_checkpoints(asked, folder)
    results = write_track_page(folder)
    print(results.sentence)
    for line in results.further:
        print(line)
    print(f"Wrote {folder / PAGE}.")


def _history(checkpoints: list[str], control: str | None) -> Path:
    """The folder of a history, where no sequences were named."""
    if len(checkpoints) > 1 or control is not None:
        raise UserError("track: --sequences is missing. Name the texts or the table to watch.")
    return Path(checkpoints[0])
