"""Make the example report `docs/example-audit.html`: an audit with all that it can be asked.

    python -m experiments.audits.example [-o docs/example-audit.html] [--keep FOLDER]

Documents: the beginning of `difflib.py`, which the embedded model was trained on, and new sentences
that no model saw, together 40,000 characters. The corpus is the library of Python.
"""

import argparse
import contextlib
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.audits.finds import write_new

FLAGS = "-o audit --stride 16 --profile --ordinary shipped --answer-tokens 48 --corpus library "
COMMAND = ["audit", "embedded", "texts", *FLAGS.split(), "--case", "An example: two texts"]
CHARACTERS = 40_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/example-audit.html"))
    parser.add_argument("--keep", type=Path, help="a folder for the whole audit")
    wanted = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = wanted.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        library = folder / "library"
        texts = folder / "texts"
        for one in (library, texts):
            one.mkdir(parents=True, exist_ok=True)
        own = Path(difflib.__file__)
        for path in own.parent.glob("*.py"):
            shutil.copy(path, library)
        half = own.read_text(encoding="utf-8")[: CHARACTERS * 4 // 5]
        (texts / own.name).write_text(half, encoding="utf-8")
        text = write_new(random.Random(0), CHARACTERS // 20)
        (texts / "new.txt").write_text(text[: CHARACTERS - len(half)], encoding="utf-8")
        source = str(Path(__file__).parents[2] / "src")
        paths = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": paths}
        command = [sys.executable, "-m", "mnemoscope", *COMMAND]
        subprocess.run(command, cwd=folder, env=environment, check=True)
        shutil.copy(folder / "audit" / "report.html", wanted.out)
    print(f"Wrote {wanted.out}.")


if __name__ == "__main__":
    main()
