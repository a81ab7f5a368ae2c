"""Bad input is refused in one line with exit status 2, and a refusal leaves nothing behind."""

import errno
import io
import json
import shlex
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file, save_file

from mnemoscope.embedded import model_path
from mnemoscope.pipeline.label import samples_of
from mnemoscope.study.folder import Study
from mnemoscope.study.stages import STAGES
from mnemoscope.taxonomy.sample import SampleKey
from study_files import content
from tiny_models import VOCABULARY, save_model

LONG = "The licence applies to works based on the library. " * 20
ROW = json.dumps({"tokens": list(range(40))}).encode() + b"\n"
SEQUENCES = {"sequence_id": [1, 2, 3], "tokens": [list(range(64))] * 3}
BEYOND = [[1] * 64, [1] * 64, [1] * 63 + [VOCABULARY]]

FILES = {  # files, tables by their columns, and folders that a command names
    "empty": {},
    "empty.txt": b"",
    "empty.bin": b"",
    "empty.jsonl": b"",
    "empty.npy": b"",
    "blank.jsonl": b"\n\n",
    "latin.txt": b"caf\xe9",
    "short.txt": b"Too short.",
    "text.txt": LONG.encode(),
    "texts": {"a.txt": b"text"},
    "content.jsonl": b'{"content": "words"}',
    "text.jsonl": b'{"text": "a"}\n',
    "text.parquet": {"text": ["a"]},
    "beyond.parquet": {"sequence_id": [1, 2, 3], "tokens": BEYOND},
    "good.parquet": SEQUENCES,
    "good.bin": np.arange(200, dtype=np.uint16).tobytes(),
    "odd.bin": b"\1\2\3",
    "six.bin": b"\1\2" * 3,
    "torn.npy": b"\x93NUMPY",
    "torn.parquet": b"PAR1 and no more",
    "torn.jsonl": ROW * 3 + b"{torn\n",
    "id.parquet": {"id": [1]},
    "float.jsonl": ROW * 2 + b'{"tokens": [1.5]}\n',
    "list.jsonl": b"[1, 2]\n",
    "large.jsonl": b'{"tokens": [99999999999999999999]}\n',
    "null.parquet": {"tokens": [[1, None]]},
    "float.parquet": {"tokens": [[1.5]]},
    "mixed": {"a.bin": b"\1\2", "b.jsonl": ROW},
    "amid": {"a.txt": b"text", "b.jsonl": ROW},
    "watched": {"watch.json": b"{}"},
    "string.parquet": {"tokens": ["a"]},
    "unequal.parquet": {"tokens": [[1] * 64, [1] * 61]},
    "norows.parquet": {"tokens": pl.Series([], dtype=pl.List(pl.Int32))},
    "forty.parquet": {"sequence_id": [1], "tokens": [[1] * 40]},
    "mine": {"note.txt": b"mine"},
    "mine.parquet": SEQUENCES,
    "typo.yaml": b"strides: 4",
    "list.yaml": b"- 1",
    "gate.yaml": b"fail_if: recalled > 1%",
}
VERBS = ("continue", "features", "label", "capture", "train", "benchmark", "localize", "report")
COUNT = "data duplicates -q --save-every 0 -o"
AUDIT = "audit embedded text.txt -q -o out"
ALONE = "-q -o out --reference none"
API = "audit api -q -o out"
STUDENT = "distill MODEL -q --batch-size 4 --steps 3 --width 0.5 --layers 1 -o out --texts"
GUESS = "-t 'Non-Memo, Gess, Recall'"

