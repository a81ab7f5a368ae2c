"""How much comes out from every prompt of a sequence: by tokens, by words, and as published."""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.progress import Progress

if TYPE_CHECKING:
    from mnemoscope.lm.language_model import LanguageModel

__all__ = [
    "Answer",
    "Prompt",
    "by_tokens",
    "by_words",
    "prompts_of",
    "published_answer",
    "words_in_common",
]

_SHORTEST_COPY = 5
_SHOWN_CHARACTERS = 32


class Prompt(NamedTuple):
    """A place in a sequence to ask from.

    Attributes:
        length: tokens of the prompt.
        start: its first token.
    """

    length: int
    start: int


class Answer(NamedTuple):
    """What one prompt of one sequence gives.

    Attributes:
        row: of the sequence.
        prompt: which.
        n_tokens: tokens of the sequence that come out after it.
        is_copied: they stand in the prompt already.
    """

    row: int
    prompt: Prompt
    n_tokens: int
    is_copied: bool


def prompts_of(
    n_tokens: int, lengths: Sequence[int], *, least: int, misses_last: bool = False
) -> list[Prompt]:
    """Give every prompt of a sequence after which `least` of its tokens are left.

    Args:
        n_tokens: tokens of the sequence.
        lengths: of prompts.
        least: tokens that must follow.
        misses_last: leave out the last start of each length, as the published range does.

    >>> prompts_of(12, [8], least=3)
    [Prompt(length=8, start=0), Prompt(length=8, start=1)]
    """
    return [
        Prompt(length, start)
        for length in sorted(lengths)
        for start in range(n_tokens - length - least + (0 if misses_last else 1))
    ]


def by_tokens(
    lm: "LanguageModel",
    table: npt.NDArray[np.integer[Any]],
    prompts: Sequence[Prompt],
    *,
    n_decoded: int,
    batch_size: int,
    progress: Progress,
) -> Iterator[Answer]:
    """Count right tokens in a row after each prompt, exactly.

    One teacher-forced forward a start serves prompts of every length: as long as every token is
    the model's own choice, it is what greedy decoding writes.

    Args:
        lm: the model.
        table: sequences, shape (n, T).
        prompts: of `prompts_of`.
        n_decoded: tokens asked for at most.
        batch_size: sequences a forward.
        progress: advanced by the sequences of every start.
    """
    from mnemoscope.lm.verbatim import is_copied, right_tokens, run_lengths

    for start in sorted({one.start for one in prompts}):
        lengths = [one.length for one in prompts if one.start == start]
        shown = table[:, start:]
        is_right = right_tokens(lm, shown, batch_size=batch_size, prefix=min(lengths))
        for length in lengths:
            asked = is_right[:, length - min(lengths) :][:, :n_decoded]
            for row, n in enumerate(run_lengths(asked).tolist()):
                prompt, written = shown[row, :length], shown[row, length : length + n]
                copied = is_copied(lm.tokenizer, prompt, written)
                yield Answer(row, Prompt(length, start), n, copied)
        progress.advance(len(table))


def by_words(
    lm: "LanguageModel",
    table: npt.NDArray[np.integer[Any]],
    prompts: Sequence[Prompt],
    *,
    n_decoded: int,
    batch_size: int,
    progress: Progress,
    published: bool = False,
) -> Iterator[Answer]:
    """Compare what is decoded after each prompt as text; arguments as `by_tokens`.

    Args:
        lm: the model.
        table: sequences, shape (n, T).
        prompts: of `prompts_of`.
        n_decoded: tokens decoded, as many as the model's positions allow.
        batch_size: sequences a forward.
        progress: advanced by the sequences of every prompt.
        published: with the quirks of the published script; prompts of one text then share an
            answer, the last one's.
    """
    from mnemoscope.lm.verbatim import is_copied

    tokenizer = lm.tokenizer
    by_text: dict[str, list[int]] = {}
    asked: list[tuple[int, Prompt, str]] = []
    for prompt in prompts:
        shown = table[:, prompt.start : prompt.start + prompt.length]
        written = _decode(lm, shown, n_decoded, batch_size)
        progress.advance(len(table))
        for row, ids in enumerate(written.tolist()):
            if published:
                text = tokenizer.decode(shown[row].tolist())
                by_text[text] = ids
                asked.append((row, prompt, text))
                continue
            label = table[row, prompt.start + prompt.length :][:n_decoded]
            n = words_in_common(tokenizer, ids, label)
            yield Answer(row, prompt, n, is_copied(tokenizer, shown[row], label[:n]))
    for row, prompt, text in asked:
        label = table[row, prompt.start + prompt.length :][:n_decoded].tolist()
        n, copied = published_answer(tokenizer, text, by_text[text], label)
        yield Answer(row, prompt, n, copied)


def words_in_common(tokenizer: Any, written: npt.ArrayLike, label: npt.ArrayLike) -> int:
    """Count the tokens of the true text whose words begin the written one.

    Args:
        tokenizer: gives the texts.
        written: token ids that the model wrote.
        label: token ids of the true text.
    """
    from mnemoscope.lm.verbatim import as_words

    text, ids = as_words(tokenizer, written), np.asarray(label)
    low, high = 0, len(ids)
    while low < high:  # what fits, fits for fewer tokens too
        middle = (low + high + 1) // 2
        if text.startswith(as_words(tokenizer, ids[:middle])):
            low = middle
        else:
            high = middle - 1
    return low


def published_answer(
    tokenizer: Any, prompt: str, written: Sequence[int], label: Sequence[int]
) -> tuple[int, bool]:
    """Give length and copy verdict as the published script does.

    The match is as many characters of the raw text, and one more, as the words have in common:
    punctuation and blanks, which the words lost, make it shorter than what came out.

    Args:
        tokenizer: decodes and counts.
        prompt: text of the prompt.
        written: token ids that the model wrote.
        label: token ids of the true text.
    """
    from mnemoscope.lm.verbatim import as_words

    theirs, own = (as_words(tokenizer, ids, ascii_only=True) for ids in (written, label))
    pairs = zip(theirs, own, strict=False)
    n_common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    match = tokenizer.decode(list(label))[: n_common + 1]
    n = len(tokenizer.encode(match, add_special_tokens=False))
    begins = tokenizer.decode(list(written))[:_SHOWN_CHARACTERS]
    return n, n > _SHORTEST_COPY and (match in prompt or begins in prompt)


def _decode(
    lm: "LanguageModel", shown: npt.NDArray[np.integer[Any]], n_decoded: int, batch_size: int
) -> npt.NDArray[np.int64]:
    from mnemoscope.lm.batching import check_tokens, run_batches
    from mnemoscope.lm.continuation import greedy_tokens

    if lm.max_positions is not None:
        n_decoded = min(n_decoded, lm.max_positions - len(lm.before) - shown.shape[1])
    batches = run_batches(
        lm,
        check_tokens(lm, shown),
        batch_size,
        lambda batch: greedy_tokens(lm, batch, n_decoded)[0].cpu().numpy(),
    )
    return np.concatenate(list(batches))
