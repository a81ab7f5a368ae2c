"""Losses against torch, SciPy and closed forms; layers, shapes, training; resumed bit for bit."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from mnemoscope.errors import UserError
from mnemoscope.lm.load import load_model
from mnemoscope.lm.probe import matched_layers
from mnemoscope.training.distill import (
    KINDS,
    OF_PICTURES,
    DistillSettings,
    Seen,
    affinity_loss,
    attention_loss,
    contrast_loss,
    hidden_loss,
    logits_loss,
    look,
    losses_of,
    new_student,
    parse_losses,
    student_config,
    token_rows,
    train_student,
    view_of,
)
from refusals import refusal
from tests.tiny_models import save_model

EVERY = (
    "data,logits:kl,logits:reverse-kl,logits:js,logits:mse,hidden:cosine,hidden:mse,attention,"
    "affinity"
)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a student and a teacher, (2, 5, 7)."""
    generator = torch.Generator().manual_seed(0)
    return tuple(3 * torch.randn(2, 5, 7, generator=generator).double() for _ in range(2))


def test_divergences_are_those_of_torch_and_scipy(pair) -> None:
    student, teacher = pair
    own, theirs = student.log_softmax(-1), teacher.log_softmax(-1)
    flat = [one.flatten(0, 1) for one in (own, theirs)]
    wanted = functional.kl_div(*flat, log_target=True, reduction="batchmean")
    assert logits_loss(student, teacher, "kl").item() == pytest.approx(wanted.item(), abs=1e-12)
    wanted = functional.kl_div(*flat[::-1], log_target=True, reduction="batchmean")
    assert logits_loss(student, teacher, "reverse-kl").item() == pytest.approx(wanted.item())
    wanted = np.mean(jensenshannon(flat[0].exp().T, flat[1].exp().T) ** 2)
    assert logits_loss(student, teacher, "js").item() == pytest.approx(wanted, abs=1e-12)
    wanted = np.mean((student.numpy() - teacher.numpy()) ** 2)
    assert logits_loss(student, teacher, "mse").item() == pytest.approx(wanted)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
def test_a_temperature_divides_logits_and_its_square_scales_what_comes_out(
    pair, temperature
) -> None:
    """Against torch's own divergence, and so that gradients of small logits do not depend on it."""
    student, teacher = pair
    own, theirs = ((one / temperature).log_softmax(-1).flatten(0, 1) for one in (student, teacher))
    wanted = temperature**2 * functional.kl_div(own, theirs, log_target=True, reduction="batchmean")
    found = logits_loss(student, teacher, "kl", temperature)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)
    small = [1e-3 * one for one in pair]
    one, other = (logits_loss(*small, "kl", each).item() for each in (temperature, 1.0))
    assert one == pytest.approx(other, rel=1e-2)
    squares = [logits_loss(student, teacher, "mse", each).item() for each in (temperature, 1.0)]
    assert squares[0] == squares[1]


def test_contrast_is_written_out_by_hand() -> None:
    """Of every pair of a picture's and an answer's row, both ways; 0 for the teacher itself."""
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(3, 6, 5, generator=generator).double() for _ in range(2))
    picture, answer = torch.zeros(2, 3, 6, dtype=torch.bool)
    picture[:, :2], answer[:, 3:5] = True, True
    parts = []
    for one in range(3):
        for other in range(3):
            sides = []
            for states in (first, second):
                a = functional.normalize(states[one, :2], dim=-1)
                b = functional.normalize(states[other, 3:5], dim=-1)
                sides.append(a @ b.T)
            for own, theirs in ((sides[0], sides[1]), (sides[0].T, sides[1].T)):
                p, q = theirs.softmax(-1).numpy(), own.softmax(-1).numpy()
                parts.append(entropy(p, q, axis=-1).mean())
    found = contrast_loss(first, second, picture, answer)
    assert found.item() == pytest.approx(np.mean(parts), abs=1e-12)
    assert contrast_loss(first, first, picture, answer).item() == pytest.approx(0, abs=1e-12)
    # the answer of another row counts: to turn it is to change the loss of the first
    turned = first.clone()
    turned[2, 3] *= -1
    assert contrast_loss(turned, second, picture, answer).item() != pytest.approx(found.item())


