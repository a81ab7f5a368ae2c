"""A study of one pair of models, with grafts of queries and keys, values and MLP of every layer.

python benchmarks/graft_study.py crossed                             # the shipped pair
python benchmarks/graft_study.py crossed-1 --pair seed-1/data        # another training of it

Classes are those of the published rule, and by truth where the table says what was read. The pages
of `docs/appendix/graft-parts.md` lay such studies side by side (`graft_page.py`).
"""

import argparse
import subprocess
import sys
from pathlib import Path

import mnemoscope as ms
from mnemoscope.embedded import model_path

PARTS = [f"layers.{layer}.{kind}" for layer in range(4) for kind in ("qk", "values", "mlp")]
SETTINGS = {
    "label.taxonomies": '["Non-Memo, Guess, Recall"]',
    "label.n_train": 20,
    "label.n_eval": 10,
    "graft.parts": f"[{', '.join(PARTS)}]",
    "graft.n_sequences": 200,
    "graft.n_heldout": 40,
    "graft.draws": 12,
    "graft.shares": "[0.5, 1.0]",
}


def run_grafts(out: Path, sequences: Path, model: Path, twin: Path) -> ms.Study:
    """Scan, label and graft by the command; what is done is not done again."""
    if not (out / "study.yaml").is_file():
        settings = {"capture.reference": twin, **SETTINGS}
        sets = (word for one in settings.items() for word in ("--set", "=".join(map(str, one))))
        _command("sequences", sequences, "--model", model, "-o", out, *sets)
    for stage in (["continue", "--scan"], ["features"], ["label"], ["graft"]):
        _command(stage[0], out, *stage[1:])
    return ms.Study(out)


def _command(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "mnemoscope", *map(str, words)], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the study")
    parser.add_argument("--pair", type=Path, help="folder of table, model and reference")
    options = parser.parse_args()
    data = options.pair or model_path().parent
    run_grafts(options.out, data / "sequences.parquet", data / "model", data / "reference")
