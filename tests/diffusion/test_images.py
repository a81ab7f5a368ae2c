"""Pictures: figures equal those read by hand, verdicts keep their error, and runs resume."""

import json
import math
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from experiments.images.run import REMEDIES, SIDE, Album, parts_of, pooled, save_parts
from experiments.pages import results_of
from mnemoscope.diffusion import run
from mnemoscope.diffusion.found import IMAGES
from mnemoscope.diffusion.measures import MEMORIZED, NOT_SHOWN, UNDECIDED, chance_of, flipd, judged
from mnemoscope.diffusion.model import hutchinson, kind_of, load_pipeline
from mnemoscope.errors import UserError
from mnemoscope.stats import share_of
from sarif_logs import check_sarif

WORDS = ["red", "green", "blue", "<script>alert(1)</script>"]
PROMPTS = ["red green", "blue", "<script>alert(1)</script> red blue"]
FEW = {"steps": 3, "draws": 2, "flipd_draws": 2, "error": 0.25, "device": "cpu"}


def with_vae(parts):
    """A VAE that halves the sides before four channels, and Stable Diffusion's sampler."""
    from diffusers import AutoencoderKL, PNDMScheduler

    parts["scheduler"] = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    parts["vae"] = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        sample_size=2 * SIDE,
    )
    return parts


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """Untrained pipelines and controls by kind, saved as `diffusers` does."""
    folder = tmp_path_factory.mktemp("pipelines")
    for at, name in enumerate(("unet", "transformer", "class", "vae", "velocity")):
        for role in ("model", "control"):
            torch.manual_seed(2 * at + (role == "control"))
            kind = {"vae": "unet", "velocity": "unet"}.get(name, name)
            said = {"prediction": "v_prediction"} if name == "velocity" else {}
            channels = 4 if name == "vae" else 1
            parts = parts_of(kind, WORDS, width=16, channels=channels, **said)
            save_parts(with_vae(parts) if name == "vae" else parts, kind, folder / name / role)
    return folder


@pytest.fixture(scope="session")
def models(pipelines):
    return {
        one.name: load_pipeline(str(one / "model"), device="cpu") for one in pipelines.iterdir()
    }


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """Three prompts, one with a picture, and four that nobody read."""
    folder = tmp_path_factory.mktemp("table")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "given.png")
    rows = [{"prompt": one, "label": None, "image": None} for one in PROMPTS]
    rows[1] |= {"image": "given.png", "seed": 7}
    rows += [{"prompt": f"green {one}", "label": "unread"} for one in ("red", "blue", "green", "")]
    path = folder / "table.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def by_hand(model, prompt, seed, steps, guidance):
    """Two calls of the network a step and DDIM, with cross-attention read by hooks."""
    told, empty = model.tell([prompt]), model.tell([""])
    latents, norms, seen = model.start([seed]), [], {}
    model.scheduler.set_timesteps(steps)
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name, module in model.net.named_modules()
        if name.endswith(("attn2.to_q", "attn2.to_k"))
    ]
    with torch.no_grad():
        for time in model.scheduler.timesteps:
            without = model.predict(latents, time, empty)
            said = model.predict(latents, time, told)
            noises = [model.noise(one, latents, time) for one in (said, without)]
            norms.append(float((noises[0] - noises[1]).norm()))
            guided = without + guidance * (said - without)
            latents = model.scheduler.step(guided, time, latents).prev_sample
    for one in hooks:
        one.remove()
    return latents, norms, seen, int(told.last[0]), told.mask


