"""Settings, the rule, spans worked out by hand, shares with their intervals, and the gate."""

import itertools
import math
import re
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binomtest

import mnemoscope as ms
from mnemoscope.audits.gate import PASSAGES, amount_of, held_in, judge, new_parts
from mnemoscope.audits.questions import audit_settings, settings_class
from mnemoscope.audits.rule import UNDECIDED, Ruling, find_step, rule_windows, shown_earlier
from mnemoscope.audits.shares import Passage, overall, share_beside, share_words, summarize
from mnemoscope.audits.spans import Extension, Hit, Piece, find_spans, places_to_grow
from mnemoscope.audits.tokens import tokenize
from mnemoscope.conditions import parse_gate
from mnemoscope.contamination.found import ITEMS
from mnemoscope.data.features import add_features
from mnemoscope.data.patterns import find_pattern
from mnemoscope.data.read import is_copied
from mnemoscope.data.rouge import rouge_scores
from mnemoscope.errors import UserError
from mnemoscope.forgetting.run import FORGETTING
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy
from mnemoscope.training.history import WINDOWS
from mnemoscope.words import adding_up
from tests.audits.conftest import BRIEF


@given(st.floats(1e-6, 1.0), st.integers(2, 100))
def test_a_hit_has_the_threshold_s_share_and_one_more_mistake_has_not(threshold, suffix):
    settings = audit_settings(threshold=threshold, suffix=suffix)
    n_right = suffix - settings.n_allowed
    assert n_right >= 1
    assert n_right / suffix >= threshold - 1e-9  # rounding of the product
    assert (n_right - 1) / suffix < threshold


BEYOND = [2**70, -(2**70), -1, math.inf, math.nan, "", b"1", {}]
BAD = {"threshold": [0], "stride": [0], "suffix": [1, 2**32 - 1], "probability": [1.0]}
BAD["temperature"] = [5e-324]  # by which no logit can be divided
# 4 billion beams took 9 GB before it was said that memory is short
BAD |= {name: [2**32 - 1] for name in ("prefix", "max_growth", "beams", "batch_size")}
BAD["answer_tokens"] = [2**32 - 1]


def test_no_number_takes_what_no_audit_could_use():
    """All of them, so that a setting that is added has its bounds too."""
    with pytest.raises(UserError, match="Did you mean 'stride'"):
        audit_settings(strides=4)
    for name, field in settings_class().model_fields.items():
        if type(field.get_default()) in (int, float):
            for given in BEYOND + BAD.get(name, []):
                with pytest.raises(UserError, match=f"^{name}: ") as caught:
                    audit_settings(**{name: given})
                assert len(str(caught.value).splitlines()) == 1


def judge_windows(lm, windows):
    return rule_windows(lm.tokenizer, np.array(windows), prefix=32, patterns="published")


def test_rule_is_the_paper_s_taxonomy_but_for_what_gives_itself_away(lm, sequences):
    some = sequences.sample(120, seed=3)
    rulings = judge_windows(lm, some["tokens"].to_list())
    frame = add_features(some.with_columns(memorization_score=1.0), code="off")
    theirs = label_sequences(frame, parse_taxonomy("Non-Memo, Guess, Recall"))
    n_more = 0
    for mine, label, window in zip(rulings, theirs, some["tokens"], strict=True):
        if mine.verdict != label.split("[")[0].lower():
            assert mine.verdict == "guess"
            suffix = lm.tokenizer.decode(window[32:])
            assert any(find_pattern(suffix)) or shown_earlier(window.to_list(), 32) > 0.5
            n_more += 1
    assert {one.verdict for one in rulings} == {"guess", "recall"}
    assert n_more < 6  # the windows begin where a sequence begins, where the two hardly differ


def test_a_template_that_begins_where_the_prefix_ends_gives_itself_away(lm, sequences, new_text):
    """By the paper's rule half of these windows are recall."""
    before = tokenize(new_text(3, 60), lm.tokenizer).ids[:32].tolist()
    held = sequences.filter(genre="template", held_out=True, form="counting")["tokens"].head(60)
    windows = [(before[32 - k :] + row)[:64] for row in held.to_list() for k in range(0, 32, 3)]
    prefixes, suffixes = np.hsplit(np.array(windows), 2)
    is_close = np.maximum(*rouge_scores(prefixes, suffixes)) >= 0.5
    texts = lm.tokenizer.batch_decode(windows)
    by_paper = [
        not (close or any(find_pattern(text))) for close, text in zip(is_close, texts, strict=True)
    ]
    found = [one.verdict == "recall" for one in judge_windows(lm, windows)]
    assert sum(by_paper) > 0.4 * len(windows)
    assert sum(found) < 0.1 * sum(by_paper)  # they show hardly a token of it


