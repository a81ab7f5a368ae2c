"""What kind of memorization a sequence is: nodes, taxonomies, labels, balanced samples."""

PRASHANTH = "Non-Memo, Recite[5], Reconstruct, Recollect"
"""Recite, reconstruct, recollect: Prashanth et al. 2024, arXiv 2406.17746."""
SHIPPED = "Non-Memo, Recite[16], Reconstruct, Recollect"
"""The same, with duplicates that divide what the shipped model was taught (16 and 64 readings)."""
PAPER = "Non-Memo, Guess, Recall"
"""Guess or recall: arXiv 2508.02573."""
