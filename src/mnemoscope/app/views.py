"""What the app shows, rendered: an audit, the maps of a sequence, a finished study to browse."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.audits import page
from mnemoscope.audits.passages import in_order, stretch_of, whole_passages
from mnemoscope.audits.records import AuditRecord, read_audit
from mnemoscope.audits.verify import read_again
from mnemoscope.errors import UserError
from mnemoscope.pipeline.label import LABELS_FILE
from mnemoscope.report import style
from mnemoscope.study.folder import Study
from mnemoscope.study.records import Model
from mnemoscope.words import UNKNOWN, interval, mark_hidden, percent

if TYPE_CHECKING:  # torch is imported where a study or a map is shown
    from mnemoscope.audits.ground import CnnGround
    from mnemoscope.maps.store import MapStore
    from mnemoscope.report.content import TaxonomyResult

MAP_INK = (120, 126, 138)
DELTA_INK = (59, 125, 216)
"""Red, green and blue that can be seen on light and dark; Δ is blue as in the report."""
DOWNLOADS = {
    "audit.html": "text/html",
    "report.html": "text/html",
    "audit.json": "application/json",
    "audit.sarif": "application/json",
}
"""Files of an audit that a visitor can take along, with their types."""
EVERY_CLASS = "all"
"""Stands for every class of a taxonomy, and for what has none."""
PAGE_ROWS = 12
"""Sequences on a page."""

_MOST_EDGES = 6
_MOST_WORDS = 200  # characters of what is searched
_FEATURES = (
    *("duplicates", "memorization_score", "rouge_l", "rouge_3"),
    *("is_incrementing", "is_repeating", "is_code", "genre", "form", "inserted", "document"),
)


@dataclass(frozen=True)
class Result:
    """An audit that has been made or opened.

    `record` is that of `audit.json`, `passages` what `audits.passages.whole_passages` gives;
    `texts` gives every document by its name, None where it is not there any more; `files` are
    those that can be downloaded.
    """

    record: AuditRecord
    passages: Sequence[Mapping[str, Any]] = field(repr=False)
    texts: Mapping[str, str | None] = field(repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        record: AuditRecord,
        frame: pl.DataFrame,
        texts: Mapping[str, str | None],
        folder: Path,
    ) -> "Result":
        """The passages of a table of spans; of the audit's folder `DOWNLOADS` are kept."""
        paths = [path for path in map(folder.joinpath, DOWNLOADS) if path.is_file()]
        files = {path.name: path.read_bytes() for path in paths}
        return cls(record, whole_passages(frame), texts, files)

    def row(self, number: Any) -> Mapping[str, Any]:
        """The passage of a number that came from a page; UserError if there is none."""
        if type(number) is not int or not 1 <= number <= len(self.passages):
            raise UserError("no such passage.")
        return self.passages[number - 1]


def open_audit(folder: Path) -> Result:
    """Open the folder of an audit; a document that was changed since is not shown.

    Raises UserError: no audit there. DamagedDataError: a file that cannot be read.
    """
    record, frame = read_audit(folder)
    there = read_again(folder, record, copies=True)
    texts = {
        row["document"]: found.text if found and found.sha256 == row["sha256"] else None
        for row in record["documents"]
        for found in [there.get(row["document"])]
    }
    return Result.of(record, frame, texts, folder)


def render_result(result: Result) -> str:
    """Render the shares and the documents; a passage carries its number in `data-pick`."""
    texts = [text for text in result.texts.values() if text is not None]
    is_whole = sum(map(len, texts)) <= page.WHOLE_UP_TO
    documents = []
    for summary in result.record["documents"]:
        own = [row for row in result.passages if row["document"] == summary["document"]]
        text = result.texts.get(summary["document"])
        pieces = (
            None
            if text is None
            else list(page.stretches(text, [*map(stretch_of, own)], is_whole=is_whole))
        )
        documents.append({**summary, "pieces": pieces, "rows": own})
    # In the page itself, so that nothing of a visitor's document stands on disk.
    downloads = [
        {"name": name, "uri": f"data:{DOWNLOADS[name]};base64,{b64encode(data).decode()}"}
        for name, data in result.files.items()
    ]
    return render(
        "result.html.j2",
        record=result.record,
        documents=documents,
        downloads=downloads,
        passages=in_order(result.passages),
    )


def render_card(result: Result, number: Any) -> str:
    """Render the evidence of one passage, and which of how many it is in the list.

    Raises UserError: there is no such passage.
    """
    row = result.row(number)
    order = [one["number"] for one in in_order(result.passages)]
    place, n = order.index(row["number"]) + 1, len(order)
    return render("evidence.html.j2", record=result.record, row=row, place=place, n=n)


def render(template: str, **values: Any) -> str:
    """Fill one of our templates; every text is escaped."""
    return style.fill(page.environment("mnemoscope.app").get_template(template), **values)


