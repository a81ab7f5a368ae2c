"""A model behind an API: the audit of the same model here, and a service that misbehaves."""

import json
import re
import threading
import time
from pathlib import Path

import polars as pl
import pytest

import mnemoscope as ms
from mnemoscope.audits import client as client_module
from mnemoscope.audits.align import align_answer
from mnemoscope.audits.asking import Auditing, Prompt
from mnemoscope.audits.chat import ChatModel, from_beginning
from mnemoscope.audits.client import AnswerStore, Client, parse_answer
from mnemoscope.audits.documents import Document, read_documents
from mnemoscope.audits.near import write_on
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.run import make_audit
from mnemoscope.audits.scan import coarse_places
from mnemoscope.audits.service import ServedModel, estimate_cost
from mnemoscope.audits.spans import coarse_starts
from mnemoscope.audits.tokens import ModelTokens, Text, Words, cut_texts
from mnemoscope.audits.verify import verify_audit
from mnemoscope.errors import UserError
from mnemoscope.lm.hub import find_bos
from mnemoscope.words import plural
from served import KEY, endpoint, serving
from tests.audits.conftest import audit_documents, with_word

pytestmark = pytest.mark.whole

SETTINGS = audit_settings(top_k=0, stride=8, max_growth=24, edits=0, near_length=0, refine_from=24)
CHAT_SETTINGS = audit_settings(top_k=0, max_growth=0, stride=8, refine_from=33)
SPAN = ("start", "end", "verdict", "reason", "tokens", "score", "verbatim_length")


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(client_module, "_FIRST_DELAY", 0.01)


