"""Several studies of one depth as one: averages by hand, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from mnemoscope.pipeline.deltas import SOURCES, StoredDelta, load_deltas, pack_deltas
from mnemoscope.pipeline.localize import localize_together
from mnemoscope.report import export
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy.sample import SampleKey
from study_files import put_in_place, rewrite_record

SAMPLE = "Non-Memo, Recite[5], Recollect"
CLASSES = ("Non-Memo", "Recite[5]", "Recollect")


def plant(made: Path, folder: Path, value: float, n_says: tuple[int, ...], sources=SOURCES) -> Path:
    """A copy of a study, of a model of its own, whose Δ is `value` at one edge a class."""
    shutil.copytree(made, folder)
    change(folder, lambda v: v["record"]["models"]["model"].update(fingerprint=str(value)))
    delta = np.zeros((3, 2, 64, 64), dtype=np.float32)
    for index in range(3):
        delta[index, index % 2, 40 + index, 5] = value if n_says[index] else 0
    one = StoredDelta(
        sample=SampleKey(SAMPLE),
        shown=SAMPLE,
        attribution="gradient",
        classes=CLASSES,
        delta=delta,
        n_used=tuple(10 * n for n in n_says),
        n_skipped=(1, 0, 0),
        n_wrong=(2, 3, 4),
        n_cnns=max(n_says),
        source="model",
        n_says=n_says,
    )
    stored = [
        dataclasses.replace(one, source=source, attribution=attribution, delta=delta.copy())
        for source in sources
        for attribution in ("gradient", "guided")
    ]
    put_in_place(folder, decisiveness__safetensors=pack_deltas(stored))
    return folder


def change(folder: Path, how) -> None:
    """Change `study.yaml` behind the program's back; the manifests keep fitting."""
    path = folder / "study.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    how(values)
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    study = Study(folder)
    for manifest in (folder / "manifests").glob("*.json"):
        said = {"key": study.key(manifest.stem)}
        if "model" in json.loads(manifest.read_text()):
            said["model"] = study.record["models"]["model"]["fingerprint"]
        rewrite_record(manifest, **said)


@pytest.fixture
def two(tiny_studies, tmp_path) -> list[Path]:
    """Two CNNs that found .2, and six that found .6 but knew nothing of the last class."""
    made = tiny_studies["report"]
    return [
        plant(made, tmp_path / "first", 0.2, (2, 2, 2)),
        plant(made, tmp_path / "second", 0.6, (6, 2, 0)),
    ]


def test_delta_is_the_mean_over_the_cnns_of_both(two, call, tmp_path, monkeypatch) -> None:
    drawn = {"svg": b"<svg/>", "pdf": b"%PDF", "png": b"png"}
    monkeypatch.setattr(export.Picture, "printed", lambda picture: drawn)  # in tests/report
    out, figures = tmp_path / "new" / "both", tmp_path / "figures"
    result = call("localize", *two, "-o", out, "--export", figures)
    assert result.status == 0, result.err
    table = pl.read_parquet(out / "delta.parquet")
    found = table.filter((pl.col("delta") > 0), source="model", attribution="gradient")
    by_hand = [(2 * 0.2 + 6 * 0.6) / 8, (2 * 0.2 + 2 * 0.6) / 4, 0.2]
    assert found["class"].to_list() == list(CLASSES)
    assert found["delta"].to_list() == pytest.approx(by_hand)
    assert found.select("layer", "query", "key").rows() == [(0, 41, 6), (1, 42, 6), (0, 43, 6)]
    profile = pl.read_parquet(out / "profile.parquet").filter(source="model", attribution="guided")
    wanted = [value / max(by_hand) for value in by_hand]
    assert profile.filter(pl.col("profile") > 0)["profile"].to_list() == pytest.approx(wanted)
    alike = pl.read_parquet(out / "models.parquet").filter(source="model", attribution="gradient")
    # One edge each, the same of both: as alike as can be, and nothing to compare in the last.
    assert alike["pearson"].to_list() == [1.0, 1.0, None]
    assert "8 CNNs" in result.out
    assert "Between models: correlation 1.00" in result.out
    regions = pl.read_parquet(out / "regions.parquet")
    ours = regions.filter(source="model", attribution="gradient", region="suffix → prefix")
    assert ours["share"].to_list() == pytest.approx([1.0, 1.0, 1.0])
    assert "same token earlier" in set(regions.filter(source="blind")["region"])
    names = {path.name for path in figures.iterdir()}
    assert "non-memo-recite-5-recollect-gradient-profile.svg" in names
    assert f"Wrote {len(names)} figures" in result.out


