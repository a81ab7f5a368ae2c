"""What kind of memorization a sequence is: nodes, taxonomies, labels, balanced samples."""

PRASHANTH = "Non-Memo, Recite[5], Reconstruct, Recollect"
"""Recite, reconstruct, recollect: Prashanth et al. 2024, arXiv 2406.17746."""
PAPER = "Non-Memo, Guess, Recall"
"""Guess or recall: arXiv 2508.02573."""
