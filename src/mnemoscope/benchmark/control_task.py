"""The control task: a taxonomy without meaning, made by permuting the labels.

A figure above what the same CNN reaches here is owed to the classes and not to the CNN's
capacity (Hewitt and Liang, arXiv 1909.03368). Labels are handed round among the memorized
sequences only: Non-Memo is told apart by other means and keeps its own.
"""

import numpy as np

__all__ = ["permute_labels"]


def permute_labels(
    sequence_ids: np.ndarray,
    labels: np.ndarray,
    splits: np.ndarray,
    *,
    seed: int,
    non_memo: int | None = 0,
) -> np.ndarray:
    """Give every memorized sequence the class of another one of its split.

    Within each split the classes keep their sizes, so the control is as balanced as the task.
    A sequence's label is fixed by its identity and the seed: the same sample in another row
    order gets the same labels, for every CNN setting and training seed. With a single
    memorized class there would be nothing to permute, so Non-Memo takes part then.

    Args:
        sequence_ids: identity of each sequence, shape (n,), without repeats.
        labels: class index of each, shape (n,), int64.
        splits: "train" or "eval" (or any other names) of each, shape (n,).
        seed: of the permutation.
        non_memo: index of the class Non-Memo; None where it was left out as too small.

    Returns:
        Class index of each in the control task, shape (n,), int64.

    Raises:
        ValueError: the three differ in length, or an id comes twice.
    """
    if not len(sequence_ids) == len(labels) == len(splits) == len(np.unique(sequence_ids)):
        raise ValueError(
            f"control task: {len(sequence_ids)} ids ({len(np.unique(sequence_ids))} of them "
            f"different), {len(labels)} labels, {len(splits)} splits; wanted one of each a sequence"
        )
    labels = np.asarray(labels, dtype=np.int64)
    is_memorized = labels != (-1 if non_memo is None else non_memo)
    has_several_memorized = len(np.unique(labels[is_memorized])) > 1
    takes_part = is_memorized if has_several_memorized else np.ones(len(labels), dtype=bool)
    generator = np.random.default_rng(seed)
    by_id = np.argsort(sequence_ids)
    permuted = labels.copy()
    for split in np.unique(splits):
        members = by_id[(takes_part & (splits == split))[by_id]]
        permuted[members] = generator.permutation(labels[members])
    return permuted