@pytest.fixture(scope="module")
def document(tmp_path_factory, often, new_text):
    path = tmp_path_factory.mktemp("document") / "text.txt"
    pieces = [new_text(3, 8), often[0], new_text(4, 4)]
    path.write_text(" é😀 ".join(pieces), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def here(document, tmp_path_factory, lm):
    out = tmp_path_factory.mktemp("here")
    audit_documents(lm, read_documents([str(document)]), out, settings=SETTINGS)
    return pl.read_parquet(out / "spans.parquet")


def auditing(url, documents, splitter, settings, *, answers=None, chat=False, **service):
    service = {"prompt_as": "text" if chat or isinstance(splitter, Words) else "tokens", **service}
    client = Client(endpoint(url=url, model="embedded", chat=chat, **service), answers)
    model = (ChatModel if chat else ServedModel)(client, splitter, settings)
    return Auditing(model, cut_texts(splitter, documents), settings)


def asked(lm, url, document, out, *, words=False, settings=SETTINGS, **service):
    """Audit behind the service; the record, the spans, and who was asked."""
    out.mkdir(exist_ok=True)
    splitter = Words() if words else ModelTokens(lm.tokenizer, find_bos(lm.tokenizer))
    reading, answers = read_documents([str(document)]), AnswerStore(out / "answers.jsonl")
    audit = auditing(url, reading.documents, splitter, settings, answers=answers, **service)
    return make_audit(audit, reading, out), pl.read_parquet(out / "spans.parquet"), audit


def client_of(url, **service):
    return Client(endpoint(url=url, **{"model": "embedded", "retries": 2, **service}))


def answer_of(client, n=2):
    return client.ask([client.body([1, 2, 3], n)])[0]


def test_what_a_llama_cpp_server_was_asked_and_answered_is_read():
    """Recorded with SmolLM2-135M-Instruct in Q4_1: a completion, a chat, and an ignored `echo`."""
    path = Path(__file__).parents[1] / "golden" / "llama_cpp_exchange.json"
    exchanges = completion, chat, echo = json.loads(path.read_text())
    with serving(None) as (service, url):
        service.failures = [(200, {}, json.dumps(one["answer"])) for one in exchanges]
        client, talker = (client_of(url, model="smollm2", chat=one) for one in (False, True))
        prompt, told = completion["body"]["prompt"], chat["body"]["messages"][0]["content"]
        (found,) = client.ask([client.body(prompt, 32)])
        (said,) = talker.ask([talker.body(told, 48)])
        (echoed,) = client.ask([client.body(prompt, 1, echo=True)])
        assert service.requests == [(one["path"], one["body"]) for one in exchanges]
    for answer, one in ((found, completion), (said, chat), (echoed, echo)):
        content = one["answer"]["choices"][0]["logprobs"]["content"]
        assert list(answer.token_ids) == [token["id"] for token in content]
        assert list(answer.logprobs) == [token["logprob"] for token in content]
        assert "".join(answer.tokens) == answer.text
    assert found.text.startswith(". Item 7: see page 17. Item 8: see page 18.")
    assert (len(found.token_ids), len(echoed.token_ids), said.finish_reason) == (32, 1, "stop")


SLOW = pytest.mark.slow  # their answers are read by the tests of single answers below


def test_without_torch_a_service_is_audited_and_what_needs_torch_says_so(
    document, here, lm, tmp_path, call_light
):
    flags = ("--stride", 8, "--max-growth", 24, "--refine-from", 24)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is a list?\n", encoding="utf-8")
    with serving(lm) as (_, url):
        given = ("audit", "api", url, "embedded", document, "--tokenizer", "embedded", *flags)
        asked = ("--ordinary", prompts, "--corpus", document, "-o", tmp_path / "out")
        made, verified, gate, other = call_light(
            [
                [*given, *asked],
                ["audit", "verify", tmp_path / "out"],
                ["audit", "gate", tmp_path / "out", "--fail-if", "recalled > 0.5%"],
                ["audit", "embedded", document, "-o", tmp_path / "other"],
            ],
            ("torch",),
            hidden=("torch",),
        )
        (words,) = call_light(
            [["audit", "api", url, "embedded", document, "-o", tmp_path / "words", "--dry-run"]],
            hidden=("torch", "transformers"),
        )
    assert (made.status, verified.status, gate.status, words.status) == (0, 0, 3, 0), made.err
    assert f"{here.height} of {plural(here.height, 'passage')} hold" in verified.out
    spans = pl.read_parquet(tmp_path / "out" / "spans.parquet")
    assert spans.select(SPAN).rows() == here.select(SPAN).rows()
    assert spans["origin_count"].null_count() == 0
    assert other.status == 2
    assert "needs PyTorch" in other.err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "style", ["vllm", "text", pytest.param("llama", marks=SLOW), pytest.param("openai", marks=SLOW)]
)
def test_the_spans_are_those_of_the_same_model_here(style, document, here, lm, tmp_path):
    with serving(lm, style) as (service, url):
        record, spans, _ = asked(lm, url, document, tmp_path / "out")
        if style == "text":  # prompts as text, where the text cuts the same
            _, of_text, _ = asked(lm, url, document, tmp_path / "text", prompt_as="text")
            assert of_text.select(SPAN[:3]).rows() == here.select(SPAN[:3]).rows()
    assert here.height > 0
    assert spans.select(SPAN).rows() == here.select(SPAN).rows()
    assert spans["continuation_pieces"].to_list() == here["continuation_pieces"].to_list()
    assert service.n_requests >= record["api"]["requests"] > 0
    # A service in float32 of the same weights; log-probabilities differ by rounding alone.
    if style == "text":
        assert spans["extraction_logprob"].null_count() == spans.height
    else:
        ours, theirs = here["extraction_logprob"], spans["extraction_logprob"]
        assert theirs.to_list() == pytest.approx(ours.to_list(), abs=1e-3)
        assert spans["tries"].to_list() == here["tries"].to_list()
    alone, theirs = (one["perplexity_without_prefix"] for one in (spans, here))
    if style == "vllm":
        assert alone.to_list() == pytest.approx(theirs.to_list(), rel=1e-4)
    else:
        assert alone.null_count() == spans.height
    assert spans["probability"].null_count() == spans.height
    notes = " ".join(record["api"]["notes"])
    assert "No CNN" in notes
    assert ("gives no log-probabilities of a prompt" in notes) == (style != "vllm")
    assert "No CNN" in (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("has_ids", [True, False])
def test_a_token_that_only_begins_as_the_documents_is_wrong(lm, has_ids):
    splitter = ModelTokens(lm.tokenizer, find_bos(lm.tokenizer))
    text = "The method should use a greedy read é"
    tokens, ids = splitter.split(text), splitter.split(f"{text[:-1]}name").ids.tolist()
    n = len(ids)
    assert text[tokens.starts[n - 1] : tokens.ends[n - 1]] == " "
    ids = ids[n - 3 :]
    said = {"text": lm.tokenizer.decode(ids), "finish_reason": "length"}
    answer = parse_answer({"choices": [said | ({"token_ids": ids} if has_ids else {})]})
    prompt = Prompt(Text(Document("a", text, ""), tokens), 0, n - 3, n)
    assert align_answer(answer, splitter, prompt).written.common == 2


def test_without_a_tokenizer_words_count_and_places_are_exact(trained, new_text, lm, tmp_path):
    document = tmp_path / "text.txt"
    text = f"{new_text(3, 6)} {trained[0]} é😀 {new_text(5, 6)}"
    document.write_text(text, encoding="utf-8")
    settings = audit_settings(top_k=0, prefix=12, suffix=8, stride=4, refine_from=9)
    with serving(lm, "openai") as (service, url):
        record, spans, _ = asked(lm, url, document, tmp_path / "out", words=True, settings=settings)
    assert all(isinstance(body["prompt"], str) for body in service.bodies)
    assert record["api"]["pieces"] == "words"
    assert spans.height
    first, last = text.index(trained[0]), text.index(trained[0]) + len(trained[0])
    for row in spans.iter_rows(named=True):
        assert text[row["start"] : row["end"]] == row["text"]
        assert first <= row["start"] < row["end"] <= last
    assert any("words" in note for note in record["api"]["notes"])
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "The model was shown 12 words of a document" in page
    assert "--reference" not in page


def test_what_was_answered_is_not_asked_again_and_four_at_once_give_the_bytes_of_one(
    document, lm, tmp_path
):
    with serving(lm) as (whole, url):
        asked(lm, url, document, tmp_path / "whole", concurrency=1)
        assert whole.busy == 1
    with serving(lm) as (service, url):
        service.dies_after = 8
        with pytest.raises(UserError, match=r"no answer after 1 try \(last: status 503\)"):
            asked(lm, url, document, tmp_path / "out", concurrency=1, retries=0)
        assert not (tmp_path / "out" / "audit.json").exists()
        with (tmp_path / "out" / "answers.jsonl").open("a") as handle:
            handle.write('{"request": "torn')  # a run that was killed while it wrote
        service.dies_after, service.pause = None, 0.02  # else each is answered before the next
        asked(lm, url, document, tmp_path / "out", concurrency=4)
        assert service.busy > 1
        assert len(service.bodies) == len(whole.bodies)
        asked(lm, url, document, tmp_path / "out", concurrency=1)  # it is there already
        assert len(service.bodies) == len(whole.bodies)
    one, two = (tmp_path / name / "spans.parquet" for name in ("whole", "out"))
    assert one.read_bytes() == two.read_bytes()


def test_the_command_estimates_asks_and_verifies_and_tells_nobody_the_key(
    document, lm, reference, tmp_path, monkeypatch, call, succeed
):
    out = tmp_path / "out"
    with serving(lm) as (service, url):
        given = ("audit", "api", url, "embedded", document, "--tokenizer", "embedded", "-o")
        prices = ("--price-in", "1000", "--price-out", "2000")
        estimated = call(*given, out, "--dry-run", *prices)
        everyday = call(*given, out, "--dry-run", "--ordinary", "shipped")
        assert (estimated.status, service.n_requests, out.exists()) == (0, 0, False)
        made = succeed(*given, out)
        assert service.headers[0]["Authorization"] == f"Bearer {KEY}"
        monkeypatch.setenv("OTHER_KEY", "wrong-key-9876543210")
        other = call(*given, tmp_path / "other", "--api-key-env", "OTHER_KEY")
        assert other.status == 2
        assert "refuses the key, status 401" in other.err
        assert "OTHER_KEY" in other.err
        assert not (tmp_path / "other").exists()

        before, spans = service.n_requests, pl.read_parquet(out / "spans.parquet")
        found = succeed("audit", "verify", out)
        assert f"{spans.height} of {plural(spans.height, 'passage')} hold" in found.out
        assert "weights behind an API cannot be checked" in found.out
        assert service.n_requests - before >= spans.height > 0
        spans.with_columns(verdict=pl.lit("guess")).write_parquet(out / "spans.parquet")
        assert f"0 of {plural(spans.height, 'passage')} hold" in call("audit", "verify", out).out
        spans.write_parquet(out / "spans.parquet")
        service.lm = reference  # the service runs another model under the same name
        found = call("audit", "verify", out)
        assert found.status == 3
        assert "does not hold" in found.out

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"audit.json", "audit.html", "answers.jsonl"}
    for secret in (KEY, "wrong-key-9876543210"):
        assert secret not in made.out + made.err + other.out + other.err
        assert not [path for path in files if secret.encode() in path.read_bytes()]

    documents, splitter = read_documents([str(document)]).documents, ModelTokens(lm.tokenizer, None)
    audit = auditing(url, documents, splitter, audit_settings(top_k=0))
    n, said = len(coarse_places(audit)), estimated.out
    assert f"{n} requests, {32 * n:,} prompt tokens and at most" in said
    assert f"{n + 100} requests" in everyday.out
    n_completion = int(re.search(r"at most ([\d,]+) completion", said)[1].replace(",", ""))
    assert 32 * n <= n_completion <= 35 * n  # three more where a token ends inside a character
    assert f", at most {(32 * n * 1000 + n_completion * 2000) / 1e6:,.2f} at these prices" in said