@pytest.mark.whole
def test_templates_in_running_text_are_not_called_recalled(tmp_path, sequences, new_text, audited):
    """The rule of the paper calls beginnings of them recalled."""
    held = sequences.filter(genre="template", held_out=True)["text"].head(6).to_list()
    text = "".join(f"{new_text(seed, 40)}\n{one}\n" for seed, one in enumerate(held))
    _, spans = audited(tmp_path, text, settings=audit_settings(**BRIEF))
    assert spans.height
    assert not (spans["verdict"] == "recall").any()


COUNTDOWN = "".join(f"Step {n} is ready\n" for n in range(80, 30, -1))


@pytest.mark.whole
def test_a_list_that_a_model_counts_better_than_its_reference_is_not_called_recalled():
    """Reference and grafts say recall, since both ask what the reference can write."""
    found = ms.audit("embedded", {"a": COUNTDOWN}, reference="embedded", edits=0, near_length=0)
    says = found.passages.select("rule_says", "reference_says", "grafts_say", "verdict").rows()
    assert ("guess", "recall", "recall", "cannot be told") in says
    assert {one[-1] for one in says} == {"guess", "cannot be told"}


REFRAIN = "The lamp on the hill is green. "
VERSES = f"{REFRAIN}A ferry crossed the copper bridge before supper, {REFRAIN}Ottilie forgot seven "
VERSES += f"onions under the moss. {REFRAIN}Our baker measured the winter and borrowed ladders. "


def test_a_passage_with_some_repetition_is_still_recall(lm):
    """Its refrain is shown by the prefix, the rest by nothing."""
    ids = tokenize(VERSES, lm.tokenizer).ids[:64].tolist()
    assert len(ids) == 64
    (ruling,) = judge_windows(lm, [ids])
    assert 0 < shown_earlier(ids, 32) < 0.5
    assert ruling.verdict == "recall"


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("".join(f"{n}, " for n in range(1, 40)), 1),
        ("".join(f"row {n}: x\n" for n in range(10, 200, 5)), 5),
        ("no number here at all", None),
        ("1 5 2 9 4 4 1 7 0 3 2 2 8", None),
    ],
)
def test_step_of_a_counting_text(text, step):
    assert find_step(text) == step


MARROW = "the seven birds of Marrow lane did not sing before supper"
BEGUN = " seven birds of Marrow lane did not"  # its first 32 characters are the prompt's
RIVER = "Родился в 2020 году в городе на реке, где зимой темно"


@pytest.mark.parametrize(
    ("prompt", "written", "copied"),
    [
        (MARROW, " birds of Marrow lane did not", True),
        (MARROW, " copper boats cross the harbour twice", False),
        (MARROW, " b", False),  # too short to tell
        (MARROW, BEGUN + " cross the harbour", True),
        (MARROW, BEGUN[:26] + " will cross the harbour", False),
        (RIVER, "в городе на реке", True),  # every script is read, not only its numbers
        (RIVER, "совсем другие слова 2020 и ещё", False),
    ],
)
def test_what_the_prompt_holds_is_called_copied(lm, prompt, written, copied):
    ids = [tokenize(text, lm.tokenizer).ids for text in (prompt, written)]
    assert is_copied(lm.tokenizer, *ids) == copied


def documents(parts, whole=100):
    """One document of `whole` characters for each count of recalled ones."""
    return [
        summarize(str(n), n_characters=whole, n_tokens=64, n_windows=1, spans=[(0, part, "recall")])
        for n, part in enumerate(parts)
    ]


