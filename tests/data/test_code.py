"""Code or not: magika's word where it is installed, null and a clear refusal where it is not."""

import polars as pl
import pytest

from mnemoscope.data import features as code
from mnemoscope.data.features import add_features, classify_code, is_available
from mnemoscope.errors import UserError

STAND_IN = """
from types import SimpleNamespace

class Magika:
    def identify_bytes(self, data):
        group = data.decode().split()[0]
        return SimpleNamespace(output=SimpleNamespace(group=group))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A module that answers with the first word of a text, in magika's form."""
    (tmp_path / "magika.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "magika", raising=False)


@pytest.mark.usefixtures("stand_in")
def test_groups_become_yes_no_or_unknown():
    texts = ["code x", "text y", "unknown z", "image", None, ""]
    assert is_available()
    assert classify_code(texts) == [True, False, None, None, None, None]


@pytest.mark.usefixtures("stand_in")
def test_features_ask_magika_unless_told_not_to():
    frame = pl.DataFrame({"sequence_id": [1, 2], "text": ["code x", "text y"]})
    assert add_features(frame)["is_code"].to_list() == [True, False]
    assert add_features(frame, code="magika")["is_code"].to_list() == [True, False]
    assert add_features(frame, code="off")["is_code"].to_list() == [None, None]


def test_without_magika_it_is_null_and_a_demand_is_refused(monkeypatch):
    monkeypatch.setattr(code, "find_spec", lambda name: None)
    frame = pl.DataFrame({"sequence_id": [1], "text": ["x = 1"]})
    assert not is_available()
    assert add_features(frame)["is_code"].to_list() == [None]
    with pytest.raises(UserError, match=r"pip install 'mnemoscope\[code\]'"):
        add_features(frame, code="magika")