def test_a_key_in_an_answer_is_hidden_and_a_word_that_stands_for_none_is_not(lm, monkeypatch):
    said = json.dumps({"choices": [{"text": f"EMPTY words {KEY}"}]})
    with serving(lm) as (service, url):
        service.failures = [(200, {}, said)]
        assert answer_of(client_of(url)).text == "EMPTY words [key]"
        monkeypatch.setattr("served.KEY", "EMPTY")  # what a server without keys is told
        monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
        service.failures = [(200, {}, said)]
        assert answer_of(client_of(url)).text == f"EMPTY words {KEY}"


def test_it_waits_as_long_as_the_service_asks_and_keeps_its_pace(lm):
    with serving(lm) as (service, url):
        service.failures = [(429, {"Retry-After": "0.4"}, '{"error": {"message": "slow down"}}')]
        assert answer_of(client_of(url)).completion_tokens == 2
        assert service.at[1] - service.at[0] >= 0.4
        service.failures = [(429, {"Retry-After": "7200"}, "")]
        with pytest.raises(UserError, match="asks to wait 7,200 s"):
            answer_of(client_of(url))
        assert service.n_requests == 3
        client = client_of(url, requests_per_minute=600, concurrency=4)
        client.ask([client.body([one], 1) for one in range(5)])
        times = service.at[3:]
        assert max(times) - min(times) >= 0.35  # four gaps of 0.1 s, less some jitter