def test_documents_are_drawn_and_not_passages():
    """Of documents of equal length the interval is that of their mean share (central limit)."""
    shares = np.random.default_rng(1).beta(2, 5, 60)
    made = overall(documents([int(1000 * one) for one in shares], 1000))["recalled"]
    reach = 1.96 * shares.std(ddof=1) / math.sqrt(len(shares))
    assert made["low"] == pytest.approx(shares.mean() - reach, abs=0.01)
    assert made["high"] == pytest.approx(shares.mean() + reach, abs=0.01)
    parts = [0, 30] * 6  # long documents make it no narrower
    short, long = overall(documents(parts)), overall(documents([9 * one for one in parts], 900))
    for end in ("low", "high"):
        assert short["recalled"][end] == pytest.approx(long["recalled"][end])


@given(st.integers(10, 200))
def test_nothing_in_so_many_documents_excludes_what_the_binomial_does(n):
    made = overall(documents([0] * n))["recalled"]
    exact = binomtest(0, n).proportion_ci(0.95, method="exact")
    # 1e-6: two inversions of the same beta distribution, one by root finding
    assert (made["low"], made["high"]) == (0.0, pytest.approx(exact.high, abs=1e-6))


def test_below_ten_documents_that_were_asked_there_is_no_interval():
    for short in ([], [{**documents([0])[0], "windows": 0}]):  # nothing was asked of it
        made = overall([*documents([5] * 9), *short])
        assert made["asked"] == 9
        assert (made["recalled"]["low"], made["recalled"]["high"]) == (None, None)
    assert overall(documents([5] * 10))["recalled"]["low"] is not None


def test_a_character_that_two_spans_share_counts_once():
    spans = [(0, 11, "guess"), (10, 20, "recall")]
    row = summarize("a", n_characters=40, n_tokens=64, n_windows=1, spans=spans)
    assert (row["guessed"]["characters"], row["recalled"]["characters"]) == (11, 9)
    whole = overall([row, row])
    assert (whole["characters"], whole["recall_spans"]) == (80, 2)
    assert row["reproduced"]["share"] == whole["reproduced"]["share"] == 0.5


def test_a_gate_asks_for_a_share_or_a_number_of_all_or_of_each_document():
    """Two documents of 1,000 characters: 5 of them recalled in one passage, and 20 in two."""
    rows = [
        summarize(name, n_characters=1000, n_tokens=64, n_windows=1, spans=spans)
        for name, spans in {
            "a": [(0, 5, "recall")],
            "b": [
                (0, 10, "recall"),
                (20, 30, "recall"),
                (40, 90, "guess"),
                (95, 99, "cannot be told"),
            ],
        }.items()
    ]
    rows = [row | {"is_too_short": False, "near": row["recalled"]} for row in rows]
    record = {"documents": rows, "summary": overall(rows), "skipped": [], "reference": None}
    for text, holds in {
        "recalled > 1.25%": False, "recalled >= 1.25 %": True, "recalled>1.2%": True,
        "recalled > 1.9% in doc": True, "recalled > 2% in doc": False,
        "recalled >= 3 passages": True, "recalled > 3 passages": False,
        "recalled > 1 passage in doc": True, "recalled > 2 passages in doc": False,
        "guessed >= 1 passage": True, "reproduced >= 4 passages": True,
        "guessed > 5% in doc": False, "undecided >= 1 passage in doc": True,
        "undecided > 1%": False, "recalled >= 4 passages": False,
    }.items():  # fmt: skip
        assert judge(parse_gate(text, PASSAGES), record, pl.DataFrame(), None).is_failed == holds, (
            text
        )
    shown = share_beside(record["summary"], "undecided")["share"]  # as on the pages: they add up
    left_out = f"; 1 passage ({100 * shown:.1f} %) cannot be told and is not counted"
    nothing = record | {"documents": rows[:1], "summary": overall(rows[:1])}
    sure = judge(parse_gate("recalled > 0%", PASSAGES), nothing, pl.DataFrame(), None)
    assert (sure.is_failed, sure.as_json()["undecided"]) == (True, None)
    for text, is_said in {
        "recalled > 2%": True, "near > 2%": True, "recalled > 2% in doc": True,
        "recalled > 1%": False, "recalled > 1% in doc": False,
        "reproduced > 50%": False, "undecided > 1%": False,
    }.items():  # fmt: skip
        found = judge(parse_gate(text, PASSAGES), record, pl.DataFrame(), None)
        would = text == "recalled > 2% in doc"  # 2.0 % and 0.4 % of b
        end = f"{left_out}{': it would fail if it were recalled' * would}"
        assert found.said.endswith(end) == (f"{end}." in found.line) == is_said, text
        assert "Add --fail-if" not in found.line  # of 0.2 % it would not fail
        is_asked = text.startswith(("recalled", "near"))
        counted = {"passages": 1, "share": 0.002, "would_fail": would or not is_said}
        counted = counted if is_asked else None
        assert found.as_json()["undecided"] == counted, text


