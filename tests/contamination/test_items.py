"""Items: answers beside transformers' own, every verdict from its control, what is written down."""

import json
import math
import shutil
from copy import copy
from dataclasses import replace
from urllib.parse import unquote
from xml.etree import ElementTree

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mnemoscope as ms
from mnemoscope.audits.sampling import prompts_shown
from mnemoscope.conditions import parse_gate
from mnemoscope.contamination.ask import (
    ANSWERS,
    Answers,
    LocalModel,
    blanks_before,
    differing_words,
    other_prompts,
)
from mnemoscope.contamination.ask import _part as ask_part
from mnemoscope.contamination.found import ITEMS as KIND
from mnemoscope.contamination.judge import (
    VERDICTS,
    judged,
    left_together,
    scores_of,
    shares_of,
)
from mnemoscope.contamination.table import (
    Item,
    guess_from_others,
    read_items,
    stands_in,
    words_of,
)
from mnemoscope.data.rows import lines_of
from mnemoscope.embedded import model_path, reference_path
from mnemoscope.errors import UserError
from mnemoscope.lm.load import load_model
from mnemoscope.progress import SILENT
from sarif_logs import check_sarif
from served import KEY, serving
from study_files import rewrite_record

ITEMS = [
    {"prompt": "def total(self):", "answer": "return self.total", "group": "code"},
    {"prompt": "one, two, three,", "answer": "four, five", "group": "counting"},
    {"prompt": "Permission is hereby granted,", "answer": "free of charge"},
    {"prompt": "Permission is hereby", "answer": "granted, free", "variant_of": "2"},
]


@pytest.fixture(scope="module")
def lm():
    return load_model(model_path())


def test_a_csv_is_read_and_a_column_named_otherwise_is_taken(tmp_path) -> None:
    table = tmp_path / "items.csv"
    table.write_text("question,answer\none,two\n", encoding="utf-8")
    assert read_items(table, {"prompt": "question"})[0][:3] == ("0", "one", "two")


def test_answers_and_probabilities_are_those_of_transformers(lm) -> None:
    items = read_items(pl.DataFrame(ITEMS))
    model = LocalModel(lm, record={}, batch_size=2, as_chat=False)
    written = model.write(items, SILENT)
    for one, text in zip(items, written, strict=True):
        ids = torch.tensor([[lm.bos_id] * (lm.bos_id is not None) + model._tokens(one.prompt)])
        n = len(model._tokens(one.answer)) + 8
        made = lm.model.generate(ids, max_new_tokens=n, do_sample=False)[0, ids.shape[1] :]
        wanted = lm.tokenizer.decode(made, skip_special_tokens=True)
        assert text.startswith(wanted) or wanted.startswith(text)
    found = model.logprobs([(one.prompt, one.answer) for one in items])
    for one, logprob in zip(items, found, strict=True):
        (before,), chance = prompts_shown(lm, [one.prompt], as_chat=False), 0.0
        for form in (one.answer, f" {one.answer}"):  # with a blank before it, or without
            whole = before + model._tokens(form)
            with torch.inference_mode():
                logits = lm.model(torch.tensor([whole])).logits[0].log_softmax(-1)
            each = [float(logits[at - 1, whole[at]]) for at in range(len(before), len(whole))]
            chance += math.exp(sum(each))
        assert logprob == pytest.approx(math.log(chance), abs=1e-3)
        assert model.logprobs([(f"{one.prompt} ", one.answer)]) == pytest.approx([logprob])


def test_what_is_written_greedily_with_or_without_a_blank_is_likely(lm) -> None:
    """A hit is never called unlikely because of how the answer is spelled."""
    model = LocalModel(lm, record={}, batch_size=8, as_chat=False)
    prompts = ["def total(self):", "self._value =", "(", "x = [1, 2,", "The name is"]
    items = [Item(str(at), one, "x", "g") for at, one in enumerate(prompts)]
    written = model.write(items, SILENT)
    firsts = [blanks_before(one) + words_of(one)[0] for one in written]
    for logprob in model.logprobs(list(zip(prompts, firsts, strict=True))):
        assert logprob > math.log(0.01)


