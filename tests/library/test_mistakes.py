"""Mistakes in Python are met as on the command line: one line that says what to do."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import mnemoscope as ms

Case = Callable[[SimpleNamespace], object]
CASES: dict[str, tuple[Case, str]] = {
    "a number as model": (lambda h: ms.scan(7, h.windows), "an int; give a folder"),
    "no such model": (lambda h: ms.scan("no/such/model/here", h.windows), "no/such/model/here"),
    "a model without head": (lambda h: ms.scan(h.headless, h.windows), "AutoModelForCausalLM"),
    "a module": (lambda h: ms.scan(torch.nn.Linear(2, 2), h.windows), "a Linear; give a folder"),
    "a number as tokenizer": (lambda h: ms.windows(["a b"], 3), "tokenizer: an int"),
    "no such text": (lambda h: ms.windows("nowhere", h.tokenizer), "is no file, folder or data"),
    "a number as texts": (lambda h: ms.windows(3, h.tokenizer), "a int: no sequences"),
    "a list of numbers": (lambda h: ms.windows([1, 2], h.tokenizer), "texts, number 0: an int"),
    "paths in a list": (
        lambda h: ms.windows([h.path, "a b"], h.tokenizer), "the folder that holds them all"),
    "a study without a folder": (lambda h: ms.run(h.path, "texts"), "'my-study'"),
    "no texts": (lambda h: ms.windows([], h.tokenizer), "texts: none given"),
    "a list of texts too short": (
        lambda h: ms.scan(h.path, ["a b", "c"]), r"^texts \(text 0, text 1\): no text of 64"),
    "texts too short": (lambda h: ms.windows(["a b c"], h.tokenizer), "no text of 64 tokens"),
    "no prefix": (lambda h: ms.windows(["a b"], h.tokenizer, prefix=0), "prefix 0"),
    "other ids": (
        lambda h: ms.scan(h.model, h.windows.drop("text").with_columns(
            pl.col("tokens").list.eval(pl.element() + 400))), "outside the vocabulary"),
    "windows of another tokenizer": (
        lambda h: ms.scan(h.path, h.windows.with_columns(text=pl.lit("other"))),
        "another text to the tokenizer"),
    "windows with another token before": (
        lambda h: ms.scan(h.path, h.windows.with_columns(bos_id=pl.lit(5))), "puts token 5 before"),
    "two kinds of windows": (
        lambda h: ms.scan(h.model, pl.concat([h.windows, h.windows.with_columns(
            pl.col("sequence_id") + 1000, n_prefix=pl.lit(8, pl.Int32))])), "one holds for all"),
    "longer than the model": (
        lambda h: ms.scan(h.model, np.ones((2, 99), dtype=np.int64), tokenizer=h.tokenizer),
        "has 80 positions"),
    "fractions as tokens": (lambda h: ms.scan(h.model, np.ones((2, 9))), "token ids of shape"),
    "a table without tokens": (
        lambda h: ms.capture(h.model, pl.DataFrame({"tokns": [1]})), "text' nor 'tokens|no column"),
    "the whole window as prefix": (
        lambda h: ms.scan(h.model, h.windows, prefix=24), "have 1 to 23 of them"),
    "a batch of none": (lambda h: ms.scan(h.model, h.windows, batch_size=0), "batch_size 0"),
    "classes of what was not scanned": (
        lambda h: ms.classify(h.windows, "Non-Memo, Guess, Recall"), "ms.scan"),
    "an unknown taxonomy": (lambda h: ms.classify(h.scanned, "Non-Memo, Gues, Recall"), "Guess"),
    "no taxonomy": (lambda h: ms.classify(h.scanned, []), "none given"),
    "a number as taxonomy": (lambda h: ms.classify(h.scanned, [3]), "taxonomy: an int"),
    "duplicates that nobody counted": (
        lambda h: ms.classify(h.scanned, "Non-Memo, Recite[5], Others"), "Give corpus="),
    "an unknown pool": (lambda h: ms.capture(h.model, h.windows, pool="men"), "mean"),
    "an unknown suffix": (lambda h: ms.capture(h.model, h.windows, suffix="no"), "'true' or 'own'"),
    "an array as maps": (lambda h: ms.fit(np.ones((2, 2)), ["a", "b"]), "maps: a ndarray"),
    "labels of another length": (lambda h: ms.fit(h.maps, ["a", "b"]), "labels: 2 for"),
    "groups of another length": (
        lambda h: ms.fit(h.maps, h.labels, groups=[1]), "groups: 1 for"),
    "one class": (lambda h: ms.fit(h.maps, ["a"] * len(h.maps)), "1 class \\(a\\)"),
    "too few windows": (lambda h: ms.fit(h.maps, h.labels), "Give more windows"),
    "an unknown side": (
        lambda h: ms.fit(h.maps, h.labels, split=["test"] * len(h.maps)), "split 'test'"),
    "nobody to ask": (
        lambda h: ms.fit(h.maps, h.labels, split=["train"] * len(h.maps)), "no eval window"),
    "an unknown preset": (
        lambda h: ms.fit(h.maps, h.labels, minimum=6, kernel=2, preset="smal"), "small"),
    "maps too small for the kernel": (
        lambda h: ms.fit(h.maps, h.labels, minimum=6, kernel=12), "kernel 12"),
    "an unknown device": (
        lambda h: ms.fit(h.maps, h.labels, minimum=6, kernel=2, device="gpu"), "gpu"),
    "maps of another pool": (lambda h: h.reader.predict(h.maps.pooled("max")), "fitted on 'mean'"),
    "maps for a reader of text": (
        lambda h: ms.fit_blind(h.maps, h.labels, groups=h.windows["group"], minimum=6, kernel=2,
                               preset="as_run").predict(h.maps), "text alone"),
    "a control of other sides": (
        lambda h: ms.excess({"model": h.reader, "blind": ms.fit_blind(
            h.maps, h.labels, kind="ngrams", groups=h.windows["group"], minimum=6, draw_seed=3)}),
        "other windows, classes, groups or sides"),
    "a model that did not train": (
        lambda h: ms.excess({"model": h.reader, "blind": ms.fit_blind(
            h.maps, h.labels, kind="ngrams", groups=h.windows["group"], minimum=6)}),
        "mean nothing"),
    "a fraction as seed": (lambda h: ms.fit(h.maps, h.labels, seed=0.5), "seed 0.5"),
    "one seed twice": (lambda h: ms.fit(h.maps, h.labels, seed=(1, 1)), "several that differ"),
    "no filters": (lambda h: ms.fit(h.maps, h.labels, filters=0), "filters 0"),
    "a text as size": (lambda h: ms.fit(h.maps, h.labels, n_train="x"), "n_train 'x'"),
    "rows that there are not": (lambda h: h.maps.take([10_000]), "no such rows"),
    "a taxonomy twice": (
        lambda h: ms.classify(h.scanned, ["Non-Memo, Guess, Recall"] * 2), "named twice"),
    "a number as folder": (lambda h: ms.capture(h.model, h.windows, out=5), "out: an int"),
    "a number as text of a document": (lambda h: ms.audit(h.path, {"a": 5}), "'a': an int"),
    "a loaded model and no folder": (lambda h: ms.run(h.model, "x.txt"), "'my-study'"),
    "a stage that there is not": (
        lambda h: ms.run(h.path, h.windows, "x", until="sequnces"), "no stage 'sequnces'"),
    "another prefix than the windows": (
        lambda h: ms.run(h.path, h.windows, "x", settings={"sequences.prefix": 9}), "have 12"),
    "settings by place": (lambda h: ms.StudySettings(7), "by name"),
    "no windows": (lambda h: ms.capture(h.model, h.windows.head(0)), "windows: none"),
    "maps of other windows": (
        lambda h: h.reader.decisiveness(h.maps.take([0])), "is not among them"),
    "no control": (lambda h: ms.excess({"model": h.reader}), "at least one control"),
    "attention as text": (
        lambda h: ms.excess({"model": h.reader, "blind": h.reader}), "ms.fit_blind"),
    "maps of other windows in a folder": (
        lambda h: (ms.capture(h.path, h.windows, out=h.folder),
                   ms.capture(h.path, h.windows[:4], out=h.folder)), "made otherwise"),
    "settings of no kind": (lambda h: ms.run(7, "x"), "settings: an int"),
    "a model without texts": (lambda h: ms.run("gpt2"), "give a model, texts and a folder"),
    "a study file that there is not": (lambda h: ms.run("mine.yaml", "x"), "no such file"),
    "an unknown setting": (lambda h: ms.run({"labl": 1}, "x"), "Did you mean 'label'"),
    "a section as a text": (lambda h: ms.StudySettings(model="gpt2"), "a section of settings"),
    "documents of no kind": (lambda h: ms.audit(h.path, 3), "documents: an int"),
    "no study": (lambda h: ms.Study("nowhere"), "no such folder"),
    "a function as settings": (
        lambda h: ms.run(h.path, h.windows, "x", settings=lambda one: one), "settings: a function"),
    "an unknown taxonomy in a run": (
        lambda h: ms.run("no/such/model", h.windows, "x", taxonomies="Non-Memo, Gues, Recall"),
        "Did you mean 'Guess'"),
    "a kernel too large for a run": (
        lambda h: ms.run("no/such/model", h.windows, "x", settings={"train.kernels": [12]}),
        "kernel 12"),
    "classes of other windows": (
        lambda h: ms.fit(h.maps, pl.DataFrame({"sequence_id": [9999], "class": ["a"]})),
        "of other windows"),
    "a table without classes": (
        lambda h: ms.fit(h.maps, h.windows), "one with sequence_id and class"),
    "a window with two classes": (
        lambda h: ms.fit(h.maps, pl.DataFrame({"sequence_id": [1, 1], "class": ["a", "b"]})),
        "names a sequence_id twice"),
    "an argument that there is not": (
        lambda h: ms.fit(h.maps, h.labels, kernal=3), "Did you mean 'kernel'"),
    "a reader that was not kept": (lambda h: ms.Reader.load("nowhere"), "reader.json: missing"),
    "another prefix than was scanned": (
        lambda h: ms.classify(h.scanned, "Non-Memo, Guess, Recall", prefix=8), "scanned with 12"),
    "a control that read other tokens": (
        lambda h: ms.excess({"model": h.reader, "blind": ms.fit_blind(
            h.windows.with_columns(pl.col("tokens").list.reverse()), h.labels, kind="ngrams",
            minimum=6)}), "other tokens"),
    "two indices of maps": (lambda h: h.maps[0, 1], "one index, of windows"),
    "maps of no window": (lambda h: h.reader.predict(h.maps.take([])), "of no window"),
    "several presets": (
        lambda h: ms.fit(h.maps, h.labels, minimum=6, kernel=2, preset=["paper"]), "give small"),
    "a number as folder of a reader": (lambda h: h.reader.save(5), "folder: an int"),
    "a file above the folder": (
        lambda h: h.reader.save(h.path / "config.json" / "x"), "cannot be made"),
    "a reader to be read from a number": (lambda h: ms.Reader.load(5), "folder: an int"),
    "a text as progress": (
        lambda h: ms.scan(h.model, h.windows, progress="x"), "give True, False or None"),
    "a model without its weights": (
        lambda h: ms.scan(h.hollow, h.windows), "on the device meta"),
    "a number as corpus": (
        lambda h: ms.classify(h.scanned, "Non-Memo, Recite[5], Others", corpus=3),
        "corpus: an int"),
    "texts as corpus": (
        lambda h: ms.classify(h.scanned, "Non-Memo, Recite[5], Others", corpus=["a b"]),
        "corpus, number 0: a str"),
    "a number as part": (
        lambda h: ms.grafted(h.model, h.model, 3).__enter__(), "parts: an int"),
    "parts of a number": (lambda h: ms.graft_parts(3), "model: an int"),
    "no text among documents": (
        lambda h: ms.audit(h.path, ["a\nb", None]), "number 1: a NoneType"),
    "a path among texts": (
        lambda h: ms.audit(h.path, ["a\nb", h.path / "config.json"]), "number 1: the path"),
    "no documents": (lambda h: ms.audit(h.path, []), "documents: none given"),
    "documents without texts": (
        lambda h: ms.audit(h.path, pl.DataFrame({"txt": ["a"]})), "without a column text"),
    "a number as encoding": (
        lambda h: ms.audit(h.path, h.path / "config.json", encoding=3), "encoding: an int"),
    "a number as study of an analysis": (lambda h: ms.analyze(3, "length"), "study: an int; give"),
    "a number as study of a figure": (lambda h: ms.benchmark_figure(3), "study: an int"),
    "a folder that holds none": (lambda h: ms.run_stage(h.path, "train"), "no study"),
    "a number as study": (lambda h: ms.Study(3), "study: an int"),
    "a number as settings file": (lambda h: ms.load_settings(3), "settings: an int"),
    "a number as history": (lambda h: ms.read_history(3), "folder: an int"),
    "a number as folder of a run": (lambda h: ms.run(h.path, h.windows, 3), "folder: an int"),
    "a number as taxonomy of a run": (
        lambda h: ms.run(h.path, h.windows, "x", taxonomies=3), "taxonomies"),
    "a number as stage": (lambda h: ms.run(h.path, h.windows, "x", until=3), "no stage '3'"),
    "a device that there is not": (
        lambda h: ms.fit(h.maps, h.labels, minimum=6, kernel=2, device="mps"), "Use device cpu"),
}  # fmt: skip


@pytest.fixture(scope="module")
def here(tiny, tmp_path_factory) -> SimpleNamespace:
    """What the cases are made of."""
    from transformers import AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    text = "def add(a, b):\n    return a + b\n" * 40
    windows = ms.windows(text, tokenizer, prefix=12, suffix=12, stride=9)
    windows = windows.with_columns(group=pl.col("sequence_id").cast(pl.String))
    maps, labels = ms.capture(model, windows), ["a", "b"] * (windows.height // 2)
    labels += ["a"] * (windows.height - len(labels))
    given = {"groups": windows["group"], "minimum": 6, "kernel": 2, "preset": "as_run"}
    config = AutoConfig.from_pretrained(tiny.model)
    return SimpleNamespace(
        path=tiny.model,
        model=model,
        headless=AutoModel.from_config(config),
        hollow=AutoModelForCausalLM.from_config(config).to("meta"),
        tokenizer=tokenizer,
        windows=windows,
        scanned=ms.scan(model, windows),
        maps=maps,
        labels=labels,
        reader=ms.fit(maps, labels, **given),
        folder=tmp_path_factory.mktemp("maps"),
    )


@pytest.mark.parametrize("name", CASES)
def test_one_line_says_what_is_wrong(name, here, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    case, said = CASES[name]
    with pytest.raises(ms.MnemoscopeError, match=said) as raised:
        case(here)
    assert len(str(raised.value).splitlines()) == 1
    assert " --" not in str(raised.value)  # nobody types flags here
    assert not any(tmp_path.iterdir())  # nothing is left behind


def test_a_wrong_value_is_refused_where_it_is_set() -> None:
    settings = ms.StudySettings()
    for name, value in (("n_train", -1), ("taxonomies", "x"), ("n_trian", 1)):
        with pytest.raises(ms.UserError, match=f"label.{name}"):
            setattr(settings.label, name, value)
    with pytest.raises(ms.UserError, match=r"label\.taxonomies|Did you mean 'Guess'"):
        settings.label.taxonomies = ["Non-Memo, Gues, Recall"]
    with pytest.raises(ms.UserError, match="Did you mean 'Guess'"):
        ms.StudySettings(label={"taxonomies": ["Non-Memo, Gues, Recall"]})
    with pytest.raises(ms.UserError, match="suffix"):
        settings.sequences.suffix = 0
    assert settings == ms.StudySettings()


def test_prefix_and_suffix_are_set_one_after_another() -> None:
    sequences = ms.StudySettings().sequences
    for prefix, suffix in ((40, 40), (100, 100), (16, 48), (32, 500)):
        sequences.prefix = prefix
        sequences.suffix = suffix
        assert (sequences.n_prefix, sequences.length) == (prefix, prefix + suffix)
    given = ms.StudySettings(sequences={"prefix": 16, "suffix": 48, "length": 64}).sequences
    given.suffix = 16
    given.prefix = 8
    assert given.length == 24
    with pytest.raises(ms.UserError, match="length 32 has no room"):
        ms.StudySettings(sequences={"length": 32, "prefix": 40})
