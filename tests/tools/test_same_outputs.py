import shlex

import pytest

from mnemoscope.cli.app import verbs
from tools.quality.same_outputs import VERBS


@pytest.mark.parametrize("command", VERBS.values())
def test_what_is_compared_is_run_by_a_verb_that_there_is(command):
    first, second, *_ = *shlex.split(command), ""
    assert first in verbs() or f"{first} {second}" in verbs()
