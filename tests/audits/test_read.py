"""Was it read: chances behind the right text, bits of known truth, ranks, and what may be said."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from chromium import NEEDS_CHROMIUM
from mnemoscope.audits import read as module
from mnemoscope.audits import unread
from mnemoscope.audits.asking import Auditing
from mnemoscope.audits.documents import read_documents
from mnemoscope.audits.local import LocalModel, local_audit
from mnemoscope.audits.page import environment
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.run import check_same
from mnemoscope.audits.shares import share_words
from mnemoscope.audits.verdict import came_out, read_said
from mnemoscope.audits.verify import _find_unread
from mnemoscope.benchmark.membership import WITH_TWIN
from mnemoscope.errors import UserError
from mnemoscope.progress import show_progress
from mnemoscope.words import from_word
from pages import words_of
from tests.audits.conftest import BRIEF, audit_documents, with_word

N_UNREAD = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sequences):
    """Documents of two passages that the embedded model read 64, 16 or 0 times; unread ones."""
    folder = tmp_path_factory.mktemp("read")
    plain = sequences.filter(genre="prose", form="plain")
    for dose, n in ((64, 1), (16, 10), (0, N_UNREAD + 10)):
        rows = plain.filter(inserted=dose).sample(fraction=1, shuffle=True, seed=3)["text"]
        for number in range(n):
            text = "\n".join(rows[2 * number : 2 * number + 2])
            kind = f"read{dose}" if dose else "unread" if number < N_UNREAD else "new"
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def ask_of(lm, reference, folder):
    def ask_of(kind, *, twin=True, unread="unread", role=(0, 1), **values):
        pair = (lm, reference)[role[0]], (lm, reference)[role[1]]
        where = None if unread is None else str(folder / unread)
        settings = audit_settings(**BRIEF, read=True, unread=where, **values)
        documents = read_documents([str(folder / kind)]).documents
        audit = local_audit(pair[0], documents, settings, reference=pair[1] if twin else None)
        answer = module.ask(audit)
        return answer.table, answer.facts, audit

    return ask_of


def test_every_token_is_scored_once_behind_what_stands_before_it(lm, ask_of, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST", 40)
    table, _, audit = ask_of("read64", unread=None, twin=False)
    (text,) = audit.texts
    ids = text.tokens.ids
    blocks = list(module._blocks(0, len(ids), 40))
    assert [at for one in blocks for at in range(one.scored, one.end)] == [*range(1, len(ids))]
    wanted = []
    for one in blocks:
        assert one.scored - one.begin >= (20 if one.begin else 1)
        with torch.inference_mode():
            shown = torch.from_numpy(ids[one.begin : one.end].astype(np.int64))[None]
            logs = lm.model(shown).logits[0].double().log_softmax(-1)
        wanted += [logs[at - one.begin - 1, ids[at]].item() for at in range(one.scored, one.end)]
    edges = [*table["token"], len(ids)]
    assert table["tokens"].sum() == len(wanted)
    for logprob, first, last in zip(table["logprob"], edges, edges[1:], strict=False):
        own = wanted[max(first, 1) - 1 : last - 1]
        assert logprob == pytest.approx(np.mean(own), abs=1e-5)
    assert table["start"][0] == 0
    assert table["end"][-1] == len(text.document.text)


def test_what_was_read_often_is_found_and_not_with_the_roles_swapped(ask_of):
    _, facts, _ = ask_of("read64")
    (own,) = facts["documents"]
    assert (own["verdict"], own["as_high"]) == ("read", 0)
    assert own["p"] == pytest.approx(1 / (N_UNREAD + 1))
    assert own["swapped_p"] == 1.0
    said = "evidence that it was read, or a text that holds much of it. That holds if it was chosen"
    assert f"{said} before its score was seen; of documents that are asked one" in facts["sentence"]
    assert f"needs {own['bits']['value']:.0f} bits fewer" in facts["sentence"]
    assert own["bits_a_token"] == pytest.approx(own["bits"]["value"] / own["tokens"])
    assert own["bits_a_token"] > own["unread_bits_a_token"]["largest"]
    beside = "A model that is better at such texts saves bits too: {:.2f} a token here, and of the"
    assert beside.format(own["bits_a_token"]) in facts["sentence"]
    json.dumps(facts)
    _, swapped, _ = ask_of("read64", role=(1, 0))
    assert swapped["documents"][0]["verdict"] == "cannot be told"
    assert swapped["bits"]["value"] == pytest.approx(-own["bits"]["value"])
    assert "needs no fewer bits" in swapped["sentence"]


def test_unread_texts_that_all_score_higher_are_of_another_kind(ask_of, folder):
    _, facts, _ = ask_of("new", unread="read16")
    n, p = facts["lower"]["documents"], facts["lower"]["p"]
    assert n == sum(one["swapped_p"] == pytest.approx(1 / 11) for one in facts["documents"]) > 1
    assert p == pytest.approx(rank_chance(n, 10, 10), abs=0.01)
    assert p < 0.05
    said = f"not of one kind with these: {n} of 10 documents score lower than every unread one"
    assert said in facts["sentence"]
    assert {one["verdict"] for one in facts["documents"]} == {"cannot be told"}
    assert not facts["told_together"]
    assert n == 10
    assert "told. Give unread documents of their kind (--unread)." in facts["sentence"]
    kept = folder / "kept"
    shutil.copytree(folder / "read64", kept)
    for path in sorted((folder / "new").iterdir())[:6]:
        shutil.copy(path, kept / f"new-{path.name}")
    _, facts, _ = ask_of("kept", unread="read16")
    (below,) = re.findall(r"Audit the others by themselves, without (.*txt)\.", facts["sentence"])
    for name in below.split(", "):  # as is advised
        (kept / name).unlink()
    assert {one.name[:4] for one in kept.iterdir()} != {"new-"}
    assert ask_of("kept", unread="read16")[1]["lower"] is None


def rank_chance(n, n_texts, n_unread):
    """How often so many of some texts are below all others, of shuffled ranks."""
    generator = np.random.default_rng(0)
    ranks = generator.permuted(np.tile(np.arange(n_texts + n_unread), (20_000, 1)), axis=1)
    below = ranks[:, :n_texts] < ranks[:, n_texts:].min(axis=1, keepdims=True)
    return (below.sum(axis=1) >= n).mean()


def test_shorter_unread_documents_make_p_larger_never_smaller():
    """By documents that were not read: their passages drawn alike, more of them or as many."""
    draw, n_draws, n_unread = np.random.default_rng(0), 700, 19
    called = {}
    for n_passages in (12, 3):
        found = []
        for _ in range(n_draws):
            others = [
                module._Values(draw.normal(size=n_passages), np.ones(n_passages))
                for _ in range(n_unread)
            ]
            rows = pl.DataFrame({"document": "a", "tokens": 1, "min_k_plus": draw.normal(size=12)})
            found.append(module._of_document(rows, "min_k_plus", others, 1))
        called[n_passages] = np.mean([one["p"] <= 0.05 for one in found])
        assert {one["unread_shorter"] for one in found} == {n_unread if n_passages < 12 else 0}
    assert called[12] == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / n_draws) ** 0.5)
    assert called[3] < 0.02


def test_the_pages_say_what_shorter_unread_documents_do_to_p():
    said = environment().get_template("read.html.j2").module.cut_said
    own = {"unread": 19, "documents": [{"unread_shorter": n} for n in (0, 3, 1)]}
    assert "Up to 3 of the 19 unread documents are shorter than a document beside" in said(own)
    assert said({"unread": 19, "documents": [{"unread_shorter": 0}]}) == ""


@pytest.mark.parametrize(("kind", "verdict"), [("read16", "told apart"), ("new", "cannot be told")])
def test_many_documents_share_one_level_and_are_compared_by_their_text(ask_of, kind, verdict):
    _, facts, _ = ask_of(kind)
    assert len(facts["documents"]) == 10
    # 1/21 is the smallest p there is, and 10 documents want 0.05 / 10.
    assert all(one["verdict"] == "cannot be told" for one in facts["documents"])
    assert "199 are needed" in facts["sentence"]
    score, *controls = facts["together"]
    assert score["verdict"] == verdict
    assert {one["verdict"] for one in controls} == {"cannot be told"}


def test_a_last_passage_that_lacks_one_token_is_no_whole_one(monkeypatch):
    """The first one is: its first token has no score, for nothing stands before it."""
    seen = []
    monkeypatch.setattr(module, "text_controls", lambda tokens, *_: seen.append(tokens) or {})
    sides, texts = [], []
    for name in ("own", "new"):
        names = [f"{name} {n}" for n in range(10)]
        ids, document = list(range(127)), SimpleNamespace(text="a" * 127)
        texts.append([
            SimpleNamespace(name=one, tokens=SimpleNamespace(ids=ids), document=document)
            for one in names
        ])  # fmt: skip
        rows = [(one, at, at, at + 63, 63, name == "new", 0.5) for one in names for at in (0, 64)]
        schema = ["document", "token", "start", "end", "tokens", "is_unread", "ratio"]
        sides.append(pl.DataFrame(rows, schema=schema, orient="row"))
    audit = SimpleNamespace(settings=SimpleNamespace(length=64), texts=texts[0])
    (found,) = module._together(audit, sides, texts[1], WITH_TWIN)
    assert seen[0].tolist() == [list(range(64))] * 20
    assert found.auc.value == 0.5


def test_nothing_is_said_beside_texts_of_another_kind(ask_of, folder, sequences):
    rows = sequences.filter(genre="code", form="plain", inserted=0)["text"]
    (folder / "code").mkdir(exist_ok=True)
    for number in range(10):
        text = "\n".join(rows[2 * number : 2 * number + 2])
        (folder / "code" / f"{number}.txt").write_text(text)
    _, facts, _ = ask_of("read16", unread="code")
    assert "differ from the 10 documents in their text alone" in facts["sentence"]
    assert {one["verdict"] for one in facts["documents"]} == {"cannot be told"}


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("read64", {"unread": None}, "cannot be told without documents of the same kind"),
        ("read64", {"twin": False}, "No reference was asked"),
        ("read64", {"twin": False, "unread": None}, "cannot be told without documents of the same"),
    ],
)
def test_what_is_missing_is_said(ask_of, kind, given, said):
    _, facts, _ = ask_of(kind, **given)
    assert said in facts["sentence"]
    assert all(one["verdict"] == "cannot be told" or given for one in facts["documents"])


def keys_of(value):
    """Keys of an object of JSON and of all that it holds."""
    if isinstance(value, dict):
        return {*value, *keys_of([*value.values()])}
    return {key for one in value for key in keys_of(one)} if isinstance(value, list) else set()


@pytest.mark.whole
def test_the_verb_writes_it_down_and_verify_scores_the_unread_texts_again(
    folder, tmp_path, succeed, call, lm, reference, verify
):
    out = tmp_path / "out"
    printed = succeed(
        *("audit", "embedded", folder / "read16", "--read", "--unread", folder / "new", "-q"),
        *("--edits", 0, "--near-length", 0, "--stride", 64, "-o", out),
    ).out
    record = json.loads((out / "audit.json").read_text())
    docs = (Path(__file__).parents[2] / "docs" / "audit-files.md").read_text(encoding="utf-8")
    for name in ("read", "unread"):
        (row,) = (one for one in docs.splitlines() if one.startswith(f"| `{name}` | with"))
        assert [one for one in keys_of(record[name]) if f"`{one}`" not in row] == []
    said = record["read"]["sentence"]
    assert "10 unread documents are too few for 10 documents: 199 are needed, 189 more, " in said
    assert "of audits. To ask them one by one needs as many; 19 are enough for one document" in said
    assert "for one document that was chosen before any score was seen. " in said
    assert "All together are told from the unread ones by bits saved a token (AUC " in said
    page = (out / "audit.html").read_text()
    assert "Was it read, though it does not come out?" in page
    assert f"{record['read']['documents'][0]['bits']['value']:,.0f}" in page
    largest = record["read"]["documents"][0]["unread_bits_a_token"]["largest"]
    assert f"{largest:,.2f}" in page
    report = words_of((out / "report.html").read_text())
    assert read_said(record) in report
    n_out = len(came_out(record))
    assert f"out: passages of {n_out} of the documents are recalled, which is" in read_said(record)
    assert read_said(record) in printed
    assert page.count("cannot be told by its score; passages came out</td>") == n_out > 0
    assert f"(median; at most {record['read']['unread_bits_a_token']['largest']:,.2f})" in report
    assert "A model that is better at such texts saves bits too: " in report
    assert "comes out (evidence of all together, and of none alone): see below." in report
    assert "Evidence that a document was read is no more than that it scores higher" in report
    assert pl.read_parquet(out / "read.parquet")["is_unread"].sum() == 10 * 2
    assert record["verdict"]["sentence"].endswith(record["unread"]["sentence"])
    for shown in (page, report):
        words = words_of(shown)
        here = words.index("How far to trust this here: of 10 documents named as not read, no")
        assert (
            here
            < words.index("A test of the rule elsewhere: on the model of 4 million")
            < here + 500
        )
    with_reference = {"load_reference": lambda _, asked: LocalModel(reference, asked)}
    found = verify(out, lm, **with_reference)
    assert "the documents of --unread are those that were asked." in found.checked
    assert not found.problems + found.unchecked
    with pytest.raises(UserError, match="unread: this audit asked none"):
        _find_unread(Auditing(LocalModel(lm, audit_settings()), [], audit_settings()), {}, [], "x")
    gone = min((folder / "new").iterdir()).rename(tmp_path / "moved.txt")
    found = verify(out, lm, **with_reference)
    assert "Say where they are now with --unread DIR." in str(found.unchecked)
    again = verify(out, lm, **with_reference, unread=str(gone))
    assert not again.problems + again.unchecked
    lost = call("audit", "verify", out, "-q")
    assert (lost.status, "say where they are now with --unread DIR." in lost.out) == (2, True)
    assert call("audit", "verify", out, "--unread", gone, "-q").status == 0
    gone.rename(folder / "new" / Path(record["unread"]["texts"][0]["document"]).name)
    assert "1 of its 10 texts not found, or changed: every p of --read and" in str(found.unchecked)
    assert found.checked


@pytest.mark.whole
def test_reading_is_added_to_a_finished_audit_and_no_passage_is_asked_again(
    folder, tmp_path, lm, reference, verify, monkeypatch, capsys
):
    reading = read_documents([str(folder / "read64")])
    others = {"read": True, "unread": str(folder / "new")}
    settings = [audit_settings(**BRIEF, stride=64, **one) for one in ({}, others)]
    with_read = audit_settings(**BRIEF, stride=64, read=True)
    whole = audit_documents(
        lm, reading, tmp_path / "whole", settings=settings[1], reference=reference
    )
    out, asked = tmp_path / "out", LocalModel.continue_
    first = audit_documents(lm, reading, out, settings=settings[0], reference=reference)
    spans = (out / "spans.parquet").read_bytes()
    seen = set()

    def watched(self, prompts, **options):
        seen.update(one.text.name for one in prompts)
        return asked(self, prompts, **options)

    monkeypatch.setattr(LocalModel, "continue_", watched)
    for one in (with_read, settings[1]):  # what is read rests on the unread ones: asked again
        check_same(out, one, reading, str(first["reference"]["name"]), redo=False)
        with show_progress():
            found = audit_documents(lm, reading, out, settings=one, reference=reference)
    steps = re.findall(r"Step \d of \d", capsys.readouterr().err)
    assert steps == ["Step 1 of 1", "Step 1 of 2", "Step 2 of 2"]  # those inside are not counted
    assert seen.isdisjoint(text.name for text in reading.documents)
    assert (out / "spans.parquet").read_bytes() == spans
    assert found["date"] == first["date"]
    assert {*found.pop("added")} == {"read", "unread"}
    differ = {name for name in found if found[name] != whole[name]}
    assert differ <= {"date", "files", "sizes", "sha256"}
    report = (out / "report.html").read_text()
    assert re.search("<dt>Added</dt><dd>.*<code>--read</code>", report) is not None
    monkeypatch.undo()
    again = verify(out, lm, load_reference=lambda _, given: LocalModel(reference, given))
    assert not again.problems + again.unchecked
    for refused in (settings[0], audit_settings(**BRIEF, stride=8, **others)):
        with pytest.raises(UserError, match="other settings"):
            audit_documents(lm, reading, out, settings=refused, reference=reference)


@pytest.mark.whole
@pytest.mark.browser
@NEEDS_CHROMIUM[1]
def test_of_eight_documents_and_their_reading_the_pages_print_on_few_sheets(
    folder, lm, reference, browser, tmp_path
):
    pypdf = pytest.importorskip("pypdf")
    reading = read_documents([str(folder / "read16" / f"{one:02}.txt") for one in range(8)])
    settings = audit_settings(**BRIEF, stride=16, read=True, unread=str(folder / "new"))
    record = audit_documents(lm, reading, tmp_path, settings=settings, reference=reference)
    assert len(record["documents"]) == 8
    assert record["summary"]["recall_spans"] > 3  # as many as are quoted
    report = (tmp_path / "report.html").read_text()
    assert all(f"<code>{one['sha256'][:16]}</code>" in report for one in record["documents"])
    page = browser.new_page()
    for name, most in (("report", 3), ("audit", 3)):
        page.goto((tmp_path / f"{name}.html").as_uri())
        page.pdf(path=tmp_path / f"{name}.pdf", prefer_css_page_size=True)
        assert len(pypdf.PdfReader(tmp_path / f"{name}.pdf").pages) <= most
    page.close()


@pytest.mark.parametrize("stands_in_own", [False, True])
def test_what_the_rule_recalls_of_unread_documents_is_counted(
    audited, trained, new_text, tmp_path, stands_in_own
):
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "b.txt").write_text(f"{trained[0]} It ends.", encoding="utf-8")
    own = f"{new_text(1, 60)} {trained[0] * stands_in_own} It ends here."
    settings = audit_settings(**BRIEF, unread=str(tmp_path / "control"))
    record, _ = audited(tmp_path, own, settings=settings)
    table, found = pl.read_parquet(tmp_path / "out" / "unread.parquet"), record["unread"]
    assert table["verdict"].to_list() == ["recall"]
    assert (found["documents"], found["recall_spans"]) == (1, 1)
    assert found["rate"] == {"value": 1.0, "low": pytest.approx(0.025), "high": 1.0}
    said = "1 passage in 1 of them (100.0 % [2.5, 100.0], 95 % interval; "
    assert f"of 1 document named as not read, {said}" in found["sentence"]
    (start, end), n = table.select("start", "end").row(0), len(f"{trained[0]} It ends.")
    where = f"b.txt, characters {start} to {end} ({end - start} characters, "
    assert (
        f"is recalled by this rule: {where}{share_words((end - start) / n)} of it). So it"
        in (found["sentence"])
    )
    assert "of it). So it accuses wrongly here, or it was read after all" in found["sentence"]
    known = "read after all, or it knows the words from a.txt, where they stand too, or nearly."
    assert (known in found["sentence"]) == stands_in_own
    page = words_of((tmp_path / "out" / "audit.html").read_text())
    assert ("or nearly these, also stand in a.txt, characters " in page) == stands_in_own


def test_near_copies_in_unread_documents_are_counted(audited, trained, new_text, tmp_path):
    (tmp_path / "control").mkdir()
    control = f"{with_word(trained[0])} It ends."
    (tmp_path / "control" / "b.txt").write_text(control, encoding="utf-8")
    settings = audit_settings(**{**BRIEF, "near_length": 24}, unread=str(tmp_path / "control"))
    record, _ = audited(tmp_path, new_text(1, 60), settings=settings)
    table, found = pl.read_parquet(tmp_path / "out" / "unread.parquet"), record["unread"]
    assert found["near_recall_spans"] == table["nearly"].sum() == 1
    near = table.filter("nearly")
    where = "b.txt, characters {} to {} (".format(*near.select("start", "end").row(0))
    said = f"1 near copy is, in 1 of them (100.0 % [2.5, 100.0], 95 % interval): {where}"
    assert said in found["sentence"]
    found_text = near["text"][0]
    text, begins = (" ".join(one.split()) for one in (found_text, from_word(found_text)))
    report, page = (
        words_of((tmp_path / "out" / f"{one}.html").read_text()) for one in ("report", "audit")
    )
    assert f"{found['sentence']} It reads “{begins[:60]}…”." in report
    assert text[:120] in page.partition("Documents named as not read")[2]
    assert near["text"][0] in control
    assert near["verdict"].to_list() == ["recall"]


def test_what_was_changed_and_other_unread_texts_are_noticed(ask_of, folder):
    table, _, audit = ask_of("read64", unread="new")
    assert module.check(audit, table) == []
    assert "do not come out again" in str(module.check(audit, table.with_columns(logprob=-9.0)))
    before = unread.depends(audit)
    (folder / "new" / "more.txt").write_text("Another text that was not read.")
    audit.unread = None
    after = unread.depends(audit)
    (folder / "new" / "more.txt").unlink()
    assert len(after) == len(before) + 1


def test_unread_documents_must_be_others(ask_of):
    with pytest.raises(UserError, match="nothing but the audited documents"):
        ask_of("read64", unread="read64")
