"""Measure the audit on the embedded model, whose truth is known: finds, alarms, speed, profile.

python -m experiments.audits.finds [--documents 6] [--only finds]
python -m experiments.audits.finds --documents 3 --write FOLDER   # planted documents and new text
"""

import argparse
import difflib
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.audits.documents import Document, read_documents
from mnemoscope.audits.local import Continued, continue_windows, local_audit
from mnemoscope.audits.profile import TRIES, profile_documents, summarize_profile
from mnemoscope.audits.questions import ProfileSettings, audit_settings
from mnemoscope.audits.records import AuditRecord
from mnemoscope.audits.rule import GUESS, RECALL, UNDECIDED
from mnemoscope.audits.run import make_audit
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.spans import coarse_starts
from mnemoscope.audits.tokens import ModelTokens, character_range, cut_texts, tokenize
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.lm.continue_ import Continuations, continue_sequences, scan_memorized
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel
from mnemoscope.stats import Estimate, clopper_pearson, resampled_ratio

Planted = tuple[str, list[tuple[str, int, int]]]
"""A document's text, and of each passage in it the kind, first character and end."""

SUBJECTS = [
    "the lamp",
    "a ferry",
    "Ottilie",
    "the twelfth heron",
    "our baker",
    "a quiet clerk",
    "the harbour",
]
VERBS = ["crossed", "painted", "forgot", "measured", "borrowed", "returned", "counted", "envied"]
OBJECTS = [
    "the copper bridge",
    "seven onions",
    "a velvet map",
    "the moss",
    "winter",
    "two ladders",
    "a letter",
]
PLACES = [
    "before supper",
    "in Marrow lane",
    "twice",
    "under the hill",
    "without a word",
    "at low tide",
]


def write_new(generator: random.Random, n_sentences: int) -> str:
    """Text of a grammar that no model has seen."""
    parts = (SUBJECTS, VERBS, OBJECTS, PLACES)
    sentences = (" ".join(generator.choice(part) for part in parts) for _ in range(n_sentences))
    return " ".join(f"{one[0].upper()}{one[1:]}." for one in sentences)


def planted_documents(sequences: pl.DataFrame, n_documents: int, seed: int = 0) -> list[Planted]:
    """Texts of trained, held-out and template passages between new ones; kind and place of each."""
    generator = random.Random(seed)
    is_text = pl.col("form") == "plain"
    kinds = {
        "trained": sequences.filter((pl.col("duplicates") > 5) & is_text),
        "template": sequences.filter(pl.col("held_out") & (pl.col("genre") == "template")),
        "held out": sequences.filter(pl.col("held_out") & is_text),
    }
    texts = {
        k: one.sample(4 * n_documents, seed=seed)["text"].to_list() for k, one in kinds.items()
    }
    documents = []
    for number in range(n_documents):
        rows = slice(4 * number, 4 * number + 4)
        passages = [(kind, one) for kind, some in texts.items() for one in some[rows]]
        generator.shuffle(passages)
        text, places = "", list[tuple[str, int, int]]()
        for kind, passage in passages:
            text += f"{write_new(generator, generator.randint(3, 7))}\n"
            places.append((kind, len(text), len(text) + len(passage)))
            text += f"{passage}\n"
        documents.append((text + write_new(generator, 5), places))
    return documents


def inside(ranges: Iterable[tuple[int, int]]) -> set[int]:
    """Characters of ranges."""
    return {place for start, end in ranges for place in range(start, end)}


def trained_of(places: Iterable[tuple[str, int, int]]) -> set[int]:
    """Characters of trained passages."""
    return inside((start, end) for kind, start, end in places if kind == "trained")


def write_texts(folder: Path, texts: Iterable[str]) -> list[str]:
    """Write texts as files of a folder; their names in order."""
    folder.mkdir(exist_ok=True)
    names = []
    for number, text in enumerate(texts):
        names.append(str(folder / f"{number:03d}.txt"))
        Path(names[-1]).write_bytes(text.encode("utf-8"))
    return names


