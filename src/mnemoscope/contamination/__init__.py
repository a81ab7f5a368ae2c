"""Is a benchmark hit memory, or predictable? Items with prompt and answer, put beside controls.

`table` reads the items, `ask` puts them to a model, `judge` weighs the answers against what needs
no memory, `run` goes through all of it and writes the result.
"""
