"""The shipped files: what the card says of them, and that others can open them."""

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest
from huggingface_hub import ModelCard

from mnemoscope.embedded import model_path, reference_path, sequences_path
from tools.embedded.recipe import render_card

ROOT = Path(__file__).parents[2]
DATA = sequences_path().parent
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="made by `make embedded`")


def test_every_file_is_the_one_the_card_names():
    card = json.loads((DATA / "card.json").read_text(encoding="utf-8"))
    found = {
        path.relative_to(DATA).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in DATA.rglob("*")
        if path.is_file() and path.name not in ("CARD.md", "card.json")
    }
    assert found == {name: file["sha256"] for name, file in card["files"].items()}
    assert all(line["is_met"] for line in card["requirements"])
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) <= 24_000_000


def test_card_is_written_from_its_figures_and_a_hub_can_read_it():
    page = (DATA / "CARD.md").read_text(encoding="utf-8")
    assert page == render_card(json.loads((DATA / "card.json").read_text(encoding="utf-8")))
    front = ModelCard(page).data
    assert front.license_name == "apache-2.0-and-psf-2.0"
    assert (ROOT / front.license_link).is_file()
    assert front.pipeline_tag == "text-generation"
    assert {"memorization", "gpt_neox"} <= {*front.tags}


@pytest.mark.parametrize("folder", [model_path(), reference_path()])
def test_transformers_opens_model_and_tokenizer(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    row = pl.read_parquet(sequences_path()).row(0, named=True)
    assert model.config.max_position_embeddings >= 128
    assert tokenizer(row["text"])["input_ids"] == row["tokens"]
    assert tokenizer.decode(row["tokens"]) == row["text"]
