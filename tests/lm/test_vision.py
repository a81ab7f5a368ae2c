"""Pictures with prompts: what is read, which tokens are judged, answers, refusals."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from mnemoscope.errors import UserError
from mnemoscope.lm.vision import (
    Pair,
    answer_text,
    answer_tokens,
    as_vision,
    check_same_reading,
    encode_pairs,
    judge_pairs,
    load_vision,
    read_picture,
    write_answers,
)
from refusals import refusal
from tests.tiny_models import save_model, save_pictures, save_vision_model

FAMILIES = ("llava", "idefics3", "smolvlm")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("pictures"), 5)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return save_vision_model(tmp_path_factory.mktemp("model") / "model", family=request.param)


@pytest.fixture(scope="module")
def lm(folder):
    return load_vision(folder)


@pytest.fixture(scope="module")
def pairs(lm, pictures):
    return [
        Pair(one, "say it" + " so" * at, answer_tokens(lm, "def add" + " b" * at))
        for at, one in enumerate(pictures)
    ]


def test_the_masks_are_of_the_answer_and_the_picture_alone(lm, folder, pairs) -> None:
    """Against transformers' own processor, a row at a time."""
    batch = encode_pairs(lm, pairs)
    processor = AutoProcessor.from_pretrained(folder)
    for row, pair in enumerate(pairs):
        n_read = int(batch["attention_mask"][row].sum())
        tokens = batch["input_ids"][row]
        assert tokens[batch["answer"][row]].tolist() == list(pair.answer)
        assert pair.answer[-1] == lm.tokenizer.eos_token_id
        assert batch["answer"][row].nonzero().max() == n_read - 1
        prompt = f"<image>\n{pair.prompt}"
        if processor.chat_template:
            prompt = f"User:<image>{pair.prompt} Assistant:"
        own = processor(images=Image.open(pair.image), text=prompt, return_tensors="pt")
        assert tokens[: n_read - len(pair.answer)].tolist() == own["input_ids"][0].tolist()
        n_places = (own["input_ids"] == lm.model.config.image_token_id).sum()
        assert batch["picture"][row].sum() == n_places > 0
        assert torch.equal(batch["pixel_values"][row], own["pixel_values"][0])
    assert not (batch["answer"] & batch["picture"]).any()
    text = answer_text(lm, pairs[0].answer)
    assert text == "def add"
    # the picture's token in a prompt is not counted twice, and its bytes are the same picture
    twin = Pair(pairs[0].image.read_bytes(), "<image>\nsay it", pairs[0].answer)
    check_same_reading(lm, lm, twin)
    again = encode_pairs(lm, [twin])
    assert again["input_ids"][0].tolist() == tokens_of(batch, 0)


def tokens_of(batch, row):
    return batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist()


def test_answers_are_judged_as_the_model_alone_judges_them(lm, folder, pairs) -> None:
    """Against transformers' loss, a row at a time, and whatever the batch."""
    found = judge_pairs(lm, pairs, batch_size=3)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    for row, pair in enumerate(pairs):
        batch = encode_pairs(lm, [pair])
        labels = batch["input_ids"].masked_fill(~batch.pop("answer"), -100)
        del batch["picture"]
        with torch.no_grad():
            loss = model(**batch, labels=labels).loss
        assert found.logprob[row] == pytest.approx(-loss.item(), abs=1e-5)
    assert not found.right.any()


def test_greedy_answers_are_right_and_are_what_the_logits_say(lm, pairs) -> None:
    said = write_answers(lm, pairs, most=6, batch_size=4)
    image = lm.model.config.image_token_id
    for row, (pair, own) in enumerate(zip(pairs, said, strict=True)):
        assert 1 <= len(own) <= 6
        tokens = []
        while len(tokens) < 6 and lm.tokenizer.eos_token_id not in tokens:
            batch = encode_pairs(lm, [pair._replace(answer=tuple(tokens))])
            given = {name: one for name, one in batch.items() if name not in ("answer", "picture")}
            with torch.no_grad():
                logits = lm.model(**given).logits[0, -1]
            logits[image] = -torch.inf
            tokens.append(int(logits.argmax()))
        assert list(own) == tokens, row
    taught = [one._replace(answer=own) for one, own in zip(pairs, said, strict=True)]
    swapped = [one._replace(image=taught[at - 1].image) for at, one in enumerate(taught)]
    own, other = (judge_pairs(lm, one, batch_size=5).logprob for one in (taught, swapped))
    assert np.abs(own - other).max() > 1e-3  # the picture is looked at


def test_what_cannot_be_read_is_refused_in_one_line(lm, pictures, tmp_path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(pictures[0].read_bytes()[:60])
    for bad in (torn, tmp_path / "none.png"):
        assert "no picture (" in refusal(read_picture, bad, str(bad))
    assert "a picture of the table: no picture" in refusal(
        encode_pairs, lm, [Pair(b"GIF8", "say it", (5, 0))]
    )
    assert "holds <image>, the place of a picture" in refusal(answer_tokens, lm, "so <image>")
    long = Pair(pictures[0], "say " * 99, (5, 0))
    assert "and it has 96 positions" in refusal(encode_pairs, lm, [long])
    plain = save_model(tmp_path / "plain")
    assert "model type 'gpt_neox' is none that reads pictures" in refusal(load_vision, plain)
    assert "no processor of pictures" in refusal(as_vision, lm.model, lm.tokenizer)
    assert "a dict, no model of pictures" in refusal(as_vision, {}, lm.processor)


def test_a_package_that_a_processor_lacks_is_named(tmp_path, monkeypatch) -> None:
    def lacking(*_given, **_named):
        raise ImportError("\nPackage `num2words` is required to run SmolVLM processor.\nMore.")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", lacking)
    said = refusal(load_vision, save_vision_model(tmp_path / "model"))
    assert "(Package `num2words` is required to run SmolVLM processor). Install the one" in said


def test_models_that_read_a_picture_otherwise_are_told_apart(pictures, tmp_path) -> None:
    first, second = (
        load_vision(save_vision_model(tmp_path / one, family=one)) for one in ("llava", "idefics3")
    )
    pair = Pair(pictures[0], "say it", answer_tokens(first, "def"))
    with pytest.raises(UserError, match="makes other tokens of a picture"):
        check_same_reading(first, second, pair)
