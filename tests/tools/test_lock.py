"""The lock names what the package asks for, and nothing of the machine that made it."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tools.lock import BUILD, leave_out_torch

ROOT = Path(__file__).parents[2]
NAMES = ("build", "run", "test")
PYTHONS = ("3.11", "3.12", "3.13")


def blocks(name: str) -> list[str]:
    text = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    return re.split(r"(?m)^(?=[a-z0-9])", text)[1:]


def pinned(name: str, python: str) -> dict[str, str]:
    """The version of each package of a lock under one Python of Linux."""
    environment = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    found = [Requirement(one.partition("\\")[0]) for one in blocks(name)]
    here = [one for one in found if one.marker is None or one.marker.evaluate(environment)]
    assert len({one.name for one in here}) == len(here)
    return {one.name: str(one.specifier).removeprefix("==") for one in here}


def asked(*extras: str) -> list[Requirement]:
    """What the package asks for, with what its extras of extras do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [Requirement(one) for one in project["dependencies"]]
    waiting = list(extras)
    while waiting:
        for line in project["optional-dependencies"][waiting.pop()]:
            one = Requirement(line)
            if one.name == "mnemoscope":
                waiting += one.extras
            else:
                found.append(one)
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("name", "extras"), [("run", ()), ("test", ("test", "docs"))])
def test_lock_has_all_that_the_package_asks_for_in_a_version_it_allows(name, extras, python):
    locked = pinned(name, python)
    for one in asked(*extras):
        if one.name == "torch" or (
            one.marker and not one.marker.evaluate({"python_version": python})
        ):
            continue
        assert one.specifier.contains(locked[one.name.lower()]), one


def test_torch_is_left_to_its_own_file_whose_release_the_package_allows():
    *_, line = (ROOT / "locks/torch.txt").read_text(encoding="utf-8").splitlines()
    release = Requirement(line)
    (wanted,) = {one for one in asked() if one.name == "torch"}
    assert wanted.specifier.contains(str(release.specifier).removeprefix("==").replace("*", "0"))
    text = "triton==3.9.0 \\\n    --hash=sha256:aa\ntorchmetrics==1.0 \\\n    --hash=sha256:bb\n"
    assert leave_out_torch("# head\n" + text) == "# head\n" + text[text.index("torchm") :]


@pytest.mark.parametrize("python", PYTHONS)
def test_what_builds_and_what_runs_comes_in_the_versions_of_the_tests(python):
    everything = pinned("test", python)
    for name in ("build", "run"):
        assert pinned(name, python).items() <= everything.items()
    assert {*BUILD} <= {*pinned("build", python)}


@pytest.mark.parametrize("name", NAMES)
def test_every_package_has_hashes_and_no_address(name):
    for one in blocks(name):
        head, *rest = one.splitlines()
        assert re.fullmatch(r"[a-z0-9-]+==[^+/@ ]+( ; [^/@]+)? \\", head)
        assert rest
        assert all(re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in rest)
