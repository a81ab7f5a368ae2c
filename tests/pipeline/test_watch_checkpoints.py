"""Checkpoints of known truth are tracked: what is memorized when, resumed, and drawn."""

import base64
import hashlib
import json
import re
import shlex
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import polars as pl
import pytest
from transformers import AutoTokenizer

from mnemoscope.audits.documents import read_documents
from mnemoscope.conditions import _clean, parse_gate, quoted
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.errors import UserError, flags_as_typed
from mnemoscope.files import digest
from mnemoscope.flow import watch, watch_gate
from mnemoscope.flow.watch import WatchAsked, watch_checkpoints, watch_results, write_watch_page
from mnemoscope.lm.load import load_model
from mnemoscope.progress import counted_as, noted, track
from mnemoscope.training.history import FOLDER, WINDOWS, History, HistoryWriter, read_history
from mnemoscope.training.watch import judge
from mnemoscope.training.windows import WatchedWindows, placed
from mnemoscope.words import lines_words
from sarif_logs import check_sarif
from study_files import rewrite_record
from tiny_models import save_model


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """Checkpoints: nothing memorized, two thirds memorized, nothing again."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(tiny.reference, folder / "checkpoint-100")
    shutil.copytree(tiny.model, folder / "checkpoint-200")
    shutil.copytree(tiny.reference, folder / "checkpoint-300")
    return folder


def asked(tiny, run, **changes) -> WatchAsked:
    values = {"checkpoints": (str(run),), "sequences": str(tiny.table), "batch_size": 240}
    return WatchAsked(**values | changes)


@pytest.fixture(scope="module")
def tracked(tiny, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("tracked") / "t"
    watch_checkpoints(asked(tiny, run), out)
    write_watch_page(out)
    return out


def test_what_each_checkpoint_knows_is_found(tiny, tracked):
    table = pl.read_parquet(tiny.table)
    is_planted = (pl.int_range(table.height) % 3 < 2).alias("planted")
    planted = table.select(pl.format("document:{}", "sequence_id").alias("window"), is_planted)
    found = pl.read_parquet(tracked / "windows.parquet").join(planted, on="window")
    assert found.height == table.height
    memorized = found.filter("planted")
    assert memorized["first_memorized"].to_list() == [200] * memorized.height
    assert memorized["forgotten"].to_list() == [300] * memorized.height
    others = found.filter(~pl.col("planted"))
    assert others["first_memorized"].null_count() == others.height
    page = (tracked / "watch.html").read_text()  # which shows the first rows, and these first
    shown = [f"document:{n}" for n in range(table.height) if f">document:{n}<" in page]
    assert {*shown} & {*memorized["window"]}
    ever, never = (
        [page.index(f">{one}<") for one in shown if one in {*part["window"]}]
        for part in (memorized, others)
    )
    assert max(ever) < min(never, default=len(page))
    turnover = pl.read_parquet(tracked / "turnover.parquet").rows()
    n, rest = memorized.height, others.height
    assert turnover == [(100, 200, 0, n, 0, rest), (200, 300, 0, 0, n, rest)]
    levels = pl.read_parquet(tracked / "levels.parquet")
    assert set(levels.group_by("from_step").agg(pl.col("n").sum())["n"]) == {table.height}
    checks = read_history(tracked).checks
    assert ((checks["memorization_score"] == 1) == checks["is_memorized"]).all()
    survival = pl.read_parquet(tracked / "survival.parquet")
    assert set(survival["age"]) == {0, 100}
    assert set(survival["survives"].struct.field("value")) == {0.0, 1.0}


def test_a_second_run_loads_nothing_but_what_is_lost_or_changed(tiny, run, tmp_path, stopped_at):
    copy, out = shutil.copytree(run, tmp_path / "run"), tmp_path / "t"

    def checks() -> tuple[dict[str, bytes], list[str]]:
        with stopped_at(watch, "load_model") as loaded:
            watch_checkpoints(asked(tiny, copy, decode=False), out)
        found = {path.stem: path.read_bytes() for path in (out / "checks").glob("*.parquet")}
        return found, [name.rsplit("/", 1)[-1] for name, *_ in loaded]

    before, _ = checks()
    assert checks() == (before, [])
    (out / "checks" / "step-000000200.parquet").unlink()
    save_model(copy / "checkpoint-300", seed=2)
    again, loaded = checks()
    assert loaded == ["checkpoint-200", "checkpoint-300"]
    assert again["step-000000200"] == before["step-000000200"]
    assert again["step-000000300"] != before["step-000000300"]
    assert not any("No check of" in line for line in write_watch_page(out).further)
    shutil.copytree(tiny.model, copy / "checkpoint-500")
    checks()
    assert any("No check of step 400:" in line for line in write_watch_page(out).further)


def test_a_copy_as_baseline_is_refused_before_anything_is_read(
    tiny, run, tracked, tmp_path, stopped_at, refused
):
    copy, new = (shutil.copytree(tracked, tmp_path / one) for one in ("copy", "new"))
    other = tmp_path / "other"  # of the same second, perhaps
    watch_checkpoints(asked(tiny, run), other)
    assert read_history(other).sums != read_history(tracked).sums
    with stopped_at(watch, "load_tokenizer") as read:
        with pytest.raises(UserError, match="a copy of what is judged"):
            watch_checkpoints(asked(tiny, run), new, copy)
        assert read == []
        more = shutil.copytree(run, tmp_path / "more")
        shutil.copytree(tiny.model, more / "checkpoint-400")
        watch_checkpoints(
            asked(tiny, more), new, copy
        )  # which a further checkpoint makes an older one
        assert len(read) == 1
    assert "the shipped model has no checkpoints" in refused(
        "watch", "embedded", "--sequences", tiny.table
    )


def test_control_windows_stand_beside(tiny, run, tmp_path):
    out = tmp_path / "t"
    table = pl.read_parquet(tiny.table)
    table[2::3].with_columns(pl.col("sequence_id") + 1000).write_parquet(tmp_path / "c.parquet")
    table[:90].write_parquet(tmp_path / "s.parquet")
    files = {"sequences": str(tmp_path / "s.parquet"), "control": str(tmp_path / "c.parquet")}
    watch_checkpoints(asked(tiny, run, **files, decode=False), out)
    results = watch_results(read_history(out))
    at_200 = results.frames["shares"].filter(pl.col("step") == 200)
    kept_out = at_200.filter(pl.col("source") == "control")
    assert (kept_out["n"].sum(), kept_out["memorized"].sum()) == (50, 0)  # 30 are watched too
    assert any("Of the control 30 windows are watched too" in line for line in results.further)
    table[2:90:3].write_parquet(tmp_path / "c.parquet")
    with pytest.raises(UserError, match="all of its 30 windows are among those that are watched"):
        watch_checkpoints(asked(tiny, run, **files, decode=False), tmp_path / "other")
    trained = at_200.filter(pl.col("source") != "control")
    assert trained["memorized"].sum() == 60
    assert not any("kept out of training, so" in line for line in results.further)


@pytest.mark.parametrize("is_named", [False, True])
def test_a_chart_names_folders_without_a_step_and_numbers_steps(tracked, is_named):
    history = read_history(tracked)
    names = {step: f"release-{place}" for place, step in enumerate(history.steps)}
    chart = watch_results(replace(history, names=names if is_named else {})).figures[0]
    places = list(range(len(names))) if is_named else history.steps
    assert chart.series[0].x == tuple(places)
    assert (chart.x_names, chart.x_label) == (
        (tuple(names.values()), "") if is_named else ((), "step")
    )


def test_another_tokenizer_is_refused_and_what_was_seen_stays(tiny, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "checkpoint-300" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["x"], vocabulary["y"] = vocabulary["y"], vocabulary["x"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"step 300 .* another tokenizer"):
        watch_checkpoints(asked(tiny, copy, decode=False, most=30), tmp_path / "t")
    assert read_history(tmp_path / "t").steps == [100, 200]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing"], "name what is watched: mnemoscope watch missing --sequences PATH"),
        (["{run}", "other"], "--sequences is missing"),
        (["{run}/none", "--sequences", "{table}"], "{run}/none"),
        (["{run}", "--sequences", "nothing.parquet"], "nothing.parquet"),
        (["{run}", "--sequences", "{table}", "--length", "63"], "63"),
        (["{run}", "--sequences", "{table}", "--control", "{table}"], "the texts that are watched"),
        (["{run}", "--sequences", "{table}", "--dtype", "float8"], "float8"),
        (["{run}", "--sequences", "{table}", "--device", "abacus"], "abacus"),
    ],
)
def test_bad_input_is_one_line(tiny, run, tmp_path, monkeypatch, refused, arguments, words):
    monkeypatch.chdir(tmp_path)
    filled = [each.format(run=run, table=tiny.table) for each in arguments]
    assert words.format(run=run) in refused("watch", *filled, "-q")
    assert not (tmp_path / "watch").exists()


def test_command_tracks_and_draws_again(tiny, run, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    pl.read_parquet(tiny.table).head(210).write_parquet(tmp_path / "read.parquet")
    first = call("watch", run, "--sequences", "read.parquet", "--scan", "--quiet")
    assert first.status == 0, first.err
    page = tmp_path / "watch" / "watch.html"
    page.unlink()
    assert call("watch", "watch").out == first.out
    (advice,) = re.findall("Watch held-out texts beside them: mnemoscope (.*)", first.out)
    pl.read_parquet(tiny.table).tail(30).write_parquet(tmp_path / "held.parquet")
    told = [one.replace("HELD_OUT", "held.parquet") for one in shlex.split(advice)]
    with_control = call(*told, "--scan", "--quiet")
    assert (with_control.status, "kept out of training" in with_control.out) == (0, True)
    assert "No window was kept out" not in with_control.out
    for words in (
        "At step 300 the model reproduces 0.0 %",
        "No window was kept out",
        advice,
        f"<h1>{run}: what comes out, step by step</h1>",
    ):
        assert words.lower() in page.read_text().lower()
    drawn = page.read_text()
    (script,) = re.findall("<script>(.*?)</script>", drawn, flags=re.DOTALL)  # ours alone may run
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (drawn.count("<script"), f"script-src 'sha256-{hashed}'" in drawn) == (1, True)
    assert re.findall('<pre class="commands".*?><code>mnemoscope (.*?)</code>', drawn) == [advice]
    assert ", Recall: cannot be guessed from their text" in drawn  # in the legends
    elsewhere = call("watch", "watch", "-o", "elsewhere").out
    assert elsewhere == first.out.replace("Wrote watch/", "Wrote elsewhere/")
    assert (tmp_path / "elsewhere" / "watch.html").read_text() == page.read_text()
    assert not (tmp_path / "elsewhere" / "checks").exists()


def test_a_trainers_folder_shows_what_its_callback_kept(run, tracked, tmp_path, call, refused):
    """Without --sequences: it is said, and another history is not drawn over."""
    trainers = shutil.copytree(run, tmp_path / "out")
    kept = shutil.copytree(tracked, trainers / FOLDER)
    shown = call("watch", trainers, "--fail-if", "recalled > 0%")
    assert (shown.status, f"what a callback kept in {kept}" in shown.out) == (0, True)
    before = {path: path.read_bytes() for path in tracked.glob("*.*")}
    assert "holds a history of its own" in refused("watch", trainers, "-o", tracked)
    assert {path: path.read_bytes() for path in tracked.glob("*.*")} == before


def test_a_gate_judges_the_last_checkpoint(tiny, run, tracked, tmp_path, call, refused):
    """Of 240 windows, none of which can be guessed, step 200 reproduces 160 and step 300 none."""
    learned = tmp_path / "learned"
    checkpoints = [run / f"checkpoint-{step}" for step in (100, 200)]
    asked = ("watch", *checkpoints, "--sequences", tiny.table, "--scan", "-q", "-o", learned)
    made = call(*asked, "--fail-if", "recalled >= 160 windows", "--json")
    found = json.loads(made.out)
    assert (made.status, found["gate"]["step"], len(found["windows"])) == (3, 200, 160)
    assert call("watch", tracked, "--fail-if", "recalled > 0%", "-o", tmp_path / "o").status == 0
    for text, is_failed in {
        "reproduced > 160 windows": False,
        "reproduced >= 240 windows": False,
        "reproduced > 66.6%": True,
        "recalled > 66.7%": False,
    }.items():
        found = call("watch", learned, "--fail-if", text)
        assert found.status == (3 if is_failed else 0)
        assert f"{'Failed' if is_failed else 'Passed'} ({text}): at step 200, the last, " in (
            found.out
        )
    for text, words in {
        "guessed > 1%": "none of the watched windows are such that can be guessed",
        "reproduced > 240 windows": "240 windows are watched, so it never fails",
        "recalled > 1": "1 of what? Write 'recalled > 1%'",
        "near > 1%": "reproduced, guessed or recalled",
    }.items():
        assert words in refused("watch", learned, "--fail-if", text)
    same = call("watch", learned, "--fail-if", "recalled > 0%", "--baseline", tracked, "--json")
    gate = json.loads(same.out)["gate"]["conditions"][0]
    assert (same.status, gate["value"], gate["baseline"]["step"]) == (3, 160 / 240, 300)
    older = shutil.copytree(learned, tmp_path / "older")
    assert "a copy of what is judged" in refused(
        "watch", learned, "--fail-if", "recalled > 0%", "--baseline", older
    )
    rewrite_record(older / "checks" / "step-000000200.json", date="2099-01-01T00:00:00+00:00")
    new = call("watch", learned, "--fail-if", "recalled > 0%", "--baseline", older)
    assert new.status == 0
    assert "from their text reproduced newly (160 in all), none allowed; " in new.out
    assert f"; {older} was made later (2099-01-01T00:00:00+00:00) than what is jud" in new.out
    assert "?" not in new.out.replace("Passed", "").split("allowed; ")[1]
    assert f"; {older} checked the same weights." in new.out
    junit = tmp_path / "j.xml"
    gate = ("--fail-if", "recalled > 0%", "--strict", "--junit", junit, "--baseline")
    same = call("watch", learned, *gate, older)  # what was accepted of these weights stays so
    assert (same.status, f"; {older} checked the same weights." in same.out) == (0, True)
    assert not ElementTree.fromstring(junit.read_text()).findall("testcase/failure")
    name = older / "checks" / "step-000000200.json"
    rewrite_record(name, fingerprint="of other weights")
    swapped = call("watch", learned, *gate, older)
    assert swapped.status == 0  # it repeats as much
    clean = ("watch", run / "checkpoint-100", "--sequences", tiny.table, "--scan", "-q", "-o")
    swapped = call(*clean, tmp_path / "clean", *gate, older)
    assert f"{older} was made later than what is judged, and repeats more. At step" in swapped.out
    assert f"; {older} is of step 200, what is judged of step 100, and repeats more" in swapped.out
    assert (swapped.status, swapped.out.count(f"What to do: if {older} is of the later")) == (3, 1)
    rewrite_record(name, date="2000-01-01T00:00:00+00:00")
    assert call("watch", learned, *gate, older).status == 0
    at = ("watch", learned, "--fail-if", "recalled > 0%", "--baseline")
    assert "the folder that is judged" in refused(*at, learned)
    assert "holds no history" in refused(*at, run)


def test_an_earlier_step_that_was_asked_again_later_is_no_swapped_baseline(tiny, tmp_path, call):
    """By the steps of one training; of two trainings the dates are all that is known."""
    asked = ("--sequences", tiny.table, "--scan", "-q", "-o")
    for name, model in (("checkpoint-50", tiny.model), ("checkpoint-60", tiny.reference)):
        for folder in ("run", "another"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).symlink_to(model)
    clean = tmp_path / "clean"
    assert call("watch", tmp_path / "run" / "checkpoint-60", *asked, clean).status == 0
    gate = ("--fail-if", "recalled > 0%", "--strict", "--baseline")
    for folder, status in (("run", 0), ("another", 3)):
        older = tmp_path / f"older-{folder}"
        assert call("watch", tmp_path / folder / "checkpoint-50", *asked, older).status == 0
        name = older / "checks" / "step-000000050.json"
        rewrite_record(name, date="2099-01-01T00:00:00+00:00")
        found = call("watch", clean, *gate, older)
        assert (found.status, "made later" in found.out) == (status, status == 3)
    (way,) = re.findall("ask what is judged again too \\((--redo)\\)", found.out)
    rewrite_record(name, date="2020-01-01T00:00:00+00:00")  # before the check that is made anew
    again = ("watch", tmp_path / "run" / "checkpoint-60", *asked, clean, way, *gate, older)
    assert call(*again).status == 0


def test_what_comes_out_is_named_by_document_and_place(tiny, run, tmp_path, call):
    """Of two documents, one of which holds what step 200 reproduces; of a text and of a table."""
    table = pl.read_parquet(tiny.table)[[0, 1, 2, 5]].with_columns(
        document=pl.Series(["a.txt", "a.txt", "b.txt", "b.txt"]),
        start=pl.Series([0, 90, 0, 90]),
        end=pl.Series([90, 180, 90, 180]),
    )
    table.write_parquet(tmp_path / "s.parquet")
    conditions = ("--fail-if", "recalled >= 1 window in doc", "--fail-if", "recalled > 90%")
    asked = ("watch", run / "checkpoint-200", "--sequences", tmp_path / "s.parquet", "--scan", "-q")
    junit, out = tmp_path / "j.xml", tmp_path / "w"
    made = call(*asked, "-o", out, *conditions, "--junit", junit, "--json")
    facts = json.loads(made.out)
    found = [(one["document"], one["start"], one["end"]) for one in facts["windows"]]
    assert (made.status, found) == (3, [("a.txt", 0, 90), ("a.txt", 90, 180)])
    each, every = facts["gate"]["conditions"]
    assert (each["failing"], each["value"], every["failed"]) == (["a.txt"], 2, False)
    assert (each["compared"], every["compared"], each["drawn"]) == (2, 4, None)
    _, passed, title, first, *_ = made.err.splitlines()  # what failed, and the worst of it
    assert (passed[:23], title[-13:]) == ("Passed (recalled > 90%)", " (2 windows):")
    assert first.startswith("  a.txt, characters 0 to 90, line 1: ")
    assert "2 of 2 windows reproduced, the first" not in made.err
    shown = call("watch", out, "-o", tmp_path / "a page", *conditions).out
    # Not the page's folder, which holds no history.
    (known,) = re.findall(r"(--baseline .*) lets pass what is known", shown)
    rewrite_record(out / "checks" / "step-000000200.json", date="2000-01-01T00:00:00+00:00")
    anew = call(*asked, "-o", tmp_path / "anew", *conditions, *shlex.split(known))
    assert (known, anew.status) == (f"--baseline {out}", 0), anew.err
    said = call(*asked, "-o", out, *conditions, "--verbose").out
    assert "a.txt: 2 of 2 windows reproduced, the first at characters 0 to 90, line 1." in said
    assert (each["most_in"], every["most_in"]) == (["a.txt"], ["a.txt"])
    assert "1 of 2 checked documents has too much, most in a.txt (2 of 2 watched" in each["said"]
    suite = ElementTree.fromstring(junit.read_text())
    failed = [one.get("name") for one in suite.iter("testcase") if one.find("failure") is not None]
    assert failed == ["a.txt"]
    said = suite.find("testcase[@name='step 200']/system-out").text.splitlines()
    first, second = facts["windows"]  # lines are those of the texts, one behind the other
    ends = [text["line"] + text["text"].rstrip("\n").count("\n") for text in (first, second)]
    assert (first["line"], second["line"]) == (1, 1 + first["text"].count("\n"))
    assert f"a.txt, characters 90 to 180, {lines_words(second['line'], ends[1])}" in said
    assert pl.read_parquet(out / "documents.parquet")["reproduced"].to_list() == [2, 0]


def test_a_window_counts_from_a_share_of_its_tokens_on(tracked, call, refused, tmp_path):
    """By the scores that the checks kept; the page and each line say it."""
    history = read_history(tracked)
    scores = pl.int_range(pl.len()).over("step") % 33 / 32
    history = replace(history, checks=history.checks.with_columns(memorization_score=scores))
    n_windows = history.windows.height
    for threshold, least in ((0.9, 29), (0.5, 16)):
        near = history.counting(threshold)
        found = watch_gate.judge_latest(near, parse_gate("reproduced > 0 windows", WINDOWS))
        assert found.value == sum(n % 33 >= least for n in range(n_windows))
        assert f"reproduced to {100 * threshold:g} %, none allowed" in found.said
    made = call("watch", tracked, "--threshold", 0.9, "-o", tmp_path / "o")
    assert (made.status, "comes out to 90 % (--threshold)." in made.out) == (0, True)
    assert "comes out to 90 % (--threshold)" in (tmp_path / "o" / "watch.html").read_text()
    assert "--scan makes none" in refused("watch", tracked, "--threshold", 0.9, "--scan")
    assert read_history(tracked).kept_threshold == 1  # its own page was not drawn
    with pytest.raises(UserError, match=r"not all checks of .* have scores"):
        replace(history, checks=history.checks.drop("memorization_score")).counting(0.9)


def test_a_folder_is_judged_again_by_the_threshold_that_it_was_made_with(
    tiny, run, tmp_path, call, refused
):
    """The page stays as it is; another threshold is said, and kept from then on."""
    out, page = tmp_path / "w", tmp_path / "w" / "watch.html"
    asked = ("watch", run / "checkpoint-200", "--sequences", tiny.table, "-q", "-o", out)
    gate = ("--fail-if", "reproduced > 0 windows")
    made = call(*asked, *gate, "--threshold", 0.9, "--verbose")
    assert (made.status, "reproduced to 90 %, none allowed" in made.out) == (3, True)
    (advice,) = re.findall(r"beside them: mnemoscope (.*)", made.out)
    assert "--threshold 0.9" in advice
    before = page.read_bytes()
    again = call("watch", out, *gate, "--verbose")
    assert (again.out, page.read_bytes()) == (made.out, before)
    again = call(*asked, *gate, "--verbose")  # the checkpoint again, without the flag
    assert again.out == made.out
    assert "reproduced to 90 % at the last" in call("status", out).out
    assert "--scan makes none" in refused(*asked, "--scan")
    other = call("watch", out, *gate, "--threshold", 1)
    assert "counted a window from 90 % of its tokens on; now it counts from 100 %." in other.out
    assert "to 90 %" not in call("watch", out, *gate).out
    scanned = ("watch", run / "checkpoint-200", "--sequences", tiny.table, "-q", "--scan")
    assert call(*scanned, "-o", tmp_path / "s").status == 0
    assert "not all checks" in refused(*scanned[:-1], "-o", tmp_path / "s", "--threshold", 0.9)
    assert read_history(tmp_path / "s").kept_threshold == 1


@pytest.fixture
def folder_of_texts(tiny, tmp_path):
    """A table of 40 documents of 6 windows each, of which step 200 recalls 4."""
    frame = pl.read_parquet(tiny.table).with_row_index("at")
    named = frame.with_columns(document=pl.format("d{}", pl.col("at") // 6)).drop("at")
    named.write_parquet(tmp_path / "texts.parquet")
    return tmp_path / "texts.parquet"


def test_a_condition_on_each_document_asks_all_and_a_draw_says_what_it_left_out(
    run, folder_of_texts, tmp_path, call, monkeypatch
):
    monkeypatch.setattr(WatchAsked, "most", 30)
    asked = ("watch", run / "checkpoint-200", "--sequences", folder_of_texts, "--scan")
    gate = ("--fail-if", "recalled > 4 windows in doc", "--strict", "--json", "-o")
    made = call(*asked, *gate, tmp_path / "all")
    (found,) = json.loads(made.out)["gate"]["conditions"]
    assert (made.status, found["compared"], found["drawn"]) == (0, 40, None)
    assert "asks all 240 windows, so each checkpoint takes 8.0 times as long" in made.err
    for more, out, left in ((("--most", 39), "few", 1), (("--most", 60), "enough", 0)):
        junit = tmp_path / f"{out}.xml"
        made = call(*asked, *more, *gate, tmp_path / out, "--junit", junit)
        (found,) = json.loads(made.out)["gate"]["conditions"]
        drawn = {"windows": more[1], "of": 240, "documents_not_asked": left}
        # Of every document a window is asked; the others of it may come out all the same.
        assert (made.status, found["drawn"], found["unread"]) == (3, drawn, left)
        said = f"{more[1]} of 240 windows drawn{', 1 document not asked' * left}"
        suite = ElementTree.fromstring(junit.read_text())
        assert f"; {said}" in found["said"]
        assert suite.find("properties/property[@name='drawn']").get("value") == said
        assert len(suite.findall("testcase/failure[@type='unread']")) == 1 + left
        assert suite.find(f"testcase[@name='{watch_gate.NOT_DRAWN}']/failure") is not None
        (most,) = re.findall(r"watch anew, .* with (--most \d+) ", found["to_do"])
        new = call(*asked, *most.split(), *gate, tmp_path / f"{out}-anew")
        assert new.status == 0
        again = call("watch", tmp_path / out, *gate[:-2])
        assert (again.status, f"; {said}" in again.out) == (made.status, True)


def test_a_line_that_passes_names_no_document_without_a_find(run, folder_of_texts, tmp_path, call):
    asked = ("watch", run / "checkpoint-100", "--sequences", folder_of_texts, "--scan", "-q")
    made = call(*asked, "-o", tmp_path / "w", "--fail-if", "recalled >= 1 window in doc")
    assert (made.status, "none of 240 watched windows" in made.out) == (0, True)
    assert "reproduced in any document; none allowed in each" in made.out


@pytest.mark.parametrize("n_kept_out", [3, 60])
def test_texts_and_control_that_were_swapped_are_asked_about(tiny, run, tmp_path, call, n_kept_out):
    """Step 200 has learned what stands as the control; of three windows nothing is said."""
    table, learned = pl.read_parquet(tiny.table), pl.int_range(pl.len()) % 3 < 2
    table.filter(~learned).write_parquet(tmp_path / "s.parquet")
    table.filter(learned).head(n_kept_out).write_parquet(tmp_path / "c.parquet")
    for texts, control, is_asked in (("s", "c", n_kept_out > 3), ("c", "s", False)):
        files = tmp_path / f"{texts}.parquet", "--control", tmp_path / f"{control}.parquet"
        made = call(
            *("watch", run / "checkpoint-200", "--scan", "-q", "--sequences", *files),
            *("-o", tmp_path / texts, "--fail-if", "recalled >= 3 windows"),
        )
        assert (made.out.count("did you swap them?") == 2) == is_asked
        assert made.out.rstrip().endswith("did you swap them?") == is_asked
        gate = ("--fail-if", "recalled > 50%", "--strict", "--json")
        made = call("watch", tmp_path / texts, *gate)
        swapped = json.loads(made.out)["gate"]["conditions"][0]["swapped"]
        assert (swapped, made.status == 3) == (is_asked, is_asked or texts == "c")


def test_checkpoints_one_by_one_with_the_controls_that_the_folder_has(tiny, run, tmp_path, call):
    """As a job after each save does; the build server has the condition and each step."""
    table = pl.read_parquet(tiny.table)
    for name, part in (("read", table.head(60)), ("kept", table.tail(60))):
        part.write_parquet(tmp_path / f"{name}.parquet")
    junit, out = tmp_path / "watch.xml", tmp_path / "w"
    control = ["--control", tmp_path / "kept.parquet"]
    for step in (100, 200):
        made = call(
            *("watch", run / f"checkpoint-{step}", "--sequences", tmp_path / "read.parquet"),
            *("-o", out, "--scan", "-q", "--junit", junit, "--json"),
            *("--fail-if", "reproduced > 0 windows", *control),
        )
        assert made.status == (3 if step == 200 else 0), made.err
        (tmp_path / "kept.parquet").unlink(missing_ok=True)
        control = []
    gate = json.loads(made.out)["gate"]["conditions"][0]
    assert (gate["value"], gate["limit"], gate["compared"], gate["unit"]) == (40, 0, 60, "window")
    assert set(read_history(out).windows["source"]) == {"document", "control"}
    assert "train again from step 100, the last check where none of these windows" in gate["to_do"]
    page = (out / "watch.html").read_text()
    places = [
        page.index(f"<p>{one}") for one in ('<b class="failed">Failed</b> (', gate["to_do"][:30])
    ]
    assert [*places, page.index("<figure")] == sorted([*places, page.index("<figure")])
    suite = ElementTree.fromstring(junit.read_text())
    tests = {one.get("name"): one.find("failure") is not None for one in suite.iter("testcase")}
    assert tests == {"reproduced > 0 windows": True, "step 100": False, "step 200": False}
    failure = suite.find("testcase[@name='reproduced > 0 windows']/failure").text
    assert failure == gate["to_do"]
    said = suite.find("testcase[@name='step 200']/system-out").text
    assert "40 of 60 windows (document) that cannot be guessed from their text reproduced" in said
    windows = pl.read_parquet(out / "windows.parquet").filter("is_memorized", source="document")
    named = [f"{one['window']}\n{quoted(one['text'])}" for one in windows.head(20).to_dicts()]
    shown = _clean("\n".join([*named, "... and 20 more"]))
    assert said.endswith(re.sub("\r\n?", "\n", shown))  # as XML is read


@pytest.mark.parametrize("length", [32, 64, 72])
def test_windows_of_a_text_are_the_whole_text_once(tiny, run, tmp_path, length):
    text = " ".join(map(str, range(300)))
    (tmp_path / "a.txt").write_text(text)
    changes = {"sequences": str(tmp_path / "a.txt"), "length": length, "decode": False}
    watch_checkpoints(asked(tiny, run, **changes), tmp_path / "t")
    windows = read_history(tmp_path / "t").windows
    assert {*windows["document"]} == {str(tmp_path / "a.txt")}
    for row in windows.rows(named=True):
        assert text[row["start"] : row["end"]] == row["text"]
    watched = "".join(windows["text"])
    assert text.startswith(watched)
    assert len(text) - len(watched) < length


def test_status_of_a_watched_training_says_its_last_check(tracked, call):
    said = call("status", tracked).out
    assert "3 checks of " in said
    assert "document, Recall: 0 of 240 windows reproduced at the last." in said
    facts = json.loads(call("status", tracked, "--json").out)
    assert (facts["kind"], facts["steps"]) == ("watch", [100, 200, 300])


def test_documents_that_are_not_checked_are_named_and_counted(tiny, run, tmp_path, call, refused):
    """Once each, and of another version's history it is said that it is one."""
    texts, out, junit = tmp_path / "texts", tmp_path / "w", tmp_path / "j.xml"
    (tmp_path / "elsewhere").mkdir()
    texts.mkdir()
    (texts / "whole.txt").write_text(" ".join(map(str, range(300))))
    asked = ("watch", run / "checkpoint-200", "--sequences", texts, "--scan", "-q", "-o", out)
    gate = ("--fail-if", "reproduced > 50%", "--fail-if", "guessed > 9 windows in doc", "--strict")
    assert call(*asked, *gate).status == 0
    for name, text in {"latin.txt": b"caf\xe9", "binary": b"\0" * 99, "short.txt": b"1"}.items():
        (texts / name).write_bytes(text)
    (texts / "more").symlink_to(tmp_path / "elsewhere")
    (texts / "gone.txt").symlink_to("nothing")
    made = call(*asked, *gate, "--junit", junit, "--json")
    facts = json.loads(made.out)
    names = ["gone.txt", "more", "binary", "latin.txt", "short.txt"]
    names = [str(texts / one) for one in names]  # as an audit of the folder has them
    assert (made.status, [one["document"] for one in facts["unread"]]) == (3, names)
    conditions = facts["gate"]["conditions"]
    assert [(one["unread"], one["failed"]) for one in conditions] == [(5, True)] * 2
    assert all("; not checked: 5 of 6 documents" in one["said"] for one in conditions)
    for name in names:
        assert made.err.count(f"{name}: not checked: ") == 1
    suite = ElementTree.fromstring(junit.read_text())
    assert [
        one.get("name")
        for one in suite.iter("testcase")
        if one.find("failure[@type='unread']") is not None
    ] == names
    assert call("watch", out, *gate[:-1]).status == 0
    assert call("watch", out, *gate[:-1], "--junit", junit).err.count("not checked") == 5
    assert ElementTree.fromstring(junit.read_text()).get("skipped") == "5"
    record = json.loads((out / "watch.json").read_text())
    del record["sizes"], record["sha256"]
    (out / "watch.json").write_text(json.dumps(record | {"sha256": digest(record)}))
    trained = tmp_path / "o"  # as a trainer leaves them
    trained.mkdir()
    (trained / "checkpoint-200").symlink_to(run / "checkpoint-200")
    out.rename(trained / "memorization")
    said = refused("watch", trained)
    assert "watch.json: made by another state of mnemoscope " in said
    assert "damaged" not in said
    words = re.findall(r"mnemoscope (watch .*-again)", said)[0].replace("TEXTS", str(texts))
    words = words.replace("checkpoint-*", "checkpoint-200")  # as a shell has it
    assert call(*shlex.split(words), "--scan", "-q").status == 0


