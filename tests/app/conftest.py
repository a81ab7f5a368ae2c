"""A document whose truth is known, and a text that holds all that can hurt a page."""

import numpy as np
import polars as pl
import pytest

from mnemoscope.embedded import sequences_path

HOSTILE = (
    '<script>window.hurt = 1</script><img src=x onerror="window.hurt = 1"> ${window.hurt = 1} '
    "{{value}} {% raw %} \u202eabc\u202c zero\u200bwidth \ufeff </pre></div>\n"
)


@pytest.fixture(scope="session")
def passages() -> list[str]:
    """Texts that the embedded model saw 64 times, prose."""
    rows = pl.read_parquet(sequences_path())
    rows = rows.filter(genre="prose", form="plain", inserted=64)
    return rows["text"].head(3).to_list()


@pytest.fixture(scope="session")
def document(passages: list[str]) -> str:
    """Two passages that the embedded model knows within words that it does not."""
    words = ["lamp", "hill", "green", "seven", "birds", "marrow", "lane", "sing", "supper", "moss"]
    generator = np.random.default_rng(5)
    filler = [" ".join(generator.choice(words, 6)) for _ in range(3)]
    return f"{filler[0]}.\n\n{passages[0]}\n\n{filler[1]}.\n\n{passages[1]}\n\n{filler[2]}."
