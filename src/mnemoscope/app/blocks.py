"""The page of the app: what stands where, and what happens when it is used."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from mnemoscope.app.browse import BrowsedStudy
from mnemoscope.app.desk import Cancelled, Desk, Job, Standing
from mnemoscope.app.limits import MOST_BYTES, MOST_CHARACTERS, TYPES, read_visit
from mnemoscope.app.models import FOLDER, Models, choices
from mnemoscope.app.pictures import render_maps
from mnemoscope.app.result import Result, render, render_card, render_result
from mnemoscope.app.style import PICK_SCRIPT, REVEAL_SCRIPT
from mnemoscope.app.visit import audit_work, delta_for, passage_maps
from mnemoscope.errors import MnemoscopeError, UserError
from mnemoscope.taxonomy.catalogue import PAPER

__all__ = ["Shop", "make_blocks"]

_KEEP_UPLOADS = (600, 3600)  # seconds: look every, remove what is older
_log = logging.getLogger(__name__)
_FAILED = "that failed; the terminal in which the app runs says why."
_WAITING = "Its maps come once the running audit has ended."


@dataclass
class Shop:
    """All that visitors share.

    Attributes:
        models: to choose from.
        browsed: the study that is shown, or None.
        opened: the audit that is shown, or None.
        desk: lets one computation run at a time.
        jobs: the audit of each session.
    """

    models: Models
    browsed: BrowsedStudy | None = None
    opened: Result | None = None
    desk: Desk = field(default_factory=Desk)
    jobs: dict[str, Job] = field(default_factory=dict)

    def audit(
        self, pasted: str, upload: str | None, choice: str, folder: str, session: str
    ) -> Iterator[tuple[str, Result | None]]:
        """Audit a visitor's document: how it stands, and at the end the result."""
        try:
            reading = read_visit(pasted, upload)
            name = self.models.named(choice, folder)
            job = Job(audit_work(self.models, self.browsed, reading, name))
            self.leave(session)
            self.jobs[session] = job
            for standing in self.desk.follow(job):
                yield status(standing=standing), None
            self.jobs.pop(session, None)
            yield status("Done."), job.result()
        except Cancelled:
            yield status("Cancelled."), None
        except MnemoscopeError as error:
            yield status(str(error), is_error=True), None
        except Exception:
            _log.exception("an audit failed")
            yield status(_FAILED, is_error=True), None

    def leave(self, session: str) -> None:
        """Stop what a session has running."""
        job = self.jobs.pop(session, None)
        if job is not None:
            job.cancel()

    def passage(self, result: Result, number: Any) -> Iterator[tuple[str, str]]:
        """The card of a passage at once, then its maps when the desk is free."""
        card = render_card(result, number)
        yield card, status("Reading its attention …" if self.desk.is_free else _WAITING)
        maps = self.desk.ask(lambda: passage_maps(self.models, result, number))
        yield card, render_maps(maps, *delta_for(self.browsed, result, number))

    def sequence(self, number: Any, taxonomy: str, class_name: str) -> tuple[str, str]:
        """Text and maps of a study's sequence, with Δ of the class."""
        if self.browsed is None:
            raise UserError("no study is shown.")
        text, maps = self.browsed.render_sequence(number), self.browsed.maps(number)
        if maps is None:
            return text, status("Its maps were not captured: no sample drew it.")
        deltas = [one for one in self.browsed.deltas(taxonomy) if one.name == class_name]
        return text, render_maps(maps, deltas[0] if deltas else None)


def status(text: str = "", *, standing: Standing | None = None, is_error: bool = False) -> str:
    """One line of how things stand."""
    return render("status.html.j2", text=text, standing=standing, is_error=is_error)


def make_blocks(shop: Shop) -> gr.Blocks:
    """Lay out the page.

    Args:
        shop: what it shows.
    """
    with gr.Blocks(
        title="mnemoscope", analytics_enabled=False, delete_cache=_KEEP_UPLOADS
    ) as blocks:
        gr.HTML(render("top.html.j2"), apply_default_css=False)
        with gr.Tabs():
            if shop.opened is not None:
                with gr.Tab("This audit"):
                    _result_view(shop, gr.State(shop.opened), render_result(shop.opened))
            with gr.Tab("Audit a document"):
                _audit_tab(shop)
            if shop.browsed is not None:
                with gr.Tab("The study"):
                    _study_tab(shop, shop.browsed)
    blocks.unload(_leaver(shop))
    blocks.queue(default_concurrency_limit=16, max_size=64, api_open=False)
    return blocks


def _leaver(shop: Shop) -> Callable[[gr.Request], None]:
    def leave(request: gr.Request) -> None:
        shop.leave(str(request.session_hash))

    return leave