def audit_texts(
    lm: LanguageModel, reference: LanguageModel, texts: list[str], settings: AuditSettings
) -> tuple[AuditRecord, pl.DataFrame, list[str]]:
    """Audit texts; the record, the table of spans and the names of the texts."""
    with tempfile.TemporaryDirectory() as folder:
        names = write_texts(Path(folder), texts)
        reading = read_documents(names)
        audit = local_audit(lm, reading.documents, settings, reference=reference)
        record = make_audit(audit, reading, Path(folder, "out"))
        return record, pl.read_parquet(Path(folder, "out", "spans.parquet")), names


def reproduced(lm: LanguageModel, text: str) -> set[int]:
    """Characters that the model reproduces: 32 tokens after 32, at every start."""
    tokens = tokenize(text, lm.tokenizer)
    windows = np.stack([tokens.ids[one : one + 64] for one in range(len(tokens.ids) - 63)])
    is_hit = np.concatenate(
        [one.is_memorized for one in scan_memorized(lm, windows, batch_size=128)]
    )
    starts = np.flatnonzero(is_hit).tolist()
    return inside(character_range(tokens, one + 32, one + 64) for one in starts)


def measure_finds(
    lm: LanguageModel, reference: LanguageModel, sequences: pl.DataFrame, n_documents: int
) -> None:
    planted = planted_documents(sequences, n_documents)
    texts = [text for text, _ in planted]
    asked = audit_settings(edits=0, near_length=0)  # the others change no span and no verdict
    record, spans, names = audit_texts(lm, reference, texts, asked)
    n_true = n_found = n_spanned = n_extra = n_recalled = n_planted = n_wrong = 0
    per_document = []
    for (text, places), name in zip(planted, names, strict=True):
        truth, trained = reproduced(lm, text), trained_of(places)
        rows = spans.filter(pl.col("document") == name)
        found = inside(rows.select("start", "end").iter_rows())
        n_true, n_found = n_true + len(truth), n_found + len(truth & found)
        n_spanned, n_extra = n_spanned + len(found), n_extra + len(found - truth)
        recalled = inside(rows.filter(verdict="recall").select("start", "end").iter_rows())
        n_recalled, n_planted = n_recalled + len(recalled), n_planted + len(recalled & trained)
        called = rows.filter(verdict="recall").select("start", "end").iter_rows()
        n_wrong += sum(not trained & {*range(start, end)} for start, end in called)
        per_document.append(len(truth & found) / max(len(truth), 1))
    print(f"planted: {len(texts)} documents, {record['summary']['characters']:,} characters")
    print(
        f"reproduced at every start: {n_true:,} characters; in a span: {n_found:,} = "
        f"{100 * n_found / n_true:.1f} % (worst document {100 * min(per_document):.1f} %)"
    )
    print(
        f"in a span: {n_spanned:,} characters, {n_extra:,} of them beyond what comes out "
        f"without any mistake ({100 * n_extra / n_spanned:.1f} %)"
    )
    print(
        f"called recalled: {n_recalled:,} characters, {n_planted:,} of them in trained passages "
        f"({100 * n_planted / n_recalled:.1f} %)"
    )
    print(
        f"spans: {spans.filter(verdict=RECALL).height} recall ({n_wrong} of them outside), "
        f"{spans.filter(verdict=GUESS).height} guess, of {spans.filter(verdict=UNDECIDED).height} "
        "it cannot be told"
    )


def measure_alarms(
    lm: LanguageModel, reference: LanguageModel, sequences: pl.DataFrame, n_documents: int
) -> None:
    generator = random.Random(1)
    new = [write_new(generator, 60) for _ in range(n_documents)]
    trained = sequences.filter((pl.col("duplicates") > 5) & (pl.col("form") == "plain"))
    shuffled = []
    for number in range(n_documents):
        words = " ".join(trained.sample(40, seed=number)["text"]).split()
        generator.shuffle(words)
        shuffled.append(" ".join(words))
    held = sequences.filter(pl.col("held_out") & (pl.col("form") == "plain"))
    apart = ["\n".join(held.sample(40, seed=number)["text"]) for number in range(n_documents)]
    for name, texts in (("grammar", new), ("shuffled", shuffled), ("held out", apart)):
        whole = audit_texts(lm, reference, texts, audit_settings())[0]["summary"]
        print(
            f"false alarms, {name}: {whole['recall_spans']} recall spans, "
            f"{whole['guess_spans']} guess spans, {whole['undecided_spans']} undecided, "
            f"in {whole['characters']:,} characters "
            f"({whole['windows']:,} windows, {whole['asked']} documents; "
            f"{whole['near_spans']} near copies); recalled "
            f"{Estimate(*(whole['recalled'][one] for one in ('share', 'low', 'high')))}"
        )


