"""The stages of a study, one module each: read the study, do the work, write the result."""
