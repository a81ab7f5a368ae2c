"""The dry run of an audit: its time against a clock that counts, its folder as the audit's."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from mnemoscope.audits import dry_run
from mnemoscope.audits.documents import make_document
from mnemoscope.audits.dry_run import time_pieces
from mnemoscope.audits.local import LocalModel, local_audit
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.run import ask_questions, find_passages
from mnemoscope.audits.spans import coarse_starts
from mnemoscope.audits.tokens import cut_texts


def test_pieces_hold_every_window_of_the_documents_once(lm, new_text):
    settings = audit_settings(stride=4)
    texts = [make_document(str(n), new_text(n, n)) for n in (10, 60, 300, 500)]
    audit = local_audit(lm, texts, settings)
    asked = set()
    for piece in dry_run._pieces(audit.texts, settings):
        number, first = map(int, piece.name.split())
        starts = coarse_starts(len(piece.tokens.ids), settings)
        found = {(number, first + one) for one in starts}
        assert asked.isdisjoint(found)
        asked |= found
    assert asked == {
        (number, one)
        for number, text in enumerate(audit.texts)
        for one in coarse_starts(len(text.tokens.ids), settings)
    }


@contextmanager
def counted_clock(a_second):
    """A clock that counts the tokens the model is asked for, so many a second, and nothing else."""
    clock, asked = SimpleNamespace(now=0.0), LocalModel.continue_

    def counted(self, prompts, **options):
        clock.now += sum(one.end - one.begin for one in prompts) / a_second
        return asked(self, prompts, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalModel, "continue_", counted)
        patch.setattr(dry_run.time, "monotonic", lambda: clock.now)
        yield clock


@pytest.mark.whole
def test_near_copies_read_and_unread_are_in_the_time_of_a_dry_run(lm, new_text, trained):
    settings = audit_settings(read=True, unread="given below", edits=0)
    own = [make_document(str(n), new_text(n, 150) + trained[n] + new_text(9, 150)) for n in (0, 1)]
    audit = local_audit(lm, own, settings)
    audit.unread = cut_texts(audit.model.splitter, [make_document("u", new_text(5, 300))])
    texts = [*audit.texts, *audit.unread]
    n_windows = sum(len(coarse_starts(len(one.tokens.ids), settings)) for one in texts)
    with counted_clock(1000) as clock:
        found = time_pieces(audit)
        windows_alone, clock.now = n_windows * settings.suffix / 1000, 0.0
        find_passages(audit)
        ask_questions(audit)
    assert found.windows <= n_windows
    assert clock.now > 1.2 * windows_alone
    assert found.a_window * n_windows == pytest.approx(clock.now, rel=0.35)


def test_a_dry_run_measures_for_some_seconds_however_much_there_is(lm, new_text, trained):
    """Of many documents no more than of few, by the tokens that it asks for."""
    settings = audit_settings(edits=0, near_length=0, stride=4)
    asked = {}
    for n in (4, 24):
        texts = [new_text(k, 150) + trained[k % 4] + new_text(k + 99, 150) for k in range(n)]
        own = [make_document(str(k), text) for k, text in enumerate(texts)]
        with counted_clock(4000) as clock:
            found = time_pieces(audit := local_audit(lm, own, settings), enough=3)
        asked[n] = clock.now
        assert found.a_window > settings.suffix / 4000  # what follows is in it
    n_windows = sum(len(coarse_starts(len(one.tokens.ids), settings)) for one in audit.texts)
    assert max(asked.values()) < 6 < n_windows * settings.suffix / 4000 / 3


@pytest.mark.whole
def test_a_dry_run_refuses_the_folder_that_the_audit_would_and_leaves_none(
    call_light, succeed, tmp_path
):
    (text := tmp_path / "text.txt").write_text("The lamp on the hill. " * 40)
    asked = ["audit", "embedded", text]
    for out in ("/proc/x", text, text / "below"):
        dry, real = call_light([[*asked, "-o", out, *dry] for dry in (["--dry-run"], [])])
        assert (dry.status, dry.err) == (real.status, real.err)
        assert (dry.status, dry.err.count("\n"), "cannot be made" in dry.err) == (2, 1, True)
    said = succeed(*asked, "-o", tmp_path / "a" / "b", "--dry-run").out
    assert "; measured here on " in said
    assert [*tmp_path.iterdir()] == [text]
