"""Settings of the demo: the shipped model, two taxonomies, as sampled and matched by genre."""

from mnemoscope.config import PAPER_NAME, PRASHANTH_NAME, StudySettings, parse_settings

__all__ = ["demo_settings"]


def demo_settings(*, small: bool = False, thorough: bool = False) -> StudySettings:
    """The demo as a study like any other.

    Args:
        small: fewer sequences and no matched sample, for a quick check of an installation.
        thorough: all sequences, larger samples and three seeds instead of one, so that the
            intervals cover the CNNs' luck too.
    """
    n_train, n_eval = (120, 60) if small else (400, 200) if thorough else (240, 120)
    values: dict[str, object] = {
        "title": "mnemoscope demo: the embedded model",
        "sequences": {"limit": 2500 if small else None if thorough else 5000},
        "continue": {"scan": True},
        "label": {
            "taxonomies": [PRASHANTH_NAME, PAPER_NAME],
            "n_train": n_train,
            "n_eval": n_eval,
            "match": None if small else "genre",
        },
        "train": {"seeds": [0, 1, 2] if thorough else [0]},
    }
    return parse_settings(values, where="demo")
