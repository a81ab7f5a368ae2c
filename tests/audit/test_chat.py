"""A service of chats: a passage is found behind whatever a chat says first."""

import polars as pl
import pytest
from served import KEY, serving

from mnemoscope.audit import service as service_module
from mnemoscope.audit.chat import ChatModel, from_beginning
from mnemoscope.audit.documents import ModelTokens, Words, read_documents
from mnemoscope.audit.run import audit
from mnemoscope.audit.service import (
    AnswerStore,
    Asked,
    Client,
    ServedModel,
    estimate_cost,
    parse_answer,
)
from mnemoscope.audit.settings import AuditSettings, endpoint_settings
from mnemoscope.audit.verify import verify_audit
from mnemoscope.errors import UserError
from mnemoscope.files import read_parquet
from mnemoscope.lm.hub import find_bos

SETTINGS = AuditSettings(top_k=0, n_prefixes=0, stride=16, max_growth=0)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(service_module, "_FIRST_DELAY", 0.01)


def asked(lm, url, text, folder, *, splitter=None, settings=SETTINGS):
    folder.mkdir()
    (folder / "a.txt").write_text(text, encoding="utf-8")
    reading = read_documents([str(folder / "a.txt")])
    client = Client(
        endpoint_settings(url=url, model="embedded", prompt_as="text", chat=True),
        AnswerStore(folder / "answers.jsonl"),
    )
    splitter = splitter or ModelTokens(lm.tokenizer, find_bos(lm.tokenizer))
    model = ChatModel(client, splitter, reading.documents, settings)
    record = audit(model, reading, folder / "out")
    return record, pl.read_parquet(folder / "out" / "spans.parquet"), model


@pytest.fixture(scope="module")
def known(trained, new_text):
    """A trained text among new ones."""
    return f"{new_text(3, 8)} {trained[0]} {new_text(4, 8)}"


@pytest.fixture(scope="module")
def planted(trained, new_text):
    """A trained text, and one with a word put in where the model is to go on."""
    place = trained[1].index(" ", 2 * len(trained[1]) // 3)
    changed = f"{trained[1][:place]} velvet{trained[1][place:]}"
    return f"{new_text(3, 6)} {trained[0]} {new_text(4, 6)} {changed}"


def test_a_passage_is_found_behind_a_preamble_as_without_one(lm, known, trained, tmp_path):
    found = {}
    with serving(lm, "chat") as (service, url):
        for name, preamble in (("plain", ""), ("polite", "Sure! Here is how it goes on:\n\n")):
            service.preamble = preamble
            found[name] = asked(lm, url, known, tmp_path / name)
    places = [
        pl_frame.select("start", "end", "verdict").rows() for _, pl_frame, _ in found.values()
    ]
    assert places[0]
    assert places[0] == places[1]
    begin = known.index(trained[0])
    assert any(begin <= start < end <= begin + len(trained[0]) for start, end, _ in places[0])
    plain, polite = found["plain"][1], found["polite"][1]
    assert plain["extraction_logprob"].drop_nulls().len() > 0
    assert polite["extraction_logprob"].null_count() == polite.height
    assert any("chat" in note for note in found["plain"][0]["api"]["notes"])


def test_near_copies_cost_no_request_and_words_serve_too(lm, planted, tmp_path):
    with serving(lm, "chat") as (service, url):
        _, spans, model = asked(lm, url, planted, tmp_path / "tokens")
        near = read_parquet(tmp_path / "tokens" / "out" / "near.parquet")
        before = service.n_requests
        model.write_on([(0, first) for first in near["window_token"].to_list()])
        assert service.n_requests == before
        few = SETTINGS.model_copy(
            update={"prefix": 16, "suffix": 12, "stride": 4, "near_length": 8}
        )
        _, words, model = asked(
            lm, url, planted, tmp_path / "words", splitter=Words(), settings=few
        )
        out = tmp_path / "words" / "out"
        assert read_parquet(out / "near.parquet").height
        again = verify_audit(out, lambda _, *given: ChatModel(model.client, Words(), *given))
        assert again.problems == []
    assert spans.height
    assert near.height
    assert (near["text"].str.contains("velvet")).any()
    assert words.columns == spans.columns


def test_the_estimate_counts_everyday_prompts(lm, planted, tmp_path):
    (tmp_path / "a.txt").write_text(planted, encoding="utf-8")
    documents = read_documents([str(tmp_path / "a.txt")]).documents
    client = Client(endpoint_settings(url="http://127.0.0.1:1", model="x", prompt_as="text"))
    said = [
        estimate_cost(ServedModel(client, Words(), documents, one))
        for one in (SETTINGS, SETTINGS.model_copy(update={"ordinary": "shipped"}))
    ]
    requests = [int(one.split(" ", 1)[0].replace(",", "")) for one in said]
    assert requests[1] == requests[0] + 100


@pytest.mark.parametrize(
    "said",
    [
        "goes on with seven birds in the lane",
        "Sure, here it is:\n\ngoes on with seven birds in the lane",
        "the copper lamp on the green hill that goes on with seven birds in the lane",
        "  goes on with seven birds in the lane",
    ],
)
def test_an_answer_is_taken_from_where_the_document_goes_on(said):
    text = "We saw the copper lamp on the green hill that goes on with seven birds in the lane."
    words = Words()
    tokens = words.split(text)
    begin = next(n for n, start in enumerate(tokens.starts) if text[start:].startswith(" goes"))
    answer = parse_answer({"choices": [{"message": {"content": said}}]})
    made = from_beginning(answer, words, text, tokens, Asked(0, begin, len(tokens.ids)))
    assert made.text == " goes on with seven birds in the lane"


def test_where_only_chats_are_served_the_refusal_names_the_flag(lm):
    with serving(lm, "chat") as (_, url):
        client = Client(endpoint_settings(url=f"{url}/elsewhere", model="embedded"))
        with pytest.raises(UserError, match="--chat"):
            client.ask([client.body("x", 1)], label="x")
