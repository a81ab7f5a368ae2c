"""Peak memory and time of making a study's table from a SYNTHETIC split of 5 million rows.

A synthetic copy of `pile_deduped_12b` and `memories_deduped_12b` is written to a temporary folder
(2.3 GB at the default size, deleted after), and read in a process of its own as `mnemoscope run`
reads it: all 54 taxonomies, 4,000 + 2,000 sequences a class, margin 2. The rows mean nothing; what
is measured is the reader.

Run: .venv/bin/python benchmarks/bench_semantic_filters.py [PILE_ROWS MEMORY_ROWS]
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.given import given
from benchmarks.measured import memory
from benchmarks.synthetic_semantic_filters import write_copy

LIMIT_GB = 4.0


def measure(folder: str) -> None:
    """In the process of its own: read, choose, and print what it took."""
    from mnemoscope.pipeline.published_split import read_published
    from mnemoscope.study.settings import parse_settings

    settings = parse_settings(
        {
            "sequences": {"source": folder, "split": "deduped_12b"},
            "label": {"taxonomies": ["catalogue"], "n_train": 4000, "n_eval": 2000},
        },
        where="benchmark",
    )
    before_gb = peak_gb()
    started = time.perf_counter()
    result = read_published(settings)
    seconds = time.perf_counter() - started
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    facts = result.facts
    print(
        f"{facts['split_rows']:,} rows, {facts['split_duplicate_ids']:,} duplicate ids, "
        f"{facts['split_overlapping_ids']:,} in both parts; {facts['split_sequences']:,} sequences "
        f"labelled under {len(facts['split']['classes']) - 1} taxonomies, "
        f"{result.frame.height:,} kept with tokens and text"
    )
    print(
        f"peak memory {peak_gb():.2f} GB (of which imports {before_gb:.2f}), {seconds:.0f} s, "
        f"{cpu.ru_utime + cpu.ru_stime:.0f} s of processor time; limit {LIMIT_GB:g} GB: "
        f"{'kept' if peak_gb() < LIMIT_GB else 'EXCEEDED'}"
    )


def peak_gb() -> float:
    """Largest resident set of this process so far, in GB (Linux)."""
    return memory("VmHWM") * 1.048576 / 1e3


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
        return
    n_pile, n_memories = given(__doc__, pile_rows=5_000_000, memory_rows=400_000)
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        write_copy(Path(name), n_pile, n_memories, n_shards=7)
        n_bytes = sum(path.stat().st_size for path in Path(name).rglob("*.parquet"))
        print(
            f"SYNTHETIC split of {n_pile:,} + {n_memories:,} sequences, {n_bytes / 1e9:.2f} GB in "
            f"{time.perf_counter() - started:.0f} s; the writer's peak memory {peak_gb():.2f} GB",
            flush=True,
        )
        subprocess.run([sys.executable, __file__, "--measure", name], check=True)


if __name__ == "__main__":
    main()
