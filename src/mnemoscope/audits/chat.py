"""A model that a service offers for chat alone: asked for a continuation, as a user would ask.

Nobody can make a chat go on with a document from its middle. It is asked to continue a text, and
its answer is searched for the place where the document begins: after "Sure! Here it is:", after the
text that was shown, or at once. From there on it is compared as any other answer.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from mnemoscope.audits.documents import Splitter, Tokens
from mnemoscope.audits.near import SHORTEST_BLOCK, align
from mnemoscope.audits.service import (
    AlignedAnswer,
    Answer,
    AskedPlace,
    ServedModel,
    align_answer,
    pieces_of_text,
)
from mnemoscope.audits.spans import Place

_FURTHER = 2
"""Times a window's suffix that an answer may be long, so that near copies cost no more requests."""

_PREAMBLE = 48  # tokens that a chat may say before it begins
_LEAST = 6  # pieces that must match for a beginning to be found inside an answer


class ChatModel(ServedModel):
    """A chat service; arguments as `ServedModel`."""

    is_chat = True

    def request(self, place: Place, n: int, factor: int = 1) -> Any:
        """The question for n pieces, and for as many as near copies need."""
        number, first = place
        tokens, begin = self.tokens[number], first + self.settings.prefix
        shown = self.documents[number].text[int(tokens.starts[first]) : int(tokens.starts[begin])]
        wanted = self.tokens_for(max(n, _FURTHER * self.settings.suffix) * factor) + _PREAMBLE
        return self.client.body(f"{self.settings.instruction}\n\n{shown}", wanted)

    def write_on(self, places: Sequence[Place], /) -> list[list[int]]:
        """What it wrote from the prefix of windows, from answers that are there."""
        suffix, written = self.settings.suffix, []
        answers = self.ask_all([self.request(place, suffix) for place in places], "Near copies")
        for (number, first), answer in zip(places, answers, strict=True):
            place = self._asked(number, first, suffix)
            text, tokens = self.documents[number].text, self.tokens[number]
            begun = from_beginning(answer, self.splitter, text, tokens, place)
            ids, _ = pieces_of_text(begun, self.splitter, text, tokens, place)
            written.append(ids[: _FURTHER * suffix])
        return written

    def compare(self, answer: Answer, number: int, place: AskedPlace) -> AlignedAnswer:
        """An answer beside the document, from where it begins to go on with it."""
        text, tokens = self.documents[number].text, self.tokens[number]
        begun = from_beginning(answer, self.splitter, text, tokens, place)
        return align_answer(begun, self.splitter, text, tokens, place)

    def _asked(self, number: int, first: int, n: int) -> AskedPlace:
        begin = first + self.settings.prefix
        return AskedPlace(first, begin, min(begin + n, len(self.tokens[number].ids)))


def from_beginning(
    answer: Answer, splitter: Splitter, text: str, tokens: Tokens, place: AskedPlace
) -> Answer:
    """The answer from where it goes on with the document, with the document's blanks before it.

    Log-probabilities stay only where that is its first word: those of a later place are of
    another question.
    """
    start = int(tokens.starts[place.begin])
    shown, then = text[int(tokens.starts[place.first]) : start], text[start:]
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
