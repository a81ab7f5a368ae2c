"""A plugin of mnemoscope: an analysis, a reader and a node, all about links in text."""

from pathlib import Path

import polars as pl

from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.registry import Entry
from mnemoscope.stats import share_true
from mnemoscope.taxonomy.catalogue import make_node
from mnemoscope.taxonomy.nodes import Node

ENTRY = Entry("links", "Text with links", "Is it memorized more often?", ("scores",), "an example")


class Settings(AnalysisSettings):
    """What `--set` takes."""

    sign: str = "://"


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Shares that are memorized; intervals draw groups of near duplicates."""
    rows, found = inputs.table.drop_nulls("is_memorized"), {}
    for name, part in rows.group_by(pl.col("text").str.contains(settings.sign, literal=True)):
        found[name[0]] = share_true(part["is_memorized"], part["near_duplicates"])
    frame = pl.DataFrame([{"link": name, **found[name]._asdict()} for name in sorted(found)])
    said = f"Memorized, of texts with a link: {found.get(True, 'there are none')}."
    return AnalysisResult(said, {"links": frame})


def read_tsv(path: Path) -> pl.DataFrame:
    """A table with a column `text` or `tokens`; others are kept."""
    return pl.read_csv(path, separator="\t")


def link(name: str, argument: str | None) -> Node:
    """The node `Link`, or `Link[x]` for another sign than `://`."""
    sign = argument or "://"
    quoted = sign.replace("'", "''")
    return make_node(name, f"strpos(text, '{quoted}') > 0", f"the text holds {sign}")
