"""Planted passages are found at their places and counted, in any corpus and by infini-gram."""

import json
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.data import origins
from mnemoscope.data.corpus import open_corpus
from mnemoscope.data.duplicates import count_duplicates
from mnemoscope.data.origins import (
    MOST_PLACES,
    Needle,
    count_in_index,
    find_in_corpus,
    find_in_index,
)
from mnemoscope.errors import UserError
from refusals import refusal

PASSAGE = "the seventh heron — painted twice"
IDS = np.array([7, 8, 7, 8, 7], dtype=np.int32)


class Letters:
    """A tokenizer that texts are never cut with here."""

    def __call__(self, text, **_):
        raise AssertionError("a text is searched as it is")

    def get_vocab(self):
        return {}


TEXTS = ["nothing here", f"{PASSAGE}! and {PASSAGE}", "é" * 40 + PASSAGE]


def found(path, **options):
    corpus = open_corpus(
        path, tokenizer=options.pop("tokenizer", None), **{"dtype": None, **options}
    )
    return find_in_corpus([Needle(PASSAGE, IDS), Needle("not there", IDS[::-1] + 1)], corpus)


def test_texts_are_searched_by_character(tmp_path):
    frame, sources = pl.DataFrame({"text": TEXTS}), {}
    for kind, ending in {"ndjson": "jsonl", "csv": "csv", "parquet": "parquet"}.items():
        path = tmp_path / f"corpus.{ending}"
        getattr(frame, f"write_{kind}")(path)
        sources[path] = [f"{path}#{row}" for row in (1, 2, 3)]
    folder = tmp_path / "corpus"
    folder.mkdir()
    sources[folder] = [str(folder / f"{number}.txt") for number in range(3)]
    for name, text in zip(sources[folder], TEXTS, strict=True):
        Path(name).write_text(text, encoding="utf-8")
    for source, names in sources.items():
        own, other = found(source, tokenizer=Letters())
        second = len(PASSAGE) + len("! and ")
        places = [(names[1], 0), (names[1], second), (names[2], 40)]
        assert [(one.document, one.offset) for one in own.spots] == places
        assert {one.unit for one in own.spots} == {"characters"}
        assert (own.n, other.n, other.spots) == (3, 0, [])


def test_token_ids_are_found_across_chunks_and_across_a_border_where_there_are_no_documents(
    tmp_path, monkeypatch
):
    from mnemoscope.data import corpus as module

    monkeypatch.setattr(module, "_FLAT_CHUNK_TOKENS", 10)
    rows = np.random.default_rng(0).integers(100, 200, (6, 13))
    rows[0, 8:] = IDS  # at the end of the first chunk
    rows[1, -2:], rows[2, :3] = IDS[:2], IDS[2:]  # over a border
    rows[3, :7] = [7, 8, 7, 8, 7, 8, 7]  # two that overlap
    rows.astype("<u2").tofile(tmp_path / "b.bin")  # no documents: the border is none
    own, _ = found(tmp_path / "b.bin")
    assert [one.offset for one in own.spots] == [8, 24, 39, 41]
    table = pl.DataFrame({"tokens": rows.tolist()})
    table.write_parquet(tmp_path / "c.parquet")
    own, _ = found(tmp_path / "c.parquet")
    assert [one.offset for one in own.spots] == [8, 0, 2]
    assert own.spots[0].unit == "tokens"


