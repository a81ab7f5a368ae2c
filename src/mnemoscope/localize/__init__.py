"""Where in the attention each class is decided: attribution, decisiveness maps, layer profile."""
