"""Fixtures: tiny random models of many families, and one model that has memorized."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING
from transformers import __version__ as transformers_version

from mnemoscope.lm.model import wrap_model

sys.path.append(str(Path(__file__).parent))  # for the modules beside the tests

from tiny_families import FAMILIES, make_model, make_tokenizer, named, random_tokens


@pytest.fixture(scope="session")
def build():
    """Build a wrapped tiny model: `build("llama", adds_bos=True, hidden_size=16)`."""

    def build(family, *, adds_bos=False, **changes):
        if family not in CONFIG_MAPPING:
            pytest.skip(f"transformers {transformers_version} has no {family}")
        return wrap_model(make_model(family, **changes), make_tokenizer(adds_bos), name=family)

    return build


@pytest.fixture
def lm(build, family):
    """A tiny model of each family, every other one with a BOS token."""
    return build(family, adds_bos=[*FAMILIES].index(family) % 2 == 1)


@pytest.fixture(scope="session")
def tokens():
    return random_tokens


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def memorizer():
    """A model overfitted on 24 random sequences for about a second and a half."""
    model = make_model("gpt_neox", initializer_range=0.02, num_hidden_layers=2)
    seen = torch.from_numpy(random_tokens(24, seed=5)).long()
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(70):
        optimizer.zero_grad()
        model(input_ids=seen, labels=seen).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return wrap_model(model, make_tokenizer(), name="memorizer")


def pytest_generate_tests(metafunc):
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", named(FAMILIES))
