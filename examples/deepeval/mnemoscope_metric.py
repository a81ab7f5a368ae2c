"""A deepeval metric: the share of a test case's context that a model recalls."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from deepeval.metrics import BaseMetric
from deepeval.test_case import LLMTestCase


class RecalledShare(BaseMetric):  # type: ignore[misc]
    """Passes where the model recalls at most `threshold` of the context's characters, 0 to 1."""

    def __init__(self, model: str, threshold: float = 0.005) -> None:
        self.model, self.threshold, self.async_mode = model, threshold, False

    def measure(self, test_case: LLMTestCase, *_: Any, **__: Any) -> float:
        """Audit the context, each text a document. CalledProcessError: mnemoscope refuses it."""
        with tempfile.TemporaryDirectory() as name:
            texts = Path(name, "context")
            texts.mkdir()
            for number, text in enumerate(test_case.context):
                (texts / f"{number:03d}.txt").write_text(text, encoding="utf-8")
            words = ["audit", self.model, str(texts), "-o", f"{name}/audit", "--json", "--quiet"]
            done = subprocess.run(["mnemoscope", *words], stdout=subprocess.PIPE, check=True)
        summary = json.loads(done.stdout)["summary"]
        self.score = float(summary["recalled"]["share"])
        self.success = self.score <= self.threshold
        self.reason = f"{100 * self.score:.1f} % recalled; passages: {summary['recall_spans']}"
        return self.score

    async def a_measure(self, test_case: LLMTestCase, *_: Any, **__: Any) -> float:
        """As `measure`."""
        return self.measure(test_case)

    def is_successful(self) -> bool:
        """Whether the last test case passed."""
        return self.success

    @property
    def __name__(self) -> str:
        return "Recalled share"
