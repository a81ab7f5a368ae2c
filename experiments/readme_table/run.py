"""What the README's table of results says of the demo; the rest are other experiments' results.

    python -m experiments.readme_table.run DEMO [--keep]

DEMO is what `mnemoscope demo` makes.
"""

import argparse
from pathlib import Path
from typing import Any

from experiments.pages import publish
from mnemoscope.benchmark.verdict import EFFECT
from mnemoscope.stats import rows_of
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy import PAPER


def figures_of(demo: Study) -> dict[str, Any]:
    """The gain that the verdict on the paper's taxonomy rests on, and the least that counts."""
    rows = rows_of(demo.benchmark.filter(taxonomy=PAPER))
    return {"gain": list(next(row["gain"] for row in rows if row["is_headline"])), "least": EFFECT}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--keep", action="store_true", help="store the results, write the README")
    options = parser.parse_args()
    publish("readme_table", figures_of(Study(options.demo)), keep=options.keep)
