"""Look at what a demo left behind: every file there, figures in their ranges, the page whole."""

import json
import sys
from pathlib import Path

import polars as pl

from mnemoscope.benchmark.sources import TABLE

study = Path(sys.argv[1])
verdicts = pl.read_parquet(study / "verdicts.parquet")
assert verdicts["is_memorized"].sum() > 0.2 * verdicts.height, "hardly anything is memorized"
samples = json.loads((study / "manifests" / "label.json").read_text())["counts"]["samples"]
assert len(samples) == 2, samples
assert not any(entry["impossible"] for entry in samples), samples
scores = pl.read_parquet(study / "benchmark.parquet")
for entry in samples:
    sample = {name: entry[name] for name in ("taxonomy", "variant")}
    rows = scores.filter(**sample)
    sources = set(rows["source"])
    assert sources == set(TABLE), (sample, sources)
    logits = rows.filter(pl.col("source") == "logits")["min_f1"].item()["value"]
    assert logits > 0.5, (sample, logits)  # the positive control must see memorization
grafts = pl.read_parquet(study / "graft.parquet")
assert set(grafts["control"]) == {"twin", "flip", "same size"}, "grafts lack a control"
walks = pl.read_parquet(study / "graft_curves.parquet")
assert set(walks["control"]) == {"random", "spectrum", "permuted"}, "grafts lack their walks"
assert (study / "decisiveness.safetensors").stat().st_size > 10_000
page = (study / "report.html").read_text(encoding="utf-8")
assert page.rstrip().endswith("</html>"), "the report is cut short"
assert all(name in page for name in ("Guess", "Recall", "Reconstruct", "Non-Memo"))
print("1 passed, 0 failed")
