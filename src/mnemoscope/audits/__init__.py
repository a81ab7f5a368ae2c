"""Audit documents: which passages a model repeats, guessed or recalled, with the evidence."""