@pytest.mark.parametrize("kind", ["unet", "transformer", "vae", "velocity"])
def test_mask_norm_and_picture_are_those_read_by_hand(kind, models) -> None:
    model = models[kind]
    prompt, seed = "red green", 3
    latents, norms, seen, last, mask = by_hand(model, prompt, seed, 3, 4.0)
    made = model.generate(model.tell([prompt]), model.start([seed]), steps=3, guidance=4.0)
    torch.testing.assert_close(made.latents, latents, rtol=0, atol=1e-6)
    found = [np.sqrt((one**2).sum()) for one in made.guidance]
    np.testing.assert_allclose(found, norms, rtol=1e-4)
    # Softmax of q·k of the layers with the most places, at the end token.
    layers = [one.removesuffix(".to_q") for one in seen if one.endswith("to_q")]
    if kind != "transformer":
        layers = [one for one in layers if one.startswith("down_blocks.0")]
    wanted = []
    for one in layers:
        heads = model.net.get_submodule(one).heads
        query, key = (seen[f"{one}.{part}"][0] for part in ("to_q", "to_k"))
        query, key = (part.view(len(part), heads, -1).transpose(0, 1) for part in (query, key))
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[2])
        if mask is not None:
            scores = scores.masked_fill(mask[0] == 0, -math.inf)
        wanted.append(scores.softmax(dim=-1)[..., last].mean(dim=0))
    side = math.isqrt(len(wanted[0]))
    grid = torch.stack(wanted).mean(dim=0).view(side, side)
    whole = grid.repeat_interleave(SIDE // side, 0).repeat_interleave(SIDE // side, 1)
    np.testing.assert_allclose(made.mask[0], whole, rtol=1e-4)
    assert last == 3  # start, two words, end


def test_a_velocity_is_turned_into_the_noise_that_it_means(models) -> None:
    model, generator = models["velocity"], torch.Generator().manual_seed(0)
    picture, noise = torch.randn(2, 1, *model.shape, generator=generator)
    time = torch.tensor(400)
    clean, noisy = model.levels(time)
    velocity, latents = clean * noise - noisy * picture, clean * picture + noisy * noise
    torch.testing.assert_close(model.noise(velocity, latents, time), noise)


@pytest.mark.parametrize("kind", ["unet", "class"])
def test_without_the_prompt_it_is_the_picture_of_no_prompt(kind, models) -> None:
    model, prompt = models[kind], "3" if kind == "class" else "red"
    start, asked = model.start([0]), {"steps": 3, "guidance": 4.0}
    plain = model.generate(model.tell([prompt]), start, **asked)
    never = model.generate(model.tell([prompt]), start, limits=np.full(3, np.inf), **asked)
    always = model.generate(model.tell([prompt]), start, limits=np.zeros(3), **asked)
    empty = model.generate(model.tell([""]), start, **asked)
    torch.testing.assert_close(never.latents, plain.latents)
    torch.testing.assert_close(always.latents, empty.latents, rtol=0, atol=1e-5)
    assert always.dropped.all()
    assert not never.dropped.any()
    assert not torch.equal(always.latents, plain.latents)


@pytest.mark.parametrize("rank", [0, 3, 6])
def test_hutchinson_gives_the_dimension_of_a_gaussian(rank) -> None:
    """Of variance 1 in `rank` directions at random: FLIPD is the rank, within the stated error."""
    generator, sigma = np.random.default_rng(rank), 0.05
    turn = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    variance = (turn * ((np.arange(6) < rank) + sigma**2)) @ turn.T
    precision = np.linalg.inv(variance)
    exact = flipd(lambda x: -x @ precision, np.zeros((1, 6)), sigma)
    assert exact[0] == pytest.approx(rank, abs=0.01 + rank * sigma**2)
    matrix, points = torch.from_numpy(sigma * precision), torch.zeros(1, 6, dtype=torch.float64)
    found, error = hutchinson(lambda x: x @ matrix, points, sigma, draws=400)
    assert abs(found[0] - exact[0]) <= max(4 * error[0], 1e-3)
    assert error[0] < 0.15
    many = [hutchinson(lambda x: x @ matrix, points, sigma, draws=16, seed=s) for s in range(200)]
    values, errors = np.array(many)[..., 0].T
    if rank in (0, 6):  # J is a multiple of one: no draw differs
        assert errors.max() < 1e-6
    else:  # the stated error is the true spread
        assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.2)


