"""How well a taxonomy matches attention, and how much of that the text alone explains."""
