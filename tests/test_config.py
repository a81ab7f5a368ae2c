"""Settings: defaults, YAML round trip, and refusals that name the nearest key."""

import pytest
import yaml

from mnemoscope.cli.options import merge_flags
from mnemoscope.errors import UserError
from mnemoscope.study.settings import (
    StudySettings,
    load_settings,
    parse_settings,
    settings_template,
)


def test_the_commented_template_means_the_defaults(tmp_path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(settings_template())
    assert load_settings(path) == StudySettings()


def test_every_setting_has_a_line_that_says_what_it_does() -> None:
    text = settings_template()
    for stage, values in StudySettings().as_dict().items():
        for key in values if isinstance(values, dict) else [stage]:
            lines = text.splitlines()
            index = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
            assert lines[index - 1].strip().startswith("# "), key


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"capture": {"shardrows": 3}},
            "capture.shardrows: unknown key. Did you mean 'shard_rows'?",
        ),
        ({"lable": {}}, "lable: unknown key. Did you mean 'label'?"),
        ({"train": {"preset": "papr"}}, "train.preset: Input should be 'small' or 'paper'"),
        ({"model": {"batch_size": 0}}, "model.batch_size: Input should be greater than"),
        ({"sequences": {"length": 63}}, "sequences.length: Input should be a multiple of 2"),
    ],
)
def test_bad_settings_are_refused_in_one_line(values, message) -> None:
    with pytest.raises(UserError) as raised:
        parse_settings(values, where="study.yaml")
    assert str(raised.value).startswith(f"study.yaml, {message}")
    assert "\n" not in str(raised.value)


def test_flag_goes_before_file_and_file_before_default(tmp_path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"model": {"dtype": "bfloat16", "batch_size": 8}}))
    merged = merge_flags(path, {"model.batch_size": 4, "model.device": None}, ["train.seeds=[7]"])
    assert (merged.model.dtype, merged.model.batch_size) == ("bfloat16", 4)
    assert merged.train.seeds == [7]
    assert merged.model.device == "auto"