def test_a_folder_of_texts_and_tables_is_read_as_an_audit_reads_it(tiny, run, tmp_path, call):
    """Rows of a table among texts are texts; as lines with --column 'text=*'; a README is one."""
    words = [" ".join(map(str, range(n, n + 300))) for n in range(4)]
    for folder in ("texts/sub", "records"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text(words[0])
    (tmp_path / "records" / "README.md").write_text(words[0])
    for folder in ("texts/sub", "records"):
        table = pl.DataFrame({"text": [words[1], "short", words[2]], "note": words[1:]})
        table.write_csv(tmp_path / folder / "rows.csv")
    pl.DataFrame({"note": words[3:]}).write_ndjson(tmp_path / "texts" / "z.jsonl")
    asked = ("watch", run / "checkpoint-200", "--scan", "-q", "--sequences")
    for number, (folder, columns) in enumerate(
        [("texts", {}), ("texts", {"text": "note"}), ("texts", {"text": "*"}), ("records", {})]
    ):
        source, out = str(tmp_path / folder), tmp_path / f"w{number}"
        column = [word for one in columns.items() for word in ("--column", "=".join(one))]
        made = call(*asked, source, *column, "-o", out)
        assert made.status == 0, made.err
        history = read_history(out)
        with flags_as_typed():
            reading = read_documents([source], columns=columns)
        short = {one.name for one in reading.documents if len(one.text) < 9}
        watched = {*history.windows["document"]}
        assert watched == {one.name for one in reading.documents} - short
        unread = dict(history.unread.iter_rows())
        reasons = {one.name: one.reason for one in reading.skipped}
        assert unread == reasons | dict.fromkeys(short, "shorter than one window (64 tokens).")
        of_rows = history.windows["document"].str.contains("#")
        assert (history.windows["line"].is_null() == of_rows).all()


def test_what_a_strict_watch_fails_for_can_be_left_out_as_it_says(tiny, run, tmp_path, call):
    """In the same folder: no window is another. The commands that it prints leave it out too."""
    (texts := tmp_path / "texts").mkdir()
    (texts / "whole.txt").write_text(" ".join(map(str, range(300))))
    (texts / "short one.txt").write_text("1")
    asked = ("watch", run / "checkpoint-200", "--sequences", texts, "--scan", "-q")
    gate = ("--fail-if", "reproduced > 50%", "--strict", "-o", tmp_path / "w")
    (way,) = re.findall(r"leave it out \((.*)\)", call(*asked, *gate).out)
    assert call(*asked, *gate, *shlex.split(way)).status == 0
    history = read_history(tmp_path / "w")
    assert history.unread.is_empty()
    assert shlex.join(history.command).endswith(way)
    assert shlex.join(history.audit[200]).endswith(way)
    made = call(*asked, *gate, "--exclude", "*.md")
    assert (made.status, "--exclude *.md: fits no file of" in made.err) == (2, True)


def test_a_command_that_the_page_prints_runs_and_a_folder_without_a_step_keeps_its_name(
    tiny, run, tmp_path, call, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("release-1", "release-2"):
        shutil.copytree(run / "checkpoint-200", name)
    pl.read_parquet(tiny.table).head(30).write_parquet("read.parquet")
    pl.read_parquet(tiny.table).tail(30).write_parquet("held.parquet")
    for name in ("release-1", "release-2"):  # one after the other, as a job does
        asked = ("watch", name, "--sequences", "read.parquet", "-o", "w", "--scan", "-q")
        made = call(*asked, "--fail-if", "recalled > 0%", "--verbose")
        assert (made.status, f"Failed (recalled > 0%): in {name}, " in made.out) == (3, True)
        assert f"{name} reproduces " in made.out
        assert "step 1" not in made.out
        assert "groups of near duplicates" not in made.out  # each window is its own
    (line,) = re.findall(r"beside them: mnemoscope (.*)", made.out)
    words = [{"HELD_OUT": "held.parquet"}.get(one, one) for one in shlex.split(line)]
    assert words[:3] == ["watch", "release-1", "release-2"]
    assert call(*words, "--scan", "-q").status == 0
    assert set(read_history(words[-1]).windows["source"]) == {"document", "control"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["one"], ["one"]),
        (["one", "one/base one/tuned-2026"], ["one/base", "one/tuned-2026"]),
        (["'run dir'"], ["run dir"]),
        (["'run dir'/checkpoint-5", "'run dir'"], ["run dir/checkpoint-5", "run dir/checkpoint-6"]),
        (["one/base", "'run dir'/checkpoint-5"], ["one/base", "run dir/checkpoint-5"]),
    ],
)
def test_the_control_is_advised_beside_what_is_a_run_by_its_names(
    tiny, run, tmp_path, call, monkeypatch, asked, said
):
    """A folder first, one after another, or a base before what has steps."""
    monkeypatch.chdir(tmp_path)
    pl.read_parquet(tiny.table).head(9).write_parquet("read.parquet")
    pl.read_parquet(tiny.table).tail(9).write_parquet("held.parquet")
    shutil.copytree(run / "checkpoint-100", "one/base")
    for step in (5, 6):
        shutil.copytree(run / "checkpoint-100", f"run dir/checkpoint-{step}")
    for names in asked:
        if "/tuned" in names:
            shutil.copytree(run / "checkpoint-100", "one/tuned-2026")
        names = shlex.split(names)
        made = call("watch", *names, "--sequences", "read.parquet", "-o", "w", "--scan", "-q")
    (line,) = re.findall(r"beside them: mnemoscope (.*)", made.out)
    words = [{"HELD_OUT": "held.parquet"}.get(one, one) for one in shlex.split(line)]
    assert words[1 : words.index("--sequences")] == said
    assert call(*words, "--scan", "-q").status == 0


