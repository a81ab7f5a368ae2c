"""SARIF: each recalled passage at its line and column, guesses left out."""

import polars as pl

from mnemoscope.audit.page import sarif_log

TEXT = "first line\n😀 second line\nthird line"


def log_of(rows):
    columns = {"tokens": 3, "reason": "because"}
    return sarif_log(pl.DataFrame([{**row, **columns} for row in rows]), {"a b/ü.txt": TEXT})


def test_recalled_passages_stand_at_their_lines():
    start = TEXT.index("second")
    end = TEXT.index("third") + len("third")
    rows = [
        {"document": "a b/ü.txt", "start": start, "end": end, "verdict": "recall"},
        {"document": "a b/ü.txt", "start": 0, "end": 5, "verdict": "guess"},
    ]
    log = log_of(rows)
    assert log["version"] == "2.1.0"
    run = log["runs"][0]
    assert run["tool"]["driver"]["name"] == "mnemoscope"
    assert len(run["results"]) == 1
    result = run["results"][0]
    assert result["ruleId"] == run["tool"]["driver"]["rules"][0]["id"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "a%20b/%C3%BC.txt"
    region = place["region"]
    assert (region["startLine"], region["startColumn"]) == (2, 3)  # an emoji is one column
    assert (region["endLine"], region["endColumn"]) == (3, 6)
    lines = TEXT.split("\n")
    assert lines[1][region["startColumn"] - 1 :].startswith("second")
    assert lines[2][: region["endColumn"] - 1] == "third"
    assert TEXT[region["charOffset"] :][: region["charLength"]] == TEXT[start:end]


REQUIRED = {  # of OASIS' schema of SARIF 2.1.0: required names, and all that are used here
    "log": ({"version", "runs"}, {"$schema"}),
    "run": ({"tool"}, {"columnKind", "results"}),
    "driver": ({"name"}, {"version", "rules"}),
    "rule": ({"id"}, {"shortDescription", "defaultConfiguration"}),
    "result": ({"message"}, {"ruleId", "level", "locations"}),
    "physical": (set(), {"artifactLocation", "region"}),
    "region": (
        set(),
        {"startLine", "startColumn", "endLine", "endColumn", "charOffset", "charLength"},
    ),
}


def test_it_holds_what_the_standard_requires_and_nothing_it_does_not_know():
    row = {"document": "a b/ü.txt", "start": 0, "end": len(TEXT), "verdict": "recall"}
    log = log_of([row])
    run = log["runs"][0]
    result = run["results"][0]
    physical = result["locations"][0]["physicalLocation"]
    driver = run["tool"]["driver"]
    found = {
        "log": log,
        "run": run,
        "driver": driver,
        "rule": driver["rules"][0],
        "result": result,
        "physical": physical,
        "region": physical["region"],
    }
    for name, (required, known) in REQUIRED.items():
        assert required <= set(found[name]) <= required | known, name
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    assert result["level"] in ("none", "note", "warning", "error")
    lines = [physical["region"][one] for one in ("startLine", "startColumn", "endLine")]
    assert min(lines) >= 1
    assert physical["region"]["charOffset"] >= 0
