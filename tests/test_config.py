"""Settings: defaults, YAML round trip, and refusals that name the nearest key."""

from collections.abc import Iterator

import pytest
import yaml
from pydantic import BaseModel

from mnemoscope.cli.options import merge_flags
from mnemoscope.errors import UserError
from mnemoscope.study.settings import (
    StudySettings,
    load_settings,
    parse_settings,
    settings_template,
)


def test_the_commented_template_means_the_defaults_and_explains_each(tmp_path):
    path, text = tmp_path / "study.yaml", settings_template()
    path.write_text(text)
    assert load_settings(path) == StudySettings()
    lines = text.splitlines()
    for stage, values in StudySettings().as_dict().items():
        for key in values if isinstance(values, dict) else [stage]:
            known = (f"{key}:", f"# {key}:")
            index = next(i for i, line in enumerate(lines) if line.strip().startswith(known))
            assert lines[index - 1].strip().startswith("# "), key


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"capture": {"shardrows": 3}}, "capture.shardrows: unknown key. Did you mean 'shard_rows"),
        ({"lable": {}}, "lable: unknown key. Did you mean 'label'?"),
        ({"train": {"preset": "papr"}}, "train.preset: Input should be 'small', 'as_run', 'as_wr"),
        ({"model": {"batch_size": 0}}, "model.batch_size: Input should be greater than"),
        ({"sequences": {"length": 7}}, "sequences.length: Input should be greater than or"),
        ({"train": {"kernels": [6, 0]}}, "train.kernels.1: Input should be greater"),
        ({"train": {"kernels": [6, 8, 6]}}, "train.kernels: 6 is duplicated"),
        ({"train": {"filters": [0]}}, "train.filters.0: Input should be greater"),
        ({"train": {"seeds": [True]}}, "train.seeds.0: Input should be a valid integer"),
        ({"benchmark": {"n_resamples": 10**12}}, "benchmark.n_resamples: Input should be less"),
        ({"sequences": {"source": ""}}, "sequences.source: an empty text"),
        ({"sequences": {"source": "a\0b"}}, "sequences.source: a character that is none"),
        ({"sequences": {"source": "x" * 5000}}, "sequences.source: longer than 4,096"),
        ({"title": "\ud800"}, "title: a character that is none in UTF-8"),
        ({"title": b"hello"}, "title: Input should be a valid string"),
        ({"model": {"batch_size": "8"}}, "model.batch_size: Input should be a valid integer"),
        ({"model": {"trust_remote_code": 1}}, "model.trust_remote_code: Input should be a valid b"),
    ],
)
def test_bad_settings_are_refused_in_one_line(values, message):
    with pytest.raises(UserError) as raised:
        parse_settings(values, where="study.yaml")
    assert str(raised.value).startswith(f"study.yaml, {message}")
    assert "\n" not in str(raised.value)


def test_nodes_of_a_search_are_known_before_it_starts():
    for nodes, said in (
        (["Entropi"], "search.nodes: unknown node 'Entropi'. Did you mean 'Entropy'?"),
        (["Guess", "Nothing"], "search.nodes: unknown node 'Nothing'"),
        (["Entropy[5..3]"], "search.nodes: 'Entropy[5..3]' ends before it begins"),
    ):
        with pytest.raises(UserError) as raised:
            parse_settings({"search": {"nodes": nodes}}, where="study.yaml")
        assert str(raised.value).startswith(said)


def numbers_and_lists(model: type[BaseModel] = StudySettings, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings that hold a number or a list, sections included."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from numbers_and_lists(field.annotation, f"{key}.")
        elif isinstance(field.get_default(), int | float | list):
            yield key


BEYOND = [2**70, -(2**70), -1, float("inf"), float("nan"), "", b"1", {}]


def test_no_number_and_no_list_takes_what_no_run_could_use():
    """All of them, so that a setting that is added has its bounds too."""
    for key in numbers_and_lists():
        section, _, name = key.partition(".")
        default = StudySettings().as_dict()[section][name]
        lists = [[one] for one in BEYOND] + [default * 2 or 1] if isinstance(default, list) else []
        if key in ("train.kernels", "train.poolings", "train.seeds", "label.taxonomies"):
            lists.append([])
        for given in BEYOND + lists:
            with pytest.raises(UserError, match=name) as raised:
                parse_settings({section: {name: given}}, where="here")
            assert len(str(raised.value)) < 500, (key, given)
            assert "\n" not in str(raised.value), (key, given)


def test_flag_goes_before_file_and_file_before_default(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"model": {"dtype": "bfloat16", "batch_size": 8}}))
    sets = ["train.seeds=[7]", "label.non_memo_suffix=true"]  # a word, though YAML's own
    merged = merge_flags(load_settings(path), {"model.batch_size": 4, "model.device": None}, sets)
    assert merged.label.non_memo_suffix == "true"
    assert (merged.model.dtype, merged.model.batch_size) == ("bfloat16", 4)
    assert merged.train.seeds == [7]
    assert merged.model.device == "auto"


def test_a_suffix_that_is_changed_makes_another_length(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("sequences:\n  prefix: 12\n  suffix: 12\n")
    found = merge_flags(load_settings(path), {}, ["sequences.suffix=100"]).sequences
    assert (found.n_prefix, found.length) == (12, 112)
    with pytest.raises(UserError, match="length 50 is not prefix"):
        merge_flags(load_settings(path), {}, ["sequences.suffix=100", "sequences.length=50"])
    path.write_text("sequences:\n  length: 128\n")
    found = merge_flags(load_settings(path), {}, ["sequences.prefix=32"]).sequences
    assert (found.n_prefix, found.length) == (32, 128)


def test_a_preset_gives_the_grid_that_is_not_set():
    def grid_of(**train: object) -> list[list]:
        found = parse_settings({"train": train}, where="test").train
        return [found.kernels, found.filters, found.poolings, found.seeds]

    assert grid_of() == [[6], [10], ["both"], [0, 1, 2]]
    assert grid_of(preset="as_run") == [[6, 8], [10, 16], ["mean"], [0, 1]]
    assert grid_of(preset="as_written") == [[6, 8], [10, 16], ["mean", "max"], [0]]
    assert grid_of(preset="as_run", seeds=[7]) == [[6, 8], [10, 16], ["mean"], [7]]
    known = parse_settings({"train": {"preset": "as_run"}}, where="test").train
    assert known.in_words == "as_run: 4 settings × 2 seeds, the preset's grid"
    # A file with every setting has a grid too: it goes with its preset, and what was set stays.
    base = parse_settings({"train": {"filters": [3]}}, where="test")
    changed = merge_flags(base, {}, ["train.preset=as_written"]).train
    assert (changed.kernels, changed.filters, changed.poolings) == ([6, 8], [3], ["mean", "max"])
    assert changed.seeds == [0]
    assert changed.in_words == "as_written: 4 settings × 1 seed, another grid"
    assert merge_flags(base, {}, ["train.preset=as_run", "train.seeds=[0]"]).train.seeds == [0]
