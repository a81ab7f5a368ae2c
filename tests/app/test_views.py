"""What the views show: hostile text escaped, pictures that are the maps, figures of the study."""

import base64
import io
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

import mnemoscope as ms
from mnemoscope.app.page import (
    MOST_KEPT,
    LoadedModels,
    Shop,
    audit_work,
    delta_for,
    example_text,
    in_browser,
    passage_maps,
    read_visit,
    status,
)
from mnemoscope.app.views import (
    EVERY_CLASS,
    MAP_INK,
    PAGE_ROWS,
    BrowsedStudy,
    ClassDelta,
    Result,
    SequenceMaps,
    open_audit,
    render_card,
    render_maps,
    render_result,
    strongest_edges,
)
from mnemoscope.audits.documents import read_documents
from mnemoscope.audits.local import local_audit
from mnemoscope.audits.page import in_order
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.run import make_audit
from mnemoscope.audits.verdict import error_rate
from mnemoscope.embedded import model_path
from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.load import load_model
from mnemoscope.pipeline.label import samples_of
from mnemoscope.study.folder import Study
from pages import Page
from study_files import rewrite_record
from tests.app.conftest import HOSTILE

PAPER = "Non-Memo, Guess, Recall"
QUICK = audit_settings(edits=0, near_length=0, refine_from=33)
LITTLE = {"edits": 1, "beams": 4, "near_length": 0}
"""Settings that ask for everything but near copies, and of each little."""


@pytest.fixture(scope="module")
def models() -> LoadedModels:
    return LoadedModels(device="cpu")


@pytest.fixture(scope="module")
def result(models, document, tmp_path_factory) -> Result:
    """The audit of a document that holds two passages and all that can hurt a page."""
    reading, used = read_visit(HOSTILE + document + HOSTILE, None), tmp_path_factory.mktemp("used")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(used))
        made = audit_work(models, None, reading, "embedded", audit_settings(**LITTLE))()
    assert not [one for one in used.rglob("*") if one.is_file()]  # torch may leave a folder
    return made