def test_counts_add_up_in_any_order(two) -> None:
    deltas, again = (
        localize_together([Study(folder) for folder in folders]).deltas
        for folders in (two, two[::-1])
    )
    assert {one.source for one in deltas} == set(SOURCES)
    for one, other in zip(deltas, again, strict=True):
        assert (one.n_cnns, one.n_says, one.n_used) == (8, (8, 4, 2), (80, 40, 20))
        assert (one.n_skipped, one.n_wrong) == ((2, 0, 0), (4, 6, 8))
        np.testing.assert_allclose(one.delta, other.delta, atol=1e-7)


def test_a_source_that_not_all_have_is_left_out_and_said(tiny_studies, two, call, tmp_path) -> None:
    third = plant(tiny_studies["report"], tmp_path / "third", 0.3, (1, 1, 1), sources=("model",))
    result = call("localize", *two, third, "-o", tmp_path / "all")
    assert result.status == 0, result.err
    assert "Left out: Non-Memo, Recite[5], Recollect, reference, gradient: no Δ in" in result.out
    table = pl.read_parquet(tmp_path / "all" / "models.parquet")
    assert set(table["source"]) == {"model"}


@pytest.mark.parametrize(
    ("section", "changes", "said"),
    [
        ("record", {"n_layers": 5}, "model of another depth: 5 layers"),
        ("localize", {"rows": "as_run"}, "localize.rows: 'correct' in"),
        ("label", {"n_train": 39}, "label.n_train: 40 in"),
        ("record", {"fingerprint": "0.2"}, "made of the same model"),
    ],
)
def test_studies_not_of_one_kind_are_refused(
    two, refused, tmp_path, section, changes, said
) -> None:
    def how(values) -> None:
        of_model = values["record"]["models"]["model"]
        (of_model if section == "record" else values[section]).update(changes)

    change(two[1], how)
    assert said in refused("localize", *two, "-o", tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_studies_that_share_nothing_are_refused(two, tiny_studies, refused, tmp_path) -> None:
    empty = shutil.copytree(tiny_studies["report"], tmp_path / "empty")
    change(empty, lambda v: v["record"]["models"]["model"].update(fingerprint="empty"))
    other = [
        dataclasses.replace(one, classes=("Non-Memo", "Recite[5]", "Others"))
        for source in SOURCES
        for one in load_deltas(Study(two[1]), source)
    ]
    put_in_place(two[1], decisiveness__safetensors=pack_deltas(other))
    for second, words in ((two[1], "other classes"), (empty, "gradient: no Δ in")):
        said = refused("localize", two[0], second, "-o", tmp_path / "both")
        assert "nothing to put together" in said
        assert words in said


def test_names_flags_and_places_that_cannot_be_are_refused(two, refused, tmp_path) -> None:
    (tmp_path / "file").touch()
    below_file, fresh = tmp_path / "file" / "both", tmp_path / "both"
    for arguments, said in (
        ((two[0], two[0], "-o", fresh), "named twice"),
        ((*two, "-o", "both", "--redo"), "only read"),
        (two, "Add -o FOLDER"),
        ((*two, "-o", two[0]), "is a study"),
        ((two[0], "-o", fresh), "Leave -o out"),
        ((*two, "-o", below_file), "cannot be made"),
        ((*two, "-o", fresh, "--export", below_file), "cannot be made"),
    ):
        assert said in refused("localize", *arguments)
    assert not fresh.exists()
