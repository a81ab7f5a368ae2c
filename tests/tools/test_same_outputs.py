import json
import shlex

import pytest

from mnemoscope.cli.app import verbs
from tools.quality.same_outputs import VERBS, figure_differences


@pytest.mark.parametrize("command", VERBS.values())
def test_what_is_compared_is_run_by_a_verb_that_there_is(command):
    first, second, *_ = *shlex.split(command), ""
    assert first in verbs() or f"{first} {second}" in verbs()


@pytest.mark.parametrize(("name", "n_differences"), [("report.html", 0), ("labels.parquet", 1)])
def test_of_all_sizes_in_a_record_that_of_a_page_may_differ(name, n_differences, tmp_path):
    paths = [tmp_path / f"{size}.json" for size in (265_392, 265_394)]
    for path in paths:
        path.write_text(json.dumps({"sizes": {name: int(path.stem)}}))
    assert len([*figure_differences(*paths)]) == n_differences
