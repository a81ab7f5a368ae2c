"""Stage `search`: the taxonomies that attention bears out best, chosen apart from their figure.

`mnemoscope search STUDY`. Every rung keeps the best of its taxonomies and gives them more: a
regression on pooled statistics, short CNNs, then CNNs as in any study. The choice is made on the
selection part; what is reported of the chosen comes from the final part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import polars as pl
import yaml

from mnemoscope.atomic_write import write_text
from mnemoscope.benchmark.objective import OBJECTIVES, ObjectiveName, measure_objective
from mnemoscope.benchmark.votes import Votes
from mnemoscope.errors import UserError
from mnemoscope.stages.capture import capture_rows
from mnemoscope.stages.models import Models
from mnemoscope.stages.search_extra import load_optuna
from mnemoscope.stages.search_measures import add_measures
from mnemoscope.stages.search_proposals import Proposals, propose_candidates
from mnemoscope.stages.search_rows import PARTS, Candidate, candidate_of, searched_rows
from mnemoscope.stages.search_trainings import Rung, collect, train
from mnemoscope.stages.search_words import describe_search
from mnemoscope.study import Study
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.search_space import make_space

__all__ = ["FOUND_FILE", "SEARCH_FILE", "search_stage", "search_words"]

SEARCH_FILE = "search.parquet"
FOUND_FILE = "search.yaml"

_CONTROLS = ("blind", "ngram", "reference")


@dataclass
class _Entry:
    """One taxonomy of the search: as far as it came, and what it scored there."""

    candidate: Candidate
    is_beside: bool = False
    scores: dict[str, float | None] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)


def search_stage(study: Study, models: Models) -> None:
    """Write `search.parquet` (a row a taxonomy tried) and `search.yaml` (the finalists).

    Raises:
        UserError: no maps, an unknown node or range, optuna missing, too few sequences.
    """
    study.require("capture")
    load_optuna()
    wanted = study.settings.search
    with study.finishing("search") as counts:
        beside = load_taxonomies(wanted.beside) if wanted.beside else []
        if wanted.capture_all:
            _capture_all(study, models)
        add_measures(study, models)
        rows = searched_rows(study)
        learned_from = rows.filter(pl.col("is_memorized") & (pl.col("part") == "train"))
        space = make_space(wanted.nodes, learned_from, classes=wanted.classes)
        proposals = propose_candidates(study, rows, space)
        entries = [
            _Entry(one, scores={"cheap": proposals.scores[one.digest]}) for one in proposals.scored
        ]
        references, impossible = [], {}
        for taxonomy in beside:
            candidate = candidate_of(rows, taxonomy, wanted)
            if isinstance(candidate, Candidate):
                references.append(_Entry(candidate, is_beside=True))
            else:
                impossible[taxonomy.name] = candidate
        finalists = _climb(study, entries, references)
        for entry in [*finalists, *references]:
            entry.final = _final_figures(study, entry)
        study.write(SEARCH_FILE, _table(entries, references, finalists))
        _write_found(study, [one.candidate for one in finalists])
        counts |= _counts(rows, proposals, space.n_taxonomies) | {"impossible_beside": impossible}
    study.forget("report")  # it shows the search where there is one


def search_words(study: Study) -> list[str]:
    """The result of a finished search in plain words.

    Args:
        study: with the stage done.

    Raises:
        UserError: it has not been run.
    """
    study.require("search")
    manifest = study.manifest("search")
    assert manifest is not None
    return describe_search(study.read(SEARCH_FILE), manifest["counts"], study.settings.search)


def _capture_all(study: Study, models: Models) -> None:
    """Capture every memorized sequence and half as many others, whatever is stored already."""
    table = study.sequences.filter(pl.col("is_memorized").is_not_null())
    memorized = table.filter(pl.col("is_memorized"))
    suffix = study.settings.label.non_memo_suffix
    others = table.filter(~pl.col("is_memorized"))
    if suffix == "own":
        others = others.filter(pl.col("continuation").is_not_null())
    n_others = min(others.height, ceil(memorized.height / 2))
    others = others.sample(n_others, seed=study.settings.search.seed)
    wanted = [(memorized, "true"), (others, suffix)]
    capture_rows(
        study,
        models,
        pl.concat(
            rows.select("sequence_id", pl.lit(shown).alias("suffix")).sort("sequence_id")
            for rows, shown in wanted
        ),
    )


def _climb(study: Study, entries: list[_Entry], references: list[_Entry]) -> list[_Entry]:
    """Successive halving: the finalists, best first."""
    wanted = study.settings.search
    rungs = [
        Rung("brief", "brief", tuple(wanted.seeds[:1])),
        Rung("full", study.settings.train.preset, tuple(wanted.seeds)),
    ]
    kept = _best(entries, "cheap", _n_kept(len(entries), study))
    for rung in rungs:
        with_references = [*kept, *(references if rung.name == "full" else [])]
        train(study, [one.candidate for one in with_references], rung)
        for entry in with_references:
            sources = _compared(collect(study, entry.candidate, rung, "select"))
            entry.scores[rung.name] = _score(sources, wanted.objective)
        n_kept = wanted.finalists if rung.name == "full" else _n_kept(len(kept), study)
        kept = _best(kept, rung.name, n_kept)
        if not kept:
            raise UserError(
                f"{study.folder}: no CNN of the search learned anything ({rung.name} rung). "
                "Capture more sequences (--capture-all)."
            )
    return kept


def _n_kept(n: int, study: Study) -> int:
    """How many of a rung go on."""
    wanted = study.settings.search
    return max(wanted.finalists, ceil(n / wanted.reduction))


def _best(entries: Sequence[_Entry], rung: str, n: int) -> list[_Entry]:
    """The best of a rung, best first; ties by name, so that the order is the same every time."""
    scored = [one for one in entries if one.scores.get(rung) is not None]
    scored.sort(key=lambda one: (-(one.scores[rung] or 0.0), one.candidate.taxonomy.name))
    return scored[:n]


def _compared(sources: dict[str, Votes]) -> dict[str, Votes]:
    """The model and the controls that an excess is counted over."""
    return {name: one for name, one in sources.items() if name in ("model", *_CONTROLS)}


def _score(sources: dict[str, Votes], objective: ObjectiveName) -> float | None:
    """The objective, None where no CNN of the model, or no control that is needed, trained."""
    if "model" not in sources or (len(sources) < 2 and objective in ("excess", "auc_excess")):
        return None
    return measure_objective(sources, objective).value


def _final_figures(study: Study, entry: _Entry) -> dict[str, Any]:
    """Every figure of one taxonomy on the final part, with intervals."""
    wanted, resamples = study.settings.search, study.settings.benchmark.n_resamples
    rung = Rung("full", study.settings.train.preset, tuple(wanted.seeds))
    sources = _compared(collect(study, entry.candidate, rung, "final"))
    figures: dict[str, Any] = {}
    for name in OBJECTIVES:
        if _score(sources, name) is None:
            continue
        found = measure_objective(sources, name, seed=wanted.seed, n_resamples=resamples)
        figures |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    controls = {name: one for name, one in sources.items() if name != "model"}
    of_each = {name: _score({"model": one}, "min_f1") or 0.0 for name, one in controls.items()}
    return figures | {"strongest": max(of_each, key=of_each.__getitem__, default=None)}


def _table(
    entries: Sequence[_Entry], references: Sequence[_Entry], finalists: Sequence[_Entry]
) -> pl.DataFrame:
    """One row a taxonomy: finalists, what stands beside them, then the rest by how far it came."""
    rest = [one for one in entries if one not in finalists]
    rest.sort(key=lambda one: (-len(one.scores), -(list(one.scores.values())[-1] or 0.0)))
    places = {id(one): place for place, one in enumerate(finalists, start=1)}
    rows = [
        {
            "taxonomy": one.candidate.taxonomy.name,
            "classes": len(one.candidate.taxonomy.classes),
            "kind": "beside" if one.is_beside else "found",
            "place": places.get(id(one)),
            **{rung: one.scores.get(rung) for rung in ("cheap", "brief", "full")},
            **{name: one.final.get(name) for name in _final_names()},
            "strongest": one.final.get("strongest"),
            **{f"n_{part}": one.candidate.counts[part] for part in PARTS},
        }
        for one in [*finalists, *references, *rest]
    ]
    return pl.DataFrame(rows, schema=_schema())


def _final_names() -> list[str]:
    """Columns of the final figures."""
    return [f"{name}{end}" for name in OBJECTIVES for end in ("", "_low", "_high")]


def _schema() -> pl.Schema:
    """The columns of `search.parquet`."""
    floats = ["cheap", "brief", "full", *_final_names()]
    return pl.Schema(
        {"taxonomy": pl.String, "classes": pl.Int64, "kind": pl.String, "place": pl.Int64}
        | dict.fromkeys(floats, pl.Float64)
        | {"strongest": pl.String}
        | {f"n_{part}": pl.Int64 for part in PARTS}
    )


def _write_found(study: Study, finalists: Sequence[Candidate]) -> None:
    """The finalists as a file of taxonomies, with the user's own nodes that they hold."""
    taxonomies = [one.taxonomy for one in finalists]
    own = study.settings.search.nodes
    files = [path for path in own if path.lower().endswith((".yaml", ".yml"))]
    nodes = _own_nodes(files, taxonomies)
    content: dict[str, Any] = {"nodes": nodes} if nodes else {}
    content["taxonomies"] = [one.name for one in taxonomies]
    head = f"# Found by 'mnemoscope search {study.folder.name}'; use: -t {FOUND_FILE}\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
    write_text(study.folder / FOUND_FILE, head + text)