def test_an_audit_that_a_watch_advises_takes_its_texts_alone(tiny, run, tmp_path, call, refused):
    """Of a table its text, and none of tokens alone, which no audit reads."""
    rows = {"note": [" ".join(map(str, range(n, n + 90))) for n in (0, 50)], "n": [1, 2]}
    pl.DataFrame(rows).write_csv(table := tmp_path / "t.csv")
    columns = ("--column", "text=note", "--column", "duplicates=n")
    asked = ("watch", run / "checkpoint-200", "--scan", "-q", "-o")
    call(*asked, tmp_path / "w", "--sequences", table, *columns)
    (words,) = read_history(tmp_path / "w").audit.values()
    assert words == (str(run / "checkpoint-200"), str(table), "--column", "text=note")
    said = refused("watch", "embedded", "--sequences", table, *columns)
    (line,) = re.findall(r"of one model 'mnemoscope (.*)' says", said)
    assert call(*shlex.split(line), "--dry-run").status == 0
    named = pl.read_parquet(tiny.table).head(9).with_columns(document=pl.lit("a"))
    named.write_parquet(tmp_path / "tokens.parquet")
    call(*asked, tmp_path / "t", "--sequences", tmp_path / "tokens.parquet")
    assert read_history(tmp_path / "t").audit == {}


