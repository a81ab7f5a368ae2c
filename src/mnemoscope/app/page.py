"""The page of the app: what a visitor may bring, the work on it one job at a time, the layout."""

import io
import logging
import re
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import polars as pl

from mnemoscope.app import views
from mnemoscope.audits.documents import Reading, read_documents
from mnemoscope.audits.questions import audit_settings, settings_class
from mnemoscope.audits.rule import UNDECIDED
from mnemoscope.audits.settings import AuditSettings, checked
from mnemoscope.embedded import place_of, reference_path, sequences_path
from mnemoscope.errors import MnemoscopeError, UserError
from mnemoscope.progress import Progress, follow_progress, time_left
from mnemoscope.report import style
from mnemoscope.study.settings import EMBEDDED
from mnemoscope.taxonomy import PAPER

if TYPE_CHECKING:  # what asks a model is imported by who first does: the page is there sooner
    from mnemoscope.audits.ground import CnnGround
    from mnemoscope.lm.model import LanguageModel

MOST_BYTES = 4_000_000
"""Most bytes of an uploaded file, and of a pasted text in UTF-8."""
MOST_CHARACTERS = 300_000
"""Most characters of all its texts together: a PDF or a DOCX holds more than its size tells."""
BEGINNINGS = {"usual: 32 tokens": 32, "shorter: 16": 16, "longer: 64": 64}
"""Tokens that the model is shown of a passage, by what the page calls them."""
TYPES = (
    *(".txt", ".md", ".rst", ".csv", ".json", ".html", ".htm", ".pdf", ".docx", ".jsonl"),
    *(".parquet", ".py", ".c", ".h", ".cpp", ".java", ".js", ".ts", ".go", ".rs", ".sh", ".tex"),
)
"""Endings of files that are taken."""
OF_STUDY = "study"
FOLDER = "folder"
MOST_WAITING = 8
MOST_KEPT = 8
"""Results of visitors that are kept, in memory, for when their page is loaded again."""

_OFTEN = 16  # copies in training
_BETWEEN = (
    "Ottilie painted seven onions under the hill before supper, and our baker envied winter.",
    "The twelfth heron returned two ladders at low tide; a quiet clerk counted the moss.",
    "Without a word the ferry crossed the copper bridge, and the lamp borrowed a velvet map.",
)
_POLL_SECONDS = 0.2
_MOST_LOADED = 3
_KEEP_UPLOADS = (600, 3600)  # seconds: look every, remove what is older
_SHIPPED = (
    "The small model has 4 million parameters and learned texts of Python's library and templates: "
    "it is there to try the audit. For your own model give its folder."
)
_FAILED = "that failed; the terminal in which the app runs says why."
_WAITING = "Its maps come once the running audit has ended."
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_AT_ONCE = _QUIET | {"queue": False}
"""What is answered at once stays out of the queue: its end would close the stream of an audit
that begins at that moment."""
_log = logging.getLogger(__name__)
_html = partial(gr.HTML, apply_default_css=False)

PICK_SCRIPT = """
const pick = (event) => {
  const one = event.target.closest('[data-pick]');
  if (!one || (event.type === 'keydown' && event.key !== 'Enter' && event.key !== ' ')) return;
  event.preventDefault();
  element.querySelectorAll('[aria-current]').forEach((old) => old.removeAttribute('aria-current'));
  element.querySelectorAll(`[data-pick="${one.dataset.pick}"]`).forEach((same) => {
    same.setAttribute('aria-current', 'true');
    if (same !== one) same.scrollIntoView({block: 'nearest'});
  });
  trigger('select', {number: Number(one.dataset.pick)});
};
element.addEventListener('click', pick);
element.addEventListener('keydown', pick);
"""
"""Tells the server which element with `data-pick` was clicked, or chosen with Enter or space.

All elements of the same number are marked.
"""

POINT_SCRIPT = """
element.addEventListener('pointermove', (event) => {
  const stack = event.target.closest('.stack'), maps = event.target.closest('.maps');
  if (!stack || !maps || !maps.dataset.tokens) return;
  const tokens = JSON.parse(maps.dataset.tokens), box = stack.getBoundingClientRect();
  const at = (share) => Math.min(tokens.length - 1, Math.max(0, Math.floor(share * tokens.length)));
  const query = at((event.clientY - box.top) / box.height);
  const key = at((event.clientX - box.left) / box.width);
  maps.querySelector('.pointed').textContent = key > query
    ? `${query + 1} ‘${tokens[query]}’ cannot look ahead`
    : `${query + 1} ‘${tokens[query]}’ looks at ${key + 1} ‘${tokens[key]}’`;
});
"""
"""Says which tokens lie under the pointer on a map."""