@given(data=st.data(), width=st.integers(1, 7), chunk=st.integers(1, 9))
def test_ids_are_where_a_plain_search_finds_them(data, width, chunk, tmp_path_factory):
    ids = st.integers(0, 2)
    rows = data.draw(st.lists(st.lists(ids, min_size=width, max_size=width), min_size=1))
    wanted = data.draw(st.lists(st.lists(ids, min_size=1, max_size=3), min_size=1, max_size=3))
    path = tmp_path_factory.getbasetemp() / "rows.npy"
    np.save(path, np.array(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnemoscope.data.corpus._FLAT_CHUNK_TOKENS", chunk)
        corpus = open_corpus(path, tokenizer=None, dtype=None)
        found = find_in_corpus([Needle("", np.array(one)) for one in wanted], corpus)
    for needle, origin in zip(wanted, found, strict=True):
        assert [(one.document, one.offset) for one in origin.spots] == [
            (f"{path}#{number}", at)
            for number, row in enumerate(rows, start=1)
            for at in range(width)
            if row[at : at + len(needle)] == needle
        ][:MOST_PLACES]


def test_beyond_the_listed_places_they_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text(f"{PASSAGE}\n" * 250, encoding="utf-8")
    own, _ = found(tmp_path / "a.txt", tokenizer=Letters())
    assert own.n == 250
    assert len(own.spots) == MOST_PLACES


INDEX = "v4_test"


def documents() -> list[np.ndarray]:
    """Bytes of few values, so that suffixes occur often and overlap; none holds 255."""
    rng = np.random.default_rng(0)
    made = [rng.integers(97, 100, rng.integers(5, 200)) for _ in range(40)]
    return [*made, np.full(30, 97), np.arange(97, 123)]


def bytes_as_text(ids):
    return bytes(ids).decode("ascii")


def table(path, corpus, k=6):
    rng = np.random.default_rng(1)
    long = [one for one in corpus if len(one) >= k]
    picked = [long[which] for which in rng.integers(len(long), size=60)]
    places = [(one, rng.integers(len(one) - k + 1)) for one in picked]
    suffixes = [one[start : start + k] for one, start in places]
    suffixes += [np.full(k, 97), np.full(k, 98), np.arange(110, 110 + k)[::-1]]
    rows = [[1] * k + one.tolist() for one in suffixes]
    frame = pl.DataFrame({"sequence_id": range(len(rows)), "tokens": rows})
    frame.write_parquet(path)
    return np.array([row[k:] for row in rows], dtype=np.int32)


def places_of(ids, corpus):
    every = ((number, place) for number, one in enumerate(corpus) for place in range(len(one)))
    return [(n, at) for n, at in every if corpus[n][at : at + len(ids)].tolist() == list(ids)]


class Api(BaseHTTPRequestHandler):
    """As https://infini-gram.readthedocs.io/en/latest/api.html has it."""

    def do_POST(self):
        server = self.server
        server.n_asked += 1
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if server.faults:
            self.send_error(server.faults.pop(0))
            return
        if (odd := server.odd.get(asked["query_type"])) is not None:
            self.send_response(200)
            self.end_headers()
            while odd == b"dripping" and not server.stopped.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()
            self.wfile.write(odd)
            return
        if asked["index"] != INDEX:
            answer = {"error": f"Unknown index {asked['index']}"}
        elif not asked["query_ids"]:
            answer = {"count": sum(map(len, server.corpus)), "approx": False}
        elif asked["query_type"] == "find":
            server.places = places_of(asked["query_ids"], server.corpus)
            n = len(server.places)
            answer = {"cnt": n, "segment_by_shard": [[0, n // 2], [n // 2, n]]}
        elif asked["query_type"] == "get_doc_by_rank":
            most = asked.get("max_disp_len", 1000)
            if not 1 <= most <= server.most_shown and server.refusal != 200:
                self.send_error(server.refusal)
                return
            answer = {"error": f"max_disp_len must be an integer in [1, {server.most_shown}]!"}
            if 1 <= most <= server.most_shown:
                number, place = server.places[asked["rank"]]
                start = max(0, place - most // 2)
                shown = server.corpus[number][start : start + most].tolist()
                answer = {"doc_ix": number, "doc_len": len(server.corpus[number])}
                answer |= {"disp_len": len(shown), "needle_offset": place - start}
                answer |= {"token_ids": shown}
        else:
            assert asked["query_type"] == "count"
            ids = np.array([asked["query_ids"]], dtype=np.int32)
            found = int(count_duplicates(ids, server.corpus)[0])
            answer = {"count": found, "approx": server.is_approx, "latency": 0.7}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(origins, "_FIRST_PAUSE_SECONDS", 0.001)
    server = HTTPServer(("127.0.0.1", 0), Api)
    server.corpus, server.faults, server.n_asked, server.is_approx = documents(), [], 0, False
    server.most_shown, server.refusal = 10_000, 200  # as documented
    server.odd, server.stopped = {}, threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}/"
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def count_by_verb(tmp_path, call):
    """Count the suffixes of a table in a corpus; gives the counts and what was printed."""

    def count(corpus, *flags):
        files = "--sequences", tmp_path / "s.parquet", "-o", tmp_path / "o.parquet"
        result = call(
            "data", "duplicates", *files, "--corpus", corpus, *flags, "--length", 12, "-q"
        )
        assert result.status == 0, result.err
        return pl.read_parquet(tmp_path / "o.parquet")["duplicates"].to_list(), result.out

    return count


def test_the_api_is_asked_once_a_suffix_and_counts_as_the_own_counter(api, tmp_path, count_by_verb):
    suffixes = table(tmp_path / "s.parquet", api.corpus)
    api.faults = [503, 429]  # busy twice
    found, said = count_by_verb(f"infini-gram:{api.url}#{INDEX}")
    assert found == count_duplicates(suffixes, api.corpus).tolist()
    assert f"corpus of {sum(map(len, api.corpus)):,} tokens" in said
    assert api.n_asked == 2 + 1 + len(np.unique(suffixes, axis=0))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["o.parquet", "s.parquet"]


def test_a_count_that_broke_off_goes_on(api, tmp_path, monkeypatch):
    suffixes = table(tmp_path / "s.parquet", api.corpus)
    place, progress = f"{api.url}#{INDEX}", tmp_path / "progress"
    asked = {"place": place, "dtype": None, "progress_file": progress}
    real, n = origins._post, []

    def breaks(url, body, place):
        n.append(1)
        if len(n) > 10:
            raise UserError("no answer")
        return real(url, body, place)

    monkeypatch.setattr(origins, "_post", breaks)
    assert "no answer" in refusal(count_in_index, suffixes, **asked)
    monkeypatch.setattr(origins, "_post", real)
    before = api.n_asked
    found = count_in_index(suffixes, **asked)
    assert found.counts.tolist() == count_duplicates(suffixes, api.corpus).tolist()
    assert api.n_asked - before == 1 + len(np.unique(suffixes, axis=0)) - 9


def test_what_is_no_exact_count_is_refused(api, tmp_path):
    suffixes = np.full((1, 6), 97, dtype=np.int32)
    asked = {"dtype": None, "progress_file": tmp_path / "p"}
    for place, words in {
        f"{api.url}#other": "Unknown index other",
        api.url: "wants URL#INDEX",
        "ftp://x/#y": "wants URL#INDEX",
        str(tmp_path / "gone"): "no such folder",
        str(tmp_path): "no whole infini-gram index",
    }.items():
        assert words in refusal(count_in_index, suffixes, place, **asked)
    api.is_approx = True
    for api.faults, words in (([], "approximate"), ([404], "HTTP 404"), ([503] * 5, "HTTP 503")):
        assert words in refusal(count_in_index, suffixes, f"{api.url}#{INDEX}", **asked)
    with pytest.raises(UserError, match="dtype float16"):
        count_in_index(suffixes, str(tmp_path), dtype="float16", progress_file=tmp_path / "p")


def test_the_api_gives_places_within_its_limit_and_none_where_it_refuses(api):
    ids = api.corpus[7][20:29].astype(np.int32)
    far = [np.full(12_000, 98), ids, np.full(50, 98)]  # more before it than the API shows
    api.corpus.append(np.concatenate(far))
    expected = [(n, None if n == 42 else at) for n, at in places_of(ids, api.corpus)]
    assert {(7, 20), (42, None)} <= set(expected)
    needles, place = [Needle("", ids)], f"{api.url}#{INDEX}"
    (found,) = find_in_index(needles, place, bytes_as_text, dtype=None)
    spots = [(int(one.document.rpartition("#")[2]), one.offset) for one in found.spots]
    assert (found.n, spots) == (len(expected), expected)
    api.most_shown = 500
    for api.refusal in (200, 400):
        (found,) = find_in_index(needles, place, bytes_as_text, dtype=None)
        assert found.n == len(expected)
        assert {(one.document, one.offset) for one in found.spots} == {(place, None)}


DEEP = b"[" * 50_000 + b"]" * 50_000
ODD = [("find", one) for one in (DEEP, b"3", b"{}", b'{"cnt": 1, "segment_by_shard": 3}')]
ODD += [("find", b'{"cnt": 1, "segment_by_shard": [[0]]}')]
ODD += [("find", b'{"cnt": %s, "segment_by_shard": []}' % n) for n in (b'"x"', b"-5", b"1e999")]
ODD_DOCUMENT = b'{"doc_ix": %s, "doc_len": 3, "disp_len": 3, "token_ids": %s}'
ODD_DOCUMENTS = [DEEP, b"null", ODD_DOCUMENT % (b"0", b"3"), ODD_DOCUMENT % (b'"\\ud800"', b"[1]")]
ODD += [("get_doc_by_rank", one) for one in ODD_DOCUMENTS]
ODD += [("count", one) for one in (DEEP, b'{"count": 1e30}', b'{"count": 1%s}' % (b"0" * 30))]


@pytest.mark.parametrize(("kind", "odd"), ODD)
def test_an_odd_answer_is_refused_in_one_line(api, kind, odd, tmp_path):
    api.odd = {kind: odd}
    ids, place = api.corpus[7][20:29].astype(np.int32), f"{api.url}#{INDEX}"
    count = partial(count_in_index, ids[None], place, dtype=None, progress_file=tmp_path / "p")
    find = partial(find_in_index, [Needle("", ids)], place, str, dtype=None)
    with pytest.raises(UserError, match="answer") as raised:
        (count if kind == "count" else find)()
    assert len(str(raised.value).encode()) < 500


def test_an_answer_without_an_end_is_refused_in_time(api, monkeypatch):
    monkeypatch.setattr(origins, "_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(origins, "_TRIES", 1)
    api.odd = {"find": b"dripping"}
    needles, started = [Needle("", np.array([97], dtype=np.int32))], time.monotonic()
    with pytest.raises(UserError, match=r"no end of an answer within 0\.2 s"):
        find_in_index(needles, f"{api.url}#{INDEX}", str, dtype=None)
    assert time.monotonic() - started < 5


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    pytest.importorskip("infini_gram")
    root = tmp_path_factory.mktemp("infini")
    for name in ("data", "index"):
        (root / name).mkdir()
    lines = [json.dumps({"text": bytes(one.tolist()).decode("ascii")}) for one in documents()]
    (root / "data" / "a.jsonl").write_text("\n".join(lines) + "\n")
    command = "-m infini_gram.indexing --token_dtype u8 --cpus 1 --mem 1 --shards 1 --ulimit 1024"
    places = ["--data_dir", root / "data", "--save_dir", root / "index"]
    subprocess.run([sys.executable, *command.split(), *places], check=True, capture_output=True)
    return root / "index"


def test_an_index_counts_as_the_own_counter_and_one_that_is_not_whole_is_refused(
    index, tmp_path, count_by_verb
):
    suffixes = table(tmp_path / "s.parquet", documents())
    expected = count_duplicates(suffixes, documents())
    assert expected.max() > 5
    assert expected.min() == 0
    found, _ = count_by_verb(f"infini-gram:{index}", "--dtype", "uint8")
    assert found == expected.tolist()
    asked = {"dtype": "uint8", "progress_file": tmp_path / "p"}
    for dtype in (None, "uint32"):  # the engine would end the process
        with pytest.raises(UserError, match=r"no index of uint.* ids\. Name its dtype"):
            count_in_index(suffixes, str(index), **asked | {"dtype": dtype})
    with pytest.raises(UserError, match="token id 300 does not fit"):
        count_in_index(np.full((1, 6), 300, np.int32), str(index), **asked)
    shutil.copytree(index, tmp_path / "torn")
    (tmp_path / "torn" / "table.0").unlink()
    assert "no table.0" in refusal(count_in_index, suffixes, str(tmp_path / "torn"), **asked)


def test_an_index_gives_the_places_of_a_passage(index):
    corpus = documents()
    ids = corpus[7][20:29].astype(np.int32)
    needles = [Needle("", ids), Needle("", np.full(6, 97, np.int32)), Needle("", ids[::-1] + 3)]
    found = find_in_index(needles, str(index), bytes_as_text, dtype="uint8")
    for needle, one in zip(needles, found, strict=True):
        places = [(int(spot.document.rpartition("#")[2]), spot.offset) for spot in one.spots]
        wanted = places_of(needle.ids, corpus)
        assert (one.n, len(places)) == (len(wanted), min(len(wanted), MOST_PLACES))
        assert set(places) <= set(wanted)
    assert [found[0].n > 0, found[1].n > 20, found[2].n] == [True, True, 0]