REFUSED = [  # a command, and what its line says: the file, flag or key, and what to do
    ("statu", "statu: no such verb.", "Did you mean 'status'?"),
    ("data", "data: say what", "data convert"),
    ("run -o mine --only trian", "no such stage", "Did you mean 'train'?"),
    ("gate out", "gate: of what?", "Write mnemoscope audit gate or items gate or forget gate"),
    ("gate WATCHED", "holds a watch. Judge it: mnemoscope watch ", " --fail-if 'recalled > 1%'"),
    ("audit gate outt --strict", "outt: no such folder."),
    *(
        (f"{verb} gate {holds} --fail-if 'x > 1%'", f"but {said}")
        for verb in ("audit", "items", "forget", "images")
        for holds, said in {
            "WATCHED": "a watch. Judge it: mnemoscope watch ",
            "STUDY": "a study, to which no condition is put. Audit its model: mnemoscope audit ",
        }.items()
    ),
    ("watch gate WATCHED --fail-if 'x > 1%'", "watched: holds a watch. Judge it: mnemoscope"),
    ("watch STUDY --fail-if 'x > 1%'", ": holds a study, to which no condition is put."),
    ("watch gate --fail-if 'x > 1%'", "watch: has no gate of its own"),
    ("audit gate WATCHED --fail_if 'x > 1%'", "--fail_if (Possible options: --fail-if). See"),
    *(
        (
            f"{verb} --fail-if 'recalled > 1%' --{flag} /proc/x.xml",
            f"--{flag} /proc/x.xml: nothing can be written into /proc (",
        )
        for verb in ("audit embedded texts -o out", "watch MODEL --sequences texts -o out")
        for flag in ("junit", "sarif")
    ),
    (
        "audit embedded texts -o out --fail-if 'recalled > 1%' --sarif no/x.sarif",
        "--sarif no/x.sarif: no such folder as ",
        "/no. Make it first.",
    ),
    ("items MODEL t.csv --refernce x -o out", "--refernce (Possible options: --reference). See"),
    ("data convert --sequences x", "No such option: --sequences. See"),
    ("watch WATCHED --redo", "watch: --sequences is missing"),
    ("watch MODEL --reference MODEL", "watch: --sequences is missing"),
    ("audit embedded none.txt --strict -o out", "none.txt: no such file"),
    ("items embedded none.csv --strict -o out", "none.csv: no such file"),
    ("watch MODEL --sequences none.txt --strict -o out", "none.txt: no such file"),
    ("watch MODEL --sequences texts --column text=x -o out", "only tables have", "Leave out"),
    ("watch MODEL --sequences amid --column text=x -o out", "b.jsonl", "--column text=x"),
    (
        "run --model MODEL --sequences amid --column text=x -o out",
        "amid: --column text=x: texts, and only tables have columns. Of a table among texts (b.",
        "/amid/b.jsonl. Or read its lines as they stand: --column 'text=*'.",
    ),
    ("zzz", "zzz: no such verb.", "See 'mnemoscope --help'."),
    ("run --modle x", "--modle", "--model"),
    ("run --batch-size many", "--batch-size", ". See 'mnemoscope run --help'."),
    ("train", "Missing argument", "mnemoscope train --help"),
    ("capture", "capture: name a study", "--sequences and -o"),
    ("run none.yaml", "none.yaml: no such file", "mnemoscope init none.yaml"),
    ("run pythia-12 --dry-run", "Did you mean 'pythia-12b'?", "hubble-1b"),
    ("init --from pythia-13b study.yaml", "Did you mean"),
    ("init none/study.yaml", "no such folder"),
    ("init YAML", "exists. Choose another name, or --force"),
    ("run YAML -o out --set train.sedes=[1]", "train.sedes: unknown key", "'seeds'"),
    ("run YAML -o out --set title.x=1", "'title' is a single setting", "title=VALUE"),
    ("run YAML -o out --set train.seeds", "needs KEY=VALUE", "--set train.preset=as_run"),
    ("run YAML -o out --set train.seeds=[1", "not valid YAML", "quotes"),
    ("run YAML -o out --dtype float12", "model.dtype: Input should be", "(got 'float12')"),
    (f"run YAML -o out {GUESS}", "unknown node 'Gess'", "'Guess'"),
    ("run YAML -o out -t catalog", "unknown taxonomy 'catalog'", "'catalogue'"),
    ("run YAML -o out -t none.yaml", "none.yaml", "no such file"),
    ("run YAML -o out --device cuda:99", "cuda:99"),
    ("run YAML -o ''", "an empty argument"),
    ("run YAML -o out --set sequences.source=\"''\"", "an empty text"),
    # what a run would refuse its dry run does
    *(
        (f"run YAML -q -o out {dry} --set {setting}", *said)
        for dry in ("", "--dry-run")
        for setting, *said in (
            ("train.kernels=[65]", "64 tokens are too short for a CNN with kernel 65"),
            ("train.kernels=[22]", "take 67 tokens or more, or a smaller kernel"),
            ("label.match=nonexistent", "no column 'nonexistent' to match by (label.match)"),
            ("train.poolings=[heads]", "capture.per_head"),
            ("features.corpus=/none/there", "features.corpus: /none/there: no such file or"),
            ("'title=!!binary aGFsbG8='", "a binary value"),
            ("'model={batch_size: 1, batch_size: 2}'", "the key 'batch_size' is given twice"),
        )
    ),
    # sequences; what else a table may be is refused in tests/data
    ("sequences '' --model MODEL -o out", "an empty argument"),
    ("sequences none.jsonl --model MODEL -q -o out", "none.jsonl: no such file"),
    ("sequences dangling.txt --model MODEL -q -o out", "dangling.txt", "no such file"),
    ("sequences empty.jsonl --model MODEL -q -o out", "empty.jsonl", "no line holds a row"),
    ("sequences latin.txt --model MODEL -q -o out", "latin.txt", "not a text in UTF-8"),
    (
        "sequences beyond.parquet --model MODEL -q -o out",
        f"row 2, token 63: id {VOCABULARY} is outside the vocabulary",
    ),
    (f"sequences {'x' * 300} --model MODEL -o out", "xxx: no such file or folder"),
    (f"sequences TABLE --model MODEL -q -o {'x' * 300}", "too long"),
    ("sequences TABLE --model MODEL -q -o link", "link: a link to what is not there"),
    (f"status {'x' * 300}", "too long"),
    ("status a\udcff", "not UTF-8"),
    # models; what else is no model is refused in tests/lm
    *(
        (f"{verb} TABLE --model {model} -q -o out", *said)
        for verb in ("run --sequences", "sequences")
        for model, *said in (
            ("none/at/all", "none/at/all", "no such model folder"),
            ("SHORT", "short: ", "has 48 positions, sequences of 64 tokens need 64"),
            ("TORN", "torn: its weights cannot be read"),
            ("SPOILT", "spoilt: ", "non-finite attention in layer 0"),
        )
    ),
    # a folder that is no study
    *((f"{verb} mine", "mine", "not a study") for verb in VERBS),
    *((f"{verb} none", "none: no such") for verb in (*VERBS, "status")),
    ("status mine", "mine", "neither a study"),
    *(
        (f"{verb} -q -o mine", "mine: exists and is not a study. Choose a new or empty folder")
        for verb in ("run YAML", "sequences TABLE", "capture --sequences TABLE", "demo")
    ),
    # a study made with other settings, by another model or of other sequences
    ("train STUDY -q --set train.seeds=[5]", "train.seeds: the study has [0, 1], you", "--redo"),
    ("run YAML -q -o STUDY --dry-run --set train.seeds=[5]", "train.seeds: the study has [0, 1]"),
    ("run YAML -q -o STUDY -t 'Non-Memo, Guess, Recall'", "label.taxonomies: the", "--redo"),
    ("continue STUDY -q --scan", "continue.scan: the study has False, you asked True", "--redo"),
    (f"label STUDY -q {GUESS}", "Did you mean 'Guess'?"),
    *(
        (f"{verb} -q {redo}", said, "Use another folder.")
        for redo in ("", "--redo")
        for verb, said in (
            ("continue STUDY --model REFERENCE", "you asked '"),
            ("run -o STUDY --model REFERENCE", "model.name: the study has"),
            ("capture STUDY --sequences YAML", "sequences.source: the study has"),
            ("run -o STUDY --set sequences.limit=8", "sequences.limit: the study has None"),
        )
    ),
    ("graft STUDY --part mlps", "needs I/N", "--set 'graft.parts=[mlp]'."),
    ("label SEQUENCES -q", "stage 'continue' has not been run. Run 'mnemoscope continue /"),
    ("train SEQUENCES -q", "stage 'label' has not been run. Run 'mnemoscope run -o /"),
    ("report SEQUENCES -q", "stage 'continue' has not been run. Run 'mnemoscope continue /"),
    # features and label of a table
    ("features forty.parquet", "a table needs -o"),
    ("label forty.parquet", "a table needs -o"),
    ("features forty.parquet -o out.csv", "must end in .parquet or .jsonl"),
    ("features forty.parquet -o no/out.jsonl", "no such folder"),
    ("features forty.parquet -o out.parquet --patterns strickt", "features.patterns"),
    ("features forty.parquet -o out.parquet --set features.corpus=x", "are for a study"),
    ("label forty.parquet -o out.parquet", "name a taxonomy with -t"),
    ("label forty.parquet -o out.parquet --drop-small-classes", "are for a study"),
    (f"label forty.parquet -o out.parquet {GUESS}", "Did you mean 'Guess'?"),
    ("label forty.parquet -o out.parquet -t 'Non-Memo, Guess, Recall'", "is_memorized"),
    ("features good.parquet -o mine.parquet", "there already"),
    ("label TABLE -t 'Non-Memo, Code, Others' -o STUDY/labels.parquet", "is a study and holds"),
    *(
        (f"features CONTINUED -q {flag}", flag.split()[0])
        for flag in ("--length 32", "--prefix 8", "--tokenizer embedded", "--compare-patterns")
    ),
    *((f"{verb} STUDY --column a=b", "--column is for a table") for verb in ("features", "label")),
    # duplicates: the corpus, the table, flags
    *(
        (f"{COUNT} out.parquet --sequences good.parquet --corpus {name}", said)
        for name, said in (
            ("none.bin", "none.bin: no such file or folder"),
            ("odd.bin", "odd.bin: 3 bytes are no whole number of uint16 token ids"),
            ("six.bin --dtype uint32", "6 bytes are no whole number of uint32"),
            ("text.txt", "--tokenizer"),
            ("texts", "--tokenizer"),
            ("text.parquet", "holds texts, which --tokenizer"),
            ("text.jsonl", "holds texts, which --tokenizer"),
            ("empty.bin", "no tokens in it"),
            ("blank.jsonl", "no tokens in it"),
            ("empty", "no tokens in it"),
            ("empty.npy", "empty, not a .npy array"),
            ("torn.npy", "not a whole .npy array"),
            ("torn.parquet", "not a whole Parquet file"),
            ("page.parquet", "page.parquet: not a whole Parquet file"),
            ("id.parquet", "no column 'tokens' or 'text'"),
            ("torn.jsonl", "torn.jsonl, line 4: not a JSON object with 'tokens'"),
            ("float.jsonl", "line 3: not a JSON object with 'tokens'"),
            ("list.jsonl", "line 1: not JSON"),
            ("large.jsonl", "does not fit 64 bits"),
            ("null.parquet", "a null among the tokens"),
            ("float.parquet", "List(Float64) where lists of integers"),
            ("mixed", "holds flat binaries (a.bin) beside other files"),
            ("good.bin --dtype uint61", "--dtype uint61: must be uint16, uint32 or int32"),
            ("good.bin --tokenizer none", "none"),
            ("good.bin --length 0", "--length 0: must be at least 1"),
        )
    ),
    *(
        (f"{COUNT} {out} --sequences good.parquet --corpus good.bin", said)
        for out, said in (
            ("out.csv", "must end in .parquet"),
            ("nowhere/out.parquet", "no such folder"),
        )
    ),
    (f"{COUNT} out.parquet --sequences none.parquet --corpus good.bin", "no such file"),
    (f"{COUNT} out.parquet --sequences text.parquet --corpus good.bin", "no column 'tokens'"),
    (
        f"{COUNT} out.parquet --sequences string.parquet --corpus good.bin",
        "'tokens': String where lists of integers",
    ),
    (
        f"{COUNT} out.parquet --sequences unequal.parquet --corpus good.bin",
        "row 1: 61 tokens where 64",
    ),
    (f"{COUNT} out.parquet --sequences norows.parquet --corpus good.bin", "no rows"),
    # analyze
    ("analyze", "--list"),
    ("analyze levels", "--list"),
    *(
        (f"analyze {verb}", said)
        for verb, said in (
            ("boundary STUDY --set tolerance=0.5", "less than 0.125"),
            ("dynamics STUDY --set threshold=.nan", "finite number"),
            ("psmi STUDY --set max_directions=700", "multiple of 500"),
            ("levels STUDY --second nowhere/at-all-that-is", "nowhere"),
            ("levels STUDY --second a --checkpoint b", "Give one of them"),
            ("levels STUDY --second OTHER", "uses a different tokenizer"),
            ("levels STUDY --checkpoint OTHER", "uses a different tokenizer"),
            ("boundary STUDY --corpus not-there", "not-there"),
            ("predict STUDY --second a", "--second: this analysis does not use it. Leave it out"),
            ("predict STUDY --checkpoint a", "--checkpoint: this analysis does not use it"),
            ("levels STUDY --corpus not-there", "--corpus: this analysis does not use it"),
            ("levels STUDY --student a", "--student: this analysis does not use it"),
            ("boundary STUDY --set minimum=1000", "1000 are needed"),
            ("predict STUDY --set minimum=1000", "1000 of each are needed"),
            ("dependencies STUDY --set minimum=1000", "1000 of each are needed"),
            ("predict STUDY --set taxonomy=Foo", "Foo"),
            ("all STUDY --set seed=3", "of one analysis"),
            ("distilled STUDY", "needs a student of the study's model, and a control"),
            ("distilled STUDY --student a", "give them: --student MODEL --control MODEL"),
        )
    ),
    # audit
    ("audit embedded -q -o out", "Missing argument 'documents"),
    ("audit embedded text.txt -q", "add -o DIR"),
    ("audit verify", "Missing argument 'folder"),
    ("audit rank embedded text.txt -q", "add -o DIR"),
    ("audit rank embedded text.txt -q -o out --profile", "No such option"),
    (f"audit embedded short.txt {ALONE}", "shorter than one window of 64 tokens"),
    (f"audit embedded short.txt empty.txt {ALONE}", "shorter than one window of 64 tokens"),
    (f"audit embedded - {ALONE}", "shorter than one window of 64 tokens"),
    ("audit UNTOKENIZED text.txt -q -o out", "tokenizer"),
    ("audit embedded content.jsonl -q -o out", "--column text=NAME; it has content"),
    # on the command line a document is a name, however long
    (f"audit embedded '{LONG}' -q -o out", "no such file or folder. Give a text as"),
    (f"{AUDIT} --fail-if 'recalled > 1%' --fail-if 'guesed > 5%'", "Did you mean 'guessed'"),
    *(
        (f"{command} --reference COPIED", "is the same model as")
        for command in (
            "run -o x --model MODEL --sequences TABLE",
            "run -o x --model MODEL --sequences TABLE --dry-run",
            "audit MODEL text.txt -q -o out",
            "audit MODEL text.txt -q -o out --dry-run",
        )
    ),
    ("run -o x --model MODEL --sequences TABLE --dry-run --reference MODEL", "is the same model"),
    ("watch MODEL --sequences text.txt --sequences texts -o out", "--sequences: given 2 times"),
    ("audit embedded text.txt -q -o text.txt", "cannot be made (a file is in its place)"),
    *(
        (f"{AUDIT} {flags}", said)
        for flags, said in (
            ("--fail-if recaled>1%", "Did you mean 'recalled'"),
            ("--threshold 1.5", "--threshold: Input should be"),
            ("--patterns loose", "--patterns: Input should be"),
            ("--encoding klingon", "no such encoding"),
            ("--chat-template", "no chat template"),
            ("--junit no/where/x.xml", "no such folder"),
            ("--junit /", "a folder. Name a file"),
            ("--junit out/audit.json", "a name for the result itself. Choose another, as gate.xml"),
            ("--fail-if recalled>1% --sarif out/audit.sarif", "Choose another, as gate.sarif"),
            ("--junit out/texts/0001.txt", "a name for the result itself"),
            ("--column txt=*", "--column txt=*: * stands for the lines of a file. Give 'text=*'."),
            ("--study auto --chat-template", "plain text"),
            ("--prefix 500", "positions"),
            ("--answer-tokens 9", "--answer-tokens: only with --ordinary"),
            ("--overlap 9", "--overlap: only with --ordinary"),
            ("--corpus-dtype uint16", "--corpus-dtype: only with --corpus"),
            ("--profile-prefix window", "--profile-prefix: only with --profile"),
            ("--instruction Go", "--instruction: only with --chat-template"),
            ("--reference RENAMED", "uses a different tokenizer"),
            ("--settings typo.yaml", "typo.yaml: --strides: unknown key. Did you mean 'stride'"),
            ("--settings gate.yaml", "gate.yaml: fail_if: no setting of an audit. Give --fail-if"),
            ("--settings list.yaml", "not settings"),
        )
    ),
    *(
        (f"{API} {url} embedded text.txt", said)
        for url, said in (
            ("ftp://a", "give a base address"),
            ("http://u:p4ss@a/v1", "only the base address"),
            ("http://a/v1?key=1", "only the base address"),
            ("http://u:p4ss@[a", "give a base address"),
            ("http://a --reference embedded", "No such option: --reference"),
            ("http://a --edits 2", "No such option: --edits"),
            ("http://a --top-k 40", "No such option: --top-k"),
            ("http://a --near-length 9", "--near-length: only with --chat"),
            ("http://a --instruction Go", "--instruction: only with --chat."),
            ("http://a --prompt-as tokens", "without --tokenizer"),
            ("http://a --concurrency 0", "--concurrency: Input should be"),
        )
    ),
    # what leaves the machine or is made for another harness
    ("export push LABEL name --dry-run", "OWNER/NAME"),
    ("export push LABEL ../x --dry-run", "OWNER/NAME"),
    ("run -o x --model MODEL --sequences TABLE --dry-run --engine 0", "choose local or ray"),
    ("train STUDY --storage file:///etc", "need --engine ray"),
    ("export push SEQUENCES o/n --dry-run", "label"),
    ("export push TABLE o/n --dry-run --with-documents", "not an audit"),
    ("export push TABLE o/n --dry-run -o mine", "new or empty"),
    ("export lm-eval-task TABLE -o out", "--tokenizer"),
    ("export lm-eval-task TABLE -t catalogue --tokenizer embedded -o out", "names 54"),
    ("export lm-eval-task TABLE --prefix 64 --tokenizer embedded -o out", "64 tokens"),
    ("export lm-eval-task TABLE --tokenizer embedded -o mine", "new or empty folder"),
    # distill
    ("distill none/at/all --texts good.parquet -o out", "none/at/all"),
    ("distill MODEL -q --texts good.parquet -o mine", "already there. Choose another folder with"),
    *(
        (f"{STUDENT} {flags}", said)
        for flags, said in (
            ("good.parquet --student OTHER", "uses a different tokenizer than"),
            ("good.parquet --losses attention", "none of them trains what the student says"),
            ("empty", "empty"),
            ("short.txt", "no text of 64 tokens"),
            ("good.parquet --exclude good.parquet", "all 3 windows of the texts share 24 tokens"),
            ("good.parquet --exclude good.parquet --shared 65", "--shared 65: must be 1 to 64"),
            ("good.parquet --exclude nowhere", "nowhere"),
            ("good.parquet --length 200", "has 80 positions"),
            ("good.parquet --match evn", "Did you mean 'even'"),
            ("good.parquet --learning-rate 0", "--learning-rate 0: must be above 0"),
            ("good.parquet --epochs nan", "--epochs nan: must be above 0"),
        )
    ),
]


