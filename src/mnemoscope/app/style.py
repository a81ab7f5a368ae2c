"""The look of the app: the style of an audit's page, ours, and a theme without outside fonts."""

from importlib import resources
from typing import Any

__all__ = ["PICK_SCRIPT", "REVEAL_SCRIPT", "head", "theme"]

PICK_SCRIPT = """
const pick = (event) => {
  const one = event.target.closest('[data-pick]');
  if (!one || (event.type === 'keydown' && event.key !== 'Enter' && event.key !== ' ')) return;
  event.preventDefault();
  element.querySelectorAll('[aria-current]').forEach((old) => old.removeAttribute('aria-current'));
  one.setAttribute('aria-current', 'true');
  trigger('select', {number: Number(one.dataset.pick)});
};
element.addEventListener('click', pick);
element.addEventListener('keydown', pick);
"""
"""Tells the server which element with `data-pick` was clicked, or chosen with Enter or space."""


REVEAL_SCRIPT = """
watch('value', () => {
  if (window.innerWidth < 700 && props.value) element.scrollIntoView({block: 'start'});
});
"""
"""Where parts stand below each other, moves to the one that has just been filled."""


def head() -> str:
    """What goes into the page's head: all styles."""
    theirs = _read("mnemoscope.audit", "audit.css")
    # Rules about the whole page match nothing inside; what is left cannot reach the rest.
    return f"<style>.mnemoscope{{{theirs}}}\n{_read('mnemoscope.app', 'app.css')}</style>"


def theme() -> Any:
    """A plain theme in the system's own fonts."""
    import gradio as gr

    made = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="gray",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return made.set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")


def _read(package: str, name: str) -> str:
    return resources.files(package).joinpath(f"templates/{name}").read_text("utf-8")
