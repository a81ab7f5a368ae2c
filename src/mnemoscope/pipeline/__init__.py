"""The stages of a study, one module each: read the study, call a room, write the result."""