def test_answers_of_one_token_and_a_model_that_reads_nothing_first(lm) -> None:
    bare = replace(lm, bos_id=None)
    model = LocalModel(bare, record={}, batch_size=8, as_chat=False)
    assert math.isnan(model.logprobs([("", "A")])[0])
    rows = [{"prompt": f"Question {n}: which letter?", "answer": "ABCD"[n % 4]} for n in range(8)]
    with pytest.raises(UserError, match=r"is the same model .* and cannot serve as a reference"):
        ms.items(bare, pl.DataFrame(rows), reference=lm, progress=False)
    twin = str(reference_path())
    found = ms.items(bare, pl.DataFrame(rows), reference=twin, progress=False)
    assert found.table["prior"].null_count() == 0
    assert found.table["prior"].is_between(-50, -1e-6).all()
    untwinned = ms.items(bare, pl.DataFrame(rows[:1]), progress=False)
    gate = parse_gate("recalled > 0 items", KIND.measures)
    with pytest.raises(UserError, match="so it never fails"):
        KIND.judge(gate, untwinned)
    (alone,) = untwinned.table["prior"]
    assert alone is None  # no other prompt, and nothing is read before it


WORDS = st.lists(st.sampled_from("abcd"), max_size=7)


@given(written=WORDS, answer=WORDS.filter(len))
def test_differing_words_are_the_least_over_all_beginnings(written, answer) -> None:
    def distance(one, other):
        if not one or not other:
            return len(one) + len(other)
        same = distance(one[1:], other[1:]) + (one[0] != other[0])
        return min(same, distance(one[1:], other) + 1, distance(one, other[1:]) + 1)

    written, answer = written[:5], answer[:4]
    ends = [written[:end] for end in range(len(written) + 1)]
    assert differing_words(written, answer) == min(distance(one, answer) for one in ends)
    parts = [written[a:b] for a in range(len(written) + 1) for b in range(a, len(written) + 1)]
    least = min(distance(one, answer) for one in parts)
    assert differing_words(written, answer, anywhere=True) == least
    assert (least == 0) == stands_in(answer, written)


def answered(n, **changed):
    """Answers that are all right, but for these columns."""
    rows = {"written": ["x"] * n, "edits": [0] * n, "logprob": [-0.1] * n, "prior": [-20.0] * n}
    rows["order_rank"] = [None] * n
    return pl.DataFrame(rows | changed, schema=ANSWERS)


def items_of(*pairs, **fields):
    return [Item(str(at), *pair, group=str(at), **fields) for at, pair in enumerate(pairs)]


PAIRS = [(f"what is the {word}", f"{word[::-1]} {word}x y") for word in ("red", "blue", "green")]
TWIN = {"written": ["-"] * 3, "edits": [3] * 3, "logprob": [-30.0] * 3}


def verdicts(items, model, twin=None, **settings):
    table = judged(items, Answers(model, twin), **settings)
    assert {*table["verdict"]} <= {*VERDICTS}
    return table["verdict"].to_list()