@pytest.mark.parametrize("each", ["", " in doc"])
@pytest.mark.parametrize("limit", ["> 1%", ">= 1 passage", "> 95%"])
def test_a_gate_that_passes_says_that_it_would_fail_and_advises_what_does(each, limit):
    """Nine tenths cannot be told; also that a reference repeats more than the model."""
    counts = {"n_characters": 1000, "n_tokens": 64, "n_windows": 1}
    row = summarize("a", **counts, spans=[(0, 900, "cannot be told")])
    rows = [row | {"is_too_short": False}]
    record = {"documents": rows, "summary": overall(rows), "skipped": [], "reference": None}
    for reference in (None, {"beside": {"is_more": False}}, {"beside": {"is_more": True}}):
        record["reference"] = reference
        asks = bool(reference and reference["beside"]["is_more"])
        found = judge(parse_gate(f"recalled {limit}{each}", PASSAGES), record, pl.DataFrame(), None)
        assert not found.is_failed
        would = limit != "> 95%"
        assert ("and is not counted: it would fail if it were recalled" in found.said) == would
        assert found.said.endswith("were model and reference given in each other's place?") == asks
        assert (found.as_json()["swapped"], found.strictly().is_failed) == (asks, asks)
        (advised,) = re.findall(r"[.?] Add --fail-if '(.*)', which fails here\.", found.line)
        assert judge(parse_gate(advised, PASSAGES), record, pl.DataFrame(), None).is_failed


@pytest.mark.parametrize("condition", ["recalled > 1%", "recalled > 0%", "recalled > 1% in doc"])
def test_where_only_strict_fails_it_says_which_documents_and_how_to_have_them_read(condition):
    """0.1 % is recalled; where 1 % is allowed no line advises to train again."""
    counts = {"n_characters": 1000, "n_tokens": 64, "n_windows": 1}
    rows = [summarize(name, **counts, spans=[(0, 1, "recall")]) for name in "ab"]
    rows = [one | {"is_too_short": False} for one in rows]
    skipped = [{"document": f"{n}.csv", "reason": f"a table{n}."} for n in range(4)]
    record = {"documents": rows, "summary": overall(rows), "reference": None}
    holds = condition == "recalled > 0%"
    for n, names in ((1, "0.csv"), (4, "0.csv, 1.csv, 2.csv and 1 more")):
        record["skipped"] = skipped[:n]
        found = judge(parse_gate(condition, PASSAGES), record, pl.DataFrame(), None)
        whole = f"; not checked: {n} of {n + 2} documents, unread or too short ({names})"
        assert (found.is_failed, whole in found.line) == (holds, True)
        assert found.line.startswith(f"Passed ({condition}){whole}: ") == (not holds)
        strict = found.strictly()
        were = "1 document was" if n == 1 else f"{n} documents were"
        most = "Most in a (" if "in doc" in condition else ""
        why = f"Failed (--strict): {were} not read: {names}. {most}0.1 % recalled"
        assert (strict.is_failed, strict.line.startswith(why)) == (True, not holds)
        assert ("train again" in strict.next_step, "0.csv: a table0." in strict.next_step) == (
            (holds, not holds)
        )
        assert strict.line.count("0.csv") == 1
        says_more = "--junit FILE gives the reasons of all 4." in strict.next_step
        assert says_more == (n == 4 and not holds)
    record["skipped"] = []
    rows[0]["is_too_short"] = True
    short = judge(parse_gate("recalled > 1%", PASSAGES), record, pl.DataFrame(), None).strictly()
    assert "1 document was not asked: a." in short.line


def test_a_condition_that_is_named_as_results_are_is_told_its_word():
    with pytest.raises(UserError, match="'windows' is a word of 'mnemoscope watch'; here pass"):
        parse_gate("recalled > 3 windows", PASSAGES)
    with pytest.raises(UserError, match="'cannot be told' is written undecided"):
        parse_gate("cannot be told > 1%", PASSAGES)
    with pytest.raises(UserError, match=r"not understood\. Write.*in doc: in any one of them"):
        parse_gate("of course > 1%", PASSAGES)


