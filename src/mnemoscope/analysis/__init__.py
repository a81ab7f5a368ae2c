"""The neighbouring analyses: what other works asked of memorization, one module each."""