NO_MONEY = '{"error": {"code": "insufficient_quota", "message": "pay"}}'


@pytest.mark.parametrize(
    ("failure", "n_tries", "words"),
    [
        ((500, {}, '{"error": {"message": "broken\\nhere"}}'), 3, r"status 500 \(broken here\)"),
        ((503, {}, ""), 3, "status 503"),
        ("drop", 3, "no answer after 3 tries"),
        ("slow", 3, "none within 0.3 s"),
        ((200, {}, "{not json"), 3, "an answer that is no completion"),
        ("dripping", 3, "no end of an answer within 0.3 s"),
        ("dripping headers", 3, "no end of an answer within 0.6 s"),
        ("endless", 3, "more than 16 MB|no end of an answer within"),
        ((200, {}, "[" * 5000 + "]" * 5000), 3, "nested more than 100 levels"),
        ((200, {}, '{"choices": []}'), 3, "no answer after 3 tries"),
        ((200, {}, '{"choices": [{"text": ["a"]}]}'), 3, r"choices\[0\].text is no text"),
        ((200, {}, '{"choices": [{"text": "a", "finish_reason": {}}]}'), 3, "finish_reason"),
        ((200, {}, '{"choices": [{"text": "a", "token_ids": [true]}]}'), 3, "token_ids"),
        ((200, {}, '{"choices": [{"text": "a", "logprobs": {"tokens": 3}}]}'), 3, "after 3 tries"),
        ((429, {"Retry-After": "nan"}, "[" * 5000), 3, "status 429"),
        # what trying again cannot mend
        ((302, {"Location": "http://127.0.0.1:1/"}, ""), 1, "redirects elsewhere"),
        ((400, {}, '{"error": {"message": "no ids"}}'), 1, r"\(no ids\).*prompt_as text"),
        ((429, {}, NO_MONEY), 1, "429 .pay"),
    ],
)
def test_what_goes_wrong_is_tried_again_and_said_in_one_line(failure, n_tries, words, lm):
    with serving(lm) as (service, url):
        service.failures = [failure] * 9
        with pytest.raises(UserError, match=words) as raised:
            answer_of(client_of(url, timeout=0.3))
        assert service.n_requests == n_tries
        assert "\n" not in str(raised.value)
        if n_tries > 1:  # it goes wrong for a while
            service.failures = [failure]
            answer = answer_of(client_of(url, timeout=0.5))
            assert len(answer.tokens) == len(answer.logprobs) == 2


