"""What `run` prints on the terminal: its plan (`--dry-run`) and the table at its end."""

import shlex
import sys

from rich.console import Console
from rich.table import Table

from mnemoscope.benchmark.sources import ATTENTION, SOURCES, TABLE, headline_of, of_reader
from mnemoscope.data.table import OWN_VERDICT
from mnemoscope.pipeline.label import (
    aliases_of,
    drawn_words,
    in_shown_order,
    samples_of,
    sharing_of,
)
from mnemoscope.pipeline.reference import control_words
from mnemoscope.pipeline.trainings import chooses_reader
from mnemoscope.plan import Plan
from mnemoscope.report.content import ReportContent, report_content
from mnemoscope.report.documents import block_sentence, document_sentence, nearly_sentence
from mnemoscope.report.lead import grafts_said
from mnemoscope.report.published import console
from mnemoscope.stats import Estimate, rows_of
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy.names import form_words
from mnemoscope.taxonomy.sample import SampleKey
from mnemoscope.words import (
    FEW_OF_A_CLASS,
    UNKNOWN,
    count,
    decimal,
    figure,
    is_whole_kind,
    percent,
    plural,
    share_or_count,
)

# In one column the better of its sources counts.
_COLUMNS = list(
    dict.fromkeys(TABLE[one].column for one in SOURCES if TABLE[one].column not in ("", "model"))
)

_MOST_STATED = 3
_MOST_PARTS = 6  # rows of the table of grafts


def print_summary(study: Study, *, verbose: bool = False) -> None:
    """Print, for each sample, min-F1 beside its controls and the excess; then counts a class.

    Unless `verbose`, of what no CNN can be trained on the reason alone.
    """
    page, rows = console(), {}
    _print_repeated(study)
    if (study.folder / "benchmark.parquet").is_file():
        names = "taxonomy", "variant"
        for (taxonomy, variant), part in study.benchmark.group_by(*names, maintain_order=True):
            key = SampleKey(str(taxonomy), str(variant))
            rows[key] = {row["source"]: row for row in rows_of(part)}
    samples = in_shown_order(samples_of(study))
    several = len(samples) > 1
    numbers = {key: f"{number}  " if several else "" for number, key in enumerate(samples, 1)}
    trained = [key for key, entry in samples.items() if not entry.impossible]
    if trained and rows:
        first = [""] if several else []
        table = Table(*first, "reader", "model", *_COLUMNS, "excess", title="min-F1, %")
        for key in trained:
            found = rows.get(key, {})
            for reader in [one for one in ATTENTION if one in found]:
                sources = [one for one in of_reader(SOURCES, reader) if one in found]
                own = {one: found[one]["min_f1"] for one in sources}
                best = [percent(_best(own, one), unit=False) for one in _COLUMNS]
                table.add_row(
                    *([numbers[key].strip() if reader == ATTENTION[0] else ""] if several else []),
                    TABLE[reader].name + (" *" if reader == headline_of(found) else ""),
                    figure(found[reader]["min_f1"]),
                    *best,
                    figure(found[reader]["excess"], signed=True),
                )
        page.print(table)
        which = "the better reader on the training sequences"
        if not chooses_reader(study.settings):
            which = "the headline, since CNNs of fewer than three seeds cannot decide"
        page.print(
            f"* {which}. Regression: on statistics of the same "
            "attention, no CNN. Each reader has its own controls. Best blind: the better of the "
            "reader and n-grams, on the tokens alone. Logits are circular: memorized means that "
            "every suffix token is the likeliest one; prefix logits, how sure the model is of each "
            "token of the prefix, are not."
        )
    for key, entry in samples.items():
        found = rows.get(key, {})
        row = found.get(headline_of(found), {})
        groups = _groups(row.get("n_eval"), row.get("n_groups"))
        page.print(
            f"{numbers[key]}{entry.shown}: {drawn_words(entry, is_brief=not verbose)}{groups}"
        )
        if row.get("verdict"):
            page.print(f"{'   ' if several else ''}{TABLE[row['source']].name}: {row['verdict']}")
    for name, alias in aliases_of(study).items():
        number = numbers[SampleKey(alias.of)].strip() or alias.of
        page.print(f"=  {name}: the figures of {number} ({alias.reason})")
    if study.is_done("graft"):
        _print_result(report_content(study, None))
    need = sharing_of(study)
    if need and len(trained) > 1:
        page.print(f"Samples: {need}.")
    print_next(study)
    report = study.folder / "report.html"
    if report.is_file():
        page.print(f"Report: {report}", soft_wrap=True)


