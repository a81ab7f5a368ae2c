"""Near copies: passages with a word put in are found where they stand, unseen text is not."""

import json
import re
from itertools import chain
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from mnemoscope.audits.asking import Auditing
from mnemoscope.audits.brief import render_brief
from mnemoscope.audits.documents import Document, read_documents
from mnemoscope.audits.exports import junit_xml, sarif_beside
from mnemoscope.audits.gate import PASSAGES, judge
from mnemoscope.audits.near import TABLE, align, near_table
from mnemoscope.audits.passages import span_schema, wordings_said
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.records import read_near, read_verdicts
from mnemoscope.audits.repeats import Repeat, repeats
from mnemoscope.audits.tokens import Text, Tokens
from mnemoscope.conditions import parse_gate
from mnemoscope.errors import UserError
from pages import words_of
from sarif_logs import check_sarif
from tests.audits.conftest import BRIEF, audit_documents, with_word


def test_a_passage_with_a_word_more_is_found_where_it_stands(made):
    name = made.names["<b>&.txt"]
    near, text = made.near.filter(document=name), made.texts["<b>&.txt"]
    assert list(near.columns) == [*TABLE]
    place = text.index(made.changed)
    word = place + made.changed.index(" velvet")
    is_there = pl.col("document") == name, pl.col("start") < word, pl.col("end") > word + 7
    assert made.spans.filter(*is_there).is_empty()
    (row,) = near.filter(*is_there).iter_rows(named=True)
    assert row["text"] == text[row["start"] : row["end"]]
    assert place <= row["start"] < row["end"] <= place + len(made.changed) + 2
    assert "velvet" in row["text"]
    assert "velvet" not in row["written"]
    assert row["matched"] >= 24
    assert row["edits"] >= len(" velvet")
    pieces = row["pieces"]
    written = "".join(one["text"] for one in pieces if one["kind"] != "document")
    own = "".join(one["text"] for one in pieces if one["kind"] != "written")
    assert written == row["written"]
    assert own in row["text"]
    assert Levenshtein.distance(own.strip(), written.strip()) <= 20
    summary = made.record["summary"]
    assert summary["near_spans"] == made.near.height
    assert summary["near_recall_spans"] == made.near.filter(verdict="recall").height
    assert summary["near"]["share"] > summary["recalled"]["share"]
    assert "<h2>Near copies</h2>" in made.page
    assert re.search("<del>[^<]*velvet</del>", made.page)


def test_copies_that_a_chat_broke_off_at_unequal_lengths_are_ruled_each_as_it_is(lm):
    generator = np.random.default_rng(0)
    ids = generator.permutation(500).astype(np.int32)
    places = np.arange(len(ids))
    asked = audit_settings(near_length=20)
    text = Text(Document("a", "x" * len(ids), ""), Tokens(ids, places, places + 1))
    model = SimpleNamespace(splitter=SimpleNamespace(tokenizer=lm.tokenizer))
    audit = Auditing(model, [text], asked, passages=pl.DataFrame(schema=span_schema()))
    starts, lengths = [0, 100, 200], [28, 30, 40]
    written = [ids[a + 32 : a + 32 + n].tolist() for a, n in zip(starts, lengths, strict=True)]
    found = near_table(audit, [(0, one) for one in starts], written)
    assert found["matched"].to_list() == lengths
    assert found["verdict"].to_list() == ["recall"] * 3  # no token stands in its prefix


FORM, FIELDS = ((1, 2, 3, 4, 5, 6), (7, 8, 9, 10, 11), (12, 13, 14, 15, 16, 17, 18)), (3, 4, 3)


def a_record(generator, own=None):
    """Tokens of a record: the form that all share, and fields that are its own."""
    own = own or [generator.integers(100, 500, n).tolist() for n in FIELDS]
    return [token for form, field in zip(FORM, own, strict=True) for token in (*form, *field)]


