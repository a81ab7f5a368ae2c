"""The rule with its reason, how far a model goes on, and the guard against copies."""

import numpy as np
import pytest

from mnemoscope.audit.documents import tokenize
from mnemoscope.audit.rule import find_step, rule_windows
from mnemoscope.audit.scan import grow
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.data.features import add_features
from mnemoscope.lm.continue_ import continue_sequences, is_copied
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy


def test_rule_is_the_paper_s_taxonomy(lm, sequences):
    some = sequences.sample(120, seed=3)
    windows = np.array(some["tokens"].to_list(), dtype=np.int32)
    mine = [
        one.verdict for one in rule_windows(lm.tokenizer, windows, prefix=32, patterns="published")
    ]
    frame = add_features(some.with_columns(memorization_score=1.0), code="off")
    theirs = label_sequences(frame, parse_taxonomy("Non-Memo, Guess, Recall"))
    assert mine == [one.split("[")[0].lower() for one in theirs]
    assert set(mine) == {"guess", "recall"}


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("".join(f"{n}, " for n in range(1, 40)), 1),
        ("".join(f"row {n}: x\n" for n in range(10, 200, 5)), 5),
        ("no number here at all", None),
        ("1 5 2 9 4 4 1 7 0 3 2 2 8", None),
    ],
)
def test_step_of_a_counting_text(text, step):
    assert find_step(text) == step


def test_reason_says_what_was_seen(lm):
    counting = tokenize("".join(f"{n}, " for n in range(100, 200)), lm.tokenizer).ids[None, :64]
    ruling = rule_windows(lm.tokenizer, counting, prefix=32, patterns="published")[0]
    assert ruling.verdict == "guess"
    assert "incrementing numbers, step 1" in ruling.reason


def test_growth_is_where_greedy_decoding_leaves_the_document(lm, trained, new_text):
    text = trained[0] + new_text(1, 60)
    document = tokenize(text, lm.tokenizer)
    settings = AuditSettings()
    places = [(0, first) for first in (0, 1, 4, 40)]
    made = grow(lm, [document], places, settings)
    for (_, first), growth in zip(places, made, strict=True):
        row = document.ids[None, first : first + 128]
        written = next(continue_sequences(lm, row, batch_size=1)).tokens[0]
        is_right = written == row[0, 32:]
        assert growth.n_tokens == (len(is_right) if is_right.all() else int(is_right.argmin()))
    assert made[0].n_tokens >= 30  # the trained text comes out
    assert made[3].n_tokens < 10  # the new one does not


def test_what_the_prompt_holds_is_called_copied(lm):
    def ids(text):
        return tokenize(text, lm.tokenizer).ids

    prompt = ids("the seven birds of Marrow lane did not sing before supper")
    assert is_copied(lm.tokenizer, prompt, ids(" birds of Marrow lane did not"))
    assert not is_copied(lm.tokenizer, prompt, ids(" copper boats cross the harbour twice"))
    assert not is_copied(lm.tokenizer, prompt, ids(" birds")[:1])  # too short to tell
    begun = " seven birds of Marrow lane did not"  # its first 32 characters are the prompt's
    assert is_copied(lm.tokenizer, prompt, ids(begun + " cross the harbour"))
    assert not is_copied(lm.tokenizer, prompt, ids(begun[:26] + " will cross the harbour"))


def test_the_guard_reads_every_script_and_not_only_its_numbers(lm):
    def ids(text):
        return tokenize(text, lm.tokenizer).ids

    prompt = ids("Родился в 2020 году в городе на реке, где зимой темно")
    assert is_copied(lm.tokenizer, prompt, ids("в городе на реке"))
    assert not is_copied(lm.tokenizer, prompt, ids("совсем другие слова 2020 и ещё"))
