"""The gate in Python is that of `audit gate`: the same lines, the same passages, no second rule."""

import json
import shutil

import pytest

import mnemoscope as ms
from mnemoscope.conditions import Shown, worst_said
from study_files import rewrite_record


@pytest.fixture(scope="module")
def older(made, tmp_path_factory):
    """The same audit, made earlier of another text: nothing of it is new."""
    folder = shutil.copytree(made.out, tmp_path_factory.mktemp("older") / "older")
    rewrite_record(folder / "audit.json", date="2020-01-01T00:00:00+00:00")
    return folder


@pytest.mark.parametrize(
    ("conditions", "strict", "is_beside"),
    [
        (["recalled > 0.5%", "near > 0.5%"], False, False),
        (["recalled > 99%"], False, False),
        (["recalled > 99%"], True, False),
        (["recalled >= 1 passage in doc", "guessed > 1%"], False, False),
        (["recalled >= 1 passage", "near > 0%"], False, True),
    ],
)
def test_an_audit_is_judged_in_python_as_by_the_command(
    made, older, call, conditions, strict, is_beside
):
    flags = [word for one in conditions for word in ("--fail-if", one)]
    flags += ["--strict"] * strict + ["--baseline", older] * is_beside
    done = call("audit", "gate", made.out, *flags, "--json")
    audit = ms.Audit.load(made.out)
    found = audit.gate(*conditions, baseline=older if is_beside else None, strict=strict)
    assert (found.passed, bool(found)) == (done.status == 0,) * 2
    asked = json.loads(done.out)["gate"]["conditions"]
    assert [json.loads(json.dumps(one.as_json())) for one in found.conditions] == asked
    shown = [one for one in str(found).splitlines() if one.startswith("  ")]
    assert [one for one in done.err.splitlines() if one.startswith("  ")] == shown
    assert len(found.reasons) == sum(one["failed"] for one in asked)
    if found.passed:
        found.check()
        assert found.passages.is_empty()
    else:
        with pytest.raises(AssertionError, match="Failed"):
            found.check()


def test_passages_that_an_audit_fails_for_are_a_frame_and_the_new_ones_beside_a_baseline(
    made, older, tmp_path
):
    audit, earlier = ms.Audit.load(made.out), ms.Audit.load(older)
    found = audit.gate("recalled >= 1 passage").passages
    assert found["verdict"].unique().to_list() == ["recall"]
    assert found.height >= 2
    assert {*found["text"]} <= {*audit.recalled["text"]}
    lengths = (found["end"] - found["start"]).to_list()
    assert lengths == sorted(lengths, reverse=True)
    assert audit.gate("recalled >= 1 passage", baseline=earlier).passages.is_empty()
    assert audit.passages.columns == made.spans.columns


@pytest.mark.parametrize(
    ("names", "said", "is_swapped"),
    [
        (("run/checkpoint-5", "run/checkpoint-9"), "", False),
        (("run/checkpoint-9", "run/checkpoint-5"), "is of step 9, what is judged of step 5", True),
        (("run-1/checkpoint-5", "run-2/checkpoint-9"), "was made later (2099-01-01T", True),
        (("base", "run/checkpoint-9"), "was made later (2099-01-01T", True),
    ],
)
def test_a_baseline_that_was_asked_later_is_swapped_only_where_no_step_speaks_against_it(
    made, tmp_path, names, said, is_swapped
):
    """Asked later, it repeats as much; then more, which alone makes it look swapped."""
    old, own = (shutil.copytree(made.out, tmp_path / one) for one in ("old", "own"))
    for folder, name in zip((old, own), names, strict=True):
        record = json.loads((folder / "audit.json").read_text())
        rewrite_record(folder / "audit.json", model=record["model"] | {"name": name})
    rewrite_record(old / "audit.json", date="2099-01-01T00:00:00+00:00")
    found = ms.Audit.load(own).gate("recalled > 99%", baseline=old)
    assert (found.passed, said in str(found), "later" in str(found)) == (
        True,
        True,
        "later" in said,
    )
    assert not found.conditions[0].baseline["swapped"]
    summary = record["summary"]
    less = summary["recalled"] | {"share": summary["recalled"]["share"] / 2}
    rewrite_record(own / "audit.json", summary=summary | {"recalled": less})
    found = ms.Audit.load(own).gate("recalled > 99%", baseline=old, strict=True)
    assert found.conditions[0].baseline["swapped"] == is_swapped
    fails = f"{old} was made later than what is judged, and repeats more"
    assert (said in str(found), fails in found.reasons[0]) == (True, is_swapped)
    assert "swapped?" not in str(found)


def test_the_worst_of_a_log_are_of_different_words():
    """A copy, its part, and one that is wrapped elsewhere; neither another text nor a short one."""
    words = "the lamp on the hill burns green for seven birds and a crane over the harbour"
    others = ["a ferry crossed at noon", "ten boats lay in the harbour", "it was the winter letter"]
    copies = [words, words.upper(), words.replace(" ", "\n"), words[9:], "seven birds and a crane"]
    shown = [Shown(f"{n}.txt", text) for n, text in enumerate([*copies, *others[:2]])]
    title, *lines = worst_said(shown, "passage")
    assert title.endswith("(7 passages, of which 4 repeat words of another):")
    assert [one.split(".")[0] for one in lines] == ["  0", "  5", "  6"]
    title, *lines = worst_said([*shown[:2], *(Shown("a", one) for one in others)], "window")
    assert title.endswith("(the worst 3 of 5 windows, of which 1 repeats words of another):")
    assert len(lines) == 3
    assert next(worst_said(shown[:1], "passage")).endswith("(1 passage):")
    assert [*worst_said([], "passage")] == []
    blank = [Shown("a", " \n"), Shown("b", "...")]  # without a word none repeats another
    assert len([*worst_said(blank, "passage")]) == 3


def test_what_no_gate_can_judge_is_refused(made, tmp_path):
    audit = ms.Audit.load(made.out)
    for asked, said in (
        (lambda: audit.gate(), "no condition. Give one, such as 'recalled > 0.5%'"),
        (lambda: audit.gate("recalled > 0.5"), "^fail_if 'recalled > 0.5': 0.5 of what"),
        (lambda: audit.gate("recalled > 1%", baseline=audit), "baseline .*is judged, beside"),
        (lambda: audit.gate("recalled > 1%", baseline=tmp_path), "contains no audit"),
        (lambda: ms.Audit.load(tmp_path), "contains no audit"),
    ):
        with pytest.raises(ms.UserError, match=said):
            asked()