def test_each_control_alone_keeps_a_hit_from_being_called_recalled() -> None:
    items = items_of(*PAIRS)
    twin = answered(3, **TWIN)
    assert verdicts(items, answered(3), twin) == ["recalled"] * 3
    assert verdicts(items, answered(3)) == ["cannot be told"] * 3  # nothing speaks of skill
    assert verdicts(items, answered(3, edits=[1, 0, 0]), twin)[0] == "not produced"
    assert verdicts(items, answered(3, edits=[1, 0, 0]), twin, edits=1)[0] == "recalled"
    assert verdicts(items, answered(3, edits=[3, 0, 0]), twin, edits=9)[0] == "not produced"
    assert verdicts(items, answered(3), twin, edits=9)[0] == "recalled"  # the twin's 3 are too many
    copied = items_of((f"{PAIRS[0][1]}. Say it:", PAIRS[0][1]), *PAIRS[1:])
    assert verdicts(copied, answered(3), twin)[0] == "copied"
    knows = answered(3, **TWIN | {"edits": [0, 3, 3]})
    assert verdicts(items, answered(3), knows)[0] == "guessable"
    unsure = answered(3, **TWIN | {"logprob": [math.log(0.02), -30.0, -30.0]})
    assert verdicts(items, answered(3), unsure)[0] == "cannot be told"
    assert verdicts(items, answered(3), unsure, chance=0.03)[0] == "recalled"
    likely = answered(3, prior=[math.log(0.02), -20.0, -20.0])
    assert verdicts(items, likely, twin)[0] == "cannot be told"
    same = items_of(PAIRS[0], (PAIRS[1][0], PAIRS[0][1]), PAIRS[2])
    assert verdicts(same, answered(3), twin) == ["guessable", "guessable", "recalled"]
    offered = [(f"{prompt}? {answer}, or a, b, c", answer) for prompt, answer in PAIRS]
    chosen = items_of(*offered, choices=("a", "b", "c", "d"))
    assert verdicts(chosen, answered(3), twin) == ["cannot be told"] * 3  # all stand in prompts
    days = items_of(("one two three", "four five"), ("two three", "four five six"), PAIRS[0])
    assert verdicts(days, answered(3), twin)[0] == "guessable"  # n-grams of the second write it
    short = items_of(("what is the red", "der x"), *PAIRS[1:])
    silent = answered(3, logprob=[None] * 3, prior=[None] * 3)
    unsaid = answered(3, **TWIN | {"logprob": [None] * 3})
    assert verdicts(short, silent, unsaid)[0] == "cannot be told"  # two words may be guessed
    table = judged(chosen, Answers(answered(3, edits=[0, 0, 3]), twin))
    assert left_together(table) == (2, pytest.approx(0.75))  # three questions of four choices


def test_a_model_that_answers_the_variants_as_well_has_the_skill() -> None:
    forms = [Item(f"v{n}", f"what is the deep red {n}", f"der {n}", "0", "", "0") for n in range(4)]
    items = [*items_of(*PAIRS), *forms]
    twin = answered(7, **{name: [*one, *one, one[0]] for name, one in TWIN.items()})
    for edits, said in (([0, 0, 2, 2], "guessable"), ([0, 2, 2, 2], "recalled")):
        assert verdicts(items, answered(7, edits=[0, 0, 0, *edits]), twin)[0] == said
    table = judged(items, Answers(answered(7, edits=[0, 0, 0, 2, 2, 2, 2]), None))
    wanted = ["recalled", *["cannot be told"] * 2, *["not produced"] * 4]
    assert table["verdict"].to_list() == wanted
    few = judged(items[:5], Answers(answered(5, edits=[0, 0, 0, 2, 2]), None))
    assert few["verdict"][0] == "cannot be told"  # two failed variants may be chance
    assert shares_of(table)["recalled"].value == pytest.approx(1 / 3)  # variants are no items
    scores = scores_of(table)
    assert scores["all"].value == 1
    assert scores["without"].value == 1


def test_the_score_without_recalled_items_is_of_those_left() -> None:
    pairs = [(f"what is {n}", f"answer{n} word{n} more{n}") for n in range(20)]
    items = items_of(*pairs)
    model = answered(20, edits=[0] * 15 + [3] * 5)
    twin = answered(20, written=["-"] * 20, edits=[0] * 5 + [3] * 15, logprob=[-30.0] * 20)
    scores = scores_of(judged(items, Answers(model, twin)))
    assert scores["all"].value == 0.75
    assert scores["without"].value == 0.5  # 5 of the 10 that are not recalled
    assert scores["without"].low < 0.5 < scores["without"].high


