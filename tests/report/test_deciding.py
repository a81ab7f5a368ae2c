"""What would decide a question that is left open: how much more, and a command that runs."""

import shlex
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from mnemoscope.localize.grafts import Finding
from mnemoscope.pipeline.label import samples_of
from mnemoscope.pipeline.reference import AlsoRepeated
from mnemoscope.report import advice
from mnemoscope.report.advice import deciding
from mnemoscope.stats import Estimate, frame_of, rows_of
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy.names import NON_MEMO

TAXONOMY = "Non-Memo, Recite[5], Recollect"


@pytest.fixture
def study(study_at) -> Study:
    return Study(study_at("report"))


@pytest.fixture
def runs(study, tiny, tmp_path, succeed):
    """Give a command as it is advised, with texts where it wants them: its dry run."""

    def runs(command: str) -> str:
        texts = tmp_path / "other.parquet"
        rows = pl.read_parquet(tiny.table)
        rows.with_columns(pl.col("sequence_id") + 10_000).write_parquet(texts)
        command = command.replace("OTHER_TEXTS", str(texts)).replace("REFERENCE", str(tiny.model))
        program, *words = shlex.split(command)
        assert program == "mnemoscope"
        return succeed(*words, "--dry-run").out

    return runs


def judged(study, monkeypatch, gain, *, kind="unclear", verdict="undecided (so)"):
    """The study with this gain of its headline."""
    rows = list(rows_of(study.benchmark))
    for row in rows:
        if row["is_headline"]:
            row |= {"gain": Estimate(*gain), "verdict_kind": kind, "verdict": verdict}
            row["did_train"] = True
    frame = frame_of(rows, study.benchmark.schema)
    monkeypatch.setattr(Study, "benchmark", property(lambda _: frame))
    return [one for one in deciding(study, study.folder) if one.question == "attention"]


@pytest.mark.parametrize(
    ("gain", "times", "said"),
    [
        ((0.1, -0.02, 0.22), 1.44, "above 0, if it stays at 0.100 nats"),
        ((0.1, -0.1, 0.3), 4, "above 0, if it stays at 0.100 nats"),
        ((-0.04, -0.24, 0.16), 4, "below 0.06, if it stays at −0.040 nats"),
        ((0.02, -0.04, 0.08), 2.25, "above 0 or below 0.06, if it stays at 0.020 nats"),
    ],
)
def test_more_sequences_of_each_class_decide_a_gain(study, monkeypatch, runs, gain, times, said):
    entry = next(one for one in samples_of(study).values() if one.taxonomy == TAXONOMY)
    n = entry.n_train + entry.n_eval
    (found,) = judged(study, monkeypatch, gain)
    assert f"in place of {n} would put the gain of attention {said}" in found.why
    wanted = int(found.why.split()[1])
    assert times * n <= wanted <= 1.1 * times * n + 1
    wanting = {name: wanted - entry.counts[name] for name in entry.trained_classes}
    for name, more in wanting.items():
        assert (f"{more:,} of {name}" in found.why) == (more > 0)
    assert ("OTHER_TEXTS" in found.command) == (max(wanting.values()) > 0)
    assert "Nothing was written" in runs(found.command)
    # The sizes of a sample do not cut off what is added.
    sizes = [int(one.partition("=")[2]) for one in shlex.split(found.command) if "label.n_" in one]
    assert max(sum(sizes), study.settings.label.per_class) >= wanted
    assert found.command in [one.command for one in advice.next_steps(study)]


def test_what_no_number_of_sequences_decides_is_said_without_a_command(study, monkeypatch):
    (found,) = judged(study, monkeypatch, (0.03, -0.97, 1.03))
    assert found.command == ""
    assert found.why.startswith("No number of sequences within reach decides")
    assert "1,100 times as many" in found.why
    assert not any("times as many" in one.why for one in advice.next_steps(study))


def test_one_training_wants_three_and_a_verdict_nothing(study, monkeypatch, runs):
    verdict = "undecided (one training; three needed for a verdict): 0.1 nats"
    (found,) = judged(study, monkeypatch, (0.1, -0.1, 0.3), verdict=verdict)
    assert found.command.endswith("--set 'train.seeds=[0,1,2]' --redo")
    assert "train" in runs(found.command).partition("Stages to run:")[2]
    for kind in ("adds", "nothing"):
        assert not judged(study, monkeypatch, (0.1, 0.05, 0.3), kind=kind)


def faked(study, monkeypatch, done: str, frames: dict[str, pl.DataFrame]) -> None:
    is_done, read = Study.is_done, Study.read
    monkeypatch.setattr(Study, "is_done", lambda own, one: one == done or is_done(own, one))
    monkeypatch.setattr(
        Study, "read", lambda own, name: frames[name] if name in frames else read(own, name)
    )