@pytest.mark.parametrize("of", [PASSAGES, WINDOWS, ITEMS.measures, FORGETTING.measures])
@pytest.mark.parametrize("given", ["1 {}", "3 {}s", "0.5%", "0%", "1 {} in doc", "2% in doc"])
def test_how_much_alone_is_answered_with_a_whole_condition_that_is_read(of, given):
    text = given.format(of.unit)
    with pytest.raises(UserError, match="not understood") as refused:
        parse_gate(text, of)
    meant = re.findall(r"Did you mean '(.*?)'\?", str(refused.value))
    assert len(meant) == (of.has_each or "in doc" not in text)
    assert all(parse_gate(one, of).text.endswith(text) for one in meant)
    unknown = parse_gate("undecided > 1%", PASSAGES).say(0.003, "new ")
    assert unknown == "0.3 % newly cannot be told"
    with pytest.raises(UserError, match="does not look for that; 'mnemoscope audit' does"):
        parse_gate("near > 1%", WINDOWS)


@given(st.integers(0, 10**6), st.integers(1, 999), st.sampled_from((">", ">=")))
@example(7000, 7, ">")  # 0.7 / 100 is less than 0.007
@example(4500, 5, ">")
def test_the_figure_of_a_gate_agrees_with_its_verdict(part, tenths, sign):
    characters = 10**6
    counts = summarize("a", n_characters=characters, n_tokens=1, n_windows=1, spans=[])
    counts["recalled"] = {"characters": part, "share": part / characters}
    gate = parse_gate(f"recalled {sign} {tenths / 10}%", PASSAGES)
    share = amount_of(gate, counts)
    printed = round(float(gate.say(share).removesuffix(" % recalled")) * 10**6)
    limit, exact = tenths * 10**5, part * 100  # millionths of a per cent
    assert gate.holds(share) == (exact > limit or (sign == ">=" and exact == limit))
    assert (printed > limit, printed < limit) == (exact > limit, exact < limit)


@given(*[st.integers(0, 600)] * 3, st.integers(1801, 2000))
@example(1, 0, 0, 4000)
def test_what_is_printed_of_the_three_verdicts_adds_up_to_reproduced(first, second, third, whole):
    ends = [first, first + second, first + second + third]
    spans = [*zip([0, *ends], ends, ("recall", "guess", "cannot be told"), strict=False)]
    row = summarize("a", n_characters=whole, n_tokens=1, n_windows=1, spans=spans)
    shares = [share_beside(row, kind)["share"] for kind in ("recalled", "guessed", "undecided")]
    shown = [share_words(one) for one in (*shares, row["reproduced"]["share"])]
    figures = [0 if "<" in one else round(10 * float(one[:-2])) for one in shown]
    if "<" not in "".join(shown):
        assert sum(figures[:3]) == figures[3]
    for n, figure, text in zip((first, second, third), figures, shown, strict=False):
        assert (text == "0.0 %") == (n == 0)
        assert abs(figure - 1000 * n / whole) <= 1


@given(st.lists(st.integers(0, 99), min_size=2, max_size=6).filter(any))
@example([1, 1, 1])
@example([2, 898])
@example([69, 72, 99])
def test_shares_of_one_whole_add_up_as_printed_and_none_is_off_by_a_tenth(counts):
    shares = [n / sum(counts) for n in counts]
    shown = adding_up(shares)
    assert sum(round(1000 * one) for one in shown) == 1000
    assert all(abs(a - b) < 0.001 for a, b in zip(shares, shown, strict=True))
    assert [one > 0 for one in shown] == [one > 0 for one in shares]
    assert f"{100 * shown[0]:.1f}" == f"{100 * shares[0]:.1f}"  # as printed: 28.75 is below it


WORDS = [f"w{n}" for n in range(80)]


def passages_of(*texts, verdict="recall"):
    rows = [{"start": 100, "end": 100 + len(one), "verdict": verdict, "text": one} for one in texts]
    return pl.DataFrame(rows)


