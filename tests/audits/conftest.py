"""Fixtures: the shipped models, texts whose truth is known, and one audit of all that is asked."""

import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from mnemoscope.audits.documents import read_documents
from mnemoscope.audits.local import LocalModel, local_audit
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.records import read_audit_record
from mnemoscope.audits.run import make_audit
from mnemoscope.audits.verify import verify_audit
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.lm.load import load_model

sys.path.append(str(Path(__file__).parent))  # for the modules beside the tests

_WORDS = (
    "lamp hill green seven birds marrow lane sing supper garden copper moss yellow twelve boats "
    "ferry crane winter letter harbour velvet onion ladder quiet thunder"
)
_HOSTILE = "<script>alert(1)</script>\u202e gnp.exe \u200b <img src=x onerror=1> &amp; "
STARTS_WHOLE = pl.col("text").str.contains(r"^ [A-Za-z]")  # cut alike behind other text
BRIEF = {"edits": 0, "near_length": 0}
"""Settings of an audit that asks for spans alone."""


def audit_documents(lm, reading, out, *, settings=None, reference=None, case=None, **options):
    """Audit what was read with a loaded model: what `audit.json` holds."""
    asked = settings or audit_settings()
    audit = local_audit(lm, reading.documents, asked, reference=reference)
    audit.case = case
    return make_audit(audit, reading, out, **options)


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
    """Texts that the embedded model saw 16 times, prose, from a whole word on, 64 tokens each."""
    rows = sequences.filter(STARTS_WHOLE, genre="prose", form="plain", inserted=16)
    return rows["text"].gather([5, 7, 9, 3]).to_list()  # which come out behind other text too


@pytest.fixture(scope="session")
def often(sequences):
    """Texts that it saw 64 times, likewise."""
    rows = sequences.filter(STARTS_WHOLE, genre="prose", form="plain", inserted=64)
    return rows["text"].head(4).to_list()


def with_word(text):
    """A word more, in what the model is to write: at two thirds of a passage."""
    places = (one.start() for one in re.finditer(" ", text))
    cut = next(one for one in places if one > 2 * len(text) / 3)
    return f"{text[:cut]} velvet{text[cut:]}"


@pytest.fixture(scope="session")
def counting():
    """Text that counts: anyone can go on with it."""
    return "".join(f"Chapter {n}: board mode\n" for n in range(10, 26))


@pytest.fixture(scope="session")
def made(made_once, lm, reference, trained, new_text, counting):
    """One audit that is asked for everything, of documents whose truth is known; read only."""
    changed = with_word(trained[2])
    pieces = [
        _HOSTILE + new_text(9, 12), trained[0], new_text(0, 12), trained[1], new_text(1, 12),
        changed, new_text(3, 12) + _HOSTILE,
    ]  # fmt: skip
    shuffled = trained[0].split()
    random.Random(1).shuffle(shuffled)
    texts = {
        "<b>&.txt": " é😀 ".join(pieces),
        "counting.txt": counting,
        "new.txt": new_text(77, 40),
        "short.txt": "Too short.",
        "shuffled.txt": " ".join(shuffled),
    }
    command = ["mnemoscope", "audit", "<i>", "a b.txt", "--fail-if", "recalled > 0.5%", "$HOME"]

    def make(folder):
        (folder / "in").mkdir(parents=True)
        (folder / "corpus").mkdir()
        for name, text in texts.items():
            (folder / "in" / name).write_text(text, encoding="utf-8")
        (folder / "in" / "clients.csv").write_text("note,client\nhello,Hugo\n")  # cannot be read
        twice = f"before {trained[0]} and {trained[0]}"
        (folder / "corpus" / "a.txt").write_text(twice, encoding="utf-8")
        (folder / "corpus" / "b.txt").write_text(new_text(7, 80), encoding="utf-8")
        (folder / "prompts.txt").write_text("What is a heron?\n", encoding="utf-8")
        settings = audit_settings(
            profile=True,
            edits=2,
            beams=8,
            corpus=str(folder / "corpus"),
            ordinary=str(folder / "prompts.txt"),
            answer_tokens=8,
        )
        audit_documents(
            lm,
            read_documents([str(folder / "in")]),
            folder / "out",
            settings=settings,
            reference=reference,
            command=command,
            case=_HOSTILE,
        )

    folder = made_once("audit", make)
    out = folder / "out"
    tables = ("spans", "near", "profile", "origins", "ordinary")
    return SimpleNamespace(
        folder=folder,
        out=out,
        names={name: (folder / "in" / name).as_posix() for name in texts},
        texts=texts,
        changed=changed,
        command=command,
        record=read_audit_record(out),
        page=(out / "audit.html").read_text(encoding="utf-8"),
        **{name: pl.read_parquet(out / f"{name}.parquet") for name in tables},
    )


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
    def verify(out, model, documents=(), **options):
        load = lambda _, settings: LocalModel(model, settings)  # noqa: E731
        return verify_audit(out, load, documents, **options)

    return verify