def put(path: Path, content: dict | bytes) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix:
        pl.DataFrame(content).write_parquet(path)
    else:
        path.mkdir()
        for name, data in content.items():
            (path / name).write_bytes(data)


@pytest.fixture(scope="module")
def places(tiny, tiny_studies, tmp_path_factory):
    """What the commands name, in capitals or by a file's name; nothing in it changes."""
    folder = tmp_path_factory.mktemp("places")
    for name, given in FILES.items():
        put(folder / name, given)
    for name in ("dangling.txt", "link"):
        (folder / name).symlink_to(folder / "nothing")
    tokens = np.random.default_rng(0).integers(0, 9, (999, 99))
    pl.DataFrame({"tokens": tokens}).write_parquet(folder / "page.parquet")
    data = bytearray((folder / "page.parquet").read_bytes())
    data[4:200] = b"\xff" * 196  # the first page's header; the footer, and so the columns, stand
    (folder / "page.parquet").write_bytes(data)
    places = {name.upper(): path for name, path in tiny_studies.items()}
    places |= {"STUDY": tiny_studies["report"], "CONTINUED": tiny_studies["continue"]}
    places |= {"MODEL": tiny.model, "REFERENCE": tiny.reference, "TABLE": tiny.table}
    places["WATCHED"] = folder / "watched"
    places["COPIED"] = Path(shutil.copytree(tiny.model, folder / "copied"))
    places |= {"YAML": tiny.yaml} | models_in(folder) | {one.name: one for one in folder.iterdir()}
    before = {one: content(one) for one in (folder, places["STUDY"], tiny_studies["sequences"])}
    yield places
    for one, files in before.items():
        changed = [name for name, _ in files.items() ^ content(one).items()]
        assert [name for name in changed if "analysis/kept" not in name] == []


