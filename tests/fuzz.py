"""Odd input of every kind, seeded: one command a case, in a process of its own.

python tests/fuzz.py N STUDY AUDIT [TARGET ...]

A process that has imported everything forks one child a case, which runs the command line and
leaves with its status: 0, or 2 and one line, in 10 CPU seconds and 1 GB, without a traceback.
"""

import gc
import importlib
import io
import json
import math
import os
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, reduce
from http.server import BaseHTTPRequestHandler, HTTPServer
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

_CPU_SECONDS = 10
_WALL_SECONDS = 300  # on a busy machine
_BYTES = 1 << 30


@dataclass(frozen=True)
class Table:
    """A Parquet file, made in the child: Polars has threads, which no fork takes along."""

    rows: list[dict[str, Any]]
    odd: str = ""  # a column that is of another kind
    kind: str = "String"

    def made(self) -> bytes:
        """Its bytes."""
        import polars as pl

        schema = {"sequence_id": pl.Int64, "tokens": pl.List(pl.Int64), "text": pl.String}
        frame = pl.DataFrame(self.rows, schema=schema, strict=False)
        if self.odd:
            frame = frame.with_columns(pl.lit(None, getattr(pl, self.kind)).alias(self.odd))
        frame.write_parquet(buffer := io.BytesIO())
        return buffer.getvalue()


@dataclass(frozen=True)
class Docx:
    """A DOCX file around the XML of its body."""

    body: str

    def made(self) -> bytes:
        """Its bytes."""
        whole, parts = io.BytesIO(), _docx()
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in parts.items():
                if name == "word/document.xml":
                    data = data.replace(b"<w:body>", b"<w:body>" + self.body.encode())
                file.writestr(name, data)
        return whole.getvalue()


@dataclass(frozen=True)
class File:
    """Content, and what is done to its bytes: how, where (a share of the length), with what."""

    content: bytes | Table | Docx
    damage: tuple[tuple[str, float, bytes], ...] = ()

    def write(self, path: Path) -> None:
        """Write it, with its damage."""
        made = self.content if isinstance(self.content, bytes) else self.content.made()
        data = bytearray(made)
        for how, share, value in self.damage:
            place = int(share * len(data))
            if how == "flip" and data:
                data[min(place, len(data) - 1)] ^= 1 << len(value)
            elif how == "cut":
                del data[place:]
            elif how == "put":
                data[place:place] = value
            elif how == "twice":
                data[place:place] = data[:place]
        path.unlink(missing_ok=True)
        path.write_bytes(data)


@dataclass(frozen=True)
class Case:
    """A command, the files that it reads, and what a service answers on the port PORT."""

    arguments: list[str]
    files: dict[str, File] = field(default_factory=dict)
    copied: str = ""  # a folder that is there before: STUDY or AUDIT
    status: int = 200
    body: bytes = b""


_DAMAGE = st.tuples(
    st.sampled_from(["flip", "cut", "put", "twice"]), st.floats(0, 1), st.binary(max_size=4)
)


def damaged(whole: st.SearchStrategy, *, most: int = 3) -> st.SearchStrategy[File]:
    return st.builds(File, whole, st.lists(_DAMAGE, max_size=most).map(tuple))


ODD = st.sampled_from(
    [
        *(None, True, -1, 0, 3, 2**31, 2**63, 2**70, 10**400, -0.5, 1e308, math.inf, math.nan),
        *("", " ", "\0", "\ud800", "é" * 300, "a b " * 200, "../..", "x" * 5000, [], {}, [[]]),
    ]
)
VALUES = st.recursive(
    ODD | st.text(max_size=6) | st.integers(-9, 70_000),
    lambda inside: (
        st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=4), inside, max_size=3)
    ),
    max_leaves=8,
)
DEEP = st.integers(1, 3000).map(lambda n: b"[" * n + b"]" * n)


def rarely(often: st.SearchStrategy, *others: st.SearchStrategy) -> st.SearchStrategy:
    """One in ten of the others."""
    return st.integers(0, 9).flatmap(lambda n: often if n else st.one_of(*others))


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def as_lines(rows: list[object]) -> bytes:
    return b"\n".join(map(as_json, rows))


TEXT = " ".join(f"The {n}th of the words that stand here is {n * n}." for n in range(12))
API = ["audit", "api", "http://127.0.0.1:PORT/v1", "m"]
NAMES = ["sequence_id", "tokens", "text", "duplicates", "is_memorized", "is_code", "other\n"]


