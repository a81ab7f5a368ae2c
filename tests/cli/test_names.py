"""Names that stand for nothing are refused at once: before torch is loaded, without waiting."""

import huggingface_hub
import pytest
from transformers import AutoConfig

from mnemoscope.errors import UserError
from mnemoscope.lm.hub import check_on_hub
from mnemoscope.lm.load import load_model

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
    ("merge", "nosuch"): "nosuch: no such folder",
    ("report", "nosuch"): "nosuch: no such folder",
    ("run",): "run: of what?",
    ("run", "--model", "./nosuch", "-o", "s"): "./nosuch: no such model folder or file",
    ("run", "--model", "some/model", "-o", "s"): "the hub cannot be reached",
    ("run", "--sequences", "nosuch", "-o", "s"): "nosuch: no such file or folder",
    ("run", "--reference", "./nosuch@1", "-o", "s"): "./nosuch: no such model folder or file",
    ("sequences", "nosuch", "-o", "s"): "nosuch: no such file or folder",
}


def test_a_wrong_name_is_refused_before_torch_is_loaded(tmp_path, call_light) -> None:
    (tmp_path / "text.txt").write_text("words", encoding="utf-8")
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PATH": ""}
    results = call_light(list(WRONG), ("torch",), cwd=tmp_path, env=env)
    for result, words in zip(results, WRONG.values(), strict=True):
        assert result.status == 2
        assert words in result.err.splitlines()[-1]
    assert [one.name for one in tmp_path.iterdir()] == ["text.txt"]


@pytest.fixture
def asked(monkeypatch, tmp_path) -> list[str]:
    """Names that the hub is asked for; nobody answers, and its client may not try again."""
    names: list[str] = []

    def nobody(_api, name, **_options):
        names.append(name)
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", nobody)
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_a, **_k: pytest.fail("it loads"))
    check_on_hub.cache_clear()
    return names


def test_a_hub_that_does_not_answer_is_asked_once(asked) -> None:
    with pytest.raises(UserError, match="the hub cannot be reached"):
        load_model("somebody/some-model")
    assert asked == ["somebody/some-model"]
