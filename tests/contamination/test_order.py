"""The order of choices: every order once, ranks beside transformers' own, what they show."""

import math

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mnemoscope as ms
from mnemoscope.contamination.ask import LocalModel
from mnemoscope.contamination.order import (
    MOST_ITEMS,
    MOST_ORDERS,
    items_with_orders,
    order_pairs,
    order_ranks,
    orders_of,
)
from mnemoscope.contamination.table import Item
from mnemoscope.embedded import model_path
from mnemoscope.lm.load import load_model

NAMES = ("Anna Berg", "Carl Dahl", "Ida Falk", "Jonas Grant", "Karin Holm")


def question(choices, key="0", form="{letter}. {name}"):
    lines = [
        form.format(letter=letter, name=name)
        for letter, name in zip("ABCDEF", choices, strict=False)
    ]
    prompt = "\n".join(["Who of these drew the bridge?", *lines, "Answer:"])
    return Item(key, prompt, "B", f"group {key}", choices=tuple(choices))


@given(n=st.integers(2, 5), form=st.sampled_from(["{letter}. {name}", "({letter}) {name};"]))
def test_orders_are_all_different_and_hold_the_same_words(n, form) -> None:
    item = question(NAMES[:n], form=form)
    texts = [head + tail for head, tail in order_pairs(item)]
    assert texts[0] == item.prompt
    assert len(texts) == len({*texts}) == min(math.factorial(n), MOST_ORDERS)
    for text in texts:
        assert sorted(text.split()) == sorted(item.prompt.split()) or ";" in text
        places = [text.index(one) for one in NAMES[:n]]
        back = [one for _, one in sorted(zip(places, NAMES[:n], strict=True))]
        assert question(back, form=form).prompt == text


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [
        ("Is it red or blue?", ("blue", "red")),  # printed the other way round
        ("Is it red or blue?", ("red", "green")),
        ("Is it red or red?", ("red", "red")),
        ("Is it red?", ("red",)),
        ("Is it reddish or blue?", ("red", "blue")),
        ("Is it red or blue?", ()),
    ],
)
def test_choices_that_the_prompt_does_not_show_have_no_orders(prompt, choices) -> None:
    assert order_pairs(Item("0", prompt, "red", "g", choices=choices)) is None


def test_the_choices_are_those_nearest_to_the_answer() -> None:
    item = Item("0", "A house is red. Is it red or blue?", "red", "g", choices=("red", "blue"))
    assert order_pairs(item)[1] == ("A house is red. Is it", " blue or red?")


def test_of_many_items_the_same_ones_are_asked_in_any_order_and_no_variants() -> None:
    items = [question(NAMES[:2], key=str(at)) for at in range(MOST_ITEMS + 9)]
    chosen = items_with_orders(items)
    assert len(chosen) == MOST_ITEMS
    assert items_with_orders(items[::-1]) == chosen
    assert not items_with_orders([one._replace(variant_of="0", choices=()) for one in items])
    assert not items_with_orders([one._replace(variant_of="0") for one in items])


def test_ranks_are_those_of_transformers() -> None:
    lm = load_model(model_path())
    items = [question(NAMES[:4]), Item("1", "Of what?", "x", "g"), question(NAMES[1:4], key="2")]
    found = order_ranks(LocalModel(lm, record={}, batch_size=8, as_chat=False), items, {*"012"})
    assert found[1] is None
    for item, rank in ((items[0], found[0]), (items[2], found[2])):
        scores = []
        for head, tail in order_pairs(item):
            ids = lm.tokenizer(head + tail, add_special_tokens=False).input_ids
            ids = [lm.bos_id] * (lm.bos_id is not None) + ids
            with torch.inference_mode():
                logits = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            scores.append(sum(float(logits[at - 1, ids[at]]) for at in range(1, len(ids))))
        assert rank == sum(one >= scores[0] for one in scores)


class Remembers:
    """Finds the texts that it holds likelier than all others."""

    is_chat = False

    def __init__(self, texts) -> None:
        self.texts = {*texts}

    def logprobs(self, pairs, *, as_given):
        assert as_given
        return [float(head + tail in self.texts) - 9 for head, tail in pairs]


def test_orders_that_the_model_alone_remembers_are_memory() -> None:
    items = [question([f"{name} {at}" for name in NAMES[:4]], key=str(at)) for at in range(30)]
    held, none = Remembers(one.prompt for one in items[:15]), Remembers([])
    keys = items_with_orders(items)
    ranks = order_ranks(held, items, keys)
    assert ranks == [1] * 15 + [24] * 15  # where all are alike the printed one is the last
    table = pl.DataFrame(
        {
            "group": [one.group for one in items],
            "orders": [24] * 30,
            "order_rank": ranks,
            "twin_order_rank": order_ranks(none, items, keys),
        }
    )
    found = orders_of(table)
    assert (found.n_items, found.model.value, found.twin.value) == (30, 0.5, 0.0)
    assert found.chance == pytest.approx(1 / 24)
    assert "has read some of these items as they are printed" in found.sentence
    alike = orders_of(table.with_columns(twin_order_rank="order_rank"))
    assert "shows nothing of memory" in alike.sentence
    alone = orders_of(table.with_columns(twin_order_rank=pl.lit(None, dtype=pl.Int64)))
    assert (alone.twin, alone.excess) == (None, None)
    assert "Without a twin" in alone.sentence
    few = orders_of(table.head(5))
    assert "nothing can be told" in few.sentence
    assert orders_of(table.with_columns(order_rank=pl.lit(None, dtype=pl.Int64))) is None


def test_a_run_says_what_the_orders_show(tmp_path) -> None:
    rows = [
        {"prompt": one.prompt, "answer": "B", "choices": list(one.choices)}
        for one in (question(NAMES[:3], key=str(at)) for at in range(2))
    ]
    found = ms.items("embedded", pl.DataFrame(rows), tmp_path / "items", progress=False)
    assert found.table["orders"].to_list() == [6, 6]
    assert found.table["order_rank"].is_between(1, 6).all()
    said = found.record["orders"]["sentence"]
    assert said in (tmp_path / "items" / "items.html").read_text(encoding="utf-8")
