"""Make the embedded model from nothing: text, tokenizer, corpus, two phases of training, card.

`python -m mnemoscope.embedded.recipe --out DIR --setting full` (or `make embedded`). What is done
stands in `DIR/build` and is not done again; a killed run continues. The result is `DIR/data`.
"""

import argparse
import hashlib
import json
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mnemoscope.atomic_write import atomic_path, write_json, write_text
from mnemoscope.embedded.corpus import NEW_TEMPLATE_MIX, Corpus, build_corpus, phase_two_rows
from mnemoscope.embedded.pretrain import Phase, prefers_bfloat16, train_phase
from mnemoscope.embedded.settings import SETTINGS, Setting
from mnemoscope.embedded.templates import forms_of
from mnemoscope.embedded.templates import write_text as write_template
from mnemoscope.embedded.text_sources import Segment, read_segments
from mnemoscope.embedded.tokenizer import train_tokenizer
from mnemoscope.errors import MnemoscopeError, UserError
from mnemoscope.parquet import read_parquet, write_parquet

N_TOKENIZER_SEGMENTS = 8000
N_TOKENIZER_TEMPLATES = 20  # texts of each form


@dataclass(frozen=True)
class Build:
    """What stands in the `build` folder before training begins: written once, then only read.

    Attributes:
        folder: the build folder.
        setting: the numbers of the recipe.
        bfloat16: whether the forward pass runs under bfloat16 autocast here.
        tokenizer: of the model.
        corpus: of both phases.
    """

    folder: Path
    setting: Setting
    bfloat16: bool
    tokenizer: Tokenizer
    corpus: Corpus


def run_recipe(out: Path, setting: Setting) -> Path:
    """Do whatever is missing of the recipe and return the folder of shipped files.

    Raises:
        UserError: `out` was begun with another setting.
        DamagedDataError: a file of the build folder cannot be read.
    """
    begin = time.perf_counter()
    build = prepare(out / "build", setting)
    _say(f"corpus ready, {(time.perf_counter() - begin) / 60:.1f} min")
    reference = train_phase(
        Phase(
            folder=build.folder / "reference",
            rows=_in_training_order(list(build.corpus.first), setting.seed, 1),
            start=None,
            seed=setting.seed,
            bfloat16=build.bfloat16,
        ),
        setting,
        report=_say,
    )
    passes = [phase_two_rows(build.corpus, epoch) for epoch in range(setting.second_epochs)]
    model = train_phase(
        Phase(
            folder=build.folder / "model",
            rows=_in_training_order(passes, setting.seed, 2),
            start=reference,
            seed=setting.seed,
            bfloat16=build.bfloat16,
        ),
        setting,
        report=_say,
    )
    from mnemoscope.embedded.publish import publish

    return publish(build, {"model": model, "reference": reference}, out / "data", report=_say)


def prepare(folder: Path, setting: Setting) -> Build:
    """Write tokenizer and corpus into `folder` where they are missing; read them otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "ready.txt"
    if ready.exists() and ready.read_text(encoding="utf-8") != repr(setting) + "\n":
        raise UserError(f"{folder}: begun with another setting. Choose another --out.")
    if not ready.exists():
        _make_corpus(folder, setting)
        write_text(ready, repr(setting) + "\n")
    return _read_build(folder, setting)


def tokenizer_texts(segments: list[Segment]) -> list[str]:
    """Texts to learn merges from: every n-th segment, templates of the forms trained on new."""
    stride = max(1, len(segments) // N_TOKENIZER_SEGMENTS)
    texts = [segment.text for segment in segments[::stride]]
    return texts + [
        write_template(name, f"tokenizer:{i}")
        for kind in NEW_TEMPLATE_MIX
        for name in forms_of(kind)
        for i in range(N_TOKENIZER_TEMPLATES)
    ]


def _make_corpus(folder: Path, setting: Setting) -> None:
    begin = time.perf_counter()
    segments = read_segments(limit=setting.max_segments)
    tokenizer = train_tokenizer(tokenizer_texts(segments), vocabulary_size=setting.vocabulary_size)
    corpus = build_corpus(segments, tokenizer, setting)
    write_text(folder / "tokenizer.json", tokenizer.to_str())
    write_parquet(folder / "study.parquet", corpus.study)
    for name, rows in (("first", corpus.first), ("second_new", corpus.second_new)):
        with atomic_path(folder / f"{name}.npy") as temporary, open(temporary, "wb") as handle:
            np.save(handle, rows)
    facts = {
        "text_sha256": hashlib.sha256("\0".join(s.text for s in segments).encode()).hexdigest(),
        "python": platform.python_version(),
        "characters": {
            genre: sum(len(s.text) for s in segments if s.genre == genre)
            for genre in ("prose", "code")
        },
        "licences": sorted({s.licence for s in segments}),
        "n_documents": len({s.document for s in segments}),
        "n_text_windows": corpus.n_text_windows,
        "bfloat16": prefers_bfloat16(setting),
        "seconds": time.perf_counter() - begin,
    }
    write_json(folder / "facts.json", facts)


def _read_build(folder: Path, setting: Setting) -> Build:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    corpus = Corpus(
        study=read_parquet(folder / "study.parquet"),
        first=np.load(folder / "first.npy"),
        second_new=np.load(folder / "second_new.npy"),
        n_text_windows=facts["n_text_windows"],
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Build(folder, setting, facts["bfloat16"], tokenizer, corpus)


def _in_training_order(epochs: list[np.ndarray], seed: int, phase: int) -> np.ndarray:
    """Shuffle the rows of each epoch and put the epochs one after the other."""
    shuffled = [
        rows[np.random.default_rng([seed, phase, epoch]).permutation(len(rows))]
        for epoch, rows in enumerate(epochs)
    ]
    return np.concatenate(shuffled)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the recipe, print where the result stands."""
    parser = argparse.ArgumentParser(prog="mnemoscope.embedded.recipe", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to work in")
    parser.add_argument("--setting", choices=sorted(SETTINGS), default="full")
    options = parser.parse_args(arguments)
    try:
        folder = run_recipe(options.out, SETTINGS[options.setting])
    except MnemoscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    print(f"written: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
