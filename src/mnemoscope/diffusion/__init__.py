"""What a text-to-image diffusion model gives back of the pictures that it was trained on.

`measures` are formulas and verdicts on arrays, `model` asks a pipeline of `diffusers` for what they
need, `run` goes through a table and writes the result, `page` shows it.
"""
