"""What a study lacks and what may come next: one list for the terminal, `status` and the report."""

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.benchmark.gain import times_wanted
from mnemoscope.benchmark.verdict import EFFECT, wants_trainings
from mnemoscope.data.folders import in_folders, unrepeated
from mnemoscope.data.table import has_values, whole_mask
from mnemoscope.errors import MnemoscopeError, UserError
from mnemoscope.files import free_name, written_by_holder
from mnemoscope.localize.grafts import FEWEST_WALKS, Finding
from mnemoscope.pipeline.causes import (
    FEWEST_GRAFTED,
    GRAFT_FILE,
    GRAFT_SPECIFICITY_FILE,
    INTO_MODEL,
    KNOCKOUT_FILE,
    SPECIFICITY_FILE,
    by_weight,
    finding_of,
    spoken_strength,
)
from mnemoscope.pipeline.label import LABELS_FILE, SampleEntry, nothing_to_train, samples_of
from mnemoscope.pipeline.reference import also_repeated, is_swapped, may_be_swapped, with_reference
from mnemoscope.progress import read_note
from mnemoscope.report.documents import block_of
from mnemoscope.stats import FEWEST_GROUPS, rows_of
from mnemoscope.store import Store
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import EMBEDDED, NO_MODEL, split_revision
from mnemoscope.study.stages import STAGES, rests_on
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.names import NON_MEMO
from mnemoscope.words import MINUS, PART_KINDS, count, nats, plural, ranged, rounded, whole_kind

FIRST = 4
"""Steps that a terminal names."""
_WIDTH = 96  # of their lines
_ELSEWHERE = re.compile(r"\b(OTHER_TEXTS|REFERENCE|MODEL|MORE|DOCUMENTS)\b|--list")
_MOST_INSTEAD = 2  # commands of a refusal
_ALL_PARTS = "--full --redo"
_FIRST_AUDIT = "-audit-first"  # of one document, of at least so many
_MANY_DOCUMENTS = 4
_SHORTEST = 32  # tokens of a sequence that is advised; the half of them that follows says little
MOST_TIMES = 50
"""So many times the sequences are beyond reach."""
_MOST_SCALE = 1000  # of `graft.largest_scale`


class Step(NamedTuple):
    """What one may want, and the command for it."""

    why: str
    command: str


def missing_of(study: Study) -> str | None:
    """Why a study has no figures of CNNs; None where it has them."""
    if study.is_done("benchmark") and study.is_done("localize"):
        return None
    if study.settings.model.name == NO_MODEL:
        return "No model was asked (model.name none), so attention was not looked at."
    if study.is_done("label") and (reason := nothing_to_train(study)) is not None:
        what = reason.removeprefix(f"{study.folder}: ")  # the page may be sent to others
        return _needed(study) + what[:1].upper() + what[1:]
    lacking = [one.name for one in STAGES if not one.is_optional and not study.is_done(one.name)]
    return f"Not done yet: {', '.join(lacking)}."


def _needed(study: Study) -> str:
    """How many sequences each question needs, where it is these that are missing."""
    if whole_mask(study.sequences) is not None:
        return ""
    return (
        f"Attention takes {study.settings.label.minimum:,} sequences of each class, for its CNNs; "
        f"to compare parts of the model takes {FEWEST_GROUPS} of each memorized class. "
    )


class Deciding(NamedTuple):
    """What would answer a question that is left open, and the command; empty where there is none.

    `question` is "attention", "parts" (do two classes need different ones?) or "cuts".
    """

    question: str
    taxonomy: str
    why: str
    command: str