@dataclass(frozen=True)
class SequenceMaps:
    """Attention of one sequence, pooled over heads: (layers, query, key), and each token's text."""

    mean: np.ndarray
    max: np.ndarray
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class ClassDelta:
    """Δ of one class.

    `scaled` is (layers, query, key), each layer divided by its maximum over all classes.
    """

    name: str
    scaled: np.ndarray
    attribution: str = ""


class Edge(NamedTuple):
    """One weight: which token looks at which; layers count from 0, tokens from 1."""

    layer: int
    query: int
    key: int
    weight: float


def strongest_edges(maps: SequenceMaps, delta: ClassDelta) -> list[Edge]:
    """Where the sequence has attention that Δ of the class counts on, the strongest first.

    A layer's Δ is scaled to 1, so layers compare by their attention weights.
    """
    product = maps.mean * delta.scaled
    order = np.argsort(product, axis=None)[::-1][:_MOST_EDGES]
    layers, queries, keys = np.unravel_index(order, product.shape)
    found = zip(layers.tolist(), queries.tolist(), keys.tolist(), strict=True)
    return [
        Edge(layer, query + 1, key + 1, float(maps.mean[layer, query, key]))
        for layer, query, key in found
        if product[layer, query, key] > 0
    ]


def render_maps(maps: SequenceMaps, delta: ClassDelta | None = None, note: str = "") -> str:
    """Render maps, with Δ of their shape over them; `note` says why there is none."""
    from mnemoscope.report.charts import scale_by_layer

    if delta is not None and delta.scaled.shape != maps.mean.shape:
        delta, note = None, "Δ of the study is of another shape than these maps."
    edges = [] if delta is None else strongest_edges(maps, delta)
    scaled = (scale_by_layer(one[None])[0] for one in (maps.mean, maps.max))
    return render(
        "maps.html.j2",
        layers=[
            {
                "mean": _ink(mean, MAP_INK),
                "max": _ink(largest, MAP_INK),
                "delta": None if delta is None else _ink(delta.scaled[number], DELTA_INK),
            }
            for number, (mean, largest) in enumerate(zip(*scaled, strict=True))
        ],
        delta=delta,
        note=note,
        length=maps.mean.shape[-1],
        pieces=["".join(one.text for one in mark_hidden(text)) for text in maps.pieces],
        edges=[
            edge._asdict()
            | {"query_text": maps.pieces[edge.query - 1], "key_text": maps.pieces[edge.key - 1]}
            for edge in edges
        ],
    )


def _ink(scaled: np.ndarray, colour: tuple[int, int, int]) -> str:
    from mnemoscope.report.charts import png_ink, png_uri

    return png_uri(png_ink(scaled, colour))


