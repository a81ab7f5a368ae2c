"""A question added in one module has its flags, refusals, columns, page, JSON and docs."""

import json
import sys

import polars as pl
import pytest
from pydantic import Field

from mnemoscope.audits.asking import Answer
from mnemoscope.audits.questions import QUESTIONS, Question, audit_settings
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.cli.app import make_command
from mnemoscope.columns import Column
from mnemoscope.errors import UserError
from tests.audits.conftest import BRIEF
from tools.reference import AUDIT_PAGE, filled_audit_page


class ToySettings(AuditSettings):
    """How vowels are counted."""

    vowels: str | None = Field(default=None, description="Letters that count as vowels.")
    vowel_weight: int = Field(default=1, ge=0, description="Weight of each.")


COLUMNS = {"n_vowels": Column(pl.Int64, "vowels of the passage, weighted")}
TABLE = {"letter": Column(pl.String, "a vowel"), "times": Column(pl.Int64, "how often it stands")}


def ask(audit):
    """Count them."""
    texts, letters = audit.passages["text"], list(audit.settings.vowels)
    counts = {one: sum(text.count(one) for text in texts) for one in letters}
    weight = audit.settings.vowel_weight
    n = [weight * sum(map(text.count, letters)) for text in texts]
    return Answer({"n_vowels": n}, pl.DataFrame(list(counts.items()), [*TABLE], orient="row"),
                  {"whole": sum(n)})  # fmt: skip


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_question", sys.modules[__name__])
    monkeypatch.setitem(QUESTIONS, "toy", Question("vowels", "toy_question", ToySettings))


def test_it_is_in_flags_refusals_columns_json_page_and_docs(toy, audited, trained, tmp_path):
    commands = make_command().commands
    flags = {verb: {one for p in commands[verb].params for one in p.opts} for verb in commands}
    assert {"--vowels", "--vowel-weight"} <= flags["audit"]
    assert not {"--vowels"} & (flags["audit api"] | flags["audit rank"])
    with pytest.raises(UserError, match="vowel_weight: only with vowels"):
        audit_settings(vowel_weight=2)
    with pytest.raises(UserError, match=r"vowel_weight: .*got -1"):
        audit_settings(vowels="a", vowel_weight=-1)

    asked = audit_settings(**BRIEF, vowels="ae", vowel_weight=3)
    _, spans = audited(tmp_path, trained[0], settings=asked)
    n = [3 * (text.count("a") + text.count("e")) for text in spans["text"]]
    assert spans["n_vowels"].to_list() == n != []
    out = tmp_path / "out"
    record = json.loads((out / "audit.json").read_text())
    assert record["toy"] == {"whole": sum(n)}
    assert (record["settings"]["vowels"], "toy.parquet" in record["files"]) == ("ae", True)
    assert pl.read_parquet(out / "toy.parquet").columns == [*TABLE]
    page = (out / "audit.html").read_text()
    for said in (
        "N vowels",
        f"<dd>{n[0]}</dd>",
        "<h2>Vowels</h2>",
        "--vowel-weight 3",
        "<th>letter",
    ):
        assert said in page
    docs = filled_audit_page(AUDIT_PAGE.read_text("utf-8"))
    for said in ("| `n_vowels` | vowels of the", "## `toy.parquet`", "| `vowel_weight` | `1` |"):
        assert said in docs


def test_docs_have_the_tables_that_the_code_has():
    page = AUDIT_PAGE.read_text("utf-8")
    assert page == filled_audit_page(page)  # make docs writes them


def test_help_is_short_and_every_setting_has_its_flag(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    usual, whole = call("audit", "--help").out, call("audit", "--help-all").out
    assert len(usual.strip().splitlines()) <= 40
    assert "--near-gap" not in usual
    for question in QUESTIONS.values():
        for name in question.fields:
            assert f"--{name.replace('_', '-')} " in whole
    assert call("audit", "--help").out == usual


def test_settings_come_from_a_file_and_flags_go_before(succeed, tmp_path, trained):
    (tmp_path / "a.txt").write_text(trained[0])
    (tmp_path / "s.yaml").write_text("suffix: 8\nnear-length: 0\nedits: 0\nstride: 4\n")
    given = ("audit", "embedded", tmp_path / "a.txt", "-o", tmp_path / "out", "-q")
    succeed(*given, "--settings", tmp_path / "s.yaml", "--stride", 16)
    settings = json.loads((tmp_path / "out" / "audit.json").read_text())["settings"]
    assert (settings["suffix"], settings["near_length"], settings["stride"]) == (8, 0, 16)
