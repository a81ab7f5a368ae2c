"""A plugin of mnemoscope: an analysis, a reader and a node, all about links in text."""

from pathlib import Path

import polars as pl

from mnemoscope import plugin

ENTRY = plugin.Entry("links", "Text with links", "Memorized more often?", ("scores",), "an example")


class Settings(plugin.AnalysisSettings):
    """What `--set` takes."""

    sign: str = "://"


def analyse(inputs: plugin.AnalysisInputs, settings: Settings) -> plugin.AnalysisResult:
    """Shares that are memorized; intervals draw groups of near duplicates."""
    rows = inputs.table.drop_nulls("is_memorized")
    parts = rows.group_by(pl.col("text").str.contains(settings.sign, literal=True).alias("link"))
    shares = {
        name: plugin.share_true(rows["is_memorized"], rows["near_duplicates"])
        for (name,), rows in parts
    }
    frame = pl.DataFrame([{"link": name, **shares[name]._asdict()} for name in sorted(shares)])
    said = f"Memorized, of texts with a link: {shares.get(True, 'there are none')}."
    return plugin.AnalysisResult(said, {"links": frame})


def read_tsv(path: Path) -> pl.DataFrame:
    """A table with a column `text` or `tokens`; others are kept."""
    return pl.read_csv(path, separator="\t")


def link(name: str, argument: str | None) -> plugin.Node:
    """The node `Link`, or `Link[x]` for another sign than `://`."""
    sign = (argument or "://").replace("'", "''")
    return plugin.make_node(name, f"strpos(text, '{sign}') > 0", "the text holds a link")