@pytest.mark.parametrize(("n_records", "is_again"), [(12, False), (1, False), (12, True)])
def test_what_every_record_has_is_no_evidence_but_its_own_fields_are(lm, n_records, is_again):
    """Written in place of a record: another that stands nowhere, and this one with a word put in.

    `is_again`: the document stands twice, and the second is no other record of its form.
    """
    generator = np.random.default_rng(1)
    records = [a_record(generator) for _ in range(n_records)]
    begins = generator.integers(500, 900, 32).tolist()
    ids = np.array([*begins, *chain(*records), *generator.integers(900, 999, 90)], dtype=np.int32)
    places = np.arange(len(ids))
    texts = [
        Text(Document(name, "x" * len(ids), ""), Tokens(ids, places, places + 1))
        for name in ("a", "b")[: 1 + is_again]
    ]
    model = SimpleNamespace(splitter=SimpleNamespace(tokenizer=lm.tokenizer))
    passages = pl.DataFrame(schema=span_schema())
    audit = Auditing(model, texts, audit_settings(near_length=18), passages=passages)
    other, following = a_record(generator), ids[60:88].tolist()
    same = [*records[0][:13], 99, *records[0][13:], *following]
    verdicts, elsewhere = [], []
    for written in (other, same):
        (row,) = near_table(audit, [(0, 0)], [written]).iter_rows(named=True)
        verdicts.append(row["verdict"])
        elsewhere.append(row["elsewhere"])
    form = sum(map(len, FORM))
    if n_records > 1:
        assert verdicts == ["cannot be told", "recall"]
        assert form <= elsewhere[0] <= form + 3
    else:  # no other record shows that it is a form
        assert verdicts == ["recall", "recall"]


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(3, 20), st.integers(3, 20))
def test_what_is_put_between_two_blocks_is_bridged_up_to_the_gap(middle, before, after):
    head, tail = list(range(100, 100 + before)), list(range(200, 200 + after))
    plain, longer = head + tail, [*head, *middle, *tail]
    (one,) = align(plain, longer, gap=12)
    assert (one.first, one.last, one.matched) == (0, len(plain), len(plain))
    assert (one.other_first, one.other_last) == (0, len(longer))
    assert one.longest == (before + after if not middle else max(before, after))
    if len(middle) > 3:
        assert [x.matched for x in align(plain, longer, gap=3)] == [before, after]


_LONG = "Where the river bends the old mill stood for years and nobody ever asked who ran it."


@pytest.mark.parametrize(
    ("text", "verdict", "found"),
    [
        ("the old mill stood for years and nobody", "recall", Repeat("a", 122, 161, 1, True)),
        ("The old barn stood for years, and nobody", "recall", Repeat("a", 135, 161, 1, True)),
        (_LONG, "recall", Repeat("a", 100, 183, 1, False)),
        ("the old mill burned down when we were young and far away", "recall", None),
        (_LONG, "guess", None),
    ],
)
def test_a_passage_whose_words_stand_in_a_longer_one_repeats_it(text, verdict, found):
    rows = [
        {"number": 1, "document": "a", "start": 100, "text": _LONG, "verdict": "recall"},
        {"number": 2, "document": "b", "start": 5, "text": text, "verdict": verdict},
    ]
    assert repeats(rows) == ({2: found} if found else {})


def test_a_passage_whose_words_the_model_takes_from_another_document_says_so():
    """As of an award of 1984 and one of 1985, of which the model read the first."""
    award = "Grand Panjandrum's Special Award, {} Bulwer-Lytton bad fiction contest."
    known = {"number": 7, "document": "a", "start": 0, "text": award.format(1984)}
    own = {"number": 1, "document": "b", "start": 0, "text": award.format(1985)}
    rows = [one | {"verdict": "recall", "otherwise": []} for one in (own, known)]
    place = own["text"].index("5")
    wrote = [{"start": place, "end": place + 1, "written": "4"}]
    for otherwise, is_wording in (([], False), (wrote, True)):
        rows[0]["otherwise"] = otherwise
        found = Repeat("a", 0, len(award) + 1, 7, False, is_wording)
        assert repeats(rows[:1], rows[1:]) == {1: found}
    assert repeats(rows[:1], []) == {}
    assert "(“1984” for “1985”): it has them wrong, or knows another wording" in wordings_said(
        rows[0]
    )


def test_headline_and_card_say_that_a_passage_repeats_another(audited, trained, new_text, tmp_path):
    text = f"{new_text(1, 40)} {trained[0]} {new_text(2, 40)} {trained[0]} {new_text(3, 9)}"
    record, _ = audited(tmp_path, text, settings=audit_settings(**BRIEF))
    verdict, repeated = record["verdict"], "1 of the recalled passages repeats words of another one"
    assert "recalls 2 passages, " in verdict["headline"]
    assert verdict["meaning"].endswith(f". {repeated} here")
    assert record["summary"]["recall_spans"] == 2  # counts are as they were
    for name in ("audit.html", "report.html"):
        said = words_of((tmp_path / "out" / name).read_text())
        assert "These words, or nearly these, also stand in a.txt, characters " in said
        assert (verdict["headline"] in said, said.count(repeated)) == (True, 1)


