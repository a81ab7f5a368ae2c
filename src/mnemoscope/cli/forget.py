"""The verbs forget and forget gate: is a text forgotten, or hidden?"""

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
    TrustRemoteCode,
    assignment,
    parse_columns,
)
from mnemoscope.cli.study import shown

Texts = str | None


def forget(
    before: Annotated[str, Argument(help="The model before unlearning.")],
    after: Annotated[str, Argument(help="The model after it.")],
    table: Annotated[str, Argument(help="Texts that are to be forgotten.")],
    out: Folder = None,
    retrained: Annotated[
        str | None, Option("--retrained", help="The twin: trained alike, without these texts.")
    ] = None,
    retain: Annotated[
        Texts, Option("--retain", help="Texts that both read and nobody asked to be forgotten.")
    ] = None,
    neighbours: Annotated[
        Texts, Option("--neighbours", help="Other passages of the same works, to train on.")
    ] = None,
    unread: Annotated[
        Texts, Option("--unread", help="Texts that no model read: the control without a twin.")
    ] = None,
    prefix: Annotated[int, Option("--prefix", help="Tokens that are shown.")] = 32,
    suffix: Annotated[int, Option("--suffix", help="Tokens that must follow.")] = 32,
    margin: Annotated[
        float, Option("--margin", help="Share that may come out beyond the control.")
    ] = 0.05,
    column: Annotated[
        list[str] | None,
        Option("--column", metavar="NAME=PATH", help="A column of the tables: text=answer."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=VALUE", help="draws, steps, learning_rate, batch, most …"),
    ] = None,
    gate: GateFlags = GATE,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    redo: Again = False,
    answer: JsonAnswer = ANSWER,
    quiet: Quiet = False,
) -> None:
    """Say whether what a model was to forget is gone, or only hidden.

    Example: mnemoscope forget before after texts/ --retrained twin --retain others/ -o forget
    """
    from mnemoscope.forgetting.run import FORGETTING, check_gate
    from mnemoscope.forgetting.run import forget as ask

    conditions = read_gate(gate, FORGETTING, out=out, sources=[table])
    has_twin = before == "embedded" if retrained is None else retrained != "none"
    for one in conditions:
        check_gate(one, has_twin=has_twin)
    with shown(quiet):
        found = ask(
            before,
            after,
            table,
            needed_out(out, "forget"),
            retrained=retrained,
            retain=retain,
            neighbours=neighbours,
            unread=unread,
            prefix=prefix,
            suffix=suffix,
            columns=parse_columns(column),
            margin=margin,
            dtype=dtype or "float32",
            device=device or "auto",
            trust_remote_code=trust_remote_code,
            redo=redo,
            **dict(map(assignment, set_ or [])),
        )
    for said in found.record["verdicts"]:
        print(f"{said['name']}: {said['verdict']}")
    print(found.sentence)
    print(f"Read {found.folder}/forget.html; every passage stands in forget.parquet.")
    answer.facts.update(
        {**found.record, "folder": found.folder, "stresses": found.stresses, "depth": found.depth}
    )
    judge_found(found, conditions, gate, FORGETTING, answer)


def forget_gate(
    folder: Annotated[Path, Argument(help="The folder of a finished 'forget'.")],
    gate: GateFlags = GATE,
    answer: JsonAnswer = ANSWER,
) -> None:
    """Put a condition to a finished 'forget', whose files must be as written; no model is loaded.

    Example: mnemoscope forget gate forget --fail-if 'hidden > 1%'
    """
    from mnemoscope.forgetting.run import FORGETTING

    judge_finished(folder, gate, FORGETTING, answer)
