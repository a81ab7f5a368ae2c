"""Odd input of every kind, seeded: one command a case, in a process of its own.

python tests/fuzz.py N[:SEED] STUDY AUDIT [TARGET ...]

A process that has imported everything forks one child a case, which runs the command line and
leaves with its status: 0, or 2 and one line, in 10 CPU seconds and 1 GB, without a traceback and
without control characters. STUDY and AUDIT are finished folders; the audit's model is the MODEL.
"""

import gc
import importlib
import io
import json
import math
import os
import pkgutil
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, partial, reduce
from http.server import BaseHTTPRequestHandler, HTTPServer
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

_CPU_SECONDS = 10
_WALL_SECONDS = 120  # on a busy machine
_BYTES = 1 << 30


def parquet(rows: list[dict[str, Any]], odd: str, kind: str) -> bytes:
    """A table with a column that is of another kind."""
    import polars as pl

    frame = pl.DataFrame(rows)
    if odd:
        frame = frame.with_columns(pl.lit(None, getattr(pl, kind)).alias(odd))
    frame.write_parquet(buffer := io.BytesIO())
    return buffer.getvalue()


def docx(body: str) -> bytes:
    """A DOCX file around the XML of its body."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in _docx().items():
            file.writestr(name, data.replace(b"<w:body>", b"<w:body>" + body.encode()))
    return whole.getvalue()


@dataclass(frozen=True)
class File:
    """Content, and what is done to its bytes: how, where (a share of the length), with what.

    A function that makes it runs in the child: Polars has threads, which no fork takes along.
    """

    content: bytes | Callable[[], bytes]
    damage: tuple[tuple[str, float, bytes], ...] = ()

    def write(self, path: Path) -> None:
        data = bytearray(self.content() if callable(self.content) else self.content)
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
class Odd:
    """What is no plain file of some bytes; `gone` takes a file away."""

    kind: str

    def write(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if self.kind == "pipe":
            os.mkfifo(path)
        elif self.kind == "folder":
            path.mkdir()
        elif self.kind == "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(str(path))
        elif self.kind == "large":  # 5 GB without a line end, none of it on the disk
            path.touch()
            os.truncate(path, 5 << 30)
        elif self.kind != "gone":  # a link
            path.symlink_to(self.kind)


ODD_FILES = st.sampled_from(
    ["pipe", "folder", "socket", "large", "gone", "/dev/zero", "/dev/null", "/nowhere", "."]
).map(Odd)


@dataclass(frozen=True)
class Case:
    """A command, the files that it reads, and what a service answers on the port PORT."""

    arguments: list[str]
    files: dict[str, File | Odd] = field(default_factory=dict)
    copied: tuple[str, ...] = ()  # folders that are there before: STUDY, AUDIT, MODEL
    status: int = 200
    body: bytes = b""
    stdout: str = "utf-8"  # an encoding, or a path
    packages: dict[str, str] = field(default_factory=dict)  # plugins: entry point, code


_DAMAGE = st.tuples(
    st.sampled_from(["flip", "cut", "put", "twice"]), st.floats(0, 1), st.binary(max_size=4)
)
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


def damaged(whole: st.SearchStrategy, *, most: int = 3) -> st.SearchStrategy[File]:
    return st.builds(File, whole, st.lists(_DAMAGE, max_size=most).map(tuple))


def rarely(often: st.SearchStrategy, *others: st.SearchStrategy) -> st.SearchStrategy:
    """One in ten of the others."""
    return st.integers(0, 9).flatmap(lambda n: often if n else st.one_of(*others))


def _places(value: Any, at: tuple = ()) -> list[tuple]:
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2])
    found = [(*at, key) for key, _ in inside]
    for place in list(found):
        one = value[place[-1]]
        found += _places(one, place) if isinstance(one, dict | list) else []
    return found


@st.composite
def altered(draw: st.DrawFn, good: Any, *, most: int = 3) -> Any:
    """Good values with anything anywhere: exchanged, or left out."""
    values = deepcopy(good)
    for place in draw(st.lists(st.sampled_from(_places(values)), max_size=most)):
        odd, is_gone = draw(ODD | VALUES), draw(st.integers(0, 4)) == 0
        with suppress(KeyError, IndexError, TypeError):  # inside another that is gone
            parent = reduce(getitem, place[:-1], values)
            if is_gone:
                del parent[place[-1]]
            else:
                parent[place[-1]] = odd
    return values


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def as_lines(rows: list[object]) -> bytes:
    return b"\n".join(map(as_json, rows))


TEXT = " ".join(f"The {n}th of the words that stand here is {n * n}." for n in range(12))
DOCUMENT = {"d.txt": File(TEXT.encode())}
API = ["audit", "api", "http://127.0.0.1:PORT/v1", "m"]
GOOD = [{"sequence_id": n, "tokens": list(range(64)), "text": TEXT[n:]} for n in range(3)]
GOOD = [row | {"duplicates": n, "is_memorized": n > 0} for n, row in enumerate(GOOD)]
GOOD_ROWS = File(as_lines(GOOD))


# Settings in a file and as flags.


@st.composite
def study_settings(draw: st.DrawFn) -> Case:
    from mnemoscope.study.settings import StudySettings

    good = StudySettings().as_dict()
    good["model"]["name"], good["sequences"]["source"] = "embedded", "t.jsonl"
    values = draw(altered(good, most=4))
    whole = yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass")
    file = draw(rarely(damaged(st.just(whole), most=1), damaged(DEEP | st.binary(max_size=40))))
    verbs = [["run", "s.yaml", "-o", "out", "--dry-run"]]
    verbs += [["label", "t.jsonl", "-t", "s.yaml", "-o", "out.parquet"]]
    return Case(draw(st.sampled_from(verbs)), {"s.yaml": file, "t.jsonl": GOOD_ROWS})


@st.composite
def flags(draw: st.DrawFn) -> Case:
    from mnemoscope.audits.questions import settings_class
    from mnemoscope.audits.settings import EndpointSettings, flag_of

    service = draw(st.integers(0, 19)) > 0
    known = dict(settings_class().model_fields)
    if service:
        known |= EndpointSettings.model_fields
    arguments = [*API, "d.txt", "--dry-run"] if service else ["audit", "MODEL", "d.txt"]
    arguments += ["-o", "out"]
    names = sorted(known.keys() - {"url", "model"})
    for name in draw(st.lists(st.sampled_from(names), max_size=4, unique=True)):
        value = draw(ODD | st.integers(-3, 99) | st.text(max_size=6))
        is_switch = known[name].annotation is bool
        arguments += [flag_of(name), *([] if is_switch else [str(value).replace("\0", "")])]
    return Case(arguments, DOCUMENT, () if service else ("MODEL",))


# Files: tables, texts, pages.

_NAMES = st.sampled_from(["", *GOOD[0], "other\n"])
_KINDS = st.sampled_from(["String", "Int8", "Float64", "Boolean", "Date"])
_CSV = "\n".join(",".join(map(str, row.values())) for row in [dict.fromkeys(GOOD[0], "a"), *GOOD])
TABLES = st.one_of(
    st.tuples(st.just("t.jsonl"), damaged(altered(GOOD).map(as_lines))),
    st.tuples(st.just("t.jsonl"), damaged(DEEP.map(lambda deep: b'{"text": ' + deep + b"}"))),
    st.tuples(
        st.just("t.parquet"),
        damaged(st.builds(partial, st.just(parquet), st.just(GOOD), _NAMES, _KINDS)),
    ),
    st.tuples(st.just("t.csv"), damaged(st.just(_CSV.encode()))),
)


def about(named: tuple[str, File], arguments: list[str]) -> Case:
    name, file = named
    words = [name if one == "IN" else one for one in arguments]
    copied = ("MODEL",) if "MODEL" in words else ()
    return Case(words, {"sequences.jsonl": GOOD_ROWS, name: file}, copied)


TEXTS = st.tuples(
    st.sampled_from(["d.txt", "d.md", "d.py", "d"]),
    damaged(st.binary(max_size=300) | st.text(max_size=300).map(str.encode)),
)


def nested(tags: list[str], texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.recursive(
        texts,
        lambda inside: st.tuples(st.sampled_from(tags), st.lists(inside, max_size=3)).map(
            lambda made: f"<{made[0]}>{''.join(made[1])}</{made[0]}>"
        ),
    )


_TAGS = ["p", "table", "tr", "td", "td colspan=9", "pre", "ul", "li", "a", "br", "script", "x:y"]
_SAID = st.text(max_size=9) | st.sampled_from([TEXT, "&amp;", "&#xD800;", "<!--", "<!", "<?xml "])
_DEEP_HTML = st.tuples(st.sampled_from(_TAGS), st.integers(1, 3000)).map(
    lambda made: f"<{made[0]}>" * made[1] + TEXT
)
_WORDS = ["w:p", "w:r", "w:t", "w:tbl", "w:tr", "w:tc", "w:sdt", "w:hyperlink"]
_XML = st.sampled_from(["", "words", "&amp;", "<w:tab/>", "<w:gridSpan/>"])
_FIRST = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"]
_OBJECTS = st.sampled_from(
    [
        *(*_FIRST, b"<< /Type /Pages /Kids [2 0 R] /Count 9 >>"),
        *(b"<< >>", b"null", b"[ 1 0 R ]", b"1 0 R", b"[" * 2000 + b"]" * 2000),
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << >> >>",
        b"<< /Length 40 >>\nstream\nBT /F1 12 Tf (Words of a page) Tj ET\nendstream",
        b"<< /Length 9 /Filter /FlateDecode >>\nstream\n123456789\nendstream",
        b"<< /Length 99999999999 >>\nstream\nBT (W) Tj ET\nendstream",
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


PAGES = st.one_of(
    st.tuples(st.just("d.html"), damaged((nested(_TAGS, _SAID) | _DEEP_HTML).map(str.encode))),
    st.tuples(
        st.just("d.docx"),
        damaged(nested(_WORDS, _XML).map(lambda body: partial(docx, body)), most=1),
    ),
    st.tuples(
        st.just("d.pdf"),
        damaged(st.lists(_OBJECTS, max_size=5).map(lambda more: as_pdf(_FIRST + more)), most=2),
    ),
)
_OF_FILES = st.sampled_from(
    [
        ["status", "IN"],
        ["label", "IN", "-t", "Non-Memo, Guess, Recall", "-o", "out.parquet"],
        ["features", "IN", "-o", "out.parquet"],
        ["data", "duplicates", "--sequences", "IN", "--corpus", "IN", "-o", "out.parquet"],
        [
            "data",
            "duplicates",
            "--sequences",
            "sequences.jsonl",
            "--corpus",
            "IN",
            "-o",
            "out.parquet",
        ],
        ["export", "lm-eval-task", "IN", "-o", "out"],
        ["export", "push", "IN", "o/n", "--dry-run"],
        ["run", "--model", "MODEL", "--sequences", "IN", "-o", "out", "--dry-run"],
        [*API, "IN", "-o", "out", "--dry-run"],
    ]
)


# What services answer.

_TOKEN = {"id": 7, "token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -1}]}
_LISTS = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}]}
_CHOICE = {"text": TEXT, "message": {"content": TEXT}, "finish_reason": "length"}
_CHOICE |= {"token_ids": [7], "logprobs": _LISTS | {"content": [_TOKEN]}}
ANSWER = {"choices": [_CHOICE], "usage": {"prompt_tokens": 3}, "model": "m", "error": {"code": "a"}}
COUNT = {"count": 3, "approx": False, "error": "a", "cnt": 3}
_STATUS = rarely(st.just(200), st.sampled_from([204, 400, 401, 404, 429, 500]))


def _answered(arguments: list[str], files: dict[str, File], good: Any) -> Any:
    bodies = rarely(altered(good).map(as_json), VALUES.map(as_json), DEEP, st.binary(max_size=40))
    return st.builds(Case, st.just(arguments), st.just(files), st.just(""), _STATUS, bodies)


_ASK = [*API, "d.txt", "-o", "out", "--retries", "0", "--concurrency", "1", "--stride", "32", "-q"]
_DUPLICATES = ["data", "duplicates", "--sequences", "t.jsonl", "-o", "out.parquet", "-q"]
_INDEX = ["--corpus", "infini-gram:http://127.0.0.1:PORT/#v4_x"]


# Records that mnemoscope wrote, with a right checksum or without one.


@cache
def _records(folder: str) -> list[str]:
    found = [*FOLDERS[folder].glob("*.json"), *FOLDERS[folder].glob("manifests/*.json")]
    found += FOLDERS[folder].glob("study.yaml")
    return sorted(path.relative_to(FOLDERS[folder]).as_posix() for path in found)


_OF_FOLDERS = {
    "STUDY": [
        ["status", "STUDY"],
        ["benchmark", "STUDY"],
        ["export", "push", "STUDY", "o/n", "--dry-run"],
    ],
    "AUDIT": [
        ["export", "push", "AUDIT", "o/n", "--with-documents", "--dry-run"],
        ["audit", "MODEL", "AUDIT/d.txt", "-o", "AUDIT", "-q"],
    ],
}


@st.composite
def records(draw: st.DrawFn) -> Case:
    from mnemoscope.files import digest

    folder = draw(st.sampled_from(sorted(_OF_FOLDERS)))
    name = draw(st.sampled_from(_records(folder)))
    values = draw(altered(yaml.safe_load((FOLDERS[folder] / name).read_bytes()), most=2))
    sha = values.pop("sha256", None)
    if sha is not None and folder == "AUDIT" and draw(st.booleans()):
        values["sha256"] = digest(values)
    made = as_json(values)  # which is YAML too
    file = draw(
        rarely(st.just(File(made)), damaged(st.just(made)), damaged(VALUES.map(as_json) | DEEP))
    )
    model = json.loads((FOLDERS["AUDIT"] / "audit.json").read_bytes())["model"]["name"]
    verb = [model if one == "MODEL" else one for one in draw(st.sampled_from(_OF_FOLDERS[folder]))]
    return Case(verb, {f"{folder}/{name}": file}, (folder,))


# Folders of which any file is damaged, another file, or gone.

_OF_DAMAGED = {
    "STUDY": [
        *(["status", "STUDY"], ["status", "STUDY", "--verify"], ["report", "STUDY", "--redo"]),
        *(["benchmark", "STUDY"], ["label", "STUDY", "--redo"], ["run", "-o", "STUDY", "-q"]),
        ["export", "lm-eval-task", "STUDY", "-o", "out"],
    ],
    "AUDIT": [
        *(
            ["audit", "verify", "AUDIT"],
            ["audit", "gate", "AUDIT", "--fail-if", "recalled > 2 passages"],
        ),
        ["audit", "MODEL", "AUDIT/d.txt", "-o", "AUDIT", "-q", "--stride", "64"],
    ],
    "MODEL": [
        ["audit", "MODEL", "d.txt", "-o", "out", "-q", "--stride", "64"],
        ["run", "--model", "MODEL", "--sequences", "t.jsonl", "-o", "out", "--dry-run"],
        ["audit", "embedded", "d.txt", "--reference", "MODEL", "-o", "out", "--dry-run"],
    ],
}


@cache
def _files_in(folder: str) -> list[str]:
    found = (path for path in FOLDERS[folder].rglob("*") if path.is_file())
    names = (path.relative_to(FOLDERS[folder]).as_posix() for path in found)
    return sorted(name for name in names if not name.endswith(".lock"))


@st.composite
def folders(draw: st.DrawFn, *of: str) -> Case:
    folder = draw(st.sampled_from(of))
    names = _files_in(folder)
    files: dict[str, File | Odd] = dict(DOCUMENT) | {"t.jsonl": GOOD_ROWS}
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
        path, other = FOLDERS[folder] / name, FOLDERS[folder] / draw(st.sampled_from(names))
        contents = [damaged(st.just(path.read_bytes()), most=2), st.just(File(other.read_bytes()))]
        if name.endswith(".json"):
            with suppress(ValueError, IndexError):
                contents.append(altered(json.loads(path.read_bytes())).map(as_json).map(File))
        elif name.endswith(".safetensors"):
            contents.append(_with_header(path.read_bytes()))
        files[f"{folder}/{name}"] = draw(st.one_of(*contents, ODD_FILES))
    if folder == "MODEL" and draw(st.integers(0, 3)) == 0:
        files |= draw(_ADDED)
    model = json.loads((FOLDERS["AUDIT"] / "audit.json").read_bytes())["model"]["name"]
    verb = draw(st.sampled_from(_OF_DAMAGED[folder]))
    if folder != "MODEL":
        verb = [model if one == "MODEL" else one for one in verb]
    return Case(verb, files, (folder,))


def _with_header(data: bytes) -> st.SearchStrategy[File]:
    """Weights with an odd header."""
    size = int.from_bytes(data[:8], "little")

    def joined(header: Any) -> File:
        made = as_json(header)
        return File(len(made).to_bytes(8, "little") + made + data[8 + size :])

    return altered(json.loads(data[8 : 8 + size])).map(joined)


_ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "MODEL", "r": 4, "lora_alpha": 8}
_ADAPTER |= {"target_modules": ["query_key_value"], "task_type": "CAUSAL_LM", "bias": "none"}
_INDEX_OF = {"metadata": {"total_size": 9}, "weight_map": {"embed": "model-00001.safetensors"}}
_GGUF = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
_ADDED = st.fixed_dictionaries(
    {},
    optional={
        "MODEL/adapter_config.json": altered(_ADAPTER).map(as_json).map(File),
        "MODEL/adapter_model.safetensors": damaged(st.binary(max_size=40)),
        "MODEL/model.safetensors.index.json": altered(_INDEX_OF).map(as_json).map(File),
        "MODEL/model.gguf": damaged(st.just(_GGUF) | st.binary(max_size=40)),
    },
)


# Names, special files, encodings, plugins.

_CHARACTERS = st.sampled_from(
    [*"ab.-_ é\n\r\t\x1b\x7f\u202e\u2028\udc80:%#*?\"'<>&{}[]", "::error::"]
)
NAMES = st.lists(_CHARACTERS, min_size=1, max_size=9).map("".join).map(lambda one: one.strip("/"))
NAMES = NAMES.filter(lambda one: one not in (".", ".."))


@st.composite
def names(draw: st.DrawFn) -> Case:
    name = draw(NAMES) + draw(st.sampled_from(["", ".txt", ".jsonl", ".html", ".csv"]))
    file = draw(rarely(st.sampled_from([GOOD_ROWS, *DOCUMENT.values()]), ODD_FILES))
    case = about((name, File(b"")), draw(_OF_FILES))
    out = draw(rarely(st.just("out"), NAMES))
    words = [out if one == "out" else one for one in case.arguments]
    return Case(words, case.files | {name: file}, case.copied)


@st.composite
def shown(draw: st.DrawFn) -> Case:
    """An output that cannot show all that is said, or nothing."""
    from mnemoscope.cli.app import verbs as all_verbs

    where = ["latin-1", "ascii", "cp1252", "utf-16", "cp037", "/dev/full", "/dev/null", ""]
    verbs = [["--help"], ["status", "STUDY"], ["report", "STUDY", "--redo"], ["analyze", "--list"]]
    verbs += [["audit", "verify", "AUDIT"], ["label", "t.jsonl", "-t", "é", "-o", "out.parquet"]]
    verbs += [
        ["status", "t.jsonl"],
        ["data", "texts", "--help"],
        ["run", "-o", "STUDY", "--dry-run"],
    ]
    verbs += [[*one.split(), "--help"] for one in all_verbs()]
    verb = draw(st.sampled_from(verbs))
    copied = tuple(one for one in ("STUDY", "AUDIT") if one in verb)
    return Case(verb, {"t.jsonl": GOOD_ROWS}, copied, stdout=draw(st.sampled_from(where)))


_CODE = [
    *("import sys; sys.exit(0)", "sys.exit(3)", "1 / 0", "raise SystemExit('é')", "f = None"),
    *("def f(*a, **b): raise SystemExit(0)", "def f(*a, **b): return f(*a, **b)", "f = 3"),
    *(
        "def f(*a, **b): print('seen'); 1 / 0",
        "class f: pass",
        "f = dict",
        "f = print",
    ),
    "def f(*a, **b): raise ValueError('\x1b[31m\\n::error::')",
    "import polars\ndef f(*a, **b): return polars.DataFrame({'text': [None], 'tokens': [1]})",
    "import polars\ndef f(*a, **b): return polars.DataFrame({'text': ['a'] * 3})",
    "from mnemoscope.taxonomy.nodes import NODES\nf = list(NODES)[0]",
]


@st.composite
def plugins(draw: st.DrawFn) -> Case:
    group = draw(st.sampled_from(["analyses", "readers", "nodes"]))
    name = {"analyses": "odd", "readers": "odd", "nodes": "Odd"}[group]
    name = draw(rarely(st.just(name), NAMES))
    verbs = [["analyze", "--list"], ["analyze", "odd", "STUDY"], ["status", "t.odd"]]
    verbs += [["label", "t.jsonl", "-t", "Non-Memo, Odd, Others", "-o", "out.parquet"]]
    verbs += [["features", "t.odd", "-o", "out.parquet"], ["report", "STUDY", "--redo"]]
    code = "\n".join(draw(st.lists(st.sampled_from(_CODE), min_size=1, max_size=2)))
    packages = {f"[mnemoscope.{group}]\n{name} = odd_package:f\n": code}
    files: dict[str, File | Odd] = {"t.odd": GOOD_ROWS, "t.jsonl": GOOD_ROWS}
    verb = draw(st.sampled_from(verbs))
    return Case(verb, files, ("STUDY",) if "STUDY" in verb else (), packages=packages)


TARGETS: dict[str, Any] = {
    "settings": study_settings(),
    "flags": flags(),
    "tables": st.builds(about, TABLES, _OF_FILES),
    "texts": st.builds(about, st.one_of(TEXTS, PAGES), _OF_FILES),
    "answers": st.sampled_from([[], ["--chat"]]).flatmap(
        lambda more: _answered([*_ASK, *more], DOCUMENT, ANSWER)
    ),
    "counts": _answered([*_DUPLICATES, *_INDEX], {"t.jsonl": GOOD_ROWS}, COUNT),
    "records": records(),
    "folders": folders("STUDY", "AUDIT"),
    "models": folders("MODEL"),
    "names": names(),
    "special": st.builds(
        lambda name, file, words: about((name, file), words),
        st.sampled_from(
            ["d.txt", "t.jsonl", "t.parquet", "t.csv", "d.pdf", "d.docx", "t.npy", "d"]
        ),
        ODD_FILES,
        _OF_FILES,
    ),
    "shown": shown(),
    "plugins": plugins(),
}
FOLDERS: dict[str, Path] = {}
_LEFT_OUT = re.compile(r"mnemoscope: odd_package 1.0 left out, .*: .*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029]")


# One child a case.


def run_case(case: Case, place: Path) -> None:
    """Fork, let the child run the command, and look at how it ended."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    stdout = Path(case.stdout) if case.stdout.startswith("/") else place / "stdout"
    said = [stdout, place / "stderr"]
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
    out, err = (one.read_text(errors="replace") if one.is_file() else "" for one in said)
    try:
        assert done, f"no end within {_WALL_SECONDS} s"
        assert usage.ru_utime + usage.ru_stime < _CPU_SECONDS
        _judge(case, os.waitstatus_to_exitcode(status), out, err)
    except AssertionError as error:  # also of a failure that does not come again
        error.add_note(f"{case.arguments}\n{out[-300:]}\n{err[-1500:]}")
        raise