def test_other_items_alone_give_answers_away() -> None:
    days = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
    runs = [" ".join(days[at : at + 4]) for at in range(4)]
    items = items_of(*((one.rsplit(" ", 1)[0], one.rsplit(" ", 1)[1]) for one in runs))
    assert [one.is_written for one in guess_from_others(items)] == [True, True, True, False]
    alone = items_of(("the key is", "a7 b9"), ("the lock is", "c1 d2"))
    assert [one.is_written for one in guess_from_others(alone)] == [False, False]
    same = items_of(("p one", "yes"), ("q two", "yes"), ("r three", "no"))
    assert [one.share for one in guess_from_others(same)] == [0.5, 0.5, 0.0]
    prompts = other_prompts(same, same[0])
    assert prompts == ["r three"]  # an answer that is its own gives no control


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "a", "answer": "b"}], "column prompt=PATH"),
        ([{"prompt": "a", "answer": None}], "row 0: no answer"),
        ([{"prompt": "a", "answer": "b", "id": "x"}] * 2, "the id 'x' stands 2 times"),
        ([{"prompt": "a", "answer": "b", "variant_of": "z"}], "variant of 'z', which is no item"),
        ([{"prompt": "a", "answer": "b", "choices": "b"}], "choices is one text"),
    ],
)
def test_a_table_that_holds_no_items_is_refused_in_one_line(rows, said) -> None:
    with pytest.raises(ms.UserError, match=said):
        read_items(pl.DataFrame(rows, schema_overrides={"answer": pl.String}))


@pytest.mark.whole
def test_the_command_writes_page_table_and_sarif_and_judges(tmp_path, call, refused) -> None:
    table, out = tmp_path / "items.jsonl", tmp_path / "out"
    rows = [one | {"prompt": f"<b>{one['prompt']}"} for one in ITEMS]
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked = ("items", "embedded", table, "-o", out)
    first = call(*asked)
    assert first.status == 0, first.err
    assert "items answered" in first.out
    page = (out / "items.html").read_text(encoding="utf-8")
    assert "<b>def" not in page
    assert json.loads((out / "items.sarif").read_text(encoding="utf-8"))["version"] == "2.1.0"
    before = (out / "items.json").read_bytes()
    again = call(*asked, "--fail-if", "recalled > 0 items")
    assert again.status == 0  # nothing is asked again
    assert (out / "items.json").read_bytes() == before
    assert "other items" in refused(*asked, "--edits", "1")
    assert "recalled > 1%" in refused(*asked, "--fail-if", "recalled > 1")
    (out / "items.parquet").write_bytes(b"PAR1")
    assert "items.parquet" in refused(*asked)
    assert call(*asked, "--redo").status == 0


