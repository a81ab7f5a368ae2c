"""The whole recipe on a tiny setting: what it ships, and what its card says of that."""

import hashlib
import json
import shutil

import polars as pl
import pytest

from mnemoscope.embedded import texts
from tools.embedded import recipe
from tools.embedded.recipe import LICENCES, main, run_recipe
from tools.embedded.settings import KINDS, TINY

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def data(tiny_out, tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe") / "tiny"
    shutil.copytree(tiny_out, out)
    return run_recipe(out, TINY)


def test_the_card_names_the_files_and_shows_every_cell_reading_and_licence(data):
    card = json.loads((data / "card.json").read_text(encoding="utf-8"))
    for name, file in card["files"].items():
        assert hashlib.sha256((data / name).read_bytes()).hexdigest() == file["sha256"]
    table = pl.read_parquet(data / "sequences.parquet")
    assert sum(row["n"] for row in card["readings"]) == len(table) == card["n_sequences"]
    for row in card["readings"]:
        key = {name: row[name] for name in ("genre", "form", "inserted")}
        assert table.filter(**key).height == row["n"]
    assert {(row["genre"], row["cell"]) for row in card["cells"]} >= {
        (kind, cell) for kind in KINDS for cell in ("guessed only", "recalled only", "both")
    }
    unread = table.filter(form="refrain", inserted=0)
    assert sum(row["n"] for row in card["periods"]) == unread.height
    assert set(card["counted_as_read"].values()) == {1.0}
    steps = (table["inserted"].sum() + sum(TINY.second_rows)) // TINY.second_batch_size
    assert [card["phases"][role]["steps"] for role in ("model", "reference")] == [steps, steps]
    assert {one.name for one in (data.parent / "first").iterdir()} >= {"model.safetensors"}
    page = (data / "CARD.md").read_text(encoding="utf-8")
    for row in card["readings"]:
        assert f"| {row['genre']} | {row['form']} | {row['inserted']} | {row['n']} |" in page
    for kind, text, licence in LICENCES:
        assert f"| {kind} | {text} | {licence} |" in page
    assert {texts.PSF, texts.LICENCE_TEXT} <= {licence for _, _, licence in LICENCES}
    assert "nan" not in page.lower().replace("finance", "")


def test_a_folder_begun_with_another_setting_is_refused(data, capsys, monkeypatch):
    out = data.parent
    assert main(["--out", str(out), "--setting", "full"]) == 2
    assert "another setting" in capsys.readouterr().err
    monkeypatch.setattr(recipe, "run_recipe", lambda out, setting: out / str(setting.training_seed))
    assert main(["--out", str(out), "--setting", "tiny", "--training-seed", "2"]) == 0
    assert capsys.readouterr().out == f"written: {out / '2'}\n"
