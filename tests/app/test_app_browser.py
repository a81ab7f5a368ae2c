"""The app in a real browser: the whole visit, hostile documents, cancel, two sessions at once."""

import logging
import threading
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import pytest

from chromium import NEEDS_CHROMIUM, Visit, hard_to_use
from mnemoscope.app import page as page_module
from mnemoscope.app.serve import find_socket, make_app
from mnemoscope.app.views import BrowsedStudy
from mnemoscope.audits.questions import audit_settings
from mnemoscope.embedded import model_path
from study_files import wait_until
from tests.app.conftest import HOSTILE

pytestmark = [*NEEDS_CHROMIUM, pytest.mark.whole]
PATIENCE = 240_000  # milliseconds; a loaded machine is slow, a broken page stays broken
MARK = ".result .document [data-pick]"
SIDEWAYS = """() => [...document.querySelectorAll('.scroll')]
  .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.innerText)"""
"""What of the tables scrolls sideways."""


@pytest.fixture(scope="module")
def app(small_demo) -> Iterator[SimpleNamespace]:
    import uvicorn

    browsed = BrowsedStudy(small_demo, str(model_path()))
    made = find_socket(0)
    served = make_app(browsed, None, "cpu")
    server = uvicorn.Server(uvicorn.Config(served, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [made]}, daemon=True)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{made.getsockname()[1]}/", shop=served.shop)
    server.should_exit = server.force_exit = True
    thread.join(20)