def test_another_model_and_a_service_that_is_not_there_are_refused(lm, monkeypatch):
    with serving(lm) as (service, url):
        with pytest.raises(UserError, match="no model 'other' that completes text there"):
            answer_of(client_of(url, model="other"))
        assert service.n_requests == 1
    with pytest.raises(UserError, match=r"no answer after 1 try .*refused"):
        answer_of(client_of("http://127.0.0.1:9", retries=0))
    slept = []
    monkeypatch.setattr(client_module._Pace, "sleep", lambda *_, **__: slept.append(1))
    with pytest.raises(UserError, match="no answer after 3 tries"):
        answer_of(client_of("http://127.0.0.1:9"))
    assert len(slept) == 2  # none after the last try


def test_ctrl_c_leaves_at_once_and_keeps_what_was_answered(lm, tmp_path):
    with serving(lm) as (service, url):
        settings = endpoint(url=url, model="embedded", requests_per_minute=60)
        client = Client(settings, AnswerStore(tmp_path / "answers.jsonl"))

        class Interrupted:
            def advance(self, n=1):
                if n:
                    raise KeyboardInterrupt

        bodies = [client.body([one], 1) for one in range(60)]
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            client.ask(bodies, Interrupted())
        assert time.monotonic() - started < 10  # a minute were they all asked
    assert 1 <= len(AnswerStore(tmp_path / "answers.jsonl").answers) == len(service.bodies)
    assert threading.active_count() < 20


def logprobs_of(**changes):
    lists = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}]}
    return {"choices": [{"text": "a", "logprobs": lists | changes}]}


@pytest.mark.parametrize(
    "changes",
    [
        {"token_logprobs": [0.5]},  # more than certain
        {"token_logprobs": ["much"]},
        {"token_logprobs": [-1, -2]},
        {"token_logprobs": [10**400]},
        {"tokens": [1]},
        {"tokens": [["a"]]},
        {"top_logprobs": [{"a": "b"}]},
        {"top_logprobs": [[1, 2]]},
        {"top_logprobs": 7},
    ],
)
def test_log_probabilities_of_another_kind_are_no_answer(changes):
    with pytest.raises(ValueError, match=r"cannot be read|differ in number"):
        parse_answer(logprobs_of(**changes))


def test_damaged_and_torn_answers_are_asked_again(tmp_path):
    path, answer = tmp_path / "answers.jsonl", parse_answer(logprobs_of())
    good = answer._asdict()
    rows = [{"request": "good", **good}, {"request": "bad", **good, "tokens": 7}, ["x"], {}]
    text = "".join(json.dumps(row) + "\n" for row in rows) + "[" * 5000 + "\n"
    path.write_text(text + text[:20])  # killed while it wrote
    assert AnswerStore(path).answers == {"good": answer}
    AnswerStore(path).put("second", answer)
    assert AnswerStore(path).answers == {"good": answer, "second": answer}


def test_the_shapes_of_answers_are_one():
    token = {"token": "a", "logprob": -0.5}
    row = {"id": 7, **token, "top_logprobs": [token]}
    llama = {"choices": [{"text": "a", "logprobs": {"content": [row]}}]}
    vllm = logprobs_of()
    vllm["choices"][0]["token_ids"] = [7]
    assert parse_answer(llama) == parse_answer(vllm)
    assert parse_answer(vllm).logprobs == [-0.5]
    assert json.loads(json.dumps(parse_answer(vllm)._asdict()))["token_ids"] == [7]
    assert parse_answer(logprobs_of(token_logprobs=[-3.4e38])).logprobs == [None]  # never
    odd = parse_answer(logprobs_of(token_logprobs=[float("nan")], tokens=["\ud800"]))
    assert (odd.logprobs, odd.tokens) == ([None], ["?"])


# Chats: a passage is found behind whatever a chat says first.


