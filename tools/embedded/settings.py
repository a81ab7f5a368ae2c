"""The numbers of the recipe: how much of what is written, trained and held out."""

from dataclasses import dataclass, field, replace

Rows = tuple[int, int, int, int]
"""Rows of natural text, of records, of refrains and of templates, each new."""
KINDS = ("prose", "code", "record")
"""Kinds of text within which everything else is dealt at random; templates stand apart."""
READS = (0, 1, 4, 16, 64)


@dataclass(frozen=True)
class Share:
    """A cell of the study: sequences of one kind and form, and how many of them are read how often.

    Attributes:
        kind: `prose`, `code`, `record` (tables of random words) or `template`.
        form: of the first three `plain` (the published Guess rule says no), `rule` (it says yes,
            as the text comes) or `refrain` (a stretch of such text again and again); of templates
            a kind of form of `templates.py`.
        numbers: sequences that training reads 0, 1, 4, 16 and 64 times (`READS`).
    """

    kind: str
    form: str
    numbers: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of sequences."""
        return sum(self.numbers)


STUDY = (
    *(Share(kind, "plain", (680, 200, 620, 460, 80)) for kind in KINDS),
    *(Share(kind, "rule", (130, 20, 40, 190, 40)) for kind in KINDS),
    *(Share(kind, "refrain", (800, 60, 120, 330, 80)) for kind in KINDS),
    Share("template", "counting", (350, 0, 60, 120, 0)),
    Share("template", "periodic", (250, 0, 40, 100, 0)),
)


def of_the_reference(study: tuple[Share, ...]) -> tuple[Share, ...]:
    """What the reference reads in place of the study: as much of each kind and form, as often.

    Python's prose has too little text that satisfies the rule for both: plain prose stands in.
    """
    read = [replace(share, numbers=(0, *share.numbers[1:])) for share in study]
    return tuple(
        replace(share, form="plain") if (share.kind, share.form) == ("prose", "rule") else share
        for share in read
    )


@dataclass(frozen=True)
class Setting:
    """Everything that decides the bytes of the result, the text on the machine aside.

    Its `repr` is what a build folder is known by.

    Attributes:
        name: shown on the card.
        seed: of the corpus.
        study: the parts of the study.
        vocabulary_size, hidden_size, n_layers, n_heads, feed_forward_size: of the network.
        copy_rows: phase 1 begins with so many rows of random tokens, repeated: they teach the
            network to copy, which natural text alone takes far longer to do.
        first_rows: then phase 1 reads so many new rows of each kind, in random order.
        second_rows: new rows that phase 2 reads beside the study, or what stands in its place.
        rotary: share of a head's dimensions that carry the position.
        training_seed: of the weights and the order of rows; the corpus is that of `seed`.
        batch_size: rows of 64 tokens a step, in phase 1.
        second_batch_size: likewise in phase 2.
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
    copy_rows: int = 20_000
    first_rows: Rows = (80_000, 8_000, 35_000, 17_000)
    second_rows: Rows = (4_000, 500, 10_000, 6_000)
    rotary: float = 1.0
    training_seed: int = field(default=0, repr=False)
    batch_size: int = 64
    second_batch_size: int = 32
    peak_learning_rate: float = 2e-3
    warmup_steps: int = 150
    checkpoint_steps: int = 100
    max_segments: int | None = None
    has_requirements: bool = field(default=True, repr=False)


FULL = Setting("full")
TINY = Setting(
    "tiny",
    study=tuple(
        Share(share.kind, share.form, (2, *(min(n, 1) for n in share.numbers[1:])))
        for share in STUDY
    ),
    vocabulary_size=512,
    hidden_size=32,
    n_layers=2,
    n_heads=4,
    feed_forward_size=64,
    copy_rows=64,
    first_rows=(300, 30, 120, 60),
    second_rows=(30, 5, 30, 20),
    batch_size=32,
    second_batch_size=16,
    warmup_steps=5,
    checkpoint_steps=5,
    max_segments=1200,
    has_requirements=False,
)
SETTINGS = {"full": FULL, "tiny": TINY}
