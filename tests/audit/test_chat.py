"""An audit in a chat template: recorded, repeated by verify, and none of plain text."""

import copy
from dataclasses import replace

import pytest

from mnemoscope.audit.documents import read_documents
from mnemoscope.audit.run import audit_documents
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.verify import read_audit, verify_audit
from mnemoscope.errors import UserError


@pytest.fixture(scope="module")
def chatty(lm):
    """The embedded model with a chat template of its own."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}\n"
    return replace(lm, tokenizer=tokenizer)


def test_an_audit_in_a_chat_is_recorded_and_holds(tmp_path, chatty, lm):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"Chapter {n}: board mode\n" for n in range(10, 60)))
    reading, out = read_documents([str(path)]), tmp_path / "out"
    settings = AuditSettings(chat_template=True, n_prefixes=0)
    audit_documents(chatty, reading, out, settings=settings)
    record, frame = read_audit(out)
    assert record["settings"]["chat_template"]
    assert record["settings"]["instruction"] == "Continue this text."
    assert frame.height
    assert frame["perplexity_without_prefix"].is_finite().all()
    found = verify_audit(out, lambda _: chatty)
    assert (found.problems, found.n_hold) == ([], frame.height)
    with pytest.raises(UserError, match="other documents, settings"):
        audit_documents(lm, reading, out, settings=AuditSettings(n_prefixes=0))