def test_passages_and_near_copies_are_found_behind_a_preamble_as_without_one(lm, trained, tmp_path):
    # Each stands where a window begins: none has to be looked for around a find.
    text, document = f"{trained[0]} {with_word(trained[1])}", tmp_path / "a.txt"
    document.write_text(text, encoding="utf-8")
    chat = {"chat": True, "settings": CHAT_SETTINGS}
    with serving(lm, "chat") as (service, url):
        record, plain, audit = asked(lm, url, document, tmp_path / "plain", **chat)
        near, before = pl.read_parquet(tmp_path / "plain" / "near.parquet"), service.n_requests
        write_on(audit, [(0, first) for first in near["window_token"].to_list()])
        assert service.n_requests == before
        service.preamble = "Sure! Here is how it goes on:\n\n"
        _, polite, _ = asked(lm, url, document, tmp_path / "polite", **chat)
    assert plain.height
    assert plain.select(SPAN[:3]).equals(polite.select(SPAN[:3]))
    ends = plain.select("start", "end").rows()
    assert any(0 <= start < end <= len(trained[0]) for start, end in ends)
    assert (near["text"].str.contains("velvet")).any()
    assert plain["extraction_logprob"].drop_nulls().len() > 0
    assert polite["extraction_logprob"].null_count() == polite.height
    assert any("chat" in note for note in record["api"]["notes"])


def test_words_serve_too_and_hold(lm, often, new_text, tmp_path):
    few = {"prefix": 16, "suffix": 12, "stride": 4, "near_length": 8}
    document, settings = tmp_path / "a.txt", CHAT_SETTINGS.model_copy(update=few)
    document.write_text(f"{new_text(4, 6)} {with_word(often[1])}", encoding="utf-8")
    with serving(lm, "chat") as (_, url):
        out = tmp_path / "out"
        audit = asked(lm, url, document, out, chat=True, words=True, settings=settings)[-1]
        assert pl.read_parquet(out / "near.parquet")["text"].str.contains("velvet").any()
        again = verify_audit(out, lambda _, own: ChatModel(audit.model.client, Words(), own))
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
    with serving(lm, "chat") as (_, url), pytest.raises(UserError, match="add chat"):
        answer_of(client_of(f"{url}/elsewhere"))


def test_items_put_to_a_service_are_answered_as_here_and_kept(lm, tmp_path):
    table = pl.DataFrame(
        {"prompt": ["def total(self):", "one, two, three,"], "answer": ["return self", "four"]}
    )
    here = ms.items(lm, table, reference="none", progress=False).table
    with serving(lm) as (service, url):
        served = endpoint(url=url, model="embedded", prompt_as="text", logprobs=False)
        found = ms.items(served, table, tmp_path / "out", progress=False)
        for one, other in zip(here["written"], found.table["written"], strict=True):
            assert other.startswith(one) or one.startswith(other)
        assert found.table["edits"].to_list() == here["edits"].to_list()
        assert found.table["logprob"].null_count() == 2  # a service does not say
        assert (n := service.n_requests) == 2
        ms.items(served, table, tmp_path / "out", progress=False)
        assert service.n_requests == n


def test_documents_named_as_not_read_are_put_to_a_service_as_here(lm, trained, new_text, tmp_path):
    (own := tmp_path / "own.txt").write_text(f"{new_text(1, 30)} {trained[0]} {new_text(2, 20)}")
    (others := tmp_path / "others").mkdir()
    (others / "new.txt").write_text(new_text(5, 60))
    (others / "read.txt").write_text(f"{new_text(3, 30)} {trained[1]} {new_text(4, 20)}")
    served = SETTINGS.model_copy(update={"unread": str(others)})
    here = audit_documents(lm, read_documents([str(own)]), tmp_path / "here", settings=served)
    with serving(lm) as (_, url):
        record, _, audit = asked(lm, url, own, tmp_path / "there", settings=served)
        n = sum(len(coarse_starts(len(one.tokens.ids), served)) for one in audit.texts)
        n += sum(len(coarse_starts(len(one.tokens.ids), served)) for one in audit.unread)
        known = f"0 requests ({n:,} more are answered already)"
        assert estimate_cost(audit).startswith(known)
    assert record["unread"] == here["unread"]
    assert (record["unread"]["documents"], record["unread"]["documents_recalled"]) == (2, 1)