def models_in(folder: Path) -> dict[str, Path]:
    made = {"SHORT": save_model(folder / "short", max_position_embeddings=48)}
    made |= {name: save_model(folder / name.lower()) for name in ("TORN", "SPOILT", "OTHER")}
    weights = made["TORN"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    weights = made["SPOILT"] / "model.safetensors"
    tensors = load_file(weights)
    tensors["gpt_neox.layers.0.attention.query_key_value.weight"][5, 5] = float("inf")
    save_file(tensors, weights, metadata={"format": "pt"})
    for name, own in {"UNTOKENIZED": model_path(), "RENAMED": model_path()}.items():
        made[name] = Path(shutil.copytree(own, folder / name.lower()))
    (made["UNTOKENIZED"] / "tokenizer.json").unlink()
    for name in ("OTHER", "RENAMED"):  # two tokens exchanged
        path = made[name] / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        vocabulary = tokenizer["model"]["vocab"]
        first, second = list(vocabulary)[300:302]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
        path.write_text(json.dumps(tokenizer))
    return made


@pytest.mark.parametrize("row", REFUSED, ids=[row[0][:60] for row in REFUSED])
def test_bad_input_is_refused_in_one_line(row, places, tmp_path, refused, monkeypatch):
    command, *said = row
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Too short.")))
    parts = [word.partition("/") for word in shlex.split(command)]
    words = [f"{places.get(first, first)}{slash}{rest}" for first, slash, rest in parts]
    line = refused(*words)
    for one in said:
        assert one in line
    assert "p4ss" not in line
    assert list(tmp_path.iterdir()) == []


# -- a study is damaged, a disk is full ----------------------------------------------------------


@pytest.fixture
def out(tmp_path) -> Path:
    """Where the output would go: a place of its own, to see that nothing is left in it."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "study"


@pytest.fixture
def study(study_at) -> Path:
    return study_at("report")


def left_in(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


def test_attention_that_is_not_finite_on_the_way_keeps_no_map_of_it(
    tiny, study, refused, monkeypatch
):
    from mnemoscope.lm.attention import HeadPool

    def spoil(self, weights, add=HeadPool.add):
        add(self, weights * float("nan") if self._n_pooled == 1 else weights)

    Study(study).forget("capture")
    shutil.rmtree(study / "maps")
    monkeypatch.setattr(HeadPool, "add", spoil)
    assert "non-finite attention in layer 1" in refused("capture", study, "-q")
    assert not (study / "maps").exists()
    assert not Study(study).is_done("capture")


def test_a_finished_study_has_nothing_to_do_and_redo_takes_another_setting(study, call, succeed):
    before = content(study)
    assert "no CNN can be trained" in call("run", "-o", study).out  # the summary alone
    assert content(study) == before
    redo = ["--set", "benchmark.n_resamples=101", "--redo", "-q"]
    succeed("benchmark", study, *redo)
    assert Study(study).settings.benchmark.n_resamples == 101


def test_an_impossible_taxonomy_is_said_and_the_others_go_on(study_at, tiny_studies, call, succeed):
    folder = study_at("features")
    result = call("label", folder)
    said = "Non-Memo, Guess, Recall: no CNN can be trained. 12 sequences of every class are needed"
    assert result.status == 0
    assert said in result.err
    entry = samples_of(Study(folder))[SampleKey("Non-Memo, Guess, Recall")]
    assert entry.counts == {"Non-Memo": 80, "Guess": 0, "Recall": 160}
    assert "--drop-small-classes" in entry.impossible
    whole = Study(tiny_studies["report"])
    found = whole.read("benchmark.parquet")
    assert found["taxonomy"].unique().to_list() == ["Non-Memo, Recite[5], Recollect"]
    assert "impossible" in (whole.folder / "report.html").read_text().lower()
    succeed("label", folder, "--drop-small-classes", "--redo", "-q")
    entry = samples_of(Study(folder))[SampleKey("Non-Memo, Guess, Recall")]
    assert (entry.trained_classes, entry.dropped) == (["Non-Memo", "Recall"], ["Guess"])
    assert "Guess 0 (left out), Recall 160, Non-Memo 80;" in succeed("status", folder).out


DEEP = "[" * 5000 + "]" * 5000
RECORDS = ["[]", '"done"', DEEP, "", "{}", '{"key": 1}', "{"]


def test_a_damaged_manifest_is_named_by_every_verb_and_may_be_deleted(study, refused, succeed):
    path = study / "manifests" / "benchmark.json"
    for text in RECORDS:
        path.write_text(text)
        for verb in ("status", "report", "benchmark") if text == "{" else ("status",):
            line = refused(verb, study)
            assert f"{path}: damaged" in line
            assert f"delete it and run 'mnemoscope benchmark {study}'" in line
    path.unlink()
    succeed("benchmark", study, "-q")
    assert Study(study).is_done("benchmark")


def test_files_of_a_stage_that_is_to_be_run_again_are_told_with_its_verb(study, call, succeed):
    succeed("label", study, "--redo", "-q")  # what follows is to be made again
    found = call("status", study, "--verify")
    assert found.status == 3
    missed = [one for one in (found.out + found.err).splitlines() if ": missing." in one]
    told = {line.rpartition("run 'mnemoscope ")[2].split()[0]: line for line in missed}
    assert {"train", "benchmark"} <= told.keys() <= {stage.name for stage in STAGES}
    for verb, line in told.items():
        assert f"{study}/manifests/{verb}.json: missing." in line


KEPT = [f"manifests/{stage.name}" for stage in STAGES if stage.name != "sequences"]
KEPT += ["decoded", "label_check", "cnn", "cnn/statistics", "graft", "knockout", "units/capture"]
KEPT += ["search/measures", "analysis/length/result", "analysis/kept/logprobs"]


def test_a_message_about_what_is_kept_names_a_command_that_there_is(study, succeed):
    store = Study(study).store
    for name in KEPT:
        said = str(store.missing(store.record_path(name), name))
        command = said.partition("run 'mnemoscope ")[2].partition("'")[0].split()
        if name == "analysis/kept/logprobs":  # of any analysis
            assert not command
            continue
        shown = succeed(command[0], "--help")
        assert all(one in shown.out for one in command if one.startswith("-")), said
        assert str(study) in command


def test_a_table_that_is_damaged_or_gone_stops_what_reads_it_until_it_is_made_again(
    study, refused, call, succeed
):
    path = study / "predictions.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    Study(study).forget("benchmark")
    before = content(study)
    assert f"{path}: damaged" in refused("benchmark", study, "-q")
    assert call("status", study, "--verify").status == 3
    assert content(study) == before
    path.unlink()
    assert "stage 'train' lacks files" in refused("benchmark", study, "-q")
    for verb in ("train", "benchmark"):
        succeed(verb, study, "-q")
    assert path.read_bytes() == whole


LOST = {
    "cnn/*.outcome.safetensors": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "cnn/*.json": Path.unlink,
    "maps/model/*.safetensors": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "maps/reference/*.safetensors": Path.unlink,
}


@pytest.mark.whole
@pytest.mark.parametrize("is_told", [False, True])
def test_what_is_lost_in_folders_of_results_is_made_again_by_a_run_or_as_told(
    study, is_told, call, succeed
):
    before, lost = content(study), []
    for place, (pattern, lose) in enumerate(LOST.items()):
        lost.append(sorted(study.glob(pattern))[place])
        lose(lost[-1])
    if is_told:
        said = call("status", study, "--verify")
        lines = [one for one in said.out.splitlines() if " run 'mnemoscope " in one]
        told = {line.rpartition("run 'mnemoscope ")[2].partition("'")[0] for line in lines}
        assert told == {f"train {study}", f"capture {study}"}
        for command in sorted(told):
            succeed(*command.split(), "-q")
    else:
        said = call("run", "-o", study)
        assert all(one.name.partition(".")[0] in said.err for one in lost)
    assert content(study) == before
    assert "Every file is as it was written" in succeed("status", study, "--verify").out


def test_odd_records_of_a_study_are_named_and_foreign_lines_passed_over(study, refused, call):
    told = Study(study).seconds()
    foreign = ["3", "[]", '{"stage": []}', '{"stage": "label", "seconds": "x"}', DEEP, "\x00"]
    with (study / "log.jsonl").open("a") as log:
        log.write("\n".join(foreign))
    assert Study(study).seconds() == told
    manifests = study / "manifests"
    manifests.rename(study / "elsewhere too")
    manifests.touch()
    assert f"{manifests}" in refused("status", study)


def test_what_another_job_made_is_not_taken_for_ones_own(study, refused, call):
    outcomes = sorted((study / "cnn").glob("*.outcome.safetensors"))
    Study(study).forget("train")
    own = outcomes[0].read_bytes()
    outcomes[0].write_bytes(outcomes[1].read_bytes())
    done = call("train", study)
    assert (
        f"{outcomes[0].name.split('.')[0]}: damaged (outcome.safetensors: its content has"
        in done.err
    )
    assert outcomes[0].read_bytes() == own
    Study(study).forget("train")
    reference = study / "maps" / "reference"
    shutil.rmtree(reference)
    shutil.copytree(study / "maps" / "model", reference)
    for words in (["train", study, "-q"], ["status", study]):
        assert f"{reference}: out of date (maps of other weights" in refused(*words)


def test_a_text_whose_name_is_not_utf8_is_read_under_an_escaped_name(tiny, tmp_path, out, succeed):
    source = tmp_path / "source"
    source.mkdir()
    try:
        (source / "caf\udce9.txt").write_text(LONG)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    succeed("sequences", source, "--model", tiny.model, "-o", out, "-q")
    assert Study(out).sequences["document"].unique().to_list() == ["caf\\udce9.txt"]


def test_a_full_disk_leaves_no_study_and_is_said_of_a_log_too(
    tiny, out, study_at, refused, monkeypatch
):
    asked = ("sequences", tiny.table, "--model", tiny.model, "-o", out, "-q")
    for number, words in ((errno.ENOSPC, "the disk is full"), (errno.EFBIG, "no file this large")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", Mock(side_effect=OSError(number, "", "here")))
            assert words in refused(*asked)
        assert left_in(out) == []
    folder = study_at("continue")

    def fill(path, *arguments, **options):
        if str(path).endswith("log.jsonl"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return open(path, *arguments, **options)

    monkeypatch.setattr("mnemoscope.study.folder.open", fill, raising=False)
    assert f"{folder}: the disk is full" in refused("features", folder, "-q")


def test_a_table_of_ours_may_be_written_over_and_one_of_the_users_not(tmp_path, succeed, refused):
    table, own = tmp_path / "table.parquet", tmp_path / "own.parquet"
    label = ("-t", "Non-Memo, Guess, Recall", "-o")
    pl.DataFrame(SEQUENCES | {"is_memorized": [False] * 3}).write_parquet(table)
    succeed("features", table, "-o", own)
    succeed("label", own, *label, own)
    succeed("features", table, "-o", own.with_suffix(".jsonl"))
    line = refused("label", own, *label, own.with_suffix(".jsonl"))
    assert "there already" in line  # ours, which a .jsonl cannot say