def _audit_tab(shop: Shop) -> None:
    """Bring a document, choose a model, watch, read."""
    model = None if shop.browsed is None else str(shop.browsed.model["name"])
    offered = choices(model)
    with gr.Row():
        with gr.Column(scale=2):
            pasted = gr.Textbox(
                label="Document",
                placeholder="Paste a text here, or choose a file.",
                lines=7,
                max_lines=14,
                elem_id="document",
                info=f"Up to {MOST_CHARACTERS:,} characters; a file is taken before a pasted text.",
            )
        with gr.Column(scale=1):
            upload = gr.File(
                label=f"or a file, up to {MOST_BYTES // 1_000_000} MB",
                type="filepath",
                file_types=list(TYPES),
                height=140,
                elem_id="upload",
            )
            choice = gr.Radio(offered, value=offered[0][1], label="Model", elem_id="model")
            folder = gr.Textbox(label="Folder of the model", visible=False, elem_id="folder")
    with gr.Row(elem_id="buttons"):
        start = gr.Button("Audit", variant="primary", scale=0, min_width=180, elem_id="start")
        cancel = gr.Button("Cancel", interactive=False, scale=0, min_width=120, elem_id="cancel")
    line = gr.HTML(status("Nothing is running."), apply_default_css=False, elem_id="status")
    state = gr.State(None)
    shown, clear = _result_view(shop, state, "")
    choice.change(
        lambda value: gr.update(visible=value == FOLDER),
        choice,
        folder,
        api_visibility="private",
        show_progress="hidden",
    )

    def audit(
        text: str, path: str | None, chosen: str, typed: str, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Audit, and show the result in place of the last one."""
        kept = [gr.skip() for _ in clear]
        yield status("Reading the document …"), gr.update(interactive=True), None, "", *clear
        for now, result in shop.audit(text, path, chosen, typed, str(request.session_hash)):
            if result is None:
                yield now, gr.skip(), gr.skip(), gr.skip(), *kept
            else:
                yield now, gr.skip(), result, render_result(result), *clear
        yield gr.skip(), gr.update(interactive=False), gr.skip(), gr.skip(), *kept

    start.click(
        audit,
        [pasted, upload, choice, folder],
        [line, cancel, state, *shown],
        api_visibility="private",
        show_progress="hidden",
        concurrency_limit=None,
        trigger_mode="once",
    )
    cancel.click(_leaver(shop), None, None, queue=False, api_visibility="private")


def _result_view(shop: Shop, state: gr.State, html: str) -> tuple[list[gr.HTML], tuple[str, str]]:
    """Documents with passages, and the evidence of the chosen one.

    Returns:
        The three parts, and what empties the last two.
    """
    empty = ("", "")
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            result = gr.HTML(
                html, js_on_load=PICK_SCRIPT, apply_default_css=False, elem_classes="result"
            )
        with gr.Column(scale=2, min_width=300):
            card = gr.HTML(
                "", js_on_load=REVEAL_SCRIPT, apply_default_css=False, elem_classes="evidence"
            )
            maps = gr.HTML("", apply_default_css=False, elem_classes="pictures")

    def choose(audited: Result | None, event: gr.EventData) -> Iterator[tuple[Any, Any]]:
        if audited is None:
            yield empty
            return
        try:
            yield from shop.passage(audited, _number(event))
        except MnemoscopeError as error:
            yield gr.skip(), status(str(error), is_error=True)

    result.select(
        choose,
        state,
        [card, maps],
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
    )
    return [result, card, maps], empty


def _study_tab(shop: Shop, browsed: BrowsedStudy) -> None:
    """Taxonomies with their figures; sequences by class with their maps."""
    names = list(browsed.taxonomies)
    first = PAPER if PAPER in names else names[0]
    classes = [one.name for one in browsed.taxonomy(first).classes]
    taxonomy = gr.Dropdown(names, value=first, label="Taxonomy", elem_id="taxonomy")
    figures = gr.HTML(browsed.render_taxonomy(first), apply_default_css=False, elem_id="figures")
    with gr.Row():
        class_name = gr.Radio(classes, value=classes[-1], label="Class", elem_id="class")
        page = gr.Number(1, label="Page", minimum=1, precision=0, elem_id="page")
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            listed = gr.HTML(
                browsed.render_sequences(first, classes[-1], 1),
                js_on_load=PICK_SCRIPT,
                apply_default_css=False,
                elem_id="sequences",
            )
        with gr.Column(scale=3, min_width=300):
            text = gr.HTML(
                "", js_on_load=REVEAL_SCRIPT, apply_default_css=False, elem_id="sequence"
            )
            maps = gr.HTML("", apply_default_css=False, elem_id="sequence-maps")
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def other_taxonomy(name: str) -> tuple[Any, ...]:
        found = [one.name for one in browsed.taxonomy(name).classes]
        radio = gr.update(choices=found, value=found[-1])
        listing = browsed.render_sequences(name, found[-1], 1)
        return browsed.render_taxonomy(name), radio, 1, listing

    def other_page(name: str, chosen: str, number: float | None) -> str:
        return browsed.render_sequences(name, chosen, number or 1)

    def choose(name: str, chosen: str, event: gr.EventData) -> tuple[str, str]:
        return shop.sequence(_number(event), name, chosen)

    taxonomy.input(other_taxonomy, taxonomy, [figures, class_name, page, listed], **private)
    class_name.input(
        lambda name, chosen: (1, other_page(name, chosen, 1)),
        [taxonomy, class_name],
        [page, listed],
        **private,
    )
    page.input(other_page, [taxonomy, class_name, page], listed, **private)
    listed.select(choose, [taxonomy, class_name], [text, maps], **private)


def _number(event: gr.EventData) -> Any:
    """The number that a page sent; it may be anything."""
    return getattr(event, "number", None)
