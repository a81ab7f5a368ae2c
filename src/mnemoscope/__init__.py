"""How a language model memorized what it repeats: guessed or recalled, and where in the attention."""

__version__ = "0.1.0"