def test_of_pictures_the_answers_tokens_alone_are_judged() -> None:
    """What stands at other places changes nothing, and what is judged is cut out by hand."""
    generator = torch.Generator().manual_seed(4)

    def seen() -> Seen:
        maps = torch.rand(2, 6, 6, generator=generator)
        return Seen(torch.randn(2, 6, 7, generator=generator),
                    (torch.randn(2, 6, 5, generator=generator),), (maps,))  # fmt: skip

    student, teacher = seen(), seen()
    picture, answer = torch.zeros(2, 2, 6, dtype=torch.bool)
    picture[:, 0], answer[0, 3:5], answer[1, 2:6] = True, True, True
    tokens = torch.randint(0, 7, (2, 6), generator=generator)
    batch = {"input_ids": tokens, "answer": answer, "picture": picture}
    losses = parse_losses(f"{EVERY},contrast")
    found = losses_of(student, teacher, batch, losses, [torch.nn.Identity()])
    rows = [(row, at) for row in range(2) for at in answer[row].nonzero().flatten().tolist()]
    before = [student.logits[row, at - 1] for row, at in rows]
    wanted = functional.cross_entropy(
        torch.stack(before), torch.stack([tokens[one] for one in rows])
    )
    assert found["data"].item() == pytest.approx(wanted.item())
    theirs = torch.stack([teacher.logits[row, at - 1] for row, at in rows])
    kl = logits_loss(torch.stack(before), theirs, "kl").item()
    assert found["logits:kl"].item() == pytest.approx(kl)
    states = [torch.stack([one.states[0][each] for each in rows]) for one in (student, teacher)]
    assert found["hidden:mse"].item() == pytest.approx(functional.mse_loss(*states).item())
    cosines = [
        [torch.cosine_similarity(one.states[0][row, 0], one.states[0][row, at], dim=0)
         for row, at in rows] for one in (student, teacher)
    ]  # fmt: skip
    apart = np.mean([(one - other).item() ** 2 for one, other in zip(*cosines, strict=True)])
    assert found["affinity"].item() == pytest.approx(apart, rel=1e-5)
    student.logits[0, 4:] = student.logits[0, :2] = 99.0  # predict no token of the answer
    student.states[0][0, 1:3] = student.maps[0][0, :3] = 99.0
    again = losses_of(student, teacher, batch, losses, [torch.nn.Identity()])
    assert {name: one.item() for name, one in again.items()} == pytest.approx(
        {name: one.item() for name, one in found.items()}
    )


def test_losses_of_states_and_maps_are_written_out_by_hand() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(2, 4, 6, generator=generator) for _ in range(2))
    a, b = first.numpy().reshape(-1, 6), second.numpy().reshape(-1, 6)
    cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    assert hidden_loss(first, second, "cosine").item() == pytest.approx(1 - np.mean(cosines), 1e-5)
    assert hidden_loss(-first, first, "cosine").item() == pytest.approx(2)
    assert hidden_loss(3 * first, first, "cosine").item() == pytest.approx(0, abs=1e-6)
    assert hidden_loss(first, second, "mse").item() == pytest.approx(((a - b) ** 2).mean(), 1e-5)
    # all attention on one key against all on another: 1 + 1 a query
    one, other = torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)
    one[..., 0], other[..., 1] = 1, 1
    assert attention_loss(one, other).item() == 2
    # tokens at right angles against tokens that are one: a quarter of the cells, twice, is 1 apart
    apart, same = torch.eye(2)[None], torch.ones(1, 2, 5)
    assert affinity_loss(apart, same).item() == pytest.approx(0.5)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    assert affinity_loss(first, 7 * first @ turn).item() == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return load_model(save_model(tmp_path_factory.mktemp("teacher") / "model"))


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 300, (24, 16)).astype(np.int32)


