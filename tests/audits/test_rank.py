"""Before decoding: prefixes that were trained on are the surest, and entropy is the closed form."""

import numpy as np
import polars as pl
import pytest
import torch

from mnemoscope.audits.documents import Document
from mnemoscope.audits.local import local_audit
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.rank import rank_windows, share_beyond
from mnemoscope.audits.scan import coarse_places
from mnemoscope.audits.tokens import cut


def test_entropy_is_that_of_the_softmax_over_a_prefix(lm, new_text):
    model = local_audit(lm, [Document("a", new_text(1, 60), "")], audit_settings(batch_size=4))
    rows = cut(model.texts, coarse_places(model), 32).astype(np.int64)
    with torch.inference_mode():
        logits = lm.model(torch.tensor(rows)).logits.double()
    wanted = torch.distributions.Categorical(logits=logits).entropy().mean(dim=1).numpy()
    # 1e-4: float32 in batches of another shape
    assert rank_windows(model).sort("start")["entropy"].to_list() == pytest.approx(wanted, abs=1e-4)


def test_the_surest_window_of_the_model_is_in_the_trained_passage(lm, reference, trained, new_text):
    text = f"{new_text(1, 60)}\n\n{trained[0]}\n\n{new_text(2, 60)}"
    start = text.index(trained[0])
    model = local_audit(lm, [Document("a", text, "")], audit_settings(), reference=reference)
    frame = rank_windows(model)
    assert frame["entropy"].is_sorted()
    assert frame["share"][-1] == 1
    first = frame.row(0, named=True)
    assert start - 60 < first["start"] < start + len(trained[0])
    assert first["entropy"] < first["reference_entropy"]
    assert first["text"] == text[first["suffix_start"] : first["end"]]
    plain = local_audit(lm, [Document("a", text, "")], audit_settings())
    assert rank_windows(plain)["reference_entropy"].null_count() == frame.height


def test_the_share_beyond_is_what_was_mixed_in():
    generator = np.random.default_rng(0)
    theirs = generator.normal(3, 0.3, 4000)
    ours = np.concatenate([generator.normal(3, 0.3, 3600), generator.normal(0.5, 0.1, 400)])
    # 0.02: the largest difference of two samples of 4,000 of one distribution is about 0.02
    assert share_beyond(ours, theirs) == pytest.approx(0.1, abs=0.02)
    assert share_beyond(theirs, theirs) == 0


def test_the_verb_ranks_and_audits_nothing(succeed, trained, tmp_path):
    (tmp_path / "a.txt").write_text(trained[0])
    out = tmp_path / "out"
    done = succeed("audit", "rank", "embedded", tmp_path / "a.txt", "-o", out, "-q")
    assert "read, none decoded." in done.out
    assert [one.name for one in out.iterdir()] == ["ranking.parquet"]
    assert pl.read_parquet(out / "ranking.parquet")["share"].is_sorted()
