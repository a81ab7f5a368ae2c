"""The tables of `docs/images.md`: verdicts and figures by kind of caption, and where."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.pages import table_of

PAGE = "docs/images.md"
STORED = {
    "whole": "the whole picture",
    "half": "one half of it",
    "duplicated": "one picture of six captions",
    "fresh": "other waves each time",
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
    return made


def _verdicts(runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for at, one in enumerate(runs[0]["by_label"]):
        every = [run["by_label"][at] for run in runs]
        areas = [
            _each(row[who]["value"] for row in every) for who in ("model", "control", "beyond")
        ]
        called = ", ".join(str(row["memorized"]) for row in every)
        yield [STORED[one["label"]], str(one["n"]), called, one["measure"], *areas]


def _each(values: Any) -> str:
    return ", ".join("–" if one is None else f"{one:.2f}" for one in values)
