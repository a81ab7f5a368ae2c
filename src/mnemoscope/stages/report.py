"""Stage `report`: one self-contained page from all that the study holds."""

from mnemoscope.report.build import write_report
from mnemoscope.stages.models import Models
from mnemoscope.stages.report_content import report_content
from mnemoscope.study import Study

__all__ = ["REPORT_FILE", "report_stage"]

REPORT_FILE = "report.html"


def report_stage(study: Study, models: Models) -> None:
    """Write `report.html`; it opens offline and holds no outside address."""
    study.require("benchmark")
    study.require("localize")
    with study.finishing("report") as counts:
        content = report_content(study, models.tokenizer())
        counts["bytes"] = write_report(study.folder / REPORT_FILE, content)
