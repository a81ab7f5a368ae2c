"""A finished study to be browsed: taxonomies with figures and confusion matrix, sequences, maps."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.app.pictures import ClassDelta, SequenceMaps, render_delta, stored_maps
from mnemoscope.app.result import render
from mnemoscope.errors import UserError
from mnemoscope.lm.loading import load_tokenizer
from mnemoscope.maps.store import MapStore
from mnemoscope.report import numbers
from mnemoscope.report.content import TaxonomyResult
from mnemoscope.report.examples import decode_pieces
from mnemoscope.stages.capture import maps_folder
from mnemoscope.stages.labels import LABELS_FILE
from mnemoscope.stages.report_content import taxonomy_results
from mnemoscope.study import Study

__all__ = ["PAGE_ROWS", "BrowsedStudy"]

PAGE_ROWS = 12
"""Sequences on a page."""
_SOURCES = {
    "model": "CNN on the model's attention",
    "statistics": "regression on statistics of it",
    "blind": "CNN on the tokens alone",
    "ngram": "n-grams of tokens",
    "reference": "CNN on the reference's attention",
    "control": "labels permuted",
    "logits": "the model's output",
}
_FEATURES = (
    "duplicates",
    "memorization_score",
    "rouge_l",
    "rouge_3",
    "is_incrementing",
    "is_repeating",
    "is_code",
    "genre",
    "document",
)


class BrowsedStudy:
    """A study as the app shows it; what is read is kept.

    Args:
        folder: a study with all stages up to the report done.
        model_folder: of its model, for the tokenizer; None where it is not on this machine.

    Raises:
        UserError: no study, or not finished.
    """

    def __init__(self, folder: Path, model_folder: str | None = None) -> None:
        self.study = Study(folder)
        for stage in ("benchmark", "localize"):
            self.study.require(stage)
        self._model_folder = model_folder

    @property
    def model(self) -> dict[str, Any]:
        """The study's record of its model."""
        return dict(self.study.record["models"]["model"])

    @cached_property
    def taxonomies(self) -> dict[str, TaxonomyResult]:
        """Results by name."""
        return {one.name: one for one in taxonomy_results(self.study)}

    @cached_property
    def _table(self) -> pl.DataFrame:
        return self.study.sequences

    @cached_property
    def _labels(self) -> pl.DataFrame:
        return self.study.read(LABELS_FILE)

    @cached_property
    def _store(self) -> MapStore:
        return MapStore(maps_folder(self.study, "model"), verify=False)

    @cached_property
    def _tokenizer(self) -> Any:
        return None if self._model_folder is None else load_tokenizer(self._model_folder)

    def taxonomy(self, name: Any) -> TaxonomyResult:
        """The result of a name that came from a page.

        Raises:
            UserError: the study has no such taxonomy.
        """
        if name not in self.taxonomies:
            raise UserError("no such taxonomy in this study.")
        return self.taxonomies[name]

    def deltas(self, name: str) -> list[ClassDelta]:
        """Δ of each class of a taxonomy, of the first attribution; empty where there is none."""
        result = self.taxonomy(name)
        if not result.deltas:
            return []
        first, names = result.deltas[0], [one.name for one in result.classes]
        return ClassDelta.all_of(first.delta, names, first.attribution)

    def render_taxonomy(self, name: Any) -> str:
        """Render classes, figures, confusion matrix and Δ of a taxonomy."""
        result = self.taxonomy(name)
        main = result.main
        return render(
            "taxonomy.html.j2",
            result=result,
            main=main,
            names=[one.name for one in result.classes],
            figures=[] if main is None else _figures(main.rows),
            confusion=None
            if main is None or main.confusion is None
            else _confusion(main.confusion),
            deltas=render_delta(self.deltas(result.name)),
        )

    def sequences(self, name: Any, class_name: Any) -> pl.DataFrame:
        """The sequences of a class, in the table's order.

        Raises:
            UserError: no such taxonomy or class.
        """
        result = self.taxonomy(name)
        if class_name not in [one.name for one in result.classes]:
            raise UserError("no such class in this taxonomy.")
        chosen = self._labels.filter(pl.col(result.name) == class_name)
        return self._table.join(
            chosen.select("sequence_id"), on="sequence_id", how="semi", maintain_order="left"
        )

    def render_sequences(self, name: Any, class_name: Any, page: Any) -> str:
        """Render one page of a class's sequences; each carries its number in `data-pick`."""
        rows = self.sequences(name, class_name)
        n_pages = max(1, -(-rows.height // PAGE_ROWS))
        shown = min(max(int(page), 1), n_pages)
        part = rows.slice((shown - 1) * PAGE_ROWS, PAGE_ROWS)
        return render(
            "sequences.html.j2",
            rows=part.select("sequence_id", "text").to_dicts(),
            class_name=class_name,
            n=rows.height,
            page=shown,
            n_pages=n_pages,
        )

    def render_sequence(self, sequence_id: Any) -> str:
        """Render a sequence's text and features.

        Raises:
            UserError: the study has no such sequence.
        """
        row = self._row(sequence_id)
        pieces = self._pieces(row["tokens"])
        half = len(pieces) // 2
        written = self._pieces(row["continuation"] or [])
        own = row["tokens"][half:]
        return render(
            "sequence.html.j2",
            number=sequence_id,
            prefix="".join(pieces[:half]),
            suffix="".join(pieces[half:]),
            written=[
                (text, token == other)
                for text, token, other in zip(written, row["continuation"] or [], own, strict=False)
            ],
            features=[
                (key.replace("_", " ").removeprefix("is "), _shown(row[key]))
                for key in _FEATURES
                if row.get(key) is not None
            ],
        )

    def maps(self, sequence_id: Any) -> SequenceMaps | None:
        """The stored maps of a sequence, None where it was never captured."""
        row = self._row(sequence_id)
        return stored_maps(self._store, row["sequence_id"], self._pieces(row["tokens"]))

    def _row(self, sequence_id: Any) -> dict[str, Any]:
        found = (
            self._table.filter(pl.col("sequence_id") == sequence_id)
            if type(sequence_id) is int
            else self._table.clear()
        )
        if found.is_empty():
            raise UserError("no such sequence in this study.")
        return found.row(0, named=True)

    def _pieces(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Text of each token; its number where the tokenizer is not on this machine."""
        if self._tokenizer is None:
            return tuple(f"[{token}]" for token in tokens)
        return decode_pieces(
            lambda ids: str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)),
            list(tokens),
        )


def _figures(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Min-F1 and each class's F1 of every source."""
    return [
        {
            "source": _SOURCES.get(row.source, row.source),
            "min_f1": numbers.percent(row.min_f1.value),
            "interval": numbers.interval(row.min_f1),
            "f1": [numbers.percent(one.value) for one in row.f1],
        }
        for row in rows
    ]


def _confusion(counts: np.ndarray) -> list[list[dict[str, float]]]:
    """Counts with their share of the row (the true class)."""
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = counts / totals
    return [
        [{"count": int(n), "share": float(share)} for n, share in zip(own, part, strict=True)]
        for own, part in zip(counts, shares, strict=True)
    ]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
