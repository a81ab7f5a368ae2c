"""What OASIS' schema of SARIF 2.1.0 requires of a log, as far as our logs go."""

_RULE = {"name", "shortDescription", "fullDescription", "help", "helpUri", "properties"}
_ENDS = {"startLine", "startColumn", "endLine", "endColumn", "charOffset", "charLength"}
_STATES = {"new", "unchanged", "updated", "absent"}


def check_sarif(log):
    """Check names that are required and known at every place that is used; give the results."""
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver, results = run["tool"]["driver"], run["results"]
    rules = {one["id"]: one for one in driver["rules"]}
    known = {"ruleId", "level", "locations", "properties", "baselineState"}
    places = [place for one in results for place in one["locations"]]
    physical = [one["physicalLocation"] for one in places if "physicalLocation" in one]
    for required, allowed, *found in [
        ({"version", "runs"}, {"$schema"}, log),
        ({"tool"}, {"columnKind", "results", "properties"}, run),
        ({"name"}, {"version", "rules", "informationUri"}, driver),
        ({"id"}, {*_RULE, "defaultConfiguration"}, *rules.values()),
        ({"text"}, {"markdown"}, *(one["help"] for one in rules.values())),
        ({"message"}, known, *results),
        ({"text"}, set(), *(one["message"] for one in results)),
        (set(), {"physicalLocation", "logicalLocations"}, *places),
        (set(), {"artifactLocation", "region"}, *physical),
        (set(), _ENDS, *(one.get("region", {}) for one in physical)),
    ]:
        assert all(required <= {*one} <= required | allowed for one in found)
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    for one in results:
        assert one["ruleId"] in rules
        assert one["level"] in ("none", "note", "warning", "error")
        assert one.get("baselineState", "new") in _STATES
    # If one result of a run has a state, all have.
    assert len({"baselineState" in one for one in results}) <= 1
    return results
