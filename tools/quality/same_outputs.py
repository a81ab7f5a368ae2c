"""Show that a changed mnemoscope still writes what it wrote: run its verbs, compare two results.

Run: python -m tools.quality.same_outputs make --out before    # PYTHONPATH=TREE/src of another tree
     python -m tools.quality.same_outputs make --out after     # once the code has changed
     python -m tools.quality.same_outputs compare before after # exit status 1: something differs
     python -m tools.quality.same_outputs figures before after # of another version: figures alone
`make` takes about six minutes on two free cores. Passed over is only what tells time or place:
the fields and files below, durations in texts, and the two folders that `about.json` names.
`figures` compares any two folders, a study made by hand too, where files and columns have been
moved or renamed: of tables the columns that both have (a study's sequences with what later stages
know of them), of tensors those that both have, of texts the numbers. What one alone has is listed.
"""

import argparse
import difflib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import yaml

import mnemoscope
from mnemoscope.study.folder import Study

FIELDS_PASSED_OVER = {"seconds", "at", "versions", "bytes"}
"""Keys of JSON and YAML, columns of tables; `bytes` is of the report, which tells durations. The
sizes of pages are passed over too, under the pages' names."""
FILES_PASSED_OVER = re.compile(r"\.lock|about\.json|[0-9a-f]{20}\.json")
FIGURE = {"value", "low", "high"}
"""Fields of a figure with its interval."""
PAPER, PRASHANTH = "'Non-Memo, Guess, Recall'", "'Non-Memo, Recite[5], Reconstruct, Recollect'"
VERBS = {
    "demo": "demo --small -o demo",
    "init": "init template.txt",
    "plan": "run --model embedded --dry-run",
    "plan-pythia": "run pythia-12b --dry-run",
    "audit": "audit embedded texts -o audit --junit audit.xml --fail-if 'recalled > 0.5%'",
    "audit-study": "audit embedded texts -o audit-study --study demo",
    "audit-strict": "audit embedded texts -o audit-strict --patterns strict --reference none "
    "--stride 16 --threshold 0.8 --top-k 0",
    "verify": "audit verify audit-study",
    "features": "features table.parquet -o features.parquet --compare-patterns",
    "label": "label features.parquet -t catalogue -o labels.parquet",
    "label-one": f"label features.parquet -t {PAPER} -o label-one.jsonl",
    "duplicates": "data duplicates --sequences table.parquet --corpus table.parquet "
    "-o counted.parquet",
    "sequences": "sequences texts --model embedded -o cut",
    "continue": "continue cut",
    "compare": f"benchmark demo --compare {PAPER} {PRASHANTH}",
    "export": "localize demo --export figures",
    "knockout": "knockout demo --set knockout.strengths=[3] --set knockout.n_sequences=12 "
    "--set knockout.draws=1",
    "predict": "analyze predict demo",
    "dependencies": "analyze dependencies demo",
    "levels": "analyze levels demo",
    "boundary": "analyze boundary demo",
    "report": "report demo --redo",
    "variants": f"run -o variants -t {PAPER} --patterns strict --set sequences.limit=900 --set "
    "sequences.seed=3 --set label.n_train=60 --set label.n_eval=30 --set label.both_suffixes=true "
    "--set train.poolings=[both] --set train.seeds=[0,1] --set localize.attributions=[guided]",
    "status": "status demo",
    "status-maps": "status demo/maps/model",
    "status-table": "status labels.parquet",
    "refused": "status nowhere",
}
"""What is run in the folder to fill, in this order; `write_inputs` has put its inputs there."""
_DURATION = "\\d[\\d,]*(\\.\\d+)?[ \u00a0\u2009\u202f](ms|s|min|h|hours|days)(?!\\w)"
MASKS = {
    r"(?m)^(.+): .+ in \d+ s(, .+)?\n(?=\1: .+ in \d+ s)": "",  # of lines of progress the last
    r"(?m)^(.+: [\d,]+(?: of [\d,]+)? .+ in )\d+ s(, .+)?$": r"\1<time>",
    r"[\d,]+ a second|one file of [\d.]+\s[kM]B|bytes [\d,]+": "<speed or size>",
    rf"{_DURATION}(\s{_DURATION})*": "<time>",
}
STATUS_MASKS = {r"(?m)\d+\.\d +│$": "<time>", r"[\d.]+ [kMG]?B": "<size>", "[ ─━]{2,}": " "}


