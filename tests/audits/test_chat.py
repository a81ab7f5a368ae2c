"""A service of chats: a passage is found behind whatever a chat says first."""

import pytest
from served import KEY, endpoint, serving

from mnemoscope.audits import client as client_module
from mnemoscope.audits.asking import Auditing, Prompt
from mnemoscope.audits.chat import ChatModel, from_beginning
from mnemoscope.audits.client import AnswerStore, Client, parse_answer
from mnemoscope.audits.documents import Document, read_documents
from mnemoscope.audits.near import write_on
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.run import make_audit
from mnemoscope.audits.tokens import ModelTokens, Text, Words, cut_texts
from mnemoscope.audits.verify import verify_audit
from mnemoscope.errors import UserError
from mnemoscope.files import read_parquet
from mnemoscope.lm.hub import find_bos
from tests.audits.conftest import with_word

SETTINGS = audit_settings(top_k=0, max_growth=0, stride=8, refine_from=33)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(client_module, "_FIRST_DELAY", 0.01)


def asked(url, text, folder, splitter, settings=SETTINGS):
    folder.mkdir()
    (folder / "a.txt").write_text(text, encoding="utf-8")
    reading = read_documents([str(folder / "a.txt")])
    client = Client(
        endpoint(url=url, model="embedded", prompt_as="text", chat=True),
        AnswerStore(folder / "answers.jsonl"),
    )
    texts = cut_texts(splitter, reading.documents)
    audit = Auditing(ChatModel(client, splitter, settings), texts, settings)
    record = make_audit(audit, reading, folder / "out")
    tables = (read_parquet(folder / "out" / f"{name}.parquet") for name in ("spans", "near"))
    return record, *tables, audit


def test_passages_and_near_copies_are_found_behind_a_preamble_as_without_one(lm, trained, tmp_path):
    # Each stands where a window begins: none has to be looked for around a find.
    text = f"{trained[0]} {with_word(trained[1])}"
    tokens, found = ModelTokens(lm.tokenizer, find_bos(lm.tokenizer)), {}
    with serving(lm, "chat") as (service, url):
        for name, preamble in (("plain", ""), ("polite", "Sure! Here is how it goes on:\n\n")):
            service.preamble = preamble
            found[name] = asked(url, text, tmp_path / name, tokens)
        record, plain, near, audit = found["plain"]
        before = service.n_requests
        write_on(audit, [(0, first) for first in near["window_token"].to_list()])
        assert service.n_requests == before
    places = [one.select("start", "end", "verdict").rows() for _, one, *_ in found.values()]
    assert places[0]
    assert places[0] == places[1]
    begin = text.index(trained[0])
    assert any(begin <= start < end <= begin + len(trained[0]) for start, end, _ in places[0])
    assert (near["text"].str.contains("velvet")).any()
    polite = found["polite"][1]
    assert plain["extraction_logprob"].drop_nulls().len() > 0
    assert polite["extraction_logprob"].null_count() == polite.height
    assert any("chat" in note for note in record["api"]["notes"])


def test_words_serve_too_and_hold(lm, often, new_text, tmp_path):
    few = {"prefix": 16, "suffix": 12, "stride": 4, "near_length": 8}
    text, settings = f"{new_text(4, 6)} {with_word(often[1])}", SETTINGS.model_copy(update=few)
    with serving(lm, "chat") as (_, url):
        _, _, near, audit = asked(url, text, tmp_path / "words", Words(), settings)
        assert near["text"].str.contains("velvet").any()
        again = verify_audit(
            tmp_path / "words" / "out",
            lambda _, settings: ChatModel(audit.model.client, Words(), settings),
        )
    assert again.problems == []


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
    prompt = Prompt(Text(Document("a", text, ""), tokens), 0, begin, len(tokens.ids))
    made = from_beginning(answer, words, prompt)
    assert made.text == " goes on with seven birds in the lane"


def test_where_only_chats_are_served_the_refusal_names_the_flag(lm):
    with serving(lm, "chat") as (_, url):
        client = Client(endpoint(url=f"{url}/elsewhere", model="embedded"))
        with pytest.raises(UserError, match="--chat"):
            client.ask([client.body("x", 1)])