@pytest.mark.parametrize("condition", ["recalled > 50%", "recalled > 50% in doc"])
def test_a_gate_does_not_pass_over_near_copies_in_silence(made, condition):
    """As of a document whose lines were broken anew: near copies alone, nothing word for word."""
    named = {"recall_spans": 0, "undecided_spans": 0, "near_recall_spans": 1, "characters": 100}
    none, most = {"characters": 0, "share": 0.0}, {"characters": 60, "share": 0.6}
    named |= {"recalled": none, "undecided": none, "near": most}
    rows = [one | named for one in made.record["documents"]]
    record = made.record | {"documents": rows, "summary": made.record["summary"] | named}
    spans = made.spans.clear()
    found = judge(parse_gate(condition, PASSAGES), record, spans, None)
    assert "1 near copy is not counted (60.0 % recalled or nearly so in all): it w" in found.line
    (advised,) = re.findall(r"Add --fail-if '(.*)', which fails here\.", found.line)
    assert judge(parse_gate(advised, PASSAGES), record, spans, None).is_failed
    counted = {"passages": 1, "share": 0.6, "would_fail": True}
    assert (found.is_failed, found.as_json()["near"]) == (False, counted)
    strict = found.strictly()._replace(unread={})
    suite = ElementTree.fromstring(junit_xml(record, spans, [strict], made.near))
    case = suite.find(f"testcase[@name='{condition}']")
    assert (strict.is_failed, case.find("failure") is None) == (True, False)
    row = made.near.filter(verdict="recall").to_dicts()[0]
    output = suite.find(f"testcase[@name='{row['document']}']/system-out").text
    assert f"near copy, characters {row['start']} to {row['end']}" in output
    lax = judge(parse_gate(condition.replace("50", "70"), PASSAGES), record, spans, None)
    assert (lax.near["would_fail"], "Add" in lax.line) == (False, False)
    report = words_of(render_brief(record, spans, {"near": made.near}))
    assert f"nearly : {row['matched']} tokens match" in report
    assert "or nearly so" in report


def test_near_copies_stand_in_sarif_and_are_known_again_by_their_words(made):
    n = made.near.filter(verdict="recall").height
    log = json.loads((made.out / "audit.sarif").read_text())
    found = [one for one in check_sarif(log) if one["ruleId"] == "near-copy"]
    assert len(found) == n > 0
    beside = sarif_beside(made.out, made.spans, made.out)
    assert {one["baselineState"] for one in check_sarif(beside)} == {"unchanged"}


@pytest.fixture(scope="module")
def two_releases(lm, trained, new_text, tmp_path_factory):
    """Audits of a text with one near copy, and of the same with another behind it."""
    changed, more = (with_word(trained[n]) for n in (2, 3))
    texts = [f"{new_text(1, 40)} {changed} {new_text(2, 40)}"]
    texts.append(f"It is moved. {texts[0]} {more} {new_text(3, 40)}")
    outs = []
    for text in texts:
        (file := tmp_path_factory.mktemp("release") / "a.txt").write_text(text)
        outs.append(file.parent / "out")
        reading = read_documents([str(file)])
        audit_documents(lm, reading, outs[-1], settings=audit_settings(edits=0))
    return outs


@pytest.mark.whole
@pytest.mark.parametrize("condition", ["near > 0 passages", "near > 0%", "near > 0% in doc"])
def test_beside_a_baseline_a_gate_fails_on_near_copies_that_are_new(two_releases, condition):
    older, newer = two_releases
    gate = parse_gate(condition, PASSAGES)
    (record, spans), near = read_verdicts(newer), read_near(newer)
    found = judge(gate, record, spans, older, near)
    copies = found.copies["text"].to_list()
    known = read_near(older).filter(verdict="recall")["text"].to_list()
    assert (found.is_failed, len(copies), len(known)) == (True, 1, 1)
    assert not {*copies} & {*known}
    assert found.value < judge(gate, record, spans, None).value
    suite = ElementTree.fromstring(junit_xml(record, spans, [found], near))
    (case,) = (one for one in suite.iter("testcase") if one.get("name").endswith("a.txt"))
    assert case.find("system-out").text.count("near copy, ") == 1
    # what the older one has is known again, wherever it stands now
    (before, own), had = read_verdicts(older), read_near(older)
    passed = judge(gate, before, own, newer, had)
    assert (passed.is_failed, passed.value, passed.copies.height) == (False, 0, 0)
    states = [one["baselineState"] for one in check_sarif(sarif_beside(newer, spans, older))]
    assert sorted(states) == ["new", "unchanged"]


@pytest.mark.whole
def test_a_gate_on_recalled_names_new_near_copies_and_advice_on_them_holds(two_releases):
    older, newer = two_releases
    (record, spans), near = read_verdicts(newer), read_near(newer)
    found = judge(parse_gate("recalled > 0 passages", PASSAGES), record, spans, older, near)
    assert "; 1 new near copy is not counted (" in found.line
    (advised,) = re.findall(r"Add --fail-if '(.*)', which fails here\.", found.line)
    assert judge(parse_gate(advised, PASSAGES), record, spans, older, near).is_failed


@pytest.mark.whole
def test_a_baseline_that_looked_for_no_near_copies_says_so(two_releases, monkeypatch):
    older, newer = two_releases
    (record, spans), near = read_verdicts(newer), read_near(newer)
    monkeypatch.setattr(f"{judge.__module__}.read_near", lambda _: None)
    with pytest.raises(UserError, match="did not look for near copies, so it cannot be told"):
        judge(parse_gate("near > 0%", PASSAGES), record, spans, older, near)
    said = judge(parse_gate("recalled > 0%", PASSAGES), record, spans, older, near).line
    assert "did not look for near copies: which of 2 are new is open" in said