def next_steps(study: Study, place: Path | None = None) -> Iterator[Step]:
    """What may come next, what says most of this study first; each command works as it stands.

    But for words in capitals, which are the reader's to fill in. `place` is what the study is
    called: its folder, or on a page, which is sent to others, the folder's name. Outputs have names
    that are free; on such a page, which is the same wherever it is made, plain ones.
    """
    is_here, place = place is None, place or study.folder
    folder, is_whole = shlex.quote(str(place)), study.is_done("localize")
    if is_swapped(study):
        yield _swap(study, place)
        return  # nothing else says anything of a model that did not read the texts
    if may_be_swapped(study):
        yield _swap(study, place)
    yield from _by_block(study, place)
    begun = {one: said for one in ("graft", "knockout") if (said := _begun(study, one))}
    for stage, said in begun.items():
        yield Step(said, f"mnemoscope {stage} {folder}")
    grafts, audits = list(_grafts(study, place)), list(_audit_instead(study, place))
    open_ones = {one.question: one for one in reversed([*deciding(study, place)]) if one.command}
    # One a question, and where the same command answers two of them the first.
    asked = {one.command: Step(one.why, one.command) for one in open_ones.values()}
    decide = list(reversed(asked.values()))
    if _has_two_classes(study):
        yield from grafts
        grafts = []
    if is_whole:
        yield from [*audits, *decide]
        decide = []
    if missing_of(study) is not None:
        go_on = _go_on(study, place)
        steps = [go_on, *audits, *grafts, *_cut_shorter(study, place)]
        steps += _ask_reference(study, place)
        if not any("OTHER_TEXTS" in one.command for one in steps):
            steps += decide
        yield from sorted(steps, key=lambda one: "OTHER_TEXTS" in one.command)
    else:
        yield from grafts
    if is_whole and not study.is_done("knockout") and "knockout" not in begun:
        why = "Cut the attention that decides, and see what breaks"
        yield Step(why, f"mnemoscope knockout {folder}")
    if is_whole:
        why = "Read every sequence of every class in the browser"
        why += " (needs gradio; the command says how to install it)"
        yield Step(why, f"mnemoscope app {folder}")
    why = "See which further analyses there are, and what each needs"
    yield Step(why, "mnemoscope analyze --list")
    if is_whole:
        why = "Write the figures at print quality, and their numbers"
        figures = free_name(Path("figures")) if is_here else "figures"
        yield Step(why, f"mnemoscope localize {folder} --export {figures}")
    if study.settings.model.name != NO_MODEL and not audits:
        command = f"mnemoscope audit {shlex.quote(study.settings.model.name)} DOCUMENTS"
        command += f" -o {free_name(Path('audit')) if is_here else 'audit'}"
        if study.settings.capture.reference:
            command += f" --reference {shlex.quote(study.settings.capture.reference)}"
        yield Step("Find what this model repeats of documents of your own", command)


def _begun(study: Study, stage: str) -> str:
    """Say that grafts or knockouts that are not done were begun; empty where they were not."""
    is_there = any((study.folder / stage).glob("[!.]*.json")) and not study.is_done(stage)
    is_open = why_no_grafts(study) is None and study.settings.reference is not None
    if (
        not is_there
        or is_made_now(study, stage)
        or not (is_open if stage == "graft" else study.is_done("localize"))
    ):
        return ""
    return f"Go on with {stage}, which was begun{_how_far(study, stage)}: what is made is kept"


def is_made_now(study: Study, stage: str) -> bool:
    """Whether the process that works on a study wrote the note of this stage."""
    try:
        study.refuse_locked()
    except UserError:
        return written_by_holder(study.note_path(stage))
    return False


def _how_far(study: Study, stage: str) -> str:
    """How far a stage is that was stopped, in brackets, where that is known."""
    note = read_note(study.note_path(stage))
    return f" ({note['words']})" if note else ""


def _grafts(study: Study, place: Path) -> Iterator[Step]:
    """The grafts of a study that has none, where they can be made."""
    folder = shlex.quote(str(place))
    if study.is_done("graft"):
        yield from untried_parts(study, folder)
        return
    if why_no_grafts(study) is not None or _begun(study, "graft"):
        return
    what = "Which parts of the model hold each class"
    if not _has_two_classes(study):
        what = "Which parts of the model hold what it repeats, all classes together"
    if study.settings.reference is not None:
        how = "--dry-run: how long it takes; --quick: a first look"
        most = max(max(_memorized(one).values(), default=0) for one in samples_of(study).values())
        if most < FEWEST_GROUPS:
            how += f"; to tell a part from chance takes {FEWEST_GROUPS} sequences of a class, "
            how += f"and none has more than {most}"
        yield Step(f"{what} ({how})", f"mnemoscope graft {folder}")
        return
    why = f"{what}, once a reference is given (a model of the same shape that did not read "
    why += "the texts, such as its base)"
    command = with_reference(study, place)
    if study.manifest("capture") is None:
        command = f"mnemoscope graft {folder} --reference REFERENCE"
    yield Step(why, command)


