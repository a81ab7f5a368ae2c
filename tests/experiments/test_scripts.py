"""Scripts that no other test runs: each of them can be imported."""

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("benchmarks", "experiments", "tools")
    for path in (ROOT / folder).rglob("*.py")
)
EXTRA = {"benchmarks.bench_training": "h5py"}  # of `mnemoscope[bench]`


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports(name: str) -> None:
    if name in EXTRA:
        pytest.importorskip(EXTRA[name])
    import_module(name)
