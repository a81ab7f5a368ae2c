"""Stage `features`: the features taxonomies need (ROUGE, patterns, duplicates, code)."""

import polars as pl

from mnemoscope.data.corpus import open_corpus
from mnemoscope.data.features import FEATURES, GIVEN, add_features, is_available
from mnemoscope.data.patterns import compare_modes, describe_agreement
from mnemoscope.data.table import CODE_LABEL, has_values
from mnemoscope.errors import pip_install
from mnemoscope.pipeline.published_split import PUBLISHED_PATTERNS, take_published_patterns
from mnemoscope.progress import say
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.stages import TABLE_FILE

FEATURES_FILE = "features.parquet"


def features_stage(study: Study, models: Models) -> None:
    """Write `features.parquet`, but for columns that were given; unknown ones are null and said."""
    study.require("sequences")
    settings = study.settings
    with study.finishing("features") as counts:
        corpus = None
        if settings.features.corpus is not None:
            tokenizer = models.model(study).tokenizer
            corpus = open_corpus(settings.features.corpus, tokenizer=tokenizer, dtype=None)
        made = study.manifest("sequences")
        assert made is not None
        given = set(made["counts"]["given"])
        # Drop results of earlier runs, which may come from another corpus.
        ours = [name for name in GIVEN if name not in given]
        frame = add_features(
            study.read(TABLE_FILE).drop(ours, strict=False),
            patterns=settings.features.patterns,
            length=settings.sequences.length,
            prefix=settings.sequences.n_prefix,
            corpus=corpus,
        )
        if settings.features.patterns == "published":
            ours_of, frame = frame, take_published_patterns(frame)
            for name in PUBLISHED_PATTERNS:
                if f"published_{name}" in frame.columns:
                    differs = ours_of[f"published_{name}"] != ours_of[name]
                    counts[f"{name}_differ"] = int(differs.sum())
        made_here = (name for name in FEATURES if name not in given)
        study.write(FEATURES_FILE, frame.select("sequence_id", *made_here))
        for name in FEATURES:
            counts[f"{name}_null"] = frame[name].null_count()
        counts["is_code_from"] = _source(
            frame, "is_code", given, CODE_LABEL if CODE_LABEL in frame.columns else "magika"
        )
        counts["duplicates_from"] = _source(frame, "duplicates", given, "corpus")
        if has_values(frame, "text"):
            agreement = compare_modes(frame["text"])
            counts["pattern_modes"] = {name: one._asdict() for name, one in agreement.items()}
            for line in describe_agreement(agreement):
                say(line, is_detail=True)
    if frame["duplicates"].null_count() == frame.height:
        say(
            "No duplicate counts: taxonomies with Recite or Recollect[δ] cannot be labelled. Give "
            "the training texts (features.corpus), or a column 'duplicates'.",
            is_detail=True,
        )
    if frame["is_code"].null_count() == frame.height and not is_available():
        said = f"is_code is not known: {pip_install('code')} if a taxonomy asks for Code."
        say(said, is_detail=True)


def _source(frame: pl.DataFrame, name: str, given: set[str], ours: str) -> str | None:
    """Where a feature came from: the user's column, our own computation, or None."""
    if name in given:
        return "column"
    return ours if has_values(frame, name) else None
