"""Odd input of every kind, seeded: it is read, or refused in one line, soon and in little memory.

`make test` tries a hundred cases, `make test-all` ten thousand.
"""

import io
import json
import math
import resource
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mnemoscope.audit.documents import Words, read_documents
from mnemoscope.audit.service import Asked, lay_beside, parse_answer
from mnemoscope.data.corpus import open_corpus
from mnemoscope.data.read import read_sequences
from mnemoscope.data.table import COLUMNS, check_sequences
from mnemoscope.errors import MnemoscopeError
from mnemoscope.files import read_record
from mnemoscope.parse import parse_json
from mnemoscope.study.settings import StudySettings, load_settings
from mnemoscope.taxonomy.catalogue import read_taxonomies

_CPU_SECONDS = 10
_BYTES = 1 << 30

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
DEEP = st.integers(1, 3000).map(lambda n: "[" * n + "]" * n)
DEEP_JSON = DEEP.map(str.encode)


def rarely(often: st.SearchStrategy, *others: st.SearchStrategy) -> st.SearchStrategy:
    """One in ten of the others."""
    return st.integers(0, 9).flatmap(lambda n: often if n else st.one_of(*others))


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with some flipped, some cut off, some put in; or as they are."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["flip", "cut", "put", "twice"]))
        if how == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del data[place:]
        elif how == "put":
            data[place:place] = draw(st.binary(max_size=4))
        else:
            data[place:place] = data[:place]
    return bytes(data)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def as_lines(rows: list[object]) -> bytes:
    return b"\n".join(map(as_json, rows))


def as_yaml(value: object) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


# Settings: any field with any value, in a file.

_DEFAULTS = StudySettings().as_dict()
_FIELDS = [(one, name) for one, fields in _DEFAULTS.items() if fields for name in fields]


@st.composite
def study_files(draw: st.DrawFn) -> bytes:
    values: dict[str, dict[str, object]] = {}
    for section, name in draw(st.lists(st.sampled_from(_FIELDS), max_size=4)):
        default = _DEFAULTS[section][name]
        near = st.lists(ODD, max_size=3) if isinstance(default, list) else ODD
        values.setdefault(section, {})[name] = draw(near | VALUES | st.just(default))
    return draw(rarely(damaged(st.just(as_yaml(values))), DEEP_JSON, st.binary(max_size=40)))


def use_settings(data: bytes, folder: Path) -> None:
    path = folder / "study.yaml"
    path.write_bytes(data)
    for read in (load_settings, read_taxonomies):
        expect_one_line(read, path)


# Files: rows of JSON, Parquet, texts.

_NAMES = st.sampled_from([*COLUMNS, "text", "tokens", "other"])
_ROWS = st.lists(st.dictionaries(_NAMES, VALUES, max_size=3) | VALUES, max_size=4)
_TOKENS = st.lists(st.integers(-1, 3000), min_size=60, max_size=66)
_GOOD = st.fixed_dictionaries({"tokens": _TOKENS, "text": st.text(max_size=300)})


@st.composite
def parquets(draw: st.DrawFn) -> bytes:
    rows = [draw(_GOOD) for _ in range(draw(st.integers(0, 3)))]
    frame = pl.DataFrame(rows, schema={"tokens": pl.List(pl.Int64), "text": pl.String})
    name = draw(st.sampled_from(["tokens", "text"]))
    kind = draw(st.sampled_from([pl.String, pl.Int8, pl.Float64, pl.Boolean, pl.Date]))
    frame = draw(
        st.sampled_from([frame, frame.with_columns(pl.lit(None, kind).alias(name)), frame[:0]])
    )
    frame.write_parquet(buffer := io.BytesIO(), compression=draw(st.sampled_from(["zstd", "lz4"])))
    return buffer.getvalue()


