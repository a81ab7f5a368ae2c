"""The stages of a study, one thin module each: read the study, call a room, write the result."""
