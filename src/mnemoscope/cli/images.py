"""The verbs images, images gate: what does a model of pictures give back of its training?"""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mnemoscope.cli.audit import Again, Folder, needed_out
from mnemoscope.cli.gates import judge_finished, judge_found, read_gate
from mnemoscope.cli.options import (
    ANSWER,
    GATE,
    Device,
    Dtype,
    GateFlags,
    JsonAnswer,
    Quiet,
    assignment,
    parse_columns,
)
from mnemoscope.cli.study import shown
from mnemoscope.errors import UserError, nearest

_WAYS = ("guidance", "prompt")


def images(
    model: Annotated[str, Argument(help="A pipeline of diffusers: a folder or NAME@REVISION.")],
    table: Annotated[str, Argument(help="A table with prompt; image, seed and label if known.")],
    out: Folder = None,
    reference: Annotated[
        str | None, Option("--reference", help="The control: alike, and did not read the images.")
    ] = None,
    mitigate: Annotated[
        str | None,
        Option("--mitigate", metavar="WAY", help="Make memorized ones again: guidance, or prompt."),
    ] = None,
    column: Annotated[
        list[str] | None,
        Option("--column", metavar="NAME=PATH", help="A column of the table: prompt=caption."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=VALUE", help="steps, guidance, draws, measure, error …"),
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what it would take.")] = False,
    gate: GateFlags = GATE,
    dtype: Dtype = None,
    device: Device = None,
    redo: Again = False,
    answer: JsonAnswer = ANSWER,
    quiet: Quiet = False,
) -> None:
    """Say of each prompt whether a diffusion model gives back a picture of its training.

    Example: mnemoscope images my-pipeline prompts.jsonl --reference its-control -o images
    """
    if mitigate is not None and mitigate not in _WAYS:
        said = f"--mitigate '{mitigate}': give guidance or prompt."
        raise UserError(f"{said}{nearest(mitigate, _WAYS)}")
    from mnemoscope.diffusion.found import IMAGES

    conditions = read_gate(gate, IMAGES, out=out, sources=[table])
    from mnemoscope.diffusion.run import check_gates, plan
    from mnemoscope.diffusion.run import images as ask

    settings = dict(map(assignment, set_ or []))
    columns = parse_columns(column)
    if conditions:
        check_gates(conditions, model, table, reference=reference, columns=columns, **settings)
    if dry_run:
        cost = plan(
            model, table, reference=reference, mitigate=mitigate, columns=columns, **settings
        )
        for name, n in cost.items():
            print(f"{n:,} {name}")
        answer.facts.update(cost)
        return
    with shown(quiet):
        found = ask(
            model,
            table,
            needed_out(out, "images"),
            reference=reference,
            mitigate=mitigate,  # type: ignore[arg-type]  # one of `_WAYS`
            columns=columns,
            dtype=dtype or "float32",
            device=device or "auto",
            redo=redo,
            **settings,
        )
    print(found.record["sentence"])
    for row in found.memorized.sort("p", "row").iter_rows(named=True):
        print(f"  row {row['row']}: {row['prompt']} ({row['reason']})")
    print(f"Read {found.folder}/images.html; every prompt stands in images.parquet.")
    memorized = found.memorized.select("row", "prompt", "label", "norm", "control_norm", "p")
    answer.facts.update({**found.record, "folder": found.folder, "memorized": memorized})
    judge_found(found, conditions, gate, IMAGES, answer)


def images_gate(
    folder: Annotated[Path, Argument(help="The folder of finished 'images'.")],
    gate: GateFlags = GATE,
    answer: JsonAnswer = ANSWER,
) -> None:
    """Put a condition to finished images, whose files must be as written; no model is loaded.

    Example: mnemoscope images gate images --fail-if 'memorized > 3 prompts'
    """
    from mnemoscope.diffusion.found import IMAGES

    judge_finished(folder, gate, IMAGES, answer)