@pytest.mark.parametrize(
    ("now", "then", "new"),
    [
        ("two  words", "so two words are", []),
        ("two words", "so twotwo words are", [(100, 109)]),
        ("nton Duarte,born in\n1971, Elm St", "Anton Duarte,born\nin 1971, Elm Street, 7", []),
        ("nton Duarte, b", "Anton Duarte, born", [(100, 114)]),  # one whole word proves nothing
        ("6 mg. " + " ".join(WORDS[:6]) + " w", "26 mg. " + " ".join(WORDS[:7]), []),  # no run of 8
        ("\n\n", "\n\n", []),
        ("\n\n", "\n", [(100, 102)]),
        (" ".join(WORDS[:40]), " ".join(WORDS[:35]), []),  # it ends five words further on
        (" ".join([*WORDS[:20], "x", *WORDS[21:40]]), " ".join(WORDS[:40]), []),  # an edit
        (" ".join(WORDS[:60]), " ".join(WORDS[:40]), [WORDS[40:60]]),
        (" ".join(WORDS[:60]), " ".join(WORDS[20:40]), [WORDS[:20], WORDS[40:60]]),
        (" ".join(WORDS[:10]), " ".join(WORDS[20:40]), [WORDS[:10]]),  # short, and all of it new
    ],
)
def test_a_baseline_leaves_of_a_passage_what_it_did_not_have(now, then, new):
    found = new_parts(passages_of(now), passages_of(then), grown=True)
    places = [one if isinstance(one, tuple) else _place(now, " ".join(one)) for one in new]
    assert found.select("start", "end").rows() == places
    texts = [now[start - 100 : end - 100] for start, end in places]
    assert found["text"].to_list() == texts
    whole = new_parts(passages_of(now), passages_of(then, verdict="guess"), grown=True)
    assert whole["text"].to_list() == [now]


def test_a_gate_that_fails_names_up_to_three_documents_with_most_of_it():
    counts = {"n_characters": 1000, "n_tokens": 64, "n_windows": 1}
    rows = [summarize(name, **counts, spans=[(0, n, "recall")]) for n, name in enumerate("abcde")]
    rows = [one | {"is_too_short": False} for one in rows]
    record = {"documents": rows, "summary": overall(rows), "reference": None, "skipped": []}
    share, each = (
        judge(parse_gate(one, PASSAGES), record, pl.DataFrame(), None).line
        for one in ("recalled > 0.1%", "recalled > 0% in doc")
    )
    assert "0.2 % recalled, at most 0.1 % allowed, most in e, d, c and 1 more." in share
    assert "Failed (recalled > 0% in doc): 4 of 5 checked documents (e, d, c and 1 more) " in each


RECORDS = "".join(f"Hugo{n},Ibarra,21.03.19{n},record{n}791931,omeprazole\n" for n in range(10, 60))


def pieces_of(*places):
    columns = ("document", "start", "end", "verdict")
    return pl.DataFrame(
        [
            dict(zip(columns, ("a", *one), strict=True)) | {"text": RECORDS[one[0] : one[1]]}
            for one in places
        ]
    )


@pytest.mark.parametrize(
    ("then", "now", "n_new"),
    [
        ([(0, 90, "undecided")], [(30, 70, "undecided"), (70, 130, "undecided")], 0),
        ([(0, 90, "recall")], [(10, 100, "undecided")], 0),  # less is said of it now
        ([(0, 90, "undecided")], [(10, 80, "recall")], 1),
        ([(0, 90, "guess")], [(10, 80, "recall")], 1),
        ([(0, 90, "guess")], [(10, 80, "undecided")], 1),
        ([(0, 90, "undecided")], [(90, 150, "undecided")], 1),  # beside it, not over it
        ([(0, 40, "recall")], [(0, 900, "recall")], 1),  # it grew to far more than there was
    ],
)
def test_in_an_unchanged_document_a_passage_is_known_by_its_place(then, now, n_new):
    """Of records without spaces no eight words in a row are the same."""
    rows = [
        [
            (start, end, {"undecided": UNDECIDED}.get(verdict, verdict))
            for start, end, verdict in one
        ]
        for one in (then, now)
    ]
    before, passages = (pieces_of(*one) for one in rows)
    record, older, edited = (
        {"documents": [{"document": name, "sha256": sha}]}
        for name, sha in (("a", "1"), ("a", "1"), ("a", "2"))
    )
    held = held_in(record, older, before)
    assert new_parts(passages, before, grown=False, held=held).height == n_new
    # of another text places say nothing
    assert held_in(record, edited, before) == {"a": []}
    if n_new:
        assert new_parts(passages, before, grown=True, held=held).height > 0