# Settings: any field with any value, in a file; taxonomies.


@st.composite
def study_settings(draw: st.DrawFn) -> Case:
    from mnemoscope.study.settings import StudySettings

    defaults = StudySettings().as_dict()
    fields = [(one, name) for one, inside in defaults.items() if inside for name in inside]
    values: dict[str, Any] = {"model": {"name": "embedded"}, "sequences": {"source": "t.jsonl"}}
    for section, name in draw(st.lists(st.sampled_from(fields), max_size=4)):
        default = defaults[section][name]
        near = st.lists(ODD, max_size=3) if isinstance(default, list) else ODD
        values.setdefault(section, {})[name] = draw(near | VALUES | st.just(default))
    whole = yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass")
    file = draw(rarely(damaged(st.just(whole), most=1), damaged(DEEP | st.binary(max_size=40))))
    verbs = [["run", "s.yaml", "-o", "out", "--dry-run"]]
    verbs += [["label", "t.jsonl", "-t", "s.yaml", "-o", "out.parquet"]]
    return Case(draw(st.sampled_from(verbs)), {"s.yaml": file, "t.jsonl": GOOD_ROWS})


GOOD = [{"sequence_id": n, "tokens": list(range(64)), "text": TEXT[n:]} for n in range(3)]
GOOD_ROWS = File(as_lines(GOOD))


@st.composite
def flags(draw: st.DrawFn) -> Case:
    from mnemoscope.audits.questions import settings_class
    from mnemoscope.audits.settings import EndpointSettings, flag_of

    service = draw(st.integers(0, 19)) > 0
    known = dict(settings_class().model_fields)
    if service:
        known |= {
            k: v for k, v in EndpointSettings.model_fields.items() if k not in ("url", "model")
        }
    arguments = [*API, "d.txt", "--dry-run"] if service else ["audit", "embedded", "d.txt"]
    arguments += ["-o", "out"]
    for name in draw(st.lists(st.sampled_from(sorted(known)), max_size=4, unique=True)):
        value = draw(ODD | st.integers(-3, 99) | st.text(max_size=6))
        is_switch = known[name].annotation is bool
        arguments += [flag_of(name), *([] if is_switch else [str(value).replace("\0", "")])]
    return Case(arguments, {"d.txt": File(TEXT.encode())})


# Files: tables, texts, pages.

_ROW = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)
_TOKENS = st.lists(st.integers(-1, 3000), min_size=60, max_size=66)
_GOOD_ROW = st.fixed_dictionaries(
    {"sequence_id": st.integers(0, 9), "tokens": _TOKENS, "text": st.text(max_size=300)},
    optional={"duplicates": st.integers(-1, 9), "is_memorized": st.booleans() | ODD},
)
_ROWS = st.lists(_GOOD_ROW, max_size=3).map(as_lines) | st.lists(_ROW | VALUES, max_size=4).map(
    as_lines
)
_KINDS = st.sampled_from(["String", "Int8", "Float64", "Boolean", "Date"])
_PARQUET = st.builds(Table, st.just(GOOD), st.sampled_from(["", *NAMES]), _KINDS)
_CSV = st.lists(st.lists(st.text(max_size=5) | st.sampled_from(NAMES), max_size=4), max_size=4).map(
    lambda rows: "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")
)
TABLES = st.one_of(
    st.tuples(st.just("t.jsonl"), damaged(_ROWS)),
    st.tuples(st.just("t.jsonl"), damaged(DEEP.map(lambda deep: b'{"text": ' + deep + b"}"))),
    st.tuples(st.just("t.parquet"), damaged(_PARQUET)),
    st.tuples(st.just("t.csv"), damaged(_CSV)),
)
_OF_TABLES = st.sampled_from(
    [
        ["describe", "IN"],
        ["label", "IN", "-t", "Non-Memo, Guess, Recall", "-o", "out.parquet"],
        ["features", "IN", "-o", "out.parquet"],
        ["duplicates", "--sequences", "IN", "--corpus", "IN", "-o", "out.parquet"],
        ["lm-eval-task", "IN", "-o", "out"],
        ["push", "IN", "o/n", "--dry-run"],
        ["run", "--sequences", "IN", "-o", "out", "--dry-run"],
        [*API, "IN", "-o", "out", "--dry-run"],
    ]
)


