"""A promptfoo assertion: a model recalls at most so much of a document.

The output under test names the document (the provider `echo` gives it back); `promptfooconfig.yaml`
beside this file names the model and the most that may be recalled.
"""

import json
import subprocess
import tempfile
from typing import Any


def get_assert(output: str, context: dict[str, Any]) -> dict[str, Any]:
    """What promptfoo calls, with the text under test and the `config` of the assertion."""
    config = context["config"]
    with tempfile.TemporaryDirectory() as folder:
        words = ["audit", config["model"], output.strip(), "-o", folder, "--json", "--quiet"]
        done = subprocess.run(["mnemoscope", *words], stdout=subprocess.PIPE, check=True)
    audit = json.loads(done.stdout)
    share = audit["summary"]["recalled"]["share"]
    passages = [one["text"] for one in audit["spans"] if one["verdict"] == "recall"]
    return {
        "pass": share <= config["most"],
        "score": 1 - share,
        "reason": f"{100 * share:.1f} % recalled; passages: {passages}",
    }