class BrowsedStudy:
    """A study as the app shows it; what is read is kept.

    Its sequences must be labelled; where it has no CNNs, `missing` says why. `model_folder`, for
    the tokenizer, is None where the model is not on this machine. Raises UserError: no study, or
    not labelled.
    """

    def __init__(self, folder: Path, model_folder: str | None = None) -> None:
        from mnemoscope.report.advice import missing_of

        self.study: Study = Study(folder)
        self.study.require("label")
        self.missing: str | None = missing_of(self.study)
        self._model_folder = model_folder
        self.grounds: dict[tuple[str, int], CnnGround] = {}  # by weights and tokens shown

    @property
    def model(self) -> Model | None:
        """The study's record of its model; None where none was asked."""
        return self.study.record["models"].get("model")

    @cached_property
    def taxonomies(self) -> "dict[str, TaxonomyResult]":
        """Results by name."""
        from mnemoscope.report.content import taxonomy_results

        is_trained = self.missing is None
        return {one.name: one for one in taxonomy_results(self.study, is_trained=is_trained)}

    @cached_property
    def _table(self) -> pl.DataFrame:
        return self.study.sequences

    @cached_property
    def _labels(self) -> pl.DataFrame:
        return self.study.read(LABELS_FILE)

    @cached_property
    def _store(self) -> "MapStore":
        from mnemoscope.pipeline.stored_maps import open_maps

        return open_maps(self.study, "model")

    @cached_property
    def _tokenizer(self) -> Any:
        from mnemoscope.lm.tokenizer import load_tokenizer

        return None if self._model_folder is None else load_tokenizer(self._model_folder)

    def taxonomy(self, name: Any) -> "TaxonomyResult":
        """The result of a name that came from a page; UserError if the study has none."""
        if name not in self.taxonomies:
            raise UserError("no such taxonomy in this study.")
        return self.taxonomies[name]

    def deltas(self, name: str) -> list[ClassDelta]:
        """Δ of each class of a taxonomy, of the first attribution; empty where there is none."""
        from mnemoscope.report.charts import scale_by_layer

        result = self.taxonomy(name)
        if not result.deltas:
            return []
        first = result.deltas[0]
        return [
            ClassDelta(one["name"], scaled, first.attribution)
            for one, scaled in zip(result.classes, scale_by_layer(first.delta), strict=True)
        ]

    def render_taxonomy(self, name: Any) -> str:
        """Render classes, figures, confusion matrix, Δ and grafts of a taxonomy."""
        from mnemoscope.report.grafts import graft_of

        result = self.taxonomy(name)
        main = result.main
        return render(
            "taxonomy.html.j2",
            result=result,
            missing=self.missing,
            main=main,
            graft=graft_of(self.study, result.name),
            folder=self.study.folder,
            names=[one["name"] for one in result.classes],
            figures=[
                {
                    "source": f"{row['name']}: {row['detail']}",
                    "min_f1": percent(row["min_f1"].value),
                    "interval": interval(row["min_f1"]),
                    "f1": [percent(one.value) for one in row["f1"]]
                    or [UNKNOWN] * len(result.classes),
                }
                for row in main.rows.values()
            ]
            if main
            else [],
            confusion=[
                [{"count": n, "share": n / max(sum(own), 1)} for n in own]
                for own in main.model["confusion"]
            ]
            if main and main.model and main.model["confusion"]
            else None,
            deltas=[
                {"name": one.name, "layers": [_ink(layer, DELTA_INK) for layer in one.scaled]}
                for one in self.deltas(result.name)
            ],
        )

    def sequences(self, name: Any, class_name: Any, words: str = "") -> pl.DataFrame:
        """The sequences of a class, or of all, that hold these words, in the table's order.

        Raises UserError: no such taxonomy or class.
        """
        result = self.taxonomy(name)
        if class_name not in [EVERY_CLASS, *(one["name"] for one in result.classes)]:
            raise UserError("no such class in this taxonomy.")
        found = self._table
        if class_name != EVERY_CLASS:
            chosen = self._labels.filter(pl.col(result.name) == class_name).select("sequence_id")
            found = found.join(chosen, on="sequence_id", how="semi", maintain_order="left")
        if wanted := words.strip().lower():
            found = found.filter(
                pl.col("text").str.to_lowercase().str.contains(wanted, literal=True)
            )
        return found

    def render_sequences(self, name: Any, class_name: Any, page: Any, words: Any = "") -> str:
        """Render one page of a class's sequences; each carries its number in `data-pick`."""
        words = str(words or "")[:_MOST_WORDS]
        rows = self.sequences(name, class_name, words)
        n_pages = max(1, -(-rows.height // PAGE_ROWS))
        shown = min(max(int(page), 1), n_pages)
        part = rows.slice((shown - 1) * PAGE_ROWS, PAGE_ROWS)
        return render(
            "sequences.html.j2",
            rows=part.select("sequence_id", "text").to_dicts(),
            class_name="" if class_name == EVERY_CLASS else class_name,
            words=words.strip(),
            n=rows.height,
            page=shown,
            n_pages=n_pages,
        )

    def render_sequence(self, sequence_id: Any) -> str:
        """Render a sequence's text and features; UserError if the study has no such sequence."""
        row = self._row(sequence_id).row(0, named=True)
        pieces = self._pieces(row["tokens"])
        half = self.study.settings.sequences.n_prefix
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
            grafts=self._grafts_of(sequence_id),
        )

    def _grafts_of(self, sequence_id: int) -> tuple[int, list[str]] | None:
        """With how many parts of the reference a sequence was asked for, and those that break it.

        None where that was not tried.
        """
        from mnemoscope.pipeline.causes import INTO_MODEL, SEQUENCES_FILE

        if not self.study.is_done("graft"):
            return None
        own = self.study.read(SEQUENCES_FILE).filter(
            pl.col("part") != "",
            sequence_id=sequence_id,
            direction=INTO_MODEL,
            control="twin",
            share=1.0,
        )
        return (
            None
            if own.is_empty()
            else (own.height, own.filter(~pl.col("survives"))["part"].to_list())
        )

    def maps(self, sequence_id: Any) -> SequenceMaps | None:
        """The maps of a sequence with its own suffix, or as stored; None if never captured."""
        import torch

        from mnemoscope.maps.triangle import unpack_triangle

        row = self._row(sequence_id).row(0, named=True)
        if not self.study.is_done("capture"):
            return None
        number = row["sequence_id"]
        suffixes = self._store.index.filter(sequence_id=number)["suffix"].to_list()
        if not suffixes:
            return None
        suffix = "true" if "true" in suffixes else suffixes[0]

        def read(pooling: Literal["mean", "max"]) -> np.ndarray:
            packed = self._store.dataset([number], suffix, pooling).read(torch.tensor([0]))
            return unpack_triangle(packed)[0].float().numpy()

        return SequenceMaps(read("mean"), read("max"), self._pieces(row["tokens"]))

    def _row(self, sequence_id: Any) -> pl.DataFrame:
        found = self._table.clear()
        if type(sequence_id) is int:
            found = self._table.filter(sequence_id=sequence_id)
        if found.is_empty():
            raise UserError("no such sequence in this study.")
        return found[:1]

    def _pieces(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Text of each token; its number where the tokenizer is not on this machine."""
        from mnemoscope.report.content import decode_pieces

        if self._tokenizer is None:
            return tuple(f"[{token}]" for token in tokens)
        return decode_pieces(self._tokenizer, tokens)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