def _own_nodes(files: Sequence[str], taxonomies: Sequence[Any]) -> list[dict[str, str]]:
    """The user's own nodes that any of the taxonomies names, as YAML entries."""
    from mnemoscope.taxonomy.yaml_file import read_nodes

    given = {
        node.name: node for path in files for nodes in read_nodes(path).values() for node in nodes
    }
    named = {
        part
        for taxonomy in taxonomies
        for node in taxonomy.nodes
        for part in node.name.split("-or-")
    }
    return [
        {"name": name, "yes_when": node.cuts[0].column, "meaning": node.meaning}
        for name, node in given.items()
        if name in named
    ]


def _counts(rows: pl.DataFrame, proposals: Proposals, n_taxonomies: int) -> dict[str, Any]:
    """What the manifest keeps of a search."""
    memorized = rows.filter(pl.col("is_memorized"))
    return {
        "sequences": rows.height,
        "memorized": memorized.height,
        **{f"memorized_{part}": int((memorized["part"] == part).sum()) for part in PARTS},
        "space": n_taxonomies,
        "proposed": proposals.n_proposed,
        "tried": len(proposals.scored) + proposals.n_untrained,
        "same": proposals.n_same,
        "too_small": proposals.n_small,
        "untrained": proposals.n_untrained,
    }
