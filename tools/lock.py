"""Renew the lock: what `make demo` and `make test` install, in which version, with hashes.

    python -m tools.lock    # make lock; needs uv and a package index

`locks/test.txt` holds all of the extras `test` and `docs`, `locks/run.txt` what the package needs,
and `locks/build.txt` what the package, and others that have no wheel, are built with. Each is for
every system and Python that `pyproject.toml` allows; what two of them name has one version. PyTorch
and what it alone brings are left out: `locks/torch.txt` names its release, and its builds for CPU
and CUDA have hashes of their own.
"""

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "locks"
BUILD = ("editables", "hatchling", "setuptools")
_TORCH = re.compile(r"(torch|triton|(cuda|nvidia)-[a-z0-9-]+)\b")
_HEAD = "# Written by `make lock`. Do not edit.\n"


def leave_out_torch(locked: str) -> str:
    """Lines of a lock without PyTorch, its compiler and its CUDA libraries."""
    packages = re.split(r"(?m)^(?=[a-z0-9])", locked)
    return "".join(one for one in packages if not _TORCH.match(one))


def _resolve(*words: str | Path) -> str:
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--upgrade"]
    command += ["--python-version", "3.11", "--no-header", "--no-annotate", "--no-emit-index-url"]
    command += ["--constraint", str(LOCKS / "torch.txt"), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return leave_out_torch(done.stdout)


def main() -> None:
    """Write the three files anew, from the newest versions that go together."""
    with tempfile.TemporaryDirectory() as folder:
        build, everything = Path(folder, "build.in"), Path(folder, "everything.txt")
        build.write_text("\n".join(BUILD))
        extras = ("--extra", "test", "--extra", "docs")
        everything.write_text(_resolve("pyproject.toml", build, *extras))
        texts = {
            "test": everything.read_text(),
            "run": _resolve("pyproject.toml", "--constraint", everything),
            "build": _resolve(build, "--constraint", everything),
        }
    for name, text in texts.items():
        (LOCKS / f"{name}.txt").write_text(_HEAD + text, encoding="utf-8")


if __name__ == "__main__":
    main()