def test_a_base_named_as_the_reference_is_step_0_as_where_it_is_named_first(
    tiny, run, tmp_path, call, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pl.read_parquet(tiny.table).head(9).write_parquet("read.parquet")
    base = shutil.copytree(run / "checkpoint-100", "base")
    asked = ("--documents", "read.parquet", "--scan", "-q", "-o")
    for names, out in (([base, run], "first"), ([run, "--reference", base], "named")):
        assert call("watch", *names, *asked, out).status == 0
    histories = [read_history(out) for out in ("first", "named")]
    assert [one.steps for one in histories] == [[0, 100, 200, 300]] * 2
    assert histories[0].checks.equals(histories[1].checks)
    alone = call("watch", run / "checkpoint-200", "--reference", base, *asked, "alone")
    assert (alone.status, read_history("alone").steps) == (0, [0, 200])


def test_a_folder_of_other_texts_or_of_a_training_begun_anew_is_made_anew(
    tiny, run, tmp_path, call, refused
):
    table = pl.read_parquet(tiny.table)
    table.head(30).write_parquet(tmp_path / "some.parquet")
    table.tail(30).write_parquet(tmp_path / "others.parquet")
    out, first = tmp_path / "w", run / "checkpoint-100"
    asked = ("-q", "-o", out, "--sequences")
    held = ("--control", tmp_path / "others.parquet", "--threshold", 0.9)
    assert call("watch", run, *asked, tmp_path / "some.parquet", *held).status == 0
    assert (out / "levels.parquet").is_file()
    others = ("watch", first, *asked, tmp_path / "others.parquet")
    begun_anew = "training that was begun anew. Give another folder with -o, or --redo, which"
    assert begun_anew in refused(*others)
    others += ("--scan",)
    said = refused("watch", run, *asked, tmp_path / "some.parquet", "--most", 9)
    assert "history of other windows. Give another folder, or --redo, which" in said
    plan = call(*others, "--redo", "--dry-run")
    assert (plan.status, "1 checkpoint (" in plan.out, "already" in plan.out) == (0, True, False)
    assert read_history(out).steps == [100, 200, 300]
    assert call(*others, "--redo").status == 0
    history = read_history(out)
    assert (history.steps, history.kept_threshold) == ([100], 1)
    assert {*history.windows["source"]} == {"document"}
    assert {one.stem for one in (out / "checks").iterdir()} == {"step-000000100"}
    assert not (out / "levels.parquet").exists()
    assert call(*others).status == 0


@pytest.fixture
def learned(tmp_path):
    """Checkpoints of which the second has read the texts, 4 of them, and the folder of these."""
    for step, model in ((1, reference_path()), (2, model_path())):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / f"checkpoint-{step}").symlink_to(model)
    starts_whole = pl.col("text").str.contains(r"^ [A-Za-z]")
    rows = pl.read_parquet(sequences_path()).filter(
        starts_whole, genre="prose", form="plain", inserted=64
    )
    (tmp_path / "my texts").mkdir()
    for number, text in enumerate(texts := rows["text"].head(4).to_list()):
        (tmp_path / "my texts" / f"{number}.txt").write_text(text)
    return texts