def _judge(case: Case, code: int, out: str, err: str) -> None:
    may_fail = case.arguments[:2] in (["audit", "verify"], ["audit", "gate"])
    may_fail |= case.arguments[::2] == ["status", "--verify"]
    assert code in (0, 2) or (code == 3 and may_fail), f"exit status {code}"
    assert "Traceback" not in out + err
    assert "internal error" not in err
    assert "out of memory" not in err, "more than 1 GB"
    if case.stdout != "utf-8":
        return  # another alphabet, or nothing
    assert not _CONTROL.search(out + err), "a control character"
    complaints = [line for line in err.splitlines() if line.startswith("mnemoscope: ")]
    complaints = [line for line in complaints if not _LEFT_OUT.match(line)]
    assert len(complaints) == (code == 2)
    assert code != 2 or err.splitlines()[-1] == complaints[0], "more than one line"


def _be_child(case: Case, place: Path, said: list[Path]) -> None:
    code = 99
    try:
        os.setsid()
        os.chdir(place)
        for number, path in enumerate(said, start=1):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
        _speak(case.stdout)
        for folder in case.copied:
            shutil.copytree(FOLDERS[folder], place / folder, symlinks=True)
        for name, file in case.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            file.write(place / name)
        _install(case.packages, place)
        port = _serve(case) if case.body or "PORT" in str(case.arguments) else 0
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _BYTES, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS + 1))
        from mnemoscope.cli import main

        main([one.replace("PORT", str(port)) for one in case.arguments])
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 98
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, AttributeError):
                stream.flush()
        os._exit(code)


