"""The CNN: network, presets, training, prediction, metrics and their intervals."""