def run_audit(call, line, tmp_path, texts):
    """Run the command that a line prints, in its folder; its status and what it says."""
    words = [texts if one == "TEXTS" else one for one in shlex.split(line)]
    assert words[0] == "mnemoscope"
    assert words[words.index("-o") + 1].startswith("audit-checkpoint-")
    made = call(*words[1:], "-q", "--edits", 0, "--redo")
    return made.status, made.out


def test_a_failing_watch_prints_the_audit_of_the_last_clean_checkpoint_everywhere(
    learned, tmp_path, call, monkeypatch
):
    """In the log, the JUnit report of each document and the page: as one command that runs."""
    monkeypatch.chdir(tmp_path)
    asked = ("watch", "out", "--sequences", "my texts", "--scan", "-q", "--junit", "w.xml")
    for condition in ("recalled >= 1 window", "recalled >= 1 window in doc"):
        made = call(*asked, "--fail-if", condition)
        (line,) = re.findall(r"^Audit step 1: (mnemoscope audit .*)$", made.out, re.M)
        failures = ElementTree.parse("w.xml").getroot().findall("testcase/failure")
        assert len(failures) == (4 if "doc" in condition else 1)
        assert all(one.text.endswith(f"Audit step 1: {line}") for one in failures)
        verbose = call("watch", "watch", "--fail-if", condition, "--verbose").out
        assert verbose.count(line) == made.out.count(line) == 1
    status, said = run_audit(call, line, tmp_path, "my texts")
    assert (status, "Passed (near >= 1 passage)" in said) == (0, True)


