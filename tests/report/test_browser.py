"""The report in a real browser: no network, no overflow, interaction, and without JavaScript."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mnemoscope.report.content import ReportContent
from mnemoscope.report.page import write_report

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
)


class Browser:
    """One page of a headless Chromium, spoken to through its debugging pipe."""

    def __init__(self, folder: Path) -> None:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4.
        command = f'exec "{CHROMIUM}" {FLAGS} --user-data-dir="{folder}" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", command],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._n, self.events = b"", 0, []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what happens meanwhile goes to `events`."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._n:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has gone"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def open(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        is_dark: bool = False,
        is_scripted: bool = True,
    ) -> None:
        """Load a file at a window size and wait until it has loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = [
            {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Emulation.setScriptExecutionDisabled", value=not is_scripted)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        """Give the value of an expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, path: Path) -> None:
        """Save what the window shows."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser that was started here."""
        self._session = None
        self.call("Browser.close")
        self._process.wait(20)
        os.close(self._read)
        os.close(self._write)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, content: ReportContent) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, content)
    return path


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_body_never_scrolls_sideways(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width, height=800)
    widest = browser.evaluate("document.documentElement.scrollWidth")
    assert widest <= width


def test_nothing_is_asked_of_the_network_and_nothing_fails(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, height=800)
    browser.evaluate(
        "document.querySelectorAll('details').forEach((part) => { part.open = true; })"
    )
    asked = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert asked
    assert all(url.startswith(("file:", "data:")) for url in asked)
    trouble = [
        event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"
    ]
    assert not trouble


def test_a_chosen_layer_shows_that_layers_maps(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, height=800)
    shown = browser.evaluate(
        """(() => {
          const delta = document.querySelector("[data-delta]");
          const range = delta.querySelector(".layers input");
          range.value = 2;
          range.dispatchEvent(new Event("input"));
          const large = delta.querySelectorAll(".large img");
          const row = delta.querySelectorAll(".strip tbody tr");
          return [...large].slice(0, 4).map((image, i) =>
            image.src === row[i].querySelectorAll("img")[1].src);
        })()"""
    )
    assert shown == [True] * 4


def test_the_keyboard_reads_a_map(browser: Browser, page: Path, content: ReportContent) -> None:
    browser.open(page, width=1280, height=800)
    browser.evaluate("document.querySelector('.frame').focus()")
    for key in ("ArrowUp", "ArrowRight"):
        browser.press(key)
    where = browser.evaluate("document.querySelector('[data-where]').textContent")
    assert where == "Token 63 (suffix) looks at token 2 (prefix)."
    browser.evaluate("new Promise((done) => setTimeout(done, 200))")
    lines = browser.evaluate(
        "[...document.querySelectorAll('.readout b')].slice(0, 4)"
        ".map((line) => parseFloat(line.textContent))"
    )
    delta = content.taxonomies[0].deltas[0].delta
    layer = int(browser.evaluate("document.querySelector('.layers input').value")) - 1
    expected = 100 * delta[:, layer, 62, 1] / delta[:, layer].max()
    # The picture holds the square root in 8 bits: half a step of 1/255, twice the root, rounded.
    assert lines == pytest.approx(expected.tolist(), abs=0.45)


def test_the_page_is_whole_without_javascript(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, height=800, is_scripted=False)
    document = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]

    def is_shown(selector: str) -> bool:
        node = browser.call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        try:
            browser.call("DOM.getBoxModel", nodeId=node)
        except AssertionError:
            return False
        return True

    assert is_shown(".large img")
    assert is_shown('[data-attribution="guided"] .strip img')
    assert is_shown(".chart .mark")
    assert not is_shown(".controls")


def test_dark_pages_have_a_dark_ground(browser: Browser, page: Path) -> None:
    grounds = []
    for is_dark in (False, True):
        browser.open(page, width=390, height=800, is_dark=is_dark)
        colour = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(int(part) for part in colour[4:-1].split(",")))
    assert grounds[0] > 3 * 230
    assert grounds[1] < 3 * 40
