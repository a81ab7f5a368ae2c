"""Turn windows of documents into requests to a service, and answers into pieces beside them."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from mnemoscope.audit.answers import Answer
from mnemoscope.audit.endpoint import Client, RefusedRequestError
from mnemoscope.audit.scan import coarse_starts
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.texts import Document
from mnemoscope.audit.words import Splitter
from mnemoscope.audit.written import Place, Written, lay_beside
from mnemoscope.errors import UserError

__all__ = ["Asker"]

_WORDS_FACTOR = 2  # tokens asked for each word; most words are one or two
_MORE = 4  # times as many where an answer was right and cut
_FINISH = 3  # tokens more where the last one ends inside a character: at most three bytes miss


class Asker:
    """Documents, how they are cut, and the service that is asked about them.

    Attributes:
        client: the service.
        splitter: cuts the documents.
        documents: the texts.
        tokens: their pieces.
        answers: all that were used, by their request.
        n_cut: answers that ended by their length before enough pieces were whole.
    """

    def __init__(
        self,
        client: Client,
        splitter: Splitter,
        documents: Sequence[Document],
        settings: AuditSettings,
    ) -> None:
        if client.settings.prompt_as == "tokens" and not splitter.is_model:
            raise UserError("--prompt-as tokens: without --tokenizer there are no tokens to send.")
        self.client, self.splitter, self.documents = client, splitter, documents
        self.tokens = [splitter.split(document.text) for document in documents]
        self._settings = settings
        self.answers: dict[str, Answer] = {}
        self.n_cut = 0

    def coarse_places(self) -> list[tuple[int, int]]:
        """Every stride-th start of every document.

        One whose prompt would end inside a character moves on to the next that does not.
        """
        found = []
        for number, tokens in enumerate(self.tokens):
            starts = coarse_starts(len(tokens.ids), self._settings)
            whole = {one for first in starts for one in self._next_whole(number, first, starts[-1])}
            found += [(number, first) for first in sorted(whole)]
        return found

    def is_whole(self, number: int, first: int) -> bool:
        """True where the prompt of a window ends between two characters."""
        tokens, begin = self.tokens[number], first + self._settings.prefix
        return bool(tokens.starts[begin] >= tokens.ends[begin - 1])

    def _next_whole(self, number: int, first: int, last: int) -> Iterable[int]:
        """The first start from here on whose prompt ends between two characters, if any."""
        return islice((one for one in range(first, last + 1) if self.is_whole(number, one)), 1)

    def request(self, place: tuple[int, int], n: int, factor: int = 1) -> Any:
        """The request for n pieces after the prompt of a window."""
        number, first = place
        tokens, begin = self.tokens[number], first + self._settings.prefix
        end = begin + n
        wanted = n * factor
        if not self.splitter.is_model:
            wanted *= _WORDS_FACTOR
        elif end < len(tokens.ids) and tokens.starts[end] < tokens.ends[end - 1]:
            wanted += _FINISH
        return self.client.body(self._prompt(number, first, begin), wanted)

    def _prompt(self, number: int, first: int, begin: int) -> list[int] | str:
        tokens = self.tokens[number]
        if self.client.settings.prompt_as == "text":
            return self.documents[number].text[
                int(tokens.starts[first]) : int(tokens.starts[begin])
            ]
        ids = [int(one) for one in tokens.ids[first:begin]]
        return ids if self.splitter.bos_id is None else [self.splitter.bos_id, *ids]

    def continue_at(
        self, places: Sequence[tuple[int, int]], lengths: Sequence[int], *, label: str
    ) -> list[Written]:
        """Ask for continuations.

        Args:
            places: number of the document and first piece of each window.
            lengths: pieces wanted after each prompt.
            label: what the progress is called.

        Returns:
            One a place.
        """
        asked = list(zip(places, lengths, strict=True))
        found = self._written(asked, [self.request(*one) for one in asked], label)
        # Right so far and cut by its length: ask again for more.
        again = [row for row, one in enumerate(found) if one.is_cut and _is_right(one)]
        if again:
            rows = [asked[row] for row in again]
            bodies = [self.request(*one, factor=_MORE) for one in rows]
            for row, one in zip(again, self._written(rows, bodies, label), strict=True):
                found[row] = one
        self.n_cut += sum(one.is_cut and _is_right(one) for one in found)
        return found

    @property
    def can_judge(self) -> bool:
        """True where a text can be sent as tokens, so that each has its log-probability."""
        service = self.client.settings
        return service.logprobs and service.prompt_as == "tokens"

    def judge(self, rows: Sequence[list[int]]) -> list[Answer] | None:
        """Ask for the log-probability of each token of texts, or find that it is not given.

        Args:
            rows: token ids, what precedes the text included.

        Returns:
            Answers whose `logprobs` begin with one entry a token; None where the service does not
            give them.
        """
        if not rows or not self.can_judge:
            return None
        bodies = [self.client.body(row, 1, echo=True) for row in rows]
        found: list[Answer] = []
        for some in (bodies[:1], bodies[1:]):  # one alone first: many services refuse
            try:
                found += self._ask(some, "evidence")
            except RefusedRequestError:
                return None
            if not all(map(_is_judged, found, rows)):
                return None
        return found

    def _ask(self, bodies: Sequence[Any], label: str) -> list[Answer]:
        found = self.client.ask(bodies, label=label)
        self.answers |= zip(map(self.client.name, bodies), found, strict=True)
        return found

    def _written(
        self, asked: Sequence[tuple[tuple[int, int], int]], bodies: Sequence[Any], label: str
    ) -> list[Written]:
        answers = self._ask(bodies, label)
        prefix = self._settings.prefix
        return [
            lay_beside(
                answer,
                self.splitter,
                self.documents[number].text,
                self.tokens[number],
                Place(first, first + prefix, first + prefix + n),
            )
            for ((number, first), n), answer in zip(asked, answers, strict=True)
        ]


def _is_right(one: Written) -> bool:
    """All that was written is right, and it is not all that was asked for."""
    n_written = sum(piece != "" for piece in one.pieces)
    return one.common == n_written < len(one.ids)


def _is_judged(answer: Answer, row: list[int]) -> bool:
    """One log-probability a token of the prompt, and one of what came after, which is not used."""
    values = answer.logprobs or []
    return len(values) in (len(row), len(row) + 1) and None not in values[1:]
