"""Fixtures: the shipped models, and texts whose truth is known."""

import random
import sys
from pathlib import Path

import polars as pl
import pytest

from mnemoscope.audit.documents import read_documents
from mnemoscope.audit.local import LocalModel, audit_documents
from mnemoscope.audit.verify import verify_audit
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.lm.load import load_model

sys.path.append(str(Path(__file__).parent))  # for the modules beside the tests

_WORDS = (
    "lamp hill green seven birds marrow lane sing supper garden copper moss yellow twelve boats "
    "ferry crane winter letter harbour velvet onion ladder quiet thunder"
)


@pytest.fixture(scope="session")
def lm():
    return load_model(str(model_path()), device="cpu")


@pytest.fixture(scope="session")
def reference():
    return load_model(str(reference_path()), device="cpu")


@pytest.fixture(scope="session")
def sequences():
    return pl.read_parquet(sequences_path())


@pytest.fixture(scope="session")
def new_text():
    """Text that no model has seen: words drawn by a seed."""

    def new_text(seed, n_words):
        generator, known = random.Random(seed), _WORDS.split()
        words = (generator.choice(known) + "." * (generator.random() < 0.1) for _ in range(n_words))
        return " ".join(words)

    return new_text


@pytest.fixture(scope="session")
def trained(sequences):
    """Texts that the embedded model saw more than five times, prose."""
    rows = sequences.filter((pl.col("duplicates") > 5) & (pl.col("genre") == "prose"))
    return rows["text"].head(4).to_list()


@pytest.fixture(scope="session")
def audited(lm):
    """Audit a text in a folder, as `a.txt`: the record and the spans."""

    def audited(folder, text, *, model=lm, **options):
        (folder / "a.txt").write_text(text, encoding="utf-8")
        reading = read_documents([str(folder / "a.txt")])
        record = audit_documents(model, reading, folder / "out", **options)
        return record, pl.read_parquet(folder / "out" / "spans.parquet")

    return audited


@pytest.fixture(scope="session")
def verify():
    """Verify an audit of a model that runs here."""

    def verify(out, model):
        return verify_audit(out, lambda _, *asked: LocalModel(model, *asked))

    return verify
