"""How a language model memorized what it repeats: guessed or recalled, and where it shows."""

__version__ = "0.1.0"
