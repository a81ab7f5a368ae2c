"""Memorization watched while a model trains, and over the checkpoints of one run."""