def untried_parts(study: Study, folder: str) -> Iterator[Step]:
    """Which parts finished grafts left out, as `--quick` does, and the command for all of them."""
    wanted, manifest = study.settings.graft.parts, study.manifest("graft")
    if wanted is None or manifest is None or not study.is_done("graft"):
        return
    tried = manifest["counts"]["parts"]
    kinds = {one.rpartition(".")[2] for one in wanted}
    left = [one for one in (*PART_KINDS, "embedding", "unembedding") if one not in kinds]
    left = [PART_KINDS.get(one, one) for one in left]
    left += [] if any("layers." in one for one in tried) else ["single layers"]
    why = f"Grafts so far: {', '.join(map(whole_kind, tried))}"
    why += f"; not tried: {', '.join(left)}" if left else ""
    begun = _how_far(study, "graft")
    why += f". {f'Go on{begun} with these' if begun else 'These'} and every part of every layer"
    why += " (--dry-run: how long it takes)"
    yield Step(why, f"mnemoscope graft {folder} {_ALL_PARTS}")


def is_of_all_parts(command: str) -> bool:
    """Whether a command of `untried_parts`."""
    return command.startswith("mnemoscope graft ") and command.endswith(_ALL_PARTS)


def steps_from_here(study: Study) -> Iterator[Step]:
    """The `next_steps` of a terminal: first the report, where one is out of date."""
    if is_report_old(study):
        command = f"mnemoscope report {shlex.quote(str(study.folder))}"
        yield Step("Write the report again, which is out of date", command)
    yield from next_steps(study)


def works_at_once(study: Study) -> list[Step]:
    """The first `next_steps` about this study that need nothing which is not there."""
    steps = (one for one in next_steps(study) if not _ELSEWHERE.search(one.command))
    return list(islice(steps, _MOST_INSTEAD))


