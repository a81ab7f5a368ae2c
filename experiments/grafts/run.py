"""A study of one pair of models, with grafts.

python -m experiments.grafts.run crossed                                    # the shipped pair
python -m experiments.grafts.run crossed-1 --pair seed-1/data --repeated    # another training

Classes are those of the published rule, and by truth where the table says what was read. The pages
of `docs/appendix/graft-parts.md` lay such studies side by side (`gather.py`).
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import mnemoscope as ms
from mnemoscope.embedded import model_path

PARTS = [f"layers.0.{kind}" for kind in ("qk", "values", "mlp", "norms")]
PARTS += [f"layers.{layer}.{kind}" for layer in (1, 3) for kind in ("qk", "mlp")]
REPEATED = PARTS[:5]
"""What is asked again of other trainings."""
SETTINGS = {
    "label.taxonomies": '["Non-Memo, Guess, Recall"]',
    "label.n_train": 20,
    "label.n_eval": 10,
    "graft.n_sequences": 200,
    "graft.n_heldout": 40,
    "graft.draws": 12,
    "graft.shares": "[0.5, 1.0]",
}


def run_grafts(
    out: Path, sequences: Path, model: Path, twin: Path, parts: Sequence[str] = REPEATED
) -> ms.Study:
    """Scan, label and graft by the command; what is done is not done again."""
    if not (out / "study.yaml").is_file():
        settings = {"capture.reference": twin, **SETTINGS}
        command("sequences", sequences, "--model", model, "-o", out, *as_flags(settings))
    asked = ms.Study(out).settings
    if (asked.model.name, asked.capture.reference) != (str(model), str(twin)):
        raise SystemExit(f"{out}: grafts of another pair; give another folder, or remove this one")
    command("continue", out, "--scan")
    for stage in ("features", "label"):
        command(stage, out)
    command("graft", out, "--set", f"graft.parts=[{', '.join(parts)}]")
    return ms.Study(out)


def as_flags(settings: Mapping[str, object]) -> list[str]:
    """Settings as the command takes them."""
    return [word for one in settings.items() for word in ("--set", "=".join(map(str, one)))]


def command(*words: object) -> None:
    """Run a verb; what is done in a study is not done again."""
    subprocess.run([sys.executable, "-m", "mnemoscope", *map(str, words)], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the study")
    parser.add_argument("--pair", type=Path, help="folder of table, model and reference")
    parser.add_argument("--repeated", action="store_true", help="what other trainings are asked")
    options = parser.parse_args()
    data = options.pair or model_path().parent
    pair = data / "model", data / "reference"
    parts = REPEATED if options.repeated else PARTS
    run_grafts(options.out, data / "sequences.parquet", *pair, parts)
