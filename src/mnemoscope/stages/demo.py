"""Settings of the demo: the shipped model, two taxonomies, as sampled and matched by genre."""

from mnemoscope.config import PAPER_NAME, PRASHANTH_NAME, StudySettings, parse_settings

__all__ = ["demo_settings"]


def demo_settings(*, small: bool = False) -> StudySettings:
    """The demo as a study like any other.

    Args:
        small: fewer sequences and no matched sample, for a quick check of an installation.
    """
    label: dict[str, object] = {
        "taxonomies": [PRASHANTH_NAME, PAPER_NAME],
        "n_train": 120 if small else 333,
        "n_eval": 60 if small else 167,
        "match": None if small else "genre",
    }
    values: dict[str, object] = {
        "title": "mnemoscope demo: the embedded model",
        "continue": {"scan": True},
        "label": label,
        "train": {"seeds": [0] if small else [0, 1]},
        "sequences": {"limit": 2500 if small else None},
    }
    return parse_settings(values, where="demo")