def test_what_is_recalled_stands_on_the_page_in_sarif_and_fails_the_gate(
    tmp_path, call, monkeypatch
) -> None:
    """Three hits of the model that its twin does not make, one of them with markup."""
    from mnemoscope.contamination import ask

    table, out = tmp_path / "items.jsonl", tmp_path / "out"
    rows = [{"prompt": f"<b>{prompt}", "answer": answer} for prompt, answer in PAIRS]
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    parts = iter([answered(3), answered(3, **TWIN)])
    monkeypatch.setattr(ask, "_part", lambda *_, **__: next(parts))
    asked = ("items", "embedded", table, "-o", out)
    failed = call(*asked, "--fail-if", "recalled > 2 items", "--json")
    found = json.loads(failed.out)
    assert (failed.status, found["gate"]["failed"]) == (3, True)
    assert found["gate"]["conditions"][0]["said"] == "3 items recalled, at most 2 allowed"
    assert [one["item"] for one in found["recalled"]] == ["0", "1", "2"]
    assert call(*asked, "--fail-if", "recalled > 3 items").status == 0
    assert call(*asked, "--fail-if", "recalled > 99%").status == 3
    page = (out / "items.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;what is the red" in page
    assert "<b>what" not in page
    log = json.loads((out / "items.sarif").read_text(encoding="utf-8"))
    results = check_sarif(log)
    assert [one["message"]["text"][:7] for one in results] == ["Item 0:", "Item 1:", "Item 2:"]
    places = [one["locations"][0]["physicalLocation"] for one in results]
    assert [one["region"] for one in places] == [{"startLine": n} for n in (1, 2, 3)]
    assert {unquote(one["artifactLocation"]["uri"]) for one in places} == {table.as_uri()}


def test_a_gate_on_finished_items_counts_what_is_new_and_writes_what_builds_read(
    tmp_path, call, call_light, refused, monkeypatch
) -> None:
    from mnemoscope.contamination import ask

    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in PAIRS]
    for name, some in {"old": rows[:2], "now": rows[1:]}.items():
        table = tmp_path / f"{name}.csv"
        pl.DataFrame(some).write_csv(table)
        parts = iter([answered(2), answered(2, **{key: one[:2] for key, one in TWIN.items()})])
        monkeypatch.setattr(ask, "_part", lambda *_, own=parts, **__: next(own))
        assert call("items", "embedded", table, "-o", tmp_path / name).status == 0
    old, now, junit, sarif = (tmp_path / one for one in ("old", "now", "j.xml", "s.sarif"))
    gate = ("items", "gate", now, "--fail-if", "recalled > 1 item")
    (failed,) = call_light([gate], ("torch", "transformers"))
    assert (failed.status, "): 2 items recalled, at most 1 allowed." in failed.out) == (3, True)
    passed = call(*gate, "--baseline", old, "--junit", junit, "--sarif", sarif)
    assert passed.status == 0
    lacks = f"1 item of 2 is not in {old}."
    assert f"): 1 new item recalled, at most 1 allowed; {lacks}" in passed.out
    rewrite_record(old / "items.json", date="2099-01-01T00:00:00+00:00")
    assert f"; {old} was made later (2099-01-01T" in call(*gate, "--baseline", old).out
    rewrite_record(old / "items.json", date="2020-01-01T00:00:00+00:00")
    copied = shutil.copytree(now, tmp_path / "copied")
    assert "a copy of what is judged" in refused(*gate, "--baseline", copied)
    share = call("items", "gate", now, "--fail-if", "recalled > 49%", "--baseline", old)
    assert (share.status, "): 50.0 % newly recalled, at most 49 % allowed; 1 " in share.out) == (
        3,
        True,
    )
    found = check_sarif(json.loads(sarif.read_text()))
    states = [(one["baselineState"], one["properties"]["answer"]) for one in found]
    answers = [one["answer"] for one in rows]
    assert states == [
        ("unchanged", answers[1]), ("new", answers[2]), ("absent", answers[0])
    ]  # fmt: skip
    assert [one["locations"][0]["physicalLocation"]["region"] for one in found] == [
        {"startLine": 2}, {"startLine": 3}, {"startLine": 2}
    ]  # fmt: skip
    suite = ElementTree.parse(junit).getroot()
    assert [suite.get(one) for one in ("tests", "failures")] == ["3", "0"]
    listed = {
        one.get("name") for one in suite.iter("testcase") if one.find("system-out") is not None
    }
    assert listed == {"1"}  # the new one alone
    (now / "items.html").write_text("better")
    assert "items.html: damaged" in refused(*gate)
    (now / "items.html").unlink()  # who has the table needs no page
    assert call(*gate).status == 3
    assert "contains no items.json" in refused(
        "items", "gate", tmp_path, "--fail-if", "recalled > 1%"
    )
    assert "Add --fail-if, such as 'recalled > 1%'" in refused("items", "gate", now)


