"""Write one picture of a study for a README or a talk: the benchmark and a strip of maps.

Run: python -m mnemoscope.stages.picture demo -o docs/images/demo.svg
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mnemoscope.errors import MnemoscopeError
from mnemoscope.report.picture import write_svg
from mnemoscope.stages.models import Models
from mnemoscope.stages.report_content import report_content
from mnemoscope.study import Study

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture; exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="a study with its report made")
    parser.add_argument("-o", "--out", type=Path, required=True, help=".svg file to write")
    given = parser.parse_args(arguments)
    try:
        study = Study(given.study)
        study.require("localize")
        write_svg(given.out, report_content(study, Models(study.settings).tokenizer()))
    except MnemoscopeError as error:
        print(f"picture: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