def about(name: str, arguments: list[str], file: File) -> Case:
    return Case([name if one == "IN" else one for one in arguments], {name: file})


tables = st.builds(lambda named, verb: about(named[0], verb, named[1]), TABLES, _OF_TABLES)
_OF_TEXTS = st.sampled_from(
    [
        [*API, "IN", "-o", "out", "--dry-run"],
        ["duplicates", "--sequences", "t.jsonl", "--corpus", "IN", "-o", "out.parquet"],
        ["run", "--sequences", "IN", "-o", "out", "--dry-run"],
    ]
)
_TEXTS = damaged(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
texts = st.builds(
    lambda name, file, verb: Case(
        about(name, verb, file).arguments, {name: file, "t.jsonl": GOOD_ROWS}
    ),
    st.sampled_from(["d.txt", "d.md", "d.py", "d"]),
    _TEXTS,
    _OF_TEXTS,
)

_TAGS = ["p", "table", "tr", "td", "div", "pre", "ul", "li", "a", "br", "b", "script", "x:y"]
_HTML = st.recursive(
    st.text(max_size=9) | st.sampled_from([TEXT, "&amp;", "&#xD800;", "<!--", "<!", "<?xml "]),
    lambda inside: st.tuples(st.sampled_from(_TAGS), st.lists(inside, max_size=3)).map(
        lambda made: f"<{made[0]} colspan=9>{''.join(made[1])}</{made[0]}>"
    ),
)
_DEEP_HTML = st.tuples(st.sampled_from(_TAGS), st.integers(1, 3000)).map(
    lambda made: f"<{made[0]}>" * made[1] + TEXT
)
_WORDS = ["w:p", "w:r", "w:t", "w:tbl", "w:tr", "w:tc", "w:sdt", "w:hyperlink"]
_DOCX = st.recursive(
    st.sampled_from(["", "words", "&amp;", "<w:tab/>", "<w:gridSpan/>"]),
    lambda inside: st.tuples(st.sampled_from(_WORDS), st.lists(inside, max_size=3)).map(
        lambda made: f"<{made[0]}>{''.join(made[1])}</{made[0]}>"
    ),
).map(Docx)
_OBJECTS = st.sampled_from(
    [
        *(b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"),
        *(b"<< /Type /Pages /Kids [2 0 R] /Count 9 >>", b"<< >>", b"null", b"[ 1 0 R ]", b"1 0 R"),
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << >> >>",
        b"<< /Length 40 >>\nstream\nBT /F1 12 Tf (Words of a page) Tj ET\nendstream",
        b"<< /Length 9 /Filter /FlateDecode >>\nstream\n123456789\nendstream",
        b"<< /Length 99999999999 >>\nstream\nBT (W) Tj ET\nendstream",
        b"[" * 2000 + b"]" * 2000,
    ]
)


def as_pdf(objects: list[bytes]) -> bytes:
    places, data = [], b"%PDF-1.4\n"
    for number, one in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    rows = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(places) + 1, rows)
    size = b"trailer << /Root 1 0 R /Size %d >>\nstartxref\n%d\n%%%%EOF"
    return data + head + size % (len(places) + 1, len(data))


_FIRST = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"]
PAGES = st.one_of(
    st.tuples(st.just("d.html"), damaged((_HTML | _DEEP_HTML).map(str.encode))),
    st.tuples(st.just("d.docx"), damaged(_DOCX, most=1)),
    st.tuples(
        st.just("d.pdf"),
        damaged(st.lists(_OBJECTS, max_size=5).map(lambda more: as_pdf(_FIRST + more)), most=2),
    ),
)
pages = PAGES.map(lambda named: about(named[0], [*API, "IN", "-o", "out", "--dry-run"], named[1]))


# What services answer.

_LOGPROBS = st.fixed_dictionaries(
    {},
    optional={
        "tokens": VALUES | st.lists(st.text(max_size=3), max_size=3),
        "token_logprobs": VALUES | st.lists(st.floats(-9, 0) | ODD, max_size=3),
        "top_logprobs": VALUES | st.lists(st.dictionaries(st.text(), ODD), max_size=3),
        "content": VALUES | st.lists(st.dictionaries(st.sampled_from(["id", "token"]), ODD)),
    },
)
_CHOICE = st.fixed_dictionaries(
    {"text": st.text(max_size=9) | ODD | st.just(TEXT), "message": st.just({"content": TEXT})},
    optional={
        "logprobs": _LOGPROBS | VALUES,
        "finish_reason": st.just("length") | VALUES,
        "token_ids": st.lists(st.integers(-1, 300)) | VALUES,
    },
)
_ANSWER = st.fixed_dictionaries(
    {"choices": st.lists(_CHOICE, min_size=1, max_size=2) | VALUES},
    optional={"usage": VALUES, "model": VALUES, "error": VALUES},
)
_STATUS = rarely(st.just(200), st.sampled_from([204, 400, 401, 404, 429, 500]))


def _answered(arguments: list[str], files: dict[str, File], answers: st.SearchStrategy) -> Any:
    bodies = rarely(answers.map(as_json), VALUES.map(as_json), DEEP, st.binary(max_size=40))
    return st.builds(Case, st.just(arguments), st.just(files), st.just(""), _STATUS, bodies)


_ASK = [*API, "d.txt", "-o", "out", "--retries", "0", "--concurrency", "1", "--stride", "32", "-q"]
answers = st.one_of(
    _answered(arguments, {"d.txt": File(TEXT.encode())}, _ANSWER)
    for arguments in (_ASK, [*_ASK, "--chat"])
)
_COUNT = st.fixed_dictionaries(
    {"count": VALUES}, optional={"approx": VALUES, "error": VALUES, "cnt": VALUES}
)
_DUPLICATES = ["duplicates", "--sequences", "t.jsonl", "-o", "out.parquet", "-q"]
counts = _answered(
    [*_DUPLICATES, "--corpus", "infini-gram:http://127.0.0.1:PORT/#v4_x"],
    {"t.jsonl": GOOD_ROWS},
    _COUNT,
)


# Records that mnemoscope wrote, with anything anywhere, with a right checksum or without one.


def _places(value: Any, at: tuple = ()) -> list[tuple]:
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2])
    found = [(*at, key) for key, _ in inside]
    for place in list(found):
        one = value[place[-1]]
        found += _places(one, place) if isinstance(one, dict | list) else []
    return found


