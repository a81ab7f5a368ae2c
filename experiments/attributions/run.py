r"""The tables of `docs/appendix/attributions.md`: what attributions agree on and say of the CNN.

mnemoscope localize STUDY --redo \
    --set 'localize.attributions=[gradient,guided,integrated,occlusion]'
python -m experiments.attributions.run STUDY --write docs/appendix/attributions.md
"""

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import polars as pl

import mnemoscope as ms
from experiments.pages import show_tables, table_of

CHECKS = {
    "halves": "halves",
    "attention itself": "attention",
    "top layer drawn anew": "randomized, first",
    "all layers drawn anew": "randomized, last",
    "labels permuted": "permuted",
}


def spread(values: pl.Series) -> str:
    """Mean over classes and the smallest and largest; a dash where there is none."""
    known = values.drop_nulls().to_numpy()
    if not len(known):
        return "–"
    text = f"{known.mean():.2f} ({known.min():.2f} to {known.max():.2f})"
    return text.replace("-", "−")


def pair_rows(found: pl.DataFrame) -> Iterator[list[str]]:
    """A row a taxonomy and pair of attributions: rank correlation and overlap of Δ."""
    for taxonomy in found["taxonomy"].unique(maintain_order=True):
        rows = found.filter(taxonomy=taxonomy, check="attributions")
        for one, other in combinations(rows["attribution"].unique(maintain_order=True), 2):
            pair = rows.filter(attribution=one, against=other)
            yield [taxonomy, f"{one}, {other}", spread(pair["spearman"]), spread(pair["overlap"])]


def check_rows(found: pl.DataFrame) -> Iterator[list[str]]:
    """A row a taxonomy, attribution and map: its rank correlation with what it is held against."""
    for taxonomy in found["taxonomy"].unique(maintain_order=True):
        rows = found.filter(taxonomy=taxonomy)
        for attribution in rows["attribution"].unique(maintain_order=True):
            for of in ("D", "Δ"):
                own = rows.filter(attribution=attribution, of=of)
                yield [
                    taxonomy,
                    attribution,
                    of,
                    *(spread(_of(own, one)) for one in CHECKS.values()),
                ]


def _of(rows: pl.DataFrame, check: str) -> pl.Series:
    """The rank correlations of one check, a class each; of the cascade the first or last step."""
    name, _, step = check.partition(", ")
    rows = rows.filter(check=name)
    if step and not rows.is_empty():
        layers = rows["against"].unique(maintain_order=True)
        rows = rows.filter(against=layers[0 if step == "first" else -1])
    return rows["spearman"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    parser.add_argument("--name", default="checks", help="of the tables, as the page has several")
    options = parser.parse_args()
    study = ms.Study(options.study)
    taxonomies = study.settings.label.taxonomies
    agreements = study.read("agreement.parquet").filter(pl.col("taxonomy").is_in(taxonomies))
    pairs = ["taxonomy", "attributions", "rank correlation of Δ", "overlap of the top 1 %"]
    checks = table_of(["taxonomy", "attribution", "of", *CHECKS], check_rows(agreements))
    page = table_of(pairs, pair_rows(agreements)) + "\n" + checks
    show_tables(page, options.write, options.name)