def test_a_service_is_asked_beside_a_local_twin_and_its_answers_are_kept(
    lm, tmp_path, call, monkeypatch
) -> None:
    table, out = tmp_path / "items.jsonl", tmp_path / "out"
    table.write_text("\n".join(map(json.dumps, ITEMS[:3])), encoding="utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(lm) as (service, url):
        asked = ("items", "api", url, "embedded", table, "-o", out, "--reference", "embedded")
        assert call(*asked).status == 0
        n = service.n_requests
        assert call(*asked, "--fail-if", "recalled > 99%").status == 0
        assert service.n_requests == n == 3
    rows = pl.read_parquet(out / "items.parquet")
    assert rows["logprob"].null_count() == rows.height
    assert rows["twin_written"].null_count() == 0
    local = LocalModel(lm, record={}, batch_size=8, as_chat=False)
    for here, there in zip(local.write(read_items(table), SILENT), rows["written"], strict=True):
        assert there.startswith(here) or here.startswith(there)


def test_refused_items_leave_no_folder_and_a_study_is_no_place_for_them(tmp_path, refused) -> None:
    table, out = tmp_path / "items.jsonl", tmp_path / "out"
    table.write_text(json.dumps({"prompt": "a " * 3000, "answer": "b"}), encoding="utf-8")
    assert "leaves no room" in refused("items", "embedded", table, "-o", out)
    assert "no-such" in refused("items", tmp_path / "no-such", table, "-o", out)
    assert not out.exists()
    out.mkdir()
    (out / "study.yaml").write_text("")
    assert "already holds a study" in refused("items", "embedded", table, "-o", out)


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"}', [1, 3]),
        ("a.csv", 'prompt,answer\n"a\nb",c\n\nd,e\n', [2, 5]),
        ("a.parquet", "PAR1", []),
    ],
)
def test_items_stand_at_their_lines(tmp_path, name, text, lines) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert lines_of(tmp_path / name) == lines
    assert lines_of(pl.DataFrame(ITEMS)) == []


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ("It was Anna Berg", True),
        ("It was not Anna Berg but Carl Ek", False),
        ("It wasn't the Anna Berg of old", False),
        ("Neither Anna Berg nor Carl Ek", False),
        ("Not only Anna Berg, all of them", True),
        ("I am not sure. Anna Berg", True),
        ("Not Carl Ek, Anna Berg", True),
        ("not Anna Berg? yes: Anna Berg", True),
    ],
)
def test_an_answer_that_is_denied_in_a_chat_does_not_count(said, counts) -> None:
    class Chat:
        is_chat = True
        write = staticmethod(lambda items, progress: [said])
        logprobs = staticmethod(lambda pairs: None)

    (item,) = items_of(("Who?", "Anna Berg"))
    answers = ask_part(Chat(), [item], [item], with_prior=False)
    assert (answers["edits"][0] == 0) == counts


def test_a_chat_is_asked_in_its_template_and_may_say_something_before_its_answer(lm) -> None:
    template = "{% for one in messages %}[{{ one['content'] }}]{% endfor %}"
    tokenizer = copy(lm.tokenizer)
    tokenizer.chat_template = template
    chat = replace(lm, tokenizer=tokenizer)
    model = LocalModel(chat, record={}, batch_size=2, as_chat=True)
    (shown,) = prompts_shown(chat, ["Who?"], as_chat=True)
    assert lm.tokenizer.decode(shown).strip().endswith("[Who?]")
    assert model.logprobs([("Who?", "Anna Berg")]) is None
    with pytest.raises(ms.UserError, match="no chat template"):
        LocalModel(lm, record={}, batch_size=2, as_chat=True)


@pytest.mark.whole
def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path, stopped_at, monkeypatch) -> None:
    from mnemoscope.contamination import ask

    monkeypatch.setattr(ask, "_PART", 2)
    table = pl.DataFrame(ITEMS)
    whole = ms.items("embedded", table, progress=False)
    with pytest.raises(KeyboardInterrupt), stopped_at(ask, "_part", 2):
        ms.items("embedded", table, tmp_path / "out", progress=False)
    assert list((tmp_path / "out" / "parts").rglob("*.parquet"))
    resumed = ms.items("embedded", table, tmp_path / "out", progress=False)
    assert resumed.table.equals(whole.table)
    assert not (tmp_path / "out" / "parts").exists()