def make(out: Path) -> None:
    """Run every verb and keep what it says, its status and its files."""
    package = Path(mnemoscope.__file__).resolve().parent
    (said := out / "said").mkdir(parents=True)
    about = {"folder": str(out.resolve()), "package": str(package)}
    (out / "about.json").write_text(json.dumps(about))
    always = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "120"}
    always |= {"PYTHONPATH": str(package.parent), "HF_HUB_OFFLINE": "1"}
    ended = {}
    for name, words in VERBS.items():
        command = [sys.executable, "-m", "mnemoscope", *shlex.split(words)]
        started = time.monotonic()
        with open(said / f"{name}.out", "w") as one, open(said / f"{name}.err", "w") as two:
            done = subprocess.run(command, cwd=out, env=os.environ | always, stdout=one, stderr=two)
        seconds = round(time.monotonic() - started, 1)
        ended[name] = {"status": done.returncode, "seconds": seconds}
        (said / "ended.json").write_text(json.dumps(ended, indent=1))
        print(f"{name}: status {done.returncode}, {seconds} s", flush=True)
        if name == "demo":
            write_inputs(out)


def write_inputs(out: Path) -> None:
    """Put texts for the audits and a table for the verbs on tables beside the finished demo."""
    sequences = Study(out / "demo").sequences
    (out / "texts").mkdir()
    (out / "texts" / "code.txt").write_text(Path(difflib.__file__).read_text()[:6000])
    sequences.gather_every(150).select("text").write_ndjson(out / "texts" / "rows.jsonl")
    kept = ("sequence_id", "text", "tokens", "duplicates", "is_memorized", "memorization_score")
    sequences.gather_every(4).select(kept).write_parquet(out / "table.parquet")


def compare(first: Path, second: Path, *, only_figures: bool) -> int:
    """Print every difference of two folders, and give their number."""
    names = []
    for folder in (first, second):
        about = folder / "about.json"
        places = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        MASKS.update(
            {rf"{re.escape(place)}(?![\w-])": f"<{name}>" for name, place in places.items()}
        )
        files = [str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()]
        names.append({one for one in files if not FILES_PASSED_OVER.fullmatch(Path(one).name)})
    both = names[0] & names[1]
    found = [f"{one}: in one folder only" for one in sorted(names[0] ^ names[1])]
    if only_figures:
        print(*found, sep="\n")
        found = []
    differ = figure_differences if only_figures else differences
    for name in sorted(both):
        found += [f"{name}: {line}" for line in differ(first / name, second / name)]
    print(*found, f"{len(both):,} files compared, {len(found):,} differences", sep="\n")
    return len(found)


def differences(one: Path, two: Path) -> Iterator[str]:
    """What differs in two files, by the kind of file that their ending names."""
    if one.suffix in {".json", ".jsonl", ".yaml", ".sarif", ".safetensors"}:
        read = tensors if one.suffix == ".safetensors" else json_values
        before, after = dict(read(one)), dict(read(two))
        for key in before | after:
            if before.get(key) != after.get(key):
                yield f"{key}: {before.get(key)!s:.160} became {after.get(key)!s:.160}"
    elif one.suffix == ".parquet":
        yield from table_differences(pl.read_parquet(one), pl.read_parquet(two))
    elif one.suffix in {".html", ".txt", ".svg", ".xml", ".out", ".err"}:
        masks = MASKS | (STATUS_MASKS if one.name == "status.out" else {})
        texts = [masked(path.read_text(encoding="utf-8"), masks) for path in (one, two)]
        yield from line_differences(*(text.split("\n") for text in texts))
    elif one.read_bytes() != two.read_bytes():
        yield "other bytes"


def figure_differences(one: Path, two: Path) -> Iterator[str]:
    """What differs of the figures that both files have; names of columns in one alone are said."""
    if one.suffix == ".parquet":
        before, after = (table_of(path) for path in (one, two))
        before, after = spread(before, after.columns), spread(after, before.columns)
        both = [name for name in before.columns if name in after.columns]
        alone = sorted({*before.columns, *after.columns} - {*both})
        if alone:
            print(f"{one.name}: in one table only: {', '.join(alone)}")
        yield from table_differences(before.select(both), after.select(both))
    elif one.suffix == ".safetensors":
        values = [dict(tensors(path)) for path in (one, two)]
        for name in (values[0].keys() & values[1].keys()) - {"__metadata__"}:
            if values[0][name] != values[1][name]:
                yield f"{name}: other values"
    elif one.suffix in {".json", ".jsonl", ".yaml", ".sarif"}:
        values = [dict(map(flat, json_values(path))) for path in (one, two)]
        for name in values[0].keys() & values[1].keys():
            before, after = (found[name] for found in values)
            if before != after and all(
                map(re.compile(r"-?[\d.]+(e-?\d+)?").fullmatch, (before, after))
            ):
                yield f"{name}: {before} became {after}"
    elif one.suffix in {".html", ".txt", ".svg", ".xml", ".out"}:
        texts = [
            masked(path.read_text(encoding="utf-8"), MASKS | STATUS_MASKS) for path in (one, two)
        ]
        numbers = [
            [" ".join(re.findall(r"-?\d[\d,.]*", line)) for line in text.split("\n")]
            for text in texts
        ]
        yield from line_differences(*([line for line in found if line] for found in numbers))


