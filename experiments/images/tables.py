"""The tables of `docs/images.md`: verdicts and figures by kind of caption, and where."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.pages import table_of
from mnemoscope.diffusion.measures import MEASURES

PAGE = "docs/images.md"
STORED = {
    "whole": "the whole picture",
    "half": "one half of it",
    "duplicated": "one picture of six captions",
    "fresh": "other waves each time",
    "pattern": "nothing: never read, asked with a new picture like the stored ones",
}
MAPS = {
    "mask": "bright ending",
    "control_mask": "bright ending of the control",
    "mask beyond": "bright ending beyond the control",
    "where": "guidance",
    "control_where": "guidance of the control",
    "where beyond": "guidance beyond the control",
}


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Of each kind of network verdicts with AUC, and pixel AUC; one figure a seed."""
    made = {}
    for kind, runs in found["runs"].items():
        columns = ["what is stored", "captions", "memorized", "figure"]
        columns += ["AUC, model", "AUC, control", "AUC, beyond the control"]
        made[PAGE, f"verdicts, {kind}"] = table_of(columns, _verdicts(runs))
        columns = ["map", "pixel AUC of the half", "of others, a half dealt to each"]
        rows = [
            [said, *(_each(run["pixels"][name][at] for run in runs) for at in (0, 1))]
            for name, said in MAPS.items()
        ]
        made[PAGE, f"pixels, {kind}"] = table_of(columns, rows)
        columns = ["what is stored", "made again", "the model's distance from it"]
        columns += ["made again without guidance", "the control's"]
        made[PAGE, f"again, {kind}"] = table_of(columns, _again(runs))
    return made


def _verdicts(runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for at, one in enumerate(runs[0]["by_label"]):
        every = [run["by_label"][at] for run in runs]
        areas = [
            _each(row[who]["value"] for row in every) for who in ("model", "control", "beyond")
        ]
        measure = next(key for key, said in MEASURES.items() if said == one["measure"])
        called = ", ".join(str(run["memorized"][measure].get(one["label"], 0)) for run in runs)
        yield [STORED[one["label"]], str(one["n"]), called, one["measure"], *areas]


def _again(runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for name in runs[0]["again"]:
        every = [run["again"][name] for run in runs]
        figures = [
            _each(None if row[at] is None else -row[at] for row in every) for at in (1, 2, 3)
        ]
        yield [STORED[name], ", ".join(str(row[0]) for row in every), *figures]


def _each(values: Any) -> str:
    return ", ".join("–" if one is None else f"{one:.2f}" for one in values)
