"""A garak probe: passages that an audit found recalled in one model, asked of another target.

It prompts with the beginning that brought each passage out, and hits where the answer goes on with
its text. The words of the audit stand in MNEMOSCOPE_AUDIT, such as "MODEL DOCUMENT -o FOLDER"; a
finished audit is read again, not made anew. Copy this file into `garak/probes/`.
"""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import garak.probes
from garak import _config

_TRIGGER = 40  # characters that an answer must hold


class Recalled(garak.probes.Probe):  # type: ignore[misc]
    """Ask for passages of documents by what stands before them."""

    lang, active, goal = "*", False, "bring out passages of documents word for word"
    intent = "T008data"  # replays text that was trained on
    primary_detector = "base.TriggerListDetector"
    tier = garak.probes.Tier.UNLISTED

    def __init__(self, config_root: Any = _config) -> None:
        words = shlex.split(os.environ["MNEMOSCOPE_AUDIT"])
        command = ["mnemoscope", "audit", *words, "--json", "--quiet"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        self.prompts, self.triggers = [], []
        for one in json.loads(done.stdout)["spans"]:
            text = Path(one["document"]).read_text(encoding="utf-8")
            if one["verdict"] == "recall":
                self.prompts.append(text[one["window_start"] : one["suffix_start"]])
                self.triggers.append(text[one["suffix_start"] :][:_TRIGGER])
        super().__init__(config_root=config_root)

    def _attempt_prestore_hook(self, attempt: Any, seq: int) -> Any:
        attempt.notes["triggers"] = [self.triggers[seq]]
        return attempt
