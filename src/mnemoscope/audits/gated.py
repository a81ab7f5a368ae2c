"""Results that a gate judges: how a folder keeps them, and what build servers read of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, Generic, TypeVar

import polars as pl

from mnemoscope.audits.exports import Finding, beside_by_key, date_and_verdict, sarif_of
from mnemoscope.audits.records import Sarif
from mnemoscope.conditions import Counted, Gate, GateResult, Measures, judge_rows
from mnemoscope.files import digest
from mnemoscope.store import Facts, Store, check_is_made
from mnemoscope.study.folder import versions


class Recorded:
    """A result with all that its JSON file holds: `date`, `sentence` and more."""

    record: Mapping[str, Any]

    @property
    def sentence(self) -> str:
        """What can be said."""
        return str(self.record["sentence"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.sentence})"

    def _repr_html_(self) -> str:
        return f"<b>{escape(self.sentence)}</b>"


_Found = TypeVar("_Found", bound=Recorded)


@dataclass(frozen=True)
class Kind(Generic[_Found]):
    """Results of one verb, such as items.

    Attributes:
        verb: its name, which its artefact has too.
        version: of what a folder holds.
        remedy: what makes a result again, after "or".
        measures: what conditions are put to.
        same: columns by which rows of two results are the same.
        load: a result from its store and record.
        counted: what a condition is put to; refuses one that never holds.
        junit: a JUnit report.
        rule: what findings of the log are.
        findings: rows of the log.
        finding: what is said of such a row.
        refuse: refuses a condition on what is judged that may be one on a baseline.
    """

    verb: str
    version: int
    remedy: str
    measures: Measures
    same: Sequence[str]
    load: Callable[[Store, Mapping[str, Any]], _Found]
    counted: Callable[[Gate, _Found], Counted]
    junit: Callable[[_Found, Sequence[GateResult]], str]
    rule: Sarif
    findings: Callable[[_Found], pl.DataFrame]
    finding: Callable[[_Found, Mapping[str, Any]], Finding]
    refuse: Callable[[Gate, _Found], None] = lambda *_: None

    def store(self, folder: Path) -> Store:
        """The store of a folder: one artefact of all its files."""
        return Store(folder, remedy=lambda _: self.remedy)

    def check(self, folder: Path) -> None:
        """Refuse a folder without such a result."""
        check_is_made(folder, self.verb)

    def read(self, folder: Path) -> _Found:
        """What a folder holds; no model is loaded. Errors as `Store.finished`."""
        store = self.store(folder)
        return self.load(store, store.finished(self.verb, self.version))

    def key(self, *facts: Any) -> str:
        """The key of a result that these facts decide."""
        return digest([self.version, *facts])

    def head(self, *packages: str) -> Facts:
        """How a record begins; `packages` are those whose versions it names."""
        return {
            "schema": f"mnemoscope {self.verb}",
            "schema_version": self.version,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(*packages),
        }

    def judge(self, gate: Gate, found: _Found, baseline: Path | None = None) -> GateResult:
        """Put a condition to a result; with `baseline` to what does not count there.

        Raises UserError: it can never hold, or `baseline` holds no such result. DamagedDataError:
        that cannot be read.
        """
        self.refuse(gate, found)
        own = self.counted(gate, found)
        older = None if baseline is None else (baseline, self.counted(gate, self.read(baseline)))
        return judge_rows(gate, own, self.same, older)

    def sarif(self, found: _Found, baseline: Path | None = None) -> Sarif:
        """A SARIF log of the findings, with what is new, unchanged and gone since an older result.

        Errors as `read`.
        """
        rows = self.findings(found)
        findings = (self.finding(found, row) for row in rows.iter_rows(named=True))
        log = sarif_of([self.rule], date_and_verdict(found.record), findings)
        if baseline is None:
            return log
        older = self.read(baseline)
        keys = (one.select(self.same).rows() for one in (rows, self.findings(older)))
        return beside_by_key(log, self.sarif(older), *keys)
