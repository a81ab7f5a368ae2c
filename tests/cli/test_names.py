"""Names that stand for nothing are refused at once: before torch is loaded, without waiting."""

import huggingface_hub
import pytest
from transformers import AutoConfig

from mnemoscope.errors import UserError
from mnemoscope.lm.hub import check_on_hub
from mnemoscope.lm.load import load_model
from mnemoscope.study.folder import Study

WRONG = {
    ("analyze", "levls", "nosuch"): "no such analysis",
    ("analyze", "levels", "nosuch"): "nosuch: no such folder",
    ("app", "nosuch"): "nosuch: no such folder",
    ("app", "--host", "0.0.0.0"): "this machine alone",
    ("audit", "nosuch/", "text.txt", "-o", "a"): "nosuch/: no such model folder or file",
    ("run", "--device", "gpu", "-o", "a"): "device 'gpu' is not one of",
    ("run", "--set", "train.device=cuda:x", "-o", "a"): "device 'cuda:x' is not one of",
    ("audit", "embedded", "nosuch.txt", "-o", "a"): "nosuch.txt: no such file or folder",
    ("audit", "embedded", "text.txt", "-o", "a", "--study", "nosuch"): "nosuch: no such folder",
    ("audit", "embedded", "text.txt", "-o", "a", "--reference", "./no"): "./no: no such model",
    ("audit", "some/model", "text.txt", "-o", "a"): "the hub cannot be reached",
    ("report", "nosuch"): "nosuch: no such folder",
    ("run",): "run: nothing to run.",
    ("run", "--model", "./nosuch", "-o", "s"): "./nosuch: no such model folder or file",
    ("run", "--model", "some/model", "-o", "s"): "the hub cannot be reached",
    ("run", "--sequences", "nosuch", "-o", "s"): "nosuch: no such file or folder",
    ("run", "--reference", "./nosuch@1", "-o", "s"): "./nosuch: no such model folder or file",
    ("sequences", "nosuch", "-o", "s"): "nosuch: no such file or folder",
    ("audit", "embedded", "text.txt", "-o", "mine"): "already holds a study",
    ("audit", "embedded", "empty.txt", "-o", "a"): "empty",
    ("audit", "embedded", "text.txt", "-o", "a", "--dtype", "float64"): "dtype 'float64'",
    ("audit", "embedded", "text.txt", "-o", "a", "--device", "gpu"): "device 'gpu'",
    ("audit", "verify", "mine"): "contains no audit",
}


def test_what_is_wrong_is_refused_before_torch_is_loaded(tmp_path, study_at, call_light) -> None:
    held, here = study_at("report"), tmp_path / "here"
    (here / "mine").mkdir(parents=True)
    files = {"text.txt": "words", "empty.txt": "", "mine/study.yaml": "title: mine\n"}
    for name, text in files.items():
        (here / name).write_text(text, encoding="utf-8")
    wrong = WRONG | {
        (verb, *more, held): "in use by process"
        for verb, *more in (("analyze", "length"), ("report",), ("run", "-o"))
    }
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PATH": ""}
    with Study(held).lock():
        results = call_light(list(wrong), ("torch",), cwd=here, env=env)
    for result, words in zip(results, wrong.values(), strict=True):
        assert result.status == 2
        assert words in (result.err or result.out).splitlines()[-1], words
    left = {path.relative_to(here).as_posix() for path in here.rglob("*")}
    assert left == {"mine", *files}
    assert {name: (here / name).read_text(encoding="utf-8") for name in files} == files


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path) -> None:
    """Its client may not try again, and nothing is loaded."""
    asked = []

    def nobody(_api, name, **_options):
        asked.append(name)
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", nobody)
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_a, **_k: pytest.fail("it loads"))
    check_on_hub.cache_clear()
    with pytest.raises(UserError, match="the hub cannot be reached"):
        load_model("somebody/some-model")
    assert asked == ["somebody/some-model"]
