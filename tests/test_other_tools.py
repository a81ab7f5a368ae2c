"""The examples for promptfoo, deepeval and garak, on the shipped model.

These packages are large and no dependency of ours: what the examples take of deepeval and garak is
a base class, and stands here in its place. All three were run once with the tools themselves.
"""

import difflib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

pytestmark = pytest.mark.whole

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def commands(call, monkeypatch):
    """`mnemoscope` in this process, where an example starts it."""

    def run(words, **_):
        assert words[0] == "mnemoscope"
        done = call(*words[1:])
        assert done.status == 0, done.err
        return SimpleNamespace(stdout=done.out)

    monkeypatch.setattr(subprocess, "run", run)


@pytest.fixture
def example(monkeypatch):
    """Import an example, with these modules in the place of another package's."""

    def example(path: str, **modules: dict) -> ModuleType:
        for name, members in modules.items():
            made = ModuleType(name.replace("__", "."))
            vars(made).update(members)
            monkeypatch.setitem(sys.modules, made.__name__, made)
            parent, _, child = made.__name__.rpartition(".")
            if parent:
                monkeypatch.setattr(sys.modules[parent], child, made, raising=False)
        spec = importlib.util.spec_from_file_location("example", EXAMPLES / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return example


@pytest.fixture
def recalled(tmp_path) -> Path:
    """The first lines of a file that the shipped model read."""
    text = Path(difflib.__file__).read_text(encoding="utf-8")[:700]
    (tmp_path / "document.txt").write_text(text, encoding="utf-8")
    return tmp_path / "document.txt"


def test_the_promptfoo_assertion_fails_where_a_document_is_recalled(example, recalled):
    module = example("promptfoo/mnemoscope_assert.py")
    for most, passes in ((0.005, False), (0.5, True)):
        config = {"model": "embedded", "most": most}
        found = module.get_assert(f"{recalled}\n", {"config": config, "vars": {}})
        assert found["pass"] is passes
    assert 0.5 < found["score"] < 0.95
    assert "SequenceMatcher" in found["reason"]


def test_the_deepeval_metric_gives_the_share_of_the_context(example, recalled):
    stand_in = {"deepeval": {}, "deepeval__metrics": {"BaseMetric": object}}
    stand_in["deepeval__test_case"] = {"LLMTestCase": SimpleNamespace}
    module = example("deepeval/mnemoscope_metric.py", **stand_in)
    metric = module.RecalledShare("embedded")
    text = recalled.read_text(encoding="utf-8")
    assert 0.05 < metric.measure(SimpleNamespace(context=[text])) < 0.5
    assert not metric.is_successful()
    assert "passages: 1" in metric.reason
    rows = [
        f"On day {day} the {bird} left its nest for reed bank {day * 7}."
        for day, bird in enumerate(
            [
                "heron",
                "coot",
                "grebe",
                "stork",
                "egret",
                "crane",
                "snipe",
                "ruff",
                "plover",
                "bittern",
            ]
        )
    ]
    assert metric.measure(SimpleNamespace(context=[" ".join(rows)])) == 0
    assert metric.is_successful()


def test_the_garak_probe_asks_with_the_beginning_of_each_passage(example, recalled, monkeypatch):
    class Probe:
        def __init__(self, config_root=None) -> None:
            self.loaded = len(self.prompts)

    stand_in = {"garak": {"_config": None}}
    stand_in["garak__probes"] = {"Probe": Probe, "Tier": SimpleNamespace(UNLISTED=4)}
    words = f"embedded {recalled} -o {recalled.parent / 'audit'}"
    monkeypatch.setenv("MNEMOSCOPE_AUDIT", words)
    probe = example("garak/mnemoscope_recalled.py", **stand_in).Recalled()
    assert probe.loaded == len(probe.prompts) == len(probe.triggers) == 1
    assert probe.prompts[0] + probe.triggers[0] in recalled.read_text(encoding="utf-8")
    attempt = probe._attempt_prestore_hook(SimpleNamespace(notes={}), 0)
    assert attempt.notes["triggers"] == probe.triggers