FILES = st.one_of(
    st.tuples(st.just(".jsonl"), damaged(_ROWS.map(as_lines))),
    st.tuples(st.just(".jsonl"), damaged(st.lists(_GOOD, max_size=3).map(as_lines))),
    st.tuples(st.just(".jsonl"), DEEP.map(lambda text: b'{"text": ' + text.encode() + b"}")),
    st.tuples(st.just(".parquet"), damaged(parquets())),
    st.tuples(st.sampled_from([".txt", ".html", ".md"]), st.binary(max_size=300)),
    st.tuples(st.just(".txt"), damaged(st.text(max_size=300).map(str.encode))),
)


def use_file(case: tuple[str, bytes], folder: Path) -> None:
    ending, data = case
    path = folder / f"odd{ending}"
    path.write_bytes(data)
    tokenizer = shipped_tokenizer()

    def sequences() -> None:
        frame = read_sequences(path, tokenizer).frame
        check_sequences(frame, where=str(path), vocab_size=tokenizer.vocab_size)

    def corpus() -> None:
        opened = open_corpus(path, tokenizer=tokenizer, dtype=None)
        for source in opened.sources:
            list(source.chunks(0, 32))

    for read in (sequences, corpus, lambda: read_documents([str(path)])):
        expect_one_line(read)


# What a service answers.

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
    {"text": st.text(max_size=9) | ODD},
    optional={
        "logprobs": _LOGPROBS | VALUES,
        "finish_reason": st.just("length") | VALUES,
        "token_ids": st.lists(st.integers(-1, 300)) | VALUES,
    },
)
_ANSWERS = st.fixed_dictionaries(
    {"choices": st.lists(_CHOICE, min_size=1, max_size=2) | VALUES},
    optional={"usage": VALUES, "model": VALUES},
)
BODIES = rarely(damaged(_ANSWERS.map(as_json)), VALUES.map(as_json), DEEP_JSON)


def use_body(data: bytes, folder: Path) -> None:
    text = "A passage of some words, which a service may write or not."
    words = Words()
    tokens = words.split(text)
    said, answer = "", None
    try:
        answer = parse_answer(parse_json(data.decode("utf-8", "replace")))
    except ValueError as error:
        said = str(error)
    assert "\n" not in said
    if answer is None:
        return
    json.dumps(answer._asdict(), ensure_ascii=False).encode()  # nothing that cannot be written
    laid = lay_beside(answer, words, text, tokens, Asked(0, 4, 8))
    assert len(laid.ids) == 4


# Records that mnemoscope wrote.


@st.composite
def records(draw: st.DrawFn) -> bytes:
    values = {"key": "a", "counts": draw(st.dictionaries(st.text(max_size=3), VALUES, max_size=2))}
    return draw(rarely(damaged(st.just(as_json(values))), VALUES.map(as_json), DEEP_JSON))


def use_record(data: bytes, folder: Path) -> None:
    path = folder / "label.json"
    path.write_bytes(data)

    def read() -> None:
        found = read_record(path, needed={"key": str, "counts": dict}, remedy="Delete it.")
        assert isinstance(found["counts"], dict)

    expect_one_line(read)


def expect_one_line(read, *arguments) -> None:
    """Call it: all is well, or it refuses in one line."""
    said = "all is well"
    try:
        read(*arguments)
    except MnemoscopeError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    assert len(said) < 5000


def shipped_tokenizer():
    from mnemoscope.embedded import model_path
    from mnemoscope.lm.load import load_tokenizer

    if not _tokenizers:
        _tokenizers.append(load_tokenizer(str(model_path())))
    return _tokenizers[0]


_tokenizers: list = []
TARGETS = {
    "settings": (study_files(), use_settings),
    "files": (FILES, use_file),
    "answers": (BODIES, use_body),
    "records": (records(), use_record),
}


def resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("n", [25, pytest.param(2500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", TARGETS)
def test_odd_input_is_read_or_refused_in_one_line(target, n, tmp_path) -> None:
    cases, use = TARGETS[target]
    shipped_tokenizer()
    before = resident_bytes()

    @settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def try_all(case) -> None:
        started = time.process_time()
        use(case, tmp_path)
        assert time.process_time() - started < _CPU_SECONDS

    try_all()
    assert resident_bytes() - before < _BYTES