def test_a_student_equal_to_its_teacher_has_no_loss_and_another_has_gradients(
    teacher, rows
) -> None:
    """Every loss is 0 for the teacher itself, `data` aside, and else reaches the weights."""
    losses = parse_losses(EVERY)
    settings = DistillSettings(losses)
    tokens = torch.from_numpy(rows[:4]).long()
    batch = {"input_ids": tokens}
    shown = view_of(teacher, 2, settings)(batch)
    assert not shown.logits.requires_grad
    alike = losses_of(
        look(teacher.model, batch, [0, 1], losses),
        shown,
        batch,
        losses,
        [torch.nn.Identity()] * 2,
    )
    cross = functional.cross_entropy(shown.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert alike.pop("data").item() == pytest.approx(cross.item())
    assert {name: one.item() for name, one in alike.items()} == pytest.approx(
        dict.fromkeys(alike, 0), abs=1e-5
    )
    student = new_student(student_config(teacher.model.config, layers=1, width=0.5), seed=3)
    student.set_attn_implementation("eager")
    shown = view_of(teacher, 1, settings)(batch)
    for name in alike:
        some = parse_losses(f"data,{name}")
        to = torch.nn.Linear(16, 32)
        found = losses_of(look(student, batch, [0], losses), shown, batch, some, [to])
        student.zero_grad()
        found[name].backward()
        moved = [one for one in student.parameters() if one.grad is not None and one.grad.any()]
        assert found[name].item() > 1e-4, name
        assert moved, name
    assert not any(one.grad is not None for one in teacher.model.parameters())


def test_layers_are_matched_by_the_rule() -> None:
    assert matched_layers(2, 4, "even") == [(0, 1), (1, 3)]
    assert matched_layers(3, 4, "even") == [(0, 0), (1, 1), (2, 3)]
    assert matched_layers(4, 4, "even") == [(one, one) for one in range(4)]
    assert matched_layers(4, 2, "even")[-1] == (3, 1)
    assert matched_layers(2, 4, "last") == [(1, 3)]


SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
         "intermediate_size": 64, "bos_token_id": 1, "eos_token_id": [1, 2, 3, 4],
         "pad_token_id": 0}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 4}
LLAMA4 = {**GROUPED, "head_dim": 8, "num_local_experts": 2}
NEO = {**SMALL, "eos_token_id": 1, "num_layers": 4, "num_heads": 4}
HALF = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("family", "settings", "wanted"),
    [
        ("gpt_neo", {**NEO, "attention_types": [[["global", "local"], 2]]},
         {"attention_layers": ["local"] * 2}),
        ("gpt_neo", {**NEO, "attention_types": [[["global"], 3], [["local"], 1]]},
         {"attention_layers": ["global", "local"]}),
        ("smollm3", {**GROUPED, "no_rope_layers": [1, 1, 1, 0]}, {"no_rope_layers": [1, 0]}),
        ("llama4_text", {**LLAMA4, "intermediate_size_mlp": 48},
         {"no_rope_layers": [1, 0], "moe_layers": [0, 1], "intermediate_size_mlp": 24,
          "intermediate_size": 32}),
        ("llama4_text", {**LLAMA4, "moe_layers": [0, 3]}, {"moe_layers": [1]}),
        ("gpt2", {**SMALL, "eos_token_id": 1, "n_inner": 80}, {"n_inner": 40}),
        ("gpt2", {**SMALL, "eos_token_id": 1}, {"n_inner": None, **HALF}),
        ("gpt_neox", {**SMALL, "eos_token_id": 1}, HALF),
        *((family, {**GROUPED, "head_dim": 8}, HALF) for family in ("llama", "qwen2", "gemma2")),
        ("opt", {**SMALL, "eos_token_id": 1, "ffn_dim": 96, "word_embed_proj_dim": 32},
         {"ffn_dim": 48}),
        ("falcon", {**SMALL, "ffn_hidden_size": 64}, {"ffn_hidden_size": 32}),
        ("falcon", {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 4},
         {"num_kv_heads": 2, "ffn_hidden_size": 64}),
    ],
)  # fmt: skip
def test_a_student_has_the_share_that_was_asked_also_of_what_is_set_by_layer(
    family, settings, wanted, tmp_path
) -> None:
    """Whatever the family calls it; what transformers reads again says what the student did."""
    whole = AutoConfig.for_model(family, **settings)
    config = student_config(whole, layers=0.5, width=0.5)
    assert {name: getattr(config, name) for name in wanted} == wanted
    assert whole.num_hidden_layers == 4  # the teacher's stays as it was
    assert config.eos_token_id == settings["eos_token_id"]
    student, tokens = new_student(config, seed=0).eval(), torch.arange(9)[None]
    student.save_pretrained(tmp_path)
    for again in (AutoModelForCausalLM.from_pretrained(tmp_path), new_student(config, seed=0)):
        with torch.no_grad():
            torch.testing.assert_close(again.eval()(tokens).logits, student(tokens).logits)


def test_the_students_shape_is_checked_before_it_is_trained_and_its_weights_are_plain() -> None:
    with pytest.raises(UserError, match=r"width 0\.5: transformers cannot store a bamba .*Mamba"):
        student_config(AutoConfig.for_model("bamba"), layers=0.5, width=0.5)
    teacher = AutoConfig.for_model("gpt2", quantization_config={"quant_method": "gguf"})
    assert not hasattr(student_config(teacher, layers=0.5, width=0.5), "quantization_config")