def test_an_audit_finds_the_passages(result, passages):
    recalled = [row["text"] for row in result.passages if row["verdict"] == "recall"]
    for text in passages[:2]:  # the first half of each is what the model is shown
        tail = text[3 * len(text) // 4 :].strip()
        assert any(tail[:20] in one for one in recalled)


def test_a_hostile_document_is_shown_and_does_nothing(result):
    assert result.passages
    page = Page(render_result(result))
    page.assert_harmless()
    for shown in ("<script>window.hurt = 1</script>", "${window.hurt = 1}", "{{value}}", "</pre>"):
        assert shown in page.words()
    assert "U+202E" in page.words()
    assert "U+200B" in page.words()
    assert "\u202e" not in page.words()
    order = [row["number"] for row in in_order(result.passages)]
    numbers = [row["number"] for row in result.passages]
    assert page.picks() == [*order, *numbers]  # the list, then the document
    assert result.record["verdict"]["sentence"] in page.words()
    assert error_rate(result.record["verdict"]) in page.words().replace("\u00a0", " ")
    assert "What this proves, and what it does not" in page.words()
    for place, number in enumerate(order, 1):
        steps = Page(render_card(result, number)).all("button")
        assert [("disabled" in one) for one in steps] == [place == 1, place == len(order)]
        said = Page(render_card(result, number)).words()
        assert f"Passage {place} of {len(order)}" in said


def test_what_is_downloaded_is_the_audit_s_own_files(result):
    assert list(result.files) == ["audit.html", "report.html", "audit.json", "audit.sarif"]
    assert json.loads(result.files["audit.json"])["files"] == result.record["files"]
    links = re.findall(
        r'download="([^"]+)" href="data:[a-z/]+;base64,([^"]+)"', render_result(result)
    )
    assert {name: base64.b64decode(data) for name, data in links} == dict(result.files)


def test_a_page_that_is_loaded_again_asks_by_a_word_that_nobody_guesses(result):
    shop = Shop(LoadedModels(device="cpu"))
    words = [shop.keep(result) for _ in range(MOST_KEPT + 1)]
    assert len(set(words)) == len(words)
    assert min(map(len, words)) >= 40
    assert list(shop.kept) == words[1:]  # the oldest is let go


def test_the_example_holds_passages_that_the_embedded_model_recalls(tmp_path):
    reading, lm = read_visit(example_text(), None), load_model(model_path())
    make_audit(local_audit(lm, reading.documents, QUICK), reading, tmp_path / "audit")
    found = pl.read_parquet(tmp_path / "audit" / "spans.parquet")
    assert found.filter(verdict="recall").height >= 2


def test_every_text_of_an_audit_is_escaped(result):
    evil = "<img src=x onerror=alert(1)>"
    row = {**result.passages[0]}
    row |= {name: evil for name, value in row.items() if isinstance(value, str)}
    row |= {"verdict": "recall", "document": evil}
    row |= {"suffix_pieces": [evil] * len(row["suffix_pieces"])}
    row |= {"continuation_pieces": [evil] * len(row["continuation_pieces"])}
    row["pieces"] = [{**row}, {**row, "verdict": "guess"}]
    record = json.loads(json.dumps(result.record))
    record["model"]["name"] = evil
    record["documents"][0]["document"] = evil
    record["skipped"] = [{"document": evil, "reason": evil}]
    record["cnn"] = {"reason": evil, "study": evil}
    made = Result(record, [row], {evil: evil * 40})
    for html in (render_result(made), render_card(made, 1), status(evil, is_error=True)):
        Page(html).assert_harmless()
        assert "<img src=x" not in html
        assert evil in Page(html).words().replace("\n", "")


@pytest.mark.parametrize("number", [0, -1, 10**9, None, "1", 1.0, True, [1], float("nan")])
def test_a_number_that_a_page_made_up_is_refused(result, number):
    with pytest.raises(UserError, match="no such passage"):
        render_card(result, number)


def test_the_maps_of_a_passage_are_those_of_its_window(models, result):
    maps = passage_maps(models, result, 1)
    tokens = result.row(1)["window_tokens"]
    wanted = next(capture_pooled(load_model(model_path()), [tokens], batch_size=1))
    np.testing.assert_allclose(maps.mean, wanted.mean[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(maps.max, wanted.max[0].numpy(), atol=1e-6)
    assert result.row(1)["suffix_pieces"][5] == maps.pieces[32 + 5]


def test_maps_of_other_weights_are_not_shown(models, result):
    record = json.loads(json.dumps(result.record))
    record["model"]["fingerprint"] = "0" * 64
    with pytest.raises(UserError, match="other weights"):
        passage_maps(models, Result(record, result.passages, result.texts), 1)
    record["model"]["name"] = "hub/model"
    with pytest.raises(UserError, match="no such folder"):
        passage_maps(models, Result(record, result.passages, result.texts), 1)


def hand_made() -> tuple[SequenceMaps, ClassDelta]:
    mean = np.zeros((2, 4, 4), dtype=np.float32)
    mean[0] = np.tril(np.full((4, 4), 0.1))
    mean[1, 3, 1] = 0.5
    scaled = np.zeros_like(mean)
    scaled[0, 2, 0], scaled[1, 3, 1] = 1.0, 0.4
    maps = SequenceMaps(mean, np.minimum(2 * mean, 1), ("a", "<b>", "c", "d"))
    return maps, ClassDelta("R", scaled)


def test_the_strongest_edges_are_those_of_attention_times_delta():
    edges = strongest_edges(*hand_made())
    assert [(one.layer, one.query, one.key) for one in edges] == [(1, 4, 2), (0, 3, 1)]
    assert edges[0].weight == pytest.approx(0.5)


def test_a_picture_is_its_map():
    from PIL import Image

    maps, delta = hand_made()
    page = Page(render_maps(maps, delta))
    page.assert_harmless()
    assert len(page.all("img")) == 2 * 3
    picture = Image.open(io.BytesIO(base64.b64decode(page.all("img")[0]["src"].partition(",")[2])))
    pixels = np.asarray(picture.convert("RGBA"))
    assert (pixels[..., :3] == MAP_INK).all()
    # Ink is the square root of the weight over the layer's maximum, in 8 bits.
    wanted = 255 * np.sqrt(np.tril(maps.mean[0]) / maps.mean[0].max())
    np.testing.assert_allclose(pixels[..., 3], wanted, atol=0.51)


def test_delta_of_another_shape_is_left_out_and_said():
    maps, delta = hand_made()
    other = ClassDelta("R", delta.scaled[:1])
    page = Page(render_maps(maps, other))
    assert len(page.all("img")) == 2 * 2
    assert "another shape" in page.words()


@pytest.fixture(scope="module")
def audit_folder(tmp_path_factory, passages):
    folder = tmp_path_factory.mktemp("audits")
    source = folder / "text.txt"
    source.write_text(passages[0], encoding="utf-8")
    reading = read_documents([str(source)])
    audit = local_audit(load_model(model_path()), reading.documents, QUICK, names=("embedded", ""))
    make_audit(audit, reading, folder / "audit")
    return SimpleNamespace(folder=folder / "audit", source=source)


def test_an_audit_folder_opens_with_its_document(audit_folder, passages):
    opened = open_audit(audit_folder.folder)
    assert opened.texts == {str(audit_folder.source): passages[0]}
    assert passages[0].strip()[:80] in Page(render_result(opened)).words()


def test_a_changed_document_is_not_shown_but_its_passages_are(audit_folder, passages):
    audit_folder.source.write_text("something else " * 50, encoding="utf-8")
    opened = open_audit(audit_folder.folder)
    page = Page(render_result(opened))
    audit_folder.source.write_text(passages[0], encoding="utf-8")
    assert "was changed since" in page.words()
    assert "something else" not in page.words()
    numbers = [row["number"] for row in opened.passages]
    assert sorted(page.picks()) == sorted(2 * numbers) != []


def test_a_text_outside_the_audit_folder_is_not_read(audit_folder, tmp_path):
    folder = tmp_path / "audit"
    shutil.copytree(audit_folder.folder, folder)
    documents = json.loads((folder / "audit.json").read_text())["documents"]
    (tmp_path / "outside.txt").write_text(audit_folder.source.read_text())
    documents[0]["text_file"] = "../outside.txt"
    rewrite_record(folder / "audit.json", documents=documents)
    assert list(open_audit(folder).texts.values()) == [None]


@pytest.fixture(scope="module")
def browsed(small_demo) -> BrowsedStudy:
    return BrowsedStudy(small_demo, str(model_path()))


def test_classes_and_confusion_are_those_of_the_study(browsed, small_demo):
    page = Page(browsed.render_taxonomy(PAPER))
    page.assert_harmless()
    labels = pl.read_parquet(small_demo / "labels.parquet")[PAPER]
    counts = dict(labels.value_counts().iter_rows())
    said = pl.read_parquet(small_demo / "predictions.parquet")
    said = said.filter(taxonomy=PAPER, source="model")
    for index, name in enumerate(("Non-Memo", "Guess", "Recall")):
        assert f"{counts[name]:,}" in page.words()
        right = said.filter((pl.col("true") == index) & (pl.col("predicted") == index)).height
        assert f"{right:,}" in page.words()


def test_sequences_by_class_are_all_there_page_by_page(browsed, small_demo):
    labels = pl.read_parquet(small_demo / "labels.parquet").filter(pl.col(PAPER) == "Guess")
    n_pages = -(-labels.height // PAGE_ROWS)
    seen = []
    for number in range(1, n_pages + 1):
        seen += Page(browsed.render_sequences(PAPER, "Guess", number)).picks()
    assert seen == labels["sequence_id"].to_list()
    last = seen[PAGE_ROWS * (n_pages - 1) :]
    assert Page(browsed.render_sequences(PAPER, "Guess", 10**6)).picks() == last


def test_sequences_of_all_classes_are_searched_by_their_words(browsed, small_demo):
    texts = Study(small_demo).sequences
    wanted = texts.filter(pl.col("text").str.to_lowercase().str.contains("(self", literal=True))
    found = browsed.sequences(PAPER, EVERY_CLASS, " (SELF ")
    assert found["sequence_id"].to_list() == wanted["sequence_id"].to_list() != []
    page = Page(browsed.render_sequences(PAPER, EVERY_CLASS, 1, HOSTILE))
    page.assert_harmless()
    assert "0 sequences with" in page.words()
    assert browsed.sequences(PAPER, EVERY_CLASS).height == texts.height


@pytest.mark.whole
def test_grafts_are_shown_of_a_taxonomy_and_of_a_sequence(study_at):
    study = ms.Study(study_at("label"))
    assert "No grafts were made" in Page(BrowsedStudy(study.folder).render_taxonomy(PAPER)).words()
    study.graft(parts=["layers.0.mlp", "layers.1.mlp"], draws=2, shares=[1.0], n_sequences=8)
    browsed, rows = BrowsedStudy(study.folder), study.read("graft_sequences.parquet")
    rows = rows.filter(pl.col("part") != "", control="twin", share=1.0)
    assert set(rows["survives"]) >= {False}
    words = Page(browsed.render_taxonomy(next(iter(browsed.taxonomies)))).words()
    assert "the MLP of layer 1" in words
    for number in rows["sequence_id"].unique():
        broken = rows.filter(~pl.col("survives"), sequence_id=number)["part"].to_list()
        words = Page(browsed.render_sequence(number)).words()
        assert "with 2 parts of the reference" in words
        assert [
            f"layers.{layer}.mlp" for layer in (0, 1) if f"the MLP of layer {layer}" in words
        ] == broken


@pytest.mark.whole
def test_a_study_without_cnns_shows_what_there_is_and_says_why(
    untrained, succeed, refused, tmp_path
):
    browsed = BrowsedStudy(untrained)
    name = next(iter(browsed.taxonomies))
    words = Page(browsed.render_taxonomy(name)).words()
    assert "This study has no CNNs." in words
    (why,) = (one.impossible for one in samples_of(browsed.study).values())
    assert why in words
    number = browsed.sequences(name, EVERY_CLASS)["sequence_id"][0]
    shop = Shop(LoadedModels(device="cpu"), browsed)
    text, maps = shop.sequence(number, name, EVERY_CLASS)
    assert f"Sequence {number}" in text
    assert "captured no attention" in maps
    study = ms.Study(untrained)
    for ask in (
        study.excess,
        study.decisiveness,
        study.conclusions,
        lambda: study.benchmark,
        lambda: study.read("predictions.parquet"),
    ):
        with pytest.raises(UserError, match=r"no CNN can be trained .*Guess 0.*study\.report"):
            ask()
    assert "\nMade without figures of CNNs: report.\n" in succeed("status", untrained).out
    said = succeed("report", shutil.copytree(untrained, tmp_path / "copy"))
    assert "Guess has 0" in said.err
    copy = tmp_path / "copy"
    wants = "capture", "train", "benchmark", "localize", "knockout", "search", "knockout --dry-run"
    for verb in wants:
        verb, *flags = verb.split()  # each needs what cannot be made
        said_no = refused(verb, copy, *flags)
        assert "Guess has 0" in said_no
        assert f"So '{verb}' cannot be made." in said_no
    lines = [one for one in said.err.splitlines() if not one.startswith("    mnemoscope ")]
    assert max(map(len, lines)) <= 100 + len(str(tmp_path))


def test_a_sequence_is_shown_with_the_maps_that_the_store_holds(browsed, small_demo):
    rows = pl.read_parquet(small_demo / "samples.parquet").filter(taxonomy=PAPER)
    number = rows.filter(pl.col("class") == "Recall")["sequence_id"][0]
    table = Study(small_demo).sequences
    row = table.filter(sequence_id=number).row(0, named=True)
    page = Page(browsed.render_sequence(number))
    page.assert_harmless()
    assert row["text"][:40] in page.words()
    maps = browsed.maps(number)
    wanted = next(capture_pooled(load_model(model_path()), [row["tokens"]], batch_size=1))
    np.testing.assert_allclose(maps.mean, wanted.mean[0].numpy(), atol=2e-3)  # float16


def test_what_a_page_made_up_is_refused(browsed):
    for ask, *arguments in (
        (browsed.render_sequences, "../x", EVERY_CLASS, 1),
        (browsed.render_taxonomy, "../x"),
        (browsed.render_sequences, PAPER, "Recite", 1),
        (browsed.render_sequence, -1),
        (browsed.render_sequence, "1"),
        (browsed.maps, True),
    ):
        with pytest.raises(UserError, match="no such"):
            ask(*arguments)


def test_delta_is_that_of_the_verdict(browsed, result):
    delta, note = delta_for(browsed, result, 1)
    assert note == ""
    assert delta.name.lower() == result.row(1)["verdict"]
    stored = browsed.taxonomy(PAPER).deltas[0].delta
    index = ["non-memo", "guess", "recall"].index(delta.name.lower())
    largest = stored.max(axis=(0, 2, 3))
    np.testing.assert_allclose(delta.scaled, stored[index] / largest[:, None, None], atol=1e-6)
    assert delta_for(None, result, 1)[0] is None


@pytest.mark.parametrize(
    ("pasted", "prefix", "said"),
    [
        ("Too short.", 32, "one window of 64 tokens"),
        ("Too short.", 16, "one window of 48 tokens"),
        ("Too short.", 7, "one window of 64 tokens"),  # no beginning that the page offers
    ],
)
def test_what_is_refused_is_said_in_words_of_the_page(models, pasted, prefix, said):
    shop = Shop(models)
    *_, (last, nothing) = shop.audit(pasted, None, "embedded", "", "session", prefix)
    assert nothing is None
    words = " ".join(Page(last).words().split())
    assert said in words
    assert words.endswith("Bring a longer text, or show a shorter beginning.")


def test_no_flag_is_named_to_who_has_none(tmp_path, models):
    for error in FLAGS:
        for said in (error, error.replace("--", "")):  # as Python says it
            assert re.search("--|Give|prefix", in_browser(UserError(said))) is None
    (tmp_path / "t.jsonl").write_text('{"a": "b"}\n')
    with pytest.raises(UserError, match="column text=NAME") as refused:
        read_visit(None, tmp_path / "t.jsonl")
    assert in_browser(refused.value).endswith("Call it so; it has a. Or paste its lines as text.")
    (tmp_path / "t.txt").write_bytes(b"caf\xe9 \xff" * 50)
    with pytest.raises(UserError, match="its encoding") as refused:
        read_visit(None, tmp_path / "t.txt")
    assert in_browser(refused.value).endswith("Save it as UTF-8.")


FLAGS = (
    "--study s: its CNNs read 32 + 32 tokens; this audit shows 16 and asks for 32. Give --prefix "
    "32 --suffix 32.",
    "--study s: a study of another model (a, b, weights c; audited is d). Give one of this model, "
    "or --study auto.",
)


def test_models_are_folders_that_are_there(models):
    assert models.named("embedded") == "embedded"
    assert models.named("folder", f" {model_path()} ") == str(model_path())
    wrong = [("folder", "gpt2"), ("folder", ""), ("study", None), ("x", None), (None, None)]
    for choice, folder in wrong:
        with pytest.raises(UserError):
            models.named(choice, folder)
