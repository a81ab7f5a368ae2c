"""What the README's table of results says of the demo; the rest are other experiments' results.

    python -m experiments.readme_table.run DEMO [--keep]

DEMO is what `mnemoscope demo` makes.
"""

import argparse
from pathlib import Path
from typing import Any

from experiments.pages import publish
from mnemoscope.stats import rows_of
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy import PAPER


def figures_of(demo: Study) -> dict[str, Any]:
    """The verdict of the paper's taxonomy, min-F1 of both readers and the best of the text."""
    rows = list(rows_of(demo.benchmark.filter(taxonomy=PAPER)))
    of = {row["source"]: row for row in rows}
    return {
        "verdict": next(row["verdict"] for row in rows if row["is_headline"]),
        **{
            words: list(of[source]["min_f1"])
            for words, source in (("CNN", "model"), ("regression", "statistics"))
        },
        "reference": [of[name]["min_f1"].value for name in ("reference", "reference_statistics")],
        "text": max(of[name]["min_f1"].value for name in ("blind", "blind_statistics", "ngram")),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--keep", action="store_true", help="store the results, write the README")
    options = parser.parse_args()
    publish("readme_table", figures_of(Study(options.demo)), keep=options.keep)