@cache
def _records(folder: str) -> list[str]:
    found = [*FOLDERS[folder].glob("*.json"), *FOLDERS[folder].glob("manifests/*.json")]
    found += FOLDERS[folder].glob("study.yaml")
    return sorted(path.relative_to(FOLDERS[folder]).as_posix() for path in found)


_OF_FOLDERS = {
    "STUDY": [["describe", "STUDY"], ["benchmark", "STUDY"], ["push", "STUDY", "o/n", "--dry-run"]],
    "AUDIT": [
        ["push", "AUDIT", "o/n", "--with-documents", "--dry-run"],
        ["audit", "MODEL", "AUDIT/d.txt", "-o", "AUDIT", "-q"],
    ],
}


@st.composite
def records(draw: st.DrawFn) -> Case:
    from mnemoscope.files import digest

    folder = draw(st.sampled_from(sorted(FOLDERS)))
    name = draw(st.sampled_from(_records(folder)))
    kept = (FOLDERS[folder] / name).read_bytes()
    values = yaml.safe_load(kept)
    for place in draw(st.lists(st.sampled_from(_places(values)), max_size=2)):
        odd = draw(ODD | VALUES)
        with suppress(KeyError, IndexError, TypeError):  # inside another that is gone
            reduce(getitem, place[:-1], values)[place[-1]] = odd
    sha = values.pop("sha256", None) if isinstance(values, dict) else None
    if sha is not None and folder == "AUDIT" and draw(st.booleans()):
        values["sha256"] = digest(values)
    made = as_json(values)  # which is YAML too
    file = draw(
        rarely(st.just(File(made)), damaged(st.just(made)), damaged(VALUES.map(as_json) | DEEP))
    )
    model = json.loads((FOLDERS["AUDIT"] / "audit.json").read_bytes())["model"]["name"]
    verb = [model if one == "MODEL" else one for one in draw(st.sampled_from(_OF_FOLDERS[folder]))]
    return Case(verb, {f"{folder}/{name}": file}, folder)


