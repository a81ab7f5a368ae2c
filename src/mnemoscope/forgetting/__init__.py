"""Is a text forgotten, or hidden? A model after unlearning, put under stress.

`texts` says which passages are asked, `stress` asks a model for them, `judge` weighs the answers
against those of a model that never read them, `run` goes through all of it and writes the result.
"""
