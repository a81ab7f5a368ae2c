"""A study's folder, its settings, and the models it names."""