TARGETS: dict[str, Any] = {
    "settings": study_settings(),
    "flags": flags(),
    "tables": tables,
    "texts": texts,
    "pages": pages,
    "answers": answers,
    "counts": counts,
    "records": records(),
}
FOLDERS: dict[str, Path] = {}
_LEFT_OUT = shutil.ignore_patterns("maps", "cnn", "parts")


# One child a case.


def run_case(case: Case, place: Path) -> None:
    """Fork, let the child run the command, and look at how it ended."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    said = [place / "stdout", place / "stderr"]
    pid = os.fork()
    if pid == 0:
        _be_child(case, place, said)
    until = time.monotonic() + _WALL_SECONDS
    pause = 0.001
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done or time.monotonic() > until:
            break
        time.sleep(pause := min(pause * 1.5, 0.05))
    if not done:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    out, err = (one.read_text(errors="replace") if one.exists() else "" for one in said)
    note(f"{out[-300:]}\n{err[-1500:]}")
    assert done, f"no end within {_WALL_SECONDS} s"
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 2), f"exit status {code}"
    assert usage.ru_utime + usage.ru_stime < _CPU_SECONDS
    assert "Traceback" not in out + err
    assert "out of memory" not in err, "more than 1 GB"
    complaints = [line for line in err.splitlines() if line.startswith("mnemoscope: ")]
    assert len(complaints) == (1 if code else 0)
    assert not code or err.splitlines()[-1] == complaints[0], "more than one line"


def _be_child(case: Case, place: Path, said: list[Path]) -> None:
    """Run the command, and never return."""
    code = 99
    try:
        os.setsid()
        os.chdir(place)
        for number, path in enumerate(said, start=1):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
        if case.copied:
            shutil.copytree(FOLDERS[case.copied], place / case.copied, ignore=_LEFT_OUT)
        for name, file in case.files.items():
            file.write(place / name)
        port = _serve(case) if case.body or "PORT" in str(case.arguments) else 0
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _BYTES, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS + 1))
        from mnemoscope.cli import main

        main([one.replace("PORT", str(port)) for one in case.arguments])
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 98
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(case: Case) -> int:
    """A service of this machine that answers the same to everything; returns its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answer."""
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(case.status)
            self.send_header("Content-Length", str(len(case.body)))
            self.end_headers()
            self.wfile.write(case.body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


@cache
def _docx() -> dict[str, bytes]:
    from docx import Document

    Document().save(whole := io.BytesIO())
    with zipfile.ZipFile(whole) as parts:
        return {name: parts.read(name) for name in parts.namelist()}


_FURTHER = (
    "docx",
    "lxml.html",
    "pypdf",
    "inscriptis",
    "rich.table",
    "rich.progress",
    "scipy.stats",
)
_UNCALLED = ("__main__", ".app", ".ray", "embedded.data", ".distill", ".inspect_task")


def _import_all() -> None:
    """Import once what the children need, so that a fork costs milliseconds."""
    import mnemoscope

    warnings.simplefilter("ignore")
    gc.disable()
    ours = [one.name for one in pkgutil.walk_packages(mnemoscope.__path__, "mnemoscope.")]
    for name in (*ours, *_FURTHER):
        if not any(part in name for part in _UNCALLED):
            importlib.import_module(name)
    from mnemoscope.data import origins

    origins._FIRST_PAUSE_SECONDS = 0.0
    _docx()
    gc.collect()
    gc.freeze()
    gc.enable()


def try_target(name: str, n: int, place: Path) -> None:
    """Try so many cases of a target; the smallest one that fails is in the error's notes."""

    @settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(TARGETS[name])
    def try_all(case: Case) -> None:
        run_case(case, place)

    try_all()


def main() -> None:
    """Try the targets, all of them unless some are named."""
    n, study, audit, *names = sys.argv[1:]
    FOLDERS.update(STUDY=Path(study).absolute(), AUDIT=Path(audit).absolute())
    _import_all()
    failed = []
    for name in names or TARGETS:
        wall, cpu = time.monotonic(), sum(os.times()[:4])
        with tempfile.TemporaryDirectory() as place:
            try:
                try_target(name, int(n), Path(place) / "case")
            except Exception as error:
                failed.append(name)
                print(f"{name}: {error!r}", *getattr(error, "__notes__", ()), sep="\n")
        wall, cpu = time.monotonic() - wall, sum(os.times()[:4]) - cpu
        print(f"{name}: {n} cases in {wall:.0f} s, {cpu:.0f} CPU s", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