def table_of(path: Path) -> pl.DataFrame:
    """A table; of a study's sequences with the columns that later stages know of them."""
    is_whole = path.name != "sequences.parquet" or "is_memorized" in pl.read_parquet_schema(path)
    return pl.read_parquet(path) if is_whole else Study(path.parent).sequences


def spread(table: pl.DataFrame, others: list[str]) -> pl.DataFrame:
    """A table with each struct of a figure as the columns that the other table has in its place."""
    for name, kind in table.schema.items():
        inner = kind.inner if isinstance(kind, pl.List) else kind
        if not isinstance(inner, pl.Struct) or {one.name for one in inner.fields} != FIGURE:
            continue
        stem = name.removesuffix("min_f1").rstrip("_")
        known = (f"{name}_", f"{stem}_" if stem else "", "")
        stem = next((one for one in known if f"{one}low" in others), f"{name}_")
        for end, column in (("low", f"{stem}low"), ("high", f"{stem}high"), ("value", name)):
            part = pl.element() if isinstance(kind, pl.List) else pl.col(name)
            part = part.struct.field(end)
            if isinstance(kind, pl.List):
                part = pl.col(name).list.eval(part)
            table = table.with_columns(part.alias(column if end != "value" else f"{name} value"))
        table = table.drop(name).rename({f"{name} value": name})
    return table.with_columns(pl.selectors.float().fill_nan(None))


def flat(leaf: tuple[str, Any]) -> tuple[str, Any]:
    """The leaf of a figure's `value`, `low` or `high` under the names of three separate ones."""
    return re.sub(r"\.(?=(low|high)$)", "_", leaf[0].removesuffix(".value")), leaf[1]


def json_values(path: Path) -> Iterator[tuple[str, Any]]:
    """Every number and string of a JSON or YAML file, or of lines of JSON, under its keys."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return leaves([json.loads(line) for line in text.splitlines()], "")
    return leaves(yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text), "")


def leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The values that hold no others; an empty list or dictionary is one too."""
    if isinstance(value, dict | list) and value:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if name not in FIELDS_PASSED_OVER and not str(name).endswith(".html"):
                yield from leaves(inner, f"{key}.{name}")
    else:
        yield key, masked(repr(value))


def tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """Type, shape and bytes of each tensor of a safetensors file, and its metadata."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:begin]).items():
        start, end = (begin + offset for offset in entry.pop("data_offsets", (0, 0)))
        yield name, (masked(repr(entry)), data[start:end])


def table_differences(one: pl.DataFrame, two: pl.DataFrame) -> Iterator[str]:
    """Columns, their order and types, rows, then values, which are to be exactly the same."""
    if list(one.schema.items()) != list(two.schema.items()) or one.height != two.height:
        yield f"{one.height} rows of {one.schema} became {two.height} of {two.schema}"
        return
    for name in [name for name in one.columns if name not in FIELDS_PASSED_OVER]:
        before, after = (map(repr, table[name].to_list()) for table in (one, two))
        pairs = list(zip(before, after, strict=True))
        rows = [row for row, (was, now) in enumerate(pairs) if was != now]
        if rows:
            was, now = pairs[rows[0]]
            yield f"{name}: {len(rows)} rows, first row {rows[0]}: {was:.160} became {now:.160}"


def line_differences(one: list[str], two: list[str]) -> Iterator[str]:
    """Lines that differ, each from a little before its first other character."""
    matcher = difflib.SequenceMatcher(None, one, two, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind != "equal":
            before, after = "\n".join(one[a:b]), "\n".join(two[c:d])
            pairs = enumerate(zip(before, after, strict=False))
            begin = max(next((at for at, (x, y) in pairs if x != y), 0) - 40, 0)
            yield f"line {a + 1}: {before[begin:]!r:.160} became {after[begin:]!r:.160}"


def masked(text: str, masks: dict[str, str] = MASKS) -> str:
    """A text without what tells time and place."""
    for pattern, word in masks.items():
        text = re.sub(pattern, word, text)
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("make", help="fill a new folder").add_argument("--out", type=Path)
    verbs.add_parser("compare", help="compare two").add_argument("folders", type=Path, nargs=2)
    verbs.add_parser("figures", help="as compare, but figures alone").add_argument(
        "folders", type=Path, nargs=2
    )
    given = parser.parse_args()
    if given.verb == "make":
        make(given.out)
    elif compare(*given.folders, only_figures=given.verb == "figures"):
        raise SystemExit(1)
