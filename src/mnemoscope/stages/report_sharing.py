"""What the report says of sharing: near duplicates, needs of all samples, names of one division."""

from collections.abc import Iterator

from mnemoscope.report.content import Table
from mnemoscope.stages.benchmark import BENCHMARK_FILE
from mnemoscope.stages.labels import aliases_of, sharing_of
from mnemoscope.study import Study

__all__ = ["sharing_tables"]


def sharing_tables(study: Study) -> Iterator[Table]:
    """Tables of how the samples were drawn.

    Args:
        study: with the benchmark stage done; one labelled before this was counted gives none.
    """
    need = sharing_of(study)
    if need is None:
        return
    facts = study.manifest("label")["counts"]["near_duplicates"]  # type: ignore[index]
    yield Table(
        title="What the samples share",
        columns=("all samples together", "number"),
        rows=(
            ("distinct sequences", need.n_sequences),
            ("distinct maps, each captured once", need.n_maps),
            ("maps if every taxonomy were captured for itself", need.n_unshared),
            ("groups of near duplicates and single sequences in the table", facts["groups"]),
            ("sequences with a near duplicate", facts["sequences_with_relatives"]),
            ("sequences in the largest group", facts["largest_group"]),
        ),
        summary=(
            f"{need}. Near duplicates are sequences whose sets of {facts['shingle']}-token "
            f"shingles have a Jaccard similarity of {facts['jaccard']} or more (all pairs, found "
            "exactly), overlapping windows of one document, and what the table's column group "
            "joins."
        ),
    )
    yield from _alias_table(study)


def _alias_table(study: Study) -> Iterator[Table]:
    """Taxonomies that were not trained, because another divides these sequences alike."""
    aliases = aliases_of(study)
    if not aliases:
        return
    table = study.read(BENCHMARK_FILE).filter(source="model")
    figures = dict(zip(table["taxonomy"], table["min_f1"], strict=True))
    yield Table(
        title="Taxonomies with the figures of another",
        columns=("taxonomy", "trained as", "why", "min-F1"),
        rows=tuple(
            (name, alias.of, alias.reason, figures.get(alias.of)) for name, alias in aliases.items()
        ),
        summary=(
            "Same rule: the two divide any sequences alike. Same labels here: they divide these "
            "sequences alike, for instance where no sequence lies between two thresholds."
        ),
    )