@pytest.mark.parametrize(
    ("now", "then", "n_new"),
    [
        (WORDS[:60], WORDS[20:60], 0),  # it now begins twenty words earlier
        (WORDS[:60], WORDS[:30], 0),
        (WORDS[:80], WORDS[30:60], 2),  # most of it was never seen
        (WORDS[:40], WORDS[60:], 1),
    ],
)
def test_a_passage_of_which_half_was_known_is_no_new_passage_however_it_grew(now, then, n_new):
    """What is new of its characters counts where shares are asked."""
    rows = passages_of(" ".join(now)), passages_of(" ".join(then))
    assert new_parts(*rows, grown=False).height == n_new
    assert new_parts(*rows, grown=True).height > 0


def _place(text, part):
    return 100 + text.index(part), 100 + text.index(part) + len(part)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not understood"),
        ("recalled", "put all of it in quotes, for without them a shell takes > and what follows"),
        ("no passage recalled", r"not understood\. It lacks > or >= and a limit\. Write"),
        ("recalled < 1%", "which is above a limit: write 'recalled >= 1%'"),
        ("recalled <= 0,5 percent", "which is above a limit: write 'recalled > 0.5%'"),
        ("recalled < some", "which is above a limit: write > or >="),
        (
            "recalled > 0.01",
            "Write 'recalled > 1%' for 1% of the characters, or 'recalled > 0.01%'",
        ),
        ("recalled > x", "not understood"),
        ("1>2", "not understood"),
        ("recaled > 1%", "Did you mean 'recalled'"),
        ("recalled > 0.5", "0.5 of what"),  # it was half of all characters once
        ("recalled > 5", "'recalled > 5%' .of the characters., or 'recalled > 5 passages'"),
        (
            "guessed > 1 in doc",
            "'guessed > 1% in doc' .of the characters., or 'guessed > 1 passage",
        ),
        ("recalled > 500", "500 of what. Write 'recalled > 500 passages'"),
        ("> 3", "Write 'recalled > 3%' .of the characters., or 'recalled > 3 passages'"),
        ("> 3 passages in doc", "does not say what is measured .reproduced, guessed, undecided, r"),
        ("> 0.5 %", "does not say what is measured"),
        ("recalled >= 0%", "so it always fails. Write 'recalled > 0%'"),
        (">= 0", "Write 'recalled > 0%'"),
        ("near >= 0 passages", "so it always fails. Write 'near > 0 passages'"),
        ("recalled > 0.5 passages", "Give a whole number"),
        ("recalled > 5% in docs", "Did you mean 'recalled > 5% in doc'"),
        ("recalled >= 1 passage per document", "Did you mean 'recalled >= 1 passage in doc'"),
        ("recalled => 0,5 percent", "Did you mean 'recalled >= 0.5%'"),
        ("recalled > 1,000 passages", "Did you mean 'recalled > 1000 passages'"),
        ("recalled < 1 passage in docs", "write 'recalled >= 1 passage in doc'"),
        ("recalled > 150%", "more than all characters, so it never fails"),
        ("recalled > 150.5", "more than all"),
        ("recalled > 100%", "more than all"),
        ("recalled > 3 items", "not understood"),
    ],
)
def test_gate_refuses_what_it_does_not_know_with_a_condition_that_it_takes(text, words):
    with pytest.raises(UserError, match="fail_if") as caught:
        parse_gate(text, PASSAGES)
    said = str(caught.value)
    assert re.search(words, said)
    for advice in re.findall(r"'(\w+ >=? [^']+)'", said.partition("Write")[2]):
        assert parse_gate(advice, PASSAGES).limit >= 0


