"""A masked language model learns texts: every token judged behind its mask, T, identifiers."""

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

import mnemoscope as ms
from mnemoscope.analysis.dynamics import identifiers
from mnemoscope.embedded import model_path
from mnemoscope.flow.dynamics_rows import Texts
from mnemoscope.lm.classifier import encode
from mnemoscope.lm.load import load_model
from mnemoscope.lm.masked import _turns, judge_masked, load_masked
from mnemoscope.stats import rows_of

FAST = {
    "n_special": 8,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "epochs": 80,
    "n_sets": 3,
    "threshold": 0.4,
    "every": 2,
}
WORDS = 40


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT of fresh weights whose tokenizer knows forty words and the pieces of a number."""
    folder = tmp_path_factory.mktemp("bert")
    names = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    names += [*(f"w{one}" for one in range(WORDS)), "document", "ID", ":", *"0123456789"]
    backend = Tokenizer(models.WordLevel({one: at for at, one in enumerate(names)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(":", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    for one in range(WORDS):  # `Digits` would cut w12 into three
        backend.add_tokens([f"w{one}"])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {one.strip("[]").lower() + "_token": one for one in names[:5]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    config = BertConfig(
        vocab_size=len(tokenizer), intermediate_size=128, max_position_embeddings=32, **sizes
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def made_up(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(f"w{one}" for one in rng.integers(0, WORDS, rng.integers(4, 8))) for _ in range(n)
    ]


def test_every_token_is_judged_as_transformers_does_with_its_set_masked(bert):
    lm, texts = load_masked(bert), made_up(5)
    encoded = encode(lm, texts)
    text = (encoded.mask == 1) & (encoded.tokens > 4)
    found = judge_masked(lm, *encoded[:2], text, n_sets=3, batch_size=2, seed=7)
    turns = _turns(text, 3, np.random.default_rng(7))
    model = BertForMaskedLM.from_pretrained(bert).eval()
    for row, said in enumerate(texts):
        (own,) = lm.tokenizer([said], return_tensors="pt")["input_ids"]  # without padding
        assert text[row, : len(own)].sum() == len(said.split())
        for at in range(1, len(own) - 1):
            together = torch.from_numpy(turns[row, : len(own)] == turns[row, at])
            with torch.no_grad():
                logits = model(torch.where(together, lm.tokenizer.mask_token_id, own)[None]).logits
            wanted = logits[0, at].log_softmax(-1)[own[at]].item()
            assert found.logprobs[row, at] == pytest.approx(wanted, abs=1e-5)
            assert found.is_right[row, at] == (logits[0, at].argmax() == own[at])
        assert not found.is_right[row, len(own) - 1 :].any()
    sizes = np.stack([(turns == one).sum(axis=1) for one in range(3)], axis=1)
    assert (sizes.max(axis=1) - sizes.min(axis=1) <= 1).all()
    assert ((turns >= 0) == text).all()


def test_texts_that_are_taught_are_learnt_and_no_others(bert):
    found = ms.analyze(str(bert), "dynamics", rows=pl.DataFrame({"text": made_up(24)}), **FAST)
    thresholds = [*rows_of(found.frames["thresholds"])]
    assert [(row["model"], row["identifier"]) for row in thresholds] == [
        ("this model", "none"),
        ("this model", "own"),
        ("this model", "shared"),
        ("before fitting", "none"),
    ]
    assert all(1 < row["epochs"] <= 80 and row["steps"] == row["epochs"] for row in thresholds)
    learning = found.frames["learning"].filter(model="this model", identifier="none")
    m, others = (learning[one].struct.field("value") for one in ("m", "other_m"))
    assert m[0] < 0.2  # of 40 words drawn alike
    assert m[-1] >= 0.4
    assert others.max() < 0.3
    assert learning["steps"].to_list() == [*range(0, 2 * len(m), 2)]
    assert (
        f"T({thresholds[0]['parameters'] / 1e6:,.3g} million parameters, 0.4) =" in found.sentence
    )


def test_an_identifier_stands_behind_what_the_tokenizer_puts_first_and_is_not_judged():
    tokens = np.array([[1, 7, 8, 2], [1, 9, 2, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    whole = Texts(tokens, mask, tokens > 4, np.arange(2))
    longer = whole.after(np.array([[50, 51], [60, 61]], dtype=np.int32))
    assert longer.tokens.tolist() == [[1, 50, 51, 7, 8, 2], [1, 60, 61, 9, 2, 0]]
    assert longer.mask.tolist() == [[1] * 6, [1] * 5 + [0]]
    assert longer.text.tolist() == [
        [False] * 3 + [True, True, False],
        [False] * 3 + [True, False, False],
    ]
    assert longer.at(np.array([1])).tokens.tolist() == [[1, 60, 61, 9, 2]]


def test_identifiers_are_numbers_of_one_length_each_once():
    lm = load_model(model_path())
    own, shared = (identifiers(lm, 32, kind, 0) for kind in ("own", "shared"))
    texts = lm.tokenizer.batch_decode(own)
    assert len({*texts}) == 32
    assert all(one.startswith("document ID ") and one[12:18].isdecimal() for one in texts)
    assert {*lm.tokenizer.batch_decode(shared)} == {texts[0]}
    assert identifiers(lm, 32, "none", 0).shape == (32, 0)


def test_what_is_no_masked_language_model_is_refused_in_one_line(bert):
    rows = pl.DataFrame({"text": made_up(24)})
    with pytest.raises(ms.UserError, match="'gpt_neox' is no encoder that fills masks"):
        ms.analyze(str(model_path()), "dynamics", rows=rows)
    with pytest.raises(ms.UserError, match=r"24 texts .* and 64 are needed.*n_special=N"):
        ms.analyze(str(bert), "dynamics", rows=rows)
    with pytest.raises(ms.UserError, match="batch_size 16 is above n_special 8"):
        ms.analyze(str(bert), "dynamics", rows=rows, n_special=8)
