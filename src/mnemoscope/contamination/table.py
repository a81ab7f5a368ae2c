"""Items of a benchmark: a prompt and the answer that counts as right, read from a table."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.data.rows import read_rows
from mnemoscope.errors import UserError

COLUMNS = ("prompt", "answer", "id", "group", "choices", "variant_of")
"""Columns that are read: the first two are needed."""
_WORD = re.compile(r"\w+|[^\w\s]")
_MOST_BEFORE = 4  # words of context that the n-gram guess looks at


class Item(NamedTuple):
    """A question with its right answer.

    Attributes:
        key: names it in results; the row's number where the table has no `id`.
        group: items that are not independent share one, such as those of one source.
        choices: the answers that the prompt offers, if any.
        variant_of: the `key` of the item that this one is another form of (renamed, newer).
    """

    key: str
    prompt: str
    answer: str
    group: str
    choices: tuple[str, ...] = ()
    variant_of: str | None = None


def read_items(source: Any, columns: Mapping[str, str] | None = None) -> list[Item]:
    """Read the items of a table, a frame or a data set of the hub; `columns` are taken by paths.

    Without a column `group` each item is a group of its own, with its variants. Raises UserError: a
    missing column, a row without prompt or answer, an id that stands twice, a variant of no item or
    of a variant.
    """
    paths = dict(columns or {})
    if str(source).lower().endswith(".csv"):  # a CSV is read where a column is its text
        paths |= {"text": paths.get("prompt", "prompt")}
    rows = read_rows(source, paths, prefix=None)
    if rows is None:
        raise UserError(f"{source}: texts, where a table with prompt and answer is needed.")
    frame, where = rows.frame, rows.where
    missing = [one for one in COLUMNS[:2] if one not in frame.columns]
    if missing:
        raise UserError(
            f"{where}: no column '{missing[0]}' (there are {', '.join(frame.columns)}). Name it "
            f"with --column {missing[0]}=PATH."
        )
    if not frame.height:
        raise UserError(f"{where}: no items.")
    given = [one for one in COLUMNS if one in frame.columns]
    items = [
        _item(row, number, where)
        for number, row in enumerate(frame.select(given).iter_rows(named=True))
    ]
    _check_keys(items, where)
    return items


def _item(row: Mapping[str, Any], number: int, where: str) -> Item:
    texts = {}
    for name in COLUMNS[:2]:
        value = row[name]
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{where}, row {number}: no {name}. Give a text, or drop the row.")
        texts[name] = value
    key = str(number) if row.get("id") is None else str(row["id"])
    variant_of = None if row.get("variant_of") is None else str(row["variant_of"])
    choices = row.get("choices") or ()
    if isinstance(choices, str):
        raise UserError(f"{where}, row {number}: choices is one text. Give a list of texts.")
    group = row.get("group")
    return Item(
        key,
        **texts,
        group=str(group) if group is not None else f"item {variant_of or key}",
        choices=tuple(str(one) for one in choices),
        variant_of=variant_of,
    )


def _check_keys(items: Sequence[Item], where: str) -> None:
    (key, n), *_ = Counter(one.key for one in items).most_common(1)
    if n > 1:
        raise UserError(f"{where}: the id '{key}' stands {n} times. Give each item its own.")
    originals = {one.key for one in items if one.variant_of is None}
    for one in items:
        if one.variant_of is not None and one.variant_of not in originals:
            raise UserError(
                f"{where}: '{one.key}' is a variant of '{one.variant_of}', which is no item, or a "
                "variant itself. Name the first form in variant_of."
            )


def words_of(text: str) -> list[str]:
    """Words and signs of a text, in small letters: what is compared of an answer."""
    return _WORD.findall(text.casefold())


def stands_in(answer: Sequence[str], text: Sequence[str]) -> bool:
    """Whether the words of an answer stand in a text, one behind the other.

    >>> stands_in(words_of("Anna Berg"), words_of("by Anna Berg, 1911"))
    True
    """
    n = len(answer)
    return any(list(text[at : at + n]) == list(answer) for at in range(len(text) - n + 1))


class TextGuess(NamedTuple):
    """What the texts of the other items say of an answer, no model asked.

    Attributes:
        share: of the other items, those with the same answer.
        is_written: the likeliest words by the other items' n-grams, after this prompt, are the
            answer.
    """

    share: float
    is_written: bool


def guess_from_others(items: Sequence[Item]) -> list[TextGuess]:
    """Guess each answer from the prompts and answers of all items but its own and its variants.

    The n-grams reach back up to four words; where the longest context was never seen, a shorter
    one decides. Their guess is the most frequent next word, of equals the first in the alphabet.
    """
    families = [one.variant_of or one.key for one in items]
    texts = [(words_of(one.prompt), words_of(one.answer)) for one in items]
    following: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    own: dict[str, dict[tuple[str, ...], Counter[str]]] = {}
    for family, (before, answer) in zip(families, texts, strict=True):
        mine = own.setdefault(family, defaultdict(Counter))
        for context, word in _grams([*before, *answer]):
            following[context][word] += 1
            mine[context][word] += 1
    answers = Counter(tuple(answer) for _, answer in texts)
    of_family: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    sizes = Counter(families)
    for family, (_, answer) in zip(families, texts, strict=True):
        of_family[family][tuple(answer)] += 1
    found = []
    for family, (before, answer) in zip(families, texts, strict=True):
        others = len(items) - sizes[family]
        alike = answers[tuple(answer)] - of_family[family][tuple(answer)]
        written = _written(before, len(answer), following, own[family])
        found.append(TextGuess(alike / others if others else 0.0, written == answer))
    return found


def _grams(words: Sequence[str]) -> Iterable[tuple[tuple[str, ...], str]]:
    for at, word in enumerate(words):
        for n in range(1, min(_MOST_BEFORE, at) + 1):
            yield tuple(words[at - n : at]), word


def _written(
    before: Sequence[str],
    n_words: int,
    following: Mapping[tuple[str, ...], Counter[str]],
    own: Mapping[tuple[str, ...], Counter[str]],
) -> list[str]:
    """What n-grams write on, `own` counts left out; shorter where they know nothing."""
    text = list(before)
    for _ in range(n_words):
        for n in range(min(_MOST_BEFORE, len(text)), 0, -1):
            context = tuple(text[-n:])
            seen, mine = following.get(context, Counter()), own.get(context, Counter())
            left = [(-(k - mine[word]), word) for word, k in seen.items()]
            least = min(left, default=(0, ""))
            if least[0] < 0:
                text.append(least[1])
                break
        else:
            break
    return text[len(before) :]


def digest_of(items: Sequence[Item]) -> str:
    """SHA-256 of the items, in their order."""
    whole = hashlib.sha256()
    for one in items:
        whole.update(repr(tuple(one)).encode("utf-8", "backslashreplace"))
    return whole.hexdigest()


def frame_of_items(items: Sequence[Item]) -> pl.DataFrame:
    """The items as a table, one row each."""
    return pl.DataFrame(
        {
            "item": [one.key for one in items],
            "group": [one.group for one in items],
            "variant_of": [one.variant_of for one in items],
            "prompt": [one.prompt for one in items],
            "answer": [one.answer for one in items],
        },
        schema_overrides={"variant_of": pl.String},
    )