@pytest.mark.parametrize("measures", [PASSAGES, ITEMS.measures, WINDOWS])
def test_a_condition_names_what_can_be_counted_of_a_passage_or_of_an_item(measures):
    for sign, number, unit in itertools.product(
        (">", ">="), ("1", "3"), ("%", f" {measures.unit}s")
    ):
        gate = parse_gate(f"recalled {sign} {number}{unit}", measures)
        assert (gate.of_number, gate.holds(gate.limit)) == (unit != "%", sign == ">=")
    other = {"passage": "items"}.get(measures.unit, "passages")
    for text in (f"recalled > 3 {other}", "copied > 1%"):
        with pytest.raises(UserError, match=re.escape(measures.examples)):
            parse_gate(text, measures)
    assert measures.has_each == (measures is not ITEMS.measures)


SUFFIX = 32


def hit(first, verdict="recall", score=1.0, length=SUFFIX):
    begin = first + SUFFIX
    ruling = Ruling(verdict, "because", 0.0, 0.0, False, False)
    return Hit(first, int(score * SUFFIX), score, [], None, (begin, begin + length), ruling)


def places(spans):
    return [(span.first, span.last, span.verdict) for span in spans]


def test_a_span_is_cut_where_the_verdict_changes_and_grows_but_not_by_what_it_copies():
    hits = [hit(0, "recall"), hit(16, "guess")]
    # 32-48 recall alone, 48-64 one against one, which is guess, 64-80 guess alone
    assert places(find_spans(hits, {}, 200)) == [(32, 48, "recall"), (48, 80, "guess")]
    assert places(find_spans([hit(0)], {0: Extension(50, False)}, 200)) == [(32, 82, "recall")]
    copied = find_spans([hit(0)], {0: Extension(50, True)}, 200)[0]
    assert (copied.last, copied.verbatim_length, copied.is_copied) == (64, 0, True)


def test_what_growth_alone_reached_has_a_window_of_its_own_verdict():
    hits = [hit(0), hit(1), *(hit(one, "guess", length=20) for one in (32, 33, 34, 80))]
    grown = {0: Extension(100, False), 1: Extension(99, False)}
    spans = find_spans(hits, grown, 300)
    assert places(spans)[-1] == (85, 132, "recall")  # two recalled against one guessed
    assert all(span.hit.ruling.verdict == span.verdict for span in spans)


def test_what_every_window_has_otherwise_is_no_part_that_was_written():
    """Token 40 is wrong in both windows that cover it, 50 in one of them."""
    wrong = [{40: Piece(7, None), 50: Piece(8, None)}, {40: Piece(9, "x")}]
    first, second = (
        hit(at, score=s)._replace(wrong=w)
        for at, s, w in zip((0, 4), (0.9, 0.95), wrong, strict=True)
    )
    (span,) = find_spans([first, second], {}, 200)
    assert span.otherwise == ((40, 41, [Piece(9, "x")]),)
    (whole,) = find_spans([first, second, hit(8)], {}, 200)
    assert whole.otherwise == ()


def test_characters_that_the_model_wrote_otherwise_are_counted_nowhere():
    other = [{"start": 10, "end": 15, "written": "x"}]
    spans = [(0, 40, "recall", other)]
    near = [(30, 60, "recall", [{"start": 50, "end": 70, "written": ""}])]
    row = summarize("a", n_characters=100, n_tokens=1, n_windows=1, spans=spans, near=near)
    assert [row[one]["characters"] for one in ("recalled", "reproduced", "near")] == [35, 35, 45]
    assert Passage(*spans[0]).pieces == [
        (0, 10, None, "recall"), (10, 15, "x", "recall"), (15, 40, None, "recall"),
    ]  # fmt: skip


def test_only_the_ends_of_a_stretch_are_grown_and_only_windows_without_mistake():
    hits = [hit(0, score=0.9), hit(8), hit(16, "guess"), hit(24), hit(32, score=0.9), hit(200)]
    assert places_to_grow(hits, 400) == [8, 24, 200]


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from(["guess", "recall"]), st.integers(1, 32)),
        max_size=12,
        unique_by=lambda one: one[0],
    )
)
def test_spans_cover_the_hits_exactly_and_never_overlap(rows):
    hits = [hit(first, verdict, length=length) for first, verdict, length in sorted(rows)]
    spans = find_spans(hits, {}, 264)
    covered = [one for span in spans for one in range(span.first, span.last)]
    assert covered == sorted({one for h in hits for one in range(*h.covered)})
    for left, right in pairwise(spans):
        assert left.last < right.first or left.verdict != right.verdict
    assert all(span.n_hits >= 1 for span in spans)