def test_of_what_a_callback_kept_the_audit_is_printed_with_its_checkpoint(
    learned, tmp_path, call, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    windows = WatchedWindows.from_texts(dict(enumerate(learned)), tokenizer)
    history = HistoryWriter(tmp_path / "out" / FOLDER, windows)
    for step, model in ((1, reference_path()), (2, model_path())):
        history.add(step, judge(load_model(str(model), device="cpu"), windows, batch_size=8))
    gate = ("watch", f"out/{FOLDER}", "--fail-if")
    failed = call(*gate, "recalled >= 1 window").out
    (tmp_path / "out" / "checkpoint-1").unlink()
    away = call(*gate, "recalled >= 1 window").out
    assert "Audit step 1, with your names for the capitals: mnemoscope audit CHECKPOINT TE" in away
    (tmp_path / "out" / "checkpoint-1").symlink_to(reference_path())
    (line,) = re.findall(r"^Audit step 1, with your texts for TEXTS: (mnem.*)$", failed, re.M)
    status, said = run_audit(call, line, tmp_path, "my texts")
    assert (status, "Passed (near >= 1 passage)" in said) == (0, True)
    history.drop_after(1)
    passed = call(*gate, "recalled >= 1 window")
    both = r" Both, with your texts for TEXTS: (mnemoscope audit out/checkpoint-1 TEXTS .*)$"
    (line,) = re.findall(both, passed.out, re.M)
    assert "--fail-if 'near >= 1 passage'" in line
    assert (passed.status, run_audit(call, line, tmp_path, "my texts")[0]) == (0, 0)


def test_a_watch_writes_sarif_of_what_it_fails_for_and_what_is_new(learned, tmp_path, call):
    """Windows of a file with their lines, rows by the table; known ones are no errors."""
    (folder := tmp_path / "texts").mkdir()
    (folder / "a.txt").write_text(learned[0])
    pl.DataFrame({"text": learned[1:2]}).write_csv(folder / "rows.csv")
    sarif = tmp_path / "w.sarif"
    asked = ("watch", model_path(), "--sequences", folder, "--scan", "-q", "-o", tmp_path / "w")
    gate = ("--fail-if", "recalled >= 1 window in doc", "--sarif", sarif)
    made = call(*asked, *gate)
    assert (made.status, f"Wrote {sarif}." in made.out) == (3, True)
    results = check_sarif(json.loads(sarif.read_text()))
    places = [one["locations"][0]["physicalLocation"] for one in results]
    assert [one["artifactLocation"]["uri"] for one in places] == [
        f"file://{folder}/a.txt", f"file://{folder}/rows.csv#1"
    ]  # fmt: skip
    assert (places[0]["region"]["startLine"], "region" in places[1]) == (1, False)
    assert {one["level"] for one in results} == {"error"}
    older = shutil.copytree(tmp_path / "w", tmp_path / "older")
    rewrite_record(older / "checks" / "step-000000000.json", date="2000-01-01T00:00:00+00:00")
    (folder / "b.txt").write_text(learned[3])
    made = call(*asked, "--redo", *gate, "--baseline", older)
    results = check_sarif(json.loads(sarif.read_text()))
    states = [(one["baselineState"], one["level"]) for one in results]
    assert (made.status, states) == (
        3, [("unchanged", "warning"), ("new", "error"), ("unchanged", "warning")]
    )  # fmt: skip


def test_a_dry_run_says_what_a_watch_takes_and_writes_nothing(tiny, run, tmp_path, call, refused):
    (texts := tmp_path / "texts").mkdir()
    (texts / "whole.txt").write_text(" ".join(map(str, range(300))))
    (texts / "short.txt").write_text("1")
    out, gate = tmp_path / "w", ("--fail-if", "reproduced > 50%")
    asked = ("watch", run, "--sequences", texts, "-o", out, "--scan", *gate)
    plan = call(*asked, "--dry-run")
    n = len(read_windows(call, asked, out))
    for line in (
        f"{texts / 'whole.txt'}: {n} windows",
        f"In all {n} windows of 64 tokens.",
        f"3 checkpoints ({', '.join(str(run / f'checkpoint-{n}00') for n in (1, 2, 3))}).",
        f"{texts / 'short.txt'}: not checked: shorter than one window (64 tokens).",
        "Nothing was written.",
    ):
        assert f"{line}\n" in plan.out
    assert re.search(r"\nTime: about .* a checkpoint; measured here\.\n", plan.out)
    assert "3 of them checked already.\n" in call(*asked, "--dry-run").out
    strict = call(*asked, "--dry-run", "--strict")
    (way,) = re.findall(r"leave out \((--exclude .*)\)\.", strict.out)
    assert strict.status == 3
    assert call(*asked, "--dry-run", "--strict", *shlex.split(way)).status == 0
    assert "holds a history of other windows" in refused(*asked, "--dry-run", "--stride", "32")
    assert "nothing to ask" in refused("watch", out, "--dry-run")
    early = ("watch", run / "checkpoint-100", *asked[2:])
    begun_anew = "holds step 300, and the last checkpoint named is step 100"
    assert all(begun_anew in refused(*early, *more) for more in ((), ("--dry-run",)))


def read_windows(call, asked, out):
    """What was not there after the dry run is made; its log speaks of windows."""
    assert not out.exists()
    made = call(*asked)
    assert (made.status, "sequences in" in made.err) == (0, False)
    return read_history(out).windows


def test_a_folder_without_a_checkpoint_says_where_they_are(tiny, run, tmp_path, refused):
    (tmp_path / "deep").mkdir()
    asked = ("--sequences", tiny.table, "-o", tmp_path / "w")
    assert "Name the folder that holds them" in refused("watch", tmp_path / "deep", *asked)
    (tmp_path / "deep" / "run").symlink_to(run)
    said = refused("watch", tmp_path / "deep", *asked)
    assert said.endswith(f"Did you mean {tmp_path / 'deep' / 'run'}?")


def test_what_is_followed_is_called_as_the_verb_calls_it(tmp_path):
    with noted(tmp_path / "note"), counted_as("windows"):
        for unit, named in (("", "windows"), ("texts", "texts")):
            with track("Scanning", total=2, unit=unit) as progress:
                progress.advance(1)
            assert named in (tmp_path / "note").read_text()


def _history(steps, classes, came_out, named=()):
    """A callback's history; windows of these classes, and at which steps each came out."""
    names = [f"document:{n}" for n in range(len(classes))]
    windows = pl.DataFrame({"window": names, "source": "document", "class": classes, "text": names})
    windows = placed(windows)
    rows = [
        (step, name, step in out)
        for step in steps
        for name, out in zip(names, came_out, strict=True)
    ]
    checks = pl.DataFrame(rows, schema=["step", "window", "is_memorized"], orient="row")
    called = {step: f"folder-{step}" for step in named}
    return History(windows, checks, "run", n_documents=len(names), names=called)


@pytest.mark.parametrize(
    ("classes", "came_out", "said", "is_to_train"),
    [
        (
            ["Guess", "Recall"],
            [[4], []],
            "can be guessed .*--fail-if 'recalled >= 1 window'",
            False,
        ),
        (["Guess"], [[4]], "can be guessed .*Watch texts", False),
        (["Guess", "Recall"], [[0, 4], [0, 4]], "all of it came out at step 0, before", False),
        (["Recall", "Recall"], [[0, 4], [4]], "from step 2, .* 1 of 2 windows came out at s", True),
        (["Recall"], [[4]], "train again from step 2, the last check", True),
    ],
)
def test_what_to_do_is_to_train_again_only_where_training_is_the_cause(
    classes, came_out, said, is_to_train
):
    gate = parse_gate("reproduced >= 1 window", WINDOWS)
    for named in ((), (0,)):  # a base model has a name and no step
        history = _history([0, 2, 4], classes, came_out, named)
        found = watch_gate.judge_latest(history, gate)
        assert re.search(said, found.next_step)
        assert ("train again" in found.to_do) == is_to_train
    numbered = _history([0, 2, 4], classes, came_out, (0, 2, 4))  # none of which is a base
    assert "before training" not in watch_gate.judge_latest(numbered, gate).next_step
    if advised := re.findall(r"--fail-if '(.*)'", found.to_do):
        watch_gate.judge_latest(history, parse_gate(advised[0], WINDOWS))


def test_what_came_out_before_training_is_left_out_as_the_line_advises(tiny, run, tmp_path, call):
    for name in ("run/checkpoint-0", "run/checkpoint-100", "start"):
        shutil.copytree(run / "checkpoint-200", tmp_path / name)
    pl.read_parquet(tiny.table).head(30).write_parquet(tmp_path / "read.parquet")
    asked = ("--sequences", tmp_path / "read.parquet", "--scan", "-q", "-o")
    gate = ("--fail-if", "recalled > 0 windows")
    made = call("watch", tmp_path / "run", *asked, tmp_path / "w", *gate)
    assert (made.status, "all of it came out at step 0, before training" in made.out) == (3, True)
    assert call("watch", tmp_path / "start", *asked, tmp_path / "older").status == 0
    made = call("watch", tmp_path / "w", *gate, "--baseline", tmp_path / "older")
    assert (made.status, "reproduced newly (20 in all)" in made.out) == (0, True)


def test_windows_that_overlap_find_what_begins_between_those_side_by_side(tmp_path, call):
    """As an audit does; the cost is said, and the command that the page prints keeps them."""
    (tmp_path / "texts").mkdir()
    rows = pl.read_parquet(sequences_path()).filter(
        pl.col("duplicates") > 5, genre="prose", form="plain"
    )
    text = "The lamp on the hill.\n" + "\nA ferry crossed.\n".join(rows["text"].head(2))
    (tmp_path / "texts" / "a.txt").write_text(text)
    asked = ("watch", model_path(), "--sequences", tmp_path / "texts", "--scan")
    gate = ("--fail-if", "reproduced >= 1 window")
    beside = call(*asked, "-o", tmp_path / "beside", *gate)
    over = call(*asked, "-o", tmp_path / "over", "--stride", 4, *gate, "--verbose")
    assert (beside.status, over.status) == (0, 3)
    assert "times" not in beside.err
    (line,) = re.findall(
        "Not looked at: what begins between its windows, .* Both: mnemoscope (.*)", beside.out
    )
    assert line.endswith(
        "--strict --fail-if 'reproduced >= 1 passage' --fail-if 'near >= 1 passage'"
    )
    words = shlex.split(line)
    words[words.index("-o") + 1] = str(tmp_path / "audit")
    assert call(*words, "-q").status == 3
    several = call("watch", tmp_path / "beside", *gate, "--fail-if", "recalled >= 1 window")
    assert several.out.count("Not looked at") == 1
    assert several.out.rstrip().endswith("--strict --fail-if 'near >= 1 passage'")
    n = len(read_history(tmp_path / "over").windows)
    assert f"--stride 4 makes {n} windows, up to 16 times as many as side by side" in over.err
    assert "--stride 4 --control HELD_OUT" in over.out
