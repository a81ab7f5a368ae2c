"""The tables of `docs/images.md`: figures by kind of caption, where, and what remedies do."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from experiments.pages import figure, table_of
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
    "control mask": "bright ending of the control",
    "beyond mask": "bright ending beyond the control",
    "where": "guidance",
    "control where": "guidance of the control",
    "beyond where": "guidance beyond the control",
}
two = partial(figure, scale=1, digits=2)


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Of each kind of network verdicts with AUC, pixel AUC, and distances before and after."""
    made = {}
    for kind, one in found["runs"].items():
        columns = ["what is stored", "captions", "figure", "memorized, %"]
        columns += ["AUC, model", "AUC, control", "AUC, beyond the control"]
        made[PAGE, f"verdicts, {kind}"] = table_of(columns, map(_verdict, one["verdicts"]))
        columns = ["map", "pixel AUC of the half", "of others, a half dealt to each"]
        rows = [
            [said, *(two(*one["pixels"][name][of]) for of in ("half", "fresh"))]
            for name, said in MAPS.items()
        ]
        made[PAGE, f"pixels, {kind}"] = table_of(columns, rows)
        columns = ["what is stored", "captions", "the model's distance from it", "the control's"]
        rows = [
            [STORED[row["label"]], str(row["n"])]
            + [two(*row[name]) for name in ("model", "control", "nearer")]
            for row in one["apart"]
        ]
        made[PAGE, f"apart, {kind}"] = table_of([*columns, "nearer than the control"], rows)
        columns = ["what is stored", "pictures", "made again", "distance from it"]
        columns += ["further than before", "the control's distance"]
        made[PAGE, f"again, {kind}"] = table_of(columns, _again(one["again"]))
    return made


def _verdict(row: Mapping[str, Any]) -> list[str]:
    areas = [two(*row[who]) for who in ("model", "control", "beyond")]
    about = [STORED[row["label"]], str(row["n"]), MEASURES[row["measure"]]]
    return [*about, figure(*row["memorized"]), *areas]


def _again(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        about, control = [STORED[row["label"]], str(row["n"])], two(*row["control"])
        yield [*about, "no", two(*row["model"]), two(None), control]
        for remedy, made in row["remedies"].items():
            how, _, strength = remedy.partition(" ")
            said = f"{how}, strength {strength}" if strength else how
            yield [*about, said, two(*made["model"]), two(*made["further"]), control]