def print_grafts(study: Study) -> None:
    """Print what each part breaks beside its control, those parts first whose finding says most."""
    if not study.is_done("graft"):
        return  # a share of the grafts was made
    from mnemoscope.report.advice import untried_parts

    page, content = console(), report_content(study, None)
    notes: dict[bool, None] = {}
    grafted = [one for one in content.taxonomies if one.graft]
    for taxonomy in grafted:
        view = taxonomy.graft or {}
        heads = [f"{one}\nn = {count(n)}" for one, n in view["counts"].items()]
        beside = [f"{one},\nrandom" for one in view["classes"]]
        if view["first"]:
            beside = ["at random", "difference", "finding"]
        title = "What is left of each class with the reference's part in place of the model's, %"
        title += f" ({taxonomy.name})" * (len(grafted) > 1)
        table = Table("part", *heads, *beside, "loss,\nrandom", title=title, title_justify="left")
        for row in view["rows"][:_MOST_PARTS]:
            found, n_of = row["found"], view["counts"].values()
            cells = [_left(one, n) for one, n in zip(row["cells"], n_of, strict=True)]
            if not view["first"]:
                cells += [_left(one, n) for one, n in zip(row["random"], n_of, strict=False)]
            elif found:
                left = percent(found["random_broken"], unit=False)
                difference = figure(found["specific"], signed=True)
                cells += [f"{found['broken']} {left}", difference, found["words"]]
            everywhere = ", all layers" if is_whole_kind(row["part"]) else ""
            cells += [""] * (len(beside) - len(cells) + len(heads))  # a part without a finding
            loss = UNKNOWN if row["loss"] is None else decimal(row["loss"])
            if row["random_loss"] is not None:
                loss += f"\n{decimal(row['random_loss'])}"
            table.add_row(row["part"] + everywhere, *cells, loss)
        page.print(table)
        if (more := len(view["rows"]) - _MOST_PARTS) > 0:
            page.print(f"And {plural(more, 'more part')}, in the report.")
        notes[bool(view["first"])] = None  # which columns are to be explained
    for is_compared in notes:
        page.print(
            "At random: what is left of that class under random changes that break as much of the "
            "other. Difference: so many points fewer are left with the reference's part, within "
            "kinds of text."
            if is_compared
            else "Random: what is left under random changes as large as the reference's, a mean."
        )
    if notes:
        page.print(
            "Loss: by how much it rises on text that is not repeated, nats a token; below it, "
            "under these random changes."
        )
    _print_result(content)
    for why, command in untried_parts(study, shlex.quote(str(study.folder))):
        page.print(f"{why}:\n    {command}", soft_wrap=True)


def _left(share: Estimate, n: int) -> str:
    """What is left of n sequences, for a cell."""
    return share_or_count(share, n) if n < FEW_OF_A_CLASS else figure(share)


def _print_result(content: ReportContent) -> None:
    """Print what the report's first screen says of grafts, then the figures of each taxonomy."""
    grafts = [one.graft for one in content.taxonomies if one.graft and one.graft["first"]]
    for line in [*grafts_said(content), *(one["statement"] for one in grafts)]:
        console().print(line)


def print_state(study: Study, *, verbose: bool = False) -> None:
    """Print what is repeated, how many there are of each class, and what may come next."""
    if study.is_done("continue"):
        _print_repeated(study)
    samples, page = list(in_shown_order(samples_of(study)).values()), console()
    for entry in samples[:_MOST_STATED]:
        page.print(f"{entry.shown}: {drawn_words(entry, is_brief=not verbose)}", soft_wrap=True)
    if (further := len(samples) - _MOST_STATED) > 0:
        page.print(
            f"And {further:,} more samples, see {study.folder / 'manifests' / 'label.json'}."
        )
    print_next(study)


def _print_repeated(study: Study) -> None:
    """Print how many sequences are memorized; published labels are no answer of this model."""
    rows = study.sequences
    way = "memorized as published" if OWN_VERDICT in rows.columns else "repeated word for word"
    if rows.height:
        n_memorized = int(rows["is_memorized"].sum())
        console().print(f"{n_memorized:,} of {plural(rows.height, 'sequence')} {way}.")
        counts = [one.counts.items() for one in samples_of(study).values()]
        form = form_words(name for each in counts for name, n in each if n)
        length = study.settings.sequences.length
        found = document_sentence(rows), block_sentence(rows, length), nearly_sentence(rows)
        for said in (form, *found):
            if said:
                console().print(said, soft_wrap=True)
    from mnemoscope.report.advice import audit_of, audit_sentence

    if said := audit_sentence(study):
        made = audit_of(study)
        console().print(
            said + (f" Its report: {made / 'report.html'}" if made else ""), soft_wrap=True
        )
    if said := control_words(study):
        console().print(said, soft_wrap=True)


def _groups(n: int | None, n_groups: int | None) -> str:
    """How many groups of near duplicates the evaluation sequences are."""
    same = n is None or n_groups in (None, n)
    return "" if same else f" ({n:,} that test form {n_groups:,} groups of near duplicates)"


def _best(found: dict[str, Estimate], column: str) -> float | None:
    """The largest min-F1 of a column's sources."""
    every = (one.value for source, one in found.items() if TABLE[source].column == column)
    return max((value for value in every if value is not None), default=None)


def print_next(study: Study) -> None:
    """Print what may come next."""
    from mnemoscope.report.advice import first_steps

    for line in first_steps(study):
        console().print(line, soft_wrap=True)


def print_plan(plan: Plan, *, verbose: bool = False) -> None:
    """Print a plan; the table folds its cells on a narrow terminal.

    What each step takes is printed if it is asked for, or beside what is published.
    """
    print("\n".join(plan.lines))
    is_published = any(row.published for row in plan.rows)
    if plan.rows and not (verbose or is_published):
        print("Each step, and how this was computed: add --verbose.")
        plan = Plan(plan.lines, [], [])
    rows = [tuple(row) for row in (("cost", "this study", "published pipeline"), *plan.rows)]
    if not is_published:
        rows = [row[:2] for row in rows] if plan.rows else []
    if rows and sys.stdout.isatty():
        table = Table(box=None, pad_edge=False)
        for head in rows[0]:
            table.add_column(head, overflow="fold")
        for row in rows[1:]:
            table.add_row(*row)
        print()
        Console(highlight=False).print(table)
    elif rows:
        print("", *map(" | ".join, rows), sep="\n")
    if plan.notes:
        print("", *plan.notes, sep="\n")
    print("Nothing was written, downloaded or changed.")
