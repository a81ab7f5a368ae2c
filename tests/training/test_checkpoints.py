"""Checkpoints are found in their order, or it is said what is wrong with them."""

import pytest

from mnemoscope.errors import UserError
from mnemoscope.lm.hub import find_checkpoints, lacking_steps


def make(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")


def test_checkpoints_are_read_in_the_order_of_their_steps(tmp_path):
    run, named, hub = tmp_path / "run", tmp_path / "named", "EleutherAI/pythia"
    make(run, "checkpoint-1000", "checkpoint-90", "checkpoint-200", "runs/of-tensorboard")
    make(named, "first", "then")
    dated, alike = tmp_path / "dated", tmp_path / "alike"
    make(dated, "sft-2026", "dpo-2025")
    make(alike, "run 1.11", "run 1.2")
    sizes = [f"{hub}-410m", f"{hub}-160m"]  # numbers of models, not of steps
    for given, wanted in (
        ([run], [(f"{run}/checkpoint-{step}", None, step) for step in (90, 200, 1000)]),
        ([named / "then", named / "first"],
         [(f"{named}/then", None, 0), (f"{named}/first", None, 1)]),
        ([f"{hub}-70m@v2-step{step}" for step in (143000, 1000)],
         [(f"{hub}-70m", f"v2-step{step}", step) for step in (1000, 143000)]),
        (sizes, [(sizes[0], None, 0), (sizes[1], None, 1)]),
        ([dated / "sft-2026", dated / "dpo-2025"],  # years, which are no steps
         [(f"{dated}/sft-2026", None, 0), (f"{dated}/dpo-2025", None, 1)]),
        ([named / "first", run],  # the base that was trained, and a folder of checkpoints
         [(f"{named}/first", None, 0),
          *((f"{run}/checkpoint-{step}", None, step) for step in (90, 200, 1000))]),
        ([alike], [(f"{alike}/run 1.{step}", None, step) for step in (2, 11)]),
    ):  # fmt: skip
        assert find_checkpoints(list(map(str, given))) == wanted


@pytest.mark.parametrize(
    ("names", "given", "words"),
    [
        (["checkpoint-1"], ["."], r"^\.: 1 checkpoint there, 2 or more"),
        (["checkpoint-1"], ["checkpoint-1"], "^1 checkpoint named, 2 or more"),
        ([], ["out/"], "^out/: no such folder, and no .*: 1 checkpoint named, 2 or more"),
        ([], ["."], "holds no checkpoint"),
        (["a/step-1", "b/step-1"], ["a/step-1", "b/step-1"], "are both step 1"),
        (["step-1", "b"], ["."], "b: no step in its name, but in others'. Rename it"),
        (["sft-2025", "dpo-2026"], ["."], "so none is the last. Name them in their order"),
        (["b", "step-1"], ["step-1", "b"], "b: no step .* Name it first, if it is their base, or"),
        ([], ["E/p-160m@step1", "E/p-160m"], "^E/p-160m: no step .* with its step"),
        (["a-1"], ["a-1", "a-2"], "^a-2: no step .* Name a folder that exists"),
        (["checkpoint-1", "checkpoint-3", "checkpoint-2/runs"], ["."], "2: holds no model"),
        (["run/best", "run/alpha"], ["run"], "so none is the last. .* order: run/alpha run/best"),
        (["run", "run/checkpoint-1"], ["run"], r"^run: a model.* checkpoints \(run/checkpoint-\*"),
    ],
)
def test_what_cannot_be_tracked_is_refused(tmp_path, monkeypatch, names, given, words):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, *names)
    with pytest.raises(UserError, match=words):
        find_checkpoints(given)


def test_one_checkpoint_in_a_folder_needs_no_step(tmp_path):
    make(tmp_path, "final")
    assert find_checkpoints([str(tmp_path)], least=1) == [(f"{tmp_path}/final", None, 0)]


def test_gaps_are_seen_only_in_an_even_row():
    assert lacking_steps([100, 200, 500, 600, 700]) == [300, 400]
    for whole in ([100, 200, 300], [1, 2, 4, 8], [10, 20, 30, 45], [5]):
        assert lacking_steps(whole) == []


def test_signature_tells_changed_weights(tmp_path):
    make(tmp_path, "checkpoint-1", "checkpoint-2")
    one = find_checkpoints([str(tmp_path)])[0]
    before = one.signature()
    (tmp_path / "checkpoint-1" / "model.safetensors").write_bytes(b"x")
    assert one.signature() != before
