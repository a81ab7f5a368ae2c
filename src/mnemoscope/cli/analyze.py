"""The verbs analyze, watch and distill: further questions, to a study, a run and a student."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from mnemoscope.cli.options import (
    ANSWER,
    WATCH_GATE,
    Columns,
    GateFlags,
    JsonAnswer,
    Out,
    Quiet,
    QuietOrWordy,
    TrustRemoteCode,
    WatchGateFlags,
    Wordy,
    assignment,
    is_failed,
    parse_columns,
)
from mnemoscope.cli.study import shown
from mnemoscope.errors import UserError, nearest, printable
from mnemoscope.progress import counted_as

if TYPE_CHECKING:
    from mnemoscope.analysis.registry import Entry
    from mnemoscope.conditions import Gate
    from mnemoscope.flow.analyze import AnalysisRequest, Outcome
    from mnemoscope.flow.distill import Card, DistillAsked
    from mnemoscope.flow.watch import WatchAsked
    from mnemoscope.study.folder import Study

_DOCUMENTS = 10  # of a watch that are printed, the most reproduced first


WatchStride = Annotated[
    int | None,
    Option(
        min=1,
        help="Tokens from window to window (default: --length, so that they lie side by side). An "
        "audit's is 8, which takes 8 times as long.",
    ),
]
MostWindows = Annotated[
    int | None,
    Option(
        min=1,
        help="Most windows of --sequences and of --control, drawn at random, at least one of each "
        "document as far as it goes (default 2000; with 'in doc' all of --sequences).",
    ),
]

FittedRows = Annotated[
    str | None,
    Option(
        help="Rows that a model was fitted to: of a classifier a table with the columns text and "
        "label (psmi), of an encoder-decoder input and target (copying), of a masked language "
        "model text (dynamics); --second is then the network before it was fitted. Of classifiers "
        "rows that none read, text and if known label (neurons). Of a teacher that reads pictures "
        "image, prompt, text and duplicates (distilled).",
    ),
]
PairRows = Annotated[
    str | None,
    Option(
        help="In place of --texts, of a teacher that reads pictures (LLaVA, SmolVLM): a table with "
        "the columns image, prompt and text.",
    ),
]
Losses = Annotated[
    str,
    Option(
        metavar="NAME[:KIND][=WEIGHT],...",
        help="data (next token), logits:kl, logits:reverse-kl, logits:js, logits:mse, "
        "hidden:cosine, hidden:mse, attention, affinity; of pictures contrast. 'data' alone makes "
        "the control.",
    ),
]


def analyze(
    name: str | None = Argument(None, help="An analysis, or 'all'. See --list."),
    study: Path | None = Argument(
        None, metavar="STUDY|MODEL", help="A study folder; with --rows a fitted model."
    ),
    list_: bool = Option(
        False, "--list", help="List the analyses: what each answers and what it needs."
    ),
    second: str | None = Option(None, help="A second model with the same tokenizer."),
    checkpoint: list[str] | None = Option(
        None,
        help="A checkpoint, MODEL@REVISION or a folder; repeat in their order, or one folder "
        "that holds them.",
    ),
    corpus: str | None = Option(
        None, help="The training texts: texts, tables, or flat files of token ids."
    ),
    student: list[str] | None = Option(
        None, help="A student distilled from the study's model; repeatable."
    ),
    control: str | None = Option(
        None, help="A student that learnt from the same texts without the teacher."
    ),
    seed: int | None = Option(None, help="Seed of all that is drawn at random (default 0)."),
    set_: list[str] | None = Option(
        None,
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the analysis, for example n_sequences=500; repeatable.",
    ),
    rows: FittedRows = None,
    column: Columns = None,
    out: Path | None = Option(
        None, "-o", "--out", help="With --rows: table of the figures of every row."
    ),
    redo: bool = Option(False, "--redo", help="Compute a result again that is already there."),
    dry_run: bool = Option(
        False, "--dry-run", help="Only say how many sequences would go through a model."
    ),
    quiet: Quiet = False,
) -> None:
    """Run an analysis from a related paper on the study's sequences and model.

    Example: mnemoscope analyze levels my-study --second gpt2
    """
    if list_:
        _print_list()
        return
    if name is None or study is None:
        raise UserError(
            "analyze: name an analysis and a study, as 'mnemoscope analyze levels my-study'. "
            "'mnemoscope analyze --list' names the analyses."
        )
    if second is not None and checkpoint and rows is None:
        raise UserError("analyze: --second and --checkpoint say the same thing. Give one of them.")
    values = dict(map(assignment, set_ or []))
    if name == "all" and values:
        raise UserError("analyze all: --set is of one analysis. Run that one by its name.")
    values |= {"seed": seed} if seed is not None else {}
    from mnemoscope.analysis.registry import entry_named, every_entry
    from mnemoscope.study.folder import Study

    given: tuple[Any, ...] = (second, tuple(checkpoint or ()), corpus, values, redo)
    given += (tuple(student or ()), control)
    if rows is not None:
        if name == "all" or redo:
            raise UserError("analyze: 'all' and --redo are of a study. Leave them out.")
        asked_of = entry_named(name).of_rows()
        with shown(quiet):
            _analyze_rows(str(study), asked_of, rows, parse_columns(column), out, given, dry_run)
        return
    if column or out is not None:
        raise UserError("analyze: --column and -o are of a model's rows. Name them: --rows.")
    entry, opened = None if name == "all" else entry_named(name), Study(study)
    opened.refuse_locked()
    from mnemoscope.flow import analyze as flow  # loads torch, so names are checked before

    asked = flow.AnalysisRequest(*given)
    if entry is not None:
        flow.refuse_unused(entry, asked)
    if dry_run:
        _print_plan(opened, every_entry() if entry is None else [entry], asked)
        return
    with shown(quiet), opened.lock():
        _analyze_study(opened, entry, asked)


def _analyze_study(study: "Study", entry: "Entry | None", asked: "AnalysisRequest") -> None:
    """Run an analysis, None for all, print what is found, and renew the report."""
    from mnemoscope.flow import analyze as flow
    from mnemoscope.report.page import report_stage
    from mnemoscope.study.models import Models

    models, is_new = Models(study.settings), False
    for outcome in (
        flow.analyze_all(study, asked, models)
        if entry is None
        else [flow.run_or_read(study, entry, asked, models)]
    ):
        _print_outcome(outcome)
        is_new |= outcome.result is not None and not outcome.was_done
    if is_new:
        report_stage(study, models)
        print(f"Wrote {study.folder / 'report.html'}.")


def _analyze_rows(
    model: str,
    entry: "Entry",
    rows: str,
    columns: dict[str, str],
    out: Path | None,
    given: tuple[Any, ...],
    dry_run: bool,
) -> None:
    """Ask a fitted model about its rows, print what is found, and write the figures of each row."""
    from mnemoscope.cli.tables import table_to_write
    from mnemoscope.data.table import write_table
    from mnemoscope.flow import analyze as flow

    asked = flow.AnalysisRequest(*given)
    with nullcontext() if out is None else table_to_write(out):
        ready = flow.prepare_rows(model, entry, rows, asked, columns=columns)
        if dry_run:
            print(ready.cost)
            return
        found = ready.run()
        if out is not None:
            write_table(out, found.frames["rows"])
    print(f"{entry.name}: {found.sentence}")
    for line in found.further:
        print(f"  {line}")
    if out is not None:
        print(f"  Wrote {out}.")


def _print_plan(study: "Study", entries: "list[Entry]", asked: "AnalysisRequest") -> None:
    """What each would put through a model, or why it cannot be run; of several their sum."""
    from mnemoscope.flow.analyze import Outcome, cost_line, prepare_all, speed_of
    from mnemoscope.study.models import Models

    n_all, speed = 0, speed_of(study)
    for one in prepare_all(study, entries, asked, Models(study.settings)):
        if not isinstance(one, Outcome):
            print(cost_line(speed, one.entry.name, one.forwards, one.entry.cost))
            n_all += one.forwards or 0
        elif one.was_done:
            print(cost_line(speed, one.entry.name, 0))
        elif len(entries) > 1:
            _print_outcome(one)
        else:
            raise UserError(one.refused)
    if len(entries) > 1:
        print(cost_line(speed, "all", n_all))


def _print_outcome(outcome: "Outcome") -> None:
    """The result in its sentence, with its cost; or why there is none."""
    name, result = outcome.entry.name, outcome.result
    if result is None:
        print(f"{name}: left out. {outcome.refused.removeprefix(f'analyze {name}: ')}")
        return
    if outcome.was_done:
        print(f"{name}: nothing to do, {outcome.folder} is there. {result.sentence}")
        return
    from mnemoscope.words import plural

    print(f"{name}: {result.sentence}")
    for line in result.further:
        print(f"  {line}")
    print(
        f"  Wrote {outcome.folder}: {result.seconds:.1f} s, "
        f"{plural(result.forward_passes, 'sequence')} through a model."
    )


def _print_list() -> None:
    from rich.table import Table

    from mnemoscope.analysis.registry import NEEDS, USES, every_entry
    from mnemoscope.report.published import console

    table = Table(box=None, pad_edge=False)
    for column in ("analysis", "answers", "needs", "goes through the model"):
        table.add_column(column, overflow="fold")
    for entry in every_entry():
        needs = ", ".join(entry.needs)
        uses = [*entry.uses, *(["each model given"] if entry.each_model else [])]
        needs += f" (uses {', '.join(uses)})" if uses else ""
        table.add_row(entry.name, entry.answers, needs, entry.cost)
    console().print(table)
    words = Table(box=None, pad_edge=False, show_header=False)
    for word, meaning in (USES | {one: need.meaning for one, need in NEEDS.items()}).items():
        words.add_row(word, meaning)
    print()
    console().print(words)
    print(
        "Run one: mnemoscope analyze NAME STUDY. All that can be run: mnemoscope analyze all STUDY"
    )


WatchExclude = Annotated[
    list[str] | None,
    Option(
        "--exclude",
        metavar="PATTERN",
        help="Leave out files of --sequences, by a path in it or a glob such as '*.csv'; "
        "repeatable.",
    ),
]
WatchSequences = Annotated[
    str | None,
    Option(
        "--sequences",
        "--documents",
        help="Texts to watch: a folder, a table or a data set of the hub.",
    ),
]
WatchReference = Annotated[
    str | None,
    Option(
        "--reference", metavar="BASE", help="The model that was trained: step 0, before the others."
    ),
]
WatchRedo = Annotated[
    bool, Option("--redo", help="Begin the folder anew: the checks that it holds are removed.")
]
WatchOut = Annotated[
    Path | None,
    Option(
        "-o",
        "--out",
        help="Folder for history, tables and page (default: watch, or the callback's folder).",
    ),
]
WatchDryRun = Annotated[bool, Option("--dry-run", help="Only say what it asks and takes.")]
Threshold = Annotated[
    float | None,
    Option(
        min=0.5,
        max=1.0,
        help="Share of a suffix that must come out (default: as the folder has it, at first 1). "
        "An audit's is 0.9.",
    ),
]


def watch(
    checkpoints: Annotated[
        list[str],
        Argument(
            help="Checkpoints: folders, MODEL@REVISION, or one folder that holds them all. Or the "
            "folder that a MemorizationCallback wrote, or its trainer's, whose page is then drawn."
        ),
    ],
    sequences: WatchSequences = None,
    reference: WatchReference = None,
    control: str | None = Option(
        None, help="Texts that were kept out of training (default: those that the folder has)."
    ),
    column: Columns = None,
    exclude: WatchExclude = None,
    out: WatchOut = None,
    most: MostWindows = None,
    length: int = Option(64, min=2, help="Tokens in a window."),
    stride: WatchStride = None,
    scan: bool = Option(
        False, "--scan", help="Only find what is memorized, without scores and levels: faster."
    ),
    threshold: Threshold = None,
    seed: int = Option(0, min=0, help="Seed of the draw."),
    dtype: str = Option("float32", help="Number format: float32, bfloat16, float16."),
    device: str = Option("auto", help="Where the model runs: auto, cpu, cuda, mps."),
    batch_size: int = Option(64, min=1, help="Windows in a forward pass."),
    trust_remote_code: TrustRemoteCode = False,
    flags: WatchGateFlags = WATCH_GATE,
    redo: WatchRedo = False,
    dry_run: WatchDryRun = False,
    answer: JsonAnswer = ANSWER,
    quiet: QuietOrWordy = False,
    verbose: Wordy = False,
) -> None:
    """See which windows become memorized and which are forgotten, over checkpoints of one run.

    Example: mnemoscope watch out/ --sequences texts/ --control held-out/ -o watch
    """
    from mnemoscope.cli.gates import gated_watch, read_gate

    history = _history_of(checkpoints, sequences, control, out)
    gates = read_gate(flags, gated_watch(), out=history)
    _check_folder(history, out or history, threshold, scan=scan, redo=redo)
    from mnemoscope.flow.watch import WatchAsked, refuse_copy, watch_checkpoints

    if sequences is None:
        if dry_run:
            raise UserError("watch --dry-run: nothing to ask. Name the texts with --sequences.")
        if len(checkpoints) > 1 or control is not None or reference is not None or redo:
            raise UserError("watch: --sequences is missing. Name the texts or the table to watch.")
        _check_shown(history, Path(checkpoints[0]), out)
        if flags.baseline is not None:
            refuse_copy(flags.baseline, history)
    else:
        asked = WatchAsked(
            checkpoints=(*([] if reference is None else [reference]), *checkpoints),
            sequences=sequences,
            control=control,
            columns=parse_columns(column, [one for one in (sequences, control) if one]),
            exclude=tuple(exclude or ()),
            most=most or WatchAsked.most,
            whole=most is None and any(one.in_each for one in gates),
            length=length,
            stride=stride,
            threshold=threshold,
            seed=seed,
            decode=not scan,
            dtype=dtype,
            device=device,
            batch_size=batch_size,
            trust_remote_code=trust_remote_code,
            redo=redo,
        )
        with shown(quiet), counted_as("windows"):
            if dry_run:
                _say_watch_plan(asked, history, flags, answer)
                return
            watch_checkpoints(asked, history, flags.baseline)
    _show_history(history, out or history, gates, flags, answer, threshold, verbose=verbose)


def _say_watch_plan(
    asked: "WatchAsked", history: Path, flags: GateFlags, answer: JsonAnswer
) -> None:
    """Say what a watch would take; with `--strict` it fails where the watch would anyway."""
    from mnemoscope.cli.gates import say_plan
    from mnemoscope.flow.watch import prepare_watch
    from mnemoscope.flow.watch_plan import plan_watch

    found = prepare_watch(asked, history, flags.baseline)
    said = "\n".join(plan_watch(asked, found, history))
    unasked = [*(name for name, _ in found.unread), *found.windows.unasked]
    say_plan(said, unasked, flags, answer)


def _history_of(
    given: list[str], sequences: str | None, control: str | None, out: Path | None
) -> Path:
    """The folder of the history.

    Refuses texts that are not there, a folder that another verb judges, and the word gate.
    """
    from mnemoscope.audits.documents import check_sources
    from mnemoscope.store import held_said
    from mnemoscope.training.history import history_folder, holds_history

    if sequences is not None:
        check_sources([sequences, *([] if control is None else [control])])
        return out or Path("watch")
    is_gate = given[0] == "gate" and not Path("gate").exists()
    name = given[-1]
    held = "" if name == "gate" else held_said(Path(name))
    if held and (is_gate or not holds_history(history_folder(name))):
        raise UserError(f"{name}: holds {held}")
    if is_gate:
        raise UserError(
            "watch: has no gate of its own. A watch is judged by 'mnemoscope watch FOLDER "
            "--fail-if CONDITION'."
        )
    return history_folder(given[0])


def _check_folder(history: Path, out: Path, asked: float | None, *, scan: bool, redo: bool) -> None:
    """Refuse the folder of an audit, and a threshold that needs scores without them.

    Where it is another than the folder's, that is said.
    """
    from mnemoscope.training.history import kept_threshold

    if (history / "audit.json").is_file():
        raise UserError(f"{history}: an audit is there. Choose another folder with -o.")

    kept = None if redo else kept_threshold(history)
    if scan and (asked or kept or 1) < 1:
        raise UserError("--threshold: needs scores, and --scan makes none. Leave one of them out.")
    if None not in (asked, kept) and asked != kept:
        before, now = (f"{100 * (one or 1):.12g} %" for one in (kept, asked))
        page = f"{out} counts" if out != history else "now it counts"
        print(f"{history} counted a window from {before} of its tokens on; {page} from {now}.")


def _check_shown(history: Path, given: Path, out: Path | None) -> None:
    """Say whose history is shown, and refuse to draw it over another."""
    from mnemoscope.training.history import holds_history

    if out is not None and out.resolve() != history.resolve() and holds_history(out):
        raise UserError(
            f"{out}: holds a history of its own, and without --sequences that of {history} would "
            "be shown there. Name --sequences to check checkpoints, or another folder with -o."
        )
    if history != given:
        print(f"Shown is what a callback kept in {history}. --sequences checks the checkpoints.")


def _show_history(
    history: Path,
    out: Path,
    gates: "list[Gate]",
    flags: GateFlags,
    answer: JsonAnswer,
    threshold: float | None,
    *,
    verbose: bool,
) -> None:
    """Draw the page of a history, print what it says, and judge its last checkpoint.

    Where it fails, what failed comes first, and all else is in the page.
    """
    from mnemoscope.cli.gates import gated_watch, judge_found, results_of
    from mnemoscope.flow.watch import PAGE, documents_said, reproduced_at_last, write_watch_page
    from mnemoscope.training.history import keep_threshold, read_history
    from mnemoscope.words import plural

    read = read_history(history).counting(threshold)
    judgements = results_of(read, gates, flags, of := gated_watch())
    results = write_watch_page(history, out, judgements, threshold)
    if out == history and read.threshold != read.kept_threshold:
        keep_threshold(history, read.threshold)
    for name, reason in read.unread.head(_DOCUMENTS).iter_rows():
        print(printable(f"{name}: not checked: {reason}"), file=sys.stderr)
    if (more := read.unread.height - _DOCUMENTS) > 0:
        print(f"... and {plural(more, 'more document')}.", file=sys.stderr)
    if verbose or not is_failed(judgements):
        documents = documents_said(results.frames.get("documents"))
        print(results.sentence, *results.further, *documents, sep="\n")
        print(f"Wrote {out / PAGE}.")
    shares = results.frames["shares"].filter(step=read.steps[-1])
    facts = {"windows": reproduced_at_last(read), "shares": shares, "unread": read.unread}
    answer.facts.update(folder=out, steps=read.steps, said=results.sentence, **facts)
    step, page = read.steps[-1], out / PAGE
    judge_found(read, gates, flags, of, answer, judgements, page=page, verbose=verbose, step=step)


def distill(
    teacher: Annotated[
        str, Argument(help="The teacher: a folder, hub name, .gguf file, or 'embedded'.")
    ],
    out: Out,
    texts: list[str] | None = Option(
        None, "--texts", help="Texts or tables to train on; repeatable."
    ),
    rows: PairRows = None,
    column: Columns = None,
    data: str = Option(
        "own", help="With --rows, whose answers are learnt: own (the table's), or teacher."
    ),
    most: int = Option(100, min=1, help="Most tokens of an answer that the teacher writes."),
    losses: Losses = "data,logits:kl",
    temperature: float = Option(1.0, help="Logits are divided by it in kl, reverse-kl and js."),
    student: str | None = Option(
        None, help="Start from this smaller model with the same tokenizer."
    ),
    layers: float = Option(0.5, help="Layers of a new student; below 1: a share of the teacher's."),
    width: float = Option(
        0.5, help="Hidden size of a new student; below 1: a share of the teacher's."
    ),
    match: str = Option("even", help="Layers to compare: even (evenly spaced), or last."),
    exclude: list[str] | None = Option(
        None,
        metavar="STUDY|TABLE",
        help="Leave out windows that share tokens with its memorized sequences; repeatable.",
    ),
    shared: int = Option(24, min=1, help="How many tokens in a row count as shared (--exclude)."),
    epochs: float = Option(1.0, help="Passes over the texts."),
    steps: int | None = Option(None, min=1, help="Optimizer steps, instead of --epochs."),
    batch_size: int = Option(16, min=1, help="Windows in an optimizer step."),
    learning_rate: float = Option(5e-4, help="Peak of the learning rate."),
    length: int = Option(64, min=2, help="Tokens in a window."),
    limit: int | None = Option(None, min=1, help="Most windows of each text."),
    seed: int = Option(0, min=0, help="Seed of weights and order."),
    dtype: str = Option("float32", help="Number format of the teacher."),
    device: str = Option("auto", help="Where the model runs: auto, cpu, cuda, mps."),
    trust_remote_code: TrustRemoteCode = False,
    quiet: Quiet = False,
) -> None:
    """Train a smaller model on a larger one: does it inherit what the larger one memorized?

    Example: mnemoscope distill embedded --texts texts/ --losses data,logits:kl -o student
    """
    if match not in ("even", "last"):
        raise UserError(f"--match {match}: wants even or last.{nearest(match, ('even', 'last'))}")
    if data not in ("own", "teacher"):
        raise UserError(f"--data {data}: wants own or teacher.{nearest(data, ('own', 'teacher'))}")
    positive = {"epochs": epochs, "learning-rate": learning_rate, "temperature": temperature}
    for name, value in positive.items():
        if not 0 < value < float("inf"):
            raise UserError(f"--{name} {value:g}: must be above 0.")
    from mnemoscope.flow.distill import DistillAsked
    from mnemoscope.flow.distill import distill as train
    from mnemoscope.training.distill import DistillSettings, parse_losses

    settings = DistillSettings(
        losses=parse_losses(losses),
        match="even" if match == "even" else "last",
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        temperature=temperature,
    )
    asked = DistillAsked(
        teacher=teacher,
        texts=tuple(texts or ()),
        settings=settings,
        student=student,
        layers=layers,
        width=width,
        exclude=tuple(exclude or ()),
        shared=shared,
        length=length,
        limit=limit,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        rows=rows,
        columns=tuple(parse_columns(column).items()),
        data="own" if data == "own" else "teacher",
        most=most,
    )
    with shown(quiet):
        card = train(asked, out)
    _print_student(card, asked, out)


def _print_student(card: "Card", asked: "DistillAsked", out: Path) -> None:
    """Its size, what the losses came to, and how to ask what it inherited."""
    from mnemoscope.flow.distill import CARD

    shape, first, last = card["student"], card["history"][0], card["history"][-1]
    moved = ", ".join(f"{one} {first[one]:.3g} to {last[one]:.3g}" for one in card["losses"])
    given, unit, asks = "texts", "windows", "STUDY"
    if asked.rows is not None:
        given, unit, asks = "rows", "rows", f"{asked.teacher} --rows {asked.rows}"
    print(
        f"{shape['num_hidden_layers']} layers of {shape['hidden_size']}, "
        f"{shape['parameters']:,} parameters; {card['steps']:,} steps on "
        f"{card['texts']['windows']:,} {unit}: {moved}."
    )
    print(f"Wrote {out}, its card is {CARD}.")
    print(
        f"Next: train a control on the same {given} (--losses data), then 'mnemoscope analyze "
        f"distilled {asks} --student {out} --control CONTROL'."
    )