def write_documents(sequences: pl.DataFrame, n_documents: int, folder: Path) -> None:
    """Write planted documents and one of the grammar, to be audited from the command line."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (text, _) in enumerate(planted_documents(sequences, n_documents)):
        (folder / f"planted{number}.txt").write_text(text, encoding="utf-8")
    (folder / "new.txt").write_text(write_new(random.Random(1), 60), encoding="utf-8")


def share_drawn(parts: npt.ArrayLike, wholes: npt.ArrayLike, groups: npt.ArrayLike) -> Estimate:
    """A share drawn by group; of all or nothing the exact interval of so many groups."""
    found, n_groups = resampled_ratio(parts, wholes, groups), len(np.unique(groups))
    return clopper_pearson(found.value * n_groups, n_groups) if found.value in (0, 1) else found


def measure_speed(lm: LanguageModel, sequences: pl.DataFrame) -> None:
    """Windows of one document: the audit's way, batches without early stop, one at a time."""
    text = planted_documents(sequences, 2, seed=5)[0][0]
    tokens = tokenize(text, lm.tokenizer)
    settings = AuditSettings()
    windows = np.stack(
        [tokens.ids[one : one + 64] for one in coarse_starts(len(tokens.ids), settings)]
    )
    windows = windows[:192]
    ways: dict[str, Callable[[], list[Continued] | list[Continuations]]] = {
        "audit": lambda: list(continue_windows(lm, windows, prefix=32, n_allowed=3, batch_size=64)),
        "batched, to the end": lambda: list(continue_sequences(lm, windows, batch_size=64)),
        "one window a call": lambda: list(continue_sequences(lm, windows, batch_size=1)),
    }
    hits = {}
    for name, way in ways.items():
        seconds = []
        for _ in range(2):
            start = time.process_time()
            made = way()
            seconds.append(time.process_time() - start)
        hits[name] = np.concatenate([one.score for one in made]) >= settings.threshold
        print(f"speed, {name}: {min(seconds):.2f} CPU seconds for {len(windows)} windows")
    print(
        f"same hits: {all((one == hits['audit']).all() for one in hits.values())} "
        f"({int(hits['audit'].sum())})"
    )


def measure_profile(lm: LanguageModel, sequences: pl.DataFrame) -> None:
    """The chance by position: a file that was trained on, and sequences that were held out."""
    settings = ProfileSettings(profile=True)
    held = sequences.filter(pl.col("held_out") & (pl.col("form") == "plain"))
    trained = Path(difflib.__file__).read_text(encoding="utf-8")
    for name, text in (("difflib", trained), ("held out", "\n".join(held["text"].head(400)))):
        texts = cut_texts(ModelTokens(lm.tokenizer, lm.bos_id), [Document(name, text, "")])
        frame = profile_documents(lm, texts, settings)
        found = summarize_profile(frame, texts, settings)
        shares = ", ".join(f"{100 * one['share']:.1f}" for one in found["extractable"])
        largest = np.exp(frame["extraction_logprob"].to_numpy().max())
        print(
            f"profile, {name}, {len(text):,} characters, {frame.height:,} windows: largest chance "
            f"{largest:.3g}; {TRIES} tries bring out {shares} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=6)
    parser.add_argument("--only", choices=["finds", "alarms", "speed", "profile"])
    parser.add_argument("--write", type=Path, help="only write the documents there")
    wanted = parser.parse_args()
    sequences = pl.read_parquet(sequences_path())
    if wanted.write is not None:
        write_documents(sequences, wanted.documents, wanted.write)
        return
    lm = load_model(str(model_path()), device="cpu")
    reference = load_model(str(reference_path()), device="cpu")
    if wanted.only in (None, "finds"):
        measure_finds(lm, reference, sequences, wanted.documents)
    if wanted.only in (None, "alarms"):
        measure_alarms(lm, reference, sequences, wanted.documents)
    if wanted.only in (None, "speed"):
        measure_speed(lm, sequences)
    if wanted.only in (None, "profile"):
        measure_profile(lm, sequences)


if __name__ == "__main__":
    main()