def _speak(encoding: str) -> None:
    """Let both outputs have an encoding; without one there is no standard output."""
    if not encoding:
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]  # as Python has it then
    elif not encoding.startswith("/"):
        sys.stdout.reconfigure(encoding=encoding)  # type: ignore[union-attr]
        sys.stderr.reconfigure(encoding=encoding, errors="backslashreplace")  # type: ignore[union-attr]


def _install(packages: dict[str, str], place: Path) -> None:
    """Packages as pip leaves them."""
    for points, code in packages.items():
        info = place / "site" / "odd_package-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd_package\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points, "utf-8", "surrogatepass")
        (place / "site" / "odd_package.py").write_text(code)
        sys.path.insert(0, str(place / "site"))


def _serve(case: Case) -> int:
    """A service of this machine that answers the same to everything; returns its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
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


_FURTHER = ("docx", "lxml.html", "pypdf", "inscriptis", "rich.table", "rich.progress")
_FURTHER += ("scipy.stats",)
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


def try_target(name: str, n: int, place: Path, tried: list[Case], start: str = "") -> None:
    """Try so many cases of a target, or all there are; notes of the error show the smallest."""

    @(seed(int(start)) if start else lambda test: test)
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
        tried.append(case)
        run_case(case, place)

    try_all()


def main(n: str, study: str, audit: str, *targets: str) -> None:
    """Try so many cases of each target; leaves with the names of those that failed.

    Without a seed they are always the same ones.
    """
    most, _, start = n.partition(":")
    FOLDERS.update(STUDY=Path(study).absolute(), AUDIT=Path(audit).absolute())
    record = json.loads((FOLDERS["AUDIT"] / "audit.json").read_bytes())
    FOLDERS["MODEL"] = Path(record["model"]["name"])
    _import_all()
    failed = []
    for name in targets or TARGETS:
        wall, cpu, tried = time.monotonic(), sum(os.times()[:4]), list[Case]()
        with tempfile.TemporaryDirectory() as place:
            try:
                try_target(name, int(most), Path(place) / "case", tried, start)
            except Exception as error:
                failed.append(name)
                for one in getattr(error, "exceptions", [error]):  # of several failures each
                    print(f"{name}: {one!r}", *getattr(one, "__notes__", ()), sep="\n")
        wall, cpu = time.monotonic() - wall, sum(os.times()[:4]) - cpu
        seeded = f" of seed {start}" if start else ""
        print(f"{name}: {len(tried)} cases{seeded} in {wall:.0f} s, {cpu:.0f} CPU s", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