class Auditor(Visit):
    def audit(self, text: str) -> None:
        self.page.fill("#document textarea", text)
        self.page.click("#start")

    def wait_for(self, words: str) -> None:
        self.page.wait_for_function(
            "words => document.querySelector('#status').innerText.includes(words)", arg=words
        )


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Audits find what is recalled, ask no more of it, and see soon that they are cancelled."""
    asked = {"edits": 0, "near_length": 0, "batch_size": 32}
    monkeypatch.setattr(page_module, "audit_settings", partial(audit_settings, **asked))


@pytest.fixture
def visit(browser, app) -> Iterator:
    made = []

    def start(**options) -> Auditor:
        made.append(Auditor(browser, app.url, patience=PATIENCE, **options))
        made[-1].page.wait_for_selector("#start")
        return made[-1]

    yield start
    for one in made:
        one.context.close()


def draws_maps(page, act):
    """Do what chooses a passage, and wait for its maps: those drawn before do not count."""
    page.evaluate("document.querySelector('.pictures .maps')?.classList.add('before')")
    act()
    page.wait_for_selector(".pictures .maps:not(.before) .stack img.delta")


def test_the_whole_visit(app, visit, document):
    one = visit(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = one.page
    one.audit(document)
    page.wait_for_selector(MARK)
    assert page.locator(f"{MARK}:has(mark.recall)").count() >= 2
    assert "recalled" in page.inner_text(".result")

    draws_maps(page, lambda: page.click(".result [data-step='1']"))  # none is chosen: the first
    assert "Passage 1 of" in page.inner_text(".evidence")

    # By keyboard alone: Tab reaches a passage, Enter chooses it.
    page.focus(".result .document summary")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") in ("PRE", "SPAN")
    if page.evaluate("document.activeElement.tagName") == "PRE":  # it scrolls, so it has focus
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.pick") == "1"
    draws_maps(page, lambda: page.keyboard.press("Enter"))
    assert "Chance of one try" in page.inner_text(".evidence")
    assert page.locator(".pictures .stack").count() == 4
    chosen = ".result [aria-current]"
    numbers = {one.get_attribute("data-pick") for one in page.locator(chosen).all()}
    assert (page.locator(chosen).count(), numbers) == (2, {"1"})  # in the list and the document
    n = page.locator(".passages button[data-pick]").count()
    draws_maps(page, page.locator(".passages button[data-pick]").first.click)
    for step, place in ((1, 2), (-1, 1)):
        draws_maps(page, lambda step=step: page.click(f".evidence [data-step='{step}']"))
        assert f"Passage {place} of {n}" in page.inner_text(".evidence")
    assert page.locator(".evidence [data-step='-1']").is_disabled()
    delta = page.locator(".pictures .stack img.delta").first
    assert delta.is_visible()
    page.uncheck(".pictures .with-delta")
    assert not delta.is_visible()

    page.locator(".pictures .stack").first.hover(position={"x": 0, "y": 60})
    assert "looks at 1 ‘" in page.inner_text(".pictures .pointed")
    page.locator(".pictures .stack").first.hover(position={"x": 90, "y": 5})
    assert "cannot look ahead" in page.inner_text(".pictures .pointed")
    assert hard_to_use(page) == []
    with page.expect_download() as taken:
        page.click("text=audit.sarif")
    assert taken.value.suggested_filename == "audit.sarif"
    page.reload()
    page.wait_for_selector(MARK)
    assert "recalled" in page.inner_text(".result")

    page.get_by_role("tab", name="The study").click()
    page.wait_for_selector("#sequences button[data-pick]")
    assert "Confusion matrix" in page.inner_text("#figures")
    page.get_by_label("Guess", exact=True).check()
    page.wait_for_function(
        "() => document.querySelector('#sequences').innerText.includes('sequences of Guess')"
    )
    page.get_by_label("All", exact=True).check()
    page.fill("#search input, #search textarea", "the")
    page.wait_for_function(
        "() => document.querySelector('#sequences').innerText.includes('sequences with “the”')"
    )
    page.locator("#sequences button[data-pick]").first.click()
    page.wait_for_selector("#sequence-maps .stack, #sequence-maps .status")
    assert "Sequence" in page.inner_text("#sequence")
    assert hard_to_use(page) == []
    assert one.trouble == []
    assert [url for url in one.asked if not url.startswith((app.url, "data:", "blob:"))] == []


def test_a_phone_at_night_and_a_hostile_document(app, visit, document):
    one = visit(
        viewport={"width": 390, "height": 844}, color_scheme="dark", is_mobile=True, has_touch=True
    )
    page = one.page
    one.audit(HOSTILE + document + HOSTILE)
    page.wait_for_selector(MARK)
    assert page.evaluate("window.hurt") is None
    assert page.locator(".result img, .result script").count() == 0
    text = page.inner_text(".result")
    assert "<script>window.hurt = 1</script>" in text
    assert "U+202E" in text
    page.locator(MARK).first.tap()
    page.wait_for_selector(".pictures .stack")
    assert page.evaluate("window.hurt") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.locator("table.tokens").first.is_visible()
    assert page.evaluate(SIDEWAYS) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(int(part) for part in ground[4:-1].split(",")[:3]) < 3 * 60

    # What cannot be audited gets a sentence.
    upload = page.locator("#upload input[type=file]")
    upload.set_input_files(
        {"name": "bad.txt", "mimeType": "text/plain", "buffer": b"caf\xe9 \xff" * 50}
    )
    page.wait_for_selector("#upload :text('bad')")
    page.click("#start")
    one.wait_for("bad.txt: unknown encoding")
    assert page.locator("#status [role=alert]").count() == 1
    page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
    page.fill("#document textarea", "")
    page.evaluate(
        """() => {
          const box = document.querySelector('#document textarea');
          box.value = 'x'.repeat(4100000);
          box.dispatchEvent(new Event('input', {bubbles: true}));
        }"""
    )
    page.click("#start")
    one.wait_for("4.1 MB, more than the 4 MB")

    # The example runs, and nothing is left of the error.
    page.click("#example")
    one.wait_for("Done.")
    assert page.locator("#status [role=alert]").count() == 0
    assert page.locator(f"{MARK}:has(mark.recall)").count() == 3

    # Nor do the tables of a study scroll sideways.
    page.get_by_role("tab", name="The study").click()
    page.wait_for_selector("#figures table.confusion")
    assert page.locator("#figures .scroll").count() == 3
    assert page.evaluate(SIDEWAYS) == []
    # Without its header row each figure says which one it is.
    said = "el => getComputedStyle(el, '::before').content"
    cell = page.locator("#figures table.confusion td").first
    assert cell.evaluate(said) == '"Non-Memo"'
    assert one.trouble == []


def test_two_sessions_and_cancel(app, visit, passages):
    # 55,000 characters, one line, in an order that nobody can guess: no finds to look into.
    long = " ".join(f"word{7919 * number % 6000}" for number in range(6000))
    first, second = visit(), visit()
    first.audit(long)
    first.wait_for("windows")
    second.audit(passages[0])
    second.wait_for("Waiting: 1 before yours.")
    first.page.click("#cancel")
    first.wait_for("Cancelled.")
    second.page.wait_for_selector(MARK)
    assert first.page.locator(MARK).count() == 0

    # Who leaves without a word keeps nobody waiting either.
    first.audit(long)
    first.wait_for("windows")
    first.context.close()
    wait_until(lambda: app.shop.desk.is_free, "the desk")
    assert second.page.locator(MARK).count() == 1
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # the browser's own hanging up