def first_steps(study: Study) -> Iterator[str]:
    """The first of them in lines, each command on its own; before, why there is no graft."""
    if study.is_done("label") and (reason := why_no_grafts(study)) is not None:
        yield f"No grafts: {reason}."
    yield "Next:"
    for why, command in islice(steps_from_here(study), FIRST):
        yield from wrap(f"- {why}:", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        yield f"    {command}"


def is_report_old(study: Study) -> bool:
    """Whether the report that is there lacks what was made since, such as grafts."""
    if study.is_done("report") or not (study.folder / "report.html").is_file():
        return False
    last = {stage: at for at, (stage, _) in enumerate(study.logged())}
    made = max(last.get(one.name, -1) for one in STAGES if one.is_optional)
    return made > last.get("report", made) or missing_of(study) is None


def _anew(study: Study, place: Path, ending: str = "") -> str:
    """A run of another study with all that was set in this one, but for the flag to fill in."""
    anew = shlex.join(["mnemoscope", "run", str(place / "study.yaml")])
    return f"{anew} --{{}} -o {shlex.quote(_beside(study, place, ending))}"


def _swap(study: Study, place: Path) -> Step:
    """The run with model and reference in each other's place."""
    model = study.settings.model
    named = model.name + (f"@{model.revision}" if model.revision else "")
    name, revision = split_revision(str(study.settings.reference))
    flags = f"model {shlex.quote(name)}"
    if revision:
        flags += f" --revision {shlex.quote(revision)}"
    elif model.revision:
        flags += " --set model.revision=null"
    flags += f" --reference {shlex.quote(named)}"
    why = "Did you swap model and reference? The other way round"
    return Step(why, _anew(study, place).format(flags))


def _go_on(study: Study, place: Path) -> Step:
    """The command that makes what is missing."""
    folder, anew = shlex.quote(str(place)), _anew(study, place)
    if study.settings.model.name == NO_MODEL:
        return Step("Ask a model", anew.format("model MODEL"))
    if not study.is_done("label") or nothing_to_train(study) is None:
        return Step("Finish the study", f"mnemoscope run -o {folder}")
    flags = next((one.flags for one in samples_of(study).values() if one.flags), "")
    if flags:
        made = [
            one.name
            for one in STAGES
            if one.is_optional and rests_on(one.name, "label") and study.is_done(one.name)
        ]
        why = "Train on what there is"
        if made:
            why += f", which drops {' and '.join(made)}: afterwards run "
            why += f"{' and '.join(f'mnemoscope {one} {folder}' for one in made)}, which takes "
            why += "what is still valid from the study"
        elif study.settings.reference is not None and why_no_grafts(study) is None:
            why += "; grafts that were made before it would be dropped"
        return Step(why, f"mnemoscope run -o {folder} {flags} --redo")
    what = _KINDS_OF_TEXT[NON_MEMO] if study.sequences["is_memorized"].all() else _READ
    why, command = _more_texts(study, place, "Add texts to these, in a new study", what)
    if not command:  # of the shipped texts there are no more
        return Step("Ask about other texts", anew.format("sequences OTHER_TEXTS"))
    return Step(why, command)


def _ask_reference(study: Study, place: Path) -> Iterator[Step]:
    """The control beside the count, where grafts, which ask it too, are out of reach."""
    is_counted = study.is_done("label") and nothing_to_train(study) is not None
    if study.settings.reference is not None or not is_counted or why_no_grafts(study) is None:
        return
    if study.settings.model.name != NO_MODEL and study.sequences["is_memorized"].any():
        why = "What a reference repeats too: a model that did not read the texts, such as the base"
        yield Step(why, with_reference(study, place))


def _audit_instead(study: Study, place: Path) -> Iterator[Step]:
    """The audit of the same texts, where they are texts of this disk, or what checks it."""
    model, sources = study.settings.model, _own_texts(study)
    why = "An audit of the same texts: passage by passage, with no least number (--dry-run: how "
    why += "long it takes)"
    if (made := audit_of(study)) is not None:
        name = str(made if place.name in ("", "..") else place.with_name(made.name))
        if _has_reference(study, made):
            why = f"The audit of the same texts is in {name}. To see whether its model still "
            why += "writes them"
            yield Step(why, shlex.join(["mnemoscope", "audit", "verify", name]))
            return
        why = f"An audit with the reference, on which its verdicts rest (that in {name} asked "
        why += "none, or another)"
    if not sources:
        return
    flags = ["--revision", model.revision] if model.revision else []
    if study.settings.capture.reference:
        flags += ["--reference", study.settings.capture.reference]
    if column := study.settings.sequences.columns.get("text"):
        flags += ["--column", f"text={column}"]
    asked = {"-audit": (sources, why)}
    if made is None and (first := _stands_out(study, sources)):
        said, path = first
        asked = {_FIRST_AUDIT: ([path], f"A quick audit first, of {said}"), **asked}
    for ending, (documents, why) in asked.items():
        out = _beside(study, place, ending)
        yield Step(
            why, shlex.join(["mnemoscope", "audit", model.name, *documents, "-o", out, *flags])
        )


def _stands_out(study: Study, sources: Sequence[str]) -> tuple[str, str] | None:
    """Of many documents the one of which most is recalled, with its path.

    None: there are few, nothing is recalled, or an audit was begun where this one would go.
    """
    is_begun = study.folder.with_name(f"{study.folder.name}{_FIRST_AUDIT}").exists()
    if is_begun or not study.is_done("label"):
        return None
    labels = study.read(LABELS_FILE)
    if PAPER not in labels.columns:
        return None
    counts = (
        study.sequences.with_columns(recalled=labels[PAPER] == _RECALLED)
        .drop_nulls("document")
        .group_by("document")
        .agg(n=pl.len(), k=pl.col("recalled").sum())
        .sort(["k", "document"], descending=[True, False])
    )
    if counts.height < _MANY_DOCUMENTS or not counts["k"][0]:
        return None
    name, n, k = counts.row(0)
    path = next((one for source in sources if (one := Path(source) / name).is_file()), None)
    said = f"{name} ({count(k)} of {plural(n, 'sequence')} recalled)"
    return None if path is None else (said, str(path))


def _own_texts(study: Study) -> list[str]:
    """The texts of this disk that a study was made of and an audit can be asked about."""
    sources = [study.settings.sequences.source, *study.settings.sequences.also]
    is_asked = study.settings.model.name != NO_MODEL and has_values(study.sequences, "document")
    return sources if is_asked and all(Path(one).exists() for one in sources) else []


def audit_of(study: Study) -> Path | None:
    """The audit of the same texts, where the advised command has put it; None before it is made.

    Of several the first that asked the study's reference, else the first.
    """
    if not _own_texts(study):
        return None
    folder = study.folder.resolve()
    names = [folder.with_name(f"{folder.name}-audit")]
    while names[-1].exists():
        names.append(folder.with_name(f"{folder.name}-audit-{len(names) + 1}"))
    made = [one for one in names if (one / "report.html").exists()]
    return next((one for one in made if _has_reference(study, one)), next(iter(made), None))


def _has_reference(study: Study, audit: Path) -> bool:
    """Whether an audit asked the reference of a study, if that has one."""
    name = study.settings.reference
    if name is None:
        return True
    with suppress(MnemoscopeError):
        found = Store(audit, remedy=lambda _: "").record("audit").get("reference") or {}
        weights = study.fingerprint("reference")
        return bool(found.get("fingerprint") == weights if weights else found.get("name") == name)
    return False


def audit_sentence(study: Study) -> str:
    """Why an audit of a study's own texts finds more than the study counts; empty without them."""
    if not _own_texts(study):
        return ""
    return (
        "Counted here: windows that come out whole, word for word. An audit of the same texts "
        "finds more, as it begins at many more places and lets some tokens differ."
    )


def _by_block(study: Study, place: Path) -> Iterator[Step]:
    """Sequences as long as the blocks in which the model seems to have read the texts."""
    wanted, facts = study.settings.sequences, study.record["models"].get("model")
    found = None if wanted.prefix or wanted.suffix or facts is None else block_of(study.sequences)
    if found is None or facts is None:
        return
    length = found[0] * wanted.length
    most, is_after_one = facts["max_positions"], facts["bos_id"] is not None
    if most is not None and length + is_after_one > most:
        return
    why = (
        f"Ask by block: sequences of {length} tokens, not {wanted.length}. {length // 2} are shown "
    )
    why += f"and {length // 2} must follow, which is stronger evidence"
    yield Step(
        why, _anew(study, place, f"-{length}-tokens").format(f"set sequences.length={length}")
    )


def _cut_shorter(study: Study, place: Path) -> Iterator[Step]:
    """Sequences half as long, where too few that were cut from texts are memorized."""
    wanted = study.settings.sequences
    if not has_values(study.sequences, "start") or wanted.prefix or wanted.suffix:
        return
    half = wanted.length // 2
    is_tried = study.folder.with_name(f"{study.folder.resolve().name}-{half}-tokens").exists()
    if is_tried or block_of(study.sequences):
        return
    if half < _SHORTEST or half % 2 or missing_of(study) is None or not study.is_done("label"):
        return
    if nothing_to_train(study) is None or study.sequences["is_memorized"].all():
        return
    why = (
        f"Cut these texts into sequences of {half} tokens, not {wanted.length}: about twice as "
        f"many sequences. Of each {half // 2} tokens must follow and not {half}, which is weaker "
        "evidence, "
        f"and {half // 2} are shown and not {half}, so more or fewer may come out. A smaller "
        "sequences.stride does not help: windows that overlap count as copies of one another"
    )
    anew = _anew(study, place, f"-{half}-tokens")
    yield Step(why, anew.format(f"set sequences.length={half}"))


def _beside(study: Study, place: Path, ending: str = "") -> str:
    """A folder beside a study that is not there yet, as the study is called."""
    folder = study.folder.resolve()
    free = free_name(folder.with_name(f"{folder.name}{ending}"))
    return str(free if place.name in ("", "..") else place.with_name(free.name))


def why_no_grafts(study: Study) -> str | None:
    """Why nothing can be grafted, whatever reference is given; None where it can.

    As `graft` itself refuses: it needs labels, whole rows and two memorized sequences.
    """
    if study.settings.model.name == NO_MODEL:
        return "no model was asked (model.name none)"
    if not study.is_done("label"):
        return "the study is not labelled"
    if whole_mask(study.sequences) is not None:
        return "rows are padded"
    counts = [sum(_memorized(one).values()) for one in samples_of(study).values()]
    if (most := max(counts, default=0)) < FEWEST_GRAFTED:
        return f"{plural(most, 'memorized sequence')}, {FEWEST_GRAFTED} needed"
    return None


def _has_two_classes(study: Study) -> bool:
    """Whether two memorized classes of a taxonomy have enough sequences to be compared."""
    samples = samples_of(study).values() if study.is_done("label") else ()
    counts = [_memorized(one).values() for one in samples]
    return any(sum(n >= FEWEST_GROUPS for n in each) > 1 for each in counts)


def _memorized(sample: SampleEntry) -> dict[str, int]:
    return {name: n for name, n in sample.counts.items() if name != NON_MEMO}


def deciding(study: Study, place: Path) -> Iterator[Deciding]:
    """What would decide the questions that finished stages left open, taxonomy by taxonomy.

    Numbers of sequences hold if the figure stays what it is. `place` is what the study is called.
    """
    if not study.is_done("label") or whole_mask(study.sequences) is not None:
        return
    mains = [one for one in samples_of(study).values() if one.key.is_main]
    if study.is_done("benchmark"):
        of = {
            (one["taxonomy"], one["variant"]): one
            for one in rows_of(study.benchmark)
            if one["is_headline"]
        }
        for entry in mains:
            if row := of.get((entry.key.taxonomy, entry.key.variant)):
                yield from _decide_attention(study, place, entry, row)
    for entry in mains:
        yield from _decide_parts(study, place, entry)
    if study.is_done("knockout"):
        for entry in mains:
            yield from _decide_cuts(study, place, entry)


def _decide_attention(
    study: Study, place: Path, entry: SampleEntry, row: Mapping[str, Any]
) -> Iterator[Deciding]:
    """More trainings, a reference, or more sequences, by what the verdict lacks."""
    if row["verdict_kind"] not in ("unclear", "cannot") or not row["did_train"]:
        return
    folder, settings = shlex.quote(str(place)), study.settings
    key = "attention", entry.taxonomy
    if wants_trainings(row["verdict"]):
        more = "--set 'train.seeds=[0,1,2]'"
        if len(settings.train.seeds) > 2:
            more = "--set benchmark.control_seeds=3"
        yield Deciding(
            *key,
            "Three trainings give a verdict on attention",
            f"mnemoscope run -o {folder} {more} --redo",
        )
        return
    if settings.reference is None and settings.benchmark.controls:
        yield Deciding(
            *key,
            "A reference (a model that did not read the texts, such as the base) gives a verdict "
            "on attention",
            with_reference(study, place),
        )
        return
    gain, n = row["gain"], entry.n_train + entry.n_eval
    n = entry.n_eval if entry.split_by == "folds" else n
    times = times_wanted(gain, EFFECT)
    if times is None or times <= 1:
        return
    found = f"it stays at {nats(gain.value)} nats a sequence"
    if times > MOST_TIMES:
        yield Deciding(
            *key,
            "No number of sequences within reach decides whether attention adds "
            f"to the text: if {found}, it would take {rounded(times):,} times as many",
            "",
        )
        return
    wanted = rounded_up(times * n)
    sides = ["above 0"] * (gain.value > 0) + [f"below {EFFECT:g}"] * (gain.value < EFFECT)
    side = " or ".join(sides)
    why = (
        f"About {count(wanted)} sequences of each class in place of {count(n)} would put the "
        f"gain of attention {side}, if {found}"
    )
    of_each = dict.fromkeys(entry.trained_classes or entry.classes, wanted)
    label = settings.label
    sets: Sequence[str] = ()
    if wanted > label.per_class:
        sizes = {"n_train": label.n_train, "n_eval": label.n_eval}
        parts = {one: math.ceil(wanted * n / label.per_class) for one, n in sizes.items()}
        sets = tuple(f"label.{one}={n}" for one, n in parts.items())
    yield Deciding(*key, *_more_of(study, place, entry, of_each, why, sets))


def _decide_parts(study: Study, place: Path, entry: SampleEntry) -> Iterator[Deciding]:
    """More sequences of small classes, more or larger random changes, by what the verdict lacks."""
    memorized, key = _memorized(entry), ("parts", entry.taxonomy)
    if len(memorized) < 2 or not sum(memorized.values()):
        return
    again = f"mnemoscope graft {shlex.quote(str(place))} --set graft.{{}} --redo"
    specific = []
    if study.is_done("graft"):
        inside = study.read(GRAFT_FILE).filter(taxonomy=entry.taxonomy, direction=INTO_MODEL)
        groups = dict(inside.select("class", "n_groups").iter_rows())
        memorized = {one: groups.get(one, n) for one, n in memorized.items()}
        rows = study.read(GRAFT_SPECIFICITY_FILE).filter(taxonomy=entry.taxonomy)
        specific = by_weight(list(rows_of(rows)))
    few = {one: FEWEST_GROUPS for one, n in memorized.items() if n < FEWEST_GROUPS}
    pair = " and ".join(memorized)
    if len(memorized) - len(few) < 2:
        why = (
            f"Whether {pair} need different parts can be told from {FEWEST_GROUPS} sequences of "
            "each, near duplicates counted once"
        )
        yield Deciding(*key, *_more_of(study, place, entry, few, why, there=memorized))
    elif specific and finding_of(specific[0]) is Finding.OUT_OF_REACH:
        largest = study.settings.graft.largest_scale
        if largest < _MOST_SCALE:
            why = f"Larger random changes may tell whether {pair} need different parts"
            larger = f"largest_scale={min(2 * largest, _MOST_SCALE):g}"
            yield Deciding(*key, why, again.format(larger))
    elif specific and finding_of(specific[0]) is Finding.FEW:
        if study.settings.graft.draws < FEWEST_WALKS:
            why = f"More random changes ({FEWEST_WALKS} at least) would tell whether {pair} differ"
            draws = type(study.settings.graft)().draws
            yield Deciding(*key, why, again.format(f"draws={draws}"))
        else:
            why = (
                f"{FEWEST_GROUPS} sequences of each in kinds of text that both have would tell "
                f"whether {pair} need different parts"
            )
            yield Deciding(*key, *_more_texts(study, place, why, "texts of kinds that both have"))


def _decide_cuts(study: Study, place: Path, entry: SampleEntry) -> Iterator[Deciding]:
    """More sequences, where a cut breaks of a class as much as random edges of equal mass do."""
    rows = study.read(SPECIFICITY_FILE).filter(**entry.key._asdict())
    if rows.is_empty():
        return
    tried = dict(
        study.read(KNOCKOUT_FILE).filter(**entry.key._asdict()).select("class", "n").iter_rows()
    )
    rows = rows.filter(strength=spoken_strength(rows["strength"]))
    row = max(rows_of(rows), key=lambda one: entry.counts.get(one["class"], 0))
    beyond, name = row["beyond_equal_mass"], row["class"]
    times = times_wanted(beyond)
    if times is None or times <= 1:
        return
    shown = ranged(beyond, scale=100, unit=" points", digits=0, minus=MINUS)
    found = f"the difference stays at {shown}"
    key, n = ("cuts", entry.taxonomy), tried[name]
    if times > MOST_TIMES:
        yield Deciding(
            *key,
            "No number of sequences within reach decides whether the edges most "
            f"decisive for {name} break more of it than others, if {found}",
            "",
        )
        return
    wanted = rounded_up(times * n)
    why = (
        f"About {count(wanted)} sequences of {name} in place of {count(n)} would tell what the "
        f"cut edges break from what others do, if {found}"
    )
    more = f"knockout.n_sequences={wanted}"
    if wanted <= entry.counts.get(name, 0):
        command = f"mnemoscope knockout {shlex.quote(str(place))} --set {more} --redo"
        yield Deciding(*key, why, command)
        return
    yield Deciding(*key, *_more_of(study, place, entry, {name: wanted}, why, (more,)))


_GUESSED, _RECALLED = "Guess", "Recall"
_KINDS_OF_TEXT = {
    NON_MEMO: "texts that the model never read",
    _GUESSED: "lists, tables and other texts whose beginnings tell how they go on",
}
_READ = "texts that the model read many times"


def _more_of(
    study: Study,
    place: Path,
    entry: SampleEntry,
    wanted: Mapping[str, int],
    why: str,
    sets: Sequence[str] = (),
    *,
    there: Mapping[str, int] | None = None,
) -> tuple[str, str]:
    """`why` with what is wanting of each class, and the command that gives more.

    `sets` are settings that would cut off what is added. `there` is how many of a class count,
    those in the table unless it says so.
    """
    counts, rows = there or entry.counts, study.sequences.height
    wanting = {one: n - counts.get(one, 0) for one, n in wanted.items() if n > counts.get(one, 0)}
    if not wanting and sets:
        flags = " ".join(f"--set {one}" for one in sets)
        return why, f"mnemoscope run -o {shlex.quote(str(place))} {flags} --redo"
    if not wanting:
        return _more_texts(
            study, place, f"{why}; near duplicates count once", "texts like these", sets
        )
    said = " and ".join(f"{count(n)} of {name}" for name, n in wanting.items())
    kinds, apart, ending = dict(_KINDS_OF_TEXT), unrepeated(study.sequences), ""
    also = also_repeated(study)
    if apart and _GUESSED in wanting and not (also and also.n):
        # Nothing comes out here without having been read, so what can be guessed is no exception.
        those = in_folders(apart)
        ending = f". Texts like {those} will hardly help: of so many none was repeated"
        kinds[_GUESSED] = f"{_READ} and whose beginnings tell how they go on, such as lists"
    # What is repeated comes of the other texts, what is not of texts like these.
    n_read = rows - sum(apart.values())
    of_kind: dict[str, list[str]] = {}
    for one in wanting:
        of_kind.setdefault(kinds.get(one, _READ), []).append(one)
    wants, n_more = [], {}
    for kind, names in of_kind.items():
        how_many = "how many is not known, as none was found here"
        if all(counts.get(one) for one in names):
            n = rounded(max(wanting[one] / counts[one] for one in names) * n_read)
            n = wanting[NON_MEMO] if apart and NON_MEMO in names else n
            n_more[kind] = n
            like = "those it repeats here" if apart and NON_MEMO not in names else "these"
            how_many = f"about {count(n)} more sequences of texts like {like}"
        of = f"for {' and '.join(names)}, " if len(of_kind) > 1 else ""
        wants.append(f"{of}{kind} ({how_many})")
    total = None
    if len(n_more) == len(of_kind):
        unread = n_more.pop(_KINDS_OF_TEXT[NON_MEMO], 0)
        most = max(n_more.values(), default=0)
        total = rounded(most + unread if apart else max(most, unread))
    said = f"{why}; missing: {said}"
    return _more_texts(study, place, said, "; ".join(wants), sets, n_more=total, ending=ending)


def _more_texts(
    study: Study,
    place: Path,
    why: str,
    what: str,
    sets: Sequence[str] = (),
    *,
    n_more: int | None = None,
    ending: str = "",
) -> tuple[str, str]:
    """`why` with `what` to add, and a study of these texts and `n_more` sequences."""
    wanted, rows = study.settings.sequences, study.sequences.height
    if wanted.limit is not None and rows >= wanted.limit:
        larger = "MORE" if n_more is None else rows + n_more
        flags = [f"sequences.limit={larger}", *sets]
        said = f"{why}. A larger limit helps if the source has more of these: {what}{ending}"
    elif wanted.source == EMBEDDED or study.settings.model.name == NO_MODEL:
        return f"{why}. Needed: {what}{ending}", ""
    else:
        flags = [f"sequences.also=[{', '.join([*wanted.also, 'OTHER_TEXTS'])}]", *sets]
        said = f"{why}. Give as OTHER_TEXTS: {what}{ending}"
    first, *others = (f"set {shlex.quote(one)}" for one in flags)
    return said, _anew(study, place).format(" --".join([first, *others]))


def rounded_up(n: float) -> int:
    """Two digits, never below."""
    step = int(10 ** max(0, len(str(int(n))) - 2))
    return math.ceil(n / step) * step
