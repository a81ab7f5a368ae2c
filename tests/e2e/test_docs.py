"""What the README and the docs tell a reader to type is typed here."""

import re
import shlex
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import polars as pl
import pytest

from mnemoscope.cli.app import command, verbs
from mnemoscope.embedded import model_path, reference_path, sequences_path, texts
from mnemoscope.study import shapes
from mnemoscope.taxonomy.sample import MINIMUM

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "reference"),
]

COMMANDS = command().commands


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """Commands of shell blocks."""
    return typed("\n".join(blocks(page, "bash")))


def typed(block: str) -> list[list[str]]:
    """Commands of a shell block, continued lines joined, comments dropped."""
    lines = block.replace("\\\n", " ").splitlines()
    words = [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
    return [one for one in words if one]


def verb_of(words: list[str]) -> str:
    both = " ".join(words[1:3])
    return both if both in COMMANDS else words[1]


def options_of(verb: str) -> set[str]:
    command = COMMANDS[verb]
    return {"--help-all"} | {
        one for param in command.params for one in (*param.opts, *param.secondary_opts)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_demo) -> Path:
    """Where a reader would be after `mnemoscope demo -o demo` (a small one)."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "demo").symlink_to(small_demo)
    return folder


def test_commands_of_the_quick_start_run(folder, monkeypatch, succeed):
    some = texts.read_segments(limit=100)  # to read the whole library takes half a minute
    monkeypatch.setattr(texts, "read_segments", lambda: some)
    licences = [*islice(texts._licences(), 30)]
    monkeypatch.setattr(texts, "_licences", lambda: licences)
    monkeypatch.setattr(shapes, "TIMED_SEQUENCES", 4)
    monkeypatch.chdir(folder)
    shown = commands(ROOT / "docs" / "quickstart.md")
    assert len(shown) >= 5
    for program, *arguments in shown:
        if program == "python":
            exec(arguments[1], {})
            continue
        if arguments[0] == "demo":  # the fixture ran it, on a small setting
            assert (folder / "demo" / "report.html").is_file()
            continue
        words = ["embedded" if one in ("MODEL", "TEXTS") else one for one in arguments]
        if words[0] == "run":
            words.append("--dry-run")
        succeed(*words)


@pytest.mark.whole
@pytest.mark.parametrize(
    "page", ["tutorials/audit-for-a-legal-file.md", "tutorials/gate-in-ci.md", "membership.md"]
)
def test_commands_of_the_tutorials_on_audits_run(page, tmp_path, monkeypatch, succeed):
    """As typed, on small texts; a block after the other, each in a folder of its own."""
    prose = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    names = {"MODEL": "embedded", "BASE": "embedded", "TWIN": "embedded", "OTHERS": "others"}
    names |= {"DOCUMENTS": "own", "TEXTS": "own", "CHECKPOINTS": str(model_path())}
    quick = ("--edits", 0, "--stride", 64)
    for number, block in enumerate(blocks(ROOT / "docs" / page, "bash")):
        for at, name in enumerate(("own", "own", "others", "others")):
            text = tmp_path / str(number) / name / f"{at}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(prose[600 * at : 600 * (at + 1)], encoding="utf-8")
        monkeypatch.chdir(tmp_path / str(number))
        if "audit-of-last-release" in block:
            succeed("audit", reference_path(), "own/0.txt", *quick, "-o", "audit-of-last-release")
        for _, *words in typed(block):
            if words[0] in ("audit", "watch") and "difflib" not in str(words):  # a long text
                is_asked = words[:1] == ["audit"] and words[1] not in ("gate", "verify")
                succeed(*(names.get(one, one) for one in words), *quick * is_asked)


@pytest.mark.whole
def test_the_gate_of_the_docs_is_a_test_that_pytest_runs(tmp_path, succeed):
    """As it stands, on small texts: new words pass, what the model has read fails with its text."""
    (block,) = (one for one in blocks(ROOT / "docs" / "python.md", "python") if "def test" in one)
    rows = pl.read_parquet(sequences_path()).filter(genre="prose", form="plain", inserted=64)
    read = "\nA ferry crossed.\n".join(rows["text"].head(2))
    prose = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")[:600]
    succeed("audit", reference_path(), ROOT / "LICENSE", "--stride", 64, "--edits", 0, "-o",
            tmp_path / "audit-of-last-release")  # fmt: skip
    for text, wanted in ((prose, "2 passed"), (prose + read, "2 failed")):
        (tmp_path / "text.txt").write_text(text, encoding="utf-8")
        names = {"MODEL": "embedded", "DOCUMENTS": "text.txt", "BASE": "embedded"}
        for name, own in names.items():
            block = block.replace(f'"{name}"', f'"{own}"')
        (tmp_path / "test_memorization.py").write_text(block)
        shutil.rmtree(tmp_path / "audit", ignore_errors=True)
        asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert wanted in done.stdout, done.stdout
    assert "AssertionError: Failed (recalled > 0.5%): " in done.stdout
    assert "What the model repeats of the documents (" in done.stdout


@pytest.mark.whole
def test_commands_of_the_tutorial_on_a_model_of_ones_own_run(tiny, tmp_path, monkeypatch, succeed):
    """As typed, one after the other on one study, of sequences too few for CNNs."""
    source = pl.read_parquet(tiny.values["sequences"]["source"])
    source.select("tokens").sample(40, seed=0).write_parquet(tmp_path / "texts.parquet")
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": tiny.model, "BASE": tiny.reference, "TEXTS": "texts.parquet"}
    shown = commands(ROOT / "docs" / "tutorials" / "your-model.md")
    assert [words[1] for words in shown] == ["run", "run", "run", "graft", "graft", "report"]
    for _, *words in shown:
        said = succeed(*(names.get(one, one) for one in words)).out
        assert ("No reference was asked" in said) == (words == shown[1][1:])
    state = succeed("status", "my-study").out
    assert "The reference repeats 0 of these" in state
    assert "Grafts so far" in state


@pytest.mark.whole
def test_python_of_the_docs_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for page in PAGES:
        names: dict = {}  # a page goes on with what it has
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), names)


def test_verbs_and_make_targets_of_the_docs_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        for words in commands(page):
            if words[0] == "make":
                assert words[1] in targets, (page, words)
            if words[0] == "mnemoscope":
                assert verb_of(words) in verbs(), (page, words)
                taken = options_of(verb_of(words))
                given = {one.split("=")[0] for one in words if re.match(r"--?[a-z]", one)}
                assert given <= taken, (page, words, given - taken)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), (page, target)


def test_the_tutorial_says_how_many_sequences_a_class_needs():
    said = (ROOT / "docs" / "tutorials" / "your-model.md").read_text(encoding="utf-8")
    assert f"at least {MINIMUM} sequences of each class" in " ".join(said.split())


def test_pages_stay_short():
    at_most = dict.fromkeys(PAGES, 200) | {ROOT / "README.md": 120, ROOT / "AGENTS.md": 40}
    for page, most in at_most.items():
        filled = r"<!-- tables.*?<!-- end of tables -->"  # by the code, to be looked up
        prose = re.sub(filled, "", page.read_text(encoding="utf-8"), flags=re.S)
        assert len(prose.splitlines()) <= most, page
    table = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\|", table, re.M)) - 2 <= 40  # its head apart


def test_every_page_of_the_site_opens_with_a_command():
    for page in PAGES[1:]:  # all but the README
        opening = page.read_text(encoding="utf-8").splitlines()[:12]
        assert any(line.startswith(("```bash", "```sh")) for line in opening), page