STEP_SCRIPT = """
element.addEventListener('click', (event) => {
  const step = event.target.closest('[data-step]');
  if (!step) return;
  const list = element.closest('.row').querySelectorAll('.passages [data-pick]');
  const at = [...list].findIndex((one) => one.hasAttribute('aria-current'));
  list[at + Number(step.dataset.step)]?.click();
});
"""
"""Goes to the passage before or after the chosen one in the list; to the first where none is."""

REVEAL_SCRIPT = """
watch('value', () => {
  if (window.innerWidth < 700 && props.value) element.scrollIntoView({block: 'start'});
});
"""
"""Where parts stand below each other, moves to the one that has just been filled."""


def head() -> str:
    """What goes into the page's head: all styles."""
    light, dark, fonts = map(style.css_variables, (style.LIGHT, style.DARK, style.FONTS))
    theirs = style.asset("page.css") + style.asset("audit.css", "mnemoscope.audits")
    ours = style.asset("app.css", "mnemoscope.app")
    # Rules about the whole page match nothing inside; what is left cannot reach the rest.
    return (
        f"<style>.mnemoscope{{{fonts}{light}{theirs}}}\n.dark .mnemoscope{{{dark}}}\n{ours}</style>"
    )


def theme() -> Any:
    """A plain theme in the system's own fonts."""
    made = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="gray",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return made.set(
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def read_visit(pasted: str | None, upload: str | Path | None) -> Reading:
    """Read what was uploaded, else what was pasted; documents are named as the visitor knows them.

    Raises UserError: neither, too much, an ending that is not taken, or nothing readable in it.
    """
    if upload is not None:
        path = Path(upload)
        if path.suffix.lower() not in TYPES:
            raise UserError(
                f"{path.name}: files that end in '{path.suffix}' are not accepted. Accepted are "
                f"{', '.join(TYPES)}."
            )
        _check_bytes(path.stat().st_size, path.name)
        source, name = str(path), path.name
        try:
            reading = read_documents([source])
        except UserError as error:
            raise UserError(str(error).replace(source, name)) from None
    else:
        if not (pasted or "").strip():
            raise UserError("Nothing to audit: paste a text, or choose a file.")
        data = str(pasted).encode("utf-8", "replace")
        _check_bytes(len(data), "the text")
        source, name = "-", "pasted text"
        reading = read_documents([source], stdin=io.BytesIO(data))
    n = sum(len(document.text) for document in reading.documents)
    if n > MOST_CHARACTERS:
        raise UserError(
            f"{n:,} characters, more than the {MOST_CHARACTERS:,} allowed here. Bring it in parts; "
            "the command “mnemoscope audit” has no limit."
        )
    return replace(
        reading,
        documents=[
            replace(one, name=one.name.replace(source, name, 1)) for one in reading.documents
        ],
        skipped=[replace(one, name=one.name.replace(source, name, 1)) for one in reading.skipped],
    )


def in_browser(error: Exception) -> str:
    """What went wrong, in words of this page: it has no flags."""
    text = str(error)
    for said, instead in _IN_BROWSER:
        text = re.sub(said, instead, text)
    return text


_IN_BROWSER = (
    (r"Give longer ones, or a smaller .*", "Bring a longer text, or show a shorter beginning."),
    (r"Convert it to UTF-8, or name its encoding.*", "Save it as UTF-8."),
    (r"Name the column of the texts with .*; it has", "Call it so; it has"),
    (r"Or read its lines as they stand, .*", "Or paste its lines as text."),
    (
        r"(--)?study (.*?): its CNNs read (.*?); this audit.*",
        r"the CNNs of \2 read \3, and another beginning was asked for",
    ),
    (r"(--)?study (.*?): a study", r"\2 is a study"),
    (r" Give one of this model, or .*", ""),
)
"""What the audit says of flags, and what this page says instead."""


def example_text() -> str:
    """Three passages that the embedded model has learned, between sentences that it has not."""
    rows = pl.read_parquet(sequences_path(), glob=False)
    is_prose = (pl.col("genre") == "prose") & (pl.col("form") == "plain")
    rows = rows.filter(pl.col("duplicates") > _OFTEN, is_prose)
    told = zip(_BETWEEN, rows["text"].head(len(_BETWEEN)), strict=True)
    return "\n\n".join(piece for both in told for piece in both)


def _check_bytes(n: int, name: str) -> None:
    if n > MOST_BYTES:
        raise UserError(
            f"{name}: {n / 1e6:.1f} MB, more than the {MOST_BYTES / 1e6:.0f} MB allowed "
            "here. Bring it in parts; the command “mnemoscope audit” has no limit."
        )


class Cancelled(Exception):  # noqa: N818 - no error: the visitor wanted it
    """The visitor has cancelled, or gone."""


@dataclass(frozen=True)
class QueuePlace:
    """How many jobs come before one, or how many units of what it does are done."""

    n_before: int = 0
    label: str = ""
    done: int = 0
    total: int | None = None
    unit: str = ""
    begun: float = 0.0  # by `time.monotonic`

    @property
    def left(self) -> str:
        """What remains, in words."""
        return time_left(self.done, self.total, time.monotonic() - self.begun)


class DeskJob:
    """Work that waits for its turn and reports through `mnemoscope.progress`."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._cancelled = threading.Event()
        self.ended: threading.Event = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None
        self.standing: QueuePlace = QueuePlace()

    def cancel(self) -> None:
        """Stop it at the next step, or where it waits."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """True once somebody has cancelled."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Go on only where nobody has cancelled."""
        if self.is_cancelled:
            raise Cancelled

    def result(self) -> Any:
        """What came of it; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def run(self) -> None:
        """Do the work here and keep what comes of it."""
        try:
            with follow_progress(self._open):
                self.check()
                self._result = self._work()
                self.check()
        except BaseException as error:  # it is raised again where the result is asked for
            self._error = error

    def _open(
        self, label: str, total: int | None, unit: str
    ) -> tuple[Progress, Callable[[], None]]:
        self.check()
        self.standing = QueuePlace(0, label, 0, total, unit, time.monotonic())
        return self, lambda: None

    def advance(self, n: int = 1) -> None:
        """Count units of work, or stop."""
        self.check()
        self.standing = replace(self.standing, done=self.standing.done + n)


class Desk:
    """Runs one job at a time in a thread of its own; the others wait in the order of coming.

    A job needs no reader: it ends, and the next begins, whatever became of who asked for it.
    """

    def __init__(self) -> None:
        self._jobs: deque[DeskJob] = deque()  # the first one runs
        self._lock = threading.Lock()

    def follow(self, job: DeskJob) -> Iterator[QueuePlace]:
        """Wait, have the job run, and say every moment how it stands.

        Raises UserError: too many wait already. Cancelled: it was cancelled while it waited.
        """
        self._submit(job)
        try:
            while not job.ended.is_set():
                with self._lock:  # it may have ended just now
                    n_before = self._jobs.index(job) if job in self._jobs else 0
                if n_before:
                    job.check()
                yield QueuePlace(n_before=n_before) if n_before else job.standing
                job.ended.wait(_POLL_SECONDS)
        finally:
            job.cancel()  # of no account once it has ended

    def ask(self, work: Callable[[], Any]) -> Any:
        """Wait for the desk, do work of a moment, and give what comes of it."""
        job = DeskJob(work)
        self._submit(job)
        job.ended.wait()
        return job.result()

    @property
    def is_free(self) -> bool:
        """True while nothing runs and nobody waits."""
        return not self._jobs

    def _submit(self, job: DeskJob) -> None:
        with self._lock:
            if len(self._jobs) > MOST_WAITING:
                raise UserError("too many audits wait already. Try again in a minute.")
            self._jobs.append(job)
            if len(self._jobs) == 1:
                threading.Thread(target=self._work_off, daemon=True).start()

    def _work_off(self) -> None:
        """Run jobs until none is left."""
        while True:
            self._jobs[0].run()
            with self._lock:
                self._jobs.popleft().ended.set()
                if not self._jobs:
                    return


def choices(study_model: str | None) -> list[tuple[str, str]]:
    """What the page offers, as (shown, value); the study's model first where there is one."""
    offered = [("The small model that ships", EMBEDDED), ("A folder on this machine", FOLDER)]
    if study_model is None:
        return offered
    if study_model == EMBEDDED:
        return [("The small model that ships, as in the study", EMBEDDED), offered[-1]]
    return [(f"The study's: {study_model}", OF_STUDY), *offered]


class LoadedModels:
    """Loaded models, the last few kept; used by one job at a time.

    `study_model` is the name of the study's model.
    """

    def __init__(self, study_model: str | None = None, device: str = "auto") -> None:
        self._study_model = study_model
        self._device = device
        self._load = lru_cache(_MOST_LOADED)(self._read)

    def _read(self, name: str, *, dtype: str) -> "LanguageModel":
        from mnemoscope.lm.load import load_model

        return load_model(name, dtype=dtype, device=self._device)

    def named(self, choice: str, folder: str | None = None) -> str:
        """Name of a chosen model: `embedded` or a folder; UserError: no such choice or folder."""
        if choice == OF_STUDY and self._study_model is not None:
            return self.checked(self._study_model)
        if choice == FOLDER:
            if not (folder or "").strip():
                raise UserError("Type the folder of the model.")
            return self.checked(str(folder).strip())
        if choice == EMBEDDED:
            return EMBEDDED
        raise UserError("Choose a model.")

    def checked(self, name: str) -> str:
        """The name again; UserError unless it is `embedded` or a path on this machine."""
        if name == EMBEDDED:
            return name
        if "\0" not in name and not Path(name).expanduser().exists():
            raise UserError(f"{name}: no such folder on this machine; nothing is fetched here.")
        return str(Path(name).expanduser())

    def load(self, name: str, dtype: str = "float32") -> "LanguageModel":
        """The model of a name from `named`."""
        return self._load(place_of(name), dtype=dtype)

    def reference(self, name: str) -> "LanguageModel | None":
        """The reference: of the embedded model its own, else None."""
        return self._load(str(reference_path()), dtype="float32") if name == EMBEDDED else None


def audit_work(
    models: LoadedModels,
    browsed: views.BrowsedStudy | None,
    reading: Reading,
    name: str,
    settings: AuditSettings,
) -> Callable[[], views.Result]:
    """The audit of a visitor's document, with the CNNs of a study of this model; nothing stays."""

    def work() -> views.Result:
        from mnemoscope.audits.local import local_audit
        from mnemoscope.audits.records import read_audit
        from mnemoscope.audits.run import make_audit

        lm, reference = models.load(name), models.reference(name)
        cnn = None if browsed is None else _ground(browsed, lm, settings)
        audit = local_audit(
            lm,
            reading.documents,
            settings,
            reference=reference,
            cnn=cnn,
            names=(name, EMBEDDED),
        )
        with tempfile.TemporaryDirectory(prefix="mnemoscope-app-") as folder:
            out = Path(folder)
            record = make_audit(audit, reading, out)
            frame = read_audit(out)[1]
            texts = {one.name: one.text for one in reading.documents}
            return views.Result.of(record, frame, texts, out)

    return work


def _ground(
    browsed: views.BrowsedStudy, lm: "LanguageModel", settings: AuditSettings
) -> "CnnGround":
    """The study's CNNs, or why they give no probability; read once a model and beginning."""
    from mnemoscope.audits.ground import CnnGround, check_study, read_ground

    known, key = browsed.grounds, (lm.fingerprint, settings.prefix)
    if key not in known:
        try:
            known[key] = read_ground(check_study(browsed.study.folder, lm, settings))
        except UserError as error:
            place, why = str(browsed.study.folder), in_browser(error).rstrip(".")
            facts: dict[str, Any] = {"study": place, "taxonomy": None, "sequences": {}}
            known[key] = CnnGround(facts | {"reason": why})
    return known[key]


def passage_maps(models: LoadedModels, result: views.Result, number: Any) -> views.SequenceMaps:
    """Capture the attention with which the audited model reads a passage's window.

    Raises UserError: no such passage, or the audited model is not on this machine any more.
    """
    from mnemoscope.lm.attention import capture_pooled
    from mnemoscope.lm.model import in_chat
    from mnemoscope.report.content import decode_pieces

    row, record = result.row(number), result.record
    if record.get("api"):
        raise UserError("the model was asked behind an API, which does not show its attention.")
    name = str(record["model"]["name"])
    lm = models.load(models.checked(name), str(record["model"]["dtype"]))
    if lm.fingerprint != record["model"]["fingerprint"]:
        raise UserError(f"{name}: other weights than those that were audited.")
    settings = checked(settings_class(), **record["settings"])
    if settings.chat_template:
        lm = in_chat(lm, settings.instruction)
    tokens = row["window_tokens"]
    maps = next(capture_pooled(lm, np.array([tokens], dtype=np.int64), batch_size=1))
    pieces = decode_pieces(lm.tokenizer, tokens)
    return views.SequenceMaps(maps.mean[0].numpy(), maps.max[0].numpy(), pieces)


def delta_for(
    browsed: views.BrowsedStudy | None, result: views.Result, number: Any
) -> tuple[views.ClassDelta | None, str]:
    """Δ of the study for a passage's verdict, or why there is none."""
    if browsed is None:
        return None, "Start the app with a study of this model to see Δ over them."
    own = browsed.model
    if own is None or own["fingerprint"] != result.record["model"]["fingerprint"]:
        return None, "The study is of another model, so its Δ is not shown."
    if PAPER not in browsed.taxonomies:
        return None, f"The study has no taxonomy '{PAPER}', so there is no Δ to show."
    wanted = str(result.row(number)["verdict"])
    if wanted == UNDECIDED:
        return None, "Whether it is recalled cannot be told, so no class has a Δ to show."
    for one in browsed.deltas(PAPER):
        if one.name.lower() == wanted:
            return one, ""
    return None, f"The study has no Δ of {wanted}."


@dataclass
class Shop:
    """All that visitors share: what is shown, the desk, and the audit of each session."""

    models: LoadedModels
    browsed: views.BrowsedStudy | None = None
    opened: views.Result | None = None
    desk: Desk = field(default_factory=Desk)
    jobs: dict[str, DeskJob] = field(default_factory=dict)
    kept: dict[str, views.Result] = field(default_factory=dict)

    def keep(self, result: views.Result) -> str:
        """Keep a result for a page that is loaded again; the word by which it asks for it."""
        word = token_urlsafe()
        self.kept[word] = result
        while len(self.kept) > MOST_KEPT:
            del self.kept[next(iter(self.kept))]
        return word

    def audit(
        self,
        pasted: str,
        upload: str | None,
        choice: str,
        folder: str,
        session: str,
        prefix: Any = None,
    ) -> Iterator[tuple[str, views.Result | None]]:
        """Audit a visitor's document: how it stands, and at the end the result."""
        try:
            reading = read_visit(pasted, upload)
            name = self.models.named(choice, folder)
            settings = audit_settings(prefix=prefix if prefix in BEGINNINGS.values() else None)
            job = DeskJob(audit_work(self.models, self.browsed, reading, name, settings))
            self.leave(session)
            self.jobs[session] = job
            for standing in self.desk.follow(job):
                stopping = job.is_cancelled
                yield status("Cancelling …") if stopping else status(standing=standing), None
            self.jobs.pop(session, None)
            yield status("Done."), job.result()
        except Cancelled:
            yield status("Cancelled."), None
        except MnemoscopeError as error:
            yield status(in_browser(error), is_error=True), None
        except Exception:
            _log.exception("an audit failed")
            yield status(_FAILED, is_error=True), None

    def leave(self, session: str) -> None:
        """Stop what a session has running."""
        job = self.jobs.pop(session, None)
        if job is not None:
            job.cancel()

    def passage(self, result: views.Result, number: Any) -> Iterator[tuple[str, str]]:
        """The card of a passage at once, then its maps when the desk is free."""
        card = views.render_card(result, number)
        yield card, status("Reading its attention …" if self.desk.is_free else _WAITING)
        maps = self.desk.ask(lambda: passage_maps(self.models, result, number))
        yield card, views.render_maps(maps, *delta_for(self.browsed, result, number))

    def sequence(self, number: Any, taxonomy: str, class_name: str) -> tuple[str, str]:
        """Text and maps of a study's sequence, with Δ of the class."""
        if self.browsed is None:
            raise UserError("no study is shown.")
        text, maps = self.browsed.render_sequence(number), self.browsed.maps(number)
        if maps is None:
            is_captured = self.browsed.study.is_done("capture")
            why = "no sample holds it" if is_captured else "this study captured no attention"
            return text, status(f"It has no maps: {why}.")
        deltas = [one for one in self.browsed.deltas(taxonomy) if one.name == class_name]
        return text, views.render_maps(maps, deltas[0] if deltas else None)


def status(text: str = "", *, standing: QueuePlace | None = None, is_error: bool = False) -> str:
    """One line of how things stand."""
    return views.render("status.html.j2", text=text, standing=standing, is_error=is_error)


def make_blocks(shop: Shop) -> gr.Blocks:
    """Lay out the page."""
    with gr.Blocks(
        title="mnemoscope", analytics_enabled=False, delete_cache=_KEEP_UPLOADS
    ) as blocks:
        _html(views.render("top.html.j2"))
        with gr.Tabs():
            if shop.opened is not None:
                with gr.Tab("This audit"):
                    _result_view(shop, gr.State(shop.opened), views.render_result(shop.opened))
            with gr.Tab("Audit a document"):
                _audit_tab(shop, blocks)
            if shop.browsed is not None:
                with gr.Tab("The study"):
                    _study_tab(shop, shop.browsed)

        def leave(request: gr.Request) -> None:
            shop.leave(str(request.session_hash))

        blocks.unload(leave)
    blocks.queue(default_concurrency_limit=16, max_size=64, api_open=False)
    return blocks


def _audit_tab(shop: Shop, blocks: gr.Blocks) -> None:
    """Bring a document, choose a model, watch, read."""
    own = None if shop.browsed is None else shop.browsed.model
    offered = choices(None if own is None else own["name"])
    with gr.Row():
        with gr.Column(scale=2):
            pasted = gr.Textbox(
                label="Document",
                placeholder="Paste a text here, or choose a file.",
                lines=7,
                max_lines=14,
                elem_id="document",
                info=f"Up to {MOST_CHARACTERS:,} characters; a chosen file is read in its place.",
            )
        with gr.Column(scale=1):
            upload = gr.File(
                label=f"or a file, up to {MOST_BYTES // 1_000_000} MB",
                type="filepath",
                file_types=list(TYPES),
                height=140,
                elem_id="upload",
            )
            choice = gr.Radio(
                offered, value=offered[0][1], label="Model", elem_id="model", info=_SHIPPED
            )
            folder = gr.Textbox(label="Folder of the model", visible=False, elem_id="folder")
            beginning = gr.Radio(
                list(BEGINNINGS.items()),
                value=32,
                label="Beginning that the model is shown",
                elem_id="beginning",
            )
    with gr.Row(elem_id="buttons"):
        start = gr.Button("Audit", variant="primary", scale=0, min_width=180, elem_id="start")
        cancel = gr.Button("Cancel", interactive=False, scale=0, min_width=120, elem_id="cancel")
        example = gr.Button("Try an example", scale=0, min_width=160, elem_id="example")
    line = _html(status("Nothing is running."), elem_id="status")
    state, word = gr.State(None), gr.BrowserState(None, storage_key="mnemoscope-result")
    shown, clear = _result_view(shop, state, "")
    choice.change(lambda value: gr.update(visible=value == FOLDER), choice, folder, **_AT_ONCE)

    def audit(
        text: str, path: str | None, chosen: str, typed: str, prefix: Any, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Audit, and show the result in place of the last one."""
        kept = [gr.skip() for _ in clear]
        busy, idle, same = gr.update(interactive=True), gr.update(interactive=False), gr.skip()
        yield status("Reading the document …"), busy, None, None, "", *clear
        session = str(request.session_hash)
        for now, result in shop.audit(text, path, chosen, typed, session, prefix):
            if result is None:
                yield now, same, same, same, same, *kept
            else:
                yield now, same, shop.keep(result), result, views.render_result(result), *clear
        yield same, idle, same, same, same, *kept

    def again(kept_word: Any) -> tuple[Any, ...]:
        """What a page showed before it was loaded again."""
        result = shop.kept.get(str(kept_word))
        if result is None:
            return (gr.skip(),) * (2 + len(shown))
        return (
            status("The last audit of this browser."),
            result,
            views.render_result(result),
            *clear,
        )

    def stop(request: gr.Request) -> Any:
        """Cancel; what is running says so itself, so that its last word stays."""
        shop.leave(str(request.session_hash))
        return gr.update(interactive=False)

    asked = [pasted, upload, choice, folder, beginning]
    working: dict[str, Any] = _QUIET | {"concurrency_limit": None, "trigger_mode": "once"}
    start.click(audit, asked, [line, cancel, word, state, *shown], **working)
    example.click(
        lambda: (example_text(), None, EMBEDDED, gr.update(visible=False), 32),
        None,
        asked,
        **_AT_ONCE,
    ).then(audit, asked, [line, cancel, word, state, *shown], **_QUIET, concurrency_limit=None)
    cancel.click(stop, None, cancel, **_AT_ONCE)
    blocks.load(again, word, [line, state, *shown], **_AT_ONCE)


def _result_view(shop: Shop, state: gr.State, html: str) -> tuple[list[gr.HTML], tuple[str, str]]:
    """Documents with passages, evidence of the chosen one; the parts, and what empties two."""
    empty = ("", "")
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            result = _html(html, js_on_load=PICK_SCRIPT + STEP_SCRIPT, elem_classes="result")
        with gr.Column(scale=2, min_width=300):
            scripts = REVEAL_SCRIPT + STEP_SCRIPT
            card = _html("", js_on_load=scripts, elem_classes="evidence")
            maps = _html("", js_on_load=POINT_SCRIPT, elem_classes="pictures")

    def choose(audited: views.Result | None, event: gr.EventData) -> Iterator[tuple[Any, Any]]:
        if audited is None:
            yield empty
            return
        try:
            found = shop.passage(audited, _number(event))
            yield next(found)
            yield from ((gr.skip(), maps) for _, maps in found)
        except MnemoscopeError as error:
            yield gr.skip(), status(in_browser(error), is_error=True)

    # Of quick choices each is answered, in their order: the desk does their maps one by one.
    result.select(choose, state, [card, maps], **_QUIET, trigger_mode="multiple")
    return [result, card, maps], empty


def _study_tab(shop: Shop, browsed: views.BrowsedStudy) -> None:
    """Taxonomies with their figures; sequences by class with their maps."""
    names = list(browsed.taxonomies)
    first = PAPER if PAPER in names else names[0]
    taxonomy = gr.Dropdown(names, value=first, label="Taxonomy", elem_id="taxonomy")
    figures = _html(browsed.render_taxonomy(first), elem_id="figures")
    with gr.Row():
        classes = _classes_of(browsed, first)
        class_name = gr.Radio(classes, value=classes[-1][1], label="Class", elem_id="class")
        words = gr.Textbox(
            label="Search", placeholder="Words of the text", max_lines=1, elem_id="search"
        )
        page = gr.Number(1, label="Page", minimum=1, precision=0, elem_id="page")
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            listed = _html(
                browsed.render_sequences(first, classes[-1][1], 1),
                js_on_load=PICK_SCRIPT,
                elem_id="sequences",
            )
        with gr.Column(scale=3, min_width=300):
            text = _html("", js_on_load=REVEAL_SCRIPT, elem_id="sequence")
            maps = _html("", js_on_load=POINT_SCRIPT, elem_id="sequence-maps")

    def other_taxonomy(name: str, searched: str) -> tuple[Any, ...]:
        found = _classes_of(browsed, name)
        radio = gr.update(choices=found, value=found[-1][1])
        listing = browsed.render_sequences(name, found[-1][1], 1, searched)
        return browsed.render_taxonomy(name), radio, 1, listing

    def other_page(name: str, chosen: str, searched: str, number: float | None) -> str:
        return browsed.render_sequences(name, chosen, number or 1, searched)

    def choose(name: str, chosen: str, event: gr.EventData) -> tuple[str, str]:
        return shop.sequence(_number(event), name, chosen)

    asked = [taxonomy, class_name, words]
    taxonomy.input(
        other_taxonomy, [taxonomy, words], [figures, class_name, page, listed], **_AT_ONCE
    )
    gr.on(
        [class_name.input, words.change],
        lambda name, chosen, searched: (1, other_page(name, chosen, searched, 1)),
        asked,
        [page, listed],
        **_AT_ONCE,
        trigger_mode="always_last",
    )
    page.input(other_page, [*asked, page], listed, **_AT_ONCE)
    listed.select(choose, [taxonomy, class_name], [text, maps], **_AT_ONCE)


def _classes_of(browsed: views.BrowsedStudy, name: str) -> list[tuple[str, str]]:
    """What can be listed, as (shown, value): all, then each class."""
    own = [one["name"] for one in browsed.taxonomy(name).classes]
    return [("All", views.EVERY_CLASS), *((one, one) for one in own)]


def _number(event: gr.EventData) -> Any:
    """The number that a page sent; it may be anything."""
    return getattr(event, "number", None)
