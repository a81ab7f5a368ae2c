"""The neighbouring analyses: what other works asked of memorization, one module each.

To add an analysis:

1. Write `analysis/NAME.py`. The docstring's first line says what it gives; then a line `Source:`
   with paper, arXiv number and section of the related work, and the command that runs it. It
   holds `Settings(AnalysisSettings)`, whose own fields have a default, a range and a description
   (`seed` and `published` are there already), and
   `analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult`. Its computing
   functions are public, take arrays and know nothing of a study: tests call them on planted
   truth. torch and transformers are imported inside functions.
2. Enter it in `registry.ENTRIES`: title, the question in one line, needs, source, and what
   `--published` computes otherwise where there is such a variant. A need that a study does not
   meet is refused before `analyse` is called; refuse what only the data shows (groups too small,
   a feature without variance) by `UserError`, one line with the remedy.
3. Give frames by name, figures as data (`figures.Chart`, `figures.HeatMap`), one sentence with
   the figure and its 95 % interval, and in `further` what was left out and what cannot be said.
   Everything drawn at random takes `settings.seed`.
4. Models come from `inputs.model()` and `inputs.other_models()`: what goes through them is
   counted. What is dear (decoding, hidden states) goes through `inputs.shelf(name, basis, make)`
   in blocks, so that a run that was stopped goes on where it was; the basis holds all that
   decides the frame (`decoding.model_basis`, `decoding.hash_ids`).
5. Storing, resuming, the report's section, `--list` and the errors of the command line come by
   themselves. Add the witness test in `tests/analysis/` and the page `docs/analyses/NAME.md`.
"""