def rows_of(asked, unread, control=1.0) -> pl.DataFrame:
    values = [*asked, *unread]
    labels = [None] * len(asked) + ["unread"] * len(unread)
    other = [None if control is None else control] * len(values)
    columns = {"label": labels, "norm": values, "control_norm": other}
    return pl.DataFrame(columns, schema={"label": pl.String, "norm": pl.Float64} | {
        "control_norm": pl.Float64})  # fmt: skip


@pytest.mark.parametrize(
    ("control", "n_unread", "verdicts", "reason"),
    [
        (1.0, 19, [MEMORIZED, NOT_SHOWN], "0 of 19 unread prompts go as far"),
        (1.0, 18, [UNDECIDED] * 2, "18 unread prompts, where an error of 0.05 needs 19"),
        (None, 19, [UNDECIDED] * 2, "no control"),
    ],
)
def test_a_verdict_stands_on_control_and_unread_prompts(
    control, n_unread, verdicts, reason
) -> None:
    unread = np.linspace(1, 2, n_unread)
    found = judged(rows_of([3.0, 1.5], unread, control), measure="norm", error=0.05)
    assert found["verdict"].to_list() == [*verdicts, *[None] * n_unread]
    assert found["reason"][0].startswith(reason)


def test_a_model_that_differs_everywhere_is_no_memory_and_the_error_is_kept() -> None:
    """Ten times the control's norm on every prompt: at most the stated share is called so."""
    generator = np.random.default_rng(0)
    called = []
    for _ in range(300):
        drawn = 10 * np.exp(generator.normal(size=139))
        found = judged(rows_of(drawn[:40], drawn[40:]), measure="norm", error=0.05)
        called.append((found["verdict"] == MEMORIZED).sum() / 40)
    assert 0.03 < np.mean(called) < 0.06
    assert chance_of(np.array([9.0]), np.array([1.0, 9.0, 10.0]))[0] == 0.75  # ties count


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["unet", "vae", "transformer"])
def test_a_run_writes_figures_beside_the_control_and_a_page(
    kind, pipelines, table, tmp_path, succeed
) -> None:
    folder = pipelines / kind
    words = [folder / "model", table, "--reference", folder / "control", "-o", tmp_path / "out"]
    words += [f"--set={key}={value}" for key, value in FEW.items() if key != "device"]
    words += ["--set", "error=0.9", "--mitigate", "prompt"] if kind == "transformer" else []
    found = json.loads(succeed("images", *words, "--device", "cpu", "-q", "--json").out)
    assert found["reference"]["fingerprint"] != found["model"]["fingerprint"]
    rows = pl.read_parquet(tmp_path / "out" / "images.parquet")
    for one in ("norm", "masked", "flipd"):
        assert rows[one].null_count() == rows[f"control_{one}"].null_count() == 0
    assert rows["similarity"].is_not_null().to_list() == [False, True] + [False] * 5
    if kind == "transformer":  # noise on the prompt makes another picture
        name = rows.filter(verdict=MEMORIZED)["row"][0]
        pictures = [
            (tmp_path / "out" / "pictures" / f"{name:05d}{one}.png").read_bytes()
            for one in ("", "-mitigated")
        ]
        assert pictures[0] != pictures[1]
    page = (tmp_path / "out" / "images.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    with Image.open(tmp_path / "out" / "pictures" / "00001.png") as picture:
        assert picture.size == ((2 * SIDE,) * 2 if kind == "vae" else (SIDE, SIDE))


def test_the_default_remedy_is_what_the_stored_figures_bear() -> None:
    """The least strength of which every kind of the UNet's pictures is as far as the control's."""

    def is_enough(strength: str) -> bool:
        pairs = [(row["remedies"][strength]["model"], row["control"]) for row in again]
        return all(made[2] >= control[1] for made, control in pairs)

    again = results_of("images")["runs"]["unet"]["again"]
    tried = [one for one in again[0]["remedies"] if one.startswith("prompt ")]
    assert f"prompt {run.Settings().strength:g}" == next(one for one in tried if is_enough(one))
    further = [row["remedies"]["guidance"]["further"] for row in again]
    assert not all(low > 0 for _, low, _ in further)  # so no advice names it
    advice = json.dumps(IMAGES.rule)
    assert "--mitigate prompt" in advice
    assert "guidance'" not in advice


STORED = {"red": 9.0, "red green": 8.0, "blue": 7.0}


@pytest.fixture
def answered(pipelines, tmp_path, monkeypatch):
    """Tables of prompts and the words that put them to a model that stores three of them."""

    def part(model, rows, settings):
        norms = [STORED.get(one.prompt, 1.0) if model.name.endswith("model") else 1 for one in rows]
        empty = dict.fromkeys(run._FIGURES) | {"where": np.ones(SIDE**2).tolist()}
        picture = run.png_of(np.zeros((SIDE, SIDE, 3), dtype=np.uint8))
        made = [{**empty, "norm": float(one), "picture": picture} for one in norms]
        return pl.DataFrame(made, schema=pl.Schema(run._FIGURES))

    monkeypatch.setattr(run, "_part", part)

    def words_for(name, prompts, n_unread=4):
        table = tmp_path / f"{name}.jsonl"
        rows = [{"prompt": one} for one in prompts]
        rows += [{"prompt": f"green {n}", "label": "unread"} for n in range(n_unread)]
        table.write_text("\n".join(map(json.dumps, rows)))
        model, control = (pipelines / "unet" / one for one in ("model", "control"))
        words = ["images", model, table, "--reference", control, "-o", tmp_path / name]
        return [*words, "--set", "error=0.2", "--device", "cpu"]

    return words_for


def test_a_gate_counts_memorized_prompts_and_those_that_are_new(
    answered, tmp_path, call, call_light, refused
) -> None:
    assert call(*answered("old", ["red", "red green", "blue green"])).status == 0
    junit, sarif, now = (tmp_path / one for one in ("j.xml", "s.sarif", "now"))
    gate = ("--fail-if", "memorized > 1 prompt")
    failed = call(*answered("now", ["red green", "green", "blue"]), *gate, "--json")
    found = json.loads(failed.out)
    assert (failed.status, found["gate"]["failed"]) == (3, True)
    assert found["gate"]["conditions"][0]["said"] == "2 prompts memorized, at most 1 allowed"
    results = check_sarif(json.loads((now / "images.sarif").read_text()))
    places = [one["locations"][0]["physicalLocation"] for one in results]
    assert [one["region"] for one in places] == [{"startLine": 1}, {"startLine": 3}]
    finished = ("images", "gate", now, *gate)
    (again,) = call_light([finished], ("torch", "transformers", "diffusers"))
    assert again.status == 3
    beside = ("--baseline", tmp_path / "old", "--junit", junit, "--sarif", sarif)
    passed = call(*finished, *beside)
    assert passed.status == 0
    assert "): 1 new prompt memorized, at most 1 allowed; 2 prompts of 3 are not in" in passed.out
    states = [one["baselineState"] for one in check_sarif(json.loads(sarif.read_text()))]
    assert states == ["unchanged", "new", "absent"]
    suite = ElementTree.parse(junit).getroot()
    listed = [
        one.get("name") for one in suite.iter("testcase") if one.find("system-out") is not None
    ]
    assert listed == ["row 2: blue"]
    share = call("images", "gate", now, "--fail-if", "memorized > 66%")
    assert (share.status, "): 66.7 % memorized, at most 66 % allowed" in share.out) == (3, True)
    assert "contains no images.json. Make it: 'mnemoscope images'" in refused(
        "images", "gate", tmp_path, *gate
    )
    (now / "images.html").write_text("better")
    assert "images.html: damaged" in refused(*finished)


def test_labels_may_be_numbers() -> None:
    frame = pl.DataFrame({"prompt": ["a", "b"], "label": [0, 1]})
    assert [one.label for one in run.read_prompts(frame)] == ["0", "1"]


def test_a_gate_that_could_never_fail_is_refused_before_a_model_is_loaded(
    answered, call, refused, monkeypatch
) -> None:
    gate = ("--fail-if", "memorized > 1 prompt", "-q")
    few, alone = answered("few", ["red"], n_unread=3), answered("out", ["red"])
    del alone[3:5]
    assert call(*few).status == 0
    monkeypatch.setattr("mnemoscope.diffusion.model.load_pipeline", None)
    said = "never fails (3 unread prompts, where an error of 0.2 needs 4)"
    assert said in refused(*few, *gate)
    assert said in refused("images", "gate", few[6], *gate[:2])
    assert "never fails (no control" in refused(*alone, *gate)


def test_classes_are_asked_without_a_mask(pipelines, tmp_path) -> None:
    frame = pl.DataFrame({"prompt": ["3", "4"], "label": [None, "unread"]})
    where = [str(pipelines / "class" / one) for one in ("model", "control")]
    found = run.images(where[0], frame, tmp_path / "out", reference=where[1], **FEW)
    assert found.rows["masked"].null_count() == 2
    assert found.rows["verdict"].to_list() == [UNDECIDED, None]
    with pytest.raises(UserError, match="'red': give a class, 0 to 9"):
        run.images(where[0], pl.DataFrame({"prompt": ["red"]}), tmp_path / "other", **FEW)


@pytest.mark.whole
def test_a_stopped_run_goes_on_and_asks_nothing_twice(
    pipelines, table, tmp_path, monkeypatch
) -> None:
    where = [str(pipelines / "unet" / one) for one in ("model", "control")]
    asked = {"reference": where[1], "mitigate": "guidance", "batch_size": 4, **FEW, "error": 0.9}
    whole = run.images(where[0], table, tmp_path / "whole", **asked)
    assert whole.rows["mitigated_norm"].is_not_null().any()
    calls, own = [], run._part

    def stopping(*given):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return own(*given)

    monkeypatch.setattr(run, "_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        run.images(where[0], table, tmp_path / "out", **asked)
    again = run.images(where[0], table, tmp_path / "out", **asked)
    assert len(calls) == 2 * 4 + 1  # four parts a model; the one that was stopped twice
    assert again.rows.equals(whole.rows)
    run.images(where[0], table, tmp_path / "out", **asked)
    assert len(calls) == 2 * 4 + 1
    with pytest.raises(UserError, match="holds other pictures"):
        run.images(where[0], table, tmp_path / "out", **(asked | {"steps": 4}))


def test_a_dry_run_counts_what_a_run_does(pipelines, table, tmp_path, succeed, monkeypatch) -> None:
    model, control = (pipelines / "unet" / one for one in ("model", "control"))
    words = ["images", model, table, "--reference", control, "--set", "steps=3", "--set", "draws=2"]
    said = json.loads(succeed(*words, "--dry-run", "--json").out)
    wanted = {"prompts": 7, "pictures": 28, "forward passes": 168, "backward passes": 112}
    assert said.items() >= wanted.items()
    from mnemoscope.diffusion.model import ImageModel

    rows, own = [], ImageModel.predict
    monkeypatch.setattr(
        ImageModel, "predict", lambda *given: rows.append(len(given[1])) or own(*given)
    )
    succeed(*words, "-o", tmp_path / "out", "--set", "flipd_draws=0", "--device", "cpu")
    assert sum(rows) == said["forward passes"]


def test_what_cannot_be_asked_is_refused_in_a_line(
    pipelines, table, tmp_path, refused, hide
) -> None:
    model, out = pipelines / "unet" / "model", ["-o", tmp_path / "out", "-q"]
    (bare := tmp_path / "bare").mkdir()
    (tmp_path / "none.jsonl").write_text('{"text": "a"}')
    (tmp_path / "lost.jsonl").write_text('{"prompt": "a", "image": "lost.png"}')
    (tmp_path / "seed.jsonl").write_text('{"prompt": "a", "seed": -1}')
    for words, said in (
        ([bare, table], "no pipeline of diffusers"),
        ([tmp_path / "no", table], "no such pipeline folder"),
        ([model, tmp_path / "none.jsonl"], "no table with a column 'prompt'"),
        ([model, tmp_path / "lost.jsonl"], "lost.png: no such picture"),
        ([model, tmp_path / "seed.jsonl"], "seed -1 is no whole number"),
        ([model, table, "--reference", model], "is the same model as"),
        ([model, table, "--reference", pipelines / "vae" / "model"], "Give a control of the same"),
        ([model, table, "--mitigate", "guidence"], "Did you mean"),
        ([model, tmp_path / "lost.jsonl", "--set", "stepz=3"], "Did you mean"),
        ([model, table, "--set", "measure=flipd", "--set", "flipd_draws=0"], "Set flipd_draws"),
        ([model, table, "--dtype", "auto"], "name float32"),
    ):
        assert said in refused("images", *words, *out)
    hide("diffusers")
    assert "needs diffusers: pip install" in refused("images", model, table, *out)


def test_other_pipelines_are_named_and_refused() -> None:
    text = {"text_encoder": ["transformers", "CLIPTextModel"]}
    text["tokenizer"] = ["transformers", "CLIPTokenizer"]
    unet = {"unet": ["diffusers", "UNet2DConditionModel"]}
    assert kind_of({**text, **unet}, "x") == "unet"
    for index in (
        {"_class_name": "StableDiffusionXLPipeline", **text, **unet, "text_encoder_2": ["", "C"]},
        {"_class_name": "FluxPipeline", **text, "transformer": ["diffusers", "Flux"]},
        {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]},
    ):
        with pytest.raises(UserError, match=index["_class_name"]):
            kind_of(index, "x")


def test_figures_of_known_truth_are_means_over_seeds_whose_captions_are_drawn() -> None:
    """AUC and distances by scikit-learn and by hand; a share has Wilson's interval."""
    from sklearn.metrics import roc_auc_score

    rng, seeds = np.random.default_rng(0), []
    for seed in range(3):
        album = Album(seed)
        n, patches = len(album.kind), SIDE**2
        columns = {
            f"{who}{name}": rng.lognormal(size=n)
            for who in ("", "control_")
            for name in ("norm", "masked", "flipd", "similarity")
        }
        maps = {
            f"{who}{name}": rng.lognormal(size=(n, patches)).tolist()
            for who in ("", "control_")
            for name in ("mask", "where")
        }
        rows = pl.DataFrame(columns | maps | {"label": album.kind, "row": np.arange(n)})
        rows = rows.with_columns(
            pl.lit(None).alias(one) for one in ("beyond", "p", "verdict", "reason")
        )
        again = pl.when(pl.col("label") == "whole").then(pl.col("similarity") - 1.0)
        seeds.append(
            (album, dict.fromkeys(REMEDIES, rows.with_columns(mitigated_similarity=again)))
        )
    found = pooled(seeds)
    rows = [one["guidance"].filter(pl.col("label").is_in(["half", "unread"])) for _, one in seeds]
    (half,) = (
        row for row in found["verdicts"] if (row["label"], row["measure"]) == ("half", "flipd")
    )
    wanted = [roc_auc_score(one["label"] == "half", -one["flipd"]) for one in rows]
    assert half["model"].value == pytest.approx(np.mean(wanted))
    assert half["model"].low < half["model"].value < half["model"].high
    assert half["memorized"] == share_of(sum(half["by_seed"]), half["n"])
    assert (half["n"], len(half["by_seed"])) == (24, 3)
    (whole, *others) = found["again"]
    assert whole["n"] == 18
    for made in whole["remedies"].values():  # each is one further than it was
        assert tuple(made["further"]) == pytest.approx((1, 1, 1))
    assert [one["n"] for one in others] == [0, 0]
    nearer = np.concatenate(
        [
            (one["similarity"] - one["control_similarity"]).filter(one["label"] == "half")
            for one in rows
        ]
    )
    assert found["apart"][1]["nearer"].value == pytest.approx(nearer.mean())
    assert found["pixels"]["where"]["half"].low < 0.5 < found["pixels"]["where"]["half"].high
