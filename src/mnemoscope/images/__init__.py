"""What a text-to-image diffusion model gives back of the pictures that it was trained on.

`measures` are formulas on arrays, `model` asks a pipeline of `diffusers` for what they need,
`judge` weighs the figures against a control's, `run` goes through a table and writes the result.
"""
