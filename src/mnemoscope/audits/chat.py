"""A model that a service offers for chat alone: asked for a continuation, as a user would ask.

Nobody can make a chat go on with a document from its middle. It is asked to continue a text, and
its answer is searched for the place where the document begins: after "Sure! Here it is:", after the
text that was shown, or at once. From there on it is compared as any other answer.
"""

from difflib import SequenceMatcher
from typing import Any

from mnemoscope.audits.asking import Prompt
from mnemoscope.audits.client import Completion
from mnemoscope.audits.near import SHORTEST_BLOCK, align
from mnemoscope.audits.questions import Where
from mnemoscope.audits.service import ServedModel
from mnemoscope.audits.tokens import Splitter, Tokens

_FURTHER = 2
"""Times a window's suffix that an answer may be long, so that near copies cost no more requests."""

_PREAMBLE = 48  # tokens that a chat may say before it begins
_LEAST = 6  # pieces that must match for a beginning to be found inside an answer


class ChatModel(ServedModel):
    """A chat service; arguments as `ServedModel`."""

    kind: Where = "chat"
    is_chat = True

    def request(self, prompt: Prompt, factor: int = 1) -> Any:
        """The question for what is asked after a prompt, and for as much as near copies need."""
        n = max(prompt.end - prompt.begin, _FURTHER * self.settings.suffix)
        wanted = self._tokens_for(n * factor) + _PREAMBLE
        return self.client.body(f"{self.settings.instruction}\n\n{prompt.shown}", wanted)

    def begin(self, answer: Completion, prompt: Prompt) -> Completion:
        """The answer from where it goes on with the document."""
        return from_beginning(answer, self.splitter, prompt)


def from_beginning(answer: Completion, splitter: Splitter, prompt: Prompt) -> Completion:
    """The answer from where it goes on with the document, with the document's blanks before it.

    Log-probabilities stay only where that is its first word: those of a later place are of
    another question.
    """
    shown, text = prompt.shown, prompt.text.document.text
    then = text[int(prompt.tokens.starts[prompt.begin]) :]
    blanks = then[: len(then) - len(then.lstrip())]
    cut = _find_beginning(answer.text, splitter, shown, then[: _FURTHER * len(shown) + 200])
    rest = answer.text[cut:].lstrip()
    strings, is_first = answer.tokens, not answer.text[:cut].strip()
    values, tops = answer.logprobs, answer.alternatives
    if not is_first or not strings or not strings[0].strip():
        strings = values = tops = None
    else:
        strings = [blanks + strings[0].lstrip(), *strings[1:]]
    return answer._replace(
        text=blanks + rest, token_ids=None, tokens=strings, logprobs=values, alternatives=tops
    )


def _find_beginning(answer: str, splitter: Splitter, shown: str, then: str) -> int:
    """The character of an answer at which the document goes on; 0 where no place is found."""
    said, wanted = splitter.split(answer), splitter.split(then)
    words: dict[str, int] = {}

    def numbers(source: str, own: Tokens) -> list[int]:
        spans = zip(own.starts, own.ends, strict=True)
        return [words.setdefault(source[a:b].strip(), len(words)) for a, b in spans]

    others = numbers(answer, said)
    after = 0
    # It may repeat what it was shown: then it goes on behind the last of that.
    before = numbers(shown, splitter.split(shown))[-_FURTHER * _LEAST :]
    match = SequenceMatcher(None, before, others, autojunk=False).find_longest_match()
    if match.size >= _LEAST and match.a + match.size == len(before):
        after = match.b + match.size
    found = align(numbers(then, wanted), others[after:], gap=SHORTEST_BLOCK)
    best = max(found, key=lambda one: one.matched, default=None)
    if best is not None and best.matched >= _LEAST:
        after += max(best.other_first - best.first, 0)
    return int(said.starts[after]) if 0 < after < len(others) else 0
