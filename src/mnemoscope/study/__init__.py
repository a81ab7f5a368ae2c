"""The folder that holds a study, its settings, and the models it names."""
