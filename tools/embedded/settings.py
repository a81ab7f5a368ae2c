"""The numbers of the recipe: how much of what is written, trained and held out."""

from dataclasses import dataclass, field

Repeats = tuple[int, ...]
SIX_TO_TWELVE: Repeats = (6, 6, 6, 7, 7, 8, 8, 9, 10, 12)
THIRTEEN_TO_FORTY: Repeats = (13, 15, 17, 20, 24, 28, 34, 40)
FOUR_TO_FIVE: Repeats = (4, 5)


@dataclass(frozen=True)
class Share:
    """A part of the study: some sequences of one source, with how often each is trained on.

    Attributes:
        source: `prose`, `code` or a kind of form of `templates.py`.
        n: number of sequences.
        repeats: how often a sequence stands in one pass of phase 2, 0 where it is held out; the
            values take turns, so one that is written twice is twice as frequent.
    """

    source: str
    n: int
    repeats: Repeats


STUDY = (
    Share("prose", 600, SIX_TO_TWELVE),
    Share("prose", 150, THIRTEEN_TO_FORTY),
    Share("prose", 450, FOUR_TO_FIVE),
    Share("prose", 900, (0,)),
    Share("code", 1000, (3, 4, 4, 5, 5)),
    Share("code", 200, SIX_TO_TWELVE),
    Share("code", 900, (0,)),
    Share("counting", 1150, (3, 4, 5)),
    Share("counting", 180, SIX_TO_TWELVE),
    Share("counting", 650, (0,)),
    Share("periodic", 100, (3, 4)),
    Share("periodic", 600, (0,)),
    Share("record", 400, (1, 2)),
    Share("record", 220, SIX_TO_TWELVE),
    Share("record", 250, (0,)),
    Share("missed", 20, FOUR_TO_FIVE),
    Share("missed", 14, (0,)),
    Share("register", 300, (4, 5, 5)),
    Share("register", 120, SIX_TO_TWELVE),
    Share("register", 120, (0,)),
)


@dataclass(frozen=True)
class Setting:
    """Everything that decides the bytes of the result, the text on the machine aside.

    Its `repr` is what a build folder is known by.

    Attributes:
        name: shown on the card.
        seed: of the corpus, the weights and the order of rows.
        study: the parts of the study.
        vocabulary_size, hidden_size, n_layers, n_heads, feed_forward_size: of the network.
        first_epochs, first_text_rows, first_templates: phase 1, rows of an epoch.
        second_epochs, second_templates: phase 2, new templates of a pass.
        batch_size: rows of 64 tokens.
        peak_learning_rate: reached after `warmup_steps`, then a cosine down to 3 % of it.
        checkpoint_steps: a killed run continues from the last multiple of it.
        max_segments: take only the first so many segments of source text (None: all text).
        has_requirements: whether the card refuses a result that is not what shall ship.
    """

    name: str
    seed: int = 20250802
    study: tuple[Share, ...] = field(default=STUDY)
    vocabulary_size: int = 2048
    hidden_size: int = 256
    n_layers: int = 4
    n_heads: int = 8
    feed_forward_size: int = 1024
    first_epochs: int = 5
    first_text_rows: int = 21_800
    first_templates: int = 9_000
    second_epochs: int = 3
    second_templates: int = 3_000
    batch_size: int = 64
    peak_learning_rate: float = 2e-3
    warmup_steps: int = 150
    checkpoint_steps: int = 100
    max_segments: int | None = None
    has_requirements: bool = field(default=True, repr=False)


FULL = Setting("full")
TINY = Setting(
    "tiny",
    study=tuple(Share(share.source, max(2, share.n // 60), share.repeats) for share in STUDY),
    vocabulary_size=512,
    hidden_size=32,
    n_layers=2,
    n_heads=4,
    feed_forward_size=64,
    first_epochs=2,
    first_text_rows=200,
    first_templates=100,
    second_epochs=2,
    second_templates=50,
    batch_size=32,
    warmup_steps=5,
    checkpoint_steps=5,
    max_segments=1200,
    has_requirements=False,
)
SETTINGS = {"full": FULL, "tiny": TINY}