def test_shapes_that_cannot_be_are_refused(teacher) -> None:
    for layers, width, said in (
        (3, 0.5, "layers 3: must be 1 to 2"),
        (0.1, 0.5, "layers 0.1: must be 1 to 2"),
        (1, 12, "width 12: makes 12; must be a multiple of 8"),
        (1, 64, "width 64"),
    ):
        assert said in refusal(student_config, teacher.model.config, layers=layers, width=width)


def test_losses_are_read_and_refused_in_one_line() -> None:
    every = parse_losses(EVERY)
    assert {(one.name, one.kind) for one in every} == {
        (name, kind) for name, kinds in KINDS.items() for kind in kinds if name != OF_PICTURES
    }
    assert [one.weight for one in parse_losses("data, attention:mse=10")] == [1, 10]
    for text, said in (
        ("logits:lk,data", "Did you mean 'logits:kl'"),
        ("attenton", "Did you mean 'attention'"),
        ("banana", "no such loss. Known: data, logits:kl"),
        ("logits", "which one? kl, reverse-kl"),
        ("data,data", "twice"),
        ("data=0", "above 0"),
        ("data=nan", "above 0"),
        ("data=much", "above 0"),
        ("hidden:mse,attention", "none of them trains what the student says"),
        ("", "no such loss"),
    ):
        assert said in refusal(parse_losses, text)


def _train(teacher, rows, folder, *, losses=EVERY, seed=0, steps=5):
    settings = DistillSettings(parse_losses(losses), steps=steps, batch_size=4, seed=seed,
                               learning_rate=1e-2)  # fmt: skip
    student = new_student(student_config(teacher.model.config, layers=1, width=0.5), seed=seed)
    trained = train_student(
        student, token_rows(rows), settings, folder,
        teacher=view_of(teacher, 1, settings), widths=(16, 32), n_layers=2,
    )  # fmt: skip
    return student, trained


def test_a_stopped_training_goes_on_to_the_very_same_student(
    teacher, rows, tmp_path, stopped_at
) -> None:
    torch.set_num_threads(1)
    whole, trained = _train(teacher, rows, tmp_path / "whole")
    assert trained.steps == 5
    assert "distill_projections" not in dict(whole.named_modules())
    assert set(trained.history[0]) == {"step", *EVERY.split(",")}

    from mnemoscope.training import distill

    with stopped_at(distill, "losses_of", 4), pytest.raises(KeyboardInterrupt):
        _train(teacher, rows, tmp_path / "part")
    kept = list((tmp_path / "part").glob("checkpoint-*/trainer_state.json"))
    assert len(kept) == 1
    assert 1 <= json.loads(kept[0].read_text())["global_step"] <= 3
    # what a killed run left of a checkpoint is passed over
    (tmp_path / "part" / "checkpoint-4").mkdir()
    resumed, again = _train(teacher, rows, tmp_path / "part")
    assert again == trained
    own, theirs = whole.state_dict(), resumed.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    other, _ = _train(teacher, rows, tmp_path / "other", seed=1, steps=1)
    theirs = other.state_dict()
    assert not any(torch.equal(own[name], theirs[name]) for name in own if own[name].std() > 0)


@pytest.mark.parametrize("loss", ["logits:kl", "logits:js", "hidden:mse", "attention", "affinity"])
def test_training_lowers_each_loss(teacher, rows, tmp_path, loss) -> None:
    _, trained = _train(teacher, rows, tmp_path, losses=f"data=0.01,{loss}=5", steps=16)
    first, last = (
        next(value for name, value in one.items() if name.startswith(loss))
        for one in (trained.history[0], trained.history[-1])
    )
    assert last < 0.9 * first


def test_a_loss_that_is_not_finite_is_said_with_its_step(teacher, rows, tmp_path) -> None:
    broken = new_student(student_config(teacher.model.config, layers=1, width=0.5), seed=0)
    with torch.no_grad():
        broken.get_output_embeddings().weight[0] = torch.nan
    settings = DistillSettings(parse_losses("data"), steps=2, batch_size=4)
    with pytest.raises(UserError, match="the loss of step 1 is not finite"):
        train_student(
            broken, token_rows(rows), settings, tmp_path, teacher=None, widths=(16, 32), n_layers=2
        )  # fmt: skip