@pytest.mark.parametrize(
    ("n_groups", "finding", "setting"),
    [
        (9, None, "sequences.also=["),
        (40, Finding.OUT_OF_REACH, "graft.largest_scale=16"),
        (40, Finding.FEW, "graft.draws=16"),
        (40, Finding.ALIKE, None),
    ],
)
def test_what_would_tell_the_parts_of_two_classes_apart(
    study, monkeypatch, runs, n_groups, finding, setting
):
    classes = [("Recite[5]", 40), ("Recollect", n_groups)]
    of = {"taxonomy": TAXONOMY, "direction": "twin_in_model"}
    shares = [{**of, "class": name, "n_groups": n} for name, n in classes]
    row = {"taxonomy": TAXONOMY, "finding": finding.name if finding else ""}
    row["specific"] = Estimate(0.1, 0.0, 0.2)
    frames = {
        "graft.parquet": pl.DataFrame(shares),
        "graft_specificity.parquet": frame_of([row])[: bool(finding)],
    }
    faked(study, monkeypatch, "graft", frames)
    study.settings.graft.draws = 5 if finding is Finding.FEW else 16
    found = [one for one in deciding(study, study.folder) if one.taxonomy == TAXONOMY]
    found = [one for one in found if one.question == "parts"]
    assert len(found) == (setting is not None)
    for one in found:
        assert setting in one.command
        assert ("missing: 1 of Recollect" in one.why) == (n_groups == 9)
    monkeypatch.undo()
    for one in found:
        assert "Nothing was written" in runs(one.command)


@pytest.mark.parametrize(
    ("beyond", "said", "setting"),
    [
        ((0.2, -0.02, 0.42), "About 49 sequences of Recite[5] in place of 40", "knockout.n_seq"),
        ((0.2, -0.2, 0.6), "About 160 sequences of Recite[5] in place of 40", "sequences.also="),
        ((0.01, -0.5, 0.52), "No number of sequences within reach", ""),
        ((0.2, 0.1, 0.3), None, None),
    ],
)
def test_what_would_tell_a_cut_from_edges_of_equal_mass(
    study, monkeypatch, runs, beyond, said, setting
):
    key = next(key for key in samples_of(study) if key.taxonomy == TAXONOMY)._asdict()
    row = {**key, "class": "Recite[5]", "strength": 1.0, "beyond_equal_mass": Estimate(*beyond)}
    frames = {
        "specificity.parquet": frame_of([row]),
        "knockout.parquet": pl.DataFrame([{**key, "class": "Recite[5]", "n": 40}]),
    }
    faked(study, monkeypatch, "knockout", frames)
    found = [one for one in deciding(study, study.folder) if one.question == "cuts"]
    assert len(found) == (said is not None)
    monkeypatch.undo()
    for one in found:
        assert one.why.startswith(str(said))
        assert bool(one.command) == bool(setting)
        assert str(setting) in one.command
        if one.command:
            assert "Nothing was written" in runs(one.command)


def test_a_class_that_is_missing_wants_texts_of_its_kind(study, monkeypatch):
    entry = next(iter(samples_of(study).values()))
    classes = [NON_MEMO, "Guess", "Recall"]
    counts = {NON_MEMO: 80, "Guess": 0, "Recall": 198}
    small = replace(entry, classes=classes, counts=counts)
    monkeypatch.setattr(advice, "samples_of", lambda _: {entry.key: small})
    found = [one for one in deciding(study, Path("s")) if one.question == "parts"]
    assert "missing: 10 of Guess. Give as OTHER_TEXTS: lists, tables" in found[0].why
    assert "how many is not known" in found[0].why  # none was found, so there is no rate


@pytest.mark.parametrize(
    ("unread", "n_guess", "reference", "said"),
    [
        (
            {"new/a": 77},
            3,
            0,
            "Texts like the 77 sequences of new/ will hardly help: of so many none was repeated",
        ),
        (
            {"new/a": 77, "lists/a": 322},
            3,
            0,
            "Texts like the 322 sequences of lists/ and the 77 of new/ will hardly help",
        ),
        (
            {"new/a": 77},
            3,
            None,
            "Texts like the 77 sequences of new/ will hardly help: of so many none was repeated",
        ),
        ({"new/a": 77}, 0, 0, "how many is not known, as none was found here"),
        ({"new/a": 77}, 3, 2, None),  # the reference guesses some, so unread texts give some too
        ({"new/a": 3}, 3, 0, None),  # chance
    ],
)
def test_texts_of_which_nothing_is_repeated_promise_nothing_to_guess(
    study, monkeypatch, unread, n_guess, reference, said
):
    counts = {NON_MEMO: sum(unread.values()), "Guess": n_guess, "Recall": 201 - n_guess}
    entry = next(iter(samples_of(study).values()))
    small = replace(entry, classes=[*counts], counts=counts)
    monkeypatch.setattr(advice, "samples_of", lambda _: {entry.key: small})
    documents = [name for name, n in (unread | {"read/a": 201}).items() for _ in range(n)]
    table = pl.DataFrame({"document": documents, "tokens": [[1]] * len(documents)})
    table = table.with_columns(is_memorized=pl.col("document") == "read/a")
    monkeypatch.setattr(Study, "sequences", property(lambda _: table))
    also = None if reference is None else AlsoRepeated(reference, 201, Estimate(0.0), [])
    monkeypatch.setattr(advice, "also_repeated", lambda _: also)
    (found,) = (one for one in deciding(study, Path("s")) if one.question == "parts")
    assert str(said or "OTHER_TEXTS: lists, tables") in found.why
    assert ("many times and whose beginnings tell" in found.why) == (said is not None)
    # The rate is that of the texts of which something is repeated: unread ones do not move it.
    assert ("about 470 more sequences of texts like those it" in found.why) == (
        n_guess > 0 and unread["new/a"] > 3
    )
